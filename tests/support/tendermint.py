"""Tendermint's blocks, votes and certificates, made without the code under test, and its replica fed by hand.

::

    book = Rounds(committee(4, protocol="tendermint"))
    b = book.block(1)                       # height 1, round 0
    c = book.block(1, round_=1)
    d = book.block(2, on=b)                 # stands on the commit certificate of b
    book.proposal(b, round_=2, polka=book.polka(b, 0))

Heights begin at 1 and rounds at 0; validator ``(height + round - 1) % n`` proposes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.codec import block_of
from consensus.engine import SetTimer, TimerFired
from consensus.genesis import Pacing
from consensus.protocols.tendermint_types import Proposal, Standing
from consensus.types import (
    NIL_BLOCK,
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
from tests.support.committee import Committee, committee

PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50, growth_numerator=2, growth_denominator=1, exponent_max=2)
LONG_NS = 1_000_000_000_000


def at(height: int, round_: int = 0) -> int:
    """The view of a round."""
    return height * 2**24 + round_


class Rounds:
    """Makes the blocks and signed values of one committee of equal stakes."""

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.epoch = committee.epoch
        self.genesis = committee.epoch.genesis
        self.count = len(committee.keys)
        self.quorum = committee.epoch.validators.quorum
        self._bodies: dict[bytes, bytes] = {}

    def proposer(self, height: int, round_: int = 0) -> int:
        return (height + round_ - 1) % self.count

    def block(
        self,
        height: int,
        round_: int = 0,
        *,
        on: Block | Certificate | None = None,
        body: bytes = b"",
        timestamp_ms: int | None = None,
    ) -> Block:
        """The proposer's block of a round, on the commit certificate of a block (of its own round), on a given one, or
        on genesis."""
        justify = self.genesis if on is None else self.commit(on) if isinstance(on, Block) else on
        block = block_of(
            BlockHeader(
                chain=self.epoch.chain,
                epoch=self.epoch.epoch,
                view=at(height, round_),
                height=height,
                parent=justify.block_id,
                justify=justify,
                entry_proof_hash=b"",
                payload_root=root_of(body),
                payload_size=len(body),
                next_validators_hash=b"",
                timestamp_ms=1_000 + 10 * height + round_ if timestamp_ms is None else timestamp_ms,
                proposer=self.proposer(height, round_),
            )
        )
        self._bodies[block.id] = body
        return block

    def like(self, block: Block, **changes: object) -> Block:
        """The same block with some fields of its header changed."""
        changed = block_of(msgspec.structs.replace(block.header, **changes))
        self._bodies[changed.id] = self._bodies[block.id]
        return changed

    def proposal(
        self, block: Block, round_: int | None = None, polka: Certificate | None = None, *, signer: int | None = None
    ) -> Proposal:
        """The block in its own round, or again in a later one."""
        header = block.header
        shown = header.view if round_ is None else at(header.height, round_)
        proposer = self.proposer(header.height, shown % 2**24)
        subject = ProposalSubject(epoch=self.epoch.epoch, view=shown, block_id=block.id)
        return Proposal(
            epoch=self.epoch.epoch,
            view=shown,
            header=header,
            body=memoryview(self._bodies[block.id]),
            polka=polka,
            proposer=proposer,
            signature=self.committee.sign(proposer if signer is None else signer, subject),
        )

    # --- votes and certificates ---------------------------------------------------------------------------------

    def subject(
        self,
        kind: str,
        block: Block | None,
        round_: int | None = None,
        *,
        height: int = 1,
        valid_round: int | None = None,
    ) -> VoteSubject:
        """What is signed by a vote of ``kind`` for a block (in its own round, unless another is named), or for none."""
        if block is None:
            return VoteSubject(
                kind=kind,
                epoch=self.epoch.epoch,
                view=at(height, round_ or 0),
                block_id=NIL_BLOCK,
                height=0,
                justify_view=0,
            )
        header = block.header
        return VoteSubject(
            kind=kind,
            epoch=self.epoch.epoch,
            view=header.view if round_ is None else at(header.height, round_),
            block_id=block.id,
            height=header.height,
            justify_view=header.justify.view if valid_round is None else at(header.height, valid_round),
        )

    def vote(self, subject: VoteSubject, signer: int) -> Vote:
        fields = {name: getattr(subject, name) for name in subject.__struct_fields__}
        return Vote(**fields, signer=signer, signature=self.committee.sign(signer, subject))

    def prevote(
        self,
        block: Block | None,
        signer: int,
        round_: int | None = None,
        *,
        height: int = 1,
        valid_round: int | None = None,
    ) -> Vote:
        return self.vote(self.subject("prevote", block, round_, height=height, valid_round=valid_round), signer)

    def precommit(self, block: Block | None, signer: int, round_: int | None = None, *, height: int = 1) -> Vote:
        return self.vote(self.subject("precommit", block, round_, height=height), signer)

    def certificate(self, subject: VoteSubject, signers: Sequence[int] | None = None) -> Certificate:
        """By the first validators that are a quorum, or by ``signers``."""
        chosen = tuple(range(self.quorum)) if signers is None else tuple(signers)
        aggregate = self.committee.scheme.aggregate([self.committee.sign(signer, subject) for signer in chosen])
        assert aggregate is not None
        fields = {name: getattr(subject, name) for name in subject.__struct_fields__}
        return Certificate(**fields, signers=bitmap_of(chosen), signature=aggregate)

    def polka(
        self, block: Block | None, round_: int | None = None, *, height: int = 1, valid_round: int | None = None
    ) -> Certificate:
        return self.certificate(self.subject("prevote", block, round_, height=height, valid_round=valid_round))

    def commit(self, block: Block, round_: int | None = None) -> Certificate:
        return self.certificate(self.subject("precommit", block, round_))

    def standing(
        self, commit: Certificate | None = None, polka: Certificate | None = None, votes: tuple[Vote, ...] = ()
    ) -> Standing:
        return Standing(
            epoch=self.epoch.epoch, commit=self.genesis if commit is None else commit, polka=polka, votes=votes
        )

    # --- what a replica hears ----------------------------------------------------------------------------------------

    def propose(
        self, alone: Alone, block: Block, round_: int | None = None, polka: Certificate | None = None
    ) -> Happened:
        """The proposal comes from its proposer."""
        proposal = self.proposal(block, round_, polka)
        return alone.hear(proposal, proposal.proposer)

    def hear(self, alone: Alone, *votes: Vote) -> Happened:
        """Votes, each from its signer; everything that they cause."""
        happened = Happened()
        for vote in votes:
            join(happened, alone.hear(vote))
        return happened

    def prevotes(self, alone: Alone, block: Block | None, round_: int | None = None, *, height: int = 1) -> Happened:
        """A quorum of others prevotes."""
        signers = [signer for signer in range(self.count) if signer != alone.me][: self.quorum]
        return self.hear(alone, *(self.prevote(block, signer, round_, height=height) for signer in signers))

    def precommits(self, alone: Alone, block: Block | None, round_: int | None = None, *, height: int = 1) -> Happened:
        """A quorum of others precommits."""
        signers = [signer for signer in range(self.count) if signer != alone.me][: self.quorum]
        return self.hear(alone, *(self.precommit(block, signer, round_, height=height) for signer in signers))

    def fail(self, alone: Alone, round_: int, *, height: int = 1) -> Happened:
        """A round that decides nothing: a quorum precommits nil, and timeoutPrecommit fires."""
        happened = self.precommits(alone, None, round_, height=height)
        return join(happened, fire(alone, "precommit"))

    def grow(self, alone: Alone, *blocks: Block) -> Happened:
        """The replica hears each block and then a quorum's precommits for it."""
        happened = Happened()
        for block in blocks:
            join(happened, self.propose(alone, block))
            join(happened, self.precommits(alone, block))
        return happened


