"""Whole clusters from epoch to epoch: hosts join and leave, crash, are cut off, and lie, at the boundary above all.

The cluster itself asserts that all ledgers hold one chain without gaps, that each block is of the epoch that its height
belongs to, and that no key signs twice in one slot. A test's own claim is that the chain goes on, and who drives it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest

from consensus.genesis import Pacing
from consensus.protocols.registry import protocol_names
from consensus.validators import ValidatorSet
from tests.support.cluster import MILLISECOND, SECOND, Cluster
from tests.support.committee import committee
from tests.support.hosts import members

PACING = Pacing(view_timeout_ms=200, idle_interval_ms=50)
TIMEOUT = PACING.view_timeout_ms * MILLISECOND
PROTOCOLS = protocol_names()
Sets = dict[int, Sequence[int]]


def new_cluster(
    protocol: str,
    sets: Sets,
    *,
    hosts: int = 8,
    seed: int = 0,
    twins: Sequence[int] = (),
    stakes: tuple[int, ...] | None = None,
    others: dict[int, ValidatorSet] | None = None,
) -> Cluster:
    """Hosts 0 to 3 begin. ``sets`` has the hosts that follow after the block at a height; ``others`` the same for sets
    that are not just hosts of stake 1."""
    members_of = committee(4, protocol=protocol, pacing=PACING, stakes=stakes)
    following = {height: members(members_of.scheme, *numbers) for height, numbers in sets.items()}
    return Cluster(members_of, seed=seed, hosts=hosts, twins=twins, sets=following | (others or {}))


def load(cluster: Cluster, payloads: int, every_ns: int = 10 * MILLISECOND) -> None:
    """Everybody is given one payload after the other."""
    for number in range(payloads):
        cluster.at(cluster.now + number * every_ns, partial(cluster.submit, b"payload %d" % number))


def all_committed(cluster: Cluster, height: int, payloads: int) -> Callable[[], bool]:
    """Every running node holds that height and every payload."""
    return lambda: (
        len(cluster.chain) >= height
        and not any(node.pool or len(node.ledger) < height for node in cluster.nodes if node.replica is not None)
        and cluster.now > payloads * 10 * MILLISECOND
    )


def epochs(cluster: Cluster) -> set[int]:
    """The epochs in which running nodes are."""
    return {node.replica.epoch.epoch for node in cluster.nodes if node.replica is not None}


def longest_pause_ns(cluster: Cluster, from_height: int, to_height: int) -> int:
    """Between the first commits of two heights in a row."""
    times = [cluster.committed_ns[height] for height in range(from_height, to_height + 1)]
    return max(later - earlier for earlier, later in pairwise(times))


GROW_AND_SHRINK: Sets = {8: (0, 1, 2, 3, 4), 20: (0, 1, 2, 3, 4, 5, 6), 32: (4, 5, 6, 7)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_four_become_five_seven_and_four_others_under_load(protocol: str) -> None:
    cluster = new_cluster(protocol, GROW_AND_SHRINK)
    load(cluster, 60)
    cluster.start()
    assert cluster.run(60 * SECOND, until=all_committed(cluster, 45, 60)), (protocol, cluster.heights())
    assert epochs(cluster) == {3}
    assert longest_pause_ns(cluster, 4, 45) <= 2 * TIMEOUT
    assert not any(node.rejects or node.evidence for node in cluster.nodes)
