"""kill -9 at every boundary between persisting, signing and sending; all nodes at once; and without the records."""

from __future__ import annotations

import random
from functools import partial

import pytest

from consensus.engine import BlockRecord, Record
from consensus.genesis import Pacing
from consensus.protocols.chained_types import OrderVote
from consensus.types import VoteSubject
from tests.support.chain import CHAINED_NAMES
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Node
from tests.support.committee import committee
from tests.support.faults import crash_at, kill_all_in_mid_view

PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50)
KILLS_OF_ALL = 1_000


def new_cluster(protocol: str, seed: int = 0, delay_ns: tuple[int, int] = (MILLISECOND, 5 * MILLISECOND)) -> Cluster:
    cluster = Cluster(committee(4, protocol=protocol, pacing=PACING), seed=seed, delay_ns=delay_ns)
    for number in range(8):
        cluster.submit(b"payload %d" % number)
    return cluster


def with_a_silent_leader(cluster: Cluster) -> None:
    """Validator 2 sends nothing for a second: timeouts and their certificates are among the boundaries."""
    route = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if source.name == "v2" and now < SECOND else route(source, target, message, now)
    )


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_a_node_may_die_at_every_boundary(protocol: str) -> None:
    """The cluster itself asserts that nothing is signed twice and that ledgers agree; here, that everything commits."""
    boundary = 0
    seen: dict[str, int] = {}
    while True:
        boundary += 1
        cluster = new_cluster(protocol)
        with_a_silent_leader(cluster)
        killed: list[str] = []
        cluster.crash_point = crash_at(cluster, "v1", boundary, killed)
        cluster.start()
        assert cluster.run(20 * SECOND, until=cluster.drained), (
            f"stalled after a crash at boundary {boundary} ({killed})"
        )
        if not killed:
            break
        seen[killed[0]] = seen.get(killed[0], 0) + 1
    print(f"{protocol}: {sum(seen.values())} boundaries: {seen}")
    for where in ("before persist", "after persist"):
        assert where in seen
    for kind in ("proposal", "vote", "timeout"):
        assert f"before sign {kind}" in seen
        assert f"after sign {kind}" in seen
    for message in ("Proposal", "Vote", "Timeout"):
        assert f"before send {message}" in seen


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_all_nodes_killed_at_once_come_back(protocol: str) -> None:
    for seed in range(KILLS_OF_ALL // 10):
        cluster = new_cluster(protocol, seed)
        kill_all_in_mid_view(cluster, random.Random(seed), boundary_max=120, away_ms_max=30)
        assert cluster.run(20 * SECOND, until=cluster.drained), f"seed {seed}"


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_all_nodes_killed_at_once_come_back_a_thousand_times(protocol: str) -> None:
    for seed in range(KILLS_OF_ALL):
        cluster = new_cluster(protocol, seed)
        kill_all_in_mid_view(cluster, random.Random(seed), boundary_max=120, away_ms_max=30)
        assert cluster.run(20 * SECOND, until=cluster.drained), f"seed {seed}"


def without_uncommitted_blocks(record: Record) -> bool:
    """A journal that keeps every decision but not the blocks that they name."""
    return not isinstance(record, BlockRecord)


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_without_the_blocks_that_votes_name_the_chain_stops_for_good(protocol: str) -> None:
    """::

        genesis <- b1 <-QC-      every node voted for b1 and knows its certificate, no node holds b1

    All are killed after a certificate formed and before anything committed. With the blocks recorded they go on;
    without, nobody can ever extend the highest certificate. (Order votes, which would commit sooner, are lost.)
    """
    for keep, goes_on in ((lambda record: True, True), (without_uncommitted_blocks, False)):
        cluster = new_cluster(protocol, delay_ns=(MILLISECOND, MILLISECOND))
        for node in cluster.nodes:
            node.journal.keep = keep
        cluster.route = lambda source, target, message, now: () if isinstance(message, OrderVote) else (MILLISECOND,)
        cluster.start()
        # a vote of the second view records the certificate of the first block
        assert cluster.run(SECOND, until=partial(_all_voted, cluster, 2))
        assert cluster.heights() == [0, 0, 0, 0]
        for node in cluster.nodes:
            cluster.crash(node)
        cluster.start()
        progressed = cluster.run(15 * SECOND, until=partial(cluster.reached, 3))
        assert progressed == goes_on


def _all_voted(cluster: Cluster, view: int) -> bool:
    return all(_voted_view(cluster, node) == view for node in cluster.nodes)


def _voted_view(cluster: Cluster, node: Node) -> int:
    record = node.journal.safety.get("vote")
    if record is None:
        return 0
    vote = cluster.definition.subject_codec().decode(record.subject)
    assert isinstance(vote, VoteSubject)
    return vote.view
