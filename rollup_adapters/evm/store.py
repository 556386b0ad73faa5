"""Durable state of one EVM rollup in one SQLite file: trie nodes, blocks, transactions, logs, outcomes and the cursor.

One writer connection, one transaction per delivery: state and cursor become durable together (write-ahead log,
``synchronous=FULL``). Readers take a connection from a bounded pool and see one consistent snapshot for as long as they
hold it, whatever the writer does meanwhile. Trie nodes are keyed by their hash and never deleted, so that every past
state stays readable; the price is growth.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from rollup_adapters.evm.chain import Header, Log, Receipt, decode_header
from rollup_adapters.evm.transactions import Transaction

FILE_NAME: Final = "evm.sqlite"
READERS_MAX: Final = 4
SKIPPED_MAX: Final = 100_000
"""Skipped transactions whose outcome is found by hash; the oldest go first. Redelivery reads the outcomes by height,
which are all kept."""
_SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (hash BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE deliveries (height INTEGER PRIMARY KEY, number INTEGER NOT NULL, outcomes BLOB NOT NULL);
CREATE INDEX deliveries_by_number ON deliveries (number);
CREATE TABLE skipped (
    sequence INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, height INTEGER NOT NULL, detail TEXT NOT NULL);
CREATE TABLE blocks (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, header BLOB NOT NULL, size_bytes INTEGER NOT NULL);
CREATE TABLE transactions (
    number INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, sender BLOB NOT NULL,
    raw BLOB NOT NULL, error TEXT NOT NULL, gas_used INTEGER NOT NULL, cumulative_gas_used INTEGER NOT NULL,
    contract BLOB NOT NULL, first_log INTEGER NOT NULL, log_count INTEGER NOT NULL,
    PRIMARY KEY (number, position)) WITHOUT ROWID;
CREATE TABLE logs (
    number INTEGER NOT NULL, log_index INTEGER NOT NULL, position INTEGER NOT NULL, address BLOB NOT NULL,
    topic0 BLOB, topic1 BLOB, topic2 BLOB, topic3 BLOB, data BLOB NOT NULL,
    PRIMARY KEY (number, log_index)) WITHOUT ROWID;
CREATE INDEX logs_by_address ON logs (address, number, log_index);
"""
# Write-ahead log first: the others depend on it. Each is set alone and read back, since a pragma never fails aloud.
_WRITER_PRAGMAS: Final = (
    ("journal_mode", "wal", "wal"),
    ("synchronous", "FULL", 2),
    ("fullfsync", "1", 1),
    ("wal_autocheckpoint", "4000", 4000),
)


class StoreError(Exception):
    """The database is not what this code wrote or needs. Names the file."""


class StoredTransaction:
    """A transaction as it was executed: where, the raw bytes, and the receipt without its logs."""

    __slots__ = ("first_log", "log_count", "number", "position", "raw", "receipt", "sender")

    def __init__(self, row: tuple[int, int, bytes, bytes, str, int, int, bytes, int, int]) -> None:
        self.number, self.position, self.sender, self.raw = row[0], row[1], row[2], row[3]
        self.receipt = Receipt(row[4], row[5], row[6], row[7], ())
        self.first_log, self.log_count = row[8], row[9]


class StoredLog:
    """A log with its place: block number and hash, index in the block, position and hash of its transaction."""

    __slots__ = ("block_hash", "index", "log", "number", "position", "transaction_hash")

    def __init__(self, row: tuple[int, int, int, bytes, bytes, bytes, bytes, *tuple[bytes | None, ...]]) -> None:
        self.number, self.index, self.position, self.block_hash, self.transaction_hash, address, data = row[:7]
        self.log = Log(address, tuple(topic for topic in row[7:] if topic is not None), data)


_TRANSACTION_COLUMNS: Final = (
    "number, position, sender, raw, error, gas_used, cumulative_gas_used, contract, first_log, log_count"
)
_LOGS: Final = (
    "SELECT logs.number, log_index, logs.position, blocks.hash, transactions.hash, address, data, "
    "topic0, topic1, topic2, topic3 FROM logs JOIN blocks ON blocks.number = logs.number "
    "JOIN transactions ON transactions.number = logs.number AND transactions.position = logs.position "
)


