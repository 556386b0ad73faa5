"""A node and its signing process over a real local socket: who may ask, what is answered, and what happens when it is
away."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel

from consensus.codec import encode
from consensus.types import Subject
from sequencer.signer import remote as remote_module
from sequencer.signer import server
from sequencer.signer.messages import (
    FRAME_SIZE_MAX,
    PENDING_MAX,
    VERSION,
    Closed,
    Open,
    Opened,
    Refused,
    SignatureMade,
    SignRequest,
    frame_reader,
    framed,
    receive_from_signer,
)
from sequencer.signer.remote import RemoteSigner, SigningRefused
from sequencer.signer.rules import SUBJECTS_KEPT, Rule
from sequencer.signer.server import SocketError, open_listener
from sequencer.transport import TlsIdentity
from sequencer.transport.framing import FrameReader, pack_frame
from sequencer.transport.tls import Parted, TlsStream, tls_context
from tests.sequencer.signer.common import (
    NODE_IDENTITY,
    STRANGER_IDENTITY,
    Chain,
    chain,
    remote,
    serving,
    socket_path,
)
from tests.sequencer.signer.subjects import ffg, proposal, timeout, vote
from tests.support.waiting import until


@pytest.fixture
def one(tmp_path: Path) -> Chain:
    return chain(tmp_path)


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_path() as found:
        yield found


async def sign(signer: RemoteSigner, of: Chain, subject: Subject) -> bytes:
    with trio.fail_after(30):
        domain = msgspec.structs.replace(of.domain, epoch=subject.epoch)
        signature = await signer.sign(subject, of.key.public_key, domain)
    assert signature is not None
    return signature


async def until_connected(signer: RemoteSigner, connections: int = 1) -> None:
    await until(lambda: signer.state().connected and signer.state().connections >= connections)


class Peer:
    """Speaks to the server by hand."""

    def __init__(self, stream: TlsStream) -> None:
        self.stream = stream
        self.reader: FrameReader = frame_reader(stream, silence_timeout_s=30)

    async def say(self, message: Open | SignRequest) -> None:
        await self.stream.send_all(framed(message))

    async def hear(self) -> object:
        return await receive_from_signer(self.reader)


@asynccontextmanager
async def peer(path: Path, own: TlsIdentity = NODE_IDENTITY) -> AsyncIterator[Peer]:
    with trio.fail_after(60):
        stream = TlsStream(tls_context(own), await trio.open_unix_socket(path), server=False, stall_timeout_s=30)
        try:
            await stream.handshake()
            yield Peer(stream)
        finally:
            stream.close()


def hello(of: Chain) -> Open:
    return Open(version=VERSION, chain_id=of.members.spec.chain_id, genesis_hash=of.members.spec.hash)


def asking(of: Chain, number: int, subject: Subject) -> SignRequest:
    request = of.request(subject)
    return SignRequest(
        number=number,
        public_key=request.public_key,
        validators_hash=request.validators_hash,
        subject=request.subject,
    )


# --- the node's side --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ed25519", "bls"])
async def test_signatures_of_every_kind(tmp_path: Path, path: Path, scheme: str) -> None:
    one = chain(tmp_path, scheme=scheme)
    asked = [vote(3, justify=2), vote(3, kind="order"), timeout(3, 3), proposal(4), ffg(0, 32)]
    with one.authority() as authority:
        async with serving(authority, path), remote(one, path) as signer:
            for subject in asked:
                signature = await sign(signer, one, subject)
                assert one.verifies(signature, subject)
                assert await sign(signer, one, subject) == signature
            state = signer.state()
    assert (state.connected, state.pending, state.signatures) == (True, 0, 10)
    assert state.round_trip_ns is not None
    assert state.round_trip_ns > 0


async def test_a_refusal_is_an_exception_that_says_what_to_do(one: Chain, path: Path) -> None:
    with one.authority() as authority:
        async with serving(authority, path), remote(one, path) as signer:
            await sign(signer, one, vote(5))
            with pytest.raises(SigningRefused, match=r"Does another node use this key") as caught:
                await sign(signer, one, vote(5, 2))
            assert caught.value.rule == Rule.CONTRADICTION
            assert "asked for vote (epoch 0, view 5, block_id" in caught.value.reason
            await sign(signer, one, vote(6))


async def test_two_nodes_at_one_signer_never_get_two_signatures(one: Chain, path: Path) -> None:
    """The second is a copy: the same TLS key, its own mind."""
    granted: dict[int, list[int]] = {}
    refused: list[str] = []

    async def node(number: int) -> None:
        async with remote(one, path) as signer:
            for view in range(1, 40):
                try:
                    await sign(signer, one, vote(view, number))
                    granted.setdefault(view, []).append(number)
                except SigningRefused as refusal:
                    refused.append(refusal.rule)

    with one.authority() as authority:
        async with serving(authority, path), trio.open_nursery() as nursery:
            for number in (1, 2):
                nursery.start_soon(node, number)
    assert sorted(granted) == list(range(1, 40))
    assert all(len(numbers) == 1 for numbers in granted.values())
    assert len(refused) == 39
    assert {*refused} <= {Rule.CONTRADICTION, Rule.ORDER}


async def test_requests_wait_in_order_while_it_is_away(
    one: Chain, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: dict[int, bytes] = {}

    async def ask(signer: RemoteSigner, view: int) -> None:
        found[view] = await sign(signer, one, vote(view))

    async with remote(one, path) as signer, trio.open_nursery() as nursery:
        for view in range(1, 2 * PENDING_MAX):
            nursery.start_soon(ask, signer, view)
            await trio.lowlevel.checkpoint()  # tasks begin in any order
        await until(lambda: "No such file" in signer.state().last_reason)
        await until(lambda: signer.state().pending == 2 * PENDING_MAX - 1)
        assert not signer.state().connected
        assert "the signing process is away" in caplog.text
        assert not found
        with one.authority() as authority:
            async with serving(authority, path):
                await until(lambda: len(found) == 2 * PENDING_MAX - 1)
    assert all(one.verifies(signature, vote(view)) for view, signature in found.items())


async def test_a_restart_of_the_signer_is_a_pause(one: Chain, path: Path) -> None:
    async with remote(one, path) as signer:
        for start in range(1, 4):
            with one.authority() as authority:
                async with serving(authority, path):
                    await until_connected(signer, start)
                    await sign(signer, one, vote(10 * start))
                    repeated = await sign(signer, one, vote(10))
                    assert one.verifies(repeated, vote(10))


async def test_an_answer_that_was_lost_is_given_again(one: Chain, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the signature was recorded, with others behind it: all are asked again, in order."""
    decide = server.SignerServer._decide
    broken: list[SignRequest] = []

    def breaks(self: server.SignerServer, asked: SignRequest, node: bytes, who: str) -> SignatureMade | Refused:
        answer = decide(self, asked, node, who)
        if asked.number == 3 and not broken:
            broken.append(asked)
            raise Parted("the answer is lost")
        return answer

    monkeypatch.setattr(server.SignerServer, "_decide", breaks)
    found: list[bytes] = []

    async def ask(signer: RemoteSigner, view: int) -> None:
        found.append(await sign(signer, one, vote(view)))

    with one.authority() as authority:
        async with serving(authority, path), remote(one, path) as signer:
            await until_connected(signer)
            async with trio.open_nursery() as nursery:
                for view in range(1, 9):
                    nursery.start_soon(ask, signer, view)
                    await trio.testing.wait_all_tasks_blocked()
            assert broken
            assert signer.state().connections == 2
    assert len(found) == 8


