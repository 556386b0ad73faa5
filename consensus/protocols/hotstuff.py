"""Chained HotStuff with three chains (Yin et al., PODC 2019, algorithms 4 and 5).

::

    b0 <-QC- b1 <-QC- b2 <-QC-   with consecutive views: b0 and its ancestors are committed

* Voting for a block locks the grandparent of its parent's certificate: ``lock = max_by_view(lock, b1)`` where ``b2 =
block(B.justify)`` and ``b1 = block(b2.justify)`` (the paper's update, line "lockedQC"). * A block is voted for iff it
extends the locked block (safety) or stands on a certificate above the lock (liveness).

Deviations from the paper: the commit rule asks for consecutive views and not only for direct parents, because there
are no dummy blocks here (the looser rule was a published safety bug of its followers); the lock moves when a block is
voted for, in the vote's own record; a view is given up by a quorum's timeouts, which sign (epoch, view) only, and the
next leader proposes at once on the highest certificate among them.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block_tree import BlockTree, Entry
from consensus.engine import Refusal
from consensus.protocols.chained_checks import plain_timeout_certificate_fault
from consensus.protocols.chained_types import TimeoutCertificate
from consensus.protocols.definition import Costs
from consensus.types import BlockHeader, Certificate, View


class HotStuff:
    """The rules of three-chain HotStuff."""

    name = "hotstuff"
    costs = Costs(commit_delays=6, commit_views=3, responsive=True, messages=lambda n: (n - 1) * (n + 1))
    confirmation_kind: str | None = None
    leader_waits = False

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        if header.justify.view < lock.view:  # only a lying certificate lets that extend the lock
            return False
        return header.justify.view > lock.view or tree.extends(header.parent, lock.block_id, lock.height)

    def lock_after(self, lock: Certificate, header: BlockHeader, tree: BlockTree) -> Certificate:
        parent = tree.get(header.justify.block_id)
        if parent is None:  # the parent is the committed head: what lies below it is locked for good
            return lock
        candidate = parent.block.header.justify
        return candidate if candidate.view > lock.view else lock

    def may_time_out(self, high_qc: Certificate, lock: Certificate) -> bool:
        return True

    def signed_high_qc_view(self, high_qc: Certificate) -> View | None:
        return None

    def check_timeout_certificate(self, certificate: TimeoutCertificate) -> Refusal | None:
        return plain_timeout_certificate_fault(certificate)

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        grandchild = tree.get(certificate.block_id)
        child = None if grandchild is None else tree.get(grandchild.parent)
        parent = None if child is None else tree.get(child.parent)
        if grandchild is None or child is None or parent is None:
            return None
        return parent if grandchild.view == child.view + 1 == parent.view + 2 else None

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 3 and chain[-1].view == chain[-2].view + 1 == chain[-3].view + 2
