"""The engine fed by hand: votes, timeouts, and the views that their certificates open.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on; the replica under test is validator 3.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.engine import (
    Broadcast,
    PayloadVerdict,
    ReportEvidence,
    Send,
)
from consensus.genesis import Pacing
from consensus.protocols.chained_types import Certificates, Proposal
from consensus.types import Vote
from tests.support.chain import CHAINED_NAMES, Alone, Chain, refused, tampered
from tests.support.committee import committee

replace = msgspec.structs.replace
every_protocol = pytest.mark.parametrize("protocol", CHAINED_NAMES)
PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50, growth_numerator=2, growth_denominator=1, exponent_max=2)
MILLISECOND = 1_000_000


def setting(protocol: str, me: int | None = 3, count: int = 4) -> tuple[Chain, Alone]:
    members = committee(count, protocol=protocol, pacing=PACING)
    return Chain(members), Alone(members, me=me)


# --- votes ---------------------------------------------------------------------------------------------------------


@every_protocol
def test_a_quorum_of_votes_opens_the_next_view(protocol: str) -> None:
    """The own vote counts, and comes back through the signer only."""
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.vote(b1, 0))
    assert alone.view == 1
    alone.hear(chain.vote(b1, 1))
    assert alone.view == 2
    chain, alone = setting(protocol)
    alone.signs = False
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.vote(b1, 0))
    alone.hear(chain.vote(b1, 1))
    assert alone.view == 1


@every_protocol
def test_one_vote_per_view(protocol: str) -> None:
    """::

    genesis <- b1        mutant S2: the leader's twin proposes c1 in the same view, and later still d1 comes
           \\- c1
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    assert alone.hear(chain.proposal(b1)).signed == [chain.vote_subject(b1)]
    for stamp in (2_000, 2_001):
        assert not alone.hear(chain.proposal(chain.block(1, timestamp_ms=stamp))).signed


@every_protocol
def test_only_the_current_view_is_voted_in(protocol: str) -> None:
    """::

    genesis <- b1 <-QC-        the replica is in view 2 when b1 arrives
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None))
    assert not alone.hear(chain.proposal(b1)).signed
    assert alone.hear(chain.proposal(chain.block(2, on=b1))).signed


@every_protocol
def test_a_view_that_ends_before_the_payload_was_judged_gets_no_vote(protocol: str) -> None:
    chain, alone = setting(protocol)
    alone.judge = lambda check: None
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.judge = lambda check: True
    alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(1, [chain.genesis] * 3)))
    assert not alone.feed(PayloadVerdict(block_id=b1.id, certified=False, valid=True)).signed


@every_protocol
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": 1}, "vote: of epoch 1 and kind 'vote'"),
        ({"kind": "order"}, "vote: of epoch 0 and kind 'order'"),
        ({"signer": 2}, "vote: of validator 2, who is not this peer"),
        ({"justify_view": 1}, "vote: for a block that cannot be"),
        ({"justify_view": 2}, "vote: for a block that cannot be"),
    ],
)
def test_a_vote_that_cannot_be_is_refused(protocol: str, changes: dict[str, object], reason: str) -> None:
    chain, alone = setting(protocol)
    vote = replace(chain.vote(chain.block(1), 1), **changes)
    happened = alone.hear(vote, peer=1)
    assert refused(happened, alone.committee.peer(1)) == reason
    strangers = alone.hear(chain.vote(chain.block(1), 1), peer=b"s" * 32)
    assert refused(strangers, b"s" * 32) == "vote: of validator 1, who is not this peer"


@every_protocol
def test_nobody_votes_for_genesis(protocol: str) -> None:
    """Pitfall 4: three who vote for it at view 1 make no certificate."""
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    for signer in (0, 1, 2):
        subject = replace(chain.vote_subject(b1), block_id=chain.genesis.block_id)
        vote = replace(
            chain.vote(b1, signer), block_id=chain.genesis.block_id, signature=chain.committee.sign(signer, subject)
        )
        assert refused(alone.hear(vote), alone.committee.peer(signer)) == "vote: for a block that cannot be"
    assert alone.view == 1


@every_protocol
def test_spoilers_of_a_quorum_are_named(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    assert not alone.hear(tampered(chain.vote(b1, 2))).effects
    alone.hear(chain.vote(b1, 0))
    assert refused(alone.hear(chain.vote(b1, 1)), alone.committee.peer(2)) == "vote: the signature does not verify"
    assert alone.view == 1
    alone.hear(chain.proposal(b1))
    assert alone.view == 2


@every_protocol
def test_a_double_voter_is_reported_and_a_bad_signature_named(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1, c1 = chain.block(1), chain.block(1, timestamp_ms=2_000)
    alone.hear(chain.vote(b1, 2))
    happened = alone.hear(tampered(chain.vote(c1, 2)))
    assert refused(happened, alone.committee.peer(2)) == "vote: the signature does not verify"
    assert alone.hear(chain.vote(c1, 2)).of(ReportEvidence) == [ReportEvidence(chain.vote(b1, 2), chain.vote(c1, 2))]


@every_protocol
def test_an_observer_counts_votes_and_signs_nothing(protocol: str) -> None:
    chain, alone = setting(protocol, me=None)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    for signer in (0, 1, 2):
        alone.hear(chain.vote(b1, signer))
    assert alone.view == 2
    happened = alone.time_out()
    for signer in (0, 1, 2):
        more = alone.hear(chain.timeout(2, signer, chain.qc(b1)))
        happened.effects += more.effects
    assert alone.view == 3
    assert not happened.signed
    assert not alone.journal.safety


# --- votes to the next leader ----------------------------------------------------------------------------------------


@every_protocol
@pytest.mark.parametrize(("count", "everybody"), [(50, True), (51, False)])
def test_votes_go_to_everybody_in_small_committees_and_to_the_next_leader_beyond(
    protocol: str, count: int, everybody: bool
) -> None:
    chain, alone = setting(protocol, count=count)
    b1 = chain.block(1)
    happened = alone.hear(chain.proposal(b1))
    vote = chain.vote(b1, 3)
    if everybody:
        assert Broadcast(vote) in happened.effects
        assert not happened.of(Send)
    else:
        assert happened.of(Send) == [Send(alone.committee.peer(1), vote)]
        assert not happened.sent(Proposal)
    again = alone.time_out()
    again = alone.time_out()
    assert vote in again.sent(Vote), "it may have been lost"


@every_protocol
def test_the_next_leader_collects_the_votes_of_a_large_committee_and_tells_everybody(protocol: str) -> None:
    chain, alone = setting(protocol, me=1, count=51)
    b1 = chain.block(1)
    happened = alone.hear(chain.proposal(b1))
    assert not happened.of(Send), "its own vote needs no message"
    others = [signer for signer in range(51) if signer != 1]
    for signer in others[:33]:
        assert not alone.hear(chain.vote(b1, signer)).sent(Certificates)
    happened = alone.hear(chain.vote(b1, others[33]))
    (told,) = happened.sent(Certificates)
    assert told.high_qc.view == 1
    assert alone.view == 2


@every_protocol
def test_a_vote_that_went_to_another_is_not_counted_here(protocol: str) -> None:
    """In a large committee the collector alone may form the certificate of the own vote."""
    chain, alone = setting(protocol, me=7, count=51)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    others = [signer for signer in range(51) if signer != 7]
    for signer in others[:34]:
        alone.hear(chain.vote(b1, signer))
    assert alone.view == 1
    alone.hear(chain.vote(b1, others[34]))
    assert alone.view == 2
