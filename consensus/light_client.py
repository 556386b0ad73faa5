"""A light client: follows a chain from a trusted checkpoint by certificates alone, without bodies and mostly without
headers.

A commit proof shows by itself that its block is committed, because one validator set signs the whole epoch. To go from
the checkpoint to the newest block takes one header and one proof, however far apart the two are: there is no structure
of skips, and none is needed. That the blocks before are ancestors of the new one follows from the protocol's safety, so
with at most F of the stake faulty; a path of headers shows it by hash (:meth:`LightClient.check_ancestor`).

Two proven blocks that exclude each other are a :class:`Fork`: more than F of the stake is faulty, and the value holds
what shows it. Below the checkpoint no proof is taken, only a path: whoever has sold its stake can sign another past.

Pure: the caller gives headers, proofs and the time. Only one epoch is known here; headers of others are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol, TypeAlias

from consensus.codec import digest
from consensus.commit_proof import extend
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.types import HASH_SIZE, PATH_LENGTH_MAX, BlockHeader, BlockId, CommitProof, Epoch, Height

HEADS_KEPT_MAX: Final = 64
"""Heads that are remembered to be compared with what comes later."""
HEADERS_KEPT_MAX: Final = PATH_LENGTH_MAX
"""Headers in the proofs of all of them; the newest head is kept whatever its proof holds."""


class CommitRule(Protocol):
    """What is trusted besides the checkpoint: an epoch, and what its protocol calls committed."""

    @property
    def epoch(self) -> EpochInfo: ...
    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block committed in ``epoch``; the reason otherwise."""
        ...


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
    """The block is committed, and not above the head, which stays."""

    block: Proven


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

    ``checkpoint`` is genesis unless given. Raises ``ValueError`` for a checkpoint that cannot be one. Memory: the last
    ``HEADS_KEPT_MAX`` heads with their proofs.
    """

    __slots__ = ("_checkpoint", "_headers_kept", "_kept", "_rule")

    def __init__(self, rule: CommitRule, checkpoint: Checkpoint | None = None) -> None:
        genesis = rule.epoch.genesis
        origin = Checkpoint(height=genesis.height, block_id=genesis.block_id)
        trusted = origin if checkpoint is None else checkpoint
        if len(trusted.block_id) != HASH_SIZE:
            raise ValueError(f"checkpoint: a block id has {HASH_SIZE} bytes, not {len(trusted.block_id)}")
        if trusted.height < origin.height or (trusted.height == origin.height and trusted != origin):
            raise ValueError(
                f"checkpoint: height {trusted.height} is not in epoch {rule.epoch.epoch}, which begins after block "
                f"{origin.block_id.hex()} at height {origin.height}"
            )
        self._rule = rule
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

    def advance(self, header: BlockHeader, proof: CommitProof) -> Outcome:
        """Take a committed block. The head goes up to it; a block at or below the head is compared with what is kept
        there. A refusal names the height; nothing has changed then, nor after a fork."""
        fault = foreign_fault(header, self._rule.epoch)
        if fault is None and header.height < self._checkpoint.height:
            fault = (
                f"below the trusted checkpoint at height {self._checkpoint.height}, where a commit proof alone shows "
                "nothing; a path of headers up to the checkpoint does"
            )
        if fault is not None:
            return Refusal(f"height {header.height}: {fault}")
        refusal = self._rule.verify_commit(proof, header, header.epoch)
        if refusal is not None:
            return Refusal(f"height {header.height}: {refusal.reason}")
        shown = Proven(header=header, block_id=digest(header), proof=proof)
        fork = self._fork(shown)
        if fork is not None:
            return fork
        if header.height <= self.head.height:
            return Known(block=shown)
        self._keep(shown)
        return Advanced(head=shown)

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
        genesis = self._rule.epoch.genesis
        if header.height == genesis.height + 1 and header.parent != genesis.block_id:
            return Refusal(f"height {header.height}: does not stand on genesis, {genesis.block_id.hex()}")
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
        elif head.height == self._rule.epoch.genesis.height:
            timestamp_ms = self._rule.epoch.boundary_timestamp_ms
        else:
            return Refusal(f"stale: nothing was shown above the checkpoint at height {head.height}")
        age_ms = now_ms - timestamp_ms
        if age_ms > age_ms_max:
            return Refusal(f"stale: the head at height {head.height} is {age_ms} ms old, more than {age_ms_max} ms")
        return None

    def _held(self, height: Height) -> Checkpoint | Proven | None:
        if height == self._checkpoint.height:
            return self._checkpoint
        return self._kept.get(height)

    def _fork(self, shown: Proven) -> Fork | None:
        """``shown`` against its neighbours among what is held."""
        below = max((height for height in self._kept if height <= shown.height), default=None)
        above = min((height for height in self._kept if height > shown.height), default=None)
        lower = self._checkpoint if below is None else self._kept[below]
        reason = _exclusion(lower, shown)
        if reason is not None:
            return Fork(kept=lower, shown=shown, reason=reason)
        if above is not None:
            upper = self._kept[above]
            reason = _exclusion(shown, upper)
            if reason is not None:
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


def foreign_fault(header: BlockHeader, epoch: EpochInfo) -> str | None:
    """None for a header that can be of this epoch of this chain."""
    if header.chain != epoch.chain:
        return f"of chain {header.chain.hex()}, followed is {epoch.chain.hex()}"
    if header.epoch != epoch.epoch:
        return (
            f"of epoch {header.epoch}; only the validators of epoch {epoch.epoch} are known here, and changes of the "
            "set are not followed"
        )
    if header.height <= epoch.genesis.height:
        return f"not above height {epoch.genesis.height}, after which the epoch begins"
    return None


def link_fault(child: BlockHeader, parent_id: BlockId, parent: BlockHeader | None) -> str | None:
    """None when ``child`` stands on the block ``parent_id``, whose header is ``parent`` where it is at hand."""
    if not child.parent == parent_id == child.justify.block_id:
        return f"stands on {child.parent.hex()}, not on {parent_id.hex()}"
    if parent is None:
        return None
    if child.chain != parent.chain or child.height != parent.height + 1:
        return "of another chain than its parent's, or not one height above it"
    if child.view <= parent.view or child.timestamp_ms <= parent.timestamp_ms:
        return "its view or its timestamp is not after its parent's"
    return None


def _exclusion(lower: Checkpoint | Proven, upper: Proven) -> str | None:
    """Why no chain holds both, or None when one may. Views and timestamps grow with every block."""
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
    views = upper.header.view - lower.header.view
    if views < heights or upper.header.timestamp_ms - lower.header.timestamp_ms < heights:
        return (
            f"height {upper.height}: a committed block of view {upper.header.view} cannot stand on the one of view "
            f"{lower.header.view} at height {lower.height}"
        )
    return None
