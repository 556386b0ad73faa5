"""The rules of HotStuff-2, one story each: what is voted for, what locks, what commits, and the leader's wait."""

from __future__ import annotations

import pytest

from consensus.engine import BuildPayload, Refusal, Send, SetTimer, StepBuilder
from consensus.genesis import Pacing
from consensus.pacemaker import view_duration
from consensus.protocols.chained_types import Certificates, OrderVote, TimeoutGroup
from consensus.protocols.hotstuff2 import HotStuff2
from consensus.protocols.leader_wait import WAIT_TIMER, LeaderWait
from consensus.protocols.registry import HOTSTUFF2
from consensus.types import Block, Certificate
from tests.support.chain import Alone, Chain, Happened, grow
from tests.support.cluster import MILLISECOND, SECOND, Cluster
from tests.support.committee import committee

RULES = HotStuff2()


@pytest.fixture
def chain() -> Chain:
    return Chain(committee(protocol="hotstuff2"))


def may_vote(chain: Chain, block: Block, lock: Certificate) -> bool:
    return RULES.may_vote(block.header, chain.proof(block), lock, chain.tree(block))


# --- voting and locking ----------------------------------------------------------------------------------------------


def test_voting_stands_at_the_lock_or_above(chain: Chain) -> None:
    """::

    genesis <- b1 <- b2 <- b3        locked on b2's certificate: b3 and what stands higher, but nothing on b1
                \\- c4
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    c4 = chain.block(4, on=b1)
    lock = chain.qc(b2)
    assert may_vote(chain, b3, lock), "at the lock"
    assert may_vote(chain, chain.block(4, on=b3), lock), "above it"
    assert not may_vote(chain, c4, lock)
    assert may_vote(chain, c4, chain.qc(b1))


def test_voting_locks_the_certificate_that_the_block_stands_on(chain: Chain) -> None:
    """::

    genesis <- b1 <- b2        a vote for b2 locks QC(b1), a vote for b1 nothing new
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert RULES.lock_after(chain.genesis, b1.header, chain.tree(b1)) == chain.genesis
    assert RULES.lock_after(chain.genesis, b2.header, chain.tree(b1, b2)) == chain.qc(b1)
    assert RULES.lock_after(chain.qc(b2), b2.header, chain.tree(b1, b2)) == chain.qc(b2), "never down"


def test_seeing_a_certificate_locks_nothing(chain: Chain) -> None:
    """Mutant N2::

    genesis <- b1 <-QC-  shown to this replica alone; the leader of view 2 does not know of it and proposes c2
            \\- c2
    """
    alone = Alone(chain.committee, me=3)
    b1 = chain.block(1)
    tc = chain.tc(1, [chain.genesis] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=tc))
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None))
    c2 = chain.block(2, tc=tc)
    assert alone.view == 2
    assert alone.hear(chain.proposal(c2)).signed == [chain.vote_subject(c2)]


def test_a_timeout_signs_the_view_only(chain: Chain) -> None:
    qc = chain.qc(chain.block(1))
    assert RULES.signed_high_qc_view(qc) is None
    assert RULES.may_time_out(qc, chain.genesis)
    assert not RULES.may_time_out(chain.genesis, qc)
    good = chain.tc(3, [qc, chain.genesis, chain.genesis])
    assert RULES.check_timeout_certificate(good) is None
    [group] = good.groups
    signed = TimeoutGroup(high_qc_view=1, signers=group.signers, signature=group.signature)
    for groups in ((group, group), (signed,)):
        refusal = RULES.check_timeout_certificate(type(good)(epoch=0, view=3, high_qc=qc, groups=groups))
        assert refusal == Refusal("timeout certificate: one group over (epoch, view) expected")
    high = type(good)(epoch=0, view=1, high_qc=qc, groups=(group,))
    assert RULES.check_timeout_certificate(high) == Refusal(
        "timeout certificate: its high certificate is not below its view"
    )


# --- committing ------------------------------------------------------------------------------------------------------


def test_two_consecutive_views_commit(chain: Chain) -> None:
    """::

    genesis <- b1 <- b2 <-QC-        commits b1;  a gap between the two commits nothing
    """
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    c3 = chain.block(3, on=b1)
    target = RULES.commit_target(chain.qc(b2), chain.tree(b1, b2))
    assert target is not None
    assert target.block == b1
    assert RULES.commit_target(chain.qc(c3), chain.tree(b1, c3)) is None
    assert RULES.is_committed([b1.header, b2.header])
    assert not RULES.is_committed([b1.header, c3.header])
    assert not RULES.is_committed([b2.header])


def test_there_is_no_fast_path(chain: Chain) -> None:
    assert OrderVote not in HOTSTUFF2.messages
    alone = Alone(chain.committee, me=3)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    assert not alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None)).ordered


# --- the wait --------------------------------------------------------------------------------------------------------


def enter_by_timeout(chain: Chain, me: int, high_qc: Certificate | None = None) -> tuple[Alone, Happened]:
    """View 2, led by validator 1, is entered by TC(1); the replica knows ``high_qc`` besides."""
    alone = Alone(chain.committee, me=me)
    tc = chain.tc(1, [chain.genesis] * 3)
    return alone, alone.hear(Certificates(epoch=0, high_qc=high_qc or chain.genesis, high_tc=tc), peer=2)


def built(happened: Happened) -> bool:
    return bool(happened.of(BuildPayload))


