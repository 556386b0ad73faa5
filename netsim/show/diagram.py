"""The space-time (Lamport) diagram: one lane per node, time downwards, an arrow per message.

Time is drawn to scale where something happens; where nothing does, it is cut short and the cut says how long it was.
What does not fit is left out, and :class:`Window` says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from netsim.show.recording import Happening, Mark, Message, Node, Recorded, Sent
from netsim.show.spans import Span

WIDTH_PX: Final = 1360
LANE_MIN_PX: Final = 76
LANE_MAX_PX: Final = 330
TIME_PX: Final = 74
SPAN_PX: Final = 22
SPANS_ABREAST: Final = 5
HEAD_PX: Final = 46
GAP_PX: Final = 46
"""The longest stretch of the page without anything on it."""
PX_PER_MESSAGE: Final = 9
HEIGHT_MIN_PX: Final = 420
HEIGHT_MAX_PX: Final = 24_000
MESSAGES_DRAWN: Final = 700
KINDS: Final = ("Proposal", "Vote", "Timeout", "Certificates")
"""Message types with a colour of their own; the others share one."""


def kind_class(kind: str) -> str:
    """The style class of a message type."""
    return f"k{kind}" if kind in KINDS else "kOther"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The part of a run that is drawn. ``messages`` touch it; ``total`` there were."""

    from_ns: int
    to_ns: int
    messages: tuple[Message, ...]
    total: int

    @property
    def whole(self) -> bool:
        return len(self.messages) == self.total

    def holds(self, at_ns: int) -> bool:
        return self.from_ns <= at_ns <= self.to_ns


def window_of(recorded: Recorded, limit: int = MESSAGES_DRAWN) -> Window:
    """All, when ``limit`` messages are enough; else the last before the violation, or the first of a silent run."""
    result, messages = recorded.result, recorded.messages
    end = result.virtual_ns
    if len(messages) <= limit:
        return Window(from_ns=0, to_ns=end, messages=messages, total=len(messages))
    if result.violations:
        to_ns = result.violations[0].at_ns
        before = [message for message in messages if message.sent_ns <= to_ns]
        from_ns = before[-limit:][0].sent_ns if before else 0
    else:
        from_ns, to_ns = 0, messages[limit - 1].sent_ns
    inside = tuple(
        message
        for message in messages
        if message.sent_ns <= to_ns and (message.sent_ns if message.due_ns is None else message.due_ns) >= from_ns
    )
    return Window(from_ns=from_ns, to_ns=to_ns, messages=inside, total=len(messages))


