"""Broken Tendermints. Each class changes one thing of its parent."""

from __future__ import annotations

from typing import Final

import msgspec

from consensus.codec import block_of, encode
from consensus.commit_proof import linked_headers
from consensus.crypto.scheme import Scheme
from consensus.engine import FetchBlocks, Recovered, Refusal, SafetyRecord, Step
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.tendermint import TendermintEngine
from consensus.protocols.tendermint_definition import tendermint
from consensus.protocols.tendermint_outbox import AGAIN_TIMER
from consensus.protocols.tendermint_state import PREVOTED, PROPOSING, SafetyState
from consensus.protocols.tendermint_types import PRECOMMIT, PREVOTE, Proposal, round_of
from consensus.safety import Forbidden, Granted, SafetyGuard
from consensus.signing import PROPOSAL
from consensus.types import (
    NIL_BLOCK,
    BlockHeader,
    Certificate,
    CommitProof,
    Epoch,
    Nanoseconds,
    PeerId,
    Subject,
    ValidatorIndex,
)
from netsim.mutants.engines import no_join, weak_quorum
from netsim.mutants.mutant import Mutant
from netsim.mutants.parts import GrantsAll, changed, forgetting

NAME: Final = "tendermint"

# --- safety ------------------------------------------------------------------------------------------------------


class WeakQuorum(TendermintEngine):
    """The quorum is F+1."""

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        spec, epoch = weak_quorum(spec, epoch)
        super().__init__(spec=spec, epoch=epoch, scheme=scheme, me=me)


class PrevotesTwice(TendermintEngine):
    """Prevotes the second proposal of a round too."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        self._guard = GrantsAll()
        return super().start(recovered, now)

    def _on_proposal(self, peer: PeerId, proposal: Proposal) -> None:
        proposals = self._proposals.get(proposal.header.height)
        first = None if proposals is None else proposals.get(round_of(proposal.view))
        super()._on_proposal(peer, proposal)
        second = first is not None and first.header != proposal.header and proposal.view == self._view
        if second and self._step == PREVOTED and proposal.header.parent == self._blocks.tree.root.id:
            entry = self._blocks.insert(block_of(proposal.header), proposal.body, peer, self._needed)
            if entry is not None:
                entry.checked = True
                self._signed_views.pop(PREVOTE, None)
                self._prevote(entry, proposal.polka)


class NoLock(TendermintEngine):
    """Prevotes whatever is proposed."""

    def _may_prevote(self, proposal: Proposal) -> bool:
        return True


class AnyValidRound(TendermintEngine):
    """Prevotes what comes with a polka, of a round before its lock too."""

    def _may_prevote(self, proposal: Proposal) -> bool:
        return proposal.polka is not None or super()._may_prevote(proposal)


class NilUnlocks(TendermintEngine):
    """A precommit for nil gives the lock up."""

    def _try_precommit(self) -> None:
        polka = self._votes[self._height].polka(self._round)
        if polka is not None and polka.block_id == NIL_BLOCK and self._step == PREVOTED:
            self._locked_view = 0
        super()._try_precommit()


class PrecommitsWithoutPolka(TendermintEngine):
    """Precommits what it prevoted without waiting for a polka, and so without a lock."""

    def _try_precommit(self) -> None:
        proposal = self._proposals[self._height].get(self._round)
        if self._step == PREVOTED and proposal is not None:
            block_id = block_of(proposal.header).id
            entry = self._decisions.ready(block_id, certified=False)
            if entry is not None and self._may_prevote(proposal):
                self._precommit(entry)
        super()._try_precommit()


class DecidesOnPrevotes(TendermintEngine):
    """A quorum of prevotes decides."""

    def _certified(self, certificate: Certificate) -> None:
        super()._certified(certificate)
        if certificate.kind == PREVOTE and certificate.height >= self._height:
            self._decisions.decide(certificate)

    def _learn_commit(self, certificate: Certificate, peer: PeerId) -> Refusal | None:
        refusal = self._checker.check(certificate, PREVOTE, PRECOMMIT)
        if refusal is None and certificate.height >= self._height:
            self._decisions.decide(certificate)
            self._commit()
        return refusal

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        chain = linked_headers(proof, header, self._epoch)
        return chain if isinstance(chain, Refusal) else self._checker.check(proof.certificate, PREVOTE, PRECOMMIT)


class AnyPolka(TendermintEngine):
    """The polka of a proposal is not verified."""

    def _learn_polka(self, certificate: Certificate, peer: PeerId) -> Refusal | None:
        super()._learn_polka(certificate, peer)
        return None


class _Forgets(TendermintEngine):
    """A restart forgets something of each record."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        return super().start(forgetting(recovered, self.forget), now)

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        """What is left of a record."""
        return record


