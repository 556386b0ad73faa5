"""The leader's part of the HotStuff family: asks for a payload, makes one block a view of it, and the proposal once
that is signed."""

from __future__ import annotations

import msgspec

from consensus.block_tree import Entry
from consensus.engine import PayloadBuilt, StepBuilder
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND
from consensus.protocols.block_pipeline import BlockPipeline, closes
from consensus.protocols.chained_types import Proposal, TimeoutCertificate
from consensus.protocols.proposing import awaits_commit, block_built, payload_request
from consensus.types import Block, Certificate, Nanoseconds, ProposalSubject, ValidatorIndex, View


class Candidate(msgspec.Struct, frozen=True):
    """The proposal of the current view."""

    entry: Entry
    entry_proof: TimeoutCertificate | None


def entry_proof(
    view: View, justify: Certificate, timeout_certificate: TimeoutCertificate | None
) -> TimeoutCertificate | None:
    """The timeout certificate that entitles to ``view``, when ``justify`` does not."""
    if justify.view == view - 1:
        return None
    if timeout_certificate is None or timeout_certificate.view != view - 1:
        raise RuntimeError("the current view is entered by neither certificate")
    return timeout_certificate


class Leader:
    """One replica's proposals, one a view. Adds to the step that ``out`` collects.

    Without anything to order, a block is made at once if a payload below waits for its commit, but ``patience_ns``
    later where that payload may be committed without another block, and after the idle interval once it was. A closing
    block is made at once.
    """

    __slots__ = (
        "_building", "_epoch", "_hurries", "_me", "_out", "_patience_ns", "_pipeline", "_proposing", "_spec",
        "proposed_view",
    )  # fmt: skip

    def __init__(
        self,
        spec: ChainSpec,
        epoch: EpochInfo,
        pipeline: BlockPipeline,
        out: StepBuilder,
        me: ValidatorIndex | None,
        *,
        patience_ns: Nanoseconds,
    ) -> None:
        self._spec = spec
        self._patience_ns = patience_ns
        self._hurries = False
        self._epoch = epoch
        self._pipeline = pipeline
        self._out = out
        self._me = me
        self._building: tuple[View, Certificate] | None = None
        self._proposing: tuple[Block, memoryview, TimeoutCertificate | None] | None = None
        self.proposed_view: View = 0
        """The highest view that this replica asked to sign a proposal of."""

    def leads(self, view: View) -> bool:
        """True when this replica leads ``view`` and has not proposed in it."""
        return self.proposed_view < view and self._me == self._epoch.leaders.leader(view)

    def enter(self) -> None:
        """Another view begins: what was being built is of no use."""
        self._building = None

    def ask(self, view: View, high_qc: Certificate, entered_ns: Nanoseconds) -> None:
        """Ask for the payload of a block on ``high_qc`` when everything that it stands on is here and checked: once a
        view, and again when there is no hurry any more."""
        if self._building is not None and not self._hurries:
            return
        path = self._pipeline.tree.path(high_qc.block_id)
        if path is None or not self._pipeline.all_checked(path, full_check_of_last=False):
            return
        hurries = awaits_commit(path)
        if self._building is not None and hurries:
            return
        self._hurries = hurries
        idle_ns = self._spec.pacing.idle_interval_ms * NANOSECONDS_PER_MILLISECOND
        if hurries:
            idle_ns = 0 if closes(path) else min(idle_ns, self._patience_ns)
        self._building = (view, high_qc)
        self._out.effects.append(payload_request(view, path, self._pipeline.tree.root, entered_ns + idle_ns))

    def build(
        self, built: PayloadBuilt, high_qc: Certificate, timeout_certificate: TimeoutCertificate | None
    ) -> Candidate | None:
        """The block of the payload that was asked for, recorded with all that it stands on; None for any other
        answer."""
        if self._building is None or self._me is None:
            return None
        view, justify = self._building
        if (built.view, built.parent) != (view, justify.block_id):
            return None
        path = self._pipeline.tree.path(justify.block_id)
        if path is None:
            self._building = None  # an ancestor was not what it seemed: built again once all are here
            return None
        proof = entry_proof(view, justify, timeout_certificate)
        block = block_built(built, justify, path, self._epoch, self._me, proof)
        entry = self._pipeline.insert(block, built.body, None, high_qc)
        if entry is None:
            return None
        entry.checked = True
        self._building = None
        self.proposed_view = view
        self._proposing = (block, memoryview(built.body), proof)
        self._pipeline.record((*path, entry))
        return Candidate(entry, proof)

    def proposal(self, subject: ProposalSubject, signature: bytes) -> Proposal | None:
        """The message of a signed proposal; None when another was made since."""
        if self._proposing is None or self._proposing[0].id != subject.block_id:
            return None
        block, body, proof = self._proposing
        return Proposal(epoch=subject.epoch, header=block.header, body=body, entry_proof=proof, signature=signature)

    def restore(self, subject: ProposalSubject, timeout_certificate: TimeoutCertificate | None) -> Candidate | None:
        """The last proposal before a restart, with the timeout certificate that was recorded with it."""
        self.proposed_view = subject.view
        entry = self._pipeline.tree.get(subject.block_id)
        if entry is None:
            return None
        proof = None if entry.block.header.justify.view == subject.view - 1 else timeout_certificate
        self._proposing = (entry.block, memoryview(entry.body), proof)
        return Candidate(entry, proof)
