"""Making and checking the timeout certificates of the HotStuff family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consensus.certificates import QuorumChecker
from consensus.engine import Refusal, ReportEvidence
from consensus.epochs import EpochInfo
from consensus.protocols.chained_types import Timeout, TimeoutCertificate, TimeoutGroup, TimeoutSubject
from consensus.protocols.rules import ChainedRules
from consensus.types import Certificate, ValidatorIndex, View
from consensus.vote_tally import BadSignature

VERIFIED_MAX: Final = 16


class TimeoutCertifier:
    """Remembers, by their whole content, the last certificates that verified."""

    __slots__ = ("_checker", "_epoch", "_rules", "_verified")

    def __init__(self, epoch: EpochInfo, checker: QuorumChecker, rules: ChainedRules) -> None:
        self._epoch = epoch
        self._checker = checker
        self._rules = rules
        self._verified: dict[TimeoutCertificate, None] = {}

    def subject(self, view: View, high_qc: Certificate) -> TimeoutSubject:
        """What giving up ``view`` with ``high_qc`` signs."""
        return self._subject(view, self._rules.signed_high_qc_view(high_qc))

    def check(self, certificate: TimeoutCertificate) -> Refusal | None:
        """None when a quorum gave up the certificate's view; the reason otherwise."""
        if certificate in self._verified:
            return None
        if certificate.epoch != self._epoch.epoch or certificate.view < 1:
            return Refusal("timeout certificate: of another epoch, or of view 0")
        refusal = self._rules.check_timeout_certificate(certificate)
        if refusal is None:
            refusal = self._checker.check_quorum(*(group.signers for group in certificate.groups))
        if refusal is None:
            refusal = self._checker.check(certificate.high_qc)
        if refusal is not None:
            return refusal
        groups = [
            (group.signers, self._subject(certificate.view, group.high_qc_view), group.signature)
            for group in certificate.groups
        ]
        if not self._checker.check_groups(groups):
            return Refusal("timeout certificate: the signatures do not verify")
        self._remember(certificate)
        return None

    def make(
        self, view: View, timeouts: Sequence[Timeout]
    ) -> tuple[TimeoutCertificate | None, tuple[ValidatorIndex, ...]]:
        """The certificate of ``timeouts`` (distinct signers, all of ``view``, their certificates checked before), and
        the signers whose signatures are bad. None when a quorum does not remain without those."""
        signatures: dict[View | None, dict[ValidatorIndex, bytes]] = {}
        for timeout in timeouts:
            signed = self._rules.signed_high_qc_view(timeout.high_qc)
            signatures.setdefault(signed, {})[timeout.signer] = timeout.signature
        spoiled: list[ValidatorIndex] = []
        for signed, group in signatures.items():
            bad = self._checker.sift(self._subject(view, signed), group)
            spoiled += bad
            for signer in bad:
                del group[signer]
        good = [timeout for timeout in timeouts if timeout.signer not in spoiled]
        if self._epoch.validators.stake_of(timeout.signer for timeout in good) < self._epoch.validators.quorum:
            return None, tuple(spoiled)
        groups = []
        for signed in sorted((key for key, group in signatures.items() if group), key=lambda key: key or 0):
            signers, signature = self._checker.join(signatures[signed])
            groups.append(TimeoutGroup(high_qc_view=signed, signers=signers, signature=signature))
        certificate = TimeoutCertificate(
            epoch=self._epoch.epoch,
            view=view,
            high_qc=max((timeout.high_qc for timeout in good), key=lambda high_qc: high_qc.view),
            groups=tuple(groups),
        )
        self._remember(certificate)
        return certificate, tuple(spoiled)

    def _subject(self, view: View, high_qc_view: View | None) -> TimeoutSubject:
        return TimeoutSubject(epoch=self._epoch.epoch, view=view, high_qc_view=high_qc_view)

    def _remember(self, certificate: TimeoutCertificate) -> None:
        if len(self._verified) >= VERIFIED_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[certificate] = None


class ContradictionWatch:
    """Finds validators that sign two certificates' views in their timeouts of one view. Bound: one view per signer."""

    __slots__ = ("_certifier", "_checker", "_reported")

    def __init__(self, certifier: TimeoutCertifier, checker: QuorumChecker) -> None:
        self._certifier = certifier
        self._checker = checker
        self._reported: dict[ValidatorIndex, View] = {}

    def compare(self, first: Timeout, second: Timeout) -> ReportEvidence | BadSignature | None:
        """Two timeouts of one signer and view, whose signatures were not checked: the evidence when what they sign
        differs, once, or that one of them is not signed. None when they contradict each other in nothing new."""
        view, signer = second.view, second.signer
        if self._reported.get(signer) == view:
            return None
        subjects = [self._certifier.subject(view, timeout.high_qc) for timeout in (first, second)]
        if subjects[0] == subjects[1]:
            return None
        self._reported[signer] = view
        pairs = zip(subjects, (first, second), strict=True)
        if all(self._checker.check_signature(signer, subject, timeout.signature) for subject, timeout in pairs):
            return ReportEvidence(first, second)
        return BadSignature()
