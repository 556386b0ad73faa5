"""Ethereum's JSON objects, field for field as execution clients write them (execution-apis; geth internal/ethapi)."""

from __future__ import annotations

from rollup_adapters.base import JsonValue
from rollup_adapters.evm.chain import Header, Receipt
from rollup_adapters.evm.encoding import EMPTY_LIST_HASH, EMPTY_TRIE_ROOT
from rollup_adapters.evm.store import StoredLog, StoredTransaction
from rollup_adapters.evm.transactions import Transaction, decode_stored


def hexadecimal(data: bytes) -> str:
    """Bytes as 0x and two digits each."""
    return "0x" + data.hex()


def effective_gas_price(transaction: Transaction, base_fee_per_gas: int) -> int:
    """What the sender paid per gas, in wei (EIP-1559)."""
    return min(transaction.max_fee_per_gas, base_fee_per_gas + transaction.max_priority_fee_per_gas)


def block_json(header: Header, size_bytes: int, transactions: list[JsonValue]) -> JsonValue:
    """A block object; ``transactions`` are hashes or objects."""
    return {
        "number": hex(header.number),
        "hash": hexadecimal(header.hash),
        "parentHash": hexadecimal(header.parent_hash),
        "nonce": "0x0000000000000000",
        "sha3Uncles": hexadecimal(EMPTY_LIST_HASH),
        "logsBloom": hexadecimal(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": hexadecimal(header.transactions_root),
        "stateRoot": hexadecimal(header.state_root),
        "receiptsRoot": hexadecimal(header.receipts_root),
        "miner": hexadecimal(header.fee_recipient),
        "difficulty": "0x0",
        "extraData": "0x",
        "size": hex(size_bytes),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "timestamp": hex(header.timestamp_s),
        "mixHash": hexadecimal(header.prev_randao),
        "baseFeePerGas": hex(header.base_fee_per_gas),
        "withdrawalsRoot": hexadecimal(EMPTY_TRIE_ROOT),
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": hexadecimal(header.parent_beacon_block_root),
        "transactions": transactions,
        "uncles": [],
        "withdrawals": [],
    }


def transaction_json(stored: StoredTransaction, header: Header) -> JsonValue:
    """An executed transaction."""
    transaction = decode_stored(stored.raw, stored.sender)
    shape: dict[str, JsonValue] = {
        "blockHash": hexadecimal(header.hash),
        "blockNumber": hex(stored.number),
        "from": hexadecimal(stored.sender),
        "gas": hex(transaction.gas),
        "gasPrice": hex(effective_gas_price(transaction, header.base_fee_per_gas)),
        "hash": hexadecimal(transaction.hash),
        "input": hexadecimal(transaction.data),
        "nonce": hex(transaction.nonce),
        "to": hexadecimal(transaction.to) if transaction.to else None,
        "transactionIndex": hex(stored.position),
        "value": hex(transaction.value),
        "type": hex(transaction.type_id),
        "v": hex(transaction.v),
        "r": hex(transaction.r),
        "s": hex(transaction.s),
    }
    if transaction.chain_id is not None:
        shape["chainId"] = hex(transaction.chain_id)
    if transaction.type_id:
        shape["yParity"] = hex(transaction.v)
        shape["accessList"] = [
            {"address": hexadecimal(address), "storageKeys": [hexadecimal(slot.to_bytes(32, "big")) for slot in slots]}
            for address, slots in transaction.access_list
        ]
    if transaction.type_id == 2:
        shape["maxFeePerGas"] = hex(transaction.max_fee_per_gas)
        shape["maxPriorityFeePerGas"] = hex(transaction.max_priority_fee_per_gas)
    return shape


def log_json(stored: StoredLog) -> JsonValue:
    """A log with its place."""
    return {
        "address": hexadecimal(stored.log.address),
        "topics": [hexadecimal(topic) for topic in stored.log.topics],
        "data": hexadecimal(stored.log.data),
        "blockNumber": hex(stored.number),
        "transactionHash": hexadecimal(stored.transaction_hash),
        "transactionIndex": hex(stored.position),
        "blockHash": hexadecimal(stored.block_hash),
        "logIndex": hex(stored.index),
        "removed": False,
    }


def receipt_json(stored: StoredTransaction, header: Header, logs: list[StoredLog]) -> JsonValue:
    """The receipt of an executed transaction."""
    transaction, receipt = decode_stored(stored.raw, stored.sender), stored.receipt
    whole = Receipt(
        receipt.error,
        receipt.gas_used,
        receipt.cumulative_gas_used,
        receipt.contract,
        tuple(place.log for place in logs),
    )
    return {
        "transactionHash": hexadecimal(transaction.hash),
        "transactionIndex": hex(stored.position),
        "blockHash": hexadecimal(header.hash),
        "blockNumber": hex(stored.number),
        "from": hexadecimal(stored.sender),
        "to": hexadecimal(transaction.to) if transaction.to else None,
        "cumulativeGasUsed": hex(receipt.cumulative_gas_used),
        "gasUsed": hex(receipt.gas_used),
        "contractAddress": hexadecimal(receipt.contract) if receipt.contract else None,
        "logs": [log_json(place) for place in logs],
        "logsBloom": hexadecimal(whole.bloom.to_bytes(256, "big")),
        "status": "0x1" if receipt.succeeded else "0x0",
        "type": hex(transaction.type_id),
        "effectiveGasPrice": hex(effective_gas_price(transaction, header.base_fee_per_gas)),
    }
