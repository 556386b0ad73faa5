"""One canonical form: what decodes re-encodes to itself, everything else is refused as a value."""

from __future__ import annotations

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import FRAME_SIZE_MAX, WIRE_VERSION, Malformed, Wire, encode, headers
from consensus.protocols.registry import JOLTEON
from consensus.types import AncestorsResponse, RangeRequest, StoredBlock, Vote
from tests.support import messages as strategies

WIRE: Wire = JOLTEON.wire()
VOTE = Vote(kind="vote", epoch=0, view=3, block_id=bytes(32), height=2, justify_view=2, signer=1, signature=bytes(64))


@given(strategies.messages)
def test_every_message_survives_the_wire(message: msgspec.Struct) -> None:
    frame = WIRE.encode(message)
    assert frame[0] == WIRE_VERSION
    assert WIRE.decode(frame) == message


@given(strategies.messages)
def test_an_independent_codec_reads_the_same(message: msgspec.Struct) -> None:
    """The ``msgpack`` package is the oracle: an array of the tag and the fields in their order."""
    decoded = msgpack.unpackb(WIRE.encode(message)[1:], strict_map_key=True)
    assert decoded[0] == message.__struct_config__.tag
    assert len(decoded) == 1 + len(message.__struct_fields__)
    assert decoded[1] == getattr(message, message.__struct_fields__[0])
    assert msgpack.packb(decoded) == WIRE.encode(message)[1:]


@given(strategies.messages, st.data())
def test_a_mutated_frame_is_refused_or_means_something_else(message: msgspec.Struct, data: st.DataObject) -> None:
    frame = bytearray(WIRE.encode(message))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= data.draw(st.integers(1, 255))
    decoded = WIRE.decode(bytes(frame))
    if not isinstance(decoded, Malformed):
        assert decoded != message
        assert WIRE.encode(decoded) == bytes(frame)


@given(strategies.messages, st.data())
def test_a_truncated_or_longer_frame_is_refused(message: msgspec.Struct, data: st.DataObject) -> None:
    frame = WIRE.encode(message)
    cut = data.draw(st.integers(0, len(frame) - 1))
    assert isinstance(WIRE.decode(frame[:cut]), Malformed)
    assert isinstance(WIRE.decode(frame + data.draw(st.binary(min_size=1, max_size=8))), Malformed)


@given(st.binary(max_size=300))
def test_garbage_is_refused_as_a_value(garbage: bytes) -> None:
    for frame in (garbage, bytes((WIRE_VERSION,)) + garbage):
        decoded = WIRE.decode(frame)
        assert isinstance(decoded, Malformed) or WIRE.encode(decoded) == frame


@pytest.mark.parametrize(
    ("what", "frame"),
    [
        ("empty", b""),
        ("version", bytes((WIRE_VERSION + 1,)) + encode(VOTE)),
        ("unknown tag", bytes((WIRE_VERSION,)) + msgpack.packb([99, 0])),
        ("tag as text", bytes((WIRE_VERSION,)) + msgpack.packb(["vote", 0])),
        ("a map", bytes((WIRE_VERSION,)) + msgpack.packb({"view": 1})),
        ("missing fields", bytes((WIRE_VERSION,)) + msgpack.packb([18, 0])),
        ("extra fields", bytes((WIRE_VERSION,)) + msgpack.packb([18, 0, 1, 2, 3])),
        ("negative", bytes((WIRE_VERSION,)) + msgpack.packb([18, 0, 1, -1])),
        ("above 63 bits", bytes((WIRE_VERSION,)) + msgpack.packb([18, 0, 1, 2**63])),
        ("float", bytes((WIRE_VERSION,)) + msgpack.packb([18, 0, 1, 1.0])),
        ("bool", bytes((WIRE_VERSION,)) + msgpack.packb([18, 0, 1, True])),
        ("nil", bytes((WIRE_VERSION,)) + msgpack.packb([18, 0, 1, None])),
        ("deep nesting", bytes((WIRE_VERSION,)) + b"\x91" * 100_000 + b"\x90"),
        ("huge array header", bytes((WIRE_VERSION,)) + b"\xdd\xff\xff\xff\xff"),
        ("huge binary header", bytes((WIRE_VERSION,)) + b"\x94\x12\x00\x00\xc6\xff\xff\xff\xff"),
        ("text for bytes", bytes((WIRE_VERSION,)) + msgpack.packb([16, 0, 1, "x" * 32, 0])),
        ("short hash", bytes((WIRE_VERSION,)) + msgpack.packb([16, 0, 1, bytes(31), 0])),
        ("oversized signature", WIRE.encode(msgspec.structs.replace(VOTE, signature=bytes(97)))),
        ("unknown validator range", WIRE.encode(msgspec.structs.replace(VOTE, signer=1024))),
    ],
)
def test_named_malformations(what: str, frame: bytes) -> None:
    decoded = WIRE.decode(frame)
    assert isinstance(decoded, Malformed), what
    assert decoded.reason


def test_wide_integers_are_not_canonical() -> None:
    canonical = WIRE.encode(RangeRequest(epoch=0, request_id=1, from_height=3))
    wide = canonical[:-1] + b"\xcd\x00\x03"
    decoded = WIRE.decode(wide)
    assert isinstance(decoded, Malformed)
    assert "canonical" in decoded.reason


def test_an_oversized_frame_is_refused_before_it_is_read() -> None:
    decoded = WIRE.decode(bytes(FRAME_SIZE_MAX + 1))
    assert isinstance(decoded, Malformed)
    assert "exceeds" in decoded.reason


def test_bodies_are_views_into_the_frame() -> None:
    @given(strategies.stored_blocks)
    def check(block: msgspec.Struct) -> None:
        assert isinstance(block, StoredBlock)
        frame = WIRE.encode(AncestorsResponse(epoch=0, request_id=1, blocks=(block,)))
        decoded = WIRE.decode(frame)
        assert isinstance(decoded, AncestorsResponse)
        body = decoded.blocks[0].body
        assert isinstance(body, memoryview)
        assert body.obj is frame

    check()


@given(strategies.headers)
def test_headers_alone_are_canonical_too(header: msgspec.Struct) -> None:
    assert headers.decode(encode(header)) == header
    assert isinstance(headers.decode(encode(header) + b"\x00"), Malformed)
