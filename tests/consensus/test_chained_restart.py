"""The engine fed by hand: what is durable before what, and what a restart does with it.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import block_of, encode
from consensus.engine import (
    BlockRecord,
    Broadcast,
    CheckPayload,
    Commit,
    CommitRecord,
    PeerConnected,
    Recovered,
    SafetyRecord,
    Send,
    Sign,
    Signed,
)
from consensus.protocols.chained_state import SafetyState, restore, subjects
from consensus.protocols.chained_types import Certificates, ChainedSubject, Proposal, Timeout
from consensus.protocols.registry import protocol_named
from consensus.safety import SafetyGuard
from consensus.types import StoredBlock, Vote
from tests.support.chain import CHAINED_NAMES, Alone, Chain, Happened, grow
from tests.support.cluster import MemoryJournal
from tests.support.committee import committee

replace = msgspec.structs.replace
every_protocol = pytest.mark.parametrize("protocol", CHAINED_NAMES)


def setting(protocol: str, me: int = 3) -> tuple[Chain, Alone]:
    members = committee(protocol=protocol)
    return Chain(members), Alone(members, me=me)


def state_of(happened: Happened, kind: str) -> SafetyState:
    """The state in the one record of this kind."""
    (record,) = [record for record in happened.records if isinstance(record, SafetyRecord) and record.kind == kind]
    return msgspec.msgpack.decode(record.state, type=SafetyState)


def blocks_in(happened: Happened) -> list[bytes]:
    return [record.block.id for record in happened.records if isinstance(record, BlockRecord)]


# --- durable before signed -------------------------------------------------------------------------------------------


@every_protocol
def test_each_signature_is_asked_for_in_the_step_that_records_its_decision(protocol: str) -> None:
    """Persist, then sign, then send. The message itself exists only after the signer answered."""
    chain, alone = setting(protocol)
    alone.signs = False
    b1 = chain.block(1)
    for happened, kind in ((alone.hear(chain.proposal(b1)), "vote"), (alone.time_out(), "timeout")):
        (sign,) = happened.of(Sign)
        (record,) = [record for record in happened.records if isinstance(record, SafetyRecord)]
        assert record.kind == sign.subject.kind == kind
        assert SafetyGuard().restore(record, subjects) == sign.subject
        assert not happened.sent(Vote)
        assert not happened.sent(Timeout)
    _, leader = setting(protocol, me=0)
    leader.signs = False
    happened = leader.build(1, chain.genesis.block_id, b"payload")
    assert [sign.subject.kind for sign in happened.of(Sign)] == ["proposal", "vote"]
    assert [type(record).__name__ for record in happened.records] == ["BlockRecord", "SafetyRecord", "SafetyRecord"]
    assert not happened.sent(Proposal)


@every_protocol
def test_a_vote_records_its_view_its_lock_and_the_highest_certificates(protocol: str) -> None:
    """::

    genesis <- b1 <- b2 <- b5        TC(4) of those who know QC(b2)
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.proposal(b2))
    tc = chain.tc(4, [chain.qc(b2)] * 3)
    b5 = chain.block(5, on=b2, tc=tc)
    state = state_of(alone.hear(chain.proposal(b5)), "vote")
    lock = chain.qc(b1) if protocol == "hotstuff" else chain.qc(b2)
    assert state == SafetyState(last_voted_view=5, lock=lock, high_qc=chain.qc(b2), high_tc=tc)


