"""What the puppets of one run know together: every message that anybody sent, and the certificates that can be made
from what they saw with the keys they own.

How a puppet's moves become messages is its protocol's *craft* (``crafts/``); all that protocols share is here.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

import msgspec

from consensus.epochs import EpochInfo
from consensus.protocols.chained_types import OrderVote
from consensus.protocols.order_votes import ORDER
from consensus.types import (
    BlockHeader,
    BlockId,
    Certificate,
    View,
    Vote,
    VoteSubject,
    bitmap_of,
    epoch_of,
    vote_of,
    vote_subject,
)
from netsim.numbering import SPAN, split
from netsim.reading import certificates_in, header_in
from netsim.world import Host, World

_encode = msgspec.msgpack.Encoder().encode


class Seen(NamedTuple):
    """A block that somebody proposed, in ``view``: its own, or a later one where a protocol proposes a block again."""

    block_id: BlockId
    header: BlockHeader
    view: View
    message: msgspec.Struct


class Member(Protocol):
    """A puppet, as far as the cabal calls it."""

    def enter(self, turn: int) -> None: ...
    def saw(self, turn: int, choice: int) -> None: ...
    def certified(self, turn: int) -> None: ...


class Cabal:
    """What the puppets of one run know together of one epoch. Turns number views one by one, from 1 in each epoch
    (``ProtocolDefinition.turn``, less ``base``). ``members`` are indices of the epoch."""

    def __init__(self, world: World, epoch: EpochInfo) -> None:
        self.world = world
        self.definition = world.definition
        self.epoch = epoch
        self.base = world.turns.base(epoch.epoch)
        self.scheme = world.committee.scheme
        self.kinds = {kind.name: kind for kind in world.definition.votes}
        self.members: list[int] = []
        self.puppets: list[Member] = []
        self.headers: dict[BlockId, BlockHeader] = {}
        self.proposals: dict[int, list[Seen]] = {}
        genesis = self.epoch.genesis
        self.grounds: dict[BlockId, Certificate] = {genesis.block_id: genesis}
        """What blocks can stand on, by the block that it certifies."""
        self.quorums: dict[tuple[str, View, BlockId], Certificate] = {}
        """Every quorum of votes that it can show, those for no block included."""
        self.votes: dict[VoteSubject, dict[int, bytes]] = {}
        self.reached = 0
        world.listeners.append(self.hear)
        world.entering.append(self.entered)

    def hear(self, host: Host, message: msgspec.Struct) -> None:
        """Somebody sends something."""
        if epoch_of(message) != self.epoch.epoch:
            return
        if type(message) is Vote:
            self.hear_vote(host, message)
            return
        for certificate in certificates_in(message):
            self.learn(certificate)
        header = header_in(message)
        if header is not None:
            self.hear_block(header, message)

    def hear_vote(self, host: Host, vote: Vote) -> None:
        seat = host.index if not vote.epoch else self.world.committee.seat(host.node, vote.epoch)
        if seat != vote.signer or (vote.kind, vote.view, vote.block_id) in self.quorums:
            return
        subject = vote_subject(vote)
        signatures = self.votes.setdefault(subject, {})
        signatures[vote.signer] = vote.signature
        stakes = self.epoch.validators.stakes
        signers = sorted({*signatures, *self.members})
        if sum(stakes[signer] for signer in signers) < self.epoch.validators.quorum:
            return
        for member in self.members:
            signatures.setdefault(member, self.world.committee.sign(member, subject))
        aggregate = self.scheme.aggregate([signatures[signer] for signer in signers])
        if aggregate is not None:
            self.learn(
                Certificate(
                    kind=vote.kind, epoch=vote.epoch, view=vote.view, block_id=vote.block_id, height=vote.height,
                    justify_view=vote.justify_view, signers=bitmap_of(tuple(signers)), signature=aggregate,
                )
            )  # fmt: skip

    def hear_block(self, header: BlockHeader, message: msgspec.Struct) -> None:
        block_id = digest(header)
        statement = self.definition.statement(message)
        view = header.view if statement is None else statement.subject.slot.major
        there = self.proposals.setdefault(self.turn(view), [])
        if any(seen.view == view and seen.block_id == block_id for seen in there):
            return
        self.headers[block_id] = header
        there.append(Seen(block_id, header, view, message))
        for puppet in self.puppets:
            puppet.saw(self.turn(view), len(there) - 1)

    def learn(self, certificate: Certificate) -> None:
        """A certificate that it can show to whom it likes."""
        key = (certificate.kind, certificate.view, certificate.block_id)
        if key in self.quorums or certificate == self.epoch.genesis:
            return
        self.quorums[key] = certificate
        kind = self.kinds.get(certificate.kind)
        if kind is not None and (kind.certifies or kind.commits) and certificate.height:
            self.grounds.setdefault(certificate.block_id, certificate)
            for puppet in self.puppets:
                puppet.certified(self.turn(certificate.view))
        self.reach(self.turn(certificate.view) + 1)

    def turn(self, view: View) -> int:
        """The turn of a view of this epoch."""
        return self.world.turns.of(self.epoch.epoch, view) - self.epoch.epoch * SPAN

    def entered(self, number: int) -> None:
        """Somebody honest enters a view, numbered over all epochs."""
        epoch, turn = split(number)
        if epoch == self.epoch.epoch:
            self.reach(turn)

    def reach(self, turn: int) -> None:
        """Turn ``turn`` can be entered by now: its moves begin."""
        while self.reached < turn:
            self.reached += 1
            for puppet in self.puppets:
                puppet.enter(self.reached)

    def ranked(self, below: int) -> list[Certificate]:
        """What can be stood on in turn ``below``, highest first."""
        turn = self.turn
        usable = [known for known in self.grounds.values() if turn(known.view) < below]
        return sorted(usable, key=lambda known: (-known.view, known.block_id))

    def vote(self, member: int, subject: VoteSubject) -> Vote:
        """A member's vote, signed."""
        return vote_of(subject, member, self.world.committee.sign(member, subject))

    def carried(self, vote: Vote) -> msgspec.Struct | None:
        """A vote as it travels: an order vote with the certificate that it is about, None while that is not known."""
        if vote.kind != ORDER or OrderVote not in self.definition.messages:
            return vote
        certificate = self.grounds.get(vote.block_id)
        if certificate is None:
            return None
        return OrderVote(epoch=vote.epoch, qc=certificate, signer=vote.signer, signature=vote.signature)


def digest(value: msgspec.Struct) -> bytes:
    """SHA-256 of the canonical bytes."""
    return hashlib.sha256(_encode(value)).digest()
