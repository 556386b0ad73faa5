"""The engine fed by hand: timeouts, and the views that certificates open.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on; the replica under test is validator 3.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.engine import FetchBlocks, PayloadVerdict, PeerConnected, Received, ReportEvidence, Send
from consensus.genesis import Pacing
from consensus.protocols.chained_types import Certificates, Proposal, Timeout, TimeoutSubject
from consensus.types import Vote
from tests.support.chain import CHAINED_NAMES, Alone, Chain, grow, refused, view_deadline_ns
from tests.support.committee import committee

replace = msgspec.structs.replace
every_protocol = pytest.mark.parametrize("protocol", CHAINED_NAMES)
PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50, growth_numerator=2, growth_denominator=1, exponent_max=2)
MILLISECOND = 1_000_000


def setting(protocol: str, me: int | None = 3, count: int = 4) -> tuple[Chain, Alone]:
    members = committee(count, protocol=protocol, pacing=PACING)
    return Chain(members), Alone(members, me=me)


# --- timeouts --------------------------------------------------------------------------------------------------------


@every_protocol
def test_the_timer_gives_up_the_view_and_again_sends_what_was_signed(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    happened = alone.time_out()
    mine = chain.timeout(2, 3, chain.qc(b1))
    assert happened.sent(Timeout) == [mine]
    assert happened.signed == [chain.timeout_subject(2, chain.qc(b1))]
    again = alone.time_out()
    assert again.sent(Timeout) == [mine]
    assert again.sent(Vote) == [chain.vote(b1, 3)], "it may be what the others lack"
    assert not again.signed
    assert not again.records


@every_protocol
def test_a_timeout_whose_signature_is_not_here_yet_is_not_sent(protocol: str) -> None:
    chain, alone = setting(protocol)
    alone.signs = False
    for _ in range(2):
        assert not alone.time_out().sent(Timeout)
    alone.signs = True
    b1 = chain.block(1)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None))
    assert alone.time_out().sent(Timeout)
    alone.signs = False
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(chain.block(2, on=b1)), high_tc=None))
    for _ in range(2):
        assert not alone.time_out().sent(Timeout), "nor is that of the view before"


@every_protocol
def test_timeouts_are_counted_for_people(protocol: str) -> None:
    chain, alone = setting(protocol)
    for view in range(1, 4):
        alone.time_out()
        alone.time_out()
        alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(view, [chain.genesis] * 3)))
    assert alone.replica.status().timeouts == 3


def test_a_timer_that_finds_its_rule_false_is_our_bug() -> None:
    """A state that no sequence of events leads to: the lock is above the highest certificate."""
    chain, alone = setting("jolteon")
    alone.engine._lock = chain.qc(chain.block(1))  # type: ignore[attr-defined]  # this engine's own
    with pytest.raises(RuntimeError, match=r"^view 1 cannot be given up: the state contradicts its own votes$"):
        alone.time_out()
    chain, alone = setting("hotstuff")
    alone.engine._last_voted_view = 2  # type: ignore[attr-defined]  # this engine's own
    with pytest.raises(RuntimeError, match=r"^view 1 cannot be given up: the state contradicts its own votes$"):
        alone.time_out()


@every_protocol
def test_a_timeout_that_is_heard_again_changes_nothing(protocol: str) -> None:
    chain, alone = setting(protocol)
    alone.hear(chain.timeout(1, 0))
    assert not alone.hear(chain.timeout(1, 0)).effects


@every_protocol
def test_no_vote_after_the_own_timeout(protocol: str) -> None:
    """Mutant J3."""
    chain, alone = setting(protocol)
    alone.time_out()
    assert not alone.hear(chain.proposal(chain.block(1))).signed
    chain, alone = setting(protocol)
    alone.judge = lambda check: None
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.time_out()
    assert not alone.feed(PayloadVerdict(block_id=b1.id, certified=False, valid=True)).signed


def test_a_jolteon_timeout_signs_no_less_than_its_votes_have_shown() -> None:
    """Mutant J2::

    genesis <- b1 <- b2        the vote for b2 has shown QC(b1); view 2 is given up with it, and with nothing lower
    """
    chain, alone = setting("jolteon")
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b1))
    assert alone.hear(chain.proposal(b2)).signed
    assert alone.time_out().signed == [TimeoutSubject(epoch=0, view=2, high_qc_view=1)]


@every_protocol
def test_a_stake_of_timeouts_that_holds_an_honest_one_is_joined(protocol: str) -> None:
    """Amplification: A = 2 of 4."""
    chain, alone = setting(protocol)
    assert not alone.hear(chain.timeout(1, 0)).signed
    happened = alone.hear(chain.timeout(1, 1))
    assert happened.sent(Timeout) == [chain.timeout(1, 3)]
    assert alone.view == 2, "with the own it is a quorum"


@every_protocol
def test_a_quorum_of_timeouts_opens_the_next_view_and_is_passed_on(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    alone.hear(chain.timeout(2, 0, chain.qc(b1)))
    happened = alone.hear(chain.timeout(2, 2, chain.qc(b1)))
    told, *_ = happened.sent(Certificates)
    assert told.high_qc == chain.qc(b1, [0, 1, 2])
    assert told.high_tc is not None
    assert (told.high_tc.view, told.high_tc.high_qc) == (2, chain.qc(b1))
    assert alone.view == 3
    assert alone.engine._certifier.check(told.high_tc) is None  # type: ignore[attr-defined]  # this engine's own


@every_protocol
def test_certificates_inside_timeouts_are_learned(protocol: str) -> None:
    """::

    genesis <- b1 <- b2        the replica has seen neither; v0's timeout for view 5 brings QC(b2) and TC(4)
    """
    chain, alone = setting(protocol)
    b2 = chain.block(2, on=chain.block(1))
    step = alone.engine.handle(Received(alone.committee.peer(0), chain.timeout(5, 0, chain.qc(b2))), 0)
    status = alone.replica.status()
    assert (status.view, status.seen_height) == (5, 2)
    fetch = FetchBlocks(block_id=b2.id, height=2, peer=alone.committee.peer(0))
    assert fetch in step.effects, "whoever names a block can be asked for it"


@every_protocol
def test_timeouts_that_cannot_be_are_refused(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    one = alone.committee.peer(1)
    good = chain.timeout(3, 1, chain.qc(b1))
    unneeded = chain.tc(1, [chain.genesis] * 3)
    forged = replace(chain.qc(b1), signature=bytes(32))
    altered = replace(chain.genesis, signature=bytes(32))
    for message, reason in (
        (replace(good, signer=2), "of validator 2, who is not this peer"),
        (replace(good, view=1, entry_proof=None), "its certificate is not below its view"),
        (replace(good, view=0, entry_proof=None), "its certificate is not below its view"),
        (replace(good, entry_proof=None), "carries no proof that the view before was given up"),
        (replace(good, view=5), "carries no proof that the view before was given up"),
        (replace(good, view=2, entry_proof=unneeded), "carries an entry proof that it does not need"),
        (replace(good, epoch=1), "message of epoch 1, expected 0"),
        (replace(good, high_qc=forged), "certificate: the signatures do not verify"),
        (
            replace(chain.timeout(1, 1), high_qc=altered),
            "certificate: names the epoch's boundary but is not its genesis certificate",
        ),
        (
            replace(good, entry_proof=chain.tc(2, [chain.genesis] * 2)),
            "signers: stake 2 is below the quorum of 3",
        ),
    ):
        assert refused(alone.hear(message, peer=1), one) == f"timeout: {reason}"
    assert alone.view == 1


@every_protocol
def test_spoilers_of_a_timeout_certificate_are_named_and_may_mend_it(protocol: str) -> None:
    chain, alone = setting(protocol)
    alone.hear(replace(chain.timeout(1, 0), signature=bytes(31) + b"\x07"))
    happened = alone.hear(chain.timeout(1, 1))
    assert refused(happened, alone.committee.peer(0)) == "timeout: the signature does not verify"
    assert alone.view == 1
    alone.hear(chain.timeout(1, 0))
    assert alone.view == 2


@every_protocol
def test_who_is_behind_is_helped_once_a_view(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    two = alone.committee.peer(2)
    mine = Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None)
    assert alone.hear(chain.timeout(1, 2)).of(Send) == [Send(two, mine)]
    assert not alone.hear(chain.timeout(1, 2)).effects
    assert not alone.hear(chain.timeout(1, 1)).signed, "views that are over are not joined"
    grow(chain, alone, chain.block(2, on=b1))
    assert alone.hear(chain.timeout(1, 2)).of(Send)


@every_protocol
def test_a_hidden_certificate_comes_out_in_its_holders_timeout(protocol: str) -> None:
    """Pitfall 10::

    genesis <- b1 <- b2 <-QC-        only v0 saw QC(b2); the others give up view 2 and go on from b1
                \\- c3

    v0's timeout for view 3 carries QC(b2), and what is built next stands on it.
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.proposal(b2))
    tc = chain.tc(2, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc))
    alone.hear(chain.timeout(3, 0, chain.qc(b2)))
    alone.hear(chain.timeout(3, 1, chain.qc(b1), tc))
    assert alone.view == 4, "which the replica itself leads"
    alone.end_wait()
    happened = alone.build(4, b2.id)
    (proposal,) = happened.sent(Proposal)
    assert proposal.header.justify == chain.qc(b2)


