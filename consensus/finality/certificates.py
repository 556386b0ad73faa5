"""Checking link certificates, and making them from votes.

The tally keeps the first vote of each signer and target and compares every further one with those it holds: a pair
that conflicts is proof of guilt. From then on that signer counts in no link here, neither what it signed before nor
what comes after. (A certificate that others made with it stands all the same: it is a quorum's word.)

As in ``consensus/vote_tally.py`` a vote's sender is its signer, and signatures are checked when a link reaches a
quorum of stake, or when a conflict is found.

A signer is a public key: who belongs to the sets of both epochs of a boundary votes once and counts in both.

Bounds: one vote per key and target; targets from ``TARGETS_BEHIND`` checkpoints below the committed head to
``TARGETS_AHEAD`` above it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from consensus.certificates import QuorumChecker
from consensus.crypto.scheme import Scheme
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.finality import rules
from consensus.finality.types import FFG, FfgVote, FfgVoteSubject, Link, LinkCertificate, LinkGroup
from consensus.types import Epoch, Height, ValidatorIndex, is_canonical_bitmap, signers_of
from consensus.validators import ValidatorSet

TARGETS_AHEAD: Final = 8
TARGETS_BEHIND: Final = 56
VERIFIED_MAX: Final = 128
"""Link certificates remembered as verified."""


class LinkChecker:
    """Checks link certificates and votes of one or two epochs. Pure but for its bounded memory of certificates that
    verified."""

    __slots__ = ("_checkers", "_epochs", "_stakes", "_verified")

    def __init__(self, epochs: Sequence[EpochInfo], scheme: Scheme) -> None:
        self._epochs: dict[Epoch, EpochInfo] = {info.epoch: info for info in epochs}
        self._checkers = {info.epoch: QuorumChecker(info, scheme, (FFG,)) for info in epochs}
        self._verified: dict[LinkCertificate, None] = {}
        self._stakes: dict[bytes, list[tuple[Epoch, int]]] = {}
        for info in epochs:
            for key, stake in zip(info.validators.public_keys, info.validators.stakes, strict=True):
                self._stakes.setdefault(key, []).append((info.epoch, stake))

    def knows(self, vote: FfgVote) -> bool:
        """True when the vote's epoch is one of ours and its signer one of that epoch's validators."""
        info = self._epochs.get(vote.epoch)
        return info is not None and vote.signer < len(info.validators)

    def check(self, certificate: LinkCertificate, needed: Sequence[ValidatorSet]) -> Refusal | None:
        """None when the signatures verify and hold a quorum of each set in ``needed``; the reason otherwise."""
        refusal = self.check_signatures(certificate)
        if refusal is not None:
            return refusal
        keys = self.keys(certificate)
        for validators in needed:
            if not rules.has_quorum(validators, keys):
                stake = rules.stake_of_keys(validators, keys)
                return Refusal(f"link certificate: stake {stake} is below the quorum of {validators.quorum}")
        return None

    def check_signatures(self, certificate: LinkCertificate) -> Refusal | None:
        """None when every named signer signed the link, whatever their stake."""
        if certificate in self._verified:
            return None
        refusal = self._check_form(certificate)
        if refusal is not None:
            return refusal
        for group in certificate.groups:
            subject = certificate.subject(group.epoch)
            if not self._checkers[group.epoch].check_groups([(group.signers, subject, group.signature)]):
                return Refusal("link certificate: the signatures do not verify")
        self.remember(certificate)
        return None

    def _check_form(self, certificate: LinkCertificate) -> Refusal | None:
        if certificate.source.height >= certificate.target.height:
            return Refusal("link certificate: the source is not below the target")
        epochs = [group.epoch for group in certificate.groups]
        if epochs != sorted(dict.fromkeys(epochs)):
            return Refusal("link certificate: the epochs of its groups do not ascend")
        seen: dict[bytes, None] = {}
        for group in certificate.groups:
            info = self._epochs.get(group.epoch)
            if info is None:
                return Refusal(f"link certificate: epoch {group.epoch} is unknown here")
            if not group.signers or not is_canonical_bitmap(group.signers):
                return Refusal("link certificate: a bitmap is empty or not canonical")
            if int.from_bytes(group.signers, "little").bit_length() > len(info.validators):
                return Refusal("link certificate: an unknown validator")
            for signer in signers_of(group.signers):
                key = info.validators.public_keys[signer]
                if key in seen:
                    return Refusal("link certificate: one signer counted twice")
                seen[key] = None
        return None

    def keys(self, certificate: LinkCertificate) -> frozenset[bytes]:
        """The public keys of those who signed. The form was checked."""
        return frozenset(
            self._epochs[group.epoch].validators.public_keys[signer]
            for group in certificate.groups
            for signer in signers_of(group.signers)
        )

    def check_vote(self, vote: FfgVote) -> bool:
        """True when the vote's signature is its signer's."""
        checker = self._checkers.get(vote.epoch)
        return checker is not None and checker.check_signature(vote.signer, vote.subject, vote.signature)

    def key_of(self, vote: FfgVote) -> bytes:
        """The public key of the signer of a vote that it :meth:`knows`."""
        return self._epochs[vote.epoch].validators.public_keys[vote.signer]

    def stakes(self, key: bytes) -> Sequence[tuple[Epoch, int]]:
        """What the holder of a public key has in the set of each epoch that it belongs to."""
        return self._stakes.get(key, ())

    def sift(self, link: Link, votes: Sequence[FfgVote]) -> tuple[FfgVote, ...]:
        """The votes for one link whose signatures must go, as in :meth:`QuorumChecker.sift`."""
        bad: list[FfgVote] = []
        for epoch, group in _by_epoch(votes):
            subject = FfgVoteSubject(epoch=epoch, source=link.source, target=link.target)
            signatures = {signer: vote.signature for signer, vote in group.items()}
            bad += [group[signer] for signer in self._checkers[epoch].sift(subject, signatures)]
        return tuple(bad)

    def join(self, link: Link, votes: Sequence[FfgVote]) -> LinkCertificate:
        """The certificate of sifted votes for one link, known to verify from now on."""
        groups = []
        for epoch, group in _by_epoch(votes):
            signers, signature = self._checkers[epoch].join({signer: vote.signature for signer, vote in group.items()})
            groups.append(LinkGroup(epoch=epoch, signers=signers, signature=signature))
        certificate = LinkCertificate(source=link.source, target=link.target, groups=tuple(groups))
        self.remember(certificate)
        return certificate

    def remember(self, certificate: LinkCertificate) -> None:
        """By its whole content, never by less."""
        if len(self._verified) >= VERIFIED_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[certificate] = None


def _by_epoch(votes: Sequence[FfgVote]) -> list[tuple[Epoch, dict[ValidatorIndex, FfgVote]]]:
    epochs = sorted({vote.epoch for vote in votes})
    return [(epoch, {vote.signer: vote for vote in votes if vote.epoch == epoch}) for epoch in epochs]


class Counted(msgspec.Struct, frozen=True, gc=False):
    """The vote was taken. ``certificate`` is there when it completed a quorum; ``spoiled`` are the votes whose
    signatures were bad."""

    certificate: LinkCertificate | None = None
    spoiled: tuple[FfgVote, ...] = ()


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """A duplicate, outside the window, or of a signer whose guilt is known."""


class Slashable(msgspec.Struct, frozen=True, gc=False):
    """Two votes of one signer that conflict; both signatures verify."""

    first: FfgVote
    second: FfgVote


class BadSignature(msgspec.Struct, frozen=True, gc=False):
    """The vote's signature is not its signer's."""


TallyResult: TypeAlias = Counted | Ignored | Slashable | BadSignature


@dataclass(slots=True)
class _Tallied:
    votes: dict[bytes, FfgVote] = field(default_factory=dict)
    stakes: dict[Epoch, int] = field(default_factory=dict)
    """What the voters hold in the set of each known epoch."""
    certified: bool = False


class LinkTally:
    """Votes of the validators that ``checker`` knows, by link. ``needed`` gives the epochs of whose sets a link needs a
    quorum each; none for a link that cannot count."""

    __slots__ = ("_checker", "_guilty", "_head", "_interval", "_links", "_needed", "_votes")

    def __init__(self, checker: LinkChecker, interval: Height, needed: Callable[[Link], Sequence[EpochInfo]]) -> None:
        self._checker = checker
        self._interval = interval
        self._needed = needed
        self._head: Height = 0
        self._votes: dict[bytes, dict[Height, FfgVote]] = {}
        self._links: dict[Link, _Tallied] = {}
        self._guilty: dict[bytes, None] = {}

    def enter(self, checker: LinkChecker) -> None:
        """Another epoch begins: go on with the votes of the epochs that ``checker`` knows."""
        held = [vote for votes in self._votes.values() for vote in votes.values() if checker.knows(vote)]
        certified = {link: tallied for link, tallied in self._links.items() if tallied.certified}
        self._checker, self._votes, self._links = checker, {}, certified
        for vote in held:
            key = checker.key_of(vote)
            self._votes.setdefault(key, {})[vote.target.height] = vote
            self._put(key, vote)

    def advance(self, head: Height) -> None:
        """The committed head is at ``head``: forget what lies too far behind it."""
        self._head = head
        lowest = head - TARGETS_BEHIND * self._interval
        for votes in self._votes.values():
            for target in [target for target in votes if target < lowest]:
                del votes[target]
        for link in [link for link in self._links if link.target.height < lowest]:
            del self._links[link]

    def add(self, vote: FfgVote) -> TallyResult:
        """Take a well-formed vote of a known epoch, whose sender is its signer and whose signer is a validator."""
        key, reach = self._checker.key_of(vote), self._interval
        lowest, highest = self._head - TARGETS_BEHIND * reach, self._head + TARGETS_AHEAD * reach
        if key in self._guilty or not lowest <= vote.target.height <= highest:
            return Ignored()
        votes = self._votes.setdefault(key, {})
        held = votes.get(vote.target.height)
        if held is not None and held.link == vote.link:
            return Ignored()
        rivals = [other for other in votes.values() if rules.conflict(other.link, vote.link) is not None]
        if rivals:
            if not self._checker.check_vote(vote):
                return BadSignature()
            for rival in rivals:
                if self._checker.check_vote(rival):
                    self._exclude(key)
                    return Slashable(rival, vote)
                self._withdraw(rival)
        votes[vote.target.height] = vote
        return self._count(key, vote)

    def settle(self, height: Height) -> list[Counted]:
        """The checkpoint at ``height`` was committed, so ``needed`` answers for links that end there: those that have
        their quorums already."""
        ended = [(link, tallied) for link, tallied in self._links.items() if link.target.height == height]
        return [self._judge(link, tallied) for link, tallied in ended]

    def _count(self, key: bytes, vote: FfgVote) -> Counted:
        return self._judge(vote.link, self._put(key, vote))

    def _judge(self, link: Link, tallied: _Tallied) -> Counted:
        if tallied.certified or not self._is_quorum(link, tallied):
            return Counted()
        spoiled = self._sift(link, tallied)
        if not self._is_quorum(link, tallied):
            return Counted(spoiled=spoiled)
        certificate = self._checker.join(link, list(tallied.votes.values()))
        tallied.certified = True
        tallied.votes.clear()
        return Counted(certificate, spoiled)

    def _put(self, key: bytes, vote: FfgVote) -> _Tallied:
        tallied = self._links.get(vote.link)
        if tallied is None:
            tallied = self._links[vote.link] = _Tallied()
        if not tallied.certified:
            tallied.votes[key] = vote
            for epoch, stake in self._checker.stakes(key):
                tallied.stakes[epoch] = tallied.stakes.get(epoch, 0) + stake
        return tallied

    def _is_quorum(self, link: Link, tallied: _Tallied) -> bool:
        needed = self._needed(link)
        return bool(needed) and all(tallied.stakes.get(info.epoch, 0) >= info.validators.quorum for info in needed)

    def _sift(self, link: Link, tallied: _Tallied) -> tuple[FfgVote, ...]:
        """Take out the votes whose signatures do not verify."""
        spoiled = self._checker.sift(link, list(tallied.votes.values()))
        for vote in spoiled:
            self._withdraw(vote)
        return spoiled

    def _withdraw(self, vote: FfgVote) -> None:
        """Forget one vote and what it added to its link."""
        key = self._checker.key_of(vote)
        del self._votes[key][vote.target.height]
        tallied = self._links.get(vote.link)
        if tallied is not None and tallied.votes.pop(key, None) is not None:
            for epoch, stake in self._checker.stakes(key):
                tallied.stakes[epoch] -= stake
            if not tallied.votes:
                del self._links[vote.link]

    def _exclude(self, key: bytes) -> None:
        """Guilt is proved: the signer counts in nothing that is not certified yet."""
        self._guilty[key] = None
        for vote in list(self._votes[key].values()):
            self._withdraw(vote)
