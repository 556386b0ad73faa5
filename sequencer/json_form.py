"""The JSON form of a struct, for people and for clients without MessagePack: objects with the fields' names, and every
run of bytes as lower-case hex.

Integers are JSON numbers up to 2**64 - 1; a reader whose numbers are doubles must take care above 2**53.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, TypeVar

import msgspec
from msgspec import inspect

from consensus.codec import Malformed

T = TypeVar("T", bound=msgspec.Struct)

DEPTH_MAX: Final = 32
"""Far above that of any of our structs."""
_STRINGS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def to_json(value: msgspec.Struct) -> bytes:
    """The JSON document of a struct, UTF-8, without white space."""
    return msgspec.json.encode(_named(value))


def from_json(data: bytes | str, kind: type[T]) -> T | Malformed:
    """The struct that a document of :func:`to_json` describes, with all its bounds checked, or what is wrong."""
    if is_nested_deeper(data.encode() if isinstance(data, str) else data, DEPTH_MAX):
        return Malformed(f"nested deeper than {DEPTH_MAX}")
    try:
        plain = msgspec.json.decode(data)
        typed = _positional(plain, _type_of(kind), kind.__name__)
        return msgspec.convert(typed, kind, builtin_types=(bytes, memoryview))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        return Malformed(str(error))


def is_nested_deeper(body: bytes, depth_max: int) -> bool:
    """Whether a JSON document is nested deeper than ``depth_max``; of bytes that are no JSON, maybe.

    A decoder of any value recurses in C, and is bounded by the interpreter's recursion limit only, which some libraries
    raise beyond what the stack holds. This looks without recursion, and takes one level away at a time."""
    if body.count(b"[") + body.count(b"{") <= depth_max:
        return False
    brackets = _STRINGS.sub(b"", body).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(depth_max):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _named(value: object) -> object:
    match value:
        case msgspec.Struct():
            return {name: _named(getattr(value, name)) for name in value.__struct_fields__}
        case bytes() | memoryview():
            return value.hex()
        case tuple() | list():
            return [_named(each) for each in value]
        case _:
            return value


@lru_cache(maxsize=64)
def _type_of(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _positional(value: object, kind: inspect.Type, where: str) -> object:
    """``value`` with objects as the arrays and hex as the bytes that ``kind`` has. Recursion ends with the type's."""
    match kind, value:
        case inspect.StructType(fields=fields), dict():
            names = [field.encode_name for field in fields]
            if list(value) != names and sorted(value) != sorted(names):
                raise ValueError(f"{where}: the fields are {', '.join(names)}")
            return [_positional(value[f.encode_name], f.type, f"{where}.{f.encode_name}") for f in fields]
        case ((inspect.BytesType() | inspect.MemoryViewType()), str()):
            try:
                return bytes.fromhex(value)
            except ValueError:
                raise ValueError(f"{where}: not hex") from None
        case inspect.VarTupleType(item_type=item), list():
            return [_positional(each, item, f"{where}[{index}]") for index, each in enumerate(value)]
        case inspect.UnionType(types=types), _ if value is not None:
            (present,) = [each for each in types if not isinstance(each, inspect.NoneType)]
            return _positional(value, present, where)
        case ((inspect.StructType() | inspect.BytesType() | inspect.MemoryViewType() | inspect.VarTupleType()), _):
            raise ValueError(f"{where}: not what belongs there")
        case _:
            return value
