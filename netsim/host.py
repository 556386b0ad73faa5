"""One process of a run, what listens to it, and who may play it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from consensus.crypto.scheme import SecretKey
from consensus.engine import (
    BuildPayload,
    Commit,
    Event,
    Finalize,
    Received,
    Record,
    Recovered,
    Reject,
    ReportEvidence,
)
from consensus.finality.types import LinkCertificate
from consensus.replica import Replica
from consensus.types import BlockId, PeerId, ValidatorIndex, View
from netsim.journal import Journal
from netsim.schedule import Clock

if TYPE_CHECKING:
    from netsim.world import World


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """An oracle fired."""

    oracle: str
    at_ns: int
    node: int
    text: str


class Watcher(Protocol):
    """What the world tells of while it runs. The judge is one, the recorder of reports another."""

    def started(self, host: Host, recovered: Recovered) -> None: ...
    def sent(self, host: Host, message: msgspec.Struct) -> None: ...
    def stored(self, host: Host, records: Sequence[Record]) -> None: ...
    def committed(self, host: Host, commit: Commit) -> None: ...
    def entered(self, host: Host, view: View) -> None: ...
    def fired(self, host: Host, name: str) -> None: ...
    def accused(self, host: Host, evidence: ReportEvidence) -> None: ...
    def finalized(self, host: Host, effect: Finalize) -> None: ...
    def broke(self, host: Host, event: Event, error: Exception) -> None: ...
    def died(self, host: Host) -> None: ...


class Recorder(Protocol):
    """Sees every message and event, for reports and exports."""

    def sending(
        self, now: int, due_ns: int, sequence: int, source: Host, target: Host, message: msgspec.Struct
    ) -> None:
        """A message leaves, to arrive at ``due_ns`` as the event ``sequence``."""
        ...

    def lost(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None: ...
    def held(self, now: int, source: Host, target: Host, message: msgspec.Struct) -> None: ...
    def arrived(self, now: int, sequence: int) -> None: ...
    def handling(self, now: int, sequence: int, host: Host, event: Event) -> None: ...


class Player(Protocol):
    """Plays a host: rewrites what its core sends and hears, or acts from outside without a core."""

    has_core: bool

    def attach(self, world: World, host: Host) -> None: ...

    def outgoing(
        self, host: Host, targets: Sequence[Host], message: msgspec.Struct
    ) -> Sequence[tuple[Host, msgspec.Struct, int]]:
        """What is really sent: (to, message, extra delay in ns)."""
        ...

    def incoming(self, host: Host, event: Received) -> Received | None: ...


class Host:
    """One process: its replica dies with a crash, its journal and ledger do not. A twin shares another's identity:
    ``node`` is the position of the first copy. ``index`` is its seat in the first epoch."""

    __slots__ = (
        "armed", "building", "clock", "evidence", "final", "height", "honest", "index", "journal", "keys", "ledger",
        "life", "node", "offered", "others", "peer", "player", "pool", "position", "rejects", "replica", "slow_ns",
        "timers", "timers_fired", "view",
    )  # fmt: skip

    def __init__(self, position: int, index: ValidatorIndex | None, peer: PeerId, journal: Journal) -> None:
        self.position = position
        self.node = position
        self.keys: dict[bytes, SecretKey] = {}
        self.offered: tuple[LinkCertificate, ...] = ()
        """Link certificates for the next block that it builds."""
        self.index = index
        self.peer = peer
        self.journal = journal
        self.ledger: list[BlockId] = []
        self.final = 0
        """The highest height that it knows to be final."""
        self.height = 0
        self.replica: Replica | None = None
        self.life = 0
        self.timers: dict[str, int] = {}
        self.pool: list[bytes] = []
        self.building: BuildPayload | None = None
        self.rejects: list[Reject] = []
        self.evidence: list[ReportEvidence] = []
        self.timers_fired = 0
        self.view: View = 0
        """The highest turn (``ProtocolDefinition.turn``) of a view that it entered, numbered over all epochs."""
        self.honest = True
        self.player: Player | None = None
        self.others: tuple[Host, ...] = ()
        self.clock: Clock | None = None
        self.slow_ns = 0
        self.armed: list[tuple[str, int, int | None]] = []
        """Crash boundaries to come: (boundary, crossings left, restart after ns)."""
