"""TLS 1.3 in which both sides show a certificate and only the key in it counts.

There is no certificate authority. A peer is known by its :data:`~consensus.types.PeerId`, the SHA-256 of the DER
SubjectPublicKeyInfo of its TLS key, and OpenSSL cannot be told to trust a hash: the verify callback accepts every
certificate, so a handshake proves that the peer *holds the key it shows* (its CertificateVerify signature) and nothing
else. Whoever completes :meth:`TlsStream.handshake` must compare :attr:`TlsStream.peer` before believing anything.
Names, dates and issuers in certificates are ignored: a pinned key does not expire.

pyOpenSSL is used and not :mod:`ssl`, because the standard library has no verify callback: its server cannot ask for a
client certificate without also demanding a known issuer. The connection works on the non-blocking socket itself,
without the memory buffers of ``trio.SSLStream``; ``benchmarks/transport.py`` compares them.

Sessions are never resumed, so every connection proves the key again.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

import trio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto

from consensus.types import PeerId
from sequencer.transport.limits import KEY_BYTES_MAX

RECORD_SIZE: Final = 16 * 1024
"""The largest plaintext of one TLS record; a read returns at most one."""
_RECORD_OVERHEAD: Final = 32
"""Bytes that AES-GCM processes in a record besides the plaintext, in whole blocks: its type, its tag's block."""
_WRITE_SIZE_MAX: Final = 4 * RECORD_SIZE
_LAST_READS_MAX: Final = 16
_CALLS_PER_CHECKPOINT: Final = 8
"""How long one busy stream may keep the other tasks waiting: some tens of microseconds."""

T = TypeVar("T")
TlsKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


class Parted(Exception):
    """A connection is over, for the reason given: the network's or the peer's doing, never our bug."""


def peer_id_of(key: PublicKeyTypes) -> PeerId:
    """SHA-256 of the DER SubjectPublicKeyInfo of a public key (32 bytes)."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@dataclass(frozen=True)
class TlsIdentity:
    """A TLS key and a certificate that shows it. The key stays out of the repr."""

    certificate: x509.Certificate
    key: TlsKey = field(repr=False)

    def __post_init__(self) -> None:
        if peer_id_of(self.certificate.public_key()) != peer_id_of(self.key.public_key()):
            raise ValueError("the TLS certificate shows another key than the private key beside it")

    @property
    def peer(self) -> PeerId:
        """The own peer id."""
        return peer_id_of(self.key.public_key())


def tls_context(identity: TlsIdentity) -> SSL.Context:
    """A context for both roles: TLS 1.3 only, own certificate shown, the peer's demanded and not judged."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_privatekey(identity.key)
    context.use_certificate(identity.certificate)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_certificate)
    return context


def _accept_certificate(_c: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, _ok: int) -> bool:
    return True  # only the key counts, and TlsStream.peer names it


