"""TwoChain: two certified blocks in a row commit the first. A member of the HotStuff family in one file.

::

    b0 <-QC- b1 <-QC-    with b1.view == b0.view + 1: b0 and its ancestors are committed

* A block is voted for iff it stands on the certificate of the view before; or the view before was given up, the block
  carries the timeout certificate that proves it, and stands on a certificate at least as high as that one's highest.
* A timeout signs the view of the highest certificate that its signer has seen. A voter has seen the certificate that
  its block stands on, so a timeout never denies what a vote has shown.

Why it is safe: say b0 of view v is committed. A quorum voted for b1 in view v+1, and so has seen the certificate of b0.
Every quorum that gives up a later view shares an honest validator with it, so the highest certificate in the timeout
certificate is of view v or later; nobody honest votes for a block below that.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block_tree import BlockTree, Entry
from consensus.engine import Refusal
from consensus.protocols.chained_family import chained
from consensus.protocols.chained_types import TimeoutCertificate
from consensus.protocols.definition import Costs
from consensus.types import BlockHeader, Certificate, View


class TwoChain:
    """The rules: small, stateless, pure."""

    name = "twochain"
    costs = Costs(commit_delays=4, commit_views=2, responsive=True, messages=lambda n: (n - 1) * (n + 1))
    confirmation_kind: str | None = None
    leader_waits = False

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        if header.justify.view == header.view - 1:
            return True
        return entry_proof is not None and header.justify.view >= entry_proof.high_qc.view

    def lock_after(self, lock: Certificate, header: BlockHeader, tree: BlockTree) -> Certificate:
        return header.justify if header.justify.view > lock.view else lock

    def may_time_out(self, high_qc: Certificate, lock: Certificate) -> bool:
        return high_qc.view >= lock.view

    def signed_high_qc_view(self, high_qc: Certificate) -> View | None:
        return high_qc.view

    def check_timeout_certificate(self, certificate: TimeoutCertificate) -> Refusal | None:
        """Each group of signers signed one certificate view; they ascend, and the certificate shown is the highest."""
        previous = -1
        for group in certificate.groups:
            signed = group.high_qc_view
            if signed is None or not previous < signed < certificate.view:
                return Refusal("timeout certificate: the groups' certificate views must ascend below its view")
            previous = signed
        if certificate.high_qc.view != previous:
            return Refusal("timeout certificate: its high certificate is not the highest that was signed")
        return None

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        child = tree.get(certificate.block_id)
        parent = None if child is None else tree.get(child.parent)
        if child is None or parent is None:
            return None
        return parent if child.view == parent.view + 1 else None

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 2 and chain[-1].view == chain[-2].view + 1


TWO_CHAIN = chained("twochain", TwoChain())
