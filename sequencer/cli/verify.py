"""``sequencer verify``: shows what :mod:`sequencer.verify` computes; ``--light`` is in ``verify_light.py``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNUSABLE, CommandError, failures, out, print_json, stage_progress
from sequencer.cli.verify_light import light_command
from sequencer.verify import Verdict, home_of, verify


def command(
    homes: Annotated[
        list[Path],
        typer.Argument(
            metavar="HOME...",
            help="Homes of stopped nodes, or copies of them; with --light also archives (chain.db), receipts, sections "
            "and block summaries, and what /v1/epochs answers.",
        ),
    ],
    light: Annotated[
        bool, typer.Option("--light", help="From headers and commit proofs alone, without bodies; needs --genesis.")
    ] = False,
    genesis: Annotated[
        Path | None, typer.Option("--genesis", metavar="GENESIS", help="With --light: the genesis.json to trust.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="HEIGHT:ID", help="With --light: a block to trust.")
    ] = None,
    age_s_max: Annotated[
        int | None, typer.Option("--max-age", metavar="SECONDS", min=1, help="With --light: how old the head may be.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compute from the archives alone whether these nodes agree: hashes, certificates, order, and state.

    The nodes must be stopped. Exits with 1 when anything disagrees or was changed, and names home, height and field.
    """
    if light:
        if genesis is None:
            raise typer.BadParameter("--light needs --genesis: it is all that is trusted")
        light_command(homes, genesis, checkpoint, age_s_max, as_json=as_json)
        return
    if genesis is not None or checkpoint is not None or age_s_max is not None:
        raise typer.BadParameter("--genesis, --checkpoint and --max-age belong to --light; homes bring their genesis")
    with failures():
        opened = [home_of(home) for home in homes]
        if len({home.name for home in opened}) != len(opened):
            raise CommandError("two homes have the same directory name; rename a copy", UNUSABLE)
        with stage_progress(enabled=not as_json) as progress:
            verdict = trio.run(partial(verify, opened, progress=progress))
        if as_json:
            print_json(verdict_json(verdict))
        else:
            show(verdict, out())
        if not verdict.agreement:
            raise typer.Exit(NO)


def verdict_json(verdict: Verdict) -> JsonValue:
    """The document of ``--json``."""
    return {
        "agreement": verdict.agreement,
        "genesis_hash": verdict.spec.hash.hex(),
        "chain_id": verdict.spec.chain_id,
        "protocol": verdict.spec.protocol,
        "scheme": verdict.spec.scheme,
        "validators": len(verdict.spec.validators),
        "height": verdict.height,
        "epoch": verdict.epoch,
        "blocks": verdict.blocks,
        "homes": [
            {
                "name": home.name,
                "pruned_below": home.pruned_below,
                "height": home.height,
                "blocks": home.blocks,
                "proofs": home.proofs,
            }
            for home in verdict.homes
        ],
        "rollups": [
            {
                "id": rollup_id,
                "transactions": count,
                "states": [
                    {
                        "home": state.home,
                        "adapter": state.files.adapter,
                        "height": state.cursor,
                        "state_commitment": state.commitment.hex(),
                        "executed_anew": None if state.expected is None else state.expected.hex(),
                    }
                    for state in verdict.states
                    if state.files.rollup_id == rollup_id
                ],
            }
            for rollup_id, count in sorted(verdict.transactions.items())
        ],
        "findings": [
            {"home": each.home, "height": each.height, "field": each.field, "reason": each.reason}
            for each in verdict.findings
        ],
        "notes": list(verdict.notes),
    }


def show(verdict: Verdict, console: Console) -> None:
    """The same for people."""
    spec = verdict.spec
    console.print(
        f"Chain [bold]{escape(spec.chain_id)}[/] ({spec.hash.hex()[:16]}…): {spec.protocol}, {spec.scheme}, "
        f"{len(spec.validators)} validators"
    )
    table = Table("home", "heights", "blocks", "proofs", *(f"rollup {each}: state" for each in spec.rollups), box=None)
    for home in verdict.homes:
        states = []
        for rollup_id in spec.rollups:
            found = [s for s in verdict.states if s.home == home.name and s.files.rollup_id == rollup_id and s.cursor]
            equal = {None: "?", True: "[green]=[/]", False: "[red]≠[/]"}
            states.append(" ".join(f"{s.commitment.hex()[:12]} {equal[s.equal]} at {s.cursor}" for s in found) or "-")
        heights = f"{home.pruned_below}-{home.height}" if home.blocks else "-"
        table.add_row(escape(home.name), heights, str(home.blocks), str(home.proofs), *states)
    console.print(table)
    for rollup_id, count in sorted(verdict.transactions.items()):
        console.print(f"rollup {rollup_id}: {count} transactions in order")
    for note in verdict.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    for finding in verdict.findings:
        console.print(f"[bold red]{escape(str(finding))}[/]", soft_wrap=True)
    if verdict.agreement:
        console.print(
            f"[bold green]agreement[/] up to height {verdict.height}: every header, certificate, body and state was "
            "computed anew"
        )
    else:
        console.print("[bold red]NO agreement[/]: see above")
