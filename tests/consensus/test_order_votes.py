"""The fast path: a quorum that saw QC(v) before giving up v commits its block; who said so never denies it later."""

from __future__ import annotations

import msgspec
import pytest

from consensus.engine import (
    BlocksFetched,
    Broadcast,
    BuildPayload,
    Commit,
    PayloadVerdict,
    PeerConnected,
    Reject,
    ReportEvidence,
    SafetyRecord,
    Send,
    Signed,
)
from consensus.genesis import Pacing
from consensus.protocols.chained_state import SafetyState
from consensus.protocols.chained_types import Certificates, OrderVote, Proposal
from consensus.protocols.order_votes import ORDER, VIEWS_KEPT, OrderVotes, order_subject
from consensus.protocols.registry import HOTSTUFF, JOLTEON
from consensus.types import Block, CommitProof, Vote
from tests.support.chain import Alone, Chain, Happened, refused
from tests.support.cluster import MILLISECOND, SECOND, Cluster
from tests.support.committee import committee

GIVER = b"g" * 32


def setting(me: int | None = 3) -> tuple[Chain, Alone]:
    """Validator 3 leads view 4 only: it does not propose in these stories."""
    members = committee()
    return Chain(members), Alone(members, me=me)


def certify(chain: Chain, alone: Alone, block: Block) -> Happened:
    return alone.hear(Certificates(epoch=0, high_qc=chain.qc(block), high_tc=None))


def give_up(chain: Chain, alone: Alone, view: int) -> Happened:
    """The others gave the view up with nothing but genesis."""
    return alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(view, [chain.genesis] * 3)))


def state_of(happened: Happened, kind: str) -> SafetyState:
    [record] = [record for record in happened.records if isinstance(record, SafetyRecord) and record.kind == kind]
    return msgspec.msgpack.decode(record.state, type=SafetyState)


# --- when an order vote is cast --------------------------------------------------------------------------------------


def test_whoever_sees_the_certificate_says_so() -> None:
    """::

    genesis <- b1 <-QC-        the order vote carries QC(1) and signs its subject
    """
    chain, alone = setting()
    b1 = chain.block(1)
    assert not alone.hear(chain.proposal(b1)).ordered
    happened = certify(chain, alone, b1)
    assert happened.ordered == [order_subject(chain.qc(b1))]
    assert happened.sent(OrderVote) == [chain.order_vote(chain.qc(b1), 3)]
    assert [effect.message for effect in happened.of(Broadcast)] == [chain.order_vote(chain.qc(b1), 3)]
    assert not certify(chain, alone, b1).ordered, "once"


def test_the_raise_is_durable_with_it() -> None:
    """::

    genesis <- b1 <-QC-        the record of the order vote holds a lock and a highest certificate of view 1
    """
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    state = state_of(certify(chain, alone, b1), ORDER)
    assert (state.lock, state.high_qc) == (chain.qc(b1), chain.qc(b1))


def test_after_an_order_vote_every_timeout_shows_its_certificate() -> None:
    """::

    genesis <- b1 <-QC- [order vote]  TC(2)  TC(3)      and a restart in between: the timeouts of 2 and 4 show QC(1)
    """
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    certify(chain, alone, b1)
    assert alone.time_out().signed == [chain.timeout_subject(2, chain.qc(b1))]
    for view in (2, 3):
        give_up(chain, alone, view)
    again = alone.restart()
    give_up(chain, again, 3)
    assert again.view == 4
    assert again.time_out().signed == [chain.timeout_subject(4, chain.qc(b1))]


def test_no_order_vote_in_a_view_that_was_given_up() -> None:
    """::

    genesis <- b1        the replica gives up view 1, then QC(1) comes: mutant J4 casts an order vote, mutant J5 too
    """
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.time_out()
    assert not certify(chain, alone, b1).ordered
    assert alone.view == 2
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b2))
    assert certify(chain, alone, b2).ordered == [order_subject(chain.qc(b2))], (
        "of the next view, which it did not give up"
    )


