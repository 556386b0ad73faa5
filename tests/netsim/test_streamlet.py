"""Streamlet in the simulator: the published script tells views from heights, and broken variants are caught."""

from __future__ import annotations

from pathlib import Path

import pytest

import netsim
from netsim.mutants.mutant import Mutant
from netsim.mutants.streamlet import BROKEN
from netsim.scenario import Scenario, expand, load
from netsim.simulation import run_schedule

SCENARIOS = Path(netsim.__file__).parent / "scenarios"
SEEDS = 150
RARE = ("S4", "T1", "S10")
"""Seen once in some hundred schedules each: left to the sweep of mutants."""


def scenario(name: str) -> Scenario:
    return load(next(SCENARIOS.glob(f"{name}.*")))


def test_views_for_heights() -> None:
    """D2, from the public simulator of the authors of Twins (``scripts/streamlet_twins.json``): two leaders in turn,
    each of whom alone gets the votes for its blocks, and nobody passes a certificate on.

    ::

        genesis <- b1 <- b3 <- b5        heights: b3 is as long as the chain that ends in c2, so everybody votes for it,
               \\- c2 <- c4 <- c6         and three views in a row follow
                                         views: b3 stands on view 1, below c2's; each leader denies the other its vote,
                                         the others vote for both, and no two blocks in a row follow each other
    """
    schedule = expand(scenario("streamlet-views-for-heights"), 0)
    right = run_schedule(schedule)
    assert right.silent
    assert right.commits >= 6
    wrong = run_schedule(schedule, definition=BROKEN[0].definition)
    assert (BROKEN[0].id, wrong.verdict, wrong.commits) == ("D2", "M1", 0)


@pytest.mark.parametrize("broken", [row for row in BROKEN if row.id not in RARE], ids=lambda row: row.id)
def test_what_is_broken_is_caught(broken: Mutant) -> None:
    found = (
        run_schedule(
            expand(scenario(broken.scenario), seed).replace(protocol="streamlet"), definition=broken.definition
        )
        for seed in range(SEEDS)
    )
    assert any(not result.silent for result in found), broken.change


@pytest.mark.parametrize("name", sorted({row.scenario for row in BROKEN}))
def test_what_is_right_is_not(name: str) -> None:
    for seed in range(12):
        result = run_schedule(expand(scenario(name), seed).replace(protocol="streamlet"))
        assert result.silent, (seed, result.violations[0])
