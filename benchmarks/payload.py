"""What a transaction costs between the mempool and the ledger, in microseconds, beside the cost of hashing it.

    python -m benchmarks.payload [--transactions 4000] [--size-bytes 250] [--rounds 20]

The best of the rounds, all in one process and one run: compare the rows with each other, not with another machine's.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from hashlib import sha256

from consensus.genesis import ChainSpec
from sequencer.body import Payload, assemble_payload, decode_payload
from sequencer.mempool import Mempool, MempoolLimits
from sequencer.window import CommittedBlock, CommittedWindow

ROLLUPS = (1, 2, 3)
POOL_BLOCKS = 4


def best_us(rounds: int, transactions: int, prepare: Callable[[], Callable[[], object]]) -> float:
    """The shortest run of what ``prepare`` returns, per transaction."""
    best = float("inf")
    for _ in range(rounds):
        run = prepare()
        begin = time.perf_counter_ns()
        run()
        best = min(best, time.perf_counter_ns() - begin)
    return best / 1e3 / transactions


def measure(transactions: int, size_bytes: int, rounds: int) -> dict[str, float]:
    """The rows of the table. ``transactions`` are in three rollups."""
    per_rollup = transactions // len(ROLLUPS)
    count = per_rollup * len(ROLLUPS)
    batches = {r: [(0, os.urandom(size_bytes)) for _ in range(per_rollup)] for r in ROLLUPS}
    spec = ChainSpec(
        chain_id="bench",
        genesis_time_ms=0,
        protocol="jolteon",
        scheme="ed25519",
        validators=(),
        rollups=ROLLUPS,
        payload_size_max=(size_bytes + 40) * count + 4096,
    )
    limits = MempoolLimits(bytes_max=1 << 30, entries_max=1 << 20)

    def filled() -> Mempool:
        pool = Mempool(spec, CommittedWindow(256), limits)
        for rollup_id, batch in batches.items():
            pool.add_batch(rollup_id, batch)
        return pool

    def add() -> Callable[[], object]:
        pool = Mempool(spec, CommittedWindow(256), limits)
        return lambda: [pool.add_batch(rollup_id, batch) for rollup_id, batch in batches.items()]

    def build(excluded: list[Payload]) -> Callable[[], object]:
        pool = filled()
        keys = [payload.positions.keys() for payload in excluded]
        size = spec.payload_size_max
        return lambda: assemble_payload(pool.select(height=1, size_bytes_max=size, excluded=keys))

    def build_behind() -> Callable[[], object]:
        """Three uncommitted blocks of the path stand in front of what is new."""
        pool = Mempool(spec, CommittedWindow(256), limits)
        path: list[Payload] = []
        for _ in range(3):
            for rollup_id in ROLLUPS:
                pool.add_batch(rollup_id, [(0, os.urandom(size_bytes)) for _ in range(per_rollup)])
            keys = [payload.positions.keys() for payload in path]
            path.append(assemble_payload(pool.select(height=1, size_bytes_max=spec.payload_size_max, excluded=keys)))
        for rollup_id, batch in batches.items():
            pool.add_batch(rollup_id, batch)
        keys = [payload.positions.keys() for payload in path]
        size = spec.payload_size_max
        return lambda: assemble_payload(pool.select(height=1, size_bytes_max=size, excluded=keys))

    payload = build([])()
    assert isinstance(payload, Payload)
    assert len(payload.positions) == count
    body = memoryview(payload.body)

    def check_path() -> Callable[[], object]:
        window = CommittedWindow(256)
        for height in range(1, 101):
            ids = [os.urandom(32) for _ in range(count // 10)]
            window.advance(CommittedBlock(height, bytes(32), height, ids))
        return lambda: window.first_ordered(payload.positions.keys(), 1, 100)

    def commit() -> Callable[[], object]:
        pool, window = filled(), CommittedWindow(1)
        window.advance(CommittedBlock(1, bytes(32), 1, [os.urandom(32) for _ in range(count)]))

        def run() -> None:
            window.advance(CommittedBlock(2, bytes(32), 2, payload.positions.keys()))
            pool.committed(2, payload.sections)

        return run

    datas = [bytes(17) + data for batch in batches.values() for _, data in batch]
    table: dict[str, Callable[[], Callable[[], object]]] = {
        "SHA-256 alone": lambda: lambda: [sha256(data).digest() for data in datas],
        "mempool: add_batch (hashes)": add,
        "builder: select and assemble": lambda: build([]),
        "builder: behind three uncommitted blocks": build_behind,
        "judge: decode, ids, trees (hashes)": lambda: lambda: decode_payload(body),
        "judge: against the window": check_path,
        "ledger: window and mempool": commit,
    }
    return {name: best_us(rounds, count, prepare) for name, prepare in table.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=4000)
    parser.add_argument("--size-bytes", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    rows = measure(arguments.transactions, arguments.size_bytes, arguments.rounds)
    hashing = rows["SHA-256 alone"]
    print(f"{arguments.transactions} transactions of {arguments.size_bytes} bytes: us per transaction, x hashing")
    for name, us in rows.items():
        print(f"{name:44} {us:7.3f} {us / hashing:6.2f}")


if __name__ == "__main__":
    main()