# --- certificates and peers ------------------------------------------------------------------------------------------


@every_protocol
def test_certificates_by_themselves_open_views_and_forgeries_are_refused(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    tc = chain.tc(4, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=tc))
    assert (alone.view, alone.replica.status().seen_height) == (5, 1)
    for message, reason in (
        (Certificates(epoch=1, high_qc=chain.genesis, high_tc=None), "message of epoch 1, expected 0"),
        (
            Certificates(epoch=0, high_qc=chain.genesis, high_tc=replace(tc, view=9)),
            "timeout certificate: the signatures do not verify",
        ),
        (
            Certificates(epoch=0, high_qc=replace(chain.qc(b1), view=9), high_tc=None),
            "certificate: the signatures do not verify",
        ),
    ):
        assert refused(alone.hear(message, peer=2), alone.committee.peer(2)) == reason
    assert alone.view == 5


@every_protocol
def test_of_two_timeout_certificates_for_one_view_the_first_is_kept(protocol: str) -> None:
    chain, alone = setting(protocol)
    first, second = chain.tc(1, [chain.genesis] * 3), chain.tc(1, [chain.genesis] * 4)
    for tc in (first, second):
        alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=tc))
    assert alone.feed(PeerConnected(alone.committee.peer(1))).sent(Certificates)[0].high_tc == first


