"""The network: what becomes of a message from one node to another.

Everything that one node sends to another passes here, block sync included. Delays come from the stream ``latency``,
losses from ``loss``, copies from ``duplication``, late ones from ``reorder``.

Bandwidth is shared fairly: a message of ``b`` bits on a node with ``k`` busy flows (peers it is sending to, or
receiving from) takes ``k * b / rate`` there, after what its own flow still has to carry. Shares are set when a message
joins, not revised while it is carried.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final, Protocol, assert_never

import msgspec

from consensus.types import epoch_of
from netsim.geography import one_way_ms
from netsim.numbering import numbered
from netsim.randomness import stream
from netsim.reading import names_of, view_of
from netsim.schedule import (
    Constant,
    Drop,
    Empirical,
    Exponential,
    Latency,
    Link,
    Normal,
    Schedule,
    Uniform,
)
from netsim.validation import positions

MILLISECOND: Final = 1_000_000
_encode: Final = msgspec.msgpack.Encoder().encode
NO_LINK_DELAY_LESS_THAN_NS: Final = 1_000
Sampler = Callable[[], int]
"""Draws one delay in nanoseconds."""


def nanoseconds(milliseconds: float) -> int:
    """Whole nanoseconds of a schedule's milliseconds."""
    return round(milliseconds * MILLISECOND)


def sampler(latency: Latency, draws: random.Random) -> Sampler:
    """A function that draws one delay in nanoseconds."""
    draw = draws.random
    match latency:
        case Constant(ms=ms):
            fixed = max(nanoseconds(ms), NO_LINK_DELAY_LESS_THAN_NS)
            return lambda: fixed
        case Uniform(low_ms=low_ms, high_ms=high_ms):
            low = max(nanoseconds(low_ms), NO_LINK_DELAY_LESS_THAN_NS)
            spread = max(nanoseconds(high_ms) - low, 0)
            return lambda: low + int(draw() * spread)
        case Normal(mean_ms=mean, deviation_ms=deviation, least_ms=least):
            return lambda: nanoseconds(max(draws.gauss(mean, deviation), least))
        case Exponential(mean_ms=mean, least_ms=least):
            rate = 1 / mean if mean else 0
            return lambda: nanoseconds(least + (draws.expovariate(rate) if rate else 0))
        case Empirical(table_ms=table):
            rows = tuple(max(nanoseconds(ms), NO_LINK_DELAY_LESS_THAN_NS) for ms in table)
            return lambda: rows[int(draw() * len(rows))]
        case _:
            assert_never(latency)


class LinkModel(Protocol):
    """A link model of one's own, for all directions. Faults (partitions, cuts, drops, clogs) still apply before it."""

    def delays(
        self, source: int, target: int, message: msgspec.Struct, now_ns: int, draws: random.Random
    ) -> Sequence[int]:
        """Delays in nanoseconds, one per copy that arrives; none for a lost message. ``draws`` is the stream
        ``latency``: take chance from nowhere else."""
        ...


class Flow:
    """A node's egress or ingress: until when each peer's flow is busy."""

    __slots__ = ("_busy_until", "_nanoseconds_per_byte")

    def __init__(self, bandwidth_mbit: float) -> None:
        self._nanoseconds_per_byte = 8_000 / bandwidth_mbit
        self._busy_until: dict[int, int] = {}

    def carry(self, peer: int, size_bytes: int, now: int) -> int:
        """When a message that arrives here at ``now`` is through."""
        busy = self._busy_until
        for other in [known for known, until in busy.items() if until <= now]:
            del busy[other]
        start = busy.get(peer, now)
        share = len(busy) if peer in busy else len(busy) + 1
        end = start + round(size_bytes * self._nanoseconds_per_byte * share)
        busy[peer] = end
        return end


