"""Serving on trio, in the node's own process.

hypercorn's trio worker shields its writes from cancellation, so one client that reads nothing could hold a stop for
ever. Each connection therefore gets a stream whose every write has a deadline of its own, after which the connection is
reset. That is why the connections are accepted here and not by ``hypercorn.trio.serve``, which does nothing else for a
plain HTTP server without lifespan events.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import struct
from typing import Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from sequencer.api.app import build_app
from sequencer.api.gate import SEND_RUN_BYTES, CarefulExchange, Gate
from sequencer.api.limits import ApiLimits
from sequencer.api.node_view import NodeView
from sequencer.config import ApiConfig

logger = logging.getLogger(__name__)

NEVER: Final = 2**62
RESET: Final = struct.pack("ii", 1, 0)
"""``SO_LINGER`` with no time: closing resets the connection and throws away what was not sent."""


async def serve_api(
    node: NodeView,
    config: ApiConfig,
    *,
    limits: ApiLimits | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; reports the port once it listens.

    When cancelled it stops accepting, ends the streams, lets requests in work finish for ``shutdown_timeout_s``, and
    resets what is left then. Raises ``OSError`` when the address cannot be bound."""
    host, port = config.listen
    listeners = await trio.open_tcp_listeners(port, host=host)
    server = _Server(node, Gate(limits or ApiLimits(), config.body_size_bytes_max))
    task_status.started(listeners[0].socket.getsockname()[1])
    await server.run(listeners)


class _Server:
    def __init__(self, node: NodeView, gate: Gate) -> None:
        self._gate = gate
        self._context = WorkerContext(None)
        self._config = _hypercorn_config(gate.limits)
        # Both are ASGI: starlette types its messages as mappings, hypercorn as one typed dict each.
        self._app = ASGIWrapper(CarefulExchange(build_app(node, gate), gate.limits))  # type: ignore[arg-type]
        self._streams: dict[int, _DeadlineStream] = {}
        self._accepted = 0

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        async with trio.open_nursery() as nursery:
            connections = await nursery.start(self._host)
            try:
                await trio.serve_listeners(self._serve, listeners, handler_nursery=connections)
            finally:
                self._gate.closing.set()

    async def _host(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """The nursery of the connections, which outlive the cancellation of the server by a bounded time."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as connections:
                task_status.started(connections)
                await self._gate.closing.wait()
                await self._context.terminated.set()  # ends the idle connections
                connections.cancel_scope.deadline = trio.current_time() + self._gate.limits.shutdown_timeout_s
                for stream in self._streams.values():
                    stream.hasten(connections.cancel_scope.deadline)

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._streams) >= self._gate.limits.connections_max:
            _reset(stream.socket)
            await trio.aclose_forcefully(stream)
            return
        self._accepted += 1
        number = self._accepted
        careful = self._streams[number] = _DeadlineStream(stream, self._gate.limits.send_timeout_s)
        try:
            # It takes any stream with these methods; its annotation names the TLS one only.
            await TCPServer(self._app, self._config, self._context, ConnectionState({}), careful)  # type: ignore[arg-type]
        except Exception:
            # The application's own faults end in its answers; what ends here is the HTTP server's, about one client.
            logger.exception("the HTTP server failed on one connection")
        finally:
            del self._streams[number]
            await trio.aclose_forcefully(stream)


class _DeadlineStream:
    """A TCP stream whose writes end by a deadline, even inside a shield: then the connection is reset."""

    def __init__(self, stream: trio.SocketStream, send_timeout_s: float) -> None:
        self._stream = stream
        self._send_timeout_s = send_timeout_s
        self._latest = math.inf
        self._sending = trio.CancelScope()
        self.socket = stream.socket

    def hasten(self, latest: float) -> None:
        """Every write ends by this time now, also one that is under way."""
        self._latest = latest
        self._sending.deadline = min(self._sending.deadline, latest)

    async def send_all(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), SEND_RUN_BYTES):
            deadline = min(trio.current_time() + self._send_timeout_s, self._latest)
            with trio.CancelScope(deadline=deadline) as self._sending:
                await self._stream.send_all(view[start : start + SEND_RUN_BYTES])
            if self._sending.cancelled_caught:
                with contextlib.suppress(OSError):
                    _reset(self.socket)
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError("the client read nothing until the deadline")

    async def receive_some(self, size_bytes_max: int) -> bytes:
        return await self._stream.receive_some(size_bytes_max)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _reset(connection: trio.socket.SocketType) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _hypercorn_config(limits: ApiLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logger
    config.keep_alive_max_requests = NEVER
    config.keep_alive_timeout = limits.keep_alive_timeout_s
    config.include_server_header = False
    config.h2_max_concurrent_streams = 16
    return config