def test_a_leader_with_the_certificate_of_the_view_before_does_not_wait(chain: Chain) -> None:
    alone = Alone(chain.committee, me=1)
    happened = grow(chain, alone, chain.block(1))
    assert built(happened)
    assert not [timer for timer in happened.of(SetTimer) if timer.name == WAIT_TIMER]


def test_a_leader_after_a_failed_view_waits_two_fifths_of_its_view(chain: Chain) -> None:
    alone, happened = enter_by_timeout(chain, me=1)
    assert not built(happened)
    duration_ns = view_duration(chain.committee.spec.pacing, 2, 0, 2)
    assert alone.timers[WAIT_TIMER] == 2 * duration_ns // 5
    alone.now = alone.timers[WAIT_TIMER] - 1
    assert not built(alone.time_out()), "no timer but its own ends the wait"
    alone, _ = enter_by_timeout(chain, me=1)
    assert built(alone.end_wait())


def test_a_leader_that_heard_of_all_stake_does_not_wait_longer(chain: Chain) -> None:
    """The report of validator 3 names a certificate that nobody else knows: the block stands on it."""
    alone, _ = enter_by_timeout(chain, me=1)  # which was a report of validator 2 as well
    tc = chain.tc(1, [chain.genesis] * 3)
    report = Certificates(epoch=0, high_qc=chain.genesis, high_tc=tc)
    assert not built(alone.hear(report, peer=0))
    assert not built(alone.hear(report, peer=0)), "nobody counts twice"
    assert not built(alone.hear(report, peer=bytes(32))), "an observer is not asked"
    assert not built(alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=None), peer=3)), "of no view"
    assert built(alone.hear(report, peer=3))


def test_reports_of_views_before_do_not_end_the_wait(chain: Chain) -> None:
    """TC(1), TC(2): what was sent in view 2 says nothing of what its sender knew when it entered view 3."""
    alone = Alone(chain.committee, me=2)
    first, second = (
        Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(view, [chain.genesis] * 3)) for view in (1, 2)
    )
    alone.hear(second, peer=1)
    for peer in (0, 3):
        assert not built(alone.hear(first, peer=peer))
    assert not built(alone.hear(second, peer=0))
    assert built(alone.hear(second, peer=3))


def test_the_certificate_of_the_view_before_ends_the_wait(chain: Chain) -> None:
    alone, _ = enter_by_timeout(chain, me=1)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    [build] = alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None)).of(BuildPayload)
    assert build.parent == b1.id


def test_what_a_report_shows_is_what_the_block_stands_on(chain: Chain) -> None:
    """::

    genesis <- b1 <-QC-        TC(1), TC(2): validator 0 alone knows QC(b1), and says so to the leader of view 3
    """
    alone = Alone(chain.committee, me=2)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    tc = chain.tc(2, [chain.genesis] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=tc), peer=1)
    assert not built(alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc), peer=0))
    [build] = alone.end_wait().of(BuildPayload)
    assert build.parent == b1.id


def test_whoever_enters_by_a_timeout_certificate_tells_the_leader(chain: Chain) -> None:
    _, happened = enter_by_timeout(chain, me=3)
    [told] = [send for send in happened.of(Send) if isinstance(send.message, Certificates)]
    assert told.peer == chain.committee.peer(1)
    assert told.message == Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(1, [chain.genesis] * 3))
    observer = Alone(chain.committee, me=None)
    tc = chain.tc(1, [chain.genesis] * 3)
    assert not observer.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=tc)).of(Send)
    alone = Alone(chain.committee, me=3)
    assert not grow(chain, alone, chain.block(1)).of(Send), "a view that a certificate opened needs nothing"


def test_the_wait_counts_stake() -> None:
    members = committee(stakes=(5, 1, 1, 1))
    out = StepBuilder()
    wait = LeaderWait(members.epoch, out, 1)
    highest = Certificates(epoch=0, high_qc=members.epoch.genesis, high_tc=None)
    wait.begin(2, 100, 1_000, highest)
    assert out.finish().effects == (SetTimer(WAIT_TIMER, 500),)
    assert not wait.is_over(499)
    assert wait.is_over(500)
    wait.report(b"o" * 32)
    for validator in (0, 0, 2, 3):
        assert not wait.is_over(499)
        wait.report(members.peer(validator))
    assert wait.is_over(0)
    wait.begin(6, 0, 1_000, highest)
    assert not wait.is_over(0), "another view begins at nothing"


@pytest.mark.parametrize(("delay_ms", "enough"), [(19, True), (32, False)])
def test_a_view_after_a_failed_one_succeeds_when_delays_are_a_fifth_of_it(delay_ms: int, enough: bool) -> None:
    """The bound that the length of the wait was chosen by: one silent leader in four, views of 100 ms. Each timer that
    fires is one of its views; with longer delays the view after it fails too."""
    pacing = Pacing(view_timeout_ms=100, idle_interval_ms=1, exponent_max=0)
    delay_ns = (delay_ms * MILLISECOND, delay_ms * MILLISECOND)
    cluster = Cluster(committee(protocol="hotstuff2", pacing=pacing), delay_ns=delay_ns)
    cluster.route = lambda source, target, message, now: () if source.name == "v3" else (delay_ns[0],)
    cluster.start()
    assert cluster.run(20 * SECOND, until=lambda: sorted(cluster.heights())[1] >= 20)
    first = cluster.nodes[0]
    assert first.replica is not None
    assert (first.timeouts_fired <= first.replica.status().view // 4) == enough


def test_the_family_knows_it_by_name() -> None:
    assert (RULES.name, RULES.costs.commit_views, RULES.costs.commit_delays) == ("hotstuff2", 2, 4)
