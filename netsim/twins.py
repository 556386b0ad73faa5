"""The Twins generator (Bano et al., 2020): every scenario of leaders and partitions per view, one of each class.

A step is a leader and a partition of all nodes, second copies of twins included, into at most ``partitions`` groups.
Nodes of the same kind (plain ones; twins) are alike: of all renamings of a scenario the first in order is kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from netsim.randomness import stream
from netsim.schedule import Actor, Constant, Link, Schedule, Stop, ViewPartition
from netsim.validation import exceeds_bounds

Groups = tuple[tuple[int, ...], ...]
Step = tuple[int, Groups]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a family of scenarios."""

    nodes: int = 4
    twins: int = 1
    partitions: int = 2
    views: int = 4
    twin_leaders: bool = True
    """Only twins lead: where most violations are found."""

    @property
    def positions(self) -> int:
        """All nodes and second copies."""
        return self.nodes + self.twins


def partitions_of(count: int, groups_max: int) -> Iterator[Groups]:
    """Every partition of ``count`` positions into at most ``groups_max`` groups, in restricted-growth order."""

    def grow(chosen: list[int]) -> Iterator[Groups]:
        if len(chosen) == count:
            yield tuple(
                tuple(node for node in range(count) if chosen[node] == number) for number in range(max(chosen) + 1)
            )
            return
        for number in range(min(max(chosen, default=-1) + 2, groups_max)):
            yield from grow([*chosen, number])

    yield from grow([])


def _renamings(shape: Shape) -> list[tuple[int, ...]]:
    """Permutations of positions that keep kinds: a twin and its copy move together."""
    found = []
    for twins in permutations(range(shape.twins)):
        for plain in permutations(range(shape.twins, shape.nodes)):
            found.append((*twins, *plain, *(shape.nodes + twin for twin in twins)))
    return found


def _renamed(steps: Sequence[Step], names: tuple[int, ...]) -> tuple[Step, ...]:
    return tuple(
        (names[leader], tuple(sorted(tuple(sorted(names[node] for node in group)) for group in groups)))
        for leader, groups in steps
    )


def is_canonical(steps: Sequence[Step], renamings: Sequence[tuple[int, ...]]) -> bool:
    """True for the first of its symmetry class."""
    own = _renamed(steps, tuple(range(len(renamings[0]))))
    return all(own <= _renamed(steps, names) for names in renamings)


def steps_of(shape: Shape) -> list[Step]:
    """What one view can be."""
    leaders = range(shape.twins if shape.twin_leaders and shape.twins else shape.nodes)
    return [(leader, groups) for leader in leaders for groups in partitions_of(shape.positions, shape.partitions)]


def scenarios(shape: Shape) -> Iterator[tuple[Step, ...]]:
    """All canonical scenarios, in order."""
    renamings = _renamings(shape)
    choices = steps_of(shape)
    firsts = [step for step in choices if is_canonical((step,), renamings)]
    for first in firsts:
        for rest in product(choices, repeat=shape.views - 1):
            steps = (first, *rest)
            if is_canonical(steps, renamings):
                yield steps


def sample(shape: Shape, seed: int, count: int) -> Iterator[tuple[Step, ...]]:
    """``count`` scenarios drawn alike from all, made canonical."""
    draws: random.Random = stream(seed, "twins")
    renamings = _renamings(shape)
    choices = steps_of(shape)
    for _ in range(count):
        steps = [choices[int(draws.random() * len(choices))] for _ in range(shape.views)]
        yield min(_renamed(steps, names) for names in renamings)


def schedule_of(shape: Shape, steps: Sequence[Step], protocol: str) -> Schedule:
    """The explicit schedule: a partition holds for its view's messages; after the last view the network is whole."""
    schedule = Schedule(
        name="twins",
        protocol=protocol,
        nodes=shape.nodes,
        leaders=tuple(leader for leader, _ in steps),
        link=Link(latency=Constant(ms=1)),
        actors=tuple(Actor(node=node, kind="twin") for node in range(shape.twins)),
        faults=tuple(ViewPartition(view=view, groups=groups) for view, (_, groups) in enumerate(steps, start=1)),
        stop=Stop(view=len(steps) + 4, time_ms=20_000),
    )
    return schedule.replace(beyond_bounds=exceeds_bounds(schedule))
