"""Is this on the chain? From headers and commit proofs alone: archives without their bodies, and the files that clients
keep (receipts, sections, block summaries). Offline.

What is trusted is the genesis and, where one is given, a checkpoint. An archive is walked upwards: every header hashes
to its id and stands on the one below, every stored proof shows its block committed to a
:class:`~consensus.light_client.LightClient`, and the last header has one. Files prove themselves; then each is compared
with the archives and with the other files, so that two sides of a fork do not pass together.

Where the validators changed, the sources must show how: archives hold every change, and so does what the API answers
at ``/v1/epochs`` (``epoch_changes.py``), which is taken as a source like any other. Each change is verified under the
epoch before. A checkpoint in a later epoch is of use where that epoch's own beginning is tied to it: it is the boundary
itself, or an archive leads by hash from the boundary up to it.

Bodies are not read: that they are those that the headers name, and that the chain's rules on order and expiry hold, is
what :mod:`sequencer.verify` shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias, assert_never

import msgspec

from consensus.codec import Malformed, digest
from consensus.engine import Refusal
from consensus.epochs import EpochChange
from consensus.light_client import Checkpoint, LightClient, Proven
from consensus.types import BlockId, Epoch, Height
from sequencer.archive_check import Finding
from sequencer.block_summary import BlockSummary
from sequencer.epoch_changes import EpochChanges
from sequencer.genesis import Genesis, trusted_from
from sequencer.json_form import DEPTH_MAX, from_json, is_nested_deeper
from sequencer.light_walk import ArchiveReport, Fault, Walk, fault_of, stored_changes
from sequencer.receipts import Receipt, Section, VerificationError
from sequencer.storage import InUseError, RawArchive, StorageError, open_raw_archive

SOURCES_MAX: Final = 256
CLAIM_SIZE_MAX: Final = 256 * 1024 * 1024
"""The largest section in JSON, with room."""

_ABSENT: Final = msgspec.Raw()
_ARRAYS: Final = tuple(bytes([first]) for first in (*range(0x90, 0xA0), 0xDC, 0xDD))
"""How MessagePack of an array begins."""

Claim: TypeAlias = Receipt | Section | BlockSummary


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something to verify under the name that findings show: an archive's file, or a claim or the changes of epochs as
    they were read."""

    name: str
    content: Path | Claim | EpochChanges | Malformed


@dataclass(frozen=True, kw_only=True)
class ClaimReport:
    """A sound claim: what it shows, in the block at ``height``."""

    name: str
    shows: str
    height: Height
    block_id: BlockId


@dataclass(frozen=True, kw_only=True)
class LightVerdict:
    """What :func:`verify_light` computed. ``head`` is the highest block that was proven, the checkpoint without
    any; ``epoch`` the newest whose validators are known."""

    head: Checkpoint | Proven
    epoch: Epoch
    checkpoint: Checkpoint
    archives: tuple[ArchiveReport, ...]
    claims: tuple[ClaimReport, ...]
    findings: tuple[Finding, ...]

    @property
    def agreement(self) -> bool:
        """Nothing was found to be wrong."""
        return not self.findings


def read_claim(data: bytes) -> Claim | EpochChanges | Malformed:
    """A receipt, section, block summary or changes of epochs: canonical MessagePack, their JSON, or the JSON in which
    the API and ``sequencer submit --json`` answer. Nothing is verified yet."""
    if len(data) > CLAIM_SIZE_MAX:
        return Malformed(f"larger than {CLAIM_SIZE_MAX} bytes")
    if data.lstrip()[:1] == b"{":
        return _claim_in_json(data)
    if not data.startswith(_ARRAYS):
        return _claim_in_state(data)
    reasons = []
    for kind in (Receipt, Section, BlockSummary, EpochChanges):
        claim = kind.from_bytes(data)
        if not isinstance(claim, Malformed):
            return claim
        reasons.append(f"no {kind.__name__} ({claim.reason})")
    return Malformed(", ".join(reasons))


