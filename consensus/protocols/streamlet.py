"""Streamlet: one rule to propose, one to vote, one to finalize. For teaching: read this one first.

Specification
=============
Source: Chan and Shi, "Streamlet: Textbook Streamlined Blockchains", AFT 2020 (eprint 2020/088), the box "The Streamlet
protocol"; the names of its rules stand beside the code. What the paper calls an *epoch* is a **view** here: an epoch
of this code is the reign of one validator set.

::

    notarized    a block with votes of a quorum: with a certificate. Every block carries its parent's (``justify``),
                 so a chain is notarized up to its last certificate and as long as that one's height.

    Propose      in view v its leader proposes a block on a longest notarized chain that it has seen
    Vote         vote for the leader's first block of view v, in view v, iff it extends one of the longest notarized
                 chains seen; tell everybody
    Finalize     three adjacent notarized blocks of three consecutive views: the second and all before it are final

        genesis(0) <- b1(1) <- b2(2) <- b4(4) <- b5(5) <- b6(6) <-certificate
        0 1 2 make b1 final; 4 5 6 make b5 final, and b2 and b4 before it

Why it is safe (paper, "Consistency"): say the second of the three has height h and view v. It has no notarized rival of
height h. A rival of a view below v-1 would have a quorum that voted at h and later, for the first of the three, at
h-1; one of a view above v+1, a quorum that voted at h after it had voted for the third, at h+1. Two quorums share an
honest validator, who votes once in a view and never below a height that it has voted at. That is all that an honest
validator must remember: **votes strictly grow in view and never fall in height** (who extends the longest chain seen
keeps the second by itself, until a restart forgets what was seen). Views and heights are signed, so two votes convict
who breaks it.

A stranger is convinced by (the headers from the committed block to the third, the third's certificate): the second's
own header names its parent's certificate, and so the first view; a quorum that voted for the third checked that the
second is notarized, one that voted for the second did so for the first. One pairing product.

Durable: view and height of the last vote, the longest chain's certificate, the last proposal; with each vote and
proposal the blocks that it names. One record, before the signature.

Messages: Proposal, Vote, ``Certificates`` (the echo), ``Clock``.

Deviations from the paper
=========================
* *Clocks.* The paper's players share one; these have a local monotonic timer each. A view lasts 2D = the chain's
  ``view_timeout`` by it, grown while nothing commits as everywhere in this house (D need not be known), and ends when
  the others' clocks agree: ``streamlet_clock.py``. A certificate or vote of view v says that v is due by its signers'
  clocks, so who was away joins the others with the first certificate that it hears.
* *Views do not answer to the network*: one that notarized its block at once lasts as long as one that failed.
* *Echo.* In the paper every player passes on every message it sees: O(n^3) messages in a view. All that a player acts
  on is which chains are notarized, so what is passed on is the certificate, once, when it makes one's longest chain
  longer (or, of two alike, later), again when a view went by without a better one, and to a peer that connects or
  shows a shorter chain. Bound: one per certificate taken and one per view. A vote reaches everybody from its signer. A
  proposal is not passed on: it is taken from its proposer alone (its signature does not cover the body); if it is
  certified, the certificate leads to it and block sync fetches it, and if it is not, nobody need have it. What is lost:
  a leader's two blocks are noticed by those who receive both.
* *Ties.* Of two longest chains the one whose last view is higher is extended.
* *Idle.* A leader with nothing to order waits the idle interval, at most a quarter of the view, so that three quarters
  are left for its block and the votes; it does not wait while anything with a payload is uncommitted.
* Votes are broadcast whatever the number of validators. Genesis counts as the block of view 0.

Liveness, as in the paper, needs five honest leaders in a row after GST against an adversary who can hide a certificate
and show it at the worst moment, three when faulty leaders are merely silent.
"""

from __future__ import annotations

from typing import ClassVar, Final, assert_never

import msgspec

