"""Streamlet's rules, one by one, on a replica fed by hand.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on; the replica under test is validator 3. In
the pictures ``b5`` is a block of view 5, ``<-c-`` a certificate.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.engine import (
    BuildPayload,
    Commit,
    FetchBlocks,
    PayloadVerdict,
    PeerConnected,
    Recovered,
    ReportEvidence,
    Send,
)
from consensus.genesis import Pacing
from consensus.protocols.streamlet import StreamletEngine
from consensus.protocols.streamlet_definition import STREAMLET
from consensus.protocols.streamlet_types import Certificates, Clock, Proposal, restore
from consensus.safety import SafetyGuard
from consensus.types import Block, BlockHeader, CommitProof, Vote
from consensus.vote_tally import VIEWS_AHEAD
from tests.support.chain import Alone, refused, tampered, view_deadline_ns
from tests.support.committee import committee
from tests.support.streamlet import Notary, with_state

replace = msgspec.structs.replace
MILLISECOND = 1_000_000
PACING = Pacing(view_timeout_ms=100, idle_interval_ms=20, growth_numerator=2, growth_denominator=1, exponent_max=2)


def setting(me: int | None = 3, count: int = 4) -> tuple[Notary, Alone]:
    members = committee(count, protocol="streamlet", pacing=PACING)
    return Notary(members), Alone(members, me=me)


# --- vote ----------------------------------------------------------------------------------------------------------


def test_the_leaders_block_is_voted_for_and_everybody_told() -> None:
    """::

    genesis <- b1
    """
    notary, alone = setting()
    b1 = notary.block(1)
    happened = notary.propose(alone, b1)
    assert happened.signed == [notary.vote_subject(b1)]
    assert happened.sent(Vote) == [notary.vote(b1, 3)]
    assert [type(record).__name__ for record in happened.records] == ["BlockRecord", "SafetyRecord"]


def test_one_vote_in_a_view_for_the_first_block() -> None:
    """::

    genesis <- b1        the leader's twin proposes c1 in the same view, and later still d1 comes
           \\- c1
    """
    notary, alone = setting()
    b1, c1, d1 = (notary.block(1, timestamp_ms=stamp) for stamp in (2_000, 2_001, 2_002))
    assert notary.propose(alone, b1).signed
    second = notary.propose(alone, c1)
    assert not second.signed
    (evidence,) = second.of(ReportEvidence)
    assert isinstance(evidence.first, Proposal)
    assert isinstance(evidence.second, Proposal)
    assert (evidence.first.header, evidence.second.header) == (b1.header, c1.header)
    third = notary.propose(alone, d1)
    assert not third.signed
    assert not third.of(ReportEvidence), "one conviction is enough"


def test_only_a_longest_chain_is_voted_for() -> None:
    """::

    genesis <- b1 <- b2 <-c-        b3 stands on b1: a chain of one, where one of two was seen
                 \\- b3
    """
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.grow(alone, b1, b2)
    notary.due(alone, 3)
    assert not notary.propose(alone, notary.block(3, on=b1)).signed
    notary.due(alone, 4)
    assert notary.propose(alone, notary.block(5, on=b2)).signed == []
    assert notary.due(alone, 5).signed, "what came before its view is voted for in it"


def test_any_of_two_longest_chains_will_do_whichever_is_newer() -> None:
    """::

    genesis <- b1 <-c- <- b3        both are seen notarized before b3 comes. Lengths count, not views (mutant D2):
           \\- c2 <-c-               b1 is as long as c2
    """
    notary, alone = setting()
    b1, c2 = notary.block(1), notary.block(2)
    notary.due(alone, 3)
    notary.notarize(alone, b1)
    notary.notarize(alone, c2)
    notary.propose(alone, b1)
    notary.propose(alone, c2)
    b3 = notary.block(3, on=b1)
    assert notary.propose(alone, b3).signed == [notary.vote_subject(b3)]


def test_a_block_shows_the_chain_that_it_stands_on() -> None:
    """::

    genesis <- b1 <-c- b2        nobody but b2 told of b1's certificate
    """
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.propose(alone, b1)
    notary.due(alone, 2)
    assert notary.propose(alone, b2).signed == [notary.vote_subject(b2)]
    notary.due(alone, 3)
    assert not notary.propose(alone, notary.block(3)).signed, "shorter than what b2 has shown"


def test_nothing_is_voted_for_before_its_ancestors_are_here() -> None:
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.due(alone, 2)
    happened = notary.propose(alone, b2)
    assert not happened.signed
    assert [fetch.block_id for fetch in happened.of(FetchBlocks)] == [], "block sync waits a moment for it"
    assert notary.propose(alone, b1).signed == [notary.vote_subject(b2)]


def test_nothing_is_voted_for_before_its_payload_was_judged() -> None:
    notary, alone = setting()
    alone.judge = lambda check: None
    b1 = notary.block(1, body=b"payload")
    assert not notary.propose(alone, b1).signed
    assert alone.feed(PayloadVerdict(block_id=b1.id, certified=False, valid=True)).signed


def test_a_bad_payload_is_not_voted_for_and_its_leader_named() -> None:
    notary, alone = setting()
    alone.judge = lambda check: False
    happened = notary.propose(alone, notary.block(1, body=b"payload"))
    assert not happened.signed
    assert refused(happened, alone.committee.peer(0)) == "payload: bad"


def test_timestamps_grow() -> None:
    notary, alone = setting()
    b1 = notary.block(1)
    notary.grow(alone, b1)
    notary.due(alone, 2)
    happened = notary.propose(alone, notary.block(2, on=b1, timestamp_ms=b1.header.timestamp_ms))
    assert not happened.signed
    assert "its timestamp does not exceed" in refused(happened, alone.committee.peer(1))


def test_after_a_restart_neither_view_nor_height_of_a_vote_falls() -> None:
    """::

    genesis <- b1 <-c- b2        voted for in view 2, at height 2; then the node dies
           \\- c2, c3             c2: of a view that it voted in. c3: at height 1, below its vote
    """
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.propose(alone, b1)
    notary.due(alone, 2)
    notary.propose(alone, b2)
    again = alone.restart()
    assert again.view == 2
    assert again.started.sent(Vote) == [notary.vote(b2, 3)], "the stored vote, once more"
    assert not notary.propose(again, notary.block(2)).signed
    notary.due(again, 3)
    assert not notary.propose(again, notary.block(3)).signed


@pytest.mark.parametrize("kinds", [("proposal", "vote"), ("vote", "proposal")])
def test_of_several_records_the_highest_of_each_field_counts_in_whatever_order_they_come(
    kinds: tuple[str, str],
) -> None:
    """A vote at height 2 in view 2, then a proposal on a chain that is longer by then; one record each."""
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.grow(alone, b1, b2)
    notary.due(alone, 4)
    alone.build(4, b2.id)
    safety = alone.journal.safety
    safety["proposal"] = with_state(safety["proposal"], last_voted_view=1, last_voted_height=1)
    assert safety["proposal"].state != safety["vote"].state
    records = tuple(safety[kind] for kind in kinds)
    state, _ = restore(Recovered(safety=records), SafetyGuard(), notary.genesis)
    assert (state.last_voted_view, state.last_voted_height, state.longest) == (4, 3, notary.certificate(b2))
    records = tuple(
        with_state(safety[kind], longest=notary.genesis) if kind == "vote" else safety[kind] for kind in kinds
    )
    state, _ = restore(Recovered(safety=records), SafetyGuard(), notary.genesis)
    assert state.longest == notary.certificate(b2)


def test_the_height_of_the_last_vote_counts_even_when_the_chain_it_stood_on_is_forgotten() -> None:
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.propose(alone, b1)
    notary.due(alone, 2)
    notary.propose(alone, b2)
    alone.journal.safety["vote"] = with_state(alone.journal.safety["vote"], longest=notary.genesis)
    again = alone.restart()
    notary.due(again, 3)
    assert not notary.propose(again, notary.block(3)).signed
    notary.due(again, 4)
    notary.due(again, 5)
    b5 = notary.block(5, on=b1)
    assert notary.propose(again, b5).signed == [notary.vote_subject(b5)], "height 2 again: it did not fall"


def test_a_double_voter_is_reported_and_a_bad_signature_named() -> None:
    notary, alone = setting()
    b1, c1 = notary.block(1), notary.block(1, timestamp_ms=2_000)
    alone.hear(notary.vote(b1, 2))
    happened = alone.hear(tampered(notary.vote(c1, 2)))
    assert refused(happened, alone.committee.peer(2)) == "vote: the signature does not verify"
    evidence = alone.hear(notary.vote(c1, 2)).of(ReportEvidence)
    assert evidence == [ReportEvidence(notary.vote(b1, 2), notary.vote(c1, 2))]


def test_spoilers_of_a_quorum_are_named() -> None:
    notary, alone = setting()
    b1 = notary.block(1)
    alone.hear(tampered(notary.vote(b1, 2)))
    alone.hear(notary.vote(b1, 0))
    assert refused(alone.hear(notary.vote(b1, 1)), alone.committee.peer(2)) == "vote: the signature does not verify"
    assert notary.propose(alone, b1).sent(Certificates), "0, 1 and the own vote are a quorum"


# --- finalize ------------------------------------------------------------------------------------------------------


def commits(views: tuple[int, ...]) -> list[int]:
    """The views of the blocks that are final once a chain of these views is notarized."""
    notary, alone = setting(me=None)
    committed: list[int] = []
    blocks = notary.chain(*views)
    for block in blocks:
        notary.due(alone, block.header.view)
        committed += [commit.block.header.view for commit in notary.propose(alone, block).of(Commit)]
    return committed + [commit.block.header.view for commit in notary.notarize(alone, blocks[-1]).of(Commit)]


@pytest.mark.parametrize(
    ("views", "final"),
    [
        ((5,), []),
        ((5, 6), []),
        ((5, 6, 7), [5, 6]),
        ((5, 6, 7, 8), [5, 6, 7]),
        ((2, 5, 6, 7), [2, 5, 6]),
        ((5, 6, 8), []),
        ((5, 7, 8), []),
        ((5, 7, 9), []),
        ((5, 6, 8, 9), []),
        ((5, 6, 8, 9, 10), [5, 6, 8, 9]),
        ((1, 2), [1]),
        ((1, 3), []),
        ((2, 3), []),
    ],
)
def test_three_in_a_row_make_the_second_final_and_all_before_it(views: tuple[int, ...], final: list[int]) -> None:
    """::

    genesis(0) <- b5 <- b6 <- b7 <-c-        5, 6 and 7 follow each other: b6 is final, and b5 before it

    The last block's certificate comes last. Genesis counts as the block of view 0.
    """
    assert commits(views) == final


def test_a_certificate_may_come_before_its_blocks() -> None:
    notary, alone = setting()
    b1, b2, b3 = notary.chain(1, 2, 3)
    notary.notarize(alone, b3)
    assert alone.view == 3
    notary.propose(alone, b3)
    notary.propose(alone, b1)
    assert [commit.block for commit in notary.propose(alone, b2).of(Commit)] == [b1, b2]


def test_a_replica_counts_votes_itself() -> None:
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.propose(alone, b1)
    notary.due(alone, 2)
    notary.propose(alone, b2)
    assert not alone.hear(notary.vote(b2, 0)).of(Commit)
    assert [commit.block for commit in alone.hear(notary.vote(b2, 1)).of(Commit)] == [b1]


def proof_of(notary: Notary, *blocks: Block) -> tuple[CommitProof, BlockHeader]:
    """That the first of these blocks is committed, by the last one's certificate."""
    headers = tuple(block.header for block in blocks[1:])
    return CommitProof(epoch=0, headers=headers, certificate=notary.certificate(blocks[-1])), blocks[0].header


