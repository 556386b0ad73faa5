"""A record of one run: every message with its fate, what happened at each node, every block, and when each fault held.

A :class:`Tape` listens through the public hooks (recorder, watcher and oracle at once). It draws nothing and schedules
nothing, so that a recorded run has the trace hash of the same run without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec

from consensus.engine import Commit, EpochRecord, Event, Finalize, Record, Recovered, ReportEvidence, TimerFired
from consensus.protocols.definition import ProtocolDefinition
from consensus.replica import Replica
from consensus.types import View
from netsim.actors.registry import COPIED
from netsim.committee import ReplicaFactory
from netsim.numbering import SPAN, name_of, split
from netsim.oracles.judge import CertifiedFact, Judge
from netsim.reading import view_of
from netsim.schedule import Drop, Schedule, ViewPartition
from netsim.show.spans import Span, spans_of
from netsim.simulation import Keep, Result, run_schedule
from netsim.validation import positions
from netsim.world import Host, World

HAPPENINGS_MAX: Final = 400_000
"""Kept of one run; the oldest go first: what went wrong is at the end."""

Fate: TypeAlias = Literal["arrived", "lost", "kept", "down", "on its way"]
Doing: TypeAlias = Literal["view", "commit", "epoch", "final", "timer", "crash", "restart", "evidence", "exception"]


@dataclass(slots=True, kw_only=True)
class Message:
    """One copy of a message from one position to another; times are virtual nanoseconds.

    ``left_ns`` is later than ``sent_ns`` when a hold kept it; ``kept``: to the end. ``due_ns`` is when it arrives or
    would have; None for a lost or a kept one. ``down``: nobody was there to hear it. ``about`` names the block, for
    people."""

    number: int
    kind: str
    view: View
    about: str
    source: int
    target: int
    sent_ns: int
    left_ns: int
    due_ns: int | None
    fate: Fate
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A node sends a message, to one or to many."""

    at_ns: int
    node: int
    copies: list[Message]
    kind: str
    view: View
    about: str
    proposes: str
    """The id of the block whose header it carries, else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A message arrives at a node."""

    at_ns: int
    node: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at a node by itself. ``view`` and ``height`` are 0 and ``block`` is empty where they mean
    nothing."""

    at_ns: int
    node: int
    doing: Doing
    text: str
    view: View = 0
    height: int = 0
    block: str = ""


Happening: TypeAlias = Sent | Heard | Mark


@dataclass(slots=True, kw_only=True)
class BlockSeen:
    """A block that somebody proposed. ``certified_ns`` is when a quorum's votes were first on the wire."""

    id: str
    parent: str
    height: int
    view: View
    justify_view: View
    proposers: list[int]
    first_sent_ns: int
    certified_ns: int | None = None
    committed: dict[int, int]
    """When each position committed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One position of the run. ``role`` is empty for an honest validator without trouble."""

    position: int
    role: str
    honest: bool

    @property
    def name(self) -> str:
        return f"node {self.position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run and everything that was seen of it. ``happenings`` are in an order that cause and effect agree with;
    ``forgotten`` counts those that did not fit. ``genesis`` is the id of the block before the first."""

    result: Result
    nodes: tuple[Node, ...]
    happenings: tuple[Happening, ...]
    messages: tuple[Message, ...]
    blocks: dict[str, BlockSeen]
    spans: tuple[Span, ...]
    genesis: str
    forgotten: int

    def marks(self, doing: Doing) -> list[Mark]:
        """What happened of one kind, in order."""
        return [happening for happening in self.happenings if isinstance(happening, Mark) and happening.doing == doing]

    def conflicts(self) -> dict[int, tuple[str, ...]]:
        """Heights at which honest nodes committed different blocks, with these blocks in the order of commit."""
        found: dict[int, dict[str, None]] = {}
        for mark in self.marks("commit"):
            if self.nodes[mark.node].honest:
                found.setdefault(mark.height, {})[mark.block] = None
        return {height: tuple(blocks) for height, blocks in found.items() if len(blocks) > 1}

    def against_commits(self) -> frozenset[str]:
        """Blocks that a quorum voted for although an honest node commits another at the height of theirs or of one of
        their ancestors. Suspicious after a violation; without one, votes of earlier views may explain them."""
        committed: dict[int, frozenset[str]] = {}
        for mark in self.marks("commit"):
            if self.nodes[mark.node].honest:
                committed[mark.height] = committed.get(mark.height, frozenset()) | {mark.block}
        found: set[str] = set()
        for block in self.blocks.values():
            if block.certified_ns is None:
                continue
            at: BlockSeen | None = block
            while at is not None:
                rivals = [self.blocks[rival] for rival in committed.get(at.height, ()) if rival in self.blocks]
                if any(rival.id != at.id and rival.view < block.view for rival in rivals):
                    found.add(block.id)
                    break
                at = self.blocks.get(at.parent)
        return frozenset(found)


class Tape:
    """Recorder, watcher and oracle at once: give it to a run as both ``recorder`` and one of ``oracles``."""

    id = "tape"

    def __init__(self) -> None:
        self.happenings: deque[Happening] = deque(maxlen=HAPPENINGS_MAX)
        self.happened = 0
        self.blocks: dict[str, BlockSeen] = {}
        self.views_began: dict[View, int] = {}
        self.heights_began: dict[int, int] = {}
        self._flying: dict[int, Message] = {}
        self._kept: dict[tuple[int, int, int], list[Message]] = {}
        """Copies that a hold keeps, by sender, recipient and message: first in, first out."""
        self._said: dict[tuple[int, int], tuple[msgspec.Struct, Sent]] = {}
        self._top_view: View = 0
        self._top_height = 0
        self._numbers = 0

    def attach(self, judge: Judge) -> None:
        """Listen to a run that is about to begin."""
        self.judge = judge
        self.world: World = judge.world
        self.world.watchers.append(self)
        judge.on_certified.append(self._certified)

    def _add(self, happening: Happening) -> None:
        self.happened += 1
        self.happenings.append(happening)

    def _mark(self, host: Host, doing: Doing, text: str, view: View = 0, height: int = 0, block: str = "") -> None:
        mark = Mark(
            at_ns=self.world.now, node=host.position, doing=doing, text=text, view=view, height=height, block=block
        )
        self._add(mark)

    # --- messages -----------------------------------------------------------------------------------------------

    def sent(self, host: Host, message: msgspec.Struct) -> None:
        about, proposes = self._about(host, message)
        sent = Sent(
            at_ns=self.world.now,
            node=host.position,
            copies=[],
            kind=type(message).__name__,
            view=view_of(message),
            about=about,
            proposes=proposes,
        )
        # The message is kept, so that its id names nothing else while it stands here.
        self._said[host.position, id(message)] = (message, sent)
        self._add(sent)

    def _about(self, host: Host, message: msgspec.Struct) -> tuple[str, str]:
        header = getattr(message, "header", None)
        if header is None:
            block_id = getattr(message, "block_id", None)
            return (block_id.hex()[:6] if isinstance(block_id, bytes) else ""), ""
        block_id = self.judge.learn(header)
        name = block_id.hex()
        seen = self.blocks.get(name)
        if seen is None:
            seen = self.blocks[name] = BlockSeen(
                id=name,
                parent=header.parent.hex(),
                height=header.height,
                view=header.view,
                justify_view=header.justify.view,
                proposers=[],
                first_sent_ns=self.world.now,
                committed={},
            )
        if host.position not in seen.proposers:
            seen.proposers.append(host.position)
        return name[:6], name

    def _copy(self, now: int, source: Host, target: Host, message: msgspec.Struct, due_ns: int | None) -> Message:
        _, sent = self._said[source.position, id(message)]
        kept = self._kept.get((source.position, target.position, id(message)))
        if kept:
            released = kept.pop(0)
            released.left_ns, released.due_ns = now, due_ns
            released.fate = "lost" if due_ns is None else "on its way"
            return released
        copy = Message(
            number=self._numbers,
            kind=sent.kind,
            view=sent.view,
            about=sent.about,
            source=source.position,
            target=target.position,
            sent_ns=sent.at_ns,
            left_ns=now,
            due_ns=due_ns,
            fate="lost" if due_ns is None else "on its way",
        )
        self._numbers += 1
        sent.copies.append(copy)
        return copy

    def sending(
        self, now: int, due_ns: int, sequence: int, source: Host, target: Host, message: msgspec.Struct
    ) -> None:
        self._flying[sequence] = self._copy(now, source, target, message, due_ns)

    def held(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        copy = self._copy(now, source, target, message, None)
        copy.fate = "kept"
        self._kept.setdefault((source.position, target.position, id(message)), []).append(copy)

    def lost(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        copy = self._copy(now, source, target, message, None)
        for fault in self.world.schedule.faults:
            if isinstance(fault, Drop):
                between = copy.view == fault.view and copy.source == fault.source and copy.target in fault.to
                if between and fault.message in ("", copy.kind):
                    copy.why = "dropped by the schedule"
            elif isinstance(fault, ViewPartition) and fault.view == copy.view:
                copy.why = f"partition of view {fault.view}"

    def arrived(self, now: int, sequence: int) -> None:
        message = self._flying.pop(sequence)
        message.fate = "arrived"
        self._add(Heard(at_ns=now, node=message.target, message=message))

    def handling(self, now: int, sequence: int, host: Host, event: Event) -> None:
        if isinstance(event, TimerFired):
            self._mark(host, "timer", event.name, view=split(host.view)[1])

    # --- nodes --------------------------------------------------------------------------------------------------

    def started(self, host: Host, recovered: Recovered) -> None:
        if host.life:
            self._mark(host, "restart", f"restarts with height {recovered.committed_height}", view=split(host.view)[1])

    def died(self, host: Host) -> None:
        self._mark(host, "crash", f"dies in {name_of(host.view)}", view=split(host.view)[1])

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, EpochRecord):
                change = record.change
                text = f"begins epoch {change.epoch} with {len(change.validators)} validators"
                self._mark(host, "epoch", text, height=change.boundary.height)

    def committed(self, host: Host, commit: Commit) -> None:
        header = commit.block.header
        name = commit.block.id.hex()
        text = f"commits {name[:6]} of view {header.view} at height {header.height}"
        self._mark(host, "commit", text, header.view, header.height, name)
        if name in self.blocks:
            self.blocks[name].committed.setdefault(host.position, self.world.now)
        if host.honest:
            for height in range(self._top_height + 1, header.height + 1):
                self.heights_began[height] = self.world.now
            self._top_height = max(self._top_height, header.height)

    def entered(self, host: Host, view: View) -> None:
        self._mark(host, "view", f"enters {name_of(view)}", view=split(view)[1])
        if host.honest:
            first = max(self._top_view, view // SPAN * SPAN) + 1
            for begun in range(first, view + 1):
                self.views_began[begun] = self.world.now
            self._top_view = max(self._top_view, view)

    def fired(self, host: Host, name: str) -> None:
        pass

    def finalized(self, host: Host, effect: Finalize) -> None:
        checkpoint = effect.checkpoint
        text = f"height {checkpoint.height} is final"
        self._mark(host, "final", text, height=checkpoint.height, block=checkpoint.id.hex())

    def accused(self, host: Host, evidence: ReportEvidence) -> None:
        self._mark(
            host, "evidence", "shows evidence of two subjects under one signature slot", view=split(host.view)[1]
        )

    def broke(self, host: Host, event: Event, error: Exception) -> None:
        self._mark(host, "exception", f"{type(error).__name__}: {error}", view=split(host.view)[1])

    def _certified(self, fact: CertifiedFact) -> None:
        seen = self.blocks.get(fact.block_id.hex())
        if seen is not None and seen.certified_ns is None:
            seen.certified_ns = self.world.now

    # --- the end ------------------------------------------------------------------------------------------------

    def cut(self, result: Result) -> Recorded:
        """What was recorded, once the run is over."""
        for message in self._flying.values():
            if message.due_ns is not None and message.due_ns < self.world.now:
                message.fate, message.why = "down", "nobody was there to hear it"
        happenings = tuple(self.happenings)
        messages = tuple(copy for each in happenings if isinstance(each, Sent) for copy in each.copies)
        spans = spans_of(result.schedule, self.views_began, self.heights_began, self.world.now, self.world.began)
        for message in messages:
            if message.fate == "lost" and not message.why:
                holding = [span for span in spans if span.stops(message.source, message.target, message.left_ns)]
                message.why = holding[0].kind if holding else "lost by the link"
        return Recorded(
            result=result,
            nodes=_nodes(result.schedule, self.world.hosts),
            happenings=happenings,
            messages=messages,
            blocks=self.blocks,
            spans=spans,
            genesis=self.judge.genesis_id.hex(),
            forgotten=self.happened - len(self.happenings),
        )


def _nodes(schedule: Schedule, hosts: Sequence[Host]) -> tuple[Node, ...]:
    kinds = {actor.node: actor.kind for actor in schedule.actors}
    roles = {node: "" if kind == "honest" else kind for node, kind in kinds.items()}
    copied = [actor.node for actor in schedule.actors if actor.kind == COPIED]
    for number, node in enumerate(copied):
        roles[schedule.nodes + number] = f"second {COPIED} of {node}"
    for position in range(schedule.nodes + len(copied), positions(schedule)):
        roles[position] = "observer"
    return tuple(Node(position=host.position, role=roles.get(host.position, ""), honest=host.honest) for host in hosts)


def record(
    schedule: Schedule,
    *,
    definition: ProtocolDefinition | None = None,
    keep: Keep | None = None,
    make_replica: ReplicaFactory = Replica,
) -> Recorded:
    """Run a schedule and write down what happens. Arguments and errors are those of :func:`run_schedule`."""
    tape = Tape()
    result = run_schedule(
        schedule, definition=definition, keep=keep, make_replica=make_replica, recorder=tape, oracles=(tape,)
    )
    return tape.cut(result)
