"""A Byzantine validator that plays with messages, against the protocols as they are and against wrong ones.

As they are, they stay silent; each altered rule is found out. A schedule takes about ten milliseconds.
"""

from __future__ import annotations

import pytest

from consensus.protocols.registry import protocol_named
from tests.support.chain import CHAINED_NAMES
from tests.support.mutants import MUTANTS, Mutant, crashes
from tests.support.puppet import VIEWS, run_puppet

SEEDS = 150
SEEDS_SWEEP = 20_000
BUDGET = 8_000
"""Schedules in which an altered rule must be found. Most are found within a hundred, and the first ends the search."""


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_against_the_puppet_the_protocols_are_safe_and_go_on(protocol: str) -> None:
    clusters = [run_puppet(seed, protocol_named(protocol), protocol=protocol, heals=True) for seed in range(SEEDS)]
    assert sum(bool(cluster.chain) for cluster in clusters) > SEEDS // 4, "what commits nothing cannot fork"
    assert sum(any(node.evidence for node in cluster.nodes) for cluster in clusters) > SEEDS // 2
    views = [node.replica.status().view for cluster in clusters for node in cluster.nodes if node.replica is not None]
    assert max(views) > VIEWS


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_against_the_puppet_with_crashes_the_protocols_are_safe_and_go_on(protocol: str) -> None:
    for seed in range(SEEDS):
        run_puppet(seed, protocol_named(protocol), protocol=protocol, prepare=crashes, heals=True)


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", CHAINED_NAMES)
@pytest.mark.parametrize("block", range(4))
def test_against_the_puppet_for_long(protocol: str, block: int) -> None:
    for seed in range(SEEDS + block * SEEDS_SWEEP, SEEDS + (block + 1) * SEEDS_SWEEP):
        run_puppet(seed, protocol_named(protocol), protocol=protocol, heals=True)
        run_puppet(seed, protocol_named(protocol), protocol=protocol, prepare=crashes, heals=True)


def found(mutant: Mutant, budget: int) -> int | None:
    """The first seed that shows it."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.alter(patch)
        for seed in range(budget):
            try:
                run_puppet(seed, mutant.definition, protocol=mutant.protocol, prepare=mutant.prepare)
            except AssertionError:
                return seed
    return None


def check_found(mutant: Mutant, budget: int) -> None:
    seed = found(mutant, budget)
    print(f"{mutant.name}: found by seed {seed}")
    assert seed is not None, f"{mutant.name}: not found in {budget} schedules"
    run_puppet(seed, protocol_named(mutant.protocol), protocol=mutant.protocol)  # as it should be, it is silent
    run_puppet(seed, protocol_named(mutant.protocol), protocol=mutant.protocol, prepare=crashes)


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if not mutant.rare], ids=lambda mutant: mutant.name)
def test_an_altered_rule_is_found_out(mutant: Mutant) -> None:
    check_found(mutant, BUDGET)


@pytest.mark.sweep
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.rare], ids=lambda mutant: mutant.name)
def test_an_altered_rule_that_seldom_shows_is_found_out(mutant: Mutant) -> None:
    check_found(mutant, 10 * BUDGET)
