"""The calls to one adapter process, from the moment when its adapter is open to the end of its stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from rollup_adapters.host import wire

FRAMES_WAITING_MAX: Final = 16
ORDERED_CALLS_WAITING_MAX: Final = 16


class AdapterUnavailable(Exception):
    """The adapter is down, or failed on this call. The message says why; trying again later may succeed. After a failed
    ``deliver``, ask ``last_delivered`` where to resume."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why a connection ended. ``kill``: the process is hung or confused, and gets no time to close."""

    reason: str
    kill: bool


@dataclass(kw_only=True, eq=False)
class _Pending:
    """A call that waits for its answer, or for the end of the connection (then ``answer`` stays None)."""

    answer: wire.Answer | None = None
    done: trio.Event = field(default_factory=trio.Event)


class Connection:
    """Numbers calls, matches answers, and notices when the adapter hangs."""

    def __init__(self, *, socket: trio.socket.SocketType, nursery: trio.Nursery, name: str) -> None:
        self._socket = socket
        self._nursery = nursery
        self._name = name
        self._outgoing, self._queue = trio.open_memory_channel[bytearray](FRAMES_WAITING_MAX)
        self._pending: dict[int, _Pending] = {}
        self._ids = 0
        self._in_order = trio.StrictFIFOLock()
        self._over = False
        self.ending = Ending(reason="its process ended", kill=False)

    async def run(self, ping_interval_s: float, ping_timeout_s: float) -> None:
        """Move frames until the stream ends or the adapter is taken for hung; then end every call that waits."""
        self._nursery.start_soon(self._write)
        self._nursery.start_soon(self._watch, ping_interval_s, ping_timeout_s)
        try:
            while (received := await wire.read_to_node(self._socket)) is not None:
                self._accept(*received)
        except wire.WireError as error:
            self.ending = Ending(reason=str(error), kill=True)
        finally:
            self._over = True
            self._nursery.cancel_scope.cancel()
            for pending in self._pending.values():
                pending.done.set()

    def prepare(
        self, make: Callable[..., wire.Call], size_bytes_max: int = wire.FRAME_SIZE_BYTES_MAX
    ) -> tuple[int, bytearray]:
        """A new call's id and frame. Raises ``ValueError`` where it is too large or does not fit MessagePack."""
        self._ids += 1
        frame = wire.encode(make(id=self._ids))
        if len(frame) > size_bytes_max:
            raise ValueError(f"{len(frame)} bytes, the limit is {size_bytes_max}")
        return self._ids, frame

    async def exchange(self, call: int, frame: bytearray) -> wire.Answer:
        """Send a call and wait for its answer, beside others; where this is cancelled, so is the call.

        Raises :class:`AdapterUnavailable` when the connection ends first.
        """
        pending = _Pending()
        if self._over:
            raise self._lost()
        self._pending[call] = pending
        try:
            await self._outgoing.send(frame)
            await pending.done.wait()
        finally:
            del self._pending[call]
            if not pending.done.is_set():
                self._cancel(call)
        if pending.answer is None:
            raise self._lost()
        return pending.answer

    async def exchange_in_order(self, call: int, frame: bytearray, timeout_s: float) -> wire.Answer:
        """Send a call after the answer to the one before. It is not cancelled with its caller; past ``timeout_s`` the
        adapter is taken for hung. Raises :class:`AdapterUnavailable`."""
        if self._over:
            raise self._lost()
        if self._in_order.statistics().tasks_waiting >= ORDERED_CALLS_WAITING_MAX:
            raise AdapterUnavailable(f"{self._name} has {ORDERED_CALLS_WAITING_MAX} deliveries waiting already")
        result = _Pending()
        self._nursery.start_soon(self._take_turn, call, frame, timeout_s, result)
        await result.done.wait()
        if result.answer is None:
            raise self._lost()
        return result.answer

    async def _take_turn(self, call: int, frame: bytearray, timeout_s: float, result: _Pending) -> None:
        try:
            async with self._in_order:
                with trio.move_on_after(timeout_s) as waiting:
                    result.answer = await self.exchange(call, frame)
            if waiting.cancelled_caught:
                self._hung(timeout_s)
        except AdapterUnavailable:
            pass  # the connection ended; whoever waits for the result is told so
        finally:
            result.done.set()

    async def _watch(self, interval_s: float, timeout_s: float) -> None:
        """Ping now and then, beside everything else: an adapter that executes a long delivery off its event loop still
        answers, one that blocks it does not."""
        while not self._over:
            await trio.sleep(interval_s)
            try:
                with trio.move_on_after(timeout_s) as waiting:
                    await self.exchange(*self.prepare(wire.Ping))
            except AdapterUnavailable:
                return
            if waiting.cancelled_caught:
                self._hung(timeout_s)

    def _hung(self, timeout_s: float) -> None:
        self.ending = Ending(reason=f"it hung: no answer within {timeout_s:g} s", kill=True)
        self._nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        async for frame in self._queue:
            if not await wire.send(self._socket, frame):
                return  # the reader meets the end of the stream as well

    def _accept(self, message: wire.ToNode, size_bytes: int) -> None:
        if isinstance(message, wire.Opened | wire.NotOpened):
            raise wire.WireError("it answered open twice")
        if not 0 < message.id <= self._ids:
            raise wire.WireError(f"it answered call {message.id}, which was never made")
        if isinstance(message, wire.Answered) and size_bytes > wire.ANSWER_SIZE_BYTES_MAX:
            raise wire.WireError(f"an answer of {size_bytes} bytes; the limit is {wire.ANSWER_SIZE_BYTES_MAX}")
        pending = self._pending.get(message.id)
        if pending is not None:  # else its caller no longer waits
            pending.answer = message
            pending.done.set()

    def _cancel(self, call: int) -> None:
        with contextlib.suppress(trio.WouldBlock):  # if it reads nothing at present, it will answer in vain
            self._outgoing.send_nowait(wire.encode(wire.Cancel(id=call)))

    def _lost(self) -> AdapterUnavailable:
        return AdapterUnavailable(f"{self._name} is down: {self.ending.reason}")
