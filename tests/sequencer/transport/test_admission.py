"""Who gets a link and who is told why not: wrong keys, chains, roles and claims, half-open connections, observers."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from consensus.codec import encode
from consensus.ports import Frame
from sequencer.transport import Limits, TlsIdentity, TlsTransport, open_transport
from sequencer.transport.framing import CONSENSUS, HEADER, LINK, FrameReader, pack_frame
from sequencer.transport.hello import Hello, Verdict, greet_as_acceptor
from sequencer.transport.limits import HELLO_SIZE_MAX
from sequencer.transport.tls import Parted, TlsStream, tls_context
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

MEMBERS = committee(4)
ME = 1
"""The position of the transport under test: dialled by member 0, dialling members 2 and 3."""
UNKNOWN = identity(100)


def me(**changes: Any) -> TlsTransport:
    config = config_for(MEMBERS, [], peers={member.peer: ("127.0.0.1", 1) for member in MEMBERS}, **changes)
    return TlsTransport(config, MEMBERS[ME], Random(0))


@pytest.mark.parametrize(
    ("who", "changes", "reason"),
    [
        (MEMBERS[0], {"chain_id": "other"}, "your chain is 'other', mine is 'test-chain'"),
        (MEMBERS[0], {"genesis_hash": bytes(32)}, "your genesis is 000000000000, mine is"),
        (MEMBERS[0], {"wire_version": 2}, "your wire version is 2, mine is 1"),
        (UNKNOWN, {"peer": MEMBERS[0].peer}, f"you claim to be {MEMBERS[0].peer.hex()[:12]}, but your key is"),
        (MEMBERS[2], {"peer": MEMBERS[0].peer}, f"you claim to be {MEMBERS[0].peer.hex()[:12]}, but your key is"),
        (UNKNOWN, {}, f"the key {UNKNOWN.peer.hex()[:12]} is unknown here"),
        (MEMBERS[ME], {}, "you are me"),
    ],
)
async def test_a_wrong_hello_is_refused_and_both_ends_know_why(
    who: TlsIdentity, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport = me()
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        stranger = Stranger(who, transport.port)
        with pytest.raises(Parted) as parted:
            await stranger.greet(stranger.hello(**changes))
        assert "the peer refuses us: " in str(parted.value)
        assert reason in str(parted.value).replace("\\'", "'")
        await until(lambda: transport.state().refused == 1)
        assert any(f"refused: {reason}" in message or reason in message for message in caplog.messages)
        assert not any(peer.connected for peer in transport.state().peers)
        stranger.close()
        nursery.cancel_scope.cancel()


async def test_a_member_with_a_right_hello_is_let_in() -> None:
    transport = me()
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        stranger = Stranger(MEMBERS[0], transport.port)
        await stranger.link()
        assert await receive_connected(transport) == {MEMBERS[0].peer}
        stranger.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (pack_frame(LINK, b""), "malformed hello"),
        (pack_frame(LINK, b"\x91\x00"), "malformed hello"),
        (pack_frame(LINK, b"\x92\x00\x01"), "malformed hello"),
        (pack_frame(LINK, b"\xc1" * 50), "malformed hello"),
        (pack_frame(LINK, b"\x91" * 900), "malformed hello"),
        (pack_frame(CONSENSUS, b"vote"), "a frame on channel 0, which is not in use here"),
        (HEADER.pack(HELLO_SIZE_MAX + 1, LINK), f"exceeds {HELLO_SIZE_MAX}"),
    ],
)
async def test_what_is_not_a_hello_is_refused(sent: bytes, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    transport = me()
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        stranger = Stranger(MEMBERS[0], transport.port)
        stream = await stranger.open()
        await stream.send_all(sent)
        if reason == "malformed hello":  # a refusal waits for the other end's verdict
            await stream.send_all(pack_frame(LINK, encode(Verdict(refusal=""))))
        await until(lambda: transport.state().refused == 1)
        assert reason in caplog.text
        stranger.close()
        nursery.cancel_scope.cancel()


# --- the dialler's side --------------------------------------------------------------------------------------


async def dial_into(acceptor: TlsIdentity, hello: Hello) -> str:
    """What member 0 says of an acceptor at member 1's address that shows this key and hello."""
    members = MEMBERS[:2]
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = {members[1].peer: ("127.0.0.1", listener.socket.getsockname()[1])}
    config = config_for(members, [], peers=address, listen=None)
    async with listener, open_transport(config, members[0], Random(0)) as dialler:
        stream = TlsStream(tls_context(acceptor), await listener.accept(), server=True, stall_timeout_s=60)
        await stream.handshake()
        reader = FrameReader(stream, lambda _: 1024, silence_timeout_s=60)

        def echo(theirs: Hello) -> Hello:
            session = hello.session if hello.session != bytes(16) else theirs.session
            return Hello(
                wire_version=hello.wire_version,
                chain_id=hello.chain_id,
                genesis_hash=hello.genesis_hash,
                stream=hello.stream,
                peer=hello.peer,
                session=session,
            )

        with pytest.raises(Parted) as parted:
            await greet_as_acceptor(stream, reader, echo, lambda _key, _hello: "", hello)
        await until(lambda: dialler.state().peers[0].last_reason != "")
        stream.close()
        (state,) = dialler.state().peers
        assert not state.connected
        assert state.last_reason.removeprefix("refused: ") in str(parted.value)
        return state.last_reason


