"""Actors around a core: silent, slow, outdated, mutator, impersonator, lying sync peer, flooder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

from consensus.engine import Received
from consensus.protocols.chained_types import Certificates, Proposal, Timeout
from consensus.types import AncestorsResponse, Certificate, RangeResponse, Vote, vote_subject
from netsim.network import MILLISECOND, nanoseconds
from netsim.randomness import stream
from netsim.schedule import Actor
from netsim.world import Host, World

Rewritten = Sequence[tuple[Host, msgspec.Struct, int]]
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
    """Changes one thing of a message, with probability ``rate``: view +-1, nil block, swapped parent, stripped or
    forged certificate, another epoch or chain. What it may sign, it signs again."""

    has_core = True

    def __init__(self, spec: Actor) -> None:
        self.rate = spec.options.get("rate", 0.3)

    def attach(self, world: World, host: Host) -> None:
        self.world = world
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
        """One small change."""
        draw = self.draws
        if isinstance(message, Vote):
            changes: list[dict[str, object]] = [
                {"view": message.view + draw.choice((-1, 1))},
                {"block_id": bytes(32)},
                {"epoch": message.epoch + 1},
                {"height": message.height + 1},
                {"justify_view": max(message.justify_view - 1, 0)},
            ]
            vote = msgspec.structs.replace(message, **draw.choice(changes))
            if vote.epoch != message.epoch or host.index is None:
                return vote
            return msgspec.structs.replace(vote, signature=self.world.committee.sign(host.index, vote_subject(vote)))
        if isinstance(message, Timeout):
            return draw.choice(
                (
                    msgspec.structs.replace(message, view=message.view + draw.choice((-1, 1))),
                    msgspec.structs.replace(message, entry_proof=None),
                    msgspec.structs.replace(message, high_qc=self.forge(message.high_qc)),
                    msgspec.structs.replace(message, epoch=message.epoch + 1),
                )
            )
        if isinstance(message, Proposal):
            return self.mutate_proposal(message)
        if isinstance(message, Certificates):
            return msgspec.structs.replace(message, high_qc=self.forge(message.high_qc))
        return message

    def mutate_proposal(self, proposal: Proposal) -> Proposal:
        header = proposal.header
        changes: list[dict[str, object]] = [
            {"view": header.view + self.draws.choice((-1, 1))},
            {"parent": hashlib.sha256(header.parent).digest()},
            {"justify": self.forge(header.justify)},
            {"chain": bytes(32)},
            {"height": header.height + 1},
            {"entry_proof_hash": b""},
        ]
        return msgspec.structs.replace(proposal, header=msgspec.structs.replace(header, **self.draws.choice(changes)))

    def forge(self, certificate: Certificate) -> Certificate:
        """A certificate that nobody made."""
        changes: list[dict[str, object]] = [
            {"view": certificate.view + 1},
            {"signers": certificate.signers[:-1]},
            {"block_id": hashlib.sha256(certificate.block_id).digest()},
            {"signature": certificate.signature[::-1]},
        ]
        return msgspec.structs.replace(certificate, **self.draws.choice(changes))


class Impersonator:
    """Sends its votes and timeouts a second time in the names of others."""

    has_core = True

    def __init__(self, spec: Actor) -> None:
        pass

    def attach(self, world: World, host: Host) -> None:
        self.count = world.schedule.nodes

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        sent: list[tuple[Host, msgspec.Struct, int]] = [(target, message, 0) for target in targets]
        if isinstance(message, Vote | Timeout):
            for signer in range(self.count):
                if signer != host.index:
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
        view = max(1, self.world.top_view + draw.choice((0, 1, 5, 15, 16, 17, 1000, 2**40)))
        if self.host.index is None:
            return
        vote = Vote(
            kind="vote", epoch=0, view=view, block_id=draw.randbytes(32), height=view, justify_view=view - 1,
            signer=self.host.index, signature=b"",
        )  # fmt: skip
        signature = self.world.committee.sign(self.host.index, vote_subject(vote))
        self.world.inject(self.host, self.host.others, msgspec.structs.replace(vote, signature=signature))

    def outgoing(self, host: Host, targets: Sequence[Host], message: msgspec.Struct) -> Rewritten:
        return ()

    def incoming(self, host: Host, event: Received) -> Received | None:
        return None
