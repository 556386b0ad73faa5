"""What a node and its signing process say to each other: canonical MessagePack in frames over mutual TLS 1.3.

::

    node                                     signing process
      |  -- TLS 1.3, both show a pinned key --  |
      |  Open  ------------------------------>  |     judge: key, version, chain
      |  <------------------  Opened | Closed   |
      |  SignRequest(1), SignRequest(2) ----->  |
      |  <-------  SignatureMade(1), Refused(2) |     in the order of the requests

A TLS client that the other side refuses sees its own handshake succeed, so nothing counts before ``Opened``. ``Closed``
says why a connection ends. Frames are those of ``sequencer/transport/framing.py`` on channel ``CHANNEL``.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, encode
from consensus.types import Hash, Integer, ShortText, Signature
from sequencer.transport.framing import FrameReader, pack_frame
from sequencer.transport.tls import Parted, TlsStream

VERSION: Final = 1
CHANNEL: Final = 1
FRAME_SIZE_MAX: Final = 8 * 1024
"""Bytes of one message, in either direction."""
SUBJECT_SIZE_MAX: Final = 1024
KEYS_MAX: Final = 64
"""Consensus keys of one signing process, and nodes that may ask it."""
REASON_LENGTH_MAX: Final = 2000
PENDING_MAX: Final = 64
"""Requests of one node that wait for an answer; below ``rules.SUBJECTS_KEPT``, so that all of them can be repeated."""

T = TypeVar("T", bound=msgspec.Struct)
PublicKey: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=96)]


class Open(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=0):
    """The node's first message. ``version`` stays the first field for ever."""

    version: Integer
    chain_id: ShortText
    genesis_hash: Hash


class Opened(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """The signing process accepts, and holds these keys."""

    public_keys: Annotated[tuple[PublicKey, ...], Meta(max_length=KEYS_MAX)]


class SignRequest(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2
):
    """Asks for the signature of ``public_key`` over a canonical subject, in the domain of its epoch and of
    ``validators_hash``. ``number`` grows by one with each request of a node's run."""

    number: Integer
    public_key: PublicKey
    validators_hash: Hash
    subject: Annotated[bytes, Meta(max_length=SUBJECT_SIZE_MAX)]


class SignatureMade(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3
):
    """Answers the request of this number."""

    number: Integer
    signature: Signature


class Refused(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=4):
    """Answers the request of this number: it is not signed. ``rule`` is one of ``rules.Rule``."""

    number: Integer
    rule: ShortText
    reason: Annotated[str, Meta(max_length=REASON_LENGTH_MAX)]


class Closed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=5):
    """The signing process ends the connection, for this reason."""

    reason: Annotated[str, Meta(max_length=REASON_LENGTH_MAX)]


FromNode: TypeAlias = Open | SignRequest
FromSigner: TypeAlias = Opened | SignatureMade | Refused | Closed

from_node: Final[Canonical[FromNode]] = Canonical(Open, SignRequest)
from_signer: Final[Canonical[FromSigner]] = Canonical(Opened, SignatureMade, Refused, Closed)


def frame_reader(stream: TlsStream, *, silence_timeout_s: float) -> FrameReader:
    """Reads the frames of this protocol and no others."""
    return FrameReader(stream, {CHANNEL: FRAME_SIZE_MAX}.get, silence_timeout_s=silence_timeout_s)


def framed(message: FromNode | FromSigner) -> bytes:
    """The frame of a message."""
    return pack_frame(CHANNEL, encode(message))


async def receive_from_node(reader: FrameReader) -> FromNode:
    """The next message. Raises :class:`Parted` for bytes that are none."""
    return await _receive(reader, from_node)


async def receive_from_signer(reader: FrameReader) -> FromSigner:
    """The next message. Raises :class:`Parted` for bytes that are none."""
    return await _receive(reader, from_signer)


async def _receive(reader: FrameReader, messages: Canonical[T]) -> T:
    _, data = await reader.read()
    message = messages.decode(data)
    if isinstance(message, Malformed):
        raise Parted(f"malformed: {message.reason}")
    return message
