"""Validity, liveness, ordering and robustness: V1, L1-L5, O1, R1.

Liveness is judged from ``liveness.from_ms`` of the schedule on, when the network is good again, for its core of nodes.
"""

from __future__ import annotations

import gc
import hashlib
import sys
from typing import Final

import msgspec

from consensus.engine import Commit
from consensus.types import EMPTY_PAYLOAD_ROOT, View
from netsim.network import MILLISECOND, nanoseconds
from netsim.numbering import name_of, split
from netsim.oracles.judge import Judge
from netsim.payloads import payload_in
from netsim.schedule import Constant, Uniform
from netsim.world import HANDOVER_NS, Host

FLOODERS: Final = ("flooder", "exaggerator")
REPLICA_BYTES_MAX: Final = 64 * 1024 * 1024
"""What one replica's state may take, whatever a flooder sends."""
VIEWS_AHEAD_MAX: Final = 200
"""How far a schedule of leaders is looked through for honest ones in a row."""
LEADERS_IN_A_ROW: Final = 3
LEADERS_IN_A_ROW_BY_CLOCK: Final = 5
"""Honest leaders that suffice for a commit. Where views go by the clock, a certificate that was hidden can spoil two
more (Streamlet, theorem 6)."""
LEAVES: Final = (bytes, bytearray, str, int, float)


class Retrievable:
    """V1: the body of a committed block is the one its header names, and each honest node that commits it stores it."""

    id = "V1"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_committed.append(self.committed)

    def committed(self, host: Host, commit: Commit) -> None:
        header, body = commit.block.header, commit.body
        root = hashlib.sha256(body).digest() if len(body) else EMPTY_PAYLOAD_ROOT
        stored = host.journal.blocks.get(commit.block.id)
        if root != header.payload_root:
            self.judge.fire(self.id, host, f"node {host.position} commits height {header.height} with a wrong body")
        elif stored is None or stored.body != body:
            self.judge.fire(self.id, host, f"node {host.position} commits height {header.height} without its body")


class NoFalseBlame:
    """X2: no honest node rejects what an honest node sent."""

    id = "X2"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_end.append(self.end)

    def end(self) -> None:
        hosts = self.judge.world.hosts
        honest = {host.peer: host.position for host in hosts if host.honest}
        for host in hosts:
            for reject in host.rejects if host.honest else ():
                if reject.peer in honest:
                    text = f"node {host.position} rejects honest node {honest[reject.peer]}: {reject.reason}"
                    self.judge.fire(self.id, host, text)
                    return


class OneStream:
    """O1: the stream of payloads is a function of the committed blocks: after each height the same on every honest
    node, over restarts."""

    id = "O1"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.streams: dict[int, bytes] = {}
        self.at: dict[int, tuple[int, bytes]] = {}
        judge.on_committed.append(self.committed)

    def committed(self, host: Host, commit: Commit) -> None:
        height = commit.block.header.height
        last, stream = self.at.get(host.position, (0, b""))
        if height != last + 1:
            return
        if len(commit.body):
            stream = hashlib.sha256(stream + bytes(commit.body)).digest()
        self.at[host.position] = (height, stream)
        if self.streams.setdefault(height, stream) != stream:
            self.judge.fire(self.id, host, f"node {host.position} has another stream up to height {height}")


class ViewsInStep:
    """L1: in the good time, the whole core enters each view within two delays of the first."""

    id = "L1"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        liveness = judge.world.schedule.liveness
        self.first: dict[View, int] = {}
        if liveness is None or any(actor.kind != "silent" for actor in judge.world.schedule.actors):
            return  # a faulty voter can give one node its certificate a view before the others
        self.begin_ns = nanoseconds(liveness.from_ms) + judge.world.committee.spec.pacing.view_timeout_ms * MILLISECOND
        self.limit_ns = 2 * nanoseconds(liveness.delay_ms)
        self.core = core_of(judge)
        judge.on_entered.append(self.entered)

    def entered(self, host: Host, view: View) -> None:
        world = self.judge.world
        if view in self.first or host not in self.core:
            return
        self.first[view] = world.now
        if world.now >= self.begin_ns:
            world.at(world.now + self.limit_ns, lambda: self.check(view))

    def check(self, view: View) -> None:
        for host in self.core:
            if host.replica is not None and host.view < view and not self.is_elsewhere(host, split(view)[0]):
                where = f"node {host.position} is in {name_of(host.view)}"
                text = f"{where} two delays after the first entered {name_of(view)}"
                self.judge.fire(self.id, host, text)
                return

    def is_elsewhere(self, host: Host, epoch: int) -> bool:
        """Whether a node enters no views of an epoch now: it observes, has committed the epoch's last block, or lacks
        the last one of the epoch before. That one it may have to fetch, which takes longer: L2 and L8 judge it."""
        eras = self.judge.world.committee.eras
        is_over = epoch + 1 < len(eras) and len(host.ledger) >= eras[epoch + 1].height
        return is_over or len(host.ledger) < eras[epoch].height or self.judge.seat(host, epoch) is None


