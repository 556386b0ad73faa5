"""Scenarios: TOML for people. A scenario is a schedule's fields, and a ``[swarm]`` that draws the rest from the seed.

``expand(scenario, seed)`` gives the explicit schedule: what a run does is then data, and stays the same when the
generator changes. Every draw comes from the stream ``scenario`` of the seed.
"""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, assert_never

import msgspec
from msgspec import Meta

from netsim.randomness import stream
from netsim.scenario_epochs import EpochDraws
from netsim.schedule import (
    EPOCHS_MAX,
    NAME_MAX,
    NODES_MAX,
    Actor,
    Announce,
    BadSchedule,
    CastVote,
    Constant,
    Crash,
    Cut,
    Drop,
    Empirical,
    Exponential,
    Fault,
    GiveUp,
    Heal,
    Hold,
    Link,
    Liveness,
    Milliseconds,
    Move,
    Name,
    Normal,
    Part,
    Partition,
    Probability,
    Propose,
    Schedule,
    Submit,
    Uniform,
)
from netsim.validation import check, converted, faulty_nodes, from_json, read_bytes

DRAWN: Final = ("nodes", "stakes", "leaders", "epochs", "fault_free")
"""What a scenario does not set beside a swarm."""
MALICE: Final = (0.2, 0.5, 1.0)
"""The chance that a puppet misbehaves in a view: one that mostly behaves lets others commit what it can then deny."""
KINDS: Final = 2
"""A puppet casts votes of as many kinds; a protocol that has one kind ignores the second."""
LowAndHigh: TypeAlias = tuple[Milliseconds, Milliseconds]
Chances: TypeAlias = Annotated[tuple[Probability, ...], Meta(min_length=1)]
BOUNDARIES: Final = ("before persist", "after persist", "before sign", "after sign", "before send", "after send")


class Swarm(Part, frozen=True, kw_only=True):
    """What a seed draws. Each list is a choice; each run gets one of each (swarm testing: a run without a feature
    finds what the feature hides). A link of the scenario's own is taken as it is.

    ``leader_bias`` is the chance that a faulty validator leads a view; ``drop`` that some message of a view is lost,
    ``hide`` that a view's votes reach one node alone, which does not tell; ``partition`` that a view begins under a
    partition, a cut or a hold; ``crash`` the mean number of crashes, ``restart_all`` the chance of killing all at once.
    ``heal_ms`` ends all trouble and asks for progress. ``faulty`` is how many misbehave, F without it; ``split`` is the
    chance that the honest are parted for the whole run, each half with all of the faulty. ``epochs`` is how often the
    validators change, each epoch ``epoch_blocks`` long at most, with ``joiners`` that observe until they belong; there
    is trouble at each change. ``checkpoint_interval`` is that of finality."""

    nodes: Annotated[tuple[Annotated[int, Meta(ge=1, le=NODES_MAX)], ...], Meta(min_length=1)] = (4,)
    protocols: tuple[Name, ...] = ()
    actors: tuple[Name, ...] = ("puppet",)
    faulty: tuple[Annotated[int, Meta(ge=1, le=NODES_MAX)], ...] = ()
    split: Probability = 0
    views: Annotated[int, Meta(ge=1, le=1000)] = 12
    leader_bias: Probability = 0.5
    latency_ms: Annotated[tuple[LowAndHigh, ...], Meta(min_length=1)] = ((1, 5), (1, 20), (1, 60))
    loss: Chances = (0, 0.02, 0.1)
    duplication: Chances = (0, 0.05)
    reorder: Chances = (0, 0.1)
    drop: Chances = (0, 0.1, 0.3)
    hide: Chances = (0, 0.1, 0.25)
    partition: Chances = (0, 0.1)
    crash: Annotated[tuple[Annotated[float, Meta(ge=0, le=1000)], ...], Meta(min_length=1)] = (0, 0, 1, 3)
    restart_all: Probability = 0
    payloads: Annotated[int, Meta(ge=0, le=1000)] = 4
    heal_ms: Milliseconds | None = None
    epochs: tuple[Annotated[int, Meta(ge=0, le=EPOCHS_MAX)], ...] = ()
    epoch_blocks: Annotated[int, Meta(ge=1, le=1000)] = 6
    joiners: tuple[Annotated[int, Meta(ge=0, le=NODES_MAX)], ...] = (0,)
    checkpoint_interval: tuple[Annotated[int, Meta(ge=0, le=1000)], ...] = ()


class Scenario(Part, frozen=True, kw_only=True):
    """A base schedule and what the seed adds to it."""

    base: Schedule
    swarm: Swarm | None = None
    text: str = ""


