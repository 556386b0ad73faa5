"""The signing process's local socket: who may ask, and one answer after another.

A connection is a Unix domain socket (mode 0600, in a directory of mode 0700) with TLS 1.3 on it, as between nodes
(``sequencer/transport/tls.py``): both sides prove that they hold the key that they show, and each compares the other's
with the one that its configuration names. Reaching the socket is therefore not enough to ask.

Requests are decided one by one, blocking while the disk syncs: the process has nothing else to do, and there is no
moment at which two requests are judged by the same memory. Any number of nodes may be connected; what a key may sign
does not depend on who asks.

Bounds: ``CONNECTIONS_MAX`` connections, the oldest one that has not said who it is makes room; before ``Opened`` a peer
has ``HANDSHAKE_TIMEOUT_S``; a frame has at most ``FRAME_SIZE_MAX`` bytes; one request at a time is read from each, so
who does not read its answers is not read from. What a peer does wrong ends its connection, with the reason in the log.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import stat
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Final

import trio

from consensus.types import PeerId
from sequencer.signer.authority import Request, SigningAuthority
from sequencer.signer.messages import (
    REASON_LENGTH_MAX,
    VERSION,
    Closed,
    Open,
    Opened,
    Refused,
    SignatureMade,
    SignRequest,
    frame_reader,
    framed,
    receive_from_node,
)
from sequencer.signer.rules import Refusal
from sequencer.transport import TlsIdentity
from sequencer.transport.framing import FrameReader
from sequencer.transport.peers import RareLog
from sequencer.transport.tls import Parted, TlsStream, tls_context

CONNECTIONS_MAX: Final = 32
HANDSHAKE_TIMEOUT_S: Final = 5.0
STALL_TIMEOUT_S: Final = 20.0
SOCKET_PATH_BYTES_MAX: Final = 103
"""What every system takes (Linux 107, macOS 103)."""
_BACKLOG: Final = 16
_logger: Final = logging.getLogger(__name__)


class SocketError(Exception):
    """The socket cannot be made there. The message names it and what to do."""


class SignerServer:
    """Answers the requests of ``nodes`` (their TLS keys' peer ids) until cancelled."""

    def __init__(self, authority: SigningAuthority, identity: TlsIdentity, nodes: frozenset[PeerId]) -> None:
        self._authority = authority
        self._context = tls_context(identity)
        self._nodes = nodes
        self._strangers: OrderedDict[int, trio.CancelScope] = OrderedDict()
        self._connections = 0
        self._accepted = 0
        self._asking: dict[PeerId, int] = {}
        self._rare_log = RareLog(_logger)

    async def serve(
        self, listener: trio.SocketListener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve the listener, which is closed at the end. Raises ``StorageError`` in exception groups, when nothing may
        be signed any more."""
        async with listener, trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    async def _serve(self, accepted: trio.SocketStream) -> None:
        stream = TlsStream(self._context, accepted, server=True, stall_timeout_s=STALL_TIMEOUT_S)
        self._connections += 1
        who, name = "somebody", "strangers"
        try:
            who = _who(accepted)
            self._make_room()
            reader = await self._admit(stream)
            name = stream.peer.hex()
            await self._answer(stream, reader, who)
        except (Parted, OSError) as error:
            self._rare_log.say(name, f"connection of {who} ({name[:12]}): {error}")
            stream.send_last(framed(Closed(reason=str(error)[:REASON_LENGTH_MAX])))
        finally:
            self._connections -= 1
            stream.close()

    def _make_room(self) -> None:
        if self._connections > CONNECTIONS_MAX:
            if not self._strangers:
                raise Parted(f"refused: {CONNECTIONS_MAX} nodes are connected")
            self._strangers.popitem(last=False)[1].cancel()

    async def _admit(self, stream: TlsStream) -> FrameReader:
        """Until the peer is known and may ask. Raises :class:`Parted`."""
        self._accepted += 1
        number = self._accepted
        scope = self._strangers[number] = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_TIMEOUT_S)
        try:
            with scope:
                await stream.handshake()
                reader = frame_reader(stream, silence_timeout_s=math.inf)
                refusal = self._judge(stream.peer, await receive_from_node(reader))
                if refusal:
                    raise Parted(f"refused: {refusal}")
                await stream.send_all(framed(Opened(public_keys=self._authority.public_keys)))
                return reader
        finally:
            self._strangers.pop(number, None)
        raise Parted(f"did not say who it is within {HANDSHAKE_TIMEOUT_S:g} s, or had to make room")

    def _judge(self, key: PeerId, message: Open | SignRequest) -> str:
        """Why the holder of this key may not ask; empty when it may."""
        spec = self._authority.genesis.spec
        if key not in self._nodes:
            return f"the key {key.hex()} is not among the nodes that may ask here"
        if not isinstance(message, Open):
            return "the first message must be Open"
        if message.version != VERSION:
            return f"your version is {message.version}, mine is {VERSION}"
        if (message.chain_id, message.genesis_hash) != (spec.chain_id, spec.hash):
            return (
                f"your chain is {message.chain_id!r} with genesis {message.genesis_hash.hex()}, mine is "
                f"{spec.chain_id!r} with {spec.hash.hex()}"
            )
        return ""

    async def _answer(self, stream: TlsStream, reader: FrameReader, who: str) -> None:
        node = stream.peer
        count = self._asking[node] = self._asking.get(node, 0) + 1
        try:
            _logger.info("node %s connected: %s", node.hex()[:12], who)
            if count > 1:
                _logger.warning("node %s is connected %d times; is its home copied?", node.hex()[:12], count)
            while True:
                message = await receive_from_node(reader)
                if not isinstance(message, SignRequest):
                    raise Parted("a second Open")
                await stream.send_all(framed(self._decide(message, node, who)))
        finally:
            self._asking[node] -= 1

    def _decide(self, asked: SignRequest, node: PeerId, who: str) -> SignatureMade | Refused:
        request = Request(public_key=asked.public_key, validators_hash=asked.validators_hash, subject=asked.subject)
        answer = self._authority.sign(request)
        if isinstance(answer, Refusal):
            self._rare_log.say(
                f"{node.hex()} {answer.rule}",
                f"refused to sign for node {node.hex()[:12]} ({who}), {answer.rule}: {answer.reason}",
            )
            return Refused(number=asked.number, rule=answer.rule, reason=answer.reason[:REASON_LENGTH_MAX])
        return SignatureMade(number=asked.number, signature=answer)


def open_listener(path: Path) -> trio.SocketListener:
    """Listen at ``path``: mode 0600, in a directory of mode 0700 that is made if there is none. A socket that nobody
    listens on is replaced. Raises :class:`SocketError`."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise SocketError(f"{path}: longer than the {SOCKET_PATH_BYTES_MAX} bytes of a Unix socket; move the home")
    try:
        _prepare_directory(path.parent)
        _remove_stale(path)
        with contextlib.ExitStack() as undo:
            listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listening.bind(os.fspath(path))
            path.chmod(0o600)  # nobody else may enter the directory, so there was no moment for others
            listening.listen(_BACKLOG)
            undo.pop_all()
    except OSError as error:
        raise SocketError(f"{path}: {error.strerror or error}; set 'socket' to a path of this user's own") from error
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


def _prepare_directory(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 or status.st_uid != os.geteuid():
        raise SocketError(
            f"{directory}: must belong to this user alone (it has mode {mode:04o}, user {status.st_uid}); give the "
            "socket a directory of its own, mode 0700"
        )


def _remove_stale(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise SocketError(f"{path}: is there and no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()  # left behind by a process that was killed
            return
        except BlockingIOError:
            pass  # somebody listens, and is busy
    raise SocketError(f"{path}: another process listens there; stop it first")


def _who(accepted: trio.SocketStream) -> str:
    """The process at the other end, where the system tells."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return "a local process"
    process, user, _ = struct.unpack("3i", accepted.socket.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return f"process {process} of user {user}"
