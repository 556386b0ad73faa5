"""The seam between the adapter and whatever executes Ethereum blocks.

The adapter owns what the sequencer knows: heights, the cursor, outcomes, finality. An execution client owns what
Ethereum knows: blocks, state, receipts, and the answers to ``eth_`` methods. The embedded client (``embedded.py``) is
one; a real execution client over the Engine API is the next: ``build`` is then a payload built from exactly these
transactions plus ``engine_newPayload``, ``set_forkchoice`` is ``engine_forkchoiceUpdated``, and ``query`` is its own
JSON-RPC.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rollup_adapters.base import JsonValue, Outcome


class BudgetExceeded(Exception):
    """A read ran longer than it may, or the one who asked has gone."""


class Budget:
    """Time that one read may take. Checked by the code that does the work, cancelled from any other thread."""

    def __init__(self, seconds_max: float) -> None:
        self.message = f"the query took longer than {seconds_max:g} s"
        self._deadline = time.monotonic() + seconds_max
        self._cancelled = False

    def cancel(self) -> None:
        """Make the next check fail."""
        self._cancelled = True

    def is_spent(self) -> bool:
        """Whether the work must stop."""
        return self._cancelled or time.monotonic() > self._deadline

    def check(self) -> None:
        """Raise :class:`BudgetExceeded` once the time is over."""
        if self.is_spent():
            raise BudgetExceeded(self.message)


@dataclass(frozen=True, kw_only=True)
class PayloadAttributes:
    """What the sequencer decides about the next block (the Engine API's PayloadAttributesV3 without withdrawals).

    ``timestamp_s`` is in seconds since the Unix epoch; ``prev_randao`` and ``parent_beacon_block_root`` are 32 bytes.
    """

    timestamp_s: int
    prev_randao: bytes
    parent_beacon_block_root: bytes


@dataclass(frozen=True, kw_only=True)
class BuiltSection:
    """The blocks of one section, executed on top of the head; ``number`` is the last one's, which is the head now. One
    outcome per transaction, in order."""

    number: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The newest block: its number, and the 32-byte hash and state root."""

    number: int
    hash: bytes
    state_root: bytes


class ExecutionClient(Protocol):
    """Executes the blocks that the adapter derives. ``build`` and ``set_forkchoice`` are called by one thread at a
    time, inside the store's transaction; ``query`` by any number of threads at once, also while a block is being
    built."""

    def head(self) -> Head:
        """The newest block."""
        ...

    def build(self, attributes: PayloadAttributes, transactions: Sequence[bytes]) -> BuiltSection:
        """Execute ``transactions`` in this order on top of the head, in as many blocks as their gas needs, by the
        adapter's rule; those that cannot execute are skipped. ``attributes`` are the first block's. The following ones
        differ in prevRandao only: each has the Keccak-256 of the one before."""
        ...

    def forget_uncommitted(self) -> None:
        """The surrounding transaction was rolled back: return to the stored head."""
        ...

    def set_forkchoice(self, safe: int, finalized: int) -> None:
        """Blocks up to the number ``safe`` are confirmed, up to ``finalized`` final."""
        ...

    def query(self, method: str, params: JsonValue, budget: Budget) -> JsonValue:
        """Answer an Ethereum JSON-RPC read. Raises ``QueryError``; bounded by ``budget``."""
        ...
