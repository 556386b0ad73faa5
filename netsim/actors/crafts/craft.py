"""What a craft does, and a craft for protocols of which nobody wrote one: votes of every kind that they declare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from consensus.types import NIL_BLOCK, BlockHeader, Certificate, View, VoteSubject
from netsim.actors.cabal import Cabal, Seen
from netsim.schedule import Announce, GiveUp


class Entry(NamedTuple):
    """What entitles a block to its view: the proof as the proposal carries it, and what the header names of it."""

    proof: msgspec.Struct | None
    named: bytes


class Craft(Protocol):
    """Turns a puppet's moves into messages of one family of protocols. ``None`` or nothing where it cannot."""

    def view(self, turn: int, justify: Certificate) -> View | None:
        """The view of a block that is made in ``turn`` on ``justify``."""
        ...

    def entry(self, view: View, style: str, justify: Certificate) -> Entry | None:
        """What entitles a block on ``justify`` to ``view``, in the style of ``Propose.proof``."""
        ...

    def proposal(self, member: int, view: View, header: BlockHeader, entry: Entry) -> msgspec.Struct | None: ...

    def vote(self, kind: str, seen: Seen) -> VoteSubject:
        """What a vote of that kind for that block signs."""
        ...

    def give_up(self, member: int, move: GiveUp, chosen: Certificate) -> Sequence[msgspec.Struct]: ...

    def announce(self, member: int, move: Announce, chosen: Certificate) -> Sequence[msgspec.Struct]: ...


CraftFactory = Callable[[Cabal], Craft]


def vote_for(kind: str, seen: Seen) -> VoteSubject:
    """A vote for a block in its own view."""
    header = seen.header
    return VoteSubject(
        kind=kind, epoch=header.epoch, view=seen.view, block_id=seen.block_id, height=header.height,
        justify_view=header.justify.view,
    )  # fmt: skip


def nil_votes(cabal: Cabal, member: int, view: View) -> list[msgspec.Struct]:
    """A vote for no block of every kind that may be one."""
    return [
        cabal.vote(
            member,
            VoteSubject(
                kind=kind.name, epoch=cabal.epoch.epoch, view=view, block_id=NIL_BLOCK, height=0, justify_view=0
            ),
        )
        for kind in cabal.definition.votes
        if kind.nil
    ]


class Voter:
    """Knows the protocol's votes alone: proposes nothing."""

    def __init__(self, cabal: Cabal) -> None:
        self.cabal = cabal

    def view(self, turn: int, justify: Certificate) -> View | None:
        return None

    def entry(self, view: View, style: str, justify: Certificate) -> Entry | None:
        return None

    def proposal(self, member: int, view: View, header: BlockHeader, entry: Entry) -> msgspec.Struct | None:
        return None

    def vote(self, kind: str, seen: Seen) -> VoteSubject:
        return vote_for(kind, seen)

    def give_up(self, member: int, move: GiveUp, chosen: Certificate) -> Sequence[msgspec.Struct]:
        return nil_votes(self.cabal, member, move.view)

    def announce(self, member: int, move: Announce, chosen: Certificate) -> Sequence[msgspec.Struct]:
        return ()
