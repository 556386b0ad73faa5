"""BLS12-381 against py_ecc, an independent implementation; and everything a library alone would let through.

py_ecc computes a tenth of a second per signature and a third per pairing check, so there are few of them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import cast

import pytest
from eth_typing import BLSPubkey, BLSSignature
from py_ecc.bls.ciphersuites import G2ProofOfPossession as Oracle
from py_ecc.bls.hash_to_curve import hash_to_G2
from py_ecc.bls.point_compression import compress_G1, compress_G2, decompress_G1, decompress_G2
from py_ecc.bls.typing import G1Compressed, G2Compressed, G2Uncompressed
from py_ecc.fields import bls12_381_FQ
from py_ecc.optimized_bls12_381.optimized_curve import G1, add, multiply, neg

from consensus.crypto.bls import GROUP_ORDER, Bls
from consensus.crypto.bls_points import POSSESSION_DOMAIN, SIGNATURE_DOMAIN
from tests.consensus.crypto.common import (
    MESSAGE,
    OTHER_MESSAGE,
    SCHEMES,
    SEED,
    bls_points,
    bls_schemes,
    committee,
    public_keys,
    signed,
)

every_library = pytest.mark.parametrize("name", bls_schemes())

FIELD = bls12_381_FQ.field_modulus
COMPRESSED = 1 << 383
INFINITY = 1 << 382
SIGN = 1 << 381
KEY_IDENTITY = (COMPRESSED | INFINITY).to_bytes(48, "big")
SIGNATURE_IDENTITY = (COMPRESSED | INFINITY).to_bytes(48, "big") + bytes(48)


def g1(flags_and_x: int) -> bytes:
    return flags_and_x.to_bytes(48, "big")


def g2(flags_and_x_imaginary: int, x_real: int = 0) -> bytes:
    return flags_and_x_imaginary.to_bytes(48, "big") + x_real.to_bytes(48, "big")


BAD_KEYS = {
    "the identity": KEY_IDENTITY,
    "the identity with its sign set": g1(COMPRESSED | INFINITY | SIGN),
    "the identity with a byte behind the flag": g1(COMPRESSED | INFINITY | 1),
    "on the curve, outside the subgroup": g1(COMPRESSED | 4),
    "off the curve": g1(COMPRESSED | 1),
    "x is not below the field's modulus": g1(COMPRESSED | FIELD + 4),
    "not marked as compressed": g1(4),
    "zeros": bytes(48),
    "ones": b"\xff" * 48,
}
BAD_SIGNATURES = {
    "the identity": SIGNATURE_IDENTITY,
    "the identity with its sign set": g2(COMPRESSED | INFINITY | SIGN),
    "the identity with a byte behind the flag": g2(COMPRESSED | INFINITY, 1),
    "off the curve": g2(COMPRESSED, 1),
    "x is not below the field's modulus": g2(COMPRESSED, FIELD + 2),
    "a flag on the second half": g2(COMPRESSED, COMPRESSED | 2),
    "not marked as compressed": g2(0, 2),
    "zeros": bytes(96),
    "ones": b"\xff" * 96,
}
OUTSIDE_THE_SUBGROUP = g2(COMPRESSED, 2)


def scheme_and_keys(name: str) -> tuple[Bls, tuple[int, ...]]:
    """The scheme and its committee's secrets as py_ecc takes them."""
    secrets = tuple(int.from_bytes(key.export(), "big") for key in committee(name))
    return cast("Bls", SCHEMES[name]), secrets


def hashed(message: bytes, domain: bytes) -> G2Uncompressed:
    return hash_to_G2(message, domain, sha256)  # type: ignore[arg-type]  # it takes the constructor


