"""The space-time (Lamport) diagram of a recording as SVG: a line per node, time to the right, an arrow per message."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from html import escape
from itertools import accumulate, pairwise
from typing import Final

from netsim.recording import Mark, Message, Recording
from netsim.world import Violation

LANE_PX: Final = 90
LEFT_PX: Final = 110
TOP_PX: Final = 40
WIDTH_MIN_PX: Final = 900
WIDTH_MAX_PX: Final = 12_000
PX_PER_VIEW: Final = 220
MESSAGES_DRAWN_MAX: Final = 6_000
COLOURS: Final = {
    "Proposal": "#1f6feb",
    "Vote": "#2da44e",
    "Timeout": "#bf8700",
    "Certificates": "#8250df",
}
OTHER: Final = "#6e7781"
STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.lane{stroke:#afb8c1;stroke-width:1.5}"
    ".m{stroke-width:1;opacity:.65}.m:hover{stroke-width:3;opacity:1}.lost{stroke:#cf222e;stroke-dasharray:4 3}"
    ".faulty{fill:#cf222e;font-weight:600}.v{fill:#57606a;font-size:10px}"
)


class _Scale:
    """Virtual nanoseconds to pixels. Waits in which nothing happens are cut short: few are longer than most."""

    def __init__(self, recording: Recording, nodes: int) -> None:
        moments = {0}
        for message in recording.messages:
            moments |= {message.sent_ns, message.received_ns or message.sent_ns}
        moments |= {mark.at_ns for mark in recording.marks}
        self.moments = sorted(moments)
        self.end_ns = self.moments[-1] or 1
        gaps = sorted(after - before for before, after in pairwise(self.moments)) or [1]
        longest = max(4 * gaps[len(gaps) // 2], 1)
        self.places = list(accumulate((min(b - a, longest) for a, b in pairwise(self.moments)), initial=0))
        views = max((int(mark.text) for mark in recording.marks if mark.kind == "view"), default=1)
        self.width = max(WIDTH_MIN_PX, min(WIDTH_MAX_PX, views * PX_PER_VIEW))
        self.height = TOP_PX + nodes * LANE_PX
        self.nodes = nodes

    def x(self, at_ns: int) -> float:
        at = min(bisect_right(self.moments, at_ns), len(self.moments)) - 1
        return round(LEFT_PX + self.places[at] / max(self.places[-1], 1) * self.width, 1)

    def y(self, node: int) -> int:
        return TOP_PX + node * LANE_PX + LANE_PX // 2


def diagram(
    recording: Recording, names: Sequence[str], faulty: Sequence[int], violations: Sequence[Violation] = ()
) -> str:
    """One SVG element. ``names`` are the nodes', ``faulty`` the positions to mark."""
    scale = _Scale(recording, len(names))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{scale.width + LEFT_PX + 40}" height="{scale.height + 30}" '
        f'role="img" aria-label="space-time diagram"><style>{STYLE}</style>',
        '<defs><marker id="a" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="5" markerHeight="5" orient="auto">'
        '<path d="M0 0L6 3L0 6z" fill="context-stroke"/></marker></defs>',
    ]
    parts += [_lane(scale, node, name, node in faulty) for node, name in enumerate(names)]
    parts += [_message(scale, message) for message in recording.messages[:MESSAGES_DRAWN_MAX]]
    parts += [_mark(scale, mark) for mark in recording.marks]
    parts += [_violation(scale, violation) for violation in violations]
    parts += [_tick(scale, number) for number in range(11)]
    if len(recording.messages) > MESSAGES_DRAWN_MAX:
        left = len(recording.messages) - MESSAGES_DRAWN_MAX
        parts.append(f'<text x="{LEFT_PX}" y="14">{left} later messages are not drawn</text>')
    parts.append("</svg>")
    return "\n".join(parts)


def _lane(scale: _Scale, node: int, name: str, faulty: bool) -> str:
    y = scale.y(node)
    style = ' class="faulty"' if faulty else ""
    return (
        f'<line class="lane" x1="{LEFT_PX}" x2="{LEFT_PX + scale.width}" y1="{y}" y2="{y}"/>'
        f'<text{style} x="8" y="{y + 4}">{escape(name)}</text>'
    )


def _message(scale: _Scale, message: Message) -> str:
    x1, y1, y2 = scale.x(message.sent_ns), scale.y(message.source), scale.y(message.target)
    title = escape(f"{message.kind} of view {message.view}, node {message.source} to {message.target}")
    if message.lost or message.received_ns is None:
        middle = (y1 + y2) / 2
        word = "lost" if message.lost else "never handled"
        x2 = round(x1 + abs(middle - y1) / 3, 1)
        return f'<line class="m lost" x1="{x1}" y1="{y1}" x2="{x2}" y2="{middle}"><title>{title}: {word}</title></line>'
    colour = COLOURS.get(message.kind, OTHER)
    taken_ms = (message.received_ns - message.sent_ns) / 1e6
    return (
        f'<line class="m" stroke="{colour}" marker-end="url(#a)" x1="{x1}" y1="{y1}" '
        f'x2="{scale.x(message.received_ns)}" y2="{y2}"><title>{title}, {taken_ms:.2f} ms</title></line>'
    )


def _mark(scale: _Scale, mark: Mark) -> str:
    x, y = scale.x(mark.at_ns), scale.y(mark.node)
    title = f"<title>{escape(mark.text)} at {mark.at_ns / 1e6:.2f} ms</title>"
    match mark.kind:
        case "view":
            return (
                f'<line x1="{x}" x2="{x}" y1="{y - 12}" y2="{y + 12}" stroke="#57606a">{title}</line>'
                f'<text class="v" x="{x + 2}" y="{y - 14}">v{escape(mark.text)}</text>'
            )
        case "commit":
            return (
                f'<rect x="{x - 4}" y="{y - 4}" width="8" height="8" fill="#1a7f37">{title}</rect>'
                f'<text class="v" x="{x - 4}" y="{y + 24}">h{mark.height}</text>'
            )
        case "timer":
            return f'<circle cx="{x}" cy="{y}" r="5" fill="#fff" stroke="#bf8700" stroke-width="2">{title}</circle>'
        case "start":
            return f'<path d="M{x - 4} {y - 6}L{x + 5} {y}L{x - 4} {y + 6}z" fill="#1f6feb">{title}</path>'
        case _:
            return (
                f'<path d="M{x - 6} {y - 6}L{x + 6} {y + 6}M{x + 6} {y - 6}L{x - 6} {y + 6}" stroke="#cf222e" '
                f'stroke-width="3">{title}</path>'
            )


def _violation(scale: _Scale, violation: Violation) -> str:
    x = scale.x(min(violation.at_ns, scale.end_ns))
    return (
        f'<line x1="{x}" x2="{x}" y1="{TOP_PX - 14}" y2="{scale.height}" stroke="#cf222e" stroke-width="2">'
        f"<title>{escape(violation.text)}</title></line>"
        f'<text class="faulty" x="{x + 4}" y="{TOP_PX - 4}">{escape(violation.oracle)}</text>'
    )


def _tick(scale: _Scale, number: int) -> str:
    """A time below the lanes, at equal distances."""
    wanted = scale.places[-1] * number // 10
    at_ns = scale.moments[max(bisect_right(scale.places, wanted) - 1, 0)]
    return f'<text class="v" x="{scale.x(at_ns)}" y="{scale.height + 16}">{at_ns / 1e6:.1f} ms</text>'
