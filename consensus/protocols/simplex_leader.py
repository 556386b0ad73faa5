"""The leader's part of Simplex: asks for a payload, makes one block a view of it, and the proposal once that is
signed."""

from __future__ import annotations

from consensus.block_tree import Entry
from consensus.codec import digest
from consensus.engine import PayloadBuilt, StepBuilder
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND
from consensus.protocols.block_pipeline import BlockPipeline, closes
from consensus.protocols.proposing import awaits_commit, block_built, payload_request
from consensus.protocols.simplex_state import HeldCertificates, SafetyState
from consensus.protocols.simplex_types import Proposal
from consensus.types import Block, Certificate, Nanoseconds, ProposalSubject, ValidatorIndex, View


class Leader:
    """One replica's proposals, one a view. Adds to the step that ``out`` collects."""

    __slots__ = ("_building", "_epoch", "_held", "_idle_ns", "_me", "_out", "_pipeline", "_proposing", "proposed_view")

    def __init__(
        self,
        spec: ChainSpec,
        epoch: EpochInfo,
        pipeline: BlockPipeline,
        held: HeldCertificates,
        out: StepBuilder,
        me: ValidatorIndex | None,
    ) -> None:
        self._epoch = epoch
        self._pipeline = pipeline
        self._held = held
        self._out = out
        self._me = me
        self._idle_ns = spec.pacing.idle_interval_ms * NANOSECONDS_PER_MILLISECOND
        self._building: tuple[View, Certificate] | None = None
        self._proposing: tuple[Block, memoryview, Certificate | None] | None = None
        self.proposed_view: View = 0
        """The highest view that this replica asked to sign a proposal of."""

    def leads(self, view: View) -> bool:
        """True when this replica leads ``view`` and has not proposed in it."""
        return self._me == self._epoch.leaders.leader(view) and self.proposed_view < view

    def enter(self) -> None:
        """Another view begins: what was being built is of no use."""
        self._building = None

    def ask(self, view: View, entered_ns: Nanoseconds, finalized_view: View) -> None:
        """Ask for the payload of a block on the highest notarization or finalization, once a view, when everything that
        it stands on is here and checked. ``finalized_view`` is the last that this replica voted to finalize: a payload
        in the block below needs no block above to be committed then."""
        justify = self._held.high_qc
        path = self._pipeline.tree.path(justify.block_id)
        if self._building is not None or path is None:
            return
        if not self._pipeline.all_checked(path, full_check_of_last=False):
            return
        urgent = closes(path) or (awaits_commit(path) and finalized_view != justify.view)
        deadline_ns = entered_ns + (0 if urgent else self._idle_ns)
        self._building = (view, justify)
        self._out.effects.append(payload_request(view, path, self._pipeline.tree.root, deadline_ns))

    def build(self, built: PayloadBuilt) -> Entry | None:
        """The block of the payload that was asked for, recorded with all that it stands on; None for any other
        answer."""
        if self._building is None or self._me is None:
            return None
        view, justify = self._building
        if (built.view, built.parent) != (view, justify.block_id):
            return None
        path = self._pipeline.tree.path(justify.block_id)
        proof = None if justify.view == view - 1 else self._held.nullification(view - 1)
        if path is None or (proof is None and justify.view != view - 1):
            self._building = None  # an ancestor was not what it seemed: built again once all are here
            return None
        block = block_built(built, justify, path, self._epoch, self._me, proof)
        entry = self._pipeline.insert(block, built.body, None, self._held.high_qc)
        if entry is None:
            return None
        entry.checked = True
        self._building = None
        self.proposed_view = view
        self._proposing = (block, memoryview(built.body), proof)
        self._pipeline.record((*path, entry))
        return entry

    def proposal(self, subject: ProposalSubject, signature: bytes) -> Proposal | None:
        """The message of a signed proposal; None when another was made since."""
        if self._proposing is None or self._proposing[0].id != subject.block_id:
            return None
        block, body, proof = self._proposing
        return Proposal(epoch=subject.epoch, header=block.header, body=body, entry_proof=proof, signature=signature)

    def restore(self, subject: ProposalSubject, state: SafetyState) -> Entry | None:
        """The last proposal before a restart. Raises ``ValueError`` for a journal that lacks what it names."""
        self.proposed_view = subject.view
        entry = self._pipeline.tree.get(subject.block_id)
        if entry is None:
            return None
        named = entry.block.header.entry_proof_hash
        proof = next((held for held in state.nullifications if digest(held) == named), None) if named else None
        if named and proof is None:
            raise ValueError("the journal lacks the nullification that its own proposal names")
        self._proposing = (entry.block, memoryview(entry.body), proof)
        return entry
