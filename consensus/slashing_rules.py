"""What a validator may sign without being slashable: EIP-3076's conditions as pure functions.

A *complete* strategy: every signed message is remembered, except those that were pruned, of which watermarks remain.
With a signer's history, imported or its own, the EIP ("Conditions", and "Advice for Complete Databases") asks:

1. no block that is slashable with respect to a known one. Two different blocks of one slot are; a known block without a
   signing root differs from every block;
2. no block whose slot is at or below the lowest known slot, unless it repeats a known block;
3. no attestation that is slashable with respect to a known one: a second vote for one target, a vote that surrounds
   another, a vote that is surrounded by another (``is_slashable_attestation_data`` of the consensus specifications;
   Casper FFG, arXiv:1710.09437, section 2, commandments I and II);
4. no attestation whose source is below the lowest known source;
5. no attestation whose target is at or below the lowest known target, unless it repeats a known one.

Besides, a source after its target is never a valid vote. The bounds hold at all times, not only after an import, as
the EIP recommends.

**A repeat** has the slot (or the source and the target) and the signing root of the one message known there. A
missing root equals nothing, another missing root included. Where contradictory messages are known, nothing is a
repeat: one slot with two roots is remembered without a root, and a vote that another known vote surrounds stays
refused.

**Pruning** forgets messages and raises the watermarks to the highest forgotten slot, source and target. That is
enough: a double of a forgotten message has a target at or below the watermark; so has a vote that a forgotten one
surrounds; a vote that surrounds a forgotten one has a source below the watermark. Watermarks never fall.

**An import** of older messages does not lower the bounds either: the bounds before it stay behind as watermarks, below
which only a repeat is permitted. The interchange format cannot carry those on (:func:`without_watermarks`).

Slots and epochs are unsigned 64-bit, signing roots 32 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

UINT64_MAX: Final = 2**64 - 1
SIGNING_ROOT_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class SignedBlock:
    """A block that was signed, or is to be. ``signing_root`` (32 bytes) is None where nobody remembers it."""

    slot: int
    signing_root: bytes | None = None


@dataclass(frozen=True, slots=True)
class SignedAttestation:
    """An attestation (an FFG vote) that was signed, or is to be. ``signing_root`` as in :class:`SignedBlock`."""

    source_epoch: int
    target_epoch: int
    signing_root: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermarks:
    """Bounds that do not follow from the messages at hand: refuse slots ``<= slot``, sources ``< source_epoch``,
    targets ``<= target_epoch``, where it is not a repeat. None: no bound."""

    slot: int | None = None
    source_epoch: int | None = None
    target_epoch: int | None = None

    def raised(self, other: Watermarks) -> Watermarks:
        """The higher of each."""
        return Watermarks(
            slot=highest(self.slot, other.slot),
            source_epoch=highest(self.source_epoch, other.source_epoch),
            target_epoch=highest(self.target_epoch, other.target_epoch),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningHistory:
    """What one key signed, as far as it is known; ``forgotten`` stands for pruned messages. As stored: one block per
    slot, one attestation per source and target, all slots and targets above ``forgotten``. In a file the same message
    may stand twice, and nothing is forgotten."""

    pubkey: bytes
    blocks: tuple[SignedBlock, ...] = ()
    attestations: tuple[SignedAttestation, ...] = ()
    forgotten: Watermarks = field(default_factory=Watermarks)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFacts:
    """What a history says about one slot. ``lowest_slot`` is that of the known blocks, None without any."""

    same_slot: SignedBlock | None
    lowest_slot: int | None
    watermarks: Watermarks


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationFacts:
    """What a history says about one attestation.

    ``same_target``: the known ones with its target. ``inside``: of those with a higher source, the one with the
    lowest target; ``outside``: of those with a lower source, the one with the highest target. If any is surrounded or
    surrounds, these are. (They may be left out where they prove nothing.) ``lowest_...`` are those of the known ones,
    None without any.
    """

    same_target: tuple[SignedAttestation, ...]
    inside: SignedAttestation | None
    outside: SignedAttestation | None
    lowest_source: int | None
    lowest_target: int | None
    watermarks: Watermarks


class Rule(Enum):
    """Why a signature is refused; the number is the EIP's condition."""

    DOUBLE_BLOCK = "1: another block may have been signed for this slot"
    SLOT_TOO_LOW = "2: the slot is not above the lowest known"
    DOUBLE_VOTE = "3: another attestation may have been signed for this target"
    SURROUNDING = "3: it surrounds a signed attestation"
    SURROUNDED = "3: a signed attestation surrounds it"
    SOURCE_TOO_LOW = "4: the source is below the lowest known"
    TARGET_TOO_LOW = "5: the target is not above the lowest known"
    SOURCE_AFTER_TARGET = "not a vote: the source is after the target"


CONTRADICTIONS: Final = frozenset(
    {Rule.DOUBLE_BLOCK, Rule.DOUBLE_VOTE, Rule.SURROUNDING, Rule.SURROUNDED, Rule.SOURCE_AFTER_TARGET}
)
"""Rules that one history breaks only if its signer could be slashed; the others only bound what comes next."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Do not sign. ``known`` is the message, slot or epoch that stands against it; None for a vote that contradicts
    itself."""

    rule: Rule
    known: SignedBlock | SignedAttestation | int | None


