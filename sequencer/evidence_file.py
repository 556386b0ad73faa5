"""The content of an evidence file: proof of guilt for a stranger who holds the chain's genesis and nothing else.

Of the first epoch that is the evidence alone. Of a later one the file also brings how the epochs up to there began,
which is verified before the evidence is looked at. (What nodes send each other is the evidence alone: they know the
epochs.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, encode
from consensus.engine import Refusal
from consensus.epoch_history import Contradiction, EpochHistory
from consensus.epochs import EpochChange
from consensus.evidence import EVIDENCE_SIZE_MAX, Evidence, decode_evidence, encode_evidence, epochs_of
from consensus.protocols.definition import ProtocolDefinition
from sequencer.epoch_changes import CHANGES_MAX

FILE_SIZE_MAX: Final = 64 * 1024 * 1024


class EvidenceOfLaterEpoch(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True
):
    """``changes`` are consecutive, from the one to epoch 1 on, up to the latest epoch that ``evidence`` names."""

    changes: Annotated[tuple[EpochChange, ...], Meta(min_length=1, max_length=CHANGES_MAX)]
    evidence: Evidence


_files: Final = Canonical(EvidenceOfLaterEpoch)


def encode_evidence_file(evidence: Evidence, changes: Sequence[EpochChange], definition: ProtocolDefinition) -> bytes:
    """The canonical content. ``changes`` are all that are known, ascending. Where they would not fit a file, it holds
    the evidence alone, and whoever verifies it needs them from elsewhere."""
    needed = tuple(change for change in changes if change.epoch <= epochs_of(evidence, definition)[-1])
    if 0 < len(needed) <= CHANGES_MAX:
        data = encode(EvidenceOfLaterEpoch(changes=needed, evidence=evidence))
        if len(data) <= FILE_SIZE_MAX:
            return data
    return encode_evidence(evidence)


def decode_evidence_file(data: bytes) -> EvidenceOfLaterEpoch | Evidence | Malformed:
    """What a file holds; nothing is verified yet."""
    if len(data) > FILE_SIZE_MAX:
        return Malformed(f"a file of {len(data)} bytes exceeds {FILE_SIZE_MAX}")
    later = _files.decode(data)
    if isinstance(later, EvidenceOfLaterEpoch):
        return later if len(encode_evidence(later.evidence)) <= EVIDENCE_SIZE_MAX else Malformed("evidence too large")
    return decode_evidence(data)


def follow_changes(history: EpochHistory, changes: Sequence[EpochChange]) -> Refusal | None:
    """Learn the changes that are not known yet. The reason where one is refused, or is not the one that is known."""
    for change in changes:
        if change.epoch > history.first.epoch:
            outcome = history.extend(change)
            if isinstance(outcome, Refusal):
                return outcome
            if isinstance(outcome, Contradiction):
                return Refusal(f"change to epoch {change.epoch}: another one is known, and as well proven")
    return None
