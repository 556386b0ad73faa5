"""Settings are checked with the path of the bad key."""

from __future__ import annotations

import pytest

from rollup_adapters.base import JsonValue
from rollup_adapters.evm.settings import read_settings
from tests.rollup_adapters.evm.common import ALICE, BOB, ETHER

A, B = ALICE.address, BOB.address


def test_defaults_and_forms_of_numbers() -> None:
    settings = read_settings(
        {"chain_id": 5, "alloc": {A: 7, B: {"balance": "0x10", "code": "0x00", "storage": {"0x1": "2"}}}}
    )
    assert (settings.gas_limit, settings.base_fee_per_gas, settings.fee_recipient) == (30_000_000, 10**9, bytes(20))
    assert settings.alloc[bytes.fromhex(A[2:])].balance == 7
    contract = settings.alloc[bytes.fromhex(B[2:])]
    assert (contract.balance, contract.nonce, contract.code, contract.storage) == (16, 1, b"\0", {1: 2})
    assert (
        read_settings({"chain_id": "5", "alloc": {A: str(10**9 * ETHER)}}).alloc[bytes.fromhex(A[2:])].balance == 10**27
    )


REFUSED: list[tuple[dict[str, JsonValue], str]] = [
    ({"chain_id": None}, r"settings\.chain_id: expected an integer"),
    ({"chain_id": 0}, r"settings\.chain_id: 0 is outside"),
    ({"chain_id": True}, r"settings\.chain_id: expected an integer"),
    ({"gas_limit": 20_000}, r"settings\.gas_limit: 20000 is outside"),
    ({"gas_limt": 1}, r"settings\.gas_limt: unknown key; known are alloc, "),
    ({"fee_recipient": "0x12"}, r"settings\.fee_recipient: an address has 20 bytes, this has 1"),
    ({"base_fee_per_gas": "1 gwei"}, r"settings\.base_fee_per_gas: expected an integer"),
    ({"alloc": [A]}, r"settings\.alloc: expected a table"),
    ({"alloc": {"0xzz": 1}}, r"settings\.alloc\.0xzz: not hexadecimal"),
    ({"alloc": {A: 1, A.lower(): 1}}, rf"settings\.alloc\.{A.lower()}: the address appears twice"),
    ({"alloc": {A: -1}}, rf"settings\.alloc\.{A}: -1 is outside"),
    ({"alloc": {A: {"balence": 1}}}, rf"settings\.alloc\.{A}\.balence: unknown key"),
    ({"alloc": {A: {"code": "00"}}}, rf"settings\.alloc\.{A}\.code: expected a 0x string"),
    ({"alloc": {A: {"code": "0x" + "00" * 24_577}}}, rf"settings\.alloc\.{A}\.code: 24577 bytes"),
    ({"alloc": {A: {"storage": {"1": "x"}}}}, rf"settings\.alloc\.{A}\.storage\.1: expected an integer"),
    ({"alloc": {A: str(2**255), B: str(2**255)}}, r"settings\.alloc: the balances sum to more than"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_settings_name_their_key(changes: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read_settings({"chain_id": 5, **changes})


def test_the_chain_id_is_required() -> None:
    with pytest.raises(ValueError, match=r"^settings\.chain_id: missing"):
        read_settings({})
