"""Forming and checking quorums of signatures.

Aggregate first, one check per certificate, bisect on failure: the signatures of a quorum are joined and checked
together; only when that fails are the bad ones looked for. A certificate that verified is remembered by its whole
content, never by less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from consensus.crypto.scheme import Scheme
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.types import (
    NIL_BLOCK,
    Bitmap,
    Certificate,
    Subject,
    ValidatorIndex,
    VoteSubject,
    bitmap_of,
    certificate_subject,
    is_canonical_bitmap,
    signers_of,
)

VERIFIED_MAX: Final = 512
"""Certificates remembered as verified, per epoch."""


class QuorumChecker:
    """Checks signatures of one epoch's validators. Pure but for its bounded memory of certificates that verified."""

    __slots__ = ("_epoch", "_kinds", "_scheme", "_verified")

    def __init__(self, epoch: EpochInfo, scheme: Scheme, kinds: tuple[str, ...]) -> None:
        self._epoch = epoch
        self._scheme = scheme
        self._kinds = kinds
        self._verified: dict[Certificate, None] = {}

    def check_signature(self, signer: ValidatorIndex, subject: Subject, signature: bytes) -> bool:
        """True when validator ``signer`` signed ``subject`` by itself."""
        keys = self._epoch.validators.public_keys
        return signer < len(keys) and self._scheme.verify(
            keys[signer], self._epoch.domain.bytes_to_sign(subject), signature
        )

    def check(self, certificate: Certificate, *kinds: str) -> Refusal | None:
        """None for this epoch's genesis certificate and for a quorum's signatures over one vote for a block; the
        reason otherwise. ``kinds`` are the signing kinds that will do here: without any, those that a block may stand
        on."""
        if certificate == self._epoch.genesis:
            return None
        return self._remembered(certificate, self._block_fault(certificate, kinds or self._kinds))

    def check_nil(self, certificate: Certificate, kind: str) -> Refusal | None:
        """None for a quorum's signatures over one vote of ``kind`` for no block; the reason otherwise."""
        if certificate.kind != kind:
            return Refusal(f"certificate: of kind {certificate.kind!r}, expected {kind!r}")
        if (certificate.block_id, certificate.height, certificate.justify_view) != (NIL_BLOCK, 0, 0):
            return Refusal("certificate: names a block where none belongs")
        return self._remembered(certificate, None)

    def _remembered(self, certificate: Certificate, fault: str | None) -> Refusal | None:
        if fault is not None:
            return Refusal(f"certificate: {fault}")
        if certificate in self._verified:
            return None
        refusal = self._check(certificate)
        if refusal is None:
            self._remember(certificate)
        return refusal

    def _remember(self, certificate: Certificate) -> None:
        if len(self._verified) >= VERIFIED_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[certificate] = None

    def _block_fault(self, certificate: Certificate, kinds: tuple[str, ...]) -> str | None:
        genesis = self._epoch.genesis
        if certificate.view == 0 or certificate.block_id == genesis.block_id:
            return "names the epoch's boundary but is not its genesis certificate"
        if certificate.kind not in kinds:
            return f"kind {certificate.kind!r} certifies no block"
        if certificate.height <= genesis.height or certificate.justify_view >= certificate.view:
            return "height or justify view cannot be"
        return None

    def _check(self, certificate: Certificate) -> Refusal | None:
        if certificate.epoch != self._epoch.epoch:
            return Refusal(f"certificate: epoch {certificate.epoch}, expected {self._epoch.epoch}")
        refusal = self.check_quorum(certificate.signers)
        if refusal is not None:
            return refusal
        keys = self._keys(signers_of(certificate.signers))
        message = self._epoch.domain.bytes_to_sign(certificate_subject(certificate))
        if not self._scheme.verify_aggregate(keys, message, certificate.signature):
            return Refusal("certificate: the signatures do not verify")
        return None

    def check_quorum(self, *bitmaps: Bitmap) -> Refusal | None:
        """None when the bitmaps are canonical, disjoint, name only validators, and hold a quorum of stake
        together."""
        validators = self._epoch.validators
        seen = 0
        for bitmap in bitmaps:
            bits = int.from_bytes(bitmap, "little")
            if not bits or not is_canonical_bitmap(bitmap):
                return Refusal("signers: the bitmap is empty or not canonical")
            if bits & seen:
                return Refusal("signers: one signer counted twice")
            seen |= bits
        if seen.bit_length() > len(validators):
            return Refusal("signers: an unknown validator")
        stake = validators.stake_of(signers_of(seen.to_bytes((seen.bit_length() + 7) // 8, "little")))
        if stake < validators.quorum:
            return Refusal(f"signers: stake {stake} is below the quorum of {validators.quorum}")
        return None

    def check_groups(self, groups: Sequence[tuple[Bitmap, Subject, bytes]]) -> bool:
        """True when in every group ``(signers, subject, aggregate signature)`` each signer signed the subject."""
        return self._scheme.verify_groups(
            [
                (self._keys(signers_of(signers)), self._epoch.domain.bytes_to_sign(subject), signature)
                for signers, subject, signature in groups
            ]
        )

    def sift(self, subject: Subject, signatures: Mapping[ValidatorIndex, bytes]) -> list[ValidatorIndex]:
        """The signers, ascending, whose signatures must go for the rest to aggregate into something that verifies."""
        message = self._epoch.domain.bytes_to_sign(subject)
        bad: list[ValidatorIndex] = []
        pending = [sorted(signatures)]
        while pending:
            part = pending.pop()
            if self._aggregate(part, signatures, message) is not None:
                continue
            if len(part) == 1:
                bad.append(part[0])
            else:
                pending += [part[: len(part) // 2], part[len(part) // 2 :]]
        return sorted(bad)

    def join(self, signatures: Mapping[ValidatorIndex, bytes]) -> tuple[Bitmap, bytes]:
        """The bitmap and aggregate of signatures that were sifted."""
        signers = sorted(signatures)
        aggregate = self._scheme.aggregate([signatures[signer] for signer in signers])
        if aggregate is None:
            raise ValueError("join: signatures that were not sifted")
        return bitmap_of(signers), aggregate

    def certify(
        self, subject: VoteSubject, signatures: Mapping[ValidatorIndex, bytes]
    ) -> tuple[Certificate | None, tuple[ValidatorIndex, ...]]:
        """The certificate of the signatures that verify, known to verify from now on, and the signers of those that do
        not. None when the good ones are no quorum. Names validators only."""
        spoiled: tuple[ValidatorIndex, ...] = ()
        signers = sorted(signatures)
        aggregate = self._aggregate(signers, signatures, self._epoch.domain.bytes_to_sign(subject))
        if aggregate is None:
            spoiled = tuple(self.sift(subject, signatures))
            good = {signer: signatures[signer] for signer in signers if signer not in spoiled}
            if self._epoch.validators.stake_of(good) < self._epoch.validators.quorum:
                return None, spoiled
            bitmap, aggregate = self.join(good)
        else:
            bitmap = bitmap_of(signers)
        certificate = Certificate(
            kind=subject.kind,
            epoch=subject.epoch,
            view=subject.view,
            block_id=subject.block_id,
            height=subject.height,
            justify_view=subject.justify_view,
            signers=bitmap,
            signature=aggregate,
        )
        self._remember(certificate)
        return certificate, spoiled

    def _aggregate(
        self, signers: Sequence[ValidatorIndex], signatures: Mapping[ValidatorIndex, bytes], message: bytes
    ) -> bytes | None:
        """The signatures of ``signers``, ascending, joined; None when that does not verify."""
        aggregate = self._scheme.aggregate(list(map(signatures.__getitem__, signers)))
        if aggregate is None or not self._scheme.verify_aggregate(self._keys(signers), message, aggregate):
            return None
        return aggregate

    def _keys(self, signers: Sequence[ValidatorIndex]) -> tuple[bytes, ...]:
        return tuple(map(self._epoch.validators.public_keys.__getitem__, signers))
