"""HotStuff-2: two chains with a linear view change, at the price of a wait (Malkhi and Nayak, 2023; deployed as
HotShot).

::

    b0 <-QC- b1 <-QC-   with b1.view == b0.view + 1: b0 and its ancestors are committed

* A block is voted for iff its certificate is at least as high as the lock (the paper's "safe to vote", figure 2).
* The lock is the highest certificate that a block *voted for* stood on, in that vote's own record; the highest
  certificate seen is kept beside it. (Locking on seeing lets one faulty leader, leading once, stop the chain: it shows
  the certificate of a block that nobody stands on to one validator a view, always after the leader asked.)
* A timeout signs (epoch, view) only. Whoever enters a view by a timeout certificate sends its highest certificate to
  the leader. A leader that holds QC(v-1) proposes at once. Otherwise a validator may be locked on a certificate that
  none of a quorum's timeouts showed: the leader waits 2D after it entered the view, or until all stake has reported,
  and proposes on the highest certificate that it knows by then. The wait buys liveness, never safety.

D is a fifth of the duration of the view, and grows with its back-off. After a failed view five delays must pass within
one view at every validator: the leader may enter one delay later than the first, waits two, its block takes one and the
votes for it another. So a view that lasts 5D is long enough exactly when the delays are at most D, and then 2D are long
enough to hear from every honest validator: its certificate was sent when it entered, at most one delay later than the
leader did.

Deviations from the paper: votes are broadcast in small committees; a view is given up by a quorum's timeouts and not by
a relay of leaders (the pacemaker of the whole family); a replica that times out shows its highest certificate too.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block_tree import BlockTree, Entry
from consensus.engine import Refusal
from consensus.protocols.chained_checks import plain_timeout_certificate_fault
from consensus.protocols.chained_types import TimeoutCertificate
from consensus.protocols.definition import Costs
from consensus.protocols.two_chain import is_two_chain, two_chain_target
from consensus.types import BlockHeader, Certificate, View


class HotStuff2:
    """The rules of HotStuff-2."""

    name = "hotstuff2"
    costs = Costs(commit_delays=4, commit_views=2, responsive=True, messages=lambda n: (n - 1) * (n + 1))
    confirmation_kind: str | None = None
    leader_waits = True

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        return header.justify.view >= lock.view

    def lock_after(self, lock: Certificate, header: BlockHeader, tree: BlockTree) -> Certificate:
        return header.justify if header.justify.view > lock.view else lock

    def may_time_out(self, high_qc: Certificate, lock: Certificate) -> bool:
        return high_qc.view >= lock.view

    def signed_high_qc_view(self, high_qc: Certificate) -> View | None:
        return None

    def check_timeout_certificate(self, certificate: TimeoutCertificate) -> Refusal | None:
        return plain_timeout_certificate_fault(certificate)

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return two_chain_target(certificate, tree)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return is_two_chain(chain)
