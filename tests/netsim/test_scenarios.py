"""The scenarios of what users of shared sequencers were hurt by: a correct protocol passes them (test_simulation), and
each shows what it was written for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consensus.types import RangeRequest, RangeResponse
from netsim import Simulation, load, run_schedule
from netsim.checks import scenario_path, scenario_paths
from netsim.mutants.registry import mutant_named
from netsim.scenario import expand
from netsim.schedule import Prune, Stop, Submit
from netsim.show.recording import record

DOCS = Path(__file__).parents[2] / "docs" / "netsim.md"
SHOWN = (
    ("stale-among-stale", "S11-jolteon", "S5"),
    ("stale-among-stale", "L2-hotstuff", "L2"),
    ("stale-node-returns", "S9-jolteon", "S5"),
    ("restart-all-mid-view", "R1-jolteon", "S3"),
    ("restart-between-sign-and-send", "R1-jolteon", "S3"),
    ("restart-between-sign-and-send", "S11-hotstuff", "S5"),
    ("wrong-journal", "L2-jolteon", "L2"),
    ("pruned-peers", "L2-jolteon", "L2"),
    ("lying-sync", "L2-hotstuff", "L2"),
    ("blame-only-the-faulty", "S3-jolteon", "S7"),
)


@pytest.mark.parametrize(("scenario", "mutant", "oracle"), SHOWN)
def test_a_broken_protocol_does_not_pass(scenario: str, mutant: str, oracle: str) -> None:
    broken = mutant_named(mutant)
    schedule = expand(load(scenario_path(scenario)), 1).replace(protocol=broken.protocol)
    assert run_schedule(schedule, definition=broken.definition, keep=broken.keep).verdict == oracle


def test_the_page_names_each_of_them_and_no_other() -> None:
    text = DOCS.read_text()
    table = text[text.index("## What users") : text.index("## Your own")]
    named = set(re.findall(r"`([a-z-]+)`", table))
    assert named <= {path.stem for path in scenario_paths()}
    assert {scenario for scenario, _, _ in SHOWN} <= named
    for path in scenario_paths():
        if path.stem in named - {"swarm-restarts"}:
            assert re.search(r"taiko|espresso|malachite|pathfinder|celo|mev-commit", path.read_text()), path.name


def test_pruned_peers_are_asked_and_passed_over() -> None:
    """Node 3 asks 0 or 1 for what they no longer have, and goes on with 2; it never asks from the beginning again."""
    recorded = record(expand(load(scenario_path("pruned-peers")), 1))
    asked = {each.target for each in recorded.messages if each.source == 3 and each.kind == RangeRequest.__name__}
    answered = [each for each in recorded.messages if each.target == 3 and each.kind == RangeResponse.__name__]
    assert asked & {0, 1}
    assert {each.source for each in answered} & {0, 1}
    assert 2 in {each.source for each in answered}
    assert recorded.result.silent
    assert min(len(log) for log in recorded.result.logs) > 10


def test_where_all_have_pruned_a_node_stays_behind() -> None:
    """The other side: what nobody has, nobody can give, and the oracle of progress says so."""
    scenario = load(scenario_path("pruned-peers")).base
    everybody = (Prune(at_ms=0, nodes=(0, 1, 2), keep=2), *scenario.faults[1:])
    assert run_schedule(scenario.replace(faults=everybody)).verdict == "L2"


def test_the_wrong_journal_really_forgets() -> None:
    """The node that reads another's journal is behind what it signed itself: it counts as faulty, the others do not."""
    recorded = record(expand(load(scenario_path("wrong-journal")), 1))
    assert [node.honest for node in recorded.nodes] == [True, True, False, True]
    (crash,), (restart,) = recorded.marks("crash"), recorded.marks("restart")
    before = [mark.height for mark in recorded.marks("commit") if mark.node == 2 and mark.at_ns < crash.at_ns]
    assert f"height {max(before)}" not in restart.text


def test_what_a_scenario_says_stays_beside_a_swarm(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        "[link]\nlatency = { kind = 'exponential', mean_ms = 8, least_ms = 2 }\n"
        "[[actors]]\nnode = 1\nkind = 'silent'\n[[workload]]\nat_ms = 1\npayload = 'mine'\n"
        "[stop]\nheight = 2\n[swarm]\nnodes = [7]\nactors = ['silent']\nheal_ms = 900\n"
    )
    simulation = Simulation(path)
    for seed in range(30):
        schedule = simulation.schedule(seed)
        assert schedule.link == simulation.scenario.base.link  # type: ignore[union-attr]
        assert schedule.actors[0].node == 1
        assert len({actor.node for actor in schedule.actors}) == len(schedule.actors) == 2
        assert schedule.workload[0] == Submit(at_ms=1, payload="mine")
        assert schedule.stop == Stop(view=12, height=2)
    assert simulation.run(3).silent
