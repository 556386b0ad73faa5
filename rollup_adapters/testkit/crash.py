"""Crashes in this process: a copy of the adapter's directory at every change on disk is opened as after SIGKILL.

The profiling hook of the interpreter is called around every call into C, and every write to a file is one. Where the
files differ from the last look, they are copied. Such a copy is what SIGKILL at that instant would have left behind. No
hook in the adapter is needed, so any adapter can be tested, whatever it stores its state with. (A write from another
thread is seen at the next call in this one; a copy during which files changed is thrown away.)
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Final, TypeAlias

from rollup_adapters.base import Height
from rollup_adapters.testkit.subject import (
    Bench,
    Blocks,
    History,
    Reference,
    Subject,
    deliver,
    fail,
    for_each_history,
    reference,
    resume,
)

IMAGES_MAX: Final = 200
"""Copies per delivery. An adapter that changes its files more often is examined at its first so many changes."""

Signature: TypeAlias = dict[str, tuple[int, int, int]]
SEEN_MTIME_NS: Final = 0
"""Set on files that were looked at: any later write shows, however coarse the file system's clock."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One copy, and what the cursor may be in it."""

    directory: Path
    moment: str
    cursors: tuple[Height, ...]


class Camera:
    """Copies ``directory`` into directories of the bench whenever its files have changed."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self._bench = bench
        self._directory = directory
        self._seen: Signature = {}
        self.copies: list[Path] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        previous = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(previous)

    def look(self) -> None:
        """Copy the files if they differ from the last look."""
        signature = self._signature()
        if signature == self._seen or len(self.copies) == IMAGES_MAX:
            return
        copy = self._bench.new_directory()
        try:
            shutil.copytree(self._directory, copy, dirs_exist_ok=True)
        except (OSError, shutil.Error):  # a file vanished meanwhile: another thread is at work
            shutil.rmtree(copy, ignore_errors=True)
            return
        if self._signature() != signature:
            shutil.rmtree(copy)
            return
        for name in signature:
            os.utime(name, ns=(SEEN_MTIME_NS, SEEN_MTIME_NS))
        self._seen = self._signature()
        self.copies.append(copy)

    def _profile(self, _frame: FrameType, event: str, called: object) -> None:
        if event in {"c_call", "c_return", "c_exception"} and _may_write(called):
            self.look()

    def _signature(self) -> Signature:
        signature = {}
        for folder, _, names in os.walk(self._directory):
            for name in names:
                path = os.path.join(folder, name)
                status = os.stat(path)
                signature[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return signature


def _may_write(called: object) -> bool:
    """Whether a C function can touch files: all but the methods and functions of ``builtins``, to save looks."""
    owner = getattr(called, "__self__", None)
    if isinstance(owner, ModuleType):
        return owner.__name__ != "builtins"
    return type(owner).__module__ != "builtins"


def crash(subject: Subject) -> None:
    """State and cursor become durable together, before ``deliver`` returns."""
    for_each_history(subject, _crash_everywhere, subject.transactions)


async def _crash_everywhere(bench: Bench, history: History) -> None:
    undisturbed = await reference(bench, history.blocks)
    for image in await _images(bench, history):
        await _examine(bench, image, history.blocks, undisturbed)
        shutil.rmtree(image.directory)


async def _images(bench: Bench, history: History) -> list[Image]:
    """Deliver the history once, and return every state of the disk on the way."""
    directory = bench.new_directory()
    adapter = bench.open(directory)
    images = []
    cursor = 0
    for run in history.runs:
        heights = tuple(block.height for block in run)
        camera = Camera(bench, directory)
        camera.look()
        with camera.watching():
            await deliver(adapter, run)
        during = len(camera.copies)
        for number, copy in enumerate(camera.copies, start=1):
            moment = f"at change {number} on disk of the delivery of heights {heights[0]}..{heights[-1]}"
            images.append(Image(directory=copy, moment=moment, cursors=(cursor, *heights)))
        cursor = heights[-1]
        after = bench.new_directory()
        shutil.copytree(directory, after, dirs_exist_ok=True)
        moment = f"after the delivery of heights {heights[0]}..{heights[-1]} returned ({during} changes on disk)"
        images.append(Image(directory=after, moment=moment, cursors=(cursor,)))
    await bench.close(adapter)
    return images


async def _examine(bench: Bench, image: Image, blocks: Blocks, undisturbed: Reference) -> None:
    """Open one copy, compare state with cursor, resume as the node does, and compare the end."""
    try:
        adapter = bench.open(image.directory)
    except Exception as error:
        fail(
            "an adapter opens after a crash",
            f"{image.moment}: {type(error).__name__}: {error}",
            "let a store with transactions hold the state; write a plain file beside the old one and rename it over it",
        )
    try:
        cursor = await adapter.last_delivered()
    except Exception as error:
        fail(
            "last_delivered answers after a crash",
            f"{image.moment}: {type(error).__name__}: {error}",
            "let a store with transactions hold the cursor; a file written in place may be found empty or torn",
        )
    if cursor not in image.cursors:
        fail(
            "the cursor is durable before deliver returns, and moves only with a delivery",
            f"after a crash {image.moment} last_delivered is {cursor}, not one of {image.cursors}",
            "commit the cursor in the transaction of the state, inside deliver, and read it back from disk when opened",
        )
    await resume(adapter, blocks, undisturbed, moment=f"after a crash {image.moment}")
    await bench.close(adapter)
