"""Recursive Length Prefix (Ethereum Yellow Paper, appendix B) and the ordered trie root, for hostile input and for
speed.

The ``rlp`` library decodes nested lists by recursion without a bound, so a 128 KiB transaction of nested list headers
ends in a ``RecursionError``; here depth is a parameter. Decoding is strict: one encoding per value, nothing after the
end. The test suite compares both directions, and the trie root, with the ``rlp`` and ``trie`` libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from eth_hash.auto import keccak

Item: TypeAlias = "bytes | Sequence[Item]"

EMPTY_TRIE_ROOT: Final = keccak(b"\x80")
EMPTY_LIST_HASH: Final = keccak(b"\xc0")
_Pair: TypeAlias = tuple[bytes, bytes]


class EncodingError(ValueError):
    """The bytes are not canonical RLP of the expected shape. The message is for the person who sent them."""


def encode_integer(value: int) -> bytes:
    """Big-endian bytes without leading zeros; zero is the empty string. This is the RLP scalar, not yet
    length-prefixed."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _prefix(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes((offset + length,))
    size = encode_integer(length)
    return bytes((offset + 55 + len(size),)) + size


def encode(item: Item) -> bytes:
    """RLP of a byte string or a nested sequence of byte strings."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(len(item), 0x80) + item
    return list_of_encoded([encode(part) for part in item])


def list_of_encoded(parts: Sequence[bytes]) -> bytes:
    """RLP of a list whose items are encoded already."""
    payload = b"".join(parts)
    return _prefix(len(payload), 0xC0) + payload


def _header(data: bytes, at: int, end: int) -> tuple[bool, int, int]:
    """(is a list, start of the payload, end of the payload) of the item that begins at ``at``; raises EncodingError."""
    first = data[at]
    if first < 0x80:
        return False, at, at + 1
    is_list = first >= 0xC0
    short = first - (0xC0 if is_list else 0x80)
    start = at + 1
    if short < 56:
        length = short
    else:
        size = short - 55
        start = at + 1 + size
        if start > end or data[at + 1] == 0:
            raise EncodingError("RLP length is truncated or has a leading zero")
        length = int.from_bytes(data[at + 1 : start], "big")
        if length < 56:
            raise EncodingError("RLP length uses the long form for a short item")
    if start + length > end:
        raise EncodingError("RLP item is longer than its container")
    if not is_list and length == 1 and data[start] < 0x80:
        raise EncodingError("RLP encodes a single byte with a needless prefix")
    return is_list, start, start + length


def _decode_items(data: bytes, at: int, end: int, depth_left: int) -> tuple[list[Item], list[int]]:
    items: list[Item] = []
    ends: list[int] = []
    while at < end:
        is_list, start, stop = _header(data, at, end)
        if is_list:
            if depth_left == 0:
                raise EncodingError("RLP lists are nested too deeply")
            items.append(_decode_items(data, start, stop, depth_left - 1)[0])
        else:
            items.append(data[start:stop])
        ends.append(stop)
        at = stop
    return items, ends


def decode_list(data: bytes, depth_max: int) -> tuple[list[Item], int, list[int]]:
    """Decode one list that is the whole of ``data``; nested lists at most ``depth_max`` deep below it.

    Returns the items, where the payload starts, and the offset at which each item ends, so that a prefix of the items
    can be re-framed without encoding them again. Raises :class:`EncodingError`.
    """
    if not data:
        raise EncodingError("RLP is empty")
    is_list, start, stop = _header(data, 0, len(data))
    if not is_list:
        raise EncodingError("RLP is a string where a list is expected")
    if stop != len(data):
        raise EncodingError("bytes remain after the RLP list")
    items, ends = _decode_items(data, start, stop, depth_max)
    return items, start, ends


def _hex_prefix(nibbles: bytes, is_leaf: bool) -> bytes:
    flag = 2 if is_leaf else 0
    padded = bytes((flag + 1,)) + nibbles if len(nibbles) % 2 else bytes((flag, 0)) + nibbles
    return bytes(high << 4 | low for high, low in zip(padded[::2], padded[1::2], strict=True))


def _node(pairs: Sequence[_Pair], depth: int) -> bytes:
    """RLP of the Merkle Patricia node that holds ``pairs`` (sorted, distinct), whose keys agree before ``depth``."""
    if len(pairs) == 1:
        key, value = pairs[0]
        return encode((_hex_prefix(key[depth:], True), value))
    first, last = pairs[0][0], pairs[-1][0]
    shared = depth
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    if shared > depth:
        return list_of_encoded((encode(_hex_prefix(first[depth:shared], False)), _reference(pairs, shared)))
    parts: list[bytes] = []
    at = 0
    value = b""
    if len(first) == depth:
        value, at = pairs[0][1], 1
    for nibble in range(16):
        begin = at
        while at < len(pairs) and pairs[at][0][depth] == nibble:
            at += 1
        parts.append(_reference(pairs[begin:at], depth + 1) if at > begin else b"\x80")
    parts.append(encode(value))
    return list_of_encoded(parts)


def _reference(pairs: Sequence[_Pair], depth: int) -> bytes:
    node = _node(pairs, depth)
    return node if len(node) < 32 else encode(keccak(node))


def ordered_root(values: Sequence[bytes]) -> bytes:
    """Root of the Merkle Patricia trie that maps ``rlp(index)`` to each value: a block's transaction or receipt
    root."""
    if not values:
        return EMPTY_TRIE_ROOT
    pairs = []
    for index, value in enumerate(values):
        key = encode(encode_integer(index))
        pairs.append((bytes(nibble for byte in key for nibble in (byte >> 4, byte & 15)), value))
    pairs.sort()
    return keccak(_node(pairs, 0))
