"""One archive's headers, upwards, without its bodies: the part of :mod:`sequencer.light_verify` that follows hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import assert_never

from consensus.codec import Malformed, commit_proofs, digest, headers
from consensus.engine import Refusal
from consensus.epoch_history import Contradiction, EpochHistory
from consensus.epochs import EpochChange, EpochInfo
from consensus.light_client import Advanced, Checkpoint, Fork, Known, LightClient, Outcome, Proven, link_fault
from consensus.types import BlockHeader, BlockId, CommitProof, Epoch, Height
from sequencer.epoch_changes import decoded_change
from sequencer.storage import RawArchive
from sequencer.storage.raw_archive import RawHeader


@dataclass(frozen=True, kw_only=True)
class ArchiveReport:
    """A sound archive: headers from ``pruned_below`` to ``height``, ``proofs`` of them with a proof of their own.
    ``linked``: they were followed by hash from genesis or through the checkpoint; otherwise the commit proofs alone
    tie them to it. ``epoch`` is the one that the last block is of."""

    name: str
    pruned_below: Height
    height: Height
    block_id: BlockId
    epoch: Epoch
    proofs: int
    linked: bool


class Fault(Exception):
    """Leads from where a row fails to where its archive is known."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def stored_changes(archive: RawArchive, from_epoch: Epoch = 0) -> Iterator[EpochChange]:
    """Raises :class:`Fault` for a row that is none."""
    for row in archive.raw_epochs(from_epoch):
        change = decoded_change(row)
        if isinstance(change, Malformed):
            raise Fault("epochs", f"how epoch {row.epoch} began: {change.reason}")
        yield change


