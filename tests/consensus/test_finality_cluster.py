"""Several nodes over one chain with losses, crashes and one equivocator: A3 of the oracles (the honest sign no doubles
and no surrounds; what is final is committed and only grows), and finality goes on.
"""

from __future__ import annotations

import pytest

from consensus.finality.overlay import Finality
from consensus.finality.types import Checkpoint
from tests.support.finality_cluster import CHECKPOINTS, INTERVAL, FfgCluster

SEEDS = 100


def played(seeds: int = SEEDS) -> list[FfgCluster]:
    return [FfgCluster(seed).play() for seed in range(seeds)]


def progress(clusters: list[FfgCluster]) -> int:
    """Checkpoints that are final at the end, in all."""
    return sum(
        max(node.finality.finalized.height for node in cluster.nodes.values()) // INTERVAL for cluster in clusters
    )


def test_honest_nodes_are_never_slashable_and_finality_goes_on() -> None:
    clusters = played()
    for seed, cluster in enumerate(clusters):
        assert cluster.complaints == [], f"seed {seed}"
    assert sum(any(node.evidence for node in cluster.nodes.values()) for cluster in clusters) > SEEDS // 2
    final = [max(node.finality.finalized.height for node in cluster.nodes.values()) // INTERVAL for cluster in clusters]
    assert sum(height >= CHECKPOINTS // 2 for height in final) > 2 * SEEDS // 3


def test_on_one_chain_even_a_lost_record_convicts_nobody() -> None:
    """The source is a function of the chain: who reads the same chain again signs the same votes again. (The guard is
    for the day when it is not the same chain.)"""
    for seed in range(60):
        assert FfgCluster(seed, keeps_records=False).play().complaints == [], f"seed {seed}"


def test_with_sources_of_its_own_knowledge_less_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would choose the highest checkpoint that it knows to be justified: the votes split."""
    sound = progress(played(60))

    def local(self: Finality, target: Checkpoint) -> None:
        chain, self._chain = self._chain, self._known
        try:
            vote(self, target)
        finally:
            self._chain = chain

    vote = Finality._vote
    monkeypatch.setattr(Finality, "_vote", local)
    assert progress(played(60)) < sound