def load(path: str | Path) -> Scenario:
    """Read ``.toml`` (a scenario) or ``.json`` (an explicit schedule). Raises :class:`BadSchedule` with the path of the
    bad key."""
    path = Path(path)
    data = read_bytes(path)
    if path.suffix == ".json":
        return Scenario(base=from_json(data, str(path)))
    where = str(path)
    try:
        table: dict[str, Any] = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise BadSchedule(f"{where}: $: {error}") from None
    text = converted(table.pop("text", ""), str, where, "$.text")
    swarm_table = table.pop("swarm", None)
    if swarm_table is not None:
        stop = table.get("stop")
        views = ["stop.view"] if isinstance(stop, dict) and "view" in stop else []
        for key in [*(key for key in DRAWN if key in table), *views]:
            raise BadSchedule(f"{where}: $.{key}: not beside a [swarm], which draws it")
    table.setdefault("name", path.stem[:NAME_MAX])
    base = converted(table, Schedule, where, "$")
    swarm = None if swarm_table is None else converted(swarm_table, Swarm, where, "$.swarm")
    if swarm is None:
        check(base, where)
    else:
        _check_swarm(base, swarm, where)
    return Scenario(base=base, swarm=swarm, text=text)


def _check_swarm(base: Schedule, swarm: Swarm, where: str) -> None:
    """A swarm's base must do for each number of nodes that may be drawn. Raises :class:`BadSchedule`."""
    for number, (low_ms, high_ms) in enumerate(swarm.latency_ms):
        if high_ms < low_ms:
            raise BadSchedule(f"{where}: $.swarm.latency_ms[{number}]: {high_ms:g} is below {low_ms:g}")
    if swarm.heal_ms is not None and base.stop.time_ms <= swarm.heal_ms + 1:
        raise BadSchedule(f"{where}: $.swarm.heal_ms: the run ends before it, at stop.time_ms = {base.stop.time_ms:g}")
    if base.regions and "twin" in swarm.actors:
        raise BadSchedule(f"{where}: $.regions: not beside a [swarm] with twins, whose second copies need one too")
    for nodes in swarm.nodes:
        check(base.replace(nodes=nodes), where)


def expand(scenario: Scenario | Schedule, seed: int) -> Schedule:
    """The explicit schedule of ``seed``."""
    if isinstance(scenario, Schedule):
        return scenario
    base = scenario.base.replace(seed=seed)
    if scenario.swarm is None:
        return base
    return _Generator(base, scenario.swarm, stream(seed, "scenario")).schedule()


def longest_ms(link: Link) -> float:
    """The longest delay of a link; far beyond any when its latency has none."""
    match link.latency:
        case Constant(ms=ms) | Uniform(high_ms=ms):
            return ms + link.jitter_ms + (link.reorder_ms if link.reorder else 0)
        case Empirical(table_ms=table):
            return max(table) + link.jitter_ms + (link.reorder_ms if link.reorder else 0)
        case Normal() | Exponential():
            return 1e9
        case _:
            assert_never(link.latency)


