"""Contradictions across views are noticed when the second message arrives, and nobody honest is ever reported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import digest
from consensus.engine import Received, Recovered, ReportEvidence
from consensus.evidence import Guilt, evidence_of_report, verify
from consensus.offence_watch import FAILURES_MAX, HEADERS_MAX, REMEMBERED_MAX, OffenceWatch
from consensus.protocols.chained_types import OrderVote, Proposal, Timeout, TimeoutSubject
from consensus.protocols.order_votes import ORDER
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.protocols.tendermint_types import view_at
from consensus.replica import Replica
from consensus.types import (
    NIL_BLOCK,
    BlockHeader,
    BlockId,
    Certificate,
    StoredBlock,
    Vote,
    VoteSubject,
    vote_of,
)
from tests.support.chain import Chain
from tests.support.committee import Committee, committee
from tests.support.headers import headers_at

replace = msgspec.structs.replace
SIGNER: Final = 2
A, B = b"a" * 32, b"b" * 32


def certificate(view: int, kind: str = "vote") -> Certificate:
    return Certificate(
        kind=kind,
        epoch=0,
        view=view,
        block_id=A,
        height=view,
        justify_view=max(view - 1, 0),
        signers=b"",
        signature=b"",
    )


def vote(
    members: Committee, view: int, shown: int, block_id: bytes = A, *, kind: str = "vote", height: int = 9,
    signer: int = SIGNER,
) -> Vote:  # fmt: skip
    subject = VoteSubject(kind=kind, epoch=0, view=view, block_id=block_id, height=height, justify_view=shown)
    return vote_of(subject, signer, members.sign(signer, subject))


def timeout(members: Committee, view: int, shown: int) -> Timeout:
    subject = TimeoutSubject(epoch=0, view=view, high_qc_view=shown)
    return Timeout(
        epoch=0, view=view, high_qc=certificate(shown), entry_proof=None, signer=SIGNER,
        signature=members.sign(SIGNER, subject),
    )  # fmt: skip


def order(members: Committee, view: int) -> OrderVote:
    qc = certificate(view)
    subject = VoteSubject(kind=ORDER, epoch=0, view=view, block_id=A, height=qc.height, justify_view=qc.justify_view)
    return OrderVote(epoch=0, qc=qc, signer=SIGNER, signature=members.sign(SIGNER, subject))


def headers_of(members: Committee, views: Sequence[int]) -> list[BlockHeader]:
    """Headers that stand on each other, at these views."""
    return headers_at(
        members, views, lambda header: replace(certificate(header.view), block_id=digest(header), height=header.height)
    )


def watch_of(members: Committee, headers: Sequence[BlockHeader] = ()) -> OffenceWatch:
    blocks = {digest(header): StoredBlock(header=header, body=memoryview(b"")) for header in headers}

    def lookup(block_id: BlockId) -> StoredBlock | None:
        return blocks.get(block_id)

    return OffenceWatch(protocol_named(members.spec.protocol), members.epoch, members.scheme, lookup)


def tell(watch: OffenceWatch, members: Committee, *messages: msgspec.Struct) -> list[ReportEvidence]:
    """What it reports of messages that their signer sends, in this order."""
    reports = [watch.heard(members.peer(SIGNER), message) for message in messages]
    return [report for report in reports if report is not None]


def convicted(members: Committee, report: ReportEvidence) -> Guilt:
    """The guilt that a report proves to a stranger."""
    definition = protocol_named(members.spec.protocol)
    (evidence,) = evidence_of_report(report, lambda _: members.epoch, definition, members.scheme)
    guilt = verify(evidence, members.epoch, definition, members.scheme)
    assert isinstance(guilt, Guilt), guilt
    return guilt


Pair = tuple[msgspec.Struct, msgspec.Struct, str]


def guilty_pairs(members: Committee) -> list[Pair]:
    """Messages of one signer of which an honest one never signs both."""
    said, at = partial(vote, members), partial(view_at, 3)
    match members.spec.protocol:
        case "jolteon":
            return [
                (said(5, 4), timeout(members, 5, 3), "timeout-denies-vote"),
                (said(5, 4), timeout(members, 9, 3), "timeout-denies-vote"),
                (order(members, 5), timeout(members, 5, 4), "timeout-denies-order-vote"),
                (order(members, 5), timeout(members, 8, 4), "timeout-denies-order-vote"),
            ]
        case "hotstuff2":
            return [(said(5, 4), said(9, 3, B), "vote-below-lock")]
        case "hotstuff":
            block = headers_of(members, (1, 2, 3, 4))[-1]
            return [(said(4, 3, digest(block)), said(9, 1, B), "vote-below-lock")]
        case "streamlet":
            return [(said(5, 4, height=4), said(6, 4, B, height=3), "vote-falls-in-height")]
        case "tendermint":
            locked = said(at(1), view_at(2, 0), kind="precommit", height=3)
            return [(locked, said(at(3), at(0), B, kind="prevote", height=3), "amnesia")]
        case _:
            return []


def innocent_pairs(members: Committee) -> list[tuple[msgspec.Struct, msgspec.Struct]]:
    said, at = partial(vote, members), partial(view_at, 3)
    match members.spec.protocol:
        case "jolteon":
            return [
                (said(5, 4), timeout(members, 5, 4)),
                (said(5, 4), timeout(members, 4, 3)),
                (order(members, 5), timeout(members, 4, 3)),
                (order(members, 5), timeout(members, 5, 5)),
                (said(5, 4), said(9, 3, B)),
            ]
        case "hotstuff2":
            return [(said(5, 4), said(9, 4, B)), (said(5, 4), said(4, 3, B))]
        case "hotstuff":
            block = headers_of(members, (1, 2, 3, 4))[-1]
            return [(said(4, 3, digest(block)), said(9, 2, B)), (said(4, 3, A), said(9, 1, B))]
        case "streamlet":
            return [(said(5, 4, height=4), said(6, 4, B, height=4)), (said(6, 4, height=4), said(5, 4, B, height=3))]
        case "tendermint":
            locked = said(at(1), view_at(2, 0), kind="precommit", height=3)
            nil = replace(locked, block_id=NIL_BLOCK, height=0, justify_view=0)
            return [
                (locked, said(at(3), at(0), A, kind="prevote", height=3)),
                (locked, said(at(3), at(1), B, kind="prevote", height=3)),
                (locked, said(view_at(4, 0), at(0), B, kind="prevote", height=4)),
                (nil, said(at(3), at(0), B, kind="prevote", height=3)),
            ]
        case _:
            return [(said(5, 4, kind="finalize"), said(5, 0, NIL_BLOCK, kind="nullify"))]


@pytest.mark.parametrize("protocol", protocol_names())
def test_the_second_message_convicts_in_either_order(protocol: str) -> None:
    members = committee(4, protocol=protocol, scheme="ed25519")
    headers = headers_of(members, (1, 2, 3, 4))
    pairs = guilty_pairs(members)
    assert pairs or protocol == "simplex", "its one pair is of one view, and the engine's own to notice"
    for first, second, offence in pairs:
        for order_of_arrival in ((first, second), (second, first)):
            (report,) = tell(watch_of(members, headers), members, *order_of_arrival)
            guilt = convicted(members, report)
            assert (guilt.offence, guilt.signers) == (offence, (SIGNER,))


@pytest.mark.parametrize("protocol", protocol_names())
def test_every_offence_that_spans_views_is_watched(protocol: str) -> None:
    definition = protocol_named(protocol)
    watched = {offence.name for offence in definition.offences if offence.watch is not None}
    members = committee(4, protocol=protocol)
    assert watched == {offence for _, _, offence in guilty_pairs(members)}
    assert watched or protocol == "simplex"


@pytest.mark.parametrize("protocol", protocol_names())
def test_what_one_honest_signer_may_say_is_not_reported(protocol: str) -> None:
    members = committee(4, protocol=protocol, scheme="ed25519")
    for first, second in innocent_pairs(members):
        for order_of_arrival in ((first, second), (second, first)):
            watch = watch_of(members, headers_of(members, (1, 2, 3, 4)))
            assert tell(watch, members, *order_of_arrival) == []


def test_without_the_headers_nobody_knows_the_lock() -> None:
    members = committee(4, protocol="hotstuff")
    ((first, second, _),) = guilty_pairs(members)
    assert tell(watch_of(members), members, first, second) == []


def test_headers_are_known_from_proposals_too() -> None:
    """The blocks that show the lock were committed and forgotten: what their proposers sent still tells, within bounds,
    and only what a validator sent."""
    members = committee(4, protocol="hotstuff")
    headers = headers_of(members, (1, 2, 3, 4))
    ((first, second, offence),) = guilty_pairs(members)
    proposals = [
        Proposal(epoch=0, header=each, body=memoryview(b""), entry_proof=None, signature=b"") for each in headers
    ]
    for sender, count in ((members.peer(0), 1), (bytes(32), 0)):
        watch = watch_of(members)
        for proposal in proposals:
            watch.heard(sender, proposal)
        reports = tell(watch, members, first, second)
        assert len(reports) == count
        assert all(convicted(members, report).offence == offence for report in reports)
    for view in range(5, 200):
        for proposal in proposals[:1]:
            watch.heard(members.peer(1), replace(proposal, header=replace(headers[0], view=view)))
    assert len(watch._proposed[members.peer(1)]) == HEADERS_MAX // 4  # of four proposers


@pytest.mark.parametrize("protocol", ["jolteon", "hotstuff2", "streamlet", "tendermint"])
def test_nobody_is_framed(protocol: str) -> None:
    """Another sender, another signer's name, a bad signature on either message: nothing is reported."""
    members = committee(4, protocol=protocol, scheme="ed25519")
    for first, second, _ in guilty_pairs(members):
        for sender in (0, 1, 3):
            watch = watch_of(members)
            assert [watch.heard(members.peer(sender), each) for each in (first, second)] == [None, None]
            assert watch.heard(members.peer(SIGNER), first) is None  # nothing was remembered
        for bad, good in ((first, second), (second, first)):
            spoiled = replace(bad, signature=bytes(64))
            assert tell(watch_of(members), members, spoiled, good) == []
            assert tell(watch_of(members), members, good, spoiled) == []
        stranger = replace(first, signer=900)
        assert watch_of(members).heard(members.peer(SIGNER), stranger) is None
        assert watch_of(members).heard(bytes(32), first) is None


