"""How the epochs of a chain followed each other, as a document: what ``GET /v1/epochs?from=N`` answers and what is kept
in a file beside receipts, to verify offline what later validators committed.

Like a receipt it has two forms: canonical MessagePack, and JSON with named fields and hex (``json_form.py``). It proves
itself: whoever takes it asks a :class:`~consensus.epoch_history.EpochHistory` about each change, one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, encode
from consensus.epochs import EpochChange, epoch_changes
from consensus.types import Epoch, Hash, Integer
from sequencer.json_form import from_json, to_json
from sequencer.storage.raw_archive import RawEpoch

CHANGES_MAX: Final = 256
"""Changes in one document."""
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
"""A node's answer ends with the change that crosses this."""


class EpochChanges(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """``changes`` are consecutive, by ascending epoch. ``chain`` is the genesis hash; ``newest`` is the epoch that the
    node which made this is in: where ``changes`` end below it, ask again from there."""

    chain: Hash
    newest: Integer
    changes: Annotated[tuple[EpochChange, ...], Meta(max_length=CHANGES_MAX)]

    def to_bytes(self) -> bytes:
        """Canonical MessagePack."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> EpochChanges | Malformed:
        """Read what :meth:`to_bytes` gives; nothing is verified yet."""
        return _documents.decode(data)

    def to_json(self) -> bytes:
        """JSON, for people."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> EpochChanges | Malformed:
        """Read what :meth:`to_json` gives; nothing is verified yet."""
        return from_json(data, cls)


_documents: Final = Canonical(EpochChanges)


def decoded_change(row: RawEpoch) -> EpochChange | Malformed:
    """What an archive's row says, nothing verified but that the bytes are those that the node wrote."""
    if not isinstance(row.change, bytes) or hashlib.sha256(row.change).digest() != row.digest:
        return Malformed("the bytes are not those of their digest")
    change = epoch_changes.decode(row.change)
    if isinstance(change, EpochChange) and change.epoch != row.epoch:
        return Malformed(f"it is stored in the place of epoch {row.epoch} and begins epoch {change.epoch}")
    return change


def answer_from(chain: bytes, newest: Epoch, changes: Iterable[EpochChange]) -> EpochChanges:
    """What a node answers that is in epoch ``newest``: of ``changes``, ascending, as many as fit."""
    chosen: list[EpochChange] = []
    size_bytes = 0
    for change in changes:
        chosen.append(change)
        size_bytes += len(encode(change))
        if len(chosen) >= CHANGES_MAX or size_bytes > ANSWER_BYTES_MAX:
            break
    return EpochChanges(chain=chain, newest=newest, changes=tuple(chosen))
