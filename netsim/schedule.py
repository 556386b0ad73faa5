"""The explicit schedule: everything that one run does, as data. Written as JSON by machines, read back by ``replay``.

Nodes are named by *position*: the first validators ``0..nodes-1`` by their index, then the second copies of twins in
the order of ``actors``, then observers, whom a later epoch may make validators. Views are those of the first epoch
unless an ``epoch`` says otherwise: they begin at 1 in each. Times are milliseconds of virtual time from the start
unless a name says otherwise; a schedule draws nothing but link delays and losses, each from its own stream of ``seed``.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

NODES_MAX: Final = 1024
PAYLOAD_BYTES_MAX: Final = 2 * 1024 * 1024
"""As much as a simulated chain's blocks carry."""
HONEST_KINDS: Final = ("honest", "slow")
"""Actors whose signatures and logs are judged like anybody's. Every other kind is faulty."""
Position: TypeAlias = Annotated[int, Meta(ge=0, lt=4 * NODES_MAX)]
Probability: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Milliseconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Offset: TypeAlias = Annotated[float, Meta(ge=-1e9, le=1e9)]
WholeMilliseconds: TypeAlias = Annotated[int, Meta(ge=1, le=10**9)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=10**6)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=10**6)]
Seed: TypeAlias = Annotated[int, Meta(ge=-(2**62), le=2**62)]
ViewNumber: TypeAlias = Annotated[int, Meta(ge=1, le=2**40)]
HeightNumber: TypeAlias = Annotated[int, Meta(ge=1, le=2**40)]
EPOCHS_MAX: Final = 64
EpochNumber: TypeAlias = Annotated[int, Meta(ge=0, le=EPOCHS_MAX)]
NAME_MAX: Final = 200
Name: TypeAlias = Annotated[str, Meta(max_length=NAME_MAX)]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every part of a schedule shares: frozen, by name only, unknown names refused, defaults left out."""


# --- links -------------------------------------------------------------------------------------------------------


class Constant(Part, frozen=True, kw_only=True, tag="constant", tag_field="kind"):
    """Always the same delay."""

    ms: Milliseconds


class Uniform(Part, frozen=True, kw_only=True, tag="uniform", tag_field="kind"):
    """Anything between the two, alike."""

    low_ms: Milliseconds
    high_ms: Milliseconds


class Normal(Part, frozen=True, kw_only=True, tag="normal", tag_field="kind"):
    """A Gauss curve, cut at ``least_ms``."""

    mean_ms: Milliseconds
    deviation_ms: Milliseconds
    least_ms: Milliseconds = 0.01


class Exponential(Part, frozen=True, kw_only=True, tag="exponential", tag_field="kind"):
    """``least_ms`` and an exponential tail of mean ``mean_ms`` on top."""

    mean_ms: Milliseconds
    least_ms: Milliseconds = 0.01


class Empirical(Part, frozen=True, kw_only=True, tag="empirical", tag_field="kind"):
    """Drawn from a table of measured delays, each row alike."""

    table_ms: Annotated[tuple[Milliseconds, ...], Meta(min_length=1, max_length=100_000)]


Latency: TypeAlias = Constant | Uniform | Normal | Exponential | Empirical


class Link(Part, frozen=True, kw_only=True):
    """One direction. A reordered message waits ``reorder_ms`` longer, so that later ones pass it."""

    latency: Latency = Uniform(low_ms=1, high_ms=5)
    jitter_ms: Milliseconds = 0
    loss: Probability = 0
    duplication: Probability = 0
    reorder: Probability = 0
    reorder_ms: Milliseconds = 20


class LinkOverride(Part, frozen=True, kw_only=True):
    """The link from one node to another, where it differs."""

    source: Position
    target: Position
    link: Link


class Clock(Part, frozen=True, kw_only=True):
    """One node's clock: what it shows at time 0, and how much faster it runs, a tenth of the rate to ten times. With
    ``timers_only`` the drift is that of its timers; what it writes into blocks is kept right, as by NTP."""

    node: Position
    offset_ms: Offset = 0
    drift_ppm: Annotated[int, Meta(ge=-900_000, le=9_000_000)] = 0
    timers_only: bool = False


# --- actors ------------------------------------------------------------------------------------------------------


class Propose(Part, frozen=True, kw_only=True, tag="propose", tag_field="move"):
    """A puppet leads ``view``: a block on the certificate of rank ``parent`` (0: the highest that fits), to
    ``to`` only. ``proof`` chooses among the timeouts seen: the ``honest`` quorum with the highest certificates, the
    ``lowest`` quorum, a ``forged`` maximum, or ``none`` at all. Played when ``begins`` begins, else ``view`` itself."""

    view: ViewNumber
    parent: Number = 0
    variant: Number = 0
    proof: Literal["honest", "lowest", "forged", "none"] = "honest"
    begins: ViewNumber | None = None
    to: tuple[Position, ...] = ()
    after_ms: Milliseconds = 0
    epoch: EpochNumber = 0


class CastVote(Part, frozen=True, kw_only=True, tag="vote", tag_field="move"):
    """A puppet votes for the ``choice``-th block that anybody proposed in ``view``, ``times`` times. ``kind`` numbers
    the protocol's kinds of votes for blocks, in the order that it declares them; beyond them, nothing is cast."""

    view: ViewNumber
    kind: Number = 0
    choice: Number = 0
    times: Annotated[int, Meta(ge=1, le=100)] = 1
    to: tuple[Position, ...] = ()
    after_ms: Milliseconds = 0
    epoch: EpochNumber = 0


