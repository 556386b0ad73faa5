"""An adapter that does what its transactions and queries tell it to, for the tests of the host. Not a test itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

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
    SequencedBlock,
)


class Temperamental:
    """Keeps its cursor in a file. Misbehaves on a transaction only the first time, so that a restart mends it."""

    api_version = API_VERSION

    def __init__(self, context: AdapterContext) -> None:
        if "bad" in context.settings:
            raise ValueError("settings.bad: must not be set")
        if "broken" in context.settings:
            raise RuntimeError("cannot open today")
        self.directory = context.directory
        self.cursor_file = context.directory / "cursor"
        self.cancelled = 0
        self.delivering = 0
        self.overlapped = False
        self.settled: list[JsonValue] = []
        self.go_on = trio.Event()

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        if b"raise" in transactions:
            raise RuntimeError("check is broken")
        return [Accepted() for _ in transactions][: 1 if b"short" in transactions else None]

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        self.overlapped |= self.delivering > 0
        self.delivering += 1
        for block in blocks:
            for transaction in block.transactions:
                await self._misbehave(transaction)
            self.cursor_file.write_text(str(max(block.height, await self.last_delivered())))
        self.delivering -= 1
        outcomes = tuple(tuple(Outcome(status="included") for _ in block.transactions) for block in blocks)
        return Executed(height=await self.last_delivered(), state_commitment=bytes(32), outcomes=outcomes)

    async def _misbehave(self, transaction: bytes) -> None:
        mark = self.directory / f"did {transaction.hex()}"
        if mark.exists():
            return
        mark.touch()
        match transaction:
            case b"die":
                os._exit(3)
            case b"raise":
                raise RuntimeError("deliver is broken")
            case b"block":
                threading.Event().wait()
            case b"sleep":
                await trio.sleep_forever()
            case b"wait":
                await self.go_on.wait()

    async def last_delivered(self) -> Height:
        return int(self.cursor_file.read_text()) if self.cursor_file.exists() else 0

    async def settle(self, level: Level, height: Height) -> None:
        self.settled.append([level, height])

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        match method:
            case "echo":
                return params
            case "print":
                print(params, flush=True)
                return None
            case "go_on":
                self.go_on.set()
                return None
            case "seen":
                return {"cancelled": self.cancelled, "overlapped": self.overlapped, "settled": self.settled}
            case "sleep":
                try:
                    await trio.sleep_forever()
                finally:
                    self.cancelled += 1
            case "block":
                (self.directory / "blocked").touch()
                threading.Event().wait()
            case "raise":
                raise RuntimeError("query is broken")
            case "bytes":
                return b"not json"  # type: ignore[return-value]  # the fault
            case "large":
                return "x" * (5 * 1024 * 1024)
            case _:
                raise QueryError(-32601, "no such method", {"method": method})
        return None

    async def close(self) -> None:
        (self.directory / "closed").touch()
