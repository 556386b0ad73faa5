"""What a transaction is: its id, its place in the order, and how far it has come.

A transaction is ``(rollup_id, valid_until, data)``. ``rollup_id`` is a u64 of the chain spec, ``data`` is opaque, and
``valid_until`` is the last height at which it may be ordered, 0 for no expiry. Its id is::

    SHA-256(0x00 || rollup_id u64le || valid_until u64le || data)

32 bytes, and at the same time its leaf in the section's Merkle tree (``merkle.py``; 0x00 is the leaf's domain byte
there), so a transaction is hashed once in its life on a node.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from consensus.types import Height, Integer

TransactionId: TypeAlias = bytes
U64_MAX: Final = 2**64 - 1
RollupId: TypeAlias = Annotated[int, Meta(ge=0)]
"""A u64. MessagePack holds no larger integer; what comes as JSON is compared with :data:`U64_MAX` where it is used."""

TRANSACTION_DOMAIN: Final = 0
_PREFIX: Final = struct.Struct("<BQQ")


class Level(enum.StrEnum):
    """The ladder, lowest rung first. ``EXPIRED`` stands beside it: never ordered, and never will be as it is.

    Nothing gives ``PROMISED``, ``CERTIFIED`` or ``SETTLED`` yet: preconfirmations and settlement are not built. A chain
    without checkpoints never gives ``FINAL``.
    """

    UNKNOWN = "unknown"
    EXPIRED = "expired"
    PENDING = "pending"
    PROMISED = "promised"
    CERTIFIED = "certified"
    CONFIRMED = "confirmed"
    FINAL = "final"
    SETTLED = "settled"


class Position(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Where a transaction stands in the order: the ``index``-th (from 0) of its rollup's section at ``height``."""

    rollup_id: RollupId
    height: Integer
    index: Integer


class TransactionStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far a transaction has come. ``position`` is there from ``CONFIRMED`` on."""

    level: Level
    position: Position | None = None


def transaction_prefix(rollup_id: int, valid_until: Height) -> bytes:
    """What is hashed before a transaction's data. Raises ``struct.error`` for numbers that are no u64: check them
    before."""
    return _PREFIX.pack(TRANSACTION_DOMAIN, rollup_id, valid_until)


def transaction_id(rollup_id: int, valid_until: Height, data: bytes | memoryview) -> TransactionId:
    """The id of one transaction. Raises as :func:`transaction_prefix` does."""
    return sha256(transaction_prefix(rollup_id, valid_until) + data).digest()


def transaction_ids(
    rollup_id: int, valid_untils: Collection[Height], transactions: Sequence[bytes]
) -> tuple[TransactionId, ...]:
    """The ids of one rollup's transactions, in order. ``valid_untils`` and ``transactions`` are of equal length. Raises
    as :func:`transaction_prefix` does.

    Clients send many transactions with one expiry, so the bytes before the data are made once per expiry.
    """
    prefixes = {valid_until: transaction_prefix(rollup_id, valid_until) for valid_until in dict.fromkeys(valid_untils)}
    if len(prefixes) == 1:
        (prefix,) = prefixes.values()
        return tuple([sha256(prefix + data).digest() for data in transactions])
    return tuple(
        [
            sha256(prefixes[valid_until] + data).digest()
            for valid_until, data in zip(valid_untils, transactions, strict=True)
        ]
    )
