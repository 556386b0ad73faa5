"""The engine of the HotStuff family: one state machine, with the members' differences in their rules (``jolteon.py``,
``hotstuff.py``).

Specification
=============
A view has one leader. Replicas work in the view after their highest certificate: ``view = max(high_qc.view,
high_tc.view) + 1``, derived and never stored; every verified certificate inside any message is processed before the
message itself.

::

    propose(v)   the leader, once: a block on high_qc, with TC(v-1) when high_qc.view != v-1
    vote(v)      iff v is the current view, v > last_voted_view, the block stands on QC(v-1) or carries TC(v-1), all
                 ancestors and the payload are here and checked, and the rules agree: record {vote, lock, certificates,
                 blocks}, sign, broadcast
    QC(v)        a quorum of votes over one subject: enter v+1; commit what the rules say
    wait(v)      where the rules ask for it: whoever enters v by TC(v-1) sends high_qc to the leader, which does not
                 propose before it heard of all or waited long enough
    timeout(v)   on the timer, or when stake A gave v up: stop voting in v, record, sign (v, high_qc); again until v
                 ends
    TC(v)        a quorum of timeouts: broadcast it, enter v+1

Blocks are committed oldest first, from just above the committed head up to the target, once all of them are here and
checked.

Sources: HotStuff (Yin et al., PODC 2019), Jolteon (Gelashvili et al., 2021), and the public safety rules of Diem and
Aptos.

Deviations from the papers: see the rules' modules. Here: votes go to everybody in committees of at most
``BROADCAST_VOTES_MAX`` and to the next leader beyond; an idle leader waits the chain's idle interval before it
proposes an empty block, and proposes at once while anything with a payload is not committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

import msgspec

from consensus.certificates import QuorumChecker
from consensus.codec import block_of
from consensus.commit_proof import check_commit_proof
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    BlocksFetched,
    BlocksLoaded,
    Broadcast,
    EngineEvent,
    PayloadBuilt,
    PayloadVerdict,
    PeerConnected,
    Received,
    Recovered,
    Refusal,
    ReportEvidence,
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
from consensus.pacemaker import TimeoutTally, view_duration
from consensus.protocols.block_pipeline import BlockPipeline
from consensus.protocols.chained_checks import order_vote_fault, proposal_fault, timeout_fault, vote_fault
from consensus.protocols.chained_leader import Candidate, Leader, entry_proof
from consensus.protocols.chained_outbox import Outbox
from consensus.protocols.chained_state import Restored, SafetyState, restore
from consensus.protocols.chained_types import (
    Certificates,
    OrderVote,
    Proposal,
    Timeout,
    TimeoutCertificate,
    TimeoutSubject,
)
from consensus.protocols.leader_wait import LeaderWait
from consensus.protocols.order_votes import OrderVotes, order_delay_ns, order_subject, vote_in
from consensus.protocols.proposal_checks import FirstProposals, without_body
from consensus.protocols.rules import ChainedRules
from consensus.protocols.timeout_certificates import ContradictionWatch, TimeoutCertifier
from consensus.safety import SafetyGuard
from consensus.signing import VOTE
from consensus.types import (
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
    certificate_subject,
    vote_of,
)
from consensus.vote_tally import COUNTED, BadSignature, Counted, Equivocated, Ignored, TallyResult, VoteTally

BROADCAST_VOTES_MAX: Final = 50
VIEW_TIMER: Final = "view"


class ChainedEngine:
    """One replica of the HotStuff family. ``me`` is None for an observer, which verifies everything and signs
    nothing."""

    def __init__(
        self,
        *,
        spec: ChainSpec,
        epoch: EpochInfo,
        scheme: Scheme,
        rules: ChainedRules,
        me: ValidatorIndex | None,
    ) -> None:
        self._spec = spec
        self._epoch = epoch
        self._rules = rules
        self._me = me
        self._validators = epoch.validators
        self._checker = QuorumChecker(epoch, scheme, (VOTE,))
        self._certifier = TimeoutCertifier(epoch, self._checker, rules)
        self._out = StepBuilder()
        self._blocks = BlockPipeline(epoch, self._checker, rules, self._out)
        broadcast_votes = len(epoch.validators) <= BROADCAST_VOTES_MAX
        self._orders = OrderVotes() if broadcast_votes and rules.confirmation_kind is not None else None
        patience_ns = 0 if self._orders is None else order_delay_ns(spec.pacing)
        self._leader = Leader(spec, epoch, self._blocks, self._out, me, patience_ns=patience_ns)
        self._outbox = Outbox(epoch, self._out, me, broadcast_votes=broadcast_votes)
        self._wait = LeaderWait(epoch, self._out, me) if rules.leader_waits and me is not None else None
        self._guard = SafetyGuard()
        self._votes = VoteTally(epoch.validators, self._checker)
        self._timeouts: TimeoutTally[Timeout] = TimeoutTally(epoch.validators)
        self._contradictions = ContradictionWatch(self._certifier, self._checker)
        genesis = epoch.genesis
        # durable
        self._last_voted_view: View = 0
        self._lock: Certificate = genesis
        self._high_qc: Certificate = genesis
        self._high_tc: TimeoutCertificate | None = None
        # derived or volatile
        self._view: View = 0
        self._entered_ns: Nanoseconds = 0
        self._now: Nanoseconds = 0
        self._candidate: Candidate | None = None
        self._first_proposals: FirstProposals[Proposal] = FirstProposals()
        self._timeout_view: View = 0
        self._timeout_parts: tuple[Certificate, TimeoutCertificate | None] | None = None
        self._helped: dict[PeerId, View] = {}
        self._timeouts_count = 0
        self._source: PeerId | None = None

    # --- the contract -------------------------------------------------------------------------------------------

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        """Put the durable state together and resume: the stored subjects are signed and sent again, commits above the
        ledger's height are emitted again."""
        self._now = now
        restored = restore(recovered, self._guard, self._epoch.genesis)
        self._last_voted_view = restored.state.last_voted_view
        self._lock = restored.state.lock
        self._high_qc = restored.state.high_qc
        self._high_tc = restored.state.high_tc
        head_proof = self._blocks.restore(recovered)
        if self._blocks.is_over:
            return self._out.finish()
        if head_proof is not None:
            self._adopt_certificate(head_proof.certificate)
        if self._high_tc is not None:
            self._adopt_certificate(self._high_tc.high_qc)
        self._update_view()
        self._restore_subjects(restored)
        if self._me is not None:
            self._out.effects += self._guard.stored()
        self._blocks.reconsider(self._high_qc)
        return self._finish()

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        self._now = now
        matters = True  # False once nothing has changed that the rest of a step looks at
        if isinstance(event, Received):
            message = event.message
            if type(message) is Vote:
                matters = self._on_vote(event.peer, message)
            elif type(message) is OrderVote:
                matters = self._on_order_vote(event.peer, message)
            else:
                self._on_message(event.peer, message)
        elif isinstance(event, Signed):
            matters = self._on_signed(event.subject, event.signature)
        elif isinstance(event, (PayloadVerdict, PayloadBuilt)):
            self._on_payload(event)
        elif isinstance(event, TimerFired):
            if event.name == VIEW_TIMER:
                self._on_view_timer()
        elif isinstance(event, PeerConnected):
            self._outbox.greet(event.peer, self._view, self._certificates())
            matters = False
        else:
            self._on_outside(event)
        return self._finish() if matters else self._out.finish()

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        if epoch != self._epoch.epoch:
            return Refusal(f"commit proof: epoch {epoch} is not known here")
        return check_commit_proof(
            proof, header, self._epoch, self._checker, self._rules.is_committed, self._rules.confirmation_kind
        )

    def status(self) -> Status:
        return Status(
            epoch=self._epoch.epoch,
            view=self._view,
            leader=self._epoch.leaders.leader(max(self._view, 1)),
            committed_height=self._blocks.tree.root.height,
            committed_view=self._blocks.tree.root.view,
            seen_height=max(self._high_qc.height, self._blocks.tree.root.height),
            timeouts=self._timeouts_count,
        )

    def block(self, block_id: BlockId) -> StoredBlock | None:
        return self._blocks.stored(block_id)

    # --- events -------------------------------------------------------------------------------------------------

    def _on_message(self, peer: PeerId, message: msgspec.Struct) -> None:
        match message:
            case Proposal():
                self._on_proposal(peer, message)
            case Timeout():
                self._on_timeout(peer, message)
            case Certificates():
                refusal = self._learn(message.epoch, message.high_qc, message.high_tc, peer)
                if refusal is not None:
                    self._out.reject(peer, refusal.reason)
                elif self._wait is not None and message.high_tc is not None and message.high_tc.view == self._view - 1:
                    self._wait.report(peer)
            case _:
                self._out.reject(peer, f"{type(message).__name__} is no message of this protocol")

    def _on_payload(self, event: PayloadVerdict | PayloadBuilt) -> None:
        if isinstance(event, PayloadBuilt):
            self._on_payload_built(event)
            return
        self._blocks.on_verdict(event)
        if self._candidate is not None and self._blocks.tree.get(self._candidate.entry.block.id) is None:
            self._candidate = None

    def _on_outside(self, event: BlocksFetched | BlocksLoaded) -> None:
        match event:
            case BlocksFetched(peer=peer, blocks=blocks, proof=proof):
                self._blocks.take(blocks, proof, peer, self._high_qc)
                if proof is not None:
                    self._adopt_certificate(proof.certificate)
                self._blocks.reconsider(self._high_qc)
            case BlocksLoaded():
                pass  # block sync's alone
            case _:
                assert_never(event)

    def _finish(self) -> Step:
        self._update_view()
        self._blocks.try_commit()
        if self._blocks.is_over:
            return self._out.finish()
        self._try_order()
        self._try_vote()
        self._try_propose()
        wanted = [(self._high_qc.block_id, self._high_qc.height)]
        if self._candidate is not None:
            header = self._candidate.entry.block.header
            if header.parent != self._high_qc.block_id:
                wanted.append((header.parent, header.height - 1))
        self._blocks.fetch_missing(wanted, self._source)
        return self._out.finish()

    # --- certificates and views ---------------------------------------------------------------------------------

    def _learn(
        self, epoch: Epoch, certificate: Certificate, timeout_certificate: TimeoutCertificate | None, peer: PeerId
    ) -> Refusal | None:
        """Verify and adopt the certificates of a message, before anything else of it is looked at."""
        if epoch != self._epoch.epoch:
            return Refusal(f"message of epoch {epoch}, expected {self._epoch.epoch}")
        refusal = self._checker.check(certificate)
        if refusal is None and timeout_certificate is not None:
            refusal = self._certifier.check(timeout_certificate)
        if refusal is not None:
            return refusal
        if certificate.view > self._high_qc.view:
            self._source = peer
        self._adopt_certificate(certificate)
        if timeout_certificate is not None:
            self._adopt_timeout_certificate(timeout_certificate)
        self._update_view()
        return None

    def _adopt_certificate(self, certificate: Certificate) -> None:
        if certificate.view > self._high_qc.view:
            self._high_qc = certificate
            self._votes.settle(certificate_subject(certificate))
        if self._orders is not None:
            self._orders.saw(certificate)
        self._blocks.consider(certificate)

    def _adopt_timeout_certificate(self, certificate: TimeoutCertificate) -> None:
        if self._high_tc is None or certificate.view > self._high_tc.view:
            self._high_tc = certificate
        self._adopt_certificate(certificate.high_qc)

    def _update_view(self) -> None:
        view = 1 + self._high_qc.view
        if self._high_tc is not None and self._high_tc.view >= view:
            view = 1 + self._high_tc.view
        if view <= self._view:
            return
        self._blocks.try_commit()  # the view lasts longer for views without a commit: not for this one
        self._view = view
        if self._blocks.is_over:
            return
        self._entered_ns = self._now
        self._candidate = None
        self._leader.enter()
        self._votes.advance(view)
        self._timeouts.advance(view)
        self._first_proposals.advance(view)
        if self._orders is not None:
            self._orders.advance(view)
        self._arm_view_timer()
        if self._wait is not None and self._high_qc.view != view - 1:
            self._wait.begin(view, self._now, self._duration_ns(), self._certificates())

    def _duration_ns(self) -> Nanoseconds:
        committed_view = self._blocks.tree.root.view
        return view_duration(self._spec.pacing, self._view, committed_view, self._rules.costs.commit_views)

    def _arm_view_timer(self) -> None:
        self._out.effects.append(SetTimer(VIEW_TIMER, self._now + self._duration_ns()))

    def _may_propose_now(self) -> bool:
        return self._wait is None or self._high_qc.view == self._view - 1 or self._wait.is_over(self._now)

    def _certificates(self) -> Certificates:
        return Certificates(epoch=self._epoch.epoch, high_qc=self._high_qc, high_tc=self._high_tc)

    # --- proposals ----------------------------------------------------------------------------------------------

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        header = proposal.header
        fault = proposal_fault(proposal, peer, self._epoch, self._spec.payload_size_max)
        if fault is not None:
            self._out.reject(peer, f"proposal: {fault}")
            return
        block = block_of(header)
        if self._blocks.tree.get(block.id) is not None or header.height <= self._blocks.tree.root.height:
            return
        subject = ProposalSubject(epoch=header.epoch, view=header.view, block_id=block.id)
        if not self._checker.check_signature(header.proposer, subject, proposal.signature):
            self._out.reject(peer, "proposal: the signature is not its leader's")
            return
        refusal = self._learn(proposal.epoch, header.justify, proposal.entry_proof, peer)
        if refusal is not None:
            self._out.reject(peer, f"proposal: {refusal.reason}")
            return
        if not self._first_proposals.keep(proposal):
            first = self._first_proposals.contradicted(proposal)
            if first is not None:
                self._out.effects.append(ReportEvidence(first, without_body(proposal)))
            return
        entry = self._blocks.insert(block, proposal.body, peer, self._high_qc)
        if entry is not None and header.view == self._view:
            self._candidate = Candidate(entry, proposal.entry_proof)
        if header.view < self._view:  # it may close a gap below a certificate that was seen before it
            self._blocks.reconsider(self._high_qc)

    def _try_propose(self) -> None:
        if self._leader.leads(self._view) and self._timeout_view < self._view and self._may_propose_now():
            self._leader.ask(self._view, self._high_qc, self._entered_ns)

    def _on_payload_built(self, built: PayloadBuilt) -> None:
        if self._timeout_view >= self._view:
            return
        candidate = self._leader.build(built, self._high_qc, self._high_tc)
        if candidate is not None:
            block = candidate.entry.block
            self._sign(ProposalSubject(epoch=block.header.epoch, view=block.header.view, block_id=block.id))
            self._candidate = candidate

    # --- votes --------------------------------------------------------------------------------------------------

    def _try_vote(self) -> None:
        candidate = self._candidate
        if candidate is None or self._me is None or self._last_voted_view >= self._view:
            return
        entry = candidate.entry
        header = entry.block.header
        path = self._blocks.tree.path(entry.block.id)
        if path is None or not self._blocks.may_follow(path):
            return
        if not self._blocks.all_checked(path, full_check_of_last=True):
            return
        if not self._rules.may_vote(header, candidate.entry_proof, self._lock, self._blocks.tree):
            return
        self._lock = self._rules.lock_after(self._lock, header, self._blocks.tree)
        self._last_voted_view = self._view
        self._blocks.record(path)
        self._blocks.keep(candidate.entry_proof)
        self._sign(
            VoteSubject(
                kind=VOTE,
                epoch=header.epoch,
                view=header.view,
                block_id=entry.block.id,
                height=header.height,
                justify_view=header.justify.view,
            )
        )

    def _on_vote(self, peer: PeerId, vote: Vote) -> bool:
        """True when it made a certificate."""
        fault = vote_fault(vote, peer, self._epoch)
        if fault is not None:
            self._out.reject(peer, f"vote: {fault}")
            return False
        result = self._votes.add(vote)  # as in ``_count_vote``: most messages of a large committee end here
        return result is not COUNTED and self._on_tallied(vote, result)

    def _count_vote(self, vote: Vote) -> bool:
        """An own vote, or one that was read from another message. True when it made a certificate."""
        result = self._votes.add(vote)
        return result is not COUNTED and self._on_tallied(vote, result)

    def _on_tallied(self, vote: Vote, result: TallyResult) -> bool:
        """True when it made a certificate."""
        match result:
            case Counted(certificate, spoiled):
                if spoiled:
                    self._reject_signers(spoiled, "vote")
                if certificate is not None:
                    self._on_quorum(certificate)
                    return True
            case Ignored():
                pass
            case Equivocated(first, second):
                self._out.effects.append(ReportEvidence(first, second))
            case BadSignature():
                self._reject_signers((vote.signer,), "vote")
            case _:
                assert_never(result)
        return False

    def _on_quorum(self, certificate: Certificate) -> None:
        if certificate.kind == VOTE:
            self._adopt_certificate(certificate)
            if not self._outbox.broadcast_votes:
                self._out.effects.append(Broadcast(self._certificates()))
            return
        proof = None if self._orders is None else self._orders.proof(certificate)
        if proof is not None:
            self._blocks.aim(certificate.block_id, certificate.height, proof)

    # --- order votes --------------------------------------------------------------------------------------------

    def _try_order(self) -> None:
        """Say that the highest certificate was seen, and never deny it from then on."""
        certificate = self._high_qc
        if self._orders is None or self._me is None or certificate.view <= self._order_floor():
            return
        path = self._blocks.tree.path(certificate.block_id)
        if path is None or any(entry.check_pending for entry in path):
            return
        if not self._blocks.all_checked(path, full_check_of_last=False):
            return
        self._orders.last = certificate
        self._lock = max(self._lock, certificate, key=lambda known: known.view)
        self._blocks.record(path)
        self._sign(order_subject(certificate))

    def _order_floor(self) -> View:
        """Only above this view an order vote may be cast."""
        last = None if self._orders is None else self._orders.last
        return max(self._timeout_view, 0 if last is None else last.view)

    def _on_order_vote(self, peer: PeerId, vote: OrderVote) -> bool:
        """True when it committed something, or its certificate was news."""
        if self._orders is None or vote.qc.height <= self._blocks.tree.root.height:
            return False
        fault = order_vote_fault(vote, peer, self._epoch)
        if fault is not None:
            self._out.reject(peer, f"order vote: {fault}")
            return False
        known = self._orders.knows(vote.qc)
        if not known:
            refusal = self._learn(vote.epoch, vote.qc, None, peer)
            if refusal is not None:
                self._out.reject(peer, f"order vote: {refusal.reason}")
                return False
        return self._count_vote(vote_in(vote)) or not known

    def _send_order_vote(self, subject: VoteSubject, signature: bytes) -> bool:
        """True when it committed something."""
        certificate = None if self._orders is None else self._orders.last
        if certificate is None or order_subject(certificate) != subject or self._me is None:
            return False  # another was cast since
        vote = OrderVote(epoch=subject.epoch, qc=certificate, signer=self._me, signature=signature)
        self._outbox.send_order_vote(vote)
        return self._count_vote(vote_in(vote))

    # --- timeouts -----------------------------------------------------------------------------------------------

    def _on_view_timer(self) -> None:
        if self._me is not None:
            self._time_out()
        self._arm_view_timer()

    def _time_out(self) -> None:
        """Give up the current view; again, send what was signed before."""
        view = self._view
        if self._timeout_view == view:
            self._outbox.repeat(view)
            return
        if view < self._last_voted_view or not self._rules.may_time_out(self._high_qc, self._lock):
            raise RuntimeError(f"view {view} cannot be given up: the state contradicts its own votes")
        self._timeouts_count += 1
        self._timeout_view = view
        self._last_voted_view = view
        self._timeout_parts = (self._high_qc, entry_proof(view, self._high_qc, self._high_tc))
        path = self._blocks.tree.path(self._high_qc.block_id)
        if path is not None and all(entry.checked for entry in path):
            self._blocks.record(path)
        self._sign(self._certifier.subject(view, self._high_qc))

    def _on_timeout(self, peer: PeerId, timeout: Timeout) -> None:
        fault = timeout_fault(timeout, peer, self._epoch)
        refusal = Refusal(fault) if fault is not None else None
        if refusal is None:
            refusal = self._learn(timeout.epoch, timeout.high_qc, timeout.entry_proof, peer)
        if refusal is not None:
            self._out.reject(peer, f"timeout: {refusal.reason}")
        elif timeout.view < self._view:
            if self._helped.get(peer) != self._view:
                self._helped[peer] = self._view
                self._out.effects.append(Send(peer, self._certificates()))
        else:
            self._count_timeout(timeout)

    def _count_timeout(self, timeout: Timeout) -> None:
        stake = self._timeouts.add(timeout)
        if stake is None:
            self._compare_timeouts(timeout)
        if stake is None or timeout.view != self._view:
            return
        if stake >= self._validators.amplification and self._timeout_view < self._view and self._me is not None:
            self._time_out()
        if stake >= self._validators.quorum:
            certificate, spoiled = self._certifier.make(self._view, self._timeouts.of(self._view))
            self._reject_signers(spoiled, "timeout")
            for signer in spoiled:
                self._timeouts.drop(self._view, signer)
            if certificate is not None:
                self._adopt_timeout_certificate(certificate)
                self._out.effects.append(Broadcast(self._certificates()))

    def _compare_timeouts(self, timeout: Timeout) -> None:
        first = self._timeouts.get(timeout.view, timeout.signer)
        found = None if first is None else self._contradictions.compare(first, timeout)
        if isinstance(found, ReportEvidence):
            self._out.effects.append(found)
        elif found is not None:
            self._reject_signers((timeout.signer,), "timeout")

    def _reject_signers(self, signers: Iterable[ValidatorIndex], what: str) -> None:
        for signer in signers:
            self._out.reject(self._validators.peer_of(signer), f"{what}: the signature does not verify")

    # --- signing ------------------------------------------------------------------------------------------------

    def _sign(self, subject: Subject) -> None:
        if self._blocks.is_over:
            return
        state = SafetyState(
            last_voted_view=self._last_voted_view, lock=self._lock, high_qc=self._high_qc, high_tc=self._high_tc
        )
        self._guard.sign(subject, state, self._out)

    def _on_signed(self, subject: Subject, signature: bytes) -> bool:
        """True when the own message may have made a certificate."""
        if self._me is None:
            raise RuntimeError("an observer signs nothing")
        match subject:
            case VoteSubject(kind=kind):
                if kind != VOTE:
                    return self._send_order_vote(subject, signature)
                vote = vote_of(subject, self._me, signature)
                self._outbox.send_vote(vote)
                return self._outbox.collects(vote) and self._count_vote(vote)
            case ProposalSubject():
                proposal = self._leader.proposal(subject, signature)
                if proposal is not None:
                    self._outbox.send_proposal(proposal)
                return False
            case TimeoutSubject():
                self._send_timeout(subject, signature)
                return True
            case _:
                raise RuntimeError(f"{subject} is no subject of this protocol")

    def _send_timeout(self, subject: TimeoutSubject, signature: bytes) -> None:
        if self._timeout_parts is None or self._timeout_view != subject.view or self._me is None:
            return  # of a view that is over
        high_qc, proof = self._timeout_parts
        timeout = Timeout(
            epoch=subject.epoch,
            view=subject.view,
            high_qc=high_qc,
            entry_proof=proof,
            signer=self._me,
            signature=signature,
        )
        self._outbox.send_timeout(timeout)
        if timeout.view == self._view:
            self._count_timeout(timeout)

    # --- restart ------------------------------------------------------------------------------------------------

    def _restore_subjects(self, restored: Restored) -> None:
        """What the stored subjects need to become messages again."""
        for subject, state in restored.by_kind.values():
            if isinstance(subject, TimeoutSubject):
                self._timeout_view = subject.view
                proof = None if state.high_qc.view == subject.view - 1 else state.high_tc
                self._timeout_parts = (state.high_qc, proof)
            elif isinstance(subject, VoteSubject):
                if self._orders is not None and subject.kind != VOTE:
                    self._orders.last = state.high_qc
                    self._orders.saw(state.high_qc)
            elif isinstance(subject, ProposalSubject):
                candidate = self._leader.restore(subject, state.high_tc)
                if candidate is not None and subject.view == self._view:
                    self._candidate = candidate
