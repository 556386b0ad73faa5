"""What a protocol declares about itself. A third party needs nothing else to be run, simulated, shown and proven by the
same suite as ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from consensus.codec import Canonical, Wire, digest
from consensus.crypto.scheme import Scheme
from consensus.engine import Engine
from consensus.epochs import EpochInfo
from consensus.finality.types import FfgVote
from consensus.genesis import ChainSpec
from consensus.offences import Offence, Signed, signed_in_proof
from consensus.types import (
    SYNC_MESSAGES,
    AncestorsResponse,
    BlockHeader,
    EpochEnd,
    ProposalSubject,
    RangeResponse,
    Subject,
    ValidatorIndex,
    View,
    Vote,
    vote_subject,
)


class EngineFactory(Protocol):
    """Makes one replica's engine for one epoch. ``me`` is None for an observer."""

    def __call__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> Engine: ...


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What one validator signed: the part of a message that can be held against it."""

    signer: ValidatorIndex
    subject: Subject
    signature: bytes


def vote_statement(vote: Vote) -> Statement:
    """What a vote states."""
    return Statement(signer=vote.signer, subject=vote_subject(vote), signature=vote.signature)


def proposal_statement(header: BlockHeader, signature: bytes) -> Statement:
    """What the proposer of a block states by signing its id."""
    subject = ProposalSubject(epoch=header.epoch, view=header.view, block_id=digest(header))
    return Statement(signer=header.proposer, subject=subject, signature=signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteKind:
    """A signing kind of ``Vote`` messages. ``certifies``: blocks may stand on a quorum of them. ``commits``: a quorum
    commits the block by itself. ``nil``: a vote may name no block (``NIL_BLOCK``); ``blocks``: it may name one."""

    name: str
    certifies: bool = False
    commits: bool = False
    nil: bool = False
    blocks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a protocol costs when nothing goes wrong, with votes broadcast; its suite measures it.

    ``commit_delays``: message delays from a leader's sending a block to its commit at every replica.
    ``commit_views``: views from a block's own up to the one in which it is known to be committed; no back-off before.
    ``responsive``: the time to commit follows the real delays and not a timer.
    ``messages``: messages that ``n`` validators send per block, at most.
    """

    commit_delays: int
    commit_views: int
    responsive: bool
    messages: Callable[[int], int]


def _same(view: View) -> int:
    return view


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolDefinition:
    """A protocol: its name; its messages and signed subjects (tagged structs, message tags below 16, which are block
    sync's; each has a field ``epoch``, and engines get those of their own epoch only); which of its messages carry
    payloads and so travel in bulk; what a message states and who signed that; its kinds of votes; how an engine of it
    is made; and what it costs. ``offences`` are the pairs of subjects that convict their signer, besides two in one
    slot; ``signed_in`` reads the proofs of its ``TranscriptRecord``.

    Views grow strictly along a chain and name one leader each. ``turn`` numbers them one by one where the protocol's
    own numbers leave gaps (a height and a round in one number); leader schedules and simulated faults go by turns.
    """

    name: str
    messages: tuple[type[msgspec.Struct], ...]
    subjects: tuple[type[msgspec.Struct], ...]
    bulk: tuple[type[msgspec.Struct], ...]
    statement: Callable[[msgspec.Struct], Statement | None]
    votes: tuple[VoteKind, ...]
    engine: EngineFactory
    costs: Costs
    offences: tuple[Offence, ...] = ()
    signed_in: Callable[[bytes], tuple[Signed, ...]] = signed_in_proof
    turn: Callable[[View], int] = _same
    view_name: Callable[[View], str] = str

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a message or subject without the field ``epoch``: a replica could not tell those of
        one epoch from those of the next."""
        for declared in (*self.messages, *self.subjects):
            if "epoch" not in declared.__struct_fields__:
                raise ValueError(f"protocol {self.name!r}: {declared.__name__} has no field 'epoch'")

    def wire(self) -> Wire:
        """The codec of a chain that runs this protocol."""
        return Wire((*self.messages, *SYNC_MESSAGES, FfgVote))

    def is_bulk(self, message: msgspec.Struct) -> bool:
        """True when a message may be large: it must not stand before votes in a queue."""
        return isinstance(message, (*self.bulk, AncestorsResponse, RangeResponse, EpochEnd))

    def subject_codec(self) -> Canonical[msgspec.Struct]:
        """Decodes the subjects in safety records and evidence."""
        return Canonical[msgspec.Struct](*self.subjects)
