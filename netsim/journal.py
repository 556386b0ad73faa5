"""A node's disk in memory: what survives a crash, and what goes wrong with disks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consensus.engine import (
    TRANSCRIPT_PROOFS_MAX,
    BlockRecord,
    BlocksLoaded,
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
from consensus.finality.types import FFG, LinkCertificate
from consensus.types import SYNC_BLOCKS_MAX, AncestorsRequest, BlockId, CommitProof, Height, StoredBlock

_Snapshot = tuple[
    dict[str, SafetyRecord], dict[BlockId, StoredBlock], Height, tuple[EpochChange, ...], tuple[LinkCertificate, ...]
]


class DiskFull(Exception):
    """The journal refuses a write: the node stops."""


class Journal:
    """Records as they are stored. ``keep`` may drop some, to show what goes wrong without them (mutants)."""

    __slots__ = (
        "_kept",
        "_snapshot",
        "_swapped",
        "blocks",
        "commits",
        "damaged",
        "epochs",
        "full",
        "head",
        "keep",
        "links",
        "pruned_below",
        "safety",
        "torn",
        "transcript",
    )

    def __init__(self, keep: Callable[[Record], bool] | None = None) -> None:
        self.keep = keep
        self.safety: dict[str, SafetyRecord] = {}
        self.blocks: dict[BlockId, StoredBlock] = {}
        self.commits: dict[Height, tuple[BlockId, CommitProof | None]] = {}
        self.transcript: dict[bytes, None] = {}
        self.epochs: tuple[EpochChange, ...] = ()
        self.links: tuple[LinkCertificate, ...] = ()
        self.head: Height = 0
        self.full = False
        self.torn = False
        self.damaged = ""
        self.pruned_below: Height = 1
        self._kept: Height | None = None
        self._swapped: Journal | None = None
        self._snapshot: _Snapshot | None = None

    @property
    def epoch(self) -> int:
        """The epoch that a start begins in."""
        return self.epochs[-1].epoch if self.epochs else 0

    def append(self, records: Sequence[Record]) -> None:
        """Store all of them. Raises :class:`DiskFull`."""
        if self.full:
            raise DiskFull
        if self._kept is not None:
            self.prune(self._kept)
        keep = self.keep
        for record in records:
            if keep is not None and not keep(record):
                continue
            if isinstance(record, SafetyRecord):
                self.safety[record.kind] = record
            elif isinstance(record, BlockRecord):
                block = record.block
                self.blocks[block.id] = StoredBlock(header=block.header, body=memoryview(record.body))
            elif isinstance(record, CommitRecord):
                self.commits[record.height] = (record.block_id, record.proof)
                if record.height > self.head:
                    self.head = record.height
            elif isinstance(record, TranscriptRecord) and record.proof not in self.transcript:
                if len(self.transcript) >= TRANSCRIPT_PROOFS_MAX:
                    del self.transcript[next(iter(self.transcript))]
                self.transcript[record.proof] = None
            elif isinstance(record, EpochRecord):
                self.epochs = (*self.epochs, record.change)
                self.safety = {kind: kept for kind, kept in self.safety.items() if kind == FFG}
            elif isinstance(record, LinkRecord) and record.certificate not in self.links:
                self.links = (*self.links, record.certificate)

    def interrupted(self, records: Sequence[Record]) -> None:
        """A crash in the middle of a write: a torn disk has its first records, without the last."""
        if self.torn and len(records) > 1:
            self.append(records[:-1])

    def lose_from_now(self) -> None:
        """From here on nothing is really synced."""
        self._snapshot = (dict(self.safety), dict(self.blocks), self.head, self.epochs, self.links)

    def prune(self, kept: Height) -> None:
        """From here on only the last ``kept`` committed blocks stay, and those of the last write."""
        self._kept = kept
        for height in range(self.pruned_below, self.head - kept + 1):
            block_id, _ = self.commits.pop(height)
            del self.blocks[block_id]
            self.pruned_below = height + 1

    def read_instead(self, other: Journal) -> None:
        """At the next start, somebody mounts the disk of another host."""
        self._swapped = other

    def crashed(self) -> None:
        """The process died: what was not really synced is gone."""
        if self._swapped is not None:
            other, self._swapped = self._swapped, None
            self.safety, self.blocks, self.commits = dict(other.safety), dict(other.blocks), dict(other.commits)
            self.head, self.pruned_below = other.head, other.pruned_below
            self.epochs, self.links = other.epochs, other.links
        if self._snapshot is None:
            return
        self.safety, self.blocks, self.head, self.epochs, self.links = self._snapshot
        self.commits = {height: commit for height, commit in self.commits.items() if height <= self.head}
        self._snapshot = None

    def recover(self, ledger_height: Height) -> Recovered:
        """What a start gets."""
        head = self.head
        committed_id, proof = self.commits.get(head, (None, None))
        blocks = tuple(
            stored
            for block_id, stored in self.blocks.items()
            if stored.header.height > head or block_id == committed_id
        )
        commits = tuple(
            (self.blocks[self.commits[height][0]], self.commits[height][1])
            for height in range(ledger_height + 1, head + 1)
        )
        return Recovered(
            safety=tuple(self.safety.values()),
            blocks=blocks,
            committed_height=head,
            committed_id=committed_id,
            head_proof=proof,
            commits=commits,
            epoch_change=self.epochs[-1] if self.epochs else None,
            epoch_changes_before=self.epochs[:-1],
            transcript=tuple(self.transcript),
            links=self.links,
        )

    def load(self, wanted: LoadBlocks) -> BlocksLoaded:
        """What a peer asks for."""
        blocks: list[StoredBlock] = []
        proof: CommitProof | None = None
        request = wanted.request
        if isinstance(request, AncestorsRequest):
            stored = self.blocks.get(request.block_id)
            while stored is not None and stored.header.height > request.above_height and len(blocks) < SYNC_BLOCKS_MAX:
                blocks.append(stored)
                stored = self.blocks.get(stored.header.parent)
        else:
            proved = 0
            start = request.from_height if request.from_height >= self.pruned_below else self.head + 1
            for height in range(start, min(self.head, request.from_height + SYNC_BLOCKS_MAX - 1) + 1):
                block_id, at = self.commits[height]
                blocks.append(self.blocks[block_id])
                if at is not None:
                    proof, proved = at, len(blocks)
                if blocks[-1].header.next_validators_hash:
                    break  # a range ends with its epoch
            del blocks[proved:]
        return BlocksLoaded(
            peer=wanted.peer,
            request=request,
            blocks=tuple(blocks),
            proof=proof,
            pruned_below=self.pruned_below,
            head=self.head,
        )
