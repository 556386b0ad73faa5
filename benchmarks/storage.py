"""What storing costs, beside what the bare disk costs in the same seconds: ``python benchmarks/storage.py``.

The calibration writes the same bytes to a plain file and syncs it, in turn with each measured append, so that both meet
the same disk. Compare the ratios between machines, not the milliseconds.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from consensus import codec
from consensus.engine import BlockRecord, CommitRecord, LoadBlocks, SafetyRecord
from consensus.types import Block, BlockHeader, Certificate, CommitProof, RangeRequest
from sequencer.storage import ChainStore, IndexStore

GENESIS = bytes(32)
SMALL_BYTES = 4096
TRANSACTIONS = 4000
PAUSE_S = 0.02


class Disk:
    """A plain file that is written and synced."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)

    def write(self, data: bytes) -> float:
        """Seconds to append and sync."""
        start = time.perf_counter()
        os.write(self._file, data)
        if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone does not reach the disk
            fcntl.fcntl(self._file, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(self._file)
        return time.perf_counter() - start


def certificate(block_id: bytes, view: int) -> Certificate:
    return Certificate(
        kind="vote",
        epoch=0,
        view=view,
        block_id=block_id,
        height=view,
        justify_view=view,
        signers=b"\x0f",
        signature=bytes(192),
    )


def child(parent: Block | None, size_bytes: int) -> Block:
    parent_id, height = (GENESIS, 1) if parent is None else (parent.id, parent.header.height + 1)
    return codec.block_of(
        BlockHeader(
            chain=GENESIS,
            epoch=0,
            view=height,
            height=height,
            parent=parent_id,
            justify=certificate(parent_id, height - 1),
            entry_proof_hash=b"",
            payload_root=bytes(32),
            payload_size=size_bytes,
            next_validators_hash=b"",
            timestamp_ms=height,
            proposer=0,
        )
    )


def percentile_ms(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))] * 1000


def report(name: str, measured: list[float], floor: list[float]) -> dict[str, float]:
    found = {
        "p50_ms": percentile_ms(measured, 0.5),
        "p99_ms": percentile_ms(measured, 0.99),
        "floor_p50_ms": percentile_ms(floor, 0.5),
        "floor_p99_ms": percentile_ms(floor, 0.99),
    }
    ratio = found["p50_ms"] / found["floor_p50_ms"]
    print(
        f"{name:42} p50 {found['p50_ms']:7.2f} ms  p99 {found['p99_ms']:7.2f} ms   "
        f"plain file p50 {found['floor_p50_ms']:6.2f} p99 {found['floor_p99_ms']:6.2f} ms   ratio {ratio:5.2f}"
    )
    return {**found, "ratio": ratio}


async def in_turn(
    rounds: int, append: Callable[[], Awaitable[None]], disk: Disk, plain: bytes, pause_s: float = 0
) -> tuple[list[float], list[float]]:
    measured, floor = [], []
    for _ in range(rounds):
        await trio.sleep(pause_s)
        floor.append(disk.write(plain))
        start = time.perf_counter()
        await append()
        measured.append(time.perf_counter() - start)
    return measured, floor


async def chain_costs(directory: Path, rounds: int, block_bytes: int) -> dict[str, dict[str, float]]:
    random_bytes = random.Random(7).randbytes
    disk = Disk(directory / "plain")
    body = random_bytes(block_bytes)
    votes = 0
    parent: Block | None = None

    async with ChainStore.open(directory / "chain.db", GENESIS) as store:

        async def append_small() -> None:
            nonlocal votes
            votes += 1
            await store.append([SafetyRecord(kind="vote", subject=bytes(150), state=votes.to_bytes(8, "big") * 100)])

        async def append_block() -> None:
            nonlocal parent
            block = child(parent, len(body))
            safety = SafetyRecord(kind="vote", subject=bytes(150), state=bytes(800))
            records: list[BlockRecord | SafetyRecord | CommitRecord] = [BlockRecord(block, body), safety]
            if parent is not None:  # committed one block later, as in a chain without pauses
                proof = CommitProof(
                    epoch=0, headers=(block.header,), certificate=certificate(block.id, block.header.view)
                )
                records.append(CommitRecord(parent.header.height, parent.id, proof))
            await store.append(records)
            parent = block

        async def load_for_ever() -> None:
            while True:
                await store.load(LoadBlocks(bytes(32), RangeRequest(epoch=0, request_id=1, from_height=1)))

        small = bytes(SMALL_BYTES)
        found = {"safety record": report("safety record", *await in_turn(rounds * 4, append_small, disk, small))}
        name = f"block of {block_bytes / 1e6:.1f} MB, vote, commit, no pause"
        start = time.perf_counter()
        measured, floor = await in_turn(rounds, append_block, disk, body)
        found["block"] = report(name, measured, floor)
        print(f"{'':42} {rounds * block_bytes / 1e6 / (time.perf_counter() - start - sum(floor)):.0f} MB/s")
        name = f"block of {block_bytes / 1e6:.1f} MB every {PAUSE_S * 1000:.0f} ms"
        found[name] = report(name, *await in_turn(rounds, append_block, disk, body, PAUSE_S))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load_for_ever)
            nursery.start_soon(load_for_ever)
            name = "safety record beside two readers of 8 MB"
            found[name] = report(name, *await in_turn(rounds, append_small, disk, small))
            nursery.cancel_scope.cancel()
    return found


async def index_costs(directory: Path, blocks: int) -> dict[str, float]:
    path = directory / "index.db"
    ids = [
        b"".join(hashlib.sha256(b"%d/%d" % (height, index)).digest() for index in range(TRANSACTIONS))
        for height in range(blocks)
    ]
    async with IndexStore.open(path, GENESIS, window_heights=64) as store:
        cpu, start = time.process_time(), time.perf_counter()
        for height, block_ids in enumerate(ids, start=1):
            await store.append([(height, [(1, block_ids)])])
        cpu, wall = time.process_time() - cpu, time.perf_counter() - start
        start = time.perf_counter()
        for height in range(0, blocks, 5):
            assert await store.lookup(ids[height][:32])
        lookup = (time.perf_counter() - start) / len(range(0, blocks, 5))
        await store.append([(blocks + 64, [])])
    found = {
        "cpu_us_per_transaction": cpu / blocks / TRANSACTIONS * 1e6,
        "wall_us_per_transaction": wall / blocks / TRANSACTIONS * 1e6,
        "lookup_us": lookup * 1e6,
        "file_bytes_per_transaction": path.stat().st_size / blocks / TRANSACTIONS,
    }
    print(f"index, {TRANSACTIONS} transactions per block: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))
    return found


async def main(directory: Path, rounds: int, block_bytes: int, json_path: Path | None) -> None:
    found: dict[str, object] = dict(await chain_costs(directory, rounds, block_bytes))
    found["index"] = await index_costs(directory, rounds)
    if json_path is not None:
        await trio.Path(json_path).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--block-bytes", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        trio.run(main, Path(scratch), options.rounds, options.block_bytes, options.json)
