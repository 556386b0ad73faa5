"""Ed25519: the vectors of RFC 8032, and the keys and signatures that a lenient verifier would take."""

from __future__ import annotations

import pytest
from nacl.bindings import crypto_core_ed25519_add

from consensus.crypto.ed25519 import Ed25519
from tests.consensus.crypto.common import MESSAGE, committee

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD = 2**255 - 19

# RFC 8032, section 7.1, tests 1 to 3: secret, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# One point of each small order, and the identity again with its y not reduced.
SMALL_ORDER = {
    "order 1": (1).to_bytes(32, "little"),
    "order 2": (FIELD - 1).to_bytes(32, "little"),
    "order 4": bytes(32),
    "order 8": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    "order 1, not canonical": (FIELD + 1).to_bytes(32, "little"),
}


@pytest.mark.parametrize(("secret", "public_key", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032(secret: str, public_key: str, message: str, signature: str) -> None:
    scheme, key = Ed25519(), Ed25519().load(bytes.fromhex(secret))
    assert key.public_key.hex() == public_key
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert scheme.verify(key.public_key, bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize("order", SMALL_ORDER)
def test_small_order_keys_sign_nothing(order: str) -> None:
    # With the identity as key, R = s * B is a signature over every message for a verifier that looks no closer.
    scheme, point = Ed25519(), SMALL_ORDER[order]
    forged = point + bytes(32)
    assert not scheme.verify(point, MESSAGE, forged)
    assert not scheme.check_public_key(point, forged)


def test_a_key_with_a_torsion_component_is_not_admitted() -> None:
    # It is on the curve and not of small order; verifiers with and without the cofactor disagree about its signatures.
    scheme, (alice, *_) = Ed25519(), committee("ed25519")
    mixed = crypto_core_ed25519_add(alice.public_key, SMALL_ORDER["order 2"])
    assert mixed != alice.public_key
    assert not scheme.check_public_key(mixed, alice.prove_possession())


def test_a_torsion_key_is_refused_for_itself_and_not_for_its_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    (alice, *_) = committee("ed25519")
    mixed = crypto_core_ed25519_add(alice.public_key, SMALL_ORDER["order 2"])
    monkeypatch.setattr(Ed25519, "verify", lambda *_: True)
    assert Ed25519().check_public_key(alice.public_key, b"")
    for point in (mixed, *SMALL_ORDER.values()):
        assert not Ed25519().check_public_key(point, b"")


def test_a_second_form_of_a_signature_is_refused() -> None:
    scheme, (alice, *_) = Ed25519(), committee("ed25519")
    signature = alice.sign(MESSAGE)
    scalar = int.from_bytes(signature[32:], "little")
    again = signature[:32] + (scalar + GROUP_ORDER).to_bytes(32, "little")
    assert scheme.verify(alice.public_key, MESSAGE, signature)
    assert not scheme.verify(alice.public_key, MESSAGE, again)


def test_an_aggregate_is_the_signatures_in_order() -> None:
    scheme, (alice, bob, *_) = Ed25519(), committee("ed25519")
    parts = [alice.sign(MESSAGE), bob.sign(MESSAGE)]
    assert scheme.aggregate(parts) == parts[0] + parts[1]
    assert scheme.verify_aggregate((alice.public_key, bob.public_key), MESSAGE, parts[0] + parts[1])
    assert not scheme.verify_aggregate((alice.public_key, bob.public_key), MESSAGE, parts[1] + parts[0])


def test_bytes_cannot_move_between_signature_and_message() -> None:
    # libsodium verifies signature and message as one run of bytes.
    scheme, (alice, *_) = Ed25519(), committee("ed25519")
    signature = alice.sign(MESSAGE)
    assert not scheme.verify(alice.public_key, MESSAGE[1:], signature + MESSAGE[:1])
    assert not scheme.verify(alice.public_key, signature[-1:] + MESSAGE, signature[:-1])