class _Generator:
    """Draws one schedule."""

    def __init__(self, base: Schedule, swarm: Swarm, draws: random.Random) -> None:
        self.base = base
        self.swarm = swarm
        self.draws = draws
        self.nodes = self.choice(swarm.nodes)
        self.everybody = range(self.nodes)

    def choice(self, options: tuple[Any, ...]) -> Any:
        return options[int(self.draws.random() * len(options))]

    def some(self) -> tuple[int, ...]:
        """Some of the nodes, at least one: half of the time a majority."""
        bits = self.draws.getrandbits(self.nodes)
        if self.draws.random() < 0.3:
            return tuple(self.everybody)
        return tuple(node for node in self.everybody if bits >> node & 1) or (bits % self.nodes,)

    def schedule(self) -> Schedule:
        swarm, base = self.swarm, self.base
        faulty_max = max(self.nodes - (2 * self.nodes // 3 + 1) - len(faulty_nodes(base)), 0)
        if swarm.faulty:
            faulty_max = min(self.choice(swarm.faulty), self.nodes - len(base.actors))
        kinds = [self.choice(swarm.actors) for _ in range(faulty_max)] if swarm.actors else []
        taken = [actor.node for actor in base.actors]
        order = [node for node in self.everybody if node not in taken]
        self.draws.shuffle(order)
        faulty = sorted(order[: len(kinds)])
        leaders = tuple(
            self.choice(tuple(faulty)) if faulty and self.draws.random() < swarm.leader_bias
            else int(self.draws.random() * self.nodes)
            for _ in range(swarm.views + 2)
        )  # fmt: skip
        low, high = self.choice(swarm.latency_ms)
        link = Link(
            latency=Uniform(low_ms=low, high_ms=high),
            loss=self.choice(swarm.loss),
            duplication=self.choice(swarm.duplication),
            reorder=self.choice(swarm.reorder),
        )
        if base.link != Link():
            link, high = base.link, longest_ms(base.link)
        heal = swarm.heal_ms
        chosen = zip(faulty, kinds, strict=True)
        twins = (
            *(actor.node for actor in base.actors if actor.kind == "twin"),
            *(node for node, kind in chosen if kind == "twin"),
        )
        drawn = base.replace(
            nodes=self.nodes,
            protocol=self.choice(swarm.protocols) if swarm.protocols else base.protocol,
            leaders=leaders,
            link=link,
            actors=(*base.actors, *(self.actor(node, kind, leaders) for node, kind in zip(faulty, kinds, strict=True))),
            faults=(*base.faults, *self.faults(tuple(faulty), twins)),
            workload=(*base.workload, *self.payloads()),
            stop=msgspec.structs.replace(base.stop, view=swarm.views),
            liveness=base.liveness if heal is None else Liveness(from_ms=heal + 1, timeouts=12, delay_ms=high),
        )
        return self.with_epochs(drawn) if swarm.epochs or swarm.checkpoint_interval else drawn

    def with_epochs(self, drawn: Schedule) -> Schedule:
        """With changes of the validators, and finality."""
        swarm, draws = self.swarm, stream(self.base.seed, "epochs")
        if swarm.checkpoint_interval:
            interval = swarm.checkpoint_interval[int(draws.random() * len(swarm.checkpoint_interval))]
            drawn = drawn.replace(checkpoint_interval=interval)
        if not swarm.epochs:
            return drawn
        changes = swarm.epochs[int(draws.random() * len(swarm.epochs))]
        if not changes:
            return drawn
        return EpochDraws(
            drawn,
            draws,
            changes=changes,
            apart=swarm.epoch_blocks,
            joining=swarm.joiners[int(draws.random() * len(swarm.joiners))] if swarm.joiners else 0,
            kinds=swarm.actors,
            views=swarm.views,
            leader_bias=swarm.leader_bias,
            moves=self.moves,
        ).drawn()

    def payloads(self) -> list[Submit]:
        return [
            Submit(at_ms=round(self.draws.random() * 200, 1), payload=f"payload {number}", to=self.some())
            for number in range(self.swarm.payloads)
        ]

    def actor(self, node: int, kind: str, leaders: tuple[int, ...]) -> Actor:
        if kind != "puppet":
            return Actor(node=node, kind=kind)
        return Actor(node=node, kind=kind, moves=self.moves(node, leaders, self.everybody))

    def moves(self, node: int, leaders: tuple[int, ...], among: range) -> tuple[Move, ...]:
        """What a puppet does in an epoch; ``among`` are those whom it may tell."""
        self.everybody, self.nodes = among, len(among)
        moves: list[Move] = []
        malice = self.choice(MALICE)
        everybody = tuple(self.everybody)
        for view, leader in enumerate(leaders[: self.swarm.views], start=1):
            if self.draws.random() < malice:
                if leader == node:
                    moves += self.led(view)
                moves += self.followed(view)
            else:
                if leader == node:
                    moves.append(Propose(view=view, to=everybody))
                moves += [CastVote(view=view, kind=kind, to=everybody) for kind in range(KINDS)]
        return tuple(moves)

    def rank(self) -> int:
        draw = self.draws.random()
        return 0 if draw < 0.45 else 1 if draw < 0.65 else 2 if draw < 0.8 else 3 if draw < 0.9 else 4

    def led(self, view: int) -> list[Move]:
        draw = self.draws.random
        count = 1 if draw() < 0.35 else 2 if draw() < 0.85 else 3
        moves: list[Move] = []
        for variant in range(count):
            style = draw()
            moves.append(
                Propose(
                    view=view,
                    parent=self.rank(),
                    variant=variant,
                    proof="honest" if style < 0.4 else "lowest" if style < 0.8 else "forged",
                    to=self.some(),
                    after_ms=0 if draw() < 0.6 else round(draw() * 50, 1),
                )
            )
        return moves

    def followed(self, view: int) -> list[Move]:
        draw = self.draws.random
        moves: list[Move] = []
        for choice in range(2):
            for kind in range(KINDS):
                if draw() < 0.7:
                    times = 2 if draw() < 0.2 else 1
                    moves.append(CastVote(view=view, kind=kind, choice=choice, times=times, to=self.some()))
        if draw() < 0.5:
            moves.append(GiveUp(view=view, high=self.rank(), to=self.some(), after_ms=round(draw() * 60, 1)))
        if draw() < 0.1:
            moves.append(Announce(view=view, high=self.rank(), to=self.some(), after_ms=round(draw() * 60, 1)))
        return moves

    def faults(self, faulty: tuple[int, ...], twins: tuple[int, ...]) -> list[Fault]:
        swarm, draw = self.swarm, self.draws.random
        found: list[Fault] = []
        drop, partition = self.choice(swarm.drop), self.choice(swarm.partition)
        hide = self.choice(swarm.hide)
        for view in range(1, swarm.views + 1):
            if draw() < drop:
                kind = self.choice(("Proposal", "Vote", "Timeout", "Certificates", ""))
                source = int(draw() * self.nodes)
                found.append(Drop(view=view, message=kind, source=source, to=self.some(), times=self.times()))
            if draw() < hide:
                found += self.hidden(view)
            if draw() < partition:
                found.append(self.trouble(view))
        honest = [node for node in self.everybody if node not in faulty]
        if swarm.split and draw() < swarm.split:
            found.append(self.parted(faulty, twins))
        crashes = int(self.choice(swarm.crash) * draw() * 2 + 0.5) if any(swarm.crash) else 0
        for _ in range(crashes if honest else 0):
            node = honest[int(draw() * len(honest))]
            restart = round(1 + draw() * 100, 1)
            if draw() < 0.3:
                found.append(Crash(at_ms=round(draw() * 500, 1), nodes=(node,), restart_ms=restart))
            else:
                nth = 1 + int(draw() * 3 * swarm.views)
                found.append(Crash(nodes=(node,), boundary=self.choice(BOUNDARIES), nth=nth, restart_ms=restart))
        if draw() < swarm.restart_all:
            at = round(draw() * 500, 1)
            found += [Crash(at_ms=at, nodes=(node,), restart_ms=round(1 + draw() * 100, 1)) for node in self.everybody]
        if swarm.heal_ms is not None:
            found.append(Heal(at_ms=swarm.heal_ms))
        return found

    def hidden(self, view: int) -> list[Fault]:
        """The votes of ``view``, or those of a second kind alone, reach one node, and what that node then shows reaches
        nobody."""
        lucky = int(self.draws.random() * self.nodes)
        others = tuple(node for node in self.everybody if node != lucky)
        times, votes = self.times(), self.choice(("Vote", "Vote", "Vote 1"))
        found: list[Fault] = [
            Drop(view=view, message=votes, source=node, to=others, times=times) for node in self.everybody
        ]
        found.append(Drop(view=view + 1, message="Certificates", source=lucky, to=others, times=times))
        return found

    def parted(self, faulty: tuple[int, ...], twins: tuple[int, ...]) -> Fault:
        """The honest in two halves from some view on, for the whole run or for a while: the first copies of twins with
        one half, the second copies with the other; whoever else is faulty speaks with both."""
        draw = self.draws.random
        view = 1 + int(draw() * 4)
        lasting = None if draw() < 0.6 else round(50 + draw() * 1000, 1)
        honest = [node for node in self.everybody if node not in faulty]
        self.draws.shuffle(honest)
        middle = (len(honest) + 1) // 2
        left = (*honest[:middle], *twins)
        right = (*honest[middle:], *(self.nodes + number for number in range(len(twins))))
        pairs = tuple((one, other) for one in left for other in right)
        return Cut(at_view=view, pairs=(*pairs, *((other, one) for one, other in pairs)), for_ms=lasting)

    def times(self) -> int:
        """How often a message is lost before it gets through: a protocol may count on saying it again."""
        return 1 + int(self.draws.random() * 4)

    def trouble(self, view: int) -> Fault:
        """One network fault: a partition of some kind, a one-way cut, or a hold."""
        draw = self.draws.random
        lasting = round(20 + draw() * 200, 1)
        style = int(draw() * 5)
        nodes = list(self.everybody)
        if style == 0:  # isolate one
            alone = int(draw() * self.nodes)
            groups = ((alone,), tuple(node for node in nodes if node != alone))
            return Partition(at_view=view, groups=groups, for_ms=lasting)
        if style == 1:  # uniform sizes
            self.draws.shuffle(nodes)
            size = 1 + int(draw() * (self.nodes - 1))
            return Partition(at_view=view, groups=(tuple(nodes[:size]), tuple(nodes[size:])), for_ms=lasting)
        if style == 2:  # uniform split
            side = [int(draw() * 2) for _ in nodes]
            sides = tuple(tuple(node for node in nodes if side[node] == number) for number in (0, 1))
            return Partition(at_view=view, groups=tuple(group for group in sides if group), for_ms=lasting)
        pairs = tuple((int(draw() * self.nodes), int(draw() * self.nodes)) for _ in range(1 + int(draw() * 3)))
        if style == 3:
            return Cut(at_view=view, pairs=pairs, for_ms=lasting)
        return Hold(at_view=view, pairs=pairs, for_ms=lasting)
