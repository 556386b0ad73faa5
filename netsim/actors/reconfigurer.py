"""Lies about where epochs end: a leader that names validators where none are due, others than are due, or none where
they are; a peer that says that an epoch ended elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from consensus.codec import Malformed
from consensus.engine import Received
from consensus.epochs import CLOSING_PAYLOAD_ROOT
from consensus.types import EMPTY_PAYLOAD_ROOT, BlockHeader, EpochEnd
from netsim.host import Host
from netsim.randomness import stream
from netsim.reading import header_in
from netsim.schedule import Actor
from netsim.world import World


class Reconfigurer:
    """Its own core is honest; its proposals are changed on the way out with probability ``rate``, differently for each
    recipient, and signed anew. What it tells those who are behind is changed as often."""

    has_core = True

    def __init__(self, spec: Actor) -> None:
        self.rate = spec.options.get("rate", 0.6)

    def attach(self, world: World, host: Host) -> None:
        self.world = world
        self.wire = world.definition.wire()
        self.draws = stream(world.schedule.seed, f"actor:{host.position}")

    def outgoing(
        self, host: Host, targets: Sequence[Host], message: msgspec.Struct
    ) -> Sequence[tuple[Host, msgspec.Struct, int]]:
        lies = isinstance(message, EpochEnd) or header_in(message) is not None
        return [
            (target, self.changed(host, message) if lies and self.draws.random() < self.rate else message, 0)
            for target in targets
        ]

    def incoming(self, host: Host, event: Received) -> Received | None:
        return event

    def changed(self, host: Host, message: msgspec.Struct) -> msgspec.Struct:
        """The message with another end of the epoch, signed anew where it is its own."""
        if isinstance(message, EpochEnd):
            other: msgspec.Struct = msgspec.structs.replace(message, boundary=self.elsewhere(message.boundary))
        else:
            header = header_in(message)
            assert header is not None
            other = msgspec.structs.replace(message, header=self.elsewhere(header))
        decoded = self.wire.decode(self.wire.encode(other))
        if isinstance(decoded, Malformed):
            return message
        statement = self.world.definition.statement(decoded)
        seat = None if statement is None else self.world.committee.seat(host.node, statement.subject.epoch)
        if statement is None or seat is None or statement.signer != seat:
            return decoded
        return msgspec.structs.replace(decoded, signature=self.world.committee.sign(seat, statement.subject))

    def elsewhere(self, header: BlockHeader) -> BlockHeader:
        """Validators at a wrong height, wrong ones, none, or a block that says that it closes the epoch."""
        names = [era.validators.hash for era in self.world.committee.eras]
        style = self.draws.random()
        if style < 0.4:
            return msgspec.structs.replace(header, next_validators_hash=self.draws.choice(names))
        if style < 0.6:
            wrong = hashlib.sha256(header.next_validators_hash).digest()
            return msgspec.structs.replace(header, next_validators_hash=wrong)
        if style < 0.8:
            return msgspec.structs.replace(header, next_validators_hash=b"")
        closing = header.payload_root == CLOSING_PAYLOAD_ROOT
        root = EMPTY_PAYLOAD_ROOT if closing else CLOSING_PAYLOAD_ROOT
        return msgspec.structs.replace(header, payload_root=root, payload_size=0)
