"""A verified history of validator sets: the one place where an epoch becomes trusted because of the one before.

It begins with an epoch that is trusted (that of genesis, or the one after a trusted boundary) and takes one
:class:`~consensus.epochs.EpochChange` after the other. A change counts when its boundary follows the last one in epoch
and height, where an epoch of this chain may end; when the epoch before shows it committed, by the protocol's own rule;
when the validators are those that the boundary names; and when each has proved that it holds its key, or faulty
validators, if they were a quorum, could name keys that let them sign for the honest (``crypto/bls.py``). Nothing is
ever taken back: a second change of an epoch that is known, as well proven as the first, is a :class:`Contradiction`,
and more than F of the stake of the epoch before is faulty.

Pure. Memory: ``EPOCHS_KEPT_MAX`` epochs whole, with their validators and an observer that verifies under them; of every
other only the boundary, by which its change is known again without a signature (:meth:`EpochHistory.extend`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from consensus.codec import digest
from consensus.crypto.scheme import Scheme
from consensus.engine import Engine, Refusal
from consensus.epochs import EpochChange, EpochInfo, epoch_after
from consensus.genesis import ChainSpec
from consensus.protocols.definition import EngineFactory
from consensus.types import BlockHeader, BlockId, CommitProof, Epoch, Height
from consensus.validators import ValidatorSet

EPOCHS_MAX: Final = 65_536
"""Epochs of one history. Beyond, begin with a newer boundary that is trusted."""
EPOCHS_KEPT_MAX: Final = 64
"""Epochs of which everything is kept: those last added or asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The block after which an epoch begins, and the hash of the validators that it names."""

    height: Height
    block_id: BlockId
    validators_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Two changes to one epoch, both proven. ``kept`` came first (None: it is not kept any more, or was trusted
    without a proof)."""

    kept: EpochChange | None
    shown: EpochChange


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """An epoch whole. ``change`` is None for the one that the history begins with."""

    info: EpochInfo
    observer: Engine
    change: EpochChange | None


