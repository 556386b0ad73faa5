"""Evidence: what proves guilt to a stranger who knows the chain's genesis and nothing else.

One form serves every offence and every protocol: two subjects, each with signers and their joined signature (a single
message is a group of one, a certificate is a group of many), and the headers that the offence asks for. Guilty is who
stands in both groups. Multi-signatures are attributable: with proofs of possession no aggregate that names an honest
validator verifies unless that validator signed.

The bytes are canonical and bounded: one encoding, one digest, at most ``EVIDENCE_SIZE_MAX`` bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, digest, encode
from consensus.crypto.scheme import Scheme
from consensus.engine import Refusal, ReportEvidence
from consensus.epochs import EpochInfo
from consensus.offences import EQUIVOCATION, Offence, Signed
from consensus.protocols.definition import ProtocolDefinition, Statement
from consensus.types import (
    AggregateSignature,
    Bitmap,
    BlockHeader,
    BlockId,
    Hash,
    Integer,
    ShortText,
    Subject,
    ValidatorIndex,
    bitmap_of,
    is_canonical_bitmap,
    signers_of,
)

EVIDENCE_VERSION: Final = 1
SUBJECT_SIZE_MAX: Final = 1024
HEADERS_MAX: Final = 2
EVIDENCE_SIZE_MAX: Final = 512 * 1024
"""Four groups of 1,024 concatenated Ed25519 signatures (two own, two in headers), and room."""


class SignedGroup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A canonical subject, and who signed it: ``signers`` as in :class:`consensus.types.Certificate`."""

    subject: Annotated[bytes, Meta(max_length=SUBJECT_SIZE_MAX)]
    signers: Bitmap
    signature: AggregateSignature


