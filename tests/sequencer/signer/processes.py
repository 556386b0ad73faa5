"""Chains whose keys are held by signing processes: real nodes, real signers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import trio

START_TIMEOUT_S = 90.0


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Unix sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="sgn-") as directory:
        yield Path(directory)


class SignerProcess:
    """``sequencer signer run`` on one home; its log is ``signer.log`` there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._process: trio.Process | None = None

    @property
    def log(self) -> str:
        return (self.home / "signer.log").read_text()

    async def start(self) -> None:
        """Start it, and return when it listens."""
        command = [sys.executable, "-m", "sequencer.cli", "signer", "run", "--home", str(self.home)]
        with (self.home / "signer.log").open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [*command, "--json", "--with-parent"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        said = b""
        with trio.fail_after(START_TIMEOUT_S):
            while not said.endswith(b"\n"):
                data = await self._process.stdout.receive_some(4096)
                assert data, f"ended: {self.log[-2000:]}"
                said += data

    async def kill(self) -> None:
        """SIGKILL, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self._process is not None
        process = self._process
        process.terminate()
        with trio.fail_after(20):
            code = await process.wait()
        await self.kill()
        return code


@contextlib.asynccontextmanager
async def signers(homes: list[Path]) -> AsyncIterator[list[SignerProcess]]:
    """One process for each home, started; whatever ends the block ends them."""
    processes = [SignerProcess(home) for home in homes]
    try:
        async with trio.open_nursery() as nursery:
            for process in processes:
                nursery.start_soon(process.start)
        yield processes
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                await process.kill()
