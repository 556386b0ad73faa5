"""Counts votes by the whole signed subject, and keeps the first of each signer and slot.

The sender of a vote is its signer (the transport authenticates it), so an unverified vote can only spoil its own
sender's. Signatures are checked when a subject reaches a quorum of stake: joined and checked at once, the bad ones
sifted out on failure. A second, different subject of one signer in one slot is equivocation: both votes are then
verified by themselves and reported once; neither side of it counts twice.

Bounds: one vote per signer, kind and view, for views within ``VIEWS_AHEAD`` above the current one and
``VIEWS_BEHIND`` below it.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from consensus.certificates import QuorumChecker
from consensus.types import Certificate, ValidatorIndex, View, Vote, VoteSubject, vote_subject
from consensus.validators import ValidatorSet

VIEWS_AHEAD: Final = 16
VIEWS_BEHIND: Final = 8


class Counted(msgspec.Struct, frozen=True, gc=False):
    """The vote was taken; ``certificate`` is there when it completed a quorum, ``spoiled`` names signers whose
    signatures were bad."""

    certificate: Certificate | None = None
    spoiled: tuple[ValidatorIndex, ...] = ()


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """A duplicate, or outside the window of views."""


class Equivocated(msgspec.Struct, frozen=True, gc=False):
    """The signer's first and second vote of one slot; both signatures verify."""

    first: Vote
    second: Vote


class BadSignature(msgspec.Struct, frozen=True, gc=False):
    """The vote's signature is not its signer's."""


TallyResult: TypeAlias = Counted | Ignored | Equivocated | BadSignature


COUNTED: Final = Counted()
IGNORED: Final = Ignored()


class _Subject:
    """The votes for one subject: one of each signer."""

    __slots__ = ("certified", "signatures", "stake")

    def __init__(self) -> None:
        self.stake = 0
        self.signatures: dict[ValidatorIndex, bytes] = {}
        self.certified = False


class _View:
    """The votes of one view."""

    __slots__ = ("first", "reported", "subjects")

    def __init__(self) -> None:
        self.first: dict[tuple[str, ValidatorIndex], Vote] = {}
        self.subjects: dict[VoteSubject, _Subject] = {}
        self.reported: dict[tuple[str, ValidatorIndex], None] = {}


class VoteTally:
    """Votes of the views around the current one."""

    __slots__ = ("_checker", "_current", "_validators", "_views")

    def __init__(self, validators: ValidatorSet, checker: QuorumChecker) -> None:
        self._validators = validators
        self._checker = checker
        self._views: dict[View, _View] = {}
        self._current: View = 1

    def advance(self, view: View) -> None:
        """The current view is ``view``: forget what lies too far behind it."""
        self._current = view
        for old in [known for known in self._views if known < view - VIEWS_BEHIND]:
            del self._views[old]

    def add(self, vote: Vote) -> TallyResult:
        """Take a vote whose sender is its signer and whose signer is below the number of validators."""
        if not self._current - VIEWS_BEHIND <= vote.view <= self._current + VIEWS_AHEAD:
            return IGNORED
        votes = self._views.get(vote.view)
        if votes is None:
            votes = self._views[vote.view] = _View()
        key = (vote.kind, vote.signer)
        first = votes.first.get(key)
        if first is not None:
            return self._second(votes, key, first, vote)
        votes.first[key] = vote
        return self._count(votes, vote)

    def settle(self, subject: VoteSubject) -> None:
        """A verified certificate of ``subject`` came from elsewhere: its votes need not be checked for another."""
        if self._current - VIEWS_BEHIND <= subject.view <= self._current + VIEWS_AHEAD:
            votes = self._views.setdefault(subject.view, _View())
            votes.subjects.setdefault(subject, _Subject()).certified = True

    def _count(self, votes: _View, vote: Vote) -> Counted:
        subject = vote_subject(vote)
        counted = votes.subjects.get(subject)
        if counted is None:
            counted = votes.subjects[subject] = _Subject()
        counted.signatures[vote.signer] = vote.signature
        counted.stake += self._validators.stakes[vote.signer]
        if counted.certified or counted.stake < self._validators.quorum:
            return COUNTED
        certificate, spoiled = self._checker.certify(subject, counted.signatures)
        for signer in spoiled:
            del counted.signatures[signer]
            counted.stake -= self._validators.stakes[signer]
        counted.certified = certificate is not None
        return Counted(certificate, spoiled)

    def _second(self, votes: _View, key: tuple[str, ValidatorIndex], first: Vote, second: Vote) -> TallyResult:
        subject, other = vote_subject(first), vote_subject(second)
        if subject == other or key in votes.reported:
            return IGNORED
        if not self._checker.check_signature(second.signer, other, second.signature):
            return BadSignature()
        votes.reported[key] = None
        if not self._checker.check_signature(first.signer, subject, first.signature):
            return BadSignature()
        return Equivocated(first, second)
