"""The own messages of a replica of Tendermint: which of them are said again, when, and to whom. And its timers."""

from __future__ import annotations

from typing import Final

from consensus.engine import Broadcast, CancelTimer, Send, SetTimer, StepBuilder
from consensus.protocols.tendermint_types import Proposal, Standing, height_of
from consensus.types import Height, Nanoseconds, PeerId, View, Vote

PROPOSE_TIMER: Final = "propose"
PREVOTE_TIMER: Final = "prevote"
PRECOMMIT_TIMER: Final = "precommit"
AGAIN_TIMER: Final = "again"


class Outbox:
    """Remembers the last message of each kind. Adds to the step that ``out`` collects. A peer that is behind is helped
    once in ``help_interval_ns``."""

    __slots__ = ("_help_interval_ns", "_helped", "_out", "_proposal", "_votes")

    def __init__(self, out: StepBuilder, help_interval_ns: Nanoseconds) -> None:
        self._out = out
        self._help_interval_ns = help_interval_ns
        self._proposal: Proposal | None = None
        self._votes: dict[str, Vote] = {}
        self._helped: dict[PeerId, Nanoseconds] = {}

    def send_proposal(self, proposal: Proposal) -> None:
        self._proposal = proposal
        self._out.effects.append(Broadcast(proposal))

    def send_vote(self, vote: Vote) -> None:
        self._votes[vote.kind] = vote
        self._out.effects.append(Broadcast(vote))

    def _votes_of(self, height: Height) -> tuple[Vote, ...]:
        return tuple(vote for vote in self._votes.values() if height_of(vote.view) == height)

    def repeat(self, height: Height, standing: Standing) -> None:
        """Say again what others may wait for at this height."""
        self._out.effects += [Broadcast(vote) for vote in self._votes_of(height)]
        self._out.effects.append(Broadcast(standing))

    def greet(self, peer: PeerId, view: View, standing: Standing) -> None:
        """Bring a peer up to date, and send it what ``view`` waits for: it was not connected when that was broadcast,
        as nobody is at a restart."""
        self._out.effects.append(Send(peer, standing))
        if self._proposal is not None and self._proposal.view == view:
            self._out.effects.append(Send(peer, self._proposal))
        self._out.effects += [Send(peer, vote) for vote in self._votes_of(height_of(view))]

    def may_help(self, peer: PeerId, now: Nanoseconds) -> bool:
        """True when the peer, which is behind, was not helped a moment ago; counts as help."""
        last = self._helped.get(peer)
        if last is not None and now < last + self._help_interval_ns:
            return False
        self._helped[peer] = now
        return True


class Timers:
    """Which timers are set, and until when. Adds to the step that ``out`` collects."""

    __slots__ = ("_deadlines", "_out")

    def __init__(self, out: StepBuilder) -> None:
        self._out = out
        self._deadlines: dict[str, Nanoseconds] = {}

    def set(self, name: str, deadline_ns: Nanoseconds) -> None:
        self._deadlines[name] = deadline_ns
        self._out.effects.append(SetTimer(name, deadline_ns))

    def cancel(self, *names: str) -> None:
        for name in names:
            if self._deadlines.pop(name, None) is not None:
                self._out.effects.append(CancelTimer(name))

    def is_set(self, name: str) -> bool:
        return name in self._deadlines

    def fired(self, name: str, now: Nanoseconds) -> bool:
        """True when this timer is due, and no more set then. False for none of ours, and for one that was set anew
        while it was on its way."""
        deadline_ns = self._deadlines.get(name)
        if deadline_ns is None:
            return False
        if now < deadline_ns:
            self._out.effects.append(SetTimer(name, deadline_ns))
            return False
        del self._deadlines[name]
        return True
