"""Members that change while the transport runs: who is dialled, let in, kept and parted from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from consensus.codec import encode
from consensus.types import PeerId
from sequencer.transport import PeerState, TlsIdentity, TlsTransport, open_transport
from sequencer.transport.framing import LINK, FrameReader, pack_frame
from sequencer.transport.hello import Verdict
from sequencer.transport.limits import LINK_FRAME_SIZE_MAX, Limits
from sequencer.transport.tls import Parted
from tests.sequencer.transport.common import (
    QUICK,
    Stranger,
    committee,
    config_for,
    identity,
    receive_connected,
    receive_frame,
)
from tests.support.waiting import until

LOW, MIDDLE, HIGH = committee(3)
STRANGER = identity(100)
NOBODY: frozenset[PeerId] = frozenset()


def state_of(transport: TlsTransport, peer: PeerId) -> PeerState | None:
    return next((state for state in transport.state().peers if state.peer == peer), None)


def connected(transport: TlsTransport, peer: PeerId) -> bool:
    state = state_of(transport, peer)
    return state is not None and state.connected


def members(
    *validators: TlsIdentity, guests: frozenset[PeerId] = NOBODY, at: Mapping[PeerId, int] | None = None
) -> dict[str, Any]:
    return {
        "validators": frozenset(validator.peer for validator in validators),
        "guests": guests,
        "addresses": {peer: ("127.0.0.1", port) for peer, port in (at or {}).items()},
    }


def change(transport: TlsTransport, *validators: TlsIdentity, **others: Any) -> None:
    transport.set_members(**members(*validators, **others))


async def opened(stack: AsyncExitStack, own: TlsIdentity, *validators: TlsIdentity, **changes: Any) -> TlsTransport:
    config = config_for(list(validators), [], **changes)
    return await stack.enter_async_context(open_transport(config, own, Random(0)))


async def test_a_guest_is_let_in_becomes_a_validator_on_its_link_and_is_parted_from_at_last() -> None:
    async with AsyncExitStack() as stack:
        transport = await opened(stack, LOW, LOW)
        joiner = Stranger(STRANGER, transport.port)
        with pytest.raises(Parted, match="is unknown here: no validator now, nor an observer"):
            await joiner.link()
        change(transport, LOW, guests=frozenset({STRANGER.peer}))
        await joiner.link()
        assert await receive_connected(transport) == {STRANGER.peer}
        state = state_of(transport, STRANGER.peer)
        assert state is not None
        assert (state.role, state.connected) == ("observer", True)
        change(transport, LOW, STRANGER)
        state = state_of(transport, STRANGER.peer)
        assert state is not None
        assert (state.role, state.connected, state.connections) == ("validator", True, 1)
        change(transport, LOW)
        await until(lambda: not connected(transport, STRANGER.peer))
        state = state_of(transport, STRANGER.peer)
        assert state is not None
        assert (state.role, state.last_reason) == (
            "observer",
            "it is no validator any more, nor an observer that is served here",
        )
        with pytest.raises(Parted, match="is unknown here"):
            await joiner.link(session=b"B" * 16)
        joiner.close()


async def test_a_stranger_that_dials_for_ever_is_named_once_until_it_is_served(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An observer of other validators dials a new one too, which knows nothing of it, every few seconds."""

    def said(name: TlsIdentity) -> int:
        return sum(f"the key {name.peer.hex()[:12]} is unknown here" in message for message in caplog.messages)

    async with AsyncExitStack() as stack:
        transport = await opened(stack, LOW, LOW)
        observer, other = Stranger(STRANGER, transport.port), Stranger(HIGH, transport.port)

        async def dials(who: Stranger, times: int) -> None:
            for _ in range(times):
                refused = transport.state().refused
                with pytest.raises(Parted, match="is unknown here"):
                    await who.link()
                await until(lambda: transport.state().refused > refused)  # noqa: B023 - called in this round
                mock_clock.jump(60)

        await dials(observer, 3)
        await dials(other, 2)
        assert (said(STRANGER), said(HIGH)) == (1, 1)
        change(transport, LOW, guests=frozenset({STRANGER.peer}))
        await observer.link()
        await receive_connected(transport)
        change(transport, LOW)
        await until(lambda: not connected(transport, STRANGER.peer))
        await dials(observer, 2)
        assert (said(STRANGER), said(HIGH)) == (2, 1)
        observer.close()
        other.close()


async def test_whoever_leaves_and_is_a_configured_observer_keeps_its_link() -> None:
    async with AsyncExitStack() as stack:
        transport = await opened(stack, LOW, LOW, STRANGER, observers=frozenset({STRANGER.peer}))
        leaver = Stranger(STRANGER, transport.port)
        await leaver.link()
        await receive_connected(transport)
        change(transport, LOW)
        await trio.testing.wait_all_tasks_blocked(0.01)
        state = state_of(transport, STRANGER.peer)
        assert state is not None
        assert (state.role, state.connected) == ("observer", True)
        leaver.close()


