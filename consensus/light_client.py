"""A light client: follows a chain from a trusted checkpoint by certificates alone, without bodies and mostly without
headers.

A commit proof shows by itself that its block is committed, because one validator set signs a whole epoch. To go from
the checkpoint to the newest block of its epoch takes one header and one proof, however far apart the two are: there is
no structure of skips, and none is needed. Over each boundary leads one :class:`~consensus.epochs.EpochChange`. That the
blocks before are ancestors of the new one follows from the protocol's safety, so with at most F of the stake faulty; a
path of headers shows it by hash (:meth:`LightClient.check_ancestor`).

Two proven blocks that exclude each other are a :class:`Fork`: more than F of the stake is faulty, and the value holds
what shows it. Below the checkpoint no proof is taken, only a path: whoever has sold its stake can sign another past.
For the same reason no change of epoch is taken there: in a later epoch than the first, the checkpoint to trust is the
boundary after which the epoch begins, and the history given here begins with it.

Pure: the caller gives headers, proofs, changes and the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from consensus.codec import digest
from consensus.commit_proof import extend
from consensus.engine import Refusal
from consensus.epoch_history import Contradiction, EpochHistory
from consensus.epochs import EpochChange
from consensus.types import HASH_SIZE, PATH_LENGTH_MAX, BlockHeader, BlockId, CommitProof, Epoch, Height

HEADS_KEPT_MAX: Final = 64
"""Heads that are remembered to be compared with what comes later."""
HEADERS_KEPT_MAX: Final = PATH_LENGTH_MAX
"""Headers in the proofs of all of them; the newest head is kept whatever its proof holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A block that is taken to be committed because someone trusted said so."""

    height: Height
    block_id: BlockId


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A block that ``proof`` shows committed."""

    header: BlockHeader
    block_id: BlockId
    proof: CommitProof

    @property
    def height(self) -> Height:
        """That of the header."""
        return self.header.height


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """The head is now this block."""

    head: Proven


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The block is committed, and not above the head, which stays. A checkpoint: the boundary of a change that was
    followed before; the proof that came with it now was not looked at."""

    block: Checkpoint | Proven


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """``kept`` and ``shown`` are both committed, each by its proof (a checkpoint by trust), and one chain cannot hold
    both: more than F of the stake is faulty, or the checkpoint is wrong. Keep it: both proofs are evidence. Where the
    path that shows it is too long for one proof, ``shown`` is the block that the path leads up to."""

    kept: Checkpoint | Proven
    shown: Proven
    reason: str


Outcome: TypeAlias = Advanced | Known | Fork | Refusal


class LightClient:
    """The highest block that was proven to this client. The head never goes down.

    ``history`` holds the epochs that are known, and grows with :meth:`follow`. ``checkpoint`` is the block after which
    it begins unless given. Raises ``ValueError`` for a checkpoint that cannot be one. Memory: the last
    ``HEADS_KEPT_MAX`` heads with their proofs, and the history's.
    """

    __slots__ = ("_checkpoint", "_headers_kept", "_history", "_kept")

    def __init__(self, history: EpochHistory, checkpoint: Checkpoint | None = None) -> None:
        genesis = history.first.genesis
        origin = Checkpoint(height=genesis.height, block_id=genesis.block_id)
        trusted = origin if checkpoint is None else checkpoint
        if len(trusted.block_id) != HASH_SIZE:
            raise ValueError(f"checkpoint: a block id has {HASH_SIZE} bytes, not {len(trusted.block_id)}")
        if trusted.height < origin.height or (trusted.height == origin.height and trusted != origin):
            raise ValueError(
                f"checkpoint: height {trusted.height} is not in epoch {history.first.epoch}, which begins after block "
                f"{origin.block_id.hex()} at height {origin.height}"
            )
        self._history = history
        self._checkpoint = trusted
        self._kept: dict[Height, Proven] = {}  # ascending
        self._headers_kept = 0

    @property
    def checkpoint(self) -> Checkpoint:
        """What this client began with."""
        return self._checkpoint

    @property
    def head(self) -> Checkpoint | Proven:
        """The highest proven block; the checkpoint before there is one."""
        return self._kept[next(reversed(self._kept))] if self._kept else self._checkpoint

    @property
    def epoch(self) -> Epoch:
        """The newest epoch whose validators are known."""
        return self._history.newest.epoch

    def advance(self, header: BlockHeader, proof: CommitProof) -> Outcome:
        """Take a committed block. The head goes up to it; a block at or below the head is compared with what is kept
        there. A refusal names the height; nothing has changed then, nor after a fork."""
        fault = self._foreign_fault(header)
        if fault is None and header.height < self._checkpoint.height:
            fault = (
                f"below the trusted checkpoint at height {self._checkpoint.height}, where a commit proof alone shows "
                "nothing; a path of headers up to the checkpoint does"
            )
        observer = self._history.observer(header.epoch)
        if fault is None and observer is None:
            fault = self._history.unknown(header.epoch)
        if fault is not None or observer is None:
            return Refusal(f"height {header.height}: {fault}")
        refusal = observer.verify_commit(proof, header, header.epoch)
        if refusal is not None:
            return Refusal(f"height {header.height}: {refusal.reason}")
        shown = Proven(header=header, block_id=digest(header), proof=proof)
        return self._fork(shown) or self._take(shown)

    def follow(self, change: EpochChange) -> Outcome:
        """Take the boundary of an epoch with the validators of the next: blocks of that epoch are followed from now on.
        Changes come one after the other; one that is known already is compared. A refusal names the epoch; nothing has
        changed then, nor after a fork."""
        boundary = change.boundary
        shown = Proven(header=boundary, block_id=digest(boundary), proof=change.proof)
        known = self._history.boundary(change.epoch)
        is_known = known is not None and known.block_id == shown.block_id
        if boundary.height < self._checkpoint.height and not is_known:
            return Refusal(
                f"change to epoch {change.epoch}: its boundary at height {boundary.height} is below the trusted "
                f"checkpoint at height {self._checkpoint.height}, where a proof alone shows nothing; trust the "
                "boundary after which the checkpoint's epoch begins instead"
            )
        outcome = self._history.check(change)
        if isinstance(outcome, Refusal):
            return outcome
        if isinstance(outcome, Contradiction):
            reason = f"epoch {change.epoch} begins after two boundaries, both committed"
            return Fork(kept=self._boundary(change.epoch), shown=shown, reason=reason)
        fork = None if is_known else self._fork(shown)
        if fork is not None:
            return fork
        self._history.extend(change)
        return Known(block=self._boundary(change.epoch)) if is_known else self._take(shown)

    def _take(self, shown: Proven) -> Advanced | Known:
        if shown.height <= self.head.height:
            return Known(block=shown)
        self._keep(shown)
        return Advanced(head=shown)

    def _boundary(self, epoch: Epoch) -> Checkpoint | Proven:
        """The block after which a known epoch begins, with its proof where that is kept."""
        change = self._history.change(epoch)
        if change is not None:
            return Proven(header=change.boundary, block_id=digest(change.boundary), proof=change.proof)
        known = self._history.boundary(epoch)
        assert known is not None, "the caller asked for a known epoch"
        return Checkpoint(height=known.height, block_id=known.block_id)

    def check_ancestor(self, header: BlockHeader, above: Sequence[BlockHeader]) -> Fork | Refusal | None:
        """None when ``header`` is an ancestor of a block that this client holds, by hash. ``above`` are the headers
        above it, ascending, up to and with the held block (a kept head, or the checkpoint); at most
        ``PATH_LENGTH_MAX``. A fork when the path is sound and leads to another block than the one held at its
        height."""
        if len(above) > PATH_LENGTH_MAX:
            return Refusal(f"path: {len(above)} headers, at most {PATH_LENGTH_MAX} are taken")
        for parent, child in pairwise((header, *above)):
            fault = link_fault(child, digest(parent), parent)
            if fault is not None:
                return Refusal(f"height {child.height}: {fault}")
        begin = self._history.boundary(header.epoch)
        if begin is not None and header.height == begin.height + 1 and header.parent != begin.block_id:
            return Refusal(
                f"height {header.height}: does not stand on {begin.block_id.hex()}, after which its epoch begins"
            )
        top = above[-1] if above else header
        held = self._held(top.height)
        if held is None or held.block_id != digest(top):
            return Refusal(f"height {top.height}: the path does not end in a block that is held here")
        return self._fork_below(header, above, held)

    def check_fresh(self, now_ms: int, age_ms_max: int) -> Refusal | None:
        """None when the head is at most ``age_ms_max`` old at ``now_ms`` (milliseconds since the Unix epoch). A head
        from the future counts as new: its signers' clocks are right, or more than F of them are faulty."""
        head = self.head
        if isinstance(head, Proven):
            timestamp_ms = head.header.timestamp_ms
        elif head.height == self._history.first.genesis.height:
            timestamp_ms = self._history.first.boundary_timestamp_ms
        else:
            return Refusal(f"stale: nothing was shown above the checkpoint at height {head.height}")
        age_ms = now_ms - timestamp_ms
        if age_ms > age_ms_max:
            return Refusal(f"stale: the head at height {head.height} is {age_ms} ms old, more than {age_ms_max} ms")
        return None

    def _foreign_fault(self, header: BlockHeader) -> str | None:
        """None for a header that can be of a known epoch of this chain."""
        first = self._history.first
        if header.chain != first.chain:
            return f"of chain {header.chain.hex()}, followed is {first.chain.hex()}"
        begins = self._history.boundary(header.epoch)
        if begins is None:
            return self._history.unknown(header.epoch)
        if header.height <= begins.height:
            return f"not above height {begins.height}, after which epoch {header.epoch} begins"
        return None

    def _held(self, height: Height) -> Checkpoint | Proven | None:
        if height == self._checkpoint.height:
            return self._checkpoint
        return self._kept.get(height)

    def _fork(self, shown: Proven) -> Fork | None:
        """``shown`` against its neighbours among what is held, and against the boundaries of its epoch."""
        epoch = shown.header.epoch
        below = max((height for height in self._kept if height <= shown.height), default=None)
        above = min((height for height in self._kept if height > shown.height), default=None)
        begins = self._boundary(epoch)
        for lower in (begins, self._checkpoint if below is None else self._kept[below]):
            reason = _exclusion(lower, shown)
            if reason is not None:
                return Fork(kept=lower, shown=shown, reason=reason)
        ends = None if self._history.boundary(epoch + 1) is None else self._boundary(epoch + 1)
        for upper in (None if above is None else self._kept[above], ends):
            reason = None if upper is None else _exclusion_above(shown, upper)
            if upper is not None and reason is not None:
                return Fork(kept=upper, shown=shown, reason=reason)
        return None

    def _fork_below(
        self, header: BlockHeader, above: Sequence[BlockHeader], top: Checkpoint | Proven
    ) -> Fork | Refusal | None:
        """``header`` stands below ``top`` by hash. Is it what is held at its own height?"""
        held = self._held(header.height)
        block_id = digest(header)
        if held is None or held.block_id == block_id:
            return None
        assert isinstance(top, Proven), "nothing is held below the checkpoint"
        reason = f"height {header.height}: {held.block_id.hex()} and {block_id.hex()} are both committed"
        proof = extend(top.proof, above)
        if proof is None:
            return Fork(kept=held, shown=top, reason=reason)
        return Fork(kept=held, shown=Proven(header=header, block_id=block_id, proof=proof), reason=reason)

    def _keep(self, head: Proven) -> None:
        self._kept[head.height] = head
        self._headers_kept += len(head.proof.headers)
        while len(self._kept) > 1 and (len(self._kept) > HEADS_KEPT_MAX or self._headers_kept > HEADERS_KEPT_MAX):
            oldest = self._kept.pop(next(iter(self._kept)))
            self._headers_kept -= len(oldest.proof.headers)


