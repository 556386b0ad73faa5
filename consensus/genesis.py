"""The chain spec: everything that every node of a chain must agree on before its first block, and its hash.

A node is configured with a chain spec; its canonical bytes hash to the genesis hash, which every header, signature
and hello names.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, digest
from consensus.crypto.ed25519 import is_public_key
from consensus.crypto.scheme import Scheme
from consensus.types import BODY_SIZE_MAX, VALIDATORS_MAX, Integer, ShortText
from consensus.validators import Validator, ValidatorSet

Positive = Annotated[int, Meta(ge=1, le=2**53)]

PAYLOAD_SIZE_LEAST: Final = 1024
DELAY_HEIGHTS_MAX: Final = 2**53
GOVERNORS_MAX: Final = 64
CHECKPOINT_INTERVAL_DEFAULT: Final = 32
LINKS_ROLLUP: Final = 2**64 - 2
"""Where a payload has finality's link certificates; never in ``ChainSpec.rollups`` either."""
SYSTEM_ROLLUP: Final = 2**64 - 1
"""The rollup id of the chain's own transactions, which change its validators (``reconfiguration.py``). Never one of
``ChainSpec.rollups``; ordered only by a chain with a ``reconfiguration``."""


UNFINISHED_EPOCHS_MAX: Final = 16
"""Epochs whose validators finality may need at once: those since the last hand-over. Beyond, it never goes on."""
HANDOVER_INTERVALS: Final = 4
"""Checkpoint intervals within which a boundary is handed over while all is well: one up to the next checkpoint, one for
the link that finalizes it, the rest for votes and certificates on their way."""


