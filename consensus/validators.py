"""Validator sets and stake arithmetic: integers only, strictly more than two thirds.

With total stake W: quorum ``Q = 2W//3 + 1`` (the least stake q with 3q > 2W), amplification ``A = W - Q + 1`` (any
set of that stake holds an honest validator when at most F is faulty), tolerated faulty stake ``F = W - Q``. Any two
quorums share more than W/3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from consensus.codec import digest
from consensus.types import VALIDATORS_MAX, Hash, PeerId, ShortText, ValidatorIndex

STAKE_MAX = 2**53


class Validator(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """One member. ``peer`` is the SHA-256 of its TLS public key; ``possession_proof`` shows that it holds the secret
    of ``public_key``."""

    name: ShortText
    stake: Annotated[int, Meta(ge=1, le=STAKE_MAX)]
    public_key: Annotated[bytes, Meta(max_length=48)]
    possession_proof: Annotated[bytes, Meta(max_length=96)]
    peer: Hash


class _Members(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    validators: tuple[Validator, ...]


class ValidatorSet:
    """An epoch's validators in their fixed order; an index into it names a signer. Raises ``ValueError`` for a set
    that cannot be one."""

    __slots__ = (
        "amplification",
        "faulty_max",
        "hash",
        "index_of",
        "public_keys",
        "quorum",
        "stakes",
        "total",
        "validators",
    )

    def __init__(self, validators: tuple[Validator, ...]) -> None:
        if not 1 <= len(validators) <= VALIDATORS_MAX:
            raise ValueError(f"a validator set has 1 to {VALIDATORS_MAX} members, not {len(validators)}")
        for field in ("name", "public_key", "peer"):
            values = [getattr(validator, field) for validator in validators]
            if len(dict.fromkeys(values)) != len(values):
                raise ValueError(f"two validators share one {field}")
        if any(validator.stake < 1 for validator in validators):
            raise ValueError("every validator's stake is at least 1")
        self.validators = validators
        self.stakes = tuple(validator.stake for validator in validators)
        self.public_keys = tuple(validator.public_key for validator in validators)
        self.total = sum(self.stakes)
        self.quorum = quorum(self.total)
        self.amplification = self.total - self.quorum + 1
        self.faulty_max = self.total - self.quorum
        self.hash = digest(_Members(validators=validators))
        by_peer = {validator.peer: index for index, validator in enumerate(validators)}
        self.index_of: Callable[[PeerId], ValidatorIndex | None] = by_peer.get
        """The validator whose TLS key this is, or None for an observer."""

    def __len__(self) -> int:
        return len(self.validators)

    def peer_of(self, index: ValidatorIndex) -> PeerId:
        """The peer to send to. ``index`` is below ``len(self)``."""
        return self.validators[index].peer

    def stake_of(self, signers: Iterable[ValidatorIndex]) -> int:
        """The stake of distinct signers, each below ``len(self)``."""
        return sum(map(self.stakes.__getitem__, signers))


def quorum(total_stake: int) -> int:
    """The least stake that is strictly more than two thirds of ``total_stake``."""
    return 2 * total_stake // 3 + 1
