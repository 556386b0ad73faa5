"""One number for each view of a run, over all its epochs: views begin anew in each epoch, and what is counted by views
(faults, certificates, oracles) must tell those of two epochs apart. In the first epoch the number is the view's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consensus.protocols.definition import ProtocolDefinition
from consensus.types import View

SPAN: Final = 1 << 80
"""More than any protocol numbers its views within an epoch."""
_PROBE: Final = 1 << 60


def numbered(epoch: int, view: View) -> int:
    """The number of a view of an epoch. Grows from view to view and from epoch to epoch."""
    return epoch * SPAN + view if epoch else view


def split(number: int) -> tuple[int, View]:
    """The epoch and the view that a number stands for."""
    return divmod(number, SPAN)


def name_of(number: int) -> str:
    """``view 3``, ``view 3 of epoch 1``: for people."""
    epoch, view = split(number)
    return f"view {view} of epoch {epoch}" if epoch else f"view {view}"


class Turns:
    """The turns of a protocol (``ProtocolDefinition.turn``) by their numbers, from 1 in each epoch: where a turn counts
    heights, which go on from epoch to epoch, those before the epoch are taken off. ``boundaries`` are the heights at
    which the epochs end."""

    __slots__ = ("_bases", "_turn")

    def __init__(self, definition: ProtocolDefinition, boundaries: Sequence[int]) -> None:
        self._turn = definition.turn
        self._bases = turn_bases(definition, boundaries)

    def of(self, epoch: int, view: View) -> int:
        """The number of a view's turn."""
        if not epoch:
            return self._turn(view)
        return epoch * SPAN + max(self._turn(view) - self.base(epoch), 0)

    def base(self, epoch: int) -> int:
        """The protocol's turn before the first of an epoch."""
        return self._bases[epoch] if epoch < len(self._bases) else 0


def turn_bases(definition: ProtocolDefinition, boundaries: Sequence[int]) -> tuple[int, ...]:
    """By epoch, the turn before its first."""
    counts_heights = definition.turn(_PROBE) != _PROBE
    return (0, *(height if counts_heights else 0 for height in boundaries))
