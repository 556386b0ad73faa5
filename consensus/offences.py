"""What proves guilt: pairs of signed subjects of which no honest validator ever signs both, in whatever order.

A protocol declares its own pairs (``ProtocolDefinition.offences``); equivocation is everybody's. An offence is a pure
predicate over two subjects, and over headers where a subject alone does not say what its block stands on. It must hold
for *no* pair that an honest validator can sign, whatever the others do and however many of them are faulty: quorums,
certificates and headers that liars made included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from consensus.codec import Canonical, Malformed, encode
from consensus.types import Bitmap, BlockHeader, Certificate, Subject, certificate_subject

Forbids: TypeAlias = Callable[[Subject, Subject, Sequence[BlockHeader]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offence:
    """``forbids(first, second, headers)`` is true when signing both subjects is the offence, ``first`` being the one
    that it names first. ``headers`` are the block that ``first`` names and its ancestors, nearest first, as many as
    ``headers_needed``; whoever asks has checked their hashes."""

    name: str
    forbids: Forbids
    headers_needed: int = 0


class Signed(NamedTuple):
    """A subject, and the signers (a bitmap) whose joined signatures over it are here. One signer is a group too."""

    subject: Subject
    signers: Bitmap
    signature: bytes


def _equivocates(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    if first.kind != second.kind or first.slot != second.slot:
        return False
    return encode(cast("msgspec.Struct", first)) < encode(cast("msgspec.Struct", second))


EQUIVOCATION: Final = Offence(name="equivocation", forbids=_equivocates)
"""Two different subjects of one kind in one slot, in the order of their canonical bytes."""

_certificates: Final = Canonical(Certificate)


def signed_in_certificate(certificate: Certificate) -> Signed:
    """What a certificate of votes states."""
    return Signed(certificate_subject(certificate), certificate.signers, certificate.signature)


def signed_in_proof(proof: bytes) -> tuple[Signed, ...]:
    """What a canonical certificate of votes states; nothing for other bytes."""
    certificate = _certificates.decode(proof)
    return () if isinstance(certificate, Malformed) else (signed_in_certificate(certificate),)
