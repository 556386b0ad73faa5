"""``netsim report`` and ``netsim export``: they end with 0 once they have written it, whatever the run shows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, assert_never

import typer

from netsim.cli_files import read, read_schedule, write
from netsim.schedule import Schedule
from netsim.show.diagram import MESSAGES_DRAWN
from netsim.show.page import Shortened, page
from netsim.show.perfetto import perfetto
from netsim.show.picture import picture
from netsim.show.recording import Recorded, record
from netsim.show.shiviz import shiviz
from netsim.shrink import shrink, size_of
from netsim.simulation import Result, run_schedule
from netsim.sweep import Variant, explicit

SHRINKING_RUNS_MAX: Final = 600
"""A report's own search for a shorter schedule; ``netsim shrink`` searches longer."""
MESSAGES_MAX: Final = 20_000

File = Annotated[str, typer.Argument(help="a scenario (.toml), an explicit schedule (.json), or a name of ours")]
Seed = Annotated[int | None, typer.Option(min=-(2**62), max=2**62, help="the seed; else the file's own, or 0")]
Protocol = Annotated[str, typer.Option(help="run this protocol instead of the scenario's")]
ProtocolFile = Annotated[str, typer.Option(help="run the DEFINITION of this Python file (or FILE:NAME)")]
Mutant = Annotated[str, typer.Option("--mutant", help="run one of the mutants, e.g. S7-jolteon")]
Messages = Annotated[int, typer.Option(min=1, max=MESSAGES_MAX, help="draw at most so many messages")]


class Format(StrEnum):
    """What ``export`` writes."""

    PERFETTO = "perfetto"
    SHIVIZ = "shiviz"
    SVG = "svg"


def schedule_of(file: str, seed: int | None, variant: Variant) -> Schedule:
    """The explicit schedule that a command line names. Raises :class:`BadSchedule`."""
    scenario = read(file, variant)
    return explicit(scenario, variant, scenario.base.seed if seed is None else seed)


def run_recorded(schedule: Schedule, variant: Variant) -> Recorded:
    """Run it with everything written down."""
    definition, keep, replica = variant.resolve(schedule.protocol)
    return record(schedule, definition=definition, keep=keep, make_replica=replica)


def shortest(recorded: Recorded, variant: Variant) -> tuple[Recorded, Shortened]:
    """The shortest run found in which the same oracle fires."""

    def run(schedule: Schedule) -> Result:
        definition, keep, replica = variant.resolve(schedule.protocol)
        return run_schedule(schedule, definition=definition, keep=keep, make_replica=replica)

    shrunk = shrink(recorded.result.schedule, run, runs_max=SHRINKING_RUNS_MAX)
    shortened = Shortened(before=shrunk.size_before, after=shrunk.size_after, runs=shrunk.runs)
    return run_recorded(shrunk.schedule, variant), shortened


def replay_command(variant: Variant) -> str:
    """What gives the shown run again, once its schedule is saved."""
    options = (("--mutant", variant.mutant), ("--protocol-file", variant.file))
    return " ".join(["netsim replay schedule.json", *(f"{name} {value}" for name, value in options if value)])


def report(
    file: File,
    seed: Seed = None,
    schedule: Annotated[
        str, typer.Option(help="show this shorter schedule of it (.json, from shrink) and search for none")
    ] = "",
    out: Annotated[str, typer.Option("-o", "--out", help="the page to write")] = "report.html",
    messages: Messages = MESSAGES_DRAWN,
    protocol: Protocol = "",
    protocol_file: ProtocolFile = "",
    mutant: Mutant = "",
) -> None:
    """Write one self-contained HTML page about a run; when an oracle fires, about the shortest that makes it fire."""
    variant = Variant(name=protocol, file=protocol_file, mutant=mutant)
    found = schedule_of(file, seed, variant)
    shortened = None
    if schedule:
        given = read_schedule(schedule, variant)
        shortened = Shortened(before=size_of(found), after=size_of(given), runs=0)
        recorded = run_recorded(given, variant)
    else:
        recorded = run_recorded(found, variant)
        if not recorded.result.silent:
            recorded, shortened = shortest(recorded, variant)
    ran = f"mutant {variant.mutant}" if variant.mutant else variant.file
    html = page(recorded, replay=replay_command(variant), protocol=ran, limit=messages, shortened=shortened)
    write("--out", out, html)
    typer.echo(f"{out}: {recorded.result.verdict}, {len(recorded.messages)} messages")


def export(
    file: File,
    out: Annotated[str, typer.Option("-o", "--out", help="the file to write")],
    form: Annotated[Format, typer.Option("--format", help="the tool that reads it")] = Format.PERFETTO,
    seed: Seed = None,
    messages: Messages = MESSAGES_DRAWN,
    protocol: Protocol = "",
    protocol_file: ProtocolFile = "",
    mutant: Mutant = "",
) -> None:
    """Write a run for another tool: Perfetto or chrome://tracing, ShiViz, or a picture (--messages: its most)."""
    variant = Variant(name=protocol, file=protocol_file, mutant=mutant)
    recorded = run_recorded(schedule_of(file, seed, variant), variant)
    match form:
        case Format.PERFETTO:
            write("--out", out, perfetto(recorded))
        case Format.SHIVIZ:
            write("--out", out, shiviz(recorded))
        case Format.SVG:
            write("--out", out, picture(recorded, messages))
        case _:
            assert_never(form)
    typer.echo(f"{out}: {recorded.result.verdict}, {len(recorded.messages)} messages")


def register(app: typer.Typer) -> None:
    """Add both commands to the program."""
    app.command()(report)
    app.command()(export)
