"""One replica: block sync and the protocol on one bounded worklist, one merged step per event.

What the protocol lacks is asked for here and comes back as an event of the same worklist, so that neither knows the
other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from consensus.block_sync import BlockSync
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    NOTHING,
    BlocksLoaded,
    Engine,
    EngineEvent,
    EpochReady,
    Event,
    FetchBlocks,
    PayloadBuilt,
    PayloadVerdict,
    PeerConnected,
    Received,
    Record,
    Recovered,
    Refusal,
    Signed,
    Status,
    Step,
    StepBuilder,
    TimerFired,
)
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND
from consensus.protocols.definition import EngineFactory
from consensus.types import (
    AncestorsRequest,
    AncestorsResponse,
    BlockHeader,
    CommitProof,
    Epoch,
    Height,
    Nanoseconds,
    RangeRequest,
    RangeResponse,
    ValidatorIndex,
)

WORKLIST_MAX: Final = 1000
SYNC_MESSAGES: Final = (AncestorsRequest, AncestorsResponse, RangeRequest, RangeResponse)
ANSWERS: Final = (Signed, PayloadVerdict, PayloadBuilt)
"""What ports answer to the protocol; block sync has no part in it."""
GRACE_DIVISOR: Final = 10
PATIENCE_DIVISOR: Final = 2


class Replica:
    """Feeds events to the parts that they concern."""

    def __init__(
        self, *, engine: EngineFactory, spec: ChainSpec, scheme: Scheme, epoch: EpochInfo, own_keys: Collection[bytes]
    ) -> None:
        """``engine`` makes the protocol's engine of an epoch. ``own_keys`` are the public keys that this node can sign
        with: in an epoch without any of them it observes."""
        keys = epoch.validators.public_keys
        self._epoch = epoch
        self._me = next((index for index, key in enumerate(keys) if key in own_keys), None)
        made: Engine = engine(spec=spec, epoch=epoch, scheme=scheme, me=self._me)
        self._engine = made
        self._out = StepBuilder()
        view_timeout_ns = spec.pacing.view_timeout_ms * NANOSECONDS_PER_MILLISECOND
        self._sync = BlockSync(
            epoch=epoch.epoch,
            out=self._out,
            lookup=made.block,
            verify_commit=made.verify_commit,
            committed_height=lambda: made.status().committed_height,
            grace_ns=view_timeout_ns // GRACE_DIVISOR,
            patience_ns=view_timeout_ns // PATIENCE_DIVISOR,
        )

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        """Resume from what the journal holds."""
        self._merge(self._engine.start(recovered, now), now)
        return self._out.finish()

    def handle(self, event: Event, now: Nanoseconds) -> Step:
        """Everything that one event causes, in one step."""
        if isinstance(event, EpochReady):
            raise RuntimeError("no epoch ended")
        if type(event.message) not in SYNC_MESSAGES if isinstance(event, Received) else type(event) in ANSWERS:
            step = self._engine.handle(event, now)
            if step is NOTHING:
                return step
            for effect in step.effects:
                if type(effect) is FetchBlocks:
                    self._merge(step, now)
                    return self._out.finish()
            return step  # the protocol's alone, as almost always
        worklist: deque[EngineEvent] = deque((event,))
        for _ in range(WORKLIST_MAX):
            if not worklist:
                return self._out.finish()
            self._route(worklist.popleft(), worklist, now)
        raise RuntimeError("one event caused more work than can be")

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """The protocol's check of a commit proof."""
        return self._engine.verify_commit(proof, header, epoch)

    def status(self) -> Status:
        """Where the protocol stands."""
        return self._engine.status()

    @property
    def epoch(self) -> EpochInfo:
        """The current epoch."""
        return self._epoch

    @property
    def me(self) -> ValidatorIndex | None:
        """This node's index in the current epoch; None where it observes."""
        return self._me

    @property
    def pruned_below(self) -> Height | None:
        """Set when this node needs blocks that every peer has pruned: it must start from a newer copy."""
        return self._sync.pruned_below

    def _route(self, event: EngineEvent, worklist: deque[EngineEvent], now: Nanoseconds) -> None:
        if isinstance(event, Received) and isinstance(event.message, SYNC_MESSAGES):
            fetched = self._sync.received(event.peer, event.message, now)
            if fetched is not None:
                worklist.append(fetched)
            return
        if isinstance(event, BlocksLoaded):
            self._sync.loaded(event)
            return
        if isinstance(event, TimerFired) and self._sync.timer_fired(event.name, now):
            return
        if isinstance(event, PeerConnected):
            self._sync.connected(event.peer)
        self._merge(self._engine.handle(event, now), now)

    def _merge(self, step: Step, now: Nanoseconds) -> None:
        records: tuple[Record, ...] = step.records
        self._out.records += records
        for effect in step.effects:
            if isinstance(effect, FetchBlocks):
                self._sync.fetch(effect, now)
            else:
                self._out.effects.append(effect)
