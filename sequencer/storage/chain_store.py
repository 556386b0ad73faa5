"""The safety journal and the block archive of one node, in one file: what a decision names is durable with it.

A block's bytes are stored once, when a vote, proposal or commit of ours first names it; committing it later only adds
a row that refers to it. Blocks that lose, because another one committed at their height or above, are deleted a few
at a time with later commits. Space that is freed is used again; the file does not shrink.

The proofs that signatures relied on and no header holds (``TranscriptRecord``) are kept too, the last few thousand of
them, for ``sequencer evidence extract``.

Reads run beside commits and see one consistent state. A header is hashed and compared with its id whenever it is
read; of a body only the size is compared with its header (what its root covers is the payload's matter: ``sequencer
verify`` re-derives it from ``raw_archive.py``).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import apsw

from consensus.engine import (
    BlockRecord,
    CommitRecord,
    EpochRecord,
    LinkRecord,
    LoadBlocks,
    Record,
    Recovered,
    SafetyRecord,
    TranscriptRecord,
)
from consensus.epochs import EpochChange
from consensus.finality.chain_links import LINKS_MAX
from consensus.finality.types import EPOCHS_MAX, LinkCertificate
from consensus.ports import LoadedBlocks
from consensus.types import (
    HASH_SIZE,
    INTEGER_MAX,
    PATH_LENGTH_MAX,
    SYNC_BLOCKS_MAX,
    SYNC_BYTES_MAX,
    AncestorsRequest,
    BlockHeader,
    BlockId,
    CommitProof,
    Epoch,
    Height,
    RangeRequest,
    StoredBlock,
)
from sequencer.storage import chain_tables as tables
from sequencer.storage.chain_tables import CHAIN_LAYOUT, BlockRow, Head
from sequencer.storage.database import Database, StorageError, open_database

GARBAGE_BLOCKS_MAX: Final = 8
"""Losing blocks deleted with one commit."""
PRUNE_BLOCKS_MAX: Final = 8
"""Blocks deleted by one transaction of :meth:`ChainStore.prune`; commits go between two of them."""
KEEP_HEIGHTS_MIN: Final = SYNC_BLOCKS_MAX
"""Pruning leaves at least what one answer to a peer holds."""
RECOVER_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Committed blocks that :meth:`ChainStore.recover` takes into memory. A ledger further behind reads the archive
first."""
HEADER_MEMORY_BYTES: Final = 4096
"""What a block takes in memory beside its body, roughly."""


