"""Bad input, field by field: what is read either runs or is refused with the path of its bad key."""

from __future__ import annotations

import copy
import datetime
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netsim import load, run_schedule, world
from netsim.cli import main
from netsim.imports import import_twins
from netsim.scenario import expand
from netsim.schedule import BadSchedule, Schedule
from netsim.validation import from_json

DATA = Path(__file__).parent / "data"
REFUSAL = re.compile(r"[^:]*: \$([.\[][^:]*)?: .+", re.DOTALL)
Key = str | int
Document = dict[str, Any]

WHOLE: Document = {
    "name": "whole", "seed": 3, "protocol": "jolteon", "scheme": "simulated", "nodes": 4, "stakes": [1, 1, 1, 1],
    "observers": 1, "leaders": [0, 1, 2], "bandwidth_mbit": 100.0, "fault_free": False, "oracles": ["S1", "S6"],
    "expect": "S1", "beyond_bounds": False, "checkpoint_interval": 3,
    "epochs": [{"height": 4, "validators": [{"node": 0, "stake": 2, "key": 1}, {"node": 1}, {"node": 2}, {"node": 3}],
                "leaders": [1, 0]}],
    "times": {"view_timeout_ms": 50, "growth_numerator": 6, "growth_denominator": 5, "exponent_max": 4,
              "idle_interval_ms": 2},
    "link": {"latency": {"kind": "uniform", "low_ms": 1.0, "high_ms": 4.0}, "jitter_ms": 1.0, "loss": 0.1,
             "duplication": 0.1, "reorder": 0.1, "reorder_ms": 5.0},
    "links": [
        {"source": 0, "target": 1, "link": {"latency": {"kind": "constant", "ms": 2.0}}},
        {"source": 1, "target": 2, "link": {"latency": {"kind": "normal", "mean_ms": 4.0, "deviation_ms": 1.0,
                                                        "least_ms": 0.5}}},
        {"source": 2, "target": 3, "link": {"latency": {"kind": "exponential", "mean_ms": 4.0, "least_ms": 0.5}}},
        {"source": 3, "target": 0, "link": {"latency": {"kind": "empirical", "table_ms": [1.0, 2.0]}}},
    ],
    "regions": ["us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "sa-east-1", "us-east-1"],
    "clocks": [{"node": 1, "offset_ms": -20.0, "drift_ppm": 100}],
    "actors": [
        {"node": 3, "kind": "puppet", "moves": [
            {"move": "propose", "view": 4, "parent": 1, "variant": 1, "proof": "lowest", "begins": 3, "to": [0, 1],
             "after_ms": 1.0},
            {"move": "vote", "view": 2, "choice": 0, "times": 2, "to": [1], "after_ms": 0.5},
            {"move": "give-up", "view": 3, "high": 1, "to": [2], "after_ms": 0.5},
            {"move": "announce", "view": 3, "high": 0, "to": [2], "after_ms": 0.5},
        ]},
        {"node": 2, "kind": "slow", "options": {"delay_ms": 3.0}},
        {"node": 1, "kind": "twin"},
    ],
    "faults": [
        {"kind": "partition", "at_ms": 5.0, "for_ms": 10.0, "groups": [[0, 1], [2, 3, 4, 5]]},
        {"kind": "cut", "at_view": 2, "for_ms": 10.0, "pairs": [[0, 1]]},
        {"kind": "hold", "at_height": 1, "for_ms": 10.0, "pairs": [[1, 0]]},
        {"kind": "clog", "at_ms": 5.0, "for_ms": 10.0, "pairs": [[1, 0]], "extra_ms": 3.0},
        {"kind": "drop", "view": 3, "message": "Vote", "source": 0, "to": [1]},
        {"kind": "view-partition", "view": 5, "groups": [[0, 1, 2, 3], [3, 4]]},
        {"kind": "crash", "nodes": [0], "boundary": "after sign", "nth": 2, "restart_ms": 5.0},
        {"kind": "crash", "at_ms": 30.0, "nodes": [0, 2], "restart_ms": 5.0},
        {"kind": "disk", "at_ms": 3.0, "node": 0, "fault": "slow", "slow_ms": 1.0},
        {"kind": "disk", "at_ms": 3.0, "node": 3, "fault": "wrong-host", "other": 1},
        {"kind": "prune", "at_ms": 20.0, "nodes": [0], "keep": 2},
        {"kind": "heal", "at_ms": 300.0},
    ],
    "workload": [{"at_ms": 1.0, "payload": "one", "to": [0, 1]}],
    "stop": {"view": 5, "height": 1, "time_ms": 2000.0},
    "liveness": {"from_ms": 350.0, "timeouts": 20, "payload_ms": 1000.0, "delay_ms": 5.0, "core": [0, 2]},
    "milestones": [{"view": 3, "height_min": 0, "height_max": 5}],
}  # fmt: skip
"""Uses every field. Two faulty of four are too many, so ``beyond_bounds`` is set where it has to run."""
WHOLE["beyond_bounds"] = True

SWARM: Document = {
    "text": "all of a swarm", "protocol": "hotstuff", "stop": {"time_ms": 2000.0},
    "swarm": {
        "nodes": [4, 5], "protocols": ["jolteon", "hotstuff"], "actors": ["puppet", "silent"], "views": 5,
        "leader_bias": 0.5, "latency_ms": [[1.0, 5.0], [1.0, 20.0]], "loss": [0.0, 0.1], "duplication": [0.1],
        "reorder": [0.1], "drop": [0.2], "hide": [0.2], "partition": [0.2], "crash": [0.0, 2.0], "restart_all": 0.1,
        "payloads": 2, "heal_ms": 300.0, "epochs": [1, 2], "epoch_blocks": 3, "joiners": [0, 2],
        "checkpoint_interval": [2],
    },
}  # fmt: skip

POISON: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 4, 5, 6, 4095, 4096, 2**31, 2**53, 2**63, 2**64, 10**30, -(2**63), 0.0, -0.5, 1.5, 1e9,
    1e12, 1e308, "", "x", "$.x", "é" * 300, [], [[]], [0], [99], {}, {"x": 1},
)  # fmt: skip
ONLY_TOML = (math.nan, math.inf, -math.inf, datetime.date(2026, 1, 1))


