"""Executes a scenario with the executable Ethereum specification and writes what came out: the oracle of our execution.

It shares no code with the adapter and none with py-evm. In an environment of its own, since its dependencies differ::

    python -m venv spec && spec/bin/pip install ethereum-execution==2.20.0
    spec/bin/python expect.py < scenario.json > expected.json

The specification also decides which transactions cannot be included, and computes the base fee. These rules are the
rollup's, not Ethereum's, and are repeated here: the timestamp (seconds, never below the parent's), prevRandao
(Keccak-256 of the block id, then of the one before), and where a section is split: a transaction with a higher gas
limit than the open block has left closes it, if the next block can include it.
"""

# mypy: disable-error-code="import-not-found,no-any-return"

from __future__ import annotations

import json
import sys
from typing import Any

from ethereum.crypto.hash import keccak256
from ethereum.exceptions import EthereumException
from ethereum.forks.cancun import fork, vm
from ethereum.forks.cancun.blocks import Header
from ethereum.forks.cancun.bloom import logs_bloom
from ethereum.forks.cancun.fork_types import Account
from ethereum.forks.cancun.state import State, set_account, set_storage, state_root
from ethereum.forks.cancun.transactions import decode_transaction, encode_transaction, validate_transaction
from ethereum.forks.cancun.trie import Trie, root, trie_set
from ethereum_rlp import rlp
from ethereum_types.bytes import Bytes, Bytes8, Bytes20, Bytes32, Bytes256
from ethereum_types.numeric import U64, U256, Uint

EMPTY_ROOT = root(Trie(secured=False, default=None))


def genesis_state(alloc: dict[str, Any]) -> State:
    """The state of the genesis accounts."""
    state = State()
    for key, given in alloc.items():
        place = Bytes20(bytes.fromhex(key[2:]))
        code = bytes.fromhex(given.get("code", "0x")[2:])
        nonce, balance = Uint(1 if code else 0), U256(int(given["balance"]))
        set_account(state, place, Account(nonce=nonce, balance=balance, code=Bytes(code)))
        for slot, value in given.get("storage", {}).items():
            set_storage(state, place, Bytes32(int(slot).to_bytes(32, "big")), U256(value))
    return state


def make_header(settings: dict[str, Any], parent: Header | None, state: State, **fields: Any) -> Header:
    """A header on top of ``parent``; ``fields`` are what execution gave."""
    defaults: dict[str, Any] = {
        "parent_hash": Bytes32(bytes(32)) if parent is None else keccak256(rlp.encode(parent)),
        "ommers_hash": fork.EMPTY_OMMER_HASH,
        "coinbase": Bytes20(bytes.fromhex(settings["fee_recipient"][2:])),
        "state_root": state_root(state),
        "transactions_root": EMPTY_ROOT,
        "receipt_root": EMPTY_ROOT,
        "bloom": Bytes256(bytes(256)),
        "difficulty": Uint(0),
        "number": Uint(0) if parent is None else parent.number + Uint(1),
        "gas_limit": Uint(settings["gas_limit"]),
        "gas_used": Uint(0),
        "timestamp": U256(0),
        "extra_data": Bytes(b""),
        "prev_randao": Bytes32(bytes(32)),
        "nonce": Bytes8(bytes(8)),
        "base_fee_per_gas": Uint(10**9),
        "withdrawals_root": EMPTY_ROOT,
        "blob_gas_used": U64(0),
        "excess_blob_gas": U64(0),
        "parent_beacon_block_root": Bytes32(bytes(32)),
    }
    return Header(**{**defaults, **fields})


def environment(state: State, settings: dict[str, Any], header: Header, hashes: list[Any]) -> vm.BlockEnvironment:
    """The environment of a block whose header is not yet complete."""
    return vm.BlockEnvironment(
        chain_id=U64(settings["chain_id"]),
        state=state,
        block_gas_limit=header.gas_limit,
        block_hashes=hashes[-256:],
        coinbase=header.coinbase,
        number=header.number,
        base_fee_per_gas=header.base_fee_per_gas,
        time=header.timestamp,
        prev_randao=header.prev_randao,
        excess_blob_gas=header.excess_blob_gas,
        parent_beacon_block_root=header.parent_beacon_block_root,
    )


