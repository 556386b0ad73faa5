"""What proves guilt: pairs of signed subjects of which no honest validator ever signs both, in whatever order.

A protocol declares its own pairs (``ProtocolDefinition.offences``); equivocation is everybody's, and so are the two
slashing conditions of Casper FFG, whose votes of two epochs can contradict each other. An offence is a pure
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
from consensus.finality import rules
from consensus.finality.types import FFG, FfgVoteSubject
from consensus.types import Bitmap, BlockHeader, Certificate, Subject, certificate_subject

Forbids: TypeAlias = Callable[[Subject, Subject, Sequence[BlockHeader]], bool]


class Reading(NamedTuple):
    """Where a message holds two numbers: ``view`` and ``value`` are paths of its fields. ``message`` has a ``signer``;
    of votes only those of ``kind`` are meant, where that is not empty."""

    message: type[msgspec.Struct]
    kind: str
    view: str
    value: str


class Watch(NamedTuple):
    """Where to look for an offence as messages arrive: its first message promises a value in a view, its second shows a
    lower one in that view or a later one. That is necessary, not sufficient: ``Offence.forbids`` decides."""

    promise: Reading
    breach: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Offence:
    """``forbids(first, second, headers)`` is true when signing both subjects is the offence, ``first`` being the one
    that it names first. ``headers`` are the block that ``first`` names and its ancestors, nearest first, as many as
    ``headers_needed``; whoever asks has checked their hashes. Without a ``watch`` it is not looked for as messages
    arrive (``offence_watch.py``)."""

    name: str
    forbids: Forbids
    headers_needed: int = 0
    watch: Watch | None = None


class Signed(NamedTuple):
    """A subject, and the signers (a bitmap) whose joined signatures over it are here. One signer is a group too.
    ``together`` are the groups that were verified with it, itself included, where its signature may say nothing without
    theirs (``crypto/bls.py``)."""

    subject: Subject
    signers: Bitmap
    signature: bytes
    together: tuple[Signed, ...] = ()


def _equivocates(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    if first.kind != second.kind or first.slot != second.slot or first.kind == FFG:
        return False  # one link signed for two epochs is one vote: FFG_DOUBLE
    return encode(cast("msgspec.Struct", first)) < encode(cast("msgspec.Struct", second))


EQUIVOCATION: Final = Offence(name="equivocation", forbids=_equivocates)
"""Two different subjects of one kind in one slot, in the order of their canonical bytes."""


def _doubles(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    if not isinstance(first, FfgVoteSubject) or not isinstance(second, FfgVoteSubject):
        return False
    return rules.is_double(first.link, second.link) and encode(first) < encode(second)


def _surrounds(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    if not isinstance(first, FfgVoteSubject) or not isinstance(second, FfgVoteSubject):
        return False
    return rules.surrounds(first.link, second.link)


FFG_DOUBLE: Final = Offence(name="ffg-double", forbids=_doubles)
"""Two different links to one target height, whatever epochs the votes name; in the order of their canonical bytes."""
FFG_SURROUND: Final = Offence(name="ffg-surround", forbids=_surrounds)
"""The first link surrounds the second."""

_certificates: Final = Canonical(Certificate)


def signed_in_certificate(certificate: Certificate) -> Signed:
    """What a certificate of votes states."""
    return Signed(certificate_subject(certificate), certificate.signers, certificate.signature)


def signed_in_proof(proof: bytes) -> tuple[Signed, ...]:
    """What a canonical certificate of votes states; nothing for other bytes."""
    certificate = _certificates.decode(proof)
    return () if isinstance(certificate, Malformed) else (signed_in_certificate(certificate),)
