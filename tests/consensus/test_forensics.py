"""Extraction from two histories, on one split by hand::

    genesis <- b0(1) <- b1(2) <- b2(3)      votes of 0, 1 and 2: three chains commit b0
            <- x(4)  <- y(5)  <- z(6)       votes of 0, 1 and 3: x is committed too

Voting for b2 locked b0; x stands on genesis. (What every protocol's splits look like is in netsim's tests.)
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from consensus.certificates import QuorumChecker
from consensus.codec import digest, encode
from consensus.engine import Refusal
from consensus.evidence import Guilt, decode_evidence, encode_evidence, verify
from consensus.forensics import Extraction, History, extract
from consensus.protocols.chained_types import TimeoutCertificate, TimeoutGroup, TimeoutSubject
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.registry import protocol_named
from consensus.protocols.timeout_certificates import TimeoutCertifier
from consensus.types import BlockHeader, Certificate, CommitProof, VoteSubject, bitmap_of
from tests.support.chain import Chain
from tests.support.committee import Committee, committee

change = msgspec.structs.replace


@pytest.fixture(scope="module")
def members() -> Committee:
    return committee(4, protocol="hotstuff", scheme="ed25519")


def certify(members: Committee, header: BlockHeader, signers: tuple[int, ...]) -> Certificate:
    subject = VoteSubject(
        kind="vote", epoch=0, view=header.view, block_id=digest(header), height=header.height,
        justify_view=header.justify.view,
    )  # fmt: skip
    signature = members.scheme.aggregate([members.sign(signer, subject) for signer in signers])
    assert signature is not None
    return Certificate(
        **{name: getattr(subject, name) for name in subject.__struct_fields__},
        signers=bitmap_of(signers), signature=signature,
    )  # fmt: skip


def branch(members: Committee, views: tuple[int, ...], signers: tuple[int, ...]) -> History:
    """A chain from genesis at these views, whose first block is committed."""
    found: list[BlockHeader] = []
    justify = members.epoch.genesis
    for view in views:
        header = BlockHeader(
            chain=members.epoch.chain, epoch=0, view=view, height=justify.height + 1, parent=justify.block_id,
            justify=justify, entry_proof_hash=b"", payload_root=bytes(32), payload_size=0, next_validators_hash=b"",
            timestamp_ms=2_000 + view, proposer=view % 4,
        )  # fmt: skip
        found.append(header)
        justify = certify(members, header, signers)
    return History(headers=(found[0],), proof=CommitProof(epoch=0, headers=tuple(found[1:]), certificate=justify))


def extracted(members: Committee, first: History, second: History) -> Extraction | Refusal:
    definition = protocol_named(members.spec.protocol)
    engine = definition.engine(spec=members.spec, epoch=members.epoch, scheme=members.scheme, me=None)
    return extract(first, second, (), epoch=members.epoch, definition=definition, scheme=members.scheme, engine=engine)


@pytest.fixture(scope="module")
def left(members: Committee) -> History:
    return branch(members, (1, 2, 3), (0, 1, 2))


@pytest.fixture(scope="module")
def right(members: Committee) -> History:
    return branch(members, (4, 5, 6), (0, 1, 3))


def test_who_voted_below_the_lock_is_named(members: Committee, left: History, right: History) -> None:
    for pair in ((left, right), (right, left)):
        found = extracted(members, *pair)
        assert isinstance(found, Extraction)
        assert (found.height, found.guilty, found.stake, found.stake_expected) == (1, (0, 1), 2, 2)
        assert found.is_complete
        for evidence in found.evidence:
            assert evidence.offence == "vote-below-lock"
            guilt = verify(evidence, members.epoch, protocol_named("hotstuff"), members.scheme)
            assert isinstance(guilt, Guilt)
            assert guilt.signers == (0, 1)
        assert {found.first, found.second} == {digest(left.headers[0]), digest(right.headers[0])}


def test_two_certificates_of_one_view_are_enough(members: Committee, left: History) -> None:
    rival = branch(members, (1, 4, 5, 6), (0, 1, 3))
    rival = replace(rival, headers=(msgspec.structs.replace(rival.headers[0], timestamp_ms=1_500),))
    assert isinstance(extracted(members, left, rival), Refusal)  # its children name another
    other = branch(members, (2, 3, 4), (1, 2, 3))
    found = extracted(members, left, other)
    assert isinstance(found, Extraction)
    assert {evidence.offence for evidence in found.evidence} == {"equivocation"}
    assert found.guilty == (1, 2)


def given_up(members: Committee, view: int, high_qc_view: int, signers: tuple[int, ...]) -> TimeoutGroup:
    subject = TimeoutSubject(epoch=0, view=view, high_qc_view=high_qc_view)
    signature = members.scheme.aggregate([members.sign(signer, subject) for signer in signers])
    assert signature is not None
    return TimeoutGroup(high_qc_view=high_qc_view, signers=bitmap_of(signers), signature=signature)


def shifted(members: Committee, first: TimeoutGroup, second: TimeoutGroup) -> tuple[TimeoutGroup, TimeoutGroup]:
    """What anybody can make of two groups: their sum is the same, and neither verifies alone."""
    point = members.keys[2].sign(b"any point will do")
    moved = [
        members.scheme.aggregate([group.signature, by])
        for group, by in ((first, point), (second, bytes([point[0] ^ 0x20]) + point[1:]))
    ]
    assert moved[0] is not None
    assert moved[1] is not None
    return change(first, signature=moved[0]), change(second, signature=moved[1])


def test_groups_that_verify_together_convict_together() -> None:
    """::

        b0(1) <- b1(2) <- b2(3)     votes of 0, 1 and 2: b1 is committed
              <- x(4)  <- y(5)      votes of 0, 1 and 3, by a certificate that 0, 1 and 3 gave up view 3 with less

    Whoever passed that certificate on has shifted its groups against each other.
    """
    members = committee(4, protocol="jolteon", scheme="bls")
    chain = Chain(members)
    b0 = chain.block(1)
    b1 = chain.block(2, on=b0)
    b2 = chain.block(3, on=b1)
    groups = shifted(members, given_up(members, 3, 0, (0, 3)), given_up(members, 3, 1, (1,)))
    tc = TimeoutCertificate(epoch=0, view=3, high_qc=chain.qc(b0), groups=groups)
    rules = protocol_named("jolteon")
    assert (
        TimeoutCertifier(members.epoch, QuorumChecker(members.epoch, members.scheme, ("vote",)), Jolteon()).check(tc)
        is None
    )  # an honest replica accepts it, and keeps it
    x = chain.block(4, on=chain.qc(b0), tc=tc)
    y = chain.block(5, on=chain.qc(x, (0, 1, 3)))
    left = History(headers=(b1.header,), proof=CommitProof(epoch=0, headers=(b2.header,), certificate=chain.qc(b2)))
    right = History(
        headers=(x.header,), proof=CommitProof(epoch=0, headers=(y.header,), certificate=chain.qc(y, (0, 1, 3)))
    )
    engine = rules.engine(spec=members.spec, epoch=members.epoch, scheme=members.scheme, me=None)
    found = extract(
        left, right, (encode(tc),), epoch=members.epoch, definition=rules, scheme=members.scheme, engine=engine
    )
    assert isinstance(found, Extraction)
    assert found.guilty == (0, 1)
    for evidence in found.evidence:
        assert decode_evidence(encode_evidence(evidence)) == evidence
        assert isinstance(verify(evidence, members.epoch, rules, members.scheme), Guilt)
        assert not evidence.first.beside
        (beside,) = evidence.second.beside
        for wrong in (
            (),
            (beside, beside),
            (change(beside, signers=evidence.second.signers),),
            (change(beside, signers=bitmap_of((7,))),),
            (change(beside, signers=b""),),
            (change(beside, subject=evidence.second.subject),),
            (change(beside, subject=b"none"),),
        ):
            false = change(evidence, second=change(evidence.second, beside=wrong))
            assert isinstance(verify(false, members.epoch, rules, members.scheme), Refusal), wrong


def test_what_is_no_split_accuses_nobody(members: Committee, left: History, right: History) -> None:
    higher = History(headers=(left.proof.headers[0],), proof=right.proof)
    assert isinstance(extracted(members, left, left), Refusal)
    assert isinstance(extracted(members, left, History(headers=(), proof=right.proof)), Refusal)
    assert isinstance(extracted(members, left, higher), Refusal)
    unlinked = History(headers=(left.headers[0], *right.headers), proof=right.proof)
    refusal = extracted(members, left, unlinked)
    assert refusal == Refusal("extraction: a history's headers do not follow from each other")
    thin = certify(members, right.proof.headers[-1], (0, 1))
    unproven = replace(right, proof=msgspec.structs.replace(right.proof, certificate=thin))
    refusal = extracted(members, left, unproven)
    assert isinstance(refusal, Refusal)
    assert "below the quorum" in refusal.reason


def test_a_child_of_one_side_is_no_other_side(members: Committee) -> None:
    """Committed twice, at two heights of one chain."""
    long = branch(members, (1, 2, 3, 4), (0, 1, 2))
    first, second, *rest = (*long.headers, *long.proof.headers)
    low = History(headers=(first,), proof=msgspec.structs.replace(long.proof, headers=(second, *rest)))
    high = History(headers=(second,), proof=msgspec.structs.replace(long.proof, headers=tuple(rest)))
    assert extracted(members, low, high) == Refusal("extraction: the histories do not split here")


def test_a_header_with_a_forged_certificate_frames_nobody(members: Committee, left: History) -> None:
    """A quorum of liars certifies a block whose header shows a certificate that honest 2 never signed."""
    forged = msgspec.structs.replace(
        certify(members, left.headers[0], (0, 1, 3)), block_id=b"f" * 32, signers=bitmap_of((0, 1, 2))
    )
    base = branch(members, (4, 5, 6), (0, 1, 3))
    ground = msgspec.structs.replace(base.headers[0], justify=forged)
    found: list[BlockHeader] = [ground]
    for view in (5, 6):
        justify = certify(members, found[-1], (0, 1, 3))
        below = found[-1]
        found.append(
            msgspec.structs.replace(
                ground, view=view, height=below.height + 1, parent=digest(below), justify=justify, timestamp_ms=3_000
            )
        )
    proof = CommitProof(epoch=0, headers=tuple(found[1:]), certificate=certify(members, found[-1], (0, 1, 3)))
    result = extracted(members, left, History(headers=(ground,), proof=proof))
    assert isinstance(result, Extraction)
    assert 2 not in result.guilty
