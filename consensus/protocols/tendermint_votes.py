"""The votes and proposals of one height: what stake stands behind what, round by round.

Bounds: votes as in ``vote_tally.py``, of the rounds around the current one; besides, of each signer the vote of its
furthest round, however far (a replica that lags by more rounds than any window must still find the way); the first
proposal of each round within ``PROPOSALS_BEHIND`` below the current round and ``VIEWS_AHEAD`` above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from consensus.certificates import QuorumChecker
from consensus.protocols.proposal_checks import without_body
from consensus.protocols.tendermint_types import PRECOMMIT, PREVOTE, Proposal, Round, height_of, round_of, view_at
from consensus.types import NIL_BLOCK, BlockId, Certificate, Height, ValidatorIndex, Vote, vote_subject
from consensus.validators import ValidatorSet
from consensus.vote_tally import VIEWS_AHEAD, VIEWS_BEHIND, BadSignature, Counted, TallyResult, VoteTally

PROPOSALS_BEHIND: Final = 64


@dataclass(slots=True)
class _Round:
    prevoted: int = 0
    """The stake of those who prevoted, for whatever."""
    precommitted: int = 0
    precommits: dict[ValidatorIndex, Vote] = field(default_factory=dict)
    polka: Certificate | None = None
    """A quorum of prevotes for one block, or for none."""


class Verified(NamedTuple):
    """Votes whose signatures were checked one by one, and the signers whose were bad."""

    votes: tuple[Vote, ...]
    bad: tuple[ValidatorIndex, ...]


class HeightVotes:
    """Counts the votes of one height."""

    __slots__ = ("_checked", "_checker", "_furthest", "_round", "_rounds", "_tally", "_valid", "_validators", "height")

    def __init__(self, height: Height, validators: ValidatorSet, checker: QuorumChecker) -> None:
        self.height = height
        self._validators = validators
        self._checker = checker
        self._tally = VoteTally(validators, checker)
        self._tally.advance(view_at(height, 0))
        self._round: Round = 0
        self._rounds: dict[Round, _Round] = {}
        self._furthest: dict[ValidatorIndex, Vote] = {}
        self._checked: dict[Vote, None] = {}
        self._valid: Certificate | None = None

    @property
    def valid(self) -> Certificate | None:
        """The polka of the valid value (L42-L43): the highest that was seen for a block, of whatever round."""
        return self._valid

    def hold(self, polka: Certificate) -> None:
        """A verified quorum of prevotes of this height: for a block, it may be the valid value's."""
        if polka.block_id != NIL_BLOCK and (self._valid is None or polka.view > self._valid.view):
            self._valid = polka

    def advance(self, round_: Round) -> None:
        """The current round is ``round_``: forget what lies too far behind it."""
        self._round = round_
        self._tally.advance(view_at(self.height, round_))
        for old in [known for known in self._rounds if known < round_ - VIEWS_BEHIND]:
            del self._rounds[old]
        for signer in [signer for signer, vote in self._furthest.items() if round_of(vote.view) <= round_]:
            del self._furthest[signer]
        self._checked.clear()

    def add(self, vote: Vote) -> TallyResult:
        """Take a vote of this height whose signer is below the number of validators: from its signer, or verified."""
        result = self._tally.add(vote)
        round_ = round_of(vote.view)
        if round_ > self._round and not isinstance(result, BadSignature):
            furthest = self._furthest.get(vote.signer)
            if furthest is None or furthest.view < vote.view:
                self._furthest[vote.signer] = vote
        if self._round - VIEWS_BEHIND <= round_ <= self._round + VIEWS_AHEAD:
            self._count(vote, round_, result)
        return result

    def _count(self, vote: Vote, round_: Round, result: TallyResult) -> None:
        row = self._rounds.get(round_)
        if row is None:
            row = self._rounds[round_] = _Round()
        stake = self._validators.stakes[vote.signer]
        if vote.kind == PREVOTE:
            if isinstance(result, Counted):
                row.prevoted += stake
                if result.certificate is not None:
                    row.polka = result.certificate
                    self.hold(result.certificate)
        elif vote.signer not in row.precommits and not isinstance(result, BadSignature):
            row.precommitted += stake  # also where the tally knows a bad one: this may be the good one, from elsewhere
            row.precommits[vote.signer] = vote

    def wanted(self, votes: Sequence[Vote]) -> list[Vote]:
        """Those that we lack of the votes, one of each signer, that let another replica enter its round; none, unless
        they take us to a later round or end ours: all are of later rounds, or they are a quorum's precommits of ours.
        So nobody can have us check votes for ever: an honest signer's is among them, and we reach its round."""
        if not votes or height_of(votes[0].view) != self.height:
            return []
        later = all(round_of(vote.view) > self._round for vote in votes)
        ending = all(round_of(vote.view) == self._round and vote.kind == PRECOMMIT for vote in votes)
        if not later and not (ending and self._stake([vote.signer for vote in votes]) >= self._validators.quorum):
            return []
        return [vote for vote in votes if not self._holds(vote)]

    def _holds(self, vote: Vote) -> bool:
        """True when this vote, of a later round or a precommit of ours, is here, or one that takes us as far."""
        if round_of(vote.view) > self._round:
            furthest = self._furthest.get(vote.signer)
            return furthest is not None and furthest.view >= vote.view
        row = self._rounds.get(self._round)
        return row is not None and vote.signer in row.precommits

    # --- thresholds ---------------------------------------------------------------------------------------------

    def polka(self, round_: Round) -> Certificate | None:
        """The quorum of prevotes of a round, for a block or for none."""
        row = self._rounds.get(round_)
        return None if row is None else row.polka

    def lacks(self, polka: Certificate) -> bool:
        """True when it may teach us something. A quorum's votes make many certificates: one of each is verified."""
        if round_of(polka.view) < self._round:
            return self._valid is None or self._valid.view < polka.view
        return self.polka(round_of(polka.view)) is None

    def has_polka(self, block_id: BlockId) -> bool:
        """True when a quorum is known to have prevoted the block. Its body may be somebody's who fetched it for us, and
        what is wrong with that one is not its proposer's fault."""
        known = (self._valid, self.polka(self._round))
        return any(polka is not None and polka.block_id == block_id for polka in known)

    def learn_polka(self, certificate: Certificate) -> None:
        """A verified quorum of prevotes for a block of this height, from elsewhere; kept by its round when that is near
        the current one."""
        self.hold(certificate)
        round_ = round_of(certificate.view)
        if self._round - VIEWS_BEHIND <= round_ <= self._round + VIEWS_AHEAD:
            row = self._rounds.get(round_)
            if row is None:
                row = self._rounds[round_] = _Round()
            if row.polka is None:
                row.polka = certificate

    def quorum_prevoted(self, round_: Round) -> bool:
        """True when a quorum prevoted in that round, for whatever."""
        row = self._rounds.get(round_)
        return row is not None and row.prevoted >= self._validators.quorum

    def quorum_precommitted(self, round_: Round) -> Verified | None:
        """The precommits of a round, for whatever, once a quorum sent some; fewer when signatures were bad."""
        row = self._rounds.get(round_)
        if row is None or row.precommitted < self._validators.quorum:
            return None
        found = self._verify(row.precommits.values())
        for signer in found.bad:
            del row.precommits[signer]
            row.precommitted -= self._validators.stakes[signer]
        return found if row.precommitted >= self._validators.quorum else Verified((), found.bad)

    def ahead(self) -> Verified | None:
        """Votes of rounds above the current one, once stake A sent some, those of the furthest rounds first; fewer
        when signatures were bad."""
        if not self._furthest or self._stake(self._furthest) < self._validators.amplification:
            return None
        found = self._verify(self._furthest.values())
        for signer in found.bad:
            del self._furthest[signer]
        if self._stake(self._furthest) < self._validators.amplification:
            return Verified((), found.bad)
        return Verified(tuple(sorted(found.votes, key=lambda vote: (-vote.view, vote.signer))), found.bad)

    def _stake(self, signers: Iterable[ValidatorIndex]) -> int:
        return self._validators.stake_of(signers)

    def _verify(self, votes: Iterable[Vote]) -> Verified:
        """One by one: these votes are shown to others, and a valid aggregate proves nothing about its parts."""
        good: list[Vote] = []
        bad: list[ValidatorIndex] = []
        for vote in votes:
            if vote in self._checked or self._checker.check_signature(vote.signer, vote_subject(vote), vote.signature):
                self._checked[vote] = None
                good.append(vote)
            else:
                bad.append(vote.signer)
        return Verified(tuple(good), tuple(bad))


