"""Broken Simplexes. Each class changes one thing of its parent."""

from __future__ import annotations

from typing import Final

import msgspec

from consensus.block_tree import BlockTree, Entry
from consensus.codec import encode
from consensus.crypto.scheme import Scheme
from consensus.engine import Recovered, Refusal, SafetyRecord, Step
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.proposal_checks import FirstProposals
from consensus.protocols.simplex import Simplex, SimplexEngine
from consensus.protocols.simplex_definition import simplex
from consensus.protocols.simplex_state import SafetyState
from consensus.protocols.simplex_types import FINALIZE, NOTARIZE, NULLIFY, Proposal
from consensus.safety import Forbidden, Granted, SafetyGuard
from consensus.signing import PROPOSAL
from consensus.types import NIL_BLOCK, Certificate, CommitProof, Nanoseconds, PeerId, Subject, ValidatorIndex, View
from netsim.mutants.engines import weak_quorum
from netsim.mutants.mutant import Mutant
from netsim.mutants.parts import GrantsAll, TakesAll, forgetting

NAME: Final = "simplex"

# --- safety ------------------------------------------------------------------------------------------------------


class WeakQuorum(SimplexEngine):
    """The quorum is F+1."""

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        spec, epoch = weak_quorum(spec, epoch)
        super().__init__(spec=spec, epoch=epoch, scheme=scheme, me=me)


class FinalizesAfterNullify(SimplexEngine):
    """Finalizes a view that it nullified."""

    def _may_finalize(self, view: View) -> bool:
        return view > self._finalize_view


class SkipsFreely(SimplexEngine):
    """A block may skip views that nobody nullified."""

    def _skipped(self, above: View) -> tuple[View, ...]:
        return ()


class AnyParent(SimplexEngine):
    """The certificate that a block stands on is not verified."""

    def _learn_proposal(self, proposal: Proposal, peer: PeerId) -> Refusal | None:
        if super()._learn_proposal(proposal, peer) is not None and proposal.entry_proof is not None:
            return self._learn(proposal.epoch, (proposal.entry_proof,), peer)
        return None


class NotarizesTwice(SimplexEngine):
    """Notarizes every block of a view."""

    _notarized: bytes = b""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        self._guard = GrantsAll()
        self._first_proposals = TakesAll()
        return super().start(recovered, now)

    def _try_notarize(self) -> None:
        entry = self._candidate
        if entry is not None and entry.block.id != self._notarized:
            self._notarize_view = min(self._notarize_view, self._view - 1)
            super()._try_notarize()
            if self._notarize_view == self._view:
                self._notarized = entry.block.id


class _CommitsNotarized(Simplex):
    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return tree.get(certificate.block_id)


class CommitsNotarized(SimplexEngine):
    """A notarization commits."""

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        super().__init__(spec=spec, epoch=epoch, scheme=scheme, me=me)
        self._blocks._rule = _CommitsNotarized()

    def _adopt(self, certificate: Certificate) -> None:
        super()._adopt(certificate)
        if certificate.kind == NOTARIZE:
            proof = CommitProof(epoch=self._epoch.epoch, headers=(), certificate=certificate)
            self._blocks.aim(certificate.block_id, certificate.height, proof)


class NullifiesAfterFinalize(SimplexEngine):
    """Nullifies the view before together with its own, though it finalized that."""

    def _nullify(self) -> None:
        if self._finalize_view == self._view - 1 > 0:
            self._vote(NULLIFY, self._view - 1, NIL_BLOCK, 0, 0)
        super()._nullify()


# --- restarts ----------------------------------------------------------------------------------------------------


class _Forgets(SimplexEngine):
    """A restart forgets something of each record."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        return super().start(forgetting(recovered, self.forget), now)

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        """What is left of a record."""
        return record


class ForgetsCertificates(_Forgets):
    """A restart forgets every certificate that is not a commit's proof, or named by the last proposal."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        held = msgspec.msgpack.decode(record.state, type=SafetyState)
        named = held.nullifications[-1:] if record.kind == PROPOSAL else ()
        state = SafetyState(high_qc=self._epoch.genesis, nullifications=named, let_go_from=0, let_go_to=0)
        return msgspec.structs.replace(record, state=encode(state))


class ForgetsNullify(_Forgets):
    """A restart forgets which view was nullified last."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == NULLIFY else record


class ForgetsFinalize(_Forgets):
    """A restart forgets which view was finalized last, and the notarization with it."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == FINALIZE else record


class ForgetsNotarize(_Forgets):
    """A restart forgets the last notarize."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == NOTARIZE else record


class ForgetsProposal(_Forgets):
    """A restart forgets the last proposal."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == PROPOSAL else record


# --- liveness ----------------------------------------------------------------------------------------------------


class NeverAsks(SimplexEngine):
    """Never asks for a missing nullification."""

    def _fetch_certificates(self) -> None:
        pass


class SaysItOnce(SimplexEngine):
    """Nullifies once and then waits."""

    def _repeat(self) -> None:
        pass


class StopsVoting(SimplexEngine):
    """Never notarizes again after its first nullify."""

    def _try_notarize(self) -> None:
        if self._nullify_view == 0:
            super()._try_notarize()


def _row(identity: str, change: str, engine: type[SimplexEngine], scenario: str = "swarm") -> Mutant:
    return Mutant(id=identity, change=change, definition=simplex(NAME, engine), scenario=scenario)


BROKEN: Final = (
    _row("S1", "quorum is F+1", WeakQuorum),
    _row("S2", "notarizes twice in one view", NotarizesTwice),
    _row("S5", "commits what is notarized", CommitsNotarized),
    _row("X1", "finalizes what it nullified", FinalizesAfterNullify),
    _row("X2", "no nullification needed over a gap", SkipsFreely),
    _row("X3", "a parent need not be notarized", AnyParent),
    _row("X4", "nullifies what it finalized", NullifiesAfterFinalize),
    _row("R1", "a restart loses the last proposal", ForgetsProposal, "swarm-restarts"),
    _row("R4", "a restart loses the certificates", ForgetsCertificates, "swarm-restarts"),
    _row("R5", "a restart loses the last nullify", ForgetsNullify, "swarm-restarts"),
    _row("R6", "a restart loses the last finalize", ForgetsFinalize, "swarm-restarts"),
    _row("R7", "a restart loses the last notarize", ForgetsNotarize, "swarm-restarts"),
    _row("L2", "never asks for a missing nullification", NeverAsks, "simplex-missing-nullification"),
    _row("L4", "stops notarizing for good after a nullify", StopsVoting, "short-outage"),
    _row("L7", "nullifies once and never again", SaysItOnce, "swarm-healing"),
)
