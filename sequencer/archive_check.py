"""Judges the archives of stopped nodes from their raw bytes: nothing that a node concluded is believed.

The archives are walked together, height by height. At each height every home's row is judged alone (header bytes hash
to the id, link to the parent, body gives the payload root and keeps the chain's rules, a stored proof shows the commit
under the chain spec), then the homes are compared. What equal bytes gave at a height is concluded once, whoever holds
them. A home's first fault ends its walk: what follows it would be named for the wrong reason. Two sound blocks at one
height end the walk for all.

Across epochs (``epoch_check.py``): which validators a boundary must name is derived from the system transactions before
it; each home's account of how an epoch began is verified under the epoch before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import trio

from consensus.codec import Malformed, block_of, commit_proofs, digest, headers
from consensus.engine import SafetyRecord
from consensus.epochs import CLOSING_PAYLOAD_ROOT
from consensus.finality.types import LinkCertificate, link_certificates
from consensus.genesis import SYSTEM_ROLLUP, ChainSpec
from consensus.types import Block, BlockHeader, CommitProof, Height
from sequencer.body import Payload, decode_payload
from sequencer.epoch_check import EpochCheck
from sequencer.genesis import genesis_of
from sequencer.storage import RawArchive, RawBlock, StorageError
from sequencer.storage.raw_archive import RawUndecided
from sequencer.transactions import Position, TransactionId

Progress = Callable[[str, int, int], None]
"""Told ``(stage, done, total)`` now and then."""
FAULTS_PER_HOME_MAX: Final = 32


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong, and where. ``height`` is None for what belongs to no height; ``field`` names the part of the row
    (``header``, ``id``, ``body``, ``proof``, ``height``, ...)."""

    home: str
    height: Height | None
    field: str
    reason: str

    def __str__(self) -> str:
        where = "" if self.height is None else f" height {self.height}:"
        return f"{self.home}:{where} {self.field}: {self.reason}"


class _Fault(Exception):
    """Leads from where a row fails to where its home is known."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


@dataclass(slots=True)
class _AtHeight:
    """What was concluded about raw bytes at one height. Keyed by the bytes themselves."""

    headers: dict[bytes, Block | Malformed] = field(default_factory=dict)
    payloads: dict[bytes, Payload | Malformed] = field(default_factory=dict)
    proofs: dict[tuple[bytes, bytes], str] = field(default_factory=dict)
    rules: dict[bytes, str] = field(default_factory=dict)

    def block(self, header: bytes) -> Block | Malformed:
        found = self.headers.get(header)
        if found is None:
            decoded = headers.decode(header)
            found = decoded if isinstance(decoded, Malformed) else block_of(decoded)
            self.headers[header] = found
        return found

    def payload(self, body: bytes) -> Payload | Malformed:
        found = self.payloads.get(body)
        if found is None:
            found = self.payloads[body] = decode_payload(body)
        return found


class _Rows:
    """A home's rows with a look at the next two. SQLite's complaint ends them, as a fault of ``block``."""

    def __init__(self, rows: Iterator[RawBlock]) -> None:
        self._rows = rows
        self._ahead: list[RawBlock | StorageError | None] = [self._next(), self._next()]

    def _next(self) -> RawBlock | StorageError | None:
        try:
            return next(self._rows, None)
        except StorageError as error:
            return error

    def advance(self) -> None:
        self._ahead = [self._ahead[1], self._next()]

    @property
    def current(self) -> RawBlock | None:
        row = self._ahead[0]
        if isinstance(row, StorageError):
            raise _Fault("block", str(row))
        return row

    @property
    def is_last(self) -> bool:
        """No row follows the current one."""
        return self._ahead[1] is None

    def named(self) -> list[bytes]:
        """The ids that the current row's proof and the next row's header give the current block."""
        row, following = self._ahead
        named = []
        if isinstance(row, RawBlock) and isinstance(row.proof, bytes):
            proof = commit_proofs.decode(row.proof)
            if isinstance(proof, CommitProof):
                named.append(proof.headers[0].parent if proof.headers else proof.certificate.block_id)
        if isinstance(following, RawBlock) and isinstance(following.header, bytes):
            header = headers.decode(following.header)
            if isinstance(header, BlockHeader):
                named.append(header.parent)
        return named


class HomeWalk:
    """One home's archive on its way through the heights."""

    def __init__(self, name: str, archive: RawArchive) -> None:
        self.name = name
        self.archive = archive
        self.rows = _Rows(archive.raw_blocks())
        self.expected: Height = archive.pruned_below
        self.before: Block | None = None
        self.proven: Height = 0
        self.blocks = 0
        self.proofs = 0
        self.sound = True

    def pass_over(self, block: Block) -> None:
        """Its row was judged sound."""
        self.before = block
        self.blocks += 1
        self.expected += 1
        self.rows.advance()

    @property
    def head(self) -> Height:
        """The last height that was judged sound."""
        return self.expected - 1 if self.blocks else 0


