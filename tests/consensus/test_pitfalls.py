"""The pitfalls that have bitten others, each as a story. Numbers are those of the design's list."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from consensus.codec import block_of, digest
from consensus.engine import Received, Reject, ReportEvidence, Send
from consensus.genesis import Pacing
from consensus.protocols.chained_types import Certificates, Proposal, Timeout
from consensus.types import (
    AncestorsRequest,
    AncestorsResponse,
    ProposalSubject,
    RangeRequest,
    RangeResponse,
    StoredBlock,
    Vote,
    VoteSubject,
)
from consensus.vote_tally import VIEWS_AHEAD
from tests.support.chain import CHAINED_NAMES
from tests.support.chaos import run_schedule
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Node
from tests.support.committee import committee

PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50)
every_protocol = pytest.mark.parametrize("protocol", CHAINED_NAMES)


def cluster_of(protocol: str, count: int = 4, *, pacing: Pacing = PACING, seed: int = 0, observers: int = 0) -> Cluster:
    return Cluster(committee(count, protocol=protocol, pacing=pacing), seed=seed, observers=observers)


def silence(cluster: Cluster, *names: str) -> None:
    """Nothing that these nodes send arrives, and nothing reaches them."""
    route = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if source.name in names or target.name in names else route(source, target, message, now)
    )


def feed(cluster: Cluster, node: Node, peer: bytes, message: msgspec.Struct) -> tuple[object, ...]:
    """What a replica answers to one message: its effects."""
    assert node.replica is not None
    return node.replica.handle(Received(peer, message), cluster.now).effects


# --- liveness with faults -----------------------------------------------------------------------------------------


@every_protocol
def test_12_one_silent_validator_of_four_in_round_robin(protocol: str) -> None:
    cluster = cluster_of(protocol)
    silence(cluster, "v3")
    cluster.start()
    for number in range(20):
        cluster.submit(b"payload %d" % number)
    alive = cluster.nodes[:3]
    assert cluster.run(30 * SECOND, until=lambda: not any(node.pool for node in alive))
    assert len(cluster.nodes[3].ledger) == 0


@every_protocol
def test_a_silent_first_leader(protocol: str) -> None:
    """N1: the genesis certificate is the high certificate of view 1's timeouts and of their certificate."""
    cluster = cluster_of(protocol)
    silence(cluster, "v0")
    cluster.start()
    cluster.submit(b"payload")
    assert cluster.run(5 * SECOND, until=lambda: all(len(node.ledger) > 0 for node in cluster.nodes[1:]))