class GiveUp(Part, frozen=True, kw_only=True, tag="give-up", tag_field="move"):
    """A puppet times out ``view`` with the certificate of rank ``high`` as its highest."""

    view: ViewNumber
    high: Number = 0
    to: tuple[Position, ...] = ()
    after_ms: Milliseconds = 0
    epoch: EpochNumber = 0


class Announce(Part, frozen=True, kw_only=True, tag="announce", tag_field="move"):
    """A puppet shows the certificate of rank ``high`` that it can put together, and hides it from the others."""

    view: ViewNumber
    high: Number = 0
    to: tuple[Position, ...] = ()
    after_ms: Milliseconds = 0
    epoch: EpochNumber = 0


Move: TypeAlias = Propose | CastVote | GiveUp | Announce


class Actor(Part, frozen=True, kw_only=True):
    """Who plays a validator. ``kind`` names a registered actor (``netsim list``); ``moves`` are a puppet's,
    ``options`` the other kinds' numbers."""

    node: Position
    kind: Name
    options: dict[str, Offset] = {}
    moves: tuple[Move, ...] = ()


# --- faults ------------------------------------------------------------------------------------------------------


class Commits(Part, frozen=True, kw_only=True, tag="commits", tag_field="event"):
    """A node commits ``height``: node ``node``, or the first honest one."""

    height: HeightNumber
    node: Position | None = None


class Enters(Part, frozen=True, kw_only=True, tag="enters", tag_field="event"):
    """A node enters ``view`` of ``epoch``, or one above it: node ``node``, or the first honest one."""

    view: ViewNumber
    epoch: EpochNumber = 0
    node: Position | None = None


class Begins(Part, frozen=True, kw_only=True, tag="begins", tag_field="event"):
    """A node begins ``epoch``: node ``node``, or the first honest one."""

    epoch: Annotated[int, Meta(ge=1, le=EPOCHS_MAX)]
    node: Position | None = None


class Sends(Part, frozen=True, kw_only=True, tag="sends", tag_field="event"):
    """A node sends a message of type ``message`` (named as in ``Drop``) for the ``nth`` time, of ``view`` and ``epoch``
    where these are given: node ``node``, or any."""

    message: Name
    nth: Positive = 1
    view: ViewNumber | None = None
    epoch: EpochNumber | None = None
    node: Position | None = None


Trigger: TypeAlias = Commits | Enters | Begins | Sends
"""What a fault may wait for. It begins once, right after that."""


class Timed(Part, frozen=True, kw_only=True):
    """When something begins (exactly one of the first four) and how long it lasts: until healed, unless told."""

    at_ms: Milliseconds | None = None
    at_view: ViewNumber | None = None
    at_height: HeightNumber | None = None
    on: Trigger | None = None
    for_ms: Milliseconds | None = None


