"""Who belongs to the network now: the validators that the chain names, those who join, and for a while those who left.

The chain says it (``consensus/registry.py``), the configuration adds addresses, the transport follows after each block.

*Leavers* are served as observers for ``epoch_heights`` more blocks: by then a block of the new epoch is committed, so
the hand-over is durable with a quorum of those who came after, and whoever was a little behind has heard of it. Where
there are checkpoints they are served for four intervals at least, whatever epochs end meanwhile: finality needs their
votes until it has handed over, or never goes on. After that the configuration decides: ``network.observers``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import msgspec

from consensus.epochs import EpochChange
from consensus.genesis import HANDOVER_INTERVALS, UNFINISHED_EPOCHS_MAX, ChainSpec
from consensus.registry import Member, Registry
from consensus.types import Epoch, Height, PeerId
from consensus.validators import Validator
from sequencer.config import Address, address_text, parse_address
from sequencer.tables import KeyPathError

logger = logging.getLogger(__name__)

PendingKind: TypeAlias = Literal["joins", "leaves", "rotates", "stake"]


class PendingChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change that is ordered and has not taken effect: it does with the epoch that begins after the block at
    ``effective_at``. ``public_key`` is the member's present one; ``next_public_key`` is empty but for a rotation;
    ``stake`` is the one that it will have."""

    kind: PendingKind
    name: str
    operator: str
    public_key: bytes
    next_public_key: bytes
    stake: int
    effective_at: Height


class ValidatorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One of the present validators. ``address`` is where it listens, as far as this node knows, else empty."""

    validator: Validator
    operator: str
    address: str


class ValidatorsView(msgspec.Struct, frozen=True, kw_only=True):
    """The present validators in order, and what will change. ``epoch`` is that of the next block; ``began_after`` the
    height of the block that ended the one before, 0 for the first."""

    epoch: Epoch
    began_after: Height
    validators: tuple[ValidatorEntry, ...]
    pending: tuple[PendingChange, ...]


class MemberTransport(Protocol):
    """What is told of members; ``TlsTransport``."""

    def set_members(
        self, *, validators: frozenset[PeerId], guests: frozenset[PeerId], addresses: Mapping[PeerId, Address]
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """The set of an epoch that is over, and until which height those of it who left are served."""

    validators: tuple[Validator, ...]
    until: Height


class Membership:
    """Follows the chain, and tells the transport and the log. ``registry`` gives None on a chain whose validators never
    change. ``configured`` are the addresses of the configuration; ``own_address`` is where this node listens, if that
    is one that others can use."""

    def __init__(
        self,
        *,
        spec: ChainSpec,
        own_peer: PeerId,
        own_keys: Collection[bytes],
        own_address: Address | None,
        configured: Mapping[PeerId, Address],
        transport: MemberTransport,
        registry: Callable[[], Registry | None],
        height: Callable[[], Height],
    ) -> None:
        self._spec = spec
        self._own_peer = own_peer
        self._own_keys = own_keys
        self._own_address = own_address
        self._configured = configured
        self._transport = transport
        self._registry = registry
        self._height = height
        self._epoch: Epoch = 0
        self._began_after: Height = 0
        self._validators = spec.validators
        self._own: tuple[Registry | None, Validator | None] | None = None
        self._left: tuple[_Left, ...] = ()
        self._joining: frozenset[PeerId] = frozenset()
        self._told: tuple[object, ...] = ()
        self._warned: tuple[str, ...] = ()

    @property
    def epoch(self) -> Epoch:
        """That of the next block."""
        return self._epoch

    @property
    def validators(self) -> tuple[Validator, ...]:
        """Those who vote on the next block, in order."""
        registry = self._registry()
        return self._spec.validators if registry is None else registry.validators

    @property
    def own(self) -> Validator | None:
        """This node as a validator: the one of them whose key it holds. Asked at each submission."""
        registry = self._registry()
        if self._own is None or self._own[0] is not registry:
            found = next((each for each in self.validators if each.public_key in self._own_keys), None)
            self._own = (registry, found)
        return self._own[1]

    @property
    def joining(self) -> frozenset[PeerId]:
        """Who will be validators: they are to have what waits to be ordered before they lead."""
        return self._joining

    def restore(self, changes: Sequence[EpochChange]) -> None:
        """Before anything else: take up where the chain stands. ``changes`` are all that are stored, ascending."""
        registry = self._registry()
        if registry is not None and registry.epoch:
            before = self._spec.validators
            for change in changes:
                if change.epoch <= registry.epoch:
                    self._leave(before, change.boundary.height)
                    before = change.validators
            begun = next((change for change in changes if change.epoch == registry.epoch), None)
            # Without the last change, its boundary is the last block that was committed.
            self._began_after = self._height() if begun is None else begun.boundary.height
            self._epoch, self._validators = registry.epoch, registry.validators
            if begun is None:
                self._leave(before, self._began_after)
        self.update()

    def update(self) -> None:
        """After a block: tell what changed."""
        registry = self._registry()
        if registry is None:
            return
        if registry.epoch != self._epoch:
            before, self._validators = self._validators, registry.validators
            self._epoch, self._began_after = registry.epoch, self._height()
            self._leave(before, self._began_after)
            logger.info(_news(self._epoch, self._began_after, before, self._validators))
        left = self._left = tuple(each for each in self._left if self._height() <= each.until)
        told = (registry.members, left)
        if told != self._told:
            self._told = told
            self._tell(registry, left)
            self._warn(registry)

    def view(self) -> ValidatorsView:
        """What people are shown."""
        registry = self._registry()
        if registry is None:
            members: tuple[Member, ...] = tuple(
                Member(validator=each, operator=each.name, address="") for each in self._spec.validators
            )
            pending: tuple[PendingChange, ...] = ()
        else:
            members = tuple(member for member in registry.members if not member.joins_at)
            pending = tuple(change for member in registry.members for change in _pending(registry, member))
        entries = tuple(
            ValidatorEntry(
                validator=member.validator,
                operator=member.operator,
                address="" if (address := self._address_of(member)) is None else address_text(address),
            )
            for member in members
        )
        return ValidatorsView(
            epoch=self._epoch if registry is None else registry.epoch,
            began_after=self._began_after,
            validators=entries,
            pending=pending,
        )

    def _leave(self, before: tuple[Validator, ...], boundary: Height) -> None:
        reconfiguration = self._spec.reconfiguration
        assert reconfiguration is not None, "an epoch ended on a chain whose validators never change"
        served = max(reconfiguration.epoch_heights, HANDOVER_INTERVALS * self._spec.checkpoint_interval)
        left = _Left(validators=before, until=boundary + served)
        self._left = (*self._left, left)[-UNFINISHED_EPOCHS_MAX:]

    def _tell(self, registry: Registry, left: tuple[_Left, ...]) -> None:
        addresses = dict(self._configured)
        guests: set[PeerId] = set()
        self._joining = frozenset(member.validator.peer for member in registry.members if member.joins_at)
        for member in registry.members:
            guests.add(member.validator.peer)
            if member.rotation is not None and member.rotation.peer:
                guests.add(member.rotation.peer)
            address = self._address_of(member)
            if address is not None and member.validator.peer != self._own_peer:
                addresses[member.validator.peer] = address
        guests.update(validator.peer for each in left for validator in each.validators)
        present = {member.validator.peer for member in registry.members} | guests
        for validator in self._spec.validators:
            if validator.peer not in present:
                addresses.pop(validator.peer, None)  # of the configuration, from the time before it left
        validators = frozenset(validator.peer for validator in registry.validators)
        self._transport.set_members(validators=validators, guests=frozenset(guests) - validators, addresses=addresses)

    def _address_of(self, member: Member) -> Address | None:
        """The configuration's word counts: it may know a better way."""
        peer = member.validator.peer
        configured = self._configured.get(peer)
        if peer == self._own_peer and not member.address:
            return self._own_address
        if configured is not None or not member.address:
            return configured
        try:
            return parse_address("address", member.address, port_min=1)
        except KeyPathError:
            return None  # what an addition says is not ours to mend: this validator must dial

    def _warn(self, registry: Registry) -> None:
        warnings = tuple(key_warnings(registry, self._own_peer, self._own_keys))
        for warning in warnings:
            if warning not in self._warned:
                logger.warning("%s", warning)
        self._warned = warnings


