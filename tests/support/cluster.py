"""Replicas in memory on a heap of virtual time: the pure core with simulated journals, signers, links and crashes.

Everything is drawn from one seed. The cluster judges as it runs, by its own books and never by the replicas' word:

* agreement: one block per height over all nodes and all restarts, heights without gaps, parents chained, each in the
  epoch that its height belongs to;
* no key signs two subjects of one kind in one slot, over all restarts, and none in an epoch that is over for its node;
* nothing is signed or sent before the records of its step are durable (a crash between them loses exactly what was
  not).

Epochs end where the cluster is told: ``sets`` has the next validators by the height of the boundary. Hosts beyond the
first committee are nodes like all others, which observe until a set names them.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from consensus.codec import Wire, block_of
from consensus.crypto.scheme import SecretKey
from consensus.engine import (
    BlockRecord,
    BlocksLoaded,
    Broadcast,
    BuildPayload,
    CancelTimer,
    CheckPayload,
    Commit,
    CommitRecord,
    Effect,
    EndEpoch,
    EpochReady,
    EpochRecord,
    Event,
    Finalize,
    LinkRecord,
    LoadBlocks,
    OfferLinks,
    PayloadBuilt,
    PayloadVerdict,
    PeerConnected,
    Received,
    Record,
    Recovered,
    Reject,
    ReportEvidence,
    SafetyRecord,
    Send,
    SetTimer,
    Sign,
    Signed,
    Step,
    TimerFired,
    TranscriptRecord,
)
from consensus.epochs import CLOSING_PAYLOAD_ROOT, EpochChange
from consensus.finality.types import FFG, LinkCertificate
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named
from consensus.replica import Replica
from consensus.types import (
    EMPTY_PAYLOAD_ROOT,
    SYNC_BLOCKS_MAX,
    AncestorsRequest,
    Block,
    BlockId,
    CommitProof,
    PeerId,
    StoredBlock,
    Subject,
)
from consensus.validators import ValidatorSet
from tests.support.committee import Committee
from tests.support.hosts import keys, peer

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


LINKS_PREFIX = b"\x00links"


class Crash(Exception):
    """Raised by a crash point: the node dies here."""


@dataclass(slots=True)
class MemoryJournal:
    """What survives a crash. ``keep`` may drop records, to show what goes wrong without them."""

    keep: Callable[[Record], bool] = lambda record: True
    safety: dict[str, SafetyRecord] = field(default_factory=dict)
    blocks: dict[BlockId, StoredBlock] = field(default_factory=dict)
    commits: dict[int, tuple[BlockId, CommitProof | None]] = field(default_factory=dict)
    epochs: list[EpochChange] = field(default_factory=list)
    transcript: dict[bytes, None] = field(default_factory=dict)
    links: dict[tuple[int, int], LinkCertificate] = field(default_factory=dict)

    def append(self, records: Sequence[Record]) -> None:
        for record in records:
            if not self.keep(record):
                continue
            match record:
                case SafetyRecord():
                    self.safety[record.kind] = record
                case BlockRecord(block, body):
                    self.blocks[block.id] = StoredBlock(header=block.header, body=memoryview(bytes(body)))
                case CommitRecord(height, block_id, proof):
                    self.commits[height] = (block_id, proof)
                case TranscriptRecord(proof):
                    self.transcript[proof] = None
                case LinkRecord(certificate):
                    ends = (certificate.target.height, certificate.source.height)
                    self.links.setdefault(ends, certificate)
                case EpochRecord(change):
                    self.epochs.append(change)
                    self.safety = {kind: kept for kind, kept in self.safety.items() if kind == FFG}

    def recover(self, ledger_height: int) -> Recovered:
        head = max(self.commits, default=0)
        committed_id, proof = self.commits.get(head, (None, None))
        blocks = tuple(
            stored
            for block_id, stored in self.blocks.items()
            if stored.header.height > head or block_id == committed_id
        )
        commits = tuple(
            (self.blocks[self.commits[height][0]], self.commits[height][1])
            for height in range(ledger_height + 1, head + 1)
        )
        return Recovered(
            safety=tuple(self.safety.values()),
            blocks=blocks,
            committed_height=head,
            committed_id=committed_id,
            head_proof=proof,
            commits=commits,
            epoch_change=self.epochs[-1] if self.epochs else None,
            epoch_changes_before=tuple(self.epochs[:-1]),
            links=tuple(self.links[ends] for ends in sorted(self.links)),
            transcript=tuple(self.transcript),
        )

    def load(self, event: LoadBlocks) -> BlocksLoaded:
        head = max(self.commits, default=0)
        blocks: list[StoredBlock] = []
        proof: CommitProof | None = None
        request = event.request
        if isinstance(request, AncestorsRequest):
            stored = self.blocks.get(request.block_id)
            while stored is not None and stored.header.height > request.above_height and len(blocks) < SYNC_BLOCKS_MAX:
                blocks.append(stored)
                stored = self.blocks.get(stored.header.parent)
        else:
            for height in range(request.from_height, min(head, request.from_height + SYNC_BLOCKS_MAX) + 1):
                block_id, at = self.commits[height]
                blocks.append(self.blocks[block_id])
                if at is not None:
                    proof, proved = at, len(blocks)
                if blocks[-1].header.next_validators_hash:
                    break
            if proof is not None:
                del blocks[proved:]
        return BlocksLoaded(
            peer=event.peer, request=request, blocks=tuple(blocks), proof=proof, pruned_below=1, head=head
        )


@dataclass(slots=True)
class Node:
    """One identity's process: its replica dies with a crash, its journal and ledger do not. ``twin`` shares an
    identity. ``index`` is the number of its host, which is its place among the first validators; None for an observer,
    which has no ``keys``."""

    name: str
    index: int | None
    peer: PeerId
    keys: Mapping[bytes, SecretKey]
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    ledger: list[BlockId] = field(default_factory=list)
    replica: Replica | None = None
    life: int = 0
    timers: dict[str, int] = field(default_factory=dict)
    pool: list[bytes] = field(default_factory=list)
    waiting_build: BuildPayload | None = None
    payloads_checked: int = 0
    rejects: list[Reject] = field(default_factory=list)
    evidence: list[ReportEvidence] = field(default_factory=list)
    offered: tuple[LinkCertificate, ...] = ()
    final: int = 0
    sent: int = 0
    timeouts_fired: int = 0


Route = Callable[[Node, Node, msgspec.Struct, int], Sequence[int]]
"""(from, to, message, now_ns) -> delays in ns, one per copy; empty for a lost message."""


class Cluster:
    """Nodes, links and time. ``byzantine`` names hosts whose signatures are not judged (twins). ``hosts`` counts those
    with keys, validators of the first epoch and others. With ``finality`` an idle block carries link certificates."""

    def __init__(
        self,
        committee: Committee,
        *,
        seed: int = 0,
        observers: int = 0,
        twins: Sequence[int] = (),
        hosts: int = 0,
        sets: Mapping[int, ValidatorSet] | None = None,
        through_codec: bool = False,
        finality: bool = False,
        delay_ns: tuple[int, int] = (1 * MILLISECOND, 5 * MILLISECOND),
    ) -> None:
        self.committee = committee
        self.finality = finality
        self.definition: ProtocolDefinition = protocol_named(committee.spec.protocol)
        self.wire: Wire | None = self.definition.wire() if through_codec else None
        self.random = random.Random(seed)
        self.now = 0
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.sequence = 0
        self.byzantine = frozenset(twins)
        self.sets = {} if sets is None else dict(sets)
        self.handover_ns = MILLISECOND
        """From the commit of a boundary to the answer of the payload source."""
        self.nodes = [self._host(f"v{number}", number) for number in range(max(hosts, len(committee.keys)))]
        self.nodes += [self._host(f"v{number}-twin", number) for number in twins]
        for number in range(observers):
            name = f"observer-{number}"
            self.nodes.append(Node(name, None, hashlib.sha256(name.encode()).digest(), {}))
        low, high = delay_ns
        self.route: Route = lambda source, target, message, now: (self.random.randint(low, high),)
        self.crash_point: Callable[[Node, str], None] = lambda node, where: None
        self.chain: dict[int, BlockId] = {}
        self.headers: dict[BlockId, tuple[BlockId, int]] = {}
        self.signed: dict[tuple[bytes, str, object], Subject] = {}
        self.committed_ns: dict[int, int] = {}
        """When the first node committed each height."""
        self.deliveries = 0

    def _host(self, name: str, number: int) -> Node:
        return Node(name, number, peer(number), keys(self.committee.scheme, number))

    # --- people's side ------------------------------------------------------------------------------------------

    def start(self, *nodes: Node) -> None:
        """Start nodes (all of them by default), new or after a crash, and connect them."""
        for node in nodes or self.nodes:
            self._start(node)
        for node in nodes or self.nodes:
            for other in self.nodes:
                if other is not node and other.replica is not None and node.replica is not None:
                    self._feed(node, PeerConnected(self.peer(other)))
                    self._feed(other, PeerConnected(self.peer(node)))

    def crash(self, node: Node) -> None:
        """kill -9."""
        node.replica = None
        node.life += 1
        node.timers.clear()
        node.waiting_build = None

    def submit(self, body: bytes, *nodes: Node) -> None:
        """Put a payload into the pools of nodes (all by default)."""
        for node in nodes or self.nodes:
            node.pool.append(body)
            if node.replica is not None and node.waiting_build is not None:
                self._built(node, node.waiting_build)

    def run(self, duration_ns: int, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as ``until`` holds."""
        end = self.now + duration_ns
        while self.heap and self.heap[0][0] <= end:
            if until is not None and until():
                return True
            self.now, _, action = heapq.heappop(self.heap)
            action()
        self.now = end
        return until is not None and until()

    def drained(self) -> bool:
        """True when every node has committed every payload that it was given."""
        return not any(node.pool for node in self.nodes)

    def reached(self, height: int) -> bool:
        """True when every node has committed up to ``height``."""
        return min(self.heights()) >= height

    def heights(self) -> list[int]:
        """The ledger heights of all nodes."""
        return [len(node.ledger) for node in self.nodes]

    def peer(self, node: Node) -> bytes:
        """The transport's name of a node. Twins share theirs."""
        return node.peer

    # --- the machinery ------------------------------------------------------------------------------------------

    def at(self, time_ns: int, action: Callable[[], None]) -> None:
        """Run ``action`` at a virtual time."""
        self.sequence += 1
        heapq.heappush(self.heap, (time_ns, self.sequence, action))

    def _start(self, node: Node) -> None:
        node.replica = Replica(
            engine=self.definition.engine,
            spec=self.committee.spec,
            scheme=self.committee.scheme,
            epoch=self.committee.epoch,
            own_keys=node.keys,
            link_certificates=links_in if self.finality else None,
            offences=self.definition,
        )
        recovered = node.journal.recover(len(node.ledger))
        try:
            self._perform(node, node.replica.start(recovered, self.now))
        except Crash:
            self.crash(node)

    def _feed(self, node: Node, event: Event) -> None:
        if node.replica is None:
            return
        self.deliveries += 1
        try:
            self._perform(node, node.replica.handle(event, self.now))
        except Crash:
            self.crash(node)

    def _perform(self, node: Node, step: Step) -> None:
        steps = deque((step,))
        while steps:
            records, effects = steps.popleft()
            if records:
                self.crash_point(node, "before persist")
                node.journal.append(records)
                self.crash_point(node, "after persist")
                if any(isinstance(record, EpochRecord) for record in records):
                    self.crash_point(node, "after persist EpochRecord")
            for effect in effects:
                self._effect(node, effect, steps)

    def _effect(self, node: Node, effect: Effect, steps: deque[Step]) -> None:
        match effect:
            case Sign(subject):
                self.crash_point(node, f"before sign {subject.kind}")
                signature = self._sign(node, subject)
                self.crash_point(node, f"after sign {subject.kind}")
                if node.replica is not None and signature is not None:
                    steps.append(node.replica.handle(Signed(subject, signature), self.now))
            case Broadcast(message):
                for other in self.nodes:
                    if self.peer(other) != self.peer(node):
                        self._transmit(node, other, message)
            case Send(peer, message):
                for other in self.nodes:
                    if self.peer(other) == peer:
                        self._transmit(node, other, message)
            case SetTimer(name, deadline_ns):
                self._set_timer(node, name, deadline_ns)
            case CancelTimer(name):
                node.timers.pop(name, None)
            case BuildPayload():
                self._build(node, effect)
            case CheckPayload():
                self._check(node, effect)
            case Commit():
                self._commit(node, effect)
            case EndEpoch():
                self._end_epoch(node, effect)
            case OfferLinks(certificates):
                node.offered = certificates
            case Finalize(checkpoint=checkpoint):
                assert node.ledger[checkpoint.height - 1] == checkpoint.id
                node.final = checkpoint.height
            case LoadBlocks():
                loaded = node.journal.load(effect)
                self._soon(node, loaded)
            case Reject():
                node.rejects.append(effect)
            case ReportEvidence():
                node.evidence.append(effect)
            case _:
                raise AssertionError(f"unexpected effect {effect}")

    def _sign(self, node: Node, subject: Subject) -> bytes | None:
        """As the driver does: what waited while its epoch ended is not signed."""
        replica = node.replica
        assert replica is not None
        signing = replica.signing(subject)
        if signing is None:
            return None
        public_key, domain = signing
        record = node.journal.safety.get(subject.kind)
        if node.index not in self.byzantine:
            key = (public_key, subject.kind, subject.slot)
            assert self.signed.setdefault(key, subject) == subject, f"{node.name} signs {subject.kind} twice"
            assert record is not None or node.journal.keep is not MemoryJournal().keep
        return node.keys[public_key].sign(domain.bytes_to_sign(subject))

    def _end_epoch(self, node: Node, request: EndEpoch) -> None:
        self.crash_point(node, "before end epoch")
        boundary = request.boundary
        node.waiting_build = None
        assert node.ledger[-1] == boundary.id, f"{node.name} ends an epoch before it is in the ledger"
        ready = EpochReady(boundary=boundary.id, validators=self.sets[boundary.header.height])
        self._soon(node, ready, self.handover_ns)

    def _transmit(self, node: Node, other: Node, message: msgspec.Struct) -> None:
        self.crash_point(node, f"before send {type(message).__name__}")
        node.sent += 1
        for delay_ns in self.route(node, other, message, self.now):
            life = other.life
            peer = self.peer(node)
            if self.wire is not None:
                decoded = self.wire.decode(self.wire.encode(message))
                assert decoded == message
                message = decoded

            def deliver(message: msgspec.Struct = message, life: int = life, peer: bytes = peer) -> None:
                if other.life == life:
                    self._feed(other, Received(peer, message))

            self.at(self.now + delay_ns, deliver)

    def _set_timer(self, node: Node, name: str, deadline_ns: int) -> None:
        node.timers[name] = deadline_ns
        life = node.life

        def fire() -> None:
            if node.life == life and node.timers.get(name) == deadline_ns:
                del node.timers[name]
                node.timeouts_fired += name == "view"
                self._feed(node, TimerFired(name))

        self.at(max(deadline_ns, self.now), fire)

    def _soon(self, node: Node, event: Event, delay_ns: int = 1000) -> None:
        life = node.life
        self.at(self.now + delay_ns, lambda: self._feed(node, event) if node.life == life else None)

    def _build(self, node: Node, request: BuildPayload) -> None:
        node.waiting_build = request
        if node.pool or self._named(request.height, request.path) != b"":
            self._built(node, request)
            return
        life = node.life

        def deadline() -> None:
            if node.life == life and node.waiting_build is request:
                self._built(node, request)

        self.at(max(request.deadline_ns, self.now), deadline)

    def _built(self, node: Node, request: BuildPayload) -> None:
        node.waiting_build = None
        on_path = {bytes(body) for _, body in request.path}
        body = next((body for body in node.pool if body not in on_path), b"")
        named = self._named(request.height, request.path)
        if not body and not any(block.header.payload_size for block, _ in request.path):
            body = links_body(node.offered)
        if named is None:
            body = b""
        built = PayloadBuilt(
            view=request.view,
            parent=request.parent,
            payload_root=root_of(body),
            body=body,
            timestamp_ms=max(request.parent_timestamp_ms + 1, self.now // MILLISECOND),
            next_validators_hash=named or b"",
        )
        self._soon(node, built)

    def _named(self, height: int, path: Sequence[tuple[Block, bytes | memoryview]]) -> bytes | None:
        """The hash that the block at this height must name, empty for none. None where the epoch's boundary is on its
        path: such a block is empty."""
        if any(block.header.next_validators_hash for block, _ in path):
            return None
        return self.sets[height].hash if height in self.sets else b""

    def _check(self, node: Node, request: CheckPayload) -> None:
        node.payloads_checked += 1
        header = request.block.header
        named = self._named(header.height, request.path)
        is_closing = header.payload_root == CLOSING_PAYLOAD_ROOT
        valid = not request.body if is_closing else root_of(bytes(request.body)) == header.payload_root
        if not request.certified:
            valid = valid and is_closing == (named is None) and header.next_validators_hash == (named or b"")
        verdict = PayloadVerdict(
            block_id=request.block.id, certified=request.certified, valid=valid, reason="" if valid else "root"
        )
        self._soon(node, verdict)

    def _commit(self, node: Node, commit: Commit) -> None:
        header, block_id = commit.block.header, commit.block.id
        if header.height <= len(node.ledger):
            assert node.ledger[header.height - 1] == block_id, f"{node.name} changes height {header.height}"
            return
        assert header.height == len(node.ledger) + 1, f"{node.name} skips to height {header.height}"
        parent = node.ledger[-1] if node.ledger else self.committee.epoch.genesis.block_id
        assert header.parent == parent, f"{node.name} commits a block that does not follow"
        agreed = self.chain.setdefault(header.height, block_id)
        assert agreed == block_id, f"{node.name} disagrees at height {header.height}"
        assert block_of(header).id == block_id
        assert header.epoch == sum(height < header.height for height in self.sets), f"height {header.height}"
        assert header.next_validators_hash == (self._named(header.height, ()) or b"")
        self.committed_ns.setdefault(header.height, self.now)
        node.ledger.append(block_id)
        body = bytes(commit.body)
        if body in node.pool:
            node.pool.remove(body)


def links_body(certificates: Sequence[LinkCertificate]) -> bytes:
    """A payload of link certificates alone; empty for none."""
    return LINKS_PREFIX + msgspec.msgpack.encode(certificates) if certificates else b""


def links_in(block: Block, body: bytes | memoryview) -> Sequence[LinkCertificate]:
    """The link certificates of a payload of this cluster."""
    data = bytes(body)
    if not data.startswith(LINKS_PREFIX):
        return ()
    return msgspec.msgpack.decode(data[len(LINKS_PREFIX) :], type=tuple[LinkCertificate, ...])


def root_of(body: bytes) -> bytes:
    """The payload root of this cluster's payloads."""
    return hashlib.sha256(body).digest() if body else EMPTY_PAYLOAD_ROOT
