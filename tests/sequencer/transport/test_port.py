"""One suite for both transports: what a node may rely on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from consensus.ports import Connected, Disconnected, Frame
from sequencer.transport import TRANSACTIONS, NodeTransport, TlsTransport
from tests.sequencer.transport.common import cluster
from tests.support.memory_transport import memory_network

Open = Callable[[int], AbstractAsyncContextManager[list[NodeTransport]]]


@asynccontextmanager
async def over_tls(size: int) -> AsyncIterator[list[NodeTransport]]:
    async with cluster(size) as transports:
        yield list(transports)


@asynccontextmanager
async def in_memory(size: int) -> AsyncIterator[list[NodeTransport]]:
    yield list(memory_network(size).transports)


@pytest.fixture(params=[over_tls, in_memory])
def opened(request: pytest.FixtureRequest) -> Open:
    chosen: Open = request.param
    return chosen


async def test_connections_are_announced_before_frames(opened: Open) -> None:
    async with opened(3) as (first, second, third):
        for transport in (first, second, third):
            events = [await transport.receive() for _ in range(2)]
            others = {first.peer, second.peer, third.peer} - {transport.peer}
            assert {event.peer for event in events if isinstance(event, Connected)} == others
        assert all(peer.connected and peer.connections == 1 for peer in first.state().peers)


async def test_the_end_of_a_connection_is_announced() -> None:
    """Over TLS a transport that closes; in memory a cut."""
    async with over_tls(3) as (first, second, third):
        for transport in (first, second, third):
            for _ in range(2):
                await transport.receive()
        assert isinstance(third, TlsTransport)
        third.set_members(validators=frozenset(), guests=frozenset(), addresses={})
        assert {await third.receive() for _ in range(2)} == {Disconnected(first.peer), Disconnected(second.peer)}
        assert await first.receive() == Disconnected(third.peer)
        assert await second.receive() == Disconnected(third.peer)
    network = memory_network(2)
    one, other = network.transports
    await one.receive()
    network.cut(one.peer, other.peer)
    assert await one.receive() == Disconnected(other.peer)
    assert await other.receive() == Disconnected(one.peer), "the connection before it was nobody's news any more"


async def test_frames_go_where_they_are_sent(opened: Open) -> None:
    async with opened(3) as (first, second, third):
        for transport in (first, second, third):
            for _ in range(2):
                await transport.receive()
        first.broadcast(b"all", bulk=False)
        first.send(third.peer, b"third", bulk=True)
        first.send_on(TRANSACTIONS, second.peer, b"on second")
        first.broadcast_on(TRANSACTIONS, b"on all")
        assert await second.receive() == Frame(first.peer, b"all")
        assert {(await third.receive()).data for _ in range(2)} == {b"all", b"third"}  # type: ignore[union-attr]  # frames, or it fails
        assert await second.receive_on(TRANSACTIONS) == Frame(first.peer, b"on second")
        assert await second.receive_on(TRANSACTIONS) == Frame(first.peer, b"on all")
        assert await third.receive_on(TRANSACTIONS) == Frame(first.peer, b"on all")


async def test_each_stream_keeps_its_order(opened: Open) -> None:
    async with opened(2) as (first, second):
        await second.receive()
        await first.receive()
        for number in range(100):
            first.send(second.peer, b"%d" % number, bulk=number % 2 == 0)
        frames = [await second.receive() for _ in range(100)]
        numbers = [int(frame.data) for frame in frames if isinstance(frame, Frame)]
        assert [number for number in numbers if number % 2] == list(range(1, 100, 2))
        assert [number for number in numbers if not number % 2] == list(range(0, 100, 2))


async def test_nobody_sends_to_himself_or_more_than_the_cap(opened: Open) -> None:
    async with opened(2) as (first, second):
        with pytest.raises(ValueError, match="does not send to itself"):
            first.send(first.peer, b"", bulk=False)
        with pytest.raises(ValueError, match="does not send to itself"):
            first.send_on(TRANSACTIONS, first.peer, b"")
        with pytest.raises(ValueError, match="control cap"):
            first.send(second.peer, bytes(5_000_000), bulk=False)


async def test_rejects_are_counted(opened: Open) -> None:
    async with opened(2) as (first, second):
        first.reject(second.peer, "one")
        first.reject(second.peer, "two")
        (state,) = first.state().peers
        assert (state.rejects, state.last_reason) == (2, "two")


async def test_a_cut_network_in_memory_heals() -> None:
    network = memory_network(3)
    first, second, third = network.transports
    for transport in network.transports:
        for _ in range(2):
            await transport.receive()
    network.isolate(third.peer)
    assert {await third.receive() for _ in range(2)} == {Disconnected(first.peer), Disconnected(second.peer)}
    assert await first.receive() == Disconnected(third.peer)
    first.broadcast(b"lost on the third", bulk=False)
    assert [peer.connected for peer in third.state().peers] == [False, False]
    network.rejoin(third.peer)
    assert {(await third.receive()).peer for _ in range(2)} == {first.peer, second.peer}
    first.broadcast(b"heard", bulk=False)
    assert await third.receive() == Frame(first.peer, b"heard")
    assert await first.receive() == Connected(third.peer)