def key_warnings(registry: Registry, own_peer: PeerId, own_keys: Collection[bytes]) -> list[str]:
    """What is wrong with this node's keys, now or soon; each says what to do."""
    warnings = []
    for member in registry.members:
        validator, rotation = member.validator, member.rotation
        by_peer, by_key = validator.peer == own_peer, validator.public_key in own_keys
        if by_peer and not by_key:
            warnings.append(
                f"this node has the TLS key of validator {validator.name!r} and not its consensus key "
                f"{validator.public_key.hex()}: it does not vote. Name that key's file in keys.consensus and restart"
            )
        if by_key and not by_peer:
            warnings.append(
                f"this node holds the consensus key of validator {validator.name!r}, whose TLS key is another one: "
                "others do not take its votes. Use that validator's keys/tls.json here"
            )
        if by_key and rotation is not None and rotation.public_key not in own_keys:
            effective_at = registry.rules.boundary_from(rotation.due_at)
            warnings.append(
                f"validator {validator.name!r} signs with key {rotation.public_key.hex()} after height {effective_at}, "
                "and this node does not hold it. Name its file in keys.consensus and restart before then"
            )
    return warnings


def _pending(registry: Registry, member: Member) -> list[PendingChange]:
    """What waits for an epoch's end, of one member."""
    validator, rotation, stake_change = member.validator, member.rotation, member.stake_change
    waiting: list[tuple[PendingKind, Height, bytes, int]] = []
    if member.joins_at:
        waiting.append(("joins", member.joins_at, b"", validator.stake))
    if rotation is not None:
        waiting.append(("rotates", rotation.due_at, rotation.public_key, validator.stake))
    if stake_change is not None:
        waiting.append(("stake", stake_change.due_at, b"", stake_change.stake))
    if member.leaves_at:
        waiting.append(("leaves", member.leaves_at, b"", 0))
    return [
        PendingChange(
            kind=kind,
            name=validator.name,
            operator=member.operator,
            public_key=validator.public_key,
            next_public_key=next_public_key,
            stake=stake,
            effective_at=registry.rules.boundary_from(due_at),
        )
        for kind, due_at, next_public_key, stake in waiting
    ]


def _news(epoch: Epoch, boundary: Height, before: Sequence[Validator], after: Sequence[Validator]) -> str:
    old, new = {each.name: each for each in before}, {each.name: each for each in after}
    changes = [
        *(f"{name} joined" for name in new if name not in old),
        *(f"{name} left" for name in old if name not in new),
        *(f"{name} changed" for name in new if name in old and old[name] != new[name]),
    ]
    return f"epoch {epoch} begins after height {boundary}: {len(new)} validators ({', '.join(changes)})"
