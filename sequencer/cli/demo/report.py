"""What the demo found out, for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rollup_adapters.base import JsonValue
from sequencer.cli.demo.plan import DemoOptions
from sequencer.cli.demo.sender import Ledgers, quantile
from sequencer.verify import Verdict


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One node's adapter of one rollup, as the node reported it while it ran."""

    home: str
    rollup_id: int
    state_commitment: str


@dataclass(frozen=True, kw_only=True)
class Crash:
    """The validator that was killed, how long it was down, and how long it took from its start until it had what the
    others had. ``latencies_before`` of the latencies are from before."""

    killed: str
    down_s: float
    catch_up_s: float
    latencies_before: int


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything. ``final_ms`` are the times from submission to finality of those transactions that were followed so
    far; ``rough`` names the nodes that did not end with 0 when asked to."""

    options: DemoOptions
    ledgers: Ledgers
    final_ms: tuple[float, ...]
    verdict: Verdict
    reported: tuple[Reported, ...]
    crash: Crash
    rough: tuple[str, ...]
    directory: Path

    @property
    def problems(self) -> list[str]:
        """Everything that must not be; empty when all is well."""
        problems = [str(finding) for finding in self.verdict.findings]
        if not self.final_ms:
            problems.append("no transaction was seen to become final")
        for rollup_id, count in self.ledgers.rollups.items():
            delivered = self.verdict.transactions.get(rollup_id, 0)
            # While the demo is kept, others may submit to its nodes too.
            alone = count.submitted == delivered or (self.options.keep and count.submitted < delivered)
            if count.submitted != count.acknowledged or not alone:
                problems.append(
                    f"rollup {rollup_id}: {count.submitted} submitted, {count.acknowledged} acknowledged, "
                    f"{delivered} in order"
                )
            if len(set(self.state_roots(rollup_id).values())) != 1:
                problems.append(f"rollup {rollup_id}: the nodes reported different state roots")
        verified = {(s.home, s.files.rollup_id): s.commitment.hex() for s in self.verdict.states}
        problems += [
            f"{each.home}: rollup {each.rollup_id}: reported {each.state_commitment}, holds something else"
            for each in self.reported
            if verified.get((each.home, each.rollup_id)) != each.state_commitment
        ]
        problems += [f"{name}: did not stop in order when asked to" for name in self.rough]
        return problems

    def state_roots(self, rollup_id: int) -> dict[str, str]:
        """The state root that each node reported."""
        return {each.home: each.state_commitment for each in self.reported if each.rollup_id == rollup_id}

    @property
    def throughput_tps(self) -> float:
        """Confirmed transactions per second between the first submission and the last confirmation."""
        return len(self.ledgers.positions) / max(self.ledgers.last_s - self.ledgers.first_s, 1e-9)


def result_json(result: DemoResult) -> JsonValue:
    """The document of ``--json``."""
    adapters = {state.files.rollup_id: state.files.adapter for state in result.verdict.states}
    latencies, final = result.ledgers.latencies_ms, result.final_ms
    return {
        "agreement": not result.problems,
        "validators": result.options.validators,
        "protocol": result.options.protocol,
        "scheme": result.options.scheme,
        "rollups": [
            {
                "id": rollup_id,
                "adapter": adapters.get(rollup_id, ""),
                "submitted": count.submitted,
                "acknowledged": count.acknowledged,
                "delivered": result.verdict.transactions.get(rollup_id, 0),
                "state_roots": dict(result.state_roots(rollup_id)),
            }
            for rollup_id, count in result.ledgers.rollups.items()
        ],
        "killed": result.crash.killed,
        "down_s": round(result.crash.down_s, 3),
        "catch_up_s": round(result.crash.catch_up_s, 3),
        "latency_ms": {"p50": round(quantile(latencies, 0.5), 2), "p99": round(quantile(latencies, 0.99), 2)},
        "final_ms": {"p50": round(quantile(final, 0.5), 2), "max": round(max(final, default=0.0), 2)},
        "throughput_tps": round(result.throughput_tps, 1),
        "blocks": result.verdict.blocks,
        "resubmitted": result.ledgers.resubmitted,
        "problems": list(result.problems),
    }


def show(result: DemoResult, console: Console) -> None:
    """The same for people."""
    table = Table("rollup", "adapter", "submitted", "in order", "state root, on every node", box=None)
    for rollup_id, count in result.ledgers.rollups.items():
        roots = result.state_roots(rollup_id)
        adapter = next((s.files.adapter for s in result.verdict.states if s.files.rollup_id == rollup_id), "")
        equal = len(set(roots.values())) == 1
        shown = f"[green]{next(iter(roots.values()))[:32]}…[/] on {len(roots)}" if equal else f"[bold red]{roots}[/]"
        table.add_row(str(rollup_id), adapter, str(count.submitted), str(result.verdict.transactions[rollup_id]), shown)
    console.print(table)
    before = result.ledgers.latencies_ms[: result.crash.latencies_before]
    every = result.ledgers.latencies_ms
    console.print(
        f"{result.verdict.blocks} blocks, {result.throughput_tps:.0f} transactions/s; from submission to verified "
        f"receipt p50 {quantile(before, 0.5):.0f} ms, p99 {quantile(before, 0.99):.0f} ms before the crash, "
        f"p50 {quantile(every, 0.5):.0f} ms, p99 {quantile(every, 0.99):.0f} ms with it; "
        f"{result.ledgers.resubmitted} submissions repeated at another node",
        soft_wrap=True,
    )
    console.print(
        f"{len(result.final_ms)} transactions were followed until a proof showed them final: "
        f"p50 {quantile(result.final_ms, 0.5) / 1000:.1f} s, at most {max(result.final_ms, default=0) / 1000:.1f} s "
        f"after their submission, with a checkpoint every {result.verdict.spec.checkpoint_interval} blocks",
        soft_wrap=True,
    )
    console.print(
        f"{escape(result.crash.killed)} was killed with SIGKILL, was down for {result.crash.down_s:.1f} s, and had "
        f"caught up {result.crash.catch_up_s:.1f} s after its restart",
        soft_wrap=True,
    )
    for problem in result.problems:
        console.print(f"[bold red]{escape(problem)}[/]", soft_wrap=True)
    if result.problems:
        console.print(f"[bold red]NO agreement[/]: the homes and logs are in {result.directory}")
    else:
        homes = len(result.verdict.homes)
        console.print(
            f"[bold green]agreement[/]: {homes} archives checked from raw bytes, every certificate verified, every "
            "transaction executed again",
            soft_wrap=True,
        )
