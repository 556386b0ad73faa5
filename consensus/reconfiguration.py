"""System transactions: how a running chain is asked to change its validators, and who must have signed.

A system transaction is an ordinary transaction of rollup :data:`~consensus.genesis.SYSTEM_ROLLUP`: ordered, proved and
followed like any other. What it does is decided by the registry (``registry.py``) that every node folds from the chain.

======================= ================================================ =========================
change                  what it asks for                                 approved by
======================= ================================================ =========================
:class:`AddValidator`   a new member                                     governors
:class:`RemoveValidator` a member leaves                                 governors, or the member
:class:`RotateKey`      a member's next key, and TLS key where it says so the member
:class:`ChangeStake`    a member's next stake                            governors
======================= ================================================ =========================

*Governors* are the Ed25519 keys of the chain spec (``Reconfiguration.governors``); at least ``governors_needed``
different ones sign. A *member* signs with the consensus key that it has in the epoch that orders the transaction.

**What is signed**: ``canonical([purpose, chain id, genesis hash])`` and then the canonical change. The purpose names
the role, so a governor's signature is never a member's. The array has three elements where that of a ``SigningDomain``
has five, and a possession proof begins with a text: no signature of one kind is ever one of another.

**Once only.** Each change ends at height ``expires_at``, at most :data:`LIFETIME_HEIGHTS_MAX` ahead of the block that
orders it, and the registry remembers the digests of accepted changes until then. A change that was accepted is
therefore never accepted again, whoever submits it and whatever has happened since: an old ``add`` does not undo a
``remove``. The digest leaves out the signatures, of which one change may have many valid sets. Whoever wants the same
change twice signs it with another ``expires_at``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, encode
from consensus.crypto.ed25519 import Ed25519
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.genesis import GOVERNORS_MAX, ChainSpec
from consensus.types import Hash, Height, Integer, OptionalHash, Signature
from consensus.validators import STAKE_MAX

LIFETIME_HEIGHTS_MAX: Final = 2**20
"""A change expires at most so many heights after the block that orders it: twelve days at one block a second."""
TRANSACTION_SIZE_MAX: Final = 8 * 1024
"""Bytes of one system transaction: 64 governors' signatures and the largest change fit."""

Name: TypeAlias = Annotated[str, Meta(pattern=r"\A[!-~]([ -~]{0,62}[!-~])?\Z")]
"""1 to 64 printable ASCII characters, no space at either end: what people compare by eye."""
Address: TypeAlias = Annotated[str, Meta(pattern=r"\A[!-~]{0,255}\Z")]
"""``host:port``, or empty for a validator that others need not dial. For the transport; nothing here reads it."""
Stake: TypeAlias = Annotated[int, Meta(ge=1, le=STAKE_MAX)]
PublicKey: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=48)]
PossessionProof: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=96)]
Role: TypeAlias = Literal["governor", "validator"]


class AddValidator(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1
):
    """A new member. ``operator`` is who runs it, for the concentration cap; ``peer`` the SHA-256 of its TLS public
    key."""

    name: Name
    operator: Name
    stake: Stake
    public_key: PublicKey
    possession_proof: PossessionProof
    peer: Hash
    address: Address
    expires_at: Integer


class RemoveValidator(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2
):
    """The member with this consensus key leaves; it votes until the change takes effect."""

    public_key: PublicKey
    expires_at: Integer


class RotateKey(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3
):
    """The member with ``public_key`` signs with ``next_public_key`` from the epoch on that the change takes effect in.
    ``next_peer`` is its TLS key from then on; empty for the same as before."""

    public_key: PublicKey
    next_public_key: PublicKey
    next_possession_proof: PossessionProof
    next_peer: OptionalHash
    expires_at: Integer


class ChangeStake(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=4
):
    """The member with ``public_key`` has ``stake`` from the epoch on that the change takes effect in."""

    public_key: PublicKey
    stake: Stake
    expires_at: Integer


Change: TypeAlias = AddValidator | RemoveValidator | RotateKey | ChangeStake


