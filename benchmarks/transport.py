"""How fast the TLS transport moves frames, beside a plain trio TCP stream and trio's own TLS stream in the same run.

    python -m benchmarks.transport [--frame-bytes 1000000] [--frames 300] [--round-trips 3000] [--rounds 3]

Both ends live in one thread and the time is processor time, so a row is what one core does for sender and receiver
together. All three move the same frames and hand each to the reader as one ``bytes`` object. The best of the rounds:
compare the rows with each other, not with another machine's.
"""

from __future__ import annotations

import argparse
import datetime
import os
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from consensus.ports import Frame
from sequencer.transport import TlsIdentity, TlsTransport, TransportConfig, open_transport

SMALL_BYTES = 200
WINDOW_FRAMES = 8
"""How many frames a sender is ahead of its reader: sending never waits, so the benchmark does."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Row = tuple[float, float]
"""MB/s and µs per round trip."""


def identity() -> TlsIdentity:
    """A fresh self-signed one."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return TlsIdentity(builder.sign(key, None), key)


async def measure(
    send: Callable[[bytes], Awaitable[None]],
    receive: Callable[[], Awaitable[bytes]],
    ask: Callable[[bytes], Awaitable[bytes]],
    options: argparse.Namespace,
) -> Row:
    """The best round of moving large frames one way, and of small ones there and back."""
    data = os.urandom(options.frame_bytes)
    rates, trips = [], []
    for _ in range(options.rounds):
        window = trio.Semaphore(WINDOW_FRAMES)

        async def produce(window: trio.Semaphore = window) -> None:
            for _ in range(options.frames):
                await window.acquire()
                await send(data)

        async with trio.open_nursery() as nursery:
            begin = time.process_time()
            nursery.start_soon(produce)
            for _ in range(options.frames):
                assert len(await receive()) == len(data)
                window.release()
            rates.append(options.frames * len(data) / (time.process_time() - begin) / 1e6)
        begin = time.process_time()
        for _ in range(options.round_trips):
            await ask(data[:SMALL_BYTES])
        trips.append((time.process_time() - begin) / options.round_trips * 1e6)
    return max(rates), min(trips)


async def receive_exactly(stream: Stream, size: int) -> bytes:
    """One frame of a known size."""
    pieces = []
    while size:
        piece = await stream.receive_some(min(size, 65536))
        assert piece, "the other end is gone"
        pieces.append(bytes(piece))
        size -= len(piece)
    return b"".join(pieces)


async def measure_streams(here: Stream, there: Stream, options: argparse.Namespace) -> Row:
    """A bare stream: frames of known size without headers."""
    echo_turn = trio.Semaphore(0)

    async def receive() -> bytes:
        return await receive_exactly(there, options.frame_bytes)

    async def ask(data: bytes) -> bytes:
        await here.send_all(data)
        echo_turn.release()
        return await receive_exactly(here, len(data))

    async def echo() -> None:
        while True:
            await echo_turn.acquire()
            await there.send_all(await receive_exactly(there, SMALL_BYTES))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        row = await measure(here.send_all, receive, ask, options)
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(here)
    await trio.aclose_forcefully(there)
    return row


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a connection on loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        here = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return here, await listener.accept()


def standard_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a client that trusts everybody, and of a server with a fresh certificate."""
    own = identity()
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "identity.pem")
        path.touch(mode=0o600)
        key = own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(key + own.certificate.public_bytes(Encoding.PEM))
        server.load_cert_chain(path)
    return client, server


async def measure_trio_tls(options: argparse.Namespace) -> Row:
    """``trio.SSLStream`` with a certificate on the server's side only."""
    of_client, of_server = standard_contexts()
    tcp_here, tcp_there = await tcp_pair()
    here = trio.SSLStream(tcp_here, of_client, server_hostname="localhost")
    there = trio.SSLStream(tcp_there, of_server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.do_handshake)
        nursery.start_soon(there.do_handshake)
    return await measure_streams(here, there, options)


async def next_frame(transport: TlsTransport) -> bytes:
    """The next frame, past news of connections."""
    while not isinstance(event := await transport.receive(), Frame):
        pass
    return event.data


async def measure_transport(options: argparse.Namespace) -> Row:
    """Two of our transports: large frames on bulk, small ones on control."""
    low, high = sorted((identity(), identity()), key=lambda one: one.peer)
    members = frozenset((low.peer, high.peer))
    common = {"chain_id": "bench", "genesis_hash": bytes(32), "validators": members}
    listening = TransportConfig(**common, listen=("127.0.0.1", 0))  # type: ignore[arg-type]
    async with open_transport(listening, high, Random(0)) as there:
        dialling = TransportConfig(**common, peers={high.peer: ("127.0.0.1", there.port)})  # type: ignore[arg-type]
        async with open_transport(dialling, low, Random(0)) as here:
            await here.receive()
            await there.receive()

            async def send(data: bytes) -> None:
                here.send(there.peer, data, bulk=True)
                await trio.lowlevel.checkpoint()

            async def ask(data: bytes) -> bytes:
                here.send(there.peer, data, bulk=False)
                there.send(here.peer, await next_frame(there), bulk=False)
                return await next_frame(here)

            return await measure(send, lambda: next_frame(there), ask, options)


async def run(options: argparse.Namespace) -> None:
    """Print the table."""
    rows = {
        "plain trio TCP": await measure_streams(*await tcp_pair(), options),
        "trio.SSLStream": await measure_trio_tls(options),
        "this transport": await measure_transport(options),
    }
    base_rate, base_trip = rows["plain trio TCP"]
    print(f"{'':16}  {'MB/s':>7}  {'ratio':>6}  {'round trip':>11}  {'ratio':>6}")
    for name, (rate, trip) in rows.items():
        print(f"{name:16}  {rate:7.0f}  {rate / base_rate:6.2f}  {trip:8.1f} µs  {trip / base_trip:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frame-bytes", type=int, default=1_000_000)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--round-trips", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    trio.run(run, parser.parse_args())


if __name__ == "__main__":
    main()
