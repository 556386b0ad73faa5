"""Frames on a stream: ``u32`` length of the data (big-endian), one channel byte, the data.

Channel 0 carries consensus; numbers below 255 are the node's own; 255 is the connection's (hello, ping, goodbye).
A small frame is cut from a fixed buffer; a large one is received straight into the ``bytes`` object that is handed on.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Final, Protocol

from sequencer.transport.tls import Parted

CONSENSUS: Final = 0
TRANSACTIONS: Final = 1
EVIDENCE: Final = 2
LINK: Final = 255

HEADER: Final = struct.Struct(">IB")
_BUFFER_SIZE: Final = 32 * 1024


def pack_frame(channel: int, data: bytes) -> bytes:
    """The bytes of one frame on the wire."""
    return HEADER.pack(len(data), channel) + data


class Source(Protocol):
    """Where bytes come from: :class:`~sequencer.transport.tls.TlsStream`."""

    async def receive_into(self, view: memoryview, *, silence_timeout_s: float) -> int: ...


class FrameReader:
    """Reads the frames of one stream. ``size_max`` answers the cap of a channel's data, or None for a channel that has
    no business here; both are judged before anything is allocated."""

    __slots__ = ("_buffer", "_end", "_silence_timeout_s", "_start", "_stream", "_view", "size_max")

    def __init__(self, stream: Source, size_max: Callable[[int], int | None], *, silence_timeout_s: float) -> None:
        self._stream = stream
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._silence_timeout_s = silence_timeout_s
        self.size_max = size_max

    async def read(self) -> tuple[int, bytes]:
        """The next frame: its channel and data. Raises :class:`Parted` when the stream ends or the frame is refused."""
        await self._fill(HEADER.size)
        length, channel = HEADER.unpack_from(self._buffer, self._start)
        size_max = self.size_max(channel)
        if size_max is None:
            raise Parted(f"a frame on channel {channel}, which is not in use here")
        if length > size_max:
            raise Parted(f"a frame of {length} bytes on channel {channel} exceeds {size_max}")
        if HEADER.size + length > _BUFFER_SIZE:
            return channel, await self._read_large(length)
        await self._fill(HEADER.size + length)
        start = self._start + HEADER.size
        self._start = start + length
        return channel, bytes(self._view[start : self._start])

    async def _fill(self, count: int) -> None:
        """Have ``count`` bytes in the buffer."""
        if self._end - self._start >= count:
            return
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + count > _BUFFER_SIZE:
            self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
            self._end -= self._start
            self._start = 0
        while self._end - self._start < count:
            self._end += await self._stream.receive_into(
                self._view[self._end :], silence_timeout_s=self._silence_timeout_s
            )

    async def _read_large(self, length: int) -> bytes:
        # BytesIO holds one bytes object, lets us write into it, and gives that same object back: no copy of the frame.
        whole = io.BytesIO(bytes(length))
        with whole.getbuffer() as view:
            buffered = self._view[self._start + HEADER.size : self._end]
            received = len(buffered)
            view[:received] = buffered
            self._start = self._end = 0
            while received < length:
                received += await self._stream.receive_into(view[received:], silence_timeout_s=self._silence_timeout_s)
        return whole.getvalue()
