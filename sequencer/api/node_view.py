"""What the API needs of a node, and nothing more. ``sequencer.node.Node`` is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias

from consensus.engine import Status
from consensus.epochs import EpochChange
from consensus.finality.proof import FinalityProof
from consensus.protocols.definition import ProtocolDefinition
from consensus.reconfiguration import ChangeOutcome
from consensus.types import INTEGER_MAX, Epoch, Height
from rollup_adapters.base import Admission, JsonValue
from sequencer.block_summary import BlockSummary
from sequencer.membership import ValidatorsView
from sequencer.mempool import Submission
from sequencer.receipts import Genesis, Receipt, Section
from sequencer.signer.remote import SignerState
from sequencer.transactions import Level, Position, TransactionId, TransactionStatus
from sequencer.transport import TransportState

Role: TypeAlias = Literal["validator", "observer"]


class Delivered(Protocol):
    """How far an adapter is: height 0 and no bytes before its first answer."""

    @property
    def height(self) -> Height: ...

    @property
    def state_commitment(self) -> bytes: ...


class AdapterStatus(Protocol):
    """One adapter of the node. ``adapter`` is the name that it was loaded by."""

    @property
    def rollup_id(self) -> int: ...

    @property
    def adapter(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    @property
    def restarts(self) -> int: ...

    @property
    def delivered(self) -> Delivered: ...


class NodeStatus(Protocol):
    """Where a node stands. ``ledger_height`` is the last height that clients see, ``final_height`` the last that is
    final, ``trusted_height`` that of the configured checkpoint, 0 without one, ``archive_from`` the lowest that the
    node can still show. ``pruned_below`` is set when every peer has pruned what this node needs. ``mempool`` holds
    (rollup id, transactions, bytes)."""

    @property
    def consensus(self) -> Status: ...

    @property
    def role(self) -> Role: ...

    @property
    def validators(self) -> ValidatorsView: ...

    @property
    def held_keys(self) -> Sequence[bytes]:
        """The public halves of the node's consensus keys."""
        ...

    @property
    def ledger_height(self) -> Height: ...

    @property
    def final_height(self) -> Height: ...

    @property
    def trusted_height(self) -> Height: ...

    @property
    def archive_from(self) -> Height: ...

    @property
    def pruned_below(self) -> Height | None: ...

    @property
    def mempool(self) -> Sequence[tuple[int, int, int]]: ...

    @property
    def transport(self) -> TransportState: ...

    @property
    def adapters(self) -> Sequence[AdapterStatus]: ...

    @property
    def evidence(self) -> int: ...

    @property
    def signer(self) -> SignerState | None:
        """Of the signing process, where one holds the keys."""
        ...


class Adapter(Protocol):
    """A running adapter; ``rollup_adapters.host.AdapterHost`` is one."""

    @property
    def alive(self) -> bool: ...

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        """Raises ``AdapterUnavailable``."""
        ...

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        """Raises ``QueryError`` and ``AdapterUnavailable``."""
        ...


class NodeGenesis(Genesis, Protocol):
    """The chain that a node runs, and what its protocol says about itself."""

    @property
    def protocol(self) -> ProtocolDefinition: ...


class NodeView(Protocol):
    """A running node. No method holds anything back for a slow client, and every one may be cancelled."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> Role: ...

    @property
    def genesis(self) -> NodeGenesis: ...

    def submit_batch(self, rollup_id: int, transactions: Sequence[tuple[Height, bytes]], /) -> list[Submission]:
        """Take ``(valid_until, data)`` into the mempool, one answer each, in order."""
        ...

    async def status_of(self, transaction_id: TransactionId, /) -> TransactionStatus:
        """The transaction's rung on the ladder, as this node knows it."""
        ...

    async def wait(self, transaction_id: TransactionId, level: Level, /) -> Receipt:
        """The receipt, once the transaction is confirmed, or final. Waits for ever for one that never is. Raises
        ``TransactionExpired``, ``TooManyWaiters``, ``NoCheckpoints`` and ``HeightUnavailable``."""
        ...

    async def receipt(self, transaction_id: TransactionId, level: Level, /) -> Receipt | None:
        """None when the transaction is not confirmed; with ``FINAL``, proves finality too where that is so. Raises
        ``HeightUnavailable``."""
        ...

    async def finality(self, height: Height, /) -> FinalityProof | None:
        """None where the block is not final, or not provable any more."""
        ...

    async def final_above(self, height: Height, /) -> Height:
        """The last final height, once it is above ``height``. Raises ``NoCheckpoints``."""
        ...

    async def section(self, rollup_id: int, height: Height, /) -> Section:
        """Raises ``HeightUnavailable``."""
        ...

    def follow(self, rollup_id: int, from_height: Height, /) -> AbstractAsyncContextManager[AsyncIterator[Section]]:
        """The rollup's section of every height from ``from_height`` on, for ever. The iterator raises
        ``HeightUnavailable`` for a height that is pruned."""
        ...

    async def block(self, height: Height, /) -> BlockSummary:
        """A committed block with its commit proof. Raises ``HeightUnavailable``."""
        ...

    async def epoch_changes(self, from_epoch: Epoch = 1, limit: int = INTEGER_MAX) -> Sequence[EpochChange]:
        """How epochs began, ascending, from ``from_epoch`` on, at most ``limit``: never pruned."""
        ...

    async def newest_epoch(self) -> Epoch:
        """The last epoch of which :meth:`epoch_changes` knows how it began."""
        ...

    async def change_outcome(self, position: Position, /) -> ChangeOutcome | None:
        """What became of an ordered change of the validators; None where this node does not know it any more."""
        ...

    def status(self) -> NodeStatus: ...

    def adapter(self, rollup_id: int, /) -> Adapter | None:
        """The adapter of a rollup, or None where this node runs none for it."""
        ...