class Progress:
    """L2 and L3: after the trouble every node of the core commits something new in time, of the last epoch too, and
    each payload that all of the core were given commits in time."""

    id = "L2"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        world = judge.world
        liveness = world.schedule.liveness
        if liveness is None:
            return
        self.liveness = liveness
        self.goal = 0
        self.done = False
        self.core = core_of(judge)
        self.waiting: dict[bytes, dict[int, None]] = {}
        for submit in world.schedule.workload:
            targets = submit.to or tuple(host.position for host in world.hosts)
            if all(host.position in targets for host in self.core):
                self.waiting[submit.payload.encode()] = {host.position: None for host in self.core}
        world.at(nanoseconds(liveness.from_ms), self.begin)
        judge.on_committed.append(self.committed)
        judge.on_end.append(self.end)

    def begin(self) -> None:
        world = self.judge.world
        last = world.committee.eras[-1].height
        self.goal = max(world.top_height, last) + 1
        base_ns = world.committee.spec.pacing.view_timeout_ms * MILLISECOND
        limit_ns = self.limit_ns() + 3 * base_ns * (self.goal - world.top_height - 1)
        world.at(world.now + limit_ns, self.check)
        payload_ns = limit_ns + nanoseconds(self.liveness.payload_ms)
        world.at(world.now + payload_ns, self.check_payloads)
        world.at(world.now + payload_ns + 1, self.finish)

    def limit_ns(self) -> int:
        """The time of the views from the lowest one of the core up to enough honest leaders in a row, two more, and
        the slack; each view as long as its back-off allows, and half as long again for nodes out of step."""
        world = self.judge.world
        pacing = world.committee.spec.pacing
        epoch, top_view = split(world.top_view)
        honest = [self.judge.seat(host, epoch) for host in self.core if host.replica is not None]
        behind = [host.view for host in self.core if split(host.view)[0] < epoch]
        view = 1 if behind else min((split(host.view)[1] for host in self.core), default=1)
        end = max(top_view, view) + VIEWS_AHEAD_MAX
        base_ns = pacing.view_timeout_ms * MILLISECOND
        total_ns = self.liveness.timeouts * base_ns
        in_a_row, left = 0, 2
        wanted = LEADERS_IN_A_ROW if self.judge.definition.costs.responsive else LEADERS_IN_A_ROW_BY_CLOCK
        while view <= end and left:
            exponent = max(0, min(pacing.exponent_max, view))
            grown = base_ns * pacing.growth_numerator**exponent // pacing.growth_denominator**exponent
            total_ns += 3 * grown // 2
            in_a_row = in_a_row + 1 if self.leads(epoch, max(view, 1)) in honest else 0
            if in_a_row >= wanted and view > top_view:
                left -= 1
            view += 1
        # A change of validators that is still to come may cost as much again, with other leaders.
        return total_ns * (1 + len(world.committee.eras) - 1 - epoch) + len(behind) * self.liveness.timeouts * base_ns

    def leads(self, epoch: int, view: View) -> int:
        """The index of who leads a view, numbered from 1 in its epoch."""
        world = self.judge.world
        if not epoch:
            return world.committee.epoch.leaders.leader(view)
        era = world.committee.eras[epoch]
        return era.leaders[view - 1] if view <= len(era.leaders) else (view - 1) % len(era.nodes)

    def finish(self) -> None:
        self.judge.world.finished = True

    def committed(self, host: Host, commit: Commit) -> None:
        if commit.body:
            left = self.waiting.get(payload_in(commit.body))
            if left is not None:
                left.pop(host.position, None)
        # The ledger grows after the oracles were told.
        heights = [commit.block.header.height if node is host else node.height for node in self.core]
        if self.goal and min(heights) >= self.goal and not any(self.waiting.values()):
            self.done = True
            self.judge.world.finished = True

    def check(self) -> None:
        for host in self.core:
            if host.height < self.goal:
                text = f"node {host.position} is at height {host.height}, not at {self.goal}, long after the trouble"
                self.judge.fire(self.id, host, text)
                return

    def check_payloads(self) -> None:
        for payload, left in self.waiting.items():
            for position in left:
                text = f"payload {payload[:32]!r} did not commit at node {position} in time"
                self.judge.fire("L3", self.judge.world.hosts[position], text)
                return

    def end(self) -> None:
        if not self.done and not self.judge.world.violations:
            self.judge.fire(self.id, None, "the run ended before the core committed anything new")


