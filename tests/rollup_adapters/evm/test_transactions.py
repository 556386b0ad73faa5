"""Decoding against eth-account, and against published vectors."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from rollup_adapters.evm.transactions import Malformed, Transaction, decode, decode_stored
from tests.rollup_adapters.evm.common import ALICE, CHAIN_ID, account, signed

GAS_LIMIT = 30_000_000

# The example of EIP-155: the signed transaction of its text, by the key 0x46 repeated.
EIP_155_RAW = bytes.fromhex(
    "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025"
    "a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
)
EIP_155_SENDER = "9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f"

# Mainnet's first transaction, block 46147 (before EIP-155): hash and sender as every explorer shows them.
FIRST_RAW = bytes.fromhex(
    "f86780862d79883d2000825208945df9b87991262f6ba471f09758cde1c0fc1de734827a69801c"
    "a088ff6cf0fefd94db46111149ae4bfc179e9b94721fffd821d38d16464b3f71d0a045e0aff800961cfce805daef7016b9b675c137a6a41a548f7b60a3484c06a33a"
)
FIRST_HASH = "5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060"
FIRST_SENDER = "a1e4380a3b1f749673e270229993ee55f35663b4"


def decoded(raw: bytes, chain_id: int = CHAIN_ID) -> Transaction:
    transaction = decode(raw, chain_id, GAS_LIMIT)
    assert isinstance(transaction, Transaction), transaction
    return transaction


def test_the_example_of_eip_155() -> None:
    transaction = decoded(EIP_155_RAW, chain_id=1)
    assert transaction.sender.hex() == EIP_155_SENDER
    assert (transaction.nonce, transaction.value, transaction.chain_id) == (9, 10**18, 1)


def test_the_first_transaction_of_mainnet() -> None:
    transaction = decoded(FIRST_RAW)
    assert transaction.hash.hex() == FIRST_HASH
    assert transaction.sender.hex() == FIRST_SENDER
    assert transaction.chain_id is None


FIELDS = st.fixed_dictionaries(
    {
        "nonce": st.integers(0, 2**64 - 2),
        "gas": st.integers(2_000_000, GAS_LIMIT),
        "value": st.integers(0, 2**256 - 1),
        "data": st.binary(max_size=200),
        "to": st.none()
        | st.binary(min_size=20, max_size=20).map(lambda to: Account.from_key(to.rjust(32, b"\1")).address),
    }
)
LISTS = st.lists(
    st.fixed_dictionaries(
        {
            "address": st.just(ALICE.address),
            "storageKeys": st.lists(st.binary(min_size=32, max_size=32).map(lambda key: "0x" + key.hex()), max_size=3),
        }
    ),
    max_size=3,
)
FEES = st.one_of(
    st.fixed_dictionaries({"gasPrice": st.integers(0, 2**128), "chainId": st.sampled_from([None, CHAIN_ID])}),
    st.fixed_dictionaries({"gasPrice": st.integers(0, 2**128), "type": st.just(1), "accessList": LISTS}),
    st.fixed_dictionaries(
        {"maxFeePerGas": st.integers(2**64, 2**128), "maxPriorityFeePerGas": st.integers(0, 2**64), "accessList": LISTS}
    ),
)


@given(st.integers(1, 2**64), FIELDS, FEES)
def test_decodes_what_eth_account_signs(key: int, fields: dict[str, Any], fees: dict[str, Any]) -> None:
    sender = account(key)
    raw = signed(sender, **fields, **fees)
    transaction = decoded(raw)
    assert transaction.sender.hex() == sender.address[2:].lower()
    assert transaction.hash == keccak(raw)
    assert "0x" + transaction.to.hex() == (fields["to"] or "0x").lower()
    for name in ("nonce", "gas", "value", "data"):
        assert getattr(transaction, name) == fields[name]
    assert transaction.max_fee_per_gas == fees.get("gasPrice", fees.get("maxFeePerGas"))
    assert transaction.max_priority_fee_per_gas == fees.get("gasPrice", fees.get("maxPriorityFeePerGas"))
    slots = [[f"0x{slot:064x}" for slot in entry[1]] for entry in transaction.access_list]
    assert slots == [entry["storageKeys"] for entry in fees.get("accessList", [])]
    assert decode_stored(raw, transaction.sender) == transaction


@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_byte_keeps_the_sender(position: int, change: int) -> None:
    raw = bytearray(signed(data=b"\1\0\2", gas=30_000))
    raw[position % len(raw)] ^= change
    transaction = decode(bytes(raw), CHAIN_ID, GAS_LIMIT)
    if isinstance(transaction, Transaction):
        assert transaction.sender.hex() != ALICE.address[2:].lower()
    else:
        assert transaction.reason


@pytest.mark.parametrize("first", [0, 3, 4, 5, 0x7F, 0x80, 0xBF])
def test_other_envelopes_are_refused(first: int) -> None:
    assert isinstance(decode(bytes([first]) + signed()[1:], CHAIN_ID, GAS_LIMIT), Malformed)