def test_a_stranger_is_convinced_by_headers_and_one_certificate() -> None:
    """::

    b2 <- b5 <- b6 <- b7 <-c-        b6 by (b7), b5 by (b6, b7), b2 by all; never b7

    The view of the first of three stands in the second's header.
    """
    notary, alone = setting(me=None)
    chain = notary.chain(2, 5, 6, 7)
    for start in range(3):
        proof, header = proof_of(notary, *chain[start:])
        assert alone.engine.verify_commit(proof, header, 0) is None
    for start, reason in ((3, "these views commit nothing"), (0, "the headers do not follow from each other")):
        proof, _ = proof_of(notary, *chain[start:])
        refusal = alone.engine.verify_commit(proof, chain[3].header, 0)
        assert refusal is not None
        assert refusal.reason == f"commit proof: {reason}"


def test_what_convinces_no_stranger() -> None:
    notary, alone = setting(me=None)
    b5, b6, b7 = notary.chain(5, 6, 7)
    b8 = notary.block(8, on=b6)
    good, header = proof_of(notary, b6, b7)

    def reason(proof: CommitProof, of: BlockHeader = header, epoch: int = 0) -> str:
        refusal = alone.engine.verify_commit(proof, of, epoch)
        assert refusal is not None
        return refusal.reason

    assert "commit nothing" in reason(*proof_of(notary, b6, b8)), "a gap after the second"
    assert "commit nothing" in reason(*proof_of(notary, b5, b6)), "a gap before the second"
    assert "not the last header's" in reason(replace(good, certificate=notary.certificate(b6)))
    assert "below the quorum" in reason(replace(good, certificate=notary.certificate(b7, (0, 1))))
    assert "not the last header's" in reason(replace(good, certificate=replace(good.certificate, view=9)))
    assert "do not verify" in reason(replace(good, certificate=replace(good.certificate, justify_view=5)))
    assert "do not follow" in reason(good, replace(b6.header, timestamp_ms=7))
    assert "not the only one" in reason(replace(good, confirmation=notary.certificate(b7)))
    assert "epoch 1" in reason(good, header, 1)
    assert "another chain or epoch" in reason(replace(good, epoch=1))


