"""Timeouts: how long a view lasts, who gave it up, and the certificate that a quorum did.

The current view is derived, never stored: ``max(high_qc.view, high_tc.view) + 1``. This file holds what the views of
all certificate protocols share: the duration with back-off and the bounded tally of timeouts. What a timeout signs
and how its certificate is checked belongs to the protocol.

Bounds: one timeout per signer, for views within ``VIEWS_AHEAD`` above the current one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from consensus.genesis import Pacing
from consensus.types import Nanoseconds, ValidatorIndex, View
from consensus.validators import ValidatorSet

VIEWS_AHEAD: Final = 16
NANOSECONDS_PER_MILLISECOND: Final = 1_000_000


def view_duration(pacing: Pacing, view: View, last_committed_view: View, depth: int) -> Nanoseconds:
    """How long ``view`` lasts: the base, grown for each view without a commit beyond the ``depth`` that a commit
    takes."""
    base = pacing.view_timeout_ms * NANOSECONDS_PER_MILLISECOND
    exponent = min(pacing.exponent_max, view - last_committed_view - depth)
    if exponent <= 0:
        return base
    grown: int = base * pacing.growth_numerator**exponent
    shrunk: int = pacing.growth_denominator**exponent
    return grown // shrunk


class SignedTimeout(Protocol):
    """A protocol's timeout message, as far as counting goes."""

    @property
    def view(self) -> View: ...
    @property
    def signer(self) -> ValidatorIndex: ...


T = TypeVar("T", bound=SignedTimeout)


@dataclass(slots=True)
class _View(Generic[T]):
    timeouts: dict[ValidatorIndex, T] = field(default_factory=dict)
    stake: int = 0


class TimeoutTally(Generic[T]):
    """The first timeout of each signer and view. Their signatures are not checked here: a sender is its signer, and
    the quorum's are checked together when the certificate is made."""

    __slots__ = ("_current", "_validators", "_views")

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._views: dict[View, _View[T]] = {}
        self._current: View = 1

    def advance(self, view: View) -> None:
        """The current view is ``view``: forget those before it."""
        self._current = view
        for old in [known for known in self._views if known < view]:
            del self._views[old]

    def add(self, timeout: T) -> int | None:
        """Take a timeout; the stake that gave up its view so far, or None for a duplicate or a view outside the
        window."""
        if not self._current <= timeout.view <= self._current + VIEWS_AHEAD:
            return None
        votes = self._views.get(timeout.view)
        if votes is None:
            votes = self._views[timeout.view] = _View()
        if timeout.signer in votes.timeouts:
            return None
        votes.timeouts[timeout.signer] = timeout
        votes.stake += self._validators.stakes[timeout.signer]
        return votes.stake

    def get(self, view: View, signer: ValidatorIndex) -> T | None:
        """The timeout of ``signer`` for ``view``, if it was taken."""
        votes = self._views.get(view)
        return None if votes is None else votes.timeouts.get(signer)

    def of(self, view: View) -> tuple[T, ...]:
        """The timeouts of a view, by signer."""
        votes = self._views.get(view)
        return () if votes is None else tuple(votes.timeouts[signer] for signer in sorted(votes.timeouts))

    def drop(self, view: View, signer: ValidatorIndex) -> None:
        """Take back a timeout whose signature was bad; its signer may send a good one."""
        votes = self._views.get(view)
        if votes is not None and votes.timeouts.pop(signer, None) is not None:
            votes.stake -= self._validators.stakes[signer]
