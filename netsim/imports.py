"""Importers of the public Twins JSON formats.

* relab/hotstuff (``twins/twins.go``, ``twins/scenario.go``): ``{"num_nodes", "num_twins", "scenarios": [[{"leader",
  "partitions": [[{"ReplicaID", "TwinID"}, ...], ...]}, ...]]}``, replicas numbered from 1, a twin being the same
  replica with ``TwinID`` 2 (its first copy has 1, and a replica without a twin 0).
* asonnino/twins-simulator (``scripts/*.json``, ``scripts/twins_executor.py``): ``{"num_of_nodes", "num_of_twins",
  "scenarios": [{"round_leaders", "round_partitions", "firewall"}]}``, nodes numbered from 0, twins after them, rounds
  by number; the firewall of a round maps a sender to those that it does not reach.

Rounds become views from 1 on. In the second format a round may have a node and its twin as leaders: one validator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from netsim.schedule import (
    NAME_MAX,
    Actor,
    BadSchedule,
    Constant,
    Drop,
    Fault,
    Link,
    Schedule,
    Stop,
    Times,
    ViewPartition,
)
from netsim.validation import check, decoded, exceeds_bounds

ROUNDS_MAX: Final = 10_000
Count = Annotated[int, Meta(ge=0, le=64)]
Node = Annotated[int, Meta(ge=0, le=128)]
Round = Annotated[int, Meta(ge=0, le=2**40)]


class _Replica(msgspec.Struct, frozen=True):
    ReplicaID: Annotated[int, Meta(ge=1, le=128)]
    TwinID: Count = 0


class _View(msgspec.Struct, frozen=True):
    leader: Annotated[int, Meta(ge=1, le=128)]
    partitions: tuple[tuple[_Replica, ...], ...]


class _Relab(msgspec.Struct, frozen=True):
    num_nodes: Annotated[int, Meta(ge=1, le=64)]
    num_twins: Count
    scenarios: tuple[Annotated[tuple[_View, ...], Meta(max_length=ROUNDS_MAX)], ...]


class _Rounds(msgspec.Struct, frozen=True):
    round_leaders: Annotated[dict[Round, Annotated[tuple[Node, ...], Meta(min_length=1)]], Meta(min_length=1)]
    round_partitions: dict[Round, tuple[tuple[Node, ...], ...]]
    firewall: dict[Round, dict[Node, tuple[Node, ...]]] = {}


class _Asonnino(msgspec.Struct, frozen=True):
    num_of_nodes: Annotated[int, Meta(ge=1, le=64)]
    num_of_twins: Count
    scenarios: tuple[_Rounds, ...]


def import_twins(data: bytes, where: str, protocol: str) -> list[Schedule]:
    """The schedules of a file in either format. Raises :class:`BadSchedule`."""
    keys = decoded(data, dict[str, msgspec.Raw], where)
    if "num_of_nodes" in keys:
        return list(_asonnino(decoded(data, _Asonnino, where), where, protocol))
    return list(_relab(decoded(data, _Relab, where), where, protocol))


def _count(where: str, key: str, nodes: int, twins: int) -> int:
    """How many positions there are."""
    if twins > nodes:
        raise BadSchedule(f"{where}: $.{key}: {twins} twins of {nodes} nodes")
    return nodes + twins


def _within(where: str, path: str, node: int, count: int) -> int:
    """A position of the file."""
    if node >= count:
        raise BadSchedule(f"{where}: {path}: there are {count} nodes and twins")
    return node


def _schedule(
    where: str, number: int, protocol: str, nodes: int, twins: int, leaders: list[int], faults: list[Fault]
) -> Schedule:
    schedule = Schedule(
        name=f"{where}#{number}"[-NAME_MAX:],
        protocol=protocol,
        nodes=nodes,
        leaders=tuple(leaders),
        link=Link(latency=Constant(ms=1)),
        times=Times(exponent_max=0),
        actors=tuple(Actor(node=node, kind="twin") for node in range(twins)),
        faults=tuple(faults),
        stop=Stop(view=len(leaders) + 4, time_ms=20_000),
    )
    schedule = schedule.replace(beyond_bounds=exceeds_bounds(schedule))
    check(schedule, where, f"$.scenarios[{number}]")
    return schedule


def _relab(document: _Relab, where: str, protocol: str) -> Iterator[Schedule]:
    nodes = document.num_nodes
    count = _count(where, "num_twins", nodes, document.num_twins)

    def position(replica: _Replica, path: str) -> int:
        # A file may also number the second copies after the replicas (its own test does).
        copied = replica.TwinID == 2 and replica.ReplicaID <= document.num_twins
        return _within(where, f"{path}.ReplicaID", replica.ReplicaID - 1 + (nodes if copied else 0), count)

    for number, views in enumerate(document.scenarios):
        faults: list[Fault] = []
        leaders: list[int] = []
        for at, step in enumerate(views):
            path = f"$.scenarios[{number}][{at}]"
            leaders.append(_within(where, f"{path}.leader", step.leader - 1, nodes))
            groups = tuple(
                tuple(position(replica, f"{path}.partitions[{side}][{place}]") for place, replica in enumerate(group))
                for side, group in enumerate(step.partitions)
                if group
            )
            faults.append(ViewPartition(view=at + 1, groups=groups))
        yield _schedule(where, number, protocol, nodes, document.num_twins, leaders, faults)


def _asonnino(document: _Asonnino, where: str, protocol: str) -> Iterator[Schedule]:
    nodes = document.num_of_nodes
    count = _count(where, "num_of_twins", nodes, document.num_of_twins)
    for number, rounds in enumerate(document.scenarios):
        path = f"$.scenarios[{number}]"
        first, last = min(rounds.round_leaders), max(rounds.round_leaders)
        if last - first >= ROUNDS_MAX:
            raise BadSchedule(f"{where}: {path}.round_leaders: rounds {first} to {last}, more than {ROUNDS_MAX}")
        for at, named in rounds.round_leaders.items():
            for leader in named:
                _within(where, f"{path}.round_leaders[{at}]", leader, count)
        leaders = [min(rounds.round_leaders.get(at, (0,))) % nodes for at in range(first, last + 1)]
        faults: list[Fault] = []
        for at, groups in sorted(rounds.round_partitions.items()):
            for node in (node for group in groups for node in group):
                _within(where, f"{path}.round_partitions[{at}]", node, count)
            if at >= first:
                faults.append(ViewPartition(view=at - first + 1, groups=groups))
        for at, rule in sorted(rounds.firewall.items()):
            for source, targets in sorted(rule.items()):
                for node in (source, *targets):
                    _within(where, f"{path}.firewall[{at}]", node, count)
                if at >= first:
                    faults.append(Drop(view=at - first + 1, source=source, to=targets))
        yield _schedule(where, number, protocol, nodes, document.num_of_twins, leaders, faults)