class Partition(Timed, frozen=True, kw_only=True, tag="partition", tag_field="kind"):
    """Only members of one group hear each other; a node in no group is alone. Replaces an earlier partition."""

    groups: tuple[tuple[Position, ...], ...]


class Cut(Timed, frozen=True, kw_only=True, tag="cut", tag_field="kind"):
    """Messages from the first to the second of each pair are lost. One way."""

    pairs: tuple[tuple[Position, Position], ...]


class Hold(Timed, frozen=True, kw_only=True, tag="hold", tag_field="kind"):
    """Messages of each pair are kept, and released together at the end."""

    pairs: tuple[tuple[Position, Position], ...]


class Clog(Timed, frozen=True, kw_only=True, tag="clog", tag_field="kind"):
    """Messages of each pair take ``extra_ms`` longer."""

    pairs: tuple[tuple[Position, Position], ...]
    extra_ms: Milliseconds


class Heal(Timed, frozen=True, kw_only=True, tag="heal", tag_field="kind"):
    """Every network fault ends, loss, duplication and reordering too; what was held is released. What was to begin at
    a later view or height, or at a crash boundary, does not."""


class Drop(Part, frozen=True, kw_only=True, tag="drop", tag_field="kind"):
    """Single messages: those of ``view`` and type ``message`` (any, when empty) from ``source`` to ``to``; of each
    direction the first ``times``, or all. A vote for no block goes as a ``Timeout``; ``Vote 0`` is a vote of the first
    kind that the protocol declares for blocks, ``Vote 1`` one of the second."""

    view: ViewNumber
    message: Name = ""
    source: Position
    to: tuple[Position, ...]
    times: Positive | None = None
    epoch: EpochNumber = 0


class ViewPartition(Part, frozen=True, kw_only=True, tag="view-partition", tag_field="kind"):
    """Messages of ``view`` pass inside a group only, whenever they are sent; groups may overlap (Twins)."""

    view: ViewNumber
    groups: tuple[tuple[Position, ...], ...]
    epoch: EpochNumber = 0


class Crash(Timed, frozen=True, kw_only=True, tag="crash", tag_field="kind"):
    """Nodes die as with kill -9, at a time or at the ``nth`` boundary that each crosses: ``before persist``,
    ``after sign``...; ``before epoch`` is between the commit that ends an epoch and the record that begins the next.
    They restart ``restart_ms`` later, or never."""

    nodes: tuple[Position, ...]
    boundary: Literal[
        "",
        "before persist",
        "after persist",
        "before sign",
        "after sign",
        "before send",
        "after send",
        "before epoch",
        "after epoch",
    ] = ""
    nth: Positive = 1
    restart_ms: Milliseconds | None = None


class Disk(Timed, frozen=True, kw_only=True, tag="disk", tag_field="kind"):
    """One node's disk: ``torn`` loses the write that a crash interrupts, ``lost-fsync`` forgets at the next crash
    what was written from now on, ``bit-rot`` and ``misdirected`` damage a stored record (found by its checksum at the
    next start), ``wrong-host`` gives it the journal of node ``other`` at the next start, ``slow`` delays every write,
    ``full`` refuses it."""

    node: Position
    fault: Literal["torn", "lost-fsync", "bit-rot", "misdirected", "wrong-host", "slow", "full"]
    slow_ms: Milliseconds = 0
    other: Position | None = None


class Prune(Timed, frozen=True, kw_only=True, tag="prune", tag_field="kind"):
    """From then on nodes keep the last ``keep`` committed blocks, and cannot show older ones."""

    nodes: tuple[Position, ...]
    keep: Positive


Fault: TypeAlias = Partition | Cut | Hold | Clog | Heal | Drop | ViewPartition | Crash | Disk | Prune


# --- epochs ------------------------------------------------------------------------------------------------------


class Member(Part, frozen=True, kw_only=True):
    """A validator of a later epoch: the node, its stake, and which of its keys it uses (another number than before is a
    rotation)."""

    node: Position
    stake: Positive = 1
    key: Annotated[int, Meta(ge=0, le=EPOCHS_MAX)] = 0


class NextEpoch(Part, frozen=True, kw_only=True):
    """The block at ``height`` ends an epoch and names the next ``validators``. ``leaders`` are the nodes that lead the
    first views of the next one; then all in turn."""

    height: HeightNumber
    validators: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=NODES_MAX)]
    leaders: tuple[Position, ...] = ()


