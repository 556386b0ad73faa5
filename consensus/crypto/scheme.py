"""The contract of a signature scheme.

A scheme is a stateless set of pure functions over bytes. Keys and signatures are bytes in the scheme's one canonical
form; anything else is refused, never normalized. Verification never raises on a remote party's bytes: it answers
False.

An *aggregate* is what a certificate carries for several signers of one message. For Ed25519 it is the concatenation
of the signatures in order of signer index; for BLS it is their sum. An aggregate that verifies says nothing about its
parts: two colluders can sign ``s + d`` and ``s - d``, so a part is marked as verified only by
:meth:`Verifier.verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class SecretKey(Protocol):
    """A key that signs. Its repr shows the public key only."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes:
        """Deterministic: one message, one signature."""
        ...

    def prove_possession(self) -> bytes:
        """A signature over the own public key in a domain of its own (for BLS the ciphersuite's PopProve); registered
        at genesis."""
        ...

    def export(self) -> bytes:
        """The secret bytes, for a key file."""
        ...


class Scheme(Protocol):
    """One signature scheme. ``for_simulation`` schemes are refused by a node's configuration."""

    name: str
    for_simulation: bool
    public_key_size: int
    signature_size: int

    def generate(self, seed: bytes) -> SecretKey:
        """A key from 32 bytes of entropy (the caller's: the core draws no random numbers)."""
        ...

    def load(self, secret: bytes) -> SecretKey:
        """The key whose :meth:`SecretKey.export` gave ``secret``. Raises ``ValueError`` on anything else."""
        ...

    def check_public_key(self, public_key: bytes, possession_proof: bytes) -> bool:
        """True for a canonical key, not the identity, in the right subgroup, whose holder proved possession of the
        secret."""
        ...

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """True when ``signature`` is the holder's over ``message``. The key has passed :meth:`check_public_key`
        before."""
        ...

    def aggregate(self, signatures: Sequence[bytes]) -> bytes | None:
        """Join the signatures of distinct signers over one message, ordered by signer index. None when a part is
        malformed."""
        ...

    def verify_aggregate(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool:
        """True when every key signed ``message``. False for no keys at all. ``public_keys`` are ordered by signer
        index."""
        ...

    def verify_groups(self, groups: Sequence[tuple[Sequence[bytes], bytes, bytes]]) -> bool:
        """True when in every group ``(public_keys, message, aggregate)`` each key signed the message: the groups of a
        timeout certificate, with as few pairings as the scheme allows. False for no groups."""
        ...