class Pacing(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """How fast views go. The duration of a view is ``base * numerator**e // denominator**e`` with
    ``e = max(0, min(exponent_max, view - last_committed_view - depth))``; an idle leader waits ``idle_interval_ms``
    before it proposes."""

    view_timeout_ms: Positive = 1500
    growth_numerator: Positive = 6
    growth_denominator: Positive = 5
    exponent_max: Annotated[int, Meta(ge=0, le=64)] = 16
    idle_interval_ms: Positive = 1000
    views_per_leader: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Reconfiguration(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """How the validator set changes. An epoch can end at each multiple of ``epoch_heights``, and does where a change is
    due. A change that a block at height h orders is due from height ``h + activation_heights`` on (a removal:
    ``h + exit_heights``).

    ``governors`` are Ed25519 public keys (32 bytes); additions and removals carry the signatures of
    ``governors_needed`` of them. A validator rotates its own key, and leaves, by its own signature. No operator holds
    more than ``concentration_percent`` of the stake; 100 is no cap.
    """

    epoch_heights: Positive = 64
    activation_heights: Integer = 0
    exit_heights: Integer = 0
    governors: Annotated[
        tuple[Annotated[bytes, Meta(min_length=32, max_length=32)], ...], Meta(max_length=GOVERNORS_MAX)
    ] = ()
    governors_needed: Annotated[int, Meta(ge=1, le=GOVERNORS_MAX)] = 1
    concentration_percent: Annotated[int, Meta(ge=1, le=100)] = 100


class ChainSpec(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """The constants of a chain. ``rollups`` are the ids whose transactions it orders, ascending.
    ``deduplication_heights`` is K of the design: a transaction is ordered at most once within K heights, and its
    expiry lies at most K heights ahead. ``election`` is ``round-robin`` or ``stake-weighted``.
    ``checkpoint_interval`` is that of Casper FFG in blocks; 0 runs the chain without it. ``reconfiguration`` None: the
    validators never change."""

    chain_id: ShortText
    genesis_time_ms: Integer
    protocol: ShortText
    scheme: ShortText
    validators: Annotated[tuple[Validator, ...], Meta(min_length=1, max_length=VALIDATORS_MAX)]
    rollups: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=4096)]
    election: ShortText = "round-robin"
    pacing: Pacing = Pacing()
    payload_size_max: Positive = 2 * 1024 * 1024
    transaction_size_max: Positive = 128 * 1024
    deduplication_heights: Positive = 256
    timestamp_drift_ms: Positive = 500
    checkpoint_interval: Integer = CHECKPOINT_INTERVAL_DEFAULT
    reconfiguration: Reconfiguration | None = None

    @property
    def hash(self) -> bytes:
        """The genesis hash (32 bytes)."""
        return digest(self)


chain_specs = Canonical(ChainSpec)


def check_chain_spec(spec: ChainSpec, scheme: Scheme) -> ValidatorSet:
    """The first epoch's validator set, after everything a stranger could get wrong was checked. Raises ``ValueError``
    naming the field.

    ``scheme`` is the one that ``spec.scheme`` names. Possession proofs are checked here, at registration, and nowhere
    later.
    """
    if scheme.name != spec.scheme:
        raise ValueError(f"scheme: the spec names {spec.scheme!r}, this is {scheme.name!r}")
    if spec.rollups != tuple(sorted(dict.fromkeys(spec.rollups))):
        raise ValueError("rollups: ids must be ascending and distinct")
    if spec.rollups and spec.rollups[-1] >= LINKS_ROLLUP:
        raise ValueError(f"rollups: ids must be below {LINKS_ROLLUP}; it and the one above are the chain's own")
    if spec.pacing.idle_interval_ms >= spec.pacing.view_timeout_ms:
        raise ValueError("pacing.idle_interval_ms: must be below pacing.view_timeout_ms, or idle leaders time out")
    if spec.pacing.growth_numerator < spec.pacing.growth_denominator:
        raise ValueError("pacing.growth_numerator: must be at least pacing.growth_denominator, or timeouts shrink")
    if spec.payload_size_max > BODY_SIZE_MAX:
        raise ValueError(f"payload_size_max: the wire carries at most {BODY_SIZE_MAX} bytes")
    if spec.payload_size_max < PAYLOAD_SIZE_LEAST:
        raise ValueError(f"payload_size_max: at least {PAYLOAD_SIZE_LEAST} bytes, or no transaction fits")
    if spec.transaction_size_max > spec.payload_size_max // 2:
        raise ValueError("transaction_size_max: must be at most half of payload_size_max")
    for position, validator in enumerate(spec.validators):
        if not scheme.check_public_key(validator.public_key, validator.possession_proof):
            raise ValueError(f"validators[{position}] ({validator.name}): public key or possession proof is not valid")
    validators = ValidatorSet(spec.validators)
    if spec.reconfiguration is not None:
        _check_reconfiguration(spec.reconfiguration, validators)
    return validators


def epoch_heights_least(checkpoint_interval: int) -> int:
    """The least ``epoch_heights`` with which finality hands over to new sets faster than they can change. Below that,
    one validator that rotates its key at every end of an epoch stops finality for good."""
    return max(1, -(-HANDOVER_INTERVALS * checkpoint_interval // UNFINISHED_EPOCHS_MAX))


def check_handover(spec: ChainSpec) -> None:
    """Raise ``ValueError`` where epochs are too short for finality (:func:`epoch_heights_least`). For whoever makes a
    chain or takes part in it; apart from :func:`check_chain_spec`, since its blocks verify as any other's."""
    least = epoch_heights_least(spec.checkpoint_interval)
    if spec.reconfiguration is not None and spec.reconfiguration.epoch_heights < least:
        raise ValueError(
            f"reconfiguration.epoch_heights: epochs of {spec.reconfiguration.epoch_heights} blocks with checkpoints "
            f"{spec.checkpoint_interval} blocks apart (checkpoint_interval): one validator that rotates its key again "
            f"and again would stop finality for good. Make epochs of at least {least} blocks, or set checkpoints "
            "closer together"
        )


def _check_reconfiguration(reconfiguration: Reconfiguration, validators: ValidatorSet) -> None:
    for name in ("activation_heights", "exit_heights"):
        if getattr(reconfiguration, name) > DELAY_HEIGHTS_MAX:
            raise ValueError(f"reconfiguration.{name}: at most {DELAY_HEIGHTS_MAX}")
    governors = reconfiguration.governors
    for position, governor in enumerate(governors):
        if not is_public_key(governor):
            raise ValueError(f"reconfiguration.governors[{position}]: {governor.hex()} is no Ed25519 public key")
        if governor in governors[:position]:
            raise ValueError(f"reconfiguration.governors[{position}]: {governor.hex()} stands there twice")
    if governors and reconfiguration.governors_needed > len(governors):
        raise ValueError(
            f"reconfiguration.governors_needed: {reconfiguration.governors_needed}, but there are {len(governors)}"
        )
    # The operator of each of these is its own name, and names differ.
    percent = reconfiguration.concentration_percent
    for position, validator in enumerate(validators.validators):
        if validator.stake * 100 > percent * validators.total:
            raise ValueError(
                f"validators[{position}] ({validator.name}): holds {validator.stake} of {validators.total} stake, more "
                f"than reconfiguration.concentration_percent, {percent}, allows"
            )
