"""What a signing process remembers: one table of subjects of every kind, in the file of its slashing protection.

One file and one transaction, so that a proposal or a vote of finality, which EIP-3076 knows as well, costs one sync and
is recorded in both forms or in none. The interchange commands (``sequencer signer import | export``) work on that same
file; an interchange carries what EIP-3076 knows, and not this table. A file that an import made or changed is therefore
not opened here, until an import named a slot that lies above all that its keys signed of the other kinds.

The file is held alone while the process runs, so what was loaded at the start stays true. The lock is advisory, and a
file beside it that somebody may delete; so every transaction also asks SQLite whether another connection wrote since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import apsw

from consensus.slashing_rules import Refusal, SignedAttestation, SignedBlock
from consensus.types import Slot
from sequencer.storage.database import DamagedError, StorageError
from sequencer.storage.slashing_store import (
    SlashingStore,
    forget,
    read_besides,
    record_attestation,
    record_block,
)


class NoMemoryError(StorageError):
    """There is no database."""


class PartialMemoryError(StorageError):
    """The database knows what an interchange carries, and not what else its keys signed."""


class SubjectRow(NamedTuple):
    """One signed subject as it is stored: canonical bytes, and the SHA-256 of what was signed."""

    pubkey: bytes
    kind: str
    slot: Slot
    subject: bytes
    signing_root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one new signature changes: its row, the rows that go, and the key's floor (None: no floor yet).

    ``slashable`` is the same in EIP-3076's terms where it has any, and then ``forget_up_to`` is the slot or target up
    to which that history is pruned.
    """

    row: SubjectRow
    forgotten: Sequence[SubjectRow] = ()
    floor: Slot | None = None
    slashable: SignedBlock | SignedAttestation | None = None
    forget_up_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Everything in the file: rows in the order of key, kind and slot, and the floors by key. ``begin`` is the slot
    below which no key signs a subject of the protocol: (0, 0, 0) but after an import."""

    rows: tuple[SubjectRow, ...]
    floors: dict[bytes, Slot]
    begin: Slot


class SigningStore:
    """See the module. Every method blocks until the disk is done and raises :class:`StorageError`: then nothing may be
    signed any more. A context manager."""

    def __init__(self, path: Path, genesis_hash: bytes, *, create: bool = False) -> None:
        """Open the file of the chain of ``genesis_hash``, alone. It is made only when ``create`` says so: a path that
        was mistyped must not become a signer that remembers nothing."""
        if not create and not path.exists():
            raise NoMemoryError(
                f"{path}: there is no protection database. Bring the one that these keys used. Only for keys that "
                "never signed anything make a new one: sequencer signer init --home HOME"
            )
        if create and path.exists():
            raise StorageError(f"{path}: exists already and is not made anew; it is the memory of what was signed.")
        with contextlib.ExitStack() as undo:
            self._store = SlashingStore(path, genesis_hash, exclusive=True, besides_known=create)
            undo.callback(self._store.close)
            with self._store.transaction() as connection:
                self._version = connection.pragma("data_version")
                begin = read_besides(connection)
            if begin is None:
                raise PartialMemoryError(_partial(path))
            self._begin = begin
            undo.pop_all()

    def load(self) -> Stored:
        """All of it."""
        with self._store.transaction() as connection:
            rows = connection.execute(
                "SELECT pubkey, kind, epoch, major, minor, subject, signing_root FROM subjects"
                " ORDER BY pubkey, kind, epoch, major, minor"
            ).fetchall()
            floors = connection.execute("SELECT pubkey, epoch, major, minor FROM floors").fetchall()
            return Stored(rows=tuple(map(_row, rows)), floors=dict(map(_floor, floors)), begin=self._begin)

    def record(self, change: Change) -> Refusal | None:
        """Record a signature that is about to be made. None when it is durable; EIP-3076's refusal, and nothing is
        recorded."""
        row = change.row
        with self._transaction() as connection:
            refusal = _check_slashable(connection, row.pubkey, change.slashable)
            if refusal is not None:
                return refusal
            connection.execute(
                "INSERT INTO subjects VALUES (?, ?, ?, ?, ?, ?, ?)", (*_key_of(row), row.subject, row.signing_root)
            )
            for gone in change.forgotten:
                connection.execute(
                    "DELETE FROM subjects WHERE (pubkey, kind, epoch, major, minor) = (?, ?, ?, ?, ?)", _key_of(gone)
                )
            if change.floor is not None:
                slot = change.floor
                connection.execute(
                    "INSERT OR REPLACE INTO floors VALUES (?, ?, ?, ?)",
                    (row.pubkey, slot.epoch, slot.major, slot.minor),
                )
            match change.slashable, change.forget_up_to:
                case SignedBlock(), int(number):
                    forget(connection, row.pubkey, before_slot=number + 1, before_epoch=0)
                case SignedAttestation(), int(number):
                    forget(connection, row.pubkey, before_slot=0, before_epoch=number + 1)
                case _:
                    pass
        return None

    def check(self, pubkey: bytes, slashable: SignedBlock | SignedAttestation) -> Refusal | None:
        """What EIP-3076 says of a repeat: an import may have forbidden it since."""
        with self._transaction() as connection:
            return _check_slashable(connection, pubkey, slashable)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        """Of the store, when nobody else wrote since this one was opened: what was loaded is what the file holds."""
        with self._store.transaction() as connection:
            if connection.pragma("data_version") != self._version:
                raise StorageError(
                    f"{self._store.path}: another process wrote to it while this one held it, so its lock was bypassed."
                    " Run one signing process on it, and leave its lock file alone."
                )
            yield connection

    def close(self) -> None:
        """Close the file. Nothing is lost without it."""
        self._store.close()

    def __enter__(self) -> SigningStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _partial(path: Path) -> str:
    return (
        f"{path}: an import made or changed it, so it knows the proposals and the votes of finality of its keys and no "
        "other votes: signing with it could contradict those. Put the database itself here that these keys used, or "
        "rotate to new keys. Or import the file again and name an epoch that is above all in which these keys voted "
        f"(docs/signer.md): sequencer signer import FILE --database {path} --votes-from-epoch EPOCH"
    )


def _check_slashable(
    connection: apsw.Connection, pubkey: bytes, slashable: SignedBlock | SignedAttestation | None
) -> Refusal | None:
    match slashable:
        case None:
            return None
        case SignedBlock():
            verdict = record_block(connection, pubkey, slashable)
        case SignedAttestation():
            verdict = record_attestation(connection, pubkey, slashable)
    return verdict if isinstance(verdict, Refusal) else None


def _key_of(row: SubjectRow) -> tuple[bytes, str, int, int, int]:
    return row.pubkey, row.kind, row.slot.epoch, row.slot.major, row.slot.minor


def _row(columns: tuple[object, ...]) -> SubjectRow:
    match columns:
        case (bytes(pubkey), str(kind), int(epoch), int(major), int(minor), bytes(subject), bytes(signing_root)):
            return SubjectRow(pubkey, kind, Slot(epoch, major, minor), subject, signing_root)
        case _:
            raise DamagedError(f"a signed subject is {columns!r}")


def _floor(columns: tuple[object, ...]) -> tuple[bytes, Slot]:
    match columns:
        case (bytes(pubkey), int(epoch), int(major), int(minor)):
            return pubkey, Slot(epoch, major, minor)
        case _:
            raise DamagedError(f"a floor is {columns!r}")