class _Document(msgspec.Struct, frozen=True):
    """The fields that tell the documents apart; empty where they are absent."""

    receipt: msgspec.Raw = _ABSENT
    inclusion: msgspec.Raw = _ABSENT
    transactions: msgspec.Raw = _ABSENT
    sections: msgspec.Raw = _ABSENT
    changes: msgspec.Raw = _ABSENT


class _State(msgspec.Struct, frozen=True):
    """What the API answers about a transaction in MessagePack: its receipt, and what is not proven besides."""

    receipt: bytes


def _claim_in_state(data: bytes) -> Receipt | Malformed:
    try:
        return Receipt.from_bytes(msgspec.msgpack.decode(data, type=_State).receipt)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Malformed(f"no receipt, no section, no block summary and no changes of epochs: {error}")


def _claim_in_json(data: bytes) -> Claim | EpochChanges | Malformed:
    if is_nested_deeper(data, DEPTH_MAX):
        return Malformed(f"nested deeper than {DEPTH_MAX}")
    try:
        document = msgspec.json.decode(data, type=_Document)
        receipt = bytes(document.receipt)
        if receipt.startswith(b'"'):
            return Receipt.from_bytes(bytes.fromhex(msgspec.json.decode(receipt, type=str)))
        if receipt:
            return Receipt.from_json(receipt)
        if bytes(document.inclusion):
            return Receipt.from_json(data)
        if bytes(document.transactions):
            return Section.from_json(data)
        if bytes(document.sections):
            return _summary_in_json(data)
        if bytes(document.changes):
            return EpochChanges.from_json(data)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        return Malformed(str(error))
    return Malformed("no receipt, no section, no block summary and no changes of epochs")


def _summary_in_json(data: bytes) -> BlockSummary | Malformed:
    """As the API shows it: with the id, which is hashed anew here, a rung, which nothing proves, and maybe without a
    proof."""
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    fields.setdefault("commit_proof", msgspec.Raw(b"null"))
    for unproven in ("block_id", "level"):
        fields.pop(unproven, None)
    return from_json(msgspec.json.encode(fields), BlockSummary)


