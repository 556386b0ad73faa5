"""The settings of an EVM rollup: its chain identity and its genesis, checked key by key.

Numbers may be integers, decimal strings or ``0x`` strings (TOML and MessagePack integers end at 64 bits, balances do
not). Every refusal is a ``ValueError`` that begins with the path of the key, such as ``settings.alloc.0x12….balance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rollup_adapters.base import JsonValue

GAS_LIMIT_DEFAULT: Final = 30_000_000
GAS_LIMIT_MIN: Final = 1_000_000
GAS_LIMIT_MAX: Final = 10_000_000_000
BASE_FEE_DEFAULT: Final = 1_000_000_000
CHAIN_ID_MAX: Final = 2**53 - 1
"""The largest integer that every JSON client reads exactly; wallets refuse more."""
CODE_SIZE_BYTES_MAX: Final = 24_576
"""EIP-170."""
ALLOC_ACCOUNTS_MAX: Final = 100_000
_UINT256: Final = 2**256 - 1


@dataclass(frozen=True)
class GenesisAccount:
    """One account of the genesis state. ``storage`` maps slot to value, both 256-bit integers."""

    balance: int
    nonce: int
    code: bytes
    storage: Mapping[int, int]


@dataclass(frozen=True)
class EvmSettings:
    """A checked configuration. Fees are in wei, ``timestamp_s`` in seconds since the Unix epoch, addresses 20 bytes."""

    chain_id: int
    gas_limit: int
    base_fee_per_gas: int
    fee_recipient: bytes
    timestamp_s: int
    alloc: Mapping[bytes, GenesisAccount]


def _integer(value: JsonValue, path: str, low: int, high: int) -> int:
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and len(value) <= 80:
        digits = value.removeprefix("0x")
        try:
            number = int(digits, 10 if digits == value else 16)
        except ValueError:
            number = None
    if number is None:
        raise ValueError(f"{path}: expected an integer, a decimal string or a 0x string, got {value!r}")
    if not low <= number <= high:
        raise ValueError(f"{path}: {number} is outside {low}..{high}")
    return number


def _data(value: JsonValue, path: str, size_bytes_max: int) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"{path}: expected a 0x string, got {value!r}")
    try:
        data = bytes.fromhex(value[2:])
    except ValueError:
        raise ValueError(f"{path}: not hexadecimal") from None
    if len(data) > size_bytes_max:
        raise ValueError(f"{path}: {len(data)} bytes, at most {size_bytes_max} are allowed")
    return data


def _address(value: JsonValue, path: str) -> bytes:
    address = _data(value, path, 20)
    if len(address) != 20:
        raise ValueError(f"{path}: an address has 20 bytes, this has {len(address)}")
    return address


def _only(value: JsonValue, path: str, allowed: frozenset[str]) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: expected a table, got {value!r}")
    for key in value:
        if key not in allowed:
            raise ValueError(f"{path}.{key}: unknown key; known are {', '.join(sorted(allowed))}")
    return value


def _storage(value: JsonValue, path: str) -> Mapping[int, int]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: expected a table of slot = value, got {value!r}")
    storage = {}
    for slot, content in value.items():
        number = _integer(content, f"{path}.{slot}", 0, _UINT256)
        if number:
            storage[_integer(slot, f"{path}.{slot}", 0, _UINT256)] = number
    return storage


def _account(value: JsonValue, path: str) -> GenesisAccount:
    if not isinstance(value, Mapping):
        return GenesisAccount(balance=_integer(value, path, 0, _UINT256), nonce=0, code=b"", storage={})
    table = _only(value, path, frozenset({"balance", "nonce", "code", "storage"}))
    code = _data(table.get("code", "0x"), f"{path}.code", CODE_SIZE_BYTES_MAX)
    return GenesisAccount(
        balance=_integer(table.get("balance", 0), f"{path}.balance", 0, _UINT256),
        nonce=_integer(table.get("nonce", 1 if code else 0), f"{path}.nonce", 0, 2**63),
        code=code,
        storage=_storage(table.get("storage", {}), f"{path}.storage"),
    )


def _alloc(value: JsonValue, path: str) -> Mapping[bytes, GenesisAccount]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: expected a table of address = balance or address = {{...}}, got {value!r}")
    if len(value) > ALLOC_ACCOUNTS_MAX:
        raise ValueError(f"{path}: {len(value)} accounts, at most {ALLOC_ACCOUNTS_MAX} are allowed")
    alloc: dict[bytes, GenesisAccount] = {}
    total = 0
    for key, content in value.items():
        address = _address(key, f"{path}.{key}")
        if address in alloc:
            raise ValueError(f"{path}.{key}: the address appears twice")
        alloc[address] = _account(content, f"{path}.{key}")
        total += alloc[address].balance
    if total > _UINT256:
        # No later transfer can then overflow a balance: ether is only moved or burned.
        raise ValueError(f"{path}: the balances sum to more than 2**256 - 1 wei")
    return alloc


def read_settings(settings: Mapping[str, JsonValue]) -> EvmSettings:
    """Check an adapter's settings. ``chain_id`` is required, everything else has a default. Raises ``ValueError``."""
    path = "settings"
    known = frozenset({"chain_id", "gas_limit", "base_fee_per_gas", "fee_recipient", "timestamp", "alloc"})
    table = _only(dict(settings), path, known)
    if "chain_id" not in table:
        raise ValueError(
            f"{path}.chain_id: missing; give the rollup's own EIP-155 chain id, unique among its users' chains"
        )
    return EvmSettings(
        chain_id=_integer(table["chain_id"], f"{path}.chain_id", 1, CHAIN_ID_MAX),
        gas_limit=_integer(
            table.get("gas_limit", GAS_LIMIT_DEFAULT), f"{path}.gas_limit", GAS_LIMIT_MIN, GAS_LIMIT_MAX
        ),
        base_fee_per_gas=_integer(
            table.get("base_fee_per_gas", BASE_FEE_DEFAULT), f"{path}.base_fee_per_gas", 0, 2**128 - 1
        ),
        fee_recipient=_address(table.get("fee_recipient", "0x" + "00" * 20), f"{path}.fee_recipient"),
        timestamp_s=_integer(table.get("timestamp", 0), f"{path}.timestamp", 0, 2**63 - 1),
        alloc=_alloc(table.get("alloc", {}), f"{path}.alloc"),
    )
