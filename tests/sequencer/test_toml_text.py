"""What we write as TOML, the standard library reads back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_adapters.base import JsonValue
from sequencer.toml_text import toml_table, toml_value

TEXT = st.text(max_size=8)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_tables_come_back(table: dict[str, JsonValue]) -> None:
    assert tomllib.loads("\n".join(toml_table("a.b", table))) == {"a": {"b": table}}


def test_a_table_reads_well() -> None:
    table: dict[str, JsonValue] = {"inner": {"0x12": "5", "key with space": True}, "chain_id": 7}
    assert toml_table("settings", table) == [
        "[settings]",
        "chain_id = 7",
        "[settings.inner]",
        '0x12 = "5"',
        '"key with space" = true',
    ]


@pytest.mark.parametrize("value", [None, [None], {"a": {"b": None}}])
def test_null_is_refused(value: JsonValue) -> None:
    with pytest.raises(ValueError, match="TOML has no null"):
        toml_value(value)