def test_no_order_vote_below_a_view_that_was_given_up() -> None:
    """::

    genesis <- b1        TC(1); the replica gives up view 2, then QC(1) comes
    """
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    give_up(chain, alone, 1)
    alone.time_out()
    assert not certify(chain, alone, b1).ordered


def test_what_others_gave_up_does_not_matter() -> None:
    """::

    genesis <- b1        TC(1) of the others; the replica gave nothing up itself, and QC(1) comes
    """
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    give_up(chain, alone, 1)
    assert alone.view == 2
    assert certify(chain, alone, b1).ordered == [order_subject(chain.qc(b1))]


def test_a_certificate_from_views_ago_gets_its_order_vote() -> None:
    """::

    genesis <- b1        TC(1), TC(2) of the others, none signed here; then QC(1) comes in view 3
    """
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    give_up(chain, alone, 2)
    assert alone.view == 3
    assert certify(chain, alone, b1).ordered == [order_subject(chain.qc(b1))]


def test_a_late_signature_of_an_older_order_vote_is_not_sent() -> None:
    """It would go out beside the certificate of the newer one, and look like a forgery of ours."""
    chain, alone = setting()
    alone.signs = False
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    for block in (b1, b2):
        alone.hear(chain.proposal(block))
        assert certify(chain, alone, block).ordered == [order_subject(chain.qc(block))]
    answers = [
        Signed(subject, chain.committee.sign(3, subject)) for subject in map(order_subject, map(chain.qc, (b1, b2)))
    ]
    assert not alone.feed(answers[0]).effects
    assert alone.feed(answers[1]).sent(OrderVote) == [chain.order_vote(chain.qc(b2), 3)]


def test_the_view_that_was_given_up_survives_a_restart() -> None:
    """Mutant J6: as above, with a restart between the timeout and QC(1)."""
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.time_out()
    again = alone.restart()
    assert not certify(chain, again, b1).ordered
    assert again.view == 2


def test_only_upwards() -> None:
    """::

    genesis <- b1 <- b2 <-QC-        an order vote for view 2; none for view 1 afterwards, nor after a restart
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    for block in (b1, b2):
        alone.hear(chain.proposal(block))
    assert certify(chain, alone, b2).ordered == [order_subject(chain.qc(b2))]
    assert not certify(chain, alone, b1).ordered
    again = alone.restart()
    assert again.started.ordered == [order_subject(chain.qc(b2))], "the stored one, again"
    assert not again.started.records
    assert not certify(chain, again, b2).ordered


def test_the_block_comes_first() -> None:
    """::

    genesis <- [b1] <-QC-        b1 is not here: the order vote waits for it, and for the verdict on its body
    """
    chain, alone = setting()
    alone.judge = lambda check: None
    b1 = chain.block(1, body=b"one")
    assert not certify(chain, alone, b1).ordered
    assert not alone.hear(chain.proposal(b1)).ordered
    happened = alone.feed(PayloadVerdict(block_id=b1.id, certified=True, valid=True))
    assert happened.ordered == [order_subject(chain.qc(b1))]
    assert b1.id in alone.journal.blocks, "recorded with the order vote"


def test_an_observer_casts_none_and_a_large_committee_has_none() -> None:
    chain, alone = setting(me=None)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    assert not certify(chain, alone, b1).ordered
    members = committee(51)
    chain, alone = Chain(members), Alone(members, me=3)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    assert not certify(chain, alone, b1).ordered
    for signer in range(4, 45):
        assert not alone.hear(chain.order_vote(chain.qc(b1), signer)).effects
    assert alone.committed == 0


# --- what they commit ------------------------------------------------------------------------------------------------


def test_a_quorum_of_order_votes_commits_the_block_itself() -> None:
    """::

    genesis <- b1 <- b2 <-QC-   order votes of 3, 0, 1: b2 is committed, with QC(2) and its confirmation as the proof
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    for block in (b1, b2):
        alone.hear(chain.proposal(block))
    assert alone.committed == 0
    assert not certify(chain, alone, b2).of(Commit) or alone.committed == 1
    assert not alone.hear(chain.order_vote(chain.qc(b2), 0)).of(Commit)
    [commit] = alone.hear(chain.order_vote(chain.qc(b2), 1)).of(Commit)
    assert commit.block == b2
    proof = commit.proof
    assert proof is not None
    assert (proof.certificate, proof.headers) == (chain.qc(b2), ())
    assert proof.confirmation == chain.certificate(order_subject(chain.qc(b2)), (0, 1, 3))
    stranger = Alone(chain.committee, me=None).engine
    assert stranger.verify_commit(proof, b2.header, 0) is None
    other = HOTSTUFF.engine(
        spec=chain.committee.spec, epoch=chain.epoch, scheme=chain.committee.scheme, me=None
    ).verify_commit(proof, b2.header, 0)
    assert other is not None
    assert other.reason == "commit proof: a confirmation where none belongs"
    assert alone.restart().committed == 2


