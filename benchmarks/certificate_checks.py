"""What it costs to check a certificate, for each real signature scheme: CPU time, and the pairing products behind it,
counted where the scheme calls the library of the curve.

Every check is of a fresh certificate by a fresh checker: nothing is remembered but the parsed public keys, which each
node has parsed at genesis.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Final

from consensus.certificates import QuorumChecker
from consensus.crypto.bls import Bls
from consensus.crypto.bls_points import KeyPoint, SignaturePoint
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.protocols.chained_types import TimeoutCertificate, TimeoutGroup, TimeoutSubject
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.timeout_certificates import TimeoutCertifier
from consensus.signing import VOTE
from consensus.types import Certificate, Subject, ValidatorIndex, View, VoteSubject
from netsim.committee import Committee, committee_of
from netsim.schedule import Schedule

if sys.version_info >= (3, 13):
    from consensus.crypto import bls_arkworks as default_points
else:
    from consensus.crypto import bls_blspy as default_points

ROUNDS: Final = 3
"""The least time of so many is told."""
GROUPS: Final = (1, 2, 4, 16)


class CountedPoints:
    """The points of BLS, with the products of pairings counted."""

    def __init__(self) -> None:
        self.products = 0
        self.pairings = 0
        self.public_key = default_points.public_key
        self.sign = default_points.sign
        self.prove_possession = default_points.prove_possession
        self.parse_key = default_points.parse_key
        self.parse_signature = default_points.parse_signature
        self.parse_part = default_points.parse_part
        self.add_keys = default_points.add_keys
        self.add_signatures = default_points.add_signatures
        self.signature_bytes = default_points.signature_bytes
        self.verify_possession = default_points.verify_possession

    def verify(self, keys: Sequence[KeyPoint], messages: Sequence[bytes], signature: SignaturePoint) -> bool:
        self.products += 1
        self.pairings += len(keys) + 1
        return default_points.verify(keys, messages, signature)


class CountedScheme:
    """A scheme, with the questions that were asked of it counted: each is one check of one signature, aggregate, or
    list of groups."""

    for_simulation = False

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self.name = scheme.name
        self.public_key_size = scheme.public_key_size
        self.signature_size = scheme.signature_size
        self.questions = 0

    def generate(self, seed: bytes) -> SecretKey:
        return self._scheme.generate(seed)

    def load(self, secret: bytes) -> SecretKey:
        return self._scheme.load(secret)

    def check_public_key(self, public_key: bytes, possession_proof: bytes) -> bool:
        return self._scheme.check_public_key(public_key, possession_proof)

    def aggregate(self, signatures: Sequence[bytes]) -> bytes | None:
        return self._scheme.aggregate(signatures)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.questions += 1
        return self._scheme.verify(public_key, message, signature)

    def verify_aggregate(self, public_keys: Sequence[bytes], message: bytes, aggregate: bytes) -> bool:
        self.questions += 1
        return self._scheme.verify_aggregate(public_keys, message, aggregate)

    def verify_groups(self, groups: Sequence[tuple[Sequence[bytes], bytes, bytes]]) -> bool:
        self.questions += 1
        return self._scheme.verify_groups(groups)


class Bench:
    """One committee, its quorum, and the counters."""

    def __init__(self, scheme: str, nodes: int) -> None:
        self.committee: Committee = committee_of(Schedule(nodes=nodes).replace(scheme=scheme))
        self.points = CountedPoints()
        self.scheme = CountedScheme(Bls(self.points) if scheme == Bls.name else self.committee.scheme)
        self.quorum = self.committee.epoch.validators.quorum

    def checker(self) -> QuorumChecker:
        return QuorumChecker(self.committee.epoch, self.scheme, (VOTE,))

    def signed(self, subject: Subject, signers: Sequence[ValidatorIndex]) -> tuple[bytes, bytes]:
        """The bitmap and aggregate of those who sign; joining checks nothing."""
        return self.checker().join({signer: self.committee.sign(signer, subject) for signer in signers})

    def certificate(self, view: View) -> Certificate:
        subject = VoteSubject(
            kind=VOTE, epoch=0, view=view, block_id=view.to_bytes(32, "big"), height=view, justify_view=view - 1
        )
        signers, signature = self.signed(subject, range(self.quorum))
        return Certificate(
            kind=VOTE, epoch=0, view=view, block_id=subject.block_id, height=view, justify_view=view - 1,
            signers=signers, signature=signature,
        )  # fmt: skip

    def timeout_certificate(self, high_qc: Certificate, groups: int) -> TimeoutCertificate:
        """A quorum gives the next view up, in groups by the highest certificate that each has seen."""
        view = high_qc.view + 1
        parts = []
        for number in range(groups):
            seen = high_qc.view - groups + 1 + number
            subject = TimeoutSubject(epoch=0, view=view, high_qc_view=seen)
            signers, signature = self.signed(subject, range(number, self.quorum, groups))
            parts.append(TimeoutGroup(high_qc_view=seen, signers=signers, signature=signature))
        return TimeoutCertificate(epoch=0, view=view, high_qc=high_qc, groups=tuple(parts))

    def reset(self) -> None:
        self.scheme.questions = self.points.products = self.points.pairings = 0

    def counted(self, times_s: Sequence[float]) -> dict[str, object]:
        """The least time, and the counts of the last check."""
        return {
            "check_us": min(times_s) * 1e6,
            "questions": self.scheme.questions,
            "products": self.points.products,
            "pairings": self.points.pairings,
        }


def check_costs(scheme: str, nodes: int) -> dict[str, object]:
    """Of a quorum's certificate, and of a timeout certificate with 1, 2, 4 and 16 groups whose own high certificate is
    known already. Raises ``RuntimeError`` when one does not verify."""
    bench = Bench(scheme, nodes)
    times_s = []
    for number in range(ROUNDS):
        certificate, checker = bench.certificate(100 + number), bench.checker()
        bench.reset()
        began = time.process_time()
        refusal = checker.check(certificate)
        times_s.append(time.process_time() - began)
        if refusal is not None:
            raise RuntimeError(f"{scheme} among {nodes}: {refusal.reason}")
    found = bench.counted(times_s)
    found["signers"] = bench.quorum
    found["timeout_certificates"] = {
        str(groups): _timeout_costs(bench, groups) for groups in GROUPS if groups <= bench.quorum
    }
    return found


def _timeout_costs(bench: Bench, groups: int) -> dict[str, object]:
    times_s = []
    for number in range(ROUNDS):
        high_qc, checker = bench.certificate(1000 + 100 * groups + number), bench.checker()
        certificate = bench.timeout_certificate(high_qc, groups)
        checker.check(high_qc)
        certifier = TimeoutCertifier(bench.committee.epoch, checker, Jolteon())
        bench.reset()
        began = time.process_time()
        refusal = certifier.check(certificate)
        times_s.append(time.process_time() - began)
        if refusal is not None:
            raise RuntimeError(f"{bench.scheme.name}, {groups} groups: {refusal.reason}")
    return bench.counted(times_s)
