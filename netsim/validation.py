"""What no type can say of a schedule, and how bad input is told: ``FILE: $.path: reason``.

Every rule is a generator of (path, reason): the first one found is raised. Names that a user of the library may add to
(actors, protocols) are judged where it is known which there are: :func:`netsim.simulation.check_names`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from netsim.geography import REGIONS
from netsim.schedule import (
    HONEST_KINDS,
    PAYLOAD_BYTES_MAX,
    Announce,
    BadSchedule,
    Begins,
    CastVote,
    Clock,
    Clog,
    Commits,
    Crash,
    Cut,
    Disk,
    Drop,
    Enters,
    GiveUp,
    Heal,
    Hold,
    Latency,
    LinkOverride,
    Liveness,
    Part,
    Partition,
    Propose,
    Prune,
    Schedule,
    Sends,
    Submit,
    Timed,
    Uniform,
    ViewPartition,
)

Problem = tuple[str, str]
T = TypeVar("T")
FAULTY_DISKS: Final = ("lost-fsync", "bit-rot", "misdirected", "wrong-host", "full")
_POSITIONS: Final[dict[type[Part], tuple[str, ...]]] = {
    LinkOverride: ("source", "target"),
    Clock: ("node",),
    Propose: ("to",),
    CastVote: ("to",),
    GiveUp: ("to",),
    Announce: ("to",),
    Partition: ("groups",),
    ViewPartition: ("groups",),
    Cut: ("pairs",),
    Hold: ("pairs",),
    Clog: ("pairs",),
    Drop: ("source", "to"),
    Crash: ("nodes",),
    Disk: ("node", "other"),
    Prune: ("nodes",),
    Heal: (),
    Submit: ("to",),
    Liveness: ("core",),
    Commits: ("node",),
    Enters: ("node",),
    Begins: ("node",),
    Sends: ("node",),
}
"""The fields of each part that hold positions."""
_AT: Final = re.compile(r"(?s)(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?")
_FIELD: Final = re.compile(r"Object (?P<what>contains unknown|missing required) field `(?P<name>.*?)`")


def positions(schedule: Schedule) -> int:
    """How many nodes there are, twins' second copies and observers included."""
    return schedule.nodes + len(copies(schedule)) + schedule.observers


def copies(schedule: Schedule) -> tuple[int, ...]:
    """The nodes that run twice, in the order of their second copies' positions."""
    return tuple(actor.node for actor in schedule.actors if actor.kind == "twin")


def joiners(schedule: Schedule) -> tuple[int, ...]:
    """The observers that a later epoch makes validators."""
    found = {member.node for epoch in schedule.epochs for member in epoch.validators if member.node >= schedule.nodes}
    return tuple(sorted(found))


def stakes_of(schedule: Schedule) -> list[dict[int, int]]:
    """The stake of each validator, epoch by epoch."""
    first = dict(enumerate(schedule.stakes or (1,) * schedule.nodes))
    return [first, *({member.node: member.stake for member in epoch.validators} for epoch in schedule.epochs)]


def faulty_nodes(schedule: Schedule) -> tuple[int, ...]:
    """Validators that do not count as honest: played by a faulty actor, or with a disk that lies. The fault atlas."""
    found = {actor.node for actor in schedule.actors if actor.kind not in HONEST_KINDS}
    found |= {
        fault.node
        for fault in schedule.faults
        if isinstance(fault, Disk) and fault.fault in FAULTY_DISKS and _is_validator(schedule, fault.node)
    }
    return tuple(sorted(found))


def _is_validator(schedule: Schedule, node: int) -> bool:
    return node < schedule.nodes or node in joiners(schedule)


def exceeds_bounds(schedule: Schedule) -> bool:
    """Whether in some epoch a third of the stake or more is faulty: what no protocol tolerates."""
    faulty = faulty_nodes(schedule)
    if not schedule.epochs:
        stakes = schedule.stakes or (1,) * schedule.nodes
        return 3 * sum(stakes[node] for node in faulty) >= sum(stakes)
    return any(3 * sum(epoch.get(node, 0) for node in faulty) >= sum(epoch.values()) for epoch in stakes_of(schedule))


