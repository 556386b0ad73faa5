"""The engine: one seed, one run; every shipped scenario, for every protocol."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Literal

import pytest

from consensus.replica import Replica
from netsim import Schedule, Simulation, load, run_schedule
from netsim.checks import check_determinism, scenario_path, scenario_paths
from netsim.oracles.judge import Judge
from netsim.scenario import Scenario, Swarm, expand
from netsim.schedule import Actor, BadSchedule, Constant, Crash, Disk, Link, Stop, Submit, Uniform
from netsim.testing import assert_silent
from netsim.validation import from_json
from netsim.world import Host

PROTOCOLS = ("jolteon", "hotstuff", "hotstuff2")
SCRIPTED = {
    "view-gap": ("hotstuff",),
    "hidden-lock-alone": ("hotstuff2",),
    "streamlet-clocks-apart": ("streamlet",),
    "streamlet-views-for-heights": ("streamlet",),
}
LOUD = {"too-many-twins": "S6"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("path", scenario_paths(), ids=lambda path: path.stem)
def test_correct_protocols_pass_every_shipped_scenario(path: Path, protocol: str) -> None:
    if protocol not in SCRIPTED.get(path.stem, PROTOCOLS):
        return
    result = Simulation(path, protocol=protocol).run(seed=5)
    assert result.verdict == LOUD.get(path.stem, "silent"), result.violations


@pytest.mark.parametrize("name", ["swarm", "swarm-restarts", "swarm-healing"])
def test_one_seed_gives_one_run_and_another_seed_another(name: str) -> None:
    simulation = Simulation(scenario_path(name))
    first, again, other = simulation.run(3), simulation.run(3), simulation.run(4)
    assert first == again
    assert first.trace_hash != other.trace_hash


def test_the_trace_is_the_same_under_two_hash_seeds() -> None:
    scenarios, different = check_determinism()
    assert scenarios >= 20
    assert different == ()


def test_an_explicit_schedule_replays_the_run_that_wrote_it() -> None:
    schedule = expand(load(scenario_path("swarm")), 11)
    read = from_json(schedule.to_json(), "here")
    assert read == schedule
    assert run_schedule(read).trace_hash == run_schedule(schedule).trace_hash


def test_a_result_holds_the_logs_of_all_nodes() -> None:
    result = run_schedule(Schedule(workload=(Submit(at_ms=0, payload="one"),), stop=Stop(view=8)))
    assert result.silent
    assert len(result.logs) == 4
    assert min(len(log) for log in result.logs) >= 5
    assert all(view > 8 for view in result.views)


@pytest.mark.parametrize("scheme", ["ed25519", "bls"])
def test_real_signatures_on_request(scheme: Literal["ed25519", "bls"]) -> None:
    result = run_schedule(Schedule(scheme=scheme, link=Link(latency=Constant(ms=2)), stop=Stop(view=2)))
    assert result.silent
    assert result.commits >= 1


def test_observers_follow_and_sign_nothing() -> None:
    result = run_schedule(Schedule(observers=2, stop=Stop(view=6)))
    assert result.silent
    assert len(result.logs[4]) >= 3
    assert (
        result.logs[4] == result.logs[5][: len(result.logs[4])]
        or result.logs[5] == result.logs[4][: len(result.logs[5])]
    )


def test_a_crash_at_every_boundary_is_survived() -> None:
    for boundary in ("before persist", "after persist", "before sign", "after sign", "before send", "after send"):
        crashes = tuple(Crash(nodes=(node,), boundary=boundary, nth=3 + node, restart_ms=10) for node in range(4))
        result = run_schedule(Schedule(faults=crashes, stop=Stop(view=10)))
        assert result.silent, (boundary, result.violations)
        assert result.commits > 3


def test_a_full_and_a_damaged_disk_stop_their_node_alone() -> None:
    for fault in ("full", "bit-rot"):
        faults = (
            Disk(at_ms=20, node=2, fault=fault),
            Crash(at_ms=30, nodes=(2,), restart_ms=5),
        )
        result = run_schedule(Schedule(faults=faults, stop=Stop(view=12)))
        assert result.silent
        assert result.views[2] < 12 < result.views[0]


def test_slow_links_of_one_direction_and_slow_clocks_pass() -> None:
    from netsim.schedule import Clock, LinkOverride

    result = run_schedule(
        Schedule(
            links=(LinkOverride(source=0, target=3, link=Link(latency=Uniform(low_ms=20, high_ms=40))),),
            clocks=(Clock(node=1, offset_ms=250, drift_ppm=1000), Clock(node=2, offset_ms=-50, drift_ppm=-1000)),
            bandwidth_mbit=10,
            stop=Stop(view=10),
        )
    )
    assert result.silent
    assert result.commits > 3


def test_twins_alone_do_not_fork_but_too_many_do() -> None:
    swarm = Swarm(actors=("twin",), partition=(0.5,), views=8)
    for seed in range(20):
        assert_silent(Scenario(base=Schedule(), swarm=swarm), seed)
    assert Simulation(scenario_path("too-many-twins")).run(0).verdict == "S6"


def test_a_violation_names_seed_and_replay_and_writes_the_schedule(tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match=r"(?s)S6 at .*seed 9, trace [0-9a-f]{64}\nreplay: netsim replay"
    ) as caught:
        assert_silent(scenario_path("too-many-twins"), 9, folder=tmp_path)
    path = Path(str(caught.value).rpartition(" ")[2])
    written = from_json(path.read_bytes(), str(path))
    assert written.expect == run_schedule(written).verdict == "S6"


def test_any_name_of_a_schedule_gives_a_file_that_can_be_written(tmp_path: Path) -> None:
    schedule = load(scenario_path("too-many-twins")).base.replace(name="../up/and away: <1>")
    with pytest.raises(AssertionError) as caught:
        assert_silent(schedule, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".._up_and_away___1_-0.json"]
    assert f"netsim replay {tmp_path}/.._up_and_away___1_-0.json" in str(caught.value)


def test_an_unknown_actor_is_refused() -> None:
    with pytest.raises(BadSchedule, match=r"\$\.actors\[0\]\.kind: 'ghost' is unknown"):
        run_schedule(Schedule(actors=(Actor(node=0, kind="ghost"),)))


class Witness:
    """An oracle that judges nothing and remembers the world, without keeping it."""

    id = "W"

    def attach(self, judge: Judge) -> None:
        self.world = weakref.ref(judge.world)
        self.replicas: list[weakref.ref[Replica]] = []
        judge.on_entered.append(self.entered)

    def entered(self, host: Host, view: int) -> None:
        if host.replica is not None:
            self.replicas.append(weakref.ref(host.replica))


def test_a_run_leaves_no_garbage() -> None:
    schedule = Schedule(actors=(Actor(node=1, kind="slow"),), faults=(Crash(at_ms=20, nodes=(2,), restart_ms=5),))
    witness = Witness()
    gc.disable()
    try:
        run_schedule(schedule, oracles=(witness,))
        assert witness.world() is None
        assert witness.replicas
        assert all(replica() is None for replica in witness.replicas)
    finally:
        gc.enable()
