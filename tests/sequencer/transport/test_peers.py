"""How faults are counted, when a peer is kept out, and how seldom that is logged."""

from __future__ import annotations

import logging

import pytest
import trio.testing

from sequencer.transport import Limits
from sequencer.transport.peers import PeerRecord, RareLog

LIMITS = Limits(rejects_per_minute_max=3, bar_first_s=5, bar_max_s=12)


def record() -> PeerRecord:
    return PeerRecord(bytes(32), "validator", LIMITS, (1,))


async def test_a_peer_is_kept_out_after_too_many_rejects_within_a_minute(mock_clock: trio.testing.MockClock) -> None:
    peer = record()
    assert [peer.reject("bad") for _ in range(4)] == [False, False, False, True]
    assert peer.barred_s() == 5
    assert not peer.reject("what was still queued")
    mock_clock.jump(5)
    assert peer.barred_s() == 0
    state = peer.state(connected=False)
    assert (state.rejects, state.barred, state.last_reason) == (5, False, "what was still queued")


async def test_rejects_spread_over_time_are_forgiven(mock_clock: trio.testing.MockClock) -> None:
    peer = record()
    for _ in range(10):
        assert not any(peer.reject("bad") for _ in range(3))
        mock_clock.jump(60)


async def test_keeping_out_doubles_up_to_a_bound_and_is_forgotten(mock_clock: trio.testing.MockClock) -> None:
    peer = record()
    seen = []
    for _ in range(4):
        while not peer.reject("bad"):
            pass
        seen.append(peer.barred_s())
        mock_clock.jump(peer.barred_s() + 1)
    assert seen == [5, 10, 12, 12]
    mock_clock.jump(LIMITS.bar_max_s)
    while not peer.reject("bad"):
        pass
    assert peer.barred_s() == 5


async def test_round_trips_are_smoothed() -> None:
    peer = record()
    assert peer.state(connected=True).round_trip_ns is None
    peer.measured(0.008)
    peer.measured(0.016)
    assert peer.state(connected=True).round_trip_ns == 9_000_000


async def test_one_subject_is_logged_rarely(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = RareLog(logging.getLogger("rare"), interval_s=10, subjects_max=2)
    for _ in range(5):
        log.say("a", "fault")
    log.say("b", "another")
    mock_clock.jump(10)
    log.say("a", "fault")
    assert caplog.messages == ["fault", "another", "fault (4 more of this kind before)"]
