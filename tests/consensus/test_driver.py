"""The driver on trio: persist before sign before send, one sync for many steps, failures that stop the node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from consensus.driver import Driver, TrioClock
from consensus.engine import (
    NOTHING,
    Broadcast,
    BuildPayload,
    CheckPayload,
    Commit,
    EndEpoch,
    EpochReady,
    Event,
    Finalize,
    LoadBlocks,
    OfferLinks,
    PayloadBuilt,
    PayloadVerdict,
    Received,
    Record,
    Recovered,
    ReportEvidence,
    SafetyRecord,
    SetTimer,
    Step,
    TimerFired,
)
from consensus.genesis import Pacing
from consensus.ports import Connected, Disconnected, Frame, LoadedBlocks
from consensus.protocols.registry import protocol_named
from consensus.replica import Replica
from consensus.signing import SigningDomain
from consensus.types import PeerId, RangeRequest, Subject
from consensus.validators import ValidatorSet
from tests.support.cluster import MemoryJournal, root_of
from tests.support.committee import Committee, committee
from tests.support.hosts import keys
from tests.support.memory_transport import MemoryTransport, memory_network

MILLISECOND = 1_000_000


@dataclass
class Log:
    """What one node did, in order."""

    lines: list[str] = field(default_factory=list)


@dataclass
class Ports:
    """Every port of a driver over memory; each writes what it does into the log."""

    members: Committee
    index: int
    log: Log
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    pool: list[bytes] = field(default_factory=list)
    committed: list[bytes] = field(default_factory=list)
    progress: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    fail_append: bool = False
    appends: int = 0
    sets: dict[int, ValidatorSet] = field(default_factory=dict)
    """The next validators, by the height of the block that names them."""

    async def append(self, records: Sequence[Record]) -> None:
        await trio.sleep(0.001)
        if self.fail_append:
            raise OSError("the disk is full")
        self.appends += 1
        self.journal.append(records)
        self.log.lines.append("persist " + ",".join(type(record).__name__ for record in records))

    async def recover(self, ledger_height: int) -> Recovered:
        return self.journal.recover(ledger_height)

    async def load(self, request: LoadBlocks) -> LoadedBlocks:
        loaded = self.journal.load(request)
        return LoadedBlocks(
            blocks=loaded.blocks, proof=loaded.proof, pruned_below=loaded.pruned_below, head=loaded.head
        )

    async def sign(self, subject: Subject, public_key: bytes, domain: SigningDomain) -> bytes:
        self.log.lines.append(f"sign {subject.kind}")
        return keys(self.members.scheme, self.index)[public_key].sign(domain.bytes_to_sign(subject))

    async def end_epoch(self, request: EndEpoch) -> EpochReady:
        self.log.lines.append("end epoch")
        while self.committed[-1:] != [request.boundary.id]:
            await self.progress.park()
        validators = self.sets[request.boundary.header.height]
        return EpochReady(boundary=request.boundary.id, validators=validators)

    def offer(self, request: OfferLinks) -> None:
        raise AssertionError("no checkpoints here")

    async def build(self, request: BuildPayload) -> PayloadBuilt:
        now = TrioClock().now()
        is_closing = any(block.header.next_validators_hash for block, _ in request.path)
        if not self.pool and not is_closing:
            await trio.sleep(max(0, request.deadline_ns - now) / 1e9)
        on_path = {bytes(body) for _, body in request.path}
        body = next((body for body in self.pool if body not in on_path and not is_closing), b"")
        named = None if is_closing else self.sets.get(request.height)
        return PayloadBuilt(
            view=request.view,
            parent=request.parent,
            payload_root=root_of(body),
            body=body,
            timestamp_ms=max(request.parent_timestamp_ms + 1, TrioClock().now() // 1_000_000),
            next_validators_hash=b"" if named is None else named.hash,
        )

    async def check(self, request: CheckPayload) -> PayloadVerdict:
        await trio.lowlevel.checkpoint()
        valid = root_of(bytes(request.body)) == request.block.header.payload_root
        return PayloadVerdict(block_id=request.block.id, certified=request.certified, valid=valid)

    async def commit(self, commits: Sequence[Commit]) -> None:
        await trio.lowlevel.checkpoint()
        for commit in commits:
            self.committed.append(commit.block.id)
            if bytes(commit.body) in self.pool:
                self.pool.remove(bytes(commit.body))
        self.progress.unpark_all()

    async def finalize(self, final: Finalize) -> None:
        raise AssertionError("no checkpoints here")

    async def report(self, evidence: ReportEvidence) -> None:
        raise AssertionError(f"nobody equivocates here: {evidence}")


class ListeningTransport:
    """A memory transport whose sends are logged."""

    def __init__(self, inner: MemoryTransport, log: Log) -> None:
        self._inner = inner
        self._log = log
        self.rejects: list[tuple[PeerId, str]] = []

    def broadcast(self, frame: bytes, *, bulk: bool) -> None:
        self._log.lines.append(f"send {'bulk' if bulk else 'control'}")
        self._inner.broadcast(frame, bulk=bulk)

    def send(self, peer: PeerId, frame: bytes, *, bulk: bool) -> None:
        self._inner.send(peer, frame, bulk=bulk)

    async def receive(self) -> Connected | Disconnected | Frame:
        return await self._inner.receive()

    def reject(self, peer: PeerId, reason: str) -> None:
        self.rejects.append((peer, reason))


@dataclass
class Cluster:
    ports: list[Ports]
    drivers: list[Driver]
    transports: list[ListeningTransport]

    async def reached(self, height: int, count: int = 4) -> None:
        for ports in self.ports[:count]:
            while len(ports.committed) < height:
                await ports.progress.park()


def cluster(protocol: str = "jolteon") -> Cluster:
    members = committee(4, protocol=protocol, pacing=Pacing(view_timeout_ms=400, idle_interval_ms=100))
    network = memory_network(4, peers=[members.peer(index) for index in range(4)])
    definition = protocol_named(protocol)
    made = Cluster([], [], [])
    for index in range(4):
        log = Log()
        ports = Ports(members, index, log)
        transport = ListeningTransport(network.transports[index], log)
        made.ports.append(ports)
        made.transports.append(transport)
        made.drivers.append(
            Driver(
                replica=members.replica(definition.engine, index),
                protocol=definition,
                journal=ports,
                archive=ports,
                transport=transport,
                signer=ports,
                payloads=ports,
                sink=ports,
                clock=TrioClock(),
            )
        )
    return made


@pytest.mark.parametrize("protocol", ["jolteon", "hotstuff"])
async def test_four_drivers_decide(protocol: str, autojump_clock: MockClock) -> None:
    made = cluster(protocol)
    for ports in made.ports:
        ports.pool = [b"payload %d" % number for number in range(5)]
    async with trio.open_nursery() as nursery:
        for driver in made.drivers:
            await nursery.start(partial(driver.run, ledger_height=0))
        with trio.fail_after(10):
            await made.reached(12)
        nursery.cancel_scope.cancel()
    shortest = min(len(ports.committed) for ports in made.ports)
    assert len({tuple(ports.committed[:shortest]) for ports in made.ports}) == 1
    assert all(not transport.rejects for transport in made.transports)
    assert all(driver.status().timeouts == 0 for driver in made.drivers)


async def test_persist_then_sign_then_send(autojump_clock: MockClock) -> None:
    """In every node's own log no signature comes before the record of its slot, no message before its signature."""
    made = cluster()
    async with trio.open_nursery() as nursery:
        for driver in made.drivers:
            await nursery.start(partial(driver.run, ledger_height=0))
        with trio.fail_after(10):
            await made.reached(8)
        nursery.cancel_scope.cancel()
    for ports in made.ports:
        recorded = signed = sent = 0
        for line in ports.log.lines:
            recorded += line.count("SafetyRecord")
            signed += line.startswith("sign ")
            sent += line.startswith("send ")
            assert recorded >= signed >= sent, ports.log.lines
        assert sent > 5


