"""Simplex: what is durable before what, and what a restart does with it. The engine is fed by hand.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on. A quorum is three of four.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import encode
from consensus.engine import (
    TRANSCRIPT_PROOFS_MAX,
    BlockRecord,
    BuildPayload,
    Commit,
    PeerConnected,
    Recovered,
    SafetyRecord,
    Send,
    Sign,
    Signed,
)
from consensus.genesis import Pacing
from consensus.protocols import simplex_state
from consensus.protocols.simplex_state import (
    ARCHIVED_MAX,
    RECORDED_MAX,
    HeldCertificates,
    SafetyState,
    restore,
    subjects,
)
from consensus.protocols.simplex_types import (
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    REQUEST_VIEWS_MAX,
    Certificates,
    CertificatesRequest,
    Proposal,
)
from consensus.safety import SafetyGuard
from consensus.types import Vote
from tests.support.chain import Alone, Happened
from tests.support.committee import committee
from tests.support.simplex import SimplexChain, proposed, told

replace = msgspec.structs.replace
PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50)


def setting(me: int = 3) -> tuple[SimplexChain, Alone]:
    members = committee(protocol="simplex", pacing=PACING)
    return SimplexChain(members), Alone(members, me=me)


def state_of(happened: Happened, kind: str) -> SafetyState:
    """The state in the one record of this kind."""
    (record,) = [record for record in happened.records if isinstance(record, SafetyRecord) and record.kind == kind]
    return msgspec.msgpack.decode(record.state, type=SafetyState)


def blocks_in(happened: Happened) -> list[bytes]:
    return [record.block.id for record in happened.records if isinstance(record, BlockRecord)]


# --- durable before signed -------------------------------------------------------------------------------------------


def test_each_signature_is_asked_for_in_the_step_that_records_its_decision() -> None:
    """Persist, then sign, then send. The message itself exists only after the signer answered."""
    chain, alone = setting()
    alone.signs = False
    b1 = chain.block(1)
    for happened, kind in (
        (proposed(chain, alone, b1), NOTARIZE),
        (told(alone, chain.notarization(b1)), FINALIZE),
        (alone.time_out(), NULLIFY),
    ):
        (sign,) = happened.of(Sign)
        (record,) = [record for record in happened.records if isinstance(record, SafetyRecord)]
        assert record.kind == sign.subject.kind == kind
        assert SafetyGuard().restore(record, subjects) == sign.subject
        assert not happened.sent(Vote)


def test_finalize_is_in_one_record_with_its_notarization() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    assert state_of(told(alone, chain.notarization(b1)), FINALIZE).high_qc == chain.notarization(b1)


def test_the_certificates_are_durable_before_the_first_vote_in_the_view_that_they_open() -> None:
    """::

    genesis <- b1 <-N- b4        nullifications 2 and 3
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b4 = chain.block(4, on=b1)
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1), chain.nullification(3), chain.nullification(2))
    state = state_of(alone.time_out(), NULLIFY)
    assert state.high_qc == chain.notarization(b1)
    assert state.nullifications == (chain.nullification(2), chain.nullification(3)), "ascending"
    _, other = setting(me=2)
    proposed(chain, other, b1)
    told(other, chain.nullification(2))
    state = state_of(proposed(chain, other, b4), NOTARIZE)
    assert state.nullifications == (chain.nullification(2), chain.nullification(3))


def test_every_block_that_a_vote_names_is_recorded_with_it_once() -> None:
    """::

    genesis <- b1 <- b2        b1 came too late for a vote, so that the vote for b2 records both
    """
    chain, alone = setting()
    b1 = chain.block(1, body=b"one")
    b2 = chain.block(2, on=b1, body=b"two")
    assert not blocks_in(proposed(chain, alone, b2))
    assert blocks_in(proposed(chain, alone, b1)) == [b1.id, b2.id]
    assert bytes(alone.journal.blocks[b2.id].body) == b"two"
    _, other = setting(me=2)
    proposed(chain, other, b1)
    other.time_out()
    assert blocks_in(told(other, chain.notarization(b1))) == [], "b1 was recorded with its notarize"


