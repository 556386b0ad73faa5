"""The registry: who validates, as a pure fold over the committed chain.

``Registry.first`` is the chain spec's; :meth:`Registry.after` takes one block after the other, oldest first, the empty
ones too. Every node that folds one chain has one registry, byte for byte (:meth:`Registry.encode`).

**When a change takes effect.** A change that the block at height h orders is *due* from ``h + max(1, delay)`` on,
where the delay is ``activation_heights``, or ``exit_heights`` where stake leaves (a removal, a smaller stake). It takes
effect at the first multiple of ``epoch_heights`` that is not below that: this block is the boundary, it names the new
set, and the epoch after it has that set. Its own transactions are folded after the switch. A member that is removed
before it has joined never joins.

**What is accepted.** A change in canonical form, within its lifetime and not accepted before, approved by those who may
ask for it (``reconfiguration.py``), such that

- names, consensus keys and TLS keys stay different from each other, among all members and what they rotate to, until
  those who leave have left;
- there are at most ``VALIDATORS_MAX`` members, the leaving ones included, and at every boundary to come at least one;
- a member has at most one pending change of each kind, and none besides when it leaves;
- a new key is in the scheme's canonical form and its holder proved possession;
- the operator of an addition, or of a greater stake, holds at most ``concentration_percent`` of the stake in every set
  to come that has it. *Only these are judged by the cap.* A removal or a smaller stake raises the share of all others
  and is accepted nevertheless: who must go, or wants to, is not held by somebody else's size. An operator that is above
  the cap by that stays, and cannot grow.

Anything else is in the chain and has no effect.

The operator of each of the chain spec's validators is its name. A block's changes beyond :data:`CHANGES_PER_BLOCK_MAX`
have no effect either, which bounds the signatures that a block makes others check.

The order of a set: members keep theirs, additions follow in the order in which they were ordered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from consensus.codec import Canonical, Malformed, encode
from consensus.crypto.scheme import Scheme
from consensus.genesis import ChainSpec, Reconfiguration
from consensus.reconfiguration import (
    TRANSACTION_SIZE_MAX,
    AddValidator,
    ByValidator,
    Change,
    ChangeAccepted,
    ChangeDomain,
    ChangeIgnored,
    ChangeOutcome,
    ChangeStake,
    RemoveValidator,
    RotateKey,
    approval_fault,
    change_digest,
    expiry_fault,
    system_transactions,
)
from consensus.types import HASH_SIZE, VALIDATORS_MAX, Epoch, Hash, Height, Integer, OptionalHash, ShortText
from consensus.validators import Validator, ValidatorSet

CHANGES_PER_BLOCK_MAX: Final = 16
GOVERNED_REMEMBERED_MAX: Final = 4096
OWN_REMEMBERED_MAX: Final = 4
"""Unexpired changes that one member approved itself. One that wants more must wait, and so fills nobody's memory."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A member's next key. ``peer`` is empty for the same TLS key."""

    public_key: Annotated[bytes, Meta(max_length=48)]
    possession_proof: Annotated[bytes, Meta(max_length=96)]
    peer: OptionalHash
    due_at: Integer


class StakeChange(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A member's next stake."""

    stake: Integer
    due_at: Integer