@every_protocol
def test_11_timers_tenfold_apart_and_a_partition_into_a_minus_one_and_the_rest(protocol: str) -> None:
    """One node's links are ten times slower for a while, then it is cut off, then all heals."""
    cluster = cluster_of(protocol)

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        slow = "v1" in (source.name, target.name)
        if slow and 2 * SECOND < now < 4 * SECOND:
            return ()
        return (40 * MILLISECOND if slow and now < 2 * SECOND else 2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    for number in range(10):
        cluster.submit(b"payload %d" % number)
    cluster.run(4 * SECOND)
    height = max(cluster.heights())
    assert height >= 10
    assert cluster.run(5 * SECOND, until=partial(cluster.reached, height + 10))


@every_protocol
def test_10_a_hidden_lock_does_not_stop_the_chain(protocol: str) -> None:
    """::

        b1 <- b2 <-QC(b2)-        only v0 learns QC(b2), then falls silent for a while; the others never saw it

    The others go on from QC(b1); when v0 is back with its higher certificate or lock, everybody goes on together.
    """
    cluster = cluster_of(protocol)
    hidden = 6

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        if isinstance(message, Vote) and message.view == hidden and target.name != "v0":
            return ()
        if source.name == "v0" and now < 2 * SECOND and cluster.nodes[0].replica is not None:
            status = cluster.nodes[0].replica.status()
            if status.view > hidden:
                return ()
        return (2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    cluster.submit(b"payload")
    cluster.run(2 * SECOND)
    before = max(cluster.heights())
    assert cluster.run(5 * SECOND, until=partial(cluster.reached, before + 10))


@every_protocol
def test_13_votes_dropped_by_the_next_leader_cost_nothing(protocol: str) -> None:
    """Tail-forking: votes are broadcast, so a leader that drops those for its predecessor's block changes nothing."""
    cluster = cluster_of(protocol)

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        if isinstance(message, Vote) and cluster.committee.epoch.leaders.leader(message.view + 1) == target.index == 1:
            return ()
        return (2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    for number in range(10):
        cluster.submit(b"payload %d" % number)
    assert cluster.run(5 * SECOND, until=cluster.drained)
    views = [cluster.nodes[0].journal.blocks[block_id].header.view for block_id in cluster.nodes[0].ledger]
    assert all(view % 4 != 0 or view in views for view in range(1, max(views))), "validator 3's blocks are all there"


@every_protocol
def test_a_leader_that_proposes_to_two_replicas_far_in_the_future_stops_nothing(protocol: str) -> None:
    """N3: a view must be entered by a certificate; a signed proposal alone entitles to nothing."""
    cluster = cluster_of(protocol)
    cluster.start()
    cluster.run(200 * MILLISECOND)
    members = cluster.committee
    genesis = members.epoch.genesis
    victim = cluster.nodes[0]
    view = 4003  # led by validator 2
    header = next(iter(victim.journal.blocks.values())).header
    forged = msgspec.structs.replace(
        header, view=view, height=1, parent=genesis.block_id, justify=genesis, proposer=2, entry_proof_hash=b""
    )
    subject = ProposalSubject(epoch=0, view=view, block_id=block_of(forged).id)
    proposal = Proposal(
        epoch=0, header=forged, body=memoryview(b""), entry_proof=None, signature=members.sign(2, subject)
    )
    effects = feed(cluster, victim, members.peer(2), proposal)
    assert any(isinstance(effect, Reject) and effect.peer == members.peer(2) for effect in effects)
    before = max(cluster.heights())
    assert cluster.run(SECOND, until=partial(cluster.reached, before + 5))


# --- certificates and signers -----------------------------------------------------------------------------------


@every_protocol
def test_4_nothing_but_the_genesis_certificate_names_genesis(protocol: str) -> None:
    cluster = cluster_of(protocol)
    cluster.start()
    cluster.run(300 * MILLISECOND)
    members, node = cluster.committee, cluster.nodes[0]
    genesis = members.epoch.genesis
    subject = VoteSubject(
        kind="vote", epoch=0, view=9, block_id=genesis.block_id, height=genesis.height, justify_view=0
    )
    signatures = [members.sign(signer, subject) for signer in range(4)]
    aggregate = members.scheme.aggregate(signatures)
    assert aggregate is not None
    at_high_view = msgspec.structs.replace(genesis, kind="vote", view=9, signers=b"\x0f", signature=aggregate)
    altered = msgspec.structs.replace(genesis, signature=bytes(32))
    for certificate in (at_high_view, altered):
        effects = feed(cluster, node, members.peer(1), Certificates(epoch=0, high_qc=certificate, high_tc=None))
        assert [type(effect) for effect in effects if isinstance(effect, Reject)] == [Reject]


@every_protocol
def test_8_equivocation_is_reported_once_and_counts_once(protocol: str) -> None:
    cluster = cluster_of(protocol)
    cluster.start()
    cluster.run(100 * MILLISECOND)
    members, node = cluster.committee, cluster.nodes[0]
    assert node.replica is not None
    view = node.replica.status().view + 2
    evidence = []
    for attempt in range(4):
        subject = VoteSubject(
            kind="vote", epoch=0, view=view, block_id=bytes([attempt]) * 32, height=5, justify_view=view - 1
        )
        vote = Vote(
            kind="vote",
            epoch=0,
            view=view,
            block_id=subject.block_id,
            height=5,
            justify_view=view - 1,
            signer=3,
            signature=members.sign(3, subject),
        )
        evidence += [
            effect for effect in feed(cluster, node, members.peer(3), vote) if isinstance(effect, ReportEvidence)
        ]
    assert len(evidence) == 1
    assert evidence[0].first != evidence[0].second


@every_protocol
def test_a_vote_is_taken_from_its_signer_only(protocol: str) -> None:
    """An impersonator cannot spoil another's slot with a bad signature in its name."""
    cluster = cluster_of(protocol)
    cluster.start()
    members, node = cluster.committee, cluster.nodes[0]
    vote = Vote(
        kind="vote", epoch=0, view=1, block_id=bytes(32), height=1, justify_view=0, signer=2, signature=b"forged"
    )
    effects = feed(cluster, node, members.peer(1), vote)
    assert effects == (Reject(members.peer(1), "vote: of validator 2, who is not this peer"),)


@every_protocol
def test_15_a_flood_of_far_future_views_is_bounded(protocol: str) -> None:
    cluster = cluster_of(protocol)
    cluster.start()
    members, node = cluster.committee, cluster.nodes[0]
    assert node.replica is not None
    for view in range(2, 5000):
        vote = Vote(
            kind="vote",
            epoch=0,
            view=view,
            block_id=bytes(32),
            height=view,
            justify_view=view - 1,
            signer=3,
            signature=b"anything",
        )
        feed(cluster, node, members.peer(3), vote)
    kept = node.replica._engine._votes._views  # type: ignore[attr-defined]  # this engine's own
    assert len(kept) <= VIEWS_AHEAD + 1
    cluster.submit(b"payload")
    assert cluster.run(2 * SECOND, until=cluster.drained)


@every_protocol
def test_17_nothing_is_taken_from_another_chain(protocol: str) -> None:
    """The same validators, keys and views on another chain: every message of it is refused, and its sender named."""
    here, there = cluster_of(protocol), Cluster(committee(4, protocol=protocol, pacing=PACING, chain_id="other"))
    heard: list[tuple[bytes, msgspec.Struct]] = []
    there.route = lambda source, target, message, now: (
        heard.append((there.peer(source), message)) or (2 * MILLISECOND,)  # type: ignore[func-returns-value]  # None, so the delay follows
    )
    there.start()
    silence(there, "v3")
    there.run(SECOND)
    here.start()
    kinds = {type(message) for _, message in heard}
    assert {Proposal, Vote, Timeout} <= kinds
    node = here.nodes[0]
    before = node.journal.recover(0)
    for peer, message in heard:
        effects = feed(here, node, peer, message)
        assert not any(type(effect).__name__ in ("Sign", "Commit", "Broadcast") for effect in effects)
    assert node.journal.recover(0).safety == before.safety
    assert node.replica is not None
    assert node.replica.status().view == 1


# --- catching up ---------------------------------------------------------------------------------------------------


@every_protocol
def test_14_a_gap_of_five_hundred_blocks(protocol: str) -> None:
    cluster = cluster_of(protocol, observers=1)
    cluster.start()
    late = cluster.nodes[3]
    cluster.crash(late)
    # round robin with one silent leader costs a timeout a round: three can only do so much a second
    assert cluster.run(600 * SECOND, until=lambda: max(cluster.heights()) >= 500)
    cluster.start(late)
    assert cluster.run(3 * SECOND, until=lambda: len(late.ledger) >= max(cluster.heights()) - 2)
    assert not late.rejects


@every_protocol
def test_14_lying_peers_are_named_and_passed_over(protocol: str) -> None:
    """v1 answers every question of block sync with something else."""
    cluster = cluster_of(protocol)
    lies = 0

    def lie(message: msgspec.Struct) -> msgspec.Struct:
        nonlocal lies
        match message:
            case AncestorsResponse(blocks=blocks) if blocks:
                lies += 1
                other = msgspec.structs.replace(blocks[0].header, timestamp_ms=1)
                return msgspec.structs.replace(message, blocks=(StoredBlock(header=other, body=blocks[0].body),))
            case RangeResponse(blocks=blocks, proof=proof) if blocks and proof is not None:
                lies += 1
                forged = msgspec.structs.replace(proof.certificate, signature=b"")
                return msgspec.structs.replace(message, proof=msgspec.structs.replace(proof, certificate=forged))
        return message

    transmit = cluster._transmit
    cluster._transmit = lambda node, other, message: transmit(  # type: ignore[method-assign]  # the network, overheard
        node, other, lie(message) if node.name == "v1" else message
    )
    cluster.start()
    late = cluster.nodes[3]
    cluster.crash(late)
    assert cluster.run(600 * SECOND, until=lambda: max(cluster.heights()) >= 40)
    cluster.start(late)
    assert cluster.run(5 * SECOND, until=lambda: len(late.ledger) >= max(cluster.heights()) - 2)
    if lies:
        assert {reject.peer for reject in late.rejects} == {cluster.committee.peer(1)}


@every_protocol
def test_sync_questions_are_answered_within_bounds(protocol: str) -> None:
    cluster = cluster_of(protocol)
    cluster.start()
    cluster.run(3 * SECOND)
    node, peer = cluster.nodes[0], cluster.committee.peer(1)
    assert len(node.ledger) > 5
    for request in (
        RangeRequest(epoch=0, request_id=1, from_height=1),
        AncestorsRequest(epoch=0, request_id=2, block_id=node.ledger[-1], above_height=0),
    ):
        effects = feed(cluster, node, peer, request)
        assert len(effects) == 1
        again = feed(cluster, node, peer, request)
        assert again == () or isinstance(again[0], Send), "a second question waits for the first answer"
        cluster.nodes[0].replica = None
        cluster.start(node)


# --- pacing and determinism ------------------------------------------------------------------------------------------


@every_protocol
def test_idle_for_a_minute(protocol: str) -> None:
    cluster = Cluster(committee(4, protocol=protocol), delay_ns=(MILLISECOND, MILLISECOND))
    cluster.start()
    cluster.run(60 * SECOND)
    assert max(cluster.heights()) <= 100
    assert sum(node.timeouts_fired for node in cluster.nodes) == 0
    cluster.submit(b"payload")
    began = cluster.now
    assert cluster.run(SECOND, until=cluster.drained)
    assert cluster.now - began <= 20 * MILLISECOND


@every_protocol
def test_19_one_seed_one_history(protocol: str) -> None:
    first, second = (run_schedule(7, protocol) for _ in range(2))
    assert first.chain == second.chain
    assert first.deliveries == second.deliveries


@every_protocol
def test_an_observer_follows_and_signs_nothing(protocol: str) -> None:
    cluster = cluster_of(protocol, observers=1)
    cluster.start()
    observer = cluster.nodes[-1]
    for number in range(5):
        cluster.submit(b"payload %d" % number, *cluster.nodes[:4])
    assert cluster.run(5 * SECOND, until=cluster.drained)
    assert cluster.run(SECOND, until=lambda: len(observer.ledger) >= 5)
    assert not observer.journal.safety


@every_protocol
def test_stake_weighted_leaders_and_unequal_stakes(protocol: str) -> None:
    cluster = Cluster(
        committee(5, protocol=protocol, pacing=PACING, stakes=(10, 1, 4, 7, 3), election="stake-weighted")
    )
    cluster.start()
    for number in range(10):
        cluster.submit(b"payload %d" % number)
    assert cluster.run(5 * SECOND, until=cluster.drained)
    proposers = {block.header.proposer for block in cluster.nodes[0].journal.blocks.values()}
    assert 0 in proposers
    assert 3 in proposers


@every_protocol
def test_commit_proofs_convince_strangers_and_forgeries_do_not(protocol: str) -> None:
    cluster = cluster_of(protocol)
    cluster.start()
    cluster.run(2 * SECOND)
    node = cluster.nodes[0]
    stranger = cluster.definition.engine(
        spec=cluster.committee.spec, epoch=cluster.committee.epoch, scheme=cluster.committee.scheme, me=None
    )
    proved = 0
    for block_id, proof in node.journal.commits.values():
        header = node.journal.blocks[block_id].header
        assert digest(header) == block_id
        if proof is None:
            continue
        proved += 1
        assert stranger.verify_commit(proof, header, 0) is None
        for forged in (
            msgspec.structs.replace(proof, headers=proof.headers[:-1]),
            msgspec.structs.replace(proof, headers=proof.headers[1:]),
            msgspec.structs.replace(proof, epoch=1),
            msgspec.structs.replace(proof, certificate=msgspec.structs.replace(proof.certificate, signers=b"\x03")),
            msgspec.structs.replace(proof, certificate=msgspec.structs.replace(proof.certificate, justify_view=0)),
        ):
            assert forged == proof or stranger.verify_commit(forged, header, 0) is not None
        other = msgspec.structs.replace(header, timestamp_ms=header.timestamp_ms + 1)
        assert stranger.verify_commit(proof, other, 0) is not None
    assert proved > 5
