"""A row of the table of mutants."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.protocols.definition import ProtocolDefinition
from consensus.replica import Replica
from consensus.finality.types import FFG
from netsim.committee import ReplicaFactory
from netsim.histories.mutants import FinalityMutant
from netsim.simulation import Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A protocol broken in one place. ``scenario`` is the named scenario that must catch it, ``keep`` is what its
    journals keep, ``replica`` makes its replicas."""

    id: str
    change: str
    definition: ProtocolDefinition
    scenario: str = "swarm"
    keep: Keep | None = None
    replica: ReplicaFactory = Replica
    rule: FinalityMutant | None = None
    """A rule of finality that is altered instead: caught by random histories of votes, not by a scenario."""

    @property
    def protocol(self) -> str:
        """The name of the protocol that was broken."""
        return self.definition.name if self.rule is None else FFG

    @property
    def name(self) -> str:
        """Names it on the command line: ``S7-jolteon``."""
        return f"{self.id}-{self.protocol}"
