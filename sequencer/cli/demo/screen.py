"""What a person sees while the demo runs: a table that moves, and a line for everything that happens."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx
import msgspec
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sequencer.cli.demo.processes import NodeProcess
from sequencer.cli.demo.sender import Ledgers, quantile

POLL_S: Final = 0.5
RECENT_LATENCIES: Final = 400


class AdapterState(msgspec.Struct, frozen=True):
    """One adapter, as ``/v1/status`` shows it."""

    rollup_id: int
    delivered_height: int
    state_commitment: str


class NodeState(msgspec.Struct, frozen=True):
    """The part of ``/v1/status`` that is looked at here."""

    role: str
    view_name: str
    ledger_height: int
    timeouts: int
    adapters: tuple[AdapterState, ...]


_states: Final = msgspec.json.Decoder(NodeState)


@dataclass(slots=True)
class Watcher:
    """Asks every node for its state now and then. ``states`` holds the last answers of those that run."""

    nodes: Sequence[NodeProcess]
    states: dict[str, NodeState] = field(default_factory=dict)

    async def look(self, client: httpx.AsyncClient, node: NodeProcess) -> NodeState | None:
        """One node's state now; None when it does not answer."""
        state = None
        if node.running:
            try:
                response = await client.get(f"{node.api}/v1/status")
                state = _states.decode(response.content) if response.status_code == 200 else None
            except httpx.TransportError:
                state = None
        if state is None:
            self.states.pop(node.name, None)
        else:
            self.states[node.name] = state
        return state

    async def look_at_all(self, client: httpx.AsyncClient) -> None:
        """Refresh ``states``."""
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(self.look, client, node)

    def height(self, besides: NodeProcess | None = None) -> int:
        """The highest height that any node has shown, ``besides`` left out."""
        return max((s.ledger_height for n, s in self.states.items() if besides is None or n != besides.name), default=0)


class Screen:
    """Shows the table where there is a terminal, and the lines everywhere."""

    def __init__(self, console: Console, watcher: Watcher, title: str) -> None:
        self._console = console
        self._watcher = watcher
        self._title = title
        self.ledgers: Ledgers | None = None
        self._began = trio.current_time()

    def say(self, line: str) -> None:
        """Something happened."""
        self._console.print(f"[dim]{trio.current_time() - self._began:6.1f} s[/]  {escape(line)}", soft_wrap=True)

    @contextlib.asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """The table moves while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._refresh, live)
                yield
                nursery.cancel_scope.cancel()

    async def _refresh(self, live: Live) -> None:
        while True:
            live.update(self._table(), refresh=True)
            await trio.sleep(POLL_S)

    def _table(self) -> Group:
        nodes = Table("node", "", "height", "view", "timeouts", "executed up to", title=self._title, box=None)
        for node in self._watcher.nodes:
            state = self._watcher.states.get(node.name)
            if state is None:
                what = "[yellow]starting[/]" if node.process_id is not None else "[bold red]down[/]"
                nodes.add_row(node.name, what, "-", "-", "-", "-")
                continue
            executed = "  ".join(f"{each.rollup_id}: {each.delivered_height}" for each in state.adapters)
            nodes.add_row(
                node.name, "[green]up[/]", str(state.ledger_height), state.view_name, str(state.timeouts), executed
            )
        return Group(nodes, *self._counts())

    def _counts(self) -> list[str]:
        if self.ledgers is None:
            return []
        recent = self.ledgers.latencies_ms[-RECENT_LATENCIES:]
        counts = "   ".join(f"{rollup_id}: {c.acknowledged}" for rollup_id, c in self.ledgers.rollups.items())
        return [
            "",
            f"confirmed transactions by rollup   {counts}",
            f"latency of the last {len(recent)} transactions   "
            f"p50 {quantile(recent, 0.5):.0f} ms, p99 {quantile(recent, 0.99):.0f} ms",
        ]
