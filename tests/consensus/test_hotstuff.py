"""The rules of three-chain HotStuff, one story each."""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import block_of
from consensus.protocols.chained_types import TimeoutCertificate, TimeoutGroup
from consensus.protocols.hotstuff import HotStuff
from consensus.types import Block, Certificate
from tests.support.chain import Chain
from tests.support.committee import committee

RULES = HotStuff()


@pytest.fixture
def chain() -> Chain:
    return Chain(committee(protocol="hotstuff"))


def votes_for(chain: Chain, block: Block, lock: Certificate, *others: Block) -> bool:
    return RULES.may_vote(block.header, chain.proof(block), lock, chain.tree(*others, block))


# --- may_vote ------------------------------------------------------------------------------------------------------


def test_a_block_that_extends_the_locked_one_is_safe(chain: Chain) -> None:
    """::

    b1 (locked) <- b2 <- b3
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert votes_for(chain, chain.block(3, on=b2), chain.qc(b1), b1, b2)


def test_a_block_on_the_locked_one_itself_is_safe(chain: Chain) -> None:
    """::

    b1 (locked) <- b4        its justify is not above the lock, but it extends it
    """
    b1 = chain.block(1)
    assert votes_for(chain, chain.block(4, on=b1), chain.qc(b1), b1)


def test_a_block_beside_the_locked_one_is_not_voted_for(chain: Chain) -> None:
    """::

    b1 <- b2 (locked) <- b3        mutant S4: c4 would fork b2, which others may have committed
      \\- c4
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    assert not votes_for(chain, chain.block(4, on=b1), chain.qc(b2), b1, b2, b3)


def test_a_certificate_that_lies_about_its_view_gets_no_vote(chain: Chain) -> None:
    """::

    b1 <- b2 (locked) <- b3 <- b4        a quorum of liars says that b3 is of view 1

    b4 extends the lock, but a vote for it would say that it stands on view 1: below the lock, and that is evidence.
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    b4 = chain.block(4, on=b3)
    honest = b4.header.justify
    lie = block_of(msgspec.structs.replace(b4.header, justify=msgspec.structs.replace(honest, view=1, justify_view=0)))
    tree = chain.tree(b1, b2, b3, b4)
    assert RULES.may_vote(b4.header, None, chain.qc(b2), tree)
    assert not RULES.may_vote(lie.header, None, chain.qc(b2), tree)


def test_of_the_same_view_as_the_lock_is_not_above_it(chain: Chain) -> None:
    """::

    b1 <- b2 (locked)
      \\- c2 <- c3        two certificates of view 2: more than F are faulty, and still no vote
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    c2 = chain.block(2, on=b1, timestamp_ms=2_000)
    assert not votes_for(chain, chain.block(3, on=c2, timestamp_ms=2_001), chain.qc(b2), b1, b2, c2)


def test_a_certificate_above_the_lock_frees_the_voter(chain: Chain) -> None:
    """::

    b1 <- b2 (locked)
      \\- c3 <- c4        QC(c3) shows that a quorum was not locked on b2
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    c3 = chain.block(3, on=b1)
    assert votes_for(chain, chain.block(4, on=c3), chain.qc(b2), b1, b2, c3)


def test_what_lies_below_the_committed_head_is_extended_by_everything_above(chain: Chain) -> None:
    """::

    b1 (locked) <- b2 (head) <- b4
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b4 = chain.block(4, on=b2)
    assert RULES.may_vote(b4.header, chain.proof(b4), chain.qc(b2), chain.tree(b4, root=b2))
    assert RULES.may_vote(b4.header, chain.proof(b4), chain.qc(b1), chain.tree(b4, root=b2))


# --- the lock ------------------------------------------------------------------------------------------------------


def test_a_vote_locks_the_parent_of_its_parent(chain: Chain) -> None:
    """::

    b1 <- b2 <- b3        the vote for b3 has seen QC(b2), whose block carries QC(b1): lock b1
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    tree = chain.tree(b1, b2, b3)
    assert RULES.lock_after(chain.genesis, b3.header, tree) == chain.qc(b1)
    assert RULES.lock_after(chain.genesis, b2.header, tree) == chain.genesis
    assert RULES.lock_after(chain.genesis, b1.header, tree) == chain.genesis


def test_the_lock_never_falls(chain: Chain) -> None:
    """::

    b1 <- b2 (locked)
      \\- c3 <- c4        a vote for c4 would lock b1
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    c3 = chain.block(3, on=b1)
    c4 = chain.block(4, on=c3)
    tree = chain.tree(b1, b2, c3, c4)
    assert RULES.lock_after(chain.qc(b2), c4.header, tree) == chain.qc(b2)
    same_view = chain.qc(b1, [1, 2, 3])
    assert RULES.lock_after(same_view, c4.header, tree) == same_view, "of two for one view, the first"


