"""Certificates of Simplex: false ones, missing ones, those that are passed on, and bounds. The engine is fed by hand.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on. A quorum is three of four.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.engine import (
    Broadcast,
    CancelTimer,
    ReportEvidence,
    Send,
    SetTimer,
    StepBuilder,
    TimerFired,
)
from consensus.genesis import Pacing
from consensus.protocols.simplex import SimplexEngine
from consensus.protocols.simplex_exchange import ASKERS_MAX, CertificateExchange
from consensus.protocols.simplex_state import HeldCertificates
from consensus.protocols.simplex_types import (
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    REQUEST_VIEWS_MAX,
    Certificates,
    CertificatesRequest,
)
from consensus.types import Certificate, CommitProof, Vote
from consensus.vote_tally import VIEWS_AHEAD, VIEWS_BEHIND
from tests.support.chain import Alone, Happened, refused, tampered, view_deadline_ns
from tests.support.committee import committee
from tests.support.simplex import SimplexChain, proposed, told

replace = msgspec.structs.replace
MILLISECOND = 1_000_000
PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50)


def setting(me: int | None = 3, count: int = 4) -> tuple[SimplexChain, Alone]:
    members = committee(count, protocol="simplex", pacing=PACING)
    return SimplexChain(members), Alone(members, me=me)


def requests(happened: Happened) -> list[tuple[int, ...]]:
    return [request.views for request in happened.sent(CertificatesRequest)]


# --- views and certificates ------------------------------------------------------------------------------------------


def test_a_certificate_that_leads_into_a_view_is_passed_on_once() -> None:
    """Whoever formed it may have told nobody else: everybody enters one delay after the first honest node."""
    chain, alone = setting()
    null = chain.nullification(1)
    assert Broadcast(Certificates(epoch=0, certificates=(null,))) in told(alone, null).effects
    other = chain.nullification(1, [1, 2, 3])
    assert not told(alone, other).effects
    assert not told(alone, chain.nullification(1)).effects


@pytest.mark.parametrize("kind", [NOTARIZE, NULLIFY, FINALIZE])
def test_a_false_certificate_is_refused(kind: str) -> None:
    """Pitfall 5."""
    chain, alone = setting()
    b1 = chain.block(1)
    subject = chain.subject(kind, 1 if kind == NULLIFY else b1)
    good = chain.certificate(subject, (0, 1, 2))
    bad: list[Certificate] = [
        chain.certificate(subject, (0, 1)),
        replace(good, view=2),
        replace(good, epoch=1),
        replace(good, signers=b"\x0b"),
        replace(good, signers=b"\x07\x00"),
        replace(good, signers=b"\x17"),
        replace(good, block_id=chain.genesis.block_id),
        replace(good, justify_view=1),
    ]
    for certificate in bad:
        assert refused(told(alone, certificate), alone.committee.peer(1)).startswith(("certificate: ", "signers: "))
        assert alone.view == 1
    told(alone, good)
    assert alone.view == 2


def test_certificates_say_their_epoch() -> None:
    chain, alone = setting()
    message = Certificates(epoch=1, certificates=(chain.nullification(1),))
    assert "of epoch 1" in refused(alone.hear(message, peer=1), alone.committee.peer(1))
    assert alone.view == 1


def test_genesis_is_named_at_view_0_only() -> None:
    """Pitfall 4: all who notarize or finalize genesis at view 1 make no certificate, and nullify names nothing."""
    chain, alone = setting()
    b1 = chain.block(1)
    for kind in (NOTARIZE, FINALIZE):
        subject = replace(chain.subject(kind, b1), block_id=chain.genesis.block_id)
        assert "boundary" in refused(told(alone, chain.certificate(subject, (0, 1, 2))), alone.committee.peer(1))
        vote = replace(chain.notarize(b1, 1), kind=kind, block_id=chain.genesis.block_id)
        assert "boundary" in refused(alone.hear(vote), alone.committee.peer(1))
    named = replace(chain.nullify(1, 1), block_id=b1.id)
    assert "names a block" in refused(alone.hear(named), alone.committee.peer(1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 1}, "of epoch 1 and view 1"),
        ({"view": 0, "justify_view": 0}, "of epoch 0 and view 0"),
        ({"kind": "vote"}, "of kind 'vote'"),
        ({"signer": 2}, "of validator 2, who is not this peer"),
        ({"justify_view": 1}, "for a block that cannot be"),
        ({"height": 0}, "for no block, or for the epoch's boundary"),
    ],
)
def test_a_vote_that_cannot_be_is_refused(changes: dict[str, object], reason: str) -> None:
    chain, alone = setting()
    vote = replace(chain.notarize(chain.block(1), 1), **changes)
    assert refused(alone.hear(vote, peer=1), alone.committee.peer(1)) == f"vote: {reason}"


def test_spoilers_of_a_quorum_are_named() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    assert not alone.hear(tampered(chain.notarize(b1, 2))).effects
    alone.hear(chain.notarize(b1, 0))
    happened = alone.hear(chain.notarize(b1, 1))
    assert refused(happened, alone.committee.peer(2)) == "vote: the signature does not verify"
    assert alone.view == 1
    proposed(chain, alone, b1)
    assert alone.view == 2


# --- missing certificates --------------------------------------------------------------------------------------------


def test_missing_certificates_are_asked_of_who_showed_the_need_and_then_of_everybody() -> None:
    """::

    genesis <- b4        its leader, validator 3, shows nullification 3 alone
    """
    chain, alone = setting(me=2)
    b4 = chain.block(4)
    alone.now = 10 * MILLISECOND
    happened = proposed(chain, alone, b4)
    question = CertificatesRequest(epoch=0, views=(1, 2))
    assert Send(alone.committee.peer(3), question) in happened.effects
    assert Broadcast(question) not in happened.effects
    duration_ns = view_deadline_ns(happened) - 10 * MILLISECOND
    (timer,) = [effect for effect in happened.of(SetTimer) if effect.name == "certificates"]
    assert timer.deadline_ns == 10 * MILLISECOND + duration_ns * 2 // 3 // 2, "D, where 3D is the advance timer"
    again = alone.feed(TimerFired("certificates"))
    assert [effect.message for effect in again.of(Broadcast)] == [question]
    rest = told(alone, chain.nullification(1), peer=0)
    assert requests(rest) == [(2,)]
    assert rest.of(CancelTimer) == []
    assert CancelTimer("certificates") in told(alone, chain.nullification(2)).effects


def test_an_answer_is_bounded_and_so_is_the_number_of_answers() -> None:
    chain, alone = setting()
    told(alone, *(chain.nullification(view) for view in range(1, 17)))
    told(alone, *(chain.nullification(view) for view in range(17, 21)))
    request = CertificatesRequest(epoch=0, views=tuple(range(1, REQUEST_VIEWS_MAX + 1)))
    (answer,) = alone.hear(request, peer=0).sent(Certificates)
    assert [certificate.view for certificate in answer.certificates] == list(range(1, 17))
    answers = [alone.hear(request, peer=0).sent(Certificates) for _ in range(20)]
    assert sum(map(len, answers)) == 7, "eight in all"
    assert alone.hear(request, peer=1).sent(Certificates), "each peer has its own budget"
    alone.time_out()
    assert alone.hear(request, peer=0).sent(Certificates), "and a new one in time"


def test_a_request_must_ascend() -> None:
    chain, alone = setting()
    for views in ((2, 1), (1, 1)):
        happened = alone.hear(CertificatesRequest(epoch=0, views=views), peer=0)
        assert "do not ascend" in refused(happened, alone.committee.peer(0))
    happened = alone.hear(CertificatesRequest(epoch=1, views=(1,)), peer=0)
    assert "another epoch" in refused(happened, alone.committee.peer(0))
    assert not alone.hear(CertificatesRequest(epoch=0, views=(1,)), peer=0).effects, "nothing to give"
    assert chain.genesis.view == 0


def test_who_nullifies_an_old_view_is_told_what_ended_it() -> None:
    chain, alone = setting()
    told(alone, chain.nullification(1))
    assert not alone.hear(chain.notarize(chain.block(1), 2)).sent(Certificates), "a late notarize is nothing special"
    happened = alone.hear(chain.nullify(1, 2))
    assert happened.sent(Certificates) == [Certificates(epoch=0, certificates=(chain.nullification(1),))]
    assert not alone.hear(chain.nullify(1, 2)).sent(Certificates), "once in a view"


def test_nothing_below_a_finalization_is_kept() -> None:
    """::

    genesis <- b3 <-F-        nullifications 1 and 2 are needed no more; 4 is
    """
    chain, alone = setting()
    b3 = chain.block(3)
    told(alone, chain.nullification(1), chain.nullification(2), chain.nullification(4))
    told(alone, chain.finalization(b3))
    request = CertificatesRequest(epoch=0, views=(1, 2, 4))
    (answer,) = alone.hear(request, peer=0).sent(Certificates)
    assert answer.certificates == (chain.nullification(4), chain.finalization(b3))


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_far_future_messages_move_nothing() -> None:
    """Pitfall 15: one far-future proposal, and votes for a million views."""
    chain, alone = setting()
    forged = replace(chain.nullification(999), signature=b"\x01" * 96)
    b1000 = chain.like(chain.block(1), view=1000, proposer=3, entry_proof_hash=b"")
    assert alone.hear(chain.proposal(b1000), peer=3).reasons
    assert alone.hear(Certificates(epoch=0, certificates=(forged,)), peer=3).reasons
    for view in range(20, 10_000, 100):
        assert not alone.hear(chain.nullify(view, 1)).effects
    assert alone.view == 1


def test_tables_stay_small_over_many_views() -> None:
    """Votes of every kind and second blocks, in each of 100 views."""
    chain, alone = setting(me=None)
    for view in range(1, 101):
        block = chain.block(view)
        proposed(chain, alone, block)
        for vote in (chain.notarize(block, 1), chain.finalize(block, 1), chain.nullify(view, 1)):
            assert len(alone.hear(vote).of(ReportEvidence)) <= 1
        told(alone, chain.nullification(view))
    engine = alone.engine
    assert isinstance(engine, SimplexEngine)
    assert alone.view == 101
    assert len(engine._votes._views) <= VIEWS_AHEAD + VIEWS_BEHIND + 1
    assert len(engine._nullifies._views) <= VIEWS_AHEAD + 1
    assert len(engine._exclusion._first) <= VIEWS_AHEAD + VIEWS_BEHIND + 1
    assert len(engine._exclusion._reported) <= VIEWS_AHEAD + VIEWS_BEHIND + 1
    assert len(engine._first_proposals._first) <= 65


def test_votes_count_in_late_views_as_in_early_ones() -> None:
    chain, alone = setting()
    told(alone, chain.nullification(100))
    b101 = chain.block(101)
    assert alone.hear(chain.nullify(101, 0)).sent(Vote) == []
    assert alone.hear(chain.finalize(b101, 0)).of(ReportEvidence)
    assert alone.hear(chain.nullify(101, 1)).signed == [chain.subject(NULLIFY, 101)], "joined"
    assert alone.view == 102, "and counted"


def test_votes_far_from_the_view_are_not_watched() -> None:
    chain, alone = setting()
    told(alone, chain.nullification(49))
    for view in (50 - VIEWS_BEHIND - 1, 50 + VIEWS_AHEAD + 1):
        block = chain.block(view)
        alone.hear(chain.finalize(block, 1))
        assert not alone.hear(chain.nullify(view, 1)).of(ReportEvidence)


def test_the_number_of_askers_is_bounded() -> None:
    chain, _ = setting()
    held, out = HeldCertificates(chain.genesis), StepBuilder()
    held.take(chain.nullification(1))
    exchange = CertificateExchange(0, held, out)
    for number in range(ASKERS_MAX + 10):
        exchange.answer(number.to_bytes(32, "big"), CertificatesRequest(epoch=0, views=(1,)))
    assert len(out.finish().effects) == ASKERS_MAX
    exchange.renew_budget()
    exchange.answer(bytes(32), CertificatesRequest(epoch=0, views=(1,)))
    assert len(out.finish().effects) == 1


# --- commit proofs ---------------------------------------------------------------------------------------------------


def test_a_finalization_proves_its_block_and_every_ancestor() -> None:
    """::

    genesis <- b1 <- b2 <- b3 <-F-        for b1 with the headers of b2 and b3
    """
    chain, alone = setting(me=None)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    good = CommitProof(epoch=0, headers=(b2.header, b3.header), certificate=chain.finalization(b3))
    assert alone.engine.verify_commit(good, b1.header, 0) is None
    assert alone.engine.verify_commit(replace(good, headers=()), b3.header, 0) is None
    other = chain.finalization(b3)
    for proof, reason in (
        (replace(good, headers=(b2.header,)), "not the last header's"),
        (replace(good, headers=(b3.header,)), "do not follow"),
        (replace(good, certificate=chain.notarization(b3)), "commits nothing"),
        (replace(good, certificate=chain.finalization(b3, [0, 1])), "below the quorum"),
        (replace(good, certificate=replace(other, view=4)), "not the last header's"),
        (replace(good, certificate=replace(other, justify_view=1)), "not the last header's"),
        (replace(good, certificate=replace(other, signers=b"\x0b")), "do not verify"),
        (replace(good, confirmation=other), "a confirmation where none belongs"),
        (replace(good, epoch=1), "another chain or epoch"),
    ):
        refusal = alone.engine.verify_commit(proof, b1.header, 0)
        assert refusal is not None
        assert reason in refusal.reason
    unknown = alone.engine.verify_commit(good, b1.header, 1)
    assert unknown is not None
    assert "epoch 1 is not known here" in unknown.reason
