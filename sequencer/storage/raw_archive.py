"""The archive of a stopped node as raw bytes, for ``sequencer verify``: nothing that the node concluded is trusted.

Nothing is decoded, hashed or compared here, and the file is not written. Whoever verifies decodes each header, hashes
it to its id, links it to its parent, derives the payload root from the body and checks the proof.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from consensus.types import Height
from sequencer.storage.chain_tables import CHAIN_LAYOUT, pruned_below_of
from sequencer.storage.database import DamagedError, check_meta, lock_file, storage_errors


@dataclass(frozen=True, kw_only=True)
class RawBlock:
    """One row of the archive: the height it claims to be committed at, the id it claims to have, canonical header,
    body, and the canonical commit proof where the node stored one."""

    height: Height
    id: bytes
    header: bytes
    body: bytes
    proof: bytes | None


@dataclass(frozen=True, kw_only=True)
class RawHeader:
    """A row of the archive without its body."""

    height: Height
    id: bytes
    header: bytes
    proof: bytes | None


@dataclass(frozen=True, kw_only=True)
class RawUndecided:
    """A block that no commit names: the height it is filed under, and its bytes (all None: the block is missing)."""

    height: Height
    id: bytes | None
    header: bytes | None
    body: bytes | None


@dataclass(frozen=True, kw_only=True)
class RawDecision:
    """One row of the safety journal. ``digest`` is that of the ``SafetyRecord`` of the other three."""

    kind: str
    subject: bytes
    state: bytes
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class RawProof:
    """One row of the transcript: a certificate that a signature relied on. ``digest`` is its SHA-256."""

    digest: bytes
    proof: bytes


@dataclass(frozen=True, kw_only=True)
class RawEpoch:
    """How an epoch began, as canonical bytes. ``digest`` is their SHA-256."""

    epoch: int
    change: bytes
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class RawLink:
    """A link certificate of finality as canonical bytes, and the heights that it is filed under. ``digest`` is its
    SHA-256."""

    target: Height
    source: Height
    certificate: bytes
    digest: bytes


class RawArchive:
    """Made by :func:`open_raw_archive`."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self.path = path
        self._connection = connection
        with storage_errors(path, CHAIN_LAYOUT):
            self.genesis_hash = check_meta(connection, path, CHAIN_LAYOUT, None)
            self.pruned_below = pruned_below_of(connection)

    def raw_blocks(self) -> Iterator[RawBlock]:
        """Every row that claims to be committed, by ascending height; heights may have gaps when the file was
        changed. Raises :class:`StorageError` where SQLite itself finds the file damaged or a block is missing."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            rows = self._connection.execute(
                "SELECT height, id, header, body, proof FROM commits LEFT JOIN blocks USING (number) ORDER BY height"
            )
            for height, block_id, header, body, proof in rows:
                if block_id is None:
                    raise DamagedError(f"the block committed at height {height} is missing")
                yield RawBlock(height=height, id=block_id, header=header, body=body, proof=proof)

    def raw_headers(self, from_height: Height = 0) -> Iterator[RawHeader]:
        """As :meth:`raw_blocks`, from a height on, and no body is read. Raises :class:`StorageError` as above."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            rows = self._connection.execute(
                "SELECT height, id, header, proof FROM commits LEFT JOIN blocks USING (number) WHERE height >= ?"
                " ORDER BY height",
                (from_height,),
            )
            for height, block_id, header, proof in rows:
                if block_id is None:
                    raise DamagedError(f"the block committed at height {height} is missing")
                yield RawHeader(height=height, id=block_id, header=header, proof=proof)

    def raw_undecided(self) -> Iterator[RawUndecided]:
        """Every row that claims to be stored and not committed. Raises :class:`StorageError` as above."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            rows = self._connection.execute(
                "SELECT height, id, header, body FROM undecided LEFT JOIN blocks USING (number) ORDER BY height, number"
            )
            for height, block_id, header, body in rows:
                yield RawUndecided(height=height, id=block_id, header=header, body=body)

    def raw_decisions(self) -> Iterator[RawDecision]:
        """Every row of the safety journal, by kind. Raises :class:`StorageError` as above."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            for kind, subject, state, digest in self._connection.execute("SELECT * FROM safety ORDER BY kind"):
                yield RawDecision(kind=kind, subject=subject, state=state, digest=digest)

    def raw_transcript(self) -> Iterator[RawProof]:
        """Every row of the transcript, oldest first. Raises :class:`StorageError` as above."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            for digest, proof in self._connection.execute("SELECT digest, proof FROM transcript ORDER BY rowid"):
                yield RawProof(digest=digest, proof=proof)

    def raw_epochs(self, from_epoch: int = 0) -> Iterator[RawEpoch]:
        """How the epochs from one on began, ascending. Raises :class:`StorageError` as above."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            rows = self._connection.execute(
                "SELECT epoch, change, digest FROM epochs WHERE epoch >= ? ORDER BY epoch", (from_epoch,)
            )
            for epoch, change, digest in rows:
                yield RawEpoch(epoch=epoch, change=change, digest=digest)

    def raw_links(self) -> Iterator[RawLink]:
        """The link certificates of finality, by target. Raises :class:`StorageError` as above."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            for target, source, certificate, digest in self._connection.execute("SELECT * FROM links ORDER BY target"):
                yield RawLink(target=target, source=source, certificate=certificate, digest=digest)

    def raw_block(self, height: Height) -> RawBlock | None:
        """The row of one height. Raises :class:`StorageError` as above."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            row = self._connection.execute(
                "SELECT id, header, body, proof FROM commits JOIN blocks USING (number) WHERE height = ?", (height,)
            ).fetchone()
            return None if row is None else RawBlock(height=height, id=row[0], header=row[1], body=row[2], proof=row[3])

    def committed_height(self) -> Height:
        """The highest height that claims to be committed, 0 for none. Raises :class:`StorageError`."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            highest = self._connection.execute("SELECT max(height) FROM commits").get
            return highest if isinstance(highest, int) else 0

    def structural_faults(self) -> tuple[str, ...]:
        """What SQLite's own check of its pages and indexes finds, and blocks that no row refers to. Reads the whole
        file. Raises :class:`StorageError` where the check itself cannot go on."""
        with storage_errors(self.path, CHAIN_LAYOUT):
            found = [str(fault) for (fault,) in self._connection.execute("PRAGMA integrity_check(10)") if fault != "ok"]
            loose = self._connection.execute(
                "SELECT count(*) FROM blocks WHERE number NOT IN"
                " (SELECT number FROM commits UNION ALL SELECT number FROM undecided)"
            ).get
            return (*found, *([f"{loose} blocks are neither committed nor undecided"] if loose else []))


@contextlib.contextmanager
def open_raw_archive(path: Path) -> Iterator[RawArchive]:
    """Open the chain store of a stopped node for reading. Blocks the thread. Raises :class:`StorageError`: the node is
    running, the file is absent, or it is not a chain store."""
    with contextlib.ExitStack() as opened:
        with storage_errors(path, CHAIN_LAYOUT):
            with contextlib.suppress(FileNotFoundError):  # a copy, taken without the lock
                opened.callback(os.close, lock_file(path, fcntl.LOCK_SH, create=False))
            # Without a log there is nothing to share, and the directory may be read-only; with one, SQLite maps it.
            log = Path(f"{os.path.realpath(path)}-wal")
            mode = "mode=ro" if log.exists() and log.stat().st_size > 0 else "immutable=1"
            connection = opened.enter_context(
                contextlib.closing(
                    apsw.Connection(
                        f"{path.absolute().as_uri()}?{mode}", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
                    )
                )
            )
        yield RawArchive(path, connection)
