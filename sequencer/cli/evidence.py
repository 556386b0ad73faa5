"""``sequencer evidence verify | extract``: proof of guilt, from files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from consensus.codec import Malformed
from consensus.engine import Refusal
from consensus.epochs import EpochChange, EpochInfo
from consensus.evidence import Evidence, Guilt, evidence_digest, verify_within
from consensus.genesis import ChainSpec
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named
from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNUSABLE, CommandError, failures, out, print_json
from sequencer.cli.verify_light import ARCHIVE_MAGIC
from sequencer.epoch_changes import EpochChanges, decoded_change
from sequencer.evidence_file import (
    FILE_SIZE_MAX,
    EvidenceOfLaterEpoch,
    decode_evidence_file,
    encode_evidence_file,
    follow_changes,
)
from sequencer.extraction import SplitOfHomes, extract_from_homes
from sequencer.genesis import Genesis, genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.light_verify import CLAIM_SIZE_MAX as DOCUMENT_SIZE_MAX
from sequencer.light_verify import read_claim
from sequencer.storage import open_raw_archive
from sequencer.tables import KeyPathError
from sequencer.verify import home_of

BAD_INPUT: Final = 2
EVIDENCE_SUFFIX: Final = ".evidence"


def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An evidence file, as extract writes it.")],
    genesis: Annotated[Path, typer.Option("--genesis", metavar="GENESIS", help="The chain's genesis.json.")],
    epochs: Annotated[
        list[Path] | None,
        typer.Option(
            "--epochs",
            metavar="SOURCE",
            help="How later epochs began, where FILE does not bring it: a stopped node's home, or what /v1/epochs "
            "answered. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say whom FILE convicts, knowing nothing but the genesis.

    Exits with 0 when it proves guilt, 1 when it proves nothing, and 2 when a file cannot be read.
    """
    with failures():
        spec = _chain_spec(genesis)
        data = _read(file, FILE_SIZE_MAX + 1)
        try:
            chain = genesis_of(spec)
        except ValueError as error:
            raise CommandError(f"{genesis}: {error}", BAD_INPUT) from None
        changes = [change for source in epochs or () for change in _changes_in(source)]
        verdict = _judged(data, changes, chain)
        if as_json:
            print_json(_verdict_json(verdict))
        else:
            _show_verdict(verdict, chain, out())
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
        protocol = protocol_named(homes[0].spec.protocol)
        written = [] if isinstance(result, Refusal) or directory is None else _write(result, protocol, directory)
        if as_json:
            print_json(_extraction_json(result, written))
        else:
            _show_extraction(result, written, out())
        if isinstance(result, Refusal) or not result.extraction.is_complete:
            raise typer.Exit(NO)


def _judged(data: bytes, changes: Sequence[EpochChange], chain: Genesis) -> Guilt | Refusal:
    content = decode_evidence_file(data)
    if isinstance(content, Malformed):
        return Refusal(f"not evidence: {content.reason}")
    evidence = content
    if isinstance(content, EvidenceOfLaterEpoch):
        evidence, changes = content.evidence, content.changes
    assert isinstance(evidence, Evidence)
    refusal = follow_changes(chain.history, changes)
    return refusal or verify_within(evidence, chain.history, chain.protocol, chain.scheme)


def _changes_in(source: Path) -> tuple[EpochChange, ...]:
    """What a home, an archive or a document says of the epochs; nothing is verified."""
    archive = home_of(source).archive if source.is_dir() else source
    if not source.is_dir():
        data = _read(source, DOCUMENT_SIZE_MAX + 1)
        if not data.startswith(ARCHIVE_MAGIC):
            document = read_claim(data)
            if not isinstance(document, EpochChanges):
                raise CommandError(f"{source}: not what /v1/epochs answers, and no archive", BAD_INPUT)
            return document.changes
    with open_raw_archive(archive) as opened:
        found = [decoded_change(row) for row in opened.raw_epochs()]
    for change in found:
        if isinstance(change, Malformed):
            raise CommandError(f"{source}: how an epoch began cannot be read: {change.reason}", BAD_INPUT)
    return tuple(change for change in found if isinstance(change, EpochChange))


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