class TlsStream:
    """One TLS connection over a connected TCP stream, which it owns. One task may send while another receives.

    Remote trouble of any kind is :class:`Parted`. A cancelled :meth:`send_all` leaves half a frame on the wire: close.
    """

    def __init__(self, context: SSL.Context, tcp: trio.SocketStream, *, server: bool, stall_timeout_s: float) -> None:
        self._tcp = tcp
        self._stall_timeout_s = stall_timeout_s
        self._connection = SSL.Connection(context, cast("socket.socket", tcp.socket))
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._peer: PeerId | None = None
        self._key_bytes_left = KEY_BYTES_MAX
        self._reads = 0
        self._writes = 0
        self._sending = False
        self._closed = False

    @property
    def peer(self) -> PeerId:
        """The id of the key that the peer proved to hold. Only after :meth:`handshake`."""
        assert self._peer is not None, "no handshake yet"
        return self._peer

    async def handshake(self) -> None:
        """Complete the TLS handshake. Raises :class:`Parted`. No deadline of its own."""
        while True:
            try:
                self._call(self._connection.do_handshake)
                break
            except SSL.WantReadError:
                await self._wait(trio.lowlevel.wait_readable)
            except SSL.WantWriteError:
                await self._wait(trio.lowlevel.wait_writable)
        await trio.lowlevel.checkpoint()
        try:
            certificate = self._connection.get_peer_certificate(as_cryptography=True)
            if certificate is None:
                raise Parted("the peer shows no certificate")
            self._peer = peer_id_of(certificate.public_key())
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise Parted(f"the peer's certificate is malformed: {error}") from error

    async def send_all(self, data: bytes) -> None:
        """Send everything. Raises :class:`Parted`, also when no byte is taken for ``stall_timeout_s``."""
        self._sending = True
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self._call(self._connection.send, view[sent : sent + _WRITE_SIZE_MAX])
                except SSL.WantWriteError:
                    with trio.move_on_after(self._stall_timeout_s) as scope:
                        await self._wait(trio.lowlevel.wait_writable)
                    if scope.cancelled_caught:
                        raise Parted(f"the peer took no byte for {self._stall_timeout_s:g} s") from None
                except SSL.WantReadError:
                    # Waiting here could collide with the receiving task on one socket.
                    raise Parted("the peer began a second TLS handshake") from None
                else:
                    self._writes += 1
                    self._sending = sent < len(view)  # when the checkpoint cancels, the frame may be out
                    if self._writes >= _CALLS_PER_CHECKPOINT:
                        self._writes = 0
                        await trio.lowlevel.checkpoint()
        self._sending = False
        self._key_bytes_left -= len(data) + _RECORD_OVERHEAD * (1 + len(data) // RECORD_SIZE)
        if self._key_bytes_left < 0:
            raise Parted("the TLS key has encrypted as much as it may; connecting anew")

    def send_last(self, data: bytes) -> None:
        """Send a last small frame without waiting, as far as that is possible at all."""
        if self._sending or self._closed:
            return
        try:
            self._connection.send(data)
            for _ in range(_LAST_READS_MAX):  # closed over unread bytes, a socket resets: the peer may not get to read
                self._connection.recv(RECORD_SIZE)
        except SSL.Error:
            return

    async def receive_into(self, view: memoryview, *, silence_timeout_s: float) -> int:
        """Fill the start of ``view`` with at most one record and return its size. Raises :class:`Parted` at the end of
        the stream, and when no byte comes for ``silence_timeout_s``."""
        while True:
            try:
                count = self._call(self._connection.recv_into, view[:RECORD_SIZE])
            except SSL.WantReadError:
                with trio.move_on_after(silence_timeout_s) as scope:
                    await self._wait(trio.lowlevel.wait_readable)
                if scope.cancelled_caught:
                    raise Parted(f"the peer was silent for {silence_timeout_s:g} s") from None
                self._reads = 0
            except SSL.WantWriteError:
                raise Parted("the peer began a second TLS handshake") from None
            else:
                self._reads += 1
                if self._reads >= _CALLS_PER_CHECKPOINT:
                    self._reads = 0
                    await trio.lowlevel.checkpoint()
                return count

    def close(self) -> None:
        """Close the socket. Tasks that wait on it see :class:`Parted`. May be called again."""
        if not self._closed:
            self._closed = True
            try:
                if not self._sending:
                    self._connection.shutdown()
            except SSL.Error:
                pass  # the peer is gone already
            finally:
                self._tcp.socket.close()

    def _call(self, operation: Callable[..., T], *arguments: memoryview) -> T:
        if self._closed:  # the descriptor may be someone else's by now
            raise Parted("the connection was closed here")
        try:
            return operation(*arguments)
        except (SSL.WantReadError, SSL.WantWriteError):
            raise
        except SSL.ZeroReturnError:
            raise Parted("the peer closed the connection") from None
        except SSL.SysCallError as error:
            raise Parted(f"the connection broke: {error.args[-1]}") from error
        except SSL.Error as error:
            raise Parted(f"TLS failed: {_reason(error)}") from error

    async def _wait(self, ready: Callable[[trio.socket.SocketType], Awaitable[None]]) -> None:
        try:
            await ready(self._tcp.socket)
        except trio.ClosedResourceError:
            raise Parted("the connection was closed here") from None


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words: the last item of each triple in ``error.args[0]``."""
    queue = error.args[0] if error.args else ()
    if isinstance(queue, list | tuple):
        return "; ".join(str(entry[-1]) if isinstance(entry, tuple) else str(entry) for entry in queue) or "unknown"
    return str(queue)
