"""What a swarm draws of epochs: who follows whom, and trouble where one set of validators hands over to the next.

All of it comes from the stream ``epochs`` of the seed, after the rest was drawn: a swarm without epochs draws nothing
here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from netsim.schedule import (
    Actor,
    Begins,
    Commits,
    Crash,
    Cut,
    Drop,
    Enters,
    Fault,
    Heal,
    Hold,
    Member,
    Move,
    NextEpoch,
    Partition,
    Schedule,
    Trigger,
)
from netsim.validation import copies, exceeds_bounds

TRIES: Final = 20
"""How often a set is drawn anew that would be a third faulty."""
STAKES: Final = (1, 1, 1, 2, 3, 10)
BOUNDARIES: Final = (
    "before persist", "after persist", "before sign", "after sign", "before send", "after send", "before epoch",
    "before epoch", "after epoch", "after epoch",
)  # fmt: skip
MESSAGES: Final = ("Proposal", "Vote", "Timeout", "Certificates", "")
Moves = Callable[[int, tuple[int, ...], range], tuple[Move, ...]]
"""A puppet's moves in an epoch: its node, who leads the views, everybody."""


class EpochDraws:
    """Adds epochs to a schedule. ``changes`` is how many, ``apart`` how many blocks the epochs have at most,
    ``joining`` how many nodes run as observers first, ``kinds`` what those may be that misbehave."""

    def __init__(
        self,
        schedule: Schedule,
        draws: random.Random,
        *,
        changes: int,
        apart: int,
        joining: int,
        kinds: Sequence[str],
        views: int,
        leader_bias: float,
        moves: Moves,
    ) -> None:
        self.schedule = schedule
        self.draws = draws
        self.changes = changes
        self.apart = apart
        self.joining = joining
        self.kinds = [kind for kind in kinds if kind in JOINERS_KINDS]
        self.views = views
        self.leader_bias = leader_bias
        self.moves = moves

    def choice(self, options: Sequence[Any]) -> Any:
        return options[int(self.draws.random() * len(options))]

    def below(self, limit: int) -> int:
        return int(self.draws.random() * limit)

    def drawn(self) -> Schedule:
        """The schedule with epochs, their trouble, and who misbehaves among the joiners."""
        schedule = self.schedule.replace(observers=self.schedule.observers + self.joining)
        kind = self.choice(self.kinds) if self.kinds and self.joining and self.draws.random() < 0.4 else ""
        shift = kind == "twin"
        first = schedule.nodes + len(copies(schedule)) + shift
        joiners = tuple(range(first, first + self.joining))
        if kind:
            schedule = schedule.replace(actors=(*schedule.actors, Actor(node=self.choice(joiners), kind=kind)))
        epochs: list[NextEpoch] = []
        height = 0
        for number in range(self.changes):
            height += 1 + self.below(self.apart) + (number == 0)
            epochs.append(self.following(schedule, tuple(epochs), height, joiners))
            schedule = schedule.replace(epochs=tuple(epochs))
        schedule = self.played(schedule)
        faults = list(schedule.faults)
        heals = [fault for fault in faults if isinstance(fault, Heal)]
        others = [fault for fault in faults if not isinstance(fault, Heal)]
        trouble = [fault for epoch in range(1, self.changes + 1) for fault in self.trouble(schedule, epoch)]
        stop = msgspec.structs.replace(schedule.stop, epoch=self.changes, view=max(self.views // 2, 1))
        return schedule.replace(faults=(*others, *trouble, *heals), stop=stop)

    # --- who follows --------------------------------------------------------------------------------------------

    def following(
        self, schedule: Schedule, before: tuple[NextEpoch, ...], height: int, joiners: tuple[int, ...]
    ) -> NextEpoch:
        """A set that keeps the faulty below a third, of heads too, drawn in one of several styles."""
        for _ in range(TRIES):
            epoch = NextEpoch(height=height, validators=self.members(schedule, before, joiners))
            if self.may_go_on(schedule, epoch) and not exceeds_bounds(schedule.replace(epochs=(*before, epoch))):
                return self.led(schedule, epoch)
        faulty = [actor.node for actor in schedule.actors]
        honest = [node for node in (*range(schedule.nodes), *joiners) if node not in faulty]
        return NextEpoch(height=height, validators=tuple(Member(node=node) for node in honest))

    def may_go_on(self, schedule: Schedule, epoch: NextEpoch) -> bool:
        """Whether enough honest validators lead one after the other, however little stake the faulty have."""
        played = [actor.node for actor in schedule.actors]
        faulty = sum(member.node in played for member in epoch.validators)
        return 3 * faulty < len(epoch.validators)

    def members(
        self, schedule: Schedule, before: tuple[NextEpoch, ...], joiners: tuple[int, ...]
    ) -> tuple[Member, ...]:
        if before:
            present = list(before[-1].validators)
        else:
            stakes = schedule.stakes or (1,) * schedule.nodes
            present = [Member(node=node, stake=stake) for node, stake in enumerate(stakes)]
        there = [member.node for member in present]
        absent = [node for node in (*range(schedule.nodes), *joiners) if node not in there]
        self.draws.shuffle(absent)
        style = self.draws.random()
        if style < 0.15 and len(absent) >= 4:  # nobody stays
            return tuple(Member(node=node) for node in absent)
        if style < 0.75:  # some leave, some join
            leaving = self.below(len(present)) if absent else self.below(max(len(present) - 3, 1))
            self.draws.shuffle(present)
            present = present[leaving:]
            present += [Member(node=node) for node in absent[: self.below(len(absent) + 1)]]
        if self.draws.random() < 0.4:  # stake moves
            present = [msgspec.structs.replace(member, stake=self.choice(STAKES)) for member in present]
        if self.draws.random() < 0.4 or not present:  # keys rotate
            present = [
                msgspec.structs.replace(member, key=member.key + 1) if self.draws.random() < 0.5 else member
                for member in present
            ]
        return tuple(present) or tuple(Member(node=node) for node in there)

    def led(self, schedule: Schedule, epoch: NextEpoch) -> NextEpoch:
        """With leaders biased toward the faulty."""
        nodes = [member.node for member in epoch.validators]
        played = [actor.node for actor in schedule.actors]
        faulty = [node for node in nodes if node in played]
        leaders = tuple(
            self.choice(faulty) if faulty and self.draws.random() < self.leader_bias else self.choice(nodes)
            for _ in range(self.views + 2)
        )
        return msgspec.structs.replace(epoch, leaders=leaders)

    def played(self, schedule: Schedule) -> Schedule:
        """Puppets move in later epochs too."""
        count = schedule.nodes + len(copies(schedule)) + schedule.observers
        actors: list[Actor] = []
        for actor in schedule.actors:
            moves = list(actor.moves)
            for number, epoch in enumerate(schedule.epochs, start=1):
                if actor.kind == "puppet" and actor.node in [member.node for member in epoch.validators]:
                    moves += [
                        msgspec.structs.replace(move, epoch=number)
                        for move in self.moves(actor.node, epoch.leaders, range(count))
                    ]
            actors.append(msgspec.structs.replace(actor, moves=tuple(moves)))
        return schedule.replace(actors=tuple(actors))

    # --- trouble ------------------------------------------------------------------------------------------------

    def trouble(self, schedule: Schedule, epoch: int) -> list[Fault]:
        """Around one boundary: a partition, a cut or a hold; crashes; lost messages of the first views."""
        draw = self.draws.random
        count = schedule.nodes + len(copies(schedule)) + schedule.observers
        found: list[Fault] = []
        if draw() < 0.5:
            found.append(self.parting(count, self.moment(schedule, epoch)))
        for _ in range(self.choice((0, 0, 1, 2, 4))):
            node = self.below(count)
            restart = round(1 + draw() * 150, 1)
            if draw() < 0.5:
                found.append(Crash(on=self.moment(schedule, epoch, node), nodes=(node,), restart_ms=restart))
            else:
                boundary, nth = self.choice(BOUNDARIES), 1 + self.below(3)
                on = self.moment(schedule, epoch)
                found.append(Crash(on=on, nodes=(node,), boundary=boundary, nth=nth, restart_ms=restart))
        for _ in range(self.choice((0, 0, 2, 5))):
            to = tuple(node for node in range(count) if draw() < 0.6) or (self.below(count),)
            drop = Drop(
                view=1 + self.below(4), message=self.choice(MESSAGES), source=self.below(count), to=to,
                times=1 + self.below(4), epoch=epoch,
            )  # fmt: skip
            found.append(drop)
        return found

    def moment(self, schedule: Schedule, epoch: int, node: int | None = None) -> Trigger:
        """Some moment of the change to ``epoch``."""
        height = schedule.epochs[epoch - 1].height
        style = self.draws.random()
        if style < 0.3:
            return Commits(height=max(height - 1, 1), node=node)
        if style < 0.6:
            return Commits(height=height, node=node)
        if style < 0.85:
            return Begins(epoch=epoch, node=node)
        return Enters(view=1 + self.below(3), epoch=epoch, node=node)

    def parting(self, count: int, on: Trigger) -> Fault:
        draw = self.draws.random
        lasting = round(20 + draw() * 300, 1)
        style = draw()
        if style < 0.5:
            side = [draw() < 0.5 for _ in range(count)]
            sides = tuple(tuple(node for node in range(count) if side[node] is which) for which in (True, False))
            return Partition(on=on, groups=tuple(group for group in sides if group), for_ms=lasting)
        pairs = tuple((self.below(count), self.below(count)) for _ in range(1 + self.below(2 * count)))
        return (Cut if style < 0.75 else Hold)(on=on, pairs=pairs, for_ms=lasting)


JOINERS_KINDS: Final = ("twin", "silent", "mutator", "impersonator", "reconfigurer", "puppet", "lying-sync")
"""What a joiner that misbehaves may be."""
