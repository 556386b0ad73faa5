"""``raw``: an ordered log of opaque transactions with a hash chain. The smallest useful adapter; the docs' example.

Every delivered transaction is included, whatever its bytes; its *position* is its number in the log, from 0. The state
commitment is the last link of a chain over all of them, so two nodes with equal commitments hold equal logs::

    link(-1) = 32 zero bytes
    link(n)  = sha256(link(n-1) || height u64 || timestamp_ms u64 || index in block u32 || sha256(transaction))

(integers big-endian).

Settings: ``max_transaction_bytes`` (default 131072), the largest transaction that ``check`` admits. It is a matter of
admission only: what consensus ordered is part of the log, so that nodes with different settings still agree.

Queries take one JSON object and answer with one:

===============  ===========================  ======================================================================
``raw_head``     none                         ``height``, ``count``, ``commitment``, ``soft``, ``firm``
``raw_get``      ``position``                 one entry: ``position, height, timestamp_ms, index, transaction`` (hex)
``raw_range``    ``from``, ``limit`` (100)    ``entries``, and ``next``: the position to go on from, or null at the end
===============  ===========================  ======================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Final

import apsw

from rollup_adapters.base import (
    API_VERSION,
    Accepted,
    AdapterContext,
    Admission,
    Executed,
    Height,
    JsonValue,
    Level,
    Outcome,
    QueryError,
    Rejected,
    SequencedBlock,
)

MAX_TRANSACTION_BYTES_DEFAULT: Final = 128 * 1024
RANGE_ENTRIES_MAX: Final = 1_000
RANGE_SIZE_BYTES_MAX: Final = 1024 * 1024
"""A page of ``raw_range`` stops before the entry that would take its transactions past this size, but holds one."""

METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602

PRAGMAS: Final = (("journal_mode", "wal"), ("synchronous", 2), ("fullfsync", 1))
"""``synchronous=FULL`` (2) makes a commit durable; ``fullfsync`` makes that true on macOS as well."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS blocks (
    height         INTEGER PRIMARY KEY,
    block_id       BLOB    NOT NULL,
    timestamp_ms   INTEGER NOT NULL,
    first_position INTEGER NOT NULL UNIQUE,
    ends           BLOB    NOT NULL,  -- where each transaction ends in payload, u32 little-endian
    payload        BLOB    NOT NULL   -- the transactions of the block, one after another
);
CREATE TABLE IF NOT EXISTS head (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 0),
    height     INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    commitment BLOB    NOT NULL,
    soft       INTEGER NOT NULL,
    firm       INTEGER NOT NULL
);
INSERT OR IGNORE INTO head VALUES (0, 0, 0, zeroblob(32), 0, 0);
"""

ACCEPTED: Final = Accepted()
INCLUDED: Final = Outcome(status="included")


class RawAdapter:
    """See the module's docstring. Blocking SQLite calls are right here: the process serves this one adapter only."""

    api_version = API_VERSION

    def __init__(self, context: AdapterContext) -> None:
        self._transaction_size_bytes_max = _read_settings(context.settings)
        self._database = apsw.Connection(str(context.directory / "raw.sqlite3"))
        for name, wanted in PRAGMAS:
            found = self._database.pragma(name, wanted)
            if found is None:
                found = self._database.pragma(name)
            if found != wanted:
                raise OSError(f"SQLite refused {name}={wanted} (it answered {found!r}); is the disk a local one?")
        self._database.execute(SCHEMA)

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        limit = self._transaction_size_bytes_max
        too_large = Rejected(reason=f"larger than this rollup's limit of {limit} bytes")
        return [ACCEPTED if len(transaction) <= limit else too_large for transaction in transactions]

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        with self._database:  # one transaction: the log and the cursor become durable together, or not at all
            cursor, count, link = self._head()
            rows = []
            for block in blocks:
                if block.height <= cursor:
                    self._recognise(block)
                    continue
                if block.transactions:
                    rows.append((block.height, block.block_id, block.timestamp_ms, count, *_pack(block.transactions)))
                    count += len(block.transactions)
                    link = _extend(link, block)
                cursor = block.height
            self._database.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._database.execute("UPDATE head SET height = ?, count = ?, commitment = ?", (cursor, count, link))
        outcomes = tuple((INCLUDED,) * len(block.transactions) for block in blocks)
        return Executed(height=cursor, state_commitment=link, outcomes=outcomes)

    async def last_delivered(self) -> Height:
        height, _, _ = self._head()
        return height

    async def settle(self, level: Level, height: Height) -> None:
        # What is firm is soft as well, and nothing settles before it was delivered.
        self._database.execute("UPDATE head SET soft = max(soft, min(?, height))", (height,))
        if level == "firm":
            self._database.execute("UPDATE head SET firm = max(firm, min(?, height))", (height,))

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        match method:
            case "raw_head":
                return self._answer_head()
            case "raw_get":
                return self._answer_get(_integer(params, "position"))
            case "raw_range":
                limit = _integer(params, "limit", default=100)
                return self._answer_range(_integer(params, "from"), min(limit, RANGE_ENTRIES_MAX))
            case _:
                known = "raw_head, raw_get, raw_range"
                raise QueryError(METHOD_NOT_FOUND, f"no method {method[:80]!r}; this rollup answers {known}")

    async def close(self) -> None:
        self._database.close()

    def _head(self) -> tuple[Height, int, bytes]:
        row = self._database.execute("SELECT height, count, commitment FROM head").fetchone()
        assert row is not None, "the schema inserts the one row"
        height, count, commitment = row
        return height, count, commitment

    def _recognise(self, block: SequencedBlock) -> None:
        """A second delivery must be of the same block; another one means that the directory is of another chain."""
        row = self._database.execute("SELECT block_id FROM blocks WHERE height = ?", (block.height,)).fetchone()
        if row is not None and row[0] != block.block_id:
            raise ValueError(
                f"height {block.height} was delivered before as block {row[0].hex()}, now as {block.block_id.hex()}: "
                "this directory holds the log of another chain; give the rollup an empty one"
            )

    def _answer_head(self) -> JsonValue:
        row = self._database.execute("SELECT height, count, commitment, soft, firm FROM head").fetchone()
        assert row is not None, "the schema inserts the one row"
        height, count, commitment, soft, firm = row
        return {"height": height, "count": count, "commitment": commitment.hex(), "soft": soft, "firm": firm}

    def _answer_get(self, position: int) -> JsonValue:
        for entry, _ in self._entries(position):
            return entry
        _, count, _ = self._head()
        raise QueryError(INVALID_PARAMS, f"position {position} does not exist yet; the log has {count} entries")

    def _answer_range(self, first: int, limit: int) -> JsonValue:
        entries: list[JsonValue] = []
        size_bytes = 0
        following: int | None = None
        for entry, entry_size_bytes in self._entries(first):
            size_bytes += entry_size_bytes
            if len(entries) == limit or (entries and size_bytes > RANGE_SIZE_BYTES_MAX):
                following = first + len(entries)
                break
            entries.append(entry)
        return {"entries": entries, "next": following}

    def _entries(self, first: int) -> Iterator[tuple[JsonValue, int]]:
        """Entries from position ``first`` on, each with the size of its transaction. Reads no more than is used."""
        blocks = self._database.execute(
            "SELECT height, timestamp_ms, first_position, ends FROM blocks WHERE first_position >= "
            "(SELECT max(first_position) FROM blocks WHERE first_position <= ?) ORDER BY first_position",
            (first,),
        )
        for height, timestamp_ms, first_position, packed_ends in blocks:
            ends = struct.unpack(f"<{len(packed_ends) // 4}I", packed_ends)
            for index in range(max(0, first - first_position), len(ends)):
                start = ends[index - 1] if index else 0
                transaction = self._slice(height, start, ends[index] - start)
                entry: JsonValue = {
                    "position": first_position + index,
                    "height": height,
                    "timestamp_ms": timestamp_ms,
                    "index": index,
                    "transaction": transaction.hex(),
                }
                yield entry, len(transaction)

    def _slice(self, height: Height, start: int, size_bytes: int) -> bytes:
        payload = self._database.blob_open("main", "blocks", "payload", height, False)
        try:
            payload.seek(start)
            return payload.read(size_bytes)
        finally:
            payload.close()


