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
from consensus.types import (
    BlockId,
    Certificate,
    Epoch,
    Height,
    ValidatorIndex,
    View,
    Vote,
    VoteSubject,
    vote_subject,
)
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


_Key: TypeAlias = tuple[str, Epoch, BlockId, Height, View]
"""All that a vote's signature covers but the view, under which it is kept."""


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
        self.subjects: dict[_Key, _Subject] = {}
        self.reported: dict[tuple[str, ValidatorIndex], None] = {}


class VoteTally:
    """Votes of the views around the current one."""

    __slots__ = ("_checker", "_newest", "_oldest", "_quorum", "_stakes", "_views")

    def __init__(self, validators: ValidatorSet, checker: QuorumChecker) -> None:
        self._stakes = validators.stakes
        self._quorum = validators.quorum
        self._checker = checker
        self._views: dict[View, _View] = {}
        self._oldest: View = 1 - VIEWS_BEHIND
        self._newest: View = 1 + VIEWS_AHEAD

    def advance(self, view: View) -> None:
        """The current view is ``view``: forget what lies too far behind it."""
        self._oldest = oldest = view - VIEWS_BEHIND
        self._newest = view + VIEWS_AHEAD
        if self._views and min(self._views) < oldest:
            self._views = {known: votes for known, votes in self._views.items() if known >= oldest}

    def add(self, vote: Vote) -> TallyResult:
        """Take a vote whose sender is its signer and whose signer is below the number of validators."""
        view = vote.view
        if not self._oldest <= view <= self._newest:
            return IGNORED
        votes = self._views.get(view) or self._view(view)
        kind, signer = vote.kind, vote.signer
        voter = (kind, signer)
        first = votes.first.get(voter)
        if first is not None:
            return self._second(votes, voter, first, vote)
        votes.first[voter] = vote
        key = (kind, vote.epoch, vote.block_id, vote.height, vote.justify_view)
        counted = votes.subjects.get(key) or self._subject(votes, key)
        counted.signatures[signer] = vote.signature
        counted.stake = stake = counted.stake + self._stakes[signer]
        if counted.certified or stake < self._quorum:
            return COUNTED
        return self._certify(counted, vote_subject(vote))

    def settle(self, subject: VoteSubject) -> None:
        """A verified certificate of ``subject`` came from elsewhere: its votes need not be checked for another."""
        if not self._oldest <= subject.view <= self._newest:
            return
        key = (subject.kind, subject.epoch, subject.block_id, subject.height, subject.justify_view)
        self._subject(self._view(subject.view), key).certified = True

    def _view(self, view: View) -> _View:
        return self._views.get(view) or self._views.setdefault(view, _View())

    def _subject(self, votes: _View, key: _Key) -> _Subject:
        return votes.subjects.get(key) or votes.subjects.setdefault(key, _Subject())

    def _certify(self, counted: _Subject, subject: VoteSubject) -> Counted:
        """A quorum voted for ``subject``; whether it also signed that shows now."""
        certificate, spoiled = self._checker.certify(subject, counted.signatures)
        for signer in spoiled:
            del counted.signatures[signer]
            counted.stake -= self._stakes[signer]
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
