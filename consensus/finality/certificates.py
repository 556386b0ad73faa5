"""Checking link certificates, and making them from votes.

The tally keeps the first vote of each signer and target and compares every further one with those it holds: a pair
that conflicts is proof of guilt. From then on that signer counts in no link here, neither what it signed before nor
what comes after. (A certificate that others made with it stands all the same: it is a quorum's word.)

As in ``consensus/vote_tally.py`` a vote's sender is its signer, and signatures are checked when a link reaches a
quorum of stake, or when a conflict is found.

Bounds: one vote per signer and target; targets from ``TARGETS_BEHIND`` checkpoints below the committed head to
``TARGETS_AHEAD`` above it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from consensus.certificates import QuorumChecker
from consensus.crypto.scheme import Scheme
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.finality import rules
from consensus.finality.types import FFG, FfgVote, FfgVoteSubject, LinkCertificate, LinkGroup
from consensus.types import Epoch, Height, ValidatorIndex, is_canonical_bitmap, signers_of
from consensus.validators import ValidatorSet

TARGETS_AHEAD: Final = 8
TARGETS_BEHIND: Final = 56
VERIFIED_MAX: Final = 128
"""Link certificates remembered as verified."""


class LinkChecker:
    """Checks link certificates and votes of one or two epochs. Pure but for its bounded memory of certificates that
    verified."""

    __slots__ = ("_checkers", "_epochs", "_verified")

    def __init__(self, epochs: Sequence[EpochInfo], scheme: Scheme) -> None:
        self._epochs: dict[Epoch, EpochInfo] = {info.epoch: info for info in epochs}
        self._checkers = {info.epoch: QuorumChecker(info, scheme, (FFG,)) for info in epochs}
        self._verified: dict[LinkCertificate, None] = {}

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
        """The public key of a vote that :meth:`check_vote` passed."""
        return self._epochs[vote.epoch].validators.public_keys[vote.signer]

    def sift(self, subject: FfgVoteSubject, signatures: Mapping[ValidatorIndex, bytes]) -> list[ValidatorIndex]:
        """The signers whose signatures must go, as in :meth:`QuorumChecker.sift`."""
        return self._checkers[subject.epoch].sift(subject, signatures)

    def join(self, subject: FfgVoteSubject, signatures: Mapping[ValidatorIndex, bytes]) -> LinkCertificate:
        """The certificate of sifted signatures of one epoch, known to verify from now on."""
        signers, signature = self._checkers[subject.epoch].join(signatures)
        certificate = LinkCertificate(
            source=subject.source,
            target=subject.target,
            groups=(LinkGroup(epoch=subject.epoch, signers=signers, signature=signature),),
        )
        self.remember(certificate)
        return certificate

    def remember(self, certificate: LinkCertificate) -> None:
        """By its whole content, never by less."""
        if len(self._verified) >= VERIFIED_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[certificate] = None


class Counted(msgspec.Struct, frozen=True, gc=False):
    """The vote was taken. ``certificate`` is there when it completed a quorum; ``spoiled`` names signers whose
    signatures were bad."""

    certificate: LinkCertificate | None = None
    spoiled: tuple[ValidatorIndex, ...] = ()


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
    stake: int = 0
    signatures: dict[ValidatorIndex, bytes] = field(default_factory=dict)
    certified: bool = False


class LinkTally:
    """Votes of one epoch's validators, by link."""

    __slots__ = ("_checker", "_guilty", "_head", "_interval", "_links", "_validators", "_votes")

    def __init__(self, validators: ValidatorSet, checker: LinkChecker, interval: Height) -> None:
        self._validators = validators
        self._checker = checker
        self._interval = interval
        self._head: Height = 0
        self._votes: dict[ValidatorIndex, dict[Height, FfgVote]] = {}
        self._links: dict[FfgVoteSubject, _Tallied] = {}
        self._guilty: dict[ValidatorIndex, None] = {}

    @property
    def guilty(self) -> Collection[ValidatorIndex]:
        """The signers whose guilt was proved by votes."""
        return tuple(sorted(self._guilty))

    def advance(self, head: Height) -> None:
        """The committed head is at ``head``: forget what lies too far behind it."""
        self._head = head
        lowest = head - TARGETS_BEHIND * self._interval
        for votes in self._votes.values():
            for target in [target for target in votes if target < lowest]:
                del votes[target]
        for subject in [subject for subject in self._links if subject.target.height < lowest]:
            del self._links[subject]

    def add(self, vote: FfgVote) -> TallyResult:
        """Take a well-formed vote of this epoch, whose sender is its signer and whose signer is a validator."""
        reach = self._interval
        lowest, highest = self._head - TARGETS_BEHIND * reach, self._head + TARGETS_AHEAD * reach
        if vote.signer in self._guilty or not lowest <= vote.target.height <= highest:
            return Ignored()
        votes = self._votes.setdefault(vote.signer, {})
        held = votes.get(vote.target.height)
        if held is not None and held.link == vote.link:
            return Ignored()
        rivals = [other for other in votes.values() if rules.conflict(other.link, vote.link) is not None]
        if rivals:
            if not self._checker.check_vote(vote):
                return BadSignature()
            for rival in rivals:
                if self._checker.check_vote(rival):
                    self._exclude(vote.signer)
                    return Slashable(rival, vote)
                self._withdraw(rival)
        votes[vote.target.height] = vote
        return self._count(vote)

    def _count(self, vote: FfgVote) -> Counted:
        subject = vote.subject
        tallied = self._links.get(subject)
        if tallied is None:
            tallied = self._links[subject] = _Tallied()
        if tallied.certified:
            return Counted()
        tallied.signatures[vote.signer] = vote.signature
        tallied.stake += self._validators.stakes[vote.signer]
        if tallied.stake < self._validators.quorum:
            return Counted()
        spoiled = self._checker.sift(subject, tallied.signatures)
        for signer in spoiled:
            self._withdraw(self._votes[signer][subject.target.height])
        if tallied.stake < self._validators.quorum:
            return Counted(spoiled=tuple(spoiled))
        certificate = self._checker.join(subject, tallied.signatures)
        tallied.certified = True
        tallied.signatures.clear()
        return Counted(certificate, tuple(spoiled))

    def _withdraw(self, vote: FfgVote) -> None:
        """Forget one vote and what it added to its link."""
        del self._votes[vote.signer][vote.target.height]
        tallied = self._links.get(vote.subject)
        if tallied is not None and tallied.signatures.pop(vote.signer, None) is not None:
            tallied.stake -= self._validators.stakes[vote.signer]
            if not tallied.signatures:
                del self._links[vote.subject]

    def _exclude(self, signer: ValidatorIndex) -> None:
        """Guilt is proved: the signer counts in nothing that is not certified yet."""
        self._guilty[signer] = None
        for vote in list(self._votes[signer].values()):
            self._withdraw(vote)
