"""The inner plug of the HotStuff family: what distinguishes one member from another. Small, stateless, pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from consensus.block_tree import BlockTree, Entry
from consensus.engine import Refusal
from consensus.protocols.chained_types import TimeoutCertificate
from consensus.protocols.definition import Costs
from consensus.types import BlockHeader, Certificate, View


class ChainedRules(Protocol):
    """Judges for :class:`~consensus.protocols.chained.ChainedEngine`. A *lock* is a certificate: that of the locked
    block, or (Jolteon) the highest one that a voted block stood on."""

    name: str
    costs: Costs
    confirmation_kind: str | None
    """The kind of votes of which a quorum commits a certified block at once (``order_votes.py``); None where there is
    no such fast path."""
    leader_waits: bool
    """Whether a leader whose view was entered by a timeout certificate waits for the highest certificates of the
    others, who send them to it (``leader_wait.py``)."""

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        """The family's common rules hold; may this block be voted for? Its ancestors are all in ``tree``."""
        ...

    def lock_after(self, lock: Certificate, header: BlockHeader, tree: BlockTree) -> Certificate:
        """The lock once this block was voted for."""
        ...

    def may_time_out(self, high_qc: Certificate, lock: Certificate) -> bool:
        """False would be our bug: the timeout would deny what a vote of ours has shown."""
        ...

    def signed_high_qc_view(self, high_qc: Certificate) -> View | None:
        """What a timeout signs of its high certificate, if it signs that."""
        ...

    def check_timeout_certificate(self, certificate: TimeoutCertificate) -> Refusal | None:
        """The shape that this protocol demands of groups and high certificate; signatures and quorum are checked
        elsewhere."""
        ...

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        """The highest block that ``certificate`` commits, if it does and the blocks between are here."""
        ...

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        """``chain`` is hash-linked, oldest first, and its last block is certified: is its first block committed by
        that?"""
        ...
