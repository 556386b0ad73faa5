"""One run from a schedule or a scenario: wiring, judging, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import assert_never

import msgspec

from consensus.engine import Record
from consensus.finality.types import FfgVote
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.replica import Replica
from consensus.types import SYNC_MESSAGES
from netsim.actors.registry import ACTORS, OPTIONS, ActorFactory, actor_kinds
from netsim.committee import Committee, ReplicaFactory, committee_of, peer_of
from netsim.journal import Journal
from netsim.network import DropRule, LinkModel, nanoseconds
from netsim.numbering import numbered, split
from netsim.oracles.judge import Judge, Oracle
from netsim.oracles.registry import NAMEABLE_IDS, oracles_named
from netsim.scenario import Scenario, expand, load
from netsim.schedule import (
    HONEST_KINDS,
    BadSchedule,
    Clog,
    Crash,
    Cut,
    Disk,
    Drop,
    Fault,
    Heal,
    Hold,
    Partition,
    Prune,
    Schedule,
    Sends,
    Timed,
    ViewPartition,
)
from netsim.triggers import Triggers
from netsim.validation import FAULTY_DISKS, check, copies
from netsim.world import Host, Recorder, Violation, Watcher, World

Keep = Callable[[Record], bool]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was. ``logs`` holds each node's committed block ids in hex, by position; ``views`` are those that each
    was in, of the epoch in ``epochs``; ``commits`` is the highest height of an honest node, ``final`` the highest that
    it knows to be final; times are virtual nanoseconds; ``timers_fired`` leaves block sync's out."""

    schedule: Schedule
    violations: tuple[Violation, ...]
    logs: tuple[tuple[str, ...], ...]
    views: tuple[int, ...]
    epochs: tuple[int, ...] = ()
    commits: int
    final: int = 0
    virtual_ns: int
    events: int
    deliveries: int
    timers_fired: int
    trace_hash: str

    @property
    def silent(self) -> bool:
        """No oracle fired."""
        return not self.violations

    @property
    def verdict(self) -> str:
        """``silent``, or the id of the oracle that fired first."""
        return self.violations[0].oracle if self.violations else "silent"


def build(
    schedule: Schedule,
    definition: ProtocolDefinition,
    *,
    actors: Mapping[str, ActorFactory] = ACTORS,
    keep: Keep | None = None,
    link_model: LinkModel | None = None,
    make_replica: ReplicaFactory = Replica,
) -> World:
    """The world of a schedule, wired, at time 0."""
    committee = committee_of(schedule)
    world = World(schedule, definition, committee, _hosts(schedule, committee, keep), link_model, make_replica)
    for actor in schedule.actors:
        host = world.hosts[actor.node]
        host.honest = actor.kind in HONEST_KINDS
        if actor.kind in actors:
            host.player = actors[actor.kind](actor)
    for fault in schedule.faults:
        if isinstance(fault, Disk) and fault.fault in FAULTY_DISKS:
            world.hosts[fault.node].honest = False
    for clock in schedule.clocks:
        world.hosts[clock.node].clock = clock
    return world


def check_names(
    schedule: Schedule, where: str, definition: ProtocolDefinition, actors: Mapping[str, ActorFactory] = ACTORS
) -> None:
    """Refuse names of actors, their options, oracles and messages that nobody knows. Raises :class:`BadSchedule`."""

    def refuse(path: str, name: str, known: Iterable[str]) -> None:
        raise BadSchedule(f"{where}: $.{path}: {name!r} is unknown; known are {', '.join(dict.fromkeys(known))}")

    for number, actor in enumerate(schedule.actors):
        if actor.kind not in actors and actor.kind not in actor_kinds():
            refuse(f"actors[{number}].kind", actor.kind, (*actor_kinds(), *actors))
        if actors.get(actor.kind) is not ACTORS.get(actor.kind):
            continue  # an actor of the user's own has options of its own
        known = OPTIONS.get(actor.kind, {})
        for name, value in actor.options.items():
            if name not in known:
                refuse(f"actors[{number}].options.{name}", name, known or ("none",))
            low, high = known[name]
            if not low <= value <= high:
                raise BadSchedule(f"{where}: $.actors[{number}].options.{name}: {value:g} is not {low:g} to {high:g}")
    for number, oracle in enumerate(schedule.oracles):
        if oracle not in NAMEABLE_IDS:
            refuse(f"oracles[{number}]", oracle, NAMEABLE_IDS)
    own = [message.__name__ for message in definition.messages]
    for number, fault in enumerate(schedule.faults):
        path, name = f"faults[{number}].message", fault.message if isinstance(fault, Drop) else ""
        if isinstance(fault, Timed) and isinstance(fault.on, Sends):
            path, name = f"faults[{number}].on.message", fault.on.message
        if name not in ("", *own) and name not in all_messages():
            refuse(path, name, (*own, *all_messages()))


