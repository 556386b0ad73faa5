"""Evidence: what proves guilt to a stranger who knows the chain's genesis and, for a later epoch, how it began.

One form serves every offence and every protocol: two subjects, each with signers and their joined signature (a single
message is a group of one, a certificate is a group of many), and the headers that the offence asks for. Guilty is who
stands in both groups, by public key: finality votes of two epochs contradict each other too. Multi-signatures are
attributable: with proofs of possession no aggregate that names an honest validator verifies unless that validator
signed.

The bytes are canonical and bounded: one encoding, one digest, at most ``EVIDENCE_SIZE_MAX`` bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, cast

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, digest, encode
from consensus.crypto.scheme import Scheme
from consensus.engine import Refusal, ReportEvidence
from consensus.epoch_history import EpochHistory
from consensus.epochs import EpochInfo
from consensus.finality.types import FFG, FfgVote, FfgVoteSubject, LinkCertificate
from consensus.offences import EQUIVOCATION, FFG_DOUBLE, FFG_SURROUND, Offence, Signed
from consensus.protocols.definition import ProtocolDefinition, Statement
from consensus.types import (
    VALIDATORS_MAX,
    AggregateSignature,
    Bitmap,
    BlockHeader,
    BlockId,
    Epoch,
    Hash,
    Integer,
    ShortText,
    Subject,
    ValidatorIndex,
    bitmap_of,
    is_canonical_bitmap,
    signers_of,
)
from consensus.validators import Validator

EVIDENCE_VERSION: Final = 1
SUBJECT_SIZE_MAX: Final = 1024
HEADERS_MAX: Final = 2
EVIDENCE_SIZE_MAX: Final = 512 * 1024
"""Four groups of 1,024 concatenated Ed25519 signatures (two own, two in headers), and room."""


class GroupBeside(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """As :class:`SignedGroup`, of a group that was verified with one."""

    subject: Annotated[bytes, Meta(max_length=SUBJECT_SIZE_MAX)]
    signers: Bitmap
    signature: AggregateSignature


class SignedGroup(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A canonical subject, and who signed it: ``signers`` as in :class:`consensus.types.Certificate`. ``beside`` are
    the other groups of its certificate, of other signers, where the signatures verify only together; nobody is guilty
    by them."""

    subject: Annotated[bytes, Meta(max_length=SUBJECT_SIZE_MAX)]
    signers: Bitmap
    signature: AggregateSignature
    beside: Annotated[tuple[GroupBeside, ...], Meta(max_length=VALIDATORS_MAX)] = ()


