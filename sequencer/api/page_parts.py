"""Pieces of the live page: what is kept of a block, tables, and small pictures as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from consensus.epochs import GENESIS_KIND
from consensus.genesis import LINKS_ROLLUP, SYSTEM_ROLLUP
from consensus.protocols.definition import ProtocolDefinition
from consensus.types import BlockId, Epoch, Height
from sequencer.api.node_view import NodeStatus
from sequencer.block_summary import BlockSummary

BAR_WIDTH: Final = 10
STRIP_HEIGHT: Final = 64
SPARK_WIDTH: Final = 3
SPARK_HEIGHT: Final = 20


@dataclass(frozen=True)
class BlockRow:
    """A block as the page shows it. ``begins_epoch`` when it is the first of its epoch; ``late`` when its view came
    after views without a block; ``counts`` are transactions by rollup, ``certificates`` those of
    finality."""

    height: Height
    view_name: str
    late: bool
    begins_epoch: bool
    epoch: Epoch
    proposer: int
    proposer_name: str
    timestamp_ms: int
    block_id: BlockId
    counts: Mapping[int, int]
    certificates: int

    @classmethod
    def of(cls, block: BlockSummary, protocol: ProtocolDefinition, names: Sequence[str]) -> BlockRow:
        """What the page keeps of a block. ``names`` are those of its epoch's validators."""
        header = block.header
        return cls(
            height=header.height,
            view_name=protocol.view_name(header.view),
            late=protocol.turn(header.view) > protocol.turn(header.justify.view) + 1,
            begins_epoch=header.justify.kind == GENESIS_KIND and header.epoch > 0,
            epoch=header.epoch,
            proposer=header.proposer,
            proposer_name=names[header.proposer] if header.proposer < len(names) else "?",
            timestamp_ms=header.timestamp_ms,
            block_id=block.block_id,
            counts={leaf.rollup_id: leaf.count for leaf in block.sections if leaf.rollup_id != LINKS_ROLLUP},
            certificates=sum(leaf.count for leaf in block.sections if leaf.rollup_id == LINKS_ROLLUP),
        )


def short(identifier: bytes) -> str:
    """The beginning of a hash."""
    return identifier.hex()[:10] + "…" if identifier else "&ndash;"


def short_number(number: int) -> str:
    """A rollup's id; of a long one the ends, of the chain's own what it is about."""
    if number == SYSTEM_ROLLUP:
        return "validators"
    text = str(number)
    return text if len(text) <= 10 else f"{text[:4]}…{text[-4:]}"


def blocks_strip(rows: Sequence[BlockRow], count: int) -> str:
    """One bar per block, oldest left; a tick under those whose view came after views without a block, a line before
    those that begin an epoch."""
    most = max((sum(row.counts.values()) for row in rows), default=0)
    scale = (STRIP_HEIGHT - 14) / math.log1p(most) if most else 0
    bars = []
    for place, row in enumerate(reversed(rows)):
        transactions = sum(row.counts.values())
        high = 4 + scale * math.log1p(transactions)
        x = (count - len(rows) + place) * BAR_WIDTH
        bars.append(
            f'<rect class="c{row.proposer % 8}" x="{x}" y="{STRIP_HEIGHT - 6 - high:.1f}" width="{BAR_WIDTH - 2}" '
            f'height="{high:.1f}" rx="1.5"><title>height {row.height}, view {row.view_name}: '
            f"{transactions} transactions</title></rect>"
        )
        if row.begins_epoch:
            bars.append(
                f'<rect class="epoch" x="{x - 2}" y="0" width="1" height="{STRIP_HEIGHT}">'
                f"<title>epoch {row.epoch} begins</title></rect>"
            )
        if row.late:
            bars.append(f'<rect class="skipped" x="{x}" y="{STRIP_HEIGHT - 4}" width="{BAR_WIDTH - 2}" height="3"/>')
    box = f"0 0 {count * BAR_WIDTH} {STRIP_HEIGHT}"
    return f'<svg class="strip" viewBox="{box}" preserveAspectRatio="none" role="img">{"".join(bars)}</svg>'


