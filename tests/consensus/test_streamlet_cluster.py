"""Streamlet among four nodes and more: clocks that disagree, silence, partitions, kill -9, and changed bytes.

The cluster itself asserts that ledgers agree and that nothing is signed twice, over all restarts.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import msgspec
import pytest

from consensus.engine import Received, ReportEvidence
from consensus.genesis import Pacing
from consensus.protocols.streamlet_definition import STREAMLET
from consensus.types import Vote
from tests.support.changed_bytes import Heard, check_message, listen
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Node
from tests.support.committee import committee
from tests.support.faults import crash_at, kill_all_in_mid_view, scale_timers

PACING = Pacing(view_timeout_ms=100, idle_interval_ms=20)
VIEW = 100 * MILLISECOND


def new_cluster(count: int = 4, *, seed: int = 0, observers: int = 0, twins: tuple[int, ...] = ()) -> Cluster:
    members = committee(count, protocol="streamlet", pacing=PACING)
    return Cluster(members, seed=seed, observers=observers, twins=twins)


def silence(cluster: Cluster, name: str, until_ns: int = 10**18) -> None:
    """Nothing that this node sends arrives until then."""
    route = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if source.name == name and now < until_ns else route(source, target, message, now)
    )


def views(cluster: Cluster) -> list[int]:
    return [node.replica.status().view for node in cluster.nodes if node.replica is not None]


def committed_views(cluster: Cluster, position: int = 0) -> list[int]:
    node = cluster.nodes[position]
    return [node.journal.blocks[block_id].header.view for block_id in node.ledger]


# --- nothing is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_every_view_has_its_block_and_costs_what_is_declared(count: int) -> None:
    cluster = new_cluster(count, observers=1)
    sent: Counter[str] = Counter()
    route = cluster.route

    def counting(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        sent[type(message).__name__] += source.index is not None and target.index is not None
        return tuple(route(source, target, message, now))

    cluster.start()
    cluster.run(VIEW)
    cluster.route = counting
    before = views(cluster)[0]
    cluster.run(20 * VIEW)
    passed = views(cluster)[0] - before
    assert passed >= 18, "a view lasts its time and the delay of a word"
    ours = committed_views(cluster)
    assert ours == list(range(1, len(ours) + 1)), "no view is lost"
    assert len(ours) >= before + passed - 2
    assert len(cluster.nodes[-1].ledger) >= len(ours) - 1, "the observer follows"
    assert sum(sent.values()) <= (passed + 1) * STREAMLET.costs.messages(count)
    assert not any(node.rejects or node.evidence for node in cluster.nodes)


def test_a_payload_commits_with_the_votes_of_the_view_after_its_own() -> None:
    cluster = new_cluster()
    cluster.start()
    cluster.run(5 * VIEW + VIEW // 2)
    cluster.submit(b"payload")
    assert cluster.run(3 * VIEW, until=cluster.drained)


# --- clocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [True, False])
def test_timers_tenfold_apart_cost_nothing_even_with_one_node_silent(slow: bool) -> None:
    """Pitfalls 11 and 12: no quorum without the node whose clock is wrong."""
    cluster = new_cluster()
    scale_timers(cluster, "v1", 10 if slow else 1, 1 if slow else 10)
    silence(cluster, "v3")
    cluster.start()
    assert cluster.run(60 * VIEW, until=lambda: len(cluster.nodes[0].ledger) >= 20)
    assert max(views(cluster)) - min(views(cluster)) <= 1


def test_who_started_views_earlier_waits_for_the_others() -> None:
    """Without the clock's quorum v0 would be in view 11 by now, ahead for good, and of no use to the others: with v3
    silent they need it."""
    cluster = new_cluster()
    silence(cluster, "v3")
    cluster.start(cluster.nodes[0])
    cluster.run(10 * VIEW)
    assert views(cluster) == [1]
    cluster.start(*cluster.nodes[1:])
    assert cluster.run(30 * VIEW, until=lambda: len(cluster.nodes[0].ledger) >= 10)


# --- silence and partitions ----------------------------------------------------------------------------------------


def test_12_every_fourth_leader_silent() -> None:
    """::

    b1 <- b2 <- b3 <- b5 <- b6 <- b7        three good views in a row finalize all but their last block
    """
    cluster = new_cluster()
    silence(cluster, "v3")
    cluster.start()
    cluster.run(40 * VIEW)
    ours = committed_views(cluster)
    assert len(ours) >= 20
    assert [view for view in ours if view % 4 == 0] == []
    assert [view for view in range(1, ours[-1]) if view % 4] == ours[:-1]


@pytest.mark.parametrize("alone", [("v0",), ("v0", "v1")])
def test_a_partition_heals(alone: tuple[str, ...]) -> None:
    cluster = new_cluster()
    parted = [False]

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        if parted[0] and (source.name in alone) != (target.name in alone):
            return ()
        return (2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    cluster.run(4 * VIEW)
    parted[0] = True
    cluster.run(30 * VIEW)
    parted[0] = False
    before = max(cluster.heights())
    assert before >= 15 if len(alone) == 1 else before <= 5
    assert cluster.run(15 * VIEW, until=partial(cluster.reached, before + 3))


def test_10_a_hidden_certificate_does_not_stop_the_chain() -> None:
    """::

    b1 .. b6 <-c-        only v0 gets the votes of view 6, and what it then says is lost for two seconds
    """
    cluster = new_cluster()

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        hidden = isinstance(message, Vote) and message.view == 6 and target.name != "v0"
        gone = source.name == "v0" and now < 2 * SECOND and views(cluster)[0] >= 6
        return () if hidden or gone else (2 * MILLISECOND,)

    cluster.route = route
    cluster.start()
    cluster.run(2 * SECOND)
    before = max(cluster.heights())
    assert cluster.run(20 * VIEW, until=partial(cluster.reached, before + 10))


def test_14_who_was_away_for_sixty_blocks_catches_up() -> None:
    cluster = new_cluster()
    cluster.start()
    cluster.run(2 * VIEW)
    cluster.crash(cluster.nodes[2])
    cluster.run(130 * VIEW)
    height = max(cluster.heights())
    assert height > 60
    cluster.start(cluster.nodes[2])
    assert cluster.run(10 * VIEW, until=partial(cluster.reached, height + 4))
    assert cluster.run(5 * VIEW, until=lambda: cluster.nodes[2].index in leaders_of(cluster, height)), "it leads again"


def leaders_of(cluster: Cluster, above: int) -> list[int]:
    blocks = cluster.nodes[0].journal.blocks
    return [blocks[block_id].header.proposer for block_id in cluster.nodes[0].ledger[above:]]


def test_a_leader_with_two_bodies_splits_nobody() -> None:
    """v1 runs twice under one name: two blocks in each of its views, two votes in every view, to whom chance will."""
    evidence = [found for seed in range(8) for found in two_bodies(seed)]
    assert evidence, "its two blocks of a view were noticed"


def two_bodies(seed: int) -> list[ReportEvidence]:
    cluster = new_cluster(seed=seed, twins=(1,))
    draw = random.Random(seed)
    cluster.route = lambda source, target, message, now: (
        () if source.index == 1 and draw.random() < 0.3 else (draw.randint(1, 20) * MILLISECOND,)
    )
    cluster.start()
    for number in range(10):
        cluster.submit(b"payload %d" % number)
    honest = [node for node in cluster.nodes if node.index != 1]
    assert cluster.run(100 * VIEW, until=lambda: min(len(node.ledger) for node in honest) >= 20)
    guilty = cluster.committee.peer(1)
    assert all(reject.peer == guilty for node in honest for reject in node.rejects)
    return [evidence for node in honest for evidence in node.evidence]


# --- kill -9 -------------------------------------------------------------------------------------------------------


def test_1_a_node_may_die_at_every_boundary() -> None:
    seen: Counter[str] = Counter()
    boundary = 0
    while True:
        boundary += 1
        cluster = new_cluster()
        for number in range(4):
            cluster.submit(b"payload %d" % number)
        silence(cluster, "v2", SECOND)
        killed: list[str] = []
        cluster.crash_point = crash_at(cluster, "v1", boundary, killed)
        cluster.start()
        assert cluster.run(20 * SECOND, until=cluster.drained), f"stalled after boundary {boundary} ({killed})"
        if not killed:
            break
        seen[killed[0]] += 1
    wanted = {"before persist", "after persist"}
    wanted |= {f"{side} sign {kind}" for side in ("before", "after") for kind in ("proposal", "vote")}
    wanted |= {f"before send {message}" for message in ("Proposal", "Vote", "Clock", "Certificates")}
    assert wanted <= set(seen)


def check_kills_of_all(seeds: range) -> None:
    for seed in seeds:
        cluster = new_cluster(seed=seed)
        for number in range(4):
            cluster.submit(b"payload %d" % number)
        kill_all_in_mid_view(cluster, random.Random(seed), boundary_max=250, away_ms_max=300)
        assert cluster.run(20 * SECOND, until=cluster.drained), f"seed {seed}"


def test_2_all_nodes_killed_at_once_come_back() -> None:
    check_kills_of_all(range(60))


@pytest.mark.sweep
def test_2_all_nodes_killed_at_once_come_back_a_thousand_times() -> None:
    check_kills_of_all(range(1_000))


# --- changed bytes -------------------------------------------------------------------------------------------------


def history() -> tuple[Cluster, Heard]:
    """What v1 heard in a run with a silent leader."""
    cluster = new_cluster()
    silence(cluster, "v2")
    cluster.start()
    heard = listen(cluster)
    for number in range(6):
        cluster.submit(b"payload %d" % number)
    cluster.run(8 * VIEW)
    return cluster, heard


def test_6_every_changed_byte() -> None:
    cluster, heard = history()
    counts: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for index, (event, now) in enumerate(heard):
        if not isinstance(event, Received):
            continue
        taken[type(event.message).__name__] += 1
        if taken[type(event.message).__name__] in (2, 5):
            check_message(cluster, heard[:index], event, now, counts)
    assert {"Proposal", "Vote", "Clock", "Certificates"} <= set(taken)
    assert counts["refused"] > counts["without effect"]


# --- chance --------------------------------------------------------------------------------------------------------


def trouble(seed: int) -> None:
    """Loss, lateness, doubling and partitions for three seconds, with one twin half of the time; then progress."""
    draw = random.Random(seed)
    twins = (draw.randrange(4),) if draw.random() < 0.5 else ()
    cluster = new_cluster(seed=seed, twins=twins)
    loss, latest = draw.choice([0, 0.1, 0.4]), draw.choice([5, 60, 200])
    side: dict[str, int] = {}

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        if now >= 3 * SECOND:
            return (draw.randint(1, 5) * MILLISECOND,)
        if side.get(source.name) != side.get(target.name) or draw.random() < loss:
            return ()
        return tuple(draw.randint(1, latest) * MILLISECOND for _ in range(1 + (draw.random() < 0.1)))

    def part() -> None:
        side.update({node.name: draw.randint(0, 1) for node in cluster.nodes} if draw.random() < 0.5 else {})

    def kill(node: Node) -> None:
        cluster.crash(node)
        cluster.at(cluster.now + draw.randint(1, 300) * MILLISECOND, partial(cluster.start, node))

    cluster.route = route
    for at in range(0, 3000, 300):
        cluster.at(at * MILLISECOND, part)
        if draw.random() < 0.3:
            cluster.at((at + 7) * MILLISECOND, partial(kill, draw.choice(cluster.nodes)))
    cluster.start()
    cluster.run(4 * SECOND)
    side.clear()
    honest = [node for node in cluster.nodes if node.index not in twins]
    goal = max(cluster.heights()) + 3
    assert cluster.run(40 * SECOND, until=lambda: min(len(node.ledger) for node in honest) >= goal), f"seed {seed}"
    guilty = {cluster.committee.peer(twin) for twin in twins}
    assert all(reject.peer in guilty for node in honest for reject in node.rejects), f"seed {seed}"


def test_trouble_and_healing() -> None:
    for seed in range(40):
        trouble(seed)


@pytest.mark.sweep
def test_much_trouble_and_healing() -> None:
    for seed in range(1_000, 4_000):
        trouble(seed)
