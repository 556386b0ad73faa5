"""The engine fed by hand: what a leader builds and proposes.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.engine import (
    BuildPayload,
    CheckPayload,
    PayloadVerdict,
    Reject,
    Sign,
)
from consensus.genesis import Pacing
from consensus.protocols.chained_types import Certificates, Proposal
from consensus.protocols.order_votes import order_delay_ns
from consensus.types import Vote, VoteSubject
from tests.support.chain import CHAINED_NAMES, Alone, Chain, Happened, grow
from tests.support.committee import committee

replace = msgspec.structs.replace
every_protocol = pytest.mark.parametrize("protocol", CHAINED_NAMES)
PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50, growth_numerator=2, growth_denominator=1, exponent_max=2)
MILLISECOND = 1_000_000


def setting(protocol: str, me: int | None = 3, count: int = 4) -> tuple[Chain, Alone]:
    members = committee(count, protocol=protocol, pacing=PACING)
    return Chain(members), Alone(members, me=me)


def building(happened: Happened) -> BuildPayload:
    (build,) = happened.of(BuildPayload)
    return build


@every_protocol
def test_the_leader_builds_on_the_highest_certificate_and_votes_for_its_own_block(protocol: str) -> None:
    chain, alone = setting(protocol, me=1)
    b1 = chain.block(1, body=b"payload")
    alone.now = 5
    build = building(grow(chain, alone, b1))
    assert (build.view, build.parent, build.height, build.parent_timestamp_ms) == (2, b1.id, 2, 1_001)
    assert build.path == ((b1, chain.body(b1)),)
    patience_ns = order_delay_ns(PACING) if protocol == "jolteon" else 0
    assert build.deadline_ns == 5 + min(patience_ns, 50 * MILLISECOND), "payloads wait for their commit: no idling"
    happened = alone.build(2, b1.id, b"two")
    (proposal,) = happened.sent(Proposal)
    expected = chain.block(2, on=b1, body=b"two")
    assert proposal == chain.proposal(expected)
    assert happened.sent(Vote) == [chain.vote(expected, 1)]
    assert not happened.of(CheckPayload), "what it built itself needs no judge"
    assert not alone.build(2, b1.id, b"again").effects, "never a second for one view"


@every_protocol
def test_an_idle_leader_waits_the_idle_interval(protocol: str) -> None:
    chain, alone = setting(protocol, me=1)
    alone.now = 5
    assert building(grow(chain, alone, chain.block(1))).deadline_ns == 5 + 50 * MILLISECOND


@every_protocol
def test_a_leader_that_gave_up_its_view_proposes_nothing_in_it(protocol: str) -> None:
    chain, alone = setting(protocol, me=0)
    assert building(alone.started).view == 1
    alone.time_out()
    assert not alone.build(1, chain.genesis.block_id).effects
    chain, alone = setting(protocol, me=1)
    b1 = chain.block(1)
    alone.judge = lambda check: None
    alone.hear(chain.proposal(b1))
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None))
    alone.time_out()
    assert not alone.feed(PayloadVerdict(block_id=b1.id, certified=True, valid=True)).of(BuildPayload)


@every_protocol
def test_payloads_for_other_views_and_parents_are_dropped(protocol: str) -> None:
    chain, alone = setting(protocol, me=1)
    b1 = chain.block(1)
    assert not alone.build(2, b1.id).effects, "not asked for"
    grow(chain, alone, b1)
    assert not alone.build(1, b1.id).effects
    assert not alone.build(2, bytes(32)).effects
    assert alone.build(2, b1.id).sent(Proposal)


@every_protocol
def test_a_leader_after_a_failed_view_carries_its_certificate(protocol: str) -> None:
    chain, alone = setting(protocol, me=2)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    tc = chain.tc(2, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc))
    alone.end_wait()
    happened = alone.build(3, b1.id)
    expected = chain.block(3, on=b1, tc=tc)
    assert happened.sent(Proposal) == [chain.proposal(expected)]
    assert happened.sent(Vote) == [chain.vote(expected, 2)]


@every_protocol
def test_a_certificate_that_rises_within_the_view_does_not_spoil_the_proposal(protocol: str) -> None:
    """::

    genesis <- b1 <- b2        view 3 is entered by TC(2); while the payload is being built, QC(b2) arrives

    The block stands on b1 with TC(2), as it was begun, and is well formed.
    """
    chain, alone = setting(protocol, me=2)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.proposal(b2))
    tc = chain.tc(2, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc))
    alone.end_wait()
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b2), high_tc=None))
    assert alone.view == 3
    (proposal,) = alone.build(3, b1.id).sent(Proposal)
    other = Alone(alone.committee, me=0)
    for message in (chain.proposal(b1), chain.proposal(b2), proposal):
        happened = other.hear(message)
        assert not happened.of(Reject)
    assert other.view == 3
    assert alone.time_out().signed[-1:] == [chain.timeout_subject(3, chain.qc(b2))]


def kinds(happened: Happened) -> list[str]:
    return [effect.subject.kind for effect in happened.of(Sign)]


@every_protocol
def test_a_leader_signs_its_proposal_before_its_vote(protocol: str) -> None:
    chain, alone = setting(protocol, me=0)
    happened = alone.build(1, chain.genesis.block_id)
    assert kinds(happened) == ["proposal", "vote"]
    subject = happened.signed[1]
    assert isinstance(subject, VoteSubject)
    assert subject.justify_view == 0


@every_protocol
def test_who_does_not_lead_builds_nothing(protocol: str) -> None:
    """Not before its turn, not after, and an observer never."""
    chain, alone = setting(protocol, me=2)
    assert not alone.started.of(BuildPayload)
    b1 = chain.block(1)
    assert not grow(chain, alone, b1).of(BuildPayload)
    b2 = chain.block(2, on=b1)
    assert grow(chain, alone, b2).of(BuildPayload)
    alone.build(3, b2.id)
    assert not grow(chain, alone, chain.block(3, on=b2)).of(BuildPayload)
    _, observer = setting(protocol, me=None)
    assert not grow(chain, observer, b1).of(BuildPayload)


@every_protocol
def test_people_are_told_who_leads(protocol: str) -> None:
    chain, alone = setting(protocol)
    for view in (1, 2, 3):
        assert (alone.replica.status().view, alone.replica.status().leader) == (view, view - 1)
        alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(view, [chain.genesis] * 3)))