from consensus.block_tree import Entry
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
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND, view_duration
from consensus.protocols.block_pipeline import BlockPipeline
from consensus.protocols.chained_checks import vote_fault
from consensus.protocols.proposal_checks import FirstProposals, block_fault, without_body
from consensus.protocols.proposing import awaits_commit, block_built, payload_request
from consensus.protocols.streamlet_clock import ViewClock
from consensus.protocols.streamlet_finality import COMMIT_VIEWS, Finality
from consensus.protocols.streamlet_types import Certificates, Clock, Proposal, SafetyState, length, restore
from consensus.safety import SafetyGuard
from consensus.signing import VOTE
from consensus.types import (
    Block,
    BlockHeader,
    BlockId,
    Certificate,
    CommitProof,
    Epoch,
    Height,
    Nanoseconds,
    PeerId,
    ProposalSubject,
    StoredBlock,
    Subject,
    ValidatorIndex,
    View,
    Vote,
    VoteSubject,
    signers_of,
    vote_of,
)
from consensus.vote_tally import VIEWS_AHEAD, BadSignature, Counted, Equivocated, Ignored, VoteTally

IDLE_DIVISOR: Final = 4
VIEW_TIMER: Final = "view"


class StreamletEngine:
    """One replica. ``me`` is None for an observer, which verifies everything and says nothing."""

    _finality: ClassVar[Finality] = Finality()

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        self._spec = spec
        self._epoch = epoch
        self._me = me
        self._validators = epoch.validators
        self._delay_ns = spec.pacing.view_timeout_ms * NANOSECONDS_PER_MILLISECOND // 2  # the paper's D
        self._checker = QuorumChecker(epoch, scheme, (VOTE,))
        self._out = StepBuilder()
        self._blocks = BlockPipeline(epoch, self._checker, self._finality, self._out)
        self._guard = SafetyGuard()
        self._votes = VoteTally(epoch.validators, self._checker)
        self._clock = ViewClock(epoch.validators)
        self._first_proposals: FirstProposals[Proposal] = FirstProposals()
        # durable
        self._last_voted_view: View = 0
        self._last_voted_height: Height = 0
        self._longest: Certificate = epoch.genesis
        # volatile
        self._now: Nanoseconds = 0
        self._view: View = 0
        self._entered_ns: Nanoseconds = 0
        self._due: View = 0
        self._said_ns: Nanoseconds = 0
        self._candidates: dict[View, BlockId] = {}  # of the current view and VIEWS_AHEAD more
        self._building: tuple[View, Certificate] | None = None
        self._proposed_view: View = 0
        self._proposing: tuple[Block, memoryview] | None = None
        self._last_proposal: Proposal | None = None
        self._last_vote: Vote | None = None
        self._source: PeerId | None = None
        self._timeouts = 0

    # --- the contract -------------------------------------------------------------------------------------------

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        """Put the durable state together and resume: the stored subjects are signed and sent again, commits above the
        ledger's height are emitted again."""
        self._now = now
        state, stored = restore(recovered, self._guard, self._epoch.genesis)
        self._last_voted_view = state.last_voted_view
        self._last_voted_height = state.last_voted_height
        self._longest = state.longest
        head_proof = self._blocks.restore(recovered)
        if self._blocks.is_over:
            return self._out.finish()
        if head_proof is not None:
            self._adopt(head_proof.certificate)
        for subject in stored:
            if isinstance(subject, ProposalSubject):
                self._proposed_view = subject.view
                entry = self._blocks.tree.get(subject.block_id)
                if entry is not None:
                    self._proposing = (entry.block, memoryview(entry.body))
                    self._candidates[subject.view] = subject.block_id
        self._enter(max(1, self._last_voted_view, self._proposed_view, self._longest.view))
        if self._me is not None:
            self._say_due(self._view)
            self._out.effects += self._guard.stored()
        self._blocks.reconsider(self._longest)
        return self._finish()

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        self._now = now
        match event:
            case Received(peer, message):
                self._on_message(peer, message)
            case Signed(subject, signature):
                self._on_signed(subject, signature)
            case PayloadVerdict():
                self._blocks.on_verdict(event)
            case PayloadBuilt():
                self._on_payload_built(event)
            case TimerFired(name):
                if name == VIEW_TIMER:
                    self._on_view_timer()
            case BlocksFetched() | BlocksLoaded() | PeerConnected():
                self._on_outside(event)
            case _:
                assert_never(event)
        return self._finish()

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        if epoch != self._epoch.epoch:
            return Refusal(f"commit proof: epoch {epoch} is not known here")
        return self._finality.check(proof, header, self._epoch, self._checker)

    def status(self) -> Status:
        root = self._blocks.tree.root
        return Status(
            epoch=self._epoch.epoch,
            view=self._view,
            leader=self._epoch.leaders.leader(max(self._view, 1)),
            committed_height=root.height,
            committed_view=root.view,
            seen_height=max(self._longest.height, root.height),
            timeouts=self._timeouts,
        )

    def block(self, block_id: BlockId) -> StoredBlock | None:
        return self._blocks.stored(block_id)

    # --- events -------------------------------------------------------------------------------------------------

    def _on_message(self, peer: PeerId, message: msgspec.Struct) -> None:
        match message:
            case Vote():
                self._on_vote(peer, message)
            case Certificates():
                self._on_certificates(peer, message)
            case Clock():
                self._on_clock(peer, message)
            case Proposal():
                self._on_proposal(peer, message)
            case _:
                self._out.reject(peer, f"{type(message).__name__} is no message of this protocol")

    def _on_outside(self, event: BlocksFetched | BlocksLoaded | PeerConnected) -> None:
        match event:
            case BlocksFetched(peer=peer, blocks=blocks, proof=proof):
                self._blocks.take(blocks, proof, peer, self._longest)
                if proof is not None:
                    self._adopt(proof.certificate)
                self._blocks.reconsider(self._longest)
            case PeerConnected(peer):
                self._greet(peer)
            case BlocksLoaded():
                pass  # block sync's alone
            case _:
                assert_never(event)

    def _greet(self, peer: PeerId) -> None:
        """Say again what was broadcast before this peer was there, and what the current view waits for."""
        if self._me is None:
            return
        messages: list[msgspec.Struct] = [Clock(epoch=self._epoch.epoch, view=self._due)]
        if self._longest != self._epoch.genesis:
            messages.append(self._certificates())
        if self._last_proposal is not None and self._last_proposal.header.view == self._view:
            messages.append(self._last_proposal)
        if self._last_vote is not None and self._last_vote.view == self._view:
            messages.append(self._last_vote)
        self._out.effects += [Send(peer, message) for message in messages]

    def _finish(self) -> Step:
        self._follow_clock()
        self._blocks.try_commit()
        if self._blocks.is_over:
            return self._out.finish()
        self._try_vote()
        self._try_propose()
        wanted = [(self._longest.block_id, self._longest.height)]
        candidate = self._candidate()
        if candidate is not None:
            wanted.append((candidate.parent, candidate.height - 1))
        self._blocks.fetch_missing(wanted, self._source)
        return self._out.finish()

    # --- views --------------------------------------------------------------------------------------------------

    def _enter(self, view: View) -> None:
        self._view = view
        self._entered_ns = self._now
        self._building = None
        for old in [known for known in self._candidates if known < view]:
            del self._candidates[old]
        self._votes.advance(view)
        self._first_proposals.advance(view)
        self._arm()
        if self._me is not None and 0 < self._longest.view < view - 1:
            self._out.effects.append(Broadcast(self._certificates()))

    def _arm(self) -> None:
        pacing, committed_view = self._spec.pacing, self._blocks.tree.root.view
        duration_ns = view_duration(pacing, self._view, committed_view, COMMIT_VIEWS)
        self._out.effects.append(SetTimer(VIEW_TIMER, self._now + duration_ns))

    def _on_view_timer(self) -> None:
        """The view is over by my clock. Until the others' clocks agree, say it again each time."""
        if self._me is not None and not self._say_due(self._view + 1):
            self._tell_time()
        self._arm()

    def _on_clock(self, peer: PeerId, message: Clock) -> None:
        validator = self._validators.index_of(peer)
        if validator is None or message.epoch != self._epoch.epoch:
            self._out.reject(peer, f"clock: of epoch {message.epoch}, from validator {validator}")
            return
        self._clock.hear(validator, message.view)

    def _say_due(self, view: View) -> bool:
        """True when it was not said before."""
        if self._me is None or not self._clock.hear(self._me, view):
            return False
        self._due = view
        self._tell_time()
        return True

    def _tell_time(self) -> None:
        self._said_ns = self._now
        self._out.effects.append(Broadcast(Clock(epoch=self._epoch.epoch, view=self._due)))

    def _follow_clock(self) -> None:
        self._say_due(self._clock.due(self._validators.amplification))
        due = self._clock.due(self._validators.quorum)
        if due > self._view:
            self._timeouts += self._longest.view < self._view
            if self._me is not None and self._now - self._said_ns > self._delay_ns:
                self._tell_time()  # said so long ago that others may not have heard it
            self._enter(due)

    # --- certificates -------------------------------------------------------------------------------------------

    def _certificates(self) -> Certificates:
        return Certificates(epoch=self._epoch.epoch, longest=self._longest)

    def _on_certificates(self, peer: PeerId, message: Certificates) -> None:
        refusal = self._learn(message.epoch, message.longest, peer)
        if refusal is not None:
            self._out.reject(peer, refusal.reason)
        elif message.longest.height < self._longest.height and self._me is not None:
            self._out.effects.append(Send(peer, self._certificates()))

    def _learn(self, epoch: Epoch, certificate: Certificate, peer: PeerId) -> Refusal | None:
        """Verify and adopt the certificate of a message, before anything else of it is looked at."""
        if epoch != self._epoch.epoch:
            return Refusal(f"message of epoch {epoch}, expected {self._epoch.epoch}")
        refusal = self._checker.check(certificate)
        if refusal is not None:
            return refusal
        if self._is_longer(certificate):
            self._source = peer
        self._adopt(certificate)
        return None

    def _is_longer(self, certificate: Certificate) -> bool:
        """Its chain is longer than the longest one seen or, just as long, ends later."""
        return length(certificate) > length(self._longest)

    def _adopt(self, certificate: Certificate) -> None:
        """A verified certificate: a notarized chain, a word about its signers' clocks, and perhaps a final block."""
        if certificate == self._longest:
            return
        for signer in signers_of(certificate.signers):
            self._clock.hear(signer, certificate.view)
        if self._is_longer(certificate):
            self._longest = certificate
            if self._me is not None:
                self._out.effects.append(Broadcast(self._certificates()))  # the paper's echo
        self._blocks.consider(certificate)

    # --- propose ------------------------------------------------------------------------------------------------

    def _try_propose(self) -> None:
        """Propose: "a new block extending from the longest notarized chain it has seen"."""
        view, justify = self._view, self._longest
        if self._me is None or self._epoch.leaders.leader(view) != self._me or self._building == (view, justify):
            return
        if self._proposed_view >= view or justify.view >= view:
            return
        path = self._blocks.tree.path(justify.block_id)
        if path is None or not self._blocks.all_checked(path, full_check_of_last=False):
            return
        pacing = self._spec.pacing
        idle_ms = 0 if awaits_commit(path) else min(pacing.idle_interval_ms, pacing.view_timeout_ms // IDLE_DIVISOR)
        deadline_ns = self._entered_ns + idle_ms * NANOSECONDS_PER_MILLISECOND
        self._building = (view, justify)
        self._out.effects.append(payload_request(view, path, self._blocks.tree.root, deadline_ns))

    def _on_payload_built(self, built: PayloadBuilt) -> None:
        if self._building is None or self._me is None:
            return
        view, justify = self._building
        path = self._blocks.tree.path(justify.block_id)
        if (built.view, built.parent) != (view, justify.block_id) or path is None:
            return
        block = block_built(built, justify, path, self._epoch, self._me, None)
        entry = self._blocks.insert(block, built.body, None, self._longest)
        if entry is None:
            return
        entry.checked = True
        self._building = None
        self._proposed_view = view
        self._proposing = (block, memoryview(built.body))
        self._candidates[view] = block.id
        self._blocks.record((*path, entry))
        self._sign(ProposalSubject(epoch=self._epoch.epoch, view=view, block_id=block.id))

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        header = proposal.header
        fault = self._proposal_fault(peer, proposal)
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
        refusal = self._learn(proposal.epoch, header.justify, peer)
        if refusal is not None:
            self._out.reject(peer, f"proposal: {refusal.reason}")
            return
        self._follow_clock()
        if header.view > self._view + VIEWS_AHEAD:
            return  # nobody can be there yet; if it is certified one day, block sync fetches it
        if not self._first_proposals.keep(proposal):
            first = self._first_proposals.contradicted(proposal)
            if first is not None:
                self._out.effects.append(ReportEvidence(first, without_body(proposal)))
            return
        if self._blocks.insert(block, proposal.body, peer, self._longest) is None:
            return
        if header.view >= self._view:  # of a later view: voted for once that view is due here too
            self._candidates[header.view] = block.id
        self._blocks.reconsider(self._longest)  # it may close a gap below a certificate that was seen before it

    def _proposal_fault(self, peer: PeerId, proposal: Proposal) -> str | None:
        """None when the sender proposes for itself a well-formed block of a view that it leads."""
        header = proposal.header
        if self._validators.index_of(peer) != header.proposer:
            return f"of validator {header.proposer}, who is not this peer"
        if proposal.epoch != header.epoch:
            return "of another epoch"
        fault = block_fault(header, proposal.body, self._epoch, self._spec.payload_size_max)
        if fault is None and header.proposer != self._epoch.leaders.leader(header.view):
            fault = f"validator {header.proposer} does not lead view {header.view}"
        if fault is None and header.entry_proof_hash:
            fault = "names an entry proof, and views here need none"
        return fault

    # --- vote ---------------------------------------------------------------------------------------------------

    def _candidate(self) -> Entry | None:
        """The first block of the current view, if it came."""
        block_id = self._candidates.get(self._view)
        return None if block_id is None else self._blocks.tree.get(block_id)

    def _may_vote(self, header: BlockHeader) -> bool:
        """Vote: "as long as the proposed block extends from (one of) the longest notarized chain(s)" seen. What was
        seen may be forgotten at a restart, so the height of the last vote is remembered by itself."""
        return header.justify.height >= self._longest.height and header.height >= self._last_voted_height

    def _try_vote(self) -> None:
        entry = self._candidate()
        if entry is None or self._me is None or self._last_voted_view >= self._view:
            return
        header = entry.block.header
        path = self._blocks.tree.path(entry.block.id)
        if path is None or not self._may_vote(header) or not self._blocks.may_follow(path):
            return
        if not self._blocks.all_checked(path, full_check_of_last=True):
            return
        self._last_voted_view = self._view
        self._last_voted_height = header.height
        self._blocks.record(path)
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

    def _on_vote(self, peer: PeerId, vote: Vote) -> None:
        fault = vote_fault(vote, peer, self._epoch)
        if fault is not None:
            self._out.reject(peer, f"vote: {fault}")
            return
        self._clock.hear(vote.signer, vote.view)
        self._count_vote(vote)

    def _count_vote(self, vote: Vote) -> None:
        """Votes of a quorum notarize a block."""
        result = self._votes.add(vote)
        match result:
            case Counted(certificate, spoiled):
                for signer in spoiled:
                    self._out.reject(self._validators.peer_of(signer), "vote: the signature does not verify")
                if certificate is not None:
                    self._adopt(certificate)
            case Ignored():
                pass
            case Equivocated(first, second):
                self._out.effects.append(ReportEvidence(first, second))
            case BadSignature():
                self._out.reject(self._validators.peer_of(vote.signer), "vote: the signature does not verify")
            case _:
                assert_never(result)

    # --- signing ------------------------------------------------------------------------------------------------

    def _sign(self, subject: Subject) -> None:
        state = SafetyState(
            last_voted_view=self._last_voted_view, last_voted_height=self._last_voted_height, longest=self._longest
        )
        self._guard.sign(subject, state, self._out)

    def _on_signed(self, subject: Subject, signature: bytes) -> None:
        if self._me is None:
            raise RuntimeError("an observer signs nothing")
        match subject:
            case VoteSubject():
                self._last_vote = vote_of(subject, self._me, signature)
                self._out.effects.append(Broadcast(self._last_vote))
                self._count_vote(self._last_vote)
            case ProposalSubject():
                if self._proposing is None or self._proposing[0].id != subject.block_id:
                    return  # of a view that is over
                block, body = self._proposing
                self._last_proposal = Proposal(epoch=subject.epoch, header=block.header, body=body, signature=signature)
                self._out.effects.append(Broadcast(self._last_proposal))
            case _:
                raise RuntimeError(f"{subject} is no subject of this protocol")
