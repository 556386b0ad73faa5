"""Evidence: what each protocol's pairs prove, what they do not, and how evidence is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import Malformed, digest, encode
from consensus.engine import Refusal, ReportEvidence
from consensus.epochs import EpochInfo
from consensus.evidence import (
    EVIDENCE_SIZE_MAX,
    Evidence,
    Guilt,
    SignedGroup,
    decode_evidence,
    encode_evidence,
    evidence_digest,
    evidence_from,
    evidence_of_report,
    offences_of,
    verify,
)
from consensus.offences import Signed
from consensus.protocols.chained_types import TimeoutSubject
from consensus.protocols.registry import protocol_named
from consensus.protocols.tendermint_types import view_at
from consensus.types import (
    NIL_BLOCK,
    BlockHeader,
    Certificate,
    ProposalSubject,
    Subject,
    VoteSubject,
    bitmap_of,
    vote_of,
)
from tests.support.committee import Committee, committee
from tests.support.headers import headers_at

A, B = b"a" * 32, b"b" * 32
SCHEMES: Final = ("simulated", "ed25519", "bls")


def vote(view: int, block_id: bytes = A, *, justify: int = 0, kind: str = "vote", height: int = 1) -> VoteSubject:
    if block_id == NIL_BLOCK:
        height = justify = 0
    return VoteSubject(kind=kind, epoch=0, view=view, block_id=block_id, height=height, justify_view=justify)


def proposal(view: int, block_id: bytes) -> ProposalSubject:
    return ProposalSubject(epoch=0, view=view, block_id=block_id)


def timeout(view: int, high: int | None) -> TimeoutSubject:
    return TimeoutSubject(epoch=0, view=view, high_qc_view=high)


def at(round_: int) -> int:
    return view_at(3, round_)


def prevote(round_: int, block_id: bytes, valid: int, height: int = 3) -> VoteSubject:
    return vote(view_at(height, round_), block_id, justify=valid, kind="prevote", height=height)


def precommit(round_: int, block_id: bytes = A) -> VoteSubject:
    return vote(at(round_), block_id, justify=view_at(2, 0), kind="precommit", height=3)


def chain(members: Committee, views: Sequence[int]) -> list[BlockHeader]:
    """Headers that stand on each other, at these views; nothing in them is signed."""
    return headers_at(
        members,
        views,
        lambda header: Certificate(
            kind="vote",
            epoch=0,
            view=header.view,
            block_id=digest(header),
            height=header.height,
            justify_view=header.justify.view,
            signers=b"",
            signature=b"",
        ),
    )


def signed(members: Committee, subject: Subject, *signers: int) -> Signed:
    signature = members.scheme.aggregate([members.sign(signer, subject) for signer in signers])
    assert signature is not None
    return Signed(subject, bitmap_of(signers), signature)


def found(
    members: Committee,
    first: Subject,
    second: Subject,
    headers: Sequence[BlockHeader] = (),
    who: tuple[int, ...] = (2,),
) -> Evidence | None:
    known = {digest(header): header for header in headers}
    definition = protocol_named(members.spec.protocol)
    return evidence_from(signed(members, first, *who), signed(members, second, *who), known, members.epoch, definition)


def judged(members: Committee, evidence: Evidence) -> Guilt | Refusal:
    return verify(evidence, members.epoch, protocol_named(members.spec.protocol), members.scheme)


GUILTY: Final[tuple[tuple[str, str, Subject, Subject], ...]] = (
    ("jolteon", "equivocation", vote(5, A), vote(5, B)),
    ("jolteon", "equivocation", vote(5, A, justify=4), vote(5, A, justify=3)),
    ("jolteon", "equivocation", timeout(5, 3), timeout(5, 4)),
    ("jolteon", "equivocation", proposal(5, A), proposal(5, B)),
    ("jolteon", "timeout-denies-vote", vote(5, justify=4), timeout(5, 3)),
    ("jolteon", "timeout-denies-vote", vote(5, justify=4), timeout(9, 3)),
    ("jolteon", "timeout-denies-order-vote", vote(5, kind="order", justify=1), timeout(5, 4)),
    ("jolteon", "timeout-denies-order-vote", vote(5, kind="order", justify=1), timeout(8, 4)),
    ("hotstuff2", "vote-below-lock", vote(5, justify=4), vote(9, B, justify=3)),
    ("simplex", "finalize-and-nullify", vote(5, kind="finalize"), vote(5, NIL_BLOCK, kind="nullify")),
    ("simplex", "equivocation", vote(5, kind="notarize"), vote(5, B, kind="notarize")),
    ("simplex", "equivocation", vote(5, kind="finalize"), vote(5, B, kind="finalize")),
    ("streamlet", "vote-falls-in-height", vote(5, height=4), vote(6, B, height=3)),
    ("tendermint", "amnesia", precommit(1), prevote(3, B, at(0))),
    ("tendermint", "amnesia", precommit(1), prevote(2, B, view_at(2, 5))),
    ("tendermint", "equivocation", precommit(1), precommit(1, NIL_BLOCK)),
)

INNOCENT: Final[tuple[tuple[str, Subject, Subject], ...]] = (
    ("jolteon", vote(5), vote(6, B)),
    ("jolteon", vote(5, justify=4), timeout(5, 4)),  # shows what the vote stood on
    ("jolteon", vote(5, justify=4), timeout(4, 3)),  # given up before
    ("jolteon", vote(5, kind="order", justify=1), timeout(4, 3)),
    ("jolteon", vote(5, kind="order", justify=1), timeout(5, 5)),
    ("jolteon", vote(5, kind="order"), vote(5, B)),  # a certificate for a block that it did not vote for
    ("jolteon", vote(5, justify=4), vote(9, B, justify=3)),  # no lock acts on votes
    ("hotstuff2", vote(5, justify=4), vote(9, B, justify=4)),
    ("hotstuff2", vote(5, justify=4), vote(4, B, justify=3)),
    ("hotstuff2", vote(5, justify=4), timeout(7, None)),
    ("hotstuff", vote(5, justify=4), vote(9, B, justify=1)),  # without the headers nobody knows the lock
    ("simplex", vote(5, kind="notarize"), vote(5, NIL_BLOCK, kind="nullify")),
    ("simplex", vote(5, kind="notarize"), vote(5, B, kind="finalize")),
    ("simplex", vote(5, kind="finalize"), vote(6, NIL_BLOCK, kind="nullify")),
    ("streamlet", vote(5, height=4), vote(6, B, height=4)),
    ("streamlet", vote(6, height=4), vote(5, B, height=3)),
    ("tendermint", precommit(1), prevote(3, A, at(0))),  # the same block
    ("tendermint", precommit(1), prevote(3, B, at(1))),  # a polka of the locked round lets it go
    ("tendermint", precommit(1), prevote(1, B, at(0))),
    ("tendermint", precommit(1), prevote(0, B, 0)),
    ("tendermint", precommit(1, NIL_BLOCK), prevote(3, B, 0)),
    ("tendermint", precommit(1), prevote(3, NIL_BLOCK, 0)),
    ("tendermint", precommit(1), prevote(2, B, at(0), height=4)),
)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("protocol", "offence", "first", "second"), GUILTY)
def test_each_offence_convicts_in_either_order(
    protocol: str, offence: str, first: Subject, second: Subject, scheme: str
) -> None:
    members = committee(4, protocol=protocol, scheme=scheme)
    evidence = found(members, first, second)
    assert evidence is not None
    assert evidence == found(members, second, first)
    again = decode_evidence(encode_evidence(evidence))
    assert again == evidence
    guilt = judged(members, evidence)
    assert isinstance(guilt, Guilt)
    assert (guilt.offence, guilt.signers) == (offence, (2,))


@pytest.mark.parametrize(("protocol", "first", "second"), INNOCENT)
def test_what_one_honest_validator_may_sign_is_no_evidence(protocol: str, first: Subject, second: Subject) -> None:
    members = committee(4, protocol=protocol)
    assert found(members, first, second) is None
    for offence in offences_of(protocol_named(protocol)):
        if offence.headers_needed:
            continue
        for one, other in ((first, second), (second, first)):
            claimed = Evidence(
                version=1, chain=members.epoch.chain, epoch=0, protocol=protocol, offence=offence.name,
                first=group(signed(members, one, 2)), second=group(signed(members, other, 2)),
            )  # fmt: skip
            assert judged(members, claimed) == Refusal(
                f"evidence: one honest validator may sign both: no {offence.name}"
            )


def group(of: Signed) -> SignedGroup:
    subject = encode(cast("msgspec.Struct", of.subject))
    return SignedGroup(subject=subject, signers=of.signers, signature=of.signature)


def test_three_chains_lock_what_the_parent_stands_on() -> None:
    """b0(2) <- b1(3) <- b2(4): voting for b2 locks b0, at view 2."""
    members = committee(4, protocol="hotstuff")
    b0, b1, b2 = chain(members, (2, 3, 4))
    first = vote(4, digest(b2), justify=3, height=3)
    evidence = found(members, first, vote(9, B, justify=1), (b0, b1, b2))
    assert evidence is not None
    assert evidence.headers == (b2, b1)
    guilt = judged(members, evidence)
    assert isinstance(guilt, Guilt)
    assert guilt.signers == (2,)
    assert found(members, first, vote(9, B, justify=2), (b0, b1, b2)) is None  # at the lock's view
    assert found(members, first, vote(3, B, justify=1), (b0, b1, b2)) is None  # before
    for headers in ((), (b2,), (b2, b0), (b1, b2)):
        forged = msgspec.structs.replace(evidence, headers=headers)
        assert isinstance(judged(members, forged), Refusal)


def test_two_certificates_convict_who_is_in_both() -> None:
    members = committee(7)
    definition = protocol_named("jolteon")
    first, second = signed(members, vote(5, A), 0, 1, 2, 3, 4), signed(members, vote(5, B), 2, 3, 4, 5, 6)
    evidence = evidence_from(first, second, {}, members.epoch, definition)
    assert evidence is not None
    guilt = judged(members, evidence)
    assert isinstance(guilt, Guilt)
    assert guilt.signers == (2, 3, 4)
    apart = signed(members, vote(5, B), 5, 6)
    assert evidence_from(first, apart, {}, members.epoch, definition) is None
    disjoint = msgspec.structs.replace(evidence, second=group(apart), first=group(signed(members, vote(5, A), 0, 1)))
    assert judged(members, disjoint) == Refusal("evidence: nobody signed both")


def test_nobody_is_framed_by_a_name_that_did_not_sign() -> None:
    """The bitmap of one group says more than was signed."""
    for scheme in SCHEMES:
        members = committee(4, scheme=scheme)
        evidence = found(members, vote(5, A), vote(5, B))
        assert evidence is not None
        other = signed(members, vote(5, B), 3)
        framed = msgspec.structs.replace(
            evidence,
            first=group(signed(members, vote(5, A), 2)),
            second=SignedGroup(subject=encode(vote(5, B)), signers=bitmap_of((2,)), signature=other.signature),
        )
        assert judged(members, framed) == Refusal("evidence: a signature does not verify")


def test_evidence_of_another_chain_epoch_protocol_or_version_proves_nothing_here() -> None:
    members, others = committee(4), committee(4, chain_id="another")
    evidence = found(members, vote(5, A), vote(5, B))
    assert evidence is not None
    for field, value, reason in (
        ("chain", others.epoch.chain, "of chain"),
        ("epoch", 1, "of epoch 1"),
        ("protocol", "simplex", "of protocol 'simplex'"),
        ("version", 2, "of version 2"),
        ("offence", "rudeness", "is no offence of jolteon"),
    ):
        refusal = judged(members, msgspec.structs.replace(evidence, **{field: value}))
        assert isinstance(refusal, Refusal)
        assert reason in refusal.reason
    replayed = msgspec.structs.replace(evidence, chain=others.epoch.chain)
    assert judged(others, replayed) == Refusal("evidence: a signature does not verify")


def epoch_0(members: Committee) -> Callable[[int], EpochInfo | None]:
    return lambda epoch: None if epoch else members.epoch


def test_evidence_from_what_an_engine_reports() -> None:
    members = committee(4, scheme="bls")
    definition = protocol_named("jolteon")
    votes = [vote_of(each, 1, members.sign(1, each)) for each in (vote(5, A), vote(5, B))]
    (evidence,) = evidence_of_report(ReportEvidence(votes[0], votes[1]), epoch_0(members), definition, members.scheme)
    guilt = judged(members, evidence)
    assert isinstance(guilt, Guilt)
    assert guilt.signers == (1,)
    assert evidence_of_report(ReportEvidence(votes[0], votes[0]), epoch_0(members), definition, members.scheme) == ()


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_refused_or_changes_nobody(position: int, mask: int) -> None:
    """One flipped byte anywhere: the bytes are refused, or prove nothing."""
    members = committee(4, scheme="ed25519")
    evidence = found(members, vote(5, A, justify=4), timeout(5, 3))
    assert evidence is not None
    data = bytearray(encode_evidence(evidence))
    data[position % len(data)] ^= mask
    changed = decode_evidence(bytes(data))
    assert isinstance(changed, Malformed) or isinstance(judged(members, changed), Refusal)


def test_the_bytes_are_canonical_and_bounded() -> None:
    members = committee(4)
    evidence = found(members, vote(5, A), vote(5, B))
    assert evidence is not None
    data = encode_evidence(evidence)
    assert isinstance(decode_evidence(data + b"\x00"), Malformed)
    assert isinstance(decode_evidence(bytes(EVIDENCE_SIZE_MAX + 1)), Malformed)
    assert len(evidence_digest(evidence)) == 32
    padded = msgspec.structs.replace(evidence.first, signers=evidence.first.signers + b"\x00")
    refusal = judged(members, msgspec.structs.replace(evidence, first=padded))
    assert refusal == Refusal("evidence: a bitmap of signers is empty or not canonical")
    stranger = msgspec.structs.replace(evidence.first, signers=bitmap_of((2, 9)))
    refusal = judged(members, msgspec.structs.replace(evidence, first=stranger))
    assert refusal == Refusal("evidence: validator 9 is none of this chain")
