"""Whole replicas with finality under each protocol: crashes at every point around a vote, restarts, new validators.

The cluster asserts that no key ever signs two subjects in one slot, which for a vote is the height of its target, and
that what is announced as final is in the ledger.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from consensus.genesis import Pacing
from consensus.protocols.registry import protocol_names
from tests.support.cluster import SECOND, Cluster, Crash, Node
from tests.support.committee import committee
from tests.support.hosts import members

INTERVAL = 6
PACING = Pacing(view_timeout_ms=200, idle_interval_ms=20)
POINTS = (
    "before persist",
    "after persist",
    "before sign ffg",
    "after sign ffg",
    "before send FfgVote",
)


def new_cluster(
    protocol: str = "jolteon", *, seed: int = 0, hosts: int = 4, sets: dict[int, tuple[int, ...]] | None = None
) -> Cluster:
    first = committee(4, protocol=protocol, pacing=PACING)
    first = replace(first, spec=msgspec.structs.replace(first.spec, checkpoint_interval=INTERVAL))
    following = {height: members(first.scheme, *numbers) for height, numbers in (sets or {}).items()}
    return Cluster(first, seed=seed, hosts=hosts, sets=following, finality=True, through_codec=True)


def all_final(cluster: Cluster, height: int) -> bool:
    return all(node.final >= height for node in cluster.nodes)


@pytest.mark.parametrize("protocol", protocol_names())
def test_every_protocol_finalizes_what_it_commits(protocol: str) -> None:
    cluster = new_cluster(protocol)
    cluster.start()
    for number in range(20):
        cluster.submit(b"payload %d" % number)
    assert cluster.run(60 * SECOND, lambda: all_final(cluster, 5 * INTERVAL))
    assert not any(node.rejects or node.evidence for node in cluster.nodes)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("seed", range(4))
def test_a_crash_around_a_vote_costs_nothing(point: str, seed: int) -> None:
    """Each node dies there at its third checkpoint, and starts again a moment later."""
    cluster = new_cluster(seed=seed)
    dead: set[str] = set()

    def die(node: Node, where: str) -> None:
        replica = node.replica
        height = 0 if replica is None or replica.finality is None else replica.finality.height
        if where == point and node.name not in dead and height >= 3 * INTERVAL:
            dead.add(node.name)
            cluster.at(cluster.now + SECOND // 10, lambda: cluster.start(node))
            raise Crash

    cluster.crash_point = die
    cluster.start()
    assert cluster.run(60 * SECOND, lambda: len(dead) == 4 and all_final(cluster, 8 * INTERVAL))
    assert not any(node.evidence for node in cluster.nodes)


def test_all_die_again_and_again() -> None:
    cluster = new_cluster()
    cluster.start()
    for height in range(2, 12, 2):
        assert cluster.run(60 * SECOND, lambda: all_final(cluster, height * INTERVAL))  # noqa: B023 - called in this round
        for node in cluster.nodes:
            cluster.crash(node)
            node.final = 0
        cluster.start()
        assert all(node.final >= height * INTERVAL for node in cluster.nodes), "known again at once"
    assert not any(node.evidence for node in cluster.nodes)


def test_without_its_record_a_restart_would_sign_twice() -> None:
    """That the record is there is what the tests above rest on."""
    cluster = new_cluster()
    for node in cluster.nodes:
        node.journal.keep = lambda record: getattr(record, "kind", "") != "ffg"
    cluster.start()
    assert cluster.run(60 * SECOND, lambda: all_final(cluster, 2 * INTERVAL))
    cluster.crash(cluster.nodes[0])
    with pytest.raises(ValueError, match="checkpoints were committed since"):
        cluster.start(cluster.nodes[0])


@pytest.mark.parametrize("protocol", protocol_names())
def test_new_validators_take_over(protocol: str) -> None:
    """Two of four are replaced, then the other two; all keep running, and restart in the middle."""
    cluster = new_cluster(protocol, hosts=6, sets={15: (2, 3, 4, 5), 45: (0, 1, 4, 5)})
    cluster.start()
    assert cluster.run(60 * SECOND, lambda: cluster.reached(20))
    for node in cluster.nodes:
        cluster.crash(node)
    cluster.start()
    assert cluster.run(120 * SECOND, lambda: all_final(cluster, 90))
    for node in cluster.nodes:
        assert node.replica is not None
        assert node.replica.finality is not None
        assert node.replica.finality.chain_state().handover.epoch == 2
    assert not any(node.evidence for node in cluster.nodes)
