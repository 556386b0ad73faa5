"""Mutants, sweeps, shrinking, Twins, importers, and the command line. Reports and exports have tests of their own."""

from __future__ import annotations

import json
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from typer.testing import CliRunner

from consensus.protocols.registry import protocol_names
from netsim import Schedule, load, run_schedule
from netsim.checks import scenario_path, try_mutant
from netsim.cli import app, main
from netsim.imports import import_twins
from netsim.mutants import fast_hotstuff
from netsim.mutants.mutant import Mutant
from netsim.mutants.registry import MUTANTS, mutant_named
from netsim.scenario import expand
from netsim.schedule import BadSchedule, Drop, Stop, ViewPartition
from netsim.shrink import shrink, without_view
from netsim.strategies import schedules, swarms
from netsim.sweep import Variant, sweep
from netsim.twins import Shape, is_canonical, partitions_of, sample, scenarios, schedule_of

DATA = Path(__file__).parent / "data"
FOUND = {
    f"{row['id']}-{row['protocol']}": row for row in json.loads((DATA / "mutants.json").read_text())
}  # fmt: skip
"""Which oracle caught each mutant at which seed. After a deliberate change of what a seed draws:
``netsim mutants --json > tests/netsim/data/mutants.json``."""
cli = CliRunner()


def test_every_mutant_was_caught() -> None:
    assert sorted(FOUND) == sorted(mutant.name for mutant in MUTANTS)
    assert all(row["caught"] and row["schedules"] <= 20_000 for row in FOUND.values())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught_where_it_was_found(mutant: Mutant) -> None:
    row = FOUND[mutant.name]
    if mutant.rule is not None:
        assert mutant.rule.complaint(row["seed"])
        assert not mutant.rule.complaint(row["seed"] - 1) or not row["seed"]
        return
    scenario = load(scenario_path(mutant.scenario))
    schedule = expand(scenario, row["seed"]).replace(protocol=mutant.protocol)
    result = run_schedule(schedule, definition=mutant.definition, keep=mutant.keep, make_replica=mutant.replica)
    assert result.verdict == row["oracle"]
    if mutant.protocol in protocol_names() and mutant.id != "D5":
        assert run_schedule(schedule).silent, "what is caught is the mutation"


@pytest.mark.sweep
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found_by_searching(mutant: Mutant) -> None:
    caught = try_mutant(mutant, 20_000)
    assert caught.caught
    assert caught.seed == caught.schedules - 1
    assert caught.minimal_views or mutant.rule is not None


@pytest.mark.parametrize("protocol", protocol_names())
@pytest.mark.parametrize("name", ["swarm", "swarm-restarts", "swarm-healing", "swarm-actors"])
def test_correct_protocols_stay_silent(name: str, protocol: str) -> None:
    scenario = load(scenario_path(name))
    for seed in range(20):
        result = run_schedule(expand(scenario, seed).replace(protocol=protocol))
        assert result.silent, (seed, result.violations)


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", protocol_names())
@pytest.mark.parametrize("name", ["swarm", "swarm-restarts", "swarm-healing", "swarm-actors"])
def test_correct_protocols_stay_silent_for_long(name: str, protocol: str) -> None:
    scenario = load(scenario_path(name))
    for seed in range(1000, 11_000):
        result = run_schedule(expand(scenario, seed).replace(protocol=protocol))
        assert result.silent, (seed, result.violations)


def test_a_sweep_counts_and_keeps_what_it_finds() -> None:
    heard: list[int] = []
    with ThreadPoolExecutor(1) as executor:
        total = sweep(
            load(scenario_path("swarm")), Variant(mutant="S5-jolteon"), range(40), executor=executor, jobs=1,
            told=lambda so_far, batch: heard.append(so_far.schedules),
        )  # fmt: skip
    assert total.schedules == 40 == heard[-1]
    assert [finding.seed for finding in total.findings] == sorted(finding.seed for finding in total.findings)
    assert total.violations == len(total.findings) > 0


class Interrupting(Executor):
    """Runs two batches, then somebody presses Ctrl-C."""

    def __init__(self) -> None:
        self.batches = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.batches += 1
        if self.batches > 2:
            raise KeyboardInterrupt
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_an_interrupted_sweep_keeps_what_was_found() -> None:
    total = sweep(
        load(scenario_path("swarm")), Variant(mutant="S1-jolteon"), range(10_000), executor=Interrupting(), jobs=1
    )
    assert total.schedules < 10_000
    assert total.seconds > 0


