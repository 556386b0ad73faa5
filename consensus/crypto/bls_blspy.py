"""The points of BLS12-381 through blspy (the blst library), for Python below 3.13. See ``Points`` in ``bls.py``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from blspy import G1Element, G2Element, PopSchemeMPL, PrivateKey

from consensus.crypto.bls_points import KEYS_CACHED, KeyPoint, SignaturePoint

_KEY_IDENTITY: Final[KeyPoint] = G1Element()
_SIGNATURE_IDENTITY: Final[SignaturePoint] = G2Element()


def public_key(secret: bytes) -> bytes:
    return bytes(PrivateKey.from_bytes(secret).get_g1())


def sign(secret: bytes, message: bytes) -> bytes:
    return bytes(PopSchemeMPL.sign(PrivateKey.from_bytes(secret), message))


def prove_possession(secret: bytes) -> bytes:
    return bytes(PopSchemeMPL.pop_prove(PrivateKey.from_bytes(secret)))


@lru_cache(maxsize=KEYS_CACHED)
def parse_key(data: bytes) -> KeyPoint | None:
    try:
        key = G1Element.from_bytes(data)  # on the curve, in the subgroup, canonical
    except ValueError:
        return None
    return None if key == _KEY_IDENTITY else key


def parse_signature(data: bytes) -> SignaturePoint | None:
    try:
        signature = G2Element.from_bytes(data)
    except ValueError:
        return None
    return None if signature == _SIGNATURE_IDENTITY else signature


def parse_part(data: bytes) -> SignaturePoint | None:
    try:
        part = G2Element.from_bytes_unchecked(data)  # on the curve and canonical, the subgroup unchecked
    except ValueError:
        return None
    return None if part == _SIGNATURE_IDENTITY else part


def add_keys(keys: Sequence[KeyPoint]) -> KeyPoint | None:
    total = keys[0]
    for key in keys[1:]:
        total = total + key
    return None if total == _KEY_IDENTITY else total


def add_signatures(signatures: Sequence[SignaturePoint]) -> SignaturePoint | None:
    total = PopSchemeMPL.aggregate(list(signatures))
    return None if total == _SIGNATURE_IDENTITY else total


def signature_bytes(signature: SignaturePoint) -> bytes:
    return bytes(signature)


def verify(keys: Sequence[KeyPoint], messages: Sequence[bytes], signature: SignaturePoint) -> bool:
    if len(keys) == 1:
        return bool(PopSchemeMPL.verify(keys[0], messages[0], signature))
    return bool(PopSchemeMPL.aggregate_verify(list(keys), list(messages), signature))


def verify_possession(key: KeyPoint, proof: SignaturePoint) -> bool:
    return bool(PopSchemeMPL.pop_verify(key, proof))