def test_a_parent_that_is_committed_moves_no_lock(chain: Chain) -> None:
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    assert RULES.lock_after(chain.genesis, b3.header, chain.tree(b3, root=b2)) == chain.genesis


# --- timeouts ------------------------------------------------------------------------------------------------------


def test_timeouts_sign_the_view_only(chain: Chain) -> None:
    assert RULES.signed_high_qc_view(chain.qc(chain.block(7))) is None
    assert RULES.may_time_out(chain.genesis, chain.qc(chain.block(7)))


def certificate(chain: Chain, high: int, *views: int | None) -> TimeoutCertificate:
    groups = tuple(TimeoutGroup(high_qc_view=view, signers=b"\x01", signature=b"") for view in views)
    high_qc = chain.genesis if high == 0 else chain.qc(chain.block(high))
    return TimeoutCertificate(epoch=0, view=5, high_qc=high_qc, groups=groups)


def test_the_shape_of_a_timeout_certificate(chain: Chain) -> None:
    assert RULES.check_timeout_certificate(certificate(chain, 4, None)) is None
    assert RULES.check_timeout_certificate(certificate(chain, 0, None)) is None
    one_group = "timeout certificate: one group over (epoch, view) expected"
    for views in ((None, None), (3,), (0,)):
        refusal = RULES.check_timeout_certificate(certificate(chain, 3, *views))
        assert refusal is not None
        assert refusal.reason == one_group
    for high in (5, 6):
        refusal = RULES.check_timeout_certificate(certificate(chain, high, None))
        assert refusal is not None
        assert refusal.reason == "timeout certificate: its high certificate is not below its view"


# --- commits -------------------------------------------------------------------------------------------------------


def committed_by(chain: Chain, block: Block, *here: Block) -> Block | None:
    entry = RULES.commit_target(chain.qc(block), chain.tree(*here))
    return None if entry is None else entry.block


def test_three_certified_blocks_in_consecutive_views_commit_the_first(chain: Chain) -> None:
    """::

    b1 <- b2 <- b3 <-QC-
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    assert committed_by(chain, b3, b1, b2, b3) == b1
    assert RULES.is_committed([b1.header, b2.header, b3.header])


@pytest.mark.parametrize("views", [(1, 2, 4), (1, 3, 4), (1, 3, 5)])
def test_a_gap_in_the_views_commits_nothing(chain: Chain, views: tuple[int, int, int]) -> None:
    """::

    b1 <- b3 <- b4 <-QC-        mutant S8: with direct parents only, a rival of b1 may be certified in view 2
    """
    first = chain.block(views[0])
    second = chain.block(views[1], on=first)
    third = chain.block(views[2], on=second)
    assert committed_by(chain, third, first, second, third) is None
    assert not RULES.is_committed([first.header, second.header, third.header])


def test_two_are_not_enough(chain: Chain) -> None:
    """Mutant S6."""
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert committed_by(chain, b2, b1, b2) is None
    assert committed_by(chain, b1, b1) is None
    assert not RULES.is_committed([b1.header, b2.header])
    assert not RULES.is_committed([b2.header])
    assert not RULES.is_committed([])


def test_the_last_three_decide(chain: Chain) -> None:
    """::

    b1 <- b3 <- b4 <- b5 <-QC-        b3, and with it b1
    """
    b1 = chain.block(1)
    b3 = chain.block(3, on=b1)
    b4 = chain.block(4, on=b3)
    b5 = chain.block(5, on=b4)
    b7 = chain.block(7, on=b5)
    assert committed_by(chain, b5, b1, b3, b4, b5) == b3
    assert RULES.is_committed([b1.header, b3.header, b4.header, b5.header])
    assert not RULES.is_committed([b3.header, b4.header, b5.header, b7.header])


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_blocks_that_are_not_here_commit_nothing_yet(chain: Chain, missing: int) -> None:
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    here = [block for index, block in enumerate((b1, b2, b3)) if index != missing]
    assert committed_by(chain, b3, *here) is None


def test_the_family_knows_it_by_name() -> None:
    assert (RULES.name, RULES.costs.commit_views) == ("hotstuff", 3)
