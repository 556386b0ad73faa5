"""What a client keeps: proofs that need nothing but the chain spec to be checked.

A :class:`Receipt` shows that one transaction was ordered, where, and that its block is committed. A :class:`Section`
shows everything that one block ordered for one rollup, and that nothing was left out; for a rollup of which the block
holds nothing, it shows just that. Both are values without behaviour towards a node: ``verify`` works offline.

Each has two forms: canonical MessagePack, and JSON with named fields and hex (``json_form.py``).
"""

from __future__ import annotations

from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, encode
from consensus.engine import Refusal
from consensus.finality.proof import FinalityProof
from consensus.genesis import SYSTEM_ROLLUP, ChainSpec
from consensus.types import BlockHeader, CommitProof, Epoch, Hash, Height, Integer
from sequencer.json_form import from_json, to_json
from sequencer.merkle import (
    TRANSACTIONS_MAX,
    InclusionProof,
    SectionProof,
    SectionTree,
    verify_inclusion,
    verify_section_proof,
)
from sequencer.transactions import U64_MAX, Level, Position, RollupId, TransactionId, transaction_ids


class Genesis(Protocol):
    """What a verifier trusts: the chain spec, and the rule of its protocol."""

    @property
    def spec(self) -> ChainSpec: ...

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block committed in ``epoch``; the reason otherwise."""
        ...

    def verify_finality(self, proof: FinalityProof, header: BlockHeader) -> Refusal | None:
        """None when ``proof`` shows ``header``'s block final; the reason otherwise."""
        ...


class VerificationError(Exception):
    """A receipt or section does not prove what it says. ``what`` names the part that failed."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


class Receipt(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One transaction in a committed block. ``finality`` is there where whoever made the receipt knew the block to be
    final."""

    transaction_id: Hash
    rollup_id: RollupId
    inclusion: InclusionProof
    header: BlockHeader
    commit_proof: CommitProof
    finality: FinalityProof | None = None

    @property
    def level(self) -> Level:
        """The rung that the receipt proves."""
        return Level.CONFIRMED if self.finality is None else Level.FINAL

    @property
    def height(self) -> Height:
        """The height of the block."""
        return self.header.height

    @property
    def index(self) -> int:
        """The transaction's place in its rollup's section, from 0."""
        return self.inclusion.index

    @property
    def position(self) -> Position:
        """Where the transaction stands."""
        return Position(rollup_id=self.rollup_id, height=self.height, index=self.index)

    def verify(self, genesis: Genesis) -> None:
        """Raises :class:`VerificationError` unless the chain of ``genesis`` ordered the transaction there, and made it
        final where the receipt says so."""
        _verify_origin(genesis, self.header, self.rollup_id)
        refusal = verify_inclusion(self.inclusion, self.transaction_id, self.rollup_id, self.header.payload_root)
        if refusal is not None:
            raise VerificationError("inclusion", refusal.reason)
        _verify_commit(genesis, self.header, self.commit_proof)
        if self.finality is not None:
            refusal = genesis.verify_finality(self.finality, self.header)
            if refusal is not None:
                raise VerificationError("finality", refusal.reason)

    def to_bytes(self) -> bytes:
        """Canonical MessagePack."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt | Malformed:
        """Read what :meth:`to_bytes` gives; nothing is verified yet."""
        return _receipts.decode(data)

    def to_json(self) -> bytes:
        """JSON, for people."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Receipt | Malformed:
        """Read what :meth:`to_json` gives; nothing is verified yet."""
        return from_json(data, cls)


class Section(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """All that one block ordered for one rollup, possibly nothing. ``commit_proof`` is None only where whoever made the
    section checked the commit by other means."""

    rollup_id: RollupId
    header: BlockHeader
    valid_untils: Annotated[tuple[Integer, ...], Meta(max_length=TRANSACTIONS_MAX)]
    transactions: Annotated[tuple[bytes, ...], Meta(max_length=TRANSACTIONS_MAX)]
    proof: SectionProof
    commit_proof: CommitProof | None

    @property
    def height(self) -> Height:
        """The height of the block."""
        return self.header.height

    def transaction_ids(self) -> tuple[TransactionId, ...]:
        """The ids of the transactions, hashed anew."""
        return transaction_ids(self.rollup_id, self.valid_untils, self.transactions)

    def verify(self, genesis: Genesis) -> None:
        """Raises :class:`VerificationError` unless the committed block of the chain of ``genesis`` holds exactly these
        transactions of the rollup."""
        _verify_origin(genesis, self.header, self.rollup_id)
        refusal = verify_section_proof(self.proof, self.rollup_id, self.header.payload_root)
        if refusal is not None:
            raise VerificationError("completeness", refusal.reason)
        self._verify_transactions()
        if self.commit_proof is None:
            raise VerificationError("commit", "the section carries no commit proof")
        _verify_commit(genesis, self.header, self.commit_proof)

    def _verify_transactions(self) -> None:
        if len(self.valid_untils) != len(self.transactions):
            raise VerificationError("transactions", "not one expiry for each")
        leaf = self.proof.leaf
        if leaf is None or leaf.rollup_id != self.rollup_id:
            if self.transactions:
                raise VerificationError("transactions", "there are some, but the proof shows that the block has none")
            return
        if len(self.transactions) != leaf.count:
            raise VerificationError("transactions", f"{len(self.transactions)} of the section's {leaf.count}")
        if not 0 <= min(self.valid_untils) <= max(self.valid_untils) <= U64_MAX:
            raise VerificationError("transactions", "an expiry is no u64")
        if SectionTree(self.transaction_ids()).root != leaf.root:
            raise VerificationError("transactions", "they are not those under the section's root")

    def to_bytes(self) -> bytes:
        """Canonical MessagePack."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Section | Malformed:
        """Read what :meth:`to_bytes` gives; nothing is verified yet."""
        return _sections.decode(data)

    def to_json(self) -> bytes:
        """JSON, for people."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Section | Malformed:
        """Read what :meth:`to_json` gives; nothing is verified yet."""
        return from_json(data, cls)


_receipts: Final = Canonical(Receipt)
_sections: Final = Canonical(Section)


def _verify_origin(genesis: Genesis, header: BlockHeader, rollup_id: int) -> None:
    if header.chain != genesis.spec.hash:
        raise VerificationError("chain", f"the header is of {header.chain.hex()}, not of this chain")
    of_the_chain = rollup_id == SYSTEM_ROLLUP and genesis.spec.reconfiguration is not None
    if rollup_id not in genesis.spec.rollups and not of_the_chain:
        raise VerificationError("rollup", f"{rollup_id} is not of this chain")


def _verify_commit(genesis: Genesis, header: BlockHeader, proof: CommitProof) -> None:
    refusal = genesis.verify_commit(proof, header, header.epoch)
    if refusal is not None:
        raise VerificationError("commit", refusal.reason)