def verify_light(
    genesis: Genesis,
    sources: Sequence[Source],
    *,
    checkpoint: Checkpoint | None = None,
    now_ms: int = 0,
    age_ms_max: int | None = None,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> LightVerdict:
    """Judge ``sources`` together. With ``age_ms_max``, the highest block must not be older than that at ``now_ms``.

    Raises ``ValueError`` for a checkpoint that cannot be one and for sources that cannot be told apart, and
    ``InUseError`` for an archive whose node is running. Everything else that is wrong is a finding.
    """
    if not sources or len({source.name for source in sources}) != len(sources) or len(sources) > SOURCES_MAX:
        raise ValueError(f"sources: give 1 to {SOURCES_MAX} of them, with distinct names")
    judge = _Judge(genesis, checkpoint)
    with contextlib.ExitStack() as opened:
        archives: list[tuple[str, RawArchive]] = []
        documents: list[tuple[Epoch, str, EpochChanges]] = []
        claims: list[tuple[Height, str, Claim]] = []
        for source in sources:
            match source.content:
                case Path() as path:
                    archive = judge.open_archive(source.name, path, opened)
                    archives += [] if archive is None else [(source.name, archive)]
                case Malformed(reason=reason):
                    judge.find(source.name, "file", f"neither an archive nor a claim: {reason}")
                case EpochChanges(changes=changes) as document:
                    documents.append((changes[0].epoch if changes else 0, source.name, document))
                case claim:
                    claims.append((claim.height, source.name, claim))
        for _, name, document in sorted(documents, key=lambda each: each[:2]):
            judge.take_document(name, document)
        for name, archive in archives:
            judge.walk(name, archive, progress)
        judge.follow()
        for _, name, claim in sorted(claims, key=lambda each: each[:2]):
            judge.take_claim(name, claim)
        judge.compare_archives()
        if age_ms_max is not None:
            judge.check_fresh(now_ms, age_ms_max)
        return judge.verdict()


class _Judge:
    """All sources of one call, and one light client that sees the best of each. Beside its history stands one that goes
    by signatures alone, for what lies below the checkpoint."""

    def __init__(self, genesis: Genesis, checkpoint: Checkpoint | None) -> None:
        self._origin = genesis
        self._genesis = genesis.branch()
        self._trusted = genesis.branch()
        self._client = LightClient(self._trusted.history, checkpoint)
        self._changes = _Changes()
        self._walks: list[tuple[Walk, RawArchive]] = []
        self._claims: list[ClaimReport] = []
        self._findings: list[Finding] = []

    def open_archive(self, name: str, path: Path, opened: contextlib.ExitStack) -> RawArchive | None:
        try:
            archive = opened.enter_context(open_raw_archive(path))
        except InUseError:
            raise  # nothing is wrong with it: it cannot be judged while its node runs
        except StorageError as error:
            self.find(name, "archive", str(error))
            return None
        if archive.genesis_hash != self._genesis.spec.hash:
            made_for = f"made for the chain {archive.genesis_hash.hex()}, not {self._genesis.spec.hash.hex()}"
            self.find(name, "genesis", made_for)
            return None
        return archive

    def take_document(self, name: str, document: EpochChanges) -> None:
        if document.chain != self._genesis.spec.hash:
            self.find(name, "chain", f"it is of {document.chain.hex()}, not of this chain")
            return
        self._changes.documents.append((name, document.changes))
        for change in document.changes:
            if _is_at(self._client.checkpoint, change):
                self._start_at(change)

    def walk(self, name: str, archive: RawArchive, progress: Callable[[str, int, int], None]) -> None:
        checkpoint = self._client.checkpoint
        is_above = archive.pruned_below > checkpoint.height
        if is_above:
            with contextlib.suppress(Fault, StorageError):  # said by the walk
                for change in stored_changes(archive):
                    if _is_at(checkpoint, change):
                        self._start_at(change)
        walk = Walk(name, archive, (self._trusted if is_above else self._origin).history.copy(), checkpoint)
        try:
            walk.run(progress)
        except Fault as fault:
            self.find(name, fault.field, fault.reason, walk.expected)
        except StorageError as error:
            self.find(name, "archive", str(error), walk.expected)
        else:
            self._walks.append((walk, archive))
            self._changes.archives.append((name, archive))
            if walk.start is not None:
                self._start_at(walk.start)

    def _start_at(self, change: EpochChange) -> None:
        """The epoch that ``change`` begins is the checkpoint's: nothing before it is taken on signatures."""
        if change.epoch > self._trusted.epoch.epoch:
            with contextlib.suppress(ValueError):  # said when it is followed
                self._trusted = trusted_from(self._origin, change)
                self._client = LightClient(self._trusted.history, self._client.checkpoint)

    def follow(self) -> None:
        """Learn the changes of all sources."""
        for name, changes in self._changes.all():
            try:
                for change in changes:
                    self._genesis.follow((change,))
                    if change.epoch > self._trusted.epoch.epoch:
                        self._follow(change)
            except Fault as fault:
                self.find(name, fault.field, fault.reason)

    def _follow(self, change: EpochChange) -> None:
        outcome = self._client.follow(change)
        if isinstance(outcome, Refusal):
            raise Fault("epochs", outcome.reason)
        fault = fault_of(outcome, change.boundary.height)
        if fault is not None:
            raise fault

    def compare_archives(self) -> None:
        """Each is linked by hash: two that hold the same block hold the same below it."""
        for walk, archive in sorted(self._walks, key=lambda each: each[0].head.height):
            self._compare(walk.name, walk.head, but=archive)

    def take_claim(self, name: str, claim: Claim) -> None:
        self._recall(claim.header.epoch)
        is_old = claim.header.epoch < self._trusted.epoch.epoch
        try:
            claim.verify(self._genesis if is_old else self._trusted)
        except VerificationError as error:
            self.find(name, error.what, error.reason, claim.height)
            return
        assert claim.commit_proof is not None, "it was verified"
        header_id = digest(claim.header)
        shown = Proven(header=claim.header, block_id=header_id, proof=claim.commit_proof)
        if self._compare(name, shown):
            report = ClaimReport(name=name, shows=_shows(claim), height=claim.height, block_id=header_id)
            self._claims.append(report)

    def _recall(self, epoch: Epoch) -> None:
        """Have an old epoch's validators again that were followed before."""
        for history in (self._genesis.history, self._trusted.history):
            if history.boundary(epoch) is not None and history.info(epoch) is None:
                with contextlib.suppress(Fault):  # a row that was never read, of an archive that is named already
                    history.extend_all(self._changes.find(epoch))

    def _compare(self, name: str, shown: Proven, but: RawArchive | None = None) -> bool:
        """Whether a proven block stands in every archive that covers its height, and beside what was seen so far."""
        anchored = False
        for walk, archive in self._walks:
            if archive is but or not archive.pruned_below <= shown.height <= walk.head.height:
                continue
            row = next(archive.raw_headers(shown.height))
            stored = sha256(row.header).digest()
            if stored != shown.block_id:
                fork = f"{shown.block_id.hex()} is committed here, {stored.hex()} in {walk.name}: the chain has forked"
                self.find(name, "fork", fork, shown.height)
                return False
            anchored = True
        if anchored and shown.height < self._client.checkpoint.height:
            return True  # the archive leads up to the checkpoint by hash
        fault = fault_of(self._client.advance(shown.header, shown.proof), shown.height)
        if fault is None:
            return True
        self.find(name, fault.field, fault.reason, shown.height)
        return False

    def check_fresh(self, now_ms: int, age_ms_max: int) -> None:
        refusal = self._client.check_fresh(now_ms, age_ms_max)
        if refusal is not None:
            self.find("all sources", "age", refusal.reason)

    def verdict(self) -> LightVerdict:
        return LightVerdict(
            head=self._client.head,
            epoch=self._client.epoch,
            checkpoint=self._client.checkpoint,
            archives=tuple(walk.report() for walk, _ in self._walks),
            claims=tuple(self._claims),
            findings=tuple(self._findings),
        )

    def find(self, name: str, field: str, reason: str, height: Height | None = None) -> None:
        self._findings.append(Finding(home=name, height=height, field=field, reason=reason))


@dataclass(frozen=True)
class _Changes:
    """Where the changes of epochs are found."""

    archives: list[tuple[str, RawArchive]] = field(default_factory=list)
    documents: list[tuple[str, tuple[EpochChange, ...]]] = field(default_factory=list)

    def all(self) -> Iterator[tuple[str, Iterable[EpochChange]]]:
        for name, archive in self.archives:
            yield name, stored_changes(archive)
        yield from self.documents

    def find(self, epoch: Epoch) -> Iterator[EpochChange]:
        for _, changes in self.documents:
            yield from (change for change in changes if change.epoch == epoch)
        for _, archive in self.archives:
            yield from islice(stored_changes(archive, epoch), 1)


def _is_at(checkpoint: Checkpoint, change: EpochChange) -> bool:
    boundary = change.boundary
    return boundary.height == checkpoint.height and digest(boundary) == checkpoint.block_id


def _shows(claim: Claim) -> str:
    match claim:
        case Receipt():
            rung = ", final" if claim.finality is not None else ""
            return f"transaction {claim.transaction_id.hex()}, number {claim.index} of rollup {claim.rollup_id}{rung}"
        case Section():
            return f"all of rollup {claim.rollup_id}: {len(claim.transactions)} transactions"
        case BlockSummary():
            return f"a block of {len(claim.sections)} rollups"
        case _:
            assert_never(claim)
