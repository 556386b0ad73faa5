"""Reading the parameters of Ethereum JSON-RPC methods (execution-apis, EIP-1474, EIP-1898). Refusals are -32602."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from rollup_adapters.base import JsonValue, QueryError
from rollup_adapters.evm.transactions import AccessList

INVALID_PARAMS: Final = -32602
ADDRESSES_MAX: Final = 1_000
TOPIC_CHOICES_MAX: Final = 1_000
DATA_SIZE_BYTES_MAX: Final = 1_048_576
_QUANTITY: Final = re.compile(r"0x(0|[1-9a-fA-F][0-9a-fA-F]{0,63})\Z")
_UINT64: Final = 2**64 - 1
_UINT256: Final = 2**256 - 1

Tag: TypeAlias = Literal["latest", "pending", "safe", "finalized", "earliest"]
BlockReference: TypeAlias = "Tag | int | bytes"
"""A tag, a number, or a 32-byte hash."""


def invalid(message: str) -> QueryError:
    """The error for bad parameters."""
    return QueryError(INVALID_PARAMS, message)


class Arguments:
    """The positional parameters of one request, each read once, by place."""

    def __init__(self, params: JsonValue, count_max: int) -> None:
        if params is None:
            params = []
        if not isinstance(params, list):
            raise invalid("params must be a list")
        if len(params) > count_max:
            raise invalid(f"too many arguments, want at most {count_max}")
        self._values = params

    def required(self, place: int) -> JsonValue:
        """The value at ``place``; missing or null is refused."""
        value = self.optional(place)
        if value is None:
            raise invalid(f"missing value for required argument {place}")
        return value

    def optional(self, place: int) -> JsonValue:
        """The value at ``place``, or None."""
        return self._values[place] if place < len(self._values) else None


def quantity(value: JsonValue, name: str, maximum: int = _UINT256) -> int:
    """A hexadecimal quantity without leading zeros."""
    if not isinstance(value, str) or _QUANTITY.match(value) is None:
        raise invalid(f"{name}: expected a 0x quantity without leading zeros, got {_shown(value)}")
    number = int(value, 16)
    if number > maximum:
        raise invalid(f"{name}: {value} is too large")
    return number


def data(value: JsonValue, name: str, size_bytes: int | None = None) -> bytes:
    """Hexadecimal bytes, two digits each; exactly ``size_bytes`` where given."""
    if isinstance(value, str) and value[:2] in ("0x", "0X"):
        try:
            decoded = bytes.fromhex(value[2:])
        except ValueError:
            decoded = None
        if decoded is not None and len(value) == 2 + 2 * len(decoded):
            if size_bytes is not None and len(decoded) != size_bytes:
                raise invalid(f"{name}: {len(decoded)} bytes, expected {size_bytes}")
            if len(decoded) > DATA_SIZE_BYTES_MAX:
                raise invalid(f"{name}: {len(decoded)} bytes, at most {DATA_SIZE_BYTES_MAX}")
            return decoded
    raise invalid(f"{name}: expected 0x and an even number of hexadecimal digits, got {_shown(value)}")


def _shown(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def address(value: JsonValue, name: str) -> bytes:
    """A 20-byte address."""
    return data(value, name, 20)


def storage_slot(value: JsonValue, name: str) -> int:
    """A storage position: any hexadecimal number of at most 32 bytes, padded or not (geth, decodeHash)."""
    if not isinstance(value, str) or re.match(r"0[xX][0-9a-fA-F]{1,64}\Z", value) is None:
        raise invalid(f"{name}: expected at most 32 bytes of hexadecimal, got {_shown(value)}")
    return int(value, 16)


def boolean(value: JsonValue, name: str) -> bool:
    """A JSON boolean."""
    if not isinstance(value, bool):
        raise invalid(f"{name}: expected a boolean, got {_shown(value)}")
    return value


def block_number(value: JsonValue, name: str) -> Tag | int:
    """A tag or a number."""
    for tag in get_args(Tag):
        if value == tag:
            known: Tag = tag
            return known
    return quantity(value, name, _UINT64)


def block_reference(value: JsonValue, name: str) -> BlockReference:
    """A tag, a number, or EIP-1898's object with ``blockNumber`` or ``blockHash``; absent means latest."""
    if value is None:
        return "latest"
    if not isinstance(value, dict):
        return block_number(value, name)
    if ("blockNumber" in value) == ("blockHash" in value):
        raise invalid(f"{name}: expected either blockNumber or blockHash")
    if "blockNumber" in value:
        return block_number(value["blockNumber"], f"{name}.blockNumber")
    return data(value["blockHash"], f"{name}.blockHash", 32)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A transaction object of eth_call and eth_estimateGas. None means that the caller did not say."""

    sender: bytes
    to: bytes
    gas: int | None
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    value: int
    data: bytes
    access_list: AccessList


def _access_list(value: JsonValue) -> AccessList:
    if not isinstance(value, list):
        raise invalid("accessList: expected a list")
    entries = []
    for entry in value:
        keys = entry.get("storageKeys", []) if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(keys, list):
            raise invalid("accessList: expected objects with address and storageKeys")
        slots = tuple(int.from_bytes(data(key, "accessList.storageKeys", 32), "big") for key in keys)
        entries.append((address(entry.get("address"), "accessList.address"), slots))
    return tuple(entries)


def _fees(value: dict[str, JsonValue]) -> tuple[int, int]:
    price, fee, tip = (value.get(name) for name in ("gasPrice", "maxFeePerGas", "maxPriorityFeePerGas"))
    if price is not None:
        if fee is not None or tip is not None:
            raise invalid("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified")
        number = quantity(price, "gasPrice")
        return number, number
    fee_number = 0 if fee is None else quantity(fee, "maxFeePerGas")
    tip_number = 0 if tip is None else quantity(tip, "maxPriorityFeePerGas")
    if fee is not None and tip_number > fee_number:
        raise invalid(f"maxFeePerGas ({fee_number}) < maxPriorityFeePerGas ({tip_number})")
    return fee_number, tip_number if fee is not None else 0


def call(value: JsonValue, chain_id: int) -> Call:
    """A transaction object. ``input`` and ``data`` may both be given if they agree; ``nonce`` and ``type`` do not
    matter."""
    if not isinstance(value, dict):
        raise invalid(f"argument 0: expected a transaction object, got {_shown(value)}")
    payloads = [data(value[name], name) for name in ("input", "data") if value.get(name) is not None]
    if len(payloads) == 2 and payloads[0] != payloads[1]:
        raise invalid('both "data" and "input" are set and not equal')
    for name in ("blobVersionedHashes", "blobs", "authorizationList"):
        if value.get(name) is not None:
            raise invalid(f"{name}: blob and set-code transactions are not executed by this rollup")
    if value.get("chainId") is not None and quantity(value["chainId"], "chainId") != chain_id:
        raise invalid(f"chainId does not match: have {_shown(value['chainId'])}, want {hex(chain_id)}")
    fee, tip = _fees(value)
    return Call(
        sender=bytes(20) if value.get("from") is None else address(value["from"], "from"),
        to=b"" if value.get("to") is None else address(value["to"], "to"),
        gas=None if value.get("gas") is None else quantity(value["gas"], "gas", _UINT64),
        max_fee_per_gas=fee,
        max_priority_fee_per_gas=tip,
        value=0 if value.get("value") is None else quantity(value["value"], "value"),
        data=payloads[0] if payloads else b"",
        access_list=() if value.get("accessList") is None else _access_list(value["accessList"]),
    )


@dataclass(frozen=True, kw_only=True)
class LogFilter:
    """An eth_getLogs filter. ``block_hash`` excludes the range; an empty choice matches anything."""

    block_hash: bytes | None
    first: Tag | int
    last: Tag | int
    addresses: Sequence[bytes]
    topics: Sequence[Sequence[bytes]]


def _choices(value: JsonValue, name: str, size_bytes: int, count_max: int) -> tuple[bytes, ...]:
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if len(values) > count_max:
        raise invalid(f"{name}: {len(values)} choices, at most {count_max}")
    if None in values:
        return ()
    return tuple(data(choice, name, size_bytes) for choice in values)


def log_filter(value: JsonValue) -> LogFilter:
    """A filter object."""
    if not isinstance(value, dict):
        raise invalid(f"argument 0: expected a filter object, got {_shown(value)}")
    block_hash = value.get("blockHash")
    first, last = value.get("fromBlock"), value.get("toBlock")
    if block_hash is not None and (first is not None or last is not None):
        raise invalid("cannot specify both blockHash and fromBlock/toBlock, choose one or the other")
    topics = value.get("topics")
    if topics is not None and not isinstance(topics, list):
        raise invalid("topics: expected a list")
    if topics is not None and len(topics) > 4:
        raise invalid("topics: exceeds the maximum of 4")
    return LogFilter(
        block_hash=None if block_hash is None else data(block_hash, "blockHash", 32),
        first="latest" if first is None else block_number(first, "fromBlock"),
        last="latest" if last is None else block_number(last, "toBlock"),
        addresses=_choices(value.get("address"), "address", 20, ADDRESSES_MAX),
        topics=[_choices(topic, f"topics[{i}]", 32, TOPIC_CHOICES_MAX) for i, topic in enumerate(topics or [])],
    )
