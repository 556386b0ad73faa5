"""Tendermint (Buchman, Kwon, Milosevic: "The latest gossip on BFT consensus", 2018): one block per height, decided in
rounds of a proposal, prevotes and precommits.

Specification
=============
A replica works at the height above its committed head, in one round of it. ``(height, round)`` make one number, the
view (``tendermint_types.py``); the leader of the schedule's turn ``height + round`` proposes. A quorum of prevotes for
one block in one round is a *polka*, a quorum of precommits the *commit certificate*. Line numbers are those of the
paper's algorithm 1; ``vr`` is the valid round that a proposal comes with.

::

    round starts     step propose. The proposer proposes its valid value with its polka, or builds a block    L11-L19
                     on the commit certificate of its head; everybody sets timeoutPropose                     L20-L21
    proposal, new    prevote it iff its payload is valid and nothing is locked, else nil                      L22-L27
    proposal, vr     prevote it iff it comes with the polka of vr < round and (not locked, or locked round    L28-L33
                     <= vr), else nil
    Q prevoted       in step prevote, for whatever: set timeoutPrevote                                        L34-L35
    polka, round     in step prevote: lock and valid value = the block, precommit it; later: valid value      L36-L43
    polka for nil    in step prevote: precommit nil                                                           L44-L46
    Q precommitted   for whatever: set timeoutPrecommit                                                       L47-L48
    Q precommits     for one block, of any round, at any time: it is decided; next height                     L49-L54
    A votes          of higher rounds: go there                                                               L55-L56
    timeoutPropose   prevote nil        timeoutPrevote   precommit nil        timeoutPrecommit   next round   L57-L67

A vote signs ``(kind, epoch, view, block, height, justify view)``. The justify view of a prevote is the view of ``vr``,
or of the block's certificate when there is none; of a precommit it is that of the block's certificate: who prevotes
against its own lock signs the proof of it. A block stands on the commit certificate of its parent.

Durable in one record with every signature: round, step, lock, valid value with its polka, and the votes that let this
replica enter its round; besides, the blocks that they name. A height's lock and valid value mean nothing at another.

Lost messages. What a replica waits for is sent again: every ``timeoutPropose`` at one height it broadcasts its own
votes of that height and its :class:`Standing`: the last commit certificate, the polka of the valid value, and the votes
that let it enter its round, each verified by itself. They take the place of the paper's gossip: whoever is in a lower
round follows by L47 or L55, and so no round is left behind for want of votes that only others have. A polka of a round
that fails (a quorum precommitted, not all for it) is shown at once, so that the next proposer knows of every lock. A
vote of an older height is answered with the commit certificate.

Timeouts. ``timeoutPropose`` of round r is the chain's view timeout, grown as its pacing says for r failed views; the
two others are half as long, as they wait for one message each. An idle proposer waits the idle interval for a payload.

Sources: the paper; the state machine and driver of malachite.

Deviations from the paper
-------------------------
* A polka counts without the proposal of its round, once the block is here: a third of stake saw it. A polka of an
  earlier round also becomes the valid value (L36 asks for the current one): with it any proposer could propose.
* L55 asks for messages of one higher round; here votes of that round *or above* count, so that the far apart meet.
* L23 and L29 also allow the locked block with an older polka. Here a prevote's valid round is never below the lock, or
  who locked twice could be accused of amnesia; every lock's polka reaches the next proposer (see above).
* The polka of ``vr`` travels inside the proposal; prevotes of old rounds are not kept for it.
* The proposer sets timeoutPropose too: its payload may never be built.
* A block that is decided and not here yet stops the rounds of its height.
* No block stands on the boundary of an epoch: whoever sees the boundary's commit certificate has ended the epoch.
* Votes go to everybody, however many validators there are. ``entry_proof_hash`` of a header is empty: nothing but the
  round's number lets a block in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

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
    Signed,
    Status,
    Step,
    StepBuilder,
    TimerFired,
)
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND, view_duration
from consensus.protocols.proposal_checks import without_body
from consensus.protocols.tendermint_checks import entry_fault, proposal_fault, vote_fault
from consensus.protocols.tendermint_decisions import Decisions, commit_refusal
from consensus.protocols.tendermint_leader import Leader
from consensus.protocols.tendermint_outbox import (
    AGAIN_TIMER,
    PRECOMMIT_TIMER,
    PREVOTE_TIMER,
    PROPOSE_TIMER,
    Outbox,
    Timers,
)
from consensus.protocols.tendermint_state import PRECOMMITTED, PREVOTED, PROPOSING, Restored, SafetyState, restore
from consensus.protocols.tendermint_types import (
    PRECOMMIT,
    PREVOTE,
    ROUND_MAX,
    Proposal,
    Round,
    Standing,
    height_of,
    round_of,
    turn_of,
    view_at,
)
from consensus.protocols.tendermint_votes import HeightProposals, HeightVotes
from consensus.safety import SafetyGuard
from consensus.signing import PROPOSAL
from consensus.types import (
    NIL_BLOCK,
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
    vote_of,
    vote_subject,
)
from consensus.vote_tally import BadSignature, Counted, Equivocated, Ignored

VOTE_TIMEOUT_DIVISOR: Final = 2
HELP_DIVISOR: Final = 2
"""A peer that is behind is answered once in this part of the view timeout."""


class TendermintEngine:
    """One replica. ``me`` is None for an observer, which verifies everything and signs nothing."""

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        self._spec = spec
        self._epoch = epoch
        self._me = me
        self._validators = epoch.validators
        self._checker = QuorumChecker(epoch, scheme, (PRECOMMIT,))
        self._out = StepBuilder()
        self._decisions = Decisions(epoch, self._checker, self._out)
        self._blocks = self._decisions.pipeline
        self._guard = SafetyGuard()
        self._timers = Timers(self._out)
        self._leader = Leader(spec, epoch, self._blocks, self._out, me)
        interval_ns = spec.pacing.view_timeout_ms * NANOSECONDS_PER_MILLISECOND // HELP_DIVISOR
        self._outbox = Outbox(self._out, interval_ns)
        # durable
        self._height: Height = epoch.genesis.height + 1
        self._round: Round = 0
        self._step = PROPOSING
        self._locked_view: View = 0
        self._entry: tuple[Vote, ...] = ()
        self._signed_views: dict[str, View] = {}
        # derived or volatile
        self._votes: dict[Height, HeightVotes] = {}
        self._proposals: dict[Height, HeightProposals] = {}
        self._round_started_ns: Nanoseconds = 0
        self._next_entry: tuple[Vote, ...] = ()
        """The quorum of precommits that set timeoutPrecommit in this round."""
        self._polka_shown = False
        self._rounds_failed = 0
        self._source: PeerId | None = None
        self._now: Nanoseconds = 0

    # --- the contract -------------------------------------------------------------------------------------------

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        """Put the durable state together and resume: the stored subjects are signed and sent again, commits above the
        ledger's height are emitted again."""
        self._now = now
        restored = restore(recovered, self._guard)
        self._decisions.restore(recovered)
        if self._blocks.is_over:
            return self._out.finish()
        state = restored.state
        self._locked_view = state.locked_view
        self._signed_views = {kind: subject.slot.major for kind, (subject, _) in restored.by_kind.items()}
        self._enter_height(self._blocks.tree.root.height + 1)
        if state.valid is not None and height_of(state.valid.view) == self._height:
            self._votes[self._height].hold(state.valid)
        if height_of(state.view) == self._height:
            self._start_round(round_of(state.view), state.entry)
            self._step = state.step
            if self._step != PROPOSING:
                self._timers.cancel(PROPOSE_TIMER)
            for vote in state.entry:
                self._votes[self._height].add(vote)
        self._restore_proposal(restored)
        if self._me is not None:
            self._out.effects += self._guard.stored()
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
            case PayloadVerdict():
                self._blocks.on_verdict(event)
            case PayloadBuilt():
                self._on_payload_built(event)
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
        return commit_refusal(proof, header, self._epoch, self._checker)

    def status(self) -> Status:
        root = self._blocks.tree.root
        return Status(
            epoch=self._epoch.epoch,
            view=self._view,
            leader=self._epoch.leaders.leader(turn_of(self._view)),
            committed_height=root.height,
            committed_view=root.view,
            seen_height=self._decisions.height,
            timeouts=self._rounds_failed,
        )

    def block(self, block_id: BlockId) -> StoredBlock | None:
        return self._blocks.stored(block_id)

    # --- where this replica is ----------------------------------------------------------------------------------

    @property
    def _view(self) -> View:
        return view_at(self._height, self._round)

    @property
    def _valid(self) -> Certificate | None:
        """The polka of the valid value."""
        return self._votes[self._height].valid

    @property
    def _is_decided(self) -> bool:
        """True when this height is decided, and its block is on its way."""
        return self._decisions.height >= self._height

    @property
    def _needed(self) -> Certificate:
        """Names the block that a full tree must keep."""
        return self._decisions.justify if self._valid is None else self._valid

    def _enter_height(self, height: Height) -> None:
        self._height = height
        kept = range(height - 1, height + 2)
        self._votes = {known: votes for known, votes in self._votes.items() if known in kept}
        self._proposals = {known: proposals for known, proposals in self._proposals.items() if known in kept}
        for near in (height, height + 1):
            self._votes.setdefault(near, HeightVotes(near, self._validators, self._checker))
            self._proposals.setdefault(near, HeightProposals())
        self._start_round(0, ())
        self._timers.set(AGAIN_TIMER, self._now + self._timeout())

    def _start_round(self, round_: Round, entry: tuple[Vote, ...]) -> None:
        """L11; ``entry`` are the votes that let this replica in."""
        self._rounds_failed += round_ > 0
        self._round, self._entry, self._step = round_, entry, PROPOSING
        self._round_started_ns = self._now
        self._leader.enter()
        self._next_entry = ()
        self._polka_shown = False
        self._votes[self._height].advance(round_)
        self._proposals[self._height].advance(round_)
        self._timers.cancel(PREVOTE_TIMER, PRECOMMIT_TIMER)
        self._timers.set(PROPOSE_TIMER, self._now + self._timeout())  # L21

    def _finish(self) -> Step:
        self._commit()
        if self._blocks.is_over:
            return self._out.finish()
        if not self._is_decided:
            self._follow_the_others()
            self._try_propose()
            self._try_prevote()
            self._try_precommit()
            self._watch_quorums()
        wanted = [] if self._valid is None else [(self._valid.block_id, self._valid.height)]
        self._blocks.fetch_missing(wanted, self._source)
        return self._out.finish()

    # --- timers -------------------------------------------------------------------------------------------------

    def _timeout(self) -> Nanoseconds:
        return view_duration(self._spec.pacing, self._round, 0, 0)

    def _on_timer(self, name: str) -> None:
        if not self._timers.fired(name, self._now):
            return
        if name == AGAIN_TIMER:
            self._timers.set(AGAIN_TIMER, self._now + self._timeout())
            if self._me is not None:
                self._outbox.repeat(self._height, self._standing())
        elif self._is_decided:
            return
        elif name == PROPOSE_TIMER and self._step == PROPOSING:
            self._prevote(None, None)  # L57-L60
        elif name == PREVOTE_TIMER and self._step == PREVOTED:
            self._precommit(None)  # L61-L64
        elif name == PRECOMMIT_TIMER and self._round < ROUND_MAX:
            self._start_round(self._round + 1, self._next_entry)  # L65-L67

    # --- messages -----------------------------------------------------------------------------------------------

    def _on_message(self, peer: PeerId, message: msgspec.Struct) -> None:
        match message:
            case Proposal():
                self._on_proposal(peer, message)
            case Standing():
                self._on_standing(peer, message)
            case _:
                self._out.reject(peer, f"{type(message).__name__} is no message of this protocol")

    def _on_outside(self, event: BlocksFetched | BlocksLoaded | PeerConnected) -> None:
        match event:
            case BlocksFetched(peer=peer, blocks=blocks, proof=proof):
                self._decisions.take(blocks, proof, peer, self._needed)
            case PeerConnected(peer):
                self._outbox.greet(peer, self._view, self._standing())
            case BlocksLoaded():
                pass  # block sync's alone
            case _:
                assert_never(event)

    def _standing(self) -> Standing:
        commit = self._decisions.certificate
        return Standing(epoch=self._epoch.epoch, commit=commit, polka=self._valid, votes=self._entry)

    def _on_standing(self, peer: PeerId, standing: Standing) -> None:
        if standing.epoch != self._epoch.epoch:
            self._out.reject(peer, f"standing: of epoch {standing.epoch}, expected {self._epoch.epoch}")
            return
        refusal = self._learn_commit(standing.commit, peer) if standing.commit.height >= self._height else None
        if refusal is None and standing.polka is not None and self._is_news(standing.polka):
            refusal = self._learn_polka(standing.polka, peer)
        fault = refusal.reason if refusal is not None else self._learn_votes(standing.votes)
        if fault is not None:
            self._out.reject(peer, f"standing: {fault}")

    def _learn_votes(self, votes: tuple[Vote, ...]) -> str | None:
        """Take others' votes from a peer that entered its round by them, each verified, if they bring us to a later
        round. What is wrong with them, if anything is."""
        fault = entry_fault(votes, self._epoch)
        for vote in () if fault is not None else self._votes[self._height].wanted(votes):
            if not self._checker.check_signature(vote.signer, vote_subject(vote), vote.signature):
                return f"a vote that is not validator {vote.signer}'s"
            self._count(vote)
        return fault

    # --- certificates, decisions --------------------------------------------------------------------------------

    def _learn_commit(self, certificate: Certificate, peer: PeerId) -> Refusal | None:
        """L49: a quorum of precommits, whatever its round."""
        refusal = self._checker.check(certificate, PRECOMMIT)
        if refusal is None and certificate.height >= self._height:
            self._source = peer
            self._decisions.decide(certificate)
            self._commit()
        return refusal

    def _commit(self) -> None:
        """L50-L54."""
        while self._decisions.commit() and not self._blocks.is_over:
            self._enter_height(self._blocks.tree.root.height + 1)

    def _learn_polka(self, certificate: Certificate, peer: PeerId) -> Refusal | None:
        refusal = self._checker.check(certificate, PREVOTE)
        if refusal is None and height_of(certificate.view) in (self._height, self._height + 1):
            self._source = peer
            self._votes[height_of(certificate.view)].learn_polka(certificate)
        return refusal

    def _is_news(self, polka: Certificate) -> bool:
        """True when it may teach us something."""
        votes = self._votes.get(height_of(polka.view))
        return votes is not None and votes.height >= self._height and votes.lacks(polka)

    # --- proposals ----------------------------------------------------------------------------------------------

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        fault = proposal_fault(proposal, peer, self._epoch, self._spec.payload_size_max)
        if fault is not None:
            self._out.reject(peer, f"proposal: {fault}")
            return
        height = proposal.header.height
        known = self._proposals[height].get(round_of(proposal.view)) if height in self._proposals else None
        if height < self._height - 1 or (known is not None and known.header == proposal.header):
            return
        block = block_of(proposal.header)
        subject = ProposalSubject(epoch=proposal.epoch, view=proposal.view, block_id=block.id)
        if not self._checker.check_signature(proposal.proposer, subject, proposal.signature):
            self._out.reject(peer, "proposal: the signature is not its proposer's")
            return
        refusal = self._learn_commit(proposal.header.justify, peer)
        if refusal is None and proposal.polka is not None:
            refusal = self._learn_polka(proposal.polka, peer)
        if refusal is not None:
            self._out.reject(peer, f"proposal: {refusal.reason}")
            return
        proposals = self._proposals.get(height)
        if proposals is None:
            return  # of a height that is far away: what it stands on is fetched first
        if proposals.keep(proposal):
            self._blocks.insert(block, proposal.body, peer, self._needed)
            return
        first = proposals.contradicted(proposal)
        if first is not None:
            self._out.effects.append(ReportEvidence(first, without_body(proposal)))

    def _try_propose(self) -> None:
        """L14-L19."""
        if self._step != PROPOSING or not self._leader.leads(self._view):
            return
        valid = self._valid
        if valid is None:
            self._leader.ask(self._view, self._round_started_ns)
            return
        entry = self._decisions.ready(valid.block_id, certified=True)
        if entry is not None and valid.view < self._view:
            self._propose(entry, valid)

    def _on_payload_built(self, built: PayloadBuilt) -> None:
        """L18-L19. Where a valid value came meanwhile, that is proposed instead."""
        if self._step == PROPOSING and not self._is_decided and self._valid is None:
            entry = self._leader.build(built, self._decisions.justify)
            if entry is not None:
                self._propose(entry, None)

    def _propose(self, entry: Entry, polka: Certificate | None) -> None:
        subject = self._leader.propose(self._view, entry, polka)
        self._sign(subject)
        self._keep_own(subject)

    def _keep_own(self, subject: ProposalSubject) -> None:
        """The own proposal is voted for like any other."""
        proposal = self._leader.proposal(subject, b"")
        if proposal is not None:
            self._proposals[height_of(subject.view)].keep(proposal)

    # --- votes --------------------------------------------------------------------------------------------------

    def _try_prevote(self) -> None:
        """L22-L33."""
        proposal = self._proposals[self._height].get(self._round)
        if proposal is None or self._step != PROPOSING:
            return
        block_id = block_of(proposal.header).id
        entry = self._blocks.tree.get(block_id)
        certified = proposal.polka is not None or self._votes[self._height].has_polka(block_id)
        if not self._may_prevote(proposal) or (entry is not None and self._is_invalid(entry, certified=certified)):
            self._prevote(None, None)
        else:
            ready = self._decisions.ready(block_id, certified=certified)
            if ready is not None:
                self._prevote(ready, proposal.polka)

    def _may_prevote(self, proposal: Proposal) -> bool:
        """L23, L29: what the lock allows."""
        if height_of(self._locked_view) != self._height:
            return True
        return proposal.polka is not None and self._locked_view <= proposal.polka.view

    def _is_invalid(self, entry: Entry, *, certified: bool) -> bool:
        if certified:
            return False
        path = self._blocks.tree.path(entry.block.id)
        return entry.refused if path is None else not self._blocks.may_follow(path)

    def _try_precommit(self) -> None:
        """L36-L46: the polka of this round."""
        polka = self._votes[self._height].polka(self._round)
        if polka is None:
            return
        if polka.block_id == NIL_BLOCK:
            if self._step == PREVOTED:
                self._precommit(None)
            return
        if self._step == PREVOTED:
            entry = self._decisions.ready(polka.block_id, certified=True)
            if entry is not None:
                self._locked_view = polka.view
                self._precommit(entry)

    def _watch_quorums(self) -> None:
        """L34-L35 and L47-L48."""
        votes = self._votes[self._height]
        if self._step == PREVOTED and not self._timers.is_set(PREVOTE_TIMER) and votes.quorum_prevoted(self._round):
            self._timers.set(PREVOTE_TIMER, self._now + self._timeout() // VOTE_TIMEOUT_DIVISOR)
        if not self._next_entry:
            found = votes.quorum_precommitted(self._round)
            if found is None:
                return
            self._reject_signers(found.bad, PRECOMMIT)
            if not found.votes:
                return
            self._next_entry = found.votes
            self._timers.set(PRECOMMIT_TIMER, self._now + self._timeout() // VOTE_TIMEOUT_DIVISOR)
        valid = self._valid
        if valid is not None and valid.view == self._view and not self._polka_shown and self._me is not None:
            self._polka_shown = True
            self._out.effects.append(Broadcast(self._standing()))

    def _follow_the_others(self) -> None:
        """L55-L56: to the highest round that stake A has reached."""
        found = self._votes[self._height].ahead()
        if found is None:
            return
        self._reject_signers(found.bad, "vote")
        stake = 0
        for position, vote in enumerate(found.votes):
            stake += self._validators.stakes[vote.signer]
            if stake >= self._validators.amplification:
                self._start_round(round_of(vote.view), found.votes[: position + 1])
                return

    def _prevote(self, entry: Entry | None, polka: Certificate | None) -> None:
        self._step = PREVOTED
        self._timers.cancel(PROPOSE_TIMER)
        self._vote(PREVOTE, entry, polka)

    def _precommit(self, entry: Entry | None) -> None:
        self._step = PRECOMMITTED
        self._timers.cancel(PREVOTE_TIMER)
        self._vote(PRECOMMIT, entry, None)

    def _vote(self, kind: str, entry: Entry | None, polka: Certificate | None) -> None:
        if self._me is None or self._signed_views.get(kind, 0) >= self._view:
            return
        block_id, height, justify_view = NIL_BLOCK, 0, 0
        if entry is not None:
            self._blocks.record((entry,))
            relied_on = polka if kind == PREVOTE else self._votes[self._height].polka(self._round)
            self._blocks.keep(relied_on)
            header = entry.block.header
            block_id, height = entry.block.id, header.height
            justify_view = header.justify.view if polka is None else polka.view
        self._sign(
            VoteSubject(
                kind=kind,
                epoch=self._epoch.epoch,
                view=self._view,
                block_id=block_id,
                height=height,
                justify_view=justify_view,
            )
        )

    def _on_vote(self, peer: PeerId, vote: Vote) -> bool:
        """True when it may have changed what the rest of a step looks at."""
        fault = vote_fault(vote, self._epoch)
        if fault is None and self._validators.index_of(peer) != vote.signer:
            fault = f"of validator {vote.signer}, who is not this peer"
        if fault is not None:
            self._out.reject(peer, f"vote: {fault}")
            return False
        return self._count(vote)

    def _count(self, vote: Vote) -> bool:
        height = height_of(vote.view)
        votes = self._votes.get(height)
        if votes is None:
            if height < self._height:
                self._help(vote.signer)
            return False
        result = votes.add(vote)
        match result:
            case Counted(certificate, spoiled):
                self._reject_signers(spoiled, vote.kind)
                if certificate is not None and certificate.block_id != NIL_BLOCK:
                    self._certified(certificate)
                    return True
            case Ignored():
                if height < self._height:
                    self._help(vote.signer)
            case Equivocated(first, second):
                self._out.effects.append(ReportEvidence(first, second))
            case BadSignature():
                self._reject_signers((vote.signer,), vote.kind)
            case _:
                assert_never(result)
        return height == self._height

    def _certified(self, certificate: Certificate) -> None:
        if certificate.kind == PRECOMMIT and certificate.height >= self._height:
            self._decisions.decide(certificate)

    def _help(self, signer: ValidatorIndex) -> None:
        """Somebody still votes at a height that is over."""
        peer = self._validators.peer_of(signer)
        if signer != self._me and self._outbox.may_help(peer, self._now):
            self._out.effects.append(Send(peer, self._standing()))

    def _reject_signers(self, signers: Iterable[ValidatorIndex], what: str) -> None:
        for signer in signers:
            self._out.reject(self._validators.peer_of(signer), f"{what}: the signature does not verify")

    # --- signing ------------------------------------------------------------------------------------------------

    def _sign(self, subject: Subject) -> None:
        valid = self._valid
        if valid is not None:
            entry = self._blocks.tree.get(valid.block_id)
            if entry is not None and entry.checked:
                self._blocks.record((entry,))
        state = SafetyState(
            view=self._view,
            step=self._step,
            locked_view=self._locked_view,
            valid=valid,
            entry=self._entry,
        )
        self._guard.sign(subject, state, self._out)
        self._signed_views[subject.kind] = self._view

    def _on_signed(self, subject: Subject, signature: bytes) -> bool:
        """True when the own message may have changed what the rest of a step looks at."""
        if self._me is None:
            raise RuntimeError("an observer signs nothing")
        match subject:
            case VoteSubject():
                vote = vote_of(subject, self._me, signature)
                self._outbox.send_vote(vote)
                return self._count(vote)
            case ProposalSubject():
                proposal = self._leader.proposal(subject, signature)
                if proposal is not None and proposal.view == self._view:
                    self._outbox.send_proposal(proposal)
                return False
            case _:
                raise RuntimeError(f"{subject} is no subject of this protocol")

    def _restore_proposal(self, restored: Restored) -> None:
        """What a stored proposal needs to become a message again."""
        subject, state = restored.by_kind.get(PROPOSAL, (None, None))
        if isinstance(subject, ProposalSubject) and state is not None:
            self._leader.restore(subject, state.valid)
            if height_of(subject.view) == self._height:
                self._keep_own(subject)
