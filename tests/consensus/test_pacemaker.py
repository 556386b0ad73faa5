"""How long a view lasts, and who gave it up."""

from __future__ import annotations

from consensus.genesis import Pacing
from consensus.pacemaker import VIEWS_AHEAD, TimeoutTally, view_duration
from consensus.protocols.chained_types import Timeout
from tests.support.chain import Chain
from tests.support.committee import committee

MILLISECOND = 1_000_000


def test_a_view_lasts_longer_for_each_one_without_a_commit_beyond_what_a_commit_takes() -> None:
    pacing = Pacing(view_timeout_ms=100, growth_numerator=3, growth_denominator=2, exponent_max=2)
    durations = [view_duration(pacing, view, 10, 2) for view in range(11, 18)]
    assert durations == [
        100 * MILLISECOND,
        100 * MILLISECOND,
        150 * MILLISECOND,
        225 * MILLISECOND,
        225 * MILLISECOND,
        225 * MILLISECOND,
        225 * MILLISECOND,
    ]
    assert view_duration(pacing, 13, 10, 3) == 100 * MILLISECOND, "a three-chain takes one more"


def test_durations_are_integers_rounded_once() -> None:
    pacing = Pacing(view_timeout_ms=1, growth_numerator=4, growth_denominator=3, exponent_max=64)
    assert view_duration(pacing, 7, 0, 2) == MILLISECOND * 4**5 // 3**5
    assert isinstance(view_duration(pacing, 7, 0, 2), int)


def tally_of(stakes: tuple[int, ...] = (1, 1, 1, 1)) -> tuple[Chain, TimeoutTally[Timeout]]:
    members = committee(len(stakes), stakes=stakes)
    return Chain(members), TimeoutTally(members.epoch.validators)


def test_the_stake_that_gave_up_adds_up_and_nobody_counts_twice() -> None:
    chain, tally = tally_of((5, 1, 2, 3))
    assert [tally.add(chain.timeout(1, signer)) for signer in (2, 0, 2, 3, 0, 1)] == [2, 7, None, 10, None, 11]
    assert tally.of(1) == tuple(chain.timeout(1, signer) for signer in range(4))


def test_a_second_timeout_does_not_replace_the_first() -> None:
    chain, tally = tally_of()
    high = chain.qc(chain.block(1))
    tally.add(chain.timeout(2, 0, high))
    assert tally.add(chain.timeout(2, 0, chain.genesis)) is None
    assert tally.of(2) == (chain.timeout(2, 0, high),)


def test_exactly_the_views_of_the_window_are_kept() -> None:
    chain, tally = tally_of()
    tally.advance(5)
    for view in range(1, 40):
        taken = tally.add(chain.timeout(view, 0)) == 1
        assert taken == (5 <= view <= 5 + VIEWS_AHEAD)
        assert len(tally.of(view)) == taken


def test_before_any_view_was_entered_the_window_begins_at_one() -> None:
    chain, tally = tally_of()
    assert tally.add(chain.timeout(1, 0)) == 1
    assert tally.add(chain.timeout(1 + VIEWS_AHEAD, 0)) == 1
    assert tally.add(chain.timeout(2 + VIEWS_AHEAD, 0)) is None


def test_what_is_over_is_forgotten() -> None:
    chain, tally = tally_of()
    for view in (1, 2, 3):
        tally.add(chain.timeout(view, 0))
    tally.advance(2)
    assert [len(tally.of(view)) for view in (1, 2, 3)] == [0, 1, 1]


def test_a_timeout_with_a_bad_signature_is_taken_back_with_its_stake_and_may_be_mended() -> None:
    chain, tally = tally_of((5, 1, 2, 3))
    tally.add(chain.timeout(1, 3))
    tally.add(chain.timeout(1, 2))
    tally.drop(1, 3)
    tally.drop(1, 3)
    tally.drop(1, 0)
    tally.drop(7, 0)
    assert tally.of(1) == (chain.timeout(1, 2),)
    assert tally.add(chain.timeout(1, 3)) == 5
