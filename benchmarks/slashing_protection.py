"""What slashing protection costs, beside one bare synced transaction in the same seconds: ``python
benchmarks/slashing_protection.py``.

The calibration is an SQLite file with the same settings; one transaction that inserts one row goes before each measured
call. Compare the ratios between machines, not the milliseconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from sequencer.slashing_protection import SlashingProtection

CHAIN = bytes(32)
KEYS = 4


class Bare:
    """One row per synced transaction."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        for name, value in (("journal_mode", "wal"), ("synchronous", 2), ("fullfsync", 1), ("checkpoint_fullfsync", 1)):
            self._connection.pragma(name, value)
        self._connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, root BLOB) STRICT")

    def insert(self, number: int) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT INTO rows VALUES (?, ?)", (number, bytes(32)))
        self._connection.execute("COMMIT")


def seconds(call: Callable[[int], None], number: int) -> float:
    start = time.perf_counter()
    call(number)
    return time.perf_counter() - start


def percentile_ms(found: list[float], share: float) -> float:
    return sorted(found)[min(len(found) - 1, int(len(found) * share))] * 1000


def compare(name: str, rounds: int, first: int, call: Callable[[int], None], bare: Bare) -> dict[str, float]:
    measured, floor = [], []
    for number in range(first, first + rounds):
        floor.append(seconds(bare.insert, number))
        measured.append(seconds(call, number))
    found = {
        "p50_ms": percentile_ms(measured, 0.5),
        "p99_ms": percentile_ms(measured, 0.99),
        "floor_p50_ms": percentile_ms(floor, 0.5),
        "floor_p99_ms": percentile_ms(floor, 0.99),
    }
    found["ratio"] = found["p50_ms"] / found["floor_p50_ms"]
    print(
        f"{name:34} p50 {found['p50_ms']:6.2f} ms  p99 {found['p99_ms']:6.2f} ms   bare transaction p50 "
        f"{found['floor_p50_ms']:6.2f} p99 {found['floor_p99_ms']:6.2f} ms   ratio {found['ratio']:5.2f}"
    )
    return found


def history(epochs: int) -> dict[str, object]:
    """A document with one block and one attestation per epoch, of each key."""
    return {
        "metadata": {"interchange_format_version": "5", "genesis_validators_root": f"0x{CHAIN.hex()}"},
        "data": [
            {
                "pubkey": f"0x{bytes([key] * 48).hex()}",
                "signed_blocks": [{"slot": str(32 * epoch)} for epoch in range(epochs)],
                "signed_attestations": [
                    {"source_epoch": str(epoch), "target_epoch": str(epoch + 1)} for epoch in range(epochs)
                ],
            }
            for key in range(KEYS)
        ],
    }


def main(directory: Path, rounds: int, epochs: int, json_path: Path | None) -> None:
    bare = Bare(directory / "bare.db")
    key, root = bytes([1] * 48), bytes(32)
    found: dict[str, object] = {}
    with SlashingProtection.open(directory / "slashing.db", CHAIN) as protection:

        def block(number: int) -> None:
            protection.check_and_record_block(key, 32 * epochs + number, root)

        def attestation(number: int) -> None:
            protection.check_and_record_attestation(key, number, number + 1, root)

        found["block, new"] = compare("block, new database", rounds, 1, block, bare)
        start = time.perf_counter()
        protection.import_interchange(history(epochs))
        messages = 2 * KEYS * epochs
        found["import_us_per_message"] = (time.perf_counter() - start) / messages * 1e6
        print(f"import of {messages} messages: {found['import_us_per_message']:.1f} us per message")
        name = f"block behind {epochs} epochs"
        found[name] = compare(name, rounds, rounds + 1, block, bare)
        name = f"attestation behind {epochs} epochs"
        found[name] = compare(name, rounds, max(epochs, 2 * rounds) + 1, attestation, bare)
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20_000, help="of history, of each of four keys")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        main(Path(scratch), options.rounds, options.epochs, options.json)