class TimeAxis:
    """Virtual nanoseconds to pixels downwards, with idle stretches cut short (``cuts``: from, to)."""

    def __init__(self, times_ns: Sequence[int], height_px: float) -> None:
        self.times = sorted(set(times_ns)) or [0]
        gaps_ms = [(later - at) / 1e6 for at, later in zip(self.times, self.times[1:], strict=False)]
        usual_ms = sorted(gaps_ms)[len(gaps_ms) // 2] if gaps_ms else 1.0
        scale = 0.02
        while sum(self._px(gap, scale) for gap in gaps_ms) < height_px and scale * usual_ms < GAP_PX:
            scale *= 1.2
        self.cuts: list[tuple[int, int]] = []
        place = float(HEAD_PX)
        self.places = [place]
        for at, gap in zip(self.times, gaps_ms, strict=False):
            place += self._px(gap, scale)
            self.places.append(place)
            if gap * scale > 2 * GAP_PX:
                self.cuts.append((at, at + round(gap * 1e6)))
        self.end = place

    @staticmethod
    def _px(gap_ms: float, scale: float) -> float:
        return max(1.0, min(gap_ms * scale, GAP_PX))

    def y(self, at_ns: int) -> float:
        """Where a time is drawn; outside the axis, at its nearer end."""
        place = bisect_right(self.times, at_ns) - 1
        if place < 0:
            return self.places[0]
        if place >= len(self.times) - 1:
            return self.places[-1]
        since, until = self.times[place], self.times[place + 1]
        share = (at_ns - since) / (until - since)
        return self.places[place] + share * (self.places[place + 1] - self.places[place])


class Diagram:
    """Draws one window of a run."""

    def __init__(self, recorded: Recorded, window: Window) -> None:
        self.recorded = recorded
        self.window = window
        self.nodes = recorded.nodes
        self.happenings: list[Happening] = [each for each in recorded.happenings if window.holds(each.at_ns)]
        times = [each.at_ns for each in self.happenings] + [window.from_ns, window.to_ns]
        for message in window.messages:
            times += [at for at in (message.left_ns, message.due_ns) if at is not None and window.holds(at)]
        for span in self._spans():
            times += [at for at in (span.from_ns, span.to_ns) if window.holds(at)]
        height = max(HEIGHT_MIN_PX, min(HEIGHT_MAX_PX, PX_PER_MESSAGE * len(window.messages)))
        self.axis = TimeAxis(times, height)
        self.left = TIME_PX + SPAN_PX * min(len(self._spans()), SPANS_ABREAST)
        room = (WIDTH_PX - self.left) / max(len(self.nodes), 1)
        self.lane = max(LANE_MIN_PX, min(LANE_MAX_PX, room))
        self.width = round(self.left + self.lane * len(self.nodes))
        self.height = round(self.axis.end + 40)
        self.conflicts = recorded.conflicts()

    def _spans(self) -> list[Span]:
        window = self.window
        return [
            span
            for span in self.recorded.spans
            if span.kind != "heal" and span.to_ns >= window.from_ns and span.from_ns <= window.to_ns
        ]

    def x(self, node: int) -> float:
        return self.left + self.lane * (node + 0.5)

    # --- the whole ----------------------------------------------------------------------------------------------

    def head(self) -> str:
        """The names of the lanes, as an SVG of the same width (a page keeps it in sight)."""
        return f'<svg class="dia" viewBox="0 0 {self.width} {HEAD_PX}" width="{self.width}">{self._names()}</svg>'

    def body(self, *, named: bool = False, style: str = "", label: str = "space-time diagram") -> str:
        """The diagram as one SVG element; ``named`` draws the lanes' names into it, ``style`` goes inside."""
        top = 0 if named else HEAD_PX - 12
        tall = self.height - top
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="dia" viewBox="0 {top} {self.width} {tall}" '
            f'width="{self.width}" height="{tall}" role="img" aria-label="{escape(label)}">',
            f"<style>{style}</style>" if style else "",
            self._markers(),
            f'<rect class="ground" width="{self.width}" height="{self.height}"/>' if style else "",
            self._names() if named else "",
            *self._draw_spans(),
            *self._draw_cuts(),
            *self._draw_ticks(),
            *(part for node in self.nodes for part in self._draw_lane(node)),
            *(self._draw_message(message) for message in self.window.messages),
            *self._draw_labels(),
            *(self._draw_mark(each) for each in self.happenings if isinstance(each, Mark)),
            *self._draw_violations(),
            "</svg>",
        ]
        return "\n".join(part for part in parts if part)

    def _names(self) -> str:
        return "".join(
            f'<text class="name{"" if node.honest else " bad"}" x="{self.x(node.position):.1f}" y="20">'
            f"{node.name}</text>"
            f'<text class="role{"" if node.honest else " bad"}" x="{self.x(node.position):.1f}" y="36">'
            f"{escape(node.role)}</text>"
            for node in self.nodes
        )

    @staticmethod
    def _markers() -> str:
        markers = "".join(
            f'<marker id="a{kind}" class="k{kind}" viewBox="0 0 8 6" refX="8" refY="3" markerWidth="8" '
            'markerHeight="6" markerUnits="userSpaceOnUse" orient="auto"><path class="tip" d="M0 0L8 3L0 6z"/></marker>'
            for kind in (*KINDS, "Other")
        )
        return f"<defs>{markers}</defs>"

    # --- time and faults ----------------------------------------------------------------------------------------

    def _draw_ticks(self) -> list[str]:
        found: list[str] = []
        last = -100.0
        for at_ns in self.axis.times:
            y = self.axis.y(at_ns)
            if y - last >= 34:
                last = y
                found.append(
                    f'<text class="tick" x="{TIME_PX - 12}" y="{y + 3:.1f}">{at_ns / 1e6:.1f} ms</text>'
                    f'<path class="grid" d="M{self.left} {y:.1f}H{self.width}"/>'
                )
        return found

    def _draw_cuts(self) -> list[str]:
        return [
            f'<rect class="cut" x="{self.left}" y="{(top := self.axis.y(since)) + 12:.1f}" '
            f'width="{self.width - self.left}" height="{self.axis.y(until) - top - 24:.1f}"/>'
            f'<text class="cutword" x="{self.left + 8}" y="{(top + self.axis.y(until)) / 2 + 4:.1f}">'
            f"… {(until - since) / 1e6:.1f} ms cut short …</text>"
            for since, until in self.axis.cuts
        ]

    def _draw_spans(self) -> list[str]:
        found: list[str] = []
        for number, span in enumerate(self._spans()):
            top, bottom = self.axis.y(span.from_ns), max(self.axis.y(span.to_ns), self.axis.y(span.from_ns) + 3)
            x = TIME_PX + SPAN_PX * (number % SPANS_ABREAST)
            times = f"{span.from_ns / 1e6:.1f} to {span.to_ns / 1e6:.1f} ms"
            fits = int((bottom - top - 8) / 5.6)
            shown = span.text if len(span.text) <= fits else span.text[: max(fits - 1, 0)] + "…" if fits > 4 else ""
            found.append(
                f'<g class="span s-{span.kind}"><title>{escape(span.text)}: {times}</title>'
                f'<rect class="wash" x="{self.left}" y="{top:.1f}" width="{self.width - self.left}" '
                f'height="{bottom - top:.1f}"/>'
                f'<rect class="bar" x="{x}" y="{top:.1f}" width="{SPAN_PX - 5}" height="{bottom - top:.1f}" rx="3"/>'
                f'<text transform="translate({x + 12} {top + 5:.1f}) rotate(90)">{escape(shown)}</text></g>'
            )
        return found

    # --- lanes --------------------------------------------------------------------------------------------------

    def _draw_lane(self, node: Node) -> list[str]:
        """The lane in pieces: one shade per view, dashed while the node is dead."""
        x, view, dead = self.x(node.position), 0, False
        since = float(HEAD_PX)
        found: list[str] = []
        for each in self.recorded.happenings:
            if each.node != node.position or each.at_ns > self.window.to_ns or not isinstance(each, Mark):
                continue
            if each.doing not in ("view", "crash", "restart"):
                continue
            y = self.axis.y(each.at_ns)
            found.append(_piece(x, since, y, view, dead))
            dead = each.doing == "crash" or (dead and each.doing != "restart")
            view, since = max(view, each.view), y
        found.append(_piece(x, since, self.axis.end, view, dead))
        return [piece for piece in found if piece]

    def _draw_labels(self) -> list[str]:
        """What each proposal says: its block, its view, and the view of the certificate under it."""
        found: list[str] = []
        below: dict[int, float] = {}
        last: dict[int, str] = {}
        for each in self.happenings:
            if not isinstance(each, Sent) or not each.proposes or last.get(each.node) == each.proposes:
                continue
            last[each.node] = each.proposes
            block = self.recorded.blocks[each.proposes]
            y = max(self.axis.y(each.at_ns) + 3, below.get(each.node, 0.0))
            below[each.node] = y + 12
            found.append(
                f'<text class="said" x="{self.x(each.node) - 9:.1f}" y="{y:.1f}">'
                f"{each.about}: v{block.view} on v{block.justify_view}</text>"
            )
        return found

    # --- messages -----------------------------------------------------------------------------------------------

    def _draw_message(self, message: Message) -> str:
        kind = kind_class(message.kind)
        x1, x2 = self.x(message.source), self.x(message.target)
        y1 = self.axis.y(message.left_ns)
        toward = 1 if x2 > x1 else -1
        held = ""
        if message.left_ns > message.sent_ns:
            held = f'<path class="kept" d="M{x1 + 5 * toward} {self.axis.y(message.sent_ns):.1f}V{y1:.1f}"/>'
        if message.fate == "kept":
            held = f'<path class="kept" d="M{x1 + 5 * toward} {y1:.1f}V{self.axis.end:.1f}"/>'
            drawn = ""
        elif message.due_ns is None:
            reach = min(abs(x2 - x1) * 0.45, 70) * toward
            drawn = f'<path class="gone" d="M{x1:.1f} {y1:.1f}l{reach:.1f} 12"/>{_cross(x1 + reach, y1 + 12, 4)}'
        elif message.fate == "down":
            y2 = self.axis.y(message.due_ns)
            drawn = f'<path class="gone" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>{_cross(x2 - 8 * toward, y2, 4)}'
        else:
            drawn = self._arrow(message, x1, x2, kind)
        return (
            f'<g class="m {kind}" data-v="{message.view}"><title>{escape(describe(message))}</title>{held}{drawn}</g>'
        )

    def _arrow(self, message: Message, x1: float, x2: float, kind: str) -> str:
        """An arrow, clipped where the window begins and ends."""
        assert message.due_ns is not None
        left, due, window = message.left_ns, message.due_ns, self.window
        long = max(due - left, 1)
        from_x = x1 + (x2 - x1) * max(window.from_ns - left, 0) / long
        to_x = x2 - (x2 - x1) * max(due - window.to_ns, 0) / long
        whole = due <= window.to_ns
        marker = f' marker-end="url(#a{kind[1:]})"' if whole else ""
        start, end = self.axis.y(left), self.axis.y(due)
        style = "way" if whole else "way open"
        return f'<path class="{style}" d="M{from_x:.1f} {start:.1f}L{to_x:.1f} {end:.1f}"{marker}/>'

    # --- marks and violations -----------------------------------------------------------------------------------

    def _draw_mark(self, mark: Mark) -> str:
        x, y = self.x(mark.node), self.axis.y(mark.at_ns)
        title = f"<title>{self.nodes[mark.node].name} {escape(mark.text)} at {mark.at_ns / 1e6:.3f} ms</title>"
        if mark.doing == "view":
            return f'<g>{title}<text class="view" x="{x - 7:.1f}" y="{y + 12:.1f}">v{mark.view}</text></g>'
        if mark.doing == "commit":
            split = mark.height in self.conflicts and self.nodes[mark.node].honest
            word = f"h{mark.height} {mark.block[:6]}"
            return (
                f'<g class="commit{" split" if split else ""}">{title}<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'
                f'<text x="{x + 10:.1f}" y="{y + 4:.1f}">{word}</text></g>'
            )
        if mark.doing == "timer":
            retry = " sync" if mark.text.startswith("sync:") else ""
            return f'<g class="timer{retry}">{title}<path d="M{x - 4:.1f} {y - 4:.1f}h8l-8 8h8z"/></g>'
        if mark.doing == "restart":
            return f'<g class="restart">{title}<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/></g>'
        if mark.doing in ("epoch", "final"):
            word = f"h{mark.height} is final" if mark.doing == "final" else mark.text.partition(" with ")[0]
            line = f'<path d="M{x - 14:.1f} {y:.1f}h28"/>'
            return f'<g class="epoch">{title}{line}<text x="{x + 16:.1f}" y="{y + 4:.1f}">{word}</text></g>'
        if mark.doing == "evidence":
            return f'<g class="evidence">{title}<text x="{x + 10:.1f}" y="{y + 4:.1f}">evidence</text></g>'
        return (
            f'<g class="crash">{title}{_cross(x, y, 8)}<text x="{x + 12:.1f}" y="{y + 4:.1f}">{mark.doing}</text></g>'
        )

    def _draw_violations(self) -> list[str]:
        found: list[str] = []
        for number, violation in enumerate(self.recorded.result.violations):
            y = self.axis.y(violation.at_ns)
            title = f"<title>{escape(violation.oracle)}: {escape(violation.text)}</title>"
            ring = "" if violation.node < 0 else f'<circle cx="{self.x(violation.node):.1f}" cy="{y:.1f}" r="13"/>'
            word = (
                f'<text x="{self.left + 6}" y="{y + 16:.1f}">{escape(violation.oracle)} fires at '
                f"{violation.at_ns / 1e6:.3f} ms: {escape(violation.text[:110])}</text>"
                if number == 0
                else ""
            )
            found.append(f'<g class="violation">{title}<path d="M{TIME_PX - 8} {y:.1f}H{self.width}"/>{ring}{word}</g>')
        return found


