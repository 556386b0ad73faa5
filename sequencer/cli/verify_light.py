"""``sequencer verify --light``: shows what :mod:`sequencer.light_verify` computes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape

from consensus.light_client import Checkpoint
from consensus.types import HASH_SIZE, INTEGER_MAX
from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNUSABLE, CommandError, failures, out, print_json, stage_progress
from sequencer.genesis import Genesis, genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.light_verify import CLAIM_SIZE_MAX, LightVerdict, Source, read_claim, verify_light
from sequencer.tables import KeyPathError
from sequencer.verify import home_of

ARCHIVE_MAGIC: Final = b"SQLite format 3\0"


def light_command(
    files: Sequence[Path], genesis_file: Path, checkpoint: str | None, age_s_max: int | None, *, as_json: bool
) -> None:
    """Exits with 1 when anything was changed, is forged, partial or stale, or contradicts another."""
    trusted = None if checkpoint is None else _checkpoint(checkpoint)
    with failures():
        genesis = _genesis(genesis_file)
        try:
            with stage_progress(enabled=not as_json) as progress:
                verdict = verify_light(
                    genesis,
                    [_source(file) for file in files],
                    checkpoint=trusted,
                    now_ms=time.time_ns() // 1_000_000,
                    age_ms_max=None if age_s_max is None else age_s_max * 1000,
                    progress=progress,
                )
        except ValueError as error:
            raise CommandError(str(error), UNUSABLE) from None
        if as_json:
            print_json(light_json(verdict, genesis))
        else:
            show_light(verdict, genesis, out())
        if not verdict.agreement:
            raise typer.Exit(NO)


def light_json(verdict: LightVerdict, genesis: Genesis) -> JsonValue:
    """The document of ``--json``."""
    return {
        "agreement": verdict.agreement,
        "genesis_hash": genesis.spec.hash.hex(),
        "checkpoint": {"height": verdict.checkpoint.height, "block_id": verdict.checkpoint.block_id.hex()},
        "head": {"height": verdict.head.height, "block_id": verdict.head.block_id.hex()},
        "epoch": verdict.epoch,
        "archives": [
            {
                "name": each.name,
                "pruned_below": each.pruned_below,
                "height": each.height,
                "block_id": each.block_id.hex(),
                "epoch": each.epoch,
                "proofs": each.proofs,
                "linked": each.linked,
            }
            for each in verdict.archives
        ],
        "files": [
            {"name": each.name, "shows": each.shows, "height": each.height, "block_id": each.block_id.hex()}
            for each in verdict.claims
        ],
        "findings": [
            {"source": each.home, "height": each.height, "field": each.field, "reason": each.reason}
            for each in verdict.findings
        ],
    }


def show_light(verdict: LightVerdict, genesis: Genesis, console: Console) -> None:
    """The same for people."""
    spec = genesis.spec
    trusted = verdict.checkpoint
    console.print(
        f"Chain [bold]{escape(spec.chain_id)}[/] ({spec.hash.hex()[:16]}…), trusted from height {trusted.height} "
        f"({trusted.block_id.hex()[:16]}…)"
    )
    for archive in verdict.archives:
        linked = "linked by hash" if archive.linked else "[yellow]not linked to the checkpoint: by proofs alone[/]"
        console.print(
            f"{escape(archive.name)}: headers {archive.pruned_below}-{archive.height}, {archive.proofs} commit proofs, "
            f"{linked}",
            soft_wrap=True,
        )
    for claim in verdict.claims:
        console.print(
            f"{escape(claim.name)}: {escape(claim.shows)}, committed at height {claim.height}", soft_wrap=True
        )
    for finding in verdict.findings:
        console.print(f"[bold red]{escape(str(finding))}[/]", soft_wrap=True)
    if verdict.agreement:
        console.print(
            f"[bold green]committed[/] up to height {verdict.head.height} ({verdict.head.block_id.hex()[:16]}…), "
            f"epoch {verdict.epoch}: headers and certificates were checked; bodies and states were not"
        )
    else:
        console.print("[bold red]NOT proven[/]: see above")


def _checkpoint(text: str) -> Checkpoint:
    height, _, block_id = text.partition(":")
    try:
        checkpoint = Checkpoint(height=int(height), block_id=bytes.fromhex(block_id))
    except ValueError:
        checkpoint = Checkpoint(height=-1, block_id=b"")
    if not 0 <= checkpoint.height <= INTEGER_MAX or len(checkpoint.block_id) != HASH_SIZE:
        raise typer.BadParameter(
            f"--checkpoint: {text!r} is not HEIGHT:ID, a number and {2 * HASH_SIZE} hexadecimal digits"
        )
    return checkpoint


def _genesis(file: Path) -> Genesis:
    try:
        return genesis_of(read_chain_spec(file))
    except (KeyPathError, ValueError) as error:
        raise CommandError(f"{file}: {error}", UNUSABLE) from None
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", UNUSABLE) from None


def _source(path: Path) -> Source:
    if path.is_dir():
        home = home_of(path)
        return Source(name=home.name, content=home.archive)
    try:
        with path.open("rb") as opened:
            data = opened.read(len(ARCHIVE_MAGIC))
            if data == ARCHIVE_MAGIC:
                return Source(name=path.name, content=path)
            data += opened.read(CLAIM_SIZE_MAX + 1)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", UNUSABLE) from None
    return Source(name=path.name, content=read_claim(data))
