"""The contract between what decides and what moves bytes: events in, one :class:`Step` out.

*Persist, then sign, then send* holds by type. A step's records are durable before any of its effects happen; a
``Sign`` effect is made by the safety guard alone, together with the record of its slot; a message that carries an own
signature exists only after ``Signed`` came back.

``now`` is monotonic integer nanoseconds, passed in and never recorded. A remote fault becomes ``Reject``; an
exception that leaves a step is our bug and stops the node.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

from consensus.epochs import EpochChange
from consensus.finality.types import Checkpoint, LinkCertificate
from consensus.types import (
    AncestorsRequest,
    Block,
    BlockHeader,
    BlockId,
    CommitProof,
    Epoch,
    Height,
    Nanoseconds,
    PeerId,
    RangeRequest,
    StoredBlock,
    Subject,
    View,
)
from consensus.validators import ValidatorSet

# --- events --------------------------------------------------------------------------------------------------


class Received(msgspec.Struct, frozen=True, gc=False):
    """A decoded, canonical message from an authenticated peer."""

    peer: PeerId
    message: msgspec.Struct


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer's deadline passed. ``name`` is the one it was set under."""

    name: str


class Signed(msgspec.Struct, frozen=True, gc=False):
    """The signer's answer to a ``Sign`` effect."""

    subject: Subject
    signature: bytes


