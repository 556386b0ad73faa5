"""Faults that wait for something to happen (``Timed.on``): one watcher of the run knows what each of them waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from consensus.engine import Commit, EpochRecord, Event, Finalize, Record, Recovered, ReportEvidence
from consensus.types import View, epoch_of
from netsim.numbering import numbered, split
from netsim.reading import names_of, view_of
from netsim.schedule import Begins, Commits, Enters, Sends, Trigger
from netsim.world import Host, World

Action = Callable[[], None]


class Triggers:
    """A :class:`~netsim.world.Watcher`. Each action runs once, as the next thing that happens at that moment."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds = [kind.name for kind in world.definition.votes if kind.blocks]
        self._waiting: list[tuple[Trigger, Action]] = []

    def add(self, trigger: Trigger, action: Action) -> None:
        """Run ``action`` when that happens."""
        self._waiting.append((trigger, action))

    def _fire(self, happens: Callable[[Trigger], bool]) -> None:
        left: list[tuple[Trigger, Action]] = []
        for trigger, action in self._waiting:
            if happens(trigger):
                self._world.at(self._world.now, action)
            else:
                left.append((trigger, action))
        self._waiting = left

    # --- what happens -------------------------------------------------------------------------------------------

    def committed(self, host: Host, commit: Commit) -> None:
        height = commit.block.header.height
        self._fire(lambda each: isinstance(each, Commits) and each.height <= height and _is_he(each.node, host))

    def entered(self, host: Host, view: View) -> None:
        self._fire(
            lambda each: (
                isinstance(each, Enters)
                and numbered(each.epoch, each.view) <= view
                and split(view)[0] == each.epoch
                and _is_he(each.node, host)
            )
        )

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        for record in records:
            if type(record) is EpochRecord:
                self._begun(host, record.change.epoch)

    def _begun(self, host: Host, epoch: int) -> None:
        self._fire(lambda each: isinstance(each, Begins) and each.epoch <= epoch and _is_he(each.node, host))

    def sent(self, host: Host, message: msgspec.Struct) -> None:
        left: list[tuple[Trigger, Action]] = []
        for trigger, action in self._waiting:
            if not isinstance(trigger, Sends) or not self._is_said(trigger, host, message):
                left.append((trigger, action))
            elif trigger.nth > 1:
                left.append((msgspec.structs.replace(trigger, nth=trigger.nth - 1), action))
            else:
                self._world.at(self._world.now, action)
        self._waiting = left

    def _is_said(self, trigger: Sends, host: Host, message: msgspec.Struct) -> bool:
        if trigger.node is not None and trigger.node != host.position:
            return False
        epoch = epoch_of(message)
        if trigger.epoch is not None and trigger.epoch != epoch:
            return False
        if trigger.view is not None and self._world.turns.of(epoch, view_of(message)) != numbered(epoch, trigger.view):
            return False
        return trigger.message in ("", *names_of(message, self._kinds))

    # --- what nothing waits for ---------------------------------------------------------------------------------

    def started(self, host: Host, recovered: Recovered) -> None:
        pass

    def fired(self, host: Host, name: str) -> None:
        pass

    def accused(self, host: Host, evidence: ReportEvidence) -> None:
        pass

    def finalized(self, host: Host, effect: Finalize) -> None:
        pass

    def broke(self, host: Host, event: Event, error: Exception) -> None:
        pass

    def died(self, host: Host) -> None:
        pass


def _is_he(node: int | None, host: Host) -> bool:
    return host.honest if node is None else node == host.position
