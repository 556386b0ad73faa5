"""Exports of a recording: Chrome/Perfetto trace JSON with flow arrows, a ShiViz log with vector clocks, a Lamport SVG.

Trace JSON: the "Trace Event Format" document of the Chromium project (phases ``X``, ``i``, ``s``, ``f``, ``M``;
microseconds). ShiViz: one event per two lines, ``host {vector clock}`` and a text, read by the regular expression
``(?<host>\\S*) (?<clock>{.*})\\n(?<event>.*)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from netsim.recording import Recording

SHIVIZ_EXPRESSION = r"(?<host>\S*) (?<clock>{.*})\n(?<event>.*)"


def perfetto(recording: Recording, names: Sequence[str]) -> bytes:
    """Trace JSON: a thread per node, a slice per message handled and sent, an arrow per message."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": node, "name": "thread_name", "args": {"name": f"node {name}"}}
        for node, name in enumerate(names)
    ]
    for number, message in enumerate(recording.messages):
        name = f"{message.kind} v{message.view}"
        sent_us = message.sent_ns / 1e3
        end = "lost" if message.lost else "sent"
        args = {"to": message.target, "view": message.view}
        base = {"pid": 1, "cat": "message"}
        events.append(
            {**base, "ph": "X", "tid": message.source, "ts": sent_us, "dur": 1, "name": f"{end} {name}", "args": args}
        )
        if message.received_ns is None:
            continue
        received_us = message.received_ns / 1e3
        events.append({**base, "ph": "s", "tid": message.source, "ts": sent_us, "id": number, "name": name})
        events.append(
            {
                **base,
                "ph": "X",
                "tid": message.target,
                "ts": received_us,
                "dur": 1,
                "name": name,
                "args": {"from": message.source},
            }
        )
        events.append(
            {**base, "ph": "f", "bp": "e", "tid": message.target, "ts": received_us, "id": number, "name": name}
        )
    events += [
        {
            "ph": "i", "s": "t", "pid": 1, "tid": mark.node, "ts": mark.at_ns / 1e3, "name": f"{mark.kind} {mark.text}",
            "cat": mark.kind,
        }
        for mark in recording.marks
    ]  # fmt: skip
    return msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": events})


def shiviz(recording: Recording, nodes: int) -> str:
    """A log with vector clocks, in an order that each clock agrees with."""
    happened: list[tuple[int, int, int, str, int]] = []
    for number, message in enumerate(recording.messages):
        name = f"{message.kind} of view {message.view}"
        happened.append((message.sent_ns, 0, message.source, f"send {name} to {message.target}", number))
        if message.received_ns is not None:
            happened.append((message.received_ns, 1, message.target, f"receive {name} from {message.source}", number))
    happened += [(mark.at_ns, 2, mark.node, f"{mark.kind} {mark.text}", -1) for mark in recording.marks]
    happened.sort(key=lambda row: row[:2])
    clocks = [dict.fromkeys(range(nodes), 0) for _ in range(nodes)]
    sent: dict[int, dict[int, int]] = {}
    lines = []
    for _, order, node, text, number in happened:
        clock = clocks[node]
        if order == 1:
            for other, count in sent.pop(number).items():
                clock[other] = max(clock[other], count)
        clock[node] += 1
        if order == 0:
            sent[number] = dict(clock)
        shown = ", ".join(f'"n{other}": {count}' for other, count in clock.items() if count)
        lines.append(f"n{node} {{{shown}}}\n{text}")
    return "\n".join(lines) + "\n"