def _write(split: SplitOfHomes, protocol: ProtocolDefinition, directory: Path) -> list[Path]:
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for evidence in split.extraction.evidence:
            path = directory / f"{evidence_digest(evidence).hex()[:16]}{EVIDENCE_SUFFIX}"
            path.write_bytes(encode_evidence_file(evidence, split.changes, protocol))
            written.append(path)
    except OSError as error:
        raise CommandError(f"{directory}: {error.strerror}", UNUSABLE) from None
    return written


def _verdict_json(verdict: Guilt | Refusal) -> JsonValue:
    if isinstance(verdict, Refusal):
        return {"guilty": [], "offence": None, "reason": verdict.reason}
    return {
        "guilty": [
            {
                "validator": signer,
                "name": validator.name,
                "public_key": validator.public_key.hex(),
                "stake": validator.stake,
            }
            for signer, validator in zip(verdict.signers, verdict.validators, strict=True)
        ],
        "epoch": verdict.first.epoch,
        "offence": verdict.offence,
        "signed": [_text(verdict.first), _text(verdict.second)],
        "reason": None,
    }


def _text(subject: object) -> str:
    """A subject for people: its fields, bytes as hexadecimal digits."""
    if isinstance(subject, bytes):
        return subject.hex()[:16]
    if not isinstance(subject, msgspec.Struct):
        return str(subject)
    shown = ", ".join(f"{name}={_text(getattr(subject, name))}" for name in subject.__struct_fields__)
    return f"{type(subject).__name__}({shown})"


def _show_verdict(verdict: Guilt | Refusal, chain: Genesis, console: Console) -> None:
    if isinstance(verdict, Refusal):
        console.print(f"[bold]proves nothing:[/] {escape(verdict.reason)}", soft_wrap=True)
        return
    epoch = chain.history.info(verdict.first.epoch)
    assert epoch is not None, "it was verified under that epoch"
    stake = epoch.validators.stake_of(verdict.signers)
    console.print(f"[bold red]guilty of {verdict.offence}:[/] {escape(_names(epoch, verdict.signers))}", soft_wrap=True)
    console.print(f"epoch {epoch.epoch}: stake {stake} of {epoch.validators.total}; signed both of")
    for subject in (verdict.first, verdict.second):
        console.print(f"  {escape(_text(subject))}", soft_wrap=True)


def _names(epoch: EpochInfo, signers: Sequence[int]) -> str:
    return ", ".join(f"{epoch.validators.validators[signer].name} ({signer})" for signer in signers)


def _extraction_json(split: SplitOfHomes | Refusal, written: list[Path]) -> JsonValue:
    if isinstance(split, Refusal):
        return {"guilty": [], "complete": False, "reason": split.reason}
    result, members = split.extraction, split.epoch.validators.validators
    return {
        "epoch": split.epoch.epoch,
        "height": result.height,
        "blocks": [result.first.hex(), result.second.hex()],
        "guilty": [{"validator": each, "name": members[each].name} for each in result.guilty],
        "stake": result.stake,
        "stake_expected": result.stake_expected,
        "complete": result.is_complete,
        "evidence": [_piece_json(evidence) for evidence in result.evidence],
        "files": [str(path) for path in written],
        "reason": None,
    }


def _piece_json(evidence: Evidence) -> JsonValue:
    return {"digest": evidence_digest(evidence).hex(), "offence": evidence.offence}


def _show_extraction(split: SplitOfHomes | Refusal, written: list[Path], console: Console) -> None:
    if isinstance(split, Refusal):
        console.print(f"[bold]nobody is accused:[/] {escape(split.reason)}", soft_wrap=True)
        return
    result = split.extraction
    console.print(
        f"The chain splits at height {result.height}, in epoch {split.epoch.epoch}: {result.first.hex()[:16]} and "
        f"{result.second.hex()[:16]}"
    )
    names = _names(split.epoch, result.guilty)
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
