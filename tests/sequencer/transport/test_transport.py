"""Links between real transports on loopback."""

from __future__ import annotations

from consensus.ports import Frame
from tests.sequencer.transport.common import cluster, receive_connected, receive_frame


async def test_four_validators_connect_and_exchange_frames_on_both_streams() -> None:
    async with cluster(4) as transports:
        everyone = {transport.peer for transport in transports}
        for transport in transports:
            assert await receive_connected(transport, 3) == everyone - {transport.peer}
        for bulk in (False, True):
            transports[0].broadcast(b"to all", bulk=bulk)
            for transport in transports[1:]:
                assert await receive_frame(transport) == Frame(transports[0].peer, b"to all")
            transports[3].send(transports[1].peer, b"to one", bulk=bulk)
            assert await receive_frame(transports[1]) == Frame(transports[3].peer, b"to one")
