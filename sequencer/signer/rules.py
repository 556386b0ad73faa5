"""What a key may sign, decided from what it signed before: a pure function of (subject, history).

1. A subject of one kind has a slot ``(epoch, major, minor)``. One subject per kind and slot, ever; the same subject
   again gets the same answer; otherwise the slots of a kind strictly grow.
2. No subject that is an *offence* (``consensus/offences.py``) together with a signed one of the same epoch, whichever
   of the two came first. So whatever the node asks, the key signs nothing of which its protocol's offences convict it.
3. Nothing at or below the *floor*, but a repeat: see memory.

**Memory is bounded.** Of each kind the last ``SUBJECTS_KEPT`` subjects are kept. The slot of one that is forgotten
becomes the floor of all kinds of the protocol: from then on all that is signed lies above all that was forgotten. What
then still matters of forgotten votes is kept besides (:func:`bind`): the one with the highest ``justify_view``, the
last that names a block, and the last that names another block than that. For the offences of our own protocols this is
as good as perfect memory; a test holds it against one. A protocol whose offences look at something else is protected
within the last ``SUBJECTS_KEPT`` subjects of each kind.

**Not decided here**: offences that need headers (``Offence.headers_needed``; three chains), since a signer holds no
blocks; and rules of honest nodes that convict nobody, such as a lock that no second signature shows.

Votes of finality count their slots in heights and for all epochs, so they have no part in the floor; that they neither
double nor surround each other is judged by :mod:`consensus.slashing_rules`, next to this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from consensus.finality.types import Checkpoint
from consensus.offences import Offence
from consensus.types import NIL_BLOCK, Slot, Subject, VoteSubject

SUBJECTS_KEPT: Final = 128
"""Of each key and kind. A node has fewer requests under way (``PENDING_MAX``), and no protocol of ours signs for a view
as far behind another one that it signed for."""


class Rule(StrEnum):
    """Why nothing is signed. The value goes over the wire."""

    MALFORMED = "malformed"
    CHAIN = "chain"
    EPOCH = "epoch"
    KEY = "key"
    KIND = "kind"
    CONTRADICTION = "contradiction"
    ORDER = "order"
    FLOOR = "floor"
    OFFENCE = "offence"
    SLASHABLE = "slashable"
    BEGIN = "begin"
    """Below the slot from which on an import lets keys sign, or a vote of finality that an import brought without its
    signing root. Nothing is wrong with the node that asks."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Do not sign. ``reason`` is for people: what was asked, and what stands against it."""

    rule: Rule
    reason: str


class Entry(NamedTuple):
    """A subject that was signed. ``signing_root`` is the SHA-256 of the exact bytes (32 bytes)."""

    subject: Subject
    signing_root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KindHistory:
    """Of one kind: the last entries in the order of their slots, and what still matters of the forgotten ones."""

    latest: tuple[Entry, ...] = ()
    bound: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one key signed, as far as it matters."""

    kinds: Mapping[str, KindHistory] = field(default_factory=dict)
    floor: Slot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Sign, once ``history`` is durable. ``forgotten`` are the entries that it holds no more. A repeat changes
    nothing."""

    repeat: bool
    history: History
    forgotten: tuple[Entry, ...] = ()


Verdict: TypeAlias = Grant | Refusal


def decide(new: Entry, history: History, offences: Sequence[Offence], *, of_protocol: bool) -> Verdict:
    """Whether to sign. ``of_protocol`` is false for votes of finality."""
    subject = new.subject
    same = history.kinds.get(subject.kind, KindHistory())
    slot = subject.slot
    for entry in reversed(same.latest):
        if entry.subject.slot == slot:
            if entry == new:
                return Grant(repeat=True, history=history)
            return Refusal(
                Rule.CONTRADICTION,
                f"asked for {shown(subject)}, and this slot holds {shown(entry.subject)}{_domain(entry, new)}",
            )
        if entry.subject.slot < slot:
            break
    if same.latest and slot < same.latest[-1].subject.slot:
        last = same.latest[-1].subject
        return Refusal(Rule.ORDER, f"asked for {shown(subject)} after {shown(last)}, which is of a later slot")
    if of_protocol and history.floor is not None and slot <= history.floor:
        return Refusal(
            Rule.FLOOR, f"asked for {shown(subject)}, but what was signed up to {history.floor} is partly forgotten"
        )
    found = _convicted(subject, history, offences) if of_protocol else None
    if found is not None:
        offence, stored = found
        return Refusal(Rule.OFFENCE, f"asked for {shown(subject)}, which is {offence.name!r} beside {shown(stored)}")
    return _remembered(new, history, same, of_protocol=of_protocol)


def bind(bound: Sequence[Entry], forgotten: Entry) -> tuple[Entry, ...]:
    """What still matters of a kind's forgotten subjects after one more, which has the highest slot of them."""
    entries = [entry for entry in (*bound, forgotten) if entry.subject.epoch == forgotten.subject.epoch]
    votes = [(entry, entry.subject) for entry in entries if isinstance(entry.subject, VoteSubject)]
    if not votes:
        return ()
    kept = [max(votes, key=lambda vote: vote[1].justify_view)[0]]
    naming = [(entry, vote.block_id) for entry, vote in votes if vote.block_id != NIL_BLOCK]
    if naming:
        last, named = naming[-1]
        kept += [last, *[entry for entry, block_id in naming if block_id != named][-1:]]
    return tuple(entry for entry in entries if entry in kept)


def _remembered(new: Entry, history: History, same: KindHistory, *, of_protocol: bool) -> Grant:
    latest, bound, floor = (*same.latest, new), same.bound, history.floor
    forgotten: tuple[Entry, ...] = ()
    if len(latest) > SUBJECTS_KEPT:
        oldest, latest = latest[0], latest[1:]
        if of_protocol:
            before = (*bound, oldest)
            bound = bind(bound, oldest)
            forgotten = tuple(entry for entry in before if entry not in bound)
            floor = oldest.subject.slot if floor is None else max(floor, oldest.subject.slot)
        else:
            forgotten = (oldest,)
    kinds = {**history.kinds, new.subject.kind: KindHistory(latest=latest, bound=bound)}
    return Grant(repeat=False, history=replace(history, kinds=kinds, floor=floor), forgotten=forgotten)


def _convicted(subject: Subject, history: History, offences: Sequence[Offence]) -> tuple[Offence, Subject] | None:
    """The offence that ``subject`` would be, and the signed subject beside which it is."""
    epoch, judged = subject.epoch, [offence for offence in offences if not offence.headers_needed]
    for kind in history.kinds.values() if judged else ():
        for stored, _ in (*kind.latest, *kind.bound):
            if stored.epoch == epoch:
                for offence in judged:
                    if offence.forbids(subject, stored, ()) or offence.forbids(stored, subject, ()):
                        return offence, stored
    return None


def shown(subject: Subject) -> str:
    """A subject for people: its kind and its fields, ids in short."""
    fields = msgspec.structs.asdict(cast("msgspec.Struct", subject))
    return (
        f"{subject.kind} ({', '.join(f'{name} {_short(value)}' for name, value in fields.items() if name != 'kind')})"
    )


def _short(value: object) -> str:
    match value:
        case bytes():
            return value.hex()[:16] or "none"
        case Checkpoint(height=height, id=block_id):
            return f"{height}:{block_id.hex()[:16]}"
        case _:
            return str(value)


def _domain(stored: Entry, new: Entry) -> str:
    return " under other validators" if stored.subject == new.subject else ""
