"""The points of BLS12-381 through py-arkworks-bls12381, for Python 3.13 and later, for which blspy has no wheels. See
``Points`` in ``bls.py``.

arkworks does not promise that a multiplication by a secret takes the same time for every secret, as blst does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from consensus.crypto.bls_points import KEYS_CACHED, POSSESSION_DOMAIN, SIGNATURE_DOMAIN, KeyPoint, SignaturePoint

_KEY_IDENTITY: Final = G1Point.identity()
_SIGNATURE_IDENTITY: Final = G2Point.identity()
_GENERATOR: Final = G1Point()
_GENERATOR_NEGATED: Final = -G1Point()


def public_key(secret: bytes) -> bytes:
    return (_GENERATOR * Scalar.from_be_bytes(secret)).to_compressed_bytes()


def sign(secret: bytes, message: bytes) -> bytes:
    return _signed(secret, message, SIGNATURE_DOMAIN)


def prove_possession(secret: bytes) -> bytes:
    return _signed(secret, public_key(secret), POSSESSION_DOMAIN)


@lru_cache(maxsize=KEYS_CACHED)
def parse_key(data: bytes) -> KeyPoint | None:
    try:
        key = G1Point.from_compressed_bytes(data)  # on the curve and in the subgroup
    except ValueError:
        return None
    # The identity is also the one point of which arkworks reads a second encoding (any bytes behind its flag).
    return None if key == _KEY_IDENTITY else key


def parse_signature(data: bytes) -> SignaturePoint | None:
    try:
        signature = G2Point.from_compressed_bytes(data)
    except ValueError:
        return None
    return None if signature == _SIGNATURE_IDENTITY else signature


def parse_part(data: bytes) -> SignaturePoint | None:
    try:
        part = G2Point.from_compressed_bytes_unchecked(data)  # on the curve, the subgroup unchecked
    except ValueError:
        return None
    return None if part == _SIGNATURE_IDENTITY else part


def add_keys(keys: Sequence[KeyPoint]) -> KeyPoint | None:
    total = keys[0]
    for key in keys[1:]:
        total = total + key
    return None if total == _KEY_IDENTITY else total


def add_signatures(signatures: Sequence[SignaturePoint]) -> SignaturePoint | None:
    total = signatures[0]
    for signature in signatures[1:]:
        total = total + signature
    return None if total == _SIGNATURE_IDENTITY else total


def signature_bytes(signature: SignaturePoint) -> bytes:
    return bytes(signature.to_compressed_bytes())


def verify(keys: Sequence[KeyPoint], messages: Sequence[bytes], signature: SignaturePoint) -> bool:
    return _holds(keys, [G2Point.hash_to_curve(message, SIGNATURE_DOMAIN) for message in messages], signature)


def verify_possession(key: KeyPoint, proof: SignaturePoint) -> bool:
    return _holds([key], [G2Point.hash_to_curve(key.to_compressed_bytes(), POSSESSION_DOMAIN)], proof)


def _signed(secret: bytes, message: bytes, domain: bytes) -> bytes:
    return (G2Point.hash_to_curve(message, domain) * Scalar.from_be_bytes(secret)).to_compressed_bytes()


def _holds(keys: Sequence[KeyPoint], hashes: Sequence[G2Point], signature: SignaturePoint) -> bool:
    return GT.pairing_check([_GENERATOR_NEGATED, *keys], [signature, *hashes])
