"""The engine: nodes, links and time on one heap of (time in ns, sequence).

A node is a :class:`Host`: a replica of the pure core, its journal, ledger, timers and payloads. The world performs the
core's steps as the driver does: records first, then effects in order; a signature and a payload verdict come back at
once, as events of the same node. Everything between nodes goes through the :class:`~netsim.network.Network`.

Every message that is sent, every event that a node handles and every commit enters a chained SHA-256, so that one hash
stands for the whole run.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from struct import Struct
from typing import Any, Final

import msgspec

from consensus.block_sync import TIMER_PREFIX
from consensus.engine import (
    NOTHING,
    Broadcast,
    BuildPayload,
    CancelTimer,
    CheckPayload,
    Commit,
    EndEpoch,
    EpochReady,
    EpochRecord,
    Event,
    Finalize,
    LoadBlocks,
    OfferLinks,
    PayloadBuilt,
    PayloadVerdict,
    PeerConnected,
    Received,
    Record,
    Reject,
    ReportEvidence,
    Send,
    SetTimer,
    Sign,
    Signed,
    Step,
    TimerFired,
)
from consensus.epochs import EpochInfo, epoch_after
from consensus.protocols.definition import ProtocolDefinition
from consensus.replica import Replica
from consensus.types import PeerId, View
from consensus.validators import ValidatorSet
from netsim.committee import Committee, ReplicaFactory
from netsim.host import Host, Player, Recorder, Violation, Watcher
from netsim.journal import DiskFull
from netsim.network import MILLISECOND, LinkModel, Network
from netsim.numbering import SPAN, Turns, numbered
from netsim.payloads import (
    NOT_THE_BODY,
    body_of,
    fault_in,
    links_in,
    named_after,
    payload_in,
    payload_root,
    read_links,
)
from netsim.schedule import BadSchedule, Schedule, Timed

__all__ = ("HANDOVER_NS", "Host", "Player", "Recorder", "Violation", "Watcher", "World")

HASH_BATCH_BYTES: Final = 1 << 16
REJECTS_KEPT: Final = 64
EVENTS_MAX: Final = 20_000_000
"""More than any schedule needs: a run that gets here is a flood that feeds itself."""

HANDOVER_NS: Final = MILLISECOND
"""From the commit of a boundary to the answer of the payload source."""

_packed: Final = Struct("<QQH").pack
_encode_into: Final = msgspec.msgpack.Encoder().encode_into


class Crashed(Exception):
    """Raised at a crash boundary: the node dies here."""


class World:
    """One run. Wire it with :mod:`netsim.simulation`."""

    def __init__(
        self,
        schedule: Schedule,
        definition: ProtocolDefinition,
        committee: Committee,
        hosts: Sequence[Host],
        link_model: LinkModel | None = None,
        make_replica: ReplicaFactory = Replica,
    ) -> None:
        self.schedule = schedule
        self._make_replica = make_replica
        self.definition = definition
        self.committee = committee
        self.hosts = tuple(hosts)
        self.turns = Turns(definition, tuple(era.height for era in committee.eras[1:]))
        self.network = Network(schedule, link_model, self.turns.of)
        self.now = 0
        self.events = 0
        self.deliveries = 0
        self.sequence = 0
        self.heap: list[tuple[int, int, Host | None, int, Event | Callable[[], None]]] = []
        self.watchers: list[Watcher] = []
        self.listeners: list[Callable[[Host, msgspec.Struct], None]] = []
        """Puppets: they see every message when it is sent."""
        self.recorder: Recorder | None = None
        self.violations: list[Violation] = []
        self.finished = False
        self.healed = False
        self.top_view: View = 0
        self.views_begun = 0
        """How many views some honest node was the first to enter or to pass."""
        self.top_height = 0
        self.on_view: dict[View, list[Callable[[], None]]] = {}
        self.began: dict[Timed, int] = {}
        """When what a fault waited for happened."""
        self.on_height: dict[int, list[Callable[[], None]]] = {}
        self.entering: list[Callable[[View], None]] = []
        """Called when the first node enters a view, by its number."""
        self.beginning: list[Callable[[EpochInfo], None]] = []
        """Called when the first honest node begins an epoch."""
        self._begun = 0
        self._held: list[tuple[Host, Host, msgspec.Struct]] = []
        self._hash = hashlib.sha256(schedule.protocol.encode())
        self._trace = bytearray()
        self._timer_events: dict[str, TimerFired] = {}
        self._lead_ms = committee.spec.genesis_time_ms + committee.spec.timestamp_drift_ms
        self._performers: dict[type, Callable[[Host, Any], Event | None]] = {
            Broadcast: self._broadcast, SetTimer: self._set_timer, Sign: self._sign, CheckPayload: self._check,
            Commit: self._commit, BuildPayload: self._build, Send: self._send, CancelTimer: self._cancel_timer,
            LoadBlocks: self._load, Reject: self._rejected, ReportEvidence: self._accused,
            EndEpoch: self._end_epoch, Finalize: self._finalized, OfferLinks: self._offer,
        }  # fmt: skip
        self._changes = len(committee.eras) > 1
        self._finality = schedule.checkpoint_interval > 0
        self._stop_view = numbered(schedule.stop.epoch, schedule.stop.view)
        self._by_peer: dict[PeerId, tuple[Host, ...]] = {}
        for host in hosts:
            self._by_peer[host.peer] = (*self._by_peer.get(host.peer, ()), host)
        for host in hosts:
            host.others = tuple(other for other in hosts if other.peer != host.peer)

    # --- time ---------------------------------------------------------------------------------------------------

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Run ``action`` at a virtual time."""
        self.sequence += 1
        heappush(self.heap, (max(time_ns, self.now), self.sequence, None, 0, action))

    def soon(self, host: Host, event: Event, delay_ns: int) -> None:
        """Give one of a node's own ports time to answer."""
        self.sequence += 1
        heappush(self.heap, (self.now + delay_ns, self.sequence, host, host.life, event))

    def run(self, end_ns: int) -> None:
        """Let time pass until ``finished``, or ``end_ns``, or nothing is left to happen."""
        heap, trace, recorder, pack = self.heap, self._trace, self.recorder, _packed
        handled = 0
        while heap and not self.finished:
            # With a host the last item is an event, without one an action. A check of each would cost a tenth of the
            # loop, hence what is ignored below.
            time, sequence, host, life, event = heappop(heap)
            if time > end_ns:
                self.now = end_ns
                break
            self.now = time
            if host is None:
                event()  # type: ignore[operator]
                if len(trace) > HASH_BATCH_BYTES:
                    self._hash_trace()
                continue
            replica = host.replica
            if life != host.life:
                continue
            if type(event) is Received:
                if host.player is not None:
                    event = self._heard(host, event, sequence)  # type: ignore[assignment]
                    replica = host.replica
                    if event is None:
                        continue
                elif replica is not None:
                    self.deliveries += 1
                    if recorder is not None:
                        recorder.arrived(time, sequence)
            elif type(event) is TimerFired and replica is not None:
                name = event.name
                if host.timers.get(name) != sequence:
                    continue
                del host.timers[name]
                self._fired(host, name)
            if replica is None:
                continue
            trace += pack(time, sequence, host.position)
            handled += 1
            if recorder is not None:
                recorder.handling(time, sequence, host, event)  # type: ignore[arg-type]
            try:
                step = replica.handle(event, time if host.clock is None else self.local(host))  # type: ignore[arg-type]
            except Exception as error:  # a core that breaks is what the run looks for: the watchers judge it
                self._broke(host, event, error)  # type: ignore[arg-type]
                continue
            if step is not NOTHING:
                self._perform(host, step)
                if len(trace) > HASH_BATCH_BYTES:
                    self.events, handled = self.events + handled, 0
                    self._hash_trace()
        self.events += handled

    def _hash_trace(self) -> None:
        """Take the trace so far into the hash. Raises :class:`BadSchedule` for a run without end."""
        self._hash.update(self._trace)
        self._trace.clear()
        if self.events > EVENTS_MAX:
            raise BadSchedule(
                f"{self.schedule.name or 'schedule'}: $.stop: no end after {EVENTS_MAX} events: ask for less, "
                "or find the actor that feeds itself"
            )

    def _heard(self, host: Host, event: Received, sequence: int) -> Received | None:
        """What a played node's core gets of a message, if anything."""
        self.deliveries += 1
        if self.recorder is not None:
            self.recorder.arrived(self.now, sequence)
        heard = event if host.player is None else host.player.incoming(host, event)
        return None if host.replica is None else heard

    def feed(self, host: Host, event: Event) -> None:
        """Let a node handle an event, and perform what it decides."""
        step = self._handle(host, event, 0)
        if step is not NOTHING:
            self._perform(host, step)

    def _handle(self, host: Host, event: Event, sequence: int) -> Step:
        """The core's step. A core that breaks, and a node that is dead, do nothing."""
        replica = host.replica
        if replica is None:
            return NOTHING
        self.events += 1
        if self.recorder is not None:
            self.recorder.handling(self.now, sequence, host, event)
        try:
            return replica.handle(event, self.now if host.clock is None else self.local(host))
        except Exception as error:  # as in ``run``
            self._broke(host, event, error)
            return NOTHING

    def local(self, host: Host) -> int:
        """What the node's clock shows, in nanoseconds."""
        clock = host.clock
        if clock is None:
            return self.now
        return self.now + self.now * clock.drift_ppm // 1_000_000 + round(clock.offset_ms * MILLISECOND)

    def date(self, host: Host) -> int:
        """Nanoseconds since genesis as the node writes them into blocks and compares them with its own."""
        clock = host.clock
        if clock is None or not clock.timers_only:
            return self.local(host)
        return self.now + round(clock.offset_ms * MILLISECOND)

    def _world_time(self, host: Host, local_ns: int) -> int:
        clock = host.clock
        if clock is None:
            return local_ns
        return -(-(local_ns - round(clock.offset_ms * MILLISECOND)) * 1_000_000 // (1_000_000 + clock.drift_ppm))

    def trace_hash(self) -> str:
        """The hash of everything so far."""
        self._hash.update(self._trace)
        self._trace.clear()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Take apart what refers to itself: the memory of a run that is over goes with it, without a search for
        garbage."""
        for table in (self.heap, self.watchers, self.listeners, self.entering, self.beginning, self._held):
            table.clear()
        for actions in (self.on_view, self.on_height, self._performers):
            actions.clear()
        self.recorder = None
        for host in self.hosts:
            host.others = ()
            host.replica = host.player = None

    # --- life and death -----------------------------------------------------------------------------------------

    def start(self, host: Host) -> None:
        """Start a node, new or after a crash, and connect it. A damaged journal refuses to."""
        if host.replica is not None or host.journal.damaged:
            return
        if host.player is None or host.player.has_core:
            links = read_links if self._finality else None
            host.replica = self.committee.replica(self.definition, host.node, self._make_replica, links)
            recovered = host.journal.recover(len(host.ledger))
            for watcher in self.watchers:
                watcher.started(host, recovered)
            try:
                step = host.replica.start(recovered, self.local(host))
            except Exception as error:  # as in ``run``
                self._broke(host, PeerConnected(host.peer), error)  # of a start, the event is oneself
                return
            self._perform(host, step)

    def connect(self, hosts: Sequence[Host]) -> None:
        """Tell these nodes and those that run of each other."""
        connected = [PeerConnected(host.peer) for host in self.hosts]
        news = {host.position for host in hosts}
        for host in hosts:
            if host.replica is None and host.player is None:
                continue
            for other in host.others:
                self.feed(host, connected[other.position])
                if other.position not in news:
                    self.feed(other, connected[host.position])

    def crash(self, host: Host, restart_ns: int | None) -> None:
        """kill -9, and a restart some time later."""
        if host.replica is None and host.player is None:
            return
        for watcher in self.watchers:
            watcher.died(host)
        host.replica = None
        host.life += 1
        host.timers.clear()
        host.building = None
        host.offered = ()
        host.journal.crashed()
        self._trace += _packed(self.now, host.life, host.position)
        if restart_ns is not None:
            self.at(self.now + restart_ns, lambda: self.restart(host))
        self.check_finished()

    def restart(self, host: Host) -> None:
        """Start a node again."""
        if host.replica is None:
            self.start(host)
            self.connect((host,))

    def _boundary(self, host: Host, name: str, records: Sequence[Record] = ()) -> None:
        for position, (boundary, left, restart_ns) in enumerate(host.armed):
            if boundary != name:
                continue
            if left > 1:
                host.armed[position] = (boundary, left - 1, restart_ns)
                continue
            del host.armed[position]
            if name == "before persist":
                host.journal.interrupted(records)
            self.crash(host, restart_ns)
            raise Crashed

    def _broke(self, host: Host, event: Event, error: Exception) -> None:
        for watcher in self.watchers:
            watcher.broke(host, event, error)
        self.crash(host, None)

    # --- steps --------------------------------------------------------------------------------------------------

    def _perform(self, host: Host, step: Step) -> None:
        try:
            records, effects = step
            steps: deque[Step] | None = None
            performers = self._performers
            while True:
                if records:
                    if host.armed:
                        self._boundary(host, "before persist", records)
                    host.journal.append(records)
                    for watcher in self.watchers:
                        watcher.stored(host, records)
                    if self._changes:
                        self._begin(host)
                    if host.armed:
                        self._boundary(host, "after persist")
                        if any(type(record) is EpochRecord for record in records):
                            self._boundary(host, "after epoch")
                for effect in effects:
                    answer = performers[type(effect)](host, effect)
                    if answer is None:
                        continue
                    more = self._handle(host, answer, 0)
                    if more is not NOTHING:
                        if steps is None:
                            steps = deque()
                        steps.append(more)
                    elif host.replica is None:
                        return
                if not steps:
                    return
                records, effects = steps.popleft()
        except Crashed:
            return
        except DiskFull:
            self.crash(host, None)

    def _begin(self, host: Host) -> None:
        """A node has stored something: perhaps the beginning of an epoch that nobody began before."""
        if host.honest and host.journal.epoch > self._begun:
            change = host.journal.epochs[-1]
            self._begun = change.epoch
            info = epoch_after(self.committee.spec, change.boundary, ValidatorSet(change.validators))
            for begin in self.beginning:
                begin(self.committee.with_leaders(self.definition, info))

    def _broadcast(self, host: Host, effect: Broadcast) -> None:
        if host.armed or host.player is not None:
            self.transmit(host, host.others, effect.message)
        else:
            self._spread(host, host.others, effect.message, host.slow_ns)

    def _send(self, host: Host, effect: Send) -> None:
        self.transmit(host, self._by_peer.get(effect.peer, ()), effect.message)

    def _sign(self, host: Host, effect: Sign) -> Signed | None:
        if host.armed:
            self._boundary(host, "before sign")
        subject = effect.subject
        try:
            if self._changes or self._finality:
                signing = None if host.replica is None else host.replica.signing(subject)
                if signing is None:
                    return None  # its epoch is over
                key, domain = signing
                signed = Signed(subject, host.keys[key].sign(domain.bytes_to_sign(subject)))
            elif host.index is None:
                raise RuntimeError("an observer was asked to sign")
            else:
                signed = Signed(subject, self.committee.sign(host.index, subject))
        except (ValueError, RuntimeError) as error:  # no signer signs that: such a node stops
            self._broke(host, Signed(subject, b""), error)
            return None
        if host.armed:
            self._boundary(host, "after sign")
        return signed

    def _cancel_timer(self, host: Host, effect: CancelTimer) -> None:
        host.timers.pop(effect.name, None)

    def _load(self, host: Host, effect: LoadBlocks) -> None:
        self.soon(host, host.journal.load(effect), 1000 + host.slow_ns)

    def _rejected(self, host: Host, effect: Reject) -> None:
        if len(host.rejects) < REJECTS_KEPT:
            host.rejects.append(effect)

    def _offer(self, host: Host, effect: OfferLinks) -> None:
        host.offered = effect.certificates

    def _finalized(self, host: Host, effect: Finalize) -> None:
        for watcher in self.watchers:
            watcher.finalized(host, effect)
        host.final = max(host.final, effect.checkpoint.height)

    def _end_epoch(self, host: Host, effect: EndEpoch) -> None:
        """The payload source names the next validators a moment after the boundary is in the ledger."""
        if host.armed:
            self._boundary(host, "before epoch")
        host.building = None
        named = effect.boundary.header.next_validators_hash
        for era in self.committee.eras:
            if era.validators.hash == named:
                self.soon(host, EpochReady(boundary=effect.boundary.id, validators=era.validators), HANDOVER_NS)
                return
        self._broke(host, PeerConnected(host.peer), RuntimeError(f"nobody knows the validators {named.hex()}"))

    def _accused(self, host: Host, effect: ReportEvidence) -> None:
        host.evidence.append(effect)
        for watcher in self.watchers:
            watcher.accused(host, effect)

    def _set_timer(self, host: Host, effect: SetTimer) -> None:
        name = effect.name
        event = self._timer_events.get(name)
        if event is None:
            event = self._timer_events[name] = TimerFired(name)
        self.sequence += 1
        host.timers[name] = self.sequence
        deadline, now = effect.deadline_ns, self.now
        if host.clock is not None:
            deadline = self._world_time(host, deadline)
        heappush(self.heap, (deadline if deadline > now else now, self.sequence, host, host.life, event))
        replica = host.replica
        if replica is not None and not name.startswith(TIMER_PREFIX):
            if self._changes:
                turn = self.turns.of(replica.epoch.epoch, replica.status().view)
            else:
                turn = self.definition.turn(replica.status().view)
            if turn > host.view:
                self._entered(host, turn)

    def _entered(self, host: Host, view: View) -> None:
        host.view = view
        for watcher in self.watchers:
            watcher.entered(host, view)
        if host.honest and view > self.top_view:
            first = max(self.top_view, view // SPAN * SPAN) + 1  # the views that are left of an epoch never begin
            for new in range(first, view + 1):
                for action in self.on_view.pop(new, ()):
                    self.at(self.now, action)
                for entering in self.entering:
                    entering(new)
            self.top_view = view
            self.views_begun += view + 1 - first
        self.check_finished()

    def check_finished(self) -> None:
        """Finished once every live honest node is beyond what the schedule stops at."""
        stop, view = self.schedule.stop, self._stop_view
        if self.top_view <= view or self.schedule.liveness is not None:
            return
        for host in self.hosts:
            seat = host.index if not stop.epoch else self.committee.seat(host.node, stop.epoch)
            judged = host.honest and seat is not None and host.replica is not None
            if judged and (host.view <= view or host.height < stop.height):
                return
        self.finished = True

    def _fired(self, host: Host, name: str) -> None:
        host.timers_fired += not name.startswith(TIMER_PREFIX)
        for watcher in self.watchers:
            watcher.fired(host, name)

    # --- messages -----------------------------------------------------------------------------------------------

    def transmit(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> None:
        """A core sends ``message``; whoever plays the node may send something else."""
        if host.armed:
            self._boundary(host, "before send")
        player = host.player
        if player is None:
            self._spread(host, targets, message, host.slow_ns)
        else:
            for target, rewritten, extra_ns in player.outgoing(host, targets, message):
                self._spread(host, (target,), rewritten, extra_ns)
        if host.armed:
            self._boundary(host, "after send")

    def inject(self, host: Host, targets: Sequence[Host], message: msgspec.Struct, extra_ns: int = 0) -> None:
        """An actor sends ``message`` in its own name."""
        self._spread(host, targets, message, extra_ns)

    def _spread(self, host: Host, targets: Sequence[Host], message: msgspec.Struct, extra_ns: int) -> None:
        _encode_into(message, self._trace, -1)
        for watcher in self.watchers:
            watcher.sent(host, message)
        for listener in self.listeners:
            listener(host, message)
        network, heap, recorder = self.network, self.heap, self.recorder
        event = Received(host.peer, message)
        if not network.plain:
            for target in targets:
                self._route(host, target, event, extra_ns)
            return
        now, delay, sequence = self.now + extra_ns, network.delay, self.sequence
        for target in targets:
            sequence += 1
            due_ns = now + delay()
            heappush(heap, (due_ns, sequence, target, target.life, event))
            if recorder is not None:
                recorder.sending(self.now, due_ns, sequence, host, target, message)
        self.sequence = sequence

    def _route(self, host: Host, target: Host, event: Received, extra_ns: int) -> None:
        message, network = event.message, self.network
        if network.holding and network.holds(host.position, target.position):
            self._held.append((host, target, message))
            if self.recorder is not None:
                self.recorder.held(self.now, host, target, message)
            return
        delays = network.delays(host.position, target.position, message, self.now)
        for delay_ns in delays:
            self.sequence += 1
            due_ns = self.now + extra_ns + delay_ns
            heappush(self.heap, (due_ns, self.sequence, target, target.life, event))
            if self.recorder is not None:
                self.recorder.sending(self.now, due_ns, self.sequence, host, target, message)
        if not delays and self.recorder is not None:
            self.recorder.lost(self.now, host, target, message)

    def release(self) -> None:
        """What was held goes on its way, unless it is still to be held."""
        held, self._held = self._held, []
        for host, target, message in held:
            if self.network.holds(host.position, target.position):
                self._held.append((host, target, message))
            else:
                self._route(host, target, Received(host.peer, message), 0)

    # --- payloads and commits -----------------------------------------------------------------------------------

    def submit(self, body: bytes, hosts: Sequence[Host]) -> None:
        """Put a payload into nodes' pools."""
        for host in hosts:
            host.pool.append(body)
            if host.building is not None:
                self._built(host, host.building)

    def _build(self, host: Host, request: BuildPayload) -> None:
        host.building = request
        if host.pool or (self._changes and named_after(self.committee.sets, request.height, request.path) != b""):
            self._built(host, request)
            return
        life = host.life

        def deadline() -> None:
            if host.life == life and host.building is request:
                self._built(host, request)

        self.at(self._world_time(host, request.deadline_ns), deadline)

    def _built(self, host: Host, request: BuildPayload) -> None:
        host.building = None
        body = b""
        if host.pool:
            on_path = {payload_in(body) for _, body in request.path}
            body = next((waiting for waiting in host.pool if waiting not in on_path), b"")
        named = named_after(self.committee.sets, request.height, request.path) if self._changes else b""
        if self._finality and host.offered and named is not None:
            carried = {link.link for _, body in request.path for link in links_in(body)}
            links = [link for link in host.offered if link.link not in carried and link.target.height < request.height]
            body = body_of(body, links)
        if named is None:
            body = b""
        clock_ms = self.committee.spec.genesis_time_ms + max(self.date(host), 0) // MILLISECOND
        built = PayloadBuilt(
            view=request.view,
            parent=request.parent,
            payload_root=payload_root(body),
            body=body,
            timestamp_ms=max(request.parent_timestamp_ms + 1, clock_ms),
            next_validators_hash=named or b"",
        )
        self.soon(host, built, 1000)

    def _check(self, host: Host, request: CheckPayload) -> PayloadVerdict | None:
        """A block from the future is held until it is not; a body must be the one that its header names."""
        header = request.block.header
        reason = "" if payload_root(request.body) == header.payload_root else NOT_THE_BODY
        if self._changes or self._finality:
            check = None if host.replica is None else host.replica.check_link
            reason = fault_in(request, named_after(self.committee.sets, header.height, request.path), check)
        verdict = PayloadVerdict(
            block_id=request.block.id,
            certified=request.certified,
            valid=not reason,
            reason=reason,
        )
        if not request.certified:
            early_ns = (header.timestamp_ms - self._lead_ms) * MILLISECOND - self.date(host)
            if early_ns > 0:
                self.soon(host, verdict, early_ns)
                return None
        if host.slow_ns:
            self.soon(host, verdict, host.slow_ns)
            return None
        return verdict

    def _commit(self, host: Host, commit: Commit) -> None:
        block = commit.block
        for watcher in self.watchers:
            watcher.committed(host, commit)
        height = block.header.height
        if height == len(host.ledger) + 1:
            host.ledger.append(block.id)
        host.height = max(host.height, height)
        self._trace += block.id
        if host.pool and commit.body:
            body = payload_in(commit.body)
            if body in host.pool:
                host.pool.remove(body)
        if host.honest and height > self.top_height:
            for new in range(self.top_height + 1, height + 1):
                for action in self.on_height.pop(new, ()):
                    self.at(self.now, action)
            self.top_height = height
        if self.schedule.stop.height:
            self.check_finished()
