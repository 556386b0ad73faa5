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


@contextlib.contextmanager
def open_raw_archive(path: Path) -> Iterator[RawArchive]:
    """Open the chain store of a stopped node for reading. Blocks the thread. Raises :class:`StorageError`: the node is
    running, the file is absent, or it is not a chain store."""
    with contextlib.ExitStack() as opened:
        with storage_errors(path, CHAIN_LAYOUT):
            with contextlib.suppress(FileNotFoundError):  # a copy, taken without the lock
                opened.callback(os.close, lock_file(path, fcntl.LOCK_SH, create=False))
            # Without a log there is nothing to share, and the directory may be read-only; with one, SQLite maps it.
            log = path.with_name(path.name + "-wal")
            mode = "mode=ro" if log.exists() and log.stat().st_size > 0 else "immutable=1"
            connection = opened.enter_context(
                contextlib.closing(
                    apsw.Connection(
                        f"{path.absolute().as_uri()}?{mode}", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
                    )
                )
            )
        yield RawArchive(path, connection)
