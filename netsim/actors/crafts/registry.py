"""Crafts by the proposals that they make: a protocol whose messages are known has a puppet, whatever its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from consensus.protocols import chained_types, simplex_types, streamlet_types, tendermint_types
from netsim.actors.cabal import Cabal
from netsim.actors.crafts.chained import ChainedCraft
from netsim.actors.crafts.craft import Craft, CraftFactory, Voter
from netsim.actors.crafts.simplex import SimplexCraft
from netsim.actors.crafts.streamlet import StreamletCraft
from netsim.actors.crafts.tendermint import TendermintCraft

CRAFTS: Final[Mapping[type[msgspec.Struct], CraftFactory]] = {
    chained_types.Proposal: ChainedCraft,
    simplex_types.Proposal: SimplexCraft,
    streamlet_types.Proposal: StreamletCraft,
    tendermint_types.Proposal: TendermintCraft,
    simplex_types.Proposal: SimplexCraft,
    streamlet_types.Proposal: StreamletCraft,
}


def craft_of(cabal: Cabal) -> Craft:
    """The craft that speaks the messages of the run's protocol."""
    for message in cabal.definition.messages:
        if message in CRAFTS:
            return CRAFTS[message](cabal)
    return Voter(cabal)
