"""Proofs of guilt that a node holds: from what its own core reports and from what peers pass on.

Each piece is a file ``<digest>.evidence`` in one directory, as ``sequencer evidence verify`` reads it: of a later
epoch it brings how the epochs began (``evidence_file.py``), unless that takes more than ``CHANGES_BYTES_MAX``: then
``verify`` needs ``--epochs``. A piece is verified before it is kept, kept once, and passed on once to every connected
peer by whoever learns it. What a peer sends that is malformed, of another chain or protocol, expired, or proves nothing
is refused, and the peer is named.

The guilty are validators of the epoch in which they signed. A piece of an epoch that this node has not reached is left
alone: it cannot be judged yet, and its sender may only be ahead. One of an epoch more than ``EPOCHS_BACK_MAX`` ago is
expired.

Bounds: ``PIECES_PER_SIGNER_MAX`` pieces that name a validator's key (one convicts; a piece is kept while anybody in it
is below that) and ``STORE_BYTES_MAX`` bytes in all. What is beyond them is neither kept nor passed on, and where the
bound of everybody that a piece claims to name is reached already, its signatures are not looked at: a flood of true
evidence costs no more than a flood of false.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final, Protocol

import trio

from consensus.codec import Malformed
from consensus.engine import Refusal, ReportEvidence
from consensus.epoch_history import EPOCHS_KEPT_MAX
from consensus.epochs import EpochChange
from consensus.evidence import (
    Evidence,
    Guilt,
    decode_evidence,
    encode_evidence,
    epochs_of,
    evidence_digest,
    evidence_of_report,
    keys_claimed,
    verify_within,
)
from consensus.finality.types import LinkCertificate
from consensus.types import Epoch, epoch_of
from sequencer.evidence_file import (
    FILE_SIZE_MAX,
    EvidenceOfLaterEpoch,
    decode_evidence_file,
    encode_evidence_file,
    follow_changes,
)
from sequencer.genesis import Genesis

PIECES_PER_SIGNER_MAX: Final = 8
STORE_BYTES_MAX: Final = 64 * 1024 * 1024
CHANGES_BYTES_MAX: Final = 1024 * 1024
"""Beginnings of epochs that a file brings: a long history must not use up the store."""
LOOK_INTERVAL_S: Final = 1.0
"""How often a peer that names an unknown epoch makes this node read anew how its own epochs began."""
EPOCHS_BACK_MAX: Final = EPOCHS_KEPT_MAX - 2
"""How many epochs ago an offence may be."""
SUFFIX: Final = ".evidence"
_PARTIAL: Final = ".partial"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece that is kept."""

    digest: bytes
    epoch: Epoch
    guilt: Guilt


EpochSource = Callable[[Epoch], Awaitable[Sequence[EpochChange]]]
"""How the epochs that this node knows began, ascending, from one on: the chain store's ``epoch_changes``."""


async def _one_epoch(_: Epoch) -> Sequence[EpochChange]:
    return ()


class EvidenceChannel(Protocol):
    """The transport's channel for evidence."""

    def broadcast(self, data: bytes) -> None: ...


