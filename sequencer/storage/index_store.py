"""What is derived from the chain: where each transaction was ordered (id -> height, rollup and place in its section),
and the registry of validators. Can be rebuilt from an archive that is complete.

**Durability.** ``synchronous=NORMAL``: a commit does not wait for the disk. After a power cut the file is consistent
but may lack its last blocks. Nothing is lost by that: the cursor (:attr:`IndexStore.height`) goes back with the
entries, since both are written by one transaction, and at the start consensus emits every commit above it again.

**Layout**, for the least work per transaction (about 0.2 us and 20 lasting bytes at 4,000 per block; a table with a
row per transaction costs ten times that, and random inserts rewrite most of its pages with every block):

- transactions are numbered in the order of the chain; ``positions`` maps the first number of a block to its height
  and the sizes of its sections;
- ``recent`` holds the full ids of the last blocks, one row per block: enough to rebuild the window of deduplication
  and the open segment;
- an entry is ``SEGMENT_KEY_BYTES`` of the id and the number within its segment. Entries collect in memory in 256
  buckets by the id's first byte; at ``SEGMENT_ENTRIES`` the buckets become rows of ``runs``, written once and never
  touched again. Looking up reads one bucket of each segment, so its cost grows with the entries kept: about 10 us per
  segment. (16 bytes of a SHA-256: to find two transactions that share them takes 2**64 work, and gains a wrong
  *place*, which whoever checks the receipt notices.)
- ``registry`` is one row: the registry of validators after the last block that changed it; ``outcomes`` has what became
  of each change of the validators, by the height that ordered it. Both are bytes here, and go with the cursor.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TypeAlias

import apsw
import msgspec
import trio

from consensus.types import HASH_SIZE, Height
from sequencer.storage.database import DamagedError, Database, Layout, open_database

SEGMENT_KEY_BYTES: Final = 16
ENTRY_BYTES: Final = SEGMENT_KEY_BYTES + 4
BUCKETS: Final = 256
SEGMENT_ENTRIES: Final = 1 << 18
"""5 MB in memory. A segment also ends with the block that crosses this."""
RECENT_BLOCKS_DROPPED_MAX: Final = 8
"""Rows of ``recent`` dropped with one append, which adds few."""
PRUNE_ROWS_MAX: Final = 1024
"""Rows dropped by one transaction of :meth:`IndexStore.prune`."""

INDEX_LAYOUT: Final = Layout(
    name="transaction index",
    version=2,
    synchronous="NORMAL",
    repair="Stop the node and delete this file; it is built again from the archive.",
    statements=(
        "CREATE TABLE positions (first INTEGER PRIMARY KEY, height INTEGER NOT NULL UNIQUE, sections BLOB NOT NULL)"
        " STRICT",
        "CREATE TABLE recent (height INTEGER PRIMARY KEY, first INTEGER NOT NULL, sections BLOB NOT NULL,"
        " ids BLOB NOT NULL) STRICT",
        "CREATE TABLE segments (segment INTEGER PRIMARY KEY, first INTEGER NOT NULL, past INTEGER NOT NULL) STRICT",
        f"CREATE TABLE runs (segment_bucket INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT -- * {BUCKETS} + bucket",
        "CREATE TABLE cursor (height INTEGER NOT NULL, past INTEGER NOT NULL, open INTEGER NOT NULL) STRICT",
        "INSERT INTO cursor VALUES (0, 0, 0)",
        "CREATE TABLE registry (state BLOB NOT NULL) STRICT",
        "INSERT INTO registry VALUES (x'')",
        "CREATE TABLE outcomes (height INTEGER PRIMARY KEY, outcomes BLOB NOT NULL) STRICT",
    ),
)

Sections: TypeAlias = Sequence[tuple[int, bytes | memoryview]]
"""Of one block, in the order of flattening: rollup id, and the 32-byte ids of its transactions one after another."""


@dataclass(frozen=True)
class Position:
    """Where a transaction was ordered: the block's height, its rollup, and its index in the rollup's section."""

    height: Height
    rollup_id: int
    index: int


@dataclass(frozen=True)
class BlockIds:
    """The transactions of one block that has any: as :data:`Sections`."""

    height: Height
    sections: tuple[tuple[int, memoryview], ...]


class _Cursor(NamedTuple):
    """``height``: the last block taken. ``past``: the next transaction's number. ``open``: the first number that is in
    no segment yet."""

    height: Height
    past: int
    open: int


_Counts = tuple[tuple[int, Annotated[int, msgspec.Meta(ge=0)]], ...]
_encode: Final = msgspec.msgpack.Encoder().encode
_counts: Final = msgspec.msgpack.Decoder(_Counts)


class _OpenSegment:
    """The entries that are in no segment yet, numbered from ``first``."""

    __slots__ = ("buckets", "first", "size")

    def __init__(self, first: int) -> None:
        self.first = first
        self.size = 0
        self.buckets = [bytearray() for _ in range(BUCKETS)]

    def add(self, ids: bytes) -> None:
        """Append one entry per id. Whole columns are moved at a time; only the last line runs once per id."""
        count = len(ids) // HASH_SIZE
        words = array("I", ids)
        entries = array("I", bytes(count * ENTRY_BYTES))
        for word in range(SEGMENT_KEY_BYTES // 4):
            entries[word :: ENTRY_BYTES // 4] = words[word :: HASH_SIZE // 4]
        entries[SEGMENT_KEY_BYTES // 4 :: ENTRY_BYTES // 4] = array("I", range(self.size, self.size + count))
        self.size += count
        buckets = self.buckets
        for bucket, (entry,) in zip(
            ids[::HASH_SIZE], struct.iter_unpack(f"{ENTRY_BYTES}s", entries.tobytes()), strict=True
        ):
            buckets[bucket] += entry


class IndexStore:
    """See the module. Every method raises :class:`StorageError`; after a failed write every later write does."""

    def __init__(self, database: Database, cursor: _Cursor, window_heights: int) -> None:
        """Use :meth:`open`."""
        self._database = database
        self._cursor = cursor
        self._window_heights = window_heights
        self._open_segment = _OpenSegment(cursor.open)
        self._appending = trio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path, genesis_hash: bytes, *, window_heights: int) -> AsyncIterator[IndexStore]:
        """Open the file at ``path``, in an existing directory, or make it. The full ids of the last ``window_heights``
        heights are kept for :meth:`recent_ids`."""
        async with open_database(path, INDEX_LAYOUT, genesis_hash) as database:
            store = cls(database, await database.read(_cursor_of), window_heights)
            await database.read(store._load_open_segment)
            yield store

    @property
    def height(self) -> Height:
        """The last block whose transactions are here; 0 before the first."""
        return self._cursor.height

    async def append(
        self,
        blocks: Sequence[tuple[Height, Sections]],
        *,
        registry: bytes = b"",
        outcomes: Sequence[tuple[Height, bytes]] = (),
    ) -> None:
        """Add blocks of ascending heights above :attr:`height`, all or none; a height may be skipped only where the
        archive was pruned. Blocks without transactions only move the cursor. ``registry`` is the one after the last of
        them, empty where none of them changed it; ``outcomes`` has the heights among them that ordered changes. Raises
        ``ValueError`` for other heights, and for ids that are not multiples of 32 bytes."""
        async with self._appending:
            _check_blocks(self.height, blocks)
            before = self._open_segment
            cursor = await self._database.write(partial(self._append, blocks, registry, outcomes))
            # Only now may lookups miss in memory what they find in the file.
            self._cursor = cursor
            if cursor.open != before.first:
                self._open_segment = _OpenSegment(cursor.open)

    async def lookup(self, transaction_id: bytes) -> tuple[Position, ...]:
        """Every place where a transaction was ordered, oldest first; empty when it is not here (or was pruned). The id
        is 32 bytes (``ValueError``)."""
        if len(transaction_id) != HASH_SIZE:
            raise ValueError(f"transaction_id: {len(transaction_id)} bytes, not {HASH_SIZE}")
        return await self._database.read(partial(self._lookup, transaction_id))

    async def registry(self) -> bytes:
        """The registry after the block at :attr:`height`; empty where nothing ever changed it."""
        return await self._database.read(_registry)

    async def outcomes(self, height: Height) -> bytes:
        """What became of the changes that the block at ``height`` ordered; empty where it has none (or is pruned)."""
        return await self._database.read(partial(_outcomes, height=height))

    async def recent_ids(self, from_height: Height) -> tuple[BlockIds, ...]:
        """The ids of the blocks from ``from_height`` on, oldest first, without blocks that have none. Raises
        ``ValueError`` for a height below the window."""
        if from_height <= self.height - self._window_heights:
            raise ValueError(
                f"from_height: {from_height} is below the window of {self._window_heights} heights up to {self.height}"
            )
        return await self._database.read(partial(_recent_ids, from_height=from_height))

    async def prune(self, below_height: Height) -> None:
        """Forget the blocks below a height, which is at most the window's lowest. Appends go on meanwhile."""
        if below_height > max(0, self.height - self._window_heights) + 1:
            raise ValueError(f"below_height: {below_height} lies in the window of {self._window_heights} heights")
        while await self._database.write(partial(_prune_some, below_height=below_height)):
            pass

    def _load_open_segment(self, connection: apsw.Connection) -> None:
        for (ids,) in connection.execute(
            "SELECT ids FROM recent WHERE first >= ? ORDER BY first", (self._cursor.open,)
        ):
            self._open_segment.add(ids)
        if self._cursor.open + self._open_segment.size != self._cursor.past:
            raise DamagedError("recent blocks are missing")

    def _append(
        self,
        blocks: Sequence[tuple[Height, Sections]],
        registry: bytes,
        outcomes: Sequence[tuple[Height, bytes]],
        connection: apsw.Connection,
    ) -> _Cursor:
        """On the writer's thread. A failure leaves entries in memory that have no position; lookups pass over them."""
        cursor = self._cursor
        for height, sections in blocks:
            ids = b"".join(ids for _, ids in sections)
            counts = tuple((rollup_id, len(ids) // HASH_SIZE) for rollup_id, ids in sections if ids)
            if ids:
                encoded = _encode(counts)
                connection.execute("INSERT INTO positions VALUES (?, ?, ?)", (cursor.past, height, encoded))
                connection.execute("INSERT INTO recent VALUES (?, ?, ?, ?)", (height, cursor.past, encoded, ids))
                self._open_segment.add(ids)
            cursor = _Cursor(height, cursor.past + len(ids) // HASH_SIZE, cursor.open)
        if self._open_segment.size >= SEGMENT_ENTRIES:
            _write_segment(connection, self._open_segment)
            cursor = cursor._replace(open=cursor.past)
        if registry:
            connection.execute("UPDATE registry SET state = ?", (registry,))
        for row in outcomes:
            connection.execute("INSERT INTO outcomes VALUES (?, ?)", row)
        connection.execute("UPDATE cursor SET height = ?, past = ?, open = ?", cursor)
        _drop_recent(connection, cursor, cursor.height - self._window_heights, len(blocks))
        return cursor

    def _lookup(self, transaction_id: bytes, connection: apsw.Connection) -> tuple[Position, ...]:
        key, bucket = transaction_id[:SEGMENT_KEY_BYTES], transaction_id[0]
        # Memory first: a segment that is written meanwhile is then found twice, and never missed.
        segment = self._open_segment
        numbers = {segment.first + offset for offset in _offsets(segment.buckets[bucket], key)}
        rows = connection.execute(
            f"SELECT first, entries FROM segments JOIN runs ON segment_bucket = segment * {BUCKETS} + ?", (bucket,)
        )
        for first, entries in rows:
            numbers.update(first + offset for offset in _offsets(entries, key))
        found = (_position(connection, number) for number in sorted(numbers))
        return tuple(position for position in found if position is not None)


def _check_blocks(after_height: Height, blocks: Sequence[tuple[Height, Sections]]) -> None:
    for height, sections in blocks:
        if height <= after_height:
            raise ValueError(f"block of height {height} after {after_height}")
        if any(len(ids) % HASH_SIZE for _, ids in sections):
            raise ValueError(f"block of height {height}: ids are not a multiple of {HASH_SIZE} bytes")
        after_height = height


def _cursor_of(connection: apsw.Connection) -> _Cursor:
    row = connection.execute("SELECT height, past, open FROM cursor").get
    if not isinstance(row, tuple):
        raise DamagedError("the cursor is missing")
    return _Cursor(*row)


def _registry(connection: apsw.Connection) -> bytes:
    state = connection.execute("SELECT state FROM registry").get
    if not isinstance(state, bytes):
        raise DamagedError("the registry is missing")
    return state


def _outcomes(connection: apsw.Connection, height: Height) -> bytes:
    outcomes = connection.execute("SELECT outcomes FROM outcomes WHERE height = ?", (height,)).get
    return outcomes if isinstance(outcomes, bytes) else b""


def _write_segment(connection: apsw.Connection, segment: _OpenSegment) -> None:
    connection.execute(
        "INSERT INTO segments (first, past) VALUES (?, ?)", (segment.first, segment.first + segment.size)
    )
    base = connection.last_insert_rowid() * BUCKETS
    connection.executemany(
        "INSERT INTO runs VALUES (?, ?)",
        ((base + bucket, entries) for bucket, entries in enumerate(segment.buckets) if entries),
    )


def _drop_recent(connection: apsw.Connection, cursor: _Cursor, up_to_height: Height, added: int) -> None:
    """Drop ids that left the window, unless the open segment would be rebuilt from them."""
    connection.execute(
        "DELETE FROM recent WHERE height IN"
        " (SELECT height FROM recent WHERE height <= ? AND first < ? ORDER BY height LIMIT ?)",
        (up_to_height, cursor.open, added + RECENT_BLOCKS_DROPPED_MAX),
    )


def _offsets(entries: bytes | bytearray, key: bytes) -> Iterator[int]:
    """The numbers of the entries with this key."""
    start = entries.find(key)
    while start >= 0:
        if start % ENTRY_BYTES == 0:
            yield int.from_bytes(entries[start + SEGMENT_KEY_BYTES : start + ENTRY_BYTES], sys.byteorder)
        start = entries.find(key, start + 1)


def _position(connection: apsw.Connection, number: int) -> Position | None:
    row = connection.execute(
        "SELECT first, height, sections FROM positions WHERE first <= ? ORDER BY first DESC LIMIT 1", (number,)
    ).get
    if row is None:
        return None
    first, height, sections = row
    index = number - first
    for rollup_id, count in _counts_of(height, sections):
        if index < count:
            return Position(height, rollup_id, index)
        index -= count
    return None


def _counts_of(height: Height, sections: object) -> _Counts:
    if not isinstance(sections, bytes):
        raise DamagedError(f"sections of height {height}: {sections!r}")
    try:
        return _counts.decode(sections)
    except msgspec.DecodeError as error:
        raise DamagedError(f"sections of height {height}: {error}") from error


def _recent_ids(connection: apsw.Connection, from_height: Height) -> tuple[BlockIds, ...]:
    blocks = []
    rows = connection.execute(
        "SELECT height, sections, ids FROM recent WHERE height >= ? ORDER BY height", (from_height,)
    )
    for height, encoded, ids in rows:
        counts = _counts_of(height, encoded)
        if sum(count for _, count in counts) * HASH_SIZE != len(ids):
            raise DamagedError(f"ids of height {height} do not fill its sections")
        view, start, sections = memoryview(ids), 0, []
        for rollup_id, count in counts:
            sections.append((rollup_id, view[start : start + count * HASH_SIZE]))
            start += count * HASH_SIZE
        blocks.append(BlockIds(height, tuple(sections)))
    return tuple(blocks)


def _prune_some(connection: apsw.Connection, below_height: Height) -> bool:
    """Drop up to ``PRUNE_ROWS_MAX`` blocks (each with outcomes has a position) and one segment. True when there may be
    more."""
    connection.execute(
        "DELETE FROM positions WHERE first IN (SELECT first FROM positions WHERE height < ? ORDER BY first LIMIT ?)",
        (below_height, PRUNE_ROWS_MAX),
    )
    blocks = connection.changes()
    connection.execute(
        "DELETE FROM outcomes WHERE height IN (SELECT height FROM outcomes WHERE height < ? LIMIT ?)",
        (below_height, PRUNE_ROWS_MAX),
    )
    kept = connection.execute("SELECT min(first) FROM positions").get
    segment = connection.execute(
        "SELECT segment FROM segments WHERE past <= ? ORDER BY segment LIMIT 1",
        (_cursor_of(connection).past if kept is None else kept,),
    ).get
    if segment is not None:
        connection.execute(
            "DELETE FROM runs WHERE segment_bucket BETWEEN ? AND ?",
            (segment * BUCKETS, segment * BUCKETS + BUCKETS - 1),
        )
        connection.execute("DELETE FROM segments WHERE segment = ?", (segment,))
    return blocks == PRUNE_ROWS_MAX or segment is not None
