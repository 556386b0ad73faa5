"""One seeded schedule of trouble: lost, late and doubled messages, partitions, twins, crashes at every boundary, all
nodes killed at once; then the network heals, and the cluster must go on.

:class:`~tests.support.cluster.Cluster` judges safety as it runs. This judges the rest: commits after the trouble, no
honest node accused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from consensus.genesis import Pacing
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Crash, Node
from tests.support.committee import Committee, committee

TROUBLE_NS = 5 * SECOND
HEALING_NS = 30 * SECOND
PAYLOADS = 20


@dataclass(slots=True, kw_only=True)
class Trouble:
    """What a seed draws, and what is going on."""

    random: random.Random
    loss: float
    doubling: float
    latency_max_ns: int
    crashing: float
    partition: dict[str, int] | None = None
    over: bool = False
    crashes: int = 0
    restarts: list[Node] = field(default_factory=list)

    def route(self, source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        """Delays of a message's copies."""
        draw = self.random
        if self.over:
            return (draw.randint(MILLISECOND, 3 * MILLISECOND),)
        if self.partition is not None and self.partition[source.name] != self.partition[target.name]:
            return ()
        if draw.random() < self.loss:
            return ()
        copies = 2 if draw.random() < self.doubling else 1
        return tuple(draw.randint(MILLISECOND, self.latency_max_ns) for _ in range(copies))


def draw_committee(draw: random.Random, protocol: str) -> tuple[Committee, tuple[int, ...]]:
    """A committee, and which of its members have a twin: at most the stake it tolerates."""
    count = draw.choice([4, 4, 4, 5, 7])
    pacing = Pacing(view_timeout_ms=100, idle_interval_ms=50, views_per_leader=draw.choice([1, 1, 3]))
    members = committee(
        count, protocol=protocol, pacing=pacing, election=draw.choice(["round-robin", "round-robin", "stake-weighted"])
    )
    faulty_max = members.epoch.validators.faulty_max
    twins = tuple(draw.sample(range(count), draw.randint(1, faulty_max))) if draw.random() < 0.6 else ()
    return members, twins


def run_schedule(seed: int, protocol: str) -> Cluster:
    """Run one schedule. Raises ``AssertionError`` when anything that must hold does not."""
    draw = random.Random(seed)
    members, twins = draw_committee(draw, protocol)
    cluster = Cluster(members, seed=seed, twins=twins)
    trouble = Trouble(
        random=random.Random(seed + 1),
        loss=draw.choice([0, 0, 0.05, 0.2, 0.4]),
        doubling=draw.choice([0, 0.1]),
        latency_max_ns=draw.choice([3, 30, 120]) * MILLISECOND,
        crashing=draw.choice([0, 0, 0.0005, 0.003]),
    )
    cluster.route = trouble.route
    cluster.crash_point = _crash_points(cluster, trouble)
    cluster.start()
    _plan(cluster, trouble)
    cluster.run(TROUBLE_NS)
    trouble.over = True
    trouble.partition = None
    cluster.start(*[node for node in cluster.nodes if node.replica is None])
    _judge(cluster, twins, seed)
    return cluster


def _crash_points(cluster: Cluster, trouble: Trouble) -> Callable[[Node, str], None]:
    def crash_point(node: Node, where: str) -> None:
        if not trouble.over and trouble.crashing and trouble.random.random() < trouble.crashing:
            trouble.crashes += 1
            _restart_later(cluster, trouble, node)
            raise Crash

    return crash_point


def _restart_later(cluster: Cluster, trouble: Trouble, node: Node) -> None:
    delay_ns = trouble.random.randint(1, 500) * MILLISECOND
    cluster.at(cluster.now + delay_ns, lambda: cluster.start(node) if node.replica is None else None)


def _plan(cluster: Cluster, trouble: Trouble) -> None:
    draw = trouble.random

    def partition() -> None:
        whole = draw.random() < 0.4
        trouble.partition = None if whole else {node.name: draw.randint(0, 1) for node in cluster.nodes}

    def kill_all() -> None:
        for node in cluster.nodes:
            cluster.crash(node)
            _restart_later(cluster, trouble, node)

    for round_number in range(8):
        cluster.at(round_number * 600 * MILLISECOND, partition)
        if draw.random() < 0.15:
            cluster.at(draw.randint(1, 4500) * MILLISECOND, kill_all)
    for number in range(PAYLOADS):
        nodes = [node for node in cluster.nodes if draw.random() < 0.7]
        body = b"payload %d" % number
        cluster.at(draw.randint(1, 4000) * MILLISECOND, partial(_submit, cluster, body, nodes))


def _submit(cluster: Cluster, body: bytes, nodes: list[Node]) -> None:
    if nodes:
        cluster.submit(body, *nodes)


def _judge(cluster: Cluster, twins: tuple[int, ...], seed: int) -> None:
    honest = [node for node in cluster.nodes if node.index not in twins]
    goal = max(cluster.heights()) + 5
    alive = cluster.run(HEALING_NS, until=lambda: all(len(node.ledger) >= goal for node in honest))
    assert alive, f"seed {seed}: no progress after healing: {cluster.heights()}, goal {goal}"
    guilty = {cluster.committee.peer(index) for index in twins}
    for node in honest:
        accused = [reject for reject in node.rejects if reject.peer not in guilty]
        assert not accused, f"seed {seed}: {node.name} accuses an honest node: {accused[0]}"
        for evidence in node.evidence:
            statement = cluster.definition.statement(evidence.first)
            assert statement is not None
            assert statement.signer in twins, f"seed {seed}: evidence against honest validator {statement.signer}"
