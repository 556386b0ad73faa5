"""The craft of Streamlet: blocks need no proof of entry; who gives a view up says that the next is due."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.protocols.streamlet_types import Certificates, Clock, Proposal
from consensus.types import BlockHeader, Certificate, ProposalSubject, View, VoteSubject
from netsim.actors.cabal import Cabal, Seen, digest
from netsim.actors.crafts.craft import Entry, vote_for
from netsim.schedule import Announce, GiveUp


class StreamletCraft:
    """Blocks on any certificate, clocks that lie, certificates shown when it hurts."""

    def __init__(self, cabal: Cabal) -> None:
        self.epoch = cabal.epoch.epoch
        self.sign = cabal.world.committee.sign

    def view(self, turn: int, justify: Certificate) -> View | None:
        return turn if turn > justify.view else None

    def entry(self, view: View, style: str, justify: Certificate) -> Entry | None:
        return Entry(None, b"")

    def proposal(self, member: int, view: View, header: BlockHeader, entry: Entry) -> msgspec.Struct:
        subject = ProposalSubject(epoch=self.epoch, view=view, block_id=digest(header))
        return Proposal(epoch=self.epoch, header=header, body=memoryview(b""), signature=self.sign(member, subject))

    def vote(self, kind: str, seen: Seen) -> VoteSubject:
        return vote_for(kind, seen)

    def give_up(self, member: int, move: GiveUp, chosen: Certificate) -> Sequence[msgspec.Struct]:
        return (Clock(epoch=self.epoch, view=move.view + 1),)

    def announce(self, member: int, move: Announce, chosen: Certificate) -> Sequence[msgspec.Struct]:
        return (Certificates(epoch=self.epoch, longest=chosen),)
