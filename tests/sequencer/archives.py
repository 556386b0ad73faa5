"""Homes of stopped nodes, made without running any: a chain signed by a real committee, its archive, and what the
``raw`` adapter made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from consensus.codec import block_of
from consensus.engine import BlockRecord, CommitRecord, SafetyRecord, TranscriptRecord
from consensus.genesis import ChainSpec
from consensus.signing import VOTE
from consensus.types import Block, BlockHeader, Certificate, CommitProof, VoteSubject, bitmap_of
from rollup_adapters.base import AdapterContext
from rollup_adapters.registry import load_adapter
from sequencer.body import EMPTY_PAYLOAD, Payload
from sequencer.replay import sequenced
from sequencer.storage import ChainStore
from sequencer.verify import Home, RollupFiles
from tests.sequencer.chains import Batch, payload
from tests.support.committee import Committee, committee

ROLLUPS = (1, 2, 3)
"""Those of ``tests.support.committee``."""


@dataclass(frozen=True, kw_only=True)
class SignedChain:
    """Blocks of heights 1, 2, ... with their payloads; the last one is certified and not committed."""

    committee: Committee
    blocks: tuple[tuple[Block, Payload], ...]

    @property
    def spec(self) -> ChainSpec:
        return self.committee.spec

    def proof(self, height: int) -> CommitProof:
        """The proof of the block at a height below the last: its child, certified."""
        child = self.blocks[height][0]
        return CommitProof(epoch=0, headers=(child.header,), certificate=certify(self.committee, child))


def certify(members: Committee, block: Block, signers: Sequence[int] = (0, 1, 2)) -> Certificate:
    """A quorum's certificate of a block."""
    header = block.header
    subject = VoteSubject(
        kind=VOTE,
        epoch=0,
        view=header.view,
        block_id=block.id,
        height=header.height,
        justify_view=header.justify.view,
    )
    signature = members.scheme.aggregate([members.sign(signer, subject) for signer in signers])
    assert signature is not None
    return Certificate(
        **{name: getattr(subject, name) for name in subject.__struct_fields__},
        signers=bitmap_of(tuple(signers)),
        signature=signature,
    )


def signed_chain(sections: Sequence[Mapping[int, Batch]], *, members: Committee | None = None) -> SignedChain:
    """One committed block per element, and one more that commits the last."""
    members = committee(4, scheme="ed25519") if members is None else members
    blocks: list[tuple[Block, Payload]] = []
    justify = members.epoch.genesis
    parent_id = members.spec.hash
    for height, content in enumerate((*sections, {1: [(0, b"certified, not committed")]}), start=1):
        carried = payload(content) if content else EMPTY_PAYLOAD
        header = BlockHeader(
            chain=members.spec.hash,
            epoch=0,
            view=height,
            height=height,
            parent=parent_id,
            justify=justify,
            entry_proof_hash=b"",
            payload_root=carried.root,
            payload_size=len(carried.body),
            next_validators_hash=b"",
            timestamp_ms=members.spec.genesis_time_ms + height,
            proposer=height % 4,
        )
        block = block_of(header)
        blocks.append((block, carried))
        parent_id, justify = block.id, certify(members, block)
    return SignedChain(committee=members, blocks=tuple(blocks))


def replaced(chain: SignedChain, height: int, **changes: object) -> tuple[Block, Payload]:
    """The block at a height with some header fields changed, under its new id."""
    block, carried = chain.blocks[height - 1]
    return block_of(msgspec.structs.replace(block.header, **changes)), carried


async def write_home(
    directory: Path,
    chain: SignedChain,
    *,
    height: int | None = None,
    unproven: Sequence[int] = (),
    executed: int | None = None,
) -> Home:
    """A home that committed up to ``height`` (all but the last block when None), whose adapters executed up to
    ``executed`` (the same)."""
    committed = len(chain.blocks) - 1 if height is None else height
    (directory / "data").mkdir(parents=True)
    archive = directory / "data" / "chain.db"
    async with ChainStore.open(archive, chain.spec.hash) as store:
        await store.append(
            [
                *(BlockRecord(block, carried.body) for block, carried in chain.blocks[: committed + 1]),
                *(
                    CommitRecord(block.header.height, block.id, None if height in unproven else chain.proof(height))
                    for height, (block, _) in enumerate(chain.blocks[:committed], start=1)
                ),
                SafetyRecord(kind=VOTE, subject=b"the last vote", state=b"and the lock"),
                TranscriptRecord(b"a proof that the vote relied on"),
            ]
        )
    rollups = tuple(
        RollupFiles(rollup_id=each, adapter="raw", settings={}, directory=directory / "data" / "rollups" / str(each))
        for each in chain.spec.rollups
    )
    for files in rollups:
        await _execute(files, chain, committed if executed is None else executed)
    return Home(name=directory.name, spec=chain.spec, archive=archive, rollups=rollups)


async def _execute(files: RollupFiles, chain: SignedChain, height: int) -> None:
    files.directory.mkdir(parents=True)
    context = AdapterContext(rollup_id=files.rollup_id, directory=files.directory, settings=files.settings)
    adapter = load_adapter(files.adapter)(context)
    delivered = []
    for block, carried in chain.blocks[:height]:
        section = carried.section(files.rollup_id)
        delivered.append(sequenced(block, () if section is None else section.transactions))
    if delivered:
        await adapter.deliver(delivered)
    await adapter.close()
