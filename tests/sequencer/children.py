"""A child process that is killed with SIGKILL while it works, and what it had said by then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]


async def said_before_kill(module: str, *arguments: str, after_lines: int) -> list[str]:
    """Run a module of the tests, kill it once it has printed so many lines, and return all whole lines that it
    printed."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    printed = b""
    try:
        async with process.stdout:
            async for data in process.stdout:
                printed += data
                if printed.count(b"\n") >= after_lines:
                    process.kill()  # and read on, to the end of the pipe
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    return printed[: printed.rfind(b"\n") + 1].decode().splitlines()
