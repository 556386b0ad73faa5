"""What proves the simulator itself: every mutant is caught, every shipped scenario gives the same trace twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Final

import msgspec

from netsim.histories.mutants import FinalityMutant
from netsim.mutants.mutant import Mutant
from netsim.mutants.registry import mutant_named
from netsim.scenario import expand, load
from netsim.schedule import BadSchedule
from netsim.shrink import shrink
from netsim.simulation import Simulation, run_schedule

SCENARIOS: Final = Path(__file__).parent / "scenarios"
SEEDS: Final = (1, 7)
SCRIPTED_SEEDS: Final = 10
"""Of a script a seed draws the delays of the links alone."""
SHRINK_RUNS: Final = 150


class Caught(msgspec.Struct, frozen=True, kw_only=True):
    """How a mutant fared. ``minimal_views`` is the highest view that a node was in when the oracle fired, in the
    shortest schedule that a short shrinking found."""

    id: str
    protocol: str
    caught: bool
    oracle: str | None
    schedules: int
    seed: int | None
    minimal_views: int | None


def scenario_paths() -> tuple[Path, ...]:
    """The shipped scenarios, by name."""
    return tuple(sorted([*SCENARIOS.glob("*.toml"), *SCENARIOS.glob("*.json")], key=lambda path: path.name))


def scenario_path(name: str) -> Path:
    """One of them. Raises :class:`BadSchedule`."""
    for path in scenario_paths():
        if path.stem == name:
            return path
    raise BadSchedule(f"{name}: is neither a file nor one of {', '.join(path.stem for path in scenario_paths())}")


def try_mutant(mutant: Mutant, budget: int) -> Caught:
    """Run the mutant's scenario with seeds from 0 on until an oracle fires."""
    if mutant.rule is not None:
        return _try_rule(mutant, mutant.rule, budget)
    scenario = load(scenario_path(mutant.scenario))
    seeds = range(budget if scenario.swarm is not None else min(budget, SCRIPTED_SEEDS))
    for seed in seeds:
        schedule = expand(scenario, seed).replace(protocol=mutant.protocol)
        run = partial(run_schedule, definition=mutant.definition, keep=mutant.keep, make_replica=mutant.replica)
        result = run(schedule)
        if not result.silent:
            shortest = result if scenario.swarm is None else shrink(schedule, run, runs_max=SHRINK_RUNS).result
            return Caught(
                id=mutant.id,
                protocol=mutant.protocol,
                caught=True,
                oracle=result.verdict,
                schedules=seed + 1,
                seed=seed,
                minimal_views=max(shortest.views),
            )
    return Caught(
        id=mutant.id, protocol=mutant.protocol, caught=False, oracle=None, schedules=len(seeds), seed=None,
        minimal_views=None,
    )  # fmt: skip


def _try_rule(mutant: Mutant, rule: FinalityMutant, budget: int) -> Caught:
    """Play random histories until one is wrong."""
    found = next((seed for seed in range(budget) if rule.complaint(seed)), None)
    return Caught(
        id=mutant.id, protocol=mutant.protocol, caught=found is not None, oracle=None if found is None else "A3",
        schedules=budget if found is None else found + 1, seed=found, minimal_views=None,
    )  # fmt: skip


def try_mutants(mutants: Sequence[Mutant], budget: int, executor: Executor) -> Iterator[Caught]:
    """Each by a worker, given back in their order."""
    yield from executor.map(_try_by_name, [mutant.name for mutant in mutants], repeat(budget))


def _try_by_name(name: str, budget: int) -> Caught:
    """In a worker: a mutant's engine does not travel between processes, its name does."""
    return try_mutant(mutant_named(name), budget)


def traces() -> dict[str, str]:
    """The trace hashes of every shipped scenario."""
    return {f"{path.stem}/{seed}": Simulation(path).run(seed).trace_hash for path in scenario_paths() for seed in SEEDS}


def check_determinism() -> tuple[int, tuple[str, ...]]:
    """How many scenarios there are, and which differ between two processes under two PYTHONHASHSEEDs."""
    found: list[dict[str, str]] = []
    for hash_seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-m", "netsim.checks"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        )
        found.append(json.loads(answer.stdout))
    different = tuple(key for key, trace in found[0].items() if found[1].get(key) != trace)
    return len(scenario_paths()), different


if __name__ == "__main__":
    sys.stdout.write(json.dumps(traces()))
