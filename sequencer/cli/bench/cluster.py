"""Four validators as processes, and one measurement after the other on them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, assert_never

import trio

from consensus.protocols.registry import DEFAULT_PROTOCOL
from sequencer.cli.bench.load import ROLLUP, Measured, run_bulk, run_saturated, run_single
from sequencer.cli.bench.machine import busy_cpu_s, bytes_below, usage_of, with_children
from sequencer.cli.demo.processes import NodeProcess, free_base_port, open_fleet
from sequencer.cli.demo.sender import quantile
from sequencer.config import RollupConfig
from sequencer.homes import ChainPlan, write_testnet

VALIDATORS: Final = 4
SETTLE_S: Final = 1.0
Client: TypeAlias = Literal["single", "bulk", "saturated"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement. ``outstanding`` counts requests; the saturated client has as many as it needs, written as 0."""

    client: Client
    size_bytes: int
    outstanding: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one measurement gave. Costs are of one validator, per transaction; shares are of all cores, 1.0 in sum when
    nothing is idle. ``others_share`` is that of programs that have nothing to do with it, None where unknown."""

    case: Case
    scheme: str
    place: str
    adapters: bool
    per_second: float
    transactions: int
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: float
    memory_bytes: float
    nodes_share: float
    client_share: float
    others_share: float | None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A cluster. ``place`` names the directory's kind: disk or memory. With ``adapters`` the raw adapter runs at every
    validator."""

    scheme: str
    place: str
    directory: Path
    adapters: bool = False


@dataclass(slots=True, kw_only=True)
class Stored:
    """What a cluster was given in all its cases, and what that came to in one validator's files once it had stopped."""

    setup: Setup
    transactions: int = 0
    submitted_bytes: int = 0
    stored_bytes: float = 0.0

    @property
    def overhead_bytes(self) -> float:
        """What is stored for one transaction besides its own bytes."""
        return (self.stored_bytes - self.submitted_bytes) / max(1, self.transactions)


@asynccontextmanager
async def open_cluster(setup: Setup) -> AsyncIterator[Cluster]:
    """Run four validators while the block runs, then count and delete what they wrote. Leaves with ``NodeFailed`` when
    one ends."""
    directory = Path(tempfile.mkdtemp(prefix="sequencer-bench-", dir=setup.directory))
    try:
        plan = ChainPlan(
            protocol=DEFAULT_PROTOCOL,
            scheme=setup.scheme,
            rollups=[RollupConfig(id=ROLLUP, adapter="raw", settings={})],
            validators=VALIDATORS,
            observers=0,
            base_port=free_base_port(2 * VALIDATORS),
            chain_id="bench",
        )
        homes = write_testnet(directory, plan)
        if not setup.adapters:
            for home in homes:
                _without_rollups(home / "node.toml")
        async with open_fleet(homes) as fleet:
            await fleet.start_all()
            await trio.sleep(SETTLE_S)
            stored = Stored(setup=setup)
            yield Cluster(setup, fleet.nodes, stored)
            await fleet.stop_all()
            stored.stored_bytes = sum(bytes_below(home / "data") for home in homes) / len(homes)
    finally:
        shutil.rmtree(directory)


def _without_rollups(file: Path) -> None:
    """The chain orders the rollup, this node runs no adapter for it."""
    file.write_text(file.read_text().partition("\n[[rollups]]")[0])


class Cluster:
    """Made by :func:`open_cluster`."""

    def __init__(self, setup: Setup, nodes: list[NodeProcess], stored: Stored) -> None:
        self.stored = stored
        self._setup = setup
        self._nodes = nodes

    async def measure(self, case: Case, warm_s: float, run_s: float) -> Row:
        """Run one case. Raises ``UnexpectedAnswer`` when a node does not do what it should."""
        await trio.sleep(SETTLE_S)
        ids = with_children([node.process_id for node in self._nodes if node.process_id is not None])
        before, client_before = usage_of(ids), usage_of([os.getpid()])
        began, busy_before = trio.current_time(), busy_cpu_s()
        measured = await self._run(case, warm_s, run_s)
        elapsed_s = trio.current_time() - began
        self.stored.transactions += measured.total
        self.stored.submitted_bytes += measured.total * case.size_bytes
        after, client_after, busy_after = usage_of(ids), usage_of([os.getpid()]), busy_cpu_s()
        ours_s = after.cpu_s - before.cpu_s + client_after.cpu_s - client_before.cpu_s
        others_s = None if busy_before is None or busy_after is None else busy_after - busy_before - ours_s
        # Warming up and running out are in the costs, so they are divided by all transactions.
        shares = max(1, measured.total) * VALIDATORS
        core_s = elapsed_s * (os.cpu_count() or 1)
        latencies = measured.latencies_ms
        return Row(
            case=case,
            scheme=self._setup.scheme,
            place=self._setup.place,
            adapters=self._setup.adapters,
            per_second=measured.per_second,
            transactions=measured.transactions,
            p50_ms=quantile(latencies, 0.5) if latencies else None,
            p99_ms=quantile(latencies, 0.99) if latencies else None,
            cpu_us=(after.cpu_s - before.cpu_s) * 1e6 / shares,
            memory_bytes=after.memory_bytes / VALIDATORS,
            nodes_share=(after.cpu_s - before.cpu_s) / core_s,
            client_share=(client_after.cpu_s - client_before.cpu_s) / core_s,
            others_share=None if others_s is None else max(0.0, others_s / core_s),
        )

    async def _run(self, case: Case, warm_s: float, run_s: float) -> Measured:
        match case.client:
            case "single":
                return await run_single(self._nodes, case.size_bytes, case.outstanding, warm_s, run_s)
            case "bulk":
                return await run_bulk(self._nodes, case.size_bytes, case.outstanding, warm_s, run_s)
            case "saturated":
                return await run_saturated(self._nodes, case.size_bytes, warm_s, run_s)
            case _:
                assert_never(case.client)