class ChainStore:
    """A node's :class:`~consensus.ports.Journal` and :class:`~consensus.ports.Archive`, and its other reads of blocks.

    Every method raises :class:`StorageError`; after a failed write every later write does.
    """

    def __init__(self, database: Database, head: Head, pruned_below: Height) -> None:
        """Use :meth:`open`."""
        self._database = database
        self._head = head
        self._pruned_below = pruned_below

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, path: Path, genesis_hash: bytes) -> AsyncIterator[ChainStore]:
        """Open the file at ``path``, in an existing directory, or make it, for the chain of ``genesis_hash``.

        Refused when a running node has it open, and when it belongs to another chain.
        """
        if len(genesis_hash) != HASH_SIZE:
            raise ValueError(f"genesis_hash: {len(genesis_hash)} bytes, not {HASH_SIZE}")
        async with open_database(path, CHAIN_LAYOUT, genesis_hash) as database:
            head, pruned_below = await database.read(lambda c: (tables.head_of(c), tables.pruned_below_of(c)))
            yield cls(database, head, pruned_below)

    @property
    def committed_height(self) -> Height:
        """The height of the committed head; 0 before the first commit."""
        return self._head.height

    @property
    def committed_id(self) -> BlockId | None:
        """The id of the committed head; None before the first commit."""
        return self._head.id

    @property
    def pruned_below(self) -> Height:
        """The lowest committed height that is kept; 1 when nothing was pruned."""
        return self._pruned_below

    # --- the journal -----------------------------------------------------------------------------------------

    async def append(self, records: Sequence[Record]) -> None:
        """Write all ``records`` in one transaction; return when they are synced to the disk."""
        self._head = await self._database.write(partial(_append, records=tuple(records)))

    async def recover(self, ledger_height: Height) -> Recovered:
        """What was durable before this start. Commits at or below ``ledger_height``, and pruned ones, are left out.

        Refused for a ledger that is ahead (then this is an older copy of the journal), and for one that is behind by
        more than ``RECOVER_BYTES_MAX`` (it reads :meth:`blocks_from` first).
        """
        return await self._database.read(partial(_recover, ledger_height=ledger_height))

    async def epoch_changes(self, from_epoch: Epoch = 1, limit: int = INTEGER_MAX) -> tuple[EpochChange, ...]:
        """How epochs followed the one before, ascending, from ``from_epoch`` on, at most ``limit``; empty in the first
        one. Each is compared with its digest."""
        return await self._database.read(partial(tables.epoch_changes, from_epoch=from_epoch, limit=limit))

    async def newest_epoch(self) -> Epoch:
        """The epoch that began last."""
        return await self._database.read(tables.newest_epoch)

    # --- the archive -----------------------------------------------------------------------------------------

    async def load(self, request: LoadBlocks) -> LoadedBlocks:
        """What a peer asks for, within the caps of one answer. A range ends at a block whose proof is short to state
        where that loses nothing, and at an epoch's boundary in any case; it is empty when its start is pruned or not
        committed yet."""
        return await self._database.read(partial(_load, request=request))

    async def proof_for(self, height: Height) -> CommitProof | None:
        """The commit proof of any committed height. None when it is pruned, not committed, or further than
        ``PATH_LENGTH_MAX`` headers from the next stored proof."""
        return await self._database.read(partial(tables.proof_for, height=height))

    async def links_above(self, height: Height, count: int) -> tuple[LinkCertificate, ...]:
        """The finality certificates of this chain with the lowest targets above a height, ascending, at most
        ``count``."""
        return await self._database.read(partial(tables.links_above, height=height, count=count))

    async def headers_between(self, low: Height, high: Height) -> tuple[BlockHeader, ...]:
        """The committed headers of these heights, both included; empty when one is not here. At most
        ``PATH_LENGTH_MAX`` of them (``ValueError``)."""
        if high - low + 1 > PATH_LENGTH_MAX:
            raise ValueError(f"headers from {low} to {high}: at most {PATH_LENGTH_MAX} at once")
        return await self._database.read(partial(tables.headers_between, low=low, high=high))

    async def block_at(self, height: Height) -> BlockRow | None:
        """The block committed at a height, and its body. None when it is pruned or not committed."""
        rows = await self.blocks_from(height, limit=1, bytes_max=0)
        return rows[0] if rows else None

    async def block_by_id(self, block_id: BlockId) -> BlockRow | None:
        """A stored block, committed or not, and its body."""
        return await self._database.read(partial(tables.block_by_id, block_id=block_id))

    async def blocks_from(self, height: Height, *, limit: int, bytes_max: int) -> tuple[BlockRow, ...]:
        """Committed blocks with their bodies, oldest first, from exactly ``height`` on: at most ``limit``, ending with
        the one whose body crosses ``bytes_max`` in sum. Empty when ``height`` is pruned or not committed."""
        return await self._database.read(
            lambda connection: _capped(tables.committed_blocks(connection, height), limit, bytes_max)
        )

    async def prune(self, keep_heights: int, *, ledger_height: Height) -> Height:
        """Delete committed blocks and their proofs, except the last ``keep_heights`` and those that the ledger does
        not hold durably yet. Returns :attr:`pruned_below`. Commits go on meanwhile.

        ``keep_heights`` is at least ``KEEP_HEIGHTS_MIN``; the caller also keeps the chain's deduplication window.
        """
        if keep_heights < KEEP_HEIGHTS_MIN:
            raise ValueError(f"keep_heights: {keep_heights} is below {KEEP_HEIGHTS_MIN}")
        target = min(self._head.height - keep_heights, ledger_height) + 1
        while self._pruned_below < target:
            self._pruned_below = await self._database.write(
                partial(tables.prune_below, height=target, blocks_max=PRUNE_BLOCKS_MAX)
            )
        return self._pruned_below


def _append(connection: apsw.Connection, records: tuple[Record, ...]) -> Head:
    safety: dict[str, SafetyRecord] = {}
    commits: list[CommitRecord] = []
    for record in records:
        match record:
            case BlockRecord():
                tables.put_block(connection, record)
            case SafetyRecord():
                safety[record.kind] = record  # of one kind only the last is ever read
            case CommitRecord():
                commits.append(record)
            case TranscriptRecord():
                tables.put_transcript(connection, record)
            case LinkRecord():
                tables.put_link(connection, record)
            case EpochRecord():
                for decision in safety.values():
                    tables.put_safety(connection, decision)
                safety.clear()  # decisions of the old epoch; those that follow are of the new one
                tables.put_epoch(connection, record)
            case _:
                assert_never(record)
    for decision in safety.values():
        tables.put_safety(connection, decision)
    for commit in commits:
        tables.put_commit(connection, commit)
    if commits:
        tables.collect_garbage(connection, GARBAGE_BLOCKS_MAX)
    return tables.head_of(connection)