def test_a_sweep_runs_on_dask() -> None:
    distributed = pytest.importorskip("distributed", reason="dask is an extra: pip install 'shared-sequencer[dask]'")
    scenario, variant = load(scenario_path("swarm")), Variant(mutant="S5-jolteon")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, scheduler_port=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        total = sweep(scenario, variant, range(24), executor=client.get_executor(), jobs=1)
    with ThreadPoolExecutor(1) as executor:
        here = sweep(scenario, variant, range(24), executor=executor, jobs=1)
    assert total.findings == here.findings
    assert total.schedules == 24


OWN_PROTOCOL = '''
"""Jolteon that commits what is certified: planted by a test."""
from collections.abc import Sequence

from consensus.block_tree import BlockTree, Entry
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.chained_family import chained
from consensus.types import BlockHeader, Certificate


class Hasty(Jolteon):
    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return tree.get(certificate.block_id)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return True


DEFINITION = chained("jolteon", Hasty())
'''


def test_a_planted_bug_is_found_shrunk_and_shown(tmp_path: Path) -> None:
    protocol = tmp_path / "hasty.py"
    protocol.write_text(OWN_PROTOCOL)
    found = cli.invoke(
        app,
        ["sweep", "swarm", "--seeds", "0:30", "--jobs", "1", "--json", "--protocol-file", str(protocol),
         "--schedules", str(tmp_path / "found")],
    )  # fmt: skip
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    assert document["violations"] > 0
    assert {"schedules", "violations", "schedules_per_s", "deliveries_per_s"} <= set(document)
    [first, *_] = sorted((tmp_path / "found").iterdir())
    short = tmp_path / "short.json"
    shrunk = cli.invoke(
        app,
        ["shrink", str(first), "--out", str(short), "--protocol-file", str(protocol), "--runs", "200", "--json"],
    )  # fmt: skip
    assert shrunk.exit_code == 0, shrunk.output
    told = json.loads(shrunk.stdout)
    assert told["oracle"] == first.name.partition("-")[0]
    assert told["size_after"] < told["size_before"]
    replayed = cli.invoke(app, ["replay", str(short), "--json", "--protocol-file", str(protocol)])
    assert (replayed.exit_code, json.loads(replayed.stdout)["verdict"]) == (1, told["oracle"])
    assert cli.invoke(app, ["replay", str(short), "--json"]).exit_code == 0
    page = tmp_path / "page.html"
    assert cli.invoke(app, ["report", str(short), "--protocol-file", str(protocol), "--out", str(page)]).exit_code == 0
    text = page.read_text()
    assert told["oracle"] in text
    assert "netsim replay" in text
    assert "http-equiv" not in text
    assert 'src="' not in text


def test_shrinking_keeps_the_oracle_and_refuses_silence() -> None:
    mutant = mutant_named("S2-jolteon")
    schedule = expand(load(scenario_path("swarm")), FOUND["S2-jolteon"]["seed"])

    def run(candidate: Schedule) -> Any:
        return run_schedule(candidate, definition=mutant.definition)

    shrunk = shrink(schedule, run, runs_max=300)
    assert shrunk.oracle == run(schedule).verdict == run(shrunk.schedule).verdict
    assert shrunk.size_after < shrunk.size_before / 2
    with pytest.raises(ValueError, match="silent"):
        shrink(schedule, run_schedule)


def test_a_view_is_taken_out_of_a_schedule() -> None:
    schedule = Schedule(
        leaders=(0, 1, 2, 3),
        faults=(Drop(view=2, source=0, to=(1,)), Drop(view=3, source=0, to=(2,))),
        stop=Stop(view=4),
    )
    shorter = without_view(schedule, 2)
    assert shorter.leaders == (0, 2, 3)
    assert shorter.faults == (Drop(view=2, source=0, to=(2,)),)


# --- Twins -------------------------------------------------------------------------------------------------------


def test_partitions_are_counted_by_stirling_numbers() -> None:
    assert len(list(partitions_of(5, 2))) == 16
    assert len(list(partitions_of(5, 5))) == 52


def test_of_each_symmetry_class_one_scenario_is_made() -> None:
    shape = Shape(nodes=4, twins=1, partitions=2, views=1)
    made = list(scenarios(shape))
    assert len(made) == 8  # where the copy is, and how many of the three plain nodes stand on the first copy's side
    assert len(set(made)) == len(made)
    assert all(is_canonical(steps, [tuple(range(5))]) for steps in made)
    assert list(sample(shape, 1, 5)) == list(sample(shape, 1, 5))


