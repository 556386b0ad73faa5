"""Decoding of signed Ethereum transactions: everything that can be said of one without any state.

Accepted: legacy without and with replay protection (EIP-155), access list (EIP-2930, type 1), dynamic fee (EIP-1559,
type 2). Refused by name: blob transactions (EIP-4844, type 3; a rollup has no blobs of its own) and set-code
transactions (EIP-7702, type 4; the Cancun rules do not know them). Further rules: EIP-2 (low s), EIP-2681 (nonce),
EIP-2028 and EIP-2930 (intrinsic gas), EIP-3860 (size and price of initialisation code), and the 128 KiB size cap that
execution clients use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from coincurve import PublicKey
from eth_hash.auto import keccak

from rollup_adapters.evm.encoding import EncodingError, Item, decode_list, encode, encode_integer, list_of_encoded

SIZE_BYTES_MAX: Final = 131_072
INITCODE_SIZE_BYTES_MAX: Final = 49_152
GAS_TRANSACTION: Final = 21_000
_GAS_CREATE: Final = 32_000
_GAS_DATA_ZERO: Final = 4
_GAS_DATA_NONZERO: Final = 16
_GAS_ACCESS_ADDRESS: Final = 2_400
_GAS_ACCESS_SLOT: Final = 1_900
_GAS_INITCODE_WORD: Final = 2
_CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

AccessList: TypeAlias = tuple[tuple[bytes, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as the state transition sees it. ``to`` is empty for a creation; a legacy gas price is both fees.

    ``intrinsic_gas`` lacks the price of initialisation code words, which the virtual machine charges as it starts a
    creation; ``gas_min`` is the whole intrinsic cost. Amounts are in wei. The field names are those that py-evm's
    executor reads.
    """

    type_id: int
    chain_id: int | None
    nonce: int
    max_priority_fee_per_gas: int
    max_fee_per_gas: int
    gas: int
    to: bytes
    value: int
    data: bytes = field(repr=False)
    access_list: AccessList = field(repr=False)
    sender: bytes
    intrinsic_gas: int
    gas_min: int
    v: int = field(default=0, repr=False)
    r: int = field(default=0, repr=False)
    s: int = field(default=0, repr=False)
    hash: bytes = field(default=b"", repr=False)

    def __repr__(self) -> str:
        # py-evm formats the transaction into a debug message that nobody reads, once per execution.
        return f"<Transaction {self.hash.hex()}>"


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that can never be a transaction of this chain, and why."""

    reason: str


def intrinsic_gas(to: bytes, data: bytes, access_list: AccessList) -> tuple[int, int]:
    """(gas before the virtual machine runs, the same with the price of initialisation code words)."""
    zeros = data.count(0)
    gas = GAS_TRANSACTION + zeros * _GAS_DATA_ZERO + (len(data) - zeros) * _GAS_DATA_NONZERO
    gas += sum(_GAS_ACCESS_ADDRESS + len(slots) * _GAS_ACCESS_SLOT for _, slots in access_list)
    if to:
        return gas, gas
    gas += _GAS_CREATE
    return gas, gas + _GAS_INITCODE_WORD * ((len(data) + 31) // 32)


def _bytes(item: Item, name: str) -> bytes:
    if not isinstance(item, bytes):
        raise EncodingError(f"{name} is a list, expected bytes")
    return item


def _integer(item: Item, name: str, size_bytes_max: int = 32) -> int:
    data = _bytes(item, name)
    if len(data) > size_bytes_max:
        raise EncodingError(f"{name} has more than {size_bytes_max * 8} bits")
    if data[:1] == b"\0":
        raise EncodingError(f"{name} has a leading zero byte")
    return int.from_bytes(data, "big")


def _to(item: Item) -> bytes:
    data = _bytes(item, "to")
    if len(data) not in (0, 20):
        raise EncodingError(f"to has {len(data)} bytes, expected 20, or none for a contract creation")
    return data


def _access_list(item: Item) -> AccessList:
    if isinstance(item, bytes):
        raise EncodingError("access list is bytes, expected a list")
    entries = []
    for entry in item:
        if isinstance(entry, bytes) or len(entry) != 2 or isinstance(entry[1], bytes):
            raise EncodingError("access list entry is not a pair of address and storage keys")
        address, slots = _bytes(entry[0], "access list address"), [_bytes(s, "storage key") for s in entry[1]]
        if len(address) != 20 or any(len(slot) != 32 for slot in slots):
            raise EncodingError("access list address is not 20 bytes or storage key not 32")
        entries.append((address, tuple(int.from_bytes(slot, "big") for slot in slots)))
    return tuple(entries)


def _recover(digest: bytes, parity: int, r: int, s: int) -> bytes:
    """The 20-byte address that signed ``digest``; raises EncodingError where no key could have."""
    if not 0 < r < _CURVE_ORDER or not 0 < s <= _CURVE_ORDER // 2:
        raise EncodingError("signature is outside its range (r, or s above half the curve order, EIP-2)")
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((parity,))
    try:
        key = PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except ValueError as error:
        raise EncodingError("signature recovers to no public key") from error
    return keccak(key.format(compressed=False)[1:])[12:]


@dataclass(frozen=True, slots=True)
class _Signature:
    v: int
    r: int
    s: int
    parity: int
    chain_id: int | None
    digest: bytes


def _legacy_signature(raw: bytes, items: list[Item], start: int, ends: list[int]) -> _Signature:
    v, r, s = _integer(items[6], "v"), _integer(items[7], "r"), _integer(items[8], "s")
    signed = raw[start : ends[5]]
    if v in (27, 28):
        return _Signature(v, r, s, v - 27, None, keccak(list_of_encoded((signed,))))
    if v < 35:
        raise EncodingError(f"v is {v}, expected 27, 28 or an EIP-155 value")
    chain_id = (v - 35) // 2
    digest = keccak(list_of_encoded((signed, encode(encode_integer(chain_id)), b"\x80\x80")))
    return _Signature(v, r, s, (v - 35) % 2, chain_id, digest)


def _typed_signature(raw: bytes, items: list[Item], start: int, ends: list[int], count: int) -> _Signature:
    parity = _integer(items[count], "y parity")
    if parity > 1:
        raise EncodingError(f"y parity is {parity}, expected 0 or 1")
    r, s = _integer(items[count + 1], "r"), _integer(items[count + 2], "s")
    digest = keccak(raw[:1] + list_of_encoded((raw[1 + start : 1 + ends[count - 1]],)))
    return _Signature(parity, r, s, parity, _integer(items[0], "chain id"), digest)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The fields that every type shares, still undecoded where they are items; ``common`` is nonce, gas, to, value,
    data."""

    type_id: int
    common: list[Item]
    fees: tuple[int, int]
    access: AccessList
    signature: _Signature


