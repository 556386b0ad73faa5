"""Charts of a recorded run: the tree of blocks, views and heights against time, histograms of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from netsim.show.recording import BlockSeen, Recorded

BLOCKS_DRAWN: Final = 60
BARS: Final = 32
NODES_COLOURED: Final = 8
POINTS_MAX: Final = 4000
LINE_COLOURS: Final = ("#1766d1", "#1a8f5c", "#c4700b", "#8442c8", "#0f8fa3", "#c2478f", "#7a7d1c", "#7b8590")


# --- the tree of blocks ------------------------------------------------------------------------------------------


def blocks_drawn(recorded: Recorded) -> list[BlockSeen]:
    """The last blocks, by view: what does not fit goes first."""
    ordered = sorted(recorded.blocks.values(), key=lambda block: (block.view, block.first_sent_ns, block.id))
    return ordered[-BLOCKS_DRAWN:]


def rows_of(blocks: Sequence[BlockSeen], genesis: str) -> dict[str, int]:
    """A row for each block, genesis included (0). A first child stands in its parent's row, and nothing between them;
    a child in another row than its parent's is no first one. ``blocks`` are in order of views."""
    children: dict[str, list[BlockSeen]] = {}
    for block in blocks:
        children.setdefault(block.parent, []).append(block)
    first = {
        parent: min(brothers, key=lambda block: (not block.committed, block.view, block.first_sent_ns, block.id))
        for parent, brothers in children.items()
    }
    rows: dict[str, int] = {genesis: 0}
    # By row, up to which view it is taken: by a block, or by the way to its first child.
    taken = {0: first[genesis].view - 1 if genesis in first else -1}
    for block in blocks:
        parents_row = rows.get(block.parent)
        if parents_row is not None and first[block.parent] is block:
            row = parents_row
        else:
            row = 0
            while taken.get(row, -1) >= block.view or row == parents_row:
                row += 1
        rows[block.id] = row
        taken[row] = max(block.view, first[block.id].view - 1 if block.id in first else -1)
    return rows


