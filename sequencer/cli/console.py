"""What the commands share: where they write, how they fail, how long things show their progress.

Results go to standard output, everything else (progress, logs, errors) to standard error, so that ``--json`` can be
piped. Exit codes:

==== =====================================================================================
0    done, and the answer is yes
1    done, and the answer is no: a disagreement, a missing transaction, a node that is not ready
2    the command line itself is wrong
3    a file or setting cannot be used: configuration, keys, genesis, a home
4    a node cannot be reached, or refused what was asked of it
5    a node stopped because it had to: its disk, its journal, or a bug
130  interrupted (Ctrl-C)
==== =====================================================================================
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rollup_adapters.base import JsonValue
from rollup_adapters.registry import AdapterLoadError
from sequencer.config import ConfigError
from sequencer.homes import HomeError
from sequencer.keys import KeyFileError
from sequencer.storage import InUseError, StorageError

NO: Final = 1
UNUSABLE: Final = 3
UNREACHABLE: Final = 4
STOPPED: Final = 5
PIPED_WIDTH: Final = 160
"""Where there is no terminal: wide enough for every table, so that what follows in a pipe sees whole lines."""


class CommandError(Exception):
    """Ends a command: ``message`` says what is wrong, where, and what to do next."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def out() -> Console:
    """Standard output, as it is now (tests replace it)."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def err() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPED_WIDTH)


def print_json(value: JsonValue) -> None:
    """One document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turn what people can put right into one red line and an exit code; anything else is a bug and shows itself."""
    try:
        yield
    except CommandError as error:
        _fail(str(error), error.code)
    except (ConfigError, KeyFileError, HomeError, AdapterLoadError, InUseError) as error:
        _fail(str(error), UNUSABLE)
    except StorageError as error:
        _fail(str(error), STOPPED)


def _fail(message: str, code: int) -> None:
    err().print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def stage_progress(enabled: bool) -> Iterator[StageBars]:
    """Bars on standard error, one per stage, for as long as the block runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True, disable=not enabled) as progress:
        yield StageBars(progress)


class StageBars:
    """Callable as ``(stage, done, total)``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        task = self._tasks.get(stage)
        if task is None:
            task = self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(task, completed=done, total=total)


def read_secret(file: Path | None, ask: bool, *, confirm: bool) -> str | None:
    """The passphrase from the first line of ``file``, or asked at the terminal; None when neither was wanted."""
    if file is not None:
        try:
            lines = file.read_text().splitlines()
        except OSError as error:
            raise CommandError(f"--passphrase-file: {file}: {error.strerror}", UNUSABLE) from None
        if not lines or not lines[0]:
            raise CommandError(f"--passphrase-file: {file}: the first line is empty", UNUSABLE)
        return lines[0]
    if not ask:
        return None
    passphrase = typer.prompt("Passphrase of the key files", hide_input=True, confirmation_prompt=confirm, err=True)
    return str(passphrase)
