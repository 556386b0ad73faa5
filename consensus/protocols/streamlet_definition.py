"""Streamlet as a protocol that a chain can name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from consensus.offences import Offence, Reading, Watch
from consensus.protocols.definition import (
    Costs,
    ProtocolDefinition,
    Statement,
    VoteKind,
    proposal_statement,
    vote_statement,
)
from consensus.protocols.streamlet import StreamletEngine
from consensus.protocols.streamlet_finality import COMMIT_VIEWS
from consensus.protocols.streamlet_types import Certificates, Clock, Proposal
from consensus.signing import VOTE
from consensus.types import BlockHeader, ProposalSubject, Subject, Vote, VoteSubject


def _falls_in_height(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    """Votes grow in view and never fall in height."""
    return (
        isinstance(first, VoteSubject)
        and isinstance(second, VoteSubject)
        and first.kind == second.kind == VOTE
        and first.view < second.view
        and first.height > second.height
    )


_VOTES: Final = Reading(Vote, VOTE, "view", "height")
OFFENCES: Final = (Offence(name="vote-falls-in-height", forbids=_falls_in_height, watch=Watch(_VOTES, _VOTES)),)

COSTS: Final = Costs(
    commit_delays=4, commit_views=COMMIT_VIEWS, responsive=False, messages=lambda n: (n - 1) * (3 * n + 1)
)
"""Four delays: a block and its votes, and the next block and its votes, which waits for the next view. Messages: a
proposal, and of every validator one vote, one certificate and one word about the clock to every other."""


def _statement(message: msgspec.Struct) -> Statement | None:
    if isinstance(message, Vote):
        return vote_statement(message)
    if isinstance(message, Proposal):
        return proposal_statement(message.header, message.signature)
    return None


def streamlet(engine: type[StreamletEngine]) -> ProtocolDefinition:
    """The protocol with this engine."""
    return ProtocolDefinition(
        name="streamlet",
        messages=(Proposal, Vote, Clock, Certificates),
        subjects=(ProposalSubject, VoteSubject),
        bulk=(Proposal,),
        statement=_statement,
        votes=(VoteKind(name=VOTE, certifies=True),),
        engine=engine,
        costs=COSTS,
        offences=OFFENCES,
    )


STREAMLET: Final = streamlet(StreamletEngine)