class PayloadBuilt(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The answer to ``BuildPayload``. An empty payload has ``payload_size`` 0, an empty body and
    ``EMPTY_PAYLOAD_ROOT``. ``next_validators_hash`` is what the block's header must name: empty, but where the payload
    source ends the epoch with this block."""

    view: View
    parent: BlockId
    payload_root: bytes
    body: bytes | memoryview
    timestamp_ms: int
    next_validators_hash: bytes = b""


class PayloadVerdict(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The answer to ``CheckPayload``. ``valid`` means checked and, where the body only refers to data, that data
    durable here. What is merely not here yet is answered later, never as invalid."""

    block_id: BlockId
    certified: bool
    valid: bool
    reason: str = ""


class BlocksFetched(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Block sync hands blocks to the protocol: hash-linked, oldest first. With a ``proof`` (for the last of them)
    they are committed; without, they are ancestors of a block that the protocol asked for. Bodies are not judged
    yet; ``peer`` gave them."""

    peer: PeerId
    blocks: tuple[tuple[Block, memoryview], ...]
    proof: CommitProof | None


class BlocksLoaded(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The answer to ``LoadBlocks``: what the own archive holds. ``blocks`` are newest first for ancestors, oldest
    first for a range."""

    peer: PeerId
    request: AncestorsRequest | RangeRequest
    blocks: tuple[StoredBlock, ...]
    proof: CommitProof | None
    pruned_below: Height
    head: Height


class PeerConnected(msgspec.Struct, frozen=True, gc=False):
    """A peer completed its hello."""

    peer: PeerId


class EpochReady(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The answer to ``EndEpoch``: the validators whose hash the boundary block names. The ledger holds that block
    durably."""

    boundary: BlockId
    validators: ValidatorSet


class PeerDisconnected(msgspec.Struct, frozen=True, gc=False):
    """A peer's connection ended. What it sent before may still come."""

    peer: PeerId


EngineEvent: TypeAlias = (
    Received | Signed | PayloadVerdict | PayloadBuilt | TimerFired | BlocksFetched | BlocksLoaded | PeerConnected
)
"""What an engine handles: it lives in one epoch."""
Event: TypeAlias = EngineEvent | EpochReady | PeerDisconnected

# --- records: decisions, durable before the effects of their step --------------------------------------------


class BlockRecord(msgspec.Struct, frozen=True, gc=False):
    """A block that a vote, proposal, timeout or commit of ours names. Keyed by id, idempotent."""

    block: Block
    body: bytes | memoryview


class SafetyRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One signing decision: replaces the record of the same kind. ``subject`` and ``state`` are canonical bytes;
    ``state`` is the protocol's own (voted view, lock, highest certificates)."""

    kind: str
    subject: bytes
    state: bytes


class CommitRecord(msgspec.Struct, frozen=True, gc=False):
    """``block_id`` is committed at ``height``. ``proof`` is present for the last block of a commit: it proves its
    ancestors too."""

    height: Height
    block_id: BlockId
    proof: CommitProof | None


class TranscriptRecord(msgspec.Struct, frozen=True, gc=False):
    """A certificate that a signature of ours relied on and no header holds: what convicts those who made it, should the
    chain ever split (``consensus/forensics.py``). ``proof`` is canonical bytes of the protocol's own; idempotent. A
    journal keeps the last ``TRANSCRIPT_PROOFS_MAX``."""

    proof: bytes


TRANSCRIPT_PROOFS_MAX: Final = 4096


class EpochRecord(msgspec.Struct, frozen=True, gc=False):
    """A new epoch begins. With it, in one transaction, the safety records of the old epoch's protocol go (those of
    finality, whose slots do not begin anew, stay): there is no moment at which a restart finds the old epoch and an
    empty memory of what was signed in it. Never pruned: later epochs are verified through it."""

    change: EpochChange


class LinkRecord(msgspec.Struct, frozen=True, gc=False):
    """A quorum's finality votes over one link of this chain. Kept with the blocks: it proves what is final."""

    certificate: LinkCertificate


Record: TypeAlias = BlockRecord | SafetyRecord | CommitRecord | TranscriptRecord | EpochRecord | LinkRecord

# --- effects -------------------------------------------------------------------------------------------------


class Sign(msgspec.Struct, frozen=True, gc=False):
    """Ask the signer port. Made by ``SafetyGuard`` and by nothing else."""

    subject: Subject


class Broadcast(msgspec.Struct, frozen=True, gc=False):
    """To every connected peer of the chain, observers included; never to oneself."""

    message: msgspec.Struct


class Send(msgspec.Struct, frozen=True, gc=False):
    """To one peer, if it is connected."""

    peer: PeerId
    message: msgspec.Struct


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Fire ``name`` at ``deadline_ns``; replaces a timer of the same name."""

    name: str
    deadline_ns: Nanoseconds


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    """Forget a timer, set or not."""

    name: str


class BuildPayload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Build a payload for a block of ``view`` on ``parent`` at ``height``. ``path`` holds the uncommitted ancestors,
    oldest first, parent last. Answer as soon as there is something to order, and at ``deadline_ns`` with what there
    is. Supersedes an earlier one."""

    view: View
    parent: BlockId
    height: Height
    parent_timestamp_ms: int
    path: tuple[tuple[Block, bytes | memoryview], ...]
    deadline_ns: Nanoseconds


class CheckPayload(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Judge a block's body. ``path`` as in ``BuildPayload``. When ``certified``, a quorum judged it before: only
    check that the body is the one that the header names."""

    block: Block
    body: bytes | memoryview
    path: tuple[tuple[Block, bytes | memoryview], ...]
    certified: bool


class FetchBlocks(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The protocol lacks ``block_id`` (at ``height``). Answered inside the replica by block sync. ``peer`` is the one
    who named it."""

    block_id: BlockId
    height: Height
    peer: PeerId | None


class LoadBlocks(msgspec.Struct, frozen=True, gc=False):
    """Read what a peer asks for from the own archive."""

    peer: PeerId
    request: AncestorsRequest | RangeRequest


class Commit(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Hand a committed block to the ledger: ascending heights without gaps, idempotent by height."""

    block: Block
    body: bytes | memoryview
    proof: CommitProof | None


class EndEpoch(msgspec.Struct, frozen=True, gc=False):
    """``boundary`` is committed and names the next validators. Answer with ``EpochReady`` once the ledger has taken
    it."""

    boundary: Block


class Finalize(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """``checkpoint`` and all its ancestors are final. Idempotent by height, heights only grow; said again after a
    restart. The journal holds the certificates that show it."""

    checkpoint: Checkpoint


class OfferLinks(msgspec.Struct, frozen=True, gc=False):
    """Link certificates that the chain does not hold yet, for whoever builds payloads: lowest target first. Replaces
    what was offered before."""

    certificates: tuple[LinkCertificate, ...]


class ReportEvidence(msgspec.Struct, frozen=True, gc=False):
    """A signer's two conflicting messages, each with a verified signature; or two link certificates that conflict.
    ``headers`` are the block that ``first`` names and its ancestors, where the offence needs them."""

    first: msgspec.Struct
    second: msgspec.Struct
    headers: tuple[BlockHeader, ...] = ()


class Reject(msgspec.Struct, frozen=True, gc=False):
    """A peer's fault, with the reason. The transport counts them and parts from a peer that goes on."""

    peer: PeerId
    reason: str


Effect: TypeAlias = (
    Sign
    | Broadcast
    | Send
    | SetTimer
    | CancelTimer
    | BuildPayload
    | CheckPayload
    | FetchBlocks
    | LoadBlocks
    | Commit
    | EndEpoch
    | Finalize
    | OfferLinks
    | ReportEvidence
    | Reject
)


class Step(NamedTuple):
    """What one event caused: ``records`` are durable before anything of ``effects`` happens."""

    records: tuple[Record, ...]
    effects: tuple[Effect, ...]


NOTHING: Final = Step((), ())
"""The step of an event that causes nothing: every second event of a busy replica."""


class StepBuilder:
    """Collects what one event causes."""

    __slots__ = ("effects", "records")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.effects: list[Effect] = []

    def reject(self, peer: PeerId, reason: str) -> None:
        """A peer's fault."""
        self.effects.append(Reject(peer, reason))

    def finish(self) -> Step:
        """The step so far; begins the next one."""
        records, effects = self.records, self.effects
        if not effects and not records:
            return NOTHING
        step = Step(tuple(records), tuple(effects))
        records.clear()
        effects.clear()
        return step


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal holds at start. ``blocks`` are all stored blocks above ``committed_height`` and the committed head
    itself, any order. ``commits`` are the committed blocks above the ledger's durable height, ascending, to be emitted
    again. ``head`` is the committed head (None: nothing committed yet) and ``head_proof`` its proof. ``epoch_change``
    is the last one (None: still the first epoch), ``epoch_changes_before`` those before it, ascending, the latest of
    them. ``links`` are the finality certificates with the highest targets, ascending; ``transcript`` the proofs that
    are kept, oldest first."""

    safety: tuple[SafetyRecord, ...] = ()
    blocks: tuple[StoredBlock, ...] = ()
    committed_height: Height = 0
    committed_id: BlockId | None = None
    head_proof: CommitProof | None = None
    commits: tuple[tuple[StoredBlock, CommitProof | None], ...] = ()
    epoch_change: EpochChange | None = None
    epoch_changes_before: tuple[EpochChange, ...] = ()
    links: tuple[LinkCertificate, ...] = ()
    transcript: tuple[bytes, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why a proof does not prove. A value: the proof came from elsewhere."""

    reason: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replica stands, for people and metrics. ``seen_height`` is the highest height any verified certificate
    named."""

    epoch: Epoch
    view: View
    leader: int
    committed_height: Height
    committed_view: View
    seen_height: Height
    timeouts: int


class Engine(Protocol):
    """One consensus protocol as a deterministic state machine, for one epoch. The outer plug of the design.

    Once it has emitted the ``Commit`` of a block whose header names the next validators, the epoch is over: it commits
    nothing above that block, and nothing is handed to it any more.
    """

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step: ...

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step: ...

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block committed in ``epoch``; the reason otherwise."""
        ...

    def block(self, block_id: BlockId) -> StoredBlock | None:
        """An uncommitted block that peers may be given: its body was checked."""
        ...

    def status(self) -> Status: ...