async def test_steps_that_wait_share_one_sync() -> None:
    """Two steps drained together: one append with the records of both, then the effects of both, in order."""
    made = cluster()
    ports, driver = made.ports[0], made.drivers[0]
    steps = [
        Step(
            (SafetyRecord(kind=kind, subject=b"", state=b""),),
            (Broadcast(RangeRequest(epoch=0, request_id=1, from_height=1)),),
        )
        for kind in ("proposal", "vote")
    ]
    await driver._perform(steps)
    assert ports.log.lines == ["persist SafetyRecord,SafetyRecord", "send control", "send control"]
    assert list(ports.journal.safety) == ["proposal", "vote"]


class Timed:
    """A replica that sets one timer for 10 ms, answers messages with ``steps``, and keeps when the timer fired."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.fired_ms: list[int] = []

    def start(self, recovered: Recovered, now: int) -> Step:
        return Step((), (SetTimer("view", 10 * MILLISECOND),))

    def handle(self, event: Event, now: int) -> Step:
        if isinstance(event, TimerFired):
            self.fired_ms.append(now // MILLISECOND)
        return self.steps.pop(0) if isinstance(event, Received) else NOTHING


RECORD = SafetyRecord(kind="vote", subject=b"", state=b"")
SET_ANEW = SetTimer("view", 100 * MILLISECOND)


@pytest.mark.parametrize(
    "steps",
    [
        (Step((RECORD,), (SET_ANEW,)),),
        (Step((RECORD,), ()), Step((), (SET_ANEW,))),
        (Step((RECORD,), (SET_ANEW,)),) * 3,
    ],
    ids=["its own records being synced", "another's records being synced", "often"],
)
async def test_a_timer_that_is_set_anew_while_it_rings_does_not_fire(
    steps: tuple[Step, ...], autojump_clock: MockClock
) -> None:
    """A certificate leads into the next view as the last one's timer rings: the next view is not given up by it."""
    made = cluster()
    timed, driver = Timed(*steps), made.drivers[0]
    driver._replica = cast("Replica", timed)
    message = RangeRequest(epoch=0, request_id=1, from_height=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(driver.run, ledger_height=0))
        await trio.sleep(0.0095)  # the journal takes 1 ms
        for _ in steps:
            made.transports[1].broadcast(protocol_named("jolteon").wire().encode(message), bulk=False)
            await trio.sleep(0.0001)
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    assert timed.fired_ms == [100]