def _piece(x: float, since: float, until: float, view: int, dead: bool) -> str:
    if until - since < 0.1:
        return ""
    shade = "dead" if dead else f"live{view % 2}"
    return f'<path class="lane {shade}" d="M{x:.1f} {since:.1f}V{until:.1f}"/>'


def _cross(x: float, y: float, size: int) -> str:
    return (
        f'<path class="cross" d="M{x - size:.1f} {y - size:.1f}l{2 * size} {2 * size}'
        f'M{x - size:.1f} {y + size:.1f}l{2 * size} {-2 * size}"/>'
    )


def describe(message: Message) -> str:
    """A message in one line."""
    block = f" for {message.about}" if message.about else ""
    about = (
        f"{message.kind} of view {message.view}{block}, {message.source} to {message.target}, "
        f"sent {message.sent_ns / 1e6:.3f} ms"
    )
    kept = f", kept until {message.left_ns / 1e6:.3f}" if message.left_ns > message.sent_ns else ""
    if message.fate == "kept":
        return f"{about}, kept to the end of the run"
    if message.due_ns is None:
        end = f"lost: {message.why}"
    else:
        word = {"arrived": "arrives", "down": "would arrive"}.get(message.fate, "on its way, due")
        end = f"{word} {message.due_ns / 1e6:.3f} ms" + (f": {message.why}" if message.why else "")
    return f"{about}{kept}, {end}"