class GovernorSignature(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True
):
    """One governor's signature; ``governor`` is its index in the chain spec."""

    governor: Annotated[int, Meta(ge=0, lt=GOVERNORS_MAX)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class ByGovernors(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1
):
    """Signatures of different governors, ascending by index."""

    signatures: Annotated[tuple[GovernorSignature, ...], Meta(min_length=1, max_length=GOVERNORS_MAX)]


class ByValidator(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=2
):
    """The signature of the member that the change is about, by the consensus key that the change names."""

    signature: Signature


Approval: TypeAlias = ByGovernors | ByValidator


class SystemTransaction(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True
):
    """The data of one transaction of the system rollup."""

    change: Change
    approval: Approval


system_transactions: Final = Canonical(SystemTransaction)


class ChangeAccepted(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, tag=1):
    """It takes effect with the epoch that begins after the block at ``effective_at``, unless a later one undoes it."""

    effective_at: Integer


class ChangeIgnored(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, tag=2):
    """It stands in the chain and changes nothing. ``reason`` is for the person who sent it, the same on every node."""

    reason: str


ChangeOutcome: TypeAlias = ChangeAccepted | ChangeIgnored


class _Purpose(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    purpose: str
    chain_id: str
    genesis_hash: Hash


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeDomain:
    """The chain that a signature over a change is good for."""

    chain_id: str
    genesis_hash: bytes

    @classmethod
    def of(cls, spec: ChainSpec) -> ChangeDomain:
        """The domain of a chain."""
        return cls(chain_id=spec.chain_id, genesis_hash=spec.hash)

    def bytes_to_sign(self, change: Change, role: Role) -> bytes:
        """The exact bytes that a signature over ``change`` covers."""
        purpose = f"shared-sequencer/reconfiguration/{role}"
        return encode(_Purpose(purpose=purpose, chain_id=self.chain_id, genesis_hash=self.genesis_hash)) + encode(
            change
        )


def change_digest(change: Change) -> bytes:
    """What a change is remembered by: SHA-256 of its canonical bytes (32 bytes), without its approval."""
    return hashlib.sha256(encode(change)).digest()


# --- making them -------------------------------------------------------------------------------------------------


def sign_as_governor(
    domain: ChangeDomain, change: Change, governors: Sequence[bytes], key: SecretKey
) -> GovernorSignature:
    """One governor's part. Raises ``ValueError`` for a key that is none of ``governors``."""
    if key.public_key not in governors:
        raise ValueError(f"public key {key.public_key.hex()} is no governor's: genesis.json lists the governors")
    signature = key.sign(domain.bytes_to_sign(change, "governor"))
    return GovernorSignature(governor=governors.index(key.public_key), signature=signature)


def approved_by_governors(change: Change, signatures: Sequence[GovernorSignature]) -> SystemTransaction:
    """The transaction of collected signatures, in any order; one governor's twice counts once."""
    by_governor = {signature.governor: signature for signature in signatures}
    ordered = tuple(by_governor[governor] for governor in sorted(by_governor))
    return SystemTransaction(change=change, approval=ByGovernors(signatures=ordered))


def approved_by_validator(domain: ChangeDomain, change: Change, key: SecretKey) -> SystemTransaction:
    """The transaction of a member: a rotation, or its own removal. ``key`` is the one that the change names."""
    signature = key.sign(domain.bytes_to_sign(change, "validator"))
    return SystemTransaction(change=change, approval=ByValidator(signature=signature))


# --- judging the approval ----------------------------------------------------------------------------------------


def approval_fault(
    transaction: SystemTransaction,
    domain: ChangeDomain,
    scheme: Scheme,
    *,
    governors: Sequence[bytes],
    governors_needed: int,
) -> str:
    """Why a transaction is not approved by those who may ask for its change; empty when it is."""
    change = transaction.change
    match transaction.approval:
        case ByGovernors(signatures=signatures):
            if isinstance(change, RotateKey):
                return "a key is rotated by its holder's signature, not by governors"
            return _governors_fault(domain.bytes_to_sign(change, "governor"), signatures, governors, governors_needed)
        case ByValidator(signature=signature):
            if isinstance(change, AddValidator | ChangeStake):
                return "this change needs the governors' signatures"
            if not scheme.verify(change.public_key, domain.bytes_to_sign(change, "validator"), signature):
                return f"the signature is not that of {change.public_key.hex()} over this change on this chain"
            return ""


def _governors_fault(
    message: bytes, signatures: Sequence[GovernorSignature], governors: Sequence[bytes], needed: int
) -> str:
    indices = [signature.governor for signature in signatures]
    if indices != sorted(dict.fromkeys(indices)):
        return "the governors' signatures are not ascending, each governor once"
    if len(indices) < needed:
        return f"signed by {len(indices)} governors, of whom {needed} are needed"
    if indices[-1] >= len(governors):
        return f"governor {indices[-1]} is not in the chain spec, which has {len(governors)}"
    for signature in signatures:
        if not Ed25519().verify(governors[signature.governor], message, signature.signature):
            return f"the signature of governor {signature.governor} is not over this change on this chain"
    return ""


def own_key(data: bytes) -> bytes:
    """The key of the member that a transaction says has approved it; empty where none has. Nothing is verified."""
    transaction = system_transactions.decode(data)
    if isinstance(transaction, Malformed) or not isinstance(transaction.approval, ByValidator):
        return b""
    return transaction.change.public_key


def expiry_fault(change: Change, height: Height) -> str:
    """Why a block at ``height`` is too late or too early for a change; empty when it is not."""
    if change.expires_at < height:
        return f"expired at height {change.expires_at}, this is {height}: sign it anew with a later expires_at"
    if change.expires_at > height + LIFETIME_HEIGHTS_MAX:
        return f"expires_at {change.expires_at} is more than {LIFETIME_HEIGHTS_MAX} heights ahead of {height}"
    return ""
