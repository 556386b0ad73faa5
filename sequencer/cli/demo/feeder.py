"""The demo's bulk user: batches of blobs for the raw rollup, ticked off in the verified stream of its sections.

A section proves that it is complete, so one stream confirms everything in it: no receipt for each blob is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Final

import trio

from sequencer.cli.demo.plan import RAW_ROLLUP
from sequencer.cli.demo.sender import CONFIRM_TIMEOUT_S, PATIENCE_MS, Ledgers, TrafficFailed
from sequencer.client import NoNodeAnswered, SectionIterator, SequencerClient
from sequencer.genesis import Genesis
from sequencer.transactions import Position, TransactionId, transaction_id

logger = logging.getLogger(__name__)

BATCH: Final = 250
INTERVAL_S: Final = 0.5
BLOB_BYTES_MIN, BLOB_BYTES_MAX = 32, 256
LOOK_S: Final = 0.1


@dataclass(slots=True)
class _Blob:
    data: bytes
    first_s: float
    last_s: float


class Feeder:
    """Submits until ``stopping`` is set, and then until everything is confirmed."""

    def __init__(self, apis: Sequence[str], genesis: Genesis, seen: Ledgers, stopping: trio.Event) -> None:
        self._apis = list(apis)
        self._genesis = genesis
        self._seen = seen
        self._stopping = stopping
        self._outstanding: dict[TransactionId, _Blob] = {}
        self._random = Random(7)

    async def run(self) -> None:
        """Raises :class:`TrafficFailed` when a blob is not confirmed in time."""
        async with AsyncExitStack() as opened:
            # One client for each node to begin with; it goes on with the others while that one is away.
            turns = [self._apis[at:] + self._apis[:at] for at in range(len(self._apis))]
            clients = [await opened.enter_async_context(SequencerClient(turn, self._genesis)) for turn in turns]
            # The observer's stream: the last one.
            sections = await opened.enter_async_context(clients[-1].follow(RAW_ROLLUP))
            nursery = await opened.enter_async_context(trio.open_nursery())
            nursery.start_soon(self._tick_off, sections)
            await self._submit(cycle(clients))
            nursery.cancel_scope.cancel()

    async def _submit(self, clients: Iterator[SequencerClient]) -> None:
        while not self._stopping.is_set() or self._outstanding:
            now = trio.current_time()
            again = [each for each in self._outstanding.values() if now - each.last_s > PATIENCE_MS / 1000]
            if any(now - each.first_s > CONFIRM_TIMEOUT_S for each in again):
                raise TrafficFailed(f"a blob of rollup {RAW_ROLLUP} was not confirmed within {CONFIRM_TIMEOUT_S:g} s")
            self._seen.resubmitted += len(again)
            blobs = again if self._stopping.is_set() else [*again, *self._new_blobs(now)]
            for blob in blobs:
                blob.last_s = now
            if blobs:
                try:
                    # What is not taken now is submitted again, to the next.
                    await next(clients).submit_batch(RAW_ROLLUP, [blob.data for blob in blobs])
                except NoNodeAnswered as error:
                    logger.info("no node took a batch: %s", error)
            await trio.sleep(LOOK_S if self._stopping.is_set() else INTERVAL_S)

    def _new_blobs(self, now: float) -> list[_Blob]:
        choice = self._random
        blobs = [
            _Blob(choice.randbytes(choice.randint(BLOB_BYTES_MIN, BLOB_BYTES_MAX)), now, now) for _ in range(BATCH)
        ]
        self._outstanding.update((transaction_id(RAW_ROLLUP, 0, blob.data), blob) for blob in blobs)
        self._seen.rollups[RAW_ROLLUP].submitted += len(blobs)
        return blobs

    async def _tick_off(self, sections: SectionIterator) -> None:
        count = self._seen.rollups[RAW_ROLLUP]
        async for section in sections:
            for index, identifier in enumerate(section.transaction_ids()):
                if self._outstanding.pop(identifier, None) is None:
                    continue
                place = Position(rollup_id=RAW_ROLLUP, height=section.height, index=index)
                self._seen.positions[identifier] = place
                self._seen.last_s = trio.current_time()
                count.acknowledged += 1
                count.last_height = max(count.last_height, section.height)
