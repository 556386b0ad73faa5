"""Protocols by name: ours, and those that a third party registers under the entry-point group
``shared_sequencer.protocols``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from consensus.protocols.chained_family import chained
from consensus.protocols.chained_offences import HOTSTUFF2_OFFENCES, HOTSTUFF_OFFENCES, JOLTEON_OFFENCES
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.hotstuff2 import HotStuff2
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.simplex_definition import SIMPLEX
from consensus.protocols.streamlet_definition import STREAMLET
from consensus.protocols.tendermint_definition import tendermint

ENTRY_POINT_GROUP: Final = "shared_sequencer.protocols"

JOLTEON: Final = chained("jolteon", Jolteon(), JOLTEON_OFFENCES)
HOTSTUFF: Final = chained("hotstuff", HotStuff(), HOTSTUFF_OFFENCES)
HOTSTUFF2: Final = chained("hotstuff2", HotStuff2(), HOTSTUFF2_OFFENCES)
TENDERMINT: Final = tendermint("tendermint")
DEFAULT_PROTOCOL: Final = JOLTEON.name
_OURS: Final = {
    definition.name: definition for definition in (JOLTEON, HOTSTUFF, HOTSTUFF2, STREAMLET, SIMPLEX, TENDERMINT)
}


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
