"""The command ``netsim``. Exit status: 0 silent, 1 violations found, 2 bad input (with the path of the bad key), 3
an error of ours."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consensus.protocols.registry import protocol_names
from netsim import cli_findings, cli_suite
from netsim.actors.registry import actor_kinds
from netsim.checks import Caught, check_determinism, scenario_paths, try_mutants
from netsim.cli_files import folder, read, read_schedule, write
from netsim.mutants.registry import CONTROLS, MUTANTS
from netsim.oracles.registry import ORACLE_IDS
from netsim.scenario import load
from netsim.schedule import BadSchedule
from netsim.simulation import Result, run_schedule
from netsim.sweep import Batch, Sweep, Variant, executor_named, explicit, run_seed
from netsim.sweep import sweep as run_sweep

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
cli_findings.register(app)
cli_suite.register(app)
_errors = Console(stderr=True)

FileArgument = Annotated[
    str, typer.Argument(help="a scenario (.toml), an explicit schedule (.json), or a name of ours")
]
Seed = Annotated[int | None, typer.Option(min=-(2**62), max=2**62, help="the seed; else the file's own, or 0")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on standard output")]
Protocol = Annotated[str, typer.Option(help="run this protocol instead of the scenario's")]
ProtocolFile = Annotated[str, typer.Option(help="run the DEFINITION of this Python file (or FILE:NAME)")]
MutantOption = Annotated[str, typer.Option("--mutant", help="run one of the mutants, e.g. S7-jolteon")]


def say(document: Any) -> None:
    """One JSON document."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")


def summary(result: Result) -> dict[str, Any]:
    """What ``run`` prints."""
    return {
        "verdict": result.verdict,
        "violations": [msgspec.to_builtins(violation) for violation in result.violations],
        "commits": result.commits,
        "virtual_s": result.virtual_ns / 1e9,
        "events": result.events,
        "deliveries": result.deliveries,
        "trace_hash": result.trace_hash,
    }


def show(result: Result, as_json: bool) -> None:
    """Print a result and leave with its status."""
    if as_json:
        say(summary(result))
    else:
        typer.echo(
            f"{result.verdict}: {result.commits} commits, {result.deliveries} deliveries in "
            f"{result.virtual_ns / 1e9:.3f} virtual seconds, trace {result.trace_hash[:16]}"
        )
        for violation in result.violations:
            typer.echo(f"  {violation.oracle} at {violation.at_ns / 1e6:.3f} ms: {violation.text}")
    raise typer.Exit(0 if result.silent else 1)


@app.command()
def run(
    file: FileArgument,
    seed: Seed = None,
    json: Json = False,
    protocol: Protocol = "",
    protocol_file: ProtocolFile = "",
    mutant: MutantOption = "",
    out: Annotated[str, typer.Option(help="write the explicit schedule here")] = "",
) -> None:
    """Run a scenario with one seed."""
    variant = Variant(name=protocol, file=protocol_file, mutant=mutant)
    scenario = read(file, variant)
    result = run_seed(scenario, variant, scenario.base.seed if seed is None else seed)
    if out:
        write("--out", out, result.schedule.to_json())
    show(result, json)


@app.command()
def replay(
    file: Annotated[str, typer.Argument(help="an explicit schedule (.json)")],
    json: Json = False,
    protocol_file: ProtocolFile = "",
    mutant: MutantOption = "",
) -> None:
    """Run an explicit schedule again."""
    variant = Variant(file=protocol_file, mutant=mutant)
    schedule = read_schedule(file, variant)
    definition, keep, replica = variant.resolve(schedule.protocol)
    show(run_schedule(schedule, definition=definition, keep=keep, make_replica=replica), json)


def seeds_of(text: str) -> range:
    """``A:B``, from A up to and without B."""
    found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise BadSchedule(f"--seeds: {text!r} is not A:B with A below B")
    return range(int(found[1]), int(found[2]))


@app.command()
def sweep(
    file: FileArgument,
    seeds: Annotated[str, typer.Option(help="A:B, from A up to and without B")],
    jobs: Annotated[int, typer.Option(min=1, help="workers")] = os.cpu_count() or 1,
    executor: Annotated[str, typer.Option(help="process, or dask://host:port")] = "process",
    json: Json = False,
    protocol: Protocol = "",
    protocol_file: ProtocolFile = "",
    mutant: MutantOption = "",
    out: Annotated[str, typer.Option(help="append each batch to this JSON lines file")] = "",
    schedules: Annotated[str, typer.Option(help="write the explicit schedules of findings into this folder")] = "",
    stop: Annotated[bool, typer.Option(help="stop at the first finding")] = False,
) -> None:
    """Run a scenario with many seeds. Ctrl-C keeps what was found."""
    variant = Variant(name=protocol, file=protocol_file, mutant=mutant)
    scenario, wanted = read(file, variant), seeds_of(seeds)
    if out:
        write("--out", out, b"", append=True)
    findings = folder("--schedules", schedules) if schedules else None
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=_errors, disable=json) as progress, executor_named(executor, jobs) as workers:
        task = progress.add_task("", total=len(wanted), rate="")

        def told(total: Sweep, batch: Batch) -> None:
            if out:
                line = msgspec.json.encode({"file": file, **msgspec.to_builtins(batch)}) + b"\n"
                write("--out", out, line, append=True)
            rate = f"{batch.schedules / max(batch.seconds, 1e-9):.0f}/s a worker, {total.violations} found"
            progress.update(task, completed=total.schedules, rate=rate)

        total = run_sweep(scenario, variant, wanted, executor=workers, jobs=jobs, told=told, stop_at_first=stop)
    if findings is not None:
        for finding in total.findings:
            found = explicit(scenario, variant, finding.seed).replace(expect=finding.oracle)
            write("--schedules", findings / f"{finding.oracle}-{finding.seed}.json", found.to_json())
    report_sweep(total, json)
    raise typer.Exit(1 if total.violations else 0)