def test_what_a_confirmation_committed_is_not_committed_again() -> None:
    """::

    genesis <- b1 <- b2 <-QC-        b1 is confirmed, then QC(2) commits it by its views too
    """
    chain, alone = setting()
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b1))
    certify(chain, alone, b1)
    for signer in (0, 1):
        alone.hear(chain.order_vote(chain.qc(b1), signer))
    assert alone.committed == 1
    alone.hear(chain.proposal(b2))
    assert not certify(chain, alone, b2).of(Commit)


def test_the_certificate_comes_with_the_order_vote() -> None:
    """::

    genesis <- b1        nobody showed QC(1): the first order vote does, and lets the replica enter view 2
    """
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    happened = alone.hear(chain.order_vote(chain.qc(b1, (0, 1, 3)), 0))
    assert alone.view == 2
    assert happened.ordered == [order_subject(chain.qc(b1))]
    [commit] = alone.hear(chain.order_vote(chain.qc(b1, (0, 1, 2)), 1)).of(Commit)  # another three voters, one subject
    assert commit.block == b1


def test_a_certificate_that_does_not_verify_is_refused_and_its_vote_not_counted() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    few = chain.qc(b1, (0, 1))
    for signer in (0, 1, 2):
        happened = alone.hear(chain.order_vote(few, signer))
        assert refused(happened, chain.committee.peer(signer)).startswith("order vote: signers: stake 2 is below")
        assert not happened.of(Commit)
    forged = msgspec.structs.replace(chain.qc(b1), kind=ORDER)
    assert refused(alone.hear(chain.order_vote(forged, 0)), chain.committee.peer(0)).startswith("order vote: ")
    assert alone.view == 1


def test_votes_for_the_block_are_no_order_votes() -> None:
    """Signatures of kind ``vote`` in order votes: the sender is named, and nothing commits."""
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    certify(chain, alone, b1)
    for signer in (0, 1, 2):
        vote = msgspec.structs.replace(
            chain.order_vote(chain.qc(b1), signer), signature=chain.vote(b1, signer).signature
        )
        happened = alone.hear(vote)
        assert not happened.of(Commit)
    assert alone.committed == 0
    plain = Vote(**{**msgspec.structs.asdict(chain.vote(b1, 0)), "kind": ORDER})
    assert refused(alone.hear(plain), chain.committee.peer(0)) == "vote: of epoch 0 and kind 'order'"


def test_for_oneself_only_and_of_this_epoch() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    good = chain.order_vote(chain.qc(b1), 0)
    stranger = alone.hear(good, peer=1)
    assert refused(stranger, chain.committee.peer(1)) == "order vote: of validator 0, who is not this peer"
    other = alone.hear(msgspec.structs.replace(good, epoch=1))
    assert refused(other, chain.committee.peer(0)) == "order vote: of another epoch"
    above = msgspec.structs.replace(chain.genesis, height=1)
    refused(alone.hear(msgspec.structs.replace(good, qc=above)), chain.committee.peer(0))
    assert not alone.hear(chain.order_vote(chain.genesis, 0)).effects, "of what is committed: nothing to say"