def test_a_forged_message_hides_nothing_of_others_and_little_of_its_sender() -> None:
    """The forged vote promises the most. The true one is remembered beside it, and convicts."""
    members = committee(4, protocol="jolteon", scheme="ed25519")
    forged = replace(vote(members, 6, 5), justify_view=10**6)
    (report,) = tell(watch_of(members), members, forged, vote(members, 7, 6), timeout(members, 9, 3))
    assert convicted(members, report).offence == "timeout-denies-vote"


def test_what_is_remembered_and_verified_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    members = committee(4, protocol="jolteon", scheme="ed25519")
    watch = watch_of(members)
    verified = 0
    honest = members.scheme.verify

    def count(public_key: bytes, message: bytes, signature: bytes) -> bool:
        nonlocal verified
        verified += 1
        return honest(public_key, message, signature)

    monkeypatch.setattr(type(members.scheme), "verify", lambda _, *arguments: count(*arguments))
    for view in range(1, 1_000):
        spoiled = replace(vote(members, view, view - 1), signature=bytes(64))
        tell(watch, members, spoiled, replace(timeout(members, view, 0), signature=bytes(64)))
    assert 0 < verified <= 2 * FAILURES_MAX
    (_, signed) = watch._signers[members.peer(SIGNER)]
    assert max(len(each.promises) for each in signed) <= REMEMBERED_MAX


