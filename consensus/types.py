"""The values of consensus: ids, blocks, certificates, votes, and the messages between peers.

Every value is a frozen MessagePack array with an upper bound on each field (see ``codec.py`` for the canonical form).
Heights, views and epochs are integers below 2**63; stake and timestamps likewise. Ids are SHA-256 hashes of canonical
bytes.

The core sees a payload only as ``(payload_root, payload_size)``; the *body* is an opaque run of bytes that travels
beside its block by reference and is judged by the sequencer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec
from msgspec import Meta

HASH_SIZE: Final = 32
INTEGER_MAX: Final = 2**63 - 1
VALIDATORS_MAX: Final = 1024
BITMAP_SIZE_MAX: Final = VALIDATORS_MAX // 8
SIGNATURE_SIZE_MAX: Final = 96
CERTIFICATE_SIGNATURE_SIZE_MAX: Final = 64 * VALIDATORS_MAX
"""An Ed25519 certificate is the concatenation of its signatures; a BLS one is 96 bytes."""
BODY_SIZE_MAX: Final = 32 * 1024 * 1024
"""The hard cap of the wire; a chain's own cap (``ChainSpec.payload_size_max``) is far lower."""
BITMAPS_REMEMBERED: Final = 256
PATH_LENGTH_MAX: Final = 4096
SYNC_BLOCKS_MAX: Final = 256
SYNC_BYTES_MAX: Final = 8 * 1024 * 1024
"""An answer to a sync request ends with the block whose body crosses this."""

NIL_BLOCK: Final = bytes(HASH_SIZE)
"""What a vote for no block names; its height and justify view are 0."""
EMPTY_PAYLOAD_ROOT: Final = bytes(HASH_SIZE)
"""The root of the payload of no bytes."""

BlockId: TypeAlias = bytes
PeerId: TypeAlias = bytes
"""Names a peer of the transport: the SHA-256 of its TLS public key (32 bytes)."""
ValidatorIndex: TypeAlias = int
View: TypeAlias = int
Height: TypeAlias = int
Epoch: TypeAlias = int
Nanoseconds: TypeAlias = int

Integer: TypeAlias = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Hash: TypeAlias = Annotated[bytes, Meta(min_length=HASH_SIZE, max_length=HASH_SIZE)]
OptionalHash: TypeAlias = Annotated[bytes, Meta(max_length=HASH_SIZE)]
"""A hash, or empty bytes for none. Checked for exactly one of the two lengths where it is used."""
Signature: TypeAlias = Annotated[bytes, Meta(max_length=SIGNATURE_SIZE_MAX)]
Index: TypeAlias = Annotated[int, Meta(ge=0, lt=VALIDATORS_MAX)]
Bitmap: TypeAlias = Annotated[bytes, Meta(max_length=BITMAP_SIZE_MAX)]
AggregateSignature: TypeAlias = Annotated[bytes, Meta(max_length=CERTIFICATE_SIGNATURE_SIZE_MAX)]
ShortText: TypeAlias = Annotated[str, Meta(max_length=64)]
Body: TypeAlias = Annotated[memoryview, Meta(max_length=BODY_SIZE_MAX)]


class Certificate(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A quorum's signatures over one vote subject. ``signers`` is a little-endian bitmap of validator indices (bit 0
    of byte 0 is validator 0) without trailing zero bytes. ``kind`` is the signing kind (``vote``), or ``genesis`` for
    the unsigned certificate of an epoch's start."""

    kind: ShortText
    epoch: Integer
    view: Integer
    block_id: Hash
    height: Integer
    justify_view: Integer
    signers: Bitmap
    signature: AggregateSignature


