"""What is remembered of a peer beyond one connection: counters, unread frames, and how it behaved."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

import trio

from consensus.ports import Connected, Disconnected, Frame
from consensus.types import Nanoseconds, PeerId
from sequencer.transport.limits import NANOSECONDS, Limits
from sequencer.transport.queues import Box

Role: TypeAlias = Literal["validator", "observer"]

_MINUTE_S = 60.0
_EXPONENT_MAX = 32


@dataclass(frozen=True, kw_only=True)
class PeerState:
    """A peer as the API shows it. Bytes count frames with their headers, both streams, since this node started."""

    peer: PeerId
    role: Role
    """In the current epoch, as this node knows it."""
    connected: bool
    connections: int
    """Links made since the start."""
    bytes_in: int
    bytes_out: int
    drops_out: int
    """Frames that full queues pushed out before they were sent."""
    drops_in: int
    """Frames of node channels that found their inbox full."""
    rejects: int
    last_reason: str
    """Of the last reject, refusal or loss of the connection; empty when there was none."""
    barred: bool
    round_trip_ns: Nanoseconds | None
    """Smoothed over the pings of the control stream, as RFC 6298 does; None before the first."""


class PeerRecord:
    """One peer's memory. Times are those of ``trio.current_time()``."""

    __slots__ = (
        "_bar_level",
        "_barred_until",
        "_limits",
        "_window_rejects",
        "_window_start",
        "boxes",
        "bulk",
        "bytes_in",
        "bytes_out",
        "connections",
        "control",
        "drops_in",
        "drops_out",
        "last_reason",
        "peer",
        "rejects",
        "role",
        "round_trip_ns",
    )

    def __init__(self, peer: PeerId, role: Role, limits: Limits, channels: tuple[int, ...]) -> None:
        self.peer = peer
        self.role: Role = role
        self.control: Box[Connected | Disconnected | Frame] = Box()
        self.bulk: Box[Connected | Disconnected | Frame] = Box()
        self.boxes: dict[int, Box[Frame]] = {channel: Box() for channel in channels}
        self.bytes_in = 0
        self.bytes_out = 0
        self.connections = 0
        self.drops_in = 0
        self.drops_out = 0
        self.rejects = 0
        self.last_reason = ""
        self.round_trip_ns: Nanoseconds | None = None
        self._limits = limits
        self._window_start = -_MINUTE_S
        self._window_rejects = 0
        self._barred_until = 0.0
        self._bar_level = 0

    def reject(self, reason: str) -> bool:
        """Count a fault. True when the peer is to be kept out now: see :meth:`barred_s`."""
        now = trio.current_time()
        self.rejects += 1
        self.last_reason = reason
        if now - self._window_start >= _MINUTE_S:
            self._window_start, self._window_rejects = now, 0
        self._window_rejects += 1
        if self._window_rejects <= self._limits.rejects_per_minute_max or self.barred_s() > 0:
            return False
        if now - self._barred_until > self._limits.bar_max_s:
            self._bar_level = 0  # it behaved for long enough
        bar_s = min(self._limits.bar_max_s, self._limits.bar_first_s * 2 ** min(self._bar_level, _EXPONENT_MAX))
        self._bar_level += 1
        self._barred_until = now + bar_s
        self._window_start, self._window_rejects = now, 0
        return True

    def barred_s(self) -> float:
        """Seconds until the peer may connect again; 0 when it may."""
        return max(0.0, self._barred_until - trio.current_time())

    def measured(self, round_trip_s: float) -> None:
        """Take one round trip into the estimate."""
        sample = int(round_trip_s * NANOSECONDS)
        self.round_trip_ns = sample if self.round_trip_ns is None else (7 * self.round_trip_ns + sample) // 8

    def state(self, *, connected: bool) -> PeerState:
        return PeerState(
            peer=self.peer,
            role=self.role,
            connected=connected,
            connections=self.connections,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            drops_out=self.drops_out,
            drops_in=self.drops_in,
            rejects=self.rejects,
            last_reason=self.last_reason,
            barred=self.barred_s() > 0,
            round_trip_ns=self.round_trip_ns if connected else None,
        )


class RareLog:
    """A log that says one thing about one subject at most every ``interval_s``, and then how often it held back."""

    __slots__ = ("_interval_s", "_logger", "_seen", "_subjects_max")

    def __init__(self, logger: logging.Logger, *, interval_s: float = 10.0, subjects_max: int = 256) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._subjects_max = subjects_max
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def say(self, subject: str, message: str) -> bool:
        """Whether it was said."""
        now = trio.current_time()
        last, held_back = self._seen.get(subject, (-self._interval_s, 0))
        if now - last < self._interval_s:
            self._seen[subject] = (last, held_back + 1)
            return False
        self._seen[subject] = (now, 0)
        self._seen.move_to_end(subject)
        if len(self._seen) > self._subjects_max:
            self._seen.popitem(last=False)
        self._logger.warning("%s%s", message, f" ({held_back} more of this kind before)" if held_back else "")
        return True