async def test_a_signer_that_hangs_is_connected_to_anew(
    one: Chain, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "ANSWER_TIMEOUT_S", 0.2)
    answer = server.SignerServer._answer
    hung: list[str] = []

    async def hangs(self: server.SignerServer, stream: TlsStream, reader: FrameReader, who: str) -> None:
        if not hung:
            hung.append(who)
            await trio.sleep_forever()
        await answer(self, stream, reader, who)

    monkeypatch.setattr(server.SignerServer, "_answer", hangs)
    with one.authority() as authority:
        async with serving(authority, path), remote(one, path) as signer:
            assert one.verifies(await sign(signer, one, vote(1)), vote(1))
            assert hung
            assert signer.state().connections == 2


# --- who may ask ------------------------------------------------------------------------------------------------------


async def test_a_stranger_is_told_and_named(one: Chain, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with one.authority() as authority:
        async with serving(authority, path), peer(path, STRANGER_IDENTITY) as stranger:
            await stranger.say(hello(one))
            closed = await stranger.hear()
            assert isinstance(closed, Closed)
            assert f"the key {STRANGER_IDENTITY.peer.hex()} is not among the nodes" in closed.reason
            with pytest.raises(Parted):
                await stranger.hear()
    assert STRANGER_IDENTITY.peer.hex() in caplog.text
    if hasattr(socket, "SO_PEERCRED"):
        assert f"process {os.getpid()} of user {os.getuid()}" in caplog.text


async def test_a_node_stays_away_from_a_process_with_another_key(
    one: Chain, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.sequencer.signer.common.SIGNER_IDENTITY", STRANGER_IDENTITY)
    with one.authority() as authority:
        async with serving(authority, path):
            monkeypatch.undo()
            async with remote(one, path) as signer:
                await until(lambda: STRANGER_IDENTITY.peer.hex() in signer.state().last_reason)
                assert signer.state().connections == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "your version is 2, mine is 1"),
        ({"chain_id": "other"}, "your chain is 'other'"),
        ({"genesis_hash": bytes(32)}, "with genesis 0000"),
    ],
)
async def test_another_chain_is_refused(one: Chain, path: Path, change: dict[str, object], said: str) -> None:
    with one.authority() as authority:
        async with serving(authority, path), peer(path) as node:
            await node.say(msgspec.structs.replace(hello(one), **change))
            closed = await node.hear()
            assert isinstance(closed, Closed)
            assert said in closed.reason


