"""A recording of one run: what reports and exports are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from consensus.engine import Commit, Event, Record, Recovered, ReportEvidence, TimerFired
from consensus.types import View
from netsim.network import view_of
from netsim.world import Host

MESSAGES_MAX: Final = 200_000
"""A recording stops taking messages here: nobody looks at more."""


@dataclass(slots=True)
class Message:
    """One copy of a message from one node to another. ``received_ns`` is None for one that never arrived."""

    kind: str
    view: int
    source: int
    target: int
    sent_ns: int
    received_ns: int | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at one node: ``view``, ``commit``, ``timer``, ``crash``, ``start``, ``evidence``,
    ``broke``."""

    kind: str
    at_ns: int
    node: int
    text: str
    height: int = 0
    block: str = ""


@dataclass(slots=True)
class Recording:
    """A recorder and a watcher at once."""

    messages: list[Message] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    proposed_ns: dict[str, int] = field(default_factory=dict)
    """When each block was first sent, by id in hex."""
    _sent: dict[int, Message] = field(default_factory=dict)
    _now: int = 0

    def sending(self, now: int, sequence: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        self._now = now
        if len(self.messages) < MESSAGES_MAX:
            sent = Message(type(message).__name__, view_of(message), source.position, target.position, now)
            self.messages.append(sent)
            self._sent[sequence] = sent

    def lost(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        self._now = now
        if len(self.messages) < MESSAGES_MAX:
            lost = Message(type(message).__name__, view_of(message), source.position, target.position, now, lost=True)
            self.messages.append(lost)

    def arrived(self, now: int, sequence: int) -> None:
        sent = self._sent.pop(sequence, None)
        if sent is not None:
            sent.received_ns = now

    def handling(self, now: int, sequence: int, host: Host, event: Event) -> None:
        self._now = now
        if isinstance(event, TimerFired) and not event.name.startswith("sync:"):
            self._mark("timer", host, event.name)

    def _mark(self, kind: str, host: Host, text: str, height: int = 0, block: str = "") -> None:
        self.marks.append(Mark(kind, self._now, host.position, text, height, block))

    def started(self, host: Host, recovered: Recovered) -> None:
        if host.life:
            self._mark("start", host, f"node {host.position} restarts")

    def sent(self, host: Host, message: msgspec.Struct) -> None:
        return

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        return

    def committed(self, host: Host, commit: Commit) -> None:
        header = commit.block.header
        text = f"height {header.height}, block {commit.block.id.hex()[:8]} of view {header.view}"
        self._mark("commit", host, text, header.height, commit.block.id.hex())

    def entered(self, host: Host, view: View) -> None:
        self._mark("view", host, str(view))

    def fired(self, host: Host, name: str) -> None:
        return

    def accused(self, host: Host, evidence: ReportEvidence) -> None:
        self._mark("evidence", host, f"two {type(evidence.first).__name__}s of one signer")

    def broke(self, host: Host, event: Event, error: Exception) -> None:
        self._mark("broke", host, f"{type(error).__name__}: {error}")

    def died(self, host: Host) -> None:
        self._mark("crash", host, f"node {host.position} dies")
