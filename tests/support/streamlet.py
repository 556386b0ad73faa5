"""Streamlet's blocks, votes and certificates, made without the code under test, and its replica fed by hand.

::

    notary = Notary(committee(4, protocol="streamlet"))
    b1 = notary.block(1)
    b3 = notary.block(3, on=b1)
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.codec import block_of, encode
from consensus.engine import SafetyRecord
from consensus.protocols.streamlet_types import Certificates, Clock, Proposal, SafetyState
from consensus.types import (
    Block,
    BlockHeader,
    Certificate,
    ProposalSubject,
    Vote,
    VoteSubject,
    bitmap_of,
)
from tests.support.chain import Alone, Happened
from tests.support.cluster import root_of
from tests.support.committee import Committee


class Notary:
    """Makes the blocks and signed values of one committee of equal stakes."""

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.epoch = committee.epoch
        self.genesis = committee.epoch.genesis
        self.quorum = committee.epoch.validators.quorum
        self._bodies: dict[bytes, bytes] = {}

    def block(
        self, view: int, on: Block | Certificate | None = None, *, body: bytes = b"", timestamp_ms: int | None = None
    ) -> Block:
        """The leader's block of ``view`` on a block's certificate, on a given one, or on genesis."""
        justify = self.genesis if on is None else self.certificate(on) if isinstance(on, Block) else on
        block = block_of(
            BlockHeader(
                chain=self.epoch.chain,
                epoch=self.epoch.epoch,
                view=view,
                height=justify.height + 1,
                parent=justify.block_id,
                justify=justify,
                entry_proof_hash=b"",
                payload_root=root_of(body),
                payload_size=len(body),
                next_validators_hash=b"",
                timestamp_ms=1_000 + view if timestamp_ms is None else timestamp_ms,
                proposer=self.epoch.leaders.leader(view),
            )
        )
        self._bodies[block.id] = body
        return block

    def chain(self, *views: int, on: Block | None = None) -> list[Block]:
        """One block in each view, each on the one before."""
        blocks: list[Block] = []
        for view in views:
            blocks.append(self.block(view, blocks[-1] if blocks else on))
        return blocks

    def like(self, block: Block, **changes: object) -> Block:
        """The same block with some fields of its header changed."""
        changed = block_of(msgspec.structs.replace(block.header, **changes))
        self._bodies[changed.id] = self._bodies[block.id]
        return changed

    def body(self, block: Block) -> memoryview:
        return memoryview(self._bodies[block.id])

    def proposal(self, block: Block, *, signer: int | None = None, body: bytes | None = None) -> Proposal:
        header = block.header
        subject = ProposalSubject(epoch=header.epoch, view=header.view, block_id=block.id)
        return Proposal(
            epoch=header.epoch,
            header=header,
            body=self.body(block) if body is None else memoryview(body),
            signature=self.committee.sign(header.proposer if signer is None else signer, subject),
        )

    def vote_subject(self, block: Block) -> VoteSubject:
        header = block.header
        return VoteSubject(
            kind="vote",
            epoch=self.epoch.epoch,
            view=header.view,
            block_id=block.id,
            height=header.height,
            justify_view=header.justify.view,
        )

    def vote(self, block: Block, signer: int) -> Vote:
        subject = self.vote_subject(block)
        fields = {name: getattr(subject, name) for name in subject.__struct_fields__}
        return Vote(**fields, signer=signer, signature=self.committee.sign(signer, subject))

    def certificate(self, block: Block, signers: Sequence[int] | None = None) -> Certificate:
        """By the first validators that are a quorum, or by ``signers``."""
        subject = self.vote_subject(block)
        chosen = tuple(range(self.quorum)) if signers is None else tuple(signers)
        aggregate = self.committee.scheme.aggregate([self.committee.sign(signer, subject) for signer in chosen])
        assert aggregate is not None
        fields = {name: getattr(subject, name) for name in subject.__struct_fields__}
        return Certificate(**fields, signers=bitmap_of(chosen), signature=aggregate)

    # --- what a replica hears ----------------------------------------------------------------------------------------

    def propose(self, alone: Alone, block: Block) -> Happened:
        """The block comes from its leader."""
        return alone.hear(self.proposal(block), block.header.proposer)

    def notarize(self, alone: Alone, block: Block) -> Happened:
        """Somebody echoes the block's certificate."""
        return alone.hear(Certificates(epoch=alone.committee.epoch.epoch, longest=self.certificate(block)), 1)

    def due(self, alone: Alone, view: int, *validators: int) -> Happened:
        """Those clocks (all others, when none is named) say that ``view`` is due."""
        happened = Happened()
        for validator in validators or [index for index in range(len(self.committee.keys)) if index != alone.me]:
            more = alone.hear(Clock(epoch=alone.committee.epoch.epoch, view=view), validator)
            happened.records += more.records
            happened.effects += more.effects
        return happened

    def grow(self, alone: Alone, *blocks: Block) -> Happened:
        """The replica hears each block in its view, and then the certificate of the last."""
        for block in blocks:
            self.due(alone, block.header.view)
            self.propose(alone, block)
        return self.notarize(alone, blocks[-1])


def with_state(record: SafetyRecord, **changes: object) -> SafetyRecord:
    """The record with some fields of its state changed: a journal that forgot."""
    state = msgspec.msgpack.decode(record.state, type=SafetyState)
    return msgspec.structs.replace(record, state=encode(msgspec.structs.replace(state, **changes)))
