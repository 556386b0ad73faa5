"""Certificates: what is accepted as a quorum's, what is not, and how bad signatures are found."""

from __future__ import annotations

import msgspec
import pytest

from consensus.certificates import VERIFIED_MAX, QuorumChecker
from consensus.engine import Refusal
from consensus.types import Certificate, bitmap_of
from tests.consensus.test_vote_tally import CountingScheme
from tests.support.chain import Chain
from tests.support.committee import Committee, committee

replace = msgspec.structs.replace
every_scheme = pytest.mark.parametrize("scheme", ["simulated", "ed25519", "bls"])


def checker_of(members: Committee) -> QuorumChecker:
    return QuorumChecker(members.epoch, members.scheme, ("vote",))


def reason(refusal: Refusal | None) -> str:
    assert refusal is not None
    return refusal.reason


@every_scheme
def test_a_quorum_certifies(scheme: str) -> None:
    members = committee(scheme=scheme)
    chain = Chain(members)
    block = chain.block(1)
    for signers in ([0, 1, 2], [1, 2, 3], [0, 1, 2, 3]):
        assert checker_of(members).check(chain.qc(block, signers)) is None
    assert reason(checker_of(members).check(chain.qc(block, [0, 3]))) == "signers: stake 2 is below the quorum of 3"


def test_only_the_genesis_certificate_itself_names_genesis() -> None:
    members = committee()
    chain, checker = Chain(members), checker_of(members)
    genesis = chain.genesis
    assert checker.check(genesis) is None
    subject = replace(chain.vote_subject(chain.block(9)), block_id=genesis.block_id)
    boundary = "certificate: names the epoch's boundary but is not its genesis certificate"
    for forged in (
        replace(genesis, signature=bytes(32)),
        replace(genesis, height=1),
        replace(genesis, view=9),
        replace(genesis, epoch=1),
        chain.certificate(subject, [0, 1, 2, 3]),  # a quorum may sign what it likes
        replace(chain.qc(chain.block(1)), view=0),
    ):
        assert reason(checker.check(forged)) == boundary


def test_what_the_subject_of_a_certificate_must_be() -> None:
    members = committee()
    chain, checker = Chain(members), checker_of(members)
    subject = chain.vote_subject(chain.block(5))
    everybody = [0, 1, 2, 3]
    wrong_kind = chain.certificate(replace(subject, kind="order"), everybody)
    assert reason(checker.check(wrong_kind)) == "certificate: kind 'order' certifies no block"
    other_epoch = replace(chain.certificate(subject, everybody), epoch=1)
    assert reason(checker.check(other_epoch)) == "certificate: epoch 1, expected 0"
    cannot_be = "certificate: height or justify view cannot be"
    assert reason(checker.check(chain.certificate(replace(subject, height=0), everybody))) == cannot_be
    assert reason(checker.check(chain.certificate(replace(subject, justify_view=5), everybody))) == cannot_be
    assert checker.check(chain.certificate(replace(subject, justify_view=4), everybody)) is None


@pytest.mark.parametrize("field", ["view", "block_id", "height", "justify_view"])
def test_every_field_is_signed(field: str) -> None:
    members = committee()
    chain, checker = Chain(members), checker_of(members)
    certificate = chain.qc(chain.block(5))
    assert checker.check(certificate) is None
    changed = bytes(32) if field == "block_id" else getattr(certificate, field) + 1
    assert (
        reason(checker.check(replace(certificate, **{field: changed}))) == "certificate: the signatures do not verify"
    )


def test_the_bitmap_names_each_validator_once_and_no_other() -> None:
    members = committee()
    checker = checker_of(members)
    assert checker.check_quorum(b"\x0f") is None
    assert checker.check_quorum(b"\x01", b"\x06") is None
    empty = "signers: the bitmap is empty or not canonical"
    assert reason(checker.check_quorum(b"")) == empty
    assert reason(checker.check_quorum(b"\x00")) == empty
    assert reason(checker.check_quorum(b"\x0f\x00")) == empty
    assert reason(checker.check_quorum(b"\x0f", b"")) == empty
    assert reason(checker.check_quorum(b"\x07", b"\x04")) == "signers: one signer counted twice"
    assert reason(checker.check_quorum(b"\x01", b"\x02", b"\x01")) == "signers: one signer counted twice"
    assert reason(checker.check_quorum(b"\x1f")) == "signers: an unknown validator"
    assert reason(checker.check_quorum(b"\x07", b"\x00\x01")) == "signers: an unknown validator"
    assert reason(checker.check_quorum(b"\x01", b"\x02")) == "signers: stake 2 is below the quorum of 3"


def test_more_than_eight_validators_fill_a_second_byte() -> None:
    members = committee(10)
    chain, checker = Chain(members), checker_of(members)
    assert checker.check(chain.qc(chain.block(1), [0, 1, 2, 5, 7, 8, 9])) is None
    assert reason(checker.check_quorum(bitmap_of((0, 1, 2, 5, 7, 8)))) == "signers: stake 6 is below the quorum of 7"


