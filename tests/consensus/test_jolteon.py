"""The rules of Jolteon, one story each."""

from __future__ import annotations

import msgspec
import pytest

from consensus.protocols.chained_types import TimeoutCertificate, TimeoutGroup
from consensus.protocols.jolteon import Jolteon
from consensus.types import Block
from tests.support.chain import Chain
from tests.support.committee import committee

replace = msgspec.structs.replace
RULES = Jolteon()


@pytest.fixture
def chain() -> Chain:
    return Chain(committee())


def votes_for(chain: Chain, block: Block, *others: Block) -> bool:
    """The common rules hold; the lock never matters to Jolteon's vote."""
    return RULES.may_vote(block.header, chain.proof(block), chain.genesis, chain.tree(*others, block))


# --- may_vote ------------------------------------------------------------------------------------------------------


def test_a_block_on_the_certificate_of_the_view_before(chain: Chain) -> None:
    """::

    genesis <- b1 <- b2        vote, with nothing else to show
    """
    b1 = chain.block(1)
    assert votes_for(chain, b1)
    assert votes_for(chain, chain.block(2, on=b1), b1)


def test_a_block_after_a_failed_view_stands_as_high_as_the_quorum_that_gave_up(chain: Chain) -> None:
    """::

    b1 <- b2 <- b4        TC(3): the highest certificate of its quorum is QC(b2)
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    tc = chain.tc(3, [chain.qc(b2), chain.qc(b1), chain.qc(b1)])
    assert votes_for(chain, chain.block(4, on=b2, tc=tc), b1, b2)


def test_a_block_below_what_the_quorum_had_seen_is_not_voted_for(chain: Chain) -> None:
    """::

    b1 <- b2                TC(3): one of its quorum knows QC(b2), so b1 may be committed by others
      \\- c4                c4 would fork it
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    tc = chain.tc(3, [chain.qc(b2), chain.qc(b1), chain.qc(b1)])
    assert not votes_for(chain, chain.block(4, on=b1, tc=tc), b1, b2)


def test_a_certificate_above_the_quorums_will_do(chain: Chain) -> None:
    """::

    b1 <- b2 <- b4        TC(3) of those who only knew QC(b1): the leader knows more
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    tc = chain.tc(3, [chain.qc(b1)] * 3)
    assert votes_for(chain, chain.block(4, on=b2, tc=tc), b1, b2)


def test_without_a_timeout_certificate_nothing_entitles_to_a_gap(chain: Chain) -> None:
    b1 = chain.block(1)
    b3 = chain.block(3, on=b1)
    assert not RULES.may_vote(b3.header, None, chain.genesis, chain.tree(b1, b3))


# --- the lock ------------------------------------------------------------------------------------------------------


def test_a_vote_shows_its_justify_and_the_lock_never_falls(chain: Chain) -> None:
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    tree = chain.tree(b1, b2, b3)
    assert RULES.lock_after(chain.genesis, b3.header, tree) == chain.qc(b2)
    assert RULES.lock_after(chain.qc(b2), b2.header, tree) == chain.qc(b2)
    same_view = chain.qc(b2, [1, 2, 3])
    assert RULES.lock_after(same_view, b3.header, tree) == same_view, "of two for one view, the first"


def test_a_timeout_may_not_deny_what_a_vote_has_shown(chain: Chain) -> None:
    """Mutant J2: the vote for b2 has shown QC(b1)."""
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    lock = chain.qc(b1)
    assert not RULES.may_time_out(chain.genesis, lock)
    assert RULES.may_time_out(chain.qc(b1), lock)
    assert RULES.may_time_out(chain.qc(b2), lock)


def test_a_timeout_signs_the_view_of_its_certificate(chain: Chain) -> None:
    assert RULES.signed_high_qc_view(chain.qc(chain.block(7))) == 7
    assert RULES.signed_high_qc_view(chain.genesis) == 0


# --- timeout certificates ------------------------------------------------------------------------------------------


def certificate(chain: Chain, high: int, *views: int | None, of: int = 5) -> TimeoutCertificate:
    groups = tuple(TimeoutGroup(high_qc_view=view, signers=b"\x01", signature=b"") for view in views)
    high_qc = chain.genesis if high == 0 else chain.qc(chain.block(high))
    return TimeoutCertificate(epoch=0, view=of, high_qc=high_qc, groups=groups)


def shape_is_good(given: TimeoutCertificate) -> bool:
    return RULES.check_timeout_certificate(given) is None


def test_the_highest_certificate_is_the_one_that_was_signed(chain: Chain) -> None:
    """Mutant J1. Passing off a lower one would hide a committed block, a higher one was never signed."""
    assert shape_is_good(certificate(chain, 3, 1, 2, 3))
    refusal = RULES.check_timeout_certificate(certificate(chain, 2, 1, 2, 3))
    assert refusal is not None
    assert refusal.reason == "timeout certificate: its high certificate is not the highest that was signed"
    assert not shape_is_good(certificate(chain, 4, 1, 2, 3))
    assert not shape_is_good(certificate(chain, 0, 1))


def test_the_groups_ascend_below_the_view(chain: Chain) -> None:
    reason = "timeout certificate: the groups' certificate views must ascend below its view"
    for views in ((2, 1), (1, 1), (5,), (1, 6), (None,), (None, 1), (1, None)):
        high = views[-1] or 0
        refusal = RULES.check_timeout_certificate(certificate(chain, high, *views))
        assert refusal is not None
        assert refusal.reason == reason
    assert shape_is_good(certificate(chain, 0, 0))
    assert shape_is_good(certificate(chain, 4, 0, 4))


# --- commits -------------------------------------------------------------------------------------------------------


def committed_by(chain: Chain, block: Block, *here: Block) -> Block | None:
    entry = RULES.commit_target(chain.qc(block), chain.tree(*here))
    return None if entry is None else entry.block


def test_two_certified_blocks_in_consecutive_views_commit_the_first(chain: Chain) -> None:
    """::

    b1 <- b2 <-QC-
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert committed_by(chain, b2, b1, b2) == b1
    assert RULES.is_committed([b1.header, b2.header])


def test_a_gap_in_the_views_commits_nothing(chain: Chain) -> None:
    """::

    b1 <- b3 <-QC-        mutant S7: a rival of b1 may have been certified in view 2
    """
    b1 = chain.block(1)
    b3 = chain.block(3, on=b1)
    assert committed_by(chain, b3, b1, b3) is None
    assert not RULES.is_committed([b1.header, b3.header])


def test_one_certificate_commits_nothing(chain: Chain) -> None:
    """Mutant S5."""
    b1 = chain.block(1)
    assert committed_by(chain, b1, b1) is None
    assert not RULES.is_committed([b1.header])
    assert not RULES.is_committed([])


def test_the_last_two_decide(chain: Chain) -> None:
    """::

    b1 <- b3 <- b4 <-QC-        b3, and with it b1
    """
    b1 = chain.block(1)
    b3 = chain.block(3, on=b1)
    b4 = chain.block(4, on=b3)
    b6 = chain.block(6, on=b4)
    assert committed_by(chain, b4, b1, b3, b4) == b3
    assert RULES.is_committed([b1.header, b3.header, b4.header])
    assert not RULES.is_committed([b3.header, b4.header, b6.header])


def test_blocks_that_are_not_here_commit_nothing_yet(chain: Chain) -> None:
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert committed_by(chain, b2, b1) is None
    assert committed_by(chain, b2, b2) is None


def test_the_family_knows_it_by_name() -> None:
    assert (RULES.name, RULES.costs.commit_views) == ("jolteon", 2)
