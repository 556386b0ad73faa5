"""Blocks for the tests of storage: hash-linked, with bodies of any size, on one chain or on forks of it."""

from __future__ import annotations

from collections.abc import Sequence

from consensus import codec
from consensus.engine import BlockRecord, CommitRecord, LoadBlocks, SafetyRecord
from consensus.types import AncestorsRequest, Block, BlockHeader, Certificate, CommitProof, RangeRequest
from sequencer.storage import ChainStore

GENESIS = bytes(range(32))
PEER = b"p" * 32


def certificate(block_id: bytes, view: int, height: int) -> Certificate:
    return Certificate(
        kind="vote",
        epoch=0,
        view=view,
        block_id=block_id,
        height=height,
        justify_view=max(view - 1, 0),
        signers=b"\x0f",
        signature=b"s" * 96,
    )


def child(parent: Block | None, body: bytes | memoryview = b"", view: int | None = None) -> Block:
    """A block on ``parent`` (None: on genesis); another view makes it a fork."""
    height = 1 if parent is None else parent.header.height + 1
    parent_id = GENESIS if parent is None else parent.id
    parent_view = 0 if parent is None else parent.header.view
    return codec.block_of(
        BlockHeader(
            chain=GENESIS,
            epoch=0,
            view=height if view is None else view,
            height=height,
            parent=parent_id,
            justify=certificate(parent_id, parent_view, height - 1),
            entry_proof_hash=b"",
            payload_root=bytes(32),
            payload_size=len(body),
            next_validators_hash=b"",
            timestamp_ms=1_700_000_000_000 + height,
            proposer=0,
        )
    )


def body_of(height: int, size_bytes: int = 100) -> memoryview:
    return memoryview((b"%08d" % height) * (size_bytes // 8))


def chain(length: int, size_bytes: int = 100) -> list[tuple[Block, memoryview]]:
    """Blocks of heights 1 to ``length`` with their bodies."""
    blocks: list[tuple[Block, memoryview]] = []
    for height in range(1, length + 1):
        body = body_of(height, size_bytes)
        blocks.append((child(blocks[-1][0] if blocks else None, body), body))
    return blocks


def proof(block: Block, *descendants: Block) -> CommitProof:
    """A proof of the right shape. Storage does not judge it."""
    tip = descendants[-1] if descendants else block
    return CommitProof(
        epoch=0,
        headers=tuple(descendant.header for descendant in descendants),
        certificate=certificate(tip.id, tip.header.view, tip.header.height),
    )


def commit(block: Block, with_proof: bool = True) -> CommitRecord:
    return CommitRecord(block.header.height, block.id, proof(block) if with_proof else None)


def safety(kind: str, value: int) -> SafetyRecord:
    return SafetyRecord(kind=kind, subject=b"subject %d" % value, state=b"state %d" % value)


async def append_chain(
    store: ChainStore, blocks: Sequence[tuple[Block, memoryview]], unproven: frozenset[int] = frozenset()
) -> None:
    """Store and commit blocks, one append each; those at ``unproven`` heights without a proof."""
    for block, body in blocks:
        await store.append([BlockRecord(block, body), commit(block, block.header.height not in unproven)])


def ancestors(block: Block, above_height: int = 0) -> LoadBlocks:
    return LoadBlocks(PEER, AncestorsRequest(epoch=0, request_id=1, block_id=block.id, above_height=above_height))


def range_from(height: int) -> LoadBlocks:
    return LoadBlocks(PEER, RangeRequest(epoch=0, request_id=1, from_height=height))