class Walk:
    """One archive, upwards. ``expected`` is the height that comes next, and where a fault was found. ``start`` is the
    change that began the checkpoint's epoch, once the walk has tied it to the checkpoint."""

    def __init__(self, name: str, archive: RawArchive, history: EpochHistory, checkpoint: Checkpoint) -> None:
        self.name = name
        self.expected: Height = archive.pruned_below
        self.start: EpochChange | None = None
        self._archive = archive
        self._history = history
        self._checkpoint = checkpoint
        self._client = LightClient(history, checkpoint)
        self._last: Proven | None = None
        self._before: tuple[BlockId, BlockHeader | None] | None = None
        self._proofs = 0
        self._linked = archive.pruned_below <= checkpoint.height

    @property
    def head(self) -> Proven:
        assert self._last is not None, "a sound walk ends with a proof"
        return self._last

    def run(self, progress: Callable[[str, int, int], None]) -> None:
        """Raises :class:`Fault` and ``StorageError``."""
        total = self._archive.committed_height() - self.expected + 1
        self._begin()
        for done, row in enumerate(self._archive.raw_headers()):
            progress(f"headers of {self.name}", done, total)
            self._judge(row)
            self.expected += 1
        self.expected -= 1
        if self._before is None or self.expected < self._archive.pruned_below:
            raise Fault("archive", "it holds no block")
        if self._last is None or self._last.height != self.expected:
            unproven = self._archive.pruned_below if self._last is None else self._last.height + 1
            raise Fault("proof", f"the commits from height {unproven} on carry no proof")
        if self.expected < self._checkpoint.height:
            raise Fault("height", f"the archive ends here, below the checkpoint at height {self._checkpoint.height}")

    def _begin(self) -> None:
        """Learn the epochs that ended before what the archive still holds."""
        for change in stored_changes(self._archive, self._history.newest.epoch + 1):
            if change.boundary.height >= self.expected:
                break
            self._learn(change)
        newest = self._history.newest.genesis
        begin = Checkpoint(height=newest.height, block_id=newest.block_id)
        for known in (begin, self._checkpoint):
            if self.expected == known.height + 1:
                self._before = (known.block_id, None)
                self._linked = True

    def _learn(self, change: EpochChange) -> None:
        """Raises :class:`Fault`. Below the checkpoint, where only the path counts, no light client is asked."""
        below = self.expected <= self._checkpoint.height
        outcome = self._history.extend(change) if below else self._client.follow(change)
        match outcome:
            case Refusal(reason=reason):
                raise Fault("epochs", reason)
            case Contradiction():
                raise Fault("fork", f"epoch {change.epoch} begins after two boundaries, both committed")
            case Fork(reason=reason):
                raise Fault("fork", f"{reason}: the chain has forked")
            case EpochInfo() | Advanced() | Known():
                pass
            case _:
                assert_never(outcome)

    def report(self) -> ArchiveReport:
        return ArchiveReport(
            name=self.name,
            pruned_below=self._archive.pruned_below,
            height=self.head.height,
            block_id=self.head.block_id,
            epoch=self.head.header.epoch,
            proofs=self._proofs,
            linked=self._linked,
        )

    def _judge(self, row: RawHeader) -> None:
        if row.height != self.expected:
            raise Fault("height", f"no block is committed here, the next row says {row.height}")
        for name, value in (("id", row.id), ("header", row.header), ("proof", row.proof)):
            if not isinstance(value, bytes) and not (value is None and name == "proof"):
                raise Fault(name, f"stored as {type(value).__name__}, not as bytes")
        header = headers.decode(row.header)
        if isinstance(header, Malformed):
            raise Fault("header", header.reason)
        block_id = sha256(row.header).digest()
        if block_id != row.id:
            raise Fault("header", f"the header hashes to {block_id.hex()}, stored is the id {row.id.hex()}")
        if header.height != row.height:
            raise Fault("height", f"the row names a block of height {header.height}")
        if row.height == self._checkpoint.height and block_id != self._checkpoint.block_id:
            raise Fault("checkpoint", f"{block_id.hex()} stands here, trusted is {self._checkpoint.block_id.hex()}")
        fault = None if self._before is None else link_fault(header, *self._before)
        if fault is not None:
            raise Fault("header", fault)
        self._before = (block_id, header)
        if row.proof is not None:
            self._prove(Proven(header=header, block_id=block_id, proof=_proof_in(row.proof)))
        if header.next_validators_hash:
            self._end_epoch(header, block_id)
        if row.height == self._checkpoint.height:
            self._pass_checkpoint(self._history.newest)

    def _end_epoch(self, header: BlockHeader, block_id: BlockId) -> None:
        change = next(stored_changes(self._archive, header.epoch + 1), None)
        if change is None and header.height == self._archive.committed_height():
            return  # stopped before the next epoch began
        if change is None or digest(change.boundary) != block_id:
            raise Fault("epochs", f"how epoch {header.epoch + 1} began, after this block, is not what is stored")
        self._learn(change)

    def _pass_checkpoint(self, epoch: EpochInfo) -> None:
        """The walk came by hash to what is trusted: what it learned of the validators counts where it saw the boundary
        on its way."""
        if epoch.genesis.height == 0:
            return
        if epoch.genesis.height < self._archive.pruned_below - 1:
            raise Fault(
                "checkpoint",
                f"nothing ties the validators of epoch {epoch.epoch} to it: the archive is pruned above the boundary, "
                f"{epoch.genesis.height}:{epoch.genesis.block_id.hex()}. That is the one to trust, if somebody that "
                "you trust says so",
            )
        self.start = self._history.change(epoch.epoch)

    def _prove(self, shown: Proven) -> None:
        if shown.height < self._checkpoint.height:  # what ties it to the checkpoint is the path, the proof is extra
            refusal = self._history.verify_commit(shown.proof, shown.header, shown.header.epoch)
            fault = None if refusal is None else Fault("proof", refusal.reason)
        else:
            fault = fault_of(self._client.advance(shown.header, shown.proof), shown.height)
        if fault is not None:
            raise fault
        self._last = shown
        self._proofs += 1


def _proof_in(encoded: bytes) -> CommitProof:
    proof = commit_proofs.decode(encoded)
    if isinstance(proof, Malformed):
        raise Fault("proof", proof.reason)
    return proof


def fault_of(outcome: Outcome, height: Height) -> Fault | None:
    match outcome:
        case Advanced() | Known():
            return None
        case Fork(reason=reason):
            return Fault("fork", f"{reason}: the chain has forked")
        case Refusal(reason=reason):
            return Fault("proof", reason.removeprefix(f"height {height}: "))
        case _:
            assert_never(outcome)
