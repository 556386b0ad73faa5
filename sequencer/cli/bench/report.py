"""What the benchmark found, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from rollup_adapters.base import JsonValue
from sequencer.cli.bench.cluster import Row, Stored
from sequencer.cli.bench.machine import Calibration
from sequencer.cli.bench.split import Cost

TARGET_PER_S: Final = 40_000.0
TARGET_LIGHT_MS: Final = {"ed25519": 15.0, "bls": 40.0}
BUSY_SHARE: Final = 0.85
"""With so much of all cores in use the CPU is what limits."""
OTHERS_SHARE: Final = 0.1
"""With so much used by other programs the figures say little."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run. ``seconds`` is how long each case was measured; ``skipped`` says what was not, and why."""

    calibration: Calibration
    rows: tuple[Row, ...]
    stored: tuple[Stored, ...]
    split: tuple[Cost, ...]
    skipped: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure that the project promises to reach on two cores."""

    name: str
    wanted: float
    found: float
    reached: bool


def targets(result: Result) -> list[Target]:
    """The promised figures, as far as this run measured them."""
    found = []
    durable = [row for row in result.rows if row.place == "disk" and not row.adapters and row.case.size_bytes == 250]
    for row in durable:
        if row.case.client == "saturated" and row.scheme == "ed25519":
            name, wanted = "tx/s of 250 bytes in bulk, durable", TARGET_PER_S
            found.append(Target(name=name, wanted=wanted, found=row.per_second, reached=row.per_second >= wanted))
        if row.case.client == "single" and row.case.outstanding == 1 and row.p50_ms is not None:
            name, wanted = f"ms at light load, median, {row.scheme}", TARGET_LIGHT_MS[row.scheme]
            found.append(Target(name=name, wanted=wanted, found=row.p50_ms, reached=row.p50_ms < wanted))
    return found


def result_json(result: Result) -> JsonValue:
    """The document of ``--json``."""
    calibration = result.calibration
    return {
        "calibration": {
            "sha256_mb_per_s": round(calibration.sha256_mb_per_s, 1),
            "fsync_us": round(calibration.fsync_us, 1),
            "cores": calibration.cores,
        },
        "seconds_per_case": result.seconds,
        "rows": [_row_json(row, calibration) for row in result.rows],
        "disk": [_stored_json(each) for each in result.stored],
        "cost_split_us": [{"part": each.part, "us": round(each.us, 3), "what": each.note} for each in result.split],
        "targets": [
            {"name": each.name, "wanted": each.wanted, "found": round(each.found, 2), "reached": each.reached}
            for each in targets(result)
        ],
        "skipped": list(result.skipped),
    }


def _row_json(row: Row, calibration: Calibration) -> JsonValue:
    return {
        "client": row.case.client,
        "size_bytes": row.case.size_bytes,
        "outstanding": row.case.outstanding or None,
        "scheme": row.scheme,
        "place": row.place,
        "adapters": row.adapters,
        "tx_per_s": round(row.per_second, 1),
        "mb_per_s": round(_mb_per_s(row), 3),
        "share_of_sha256": round(_mb_per_s(row) / calibration.sha256_mb_per_s, 5),
        "p50_ms": None if row.p50_ms is None else round(row.p50_ms, 2),
        "p99_ms": None if row.p99_ms is None else round(row.p99_ms, 2),
        "p50_in_fsyncs": None if row.p50_ms is None else round(row.p50_ms * 1000 / calibration.fsync_us, 2),
        "cpu_us_per_tx_and_node": round(row.cpu_us, 2),
        "memory_bytes_per_node": round(row.memory_bytes),
        "nodes_share_of_cpu": round(row.nodes_share, 3),
        "client_share_of_cpu": round(row.client_share, 3),
        "others_share_of_cpu": None if row.others_share is None else round(row.others_share, 3),
    }


def _stored_json(stored: Stored) -> JsonValue:
    return {
        "scheme": stored.setup.scheme,
        "place": stored.setup.place,
        "adapters": stored.setup.adapters,
        "transactions": stored.transactions,
        "submitted_bytes": stored.submitted_bytes,
        "stored_bytes_per_node": round(stored.stored_bytes),
        "overhead_bytes_per_tx": round(stored.overhead_bytes, 1),
    }


def _mb_per_s(row: Row) -> float:
    return row.per_second * row.case.size_bytes / 1e6


def show(result: Result, console: Console) -> None:
    """The same for people."""
    calibration = result.calibration
    console.print(
        f"This machine: {calibration.cores} cores, SHA-256 {calibration.sha256_mb_per_s:.0f} MB/s on one, a synced "
        f"write of 4 KiB {calibration.fsync_us:.0f} us. Four validators and the clients share it.",
        soft_wrap=True,
    )
    rates = ("tx/s", "MB/s", "p50 ms", "p99 ms")
    table = Table("where", "scheme", "bytes", "client", *rates, "us/tx", "MB", "CPU", box=None)
    for row in result.rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(
        "us/tx: CPU of one validator for one transaction; MB: memory of one validator; CPU: share of all cores, "
        "validators + clients + all other programs.",
        soft_wrap=True,
    )
    for stored in result.stored:
        console.print(
            f"{_place(stored.setup.place, stored.setup.adapters)}, {stored.setup.scheme}: {stored.transactions:,} "
            f"transactions, {stored.submitted_bytes / 1e6:.1f} MB, are {stored.stored_bytes / 1e6:.1f} MB in a "
            f"validator's files: {stored.overhead_bytes:.0f} bytes each besides their own",
            soft_wrap=True,
        )
    split = Table("part", "us/tx", "250 bytes, in full blocks; one validator", box=None)
    for cost in result.split:
        split.add_row(cost.part, f"{cost.us:.2f}", cost.note)
    console.print(split)
    for each in targets(result):
        said = "[green]reached[/]" if each.reached else "[yellow]not reached here[/]"
        console.print(f"{each.name}: {each.found:,.1f}, wanted {each.wanted:,.0f}: {said}")
    for line in limits(result):
        console.print(line, soft_wrap=True)
    for reason in result.skipped:
        console.print(f"[yellow]skipped[/] {reason}")


def _place(place: str, adapters: bool) -> str:
    return place + (" + raw adapter" if adapters else "")


def _cells(row: Row) -> list[str]:
    client = {"single": "one by one", "bulk": "batches of 100", "saturated": "bulk"}[row.case.client]
    return [
        _place(row.place, row.adapters),
        row.scheme,
        str(row.case.size_bytes),
        f"{client}, {row.case.outstanding or 'saturated'}",
        f"{row.per_second:,.0f}",
        f"{_mb_per_s(row):.2f}",
        "" if row.p50_ms is None else f"{row.p50_ms:.1f}",
        "" if row.p99_ms is None else f"{row.p99_ms:.1f}",
        f"{row.cpu_us:.1f}",
        f"{row.memory_bytes / 1e6:.0f}",
        f"{row.nodes_share:.0%} + {row.client_share:.0%}"
        + ("" if row.others_share is None else f" + {row.others_share:.0%}"),
    ]


def limits(result: Result) -> list[str]:
    """What held back the saturated cases, as far as these figures tell."""
    lines = []
    for row in result.rows:
        if row.case.client != "saturated":
            continue
        lines.append(f"{_place(row.place, row.adapters)}, {row.scheme}, {row.case.size_bytes} bytes: {_limit(row)}")
    return lines


def _limit(row: Row) -> str:
    others = row.others_share or 0.0
    used = row.nodes_share + row.client_share + others
    if others >= OTHERS_SHARE:
        return f"other programs used {others:.0%} of the CPU; measure again without them"
    if used >= BUSY_SHARE:
        return "the CPU limits"
    return f"{1 - used:.0%} of the CPU was idle: waits for the disk and for each other limit"
