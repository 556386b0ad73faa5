"""Who made this chain split? From the homes of stopped nodes: the two histories, and the proofs that honest nodes kept.

Both archives are read from the first height at which they hold different blocks up to the next stored commit proof. The
guilty are validators of the epoch of that height, which follows from the blocks below it: both sides share them.
Nothing that a home says is believed: headers are hashed and linked, proofs verified, and every pair of statements that
accuses somebody is judged by its signatures (``consensus/forensics.py``).

Where both sides have gone on to checkpoints of finality, their link certificates accuse by themselves whoever signed
two that contradict each other: however many are faulty, and whatever was kept or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Final

from consensus.codec import Malformed, commit_proofs, headers
from consensus.engine import Refusal, ReportEvidence
from consensus.epochs import EpochChange, EpochInfo
from consensus.evidence import Evidence, Guilt, epochs_of, evidence_of_report, keys_claimed, verify_within
from consensus.finality.forensics import conflicting_links
from consensus.finality.types import Link, LinkCertificate, link_certificates
from consensus.forensics import FAILURES_MAX, Extraction, History, extract
from consensus.types import PATH_LENGTH_MAX, BlockHeader, Height
from sequencer.epoch_changes import decoded_change
from sequencer.evidence_file import follow_changes
from sequencer.genesis import Genesis, genesis_of
from sequencer.storage import RawArchive, RawBlock, open_raw_archive
from sequencer.verify import Home

TRANSCRIPTS_MAX: Final = 256
"""Further homes whose kept proofs are read."""
LINKS_MAX: Final = 1024
"""Link certificates of one home that are compared with those of the other: the lowest above the split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOfHomes:
    """What was extracted from a split in ``epoch``, whose validators the guilty are. ``changes`` lead there."""

    extraction: Extraction
    epoch: EpochInfo
    changes: tuple[EpochChange, ...]


def extract_from_homes(first: Home, second: Home, transcripts: Sequence[Home] = ()) -> SplitOfHomes | Refusal:
    """The guilty of the split between two homes; the reason when there is none to be found. ``transcripts`` are further
    homes of the chain, read for the proofs that they kept.

    Raises ``ValueError`` for a chain spec that is none and for too many homes, and ``StorageError``.
    """
    if len(transcripts) > TRANSCRIPTS_MAX:
        raise ValueError(f"at most {TRANSCRIPTS_MAX} further homes")
    genesis = genesis_of(first.spec)
    for home in (second, *transcripts):
        if home.spec.hash != first.spec.hash:
            return Refusal(f"{home.name} is of another chain than {first.name}")
    with contextlib.ExitStack() as opened:
        homes = [first, second, *transcripts]
        archives = [opened.enter_context(open_raw_archive(home.archive)) for home in homes]
        for home, archive in zip(homes, archives, strict=True):
            if archive.genesis_hash != first.spec.hash:
                return Refusal(f"{home.name}: its archive is of another chain")
        split = _split(archives[0], archives[1])
        if isinstance(split, Refusal):
            return split
        histories: list[History] = []
        for home, archive in zip(homes[:2], archives[:2], strict=True):
            history = _history(home, archive, split)
            if isinstance(history, Refusal):
                return history
            histories.append(history)
        changes = _changes(homes[:2], archives[:2], split, genesis)
        if isinstance(changes, Refusal):
            return changes
        kept = list(dict.fromkeys(row.proof for archive in archives for row in archive.raw_transcript()))
        links = _links_above(split, archives[:2])
    found = _extracted(histories[0], histories[1], kept, changes, genesis)
    return found if isinstance(found, Refusal) else _with_finality(found, links, genesis)


def _extracted(
    one: History, other: History, kept: Sequence[bytes], changes: tuple[EpochChange, ...], genesis: Genesis
) -> SplitOfHomes | Refusal:
    number = one.headers[0].epoch
    epoch, observer = genesis.history.info(number), genesis.history.observer(number)
    if number != other.headers[0].epoch or epoch is None or observer is None:
        return Refusal(
            f"the sides go on in epochs {number} and {other.headers[0].epoch} after a common block, where epoch "
            f"{genesis.history.newest.epoch} does: run sequencer verify"
        )
    extraction = extract(
        one, other, kept, epoch=epoch, definition=genesis.protocol, scheme=genesis.scheme, engine=observer
    )
    if isinstance(extraction, Refusal):
        return extraction
    return SplitOfHomes(extraction=extraction, epoch=epoch, changes=changes)


def _links_above(split: Height, archives: Sequence[RawArchive]) -> dict[Link, list[LinkCertificate]]:
    """The certificates of both sides, by what they link; those that cannot be read accuse nobody."""
    found: dict[Link, list[LinkCertificate]] = {}
    for archive in archives:
        rows = (row for row in archive.raw_links() if row.target >= split)
        for row in islice(rows, LINKS_MAX):
            certificate = link_certificates.decode(row.certificate)
            if isinstance(certificate, LinkCertificate):
                found.setdefault(certificate.link, []).append(certificate)
    return found