async def test_nothing_is_signed_before_the_hello(one: Chain, path: Path) -> None:
    with one.authority() as authority:
        async with serving(authority, path), peer(path) as node:
            await node.say(asking(one, 1, vote(1)))
            closed = await node.hear()
            assert isinstance(closed, Closed)
            assert "the first message must be Open" in closed.reason
        assert not authority._histories


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pack_frame(1, b"\xc1"), "malformed"),
        (pack_frame(1, b"\x93\x02\xcd\x00\x01"), "malformed"),
        (pack_frame(0, b""), "channel 0"),
        (pack_frame(1, bytes(FRAME_SIZE_MAX + 1)), f"exceeds {FRAME_SIZE_MAX}"),
        (b"\xff\xff\xff\xff\x01", f"exceeds {FRAME_SIZE_MAX}"),
    ],
)
async def test_malformed_bytes_end_the_connection_alone(
    one: Chain, path: Path, frame: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with one.authority() as authority:
        async with serving(authority, path), remote(one, path) as signer:
            await sign(signer, one, vote(1))
            for opened in (False, True):
                async with peer(path) as node:
                    if opened:
                        await node.say(hello(one))
                        assert isinstance(await node.hear(), Opened)
                    await node.stream.send_all(frame)
                    closed = await node.hear()
                    assert isinstance(closed, Closed)
                    assert said in closed.reason
            await sign(signer, one, vote(2))
            assert signer.state().connections == 1
    assert said in caplog.text


async def test_every_shortened_or_changed_request_is_refused_or_signs_what_it_says(one: Chain, path: Path) -> None:
    """A byte changed anywhere in a request: the connection ends, or it is a request of its own that was well-formed."""
    good = encode(asking(one, 1, vote(1)))
    with one.authority() as authority:
        async with serving(authority, path):
            for position in range(len(good)):
                changed = bytearray(good)
                changed[position] ^= 1 << (position % 8)
                async with peer(path) as node:
                    await node.say(hello(one))
                    assert isinstance(await node.hear(), Opened)
                    await node.stream.send_all(pack_frame(1, bytes(changed)))
                    assert isinstance(await node.hear(), Closed | Refused | SignatureMade)
        signed = [entry for history in authority._histories.values() for entry in history.kinds.values()]
        for kind in signed:
            slots = [entry.subject.slot for entry in kind.latest]
            assert slots == sorted(set(slots))


async def test_silent_connections_make_room(one: Chain, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT_S", 600.0)
    with one.authority() as authority:
        async with serving(authority, path):
            silent = [await trio.open_unix_socket(path) for _ in range(server.CONNECTIONS_MAX + 8)]
            async with remote(one, path) as signer:
                await sign(signer, one, vote(1))
            with trio.fail_after(30):
                for stream in silent[:9]:  # eight, and one for the node
                    with contextlib.suppress(trio.BrokenResourceError):
                        await stream.receive_some(1024)
                    await stream.aclose()
            with trio.move_on_after(0.05) as still_open:
                await silent[9].receive_some(1024)
            assert still_open.cancelled_caught
            for stream in silent:
                await stream.aclose()


async def test_the_places_of_nodes_are_counted(
    one: Chain, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    with one.authority() as authority:
        async with serving(authority, path), remote(one, path) as first, remote(one, path) as second:
            await until_connected(first)
            await until_connected(second)
            with pytest.raises(Parted):
                async with peer(path) as third:
                    await third.hear()
            await sign(first, one, vote(1))
            await sign(second, one, vote(2))
    assert "2 nodes are connected" in caplog.text


# --- the socket -------------------------------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_nobody_else_reaches_the_socket(path: Path) -> None:
    async with open_listener(path):
        assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
        with pytest.raises(SocketError, match="another process listens there"):
            open_listener(path)
    os.chmod(path.parent, 0o750)
    with pytest.raises(SocketError, match=r"must belong to this user alone \(it has mode 0750"):
        open_listener(path)


async def test_a_socket_left_behind_is_replaced(path: Path) -> None:
    for _ in range(2):
        async with open_listener(path):
            await (await trio.open_unix_socket(path)).aclose()
        assert mode_of(path) == 0o600, "it is left behind"


def test_a_file_in_the_way_is_not_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("something of mine")
    with pytest.raises(SocketError, match="no socket"):
        open_listener(path)
    assert path.read_text() == "something of mine"


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="longer than the 103 bytes"):
        open_listener(tmp_path / ("x" * 100) / "signer.sock")


def test_a_node_has_fewer_requests_under_way_than_are_remembered() -> None:
    assert PENDING_MAX < SUBJECTS_KEPT
