"""One SQLite file of one process: a writer, a few readers, and a checkpointer that stays out of the commit's way.

- **Durable means synced.** The file is in WAL mode. With ``synchronous=FULL`` every commit waits for the log to reach
  the disk (``fullfsync`` asks macOS to mean it).
- **A failed write is final.** After an error nobody knows what reached the disk, and a second ``fsync`` may claim
  success for pages that the system has dropped. The first failure therefore stops all later writes. The next opening
  copies the whole log into the database file and syncs that, before anything is added.
- **Checkpoints run on a connection and thread of their own** when the log has grown by ``CHECKPOINT_BYTES``; a
  commit waits for one only if there was no pause in writing for so long that the log grew to ``LOG_BYTES_HIGH``.
- **Pragmas are set one by one and read back**: of several statements in one call, those behind the first that returns
  a row would silently not run.
- **One process.** A second one that opened the same journal could sign against the first, so an advisory lock on
  ``<file>.lock`` keeps it out. (Not a lock on the database file: closing any handle of a file drops all POSIX locks
  of the process on it, SQLite's among them.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

import apsw
import trio

from sequencer.durable import sync_directory

PAGE_BYTES: Final = 8192
"""A 1 MB body commits a sixth faster than with 4,096, a small record equally fast."""
CHECKPOINT_BYTES: Final = 16 * 1024 * 1024
LOG_BYTES_HIGH: Final = 64 * 1024 * 1024
"""From here on the writer copies what little the checkpointer left, so that the log can begin anew."""
LOG_BYTES_MAX: Final = 128 * 1024 * 1024
"""Here the writer waits for the checkpointer and copies all."""
CHECKPOINT_ROUNDS_MAX: Final = 4
"""Passes of one checkpoint over what was written while it ran."""
WRITER_CACHE_BYTES: Final = 16 * 1024 * 1024
READER_CACHE_BYTES: Final = 4 * 1024 * 1024
READERS_MAX: Final = 2
BUSY_TIMEOUT_MS: Final = 10_000

T = TypeVar("T")
Synchronous: TypeAlias = Literal["FULL", "NORMAL"]

_SYNCHRONOUS: Final = {"NORMAL": 1, "FULL": 2}
_META: Final = "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID"


class StorageError(Exception):
    """The disk, or what is on it, cannot be relied on. The message names the file and what to do next."""


class InUseError(StorageError):
    """A running node has the file open."""


class DamagedError(Exception):
    """A job read what cannot have been written. Becomes a :class:`StorageError` on its way out of the database."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a file holds. ``name`` and ``version`` are checked at every opening; ``statements`` fill a new file;
    ``repair`` ends the message about a damaged one."""

    name: str
    version: int
    statements: tuple[str, ...]
    synchronous: Synchronous
    repair: str


class Database:
    """See the module. Made by :func:`open_database` only."""

    def __init__(self, path: Path, layout: Layout, genesis_hash: bytes) -> None:
        """Open the file or make it. Blocks; raises :class:`StorageError`."""
        self.path = path
        self._layout = layout
        self._failure: BaseException | None = None
        self._closed = False
        self._write_limiter = trio.CapacityLimiter(1)
        self._read_limiter = trio.CapacityLimiter(READERS_MAX)
        self._log_pages = 0
        self._checkpointed_pages = 0
        self._checkpoint: Future[None] | None = None
        with contextlib.ExitStack() as undo, storage_errors(path, layout):
            undo.callback(os.close, lock_file(path, fcntl.LOCK_EX, create=True))
            self._writer = undo.enter_context(contextlib.closing(_connect(path, layout, WRITER_CACHE_BYTES)))
            _prepare(self._writer, path, layout, genesis_hash)
            self._checkpointer = undo.enter_context(contextlib.closing(_connect(path, layout, READER_CACHE_BYTES)))
            self._readers = [
                undo.enter_context(contextlib.closing(_connect(path, layout, READER_CACHE_BYTES)))
                for _ in range(READERS_MAX)
            ]
            for reader in self._readers:
                set_pragma(reader, "query_only", 1)
            self._writer.set_wal_hook(self._on_commit)
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            self._opened = undo.pop_all()

    async def write(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run ``job`` as one transaction and return when it is durable, as the layout's ``synchronous`` means it.

        Any exception, the job's own included, undoes the transaction and stops all later writes. Raises
        :class:`StorageError`.
        """
        return await trio.to_thread.run_sync(self._write, job, limiter=self._write_limiter)

    async def read(self, job: Callable[[apsw.Connection], T]) -> T:
        """Run ``job`` on one snapshot, beside any write. Raises :class:`StorageError`."""
        return await trio.to_thread.run_sync(self._read, job, limiter=self._read_limiter)

    async def close(self) -> None:
        """Wait for running jobs, then close. After a failed write the log is left as it is, for the next opening."""
        self._closed = True
        async with contextlib.AsyncExitStack() as held:
            for limiter in (self._write_limiter, *(self._read_limiter for _ in range(READERS_MAX))):
                borrower = object()
                await limiter.acquire_on_behalf_of(borrower)
                held.callback(limiter.release_on_behalf_of, borrower)
            await trio.to_thread.run_sync(self._close, limiter=trio.CapacityLimiter(1))

    def _write(self, job: Callable[[apsw.Connection], T]) -> T:
        self._check_open()
        if self._failure is not None:
            raise StorageError(
                f"{self.path}: nothing more is written after the first failure: {self._failure}"
            ) from self._failure
        try:
            with storage_errors(self.path, self._layout):
                self._writer.execute("BEGIN IMMEDIATE")
                result = job(self._writer)
                self._writer.execute("COMMIT")
        except BaseException as error:  # an interrupt too: what of the job reached the file is not known
            self._fail(error)
            raise
        self._checkpoint_when_due()
        return result

    def _read(self, job: Callable[[apsw.Connection], T]) -> T:
        self._check_open()
        reader = self._readers.pop()
        try:
            with storage_errors(self.path, self._layout):
                reader.execute("BEGIN")
                try:
                    return job(reader)
                finally:
                    reader.execute("ROLLBACK")
        finally:
            self._readers.append(reader)

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self.path}: closed")

    def _fail(self, error: BaseException) -> None:
        """Stop all later writes."""
        self._failure = self._failure or error
        if self._writer.in_transaction:
            with contextlib.suppress(apsw.Error):
                self._writer.execute("ROLLBACK")

    def _on_commit(self, _connection: apsw.Connection, _name: str, log_pages: int) -> int:
        self._log_pages = log_pages
        return apsw.SQLITE_OK

    def _checkpoint_when_due(self) -> None:
        """On the writer's thread, after a commit."""
        if self._log_pages < self._checkpointed_pages:  # the log began anew
            self._checkpointed_pages = 0
        running = self._checkpoint is not None and not self._checkpoint.done()
        log_bytes = self._log_pages * PAGE_BYTES
        left_bytes = log_bytes - self._checkpointed_pages * PAGE_BYTES
        if log_bytes >= LOG_BYTES_MAX or (
            log_bytes >= LOG_BYTES_HIGH and not running and left_bytes < CHECKPOINT_BYTES // 4
        ):
            if self._checkpoint is not None:
                self._checkpoint.result()
            self._copy_log(self._writer)  # nobody writes meanwhile, so this reaches the log's end
        elif not running and (left_bytes >= CHECKPOINT_BYTES or log_bytes >= LOG_BYTES_HIGH):
            self._checkpoint = self._executor.submit(self._copy_log, self._checkpointer)

    def _copy_log(self, connection: apsw.Connection) -> None:
        """Copy the log into the database file. A log that was copied to its end begins anew at the next commit."""
        try:
            for _ in range(CHECKPOINT_ROUNDS_MAX):
                log_pages, copied_pages = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                self._checkpointed_pages = copied_pages
                if log_pages == copied_pages or self._failure is not None:
                    return
        except apsw.Error as error:
            # The commits stay durable in the log, but a disk that refuses this will refuse them next.
            self._failure = self._failure or error

    def _close(self) -> None:
        self._executor.shutdown(wait=True)
        if self._failure is not None:  # copying the log now could copy pages that never reached the disk
            for connection in (self._writer, self._checkpointer, *self._readers):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        with storage_errors(self.path, self._layout):
            self._opened.close()


