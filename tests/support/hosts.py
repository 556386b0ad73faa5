"""Hosts by number: their keys, and the validator sets that they make up.

::

    members(scheme, 0, 1, 2, 3)                 # the validators of ``committee(4)``
    members(scheme, 2, 3, 4, stakes=(1, 1, 5))
    members(scheme, 0, 1, 2, 3, rotated=(1,))   # host 1 with its second key
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from consensus.crypto.scheme import Scheme, SecretKey
from consensus.types import PeerId
from consensus.validators import Validator, ValidatorSet

GENERATIONS = 2
"""Keys of each host."""


def secret(scheme: Scheme, number: int, generation: int = 0) -> SecretKey:
    """A host's first or second key."""
    return scheme.generate(hashlib.sha256(f"key {number}{' again' * generation}".encode()).digest())


def peer(number: int) -> PeerId:
    """The transport's name of a host."""
    return hashlib.sha256(f"peer {number}".encode()).digest()


def keys(scheme: Scheme, number: int) -> dict[bytes, SecretKey]:
    """All keys of a host, by public key."""
    secrets = [secret(scheme, number, generation) for generation in range(GENERATIONS)]
    return {each.public_key: each for each in secrets}


def member(scheme: Scheme, number: int, *, stake: int = 1, generation: int = 0) -> Validator:
    """A host as a validator."""
    key = secret(scheme, number, generation)
    return Validator(
        name=f"validator-{number}",
        stake=stake,
        public_key=key.public_key,
        possession_proof=key.prove_possession(),
        peer=peer(number),
    )


def members(
    scheme: Scheme, *numbers: int, stakes: Sequence[int] | None = None, rotated: Sequence[int] = ()
) -> ValidatorSet:
    """Hosts as a validator set, each of stake 1 unless ``stakes`` says otherwise; ``rotated`` ones with their second
    key."""
    return ValidatorSet(
        tuple(
            member(scheme, number, stake=1 if stakes is None else stakes[place], generation=int(number in rotated))
            for place, number in enumerate(numbers)
        )
    )
