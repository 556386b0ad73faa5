"""Messages of epochs that are not ours: those of the next one are kept until it begins, those of earlier ones are
answered with the proof that their epoch is over.

The leader of an epoch's first view may be a network delay ahead of us: what it says then must not be lost. Whoever is
behind says it to everybody, again and again: one answer per ``interval`` and peer is enough.

Bounds: of each peer ``KEPT_COUNT_MAX`` messages and ``KEPT_BYTES_MAX`` bytes, of all ``KEPT_IN_ALL_BYTES_MAX``; what is
beyond is lost as on a bad link, and block sync makes up for it. ``ANSWERED_MAX`` peers are remembered.
"""

from __future__ import annotations

from typing import Final

from consensus.codec import encode
from consensus.engine import Received, Send, StepBuilder
from consensus.types import VALIDATORS_MAX, EpochEnd, Nanoseconds, PeerId

KEPT_COUNT_MAX: Final = 64
KEPT_BYTES_MAX: Final = 4 * 1024 * 1024
KEPT_IN_ALL_BYTES_MAX: Final = 64 * 1024 * 1024
KEPT_OVERHEAD_BYTES: Final = 512
"""What a message takes in memory beside its bytes, roughly."""
ANSWERED_MAX: Final = VALIDATORS_MAX


class EpochMail:
    """What came too early, and who was told that it is late. Adds to the step that ``out`` collects."""

    __slots__ = ("_answered", "_bytes", "_end", "_interval_ns", "_kept", "_of_peer", "_out")

    def __init__(self, out: StepBuilder, interval_ns: Nanoseconds) -> None:
        self._out = out
        self._interval_ns = interval_ns
        self._end: EpochEnd | None = None
        self._answered: dict[PeerId, Nanoseconds] = {}
        self._kept: list[Received] = []
        self._of_peer: dict[PeerId, tuple[int, int]] = {}
        self._bytes = 0

    def keep(self, received: Received) -> None:
        """A message of the next epoch."""
        count, size_bytes = self._of_peer.get(received.peer, (0, 0))
        if count >= KEPT_COUNT_MAX:
            return
        more_bytes = len(encode(received.message)) + KEPT_OVERHEAD_BYTES
        if size_bytes + more_bytes > KEPT_BYTES_MAX or self._bytes + more_bytes > KEPT_IN_ALL_BYTES_MAX:
            return
        self._of_peer[received.peer] = (count + 1, size_bytes + more_bytes)
        self._bytes += more_bytes
        self._kept.append(received)

    def take(self) -> list[Received]:
        """The next epoch begins: what was kept for it, in the order of arrival."""
        kept, self._kept = self._kept, []
        self._of_peer.clear()
        self._bytes = 0
        return kept

    @property
    def end(self) -> EpochEnd | None:
        """What shows that the last epoch before ours is over."""
        return self._end

    def ended(self, end: EpochEnd) -> None:
        """An epoch is over: this is what shows it."""
        self._end = end
        self._answered.clear()

    def answer(self, peer: PeerId, now: Nanoseconds) -> None:
        """A peer's message is of an epoch that is over."""
        last_ns = self._answered.get(peer)
        if self._end is None or (last_ns is not None and now < last_ns + self._interval_ns):
            return
        self._answered.pop(peer, None)
        self._answered[peer] = now
        if len(self._answered) > ANSWERED_MAX:
            del self._answered[next(iter(self._answered))]
        self._out.effects.append(Send(peer, self._end))
