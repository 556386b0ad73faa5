"""Counting votes: by the whole subject, by stake, each signer once, the first kept and the second reported."""

from __future__ import annotations

import msgspec
import pytest

from consensus.certificates import QuorumChecker
from consensus.crypto.scheme import Scheme
from consensus.types import Vote, signers_of
from consensus.vote_tally import (
    VIEWS_AHEAD,
    VIEWS_BEHIND,
    BadSignature,
    Counted,
    Equivocated,
    Ignored,
    VoteTally,
)
from tests.support.chain import Chain, tampered
from tests.support.committee import Committee, committee


def tally_of(members: Committee) -> tuple[Chain, VoteTally, QuorumChecker]:
    checker = QuorumChecker(members.epoch, members.scheme, ("vote",))
    return Chain(members), VoteTally(members.epoch.validators, checker), checker


def test_the_third_of_four_completes_the_certificate() -> None:
    chain, tally, checker = tally_of(committee())
    block = chain.block(1)
    assert [tally.add(chain.vote(block, signer)) for signer in (3, 0)] == [Counted(), Counted()]
    result = tally.add(chain.vote(block, 1))
    assert result == Counted(chain.qc(block, [0, 1, 3]))
    assert tally.add(chain.vote(block, 2)) == Counted(), "a certificate is made once"
    stranger = QuorumChecker(chain.epoch, chain.committee.scheme, ("vote",))
    assert isinstance(result, Counted)
    assert result.certificate is not None
    assert stranger.check(result.certificate) is None
    assert checker.check(result.certificate) is None


def test_stake_counts_and_heads_do_not() -> None:
    """Total 10, quorum 7: the three small ones are no quorum, the big one and any other is."""
    chain, tally, _ = tally_of(committee(4, stakes=(6, 1, 1, 2)))
    block = chain.block(1)
    for signer in (1, 2, 3):
        assert tally.add(chain.vote(block, signer)) == Counted()
    result = tally.add(chain.vote(block, 0))
    assert isinstance(result, Counted)
    assert result.certificate is not None
    other = chain.block(2)
    assert tally.add(chain.vote(other, 0)) == Counted()
    result = tally.add(chain.vote(other, 1))
    assert isinstance(result, Counted)
    assert result.certificate is not None
    assert signers_of(result.certificate.signers) == (0, 1)


def test_a_vote_sent_again_is_not_counted_again() -> None:
    chain, tally, _ = tally_of(committee())
    block = chain.block(1)
    tally.add(chain.vote(block, 0))
    tally.add(chain.vote(block, 1))
    assert tally.add(chain.vote(block, 1)) == Ignored()
    assert tally.add(chain.vote(block, 0)) == Ignored()


@pytest.mark.parametrize("field", ["block_id", "height", "justify_view", "view"])
def test_votes_are_added_up_by_everything_they_sign(field: str) -> None:
    chain, tally, _ = tally_of(committee())
    block = chain.block(2)
    tally.add(chain.vote(block, 0))
    tally.add(chain.vote(block, 1))
    vote = chain.vote(block, 2)
    changed: object = bytes(32) if field == "block_id" else getattr(vote, field) + 1
    assert tally.add(msgspec.structs.replace(vote, **{field: changed})) == Counted()


def test_an_equivocator_is_reported_once_and_counted_once() -> None:
    """::

    genesis <- b1     v3 votes for b1,
           \\- c1     then for c1, then for d1
            \\ d1
    """
    chain, tally, _ = tally_of(committee())
    b1, c1, d1 = (chain.block(1, timestamp_ms=2_000 + number) for number in range(3))
    assert tally.add(chain.vote(b1, 3)) == Counted()
    assert tally.add(chain.vote(c1, 3)) == Equivocated(chain.vote(b1, 3), chain.vote(c1, 3))
    assert tally.add(chain.vote(d1, 3)) == Ignored()
    assert tally.add(chain.vote(c1, 0)) == Counted()
    assert tally.add(chain.vote(c1, 1)) == Counted(), "two for c1: the second vote of v3 is none"
    tally.add(chain.vote(b1, 2))
    assert tally.add(chain.vote(b1, 1)) == Equivocated(chain.vote(c1, 1), chain.vote(b1, 1))


def test_equivocation_in_one_view_says_nothing_about_another() -> None:
    chain, tally, _ = tally_of(committee())
    first = [chain.block(1, timestamp_ms=2_000 + number) for number in range(2)]
    second = [chain.block(2, timestamp_ms=2_000 + number) for number in range(2)]
    for pair in (first, second):
        tally.add(chain.vote(pair[0], 3))
        assert isinstance(tally.add(chain.vote(pair[1], 3)), Equivocated)


def test_nobody_is_accused_of_a_vote_that_he_did_not_sign() -> None:
    chain, tally, _ = tally_of(committee())
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    tally.add(chain.vote(b1, 3))
    assert tally.add(tampered(chain.vote(c1, 3))) == BadSignature()
    assert tally.add(chain.vote(c1, 3)) == Equivocated(chain.vote(b1, 3), chain.vote(c1, 3)), "a real second vote is"