def _build(raw: bytes, parts: _Parts, sender: bytes | None) -> Transaction:
    nonce, gas, to, value, data = parts.common
    signature, access = parts.signature, parts.access
    recipient, payload = _to(to), _bytes(data, "data")
    before, whole = intrinsic_gas(recipient, payload, access)
    return Transaction(
        type_id=parts.type_id,
        chain_id=signature.chain_id,
        nonce=_integer(nonce, "nonce", 8),
        max_priority_fee_per_gas=parts.fees[0],
        max_fee_per_gas=parts.fees[1],
        gas=_integer(gas, "gas", 8),
        to=recipient,
        value=_integer(value, "value"),
        data=payload,
        access_list=access,
        sender=sender or _recover(signature.digest, signature.parity, signature.r, signature.s),
        intrinsic_gas=before,
        gas_min=whole,
        v=signature.v,
        r=signature.r,
        s=signature.s,
        hash=keccak(raw),
    )


def _expect(items: list[Item], count: int, kind: str) -> None:
    if len(items) != count:
        raise EncodingError(f"{kind} transaction has {len(items)} fields, expected {count}")


def _split(raw: bytes) -> _Parts:
    first = raw[0]
    if first >= 0xC0:
        items, start, ends = decode_list(raw, 0)
        _expect(items, 9, "legacy")
        price = _integer(items[1], "gas price")
        signature = _legacy_signature(raw, items, start, ends)
        return _Parts(0, [items[0], *items[2:6]], (price, price), (), signature)
    if first not in (1, 2):
        match first:
            case 3:
                raise EncodingError("blob transactions (type 3, EIP-4844) are not executed: this rollup has no blobs")
            case 4:
                raise EncodingError("set-code transactions (type 4, EIP-7702) are not executed under the Cancun rules")
            case _:
                raise EncodingError(f"unknown transaction type {first}")
    items, start, ends = decode_list(raw[1:], 3)
    if first == 1:
        _expect(items, 11, "access list")
        signature = _typed_signature(raw, items, start, ends, 8)
        price = _integer(items[2], "gas price")
        return _Parts(1, [items[1], *items[3:7]], (price, price), _access_list(items[7]), signature)
    _expect(items, 12, "dynamic fee")
    signature = _typed_signature(raw, items, start, ends, 9)
    fees = (_integer(items[2], "max priority fee per gas"), _integer(items[3], "max fee per gas"))
    return _Parts(2, [items[1], *items[4:8]], fees, _access_list(items[8]), signature)


def _refusal(transaction: Transaction, chain_id: int, gas_limit: int) -> str | None:
    """Why a well-formed transaction can never execute on this chain, or None."""
    if transaction.chain_id is not None and transaction.chain_id != chain_id:
        return f"signed for chain id {transaction.chain_id}, this rollup has {chain_id}"
    if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
        return "max priority fee per gas is higher than max fee per gas"
    if transaction.nonce >= 2**64 - 1:
        return "nonce has reached its maximum (EIP-2681)"
    if not transaction.to and len(transaction.data) > INITCODE_SIZE_BYTES_MAX:
        return f"initialisation code of {len(transaction.data)} bytes, at most {INITCODE_SIZE_BYTES_MAX} (EIP-3860)"
    if transaction.gas < transaction.gas_min:
        return f"intrinsic gas too low: has {transaction.gas}, needs {transaction.gas_min}"
    if transaction.gas > gas_limit:
        return f"gas {transaction.gas} is above the block gas limit {gas_limit}"
    return None


def decode(raw: bytes, chain_id: int, gas_limit: int) -> Transaction | Malformed:
    """Decode, recover the sender, and apply every rule that needs no state. ``gas_limit`` is the block's."""
    if not raw:
        return Malformed("the transaction is empty")
    if len(raw) > SIZE_BYTES_MAX:
        return Malformed(f"{len(raw)} bytes, at most {SIZE_BYTES_MAX} are allowed")
    try:
        transaction = _build(raw, _split(raw), None)
    except EncodingError as error:
        return Malformed(str(error))
    reason = _refusal(transaction, chain_id, gas_limit)
    return transaction if reason is None else Malformed(reason)


def decode_stored(raw: bytes, sender: bytes) -> Transaction:
    """Decode a transaction that was executed before, hence is known to be well formed and signed by ``sender``."""
    return _build(raw, _split(raw), sender)