# --- the clock -----------------------------------------------------------------------------------------------------


def test_my_clock_alone_ends_no_view_and_is_heard_again() -> None:
    notary, alone = setting()
    for _ in range(3):
        assert alone.time_out().sent(Clock) == [Clock(epoch=0, view=2)]
    assert alone.view == 1
    notary.due(alone, 2, 0)
    assert alone.view == 1
    notary.due(alone, 2, 1)
    assert alone.view == 2


def test_stake_a_makes_me_say_it_and_a_quorum_begins_the_view() -> None:
    """One clock that runs ahead moves nobody; of two, one is honest, so I join; and three begin the view."""
    notary, alone = setting()
    assert not notary.due(alone, 9, 0).effects
    assert notary.due(alone, 2, 1).sent(Clock) == [Clock(epoch=0, view=2)]
    assert alone.view == 2, "0, 1 and I"
    assert not notary.due(alone, 2, 2).sent(Clock), "said before"
    assert notary.due(alone, 3, 2).sent(Clock) == [Clock(epoch=0, view=3)]
    assert alone.view == 3


def test_what_was_said_long_ago_is_said_again_when_it_comes_true() -> None:
    """A word that was lost must not keep the others out of a view that begins here."""
    notary, alone = setting()
    alone.now = 100 * MILLISECOND
    alone.time_out()
    alone.now = 120 * MILLISECOND
    assert not notary.due(alone, 2).sent(Clock)
    alone.now = 250 * MILLISECOND
    alone.time_out()
    alone.now = 301 * MILLISECOND
    assert notary.due(alone, 3).sent(Clock) == [Clock(epoch=0, view=3)]
    assert alone.view == 3


