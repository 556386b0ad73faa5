"""What Streamlet (``streamlet.py``) sends and keeps durable besides blocks, votes and certificates."""

from __future__ import annotations

from typing import Final

import msgspec

from consensus.codec import Canonical, Malformed
from consensus.engine import Recovered
from consensus.safety import SafetyGuard
from consensus.types import (
    BlockHeader,
    Body,
    Certificate,
    Height,
    Integer,
    ProposalSubject,
    Signature,
    Subject,
    View,
    VoteSubject,
)


class Proposal(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """A leader's block with its body."""

    epoch: Integer
    header: BlockHeader
    body: Body
    signature: Signature


class Clock(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3):
    """The sender finds that ``view`` is due. Not signed: it counts for the validator whose connection it came by, and
    is never passed on."""

    epoch: Integer
    view: Integer


class Certificates(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=4
):
    """The certificate of the last block of a longest notarized chain that the sender has seen: the echo."""

    epoch: Integer
    longest: Certificate


class SafetyState(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """The state after a signing decision, recorded with its slot. Every field only grows."""

    last_voted_view: Integer
    last_voted_height: Integer
    longest: Certificate


subjects: Final[Canonical[msgspec.Struct]] = Canonical[msgspec.Struct](ProposalSubject, VoteSubject)
_states: Final[Canonical[SafetyState]] = Canonical(SafetyState)


def length(certificate: Certificate) -> tuple[Height, View]:
    """The order of notarized chains by their last certificate: the longer one first; of two alike, the later."""
    return certificate.height, certificate.view


def restore(recovered: Recovered, guard: SafetyGuard, genesis: Certificate) -> tuple[SafetyState, tuple[Subject, ...]]:
    """Put the records of both kinds together, field by field the highest, and return the stored subjects too. Raises
    ``ValueError`` for a journal that holds something else than what we write."""
    state = SafetyState(last_voted_view=0, last_voted_height=0, longest=genesis)
    stored: list[Subject] = []
    for record in recovered.safety:
        stored.append(guard.restore(record, subjects))
        own = _states.decode(record.state)
        if isinstance(own, Malformed):
            raise ValueError(f"safety record {record.kind!r}: state does not decode: {own.reason}")
        state = SafetyState(
            last_voted_view=max(state.last_voted_view, own.last_voted_view),
            last_voted_height=max(state.last_voted_height, own.last_voted_height),
            longest=max(state.longest, own.longest, key=length),
        )
    return state, tuple(stored)
