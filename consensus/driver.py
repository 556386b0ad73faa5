"""The one trio file of the core: events become steps, records are synced once, signatures are asked for, effects
happen in order.

The loop drains what is queued: many steps, one journal append, then their effects in order (group commit). Effects
never wait: what takes time (signing, building and judging payloads, reading the archive, the ledger) runs in tasks of
its own over bounded queues and comes back as events.

A failure of the journal, of the ledger or inside a step leaves :meth:`Driver.run` as an exception: the node stops, and
nothing that depended on it was sent. A peer's bytes never do: they become a rejection.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, assert_never

import msgspec
import trio

from consensus.block_tree import ENTRIES_MAX
from consensus.codec import Malformed
from consensus.engine import (
    BlocksLoaded,
    Broadcast,
    BuildPayload,
    CancelTimer,
    CheckPayload,
    Commit,
    Effect,
    EndEpoch,
    Event,
    FetchBlocks,
    Finalize,
    LoadBlocks,
    OfferLinks,
    PeerConnected,
    PeerDisconnected,
    Received,
    Record,
    Reject,
    ReportEvidence,
    Send,
    SetTimer,
    Sign,
    Signed,
    Status,
    Step,
    TimerFired,
)
from consensus.ports import (
    Archive,
    Clock,
    CommitSink,
    Connected,
    Disconnected,
    Journal,
    PayloadSource,
    Signer,
    Transport,
)
from consensus.protocols.definition import ProtocolDefinition
from consensus.replica import Replica
from consensus.types import Height, Nanoseconds

NANOSECONDS_PER_SECOND: Final = 1_000_000_000
EVENTS_PER_SYNC_MAX: Final = 256
QUEUE_MAX: Final = 4096
"""Entries of each queue between the loop and a task. Only our own decisions fill them, so a full one is a bug or a
dead task."""
CHECKS_MAX: Final = 2 * ENTRIES_MAX
"""Bodies to be judged: of each block in the tree at most one full check and one of a certified body."""
SIGNATURES_WAITING_MAX: Final = 512
"""Decisions that wait for the signer. While it is away the others go on, and this node with them; of so many, the
oldest help nobody any more and are not signed, as if the message had been lost. Each has its slot all the same."""
LEDGER_QUEUE_MAX: Final = 512
"""Commits that the ledger has not taken: beyond, no event is handled until it has."""
INBOX_MAX: Final = 64
"""Frames taken from the transport before they were handled: beyond, the transport holds back its peers."""


class TrioClock:
    """trio's clock in nanoseconds."""

    def now(self) -> Nanoseconds:
        return int(trio.current_time() * NANOSECONDS_PER_SECOND)


