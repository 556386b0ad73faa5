"""Do these nodes agree, and on something that a quorum decided? Computed from the archives of stopped nodes alone.

Nothing that a node stored as its conclusion is believed. From raw bytes: headers are hashed, parents followed from the
chain spec, commit proofs checked (links, pattern of views, one quorum of signatures under the keys of their epoch),
bodies flattened and their payload roots derived, the chain's rules on order and expiry applied, the validators of each
epoch derived from the system transactions, positions counted; the homes are compared height by height
(``archive_check.py``). Then the transactions are executed in fresh adapters and the results compared with what each
home's adapter holds (``replay.py``).

What is trusted is the chain spec (:attr:`Home.spec`) and this program. What is not looked at: the index of
transactions, which is derived, never served without a proof, and built anew when deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consensus.genesis import ChainSpec
from consensus.types import Epoch, Height
from sequencer.archive_check import ArchiveCheck, Finding, HomeWalk, Progress
from sequencer.config import Config
from sequencer.node import CHAIN_FILE
from sequencer.replay import RollupFiles, RollupState, replay
from sequencer.storage import InUseError, RawArchive, StorageError, open_raw_archive
from sequencer.transactions import Position, TransactionId

__all__ = [
    "Finding",
    "Home",
    "HomeReport",
    "Progress",
    "RollupFiles",
    "RollupState",
    "Verdict",
    "home_of",
    "verify",
]

HOMES_MAX: Final = 256
CONFIG_FILE: Final = "node.toml"
ROLLUPS_DIRECTORY: Final = "rollups"


@dataclass(frozen=True, kw_only=True)
class Home:
    """What is read of one stopped node. ``name`` is shown; ``archive`` is the file of its block archive."""

    name: str
    spec: ChainSpec
    archive: Path
    rollups: tuple[RollupFiles, ...]


@dataclass(frozen=True, kw_only=True)
class HomeReport:
    """One home's archive: ``blocks`` sound ones from ``pruned_below`` to ``height``, ``proofs`` of them proved by a
    proof of their own (which proves those below it too)."""

    name: str
    pruned_below: Height
    height: Height
    blocks: int
    proofs: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What :func:`verify` computed. ``height`` is the one up to which all homes hold the same, ``epoch`` the last whose
    beginning was verified; ``transactions`` maps rollup ids to numbers of transactions in the longest archive;
    ``notes`` say what could not be checked."""

    agreement: bool
    spec: ChainSpec
    height: Height
    epoch: Epoch
    blocks: int
    homes: tuple[HomeReport, ...]
    transactions: Mapping[int, int]
    states: tuple[RollupState, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def home_of(directory: Path) -> Home:
    """The home in ``directory``, as its ``node.toml`` describes it. Raises ``ConfigError``."""
    config = Config.load(directory / CONFIG_FILE)
    return Home(
        name=directory.resolve().name,
        spec=config.spec,
        archive=config.data_directory / CHAIN_FILE,
        rollups=tuple(
            RollupFiles(
                rollup_id=rollup.id,
                adapter=rollup.adapter,
                settings=rollup.settings,
                directory=config.data_directory / ROLLUPS_DIRECTORY / str(rollup.id),
            )
            for rollup in config.rollups
        ),
    )


async def verify(
    homes: Sequence[Home],
    *,
    acknowledged: Mapping[TransactionId, Position] | None = None,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Verdict:
    """Judge and compare ``homes``. ``acknowledged`` are positions that clients were given: each must hold.

    Raises ``ValueError`` for a chain spec that is none and for homes that cannot be compared (no home, two of one
    name). Everything else that is wrong is a finding.
    """
    if not homes or len({home.name for home in homes}) != len(homes) or len(homes) > HOMES_MAX:
        raise ValueError(f"homes: give 1 to {HOMES_MAX} of them, with distinct names")
    spec = homes[0].spec
    strangers = [home for home in homes if home.spec.hash != spec.hash]
    findings = [
        Finding(
            home=home.name,
            height=None,
            field="genesis",
            reason=f"its genesis file is of chain {home.spec.hash.hex()}, that of {homes[0].name} of {spec.hash.hex()}",
        )
        for home in strangers
    ]
    with contextlib.ExitStack() as opened:
        archives: dict[str, RawArchive] = {}
        for home in homes:
            if home in strangers:
                continue
            try:
                archives[home.name] = opened.enter_context(open_raw_archive(home.archive))
            except InUseError:
                raise  # nothing is wrong with it: it cannot be judged while its node runs
            except StorageError as error:
                findings.append(Finding(home=home.name, height=None, field="archive", reason=str(error)))
        check = ArchiveCheck(spec, archives, acknowledged or {})
        await check.run(progress)
        findings += check.findings
        heads = {walk.name: walk.archive.committed_height() for walk in check.walks}
        states, disagreements = await replay(
            {home.name: home.rollups for home in homes if home.name in heads},
            heads,
            _reference(check.walks),
            progress,
        )
        findings += disagreements
        return _verdict(check, states, findings)


def _reference(walks: Sequence[HomeWalk]) -> RawArchive | None:
    """The longest sound archive that begins at height 1."""
    whole = [walk for walk in walks if walk.sound and walk.archive.pruned_below == 1]
    return max(whole, key=lambda walk: walk.blocks).archive if whole else None


def _verdict(check: ArchiveCheck, states: Sequence[RollupState], findings: Sequence[Finding]) -> Verdict:
    notes = []
    if check.walks and all(walk.archive.pruned_below > 1 for walk in check.walks):
        notes.append("no archive begins at height 1: transactions were not executed anew; add an archive node's home")
        if check.spec.reconfiguration is not None:
            notes.append("no archive begins at height 1: validators were not derived from what asked for them")
    elif _reference(check.walks) is None:
        notes.append("no archive is sound from height 1 on: transactions were not executed anew")
    notes += [
        f"{state.home}: rollup {state.files.rollup_id} has executed nothing yet" for state in states if not state.cursor
    ]
    return Verdict(
        agreement=not findings,
        spec=check.spec,
        height=min((walk.head for walk in check.walks), default=0),
        epoch=check.epochs.newest,
        blocks=max((walk.blocks for walk in check.walks), default=0),
        homes=tuple(
            HomeReport(
                name=walk.name,
                pruned_below=walk.archive.pruned_below,
                height=walk.head,
                blocks=walk.blocks,
                proofs=walk.proofs,
            )
            for walk in check.walks
        ),
        transactions=check.transactions,
        states=tuple(states),
        findings=tuple(findings),
        notes=tuple(notes),
    )
