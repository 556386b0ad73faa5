"""The proposer's part of Tendermint: asks for a payload or takes the valid value, and makes the proposal once it is
signed."""

from __future__ import annotations

from consensus.block_tree import Entry
from consensus.engine import PayloadBuilt, StepBuilder
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND
from consensus.protocols.block_pipeline import BlockPipeline
from consensus.protocols.proposing import block_built, payload_request
from consensus.protocols.tendermint_types import Proposal, turn_of
from consensus.types import (
    Block,
    Certificate,
    Nanoseconds,
    ProposalSubject,
    ValidatorIndex,
    View,
)


class Leader:
    """One replica's proposals, one a view. Adds to the step that ``out`` collects."""

    __slots__ = ("_building", "_epoch", "_me", "_out", "_pipeline", "_proposing", "_spec", "proposed_view")

    def __init__(
        self,
        spec: ChainSpec,
        epoch: EpochInfo,
        pipeline: BlockPipeline,
        out: StepBuilder,
        me: ValidatorIndex | None,
    ) -> None:
        self._spec = spec
        self._epoch = epoch
        self._pipeline = pipeline
        self._out = out
        self._me = me
        self._building: View = 0
        self._proposing: tuple[View, Block, memoryview, Certificate | None] | None = None
        self.proposed_view: View = 0
        """The highest view that this replica asked to sign a proposal of."""

    def leads(self, view: View) -> bool:
        """True when this replica leads ``view`` and has not proposed in it."""
        return self._me == self._epoch.leaders.leader(turn_of(view)) and self.proposed_view < view

    def enter(self) -> None:
        """Another round begins: what was being built is of no use."""
        self._building = 0

    def ask(self, view: View, entered_ns: Nanoseconds) -> None:
        """Ask for the payload of a block on the committed head, once a view."""
        if self._building == view:
            return
        self._building = view
        deadline_ns = entered_ns + self._spec.pacing.idle_interval_ms * NANOSECONDS_PER_MILLISECOND
        self._out.effects.append(payload_request(view, (), self._pipeline.tree.root, deadline_ns))

    def build(self, built: PayloadBuilt, justify: Certificate) -> Entry | None:
        """The block of the payload that was asked for, on the head's certificate; None for any other answer."""
        if self._me is None or (built.view, built.parent) != (self._building, justify.block_id):
            return None
        self._building = 0
        block = block_built(built, justify, (), self._epoch, self._me, None)
        entry = self._pipeline.insert(block, built.body, None, justify)
        if entry is not None:
            entry.checked = True
        return entry

    def propose(self, view: View, entry: Entry, polka: Certificate | None) -> ProposalSubject:
        """What to sign for a proposal of this block; it is recorded."""
        self.proposed_view = view
        self._proposing = (view, entry.block, memoryview(entry.body), polka)
        self._pipeline.record((entry,))
        return ProposalSubject(epoch=self._epoch.epoch, view=view, block_id=entry.block.id)

    def proposal(self, subject: ProposalSubject, signature: bytes) -> Proposal | None:
        """The message of a signed proposal; None when another was made since."""
        if self._proposing is None or self._me is None:
            return None
        view, block, body, polka = self._proposing
        if (view, block.id) != (subject.view, subject.block_id):
            return None
        return Proposal(
            epoch=subject.epoch,
            view=view,
            header=block.header,
            body=body,
            polka=polka,
            proposer=self._me,
            signature=signature,
        )

    def restore(self, subject: ProposalSubject, valid: Certificate | None) -> None:
        """Take back a stored proposal, with the valid value that was stored with it."""
        self.proposed_view = subject.view
        entry = self._pipeline.tree.get(subject.block_id)
        if entry is not None:
            polka = None if entry.view == subject.view else valid
            self._proposing = (subject.view, entry.block, memoryview(entry.body), polka)