class Member(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A member and what is pending for it. ``validator`` is what it is in the epoch's set, or will be when it joins;
    ``joins_at`` is 0 when it has joined, ``leaves_at`` when it stays."""

    validator: Validator
    operator: ShortText
    address: Annotated[str, Meta(max_length=255)]
    joins_at: Integer = 0
    leaves_at: Integer = 0
    rotation: Rotation | None = None
    stake_change: StakeChange | None = None

    @property
    def due_at(self) -> tuple[Height, ...]:
        """From which heights on something of it is due."""
        pending = (self.rotation, self.stake_change)
        heights = (self.joins_at, self.leaves_at, *(change.due_at for change in pending if change is not None))
        return tuple(height for height in heights if height)

    def is_of(self, boundary: Height) -> bool:
        """Whether it is of the set that begins after ``boundary``."""
        return self.joins_at <= boundary and not 0 < self.leaves_at <= boundary

    def validator_at(self, boundary: Height) -> Validator:
        """What it is in the set that begins after ``boundary``."""
        validator = self.validator
        if self.stake_change is not None and self.stake_change.due_at <= boundary:
            validator = replace(validator, stake=self.stake_change.stake)
        rotation = self.rotation
        if rotation is not None and rotation.due_at <= boundary:
            validator = replace(
                validator,
                public_key=rotation.public_key,
                possession_proof=rotation.possession_proof,
                peer=rotation.peer or validator.peer,
            )
        return validator

    def settled(self, boundary: Height) -> Member:
        """The member after ``boundary``, of whose set it is: what was due is done."""
        rotation, stake_change = self.rotation, self.stake_change
        return replace(
            self,
            validator=self.validator_at(boundary),
            joins_at=0,
            rotation=None if rotation is not None and rotation.due_at <= boundary else rotation,
            stake_change=None if stake_change is not None and stake_change.due_at <= boundary else stake_change,
        )


class Remembered(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """An accepted change, until it expires. ``member`` is the name of the one who approved it, empty for governors."""

    expires_at: Integer
    digest: Hash
    member: ShortText


class RegistryState(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """What a registry is, besides the chain spec. ``epoch`` is that of the next block."""

    epoch: Integer
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=VALIDATORS_MAX)]
    remembered: tuple[Remembered, ...]


_states: Final = Canonical(RegistryState)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRules:
    """What is constant on a chain."""

    domain: ChangeDomain
    reconfiguration: Reconfiguration
    scheme: Scheme

    def boundary_from(self, height: Height) -> Height:
        """The first height from ``height`` on at which an epoch can end."""
        epoch_heights = self.reconfiguration.epoch_heights
        return -(-height // epoch_heights) * epoch_heights


class Folded(NamedTuple):
    """A registry after a block, and what became of each of the block's system transactions, in order."""

    registry: Registry
    outcomes: tuple[ChangeOutcome, ...]


class Opinion(NamedTuple):
    """What would become of a change. ``is_forged``: whoever has to did not sign it, which no chain and no height will
    ever change."""

    outcome: ChangeOutcome
    is_forged: bool


class Registry:
    """See the module. Immutable; equal when the states are."""

    __slots__ = ("_due_first", "rules", "state")

    def __init__(self, rules: RegistryRules, state: RegistryState) -> None:
        """Use :meth:`first` and :meth:`decode`."""
        self.rules = rules
        self.state = state
        self._due_first = min((height for member in state.members for height in member.due_at), default=None)

    @classmethod
    def first(cls, spec: ChainSpec, scheme: Scheme) -> Registry:
        """The registry before the first block of a chain whose spec was checked. Raises ``ValueError`` for a chain
        whose validators never change."""
        if spec.reconfiguration is None:
            raise ValueError("reconfiguration: this chain's validators never change")
        rules = RegistryRules(domain=ChangeDomain.of(spec), reconfiguration=spec.reconfiguration, scheme=scheme)
        members = tuple(Member(validator=each, operator=each.name, address="") for each in spec.validators)
        return cls(rules, RegistryState(epoch=0, members=members, remembered=()))

    def encode(self) -> bytes:
        """The canonical bytes of the state."""
        return encode(self.state)

    def decode(self, data: bytes) -> Registry | Malformed:
        """Another registry of this one's chain, from what :meth:`encode` gave."""
        state = _states.decode(data)
        return state if isinstance(state, Malformed) else Registry(self.rules, state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Registry) and other.state == self.state

    def __hash__(self) -> int:
        return hash(self.state)

    # --- what it says --------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch:
        """The epoch of the next block."""
        return self.state.epoch

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody who is of the present set, or will be."""
        return self.state.members

    @property
    def validators(self) -> tuple[Validator, ...]:
        """The present set, in order."""
        return tuple(member.validator for member in self.state.members if not member.joins_at)

    def due(self, height: Height) -> tuple[Validator, ...]:
        """The set of an epoch that would begin after a block at ``height``."""
        return tuple(member.validator_at(height) for member in self.state.members if member.is_of(height))

    def is_due(self, height: Height) -> bool:
        """Whether a block at ``height`` comes at or after the moment from which a change waits for the epoch's end. On
        an idle chain, blocks up to that end are then proposed at once."""
        return self._due_first is not None and self._due_first <= height

    def next_validators(self, height: Height) -> ValidatorSet | None:
        """The set that a block at ``height`` on this registry's block must name, or None when it must name none."""
        if height % self.rules.reconfiguration.epoch_heights or not self.is_due(height):
            return None
        validators = self.due(height)
        return None if validators == self.validators else ValidatorSet(validators)

    # --- the fold ------------------------------------------------------------------------------------------------

    def after(self, height: Height, transactions: Sequence[bytes] = ()) -> Folded:
        """The registry after the block at ``height``, whose system transactions these are. Every height is folded; the
        same object comes back when nothing changes."""
        registry = self._after_boundary(height)
        outcomes: list[ChangeOutcome] = []
        for transaction in transactions:
            if len(outcomes) >= CHANGES_PER_BLOCK_MAX:
                outcomes.append(ChangeIgnored(reason=f"more than {CHANGES_PER_BLOCK_MAX} changes in one block"))
                continue
            registry, opinion = registry._judged(height, transaction)
            outcomes.append(opinion.outcome)
        return Folded(registry, tuple(outcomes))

    def judge(self, height: Height, transaction: bytes) -> ChangeOutcome:
        """What would become of a transaction as the first of a block at ``height``, on this registry's block."""
        return self.opinion(height, transaction).outcome

    def opinion(self, height: Height, transaction: bytes) -> Opinion:
        """As :meth:`judge`, and whether the transaction is worth asking about again."""
        return self._after_boundary(height)._judged(height, transaction)[1]

    def _after_boundary(self, height: Height) -> Registry:
        if height % self.rules.reconfiguration.epoch_heights or not self.is_due(height):
            return self
        members = tuple(
            member.settled(height) if member.is_of(height) else member
            for member in self.state.members
            if member.is_of(height) or member.joins_at > height
        )
        changed = self.due(height) != self.validators
        return self._with(epoch=self.epoch + changed, members=members)

    def _with(self, **changes: object) -> Registry:
        return Registry(self.rules, replace(self.state, **changes))

    def _judged(self, height: Height, data: bytes) -> tuple[Registry, Opinion]:
        if len(data) > TRANSACTION_SIZE_MAX:
            return self._ignoring(f"{len(data)} bytes exceed {TRANSACTION_SIZE_MAX}")
        transaction = system_transactions.decode(data)
        if isinstance(transaction, Malformed):
            # Not the decoder's words: they differ between its versions, and nodes answer alike.
            return self._ignoring("not a system transaction in canonical form")
        change = transaction.change
        own = isinstance(transaction.approval, ByValidator)
        memory = self._remembering(height, change, own=own)
        if isinstance(memory, str):
            return self._ignoring(memory)
        changed = self._changed(height, change)
        if isinstance(changed, str):
            return self._ignoring(changed)
        rules, reconfiguration = self.rules, self.rules.reconfiguration
        fault = approval_fault(
            transaction,
            rules.domain,
            rules.scheme,
            governors=reconfiguration.governors,
            governors_needed=reconfiguration.governors_needed,
        ) or _possession_fault(change, rules.scheme)
        if fault:
            return self._ignoring(fault, is_forged=True)
        members, due_at = changed
        return (
            self._with(members=members, remembered=memory),
            Opinion(ChangeAccepted(effective_at=rules.boundary_from(due_at)), is_forged=False),
        )

    def _ignoring(self, reason: str, *, is_forged: bool = False) -> tuple[Registry, Opinion]:
        return self, Opinion(ChangeIgnored(reason=reason), is_forged)

    def _remembering(self, height: Height, change: Change, *, own: bool) -> tuple[Remembered, ...] | str:
        """What is remembered once ``change`` is accepted, or why it cannot be."""
        fault = expiry_fault(change, height)
        if fault:
            return fault
        digest = change_digest(change)
        remembered = tuple(each for each in self.state.remembered if each.expires_at >= height)
        if any(each.digest == digest for each in remembered):
            return "this change was accepted before: to repeat it, sign it anew with another expires_at"
        member = self._member(change.public_key) if own else None
        name = member.validator.name if member is not None else ""
        alike = [each.expires_at for each in remembered if each.member == name]
        limit = OWN_REMEMBERED_MAX if name else GOVERNED_REMEMBERED_MAX
        if len(alike) >= limit:
            return f"{limit} such changes are still remembered: wait until after height {min(alike)}"
        return (*remembered, Remembered(expires_at=change.expires_at, digest=digest, member=name))

    def _member(self, public_key: bytes) -> Member | None:
        return next((each for each in self.state.members if each.validator.public_key == public_key), None)

    # --- the changes ---------------------------------------------------------------------------------------------

    def _changed(self, height: Height, change: Change) -> tuple[tuple[Member, ...], Height] | str:
        """The members with ``change`` and from when it is due; or why not. Approvals are judged elsewhere."""
        reconfiguration = self.rules.reconfiguration
        activated_at = height + max(1, reconfiguration.activation_heights)
        left_at = height + max(1, reconfiguration.exit_heights)
        if isinstance(change, AddValidator):
            return self._added(change, activated_at)
        member = self._member(change.public_key)
        if member is None:
            return f"no member has the public key {change.public_key.hex()}"
        if member.leaves_at:
            return f"{member.validator.name} leaves already, with the epoch that ends at or after {member.leaves_at}"
        match change:
            case RemoveValidator():
                return self._removed(member, left_at)
            case RotateKey():
                return self._rotated(member, change, activated_at)
            case ChangeStake():
                smaller = change.stake < member.validator.stake
                return self._restaked(member, change.stake, left_at if smaller else activated_at)

    def _added(self, change: AddValidator, due_at: Height) -> tuple[tuple[Member, ...], Height] | str:
        if len(self.members) >= VALIDATORS_MAX:
            return f"there are {VALIDATORS_MAX} members, as many as there may be"
        if any(member.validator.name == change.name for member in self.members):
            return f"the name {change.name} is taken"
        fault = self._identity_fault(change.public_key, change.peer)
        if fault:
            return fault
        validator = Validator(
            name=change.name,
            stake=change.stake,
            public_key=change.public_key,
            possession_proof=change.possession_proof,
            peer=change.peer,
        )
        member = Member(validator=validator, operator=change.operator, address=change.address, joins_at=due_at)
        members = (*self.members, member)
        return self._concentration_fault(members, change.operator, due_at) or (members, due_at)

    def _removed(self, member: Member, due_at: Height) -> tuple[tuple[Member, ...], Height] | str:
        if member.joins_at:
            members, due_at = tuple(each for each in self.members if each is not member), member.joins_at
        else:
            members = self._replaced(member, replace(member, leaves_at=due_at))
        for boundary in self._boundaries(members):
            if not any(each.is_of(boundary) for each in members):
                return f"without {member.validator.name} nobody is left after height {boundary}"
        return members, due_at

    def _rotated(self, member: Member, change: RotateKey, due_at: Height) -> tuple[tuple[Member, ...], Height] | str:
        if member.rotation is not None:
            return f"{member.validator.name} rotates its key already, from height {member.rotation.due_at} on"
        if change.next_peer and len(change.next_peer) != HASH_SIZE:
            return f"next_peer has {len(change.next_peer)} bytes, not {HASH_SIZE}"
        next_peer = b"" if change.next_peer == member.validator.peer else change.next_peer
        fault = self._identity_fault(change.next_public_key, next_peer)
        if fault:
            return fault
        rotation = Rotation(
            public_key=change.next_public_key,
            possession_proof=change.next_possession_proof,
            peer=next_peer,
            due_at=due_at,
        )
        return self._replaced(member, replace(member, rotation=rotation)), due_at

    def _restaked(self, member: Member, stake: int, due_at: Height) -> tuple[tuple[Member, ...], Height] | str:
        if member.stake_change is not None:
            return f"the stake of {member.validator.name} changes already, from {member.stake_change.due_at} on"
        if stake == member.validator.stake:
            return f"the stake of {member.validator.name} is {stake} already"
        members = self._replaced(member, replace(member, stake_change=StakeChange(stake=stake, due_at=due_at)))
        if stake > member.validator.stake:
            return self._concentration_fault(members, member.operator, due_at) or (members, due_at)
        return members, due_at

    def _replaced(self, member: Member, by: Member) -> tuple[Member, ...]:
        return tuple(by if each is member else each for each in self.members)

    def _identity_fault(self, public_key: bytes, peer: bytes) -> str:
        """Why keys cannot be a member's next ones. ``peer`` is empty where it stays."""
        for member in self.members:
            rotation = member.rotation
            keys = (member.validator.public_key, rotation.public_key if rotation is not None else b"")
            if public_key in keys:
                return f"{member.validator.name} has, or will have, the public key {public_key.hex()}"
            peers = (member.validator.peer, rotation.peer if rotation is not None else b"")
            if peer and peer in peers:
                return f"{member.validator.name} has, or will have, the TLS key {peer.hex()}"
        return ""

    def _boundaries(self, members: Sequence[Member]) -> Iterator[Height]:
        """Every boundary at which something of ``members`` takes effect, ascending."""
        heights = {self.rules.boundary_from(height) for member in members for height in member.due_at}
        return iter(sorted(heights) or [0])

    def _concentration_fault(self, members: Sequence[Member], operator: str, due_at: Height) -> str:
        """Why ``operator`` must not grow: some set from ``due_at`` on would give it more than the cap."""
        percent = self.rules.reconfiguration.concentration_percent
        if percent == 100:
            return ""
        for boundary in self._boundaries(members):
            if boundary < due_at:
                continue
            present = [member for member in members if member.is_of(boundary)]
            stakes = [member.validator_at(boundary).stake for member in present]
            held = sum(stake for member, stake in zip(present, stakes, strict=True) if member.operator == operator)
            if held * 100 > percent * sum(stakes):
                return (
                    f"operator {operator} would hold {held} of {sum(stakes)} stake after height {boundary}, "
                    f"more than {percent} %"
                )
        return ""


def _possession_fault(change: Change, scheme: Scheme) -> str:
    match change:
        case AddValidator(public_key=public_key, possession_proof=proof):
            valid = scheme.check_public_key(public_key, proof)
        case RotateKey(next_public_key=public_key, next_possession_proof=proof):
            valid = scheme.check_public_key(public_key, proof)
        case _:
            return ""
    return "" if valid else f"the public key {public_key.hex()} or its possession proof is not valid"