class Snapshot:
    """Reads over one connection. What it sees is fixed while the connection's transaction lasts."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def _row(self, sql: str, *bindings: object) -> tuple[object, ...] | None:
        return next(iter(self._connection.execute(sql, bindings)), None)

    def _blob(self, sql: str, *bindings: object) -> bytes | None:
        row = self._row(sql, *bindings)
        if row is None:
            return None
        assert isinstance(row[0], bytes)
        return row[0]

    def node(self, key: bytes) -> bytes | None:
        """A trie node or a contract's code by its hash."""
        return self._blob("SELECT value FROM nodes WHERE hash = ?", key)

    def number_in(self, key: str) -> int:
        """A stored number (cursor, soft, firm, safe, finalized); 0 before it was first written."""
        value = self._blob("SELECT value FROM meta WHERE key = ?", key)
        return int.from_bytes(value or b"", "big")

    def outcomes(self, height: int) -> bytes | None:
        """The encoded outcomes of a delivered height, or None where its section was empty."""
        return self._blob("SELECT outcomes FROM deliveries WHERE height = ?", height)

    def number_at(self, height: int) -> int:
        """The number of the newest block made at or below a sequencer height; 0 is genesis."""
        row = self._row("SELECT number FROM deliveries WHERE height <= ? ORDER BY height DESC LIMIT 1", height)
        return 0 if row is None else int(str(row[0]))

    def height_of(self, number: int) -> int:
        """The sequencer height whose section made a block; 0 for genesis."""
        row = self._row("SELECT height FROM deliveries WHERE number >= ? ORDER BY number LIMIT 1", number)
        return 0 if row is None or number == 0 else int(str(row[0]))

    def skipped(self, transaction_hash: bytes) -> tuple[int, str] | None:
        """(height, reason) of the last time that a transaction was skipped; None if never, or too long ago."""
        row = self._row("SELECT height, detail FROM skipped WHERE hash = ?", transaction_hash)
        return None if row is None else (int(str(row[0])), str(row[1]))

    def head_number(self) -> int | None:
        """The newest block's number; None in an empty database."""
        row = self._row("SELECT max(number) FROM blocks")
        return None if row is None or row[0] is None else int(str(row[0]))

    def header(self, number: int) -> Header | None:
        """A block's header by number."""
        encoded = self._blob("SELECT header FROM blocks WHERE number = ?", number)
        return None if encoded is None else decode_header(encoded)

    def block_hash(self, number: int) -> bytes | None:
        """A block's hash by number."""
        return self._blob("SELECT hash FROM blocks WHERE number = ?", number)

    def block_size_bytes(self, number: int) -> int:
        """The size of the block's RLP."""
        row = self._row("SELECT size_bytes FROM blocks WHERE number = ?", number)
        return 0 if row is None else int(str(row[0]))

    def number_of(self, block_hash: bytes) -> int | None:
        """A block's number by its hash."""
        row = self._row("SELECT number FROM blocks WHERE hash = ?", block_hash)
        return None if row is None else int(str(row[0]))

    def transaction(self, transaction_hash: bytes) -> StoredTransaction | None:
        """An executed transaction by hash."""
        sql = f"SELECT {_TRANSACTION_COLUMNS} FROM transactions WHERE hash = ?"
        row = next(iter(self._connection.execute(sql, (transaction_hash,))), None)
        return None if row is None else StoredTransaction(row)

    def transactions_in(self, number: int) -> list[StoredTransaction]:
        """A block's executed transactions, in order."""
        sql = f"SELECT {_TRANSACTION_COLUMNS} FROM transactions WHERE number = ? ORDER BY position"
        return [StoredTransaction(row) for row in self._connection.execute(sql, (number,))]

    def logs_of(self, transaction: StoredTransaction) -> list[StoredLog]:
        """The logs of one executed transaction, in order."""
        sql = _LOGS + "WHERE logs.number = ? AND log_index >= ? AND log_index < ? ORDER BY log_index"
        bindings = (transaction.number, transaction.first_log, transaction.first_log + transaction.log_count)
        return [StoredLog(row) for row in self._connection.execute(sql, bindings)]

    def logs(
        self, first: int, last: int, addresses: Sequence[bytes], topics: Sequence[Sequence[bytes]]
    ) -> Iterator[StoredLog]:
        """Logs of blocks ``first..last``, in order. An empty sequence matches anything, here and at each topic's
        place."""
        conditions = ["logs.number BETWEEN ? AND ?"]
        bindings: list[int | bytes] = [first, last]
        columns = [("address", addresses), *((f"topic{place}", choices) for place, choices in enumerate(topics))]
        for column, choices in columns:
            if choices:
                conditions.append(f"{column} IN ({','.join('?' * len(choices))})")
                bindings.extend(choices)
            elif column != "address":
                # A wildcard still demands that the log has a topic at that place (geth, filterLogs).
                conditions.append(f"{column} IS NOT NULL")
        sql = f"{_LOGS} WHERE {' AND '.join(conditions)} ORDER BY logs.number, log_index"
        for row in self._connection.execute(sql, bindings):
            yield StoredLog(row)