async def test_the_own_role_follows_the_members() -> None:
    async with AsyncExitStack() as stack:
        transport = await opened(stack, STRANGER, LOW)
        assert transport.state().role == "observer"
        change(transport, LOW, STRANGER)
        assert transport.state().role == "validator"


async def test_a_new_member_is_dialled_and_a_former_one_is_not() -> None:
    async with AsyncExitStack() as stack:
        low = await opened(stack, LOW, LOW)
        high = await opened(stack, HIGH, LOW, HIGH)
        change(low, LOW, HIGH, at={HIGH.peer: high.port})
        assert await receive_connected(low) == {HIGH.peer}
        assert await receive_connected(high) == {LOW.peer}
        low.send(HIGH.peer, b"welcome", bulk=False)
        assert (await receive_frame(high)).data == b"welcome"
        change(low, LOW)
        await until(lambda: not connected(high, LOW.peer))
        assert not low._dials
        change(low, LOW, HIGH, at={HIGH.peer: high.port})
        assert await receive_connected(high) == {LOW.peer}


async def test_the_higher_one_dials_where_the_lower_does_not(mock_clock: trio.testing.MockClock) -> None:
    """Of two validators only the higher knows an address: it waits, and dials."""
    async with AsyncExitStack() as stack:
        low = await opened(stack, LOW, LOW, HIGH)
        high = await opened(stack, HIGH, LOW, HIGH, peers={LOW.peer: ("127.0.0.1", low.port)})
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(QUICK.second_dial_s - 0.1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not connected(high, LOW.peer)
        mock_clock.jump(0.2)
        assert await receive_connected(low) == {HIGH.peer}
        assert await receive_connected(high) == {LOW.peer}


async def test_two_that_dial_each_other_keep_one_link_and_leave_it_alone() -> None:
    limits = Limits(reconnect_first_s=0.01, reconnect_max_s=0.05, second_dial_s=0.0)
    async with AsyncExitStack() as stack:
        low = await opened(stack, LOW, LOW, HIGH, limits=limits)
        high = await opened(stack, HIGH, LOW, HIGH, limits=limits)
        change(low, LOW, HIGH, at={HIGH.peer: high.port})
        change(high, LOW, HIGH, at={LOW.peer: low.port})
        quiet = 0
        before = (0, 0)
        for _ in range(2000):  # how often they cross before it settles is chance; that it does is not
            await trio.testing.wait_all_tasks_blocked(0.01)
            first, second = state_of(low, HIGH.peer), state_of(high, LOW.peer)
            assert first is not None
            assert second is not None
            now = (first.connections, second.connections)
            quiet = quiet + 1 if now == before and first.connected and second.connected else 0
            before = now
            if quiet == 20:
                break
        assert quiet == 20, "they go on replacing each other's connections"


async def test_a_member_without_an_address_is_waited_for() -> None:
    async with AsyncExitStack() as stack:
        low = await opened(stack, LOW, LOW, MIDDLE, HIGH)
        assert not low._dials
        high = await opened(stack, HIGH, HIGH, peers={LOW.peer: ("127.0.0.1", low.port)})
        assert await receive_connected(high) == {LOW.peer}
        assert await receive_connected(low) == {HIGH.peer}


async def test_a_peer_that_is_removed_between_its_two_streams_gets_no_link() -> None:
    async with AsyncExitStack() as stack:
        transport = await opened(stack, LOW, LOW, HIGH)
        leaver = Stranger(HIGH, transport.port)
        await leaver.greet(leaver.hello("control"))
        await until(lambda: HIGH.peer in transport._halves)
        change(transport, LOW)
        with pytest.raises(Parted, match="is unknown here"):
            await leaver.greet(leaver.hello("bulk"))
        assert not transport._links
        leaver.close()


async def test_a_peer_that_is_removed_during_its_hellos_gets_no_link(caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncExitStack() as stack:
        transport = await opened(stack, LOW, LOW, HIGH)
        leaver = Stranger(HIGH, transport.port)
        stream = await leaver.open()
        reader = FrameReader(stream, lambda _: LINK_FRAME_SIZE_MAX, silence_timeout_s=60)
        await stream.send_all(pack_frame(LINK, encode(leaver.hello("control"))))
        for _ in range(2):  # the hello and a verdict that accepts
            await reader.read()
        change(transport, LOW)
        await stream.send_all(pack_frame(LINK, encode(Verdict(refusal=""))))
        await until(lambda: transport.state().refused == 1)
        assert "is unknown here" in caplog.text
        assert not transport._halves
        leaver.close()
