"""The signer port of a node whose keys are held by a signing process.

- **Away** (not started yet, killed, hung): requests wait, in order, and the node with them; it takes no part in
  consensus until the process is back, and loses nothing but signatures that come too late to matter. The log and
  :meth:`RemoteSigner.state` say so. Connections are made anew with a growing, jittered delay, for ever; everything
  unanswered is then asked again, which gives the same answers.
- **Refused**: :class:`SigningRefused`, which stops the node. Either its journal is older than what its key signed, or
  another node has the same key; going on would not help in either case.
- **Not yet** (:attr:`Rule.BEGIN`): the operator named where the keys begin to sign, after an import, or the import
  leaves open whether this was signed. The node goes on without that signature.

Requests are pipelined: up to ``PENDING_MAX`` are under way. They go out in the order in which they were asked, whatever
breaks in between, so the slots of a kind grow for the signing process as they did for the node.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, cast

import msgspec
import trio

from consensus.codec import encode
from consensus.genesis import ChainSpec
from consensus.signing import SigningDomain
from consensus.types import Nanoseconds, PeerId, Subject
from sequencer.signer.messages import (
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
from sequencer.signer.rules import Rule
from sequencer.transport import TlsIdentity
from sequencer.transport.framing import FrameReader
from sequencer.transport.limits import NANOSECONDS
from sequencer.transport.peers import RareLog
from sequencer.transport.tls import Parted, TlsStream, tls_context

RECONNECT_FIRST_S: Final = 0.05
RECONNECT_MAX_S: Final = 2.0
HANDSHAKE_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 10.0
"""A process that answers nothing for so long, with requests waiting, is taken for hung and is connected to anew."""
WAITING_MAX: Final = 4096
"""Requests of a node whose signing process is away. The driver asks for one signature after another, and forgets the
oldest decisions that wait (``SIGNATURES_WAITING_MAX``)."""
_EXPONENT_MAX: Final = 16
_logger: Final = logging.getLogger(__name__)


class SigningRefused(Exception):
    """The signing process refuses a signature. ``rule`` is one of :class:`sequencer.signer.rules.Rule`."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(
            f"the signing process refuses to sign ({rule}): {reason}. Does another node use this key, or is this "
            "node's data directory an older copy? Do not start it again before that is known"
        )
        self.rule = rule
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class SignerEndpoint:
    """Where a node's signing process listens, the peer id of the TLS key that it must show, and the consensus keys that
    it holds for the node."""

    socket: Path
    peer: PeerId
    public_keys: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class SignerState:
    """The signing process as people see it. ``pending``: requests without an answer. ``last_reason``: why there is no
    connection, or why the last one ended. ``withheld``: why the last answer was no signature though the node goes on;
    empty when it was one. ``round_trip_ns``: smoothed, from sending a request to its answer."""

    connected: bool
    pending: int
    connections: int
    signatures: int
    last_reason: str
    withheld: str
    round_trip_ns: Nanoseconds | None


class _Pending:
    """One request until its answer."""

    __slots__ = ("answer", "done", "frame", "sent_at")

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.sent_at = 0.0
        self.done = trio.Event()
        self.answer: SignatureMade | Refused | None = None


