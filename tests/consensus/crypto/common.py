"""The schemes that the tests run over, and committees of keys."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Final, cast

from consensus.crypto.bls import Bls
from consensus.crypto.bls_points import Points
from consensus.crypto.ed25519 import Ed25519
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.crypto.simulated import Simulated

MESSAGE: Final = b"a vote for block 7"
OTHER_MESSAGE: Final = b"a vote for block 8"
SEED: Final = bytes(range(32))

_LIBRARIES: Final = {"blspy": "bls_blspy", "py_arkworks_bls12381": "bls_arkworks"}


def bls_points() -> dict[str, Points]:
    """Each library that is installed, by the name of its scheme here: at least the one that this Python uses."""
    installed = {name: module for name, module in _LIBRARIES.items() if find_spec(name) is not None}
    return {
        f"bls-{name}": cast("Points", import_module(f"consensus.crypto.{module}")) for name, module in installed.items()
    }


def bls_schemes() -> dict[str, Bls]:
    """BLS over each library that is installed."""
    return {name: Bls(points) for name, points in bls_points().items()}


SCHEMES: Final[dict[str, Scheme]] = {"ed25519": Ed25519(), "simulated": Simulated(), **bls_schemes()}


@cache
def committee(name: str, size: int = 4) -> tuple[SecretKey, ...]:
    """Keys of the scheme called ``name`` here, always the same ones."""
    return tuple(SCHEMES[name].generate(bytes([index]) * 32) for index in range(1, size + 1))


def public_keys(keys: Sequence[SecretKey]) -> tuple[bytes, ...]:
    return tuple(key.public_key for key in keys)


def signed(scheme: Scheme, keys: Sequence[SecretKey], message: bytes) -> bytes:
    """The aggregate of the keys' signatures."""
    aggregate = scheme.aggregate([key.sign(message) for key in keys])
    assert aggregate is not None
    return aggregate


def flipped(data: bytes, bit: int) -> bytes:
    """``data`` with one bit changed; ``bit`` counts from the first byte's highest."""
    changed = bytearray(data)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)