class Milestones:
    """M1: a scripted run commits as much as its script says, and no more."""

    id = "M1"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.left = {milestone.view: milestone for milestone in judge.world.schedule.milestones}
        if self.left:
            judge.on_entered.append(self.entered)

    def entered(self, host: Host, view: View) -> None:
        milestone = self.left.pop(view, None) if host.honest else None
        if milestone is None:
            return
        height = self.judge.world.top_height
        if not milestone.height_min <= height <= milestone.height_max:
            text = f"height {height} when view {view} begins, not {milestone.height_min} to {milestone.height_max}"
            self.judge.fire(self.id, host, text)


class NoTimer:
    """L4: in a fault-free run with a base above the need no view timer fires."""

    id = "L4"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        if judge.world.schedule.fault_free and judge.definition.costs.responsive:
            judge.on_fired.append(self.fired)

    def fired(self, host: Host, name: str) -> None:
        if not name.startswith("sync:"):
            self.judge.fire(self.id, host, f"timer {name!r} fires at node {host.position} though nothing is wrong")


class Responsive:
    """L5: in a fault-free run a view takes what two messages take, whatever the timeout."""

    id = "L5"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        if judge.world.schedule.fault_free and judge.definition.costs.responsive:
            judge.on_end.append(self.end)

    def end(self) -> None:
        world = self.judge.world
        match world.schedule.link.latency:
            case Constant(ms=ms) | Uniform(high_ms=ms):
                slack_ns = (world.schedule.times.idle_interval_ms + 1) * MILLISECOND
                limit_ns = world.views_begun * (2 * nanoseconds(ms) + slack_ns)
                limit_ns += len(world.committee.eras[1:]) * (HANDOVER_NS + 2 * nanoseconds(ms))
                if world.now > limit_ns:
                    text = f"{world.views_begun} views took {world.now} ns, more than {limit_ns}"
                    self.judge.fire(self.id, None, text)
            case _:
                pass  # no longest delay to compare with


class Bounded:
    """R1: a replica's state stays below its bytes, whatever it was sent. Judged when somebody floods."""

    id = "R1"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        if any(actor.kind in FLOODERS for actor in judge.world.schedule.actors):
            judge.on_end.append(self.end)

    def end(self) -> None:
        for host in self.judge.world.hosts:
            if host.honest and host.replica is not None:
                size = size_of(host.replica, (self.judge.world.committee,))
                if size > REPLICA_BYTES_MAX:
                    self.judge.fire(self.id, host, f"node {host.position} holds {size} bytes")


def core_of(judge: Judge) -> tuple[Host, ...]:
    """The nodes whose progress is judged: those named, or all honest validators (of the last epoch)."""
    schedule = judge.world.schedule
    named = schedule.liveness.core if schedule.liveness is not None else ()
    hosts = judge.world.hosts
    if named:
        return tuple(hosts[position] for position in named)
    last = len(schedule.epochs)
    return tuple(host for host in hosts if host.honest and judge.seat(host, last) is not None)


def size_of(root: object, without: tuple[object, ...]) -> int:
    """Bytes of everything reachable from ``root``, classes, functions and ``without`` left out."""
    seen = {id(shared) for shared in without}
    stack = [root]
    total = 0
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, type) or callable(item):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        if isinstance(item, msgspec.Struct):
            stack += [getattr(item, name) for name in item.__struct_fields__]
        elif not isinstance(item, LEAVES):
            stack += gc.get_referents(item)
    return total
