"""The wait of a leader whose view was entered by a timeout certificate, in protocols whose rules ask for it
(``hotstuff2.py``): for two of the five delays that the view may take, or until all stake has reported.

Bounds: one bit per validator.
"""

from __future__ import annotations

from typing import Final

from consensus.types import Nanoseconds, ValidatorIndex
from consensus.validators import ValidatorSet

WAIT_TIMER: Final = "wait"
DELAYS_WAITED: Final = 2
DELAYS_PER_VIEW: Final = 5
"""After a failed view: one by which the leader may enter later than others, two of waiting, its block, the votes."""


class LeaderWait:
    """Who told the leader of the current view its highest certificate, and until when the leader waits for the rest."""

    __slots__ = ("_reported", "_stake", "_until_ns", "_validators")

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._until_ns: Nanoseconds = 0
        self._reported = 0
        self._stake = 0

    def begin(self, now: Nanoseconds, duration_ns: Nanoseconds) -> Nanoseconds:
        """A view of ``duration_ns`` begins at ``now``; when the wait ends."""
        self._reported = self._stake = 0
        self._until_ns = now + DELAYS_WAITED * duration_ns // DELAYS_PER_VIEW
        return self._until_ns

    def report(self, validator: ValidatorIndex) -> None:
        """That validator's highest certificate is known."""
        if not self._reported >> validator & 1:
            self._reported |= 1 << validator
            self._stake += self._validators.stakes[validator]

    def is_over(self, now: Nanoseconds) -> bool:
        return now >= self._until_ns or self._stake == self._validators.total