class Evidence(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Everybody in both groups is guilty of ``offence``. ``chain`` is the genesis hash, ``epoch`` that of ``first``
    (and of ``second``, but for finality votes); ``headers`` are the block that ``first`` names and its ancestors,
    nearest first, as many as the offence needs."""

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
    """What evidence proves: ``signers``, ascending, signed both subjects; indices into the validators of the epoch that
    ``first`` is of, whose members they are: ``validators``."""

    offence: str
    signers: tuple[ValidatorIndex, ...]
    validators: tuple[Validator, ...]
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
    return (EQUIVOCATION, *definition.offences, FFG_DOUBLE, FFG_SURROUND)


def verify(
    evidence: Evidence,
    epoch: EpochInfo,
    definition: ProtocolDefinition,
    scheme: Scheme,
    other: EpochInfo | None = None,
) -> Guilt | Refusal:
    """The guilty, or why this proves nothing. Offline: ``epoch`` is the one that the evidence names, verified from the
    chain's genesis on; ``other`` that of the second subject, where it is another (:func:`verify_within` finds both)."""
    foreign = _foreign(evidence, epoch, definition)
    if foreign is not None:
        return Refusal(f"evidence: {foreign}")
    subjects = _subjects(evidence, definition)
    if isinstance(subjects, Malformed):
        return Refusal(f"evidence: {subjects.reason}")
    first, second = subjects
    infos = (epoch, epoch if other is None else other)
    for subject, info in zip(subjects, infos, strict=True):
        if subject.epoch != info.epoch:
            return Refusal(f"evidence: a subject of epoch {subject.epoch}")
    fault = _innocent(evidence, first, second, definition)
    if fault is not None:
        return Refusal(f"evidence: {fault}")
    for group, subject, info in zip((evidence.first, evidence.second), subjects, infos, strict=True):
        fault = _signature_fault(group, subject, info, scheme, definition)
        if fault is not None:
            return Refusal(f"evidence: {fault}")
    common = _common(evidence.first.signers, evidence.second.signers, *infos)
    if not common:
        return Refusal("evidence: nobody signed both")
    members = tuple(epoch.validators.validators[signer] for signer in common)
    return Guilt(offence=evidence.offence, signers=common, validators=members, first=first, second=second)


def verify_within(
    evidence: Evidence, history: EpochHistory, definition: ProtocolDefinition, scheme: Scheme
) -> Guilt | Refusal:
    """As :func:`verify`, in whichever epochs of ``history`` the evidence is of."""
    subjects = _subjects(evidence, definition)
    named = evidence.epoch if isinstance(subjects, Malformed) else subjects[1].epoch
    infos: list[EpochInfo] = []
    for epoch in (evidence.epoch, named):
        info = history.info(epoch)
        if info is None:
            return Refusal(f"evidence: {history.unknown(epoch)}")
        infos.append(info)
    return verify(evidence, infos[0], definition, scheme, infos[1])


def epochs_of(evidence: Evidence, definition: ProtocolDefinition) -> tuple[Epoch, ...]:
    """The epochs that are needed to judge it, ascending; only its own where it is malformed."""
    subjects = _subjects(evidence, definition)
    named = () if isinstance(subjects, Malformed) else (subjects[1].epoch,)
    return tuple(sorted({evidence.epoch, *named}))


def _subjects(evidence: Evidence, definition: ProtocolDefinition) -> tuple[Subject, Subject] | Malformed:
    subjects: list[Subject] = []
    for group in (evidence.first, evidence.second):
        subject = _subject(group.subject, definition)
        if isinstance(subject, Malformed):
            return subject
        subjects.append(subject)
    return subjects[0], subjects[1]


def _subject(data: bytes, definition: ProtocolDefinition) -> Subject | Malformed:
    decoded = Canonical[msgspec.Struct](*definition.subjects, FfgVoteSubject).decode(data)
    if isinstance(decoded, Malformed):
        return Malformed(f"a subject is none of this protocol: {decoded.reason}")
    return cast("Subject", decoded)


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
    if first.epoch != second.epoch and not first.kind == second.kind == FFG:
        return f"subjects of epochs {first.epoch} and {second.epoch}, which have nothing to do with each other"
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


def _signature_fault(
    group: SignedGroup, subject: Subject, epoch: EpochInfo, scheme: Scheme, definition: ProtocolDefinition
) -> str | None:
    groups: tuple[SignedGroup | GroupBeside, ...] = (group, *group.beside)
    claims: list[tuple[list[bytes], bytes, bytes]] = []
    seen: dict[ValidatorIndex, None] = {}
    for each in groups:
        stated = subject if each is group else _subject(each.subject, definition)
        if isinstance(stated, Malformed):
            return stated.reason
        if stated.epoch != epoch.epoch:
            return f"a subject of epoch {stated.epoch}"
        if not each.signers or not is_canonical_bitmap(each.signers):
            return "a bitmap of signers is empty or not canonical"
        signers = signers_of(each.signers)
        if signers[-1] >= len(epoch.validators):
            return f"validator {signers[-1]} is none of this chain"
        if any(signer in seen for signer in signers):
            return "a signer is in two groups that verify together"
        seen.update(dict.fromkeys(signers))
        keys = [epoch.validators.public_keys[signer] for signer in signers]
        claims.append((keys, epoch.domain.bytes_to_sign(stated), each.signature))
    return None if scheme.verify_groups(claims) else "a signature does not verify"


def _common(first: Bitmap, second: Bitmap, epoch: EpochInfo, other: EpochInfo) -> tuple[ValidatorIndex, ...]:
    """Who stands in both, by the first one's indices: by public key where the epochs differ."""
    if epoch is other:
        held = frozenset(signers_of(second))
        return tuple(signer for signer in signers_of(first) if signer in held)
    there = frozenset(_keys(second, other))
    return tuple(signer for signer, key in zip(signers_of(first), _keys(first, epoch), strict=False) if key in there)


def _keys(signers: Bitmap, epoch: EpochInfo) -> list[bytes]:
    """The public keys of signers, as far as they are validators."""
    keys = epoch.validators.public_keys
    return [keys[signer] for signer in signers_of(signers) if signer < len(keys)]


def keys_claimed(evidence: Evidence, epoch: EpochInfo, other: EpochInfo) -> frozenset[bytes]:
    """The public keys of everybody whom evidence claims to convict; nothing is verified."""
    return frozenset(_keys(evidence.first.signers, epoch)) & frozenset(_keys(evidence.second.signers, other))


def evidence_from(
    first: Signed,
    second: Signed,
    headers: Mapping[BlockId, BlockHeader],
    epoch: EpochInfo,
    definition: ProtocolDefinition,
    other: EpochInfo | None = None,
    *,
    together: bool = False,
) -> Evidence | None:
    """Evidence from two groups, in whichever order they are an offence; None when somebody stands in both and may be
    honest, or nobody does, or a header that it takes is not in ``headers``. ``epoch`` is that of ``first``, ``other``
    that of ``second`` where it is another. ``together``: with the groups that theirs were verified with. No signature
    is looked at."""
    if not _common(first.signers, second.signers, epoch, epoch if other is None else other):
        return None
    for offence in offences_of(definition):
        for one, two in ((first, second), (second, first)):
            shown = _headers_for(offence, one.subject, headers)
            if shown is not None and offence.forbids(one.subject, two.subject, shown):
                return Evidence(
                    version=EVIDENCE_VERSION,
                    chain=epoch.chain,
                    epoch=one.subject.epoch,
                    protocol=definition.name,
                    offence=offence.name,
                    first=_group(one, together),
                    second=_group(two, together),
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


def _group(signed: Signed, together: bool) -> SignedGroup:
    beside = [
        GroupBeside(subject=_bytes(each.subject), signers=each.signers, signature=each.signature)
        for each in signed.together
        if together and each.signers != signed.signers
    ]
    return SignedGroup(
        subject=_bytes(signed.subject), signers=signed.signers, signature=signed.signature, beside=tuple(beside)
    )


def _bytes(subject: Subject) -> bytes:
    return encode(cast("msgspec.Struct", subject))


def evidence_of_report(
    report: ReportEvidence, info: Callable[[Epoch], EpochInfo | None], definition: ProtocolDefinition, scheme: Scheme
) -> tuple[Evidence, ...]:
    """Evidence from two messages, or two link certificates, that the core reports: one for each pair of groups with
    common signers; none when the two state no offence of anybody, or of an epoch that ``info`` does not know."""
    found: list[Evidence] = []
    headers = {digest(header): header for header in report.headers}
    for first in _signed_in_report(report.first, definition, scheme):
        for second in _signed_in_report(report.second, definition, scheme):
            one, two = info(first.subject.epoch), info(second.subject.epoch)
            if one is not None and two is not None and _may_conflict(first.subject, second.subject):
                evidence = evidence_from(first, second, headers, one, definition, two)
                found += [] if evidence is None else [evidence]
    return tuple(found)


def _may_conflict(first: Subject, second: Subject) -> bool:
    return first.epoch == second.epoch or first.kind == second.kind == FFG


def _signed_in_report(message: msgspec.Struct, definition: ProtocolDefinition, scheme: Scheme) -> tuple[Signed, ...]:
    if isinstance(message, LinkCertificate):
        return tuple(Signed(message.subject(group.epoch), group.signers, group.signature) for group in message.groups)
    if isinstance(message, FfgVote):
        statement: Statement | None = Statement(
            signer=message.signer, subject=message.subject, signature=message.signature
        )
    else:
        statement = definition.statement(message)
    signed = None if statement is None else signed_by_one(statement, scheme)
    return () if signed is None else (signed,)


def signed_by_one(statement: Statement, scheme: Scheme) -> Signed | None:
    """One validator's statement as a group of one; None when its signature is none of the scheme's."""
    signature = scheme.aggregate([statement.signature])
    return None if signature is None else Signed(statement.subject, bitmap_of((statement.signer,)), signature)
