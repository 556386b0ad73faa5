"""Who is guilty when a chain split: from two histories that commit different blocks, at least ``2Q - W`` of the stake.

What is searched are all signatures that the two sides and the transcripts show: the certificates that headers stand on,
those of the commit proofs, and the proofs that honest signers kept (``TranscriptRecord``). Every pair of them that is
an offence convicts who stands in both. That such a pair with the overlap of two quorums is there follows from each
protocol's proof of safety, with x the first certified block that conflicts with the commit, at its view or above:

* x shares a view with the committed block, or with one that its commit rests on: two certificates of one view.
* HotStuff and HotStuff-2: the voters of x and the voters of the commit certificate, who were locked. Streamlet: the
  voters of the rival at the committed height and those of a neighbour. All of it is in the headers.
* Jolteon: the signers of the timeout certificate that x names, and those of the commit certificate; never the voters of
  x, who may honestly follow a timeout certificate that the guilty made. An honest voter of x kept that certificate.
* Simplex: the finalizers and those who nullified their view, which x skipped. An honest voter of x kept the
  nullification; where x is of the same view, an honest finalizer kept the notarization.
* Tendermint: the precommitters and those who prevoted x against their lock. An honest precommitter kept the polka.

No honest validator is ever named, whatever is fed in: each pair is judged by ``evidence.verify``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from consensus.codec import digest
from consensus.crypto.scheme import Scheme
from consensus.engine import Engine, Refusal
from consensus.epochs import EpochInfo
from consensus.evidence import Evidence, Guilt, evidence_from, verify
from consensus.offences import Signed, signed_in_certificate
from consensus.protocols.definition import ProtocolDefinition
from consensus.types import BlockHeader, BlockId, CommitProof, Height, ValidatorIndex, signers_of

GROUPS_MAX: Final = 1024
"""Certificates that are paired with each other: those of the lowest views above the split."""
FAILURES_MAX: Final = 4096
"""Pairs whose signatures turn out to be bad before the search ends: somebody filled an archive with rubbish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One side from the split on: ``headers`` ascend from the first height at which the sides differ, and ``proof``
    shows the last of them committed. All are of one epoch: a boundary is the last."""

    headers: tuple[BlockHeader, ...]
    proof: CommitProof


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The guilty of a split at ``height``: ``guilty``, ascending, each named by some of ``evidence``. ``stake`` is
    theirs, ``stake_expected`` is ``2Q - W``: with at most ``2F`` faulty, less means that a transcript is missing."""

    height: Height
    first: BlockId
    second: BlockId
    evidence: tuple[Evidence, ...]
    guilty: tuple[ValidatorIndex, ...]
    stake: int
    stake_expected: int

    @property
    def is_complete(self) -> bool:
        """As much stake is named as the theory promises."""
        return self.stake >= self.stake_expected


def extract(
    first: History,
    second: History,
    transcript: Sequence[bytes],
    *,
    epoch: EpochInfo,
    definition: ProtocolDefinition,
    scheme: Scheme,
    engine: Engine,
) -> Extraction | Refusal:
    """The guilty, with evidence; the reason when the two sides are not two committed histories that split. ``engine``
    is an observer's: it knows what commits. ``transcript`` are proofs that anybody kept."""
    for history in (first, second):
        refusal = _unproven(history, epoch, engine)
        if refusal is not None:
            return refusal
    one, other = first.headers[0], second.headers[0]
    if one.parent != other.parent or one.height != other.height or digest(one) == digest(other):
        return Refusal("extraction: the histories do not split here")
    lowest_view = min(one.view, other.view)
    kept = [signed for proof in transcript for signed in definition.signed_in(proof)]
    groups = _groups((*_signed(first), *_signed(second)), kept, epoch, lowest_view)
    headers = {
        digest(header): header for history in (first, second) for header in (*history.headers, *history.proof.headers)
    }
    return _convict(groups, headers, (one, other), epoch, definition, scheme)