def block_tree(recorded: Recorded) -> str:
    """Each block in the column of its view, joined to its parent. Red after a violation: one of two that honest nodes
    commit at one height, or certified against what an honest node commits."""
    blocks = blocks_drawn(recorded)
    if not blocks:
        return "<p>No block was proposed.</p>"
    rows = rows_of(blocks, recorded.genesis)
    views = sorted({block.view for block in blocks})
    column = {view: number + 1 for number, view in enumerate(views)}
    step, tall = 116, 76
    width, height = (len(views) + 1) * step + 20, (max(rows.values()) + 1) * tall + 26
    honest = {node.position for node in recorded.nodes if node.honest}
    split = {block_id for ids in recorded.conflicts().values() for block_id in ids}
    if recorded.result.violations:
        split |= recorded.against_commits()
    place = {block.id: (column[block.view] * step, 24 + rows[block.id] * tall) for block in blocks}
    place[recorded.genesis] = (0, 24)
    parts = [
        f'<svg class="chart" width="{width}" height="{height}" role="img" aria-label="tree of blocks">',
        *(f'<text x="{at * step + 44}" y="12" text-anchor="middle">view {view}</text>' for view, at in column.items()),
    ]
    if any(block.parent == recorded.genesis for block in blocks):
        parts.append('<text x="8" y="54">genesis</text>')
    for block in blocks:
        x, y = place[block.id]
        from_x, from_y = place.get(block.parent, (x - step // 2, y))
        starts = from_x + (52 if block.parent == recorded.genesis else 88 if block.parent in place else 30)
        level = rows[block.id] == rows.get(block.parent, rows[block.id])
        way = f"H{x}" if level else f"H{starts + 9}V{y - 9}H{x - 9}V{y + 26}H{x}"
        parts.append(f'<path class="link{" far" if block.id in split else ""}" d="M{starts} {from_y + 26}{way}"/>')
    parts += [_block(block, *place[block.id], honest, block.id in split) for block in blocks]
    return "".join(parts) + "</svg>"


def _block(block: BlockSeen, x: int, y: int, honest: set[int], split: bool) -> str:
    by = sorted(node for node in block.committed if node in honest)
    state = "split" if split else "committed" if by else "certified" if block.certified_ns is not None else "proposed"
    third = _commits(by) if by else "certified" if block.certified_ns is not None else "proposed only"
    who = ", ".join(str(node) for node in block.proposers)
    title = f"block {block.id}, view {block.view}, height {block.height}, sent by {who}, on view {block.justify_view}"
    return (
        f'<g class="block {state}"><title>{title}</title><rect x="{x}" y="{y}" width="88" height="52" rx="5"/>'
        f'<text class="id" x="{x + 7}" y="{y + 15}">{block.id[:6]}</text>'
        f'<text x="{x + 7}" y="{y + 30}">h{block.height}, by {escape(who[:8])}</text>'
        f'<text x="{x + 7}" y="{y + 45}">{third}</text></g>'
    )


def _commits(nodes: Sequence[int]) -> str:
    return f"commit: {','.join(map(str, nodes))}" if len(nodes) <= 3 else f"{len(nodes)} commit it"


# --- progress ----------------------------------------------------------------------------------------------------


def progress(recorded: Recorded, doing: str, word: str) -> str:
    """A staircase per node of its view (``view``) or committed height (``commit``) against virtual time."""
    width, height, left, bottom = 620, 240, 40, 24
    end = max(recorded.result.virtual_ns, 1)
    steps: dict[int, list[tuple[int, int]]] = {node.position: [(0, 0)] for node in recorded.nodes}
    for mark in recorded.marks("view" if doing == "view" else "commit"):
        reached = mark.view if doing == "view" else mark.height
        line = steps[mark.node]
        if reached > line[-1][1] and len(line) < POINTS_MAX:
            line.append((mark.at_ns, reached))
    top = max((line[-1][1] for line in steps.values()), default=0) or 1
    parts = [
        f'<svg class="chart" width="{width}" height="{height}" role="img" aria-label="{word} against time">',
        f'<path class="axis" d="M{left} 8V{height - bottom}H{width - 8}"/>',
        f'<text x="{left - 6}" y="16" text-anchor="end">{top}</text>',
        f'<text x="{left - 6}" y="{height - bottom}" text-anchor="end">0</text>',
        f'<text x="{left}" y="{height - 8}">0 ms</text>',
        f'<text x="{width - 8}" y="{height - 8}" text-anchor="end">{end / 1e6:.0f} ms</text>',
    ]
    for node, line in steps.items():
        if len(line) == 1:
            continue
        shift = (node % NODES_COLOURED) * 1.6
        drawn = f"M{left + shift:.1f} {height - bottom}"
        for at, reached in line:
            x = left + shift + at / end * (width - left - 24)
            drawn += f"H{x:.1f}V{height - bottom - reached / top * (height - bottom - 14) + shift:.1f}"
        colour = LINE_COLOURS[node % NODES_COLOURED]
        parts.append(
            f'<path class="step" stroke="{colour}" d="{drawn}H{width - 8}"><title>node {node}: {word} '
            f"{line[-1][1]}</title></path>"
        )
    names = "".join(
        f'<text x="{left + 10}" y="{20 + 14 * node.position}" style="fill:{LINE_COLOURS[node.position]}">'
        f"node {node.position}</text>"
        for node in recorded.nodes[:NODES_COLOURED]
        if len(steps[node.position]) > 1
    )
    return "".join(parts) + names + "</svg>"


# --- latencies ---------------------------------------------------------------------------------------------------


def delivery_latencies_ms(recorded: Recorded) -> list[float]:
    """From sending to arrival of each message that arrived, ascending, in milliseconds."""
    return sorted(
        (message.due_ns - message.sent_ns) / 1e6
        for message in recorded.messages
        if message.fate == "arrived" and message.due_ns is not None
    )


def commit_latencies_ms(recorded: Recorded) -> list[float]:
    """From the first sending of a block to its commit at each honest node, ascending, in milliseconds."""
    return sorted(
        (at_ns - block.first_sent_ns) / 1e6
        for block in recorded.blocks.values()
        for node, at_ns in block.committed.items()
        if recorded.nodes[node].honest
    )


def percentile(ascending: Sequence[float], percent: int) -> float:
    """By nearest rank."""
    return ascending[max(-(-len(ascending) * percent // 100) - 1, 0)]


def histogram(ascending: Sequence[float], what: str) -> str:
    """Bars, with the median and the 99th percentile marked and told."""
    if not ascending:
        return f"<p>{what}: nothing to count.</p>"
    width, height, bottom = 640, 190, 34
    high = ascending[-1] or 1.0
    counts = [0] * BARS
    for value in ascending:
        counts[min(BARS - 1, int(value / high * BARS))] += 1
    most, wide = max(counts), (width - 48) / BARS
    floor, unit = height - bottom, high / BARS
    bars = "".join(
        f'<rect x="{8 + at * wide:.1f}" y="{floor - (tall := (floor - 26) * count / most):.1f}" '
        f'width="{wide - 1.5:.1f}" height="{tall:.1f}"><title>{at * unit:.1f} to {(at + 1) * unit:.1f} ms: '
        f"{count}</title></rect>"
        for at, count in enumerate(counts)
    )
    lines = "".join(
        f'<path class="p" d="M{(x := 8 + percentile(ascending, percent) / high * (width - 48)):.1f} 16V{floor}"/>'
        f'<text x="{x:.1f}" y="12" text-anchor="{"end" if percent == 50 else "start"}">{percent} %</text>'
        for percent in (50, 99)
    )
    told = ", ".join(f"{percent} %: {percentile(ascending, percent):.2f}" for percent in (5, 50, 95, 99))
    return (
        f"<div><p>{what}: {len(ascending)}; {told}; most {ascending[-1]:.2f} ms</p>"
        f'<svg class="chart" width="{width}" height="{height}" role="img" aria-label="{what}">'
        f'<g class="bars">{bars}</g><path class="axis" d="M8 {floor}H{width - 40}"/>{lines}'
        f'<text x="8" y="{height - 16}">0 ms</text><text x="{width - 40}" y="{height - 16}" text-anchor="end">'
        f"{high:.1f} ms</text></svg></div>"
    )
