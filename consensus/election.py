"""Leader schedules: who leads a view, as a pure function of the epoch's validators, the view and a seed fixed at the
epoch's start."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from itertools import accumulate
from typing import Final, Protocol

from consensus.types import ValidatorIndex, View
from consensus.validators import ValidatorSet

ROUND_ROBIN: Final = "round-robin"
STAKE_WEIGHTED: Final = "stake-weighted"


class LeaderSchedule(Protocol):
    """Maps every view from 1 on to one validator."""

    def leader(self, view: View) -> ValidatorIndex: ...


class RoundRobin:
    """Each validator in turn, ``views_per_leader`` views at a time. View 1 is led by validator 0."""

    __slots__ = ("_count", "_views_per_leader")

    def __init__(self, validators: ValidatorSet, views_per_leader: int) -> None:
        self._count = len(validators)
        self._views_per_leader = views_per_leader

    def leader(self, view: View) -> ValidatorIndex:
        return ((view - 1) // self._views_per_leader) % self._count


class StakeWeighted:
    """Each turn of ``views_per_leader`` views is drawn from SHA-256(seed, turn), proportionally to stake.

    A 256-bit draw modulo a total stake below 2**63 is uniform up to a bias under 2**-190.
    """

    __slots__ = ("_bounds", "_seed", "_views_per_leader")

    def __init__(self, validators: ValidatorSet, views_per_leader: int, seed: bytes) -> None:
        self._bounds = tuple(accumulate(validators.stakes))
        self._views_per_leader = views_per_leader
        self._seed = seed

    def leader(self, view: View) -> ValidatorIndex:
        turn = (view - 1) // self._views_per_leader
        draw = hashlib.sha256(self._seed + turn.to_bytes(8, "little")).digest()
        return bisect_right(self._bounds, int.from_bytes(draw, "little") % self._bounds[-1])


def leader_schedule(name: str, validators: ValidatorSet, views_per_leader: int, seed: bytes) -> LeaderSchedule:
    """The schedule that a chain spec names. Raises ``ValueError`` for an unknown name."""
    if name == ROUND_ROBIN:
        return RoundRobin(validators, views_per_leader)
    if name == STAKE_WEIGHTED:
        return StakeWeighted(validators, views_per_leader, seed)
    raise ValueError(f"election: {name!r} is neither {ROUND_ROBIN!r} nor {STAKE_WEIGHTED!r}")
