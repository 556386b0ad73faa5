"""From certificates and headers alone to the guilty: evidence that convicts, and evidence that frames nobody; links
over a change of the validator set; ancestry by headers; the age of a trusted checkpoint; frozen bytes.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import Canonical, Malformed, Wire, encode
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.finality import forensics, rules
from consensus.finality.ancestry import HeaderIndex, check_path
from consensus.finality.certificates import VERIFIED_MAX, LinkChecker
from consensus.finality.chain_links import initial_state
from consensus.finality.forensics import Extraction, Guilt, check_certificates, check_votes, extract
from consensus.finality.rules import SetChange, ValidatorSets
from consensus.finality.types import Checkpoint, FfgVote, FfgVoteSubject, Link, LinkCertificate, LinkGroup
from consensus.finality.weak_subjectivity import WeakSubjectivity
from consensus.signing import SigningDomain
from consensus.types import Block, bitmap_of
from consensus.validators import ValidatorSet
from netsim.histories.play import identifier
from tests.support.chain import Chain
from tests.support.committee import Committee, committee

INTERVAL = 2


def blocks_of(chain: Chain, count: int, *, views: int, below: tuple[Block, ...] = ()) -> tuple[Block, ...]:
    """``below``, and ``count`` blocks on it whose views begin at ``views``."""
    blocks = list(below)
    for view in range(views, views + count):
        justify = chain.qc(blocks[-1]) if blocks else chain.genesis
        blocks.append(chain.block(view, on=justify))
    return tuple(blocks)


def signed(members: Committee, link: Link, signer: int, info: EpochInfo | None = None) -> FfgVote:
    """A vote in the epoch of ``info``, where ``signer`` has its key of the committee."""
    epoch = members.epoch if info is None else info
    key = members.keys[signer]
    subject = FfgVoteSubject(epoch=epoch.epoch, source=link.source, target=link.target)
    index = epoch.validators.public_keys.index(key.public_key)
    signature = key.sign(epoch.domain.bytes_to_sign(subject))
    return FfgVote(epoch=epoch.epoch, source=link.source, target=link.target, signer=index, signature=signature)


def group(members: Committee, link: Link, signers: tuple[int, ...], info: EpochInfo | None = None) -> LinkGroup:
    votes = sorted((signed(members, link, signer, info) for signer in signers), key=lambda vote: vote.signer)
    signature = members.scheme.aggregate([vote.signature for vote in votes])
    assert signature is not None
    return LinkGroup(epoch=votes[0].epoch, signers=bitmap_of(tuple(vote.signer for vote in votes)), signature=signature)


def certificate(members: Committee, link: Link, signers: tuple[int, ...]) -> LinkCertificate:
    return LinkCertificate(source=link.source, target=link.target, groups=(group(members, link, signers),))


class Fork:
    """::

    0 - 1 - 2 - 3 - 4 - 5 - 6         left
             `- 3'- 4'- 5'- 6'- 7'- 8'  right
    """

    def __init__(self, members: Committee | None = None) -> None:
        self.members = committee(7) if members is None else members
        chain = Chain(self.members)
        self.root = Checkpoint(height=0, id=chain.genesis.block_id)
        trunk = blocks_of(chain, 2, views=1)
        self.left = blocks_of(chain, 4, views=3, below=trunk)
        self.right = blocks_of(chain, 6, views=20, below=trunk)
        self.index = HeaderIndex(self.root, [block.header for block in (*self.left, *self.right)])
        self.checker = LinkChecker((self.members.epoch,), self.members.scheme)

    def at(self, height: int, side: str = "left") -> Checkpoint:
        blocks = self.left if side == "left" else self.right
        return self.root if height == 0 else Checkpoint(height=height, id=blocks[height - 1].id)

    def certificate(self, source: int, target: int, side: str, signers: tuple[int, ...]) -> LinkCertificate:
        return certificate(self.members, Link(self.at(source, side), self.at(target, side)), signers)

    def extract(self, certificates: list[LinkCertificate]) -> Extraction | Refusal:
        return extract(
            root=self.root,
            interval=INTERVAL,
            sets=ValidatorSets(first=self.members.epoch.validators),
            signers=forensics.signers_of_certificates(certificates, self.checker),
            ancestry=self.index,
        )


# --- extraction ----------------------------------------------------------------------------------------------

HONEST_LEFT, HONEST_RIGHT, GUILTY = (0, 1), (2, 3), (4, 5, 6)
"""Seven of stake 1: quorum 5, F = 2, and 2Q - W = 3."""


def test_double_votes_name_whoever_signed_on_both_sides() -> None:
    fork = Fork()
    left, right = HONEST_LEFT + GUILTY, HONEST_RIGHT + GUILTY
    certificates = [
        fork.certificate(0, 2, "left", (0, 1, 2, 3, 4)),
        fork.certificate(2, 4, "left", left),
        fork.certificate(4, 6, "left", left),
        fork.certificate(2, 4, "right", right),
        fork.certificate(4, 6, "right", right),
    ]
    found = fork.extract(certificates)
    assert isinstance(found, Extraction)
    assert {found.first, found.second} == {fork.at(4), fork.at(4, "right")}
    keys = fork.members.epoch.validators.public_keys
    assert [guilt.public_key for guilt in found.guilty] == sorted(keys[signer] for signer in GUILTY)
    assert {guilt.offence for guilt in found.guilty} == {"double"}
    assert fork.extract(certificates[:-1]) == Refusal("extraction: these links finalize one chain; nobody is accused")


def test_surround_votes_name_whoever_jumped_over_the_finalizing_pair() -> None:
    fork = Fork()
    left, right = HONEST_LEFT + GUILTY, HONEST_RIGHT + GUILTY
    found = fork.extract(
        [
            fork.certificate(0, 2, "left", (0, 1, 2, 3, 4)),
            fork.certificate(2, 4, "left", left),
            fork.certificate(4, 6, "left", left),
            fork.certificate(2, 8, "right", right),
        ]
    )
    assert isinstance(found, Refusal), "justified is not final"
    fork.right = blocks_of(Chain(fork.members), 2, views=40, below=fork.right)
    for block in fork.right:
        fork.index.add(block.header)
    found = fork.extract(
        [
            fork.certificate(0, 2, "left", (0, 1, 2, 3, 4)),
            fork.certificate(2, 4, "left", left),
            fork.certificate(4, 6, "left", left),
            fork.certificate(2, 8, "right", right),
            fork.certificate(8, 10, "right", right),
        ]
    )
    assert isinstance(found, Extraction)
    assert len(found.guilty) == len(GUILTY)
    assert {guilt.offence for guilt in found.guilty} == {"surround"}
    assert {(guilt.first.source.height, guilt.second.source.height) for guilt in found.guilty} == {(4, 2)}


def test_a_certificate_that_does_not_verify_accuses_nobody() -> None:
    """The other side's history is forged: the aggregate of the left side under names of the right."""
    fork = Fork()
    left, right = HONEST_LEFT + GUILTY, HONEST_RIGHT + GUILTY
    true = [
        fork.certificate(0, 2, "left", (0, 1, 2, 3, 4)),
        fork.certificate(2, 4, "left", left),
        fork.certificate(4, 6, "left", left),
        fork.certificate(2, 4, "right", right),
    ]
    last = fork.certificate(4, 6, "right", right)
    forged = msgspec.structs.replace(last, groups=(msgspec.structs.replace(last.groups[0], signers=bitmap_of(left)),))
    assert isinstance(fork.extract([*true, forged]), Refusal)
    assert isinstance(fork.extract([*true, forged, last]), Extraction)


def test_without_the_headers_a_link_does_not_count() -> None:
    fork = Fork()
    everybody = HONEST_LEFT + HONEST_RIGHT + GUILTY
    links = [fork.certificate(0, 2, "left", everybody), fork.certificate(2, 4, "left", everybody)]
    signers = forensics.signers_of_certificates(links, fork.checker)
    sets = ValidatorSets(first=fork.members.epoch.validators)
    bare = HeaderIndex(fork.root)
    finality = rules.evaluate(root=fork.root, interval=INTERVAL, sets=sets, signers=signers, ancestry=bare)
    assert finality.highest_finalized == finality.highest_justified == fork.root
    known = rules.evaluate(root=fork.root, interval=INTERVAL, sets=sets, signers=signers, ancestry=fork.index)
    assert (known.highest_finalized, known.highest_justified) == (fork.at(2), fork.at(4))


# --- evidence pairs ------------------------------------------------------------------------------------------


def test_two_votes_prove_guilt_only_when_they_conflict_verify_and_are_of_one_signer() -> None:
    fork = Fork()
    one, two, three = (Link(fork.at(source), fork.at(target)) for source, target in ((0, 2), (0, 4), (2, 4)))
    first, second = signed(fork.members, two, 5), signed(fork.members, three, 5)
    guilt = check_votes(first, second, fork.checker)
    assert guilt == Guilt(
        public_key=fork.members.epoch.validators.public_keys[5], offence="double", first=two, second=three
    )
    framed = msgspec.structs.replace(second, signature=first.signature)
    for pair, reason in (
        ((first, first), "may cast both"),
        ((signed(fork.members, one, 5), second), "may cast both"),
        ((first, framed), "does not verify"),
        ((first, signed(fork.members, three, 4)), "two signers"),
        ((first, msgspec.structs.replace(second, epoch=9)), "does not verify"),
        ((first, msgspec.structs.replace(second, signer=99)), "does not verify"),
    ):
        refused = check_votes(*pair, fork.checker)
        assert isinstance(refused, Refusal)
        assert reason in refused.reason


def test_two_certificates_prove_the_guilt_of_their_common_signers() -> None:
    fork = Fork()
    one, two = fork.certificate(2, 4, "left", (1, 4, 5)), fork.certificate(2, 4, "right", (2, 4, 5))
    found = check_certificates(one, two, fork.checker)
    assert isinstance(found, tuple)
    keys = fork.members.epoch.validators.public_keys
    assert [guilt.public_key for guilt in found] == sorted((keys[4], keys[5])), "and no quorum is needed"
    apart = fork.certificate(2, 4, "right", (0, 2, 3))
    broken = msgspec.structs.replace(two, groups=(msgspec.structs.replace(two.groups[0], signers=b"\x33"),))
    for other, reason in (
        (apart, "nobody signed both"),
        (broken, "do not verify"),
        (fork.certificate(4, 6, "left", (4, 5)), "may sign both"),
    ):
        refused = check_certificates(one, other, fork.checker)
        assert isinstance(refused, Refusal)
        assert reason in refused.reason


def test_a_surround_lies_strictly_inside() -> None:
    outer = Link(line(2), line(8))
    assert rules.surrounds(outer, Link(line(4), line(6)))
    for source, target in ((2, 6), (4, 8), (2, 8), (4, 10), (0, 4), (6, 4), (0, 10)):
        assert not rules.surrounds(outer, Link(line(source), line(target)))


def test_certificates_of_impossible_form_are_refused() -> None:
    fork = Fork()
    good = fork.certificate(0, 2, "left", (0, 1, 2, 3, 4))
    (only,) = good.groups
    needed = (fork.members.epoch.validators,)
    assert fork.checker.check(good, needed) is None
    for change, reason in (
        ({"signers": b""}, "empty"),
        ({"signers": b"\x1f\x00"}, "canonical"),
        ({"signers": b"\x1f\x01"}, "unknown validator"),
        ({"signers": b"\x3f"}, "do not verify"),
        ({"epoch": 3}, "epoch 3 is unknown"),
        ({"signature": b""}, "do not verify"),
    ):
        bad = msgspec.structs.replace(good, groups=(msgspec.structs.replace(only, **change),))
        refused = fork.checker.check(bad, needed)
        assert isinstance(refused, Refusal)
        assert reason in refused.reason
    for bad, reason in (
        (msgspec.structs.replace(good, source=good.target), "not below"),
        (msgspec.structs.replace(good, groups=(only, only)), "do not ascend"),
        (fork.certificate(0, 2, "left", (0, 1, 2, 3)), "stake 4 is below the quorum of 5"),
    ):
        refused = fork.checker.check(bad, needed)
        assert isinstance(refused, Refusal)
        assert reason in refused.reason


def test_a_certificate_is_remembered_by_its_whole_content_and_memory_is_bounded() -> None:
    fork = Fork()
    good = fork.certificate(0, 2, "left", (0, 1, 2, 3, 4))
    assert fork.checker.check_signatures(good) is None
    moved = msgspec.structs.replace(good, target=fork.at(4))
    assert isinstance(fork.checker.check_signatures(moved), Refusal)
    for height in range(2 * VERIFIED_MAX):
        fork.checker.remember(msgspec.structs.replace(good, target=Checkpoint(height=height + 4, id=bytes(32))))
    assert isinstance(fork.checker.check_signatures(moved), Refusal)
    assert fork.checker.check_signatures(good) is None


# --- two sets over a boundary --------------------------------------------------------------------------------


def two_epochs() -> tuple[Committee, EpochInfo, ValidatorSet]:
    """Old: 0 to 3. New: 2 to 5, in another order. Each quorum is three of four."""
    members = committee(6)
    validators = members.spec.validators
    old, new = ValidatorSet(validators[:4]), ValidatorSet((*validators[4:], validators[3], validators[2]))
    domain = members.epoch.domain

    def info(epoch: int, members_of: ValidatorSet) -> EpochInfo:
        there = SigningDomain(
            chain_id=domain.chain_id,
            genesis_hash=domain.genesis_hash,
            epoch=epoch,
            validators_hash=members_of.hash,
        )
        return replace(members.epoch, epoch=epoch, validators=members_of, domain=there)

    first = replace(members, epoch=info(0, old))
    return first, info(1, new), new


def test_who_is_in_both_sets_signs_once_and_counts_in_both() -> None:
    members, later, new = two_epochs()
    old = members.epoch.validators
    checker = LinkChecker((members.epoch, later), members.scheme)
    link = Link(Checkpoint(height=4, id=identifier("4")), Checkpoint(height=6, id=identifier("6")))
    two = LinkCertificate(
        source=link.source,
        target=link.target,
        groups=(group(members, link, (1,)), group(members, link, (2, 3, 4), later)),
    )
    assert checker.check(two, (old, new)) is None, "old: 1, 2, 3; new: 2, 3, 4"
    alone = LinkCertificate(source=link.source, target=link.target, groups=(group(members, link, (2, 3, 4), later),))
    assert checker.check(alone, (new,)) is None
    assert checker.check(alone, (old, new)) == Refusal("link certificate: stake 2 is below the quorum of 3")
    twice = msgspec.structs.replace(two, groups=(group(members, link, (1, 2)), two.groups[1]))
    assert checker.check(twice, (old, new)) == Refusal("link certificate: one signer counted twice")


def test_a_vote_in_each_of_two_epochs_is_one_persons_offence() -> None:
    members, later, _ = two_epochs()
    checker = LinkChecker((members.epoch, later), members.scheme)
    root = Checkpoint(height=0, id=identifier("0"))
    links = [Link(root, Checkpoint(height=4, id=identifier(name))) for name in ("4", "4'")]
    first, second = signed(members, links[0], 3), signed(members, links[1], 3, later)
    assert first.signer != second.signer
    guilt = check_votes(first, second, checker)
    assert isinstance(guilt, Guilt)
    same = signed(members, links[0], 3, later)
    assert isinstance(check_votes(first, same, checker), Refusal), "the same link in two epochs is one vote"
    assert first.subject.slot == same.subject.slot, "and the guard gives them one slot"


class Line:
    """The ancestry of a chain without forks."""

    def descends(self, descendant: Checkpoint, ancestor: Checkpoint) -> bool:
        return ancestor.height <= descendant.height


def line(height: int) -> Checkpoint:
    return Checkpoint(height=height, id=identifier(str(height)))


@pytest.mark.parametrize(
    ("held", "needs"),
    [
        ({}, "both"),
        ({(0, 2): "old", (2, 4): "old"}, "both"),
        ({(0, 2): "old", (2, 4): "old", (4, 6): "both"}, "new"),
        ({(0, 2): "old", (2, 4): "old", (4, 6): "old"}, "both"),
        ({(0, 2): "old", (2, 6): "both"}, "both"),
        ({(0, 2): "old", (2, 6): "both", (6, 8): "new"}, "both"),
        ({(0, 2): "old", (2, 6): "both", (6, 8): "both"}, "new"),
        ({(0, 4): "old", (4, 6): "new", (4, 8): "both"}, "both"),
        ({(0, 4): "old", (4, 6): "both", (4, 8): "both"}, "new"),
    ],
    ids=lambda value: str(value),
)
def test_only_a_checkpoint_that_both_sets_finalized_hands_over(held: dict[tuple[int, int], str], needs: str) -> None:
    """The boundary is block 4, itself a checkpoint of the old set. What a link from 8 to 10 needs, given who signed
    the links before."""
    members, _, new = two_epochs()
    old = members.epoch.validators
    keys = {
        "old": frozenset(old.public_keys[:3]),
        "new": frozenset(new.public_keys[:3]),
        "both": frozenset((*old.public_keys, *new.public_keys)),
    }
    change = SetChange(boundary=line(4), new=new)
    sets = ValidatorSets(first=old, changes=(change,))
    signers = {Link(line(source), line(target)): keys[who] for (source, target), who in held.items()}
    finality = rules.evaluate(root=line(0), interval=INTERVAL, sets=sets, signers=signers, ancestry=Line())
    by_both = {change.boundary: rules.hands_over(change, finality, Line())}
    expected = {"both": (old, new), "new": (new,)}[needs]
    assert rules.needed_sets(Link(line(8), line(10)), sets, by_both, Line()) == expected
    assert rules.needed_sets(Link(line(0), line(2)), sets, by_both, Line()) == (old,)
    if needs == "new":
        assert rules.needed_sets(Link(line(0), line(10)), sets, by_both, Line()) == (old, new), "from below, both"


# --- ancestry ------------------------------------------------------------------------------------------------


def test_headers_prove_ancestry_and_nothing_else_does() -> None:
    fork = Fork()
    headers = [block.header for block in fork.left]
    assert check_path(fork.root, fork.at(4), headers[:4]) is None
    assert check_path(fork.at(2), fork.at(6), headers[2:6]) is None
    right = [block.header for block in fork.right]
    for source, target, path in (
        (fork.root, fork.at(4), headers[:3]),
        (fork.root, fork.at(4), headers[1:4]),
        (fork.root, fork.at(4), []),
        (fork.root, fork.at(4, "right"), headers[:4]),
        (fork.at(4), fork.at(6, "right"), right[4:6]),
        (Checkpoint(height=1, id=fork.root.id), fork.at(4), headers[:4]),
    ):
        assert isinstance(check_path(source, target, path), Refusal)


def test_the_index_knows_branches_and_refuses_false_heights() -> None:
    fork = Fork()
    assert fork.index.descends(fork.at(6, "right"), fork.at(2))
    assert fork.index.descends(fork.at(4), fork.at(4))
    assert fork.index.descends(fork.at(4), fork.root)
    for descendant, ancestor in (
        (fork.at(6, "right"), fork.at(4)),
        (fork.at(2), fork.at(4)),
        (Checkpoint(height=8, id=fork.at(6).id), fork.at(2)),
        (fork.at(6), Checkpoint(height=3, id=fork.at(2).id)),
        (Checkpoint(height=8, id=fork.at(6).id), Checkpoint(height=4, id=fork.at(2).id)),
        (Checkpoint(height=4, id=bytes(32)), fork.root),
    ):
        assert not fork.index.descends(descendant, ancestor)


def test_the_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = Fork()
    monkeypatch.setattr("consensus.finality.ancestry.HEADERS_MAX", 3)
    with pytest.raises(ValueError, match="more than 3 headers"):
        HeaderIndex(fork.root, [block.header for block in fork.left])


# --- weak subjectivity ---------------------------------------------------------------------------------------


def test_the_durations_must_protect_a_joiner() -> None:
    day = 86_400_000
    terms = WeakSubjectivity(
        period_ms=7 * day, reporting_delay_ms=day, evidence_age_max_ms=8 * day, unbonding_period_ms=8 * day
    )
    for field in ("period_ms", "reporting_delay_ms"):
        with pytest.raises(ValueError, match="evidence_age_max_ms: must be at least"):
            replace(terms, **{field: getattr(terms, field) + 1})
    with pytest.raises(ValueError, match="unbonding_period_ms: must be at least"):
        replace(terms, unbonding_period_ms=8 * day - 1)
    with pytest.raises(ValueError, match="reporting_delay_ms: must be at least 1"):
        replace(terms, reporting_delay_ms=0)


def test_a_joiner_starts_from_a_checkpoint_young_enough() -> None:
    terms = WeakSubjectivity(period_ms=10, reporting_delay_ms=1, evidence_age_max_ms=11, unbonding_period_ms=11)
    assert terms.check_start(100, 110) is None
    assert terms.check_start(100, 90) is None, "ahead of our clock"
    refused = terms.check_start(100, 111)
    assert refused == Refusal(
        "trusted checkpoint: 11 ms old, more than the 10 ms of weak subjectivity; "
        "take a newer one from someone you trust"
    )


# --- bytes ---------------------------------------------------------------------------------------------------

CHECKPOINTS = st.builds(Checkpoint, height=st.integers(0, 2**63 - 1), id=st.binary(min_size=32, max_size=32))
GROUPS = st.builds(
    LinkGroup,
    epoch=st.integers(0, 2**63 - 1),
    signers=st.binary(max_size=128),
    signature=st.binary(max_size=96),
)
VALUES = st.one_of(
    st.builds(
        FfgVote,
        epoch=st.integers(0, 2**63 - 1),
        source=CHECKPOINTS,
        target=CHECKPOINTS,
        signer=st.integers(0, 1023),
        signature=st.binary(max_size=96),
    ),
    st.builds(FfgVoteSubject, epoch=st.integers(0, 2**63 - 1), source=CHECKPOINTS, target=CHECKPOINTS),
    st.builds(
        LinkCertificate,
        source=CHECKPOINTS,
        target=CHECKPOINTS,
        groups=st.lists(GROUPS, min_size=1, max_size=2).map(tuple),
    ),
)


@given(VALUES)
def test_what_is_encoded_decodes_to_itself(value: msgspec.Struct) -> None:
    assert Canonical(type(value)).decode(encode(value)) == value


@given(VALUES, st.data())
def test_no_changed_byte_decodes_to_the_same_value(value: msgspec.Struct, data: st.DataObject) -> None:
    good = encode(value)
    position = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[position] ^= data.draw(st.integers(1, 255))
    decoded = Canonical(type(value)).decode(bytes(changed))
    assert isinstance(decoded, Malformed) or decoded != value


def test_the_bytes_have_not_changed() -> None:
    """What is signed, sent and kept; see test_wire_vectors.py for what a change means."""
    source, target = Checkpoint(height=300, id=b"\x01" * 32), Checkpoint(height=70_000, id=b"\x02" * 32)
    vote = FfgVote(epoch=0, source=source, target=target, signer=3, signature=b"\x03" * 4)
    pair = "92cd012cc420" + "01" * 32 + "92ce00011170c420" + "02" * 32
    assert Wire((FfgVote,)).encode(vote).hex() == "01961800" + pair + "03c40403030303"
    assert encode(vote.subject).hex() == "941800" + pair
    members = committee(4, scheme="ed25519")
    assert members.epoch.domain.bytes_to_sign(vote.subject).startswith(
        b"\x95\xb4shared-sequencer/ffg\xaatest-chain\xc4 "
    )
    held = LinkCertificate(
        source=source, target=target, groups=(LinkGroup(epoch=0, signers=b"\x0b", signature=b"\x04" * 4),)
    )
    assert encode(held).hex() == "93" + pair + "919300c4010bc40404040404"
    assert encode(initial_state(source)).hex() == (
        "99cd012cc420" + "01" * 32 + "91" + pair[:76] + "91cd012c" + "90" + pair[:76] * 2 + "92" + "00cd012c" + "90"
    )
