"""Proofs of guilt that a node holds: from what its own core reports and from what peers pass on.

Each piece is a file ``<digest>.evidence`` in one directory, as ``sequencer evidence verify`` reads it. A piece is
verified before it is kept, kept once, and passed on once to every connected peer by whoever learns it. What a peer
sends that is malformed, of another chain, epoch or protocol, or proves nothing is refused, and the peer is named.

Bounds: ``PIECES_PER_SIGNER_MAX`` pieces that name a validator (one convicts; a piece is kept while anybody in it is
below that) and ``STORE_BYTES_MAX`` bytes in all. What is beyond them is neither kept nor passed on, and where the bound
of everybody that a piece claims to name is reached already, its signatures are not looked at: a flood of true evidence
costs no more than a flood of false.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import trio

from consensus.codec import Malformed
from consensus.engine import Refusal, ReportEvidence
from consensus.evidence import (
    EVIDENCE_SIZE_MAX,
    Evidence,
    Guilt,
    decode_evidence,
    encode_evidence,
    evidence_digest,
    evidence_of_report,
    verify,
)
from consensus.types import ValidatorIndex, signers_of
from sequencer.genesis import Genesis

PIECES_PER_SIGNER_MAX: Final = 8
STORE_BYTES_MAX: Final = 64 * 1024 * 1024
SUFFIX: Final = ".evidence"
_PARTIAL: Final = ".partial"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece that is kept."""

    digest: bytes
    guilt: Guilt


class EvidenceChannel(Protocol):
    """The transport's channel for evidence."""

    def broadcast(self, data: bytes) -> None: ...


class EvidenceStore:
    """The pieces of one chain. Call :meth:`load` first. Raises ``OSError`` where the directory cannot be used."""

    def __init__(self, directory: Path, genesis: Genesis) -> None:
        self._directory = trio.Path(directory)
        self._genesis = genesis
        self._pieces: dict[bytes, Piece] = {}
        self._bytes = 0
        self._writing = trio.Lock()
        self._by_signer: dict[ValidatorIndex, int] = {}

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All that is kept, oldest first."""
        return tuple(self._pieces.values())

    @property
    def guilty(self) -> tuple[ValidatorIndex, ...]:
        """Everybody who is convicted, ascending."""
        return tuple(sorted(self._by_signer))

    async def load(self) -> None:
        """Take back what is on the disk. A file that proves nothing here is left alone and named in the log."""
        await self._directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(await self._directory.iterdir()):
            if file.suffix != SUFFIX:
                continue
            async with await file.open("rb") as source:
                data = await source.read(EVIDENCE_SIZE_MAX + 1)
            piece = self._judge(data)
            if isinstance(piece, Piece):
                self._keep(piece, len(data))
            else:
                logger.warning("%s is not used: %s", file, "beyond the bounds" if piece is None else piece.reason)

    async def add(self, data: bytes) -> Piece | Refusal | None:
        """Keep a piece from its canonical bytes, in its file when this returns. None when it is known already or beyond
        the bounds; the reason when it proves nothing."""
        async with self._writing:
            piece = self._judge(data)
            if isinstance(piece, Piece):
                file = self._directory / f"{piece.digest.hex()}{SUFFIX}"
                partial = file.with_suffix(_PARTIAL)
                await partial.write_bytes(data)
                await partial.rename(file)
                self._keep(piece, len(data))
            return piece

    def _judge(self, data: bytes) -> Piece | Refusal | None:
        evidence = decode_evidence(data)
        if isinstance(evidence, Malformed):
            return Refusal(f"evidence: {evidence.reason}")
        digest = evidence_digest(evidence)
        if digest in self._pieces or self._bytes + len(data) > STORE_BYTES_MAX or self._is_full(_claimed(evidence)):
            return None
        genesis = self._genesis
        guilt = verify(evidence, genesis.epoch, genesis.protocol, genesis.scheme)
        if isinstance(guilt, Refusal):
            return guilt
        return Piece(digest=digest, guilt=guilt)

    def _keep(self, piece: Piece, size_bytes: int) -> None:
        self._pieces[piece.digest] = piece
        self._bytes += size_bytes
        for signer in piece.guilt.signers:
            self._by_signer[signer] = self._by_signer.get(signer, 0) + 1

    def _is_full(self, signers: Iterator[ValidatorIndex]) -> bool:
        """True when every one of them, and there are some, is named often enough."""
        counts = [self._by_signer.get(signer, 0) for signer in signers]
        return bool(counts) and min(counts) >= PIECES_PER_SIGNER_MAX


def _claimed(evidence: Evidence) -> Iterator[ValidatorIndex]:
    held = frozenset(signers_of(evidence.second.signers))
    return (signer for signer in signers_of(evidence.first.signers) if signer in held)


class EvidenceExchange:
    """Keeps what the own core reports and what peers send, and passes on what is new."""

    def __init__(self, store: EvidenceStore, channel: EvidenceChannel, genesis: Genesis) -> None:
        self._store = store
        self._channel = channel
        self._genesis = genesis

    async def reported(self, report: ReportEvidence) -> None:
        """The own core saw two messages of one signer that contradict each other. Raises ``ValueError`` when they prove
        nothing: then the core is wrong."""
        genesis = self._genesis
        evidence = evidence_of_report(report, genesis.epoch, genesis.protocol, genesis.scheme)
        if evidence is None:
            raise ValueError(f"the core reports what no rule forbids: {report}")
        result = await self._add(encode_evidence(evidence))
        if result is not None:
            raise ValueError(f"the core reports what does not verify: {result.reason}")

    async def received(self, data: bytes) -> str | None:
        """Take a peer's frame; what is wrong with it."""
        result = await self._add(data)
        return None if result is None else result.reason

    async def _add(self, data: bytes) -> Refusal | None:
        taken = await self._store.add(data)
        if isinstance(taken, Refusal):
            return taken
        if taken is not None:
            names = [self._genesis.spec.validators[signer].name for signer in taken.guilt.signers]
            logger.error("guilty of %s: %s; evidence %s", taken.guilt.offence, ", ".join(names), taken.digest.hex())
            self._channel.broadcast(data)
        return None
