"""The committed end of every block's ancestor path: which transactions the last K heights ordered.

K is the chain spec's ``deduplication_heights``. Only the ledger moves the window; builder, judge and mempool read it.
Memory: at most K payloads' ids, about 130 bytes each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, KeysView
from typing import NamedTuple

import trio

from consensus.types import BlockId, Height
from sequencer.transactions import TransactionId


class CommittedBlock(NamedTuple):
    """What the window keeps of one height."""

    height: Height
    block_id: BlockId
    timestamp_ms: int
    ids: Collection[TransactionId]


class CommittedWindow:
    """The last ``heights_max`` committed heights. Starts at ``height`` 0, or after :meth:`advance` was called for what
    a store remembers."""

    __slots__ = ("_advanced", "_blocks", "_heights", "height", "heights_max")

    def __init__(self, heights_max: int) -> None:
        self.heights_max = heights_max
        self.height: Height = 0
        self._blocks: deque[CommittedBlock] = deque()
        self._heights: dict[TransactionId, Height] = {}
        self._advanced = trio.lowlevel.ParkingLot()

    def advance(self, block: CommittedBlock) -> None:
        """Take the next committed block. Heights leave no gap once there is a first; a gap is our bug."""
        if self._blocks and block.height != self.height + 1:
            raise ValueError(f"height {block.height} after {self.height}: committed heights leave no gap")
        self.height = block.height
        self._blocks.append(block)
        self._heights.update(dict.fromkeys(block.ids, block.height))
        if len(self._blocks) > self.heights_max:
            oldest = self._blocks.popleft()
            heights = self._heights
            for transaction_id in oldest.ids:
                # Ordered again after K heights: then it is the later height's.
                if heights[transaction_id] == oldest.height:
                    del heights[transaction_id]
        self._advanced.unpark_all()

    async def reached(self, height: Height) -> None:
        """Return once ``height`` is committed here; at once, without a checkpoint, when it is already."""
        while self.height < height:
            await self._advanced.park()

    def block_at(self, height: Height) -> CommittedBlock | None:
        """What is kept of ``height``, or None outside the window."""
        if not self._blocks:
            return None
        index = height - self._blocks[0].height
        return self._blocks[index] if 0 <= index < len(self._blocks) else None

    def ordered_at(self, transaction_id: TransactionId) -> Height | None:
        """The height within the window that ordered a transaction."""
        return self._heights.get(transaction_id)

    def first_ordered(self, ids: KeysView[TransactionId], lowest: Height, highest: Height) -> TransactionId | None:
        """One of ``ids`` that a committed height from ``lowest`` to ``highest`` ordered, or None."""
        if ids.isdisjoint(self._heights.keys()):
            return None
        return next((i for i in ids if lowest <= self._heights.get(i, -1) <= highest), None)