@every_scheme
def test_bad_signatures_are_found_wherever_they_are(scheme: str) -> None:
    members = committee(5, scheme=scheme)
    chain, checker = Chain(members), checker_of(members)
    subject = chain.vote_subject(chain.block(1))
    other = chain.vote_subject(chain.block(2))
    for bad in ([], [0], [4], [1, 3], [0, 1, 2, 3, 4]):
        signatures = {signer: members.sign(signer, other if signer in bad else subject) for signer in (3, 1, 4, 0, 2)}
        assert checker.sift(subject, signatures) == bad
    malformed = {0: members.sign(0, subject), 1: b"", 2: members.sign(2, subject)}
    assert checker.sift(subject, malformed) == [1]


def test_colluders_whose_errors_cancel_are_not_marked_as_verified() -> None:
    """Two sign s + d and s - d: the sum verifies, the parts do not, and each part alone is refused."""
    members = committee()
    chain, checker = Chain(members), checker_of(members)
    subject = chain.vote_subject(chain.block(1))
    prime = 2**255 - 19
    parts = {signer: int.from_bytes(members.sign(signer, subject), "big") for signer in (0, 1, 2)}
    parts[0], parts[1] = (parts[0] + 5) % prime, (parts[1] - 5) % prime
    signatures = {signer: value.to_bytes(32, "big") for signer, value in parts.items()}
    assert checker.sift(subject, signatures) == []
    bitmap, signature = checker.join(signatures)
    assert bitmap == b"\x07"
    assert checker.check(replace(chain.qc(chain.block(1)), signature=signature)) is None
    assert [checker.check_signature(signer, subject, signatures[signer]) for signer in (0, 1, 2)] == [
        False,
        False,
        True,
    ]


def test_signatures_that_were_not_sifted_are_not_joined() -> None:
    with pytest.raises(ValueError, match=r"^join: signatures that were not sifted$"):
        checker_of(committee()).join({0: b"malformed"})


def test_a_signature_is_of_one_validator_over_one_subject() -> None:
    members = committee()
    chain, checker = Chain(members), checker_of(members)
    subject, other = (chain.vote_subject(chain.block(view)) for view in (1, 2))
    signature = members.sign(1, subject)
    assert checker.check_signature(1, subject, signature)
    assert not checker.check_signature(0, subject, signature)
    assert not checker.check_signature(1, other, signature)
    assert not checker.check_signature(4, subject, signature), "there is no fifth"


def test_groups_hold_only_together() -> None:
    members = committee()
    chain, checker = Chain(members), checker_of(members)
    low, high = chain.timeout_subject(5, chain.genesis), chain.timeout_subject(5, chain.qc(chain.block(1)))
    groups = [(b"\x01", low, members.sign(0, low)), (b"\x02", high, members.sign(1, high))]
    assert checker.check_groups(groups)
    assert not checker.check_groups([groups[0], (b"\x02", low, members.sign(1, high))])
    assert not checker.check_groups([groups[0], (b"\x04", high, members.sign(1, high))])


def counting() -> tuple[Chain, CountingScheme, QuorumChecker]:
    members = committee()
    scheme = CountingScheme(members.scheme)
    return Chain(members), scheme, QuorumChecker(members.epoch, scheme, ("vote",))  # type: ignore[arg-type]  # it counts, and has what a checker asks


def test_a_certificate_is_remembered_by_its_whole_content() -> None:
    chain, scheme, checker = counting()
    certificate = chain.qc(chain.block(1))
    assert checker.check(certificate) is None
    assert checker.check(certificate) is None
    assert scheme.verified == 1
    forged: Certificate = replace(certificate, signature=bytes(32))
    assert checker.check(forged) is not None
    assert checker.check(forged) is not None
    assert scheme.verified == 3, "what was refused is not remembered"


@pytest.mark.parametrize("made_here", [False, True])
def test_the_memory_of_certificates_is_bounded_and_forgets_the_oldest(made_here: bool) -> None:
    chain, scheme, checker = counting()
    blocks = [chain.block(view, on=chain.genesis) for view in range(1, VERIFIED_MAX + 2)]
    for block in blocks:
        if made_here:
            subject = chain.vote_subject(block)
            checker.certify(subject, {signer: chain.vote(block, signer).signature for signer in range(3)})
        else:
            assert checker.check(chain.qc(block)) is None
    before = scheme.verified
    for block in blocks[1:]:
        assert checker.check(chain.qc(block)) is None
    assert scheme.verified == before
    assert checker.check(chain.qc(blocks[0])) is None
    assert scheme.verified == before + 1
    assert len(checker._verified) == VERIFIED_MAX
