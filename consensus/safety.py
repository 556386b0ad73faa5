"""The safety guard: checks a subject and records its slot in one function. Nothing else makes a ``Sign`` effect.

One subject per kind and slot, slots strictly growing within a kind, and the same question gets the stored answer: a
second request for the stored subject gives its ``Sign`` again and no new record. What else a protocol forbids (a vote
after a timeout, a vote against its lock) is judged by its rules before the guard is asked; the state that those rules
need is recorded with the slot.
"""

from __future__ import annotations

from typing import cast

import msgspec

from consensus.codec import Canonical, Malformed, encode
from consensus.engine import SafetyRecord, Sign, StepBuilder
from consensus.types import Subject


class Granted(msgspec.Struct, frozen=True):
    """The records that must be durable first (none when the answer was stored before), and the effect."""

    records: tuple[SafetyRecord, ...]
    sign: Sign


class Forbidden(msgspec.Struct, frozen=True):
    """The guard refuses: another subject holds this slot or a later one."""

    kind: str
    stored: Subject


class SafetyGuard:
    """The last subject of each kind that this signer was asked to sign."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, Subject] = {}

    def restore(self, record: SafetyRecord, subjects: Canonical[msgspec.Struct]) -> Subject:
        """Take back a record after a restart, and return its subject. Raises ``ValueError`` when the journal holds
        something else than what was recorded."""
        decoded = subjects.decode(record.subject)
        if isinstance(decoded, Malformed):
            raise ValueError(f"safety record {record.kind!r} does not decode: {decoded.reason}")
        subject = cast("Subject", decoded)
        if subject.kind != record.kind:
            raise ValueError(f"safety record {record.kind!r} holds a subject of kind {subject.kind!r}")
        self._last[record.kind] = subject
        return subject

    def authorize(self, subject: Subject, state: msgspec.Struct) -> Granted | Forbidden:
        """Grant ``subject`` its slot, with ``state`` (the protocol's durable state after this decision) in the same
        record."""
        kind = subject.kind
        last = self._last.get(kind)
        if last is not None:
            if last == subject:
                return Granted((), Sign(subject))
            if subject.slot <= last.slot:
                return Forbidden(kind, last)
        self._last[kind] = subject
        record = SafetyRecord(kind=kind, subject=encode(cast("msgspec.Struct", subject)), state=encode(state))
        return Granted((record,), Sign(subject))

    def sign(self, subject: Subject, state: msgspec.Struct, out: StepBuilder) -> None:
        """Grant ``subject`` into the step that ``out`` collects: its record, then its ``Sign``. The rules asked before
        whether it may be signed, so a refusal here is our bug, and raises ``RuntimeError``."""
        granted = self.authorize(subject, state)
        if isinstance(granted, Forbidden):
            raise RuntimeError(f"the guard refuses {subject}: {granted.stored} holds that slot")
        out.records += granted.records
        out.effects.append(granted.sign)

    def again(self, subject: Subject) -> Sign:
        """The stored subject of this kind, or the same of another epoch, said with another key: it needs no record of
        its own. Raises ``RuntimeError`` for one that says anything else: that is our bug."""
        last = self._last.get(subject.kind)
        said = None if last is None else msgspec.structs.replace(cast("msgspec.Struct", subject), epoch=last.epoch)
        if said is None or said != cast("msgspec.Struct", last):
            raise RuntimeError(f"the guard refuses {subject}: stored is {last}")
        return Sign(subject)

    def stored(self) -> tuple[Sign, ...]:
        """The stored answers again, by kind: what a restart re-emits."""
        return tuple(Sign(self._last[kind]) for kind in sorted(self._last))