class HeightProposals:
    """The first proposal of each round of one height, bodies left out, and which rounds had a second one."""

    __slots__ = ("_first", "_reported", "_round")

    def __init__(self) -> None:
        self._round: Round = 0
        self._first: dict[Round, Proposal] = {}
        self._reported: dict[Round, None] = {}

    def advance(self, round_: Round) -> None:
        """The current round is ``round_``: forget what lies too far behind it."""
        self._round = round_
        for old in [known for known in self._first if known < round_ - PROPOSALS_BEHIND]:
            del self._first[old]
            self._reported.pop(old, None)

    def get(self, round_: Round) -> Proposal | None:
        """The first proposal of a round."""
        return self._first.get(round_)

    def keep(self, proposal: Proposal) -> bool:
        """True when this is the first of its round, which is kept from now on. False for any other, and for rounds too
        far away. Its signature verified."""
        round_ = round_of(proposal.view)
        if round_ in self._first or not self._round - PROPOSALS_BEHIND <= round_ <= self._round + VIEWS_AHEAD:
            return False
        self._first[round_] = without_body(proposal)
        return True

    def contradicted(self, proposal: Proposal) -> Proposal | None:
        """The first of its round when this is for a different block; once per round. Its signature verified."""
        round_ = round_of(proposal.view)
        first = self._first.get(round_)
        if first is None or first.header == proposal.header or round_ in self._reported:
            return None
        self._reported[round_] = None
        return first
