"""The signing histories of many keys in one SQLite file: judged, recorded and synced in one transaction.

- **Several processes** may have the file open; each check-and-record is one ``BEGIN IMMEDIATE`` transaction, so the
  second of two that ask for contradictory signatures sees the first one's record. An advisory lock on ``<file>.lock``
  is shared by them; whoever must be alone (an import or export by hand) takes it exclusively.
- **Durable means synced**, as in :mod:`sequencer.storage.database`: WAL, ``synchronous=FULL``, pragmas one by one and
  read back; after a failed write nothing more is written by this store.
- **A new file appears whole or not at all**: made under another name, then linked. An empty file, or a log without
  its file, is therefore damage and no invitation to begin anew, unprotected.
- **Numbers** are 8 bytes, big-endian: SQLite's own integers are signed, the EIP's are not, and bytes sort alike.

What may be signed is decided in :mod:`consensus.slashing_rules`; here are only the look-ups that it needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from consensus import slashing_rules as rules
from consensus.slashing_rules import Permission, SignedAttestation, SignedBlock, SigningHistory, Verdict, Watermarks
from consensus.types import Slot
from sequencer.durable import sync_directory
from sequencer.storage.database import (
    BUSY_TIMEOUT_MS,
    DamagedError,
    Layout,
    StorageError,
    check_meta,
    lock_file,
    set_pragma,
    storage_errors,
)

NUMBER_BYTES: Final = 8
_NUMBER: Final = f"BLOB NOT NULL CHECK (length({{0}}) = {NUMBER_BYTES})"
_ROOT: Final = f"signing_root BLOB CHECK (length(signing_root) = {rules.SIGNING_ROOT_SIZE})"

SLASHING_LAYOUT: Final = Layout(
    name="slashing protection database",
    version=3,
    synchronous="FULL",
    repair=(
        "Do not sign with its keys until it is replaced by an import of all that they have signed; an older copy of "
        "it, or an export from before their last signature, does not protect them."
    ),
    statements=(
        "CREATE TABLE keys (id INTEGER PRIMARY KEY, pubkey BLOB NOT NULL UNIQUE,"
        " forgotten_slot BLOB, forgotten_source BLOB, forgotten_target BLOB,"
        " floor_slot BLOB, floor_source BLOB, floor_target BLOB) STRICT",
        f"CREATE TABLE blocks (key INTEGER NOT NULL, slot {_NUMBER.format('slot')}, {_ROOT},"
        " PRIMARY KEY (key, slot)) STRICT, WITHOUT ROWID",
        f"CREATE TABLE attestations (key INTEGER NOT NULL, target {_NUMBER.format('target')},"
        f" source {_NUMBER.format('source')}, {_ROOT}, PRIMARY KEY (key, target, source)) STRICT, WITHOUT ROWID",
        "CREATE INDEX attestations_by_source ON attestations (key, source, target)",
        # What a signing process signed of all kinds: sequencer.storage.signing_store.
        "CREATE TABLE subjects (pubkey BLOB NOT NULL, kind TEXT NOT NULL, epoch INTEGER NOT NULL,"
        " major INTEGER NOT NULL, minor INTEGER NOT NULL, subject BLOB NOT NULL, signing_root BLOB NOT NULL"
        f" CHECK (length(signing_root) = {rules.SIGNING_ROOT_SIZE}), PRIMARY KEY (pubkey, kind, epoch, major, minor))"
        " STRICT, WITHOUT ROWID",
        "CREATE TABLE floors (pubkey BLOB PRIMARY KEY, epoch INTEGER NOT NULL, major INTEGER NOT NULL,"
        " minor INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        # Whether the subjects of kinds that EIP-3076 does not know are all known; where they are not, by an import that
        # named a bound, the slot from which on they may be signed. One row.
        "CREATE TABLE besides (known INTEGER NOT NULL, epoch INTEGER NOT NULL, major INTEGER NOT NULL) STRICT",
    ),
)


class _Key(NamedTuple):
    """A row of ``keys``. No row of another table has the id None. ``forgotten``: of pruned messages. ``floor``: the
    bounds before imports that brought older messages."""

    id: int | None = None
    forgotten: Watermarks = Watermarks()
    floor: Watermarks = Watermarks()


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge met: messages by kind, and how many of them contradict others so that the signer could be
    slashed."""

    keys: int
    blocks: int
    attestations: int
    contradictions: int


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Messages that a pruning dropped."""

    blocks: int
    attestations: int


class SlashingStore:
    """See the module. Every method blocks until the disk is done, raises :class:`StorageError`, and may be called
    from any thread."""

    def __init__(
        self, path: Path, genesis_validators_root: bytes | None, *, exclusive: bool, besides_known: bool = False
    ) -> None:
        """Open the file, or make it; with None for the root (32 bytes) only open it, whatever its chain. A new file
        says ``besides_known``: that its keys signed nothing yet of the kinds that EIP-3076 does not know. Raises
        :class:`StorageError`, :class:`InUseError` among them when it may not be shared as asked."""
        self.path = path
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._closed = False
        with contextlib.ExitStack() as undo, storage_errors(path, SLASHING_LAYOUT):
            mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            if not os.path.lexists(path):
                if genesis_validators_root is None:
                    raise StorageError(f"{path}: there is no such file. Name the slashing protection database.")
                if not path.parent.is_dir():
                    raise StorageError(f"{path}: there is no directory {path.parent}. Make it first.")
                _create(path, genesis_validators_root, besides_known=besides_known)
            undo.callback(os.close, lock_file(path, mode, create=True))
            sync_directory(path.parent)  # whoever made the file may not have come so far yet
            self._connection = undo.enter_context(contextlib.closing(_connect(path, apsw.SQLITE_OPEN_READWRITE)))
            self.genesis_validators_root = check_meta(self._connection, path, SLASHING_LAYOUT, genesis_validators_root)
            # What a killed process left in the log may be in the system's cache only: bring it into the file, synced.
            with contextlib.suppress(apsw.BusyError):  # another process does just that
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._opened = undo.pop_all()

    def check_and_record_block(self, pubkey: bytes, block: SignedBlock) -> Verdict:
        """Judge a block and record it if it is permitted. The record is durable on return."""
        with self.transaction() as connection:
            return record_block(connection, pubkey, block)

    def check_and_record_attestation(self, pubkey: bytes, attestation: SignedAttestation) -> Verdict:
        """Judge an attestation and record it if it is permitted. The record is durable on return."""
        with self.transaction() as connection:
            return record_attestation(connection, pubkey, attestation)

    def merge(
        self, histories: Iterable[SigningHistory], *, raise_bounds: bool, besides_from: Slot | None = None
    ) -> Merged:
        """Add histories, one per key, to those stored, all or nothing. Nothing that was refused before is permitted
        after: older messages do not lower the bounds.

        With ``raise_bounds`` each key's bounds become at least those of its history alone, and what lies below them is
        forgotten. What their signer signed of other kinds is not in the histories: from now on nothing of those kinds
        is known (:func:`read_besides`), unless ``besides_from`` names the slot below which no key signs them any more.
        """
        keys = blocks = attestations = contradictions = 0
        with self.transaction() as connection:
            for history in histories:
                key = _register(connection, _find(connection, history.pubkey), history.pubkey)
                before = _lowest(connection, key)
                contradictions += sum(_merge_block(connection, key, each) for each in history.blocks)
                contradictions += sum(_merge_attestation(connection, key, each) for each in history.attestations)
                if raise_bounds:
                    # Condition 4 then holds too: a lower source with a higher target surrounds the vote of the lowest
                    # target that is left.
                    bounds = before.raised(rules.lowest(history))
                    _forget(connection, key, bounds.slot or 0, bounds.target_epoch or 0)
                else:
                    _forget(connection, key._replace(floor=key.floor.raised(before)), 0, 0)
                keys += 1
                blocks += len(history.blocks)
                attestations += len(history.attestations)
            _put_besides(connection, besides_from)
        return Merged(keys=keys, blocks=blocks, attestations=attestations, contradictions=contradictions)

    def histories(self) -> tuple[SigningHistory, ...]:
        """Everything, of one moment, in the order of the keys."""
        with self.transaction() as connection:
            return tuple(_history(connection, pubkey) for pubkey in _pubkeys(connection))

    def kinds(self) -> tuple[str, ...]:
        """The kinds of subjects that a signing process signed over this file (``signing_store.py``), ascending."""
        with self.transaction() as connection:
            return tuple(
                str(kind) for (kind,) in connection.execute("SELECT DISTINCT kind FROM subjects ORDER BY kind")
            )

    def prune(self, *, before_slot: int, before_epoch: int) -> Pruned:
        """Forget blocks of slots, and attestations of targets, below these; the watermarks rise in their stead."""
        blocks = attestations = 0
        with self.transaction() as connection:
            for pubkey in _pubkeys(connection):
                dropped = _forget(connection, _find(connection, pubkey), before_slot, before_epoch)
                blocks += dropped.blocks
                attestations += dropped.attestations
        return Pruned(blocks=blocks, attestations=attestations)

    def close(self) -> None:
        """Close the file. A second time is harmless; every other call then raises :class:`StorageError`."""
        with self._lock, storage_errors(self.path, SLASHING_LAYOUT):
            if self._failure is not None and not self._closed:
                # Copying the log now could copy pages that never reached the disk.
                self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._closed = True
            self._opened.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """One at a time, durable at the end. An exception undoes it; one of the disk, or a bug, also stops all later
        ones."""
        with self._lock:
            if self._closed:
                raise StorageError(f"{self.path}: closed")
            if self._failure is not None:
                raise StorageError(f"{self.path}: nothing more is signed here: {self._failure}") from self._failure
            with storage_errors(self.path, SLASHING_LAYOUT):
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException as error:  # an interrupt too: what reached the file is not known
                    self._failure = error
                    with contextlib.suppress(apsw.Error):
                        self._connection.execute("ROLLBACK")
                    raise


def record_block(connection: apsw.Connection, pubkey: bytes, block: SignedBlock) -> Verdict:
    """Judge a block and record it if it is permitted, inside a transaction of the store."""
    key = _find(connection, pubkey)
    verdict = rules.judge_block(block, _block_facts(connection, key, block))
    if isinstance(verdict, Permission) and not verdict.repeat:
        _put_block(connection, _register(connection, key, pubkey), block)
    return verdict


def record_attestation(connection: apsw.Connection, pubkey: bytes, attestation: SignedAttestation) -> Verdict:
    """Judge an attestation and record it if it is permitted, inside a transaction of the store."""
    key = _find(connection, pubkey)
    verdict = rules.judge_attestation(attestation, _attestation_facts(connection, key, attestation))
    if isinstance(verdict, Permission) and not verdict.repeat:
        _put_attestation(connection, _register(connection, key, pubkey), attestation)
    return verdict


def forget(connection: apsw.Connection, pubkey: bytes, *, before_slot: int, before_epoch: int) -> None:
    """Prune the history of one key, inside a transaction of the store."""
    key = _find(connection, pubkey)
    if key.id is not None:
        _forget(connection, key, before_slot, before_epoch)


def read_besides(connection: apsw.Connection) -> Slot | None:
    """The slot from which on subjects of the kinds that EIP-3076 does not know may be signed, for every key alike; None
    where nothing says what was signed of them."""
    match connection.execute("SELECT known, epoch, major FROM besides").fetchall():
        case [(int(known), int(epoch), int(major))]:
            return Slot(epoch, major, 0) if known else None
        case rows:
            raise DamagedError(f"what is known besides EIP-3076's kinds is {rows!r}")


def _put_besides(connection: apsw.Connection, named: Slot | None) -> None:
    """After an import. The bound never falls."""
    if named is None:
        connection.execute("UPDATE besides SET known = 0")
    else:
        connection.execute("UPDATE besides SET known = 1")
        connection.execute(
            "UPDATE besides SET (epoch, major) = (?, ?) WHERE (epoch, major) < (?, ?)", (named.epoch, named.major) * 2
        )


def _create(path: Path, genesis_validators_root: bytes, *, besides_known: bool) -> None:
    """Make a database that is whole before it has its name. Loses to another process that does the same without
    harm."""
    log = path.with_name(path.name + "-wal")
    if os.path.lexists(log):
        raise StorageError(f"{path}: missing, but its log {log.name} is there. {SLASHING_LAYOUT.repair}")
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    os.close(descriptor)
    try:
        with contextlib.closing(_connect(Path(name), apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID")
            for statement in SLASHING_LAYOUT.statements:
                connection.execute(statement)
            facts = (
                ("layout", SLASHING_LAYOUT.name),
                ("version", SLASHING_LAYOUT.version),
                ("genesis", genesis_validators_root),
            )
            connection.executemany("INSERT INTO meta VALUES (?, ?)", facts)
            connection.execute("INSERT INTO besides VALUES (?, 0, 0)", (int(besides_known),))
            connection.execute("COMMIT")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


def _connect(path: Path, flags: int) -> apsw.Connection:
    with contextlib.ExitStack() as undo:
        connection = undo.enter_context(contextlib.closing(apsw.Connection(str(path), flags=flags)))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        if (mode := connection.pragma("journal_mode", "wal")) != "wal":
            raise StorageError(
                f"{path}: no write-ahead log on this file system (journal mode {mode}). Use a local disk."
            )
        set_pragma(connection, "synchronous", 2)  # FULL
        set_pragma(connection, "fullfsync", 1)
        set_pragma(connection, "checkpoint_fullfsync", 1)
        set_pragma(connection, "cell_size_check", 1)
        set_pragma(connection, "trusted_schema", 0)
        undo.pop_all()
    return connection


def _pubkeys(connection: apsw.Connection) -> list[bytes]:
    found = []
    for (pubkey,) in connection.execute("SELECT pubkey FROM keys ORDER BY pubkey"):
        if not isinstance(pubkey, bytes):
            raise DamagedError(f"a key is {pubkey!r}")
        found.append(pubkey)
    return found


def _find(connection: apsw.Connection, pubkey: bytes) -> _Key:
    row = connection.execute(
        "SELECT id, forgotten_slot, forgotten_source, forgotten_target, floor_slot, floor_source, floor_target"
        " FROM keys WHERE pubkey = ?",
        (pubkey,),
    ).fetchone()
    return _Key() if row is None else _Key(row[0], _watermarks(row[1:4]), _watermarks(row[4:7]))


def _register(connection: apsw.Connection, key: _Key, pubkey: bytes) -> _Key:
    """Give a key a row, if it has none."""
    if key.id is None:
        connection.execute("INSERT INTO keys (pubkey) VALUES (?)", (pubkey,))
        key = key._replace(id=connection.last_insert_rowid())
    return key


def _lowest(connection: apsw.Connection, key: _Key) -> Watermarks:
    """Of the stored messages of a key."""
    slot = connection.execute("SELECT min(slot) FROM blocks WHERE key = ?", (key.id,)).get
    source = connection.execute("SELECT min(source) FROM attestations WHERE key = ?", (key.id,)).get
    target = connection.execute("SELECT min(target) FROM attestations WHERE key = ?", (key.id,)).get
    return _watermarks((slot, source, target))


def _block_facts(connection: apsw.Connection, key: _Key, block: SignedBlock) -> rules.BlockFacts:
    row = connection.execute(
        "SELECT slot, signing_root FROM blocks WHERE key = ? AND slot = ?", (key.id, _stored(block.slot))
    ).fetchone()
    lowest = connection.execute("SELECT min(slot) FROM blocks WHERE key = ?", (key.id,)).get
    return rules.BlockFacts(
        same_slot=None if row is None else SignedBlock(_number(row[0]), row[1]),
        lowest_slot=_optional(lowest),
        watermarks=key.forgotten.raised(key.floor),
    )


def _attestation_facts(connection: apsw.Connection, key: _Key, new: SignedAttestation) -> rules.AttestationFacts:
    """The conditions on the other epoch and the indexes keep the look-ups short: a signer's newest vote has the highest
    epochs."""
    source, target = _stored(new.source_epoch), _stored(new.target_epoch)
    same = connection.execute(
        "SELECT source, target, signing_root FROM attestations WHERE key = ? AND target = ? ORDER BY source",
        (key.id, target),
    ).fetchall()
    inside = connection.execute(
        "SELECT source, target, signing_root FROM attestations INDEXED BY attestations_by_source"
        " WHERE key = ? AND source > ? AND target < ? ORDER BY target LIMIT 1",
        (key.id, source, target),
    ).fetchone()
    outside = connection.execute(
        "SELECT source, target, signing_root FROM attestations"
        " WHERE key = ? AND target > ? AND source < ? ORDER BY target DESC LIMIT 1",
        (key.id, target, source),
    ).fetchone()
    lowest = _lowest(connection, key)
    return rules.AttestationFacts(
        same_target=tuple(map(_attestation, same)),
        inside=None if inside is None else _attestation(inside),
        outside=None if outside is None else _attestation(outside),
        lowest_source=lowest.source_epoch,
        lowest_target=lowest.target_epoch,
        watermarks=key.forgotten.raised(key.floor),
    )


def _merge_block(connection: apsw.Connection, key: _Key, block: SignedBlock) -> bool:
    """Store an imported block, whatever the rules say of it. True if it contradicts what is stored."""
    facts = _block_facts(connection, key, block)
    if facts.same_slot == block:
        return False
    verdict = rules.judge_block(block, facts)
    if facts.same_slot is not None:
        block = SignedBlock(block.slot, rules.merged_root(facts.same_slot.signing_root, block.signing_root))
    _put_block(connection, key, block)
    return isinstance(verdict, rules.Refusal) and verdict.rule in rules.CONTRADICTIONS


def _merge_attestation(connection: apsw.Connection, key: _Key, new: SignedAttestation) -> bool:
    """Store an imported attestation, whatever the rules say of it. True if it contradicts what is stored, or itself."""
    facts = _attestation_facts(connection, key, new)
    if new in facts.same_target:
        return False
    verdict = rules.judge_attestation(new, facts)
    for known in facts.same_target:
        if known.source_epoch == new.source_epoch:
            root = rules.merged_root(known.signing_root, new.signing_root)
            new = SignedAttestation(new.source_epoch, new.target_epoch, root)
    _put_attestation(connection, key, new)
    return isinstance(verdict, rules.Refusal) and verdict.rule in rules.CONTRADICTIONS


def _put_block(connection: apsw.Connection, key: _Key, block: SignedBlock) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?)", (key.id, _stored(block.slot), block.signing_root)
    )


def _put_attestation(connection: apsw.Connection, key: _Key, new: SignedAttestation) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO attestations VALUES (?, ?, ?, ?)",
        (key.id, _stored(new.target_epoch), _stored(new.source_epoch), new.signing_root),
    )


def _forget(connection: apsw.Connection, key: _Key, before_slot: int, before_target: int) -> Pruned:
    """Drop what lies below, or is older than what was forgotten before; store the watermarks that stand for all of
    it."""
    marks = key.forgotten
    slot_past = max(before_slot, 0 if marks.slot is None else marks.slot + 1)
    target_past = max(before_target, 0 if marks.target_epoch is None else marks.target_epoch + 1)
    blocks = attestations = 0
    if slot_past > 0:
        span = (key.id, _stored(slot_past - 1))
        slot = connection.execute("SELECT max(slot) FROM blocks WHERE key = ? AND slot <= ?", span).get
        marks = marks.raised(_watermarks((slot, None, None)))
        connection.execute("DELETE FROM blocks WHERE key = ? AND slot <= ?", span)
        blocks = connection.changes()
    if target_past > 0:
        span = (key.id, _stored(target_past - 1))
        query = "SELECT max(source), max(target) FROM attestations WHERE key = ? AND target <= ?"
        source, target = connection.execute(query, span).fetchall()[0]
        marks = marks.raised(_watermarks((None, source, target)))
        connection.execute("DELETE FROM attestations WHERE key = ? AND target <= ?", span)
        attestations = connection.changes()
    columns = [marks.slot, marks.source_epoch, marks.target_epoch]
    columns += [key.floor.slot, key.floor.source_epoch, key.floor.target_epoch]
    connection.execute(
        "UPDATE keys SET forgotten_slot = ?, forgotten_source = ?, forgotten_target = ?,"
        " floor_slot = ?, floor_source = ?, floor_target = ? WHERE id = ?",
        (*(None if each is None else _stored(each) for each in columns), key.id),
    )
    return Pruned(blocks=blocks, attestations=attestations)


def _history(connection: apsw.Connection, pubkey: bytes) -> SigningHistory:
    key = _find(connection, pubkey)
    blocks = connection.execute("SELECT slot, signing_root FROM blocks WHERE key = ? ORDER BY slot", (key.id,))
    attestations = connection.execute(
        "SELECT source, target, signing_root FROM attestations WHERE key = ? ORDER BY target, source", (key.id,)
    )
    return SigningHistory(
        pubkey=pubkey,
        blocks=tuple(SignedBlock(_number(slot), root) for slot, root in blocks),
        attestations=tuple(map(_attestation, attestations)),
        forgotten=key.forgotten,
    )


def _watermarks(columns: Sequence[object]) -> Watermarks:
    slot, source, target = map(_optional, columns)
    return Watermarks(slot=slot, source_epoch=source, target_epoch=target)


def _attestation(row: tuple[object, ...]) -> SignedAttestation:
    source, target, root = row
    if root is not None and not isinstance(root, bytes):
        raise DamagedError(f"a signing root is {root!r}")
    return SignedAttestation(_number(source), _number(target), root)


def _stored(number: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "big")


def _optional(stored: object) -> int | None:
    return None if stored is None else _number(stored)


def _number(stored: object) -> int:
    if not isinstance(stored, bytes) or len(stored) != NUMBER_BYTES:
        raise DamagedError(f"a slot or epoch is {stored!r}")
    return int.from_bytes(stored, "big")
