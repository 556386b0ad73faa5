"""Simplex: notarize, nullify, finalize; three message delays to a commit, and no lock.

Specification
=============
A view has one leader and ends with one of two quorums: a *notarization* of a block, or a *nullification* of the view.
Replicas work in the view after their highest certificate, ``max(notarization, finalization, nullification) + 1``:
derived, never stored. Every verified certificate inside any message is processed before the message itself.

Messages: ``Proposal`` (block, body, and the nullification that its header names), ``Vote`` of the kinds ``notarize``,
``nullify`` and ``finalize``, ``Certificates``, ``CertificatesRequest``. Each kind of vote has the slot
``(epoch, view, 0)``; a nullify names no block.

::

    enter(v)        leader timer 2D, advance timer 3D, both from the entry
    propose(v)      the leader, once: a block on the highest notarization or finalization, at p; it holds the
                    nullification of every view strictly between p and v; the header names that of v-1 when p != v-1
    notarize(c, v)  iff v is the current view, nothing was notarized or nullified in it; c stands on a verified
                    notarization or finalization at p, the nullification of every view strictly between p and v is
                    held, all ancestors and the payload are here and checked: record {certificates, blocks}, sign,
                    broadcast
    Q notarize      notarization: broadcast once, enter v+1; finalize(c, v) iff no view >= v was nullified or finalized
                    by me, and c and its ancestors are here: in one record with the notarization
    leader timer, when there is no proposal; advance timer; an invalid proposal; stake A nullified v:
                    nullify(v), iff I did not finalize(v); then every 2D again, with my notarize(v) and the certificates
                    that let me enter
    Q nullify       nullification: broadcast once, enter v+1
    Q finalize      at any later time: c and its ancestors are committed; counts as notarization, enters v+1

Safety in short (Chan and Pass, "Simplex Consensus: A Simple and Fast Consensus Protocol", 2023, section 3): a quorum
that finalized v shares an honest member with every quorum that would nullify v or notarize another block in v, so that
neither exists; hence no notarized block above v skips v.

*Durable*: the certificates held are in the record of every signature (of very many nullifications, the older ones in
the transcript: ``simplex_state.py``), so they are durable before the first vote in the view that they let us enter. Of
each kind the last subject is recorded; slots grow, so a finalize that would lie at or below the last finalize or
nullify is not signed (it could not be known to be allowed).

*Missing certificates* are asked for by view: a leader or voter that lacks nullifications asks who showed it the need,
and then, each ``D``, everybody. A peer is answered ``ANSWERS_MAX`` times in a view and between two timers.

``D`` is half of ``pacing.view_timeout``, grown as everywhere for views without a commit (``view_duration``): the leader
timer is one view timeout, above the idle interval of the chain, and the advance timer one and a half.

Costs: a commit takes three message delays (proposal, notarize, finalize) and follows the real delays; per block the
leader sends its proposal and everybody a notarize, the notarization and a finalize to everybody: O(n^2), in committees
of any size.

Sources: the paper, Algorithm in section 3.2; commonware ``consensus/src/simplex/mod.rs`` (specification of a view).

Deviations from the paper
=========================
* Notarize and nullify are distinct messages, and the paper's dummy block is a nullification (commonware).
* A proposal carries one nullification at most; the others are asked for where they are missing (paper: all of them).
* A leader timer beside the paper's 3D: a silent leader costs 2D (commonware).
* Who nullified a view notarizes nothing in it any more. (The paper allows it; safe either way.)
* Finalize waits for the block and its ancestors: what is finalized can be given to others.
* Stake A of nullifies is joined at once: one of them is honest. An invalid proposal is nullified at once.
* A finalization is not broadcast: it commits, and moves nobody to a view that the notarization did not. A peer that is
  behind is sent it, and the next one commits what it proves.
* Not built: a leader known to be inactive is waited for like any other; several views per certificate (terms).
* An idle leader waits the chain's idle interval before it proposes an empty block. With a payload uncommitted it does
  not, unless the block below was finalized by us: then its commit is on its way and needs no other block.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

import msgspec

from consensus.block_tree import BlockTree, Entry
from consensus.certificates import QuorumChecker
from consensus.codec import block_of
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
from consensus.protocols.proposal_checks import FirstProposals, without_body
from consensus.protocols.simplex_checks import (
    ExclusionWatch,
    finalization_fault,
    proposal_fault,
    vote_fault,
)
from consensus.protocols.simplex_exchange import FETCH_TIMER, CertificateExchange
from consensus.protocols.simplex_leader import Leader
from consensus.protocols.simplex_state import HeldCertificates, Restored, restore
from consensus.protocols.simplex_types import (
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    REQUEST_VIEWS_MAX,
    Certificates,
    CertificatesRequest,
    Proposal,
)
from consensus.safety import SafetyGuard
from consensus.signing import PROPOSAL
from consensus.types import (
    NIL_BLOCK,
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
    vote_of,
)
from consensus.vote_tally import BadSignature, Counted, Equivocated, Ignored, VoteTally

VIEW_TIMER: Final = "view"
COMMIT_VIEWS: Final = 2
"""On entry to a view, the block of the view before it lacks its finalization still."""


class Simplex:
    """The commit rule: a finalization commits the block that it names."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        """The block that ``certificate`` commits, if it is a finalization and the block is here."""
        return tree.get(certificate.block_id) if certificate.kind == FINALIZE else None


class SimplexEngine:
    """One replica of Simplex. ``me`` is None for an observer, which verifies everything and signs nothing."""

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        self._spec = spec
        self._epoch = epoch
        self._me = me
        self._validators = epoch.validators
        self._checker = QuorumChecker(epoch, scheme, (NOTARIZE, FINALIZE))
        self._out = StepBuilder()
        self._blocks = BlockPipeline(epoch, self._checker, Simplex(), self._out)
        self._guard = SafetyGuard()
        self._votes = VoteTally(epoch.validators, self._checker)
        self._nullifies: TimeoutTally[Vote] = TimeoutTally(epoch.validators)
        self._exclusion = ExclusionWatch(self._checker)
        # durable: the certificates, and the highest view in which each kind was signed
        self._held = HeldCertificates(epoch.genesis)
        self._exchange = CertificateExchange(epoch.epoch, self._held, self._out)
        self._notarize_view: View = 0
        self._nullify_view: View = 0
        self._finalize_view: View = 0
        self._leader = Leader(spec, epoch, self._blocks, self._held, self._out, me)
        # derived or volatile
        self._view: View = 0
        self._entered_ns: Nanoseconds = 0
        self._leader_timer_ns: Nanoseconds = 0
        self._now: Nanoseconds = 0
        self._candidate: Entry | None = None
        self._first_proposals: FirstProposals[Proposal] = FirstProposals()
        self._last_proposal: Proposal | None = None
        self._last_votes: dict[str, Vote] = {}
        self._source: PeerId | None = None
        self._timeouts_count = 0

    # --- the contract -------------------------------------------------------------------------------------------

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        """Put the durable state together and resume: the stored subjects are signed and sent again, commits above the
        ledger's height are emitted again."""
        self._now = now
        restored = restore(recovered, self._guard, self._epoch.epoch)
        head_proof = self._blocks.restore(recovered)
        if self._blocks.is_over:
            return self._out.finish()
        if head_proof is not None:
            self._held.take(head_proof.certificate)
        self._held.restore(restored.states, restored.older)
        self._update_view()
        self._restore_subjects(restored)
        if self._me is not None:
            self._out.effects += self._guard.stored()
        self._look_again()
        return self._finish()

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        self._now = now
        match event:
            case Received(peer, message):
                if type(message) is not Vote:
                    self._on_message(peer, message)
                elif not self._on_vote(peer, message):
                    return self._out.finish()  # nothing that the rest of a step looks at has changed
            case Signed(subject, signature):
                if not self._on_signed(subject, signature):
                    return self._out.finish()
            case PayloadVerdict() | PayloadBuilt():
                self._on_payload(event)
            case TimerFired(name):
                self._on_timer(name)
            case BlocksFetched() | BlocksLoaded() | PeerConnected():
                self._on_outside(event)
            case _:
                assert_never(event)
        return self._finish()

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        if epoch != self._epoch.epoch:
            return Refusal(f"commit proof: epoch {epoch} is not known here")
        return finalization_fault(proof, header, self._epoch, self._checker)

    def status(self) -> Status:
        root = self._blocks.tree.root
        return Status(
            epoch=self._epoch.epoch,
            view=self._view,
            leader=self._epoch.leaders.leader(max(self._view, 1)),
            committed_height=root.height,
            committed_view=root.view,
            seen_height=max(self._held.high_qc.height, root.height),
            timeouts=self._timeouts_count,
        )

    def block(self, block_id: BlockId) -> StoredBlock | None:
        return self._blocks.stored(block_id)

    # --- events -------------------------------------------------------------------------------------------------

    def _on_message(self, peer: PeerId, message: msgspec.Struct) -> None:
        match message:
            case Proposal():
                self._on_proposal(peer, message)
            case Certificates():
                refusal = self._learn(message.epoch, filter(self._held.wants, message.certificates), peer)
                if refusal is not None:
                    self._out.reject(peer, refusal.reason)
            case CertificatesRequest():
                self._exchange.answer(peer, message)
            case _:
                self._out.reject(peer, f"{type(message).__name__} is no message of this protocol")

    def _on_payload(self, event: PayloadVerdict | PayloadBuilt) -> None:
        if isinstance(event, PayloadBuilt):
            self._on_payload_built(event)
            return
        self._blocks.on_verdict(event)
        if self._candidate is not None and self._blocks.tree.get(self._candidate.block.id) is None:
            self._candidate = None

    def _on_outside(self, event: BlocksFetched | BlocksLoaded | PeerConnected) -> None:
        match event:
            case BlocksFetched(peer=peer, blocks=blocks, proof=proof):
                self._blocks.take(blocks, proof, peer, self._held.high_qc)
                if proof is not None:
                    self._adopt(proof.certificate)
                self._look_again()
            case PeerConnected(peer):
                self._greet(peer)
            case BlocksLoaded():
                pass  # block sync's alone
            case _:
                assert_never(event)

    def _on_timer(self, name: str) -> None:
        if name == VIEW_TIMER:
            self._exchange.renew_budget()
            if self._nullify_view == self._view:
                self._repeat()
            elif self._me is not None:
                self._timeouts_count += 1
                self._nullify()
            self._arm_view_timer()
        elif name == FETCH_TIMER:
            self._exchange.forget_question()
            self._source = None

    def _greet(self, peer: PeerId) -> None:
        """Bring a peer up to date, and send it again what the current view waits for: it was not connected when that
        was broadcast, as nobody is at a restart."""
        self._exchange.send(peer, self._held.entry())
        if self._last_proposal is not None and self._last_proposal.header.view == self._view:
            self._out.effects.append(Send(peer, self._last_proposal))
        for vote in self._unfinished_votes():
            self._out.effects.append(Send(peer, vote))

    def _unfinished_votes(self) -> list[Vote]:
        """Own votes that somebody may still wait for: of the current view, and a finalize that nothing has committed
        yet."""
        committed_view = self._blocks.tree.root.view
        votes = (self._last_votes.get(kind) for kind in (NOTARIZE, NULLIFY, FINALIZE))
        return [
            vote
            for vote in votes
            if vote is not None and (vote.view == self._view or (vote.kind == FINALIZE and vote.view > committed_view))
        ]

    def _finish(self) -> Step:
        self._update_view()
        self._blocks.try_commit()
        if self._blocks.is_over:
            return self._out.finish()
        self._try_finalize()
        self._try_join()
        self._try_notarize()
        self._try_propose()
        wanted = [(self._held.high_qc.block_id, self._held.high_qc.height)]
        if self._candidate is not None:
            wanted.append((self._candidate.parent, self._candidate.height - 1))
        self._blocks.fetch_missing(wanted, self._source)
        self._fetch_certificates()
        return self._out.finish()

    # --- certificates and views ---------------------------------------------------------------------------------

    def _learn(self, epoch: Epoch, certificates: Iterable[Certificate], peer: PeerId) -> Refusal | None:
        """Verify and adopt the certificates of a message, before anything else of it is looked at. The first one that
        does not verify ends it."""
        if epoch != self._epoch.epoch:
            return Refusal(f"message of epoch {epoch}, expected {self._epoch.epoch}")
        for certificate in certificates:
            refusal = self._check(certificate)
            if refusal is not None:
                return refusal
            if certificate.view >= self._view:
                self._source = peer
            self._adopt(certificate)
        self._update_view()
        return None

    def _check(self, certificate: Certificate) -> Refusal | None:
        if certificate.kind == NULLIFY:
            return self._checker.check_nil(certificate, NULLIFY)
        return self._checker.check(certificate)

    def _adopt(self, certificate: Certificate) -> None:
        """Hold a verified certificate. What lets us enter a view is passed on once: everybody else enters it one delay
        later, whoever withholds what."""
        if not self._held.take(certificate):
            return
        for older in self._held.moved_out():
            self._blocks.keep(older)
        self._aim()
        if certificate.view >= self._view:
            self._out.effects.append(Broadcast(Certificates(epoch=self._epoch.epoch, certificates=(certificate,))))

    def _aim(self) -> None:
        """At the highest finalization: when it came, a nearer one may have been preferred."""
        final = self._held.finalization
        if final is not None:
            proof = CommitProof(epoch=self._epoch.epoch, headers=(), certificate=final)
            self._blocks.aim(final.block_id, final.height, proof)

    def _look_again(self) -> None:
        """Blocks arrived after the certificates that commit them."""
        self._blocks.reconsider(self._held.high_qc)
        self._aim()

    def _update_view(self) -> None:
        view = self._held.view
        if view <= self._view:
            return
        self._view = view
        self._entered_ns = self._now
        self._leader_timer_ns = view_duration(self._spec.pacing, view, self._blocks.tree.root.view, COMMIT_VIEWS)
        self._candidate = None
        self._leader.enter()
        self._votes.advance(view)
        self._nullifies.advance(view)
        self._exclusion.advance(view)
        self._first_proposals.advance(view)
        self._exchange.renew_budget()
        self._arm_view_timer()

    def _arm_view_timer(self) -> None:
        """Leader timer, advance timer, or the time to repeat a nullify."""
        if self._me is None:
            return
        if self._nullify_view == self._view:
            deadline_ns = self._now + self._leader_timer_ns
        elif self._candidate is None:
            deadline_ns = self._entered_ns + self._leader_timer_ns
        else:
            deadline_ns = self._entered_ns + self._leader_timer_ns * 3 // 2
        self._out.effects.append(SetTimer(VIEW_TIMER, deadline_ns))

    # --- missing certificates -----------------------------------------------------------------------------------

    def _skipped(self, above: View) -> tuple[View, ...]:
        """Views between ``above`` and the current one that a block of this view would skip, and whose nullification is
        not held; the lowest of them."""
        return self._held.missing(above, self._view, REQUEST_VIEWS_MAX)

    def _fetch_certificates(self) -> None:
        """Ask for the nullifications without which we cannot vote or propose: first who showed us the need."""
        missing: tuple[View, ...] = ()
        if self._me is not None and max(self._nullify_view, self._notarize_view) < self._view:
            if self._candidate is not None:
                missing = self._skipped(self._candidate.block.header.justify.view)
            elif self._leader.leads(self._view):
                missing = self._skipped(self._held.high_qc.view)
        self._exchange.want(missing, self._source, self._now, self._leader_timer_ns // 2)

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
        refusal = self._learn_proposal(proposal, peer)
        if refusal is not None:
            self._out.reject(peer, f"proposal: {refusal.reason}")
            return
        if not self._first_proposals.keep(proposal):
            first = self._first_proposals.contradicted(proposal)
            if first is not None:
                self._out.effects.append(ReportEvidence(first, without_body(proposal)))
            return
        entry = self._blocks.insert(block, proposal.body, peer, self._held.high_qc)
        if entry is not None and header.view == self._view:
            self._set_candidate(entry)
            self._source = peer
        if header.view < self._view:  # it may close a gap below a certificate that was seen before it
            self._look_again()

    def _learn_proposal(self, proposal: Proposal, peer: PeerId) -> Refusal | None:
        """The certificates of a proposal: what its block stands on, and what entitles it to its view."""
        refusal = self._checker.check(proposal.header.justify)
        if refusal is not None:
            return refusal
        proof = proposal.entry_proof
        if proof is not None:
            refusal = self._checker.check_nil(proof, NULLIFY)
            if refusal is not None:
                return refusal
        certificates = [proposal.header.justify] if proof is None else [proposal.header.justify, proof]
        return self._learn(proposal.epoch, filter(self._held.wants, certificates), peer)

    def _set_candidate(self, entry: Entry) -> None:
        """The leader's block is here: from now on its certificate is waited for."""
        self._candidate = entry
        if self._nullify_view < self._view:
            self._arm_view_timer()

    def _try_propose(self) -> None:
        view = self._view
        if self._leader.leads(view) and self._nullify_view < view and not self._skipped(self._held.high_qc.view):
            self._leader.ask(view, self._entered_ns, self._finalize_view)

    def _on_payload_built(self, built: PayloadBuilt) -> None:
        entry = self._leader.build(built) if self._nullify_view < self._view else None
        if entry is not None:
            self._sign(ProposalSubject(epoch=self._epoch.epoch, view=entry.view, block_id=entry.block.id))
            self._set_candidate(entry)

    # --- votes --------------------------------------------------------------------------------------------------

    def _try_notarize(self) -> None:
        entry = self._candidate
        if entry is None or self._me is None or max(self._notarize_view, self._nullify_view) >= self._view:
            return
        header = entry.block.header
        path = self._blocks.tree.path(entry.block.id)
        if path is None:
            return
        if not self._blocks.may_follow(path):
            self._nullify()
            self._arm_view_timer()
            return
        if self._skipped(header.justify.view) or not self._blocks.all_checked(path, full_check_of_last=True):
            return
        self._notarize_view = self._view
        self._blocks.record(path)
        for nullification in self._held.relied_on(header.justify.view, self._view):
            self._blocks.keep(nullification)
        self._vote(NOTARIZE, header.view, entry.block.id, header.height, header.justify.view)

    def _try_finalize(self) -> None:
        """Finalize the highest notarized block, once it is here."""
        held = self._held.high_qc
        if self._me is None or held.kind != NOTARIZE or not self._may_finalize(held.view):
            return
        path = self._blocks.tree.path(held.block_id)
        if not path or not self._blocks.all_checked(path, full_check_of_last=False):
            return
        self._finalize_view = held.view
        self._blocks.record(path)
        self._blocks.keep(held)
        self._vote(FINALIZE, held.view, held.block_id, held.height, held.justify_view)

    def _may_finalize(self, view: View) -> bool:
        """Of views below the last nullified one it is not known any more whether they were nullified."""
        return view > max(self._finalize_view, self._nullify_view)

    def _try_join(self) -> None:
        """Stake A gave the view up: one of them is honest."""
        if self._me is None or self._nullify_view >= self._view:
            return
        stake = self._validators.stake_of(vote.signer for vote in self._nullifies.of(self._view))
        if stake >= self._validators.amplification:
            self._nullify()
            self._arm_view_timer()

    def _nullify(self) -> None:
        """Give up the current view, once."""
        view = self._view
        if self._finalize_view >= view:
            raise RuntimeError(f"view {view} cannot be nullified: it was finalized")
        self._nullify_view = view
        path = self._blocks.tree.path(self._held.high_qc.block_id)
        if path is not None and all(entry.checked for entry in path):
            self._blocks.record(path)
        self._vote(NULLIFY, view, NIL_BLOCK, 0, 0)

    def _repeat(self) -> None:
        """The view goes on after our nullify: send everything again that would end it."""
        self._exchange.send(None, self._held.entry())
        for vote in self._unfinished_votes():
            self._out.effects.append(Broadcast(vote))

    def _on_vote(self, peer: PeerId, vote: Vote) -> bool:
        """True when it may have changed more than the tally."""
        fault = vote_fault(vote, peer, self._epoch)
        if fault is not None:
            self._out.reject(peer, f"vote: {fault}")
            return False
        contradiction = self._exclusion.add(vote)
        if isinstance(contradiction, BadSignature):
            self._reject_signers((vote.signer,))
            return False
        if contradiction is not None:
            self._out.effects.append(ReportEvidence(contradiction.first, contradiction.second))
        if vote.kind == NULLIFY and vote.view < self._view:
            self._exchange.help(peer, self._view)
        return self._count_vote(vote)

    def _count_vote(self, vote: Vote) -> bool:
        """True when it made a certificate, or gives the current view up."""
        result = self._votes.add(vote)
        match result:
            case Counted(certificate, spoiled):
                self._reject_signers(spoiled)
                if certificate is not None:
                    self._adopt(certificate)
                    return True
                return vote.kind == NULLIFY and self._nullifies.add(vote) is not None and vote.view == self._view
            case Ignored():
                pass
            case Equivocated(first, second):
                self._out.effects.append(ReportEvidence(first, second))
            case BadSignature():
                self._reject_signers((vote.signer,))
            case _:
                assert_never(result)
        return False

    def _reject_signers(self, signers: Iterable[ValidatorIndex]) -> None:
        for signer in signers:
            self._out.reject(self._validators.peer_of(signer), "vote: the signature does not verify")

    # --- signing ------------------------------------------------------------------------------------------------

    def _vote(self, kind: str, view: View, block_id: BlockId, height: int, justify_view: View) -> None:
        epoch = self._epoch.epoch
        self._sign(
            VoteSubject(kind=kind, epoch=epoch, view=view, block_id=block_id, height=height, justify_view=justify_view)
        )

    def _sign(self, subject: Subject) -> None:
        self._guard.sign(subject, self._held.state(), self._out)

    def _on_signed(self, subject: Subject, signature: bytes) -> bool:
        """True when the own message may have changed more than the tally."""
        if self._me is None:
            raise RuntimeError("an observer signs nothing")
        match subject:
            case VoteSubject():
                vote = vote_of(subject, self._me, signature)
                self._last_votes[vote.kind] = vote
                self._out.effects.append(Broadcast(vote))
                return self._count_vote(vote)
            case ProposalSubject():
                proposal = self._leader.proposal(subject, signature)
                if proposal is not None:  # else of a view that is over
                    self._last_proposal = proposal
                    self._out.effects.append(Broadcast(proposal))
                return False
            case _:
                raise RuntimeError(f"{subject} is no subject of this protocol")

    # --- restart ------------------------------------------------------------------------------------------------

    def _restore_subjects(self, restored: Restored) -> None:
        """What was signed last, and what the stored proposal needs to become a message again."""
        views = {kind: subject.slot.major for kind, (subject, _) in restored.by_kind.items()}
        self._notarize_view = views.get(NOTARIZE, 0)
        self._nullify_view = views.get(NULLIFY, 0)
        self._finalize_view = views.get(FINALIZE, 0)
        subject, state = restored.by_kind.get(PROPOSAL, (None, None))
        if isinstance(subject, ProposalSubject) and state is not None:
            entry = self._leader.restore(subject, state)
            if entry is not None and entry.view == self._view:
                self._candidate = entry