def _with_finality(split: SplitOfHomes, links: dict[Link, list[LinkCertificate]], genesis: Genesis) -> SplitOfHomes:
    """With those members of the epoch whom certificates of finality name besides."""
    validators = split.epoch.validators
    seats = {key: index for index, key in enumerate(validators.public_keys)}
    named = dict.fromkeys(split.extraction.guilty)
    evidence = list(split.extraction.evidence)
    failures = 0
    for accusation in _accusations(links, genesis):
        if len(named) == len(validators) or failures > FAILURES_MAX:
            break
        if not any(key in seats and seats[key] not in named for key in _claimed(accusation, genesis)):
            continue
        verdict = verify_within(accusation, genesis.history, genesis.protocol, genesis.scheme)
        failures += not isinstance(verdict, Guilt)
        keys = [member.public_key for member in verdict.validators] if isinstance(verdict, Guilt) else []
        also = [seats[key] for key in keys if key in seats and seats[key] not in named]
        if also:
            named.update(dict.fromkeys(also))
            evidence.append(accusation)
    extraction = dataclasses.replace(
        split.extraction, evidence=tuple(evidence), guilty=tuple(sorted(named)), stake=validators.stake_of(named)
    )
    return dataclasses.replace(split, extraction=extraction)


def _claimed(evidence: Evidence, genesis: Genesis) -> frozenset[bytes]:
    """The keys of everybody whom it would convict."""
    epochs = epochs_of(evidence, genesis.protocol)
    one = genesis.history.info(evidence.epoch)
    two = genesis.history.info(next((epoch for epoch in epochs if epoch != evidence.epoch), evidence.epoch))
    return frozenset() if one is None or two is None else keys_claimed(evidence, one, two)


def _accusations(links: dict[Link, list[LinkCertificate]], genesis: Genesis) -> Iterator[Evidence]:
    """What certificates that contradict each other would prove, if their signatures verify."""
    for first, second, _ in conflicting_links(sorted(links, key=lambda link: link.order)):
        for one, two in product(links[first], links[second]):
            report = ReportEvidence(first=one, second=two)
            yield from evidence_of_report(report, genesis.history.info, genesis.protocol, genesis.scheme)


def _changes(
    homes: Sequence[Home], archives: Sequence[RawArchive], split: Height, genesis: Genesis
) -> tuple[EpochChange, ...] | Refusal:
    """How the epochs began that both sides share, from whichever holds it whole; verified, and known to ``genesis``."""
    refused = Refusal("no home was given")
    for home, archive in zip(homes, archives, strict=True):
        found: list[EpochChange] = []
        for row in archive.raw_epochs():
            change = decoded_change(row)
            if isinstance(change, Malformed):
                refused = Refusal(f"{home.name}: how epoch {row.epoch} began cannot be read: {change.reason}")
                break
            if change.boundary.height >= split:
                return tuple(found)
            outcome = follow_changes(genesis.history, (change,))
            if outcome is not None:
                refused = Refusal(f"{home.name}: {outcome.reason}")
                break
            found.append(change)
        else:
            return tuple(found)
    return refused


def _split(first: RawArchive, second: RawArchive) -> Height | Refusal:
    """The lowest height at which the two hold different blocks: below it they share a chain, so that it is found by
    halving."""
    lowest = max(first.pruned_below, second.pruned_below)
    highest = min(first.committed_height(), second.committed_height())
    if highest < lowest:
        return Refusal("the archives have no height in common")
    if _same(first, second, highest):
        return Refusal(f"the archives agree up to height {highest}, the last that both hold")
    if lowest > 1 and not _same(first, second, lowest):
        return Refusal(f"the archives differ at height {lowest} already, below which one of them is pruned")
    same, differs = lowest - 1, highest
    while differs - same > 1:
        middle = (same + differs) // 2
        if _same(first, second, middle):
            same = middle
        else:
            differs = middle
    return differs


def _same(first: RawArchive, second: RawArchive, height: Height) -> bool:
    one, other = first.raw_block(height), second.raw_block(height)
    return one is not None and other is not None and one.id == other.id


def _history(home: Home, archive: RawArchive, height: Height) -> History | Refusal:
    found: list[BlockHeader] = []
    while len(found) < PATH_LENGTH_MAX:
        row = archive.raw_block(height)
        if row is None:
            return Refusal(f"{home.name}: no block at height {height}, and no proof of the commits below it")
        header = _header(row)
        if header is None:
            return Refusal(f"{home.name}: the header at height {height} cannot be read; run sequencer verify")
        if found and header.epoch != found[0].epoch:
            return Refusal(
                f"{home.name}: the boundary at height {height - 1} has no commit proof; run sequencer verify"
            )
        found.append(header)
        if row.proof is not None:
            proof = commit_proofs.decode(row.proof)
            if isinstance(proof, Malformed):
                return Refusal(f"{home.name}: the commit proof at height {height} cannot be read: {proof.reason}")
            return History(headers=tuple(found), proof=proof)
        height += 1
    return Refusal(f"{home.name}: no commit proof within {PATH_LENGTH_MAX} heights of the split")


def _header(row: RawBlock) -> BlockHeader | None:
    decoded = headers.decode(row.header) if isinstance(row.header, bytes) else None
    return decoded if isinstance(decoded, BlockHeader) else None
