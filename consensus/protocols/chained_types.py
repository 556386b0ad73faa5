"""Messages and subjects of the HotStuff family (``chained.py``)."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from consensus.types import (
    VALIDATORS_MAX,
    AggregateSignature,
    Bitmap,
    BlockHeader,
    Body,
    Certificate,
    Index,
    Integer,
    ProposalSubject,
    Signature,
    Slot,
    Vote,
    VoteSubject,
)


class TimeoutGroup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """The signers of one timeout subject. ``high_qc_view`` is None where the protocol's timeout signs (epoch, view)
    only."""

    high_qc_view: Integer | None
    signers: Bitmap
    signature: AggregateSignature


class TimeoutCertificate(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True
):
    """A quorum gave up ``view``. ``high_qc`` is the highest certificate the collector saw among those timeouts; what
    it must equal is the protocol's rule. Groups are sorted by ``high_qc_view``; each signer stands in exactly one."""

    epoch: Integer
    view: Integer
    high_qc: Certificate
    groups: Annotated[tuple[TimeoutGroup, ...], Meta(min_length=1, max_length=VALIDATORS_MAX)]


class TimeoutSubject(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3
):
    """Kind ``timeout``, slot (epoch, view, 0)."""

    epoch: Integer
    view: Integer
    high_qc_view: Integer | None

    @property
    def kind(self) -> str:
        return "timeout"

    @property
    def slot(self) -> Slot:
        return Slot(self.epoch, self.view, 0)


class Proposal(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """A leader's block with its body, and the timeout certificate that its header names."""

    epoch: Integer
    header: BlockHeader
    body: Body
    entry_proof: TimeoutCertificate | None
    signature: Signature


class Timeout(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3):
    """One validator gives up ``view``. ``entry_proof`` is the timeout certificate of ``view - 1``, absent when
    ``high_qc.view == view - 1``."""

    epoch: Integer
    view: Integer
    high_qc: Certificate
    entry_proof: TimeoutCertificate | None
    signer: Index
    signature: Signature


class Certificates(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=4
):
    """The sender's highest certificates: brings a peer that is behind to the sender's view."""

    epoch: Integer
    high_qc: Certificate
    high_tc: TimeoutCertificate | None


class OrderVote(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=5
):
    """One validator saw ``qc`` before it gave up its view (``order_votes.py``). The signature covers the certificate's
    subject with kind ``order``."""

    epoch: Integer
    qc: Certificate
    signer: Index
    signature: Signature


ChainedMessage: TypeAlias = Proposal | Vote | Timeout | Certificates | OrderVote
ChainedSubject: TypeAlias = ProposalSubject | VoteSubject | TimeoutSubject
