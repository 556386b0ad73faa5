"""The simulated scheme: the algebra of BLS at the price of a hash."""

from __future__ import annotations

import pytest

from consensus.crypto.simulated import PRIME, SIZE, Simulated
from tests.consensus.crypto.common import MESSAGE, committee, public_keys, signed


def encoded(value: int) -> bytes:
    return value.to_bytes(SIZE, "big")


def test_it_is_marked_as_for_simulation() -> None:
    assert Simulated().for_simulation


@pytest.mark.parametrize("value", [0, PRIME, 2**256 - 1])
def test_values_outside_the_group_are_refused(value: int) -> None:
    scheme, (alice, *_) = Simulated(), committee("simulated")
    assert not scheme.verify(encoded(value), MESSAGE, alice.sign(MESSAGE))
    assert not scheme.verify(alice.public_key, MESSAGE, encoded(value))
    assert not scheme.check_public_key(encoded(value), encoded(value))
    assert scheme.aggregate([alice.sign(MESSAGE), encoded(value)]) is None


def test_a_second_form_of_a_value_is_refused() -> None:
    scheme, (alice, *_) = Simulated(), committee("simulated")
    again = encoded(int.from_bytes(alice.sign(MESSAGE), "big") + PRIME)
    assert not scheme.verify(alice.public_key, MESSAGE, again)
    assert scheme.aggregate([again]) is None


def test_it_has_the_colluders_of_bls() -> None:
    scheme, (a, b, c, _) = Simulated(), committee("simulated")

    def shifted(signature: bytes, by: int) -> bytes:
        return encoded((int.from_bytes(signature, "big") + by) % PRIME)

    parts = [shifted(a.sign(MESSAGE), 5), shifted(b.sign(MESSAGE), -5)]
    aggregate = scheme.aggregate([*parts, c.sign(MESSAGE)])
    assert aggregate == signed(scheme, (a, b, c), MESSAGE)
    assert scheme.verify_aggregate(public_keys((a, b, c)), MESSAGE, aggregate)
    assert not scheme.verify(a.public_key, MESSAGE, parts[0])
    assert not scheme.verify(b.public_key, MESSAGE, parts[1])


def test_keys_or_signatures_that_cancel_out_make_no_aggregate() -> None:
    scheme, (alice, *_) = Simulated(), committee("simulated")
    signature = alice.sign(MESSAGE)
    mirror = encoded(PRIME - int.from_bytes(signature, "big"))
    assert scheme.aggregate([signature, mirror]) is None
    mirror_key = encoded(PRIME - int.from_bytes(alice.public_key, "big"))
    assert not scheme.verify_aggregate((alice.public_key, mirror_key), MESSAGE, encoded(0))
