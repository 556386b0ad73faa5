"""A network in memory: the same port as the TLS transport, no sockets, no time, no chance.

A frame lies in the receiver's inbox when ``send`` returns. Inboxes are fair and bounded as the real ones are; one that
is full drops what comes, and counts it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from consensus.ports import Connected, Disconnected, Frame
from consensus.types import PeerId
from sequencer.transport import TRANSACTIONS, Limits, PeerState, TransportState
from sequencer.transport.queues import Box, FairInbox


def memory_peer(number: int) -> PeerId:
    """The peer id of the transport at this position of a network without given ids."""
    return hashlib.sha256(b"memory peer %d" % number).digest()


def memory_network(
    size: int,
    *,
    peers: Sequence[PeerId] = (),
    channels: tuple[int, ...] = (TRANSACTIONS,),
    limits: Limits | None = None,
) -> MemoryNetwork:
    """Transports that are all connected with each other, in the order of ``peers``."""
    ids = tuple(peers) or tuple(memory_peer(number) for number in range(size))
    assert len(dict.fromkeys(ids)) == size, "one distinct peer id per transport"
    return MemoryNetwork(ids, channels, limits or Limits())


class MemoryNetwork:
    """Who is connected with whom. ``transports`` are in the order of the ids."""

    def __init__(self, ids: tuple[PeerId, ...], channels: tuple[int, ...], limits: Limits) -> None:
        self.transports = tuple(MemoryTransport(self, peer, channels, limits) for peer in ids)
        self._by_peer = {transport.peer: transport for transport in self.transports}
        self._cut: set[frozenset[PeerId]] = set()
        for transport in self.transports:
            for other in self.reachable(transport.peer):
                transport.connected(other.peer)

    def reachable(self, peer: PeerId) -> list[MemoryTransport]:
        """Whom this peer is connected with."""
        return [
            transport
            for transport in self.transports
            if transport.peer != peer and frozenset((peer, transport.peer)) not in self._cut
        ]

    def find(self, sender: PeerId, receiver: PeerId) -> MemoryTransport | None:
        """The receiver, when the two are connected."""
        transport = self._by_peer.get(receiver)
        return None if frozenset((sender, receiver)) in self._cut else transport

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Part two peers; both receive ``Disconnected``. Frames that already arrived can still be read."""
        self._cut.add(frozenset((one, other)))
        self._by_peer[one].parted(other)
        self._by_peer[other].parted(one)

    def heal(self, one: PeerId, other: PeerId) -> None:
        """Connect two parted peers again; both receive ``Connected``."""
        self._cut.remove(frozenset((one, other)))
        self._by_peer[one].connected(other)
        self._by_peer[other].connected(one)

    def isolate(self, peer: PeerId) -> None:
        """Part a peer from all others."""
        for other in self.reachable(peer):
            self.cut(peer, other.peer)

    def rejoin(self, peer: PeerId) -> None:
        """Connect a peer with all others that it is parted from."""
        for pair in [pair for pair in self._cut if peer in pair]:
            (other,) = pair - {peer}
            self.heal(peer, other)