@pytest.mark.parametrize(
    ("who", "changes", "reason"),
    [
        (UNKNOWN, {}, f"dialled {MEMBERS[1].peer.hex()[:12]}, but the key there is {UNKNOWN.peer.hex()[:12]}"),
        (UNKNOWN, {"peer": MEMBERS[1].peer}, f"but the key there is {UNKNOWN.peer.hex()[:12]}"),
        (MEMBERS[1], {"peer": MEMBERS[2].peer}, f"you claim to be {MEMBERS[2].peer.hex()[:12]}, but your key is"),
        (MEMBERS[1], {"chain_id": "other"}, "your chain is"),
        (MEMBERS[1], {"genesis_hash": bytes(32)}, "your genesis is 000000000000"),
        (MEMBERS[1], {"wire_version": 9}, "your wire version is 9, mine is 1"),
        (MEMBERS[1], {"session": b"x" * 16}, "answers another one"),
        (MEMBERS[1], {"stream": "bulk"}, "answers another one"),
    ],
)
async def test_a_dialler_refuses_a_wrong_acceptor_and_both_ends_know_why(
    who: TlsIdentity, changes: dict[str, Any], reason: str
) -> None:
    assert reason in await dial_into(who, Stranger(who, 0).hello(**changes))


# --- half-open connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["nothing", "TLS", "half a hello", "one stream"])
async def test_a_half_open_connection_is_dropped(
    stage: str, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    transport = me()
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        stranger = Stranger(MEMBERS[0], transport.port)
        match stage:
            case "nothing":
                tcp = await trio.open_tcp_stream("127.0.0.1", transport.port)
            case "TLS":
                await stranger.open()
            case "half a hello":
                await (await stranger.open()).send_all(pack_frame(LINK, encode(stranger.hello()))[:20])
            case _:
                await stranger.greet(stranger.hello())
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(QUICK.handshake_timeout_s - 0.1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert transport.state().refused == 0
        mock_clock.jump(QUICK.handshake_timeout_s)
        await until(lambda: transport.state().refused == 1)
        said = "the second stream of" if stage == "one stream" else "no accepted hello within 5 s"
        assert said in caplog.text
        assert not transport._handshakes
        assert not transport._halves
        if stage == "nothing":
            assert await tcp.receive_some(1) == b""
            await tcp.aclose()
        stranger.close()
        nursery.cancel_scope.cancel()


async def test_streams_of_two_sessions_do_not_make_a_link() -> None:
    transport = me()
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        stranger = Stranger(MEMBERS[0], transport.port)
        await stranger.greet(stranger.hello("control", session=b"A" * 16))
        await stranger.greet(stranger.hello("bulk", session=b"B" * 16))
        await until(lambda: transport.state().refused == 1)
        assert not any(peer.connected for peer in transport.state().peers)
        await stranger.greet(stranger.hello("control", session=b"B" * 16))
        assert await receive_connected(transport) == {MEMBERS[0].peer}
        stranger.close()
        nursery.cancel_scope.cancel()


async def test_two_streams_of_one_kind_do_not_make_a_link() -> None:
    transport = me()
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        stranger = Stranger(MEMBERS[0], transport.port)
        for _ in range(2):
            await stranger.greet(stranger.hello("control"))
        await until(lambda: transport.state().refused == 1)
        assert not any(peer.connected for peer in transport.state().peers)
        stranger.close()
        nursery.cancel_scope.cancel()


async def test_a_flood_of_silent_connections_does_not_shut_a_member_out() -> None:
    transport = me(limits=Limits(handshakes_max=4))
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        silent = [await trio.open_tcp_stream("127.0.0.1", transport.port) for _ in range(20)]
        await until(lambda: transport.state().refused == 16)
        assert len(transport._handshakes) == 4
        stranger = Stranger(MEMBERS[0], transport.port)
        await stranger.link()
        assert await receive_connected(transport) == {MEMBERS[0].peer}
        for tcp in silent:
            await tcp.aclose()
        stranger.close()
        nursery.cancel_scope.cancel()


# --- observers -----------------------------------------------------------------------------------------------


async def test_an_observer_dials_every_validator_and_hears_what_they_broadcast() -> None:
    own = identity(50)
    async with cluster(3, observers=frozenset({own.peer})) as validators:
        for validator in validators:
            await receive_connected(validator, 2)
        members = committee(3)
        async with open_transport(config_for(members, validators, listen=None), own, Random(0)) as observer:
            assert observer.state().role == "observer"
            assert await receive_connected(observer, 3) == {member.peer for member in members}
            for validator in validators:
                assert await receive_connected(validator) == {own.peer}
                validator.broadcast(b"news", bulk=True)
                assert await receive_frame(observer) == Frame(validator.peer, b"news")
            observer.send(validators[0].peer, b"a question", bulk=False)
            while (event := await validators[0].receive()) != Frame(own.peer, b"a question"):
                assert isinstance(event, Frame)
                assert event.data == b"news"


async def test_any_observer_is_served_up_to_a_bound_and_a_place_becomes_free() -> None:
    transport = me(observers="any", limits=Limits(observers_max=2))
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        first, second, third = (Stranger(identity(60 + number), transport.port) for number in range(3))
        for stranger in (first, second):
            await stranger.link()
            assert await receive_connected(transport) == {stranger.own.peer}
        with pytest.raises(Parted, match="all places for observers are taken"):
            await third.greet(third.hello())
        await second.link(session=b"again, not a new")
        assert await receive_connected(transport) == {second.own.peer}
        validator = Stranger(MEMBERS[0], transport.port)
        await validator.link()
        assert await receive_connected(transport) == {MEMBERS[0].peer}
        first.close()
        await until(lambda: first.own.peer not in transport._links)
        await third.link()
        assert await receive_connected(transport) == {third.own.peer}
        for stranger in (second, third, validator):
            stranger.close()
        nursery.cancel_scope.cancel()


async def test_what_an_observer_left_unread_is_forgotten_with_it() -> None:
    transport = me(observers="any")
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        stranger = Stranger(identity(60), transport.port)
        control, _ = await stranger.link()
        await control.send_all(pack_frame(CONSENSUS, bytes(1000)) * 10)
        await until(lambda: stranger.own.peer in transport._links)
        box = transport._observer_records[stranger.own.peer].control
        await until(lambda: len(box.items) == 10)
        assert transport._inbox._first
        stranger.close()
        await until(lambda: stranger.own.peer not in transport._links)
        assert not box.items
        assert not transport._inbox._first
        nursery.cancel_scope.cancel()


async def test_records_of_observers_that_left_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.transport.transport.OBSERVER_RECORDS_MAX", 2)
    transport = me(observers="any")
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        for number in range(4):
            stranger = Stranger(identity(60 + number), transport.port)
            await stranger.link()
            await receive_connected(transport)
            stranger.close()
            await until(lambda: not transport._links)
        assert list(transport._observer_records) == [identity(62).peer, identity(63).peer]
        nursery.cancel_scope.cancel()