async def test_a_failing_journal_stops_the_node_before_it_sends(autojump_clock: MockClock) -> None:
    made = cluster()
    made.ports[0].fail_append = True  # leads view 1: its first record is its proposal
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="disk is full"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            for driver in made.drivers:
                await nursery.start(partial(driver.run, ledger_height=0))
            await trio.sleep(5)
    assert not [line for line in made.ports[0].log.lines if line.startswith(("send", "sign"))]


async def test_a_driver_resumes_from_its_journal(autojump_clock: MockClock) -> None:
    made = cluster()
    async with trio.open_nursery() as nursery:
        for driver in made.drivers:
            await nursery.start(partial(driver.run, ledger_height=0))
        with trio.fail_after(10):
            await made.reached(5)
        nursery.cancel_scope.cancel()
    again = cluster()
    for old, new in zip(made.ports, again.ports, strict=True):
        new.journal, new.committed = old.journal, list(old.committed)
    async with trio.open_nursery() as nursery:
        for driver, ports in zip(again.drivers, again.ports, strict=True):
            await nursery.start(partial(driver.run, ledger_height=len(ports.committed)))
        with trio.fail_after(10):
            await again.reached(12)
        nursery.cancel_scope.cancel()
    shortest = min(len(ports.committed) for ports in again.ports)
    assert len({tuple(ports.committed[:shortest]) for ports in again.ports}) == 1


async def test_a_peers_nonsense_is_its_own_fault(autojump_clock: MockClock) -> None:
    made = cluster()
    members = made.ports[0].members
    async with trio.open_nursery() as nursery:
        for driver in made.drivers[:3]:
            await nursery.start(partial(driver.run, ledger_height=0))
        for garbage in (b"", b"\x01\xc1", b"\x01" + b"\x91" * 5000, b"\x07hello"):
            made.transports[3].broadcast(garbage, bulk=False)
        with trio.fail_after(20):
            await made.reached(4, count=3)
        nursery.cancel_scope.cancel()
    for transport in made.transports[:3]:
        assert len(transport.rejects) == 4
        assert {peer for peer, _ in transport.rejects} == {members.peer(3)}