class ForgetsVotes(_Forgets):
    """A restart forgets the last votes and the step of the round."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return changed(record, SafetyState, step=PROPOSING) if record.kind == PROPOSAL else None


class ForgetsLock(_Forgets):
    """A restart forgets the lock."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return changed(record, SafetyState, locked_view=0)


class ForgetsAll(_Forgets):
    """A restart forgets everything that was signed."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None


class ForgetsProposal(_Forgets):
    """A restart forgets the last proposal."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == PROPOSAL else changed(record, SafetyState, step=PROPOSING)


# --- liveness ----------------------------------------------------------------------------------------------------


class NoRoundSkip(TendermintEngine):
    """Never follows the others to a higher round."""

    def _follow_the_others(self) -> None:
        return


class SaysItOnce(TendermintEngine):
    """Says nothing again."""

    def _on_timer(self, name: str) -> None:
        if name != AGAIN_TIMER:
            super()._on_timer(name)


class NoFetch(TendermintEngine):
    """Never asks for a missing block."""

    def _finish(self) -> Step:
        records, effects = super()._finish()
        return Step(records, tuple(effect for effect in effects if not isinstance(effect, FetchBlocks)))


class TimeoutsNeverGrow(TendermintEngine):
    """Nobody follows A votes, and timeouts never grow."""

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        spec, epoch = no_join(spec, epoch)
        super().__init__(spec=spec, epoch=epoch, scheme=scheme, me=me)


class StopsVoting(TendermintEngine):
    """Votes no more after its first vote for nil."""

    _stopped = False

    def _sign(self, subject: Subject) -> None:
        if not self._stopped:
            super()._sign(subject)
        self._stopped = self._stopped or getattr(subject, "block_id", None) == NIL_BLOCK


def _row(identity: str, change: str, engine: type[TendermintEngine], scenario: str = "swarm") -> Mutant:
    return Mutant(id=identity, change=change, definition=tendermint(NAME, engine), scenario=scenario)


BROKEN: Final = (
    _row("S1", "quorum is F+1", WeakQuorum),
    _row("S2", "prevotes twice in one round", PrevotesTwice),
    _row("S4", "no lock", NoLock, "lower-valid-round"),
    _row("S5", "a quorum of prevotes decides", DecidesOnPrevotes, "swarm-twins"),
    _row("V1", "the valid round is not compared with the lock", AnyValidRound, "lower-valid-round"),
    _row("V3", "precommits without a polka", PrecommitsWithoutPolka),
    _row("S9", "a restart forgets the last votes", ForgetsVotes, "swarm-restarts"),
    _row("S10", "a restart forgets the lock", ForgetsLock, "forgotten-lock"),
    _row("S11", "a restart forgets all", ForgetsAll, "swarm-restarts"),
    _row("R1", "a restart loses the last proposal", ForgetsProposal, "swarm-restarts"),
    _row("L2", "a lagging node cannot fetch", NoFetch, "lagging"),
    _row("L4", "stops voting for good after a vote for nil", StopsVoting, "short-outage"),
    _row("L5", "nobody follows A votes, timeouts never grow", TimeoutsNeverGrow, "slow-network"),
    _row("L7", "says nothing again", SaysItOnce, "swarm-healing"),
    _row("L9", "never follows to a higher round", NoRoundSkip, "rounds-alone"),
)
SEEN_ALONE: Final = (
    _row("V2", "a precommit for nil gives the lock up", NilUnlocks),
    _row("V4", "the polka of a proposal is not verified", AnyPolka),
)
"""Not found in 1,000 random schedules: the stories of one replica among scripted peers catch them."""