@every_protocol
def test_a_timeout_records_that_its_view_is_voted_in_no_more(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    state = state_of(alone.time_out(), "timeout")
    assert (state.last_voted_view, state.high_qc, state.high_tc) == (2, chain.qc(b1), None)


@every_protocol
def test_the_blocks_that_a_vote_names_are_recorded_with_it_once(protocol: str) -> None:
    """::

    genesis <- b1 <- b2        b1 came too late for a vote, so that the vote for b2 records both
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1, body=b"one")
    b2 = chain.block(2, on=b1, body=b"two")
    assert not blocks_in(alone.hear(chain.proposal(b2)))
    assert blocks_in(alone.hear(chain.proposal(b1))) == [b1.id, b2.id]
    assert bytes(alone.journal.blocks[b2.id].body) == b"two"
    b3 = chain.block(4, on=b2, tc=chain.tc(3, [chain.qc(b2)] * 3))
    _, other = setting(protocol, me=1)
    for block in (b1, b2):
        other.hear(chain.proposal(block))
    assert blocks_in(other.hear(chain.proposal(b3))) == [b3.id], "the others are there already"


@every_protocol
def test_the_blocks_that_a_timeout_names_are_recorded_with_it(protocol: str) -> None:
    """::

    genesis <- b1 <-QC-        b1 was not voted for here: its view was over when it came
    """
    chain, alone = setting(protocol, me=1)
    b1 = chain.block(1, body=b"one")
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None))
    late = alone.hear(chain.proposal(b1))  # an order vote names it too, where there are such
    happened = alone.time_out()
    assert blocks_in(late) + blocks_in(happened) == [b1.id]
    assert happened.signed == [chain.timeout_subject(2, chain.qc(b1))]


@every_protocol
def test_a_timeout_whose_block_is_not_here_is_signed_all_the_same(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None))
    happened = alone.time_out()
    assert blocks_in(happened) == []
    assert happened.signed == [chain.timeout_subject(2, chain.qc(b1))]


# --- restarts --------------------------------------------------------------------------------------------------------


@every_protocol
def test_what_was_stored_is_signed_and_sent_again_and_nothing_else(protocol: str) -> None:
    """Pitfalls 1 and 2: killed after the record and before the signature, the same bytes go out."""
    chain, alone = setting(protocol)
    alone.signs = False
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    again = alone.restart()
    assert again.started.signed == [chain.vote_subject(b1)]
    assert again.started.sent(Vote) == [chain.vote(b1, 3)]
    assert not again.started.records
    assert not again.hear(chain.proposal(chain.block(1, timestamp_ms=2_000))).signed, "no second vote in view 1"
    assert not again.hear(chain.proposal(b1)).signed


@every_protocol
def test_a_leader_sends_the_same_proposal_again_and_never_a_second(protocol: str) -> None:
    """Mutant R1."""
    chain, alone = setting(protocol, me=0)
    alone.signs = False
    alone.build(1, chain.genesis.block_id, b"payload")
    again = alone.restart()
    expected = chain.block(1, body=b"payload")
    assert again.started.sent(Proposal) == [chain.proposal(expected)]
    assert again.started.sent(Vote) == [chain.vote(expected, 0)]
    assert not again.build(1, chain.genesis.block_id, b"other").effects


@every_protocol
def test_a_proposal_that_was_recorded_without_a_vote_is_voted_for_after_the_restart(protocol: str) -> None:
    chain, alone = setting(protocol, me=0)
    alone.signs = False
    alone.build(1, chain.genesis.block_id, b"payload")
    del alone.journal.safety["vote"]
    assert alone.restart().started.sent(Vote) == [chain.vote(chain.block(1, body=b"payload"), 0)]


@every_protocol
def test_a_proposal_after_a_failed_view_is_sent_again_with_its_timeout_certificate(protocol: str) -> None:
    chain, alone = setting(protocol, me=2)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    tc = chain.tc(2, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc))
    alone.end_wait()
    (before,) = alone.build(3, b1.id, b"three").sent(Proposal)
    (after,) = alone.restart().started.sent(Proposal)
    assert before == after
    assert after.entry_proof == tc


@every_protocol
def test_an_older_timeout_certificate_is_not_sent_where_none_is_needed(protocol: str) -> None:
    """::

    genesis <- b3 <-QC-        view 3 was entered by TC(2), view 4 by QC(b3): what is signed there carries no TC
    """
    chain, alone = setting(protocol)
    b3 = chain.block(3)
    alone.hear(chain.proposal(b3))
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b3), high_tc=None))
    before = alone.build(4, b3.id, b"four")
    (timeout,) = alone.time_out().sent(Timeout)
    assert timeout == chain.timeout(4, 3, chain.qc(b3))
    again = alone.restart()
    assert again.started.sent(Timeout) == [timeout]
    assert (
        again.started.sent(Proposal) == before.sent(Proposal) == [chain.proposal(chain.block(4, on=b3, body=b"four"))]
    )


@every_protocol
def test_a_proposal_after_a_failed_view_may_be_voted_for_after_the_restart(protocol: str) -> None:
    chain, alone = setting(protocol, me=2)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    tc = chain.tc(2, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc))
    alone.end_wait()
    alone.build(3, b1.id, b"three")
    del alone.journal.safety["vote"]
    b3 = chain.block(3, on=b1, tc=tc, body=b"three")
    assert alone.restart().started.sent(Vote) == [chain.vote(b3, 2)]


@every_protocol
def test_stored_blocks_need_no_second_check_and_no_second_record(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1, body=b"one")
    alone.hear(chain.proposal(b1))
    again = alone.restart()
    assert again.engine.block(b1.id) is not None, "peers may be given it"
    b2 = chain.block(2, on=b1, body=b"two")
    happened = again.hear(chain.proposal(b2))
    assert [check.block for check in happened.of(CheckPayload)] == [b2]
    assert blocks_in(happened) == [b2.id]


@every_protocol
def test_a_timeout_is_sent_again_with_what_it_carried(protocol: str) -> None:
    """Mutant R2: a restart that loses it signs another, and honest nodes are framed. It also votes in that view no
    more."""
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    tc = chain.tc(2, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc))
    alone.end_wait()
    (before,) = alone.time_out().sent(Timeout)
    assert before == chain.timeout(3, 3, chain.qc(b1), tc)
    again = alone.restart()
    assert again.started.sent(Timeout) == [before]
    assert again.time_out().sent(Timeout) == [before]
    assert not again.hear(chain.proposal(chain.block(3, on=b1, tc=tc))).signed


@every_protocol
def test_own_messages_are_fed_to_the_own_tally_again(protocol: str) -> None:
    """Seen without: a third of the clusters stall after a restart of all."""
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    again = alone.restart()
    again.hear(chain.vote(b1, 0))
    again.hear(chain.vote(b1, 1))
    assert again.view == 2
    _, alone = setting(protocol)
    alone.time_out()
    again = alone.restart()
    again.hear(chain.timeout(1, 0))
    again.hear(chain.timeout(1, 1))
    assert again.view == 2


@every_protocol
def test_the_view_is_derived_from_the_certificates_in_the_records(protocol: str) -> None:
    """Mutant R3: a lost high_qc stalls the cluster."""
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    alone.time_out()
    tc = chain.tc(4, [chain.qc(b1)] * 3)
    alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=tc))
    assert alone.view == 5
    assert alone.restart().view == 2, "certificates that are only passed on need not be durable"
    alone.time_out()
    again = alone.restart()
    assert (again.view, again.replica.status().seen_height) == (5, 1)


@every_protocol
def test_the_highest_of_all_records_counts_for_every_field(protocol: str) -> None:
    """The vote's record is from view 2, the timeout's from view 1: neither kind alone holds everything."""
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b1))
    alone.time_out()
    alone.hear(chain.proposal(b2))
    timeout_first = alone.restart()
    assert timeout_first.view == 2
    assert set(alone.journal.safety) == {"vote", "timeout"}
    reordered = MemoryJournal(
        safety=dict(sorted(alone.journal.safety.items(), reverse=True)), blocks=dict(alone.journal.blocks)
    )
    again = Alone(alone.committee, me=3, journal=reordered)
    assert again.view == 2
    assert not again.hear(chain.proposal(chain.block(2, on=b1, timestamp_ms=5_000))).signed


def test_records_are_put_together_field_by_field() -> None:
    """Whichever record holds the highest of a field, and in whatever order they come."""
    chain = Chain(committee())
    b1 = chain.block(1)
    qc1, qc2 = chain.qc(b1), chain.qc(chain.block(2, on=b1))
    tc3, tc4 = chain.tc(3, [qc1] * 3), chain.tc(4, [qc1] * 3)
    low = SafetyState(last_voted_view=1, lock=chain.genesis, high_qc=chain.genesis, high_tc=None)
    cases = (
        (low, replace(low, last_voted_view=5, high_tc=tc3), replace(low, last_voted_view=5, high_tc=tc3)),
        (replace(low, high_tc=tc3), replace(low, high_tc=tc4), replace(low, high_tc=tc4)),
        (replace(low, lock=qc1, high_qc=qc1), replace(low, high_qc=qc2), replace(low, lock=qc1, high_qc=qc2)),
        (replace(low, high_tc=tc3), replace(low, high_qc=qc2), replace(low, high_qc=qc2, high_tc=tc3)),
    )
    for first, second, whole in cases:
        for states in ((first, second), (second, first)):
            kinds: tuple[ChainedSubject, ...] = (chain.vote_subject(b1), chain.timeout_subject(1, chain.genesis))
            records = tuple(
                SafetyRecord(kind=subject.kind, subject=encode(subject), state=encode(state))
                for subject, state in zip(kinds, states, strict=True)
            )
            restored = restore(Recovered(safety=records), SafetyGuard(), chain.genesis)
            assert restored.state == whole
            assert restored.by_kind == {
                subject.kind: (subject, state) for subject, state in zip(kinds, states, strict=True)
            }


def test_a_hotstuff_lock_survives() -> None:
    """Mutant S10::

    genesis <- b1 <- b2 (locked) <- b3 <- b4        after the restart, c6 on b1 is not voted for
                \\- c6
    """
    chain, alone = setting("hotstuff")
    blocks = [chain.block(1)]
    for view in (2, 3, 4):
        blocks.append(chain.block(view, on=blocks[-1]))
    for block in blocks:
        alone.hear(chain.proposal(block))
    again = alone.restart()
    tc = chain.tc(5, [chain.qc(blocks[0])] * 3)
    c6 = chain.block(6, on=blocks[0], tc=tc)
    assert not again.hear(chain.proposal(c6)).signed
    assert again.view == 6
    d7 = chain.block(7, on=blocks[2], tc=chain.tc(6, [chain.qc(blocks[2])] * 3))
    assert again.hear(chain.proposal(d7)).signed


def test_a_jolteon_timeout_after_a_restart_still_shows_what_was_voted_for() -> None:
    chain, alone = setting("jolteon")
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    alone.hear(chain.proposal(b1))
    alone.hear(chain.proposal(b2))
    assert alone.restart().time_out().signed == [chain.timeout_subject(2, chain.qc(b1))]


@every_protocol
def test_a_journal_that_contradicts_itself_stops_the_node(protocol: str) -> None:
    chain, alone = setting(protocol)
    alone.hear(chain.proposal(chain.block(1)))
    record = alone.journal.safety["vote"]
    alone.journal.safety["vote"] = replace(record, state=record.state[:-1])
    with pytest.raises(ValueError, match="safety record 'vote': state does not decode: "):
        alone.restart()
    alone.journal.safety.clear()
    alone.journal.commits[7] = (b"h" * 32, None)
    with pytest.raises(ValueError, match=r"^the journal lacks its own committed head$"):
        protocol_named(protocol).engine(
            spec=chain.committee.spec, epoch=chain.epoch, scheme=chain.committee.scheme, me=3
        ).start(alone.journal.recover(7), 0)


@every_protocol
def test_an_answer_of_the_signer_for_a_view_that_is_over(protocol: str) -> None:
    """Proposals and timeouts of views that are over go nowhere; a vote may still complete a certificate."""
    chain, alone = setting(protocol, me=0)
    alone.signs = False
    proposal, vote = (sign.subject for sign in alone.build(1, chain.genesis.block_id).of(Sign))
    (timeout,) = (sign.subject for sign in alone.time_out().of(Sign))
    alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(4, [chain.genesis] * 3)))
    alone.end_wait()
    alone.build(5, chain.genesis.block_id)
    alone.time_out()
    answered = [alone.feed(Signed(subject, chain.committee.sign(0, subject))) for subject in (proposal, vote, timeout)]
    assert not answered[0].sent(Proposal)
    assert len(answered[1].sent(Vote)) == 1
    assert not answered[2].sent(Timeout)


# --- peers that connect after a restart ------------------------------------------------------------------------------


def reconnected(alone: Alone, peer: int) -> list[msgspec.Struct]:
    happened = alone.feed(PeerConnected(alone.committee.peer(peer)))
    sends = happened.of(Send)
    assert all(send.peer == alone.committee.peer(peer) for send in sends)
    assert not happened.of(Broadcast)
    return [send.message for send in sends]


@every_protocol
def test_a_peer_that_connects_is_sent_what_this_view_waits_for(protocol: str) -> None:
    """At a restart nobody is connected yet: what is sent at once goes nowhere. It goes again to each who connects."""
    chain, alone = setting(protocol, me=1)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    alone.build(2, b1.id, b"two")
    again = alone.restart()
    b2 = chain.block(2, on=b1, body=b"two")
    mine: list[msgspec.Struct] = [Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None)]
    orders = again.started.ordered
    if orders:
        mine.append(chain.order_vote(chain.qc(b1), 1))
    assert reconnected(again, 2) == [*mine, chain.proposal(b2), chain.vote(b2, 1)]
    again.time_out()
    sent = reconnected(again, 2)
    assert sent == [*mine, chain.proposal(b2), chain.vote(b2, 1), chain.timeout(2, 1, chain.qc(b1))]
    again.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=chain.tc(2, [chain.qc(b1)] * 3)))
    [over] = reconnected(again, 2)
    assert isinstance(over, Certificates), "view 2 is over"


def test_in_a_large_committee_only_the_next_leader_is_sent_the_vote() -> None:
    members = committee(51)
    chain, alone = Chain(members), Alone(members, me=3)
    b1 = chain.block(1)
    alone.hear(chain.proposal(b1))
    assert reconnected(alone, 2) == []
    assert reconnected(alone, 1) == [chain.vote(b1, 3)]


# --- commits again ---------------------------------------------------------------------------------------------------


def committed_history(protocol: str) -> tuple[Chain, Alone, list[Commit]]:
    """Five blocks in a row, and what they commit."""
    chain, alone = setting(protocol)
    blocks = [chain.block(1, body=b"body 1")]
    for view in range(2, 6):
        blocks.append(chain.block(view, on=blocks[-1], body=b"body %d" % view))
    commits: list[Commit] = []
    for block in blocks:
        commits += alone.hear(chain.proposal(block)).of(Commit)
    return chain, alone, commits


@every_protocol
def test_commits_above_the_ledger_are_emitted_again(protocol: str) -> None:
    _, alone, commits = committed_history(protocol)
    count = {"jolteon": 3, "hotstuff": 2, "hotstuff2": 3}[protocol]
    assert [commit.block.header.height for commit in commits] == list(range(1, count + 1))
    for height in range(count + 1):
        again = alone.restart(ledger_height=height)
        assert again.started.of(Commit) == commits[height:]
        assert again.committed == count
        assert not [record for record in again.started.records if isinstance(record, CommitRecord)]
    assert [commit.proof is not None for commit in commits] == [True] * count


@every_protocol
def test_after_a_restart_commits_go_on_from_the_head(protocol: str) -> None:
    chain, alone, commits = committed_history(protocol)
    again = alone.restart(ledger_height=len(commits))
    b6 = chain.block(6, on=block_of(max(alone.journal.blocks.values(), key=_height).header), body=b"body 6")
    happened = again.hear(chain.proposal(b6))
    assert [commit.block.header.height for commit in happened.of(Commit)] == [len(commits) + 1]
    assert happened.signed == [chain.vote_subject(b6)]


@every_protocol
def test_an_observer_resumes_from_the_proof_of_its_head(protocol: str) -> None:
    """It has no record of a signature: what it committed is all that it knows, and the view follows from that."""
    chain = Chain(committee(protocol=protocol))
    alone = Alone(chain.committee, me=None)
    blocks = [chain.block(1)]
    for view in range(2, 6):
        blocks.append(chain.block(view, on=blocks[-1]))
    grow(chain, alone, *blocks)
    assert alone.committed
    assert alone.view == 6
    again = alone.restart()
    assert again.committed == alone.committed
    assert again.view == 6


def _height(stored: StoredBlock) -> int:
    return stored.header.height