def _unproven(history: History, epoch: EpochInfo, engine: Engine) -> Refusal | None:
    if not history.headers:
        return Refusal("extraction: a history without a block")
    named: BlockId | None = None
    for header in reversed(history.headers):
        if named is not None and digest(header) != named:
            return Refusal("extraction: a history's headers do not follow from each other")
        if header.epoch != epoch.epoch:
            return Refusal(f"extraction: a header of epoch {header.epoch}, the split is in epoch {epoch.epoch}")
        named = header.parent
    last = history.headers[-1]
    return engine.verify_commit(history.proof, last, last.epoch)


def _signed(history: History) -> Iterator[Signed]:
    """Every certificate of one side."""
    for header in (*history.headers, *history.proof.headers):
        yield signed_in_certificate(header.justify)
    yield signed_in_certificate(history.proof.certificate)
    if history.proof.confirmation is not None:
        yield signed_in_certificate(history.proof.confirmation)


def _groups(shown: Sequence[Signed], kept: Sequence[Signed], epoch: EpochInfo, lowest_view: int) -> tuple[Signed, ...]:
    """Distinct groups, those of the commit proofs and headers first among equals, of the lowest views. (A header at the
    split stands on a certificate of a block below it, which Streamlet needs.)"""
    relevant: dict[tuple[int, int, bytes, bytes], Signed] = {}
    for order, source in enumerate((shown, kept)):
        for signed in source:
            subject = signed.subject
            if not signed.signers or subject.epoch != epoch.epoch:
                continue
            if order and subject.slot.major < lowest_view:
                continue
            key = (subject.slot.major, order, signed.signers, signed.signature)
            relevant.setdefault(key, signed)
    ordered = [relevant[key] for key in sorted(relevant)]
    return tuple(ordered[:GROUPS_MAX])


def _proof(
    pair: tuple[Signed, Signed],
    headers: Mapping[BlockId, BlockHeader],
    epoch: EpochInfo,
    definition: ProtocolDefinition,
    scheme: Scheme,
) -> tuple[Evidence, Guilt] | Refusal | None:
    """What a pair of groups proves; None when it is no offence. Where a signature says nothing alone, those of the
    groups beside it are shown too."""
    refused: Refusal | None = None
    for together in (False, True):
        evidence = evidence_from(*pair, headers, epoch, definition, together=together)
        if evidence is None:
            return None
        verdict = verify(evidence, epoch, definition, scheme)
        if isinstance(verdict, Guilt):
            return evidence, verdict
        refused = verdict
        if not any(signed.together for signed in pair):
            break
    return refused


def _convict(
    groups: Sequence[Signed],
    headers: Mapping[BlockId, BlockHeader],
    split: tuple[BlockHeader, BlockHeader],
    epoch: EpochInfo,
    definition: ProtocolDefinition,
    scheme: Scheme,
) -> Extraction:
    """Judge every pair that could name somebody new."""
    found: list[Evidence] = []
    guilty: dict[ValidatorIndex, None] = {}
    failures = 0
    members = [frozenset(signers_of(group.signers)) for group in groups]
    for position, group in enumerate(groups):
        for before in range(position):
            common = members[before] & members[position]
            if failures > FAILURES_MAX or all(signer in guilty for signer in common):
                continue
            proof = _proof((groups[before], group), headers, epoch, definition, scheme)
            if isinstance(proof, Refusal):
                failures += 1
            elif proof is not None:
                found.append(proof[0])
                guilty.update(dict.fromkeys(proof[1].signers))
    validators = epoch.validators
    return Extraction(
        height=split[0].height,
        first=digest(split[0]),
        second=digest(split[1]),
        evidence=tuple(found),
        guilty=tuple(sorted(guilty)),
        stake=validators.stake_of(guilty),
        stake_expected=2 * validators.quorum - validators.total,
    )
