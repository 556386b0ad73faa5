"""Actors around a core: silent, slow, outdated, mutator, impersonator, lying sync peer, flooder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from consensus.codec import Malformed
from consensus.engine import Received
from consensus.types import AncestorsResponse, RangeResponse, VoteSubject, epoch_of, vote_of
from netsim.network import MILLISECOND, nanoseconds
from netsim.numbering import split
from netsim.randomness import stream
from netsim.schedule import Actor
from netsim.world import Host, World

Rewritten = Sequence[tuple[Host, msgspec.Struct, int]]
LEFT_ALONE: Final = ("signature", "body", "signer")
"""Not the mutator's: see the impersonator and the lying sync peer."""
FLOOD_MESSAGES_MAX: Final = 20_000


class Silent:
    """Says nothing and hears nothing."""

    has_core = False

    def __init__(self, spec: Actor) -> None:
        pass

    def attach(self, world: World, host: Host) -> None:
        pass

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        return ()

    def incoming(self, host: Host, event: Received) -> Received | None:
        return None


class Slow:
    """Honest, but everything it says leaves ``delay_ms`` late."""

    has_core = True

    def __init__(self, spec: Actor) -> None:
        self.delay_ns = nanoseconds(spec.options.get("delay_ms", 20))

    def attach(self, world: World, host: Host) -> None:
        pass

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        return [(target, message, self.delay_ns) for target in targets]

    def incoming(self, host: Host, event: Received) -> Received | None:
        return event