def test_a_quorum_that_is_early_waits_for_the_block() -> None:
    """::

    genesis <- [b1] <-QC-        three order votes, and then b1
    """
    chain, alone = setting()
    b1 = chain.block(1, body=b"one")
    for signer in (0, 1, 2):
        assert not alone.hear(chain.order_vote(chain.qc(b1), signer)).of(Commit)
    [commit] = alone.hear(chain.proposal(b1)).of(Commit)
    assert commit.block == b1
    assert commit.proof is not None
    assert commit.proof.confirmation == chain.confirmation(chain.qc(b1))


def test_two_order_votes_of_one_view_are_evidence() -> None:
    """Only a committee with too many faulty validators certifies two blocks of one view."""
    chain, alone = setting()
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    alone.hear(chain.order_vote(chain.qc(b1), 0))
    happened = alone.hear(chain.order_vote(chain.qc(c1), 0))
    [evidence] = happened.of(ReportEvidence)
    statements = [JOLTEON.statement(message) for message in (evidence.first, evidence.second)]
    assert [statement and statement.subject for statement in statements] == [
        order_subject(chain.qc(b1)), order_subject(chain.qc(c1)),
    ]  # fmt: skip


# --- bounds, peers ---------------------------------------------------------------------------------------------------


def test_certificates_are_kept_for_a_while() -> None:
    chain = Chain(committee())
    blocks = [chain.block(1)]
    for view in range(2, 5):
        blocks.append(chain.block(view, on=blocks[-1]))
    orders = OrderVotes()
    for block in blocks:
        orders.saw(chain.qc(block))
    assert orders.knows(chain.qc(blocks[0], (1, 2, 3)))
    assert orders.proof(chain.confirmation(chain.qc(blocks[0]))) == CommitProof(
        epoch=0, headers=(), certificate=chain.qc(blocks[0]), confirmation=chain.confirmation(chain.qc(blocks[0]))
    )
    orders.advance(VIEWS_KEPT + 3)
    assert not orders.knows(chain.qc(blocks[1]))
    assert orders.proof(chain.confirmation(chain.qc(blocks[1]))) is None
    assert orders.knows(chain.qc(blocks[2]))
    orders.saw(chain.qc(blocks[0]))
    assert not orders.knows(chain.qc(blocks[0]))


def test_certificates_are_told_apart_by_their_whole_subject() -> None:
    """Of two certified blocks of one view (too many are faulty) the first is kept, and nothing else is proved by it."""
    chain = Chain(committee())
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    orders = OrderVotes()
    for block in (b1, c1):
        orders.saw(chain.qc(block))
    assert orders.knows(chain.qc(b1))
    assert not orders.knows(chain.qc(c1))
    assert orders.proof(chain.confirmation(chain.qc(b1))) is not None
    assert orders.proof(chain.confirmation(chain.qc(c1))) is None


def test_a_peer_that_connects_is_sent_the_order_vote_of_the_view_before() -> None:
    chain, alone = setting()
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    certify(chain, alone, b1)
    peer = chain.committee.peer(2)
    sent = [effect.message for effect in alone.restart().feed(PeerConnected(peer)).of(Send)]
    assert sent == [Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None), chain.order_vote(chain.qc(b1), 3)]
    again = alone.restart()
    give_up(chain, again, 2)
    assert not any(isinstance(effect.message, OrderVote) for effect in again.feed(PeerConnected(peer)).of(Send))


def test_a_leader_does_not_hurry_where_order_votes_will_do() -> None:
    """::

    genesis <- b1 <-QC-        b1 has a payload: its commit is waited for a fifth of the view, then the idle interval

    Without that, each transaction at light load would cost an empty block with all its votes.
    """
    members = committee(pacing=Pacing(view_timeout_ms=1_000, idle_interval_ms=500))
    chain, alone = Chain(members), Alone(members, me=1)
    b1 = chain.block(1, body=b"payload")
    alone.now = 7
    alone.hear(chain.proposal(b1))
    [hurried] = certify(chain, alone, b1).of(BuildPayload)
    assert hurried.deadline_ns == 7 + 200 * MILLISECOND
    assert not alone.hear(chain.order_vote(chain.qc(b1), 0)).of(BuildPayload), "asked for already"
    [idle] = alone.hear(chain.order_vote(chain.qc(b1), 2)).of(BuildPayload)
    assert (idle.view, idle.parent, idle.path) == (2, b1.id, ())
    assert idle.deadline_ns == 7 + 500 * MILLISECOND
    assert not alone.hear(chain.order_vote(chain.qc(b1), 3)).of(BuildPayload), "once more, and no oftener"
    assert alone.build(2, b1.id, b"two").sent(Proposal)


