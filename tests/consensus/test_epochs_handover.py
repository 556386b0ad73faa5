"""Who leaves tells those who join: nobody of the next set may have heard that its epoch begins."""

from __future__ import annotations

import pytest

from consensus.protocols.registry import protocol_names
from tests.consensus.test_epochs import all_committed, anybody_has, cut, epochs, load, new_cluster
from tests.support.cluster import SECOND


@pytest.mark.parametrize("protocol", protocol_names())
@pytest.mark.parametrize("before", [0, 1])
def test_all_leave_while_those_who_join_hear_nothing(protocol: str, before: int) -> None:
    """No one stays. The joiners are cut off as the boundary commits, or a block before: when they hear again, everybody
    who knows of the new epoch only observes it, and has nothing of its own to say."""
    for seed in range(3):
        cluster = new_cluster(protocol, {6: (4, 5, 6, 7)}, hosts=8, seed=seed)
        load(cluster, 12)
        cluster.start()
        assert cluster.run(20 * SECOND, until=anybody_has(cluster, 6 - before))
        heal = cut(cluster, 4, 5, 6, 7)
        cluster.run(3 * SECOND)
        heal()
        assert cluster.run(60 * SECOND, until=all_committed(cluster, 12, 12)), (seed, cluster.heights())
        assert epochs(cluster) == {1}


def test_leavers_fall_silent_once_the_next_epoch_commits() -> None:
    cluster = new_cluster("jolteon", {6: (4, 5, 6, 7)}, hosts=8)
    load(cluster, 12)
    cluster.start()
    assert cluster.run(60 * SECOND, until=all_committed(cluster, 12, 12))
    cluster.run(1 * SECOND)
    sent = [node.sent for node in cluster.nodes[:4]]
    cluster.run(5 * SECOND)
    assert [node.sent for node in cluster.nodes[:4]] == sent
