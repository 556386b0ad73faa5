"""Simplex among four nodes and more: what it costs, silence, partitions, clocks, kill -9, twins, and changed bytes.

The cluster itself asserts that ledgers agree and that nothing is signed twice, over all restarts.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import msgspec
import pytest

from consensus.engine import Commit, Received, ReportEvidence
from consensus.genesis import Pacing
from consensus.protocols.registry import protocol_named
from consensus.protocols.simplex_types import NOTARIZE, NULLIFY, Certificates, CertificatesRequest, Proposal
from consensus.types import Vote
from tests.support.changed_bytes import Heard, check_message, listen
from tests.support.chaos import run_schedule
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Node
from tests.support.committee import committee
from tests.support.faults import crash_at, kill_all_in_mid_view, scale_timers

PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50)


def new_cluster(
    count: int = 4, *, seed: int = 0, observers: int = 0, twins: tuple[int, ...] = (), payloads: int = 0
) -> Cluster:
    members = committee(count, protocol="simplex", pacing=PACING)
    cluster = Cluster(members, seed=seed, observers=observers, twins=twins)
    for number in range(payloads):
        cluster.submit(b"payload %d" % number)
    return cluster


def silence(cluster: Cluster, name: str, until_ns: int = 10**18) -> None:
    """Nothing that this node sends arrives until then."""
    route = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if source.name == name and now < until_ns else route(source, target, message, now)
    )


def committed_views(cluster: Cluster, position: int = 0) -> list[int]:
    node = cluster.nodes[position]
    return [node.journal.blocks[block_id].header.view for block_id in node.ledger]


def view_of(node: Node) -> int:
    assert node.replica is not None
    return node.replica.status().view


# --- nothing is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 7, 16])
def test_three_delays_to_a_commit_and_the_messages_that_are_declared(count: int) -> None:
    """Every link takes 7 ms; payloads wait at every leader."""
    costs = protocol_named("simplex").costs
    cluster = new_cluster(count, payloads=40)
    cluster.route = lambda source, target, message, now: (7 * MILLISECOND,)
    proposed_ns: dict[bytes, int] = {}
    committed_ns: dict[bytes, int] = {}
    commit, transmit = cluster._commit, cluster._transmit

    def on_commit(node: Node, effect: Commit) -> None:
        committed_ns[effect.block.id] = cluster.now
        commit(node, effect)

    def on_transmit(node: Node, other: Node, message: msgspec.Struct) -> None:
        if isinstance(message, Proposal):
            subject = message.header
            proposed_ns.setdefault(msgspec.msgpack.encode(subject), cluster.now)
        transmit(node, other, message)

    cluster._commit = on_commit  # type: ignore[method-assign, assignment]  # the cluster, overheard and slowed
    cluster._transmit = on_transmit  # type: ignore[method-assign]  # the cluster, overheard and slowed
    cluster.start()
    assert cluster.run(5 * SECOND, until=cluster.drained)
    for block_id, at in committed_ns.items():
        header = cluster.nodes[0].journal.blocks[block_id].header
        sent = proposed_ns.get(msgspec.msgpack.encode(header), at)
        assert at - sent <= costs.commit_delays * 7 * MILLISECOND + MILLISECOND, "the checks of payloads take time too"
    blocks = max(cluster.heights())
    assert blocks >= 40
    assert sum(node.sent for node in cluster.nodes) <= (blocks + 1) * costs.messages(count)
    assert not any(node.rejects or node.evidence or node.timeouts_fired for node in cluster.nodes)
    assert committed_views(cluster) == list(range(1, len(cluster.nodes[0].ledger) + 1)), "no view is lost"


def test_an_idle_chain_is_paced_and_a_payload_commits_at_once() -> None:
    cluster = new_cluster(observers=1)
    cluster.start()
    cluster.run(2 * SECOND)
    assert 30 <= max(cluster.heights()) <= 40, "one block each idle interval of 50 ms and three delays"
    at = cluster.now
    cluster.submit(b"payload")
    assert cluster.run(SECOND, until=cluster.drained)
    assert cluster.now - at <= 25 * MILLISECOND, "by a leader that waits already, not after its interval"
    assert not any(node.timeouts_fired for node in cluster.nodes)
    assert len(cluster.nodes[-1].ledger) == max(cluster.heights()), "the observer follows"


def test_a_slow_network_costs_time_and_no_commit() -> None:
    """Each link takes longer than the first timers: they grow until views fit."""
    cluster = new_cluster(payloads=3)
    cluster.route = lambda source, target, message, now: (130 * MILLISECOND,)
    cluster.start()
    assert cluster.run(60 * SECOND, until=cluster.drained)


# --- silence, clocks, partitions -------------------------------------------------------------------------------------


def test_12_every_fourth_leader_silent() -> None:
    """::

    b1 <- b2 <- b3 <- b5 <- b6 <- b7        each committed in its own view, whatever the next leader does
    """
    cluster = new_cluster(payloads=30)
    silence(cluster, "v3")
    cluster.start()
    alive = cluster.nodes[:3]
    assert cluster.run(10 * SECOND, until=lambda: not any(node.pool for node in alive))
    ours = committed_views(cluster)
    assert [view for view in ours if view % 4 == 0] == []
    assert [view for view in range(1, ours[-1]) if view % 4] == ours[:-1], "and nobody else's block is lost"


@pytest.mark.parametrize("slow", [True, False])
def test_11_timers_tenfold_apart_with_one_node_silent(slow: bool) -> None:
    """No quorum without the node whose clock is wrong."""
    cluster = new_cluster(payloads=10)
    scale_timers(cluster, "v1", 10 if slow else 1, 1 if slow else 10)
    silence(cluster, "v3")
    cluster.start()
    alive = cluster.nodes[:3]
    assert cluster.run(30 * SECOND, until=lambda: not any(node.pool for node in alive))


@pytest.mark.parametrize("alone", [("v0",), ("v0", "v1")])
def test_11_a_partition_heals(alone: tuple[str, ...]) -> None:
    cluster = new_cluster()
    parted = [False]

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        if parted[0] and (source.name in alone) != (target.name in alone):
            return ()
        return (2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    cluster.run(SECOND // 5)
    parted[0] = True
    cluster.run(5 * SECOND)
    parted[0] = False
    before = max(cluster.heights())
    assert before >= 15 if len(alone) == 1 else before <= 10
    assert cluster.run(3 * SECOND, until=partial(cluster.reached, before + 5))


def test_10_a_hidden_notarization_does_not_stop_the_chain() -> None:
    """::

    b1 .. b5 <- b6 <-N-        only v0 gets the notarize votes of view 6, and what it then says is lost for a while
           \\- b7              the others nullify view 6 and go on; v0 comes back with a notarization that they lack
    """
    cluster = new_cluster()

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        hidden = isinstance(message, Vote) and (message.view, message.kind) == (6, NOTARIZE) and target.name != "v0"
        gone = source.name == "v0" and now < 2 * SECOND and view_of(cluster.nodes[0]) > 6
        return () if hidden or gone else (2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    cluster.run(2 * SECOND)
    before = max(cluster.heights())
    assert 6 not in committed_views(cluster, 1)
    assert cluster.run(2 * SECOND, until=partial(cluster.reached, before + 10))


def test_nullifications_that_one_node_missed_are_fetched() -> None:
    """::

    genesis <- b9        views 1 to 8 fail for all; v1 hears nothing of them but the last certificate
    """
    cluster = new_cluster()
    asked: Counter[str] = Counter()

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        if isinstance(message, CertificatesRequest):
            asked[source.name] += 1
        views = [certificate.view for certificate in message.certificates] if isinstance(message, Certificates) else []
        early = min(view_of(node) for node in cluster.nodes if node.name != "v1") < 9
        deaf = target.name == "v1" and (
            (isinstance(message, Vote) and message.kind == NULLIFY and message.view < 8)
            or (early and bool(views) and max(views) < 8)
        )
        return () if deaf or (isinstance(message, Proposal) and message.header.view < 9) else (2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    assert cluster.run(20 * SECOND, until=partial(cluster.reached, 3))
    assert asked["v1"] > 0
    assert committed_views(cluster, 1)[0] >= 9


def test_14_who_was_away_for_five_hundred_blocks_catches_up_and_leads_again() -> None:
    cluster = new_cluster()
    cluster.route = lambda source, target, message, now: (MILLISECOND,)
    cluster.start()
    cluster.run(SECOND // 4)
    cluster.crash(cluster.nodes[2])
    for number in range(500):
        cluster.submit(b"payload %d" % number)
    cluster.run(90 * SECOND, until=lambda: max(cluster.heights()) >= 500)
    cluster.start(cluster.nodes[2])
    height = max(cluster.heights())
    assert height >= 500
    assert cluster.run(5 * SECOND, until=partial(cluster.reached, height + 8))
    blocks, ledger = cluster.nodes[0].journal.blocks, cluster.nodes[0].ledger
    assert 2 in [blocks[block_id].header.proposer for block_id in ledger[height:]]


# --- twins -----------------------------------------------------------------------------------------------------------


def two_bodies(seed: int) -> list[ReportEvidence]:
    cluster = new_cluster(seed=seed, twins=(1,), payloads=10)
    draw = random.Random(seed)
    cluster.route = lambda source, target, message, now: (
        () if source.index == 1 and draw.random() < 0.3 else (draw.randint(1, 60) * MILLISECOND,)
    )
    cluster.start()
    honest = [node for node in cluster.nodes if node.index != 1]
    assert cluster.run(30 * SECOND, until=lambda: min(len(node.ledger) for node in honest) >= 20)
    guilty = cluster.committee.peer(1)
    assert all(reject.peer == guilty for node in honest for reject in node.rejects)
    return [evidence for node in honest for evidence in node.evidence]


def test_a_leader_with_two_bodies_splits_nobody() -> None:
    """v1 runs twice under one name: two blocks in its views, two votes in every view, to whom chance will."""
    evidence = [found for seed in range(12) for found in two_bodies(seed)]
    kinds = Counter(
        (getattr(found.first, "kind", "proposal"), getattr(found.second, "kind", "proposal")) for found in evidence
    )
    assert kinds[("proposal", "proposal")]
    assert kinds[("notarize", "notarize")]
    assert kinds[("finalize", "nullify")] + kinds[("nullify", "finalize")], "its bodies exclude each other's quorums"


# --- all at once -----------------------------------------------------------------------------------------------------


def test_trouble_and_healing() -> None:
    """Losses, partitions, twins, crashes and kills of all, drawn from seeds; then all is well, and must be."""
    runs = [run_schedule(seed, "simplex") for seed in range(40)]
    assert sum(len(cluster.nodes[0].evidence) for cluster in runs) > 0, "no schedule had a twin that was found out"
    assert all(max(cluster.heights()) >= 5 for cluster in runs)


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(10))
def test_much_trouble_and_healing(block: int) -> None:
    for seed in range(1000 + block * 5_000, 1000 + (block + 1) * 5_000):
        run_schedule(seed, "simplex")


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def test_1_a_node_may_die_at_every_boundary() -> None:
    seen: Counter[str] = Counter()
    boundary = 0
    while True:
        boundary += 1
        cluster = new_cluster(payloads=6)
        silence(cluster, "v2", SECOND)
        killed: list[str] = []
        cluster.crash_point = crash_at(cluster, "v1", boundary, killed)
        cluster.start()
        assert cluster.run(20 * SECOND, until=cluster.drained), f"stalled after boundary {boundary} ({killed})"
        if not killed:
            break
        seen[killed[0]] += 1
    wanted = {"before persist", "after persist"}
    kinds = ("proposal", "notarize", "nullify", "finalize")
    wanted |= {f"{side} sign {kind}" for side in ("before", "after") for kind in kinds}
    wanted |= {f"before send {message}" for message in ("Proposal", "Vote", "Certificates")}
    assert wanted <= set(seen)


def lose_in_the_first_second(cluster: Cluster, draw: random.Random) -> None:
    """With half of the seeds: then views fail, and nullifications are what must survive."""
    lossy = draw.random() < 0.5
    cluster.route = lambda source, target, message, now: (
        () if lossy and now < SECOND and draw.random() < 0.4 else (draw.randint(1, 5) * MILLISECOND,)
    )


def check_kills_of_all(seeds: range) -> None:
    for seed in seeds:
        cluster, draw = new_cluster(seed=seed, payloads=6), random.Random(seed)
        lose_in_the_first_second(cluster, draw)
        kill_all_in_mid_view(cluster, draw, boundary_max=400, away_ms_max=300)
        assert cluster.run(30 * SECOND, until=cluster.drained), f"seed {seed}"


def test_2_all_nodes_killed_at_once_come_back() -> None:
    check_kills_of_all(range(100))


@pytest.mark.sweep
def test_2_all_nodes_killed_at_once_come_back_a_thousand_times() -> None:
    check_kills_of_all(range(1_000))


# --- changed bytes ---------------------------------------------------------------------------------------------------


def history() -> tuple[Cluster, Heard]:
    """What v1 heard in a run with a silent leader."""
    cluster = new_cluster(payloads=6)
    silence(cluster, "v2")
    cluster.start()
    heard = listen(cluster)
    cluster.run(500 * MILLISECOND)
    asks = CertificatesRequest(epoch=0, views=(3, 7))
    heard.append((Received(cluster.committee.peer(0), asks), cluster.now))
    return cluster, heard


def test_6_every_changed_byte() -> None:
    cluster, heard = history()
    counts: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for index, (event, now) in enumerate(heard):
        if not isinstance(event, Received):
            continue
        message = event.message
        name = f"{type(message).__name__} {message.kind}" if isinstance(message, Vote) else type(message).__name__
        taken[name] += 1
        if taken[name] in (1, 4):
            check_message(cluster, heard[:index], event, now, counts)
    wanted = {"Proposal", "Certificates", "CertificatesRequest", "Vote notarize", "Vote nullify", "Vote finalize"}
    assert wanted <= set(taken)
    assert counts["refused"] > 100