class EpochHistory:
    """The epochs of one chain from ``first`` on, which is trusted; see the module's docstring. ``engine`` makes the
    observers that know what the chain's protocol calls committed."""

    __slots__ = ("_boundaries", "_engine", "_first", "_kept", "_newest", "_scheme", "_spec")

    def __init__(self, *, spec: ChainSpec, scheme: Scheme, engine: EngineFactory, first: EpochInfo) -> None:
        self._spec = spec
        self._scheme = scheme
        self._engine = engine
        self._first = first
        self._boundaries = [_boundary(first)]
        self._newest = self._observed(first, None)
        self._kept: dict[Epoch, _Known] = {first.epoch: self._newest}

    @property
    def first(self) -> EpochInfo:
        """The epoch that is trusted."""
        return self._first

    @property
    def newest(self) -> EpochInfo:
        """The last epoch that is known."""
        return self._newest.info

    def boundary(self, epoch: Epoch) -> Boundary | None:
        """The block after which ``epoch`` begins; None for an epoch that is not known."""
        position = epoch - self._first.epoch
        return self._boundaries[position] if 0 <= position < len(self._boundaries) else None

    def info(self, epoch: Epoch) -> EpochInfo | None:
        """A known epoch; None where its validators are not kept, or never were."""
        known = self._kept.get(epoch)
        return None if known is None else known.info

    def observer(self, epoch: Epoch) -> Engine | None:
        """The protocol's engine of a known epoch, which signs nothing; None as for :meth:`info`."""
        known = self._kept.get(epoch)
        return None if known is None else known.observer

    def change(self, epoch: Epoch) -> EpochChange | None:
        """How ``epoch`` began; None where that is not kept, and for the first one."""
        known = self._kept.get(epoch)
        return None if known is None else known.change

    def copy(self) -> Self:
        """A history that knows the same and goes on by itself."""
        copied = type(self)(spec=self._spec, scheme=self._scheme, engine=self._engine, first=self._first)
        copied._boundaries = list(self._boundaries)
        copied._newest = self._newest
        copied._kept = dict(self._kept)
        return copied

    def extend(self, change: EpochChange) -> EpochInfo | Contradiction | Refusal:
        """The epoch that ``change`` begins: one more, or one that was known, of which everything is kept again. A
        refusal names the epoch and what is wrong; nothing has changed then, nor after a contradiction."""
        info = self.check(change)
        if not isinstance(info, EpochInfo):
            return info
        if info.epoch > self._newest.info.epoch:
            self._boundaries.append(_boundary(info))
            self._newest = self._observed(info, change)
            self._keep(self._newest)
        else:
            # The proof of a change that is known is not looked at, so it is not kept: it might be shown as evidence.
            self._keep(self._kept.get(info.epoch) or self._observed(info, None))
        return info

    def check(self, change: EpochChange) -> EpochInfo | Contradiction | Refusal:
        """What :meth:`extend` would answer. Nothing changes."""
        newest = self._newest.info
        if change.epoch > newest.epoch + 1:
            return _refused(change, f"the changes to epochs {newest.epoch + 1} to {change.epoch - 1} are missing")
        if change.epoch <= self._first.epoch:
            return _refused(change, f"the history begins with epoch {self._first.epoch}, which is trusted")
        if len(self._boundaries) >= EPOCHS_MAX:
            return _refused(change, f"more than {EPOCHS_MAX} epochs; begin with a newer boundary that is trusted")
        known = self.boundary(change.epoch)
        if known is not None and known.block_id == digest(change.boundary):
            return self._known_again(change)
        before = self._kept.get(change.epoch - 1)
        if before is None:
            return _refused(change, f"the validators of epoch {change.epoch - 1} are not kept; show its change again")
        validators = _validators(change, self._spec, before.info)
        if isinstance(validators, str):
            return _refused(change, validators)
        refusal = before.observer.verify_commit(change.proof, change.boundary, change.boundary.epoch)
        if refusal is not None:
            return _refused(change, refusal.reason)
        unproven = possession_fault(validators, before.info.validators, self._scheme)
        if unproven is not None:
            return _refused(change, unproven)
        if known is not None:
            return Contradiction(kept=self.change(change.epoch), shown=change)
        return epoch_after(self._spec, change.boundary, validators)

    def extend_all(self, changes: Iterable[EpochChange]) -> Contradiction | Refusal | None:
        """Take changes one by one, up to the first that is refused or contradicts."""
        for change in changes:
            outcome = self.extend(change)
            if not isinstance(outcome, EpochInfo):
                return outcome
        return None

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block committed in ``epoch``, which has to be known, and whose heights
        hold it; the reason otherwise."""
        known, ended = self._kept.get(epoch), self.boundary(epoch + 1)
        if known is None:
            return Refusal(self.unknown(epoch))
        if header.height <= known.info.genesis.height:
            return Refusal(f"commit proof: not above height {known.info.genesis.height}, where epoch {epoch} begins")
        if ended is not None and header.height > ended.height:
            return Refusal(f"commit proof: above height {ended.height}, where epoch {epoch} ended")
        return known.observer.verify_commit(proof, header, epoch)

    def unknown(self, epoch: Epoch) -> str:
        """Why nothing can be verified in an epoch that is not kept."""
        if epoch < self._first.epoch:
            return f"of epoch {epoch}; trusted is what begins with epoch {self._first.epoch}"
        if epoch <= self.newest.epoch:
            return f"of epoch {epoch}, whose validators are not kept; show how it began again"
        return f"of epoch {epoch}; known are the validators up to epoch {self.newest.epoch}: show how later ones began"

    def _known_again(self, change: EpochChange) -> EpochInfo | Refusal:
        try:
            return epoch_after(self._spec, change.boundary, ValidatorSet(change.validators))
        except ValueError as error:
            return _refused(change, str(error))

    def _keep(self, known: _Known) -> None:
        self._kept.pop(known.info.epoch, None)
        self._kept[known.info.epoch] = known
        while len(self._kept) > EPOCHS_KEPT_MAX:
            del self._kept[next(epoch for epoch in self._kept if epoch != self.newest.epoch)]

    def _observed(self, info: EpochInfo, change: EpochChange | None) -> _Known:
        observer = self._engine(spec=self._spec, epoch=info, scheme=self._scheme, me=None)
        return _Known(info=info, observer=observer, change=change)


def possession_fault(validators: ValidatorSet, proven: ValidatorSet, scheme: Scheme) -> str | None:
    """None when every member shows that it holds its key, or has the key of a member of ``proven``, which did."""
    known = frozenset(proven.public_keys)
    for member in validators.validators:
        if member.public_key not in known and not scheme.check_public_key(member.public_key, member.possession_proof):
            return f"{member.name} does not prove that it holds its key {member.public_key.hex()}"
    return None


def _boundary(info: EpochInfo) -> Boundary:
    genesis = info.genesis
    return Boundary(height=genesis.height, block_id=genesis.block_id, validators_hash=info.validators.hash)


def _validators(change: EpochChange, spec: ChainSpec, before: EpochInfo) -> ValidatorSet | str:
    """The set of a change that may follow ``before``, or why it cannot; its proof is not looked at."""
    boundary, rules = change.boundary, spec.reconfiguration
    if rules is None:
        return "the validators of this chain do not change"
    if boundary.chain != before.chain:
        return f"the boundary is of chain {boundary.chain.hex()}, not of {before.chain.hex()}"
    if boundary.height <= before.genesis.height:
        return f"the boundary at height {boundary.height} is not above {before.genesis.height}, where its epoch begins"
    if boundary.timestamp_ms <= before.boundary_timestamp_ms:
        return "the boundary's timestamp is not after that of the boundary before"
    if boundary.height % rules.epoch_heights:
        return f"height {boundary.height} is no multiple of {rules.epoch_heights}, where an epoch of this chain may end"
    if not boundary.next_validators_hash:
        return f"the block at height {boundary.height} names no next validators"
    try:
        validators = ValidatorSet(change.validators)
    except ValueError as error:
        return str(error)
    if validators.hash != boundary.next_validators_hash:
        return (
            f"its validators hash to {validators.hash.hex()}, the boundary at height {boundary.height} names "
            f"{boundary.next_validators_hash.hex()}"
        )
    return validators


def _refused(change: EpochChange, reason: str) -> Refusal:
    return Refusal(f"change to epoch {change.epoch}: {reason}")