def link_fault(child: BlockHeader, parent_id: BlockId, parent: BlockHeader | None) -> str | None:
    """None when ``child`` stands on the block ``parent_id``, whose header is ``parent`` where it is at hand."""
    if not child.parent == parent_id == child.justify.block_id:
        return f"stands on {child.parent.hex()}, not on {parent_id.hex()}"
    if parent is None:
        return None
    if child.chain != parent.chain or child.height != parent.height + 1:
        return "of another chain than its parent's, or not one height above it"
    epoch = parent.epoch + 1 if parent.next_validators_hash else parent.epoch
    if child.epoch != epoch:
        return f"of epoch {child.epoch}, where its parent is followed by epoch {epoch}"
    if (child.epoch == parent.epoch and child.view <= parent.view) or child.timestamp_ms <= parent.timestamp_ms:
        return "its view or its timestamp is not after its parent's"
    return None


def _exclusion_above(lower: Proven, upper: Checkpoint | Proven) -> str | None:
    """As :func:`_exclusion`, where ``upper`` may be a boundary of which the header is not kept."""
    if isinstance(upper, Proven):
        return _exclusion(upper, lower) if upper.height <= lower.height else _exclusion(lower, upper)
    if upper.height > lower.height or upper.block_id == lower.block_id:
        return None
    return f"height {upper.height}: epoch {lower.header.epoch} ended there, with {upper.block_id.hex()}"