class RemoteSigner:
    """A :class:`consensus.ports.Signer` over a local socket. Signs while :meth:`run` runs."""

    def __init__(self, endpoint: SignerEndpoint, identity: TlsIdentity, spec: ChainSpec, random: Random) -> None:
        """``identity`` is the node's own; ``random`` jitters the delays."""
        self._endpoint = endpoint
        self._context = tls_context(identity)
        self._open = Open(version=VERSION, chain_id=spec.chain_id, genesis_hash=spec.hash)
        self._random = random
        self._pending: dict[int, _Pending] = {}
        self._to_send: deque[_Pending] = deque()
        self._under_way = 0
        self._wake = trio.Event()
        self._number = 0
        self._connected = False
        self._connections = 0
        self._signatures = 0
        self._last_reason = ""
        self._withheld = ""
        self._round_trip_ns: Nanoseconds | None = None
        self._rare_log = RareLog(_logger)

    async def sign(self, subject: Subject, public_key: bytes, domain: SigningDomain) -> bytes | None:
        """The signature, when the process has given it: waits while it is away. None for what lies below where its
        keys begin to sign, and for what an import brought without saying what it was. Raises
        :class:`SigningRefused`."""
        if (domain.chain_id, domain.genesis_hash) != (self._open.chain_id, self._open.genesis_hash):
            raise ValueError("asked to sign for another chain than the signing process was opened for")
        if len(self._pending) >= WAITING_MAX:
            raise RuntimeError(f"{WAITING_MAX} requests wait for the signing process; a node decides less than that")
        self._number = number = self._number + 1
        request = SignRequest(
            number=number,
            public_key=public_key,
            validators_hash=domain.validators_hash,
            subject=encode(cast("msgspec.Struct", subject)),
        )
        pending = self._pending[number] = _Pending(framed(request))
        if self._connected:
            self._to_send.append(pending)
            self._wake.set()
        elif self._last_reason:  # else the first connection is being made
            self._say_away()
        try:
            await pending.done.wait()
        finally:
            del self._pending[number]
        match pending.answer:
            case SignatureMade(signature=signature):
                self._withheld = ""
                return signature
            case Refused(rule=Rule.BEGIN, reason=reason):
                self._withheld = reason
                self._rare_log.say("begin", f"not signed: {reason}")
                return None
            case Refused(rule=rule, reason=reason):
                raise SigningRefused(rule, reason)
            case None:
                raise RuntimeError("a request was done without an answer")

    def state(self) -> SignerState:
        """As it is now."""
        return SignerState(
            connected=self._connected,
            pending=len(self._pending),
            connections=self._connections,
            signatures=self._signatures,
            last_reason=self._last_reason,
            withheld=self._withheld,
            round_trip_ns=self._round_trip_ns if self._connected else None,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connected until cancelled."""
        task_status.started()
        failures = 0
        while True:
            connections = self._connections
            self._last_reason = await self._connect()
            failures = 0 if self._connections > connections else min(failures + 1, _EXPONENT_MAX)
            self._say_away()
            longest_s = min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2**failures)
            await trio.sleep(longest_s * self._random.uniform(0.5, 1.0))

    # --- one connection -----------------------------------------------------------------------------------------

    async def _connect(self) -> str:
        """Connect and work while it lasts. Returns why it ended or never came to be."""
        stream: TlsStream | None = None
        try:
            reader: FrameReader | None = None
            with trio.move_on_after(HANDSHAKE_TIMEOUT_S):
                connected = await trio.open_unix_socket(self._endpoint.socket)
                stream = TlsStream(self._context, connected, server=False, stall_timeout_s=ANSWER_TIMEOUT_S)
                reader = await self._greet(stream)
            if stream is None or reader is None:
                return f"no answer to the hello within {HANDSHAKE_TIMEOUT_S:g} s"
            return await self._work(stream, reader)
        except Parted as parted:
            return str(parted)
        except OSError as error:
            return f"{self._endpoint.socket}: {error}"
        finally:
            self._connected = False
            if stream is not None:
                stream.close()

    async def _greet(self, stream: TlsStream) -> FrameReader:
        await stream.handshake()
        if stream.peer != self._endpoint.peer:
            raise Parted(
                f"the process there shows the key {stream.peer.hex()}, and the configuration names "
                f"{self._endpoint.peer.hex()}"
            )
        await stream.send_all(framed(self._open))
        reader = frame_reader(stream, silence_timeout_s=math.inf)
        match await receive_from_signer(reader):
            case Opened(public_keys=public_keys):
                held = ", ".join(key.hex()[:16] for key in public_keys)
                _logger.info("connected to the signing process at %s, which holds %s", self._endpoint.socket, held)
                return reader
            case Closed(reason=reason):
                raise Parted(f"the signing process refuses this node: {reason}")
            case other:
                raise Parted(f"the signing process answers the hello with {type(other).__name__}")

    async def _work(self, stream: TlsStream, reader: FrameReader) -> str:
        self._connections += 1
        self._connected = True
        self._last_reason = ""
        self._to_send = deque(each for each in self._pending.values() if each.answer is None)
        self._under_way = 0
        reasons: list[str] = []
        async with trio.open_nursery() as nursery:

            async def until_parted(work: Callable[[], Awaitable[None]]) -> None:
                try:
                    await work()
                except Parted as parted:
                    reasons.append(str(parted))
                    nursery.cancel_scope.cancel()

            nursery.start_soon(until_parted, partial(self._write, stream))
            nursery.start_soon(until_parted, partial(self._read, reader))
            nursery.start_soon(until_parted, self._watch)
        return reasons[0]

    async def _write(self, stream: TlsStream) -> None:
        while True:
            self._wake = trio.Event()
            while self._to_send and self._under_way < PENDING_MAX:
                pending = self._to_send.popleft()
                pending.sent_at = trio.current_time()
                self._under_way += 1
                await stream.send_all(pending.frame)
            await self._wake.wait()

    async def _read(self, reader: FrameReader) -> None:
        while True:
            match await receive_from_signer(reader):
                case SignatureMade() | Refused() as answer:
                    pending = self._pending.get(answer.number)
                    if pending is None or pending.answer is not None:
                        raise Parted(f"an answer to request {answer.number}, which is not open")
                    self._signatures += isinstance(answer, SignatureMade)
                    self._measure(pending)
                    pending.answer = answer
                    pending.done.set()
                    self._under_way -= 1
                    self._wake.set()
                case Closed(reason=reason):
                    raise Parted(f"the signing process closed the connection: {reason}")
                case Opened():
                    raise Parted("a second Opened")

    async def _watch(self) -> None:
        """End a connection on which requests wait and nothing is answered."""
        while True:
            before = {number for number, each in self._pending.items() if each.answer is None}
            await trio.sleep(ANSWER_TIMEOUT_S)
            if before and all(number in self._pending for number in before):
                raise Parted(f"the signing process answered nothing for {ANSWER_TIMEOUT_S:g} s")

    def _measure(self, pending: _Pending) -> None:
        sample = int((trio.current_time() - pending.sent_at) * NANOSECONDS)
        known = self._round_trip_ns
        self._round_trip_ns = sample if known is None else (7 * known + sample) // 8

    def _say_away(self) -> None:
        waiting = f". Signatures that wait, and consensus with them: {len(self._pending)}" if self._pending else ""
        self._rare_log.say("away", f"the signing process is away: {self._last_reason}{waiting}")