class ArchiveCheck:
    """Walks the archives of one chain; see the module's docstring. ``findings`` and the walks hold the results.

    ``acknowledged`` maps the ids of transactions that clients hold a position for to that position; each must stand
    there. Memory: the ids of the last K heights, and one height's bodies at a time.
    """

    def __init__(
        self, spec: ChainSpec, archives: Mapping[str, RawArchive], acknowledged: Mapping[TransactionId, Position]
    ) -> None:
        self.spec = spec
        self.chain = spec.hash
        self.genesis = genesis_of(spec)
        self.findings: list[Finding] = []
        self.walks: list[HomeWalk] = []
        system = () if spec.reconfiguration is None else (SYSTEM_ROLLUP,)
        self.transactions = dict.fromkeys((*spec.rollups, *system), 0)
        self._missing = dict(acknowledged)
        self._recent: deque[tuple[Height, Payload]] = deque()
        self._ordered: dict[TransactionId, Height] = {}
        for name, archive in archives.items():
            if archive.genesis_hash != self.chain:
                other = f"made for the chain {archive.genesis_hash.hex()}, not {self.chain.hex()}"
                self.findings.append(Finding(home=name, height=None, field="genesis", reason=other))
            else:
                self.walks.append(HomeWalk(name, archive))
        is_whole = any(walk.archive.pruned_below == 1 for walk in self.walks)
        self.epochs = EpochCheck(self.genesis, is_whole=is_whole)

    async def run(self, progress: Progress) -> None:
        """Judge and compare everything."""
        for walk in self.walks:
            progress("structure", self.walks.index(walk), len(self.walks))
            self._check_aside(walk)
            await trio.lowlevel.checkpoint()
        lowest = min((walk.expected for walk in self.walks), default=1)
        total = max((walk.archive.committed_height() for walk in self.walks), default=0) - lowest + 1
        active = list(self.walks)
        while active:
            height = min(walk.expected for walk in active)
            ended = self._judge_height(height, [walk for walk in active if walk.expected == height])
            active = [walk for walk in active if walk not in ended]
            progress("blocks", min(height - lowest + 1, total), total)
            await trio.lowlevel.checkpoint()
        complete = any(walk.archive.pruned_below == 1 for walk in self.walks)
        for transaction_id, position in self._missing.items() if complete else ():
            reason = f"transaction {transaction_id.hex()} is not at {position}"
            self.findings.append(
                Finding(home="every home", height=position.height, field="acknowledged", reason=reason)
            )

    # --- one height ----------------------------------------------------------------------------------------------

    def _judge_height(self, height: Height, walks: Sequence[HomeWalk]) -> list[HomeWalk]:
        """Judge the height's rows. Returns the walks that end here."""
        known = _AtHeight()
        # They tell a changed id from a changed header.
        named = frozenset(block_id for walk in walks for block_id in walk.rows.named())
        sound: dict[bytes, list[HomeWalk]] = {}
        payload: Payload | None = None
        ended: list[HomeWalk] = []
        for walk in walks:
            try:
                judged = self._judge(known, walk, named)
            except _Fault as fault:
                self._find(walk, fault.field, fault.reason, height)
                judged = None
            if judged is None:
                ended.append(walk)
            else:
                block, payload = judged
                sound.setdefault(block.id, []).append(walk)
                walk.pass_over(block)
        if len(sound) > 1:
            self._fork(height, sound)
            return list(self.walks)
        if payload is not None:
            self._take(height, payload)
        return ended

    def _fork(self, height: Height, sound: Mapping[bytes, Sequence[HomeWalk]]) -> None:
        sides = sorted(sound.items(), key=lambda side: -len(side[1]))
        (most, holders), *others = sides
        for other, walks in others:
            for walk in walks:
                reason = f"{other.hex()} is committed here, {most.hex()} in {', '.join(w.name for w in holders)}"
                self._find(walk, "id", reason, height)

    def _take(self, height: Height, payload: Payload) -> None:
        """The height's payload, common to all who hold it, enters the window and leaves what was acknowledged."""
        while self._recent and self._recent[0][0] < height - self.spec.deduplication_heights:
            oldest, left = self._recent.popleft()
            for transaction_id in left.positions:
                if self._ordered.get(transaction_id) == oldest:
                    del self._ordered[transaction_id]
        self.epochs.take(height, payload)
        self._recent.append((height, payload))
        self._ordered.update(dict.fromkeys(payload.positions, height))
        for section in payload.sections:
            self.transactions[section.rollup_id] += len(section.ids)
            if self._missing:
                for index, transaction_id in enumerate(section.ids):
                    position = Position(rollup_id=section.rollup_id, height=height, index=index)
                    if self._missing.get(transaction_id) == position:
                        del self._missing[transaction_id]

    # --- one row -------------------------------------------------------------------------------------------------

    def _judge(self, known: _AtHeight, walk: HomeWalk, named: frozenset[bytes]) -> tuple[Block, Payload] | None:
        """The row's block when everything about it is right; None at the end of the archive. Raises :class:`_Fault`."""
        row = walk.rows.current
        if row is None:
            if walk.proven != walk.head:
                raise _Fault("proof", f"the commits from height {walk.proven + 1} on carry no proof")
            if walk.before is not None:
                _raise("epochs", self.epochs.end_fault(walk.archive, walk.before.header))
            return None
        self._check_row(row, walk)
        block = self._check_header(known, row, named)
        if not walk.blocks and row.height > 1:
            _raise("epochs", self.epochs.begin(walk.archive, block.header))
        self._check_links(block, row, walk)
        payload = self._check_body(known, block, row)
        if row.proof is not None:
            self._check_proof(known, block, row.proof)
            walk.proven = row.height
            walk.proofs += 1
        if block.header.next_validators_hash:
            fault = self.epochs.boundary_fault(walk.archive, block, is_last=walk.rows.is_last)
            _raise("epochs", fault)
        return block, payload

    def _check_row(self, row: RawBlock, walk: HomeWalk) -> None:
        if row.height != walk.expected:
            first = "" if walk.blocks else f" (the archive says that it is pruned below {walk.archive.pruned_below})"
            raise _Fault("height", f"no block is committed here, the next row says {row.height}{first}")
        for name, value in (("id", row.id), ("header", row.header), ("body", row.body), ("proof", row.proof)):
            if not isinstance(value, bytes) and not (value is None and name == "proof"):
                raise _Fault(name, f"stored as {type(value).__name__}, not as bytes")

    def _check_header(self, known: _AtHeight, row: RawBlock, named: frozenset[bytes]) -> Block:
        block = known.block(row.header)
        if isinstance(block, Malformed):
            raise _Fault("header", block.reason)
        if block.id != row.id:
            changed = "id" if block.id in named else "header"
            raise _Fault(changed, f"the header hashes to {block.id.hex()}, stored is the id {row.id.hex()}")
        return block

    def _check_links(self, block: Block, row: RawBlock, walk: HomeWalk) -> None:
        header, before = block.header, walk.before
        if header.height != row.height:
            raise _Fault("height", f"the row names a block of height {header.height}")
        if header.chain != self.chain:
            raise _Fault("header", f"of chain {header.chain.hex()}")
        _raise("header", self.epochs.header_fault(header))
        if before is None and row.height > 1:
            return  # the first after pruning: its proof ties it to the chain
        parent = self.chain if before is None else before.id
        epoch = 0 if before is None else before.header.epoch + bool(before.header.next_validators_hash)
        if header.epoch != epoch:
            raise _Fault("header", f"of epoch {header.epoch}, where epoch {epoch} goes on")
        if header.parent != parent:
            raise _Fault("header", f"names the parent {header.parent.hex()}, below it stands {parent.hex()}")
        view, timestamp_ms = (
            (0, self.spec.genesis_time_ms) if before is None else (before.header.view, before.header.timestamp_ms)
        )
        begins = before is not None and header.epoch != before.header.epoch
        if (header.view <= view and not begins) or header.timestamp_ms <= timestamp_ms:
            raise _Fault("header", "its view or its timestamp is not after the parent's")

    def _check_body(self, known: _AtHeight, block: Block, row: RawBlock) -> Payload:
        header = block.header
        if len(row.body) != header.payload_size:
            raise _Fault("body", f"{len(row.body)} bytes, the header says {header.payload_size}")
        payload = known.payload(row.body)
        if isinstance(payload, Malformed):
            raise _Fault("body", payload.reason)
        if payload.root != header.payload_root:
            raise _Fault("body", f"gives the root {payload.root.hex()}, the header says {header.payload_root.hex()}")
        broken = known.rules.get(block.id)
        if broken is None:
            broken = known.rules[block.id] = self._broken_rule(payload, header)
        if broken:
            raise _Fault("body", broken)
        return payload

    def _broken_rule(self, payload: Payload, header: BlockHeader) -> str:
        """The chain's rule that a payload breaks, or nothing."""
        latest = header.height + self.spec.deduplication_heights
        if header.payload_size > self.spec.payload_size_max:
            return f"larger than the chain's {self.spec.payload_size_max} bytes"
        for section in payload.sections:
            if section.rollup_id not in self.transactions:
                return f"orders for rollup {section.rollup_id}, which is not of this chain"
            if max(map(len, section.transactions)) > self.spec.transaction_size_max:
                return f"a transaction of rollup {section.rollup_id} exceeds {self.spec.transaction_size_max} bytes"
            if any(until and not header.height <= until <= latest for until in section.valid_untils):
                return f"a transaction of rollup {section.rollup_id} was expired, or expires too late"
        lowest = max(0, header.height - self.spec.deduplication_heights)
        again = next((each for each in payload.positions if self._ordered.get(each, -1) >= lowest), None)
        return "" if again is None else f"transaction {again.hex()} was ordered at {self._ordered[again]} already"

    def _check_proof(self, known: _AtHeight, block: Block, encoded: bytes) -> None:
        key = (block.id, encoded)
        fault = known.proofs.get(key)
        if fault is None:
            proof = commit_proofs.decode(encoded)
            if isinstance(proof, Malformed):
                fault = proof.reason
            else:
                refusal = self.genesis.verify_commit(proof, block.header, block.header.epoch)
                fault = "" if refusal is None else refusal.reason
            known.proofs[key] = fault
        if fault:
            raise _Fault("proof", fault)

    # --- what is beside the chain --------------------------------------------------------------------------------

    def _check_aside(self, walk: HomeWalk) -> None:
        """SQLite's pages, the undecided blocks, the journal's decisions, the kept proofs and finality's certificates.
        Of the latter only that they are what the node wrote: agreement does not rest on them."""
        try:
            for fault in walk.archive.structural_faults():
                self._find(walk, "structure", fault)
            for undecided in walk.archive.raw_undecided():
                if fault := _undecided_fault(undecided):
                    self._find(walk, "undecided block", fault, undecided.height)
            for decision in walk.archive.raw_decisions():
                record = SafetyRecord(kind=decision.kind, subject=decision.subject, state=decision.state)
                if digest(record) != decision.digest:
                    self._find(walk, "safety", f"the decision of kind {decision.kind!r} is not that of its digest")
            for kept in walk.archive.raw_transcript():
                if sha256(kept.proof).digest() != kept.digest:
                    self._find(walk, "transcript", f"a kept proof is not that of its digest {kept.digest.hex()}")
            for link in walk.archive.raw_links():
                certificate = link_certificates.decode(link.certificate)
                named = isinstance(certificate, LinkCertificate) and (
                    (certificate.target.height, certificate.source.height) == (link.target, link.source)
                )
                if not named or sha256(link.certificate).digest() != link.digest:
                    self._find(walk, "links", f"the link certificate for height {link.target} is not what was written")
        except StorageError as error:
            self._find(walk, "structure", str(error))

    def _find(self, walk: HomeWalk, field: str, reason: str, height: Height | None = None) -> None:
        walk.sound = False
        if sum(finding.home == walk.name for finding in self.findings) < FAULTS_PER_HOME_MAX:
            self.findings.append(Finding(home=walk.name, height=height, field=field, reason=reason))


def _raise(field: str, fault: str) -> None:
    if fault:
        raise _Fault(field, fault)


def _undecided_fault(row: RawUndecided) -> str:
    if not isinstance(row.id, bytes) or not isinstance(row.header, bytes) or not isinstance(row.body, bytes):
        return "missing, or not stored as bytes"
    header = headers.decode(row.header)
    if isinstance(header, Malformed):
        return header.reason
    if sha256(row.header).digest() != row.id:
        return "the header does not hash to the id"
    if header.height != row.height:
        return f"filed under another height than its own, {header.height}"
    if header.payload_root == CLOSING_PAYLOAD_ROOT:
        return "a closing block with a body" if row.body else ""
    payload = decode_payload(row.body)
    if isinstance(payload, Malformed):
        return payload.reason
    return "" if payload.root == header.payload_root else "the body is not the one that the header names"
