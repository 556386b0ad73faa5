"""How fast the simulator searches, beside a calibration loop of the same run.

    python -m benchmarks.netsim [--schedules 300] [--jobs 2] [--sizes 4 16 32 64 128] [--plot growth.svg]

A schedule is four nodes up to view 12 under all oracles; deliveries are messages handled. "One decision" is the wall
time per committed block of a fault-free run of n validators. The calibration loop is 10 million additions in plain
Python: compare machines by it.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

from matplotlib.figure import Figure

from netsim.checks import scenario_path
from netsim.scenario import Scenario, load
from netsim.schedule import Constant, Link, Schedule, Stop, Times
from netsim.simulation import run_schedule
from netsim.sweep import Variant, sweep

PROTOCOLS = ("jolteon", "hotstuff")


def calibration_s() -> float:
    """Seconds for 10 million additions."""
    began = time.perf_counter()
    total = 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - began


def decision_ms(nodes: int, protocol: str) -> float:
    """Wall milliseconds per committed block among ``nodes`` validators."""
    schedule = Schedule(
        nodes=nodes, protocol=protocol, link=Link(latency=Constant(ms=5)), times=Times(view_timeout_ms=1000),
        stop=Stop(view=6),
    )  # fmt: skip
    run_schedule(schedule.replace(stop=Stop(view=1)))
    began = time.perf_counter()
    result = run_schedule(schedule)
    return (time.perf_counter() - began) * 1000 / max(result.commits, 1)


def rates(scenario: Scenario, protocol: str, schedules: int, jobs: int) -> tuple[float, float]:
    """Schedules and deliveries per second over ``jobs`` processes, their start included."""
    with ProcessPoolExecutor(max_workers=jobs) as executor:
        total = sweep(scenario, Variant(name=protocol), range(schedules), executor=executor, jobs=jobs)
    return total.schedules / total.seconds, total.deliveries / total.seconds


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
    options = parser.parse_args()
    print(f"calibration: {calibration_s():.2f} s for 10 million additions")
    for name in ("calm", "swarm"):
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
