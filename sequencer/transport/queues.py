"""Bounded queues: one outbox per peer, stream and channel; one fair inbox per channel."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

import trio

from consensus.types import PeerId
from sequencer.transport.framing import HEADER

COALESCE_SIZE: Final = 64 * 1024
"""Small frames are joined up to about this many bytes; a frame above it is sent from where it lies."""

T = TypeVar("T")


class Outbox:
    """Frames of one channel that wait for one stream. Full, it drops its oldest: an older view matters less."""

    __slots__ = ("_bytes", "_bytes_max", "_channel", "_frames", "_frames_max")

    def __init__(self, channel: int, *, bytes_max: int, frames_max: int) -> None:
        self._channel = channel
        self._bytes_max = bytes_max
        self._frames_max = frames_max
        self._bytes = 0
        self._frames: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def put(self, data: bytes) -> int:
        """Queue a frame and return how many older ones it pushed out."""
        frames = self._frames
        dropped = 0
        while frames and (len(frames) >= self._frames_max or self._bytes + len(data) > self._bytes_max):
            self._bytes -= len(frames.popleft())
            dropped += 1
        frames.append(data)
        self._bytes += len(data)
        return dropped

    def take(self) -> tuple[bytes, bytes]:
        """Remove the next frames, about ``COALESCE_SIZE`` bytes of them, and return what to send: frames joined, and
        after them the data of a large last one (or nothing). Both are empty when nothing waits."""
        parts: list[bytes] = []
        size = 0
        while self._frames and size < COALESCE_SIZE:
            data = self._frames.popleft()
            self._bytes -= len(data)
            parts.append(HEADER.pack(len(data), self._channel))
            if len(data) > COALESCE_SIZE:
                return b"".join(parts), data
            parts.append(data)
            size += len(data)
        return b"".join(parts), b""


class Box(Generic[T]):
    """What one peer's one stream delivered and nobody has read yet."""

    __slots__ = ("bytes", "in_ring", "items", "room")

    def __init__(self) -> None:
        self.items: deque[tuple[T, int]] = deque()
        self.bytes = 0
        self.in_ring = False
        self.room = trio.lowlevel.ParkingLot()


class FairInbox(Generic[T]):
    """Takes one item from each non-empty box in turn, so that whoever floods waits behind his own flood."""

    __slots__ = ("_bytes_max", "_first", "_frames_max", "_readers", "_ring")

    def __init__(self, *, bytes_max: int, frames_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames_max = frames_max
        self._ring: deque[Box[T]] = deque()
        self._first: dict[PeerId, T] = {}
        self._readers = trio.lowlevel.ParkingLot()

    def announce(self, peer: PeerId, item: T) -> None:
        """Hand out ``item`` before anything that lies in boxes. A peer has one announcement waiting at most."""
        self._first[peer] = item
        self._readers.unpark()

    def withdraw(self, peer: PeerId) -> None:
        """Forget the peer's announcement, if it waits."""
        self._first.pop(peer, None)

    def offer(self, box: Box[T], item: T, size_bytes: int) -> bool:
        """Put an item into a box, or answer False when it is full. An empty box takes any size."""
        if box.items and (len(box.items) >= self._frames_max or box.bytes + size_bytes > self._bytes_max):
            return False
        box.items.append((item, size_bytes))
        box.bytes += size_bytes
        if not box.in_ring:
            box.in_ring = True
            self._ring.append(box)
        self._readers.unpark()
        return True

    async def put(self, box: Box[T], item: T, size_bytes: int) -> None:
        """Put an item into a box as soon as there is room. One task per box."""
        while not self.offer(box, item, size_bytes):
            await box.room.park()

    async def get(self) -> T:
        """The next item."""
        if self._first or self._ring:
            await trio.lowlevel.checkpoint()
        while True:
            if self._first:
                return self._first.pop(next(iter(self._first)))
            while self._ring:
                box = self._ring.popleft()
                if not box.items:  # discarded since
                    box.in_ring = False
                    continue
                item, size_bytes = box.items.popleft()
                box.bytes -= size_bytes
                if box.items:
                    self._ring.append(box)
                else:
                    box.in_ring = False
                box.room.unpark()
                return item
            await self._readers.park()

    def discard(self, box: Box[T]) -> int:
        """Empty a box and return how many items were lost."""
        lost = len(box.items)
        box.items.clear()
        box.bytes = 0
        box.room.unpark_all()
        return lost