class MemoryTransport:
    """A :class:`~sequencer.transport.NodeTransport`. ``rejects`` holds what :meth:`reject` was told."""

    def __init__(self, network: MemoryNetwork, peer: PeerId, channels: tuple[int, ...], limits: Limits) -> None:
        self._network = network
        self._peer = peer
        self._limits = limits
        self._inbox: FairInbox[Connected | Disconnected | Frame] = FairInbox(
            bytes_max=limits.inbox_bytes_max, frames_max=limits.inbox_frames_max
        )
        self._channels: dict[int, FairInbox[Frame]] = {
            channel: FairInbox(bytes_max=limits.channel_queue_bytes_max, frames_max=limits.channel_queue_frames_max)
            for channel in channels
        }
        self._boxes: dict[tuple[PeerId, bool], Box[Connected | Disconnected | Frame]] = {}
        self._channel_boxes: dict[tuple[PeerId, int], Box[Frame]] = {}
        self._drops: Counter[PeerId] = Counter()
        self._connections: Counter[PeerId] = Counter()
        self.rejects: list[tuple[PeerId, str]] = []

    @property
    def peer(self) -> PeerId:
        return self._peer

    def broadcast(self, frame: bytes, *, bulk: bool) -> None:
        for transport in self._network.reachable(self._peer):
            self.send(transport.peer, frame, bulk=bulk)

    def send(self, peer: PeerId, frame: bytes, *, bulk: bool) -> None:
        size_max = self._limits.bulk_frame_size_max if bulk else self._limits.control_frame_size_max
        if len(frame) > size_max:
            raise ValueError(f"a frame of {len(frame)} bytes for a {'bulk' if bulk else 'control'} cap of {size_max}")
        if peer == self._peer:
            raise ValueError("a node does not send to itself")
        transport = self._network.find(self._peer, peer)
        if transport is not None:
            transport.arrived(Frame(self._peer, frame), bulk=bulk)

    async def receive(self) -> Connected | Disconnected | Frame:
        return await self._inbox.get()

    def reject(self, peer: PeerId, reason: str) -> None:
        self.rejects.append((peer, reason))

    def send_on(self, channel: int, peer: PeerId, data: bytes) -> None:
        if len(data) > self._limits.bulk_frame_size_max:
            raise ValueError(f"a frame of {len(data)} bytes for a bulk cap of {self._limits.bulk_frame_size_max}")
        if peer == self._peer:
            raise ValueError("a node does not send to itself")
        transport = self._network.find(self._peer, peer)
        if transport is not None:
            transport.arrived_on(channel, Frame(self._peer, data))

    def broadcast_on(self, channel: int, data: bytes) -> None:
        for transport in self._network.reachable(self._peer):
            self.send_on(channel, transport.peer, data)

    async def receive_on(self, channel: int) -> Frame:
        return await self._channels[channel].get()

    def state(self) -> TransportState:
        reachable = {transport.peer for transport in self._network.reachable(self._peer)}
        others = [transport.peer for transport in self._network.transports if transport.peer != self._peer]
        return TransportState(
            peer=self._peer,
            role="validator",
            port=None,
            refused=0,
            peers=tuple(self._state_of(peer, connected=peer in reachable) for peer in others),
        )

    def _state_of(self, peer: PeerId, *, connected: bool) -> PeerState:
        rejects = [reason for rejected, reason in self.rejects if rejected == peer]
        return PeerState(
            peer=peer,
            role="validator",
            connected=connected,
            connections=self._connections[peer],
            bytes_in=0,
            bytes_out=0,
            drops_out=0,
            drops_in=self._drops[peer],
            rejects=len(rejects),
            last_reason=rejects[-1] if rejects else "",
            barred=False,
            round_trip_ns=None,
        )

    # --- called by the network and by other transports ---------------------------------------------------------

    def connected(self, peer: PeerId) -> None:
        """A connection with a peer begins."""
        self._connections[peer] += 1
        self._inbox.announce(peer, Connected(peer))

    def parted(self, peer: PeerId) -> None:
        """Announce the end of a connection."""
        self._inbox.announce(peer, Disconnected(peer))

    def arrived(self, frame: Frame, *, bulk: bool) -> None:
        """A consensus frame comes in."""
        box = self._boxes.setdefault((frame.peer, bulk), Box())
        if not self._inbox.offer(box, frame, len(frame.data)):
            self._drops[frame.peer] += 1

    def arrived_on(self, channel: int, frame: Frame) -> None:
        """A frame of a channel of the node comes in."""
        box = self._channel_boxes.setdefault((frame.peer, channel), Box())
        if not self._channels[channel].offer(box, frame, len(frame.data)):
            self._drops[frame.peer] += 1
