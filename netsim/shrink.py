"""Shrinking: the shortest schedule that still makes the same oracle fire.

Delta debugging (Zeller and Hildebrandt, 2002) over the explicit schedule, then steps of its own: whole actors turn
honest, views are dropped and the later ones renumbered, recipients, delays and noise go, latencies become one round
number. A step is kept only if the run still makes the same oracle fire. Deterministic, and bounded in runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from netsim.schedule import (
    Actor,
    BadSchedule,
    Begins,
    CastVote,
    Constant,
    Crash,
    Drop,
    Enters,
    Fault,
    Link,
    Member,
    Move,
    NextEpoch,
    Propose,
    Schedule,
    Sends,
    Stop,
    Timed,
    ViewPartition,
)
from netsim.simulation import Result
from netsim.validation import check, positions

RUNS_MAX: Final = 3000
T = TypeVar("T")
Run = Callable[[Schedule], Result]


@dataclass(slots=True, kw_only=True)
class Shrunk:
    """The shortest schedule found, what it gives, and how many runs that took."""

    schedule: Schedule
    result: Result
    oracle: str
    runs: int
    size_before: int
    size_after: int


def size_of(schedule: Schedule) -> int:
    """How much there is to read: faults, moves, later epochs, payloads, and links of their own."""
    moves = sum(1 + len(actor.moves) for actor in schedule.actors)
    moves += sum(1 + len(epoch.validators) for epoch in schedule.epochs)
    return moves + len(schedule.faults) + len(schedule.workload) + len(schedule.links) + len(schedule.clocks)


@dataclass(slots=True)
class _Shrinker:
    run: Run
    oracle: str
    runs_max: int
    best: Schedule
    result: Result
    runs: int = 0
    tried: dict[bytes, None] = field(default_factory=dict)

    def try_one(self, candidate: Schedule) -> bool:
        """Keep ``candidate`` if the same oracle still fires."""
        if candidate == self.best or self.runs >= self.runs_max:
            return False
        key = msgspec.json.encode(candidate)
        if key in self.tried:
            return False
        self.tried[key] = None
        try:
            # Without a twin there is no second copy: a fault may name a node that is gone.
            check(candidate, "candidate")
        except BadSchedule:
            return False
        self.runs += 1
        result = self.run(candidate)
        if result.verdict != self.oracle:
            return False
        self.best, self.result = candidate, result
        return True

    def fewer(self, items: Sequence[T], put: Callable[[tuple[T, ...]], Schedule]) -> None:
        """Delta debugging of one list: drop ever smaller parts while that still fires."""
        left = tuple(items)
        parts = 2
        while left and self.runs < self.runs_max:
            size = -(-len(left) // parts)
            for start in range(0, len(left), size):
                shorter = left[:start] + left[start + size :]
                if self.try_one(put(shorter)):
                    left = shorter
                    parts = max(2, parts - 1)
                    break
            else:
                if size <= 1:
                    return
                parts = min(len(left), 2 * parts)

    def without(self, name: str, left: tuple[object, ...]) -> Schedule:
        """The best schedule with ``left`` in its list of that name."""
        changed: dict[str, Any] = {name: left}
        return self.best.replace(**changed)

    def one_pass(self) -> bool:
        """Everything once; True when something became shorter or simpler."""
        before = self.best
        self.fewer(self.best.epochs, self.epochs)
        for name in ("faults", "workload", "links", "clocks", "regions", "milestones"):
            self.fewer(getattr(self.best, name), partial(self.without, name))
        self.fewer(self.best.actors, lambda left: self.best.replace(actors=left))
        for number in range(len(self.best.actors)):
            self.fewer(self.best.actors[number].moves, partial(self.moves, number))
        for view in range(max(self.result.views), 0, -1):
            self.try_one(without_view(self.best, view))
        for candidates in (simpler_epochs, simpler_links, simpler_moves, simpler_faults, simpler_stop):
            self.settle(candidates)
        return self.best != before

    def settle(self, candidates: Callable[[Schedule], Iterator[Schedule]]) -> None:
        """Take any of the candidates that fires, until none does."""
        again = True
        while again and self.runs < self.runs_max:
            again = any(self.try_one(candidate) for candidate in candidates(self.best))

    def epochs(self, left: tuple[NextEpoch, ...]) -> Schedule:
        """The best schedule with fewer changes of the validators."""
        return with_epochs(self.best, left)

    def moves(self, number: int, left: tuple[Move, ...]) -> Schedule:
        """The best schedule with other moves of one actor."""
        actors = list(self.best.actors)
        actors[number] = msgspec.structs.replace(actors[number], moves=left)
        return self.best.replace(actors=tuple(actors))


def shrink(schedule: Schedule, run: Run, *, runs_max: int = RUNS_MAX) -> Shrunk:
    """Shorten ``schedule``, whose ``run`` makes an oracle fire. Raises ``ValueError`` when it is silent."""
    result = run(schedule)
    if result.silent:
        raise ValueError("the schedule is silent: there is nothing to shrink")
    shrinker = _Shrinker(run, result.verdict, runs_max, schedule, result)
    while shrinker.runs < runs_max and shrinker.one_pass():
        pass
    return Shrunk(
        schedule=shrinker.best.replace(expect=result.verdict),
        result=shrinker.result,
        oracle=result.verdict,
        runs=shrinker.runs + 1,
        size_before=size_of(schedule),
        size_after=size_of(shrinker.best),
    )


def with_epochs(schedule: Schedule, left: tuple[NextEpoch, ...]) -> Schedule:
    """The schedule with those epochs after the first, and without what names later ones."""
    there = len(left)

    def stays(fault: Fault) -> bool:
        if isinstance(fault, Drop | ViewPartition):
            return fault.epoch <= there
        return not isinstance(fault.on, Enters | Begins | Sends) or (fault.on.epoch or 0) <= there

    actors = tuple(
        msgspec.structs.replace(actor, moves=tuple(move for move in actor.moves if move.epoch <= there))
        for actor in schedule.actors
    )
    stop = msgspec.structs.replace(schedule.stop, epoch=min(schedule.stop.epoch, there))
    faults = tuple(filter(stays, schedule.faults))
    return schedule.replace(epochs=left, faults=faults, actors=actors, stop=stop)


def simpler_epochs(schedule: Schedule) -> Iterator[Schedule]:
    """No finality; one epoch with a validator less, plain stakes, plain keys, plain leaders."""
    if schedule.checkpoint_interval:
        yield schedule.replace(checkpoint_interval=0)
    for number, epoch in enumerate(schedule.epochs):
        simpler = [msgspec.structs.replace(epoch, leaders=epoch.leaders[:-1])] if epoch.leaders else []
        members = epoch.validators
        for at, member in enumerate(members):
            others = (*members[:at], *members[at + 1 :])
            if others and member.node not in epoch.leaders:
                simpler.append(msgspec.structs.replace(epoch, validators=others))
            if member.stake != 1 or member.key:
                plain = (*members[:at], Member(node=member.node), *members[at + 1 :])
                simpler.append(msgspec.structs.replace(epoch, validators=plain))
        for one in simpler:
            yield schedule.replace(epochs=(*schedule.epochs[:number], one, *schedule.epochs[number + 1 :]))


def without_view(schedule: Schedule, view: int) -> Schedule:
    """The schedule without what happens in ``view``; later views move down by one."""

    def moved(at: int) -> int:
        return at - 1 if at > view else at

    faults: list[Fault] = []
    for fault in schedule.faults:
        if isinstance(fault, Drop | ViewPartition):
            if fault.epoch:
                faults.append(fault)
            elif fault.view != view:
                faults.append(msgspec.structs.replace(fault, view=moved(fault.view)))
        elif fault.at_view != view:
            at_view = None if fault.at_view is None else moved(fault.at_view)
            faults.append(msgspec.structs.replace(fault, at_view=at_view))
    actors = tuple(
        msgspec.structs.replace(
            actor,
            moves=tuple(
                move if move.epoch else msgspec.structs.replace(move, view=moved(move.view))
                for move in actor.moves
                if move.view != view or move.epoch
            ),
        )
        for actor in schedule.actors
    )
    leaders = schedule.leaders[: view - 1] + schedule.leaders[view:]
    stop = schedule.stop
    if not stop.epoch:
        stop = msgspec.structs.replace(stop, view=max(stop.view - 1, 1))
    return schedule.replace(faults=tuple(faults), actors=actors, leaders=leaders, stop=stop)


def simpler_links(schedule: Schedule) -> Iterator[Schedule]:
    """Without noise; one round latency."""
    link = schedule.link
    for name in ("loss", "duplication", "reorder", "jitter_ms"):
        if getattr(link, name):
            yield schedule.replace(link=msgspec.structs.replace(link, **{name: 0}))
    for ms in (1, 5, 10):
        if not isinstance(link.latency, Constant):
            yield schedule.replace(link=Link(latency=Constant(ms=ms)))
            yield schedule.replace(link=msgspec.structs.replace(link, latency=Constant(ms=ms)))
    if schedule.bandwidth_mbit:
        yield schedule.replace(bandwidth_mbit=0)


def _simpler_move(move: Move) -> Iterator[Move]:
    if move.after_ms:
        yield msgspec.structs.replace(move, after_ms=0)
    if isinstance(move, CastVote) and move.times > 1:
        yield msgspec.structs.replace(move, times=1)
    if isinstance(move, Propose):
        if move.proof != "honest":
            yield msgspec.structs.replace(move, proof="honest")
        if move.parent:
            yield msgspec.structs.replace(move, parent=move.parent - 1)
        if move.variant:
            yield msgspec.structs.replace(move, variant=0)
    if len(move.to) > 1:
        for node in move.to:
            yield msgspec.structs.replace(move, to=tuple(other for other in move.to if other != node))


def simpler_moves(schedule: Schedule) -> Iterator[Schedule]:
    """One move without its delay, its doubling, a recipient."""
    for number, actor in enumerate(schedule.actors):
        for at, move in enumerate(actor.moves):
            for simpler in _simpler_move(move):
                moves = (*actor.moves[:at], simpler, *actor.moves[at + 1 :])
                changed: Actor = msgspec.structs.replace(actor, moves=moves)
                yield schedule.replace(actors=(*schedule.actors[:number], changed, *schedule.actors[number + 1 :]))


def simpler_faults(schedule: Schedule) -> Iterator[Schedule]:
    """One fault with fewer nodes, or at a round time."""
    for at, fault in enumerate(schedule.faults):
        simpler: list[Any] = []
        if isinstance(fault, Drop) and len(fault.to) > 1:
            simpler += [
                msgspec.structs.replace(fault, to=fault.to[:cut] + fault.to[cut + 1 :]) for cut in range(len(fault.to))
            ]
        if isinstance(fault, Timed):
            for name in ("at_ms", "for_ms"):
                value = getattr(fault, name)
                if value is not None and value != round(value, -1):
                    simpler.append(msgspec.structs.replace(fault, **{name: round(value, -1)}))
        if (
            isinstance(fault, Crash)
            and fault.restart_ms is not None
            and fault.restart_ms != round(fault.restart_ms, -1)
        ):
            simpler.append(msgspec.structs.replace(fault, restart_ms=round(fault.restart_ms, -1)))
        for one in simpler:
            yield schedule.replace(faults=(*schedule.faults[:at], one, *schedule.faults[at + 1 :]))


def simpler_stop(schedule: Schedule) -> Iterator[Schedule]:
    """A shorter run, fewer leaders by name, fewer nodes."""
    if schedule.stop.view > 1:
        stop = schedule.stop
        yield schedule.replace(stop=Stop(view=stop.view - 1, epoch=stop.epoch, time_ms=stop.time_ms))
    if schedule.leaders:
        yield schedule.replace(leaders=schedule.leaders[:-1])
    named = [actor.node for actor in schedule.actors] + list(schedule.leaders)
    last = schedule.nodes - 1
    named += [member.node for epoch in schedule.epochs for member in epoch.validators]
    if last >= 4 and last not in named and not schedule.stakes and positions(schedule) == schedule.nodes:
        actors = tuple(
            msgspec.structs.replace(
                actor,
                moves=tuple(
                    msgspec.structs.replace(move, to=tuple(node for node in move.to if node != last))
                    for move in actor.moves
                ),
            )
            for actor in schedule.actors
        )
        faults = tuple(fault for fault in schedule.faults if str(last) not in str(msgspec.to_builtins(fault)))
        yield schedule.replace(nodes=last, actors=actors, faults=faults)