class Evidence(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Everybody in both groups is guilty of ``offence``. ``chain`` is the genesis hash; ``headers`` are the block that
    ``first`` names and its ancestors, nearest first, as many as the offence needs."""

    version: Integer
    chain: Hash
    epoch: Integer
    protocol: ShortText
    offence: ShortText
    first: SignedGroup
    second: SignedGroup
    headers: Annotated[tuple[BlockHeader, ...], Meta(max_length=HEADERS_MAX)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guilt:
    """What evidence proves: ``signers``, ascending, signed both subjects."""

    offence: str
    signers: tuple[ValidatorIndex, ...]
    first: Subject
    second: Subject


_evidence: Final = Canonical(Evidence)


def encode_evidence(evidence: Evidence) -> bytes:
    """The canonical bytes: the content of an evidence file."""
    return encode(evidence)


def decode_evidence(data: bytes) -> Evidence | Malformed:
    """The evidence in ``data``, or why it is none."""
    if len(data) > EVIDENCE_SIZE_MAX:
        return Malformed(f"evidence of {len(data)} bytes exceeds {EVIDENCE_SIZE_MAX}")
    return _evidence.decode(data)


def evidence_digest(evidence: Evidence) -> bytes:
    """What names it (32 bytes)."""
    return digest(evidence)


def offences_of(definition: ProtocolDefinition) -> tuple[Offence, ...]:
    """Everything that a protocol forbids its signers."""
    return (EQUIVOCATION, *definition.offences)


def verify(evidence: Evidence, epoch: EpochInfo, definition: ProtocolDefinition, scheme: Scheme) -> Guilt | Refusal:
    """The guilty, or why this proves nothing. Offline: ``epoch`` follows from the chain's genesis."""
    foreign = _foreign(evidence, epoch, definition)
    if foreign is not None:
        return Refusal(f"evidence: {foreign}")
    codec = definition.subject_codec()
    subjects: list[Subject] = []
    for group in (evidence.first, evidence.second):
        decoded = codec.decode(group.subject)
        if isinstance(decoded, Malformed):
            return Refusal(f"evidence: a subject is none of this protocol: {decoded.reason}")
        subject = cast("Subject", decoded)
        if subject.epoch != epoch.epoch:
            return Refusal(f"evidence: a subject of epoch {subject.epoch}")
        subjects.append(subject)
    first, second = subjects
    fault = _innocent(evidence, first, second, definition)
    if fault is not None:
        return Refusal(f"evidence: {fault}")
    for group, subject in ((evidence.first, first), (evidence.second, second)):
        fault = _signature_fault(group, subject, epoch, scheme)
        if fault is not None:
            return Refusal(f"evidence: {fault}")
    common = _common(evidence.first.signers, evidence.second.signers)
    if not common:
        return Refusal("evidence: nobody signed both")
    return Guilt(offence=evidence.offence, signers=common, first=first, second=second)


def _foreign(evidence: Evidence, epoch: EpochInfo, definition: ProtocolDefinition) -> str | None:
    if evidence.version != EVIDENCE_VERSION:
        return f"of version {evidence.version}; known is {EVIDENCE_VERSION}"
    if evidence.chain != epoch.chain:
        return f"of chain {evidence.chain.hex()}, this is {epoch.chain.hex()}"
    if evidence.epoch != epoch.epoch:
        return f"of epoch {evidence.epoch}, known is {epoch.epoch}"
    if evidence.protocol != definition.name:
        return f"of protocol {evidence.protocol!r}, the chain runs {definition.name!r}"
    return None


def _innocent(evidence: Evidence, first: Subject, second: Subject, definition: ProtocolDefinition) -> str | None:
    """None when the two subjects and the headers are the offence."""
    offence = next((known for known in offences_of(definition) if known.name == evidence.offence), None)
    if offence is None:
        return f"{evidence.offence!r} is no offence of {definition.name}"
    headers = evidence.headers
    if len(headers) != offence.headers_needed:
        return f"{len(headers)} headers, {offence.headers_needed} belong"
    named = getattr(first, "block_id", None)
    for header in headers:
        if digest(header) != named:
            return "a header is not of the block that the statement leads to"
        named = header.parent
    if not offence.forbids(first, second, headers):
        return f"one honest validator may sign both: no {offence.name}"
    return None


def _signature_fault(group: SignedGroup, subject: Subject, epoch: EpochInfo, scheme: Scheme) -> str | None:
    if not group.signers or not is_canonical_bitmap(group.signers):
        return "a bitmap of signers is empty or not canonical"
    signers = signers_of(group.signers)
    if signers[-1] >= len(epoch.validators):
        return f"validator {signers[-1]} is none of this chain"
    keys = [epoch.validators.public_keys[signer] for signer in signers]
    if not scheme.verify_aggregate(keys, epoch.domain.bytes_to_sign(subject), group.signature):
        return "a signature does not verify"
    return None


def _common(first: Bitmap, second: Bitmap) -> tuple[ValidatorIndex, ...]:
    held = frozenset(signers_of(second))
    return tuple(signer for signer in signers_of(first) if signer in held)


def evidence_from(
    first: Signed,
    second: Signed,
    headers: Mapping[BlockId, BlockHeader],
    epoch: EpochInfo,
    definition: ProtocolDefinition,
) -> Evidence | None:
    """Evidence from two groups, in whichever order they are an offence; None when somebody stands in both and may be
    honest, or nobody does, or a header that it takes is not in ``headers``. No signature is looked at."""
    if not _common(first.signers, second.signers):
        return None
    for offence in offences_of(definition):
        for one, other in ((first, second), (second, first)):
            shown = _headers_for(offence, one.subject, headers)
            if shown is not None and offence.forbids(one.subject, other.subject, shown):
                return Evidence(
                    version=EVIDENCE_VERSION,
                    chain=epoch.chain,
                    epoch=epoch.epoch,
                    protocol=definition.name,
                    offence=offence.name,
                    first=_group(one),
                    second=_group(other),
                    headers=tuple(shown),
                )
    return None


def _headers_for(
    offence: Offence, subject: Subject, headers: Mapping[BlockId, BlockHeader]
) -> Sequence[BlockHeader] | None:
    found: list[BlockHeader] = []
    named = getattr(subject, "block_id", b"")
    while len(found) < offence.headers_needed:
        header = headers.get(named)
        if header is None:
            return None
        found.append(header)
        named = header.parent
    return found


def _group(signed: Signed) -> SignedGroup:
    subject = encode(cast("msgspec.Struct", signed.subject))
    return SignedGroup(subject=subject, signers=signed.signers, signature=signed.signature)


def evidence_of_report(
    report: ReportEvidence, epoch: EpochInfo, definition: ProtocolDefinition, scheme: Scheme
) -> Evidence | None:
    """Evidence from two messages that an engine reports; None when they state no offence of one signer."""
    signed: list[Signed] = []
    for message in (report.first, report.second):
        statement = definition.statement(message)
        group = None if statement is None else signed_by_one(statement, scheme)
        if group is None:
            return None
        signed.append(group)
    return evidence_from(signed[0], signed[1], {}, epoch, definition)


def signed_by_one(statement: Statement, scheme: Scheme) -> Signed | None:
    """One validator's statement as a group of one; None when its signature is none of the scheme's."""
    signature = scheme.aggregate([statement.signature])
    return None if signature is None else Signed(statement.subject, bitmap_of((statement.signer,)), signature)
