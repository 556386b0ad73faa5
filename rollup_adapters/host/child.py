"""The adapter's process: it opens one adapter and answers the frames of ``wire`` until its socket ends.

A bug in ``deliver`` or ``settle`` ends the process, for then memory may differ from disk; the node starts a fresh one.
A bug in the other calls is answered with ``failed``, its traceback goes to standard error, and the process goes on:
otherwise one strange transaction or query, sent again and again, could keep a rollup down.
"""

from __future__ import annotations

import os
import socket as stdlib_socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Final, assert_never

import trio

from rollup_adapters.base import API_VERSION, AdapterContext, QueryError, RollupAdapter
from rollup_adapters.host import wire
from rollup_adapters.registry import AdapterLoadError, load_adapter

CLOSE_TIMEOUT_S: Final = 2.0
PARENT_LOOK_INTERVAL_S: Final = 1.0
ORDERED_CALLS_WAITING_MAX: Final = 64
LIMIT_EXCEEDED: Final = -32005
"""EIP-1474."""


def main() -> None:
    """Serve the adapter that the first frame names; the exit status is 0 only after a regular end."""
    try:
        connection = _take_standard_input()
    except OSError:
        sys.exit("python -m rollup_adapters.host is started by a node, with a socket as its standard input")
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True, name="end with parent").start()
    sys.exit(trio.run(_serve, connection))


def _take_standard_input() -> stdlib_socket.socket:
    """Move the socket away from descriptor 0, and print to standard error: the adapter's own I/O cannot garble it."""
    connection = stdlib_socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return connection


def _end_with_parent(parent: int) -> None:
    """End even if the adapter never returns to the event loop to see the end of the stream."""
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(PARENT_LOOK_INTERVAL_S)
    never.wait(CLOSE_TIMEOUT_S)
    os._exit(1)


async def _serve(connection: stdlib_socket.socket) -> int:
    socket = trio.socket.from_stdlib_socket(connection)
    adapter = await _open(socket)
    if adapter is None:
        return 1
    server = _Server(adapter, socket)
    if not await server.run():
        return 1  # without close: what is in memory must not be written over what is on disk
    with trio.move_on_after(CLOSE_TIMEOUT_S):
        await adapter.close()
    return 0


async def _open(socket: trio.socket.SocketType) -> RollupAdapter | None:
    request = await wire.read_to_adapter(socket)
    if not isinstance(request, wire.Open):
        return None
    adapter: RollupAdapter | None = None
    try:
        if request.api_version != API_VERSION:
            raise AdapterLoadError(f"the node speaks api_version {request.api_version}, this process {API_VERSION}")
        context = AdapterContext(
            rollup_id=request.rollup_id, directory=Path(request.directory), settings=request.settings
        )
        adapter = load_adapter(request.adapter)(context)
        answer: wire.Opened | wire.NotOpened = wire.Opened(api_version=API_VERSION)
    except (AdapterLoadError, ValueError) as error:
        answer = wire.NotOpened(reason=str(error))
    except Exception as error:
        traceback.print_exc()
        answer = wire.NotOpened(reason=_describe(error))
    await wire.send(socket, wire.encode(answer))
    return adapter


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1_000]


class _Server:
    """Reads calls and answers them. How many run at once is bounded by the node that sends them."""

    def __init__(self, adapter: RollupAdapter, socket: trio.socket.SocketType) -> None:
        self._adapter = adapter
        self._socket = socket
        self._sending = trio.Lock()
        self._cancellable: dict[int, trio.CancelScope] = {}
        self._sound = True

    async def run(self) -> bool:
        """Serve until the stream ends; False where a bug ended it."""
        queue, ordered = trio.open_memory_channel[wire.Deliver | wire.Settle](ORDERED_CALLS_WAITING_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._execute_in_order, ordered, nursery.cancel_scope)
            while (message := await wire.read_to_adapter(self._socket)) is not None:
                match message:
                    case wire.Deliver() | wire.Settle():
                        await queue.send(message)
                    case wire.Check() | wire.Query() | wire.LastDelivered():
                        scope = self._cancellable[message.id] = trio.CancelScope()
                        nursery.start_soon(self._answer_beside, message, scope)
                    case wire.Cancel(id=call):
                        if call in self._cancellable:
                            self._cancellable[call].cancel()
                    case wire.Ping(id=call):
                        await self._send(wire.Pong(id=call))
                    case wire.Open():
                        raise wire.WireError("opened twice")
                    case _:
                        assert_never(message)
            nursery.cancel_scope.cancel()
        return self._sound

    async def _execute_in_order(
        self, ordered: trio.MemoryReceiveChannel[wire.Deliver | wire.Settle], everything: trio.CancelScope
    ) -> None:
        async for message in ordered:
            with trio.CancelScope(shield=True):  # the contract: these two are never cancelled
                try:
                    answer: wire.Answer
                    match message:
                        case wire.Deliver(id=call, blocks=blocks):
                            answer = wire.Delivered(id=call, executed=await self._adapter.deliver(blocks))
                        case wire.Settle(id=call, level=level, height=height):
                            await self._adapter.settle(level, height)
                            answer = wire.Settled(id=call)
                except Exception as error:
                    traceback.print_exc()
                    await self._send(wire.Failed(id=message.id, reason=_describe(error)))
                    self._sound = False
                    everything.cancel()
                    return
                await self._send(answer)

    async def _answer_beside(
        self, message: wire.Check | wire.Query | wire.LastDelivered, scope: trio.CancelScope
    ) -> None:
        answer: wire.Answer
        with scope:
            try:
                match message:
                    case wire.Check(id=call, transactions=transactions):
                        answer = wire.Checked(id=call, admissions=tuple(await self._adapter.check(transactions)))
                    case wire.Query():
                        answer = await self._answer_query(message)
                    case wire.LastDelivered(id=call):
                        answer = wire.Cursor(id=call, height=await self._adapter.last_delivered())
            except Exception as error:
                traceback.print_exc()
                answer = wire.Failed(id=message.id, reason=_describe(error))
        del self._cancellable[message.id]
        if not scope.cancelled_caught:
            await self._send(answer)

    async def _answer_query(self, message: wire.Query) -> wire.Answer:
        call = message.id
        try:
            value = await self._adapter.query(message.method, message.params)
        except QueryError as refusal:
            return wire.Refused(id=call, code=refusal.code, message=refusal.message, data=refusal.data)
        if not wire.is_json(value):
            raise TypeError(f"query {message.method!r} answered with something that is not JSON")
        return wire.Answered(id=call, value=value)

    async def _send(self, answer: wire.Answer) -> None:
        try:
            frame = wire.encode(answer)
        except ValueError as error:
            frame = wire.encode(wire.Failed(id=answer.id, reason=str(error)))
        if isinstance(answer, wire.Answered) and len(frame) > wire.ANSWER_SIZE_BYTES_MAX:
            reason = f"the answer has {len(frame)} bytes, the limit is {wire.ANSWER_SIZE_BYTES_MAX}; ask for less"
            frame = wire.encode(wire.Refused(id=answer.id, code=LIMIT_EXCEEDED, message=reason, data=None))
        with trio.CancelScope(shield=True):  # half a frame would ruin the stream
            async with self._sending:
                await wire.send(self._socket, frame)
