"""The checks that measure: bounds of memory, pacing, and the costs of the happy path."""

from __future__ import annotations

from typing import Final

from netsim.network import MILLISECOND
from netsim.oracles.others import size_of
from netsim.schedule import Actor, Constant, Link, Schedule, Stop, Submit, Times
from netsim.simulation import Result
from netsim.suite.notes import Notes
from netsim.suite.subject import Subject, expect_silent, fail, fail_in, silent
from netsim.world import World

FLOODS: Final = (400, 1_600)
"""Messages of two floods over the same time."""
KEPT_BYTES_MAX: Final = 64
"""What a message more may leave behind: an unbounded table keeps at least its hash and its signature."""
DELAY_MS: Final = 10
"""Of every link while costs are measured: a thousand times what a node needs for a payload."""
WARM_HEIGHT: Final = 3
"""Blocks from here on are measured: before it, leaders may have had to wait."""
MEASURED_HEIGHT: Final = 12
TOLERANCE: Final = 0.02
"""Of a delay: the time of some payloads."""
IDLE_MS: Final = 1_000
IDLE_FROM_MS: Final = 5_000
IDLE_TO_MS: Final = 25_000
WRITES_MAX: Final = 8
"""Writes of one node per block: what it signs, the block, its commit, and as much again."""
COSTS_TIMEOUT_MS: Final = 400
TO_ALL: Final = "at last"
TO_ONE: Final = "and once more"
"""Given to one node alone: nobody else is in a hurry but for the protocol's sake."""
LATE_MS: Final = 300
"""Into an idle interval: when the payload comes that must not wait for the interval's end."""


def bounds(subject: Subject) -> None:
    """A flood of four times as many messages leaves no more behind: votes, and every signed message of its own, for
    views far and near."""
    mend = "bound every table in entries: a window of views, one of each kind and signer; drop what lies outside"
    for kind in ("flooder", "exaggerator"):
        sizes = [_flooded_bytes(subject, kind, count) for count in FLOODS]
        for node, (small, large) in enumerate(zip(*sizes, strict=True)):
            allowed = KEPT_BYTES_MAX * (FLOODS[1] - FLOODS[0])
            if large - small > allowed:
                fail(
                    "a replica's memory has a bound, whatever one validator sends it",
                    f"node {node} holds {small} bytes after {FLOODS[0]} messages of a {kind} and {large} after "
                    f"{FLOODS[1]}; {large - small} more, {allowed} are allowed",
                    mend,
                )


def _flooded_bytes(subject: Subject, kind: str, count: int) -> list[int]:
    sizes: list[int] = []

    def measure(world: World) -> None:
        for host in world.hosts:
            if host.honest and host.replica is not None:
                sizes.append(size_of(host.replica, (world.committee,)))

    schedule = subject.plain(
        f"{kind}-{count}",
        actors=(Actor(node=3, kind=kind, options={"count": count, "over_ms": 400}),),
        times=Times(idle_interval_ms=20),
        stop=Stop(view=2**40, time_ms=450),
    )
    silent(
        subject, schedule, "a flood stops nobody and frames nobody", "ignore what is outside of the window",
        oracles=(Notes(measure),),
    )  # fmt: skip
    return sizes


def pacing(subject: Subject) -> None:
    """With nothing to order a chain makes a block per idle interval, writes next to nothing, and no timer fires; a
    payload that comes in the middle of an interval commits without waiting for its end."""
    times = Times(view_timeout_ms=3 * IDLE_MS, idle_interval_ms=IDLE_MS)
    notes = Notes()
    submitted_ms = IDLE_TO_MS + LATE_MS
    costs = subject.definition.costs
    schedule = subject.plain(
        "idle",
        times=times,
        link=Link(latency=Constant(ms=DELAY_MS)),
        workload=(
            Submit(at_ms=submitted_ms, payload=TO_ALL),
            Submit(at_ms=submitted_ms + 5 * IDLE_MS, payload=TO_ONE, to=(2,)),
        ),
        fault_free=True,
        stop=Stop(view=2**40, time_ms=submitted_ms + 20 * IDLE_MS),
    )
    result = subject.run(schedule, oracles=(notes,), watchers=(notes,), recorder=notes)
    mend = "BuildPayload with a deadline of pacing.idle_interval_ms when nothing is uncommitted, and none otherwise"
    expect_silent(subject, schedule, result, "an idle chain is quiet", mend)
    if costs.responsive and result.timers_fired:
        fail_in(subject, schedule, result, "no view timer fires while nothing is wrong", f"{result.timers_fired} do",
                "wait for a payload for less long than a view lasts")  # fmt: skip
    interval_ms = IDLE_MS if costs.responsive else times.view_timeout_ms
    _expect_quiet(subject, schedule, result, notes, interval_ms)
    allowed_ms = (costs.commit_delays + 1) * DELAY_MS
    if not costs.responsive:
        allowed_ms += (costs.commit_views + 1) * times.view_timeout_ms
    for payload, given in ((TO_ALL, "comes to an idle chain"), (TO_ONE, "only its proposer waits for")):
        since_ns, last_ns = _times_of(notes, payload)
        if payload == TO_ALL:
            since_ns = submitted_ms * MILLISECOND
        if last_ns - since_ns > allowed_ms * MILLISECOND or not last_ns:
            seen = f"it took {(last_ns - since_ns) / MILLISECOND:g} ms" if last_ns else "it never committed"
            rule = f"a payload that {given} commits within {allowed_ms} ms, as under light load"
            mend = "propose when PayloadBuilt comes; while an uncommitted block has a payload, build without waiting"
            fail_in(subject, schedule, result, rule, seen, mend)


