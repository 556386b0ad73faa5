"""Feeds a rollup's adapter: every confirmed section in order, at least once, resuming after the adapter's own cursor.

The adapter decides where to resume (``last_delivered``), so nothing about delivery is stored here. A slow, hanging or
dying adapter holds back its own feed and nothing else. Empty heights are passed over; a run of them is closed by an
empty block every :data:`EMPTY_RUN_MAX` heights, so that a restart does not read a long quiet time again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import trio

from consensus.codec import digest
from consensus.types import Height
from rollup_adapters.base import Executed, Level, SequencedBlock
from rollup_adapters.host import AdapterHost, AdapterUnavailable
from sequencer.ledger import HeightUnavailable, Ledger
from sequencer.receipts import Section

logger = logging.getLogger(__name__)

EMPTY_RUN_MAX: Final = 256
RUN_BLOCKS_MAX: Final = 64
RUN_BYTES_MAX: Final = 4 * 1024 * 1024
RETRY_S: Final = 0.5
PRUNED_RETRY_S: Final = 60.0
"""An adapter that needs blocks which are pruned here stays where it is; the node and the other rollups go on."""
SETTLE_INTERVAL_S: Final = 0.25


class Host(Protocol):
    """The calls of an adapter that a feed makes."""

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed: ...

    async def last_delivered(self) -> Height: ...

    async def settle(self, level: Level, height: Height) -> None: ...


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rollup's adapter is: ``height`` is durable there, with this state commitment (hex in JSON)."""

    height: Height
    state_commitment: bytes


class AdapterFeed:
    """One rollup's feed. ``host`` runs beside it."""

    def __init__(self, rollup_id: int, name: str, host: AdapterHost, ledger: Ledger) -> None:
        self.rollup_id = rollup_id
        self.name = name
        self.host = host
        self.delivered = Delivered(height=0, state_commitment=b"")
        self._ledger = ledger

    async def run(self) -> None:
        """Deliver until cancelled; start over from the adapter's cursor whenever it was away."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle)
            await self._deliver()

    async def _settle(self) -> None:
        """What is delivered is soft, and firm once it is final: the adapter is told now and then, not with every
        block."""
        soft = firm = 0
        while True:
            await trio.sleep(SETTLE_INTERVAL_S)
            delivered = self.delivered.height
            final = min(delivered, self._ledger.final_height)
            try:
                if delivered > soft:
                    await self.host.settle("soft", delivered)
                    soft = delivered
                if final > firm:
                    await self.host.settle("firm", final)
                    firm = final
            except AdapterUnavailable:
                continue  # the feed says so

    async def _deliver(self) -> None:
        while True:
            try:
                height = await self.host.last_delivered()
                await self._hand_over(())  # nothing new: it says where it stands
                await self._deliver_from(height + 1)
            except AdapterUnavailable as unavailable:
                logger.warning("rollup %d: %s; delivery resumes when it is back", self.rollup_id, unavailable)
                await trio.sleep(RETRY_S)
            except HeightUnavailable as unavailable:
                logger.error(
                    "rollup %d: its adapter stands at height %d, and %s. Give it a copy of another node's directory",
                    self.rollup_id,
                    self.delivered.height,
                    unavailable,
                )
                await trio.sleep(PRUNED_RETRY_S)

    async def _deliver_from(self, height: Height) -> None:
        empty = 0
        while True:
            run: list[SequencedBlock] = []
            size_bytes = 0
            while len(run) < RUN_BLOCKS_MAX and size_bytes < RUN_BYTES_MAX:
                if run and height > self._ledger.height:
                    break
                for section in await self._ledger.sections(self.rollup_id, height):
                    height = section.height + 1
                    empty = 0 if section.transactions else empty + 1
                    if section.transactions or empty >= EMPTY_RUN_MAX:
                        empty = 0
                        run.append(_sequenced(section))
                        size_bytes += sum(map(len, section.transactions))
            await self._hand_over(run)

    async def _hand_over(self, run: Sequence[SequencedBlock]) -> None:
        executed = await self.host.deliver(run)
        self.delivered = Delivered(height=executed.height, state_commitment=executed.state_commitment)


def _sequenced(section: Section) -> SequencedBlock:
    return SequencedBlock(
        height=section.height,
        timestamp_ms=section.header.timestamp_ms,
        block_id=digest(section.header),
        transactions=tuple(section.transactions),
    )
