"""The commands that take a finding apart or bring scenarios in: shrink, homes, twins, import."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from netsim.cli_files import folder, read, read_schedule, write
from netsim.imports import import_twins
from netsim.schedule import BadSchedule, Schedule
from netsim.show import commands
from netsim.shrink import RUNS_MAX, Run, shrink
from netsim.simulation import Result, run_schedule
from netsim.sweep import Variant, explicit
from netsim.twins import Shape, sample, scenarios, schedule_of
from netsim.validation import read_bytes
from netsim.words import in_words

if TYPE_CHECKING:
    from netsim.homes import Split

FileArgument = Annotated[str, typer.Argument(help="an explicit schedule (.json)")]
ProtocolFile = Annotated[str, typer.Option(help="run the DEFINITION of this Python file (or FILE:NAME)")]
MutantOption = Annotated[str, typer.Option("--mutant", help="run one of the mutants, e.g. S7-jolteon")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on standard output")]


def runner(variant: Variant) -> Run:
    """Runs schedules with the variant's protocol."""

    def run(schedule: Schedule) -> Result:
        definition, keep, replica = variant.resolve(schedule.protocol)
        return run_schedule(schedule, definition=definition, keep=keep, make_replica=replica)

    return run


def shrink_command(
    file: FileArgument,
    out: Annotated[str, typer.Option(help="write the shortest schedule here")] = "",
    protocol_file: ProtocolFile = "",
    mutant: MutantOption = "",
    runs: Annotated[int, typer.Option(min=1, help="runs at most")] = RUNS_MAX,
    json: Json = False,
) -> None:
    """Find the shortest schedule that still makes the same oracle fire."""
    variant = Variant(file=protocol_file, mutant=mutant)
    schedule = read_schedule(file, variant)
    try:
        shrunk = shrink(schedule, runner(variant), runs_max=runs)
    except ValueError as error:
        raise BadSchedule(f"{file}: {error}") from None
    if out:
        write("--out", out, shrunk.schedule.to_json())
    document = {
        "oracle": shrunk.oracle,
        "seed": shrunk.schedule.seed,
        "trace_hash": shrunk.result.trace_hash,
        "runs": shrunk.runs,
        "size_before": shrunk.size_before,
        "size_after": shrunk.size_after,
        "views": max(shrunk.result.views),
    }
    if json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        return
    typer.echo(
        f"{shrunk.oracle}: {shrunk.size_before} parts became {shrunk.size_after} in {shrunk.runs} runs, "
        f"{document['views']} views; seed {shrunk.schedule.seed}, trace {shrunk.result.trace_hash[:16]}"
    )
    for text in in_words(shrunk.schedule):
        typer.echo(f"  {text}")


def _run_all(schedules: Iterable[Schedule], variant: Variant, found: str, as_json: bool) -> None:
    run = runner(variant)
    findings = folder("--schedules", found) if found else None
    count = violations = commits = 0
    for number, schedule in enumerate(schedules):
        result = run(schedule)
        count += 1
        commits += result.commits
        if not result.silent:
            violations += 1
            if findings is not None:
                explicit = schedule.replace(expect=result.verdict)
                write("--schedules", findings / f"{result.verdict}-{number}.json", explicit.to_json())
            if not as_json and violations <= 10:
                typer.echo(f"  {number}: {result.verdict}: {result.violations[0].text}")
    if as_json:
        document = {"schedules": count, "violations": violations, "commits": commits}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        typer.echo(f"{count} schedules, {violations} violations, {commits} commits")
    raise typer.Exit(1 if violations else 0)