def test_one_report_of_each_signer_and_offence() -> None:
    members = committee(4, protocol="jolteon", scheme="ed25519")
    watch = watch_of(members)
    messages = [vote(members, 5, 4), *(timeout(members, view, 3) for view in range(5, 12))]
    assert len(tell(watch, members, *messages)) == 1
    assert len(tell(watch, members, order(members, 11), timeout(members, 12, 3))) == 1


def test_messages_that_are_sent_again_push_nothing_out() -> None:
    """Votes and timeouts are repeated while a view lasts."""
    members = committee(4, protocol="jolteon", scheme="ed25519")
    votes = [vote(members, 5, 4), *[vote(members, 6, 5)] * 50]
    assert len(tell(watch_of(members), members, *votes, timeout(members, 5, 3))) == 1
    timeouts = [timeout(members, 9, 3), *[timeout(members, 12, 11)] * 50]
    assert len(tell(watch_of(members), members, *timeouts, vote(members, 5, 4))) == 1


Word = tuple[str, int, int]


@given(
    st.lists(
        st.tuples(st.sampled_from(("vote", "order", "timeout")), st.integers(1, 8), st.integers(0, 7)), max_size=12
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_said_in_whatever_order_every_report_is_evidence_and_the_first_offence_is_seen(
    words: list[Word],
) -> None:
    """Jolteon: an independent reading of the two rules over all pairs says whether there is something to report."""
    members = committee(4, protocol="jolteon")
    watch = watch_of(members)
    said: list[msgspec.Struct] = []
    offences: dict[str, None] = {}
    reported: dict[str, None] = {}
    seen: set[Word] = set()
    for kind, view, shown in words:
        if (kind, view, 0) in seen:
            continue  # no double votes here: they are the engine's
        seen.add((kind, view, 0))
        match kind:
            case "vote":
                said.append(vote(members, view, min(shown, view - 1)))
            case "order":
                said.append(order(members, view))
            case _:
                said.append(timeout(members, view, min(shown, view - 1)))
        for report in tell(watch, members, said[-1]):
            reported[convicted(members, report).offence] = None
        for other in said[:-1]:
            for first, second in ((other, said[-1]), (said[-1], other)):
                if isinstance(second, Timeout):
                    if (
                        isinstance(first, Vote)
                        and second.view >= first.view
                        and second.high_qc.view < first.justify_view
                    ):
                        offences["timeout-denies-vote"] = None
                    if isinstance(first, OrderVote) and second.high_qc.view < first.qc.view <= second.view:
                        offences["timeout-denies-order-vote"] = None
        assert bool(reported) == bool(offences), words
    assert set(reported) <= set(offences)


def test_a_replica_reports_what_its_watch_finds_and_goes_on() -> None:
    members = committee(4, protocol="jolteon")
    chain = Chain(members)
    definition = protocol_named("jolteon")
    replica = Replica(
        engine=definition.engine, spec=members.spec, scheme=members.scheme, epoch=members.epoch,
        own_keys=(members.epoch.validators.public_keys[0],), offences=definition,
    )  # fmt: skip
    replica.start(Recovered(), 0)
    b2 = chain.block(2, on=chain.block(1))
    told: list[msgspec.Struct] = [
        chain.vote(b2, SIGNER),
        chain.timeout(2, SIGNER, members.epoch.genesis, chain.tc(1, [members.epoch.genesis] * 3)),
    ]
    steps = [replica.handle(Received(members.peer(SIGNER), message), 0) for message in told]
    reports = [effect for step in steps for effect in step.effects if isinstance(effect, ReportEvidence)]
    (report,) = reports
    assert convicted(members, report).signers == (SIGNER,)
    assert not any(isinstance(effect, ReportEvidence) for effect in steps[0].effects)
    assert report.first == told[0]
