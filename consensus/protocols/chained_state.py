"""What the HotStuff family keeps durable, and how it is put together again after a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from consensus.codec import Canonical, Malformed
from consensus.engine import Recovered
from consensus.protocols.chained_types import TimeoutCertificate, TimeoutSubject
from consensus.safety import SafetyGuard
from consensus.types import Certificate, Integer, ProposalSubject, Subject, VoteSubject


class SafetyState(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """The state after a signing decision, recorded with its slot. Every field only grows (certificates by view)."""

    last_voted_view: Integer
    """Includes views that were given up: nothing is voted for in a view after its timeout was signed."""
    lock: Certificate
    high_qc: Certificate
    high_tc: TimeoutCertificate | None


subjects: Final[Canonical[msgspec.Struct]] = Canonical[msgspec.Struct](ProposalSubject, VoteSubject, TimeoutSubject)
_states: Final[Canonical[SafetyState]] = Canonical(SafetyState)


@dataclass(slots=True, kw_only=True)
class Restored:
    """The merged state of all records, and for each kind the state that was recorded with its own subject."""

    state: SafetyState
    by_kind: dict[str, tuple[Subject, SafetyState]]


def restore(recovered: Recovered, guard: SafetyGuard, genesis: Certificate) -> Restored:
    """Put the records of every kind together: field by field the highest. Raises ``ValueError`` for a journal that
    holds something else than what we write."""
    state = SafetyState(last_voted_view=0, lock=genesis, high_qc=genesis, high_tc=None)
    by_kind: dict[str, tuple[Subject, SafetyState]] = {}
    for record in recovered.safety:
        subject = guard.restore(record, subjects)
        own = _states.decode(record.state)
        if isinstance(own, Malformed):
            raise ValueError(f"safety record {record.kind!r}: state does not decode: {own.reason}")
        by_kind[record.kind] = (subject, own)
        state = _higher(state, own)
    return Restored(state=state, by_kind=by_kind)


def _higher(first: SafetyState, second: SafetyState) -> SafetyState:
    return SafetyState(
        last_voted_view=max(first.last_voted_view, second.last_voted_view),
        lock=max(first.lock, second.lock, key=lambda certificate: certificate.view),
        high_qc=max(first.high_qc, second.high_qc, key=lambda certificate: certificate.view),
        high_tc=_higher_timeout_certificate(first.high_tc, second.high_tc),
    )


def _higher_timeout_certificate(
    first: TimeoutCertificate | None, second: TimeoutCertificate | None
) -> TimeoutCertificate | None:
    if first is None or (second is not None and second.view > first.view):
        return second
    return first
