"""The two kinds of clients that the benchmark has, and what they measure.

*single*: each of ``outstanding`` clients submits one transaction, waits for its receipt, and submits the next.

*bulk*: each submits a batch, waits until its last transaction is confirmed, and submits the next. *Saturated* bulk
keeps blocks' worth of transactions pending at every validator and counts what is ordered.

Transactions are random bytes. Receipts are received, not verified: that is the client's cost, and the client shares
the machine with the validators.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from sequencer.block_summary import BlockSummary
from sequencer.cli.bench.http import Connection, UnexpectedAnswer, connect, request
from sequencer.cli.demo.processes import NodeProcess
from sequencer.transactions import transaction_id

ROLLUP: Final = 1
BULK_BATCH: Final = 100
SATURATING_BATCH_BYTES: Final = 1024 * 1024
PENDING_BYTES: Final = 6 * 1024 * 1024
"""What the saturated bulk client keeps pending at each validator: three blocks' worth."""
PENDING_TRANSACTIONS: Final = 60_000
LOOK_S: Final = 0.1
DRAIN_TIMEOUT_S: Final = 60.0
BLOCKS_PER_LOOK: Final = 100
WAIT_MS: Final = 30_000
BYTES: Final = "application/octet-stream"
_PATH: Final = f"/v1/rollups/{ROLLUP}/transactions"


class _Pool(msgspec.Struct, frozen=True):
    transactions: int


class _Status(msgspec.Struct, frozen=True):
    mempool: tuple[_Pool, ...]


@dataclass(slots=True)
class Measured:
    """``transactions`` confirmed within ``seconds``, ``total`` also before and after; ``latencies_ms`` of those
    requests that began within it."""

    transactions: int = 0
    total: int = 0
    blocks: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.transactions / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Window:
    """When counting begins and ends."""

    begin: float
    end: float

    def note(self, measured: Measured, sent: float, count: int) -> None:
        now = trio.current_time()
        measured.total += count
        if self.begin <= now < self.end:
            measured.transactions += count
            if sent >= self.begin:
                measured.latencies_ms.append((now - sent) * 1000)


async def run_single(
    nodes: Sequence[NodeProcess], size_bytes: int, outstanding: int, warm_s: float, run_s: float
) -> Measured:
    """One transaction, one receipt."""
    measured, window = Measured(seconds=run_s), _window(warm_s, run_s)

    async def client(number: int) -> None:
        api = nodes[number % len(nodes)].api
        async with connect(api) as connection:
            while trio.current_time() < window.end:
                data = os.urandom(size_bytes)
                path = f"{_PATH}?wait=confirmed&timeout_ms={WAIT_MS}"
                prepared = request("POST", api, path, data, BYTES)
                sent = trio.current_time()
                await _expect(connection, prepared)
                window.note(measured, sent, 1)

    async with trio.open_nursery() as nursery:
        for number in range(outstanding):
            nursery.start_soon(client, number)
    return measured


async def run_bulk(
    nodes: Sequence[NodeProcess], size_bytes: int, outstanding: int, warm_s: float, run_s: float
) -> Measured:
    """Batches of :data:`BULK_BATCH`, each waited for by its last transaction."""
    measured, window = Measured(seconds=run_s), _window(warm_s, run_s)

    async def client(number: int) -> None:
        api = nodes[number % len(nodes)].api
        async with connect(api) as connection:
            while trio.current_time() < window.end:
                batch = _batch(BULK_BATCH, size_bytes)
                last = transaction_id(ROLLUP, 0, batch[-1]).hex()
                prepared = request("POST", api, _PATH, msgspec.msgpack.encode(batch))
                wait = request("GET", api, f"/v1/transactions/{last}?wait=confirmed&timeout_ms={WAIT_MS}")
                sent = trio.current_time()
                await _expect(connection, prepared)
                await _expect(connection, wait)
                window.note(measured, sent, BULK_BATCH)

    async with trio.open_nursery() as nursery:
        for number in range(outstanding):
            nursery.start_soon(client, number)
    return measured


async def run_saturated(nodes: Sequence[NodeProcess], size_bytes: int, warm_s: float, run_s: float) -> Measured:
    """As much as the validators order, and until all of it is ordered."""
    measured, window = Measured(seconds=run_s), _window(warm_s, run_s)
    batch_size = min(4096, SATURATING_BATCH_BYTES // size_bytes)
    pending_max = min(PENDING_TRANSACTIONS, PENDING_BYTES // size_bytes)
    submitted = 0

    async def feed(api: str) -> None:
        nonlocal submitted
        async with connect(api) as connection:
            while trio.current_time() < window.end:
                if await _pending(connection, api) + batch_size > pending_max:
                    await trio.sleep(LOOK_S / 2)
                    continue
                prepared = request("POST", api, _PATH, msgspec.msgpack.encode(_batch(batch_size, size_bytes)))
                submitted += batch_size
                await _expect(connection, prepared)

    async def count(api: str) -> None:
        async with connect(api) as connection:
            height = await _height(connection, api) + 1
            while trio.current_time() < window.end or measured.total < submitted:
                for block in await _blocks(connection, api, height):
                    height = block.height + 1
                    ordered = sum(leaf.count for leaf in block.sections)
                    measured.total += ordered
                    if window.begin <= trio.current_time() < window.end:
                        measured.transactions += ordered
                        measured.blocks += 1
                await trio.sleep(LOOK_S)

    with trio.fail_after(warm_s + run_s + DRAIN_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, nodes[0].api)
            for node in nodes:
                nursery.start_soon(feed, node.api)
    return measured


def _window(warm_s: float, run_s: float) -> _Window:
    begin = trio.current_time() + warm_s
    return _Window(begin, begin + run_s)


def _batch(count: int, size_bytes: int) -> list[bytes]:
    data = os.urandom(count * size_bytes)
    return [data[at : at + size_bytes] for at in range(0, len(data), size_bytes)]


async def _expect(connection: Connection, prepared: bytes) -> bytes:
    status, head, body = await connection.exchange(prepared)
    if status != 200 or b"retry-after" in head:
        raise UnexpectedAnswer(f"a node answered {status}: {body[:300]!r}")
    return body


async def _pending(connection: Connection, api: str) -> int:
    status = msgspec.msgpack.decode(await _expect(connection, request("GET", api, "/v1/status")), type=_Status)
    return sum(pool.transactions for pool in status.mempool)


async def _height(connection: Connection, api: str) -> int:
    body = await _expect(connection, request("GET", api, "/v1/blocks?limit=1"))
    blocks = msgspec.msgpack.decode(body, type=list[BlockSummary])
    return blocks[-1].height if blocks else 0


async def _blocks(connection: Connection, api: str, height: int) -> list[BlockSummary]:
    path = f"/v1/blocks?from={height}&limit={BLOCKS_PER_LOOK}"
    return msgspec.msgpack.decode(await _expect(connection, request("GET", api, path)), type=list[BlockSummary])
