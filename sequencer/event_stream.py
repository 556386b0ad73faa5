"""Reading server-sent events (HTML Living Standard, "Server-sent events") of our own servers over httpx, on trio.

Only what those send: UTF-8, lines that end in LF, one line of data per event.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import httpx
import trio

SILENCE_TIMEOUT_S: Final = 45.0
"""Our servers say something every 15 seconds."""
EVENTS_AHEAD_MAX: Final = 16


class ServerSentEvent(NamedTuple):
    """One event. ``kind`` is its type, or ``comment``; ``id`` is empty where it has none."""

    kind: str
    id: str
    data: bytes


class EventStreamError(Exception):
    """The other side answered with something else than a stream of events, or broke the stream's rules."""

    def __init__(self, message: str, status: int, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


@asynccontextmanager
async def open_event_stream(
    http: httpx.AsyncClient, url: str, *, params: Mapping[str, str | int], event_bytes_max: int
) -> AsyncIterator[trio.MemoryReceiveChannel[ServerSentEvent]]:
    """The events of ``url``, until the block ends or the other side ends the stream.

    Raises :class:`EventStreamError`, and ``httpx.HTTPError`` when the connection fails, both out of the block.
    """
    headers = {"accept": "text/event-stream"}
    timeout = httpx.Timeout(10.0, read=SILENCE_TIMEOUT_S)
    async with http.stream("GET", url, params=params, headers=headers, timeout=timeout) as response:
        if response.status_code != 200:
            body = await response.aread()
            raise EventStreamError(f"{url} answered {response.status_code}", response.status_code, body)
        to_reader, events = trio.open_memory_channel[ServerSentEvent](EVENTS_AHEAD_MAX)
        fault: list[Exception] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, response, to_reader, event_bytes_max, fault)
                try:
                    yield events
                except Exception as error:  # raised again below, whatever it is
                    fault.insert(0, error)
                events.close()
                nursery.cancel_scope.cancel()
        finally:
            if fault:
                raise fault[0]  # as it was raised in the block, not in the group that the nursery would make of it


async def _pump(
    response: httpx.Response,
    to_reader: trio.MemorySendChannel[ServerSentEvent],
    event_bytes_max: int,
    fault: list[Exception],
) -> None:
    """A task of its own, so that httpx's nested generators always end by themselves: cancelled while they wait for the
    network, or exhausted. A generator that is left half way would be found by the garbage collector."""
    buffer = bytearray()
    async with to_reader:
        try:
            async for chunk in response.aiter_raw():
                buffer += chunk
                with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError):
                    for event in _events_in(buffer):
                        await to_reader.send(event)
                if len(buffer) > event_bytes_max and not fault:
                    fault.append(EventStreamError(f"an event exceeds {event_bytes_max} bytes", 200))
                    to_reader.close()
                if fault:
                    buffer.clear()
        except httpx.HTTPError as error:
            fault.append(error)


def _events_in(buffer: bytearray) -> list[ServerSentEvent]:
    """The whole events at the front of ``buffer``, which are taken out."""
    end = buffer.rfind(b"\n\n")
    if end < 0:
        return []
    blocks = bytes(buffer[:end]).split(b"\n\n")
    del buffer[: end + 2]
    return [_event_of(block) for block in blocks]


def _event_of(block: bytes) -> ServerSentEvent:
    kind, identifier, data = "message", "", b""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"":
                return ServerSentEvent("comment", "", value)
            case b"event":
                kind = value.decode("utf-8", "replace")
            case b"id":
                identifier = value.decode("utf-8", "replace")
            case b"data":
                data = value
            case _:
                pass
    return ServerSentEvent(kind, identifier, data)
