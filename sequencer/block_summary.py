"""A committed block without its transactions, as explorers and light clients see it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, digest, encode
from consensus.types import BlockHeader, BlockId, CommitProof, Height
from sequencer.json_form import to_json
from sequencer.merkle import SECTIONS_MAX, NamespacedTree, SectionLeaf
from sequencer.receipts import Genesis, VerificationError


class BlockSummary(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """``sections`` are all leaves under the payload's root, ascending by rollup id: how many transactions of which
    rollup. ``commit_proof`` is None where it was not asked for."""

    header: BlockHeader
    sections: Annotated[tuple[SectionLeaf, ...], Meta(max_length=SECTIONS_MAX)]
    commit_proof: CommitProof | None

    @property
    def height(self) -> Height:
        """The height of the block."""
        return self.header.height

    @property
    def block_id(self) -> BlockId:
        """The id of the block, hashed anew."""
        return digest(self.header)

    def verify(self, genesis: Genesis) -> None:
        """Raises :class:`VerificationError` unless the chain of ``genesis`` committed a block of exactly these
        sections."""
        if self.header.chain != genesis.spec.hash:
            raise VerificationError("chain", f"the header is of {self.header.chain.hex()}, not of this chain")
        rollups = [leaf.rollup_id for leaf in self.sections]
        if rollups != sorted(set(rollups)):
            raise VerificationError("sections", "their rollup ids do not ascend")
        if NamespacedTree(self.sections).root != self.header.payload_root:
            raise VerificationError("sections", "they are not those under the payload's root")
        if self.commit_proof is None:
            raise VerificationError("commit", "the block carries no commit proof")
        refusal = genesis.verify_commit(self.commit_proof, self.header, self.header.epoch)
        if refusal is not None:
            raise VerificationError("commit", refusal.reason)

    def to_bytes(self) -> bytes:
        """Canonical MessagePack."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> BlockSummary | Malformed:
        """Read what :meth:`to_bytes` gives; nothing is verified yet."""
        return _summaries.decode(data)

    def to_json(self) -> bytes:
        """JSON, for people."""
        return to_json(self)


_summaries: Final = Canonical(BlockSummary)
