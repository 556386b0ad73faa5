"""The ``evm`` adapter: a rollup that executes signed Ethereum transactions under the Cancun rules.

How a sequenced block becomes an Ethereum block
    Each height with a non-empty section makes one block, even if every transaction in it is skipped, and as many more
    as the section's gas needs; heights without transactions make none. So block numbers run 0 (genesis), 1, 2, ...
    without gaps, whatever the heights, and do not depend on how heights were batched into deliveries. All blocks of a
    height become visible together.

    ========================  ==================================================================================
    timestamp                 the consensus timestamp in whole seconds, never below the parent's; the same in all
                              blocks of a height
    prevRandao                Keccak-256 of the consensus block id; in each further block of the height, Keccak-256
                              of the one before; known to the proposer, hence no randomness
    parentBeaconBlockRoot     the consensus block id, in all blocks of a height: the way back to the height
    gas limit, fee recipient  the settings
    base fee                  EIP-1559, from block to block; it is burned, the tip goes to the fee recipient
    ========================  ==================================================================================

Where a section is split
    Transactions keep their order. One *lands* in the open block if its gas limit is at most the gas that the block has
    left (its gas limit less the gas used so far), else in the block after it, and is judged by the base fee of the
    block in which it lands. Only one that is included closes the open block and opens the next: a skipped transaction
    leaves no trace in the chain, so nobody can close blocks, and move the base fee, without paying. Every block but
    the first of a height therefore includes something.

What happens to a transaction
    Malformed, oversized, wrongly signed, for another chain, of a type that is not executed, with more gas than a whole
    block has, with the wrong nonce, without the funds, or with a max fee below the base fee of the block in which it
    lands -> *skipped*, with the reason, and gone: send it again. The base fee may rise from block to block within one
    section, by an eighth (EIP-1559): a max fee of twice the last known base fee outlives five full blocks.
    Everything else -> *included*, even if it reverts. Legacy transactions without a chain id (before EIP-155) are
    executed; whoever signs one accepts that it is valid on every chain.

Why a receipt never comes
    ``eth_getTransactionReceipt`` of a skipped transaction is null, as for one that nobody sent. The query
    ``sequencer_transactionOutcome`` with the hash (Keccak-256 of the submitted bytes, malformed ones too) answers
    ``{"status": "included" | "skipped", "detail": string, "height": integer}``, or null if no such transaction was
    delivered. A transaction that was both, such as a replayed one, was included; one that was skipped several times
    answers with the last. Of skipped ones the newest 100,000 are remembered (``store.SKIPPED_MAX``).

What bounds a section
    Its size in bytes and the price of its gas; nothing else, and its time not at all. On the development machine py-evm
    took 5 s for 30 million gas of jumps and 160 s for as much of pairings (precompile 8). Meanwhile the process answers
    its host, so it is not taken for hung; a section that takes longer than the host's last deadline for a delivery, an
    hour, is delivered again and again: a bound on time is not built.

Deviations from Ethereum
    Two blocks may share a timestamp (Ethereum demands a later one). No withdrawals, no blobs (type 3), no set-code
    (type 4). Genesis holds only what ``alloc`` says; the EIP-4788 contract works if ``alloc`` deploys it, and knows a
    timestamp's last height only.

Settings: ``chain_id`` (required), ``alloc``, ``gas_limit``, ``base_fee_per_gas`` (of genesis, in wei),
``fee_recipient``, ``timestamp`` (of genesis, in seconds). See :mod:`rollup_adapters.evm.settings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import trio
from eth_hash.auto import keccak

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
    SequencedBlock,
)
from rollup_adapters.evm.embedded import EmbeddedClient
from rollup_adapters.evm.execution_client import Budget, BudgetExceeded, ExecutionClient, PayloadAttributes
from rollup_adapters.evm.settings import read_settings
from rollup_adapters.evm.store import READERS_MAX, Store
from rollup_adapters.evm.transactions import Malformed, decode

__all__ = ["EvmAdapter"]

QUERY_SECONDS_MAX: Final = 5.0
_LIMIT_EXCEEDED: Final = -32005
"""EIP-1474."""
_OUTCOMES: Final = msgspec.msgpack.Decoder(tuple[Outcome, ...])


class EvmAdapter:
    """One EVM rollup. See the module docstring for its rules, and :class:`~rollup_adapters.base.RollupAdapter`."""

    api_version: int = API_VERSION

    def __init__(self, context: AdapterContext) -> None:
        self._settings = read_settings(context.settings)
        self._store = Store(context.directory)
        try:
            self._client: ExecutionClient = EmbeddedClient(self._settings, self._store)
        except BaseException:
            self._store.close()
            raise
        self._cursor: Height = self._store.number_in("cursor")
        self._writing = trio.Lock()
        self._readers = trio.CapacityLimiter(READERS_MAX)

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        """Stateless admission: decodes, is of this chain, is signed, pays its intrinsic gas, fits a block."""
        answers: list[Admission] = []
        for raw in transactions:
            match decode(bytes(raw), self._settings.chain_id, self._settings.gas_limit):
                case Malformed(reason=reason):
                    answers.append(Rejected(reason=reason))
                case _:
                    answers.append(Accepted())
            await trio.lowlevel.checkpoint()
        return answers

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        """Execute confirmed blocks in a worker thread; one transaction of the store makes all of them durable."""
        async with self._writing:
            return await trio.to_thread.run_sync(self._deliver, blocks)

    def _deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        outcomes: list[tuple[Outcome, ...]] = []
        cursor = self._cursor
        try:
            with self._store.writing():
                for block in blocks:
                    if block.height <= self._cursor:
                        outcomes.append(self._stored_outcomes(block.height))
                        continue
                    if block.height <= cursor:
                        raise ValueError(f"delivery: height {block.height} follows height {cursor}")
                    outcomes.append(self._execute(block))
                    cursor = block.height
                self._store.put_number("cursor", cursor)
        except BaseException:
            self._client.forget_uncommitted()
            raise
        self._cursor = cursor
        return Executed(height=cursor, state_commitment=self._client.head().state_root, outcomes=tuple(outcomes))

    def _stored_outcomes(self, height: Height) -> tuple[Outcome, ...]:
        encoded = self._store.outcomes(height)
        return () if encoded is None else _OUTCOMES.decode(encoded)

    def _execute(self, block: SequencedBlock) -> tuple[Outcome, ...]:
        if not block.transactions:
            return ()
        if len(block.block_id) != 32:
            raise ValueError(
                f"delivery: block id of height {block.height} has {len(block.block_id)} bytes, expected 32"
            )
        attributes = PayloadAttributes(
            timestamp_s=block.timestamp_ms // 1000,
            prev_randao=keccak(block.block_id),
            parent_beacon_block_root=block.block_id,
        )
        built = self._client.build(attributes, block.transactions)
        self._store.put_delivery(block.height, built.number, msgspec.msgpack.encode(built.outcomes))
        pairs = zip(block.transactions, built.outcomes, strict=True)
        skipped = [(keccak(bytes(raw)), outcome.detail) for raw, outcome in pairs if outcome.status == "skipped"]
        self._store.put_skipped(block.height, skipped)
        return built.outcomes

    async def last_delivered(self) -> Height:
        """The durable cursor; 0 before the first delivery."""
        await trio.lowlevel.checkpoint()
        return self._cursor

    async def settle(self, level: Level, height: Height) -> None:
        """Move the tag ``safe`` (soft) or ``finalized`` (firm). A height at or below the known one changes nothing.

        Raises ``ValueError`` for a height above the cursor, or a firm one above the soft one.
        """
        async with self._writing:
            await trio.to_thread.run_sync(self._settle, level, height)

    def _settle(self, level: Level, height: Height) -> None:
        bound = self._cursor if level == "soft" else self._store.number_in("soft")
        if height > bound:
            name = "the cursor" if level == "soft" else "the soft height"
            raise ValueError(f"settle: {level} height {height} is above {name} {bound}")
        if height <= self._store.number_in(level):
            return
        with self._store.writing():
            self._store.put_number(level, height)
            safe = self._store.number_at(self._store.number_in("soft"))
            self._client.set_forkchoice(safe, self._store.number_at(self._store.number_in("firm")))

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        """Answer Ethereum JSON-RPC from the last durable state, within ``QUERY_SECONDS_MAX``. Raises ``QueryError``."""
        budget = Budget(QUERY_SECONDS_MAX)
        try:
            return await trio.to_thread.run_sync(
                self._client.query, method, params, budget, abandon_on_cancel=True, limiter=self._readers
            )
        except BudgetExceeded as error:
            raise QueryError(_LIMIT_EXCEEDED, str(error)) from None
        finally:
            budget.cancel()

    async def close(self) -> None:
        """Close the store, once a delivery under way is durable."""
        async with self._writing:
            self._store.close()
