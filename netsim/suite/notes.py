"""What a check writes down of a run: a watcher, a recorder and an oracle in one, that judges nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from consensus.codec import digest
from consensus.engine import Commit, Event, Finalize, Record, Recovered, ReportEvidence, SafetyRecord
from consensus.types import BlockId, View
from netsim.oracles.judge import Judge
from netsim.reading import header_in
from netsim.world import Host, World

MESSAGES_KEPT: Final = 40
"""Of each type, the first of a run: more show nothing new."""


class Notes:
    """One run. Times are virtual nanoseconds."""

    id = "NOTES"

    def __init__(self, at_end: Callable[[World], None] | None = None) -> None:
        self.world: World
        self.judge: Judge
        self._at_end = at_end
        self.copies = 0
        """Messages sent, each recipient counted."""
        self.messages: dict[type[msgspec.Struct], list[msgspec.Struct]] = {}
        self.proposed_ns: dict[BlockId, int] = {}
        """When the first message with the block's header was sent."""
        self.commits: dict[int, list[tuple[int, int, Commit]]] = {}
        """By height: when, at which node, what. Emitted again after a restart, it stands here again."""
        self.commit_turns: dict[int, int] = {}
        """By height: turns between a block's own and that of the node that committed it last."""
        self.copies_at: dict[int, int] = {}
        """Copies sent when the first node committed a height."""
        self.writes: list[tuple[int, int]] = []
        """When and where records were stored."""
        self.safety: list[SafetyRecord] = []
        self.evidence: list[tuple[int, ReportEvidence]] = []
        """Of honest nodes: (node, evidence)."""

    # --- an oracle ----------------------------------------------------------------------------------------------

    def attach(self, judge: Judge) -> None:
        self.judge, self.world = judge, judge.world
        judge.on_end.append(self._end)

    def _end(self) -> None:
        if self._at_end is not None:
            self._at_end(self.world)

    # --- a watcher ----------------------------------------------------------------------------------------------

    def started(self, host: Host, recovered: Recovered) -> None:
        pass

    def sent(self, host: Host, message: msgspec.Struct) -> None:
        if not host.honest:
            return
        header = header_in(message)
        if header is not None:
            self.proposed_ns.setdefault(digest(header), self.world.now)
        known = self.messages.setdefault(type(message), [])
        if len(known) < MESSAGES_KEPT:
            known.append(message)

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        self.writes.append((self.world.now, host.position))
        if len(self.safety) < MESSAGES_KEPT:
            self.safety += [record for record in records if isinstance(record, SafetyRecord)]

    def committed(self, host: Host, commit: Commit) -> None:
        if not host.honest or host.replica is None:
            return
        height, turn = commit.block.header.height, self.world.definition.turn
        self.commits.setdefault(height, []).append((self.world.now, host.position, commit))
        self.copies_at.setdefault(height, self.copies)
        turns = turn(host.replica.status().view) - turn(commit.block.header.view)
        self.commit_turns[height] = max(self.commit_turns.get(height, 0), turns)

    def entered(self, host: Host, view: View) -> None:
        pass

    def fired(self, host: Host, name: str) -> None:
        pass

    def finalized(self, host: Host, effect: Finalize) -> None:
        pass

    def accused(self, host: Host, evidence: ReportEvidence) -> None:
        if host.honest:
            self.evidence.append((host.position, evidence))

    def broke(self, host: Host, event: Event, error: Exception) -> None:
        pass

    def died(self, host: Host) -> None:
        pass

    # --- a recorder ---------------------------------------------------------------------------------------------

    def sending(
        self, now: int, due_ns: int, sequence: int, source: Host, target: Host, message: msgspec.Struct
    ) -> None:
        self.copies += 1

    def lost(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        self.copies += 1

    def held(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None:
        pass

    def arrived(self, now: int, sequence: int) -> None:
        pass

    def handling(self, now: int, sequence: int, host: Host, event: Event) -> None:
        pass