def rollup_bars(rows: Sequence[BlockRow], rollup_id: int, count: int) -> str:
    """A rollup's transactions in each block, oldest left."""
    counts = [row.counts.get(rollup_id, 0) for row in reversed(rows)]
    most = max(counts, default=0)
    bars = "".join(
        f'<rect x="{(count - len(counts) + place) * SPARK_WIDTH}" y="{SPARK_HEIGHT * (1 - each / most):.1f}" '
        f'width="{SPARK_WIDTH - 1}" height="{SPARK_HEIGHT * each / most:.1f}"/>'
        for place, each in enumerate(counts)
        if each
    )
    box = f"0 0 {count * SPARK_WIDTH} {SPARK_HEIGHT}"
    return f'<svg class="spark" viewBox="{box}" preserveAspectRatio="none" role="img">{bars}</svg>'


def validators_table(status: NodeStatus) -> str:
    """Every validator: who leads, who is connected, and what the link has seen."""
    states = {peer.peer: peer for peer in status.transport.peers}
    lines = []
    for index, listed in enumerate(status.validators.validators[:128]):
        validator = listed.validator
        state = states.get(validator.peer)
        leads = '<span class="pill leads">leads</span>' if index == status.consensus.leader else ""
        name = f'<td><i class="dot c{index % 8}"></i>{escape(validator.name)} {leads}</td>'
        stake = f'<td class="number">{validator.stake:,}</td>'
        if state is None:
            where = "this node" if validator.peer == status.transport.peer else "never seen"
            lines.append(f'<tr>{name}{stake}<td>{where}</td><td colspan="3"></td></tr>')
            continue
        link = "connected" if state.connected else "away"
        trip = "&ndash;" if state.round_trip_ns is None else f"{state.round_trip_ns / 1e6:.1f} ms"
        traffic = f"{_size(state.bytes_in)} / {_size(state.bytes_out)}"
        lines.append(
            f'<tr>{name}{stake}<td class="{link}" title="{escape(state.last_reason)}">{link}</td>'
            f'<td class="number">{trip}</td><td class="number">{traffic}</td>'
            f'<td class="number">{state.rejects + state.drops_in + state.drops_out:,}</td></tr>'
        )
    head = '<tr><th>name</th><th class="number">stake</th><th>link</th><th class="number">round trip</th>'
    return f'<table>{head}<th class="number">in / out</th><th class="number">faults</th></tr>{"".join(lines)}</table>'


def pending_changes(status: NodeStatus) -> str:
    """What will change about the validators, and when; nothing when nothing will."""
    if not status.validators.pending:
        return ""
    words = {"joins": "joins with stake", "leaves": "leaves", "rotates": "changes its key", "stake": "changes to stake"}
    lines = []
    for change in status.validators.pending[:32]:
        stake = f" {change.stake:,}" if change.kind in ("joins", "stake") else ""
        blocks = max(0, change.effective_at - status.ledger_height)
        lines.append(
            f"<tr><td>{escape(change.name)}</td><td>{words[change.kind]}{stake}</td>"
            f'<td class="number">{change.effective_at:,}</td><td class="number">in {blocks:,} blocks</td></tr>'
        )
    more = len(status.validators.pending) - len(lines)
    note = f"<p><small>and {more} more</small></p>" if more else ""
    head = '<tr><th>name</th><th>change</th><th class="number">after height</th><th class="number"></th></tr>'
    return f"<h3>Pending changes</h3><table>{head}{''.join(lines)}</table>{note}"


def adapters_by_rollup(status: NodeStatus) -> dict[int, str]:
    """The cell that shows each adapter."""
    cells = {}
    for adapter in status.adapters:
        state, delivered = "connected" if adapter.alive else "away", adapter.delivered
        restarts = f" · {adapter.restarts} restarts" if adapter.restarts else ""
        life = "" if adapter.alive else " · down"
        cells[adapter.rollup_id] = (
            f'<span class="{state}">{escape(adapter.adapter)}{life}{restarts}</span><br><small class="mono" '
            f'title="{delivered.state_commitment.hex()}">{delivered.height:,} · '
            f"{short(delivered.state_commitment)}</small>"
        )
    return cells


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} GB"
