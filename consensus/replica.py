"""One replica: block sync and the protocol on one bounded worklist, one merged step per event; and what happens between
two epochs.

What the protocol lacks is asked for here and comes back as an event of the same worklist, so that neither knows the
other.

An engine lives in one epoch::

    Commit(boundary)   it names the next validators: the engine is over, and is handed nothing more   -> EndEpoch
    EpochReady         EpochRecord, the old engine's timers cancelled, a new engine started on the boundary; then what
                       came for it too early, in the order of arrival. Who is not of the new set tells the others that
                         the epoch is over, once per view timeout, until the new one commits a block

Between the two there is no engine: peers are answered, and messages of the next epoch are kept. The new engine's first
records stand behind the ``EpochRecord`` in one step, so a crash finds either the old epoch with all that was signed in
it, and ends it again, or the new one.

With ``link_certificates`` and a checkpoint interval Casper FFG runs beside the engine (``finality/overlay.py``): it is
given each committed block in the step that commits it, its votes never reach an engine, nor does its record.

What peers sign in an epoch is watched for contradictions across its views (``offence_watch.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeAlias

import msgspec

from consensus.block_sync import TIMER_PREFIX, BlockSync
from consensus.codec import digest
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    NOTHING,
    BlocksFetched,
    BlocksLoaded,
    Broadcast,
    CancelTimer,
    Commit,
    EndEpoch,
    Engine,
    EpochReady,
    EpochRecord,
    Event,
    FetchBlocks,
    PayloadBuilt,
    PayloadVerdict,
    PeerConnected,
    PeerDisconnected,
    Received,
    Record,
    Recovered,
    Refusal,
    Reject,
    ReportEvidence,
    Send,
    SetTimer,
    Signed,
    Status,
    Step,
    StepBuilder,
    TimerFired,
)
from consensus.epoch_mail import EpochMail
from consensus.epochs import EpochChange, EpochInfo, epoch_after
from consensus.finality.chain_links import initial_state
from consensus.finality.overlay import Finality
from consensus.finality.types import EPOCHS_MAX, FFG, Checkpoint, FfgVote, FfgVoteSubject, LinkCertificate
from consensus.finality.weak_subjectivity import UntrustedChain
from consensus.genesis import ChainSpec
from consensus.offence_watch import OffenceWatch
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND
from consensus.protocols.definition import EngineFactory, ProtocolDefinition
from consensus.signing import SigningDomain
from consensus.types import (
    SYNC_MESSAGES,
    Block,
    BlockHeader,
    CommitProof,
    Epoch,
    EpochEnd,
    Height,
    Nanoseconds,
    Subject,
    ValidatorIndex,
    epoch_of,
)
from consensus.validators import ValidatorSet

LinkReader: TypeAlias = Callable[[Block, bytes | memoryview], Sequence[LinkCertificate]]
"""Reads the link certificates out of a committed block's body. The core does not know what a body is."""

WORKLIST_MAX: Final = 1000
PARTING: Final = (Broadcast, Send, Reject, ReportEvidence)
"""What an engine still does once it is over: what it said belongs to others."""
HANDOVER_TIMER: Final = f"{TIMER_PREFIX}handover"
GRACE_DIVISOR: Final = 10
PATIENCE_DIVISOR: Final = 2
_LOOKED_AT: Final = frozenset((SetTimer, FetchBlocks, Commit))
_NOT_THE_ENGINES: Final = frozenset((*SYNC_MESSAGES, FfgVote))


