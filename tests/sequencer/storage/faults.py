"""A disk that fails on command: a layer between SQLite and the files, which a test makes the default."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import apsw


@dataclass
class Disk:
    """``write_budget_bytes`` is what may still be written before the disk is full; ``sync_fails`` makes every sync
    fail from now on. ``writes`` and ``syncs`` count calls by kind of file: ``database`` or ``log``."""

    write_budget_bytes: int | None = None
    sync_fails: bool = False
    writes: dict[str, int] = field(default_factory=lambda: {"database": 0, "log": 0})
    syncs: dict[str, int] = field(default_factory=lambda: {"database": 0, "log": 0})

    def write(self, kind: str, size_bytes: int) -> None:
        self.writes[kind] += 1
        if self.write_budget_bytes is not None:
            self.write_budget_bytes -= size_bytes
            if self.write_budget_bytes < 0:
                raise apsw.FullError("no space left on the test's disk")

    def sync(self, kind: str) -> None:
        self.syncs[kind] += 1
        if self.sync_fails:
            raise apsw.IOError("the test's disk failed to sync")


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, base: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(base, name, flags)
        self._disk = disk
        self._kind = "log" if flags[0] & apsw.SQLITE_OPEN_WAL else "database"

    def excepthook(self, *_: object) -> bool:
        return True  # the failure reaches the test as SQLite's error

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.write(self._kind, len(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.sync(self._kind)
        super().xSync(flags)


class _FileSystem(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._base = apsw.vfs_names()[0]  # the default so far
        super().__init__("faulty", self._base, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:
        return _File(self._disk, self._base, name, flags)


@contextlib.contextmanager
def faulty_disk() -> Iterator[Disk]:
    """Every connection opened inside is on this disk."""
    disk = Disk()
    system = _FileSystem(disk)
    try:
        yield disk
    finally:
        system.unregister()