class BlockHeader(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """What is hashed into a block's id. ``chain`` is the genesis hash; ``entry_proof_hash`` names the timeout
    certificate of ``view - 1`` when ``justify.view != view - 1`` and is empty otherwise; ``next_validators_hash`` is
    empty but at an epoch's boundary. ``timestamp_ms`` is milliseconds since the Unix epoch and grows strictly from
    parent to child."""

    chain: Hash
    epoch: Integer
    view: Integer
    height: Integer
    parent: Hash
    justify: Certificate
    entry_proof_hash: OptionalHash
    payload_root: Hash
    payload_size: Integer
    next_validators_hash: OptionalHash
    timestamp_ms: Integer
    proposer: Index


class Block:
    """A header with its id, hashed once. Two blocks are equal when their ids are. Never on the wire: the header
    is."""

    __slots__ = ("header", "id")

    def __init__(self, header: BlockHeader, block_id: BlockId) -> None:
        self.header = header
        self.id = block_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Block(view={self.header.view}, height={self.header.height}, id={self.id.hex()[:8]})"


class CommitProof(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Shows a stranger that a block is committed: its descendants, oldest first, up to the one that ``certificate``
    certifies. What commits is the protocol's rule (``Engine.verify_commit``): a pattern of views, or the kind of the
    certificate, or a ``confirmation``, a second quorum over the same block by those who saw the first."""

    epoch: Integer
    headers: Annotated[tuple[BlockHeader, ...], Meta(max_length=PATH_LENGTH_MAX)]
    certificate: Certificate
    confirmation: Certificate | None = None


# --- what is signed ------------------------------------------------------------------------------------------


class Slot(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Where one signer may sign one subject of one kind. Ordered by epoch, then major, then minor."""

    epoch: Integer
    major: Integer
    minor: Integer


class Subject(Protocol):
    """What a signature covers: a tagged canonical struct that knows its signing kind and its slot. A protocol
    declares its own."""

    @property
    def epoch(self) -> Epoch: ...
    @property
    def kind(self) -> str:
        """Names the purpose in the signed bytes, e.g. ``vote``. One subject per (signer, kind, slot), ever."""
        ...

    @property
    def slot(self) -> Slot: ...


class ProposalSubject(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1
):
    """Kind ``proposal``, slot (epoch, view, 0)."""

    epoch: Integer
    view: Integer
    block_id: Hash

    @property
    def kind(self) -> str:
        return "proposal"

    @property
    def slot(self) -> Slot:
        return Slot(self.epoch, self.view, 0)


class VoteSubject(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2
):
    """Slot (epoch, view, 0) of its own kind: ``vote`` in the HotStuff family; others have several kinds of votes.
    ``justify_view`` is signed so that one honest transcript suffices for forensics."""

    kind: ShortText
    epoch: Integer
    view: Integer
    block_id: Hash
    height: Integer
    justify_view: Integer

    @property
    def slot(self) -> Slot:
        return Slot(self.epoch, self.view, 0)


# --- messages ------------------------------------------------------------------------------------------------


class Vote(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2):
    """One validator's signature over a :class:`VoteSubject`."""

    kind: ShortText
    epoch: Integer
    view: Integer
    block_id: Hash
    height: Integer
    justify_view: Integer
    signer: Index
    signature: Signature


class StoredBlock(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A header and its body as they are stored and synced."""

    header: BlockHeader
    body: Body


class AncestorsRequest(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=16
):
    """Asks for ``block_id`` and its ancestors above ``above_height``, newest first,
    as many as fit one answer."""

    epoch: Integer
    request_id: Integer
    block_id: Hash
    above_height: Integer


class AncestorsResponse(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=17
):
    """Answers :class:`AncestorsRequest`; empty when the peer does not hold the
    block."""

    epoch: Integer
    request_id: Integer
    blocks: Annotated[tuple[StoredBlock, ...], Meta(max_length=SYNC_BLOCKS_MAX)]


class RangeRequest(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=18
):
    """Asks for committed blocks from ``from_height`` on, as many as fit one answer."""

    epoch: Integer
    request_id: Integer
    from_height: Integer


class RangeResponse(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=19
):
    """Committed blocks, oldest first, and the proof for the last of them. ``pruned_below`` is the lowest height
    this peer still serves; ``head`` is the highest it has committed."""

    epoch: Integer
    request_id: Integer
    blocks: Annotated[tuple[StoredBlock, ...], Meta(max_length=SYNC_BLOCKS_MAX)]
    proof: CommitProof | None
    pruned_below: Integer
    head: Integer


class EpochEnd(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=20
):
    """Tells a peer whose message is of an epoch that is over: ``boundary`` is the last block of ``epoch``, and
    ``proof`` shows it committed. To a peer that is further behind it says only how far ahead the sender is."""

    epoch: Integer
    boundary: BlockHeader
    proof: CommitProof


SyncMessage: TypeAlias = AncestorsRequest | AncestorsResponse | RangeRequest | RangeResponse | EpochEnd
SYNC_MESSAGES: Final = (AncestorsRequest, AncestorsResponse, RangeRequest, RangeResponse, EpochEnd)
"""The messages of every chain, whatever its protocol."""

epoch_of: Final[Callable[[msgspec.Struct], Epoch]] = attrgetter("epoch")
"""The epoch of a message. Every message between peers has a field ``epoch`` (``ProtocolDefinition`` checks it): a
replica hands its engine none of another epoch."""


def vote_subject(vote: Vote) -> VoteSubject:
    """The subject a vote's signature covers."""
    return VoteSubject(
        kind=vote.kind,
        epoch=vote.epoch,
        view=vote.view,
        block_id=vote.block_id,
        height=vote.height,
        justify_view=vote.justify_view,
    )


def vote_of(subject: VoteSubject, signer: ValidatorIndex, signature: bytes) -> Vote:
    """The message that carries a signed vote."""
    return Vote(
        kind=subject.kind,
        epoch=subject.epoch,
        view=subject.view,
        block_id=subject.block_id,
        height=subject.height,
        justify_view=subject.justify_view,
        signer=signer,
        signature=signature,
    )


def certificate_subject(certificate: Certificate) -> VoteSubject:
    """The subject every signature of a vote certificate covers."""
    return VoteSubject(
        kind=certificate.kind,
        epoch=certificate.epoch,
        view=certificate.view,
        block_id=certificate.block_id,
        height=certificate.height,
        justify_view=certificate.justify_view,
    )


@lru_cache(maxsize=BITMAPS_REMEMBERED)
def signers_of(bitmap: bytes) -> tuple[ValidatorIndex, ...]:
    """The validator indices of a bitmap, ascending."""
    bits = int.from_bytes(bitmap, "little")
    return tuple([index for index in range(bits.bit_length()) if bits >> index & 1])


def bitmap_of(signers: Iterable[ValidatorIndex]) -> bytes:
    """The canonical bitmap of a set of validator indices: no trailing zero bytes."""
    return _bitmap_of(tuple(signers))


@lru_cache(maxsize=BITMAPS_REMEMBERED)
def _bitmap_of(signers: tuple[ValidatorIndex, ...]) -> bytes:
    bits = 0
    for signer in signers:
        bits |= 1 << signer
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def is_canonical_bitmap(bitmap: bytes) -> bool:
    """True unless the bitmap ends in a zero byte, which would give one set of signers two encodings."""
    return not bitmap or bitmap[-1] != 0