# --- reading -----------------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises :class:`BadSchedule` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSchedule(f"{path}: cannot be read: {error.strerror}") from None


def refusal(where: str, root: str, error: Exception) -> BadSchedule:
    """What a decoder says, as ``FILE: $.path: reason``; ``root`` is the path of what was decoded."""
    found = _AT.fullmatch(str(error))
    assert found is not None  # it matches any text
    path, reason = root + (found["path"] or ""), found["reason"] or type(error).__name__
    field = _FIELD.match(reason)
    if field is not None:
        path = f"{path}.{field['name']}"
        reason = "is missing" if field["what"] == "missing required" else "is unknown"
    return BadSchedule(f"{where}: {path}: {reason}")


def decoded(data: bytes, kind: type[T], where: str) -> T:
    """A JSON document of that type. Raises :class:`BadSchedule`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(where, "$", error) from None


def converted(value: Any, kind: type[T], where: str, root: str) -> T:
    """The same of built-in values, which TOML gives."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise refusal(where, root, error) from None


def from_json(data: bytes, where: str) -> Schedule:
    """Read an explicit schedule. Raises :class:`BadSchedule`."""
    schedule = decoded(data, Schedule, where)
    check(schedule, where)
    return schedule


def check(schedule: Schedule, where: str, root: str = "$") -> None:
    """Refuse what no type can. Raises :class:`BadSchedule` naming the path of the bad key, below ``root``."""
    for path, reason in _problems(schedule):
        raise BadSchedule(f"{where}: {root}.{path}: {reason}")


# --- rules -------------------------------------------------------------------------------------------------------


def _problems(schedule: Schedule) -> Iterator[Problem]:
    return chain(
        _bad_committee(schedule),
        _bad_epochs(schedule),
        _bad_positions(schedule),
        _bad_links(schedule),
        _bad_actors(schedule),
        _bad_faults(schedule),
        _bad_demands(schedule),
    )


def _bad_committee(schedule: Schedule) -> Iterator[Problem]:
    times = schedule.times
    if schedule.stakes and len(schedule.stakes) != schedule.nodes:
        yield "stakes", f"{len(schedule.stakes)} of them for {schedule.nodes} nodes"
    if times.idle_interval_ms >= times.view_timeout_ms:
        yield "times.idle_interval_ms", "must be below view_timeout_ms"
    if times.growth_numerator < times.growth_denominator:
        yield "times.growth_numerator", "must be at least growth_denominator, or timeouts shrink"
    for number, leader in enumerate(schedule.leaders):
        if leader >= schedule.nodes:
            yield f"leaders[{number}]", f"there is no validator {leader}"
    watching = range(positions(schedule) - schedule.observers, positions(schedule))
    for number, actor in enumerate(schedule.actors):
        if actor.node >= schedule.nodes and not (schedule.epochs and actor.node in watching):
            yield f"actors[{number}].node", f"there is no validator {actor.node}"
    for name, nodes in (("actors", schedule.actors), ("clocks", schedule.clocks)):
        yield from _twice(name, "node", [part.node for part in nodes])


def _bad_epochs(schedule: Schedule) -> Iterator[Problem]:
    """Boundaries ascend; a set names each node once, no second copies, and no key that another set uses for another
    time; whoever leads, belongs."""
    last = 0
    watching = range(positions(schedule) - schedule.observers, positions(schedule))
    for number, epoch in enumerate(schedule.epochs):
        path = f"epochs[{number}]"
        if epoch.height <= last:
            yield f"{path}.height", f"{epoch.height} is not above {last}, where the epoch before begins"
        last = epoch.height
        members = [member.node for member in epoch.validators]
        yield from _twice(f"{path}.validators", "node", members)
        for at, node in enumerate(members):
            if node >= schedule.nodes and node not in watching:
                told = "is a twin's second copy" if node < watching.stop else "does not exist"
                yield f"{path}.validators[{at}].node", f"node {node} {told}: validators and observers can be members"
        for at, node in enumerate(epoch.leaders):
            if node not in members:
                yield f"{path}.leaders[{at}]", f"node {node} is no validator of that epoch"
    yield from _bad_epoch_numbers(schedule)


