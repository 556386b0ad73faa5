"""Ed25519 (RFC 8032) through libsodium. An aggregate is the concatenation of the signatures, ordered by signer index.

libsodium's verification refuses a scalar S that is not reduced, a small-order or non-canonical key, and a small-order
R; it compares R as bytes, so one (key, message) has no second signature that a stranger could make from the first. Its
equation has no cofactor, therefore a key with a torsion component could verify on one implementation and not on
another: :meth:`Ed25519.check_public_key` admits keys of the prime-order subgroup only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NoReturn, SupportsIndex

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

SEED_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 32
VERIFIED_MAX: Final = 4096
"""Answers remembered, about 500 bytes each."""
SIGNATURE_SIZE: Final = 64

# What a SigningDomain signs begins with the head of a MessagePack array (0x95), so no message is a possession proof.
_POSSESSION_DOMAIN: Final = b"shared-sequencer/possession-proof/ed25519\x00"


class Ed25519SecretKey:
    """See :class:`consensus.crypto.scheme.SecretKey`."""

    __slots__ = ("_expanded", "public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise ValueError(f"an Ed25519 secret has {SEED_SIZE} bytes, this has {len(seed)}")
        self.public_key, self._expanded = crypto_sign_seed_keypair(bytes(seed))

    def sign(self, message: bytes) -> bytes:
        return crypto_sign(message, self._expanded)[:SIGNATURE_SIZE]

    def prove_possession(self) -> bytes:
        return self.sign(_POSSESSION_DOMAIN + self.public_key)

    def export(self) -> bytes:
        return self._expanded[:SEED_SIZE]

    def __repr__(self) -> str:
        return f"Ed25519SecretKey(public_key={self.public_key.hex()})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret key is neither copied nor pickled; export() it into a key file")


def is_public_key(public_key: bytes) -> bool:
    """Whether this is the canonical form of a point of the prime-order subgroup, and not the identity."""
    return len(public_key) == PUBLIC_KEY_SIZE and crypto_core_ed25519_is_valid_point(public_key)


class Ed25519:
    """See :class:`consensus.crypto.scheme.Scheme`. A verification takes about 37 us, one per signer."""

    name = "ed25519"
    for_simulation = False
    public_key_size = PUBLIC_KEY_SIZE
    signature_size = SIGNATURE_SIZE

    def generate(self, seed: bytes) -> Ed25519SecretKey:
        return Ed25519SecretKey(seed)

    def load(self, secret: bytes) -> Ed25519SecretKey:
        return Ed25519SecretKey(secret)

    def check_public_key(self, public_key: bytes, possession_proof: bytes) -> bool:
        return is_public_key(public_key) and self.verify(public_key, _POSSESSION_DOMAIN + public_key, possession_proof)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        return _verify(public_key, message, signature)

    def aggregate(self, signatures: Sequence[bytes]) -> bytes | None:
        if not signatures or any(len(signature) != SIGNATURE_SIZE for signature in signatures):
            return None
        return b"".join(signatures)

    def verify_aggregate(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool:
        if not public_keys or len(aggregate) != SIGNATURE_SIZE * len(public_keys):
            return False
        return all(
            self.verify(public_key, message, aggregate[SIGNATURE_SIZE * position : SIGNATURE_SIZE * (position + 1)])
            for position, public_key in enumerate(public_keys)
        )

    def verify_groups(self, groups: Sequence[tuple[Sequence[bytes], bytes, bytes]]) -> bool:
        return bool(groups) and all(self.verify_aggregate(*group) for group in groups)


@lru_cache(maxsize=VERIFIED_MAX)
def _verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """The parts of a certificate are the votes that most of its readers have checked before: the answer to the same
    question is remembered, by its whole content."""
    # The binding reads 32 bytes of whatever it is given as a key, so the sizes are checked here.
    if len(signature) != SIGNATURE_SIZE or len(public_key) != PUBLIC_KEY_SIZE:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True
