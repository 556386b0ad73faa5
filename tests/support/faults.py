"""What is done to a cluster in memory: kills at a boundary between persisting, signing and sending, and clocks that run
wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from tests.support.cluster import MILLISECOND, SECOND, Cluster, Crash, Node


def crash_at(cluster: Cluster, victim: str, boundary: int, killed: list[str]) -> Callable[[Node, str], None]:
    """Kill ``victim`` at its ``boundary``-th boundary; it comes back 20 ms later."""
    passed = 0

    def crash_point(node: Node, where: str) -> None:
        nonlocal passed
        passed += node.name == victim
        if node.name == victim and passed == boundary:
            killed.append(where)
            cluster.at(cluster.now + 20 * MILLISECOND, lambda: cluster.start(node))
            raise Crash

    return crash_point


def kill_all_in_mid_view(cluster: Cluster, draw: random.Random, *, boundary_max: int, away_ms_max: int) -> None:
    """All nodes die at one moment that is drawn, with whatever was durable; all come back. Runs for a second."""
    cluster.start()
    boundary = draw.randint(1, boundary_max)
    passed = 0

    def crash_point(node: Node, where: str) -> None:
        nonlocal passed
        passed += 1
        if passed == boundary:
            for other in cluster.nodes:
                if other is not node:
                    cluster.crash(other)
                cluster.at(cluster.now + draw.randint(1, away_ms_max) * MILLISECOND, partial(cluster.start, other))
            raise Crash

    cluster.crash_point = crash_point
    cluster.run(SECOND)


def scale_timers(cluster: Cluster, name: str, numerator: int, denominator: int) -> None:
    """This node's clock runs slower (above 1) or faster."""
    original = cluster._set_timer

    def scaled(node: Node, timer: str, deadline_ns: int) -> None:
        if node.name == name:
            deadline_ns = cluster.now + (deadline_ns - cluster.now) * numerator // denominator
        original(node, timer, deadline_ns)

    cluster._set_timer = scaled  # type: ignore[method-assign, assignment]  # one clock runs wrong
