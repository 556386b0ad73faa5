"""``sequencer evidence verify | extract``: proof of guilt, from files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from consensus.codec import Malformed
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.evidence import (
    EVIDENCE_SIZE_MAX,
    Evidence,
    Guilt,
    decode_evidence,
    encode_evidence,
    evidence_digest,
)
from consensus.evidence import verify as verify_evidence
from consensus.forensics import Extraction
from consensus.genesis import ChainSpec
from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNUSABLE, CommandError, failures, out, print_json
from sequencer.extraction import extract_from_homes
from sequencer.genesis import genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.tables import KeyPathError
from sequencer.verify import home_of

BAD_INPUT: Final = 2
EVIDENCE_SUFFIX: Final = ".evidence"


def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An evidence file, as extract writes it.")],
    genesis: Annotated[Path, typer.Option("--genesis", metavar="GENESIS", help="The chain's genesis.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say whom FILE convicts, knowing nothing but the genesis.

    Exits with 0 when it proves guilt, 1 when it proves nothing, and 2 when a file cannot be read.
    """
    with failures():
        spec = _chain_spec(genesis)
        data = _read(file, EVIDENCE_SIZE_MAX + 1)
        try:
            chain = genesis_of(spec)
        except ValueError as error:
            raise CommandError(f"{genesis}: {error}", BAD_INPUT) from None
        evidence = decode_evidence(data)
        verdict: Guilt | Refusal
        if isinstance(evidence, Malformed):
            verdict = Refusal(f"not evidence: {evidence.reason}")
        else:
            verdict = verify_evidence(evidence, chain.epoch, chain.protocol, chain.scheme)
        if as_json:
            print_json(_verdict_json(verdict, chain.epoch))
        else:
            _show_verdict(verdict, chain.epoch, out())
        if isinstance(verdict, Refusal):
            raise typer.Exit(NO)


def extract_command(
    first: Annotated[Path, typer.Argument(metavar="HOME_A", help="Home of a stopped node, or a copy.")],
    second: Annotated[Path, typer.Argument(metavar="HOME_B", help="Home of one that committed other blocks.")],
    transcript: Annotated[
        list[Path] | None,
        typer.Option("--transcript", metavar="HOME", help="A further home, for the proofs that it kept. Repeatable."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write each piece of evidence to a file here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Name who made two histories of one chain: at least a third of the stake, never anybody honest.

    Exits with 0 when at least 2Q - W of the stake is named, 1 when the homes agree or less is named (then add the homes
    of other honest nodes with --transcript).
    """
    with failures():
        homes = [home_of(home) for home in (first, second)]
        further = [home_of(home) for home in transcript or ()]
        try:
            result = extract_from_homes(homes[0], homes[1], further)
        except ValueError as error:
            raise CommandError(str(error), UNUSABLE) from None
        spec = homes[0].spec
        written = _write(result, directory) if isinstance(result, Extraction) and directory is not None else []
        if as_json:
            print_json(_extraction_json(result, spec, written))
        else:
            _show_extraction(result, spec, written, out())
        if isinstance(result, Refusal) or not result.is_complete:
            raise typer.Exit(NO)


def _chain_spec(file: Path) -> ChainSpec:
    try:
        return read_chain_spec(file)
    except KeyPathError as error:
        raise CommandError(f"{file}: {error}", BAD_INPUT) from None
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", BAD_INPUT) from None


def _read(file: Path, size_max: int) -> bytes:
    try:
        with file.open("rb") as source:
            return source.read(size_max)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", BAD_INPUT) from None


def _write(extraction: Extraction, directory: Path) -> list[Path]:
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for evidence in extraction.evidence:
            path = directory / f"{evidence_digest(evidence).hex()[:16]}{EVIDENCE_SUFFIX}"
            path.write_bytes(encode_evidence(evidence))
            written.append(path)
    except OSError as error:
        raise CommandError(f"{directory}: {error.strerror}", UNUSABLE) from None
    return written


def _verdict_json(verdict: Guilt | Refusal, epoch: EpochInfo) -> JsonValue:
    if isinstance(verdict, Refusal):
        return {"guilty": [], "offence": None, "reason": verdict.reason}
    validators = epoch.validators.validators
    return {
        "guilty": [
            {
                "validator": signer,
                "name": validators[signer].name,
                "public_key": validators[signer].public_key.hex(),
                "stake": validators[signer].stake,
            }
            for signer in verdict.signers
        ],
        "offence": verdict.offence,
        "signed": [_text(verdict.first), _text(verdict.second)],
        "reason": None,
    }


def _text(subject: object) -> str:
    """A subject for people: its fields, bytes as hexadecimal digits."""
    if not isinstance(subject, msgspec.Struct):
        return str(subject)
    fields = {name: getattr(subject, name) for name in subject.__struct_fields__}
    shown = ", ".join(
        f"{key}={value.hex()[:16] if isinstance(value, bytes) else value}" for key, value in fields.items()
    )
    return f"{type(subject).__name__}({shown})"


def _show_verdict(verdict: Guilt | Refusal, epoch: EpochInfo, console: Console) -> None:
    if isinstance(verdict, Refusal):
        console.print(f"[bold]proves nothing:[/] {escape(verdict.reason)}", soft_wrap=True)
        return
    names = [f"{epoch.validators.validators[signer].name} ({signer})" for signer in verdict.signers]
    stake = epoch.validators.stake_of(verdict.signers)
    console.print(f"[bold red]guilty of {verdict.offence}:[/] {escape(', '.join(names))}", soft_wrap=True)
    console.print(f"stake {stake} of {epoch.validators.total}; signed both of")
    for subject in (verdict.first, verdict.second):
        console.print(f"  {escape(_text(subject))}", soft_wrap=True)


def _extraction_json(result: Extraction | Refusal, spec: ChainSpec, written: list[Path]) -> JsonValue:
    if isinstance(result, Refusal):
        return {"guilty": [], "complete": False, "reason": result.reason}
    return {
        "height": result.height,
        "blocks": [result.first.hex(), result.second.hex()],
        "guilty": [{"validator": each, "name": spec.validators[each].name} for each in result.guilty],
        "stake": result.stake,
        "stake_expected": result.stake_expected,
        "complete": result.is_complete,
        "evidence": [_piece_json(evidence) for evidence in result.evidence],
        "files": [str(path) for path in written],
        "reason": None,
    }


def _piece_json(evidence: Evidence) -> JsonValue:
    return {"digest": evidence_digest(evidence).hex(), "offence": evidence.offence}


def _show_extraction(result: Extraction | Refusal, spec: ChainSpec, written: list[Path], console: Console) -> None:
    if isinstance(result, Refusal):
        console.print(f"[bold]nobody is accused:[/] {escape(result.reason)}", soft_wrap=True)
        return
    console.print(
        f"The chain splits at height {result.height}: {result.first.hex()[:16]} and {result.second.hex()[:16]}"
    )
    names = ", ".join(f"{spec.validators[signer].name} ({signer})" for signer in result.guilty)
    offences = ", ".join(sorted(dict.fromkeys(evidence.offence for evidence in result.evidence)))
    if names:
        console.print(f"[bold red]guilty of {offences}:[/] {escape(names)}", soft_wrap=True)
    console.print(f"stake {result.stake}; two quorums share {result.stake_expected} at least")
    if not result.is_complete:
        console.print(
            "[yellow]less than that is named:[/] a certificate is missing that some honest validator keeps. Add the "
            "homes of other nodes with --transcript.",
            soft_wrap=True,
        )
    for path in written:
        console.print(f"wrote {escape(str(path))}", soft_wrap=True)
