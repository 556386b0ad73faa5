"""What broken variants of every protocol are made of."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from consensus.codec import encode
from consensus.engine import Recovered, SafetyRecord
from consensus.protocols.proposal_checks import FirstProposals, P
from consensus.safety import Forbidden, Granted, SafetyGuard
from consensus.types import Subject

Forget = Callable[[SafetyRecord], SafetyRecord | None]
"""What is left of a record: None for nothing."""


class GrantsAll(SafetyGuard):
    """Grants every subject, whatever was signed in its slot."""

    def authorize(self, subject: Subject, state: msgspec.Struct) -> Granted | Forbidden:
        self._last.pop(subject.kind, None)
        return super().authorize(subject, state)


class TakesAll(FirstProposals[P]):
    """Takes every proposal for the first of its view."""

    def keep(self, proposal: P) -> bool:
        return True


def forgetting(recovered: Recovered, forget: Forget) -> Recovered:
    """What a restart finds that forgot something."""
    kept = [forget(record) for record in recovered.safety]
    return msgspec.structs.replace(recovered, safety=tuple(record for record in kept if record is not None))


def changed(record: SafetyRecord, state_type: type[msgspec.Struct], **changes: object) -> SafetyRecord:
    """The record with other fields in its state."""
    state = msgspec.msgpack.decode(record.state, type=state_type)
    return msgspec.structs.replace(record, state=encode(msgspec.structs.replace(state, **changes)))
