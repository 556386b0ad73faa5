"""One cell of the table of protocol costs: a protocol among ``n`` simulated validators, measured by a probe that sees
every message and every commit, and asks the protocol nothing.

``trace``      constant links: message delays from the sending of a block to its commit, copies and bytes per block
``cpu``        the same with simulated signatures and nothing that looks on: CPU time of the simulation per block
``network``    a LAN or the geographic preset: the time to a commit, and blocks per second
``silent``     F validators that never say a word: commits per second
``partition``  from the end of a partition to the first new commit at every validator

Validators are of equal stake and lead in turn. A payload always waits, so that no leader idles.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import msgspec

from consensus.codec import digest
from consensus.engine import Commit, Event, Finalize, Record, Recovered, ReportEvidence
from consensus.protocols.registry import protocol_named
from consensus.types import BlockId, View
from netsim.geography import REGIONS
from netsim.network import MILLISECOND
from netsim.reading import header_in
from netsim.schedule import Actor, Constant, Latency, Link, Partition, Schedule, Stop, Submit, Times, Uniform
from netsim.simulation import build, run_world
from netsim.world import Host, World

DELAY_MS: Final = 10
VIEW_TIMEOUT_MS: Final = 100
"""Ten delays: every protocol's view fits in with room."""
LAN: Final = Uniform(low_ms=0.1, high_ms=0.5)
REGIONS_TIMEOUT_MS: Final = 1500
"""The default of a chain spec; the slowest link of the preset takes 167 ms."""
PAYLOAD_BYTES: Final = 1000
WARM_HEIGHTS: Final = 2
"""Blocks before the window that is measured."""
WARM_TURNS: Final = 4
PARTITION_AT_MS: Final = 2 * VIEW_TIMEOUT_MS
PARTITIONS_MS: Final = (310, 345, 380)
"""How long partitions last: the time that it takes to come back depends on where in its timers each validator is."""
PATIENCE_MS: Final = 200 * VIEW_TIMEOUT_MS
FOR_EVER_MS: Final = 1e8


