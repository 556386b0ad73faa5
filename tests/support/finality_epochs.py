"""Several nodes' finality over a chain whose validators change, with instant messages. Hosts hold keys by number, one
or several; each feeds the chain, votes, and offers what it knows to the next block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus.codec import block_of
from consensus.engine import (
    Broadcast,
    Finalize,
    LinkRecord,
    OfferLinks,
    Received,
    Recovered,
    SafetyRecord,
    Sign,
    Signed,
    Step,
)
from consensus.finality.ancestry import HeaderIndex
from consensus.finality.chain_links import initial_state
from consensus.finality.overlay import Finality
from consensus.finality.rules import SetChange, ValidatorSets
from consensus.finality.types import Checkpoint, FfgVote, Link, LinkCertificate
from consensus.types import PeerId, Subject
from tests.support.epoch_chain import EpochChain, Era, key

INTERVAL = 4


@dataclass(slots=True)
class Host:
    """``numbers`` are its keys. ``final`` is what it announced last."""

    numbers: tuple[int, ...]
    finality: Finality
    record: SafetyRecord | None = None
    links: list[LinkCertificate] = field(default_factory=list)
    offered: tuple[LinkCertificate, ...] = ()
    final: int = 0
    silent: bool = False


class EpochStory:
    """Every host is given every block; votes arrive at once. ``signed`` are all links by key number."""

    def __init__(self, chain: EpochChain, hosts: Sequence[Sequence[int]]) -> None:
        self.chain = chain
        self.height = 0
        self.signed: dict[int, list[tuple[int, Link]]] = {}
        self.votes: list[FfgVote] = []
        self.carried: dict[int, tuple[LinkCertificate, ...]] = {}
        scheme = chain.eras[0].scheme
        self.numbers = {key(scheme, number).public_key: number for numbers in hosts for number in numbers}
        self.hosts = [Host(tuple(numbers), self.fresh(numbers, 0)) for numbers in hosts]

    @property
    def root(self) -> Checkpoint:
        genesis = self.chain.eras[0].info.genesis
        return Checkpoint(height=0, id=genesis.block_id)

    def at(self, height: int) -> Checkpoint:
        if height == 0:
            return self.root
        return Checkpoint(height=height, id=block_of(self.chain.headers[height - 1]).id)

    def fresh(self, numbers: Sequence[int], epoch: int) -> Finality:
        scheme = self.chain.eras[0].scheme
        return Finality(
            epochs=[era.info for era in self.chain.eras[: epoch + 1]],
            scheme=scheme,
            own_keys=tuple(key(scheme, number).public_key for number in numbers),
            interval=INTERVAL,
            chain=initial_state(self.root),
        )

    def play(self, until: int) -> EpochStory:
        """Commit up to a height; the block at each carries what the first host that speaks offers."""
        while self.height < until:
            self.height += 1
            header = self.chain.headers[self.height - 1]
            offered = next((host.offered for host in self.hosts if not host.silent), ())
            self.carried[self.height] = tuple(each for each in offered if each.target.height < self.height)
            for host in self.hosts:
                self.perform(host, host.finality.committed(block_of(header), self.carried[self.height]))
            if header.next_validators_hash:
                for host in self.hosts:
                    self.perform(host, host.finality.enter(self.chain.eras[header.epoch + 1].info))
        return self

    def perform(self, host: Host, step: Step) -> None:
        for record in step.records:
            match record:
                case SafetyRecord():
                    host.record = record
                case LinkRecord(certificate):
                    host.links.append(certificate)
        for effect in step.effects:
            match effect:
                case Sign(subject):
                    if not host.silent:
                        self.perform(
                            host, host.finality.handle(Signed(subject, self.sign(host, subject.epoch, subject)))
                        )
                case Broadcast(FfgVote() as vote):
                    self.send(host, vote)
                case OfferLinks(certificates):
                    host.offered = certificates
                case Finalize(checkpoint=checkpoint):
                    assert checkpoint == self.at(checkpoint.height)
                    host.final = checkpoint.height
                case _:
                    raise AssertionError(f"unexpected {effect!r}")

    def sign(self, host: Host, epoch: int, subject: Subject) -> bytes:
        """With the key of this host that belongs to the epoch."""
        era: Era = self.chain.eras[epoch]
        index = next(
            index
            for index, public in enumerate(era.info.validators.public_keys)
            if self.numbers.get(public) in host.numbers
        )
        return era.sign(index, subject)

    def send(self, host: Host, vote: FfgVote) -> None:
        era = self.chain.eras[vote.epoch]
        number = self.numbers[era.info.validators.public_keys[vote.signer]]
        self.signed.setdefault(number, []).append((vote.epoch, vote.link))
        self.votes.append(vote)
        for other in self.hosts:
            if other is not host:
                self.perform(other, other.finality.handle(Received(self.peer(vote), vote)))

    def peer(self, vote: FfgVote) -> PeerId:
        return self.chain.eras[vote.epoch].info.validators.peer_of(vote.signer)

    def restart(self, host: Host) -> Step:
        """kill -9 after the last step."""
        epoch = 0 if self.height == 0 else self.chain.headers[self.height - 1].epoch
        header = self.chain.headers[self.height - 1]
        host.finality = self.fresh(host.numbers, epoch + bool(header.next_validators_hash))
        records = () if host.record is None else (host.record,)
        return host.finality.start(
            Recovered(
                safety=records,
                links=tuple(host.links),
                committed_height=self.height,
                committed_id=self.at(self.height).id,
            )
        )

    def signers(self) -> dict[Link, frozenset[bytes]]:
        """By public key, for ``rules.evaluate``."""
        found: dict[Link, set[bytes]] = {}
        for vote in self.votes:
            public = self.chain.eras[vote.epoch].info.validators.public_keys[vote.signer]
            found.setdefault(vote.link, set()).add(public)
        return {link: frozenset(keys) for link, keys in found.items()}

    def sets(self) -> ValidatorSets:
        """Of a chain with one change."""
        first, second = self.chain.eras
        boundary = self.at(second.info.genesis.height)
        change = SetChange(boundary=boundary, new=second.info.validators)
        return ValidatorSets(first=first.info.validators, changes=(change,))

    def ancestry(self) -> HeaderIndex:
        return HeaderIndex(self.root, self.chain.headers[: self.height])