class Driver:
    """Runs one replica on trio over its ports. An observer has no ``signer``."""

    def __init__(
        self,
        *,
        replica: Replica,
        protocol: ProtocolDefinition,
        journal: Journal,
        archive: Archive,
        transport: Transport,
        signer: Signer | None,
        payloads: PayloadSource,
        sink: CommitSink,
        clock: Clock,
    ) -> None:
        self._replica = replica
        self._protocol = protocol
        self._wire = protocol.wire()
        self._journal = journal
        self._archive = archive
        self._transport = transport
        self._signer = signer
        self._payloads = payloads
        self._sink = sink
        self._clock = clock
        self._events: deque[Event] = deque()
        self._wake = trio.Event()
        self._frames = 0
        self._frames_taken = trio.Event()
        self._timers: dict[str, Nanoseconds] = {}
        self._timer_heap: list[tuple[Nanoseconds, str]] = []
        self._sleep = trio.CancelScope()
        self._build_scope: trio.CancelScope | None = None
        self._to_sign: deque[Sign] = deque(maxlen=SIGNATURES_WAITING_MAX)
        self._sign_wanted = trio.Event()
        self._to_check, self._checking = trio.open_memory_channel[CheckPayload](CHECKS_MAX)
        self._wanted_build: BuildPayload | None = None
        self._build_wanted = trio.Event()
        self._to_load, self._loading = trio.open_memory_channel[LoadBlocks](QUEUE_MAX)
        self._to_end, self._ending = trio.open_memory_channel[EndEpoch](1)
        self._to_ledger: deque[Commit | Finalize | ReportEvidence] = deque()
        self._ledger_filled = trio.Event()
        self._ledger_taken = trio.Event()

    def status(self) -> Status:
        """Where the replica stands."""
        return self._replica.status()

    @property
    def pruned_below(self) -> Height | None:
        """Set when every peer has pruned what this node needs."""
        return self._replica.pruned_below

    async def run(
        self, *, ledger_height: Height, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Resume from the journal and work until cancelled. ``ledger_height`` is the last height that the sink holds
        durably."""
        recovered = await self._journal.recover(ledger_height)
        async with trio.open_nursery() as nursery:
            for task in (
                self._keep_time,
                self._receive,
                self._sign,
                self._judge,
                self._build,
                self._load,
                self._end_epochs,
                self._deliver,
            ):
                nursery.start_soon(task)
            await self._perform([self._replica.start(recovered, self._clock.now())])
            task_status.started()
            while True:
                await self._wait()
                await self._perform(self._drain())

    # --- the loop -----------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Until the ledger keeps up and there is an event."""
        while len(self._to_ledger) >= LEDGER_QUEUE_MAX:
            self._ledger_taken = trio.Event()
            await self._ledger_taken.wait()
        if self._events:
            await trio.lowlevel.checkpoint()
            return
        self._wake = trio.Event()
        await self._wake.wait()

    def _drain(self) -> list[Step]:
        now = self._clock.now()
        steps: list[Step] = []
        events = self._events
        for _ in range(min(len(events), EVENTS_PER_SYNC_MAX)):
            if steps and isinstance(events[0], TimerFired):
                break  # the steps before it may set that timer anew: their effects first
            event = events.popleft()
            if isinstance(event, Received):
                self._frames -= 1
                self._frames_taken.set()
            elif isinstance(event, TimerFired) and not self._is_due(event.name, now):
                continue
            steps.append(self._replica.handle(event, now))
        return steps

    def _is_due(self, name: str, now: Nanoseconds) -> bool:
        """True when a timer that rang was neither set anew nor cancelled before its turn came; it is done then."""
        deadline_ns = self._timers.get(name)
        if deadline_ns is None or deadline_ns > now:
            return False
        del self._timers[name]
        return True

    async def _perform(self, steps: list[Step]) -> None:
        """One sync for the records of all steps, then their effects in order."""
        records: list[Record] = []
        for step in steps:
            records += step.records
        if records:
            await self._journal.append(records)
        for step in steps:
            for effect in step.effects:
                self._effect(effect)

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Sign():
                self._to_sign.append(effect)
                self._sign_wanted.set()
            case Broadcast(message):
                self._transport.broadcast(self._wire.encode(message), bulk=self._protocol.is_bulk(message))
            case Send(peer, message):
                self._transport.send(peer, self._wire.encode(message), bulk=self._protocol.is_bulk(message))
            case SetTimer(name, deadline_ns):
                self._set_timer(name, deadline_ns)
            case CancelTimer(name):
                self._timers.pop(name, None)
            case _:
                self._rarer_effect(effect)

    def _rarer_effect(
        self,
        effect: BuildPayload
        | CheckPayload
        | Commit
        | EndEpoch
        | FetchBlocks
        | Finalize
        | LoadBlocks
        | OfferLinks
        | Reject
        | ReportEvidence,
    ) -> None:
        match effect:
            case CheckPayload():
                self._to_check.send_nowait(effect)
            case BuildPayload():
                self._drop_build()  # superseded
                self._wanted_build = effect
                self._build_wanted.set()
            case Commit() | Finalize() | ReportEvidence():
                self._to_ledger.append(effect)
                self._ledger_filled.set()
            case Reject(peer, reason):
                self._transport.reject(peer, reason)
            case LoadBlocks():
                self._to_load.send_nowait(effect)
            case OfferLinks():
                self._payloads.offer(effect)
            case EndEpoch():
                self._drop_build()  # what the next epoch asks for must not be answered by this one
                self._to_end.send_nowait(effect)
            case FetchBlocks():
                raise RuntimeError("FetchBlocks is answered inside the replica")
            case _:
                assert_never(effect)

    def _drop_build(self) -> None:
        self._wanted_build = None
        if self._build_scope is not None:
            self._build_scope.cancel()

    def _set_timer(self, name: str, deadline_ns: Nanoseconds) -> None:
        self._timers[name] = deadline_ns
        heapq.heappush(self._timer_heap, (deadline_ns, name))
        # A later deadline changes nothing for the timekeeper: waking early, it looks again.
        deadline_s = deadline_ns / NANOSECONDS_PER_SECOND
        if deadline_s < self._sleep.deadline:
            self._sleep.deadline = deadline_s

    def _post(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    # --- the tasks ----------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        """One timer heap, one deadline: a timer that is due becomes an event, unless it was set anew meanwhile (or is
        until that event's turn comes: ``_is_due``)."""
        heap, timers = self._timer_heap, self._timers
        while True:
            with trio.CancelScope() as self._sleep:
                while heap and timers.get(heap[0][1]) != heap[0][0]:
                    heapq.heappop(heap)
                if heap:
                    self._sleep.deadline = heap[0][0] / NANOSECONDS_PER_SECOND
                await trio.sleep_forever()
            now = self._clock.now()
            while heap and heap[0][0] <= now:
                deadline_ns, name = heapq.heappop(heap)
                if timers.get(name) == deadline_ns:
                    self._post(TimerFired(name))

    async def _receive(self) -> None:
        while True:
            arrived = await self._transport.receive()
            if isinstance(arrived, Connected):
                self._post(PeerConnected(arrived.peer))
                continue
            if isinstance(arrived, Disconnected):
                self._post(PeerDisconnected(arrived.peer))
                continue
            message: msgspec.Struct | Malformed = self._wire.decode(arrived.data)
            if isinstance(message, Malformed):
                self._transport.reject(arrived.peer, message.reason)
                continue
            self._frames += 1
            self._post(Received(arrived.peer, message))
            while self._frames >= INBOX_MAX:
                self._frames_taken = trio.Event()
                await self._frames_taken.wait()

    async def _sign(self) -> None:
        while True:
            self._sign_wanted = trio.Event()
            while self._to_sign:
                await self._sign_next(self._to_sign.popleft())
            await self._sign_wanted.wait()

    async def _sign_next(self, request: Sign) -> None:
        if self._signer is None:
            raise RuntimeError("an observer was asked to sign")
        signing = self._replica.signing(request.subject)
        if signing is None:
            return  # it waited here while its epoch ended
        key, domain = signing
        signature = await self._signer.sign(request.subject, key, domain)
        if signature is not None:
            self._post(Signed(request.subject, signature))

    async def _judge(self) -> None:
        await self._serve(self._checking, self._payloads.check)

    async def _build(self) -> None:
        """One payload at a time, always the one asked for last."""
        while True:
            self._build_wanted = trio.Event()
            if self._wanted_build is None:
                await self._build_wanted.wait()
            request, self._wanted_build = self._wanted_build, None
            if request is not None:
                with trio.CancelScope() as self._build_scope:
                    self._post(await self._payloads.build(request))
                self._build_scope = None

    async def _load(self) -> None:
        async for request in self._loading:
            loaded = await self._archive.load(request)
            self._post(
                BlocksLoaded(
                    peer=request.peer,
                    request=request.request,
                    blocks=loaded.blocks,
                    proof=loaded.proof,
                    pruned_below=loaded.pruned_below,
                    head=loaded.head,
                )
            )

    async def _end_epochs(self) -> None:
        async for request in self._ending:
            self._post(await self._payloads.end_epoch(request))

    async def _deliver(self) -> None:
        """Commits to the ledger in order, as many at once as are queued."""
        while True:
            self._ledger_filled = trio.Event()
            if not self._to_ledger:
                await self._ledger_filled.wait()
            items = list(self._to_ledger)
            commits = [item for item in items if isinstance(item, Commit)]
            if commits:
                await self._sink.commit(commits)
            for item in items:
                if isinstance(item, ReportEvidence):
                    await self._sink.report(item)
                elif isinstance(item, Finalize):
                    await self._sink.finalize(item)
                self._to_ledger.popleft()
            self._ledger_taken.set()

    async def _serve(
        self, requests: trio.MemoryReceiveChannel[CheckPayload], answer: Callable[[CheckPayload], Awaitable[Event]]
    ) -> None:
        """Judgements may be held (a timestamp ahead of ours): each waits by itself."""
        async with trio.open_nursery() as nursery:

            async def one(request: CheckPayload) -> None:
                self._post(await answer(request))

            async for request in requests:
                nursery.start_soon(one, request)
