"""The rules of Simplex, one story each. The engine is fed by hand.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on. A quorum is three of four.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import digest
from consensus.engine import (
    BlockRecord,
    BlocksFetched,
    BuildPayload,
    Commit,
    FetchBlocks,
    PayloadVerdict,
    ReportEvidence,
    SetTimer,
    Sign,
)
from consensus.genesis import Pacing
from consensus.protocols.simplex_types import (
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    Certificates,
    CertificatesRequest,
    Proposal,
)
from consensus.types import CommitProof, Vote
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


# --- notarize --------------------------------------------------------------------------------------------------------


def test_a_block_on_the_notarization_of_the_view_before() -> None:
    """::

    genesis <- b1 <- b2        each is notarized, and its notarization leads into the next view
    """
    chain, alone = setting()
    b1 = chain.block(1)
    assert proposed(chain, alone, b1).signed == [chain.subject(NOTARIZE, b1)]
    b2 = chain.block(2, on=b1)
    happened = proposed(chain, alone, b2)
    assert happened.signed == [chain.subject(FINALIZE, b1), chain.subject(NOTARIZE, b2)]
    assert alone.view == 2


def test_only_one_block_of_a_view_is_notarized() -> None:
    """::

    genesis <- b1
           \\- c1        the leader's second block is reported and gets nothing
    """
    chain, alone = setting()
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    assert proposed(chain, alone, b1).signed
    happened = proposed(chain, alone, c1)
    assert not happened.signed
    (evidence,) = happened.of(ReportEvidence)
    assert isinstance(evidence.first, Proposal)
    assert isinstance(evidence.second, Proposal)
    assert [evidence.first.header, evidence.second.header] == [b1.header, c1.header]


def test_a_gap_must_be_nullified_view_by_view() -> None:
    """::

    genesis <- b1 <- b5        views 2, 3 and 4 between; the proposal shows nullification 4. Mutant X2.
    """
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    b5 = chain.block(5, on=b1)
    happened = proposed(chain, alone, b5)
    assert alone.view == 5, "the certificates in a proposal are processed first"
    assert chain.subject(NOTARIZE, b5) not in happened.signed
    assert requests(happened) == [(2, 3)]
    assert not told(alone, chain.nullification(3)).signed
    assert told(alone, chain.nullification(2)).signed == [chain.subject(NOTARIZE, b5)]


def test_a_notarized_view_in_the_gap_is_skipped_only_when_it_was_nullified_too() -> None:
    """::

    b1 <- b2 <-N-              view 2 has a notarization, and perhaps a finalization: a block that skips it
      \\- b4                    needs its nullification as well
    """
    chain, alone = setting(me=2)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    proposed(chain, alone, b1, b2)
    told(alone, chain.notarization(b2))
    b4 = chain.block(4, on=b1)
    assert chain.subject(NOTARIZE, b4) not in proposed(chain, alone, b4).signed
    assert chain.subject(NOTARIZE, b4) in told(alone, chain.nullification(2)).signed


def test_a_block_needs_a_notarized_parent() -> None:
    """::

    genesis <- b1 <-?- b2        two signatures, a nullify quorum, or somebody else's id are no notarization. Mutant X3.
    """
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    two = chain.notarization(b1, [0, 1])
    assert "below the quorum" in refused(proposed(chain, alone, chain.block(2, on=two)), alone.committee.peer(1))
    forged = replace(chain.nullification(1), block_id=b1.id, height=1)
    assert "kind 'nullify'" in refused(proposed(chain, alone, chain.block(2, on=forged)), alone.committee.peer(1))
    named = replace(chain.notarization(b1), block_id=b"\x07" * 32)
    assert "do not verify" in refused(proposed(chain, alone, chain.block(2, on=named)), alone.committee.peer(1))
    assert alone.view == 1


def test_a_finalization_counts_as_a_notarization() -> None:
    """::

    genesis <- b1 <-F- b2
    """
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    b2 = chain.block(2, on=chain.finalization(b1))
    happened = proposed(chain, alone, b2)
    assert happened.signed == [chain.subject(NOTARIZE, b2)], "what is final needs no finalize of mine"
    assert [commit.block.id for commit in happened.of(Commit)] == [b1.id]


def test_nothing_is_notarized_in_a_view_that_was_nullified() -> None:
    chain, alone = setting()
    assert alone.time_out().signed == [chain.subject(NULLIFY, 1)]
    assert not proposed(chain, alone, chain.block(1)).signed


def test_a_vote_waits_for_the_payload_and_for_the_ancestors() -> None:
    """::

    genesis <- b1 <- b2        b1 is not here: pitfalls 14 and 22
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert not proposed(chain, alone, b2).signed
    alone.judge = lambda check: None
    assert not proposed(chain, alone, b1).signed
    assert not alone.feed(PayloadVerdict(block_id=b1.id, certified=False, valid=True)).signed[1:]
    happened = alone.feed(PayloadVerdict(block_id=b2.id, certified=False, valid=True))
    assert chain.subject(NOTARIZE, b2) in happened.signed