def _exclusion(lower: Checkpoint | Proven, upper: Proven) -> str | None:
    """Why no chain holds both, or None when one may. Views grow with every block of an epoch, timestamps with every
    block."""
    heights = upper.height - lower.height
    if heights == 0:
        if lower.block_id == upper.block_id:
            return None
        return f"height {upper.height}: {lower.block_id.hex()} and {upper.block_id.hex()} are both committed"
    if heights == 1 and upper.header.parent != lower.block_id:
        return (
            f"height {lower.height}: {lower.block_id.hex()} and {upper.header.parent.hex()}, the parent of the next "
            "block, are both committed"
        )
    if isinstance(lower, Checkpoint):
        return None
    epochs = upper.header.epoch - lower.header.epoch
    if epochs < bool(lower.header.next_validators_hash):
        return (
            f"height {upper.height}: a committed block of epoch {upper.header.epoch} cannot stand on the one of epoch "
            f"{lower.header.epoch} at height {lower.height}" + ("" if epochs else ", which ended its epoch")
        )
    views = heights if epochs else upper.header.view - lower.header.view
    if views < heights or upper.header.timestamp_ms - lower.header.timestamp_ms < heights:
        return (
            f"height {upper.height}: a committed block of view {upper.header.view} cannot stand on the one of view "
            f"{lower.header.view} at height {lower.height}"
        )
    return None
