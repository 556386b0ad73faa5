"""Fast-HotStuff as its first version was published, with the commit rule that forks, and with the rule that does not.

Votes go to the next leader, rounds end by each node's own timer, and the leader of a round after a timeout stands on
the highest certificate that a quorum's NewView messages name:

::

    on block B(v):  b1 = block(B.justify); b0 = block(b1.justify)
      preferred = max(preferred, b1.view); high_qc = max(high_qc, B.justify)
      commit b0 (correct: iff b1.view == b0.view+1)
      vote iff B's proposer leads my round, B.view > last voted view, b1.view >= preferred; my round = max(round, v+1)

Two blocks that are parent and child, but not of consecutive views, do not exclude a certificate between them: the
published fork (Twins, Bano et al., 2020; 9 rounds, no faulty node) commits on both sides.

Not for use: no block sync, no recovery from a restart, no payloads. NewView travels as the family's ``Timeout``, with
the round that it enters.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from consensus.certificates import QuorumChecker
from consensus.codec import block_of
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    BlockRecord,
    Broadcast,
    Commit,
    CommitRecord,
    Event,
    Received,
    Recovered,
    Refusal,
    Send,
    SetTimer,
    Signed,
    Status,
    Step,
    StepBuilder,
    TimerFired,
)
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND
from consensus.protocols.chained_family import chained
from consensus.protocols.chained_state import SafetyState
from consensus.protocols.chained_types import Proposal, Timeout, TimeoutSubject
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.jolteon import Jolteon
from consensus.safety import Forbidden, SafetyGuard
from consensus.signing import VOTE
from consensus.types import (
    EMPTY_PAYLOAD_ROOT,
    Block,
    BlockHeader,
    BlockId,
    Certificate,
    CommitProof,
    Epoch,
    Nanoseconds,
    PeerId,
    ProposalSubject,
    StoredBlock,
    Subject,
    ValidatorIndex,
    View,
    Vote,
    VoteSubject,
)
from consensus.vote_tally import Counted, VoteTally

NAME: Final = "fast-hotstuff"
ROUND_TIMER: Final = "round"
NO_BODY: Final = memoryview(b"")


class FastHotStuff:
    """One replica. ``consecutive`` is the check that the first version lacked."""

    def __init__(
        self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None, consecutive: bool
    ) -> None:
        self._epoch = epoch
        self._me = me
        self._consecutive = consecutive
        self._timeout_ns = spec.pacing.view_timeout_ms * NANOSECONDS_PER_MILLISECOND
        self._checker = QuorumChecker(epoch, scheme, (VOTE,))
        self._votes = VoteTally(epoch.validators, self._checker)
        self._guard = SafetyGuard()
        self._out = StepBuilder()
        self._blocks: dict[BlockId, Block] = {}
        self._view: View = 1
        self._voted: View = 0
        self._preferred: View = 0
        self._high_qc = epoch.genesis
        self._committed: list[Block] = []
        self._new_views: dict[View, dict[ValidatorIndex, Certificate]] = {}
        self._proposing: Block | None = None
        self._now: Nanoseconds = 0

    # --- the contract -------------------------------------------------------------------------------------------

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        self._now = now
        self._arm()
        if self._leader(self._view) == self._me:
            self._propose(self._high_qc)
        return self._out.finish()

    def handle(self, event: Event, now: Nanoseconds) -> Step:
        self._now = now
        match event:
            case Received(_, Proposal() as proposal):
                self._on_block(block_of(proposal.header))
            case Received(_, Vote() as vote):
                self._on_vote(vote)
            case Received(_, Timeout() as new_view):
                self._on_new_view(new_view)
            case Signed(subject, signature):
                self._on_signed(subject, signature)
            case TimerFired(name) if name == ROUND_TIMER:
                self._view += 1
                self._arm()
                self._sign(TimeoutSubject(epoch=0, view=self._view, high_qc_view=self._high_qc.view))
            case _:
                pass  # no sync, no payloads
        return self._out.finish()

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        return Refusal("this protocol's commits are for its own node")

    def block(self, block_id: BlockId) -> StoredBlock | None:
        block = self._blocks.get(block_id)
        return None if block is None else StoredBlock(header=block.header, body=NO_BODY)

    def status(self) -> Status:
        head = self._committed[-1].header if self._committed else None
        return Status(
            epoch=0,
            view=self._view,
            leader=self._leader(self._view),
            committed_height=0 if head is None else head.height,
            committed_view=0 if head is None else head.view,
            seen_height=self._high_qc.height,
            timeouts=0,
        )

    # --- the rules ----------------------------------------------------------------------------------------------

    def _leader(self, view: View) -> ValidatorIndex:
        return self._epoch.leaders.leader(view)

    def _arm(self) -> None:
        self._out.effects.append(SetTimer(ROUND_TIMER, self._now + self._timeout_ns))

    def _peer(self, view: View) -> PeerId:
        return self._epoch.validators.peer_of(self._leader(view))

    def _on_block(self, block: Block) -> None:
        header = block.header
        if block.id in self._blocks or self._checker.check(header.justify) is not None:
            return
        self._blocks[block.id] = block
        self._learn(header.justify)
        led = header.proposer == self._leader(self._view) and header.proposer == self._leader(header.view)
        if not led or header.view <= self._voted or header.justify.view < self._preferred or self._me is None:
            return
        self._voted = header.view
        self._view = max(self._view, header.view + 1)
        self._arm()
        self._out.records.append(BlockRecord(block, b""))
        self._sign(
            VoteSubject(
                kind=VOTE, epoch=0, view=header.view, block_id=block.id, height=header.height,
                justify_view=header.justify.view,
            )
        )  # fmt: skip

    def _learn(self, certificate: Certificate) -> None:
        """The certificate of b1: prefer it, and commit b0 below it."""
        self._preferred = max(self._preferred, certificate.view)
        if certificate.view > self._high_qc.view:
            self._high_qc = certificate
        child = self._blocks.get(certificate.block_id)
        parent = None if child is None else self._blocks.get(child.header.parent)
        if child is None or parent is None:
            return
        if self._consecutive and child.header.view != parent.header.view + 1:
            return
        path: list[Block] = []
        step: Block | None = parent
        height = len(self._committed)
        while step is not None and step.header.height > height:
            path.insert(0, step)
            step = self._blocks.get(step.header.parent)
        if path and path[0].header.height == height + 1:
            self._commit(path, CommitProof(epoch=0, headers=(child.header,), certificate=certificate))

    def _commit(self, path: list[Block], proof: CommitProof) -> None:
        for block in path:
            own = proof if block is path[-1] else None
            self._committed.append(block)
            self._out.records += [BlockRecord(block, b""), CommitRecord(block.header.height, block.id, own)]
            self._out.effects.append(Commit(block=block, body=b"", proof=own))

    def _on_vote(self, vote: Vote) -> None:
        self._votes.advance(self._view)
        result = self._votes.add(vote)
        if isinstance(result, Counted) and result.certificate is not None:
            self._learn(result.certificate)
            self._propose(result.certificate)

    def _on_new_view(self, new_view: Timeout) -> None:
        if self._checker.check(new_view.high_qc) is not None or self._leader(new_view.view) != self._me:
            return
        heard = self._new_views.setdefault(new_view.view, {})
        heard[new_view.signer] = new_view.high_qc
        self._try_new_view(new_view.view)

    def _try_new_view(self, view: View) -> None:
        heard = self._new_views.get(view, {})
        if view == self._view and self._epoch.validators.stake_of(heard) >= self._epoch.validators.quorum:
            self._propose(max(heard.values(), key=lambda certificate: certificate.view))

    def _propose(self, justify: Certificate) -> None:
        if self._me is None or self._leader(self._view) != self._me:
            return
        if self._proposing is not None and self._proposing.header.view >= self._view:
            return
        parent = self._blocks.get(justify.block_id)
        stamp = self._epoch.boundary_timestamp_ms if parent is None else parent.header.timestamp_ms
        block = block_of(
            BlockHeader(
                chain=self._epoch.chain, epoch=0, view=self._view, height=justify.height + 1, parent=justify.block_id,
                justify=justify, entry_proof_hash=b"", payload_root=EMPTY_PAYLOAD_ROOT, payload_size=0,
                next_validators_hash=b"", timestamp_ms=stamp + 1, proposer=self._me,
            )
        )  # fmt: skip
        self._proposing = block
        self._out.records.append(BlockRecord(block, b""))
        self._sign(ProposalSubject(epoch=0, view=self._view, block_id=block.id))

    # --- signatures ---------------------------------------------------------------------------------------------

    def _sign(self, subject: Subject) -> None:
        state = SafetyState(last_voted_view=self._voted, lock=self._high_qc, high_qc=self._high_qc, high_tc=None)
        granted = self._guard.authorize(subject, state)
        if isinstance(granted, Forbidden):
            return
        self._out.records += granted.records
        self._out.effects.append(granted.sign)

    def _on_signed(self, subject: Subject, signature: bytes) -> None:
        if self._me is None:
            return
        match subject:
            case ProposalSubject() if self._proposing is not None:
                header = self._proposing.header
                self._out.effects.append(
                    Broadcast(Proposal(epoch=0, header=header, body=NO_BODY, entry_proof=None, signature=signature))
                )
                self._on_block(self._proposing)
            case VoteSubject():
                vote = Vote(
                    kind=VOTE, epoch=0, view=subject.view, block_id=subject.block_id, height=subject.height,
                    justify_view=subject.justify_view, signer=self._me, signature=signature,
                )  # fmt: skip
                if self._leader(subject.view + 1) == self._me:
                    self._on_vote(vote)
                else:
                    self._out.effects.append(Send(self._peer(subject.view + 1), vote))
            case TimeoutSubject():
                new_view = Timeout(
                    epoch=0, view=subject.view, high_qc=self._high_qc, entry_proof=None, signer=self._me,
                    signature=signature,
                )  # fmt: skip
                if self._leader(subject.view) == self._me:
                    self._on_new_view(new_view)
                else:
                    self._out.effects.append(Send(self._peer(subject.view), new_view))
            case _:
                pass


def _definition(consecutive: bool) -> ProtocolDefinition:
    def engine(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> FastHotStuff:
        return FastHotStuff(spec=spec, epoch=epoch, scheme=scheme, me=me, consecutive=consecutive)

    return dataclasses.replace(chained(NAME, Jolteon()), engine=engine)


AS_PUBLISHED: Final = _definition(consecutive=False)
CORRECT: Final = _definition(consecutive=True)
