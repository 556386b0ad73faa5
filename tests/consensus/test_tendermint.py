"""Tendermint's rules, one story each. The replica under test is validator 3 of four, who proposes in height 1, round 3;
validators 0, 1, 2 propose in rounds 0, 1, 2. Line numbers are those of the paper's algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from consensus.certificates import QuorumChecker
from consensus.engine import (
    BlocksFetched,
    BuildPayload,
    CancelTimer,
    Commit,
    PayloadVerdict,
    SetTimer,
    TimerFired,
)
from consensus.protocols.tendermint_types import Proposal, Standing
from consensus.types import Subject
from netsim.mutants.tendermint import BROKEN, SEEN_ALONE
from tests.support import chain
from tests.support.chain import refused, tampered
from tests.support.tendermint import at, deadline_ns, fire, locked, setting, voted

replace = msgspec.structs.replace
MILLISECOND = 1_000_000


# --- one height, one round -----------------------------------------------------------------------------------------


def test_proposal_prevotes_precommits_decision() -> None:
    """::

    h1 r0   b   prevote b   Q   precommit b   Q   decided; h2 r0        the own votes count, through the signer
    """
    book, alone = setting()
    b = book.block(1, body=b"one")
    assert voted(book.propose(alone, b)) == [book.subject("prevote", b)]
    assert b.id in alone.journal.blocks
    assert not voted(book.hear(alone, book.prevote(b, 0)))
    happened = book.hear(alone, book.prevote(b, 1))
    assert voted(happened) == [book.subject("precommit", b)]
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


@pytest.mark.parametrize("giver", [1, 2], ids=["who proposes it again", "who shows its polka"])
def test_a_wrong_body_is_blamed_on_who_gave_it(giver: int) -> None:
    """::

    r0   b   polka among the others, its proposal is still under way to us
             we have its header and a wrong body, from 1 (b again, in r1) or from 2 (asked for it)
             its proposal comes: nothing was wrong with that one
    """
    book, alone = setting()
    alone.judge = lambda check: bytes(check.body) == b"one"
    b = book.block(1, body=b"one")
    polka = book.polka(b, 0)
    peer = alone.committee.peer(giver)
    if giver == 1:
        alone.hear(replace(book.proposal(b, 1, polka), body=memoryview(b"two")), 1)
    else:
        alone.hear(book.standing(polka=polka), 2)
        alone.feed(BlocksFetched(peer=peer, blocks=((b, memoryview(b"two")),), proof=None))
    happened = book.propose(alone, b)
    assert refused(happened, peer) == "a certified block with a body that is not the one its header names"
    assert not voted(happened)
    happened = alone.feed(BlocksFetched(peer=alone.committee.peer(0), blocks=((b, memoryview(b"one")),), proof=None))
    assert voted(happened) == [book.subject("prevote", b), book.subject("precommit", b)]


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


def test_who_locked_twice_does_not_go_back_behind_the_lock() -> None:
    """::

    r0   c   polka among the others
    r1   b   locked on b
    r2   c, valid round 0       0 < 1: nil;  polka: locked on c
    r4   c, valid round 0       0 < 2: nil, though locked on c: with the precommit of b that would look like amnesia
         c, valid round 2       prevote c
    """
    for valid_round in (0, 2):
        book, alone, _ = locked(1)
        c = book.block(1, 0)
        book.propose(alone, c, 2, book.polka(c, 0))
        votes = [book.prevote(c, signer, 2, valid_round=0) for signer in (0, 1, 2)]
        assert voted(book.hear(alone, *votes)) == [book.subject("precommit", c, 2)]
        book.fail(alone, 2)
        book.fail(alone, 3)
        prevoted = book.subject("prevote", c, 4, valid_round=2) if valid_round else book.subject("prevote", None, 4)
        assert voted(book.propose(alone, c, 4, book.polka(c, valid_round))) == [prevoted]


def test_a_lock_is_of_its_height() -> None:
    book, alone, b = locked()
    alone.hear(book.standing(book.commit(b)), 0)
    assert alone.committed == 1
    d = book.block(2, on=b)
    assert voted(book.propose(alone, d)) == [book.subject("prevote", d)]


def test_a_precommit_for_nil_keeps_the_lock() -> None:
    """::

    r0   b   locked on b
    r1   nil prevoted, nil precommitted
    r2   c   new: nil
    """
    book, alone, _ = locked()
    fire(alone, "propose")
    assert voted(book.prevotes(alone, None, 1)) == [book.subject("precommit", None, 1)]
    book.fail(alone, 1)
    assert voted(book.propose(alone, book.block(1, 2))) == [book.subject("prevote", None, 2)]


def test_nothing_is_precommitted_without_a_polka() -> None:
    book, alone = setting()
    b = book.block(1)
    assert [subject.kind for subject in voted(book.propose(alone, b))] == ["prevote"]
    assert not voted(book.hear(alone, book.prevote(b, 0), book.prevote(None, 1), book.prevote(None, 2)))


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


def test_a_polka_after_a_precommit_for_nil_is_no_lock() -> None:
    """::

    r0   prevoted b, precommitted nil by timeout; then the polka for b
    r1   c, new     not locked: prevote c
    """
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    book.hear(alone, book.prevote(None, 0), book.prevote(b, 1))
    fire(alone, "prevote")
    book.hear(alone, book.prevote(b, 2))
    book.fail(alone, 0)
    c = book.block(1, 1)
    assert voted(book.propose(alone, c)) == [book.subject("prevote", c)]


def test_a_polka_from_far_ahead_counts_once_more_in_its_round() -> None:
    """::

    r0    the polka of b in r20, further ahead than votes are kept
    r20   we follow, prevote nil; shown again, it is this round's: precommit b
    """
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    standing = book.standing(polka=book.polka(b, 20, valid_round=0))
    alone.hear(standing, 0)
    book.hear(alone, book.prevote(None, 0, 20), book.prevote(None, 1, 20))
    assert alone.view == at(1, 20)
    fire(alone, "propose")
    assert voted(alone.hear(standing, 0)) == [book.subject("precommit", b, 20)]


def test_a_valid_value_of_a_later_round_waits_for_one_above() -> None:
    """::

    r3   we propose; b has a polka of r9 already     with that polka r3 has no proposal that could be
    """
    book, alone = setting()
    b = book.block(1)
    book.propose(alone, b)
    alone.hear(book.standing(polka=book.polka(b, 9)), 0)
    for failed in range(3):
        happened = book.fail(alone, failed)
    assert alone.view == at(1, 3)
    assert not happened.sent(Proposal)
    happened = book.hear(alone, *(book.prevote(None, signer, 11) for signer in (0, 1)))
    assert [proposal.polka for proposal in happened.sent(Proposal)] == [book.polka(b, 9)]


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


def test_a_polka_of_the_next_height_is_its_valid_value() -> None:
    """::

    h2 r2   d   its polka comes while we are at h1;   h2 r1, r2 pass us by;   the proposer of h2 r6 proposes d
    """
    book, alone = setting()
    b = book.block(1)
    d = book.block(2, 2, on=b)
    book.propose(alone, b)
    alone.hear(book.standing(polka=book.polka(d)), 0)
    book.precommits(alone, b)
    alone.feed(BlocksFetched(peer=alone.committee.peer(0), blocks=((d, memoryview(b"")),), proof=None))
    assert alone.view == at(2)
    happened = book.hear(alone, *(book.prevote(None, signer, 6, height=2) for signer in (0, 1)))
    assert [proposal.header for proposal in happened.sent(Proposal)] == [d.header]


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


def test_a_decision_of_the_next_height_is_fetched_at_once() -> None:
    """::

    h2   d decided by the votes that come, nothing of h1 is here, and nothing else may come for long
    """
    book, alone = setting()
    d = book.block(2, on=book.block(1))
    assert [timer for timer in book.precommits(alone, d).of(SetTimer) if timer.name.startswith("sync:")]


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
    alone.hear(book.standing(votes=(book.prevote(None, 0, 7), book.prevote(None, 1, 7))), 2)
    assert alone.view == at(1, 7)


def test_votes_that_take_us_nowhere_are_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validator 0 signs as many votes as it likes, and any peer may show them: a check each, for nothing."""
    checked: list[int] = []
    check = QuorumChecker.check_signature

    def counting(checker: QuorumChecker, signer: int, subject: Subject, signature: bytes) -> bool:
        checked.append(signer)
        return check(checker, signer, subject, signature)

    monkeypatch.setattr(QuorumChecker, "check_signature", counting)
    book, alone = setting()
    book.fail(alone, 0)
    far = [book.prevote(None, 0, round_) for round_ in range(2, 1_000)]
    useless = {
        "two votes of one signer, or votes of two heights": (
            tuple(far),
            (far[0], book.prevote(None, 1, 7, height=2)),
        ),
        "votes of stake 1, which lets nobody enter a round": (far[:1],),
    }
    checked.clear()
    for reason, shown in useless.items():
        for votes in shown:
            happened = alone.hear(book.standing(votes=tuple(votes)), 2)
            assert refused(happened, alone.committee.peer(2)) == f"standing: {reason}"
    over = [book.precommit(None, signer, 0) for signer in range(3)]
    ours = [book.precommit(None, signer, 1) for signer in range(2)]
    for votes in ((*over[1:], far[9]), (ours[1], far[9]), ours, [book.prevote(None, signer, 1) for signer in range(3)]):
        assert alone.hear(book.standing(votes=tuple(votes)), 2).reasons == []
    assert checked == []
    alone.hear(book.standing(votes=(*ours, book.precommit(None, 2, 1))), 2)
    assert sorted(checked) == [0, 0, 1, 1, 2, 2]  # as they came, and as what ends the round
    fire(alone, "precommit")
    assert alone.view == at(1, 2)


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


# --- the stories can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "story"),
    [
        ("S4", test_a_lock_refuses_what_is_new),
        ("V1", test_an_earlier_polka_for_another_block_does_not),
        ("V2", test_a_precommit_for_nil_keeps_the_lock),
        ("V3", test_nothing_is_precommitted_without_a_polka),
        ("S5", test_prevotes_decide_nothing_and_neither_does_less_than_a_quorum),
        ("S1", test_proposal_prevotes_precommits_decision),
        ("L9", test_stake_a_in_higher_rounds_is_followed),
    ],
)
def test_a_broken_variant_breaks_its_story(
    broken: str, story: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = next(row.definition for row in (*BROKEN, *SEEN_ALONE) if row.id == broken)
    monkeypatch.setattr(chain, "protocol_named", lambda name: definition)
    with pytest.raises(AssertionError):
        story()