def test_an_invalid_payload_is_nullified_at_once() -> None:
    chain, alone = setting()
    alone.judge = lambda check: False
    happened = proposed(chain, alone, chain.block(1))
    assert happened.signed == [chain.subject(NULLIFY, 1)]
    assert refused(happened, alone.committee.peer(0)) == "payload: bad"


def test_a_timestamp_that_does_not_grow_is_nullified_at_once() -> None:
    chain, alone = setting()
    happened = proposed(chain, alone, chain.block(1, timestamp_ms=1_000))
    assert happened.signed == [chain.subject(NULLIFY, 1)]
    assert "timestamp" in refused(happened, alone.committee.peer(0))


@pytest.mark.parametrize("field", ["parent", "height", "proposer", "entry_proof_hash", "chain", "next_validators_hash"])
def test_a_malformed_block_is_refused(field: str) -> None:
    """Mutant D6."""
    chain, alone = setting()
    b1 = chain.block(1)
    changed = {"height": 2, "proposer": 1, "next_validators_hash": b"\x05"}.get(field, b"\x05" * 32)
    bad = chain.like(b1, **{field: changed})
    happened = alone.hear(chain.proposal(bad, signer=0), peer=0)
    assert refused(happened, alone.committee.peer(0)).startswith("proposal: ")
    assert proposed(chain, alone, b1).signed


def test_only_the_leader_of_its_view_proposes_and_in_one_epoch() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    usurper = chain.like(b1, proposer=1)
    assert "does not lead view 1" in refused(alone.hear(chain.proposal(usurper), peer=1), alone.committee.peer(1))
    mixed = replace(chain.proposal(b1), epoch=1)
    assert "another epoch" in refused(alone.hear(mixed, peer=0), alone.committee.peer(0))
    assert "not this peer" in refused(alone.hear(chain.proposal(b1), peer=1), alone.committee.peer(1))


def test_a_proposal_shows_exactly_the_nullification_that_its_header_names() -> None:
    """::

    genesis <- b2        nullification 1, by 0, 1, 2; by 1, 2, 3; none; of view 3; a notarization
    """
    chain, alone = setting()
    b1, b2 = chain.block(1), chain.block(2)
    good = chain.proposal(b2)
    for proof in (
        chain.nullification(1, [1, 2, 3]),
        None,
        chain.nullification(3),
        chain.notarization(b1),
    ):
        happened = alone.hear(replace(good, entry_proof=proof), peer=1)
        assert "nullified" in refused(happened, alone.committee.peer(1))
    on_b1 = replace(chain.proposal(chain.block(2, on=b1)), entry_proof=chain.nullification(1))
    assert "does not need" in refused(alone.hear(on_b1, peer=1), alone.committee.peer(1))
    early = chain.like(b2, view=6)  # validator 1 leads view 6 too, and shows that view 1 was nullified
    assert "nullified" in refused(alone.hear(chain.proposal(early), peer=1), alone.committee.peer(1))
    assert alone.hear(good, peer=1).signed == [chain.subject(NOTARIZE, b2)]


