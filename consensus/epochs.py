"""An epoch: one validator set, its leaders, its signing domain, and the certificate that its first block stands on.

The genesis certificate of an epoch is a pure function of (epoch, boundary block id, height, timestamp, validator-set
hash): view 0, unsigned. It is accepted byte-identical only, and nothing else may name the boundary block at any view
of the epoch.

The boundary block names the next validator set (``BlockHeader.next_validators_hash``). Its descendants in the old epoch
carry no payload, say so by their payload root, and are never handed to a ledger: every commit ends at the boundary.
Committing it, by whatever proof, ends the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, digest
from consensus.election import LeaderSchedule, leader_schedule
from consensus.genesis import ChainSpec
from consensus.signing import SigningDomain
from consensus.types import (
    HASH_SIZE,
    VALIDATORS_MAX,
    BlockHeader,
    BlockId,
    Certificate,
    CommitProof,
    Epoch,
    Hash,
    Height,
    Integer,
)
from consensus.validators import Validator, ValidatorSet

GENESIS_KIND: Final = "genesis"
CLOSING_PAYLOAD_ROOT: Final = b"\xff" * HASH_SIZE
"""The payload root of a block between the boundary and the end of its epoch, whose body is empty. No payload has it, so
that a header shows by itself that its block is never committed. (Otherwise the honest votes that commit the boundary
would also prove to a stranger that an empty block stands where the next epoch's first block does.)"""


class _Boundary(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    epoch: Integer
    block_id: Hash
    height: Integer
    timestamp_ms: Integer
    validators_hash: Hash


def genesis_certificate(
    *, epoch: Epoch, boundary_id: BlockId, height: Height, timestamp_ms: int, validators_hash: bytes
) -> Certificate:
    """The unsigned certificate of an epoch's boundary. Its ``signature`` field holds the hash of all that it is a
    function of."""
    boundary = _Boundary(
        epoch=epoch, block_id=boundary_id, height=height, timestamp_ms=timestamp_ms, validators_hash=validators_hash
    )
    return Certificate(
        kind=GENESIS_KIND,
        epoch=epoch,
        view=0,
        block_id=boundary_id,
        height=height,
        justify_view=0,
        signers=b"",
        signature=digest(boundary),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochInfo:
    """Everything that is constant during an epoch. ``boundary_timestamp_ms`` is the timestamp that the first block
    must exceed."""

    epoch: Epoch
    chain: bytes
    validators: ValidatorSet
    leaders: LeaderSchedule
    domain: SigningDomain
    genesis: Certificate
    boundary_timestamp_ms: int


class EpochChange(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """How one epoch follows another: ``boundary`` is the last block of the old one, ``proof`` shows it committed by the
    old one's validators, and ``validators`` are those that ``boundary.next_validators_hash`` names. The proof differs
    between nodes and is hashed into nothing."""

    boundary: BlockHeader
    validators: Annotated[tuple[Validator, ...], Meta(min_length=1, max_length=VALIDATORS_MAX)]
    proof: CommitProof

    @property
    def epoch(self) -> Epoch:
        """The epoch that begins."""
        return self.boundary.epoch + 1


epoch_changes: Final = Canonical(EpochChange)


def first_epoch(spec: ChainSpec, validators: ValidatorSet) -> EpochInfo:
    """Epoch 0: its boundary block is the chain spec itself, at height 0."""
    chain = spec.hash
    return _epoch(spec, 0, validators, boundary_id=chain, height=0, timestamp_ms=spec.genesis_time_ms)


def epoch_after(spec: ChainSpec, boundary: BlockHeader, validators: ValidatorSet) -> EpochInfo:
    """The epoch that begins after ``boundary``, which is committed. Its leaders are drawn from the boundary's id.
    Raises ``ValueError`` for validators that the boundary does not name."""
    if validators.hash != boundary.next_validators_hash:
        raise ValueError(
            f"epoch {boundary.epoch + 1}: the boundary at height {boundary.height} names validators "
            f"{boundary.next_validators_hash.hex() or 'none'}, these are {validators.hash.hex()}"
        )
    return _epoch(
        spec,
        boundary.epoch + 1,
        validators,
        boundary_id=digest(boundary),
        height=boundary.height,
        timestamp_ms=boundary.timestamp_ms,
    )


def _epoch(
    spec: ChainSpec, epoch: Epoch, validators: ValidatorSet, *, boundary_id: BlockId, height: Height, timestamp_ms: int
) -> EpochInfo:
    chain = spec.hash
    return EpochInfo(
        epoch=epoch,
        chain=chain,
        validators=validators,
        leaders=leader_schedule(spec.election, validators, spec.pacing.views_per_leader, boundary_id),
        domain=SigningDomain(chain_id=spec.chain_id, genesis_hash=chain, epoch=epoch, validators_hash=validators.hash),
        genesis=genesis_certificate(
            epoch=epoch,
            boundary_id=boundary_id,
            height=height,
            timestamp_ms=timestamp_ms,
            validators_hash=validators.hash,
        ),
        boundary_timestamp_ms=timestamp_ms,
    )
