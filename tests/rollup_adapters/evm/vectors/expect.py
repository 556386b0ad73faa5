"""Executes a scenario with the executable Ethereum specification and writes what came out: the oracle of our execution.

It shares no code with the adapter and none with py-evm. In an environment of its own, since its dependencies differ::

    python -m venv spec && spec/bin/pip install ethereum-execution==2.20.0
    spec/bin/python expect.py < scenario.json > expected.json

The specification also decides which transactions cannot be included. Two rules are the rollup's, not Ethereum's, and
are repeated here: the timestamp (seconds, never below the parent's) and prevRandao (Keccak-256 of the block id).
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
from ethereum.forks.cancun.transactions import decode_transaction, encode_transaction
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


def execute(env: vm.BlockEnvironment, transactions: list[bytes]) -> tuple[vm.BlockOutput, list[bool]]:
    """Apply what can be applied; says for each transaction whether it was."""
    output = vm.BlockOutput()
    fork.process_unchecked_system_transaction(env, fork.BEACON_ROOTS_ADDRESS, env.parent_beacon_block_root)
    included: list[bool] = []
    for raw in transactions:
        index = Uint(sum(included))
        transaction = decode_transaction(rlp.decode_to(fork.LegacyTransaction, raw) if raw[0] >= 0xC0 else Bytes(raw))
        assert encode_transaction(transaction)
        try:
            fork.process_transaction(env, output, transaction, index)
            included.append(True)
        except EthereumException:
            # It was refused before it touched the state, but its place in the trie was taken.
            trie_set(output.transactions_trie, rlp.encode(index), None)
            included.append(False)
    return output, included


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


def main() -> None:
    """Scenario on standard input, expectations on standard output."""
    given = json.load(sys.stdin)
    settings = given["settings"]
    state = genesis_state(settings["alloc"])
    header = make_header(settings, None, state)
    hashes = [keccak256(rlp.encode(header))]
    expected: list[dict[str, Any]] = []
    for block in given["blocks"]:
        block_id = bytes.fromhex(block["block_id"])
        fee = fork.calculate_base_fee_per_gas(
            header.gas_limit, header.gas_limit, header.gas_used, header.base_fee_per_gas
        )
        fixed: dict[str, Any] = {
            "timestamp": U256(max(int(header.timestamp), block["timestamp_ms"] // 1000)),
            "prev_randao": Bytes32(keccak256(block_id)),
            "parent_beacon_block_root": Bytes32(block_id),
            "base_fee_per_gas": fee,
        }
        draft = make_header(settings, header, state, **fixed)
        env = environment(state, settings, draft, hashes)
        output, included = execute(env, [bytes.fromhex(raw) for raw in block["transactions"]])
        header = make_header(
            settings,
            header,
            state,
            **fixed,
            transactions_root=root(output.transactions_trie),
            receipt_root=root(output.receipts_trie),
            bloom=logs_bloom(output.block_logs),
            gas_used=output.block_gas_used,
        )
        hashes.append(keccak256(rlp.encode(header)))
        expected.append(
            {
                "hash": hashes[-1].hex(),
                "state_root": header.state_root.hex(),
                "receipts_root": header.receipt_root.hex(),
                "gas_used": int(header.gas_used),
                "included": included,
            }
        )
    json.dump({"genesis_hash": hashes[0].hex(), "blocks": expected}, sys.stdout, indent=0)


if __name__ == "__main__":
    main()