def _pack(transactions: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The columns ``ends`` and ``payload``: a row per block, not one per transaction, is what makes this fast."""
    ends = accumulate(map(len, transactions))
    return struct.pack(f"<{len(transactions)}I", *ends), b"".join(transactions)


def _extend(link: bytes, block: SequencedBlock) -> bytes:
    position = struct.Struct(">QQI")
    for index, transaction in enumerate(block.transactions):
        entry = position.pack(block.height, block.timestamp_ms, index) + sha256(transaction).digest()
        link = sha256(link + entry).digest()
    return link


def _read_settings(settings: Mapping[str, JsonValue]) -> int:
    for key in settings:
        if key != "max_transaction_bytes":
            raise ValueError(f"settings.{key}: unknown; the raw adapter knows only max_transaction_bytes")
    limit = settings.get("max_transaction_bytes", MAX_TRANSACTION_BYTES_DEFAULT)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ValueError(f"settings.max_transaction_bytes: must be a whole number of at least 1, not {limit!r}")
    return limit


def _integer(params: JsonValue, key: str, default: int | None = None) -> int:
    """``params[key]``, a whole number of at least 0 within SQLite's 63 bits. Raises :class:`QueryError` otherwise."""
    value = params.get(key, default) if isinstance(params, dict) else default
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    raise QueryError(INVALID_PARAMS, f"params must be an object whose {key!r} is a whole number, at least 0")
