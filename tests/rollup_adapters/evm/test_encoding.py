"""Our RLP and trie root against the reference libraries, and against hostile bytes."""

from __future__ import annotations

from typing import Any

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st
from trie.hexary import HexaryTrie

from rollup_adapters.evm.encoding import (
    EMPTY_TRIE_ROOT,
    EncodingError,
    decode_list,
    encode,
    encode_integer,
    list_of_encoded,
    ordered_root,
)

ITEMS = st.recursive(st.binary(max_size=80), lambda children: st.lists(children, max_size=5), max_leaves=20)
LISTS = st.lists(ITEMS, max_size=5)
DEPTH_MAX = 64


@given(LISTS)
def test_encodes_and_decodes_as_the_library_does(items: list[Any]) -> None:
    encoded = encode(items)
    assert encoded == rlp.encode(items)
    decoded, start, ends = decode_list(encoded, DEPTH_MAX)
    assert decoded == items == rlp.decode(encoded)
    for count, end in enumerate(ends, start=1):
        assert list_of_encoded((encoded[start:end],)) == encode(items[:count])


@given(LISTS, st.data())
def test_accepts_of_mutated_bytes_only_what_encodes_back(items: list[Any], data: st.DataObject) -> None:
    encoded = bytearray(encode(items))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_list(bytes(encoded), DEPTH_MAX)[0]
    except EncodingError:
        return
    assert encode(decoded) == bytes(encoded)


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_by_value(data: bytes) -> None:
    try:
        decoded = decode_list(data, DEPTH_MAX)[0]
    except EncodingError:
        return
    assert encode(decoded) == data


def test_nesting_is_bounded() -> None:
    nested = b"\xc0"
    for _ in range(3):
        nested = list_of_encoded((nested,))
    assert decode_list(nested, 3)[0] == [[[[]]]]
    with pytest.raises(EncodingError, match="nested too deeply"):
        decode_list(nested, 2)


def test_a_deep_tower_is_refused_without_climbing_it() -> None:
    tower = b"\xc0"
    while len(tower) < 120_000:
        tower = list_of_encoded((tower,))
    with pytest.raises(EncodingError, match="nested too deeply"):
        decode_list(tower, 3)


@pytest.mark.parametrize("count", [*range(20), 127, 128, 129, 255, 256, 257, 700])
@pytest.mark.parametrize("size_bytes", [1, 31, 200])
def test_the_ordered_root_is_the_librarys(count: int, size_bytes: int) -> None:
    values = [bytes([index % 251 + 1]) * size_bytes for index in range(count)]
    trie = HexaryTrie({})
    for index, value in enumerate(values):
        trie[encode(encode_integer(index))] = value
    assert ordered_root(values) == trie.root_hash
    assert count or ordered_root(values) == EMPTY_TRIE_ROOT
