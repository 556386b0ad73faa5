"""Simplex as a protocol: what ``simplex.py`` declares about itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from consensus.crypto.scheme import Scheme
from consensus.engine import Engine
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.offences import Offence
from consensus.protocols.definition import (
    Costs,
    ProtocolDefinition,
    Statement,
    VoteKind,
    proposal_statement,
    vote_statement,
)
from consensus.protocols.simplex import COMMIT_VIEWS, SimplexEngine
from consensus.protocols.simplex_types import (
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    Certificates,
    CertificatesRequest,
    Proposal,
)
from consensus.types import BlockHeader, ProposalSubject, Subject, ValidatorIndex, Vote, VoteSubject


def _finalizes_and_nullifies(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    return first.kind == FINALIZE and second.kind == NULLIFY and first.slot == second.slot


OFFENCES: Final = (Offence(name="finalize-and-nullify", forbids=_finalizes_and_nullifies),)


def simplex(name: str, engine_type: type[SimplexEngine]) -> ProtocolDefinition:
    """The protocol of an engine: ours, or one that changes something of it."""

    def engine(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> Engine:
        return engine_type(spec=spec, epoch=epoch, scheme=scheme, me=me)

    return ProtocolDefinition(
        name=name,
        messages=(Proposal, Vote, Certificates, CertificatesRequest),
        subjects=(ProposalSubject, VoteSubject),
        bulk=(Proposal,),
        statement=_statement,
        votes=(
            VoteKind(name=NOTARIZE, certifies=True),
            VoteKind(name=NULLIFY, nil=True, blocks=False),
            VoteKind(name=FINALIZE, certifies=True, commits=True),
        ),
        engine=engine,
        costs=Costs(
            commit_delays=3, commit_views=COMMIT_VIEWS, responsive=True, messages=lambda n: (n - 1) * (3 * n + 1)
        ),
        offences=OFFENCES,
    )


def _statement(message: msgspec.Struct) -> Statement | None:
    if isinstance(message, Vote):
        return vote_statement(message)
    if isinstance(message, Proposal):
        return proposal_statement(message.header, message.signature)
    return None


SIMPLEX: Final = simplex("simplex", SimplexEngine)