def halves(signature: bytes) -> G2Compressed:
    return G2Compressed((int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")))


def encoded_g2(point: G2Uncompressed) -> bytes:
    return b"".join(half.to_bytes(48, "big") for half in compress_G2(point))


def negated(signature: bytes) -> bytes:
    return bytes([signature[0] ^ 0x20]) + signature[1:]


# --- the same bytes and verdicts as py_ecc -------------------------------------------------------------------


@every_library
@pytest.mark.parametrize("seed", [SEED, bytes(32), b"\xff" * 32])
def test_keys_are_generated_as_by_the_oracle(name: str, seed: bytes) -> None:
    key, secret = SCHEMES[name].generate(seed), Oracle.KeyGen(seed)
    assert key.export() == secret.to_bytes(32, "big")
    assert key.public_key == Oracle.SkToPk(secret)


@every_library
@pytest.mark.parametrize("message", [b"", MESSAGE, bytes(200)])
def test_signatures_are_the_oracles_bytes(name: str, message: bytes) -> None:
    _, (secret, *_) = scheme_and_keys(name)
    assert committee(name)[0].sign(message) == Oracle.Sign(secret, message)


@every_library
def test_possession_proofs_are_the_oracles_bytes(name: str) -> None:
    _, (secret, *_) = scheme_and_keys(name)
    assert committee(name)[0].prove_possession() == Oracle.PopProve(secret)


@every_library
def test_aggregates_are_the_oracles_bytes_and_the_oracle_accepts_them(name: str) -> None:
    scheme, keys = SCHEMES[name], committee(name)
    aggregate = signed(scheme, keys, MESSAGE)
    assert aggregate == Oracle.Aggregate([BLSSignature(key.sign(MESSAGE)) for key in keys])
    members = [BLSPubkey(public_key) for public_key in public_keys(keys)]
    assert Oracle.FastAggregateVerify(members, MESSAGE, BLSSignature(aggregate))
    assert not Oracle.FastAggregateVerify(members[:-1], MESSAGE, BLSSignature(aggregate))


@every_library
def test_groups_are_the_oracles_aggregate_of_distinct_messages(name: str) -> None:
    scheme, (a, b, c, _) = SCHEMES[name], committee(name)
    first, second = signed(scheme, (a, b), MESSAGE), signed(scheme, (c,), OTHER_MESSAGE)
    total = scheme.aggregate([first, second])
    assert total is not None
    members = [BLSPubkey(public_key) for public_key in public_keys((a, b, c))]
    assert Oracle.AggregateVerify(members, [MESSAGE, MESSAGE, OTHER_MESSAGE], BLSSignature(total))
    assert scheme.verify_groups([(members[:2], MESSAGE, first), (members[2:], OTHER_MESSAGE, second)])


@pytest.mark.skipif(len(bls_schemes()) < 2, reason="blspy and py-arkworks-bls12381 are not both installed")
def test_the_two_libraries_give_the_same_bytes() -> None:
    for index in range(16):
        seed = bytes([index]) * 32
        ours, theirs = (scheme.generate(seed) for scheme in bls_schemes().values())
        assert ours.public_key == theirs.public_key
        assert ours.sign(seed) == theirs.sign(seed)
        assert ours.prove_possession() == theirs.prove_possession()


# --- refusals ------------------------------------------------------------------------------------------------


@every_library
@pytest.mark.parametrize("secret", [0, GROUP_ORDER, GROUP_ORDER + 1, 2**256 - 1])
def test_secrets_out_of_range_are_refused(name: str, secret: int) -> None:
    with pytest.raises(ValueError, match="above 0 and below the order"):
        SCHEMES[name].load(secret.to_bytes(32, "big"))


@every_library
@pytest.mark.parametrize("fault", BAD_KEYS)
def test_bad_keys_are_refused(name: str, fault: str) -> None:
    scheme, (alice, *_), key = SCHEMES[name], committee(name), BAD_KEYS[fault]
    # The identity signature is what the "secret" 0 of the identity key would make.
    for signature in (alice.sign(MESSAGE), SIGNATURE_IDENTITY):
        assert not scheme.check_public_key(key, signature)
        assert not scheme.verify(key, MESSAGE, signature)
        assert not scheme.verify_aggregate((key,), MESSAGE, signature)
        assert not scheme.verify_aggregate((alice.public_key, key), MESSAGE, signature)
        assert not scheme.verify_groups([((alice.public_key,), MESSAGE, alice.sign(MESSAGE)), ((key,), b"", signature)])


@every_library
@pytest.mark.parametrize("fault", BAD_SIGNATURES)
def test_bad_signatures_are_refused(name: str, fault: str) -> None:
    scheme, (alice, *_), signature = SCHEMES[name], committee(name), BAD_SIGNATURES[fault]
    assert not scheme.verify(alice.public_key, MESSAGE, signature)
    assert not scheme.check_public_key(alice.public_key, signature)
    assert scheme.aggregate([signature]) is None
    assert scheme.aggregate([alice.sign(MESSAGE), signature]) is None


@every_library
def test_a_signature_outside_the_subgroup_never_verifies(name: str) -> None:
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    assert not scheme.verify(alice.public_key, MESSAGE, OUTSIDE_THE_SUBGROUP)
    assert not scheme.check_public_key(alice.public_key, OUTSIDE_THE_SUBGROUP)
    # Joining leaves that check to the verification of the sum.
    spoiled = scheme.aggregate([alice.sign(MESSAGE), OUTSIDE_THE_SUBGROUP])
    assert spoiled is not None
    assert not scheme.verify_aggregate((alice.public_key,), MESSAGE, spoiled)


@every_library
def test_a_torsion_point_added_to_a_signature_is_noticed(name: str) -> None:
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    torsion = multiply(decompress_G2(halves(OUTSIDE_THE_SUBGROUP)), GROUP_ORDER)
    mixed = encoded_g2(add(decompress_G2(halves(alice.sign(MESSAGE))), torsion))
    assert scheme.verify(alice.public_key, MESSAGE, alice.sign(MESSAGE))
    assert not scheme.verify(alice.public_key, MESSAGE, mixed)


@every_library
def test_a_torsion_point_added_to_a_key_is_noticed(name: str) -> None:
    # The final exponentiation of the pairing removes it: without the subgroup check this proof would verify.
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    torsion = multiply(decompress_G1(G1Compressed(COMPRESSED | 4)), GROUP_ORDER)
    point = add(decompress_G1(G1Compressed(int.from_bytes(alice.public_key, "big"))), torsion)
    key = compress_G1(point).to_bytes(48, "big")
    secret = int.from_bytes(alice.export(), "big")
    proof = encoded_g2(multiply(hashed(key, POSSESSION_DOMAIN), secret))
    assert not scheme.check_public_key(key, proof)
    assert not scheme.verify(key, MESSAGE, alice.sign(MESSAGE))


@every_library
def test_a_second_encoding_of_an_honest_key_is_refused(name: str) -> None:
    scheme = SCHEMES[name]
    for index in range(64):  # x + p fits the 381 bits for about every fourth key
        key = scheme.generate(bytes([index]) * 32)
        flags, x = divmod(int.from_bytes(key.public_key, "big"), SIGN)
        if x + FIELD < SIGN:
            again = g1(flags * SIGN + x + FIELD)
            assert not scheme.check_public_key(again, key.prove_possession())
            assert not scheme.verify(again, MESSAGE, key.sign(MESSAGE))
            return
    pytest.fail("no key has a second encoding")


@every_library
def test_the_libraries_parse_what_the_seam_promises(name: str) -> None:
    # Some of these a library's pairing would refuse as well; that is its business and may change.
    points, (alice, *_) = bls_points()[name], committee(name)
    outside_g1 = BAD_KEYS["on the curve, outside the subgroup"]
    key, signature = points.parse_key(alice.public_key), points.parse_signature(alice.sign(MESSAGE))
    assert key is not None
    assert signature is not None
    assert points.parse_key(outside_g1) is None
    assert points.parse_key(KEY_IDENTITY) is None
    assert points.parse_signature(OUTSIDE_THE_SUBGROUP) is None
    assert points.parse_signature(SIGNATURE_IDENTITY) is None
    assert points.parse_part(OUTSIDE_THE_SUBGROUP) is not None
    assert points.parse_part(SIGNATURE_IDENTITY) is None
    mirror = points.parse_key(negated(alice.public_key))
    assert points.add_keys([key, mirror]) is None
    assert points.add_keys([key, key, mirror]) == key
    assert points.add_signatures([signature, points.parse_part(negated(alice.sign(MESSAGE)))]) is None


@every_library
def test_signatures_that_cancel_out_make_no_aggregate(name: str) -> None:
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    signature = alice.sign(MESSAGE)
    assert scheme.aggregate([signature, negated(signature)]) is None


@every_library
def test_keys_that_cancel_out_signed_nothing(name: str) -> None:
    # Their holder can prove possession of both; the sum is the identity, and the identity signs every message.
    scheme, (alice, bob, *_) = SCHEMES[name], committee(name)
    secret = GROUP_ORDER - int.from_bytes(alice.export(), "big")
    mirror = scheme.load(secret.to_bytes(32, "big"))
    assert scheme.check_public_key(mirror.public_key, mirror.prove_possession())
    pair = (alice.public_key, mirror.public_key)
    assert not scheme.verify_aggregate(pair, MESSAGE, SIGNATURE_IDENTITY)
    group = ((bob.public_key,), OTHER_MESSAGE, bob.sign(OTHER_MESSAGE))
    assert not scheme.verify_groups([group, (pair, MESSAGE, SIGNATURE_IDENTITY)])
    # Moving d between the groups makes both aggregates proper points whose sum is bob's signature.
    shift = bob.sign(b"any point will do")
    moved = scheme.aggregate([group[2], shift])
    assert moved is not None
    assert not scheme.verify_groups([(group[0], group[1], moved), (pair, MESSAGE, negated(shift))])


@every_library
def test_a_rogue_key_forges_an_aggregate_and_is_stopped_at_registration(name: str) -> None:
    # rogue = x * G - honest: the sum of both keys is x * G, whose secret the attacker knows.
    scheme, (honest, mallory, *_) = SCHEMES[name], committee(name)
    secret = int.from_bytes(mallory.export(), "big")
    rogue_point = add(multiply(G1, secret), neg(decompress_G1(G1Compressed(int.from_bytes(honest.public_key, "big")))))
    rogue = compress_G1(rogue_point).to_bytes(48, "big")
    forged = encoded_g2(multiply(hashed(MESSAGE, SIGNATURE_DOMAIN), secret))
    assert scheme.verify_aggregate((honest.public_key, rogue), MESSAGE, forged)
    assert not scheme.check_public_key(rogue, mallory.prove_possession())
    assert not scheme.check_public_key(rogue, mallory.sign(rogue))


# --- what a verified aggregate does not say -------------------------------------------------------------------


@every_library
def test_colluders_make_a_valid_aggregate_of_invalid_parts(name: str) -> None:
    scheme, (a, b, c, d) = SCHEMES[name], committee(name)
    shift = d.sign(b"any point will do")
    parts = [scheme.aggregate([a.sign(MESSAGE), shift]), scheme.aggregate([b.sign(MESSAGE), negated(shift)])]
    assert parts[0] is not None
    assert parts[1] is not None
    aggregate = scheme.aggregate([parts[0], parts[1], c.sign(MESSAGE)])
    assert aggregate == signed(scheme, (a, b, c), MESSAGE)
    assert scheme.verify_aggregate(public_keys((a, b, c)), MESSAGE, aggregate)
    assert not scheme.verify(a.public_key, MESSAGE, parts[0])
    assert not scheme.verify(b.public_key, MESSAGE, parts[1])


@every_library
def test_groups_that_verify_together_need_not_verify_apart(name: str) -> None:
    # A stranger without any key shifts the groups against each other. Who signed what is still true, and a group must
    # not be taken out of its certificate and used alone.
    scheme, (a, b, c, stranger) = SCHEMES[name], committee(name)
    shift = stranger.sign(b"any point will do")
    first = scheme.aggregate([signed(scheme, (a, b), MESSAGE), shift])
    second = scheme.aggregate([c.sign(OTHER_MESSAGE), negated(shift)])
    assert first is not None
    assert second is not None
    groups = [(public_keys((a, b)), MESSAGE, first), (public_keys((c,)), OTHER_MESSAGE, second)]
    assert scheme.verify_groups(groups)
    assert not scheme.verify_aggregate(*groups[0])
    assert not scheme.verify_aggregate(*groups[1])
