"""A chain whose validators change: governors, members' keys, and the changes that they sign."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from consensus.codec import encode
from consensus.crypto.ed25519 import Ed25519
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.genesis import ChainSpec, Reconfiguration, check_chain_spec
from consensus.reconfiguration import (
    AddValidator,
    Change,
    ChangeDomain,
    ChangeIgnored,
    ChangeOutcome,
    ChangeStake,
    RemoveValidator,
    RotateKey,
    SystemTransaction,
    approved_by_governors,
    approved_by_validator,
    sign_as_governor,
)
from consensus.registry import Registry
from tests.support.committee import committee

GOVERNORS = tuple(Ed25519().generate(hashlib.sha256(b"governor %d" % index).digest()) for index in range(3))
EXPIRES_AT = 10_000


@dataclass(frozen=True, kw_only=True)
class Governed:
    """A committee of ``validator-0`` and so on, under three governors of whom two are needed."""

    spec: ChainSpec
    scheme: Scheme
    keys: dict[bytes, SecretKey] = field(default_factory=dict)

    @property
    def domain(self) -> ChangeDomain:
        return ChangeDomain.of(self.spec)

    def registry(self) -> Registry:
        """Before the first block."""
        return Registry.first(self.spec, self.scheme)

    def key(self, name: str) -> SecretKey:
        """The key called ``name``: the same for the same name, and known to :meth:`own`."""
        key = self.scheme.generate(hashlib.sha256(f"key of {name}".encode()).digest())
        self.keys[key.public_key] = key
        return key

    def first(self, index: int) -> bytes:
        """The public key of one of the chain spec's validators."""
        return self.spec.validators[index].public_key

    def governed(self, change: Change, *governors: int) -> bytes:
        """The bytes of a change that these governors signed; by default the first two."""
        return encode(self.by_governors(change, *governors))

    def by_governors(self, change: Change, *governors: int) -> SystemTransaction:
        signatures = [
            sign_as_governor(self.domain, change, self._governors(), GOVERNORS[index]) for index in governors or (0, 1)
        ]
        return approved_by_governors(change, signatures)

    def own(self, change: RemoveValidator | RotateKey) -> bytes:
        """The bytes of a change that the member signed itself."""
        return encode(approved_by_validator(self.domain, change, self.keys[change.public_key]))

    def _governors(self) -> tuple[bytes, ...]:
        assert self.spec.reconfiguration is not None
        return self.spec.reconfiguration.governors

    # --- changes ---------------------------------------------------------------------------------------------

    def addition(self, name: str, /, **changes: Any) -> AddValidator:
        key = self.key(name)
        values: dict[str, Any] = {
            "name": name,
            "operator": name,
            "stake": 1,
            "public_key": key.public_key,
            "possession_proof": key.prove_possession(),
            "peer": hashlib.sha256(f"peer of {name}".encode()).digest(),
            "address": f"{name}:7000",
            "expires_at": EXPIRES_AT,
        }
        return AddValidator(**(values | changes))

    def rotation(self, public_key: bytes, name: str, *, peer: bytes = b"", expires_at: int = EXPIRES_AT) -> RotateKey:
        key = self.key(name)
        return RotateKey(
            public_key=public_key,
            next_public_key=key.public_key,
            next_possession_proof=key.prove_possession(),
            next_peer=peer,
            expires_at=expires_at,
        )

    def add(self, name: str, /, **changes: Any) -> bytes:
        return self.governed(self.addition(name, **changes))

    def remove(self, public_key: bytes, *, expires_at: int = EXPIRES_AT) -> bytes:
        return self.governed(RemoveValidator(public_key=public_key, expires_at=expires_at))

    def leave(self, public_key: bytes, *, expires_at: int = EXPIRES_AT) -> bytes:
        return self.own(RemoveValidator(public_key=public_key, expires_at=expires_at))

    def rotate(self, public_key: bytes, name: str, *, peer: bytes = b"", expires_at: int = EXPIRES_AT) -> bytes:
        return self.own(self.rotation(public_key, name, peer=peer, expires_at=expires_at))

    def restake(self, public_key: bytes, stake: int, *, expires_at: int = EXPIRES_AT) -> bytes:
        return self.governed(ChangeStake(public_key=public_key, stake=stake, expires_at=expires_at))


def governed(
    count: int = 4, *, scheme: str = "simulated", stakes: tuple[int, ...] | None = None, **reconfiguration: Any
) -> Governed:
    """A chain of ``count`` validators whose epochs can end at each multiple of 8 heights, unless told otherwise."""
    values: dict[str, Any] = {
        "epoch_heights": 8,
        "governors": tuple(key.public_key for key in GOVERNORS),
        "governors_needed": 2,
    }
    made = committee(count, scheme=scheme, stakes=stakes)
    spec = msgspec.structs.replace(made.spec, reconfiguration=Reconfiguration(**(values | reconfiguration)))
    check_chain_spec(spec, made.scheme)
    return Governed(spec=spec, scheme=made.scheme, keys={key.public_key: key for key in made.keys})


def fold(
    registry: Registry, heights: Iterable[int], blocks: Mapping[int, list[bytes]] | None = None
) -> tuple[Registry, list[ChangeOutcome]]:
    """The registry after these heights, and all outcomes in order."""
    outcomes: list[ChangeOutcome] = []
    for height in heights:
        registry, of_block = registry.after(height, (blocks or {}).get(height, []))
        outcomes += of_block
    return registry, outcomes


def names(registry: Registry) -> list[str]:
    return [validator.name for validator in registry.validators]


def reason(registry: Registry, transaction: bytes, height: int = 1) -> str:
    """Why a transaction is ignored. It then changes nothing."""
    outcome = registry.judge(height, transaction)
    assert isinstance(outcome, ChangeIgnored), outcome
    folded = registry.after(height, [transaction])
    assert folded.registry == registry.after(height).registry
    assert folded.outcomes == (outcome,)
    return outcome.reason
