"""The own messages of a replica of the HotStuff family: who gets them, and which of them are said again."""

from __future__ import annotations

from consensus.engine import Broadcast, Send, StepBuilder
from consensus.epochs import EpochInfo
from consensus.protocols.chained_types import Certificates, OrderVote, Proposal, Timeout
from consensus.types import PeerId, ValidatorIndex, View, Vote


class Outbox:
    """Remembers the last message of each kind. Adds to the step that ``out`` collects. Votes go to everybody while
    ``broadcast_votes``, else to the next leader."""

    __slots__ = ("_epoch", "_me", "_out", "broadcast_votes", "order_vote", "proposal", "timeout", "vote")

    def __init__(self, epoch: EpochInfo, out: StepBuilder, me: ValidatorIndex | None, *, broadcast_votes: bool) -> None:
        self._epoch = epoch
        self._out = out
        self._me = me
        self.broadcast_votes = broadcast_votes
        self.proposal: Proposal | None = None
        self.vote: Vote | None = None
        self.timeout: Timeout | None = None
        self.order_vote: OrderVote | None = None

    def send_proposal(self, proposal: Proposal) -> None:
        self.proposal = proposal
        self._out.effects.append(Broadcast(proposal))

    def send_vote(self, vote: Vote) -> None:
        self.vote = vote
        if self.broadcast_votes:
            self._out.effects.append(Broadcast(vote))
            return
        collector = self._collector(vote)
        if collector != self._me:
            self._out.effects.append(Send(self._epoch.validators.peer_of(collector), vote))

    def send_timeout(self, timeout: Timeout) -> None:
        self.timeout = timeout
        self._out.effects.append(Broadcast(timeout))

    def send_order_vote(self, vote: OrderVote) -> None:
        self.order_vote = vote
        self._out.effects.append(Broadcast(vote))

    def collects(self, vote: Vote) -> bool:
        """True when the own vote counts here."""
        return self.broadcast_votes or self._collector(vote) == self._me

    def repeat(self, view: View) -> None:
        """Say again what ``view``, given up before, may still lack."""
        if self.timeout is not None and self.timeout.view == view:
            self._out.effects.append(Broadcast(self.timeout))
        if self.vote is not None:
            self.send_vote(self.vote)

    def greet(self, peer: PeerId, view: View, certificates: Certificates) -> None:
        """Bring a peer up to date, and send it again what the current ``view`` waits for: it was not connected when
        that was broadcast, as nobody is at a restart."""
        if view > 1:
            self._out.effects.append(Send(peer, certificates))
        proposal, vote, timeout, order_vote = self.proposal, self.vote, self.timeout, self.order_vote
        if order_vote is not None and order_vote.qc.view == view - 1:
            self._out.effects.append(Send(peer, order_vote))
        if proposal is not None and proposal.header.view == view:
            self._out.effects.append(Send(peer, proposal))
        if vote is not None and vote.view == view and self._is_collector(peer, vote):
            self._out.effects.append(Send(peer, vote))
        if timeout is not None and timeout.view == view:
            self._out.effects.append(Send(peer, timeout))

    def _is_collector(self, peer: PeerId, vote: Vote) -> bool:
        return self.broadcast_votes or peer == self._epoch.validators.peer_of(self._collector(vote))

    def _collector(self, vote: Vote) -> ValidatorIndex:
        return self._epoch.leaders.leader(vote.view + 1)
