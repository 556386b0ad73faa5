"""Identities that repeat, clusters of real transports on loopback, and a peer that can misbehave."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

from consensus.codec import WIRE_VERSION
from consensus.ports import Connected, Disconnected, Frame
from consensus.types import PeerId
from sequencer.transport import Limits, TlsIdentity, TlsTransport, TransportConfig, open_transport
from sequencer.transport.framing import FrameReader
from sequencer.transport.hello import Hello, StreamKind, greet_as_dialler
from sequencer.transport.limits import LINK_FRAME_SIZE_MAX
from sequencer.transport.tls import TlsStream, tls_context

CHAIN_ID = "test-chain"
GENESIS = hashlib.sha256(b"test genesis").digest()
QUICK = Limits(reconnect_first_s=0.01, reconnect_max_s=0.05)
"""Real time, but nobody waits long to dial again."""


def identity(number: int) -> TlsIdentity:
    """The same key for the same number; self-signed and long expired, which nobody minds."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"tls key %d" % number).digest())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"node {number}")])
    start = datetime.datetime(2001, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number + 1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(key, None)
    )
    return TlsIdentity(certificate, key)


def committee(size: int) -> list[TlsIdentity]:
    """Identities in ascending order of peer id: each dials those after it."""
    return sorted((identity(number) for number in range(size)), key=lambda one: one.peer)


def config_for(
    members: list[TlsIdentity], others: list[TlsTransport], *, limits: Limits = QUICK, **changes: Any
) -> TransportConfig:
    """The configuration of a validator, or observer, that knows the addresses of ``others``."""
    values: dict[str, Any] = {
        "chain_id": CHAIN_ID,
        "genesis_hash": GENESIS,
        "validators": frozenset(member.peer for member in members),
        "peers": {other.peer: ("127.0.0.1", other.port) for other in others},
        "listen": ("127.0.0.1", 0),
        "limits": limits,
        **changes,
    }
    return TransportConfig(**values)


@asynccontextmanager
async def cluster(size: int, *, limits: Limits = QUICK, **changes: Any) -> AsyncIterator[list[TlsTransport]]:
    """Validators in ascending order of peer id. They open from the last, which dials nobody, to the first."""
    members = committee(size)
    transports: list[TlsTransport] = []
    async with AsyncExitStack() as stack:
        for position in reversed(range(size)):
            config = config_for(members, transports, limits=limits, **changes)
            opened = open_transport(config, members[position], Random(position))
            transports.append(await stack.enter_async_context(opened))
        yield transports[::-1]


async def receive_connected(transport: TlsTransport, count: int = 1) -> set[PeerId]:
    """The peers of the next ``count`` events, all of which must be connections; ends of others are passed over."""
    peers: list[PeerId] = []
    while len(peers) < count:
        event = await transport.receive()
        if not isinstance(event, Disconnected):
            assert isinstance(event, Connected), event
            peers.append(event.peer)
    return set(peers)


async def receive_frame(transport: TlsTransport) -> Frame:
    event = await transport.receive()
    assert isinstance(event, Frame), event
    return event


class Stranger:
    """Speaks the protocol by hand, with any key and any hello."""

    def __init__(self, own: TlsIdentity, port: int) -> None:
        self.own = own
        self.port = port
        self.streams: list[TlsStream] = []

    def hello(self, kind: StreamKind = "control", **changes: Any) -> Hello:
        values: dict[str, Any] = {
            "wire_version": WIRE_VERSION,
            "chain_id": CHAIN_ID,
            "genesis_hash": GENESIS,
            "stream": kind,
            "peer": self.own.peer,
            "session": bytes(16),
            **changes,
        }
        return Hello(**values)

    async def open(self) -> TlsStream:
        """A TLS connection without a hello."""
        tcp = await trio.open_tcp_stream("127.0.0.1", self.port)
        stream = TlsStream(tls_context(self.own), tcp, server=False, stall_timeout_s=60)
        self.streams.append(stream)
        await stream.handshake()
        return stream

    async def greet(self, hello: Hello) -> tuple[TlsStream, FrameReader]:
        """A stream whose hellos were accepted. Raises ``Parted`` with the other end's reason."""
        stream = await self.open()
        reader = FrameReader(stream, lambda _: LINK_FRAME_SIZE_MAX, silence_timeout_s=60)
        await greet_as_dialler(stream, reader, hello, lambda _key, _hello: "")
        return stream, reader

    async def link(self, **changes: Any) -> tuple[TlsStream, TlsStream]:
        """Both streams of a link."""
        control, _ = await self.greet(self.hello("control", **changes))
        bulk, _ = await self.greet(self.hello("bulk", **changes))
        return control, bulk

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


async def tls_pair(
    *, stall_timeout_s: float = 60, contexts: tuple[SSL.Context, SSL.Context] | None = None
) -> tuple[TlsStream, TlsStream]:
    """A client and a server stream between identities 0 and 1, before their handshake."""
    client, server = await tcp_pair()
    of_client, of_server = contexts or (tls_context(identity(0)), tls_context(identity(1)))
    return (
        TlsStream(of_client, client, server=False, stall_timeout_s=stall_timeout_s),
        TlsStream(of_server, server, server=True, stall_timeout_s=stall_timeout_s),
    )


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a TCP connection on loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return client, await listener.accept()
