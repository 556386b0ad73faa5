"""Reading messages of any protocol by the types of what is inside: headers, certificates, and the view they belong to.

Nothing here asks the protocol: a message is a struct, and so is what it carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

import msgspec
from msgspec.inspect import BoolType, BytesType, FloatType, IntType, MemoryViewType, StrType, StructType, type_info

from consensus.types import NIL_BLOCK, SYNC_MESSAGES, BlockHeader, Certificate, Vote

DEPTH_MAX: Final = 6
TYPES_REMEMBERED: Final = 256
LEAVES: Final = (IntType, BytesType, StrType, MemoryViewType, BoolType, FloatType)
"""Types of fields that hold no struct."""


@lru_cache(maxsize=TYPES_REMEMBERED)
def _holders(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields of a struct that may hold other structs."""
    described = cast("StructType", type_info(kind))
    return tuple(field.name for field in described.fields if not isinstance(field.type, LEAVES))


def parts(message: msgspec.Struct, depth: int = 0) -> list[msgspec.Struct]:
    """Every struct inside a message, outermost first, the message itself left out."""
    found: list[msgspec.Struct] = []
    if depth >= DEPTH_MAX:
        return found
    for name in _holders(type(message)):
        value = getattr(message, name)
        if value is None:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, msgspec.Struct):
                found.append(item)
                if type(item) is not Certificate and _holders(type(item)):
                    found += parts(item, depth + 1)
    return found


def certificates_in(message: msgspec.Struct) -> list[Certificate]:
    """Every certificate inside a message, each once."""
    if type(message) is Vote:
        return []
    found: dict[Certificate, None] = {}
    for part in parts(message):
        if type(part) is Certificate:
            found[part] = None
    return list(found)


def header_in(message: msgspec.Struct) -> BlockHeader | None:
    """The header that a message proposes, if it does."""
    header = getattr(message, "header", None)
    return header if type(header) is BlockHeader else None


def view_of(message: msgspec.Struct) -> int:
    """The view that a message belongs to: its own, its block's, or the one that its certificates let enter; 0 for one
    that belongs to none."""
    view = getattr(message, "view", None)
    if isinstance(view, int):
        return view
    header = header_in(message)
    if header is not None:
        return header.view
    if isinstance(message, SYNC_MESSAGES):
        return 0
    views = [view for part in parts(message) if isinstance(view := getattr(part, "view", None), int)]
    return 1 + max(views) if views else 0


def names_of(message: msgspec.Struct, kinds: Sequence[str]) -> tuple[str, ...]:
    """What schedules call a message: its type's name; ``Timeout`` for a vote for no block, which gives a view up; a
    vote for a block also by the number of its kind among the ``kinds`` for blocks, as ``Vote 1``."""
    if type(message) is not Vote:
        return (type(message).__name__,)
    if message.block_id == NIL_BLOCK:
        return ("Timeout",)
    return ("Vote", f"Vote {kinds.index(message.kind)}") if message.kind in kinds else ("Vote",)