class Replica:
    """Feeds events to the parts that they concern."""

    def __init__(
        self,
        *,
        engine: EngineFactory,
        spec: ChainSpec,
        scheme: Scheme,
        epoch: EpochInfo,
        own_keys: Collection[bytes],
        link_certificates: LinkReader | None = None,
        trusted: Checkpoint | None = None,
        offences: ProtocolDefinition | None = None,
    ) -> None:
        """``engine`` makes the protocol's engine of an epoch. ``own_keys`` are the public keys that this node can sign
        with: in an epoch without any of them it observes. ``epoch`` is the chain's first; :meth:`start` goes on to the
        one that the journal names. Without ``link_certificates`` there is no finality, whatever the spec says.
        ``trusted`` is a block that the chain must hold: a peer that shows another one at its height is refused, and a
        commit of another one raises ``UntrustedChain``.
        ``offences`` is the protocol whose offences across views are looked for in what peers sign; None: none are."""
        self._trusted = trusted
        self._factory = engine
        self._spec = spec
        self._scheme = scheme
        self._own_keys = tuple(own_keys)
        self._offences = offences
        self._watch: OffenceWatch | None = None
        self._out = StepBuilder()
        view_timeout_ns = spec.pacing.view_timeout_ms * NANOSECONDS_PER_MILLISECOND
        self._sync = BlockSync(
            out=self._out,
            grace_ns=view_timeout_ns // GRACE_DIVISOR,
            patience_ns=view_timeout_ns // PATIENCE_DIVISOR,
        )
        self._mail = EpochMail(self._out, view_timeout_ns)
        self._view_timeout_ns = view_timeout_ns
        self._leaves = False
        """This node was of the epoch before, is not of this one, and has seen nothing committed in it."""
        self._timers: dict[str, None] = {}
        self._end: tuple[Block, CommitProof] | None = None
        self._live: Epoch | None = None
        """The epoch whose engine handles events; None between two."""
        self._link_certificates = link_certificates
        self._finality: Finality | None = None
        self._first = epoch
        self._enter(epoch)

    def _enter(self, epoch: EpochInfo) -> None:
        """Make the engine of an epoch. It holds nothing of this replica, and block sync nothing but the engine."""
        keys = epoch.validators.public_keys
        self._epoch = epoch
        self._me = next((index for index, key in enumerate(keys) if key in self._own_keys), None)
        made: Engine = self._factory(spec=self._spec, epoch=epoch, scheme=self._scheme, me=self._me)
        self._engine = made
        if self._offences is not None:
            self._watch = OffenceWatch(self._offences, epoch, self._scheme, made.block)
        self._live = epoch.epoch
        self._end = None
        self._sync.begin(
            epoch=epoch.epoch,
            lookup=made.block,
            verify_commit=made.verify_commit,
            committed_height=lambda: made.status().committed_height,
        )

    def start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        """Resume from what the journal holds. Raises ``ValueError`` when it contradicts itself."""
        resumed = self._resume_finality(recovered)
        step = self._start(_without_finality(recovered), now)
        if self._finality is None:
            return step
        # The blocks that a restart commits again were fed before; what the engine commits anew comes after them.
        return self._fed(Step(resumed.records + step.records, resumed.effects + step.effects))

    def _start(self, recovered: Recovered, now: Nanoseconds) -> Step:
        change = recovered.epoch_change
        if change is not None:
            self._mail.ended(EpochEnd(epoch=change.boundary.epoch, boundary=change.boundary, proof=change.proof))
            self._enter(epoch_after(self._spec, change.boundary, ValidatorSet(change.validators)))
        self._merge(self._engine.start(recovered, now), now)
        if self._live is not None:
            for stored in recovered.blocks:
                if _ends(stored.header, self._live) and digest(stored.header) == recovered.committed_id:
                    self._finish_epoch(Block(stored.header, recovered.committed_id), recovered.head_proof)
        return self._out.finish()

    def handle(self, event: Event, now: Nanoseconds) -> Step:
        """Everything that one event causes, in one step."""
        if self._finality is None and self._trusted is None:
            return self._handle(event, now)
        step = self._handle_beside(event, now)
        if self._trusted is not None:
            self._check_commits(step, self._trusted)
        return step

    def _handle_beside(self, event: Event, now: Nanoseconds) -> Step:
        finality = self._finality
        if finality is None:
            return self._handle(event, now)
        if isinstance(event, Received) and isinstance(event.message, FfgVote):
            return finality.handle(event)
        if isinstance(event, Signed) and isinstance(event.subject, FfgVoteSubject):
            return finality.handle(event)
        step = self._handle(event, now)
        if isinstance(event, EpochReady):
            entered = finality.enter(self._epoch)
            step = Step(step.records + entered.records, step.effects + entered.effects)
        elif isinstance(event, PeerConnected):
            step = Step(step.records, step.effects + finality.handle(event).effects)
        return self._fed(step)

    def _handle(self, event: Event, now: Nanoseconds) -> Step:
        if isinstance(event, Received):
            message = event.message
            if type(message) in _NOT_THE_ENGINES or epoch_of(message) != self._live:
                return self._handle_aside(event, now)
            report = None if self._watch is None else self._watch.heard(event.peer, message)
            if report is not None:
                self._merge(self._engine.handle(event, now), now)
                self._out.effects.append(report)
                return self._out.finish()
        elif isinstance(event, Signed):
            if event.subject.epoch != self._live:
                return NOTHING
        elif isinstance(event, (PayloadVerdict, PayloadBuilt)):  # no part of block sync's
            if self._live is None:
                return NOTHING
        else:
            return self._handle_all(event, now)
        step = self._engine.handle(event, now)  # the protocol's alone, as almost always
        if step is NOTHING:
            return step
        for effect in step.effects:
            if type(effect) not in _LOOKED_AT:
                continue
            if isinstance(effect, SetTimer):
                self._timers[effect.name] = None
            elif not isinstance(effect, Commit) or effect.block.header.next_validators_hash or self._sync.follows:
                self._merge(step, now)
                return self._out.finish()
        return step

    def _handle_aside(self, event: Received, now: Nanoseconds) -> Step:
        """A message that is not for the engine."""
        message = event.message
        if isinstance(message, FfgVote):
            self._out.reject(event.peer, "finality vote: this chain has no checkpoints")
        elif epoch_of(message) != self._live:
            self._on_other_epoch(event, now)
        else:
            return self._handle_all(event, now)
        return self._out.finish()

    def _handle_all(self, event: Event, now: Nanoseconds) -> Step:
        worklist: deque[Event] = deque((event,))
        for _ in range(WORKLIST_MAX):
            if not worklist:
                return self._out.finish()
            self._route(worklist.popleft(), worklist, now)
        raise RuntimeError("one event caused more work than can be")

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        """The protocol's check of a commit proof of the current epoch."""
        return self._engine.verify_commit(proof, header, epoch)

    def status(self) -> Status:
        """Where the protocol stands."""
        return self._engine.status()

    def signing(self, subject: Subject) -> tuple[bytes, SigningDomain] | None:
        """The own public key, and the domain, with which to sign ``subject``; None when its epoch is over. Raises
        ``RuntimeError`` in an epoch that this node only observes."""
        info: EpochInfo | None = self._epoch if subject.epoch == self._live else None
        if subject.kind == FFG and self._finality is not None:
            info = next((known for known in self._finality.epochs if known.epoch == subject.epoch), None)
        if info is None:
            return None
        key = next((key for key in info.validators.public_keys if key in self._own_keys), None)
        if key is None:
            raise RuntimeError("asked to sign in an epoch that this node only observes")
        return key, info.domain

    def check_link(self, certificate: LinkCertificate) -> Refusal | None:
        """None when a link certificate may stand in a block of the current epoch; the reason otherwise. For the judge
        of payloads: see :meth:`Finality.check`."""
        if self._finality is None:
            return Refusal("link certificate: this chain has no checkpoints")
        return self._finality.check(certificate)

    @property
    def finality(self) -> Finality | None:
        """What runs beside the engine; None on a chain without checkpoints."""
        return self._finality

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

    def _route(self, event: Event, worklist: deque[Event], now: Nanoseconds) -> None:
        match event:
            case EpochReady():
                self._begin_epoch(event, now)
                return
            case Received(peer=peer, message=message) if isinstance(message, SYNC_MESSAGES):
                fetched = self._sync.received(peer, message, now)
                if fetched is not None and not self._is_distrusted(fetched):
                    worklist.append(fetched)
                return
            case BlocksLoaded():
                self._sync.loaded(event)
                return
            case TimerFired(name):
                if name == HANDOVER_TIMER:
                    self._hand_over(now)
                    return
                if self._sync.timer_fired(name, now):
                    return
                self._timers.pop(name, None)
            case PeerDisconnected(peer):
                self._sync.disconnected(peer)
                return
            case PeerConnected(peer):
                self._sync.connected(peer)
            case _:
                pass
        if self._live is not None:
            self._merge(self._engine.handle(event, now), now)

    def _merge(self, step: Step, now: Nanoseconds) -> None:
        records: tuple[Record, ...] = step.records
        self._out.records += records
        committed = False
        for effect in step.effects:
            if self._live is None and not isinstance(effect, PARTING):
                if isinstance(effect, Commit):
                    raise RuntimeError(f"the engine commits height {effect.block.header.height} after its epoch ended")
                continue
            if isinstance(effect, FetchBlocks):
                self._sync.fetch(effect, now)
                continue
            self._out.effects.append(effect)
            if isinstance(effect, SetTimer):
                self._timers[effect.name] = None
            elif isinstance(effect, Commit):
                committed = True
                if self._live is not None and _ends(effect.block.header, self._live):
                    self._finish_epoch(effect.block, effect.proof)
        if committed:
            self._sync.go_on(now)

    # --- epochs -------------------------------------------------------------------------------------------------

    def _on_other_epoch(self, event: Received, now: Nanoseconds) -> None:
        """A message that no engine here waits for: of another epoch, or of ours when it is over."""
        message, epoch = event.message, epoch_of(event.message)
        if isinstance(message, SYNC_MESSAGES):
            self._sync.received(event.peer, message, now)
        elif epoch > self._epoch.epoch:
            if epoch == self._epoch.epoch + 1:
                self._mail.keep(event)
            self._sync.ahead(event.peer, epoch, now)
        else:
            self._mail.answer(event.peer, now)

    def _finish_epoch(self, boundary: Block, proof: CommitProof | None) -> None:
        """The epoch's last block is committed. Its proof is what the next epoch begins with."""
        if proof is None:
            raise RuntimeError(f"the boundary at height {boundary.header.height} was committed without its proof")
        self._end = (boundary, proof)
        self._live = None
        self._mail.ended(EpochEnd(epoch=self._epoch.epoch, boundary=boundary.header, proof=proof))
        self._sync.end()
        self._out.effects.append(EndEpoch(boundary))

    def _begin_epoch(self, ready: EpochReady, now: Nanoseconds) -> None:
        if self._end is None or self._end[0].id != ready.boundary:
            raise RuntimeError(f"no epoch ended with block {ready.boundary.hex()}")
        boundary, proof = self._end
        left = self._me is not None
        header, validators = boundary.header, ready.validators
        if validators.hash != header.next_validators_hash:
            raise RuntimeError(
                f"the boundary at height {header.height} names other validators than {validators.hash.hex()}"
            )
        change = EpochChange(boundary=header, validators=validators.validators, proof=proof)
        self._out.records.append(EpochRecord(change))
        self._out.effects += [CancelTimer(name) for name in self._timers]
        self._timers.clear()
        self._enter(epoch_after(self._spec, header, validators))
        self._merge(self._engine.start(Recovered(committed_height=header.height, committed_id=boundary.id), now), now)
        for received in self._mail.take():
            if self._live == change.epoch:
                self._merge(self._engine.handle(received, now), now)
        self._sync.go_on(now)
        self._leaves = left and self._me is None
        self._hand_over(now)

    def _hand_over(self, now: Nanoseconds) -> None:
        """Who is of the next epoch no more has nothing of its own to say in it. Nobody of those who follow may have
        heard that it begins: they are told, again and again, until it commits something."""
        if self._live is None or not self._leaves:
            return
        if self._engine.status().committed_height > self._epoch.genesis.height:
            self._leaves = False
            return
        if self._mail.end is not None:
            self._out.effects.append(Broadcast(self._mail.end))
        self._out.effects.append(SetTimer(HANDOVER_TIMER, now + self._view_timeout_ns))

    # --- trust ---------------------------------------------------------------------------------------------------

    def _is_distrusted(self, fetched: BlocksFetched) -> bool:
        """True when a peer's blocks contradict the trusted checkpoint. It is named."""
        trusted = self._trusted
        if trusted is None:
            return False
        for block, _ in fetched.blocks:
            if block.header.height == trusted.height and block.id != trusted.id:
                shown, expected = block.id.hex(), trusted.id.hex()
                reason = f"sync: at height {trusted.height} it has {shown}, the trusted checkpoint is {expected}"
                self._out.reject(fetched.peer, reason)
                return True
        return False

    def _check_commits(self, step: Step, trusted: Checkpoint) -> None:
        for effect in step.effects:
            if not isinstance(effect, Commit) or effect.block.header.height != trusted.height:
                continue
            if effect.block.id != trusted.id:
                raise UntrustedChain(
                    f"the validators that this node can reach committed {effect.block.id.hex()} at height "
                    f"{trusted.height}, where the trusted checkpoint is {trusted.id.hex()}: this is not the chain that "
                    "you trust. Check the checkpoint, then the peers"
                )

    # --- finality ------------------------------------------------------------------------------------------------

    def _resume_finality(self, recovered: Recovered) -> Step:
        """Make what runs beside the engine, with the epochs that the journal names."""
        if not self._spec.checkpoint_interval or self._link_certificates is None:
            return NOTHING
        epochs = [self._first]
        for change in (*recovered.epoch_changes_before, recovered.epoch_change):
            if change is not None:
                info = epoch_after(self._spec, change.boundary, ValidatorSet(change.validators))
                epochs = [*(known for known in epochs if known.epoch > info.epoch - EPOCHS_MAX), info]
        root = Checkpoint(height=self._first.genesis.height, id=self._first.genesis.block_id)
        self._finality = Finality(
            epochs=epochs,
            scheme=self._scheme,
            own_keys=self._own_keys,
            interval=self._spec.checkpoint_interval,
            chain=initial_state(root),
        )
        return self._finality.start(recovered)

    def _fed(self, step: Step) -> Step:
        """The step, and what finality makes of the blocks that it commits."""
        finality, read = self._finality, self._link_certificates
        if finality is None or read is None or not any(type(effect) is Commit for effect in step.effects):
            return step
        records, effects = list(step.records), list(step.effects)
        for effect in step.effects:
            if isinstance(effect, Commit):
                fed = finality.committed(effect.block, read(effect.block, effect.body))
                records += fed.records
                effects += fed.effects
        return Step(tuple(records), tuple(effects))


def _without_finality(recovered: Recovered) -> Recovered:
    """What an engine may see."""
    safety = tuple(record for record in recovered.safety if record.kind != FFG)
    return recovered if safety == recovered.safety else msgspec.structs.replace(recovered, safety=safety)


def _ends(header: BlockHeader, epoch: Epoch) -> bool:
    """True for the last block of ``epoch``."""
    return header.epoch == epoch and bool(header.next_validators_hash)