@dataclass(frozen=True, slots=True)
class Permission:
    """Sign, once the message is recorded durably. A ``repeat`` is recorded already."""

    repeat: bool


Verdict: TypeAlias = Permission | Refusal


def judge_block(new: SignedBlock, known: BlockFacts) -> Verdict:
    """Whether a block may be signed, by conditions 1 and 2."""
    if known.same_slot is not None:
        if is_repeat(new.signing_root, known.same_slot.signing_root):
            return Permission(repeat=True)
        return Refusal(Rule.DOUBLE_BLOCK, known.same_slot)
    bound = highest(known.lowest_slot, known.watermarks.slot)
    if bound is not None and new.slot <= bound:
        return Refusal(Rule.SLOT_TOO_LOW, bound)
    return Permission(repeat=False)


def judge_attestation(new: SignedAttestation, known: AttestationFacts) -> Verdict:
    """Whether an attestation may be signed, by conditions 3, 4 and 5."""
    if new.source_epoch > new.target_epoch:
        return Refusal(Rule.SOURCE_AFTER_TARGET, None)
    if known.inside is not None and surrounds(new, known.inside):
        return Refusal(Rule.SURROUNDING, known.inside)
    if known.outside is not None and surrounds(known.outside, new):
        return Refusal(Rule.SURROUNDED, known.outside)
    source_bound = highest(known.lowest_source, known.watermarks.source_epoch)
    if source_bound is not None and new.source_epoch < source_bound:
        return Refusal(Rule.SOURCE_TOO_LOW, source_bound)
    if known.same_target:
        for other in known.same_target:
            if other.source_epoch != new.source_epoch or not is_repeat(new.signing_root, other.signing_root):
                return Refusal(Rule.DOUBLE_VOTE, other)
        return Permission(repeat=True)
    target_bound = highest(known.lowest_target, known.watermarks.target_epoch)
    if target_bound is not None and new.target_epoch <= target_bound:
        return Refusal(Rule.TARGET_TOO_LOW, target_bound)
    return Permission(repeat=False)


def surrounds(outer: SignedAttestation, inner: SignedAttestation) -> bool:
    """Whether ``outer`` begins before and ends after ``inner``."""
    return outer.source_epoch < inner.source_epoch and inner.target_epoch < outer.target_epoch


def is_repeat(new_root: bytes | None, known_root: bytes | None) -> bool:
    """Whether two messages of one slot, or of one source and target, are known to be the same. A missing root equals
    nothing."""
    return new_root is not None and new_root == known_root


def merged_root(known_root: bytes | None, other_root: bytes | None) -> bytes | None:
    """The root to remember where two histories have a message: none unless they agree, so that nothing is a repeat of
    either."""
    return known_root if is_repeat(other_root, known_root) else None


def lowest(history: SigningHistory) -> Watermarks:
    """The bounds that follow from the messages of a history: conditions 2, 4 and 5."""
    return Watermarks(
        slot=min((each.slot for each in history.blocks), default=None),
        source_epoch=min((each.source_epoch for each in history.attestations), default=None),
        target_epoch=min((each.target_epoch for each in history.attestations), default=None),
    )


def minimal(history: SigningHistory) -> SigningHistory:
    """At most one block and one attestation, with the highest slot, source and target, that rule out whatever the
    history rules out. Without roots: nothing can be repeated after it."""
    marks = history.forgotten
    slot = highest(marks.slot, max((each.slot for each in history.blocks), default=None))
    source = highest(marks.source_epoch, max((each.source_epoch for each in history.attestations), default=None))
    target = highest(marks.target_epoch, max((each.target_epoch for each in history.attestations), default=None))
    return SigningHistory(
        pubkey=history.pubkey,
        blocks=() if slot is None else (SignedBlock(slot),),
        attestations=() if source is None or target is None else (SignedAttestation(source, target),),
    )


def without_watermarks(history: SigningHistory) -> SigningHistory:
    """The same history in messages alone, as the interchange format has no watermarks.

    They are left out where the lowest messages bound as much, and otherwise become a message without a root. Whoever
    applies the conditions to the result refuses all that the history, with what it forgot, rules out.
    """
    marks, blocks, attestations = history.forgotten, history.blocks, history.attestations
    if marks.slot is not None and not blocks:
        blocks = (SignedBlock(marks.slot),)
    source, target, least = marks.source_epoch, marks.target_epoch, lowest(history).source_epoch
    if source is not None and target is not None and (least is None or least < source):
        # A lower source with a higher target then surrounds this one, and a lower target is below the lowest.
        attestations = (SignedAttestation(source, target), *attestations)
    return SigningHistory(pubkey=history.pubkey, blocks=blocks, attestations=attestations)


def highest(left: int | None, right: int | None) -> int | None:
    """The higher of two that may be missing."""
    if left is None or right is None:
        return right if left is None else left
    return max(left, right)