class DropRule:
    """One ``Drop`` of the schedule, and how often it still takes a message to each target."""

    __slots__ = ("_kinds", "_left", "_name", "_source")

    def __init__(self, drop: Drop, kinds: Sequence[str] = ()) -> None:
        self._name = drop.message
        self._kinds = kinds
        self._source = drop.source
        self._left: dict[int, int] = dict.fromkeys(drop.to, -1 if drop.times is None else drop.times)

    def takes(self, source: int, target: int, message: msgspec.Struct) -> bool:
        """True when this message is lost, which counts."""
        left = self._left.get(target, 0)
        if source != self._source or not left:
            return False
        if self._name and self._name not in names_of(message, self._kinds):
            return False
        self._left[target] = left - 1
        return True


class Network:
    """Links and their faults. ``plain`` is true while nothing but ``delay`` decides: the simulator's fast path.
    ``turn`` numbers the protocol's views of each epoch as the schedule does."""

    def __init__(
        self, schedule: Schedule, model: LinkModel | None = None, turn: Callable[[int, int], int] = numbered
    ) -> None:
        self._model = model
        self._turn = turn
        self.count: Final = positions(schedule)
        count = self.count
        self._latency_draws = stream(schedule.seed, "latency")
        self._seed = schedule.seed
        self.link = schedule.link
        self.delay: Sampler = sampler(schedule.link.latency, self._latency_draws)
        self._jitter_ns = nanoseconds(schedule.link.jitter_ms)
        self._overrides: dict[int, tuple[Link, Sampler]] = {}
        for source, here in enumerate(schedule.regions):
            for target, there in enumerate(schedule.regions):
                if source != target:
                    mean = one_way_ms(here, there)
                    link = msgspec.structs.replace(
                        schedule.link, latency=Normal(mean_ms=mean, deviation_ms=mean / 20, least_ms=mean * 0.8)
                    )
                    self._override(source, target, link)
        for override in schedule.links:
            self._override(override.source, override.target, override.link)
        rate = schedule.bandwidth_mbit
        self._egress = [Flow(rate) for _ in range(count)] if rate else []
        self._ingress = [Flow(rate) for _ in range(count)] if rate else []
        self._partition: tuple[int, ...] | None = None
        self._groups: Sequence[Sequence[int]] | None = None
        self.heals = 0
        """How often the network healed."""
        self._cut: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._clogged: dict[int, int] = {}
        self.drops: dict[int, list[DropRule]] = {}
        self.view_groups: dict[int, tuple[frozenset[int], ...]] = {}
        self.plain = False
        self.holding = False
        """True while messages of some direction are kept."""
        self._even = False
        """True while what is not lost takes one ``delay``."""
        self._turn_of: tuple[msgspec.Struct | None, int] = (None, 0)
        """The last message that was looked at, and its turn: it goes to many."""
        self.refresh()

    @cached_property
    def _draw_loss(self) -> Callable[[], float]:
        return stream(self._seed, "loss").random

    @cached_property
    def _draw_copy(self) -> Callable[[], float]:
        return stream(self._seed, "duplication").random

    @cached_property
    def _draw_order(self) -> Callable[[], float]:
        return stream(self._seed, "reorder").random

    def _override(self, source: int, target: int, link: Link) -> None:
        self._overrides[source * self.count + target] = (link, sampler(link.latency, self._latency_draws))

    def refresh(self) -> None:
        """Look again whether links decide alone."""
        link = self.link
        noisy = link.loss or link.duplication or link.reorder or self._jitter_ns or self._overrides or self._egress
        faults = self._partition is not None or self._cut or self._held or self._clogged
        self.plain = not (noisy or faults or self.drops or self.view_groups or self._model is not None)
        uneven = link.duplication or link.reorder or self._jitter_ns or self._overrides or self._egress or self._clogged
        self._even = not uneven and self._model is None
        self.holding = bool(self._held)

    # --- faults -------------------------------------------------------------------------------------------------

    def partition(self, groups: Sequence[Sequence[int]] | None) -> None:
        """Replace the partition; None heals it."""
        self._groups = groups
        self._partition = None if groups is None else self.group_of(groups)
        self.refresh()

    def rejoin(self, groups: Sequence[Sequence[int]]) -> None:
        """That partition ends, unless another has replaced it."""
        if self._groups is groups:
            self.partition(None)

    def group_of(self, groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """For each position the number of its group; a node in none has one of its own."""
        chosen = [-1 - node for node in range(self.count)]
        for number, group in enumerate(groups):
            for node in group:
                chosen[node] = number
        return tuple(chosen)

    def _count(self, table: dict[int, int], pairs: Sequence[tuple[int, int]], change: int) -> None:
        for source, target in pairs:
            key = source * self.count + target
            value = table.get(key, 0) + change
            if value > 0:
                table[key] = value
            else:
                table.pop(key, None)
        self.refresh()

    def cut(self, pairs: Sequence[tuple[int, int]], change: int) -> None:
        """Begin (+1) or end (-1) a one-way cut."""
        self._count(self._cut, pairs, change)

    def hold(self, pairs: Sequence[tuple[int, int]], change: int) -> None:
        """Begin (+1) or end (-1) to keep messages."""
        self._count(self._held, pairs, change)

    def clog(self, pairs: Sequence[tuple[int, int]], extra_ns: int) -> None:
        """Add to (or take from) the delays of each pair."""
        self._count(self._clogged, pairs, extra_ns)

    def heal(self) -> None:
        """Every network fault ends, noise of the links included."""
        self.heals += 1
        self._partition = None
        for table in (self._cut, self._held, self._clogged):
            table.clear()
        self.drops.clear()
        self.view_groups.clear()
        quiet = {"loss": 0, "duplication": 0, "reorder": 0}
        self.link = msgspec.structs.replace(self.link, **quiet)
        for key, (link, draw) in self._overrides.items():
            self._overrides[key] = (msgspec.structs.replace(link, **quiet), draw)
        self.refresh()

    # --- messages -----------------------------------------------------------------------------------------------

    def holds(self, source: int, target: int) -> bool:
        """True while messages of this direction are kept."""
        return self.holding and source * self.count + target in self._held

    def delays(self, source: int, target: int, message: msgspec.Struct, now: int) -> Sequence[int]:
        """Delays in nanoseconds, one per copy that arrives; none for a lost message."""
        key = source * self.count + target
        groups = self._partition
        if (groups is not None and groups[source] != groups[target]) or key in self._cut:
            return ()
        if (self.drops or self.view_groups) and self._dropped(source, target, message):
            return ()
        if self._even:
            loss = self.link.loss
            return () if loss and self._draw_loss() < loss else (self.delay(),)
        if self._model is not None:
            drawn = self._model.delays(source, target, message, now, self._latency_draws)
            return [taken + self._clogged.get(key, 0) for taken in drawn]
        link, delay = self._overrides.get(key) or (self.link, self.delay)
        if link.loss and self._draw_loss() < link.loss:
            return ()
        copies = 2 if link.duplication and self._draw_copy() < link.duplication else 1
        found = []
        for _ in range(copies):
            taken = delay() + self._clogged.get(key, 0)
            if link.jitter_ms:
                taken += int(self._latency_draws.random() * nanoseconds(link.jitter_ms))
            if link.reorder and self._draw_order() < link.reorder:
                taken += nanoseconds(link.reorder_ms)
            if self._egress:
                size_bytes = len(_encode(message))
                left = self._egress[source].carry(target, size_bytes, now)
                taken = self._ingress[target].carry(source, size_bytes, left + taken) - now
            found.append(taken)
        return found

    def _dropped(self, source: int, target: int, message: msgspec.Struct) -> bool:
        known, view = self._turn_of
        if known is not message:
            view = self._turn(epoch_of(message), view_of(message))
            self._turn_of = message, view
        sides = self.view_groups.get(view)
        if sides is not None and not any(source in side and target in side for side in sides):
            return True
        return any(rule.takes(source, target, message) for rule in self.drops.get(view, ()))
