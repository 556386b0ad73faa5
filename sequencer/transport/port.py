"""What a node needs of its transport beyond what consensus does."""

from __future__ import annotations

from typing import Protocol

from consensus.ports import Frame, Transport
from consensus.types import PeerId
from sequencer.transport.transport import TransportState


class NodeTransport(Transport, Protocol):
    """:class:`~sequencer.transport.TlsTransport`, and the one in memory that tests use."""

    @property
    def peer(self) -> PeerId:
        """The own peer id."""
        ...

    def send_on(self, channel: int, peer: PeerId, data: bytes) -> None:
        """Queue data for one peer on a channel of the node; nothing happens when it is not connected."""
        ...

    def broadcast_on(self, channel: int, data: bytes) -> None:
        """Queue data for every connected peer on a channel of the node."""
        ...

    async def receive_on(self, channel: int) -> Frame:
        """The next frame of a channel of the node, each peer in turn. What is not read in time is dropped."""
        ...

    def state(self) -> TransportState:
        """Counters and connections."""
        ...
