"""Jolteon: two-chain HotStuff with a quadratic view change (Gelashvili et al., 2021; deployed as DiemBFT v4 and
AptosBFT).

::

    b0 <-QC- b1 <-QC-   with b1.view == b0.view + 1: b0 and its ancestors are committed

* A block is voted for iff it stands on the certificate of the view before, or it carries the timeout certificate of
the view before and stands on a certificate at least as high as the highest of that quorum (paper section 3, "safe to
vote"). * A timeout signs the view of the highest certificate its signer has seen, never below what its votes have
shown (``one_chain_view``, here the view of the lock). The timeout certificate proves the highest of a quorum, so a
committed block can never be missed.

Deviations from the paper: votes are broadcast in small committees; a lock is kept as the certificate itself; blocks
name the hash of the timeout certificate they stand on, for forensics. The three-delay fast path (``order_votes.py``) is
not in the paper; its order votes move the lock too.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block_tree import BlockTree, Entry
from consensus.engine import Refusal
from consensus.protocols.chained_types import TimeoutCertificate
from consensus.protocols.definition import Costs
from consensus.protocols.order_votes import ORDER
from consensus.protocols.two_chain import is_two_chain, two_chain_target
from consensus.types import BlockHeader, Certificate, View


class Jolteon:
    """The rules of Jolteon."""

    name = "jolteon"
    costs = Costs(commit_delays=3, commit_views=2, responsive=True, messages=lambda n: (n - 1) * (n + 1) + n * (n - 1))
    confirmation_kind: str | None = ORDER
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
        views = [group.high_qc_view for group in certificate.groups]
        previous = -1
        for view in views:
            if view is None or view <= previous or view >= certificate.view:
                return Refusal("timeout certificate: the groups' certificate views must ascend below its view")
            previous = view
        if certificate.high_qc.view != previous:
            return Refusal("timeout certificate: its high certificate is not the highest that was signed")
        return None

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return two_chain_target(certificate, tree)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return is_two_chain(chain)