@lru_cache(maxsize=1)
def all_messages() -> tuple[str, ...]:
    """The messages of every protocol, of block sync and of finality, by the names that schedules have for them: one
    scenario serves many protocols."""
    protocols = [protocol_named(name) for name in protocol_names()]
    names = [message.__name__ for each in protocols for message in each.messages]
    kinds = max(sum(kind.blocks for kind in each.votes) for each in protocols)
    votes = [f"Vote {number}" for number in range(kinds)]
    return tuple(dict.fromkeys([*names, *votes, *(message.__name__ for message in (*SYNC_MESSAGES, FfgVote))]))


def _hosts(schedule: Schedule, committee: Committee, keep: Keep | None) -> list[Host]:
    copied = copies(schedule)
    nodes = [*range(schedule.nodes), *copied]
    nodes += range(len(nodes), len(nodes) + schedule.observers)
    hosts: list[Host] = []
    for position, node in enumerate(nodes):
        host = Host(position, committee.seat(node, 0), peer_of(node, schedule.nodes, len(copied)), Journal(keep))
        host.node, host.keys = node, committee.keys_of(node)
        hosts.append(host)
    for position, node in enumerate(copied):
        hosts[schedule.nodes + position].honest = False
        hosts[node].honest = False
    return hosts


def run_world(world: World) -> None:
    """Attach the actors, start everybody, let the faults happen, and run to the end."""
    schedule = world.schedule
    for host in world.hosts:
        if host.player is not None:
            host.player.attach(world, host)
    if any(isinstance(fault, Timed) and fault.on is not None for fault in schedule.faults):
        triggers = Triggers(world)
        world.watchers.append(triggers)
        for fault in schedule.faults:
            if isinstance(fault, Timed) and fault.on is not None:
                triggers.add(fault.on, partial(_begin, world, fault))
    for fault in schedule.faults:
        _plan(world, fault)
    for submit in schedule.workload:
        targets = [world.hosts[position] for position in submit.to] or list(world.hosts)
        world.at(nanoseconds(submit.at_ms), partial(world.submit, submit.payload.encode(), targets))
    for host in world.hosts:
        world.start(host)
    world.connect(world.hosts)
    world.run(nanoseconds(schedule.stop.time_ms))


def _plan(world: World, fault: Fault) -> None:
    network = world.network
    match fault:
        case Drop():
            kinds = [kind.name for kind in world.definition.votes if kind.blocks]
            network.drops.setdefault(numbered(fault.epoch, fault.view), []).append(DropRule(fault, kinds))
            network.refresh()
        case ViewPartition():
            network.view_groups[numbered(fault.epoch, fault.view)] = tuple(frozenset(group) for group in fault.groups)
            network.refresh()
        case Crash() if fault.boundary and fault.on is None and not _is_dated(fault):
            _arm(world, fault)
        case _:
            _when(world, fault, partial(_begin, world, fault))


def _is_dated(fault: Timed) -> bool:
    return any(start is not None for start in (fault.at_ms, fault.at_view, fault.at_height))


def _when(world: World, fault: Timed, action: Callable[[], None]) -> None:
    if fault.at_ms is not None:
        world.at(nanoseconds(fault.at_ms), action)
    elif fault.at_view is not None:
        world.on_view.setdefault(fault.at_view, []).append(action)
    elif fault.at_height is not None:
        world.on_height.setdefault(fault.at_height, []).append(action)


def _arm(world: World, fault: Crash) -> None:
    restart_ns = None if fault.restart_ms is None else nanoseconds(fault.restart_ms)
    for node in fault.nodes:
        world.hosts[node].armed.append((fault.boundary, fault.nth, restart_ns))


def _begin(world: World, fault: Fault) -> None:
    if world.healed and isinstance(fault, Timed) and fault.at_ms is None:
        return
    if isinstance(fault, Timed) and fault.on is not None:
        world.began.setdefault(fault, world.now)
    network = world.network
    end: Callable[[], None] | None = None
    match fault:
        case Partition():
            network.partition(fault.groups)
            end = partial(network.rejoin, fault.groups)
        case Cut():
            network.cut(fault.pairs, 1)
            end = partial(network.cut, fault.pairs, -1)
        case Hold():
            network.hold(fault.pairs, 1)
            end = partial(_release, world, fault)
        case Clog():
            network.clog(fault.pairs, nanoseconds(fault.extra_ms))
            end = partial(network.clog, fault.pairs, -nanoseconds(fault.extra_ms))
        case Heal():
            world.healed = True
            network.heal()
            for host in world.hosts:
                host.armed.clear()
            world.release()
        case Crash():
            _crash(world, fault)
        case Disk():
            _spoil(world, fault)
        case Prune():
            for node in fault.nodes:
                world.hosts[node].journal.prune(fault.keep)
        case Drop() | ViewPartition():
            raise AssertionError("is there from the start")
        case _:
            assert_never(fault)
    if end is not None and isinstance(fault, Timed) and fault.for_ms is not None:
        world.at(world.now + nanoseconds(fault.for_ms), partial(_end, world, network.heals, end))


