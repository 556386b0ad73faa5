"""Tendermint's rules, one story each. The replica under test is validator 3 of four, who proposes in height 1, round 3;
validators 0, 1, 2 propose in rounds 0, 1, 2. Line numbers are those of the paper's algorithm 1.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.engine import (
    Broadcast,
    BuildPayload,
    CancelTimer,
    Commit,
    PayloadVerdict,
    PeerConnected,
    Refusal,
    ReportEvidence,
    SafetyRecord,
    Send,
    SetTimer,
    TimerFired,
)
from consensus.genesis import Pacing
from consensus.protocols.registry import protocol_named
from consensus.protocols.tendermint_types import Proposal, Standing
from consensus.types import Block, CommitProof, ProposalSubject, Vote, VoteSubject
from tests.support.chain import Alone, Happened, refused, tampered
from tests.support.committee import committee
from tests.support.tendermint import LONG_NS, Rounds, at, fire

replace = msgspec.structs.replace
PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50, growth_numerator=2, growth_denominator=1, exponent_max=2)
MILLISECOND = 1_000_000


def setting(me: int | None = 3, count: int = 4) -> tuple[Rounds, Alone]:
    members = committee(count, protocol="tendermint", pacing=PACING)
    return Rounds(members), Alone(members, me=me)


def voted(happened: Happened) -> list[VoteSubject]:
    return [subject for subject in happened.signed if isinstance(subject, VoteSubject)]


def deadline_ns(happened: Happened, name: str) -> int:
    return [effect.deadline_ns for effect in happened.of(SetTimer) if effect.name == name][-1]


# --- one height, one round -----------------------------------------------------------------------------------------


def test_proposal_prevotes_precommits_decision() -> None:
    """::

    h1 r0   b   prevote b   Q   precommit b   Q   decided; h2 r0        the own votes count, through the signer
    """
    book, alone = setting()
    b = book.block(1, body=b"one")
    assert voted(book.propose(alone, b)) == [book.subject("prevote", b)]
    assert not voted(book.hear(alone, book.prevote(b, 0)))
    happened = book.hear(alone, book.prevote(b, 1))
    assert voted(happened) == [book.subject("precommit", b)]
    assert b.id in alone.journal.blocks
    book.hear(alone, book.precommit(b, 0))
    assert (alone.committed, alone.view) == (0, at(1))
    happened = book.hear(alone, book.precommit(b, 1))
    assert [commit.block.id for commit in happened.of(Commit)] == [b.id]
    assert (alone.committed, alone.view) == (1, at(2))
    proof = happened.of(Commit)[0].proof
    assert proof is not None
    assert alone.replica.verify_commit(proof, b.header, 0) is None


def test_without_an_own_signature_nothing_of_ours_counts() -> None:
    book, alone = setting()
    alone.signs = False
    b = book.block(1)
    book.propose(alone, b)
    assert not voted(book.hear(alone, book.prevote(b, 0), book.prevote(b, 1)))


def test_a_block_with_a_bad_payload_gets_nil_and_one_not_judged_yet_gets_nothing() -> None:
    """L22-L26."""
    book, alone = setting()
    alone.judge = lambda check: False
    happened = book.propose(alone, book.block(1, body=b"bad"))
    assert voted(happened) == [book.subject("prevote", None)]
    assert refused(happened, alone.committee.peer(0)) == "payload: bad"
    book, alone = setting()
    alone.judge = lambda check: None
    b = book.block(1)
    assert not voted(book.propose(alone, b))
    alone.judge = lambda check: True
    assert voted(alone.feed(PayloadVerdict(block_id=b.id, certified=False, valid=True))) == [book.subject("prevote", b)]


def test_time_does_not_go_backwards() -> None:
    book, alone = setting()
    b = book.block(1)
    book.grow(alone, b)
    stale = book.block(2, on=b, timestamp_ms=b.header.timestamp_ms)
    happened = book.propose(alone, stale)
    assert voted(happened) == [book.subject("prevote", None, height=2)]
    assert refused(happened, alone.committee.peer(1)) == "proposal: its timestamp does not exceed its parent's"


def test_no_proposal_in_time_gets_nil_and_the_late_one_nothing() -> None:
    """L57-L60."""
    book, alone = setting()
    assert voted(fire(alone, "propose")) == [book.subject("prevote", None)]
    assert not voted(fire(alone, "propose"))
    assert not voted(book.propose(alone, book.block(1)))


def test_a_quorum_for_nil_precommits_nil() -> None:
    """L44-L46. In step propose nothing follows yet."""
    book, alone = setting()
    assert not voted(book.prevotes(alone, None))
    happened = fire(alone, "propose")
    assert voted(happened) == [book.subject("prevote", None), book.subject("precommit", None)]


def test_a_quorum_that_is_split_waits_and_precommits_nil() -> None:
    """::

    h1 r0   prevotes  0: b   1: nil   3: b     L34: timeoutPrevote     L61: precommit nil
    """
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.hear(alone, book.prevote(b, 0))
    happened = book.hear(alone, book.prevote(None, 1))
    assert deadline_ns(happened, "prevote") == alone.now + 50 * MILLISECOND
    assert not [effect for effect in book.hear(alone, book.prevote(None, 2)).of(SetTimer) if effect.name == "prevote"]
    assert voted(fire(alone, "prevote")) == [book.subject("precommit", None)]


def test_a_polka_that_comes_in_the_wait_is_precommitted() -> None:
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.hear(alone, book.prevote(None, 0), book.prevote(b, 1))
    happened = book.hear(alone, book.prevote(b, 2))
    assert voted(happened) == [book.subject("precommit", b)]
    assert "prevote" in [effect.name for effect in happened.of(CancelTimer)]
    assert not voted(fire(alone, "prevote"))


def test_precommits_that_decide_nothing_end_the_round_after_a_wait() -> None:
    """L47-L48, L65-L67; the next timeout is longer."""
    book, alone = setting()
    started = deadline_ns(alone.started, "propose")
    assert started == 100 * MILLISECOND
    b = book.block(1)
    happened = book.hear(alone, book.precommit(b, 0), book.precommit(None, 1), book.precommit(None, 2))
    assert deadline_ns(happened, "precommit") == 50 * MILLISECOND
    assert alone.view == at(1)
    happened = fire(alone, "precommit")
    assert alone.view == at(1, 1)
    assert deadline_ns(happened, "propose") == alone.now + 200 * MILLISECOND
    assert alone.replica.status().timeouts == 1


def test_precommits_with_bad_signatures_end_no_round() -> None:
    """They would be shown to others as what let us into the next."""
    book, alone = setting()
    bad = tampered(book.precommit(None, 1))
    happened = book.hear(alone, book.precommit(None, 0), bad, book.precommit(None, 2))
    assert not [effect for effect in happened.of(SetTimer) if effect.name == "precommit"]
    assert "precommit: the signature does not verify" in happened.reasons
    fire(alone, "propose")
    assert alone.view == at(1)


# --- locks ---------------------------------------------------------------------------------------------------------


def locked(round_: int = 0) -> tuple[Rounds, Alone, Block]:
    """::

    h1 r0   b   prevote b, Q: locked on b, precommit b; the others precommit nil: r1
    """
    book, alone = setting()
    for failed in range(round_):
        book.fail(alone, failed)
    b = book.block(1, round_)
    book.propose(alone, b)
    happened = book.prevotes(alone, b)
    assert voted(happened)[-1] == book.subject("precommit", b)
    book.fail(alone, round_)
    assert alone.view == at(1, round_ + 1)
    return book, alone, b


def test_a_lock_refuses_what_is_new() -> None:
    """L23: mutant "no lock"."""
    book, alone, _ = locked()
    assert voted(book.propose(alone, book.block(1, 1))) == [book.subject("prevote", None, 1)]


def test_what_is_locked_is_prevoted_again_with_its_valid_round() -> None:
    """L28-L30: the vote signs that the proposal came with the polka of round 0."""
    book, alone, b = locked()
    happened = book.propose(alone, b, 1, book.polka(b, 0))
    assert voted(happened) == [book.subject("prevote", b, 1, valid_round=0)]
    assert voted(happened)[0].justify_view == at(1, 0)


def test_a_later_polka_for_another_block_opens_the_lock() -> None:
    """::

    r0   b   locked on b
    r1   c   polka among the others
    r2   c, valid round 1       1 >= 0: prevote c;  polka: locked on c
    """
    book, alone, _ = locked()
    c = book.block(1, 1)
    book.propose(alone, c)
    book.fail(alone, 1)
    assert voted(book.propose(alone, c, 2, book.polka(c, 1))) == [book.subject("prevote", c, 2, valid_round=1)]
    votes = [book.prevote(c, signer, 2, valid_round=1) for signer in (0, 1)]
    assert voted(book.hear(alone, *votes)) == [book.subject("precommit", c, 2)]


def test_an_earlier_polka_for_another_block_does_not() -> None:
    """::

    r0   c   polka among the others
    r1   b   locked on b
    r2   c, valid round 0       0 < 1: nil          mutant "valid round not checked"
    """
    book, alone, _ = locked(1)
    c = book.block(1, 0)
    assert voted(book.propose(alone, c, 2, book.polka(c, 0))) == [book.subject("prevote", None, 2)]


def test_a_lock_is_of_its_height() -> None:
    book, alone, b = locked()
    alone.hear(book.standing(book.commit(b)), 0)
    assert alone.committed == 1
    d = book.block(2, on=b)
    assert voted(book.propose(alone, d)) == [book.subject("prevote", d)]


def test_nothing_is_precommitted_without_a_polka() -> None:
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.hear(alone, book.prevote(b, 0), book.prevote(None, 1), book.prevote(None, 2))
    assert not [subject for subject in alone.journal.safety if subject == "precommit"]


def test_a_polka_of_a_block_that_is_not_here_is_waited_for() -> None:
    """::

    r0   nil by timeout, then the polka for b comes, and b at last: L36 holds in step prevote
    """
    book, alone = setting()
    b = book.block(1)
    fire(alone, "propose")
    assert not voted(book.prevotes(alone, b))
    assert voted(book.propose(alone, b)) == [book.subject("precommit", b)]


# --- the valid value -----------------------------------------------------------------------------------------------


def test_a_polka_after_the_own_precommit_is_the_valid_value_alone() -> None:
    """L42-L43: precommitted nil in round 0, so not locked; the proposer of round 3 proposes b all the same."""
    book, alone = setting()
    b = book.block(1, body=b"one")
    book.propose(alone, b)
    book.hear(alone, book.prevote(None, 0), book.prevote(b, 1))
    fire(alone, "prevote")
    assert not voted(book.hear(alone, book.prevote(b, 2)))
    for failed in range(3):
        happened = book.fail(alone, failed)
    proposal = happened.sent(Proposal)[0]
    assert (proposal.header, proposal.view, bytes(proposal.body)) == (b.header, at(1, 3), b"one")
    assert proposal.polka is not None
    assert (proposal.polka.kind, proposal.polka.view, proposal.polka.block_id) == ("prevote", at(1), b.id)
    assert proposal.proposer == 3
    assert voted(happened)[-1] == book.subject("prevote", b, 3, valid_round=0)
    assert not happened.of(BuildPayload)


def test_a_proposer_without_a_valid_value_builds_on_its_head() -> None:
    """L18; an idle proposer waits the idle interval."""
    book, alone = setting(me=1)
    b = book.block(1)
    happened = book.grow(alone, b)
    build = happened.of(BuildPayload)[0]
    assert (build.view, build.parent, build.height) == (at(2), b.id, 2)
    assert build.deadline_ns == alone.now + 50 * MILLISECOND
    happened = alone.build(at(2), b.id, b"two")
    proposal = happened.sent(Proposal)[0]
    assert (proposal.view, proposal.header.view, proposal.polka) == (at(2), at(2), None)
    assert proposal.header.justify.kind == "precommit"
    assert [subject.kind for subject in happened.signed] == ["proposal", "prevote"]
    assert not alone.build(at(2), b.id, b"three").signed


def test_a_payload_that_comes_too_late_is_not_proposed() -> None:
    book, alone = setting(me=0)
    assert alone.started.of(BuildPayload)
    fire(alone, "propose")
    assert not alone.build(at(1), book.genesis.block_id).signed


def test_a_valid_value_that_comes_while_a_payload_is_built_goes_first() -> None:
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    for failed in range(3):
        happened = book.fail(alone, failed)
    assert happened.of(BuildPayload)
    happened = alone.hear(book.standing(polka=book.polka(b, 0)), 0)
    assert happened.sent(Proposal)[0].header == b.header
    assert not alone.build(at(1, 3), book.genesis.block_id, b"new").signed


def test_a_polka_of_a_round_that_fails_is_shown() -> None:
    """Else one hidden lock could stop every round that its owner does not lead."""
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    assert not book.prevotes(alone, b).sent(Standing)
    happened = book.hear(alone, book.precommit(None, 0), book.precommit(None, 1))
    assert [standing.polka.block_id for standing in happened.sent(Standing) if standing.polka] == [b.id]
    assert not book.hear(alone, book.precommit(None, 2)).sent(Standing)


# --- decisions -----------------------------------------------------------------------------------------------------


def test_precommits_of_an_old_round_decide() -> None:
    """L49: whatever the round and the step."""
    book, alone, b = locked()
    happened = book.hear(alone, book.precommit(b, 0, 0))
    assert not happened.of(Commit)  # its first vote of that round was for nil
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.hear(alone, book.precommit(b, 0), book.precommit(None, 1), book.precommit(b, 2))
    fire(alone, "precommit")
    book.fail(alone, 1)
    assert alone.view == at(1, 2)
    alone.hear(book.standing(book.commit(b)), 2)
    assert (alone.committed, alone.view) == (1, at(2))


def test_prevotes_decide_nothing_and_neither_does_less_than_a_quorum() -> None:
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.prevotes(alone, b)
    book.hear(alone, book.precommit(b, 0))
    assert alone.committed == 0
    fake = replace(book.polka(b), kind="precommit")
    happened = alone.hear(book.standing(fake), 1)
    assert refused(happened, alone.committee.peer(1)) == "standing: certificate: the signatures do not verify"
    happened = alone.hear(book.standing(book.polka(b)), 1)
    assert refused(happened, alone.committee.peer(1)) == "standing: certificate: kind 'prevote' certifies no block"
    assert alone.committed == 0


def test_the_next_proposal_shows_the_decision() -> None:
    """::

    h1   b       all precommits for b were lost
    h2   d       its header carries the commit certificate of b: commit b, prevote d, in one step
    """
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    d = book.block(2, on=b)
    happened = book.propose(alone, d)
    assert [commit.block.id for commit in happened.of(Commit)] == [b.id]
    assert voted(happened) == [book.subject("prevote", d)]


def test_a_decided_block_that_is_not_here_stops_the_rounds_until_it_is() -> None:
    book, alone = setting()
    b = book.block(1)
    book.precommits(alone, b)
    assert alone.view == at(1)
    assert not voted(fire(alone, "propose"))
    assert alone.replica.status().seen_height == 1
    book.propose(alone, b)
    assert (alone.committed, alone.view) == (1, at(2))


def test_votes_of_the_next_height_wait_for_it() -> None:
    """::

    h2   d proposed, prevoted and precommitted by the others, before anything of h1 arrived
    """
    book, alone = setting()
    b = book.block(1)
    d = book.block(2, on=b)
    book.prevotes(alone, d)
    book.precommits(alone, d)
    assert alone.committed == 0
    book.propose(alone, d)
    happened = book.propose(alone, b)
    assert [commit.block.id for commit in happened.of(Commit)] == [b.id, d.id]
    assert alone.view == at(3)
    e = book.block(3, on=d)
    assert voted(book.propose(alone, e)) == [book.subject("prevote", e)]


# --- rounds --------------------------------------------------------------------------------------------------------


def test_stake_a_in_higher_rounds_is_followed() -> None:
    """L55-L56: to the highest round that stake A (2 of 4) has reached or passed."""
    book, alone = setting()
    book.hear(alone, book.prevote(None, 0, 7))
    assert alone.view == at(1)
    book.hear(alone, book.prevote(None, 0, 9))
    book.hear(alone, book.prevote(None, 1, 5))
    assert alone.view == at(1, 5)
    book.hear(alone, book.precommit(None, 2, 6))
    assert alone.view == at(1, 6)


def test_however_far_they_are() -> None:
    book, alone = setting()
    book.hear(alone, book.prevote(None, 0, 100_000), book.prevote(None, 1, 200_000))
    assert alone.view == at(1, 100_000)


def test_nobody_is_followed_by_bad_signatures() -> None:
    book, alone = setting()
    happened = book.hear(alone, tampered(book.prevote(None, 0, 7)), book.prevote(None, 1, 7))
    assert alone.view == at(1)
    assert happened.reasons == ["vote: the signature does not verify"]
    book.hear(alone, book.prevote(None, 2, 7))
    assert alone.view == at(1, 7)


def test_a_round_is_entered_with_what_others_need_to_follow() -> None:
    """::

    replica 3   r0 -(precommits of 0, 1, 2)-> r1, and shows them;   another, who heard none of them, follows
    """
    book, alone = setting()
    book.fail(alone, 0)
    standing = fire(alone, "again").sent(Standing)[0]
    assert [(vote.kind, vote.view, vote.signer) for vote in standing.votes] == [
        ("precommit", at(1), signer) for signer in range(3)
    ]
    _, other = setting(me=2)
    other.hear(standing, 3)
    fire(other, "precommit")
    assert other.view == at(1, 1)


def test_a_round_entered_by_following_shows_whom() -> None:
    book, alone = setting()
    book.hear(alone, book.prevote(None, 0, 7), book.prevote(None, 1, 7))
    standing = fire(alone, "again").sent(Standing)[0]
    _, other = setting(me=2)
    other.hear(standing, 3)
    assert other.view == at(1, 7)


def test_others_votes_are_verified_one_by_one() -> None:
    book, alone = setting()
    votes = (book.prevote(None, 0, 7), tampered(book.prevote(None, 1, 7)))
    happened = alone.hear(book.standing(votes=votes), 2)
    assert refused(happened, alone.committee.peer(2)) == "standing: a vote that is not validator 1's"
    assert alone.view == at(1)
    stranger = replace(book.prevote(None, 1, 7), signer=4)
    happened = alone.hear(book.standing(votes=(stranger,)), 2)
    assert refused(happened, alone.committee.peer(2)) == "standing: a vote of validator 4, who is none"
    alone.hear(book.standing(votes=(book.prevote(None, 1, 7),)), 2)
    assert alone.view == at(1, 7)


def test_a_proposal_ahead_of_us_waits_for_its_round() -> None:
    book, alone = setting()
    c = book.block(1, 1)
    assert not voted(book.propose(alone, c))
    book.precommits(alone, None, 0)
    assert voted(fire(alone, "precommit")) == [book.subject("prevote", c)]


def test_a_timer_that_was_set_anew_on_its_way_is_no_timeout() -> None:
    book, alone = setting()
    book.fail(alone, 0)
    happened = alone.feed(TimerFired("propose"))
    assert not voted(happened)
    assert [effect.name for effect in happened.of(SetTimer)] == ["propose"]


# --- who is behind -------------------------------------------------------------------------------------------------


def test_what_others_may_wait_for_is_said_again() -> None:
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.prevotes(alone, b)
    happened = fire(alone, "again")
    assert [(vote.kind, vote.view) for vote in happened.sent(Vote)] == [("prevote", at(1)), ("precommit", at(1))]
    assert [standing.polka is not None for standing in happened.sent(Standing)] == [True]
    assert deadline_ns(happened, "again") == alone.now + 100 * MILLISECOND
    book.precommits(alone, b)
    assert not fire(alone, "again").sent(Vote)


def test_a_vote_of_an_old_height_is_answered_with_the_commit() -> None:
    """A late one, of the height before, is not: it was on its way. The same again is."""
    book, alone = setting()
    b = book.block(1)
    d = book.block(2, on=b)
    book.grow(alone, b, d)
    peer = alone.committee.peer(0)
    answers = [effect for effect in book.hear(alone, book.prevote(None, 0, 1)).of(Send) if effect.peer == peer]
    assert [answer.message.commit.block_id for answer in answers if isinstance(answer.message, Standing)] == [d.id]
    assert not book.hear(alone, book.prevote(None, 0, 2)).of(Send)
    alone.now += LONG_NS
    assert book.hear(alone, book.prevote(None, 0, 2)).of(Send)
    alone.now += LONG_NS
    late = book.prevote(d, 1)
    assert not book.hear(alone, late).of(Send)
    assert book.hear(alone, late).of(Send)


def test_a_peer_that_connects_is_brought_up_to_date() -> None:
    book, alone = setting(me=0)
    alone.build(at(1), book.genesis.block_id, b"one")
    happened = alone.feed(PeerConnected(alone.committee.peer(2)))
    assert {effect.peer for effect in happened.of(Send)} == {alone.committee.peer(2)}
    assert [type(effect.message).__name__ for effect in happened.of(Send)] == ["Standing", "Proposal", "Vote"]


def test_an_observer_follows_and_signs_nothing() -> None:
    book, alone = setting(me=None)
    b = book.block(1)
    happened = book.propose(alone, b)
    happened.effects += book.prevotes(alone, b).effects
    happened.effects += book.precommits(alone, b).effects
    happened.effects += fire(alone, "propose").effects
    happened.effects += fire(alone, "again").effects
    assert alone.view == at(2)
    assert not happened.signed
    assert not happened.of(Broadcast)


# --- after kill -9 -------------------------------------------------------------------------------------------------


def test_a_lock_survives() -> None:
    """Mutant "restart forgets the lock"."""
    book, alone, _ = locked()
    assert voted(fire(alone, "propose")) == [book.subject("prevote", None, 1)]  # what makes round 1 durable
    again = alone.restart()
    assert again.view == at(1, 1)
    book.fail(again, 1)
    assert voted(book.propose(again, book.block(1, 2))) == [book.subject("prevote", None, 2)]


def test_the_stored_votes_are_said_again_and_no_others() -> None:
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.prevotes(alone, b)
    again = alone.restart()
    assert [subject.kind for subject in again.started.signed] == ["precommit", "prevote"]
    assert len(again.started.sent(Vote)) == 2
    assert not voted(book.propose(again, book.block(1, timestamp_ms=7_000)))
    assert not voted(fire(again, "propose"))
    book.hear(again, book.precommit(b, 0))
    book.hear(again, book.precommit(b, 1))
    assert again.committed == 1  # with the own one, which came back through the signer


def test_a_prevote_that_was_stored_and_not_sent_is_the_prevote_of_the_round() -> None:
    book, alone = setting()
    alone.signs = False
    b = book.block(1)
    book.propose(alone, b)
    again = alone.restart()
    assert voted(again.started) == [book.subject("prevote", b)]
    assert not voted(fire(again, "propose"))


def test_a_proposal_is_the_same_after_a_restart() -> None:
    """New, and proposed again with its polka. The stored one is voted for."""
    book, alone = setting(me=0)
    first = alone.build(at(1), book.genesis.block_id, b"one").sent(Proposal)
    again = alone.restart()
    assert again.started.sent(Proposal) == first
    assert not again.started.of(BuildPayload)
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.prevotes(alone, b)
    for failed in range(3):
        happened = book.fail(alone, failed)
    again = alone.restart()
    assert again.started.sent(Proposal) == happened.sent(Proposal) != []
    assert again.view == at(1, 3)


def test_the_votes_that_let_it_into_its_round_survive() -> None:
    """Else a whole committee that was killed could wait for votes that nobody has any more."""
    book, alone = setting()
    book.fail(alone, 0)
    before = fire(alone, "propose").records
    assert [record.kind for record in before if isinstance(record, SafetyRecord)] == ["prevote"]
    again = alone.restart()
    assert len(fire(again, "again").sent(Standing)[0].votes) == 3


def test_a_commit_is_stood_on_after_a_restart() -> None:
    book, alone = setting(me=1)
    b = book.block(1)
    book.grow(alone, b)
    again = alone.restart()
    assert [commit.block.id for commit in again.started.of(Commit)] == [b.id]
    assert again.view == at(2)
    happened = again.build(at(2), b.id)
    proposal = happened.sent(Proposal)[0]
    assert (proposal.header.justify.block_id, proposal.header.justify.kind) == (b.id, "precommit")
    other = setting()[1]
    assert other.hear(proposal, 1).reasons == []


def test_a_journal_that_lost_its_end_signs_nothing_twice() -> None:
    """A disk that forgot the commit but not the vote of the next height: silent until it is there again."""
    book, alone = setting()
    b = book.block(1)
    book.grow(alone, b)
    book.propose(alone, book.block(2, on=b))
    alone.journal.commits.clear()
    again = alone.restart()
    assert again.view == at(1)
    assert not voted(book.propose(again, b))
    assert not voted(fire(again, "propose"))


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"proposer": 1}, "of validator 1, who is not this peer"),
        ({"epoch": 1}, "of another epoch"),
        ({"view": at(2)}, "its height, its own round and this round do not fit"),
        ({"view": at(1, 4)}, "a block of an earlier round goes with its polka, and no other does"),
        ({"view": at(1, 1)}, "validator 0 does not lead height 1, round 1"),
        ({"body": memoryview(b"x")}, "a body of 1 bytes where the header says 0"),
        ({"signature": b""}, "the signature is not its proposer's"),
    ],
)
def test_a_proposal_that_cannot_be(changes: dict[str, object], reason: str) -> None:
    book, alone = setting()
    happened = alone.hear(replace(book.proposal(book.block(1)), **changes), 0)
    assert refused(happened, alone.committee.peer(0)) == f"proposal: {reason}"
    assert not voted(happened)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entry_proof_hash": bytes(32)}, "names an entry proof, which no round has"),
        ({"view": at(2)}, "its height, its own round and this round do not fit"),
        ({"height": 2}, "the block does not follow from its certificate"),
        ({"proposer": 2}, "validator 2 does not lead height 1, round 0"),
        ({"chain": bytes(32)}, "of another chain"),
    ],
)
def test_a_block_that_cannot_be(changes: dict[str, object], reason: str) -> None:
    book, alone = setting()
    proposal = replace(book.proposal(book.like(book.block(1), **changes), 0), proposer=0)
    happened = alone.hear(proposal, 0)
    assert refused(happened, alone.committee.peer(0)) == f"proposal: {reason}"
    assert not voted(happened)


def test_a_polka_that_is_not_the_blocks_brings_nothing_back() -> None:
    book, alone = setting()
    b, c = book.block(1), book.block(1, timestamp_ms=9_000)
    wrong = {
        "its polka is not the block's": (book.polka(c, 0), replace(book.polka(b, 0), kind="precommit")),
        "its polka is not of an earlier round": (book.polka(b, 1),),
        "certificate: the signatures do not verify": (replace(book.polka(b, 0), signature=bytes(31) + b"\x05"),),
    }
    for reason, polkas in wrong.items():
        for polka in polkas:
            happened = book.propose(alone, b, 1, polka)
            assert refused(happened, alone.committee.peer(1)) == f"proposal: {reason}"
    happened = book.propose(alone, b, 0, book.polka(b, 0))
    assert refused(happened, alone.committee.peer(0)) == (
        "proposal: a block of an earlier round goes with its polka, and no other does"
    )


def test_a_block_stands_on_a_commit_and_not_on_a_polka() -> None:
    book, alone = setting()
    b = book.block(1)
    happened = book.propose(alone, book.block(2, on=book.polka(b)))
    assert refused(happened, alone.committee.peer(1)) == ("proposal: certificate: kind 'prevote' certifies no block")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 1}, "of epoch 1 and kind 'prevote'"),
        ({"kind": "vote"}, "of epoch 0 and kind 'vote'"),
        ({"signer": 2}, "of validator 2, who is not this peer"),
        ({"view": 5}, "of a height that is decided by definition"),
        ({"height": 2}, "for a block that cannot be"),
        ({"view": at(2)}, "for a block that cannot be"),
        ({"justify_view": at(1)}, "for a block that cannot be"),
        ({"block_id": bytes(32)}, "for no block, with the height or view of one"),
    ],
)
def test_a_vote_that_cannot_be(changes: dict[str, object], reason: str) -> None:
    book, alone = setting()
    happened = alone.hear(replace(book.prevote(book.block(1), 1), **changes), 1)
    assert refused(happened, alone.committee.peer(1)) == f"vote: {reason}"


def test_nobody_votes_for_genesis() -> None:
    """Pitfall 4."""
    book, alone = setting()
    vote = replace(book.prevote(book.block(1), 1), block_id=book.genesis.block_id)
    assert refused(alone.hear(vote), alone.committee.peer(1)) == "vote: for a block that cannot be"


# --- equivocation --------------------------------------------------------------------------------------------------


def test_two_blocks_in_one_round_are_evidence_once() -> None:
    book, alone = setting()
    b, c, d = book.block(1), book.block(1, timestamp_ms=9_000), book.block(1, timestamp_ms=9_001)
    book.propose(alone, b)
    happened = book.propose(alone, c)
    assert not voted(happened)
    evidence = happened.of(ReportEvidence)
    assert [(report.first, report.second) for report in evidence] == [(book.proposal(b), book.proposal(c))]
    statement = protocol_named("tendermint").statement
    for message in (evidence[0].first, evidence[0].second):
        stated = statement(message)
        assert stated is not None
        assert stated.signer == 0
        assert alone.committee.sign(0, stated.subject) == stated.signature
    assert not book.propose(alone, d).of(ReportEvidence)


def test_one_block_in_two_rounds_is_none() -> None:
    book, alone, b = locked()
    assert not book.propose(alone, b, 1, book.polka(b, 0)).of(ReportEvidence)
    signed = protocol_named("tendermint").statement(book.proposal(b, 1, book.polka(b, 0)))
    assert signed is not None
    assert (signed.signer, signed.subject) == (1, ProposalSubject(epoch=0, view=at(1, 1), block_id=b.id))


@pytest.mark.parametrize("kind", ["prevote", "precommit"])
def test_two_votes_of_one_kind_in_one_round_are_evidence_and_count_once(kind: str) -> None:
    book, alone = setting()
    b, c = book.block(1), book.block(1, timestamp_ms=9_000)
    book.propose(alone, b)
    first, second = (book.vote(book.subject(kind, block), 0) for block in (c, b))
    assert not book.hear(alone, first).of(ReportEvidence)
    assert [(report.first, report.second) for report in book.hear(alone, second).of(ReportEvidence)] == [
        (first, second)
    ]
    happened = book.hear(alone, book.vote(book.subject(kind, b), 1))
    assert not happened.of(Commit)
    assert not [subject for subject in voted(happened) if subject.kind == "precommit"]


def test_a_flood_of_far_votes_leaves_one_of_each_signer() -> None:
    """Pitfall 15."""
    from netsim.oracles.others import size_of

    book, alone = setting()
    book.hear(alone, book.prevote(None, 0, 1_000))
    before = size_of(alone.replica, (alone.committee,))
    for number in range(2_000):
        vote = book.prevote(None, 0, 1_000 + number, height=1 + number % 5)
        alone.hear(vote)
    assert size_of(alone.replica, (alone.committee,)) < before + 60_000
    assert alone.view == at(1)


# --- what convinces a stranger -------------------------------------------------------------------------------------


def proof_of(book: Rounds, block: Block, round_: int | None = None, *ancestors: Block) -> CommitProof:
    headers = tuple(later.header for later in (*ancestors[1:], block)) if ancestors else ()
    return CommitProof(epoch=0, headers=headers, certificate=book.commit(block, round_))


def test_a_quorum_of_precommits_of_any_later_round_is_a_proof() -> None:
    book, alone = setting()
    b = book.block(1, 2)
    for round_ in (2, 3, 9):
        assert alone.replica.verify_commit(proof_of(book, b, round_), b.header, 0) is None
    d = book.block(2, on=book.commit(b, 9))
    e = book.block(3, on=d)
    assert alone.replica.verify_commit(proof_of(book, e, None, b, d), b.header, 0) is None


def test_what_is_no_proof() -> None:
    book, alone = setting()
    b = book.block(1, 2)
    good = proof_of(book, b)
    subject = book.subject("precommit", b)
    wrong = {
        "commit proof: the certificate is not of a round in which the block could be decided": (
            proof_of(book, b, 1),
            replace(good, certificate=book.certificate(replace(subject, view=at(2)))),
        ),
        "certificate: kind 'prevote' certifies no block": (replace(good, certificate=book.polka(b)),),
        "signers: stake 2 is below the quorum of 3": (replace(good, certificate=book.certificate(subject, (0, 1))),),
        "commit proof: the certificate is not the last header's": (proof_of(book, book.block(1)),),
        "commit proof: a confirmation where none belongs": (replace(good, confirmation=good.certificate),),
        "commit proof: of another chain or epoch": (replace(good, epoch=1),),
    }
    for reason, proofs in wrong.items():
        for proof in proofs:
            assert alone.replica.verify_commit(proof, b.header, 0) == Refusal(reason)
    assert alone.replica.verify_commit(good, b.header, 1) == Refusal("commit proof: epoch 1 is not known here")


def test_views_count_turns_and_have_names() -> None:
    definition = protocol_named("tendermint")
    assert [definition.turn(at(5, round_)) for round_ in (0, 1, 7)] == [5, 6, 12]
    assert definition.view_name(at(5, 7)) == "height 5, round 7"
