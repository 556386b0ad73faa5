"""Protocols that break one part of the contract each, beside those of ``netsim/mutants``: the suite must notice."""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec

from consensus.engine import (
    BlockRecord,
    Broadcast,
    BuildPayload,
    Commit,
    EngineEvent,
    PayloadBuilt,
    Record,
    ReportEvidence,
    SetTimer,
    Step,
)
from consensus.engine import Refusal as Refused
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.definition import ProtocolDefinition, Statement
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.registry import JOLTEON
from consensus.types import EMPTY_PAYLOAD_ROOT, BlockHeader, CommitProof, Epoch, Nanoseconds, Vote, VoteSubject
from netsim.mutants.engines import Adjust, _with_validators, broken, unchanged


def jolteon(engine: type[ChainedEngine] = ChainedEngine, adjust: Adjust = unchanged) -> ProtocolDefinition:
    return broken("jolteon", Jolteon(), engine, adjust)


def _everybody(spec: ChainSpec, epoch: EpochInfo) -> tuple[ChainSpec, EpochInfo]:
    return spec, _with_validators(epoch, lambda validators: setattr(validators, "quorum", validators.total))


class _Accomplice(ChainedEngine):
    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        records, effects = super().handle(event, now)
        return Step(records, tuple(effect for effect in effects if not isinstance(effect, ReportEvidence)))


class _Tolerant(ChainedEngine):
    """Finds nothing in two votes."""

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        records, effects = super().handle(event, now)
        kept = [
            effect for effect in effects if not (isinstance(effect, ReportEvidence) and isinstance(effect.first, Vote))
        ]
        return Step(records, tuple(kept))


class _Accuser(ChainedEngine):
    """Reports the first message that it hears, twice."""

    _accused = False

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        step = super().handle(event, now)
        message = getattr(event, "message", None)
        if message is None or self._accused:
            return step
        self._accused = True
        return Step(step.records, (*step.effects, ReportEvidence(message, message)))


class _Dice(ChainedEngine):
    """Its timers depend on the hash seed."""

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        step = super().handle(event, now)
        late = hash("dice") % 1_000_000
        effects = tuple(
            SetTimer(effect.name, effect.deadline_ns + late) if isinstance(effect, SetTimer) else effect
            for effect in step.effects
        )
        return Step(step.records, effects)


class _Counter(ChainedEngine):
    """Its timers depend on how many engines there were in this process."""

    made: list[int] = []  # noqa: RUF012 - the fault is that all share it

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        self.made.append(0)
        step = super().handle(event, now)
        effects = tuple(
            SetTimer(effect.name, effect.deadline_ns + len(self.made)) if isinstance(effect, SetTimer) else effect
            for effect in step.effects
        )
        return Step(step.records, effects)


class _Hoarder(ChainedEngine):
    """Throws nothing away."""

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        if not hasattr(self, "heard"):
            self.heard: list[EngineEvent] = []
        self.heard.append(event)
        return super().handle(event, now)


class _TaleKeeper(ChainedEngine):
    """Keeps what is no vote."""

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        if not hasattr(self, "heard"):
            self.heard: list[EngineEvent] = []
        if not isinstance(getattr(event, "message", None), Vote):
            self.heard.append(event)
        return super().handle(event, now)


class _Sluggish(ChainedEngine):
    """Waits for the next payload though one is waiting to be committed."""

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        records, effects = super().handle(event, now)
        late = now + 995_000_000
        waiting = tuple(
            msgspec.structs.replace(effect, deadline_ns=late) if isinstance(effect, BuildPayload) else effect
            for effect in effects
        )
        return Step(records, waiting)


class _BlindAtFirst(ChainedEngine):
    """Overlooks a payload ten times."""

    overlooked = 0

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        if isinstance(event, PayloadBuilt) and event.body and self.overlooked < 10:
            self.overlooked += 1
            event = msgspec.structs.replace(event, payload_root=EMPTY_PAYLOAD_ROOT, body=b"")
        return super().handle(event, now)


class _Chatterbox(ChainedEngine):
    """Says everything three times."""

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        records, effects = super().handle(event, now)
        again = tuple(effect for effect in effects if isinstance(effect, Broadcast))
        return Step(records, (*effects, *again, *again))


