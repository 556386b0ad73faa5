"""Ethereum accounts that sign transactions, for the demo: EIP-1559 envelopes and the few calls of an ERC-20."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Final

import rlp
from coincurve import PrivateKey
from eth_hash.auto import keccak

DYNAMIC_FEE: Final = b"\x02"
"""The type of an EIP-1559 transaction."""
GAS_PRICE_WEI: Final = 100_000_000_000
TIP_WEI: Final = 1_000_000_000
GAS_TRANSFER: Final = 21_000
GAS_TOKEN_TRANSFER: Final = 80_000
GAS_DEPLOY: Final = 2_000_000
TRANSFER_SELECTOR: Final = bytes.fromhex("a9059cbb")
BALANCE_SELECTOR: Final = bytes.fromhex("70a08231")


@dataclass(slots=True)
class Account:
    """A key and the nonce of its next transaction on one rollup. Whoever signs with it waits for one transaction to be
    confirmed before the next: a later nonce that is ordered first is skipped by the rollup's rule."""

    key: PrivateKey
    chain_id: int
    nonce: int = 0

    @classmethod
    def derive(cls, name: str, chain_id: int) -> Account:
        """The account of a name: the same in every run, like the published accounts of development chains."""
        return cls(PrivateKey(sha256(f"demo account {name}".encode()).digest()), chain_id)

    @property
    def address(self) -> bytes:
        """20 bytes."""
        return keccak(self.key.public_key.format(compressed=False)[1:])[12:]

    def sign(self, *, to: bytes, value: int = 0, data: bytes = b"", gas: int = GAS_TRANSFER) -> bytes:
        """The next signed transaction (EIP-1559, EIP-2718); ``to`` is empty for a creation. Counts the nonce up."""
        fields = [self.chain_id, self.nonce, TIP_WEI, GAS_PRICE_WEI, gas, to, value, data, []]
        signature = self.key.sign_recoverable(DYNAMIC_FEE + rlp.encode(fields), hasher=keccak)
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
        self.nonce += 1
        return DYNAMIC_FEE + bytes(rlp.encode([*fields, signature[64], r, s]))

    def created(self, nonce: int) -> bytes:
        """The address of the contract that the transaction of ``nonce`` creates."""
        return keccak(rlp.encode([self.address, nonce]))[12:]


def token_creation(supply: int) -> bytes:
    """The creation code of our ERC-20, ``rollup_adapters/evm/contracts``: all of ``supply`` belongs to its creator."""
    # Read as data: the command line is a user of the rollup and imports no adapter.
    compiled = files("rollup_adapters").joinpath("evm", "contracts", "token.json").read_text()
    return bytes.fromhex(json.loads(compiled)["bytecode"][2:]) + supply.to_bytes(32)


def token_transfer(to: bytes, amount: int) -> bytes:
    """The call ``transfer(to, amount)``."""
    return TRANSFER_SELECTOR + to.rjust(32, b"\0") + amount.to_bytes(32)


def token_balance(owner: bytes) -> bytes:
    """The call ``balanceOf(owner)``."""
    return BALANCE_SELECTOR + owner.rjust(32, b"\0")
