"""``sequencer signer import | export``: signing histories in and out, as EIP-3076's interchange files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from consensus.slashing_rules import SigningHistory
from consensus.types import INTEGER_MAX, Slot
from rollup_adapters.base import JsonValue
from sequencer.cli.console import UNUSABLE, CommandError, err, failures, out, print_json
from sequencer.signer.authority import proposal_slot
from sequencer.slashing_interchange import InterchangeError, genesis_validators_root_of, parse_interchange
from sequencer.slashing_protection import Merged, SlashingProtection
from sequencer.storage import InUseError

FILE_BYTES_MAX: Final = 512 * 1024 * 1024
"""About 2.5 million attestations: a complete history of one key takes 16 MB a year."""

Database = Annotated[
    Path, typer.Option("--database", metavar="PATH", help="The slashing protection database of the stopped signer.")
]

DEPTH_MAX: Final = 16
_NO_BOUND: Final = Slot(0, 0, 0)
_BRACKETS_OR_TEXT: Final = re.compile(rb'[\[\]{}]|"(?:[^"\\]|\\.)*"', re.DOTALL)


def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An EIP-3076 interchange file, version 5.")],
    database: Database,
    votes_from_epoch: Annotated[
        int | None,
        typer.Option(
            help="For sequencer signer run: in all epochs below, no key of the database signs anything any more. Name "
            "one in which no key of FILE has voted.",
            min=0,
            max=INTEGER_MAX,
            show_default=False,
        ),
    ] = None,
    votes_from_view: Annotated[
        int, typer.Option(help="The same within that epoch, where a chain has only one.", min=0, max=INTEGER_MAX)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Add what keys signed elsewhere; the database is made if there is none.

    All of FILE is imported or nothing. Afterwards nothing is signed up to FILE's lowest messages, nor what contradicts
    any of them. Stop every signer of these keys before FILE is exported, and start the new one after the import.

    FILE holds proposals and votes of finality, and no other votes. A signing process of ours starts on the database
    only when --votes-from-epoch said from where on no other votes are missing.
    """
    with failures():
        besides_from = _besides_from(votes_from_epoch, votes_from_view)
        document = _read(file)
        try:
            root = genesis_validators_root_of(document)
            histories = parse_interchange(document, root)  # before a database is made for it
            if besides_from is not None:
                _check_bound(file, histories, besides_from)
            if not database.exists():
                SlashingProtection.open(database, root).close()
            with _alone(database) as protection:
                if besides_from is not None:
                    # What an import without a bound brought, another file does not make whole.
                    held = protection.export_interchange(minimal=True)
                    known = parse_interchange(held, protection.genesis_validators_root)
                    _check_bound(database, known, besides_from)
                merged = protection.import_interchange(document, raise_bounds=True, besides_from=besides_from)
        except InterchangeError as error:
            raise CommandError(f"{file}: {str(error).rstrip('.')}. Nothing was imported.", UNUSABLE) from None
        if as_json:
            print_json(
                {
                    "database": str(database),
                    "genesis_validators_root": f"0x{root.hex()}",
                    "keys": merged.keys,
                    "blocks": merged.blocks,
                    "attestations": merged.attestations,
                    "contradictions": merged.contradictions,
                }
            )
        else:
            _say(merged, database, whole=besides_from is not None)


def export_command(
    database: Database,
    minimal: Annotated[
        bool, typer.Option("--minimal", help="One block and one attestation per key that stand for everything.")
    ] = False,
) -> None:
    """Print what the keys signed, as one EIP-3076 document (JSON), for import into another signer.

    The signer must be stopped and must not sign again: the next signature makes the export outdated.
    """
    with failures(), _alone(database) as protection:
        print_json(protection.export_interchange(minimal=minimal))
        besides = protection.kinds_besides()
        if besides:
            kinds = ", ".join(map(escape, besides))
            err().print(
                f"[yellow]{escape(str(database))} also remembers subjects of the kinds {kinds}, which EIP-3076 does "
                "not know.[/] To move the keys to another signing process of this chain, move the database itself.",
                soft_wrap=True,
            )


def _besides_from(epoch: int | None, view: int) -> Slot | None:
    if epoch is None and view:
        raise CommandError("--votes-from-view: give --votes-from-epoch as well; a chain begins with epoch 0", 2)
    return None if epoch is None else Slot(epoch, view, 0)


def _check_bound(source: Path, histories: Sequence[SigningHistory], named: Slot) -> None:
    """A key that proposed in a view has most likely voted in it; one that signed anything has voted."""
    proposed = max((block.slot for history in histories for block in history.blocks), default=None)
    if proposed is not None and named <= (last := proposal_slot(proposed)):
        raise _bound_too_low(
            source, f"a proposal of epoch {last.epoch}, view {last.major}, so its keys have voted there"
        )
    if named == _NO_BOUND and any(history.attestations for history in histories):
        raise _bound_too_low(source, "votes of finality, so its keys have voted")


def _bound_too_low(source: Path, held: str) -> CommandError:
    return CommandError(
        f"{source}: holds {held}. Name an epoch, or a view of that epoch, above all in which they voted. Nothing was "
        "imported.",
        UNUSABLE,
    )


def _say(merged: Merged, database: Path, *, whole: bool) -> None:
    console = out()
    console.print(
        f"imported {merged.blocks} blocks and {merged.attestations} attestations of {merged.keys} keys", style="bold"
    )
    if merged.contradictions:
        console.print(
            f"[yellow]{merged.contradictions} of them contradict others, in the file or in the database.[/] A key "
            "that signed both can be slashed; a message without its signing root, as in a minimal file, counts as "
            "another one. Nothing that contradicts either will be signed.",
            soft_wrap=True,
        )
    if not whole:
        console.print(
            "[yellow]It says nothing of votes, timeouts and order votes.[/] For a chain of ours, sequencer signer run "
            f"does not sign with {escape(str(database))} before this is done again with --votes-from-epoch.",
            soft_wrap=True,
        )


def _alone(database: Path) -> SlashingProtection:
    try:
        return SlashingProtection.open_existing(database, exclusive=True)
    except InUseError as error:
        raise CommandError(f"{database}: a running signer has it open. Stop that signer first.", UNUSABLE) from error


def _read(file: Path) -> dict[str, JsonValue]:
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise CommandError(
                f"{file}: more than {FILE_BYTES_MAX} bytes. Export fewer keys at a time, or a minimal history.",
                UNUSABLE,
            )
        _check_depth(data)
        document = json.loads(data, object_pairs_hook=_object)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}. Name a file that can be read.", UNUSABLE) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(
            f"{file}: not a JSON document: {error}. Let the other program export it again. Nothing was imported.",
            UNUSABLE,
        ) from None
    if not isinstance(document, dict):
        raise CommandError(f"{file}: must hold one JSON object. Nothing was imported.", UNUSABLE)
    return document


def _check_depth(data: bytes) -> None:
    """Refuse nesting that no interchange has: how deep the parser may go before its process dies is not ours to say (a
    library may have raised the interpreter's limit)."""
    depth = 0
    for found in _BRACKETS_OR_TEXT.finditer(data):
        depth += (found[0] in b"[{") - (found[0] in b"]}") if len(found[0]) == 1 else 0
        if depth > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX}")


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    """JSON lets a name stand twice; programs differ in which they believe."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return found
