"""Transaction ids, against their definition and against known answers."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from sequencer.transactions import transaction_id, transaction_ids

U64 = st.integers(0, 2**64 - 1)


@given(rollup_id=U64, batch=st.lists(st.tuples(U64, st.binary(max_size=80))))
def test_ids_are_the_hash_of_domain_rollup_expiry_and_data(rollup_id: int, batch: list[tuple[int, bytes]]) -> None:
    expected = tuple(
        hashlib.sha256(b"\x00" + rollup_id.to_bytes(8, "little") + valid_until.to_bytes(8, "little") + data).digest()
        for valid_until, data in batch
    )
    assert transaction_ids(rollup_id, [v for v, _ in batch], [d for _, d in batch]) == expected
    assert tuple(transaction_id(rollup_id, v, d) for v, d in batch) == expected
    assert tuple(transaction_id(rollup_id, v, memoryview(d)) for v, d in batch) == expected


def test_frozen() -> None:
    """A change of these is a new chain."""
    assert transaction_id(7, 0, b"hello").hex() == FROZEN_WITHOUT_EXPIRY
    assert transaction_id(2**64 - 1, 256, b"").hex() == FROZEN_WITH_EXPIRY


def test_rollup_and_expiry_cannot_be_traded_for_data() -> None:
    ids = {
        transaction_id(1, 0, b""),
        transaction_id(0, 1, b""),
        transaction_id(0, 0, b"\x01"),
        transaction_id(0, 0, b""),
    }
    assert len(ids) == 4


FROZEN_WITHOUT_EXPIRY = "a48f2b97c97b9e001649b72f1c2f56e082775287709a94457cd200a2d440beff"
FROZEN_WITH_EXPIRY = "fc907c31e4b647ea1eaa86f231be458a4edd34bfd1a4058b6a9c0ff330cd307b"