@every_protocol
def test_of_two_certificates_for_one_view_the_first_is_kept_and_who_brought_it(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    fetches = []
    for peer, signers in ((1, [0, 1, 2]), (2, [1, 2, 3])):
        told = Certificates(epoch=0, high_qc=chain.qc(b1, signers), high_tc=None)
        step = alone.engine.handle(Received(alone.committee.peer(peer), told), 0)
        fetches += [effect for effect in step.effects if isinstance(effect, FetchBlocks)]
    assert fetches == [FetchBlocks(block_id=b1.id, height=1, peer=alone.committee.peer(1))] * 2
    assert alone.feed(PeerConnected(alone.committee.peer(1))).sent(Certificates)[0].high_qc == chain.qc(b1)


@every_protocol
def test_a_peer_that_connects_is_brought_up_to_date(protocol: str) -> None:
    chain, alone = setting(protocol)
    peer = alone.committee.peer(1)
    assert not alone.feed(PeerConnected(peer)).effects, "in view 1 there is nothing to tell"
    b1 = chain.block(1)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None))
    assert (
        Send(peer, Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None)) in alone.feed(PeerConnected(peer)).effects
    )


@every_protocol
def test_a_view_lasts_longer_while_nothing_is_committed(protocol: str) -> None:
    """Depth 2 or 3, growth 2, at most twice."""
    chain, alone = setting(protocol)
    depth = 3 if protocol == "hotstuff" else 2
    assert view_deadline_ns(alone.started) == 100 * MILLISECOND
    durations = []
    for view in range(1, 7):
        alone.now += 7
        tc = chain.tc(view, [chain.genesis] * 3)
        happened = alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=tc))
        durations.append((view_deadline_ns(happened) - alone.now) // MILLISECOND)
    growth = [100] * (depth - 1) + [200, 400, 400, 400, 400]
    assert durations == growth[:6]
    assert view_deadline_ns(alone.time_out()) == alone.now + 400 * MILLISECOND


# --- found by review -------------------------------------------------------------------------------------------------


@every_protocol
def test_calm_views_last_no_longer_than_the_base(protocol: str) -> None:
    """::

    b1 <- b2 <- b3 <- b4 <- b5        every certificate that opens a view also commits: no view is without one
    """
    chain, alone = setting(protocol)
    block = None
    for view in range(1, 7):
        block = chain.block(view, on=block)
        happened = grow(chain, alone, block)
        assert view_deadline_ns(happened) - alone.now == 100 * MILLISECOND, view


def test_two_timeouts_of_one_view_that_sign_different_certificates_are_reported_once() -> None:
    chain, alone = setting("jolteon")
    b1, b2 = chain.block(1), chain.block(2, on=chain.block(1))
    alone.hear(chain.proposal(b1))
    alone.hear(chain.proposal(b2))
    low = chain.timeout(3, 0, chain.qc(b1))
    high = chain.timeout(3, 0, chain.qc(b2))
    assert not alone.hear(low).of(ReportEvidence)
    assert alone.hear(high).of(ReportEvidence) == [ReportEvidence(low, high)]
    assert not alone.hear(high).of(ReportEvidence)


def test_a_second_timeout_with_a_bad_signature_is_its_senders_fault_and_no_evidence() -> None:
    chain, alone = setting("jolteon")
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.timeout(2, 0, chain.qc(b1)))
    forged = replace(chain.timeout(2, 0, chain.genesis), signature=bytes(31) + b"\x07")
    happened = alone.hear(forged)
    assert not happened.of(ReportEvidence)
    assert "does not verify" in refused(happened, chain.committee.spec.validators[0].peer)


def test_in_hotstuff_the_certificate_of_a_timeout_is_not_signed_and_no_offence() -> None:
    chain, alone = setting("hotstuff")
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.timeout(2, 0, chain.qc(b1)))
    assert not alone.hear(chain.timeout(2, 0, chain.genesis)).of(ReportEvidence)