def test_a_leader_whose_idle_interval_is_shorter_waits_no_longer_than_that() -> None:
    members = committee(pacing=Pacing(view_timeout_ms=1_000, idle_interval_ms=50))
    chain, alone = Chain(members), Alone(members, me=1)
    b1 = chain.block(1, body=b"payload")
    alone.hear(chain.proposal(b1))
    [build] = certify(chain, alone, b1).of(BuildPayload)
    assert build.deadline_ns == 50 * MILLISECOND


def test_three_delays() -> None:
    """A block is committed everywhere three message delays after its leader sent it; without order votes, four."""
    for drops, delays in ((False, 3), (True, 4)):
        cluster = Cluster(committee(), delay_ns=(10 * MILLISECOND, 10 * MILLISECOND))
        cluster.route = lambda source, target, message, now, drops=drops: (  # type: ignore[misc]  # mypy infers no type for a default
            () if drops and isinstance(message, OrderVote) else (10 * MILLISECOND,)
        )
        cluster.submit(b"payload")
        cluster.start()
        assert cluster.run(SECOND, until=lambda cluster=cluster: cluster.reached(1))  # type: ignore[misc]  # mypy infers no type for a default
        assert cluster.now // (10 * MILLISECOND) == delays


def ordered_from_afar(chain: Chain, alone: Alone) -> list[Block]:
    """::

    genesis <- [b1] <- [b2] <- [b3] <-QC- order votes        the blocks are not here yet, no certificate is above
    """
    blocks = [chain.block(1)]
    for view in (2, 3):
        blocks.append(chain.block(view, on=blocks[-1]))
    for signer in (0, 1, 2):
        alone.hear(chain.order_vote(chain.qc(blocks[-1]), signer))
    return blocks


def given(chain: Chain, *blocks: Block, body: bytes = b"") -> BlocksFetched:
    return BlocksFetched(peer=GIVER, blocks=tuple((block, memoryview(body)) for block in blocks), proof=None)


def test_what_order_votes_committed_is_not_forgotten_for_a_nearer_commit() -> None:
    """The nearer one is committed first; the order votes are never said again."""
    chain, alone = setting(me=None)
    b1, b2, b3 = ordered_from_afar(chain, alone)
    alone.hear(chain.proposal(b1))
    alone.feed(given(chain, b2))
    happened = certify(chain, alone, b2)
    assert [commit.block for commit in happened.of(Commit)] == [b1]
    happened = alone.feed(given(chain, b3))
    assert [commit.block for commit in happened.of(Commit)] == [b2, b3]
    last = happened.of(Commit)[-1].proof
    assert last is not None
    assert last.confirmation == chain.confirmation(chain.qc(b3))


def test_what_order_votes_committed_is_not_forgotten_with_a_false_body() -> None:
    chain, alone = setting(me=None)
    alone.judge = lambda check: bytes(check.body) == b""
    b1, b2, b3 = ordered_from_afar(chain, alone)
    happened = alone.feed(given(chain, b1, b2, b3, body=b"false"))
    assert [effect.peer for effect in happened.of(Reject)] == [GIVER] * 3
    happened = alone.feed(given(chain, b1, b2, b3))
    assert [commit.block for commit in happened.of(Commit)] == [b1, b2, b3]


@pytest.mark.parametrize("name", ["jolteon", "hotstuff"])
def test_who_has_them(name: str) -> None:
    definition = {"jolteon": JOLTEON, "hotstuff": HOTSTUFF}[name]
    assert (OrderVote in definition.messages) == (name == "jolteon")
    assert [kind.name for kind in definition.votes] == ["vote", "order"][: 2 if name == "jolteon" else 1]
    assert definition.costs.commit_delays == {"jolteon": 3, "hotstuff": 6}[name]