def test_twins_scenarios_are_silent_for_ours() -> None:
    shape = Shape(views=3)
    for protocol in ("jolteon", "hotstuff"):
        for steps in sample(shape, 7, 25):
            assert run_schedule(schedule_of(shape, steps, protocol)).silent


def test_the_published_fork_reproduces_and_the_correct_rule_refuses_it() -> None:
    [schedule] = import_twins((DATA / "fast_hotstuff_fork.json").read_bytes(), "fork", fast_hotstuff.NAME)
    forked = run_schedule(schedule, definition=fast_hotstuff.AS_PUBLISHED)
    assert forked.verdict == "S8"
    logs = run_schedule(schedule.replace(oracles=("S1",)), definition=fast_hotstuff.AS_PUBLISHED)
    assert logs.verdict == "S1"
    assert max(logs.views) <= 11
    assert run_schedule(schedule, definition=fast_hotstuff.CORRECT).silent
    assert run_schedule(schedule.replace(protocol="jolteon")).silent


def test_relabs_format_is_read() -> None:
    [schedule] = import_twins((DATA / "relab.json").read_bytes(), "relab.json", "jolteon")
    assert schedule.leaders == (0, 1)
    assert [actor.node for actor in schedule.actors] == [0]
    assert schedule.faults == (
        ViewPartition(view=1, groups=((0, 1, 2), (3, 4))),
        ViewPartition(view=2, groups=((0, 1, 2, 3),)),
    )
    with pytest.raises(BadSchedule, match=r"x\.json: .*num_twins"):
        list(import_twins(b'{"num_nodes": 4}', "x.json", "jolteon"))


# --- the command line --------------------------------------------------------------------------------------------


def test_run_prints_one_document() -> None:
    done = cli.invoke(app, ["run", "calm", "--seed", "3", "--json"])
    assert done.exit_code == 0
    assert set(json.loads(done.stdout)) == {
        "verdict", "violations", "commits", "virtual_s", "events", "deliveries", "trace_hash",
    }  # fmt: skip
    loud = cli.invoke(app, ["run", "too-many-twins", "--json"])
    assert loud.exit_code == 1
    assert json.loads(loud.stdout)["violations"][0]["oracle"] == "S6"


def test_bad_input_leaves_with_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[link]\nloss = 7\n")
    for arguments, message in (
        (["run", str(bad)], "$.link.loss"),
        (["run", "nothing-of-the-kind"], "neither a file nor one of"),
        (["sweep", "calm", "--seeds", "5:2"], "--seeds"),
        (["run", "calm", "--protocol", "nope"], "'nope' is unknown"),
        (["run", "calm", "--mutant", "S99"], "'S99' is unknown"),
        (["sweep", "calm", "--seeds", "0:1", "--executor", "cloud"], "--executor"),
    ):
        monkeypatch.setattr("sys.argv", ["netsim", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2, arguments
        assert message in capsys.readouterr().err


def test_mutants_and_determinism_print_their_documents() -> None:
    done = cli.invoke(app, ["mutants", "--json", "--only", "S5-jolteon", "--budget", "50"])
    [row] = json.loads(done.stdout)
    assert set(row) == {"id", "protocol", "caught", "oracle", "schedules", "seed", "minimal_views"}
    assert (row["id"], row["caught"], done.exit_code) == ("S5", True, 0)
    missed = cli.invoke(app, ["mutants", "--json", "--only", "S7-jolteon", "--budget", "1"])
    assert (json.loads(missed.stdout)[0]["caught"], missed.exit_code) == (False, 1)


def test_list_names_what_there_is() -> None:
    text = cli.invoke(app, ["list"]).stdout
    for name in (
        "scenario swarm",
        "actor puppet",
        "oracle S8",
        "mutant S7-jolteon",
        "mutant F6-ffg",
        "mutant E5-hotstuff",
    ):
        assert name in text


def test_batches_append_to_json_lines(tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    for _ in range(2):
        cli.invoke(app, ["sweep", "calm", "--seeds", "0:4", "--jobs", "1", "--json", "--out", str(lines)])
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sum(row["schedules"] for row in rows) == 8


# --- hypothesis --------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(schedules())
def test_no_schedule_without_faulty_validators_is_loud(schedule: Schedule) -> None:
    assert run_schedule(schedule).silent


@settings(max_examples=25)
@given(swarms(protocol="hotstuff"))
def test_no_swarm_is_loud(schedule: Schedule) -> None:
    assert run_schedule(schedule).silent