def faulty_max(nodes: int) -> int:
    """F of ``nodes`` validators of equal stake."""
    return nodes - (2 * nodes // 3 + 1)


def spread(count: int, nodes: int) -> tuple[int, ...]:
    """``count`` positions of ``nodes``, as far from each other as they go."""
    return tuple(number * nodes // count for number in range(count))


def blocks_of(nodes: int) -> int:
    """How many blocks a cell measures: an n^2 protocol gets few where n is large."""
    return max(4, min(24, 400 // nodes))


def rounds_of(nodes: int) -> int:
    """How often every validator's turn comes where some are silent."""
    return max(1, 32 // nodes)


@dataclass(frozen=True, slots=True)
class Mark:
    """What had happened when the first validator committed a height."""

    at_ns: int
    copies: int
    size_bytes: int


@dataclass(slots=True)
class Probe:
    """A watcher and recorder of one run. It must hear ``sent`` before the copies of a message are recorded, as the
    world tells it."""

    world: World
    proposed_ns: dict[BlockId, int] = field(default_factory=dict)
    proposers: dict[BlockId, int] = field(default_factory=dict)
    committed_ns: dict[BlockId, dict[int, int]] = field(default_factory=dict)
    marks: dict[int, Mark] = field(default_factory=dict)
    turns: dict[int, tuple[int, int]] = field(default_factory=dict)
    """When the first honest validator entered a turn, and how high anybody had committed then."""
    kinds: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    size_bytes: int = 0
    goal_height: int | None = None
    """The run ends when every honest validator has committed more than this."""
    reached: set[int] = field(default_factory=set)
    _frame_bytes: int = 0

    def sent(self, host: Host, message: msgspec.Struct) -> None:
        if self.world.recorder is not None:
            self._frame_bytes = 1 + len(msgspec.msgpack.encode(message))
        header = header_in(message)
        if header is not None and header.proposer == host.index:
            block_id = digest(header)
            self.proposed_ns.setdefault(block_id, self.world.now)
            self.proposers.setdefault(block_id, host.position)

    def committed(self, host: Host, commit: Commit) -> None:
        now, height = self.world.now, commit.block.header.height
        self.committed_ns.setdefault(commit.block.id, {}).setdefault(host.position, now)
        if host.honest and height not in self.marks:
            self.marks[height] = Mark(now, self.copies, self.size_bytes)
        if self.goal_height is not None and height > self.goal_height:
            self.reached.add(host.position)
            self.world.finished = len(self.reached) == len(self.honest)

    def entered(self, host: Host, view: View) -> None:
        if host.honest and view not in self.turns:
            self.turns[view] = (self.world.now, max(self.marks, default=0))

    def sending(
        self, now: int, due_ns: int, sequence: int, source: Host, target: Host, message: msgspec.Struct
    ) -> None:
        self.copies += 1
        self.size_bytes += self._frame_bytes
        self.kinds[type(message).__name__] += 1

    def lost(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        self.sending(now, now, 0, source, target, message)

    def held(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        pass

    def arrived(self, now: int, sequence: int) -> None:
        pass

    def handling(self, now: int, sequence: int, host: Host, event: Event) -> None:
        pass

    def started(self, host: Host, recovered: Recovered) -> None:
        pass

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        pass

    def fired(self, host: Host, name: str) -> None:
        pass

    def finalized(self, host: Host, effect: Finalize) -> None:
        pass

    def accused(self, host: Host, evidence: ReportEvidence) -> None:
        raise RuntimeError(f"node {host.position} accuses somebody of {evidence}: nobody lies in these runs")

    def broke(self, host: Host, event: Event, error: Exception) -> None:
        raise RuntimeError(f"node {host.position} broke on {event}") from error

    def died(self, host: Host) -> None:
        pass

    # --- what it saw --------------------------------------------------------------------------------------------

    @property
    def honest(self) -> list[Host]:
        return [host for host in self.world.hosts if host.honest]

    def waits_ns(self) -> list[tuple[int, int]]:
        """Of every block after the first few that all honest validators committed: nanoseconds from its sending to its
        commit at its proposer, and at the last of them all."""
        waits = []
        for block_id, commits in list(self.committed_ns.items())[WARM_HEIGHTS:]:
            sent_ns = self.proposed_ns.get(block_id)
            if sent_ns is not None and all(host.position in commits for host in self.honest):
                at_all = [commits[host.position] - sent_ns for host in self.honest]
                waits.append((commits[self.proposers[block_id]] - sent_ns, max(at_all)))
        return waits


def schedule_of(
    protocol: str,
    nodes: int,
    *,
    stop: Stop,
    scheme: str = "simulated",
    latency: Latency = Constant(ms=DELAY_MS),  # noqa: B008 - frozen
    view_timeout_ms: int = VIEW_TIMEOUT_MS,
    payloads: int = 200,
) -> Schedule:
    """A run in which nothing goes wrong."""
    bodies = (f"payload {number} ".ljust(PAYLOAD_BYTES, ".") for number in range(payloads))
    return Schedule(
        name=f"{protocol} among {nodes}",
        protocol=protocol,
        nodes=nodes,
        link=Link(latency=latency),
        times=Times(view_timeout_ms=view_timeout_ms),
        workload=tuple(Submit(at_ms=0, payload=body) for body in bodies),
        stop=stop,
    ).replace(scheme=scheme)


def run(schedule: Schedule, *, record: bool = False, goal_at_ms: float | None = None) -> Probe:
    """Run under a probe. ``record`` counts copies and bytes; with ``goal_at_ms`` the run ends when every honest
    validator has committed more than anybody had at that time."""
    world = build(schedule, protocol_named(schedule.protocol))
    probe = Probe(world)
    world.watchers.append(probe)
    if record:
        world.recorder = probe

    def set_goal() -> None:
        probe.goal_height = max(host.height for host in world.hosts)

    if goal_at_ms is not None:
        world.at(round(goal_at_ms * MILLISECOND), set_goal)
    run_world(world)
    for host in world.hosts:
        longest = max(world.hosts, key=lambda other: len(other.ledger)).ledger
        if host.ledger != longest[: len(host.ledger)]:
            raise RuntimeError(f"{schedule.name}: two validators committed different blocks")
    return probe


def calm_stop(nodes: int) -> Stop:
    """Long enough for the blocks that are measured, and one more: the last one is then over."""
    return Stop(view=0, height=WARM_HEIGHTS + blocks_of(nodes) + 1, time_ms=FOR_EVER_MS)


def window_of(probe: Probe, nodes: int) -> tuple[Mark, Mark, int]:
    """The first and last mark of the blocks that are measured, and how many they are."""
    first, last = WARM_HEIGHTS, WARM_HEIGHTS + blocks_of(nodes)
    return probe.marks[first], probe.marks[last], last - first


def trace(protocol: str, nodes: int, scheme: str) -> dict[str, object]:
    """Delays in units of the link's, copies and bytes per block. ``scheme`` is a real one: it makes the bytes."""
    probe = run(schedule_of(protocol, nodes, stop=calm_stop(nodes), scheme=scheme), record=True)
    waits, delay_ns = probe.waits_ns(), DELAY_MS * MILLISECOND
    first, last, blocks = window_of(probe, nodes)
    found: dict[str, object] = {
        "blocks": blocks,
        "commit_delays": _units([wait for _, wait in waits], delay_ns),
        "proposer_delays": _units([wait for wait, _ in waits], delay_ns),
        "messages_per_block": (last.copies - first.copies) / blocks,
        "bytes_per_block": (last.size_bytes - first.size_bytes) / blocks,
        "blocks_per_s": blocks / ((last.at_ns - first.at_ns) / 1e9),
        "copies_by_kind": dict(sorted(probe.kinds.items())),
    }
    probe.world.close()
    return found


def _units(found_ns: Iterable[int], unit_ns: int) -> dict[str, float]:
    """Least, median and most of some times, in units. The microseconds that a payload takes to be built are rounded
    away."""
    ascending = sorted(round(each / unit_ns, 2) for each in found_ns)
    return {"least": ascending[0], "median": round(median(ascending), 2), "most": ascending[-1]}


def cpu(protocol: str, nodes: int) -> dict[str, object]:
    """CPU milliseconds of the simulation per committed block, beside those of a million additions."""
    schedule = schedule_of(protocol, nodes, stop=calm_stop(nodes))
    world = build(schedule, protocol_named(protocol))
    marks_s: list[float] = []
    for height in (WARM_HEIGHTS, WARM_HEIGHTS + blocks_of(nodes)):
        world.on_height[height] = [lambda: marks_s.append(time.process_time())]
    calibration_ms = calibration_s(1_000_000) * 1000
    run_world(world)
    world.close()
    first_s, last_s = marks_s
    return {
        "blocks": blocks_of(nodes),
        "cpu_ms_per_block": (last_s - first_s) * 1000 / blocks_of(nodes),
        "calibration_ms": calibration_ms,
    }


def calibration_s(additions: int) -> float:
    """CPU seconds for that many additions in plain Python."""
    began = time.process_time()
    total = 0
    for number in range(additions):
        total += number
    return time.process_time() - began


def network(protocol: str, nodes: int, where: str) -> dict[str, object]:
    """Milliseconds of virtual time from the sending of a block to its commit at the last validator, and blocks per
    second. ``where`` is ``lan`` or ``regions``; validators are dealt to the regions in turn."""
    if where == "lan":
        schedule = schedule_of(protocol, nodes, stop=calm_stop(nodes), latency=LAN)
    else:
        regions = tuple(REGIONS[node % len(REGIONS)] for node in range(nodes))
        schedule = schedule_of(protocol, nodes, stop=calm_stop(nodes), view_timeout_ms=REGIONS_TIMEOUT_MS)
        schedule = schedule.replace(regions=regions)
    probe = run(schedule)
    first, last, blocks = window_of(probe, nodes)
    commit_ms = _units([wait for _, wait in probe.waits_ns()], MILLISECOND)
    probe.world.close()
    return {"blocks": blocks, "commit_ms": commit_ms, "blocks_per_s": blocks / ((last.at_ns - first.at_ns) / 1e9)}


def silent(protocol: str, nodes: int) -> dict[str, object]:
    """Commits per second of virtual time while F validators, spread evenly, are silent for good: over whole rounds of
    leaders, from the turn after the first few on."""
    last = WARM_TURNS + rounds_of(nodes) * nodes
    stop = Stop(view=last, time_ms=FOR_EVER_MS)
    quiet = spread(faulty_max(nodes), nodes)
    schedule = schedule_of(protocol, nodes, stop=stop, payloads=last + 10)
    probe = run(schedule.replace(actors=tuple(Actor(node=node, kind="silent") for node in quiet)))
    (from_ns, from_height), (to_ns, to_height) = probe.turns[WARM_TURNS], probe.turns[last]
    probe.world.close()
    commits, seconds = to_height - from_height, (to_ns - from_ns) / 1e9
    return {"silent": len(quiet), "commits": commits, "virtual_s": seconds, "blocks_per_s": commits / seconds}


def partition(protocol: str, nodes: int, sides: str) -> dict[str, object]:
    """View timeouts from the end of a partition to the first new commit at every validator. ``sides`` is ``minority``
    (F validators, spread evenly, against the quorum of the others) or ``half`` (no quorum anywhere). None where
    patience ended first."""
    small = spread(faulty_max(nodes), nodes) if sides == "minority" else tuple(range(0, nodes, 2))
    groups = (small, tuple(node for node in range(nodes) if node not in small))
    found: list[float | None] = []
    for lasts_ms in PARTITIONS_MS:
        heals_ms = PARTITION_AT_MS + lasts_ms
        schedule = schedule_of(protocol, nodes, stop=Stop(view=2**40, time_ms=heals_ms + PATIENCE_MS))
        fault = Partition(at_ms=PARTITION_AT_MS, for_ms=lasts_ms, groups=groups)
        probe = run(schedule.replace(faults=(fault,)), goal_at_ms=heals_ms)
        waited_ms = probe.world.now / MILLISECOND - heals_ms
        found.append(round(waited_ms / VIEW_TIMEOUT_MS, 2) if len(probe.reached) == nodes else None)
        probe.world.close()
    return {"lasted_ms": list(PARTITIONS_MS), "view_timeouts": found}