def test_a_certificate_and_votes_tell_the_time_too() -> None:
    notary, alone = setting()
    notary.notarize(alone, notary.block(7))
    assert alone.view == 7
    b8 = notary.block(8)
    alone.hear(notary.vote(b8, 0))
    assert alone.view == 7
    assert alone.hear(notary.vote(b8, 1)).sent(Clock) == [Clock(epoch=0, view=8)]
    assert alone.view == 8


def test_one_liars_far_future_moves_nobody() -> None:
    notary, alone = setting()
    for view in (10, 10**9, 2**63 - 1):
        assert not notary.due(alone, view, 2).effects
    assert alone.view == 1
    notary.due(alone, 2, 0)
    assert alone.view == 2


def test_a_clock_of_no_validator_or_another_epoch_is_refused() -> None:
    _, alone = setting()
    stranger = b"s" * 32
    assert refused(alone.hear(Clock(epoch=0, view=2), stranger), stranger).startswith("clock: ")
    assert refused(alone.hear(Clock(epoch=1, view=2), 1), alone.committee.peer(1)).startswith("clock: of epoch 1")


def test_a_view_lasts_the_timeout_and_longer_while_nothing_commits() -> None:
    notary, alone = setting()
    assert view_deadline_ns(alone.started) == 100 * MILLISECOND
    lasts = [view_deadline_ns(notary.due(alone, view)) // MILLISECOND for view in (2, 3, 4, 5, 6)]
    assert lasts == [100, 200, 400, 400, 400], "doubled from the third view without a commit, at most twice"
    notary.grow(alone, *notary.chain(7, 8, 9))
    assert view_deadline_ns(notary.due(alone, 10)) == 100 * MILLISECOND


def test_failed_views_are_counted() -> None:
    notary, alone = setting()
    notary.due(alone, 2)
    assert alone.replica.status().timeouts == 1
    notary.grow(alone, notary.block(2))
    notary.due(alone, 3)
    assert alone.replica.status().timeouts == 1


# --- the echo ------------------------------------------------------------------------------------------------------


def test_a_longer_chain_is_passed_on_once_and_again_when_a_view_failed() -> None:
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    told = Certificates(epoch=0, longest=notary.certificate(b2))
    assert notary.notarize(alone, b2).sent(Certificates) == [told]
    assert not notary.notarize(alone, b2).sent(Certificates)
    assert notary.notarize(alone, b1).of(Send) == [Send(alone.committee.peer(1), told)], "that peer lacks it"
    assert not notary.due(alone, 3).sent(Certificates), "view 2 was a good one"
    assert notary.due(alone, 4).sent(Certificates) == [told], "view 3 was not"


def test_who_connects_is_told_what_it_missed() -> None:
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.grow(alone, b1)
    notary.due(alone, 2)
    notary.propose(alone, b2)
    peer = alone.committee.peer(1)
    assert alone.feed(PeerConnected(peer)).of(Send) == [
        Send(peer, Clock(epoch=0, view=2)),
        Send(peer, Certificates(epoch=0, longest=notary.certificate(b1))),
        Send(peer, notary.vote(b2, 3)),
    ]
    notary.due(alone, 3)
    assert not alone.feed(PeerConnected(peer)).sent(Vote), "of a view that is over"


@pytest.mark.parametrize("field", ["signature", "signers", "view", "height", "block_id", "kind", "epoch"])
def test_a_false_certificate_is_refused_and_teaches_nothing(field: str) -> None:
    notary, alone = setting()
    changes: dict[str, object] = {
        "signature": bytes(32), "signers": b"\x03", "view": 9, "height": 9, "block_id": notary.genesis.block_id,
        "kind": "genesis", "epoch": 1,
    }  # fmt: skip
    certificate = replace(notary.certificate(notary.block(4)), **{field: changes[field]})
    happened = alone.hear(Certificates(epoch=0, longest=certificate), 2)
    reason = refused(happened, alone.committee.peer(2))
    assert reason.startswith("signers: " if field == "signers" else "certificate: ")
    assert (alone.view, happened.sent(Certificates)) == (1, [])


# --- propose -------------------------------------------------------------------------------------------------------


def test_a_leader_extends_the_longest_chain_once_and_votes_for_it() -> None:
    """Validator 3 leads view 4::

    genesis <- b1 <- b2 <-c- <- b4
           \\- c3 <-c-                   newer, and shorter
    """
    notary, alone = setting()
    b1, b2 = notary.chain(1, 2)
    notary.grow(alone, b1, b2)
    notary.due(alone, 3)
    c3 = notary.block(3)
    notary.propose(alone, c3)
    notary.notarize(alone, c3)
    (build,) = notary.due(alone, 4).of(BuildPayload)
    assert (build.view, build.parent, build.height) == (4, b2.id, 3)
    happened = alone.build(4, b2.id)
    (proposal,) = happened.sent(Proposal)
    assert proposal.header.justify == notary.certificate(b2)
    assert [subject.kind for subject in happened.signed] == ["proposal", "vote"]
    assert not alone.build(4, b2.id, b"other").sent(Proposal)
    again = alone.restart()
    assert again.started.sent(Proposal) == [proposal], "the same, not another"
    assert not again.started.of(BuildPayload)


def test_a_leader_that_learns_of_a_longer_chain_while_it_waits_builds_on_that() -> None:
    notary, alone = setting()
    b1 = notary.block(1)
    notary.propose(alone, b1)
    (first,) = notary.due(alone, 4).of(BuildPayload)
    assert first.parent == notary.genesis.block_id
    (second,) = notary.notarize(alone, b1).of(BuildPayload)
    assert second.parent == b1.id
    assert not alone.build(4, first.parent).sent(Proposal)
    assert alone.build(4, second.parent).sent(Proposal)


def test_an_idle_leader_waits_its_part_of_the_view_and_an_urgent_one_does_not() -> None:
    notary, alone = setting()
    alone.now = 5 * MILLISECOND
    (build,) = notary.due(alone, 4).of(BuildPayload)
    assert build.deadline_ns == 25 * MILLISECOND
    lazy = committee(4, protocol="streamlet", pacing=replace(PACING, idle_interval_ms=90))
    (build,) = Notary(lazy).due(Alone(lazy, me=3), 4).of(BuildPayload)
    assert build.deadline_ns == 25 * MILLISECOND, "a quarter of the view at most"
    notary, alone = setting()
    notary.grow(alone, notary.block(3, body=b"payload"))
    (build,) = notary.due(alone, 4).of(BuildPayload)
    assert build.deadline_ns == 0


def test_a_leader_that_lacks_the_longest_chains_blocks_does_not_propose() -> None:
    notary, alone = setting()
    b1 = notary.block(1)
    notary.notarize(alone, b1)
    assert not notary.due(alone, 4).of(BuildPayload)
    assert notary.propose(alone, b1).of(BuildPayload)


# --- proposals of others -------------------------------------------------------------------------------------------


def test_a_proposal_waits_for_its_view() -> None:
    notary, alone = setting()
    b2 = notary.block(2)
    assert not notary.propose(alone, b2).signed
    assert notary.due(alone, 2).signed == [notary.vote_subject(b2)]


def test_a_proposal_of_the_far_future_is_not_kept() -> None:
    """Pitfall 15: what a peer may make us hold is bounded."""
    notary, alone = setting()
    far = notary.block(1 + VIEWS_AHEAD + 1)
    assert not notary.propose(alone, far).effects
    assert isinstance(alone.engine, StreamletEngine)
    assert len(alone.engine._blocks.tree) == len(alone.engine._first_proposals._first) == 0
    notary.due(alone, 2)
    assert not notary.propose(alone, far).effects, "near enough now"
    notary.due(alone, far.header.view)
    assert notary.propose(alone, far).signed == []
    near = notary.block(far.header.view + 2)
    assert notary.propose(alone, near).signed == []
    assert notary.due(alone, near.header.view).signed == [notary.vote_subject(near)]


def test_only_the_leader_proposes_and_only_itself() -> None:
    notary, alone = setting()
    b1 = notary.block(1)
    proposal = notary.proposal(b1)
    peer = alone.committee.peer
    assert "is not this peer" in refused(alone.hear(proposal, 2), peer(2))
    stolen = notary.like(b1, proposer=2)
    assert "does not lead view 1" in refused(notary.propose(alone, stolen), peer(2))
    assert "not its leader's" in refused(alone.hear(notary.proposal(b1, signer=2), 0), peer(0))
    assert "epoch" in refused(alone.hear(replace(proposal, epoch=1), 0), peer(0))
    assert notary.propose(alone, b1).signed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain": bytes(32)}, "of another chain"),
        ({"height": 2}, "does not follow from its certificate"),
        ({"parent": bytes(32)}, "does not follow from its certificate"),
        ({"next_validators_hash": bytes(1)}, "names validators by a hash of 1 bytes"),
        ({"entry_proof_hash": bytes(32)}, "entry proof"),
        ({"payload_size": 3}, "a body of 0 bytes"),
        ({"payload_root": b"r" * 32}, "empty payload"),
    ],
)
def test_a_block_that_cannot_be_is_refused(changes: dict[str, object], reason: str) -> None:
    notary, alone = setting()
    happened = notary.propose(alone, notary.like(notary.block(1), **changes))
    assert reason in refused(happened, alone.committee.peer(0))
    assert not happened.signed


def test_a_block_on_a_false_certificate_is_refused() -> None:
    notary, alone = setting()
    b1 = notary.block(1)
    false = replace(notary.certificate(b1), signature=bytes(32))
    happened = notary.propose(alone, notary.block(2, on=false))
    assert "do not verify" in refused(happened, alone.committee.peer(1))


# --- observers -----------------------------------------------------------------------------------------------------


def test_an_observer_follows_and_says_nothing() -> None:
    notary, alone = setting(me=None)
    b1, b2 = notary.chain(1, 2)
    happened = alone.time_out()
    for block in (b1, b2):
        happened.effects += notary.due(alone, block.header.view).effects
        happened.effects += notary.propose(alone, block).effects
        for signer in (0, 1, 2):
            happened.effects += alone.hear(notary.vote(block, signer)).effects
    assert [commit.block for commit in happened.of(Commit)] == [b1]
    assert not happened.signed
    assert not happened.sent(msgspec.Struct)
    assert not alone.journal.safety


def test_it_is_known_by_name() -> None:
    costs = STREAMLET.costs
    assert (STREAMLET.name, costs.responsive, costs.commit_views, costs.messages(4)) == ("streamlet", False, 2, 39)