def report_sweep(total: Sweep, as_json: bool) -> None:
    """The summary of a sweep."""
    seconds = max(total.seconds, 1e-9)
    rates = sorted(total.rates) or [0.0]
    percentiles = {
        str(percent): round(rates[min(len(rates) * percent // 100, len(rates) - 1)], 1) for percent in (5, 50, 95)
    }
    document = {
        "schedules": total.schedules,
        "violations": total.violations,
        "schedules_per_s": round(total.schedules / seconds, 1),
        "deliveries_per_s": round(total.deliveries / seconds),
        "findings": [msgspec.to_builtins(finding) for finding in total.findings],
        "batch_rate_percentiles": percentiles,
    }
    if as_json:
        say(document)
        return
    typer.echo(
        f"{total.schedules} schedules, {total.violations} violations, {total.schedules / seconds:.0f} schedules/s, "
        f"{total.deliveries / seconds:.0f} deliveries/s; a worker's rate at 5/50/95 percent: "
        f"{'/'.join(map(str, percentiles.values()))}"
    )
    for finding in total.findings:
        typer.echo(f"  seed {finding.seed}: {finding.oracle}: {finding.text}")


@app.command()
def mutants(
    json: Json = False,
    budget: Annotated[int, typer.Option(min=1, help="schedules per mutant")] = 20_000,
    only: Annotated[str, typer.Option(help="one mutant, e.g. S7-jolteon, one id, or one protocol")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="workers")] = os.cpu_count() or 1,
) -> None:
    """Show that each mutant is caught."""
    chosen = [mutant for mutant in MUTANTS if not only or only in (mutant.id, mutant.name, mutant.protocol)]
    if not chosen:
        raise BadSchedule(f"--only: there is no mutant {only!r}")
    found: list[Caught] = []
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[last]}"))
    with Progress(*columns, console=_errors, disable=json) as progress, executor_named("process", jobs) as workers:
        task = progress.add_task("", total=len(chosen), last="")
        for caught in try_mutants(chosen, budget, workers):
            found.append(caught)
            views = "" if caught.minimal_views is None else f", {caught.minimal_views} views"
            word = f"{caught.oracle} after {caught.schedules}, seed {caught.seed}{views}"
            text = f"{caught.id:4} {caught.protocol:13} {word if caught.caught else 'NOT CAUGHT'}"
            progress.update(task, advance=1, last=f"{sum(not one.caught for one in found)} not caught")
            if not json:
                typer.echo(text)
    if json:
        say(found)
    raise typer.Exit(0 if all(caught.caught for caught in found) else 1)


@app.command("check-determinism")
def determinism(json: Json = False) -> None:
    """Run every shipped scenario in two processes under two PYTHONHASHSEEDs and compare the traces."""
    scenarios, different = check_determinism()
    if json:
        say({"scenarios": scenarios, "identical": not different})
    else:
        typer.echo(f"{scenarios} scenarios, {'identical' if not different else 'different: ' + ', '.join(different)}")
    raise typer.Exit(1 if different else 0)


@app.command("list")
def list_all() -> None:
    """What there is: protocols, scenarios, actors, oracles, mutants."""
    for name in protocol_names():
        typer.echo(f"protocol {name}")
    for path in scenario_paths():
        typer.echo(f"scenario {path.stem:24} {load(path).text}")
    for kind in actor_kinds():
        typer.echo(f"actor {kind}")
    for oracle in ORACLE_IDS:
        typer.echo(f"oracle {oracle}")
    for mutant in MUTANTS:
        where = mutant.scenario if mutant.rule is None else "histories of votes"
        typer.echo(f"mutant {mutant.name:14} {mutant.change} ({where})")
    for identity, scenario in CONTROLS:
        typer.echo(f"control {identity}: {scenario}")


def main() -> None:
    """The entry point."""
    command: Callable[..., Any] = app
    try:
        command()
    except BadSchedule as error:
        _errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except Exception:  # whatever it is: it is shown whole, and ends the program
        # With Python's own status, 1, an error of ours would read as a finding.
        traceback.print_exc()
        sys.exit(3)
