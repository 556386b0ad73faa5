"""Blocks, receipts and the base fee as Ethereum defines them, and their consensus encodings.

Sources: Yellow Paper section 4.3 and 4.4; EIP-658 (receipt status), EIP-1559 (base fee), EIP-2718 (typed envelopes),
EIP-4399 (prevrandao in mixHash), EIP-4788 (parent beacon block root), EIP-4844 and EIP-4895 (the last header fields).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_bloom.bloom import BloomFilter
from eth_hash.auto import keccak

from rollup_adapters.evm.encoding import EMPTY_LIST_HASH, EMPTY_TRIE_ROOT, Item, decode_list, encode, encode_integer

ELASTICITY: Final = 2
BASE_FEE_CHANGE_DENOMINATOR: Final = 8
HISTORY_BLOCKS: Final = 256
"""How far back the BLOCKHASH instruction sees."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """A Cancun block header. Hashes are 32 bytes, gas in units of gas, the base fee in wei, the timestamp in
    seconds."""

    parent_hash: bytes
    fee_recipient: bytes
    state_root: bytes
    transactions_root: bytes
    receipts_root: bytes
    bloom: int
    number: int
    gas_limit: int
    gas_used: int
    timestamp_s: int
    prev_randao: bytes
    base_fee_per_gas: int
    parent_beacon_block_root: bytes

    def encode(self) -> bytes:
        """The RLP whose Keccak-256 is the block hash."""
        return encode(
            (
                self.parent_hash,
                EMPTY_LIST_HASH,
                self.fee_recipient,
                self.state_root,
                self.transactions_root,
                self.receipts_root,
                self.bloom.to_bytes(256, "big"),
                b"",
                encode_integer(self.number),
                encode_integer(self.gas_limit),
                encode_integer(self.gas_used),
                encode_integer(self.timestamp_s),
                b"",
                self.prev_randao,
                bytes(8),
                encode_integer(self.base_fee_per_gas),
                EMPTY_TRIE_ROOT,
                b"",
                b"",
                self.parent_beacon_block_root,
            )
        )

    @property
    def hash(self) -> bytes:
        """The block hash."""
        return keccak(self.encode())


def _field(item: Item) -> bytes:
    assert isinstance(item, bytes)
    return item


def decode_header(encoded: bytes) -> Header:
    """The header that :meth:`Header.encode` gave these bytes."""
    fields = [_field(item) for item in decode_list(encoded, 0)[0]]
    return Header(
        parent_hash=fields[0],
        fee_recipient=fields[2],
        state_root=fields[3],
        transactions_root=fields[4],
        receipts_root=fields[5],
        bloom=int.from_bytes(fields[6], "big"),
        number=int.from_bytes(fields[8], "big"),
        gas_limit=int.from_bytes(fields[9], "big"),
        gas_used=int.from_bytes(fields[10], "big"),
        timestamp_s=int.from_bytes(fields[11], "big"),
        prev_randao=fields[13],
        base_fee_per_gas=int.from_bytes(fields[15], "big"),
        parent_beacon_block_root=fields[19],
    )


@dataclass(frozen=True, slots=True)
class Log:
    """One event. ``topics`` are up to four 32-byte words."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one executed transaction did. ``error`` is empty on success, and no part of the encoding; ``contract`` is
    the created address, empty where nothing was created."""

    error: str
    gas_used: int
    cumulative_gas_used: int
    contract: bytes
    logs: tuple[Log, ...]

    @property
    def succeeded(self) -> bool:
        """EIP-658's status."""
        return not self.error

    @property
    def bloom(self) -> int:
        """The 2048-bit filter over the logs' addresses and topics, as an integer."""
        return int(logs_bloom(self.logs))

    def encode(self, type_id: int) -> bytes:
        """The receipt's consensus encoding for a transaction of the given EIP-2718 type."""
        logs = tuple((log.address, log.topics, log.data) for log in self.logs)
        status = b"\x01" if self.succeeded else b""
        body = encode((status, encode_integer(self.cumulative_gas_used), self.bloom.to_bytes(256, "big"), logs))
        return bytes((type_id,)) + body if type_id else body


def included_detail(receipt: Receipt) -> str:
    """What an outcome says of an executed transaction: nothing if it succeeded."""
    return f"failed: {receipt.error}" if receipt.error else ""


def logs_bloom(logs: Sequence[Log]) -> BloomFilter:
    """The bloom filter over logs."""
    bloom = BloomFilter()
    for log in logs:
        bloom.add(log.address)
        bloom.extend(log.topics)
    return bloom


def base_fee_after(base_fee_per_gas: int, gas_used: int, gas_limit: int) -> int:
    """EIP-1559's base fee of the block that follows one with this base fee, in wei."""
    target = gas_limit // ELASTICITY
    if gas_used == target:
        return base_fee_per_gas
    step = base_fee_per_gas * abs(gas_used - target) // target // BASE_FEE_CHANGE_DENOMINATOR
    return base_fee_per_gas + max(step, 1) if gas_used > target else base_fee_per_gas - step


def next_base_fee(parent: Header) -> int:
    """EIP-1559's base fee of the block after ``parent``, in wei."""
    return base_fee_after(parent.base_fee_per_gas, parent.gas_used, parent.gas_limit)
