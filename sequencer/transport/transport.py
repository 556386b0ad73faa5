"""The transport of a node: listens, dials, keeps one link per peer, and moves frames fairly.

Everybody dials every peer whose address it knows and with whom it has no link. Between two validators the one with the
higher peer id waits first, so that two links at once are rare. A link is a pair of streams: *control* for small urgent
frames, *bulk* for proposals, sync answers and the node's own channels, so that a vote never waits behind a block. A
newer link replaces the older one of the same peer.

Whom a node knows changes with the chain: :meth:`TlsTransport.set_members` says so. A peer that is in no set any more is
parted from, unless the configuration serves it as an observer.

Whatever the network or a peer does ends one link, with a reason in the log and in :class:`PeerState`; the dialling
side connects again with a growing, jittered delay and never gives up. Any other exception is our bug and leaves
:func:`open_transport`.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal

import trio

from consensus.codec import WIRE_VERSION
from consensus.ports import Connected, Disconnected, Frame
from consensus.types import PeerId
from sequencer.transport.framing import CONSENSUS, LINK, TRANSACTIONS, FrameReader
from sequencer.transport.hello import SESSION_SIZE, Hello, StreamKind, greet_as_acceptor, greet_as_dialler
from sequencer.transport.limits import HELLO_SIZE_MAX, OBSERVER_RECORDS_MAX, Limits
from sequencer.transport.link import Lane, Link
from sequencer.transport.peers import PeerRecord, PeerState, RareLog, Role
from sequencer.transport.queues import FairInbox
from sequencer.transport.tls import Parted, TlsIdentity, TlsStream, tls_context

Address = tuple[str, int]
_EXPONENT_MAX: Final = 32
TURNED_AWAY_MAX: Final = 256


@dataclass(frozen=True, kw_only=True)
class TransportConfig:
    """Who may talk to whom, at first. A node whose own key is among ``validators`` is a validator, else an observer.

    ``peers`` are the addresses that it knows, host and port; whoever has none must dial. A peer that is named here and
    is no validator is served all the same. ``observers`` are the keys that are served besides, or ``any`` for every key
    up to ``limits.observers_max``. ``listen`` is host and port (0 picks one); None for a node that only dials.
    ``channels`` are the node's own, 1 to 254.
    """

    chain_id: str
    genesis_hash: bytes
    validators: frozenset[PeerId]
    peers: Mapping[PeerId, Address] = field(default_factory=dict)
    observers: frozenset[PeerId] | Literal["any"] = frozenset()
    listen: Address | None = None
    channels: tuple[int, ...] = (TRANSACTIONS,)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class TransportState:
    """The transport as the API shows it. ``refused`` counts connections that ended before a link was made."""

    peer: PeerId
    role: Role
    port: int | None
    refused: int
    peers: tuple[PeerState, ...]


@asynccontextmanager
async def open_transport(config: TransportConfig, identity: TlsIdentity, random: Random) -> AsyncIterator[TlsTransport]:
    """A transport that listens and dials while the block runs.

    ``random`` jitters the delays. Raises ``ValueError`` for a configuration that cannot work, and ``OSError`` when the
    address cannot be bound.
    """
    transport = TlsTransport(config, identity, random)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        yield transport
        nursery.cancel_scope.cancel()


class _Half:
    """An accepted stream that waits for the other one of its session."""

    __slots__ = ("lane", "link", "scope", "session")

    def __init__(self, session: bytes, lane: Lane) -> None:
        self.session = session
        self.lane = lane
        self.link: Link | None = None
        self.scope = trio.CancelScope()


class TlsTransport:
    """A :class:`consensus.ports.Transport` over TLS, with the node's own channels beside it."""

    def __init__(self, config: TransportConfig, identity: TlsIdentity, random: Random) -> None:
        _check(config, identity.peer)
        self._config = config
        self._limits = config.limits
        self._random = random
        self._context = tls_context(identity)
        self._own = identity.peer
        self._validators: frozenset[PeerId] = frozenset()
        self._addresses: dict[PeerId, Address] = {}
        self._dials: dict[PeerId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._records: dict[PeerId, PeerRecord] = {}
        self._observer_records: OrderedDict[PeerId, PeerRecord] = OrderedDict()
        self._links: dict[PeerId, Link] = {}
        self._halves: dict[PeerId, _Half] = {}
        self._handshakes: OrderedDict[int, trio.CancelScope] = OrderedDict()
        self._handshake_count = 0
        self._refused = 0
        self._port: int | None = None
        limits = config.limits
        self._inbox: FairInbox[Connected | Disconnected | Frame] = FairInbox(
            bytes_max=limits.inbox_bytes_max, frames_max=limits.inbox_frames_max
        )
        self._told: set[PeerId] = set()
        """Who is connected as far as our reader knows."""
        self._channels: dict[int, FairInbox[Frame]] = {
            channel: FairInbox(bytes_max=limits.channel_queue_bytes_max, frames_max=limits.channel_queue_frames_max)
            for channel in config.channels
        }
        self._log = logging.getLogger(__name__)
        self._rare_log = RareLog(self._log)
        self._turned_away: OrderedDict[PeerId, str] = OrderedDict()
        """What the log said of strangers that were refused, and have had no link since."""
        self.set_members(validators=config.validators, guests=frozenset(), addresses=config.peers)

    # --- who belongs here ----------------------------------------------------------------------------------------

    def set_members(
        self, *, validators: frozenset[PeerId], guests: frozenset[PeerId], addresses: Mapping[PeerId, Address]
    ) -> None:
        """From now on ``validators`` vote and ``guests`` are served besides: who is about to join, and for a while who
        left. ``addresses`` are where any of them, or anybody else who is to be dialled, listens.

        Takes effect at once, and leaves links alone that may stay: those of members, and of configured observers.
        """
        self._validators = validators
        members = (validators | guests | addresses.keys()) - {self._own}
        for peer in [peer for peer in self._records if peer not in members]:
            self._remember_observer(self._records.pop(peer))
            self._stop_dialling(peer)
            link = self._links.get(peer)
            if link is not None and not self._is_observer(peer):
                link.part("it is no validator any more, nor an observer that is served here")
        for peer in sorted(members):
            record = self._records.get(peer) or self._observer_records.pop(peer, None)
            if record is None:
                record = PeerRecord(peer, "observer", self._limits, self._config.channels)
            record.role = "validator" if peer in validators else "observer"
            self._records[peer] = record
        self._addresses = {peer: address for peer, address in addresses.items() if peer != self._own}
        for peer in [peer for peer in self._dials if peer not in self._addresses]:
            self._stop_dialling(peer)
        if self._nursery is not None:
            self._dial_all(self._nursery)

    def _dial_all(self, nursery: trio.Nursery) -> None:
        for peer in self._addresses:
            if peer not in self._dials:
                self._dials[peer] = trio.CancelScope()
                nursery.start_soon(self._dial_forever, self._records[peer], self._dials[peer])

    def _stop_dialling(self, peer: PeerId) -> None:
        """A link that was dialled before stays as long as it lasts."""
        scope = self._dials.pop(peer, None)
        if scope is not None and peer not in self._links:
            scope.cancel()

    # --- consensus.ports.Transport -----------------------------------------------------------------------------

    def broadcast(self, frame: bytes, *, bulk: bool) -> None:
        """Queue a frame for every connected peer. Raises ``ValueError`` for one above the stream's cap."""
        self._check_size(frame, bulk=bulk)
        for link in self._links.values():
            link.send(CONSENSUS, frame, bulk=bulk)

    def send(self, peer: PeerId, frame: bytes, *, bulk: bool) -> None:
        """Queue a frame for one peer; nothing happens when it is not connected. Raises ``ValueError`` for a frame
        above the stream's cap and for the own id."""
        self._check_size(frame, bulk=bulk)
        self._send(peer, CONSENSUS, frame, bulk=bulk)

    async def receive(self) -> Connected | Disconnected | Frame:
        """The next beginning or end of a connection, else the next consensus frame, each peer's streams in turn."""
        arrived = await self._inbox.get()
        if isinstance(arrived, Connected):
            self._told.add(arrived.peer)
        elif isinstance(arrived, Disconnected):
            self._told.discard(arrived.peer)
        return arrived

    def reject(self, peer: PeerId, reason: str) -> None:
        """Count a peer's fault. Too many within a minute end its link and keep it out for a while."""
        record = self._record_of(peer)
        if record is None:
            return
        self._rare_log.say(f"reject {peer.hex()}", f"rejected a frame of peer {_short(peer)}: {reason}")
        if record.reject(reason):
            why = f"too many rejected frames, the last one because: {reason}; kept out for {record.barred_s():g} s"
            if peer in self._links:
                self._links[peer].part(why)
            self._discard(record)

    # --- the node's own channels -------------------------------------------------------------------------------

    def send_on(self, channel: int, peer: PeerId, data: bytes) -> None:
        """Like :meth:`send`, on the bulk stream in a channel of the node."""
        self._check_channel(channel)
        self._check_size(data, bulk=True)
        self._send(peer, channel, data, bulk=True)

    def broadcast_on(self, channel: int, data: bytes) -> None:
        """Like :meth:`broadcast`, on the bulk stream in a channel of the node."""
        self._check_channel(channel)
        self._check_size(data, bulk=True)
        for link in self._links.values():
            link.send(channel, data, bulk=True)

    async def receive_on(self, channel: int) -> Frame:
        """The next frame of a channel of the node, each peer in turn. What is not read in time is dropped and counted:
        a channel of the node never holds back consensus."""
        self._check_channel(channel)
        return await self._channels[channel].get()

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def peer(self) -> PeerId:
        """The own peer id."""
        return self._own

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._port is not None, "this transport does not listen"
        return self._port

    def state(self) -> TransportState:
        """Counters and connections, for status and metrics."""
        records = [*self._records.values(), *self._observer_records.values()]
        return TransportState(
            peer=self._own,
            role="validator" if self._own in self._validators else "observer",
            port=self._port,
            refused=self._refused,
            peers=tuple(record.state(connected=record.peer in self._links) for record in records),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and dial until cancelled; reports when it listens. :func:`open_transport` calls it."""
        listeners = []
        if self._config.listen is not None:
            host, port = self._config.listen
            listeners = await trio.open_tcp_listeners(port, host=host)
            self._port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._dial_all(nursery)
            if listeners:
                nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            task_status.started()
            await trio.sleep_forever()

    # --- dialling ----------------------------------------------------------------------------------------------

    async def _dial_forever(self, record: PeerRecord, scope: trio.CancelScope) -> None:
        """Until the peer's address is forgotten."""
        peer = record.peer
        failures = 0
        with scope:
            while self._dials.get(peer) is scope:
                await trio.sleep(max(record.barred_s(), self._patience_s(peer)))
                if (link := self._links.get(peer)) is not None:
                    await link.finished.wait()
                    continue
                address = self._addresses.get(peer)
                if address is None:
                    break
                started = trio.current_time()
                record.last_reason = await self._dial(record, address)
                name = f"{record.role} {_short(peer)} at {address[0]}:{address[1]}"
                self._rare_log.say(f"dial {peer.hex()}", f"not connected to {name}: {record.last_reason}")
                longest_s = min(self._limits.reconnect_max_s, self._limits.reconnect_first_s * 2**failures)
                failures = 0 if trio.current_time() - started > longest_s else min(failures + 1, _EXPONENT_MAX)
                await trio.sleep(longest_s * self._random.uniform(0.5, 1.0))

    def _patience_s(self, peer: PeerId) -> float:
        """How long to leave the dialling to the other one."""
        both_dial = {self._own, peer} <= self._validators and self._config.listen is not None
        return self._limits.second_dial_s if both_dial and self._own > peer else 0.0

    async def _dial(self, record: PeerRecord, address: Address) -> str:
        """Make a link and keep it while it lasts. Returns why it ended or never came to be."""
        session = secrets.token_bytes(SESSION_SIZE)
        streams: list[TlsStream] = []
        try:
            link: Link | None = None
            with trio.move_on_after(self._limits.handshake_timeout_s):
                control = await self._dial_stream(record, address, "control", session, streams)
                bulk = await self._dial_stream(record, address, "bulk", session, streams)
                link = self._link(record, control, bulk)
            if link is None:
                return f"no accepted hello within {self._limits.handshake_timeout_s:g} s"
            return await self._run_link(link)
        except Parted as parted:
            return str(parted)
        except OSError as error:
            return str(error)
        finally:
            for stream in streams:
                stream.close()

    async def _dial_stream(
        self, record: PeerRecord, address: Address, kind: StreamKind, session: bytes, streams: list[TlsStream]
    ) -> Lane:
        tcp = await trio.open_tcp_stream(*address)
        stream = TlsStream(self._context, tcp, server=False, stall_timeout_s=self._limits.stall_timeout_s)
        streams.append(stream)
        await stream.handshake()
        reader = self._reader(stream)
        own = self._hello(kind, session)

        def judge(key: PeerId, hello: Hello) -> str:
            if key != record.peer:
                return f"dialled {_short(record.peer)}, but the key there is {_short(key)}"
            if hello.stream != kind or hello.session != session:
                return "the hello answers another one"
            return self._judge(key, hello)

        await greet_as_dialler(stream, reader, own, judge)
        return Lane(kind, stream, reader, self._limits, self._config.channels)

    # --- accepting ---------------------------------------------------------------------------------------------

    async def _serve(self, tcp: trio.SocketStream) -> None:
        stream = TlsStream(self._context, tcp, server=True, stall_timeout_s=self._limits.stall_timeout_s)
        self._handshake_count += 1
        number = self._handshake_count
        scope = self._handshakes[number] = trio.CancelScope(deadline=self._handshake_deadline())
        if len(self._handshakes) > self._limits.handshakes_max:
            # A flood of silent connections must not shut out a peer, whose handshake takes milliseconds.
            self._handshakes.popitem(last=False)[1].cancel()
        remote, peer = "somebody", None
        try:
            hello: Hello | None = None
            try:
                with scope:
                    remote = str(tcp.socket.getpeername()[0])
                    await stream.handshake()
                    peer = stream.peer
                    reader = self._reader(stream)
                    hello = await self._greet(stream, reader)
            finally:
                self._handshakes.pop(number, None)
            if hello is None:
                raise Parted(f"no accepted hello within {self._limits.handshake_timeout_s:g} s")
            await self._join(hello, stream, reader)
        except (Parted, OSError) as error:
            self._refused += 1
            self._say_refused(remote, peer, str(error))
        finally:
            stream.close()

    def _say_refused(self, remote: str, peer: PeerId | None, reason: str) -> None:
        """A stranger, such as somebody else's observer, dials for ever: what is wrong with it is said once."""
        message = f"connection from {remote}: {reason}"
        if peer is None or peer in self._records:
            self._rare_log.say(f"accept {remote}", message)
            return
        if self._turned_away.get(peer) == reason:
            return
        if self._rare_log.say(f"accept {remote}", f"{message}. This is said once"):
            self._turned_away[peer] = reason
            if len(self._turned_away) > TURNED_AWAY_MAX:
                self._turned_away.popitem(last=False)

    async def _greet(self, stream: TlsStream, reader: FrameReader) -> Hello:
        def answer(theirs: Hello) -> Hello:
            return self._hello(theirs.stream, theirs.session)

        unclear = self._hello("control", bytes(SESSION_SIZE))
        return await greet_as_acceptor(stream, reader, answer, self._judge, unclear)

    async def _join(self, hello: Hello, stream: TlsStream, reader: FrameReader) -> None:
        """Run the link when both streams are here; with the first of them, wait for the second."""
        lane = Lane(hello.stream, stream, reader, self._limits, self._config.channels)
        if refusal := self._judge_peer(hello.peer):
            raise Parted(refusal)  # what is known here, or who took the place, changed during the hellos
        first = self._halves.pop(hello.peer, None)
        if first is not None and first.session == hello.session and first.lane.kind != lane.kind:
            record = self._accepted_record(hello.peer)
            lanes = (first.lane, lane) if lane.kind == "bulk" else (lane, first.lane)
            first.link = link = self._link(record, *lanes)
            first.scope.cancel()
            record.last_reason = await self._run_link(link)
            self._log.info("%s %s: %s", record.role, _short(record.peer), record.last_reason)
            return
        if first is not None:
            first.scope.cancel()
        half = self._halves[hello.peer] = _Half(hello.session, lane)
        half.scope.deadline = self._handshake_deadline()
        try:
            with half.scope:
                await trio.sleep_forever()
        finally:
            if self._halves.get(hello.peer) is half:
                del self._halves[hello.peer]
        if half.link is None:
            raise Parted(f"the second stream of {_short(hello.peer)} did not come")
        with trio.CancelScope(shield=True):  # leaving closes a stream that the link still says goodbye on
            await half.link.finished.wait()

    # --- links -------------------------------------------------------------------------------------------------

    def _link(self, record: PeerRecord, control: Lane, bulk: Lane) -> Link:
        return Link(record, control, bulk, self._limits, self._inbox, self._channels)

    async def _run_link(self, link: Link) -> str:
        record = link.record
        try:
            while (older := self._links.get(link.peer)) is not None:
                older.part("replaced by a newer connection")
                await older.finished.wait()
            self._links[link.peer] = link
            self._turned_away.pop(link.peer, None)
            record.connections += 1
            record.round_trip_ns = None
            self._log.info("connected to %s %s", record.role, _short(link.peer))
            self._inbox.announce(link.peer, Connected(link.peer))
            return await link.run()
        finally:
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
                self._inbox.withdraw(link.peer)
                if link.peer in self._told:
                    self._inbox.announce(link.peer, Disconnected(link.peer))
            if link.peer not in self._records:
                self._discard(record)
            link.finished.set()

    def _discard(self, record: PeerRecord) -> None:
        """Forget what a peer said and nobody read."""
        self._inbox.discard(record.control)
        self._inbox.discard(record.bulk)
        for channel, box in record.boxes.items():
            self._channels[channel].discard(box)

    # --- who is who --------------------------------------------------------------------------------------------

    def _judge(self, key: PeerId, hello: Hello) -> str:
        """Why this hello from the holder of this key is refused; empty when it is not."""
        if hello.chain_id != self._config.chain_id:
            return f"your chain is {hello.chain_id!r}, mine is {self._config.chain_id!r}"
        if hello.genesis_hash != self._config.genesis_hash:
            return f"your genesis is {_short(hello.genesis_hash)}, mine is {_short(self._config.genesis_hash)}"
        if hello.peer != key:
            return f"you claim to be {_short(hello.peer)}, but your key is {_short(key)}"
        if key == self._own:
            return "you are me"
        record = self._record_of(key)
        if record is not None and record.barred_s() > 0:
            return f"kept out for another {record.barred_s():.0f} s after too many rejected frames"
        return self._judge_peer(key)

    def _judge_peer(self, key: PeerId) -> str:
        """Why the holder of this key is not served; empty when it is."""
        if key in self._records:
            return ""
        if not self._is_observer(key):
            return f"the key {_short(key)} is unknown here: no validator now, nor an observer that is served"
        others = {peer for peer in (*self._links, *self._halves) if peer not in self._records} - {key}
        return "all places for observers are taken" if len(others) >= self._limits.observers_max else ""

    def _is_observer(self, peer: PeerId) -> bool:
        return self._config.observers == "any" or peer in self._config.observers

    def _record_of(self, peer: PeerId) -> PeerRecord | None:
        return self._records.get(peer) or self._observer_records.get(peer)

    def _accepted_record(self, peer: PeerId) -> PeerRecord:
        record = self._record_of(peer)
        if record is None:
            record = PeerRecord(peer, "observer", self._limits, self._config.channels)
            self._remember_observer(record)
        return record

    def _remember_observer(self, record: PeerRecord) -> None:
        record.role = "observer"
        self._observer_records[record.peer] = record
        if len(self._observer_records) > OBSERVER_RECORDS_MAX:
            # There are fewer links and halves of links than records: one is idle.
            gone = next(peer for peer in self._observer_records if peer not in self._links and peer != record.peer)
            del self._observer_records[gone]

    def _hello(self, kind: StreamKind, session: bytes) -> Hello:
        return Hello(
            wire_version=WIRE_VERSION,
            chain_id=self._config.chain_id,
            genesis_hash=self._config.genesis_hash,
            stream=kind,
            peer=self._own,
            session=session,
        )

    def _reader(self, stream: TlsStream) -> FrameReader:
        """Reads hellos and nothing else; a :class:`Lane` widens it."""
        return FrameReader(stream, {LINK: HELLO_SIZE_MAX}.get, silence_timeout_s=self._limits.silence_timeout_s)

    def _handshake_deadline(self) -> float:
        return trio.current_time() + self._limits.handshake_timeout_s

    # --- our own mistakes --------------------------------------------------------------------------------------

    def _send(self, peer: PeerId, channel: int, data: bytes, *, bulk: bool) -> None:
        if peer == self._own:
            raise ValueError("a node does not send to itself")
        link = self._links.get(peer)
        if link is not None:
            link.send(channel, data, bulk=bulk)

    def _check_size(self, frame: bytes, *, bulk: bool) -> None:
        size_max = self._limits.bulk_frame_size_max if bulk else self._limits.control_frame_size_max
        if len(frame) > size_max:
            raise ValueError(f"a frame of {len(frame)} bytes for a {'bulk' if bulk else 'control'} cap of {size_max}")

    def _check_channel(self, channel: int) -> None:
        if channel not in self._channels:
            raise ValueError(f"channel {channel} is not among the configured {self._config.channels}")


def _check(config: TransportConfig, own: PeerId) -> None:
    if config.listen is None and not config.peers.keys() - {own}:
        raise ValueError("listen: this node neither listens nor knows an address, so it would meet nobody; set one")
    if len(dict.fromkeys(config.channels)) != len(config.channels):
        raise ValueError("channels: a number occurs twice")
    for channel in config.channels:
        if not CONSENSUS < channel < LINK:
            raise ValueError(f"channels: {channel} is not between {CONSENSUS + 1} and {LINK - 1}")


def _short(peer: bytes) -> str:
    return peer.hex()[:12]
