"""Broken engines and rules of the HotStuff family. Each class changes one thing of its parent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec

from consensus.block_tree import BlockTree, Entry
from consensus.codec import block_of
from consensus.crypto.scheme import Scheme
from consensus.engine import FetchBlocks, Recovered, Refusal, SafetyRecord, Step
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.chained_family import chained
from consensus.protocols.chained_leader import Candidate
from consensus.protocols.chained_state import SafetyState
from consensus.protocols.chained_types import Proposal, Timeout, TimeoutCertificate
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.proposal_checks import FirstProposals
from consensus.protocols.rules import ChainedRules
from consensus.safety import Forbidden, Granted, SafetyGuard
from consensus.types import BlockHeader, Certificate, Epoch, Nanoseconds, PeerId, Subject, ValidatorIndex, Vote
from consensus.validators import ValidatorSet
from consensus.vote_tally import TallyResult, VoteTally
from netsim.mutants.parts import GrantsAll, TakesAll, changed, forgetting

Adjust = Callable[[ChainSpec, EpochInfo], tuple[ChainSpec, EpochInfo]]


def unchanged(spec: ChainSpec, epoch: EpochInfo) -> tuple[ChainSpec, EpochInfo]:
    """Leaves everything as it is."""
    return spec, epoch


def broken(
    name: str, rules: ChainedRules, engine_type: type[ChainedEngine] = ChainedEngine, adjust: Adjust = unchanged
) -> ProtocolDefinition:
    """A protocol of the family with other rules, another engine, or other constants."""

    def engine(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> ChainedEngine:
        spec, epoch = adjust(spec, epoch)
        return engine_type(spec=spec, epoch=epoch, scheme=scheme, rules=rules, me=me)

    return dataclasses.replace(chained(name, rules), engine=engine)


# --- constants ---------------------------------------------------------------------------------------------------


def _with_validators(epoch: EpochInfo, change: Callable[[ValidatorSet], None]) -> EpochInfo:
    validators = ValidatorSet(epoch.validators.validators)
    change(validators)
    return dataclasses.replace(epoch, validators=validators)


def weak_quorum(spec: ChainSpec, epoch: EpochInfo) -> tuple[ChainSpec, EpochInfo]:
    """The quorum is F+1."""

    def change(validators: ValidatorSet) -> None:
        validators.quorum = validators.faulty_max + 1

    return spec, _with_validators(epoch, change)


def no_join(spec: ChainSpec, epoch: EpochInfo) -> tuple[ChainSpec, EpochInfo]:
    """Nobody joins at A timeouts, and timeouts never grow."""

    def change(validators: ValidatorSet) -> None:
        validators.amplification = validators.total + 1

    pacing = msgspec.structs.replace(spec.pacing, exponent_max=0)
    return msgspec.structs.replace(spec, pacing=pacing), _with_validators(epoch, change)


# --- rules -------------------------------------------------------------------------------------------------------


class NoLock(Jolteon):
    """Votes for whatever is entitled to its view."""

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        return True


class NoLockThree(HotStuff):
    """Votes for whatever is entitled to its view."""

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        return True


class OneChain(Jolteon):
    """Commits what is certified."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return tree.get(certificate.block_id)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 1


class OneChainThree(HotStuff):
    """Commits what is certified."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return tree.get(certificate.block_id)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 1


class TwoChainThreeLock(HotStuff):
    """Commits as the two-chain protocols do, and locks as the three-chain one does."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return Jolteon().commit_target(certificate, tree)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return Jolteon().is_committed(chain)


class TwoChainAnyViews(Jolteon):
    """Two chains of direct parents, whatever their views: the Fast-HotStuff family of errors."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        child = tree.get(certificate.block_id)
        return None if child is None else tree.get(child.parent)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 2


class ThreeChainAnyViews(HotStuff):
    """Three chains of direct parents, whatever their views."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        grandchild = tree.get(certificate.block_id)
        child = None if grandchild is None else tree.get(grandchild.parent)
        return None if child is None else tree.get(child.parent)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 3


class AnyMaximum(Jolteon):
    """A timeout certificate may show any certificate, not the highest that was signed."""

    def check_timeout_certificate(self, certificate: TimeoutCertificate) -> Refusal | None:
        return None


class LowestOfQuorum(Jolteon):
    """Planted: a block after a timeout need only stand as high as the lowest certificate of the quorum."""

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        if header.justify.view == header.view - 1:
            return True
        signed = (
            [0 if group.high_qc_view is None else group.high_qc_view for group in entry_proof.groups]
            if entry_proof
            else []
        )
        return bool(signed) and header.justify.view >= min(signed)


