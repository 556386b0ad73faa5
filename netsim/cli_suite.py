"""The command ``netsim suite``: a protocol is held to the contract, check by check, as in a table."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from netsim.cli_files import folder
from netsim.schedule import BadSchedule
from netsim.suite import Outcome, Report, run_suite
from netsim.suite.subject import FILE_MODULE, SCHEDULES, Origin
from netsim.sweep import Variant, file_and_name


def suite_command(
    protocol: Annotated[str, typer.Option(help="a registered protocol")] = "",
    protocol_file: Annotated[str, typer.Option(help="the DEFINITION of this Python file (or FILE:NAME)")] = "",
    budget: Annotated[int, typer.Option(min=1, help="random schedules that the checks share")] = SCHEDULES,
    seed: Annotated[int, typer.Option(min=0, max=2**61, help="the first seed")] = 0,
    schedules: Annotated[str, typer.Option(help="write the explicit schedules of failures into this folder")] = "",
    json: Annotated[bool, typer.Option("--json", help="one JSON document on standard output")] = False,
) -> None:
    """Hold a protocol to the contract: the checks that ``protocol_suite`` gives to pytest."""
    if bool(protocol) == bool(protocol_file):
        raise BadSchedule("suite: name the protocol by either --protocol or --protocol-file")
    definition = Variant(name=protocol, file=protocol_file).resolve(protocol).definition
    origin = None
    if protocol_file:
        path, name = file_and_name(protocol_file)
        origin = Origin(module=FILE_MODULE, file=str(path.resolve()), name=name)
    errors = Console(stderr=True)

    def told(outcome: Outcome) -> None:
        if not json:
            errors.print(f"{outcome.check}: {'passed' if outcome.passed else 'FAILED'}", highlight=False)

    where = folder("--schedules", schedules) if schedules else None
    report = run_suite(definition, schedules=budget, seed=seed, folder=where, origin=origin, told=told)
    if json:
        sys.stdout.write(msgspec.json.encode({"passed": report.passed, **msgspec.to_builtins(report)}).decode() + "\n")
    else:
        show(report)
    raise typer.Exit(0 if report.passed else 1)


def show(report: Report) -> None:
    """The table, and what failed in full below it."""
    console = Console(width=120 if not sys.stdout.isatty() else None)
    table = Table(title=f"{report.protocol}: {sum(each.passed for each in report.outcomes)} of {len(report.outcomes)}")
    table.add_column("check")
    table.add_column("result")
    table.add_column("CPU s", justify="right")
    table.add_column("broken rule")
    for outcome in report.outcomes:
        rule = outcome.text.partition("\n")[0]
        table.add_row(outcome.check, "passed" if outcome.passed else "FAILED", f"{outcome.seconds:.2f}", rule)
    console.print(table)
    for outcome in report.outcomes:
        if not outcome.passed:
            console.print(f"\n{outcome.check}: {outcome.text}", markup=False, highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("suite")(suite_command)
