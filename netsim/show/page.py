"""The report: one HTML page about one run, with nothing to load from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from netsim.oracles.registry import ORACLES
from netsim.schedule import Schedule
from netsim.show.charts import (
    BLOCKS_DRAWN,
    block_tree,
    commit_latencies_ms,
    delivery_latencies_ms,
    histogram,
    progress,
)
from netsim.show.diagram import KINDS, MESSAGES_DRAWN, Diagram, Window, window_of
from netsim.show.recording import Recorded
from netsim.show.style import CHARTS, DIAGRAM, PAGE, SCRIPT, THEMES
from netsim.words import in_words, link_in_words

SIGNS: Final = (
    "Down a lane time passes; its grey changes with each view (v1, v2, …). "
    "◆ commits a block (h: height; red when honest nodes disagree). Blue text: a proposal (block: its view on "
    "its certificate's view). An hourglass: a view's timer fires (grey: block sync asks again). "
    "✕ at an arrow's end: lost, or nobody there. Dashed along the lane: kept by a hold. ✕ on a lane: a crash, dotted "
    "until the restart ○. Bars at the left: faults while they hold. Point at anything for its details."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortened:
    """How the shown schedule came from the one that was found: parts before and after, and how many runs it took (0:
    it was given)."""

    before: int
    after: int
    runs: int


def meaning(oracle: str) -> str:
    """What an oracle judges, in its own words; empty for one that is not ours."""
    for factory in ORACLES:
        text = " ".join((factory.__doc__ or "").split())
        judged, colon, rest = text.partition(": ")
        if colon and oracle in judged.split(" and "):
            return rest
    return ""


def page(
    recorded: Recorded,
    *,
    replay: str,
    protocol: str = "",
    limit: int = MESSAGES_DRAWN,
    shortened: Shortened | None = None,
) -> str:
    """The page. ``replay`` is the command that gives this run again, ``protocol`` what ran if not the schedule's,
    ``limit`` how many messages are drawn at most."""
    result = recorded.result
    schedule = result.schedule
    title = f"{schedule.name or 'schedule'}, {protocol or schedule.protocol}, seed {schedule.seed}"
    window = window_of(recorded, limit)
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}: {escape(result.verdict)}</title>",
            f"<style>{THEMES}{PAGE}{CHARTS}{DIAGRAM}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            *_verdict(recorded),
            _facts(recorded),
            _shortened(shortened),
            "<h2>Blocks</h2>",
            _tree_words(recorded),
            f'<div class="wide">{block_tree(recorded)}</div>',
            "<h2>Messages</h2>",
            *_messages(recorded, window),
            "<h2>Views and commits</h2>",
            f'<div class="pair"><div><p>View</p>{progress(recorded, "view", "view")}</div>'
            f"<div><p>Committed height</p>{progress(recorded, 'commit', 'height')}</div></div>",
            _nodes(recorded),
            "<h2>Latencies</h2>",
            f'<div class="pair">{histogram(delivery_latencies_ms(recorded), "Deliveries, from sending to arrival")}'
            f"{histogram(commit_latencies_ms(recorded), 'Commits, from the first sending of the block')}</div>",
            "<h2>The schedule in words</h2>",
            _words(schedule),
            "<h2>Run it again</h2>",
            f"<p>Save the schedule as <code>schedule.json</code> and run <code>{escape(replay)}</code>.</p>",
            f"<details><summary>schedule.json</summary><pre>{escape(schedule.to_json().decode())}</pre></details>",
            f"</main><script>{SCRIPT}</script></body></html>\n",
        )
    )


def _verdict(recorded: Recorded) -> list[str]:
    result = recorded.result
    if result.silent:
        return ['<div class="verdict good"><b>Silent</b>: no oracle fired.</div>']
    parts = ['<div class="verdict bad">']
    for violation in result.violations:
        where = f"at node {violation.node}, " if violation.node >= 0 else ""
        parts.append(
            f"<p><b>{escape(violation.oracle)} fired</b> {where}at {violation.at_ns / 1e6:.3f} ms: "
            f"{escape(violation.text)}.</p>"
        )
        known = meaning(violation.oracle)
        if known:
            parts.append(f'<p class="soft">{escape(violation.oracle)} says: {escape(known)}</p>')
    for height, blocks in sorted(recorded.conflicts().items()):
        sides = (f"{block[:6]} at node {', '.join(map(str, _committers(recorded, block, height)))}" for block in blocks)
        parts.append(f"<p><b>Height {height} is committed twice</b>: {'; '.join(sides)}.</p>")
    return [*parts, "</div>"]


def _committers(recorded: Recorded, block: str, height: int) -> list[int]:
    marks = recorded.marks("commit")
    found = {mark.node for mark in marks if mark.block == block and mark.height == height}
    return sorted(node for node in found if recorded.nodes[node].honest)


def _facts(recorded: Recorded) -> str:
    result = recorded.result
    lost = sum(message.fate == "lost" for message in recorded.messages)
    down = sum(message.fate == "down" for message in recorded.messages)
    kept = sum(message.fate == "kept" for message in recorded.messages)
    facts = (
        ("nodes", len(recorded.nodes)),
        ("virtual time", f"{result.virtual_ns / 1e6:.1f} ms"),
        ("highest view", max(result.views, default=0)),
        ("commits", result.commits),
        ("deliveries", result.deliveries),
        ("lost", lost),
        ("to nobody", down),
        *((("kept", kept),) if kept else ()),
        ("view timers fired", len([mark for mark in recorded.marks("timer") if not mark.text.startswith("sync:")])),
        ("links", _links(result.schedule)),
        ("trace", result.trace_hash[:16]),
    )
    shown = "".join(f"<span>{name} <b>{escape(str(value))}</b></span>" for name, value in facts)
    forgotten = (
        f"<p>The record holds the last {len(recorded.happenings)} of "
        f"{len(recorded.happenings) + recorded.forgotten} happenings.</p>"
        if recorded.forgotten
        else ""
    )
    return f'<div class="facts">{shown}</div>{forgotten}'


def _links(schedule: Schedule) -> str:
    own = f", {len(schedule.links)} of their own" if schedule.links else ""
    return ("between regions" if schedule.regions else link_in_words(schedule.link)) + own


def _shortened(shortened: Shortened | None) -> str:
    if shortened is None:
        return ""
    runs = f" in {shortened.runs} runs" if shortened.runs else ""
    if shortened.after >= shortened.before:
        return f"<p>Nothing shorter was found that makes the same oracle fire{runs}.</p>"
    return (
        f"<p>This is the shortest schedule found that makes the same oracle fire: {shortened.before} parts became "
        f"{shortened.after}{runs}.</p>"
    )


def _tree_words(recorded: Recorded) -> str:
    count = len(recorded.blocks)
    left_out = f" The last {BLOCKS_DRAWN} of {count} blocks are drawn." if count > BLOCKS_DRAWN else ""
    return (
        '<p class="soft">Each block stands in the column of its view. Green: committed by the honest nodes it names; '
        "blue: certified by a quorum; dashed: proposed only; red: it should not be (two commits at one height, or "
        "a certificate against a commit)." + left_out + "</p>"
    )


def _messages(recorded: Recorded, window: Window) -> list[str]:
    diagram = Diagram(recorded, window)
    seen = {message.kind for message in window.messages}
    kinds = [*(kind for kind in KINDS if kind in seen), *(["Other"] if seen - {*KINDS} else [])]
    buttons = "".join(
        f'<button class="k{kind}" data-kind="k{kind}" aria-pressed="true"><span class="dot"></span>{kind}</button>'
        for kind in kinds
    )
    views = sorted({message.view for message in window.messages})
    options = "".join(f'<option value="{view}">view {view}</option>' for view in views)
    drawn = f"All {window.total} messages are drawn."
    if not window.whole:
        why = "before the violation" if recorded.result.violations else "of the run"
        place = "last" if recorded.result.violations else "first"
        drawn = (
            f"<b>{len(window.messages)} of {window.total} messages are drawn</b>: the {place} {why}, from "
            f"{window.from_ns / 1e6:.1f} to {window.to_ns / 1e6:.1f} ms. <code>--messages N</code> draws more."
        )
    return [
        f'<p>{drawn} <span class="soft">{SIGNS}</span></p>',
        f'<div class="sticky"><div class="keys">{buttons}<label>Show <select id="pick">'
        f'<option value="">all views</option>{options}</select></label></div>{diagram.head()}</div>',
        f'<div id="messages">{diagram.body()}</div>',
    ]


def _nodes(recorded: Recorded) -> str:
    result = recorded.result
    crashes = [mark.node for mark in recorded.marks("crash")]
    timers = [mark.node for mark in recorded.marks("timer") if not mark.text.startswith("sync:")]
    rows = "".join(
        f"<tr><td>{node.position}</td><td{'' if node.honest else _BAD}>{escape(node.role or 'honest')}</td>"
        f'<td class="num">{result.views[node.position]}</td><td class="num">{len(result.logs[node.position])}</td>'
        f"<td>{_log(result.logs[node.position])}</td>"
        f'<td class="num">{timers.count(node.position)}</td><td class="num">{crashes.count(node.position)}</td></tr>'
        for node in recorded.nodes
    )
    return (
        "<table><tr><th>node</th><th>role</th><th>view</th><th>height</th><th>last blocks of its log</th>"
        f"<th>view timers fired</th><th>crashes</th></tr>{rows}</table>"
    )


_BAD: Final = ' class="badtext"'


def _log(log: Sequence[str]) -> str:
    shown = " ".join(f"<code>{block_id[:6]}</code>" for block_id in log[-8:])
    return f"… {shown}" if len(log) > 8 else shown


def _words(schedule: Schedule) -> str:
    return "<ol>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in in_words(schedule)) + "</ol>"
