"""The wait of a leader whose view was entered by a timeout certificate, in protocols whose rules ask for it
(``hotstuff2.py``): for two of the five delays that the view may take, or until all stake has reported.

Bounds: one bit per validator.
"""

from __future__ import annotations

from typing import Final

from consensus.engine import Send, SetTimer, StepBuilder
from consensus.epochs import EpochInfo
from consensus.protocols.chained_types import Certificates
from consensus.types import Nanoseconds, PeerId, ValidatorIndex, View

WAIT_TIMER: Final = "wait"
DELAYS_WAITED: Final = 2
DELAYS_PER_VIEW: Final = 5
"""After a failed view: one by which the leader may enter later than others, two of waiting, its block, the votes."""


class LeaderWait:
    """One validator's part: who told it the highest certificate while it leads, and until when it waits for the rest.
    Adds to the step that ``out`` collects."""

    __slots__ = ("_epoch", "_me", "_out", "_reported", "_stake", "_until_ns")

    def __init__(self, epoch: EpochInfo, out: StepBuilder, me: ValidatorIndex) -> None:
        self._epoch = epoch
        self._out = out
        self._me = me
        self._until_ns: Nanoseconds = 0
        self._reported = 0
        self._stake = 0

    def begin(self, view: View, now: Nanoseconds, duration_ns: Nanoseconds, highest: Certificates) -> None:
        """``view``, of that duration, was entered by a timeout certificate: tell its leader the ``highest``
        certificates, or wait as it."""
        leader = self._epoch.leaders.leader(view)
        if leader != self._me:
            self._out.effects.append(Send(self._epoch.validators.peer_of(leader), highest))
            return
        self._reported = self._stake = 0
        self._until_ns = now + DELAYS_WAITED * duration_ns // DELAYS_PER_VIEW
        self._out.effects.append(SetTimer(WAIT_TIMER, self._until_ns))
        self._report(leader)

    def report(self, peer: PeerId) -> None:
        """That peer's highest certificate is known."""
        validator = self._epoch.validators.index_of(peer)
        if validator is not None:
            self._report(validator)

    def _report(self, validator: ValidatorIndex) -> None:
        if not self._reported >> validator & 1:
            self._reported |= 1 << validator
            self._stake += self._epoch.validators.stakes[validator]

    def is_over(self, now: Nanoseconds) -> bool:
        return now >= self._until_ns or self._stake == self._epoch.validators.total
