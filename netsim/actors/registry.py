"""Actors by kind. A scenario's author adds one by giving ``Simulation(..., actors={"mine": Mine})``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from netsim.actors.puppet import Puppet
from netsim.actors.simple import Flooder, Impersonator, LyingSync, Mutator, Outdated, Silent, Slow
from netsim.schedule import Actor
from netsim.world import Player

ActorFactory = Callable[[Actor], Player]
HONEST_KINDS: Final = ("honest", "slow")
"""Their signatures and logs are judged like anybody's."""
COPIED: Final = "twin"
"""A twin needs no player: it is a second honest core under the same key."""
ACTORS: Final[Mapping[str, ActorFactory]] = {
    "silent": Silent,
    "slow": Slow,
    "outdated": Outdated,
    "mutator": Mutator,
    "impersonator": Impersonator,
    "lying-sync": LyingSync,
    "flooder": Flooder,
    "puppet": Puppet,
}
FAULTY_KINDS: Final = (COPIED, *(kind for kind in ACTORS if kind not in HONEST_KINDS))


def actor_kinds() -> tuple[str, ...]:
    """Every kind that a scenario may name."""
    return ("honest", COPIED, *ACTORS)
