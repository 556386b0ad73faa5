"""The engines of one epoch, on virtual time and without replicas: what happens between epochs is no engine's matter.

The network delivers what it does not drop; the payload source ends the epoch at one height; whoever is past the
boundary answers with the blocks up to it and their proof, as a replica does. Everything is drawn from one seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count

import msgspec

from consensus.engine import (
    BlocksFetched,
    Broadcast,
    BuildPayload,
    CancelTimer,
    CheckPayload,
    Commit,
    Engine,
    EngineEvent,
    FetchBlocks,
    PayloadBuilt,
    PayloadVerdict,
    PeerConnected,
    Received,
    Recovered,
    Reject,
    ReportEvidence,
    Send,
    SetTimer,
    Sign,
    Signed,
    Step,
    TimerFired,
)
from consensus.types import Block, BlockId, CommitProof
from tests.support.cluster import MILLISECOND, SECOND, MemoryJournal, root_of
from tests.support.committee import Committee

NEXT = b"n" * 32
"""The hash of the next validators."""


class Node:
    """One validator: what survives a crash, and its engine."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.engine: Engine
        self.life = 0
        self.timers: dict[str, int] = {}
        self.commits: dict[int, Commit] = {}
        self.built: list[BuildPayload] = []
        self.blocks: dict[BlockId, tuple[Block, bytes]] = {}