class Store(Snapshot):
    """The writer: everything a :class:`Snapshot` reads, and the writes, inside :meth:`writing`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self._writer = apsw.Connection(str(self.path))
        super().__init__(self._writer)
        self._lock = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._free = threading.BoundedSemaphore(READERS_MAX)
        self._closed = False
        try:
            self._prepare()
        except BaseException:
            self._writer.close()
            raise

    def _prepare(self) -> None:
        for name, value, expected in _WRITER_PRAGMAS:
            self._writer.pragma(name, value)
            found = self._writer.pragma(name)
            if found != expected:
                raise StoreError(
                    f"{self.path}: pragma {name} is {found!r} after setting {value}; is the file system odd?"
                )
        version = self._writer.pragma("user_version")
        if version == 0:
            with self._writer:
                self._writer.execute(_SCHEMA)
                self._writer.pragma("user_version", _SCHEMA_VERSION)
        elif version != _SCHEMA_VERSION:
            raise StoreError(f"{self.path}: schema version {version}, this program reads {_SCHEMA_VERSION}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Everything written inside becomes durable together on leaving, or not at all if an exception leaves."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    @contextmanager
    def reader(self, is_spent: Callable[[], bool]) -> Iterator[Snapshot]:
        """A snapshot of the last commit. ``is_spent`` is called now and then; returning True interrupts the
        statement."""
        with self._free:
            connection = self._take()
            try:
                connection.set_progress_handler(is_spent, 10_000)
                connection.execute("BEGIN")
                yield Snapshot(connection)
            finally:
                connection.set_progress_handler(None)
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._give_back(connection)

    def _take(self) -> apsw.Connection:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path}: closed")
            if self._idle:
                return self._idle.pop()
        return apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)

    def _give_back(self, connection: apsw.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close every idle connection now; one in use closes when its reader is done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in (*idle, self._writer):
            connection.close()

    def blob_in(self, key: str) -> bytes | None:
        """A stored value, or None."""
        return self._blob("SELECT value FROM meta WHERE key = ?", key)

    def put_blob(self, key: str, value: bytes) -> None:
        """Store a value under a name."""
        self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def put_number(self, key: str, value: int) -> None:
        """Store a number under a name."""
        self.put_blob(key, value.to_bytes(8, "big"))

    def put_nodes(self, nodes: Sequence[tuple[bytes, bytes]]) -> None:
        """Store trie nodes and code by hash; one that is there already is the same by definition."""
        self._writer.executemany("INSERT OR IGNORE INTO nodes VALUES (?, ?)", nodes)

    def put_delivery(self, height: int, number: int, outcomes: bytes) -> None:
        """Record the last block that a height made, and the outcomes of its section."""
        self._writer.execute("INSERT INTO deliveries VALUES (?, ?, ?)", (height, number, outcomes))

    def put_skipped(self, height: int, skipped: Sequence[tuple[bytes, str]]) -> None:
        """Record the (hash, reason) of a section's skipped transactions; keeps the newest ``SKIPPED_MAX`` in all."""
        rows = [(transaction_hash, height, reason) for transaction_hash, reason in skipped]
        self._writer.executemany("INSERT OR REPLACE INTO skipped (hash, height, detail) VALUES (?, ?, ?)", rows)
        self._writer.execute(
            "DELETE FROM skipped WHERE sequence <= (SELECT max(sequence) FROM skipped) - ?", (SKIPPED_MAX,)
        )

    def put_block(
        self, header: Header, executed: Sequence[tuple[Transaction, bytes, Receipt]], size_bytes: int
    ) -> None:
        """Store a block with its executed transactions (each with its raw bytes) and their logs."""
        encoded, block_hash, number = header.encode(), header.hash, header.number
        self._writer.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", (number, block_hash, encoded, size_bytes))
        rows: list[tuple[bytes | int | str, ...]] = []
        logs: list[tuple[bytes | int | None, ...]] = []
        for position, (transaction, raw, receipt) in enumerate(executed):
            rows.append(
                (
                    *(number, position, transaction.hash, transaction.sender, raw, receipt.error),
                    *(receipt.gas_used, receipt.cumulative_gas_used, receipt.contract, len(logs), len(receipt.logs)),
                )
            )
            for log in receipt.logs:
                topics = (*log.topics, None, None, None, None)[:4]
                logs.append((number, len(logs), position, log.address, *topics, log.data))
        self._writer.executemany("INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._writer.executemany("INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", logs)
