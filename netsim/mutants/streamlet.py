"""Broken Streamlets. Each class changes one thing of its parent."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from consensus.codec import encode
from consensus.crypto.scheme import Scheme
from consensus.engine import FetchBlocks, Recovered, SafetyRecord, Step
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.proposal_checks import FirstProposals
from consensus.protocols.streamlet import StreamletEngine
from consensus.protocols.streamlet_definition import streamlet
from consensus.protocols.streamlet_finality import Finality
from consensus.protocols.streamlet_types import Proposal, SafetyState
from consensus.safety import Forbidden, Granted, SafetyGuard
from consensus.types import BlockHeader, Certificate, Nanoseconds, Subject, ValidatorIndex
from netsim.mutants.engines import weak_quorum
from netsim.mutants.mutant import Mutant
from netsim.mutants.parts import GrantsAll, TakesAll, changed, forgetting


class ComparesViews(StreamletEngine):
    """The longest chain is the one whose last block has the highest view."""

    def _is_longer(self, certificate: Certificate) -> bool:
        return certificate.view > self._longest.view

    def _may_vote(self, header: BlockHeader) -> bool:
        return header.justify.view >= self._longest.view


class WeakQuorum(StreamletEngine):
    """The quorum is F+1."""

    def __init__(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> None:
        spec, epoch = weak_quorum(spec, epoch)
        super().__init__(spec=spec, epoch=epoch, scheme=scheme, me=me)


class VotesTwice(StreamletEngine):
    """Votes for every block of a view."""

    _voted_for: bytes = b""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        self._guard = GrantsAll()
        self._first_proposals = TakesAll()
        return super().start(recovered, now)

    def _try_vote(self) -> None:
        candidate = self._candidate()
        if candidate is not None and candidate.block.id != self._voted_for:
            held, self._last_voted_view = self._last_voted_view, min(self._last_voted_view, self._view - 1)
            super()._try_vote()
            if self._last_voted_view == self._view:
                self._voted_for = candidate.block.id
            self._last_voted_view = max(held, self._last_voted_view)


class AnyNotarizedParent(StreamletEngine):
    """Votes for a block on any notarized chain, long or short."""

    def _may_vote(self, header: BlockHeader) -> bool:
        return True


class _OneIsEnough(Finality):
    def finalizes(self, second: BlockHeader, third: BlockHeader) -> bool:
        return True


class _TwoAreEnough(Finality):
    def finalizes(self, second: BlockHeader, third: BlockHeader) -> bool:
        return second.view + 1 == third.view


class _LastMayWait(Finality):
    def finalizes(self, second: BlockHeader, third: BlockHeader) -> bool:
        return second.justify.view + 1 == second.view


class CommitsAnyThree(StreamletEngine):
    """Three adjacent notarized blocks of any views finalize the second."""

    _finality: ClassVar[Finality] = _OneIsEnough()


class CommitsTwo(StreamletEngine):
    """Two adjacent notarized blocks of consecutive views finalize the first of them."""

    _finality: ClassVar[Finality] = _TwoAreEnough()


class LastMayWait(StreamletEngine):
    """The third of the three may come any number of views later."""

    _finality: ClassVar[Finality] = _LastMayWait()


class NoFetch(StreamletEngine):
    """Never asks for a missing block."""

    def _finish(self) -> Step:
        records, effects = super()._finish()
        return Step(records, tuple(effect for effect in effects if not isinstance(effect, FetchBlocks)))


class SaysItOnce(StreamletEngine):
    """Says that a view is due once: who did not hear it then never will."""

    def _on_view_timer(self) -> None:
        if self._me is None or self._due <= self._view:
            super()._on_view_timer()
        else:
            self._arm()


class RunsAhead(StreamletEngine):
    """Its own clock alone ends a view, as if clocks were shared."""

    def _on_view_timer(self) -> None:
        super()._on_view_timer()
        self._enter(self._view + 1)


class _Forgets(StreamletEngine):
    """A restart forgets something of each record."""

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        return super().start(forgetting(recovered, self.forget), now)

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        """What is left of a record."""
        return record


class ForgetsVotedView(_Forgets):
    """A restart forgets the last vote and its view."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == "vote" else changed(record, SafetyState, last_voted_view=0)


class ForgetsVotedHeight(_Forgets):
    """A restart forgets the height of the last vote and the chain that it stood on."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return changed(record, SafetyState, last_voted_height=0, longest=self._epoch.genesis)


class ForgetsAll(_Forgets):
    """A restart forgets everything that was signed."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None


class ForgetsProposal(_Forgets):
    """A restart forgets the last proposal."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        return None if record.kind == "proposal" else record


def _row(identity: str, change: str, engine: type[StreamletEngine], scenario: str = "swarm") -> Mutant:
    return Mutant(id=identity, change=change, definition=streamlet(engine), scenario=scenario)


BROKEN: Final = (
    _row("D2", "compares views instead of heights", ComparesViews, "streamlet-views-for-heights"),
    _row("S1", "quorum is F+1", WeakQuorum),
    _row("S2", "votes twice in one view", VotesTwice),
    _row("S4", "votes on any notarized parent, not the longest", AnyNotarizedParent),
    _row("S8", "any three adjacent notarized blocks finalize", CommitsAnyThree),
    _row("T1", "two adjacent notarized blocks finalize", CommitsTwo),
    _row("T2", "the last of the three may come later", LastMayWait),
    _row("S9", "a restart forgets the voted view", ForgetsVotedView, "swarm-restarts"),
    _row("S10", "a restart forgets the voted height", ForgetsVotedHeight, "swarm-restarts"),
    _row("S11", "a restart forgets all", ForgetsAll, "swarm-restarts"),
    _row("R1", "a restart loses the last proposal", ForgetsProposal, "swarm-restarts"),
    _row("L2", "a lagging node cannot fetch", NoFetch, "lagging"),
    _row("L7", "says once that a view is due", SaysItOnce, "swarm-healing"),
    _row("L5", "its own clock alone ends a view", RunsAhead, "streamlet-clocks-apart"),
)