def test_a_bad_first_vote_is_no_evidence() -> None:
    chain, tally, _ = tally_of(committee())
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    assert tally.add(tampered(chain.vote(b1, 3))) == Counted(), "not looked at before a quorum"
    assert tally.add(chain.vote(c1, 3)) == BadSignature()
    assert tally.add(chain.vote(c1, 3)) == Ignored()


def test_bad_signatures_are_sifted_out_when_a_quorum_is_joined() -> None:
    chain, tally, _ = tally_of(committee())
    block = chain.block(1)
    tally.add(tampered(chain.vote(block, 3)))
    tally.add(chain.vote(block, 0))
    assert tally.add(chain.vote(block, 1)) == Counted(spoiled=(3,)), "two good ones remain"
    assert tally.add(chain.vote(block, 2)) == Counted(chain.qc(block, [0, 1, 2]))


def test_the_stake_of_spoiled_votes_goes_too() -> None:
    """Stakes 3, 2, 2, 2, quorum 7: without v0's spoiled 3 the rest is 6, and does not count until v0's is there."""
    chain, tally, _ = tally_of(committee(4, stakes=(3, 2, 2, 2)))
    block = chain.block(1)
    tally.add(tampered(chain.vote(block, 0)))
    tally.add(chain.vote(block, 1))
    assert tally.add(chain.vote(block, 2)) == Counted(spoiled=(0,))
    assert tally.add(chain.vote(block, 3)) == Counted()


def test_a_certificate_may_be_made_beside_a_spoiled_vote() -> None:
    """Stakes 4, 4, 1, 1, quorum 7: v0 and v1 reach it although v2's signature must go."""
    chain, tally, _ = tally_of(committee(4, stakes=(4, 4, 1, 1)))
    block = chain.block(1)
    tally.add(tampered(chain.vote(block, 2)))
    tally.add(chain.vote(block, 0))
    assert tally.add(chain.vote(block, 1)) == Counted(chain.qc(block, [0, 1]), (2,))


def test_exactly_the_views_of_the_window_are_kept() -> None:
    chain, tally, _ = tally_of(committee())
    current = 20
    tally.advance(current)
    for view in range(1, 60):
        inside = current - VIEWS_BEHIND <= view <= current + VIEWS_AHEAD
        assert tally.add(chain.vote(chain.block(view), 0)) == (Counted() if inside else Ignored())


def test_what_the_window_leaves_behind_is_forgotten() -> None:
    chain, tally, _ = tally_of(committee())
    block, newer = chain.block(1), chain.block(2)
    for signer in (0, 1):
        tally.add(chain.vote(block, signer))
        tally.add(chain.vote(newer, signer))
    tally.advance(1 + VIEWS_BEHIND)
    assert isinstance(tally.add(chain.vote(block, 0)), Ignored), "still known"
    tally.advance(2 + VIEWS_BEHIND)
    tally.advance(1)
    assert tally.add(chain.vote(block, 0)) == Counted(), "known no more"
    assert tally.add(chain.vote(newer, 0)) == Ignored()


class CountingScheme:
    """Counts what is verified."""

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self.verified = 0

    def __getattr__(self, name: str) -> object:
        if name.startswith("verify"):
            self.verified += 1
        return getattr(self._scheme, name)


def test_nothing_is_verified_before_a_quorum_and_a_quorum_once() -> None:
    members = committee()
    chain = Chain(members)
    scheme = CountingScheme(members.scheme)
    checker = QuorumChecker(members.epoch, scheme, ("vote",))  # type: ignore[arg-type]  # it counts, and has what a checker asks
    tally = VoteTally(members.epoch.validators, checker)
    block = chain.block(1)
    tally.add(chain.vote(block, 0))
    tally.add(chain.vote(block, 1))
    assert scheme.verified == 0
    tally.add(chain.vote(block, 2))
    assert scheme.verified == 1
    assert checker.check(chain.qc(block)) is None
    assert scheme.verified == 1, "what was made here is known to verify"


def test_a_vote_of_another_kind_is_another_slot() -> None:
    chain, tally, _ = tally_of(committee())
    vote: Vote = chain.vote(chain.block(1), 0)
    tally.add(vote)
    assert tally.add(msgspec.structs.replace(vote, kind="other")) == Counted()


def test_votes_for_what_is_certified_already_make_no_second_certificate() -> None:
    """A certificate came from elsewhere. Equivocation is noticed as before."""
    chain, tally, _ = tally_of(committee())
    block = chain.block(1)
    tally.add(chain.vote(block, 0))
    tally.settle(chain.vote_subject(block))
    for signer in (1, 2, 3):
        assert tally.add(chain.vote(block, signer)) == Counted()
    other = chain.block(1, timestamp_ms=2_000)
    assert tally.add(chain.vote(other, 1)) == Equivocated(chain.vote(block, 1), chain.vote(other, 1))
    far = chain.block(VIEWS_AHEAD + 2)
    tally.settle(chain.vote_subject(far))
    tally.advance(VIEWS_AHEAD)
    assert [tally.add(chain.vote(far, signer)) for signer in (0, 1)] == [Counted(), Counted()]
    result = tally.add(chain.vote(far, 2))
    assert isinstance(result, Counted)
    assert result.certificate is not None, "outside the window nothing is kept"
