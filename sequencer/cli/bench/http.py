"""An HTTP/1.1 client that costs little, for the benchmark: it shares the machine with what it measures.

It sends requests whose bytes were prepared, one at a time on one connection, and reads answers that carry their
length. Not for anything else: the library's client is :mod:`sequencer.client`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio

RECEIVE_BYTES: Final = 256 * 1024
HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"


class UnexpectedAnswer(Exception):
    """The other side is not the node that was started, or it died."""


def request(method: str, api: str, path: str, body: bytes = b"", content_type: str = "application/msgpack") -> bytes:
    """The bytes of a request that asks for MessagePack."""
    head = f"{method} {path} HTTP/1.1\r\nhost: {urlsplit(api).netloc}\r\naccept: application/msgpack\r\n"
    if method == "POST":
        head += f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection:
    """Made by :func:`connect`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def exchange(self, prepared: bytes) -> tuple[int, bytes, bytes]:
        """Status, head (lower case) and body. Raises :class:`UnexpectedAnswer` and ``trio.BrokenResourceError``."""
        await self._stream.send_all(prepared)
        received = bytearray()
        end = -1
        while end < 0:
            await self._receive(received)
            end = received.find(HEAD_END)
        head = bytes(received[:end]).lower()
        at = head.find(LENGTH)
        if not head.startswith(b"http/1.1 ") or at < 0:
            raise UnexpectedAnswer(f"not an answer of a node: {head[:200]!r}")
        past = end + len(HEAD_END) + int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
        while len(received) < past:
            await self._receive(received)
        return int(head[9:12]), head, bytes(received[end + len(HEAD_END) : past])

    async def _receive(self, received: bytearray) -> None:
        data = await self._stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise UnexpectedAnswer("the node closed the connection")
        received += data


@asynccontextmanager
async def connect(api: str) -> AsyncIterator[Connection]:
    """A connection to a node's API."""
    address = urlsplit(api)
    async with await trio.open_tcp_stream(address.hostname or "", address.port or 80) as stream:
        yield Connection(stream)
