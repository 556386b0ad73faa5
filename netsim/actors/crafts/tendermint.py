"""The craft of Tendermint: new blocks where a valid value is due, old values with the prevotes of a round of one's
choice, votes for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.protocols.tendermint_types import (
    PREVOTE,
    Proposal,
    Standing,
    height_of,
    turn_of,
    view_at,
)
from consensus.types import NIL_BLOCK, BlockHeader, Certificate, ProposalSubject, View, VoteSubject
from netsim.actors.cabal import Cabal, Seen, digest
from netsim.actors.crafts.craft import Entry, nil_votes, vote_for
from netsim.schedule import Announce, GiveUp


class TendermintCraft:
    """A turn is a height and a round; the certificate that a block stands on says the height."""

    def __init__(self, cabal: Cabal) -> None:
        self.epoch = cabal.epoch.epoch
        self.cabal = cabal

    def view(self, turn: int, justify: Certificate) -> View | None:
        height, turn = justify.height + 1, turn + self.cabal.base
        return view_at(height, turn - height) if turn >= height else None

    def entry(self, view: View, style: str, justify: Certificate) -> Entry | None:
        """The quorum of prevotes that a value is proposed again with: the latest (``honest``), the first (``lowest``),
        or one of the round before that never was (``forged``); none for a new block."""
        polkas = [self.forged(view)] if style == "forged" else self.polkas(view)
        if style == "none" or not polkas or polkas[0] is None:
            return Entry(None, b"")
        return Entry(polkas[-1] if style == "honest" else polkas[0], b"")

    def polkas(self, view: View) -> list[Certificate]:
        """Quorums of prevotes of earlier rounds of the height, by round."""
        return sorted(
            (
                certificate
                for (kind, known, block_id), certificate in self.cabal.quorums.items()
                if kind == PREVOTE and known < view and height_of(known) == height_of(view)
                and block_id != NIL_BLOCK and block_id in self.cabal.headers
            ),
            key=lambda certificate: certificate.view,
        )  # fmt: skip

    def forged(self, view: View) -> Certificate | None:
        """Prevotes that nobody cast for the first block of the height that anybody proposed in an earlier round."""
        for block_id, header in self.cabal.headers.items():
            if height_of(header.view) == height_of(view) and header.view < view:
                return Certificate(
                    kind=PREVOTE, epoch=self.epoch, view=view - 1, block_id=block_id, height=header.height,
                    justify_view=header.justify.view, signers=b"\x07", signature=bytes(32),
                )  # fmt: skip
        return None

    def proposal(self, member: int, view: View, header: BlockHeader, entry: Entry) -> msgspec.Struct:
        polka = entry.proof if isinstance(entry.proof, Certificate) else None
        if polka is not None:
            header = self.cabal.headers[polka.block_id]
        subject = ProposalSubject(epoch=self.epoch, view=view, block_id=digest(header))
        return Proposal(
            epoch=self.epoch,
            view=view,
            header=header,
            body=memoryview(b""),
            polka=polka,
            proposer=member,
            signature=self.cabal.world.committee.sign(member, subject),
        )

    def vote(self, kind: str, seen: Seen) -> VoteSubject:
        """A prevote signs the round of the prevotes that the proposal came with."""
        polka = getattr(seen.message, "polka", None)
        subject = vote_for(kind, seen)
        if kind == PREVOTE and isinstance(polka, Certificate):
            return msgspec.structs.replace(subject, justify_view=polka.view)
        return subject

    def give_up(self, member: int, move: GiveUp, chosen: Certificate) -> Sequence[msgspec.Struct]:
        view = self.view(move.view, chosen)
        return (
            () if view is None or turn_of(view) != move.view + self.cabal.base else nil_votes(self.cabal, member, view)
        )

    def announce(self, member: int, move: Announce, chosen: Certificate) -> Sequence[msgspec.Struct]:
        view = self.view(move.view, chosen)
        polkas = [] if view is None else self.polkas(view)
        return (Standing(epoch=self.epoch, commit=chosen, polka=polkas[-1] if polkas else None, votes=()),)
