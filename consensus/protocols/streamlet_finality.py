"""What is final in Streamlet: for a replica that holds the blocks, and for a stranger who holds a proof."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consensus.block_tree import BlockTree, Entry
from consensus.certificates import QuorumChecker
from consensus.commit_proof import linked_headers
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.types import BlockHeader, Certificate, CommitProof

COMMIT_VIEWS: Final = 2
"""When view v + 2 begins, the block of view v is known to be final."""


class Finality:
    """Finalize: of three adjacent notarized blocks of consecutive views, the second."""

    def finalizes(self, second: BlockHeader, third: BlockHeader) -> bool:
        """``third`` is certified and stands on ``second``, whose justify names the first and so its view."""
        return second.justify.view + 2 == second.view + 1 == third.view

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        third = tree.get(certificate.block_id)
        second = None if third is None else tree.get(third.parent)
        if third is None or second is None or not self.finalizes(second.block.header, third.block.header):
            return None
        return second

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        """``chain`` is hash-linked, oldest first, and its last block is certified: is its first block final by that?"""
        return len(chain) >= 2 and self.finalizes(chain[-2], chain[-1])

    def check(
        self, proof: CommitProof, header: BlockHeader, epoch: EpochInfo, checker: QuorumChecker
    ) -> Refusal | None:
        """None when ``proof`` shows a stranger that the block of ``header`` is final; the reason otherwise."""
        chain = linked_headers(proof, header, epoch)
        if isinstance(chain, Refusal):
            return chain
        if proof.certificate.view != chain[-1].view or proof.confirmation is not None:
            return Refusal("commit proof: the certificate is not the last header's, or not the only one")
        if not self.is_committed(chain):
            return Refusal("commit proof: these views commit nothing")
        return checker.check(proof.certificate)
