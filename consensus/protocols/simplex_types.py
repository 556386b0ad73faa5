"""Messages and kinds of votes of Simplex (``simplex.py``)."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from consensus.types import BlockHeader, Body, Certificate, Integer, ProposalSubject, Signature, Vote, VoteSubject

NOTARIZE: Final = "notarize"
NULLIFY: Final = "nullify"
FINALIZE: Final = "finalize"

REQUEST_VIEWS_MAX: Final = 16
"""Views that one request for certificates may name."""
CERTIFICATES_MAX: Final = REQUEST_VIEWS_MAX + 2
"""Certificates in one message: a nullification for each view asked for, the highest certificate, and the highest
finalization."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """A leader's block with its body, and the nullification of the view before that its header names; None when the
    block stands on a certificate of the view before."""

    epoch: Integer
    header: BlockHeader
    body: Body
    entry_proof: Certificate | None
    signature: Signature


class Certificates(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3
):
    """Certificates that the receiver may lack: what has just let the sender enter its view, what lets a peer that is
    behind enter it, or the answer to a request."""

    epoch: Integer
    certificates: Annotated[tuple[Certificate, ...], Meta(min_length=1, max_length=CERTIFICATES_MAX)]


class CertificatesRequest(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=4
):
    """Asks for the nullifications of ``views`` (ascending), or for a certificate that makes them needless."""

    epoch: Integer
    views: Annotated[tuple[Integer, ...], Meta(min_length=1, max_length=REQUEST_VIEWS_MAX)]


SimplexMessage: TypeAlias = Proposal | Vote | Certificates | CertificatesRequest
SimplexSubject: TypeAlias = ProposalSubject | VoteSubject