def paths(document: Any, base: tuple[Key, ...] = ()) -> Iterator[tuple[Key, ...]]:
    """Every place in a document, containers included."""
    items: Any = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*base, key)
        if isinstance(value, dict | list):
            yield from paths(value, (*base, key))


def changed(document: Document, path: tuple[Key, ...], value: Any) -> Document:
    """The document with another value at ``path``; ``...`` takes it out."""
    made = copy.deepcopy(document)
    there: Any = made
    for key in path[:-1]:
        there = there[key]
    if value is ...:
        del there[path[-1]]
    else:
        there[path[-1]] = value
    return made


def changes(document: Document, values: tuple[Any, ...], step: int = 3) -> Iterator[Document]:
    """Every place, with every ``step``-th bad value; without it; and with a key that nobody knows beside it."""
    for number, path in enumerate(paths(document)):
        for value in values[number % step :: step]:
            yield changed(document, path, value)
        yield changed(document, path, ...)
        if isinstance(path[-1], str):
            yield changed(document, (*path[:-1], "unknown_key"), 1)


def toml(value: Any) -> str:
    """A value as TOML writes it in one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(toml(each) for each in value) + "]"
        case bool() | str():
            return json.dumps(value)
        case None:
            return "{ none = 1 }"
        case _:
            return str(value)


def as_toml(document: Document) -> bytes:
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in document.items()).encode()


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutated schedule may ask for a run of days: it must end all the same."""
    monkeypatch.setattr(world, "EVENTS_MAX", 3000)
    monkeypatch.setattr(world, "HASH_BATCH_BYTES", 1 << 12)


def is_told(error: BadSchedule) -> None:
    assert REFUSAL.fullmatch(str(error)), str(error)


def run(schedule: Schedule) -> None:
    """It runs, or says what it asks too much of."""
    try:
        run_schedule(schedule)
    except BadSchedule as error:
        is_told(error)


