"""What every leader does, whatever the protocol: it asks for a payload, and makes a block of the answer."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.block_tree import Entry, Root
from consensus.codec import block_of, digest
from consensus.engine import BuildPayload, PayloadBuilt
from consensus.epochs import CLOSING_PAYLOAD_ROOT, EpochInfo
from consensus.protocols.block_pipeline import closes
from consensus.types import Block, BlockHeader, Certificate, Nanoseconds, ValidatorIndex, View


def awaits_commit(path: Sequence[Entry]) -> bool:
    """True when something on ``path`` must be committed soon: a payload, or the boundary of the epoch, however empty.
    The chain goes on without idling until it is."""
    return any(entry.block.header.payload_size for entry in path) or closes(path)


def payload_request(view: View, path: Sequence[Entry], root: Root, deadline_ns: Nanoseconds) -> BuildPayload:
    """Asks for the payload of a block of ``view`` on the last block of ``path``, which starts above ``root``."""
    return BuildPayload(
        view=view,
        parent=path[-1].block.id if path else root.id,
        height=root.height + len(path) + 1,
        parent_timestamp_ms=path[-1].block.header.timestamp_ms if path else root.timestamp_ms,
        path=tuple([(entry.block, entry.body) for entry in path]),
        deadline_ns=deadline_ns,
    )


def block_built(
    built: PayloadBuilt,
    justify: Certificate,
    path: Sequence[Entry],
    epoch: EpochInfo,
    me: ValidatorIndex,
    entry_proof: msgspec.Struct | None,
) -> Block:
    """The block of ``built`` on ``justify``, whose block ends ``path``; it names ``entry_proof``. Raises
    ``RuntimeError`` when the payload source fills a closing block: nobody would vote for it."""
    is_closing = closes(path)
    if is_closing and (len(built.body) or built.next_validators_hash):
        raise RuntimeError(f"the payload source fills the block of view {built.view} after the end of the epoch")
    return block_of(
        BlockHeader(
            chain=epoch.chain,
            epoch=epoch.epoch,
            view=built.view,
            height=justify.height + 1,
            parent=justify.block_id,
            justify=justify,
            entry_proof_hash=b"" if entry_proof is None else digest(entry_proof),
            payload_root=CLOSING_PAYLOAD_ROOT if is_closing else built.payload_root,
            payload_size=len(built.body),
            next_validators_hash=built.next_validators_hash,
            timestamp_ms=built.timestamp_ms,
            proposer=me,
        )
    )
