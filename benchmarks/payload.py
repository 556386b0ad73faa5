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
HASHING = "SHA-256 alone"


def best_us(rounds: int, transactions: int, prepare: Callable[[], Callable[[], object]]) -> float:
    """The shortest run of what ``prepare`` returns, per transaction."""
    best = float("inf")
    for _ in range(rounds):
        run = prepare()
        begin = time.perf_counter_ns()
        run()
        best = min(best, time.perf_counter_ns() - begin)
    return best / 1e3 / transactions


class Workload:
    """So many transactions of one size, spread over three rollups. Each method prepares one row of the table and
    returns what is timed."""

    def __init__(self, transactions: int, size_bytes: int) -> None:
        self.per_rollup = transactions // len(ROLLUPS)
        self.count = self.per_rollup * len(ROLLUPS)
        self.size_bytes = size_bytes
        self.spec = ChainSpec(
            chain_id="bench",
            genesis_time_ms=0,
            protocol="jolteon",
            scheme="ed25519",
            validators=(),
            rollups=ROLLUPS,
            payload_size_max=(size_bytes + 40) * self.count + 4096,
        )
        self.batches = self.fresh()
        self.payload = self.chosen(self.filled(self.batches), [])
        assert len(self.payload.positions) == self.count
        self.body = memoryview(self.payload.body)

    def fresh(self) -> dict[int, list[tuple[int, bytes]]]:
        return {r: [(0, os.urandom(self.size_bytes)) for _ in range(self.per_rollup)] for r in ROLLUPS}

    def empty(self) -> Mempool:
        return Mempool(self.spec, CommittedWindow(256), MempoolLimits(bytes_max=1 << 30, entries_max=1 << 20))

    def filled(self, *blocks: dict[int, list[tuple[int, bytes]]]) -> Mempool:
        pool = self.empty()
        for batches in blocks:
            for rollup_id, batch in batches.items():
                pool.add_batch(rollup_id, batch)
        return pool

    def chosen(self, pool: Mempool, path: list[Payload]) -> Payload:
        excluded = [payload.positions.keys() for payload in path]
        return assemble_payload(pool.select(height=1, size_bytes_max=self.spec.payload_size_max, excluded=excluded))

    def hash(self) -> Callable[[], object]:
        datas = [bytes(17) + data for batch in self.batches.values() for _, data in batch]
        return lambda: [sha256(data).digest() for data in datas]

    def add(self) -> Callable[[], object]:
        pool = self.empty()
        return lambda: [pool.add_batch(rollup_id, batch) for rollup_id, batch in self.batches.items()]

    def build(self) -> Callable[[], object]:
        pool = self.filled(self.batches)
        return lambda: self.chosen(pool, [])

    def build_behind(self) -> Callable[[], object]:
        pool = self.filled(self.batches, self.fresh(), self.fresh(), self.fresh())
        path: list[Payload] = []
        for _ in range(3):
            path.append(self.chosen(pool, path))
        return lambda: self.chosen(pool, path)

    def decode(self) -> Callable[[], object]:
        return lambda: decode_payload(self.body)

    def check_path(self) -> Callable[[], object]:
        window = CommittedWindow(256)
        for height in range(1, 101):
            ids = [os.urandom(32) for _ in range(self.count // 10)]
            window.advance(CommittedBlock(height, bytes(32), height, ids))
        return lambda: window.first_ordered(self.payload.positions.keys(), 1, 100)

    def commit(self) -> Callable[[], object]:
        pool, window = self.filled(self.batches), CommittedWindow(1)
        window.advance(CommittedBlock(1, bytes(32), 1, [os.urandom(32) for _ in range(self.count)]))

        def run() -> None:
            window.advance(CommittedBlock(2, bytes(32), 2, tuple(self.payload.positions)))
            pool.committed(2, self.payload.sections)

        return run


def measure(transactions: int, size_bytes: int, rounds: int) -> dict[str, float]:
    """The rows of the table, in microseconds per transaction."""
    load = Workload(transactions, size_bytes)
    table = {
        HASHING: load.hash,
        "mempool: add_batch (hashes)": load.add,
        "builder: select and assemble": load.build,
        "builder: behind three uncommitted blocks": load.build_behind,
        "judge: decode, ids, trees (hashes)": load.decode,
        "judge: against the window": load.check_path,
        "ledger: window and mempool": load.commit,
    }
    return {name: best_us(rounds, load.count, prepare) for name, prepare in table.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=4000)
    parser.add_argument("--size-bytes", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    rows = measure(arguments.transactions, arguments.size_bytes, arguments.rounds)
    hashing = rows[HASHING]
    print(f"{arguments.transactions} transactions of {arguments.size_bytes} bytes: us per transaction, x hashing")
    for name, us in rows.items():
        print(f"{name:44} {us:7.3f} {us / hashing:6.2f}")


if __name__ == "__main__":
    main()
