"""The bounds that every request passes: how many at once, how long, how many bytes, and what happens to a client that
does not read or does not stop writing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Final

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sequencer.api.limits import ApiLimits
from sequencer.api.representation import ApiError

SEND_RUN_BYTES: Final = 64 * 1024
"""The deadline for sending holds for each run of so many bytes."""
DRAIN_BYTES_MAX: Final = 32 * 1024 * 1024
DRAIN_TIMEOUT_S: Final = 1.0
"""How much of a refused body, and how long, is thrown away before the connection is closed, so that its sender reads
the refusal before a reset."""
RETRY_AFTER_S: Final = 1


class Slots:
    """At most ``most`` at once; one more is refused, none waits."""

    __slots__ = ("_most", "_what", "used")

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self.used = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one. Raises :class:`ApiError` 503 when there is none."""
        if self.used >= self._most:
            raise ApiError(503, "busy", f"{self._most} {self._what} already; try again", retry_after_s=RETRY_AFTER_S)
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1


class Gate:
    """What is in work now, of everything that has a bound. ``closing`` is set when the server stops."""

    def __init__(self, limits: ApiLimits, body_bytes_max: int) -> None:
        self.limits = limits
        self.body_bytes_max = body_bytes_max
        self.requests = Slots("requests are in work", limits.requests_max)
        self.waits = Slots("requests wait for confirmations", limits.waits_max)
        self.streams = Slots("streams are followed", limits.streams_max)
        self.closing = trio.Event()
        self._body_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request, size_bytes_max: int) -> AsyncIterator[bytes]:
        """The whole body of a request, which counts among all bodies until the block ends.

        Raises :class:`ApiError`: 413 as soon as the body is known to be too large, 408 for one that comes too slowly,
        503 when all bodies together are too many, 400 for one that ends early."""
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > size_bytes_max:
            raise _too_large(size_bytes_max)
        chunks: list[bytes] = []
        held = 0
        try:
            with trio.move_on_after(self.limits.body_timeout_s) as patience:
                async with aclosing(request.stream()) as stream:
                    async for chunk in stream:
                        held += len(chunk)
                        self._body_bytes += len(chunk)
                        if held > size_bytes_max:
                            raise _too_large(size_bytes_max)
                        if self._body_bytes > self.limits.bodies_bytes_max:
                            raise ApiError(503, "busy", "too many large requests at once", retry_after_s=RETRY_AFTER_S)
                        chunks.append(chunk)
            if patience.cancelled_caught:
                raise ApiError(408, "timeout", f"the body did not come within {self.limits.body_timeout_s:g} s")
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except ClientDisconnect:
            raise ApiError(400, "incomplete", "the connection ended within the body") from None
        finally:
            self._body_bytes -= held


def _too_large(size_bytes_max: int) -> ApiError:
    return ApiError(413, "too_large", f"a body here has at most {size_bytes_max} bytes", where="body")


class CarefulExchange:
    """ASGI middleware under everything else. Two things go wrong without it:

    - The server's queue for a body that nobody reads is bounded, and a full one would block our own answer. So while
      an answer goes out, what is left of the body is read and thrown away, within bounds.
    - A client that reads nothing would hold a request for ever. So sending has a deadline. (On HTTP/1 the server
      shields its writes; there ``server.py`` gives the socket the same deadline.)
    """

    def __init__(self, app: ASGIApp, limits: ApiLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        timeout_s = self._limits.send_timeout_s

        async def send_in_time(message: Message) -> None:
            runs = 1 + len(message.get("body", b"")) // SEND_RUN_BYTES
            with trio.move_on_after(timeout_s * runs) as patience:
                await send(message)
            if patience.cancelled_caught:
                raise OSError(f"the client read nothing for {timeout_s:g} s")

        if _has_body(scope):
            exchange = _BodyExchange(receive, send_in_time)
            await self._app(scope, exchange.receive, exchange.send)
        else:
            await self._app(scope, receive, send_in_time)


class _BodyExchange:
    """One request with a body."""

    __slots__ = ("_drained", "_receive", "_send", "_unread")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._unread = True
        self._drained = trio.Event()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if not self._unread:
            await self._send(message)
            return
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain)
            if last:
                # Linger before the end: the server closes then, and a reset would overtake the answer.
                await self._send({**message, "more_body": True})
                with trio.move_on_after(DRAIN_TIMEOUT_S):
                    await self._drained.wait()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await self._send(message)
            nursery.cancel_scope.cancel()

    async def _drain(self) -> None:
        """Never ends before the answer does, or the server's queue could be full when the last of it goes out."""
        size_bytes = 0
        while self._unread:
            message = await self.receive()
            size_bytes += len(message.get("body", b""))
            if size_bytes > DRAIN_BYTES_MAX:
                self._drained.set()
        self._drained.set()


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
