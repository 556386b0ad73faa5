"""Who passes what on to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from consensus.types import PeerId
from sequencer.body import assemble_payload
from sequencer.forwarding import AGAIN_LOOKS, EVERYBODY_BYTES_MAX, LOOK_S, Forwarder
from sequencer.mempool import Mempool
from sequencer.window import CommittedBlock, CommittedWindow
from tests.support.committee import committee

SPEC = committee(4).spec
PEERS = tuple(validator.peer for validator in SPEC.validators[:3])


@dataclass
class Channel:
    """Remembers what was sent."""

    peers: Sequence[PeerId] = PEERS
    broadcasts: list[bytes] = field(default_factory=list)
    sends: list[tuple[PeerId, bytes]] = field(default_factory=list)

    def broadcast(self, data: bytes) -> None:
        self.broadcasts.append(data)

    def send(self, peer: PeerId, data: bytes) -> None:
        self.sends.append((peer, data))

    def connected_validators(self) -> Sequence[PeerId]:
        return self.peers


def node(*, observer: bool) -> tuple[Mempool, Channel, Forwarder]:
    window, channel = CommittedWindow(SPEC.deduplication_heights), Channel()
    mempool = Mempool(SPEC, window)
    return mempool, channel, Forwarder(mempool, window, channel, observes=lambda: observer)


def submit(mempool: Mempool, forwarder: Forwarder, transactions: Sequence[tuple[int, bytes]]) -> None:
    forwarder.submitted(1, transactions, mempool.add_batch(1, transactions))


def test_what_one_node_forwards_another_takes() -> None:
    mempool, channel, forwarder = node(observer=False)
    submit(mempool, forwarder, [(0, b"one"), (5, b"two")])
    other, silent, receiver = node(observer=False)
    assert receiver.received(channel.broadcasts[0]) is None
    assert other.pending(1) == (2, 6)
    assert receiver.received(channel.broadcasts[0]) is None, "again is harmless"
    assert other.pending(1) == (2, 6)
    assert not silent.broadcasts, "what was forwarded is not forwarded on"
    assert other.pending_to_forward() == []


def test_whoever_is_too_far_behind_is_passed_over_until_it_has_caught_up() -> None:
    """Node A lets a client wait at height 0; the same transaction is ordered at height 2 by another. At height K + 3
    nobody else remembers it: A's copy must not be taken before A has seen height 2."""
    mempool, channel, forwarder = node(observer=True)
    submit(mempool, forwarder, [(0, b"once")])
    others, _, receiver = node(observer=False)
    reach(receiver, SPEC.deduplication_heights)
    assert receiver.received(channel.broadcasts[0]) is None
    assert others.pending(1) == (1, 4), "both windows together go back to the beginning"
    others, _, receiver = node(observer=False)
    reach(receiver, SPEC.deduplication_heights + 1)
    assert receiver.received(channel.broadcasts[0]) is None, "to be behind is no fault"
    assert others.pending(1) == (0, 0)
    reach(forwarder, 1)
    forwarder._everybody(mempool.oldest(1000))
    receiver.received(channel.broadcasts[1])
    assert others.pending(1) == (1, 4), "it has caught up, and nobody has ordered it"


def reach(forwarder: Forwarder, height: int) -> None:
    """Empty blocks up to a height."""
    window = forwarder._window
    while window.height < height:
        window.advance(CommittedBlock(window.height + 1, bytes(32), window.height + 1, ()))


async def test_a_validator_keeps_most_of_a_flood_to_itself() -> None:
    mempool, channel, forwarder = node(observer=False)
    submit(mempool, forwarder, [(0, b"%05d" % number * 50) for number in range(5000)])
    assert 0 < sum(map(len, channel.broadcasts)) < 100_000
    assert not channel.sends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forwarder.run)
        await trio.testing.wait_all_tasks_blocked()
        other, _, receiver = node(observer=False)
        receiver.received(channel.broadcasts[0])
        built = other.select(height=1, size_bytes_max=2**20, excluded=[])
        ids = built[0][1]
        block = CommittedBlock(1, bytes(32), 1, ids)
        mempool.committed(1, assemble_payload(built).sections)
        forwarder._window.advance(block)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(channel.broadcasts) == 2, "some more, once some was ordered"
    assert receiver.received(channel.broadcasts[1]) is None
    assert other.pending(1)[0] == 2 * len(ids)


def test_an_observer_passes_everything_on_in_turns() -> None:
    mempool, channel, forwarder = node(observer=True)
    for batch in range(3):
        submit(mempool, forwarder, [(0, b"%d %d" % (batch, number) + bytes(1000)) for number in range(200)])
    assert not channel.broadcasts
    assert {peer for peer, _ in channel.sends} == set(PEERS)
    others = [node(observer=False) for _ in PEERS]
    for peer, frame in channel.sends:
        others[PEERS.index(peer)][2].received(frame)
    assert sum(other.pending(1)[0] for other, _, _ in others) == 600
    assert EVERYBODY_BYTES_MAX < 200 * 1000


async def test_an_observer_without_connections_passes_on_once_it_has_one(autojump_clock: MockClock) -> None:
    mempool, channel, forwarder = node(observer=True)
    channel.peers = ()
    submit(mempool, forwarder, [(0, b"early")])
    channel.broadcasts.clear()  # nobody was there to hear it
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forwarder.run)
        await trio.sleep(AGAIN_LOOKS * LOOK_S / 2)
        assert not channel.broadcasts
        channel.peers = PEERS
        await trio.sleep(AGAIN_LOOKS * LOOK_S / 4)
        assert len(channel.broadcasts) == 1
        await trio.sleep(AGAIN_LOOKS * LOOK_S)
        assert len(channel.broadcasts) == 2, "and again, while it waits"
        nursery.cancel_scope.cancel()
    other, _, receiver = node(observer=False)
    assert receiver.received(channel.broadcasts[0]) is None
    assert other.pending(1) == (1, 5)


@given(st.binary(max_size=200))
def test_garbage_is_a_fault_with_a_reason(garbage: bytes) -> None:
    _, _, forwarder = node(observer=False)
    fault = forwarder.received(garbage)
    assert fault is not None
    assert fault.startswith("forwarded transactions: ")


def test_what_cannot_be_taken_is_passed_over() -> None:
    mempool, channel, forwarder = node(observer=False)
    frame = msgspec.msgpack.encode([0, [[99, 0, b"unknown rollup"], [1, 10**6, b"too far"], [2, 0, b"good"]]])
    assert forwarder.received(frame) is None
    assert mempool.pending(2) == (1, 4)
    assert mempool.pending(1) == (0, 0)
    assert not channel.broadcasts
