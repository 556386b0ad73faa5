"""The space-time diagram as one SVG file of its own."""

from __future__ import annotations

from html import escape

from netsim.show.diagram import MESSAGES_DRAWN, Diagram, window_of
from netsim.show.recording import Recorded
from netsim.show.style import DIAGRAM, in_light


def picture(recorded: Recorded, limit: int = MESSAGES_DRAWN) -> str:
    """The SVG, with its style inside. What of a long run is drawn stands in its label."""
    window = window_of(recorded, limit)
    result = recorded.result
    label = (
        f"{result.schedule.name or 'schedule'}, seed {result.schedule.seed}: {result.verdict}; "
        f"{len(window.messages)} of {window.total} messages, {window.from_ns / 1e6:.1f} to {window.to_ns / 1e6:.1f} ms"
    )
    body = Diagram(recorded, window).body(named=True, style=escape(in_light(DIAGRAM), quote=False), label=label)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'
