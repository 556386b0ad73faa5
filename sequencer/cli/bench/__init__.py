"""``sequencer bench``: what four validators on this machine order, how quickly, and at what cost.

Real processes, TLS and, on disk, a journal that is synced before every vote. The clients run on the same machine, so
every figure includes them. Figures of two machines, or of two days, compare only as ratios to the calibration of
their own run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import trio
import typer

from consensus.crypto.registry import PRODUCTION_SCHEMES
from sequencer.cli.bench.cluster import Case, Row, Setup, Stored, open_cluster
from sequencer.cli.bench.http import UnexpectedAnswer
from sequencer.cli.bench.machine import calibrate, memory_directory
from sequencer.cli.bench.report import Result, result_json, show
from sequencer.cli.bench.split import cost_split
from sequencer.cli.console import STOPPED, CommandError, failures, out, print_json, stage_progress
from sequencer.cli.demo.processes import NodeFailed, interrupted_by_sigterm

SIZES: Final = (250, 128, 1024)
OUTSTANDING: Final = (1, 10, 100)
SATURATED_SINGLE: Final = 400
DISK: Final = "disk"
MEMORY: Final = "memory"


def command(
    quick: Annotated[bool, typer.Option("--quick", help="250 bytes, fewer cases: half a minute.")] = False,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long each case is measured.")] = 5.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result there; - is the output.")] = None,
) -> None:
    """Measure throughput, latency and cost of four validators on this machine.

    The full set takes about seven minutes.
    """
    with failures():
        with stage_progress(enabled=str(json_file) != "-") as progress:
            try:
                result = trio.run(partial(_run, quick, 2.0 if quick else seconds, progress))
            except* (NodeFailed, UnexpectedAnswer, trio.TooSlowError) as failed:
                leaf: BaseException = failed
                while isinstance(leaf, BaseExceptionGroup):
                    leaf = leaf.exceptions[0]
                raise CommandError(str(leaf) or "what was submitted was not ordered in time", STOPPED) from None
            except* KeyboardInterrupt:
                raise KeyboardInterrupt from None
        if json_file is not None and str(json_file) != "-":
            json_file.write_text(json.dumps(result_json(result), indent=2) + "\n")
        if str(json_file) == "-":
            print_json(result_json(result))
        else:
            show(result, out())


def plan(quick: bool, disk: Path, memory: Path | str) -> list[tuple[Setup, list[Case]]]:
    """Every cluster, and what is measured on it."""
    sizes = SIZES[:1] if quick else SIZES
    levels = OUTSTANDING[:1] if quick else OUTSTANDING
    cases: list[Case] = []
    for size in sizes:
        cases += [Case(client="single", size_bytes=size, outstanding=n) for n in (*levels, SATURATED_SINGLE)]
        cases += [Case(client="bulk", size_bytes=size, outstanding=n) for n in levels]
        cases.append(Case(client="saturated", size_bytes=size))
    light = [Case(client="single", size_bytes=SIZES[0], outstanding=1), Case(client="saturated", size_bytes=SIZES[0])]
    first, *others = PRODUCTION_SCHEMES
    clusters = [(Setup(scheme=first, place=DISK, directory=disk), cases)]
    clusters += [(Setup(scheme=other, place=DISK, directory=disk), light) for other in others]
    if not quick:
        clusters.append((Setup(scheme=first, place=DISK, directory=disk, adapters=True), light))
    if isinstance(memory, Path):
        clusters.append((Setup(scheme=first, place=MEMORY, directory=memory), light if quick else cases))
    return clusters


async def _run(quick: bool, seconds: float, progress: Callable[[str, int, int], None]) -> Result:
    async with trio.open_nursery() as nursery:
        await nursery.start(interrupted_by_sigterm)
        result = await _measure(quick, seconds, progress)
        nursery.cancel_scope.cancel()
    return result


async def _measure(quick: bool, seconds: float, progress: Callable[[str, int, int], None]) -> Result:
    memory = memory_directory()
    with tempfile.TemporaryDirectory(prefix="sequencer-bench-") as scratch:
        disk = Path(scratch)
        calibration = calibrate(disk)
        clusters = plan(quick, disk, memory)
        total = sum(len(cases) for _, cases in clusters)
        rows: list[Row] = []
        stored: list[Stored] = []
        for setup, cases in clusters:
            async with open_cluster(setup) as cluster:
                for case in cases:
                    progress("cases", len(rows), total)
                    rows.append(await cluster.measure(case, seconds / 5, seconds))
                stored.append(cluster.stored)
        progress("cases", total, total)
        split = await cost_split(disk)
    return Result(
        calibration=calibration,
        rows=tuple(rows),
        stored=tuple(stored),
        split=tuple(split),
        skipped=() if isinstance(memory, Path) else (f"in memory: {memory}",),
        seconds=seconds,
    )