def read(data: bytes, path: Path) -> Schedule | None:
    """The schedule in a file, or None when it is refused as it should be."""
    path.write_bytes(data)
    try:
        return expand(load(path), 1)
    except BadSchedule as error:
        is_told(error)
        return None


def is_small(schedule: Schedule) -> bool:
    """Runs at once: a thousand validators do not."""
    return schedule.nodes + schedule.observers < 10 and schedule.scheme == "simulated"


def test_the_documents_that_are_mutated_are_good(tmp_path: Path) -> None:
    schedule = from_json(json.dumps(WHOLE).encode(), "x.json")
    fields = frozenset(msgspec.structs.asdict(schedule))
    assert fields == frozenset(WHOLE), "a field of Schedule is not in the document"
    assert from_json(schedule.to_json(), "x.json") == schedule
    run_schedule(schedule)
    swarm = read(as_toml(SWARM), tmp_path / "x.toml")
    assert swarm is not None
    run_schedule(swarm)


def test_every_bad_value_of_a_schedule_is_refused_with_its_path(tmp_path: Path) -> None:
    count = refused = 0
    for document in changes(WHOLE, POISON):
        count += 1
        refused += read(json.dumps(document).encode(), tmp_path / "x.json") is None
    assert count > 1500
    assert refused > count / 2


def test_every_bad_value_of_a_scenario_is_refused_with_its_path(tmp_path: Path) -> None:
    for document in changes(SWARM, (*POISON, *ONLY_TOML)):
        read(as_toml(document), tmp_path / "x.toml")
    for document in changes(WHOLE, ONLY_TOML):
        read(as_toml(document), tmp_path / "x.toml")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_what_is_not_refused_runs(tmp_path: Path, data: st.DataObject) -> None:
    document = data.draw(st.sampled_from([WHOLE, SWARM]))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(paths(document), key=str)))
        document = changed(document, path, data.draw(st.sampled_from((*POISON, ...))))
    schedule = read(as_toml(document), tmp_path / "x.toml")
    if schedule is not None and is_small(schedule):
        run(schedule)


@pytest.mark.sweep
@pytest.mark.parametrize("document", [WHOLE, SWARM], ids=["whole", "swarm"])
def test_all_that_is_not_refused_runs(tmp_path: Path, document: Document) -> None:
    for candidate in changes(document, (*POISON, *ONLY_TOML), 1):
        schedule = read(as_toml(candidate), tmp_path / "x.toml")
        if schedule is not None and is_small(schedule):
            run(schedule)


