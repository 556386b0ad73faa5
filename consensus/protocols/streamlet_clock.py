"""The clock that Streamlet's replicas do not share: which view is due, by what the others' clocks say.

::

    my timer of view v rings, or stake A says that v+1 is due  ->  I say so too, to everybody, once
    stake Q says that v+1 is due                               ->  v+1 begins

Words get lost, so it is said again whenever the timer rings, and when v+1 begins more than D after it was said.

The first line cannot start without an honest timer, and the second cannot be missed: of the stake Q that lets one
replica enter a view, stake A is honest and told everybody, who then all say the same. So after GST all enter within
two message delays of the first, however far clocks and starting times lie apart. (Bracha's reliable broadcast, PODC
1984, of "the view is over".)

Bounds: one number per validator.
"""

from __future__ import annotations

from consensus.types import ValidatorIndex, View
from consensus.validators import ValidatorSet


class ViewClock:
    """The highest view that each validator has said is due."""

    __slots__ = ("_due", "_stakes")

    def __init__(self, validators: ValidatorSet) -> None:
        self._stakes = validators.stakes
        self._due: list[View] = [0] * len(validators)

    def hear(self, validator: ValidatorIndex, view: View) -> bool:
        """``validator`` says that ``view`` is due, or shows it by a vote. True when that is news."""
        news = view > self._due[validator]
        if news:
            self._due[validator] = view
        return news

    def due(self, stake: int) -> View:
        """The highest view that validators of at least ``stake`` together say is due."""
        said = 0
        for view, own in sorted(zip(self._due, self._stakes, strict=True), reverse=True):
            said += own
            if said >= stake:
                return view
        raise ValueError(f"due: no validators hold stake {stake}")
