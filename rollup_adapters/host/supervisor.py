"""The node's side of an adapter: it keeps one process running, and offers its adapter's methods.

::

    host = AdapterHost(AdapterSpec(adapter="raw", rollup_id=7, directory=home / "7", settings={}))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)              # until cancelled; the adapter may come up later, or never
        executed = await host.deliver(blocks)      # AdapterUnavailable where it is down, and stays down, for a while

The process may die, hang or speak nonsense. It is then killed, and started again after a delay that doubles up to a
limit; the caller's nursery never hears of it, only calls do, as :class:`AdapterUnavailable`. Its niceness is 10 above
ours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket as stdlib_socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from rollup_adapters.base import (
    API_VERSION,
    Admission,
    Executed,
    Height,
    JsonValue,
    Level,
    QueryError,
    SequencedBlock,
)
from rollup_adapters.host import wire
from rollup_adapters.host.connection import AdapterUnavailable, Connection, Ending

logger = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT", bound=wire.Answer)

NICENESS_ABOVE_OURS: Final = 10
STANDARD_ERROR: Final = 2
PYTHON_HOST: Final = (sys.executable, "-P", "-m", "rollup_adapters.host")

INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESOURCE_UNAVAILABLE: Final = -32002
LIMIT_EXCEEDED: Final = -32005
"""The last two from EIP-1474."""


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """Which adapter to run, for whom and where. ``directory`` is made if it does not exist. ``command`` starts a
    process that speaks the format of ``wire`` on its standard input; the default loads ``adapter`` by entry point."""

    adapter: str
    rollup_id: int
    directory: Path
    settings: Mapping[str, JsonValue]
    command: tuple[str, ...] = PYTHON_HOST


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    """Deadlines and bounds. Whether an adapter hangs is judged by its pings, whatever it executes meanwhile;
    ``deliver_timeout_s`` only ends a delivery that would never end."""

    open_timeout_s: float = 60.0
    unavailable_after_s: float = 5.0
    """How long a call waits for an adapter that is down."""
    call_timeout_s: float = 30.0
    """``check`` and ``last_delivered``, which may have to wait for a ``deliver`` that holds the CPU."""
    deliver_timeout_s: float = 3600.0
    """``deliver`` and ``settle``; past it the adapter is taken for hung."""
    query_timeout_s: float = 10.0
    query_concurrency_max: int = 8
    query_waiting_max: int = 128
    ping_interval_s: float = 5.0
    ping_timeout_s: float = 15.0
    """Counted only while no ``deliver`` runs; past it the adapter is taken for hung."""
    close_timeout_s: float = 3.0
    restart_delay_min_s: float = 0.1
    restart_delay_max_s: float = 30.0
    stable_after_s: float = 60.0
    """After so long a life the next restart waits only the shortest delay again."""


class AdapterHost:
    """See the module's docstring. ``restarts``, ``alive`` and ``last_failure`` are for metrics and for people."""

    def __init__(self, spec: AdapterSpec, limits: HostLimits | None = None) -> None:
        self._spec = spec
        self._limits = limits if limits is not None else HostLimits()
        self._queries = trio.CapacityLimiter(self._limits.query_concurrency_max)
        self._connection: Connection | None = None
        self._opened = trio.Event()
        self._closed = False
        self.restarts = 0
        self.last_failure: str | None = None
        self.process_id: int | None = None

    @property
    def alive(self) -> bool:
        """Whether the adapter is open and answers."""
        return self._connection is not None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the adapter running until cancelled, then close it. Reports started at once, before it is open."""
        task_status.started()
        limits = self._limits
        delay_s = limits.restart_delay_min_s
        try:
            while True:
                began = trio.current_time()
                self.last_failure = await self._live_once()
                if trio.current_time() - began > limits.stable_after_s:
                    delay_s = limits.restart_delay_min_s
                logger.warning("%s; next start in %.1f s", self._down(), delay_s)
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, limits.restart_delay_max_s)
                self.restarts += 1
        finally:
            self._closed = True
            self._opened.set()

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        """As :meth:`RollupAdapter.check`. Raises :class:`AdapterUnavailable`."""
        request = partial(wire.Check, transactions=tuple(transactions))
        answer = await self._call(request, wire.Checked)
        if len(answer.admissions) != len(transactions):
            raise AdapterUnavailable(f"{self._name()} did not give one admission per transaction")
        return answer.admissions

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        """As :meth:`RollupAdapter.deliver`; one at a time, however many callers. Raises :class:`AdapterUnavailable`,
        and ``ValueError`` where the blocks together exceed a frame."""
        connection = await self._ready()
        deliver = partial(wire.Deliver, blocks=tuple(blocks))
        call, frame = connection.prepare(deliver)
        answer = await connection.exchange_in_order(call, frame, self._limits.deliver_timeout_s)
        executed = self._expect(answer, wire.Delivered).executed
        counts = [len(outcomes) for outcomes in executed.outcomes]
        if counts != [len(block.transactions) for block in blocks]:
            raise AdapterUnavailable(f"{self._name()} did not give one outcome per delivered transaction")
        return executed

    async def last_delivered(self) -> Height:
        """As :meth:`RollupAdapter.last_delivered`. Raises :class:`AdapterUnavailable`."""
        answer = await self._call(wire.LastDelivered, wire.Cursor)
        return answer.height

    async def settle(self, level: Level, height: Height) -> None:
        """As :meth:`RollupAdapter.settle`, in order with ``deliver``. Raises :class:`AdapterUnavailable`."""
        connection = await self._ready()
        settle = partial(wire.Settle, level=level, height=height)
        call, frame = connection.prepare(settle)
        self._expect(await connection.exchange_in_order(call, frame, self._limits.deliver_timeout_s), wire.Settled)

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        """As :meth:`RollupAdapter.query`; also refused when too large, too many or too slow. Raises :class:`QueryError`
        and :class:`AdapterUnavailable`."""
        limits = self._limits
        if self._queries.statistics().tasks_waiting >= limits.query_waiting_max:
            raise QueryError(LIMIT_EXCEEDED, "too many queries wait for this rollup; try again later")
        with trio.move_on_after(limits.query_timeout_s):
            async with self._queries:
                connection = await self._ready()
                try:
                    request = partial(wire.Query, method=method, params=params)
                    call, frame = connection.prepare(request, wire.QUERY_SIZE_BYTES_MAX)
                except ValueError as error:
                    raise QueryError(INVALID_PARAMS, str(error)) from error
                return self._read_answer(await connection.exchange(call, frame))
        raise QueryError(RESOURCE_UNAVAILABLE, f"no answer within {limits.query_timeout_s:g} s")

    def _read_answer(self, answer: wire.Answer) -> JsonValue:
        match answer:
            case wire.Answered(value=value):
                answered: JsonValue = value
                return answered
            case wire.Refused(code=code, message=message, data=data):
                raise QueryError(code, message, data)
            case wire.Failed():
                raise QueryError(INTERNAL_ERROR, "the rollup's adapter failed on this query; its log says why")
        raise AdapterUnavailable(f"{self._name()} answered a query with {type(answer).__name__}")

    async def _call(self, make: Callable[..., wire.Call], wanted: type[AnswerT]) -> AnswerT:
        connection = await self._ready()
        with trio.move_on_after(self._limits.call_timeout_s):
            return self._expect(await connection.exchange(*connection.prepare(make)), wanted)
        raise AdapterUnavailable(f"{self._name()} gave no answer within {self._limits.call_timeout_s:g} s")

    def _expect(self, answer: wire.Answer, wanted: type[AnswerT]) -> AnswerT:
        match answer:
            case wire.Failed(reason=reason):
                raise AdapterUnavailable(f"{self._name()} failed: {reason}")
            case _ if isinstance(answer, wanted):
                return answer
        raise AdapterUnavailable(f"{self._name()} answered with {type(answer).__name__}, not {wanted.__name__}")

    async def _ready(self) -> Connection:
        with trio.move_on_after(self._limits.unavailable_after_s):
            while self._connection is None and not self._closed:
                await self._opened.wait()
        if self._connection is None:
            raise AdapterUnavailable(self._down())
        return self._connection

    def _name(self) -> str:
        return f"adapter {self._spec.adapter!r} of rollup {self._spec.rollup_id}"

    def _down(self) -> str:
        if self._closed:
            return f"{self._name()} is closed"
        reason = self.last_failure or "it is still starting"
        return f"{self._name()} is down: {reason} (restarted {self.restarts} times)"

    async def _live_once(self) -> str:
        """One process from start to end. Returns why it ended."""
        try:
            self._spec.directory.mkdir(parents=True, exist_ok=True)
            ours, theirs = stdlib_socket.socketpair()
            with ours, theirs:
                process = await _start(self._spec.command, theirs)
                socket = trio.socket.from_stdlib_socket(ours.dup())
        except OSError as error:
            return f"its process could not be started: {error}"
        self.process_id = process.pid
        grace_s = self._limits.close_timeout_s
        try:
            with socket:
                ending = await self._converse(socket)
            grace_s = 0.0 if ending.kill else grace_s
        finally:
            self.process_id = None
            await _end(process, grace_s)
        return f"{ending.reason} (exit status {process.returncode})"

    async def _converse(self, socket: trio.socket.SocketType) -> Ending:
        """Open the adapter and serve calls, until one side ends it."""
        with trio.move_on_after(self._limits.open_timeout_s) as opening:
            refusal = await self._open(socket)
        if opening.cancelled_caught:
            return Ending(reason=f"it did not open within {self._limits.open_timeout_s:g} s", kill=True)
        if refusal is not None:
            return Ending(reason=refusal, kill=False)
        async with trio.open_nursery() as nursery:
            connection = Connection(socket=socket, nursery=nursery, name=self._name())
            self._connection = connection
            self._opened.set()
            logger.info("%s is open", self._name())
            try:
                await connection.run(self._limits.ping_interval_s, self._limits.ping_timeout_s)
            finally:
                self._connection = None
                self._opened = trio.Event()
        return connection.ending

    async def _open(self, socket: trio.socket.SocketType) -> str | None:
        """Say what to open. Returns why that did not work."""
        request = wire.Open(
            api_version=API_VERSION,
            adapter=self._spec.adapter,
            rollup_id=self._spec.rollup_id,
            directory=str(self._spec.directory),
            settings=dict(self._spec.settings),
        )
        try:
            await wire.send(socket, wire.encode(request))
            received = await wire.read_to_node(socket)
        except (ValueError, wire.WireError) as error:
            return str(error)
        match received:
            case (wire.Opened(api_version=version), _):
                return None if version == API_VERSION else f"it speaks api_version {version}, the node {API_VERSION}"
            case (wire.NotOpened(reason=reason), _):
                return reason
            case None:
                return "its process ended before the adapter was open"
            case (message, _):
                return f"it answered open with {type(message).__name__}"


async def _start(command: Sequence[str], connection: stdlib_socket.socket) -> trio.Process:
    """Start a process of lower priority, in a session of its own so that a terminal's Ctrl-C reaches only the node."""
    # The same modules as here, wherever this process found them; -P keeps the working directory out.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    process = await trio.lowlevel.open_process(
        command, stdin=connection, stdout=STANDARD_ERROR, env=environment, start_new_session=True
    )
    with contextlib.suppress(ProcessLookupError):  # it ended already; its socket will say so
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS_ABOVE_OURS
        os.setpriority(os.PRIO_PROCESS, process.pid, niceness)
    return process


async def _end(process: trio.Process, grace_s: float) -> None:
    """Wait for the process, whose socket is closed by now; after ``grace_s`` kill it and what it started."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(grace_s):
            await process.wait()
            return
        # Not yet waited for, so the id is still its own. It leads its own process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
