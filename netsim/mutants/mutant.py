"""A row of the table of mutants."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.protocols.definition import ProtocolDefinition
from consensus.replica import Replica
from netsim.committee import ReplicaFactory
from netsim.simulation import Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A protocol broken in one place. ``scenario`` is the named scenario that must catch it."""

    id: str
    change: str
    definition: ProtocolDefinition
    scenario: str = "swarm"
    keep: Keep | None = None
    replica: ReplicaFactory = Replica

    @property
    def protocol(self) -> str:
        """The name of the protocol that was broken."""
        return self.definition.name

    @property
    def name(self) -> str:
        """Names it on the command line: ``S7-jolteon``."""
        return f"{self.id}-{self.protocol}"