def test_a_proposal_bears_its_leaders_signature() -> None:
    """What two of them prove, others must be able to check."""
    chain, alone = setting()
    b1 = chain.block(1)
    happened = alone.hear(chain.proposal(b1, signer=2), peer=0)
    assert refused(happened, alone.committee.peer(0)) == "proposal: the signature is not its leader's"
    assert alone.hear(chain.proposal(b1), peer=0).signed == [chain.subject(NOTARIZE, b1)]


def test_a_nullification_shown_is_verified_even_by_who_holds_one_of_that_view() -> None:
    """What the header names is what forensics will look for."""
    chain, alone = setting()
    told(alone, chain.nullification(1))
    forged = replace(chain.nullification(1, [1, 2, 3]), signature=bytes(32))
    b2 = chain.like(chain.block(2), entry_proof_hash=digest(forged))
    happened = alone.hear(replace(chain.proposal(b2), entry_proof=forged), peer=1)
    assert "do not verify" in refused(happened, alone.committee.peer(1))


# --- finalize and commit ---------------------------------------------------------------------------------------------


def test_three_message_delays_to_a_commit() -> None:
    """Proposal, notarize, finalize: each is answered in the step in which the last of a quorum arrives."""
    chain, alone = setting()
    b1 = chain.block(1)
    assert proposed(chain, alone, b1).sent(Vote) == [chain.notarize(b1, 3)]
    assert not alone.hear(chain.notarize(b1, 0)).sent(Vote)
    happened = alone.hear(chain.notarize(b1, 1))
    assert happened.sent(Vote) == [chain.finalize(b1, 3)]
    assert alone.view == 2
    alone.hear(chain.finalize(b1, 0))
    (commit,) = alone.hear(chain.finalize(b1, 1)).of(Commit)
    assert commit.block.id == b1.id
    assert commit.proof is not None
    assert alone.engine.verify_commit(commit.proof, b1.header, 0) is None


def test_who_nullified_a_view_does_not_finalize_it() -> None:
    """::

    genesis <- b1 <-N-        I gave view 1 up before its notarization came. Mutant X1.
    """
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    assert alone.time_out().signed == [chain.subject(NULLIFY, 1)]
    assert not told(alone, chain.notarization(b1)).signed
    assert alone.view == 2


def test_who_finalized_a_view_has_left_it_and_nullifies_the_next_one() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    assert told(alone, chain.notarization(b1)).signed == [chain.subject(FINALIZE, b1)]
    assert alone.time_out().signed == [chain.subject(NULLIFY, 2)]


def test_a_late_notarization_below_what_was_nullified_is_not_finalized() -> None:
    """::

    genesis <- b1 <-N-        comes in view 3, after my nullify of 2: slots only grow
    """
    chain, alone = setting()
    b1 = chain.block(1)
    told(alone, chain.nullification(1))
    alone.time_out()
    told(alone, chain.nullification(2))
    proposed(chain, alone, b1)
    assert not told(alone, chain.notarization(b1)).signed


def test_the_second_of_two_notarizations_of_a_view_is_not_finalized() -> None:
    """::

    genesis <- b1 <-N-        with more than F faulty there may be two: I finalize one of them
           \\- c1 <-N-
    """
    chain, alone = setting()
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    proposed(chain, alone, b1)
    assert told(alone, chain.notarization(b1)).signed == [chain.subject(FINALIZE, b1)]
    assert not told(alone, chain.notarization(c1, [1, 2, 3])).signed
    c2 = chain.block(2, on=c1)
    assert chain.subject(FINALIZE, c1) not in proposed(chain, alone, c2).signed


def test_finalize_waits_for_the_block() -> None:
    """::

    genesis <- b1 <-N-        the notarization is here, the block is not: it is fetched, then finalized and recorded
    """
    chain, alone = setting()
    b1 = chain.block(1, body=b"one")
    happened = told(alone, chain.notarization(b1))
    assert alone.view == 2
    assert not happened.signed
    alone.judge = lambda check: None
    proposed(chain, alone, b1)
    happened = alone.feed(PayloadVerdict(block_id=b1.id, certified=True, valid=True))
    assert happened.signed == [chain.subject(FINALIZE, b1)]
    assert [record.block.id for record in happened.records if isinstance(record, BlockRecord)] == [b1.id]


