"""An epoch: one validator set, its leaders, its signing domain, and the certificate that its first block stands on.

The genesis certificate of an epoch is a pure function of (epoch, boundary block id, height, timestamp, validator-set
hash): view 0, unsigned. It is accepted byte-identical only, and nothing else may name the boundary block at any view
of the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from consensus.codec import digest
from consensus.election import LeaderSchedule, leader_schedule
from consensus.genesis import ChainSpec
from consensus.signing import SigningDomain
from consensus.types import BlockId, Certificate, Epoch, Hash, Height, Integer
from consensus.validators import ValidatorSet

GENESIS_KIND: Final = "genesis"


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


def first_epoch(spec: ChainSpec, validators: ValidatorSet) -> EpochInfo:
    """Epoch 0: its boundary block is the chain spec itself, at height 0."""
    chain = spec.hash
    return EpochInfo(
        epoch=0,
        chain=chain,
        validators=validators,
        leaders=leader_schedule(spec.election, validators, spec.pacing.views_per_leader, chain),
        domain=SigningDomain(chain_id=spec.chain_id, genesis_hash=chain, epoch=0, validators_hash=validators.hash),
        genesis=genesis_certificate(
            epoch=0,
            boundary_id=chain,
            height=0,
            timestamp_ms=spec.genesis_time_ms,
            validators_hash=validators.hash,
        ),
        boundary_timestamp_ms=spec.genesis_time_ms,
    )
