"""Tendermint as a protocol: what the rest of the system knows of it."""

from __future__ import annotations

import msgspec

from consensus.codec import digest
from consensus.protocols.definition import (
    Costs,
    EngineFactory,
    ProtocolDefinition,
    Statement,
    VoteKind,
    vote_statement,
)
from consensus.protocols.tendermint import TendermintEngine
from consensus.protocols.tendermint_types import PRECOMMIT, PREVOTE, Proposal, Standing, turn_of, view_name
from consensus.types import ProposalSubject, Vote, VoteSubject


def _statement(message: msgspec.Struct) -> Statement | None:
    if isinstance(message, Vote):
        return vote_statement(message)
    if isinstance(message, Proposal):
        subject = ProposalSubject(epoch=message.epoch, view=message.view, block_id=digest(message.header))
        return Statement(signer=message.proposer, subject=subject, signature=message.signature)
    return None


def tendermint(name: str, engine: EngineFactory = TendermintEngine) -> ProtocolDefinition:
    """Tendermint, or what somebody made of its engine."""
    return ProtocolDefinition(
        name=name,
        messages=(Proposal, Vote, Standing),
        subjects=(ProposalSubject, VoteSubject),
        bulk=(Proposal,),
        statement=_statement,
        votes=(
            VoteKind(name=PREVOTE, nil=True),
            VoteKind(name=PRECOMMIT, certifies=True, commits=True, nil=True),
        ),
        engine=engine,
        costs=Costs(
            commit_delays=3, commit_views=1, responsive=True, messages=lambda count: (count - 1) * (2 * count + 1)
        ),
        turn=turn_of,
        view_name=view_name,
    )