def _recover(connection: apsw.Connection, ledger_height: Height) -> Recovered:
    head = tables.head_of(connection)
    if ledger_height > head.height:
        raise StorageError(
            f"{connection.filename}: committed up to height {head.height}, but the ledger holds {ledger_height}: this "
            f"is an older copy of the journal. {tables.CHAIN_LAYOUT.repair}"
        )
    blocks = [_stored(row) for row in tables.undecided_blocks(connection, head.height)]
    if head.id is not None:
        blocks += [_stored(row) for row in tables.committed_blocks(connection, head.height)]
    commits = []
    size_bytes = 0
    for row in tables.committed_blocks(connection, max(ledger_height + 1, tables.pruned_below_of(connection))):
        height = row[0].header.height
        size_bytes += len(row[1]) + HEADER_MEMORY_BYTES
        if size_bytes > RECOVER_BYTES_MAX:
            raise StorageError(
                f"{connection.filename}: the ledger stands at height {ledger_height} and the archive at {head.height}: "
                f"more than {RECOVER_BYTES_MAX} bytes to hand over at once. Replay the archive into the ledger first."
            )
        commits.append((_stored(row), tables.proof_at(connection, height)))
    changes = tables.last_epoch_changes(connection, EPOCHS_MAX)
    return Recovered(
        safety=tables.safety_of(connection),
        blocks=tuple(blocks),
        committed_height=head.height,
        committed_id=head.id,
        head_proof=tables.proof_at(connection, head.height),
        commits=tuple(commits),
        epoch_change=changes[-1] if changes else None,
        epoch_changes_before=changes[:-1],
        links=tables.newest_links(connection, LINKS_MAX),
        transcript=tables.transcript_of(connection),
    )


def _load(connection: apsw.Connection, request: LoadBlocks) -> LoadedBlocks:
    match request.request:
        case AncestorsRequest() as ancestors:
            rows = _capped(_ancestors(connection, ancestors), SYNC_BLOCKS_MAX, SYNC_BYTES_MAX)
            proof = None
        case RangeRequest() as wanted:
            rows, proof = _range(connection, wanted.from_height)
        case _:
            assert_never(request.request)
    return LoadedBlocks(
        blocks=tuple(_stored(row) for row in rows),
        proof=proof,
        pruned_below=tables.pruned_below_of(connection),
        head=tables.head_of(connection).height,
    )


def _ancestors(connection: apsw.Connection, request: AncestorsRequest) -> Iterable[BlockRow]:
    block_id = request.block_id
    while (row := tables.block_by_id(connection, block_id)) is not None:
        block, _ = row
        if block.header.height <= request.above_height:
            return
        yield row
        block_id = block.header.parent


def _range(connection: apsw.Connection, from_height: Height) -> tuple[tuple[BlockRow, ...], CommitProof | None]:
    """Committed blocks of one epoch that fit one answer, and the proof of the last: of the highest one that has its
    own, or else with the headers up to the next one that has."""
    rows = _capped(_of_one_epoch(tables.committed_blocks(connection, from_height)), SYNC_BLOCKS_MAX, SYNC_BYTES_MAX)
    if not rows:
        return (), None
    last = rows[-1][0].header.height
    proven = tables.proven_height_up_to(connection, from_height, last) or last
    proof = tables.proof_for(connection, proven)
    return (rows[: proven - from_height + 1], proof) if proof is not None else ((), None)


def _of_one_epoch(rows: Iterable[BlockRow]) -> Iterable[BlockRow]:
    for row in rows:
        yield row
        if row[0].header.next_validators_hash:
            return


def _capped(rows: Iterable[BlockRow], limit: int, bytes_max: int) -> tuple[BlockRow, ...]:
    """The first rows: at most ``limit``, ending with the one whose body crosses ``bytes_max`` in sum."""
    taken: list[BlockRow] = []
    size_bytes = 0
    for row in rows:
        taken.append(row)
        size_bytes += len(row[1])
        if len(taken) >= limit or size_bytes > bytes_max:
            break
    return tuple(taken)


def _stored(row: BlockRow) -> StoredBlock:
    block, body = row
    return StoredBlock(header=block.header, body=body)