def test_a_finalization_commits_at_any_later_time_and_its_ancestors_with_it() -> None:
    """::

    genesis <- b1 <- b2 <-F-        views 3 to 40 failed meanwhile
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    proposed(chain, alone, b1, b2)
    told(alone, chain.nullification(40))
    assert alone.view == 41
    happened = told(alone, chain.finalization(b2))
    assert [commit.block.id for commit in happened.of(Commit)] == [b1.id, b2.id]
    assert alone.view == 41


def test_a_finalization_that_came_before_its_blocks_commits_them_without_another_one() -> None:
    """::

    genesis <- b1 <-F- b2 <- b3 <-F- b4 <-N-        b1 can be had with its proof first, then the others
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    b4 = chain.block(4, on=b3)
    told(alone, chain.finalization(b3), chain.notarization(b4))
    peer = alone.committee.peer(1)
    proof = CommitProof(epoch=0, headers=(), certificate=chain.finalization(b1))
    alone.feed(BlocksFetched(peer=peer, blocks=((b1, chain.body(b1)),), proof=proof))
    assert alone.committed == 1
    rest = tuple((block, chain.body(block)) for block in (b2, b3, b4))
    happened = alone.feed(BlocksFetched(peer=peer, blocks=rest, proof=None))
    assert [commit.block.id for commit in happened.of(Commit)] == [b2.id, b3.id]


def test_late_finalize_votes_commit() -> None:
    """Votes for a view that is over are counted as long as the tally's window holds it."""
    chain, alone = setting()
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1))
    told(alone, *(chain.nullification(view) for view in range(2, 9)))
    assert alone.view == 9
    alone.hear(chain.finalize(b1, 0))
    assert [commit.block.id for commit in alone.hear(chain.finalize(b1, 1)).of(Commit)] == [b1.id]


def test_a_finalization_without_its_block_enters_the_next_view_and_fetches() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    told(alone, chain.finalization(b1))
    assert alone.view == 2
    assert alone.committed == 0
    assert [commit.block.id for commit in proposed(chain, alone, b1).of(Commit)] == [b1.id]


def test_what_is_committed_needs_no_finalize_of_mine() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    told(alone, chain.notarization(b1))
    told(alone, chain.finalization(b1))
    happened = proposed(chain, alone, b1)
    assert [commit.block.id for commit in happened.of(Commit)] == [b1.id]
    assert not happened.signed


def test_a_notarization_commits_nothing() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    proposed(chain, alone, b1, b2)
    assert not told(alone, chain.notarization(b2)).of(Commit)


# --- nullify ---------------------------------------------------------------------------------------------------------


def test_leader_timer_and_advance_timer() -> None:
    """2D from the entry while nothing was proposed, 3D once it was; D is half a view timeout of 100 ms."""
    chain, alone = setting()
    assert view_deadline_ns(alone.started) == 100 * MILLISECOND
    alone.now = 30 * MILLISECOND
    assert view_deadline_ns(proposed(chain, alone, chain.block(1))) == 150 * MILLISECOND
    alone.now = 150 * MILLISECOND
    assert view_deadline_ns(alone.time_out()) == 250 * MILLISECOND, "and then every 2D"


def test_timers_grow_while_nothing_is_committed() -> None:
    chain, alone = setting()
    happened = told(alone, chain.nullification(9))
    grown = 100 * MILLISECOND * 6**8 // 5**8
    assert view_deadline_ns(happened) == grown, "view 10, nothing committed, two views are normal"


