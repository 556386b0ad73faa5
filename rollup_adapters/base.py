"""The adapter contract: what a rollup plug-in promises, and the values that cross its boundary.

An adapter is loaded by name (entry-point group ``shared_sequencer.adapters``) and runs in a host process of its own,
so that its death, its hunger for CPU or its bugs never reach consensus. Confirmed blocks arrive in order of height,
*at least once*; the adapter stores its state and its cursor together, so that a second delivery of a height changes
nothing.

Every value here is a MessagePack array on the host's socket, so an adapter may be written in any language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

API_VERSION: Final = 1
ENTRY_POINT_GROUP: Final = "shared_sequencer.adapters"

Height: TypeAlias = int
JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
Level: TypeAlias = Literal["soft", "firm"]
"""``soft``: confirmed by BFT commit. ``firm``: final by Casper FFG, never reversed. A rollup never moves from
firm back to soft."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="accepted"):
    """The transaction is well formed for this rollup; it says nothing about its later execution."""


class Rejected(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="rejected"):
    """The transaction can never execute on this rollup. ``reason`` is for the person who sent it."""

    reason: str


Admission: TypeAlias = Accepted | Rejected


class SequencedBlock(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One confirmed block as one rollup sees it: its complete section, in order.

    ``height`` is strictly increasing. A delivery may jump over heights without transactions, or name some of them to
    move the cursor along; nodes differ in which, so an empty block moves the cursor but never the state commitment.

    ``timestamp_ms`` is the block's consensus timestamp (milliseconds since the Unix epoch), the same on every node.
    ``block_id`` is the 32-byte consensus block id. ``transactions`` are the payload bytes as they were submitted.
    """

    height: Height
    timestamp_ms: int
    block_id: bytes
    transactions: tuple[bytes, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What became of one delivered transaction.

    ``included``: executed, and part of the rollup's history (even where it reverted). ``skipped``: malformed or
    unaffordable; passed over by rule, recorded, and never a reason to stop. ``detail`` is a short human sentence, empty
    where there is nothing to say.
    """

    status: Literal["included", "skipped"]
    detail: str = ""


class Executed(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The result of a delivery: the last height now durable, the rollup's state commitment there (32 bytes, equal on
    every honest node), and one tuple of outcomes per delivered block, one outcome per transaction. A block at or below
    the cursor was delivered before: its outcomes are those stored the first time."""

    height: Height
    state_commitment: bytes
    outcomes: tuple[tuple[Outcome, ...], ...]


class QueryError(Exception):
    """A query that the adapter refuses, with a JSON-RPC 2.0 error code. Crosses the host's socket as a value."""

    def __init__(self, code: int, message: str, data: JsonValue = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class AdapterContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter is opened with. ``directory`` is its own, exists, and survives restarts. ``settings`` come
    verbatim from the node's configuration (``[rollups.settings]``); the adapter checks them and raises ``ValueError``
    naming the bad key, an unknown one included."""

    rollup_id: int
    directory: Path
    settings: Mapping[str, JsonValue]


class RollupAdapter(Protocol):
    """One rollup's plug-in. Constructed with an :class:`AdapterContext`; ``close`` is called once, and may never be
    called at all (SIGKILL): durable state must not depend on it.

    ``deliver`` and ``settle`` are called one at a time and are never cancelled; the other methods may run beside them
    and each other. A long ``deliver`` lets them by passing a checkpoint now and then
    (``await trio.lowlevel.checkpoint()``)."""

    api_version: int

    def __init__(self, context: AdapterContext) -> None: ...

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        """Stateless admission of transactions, one answer each, in order."""
        ...

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        """Execute confirmed blocks, in order, at least once; state and cursor become durable together before this
        returns. No blocks at all change nothing: the answer says where the adapter stands. Long work belongs off the
        event loop: a host that answers no ping for a while is taken for hung and started again. An exception means a
        bug here, not a bad transaction: the host restarts the adapter from its disk."""
        ...

    async def last_delivered(self) -> Height:
        """The durable cursor: the last height delivered, 0 before the first. A restart resumes after it."""
        ...

    async def settle(self, level: Level, height: Height) -> None:
        """Everything up to ``height`` reached ``level``. A lower height than before changes nothing;
        ``firm`` <= ``soft`` <= cursor."""
        ...

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        """Answer a read (``eth_call`` and friends). Bounded in time and memory, and cancellable.

        Raises :class:`QueryError`, with code -32601 for a method it does not know and -32602 for parameters that do not
        fit; whatever the parameters are, it raises nothing else."""
        ...

    async def close(self) -> None:
        """Release files and processes."""
        ...
