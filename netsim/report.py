"""``netsim report``: one self-contained HTML page about one run, the shortest that fires when an oracle fired."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from netsim.diagram import COLOURS, diagram
from netsim.recording import Recording
from netsim.schedule import Schedule, positions
from netsim.simulation import Result
from netsim.words import in_words

BARS: Final = 24
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1f2328}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d0d7de}"
    "table{border-collapse:collapse}td,th{border:1px solid #d0d7de;padding:.2rem .6rem;text-align:right}"
    ".bad{color:#cf222e;font-weight:600}.good{color:#1a7f37;font-weight:600}.scroll{overflow-x:auto;border:1px solid "
    "#d0d7de}code,pre{font-size:13px;background:#f6f8fa}pre{padding:.6rem;overflow-x:auto}.key span{margin-right:1rem}"
)


def node_names(schedule: Schedule) -> list[str]:
    """What the diagram calls each position."""
    kinds = {actor.node: actor.kind for actor in schedule.actors}
    names = [f"{node} {kinds.get(node, '')}".strip() for node in range(schedule.nodes)]
    names += [f"{actor.node}' copy" for actor in schedule.actors if actor.kind == "twin"]
    names += [f"observer {number}" for number in range(positions(schedule) - len(names))]
    return names


def faulty_positions(schedule: Schedule) -> list[int]:
    """The positions to mark."""
    copies = [schedule.nodes + n for n in range(sum(actor.kind == "twin" for actor in schedule.actors))]
    return [actor.node for actor in schedule.actors if actor.kind not in ("honest", "slow")] + copies


def latencies_ms(recording: Recording) -> list[float]:
    """From a node's entering the block's view first, to each node's commit of it, in milliseconds, ascending."""
    first_entered: dict[int, int] = {}
    for mark in recording.marks:
        if mark.kind == "view":
            first_entered.setdefault(int(mark.text), mark.at_ns)
    found = []
    for mark in recording.marks:
        if mark.kind == "commit":
            view = int(mark.text.rpartition(" ")[2])
            if view in first_entered:
                found.append((mark.at_ns - first_entered[view]) / 1e6)
    return sorted(found)


def histogram(values: Sequence[float], unit: str) -> str:
    """Bars as SVG, with percentiles under them."""
    if not values:
        return "<p>Nothing committed.</p>"
    low, high = values[0], values[-1]
    step = (high - low) / BARS or 1.0
    counts = [0] * BARS
    for value in values:
        counts[min(BARS - 1, int((value - low) / step))] += 1
    top = max(counts)
    bars = "".join(
        f'<rect x="{at * 24}" y="{120 - 110 * count / top:.1f}" width="22" height="{110 * count / top:.1f}" '
        f'fill="#1f6feb"><title>{low + at * step:.1f} {unit}: {count}</title></rect>'
        for at, count in enumerate(counts)
    )
    at_percent = ", ".join(
        f"{p} %: {values[min(len(values) - 1, len(values) * p // 100)]:.1f}" for p in (5, 50, 95, 99)
    )
    return (
        f'<svg width="{BARS * 24}" height="140" role="img" aria-label="histogram">{bars}'
        f'<text x="0" y="136" font-size="12">{low:.1f} {unit}</text>'
        f'<text x="{BARS * 24 - 70}" y="136" font-size="12">{high:.1f} {unit}</text></svg><p>{at_percent} ({unit})</p>'
    )


def _table(result: Result, names: Sequence[str]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{view}</td><td>{len(log)}</td>"
        f"<td><code>{log[-1][:12] if log else ''}</code></td></tr>"
        for name, view, log in zip(names, result.views, result.logs, strict=True)
    )
    return f"<table><tr><th>node</th><th>view</th><th>commits</th><th>head</th></tr>{rows}</table>"


def report(result: Result, recording: Recording, shortest: Schedule | None = None) -> str:
    """The page. ``shortest`` is what shrinking left of the schedule."""
    schedule = result.schedule
    names = node_names(schedule)
    verdict = (
        '<span class="good">silent: no oracle fired</span>'
        if result.silent
        else "".join(
            f'<p class="bad">{escape(v.oracle)} at {v.at_ns / 1e6:.3f} ms: {escape(v.text)}</p>'
            for v in result.violations
        )
    )
    told = schedule if shortest is None else shortest
    key = "".join(f'<span style="color:{colour}">&#8594; {kind}</span>' for kind, colour in COLOURS.items())
    key += '<span class="bad">- - lost</span><span>&#9632; commit</span><span>&#9675; timer</span>'
    key += "<span>&#10005; crash</span>"
    words = "".join(f"<li>{escape(text)}</li>" for text in in_words(told))
    title = f"{schedule.name or 'schedule'}, seed {schedule.seed}: {result.verdict}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{verdict}"
        f"<p>{result.deliveries} deliveries, {result.events} events in {result.virtual_ns / 1e9:.3f} virtual seconds; "
        f"trace <code>{result.trace_hash}</code></p>"
        f"<h2>Messages</h2><p class=key>{key}</p>"
        f'<div class="scroll">{diagram(recording, names, faulty_positions(schedule), result.violations)}</div>'
        f"<h2>Nodes</h2>{_table(result, names)}"
        f"<h2>From the start of a block's view to its commit</h2>{histogram(latencies_ms(recording), 'ms')}"
        f"<h2>{'The shortest schedule' if shortest is not None else 'The schedule'}, in words</h2><ol>{words}</ol>"
        f"<h2>Run it again</h2><p>Save this as <code>schedule.json</code>: "
        f"<code>netsim replay schedule.json</code></p><pre>{escape(told.to_json().decode())}</pre></body></html>\n"
    )
