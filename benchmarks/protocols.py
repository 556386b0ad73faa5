"""What each protocol costs, as one page with one plot, and what a certificate costs to check.

    python -m benchmarks.protocols [--quick] [--nodes 4,7,16,32,64,100] [--protocols jolteon,simplex] [--resume]
                                   [--jobs 2] [--out docs/protocol-costs.md]

Each cell (a question, a protocol, a number of validators) is measured by itself and kept at once in the JSON file
beside the page; ``--resume`` keeps the cells that are there and runs the others. The plot goes to ``images`` beside
the page. Exit status 1 when a certificate took more than one product of pairings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.certificate_checks import check_costs
from benchmarks.protocol_report import Cells, Results, most_products, page, plot
from benchmarks.protocol_runs import calibration_s, cpu, network, partition, silent, trace
from consensus.crypto.registry import PRODUCTION_SCHEMES
from consensus.protocols.registry import protocol_names

COMMAND: Final = "python -m benchmarks.protocols"
NODES: Final = (4, 7, 16, 32, 64, 100)
CHECKED: Final = (*NODES, 333, 1000)
QUICK: Final = (4, 7)
CHECK: Final = "check"
Measure = Callable[[str, int], dict[str, object]]
MEASURES: Final[dict[str, Measure]] = {
    "trace-ed25519": partial(trace, scheme="ed25519"),
    "trace-bls": partial(trace, scheme="bls"),
    "cpu": cpu,
    "network-lan": partial(network, where="lan"),
    "network-regions": partial(network, where="regions"),
    "silent": silent,
    "partition-minority": partial(partition, sides="minority"),
    "partition-half": partial(partition, sides="half"),
    CHECK: check_costs,
}


class Cell(NamedTuple):
    """One measurement. ``name`` is a protocol's, or a scheme's where certificates are checked."""

    kind: str
    name: str
    nodes: int

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}/{self.nodes}"


def cells(protocols: Sequence[str], nodes: Sequence[int], checked: Sequence[int]) -> list[Cell]:
    """Everything that a run measures, in the order of the page."""
    found = [Cell(kind, name, count) for kind in MEASURES if kind != CHECK for name in protocols for count in nodes]
    return found + [Cell(CHECK, scheme, count) for scheme in PRODUCTION_SCHEMES for count in checked]


def measure(cell: Cell) -> dict[str, object]:
    """Run one cell, in whatever process this is."""
    return MEASURES[cell.kind](cell.name, cell.nodes)


def measured(todo: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, dict[str, object]]]:
    """Each cell with its result as it is ready; what takes longest begins first."""
    ordered = sorted(todo, key=lambda cell: cell.nodes, reverse=True)
    if jobs == 1:
        for cell in ordered:
            yield cell, measure(cell)
        return
    with ProcessPoolExecutor(max_workers=jobs) as executor:
        running = {executor.submit(measure, cell): cell for cell in ordered}
        for done in as_completed(running):
            yield running[done], done.result()


def save(path: Path, found: dict[str, object], order: Sequence[str]) -> None:
    """Write the cells in the order of the page, whole or not at all."""
    ordered = {key: found[key] for key in order if key in found}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".json.new")
    scratch.write_text(json.dumps({"command": COMMAND, "cells": ordered}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def calibration_text(found: Cells) -> str:
    """How fast the machine was in the cells that took CPU time."""
    measured_ms = [
        float(each["calibration_ms"])
        for each in found.values()
        if isinstance(each, dict) and isinstance(each.get("calibration_ms"), int | float)
    ]
    if not measured_ms:
        return "no cell of it was run"
    return f"a million additions in plain Python took {min(measured_ms):.0f} to {max(measured_ms):.0f} ms beside it"


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list like ``4,7``."""
    return tuple(int(each) for each in text.split(","))


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="4 and 7 validators only, certificates too")
    options.add_argument("--nodes", type=numbers, help="numbers of validators, with commas between")
    options.add_argument("--protocols", default=",".join(protocol_names()), help="names, with commas between")
    options.add_argument("--resume", action="store_true", help="keep the cells that the JSON file has")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--out", type=Path, default=Path("docs/protocol-costs.md"))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page, its JSON and its plot."""
    options = parser().parse_args(arguments)
    nodes = options.nodes or (QUICK if options.quick else NODES)
    protocols = tuple(options.protocols.split(","))
    wanted = cells(protocols, nodes, tuple(count for count in CHECKED if count in nodes or not options.quick))
    full = [cell.key for cell in cells(protocol_names(), NODES, CHECKED)]
    order = list(dict.fromkeys([*full, *(cell.key for cell in wanted)]))
    kept = options.out.with_suffix(".json")
    found: dict[str, object] = {}
    if options.resume and kept.exists():
        found = json.loads(kept.read_text(encoding="utf-8"))["cells"]
    print(f"calibration: {calibration_s(10_000_000):.2f} s of CPU for 10 million additions")
    todo = [cell for cell in wanted if cell.key not in found]
    for number, (cell, result) in enumerate(measured(todo, options.jobs), 1):
        found[cell.key] = result
        save(kept, found, order)
        print(f"{number} of {len(todo)}: {cell.key}", flush=True)
    results = Results(json.loads(kept.read_text(encoding="utf-8"))["cells"])
    picture = Path("images") / f"{options.out.stem}.svg"
    plot(results, options.out.parent / picture)
    text = page(
        results,
        command=COMMAND,
        data=kept.name,
        missing=[key for key in full if key not in found],
        calibration=calibration_text(results.cells),
        picture=picture.as_posix(),
    )
    options.out.write_text(text, encoding="utf-8")
    costly = [key for key in found if key.startswith(CHECK) and (most_products(results.cells[key]) or 0) > 1]
    for key in costly:
        print(f"{key}: a certificate took more than one product of pairings", file=sys.stderr)
    return 1 if costly else 0


if __name__ == "__main__":
    sys.exit(main())