def _bad_epoch_numbers(schedule: Schedule) -> Iterator[Problem]:
    """Nothing is to happen in an epoch that the schedule does not have."""
    there = len(schedule.epochs)
    named: list[tuple[str, int | None]] = [("stop.epoch", schedule.stop.epoch)]
    for number, fault in enumerate(schedule.faults):
        if isinstance(fault, Drop | ViewPartition):
            named.append((f"faults[{number}].epoch", fault.epoch))
        elif isinstance(fault.on, Enters | Begins | Sends):
            named.append((f"faults[{number}].on.epoch", fault.on.epoch))
    for number, actor in enumerate(schedule.actors):
        named += [(f"actors[{number}].moves[{at}].epoch", move.epoch) for at, move in enumerate(actor.moves)]
    for path, epoch in named:
        if epoch is not None and epoch > there:
            yield path, f"there is no epoch {epoch}: the last one is {there}"


def _twice(name: str, key: str, values: Sequence[int]) -> Iterator[Problem]:
    seen: dict[int, None] = {}
    for number, value in enumerate(values):
        if value in seen:
            yield f"{name}[{number}].{key}", f"{value} has an entry already"
        seen[value] = None


def _bad_positions(schedule: Schedule) -> Iterator[Problem]:
    count = positions(schedule)
    for name, parts in (("links", schedule.links), ("clocks", schedule.clocks), ("faults", schedule.faults),
                        ("workload", schedule.workload)):  # fmt: skip
        for number, part in enumerate(parts):
            yield from _bad_positions_of(part, f"{name}[{number}]", count)
            if isinstance(part, Timed) and part.on is not None:
                yield from _bad_positions_of(part.on, f"{name}[{number}].on", count)
    for number, actor in enumerate(schedule.actors):
        for at, move in enumerate(actor.moves):
            yield from _bad_positions_of(move, f"actors[{number}].moves[{at}]", count)
    if schedule.liveness is not None:
        yield from _bad_positions_of(schedule.liveness, "liveness", count)


def _bad_positions_of(part: Part, path: str, count: int) -> Iterator[Problem]:
    for name in _POSITIONS[type(part)]:
        if _inside(getattr(part, name), count):
            continue
        for where, position in _flat(getattr(part, name), ""):
            if not 0 <= position < count:
                yield f"{path}.{name}{where}", f"there is no node {position}: the last one is {count - 1}"


def _inside(value: Any, count: int) -> bool:
    """Whether all positions exist: nearly always, so without a path."""
    if value is None:
        return True
    if isinstance(value, int):
        return 0 <= value < count
    if not value or isinstance(value[0], int):
        return not value or (min(value) >= 0 and max(value) < count)
    return all(_inside(each, count) for each in value)


