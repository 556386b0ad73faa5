"""A member of the HotStuff family as a protocol: the chained engine with that member's rules."""

from __future__ import annotations

import msgspec

from consensus.crypto.scheme import Scheme
from consensus.engine import Engine
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.offences import Offence
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.chained_offences import signed_in_timeouts
from consensus.protocols.chained_types import Certificates, OrderVote, Proposal, Timeout, TimeoutSubject
from consensus.protocols.definition import ProtocolDefinition, Statement, VoteKind, proposal_statement, vote_statement
from consensus.protocols.order_votes import vote_in
from consensus.protocols.rules import ChainedRules
from consensus.signing import VOTE
from consensus.types import ProposalSubject, ValidatorIndex, Vote, VoteSubject


def chained(name: str, rules: ChainedRules, offences: tuple[Offence, ...] = ()) -> ProtocolDefinition:
    """A member of the HotStuff family, from its rules and what they forbid across views."""

    def engine(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> Engine:
        return ChainedEngine(spec=spec, epoch=epoch, scheme=scheme, rules=rules, me=me)

    def statement(message: msgspec.Struct) -> Statement | None:
        if isinstance(message, Vote):
            return vote_statement(message)
        if isinstance(message, Proposal):
            return proposal_statement(message.header, message.signature)
        if isinstance(message, Timeout):
            signed = rules.signed_high_qc_view(message.high_qc)
            subject = TimeoutSubject(epoch=message.epoch, view=message.view, high_qc_view=signed)
            return Statement(signer=message.signer, subject=subject, signature=message.signature)
        if isinstance(message, OrderVote):
            return vote_statement(vote_in(message))
        return None

    confirmation = rules.confirmation_kind
    return ProtocolDefinition(
        name=name,
        messages=(Proposal, Vote, Timeout, Certificates, *(() if confirmation is None else (OrderVote,))),
        subjects=(ProposalSubject, VoteSubject, TimeoutSubject),
        bulk=(Proposal,),
        statement=statement,
        votes=(VoteKind(name=VOTE, certifies=True), *(() if confirmation is None else (VoteKind(name=confirmation),))),
        engine=engine,
        costs=rules.costs,
        offences=offences,
        signed_in=signed_in_timeouts,
    )