def join(first: Happened, second: Happened) -> Happened:
    first.records += second.records
    first.effects += second.effects
    return first


def fire(alone: Alone, name: str) -> Happened:
    """That timer fires, long after now."""
    alone.now += LONG_NS
    return alone.feed(TimerFired(name))


def setting(me: int | None = 3, count: int = 4) -> tuple[Rounds, Alone]:
    members = committee(count, protocol="tendermint", pacing=PACING)
    return Rounds(members), Alone(members, me=me)


def voted(happened: Happened) -> list[VoteSubject]:
    return [subject for subject in happened.signed if isinstance(subject, VoteSubject)]


def deadline_ns(happened: Happened, name: str) -> int:
    return [effect.deadline_ns for effect in happened.of(SetTimer) if effect.name == name][-1]


def locked(round_: int = 0) -> tuple[Rounds, Alone, Block]:
    """::

    h1 r0   b   prevote b, Q: locked on b, precommit b; the others precommit nil: r1
    """
    book, alone = setting()
    for failed in range(round_):
        book.fail(alone, failed)
    b = book.block(1, round_)
    book.propose(alone, b)
    happened = book.prevotes(alone, b)
    assert voted(happened)[-1] == book.subject("precommit", b)
    book.fail(alone, round_)
    assert alone.view == at(1, round_ + 1)
    return book, alone, b