FAULT = "[[faults]]\nkind = "
ACTOR = "[[actors]]\nnode = 3\nkind = "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes = 0", "$.nodes: Expected `int` >= 1"),
        ("seed = 1" + "0" * 30, "$.seed: "),
        ("typo = 1", "$.typo: is unknown"),
        ("nodes = ", "$: "),
        ("text = 3", "$.text: "),
        ("scheme = 'rot13'", "$.scheme: "),
        ("stakes = [1]", "$.stakes: 1 of them for 4 nodes"),
        ("leaders = [0, 7]", "$.leaders[1]: there is no validator 7"),
        ("bandwidth_mbit = inf", "$.bandwidth_mbit: "),
        ("oracles = ['S1', 'S99']", "$.oracles[1]: 'S99' is unknown"),
        ("oracles = ['R2']", "$.oracles[0]: 'R2' is unknown"),
        ("protocol = 'paxos'", "$.protocol: 'paxos' is unknown"),
        ("regions = ['moon', 'moon', 'moon', 'moon']", "$.regions[0]: 'moon' is unknown"),
        ("[times]\ngrowth_numerator = 4", "$.times.growth_numerator: must be at least"),
        ("[link]\nlatency = {kind = 'uniform', low_ms = 5, high_ms = 1}", "$.link.latency.high_ms: 1 is below"),
        ("[link]\nlatency = {kind = 'constant', ms = nan}", "$.link.latency.ms: "),
        ("[link]\nlatency = {kind = 'empirical', table_ms = []}", "$.link.latency.table_ms: "),
        ("[[links]]\nsource = 0\ntarget = 4\nlink = {}", "$.links[0].target: there is no node 4: the last one is 3"),
        ("[[clocks]]\nnode = 8", "$.clocks[0].node: there is no node 8"),
        ("[[clocks]]\nnode = 1\n[[clocks]]\nnode = 1", "$.clocks[1].node: 1 has an entry already"),
        (ACTOR + "'ghost'", "$.actors[0].kind: 'ghost' is unknown"),
        (ACTOR + "'silent'\n" + ACTOR.replace("3", "2") + "'silent'", "$.actors[1].kind: validators 2, 3 are faulty"),
        (ACTOR + "'slow'\noptions = {delai_ms = 1}", "$.actors[0].options.delai_ms: 'delai_ms' is unknown"),
        (ACTOR + "'slow'\noptions = {delay_ms = -5}", "$.actors[0].options.delay_ms: -5 is not 0 to"),
        (ACTOR + "'silent'\nmoves = [{move = 'vote', view = 1}]", "$.actors[0].moves: only a puppet"),
        (ACTOR + "'puppet'\nmoves = [{move = 'vote', view = 1, to = [4]}]", "$.actors[0].moves[0].to[0]: there is no"),
        (ACTOR + "'puppet'\nmoves = [{move = 'propose', view = 1, parent = -9}]", "$.actors[0].moves[0].parent: "),
        (FAULT + "'typo'", "$.faults[0].kind: "),
        (FAULT + "'cut'\nat_ms = 1", "$.faults[0].pairs: is missing"),
        (FAULT + "'cut'\npairs = [[0, 1]]", "$.faults[0]: needs exactly one of"),
        (FAULT + "'cut'\nat_ms = 1\npairs = [[0, 1], [0, 9]]", "$.faults[0].pairs[1][1]: there is no node 9"),
        (FAULT + "'partition'\nat_ms = 1\ngroups = [[0, 1], [1, 2]]", "$.faults[0].groups: node 1 is in two groups"),
        (FAULT + "'heal'\nat_ms = 1\nfor_ms = 1", "$.faults[0].for_ms: "),
        (FAULT + "'disk'\nat_ms = 1\nnode = 1\nfault = 'slow'", "$.faults[0].slow_ms: "),
        (FAULT + "'drop'\nview = 1\nmessage = 'Prposal'\nsource = 0\nto = [1]", "$.faults[0].message: 'Prposal' is"),
        (
            2 * (FAULT + "'disk'\nat_ms = 1\nnode = 1\nfault = 'full'\n").replace("node = 1", "node = 2", 1)
            + FAULT
            + "'disk'\nat_ms = 1\nnode = 1\nfault = 'bit-rot'",
            "$.faults[2].fault: validators 1, 2 are faulty, a third of the stake or more",
        ),
        (FAULT + "'disk'\nat_ms = 1\nnode = 1\nfault = 'wrong-host'", "$.faults[0].other: "),
        (FAULT + "'prune'\nat_ms = 1\nnodes = [1]\nkeep = 0", "$.faults[0].keep: "),
        ("[[workload]]\nat_ms = 1\npayload = 'x'\nto = [0, 4]", "$.workload[0].to[1]: there is no node 4"),
        ("[[workload]]\nat_ms = 1\npayload = ''", "$.workload[0].payload: "),
        ("[liveness]\nfrom_ms = 1\ncore = [0, 5]", "$.liveness.core[1]: there is no node 5"),
        ("[liveness]\nfrom_ms = 1\ncore = [3]\n" + ACTOR + "'silent'", "$.liveness.core[0]: node 3 is faulty"),
        ("[liveness]\nfrom_ms = 70000", "$.liveness.from_ms: the run ends before it"),
        ("[[milestones]]\nview = 2\nheight_min = 3\nheight_max = 1", "$.milestones[0].height_max: is below"),
        ("fault_free = true\n[link]\nloss = 0.1", "$.fault_free: but there are link.loss"),
        ("swarm = 3", "$.swarm: Expected `object`"),
        ("[swarm]\nloss = [2.0]", "$.swarm.loss[0]: "),
        ("[swarm]\nnodes = []", "$.swarm.nodes: "),
        ("[swarm]\nlatency_ms = [[5, 1]]", "$.swarm.latency_ms[0]: 1 is below 5"),
        ("[swarm]\nactors = ['ghost']", "$.swarm.actors[0]: 'ghost' is unknown"),
        ("[swarm]\nprotocols = ['paxos']", "$.swarm.protocols[0]: 'paxos' is unknown"),
        ("leaders = [1]\n[swarm]", "$.leaders: not beside a [swarm]"),
        ("[stop]\nview = 3\n[swarm]", "$.stop.view: not beside a [swarm]"),
        ("[swarm]\nnodes = [7, 4]\n[[clocks]]\nnode = 6", "$.clocks[0].node: there is no node 6: the last one is 3"),
    ],
)
def test_bad_input_leaves_with_two_and_the_path_of_the_bad_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    for command in (["run", str(path), "--json"], ["sweep", str(path), "--seeds", "0:2", "--jobs", "1"]):
        monkeypatch.setattr("sys.argv", ["netsim", *command])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        assert (left.value.code, told.out) == (2, "")
        assert told.err.startswith(f"{path}: {message}"), told.err