class Outdated:
    """Hears nothing any more from ``from_ms`` on, and says again what it said, every ``every_ms``."""

    has_core = True
    KEPT: Final = 16

    def __init__(self, spec: Actor) -> None:
        self.from_ns = nanoseconds(spec.options.get("from_ms", 100))
        self.every_ns = max(nanoseconds(spec.options.get("every_ms", 50)), MILLISECOND)
        self.said: list[msgspec.Struct] = []

    def attach(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        world.at(self.from_ns, self.again)

    def again(self) -> None:
        for message in self.said:
            self.world.inject(self.host, self.host.others, message)
        self.world.at(self.world.now + self.every_ns, self.again)

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        if len(self.said) < self.KEPT and self.world.now < self.from_ns:
            self.said.append(message)
        return [(target, message, 0) for target in targets]

    def incoming(self, host: Host, event: Received) -> Received | None:
        return None if self.world.now >= self.from_ns else event


class Mutator:
    """Changes one field of a message, with probability ``rate``: a view or height by one, a block to none, a proof
    stripped, forged or left out, another epoch or chain. What it may sign, it signs again half of the time."""

    has_core = True

    def __init__(self, spec: Actor) -> None:
        self.rate = spec.options.get("rate", 0.3)

    def attach(self, world: World, host: Host) -> None:
        self.world = world
        self.wire = world.definition.wire()
        self.draws = stream(world.schedule.seed, f"actor:{host.position}")

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        sent: list[tuple[Host, msgspec.Struct, int]] = []
        for target in targets:
            changed = self.draws.random() < self.rate
            sent.append((target, self.mutate(host, message) if changed else message, 0))
        return sent

    def incoming(self, host: Host, event: Received) -> Received | None:
        return event

    def mutate(self, host: Host, message: msgspec.Struct) -> msgspec.Struct:
        """One small change, signed anew if it may be."""
        changed = self.wire.decode(self.wire.encode(self.change(message)))
        if isinstance(changed, Malformed):  # no decoder would let it through
            return message
        if self.draws.random() < 0.5:
            return changed
        statement = self.world.definition.statement(changed)
        seat = None if statement is None else self.world.committee.seat(host.node, statement.subject.epoch)
        if statement is None or seat is None or statement.signer != seat:
            return changed
        return msgspec.structs.replace(changed, signature=self.world.committee.sign(seat, statement.subject))

    def change(self, struct: msgspec.Struct) -> msgspec.Struct:
        """The struct with one field changed, inside of it or deep in one that it carries."""
        names = [name for name in struct.__struct_fields__ if name not in LEFT_ALONE]
        name = names[int(self.draws.random() * len(names))]
        value = getattr(struct, name)
        return msgspec.structs.replace(struct, **{name: self.other(value)})

    def other(self, value: object) -> object:
        """Something like it, and not it."""
        draw = self.draws
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return max(value + draw.choice((-1, 1)), 0)
        if isinstance(value, bytes):
            return draw.choice((bytes(len(value)), value[::-1], hashlib.sha256(value).digest()[: len(value)]))
        if isinstance(value, tuple):
            return value[:-1] if draw.random() < 0.5 or not value else (*value[:-1], self.other(value[-1]))
        if isinstance(value, msgspec.Struct):
            return None if draw.random() < 0.3 else self.change(value)
        return value + "?" if isinstance(value, str) else value


class Impersonator:
    """Sends what it signs (votes, timeouts) a second time in the names of others."""

    has_core = True

    def __init__(self, spec: Actor) -> None:
        pass

    def attach(self, world: World, host: Host) -> None:
        self.committee = world.committee

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        sent: list[tuple[Host, msgspec.Struct, int]] = [(target, message, 0) for target in targets]
        if hasattr(message, "signer"):
            epoch = epoch_of(message)
            seat = self.committee.seat(host.node, epoch)
            for signer in range(len(self.committee.eras[epoch].nodes) if seat is not None else 0):
                if signer != seat:
                    other = msgspec.structs.replace(message, signer=signer)
                    sent += [(target, other, 0) for target in targets]
        return sent

    def incoming(self, host: Host, event: Received) -> Received | None:
        return event


class LyingSync:
    """Answers questions for blocks with nothing, with another body, or with other blocks."""

    has_core = True

    def __init__(self, spec: Actor) -> None:
        pass

    def attach(self, world: World, host: Host) -> None:
        self.draws = stream(world.schedule.seed, f"actor:{host.position}")

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        if isinstance(message, AncestorsResponse | RangeResponse):
            message = self.lie(message)
        return [(target, message, 0) for target in targets]

    def lie(self, answer: AncestorsResponse | RangeResponse) -> msgspec.Struct:
        if not answer.blocks or self.draws.random() < 0.3:
            return msgspec.structs.replace(answer, blocks=())
        last = answer.blocks[-1]
        wrong = msgspec.structs.replace(last, body=memoryview(bytes(b ^ 1 for b in last.body)))
        if self.draws.random() < 0.5 or not last.body:
            wrong = msgspec.structs.replace(last, header=msgspec.structs.replace(last.header, timestamp_ms=0))
        return msgspec.structs.replace(answer, blocks=(*answer.blocks[:-1], wrong))

    def incoming(self, host: Host, event: Received) -> Received | None:
        return event


class Flooder:
    """Sends ``count`` votes for views far and near, each for another block, spread over ``over_ms``."""

    has_core = False

    def __init__(self, spec: Actor) -> None:
        self.count = min(int(spec.options.get("count", 2000)), FLOOD_MESSAGES_MAX)
        self.over_ns = nanoseconds(spec.options.get("over_ms", 500))

    def attach(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.draws = stream(world.schedule.seed, f"actor:{host.position}")
        for number in range(self.count):
            world.at(number * self.over_ns // self.count, self.flood)

    def flood(self) -> None:
        draw = self.draws
        epoch, top = split(self.world.top_view)
        view = max(1, top + draw.choice((0, 1, 5, 15, 16, 17, 1000, 2**40)))
        seat = self.world.committee.seat(self.host.node, epoch)
        if seat is None:
            return
        kinds = [kind.name for kind in self.world.definition.votes if kind.blocks]
        subject = VoteSubject(
            kind=draw.choice(kinds), epoch=epoch, view=view, block_id=draw.randbytes(32), height=view,
            justify_view=view - 1,
        )  # fmt: skip
        vote = vote_of(subject, seat, self.world.committee.sign(seat, subject))
        self.world.inject(self.host, self.host.others, vote)

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        return ()

    def incoming(self, host: Host, event: Received) -> Received | None:
        return None


class Exaggerator:
    """Honest, and says ``count`` times more what it said, of other views, heights and blocks, signed anew where it may:
    spread over ``over_ms``, from the first time that there is something to say."""

    has_core = True
    SAME: Final = ("epoch", "signer", "proposer")
    OFFSETS: Final = (1, 2, 8, 15, 16, 17, 1000, 2**40)

    def __init__(self, spec: Actor) -> None:
        self.count = min(int(spec.options.get("count", 2000)), FLOOD_MESSAGES_MAX)
        self.over_ns = nanoseconds(spec.options.get("over_ms", 500))
        self.said: dict[type[msgspec.Struct], msgspec.Struct] = {}

    def attach(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.wire = world.definition.wire()
        self.draws = stream(world.schedule.seed, f"actor:{host.position}")
        for number in range(self.count):
            world.at(number * self.over_ns // self.count, self.exaggerate)

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        self.said[type(message)] = message
        return [(target, message, 0) for target in targets]

    def incoming(self, host: Host, event: Received) -> Received | None:
        return event

    def exaggerate(self) -> None:
        if not self.said:
            return
        said = self.moved(self.draws.choice(tuple(self.said.values())), self.draws.choice(self.OFFSETS))
        changed = self.wire.decode(self.wire.encode(said))
        if isinstance(changed, Malformed):
            return
        statement = self.world.definition.statement(changed)
        seat = None if statement is None else self.world.committee.seat(self.host.node, statement.subject.epoch)
        if statement is not None and seat is not None and statement.signer == seat:
            signature = self.world.committee.sign(seat, statement.subject)
            changed = msgspec.structs.replace(changed, signature=signature)
        self.world.inject(self.host, self.host.others, changed)

    def moved(self, struct: msgspec.Struct, offset: int) -> msgspec.Struct:
        """The struct, and a header that it carries, some views and heights further on, about another block."""
        changes: dict[str, object] = {}
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if type(value) is int and name not in self.SAME:
                changes[name] = value + offset
            elif name in ("block_id", "payload_root"):
                changes[name] = self.draws.randbytes(32)
            elif name == "header":
                changes[name] = self.moved(value, offset)
        return msgspec.structs.replace(struct, **changes)