def _end(world: World, heals: int, end: Callable[[], None]) -> None:
    """A fault's time is over, unless a heal has ended it before."""
    if world.network.heals == heals:
        end()


def _release(world: World, fault: Hold) -> None:
    world.network.hold(fault.pairs, -1)
    world.release()


def _crash(world: World, fault: Crash) -> None:
    if fault.boundary:
        _arm(world, fault)
        return
    for node in fault.nodes:
        world.crash(world.hosts[node], None if fault.restart_ms is None else nanoseconds(fault.restart_ms))


def _spoil(world: World, fault: Disk) -> None:
    host = world.hosts[fault.node]
    journal = host.journal
    match fault.fault:
        case "torn":
            journal.torn = True
        case "lost-fsync":
            journal.lose_from_now()
        case "bit-rot" | "misdirected":
            journal.damaged = fault.fault
        case "wrong-host":
            assert fault.other is not None  # checked
            journal.read_instead(world.hosts[fault.other].journal)
        case "slow":
            host.slow_ns = nanoseconds(fault.slow_ms)
        case "full":
            journal.full = True
        case _:
            assert_never(fault.fault)


def run_schedule(
    schedule: Schedule,
    *,
    definition: ProtocolDefinition | None = None,
    actors: Mapping[str, ActorFactory] = ACTORS,
    oracles: Sequence[Oracle] = (),
    recorder: Recorder | None = None,
    watchers: Sequence[Watcher] = (),
    keep: Keep | None = None,
    link_model: LinkModel | None = None,
    make_replica: ReplicaFactory = Replica,
) -> Result:
    """Run one explicit schedule. ``definition`` replaces the protocol that it names, ``oracles`` judge beside ours,
    ``recorder`` sees every message and ``watchers`` everything else, ``keep`` drops records (what a mutant
    forgets), ``link_model`` replaces the schedule's links, ``make_replica`` makes broken replicas. Raises
    :class:`BadSchedule`."""
    where = schedule.name or "schedule"
    check(schedule, where)
    chosen = protocol_of(schedule, where) if definition is None else definition
    check_names(schedule, where, chosen, actors)
    world = build(schedule, chosen, actors=actors, keep=keep, link_model=link_model, make_replica=make_replica)
    judge = Judge(world, (*oracles_named(schedule.oracles), *oracles))
    world.watchers += (judge, *watchers)
    world.recorder = recorder
    run_world(world)
    judge.end()
    honest = [host for host in world.hosts if host.honest]
    result = Result(
        schedule=schedule,
        violations=tuple(world.violations),
        logs=tuple(tuple(block_id.hex() for block_id in host.ledger) for host in world.hosts),
        views=tuple(split(host.view)[1] for host in world.hosts),
        epochs=tuple(host.journal.epoch for host in world.hosts) if schedule.epochs else (),
        commits=max((host.height for host in honest), default=0),
        final=max((host.final for host in honest), default=0),
        virtual_ns=world.now,
        events=world.events,
        deliveries=world.deliveries,
        timers_fired=sum(host.timers_fired for host in world.hosts),
        trace_hash=world.trace_hash(),
    )
    judge.close()
    world.close()
    return result


def protocol_of(schedule: Schedule, where: str) -> ProtocolDefinition:
    """The protocol that a schedule names. Raises :class:`BadSchedule`."""
    try:
        return protocol_named(schedule.protocol)
    except ValueError as error:
        raise BadSchedule(f"{where}: $.{error}") from None


class Simulation:
    """A question asked of a protocol: ``Simulation(load("x.toml")).run(seed=7)``. Raises :class:`BadSchedule`."""

    def __init__(
        self,
        scenario: Scenario | Schedule | str | Path,
        *,
        protocol: str | ProtocolDefinition | None = None,
        actors: Mapping[str, ActorFactory] | None = None,
        oracles: Callable[[], Sequence[Oracle]] | None = None,
        link_model: Callable[[], LinkModel] | None = None,
    ) -> None:
        self.scenario = load(scenario) if isinstance(scenario, str | Path) else scenario
        self.protocol = protocol
        self.actors = {**ACTORS, **(actors or {})}
        self.oracles = oracles
        self.link_model = link_model

    def schedule(self, seed: int) -> Schedule:
        """The explicit schedule of ``seed``."""
        schedule = expand(self.scenario, seed)
        if isinstance(self.protocol, str):
            schedule = schedule.replace(protocol=self.protocol)
        return schedule

    def run(self, seed: int = 0, *, recorder: Recorder | None = None) -> Result:
        """Run with one seed."""
        definition = self.protocol if isinstance(self.protocol, ProtocolDefinition) else None
        return run_schedule(
            self.schedule(seed),
            definition=definition,
            actors=self.actors,
            oracles=() if self.oracles is None else self.oracles(),
            recorder=recorder,
            link_model=None if self.link_model is None else self.link_model(),
        )
