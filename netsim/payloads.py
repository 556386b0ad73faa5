"""What the simulator's blocks carry: a payload of the schedule as it was given and, with finality, link certificates
beside it. Payloads are UTF-8, where no byte is 0xFF: a body that begins with one carries links.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from consensus.engine import CheckPayload, Refusal
from consensus.epochs import CLOSING_PAYLOAD_ROOT
from consensus.finality.types import LinkCertificate
from consensus.types import EMPTY_PAYLOAD_ROOT, Block
from consensus.validators import ValidatorSet

NOT_THE_BODY: Final = "the body is not the one that the header names"
_MARK: Final = b"\xff"


class _Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    payload: bytes
    links: tuple[LinkCertificate, ...]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Body).decode


def payload_root(body: bytes | memoryview) -> bytes:
    """The payload root of a body of the simulator."""
    return hashlib.sha256(body).digest() if len(body) else EMPTY_PAYLOAD_ROOT


def body_of(payload: bytes, links: Sequence[LinkCertificate]) -> bytes:
    """The body of a block with those."""
    return _MARK + _encode(_Body(payload, tuple(links))) if links else payload


def payload_in(body: bytes | memoryview) -> bytes:
    """The payload alone."""
    data = bytes(body)
    return _decode(data[1:]).payload if data[:1] == _MARK else data


def links_in(body: bytes | memoryview) -> tuple[LinkCertificate, ...]:
    """The link certificates alone. Raises ``msgspec.MsgspecError`` for a body that nobody here made."""
    return _decode(bytes(body)[1:]).links if bytes(body[:1]) == _MARK else ()


def read_links(block: Block, body: bytes | memoryview) -> tuple[LinkCertificate, ...]:
    """What a replica reads link certificates with."""
    return links_in(body)


def named_after(
    sets: Mapping[int, ValidatorSet], height: int, path: Sequence[tuple[Block, bytes | memoryview]]
) -> bytes | None:
    """The hash of the next validators that the block at that height must name, empty for none. None where its epoch's
    boundary is on its path: such a block is empty."""
    if any(block.header.next_validators_hash for block, _ in path):
        return None
    following = sets.get(height)
    return b"" if following is None else following.hash


def fault_in(
    request: CheckPayload, named: bytes | None, check_link: Callable[[LinkCertificate], Refusal | None] | None
) -> str:
    """What is wrong with a block where validators change, or with its link certificates; empty for nothing."""
    header, body = request.block.header, request.body
    closing = header.payload_root == CLOSING_PAYLOAD_ROOT
    if len(body) if closing else payload_root(body) != header.payload_root:
        return NOT_THE_BODY
    if request.certified:
        return ""
    if closing != (named is None):
        return "a closing block where none is due, or none where one is"
    if header.next_validators_hash != (named or b""):
        return "it does not name the validators that are next"
    try:
        links = links_in(body)
    except msgspec.MsgspecError:
        return "its link certificates cannot be read"
    for link in links:
        refusal = None if check_link is None else check_link(link)
        if refusal is not None:
            return refusal.reason
    return ""
