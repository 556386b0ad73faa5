"""What is decided: the committed head with its proof, and the highest decision that is known, here or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from consensus.block_tree import BlockTree, Entry
from consensus.certificates import QuorumChecker
from consensus.commit_proof import linked_headers
from consensus.engine import CommitRecord, Recovered, Refusal, StepBuilder
from consensus.epochs import EpochInfo
from consensus.protocols.block_pipeline import BlockPipeline
from consensus.protocols.tendermint_types import PRECOMMIT, height_of
from consensus.types import Block, BlockHeader, BlockId, Certificate, CommitProof, Height, PeerId


class _DecidedByCertificate:
    """The pipeline's rule: what is decided is aimed at with its proof, never found by looking down the chain."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return None


class Decision(NamedTuple):
    """A block, here or not, and what shows that it is committed."""

    block_id: BlockId
    height: Height
    proof: CommitProof


class Decisions:
    """The pipeline of blocks, and the proofs that move its head. Adds to the step that ``out`` collects."""

    __slots__ = ("_epoch", "_head", "_highest", "_out", "pipeline")

    def __init__(self, epoch: EpochInfo, checker: QuorumChecker, out: StepBuilder) -> None:
        self._epoch = epoch
        self._out = out
        self.pipeline = BlockPipeline(epoch, checker, _DecidedByCertificate(), out)
        self._head: CommitProof | None = None
        """Of the committed head; None for genesis."""
        self._highest: Decision | None = None
        """The highest decision that is known; the pipeline may aim at a nearer one first."""

    def restore(self, recovered: Recovered) -> None:
        """Take back what the journal holds."""
        self._head = self.pipeline.restore(recovered)
        root = self.pipeline.tree.root
        if self._head is not None:
            self._highest = Decision(root.id, root.height, self._head)

    @property
    def height(self) -> Height:
        """The highest height that is known to be decided."""
        return self.pipeline.tree.root.height if self._highest is None else self._highest.height

    @property
    def certificate(self) -> Certificate:
        """Shows it: the commit certificate of that height or of one above."""
        return self._epoch.genesis if self._highest is None else self._highest.proof.certificate

    @property
    def justify(self) -> Certificate:
        """The commit certificate of the committed head: what a block of the next height stands on."""
        proof = self._head
        if proof is None:
            return self._epoch.genesis
        return proof.headers[0].justify if proof.headers else proof.certificate

    def decide(self, certificate: Certificate) -> None:
        """A verified quorum of precommits for a block (L49)."""
        proof = CommitProof(epoch=self._epoch.epoch, headers=(), certificate=certificate)
        self._aim(certificate.block_id, certificate.height, proof)

    def take(
        self, blocks: Sequence[tuple[Block, memoryview]], proof: CommitProof | None, peer: PeerId, needed: Certificate
    ) -> None:
        """Block sync fetched blocks, oldest first; with a proof, which verified, the last is committed."""
        self.pipeline.take(blocks, None, peer, needed)
        if proof is not None and blocks:
            head = blocks[-1][0]
            self._aim(head.id, head.header.height, proof)

    def _aim(self, block_id: BlockId, height: Height, proof: CommitProof) -> None:
        self.pipeline.aim(block_id, height, proof)
        if height > self.height:
            self._highest = Decision(block_id, height, proof)

    def commit(self) -> bool:
        """Commit what is decided, once it and its ancestors are here (L50-L52). True when the head has moved."""
        tree = self.pipeline.tree
        before = tree.root.height
        self.pipeline.try_commit()
        if tree.root.height == before:
            return False
        last = next(record for record in reversed(self._out.records) if isinstance(record, CommitRecord))
        self._head = last.proof
        return True

    def ready(self, block_id: BlockId, *, certified: bool) -> Entry | None:
        """The block, once it is here, follows from the head, and its body was checked: with ``certified``, that a
        quorum found it valid is enough."""
        path = self.pipeline.tree.path(block_id)
        if not path or not self.pipeline.all_checked(path, full_check_of_last=not certified):
            return None
        return path[-1]


def commit_refusal(proof: CommitProof, header: BlockHeader, epoch: EpochInfo, checker: QuorumChecker) -> Refusal | None:
    """None when a quorum of precommits, of a round in which the last header could be decided, commits it, and with it
    the ancestors that its hash names; the reason otherwise."""
    chain = linked_headers(proof, header, epoch)
    if isinstance(chain, Refusal):
        return chain
    certificate, last = proof.certificate, chain[-1]
    if proof.confirmation is not None:
        return Refusal("commit proof: a confirmation where none belongs")
    if certificate.view < last.view or height_of(certificate.view) != last.height:
        return Refusal("commit proof: the certificate is not of a round in which the block could be decided")
    return checker.check(certificate, PRECOMMIT)
