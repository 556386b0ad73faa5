"""What the driver needs from the world. The node gives real ones, tests and the simulator give others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from consensus.engine import (
    BuildPayload,
    CheckPayload,
    Commit,
    EndEpoch,
    EpochReady,
    Finalize,
    LoadBlocks,
    OfferLinks,
    PayloadBuilt,
    PayloadVerdict,
    Record,
    Recovered,
    ReportEvidence,
)
from consensus.signing import SigningDomain
from consensus.types import CommitProof, Height, Nanoseconds, PeerId, StoredBlock, Subject


class Journal(Protocol):
    """Durable decisions. Any exception it raises stops the node before anything is sent."""

    async def append(self, records: Sequence[Record]) -> None:
        """Return when every record is durable (synced to the disk)."""
        ...

    async def recover(self, ledger_height: Height) -> Recovered:
        """What was durable before this start. ``ledger_height`` is the height up to which the ledger needs no commits
        again."""
        ...


class LoadedBlocks(msgspec.Struct, frozen=True, kw_only=True):
    """What the archive holds of a request: see ``BlocksLoaded``."""

    blocks: tuple[StoredBlock, ...]
    proof: CommitProof | None
    pruned_below: Height
    head: Height


class Archive(Protocol):
    """Committed and stored blocks, for peers that are behind."""

    async def load(self, request: LoadBlocks) -> LoadedBlocks:
        """Answer within the caps of ``SYNC_BLOCKS_MAX`` blocks and ``SYNC_BYTES_MAX`` bytes of bodies (at least one
        block)."""
        ...


class Signer(Protocol):
    """Holds the key. It may live in another process."""

    async def sign(self, subject: Subject, public_key: bytes, domain: SigningDomain) -> bytes | None:
        """The signature of ``public_key``'s secret over ``domain.bytes_to_sign(subject)``. Asked twice, it gives the
        same answer. None when it is not given and the node goes on, as if the message had been lost. Raises when it
        refuses."""
        ...


class Connected(msgspec.Struct, frozen=True):
    """A peer completed its hello."""

    peer: PeerId


class Disconnected(msgspec.Struct, frozen=True):
    """A peer's connection ended, and no newer one took its place."""

    peer: PeerId


class Frame(msgspec.Struct, frozen=True, gc=False):
    """Bytes of one frame from an authenticated peer."""

    peer: PeerId
    data: bytes


class Transport(Protocol):
    """Moves frames between authenticated peers. Sending never waits: a full queue drops, by the rules of its
    stream."""

    def broadcast(self, frame: bytes, *, bulk: bool) -> None: ...

    def send(self, peer: PeerId, frame: bytes, *, bulk: bool) -> None: ...

    async def receive(self) -> Connected | Disconnected | Frame:
        """The next frame, connection, or end of one. Not reading holds back the senders, each peer by itself."""
        ...

    def reject(self, peer: PeerId, reason: str) -> None:
        """A peer's fault, to be counted and logged."""
        ...


class PayloadSource(Protocol):
    """The sole builder and judge of what a block carries. Each call may wait; the driver runs them beside
    consensus."""

    async def build(self, request: BuildPayload) -> PayloadBuilt: ...

    async def check(self, request: CheckPayload) -> PayloadVerdict: ...

    async def end_epoch(self, request: EndEpoch) -> EpochReady:
        """The validators that the boundary names, once the ledger has taken it."""
        ...

    def offer(self, request: OfferLinks) -> None:
        """Link certificates to put into blocks that are built from now on, instead of those offered before."""
        ...


class CommitSink(Protocol):
    """The ledger."""

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Take committed blocks, ascending; one already taken is ignored. Not returning holds back the driver."""
        ...

    async def finalize(self, final: Finalize) -> None:
        """A block that was taken is final, and all before it. Heights only grow, but after a restart."""
        ...

    async def report(self, evidence: ReportEvidence) -> None:
        """Keep a proof of guilt."""
        ...


class Clock(Protocol):
    """Monotonic time."""

    def now(self) -> Nanoseconds: ...
