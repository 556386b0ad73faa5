"""What Tendermint keeps durable, and how it is put together again after a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed
from consensus.engine import Recovered
from consensus.safety import SafetyGuard
from consensus.types import (
    VALIDATORS_MAX,
    Certificate,
    Integer,
    ProposalSubject,
    Subject,
    Vote,
    VoteSubject,
)

PROPOSING: Final = 0
PREVOTED: Final = 1
PRECOMMITTED: Final = 2
"""The steps of a round, named by what was done last."""


class SafetyState(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """The state after a signing decision, recorded with its slot. Every view only grows; a lock or a valid value of an
    earlier height is none."""

    view: Integer
    step: Annotated[int, Meta(ge=PROPOSING, le=PRECOMMITTED)]
    locked_view: Integer
    valid: Certificate | None
    entry: Annotated[tuple[Vote, ...], Meta(max_length=VALIDATORS_MAX)]
    """The votes that let this replica enter its round; none for round 0. Verified one by one."""


FRESH: Final = SafetyState(view=0, step=PROPOSING, locked_view=0, valid=None, entry=())
subjects: Final[Canonical[msgspec.Struct]] = Canonical[msgspec.Struct](ProposalSubject, VoteSubject)
_states: Final[Canonical[SafetyState]] = Canonical(SafetyState)


@dataclass(slots=True, kw_only=True)
class Restored:
    """The merged state of all records, and for each kind its subject with the state that was recorded with it."""

    state: SafetyState
    by_kind: dict[str, tuple[Subject, SafetyState]]


def restore(recovered: Recovered, guard: SafetyGuard) -> Restored:
    """Put the records of every kind together: the last lock, the last valid value, the furthest round and step. Raises
    ``ValueError`` for a journal that holds something else than what we write."""
    state = FRESH
    by_kind: dict[str, tuple[Subject, SafetyState]] = {}
    for record in recovered.safety:
        subject = guard.restore(record, subjects)
        own = _states.decode(record.state)
        if isinstance(own, Malformed):
            raise ValueError(f"safety record {record.kind!r}: state does not decode: {own.reason}")
        by_kind[record.kind] = (subject, own)
        state = _later(state, own)
    return Restored(state=state, by_kind=by_kind)


def _later(first: SafetyState, second: SafetyState) -> SafetyState:
    furthest = max(first, second, key=lambda state: (state.view, state.step))
    locked = max(first, second, key=lambda state: state.locked_view)
    valid = max(first.valid, second.valid, key=lambda polka: -1 if polka is None else polka.view)
    return msgspec.structs.replace(furthest, locked_view=locked.locked_view, valid=valid)