class EvidenceStore:
    """The pieces of one chain. Call :meth:`load` first. ``epoch_changes`` is asked when evidence names an epoch that
    ``genesis`` does not know yet. Raises ``OSError`` where the directory cannot be used."""

    def __init__(self, directory: Path, genesis: Genesis, epoch_changes: EpochSource = _one_epoch) -> None:
        self._directory = trio.Path(directory)
        self._genesis = genesis
        self._epoch_changes = epoch_changes
        self._pieces: dict[bytes, Piece] = {}
        self._bytes = 0
        self._writing = trio.Lock()
        self._by_key: dict[bytes, int] = {}
        self._looked_at_s = -inf

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All that is kept, oldest first."""
        return tuple(self._pieces.values())

    @property
    def guilty(self) -> tuple[bytes, ...]:
        """The public keys of everybody who is convicted, ascending."""
        return tuple(sorted(self._by_key))

    async def load(self) -> None:
        """Take back what is on the disk. A file that proves nothing here is left alone and named in the log."""
        await self._directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(await self._directory.iterdir()):
            if file.suffix != SUFFIX:
                continue
            async with await file.open("rb") as source:
                data = await source.read(FILE_SIZE_MAX + 1)
            content = decode_evidence_file(data)
            if isinstance(content, EvidenceOfLaterEpoch):
                content = content.evidence
            piece = (
                Refusal(f"evidence: {content.reason}")
                if isinstance(content, Malformed)
                else await self._judge(content, len(data))
            )
            if isinstance(piece, Piece):
                self._keep(piece, len(data))
            else:
                logger.warning("%s is not used: %s", file, "beyond the bounds" if piece is None else piece.reason)

    async def add(self, data: bytes) -> Piece | Refusal | None:
        """Keep a piece from its canonical bytes, in its file when this returns. None when it is known already, beyond
        the bounds, or of an epoch to come; the reason when it proves nothing."""
        evidence = decode_evidence(data)
        if isinstance(evidence, Malformed):
            return Refusal(f"evidence: {evidence.reason}")
        async with self._writing:
            piece = await self._judge(evidence, len(data))
            if isinstance(piece, Piece):
                content = await self._content(evidence, data)
                file = self._directory / f"{piece.digest.hex()}{SUFFIX}"
                partial = file.with_suffix(_PARTIAL)
                await partial.write_bytes(content)
                await partial.rename(file)
                self._keep(piece, len(content))
            return piece

    async def _content(self, evidence: Evidence, data: bytes) -> bytes:
        """What stands in the file of a piece: its canonical bytes, with how the epochs began where it needs that."""
        genesis = self._genesis
        if epochs_of(evidence, genesis.protocol)[-1] == genesis.history.first.epoch:
            return data
        content = encode_evidence_file(evidence, await self._epoch_changes(1), genesis.protocol)
        return content if len(content) <= len(data) + CHANGES_BYTES_MAX else data

    async def _judge(self, evidence: Evidence, size_bytes: int) -> Piece | Refusal | None:
        digest = evidence_digest(evidence)
        if digest in self._pieces or self._bytes + size_bytes > STORE_BYTES_MAX:
            return None
        genesis, named = self._genesis, epochs_of(evidence, self._genesis.protocol)
        newest = await self._reach_for_a_peer(named)
        if named[-1] > newest:
            return None
        if named[0] < newest - EPOCHS_BACK_MAX:
            return Refusal(f"evidence: expired: of epoch {named[0]}, this is epoch {newest}")
        if self._is_full(self._claimed(evidence, named)):
            return None
        guilt = verify_within(evidence, genesis.history, genesis.protocol, genesis.scheme)
        if isinstance(guilt, Refusal):
            return guilt
        return Piece(digest=digest, epoch=evidence.epoch, guilt=guilt)

    async def reach(self, epochs: Iterable[Epoch]) -> Epoch:
        """Have the validators of these epochs, where this node has reached them. The newest epoch that is known."""
        history = self._genesis.history
        if any(history.info(epoch) is None for epoch in epochs):
            oldest_kept = max(0, history.newest.epoch - EPOCHS_BACK_MAX)
            refusal = follow_changes(history, await self._epoch_changes(oldest_kept + 1))
            if refusal is not None:
                logger.error("the own archive does not show how its epochs began: %s", refusal.reason)
        return history.newest.epoch

    async def _reach_for_a_peer(self, epochs: Iterable[Epoch]) -> Epoch:
        """:meth:`reach` for epochs that a peer names, once in a while: to look costs as much as there are epochs, and
        to name one that nobody has reached costs nothing."""
        history, now_s = self._genesis.history, trio.current_time()
        is_known = all(history.info(epoch) is not None for epoch in epochs)
        if is_known or now_s < self._looked_at_s + LOOK_INTERVAL_S:
            return history.newest.epoch
        self._looked_at_s = now_s
        return await self.reach(epochs)

    def _keep(self, piece: Piece, size_bytes: int) -> None:
        self._pieces[piece.digest] = piece
        self._bytes += size_bytes
        for validator in piece.guilt.validators:
            self._by_key[validator.public_key] = self._by_key.get(validator.public_key, 0) + 1

    def _claimed(self, evidence: Evidence, named: Sequence[Epoch]) -> Iterable[bytes]:
        """The keys of everybody whom a piece claims to name."""
        history = self._genesis.history
        one = history.info(evidence.epoch)
        two = history.info(next((epoch for epoch in named if epoch != evidence.epoch), evidence.epoch))
        return () if one is None or two is None else keys_claimed(evidence, one, two)

    def _is_full(self, keys: Iterable[bytes]) -> bool:
        """True when every one of them, and there are some, is named often enough."""
        counts = [self._by_key.get(key, 0) for key in keys]
        return bool(counts) and min(counts) >= PIECES_PER_SIGNER_MAX


class EvidenceExchange:
    """Keeps what the own core reports and what peers send, and passes on what is new."""

    def __init__(self, store: EvidenceStore, channel: EvidenceChannel, genesis: Genesis) -> None:
        self._store = store
        self._channel = channel
        self._genesis = genesis

    async def reported(self, report: ReportEvidence) -> None:
        """The own core saw two messages of one signer that contradict each other, or two link certificates. Raises
        ``ValueError`` when the messages prove nothing: then the core is wrong."""
        genesis = self._genesis
        await self._store.reach(_epochs_in(report))
        found = evidence_of_report(report, genesis.history.info, genesis.protocol, genesis.scheme)
        if not found and not isinstance(report.first, LinkCertificate):  # quorums of two sets may share nobody
            raise ValueError(f"the core reports what no rule forbids: {report}")
        for evidence in found:
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
            names = [validator.name for validator in taken.guilt.validators]
            logger.error("guilty of %s: %s; evidence %s", taken.guilt.offence, ", ".join(names), taken.digest.hex())
            self._channel.broadcast(data)
        return None


def _epochs_in(report: ReportEvidence) -> tuple[Epoch, ...]:
    named: list[Epoch] = []
    for message in (report.first, report.second):
        if isinstance(message, LinkCertificate):
            named += [group.epoch for group in message.groups]
        else:
            named.append(epoch_of(message))
    return tuple(named)