class Engines:
    """``ends_at`` is the height of the boundary; ``dropped`` the share of messages that get lost."""

    def __init__(self, committee: Committee, *, ends_at: int, seed: int = 0, dropped: float = 0.0) -> None:
        self.committee = committee
        self.ends_at = ends_at
        self.dropped = dropped
        self.random = random.Random(seed)
        self.passes: Callable[[int, int, msgspec.Struct], bool] = lambda sender, receiver, message: True
        """What the network lets through besides."""
        self.now = 0
        self.events: list[tuple[int, int, int, int, EngineEvent]] = []
        self.order = count()
        self.nodes = [Node() for _ in committee.keys]
        for index in range(len(self.nodes)):
            self.start(index)

    def start(self, index: int) -> None:
        """A fresh engine from what the journal holds."""
        node, genesis = self.nodes[index], self.committee.epoch.genesis
        node.engine = self.committee.engine(index)
        node.life += 1
        node.timers.clear()
        recovered: Recovered = node.journal.recover(max(node.journal.commits, default=0))
        if not node.journal.commits:
            recovered = msgspec.structs.replace(
                recovered, committed_height=genesis.height, committed_id=genesis.block_id
            )
        self.perform(index, node.engine.start(recovered, self.now))
        for other in range(len(self.nodes)):
            if other != index:
                self.later(other, PeerConnected(self.committee.peer(index)))
                self.later(index, PeerConnected(self.committee.peer(other)))

    def is_over(self, index: int) -> bool:
        return self.ends_at in self.nodes[index].commits

    def later(self, index: int, event: EngineEvent, delay_ns: int = MILLISECOND) -> None:
        life = self.nodes[index].life
        heapq.heappush(self.events, (self.now + delay_ns, next(self.order), index, life, event))

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """Until every engine is over, or ``until`` says so, at most that long."""
        stop = until or (lambda: all(map(self.is_over, range(len(self.nodes)))))
        end_ns = self.now + int(seconds * SECOND)
        while self.events and self.events[0][0] <= end_ns and not stop():
            self.now, _, index, life, event = heapq.heappop(self.events)
            node = self.nodes[index]
            if isinstance(event, Received) and self.is_over(index):
                self.help(index, self.committee.epoch.validators.index_of(event.peer))
            elif life == node.life and not self.is_over(index) and self.is_due(node, event):
                self.perform(index, node.engine.handle(event, self.now))

    def is_due(self, node: Node, event: EngineEvent) -> bool:
        if isinstance(event, TimerFired):
            return node.timers.get(event.name) == self.now and node.timers.pop(event.name) > 0
        if isinstance(event, PayloadBuilt):
            return any((built.view, built.parent) == (event.view, event.parent) for built in node.built[-1:])
        return True

    def perform(self, index: int, step: Step) -> None:
        node = self.nodes[index]
        node.journal.append(step.records)
        for effect in step.effects:
            match effect:
                case Sign(subject):
                    self.later(index, Signed(subject, self.committee.sign(index, subject)), 0)
                case Broadcast(message):
                    for other in range(len(self.nodes)):
                        if other != index:
                            self.send(index, other, message)
                case Send(peer, message):
                    receiver = self.committee.epoch.validators.index_of(peer)
                    assert receiver is not None
                    self.send(index, receiver, message)
                case SetTimer(name, deadline_ns):
                    self.later(index, TimerFired(name), max(0, deadline_ns - self.now))
                    node.timers[name] = max(deadline_ns, self.now)
                case CancelTimer(name):
                    node.timers.pop(name, None)
                case BuildPayload():
                    self.build(index, effect)
                case CheckPayload():
                    node.blocks[effect.block.id] = (effect.block, bytes(effect.body))
                    self.later(index, self.judge(effect), 0)
                case FetchBlocks(block_id=block_id):
                    self.fetch(index, block_id)
                case Commit(block=block):
                    node.commits[block.header.height] = effect
                case Reject() | ReportEvidence():
                    raise AssertionError(f"nobody is at fault here: {effect}")
                case _:
                    raise AssertionError(f"an effect that no engine makes here: {effect}")

    def send(self, index: int, other: int, message: msgspec.Struct) -> None:
        if self.passes(index, other, message) and self.random.random() >= self.dropped:
            delay_ns = self.random.randrange(MILLISECOND, 20 * MILLISECOND)
            self.later(other, Received(self.committee.peer(index), message), delay_ns)

    def build(self, index: int, request: BuildPayload) -> None:
        """Empty at the deadline, with a payload at once every third height; the boundary at its height; a closing block
        at once."""
        self.nodes[index].built.append(request)
        closing = any(block.header.next_validators_hash for block, _ in request.path)
        body = b"body" if request.height % 3 == 0 and not closing else b""
        built = PayloadBuilt(
            view=request.view,
            parent=request.parent,
            payload_root=root_of(body),
            body=body,
            timestamp_ms=max(request.parent_timestamp_ms + 1, self.now // MILLISECOND),
            next_validators_hash=NEXT if request.height == self.ends_at else b"",
        )
        self.later(index, built, 0 if closing or body else max(0, request.deadline_ns - self.now))

    def judge(self, check: CheckPayload) -> PayloadVerdict:
        header = check.block.header
        valid = header.payload_root == root_of(bytes(check.body))
        if not check.certified:
            valid = valid and (header.next_validators_hash == NEXT) == (header.height == self.ends_at)
        return PayloadVerdict(block_id=check.block.id, certified=check.certified, valid=valid, reason="bad")

    def fetch(self, index: int, block_id: BlockId) -> None:
        """Somebody who holds the block gives it."""
        for other, node in enumerate(self.nodes):
            stored = node.journal.blocks.get(block_id) or node.engine.block(block_id)
            if other != index and stored is not None:
                block = Block(stored.header, block_id)
                fetched = BlocksFetched(peer=self.committee.peer(other), blocks=((block, stored.body),), proof=None)
                self.later(index, fetched, 30 * MILLISECOND)
                return

    def help(self, index: int, other: int | None) -> None:
        """A peer still speaks in an epoch that is over here."""
        if other is None or self.is_over(other):
            return
        commits, behind = self.nodes[index].commits, self.nodes[other].commits
        above = [commits[height] for height in sorted(commits) if height not in behind]
        proof = self.proof(index)
        fetched = BlocksFetched(
            peer=self.committee.peer(index),
            blocks=tuple((commit.block, memoryview(commit.body)) for commit in above),
            proof=proof,
        )
        self.later(other, fetched, 30 * MILLISECOND)

    def proof(self, index: int) -> CommitProof:
        """Of the boundary."""
        proof = self.nodes[index].commits[self.ends_at].proof
        assert proof is not None
        return proof
