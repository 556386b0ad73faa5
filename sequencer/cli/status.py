"""``sequencer status``: where nodes stand."""

from __future__ import annotations

from typing import Annotated, cast

import httpx
import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNREACHABLE, CommandError, failures, out, print_json
from sequencer.cli.target import TIMEOUT_S, Target, reach, refused, target_of


class _Link(msgspec.Struct, frozen=True):
    name: str
    connected: bool = False
    self_: bool = msgspec.field(name="self", default=False)


class _Pool(msgspec.Struct, frozen=True):
    rollup_id: int
    transactions: int


class _Adapter(msgspec.Struct, frozen=True):
    rollup_id: int
    adapter: str
    alive: bool
    delivered_height: int
    state_commitment: str


class _Status(msgspec.Struct, frozen=True):
    name: str
    role: str
    epoch: int
    view_name: str
    ledger_height: int
    final_height: int
    seen_height: int
    timeouts: int
    evidence: int
    ready: bool
    unready_reasons: tuple[str, ...]
    validators: tuple[_Link, ...]
    mempool: tuple[_Pool, ...]
    adapters: tuple[_Adapter, ...]


def command(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...", help="Homes, or addresses of APIs (http://...).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document: what each node says.")] = False,
) -> None:
    """Show where nodes stand: height, view, connections, adapters.

    Exits with 4 when a node does not answer, with 1 when one is not ready.
    """
    with failures():
        targets = [target_of(node) for node in nodes]
        answers: dict[str, bytes | CommandError] = {}
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
            for target in targets:
                answers[target.name] = _ask(client, target)
        statuses = {name: _status(answer) for name, answer in answers.items() if isinstance(answer, bytes)}
        silent = {name: str(answer) for name, answer in answers.items() if isinstance(answer, CommandError)}
        if as_json:
            said = {name: msgspec.json.decode(answer) for name, answer in answers.items() if isinstance(answer, bytes)}
            print_json(cast("JsonValue", {"nodes": said, "unreachable": silent}))
        else:
            _show(statuses, silent, out())
        if silent:
            raise typer.Exit(UNREACHABLE)
        if not all(status.ready for status in statuses.values()):
            raise typer.Exit(NO)


def _ask(client: httpx.Client, target: Target) -> bytes | CommandError:
    try:
        response = reach(client, client.build_request("GET", f"{target.api}/v1/status"))
    except CommandError as error:
        return error
    return response.content if response.status_code == 200 else refused(response)


def _status(document: bytes) -> _Status:
    try:
        return msgspec.json.decode(document, type=_Status)
    except msgspec.DecodeError as error:
        raise CommandError(f"what answers is no node of this version: {error}", UNREACHABLE) from None


def _show(statuses: dict[str, _Status], silent: dict[str, str], console: Console) -> None:
    table = Table(
        "node",
        "role",
        "",
        "height",
        "final",
        "epoch",
        "view",
        "timeouts",
        "validators",
        "pending",
        "executed",
        box=None,
    )
    for status in statuses.values():
        reached = sum(link.connected or link.self_ for link in status.validators)
        table.add_row(
            escape(status.name),
            status.role,
            "[green]ready[/]" if status.ready else "[yellow]not ready[/]",
            f"{status.ledger_height}"
            + (f" of {status.seen_height}" if status.seen_height > status.ledger_height + 1 else ""),
            str(status.final_height),
            str(status.epoch),
            status.view_name,
            str(status.timeouts),
            f"{reached} of {len(status.validators)}",
            "  ".join(f"{each.rollup_id}: {each.transactions}" for each in status.mempool),
            "  ".join(_executed(each) for each in status.adapters),
        )
    console.print(table)
    for status in statuses.values():
        for reason in status.unready_reasons:
            console.print(f"[yellow]{escape(status.name)}: {escape(reason)}[/]", soft_wrap=True)
        if status.evidence:
            where = "in evidence/ of its data directory"
            console.print(f"[bold red]{escape(status.name)}: holds {status.evidence} proofs of guilt, {where}[/]")
    for name, reason in silent.items():
        console.print(f"[bold red]{escape(name)}[/]: {escape(reason)}", soft_wrap=True)


def _executed(adapter: _Adapter) -> str:
    if not adapter.alive:
        return f"{adapter.rollup_id} {adapter.adapter}: [bold red]down[/]"
    return f"{adapter.rollup_id} {adapter.adapter}: {adapter.delivered_height} {adapter.state_commitment[:8]}"