def test_a_nullify_records_the_block_of_its_highest_certificate() -> None:
    """::

    genesis <- b1 <-N-        view 1 was nullified here, so that no vote of mine recorded b1; I lead view 2, in vain
    """
    chain, alone = setting(me=1)
    b1 = chain.block(1)
    alone.time_out()
    proposed(chain, alone, b1)
    assert not blocks_in(told(alone, chain.notarization(b1)))
    happened = alone.time_out()
    assert happened.signed == [chain.subject(NULLIFY, 2)]
    assert blocks_in(happened) == [b1.id]


# --- restart ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NOTARIZE, NULLIFY, FINALIZE])
def test_the_same_vote_is_sent_again_and_no_other(kind: str) -> None:
    """Killed between the record and the signature: pitfalls 1 and 2."""
    chain, alone = setting()
    alone.signs = False
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    if kind == NULLIFY:
        alone.time_out()
    else:
        proposed(chain, alone, b1)
    if kind == FINALIZE:
        told(alone, chain.notarization(b1))
    again = alone.restart()
    expected = chain.subject(kind, 1 if kind == NULLIFY else b1)
    assert expected in [vote_of.subject for vote_of in again.started.of(Sign)]
    assert kind in [vote.kind for vote in again.started.sent(Vote)]
    assert not proposed(chain, again, c1).signed
    assert not proposed(chain, again, b1).signed


def test_a_finalize_after_the_nullify_of_a_former_life_is_refused() -> None:
    """::

    genesis <- b1 <-N-        nullified, killed, restarted; now the notarization arrives. Mutant R5.
    """
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    alone.time_out()
    again = alone.restart()
    proposed(chain, again, b1)
    assert FINALIZE not in [subject.kind for subject in told(again, chain.notarization(b1)).signed]


def test_a_nullify_after_the_finalize_of_a_former_life_is_of_a_later_view() -> None:
    """::

    genesis <- b1 <-N-        finalized, killed, restarted: the notarization is in the finalize's record. Mutant R6.
    """
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1))
    again = alone.restart()
    assert again.view == 2
    assert again.time_out().signed == [chain.subject(NULLIFY, 2)]


def test_own_votes_count_again_after_a_restart() -> None:
    """Pitfall 2: the third of three is mine."""
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    again = alone.restart()
    again.hear(chain.notarize(b1, 0))
    again.hear(chain.notarize(b1, 1))
    assert again.view == 2


def test_lost_certificates_would_stall_and_so_they_are_all_there() -> None:
    """::

    genesis <- b1 <-N- b5        mutant R4: after the restart of all, nobody else could show nullifications 2 and 3
    """
    chain, alone = setting(me=0)
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1), chain.nullification(2), chain.nullification(3))
    alone.time_out()
    again = alone.restart()
    assert again.view == 4
    happened = told(again, chain.nullification(4))
    (build,) = happened.of(BuildPayload)
    assert (build.view, build.parent) == (5, b1.id)
    (answer,) = again.hear(CertificatesRequest(epoch=0, views=(2, 3)), peer=1).sent(Certificates)
    assert answer.certificates == (chain.nullification(2), chain.nullification(3))


def test_a_leader_sends_the_same_proposal_again() -> None:
    """::

    genesis <- b2        nullification 1; killed between the record and the signature of the proposal
    """
    chain, alone = setting(me=1)
    told(alone, chain.nullification(1))
    alone.signs = False
    alone.build(2, chain.genesis.block_id, b"payload")
    again = alone.restart()
    (proposal,) = again.started.sent(Proposal)
    assert bytes(proposal.body) == b"payload"
    assert proposal.entry_proof == chain.nullification(1)
    assert [vote.kind for vote in again.started.sent(Vote)] == [NOTARIZE]
    assert not again.build(2, chain.genesis.block_id, b"another").sent(Proposal)


def test_a_leader_killed_between_proposal_and_notarize_notarizes_its_own_block() -> None:
    chain, alone = setting(me=0)
    alone.build(1, chain.genesis.block_id, b"payload")
    del alone.journal.safety[NOTARIZE]
    again = alone.restart()
    assert [subject.kind for subject in again.started.signed] == ["proposal", NOTARIZE]


