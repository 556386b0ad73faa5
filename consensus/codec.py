"""The canonical wire form: one version byte, then one MessagePack value that re-encodes to itself.

MessagePack allows several encodings of one value (``3`` in one byte or in five). Ids hash bytes, evidence is compared
by bytes, so exactly one form is accepted: a frame is decoded, encoded again, and refused unless both are the same
bytes. Bodies decode as a ``memoryview`` into the frame and are never copied on the way in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from consensus.types import Block, BlockHeader, CommitProof, StoredBlock

WIRE_VERSION: Final = 1
FRAME_SIZE_MAX: Final = 40 * 1024 * 1024

T = TypeVar("T", bound=msgspec.Struct)

_encoder: Final = msgspec.msgpack.Encoder()
_encode: Final = _encoder.encode


class Malformed(msgspec.Struct, frozen=True):
    """Why bytes were refused. A remote fault is a value."""

    reason: str


class Canonical(Generic[T]):
    """Encodes and decodes one struct type, or one of several tagged ones, canonically."""

    __slots__ = ("_decoder",)

    def __init__(self, *types: type[T]) -> None:
        union = reduce(or_, cast("tuple[Any, ...]", types))
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)

    def decode(self, data: bytes) -> T | Malformed:
        """Decode ``data``, or say why it is not the canonical encoding of a value of this type."""
        try:
            value = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Malformed(str(error))
        if _encode(value) != data:
            return Malformed("not canonical: the bytes do not re-encode to themselves")
        return value


encode: Final[Callable[[msgspec.Struct], bytes]] = _encode
"""The canonical bytes of a value."""


def digest(value: msgspec.Struct) -> bytes:
    """SHA-256 of the canonical bytes of a value."""
    return hashlib.sha256(_encode(value)).digest()


def block_of(header: BlockHeader) -> Block:
    """A header with its id."""
    return Block(header, digest(header))


class Wire:
    """The frames of one chain: the messages that its protocol declares, and those of block sync."""

    __slots__ = ("_decoder",)

    def __init__(self, message_types: tuple[type[msgspec.Struct], ...]) -> None:
        union = reduce(or_, cast("tuple[Any, ...]", message_types))
        self._decoder: msgspec.msgpack.Decoder[msgspec.Struct] = msgspec.msgpack.Decoder(union)

    def encode(self, message: msgspec.Struct) -> bytes:
        """The frame of a message: version byte and canonical bytes."""
        return _VERSION + _encode(message)

    def decode(self, frame: bytes) -> msgspec.Struct | Malformed:
        """Decode a peer's frame. The result may hold views into ``frame``, which stays alive with it."""
        if len(frame) > FRAME_SIZE_MAX:
            return Malformed(f"frame of {len(frame)} bytes exceeds {FRAME_SIZE_MAX}")
        if frame[:1] != _VERSION:
            return Malformed(f"wire version is not {WIRE_VERSION}")
        try:
            value = self._decoder.decode(memoryview(frame)[1:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Malformed(str(error))
        again = bytearray(_VERSION)  # compared as bytes with bytes: a memoryview compares element by element
        _encoder.encode_into(value, again, 1)
        if again != frame:
            return Malformed("not canonical: the frame does not re-encode to itself")
        return value


_VERSION: Final = bytes((WIRE_VERSION,))

headers: Final[Canonical[BlockHeader]] = Canonical(BlockHeader)
stored_blocks: Final[Canonical[StoredBlock]] = Canonical(StoredBlock)
commit_proofs: Final[Canonical[CommitProof]] = Canonical(CommitProof)