class Chain:
    """The blocks so far, and the one that is open."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.state = genesis_state(settings["alloc"])
        self.header = make_header(settings, None, self.state)
        self.hashes = [keccak256(rlp.encode(self.header))]

    def draft(self, parent: Header, fixed: dict[str, Any]) -> vm.BlockEnvironment:
        """The environment of a block on top of ``parent``."""
        fee = fork.calculate_base_fee_per_gas(
            parent.gas_limit, parent.gas_limit, parent.gas_used, parent.base_fee_per_gas
        )
        header = make_header(self.settings, parent, self.state, **fixed, base_fee_per_gas=fee)
        ancestors = [*self.hashes, keccak256(rlp.encode(parent))] if parent is not self.header else self.hashes
        return environment(self.state, self.settings, header, ancestors)

    def sealed(self, env: vm.BlockEnvironment, output: vm.BlockOutput) -> Header:
        """The header of a block that ends here."""
        return make_header(
            self.settings,
            self.header,
            self.state,
            timestamp=env.time,
            prev_randao=env.prev_randao,
            parent_beacon_block_root=env.parent_beacon_block_root,
            base_fee_per_gas=env.base_fee_per_gas,
            transactions_root=root(output.transactions_trie),
            receipt_root=root(output.receipts_trie),
            bloom=logs_bloom(output.block_logs),
            gas_used=output.block_gas_used,
        )

    def append(self, header: Header) -> dict[str, Any]:
        """Make a sealed block the head; returns what is expected of it."""
        self.header = header
        self.hashes.append(keccak256(rlp.encode(header)))
        return {
            "hash": self.hashes[-1].hex(),
            "state_root": header.state_root.hex(),
            "receipts_root": header.receipt_root.hex(),
            "gas_used": int(header.gas_used),
            "base_fee": int(header.base_fee_per_gas),
        }

    def section(self, given: dict[str, Any]) -> dict[str, Any]:
        """Execute one section; returns its blocks and which transactions are in them."""
        block_id = bytes.fromhex(given["block_id"])
        fixed: dict[str, Any] = {
            "timestamp": U256(max(int(self.header.timestamp), given["timestamp_ms"] // 1000)),
            "prev_randao": Bytes32(keccak256(block_id)),
            "parent_beacon_block_root": Bytes32(block_id),
        }
        blocks: list[dict[str, Any]] = []
        included: list[bool] = []
        env, output, index = self.draft(self.header, fixed), vm.BlockOutput(), 0
        record_beacon_root(env)
        for raw in map(bytes.fromhex, given["transactions"]):
            transaction = decode_transaction(
                rlp.decode_to(fork.LegacyTransaction, raw) if raw[0] >= 0xC0 else Bytes(raw)
            )
            assert encode_transaction(transaction)
            if transaction.gas > env.block_gas_limit - output.block_gas_used:
                # Only a block that would take it is worth closing this one for.
                closed = self.sealed(env, output)
                further = {**fixed, "prev_randao": Bytes32(keccak256(env.prev_randao))}
                following = self.draft(closed, further)
                if not would_take(following, transaction):
                    included.append(False)
                    continue
                blocks.append(self.append(closed))
                env, output, index = following, vm.BlockOutput(), 0
                record_beacon_root(env)
            included.append(apply(env, output, transaction, Uint(index)))
            index += included[-1]
        blocks.append(self.append(self.sealed(env, output)))
        return {"included": included, "blocks": blocks}


def record_beacon_root(env: vm.BlockEnvironment) -> None:
    """EIP-4788, at the start of a block."""
    fork.process_unchecked_system_transaction(env, fork.BEACON_ROOTS_ADDRESS, env.parent_beacon_block_root)


def would_take(env: vm.BlockEnvironment, transaction: Any) -> bool:
    """Whether an empty block with this environment could include the transaction. Looks, and changes nothing."""
    try:
        validate_transaction(transaction)
        fork.check_transaction(env, vm.BlockOutput(), transaction)
    except EthereumException:
        return False
    return True


def apply(env: vm.BlockEnvironment, output: vm.BlockOutput, transaction: Any, index: Uint) -> bool:
    """Execute a transaction; says whether it could be included."""
    try:
        fork.process_transaction(env, output, transaction, index)
    except EthereumException:
        # It was refused before it touched the state, but its place in the trie was taken.
        trie_set(output.transactions_trie, rlp.encode(index), None)
        return False
    return True


def main() -> None:
    """Scenario on standard input, expectations on standard output."""
    given = json.load(sys.stdin)
    chain = Chain(given["settings"])
    genesis_hash = chain.hashes[0].hex()
    sections = [chain.section(section) for section in given["sections"]]
    json.dump({"genesis_hash": genesis_hash, "sections": sections}, sys.stdout, indent=0)


if __name__ == "__main__":
    main()
