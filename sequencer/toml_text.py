"""Writes TOML, which the standard library only reads. Values are what JSON can say, without null, which TOML has
not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from rollup_adapters.base import JsonValue

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def toml_value(value: JsonValue) -> str:
    """A value on one line. Raises ``ValueError`` for None anywhere in it."""
    match value:
        case None:
            raise ValueError("TOML has no null; leave the key out")
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)  # TOML, too, writes nan and inf, and an exponent as 1e+16
        case str():
            # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(toml_value(inner) for inner in value)}]"
        case dict():
            inner = (f"{toml_key(key)} = {toml_value(content)}" for key, content in value.items())
            return f"{{ {', '.join(inner)} }}" if value else "{}"


def toml_key(key: str) -> str:
    """A key, quoted where it must be."""
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def toml_table(path: str, table: Mapping[str, JsonValue]) -> list[str]:
    """The lines of ``[path]`` and the tables inside it. Raises ``ValueError`` for None anywhere in it."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{path}]", *(f"{toml_key(key)} = {toml_value(value)}" for key, value in plain.items())]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += toml_table(f"{path}.{toml_key(key)}", value)
    return lines
