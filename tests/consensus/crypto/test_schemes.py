"""One suite, every scheme: what ``consensus.crypto.scheme`` promises."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.crypto.scheme import Scheme, SecretKey
from tests.consensus.crypto.common import MESSAGE, OTHER_MESSAGE, SCHEMES, SEED, committee, flipped, public_keys, signed

every_scheme = pytest.mark.parametrize("name", SCHEMES)


@every_scheme
def test_a_signature_is_good_for_its_key_and_message_alone(name: str) -> None:
    scheme, (alice, bob, *_) = SCHEMES[name], committee(name)
    signature = alice.sign(MESSAGE)
    assert scheme.verify(alice.public_key, MESSAGE, signature)
    assert not scheme.verify(alice.public_key, OTHER_MESSAGE, signature)
    assert not scheme.verify(bob.public_key, MESSAGE, signature)


@every_scheme
def test_sizes_are_as_declared_and_signing_is_deterministic(name: str) -> None:
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    assert len(alice.public_key) == scheme.public_key_size
    assert len(alice.sign(b"")) == len(alice.sign(MESSAGE * 100)) == scheme.signature_size
    assert alice.sign(MESSAGE) == scheme.load(alice.export()).sign(MESSAGE)
    assert scheme.generate(SEED).public_key == scheme.generate(SEED).public_key


@every_scheme
def test_an_exported_key_loads_to_the_same_key(name: str) -> None:
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    loaded = scheme.load(alice.export())
    assert (loaded.public_key, loaded.export()) == (alice.public_key, alice.export())


@every_scheme
@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_secrets_and_seeds_of_a_wrong_size_are_refused_without_being_shown(name: str, size: int) -> None:
    secret = (b"\x5a\xa5" * 32)[:size]
    for make in (SCHEMES[name].load, SCHEMES[name].generate):
        with pytest.raises(ValueError, match=f"has 32 bytes, this has {size}") as caught:
            make(secret)
        assert "5aa5" not in str(caught.value)
        assert "Z" not in str(caught.value)


@every_scheme
def test_a_key_shows_its_public_half_only(name: str) -> None:
    _, (alice, *_) = SCHEMES[name], committee(name)
    shown = f"{alice!r} {alice} {[alice]}"
    assert alice.public_key.hex() in shown
    assert alice.export().hex() not in shown
    assert str(int.from_bytes(alice.export(), "big")) not in shown
    assert repr(alice.export())[2:-1] not in shown


@every_scheme
def test_a_key_is_neither_copied_nor_pickled(name: str) -> None:
    _, (alice, *_) = SCHEMES[name], committee(name)
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        alice.__reduce_ex__(4)  # what pickle asks for
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        copy.copy(alice)
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        copy.deepcopy([alice])


@every_scheme
def test_possession_is_proved_by_the_holder_in_a_domain_of_its_own(name: str) -> None:
    scheme, (alice, bob, *_) = SCHEMES[name], committee(name)
    proof = alice.prove_possession()
    assert scheme.check_public_key(alice.public_key, proof)
    assert not scheme.check_public_key(bob.public_key, proof)
    # Neither a signature over the bare key is a proof, nor a proof a signature over it.
    assert not scheme.check_public_key(alice.public_key, alice.sign(alice.public_key))
    assert not scheme.verify(alice.public_key, alice.public_key, proof)


@every_scheme
@settings(max_examples=60)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_refused(name: str, data: st.DataObject) -> None:
    scheme, keys = SCHEMES[name], committee(name)
    alice = keys[0]
    signature, proof, aggregate = alice.sign(MESSAGE), alice.prove_possession(), signed(scheme, keys, MESSAGE)

    def changed(original: bytes) -> bytes:
        return flipped(original, data.draw(st.integers(0, 8 * len(original) - 1)))

    assert not scheme.verify(alice.public_key, MESSAGE, changed(signature))
    assert not scheme.verify(alice.public_key, changed(MESSAGE), signature)
    assert not scheme.verify(changed(alice.public_key), MESSAGE, signature)
    assert not scheme.check_public_key(changed(alice.public_key), proof)
    assert not scheme.check_public_key(alice.public_key, changed(proof))
    assert not scheme.verify_aggregate(public_keys(keys), MESSAGE, changed(aggregate))


@every_scheme
@settings(max_examples=60)
@given(junk=st.binary(max_size=200))
def test_foreign_bytes_are_answered_and_never_raise(name: str, junk: bytes) -> None:
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    signature = alice.sign(MESSAGE)
    assert not scheme.verify(junk, MESSAGE, signature)
    assert not scheme.verify(alice.public_key, MESSAGE, junk)
    assert not scheme.check_public_key(junk, junk)
    assert not scheme.verify_aggregate((alice.public_key,), MESSAGE, junk)
    assert not scheme.verify_aggregate((alice.public_key, junk), MESSAGE, signature)
    assert not scheme.verify_groups([((alice.public_key,), MESSAGE, junk)])


@every_scheme
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\x00", lambda data: b"\x00" + data])
def test_a_wrong_length_is_refused_everywhere(name: str, change: Callable[[bytes], bytes]) -> None:
    scheme, keys = SCHEMES[name], committee(name)
    alice = keys[0]
    signature, proof = alice.sign(MESSAGE), alice.prove_possession()
    assert not scheme.verify(alice.public_key, MESSAGE, change(signature))
    assert not scheme.verify(change(alice.public_key), MESSAGE, signature)
    assert not scheme.check_public_key(change(alice.public_key), proof)
    assert not scheme.check_public_key(alice.public_key, change(proof))
    assert scheme.aggregate([signature, change(signature)]) is None
    assert not scheme.verify_aggregate(public_keys(keys), MESSAGE, change(signed(scheme, keys, MESSAGE)))


@every_scheme
@pytest.mark.parametrize("size", [1, 2, 7])
def test_an_aggregate_names_exactly_its_signers(name: str, size: int) -> None:
    scheme, keys = SCHEMES[name], committee(name, size)
    aggregate, members = signed(scheme, keys, MESSAGE), public_keys(keys)
    (stranger,) = committee(name, 8)[7:]
    assert scheme.verify_aggregate(members, MESSAGE, aggregate)
    assert not scheme.verify_aggregate(members, OTHER_MESSAGE, aggregate)
    assert not scheme.verify_aggregate(members[:-1], MESSAGE, aggregate)
    assert not scheme.verify_aggregate((*members, stranger.public_key), MESSAGE, aggregate)
    assert not scheme.verify_aggregate((*members[:-1], stranger.public_key), MESSAGE, aggregate)
    assert not scheme.verify_aggregate((*members, members[-1]), MESSAGE, aggregate)


@every_scheme
def test_one_wrong_part_spoils_the_aggregate(name: str) -> None:
    scheme, keys = SCHEMES[name], committee(name)
    parts = [key.sign(MESSAGE) for key in keys[:3]]
    wrong = scheme.aggregate([*parts, keys[3].sign(OTHER_MESSAGE)])
    assert wrong is not None
    assert not scheme.verify_aggregate(public_keys(keys), MESSAGE, wrong)


@every_scheme
def test_nobody_signs_nothing(name: str) -> None:
    scheme, (alice, *_) = SCHEMES[name], committee(name)
    signature = alice.sign(MESSAGE)
    assert scheme.aggregate([]) is None
    assert not scheme.verify_aggregate((), MESSAGE, signature)
    assert not scheme.verify_aggregate((), MESSAGE, b"")
    assert not scheme.verify_groups([])
    assert not scheme.verify_groups([((), MESSAGE, b"")])
    assert not scheme.verify_groups([((alice.public_key,), MESSAGE, signature), ((), OTHER_MESSAGE, b"")])


def groups_of(
    scheme: Scheme, *parts: tuple[tuple[SecretKey, ...], bytes]
) -> list[tuple[tuple[bytes, ...], bytes, bytes]]:
    return [(public_keys(keys), message, signed(scheme, keys, message)) for keys, message in parts]


@every_scheme
def test_groups_verify_when_each_key_signed_its_groups_message(name: str) -> None:
    scheme, (a, b, c, d) = SCHEMES[name], committee(name)
    assert scheme.verify_groups(groups_of(scheme, ((a, b, c), MESSAGE)))
    assert scheme.verify_groups(groups_of(scheme, ((a, b, c), MESSAGE), ((d,), OTHER_MESSAGE)))
    assert scheme.verify_groups(groups_of(scheme, ((a,), b"1"), ((b,), b"2"), ((c,), b"3"), ((d,), b"4")))


@every_scheme
def test_a_false_claim_in_any_group_is_refused(name: str) -> None:
    scheme, (a, b, c, d) = SCHEMES[name], committee(name)
    first, second = groups_of(scheme, ((a, b), MESSAGE), ((c,), OTHER_MESSAGE))
    stranger = d.public_key
    assert not scheme.verify_groups([(first[0], OTHER_MESSAGE, first[2]), second])
    assert not scheme.verify_groups([(first[0], OTHER_MESSAGE, first[2]), (second[0], MESSAGE, second[2])])
    assert not scheme.verify_groups([((*first[0], stranger), first[1], first[2]), second])
    assert not scheme.verify_groups([first, ((stranger,), second[1], second[2])])
    assert not scheme.verify_groups([(first[0][:1], first[1], first[2]), second])
    assert not scheme.verify_groups([first, (second[0], second[1], d.sign(OTHER_MESSAGE))])
    assert not scheme.verify_groups([(second[0], first[1], first[2]), (first[0], second[1], second[2])])
