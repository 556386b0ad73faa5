"""The look at nesting, against a decoder that keeps count."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from sequencer.json_form import is_nested_deeper

JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='[]{}"\\a,:'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"\\a', max_size=4), inner),
    max_leaves=20,
)


def depth(value: object) -> int:
    match value:
        case list():
            return 1 + max(map(depth, value), default=0)
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case _:
            return 0


@given(JSON)
def test_nesting_is_seen_through_strings(value: object) -> None:
    body = json.dumps(value).encode()
    for most in range(6):
        assert is_nested_deeper(body, most) == (depth(value) > most)
