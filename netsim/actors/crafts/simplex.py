"""The craft of Simplex: blocks that skip what it can show to be nullified, blocks on parents that nobody notarized, and
nullifies that are told to some."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.protocols.simplex_types import NOTARIZE, NULLIFY, Certificates, Proposal
from consensus.types import NIL_BLOCK, BlockHeader, Certificate, ProposalSubject, View, VoteSubject
from netsim.actors.cabal import Cabal, Seen, digest
from netsim.actors.crafts.craft import Entry, nil_votes, vote_for
from netsim.schedule import Announce, GiveUp


class SimplexCraft:
    """The styles of a proof: ``honest`` and ``lowest`` show the nullification of the view before; ``forged`` stands on
    a block of the view before that has no quorum, with signatures that it never had; ``none`` shows nothing."""

    def __init__(self, cabal: Cabal) -> None:
        self.epoch = cabal.epoch.epoch
        self.cabal = cabal
        self.sign = cabal.world.committee.sign

    def view(self, turn: int, justify: Certificate) -> View | None:
        return turn if turn > justify.view else None

    def entry(self, view: View, style: str, justify: Certificate) -> Entry | None:
        if style == "forged":
            forged = self.forged(view - 1)
            if forged is not None:
                return Entry(forged, b"")
        if justify.view == view - 1 or style == "none":
            return Entry(None, b"")
        proof = self.nullification(view - 1)
        return None if proof is None else Entry(proof, digest(proof))

    def nullification(self, view: View) -> Certificate | None:
        """What it can show of a nullified view."""
        return self.cabal.quorums.get((NULLIFY, view, NIL_BLOCK))

    def forged(self, view: View) -> Certificate | None:
        """A notarization, false, of a block of ``view`` that has none."""
        for block_id, header, _, _ in self.cabal.proposals.get(view, ()):
            if block_id not in self.cabal.grounds:
                return Certificate(
                    kind=NOTARIZE, epoch=self.epoch, view=header.view, block_id=block_id, height=header.height,
                    justify_view=header.justify.view, signers=b"\x07", signature=bytes(32),
                )  # fmt: skip
        return None

    def proposal(self, member: int, view: View, header: BlockHeader, entry: Entry) -> msgspec.Struct:
        proof = entry.proof if isinstance(entry.proof, Certificate) else None
        if proof is not None and proof.kind == NOTARIZE:
            header = msgspec.structs.replace(header, justify=proof, parent=proof.block_id, height=proof.height + 1)
            stamp = self.cabal.headers[proof.block_id].timestamp_ms
            header = msgspec.structs.replace(header, timestamp_ms=max(header.timestamp_ms, stamp + 1))
            proof = None
        subject = ProposalSubject(epoch=self.epoch, view=view, block_id=digest(header))
        signature = self.sign(member, subject)
        return Proposal(epoch=self.epoch, header=header, body=memoryview(b""), entry_proof=proof, signature=signature)

    def vote(self, kind: str, seen: Seen) -> VoteSubject:
        return vote_for(kind, seen)

    def give_up(self, member: int, move: GiveUp, chosen: Certificate) -> Sequence[msgspec.Struct]:
        return nil_votes(self.cabal, member, move.view)

    def announce(self, member: int, move: Announce, chosen: Certificate) -> Sequence[msgspec.Struct]:
        nullification = self.nullification(move.view)
        shown = [certificate for certificate in (chosen, nullification) if certificate is not None and certificate.view]
        return (Certificates(epoch=self.epoch, certificates=tuple(shown)),) if shown else ()
