"""A signature scheme for simulation only: it has the algebra of BLS and the price of one hash, and no security at all.

A signature is ``key * H(message) mod p``, an aggregate the sum of signatures; where BLS compares two pairings, this
computes the product from the public key. So whoever knows the formula can forge: the scheme holds by the convention
that a simulated adversary signs through the key objects it owns and through nothing else. What BLS allows, this
allows: two colluders who sign ``s + d`` and ``s - d`` make a valid aggregate of two invalid signatures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, NoReturn, SupportsIndex

SIZE: Final = 32
PRIME: Final = 2**61 - 1
"""The order of the group: small, for products that cost little, and large enough that no two messages of a search meet.
Public keys and signatures are integers in 1..PRIME-1, 32 bytes big-endian."""
REMEMBERED_MAX: Final = 1024

_KEY_DOMAIN: Final = b"shared-sequencer/simulated-key\x00"
_POSSESSION_DOMAIN: Final = b"shared-sequencer/possession-proof/simulated\x00"


@lru_cache(maxsize=REMEMBERED_MAX)
def _point(message: bytes) -> int:
    """H(message). Many sign and check one message."""
    return int.from_bytes(sha256(message).digest(), "big") % PRIME


@lru_cache(maxsize=REMEMBERED_MAX)
def _parse(data: bytes) -> int:
    """The integer of a canonical key or signature, or 0, which is neither. Each is looked at again and again."""
    if len(data) != SIZE:
        return 0
    value = int.from_bytes(data, "big")
    return value if value < PRIME else 0


def _sum(parts: Iterable[bytes]) -> int:
    """The sum of canonical keys or signatures, or 0 when one of them is malformed (or when they cancel out)."""
    values = list(map(_parse, parts))
    return sum(values) % PRIME if all(values) else 0


_key_sum: Final = lru_cache(maxsize=REMEMBERED_MAX)(_sum)
"""The sum of public keys: a chain has few quorums, and asks for each again and again."""


class SimulatedSecretKey:
    """See :class:`consensus.crypto.scheme.SecretKey`."""

    __slots__ = ("_key", "_seed", "public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SIZE:
            raise ValueError(f"a simulated secret has {SIZE} bytes, this has {len(seed)}")
        self._seed = bytes(seed)
        self._key = 1 + int.from_bytes(sha256(_KEY_DOMAIN + self._seed).digest(), "big") % (PRIME - 1)
        self.public_key = self._key.to_bytes(SIZE, "big")

    def sign(self, message: bytes) -> bytes:
        return (self._key * _point(message) % PRIME).to_bytes(SIZE, "big")

    def prove_possession(self) -> bytes:
        return self.sign(_POSSESSION_DOMAIN + self.public_key)

    def export(self) -> bytes:
        return self._seed

    def __repr__(self) -> str:
        return f"SimulatedSecretKey(public_key={self.public_key.hex()})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret key is neither copied nor pickled; export() it into a key file")


class Simulated:
    """See :class:`consensus.crypto.scheme.Scheme`. A verification takes about 1 us, and 0.1 us more per further
    signer."""

    name = "simulated"
    for_simulation = True
    public_key_size = SIZE
    signature_size = SIZE

    def generate(self, seed: bytes) -> SimulatedSecretKey:
        return SimulatedSecretKey(seed)

    def load(self, secret: bytes) -> SimulatedSecretKey:
        return SimulatedSecretKey(secret)

    def check_public_key(self, public_key: bytes, possession_proof: bytes) -> bool:
        return self.verify(public_key, _POSSESSION_DOMAIN + public_key, possession_proof)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        key, tag = _parse(public_key), _parse(signature)
        return key != 0 and tag != 0 and tag == key * _point(message) % PRIME

    def aggregate(self, signatures: Sequence[bytes]) -> bytes | None:
        total = _sum(signatures)
        return total.to_bytes(SIZE, "big") if total else None

    def verify_aggregate(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool:
        key, tag = _key_sum(tuple(public_keys)), _parse(aggregate)
        return key != 0 and tag != 0 and tag == key * _point(message) % PRIME

    def verify_groups(self, groups: Sequence[tuple[Sequence[bytes], bytes, bytes]]) -> bool:
        return bool(groups) and all(self.verify_aggregate(*group) for group in groups)
