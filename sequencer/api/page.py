"""The live page at ``/``: rendered here, also each refresh, so that there is one place that knows how it looks. The
script only fetches ``/?part=live`` once a second and puts it in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response

from consensus.types import Epoch, Height
from sequencer.api.node_view import NodeStatus, NodeView
from sequencer.api.page_parts import (
    BlockRow,
    adapters_by_rollup,
    blocks_strip,
    pending_changes,
    rollup_bars,
    short,
    short_number,
    validators_table,
)
from sequencer.api.representation import ApiError
from sequencer.api.status_document import LADDER, levels_given, unready_reasons
from sequencer.ledger import HeightUnavailable
from sequencer.transactions import Level

BLOCKS_SHOWN: Final = 60
ROWS_SHOWN: Final = 12
REFRESH_S: Final = 0.5
"""All viewers together cost one rendering in so long."""
RATE_WINDOW_MS: Final = 10_000
SECURITY: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_ASSETS: Final = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


class Page:
    """``GET /`` and its two assets."""

    def __init__(self, node: NodeView, wall_clock_ms: Callable[[], int]) -> None:
        self._node = node
        self._wall_clock_ms = wall_clock_ms
        self._rows: dict[Height, BlockRow] = {}
        self._names: dict[Epoch, tuple[str, ...]] = {}
        self._live = ""
        self._rendered_at = -REFRESH_S
        root = files("sequencer.api") / "assets"
        self._assets = {name: (root / name).read_bytes() for name in _ASSETS}

    async def page(self, request: Request) -> Response:
        """The whole page, or with ``part=live`` what changes."""
        if trio.current_time() - self._rendered_at >= REFRESH_S:
            self._live = await self._render()
            self._rendered_at = trio.current_time()
        whole = request.query_params.get("part") != "live"
        text = self._whole() if whole else self._live
        return Response(text, media_type="text/html", headers={**SECURITY, "cache-control": "no-store"})

    async def asset(self, request: Request) -> Response:
        """The style sheet and the script."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise ApiError(404, "no_route", "the page has no such part")
        headers = {**SECURITY, "cache-control": "max-age=300", "content-type": _ASSETS[name]}
        return Response(self._assets[name], headers=headers)

    def _whole(self) -> str:
        title = f"{escape(self._node.name)} · {escape(self._node.genesis.spec.chain_id)}"
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            '<link rel="icon" href="data:,"><link rel="stylesheet" href="/assets/page.css">'
            '<script src="/assets/page.js" defer></script></head>'
            f'<body><main id="live">{self._live}</main></body></html>'
        )

    async def _render(self) -> str:
        status = self._node.status()
        rows = await self._recent_rows(status)
        return "".join(
            (
                self._header(status),
                self._tiles(status, rows),
                _ladder(status, levels_given(self._node.genesis.spec)),
                '<section class="card wide"><h2>Blocks <small>one bar each, coloured by proposer; its height shows the '
                f"transactions, logarithmic</small></h2>{blocks_strip(rows, BLOCKS_SHOWN)}</section>",
                '<div class="columns">',
                f'<section class="card"><h2>Validators <small>epoch {status.validators.epoch}</small></h2>'
                f"{validators_table(status)}{pending_changes(status)}</section>",
                f'<section class="card"><h2>Rollups</h2>{self._rollups(status, rows)}</section>',
                "</div>",
                '<section class="card wide"><h2>Latest blocks</h2>'
                f"{self._latest(rows[:ROWS_SHOWN], status.final_height)}</section>",
                _footer(status),
            )
        )

    async def _recent_rows(self, status: NodeStatus) -> list[BlockRow]:
        """Newest first. What was looked up once is kept while it is shown."""
        first = max(1, status.archive_from, status.ledger_height - BLOCKS_SHOWN + 1)
        rows: dict[Height, BlockRow] = {}
        for height in range(status.ledger_height, first - 1, -1):
            row = self._rows.get(height)
            if row is None:
                try:
                    block = await self._node.block(height)
                    names = await self._names_of(block.header.epoch, status)
                    row = BlockRow.of(block, self._node.genesis.protocol, names)
                except HeightUnavailable:
                    break
            rows[height] = row
        self._rows = rows
        return list(rows.values())

    async def _names_of(self, epoch: Epoch, status: NodeStatus) -> tuple[str, ...]:
        """The validators of an epoch that a shown block may be of, in order."""
        names = self._names.get(epoch)
        if names is None:
            if epoch == status.validators.epoch:
                validators = tuple(listed.validator for listed in status.validators.validators)
            elif epoch == 0:
                validators = self._node.genesis.spec.validators
            else:
                changes = await self._node.epoch_changes(epoch, 1)
                validators = next((change.validators for change in changes), ())
            names = tuple(validator.name for validator in validators)
            if len(self._names) >= BLOCKS_SHOWN:
                self._names.clear()
            self._names[epoch] = names
        return names

    def _header(self, status: NodeStatus) -> str:
        spec = self._node.genesis.spec
        reasons = unready_reasons(status)
        state = f'<span class="pill bad" title="{escape("; ".join(reasons))}">not ready</span>'
        if not reasons:
            state = '<span class="pill good">ready</span>'
        why = "".join(f'<p class="warning">{escape(reason)}</p>' for reason in reasons)
        return (
            f'<header><div><p class="eyebrow">{escape(spec.chain_id)}</p><h1>{escape(self._node.name)} '
            f'<span class="pill">{status.role}</span> {state}</h1></div>'
            f'<dl class="facts"><div><dt>protocol</dt><dd>{escape(spec.protocol)}</dd></div>'
            f"<div><dt>signatures</dt><dd>{escape(spec.scheme)}</dd></div>"
            f'<div><dt>genesis</dt><dd class="mono" title="{spec.hash.hex()}">{short(spec.hash)}</dd></div></dl>'
            f"</header>{why}"
        )

    def _tiles(self, status: NodeStatus, rows: Sequence[BlockRow]) -> str:
        consensus = status.consensus
        validators = status.validators.validators
        leader = escape(validators[consensus.leader].validator.name) if consensus.leader < len(validators) else "?"
        behind = consensus.seen_height - status.ledger_height
        rate, interval = _rate(rows, self._wall_clock_ms())
        tiles = (
            (
                "height",
                f"{status.ledger_height:,}",
                "all that was seen" if behind <= 0 else f"{behind:,} behind what was seen",
            ),
            *self._final_tile(status),
            ("view", self._node.genesis.protocol.view_name(consensus.view), f"epoch {consensus.epoch}"),
            ("leader", leader, f"view timeouts: {consensus.timeouts:,}"),
            ("transactions per second", f"{rate:,.0f}", f"over {RATE_WINDOW_MS // 1000} s"),
            ("block interval", interval, f"over {len(rows)} blocks"),
        )
        shown = (
            f'<div class="tile"><p>{name}</p><strong>{value}</strong><small>{note}</small></div>'
            for name, value, note in tiles
        )
        return f'<div class="tiles">{"".join(shown)}</div>'

    def _final_tile(self, status: NodeStatus) -> tuple[tuple[str, str, str], ...]:
        interval = self._node.genesis.spec.checkpoint_interval
        if not interval:
            return ()
        behind = status.ledger_height - status.final_height
        return (("final", f"{status.final_height:,}", f"{behind:,} behind; a checkpoint every {interval:,}"),)

    def _rollups(self, status: NodeStatus, rows: Sequence[BlockRow]) -> str:
        adapters = adapters_by_rollup(status)
        waiting = {rollup_id: transactions for rollup_id, transactions, _ in status.mempool}
        lines = []
        for rollup_id in self._node.genesis.spec.rollups[:64]:
            count = sum(row.counts.get(rollup_id, 0) for row in rows)
            lines.append(
                f'<tr><th class="mono" title="{rollup_id}">{short_number(rollup_id)}</th>'
                f"<td>{adapters.get(rollup_id, 'not run here')}</td>"
                f"<td>{rollup_bars(rows, rollup_id, BLOCKS_SHOWN)}</td>"
                f'<td class="number">{count:,}</td><td class="number">{waiting.get(rollup_id, 0):,}</td></tr>'
            )
        head = '<tr><th>id</th><th>adapter</th><th>per block</th><th class="number">shown</th>'
        return f'<table>{head}<th class="number">pending</th></tr>{"".join(lines)}</table>'

    def _latest(self, rows: Sequence[BlockRow], final_height: Height) -> str:
        lines = []
        for row in rows:
            chips = "".join(
                f'<span class="chip"><b class="mono">{short_number(rollup_id)}</b> {count:,}</span>'
                for rollup_id, count in row.counts.items()
            )
            if row.certificates:
                chips += f'<span class="chip">{row.certificates} finality</span>'
            when = datetime.fromtimestamp(row.timestamp_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
            dot = f'<i class="dot c{row.proposer % 8}"></i>'
            lines.append(
                f'<tr><td class="number"><a href="/v1/blocks/{row.height}">{row.height:,}</a></td>'
                f"<td>{_mark(row.height <= final_height)}</td>"
                f'<td class="number">{row.view_name}</td><td>{dot}{escape(row.proposer_name)}</td>'
                f'<td class="mono">{when}</td><td>{chips or "<small>empty</small>"}</td>'
                f'<td class="mono" title="{row.block_id.hex()}">{short(row.block_id)}</td></tr>'
            )
        head = '<tr><th class="number">height</th><th></th><th class="number">view</th><th>proposer</th>'
        return (
            f"<table>{head}<th>time (UTC)</th><th>transactions by rollup</th><th>id</th></tr>{''.join(lines)}</table>"
        )


def _mark(final: bool) -> str:
    return '<span class="pill good">final</span>' if final else "<small>confirmed</small>"


def _rate(rows: Sequence[BlockRow], now_ms: int) -> tuple[float, str]:
    """Transactions per second of late, and the mean time between blocks as text."""
    recent = sum(sum(row.counts.values()) for row in rows if now_ms - row.timestamp_ms <= RATE_WINDOW_MS)
    if len(rows) < 2:
        return recent * 1000 / RATE_WINDOW_MS, "&ndash;"
    mean_ms = (rows[0].timestamp_ms - rows[-1].timestamp_ms) / (len(rows) - 1)
    interval = f"{mean_ms:,.0f} ms" if mean_ms < 10_000 else f"{mean_ms / 1000:,.0f} s"
    return recent * 1000 / RATE_WINDOW_MS, interval


def _ladder(status: NodeStatus, given: Collection[Level]) -> str:
    pending = sum(transactions for _, transactions, _ in status.mempool)
    notes = {
        Level.PENDING: f"{pending:,} waiting",
        Level.CONFIRMED: f"up to {status.ledger_height:,}",
        Level.FINAL: f"up to {status.final_height:,}" if Level.FINAL in given else "not on this chain",
    }
    rungs = "".join(
        f'<li class="{"given" if level in given else ""}"><b>{level.value}</b>'
        f"<small>{notes.get(level, 'not built')}</small></li>"
        for level in LADDER
    )
    return f'<ol class="ladder" aria-label="The ladder that every transaction climbs">{rungs}</ol>'


def _footer(status: NodeStatus) -> str:
    observers = sum(peer.role == "observer" and peer.connected for peer in status.transport.peers)
    history = f"pruned below {status.archive_from:,}" if status.archive_from > 1 else "the whole history"
    evidence = f" · {status.evidence} proofs of guilt" if status.evidence else ""
    return (
        f"<footer>{observers} observer{'' if observers == 1 else 's'} connected · keeps {history}{evidence} · "
        '<a href="/v1/status">status</a> · <a href="/metrics">metrics</a> · <a href="/openapi.json">openapi.json</a>'
        "</footer>"
    )
