"""Is this on the chain? From headers and commit proofs alone: archives without their bodies, and the files that clients
keep (receipts, sections, block summaries). Offline.

What is trusted is the genesis and, where one is given, a checkpoint. An archive is walked upwards: every header hashes
to its id and stands on the one below, every stored proof shows its block committed to a
:class:`~consensus.light_client.LightClient`, and the last header has one. Files prove themselves; then each is compared
with the archives and with the other files, so that two sides of a fork do not pass together.

Bodies are not read: that they are those that the headers name, and that the chain's rules on order and expiry hold, is
what :mod:`sequencer.verify` shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias, assert_never

import msgspec

from consensus.codec import Malformed, commit_proofs, digest, headers
from consensus.engine import Refusal
from consensus.light_client import Advanced, Checkpoint, Fork, Known, LightClient, Outcome, Proven, link_fault
from consensus.types import BlockHeader, BlockId, CommitProof, Height
from sequencer.archive_check import Finding
from sequencer.block_summary import BlockSummary
from sequencer.genesis import Genesis
from sequencer.json_form import DEPTH_MAX, from_json, is_nested_deeper
from sequencer.receipts import Receipt, Section, VerificationError
from sequencer.storage import InUseError, RawArchive, StorageError, open_raw_archive
from sequencer.storage.raw_archive import RawHeader

SOURCES_MAX: Final = 256
CLAIM_SIZE_MAX: Final = 256 * 1024 * 1024
"""The largest section in JSON, with room."""

_ABSENT: Final = msgspec.Raw()

Claim: TypeAlias = Receipt | Section | BlockSummary


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something to verify under the name that findings show: an archive's file, or a claim as it was read."""

    name: str
    content: Path | Claim | Malformed


@dataclass(frozen=True, kw_only=True)
class ArchiveReport:
    """A sound archive: headers from ``pruned_below`` to ``height``, ``proofs`` of them with a proof of their own.
    ``linked``: they were followed by hash from genesis or through the checkpoint; otherwise the commit proofs alone
    tie them to it."""

    name: str
    pruned_below: Height
    height: Height
    block_id: BlockId
    proofs: int
    linked: bool


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
    any."""

    head: Checkpoint | Proven
    checkpoint: Checkpoint
    archives: tuple[ArchiveReport, ...]
    claims: tuple[ClaimReport, ...]
    findings: tuple[Finding, ...]

    @property
    def agreement(self) -> bool:
        """Nothing was found to be wrong."""
        return not self.findings


def read_claim(data: bytes) -> Claim | Malformed:
    """A receipt, section or block summary: canonical MessagePack, their JSON, or the JSON in which the API and
    ``sequencer submit --json`` answer. Nothing is verified yet."""
    if len(data) > CLAIM_SIZE_MAX:
        return Malformed(f"larger than {CLAIM_SIZE_MAX} bytes")
    if data.lstrip()[:1] == b"{":
        return _claim_in_json(data)
    reasons = []
    for kind in (Receipt, Section, BlockSummary):
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


def _claim_in_json(data: bytes) -> Claim | Malformed:
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
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        return Malformed(str(error))
    return Malformed("no receipt, no section and no block summary")


def _summary_in_json(data: bytes) -> BlockSummary | Malformed:
    """As the API shows it: with the id, which is hashed anew here, and maybe without a proof."""
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    fields.setdefault("commit_proof", msgspec.Raw(b"null"))
    fields.pop("block_id", None)
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
        claims: list[tuple[Height, str, Claim]] = []
        for source in sources:
            match source.content:
                case Path() as path:
                    judge.open_archive(source.name, path, opened, progress)
                case Malformed(reason=reason):
                    judge.find(source.name, "file", f"neither an archive nor a claim: {reason}")
                case claim:
                    claims.append((claim.height, source.name, claim))
        for _, name, claim in sorted(claims, key=lambda each: each[:2]):
            judge.take_claim(name, claim)
        judge.compare_archives()
        if age_ms_max is not None:
            judge.check_fresh(now_ms, age_ms_max)
        return judge.verdict()


class _Fault(Exception):
    """Leads from where a row fails to where its archive is known."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


class _Judge:
    """All sources of one call, and one light client that sees the best of each."""

    def __init__(self, genesis: Genesis, checkpoint: Checkpoint | None) -> None:
        self._genesis = genesis
        self._client = LightClient(genesis.history.copy(), checkpoint)
        self._walks: list[tuple[_Walk, RawArchive]] = []
        self._claims: list[ClaimReport] = []
        self._findings: list[Finding] = []

    def open_archive(
        self, name: str, path: Path, opened: contextlib.ExitStack, progress: Callable[[str, int, int], None]
    ) -> None:
        try:
            archive = opened.enter_context(open_raw_archive(path))
        except InUseError:
            raise  # nothing is wrong with it: it cannot be judged while its node runs
        except StorageError as error:
            self.find(name, "archive", str(error))
            return
        if archive.genesis_hash != self._genesis.spec.hash:
            made_for = f"made for the chain {archive.genesis_hash.hex()}, not {self._genesis.spec.hash.hex()}"
            self.find(name, "genesis", made_for)
            return
        walk = _Walk(name, archive, self._genesis, self._client.checkpoint)
        try:
            walk.run(progress)
        except _Fault as fault:
            self.find(name, fault.field, fault.reason, walk.expected)
        except StorageError as error:
            self.find(name, "archive", str(error), walk.expected)
        else:
            self._walks.append((walk, archive))

    def compare_archives(self) -> None:
        """Each is linked by hash: two that hold the same block hold the same below it."""
        for walk, archive in sorted(self._walks, key=lambda each: each[0].head.height):
            self._compare(walk.name, walk.head, but=archive)

    def take_claim(self, name: str, claim: Claim) -> None:
        try:
            claim.verify(self._genesis)
        except VerificationError as error:
            self.find(name, error.what, error.reason, claim.height)
            return
        assert claim.commit_proof is not None, "it was verified"
        header_id = digest(claim.header)
        shown = Proven(header=claim.header, block_id=header_id, proof=claim.commit_proof)
        if self._compare(name, shown):
            report = ClaimReport(name=name, shows=_shows(claim), height=claim.height, block_id=header_id)
            self._claims.append(report)

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
        fault = _fault(self._client.advance(shown.header, shown.proof), shown.height)
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
            checkpoint=self._client.checkpoint,
            archives=tuple(walk.report() for walk, _ in self._walks),
            claims=tuple(self._claims),
            findings=tuple(self._findings),
        )

    def find(self, name: str, field: str, reason: str, height: Height | None = None) -> None:
        self._findings.append(Finding(home=name, height=height, field=field, reason=reason))


