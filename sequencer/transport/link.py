"""One live pair of streams with one peer: two readers, two writers, one pinger, and one end for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import assert_never

import trio

from consensus.codec import Malformed, encode
from consensus.ports import Connected, Disconnected, Frame
from consensus.types import PeerId
from sequencer.transport.framing import CONSENSUS, HEADER, LINK, FrameReader, pack_frame
from sequencer.transport.hello import REASON_LENGTH_MAX, Goodbye, Ping, Pong, StreamKind, link_messages
from sequencer.transport.limits import LINK_FRAME_SIZE_MAX, LINK_QUEUE_FRAMES_MAX, Limits
from sequencer.transport.peers import PeerRecord
from sequencer.transport.queues import Box, FairInbox, Outbox
from sequencer.transport.tls import Parted, TlsStream


class Lane:
    """One stream of a link and the outboxes that feed its one writer."""

    __slots__ = ("kind", "outboxes", "reader", "stream", "wake")

    def __init__(
        self, kind: StreamKind, stream: TlsStream, reader: FrameReader, limits: Limits, channels: tuple[int, ...]
    ) -> None:
        self.kind: StreamKind = kind
        self.stream = stream
        self.reader = reader
        self.wake = trio.lowlevel.ParkingLot()
        link_bytes_max = LINK_QUEUE_FRAMES_MAX * LINK_FRAME_SIZE_MAX
        self.outboxes = {LINK: Outbox(LINK, bytes_max=link_bytes_max, frames_max=LINK_QUEUE_FRAMES_MAX)}
        if kind == "control":
            bytes_max, frames_max = limits.control_queue_bytes_max, limits.control_queue_frames_max
            consensus_size_max = limits.control_frame_size_max
        else:
            bytes_max, frames_max = limits.bulk_queue_bytes_max, limits.bulk_queue_frames_max
            consensus_size_max = limits.bulk_frame_size_max
        self.outboxes[CONSENSUS] = Outbox(CONSENSUS, bytes_max=bytes_max, frames_max=frames_max)
        sizes_max = {LINK: LINK_FRAME_SIZE_MAX, CONSENSUS: consensus_size_max}
        for channel in channels if kind == "bulk" else ():
            self.outboxes[channel] = Outbox(
                channel, bytes_max=limits.channel_queue_bytes_max, frames_max=limits.channel_queue_frames_max
            )
            sizes_max[channel] = limits.bulk_frame_size_max
        reader.size_max = sizes_max.get

    def put(self, channel: int, data: bytes) -> int:
        """Queue a frame; the number of older ones that it pushed out."""
        dropped = self.outboxes[channel].put(data)
        self.wake.unpark()
        return dropped


class Link:
    """A pair of streams whose hellos were accepted. :meth:`run` it once."""

    def __init__(
        self,
        record: PeerRecord,
        control: Lane,
        bulk: Lane,
        limits: Limits,
        inbox: FairInbox[Connected | Disconnected | Frame],
        channels: dict[int, FairInbox[Frame]],
    ) -> None:
        self.record = record
        self.finished = trio.Event()
        """Set by whoever runs the link, when it is over or was never run."""
        self._control = control
        self._bulk = bulk
        self._limits = limits
        self._inbox = inbox
        self._channels = channels
        self._scope = trio.CancelScope()
        self._reason = ""
        self._peer_said_goodbye = False
        self._ping_sent: dict[int, float] = {}

    @property
    def peer(self) -> PeerId:
        return self.record.peer

    def send(self, channel: int, data: bytes, *, bulk: bool) -> None:
        """Queue a frame. Never waits."""
        lane = self._bulk if bulk else self._control
        self.record.drops_out += lane.put(channel, data)

    def part(self, reason: str) -> None:
        """End the link. The first reason counts."""
        if not self._reason:
            self._reason = reason
        self._scope.cancel()

    async def run(self) -> str:
        """Move frames until one stream ends or :meth:`part` is called; then the reason. Closes both streams."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for lane, box in ((self._control, self.record.control), (self._bulk, self.record.bulk)):
                        nursery.start_soon(self._until_parted, self._read, lane, box)
                        nursery.start_soon(self._until_parted, self._write, lane, box)
                    nursery.start_soon(self._ping)
        finally:
            reason = self._reason or "this node stops"
            goodbye = pack_frame(LINK, encode(Goodbye(reason=reason[:REASON_LENGTH_MAX])))
            for lane in (self._control, self._bulk):  # on both, or the end of one hides the reason on the other
                if not self._peer_said_goodbye:
                    lane.stream.send_last(goodbye)
                lane.stream.close()
        return reason

    async def _until_parted(
        self,
        task: Callable[[Lane, Box[Connected | Disconnected | Frame]], Awaitable[None]],
        lane: Lane,
        box: Box[Connected | Disconnected | Frame],
    ) -> None:
        try:
            await task(lane, box)
        except Parted as parted:
            self.part(f"{lane.kind} stream: {parted}")

    async def _read(self, lane: Lane, box: Box[Connected | Disconnected | Frame]) -> None:
        record = self.record
        while True:
            channel, data = await lane.reader.read()
            record.bytes_in += HEADER.size + len(data)
            if channel == CONSENSUS:
                await self._inbox.put(box, Frame(record.peer, data), len(data))
            elif channel == LINK:
                self._handle(lane, data)
            elif not self._channels[channel].offer(record.boxes[channel], Frame(record.peer, data), len(data)):
                record.drops_in += 1  # waiting here would hold back proposals

    async def _write(self, lane: Lane, _: Box[Connected | Disconnected | Frame]) -> None:
        record = self.record
        while True:
            idle = True
            for outbox in lane.outboxes.values():  # one batch of each in turn
                joined, large = outbox.take()
                if joined:
                    idle = False
                    await lane.stream.send_all(joined)
                    if large:
                        await lane.stream.send_all(large)
                    record.bytes_out += len(joined) + len(large)
            if idle:
                await lane.wake.park()

    async def _ping(self) -> None:
        sequence = 0
        while True:
            self._ping_sent = {sequence: trio.current_time()}
            frame = encode(Ping(sequence=sequence))
            self._control.put(LINK, frame)
            self._bulk.put(LINK, frame)
            sequence += 1
            await trio.sleep(self._limits.ping_interval_s)

    def _handle(self, lane: Lane, data: bytes) -> None:
        match link_messages.decode(data):
            case Ping(sequence=sequence):
                lane.put(LINK, encode(Pong(sequence=sequence)))
            case Pong(sequence=sequence):
                sent = self._ping_sent.get(sequence)
                if sent is not None and lane is self._control:
                    del self._ping_sent[sequence]
                    self.record.measured(trio.current_time() - sent)
            case Goodbye(reason=reason):
                self._peer_said_goodbye = True
                raise Parted(f"the peer parted: {reason!r}")
            case Malformed(reason=reason):
                raise Parted(f"malformed frame of the link: {reason}")
            case unreachable:
                assert_never(unreachable)
