"""Who talks, and on what: the exchange that opens each stream, and the small messages that keep it.

::

    dialler                          acceptor
       |  -- TLS 1.3, both certificates --
       |  Hello  ------------------------>   judge
       |  <-----------------  Hello, Verdict
       |  Verdict  ---------------------->
       |  ============ frames ============

A stream lives when both verdicts accept. A TLS client that the server refuses still sees its own handshake succeed,
therefore nothing counts before the verdicts. A refusal carries its reason, so both ends can log it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from consensus.codec import WIRE_VERSION, Canonical, Malformed, encode
from consensus.types import Hash, Integer, PeerId, ShortText
from sequencer.transport.framing import LINK, FrameReader, pack_frame
from sequencer.transport.tls import Parted, TlsStream

SESSION_SIZE: Final = 16
REASON_LENGTH_MAX: Final = 200

StreamKind: TypeAlias = Literal["control", "bulk"]
Reason: TypeAlias = Annotated[str, Meta(max_length=REASON_LENGTH_MAX)]


class Hello(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=0):
    """``wire_version`` stays the first field for ever, so that strangers of any age understand why they part.
    ``peer`` is who the sender claims to be; ``session`` joins the two streams of one link. Whether that is a validator
    is the chain's to say, and two honest ends may stand at different epochs."""

    wire_version: Annotated[int, Meta(ge=0, le=2**16)]
    chain_id: ShortText
    genesis_hash: Hash
    stream: StreamKind
    peer: Hash
    session: Annotated[bytes, Meta(min_length=SESSION_SIZE, max_length=SESSION_SIZE)]


class Verdict(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """What one end thinks of the other's hello. An empty ``refusal`` accepts."""

    refusal: Reason


class Ping(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2):
    sequence: Integer


class Pong(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3):
    """Answers the ping of this sequence."""

    sequence: Integer


class Goodbye(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=4):
    """The sender closes, for this reason."""

    reason: Reason


class _AnyHello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A hello of any version."""

    wire_version: int


LinkMessage: TypeAlias = Ping | Pong | Goodbye
link_messages: Final[Canonical[LinkMessage]] = Canonical(Ping, Pong, Goodbye)
_hellos: Final[Canonical[Hello]] = Canonical(Hello)
_verdicts: Final[Canonical[Verdict]] = Canonical(Verdict)
_any_hello: Final = msgspec.msgpack.Decoder(_AnyHello)

Judge: TypeAlias = Callable[[PeerId, Hello], str]
"""Answers why a hello from the holder of a key is refused, or an empty string."""


async def greet_as_dialler(stream: TlsStream, reader: FrameReader, own: Hello, judge: Judge) -> None:
    """Open a dialled stream. Raises :class:`Parted` when either end refuses."""
    await stream.send_all(pack_frame(LINK, encode(own)))
    theirs = await _read_hello(reader)
    refusal = theirs.reason if isinstance(theirs, Malformed) else judge(stream.peer, theirs)
    verdict = await _read_verdict(reader)
    await _send_verdict(stream, refusal)
    _check(refusal, verdict)


async def greet_as_acceptor(
    stream: TlsStream, reader: FrameReader, own: Callable[[Hello], Hello], judge: Judge, unclear: Hello
) -> Hello:
    """Answer an accepted stream and return the dialler's hello. Raises :class:`Parted` when either end refuses.

    ``own`` makes the answer to a hello; ``unclear`` answers one that cannot be read.
    """
    theirs = await _read_hello(reader)
    refusal = theirs.reason if isinstance(theirs, Malformed) else judge(stream.peer, theirs)
    await stream.send_all(pack_frame(LINK, encode(unclear if isinstance(theirs, Malformed) else own(theirs))))
    await _send_verdict(stream, refusal)
    verdict = await _read_verdict(reader)
    _check(refusal, verdict)
    assert isinstance(theirs, Hello)  # or there was a refusal
    return theirs


async def _read_hello(reader: FrameReader) -> Hello | Malformed:
    data = await _read_link_frame(reader)
    try:
        version = _any_hello.decode(data).wire_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Malformed(f"malformed hello: {error}")
    if version != WIRE_VERSION:
        return Malformed(f"your wire version is {version}, mine is {WIRE_VERSION}")
    hello = _hellos.decode(data)
    return Malformed(f"malformed hello: {hello.reason}") if isinstance(hello, Malformed) else hello


async def _read_verdict(reader: FrameReader) -> str:
    verdict = _verdicts.decode(await _read_link_frame(reader))
    if isinstance(verdict, Malformed):
        raise Parted(f"the peer's verdict is malformed: {verdict.reason}")
    return verdict.refusal


async def _read_link_frame(reader: FrameReader) -> bytes:
    _, data = await reader.read()  # the reader lets no other channel pass yet
    return data


async def _send_verdict(stream: TlsStream, refusal: str) -> None:
    await stream.send_all(pack_frame(LINK, encode(Verdict(refusal=refusal[:REASON_LENGTH_MAX]))))


def _check(refusal: str, verdict: str) -> None:
    if refusal:
        raise Parted(f"refused: {refusal}")
    if verdict:
        raise Parted(f"the peer refuses us: {verdict!r}")
