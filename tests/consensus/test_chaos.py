"""Schedules of trouble, seed by seed: safe during it, alive after it."""

from __future__ import annotations

import pytest

from tests.support.chain import CHAINED_NAMES
from tests.support.chaos import run_schedule

SEEDS = 60
SEEDS_SWEEP = 5_000


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_trouble_and_healing(protocol: str) -> None:
    runs = [run_schedule(seed, protocol) for seed in range(SEEDS)]
    assert sum(len(cluster.nodes[0].evidence) for cluster in runs) > 0, "no schedule had a twin that was found out"
    assert all(max(cluster.heights()) >= 5 for cluster in runs)


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", CHAINED_NAMES)
@pytest.mark.parametrize("block", range(10))
def test_much_trouble_and_healing(protocol: str, block: int) -> None:
    for seed in range(1000 + block * SEEDS_SWEEP, 1000 + (block + 1) * SEEDS_SWEEP):
        run_schedule(seed, protocol)