class _Scribbler(ChainedEngine):
    """Writes down with every event the blocks that it wrote last."""

    last: tuple[Record, ...] = ()

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        records, effects = super().handle(event, now)
        self.last = tuple(record for record in records if isinstance(record, BlockRecord)) or self.last
        return Step(records or self.last, effects)


class _Restless(ChainedEngine):
    """Never waits for a payload."""

    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        step = super().handle(event, now)
        effects = tuple(
            msgspec.structs.replace(effect, deadline_ns=now) if isinstance(effect, BuildPayload) else effect
            for effect in step.effects
        )
        return Step(step.records, effects)


class _Gullible(ChainedEngine):
    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refused | None:
        return None


class _Suspicious(ChainedEngine):
    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refused | None:
        return Refused("who are you?")


class _FieldBlind(ChainedEngine):
    """Does not look at one field of a proof."""

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refused | None:
        return super().verify_commit(msgspec.structs.replace(proof, epoch=epoch), header, epoch)


class _Proofless(ChainedEngine):
    def handle(self, event: EngineEvent, now: Nanoseconds) -> Step:
        records, effects = super().handle(event, now)
        bare = tuple(
            msgspec.structs.replace(effect, proof=None) if isinstance(effect, Commit) else effect for effect in effects
        )
        return Step(records, bare)


def _misquoted(message: msgspec.Struct) -> Statement | None:
    found = JOLTEON.statement(message)
    if found is None or not isinstance(found.subject, VoteSubject):
        return found
    return msgspec.structs.replace(
        found, subject=msgspec.structs.replace(found.subject, height=found.subject.height + 1)
    )


def _speechless(message: msgspec.Struct) -> Statement | None:
    return None


class _Late(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=16):
    """A message with a tag of block sync's."""

    epoch: int


def _costs(**changes: object) -> ProtocolDefinition:
    return dataclasses.replace(JOLTEON, costs=dataclasses.replace(JOLTEON.costs, **changes))  # type: ignore[arg-type]


NEEDS_EVERYBODY: Final = jolteon(adjust=_everybody)
ACCOMPLICE: Final = jolteon(_Accomplice)
ACCUSER: Final = jolteon(_Accuser)
DICE: Final = jolteon(_Dice)
COUNTER: Final = jolteon(_Counter)
HOARDER: Final = jolteon(_Hoarder)
RESTLESS: Final = jolteon(_Restless)
GULLIBLE: Final = jolteon(_Gullible)
SUSPICIOUS: Final = jolteon(_Suspicious)
FIELD_BLIND: Final = jolteon(_FieldBlind)
PROOFLESS: Final = jolteon(_Proofless)
VOTES_ARE_FREE: Final = jolteon(_Tolerant)
TALE_KEEPER: Final = jolteon(_TaleKeeper)
SLUGGISH: Final = broken("hotstuff", HotStuff(), _Sluggish)
BLIND_AT_FIRST: Final = jolteon(_BlindAtFirst)
CHATTERBOX: Final = jolteon(_Chatterbox)
SCRIBBLER: Final = jolteon(_Scribbler)
BAD_TAGS: Final = dataclasses.replace(JOLTEON, messages=(*JOLTEON.messages[:4], _Late))
SLOWER: Final = _costs(commit_delays=4)
FASTER: Final = _costs(commit_delays=2)
LATER: Final = _costs(commit_views=0)
CHEAPER: Final = _costs(messages=lambda count: count * count)
MISQUOTED: Final = dataclasses.replace(JOLTEON, statement=_misquoted)
SPEECHLESS: Final = dataclasses.replace(JOLTEON, statement=_speechless)
SUBJECTLESS: Final = dataclasses.replace(JOLTEON, subjects=JOLTEON.subjects[:2])
KINDLESS: Final = dataclasses.replace(JOLTEON, votes=JOLTEON.votes[:1])
NOT_BULK: Final = dataclasses.replace(JOLTEON, bulk=())
ALL_BULK: Final = dataclasses.replace(JOLTEON, bulk=JOLTEON.messages)
UNDECLARED: Final = dataclasses.replace(JOLTEON, messages=JOLTEON.messages[:-1])
