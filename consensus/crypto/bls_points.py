"""The seam between the BLS scheme and the library that computes with its points.

Two libraries stand behind it, because neither has wheels for every supported Python: blspy below 3.13,
py-arkworks-bls12381 from there on. Both give the same bytes and the same verdicts; everything that needs judgement is
in ``bls.py``, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

SIGNATURE_DOMAIN: Final = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
POSSESSION_DOMAIN: Final = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
KEYS_CACHED: Final = 4096
"""Parsed public keys kept: the subgroup check of a key is paid once, not at each of its signatures."""

KeyPoint: TypeAlias = Any
SignaturePoint: TypeAlias = Any
"""A library's own objects in G1 and G2; blspy ships no types."""


class Points(Protocol):
    """What a library must do. Secrets are 32 bytes big-endian in 1..r-1; the caller has checked that.

    A parser answers None for anything but the one canonical encoding of a point on the curve that is not the identity.
    """

    def public_key(self, secret: bytes) -> bytes: ...

    def sign(self, secret: bytes, message: bytes) -> bytes: ...

    def prove_possession(self, secret: bytes) -> bytes: ...

    def parse_key(self, data: bytes) -> KeyPoint | None:
        """A point of the right subgroup, or None. Cached."""
        ...

    def parse_signature(self, data: bytes) -> SignaturePoint | None:
        """A point of the right subgroup, or None."""
        ...

    def parse_part(self, data: bytes) -> SignaturePoint | None:
        """A point of the curve, or None: a third of the price of :meth:`parse_signature`."""
        ...

    def add_keys(self, keys: Sequence[KeyPoint]) -> KeyPoint | None:
        """The sum of at least one key, or None when they cancel out."""
        ...

    def add_signatures(self, signatures: Sequence[SignaturePoint]) -> SignaturePoint | None:
        """The sum of at least one signature, or None when they cancel out."""
        ...

    def signature_bytes(self, signature: SignaturePoint) -> bytes: ...

    def verify(self, keys: Sequence[KeyPoint], messages: Sequence[bytes], signature: SignaturePoint) -> bool:
        """True when ``e(g1, signature)`` is the product of ``e(key, H(message))`` over all pairs, at least one."""
        ...

    def verify_possession(self, key: KeyPoint, proof: SignaturePoint) -> bool:
        """PopVerify of the ciphersuite."""
        ...
