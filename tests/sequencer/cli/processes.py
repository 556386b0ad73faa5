"""What the tests with real processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 280


def sequencer(*arguments: str, directory: Path) -> subprocess.Popen[str]:
    """``sequencer ARGUMENTS`` as a process whose temporary files lie in ``directory``."""
    return subprocess.Popen(
        [sys.executable, "-m", "sequencer.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(directory)},
    )


def processes_of(directory: Path) -> list[str]:
    """The command lines of the processes that run on something in ``directory``."""
    listed = subprocess.run(["ps", "-axww", "-o", "command="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(directory) in line and "ps -axww" not in line]