def twins_command(
    nodes: Annotated[int, typer.Option(min=1, max=10)] = 4,
    twins: Annotated[int, typer.Option(min=0, max=3)] = 1,
    partitions: Annotated[int, typer.Option(min=1, max=5)] = 2,
    views: Annotated[int, typer.Option(min=1, max=20)] = 4,
    limit: Annotated[int, typer.Option(min=1, help="scenarios at most")] = 1000,
    seed: Annotated[int, typer.Option(help="draw scenarios with this seed; -1: all, in order")] = -1,
    protocol: Annotated[str, typer.Option(help="the protocol")] = "jolteon",
    protocol_file: ProtocolFile = "",
    mutant: MutantOption = "",
    schedules: Annotated[str, typer.Option(help="write findings into this folder")] = "",
    json: Json = False,
) -> None:
    """Generate Twins scenarios, one of each symmetry class, and run them."""
    if twins > nodes:
        raise BadSchedule(f"--twins: {twins} twins of {nodes} nodes")
    shape = Shape(nodes=nodes, twins=twins, partitions=partitions, views=views)
    steps = islice(scenarios(shape), limit) if seed < 0 else sample(shape, seed, limit)
    made = (schedule_of(shape, chosen, protocol) for chosen in steps)
    _run_all(made, Variant(file=protocol_file, mutant=mutant), schedules, json)


def import_command(
    file: Annotated[str, typer.Argument(help="a Twins JSON file of relab/hotstuff or asonnino/twins-simulator")],
    protocol: Annotated[str, typer.Option(help="the protocol")] = "jolteon",
    protocol_file: ProtocolFile = "",
    mutant: MutantOption = "",
    out: Annotated[str, typer.Option(help="write the explicit schedules into this folder, and do not run them")] = "",
    schedules: Annotated[str, typer.Option(help="write findings into this folder")] = "",
    json: Json = False,
) -> None:
    """Read public Twins scenarios; run them, or write them as explicit schedules."""
    imported = import_twins(read_bytes(Path(file)), Path(file).name, protocol)
    if not out:
        _run_all(imported, Variant(file=protocol_file, mutant=mutant), schedules, json)
    written = folder("--out", out)
    for number, schedule in enumerate(imported):
        write("--out", written / f"{Path(file).stem}-{number}.json", schedule.to_json())
    sys.stdout.write(f'{{"schedules":{len(imported)}}}\n' if json else f"{len(imported)} schedules in {out}\n")


def homes_command(
    file: Annotated[str, typer.Argument(help="a scenario (.toml), an explicit schedule (.json), or a name of ours")],
    out: Annotated[str, typer.Option(help="write the homes into this folder")],
    seed: Annotated[int | None, typer.Option(min=-(2**62), max=2**62, help="the seed; else the file's, or 0")] = None,
    protocol: Annotated[str, typer.Option(help="run this protocol instead of the scenario's")] = "",
    json: Json = False,
) -> None:
    """Write what the honest nodes have on their disks when a chain has split, or at the end of the run: homes for
    ``sequencer evidence extract``. Judged by A1 and A2 alone."""
    from netsim.homes import write_homes  # what a node is made of: no other command needs it

    variant = Variant(name=protocol)
    scenario = read(file, variant)
    wanted = scenario.base.seed if seed is None else seed
    written = write_homes(explicit(scenario, variant, wanted), folder("--out", out))
    split, result = written.split, written.result
    if json:
        document = {
            "verdict": result.verdict,
            "violations": [msgspec.to_builtins(violation) for violation in result.violations],
            "homes": [str(home) for home in written.homes],
            "split": None if split is None else {"height": split.height, "homes": [str(each) for each in split[1:]]},
        }
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        typer.echo(f"{len(written.homes)} honest nodes: {', '.join(str(home) for home in written.homes)}")
        for violation in result.violations:
            typer.echo(f"  {violation.oracle} at {violation.at_ns / 1e6:.3f} ms: {violation.text}")
        typer.echo("they agree: no split" if split is None else _next_step(split, written.homes, Path(out) / "proofs"))
    raise typer.Exit(0 if result.silent else 1)


def _next_step(split: Split, homes: Sequence[Path], proofs: Path) -> str:
    further = [word for home in homes if home not in split[1:] for word in ("--transcript", home)]
    words = ("sequencer", "evidence", "extract", *split[1:], *further, "--out", proofs)
    command = " ".join(shlex.quote(str(word)) for word in words)
    return f"the chain splits at height {split.height}. Who did it?\n  {command}"


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("shrink")(shrink_command)
    app.command("homes")(homes_command)
    app.command("twins")(twins_command)
    app.command("import")(import_command)
    commands.register(app)