# --- the whole ---------------------------------------------------------------------------------------------------


class Submit(Part, frozen=True, kw_only=True):
    """A payload given to nodes (to all, when empty)."""

    at_ms: Milliseconds
    payload: Annotated[str, Meta(min_length=1, max_length=PAYLOAD_BYTES_MAX)]
    to: tuple[Position, ...] = ()


class Times(Part, frozen=True, kw_only=True):
    """The chain's pacing (``consensus.genesis.Pacing``); defaults fit links of a few milliseconds."""

    view_timeout_ms: WholeMilliseconds = 100
    growth_numerator: Positive = 6
    growth_denominator: Positive = 5
    exponent_max: Annotated[int, Meta(ge=0, le=64)] = 16
    idle_interval_ms: WholeMilliseconds = 1


class Stop(Part, frozen=True, kw_only=True):
    """A run ends when every live honest validator of ``epoch`` is above its ``view`` and has committed ``height``, and
    at ``time_ms``."""

    view: Annotated[int, Meta(ge=0, le=2**40)] = 12
    epoch: EpochNumber = 0
    height: Annotated[int, Meta(ge=0, le=2**40)] = 0
    time_ms: Milliseconds = 60_000


class Liveness(Part, frozen=True, kw_only=True):
    """What must happen once the network is good for ``core`` (all honest nodes, when empty): from ``from_ms`` on a
    commit of each within the time of the views up to three honest leaders in a row and ``timeouts`` base view timeouts
    more; and payloads given to all within ``payload_ms`` of that."""

    from_ms: Milliseconds
    timeouts: Positive = 12
    payload_ms: Milliseconds = 10_000
    delay_ms: Milliseconds = 5
    core: tuple[Position, ...] = ()


class Milestone(Part, frozen=True, kw_only=True):
    """A scripted run's expectation: when the first honest node enters ``view``, the highest committed height lies
    between these."""

    view: ViewNumber
    height_min: Annotated[int, Meta(ge=0, le=2**40)] = 0
    height_max: Annotated[int, Meta(ge=0, le=2**53)] = 2**53


class Schedule(Part, frozen=True, kw_only=True):
    """One run. ``leaders`` names the leader of each view from 1 on, then in turn; ``regions`` sets the links from the
    geographic preset; ``bandwidth_mbit`` bounds each node's egress and ingress, shared fairly among its peers;
    ``epochs`` are those after the first; ``checkpoint_interval`` is that of finality in blocks, 0 for none;
    ``expect`` names the oracle that fired when the schedule was written, ``beyond_bounds`` allows more faulty stake
    than a protocol tolerates (a third or more)."""

    name: Name = ""
    seed: Seed = 0
    protocol: Name = "jolteon"
    scheme: Literal["simulated", "ed25519", "bls"] = "simulated"
    nodes: Annotated[int, Meta(ge=1, le=NODES_MAX)] = 4
    stakes: tuple[Positive, ...] = ()
    observers: Annotated[int, Meta(ge=0, le=NODES_MAX)] = 0
    leaders: tuple[Position, ...] = ()
    epochs: Annotated[tuple[NextEpoch, ...], Meta(max_length=EPOCHS_MAX)] = ()
    checkpoint_interval: Number = 0
    times: Times = Times()
    link: Link = Link()
    links: tuple[LinkOverride, ...] = ()
    regions: tuple[Name, ...] = ()
    bandwidth_mbit: Annotated[float, Meta(ge=0, le=1e9)] = 0
    clocks: tuple[Clock, ...] = ()
    actors: tuple[Actor, ...] = ()
    faults: tuple[Fault, ...] = ()
    workload: tuple[Submit, ...] = ()
    stop: Stop = Stop()
    liveness: Liveness | None = None
    milestones: tuple[Milestone, ...] = ()
    fault_free: bool = False
    oracles: tuple[Name, ...] = ()
    expect: Name = ""
    beyond_bounds: bool = False

    def to_json(self) -> bytes:
        """The explicit form, indented for people who compare two."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def replace(self, **changes: object) -> Schedule:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)


class BadSchedule(ValueError):
    """The input is not a schedule; the text names the file and the path of the bad key."""
