"""A quorum gave up a view: how that is made, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from consensus.certificates import QuorumChecker
from consensus.engine import Refusal
from consensus.protocols.chained_types import TimeoutCertificate, TimeoutGroup, TimeoutSubject
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.hotstuff2 import HotStuff2
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.rules import ChainedRules
from consensus.protocols.timeout_certificates import VERIFIED_MAX, TimeoutCertifier
from consensus.types import signers_of
from tests.consensus.test_vote_tally import CountingScheme
from tests.support.chain import Chain
from tests.support.committee import Committee, committee

replace = msgspec.structs.replace
RULES: dict[str, ChainedRules] = {
    "jolteon": Jolteon(),
    "hotstuff": HotStuff(),
    "hotstuff2": HotStuff2(),
}
every_protocol = pytest.mark.parametrize("protocol", list(RULES))


def certifier_of(members: Committee) -> TimeoutCertifier:
    checker = QuorumChecker(members.epoch, members.scheme, ("vote",))
    return TimeoutCertifier(members.epoch, checker, RULES[members.spec.protocol])


def reason(refusal: Refusal | None) -> str:
    assert refusal is not None
    return refusal.reason


@every_protocol
@pytest.mark.parametrize("scheme", ["simulated", "ed25519", "bls"])
def test_a_quorums_timeouts_make_a_certificate_that_strangers_accept(protocol: str, scheme: str) -> None:
    """::

    genesis <- b1 <- b2        view 4 is given up: v0 and v3 know QC(b2), v1 QC(b1), v2 nothing
    """
    members = committee(protocol=protocol, scheme=scheme)
    chain = Chain(members)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    high_qcs = [chain.qc(b2), chain.qc(b1), chain.genesis, chain.qc(b2)]
    timeouts = [chain.timeout(4, signer, high_qc) for signer, high_qc in enumerate(high_qcs)]
    certificate, spoiled = certifier_of(members).make(4, timeouts)
    assert spoiled == ()
    assert certificate == chain.tc(4, high_qcs)
    assert certificate is not None
    assert certifier_of(members).check(certificate) is None
    assert certificate.high_qc == chain.qc(b2)
    groups = [(group.high_qc_view, signers_of(group.signers)) for group in certificate.groups]
    if protocol == "jolteon":
        assert groups == [(0, (2,)), (1, (1,)), (2, (0, 3))]
    else:
        assert groups == [(None, (0, 1, 2, 3))]


@every_protocol
def test_what_a_timeout_signs(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain = Chain(members)
    high_qc = chain.qc(chain.block(3))
    signed = 3 if protocol == "jolteon" else None
    assert certifier_of(members).subject(7, high_qc) == TimeoutSubject(epoch=0, view=7, high_qc_view=signed)


@every_protocol
def test_genesis_is_the_high_certificate_of_a_silent_first_leader(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain = Chain(members)
    certificate, _ = certifier_of(members).make(1, [chain.timeout(1, signer) for signer in (1, 2, 3)])
    assert certificate is not None
    assert certificate.high_qc == chain.genesis
    assert certifier_of(members).check(certificate) is None
    forged = replace(certificate, high_qc=replace(chain.genesis, signature=bytes(32)))
    assert "genesis certificate" in reason(certifier_of(members).check(forged))


@every_protocol
def test_bad_signatures_are_named_and_left_out(protocol: str) -> None:
    members = committee(5, protocol=protocol)
    chain = Chain(members)
    b1 = chain.qc(chain.block(1))
    timeouts = [chain.timeout(3, signer, b1 if signer < 2 else chain.genesis) for signer in range(5)]
    timeouts[1] = replace(timeouts[1], signature=timeouts[0].signature)
    certificate, spoiled = certifier_of(members).make(3, timeouts)
    assert spoiled == (1,)
    assert certificate is not None
    assert certifier_of(members).check(certificate) is None
    assert sum(len(signers_of(group.signers)) for group in certificate.groups) == 4
    timeouts[3] = replace(timeouts[3], signature=b"")
    assert certifier_of(members).make(3, timeouts) == (None, (1, 3)), "three of five are no quorum"


@every_protocol
def test_the_highest_certificate_is_the_highest_of_those_whose_signatures_are_good(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain = Chain(members)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    timeouts = [chain.timeout(4, signer, chain.qc(b1)) for signer in range(3)]
    timeouts.append(replace(chain.timeout(4, 3, chain.qc(b2)), signature=bytes(32)))
    certificate, spoiled = certifier_of(members).make(4, timeouts)
    assert spoiled == (3,)
    assert certificate is not None
    assert certificate.high_qc == chain.qc(b1)
    assert len(certificate.groups) == 1
    assert certifier_of(members).check(certificate) is None


@every_protocol
def test_the_quorum_is_of_stake(protocol: str) -> None:
    members = committee(4, protocol=protocol, stakes=(6, 1, 1, 2))
    chain = Chain(members)
    small = [chain.timeout(1, signer) for signer in (1, 2, 3)]
    assert certifier_of(members).make(1, small) == (None, ())
    big = [chain.timeout(1, signer) for signer in (0, 1)]
    certificate, _ = certifier_of(members).make(1, big)
    assert certificate is not None
    assert certifier_of(members).check(certificate) is None


@every_protocol
def test_what_is_refused(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain, certifier = Chain(members), certifier_of(members)
    b1 = chain.block(1)
    good = chain.tc(3, [chain.qc(b1)] * 3)
    of_another = "timeout certificate: of another epoch, or of view 0"
    assert reason(certifier.check(replace(good, epoch=1))) == of_another
    assert reason(certifier.check(replace(good, view=0))) == of_another
    too_few = chain.tc(3, [chain.qc(b1)] * 2)
    assert reason(certifier.check(too_few)) == "signers: stake 2 is below the quorum of 3"
    replayed = replace(good, view=4)
    assert reason(certifier.check(replayed)) == "timeout certificate: the signatures do not verify"
    forged_high = replace(good, high_qc=replace(good.high_qc, signature=bytes(32)))
    assert reason(certifier.check(forged_high)) == "certificate: the signatures do not verify"
    too_high = replace(good, view=1)
    assert "view" in reason(certifier.check(too_high))
    assert certifier.check(good) is None


@every_protocol
def test_a_view_above_zero_is_given_up_with_a_certificate_from_below_it(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain, certifier = Chain(members), certifier_of(members)
    b1 = chain.block(1)
    assert certifier.check(chain.tc(1, [chain.genesis] * 3)) is None
    assert certifier.check(chain.tc(2, [chain.qc(b1)] * 3)) is None
    assert certifier.check(chain.tc(1, [chain.qc(b1)] * 3)) is not None


def group(view: int | None, *signers: int, chain: Chain, of: int = 5) -> TimeoutGroup:
    subject = TimeoutSubject(epoch=0, view=of, high_qc_view=view)
    aggregate = chain.committee.scheme.aggregate([chain.committee.sign(signer, subject) for signer in signers])
    assert aggregate is not None
    return TimeoutGroup(
        high_qc_view=view, signers=bytes((sum(1 << signer for signer in signers),)), signature=aggregate
    )


def test_a_signer_stands_in_one_group() -> None:
    """Pitfall 5. A double signer must not make a quorum of three out of two."""
    members = committee()
    chain = Chain(members)
    b1 = chain.qc(chain.block(1))
    twice = TimeoutCertificate(
        epoch=0, view=5, high_qc=b1, groups=(group(0, 0, 1, chain=chain), group(1, 1, chain=chain))
    )
    assert reason(certifier_of(members).check(twice)) == "signers: one signer counted twice"
    once = replace(twice, groups=(group(0, 0, 1, chain=chain), group(1, 2, chain=chain)))
    assert certifier_of(members).check(once) is None


def test_each_group_signed_its_own_view() -> None:
    """A collector cannot move a signer to another group."""
    members = committee()
    chain = Chain(members)
    b1 = chain.qc(chain.block(1))
    good = chain.tc(5, [chain.genesis, b1, b1])
    assert certifier_of(members).check(good) is None
    moved = replace(good, groups=(replace(good.groups[0], signers=b"\x03"), replace(good.groups[1], signers=b"\x04")))
    assert reason(certifier_of(members).check(moved)) == "timeout certificate: the signatures do not verify"
    renamed = replace(good, groups=(good.groups[0], replace(good.groups[1], high_qc_view=2)))
    assert certifier_of(members).check(renamed) is not None


def test_what_was_verified_is_remembered_by_its_whole_content_and_within_bounds() -> None:
    members = committee()
    chain, scheme = Chain(members), CountingScheme(members.scheme)
    checker = QuorumChecker(members.epoch, scheme, ("vote",))  # type: ignore[arg-type]  # it counts, and has what a checker asks
    certifier = TimeoutCertifier(members.epoch, checker, Jolteon())
    certificates = [chain.tc(view, [chain.genesis] * 3) for view in range(1, VERIFIED_MAX + 2)]
    for certificate in certificates:
        assert certifier.check(certificate) is None
    assert scheme.verified == len(certificates)
    for certificate in certificates[1:]:
        assert certifier.check(certificate) is None
    assert scheme.verified == len(certificates)
    forged = replace(certificates[-1], groups=(replace(certificates[-1].groups[0], signature=bytes(32)),))
    assert certifier.check(forged) is not None
    assert certifier.check(certificates[0]) is None
    assert scheme.verified == len(certificates) + 2
    made, _ = certifier.make(99, [chain.timeout(99, signer) for signer in range(3)])
    before = scheme.verified
    assert made is not None
    assert certifier.check(made) is None
    assert scheme.verified == before
    assert len(certifier._verified) == VERIFIED_MAX