def test_a_nullify_is_repeated_with_all_that_would_end_the_view() -> None:
    """::

    genesis <- b1 <-N- b2        notarized and nullified: the view goes on
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    proposed(chain, alone, b1, b2)
    alone.time_out()
    again = alone.time_out()
    assert not again.signed
    assert again.sent(Vote) == [chain.notarize(b2, 3), chain.nullify(2, 3), chain.finalize(b1, 3)]
    assert again.sent(Certificates) == [Certificates(epoch=0, certificates=(chain.notarization(b1),))]


def test_a_quorum_of_nullifies_ends_the_view() -> None:
    chain, alone = setting()
    alone.time_out()
    alone.hear(chain.nullify(1, 0))
    happened = alone.hear(chain.nullify(1, 1))
    assert alone.view == 2
    (sent,) = happened.sent(Certificates)
    assert [(certificate.kind, certificate.view) for certificate in sent.certificates] == [(NULLIFY, 1)]


def test_stake_a_of_nullifies_is_joined_and_less_is_not() -> None:
    """One of two is honest, of one it is not known. Timers of others may be ten times slower: pitfall 11."""
    chain, alone = setting(count=7)
    assert not alone.hear(chain.nullify(1, 0)).signed
    assert not alone.hear(chain.nullify(1, 0)).signed, "the same one twice is one"
    assert not alone.hear(chain.nullify(1, 1)).signed
    assert alone.hear(chain.nullify(1, 2)).signed == [chain.subject(NULLIFY, 1)]


def test_nullifies_that_came_early_are_joined_on_entry() -> None:
    chain, alone = setting()
    for signer in (0, 1):
        assert not alone.hear(chain.nullify(2, signer)).signed
    assert told(alone, chain.nullification(1)).signed == [chain.subject(NULLIFY, 2)]
    assert alone.view == 3, "its own was the third"


# --- evidence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NOTARIZE, FINALIZE])
def test_two_votes_of_one_kind_in_a_view_are_reported(kind: str) -> None:
    chain, alone = setting()
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    first, second = (getattr(chain, kind)(block, 2) for block in (b1, c1))
    alone.hear(first)
    assert alone.hear(second).of(ReportEvidence) == [ReportEvidence(first, second)]
    assert not alone.hear(second).of(ReportEvidence)


def test_finalize_and_nullify_of_one_view_are_reported_once() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    finalize, nullify = chain.finalize(b1, 2), chain.nullify(1, 2)
    alone.hear(nullify)
    assert not alone.hear(tampered(finalize)).of(ReportEvidence), "nobody is blamed for what he did not sign"
    chain, alone = setting()
    alone.hear(tampered(nullify))
    for _ in range(3):  # each time costs a verification
        happened = alone.hear(finalize)
        assert not happened.of(ReportEvidence)
        assert "does not verify" in refused(happened, alone.committee.peer(2))
    chain, alone = setting()
    alone.hear(nullify)
    assert alone.hear(finalize).of(ReportEvidence) == [ReportEvidence(nullify, finalize)]
    assert not alone.hear(finalize).of(ReportEvidence)
    chain, alone = setting()
    alone.hear(chain.notarize(b1, 2))
    assert not alone.hear(nullify).of(ReportEvidence), "notarize and nullify are both allowed"


# --- leading ---------------------------------------------------------------------------------------------------------


def test_a_leader_proposes_on_the_highest_notarization_and_notarizes_its_block() -> None:
    """::

    genesis <- b1 <-N- b4        views 2 and 3 nullified
    """
    chain, alone = setting(me=3)
    b1 = chain.block(1)
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1), chain.nullification(2))
    happened = told(alone, chain.nullification(3))
    (build,) = happened.of(BuildPayload)
    assert (build.view, build.parent, build.height) == (4, b1.id, 2)
    happened = alone.build(4, b1.id, b"payload")
    (proposal,) = happened.sent(Proposal)
    assert proposal.entry_proof == chain.nullification(3)
    assert proposal.header.justify == chain.notarization(b1)
    assert [sign.subject.kind for sign in happened.of(Sign)] == ["proposal", NOTARIZE]
    _, voter = setting(me=2)
    proposed(chain, voter, b1)
    told(voter, chain.nullification(2))
    assert voter.hear(proposal, peer=3).sent(Vote)[-1].kind == NOTARIZE


def test_a_leader_that_lacks_nullifications_asks_first() -> None:
    chain, alone = setting(me=3)
    happened = told(alone, chain.nullification(3))
    assert not happened.of(BuildPayload)
    assert requests(happened) == [(1, 2)]
    happened = told(alone, chain.nullification(1), chain.nullification(2))
    assert happened.of(BuildPayload)


def test_a_higher_notarization_makes_nullifications_below_it_needless() -> None:
    """::

    genesis <- b2 <-N- b4        the leader lacks nullification 1, which b2 stands over, and needs it no more
    """
    chain, alone = setting(me=3)
    b2 = chain.block(2)
    assert requests(told(alone, chain.nullification(3))) == [(1, 2)]
    proposed(chain, alone, b2)
    happened = told(alone, chain.notarization(b2))
    (build,) = [*happened.of(BuildPayload)] or alone.time_out().of(BuildPayload)
    assert build.parent == b2.id


def test_a_leader_proposes_once() -> None:
    chain, alone = setting(me=0)
    assert alone.build(1, chain.genesis.block_id, b"one").sent(Proposal)
    assert not alone.build(1, chain.genesis.block_id, b"two").effects


def test_a_leader_that_gave_its_view_up_proposes_nothing() -> None:
    chain, alone = setting(me=0)
    alone.time_out()
    assert not alone.build(1, chain.genesis.block_id).effects
    chain, alone = setting(me=3)
    told(alone, chain.nullification(3))
    alone.time_out()
    assert not told(alone, chain.nullification(1), chain.nullification(2)).of(BuildPayload)


def test_a_leader_whose_ground_turns_out_final_higher_up_builds_anew() -> None:
    """::

    genesis <- b1 <- .          being built in view 4, over nullifications 2 and 3
           \\- c3 <-F-          more than F are faulty: view 3 is final after all, and c3 is not here
    """
    chain, alone = setting(me=3)
    b1, c3 = chain.block(1), chain.block(3)
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1), chain.nullification(2), chain.nullification(3))
    told(alone, chain.finalization(c3))
    happened = alone.build(4, b1.id)
    assert not happened.signed
    assert not happened.sent(Proposal)


def test_a_leader_records_every_block_that_its_proposal_stands_on() -> None:
    """::

    genesis <- b1 <-N- b2        I nullified view 1: no vote of mine recorded b1
    """
    chain, alone = setting(me=1)
    b1 = chain.block(1)
    alone.time_out()
    proposed(chain, alone, b1)
    told(alone, chain.notarization(b1))
    happened = alone.build(2, b1.id)
    (b2,) = happened.sent(Proposal)
    recorded = [record.block.header for record in happened.records if isinstance(record, BlockRecord)]
    assert recorded == [b1.header, b2.header]


def test_an_idle_leader_waits_and_so_it_does_while_its_parents_commit_is_on_its_way() -> None:
    """::

    genesis <- b1 <-N-        b1 carries a payload; I finalized it: three such votes commit it without another block
    """
    chain, alone = setting(me=1)
    b1 = chain.block(1, body=b"one")
    proposed(chain, alone, b1)
    (build,) = told(alone, chain.notarization(b1)).of(BuildPayload)
    assert build.deadline_ns == 50 * MILLISECOND


def test_a_leader_hurries_when_a_payload_waits_that_nobody_finalizes() -> None:
    """::

    genesis <- b1 <-N-        b1 carries a payload; I nullified view 1, and others may have
    """
    chain, alone = setting(me=1)
    b1 = chain.block(1, body=b"one")
    proposed(chain, alone, b1)
    alone.time_out()
    alone.now = 7 * MILLISECOND
    (build,) = told(alone, chain.notarization(b1)).of(BuildPayload)
    assert build.deadline_ns == 7 * MILLISECOND


def test_an_observer_follows_and_signs_nothing() -> None:
    chain, alone = setting(me=None)
    b1 = chain.block(1)
    happened = proposed(chain, alone, b1)
    for signer in (0, 1, 2):
        more = (alone.hear(chain.notarize(b1, signer)), alone.hear(chain.finalize(b1, signer)))
        happened.effects += [*more[0].effects, *more[1].effects]
    assert (alone.view, alone.committed) == (2, 1)
    happened.effects += told(alone, chain.nullification(2)).effects
    assert not happened.signed
    assert not happened.of(SetTimer)
    assert not happened.of(FetchBlocks)
    assert not alone.journal.safety
