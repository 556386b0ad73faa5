"""Node processes of the demo and the benchmark: started, watched, killed, and never left behind.

Each is ``python -m sequencer.cli start`` in a session of its own, so a terminal's Ctrl-C reaches the one who started
it and nobody else. It is told to stop when its standard input ends, which happens even when that one is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import trio

START_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 20.0
FIRST_PORT: Final = 20_000
PAST_PORT: Final = 32_000
"""Below the ports that Linux and macOS give to outgoing connections: one of those could take the port of a node that is
down for a moment."""
PORT_TRIES: Final = 64
LOG_TAIL_BYTES: Final = 2_000


class NodeFailed(Exception):
    """A node ended without being asked to, or did not start. The message names it, its log and the end of that."""


class NodeProcess:
    """One node's process. ``api`` is its address once it serves; ``process_id`` None while it does not run."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.name = home.name
        self.log = home / "node.log"
        self.api = ""
        self.expected_to_end = False
        self._process: trio.Process | None = None
        self._ended = trio.Event()

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process is not None and not self._ended.is_set() else None

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self.process_id is not None and bool(self.api)

    async def start(self, nursery: trio.Nursery) -> None:
        """Start it and return once it serves. Raises :class:`NodeFailed`."""
        self.expected_to_end = False
        self._ended = trio.Event()
        command = [sys.executable, "-P", "-m", "sequencer.cli", "start", "--home", str(self.home)]
        # The same modules as here, wherever this process found them.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        with self.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [*command, "--json", "--with-parent"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        nursery.start_soon(self._watch, self._process, self._ended)
        with trio.move_on_after(START_TIMEOUT_S):
            self.api = await self._read_address(self._process)
            return
        raise NodeFailed(f"{self.name} did not serve within {START_TIMEOUT_S:g} s{self._tail()}")

    async def _read_address(self, process: trio.Process) -> str:
        assert process.stdout is not None
        received = b""
        while b"\n" not in received:
            try:
                data = await process.stdout.receive_some(4096)
            except trio.ClosedResourceError:
                data = b""
            if not data:
                await self._ended.wait()
                raise NodeFailed(f"{self.name} ended with status {process.returncode}{self._tail()}")
            received += data
        return str(json.loads(received)["api"])

    async def _watch(self, process: trio.Process, ended: trio.Event) -> None:
        await process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                await pipe.aclose()
        served = bool(self.api)
        self.api = ""
        ended.set()
        if served and not self.expected_to_end:
            raise NodeFailed(f"{self.name} ended by itself with status {process.returncode}{self._tail()}")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        await self._ended.wait()

    async def stop(self) -> bool:
        """SIGTERM, and wait; SIGKILL after ``STOP_TIMEOUT_S``. True when it drained and ended with 0."""
        self._signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S):
            await self._ended.wait()
        self._signal(signal.SIGKILL)
        await self._ended.wait()
        return self._process is None or self._process.returncode == 0

    def _signal(self, number: signal.Signals) -> None:
        self.expected_to_end = True
        if self._process is None or self._process.returncode is not None:
            self._ended.set()
            return
        self._process.send_signal(number)

    def _tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return f"; the end of {self.log}:\n{log.read().decode(errors='replace')}"


class Fleet:
    """The processes of a chain. Made by :func:`open_fleet`."""

    def __init__(self, homes: Sequence[Path], nursery: trio.Nursery) -> None:
        self.nodes = [NodeProcess(home) for home in homes]
        self._nursery = nursery

    async def start_all(self) -> None:
        """Start those that do not run. Raises :class:`NodeFailed`."""
        async with trio.open_nursery() as starting:
            for node in self.nodes:
                if node.process_id is None:
                    starting.start_soon(node.start, self._nursery)

    async def start(self, node: NodeProcess) -> None:
        """Start one. Raises :class:`NodeFailed`."""
        await node.start(self._nursery)

    async def stop_all(self) -> list[str]:
        """Stop all at once. Returns the names of those that did not end with 0."""
        rough: list[str] = []

        async def stop(node: NodeProcess) -> None:
            if not await node.stop():
                rough.append(node.name)

        async with trio.open_nursery() as stopping:
            for node in self.nodes:
                stopping.start_soon(stop, node)
        return rough


@contextlib.asynccontextmanager
async def open_fleet(homes: Sequence[Path]) -> AsyncIterator[Fleet]:
    """Processes for ``homes``, started by the block; whatever ends the block ends them too.

    Leaves with :class:`NodeFailed`, in an exception group, when a node ends by itself.
    """
    async with trio.open_nursery() as nursery:
        fleet = Fleet(homes, nursery)
        try:
            yield fleet
        finally:
            with trio.CancelScope(shield=True):
                await fleet.stop_all()
        nursery.cancel_scope.cancel()


async def interrupted_by_sigterm(task_status: trio.TaskStatus[None]) -> None:
    """Make SIGTERM what Ctrl-C is, so that it leaves nothing behind either. Runs until cancelled."""
    with trio.open_signal_receiver(signal.SIGTERM) as received:
        task_status.started()
        async for _ in received:
            raise KeyboardInterrupt


def free_base_port(count: int) -> int:
    """The first of ``count`` neighbouring ports that nobody listens on now. Raises ``OSError`` when none are found."""
    for _ in range(PORT_TRIES):
        base = FIRST_PORT + secrets.randbelow(PAST_PORT - FIRST_PORT - count)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(base, base + count):
                one = stack.enter_context(socket.socket())
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("127.0.0.1", port))
            return base
    raise OSError(f"no {count} neighbouring ports are free between {FIRST_PORT} and {PAST_PORT}")