def _flat(value: Any, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield path, value
    elif value:
        for number, each in enumerate(value):
            yield from _flat(each, f"{path}[{number}]")


def _bad_links(schedule: Schedule) -> Iterator[Problem]:
    yield from _bad_latency("link.latency", schedule.link.latency)
    for number, override in enumerate(schedule.links):
        yield from _bad_latency(f"links[{number}].link.latency", override.link.latency)
    count = positions(schedule)
    if schedule.regions and len(schedule.regions) != count:
        yield "regions", f"{len(schedule.regions)} of them for {count} nodes, twins' second copies and observers too"
    for number, region in enumerate(schedule.regions):
        if region not in REGIONS:
            yield f"regions[{number}]", f"{region!r} is unknown; known are {', '.join(REGIONS)}"
    if 0 < schedule.bandwidth_mbit < 1e-3:
        yield "bandwidth_mbit", "at least 0.001, or 0 for no bound"


def _bad_latency(path: str, latency: Latency) -> Iterator[Problem]:
    if isinstance(latency, Uniform) and latency.high_ms < latency.low_ms:
        yield f"{path}.high_ms", f"{latency.high_ms:g} is below low_ms, {latency.low_ms:g}"


def _bad_actors(schedule: Schedule) -> Iterator[Problem]:
    for number, actor in enumerate(schedule.actors):
        if actor.moves and actor.kind != "puppet":
            yield f"actors[{number}].moves", f"only a puppet has moves, not a {actor.kind}"
    if exceeds_bounds(schedule) and not schedule.beyond_bounds:
        nodes = ", ".join(str(node) for node in faulty_nodes(schedule))
        last = _last_faulty(schedule)
        where = " in some epoch" if schedule.epochs else ""
        told = f"validators {nodes} are faulty, a third of the stake or more{where}; beyond_bounds = true allows that"
        yield last, told


def _last_faulty(schedule: Schedule) -> str:
    """The path of what makes the last of the faulty validators faulty."""
    for number, fault in reversed(tuple(enumerate(schedule.faults))):
        if isinstance(fault, Disk) and fault.fault in FAULTY_DISKS:
            return f"faults[{number}].fault"
    last = max(number for number, actor in enumerate(schedule.actors) if actor.kind not in HONEST_KINDS)
    return f"actors[{last}].kind"


def _bad_faults(schedule: Schedule) -> Iterator[Problem]:
    for number, fault in enumerate(schedule.faults):
        path = f"faults[{number}]"
        if isinstance(fault, Timed):
            starts = sum(value is not None for value in (fault.at_ms, fault.at_view, fault.at_height, fault.on))
            if starts != 1 and not (isinstance(fault, Crash) and fault.boundary and starts == 0):
                yield path, "needs exactly one of at_ms, at_view, at_height, on"
        if isinstance(fault, Crash | Disk | Heal | Prune) and fault.for_ms is not None:
            yield f"{path}.for_ms", "this fault does not last for a time"
        if isinstance(fault, Partition):
            nodes = [node for group in fault.groups for node in dict.fromkeys(group)]
            for node in sorted({node for node in nodes if nodes.count(node) > 1}):
                yield f"{path}.groups", f"node {node} is in two groups; only groups of a view-partition may overlap"
        if isinstance(fault, Disk) and (fault.fault == "slow") != (fault.slow_ms > 0):
            yield f"{path}.slow_ms", "a slow disk, and no other, takes longer than 0"
        if isinstance(fault, Disk) and (fault.fault == "wrong-host") != (fault.other is not None):
            yield f"{path}.other", "names the host whose journal is read; for wrong-host, and nothing else"


def _bad_demands(schedule: Schedule) -> Iterator[Problem]:
    """What is given to the nodes, and what is asked of them."""
    for number, submit in enumerate(schedule.workload):
        size = len(submit.payload.encode())
        if size > PAYLOAD_BYTES_MAX:
            yield f"workload[{number}].payload", f"{size} bytes, more than the {PAYLOAD_BYTES_MAX} of a block"
    liveness = schedule.liveness
    if liveness is not None:
        if liveness.from_ms >= schedule.stop.time_ms:
            yield "liveness.from_ms", f"the run ends before it, at stop.time_ms = {schedule.stop.time_ms:g}"
        faulty = faulty_nodes(schedule)
        for number, node in enumerate(liveness.core):
            if node in faulty or schedule.nodes <= node < positions(schedule) - schedule.observers:
                yield f"liveness.core[{number}]", f"node {node} is faulty: nothing can be asked of it"
    yield from _twice("milestones", "view", [milestone.view for milestone in schedule.milestones])
    for number, milestone in enumerate(schedule.milestones):
        if milestone.height_max < milestone.height_min:
            yield f"milestones[{number}].height_max", "is below height_min"
    if schedule.fault_free:
        link = schedule.link
        for name, there in (("actors", faulty_nodes(schedule)), ("faults", schedule.faults), ("link.loss", link.loss)):
            if there:
                yield "fault_free", f"but there are {name}"