def test_peers_are_greeted_with_what_the_view_waits_for() -> None:
    """::

    genesis <- b1 <-N- b2        proposed and notarized by me, b1 finalized by me
    """
    chain, alone = setting(me=1)
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1))
    alone.build(2, b1.id)
    again = alone.restart()
    peer = alone.committee.peer(2)
    sent = [effect.message for effect in again.feed(PeerConnected(peer)).of(Send) if effect.peer == peer]
    assert sent[0] == Certificates(epoch=0, certificates=(chain.notarization(b1),))
    assert isinstance(sent[1], Proposal)
    assert [vote.kind for vote in sent[2:] if isinstance(vote, Vote)] == [NOTARIZE, FINALIZE]


def test_a_finalize_of_what_is_committed_greets_nobody() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    told(alone, chain.finalization(b1), chain.notarization(b1))
    told(alone, chain.nullification(2))
    alone.hear(chain.notarize(b1, 0))
    peer = alone.committee.peer(2)
    assert not [effect for effect in alone.feed(PeerConnected(peer)).of(Send) if isinstance(effect.message, Vote)]
    _, other = setting()
    proposed(chain, other, b1)
    told(other, chain.notarization(b1))
    votes = [effect.message for effect in other.feed(PeerConnected(peer)).of(Send) if isinstance(effect.message, Vote)]
    assert votes == [chain.finalize(b1, 3)]
    told(other, chain.finalization(b1))
    assert not [effect for effect in other.feed(PeerConnected(peer)).of(Send) if isinstance(effect.message, Vote)]


def test_commits_above_the_ledger_are_emitted_again_with_their_proof() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    proposed(chain, alone, b1, b2)
    told(alone, chain.finalization(b2))
    again = alone.restart(ledger_height=0)
    assert [commit.block.id for commit in again.started.of(Commit)] == [b1.id, b2.id]
    assert not alone.restart(ledger_height=2).started.of(Commit)
    assert again.view == 3, "the finalization is the proof of the head"


def test_a_journal_with_something_else_is_refused() -> None:
    chain, alone = setting()
    proposed(chain, alone, chain.block(1))
    (record,) = alone.journal.safety.values()
    with pytest.raises(ValueError, match="state does not decode"):
        restore(Recovered(safety=(replace(record, state=b"\x00"),)), SafetyGuard(), 0)
    with pytest.raises(ValueError, match="subject"):
        restore(Recovered(safety=(replace(record, kind=NULLIFY),)), SafetyGuard(), 0)


def test_a_journal_that_lacks_what_its_own_proposal_names_is_refused() -> None:
    chain, alone = setting(me=1)
    told(alone, chain.nullification(1))
    alone.build(2, chain.genesis.block_id)
    record = alone.journal.safety["proposal"]
    state = msgspec.msgpack.decode(record.state, type=SafetyState)
    alone.journal.safety["proposal"] = replace(record, state=encode(replace(state, nullifications=())))
    with pytest.raises(ValueError, match="nullification that its own proposal names"):
        alone.restart()


def test_a_signature_that_nobody_asked_for_is_our_bug() -> None:
    chain, alone = setting()
    observer = Alone(alone.committee, me=None)
    with pytest.raises(RuntimeError, match="an observer signs nothing"):
        observer.feed(Signed(chain.subject(NULLIFY, 1), b"s"))


# --- the certificates held -------------------------------------------------------------------------------------------


def long_gap(chain: SimplexChain, views: int) -> HeldCertificates:
    held = HeldCertificates(chain.genesis)
    for view in range(1, views + 1):
        assert held.take(chain.nullification(view))
    return held


def test_a_long_failure_keeps_bounded_certificates_and_forgets_no_view() -> None:
    """::

    genesis <- b400        399 views failed: a record has the last 256 certificates, and that the others were verified
    """
    chain, _ = setting()
    held = long_gap(chain, 399)
    state = held.state()
    assert len(state.nullifications) == RECORDED_MAX
    assert (state.let_go_from, state.let_go_to) == (1, 399 - RECORDED_MAX)
    assert held.view == 400
    assert held.missing(0, 400, 16) == ()
    assert held.nullification(1) == chain.nullification(1)
    assert not held.wants(chain.nullification(1))
    moved = held.moved_out()
    assert moved == tuple(chain.nullification(view) for view in range(1, 400 - RECORDED_MAX))
    assert held.moved_out() == ()
    again = HeldCertificates(chain.genesis)
    again.restore([state], moved)
    assert (again.state(), again.moved_out()) == (state, ())
    assert (again.view, again.missing(0, 400, 16)) == (400, ())
    assert again.nullification(1) == chain.nullification(1)
    forgetful = HeldCertificates(chain.genesis)
    forgetful.restore([state], ())
    assert forgetful.missing(0, 400, 16) == ()
    assert forgetful.nullification(1) is None


