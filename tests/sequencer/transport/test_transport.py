"""Links between real transports on loopback: frames, loss and return, fairness, the node's channels."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
import trio
import trio.testing

from consensus.ports import Connected, Frame
from sequencer.transport import TRANSACTIONS, Limits, PeerState, TlsTransport, open_transport
from sequencer.transport.framing import CONSENSUS, HEADER, FrameReader, pack_frame
from sequencer.transport.link import Link
from sequencer.transport.tls import Parted, TlsStream
from tests.sequencer.transport.common import (
    QUICK,
    Stranger,
    cluster,
    committee,
    config_for,
    identity,
    receive_connected,
    receive_frame,
)
from tests.support.waiting import until


def state_of(transport: TlsTransport, peer: bytes) -> PeerState:
    (state,) = (state for state in transport.state().peers if state.peer == peer)
    return state


async def read_to_the_end(stream: TlsStream) -> str:
    """Read and forget until the stream ends; why it ended, in the words of a goodbye when there was one."""
    reader = FrameReader(stream, lambda _: 2**20, silence_timeout_s=60)
    last = b""
    try:
        while True:
            _, last = await reader.read()
    except Parted as parted:
        return f"{parted}; {last!r}"


# --- frames --------------------------------------------------------------------------------------------------


async def test_four_validators_connect_and_exchange_frames_on_both_streams() -> None:
    async with cluster(4) as transports:
        everyone = {transport.peer for transport in transports}
        for transport in transports:
            assert await receive_connected(transport, 3) == everyone - {transport.peer}
        for bulk in (False, True):
            transports[0].broadcast(b"to all", bulk=bulk)
            for transport in transports[1:]:
                assert await receive_frame(transport) == Frame(transports[0].peer, b"to all")
            transports[3].send(transports[1].peer, b"to one", bulk=bulk)
            assert await receive_frame(transports[1]) == Frame(transports[3].peer, b"to one")


async def test_large_and_small_frames_arrive_whole_and_in_order() -> None:
    chance = Random(7)
    sizes = [10_000_000, 5, 0, 70_000, 10_000_001, 65_536, 65_537, 32_763, 32_764, 1]
    frames = [chance.randbytes(size) for size in sizes]
    async with cluster(2) as (lower, higher):
        for here, there in ((lower, higher), (higher, lower)):
            await receive_connected(here)
            for frame in frames:
                here.send(there.peer, frame, bulk=True)
        for here in (lower, higher):
            assert [(await receive_frame(here)).data for _ in frames] == frames


async def test_urgent_frames_pass_bulk_ones() -> None:
    async with cluster(2) as (lower, higher):
        await receive_connected(lower)
        await receive_connected(higher)
        for _ in range(10):
            lower.send(higher.peer, bytes(5_000_000), bulk=True)
        lower.send(higher.peer, b"vote", bulk=False)
        order = [len((await receive_frame(higher)).data) for _ in range(11)]
        assert order.index(4) < 5


async def test_round_trips_and_bytes_are_measured() -> None:
    async with cluster(2) as (lower, higher):
        await receive_connected(lower)
        await receive_connected(higher)
        await until(lambda: state_of(lower, higher.peer).round_trip_ns is not None)
        lower.send(higher.peer, bytes(100_000), bulk=True)
        await receive_frame(higher)
        await until(lambda: state_of(lower, higher.peer).bytes_out >= 100_000)
        assert state_of(higher, lower.peer).bytes_in >= 100_000
        assert 0 < (state_of(lower, higher.peer).round_trip_ns or 0) < 5_000_000_000


async def test_what_only_we_can_get_wrong_is_an_exception() -> None:
    limits = Limits(control_frame_size_max=10, bulk_frame_size_max=20)
    async with cluster(2, limits=limits) as (lower, higher):
        with pytest.raises(ValueError, match="11 bytes for a control cap of 10"):
            lower.broadcast(bytes(11), bulk=False)
        with pytest.raises(ValueError, match="21 bytes for a bulk cap of 20"):
            lower.send(higher.peer, bytes(21), bulk=True)
        with pytest.raises(ValueError, match="does not send to itself"):
            lower.send(lower.peer, b"", bulk=True)
        with pytest.raises(ValueError, match="channel 9"):
            lower.broadcast_on(9, b"")
        with pytest.raises(ValueError, match="channel 0"):
            await lower.receive_on(CONSENSUS)


async def test_frames_for_a_peer_that_is_not_connected_go_nowhere() -> None:
    members = committee(2)
    async with open_transport(config_for(members, []), members[1], Random(0)) as alone:
        alone.send(members[0].peer, b"x", bulk=False)
        alone.send(identity(99).peer, b"x", bulk=False)
        alone.broadcast(b"x", bulk=True)


async def test_configurations_that_cannot_work_are_refused() -> None:
    members = committee(3)
    with pytest.raises(ValueError, match="listen: this node neither listens nor knows an address"):
        TlsTransport(config_for(members, [], listen=None), members[2], Random(0))
    for channels, message in (((0,), "0 is not between"), ((255,), "255 is not between"), ((1, 1), "twice")):
        with pytest.raises(ValueError, match=f"channels: .*{message}"):
            TlsTransport(config_for(members, [], channels=channels), members[2], Random(0))


# --- loss and return -----------------------------------------------------------------------------------------


async def test_a_restarted_peer_is_connected_again_and_told_why_it_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    members = committee(2)

    async def serve(port: int, scope: trio.CancelScope, task_status: trio.TaskStatus[TlsTransport]) -> None:
        config = config_for(members, [], listen=("127.0.0.1", port))
        with scope:
            async with open_transport(config, members[1], Random(1)) as transport:
                task_status.started(transport)
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()
        higher: TlsTransport = await nursery.start(serve, 0, first)
        async with open_transport(config_for(members, [higher]), members[0], Random(0)) as lower:
            await receive_connected(lower)
            await receive_connected(higher)
            await trio.testing.wait_all_tasks_blocked(0.01)
            first.cancel()
            await until(lambda: "all attempts to connect" in state_of(lower, higher.peer).last_reason)
            assert "the peer parted: 'this node stops'" in caplog.text, (
                "the reason before, which stands only for a moment"
            )
            again: TlsTransport = await nursery.start(serve, higher.port, trio.CancelScope())
            await receive_connected(lower)
            await receive_connected(again)
            again.broadcast(b"back", bulk=False)
            assert (await receive_frame(lower)).data == b"back"
            assert state_of(lower, again.peer).connections == 2
        nursery.cancel_scope.cancel()


async def test_dialling_backs_off_with_jitter_up_to_a_bound_and_never_ends(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = committee(2)
    dials: list[float] = []

    async def refuse(*_: object) -> trio.SocketStream:
        dials.append(trio.current_time())
        raise OSError("nobody there")

    monkeypatch.setattr(trio, "open_tcp_stream", refuse)
    mock_clock.autojump_threshold = 0
    limits = Limits(reconnect_first_s=0.1, reconnect_max_s=10)
    config = config_for(members, [], limits=limits, peers={members[1].peer: ("192.0.2.1", 1)}, listen=None)
    async with open_transport(config, members[0], Random(3)):
        await trio.sleep(10_000)
    delays = [later - earlier for earlier, later in pairwise(dials)]
    bounds = [min(10, 0.1 * 2 ** min(number, 20)) for number in range(len(delays))]
    assert len(delays) > 1000
    assert all(bound / 2 <= delay <= bound * 1.001 for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays[20:40])) == 20


async def test_a_newer_connection_replaces_the_older() -> None:
    members = committee(2)
    async with open_transport(config_for(members, []), members[1], Random(0)) as server:
        stranger = Stranger(members[0], server.port)
        control, _ = await stranger.link(session=b"A" * 16)
        assert await receive_connected(server) == {members[0].peer}
        newer, _ = await stranger.link(session=b"B" * 16)
        assert await receive_connected(server) == {members[0].peer}
        assert "replaced by a newer connection" in await read_to_the_end(control)
        await newer.send_all(pack_frame(CONSENSUS, b"on the newer"))
        assert await receive_frame(server) == Frame(members[0].peer, b"on the newer")
        state = state_of(server, members[0].peer)
        assert (state.connected, state.connections) == (True, 2)
        stranger.close()


async def test_losing_one_stream_ends_the_link() -> None:
    members = committee(2)
    async with open_transport(config_for(members, []), members[1], Random(0)) as server:
        stranger = Stranger(members[0], server.port)
        control, bulk = await stranger.link()
        await receive_connected(server)
        bulk.close()
        assert "bulk stream: the peer closed" in await read_to_the_end(control)
        stranger.close()


async def test_a_peer_that_falls_silent_is_dropped(mock_clock: trio.testing.MockClock) -> None:
    members = committee(2)
    async with open_transport(config_for(members, []), members[1], Random(0)) as server:
        stranger = Stranger(members[0], server.port)
        await stranger.link()
        await receive_connected(server)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(QUICK.silence_timeout_s - 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert state_of(server, members[0].peer).connected
        mock_clock.jump(1)
        await until(lambda: not state_of(server, members[0].peer).connected)
        assert "silent for 20 s" in state_of(server, members[0].peer).last_reason
        stranger.close()


async def test_idle_links_live_by_their_pings(mock_clock: trio.testing.MockClock) -> None:
    async with cluster(2) as (lower, higher):
        await receive_connected(lower)
        await receive_connected(higher)
        for _ in range(20):
            before = state_of(lower, higher.peer).bytes_in, state_of(higher, lower.peer).bytes_in
            mock_clock.jump(QUICK.ping_interval_s)
            await until(lambda: state_of(lower, higher.peer).bytes_in >= before[0] + 4 * 8)  # noqa: B023 - called in this round
            await until(lambda: state_of(higher, lower.peer).bytes_in >= before[1] + 4 * 8)  # noqa: B023 - called in this round
        assert state_of(lower, higher.peer).connections == 1
        assert state_of(lower, higher.peer).connected


@pytest.mark.parametrize("bulk", [False, True])
async def test_an_oversized_frame_ends_the_link(bulk: bool) -> None:
    members = committee(2)
    async with open_transport(config_for(members, []), members[1], Random(0)) as server:
        stranger = Stranger(members[0], server.port)
        streams = await stranger.link()
        await receive_connected(server)
        size = 1 + (QUICK.bulk_frame_size_max if bulk else QUICK.control_frame_size_max)
        await streams[bulk].send_all(HEADER.pack(size, CONSENSUS))
        assert f"a frame of {size} bytes on channel 0 exceeds {size - 1}" in await read_to_the_end(streams[0])
        stranger.close()


@pytest.mark.parametrize(
    ("bulk", "channel", "data", "reason"),
    [
        (False, TRANSACTIONS, b"", "channel 1, which is not in use here"),
        (True, 77, b"", "channel 77, which is not in use here"),
        (False, 255, b"\x00", "malformed frame of the link"),
        (True, 255, bytes(1025), "1025 bytes on channel 255 exceeds 1024"),
    ],
)
async def test_nonsense_ends_the_link(bulk: bool, channel: int, data: bytes, reason: str) -> None:
    members = committee(2)
    async with open_transport(config_for(members, []), members[1], Random(0)) as server:
        stranger = Stranger(members[0], server.port)
        streams = await stranger.link()
        await receive_connected(server)
        await streams[bulk].send_all(pack_frame(channel, data))
        assert reason in await read_to_the_end(streams[0])
        stranger.close()


async def test_our_own_bug_leaves_the_transport_as_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Link, "_handle", broken)
    with pytest.raises(ExceptionGroup) as raised:
        async with cluster(2):
            await trio.sleep_forever()
    assert raised.value.split(ZeroDivisionError)[1] is None


# --- flow ----------------------------------------------------------------------------------------------------


async def test_a_slow_reader_costs_the_sender_bounded_memory_and_the_oldest_frames() -> None:
    size, count = 500_000, 200
    limits = Limits(bulk_queue_bytes_max=4 * size, inbox_bytes_max=2 * size)
    async with cluster(2, limits=limits) as (lower, higher):
        await receive_connected(lower)
        await receive_connected(higher)
        for number in range(count):
            lower.send(higher.peer, number.to_bytes(size, "big"), bulk=True)
            await trio.testing.wait_all_tasks_blocked()
        outbox = lower._links[higher.peer]._bulk.outboxes[CONSENSUS]
        box = higher._records[lower.peer].bulk
        assert outbox.size_bytes <= 4 * size
        assert box.bytes <= 2 * size
        dropped = state_of(lower, higher.peer).drops_out
        assert dropped > 0
        numbers = [int.from_bytes((await receive_frame(higher)).data, "big") for _ in range(count - dropped)]
        assert numbers == sorted(numbers)
        assert numbers[-4:] == list(range(count - 4, count))


async def test_a_flooding_peer_does_not_starve_another() -> None:
    members = committee(3)
    async with open_transport(config_for(members, []), members[2], Random(0)) as server:
        flooder, honest = Stranger(members[0], server.port), Stranger(members[1], server.port)
        flooding, _ = await flooder.link()
        quiet, _ = await honest.link()
        await receive_connected(server, 2)
        flood = pack_frame(CONSENSUS, bytes(1000)) * 100

        async def pour() -> None:
            while True:
                await flooding.send_all(flood)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            full = server._records[members[0].peer].control
            await until(lambda: len(full.items) >= QUICK.inbox_frames_max)
            await quiet.send_all(pack_frame(CONSENSUS, b"honest"))
            await until(lambda: bool(server._records[members[1].peer].control.items))
            seen = [await receive_frame(server) for _ in range(2)]
            assert Frame(members[1].peer, b"honest") in seen
            assert len(full.items) <= QUICK.inbox_frames_max
            nursery.cancel_scope.cancel()
        flooder.close()
        honest.close()


async def test_a_node_channel_has_queues_of_its_own_and_never_holds_back_consensus() -> None:
    limits = Limits(channel_queue_frames_max=10)
    async with cluster(3, limits=limits) as (first, second, third):
        for transport in (first, second, third):
            await receive_connected(transport, 2)
        first.broadcast_on(TRANSACTIONS, b"to all")
        for transport in (second, third):
            assert await transport.receive_on(TRANSACTIONS) == Frame(first.peer, b"to all")
        for number in range(30):
            first.send_on(TRANSACTIONS, second.peer, b"%d" % number)
            await until(lambda: not first._links[second.peer]._bulk.outboxes[TRANSACTIONS])
        first.send(second.peer, b"proposal", bulk=True)
        assert (await receive_frame(second)).data == b"proposal"
        assert state_of(second, first.peer).drops_in == 20
        assert [(await second.receive_on(TRANSACTIONS)).data for _ in range(10)] == [b"%d" % n for n in range(10)]


async def test_a_peer_with_too_many_rejects_is_kept_out_for_a_while(mock_clock: trio.testing.MockClock) -> None:
    limits = Limits(rejects_per_minute_max=3, bar_first_s=5)
    async with cluster(2, limits=limits) as (lower, higher):
        await receive_connected(lower)
        await receive_connected(higher)
        lower.broadcast(b"unread", bulk=False)
        await until(lambda: bool(higher._records[lower.peer].control.items))
        for _ in range(4):
            higher.reject(lower.peer, "bad signature")
        await until(lambda: not state_of(higher, lower.peer).connected)
        state = state_of(higher, lower.peer)
        assert (state.rejects, state.barred) == (4, True)
        assert "too many rejected frames, the last one because: bad signature" in state.last_reason
        await until(lambda: "too many rejected frames" in state_of(lower, higher.peer).last_reason)
        seen = Counter[str]()
        while not state_of(higher, lower.peer).connected:
            mock_clock.jump(0.05)
            await trio.testing.wait_all_tasks_blocked(0.002)
            seen[state_of(lower, higher.peer).last_reason[:30]] += 1
        assert any("the peer refuses us" in reason for reason in seen)
        assert trio.current_time() >= 5
        assert await higher.receive() == Connected(lower.peer)  # and what was unread is forgotten
        lower.broadcast(b"better now", bulk=False)
        assert (await receive_frame(higher)).data == b"better now"


async def test_a_dialler_does_not_dial_a_peer_that_it_keeps_out(mock_clock: trio.testing.MockClock) -> None:
    limits = Limits(rejects_per_minute_max=3, bar_first_s=5, reconnect_max_s=0.1)
    async with cluster(2, limits=limits) as (lower, higher):
        await receive_connected(lower)
        for _ in range(4):
            lower.reject(higher.peer, "bad signature")
        await until(lambda: not state_of(lower, higher.peer).connected)
        for _ in range(49):
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert higher.state().refused == 0
        mock_clock.jump(0.3)
        assert await receive_connected(lower) == {higher.peer}


async def test_rejecting_a_stranger_changes_nothing() -> None:
    async with cluster(1) as (alone,):
        alone.reject(identity(50).peer, "whoever that was")
        assert alone.state().peers == ()
