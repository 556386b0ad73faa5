"""Actors by kind. A scenario's author adds one by giving ``Simulation(..., actors={"mine": Mine})``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from netsim.actors.puppet import Puppet
from netsim.actors.reconfigurer import Reconfigurer
from netsim.actors.simple import (
    FLOOD_MESSAGES_MAX,
    Exaggerator,
    Flooder,
    Impersonator,
    LyingSync,
    Mutator,
    Outdated,
    Silent,
    Slow,
)
from netsim.schedule import Actor
from netsim.world import Player

ActorFactory = Callable[[Actor], Player]
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
    "exaggerator": Exaggerator,
    "puppet": Puppet,
    "reconfigurer": Reconfigurer,
}

OPTIONS: Final[Mapping[str, Mapping[str, tuple[float, float]]]] = {
    "slow": {"delay_ms": (0, 1e6)},
    "outdated": {"from_ms": (0, 1e9), "every_ms": (1, 1e9)},
    "mutator": {"rate": (0, 1)},
    "reconfigurer": {"rate": (0, 1)},
    "flooder": {"count": (0, FLOOD_MESSAGES_MAX), "over_ms": (0, 1e6)},
    "exaggerator": {"count": (0, FLOOD_MESSAGES_MAX), "over_ms": (0, 1e6)},
}
"""What our actors' ``options`` are, each from and to."""


def actor_kinds() -> tuple[str, ...]:
    """Every kind that a scenario may name."""
    return ("honest", COPIED, *ACTORS)
