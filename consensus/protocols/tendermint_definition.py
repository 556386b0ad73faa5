"""Tendermint as a protocol: what the rest of the system knows of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from consensus.codec import digest
from consensus.offences import Offence, Reading, Watch
from consensus.protocols.definition import (
    Costs,
    EngineFactory,
    ProtocolDefinition,
    Statement,
    VoteKind,
    vote_statement,
)
from consensus.protocols.tendermint import TendermintEngine
from consensus.protocols.tendermint_types import (
    PRECOMMIT,
    PREVOTE,
    Proposal,
    Standing,
    height_of,
    turn_of,
    view_name,
)
from consensus.types import NIL_BLOCK, BlockHeader, ProposalSubject, Subject, Vote, VoteSubject


def _forgets_lock(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    """Amnesia: precommit(h, r, B), then prevote(h, r' > r, another block, valid round below r). The precommit locked r,
    a lock never falls, and a prevote's justify view is never below the lock (``tendermint.py``, deviations)."""
    return (
        isinstance(first, VoteSubject)
        and isinstance(second, VoteSubject)
        and (first.kind, second.kind) == (PRECOMMIT, PREVOTE)
        and NIL_BLOCK not in (first.block_id, second.block_id)
        and first.block_id != second.block_id
        and height_of(first.view) == height_of(second.view)
        and first.height == second.height  # a vote whose height is not its view's is nobody's vote
        and first.view < second.view
        and second.justify_view < first.view
    )


OFFENCES: Final = (
    Offence(
        name="amnesia",
        forbids=_forgets_lock,
        watch=Watch(Reading(Vote, PRECOMMIT, "view", "view"), Reading(Vote, PREVOTE, "view", "justify_view")),
    ),
)


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
        offences=OFFENCES,
        turn=turn_of,
        view_name=view_name,
    )