@contextlib.asynccontextmanager
async def open_database(path: Path, layout: Layout, genesis_hash: bytes) -> AsyncIterator[Database]:
    """Open ``path`` or make it, for the chain of ``genesis_hash`` (32 bytes).

    Raises :class:`StorageError` when another process has it open, when it belongs to another chain, or when it is not
    such a file.
    """
    database = await trio.to_thread.run_sync(Database, path, layout, genesis_hash, limiter=trio.CapacityLimiter(1))
    try:
        yield database
    finally:
        with trio.CancelScope(shield=True):
            await database.close()


@contextlib.contextmanager
def storage_errors(path: Path, layout: Layout) -> Iterator[None]:
    """Turn SQLite's and the system's errors into a :class:`StorageError` that names the file and the way out."""
    try:
        yield
    except apsw.FullError as error:
        raise StorageError(
            f"{path}: the disk is full ({error}). Free space on its file system, then start again; nothing "
            "that was acknowledged is lost."
        ) from error
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError, DamagedError) as error:
        raise StorageError(f"{path}: damaged: {error}. {layout.repair}") from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StorageError(f"{path}: in use by another program ({error}). End that program and try again.") from error
    except (apsw.Error, OSError) as error:
        raise StorageError(
            f"{path}: {error}. Check that the directory exists and may be written, and the disk's health in the "
            "system's log; then start again."
        ) from error