def test_of_a_failure_beyond_all_bounds_the_oldest_certificates_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplex_state, "ARCHIVED_MAX", 3)
    chain, _ = setting()
    held = long_gap(chain, RECORDED_MAX + 5)
    assert [held.nullification(view) is None for view in (1, 2, 3, 4, 5, 6)] == [True, True, False, False, False, False]
    assert held.missing(0, RECORDED_MAX + 6, 16) == ()
    assert ARCHIVED_MAX + RECORDED_MAX == TRANSCRIPT_PROOFS_MAX


def test_an_observer_gives_what_it_held_before_a_restart() -> None:
    """It records no decision: the transcript is all that it finds again."""
    chain, _ = setting()
    held = HeldCertificates(chain.genesis)
    held.restore([], [chain.nullification(1), chain.nullification(2)])
    assert (held.view, held.missing(0, 3, 16)) == (3, ())
    assert held.entry() == (chain.nullification(2),)
    assert held.answer((1,)) == (chain.nullification(1),)
    final = HeldCertificates(chain.genesis)
    state = SafetyState(high_qc=chain.finalization(chain.block(2)), nullifications=(), let_go_from=0, let_go_to=0)
    final.restore([state], [chain.nullification(1), chain.nullification(2)])
    assert final.nullification(2) is None, "what is final needs none"


def test_what_comes_late_or_from_an_earlier_record_takes_no_view_from_memory() -> None:
    """::

    genesis <-- b2 <-N-        398 views failed above b2. A block on b2 skips them all, for good
    """
    chain, _ = setting()
    held = HeldCertificates(chain.genesis)
    held.take(chain.nullification(1))
    earlier = held.state()  # of the last proposal, say
    held.take(chain.notarization(chain.block(2)))
    for view in range(3, 401):
        held.take(chain.nullification(view))
    assert held.missing(2, 401, 16) == ()
    again = HeldCertificates(chain.genesis)
    again.restore([held.state(), earlier], ())
    assert again.missing(2, 401, 16) == ()
    held.take(chain.nullification(2))
    assert held.missing(1, 401, 16) == ()
    held.take(chain.nullification(1))
    assert held.missing(0, 401, 16) == ()


def test_what_is_missing_is_named_lowest_first_and_bounded() -> None:
    chain, _ = setting()
    held = HeldCertificates(chain.genesis)
    for view in (2, 5, 10**9):
        held.take(chain.nullification(view))
    assert held.missing(0, 7, REQUEST_VIEWS_MAX) == (1, 3, 4, 6)
    assert held.missing(1, 6, REQUEST_VIEWS_MAX) == (3, 4)
    assert held.missing(0, 10**9 + 1, REQUEST_VIEWS_MAX) == (1, 3, 4, *range(6, 19))
    assert held.missing(4, 6, REQUEST_VIEWS_MAX) == ()


def test_a_finalization_drops_every_nullification_below_it() -> None:
    chain, _ = setting()
    held = long_gap(chain, 5)
    held.take(chain.finalization(chain.block(4)))
    assert held.state().nullifications == (chain.nullification(5),)
    assert not held.wants(chain.nullification(3))
    assert [certificate.view for certificate in held.entry()] == [4, 5]
    held.take(chain.notarization(chain.block(9)))
    assert [certificate.kind for certificate in held.entry()] == [NOTARIZE, FINALIZE]


def test_several_records_are_one_state() -> None:
    """Each kind's record holds what was held when it was written."""
    chain, _ = setting()
    b3 = chain.block(3)
    held = HeldCertificates(chain.genesis)
    states = (
        SafetyState(high_qc=chain.notarization(b3), nullifications=(), let_go_from=0, let_go_to=0),
        SafetyState(
            high_qc=chain.genesis,
            nullifications=(chain.nullification(1), chain.nullification(2)),
            let_go_from=0,
            let_go_to=0,
        ),
    )
    held.restore(states, ())
    assert held.view == 4
    assert held.missing(0, 3, 16) == ()
