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
from typing import Annotated

import msgspec
from msgspec import Meta

from netsim.schedule import (
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
    check,
)

Count = Annotated[int, Meta(ge=0, le=64)]


class _Replica(msgspec.Struct, frozen=True):
    ReplicaID: Annotated[int, Meta(ge=1, le=128)]
    TwinID: Count = 0


class _View(msgspec.Struct, frozen=True):
    leader: Annotated[int, Meta(ge=1, le=128)]
    partitions: tuple[tuple[_Replica, ...], ...]


class _Relab(msgspec.Struct, frozen=True):
    num_nodes: Annotated[int, Meta(ge=1, le=64)]
    num_twins: Count
    scenarios: tuple[tuple[_View, ...], ...]


class _Rounds(msgspec.Struct, frozen=True):
    round_leaders: dict[int, tuple[int, ...]]
    round_partitions: dict[int, tuple[tuple[int, ...], ...]]
    firewall: dict[int, dict[int, tuple[int, ...]]] = {}


class _Asonnino(msgspec.Struct, frozen=True):
    num_of_nodes: Annotated[int, Meta(ge=1, le=64)]
    num_of_twins: Count
    scenarios: tuple[_Rounds, ...]


def import_twins(data: bytes, where: str, protocol: str) -> Iterator[Schedule]:
    """The schedules of a file in either format. Raises :class:`BadSchedule`."""
    try:
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "num_of_nodes" in keys:
            yield from _asonnino(msgspec.json.decode(data, type=_Asonnino), where, protocol)
        else:
            yield from _relab(msgspec.json.decode(data, type=_Relab), where, protocol)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSchedule(f"{where}: {error}") from None


def _schedule(
    where: str, number: int, protocol: str, nodes: int, twins: int, leaders: list[int], faults: list[Fault]
) -> Schedule:
    schedule = Schedule(
        name=f"{where}#{number}",
        protocol=protocol,
        nodes=nodes,
        leaders=tuple(leaders),
        link=Link(latency=Constant(ms=1)),
        times=Times(exponent_max=0),
        actors=tuple(Actor(node=node, kind="twin") for node in range(twins)),
        faults=tuple(faults),
        stop=Stop(view=len(leaders) + 4, time_ms=20_000),
    )
    check(schedule, f"{where}: $.scenarios[{number}]")
    return schedule


def _relab(document: _Relab, where: str, protocol: str) -> Iterator[Schedule]:
    nodes = document.num_nodes

    def position(replica: _Replica) -> int:
        # A file may also number the second copies after the replicas (its own test does).
        copied = replica.TwinID == 2 and replica.ReplicaID <= document.num_twins
        return replica.ReplicaID - 1 + (nodes if copied else 0)

    for number, views in enumerate(document.scenarios):
        faults: list[Fault] = [
            ViewPartition(
                view=view,
                groups=tuple(tuple(position(replica) for replica in group) for group in step.partitions if group),
            )
            for view, step in enumerate(views, start=1)
        ]
        leaders = [step.leader - 1 for step in views]
        yield _schedule(where, number, protocol, nodes, document.num_twins, leaders, faults)


def _asonnino(document: _Asonnino, where: str, protocol: str) -> Iterator[Schedule]:
    nodes = document.num_of_nodes
    for number, rounds in enumerate(document.scenarios):
        if not rounds.round_leaders:
            raise BadSchedule(f"{where}: $.scenarios[{number}].round_leaders: is empty")
        first, last = min(rounds.round_leaders), max(rounds.round_leaders)
        leaders = [min(rounds.round_leaders.get(at, (0,))) % nodes for at in range(first, last + 1)]
        faults: list[Fault] = [
            ViewPartition(view=at - first + 1, groups=groups)
            for at, groups in sorted(rounds.round_partitions.items())
            if at >= first
        ]
        for at, rule in sorted(rounds.firewall.items()):
            faults += [
                Drop(view=at - first + 1, source=source, to=targets)
                for source, targets in sorted(rule.items())
                if at >= first
            ]
        yield _schedule(where, number, protocol, nodes, document.num_of_twins, leaders, faults)
