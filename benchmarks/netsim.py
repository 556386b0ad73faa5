"""How fast the simulator searches, beside a calibration loop of the same run.

    python -m benchmarks.netsim [--schedules 300] [--jobs 2] [--sizes 4 16 32 64 128] [--plot growth.svg]
    python -m benchmarks.netsim --bytecodes

A schedule is four nodes up to view 12 under all oracles; deliveries are messages handled. "One decision" is the wall
time per committed block of a fault-free run of n validators, the best of ``REPEATS`` runs. The calibration loop is
10 million additions in plain Python: compare machines by it. ``--bytecodes`` counts the bytecodes and Python calls of a
schedule and takes no time: they are the same on every machine under any load, so that two versions of the code can be
compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from types import FrameType

from matplotlib.figure import Figure

from netsim.checks import scenario_path
from netsim.scenario import Scenario, load
from netsim.schedule import Constant, Link, Schedule, Stop, Times
from netsim.simulation import run_schedule
from netsim.sweep import Variant, run_seed, sweep

PROTOCOLS = ("jolteon", "hotstuff")
SCENARIOS = ("calm", "swarm")
COUNTED_SEEDS = range(100, 116)
REPEATS = 5


def calibration_s() -> float:
    """Seconds for 10 million additions."""
    began = time.perf_counter()
    total = 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - began


def decision_ms(nodes: int, protocol: str) -> float:
    """Wall milliseconds per committed block among ``nodes`` validators, the best of ``REPEATS`` runs: what another
    program takes of the machine is not the simulator's."""
    schedule = Schedule(
        nodes=nodes, protocol=protocol, link=Link(latency=Constant(ms=5)), times=Times(view_timeout_ms=1000),
        stop=Stop(view=6),
    )  # fmt: skip
    run_schedule(schedule.replace(stop=Stop(view=1)))
    found: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        result = run_schedule(schedule)
        found.append((time.perf_counter() - began) * 1000 / max(result.commits, 1))
    return min(found)


def rates(scenario: Scenario, protocol: str, schedules: int, jobs: int) -> tuple[float, float]:
    """Schedules and deliveries per second over ``jobs`` processes, their start included."""
    with ProcessPoolExecutor(max_workers=jobs) as executor:
        total = sweep(scenario, Variant(name=protocol), range(schedules), executor=executor, jobs=jobs)
    return total.schedules / total.seconds, total.deliveries / total.seconds


def bytecodes(name: str, protocol: str) -> str:
    """Bytecodes and Python calls per schedule and per delivery, once a first run has filled what is remembered."""
    scenario, variant = load(scenario_path(name)), Variant(name=protocol)
    counts: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> object:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counts[event] += 1
        return trace

    for seed in COUNTED_SEEDS:
        run_seed(scenario, variant, seed)
    sys.settrace(trace)  # type: ignore[arg-type]
    results = [run_seed(scenario, variant, seed) for seed in COUNTED_SEEDS]
    sys.settrace(None)
    deliveries = sum(result.deliveries for result in results)
    codes, calls = counts["opcode"], counts["call"]
    return (
        f"{name:6} {protocol:9} {codes // len(results)} bytecodes in {calls // len(results)} calls per schedule, "
        f"{codes // deliveries} bytecodes per delivery"
    )


def plot(path: str, sizes: list[int], measured: dict[str, list[float]]) -> None:
    """Milliseconds per decision over n, both logarithmic: a straight line of slope 2 is the n^2 of broadcast votes."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for protocol, values in measured.items():
        axes.loglog(sizes, values, marker="o", label=protocol)
    axes.set_xlabel("validators")
    axes.set_ylabel("wall milliseconds per decision")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="*", default=[4, 16, 32, 64, 128])
    parser.add_argument("--plot", default="", help="draw the growth with n into this file (.svg, .png)")
    parser.add_argument("--bytecodes", action="store_true", help="count bytecodes and calls instead of time")
    options = parser.parse_args()
    if options.bytecodes:
        for name in SCENARIOS:
            for protocol in PROTOCOLS:
                print(bytecodes(name, protocol))
        return
    print(f"calibration: {calibration_s():.2f} s for 10 million additions")
    for name in SCENARIOS:
        for protocol in PROTOCOLS:
            per_s, deliveries = rates(load(scenario_path(name)), protocol, options.schedules, options.jobs)
            print(
                f"{name:6} {protocol:9} {per_s:8.0f} schedules/s {deliveries:10.0f} deliveries/s, {options.jobs} jobs"
            )
    measured = {protocol: [decision_ms(nodes, protocol) for nodes in options.sizes] for protocol in PROTOCOLS}
    for at, nodes in enumerate(options.sizes):
        row = ", ".join(f"{protocol} {values[at]:.1f} ms" for protocol, values in measured.items())
        print(f"one decision among {nodes:4}: {row}")
    if options.plot:
        plot(options.plot, options.sizes, measured)


if __name__ == "__main__":
    main()