class _Walk:
    """One archive, upwards. ``expected`` is the height that comes next, and where a fault was found."""

    def __init__(self, name: str, archive: RawArchive, genesis: Genesis, checkpoint: Checkpoint) -> None:
        self.name = name
        self.expected: Height = archive.pruned_below
        self._archive = archive
        self._genesis = genesis
        self._checkpoint = checkpoint
        self._client = LightClient(genesis.history.copy(), checkpoint)
        self._last: Proven | None = None
        self._before: tuple[BlockId, BlockHeader | None] | None = None
        self._proofs = 0
        origin = Checkpoint(height=0, block_id=genesis.spec.hash)
        for known in (origin, checkpoint):
            if archive.pruned_below == known.height + 1:
                self._before = (known.block_id, None)
        self._linked = self._before is not None or archive.pruned_below <= checkpoint.height

    @property
    def head(self) -> Proven:
        assert self._last is not None, "a sound walk ends with a proof"
        return self._last

    def run(self, progress: Callable[[str, int, int], None]) -> None:
        """Raises :class:`_Fault` and ``StorageError``."""
        total = self._archive.committed_height() - self.expected + 1
        for done, row in enumerate(self._archive.raw_headers()):
            progress(f"headers of {self.name}", done, total)
            self._judge(row)
            self.expected += 1
        self.expected -= 1
        if self._before is None or self.expected < self._archive.pruned_below:
            raise _Fault("archive", "it holds no block")
        if self._last is None or self._last.height != self.expected:
            unproven = self._archive.pruned_below if self._last is None else self._last.height + 1
            raise _Fault("proof", f"the commits from height {unproven} on carry no proof")
        if self.expected < self._checkpoint.height:
            raise _Fault("height", f"the archive ends here, below the checkpoint at height {self._checkpoint.height}")

    def report(self) -> ArchiveReport:
        return ArchiveReport(
            name=self.name,
            pruned_below=self._archive.pruned_below,
            height=self.head.height,
            block_id=self.head.block_id,
            proofs=self._proofs,
            linked=self._linked,
        )

    def _judge(self, row: RawHeader) -> None:
        if row.height != self.expected:
            raise _Fault("height", f"no block is committed here, the next row says {row.height}")
        for name, value in (("id", row.id), ("header", row.header), ("proof", row.proof)):
            if not isinstance(value, bytes) and not (value is None and name == "proof"):
                raise _Fault(name, f"stored as {type(value).__name__}, not as bytes")
        header = headers.decode(row.header)
        if isinstance(header, Malformed):
            raise _Fault("header", header.reason)
        block_id = sha256(row.header).digest()
        if block_id != row.id:
            raise _Fault("header", f"the header hashes to {block_id.hex()}, stored is the id {row.id.hex()}")
        if header.height != row.height:
            raise _Fault("height", f"the row names a block of height {header.height}")
        if row.height == self._checkpoint.height and block_id != self._checkpoint.block_id:
            raise _Fault("checkpoint", f"{block_id.hex()} stands here, trusted is {self._checkpoint.block_id.hex()}")
        fault = None if self._before is None else link_fault(header, *self._before)
        if fault is not None:
            raise _Fault("header", fault)
        self._before = (block_id, header)
        if row.proof is not None:
            self._prove(Proven(header=header, block_id=block_id, proof=_proof_in(row.proof)))

    def _prove(self, shown: Proven) -> None:
        if shown.height < self._checkpoint.height:  # what ties it to the checkpoint is the path, the proof is extra
            refusal = self._genesis.verify_commit(shown.proof, shown.header, shown.header.epoch)
            fault = None if refusal is None else _Fault("proof", refusal.reason)
        else:
            fault = _fault(self._client.advance(shown.header, shown.proof), shown.height)
        if fault is not None:
            raise fault
        self._last = shown
        self._proofs += 1


def _proof_in(encoded: bytes) -> CommitProof:
    proof = commit_proofs.decode(encoded)
    if isinstance(proof, Malformed):
        raise _Fault("proof", proof.reason)
    return proof


def _fault(outcome: Outcome, height: Height) -> _Fault | None:
    match outcome:
        case Advanced() | Known():
            return None
        case Fork(reason=reason):
            return _Fault("fork", f"{reason}: the chain has forked")
        case Refusal(reason=reason):
            return _Fault("proof", reason.removeprefix(f"height {height}: "))
        case _:
            assert_never(outcome)


def _shows(claim: Claim) -> str:
    match claim:
        case Receipt():
            return f"transaction {claim.transaction_id.hex()}, number {claim.index} of rollup {claim.rollup_id}"
        case Section():
            return f"all of rollup {claim.rollup_id}: {len(claim.transactions)} transactions"
        case BlockSummary():
            return f"a block of {len(claim.sections)} rollups"
        case _:
            assert_never(claim)
