"""Tendermint's replica among others and after a crash: who is behind, what survives, what is refused, what convinces a
stranger. The replica under test is validator 3 of four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import msgspec
import pytest

from consensus.crypto.scheme import Scheme
from consensus.engine import (
    BlocksFetched,
    Broadcast,
    BuildPayload,
    Commit,
    PeerConnected,
    Refusal,
    ReportEvidence,
    SafetyRecord,
    Send,
)
from consensus.protocols.registry import protocol_named
from consensus.protocols.tendermint_types import Proposal, Standing
from consensus.types import Block, CommitProof, ProposalSubject, Vote
from netsim.mutants.tendermint import BROKEN, SEEN_ALONE
from tests.support import chain
from tests.support.chain import refused
from tests.support.tendermint import LONG_NS, Rounds, at, deadline_ns, fire, locked, setting, voted

replace = msgspec.structs.replace
MILLISECOND = 1_000_000


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
    d = book.block(2, on=b)
    happened.effects += book.propose(alone, d).effects
    happened.effects += fire(alone, "propose").effects
    happened.effects += book.prevotes(alone, d).effects
    happened.effects += book.precommits(alone, None, height=2).effects
    happened.effects += fire(alone, "again").effects
    assert alone.view == at(2)
    assert not happened.signed
    assert not happened.of(Broadcast)


def test_only_news_of_a_standing_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven votes of a quorum of five make many certificates of one thing."""
    verified: list[bytes] = []
    book, alone = setting(count=7)
    scheme = type(alone.committee.scheme)
    verify = scheme.verify_aggregate

    def counting(self: Scheme, keys: Sequence[bytes], message: bytes, signature: bytes) -> bool:
        verified.append(message)
        return verify(self, keys, message, signature)

    monkeypatch.setattr(scheme, "verify_aggregate", counting)
    b = book.block(1)
    d = book.block(2, on=b)
    precommits, prevotes = book.subject("precommit", b), book.subject("prevote", d)
    for signers in combinations(range(7), 5):
        commit, polka = book.certificate(precommits, signers), book.certificate(prevotes, signers)
        assert alone.hear(book.standing(commit, polka), 0).reasons == []
        if signers == (0, 1, 2, 3, 4):
            assert len(verified) == 2
            book.propose(alone, b)
            assert alone.view == at(2)
            verified.clear()
    assert verified == []


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


@pytest.mark.parametrize("restarts", [False, True])
def test_a_head_that_its_descendant_proved_is_stood_on(restarts: bool) -> None:
    """::

    h1 b  h2 d    fetched: b alone, with a proof that goes through d's header
    """
    book, alone = setting(me=1)
    b = book.block(1)
    d = book.block(2, on=book.commit(b, 4))
    proof = CommitProof(epoch=0, headers=(d.header,), certificate=book.commit(d))
    alone.feed(BlocksFetched(peer=alone.committee.peer(0), blocks=((b, memoryview(b"")),), proof=proof))
    assert alone.committed == 1
    if restarts:
        alone = alone.restart()
    happened = alone.build(at(2), b.id, b"two")
    assert [proposal.header.justify for proposal in happened.sent(Proposal)] == [book.commit(b, 4)]


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


# --- the stories can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "story"),
    [
        ("S2", test_two_blocks_in_one_round_are_evidence_once),
        ("S9", test_a_prevote_that_was_stored_and_not_sent_is_the_prevote_of_the_round),
        ("S10", test_a_lock_survives),
        ("R1", test_a_proposal_is_the_same_after_a_restart),
        ("V4", test_a_polka_that_is_not_the_blocks_brings_nothing_back),
        ("S5", test_what_is_no_proof),
        ("L7", test_what_others_may_wait_for_is_said_again),
    ],
)
def test_a_broken_variant_breaks_its_story(
    broken: str, story: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = next(row.definition for row in (*BROKEN, *SEEN_ALONE) if row.id == broken)
    monkeypatch.setattr(chain, "protocol_named", lambda name: definition)
    with pytest.raises((AssertionError, IndexError)):
        story()