def leaves(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit status of a command line."""
    monkeypatch.setattr("sys.argv", ["netsim", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "calm", "--seeds", "0:2", "--executor", "dask://"], "--executor: dask://: "),
        (["sweep", "calm", "--seeds", "²:5"], "--seeds: '²:5' is not A:B"),
        (["sweep", "calm", "--seeds", "0:1" + "0" * 30], "--seeds: "),
        (["sweep", "calm", "--seeds", "0:2", "--out", "no/such/folder"], "--out: no/such/folder: cannot be written"),
        (["sweep", "calm", "--seeds", "0:2", "--schedules", "file/below"], "--schedules: file/below: cannot be made"),
        (["run", "x" * 300], "is neither a file nor one of"),
        (["run", "calm", "--out", "no/such/folder"], "--out: no/such/folder: cannot be written"),
        (["run", "calm", "--protocol", "paxos"], "--protocol: 'paxos' is unknown"),
        (["run", "calm", "--protocol-file", "bad.py"], "--protocol-file: bad.py, line 2: ModuleNotFoundError"),
        (["run", "calm", "--protocol-file", "worse.py"], "--protocol-file: worse.py, line 1: SyntaxError"),
        (["run", "calm", "--protocol-file", "none.py"], "--protocol-file: none.py: is no Python file"),
        (["twins", "--nodes", "2", "--twins", "3"], "--twins: 3 twins of 2 nodes"),
        (["replay", "file"], "file: $: "),
        (["shrink", "file"], "file: $: "),
        (["import", "file"], "file: $: "),
        (["report", "file.toml"], "file.toml: cannot be read"),
        (["export", "calm", "--out", "no/such/folder"], "--out: no/such/folder: cannot be written"),
    ],
)
def test_a_bad_command_line_leaves_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("?")
    (tmp_path / "bad.py").write_text("x = 1\nimport nobody_has_this\n")
    (tmp_path / "worse.py").write_text("x = 1 +\n")
    assert leaves(monkeypatch, *arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err


def test_an_error_of_ours_is_no_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("netsim.cli.run_seed", broken)
    assert leaves(monkeypatch, "run", "calm") == 3
    assert "ZeroDivisionError: ours" in capsys.readouterr().err


def test_import_says_how_many_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["netsim", "import", str(DATA / "relab.json"), "--out", str(tmp_path), "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"schedules": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["relab-0.json"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"x = " + b"9" * 5000]))
def test_bytes_that_are_no_file_of_ours_are_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("x.json", "x.toml"):
        schedule = read(data, tmp_path / name)
        if schedule is not None:
            run(schedule)


@pytest.mark.parametrize("file", ["relab.json", "fast_hotstuff_fork.json"])
def test_every_bad_value_of_a_twins_file_is_refused_with_its_path(file: str) -> None:
    document = json.loads((DATA / file).read_bytes())
    for candidate in changes(document, POISON):
        try:
            for schedule in import_twins(json.dumps(candidate).encode(), "x.json", "jolteon"):
                from_json(schedule.to_json(), "x.json")
        except BadSchedule as error:
            is_told(error)
