"""Protocols by name: ours, and those that a third party registers under the entry-point group
``shared_sequencer.protocols``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final, Protocol

import msgspec

from consensus.codec import Canonical, Wire
from consensus.crypto.scheme import Scheme
from consensus.engine import Engine
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.chained_types import Certificates, Proposal, Timeout, TimeoutSubject
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.rules import ChainedRules
from consensus.types import (
    AncestorsRequest,
    AncestorsResponse,
    ProposalSubject,
    RangeRequest,
    RangeResponse,
    ValidatorIndex,
    Vote,
    VoteSubject,
)

ENTRY_POINT_GROUP: Final = "shared_sequencer.protocols"
_SYNC_MESSAGES: Final = (AncestorsRequest, AncestorsResponse, RangeRequest, RangeResponse)


class EngineFactory(Protocol):
    """Makes one replica's engine for one epoch. ``me`` is None for an observer."""

    def __call__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> Engine: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolDefinition:
    """What a protocol declares: its name, its messages and signed subjects (tagged structs, message tags below 16,
    which are block sync's), which of its messages carry payloads and so travel in bulk, and how an engine of it is
    made."""

    name: str
    messages: tuple[type[msgspec.Struct], ...]
    subjects: tuple[type[msgspec.Struct], ...]
    bulk: tuple[type[msgspec.Struct], ...]
    engine: EngineFactory

    def wire(self) -> Wire:
        """The codec of a chain that runs this protocol."""
        return Wire((*self.messages, *_SYNC_MESSAGES))

    def is_bulk(self, message: msgspec.Struct) -> bool:
        """True when a message may be large: it must not stand before votes in a queue."""
        return isinstance(message, (*self.bulk, AncestorsResponse, RangeResponse))

    def subject_codec(self) -> Canonical[msgspec.Struct]:
        """Decodes the subjects in safety records and evidence."""
        return Canonical[msgspec.Struct](*self.subjects)


def chained(name: str, rules: ChainedRules) -> ProtocolDefinition:
    """A member of the HotStuff family, from its rules."""

    def engine(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> Engine:
        return ChainedEngine(spec=spec, epoch=epoch, scheme=scheme, rules=rules, me=me)

    return ProtocolDefinition(
        name=name,
        messages=(Proposal, Vote, Timeout, Certificates),
        subjects=(ProposalSubject, VoteSubject, TimeoutSubject),
        bulk=(Proposal,),
        engine=engine,
    )


JOLTEON: Final = chained("jolteon", Jolteon())
HOTSTUFF: Final = chained("hotstuff", HotStuff())
DEFAULT_PROTOCOL: Final = JOLTEON.name
_OURS: Final = {JOLTEON.name: JOLTEON, HOTSTUFF.name: HOTSTUFF}


def protocol_names() -> tuple[str, ...]:
    """Every protocol that can be named, ours first."""
    others = sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - set(_OURS))
    return (*_OURS, *others)


def protocol_named(name: str) -> ProtocolDefinition:
    """The protocol of that name. Raises ``ValueError`` naming the known ones."""
    if name in _OURS:
        return _OURS[name]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            definition = point.load()
            if not isinstance(definition, ProtocolDefinition) or definition.name != name:
                raise ValueError(f"protocol: entry point {name!r} is not a ProtocolDefinition of that name")
            return definition
    raise ValueError(f"protocol: {name!r} is unknown; known are {', '.join(protocol_names())}")
