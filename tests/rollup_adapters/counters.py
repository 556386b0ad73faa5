"""A small sound adapter, and the same with one fault each, for the tests of the conformance kit. Not a test itself.

Each fault replaces one step of ``Counter``; what it breaks and how the kit names it stands in ``test_testkit.py``.
Classes stand at the top level because the kit's ``kill`` imports them in another process; they derive from ``Counter``
only to show the one step that differs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import apsw
import trio

from rollup_adapters.base import (
    API_VERSION,
    Accepted,
    AdapterContext,
    Admission,
    Executed,
    Height,
    JsonValue,
    Level,
    Outcome,
    QueryError,
    Rejected,
    RollupAdapter,
    SequencedBlock,
)

STATE_BYTES_MAX = 32


class Counter:
    """Chains every transaction of at most 32 bytes into a digest and counts them; larger ones are skipped."""

    api_version = API_VERSION

    def __init__(self, context: AdapterContext) -> None:
        for key in context.settings:
            raise ValueError(f"settings.{key}: unknown; a counter has no settings")
        self.directory = context.directory
        self.database = apsw.Connection(str(context.directory / "counter.sqlite3"))
        self.database.pragma("journal_mode", "wal")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS state (only_row INTEGER PRIMARY KEY, cursor, count, digest, soft, firm);"
            "CREATE TABLE IF NOT EXISTS outcomes (height INTEGER PRIMARY KEY, stored);"
            "INSERT OR IGNORE INTO state VALUES (0, 0, 0, zeroblob(32), 0, 0)"
        )

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        return [
            Accepted() if len(transaction) <= STATE_BYTES_MAX else Rejected(reason="longer than 32 bytes")
            for transaction in transactions
        ]

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        with self.database:
            outcomes = tuple(self.block(block) for block in blocks)
        cursor, _, digest = self.state()
        return Executed(height=cursor, state_commitment=digest, outcomes=outcomes)

    def block(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        cursor, count, digest = self.state()
        if block.height <= cursor:
            return self.stored(block)
        outcomes = []
        for transaction in block.transactions:
            outcome = self.execute(transaction)
            if outcome.status == "included":
                count += 1
                digest = sha256(digest + self.entry(block, transaction)).digest()
            outcomes.append(outcome)
        self.store(block.height, count, digest, outcomes)
        return tuple(outcomes)

    def entry(self, block: SequencedBlock, transaction: bytes) -> bytes:
        return block.height.to_bytes(8, "big") + transaction

    def execute(self, transaction: bytes) -> Outcome:
        if len(transaction) > STATE_BYTES_MAX:
            return Outcome(status="skipped", detail="longer than 32 bytes")
        return Outcome(status="included")

    def store(self, height: Height, count: int, digest: bytes, outcomes: Sequence[Outcome]) -> None:
        self.database.execute("UPDATE state SET cursor = ?, count = ?, digest = ?", (height, count, digest))
        stored = json.dumps([[outcome.status, outcome.detail] for outcome in outcomes])
        self.database.execute("INSERT INTO outcomes VALUES (?, ?)", (height, stored))

    def stored(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        row = self.database.execute("SELECT stored FROM outcomes WHERE height = ?", (block.height,)).fetchone()
        if row is None:  # jumped over, so it has no transactions
            return ()
        return tuple(Outcome(status=status, detail=detail) for status, detail in json.loads(row[0]))

    def state(self) -> tuple[Height, int, bytes]:
        row = self.database.execute("SELECT cursor, count, digest FROM state").fetchone()
        assert row is not None
        cursor, count, digest = row
        return cursor, count, digest

    async def last_delivered(self) -> Height:
        return self.state()[0]

    async def settle(self, level: Level, height: Height) -> None:
        self.database.execute(f"UPDATE state SET {level} = max({level}, ?)", (height,))

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        if method != "count":
            raise QueryError(-32601, "only count is known")
        if params is not None:
            raise QueryError(-32602, "count takes no parameters")
        return self.state()[1]

    async def close(self) -> None:
        self.database.close()


async def settled(adapter: RollupAdapter) -> tuple[Height, Height]:
    assert isinstance(adapter, Counter)
    row = adapter.database.execute("SELECT soft, firm FROM state").fetchone()
    assert row is not None
    soft, firm = row
    return soft, firm


class AcceptsAnySetting(Counter):
    def __init__(self, context: AdapterContext) -> None:
        super().__init__(AdapterContext(rollup_id=1, directory=context.directory, settings={}))


class ChecksTooFew(Counter):
    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        return [Accepted() for _ in set(transactions)]


class ForgetsCursor(Counter):
    """Keeps the cursor in memory."""

    memory: Height = 0

    def state(self) -> tuple[Height, int, bytes]:
        _, count, digest = super().state()
        return self.memory, count, digest

    def store(self, height: Height, count: int, digest: bytes, outcomes: Sequence[Outcome]) -> None:
        self.database.execute("DELETE FROM outcomes WHERE height = ?", (height,))
        super().store(height, count, digest, outcomes)
        self.memory = height


class StoresAfterReturning(Counter):
    """Acknowledges first, writes with the next delivery or when closed: a write-behind cache."""

    def __init__(self, context: AdapterContext) -> None:
        super().__init__(context)
        self.database.execute("BEGIN")

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        outcomes = tuple(self.block(block) for block in blocks)
        cursor, _, digest = self.state()
        return Executed(height=cursor, state_commitment=digest, outcomes=outcomes)

    async def close(self) -> None:
        self.database.execute("COMMIT")
        await super().close()


class ExecutesAgain(Counter):
    """Executes what it is given, delivered before or not."""

    def block(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        cursor, _, _ = self.state()
        self.database.execute("DELETE FROM outcomes WHERE height = ?", (block.height,))
        self.database.execute("UPDATE state SET cursor = ?", (block.height - 1,))
        outcomes = super().block(block)
        self.database.execute("UPDATE state SET cursor = max(cursor, ?)", (cursor,))
        return outcomes


class ForgetsOutcomes(Counter):
    """Answers a second delivery with a guess."""

    def stored(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        return tuple(Outcome(status="skipped", detail="seen before") for _ in block.transactions)


class NoOutcomesAgain(Counter):
    def stored(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        return ()


class CursorFirst(Counter):
    """Cursor and state in two transactions, cursor first: a crash between them loses blocks."""

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        cursor, _, _ = self.state()
        self.database.execute("UPDATE state SET cursor = ?", (max(cursor, blocks[-1].height),))
        with self.database:
            self.database.execute("UPDATE state SET cursor = ?", (cursor,))
            outcomes = tuple(self.block(block) for block in blocks)
        height, _, digest = self.state()
        return Executed(height=height, state_commitment=digest, outcomes=outcomes)


class CursorLast(Counter):
    """Cursor and state in two transactions, cursor last: a crash between them executes blocks twice."""

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        cursor, _, _ = self.state()
        with self.database:
            outcomes = tuple(self.block(block) for block in blocks)
            self.database.execute("UPDATE state SET cursor = ?", (cursor,))
        self.database.execute("UPDATE state SET cursor = ?", (max(cursor, blocks[-1].height),))
        height, _, digest = self.state()
        return Executed(height=height, state_commitment=digest, outcomes=outcomes)


class TearsItsFile(Counter):
    """Keeps the digest in a file that it writes in place."""

    def state(self) -> tuple[Height, int, bytes]:
        cursor, count, _ = super().state()
        file = self.directory / "digest.json"
        digest = bytes.fromhex(json.loads(file.read_text())) if file.exists() else bytes(32)
        return cursor, count, digest

    def store(self, height: Height, count: int, digest: bytes, outcomes: Sequence[Outcome]) -> None:
        super().store(height, count, digest, outcomes)
        (self.directory / "digest.json").write_text(json.dumps(digest.hex()))


class SortsWithinBlock(Counter):
    def block(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        ordered = tuple(sorted(block.transactions))
        return super().block(
            SequencedBlock(height=block.height, timestamp_ms=0, block_id=block.block_id, transactions=ordered)
        )


class DigestsPerDelivery(Counter):
    """Its commitment depends on how blocks were cut into deliveries."""

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        before = self.state()
        executed = await super().deliver(blocks)
        if executed.height == before[0]:
            return executed
        digest = sha256(executed.state_commitment).digest()
        self.database.execute("UPDATE state SET digest = ?", (digest,))
        return Executed(height=executed.height, state_commitment=digest, outcomes=executed.outcomes)


class CommitsToEmptyHeights(Counter):
    def block(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        cursor, _, _ = self.state()
        outcomes = super().block(block)
        if block.height > cursor and not block.transactions:
            _, _, digest = self.state()
            self.database.execute("UPDATE state SET digest = ?", (sha256(digest).digest(),))
        return outcomes


class RollsDice(Counter):
    def entry(self, block: SequencedBlock, transaction: bytes) -> bytes:
        return super().entry(block, transaction) + os.urandom(4)


class ReadsTheClock(Counter):
    def entry(self, block: SequencedBlock, transaction: bytes) -> bytes:
        return super().entry(block, transaction) + time.monotonic_ns().to_bytes(8, "big")


class DependsOnDirectory(Counter):
    def entry(self, block: SequencedBlock, transaction: bytes) -> bytes:
        return super().entry(block, transaction) + os.fsencode(self.directory)


class DependsOnHashSeed(Counter):
    """Agrees with itself in one process only."""

    def entry(self, block: SequencedBlock, transaction: bytes) -> bytes:
        return super().entry(block, transaction) + hash(transaction + b"?").to_bytes(8, "big", signed=True)


class RaisesOnPoison(Counter):
    def execute(self, transaction: bytes) -> Outcome:
        transaction[:1024].decode("ascii")
        return super().execute(transaction)


class ChecksPoisonBadly(Counter):
    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        for transaction in transactions:
            transaction[:64].decode("ascii")
        return await super().check(transactions)


class BlocksOnPoison(Counter):
    def execute(self, transaction: bytes) -> Outcome:
        if len(transaction) > 1024:
            threading.Event().wait()
        return super().execute(transaction)


class WaitsOnPoison(Counter):
    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        if any(len(each) > 1024 for block in blocks for each in block.transactions):
            await trio.sleep_forever()
        return await super().deliver(blocks)


class DropsPoison(Counter):
    def block(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in super().block(block) if outcome.status == "included")


class QuotesPoison(Counter):
    def execute(self, transaction: bytes) -> Outcome:
        outcome = super().execute(transaction)
        return outcome if outcome.status == "included" else Outcome(status="skipped", detail=transaction.hex())


class StopsAtEmptyBlocks(Counter):
    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        executed = await super().deliver(blocks)
        height = max((block.height for block in blocks if block.transactions), default=0)
        return Executed(height=height, state_commitment=executed.state_commitment, outcomes=executed.outcomes)


class ShortCommitment(Counter):
    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        executed = await super().deliver(blocks)
        return Executed(height=executed.height, state_commitment=b"short", outcomes=executed.outcomes)


class SettlesBackwards(Counter):
    async def settle(self, level: Level, height: Height) -> None:
        self.database.execute(f"UPDATE state SET {level} = ?", (height,))


class SettleMovesState(Counter):
    async def settle(self, level: Level, height: Height) -> None:
        await super().settle(level, height)
        self.database.execute("UPDATE state SET digest = ?", (sha256(b"%d" % height).digest(),))


class AnswersAnything(Counter):
    async def query(self, method: str, params: JsonValue) -> JsonValue:
        return None


class RefusesWithAnotherCode(Counter):
    async def query(self, method: str, params: JsonValue) -> JsonValue:
        raise QueryError(-32000, "something is wrong")


class TrustsParameters(Counter):
    async def query(self, method: str, params: Any) -> JsonValue:
        return await super().query(method, params["key"] if params else None)


class AnswersWithBytes(Counter):
    async def query(self, method: str, params: JsonValue) -> JsonValue:
        await super().query(method, params)
        return self.state()[2]  # type: ignore[return-value]  # the fault


class AnswersWithTooMuch(Counter):
    async def query(self, method: str, params: JsonValue) -> JsonValue:
        await super().query(method, params)
        return "x" * (5 * 1024 * 1024)


class NeverAnswers(Counter):
    async def query(self, method: str, params: JsonValue) -> JsonValue:
        await super().query(method, params)
        await trio.sleep_forever()
        return None


class IgnoresCancellation(Counter):
    async def query(self, method: str, params: JsonValue) -> JsonValue:
        answer = await super().query(method, params)
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            threading.Event().wait()
        return answer


class QueryWrites(Counter):
    async def query(self, method: str, params: JsonValue) -> JsonValue:
        answer = await super().query(method, params)
        self.database.execute("UPDATE state SET digest = zeroblob(32)")
        return answer
