"""The puppet: an adversary without a core. It sees every message when it is sent, makes certificates from what it saw
and the keys it owns, and acts by the explicit moves of its schedule: blocks on any certified parent, to chosen
recipients; votes, timeouts and certificates to some and not to others.

All puppets of a run share what they know (:class:`~netsim.actors.cabal.Cabal`) and their protocol's craft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec

from consensus.engine import Received
from consensus.epochs import CLOSING_PAYLOAD_ROOT, EpochInfo
from consensus.types import EMPTY_PAYLOAD_ROOT, BlockHeader, Vote
from netsim.actors.cabal import Cabal
from netsim.actors.crafts.craft import Craft
from netsim.actors.crafts.registry import craft_of
from netsim.network import nanoseconds
from netsim.schedule import Actor, Announce, CastVote, GiveUp, Move, Propose
from netsim.world import Host, World


class Puppet:
    """One validator's moves, epoch by epoch."""

    has_core = False

    def __init__(self, spec: Actor) -> None:
        self.moves: dict[int, dict[int, list[Move]]] = {}
        for move in spec.moves:
            begins = move.begins if isinstance(move, Propose) and move.begins is not None else move.view
            self.moves.setdefault(move.epoch, {}).setdefault(begins, []).append(move)

    def attach(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        fellows = [other.player for other in world.hosts if isinstance(other.player, Puppet) and other is not host]
        known = [fellow for fellow in fellows if hasattr(fellow, "ring")]
        self.ring: Ring = known[0].ring if known else Ring(world)
        self.ring.join(self)

    def outgoing(
        self, host: Host, targets: Sequence[Host], message: msgspec.Struct
    ) -> Sequence[tuple[Host, msgspec.Struct, int]]:
        return ()

    def incoming(self, host: Host, event: Received) -> Received | None:
        return None


class Ring:
    """The puppets of one run, and what they know of each epoch."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.puppets: list[Puppet] = []
        self.cabal = Cabal(world, world.committee.epoch)
        self.craft = craft_of(self.cabal)
        world.beginning.append(self.begin)

    def join(self, puppet: Puppet) -> None:
        """One more of them."""
        self.puppets.append(puppet)
        self.play(puppet)

    def begin(self, epoch: EpochInfo) -> None:
        """An epoch after the first begins."""
        self.cabal = Cabal(self.world, epoch)
        self.craft = craft_of(self.cabal)
        for puppet in self.puppets:
            self.play(puppet)

    def play(self, puppet: Puppet) -> None:
        """Let a puppet play its part in the epoch, if it has one."""
        number = self.cabal.epoch.epoch
        seat = self.world.committee.seat(puppet.host.node, number)
        if seat is not None:
            role = Role(self.world, puppet.host, seat, puppet.moves.get(number, {}), self.cabal, self.craft)
            self.cabal.members.append(seat)
            self.cabal.puppets.append(role)


class Role:
    """A puppet in one epoch, where its index is ``index``."""

    def __init__(
        self, world: World, host: Host, index: int, moves: Mapping[int, list[Move]], cabal: Cabal, craft: Craft
    ) -> None:
        self.world = world
        self.host = host
        self.index = index
        self.moves = moves
        self.cabal = cabal
        self.craft = craft

    def enter(self, turn: int) -> None:
        """The turn's moves, but for votes, which wait for blocks."""
        for move in self.moves.get(turn, ()):
            if not isinstance(move, CastVote):
                self.later(move)

    def saw(self, turn: int, choice: int) -> None:
        """The ``choice``-th block of ``turn`` was proposed."""
        for move in self.moves.get(turn, ()):
            if isinstance(move, CastVote) and move.choice == choice:
                self.later(move)

    def certified(self, turn: int) -> None:
        """A block of ``turn`` is certified: votes that travel with its certificate can be cast now."""
        for move in self.moves.get(turn, ()):
            if isinstance(move, CastVote):
                vote = self.vote(move)
                if vote is not None and self.cabal.carried(vote) is not vote:
                    self.later(move)

    def later(self, move: Move) -> None:
        world = self.world
        world.at(world.now + nanoseconds(move.after_ms), lambda: self.act(move))

    def act(self, move: Move) -> None:
        hosts = self.world.hosts
        targets = [hosts[position] for position in move.to if hosts[position] is not self.host]
        for message in self.messages(move):
            for _ in range(move.times if isinstance(move, CastVote) else 1):
                self.world.inject(self.host, targets, message)

    def messages(self, move: Move) -> Sequence[msgspec.Struct]:
        """What a move says."""
        match move:
            case Propose():
                proposal = self.proposal(move)
                return () if proposal is None else (proposal,)
            case CastVote():
                vote = self.vote(move)
                message = None if vote is None else self.cabal.carried(vote)
                return () if message is None else (message,)
            case GiveUp():
                ranked = self.cabal.ranked(move.view)
                return self.craft.give_up(self.index, move, ranked[min(move.high, len(ranked) - 1)])
            case Announce():
                ranked = self.cabal.ranked(2**62)
                return self.craft.announce(self.index, move, ranked[min(move.high, len(ranked) - 1)])
            case _:
                assert_never(move)

    def vote(self, move: CastVote) -> Vote | None:
        there = self.cabal.proposals.get(move.view, [])
        kinds = [kind for kind in self.cabal.definition.votes if kind.blocks]
        if move.choice >= len(there) or move.kind >= len(kinds):
            return None
        return self.cabal.vote(self.index, self.craft.vote(kinds[move.kind].name, there[move.choice]))

    def proposal(self, move: Propose) -> msgspec.Struct | None:
        cabal, epoch, craft = self.cabal, self.cabal.epoch, self.craft
        if epoch.leaders.leader(move.view + cabal.base) != self.index:
            return None
        ranked = cabal.ranked(move.view)
        justify = ranked[min(move.parent, len(ranked) - 1)]
        view = craft.view(move.view, justify)
        entry = None if view is None else craft.entry(view, move.proof, justify)
        if entry is None:  # nothing entitles to that: the highest certificate may need nothing
            justify = ranked[0]
            view = craft.view(move.view, justify)
            entry = None if view is None else craft.entry(view, "none", justify)
            if view is None or entry is None or justify.view != view - 1:
                return None
        assert view is not None
        parent = cabal.headers.get(justify.block_id)
        stamp = epoch.boundary_timestamp_ms if parent is None else parent.timestamp_ms
        closing = self.is_closed(parent)
        following = self.world.committee.sets.get(justify.height + 1)
        header = BlockHeader(
            chain=epoch.chain, epoch=epoch.epoch, view=view, height=justify.height + 1, parent=justify.block_id,
            justify=justify, entry_proof_hash=entry.named,
            payload_root=CLOSING_PAYLOAD_ROOT if closing else EMPTY_PAYLOAD_ROOT, payload_size=0,
            next_validators_hash=b"" if closing or following is None else following.hash,
            timestamp_ms=stamp + 1 + move.variant, proposer=self.index,
        )  # fmt: skip
        return craft.proposal(self.index, view, header, entry)

    def is_closed(self, header: BlockHeader | None) -> bool:
        """Whether the epoch's boundary is that block or below it: what stands on it is empty."""
        while header is not None:
            if header.next_validators_hash:
                return True
            header = self.cabal.headers.get(header.parent)
        return False
