"""Simplex in the simulator: its broken variants are caught, and where they are, the right one is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

import netsim
from netsim.mutants.mutant import Mutant
from netsim.mutants.simplex import BROKEN
from netsim.scenario import Scenario, expand, load
from netsim.simulation import Result, run_schedule

SCENARIOS = Path(netsim.__file__).parent / "scenarios"
SEEDS = 120
RARE = ("X3", "R7")
"""Seen once in some 300 schedules: left to the sweep of mutants."""


def scenario(name: str) -> Scenario:
    return load(next(SCENARIOS.glob(f"{name}.*")))


def run(name: str, seed: int, broken: Mutant | None = None) -> Result:
    schedule = expand(scenario(name), seed).replace(protocol="simplex")
    return run_schedule(schedule, definition=None if broken is None else broken.definition)


@pytest.mark.parametrize("broken", [row for row in BROKEN if row.id not in RARE], ids=lambda row: row.id)
def test_what_is_broken_is_caught(broken: Mutant) -> None:
    """Most in the first schedules."""
    assert any(not run(broken.scenario, seed, broken).silent for seed in range(SEEDS)), broken.change


@pytest.mark.parametrize("name", sorted({row.scenario for row in BROKEN} | {"every-fourth-silent", "hidden-lock"}))
def test_what_is_right_is_not(name: str) -> None:
    for seed in range(12):
        result = run(name, seed)
        assert result.silent, (seed, result.violations[0])


def test_a_nullification_that_one_node_lacks_is_asked_for() -> None:
    """::

        genesis <- b3        node 0 was cut off while view 1 failed, and then no quorum is without it

    With the others' certificates it votes; without asking, view 3 and every view after it fails.
    """
    (never_asks,) = [row for row in BROKEN if row.id == "L2"]
    right, wrong = run(never_asks.scenario, 0), run(never_asks.scenario, 0, never_asks)
    assert right.silent
    assert right.commits >= 5
    assert not wrong.silent
    assert wrong.commits == 0