def _times_of(notes: Notes, payload: str) -> tuple[int, int]:
    """When the block with that payload was proposed, and when the last node committed it; 0 and 0 if it never did."""
    for there in notes.commits.values():
        if any(bytes(commit.body) == payload.encode() for _, _, commit in there):
            return notes.proposed_ns[there[0][2].block.id], max(at for at, _, _ in there)
    return 0, 0


def _expect_quiet(subject: Subject, schedule: Schedule, result: Result, notes: Notes, interval_ms: int) -> None:
    mend = "BuildPayload with a deadline of pacing.idle_interval_ms while nothing is uncommitted"
    begin, end = IDLE_FROM_MS * MILLISECOND, IDLE_TO_MS * MILLISECOND
    heights = [height for height, there in sorted(notes.commits.items()) if begin <= there[0][0] < end]
    intervals = (IDLE_TO_MS - IDLE_FROM_MS) / interval_ms
    if len(heights) > intervals + 1:
        rule = "an idle chain makes a block per idle interval at most"
        fail_in(subject, schedule, result, rule, f"{len(heights)} blocks in {intervals:g} intervals", mend)
    writes = sum(begin <= at < end for at, _ in notes.writes) / schedule.nodes
    if writes > WRITES_MAX * (intervals + 1):
        rule = f"a node writes at most {WRITES_MAX} times per idle interval"
        mend = "write what is decided, once per step"
        fail_in(subject, schedule, result, rule, f"{writes:g} times in {intervals:g} intervals", mend)
    if heights:
        copies = notes.copies_at[heights[-1]] - notes.copies_at[heights[0]]
        allowed = subject.definition.costs.messages(schedule.nodes) * intervals
        if copies > allowed:
            rule = "an idle chain sends no more than the messages of a block per interval"
            seen = f"{copies} messages in {intervals:g} intervals, {allowed:g} are declared"
            fail_in(subject, schedule, result, rule, seen, "send nothing that nobody waits for")


def costs(subject: Subject) -> None:
    """Commit delay in message delays, views to a commit, and messages per block, measured and compared with what the
    definition declares; for four and for seven validators."""
    for nodes in (4, 7):
        schedule = subject.plain(
            f"happy-{nodes}",
            nodes=nodes,
            link=Link(latency=Constant(ms=DELAY_MS)),
            times=Times(view_timeout_ms=COSTS_TIMEOUT_MS, idle_interval_ms=COSTS_TIMEOUT_MS // 2),
            workload=tuple(Submit(at_ms=0, payload=f"payload {number}") for number in range(2 * MEASURED_HEIGHT)),
            fault_free=True,
            stop=Stop(view=0, height=MEASURED_HEIGHT, time_ms=60_000),
        )
        notes = Notes()
        result = subject.run(schedule, oracles=(notes,), watchers=(notes,), recorder=notes)
        expect_silent(subject, schedule, result, "nothing is wrong in a run without faults", "see the oracle's line")
        _compare_costs(subject, schedule, result, notes)


def _compare_costs(subject: Subject, schedule: Schedule, result: Result, notes: Notes) -> None:
    declared, nodes = subject.definition.costs, schedule.nodes
    mend = "correct the definition's costs, or the engine"
    heights = [
        height
        for height, there in sorted(notes.commits.items())
        if WARM_HEIGHT <= height <= MEASURED_HEIGHT and len(there) == nodes
    ]
    if len(heights) < MEASURED_HEIGHT - WARM_HEIGHT:
        rule, seen = "a chain without faults commits", f"heights {heights} in {result.virtual_ns / 1e9:g} s"
        fail_in(subject, schedule, result, rule, seen, mend)
    for height in heights:
        turns = notes.commit_turns[height]
        if turns > declared.commit_views:
            rule = f"a block commits within the declared {declared.commit_views} views"
            fail_in(subject, schedule, result, rule, f"{turns} views at height {height}", mend)
        last_ns = max(at for at, _, _ in notes.commits[height])
        delays = (last_ns - notes.proposed_ns[notes.commits[height][0][2].block.id]) / (DELAY_MS * MILLISECOND)
        off = delays - declared.commit_delays
        if not declared.responsive:
            off = max(0.0, off - turns * COSTS_TIMEOUT_MS / DELAY_MS)
        if abs(off) > TOLERANCE:
            rule = f"a block commits everywhere after the declared {declared.commit_delays} message delays"
            fail_in(subject, schedule, result, rule, f"{delays:g} delays at height {height}", mend)
    copies = (notes.copies_at[heights[-1]] - notes.copies_at[heights[0]]) / (heights[-1] - heights[0])
    if copies > declared.messages(nodes):
        rule = f"{nodes} validators send at most the declared {declared.messages(nodes)} messages per block"
        fail_in(subject, schedule, result, rule, f"{copies:g} messages per block", mend)