def lock_file(path: Path, mode: int, *, create: bool) -> int:
    """Hold ``<path>.lock`` (``fcntl.LOCK_EX`` or ``LOCK_SH``) until the returned descriptor is closed: beside the file
    itself, whatever symbolic links lead to it. Raises :class:`StorageError` when another process holds it,
    ``FileNotFoundError`` when it is absent and not created."""
    name = f"{os.path.realpath(path)}.lock"
    with contextlib.ExitStack() as undo:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY, 0o600)
        undo.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUseError(f"{path}: a running node has it open. Stop that node first.") from error
        undo.pop_all()
    return descriptor


def set_pragma(connection: apsw.Connection, name: str, value: int) -> None:
    """Set one integer pragma and read it back. Raises :class:`StorageError` when SQLite did not take it."""
    connection.pragma(name, value)
    if (now := connection.pragma(name)) != value:
        raise StorageError(
            f"{connection.filename}: SQLite {apsw.sqlite_lib_version()} kept {name} at {now}, not {value}"
        )


def _connect(path: Path, layout: Layout, cache_bytes: int) -> apsw.Connection:
    with contextlib.ExitStack() as undo:
        connection = undo.enter_context(contextlib.closing(apsw.Connection(str(path))))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.pragma("page_size", PAGE_BYTES)  # has no effect, and needs none, on a file that has pages
        # Also makes the connection find the log: one that has not yet would checkpoint nothing, and report (-1, -1).
        if (mode := connection.pragma("journal_mode", "wal")) != "wal":
            raise StorageError(
                f"{path}: no write-ahead log on this file system (journal mode {mode}). Use a local disk."
            )
        set_pragma(connection, "synchronous", _SYNCHRONOUS[layout.synchronous])
        set_pragma(connection, "fullfsync", 1)
        set_pragma(connection, "checkpoint_fullfsync", 1)
        set_pragma(connection, "wal_autocheckpoint", 0)  # also clears the commit hook, so it comes first
        set_pragma(connection, "journal_size_limit", LOG_BYTES_HIGH)
        set_pragma(connection, "cache_size", -(cache_bytes // 1024))
        set_pragma(connection, "cell_size_check", 1)
        set_pragma(connection, "trusted_schema", 0)
        undo.pop_all()
    return connection


def _prepare(connection: apsw.Connection, path: Path, layout: Layout, genesis_hash: bytes) -> None:
    """Make the tables or check that they are ours, and bring the whole log into the database file."""
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT count(*) FROM sqlite_schema").get == 0:
        for statement in (_META, *layout.statements):
            connection.execute(statement)
        facts = (("layout", layout.name), ("version", layout.version), ("genesis", genesis_hash))
        connection.executemany("INSERT INTO meta VALUES (?, ?)", facts)
    connection.execute("COMMIT")
    check_meta(connection, path, layout, genesis_hash)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    sync_directory(path.parent)


def check_meta(connection: apsw.Connection, path: Path, layout: Layout, genesis_hash: bytes | None) -> bytes:
    """The genesis hash the file was made for. Raises :class:`StorageError` when that is not ``genesis_hash`` (None:
    any), or when the file holds something else."""
    if connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'meta'").get == 0:
        raise StorageError(f"{path}: not a {layout.name}. Name another file or data directory.")
    meta = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('layout', 'version', 'genesis')"))
    if meta.get("layout") != layout.name:
        raise StorageError(
            f"{path}: holds a {meta.get('layout')}, not a {layout.name}. Check which file or data directory is named."
        )
    if meta.get("version") != layout.version:
        raise StorageError(
            f"{path}: written in version {meta.get('version')} of the {layout.name}'s layout; this program reads "
            f"version {layout.version}. Use the program that wrote it."
        )
    stored = meta.get("genesis")
    if not isinstance(stored, bytes):
        raise StorageError(f"{path}: damaged: no genesis hash. {layout.repair}")
    if genesis_hash is not None and genesis_hash != stored:
        raise StorageError(
            f"{path}: belongs to the chain with genesis hash {stored.hex()}, not {genesis_hash.hex()}. Check which "
            "chain spec goes with which file or data directory."
        )
    return stored
