"""A recorded run as Chrome trace JSON, for ui.perfetto.dev and chrome://tracing.

Format: "Trace Event Format" of the Chromium project: an object with ``traceEvents``; times ``ts`` and ``dur`` in
microseconds; phases ``M`` (names), ``X`` (slice), ``i`` (instant), ``s`` and ``f`` (a flow's two ends, joined by
``cat``, ``name`` and ``id``, each bound to the slice of its thread that encloses it; ``bp: e`` says so for the end).

A node is a process with three threads: its views, what it sends, what it hears. What a thread does at one instant is
one slice, so that slices never overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from netsim.show.recording import Heard, Mark, Message, Node, Recorded, Sent

VIEWS: Final = 1
SENDS: Final = 2
HEARS: Final = 3
FAULTS_PID: Final = 1
"""The process of the network's faults; node ``n`` is process ``n + 2`` (0 means the idle task to some readers)."""
SLICE_NS_MAX: Final = 20_000
"""A message's slice: an instant drawn wide enough to be seen and hit, unless the next one comes sooner."""

Row = dict[str, Any]


def pid_of(node: int) -> int:
    """The process that stands for a node."""
    return node + 2


def perfetto(recorded: Recorded) -> bytes:
    """The trace as JSON."""
    rows: list[Row] = [_name("process_name", FAULTS_PID, 0, "faults and violations")]
    for node in recorded.nodes:
        rows += _names(node)
        rows += _views(recorded, node)
        rows += _slices(recorded, node)
    for message in recorded.messages:
        rows += _flow(message)
    rows += [_instant(each) for each in recorded.happenings if isinstance(each, Mark) and each.doing != "view"]
    for number, span in enumerate(recorded.spans):
        rows.append(_name("thread_name", FAULTS_PID, number + 1, span.kind))
        rows.append(_slice(FAULTS_PID, number + 1, span.text, span.from_ns, span.to_ns, "fault", {}))
    for violation in recorded.result.violations:
        row: Row = {"ph": "i", "s": "g", "pid": FAULTS_PID, "tid": 0, "ts": violation.at_ns / 1e3, "cat": "violation"}
        rows.append({**row, "name": f"{violation.oracle}: {violation.text}", "args": {"node": violation.node}})
    schedule = recorded.result.schedule
    about = {
        "scenario": schedule.name,
        "protocol": schedule.protocol,
        "seed": schedule.seed,
        "verdict": recorded.result.verdict,
        "trace_hash": recorded.result.trace_hash,
    }
    return msgspec.json.encode({"displayTimeUnit": "ns", "otherData": about, "traceEvents": rows}) + b"\n"


def _name(kind: str, pid: int, tid: int, name: str) -> Row:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _names(node: Node) -> list[Row]:
    pid = pid_of(node.position)
    label = f"{node.name} ({node.role})" if node.role else node.name
    threads = ((VIEWS, "views"), (SENDS, "sends"), (HEARS, "hears"))
    order: Row = {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    return [
        _name("process_name", pid, 0, label),
        order,
        *(_name("thread_name", pid, tid, name) for tid, name in threads),
    ]


def _slice(pid: int, tid: int, name: str, from_ns: int, to_ns: int, category: str, args: Row) -> Row:
    return {
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "ts": from_ns / 1e3,
        "dur": (to_ns - from_ns) / 1e3,
        "name": name,
        "cat": category,
        "args": args,
    }


def _views(recorded: Recorded, node: Node) -> list[Row]:
    """One slice per view, and one per time that the node is dead."""
    found: list[Row] = []
    name, since = "", 0
    for each in recorded.happenings:
        if not isinstance(each, Mark) or each.node != node.position or each.doing not in ("view", "crash", "restart"):
            continue
        if name and each.at_ns > since:
            found.append(_slice(pid_of(node.position), VIEWS, name, since, each.at_ns, "view", {}))
        name, since = ("dead" if each.doing == "crash" else f"view {each.view}"), each.at_ns
    if name:
        found.append(_slice(pid_of(node.position), VIEWS, name, since, recorded.result.virtual_ns, "view", {}))
    return found


def _slices(recorded: Recorded, node: Node) -> list[Row]:
    """What the node sends and hears, one slice per instant."""
    sends: dict[int, list[str]] = {}
    hears: dict[int, list[str]] = {}
    for each in recorded.happenings:
        if each.node != node.position:
            continue
        if isinstance(each, Sent):
            targets = ", ".join(str(copy.target) for copy in each.copies)
            sends.setdefault(each.at_ns, []).append(f"{_title(each.kind, each.view, each.about)} to {targets}")
            for copy in each.copies:
                if copy.left_ns > each.at_ns:
                    sends.setdefault(copy.left_ns, []).append(f"{each.kind} of view {each.view} released")
        elif isinstance(each, Heard):
            message = each.message
            title = _title(message.kind, message.view, message.about)
            hears.setdefault(each.at_ns, []).append(f"{title} from {message.source}")
    return [*_instants(node, SENDS, sends), *_instants(node, HEARS, hears)]


def _title(kind: str, view: int, about: str) -> str:
    return f"{kind} of view {view} {about}".strip()


def _instants(node: Node, tid: int, at: dict[int, list[str]]) -> list[Row]:
    times = sorted(at)
    ends = [*times[1:], times[-1] + SLICE_NS_MAX] if times else []
    return [
        _slice(
            pid_of(node.position),
            tid,
            at[since][0] if len(at[since]) == 1 else f"{at[since][0]}, and {len(at[since]) - 1} more",
            since,
            min(until, since + SLICE_NS_MAX),
            "message",
            {"messages": at[since]},
        )
        for since, until in zip(times, ends, strict=True)
    ]


def _flow(message: Message) -> Sequence[Row]:
    """Both ends of an arrow, for what arrived; a mark where it was lost."""
    name = f"{message.kind} of view {message.view}"
    if message.fate == "arrived" and message.due_ns is not None:
        both: Row = {"cat": "message", "name": name, "id": message.number}
        begin = {"ph": "s", "pid": pid_of(message.source), "tid": SENDS, "ts": message.left_ns / 1e3}
        end = {"ph": "f", "bp": "e", "pid": pid_of(message.target), "tid": HEARS, "ts": message.due_ns / 1e3}
        return ({**begin, **both}, {**end, **both})
    if message.fate == "on its way":
        return ()
    word = f"{name} to {message.target} " + ("kept" if message.fate == "kept" else f"lost: {message.why}")
    lost: Row = {"ph": "i", "s": "t", "pid": pid_of(message.source), "tid": SENDS, "ts": message.left_ns / 1e3}
    return ({**lost, "cat": "lost", "name": word},)


def _instant(mark: Mark) -> Row:
    row: Row = {"ph": "i", "s": "p" if mark.doing in ("crash", "restart") else "t", "pid": pid_of(mark.node)}
    return {**row, "tid": VIEWS, "ts": mark.at_ns / 1e3, "cat": mark.doing, "name": mark.text}