class OneViewTooFar(Jolteon):
    """Planted: two views are taken for consecutive when one lies between."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        child = tree.get(certificate.block_id)
        parent = None if child is None else tree.get(child.parent)
        return parent if child is not None and parent is not None and child.view <= parent.view + 2 else None

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 2 and chain[-1].view <= chain[-2].view + 2


class LockLags(HotStuff):
    """Planted: the lock is taken one generation too late."""

    def lock_after(self, lock: Certificate, header: BlockHeader, tree: BlockTree) -> Certificate:
        parent = tree.get(header.justify.block_id)
        older = None if parent is None else tree.get(parent.parent)
        if older is None:
            return lock
        candidate = older.block.header.justify
        return candidate if candidate.view > lock.view else lock


# --- engines -----------------------------------------------------------------------------------------------------


class VotesTwice(ChainedEngine):
    """Votes for every block of a view."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        self._guard = GrantsAll()
        self._first_proposals = TakesAll()
        return super().start(recovered, now)

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        if proposal.header.view == self._view == self._last_voted_view and self._timeout_view < self._view:
            self._last_voted_view = self._view - 1
        super()._on_proposal(peer, proposal)


class _CountsTwice(VoteTally):
    """Counts a vote each time that it arrives."""

    def add(self, vote: Vote) -> TallyResult:
        known = self._views.get(vote.view)
        if known is not None:
            known.first.pop((vote.kind, vote.signer), None)
        return super().add(vote)


class CountsTwice(ChainedEngine):
    """One identity counts as often as it votes."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        self._votes = _CountsTwice(self._validators, self._checker)
        return super().start(recovered, now)


class LowTimeout(ChainedEngine):
    """A timeout shows the lowest certificate that its entry allows."""

    def _time_out(self) -> None:
        held = self._high_qc
        if self._high_tc is not None and self._high_tc.view == self._view - 1 and self._timeout_view < self._view:
            self._high_qc = self._lock = self._epoch.genesis
        super()._time_out()
        self._high_qc = held


class VotesAfterTimeout(ChainedEngine):
    """Goes on voting in a view that it gave up."""

    def _time_out(self) -> None:
        voted = self._last_voted_view
        super()._time_out()
        self._last_voted_view = voted


class StopsVoting(ChainedEngine):
    """Never votes again after its first timeout."""

    def _try_vote(self) -> None:
        if self._timeouts_count == 0:
            super()._try_vote()


class NoFetch(ChainedEngine):
    """Never asks for a missing block."""

    def _finish(self) -> Step:
        records, effects = super()._finish()
        return Step(records, tuple(effect for effect in effects if not isinstance(effect, FetchBlocks)))


class DeafToHighCertificates(ChainedEngine):
    """Takes certificates from proposals and votes alone: a lock that the leader does not know of stays hidden."""

    _hears = False

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        self._hears = True
        super()._on_proposal(peer, proposal)
        self._hears = False

    def _learn(
        self, epoch: Epoch, certificate: Certificate, timeout_certificate: TimeoutCertificate | None, peer: PeerId
    ) -> Refusal | None:
        return super()._learn(epoch, certificate if self._hears else self._high_qc, timeout_certificate, peer)

    def _adopt_timeout_certificate(self, certificate: TimeoutCertificate) -> None:
        if self._high_tc is None or certificate.view > self._high_tc.view:
            self._high_tc = certificate


class UncheckedProposals(ChainedEngine):
    """Takes a block for what it says: parent, certificate, height and leader are not compared."""

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        header = proposal.header
        entry = self._blocks.tree.insert(block_of(header), proposal.body, peer)
        self._adopt_certificate(header.justify)
        self._update_view()
        if entry is not None and header.view == self._view:
            self._candidate = Candidate(entry, proposal.entry_proof)


class NoGenesisInTimeouts(ChainedEngine):
    """Refuses the genesis certificate in the timeouts of view 1."""

    def _on_timeout(self, peer: PeerId, timeout: Timeout) -> None:
        if timeout.high_qc.view > 0:
            super()._on_timeout(peer, timeout)


class NoEntitlement(ChainedEngine):
    """Votes for a block of any later view, whatever certificate entitles to it."""

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        view = proposal.header.view
        if view > self._view and view > self._last_voted_view:
            self._last_voted_view = view
        super()._on_proposal(peer, proposal)


class VotesToNextLeader(ChainedEngine):
    """Sends its votes to the next leader alone, in the smallest committee too."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        self._outbox.broadcast_votes = False
        return super().start(recovered, now)


# --- restarts ----------------------------------------------------------------------------------------------------

class _ForgetsState(ChainedEngine):
    """Starts from records that were changed."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        return super().start(forgetting(recovered, self.forget), now)

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        """What is left of a record."""
        return record


class ForgetsVotedView(_ForgetsState):
    """A restart forgets the voted view."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == "vote" else changed(record, SafetyState, last_voted_view=0)


class ForgetsLock(_ForgetsState):
    """A restart forgets the lock."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return changed(record, SafetyState, lock=self._epoch.genesis)


class ForgetsAll(_ForgetsState):
    """A restart forgets everything that was signed."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None


class ForgetsProposal(_ForgetsState):
    """A restart forgets the last proposal."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == "proposal" else record


class ForgetsTimeout(_ForgetsState):
    """A restart forgets the last timeout."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == "timeout" else record


class ForgetsHighCertificate(_ForgetsState):
    """A restart forgets the highest certificates."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return changed(record, SafetyState, high_qc=self._epoch.genesis, high_tc=None)
