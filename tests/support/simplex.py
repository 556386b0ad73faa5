"""Simplex blocks, votes and certificates, so that a rule's test reads as its block tree.

::

    chain = SimplexChain(committee(protocol="simplex"))
    b1 = chain.block(1)
    b4 = chain.block(4, on=b1)                  # views 2 and 3 were nullified; the proposal shows that of 3
    told(alone, chain.nullification(2))         # what the voter must hold besides

Everything is signed with the committee's own keys and built without the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.codec import block_of, digest
from consensus.protocols.simplex_types import FINALIZE, NOTARIZE, NULLIFY, Certificates, Proposal
from consensus.types import (
    NIL_BLOCK,
    Block,
    BlockHeader,
    Certificate,
    ProposalSubject,
    Vote,
    VoteSubject,
    bitmap_of,
    vote_of,
)
from tests.support.chain import Alone, Happened
from tests.support.cluster import root_of
from tests.support.committee import Committee


class SimplexChain:
    """Makes the blocks and signed values of one committee. Remembers bodies, and nullifications by what names
    them."""

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.epoch = committee.epoch
        self.genesis = committee.epoch.genesis
        self._bodies: dict[bytes, bytes] = {}
        self._proofs: dict[bytes, Certificate] = {}

    def block(
        self,
        view: int,
        on: Block | Certificate | None = None,
        *,
        body: bytes = b"",
        timestamp_ms: int | None = None,
    ) -> Block:
        """The leader's block of ``view``, on a block's notarization, on a given certificate, or on genesis; over a gap,
        with the nullification of the view before."""
        justify = self.genesis if on is None else self.notarization(on) if isinstance(on, Block) else on
        proof = None if justify.view == view - 1 else self.nullification(view - 1)
        if proof is not None:
            self._proofs[digest(proof)] = proof
        block = block_of(
            BlockHeader(
                chain=self.epoch.chain,
                epoch=self.epoch.epoch,
                view=view,
                height=justify.height + 1,
                parent=justify.block_id,
                justify=justify,
                entry_proof_hash=b"" if proof is None else digest(proof),
                payload_root=root_of(body),
                payload_size=len(body),
                next_validators_hash=b"",
                timestamp_ms=1_000 + view if timestamp_ms is None else timestamp_ms,
                proposer=self.epoch.leaders.leader(view),
            )
        )
        self._bodies[block.id] = body
        return block

    def like(self, block: Block, **changes: object) -> Block:
        """The same block with some fields of its header changed."""
        changed = block_of(msgspec.structs.replace(block.header, **changes))
        self._bodies[changed.id] = self._bodies[block.id]
        return changed

    def body(self, block: Block) -> memoryview:
        return memoryview(self._bodies[block.id])

    def proposal(self, block: Block, *, signer: int | None = None) -> Proposal:
        header = block.header
        subject = ProposalSubject(epoch=header.epoch, view=header.view, block_id=block.id)
        return Proposal(
            epoch=header.epoch,
            header=header,
            body=self.body(block),
            entry_proof=self._proofs.get(header.entry_proof_hash),
            signature=self.committee.sign(header.proposer if signer is None else signer, subject),
        )

    # --- votes and certificates ---------------------------------------------------------------------------------

    def subject(self, kind: str, of: Block | int) -> VoteSubject:
        """What is signed by a vote of ``kind`` for a block, or for no block in a view."""
        if isinstance(of, int):
            return VoteSubject(kind=kind, epoch=self.epoch.epoch, view=of, block_id=NIL_BLOCK, height=0, justify_view=0)
        header = of.header
        return VoteSubject(
            kind=kind,
            epoch=self.epoch.epoch,
            view=header.view,
            block_id=of.id,
            height=header.height,
            justify_view=header.justify.view,
        )

    def notarize(self, block: Block, signer: int) -> Vote:
        return self._vote(self.subject(NOTARIZE, block), signer)

    def finalize(self, block: Block, signer: int) -> Vote:
        return self._vote(self.subject(FINALIZE, block), signer)

    def nullify(self, view: int, signer: int) -> Vote:
        return self._vote(self.subject(NULLIFY, view), signer)

    def notarization(self, block: Block, signers: Sequence[int] = (0, 1, 2)) -> Certificate:
        return self.certificate(self.subject(NOTARIZE, block), signers)

    def finalization(self, block: Block, signers: Sequence[int] = (0, 1, 2)) -> Certificate:
        return self.certificate(self.subject(FINALIZE, block), signers)

    def nullification(self, view: int, signers: Sequence[int] = (0, 1, 2)) -> Certificate:
        return self.certificate(self.subject(NULLIFY, view), signers)

    def certificate(self, subject: VoteSubject, signers: Sequence[int]) -> Certificate:
        """A certificate of ``signers``, a quorum or not."""
        ordered = tuple(sorted(signers))
        aggregate = self.committee.scheme.aggregate([self.committee.sign(signer, subject) for signer in ordered])
        assert aggregate is not None
        return Certificate(
            kind=subject.kind,
            epoch=subject.epoch,
            view=subject.view,
            block_id=subject.block_id,
            height=subject.height,
            justify_view=subject.justify_view,
            signers=bitmap_of(ordered),
            signature=aggregate,
        )

    def _vote(self, subject: VoteSubject, signer: int) -> Vote:
        return vote_of(subject, signer, self.committee.sign(signer, subject))


def proposed(chain: SimplexChain, alone: Alone, *blocks: Block) -> Happened:
    """The replica hears each block from its leader; what the last one caused."""
    happened = Happened()
    for block in blocks:
        happened = alone.hear(chain.proposal(block), peer=block.header.proposer)
    return happened


def told(alone: Alone, *certificates: Certificate, peer: int = 1) -> Happened:
    """The replica hears certificates from a peer."""
    return alone.hear(Certificates(epoch=alone.committee.epoch.epoch, certificates=certificates), peer=peer)
