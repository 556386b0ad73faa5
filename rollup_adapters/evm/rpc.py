"""Ethereum JSON-RPC reads over one snapshot of the store.

Methods and shapes: the execution-apis specification and EIP-1474; error codes: -32601 unknown method, -32602 bad
parameters, -32000 refused, -32005 a limit was exceeded, 3 execution reverted with its data. ``eth_sendRawTransaction``
is not here: a transaction is submitted to the sequencer, never to one node's adapter. ``sequencer_transactionOutcome``
is ours: see :mod:`rollup_adapters.evm`.

``pending`` means ``latest``: what is not confirmed has not been executed. ``safe`` and ``finalized`` follow ``settle``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from eth.vm.forks.cancun.state import CancunState

from rollup_adapters.base import API_VERSION, JsonValue, QueryError
from rollup_adapters.evm import rpc_params as read
from rollup_adapters.evm.chain import Header, included_detail, next_base_fee
from rollup_adapters.evm.execution_client import Budget
from rollup_adapters.evm.preview import preview
from rollup_adapters.evm.rpc_shapes import (
    block_json,
    effective_gas_price,
    hexadecimal,
    log_json,
    receipt_json,
    transaction_json,
)
from rollup_adapters.evm.settings import EvmSettings
from rollup_adapters.evm.simulation import SERVER_ERROR, Simulator, call_result, estimate_gas
from rollup_adapters.evm.state import NodeDatabase, environment_of, open_state
from rollup_adapters.evm.store import Snapshot
from rollup_adapters.evm.transactions import decode_stored

METHOD_NOT_FOUND: Final = -32601
LIMIT_EXCEEDED: Final = -32005
LOGS_MAX: Final = 5_000
LOGS_SIZE_BYTES_MAX: Final = 4_000_000
"""Of the answer, roughly; the adapter host passes on no answer above 4 MiB."""
FEE_HISTORY_BLOCKS_MAX: Final = 1_024
PERCENTILES_MAX: Final = 100


@dataclass(frozen=True)
class _Request:
    settings: EvmSettings
    snapshot: Snapshot
    params: JsonValue
    budget: Budget

    def arguments(self, count_max: int) -> read.Arguments:
        return read.Arguments(self.params, count_max)

    def head(self) -> Header:
        header = self.snapshot.header(self.snapshot.head_number() or 0)
        assert header is not None
        return header

    def number(self, reference: read.BlockReference) -> int | None:
        """The block number that a reference names, which may not exist; None for an unknown hash."""
        match reference:
            case bytes():
                return self.snapshot.number_of(reference)
            case int():
                return reference
            case "earliest":
                return 0
            case "safe" | "finalized":
                return self.snapshot.number_in(reference)
            case _:
                return self.snapshot.head_number()

    def find(self, reference: read.BlockReference) -> Header | None:
        number = self.number(reference)
        return None if number is None or number >= 2**63 else self.snapshot.header(number)

    def header(self, reference: read.BlockReference) -> Header:
        header = self.find(reference)
        if header is None:
            raise QueryError(SERVER_ERROR, "header not found")
        return header

    def state(self, reference: read.BlockReference) -> CancunState:
        header = self.header(reference)
        environment = environment_of(header, self.settings.chain_id, self.snapshot, header.base_fee_per_gas)
        return open_state(NodeDatabase(self.snapshot), environment, header.state_root)


def _chain_id(request: _Request) -> JsonValue:
    request.arguments(0)
    return hex(request.settings.chain_id)


def _net_version(request: _Request) -> JsonValue:
    request.arguments(0)
    return str(request.settings.chain_id)


def _client_version(request: _Request) -> JsonValue:
    request.arguments(0)
    return f"shared-sequencer-evm/api-{API_VERSION}/py-evm-{version('py-evm')}/cancun"


def _block_number(request: _Request) -> JsonValue:
    request.arguments(0)
    return hex(request.head().number)


def _balance(request: _Request) -> JsonValue:
    arguments = request.arguments(2)
    address = read.address(arguments.required(0), "address")
    return hex(request.state(read.block_reference(arguments.optional(1), "block")).get_balance(cast(Any, address)))


def _transaction_count(request: _Request) -> JsonValue:
    arguments = request.arguments(2)
    address = read.address(arguments.required(0), "address")
    return hex(request.state(read.block_reference(arguments.optional(1), "block")).get_nonce(cast(Any, address)))


def _code(request: _Request) -> JsonValue:
    arguments = request.arguments(2)
    address = read.address(arguments.required(0), "address")
    return hexadecimal(request.state(read.block_reference(arguments.optional(1), "block")).get_code(cast(Any, address)))


def _storage_at(request: _Request) -> JsonValue:
    arguments = request.arguments(3)
    address = read.address(arguments.required(0), "address")
    slot = read.storage_slot(arguments.required(1), "position")
    state = request.state(read.block_reference(arguments.optional(2), "block"))
    return hexadecimal(state.get_storage(cast(Any, address), slot).to_bytes(32, "big"))


def _simulator(request: _Request, arguments: read.Arguments) -> tuple[Simulator, read.Call, Header]:
    call = read.call(arguments.required(0), request.settings.chain_id)
    header = request.header(read.block_reference(arguments.optional(1), "block"))
    if arguments.optional(2) is not None:
        raise read.invalid("state overrides are not built")
    return Simulator(request.snapshot, header, request.settings.chain_id, call, request.budget), call, header


def _call(request: _Request) -> JsonValue:
    simulator, call, _ = _simulator(request, request.arguments(3))
    return call_result(simulator, call.gas)


def _estimate_gas(request: _Request) -> JsonValue:
    simulator, call, header = _simulator(request, request.arguments(3))
    return hex(estimate_gas(simulator, call, header.gas_limit))


def _gas_price(request: _Request) -> JsonValue:
    request.arguments(0)
    # A legacy price is paid whole and must outlive rises of up to 1/8 per block, of which one section may make several:
    # a quarter more outlives one full block. Who wants more room sends a max fee (EIP-1559), and pays what is due.
    fee = next_base_fee(request.head())
    return hex(fee + fee // 4)


def _max_priority_fee(request: _Request) -> JsonValue:
    request.arguments(0)
    # The sequencer orders by arrival, not by tip: a tip buys nothing.
    return "0x0"


def _percentiles(value: JsonValue) -> list[float]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > PERCENTILES_MAX:
        raise read.invalid(f"rewardPercentiles: expected a list of at most {PERCENTILES_MAX} numbers")
    percentiles: list[float] = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float) or not 0 <= item <= 100:
            raise read.invalid("rewardPercentiles: expected numbers from 0 to 100")
        if percentiles and item < percentiles[-1]:
            raise read.invalid("rewardPercentiles: must not decrease")
        percentiles.append(float(item))
    return percentiles


def _rewards(request: _Request, header: Header, percentiles: list[float]) -> list[JsonValue]:
    """Tips at the given percentiles of the block's gas, in the order of the tip (geth, processBlock)."""
    tips = []
    for stored in request.snapshot.transactions_in(header.number):
        transaction = decode_stored(stored.raw, stored.sender)
        tip = effective_gas_price(transaction, header.base_fee_per_gas) - header.base_fee_per_gas
        tips.append((tip, stored.receipt.gas_used))
    if not tips:
        return ["0x0"] * len(percentiles)
    tips.sort()
    rewards: list[JsonValue] = []
    place, gas_seen = 0, tips[0][1]
    for percentile in percentiles:
        threshold = int(header.gas_used * percentile / 100)
        while gas_seen < threshold and place < len(tips) - 1:
            place += 1
            gas_seen += tips[place][1]
        rewards.append(hex(tips[place][0]))
    return rewards


def _fee_history(request: _Request) -> JsonValue:
    arguments = request.arguments(3)
    count = arguments.required(0)
    wanted = (
        count if isinstance(count, int) and not isinstance(count, bool) else read.quantity(count, "blockCount", 2**64)
    )
    newest = request.header(read.block_number(arguments.required(1), "newestBlock"))
    percentiles = _percentiles(arguments.optional(2))
    blocks = max(0, min(wanted, FEE_HISTORY_BLOCKS_MAX, newest.number + 1))
    oldest = newest.number - blocks + 1
    fees: list[JsonValue] = []
    ratios: list[JsonValue] = []
    rewards: list[JsonValue] = []
    for number in range(oldest, newest.number + 1):
        request.budget.check()
        header = request.header(number)
        fees.append(hex(header.base_fee_per_gas))
        ratios.append(header.gas_used / header.gas_limit)
        if percentiles:
            rewards.append(list(_rewards(request, header, percentiles)))
    if not blocks:
        return {"oldestBlock": "0x0", "baseFeePerGas": [], "gasUsedRatio": []}
    history: dict[str, JsonValue] = {
        "oldestBlock": hex(oldest),
        "baseFeePerGas": [*fees, hex(next_base_fee(newest))],
        "gasUsedRatio": ratios,
        "baseFeePerBlobGas": ["0x1"] * (blocks + 1),
        "blobGasUsedRatio": [0.0] * blocks,
    }
    if percentiles:
        history["reward"] = rewards
    return history


def _transaction_by_hash(request: _Request) -> JsonValue:
    stored = request.snapshot.transaction(read.data(request.arguments(1).required(0), "hash", 32))
    return None if stored is None else transaction_json(stored, request.header(stored.number))


def _transaction_receipt(request: _Request) -> JsonValue:
    stored = request.snapshot.transaction(read.data(request.arguments(1).required(0), "hash", 32))
    if stored is None:
        return None
    return receipt_json(stored, request.header(stored.number), request.snapshot.logs_of(stored))


def _transaction_outcome(request: _Request) -> JsonValue:
    """Ours, not Ethereum's: what became of a delivered transaction, so that one sees why a receipt never comes."""
    transaction_hash = read.data(request.arguments(1).required(0), "hash", 32)
    stored = request.snapshot.transaction(transaction_hash)
    if stored is not None:
        height = request.snapshot.height_of(stored.number)
        return {"status": "included", "detail": included_detail(stored.receipt), "height": height}
    skipped = request.snapshot.skipped(transaction_hash)
    return None if skipped is None else {"status": "skipped", "detail": skipped[1], "height": skipped[0]}


def _preview_transaction(request: _Request) -> JsonValue:
    """Ours, not Ethereum's: see :mod:`rollup_adapters.evm.preview`."""
    raw = read.data(request.arguments(1).required(0), "transaction")
    return preview(raw, request.settings, request.head(), request.state("latest"))


def _block(request: _Request, reference: read.BlockReference, with_objects: bool) -> JsonValue:
    header = request.find(reference)
    if header is None:
        return None
    transactions: list[JsonValue] = []
    for stored in request.snapshot.transactions_in(header.number):
        request.budget.check()
        if with_objects:
            transactions.append(transaction_json(stored, header))
        else:
            transactions.append(hexadecimal(decode_stored(stored.raw, stored.sender).hash))
    return block_json(header, request.snapshot.block_size_bytes(header.number), transactions)


def _block_by_number(request: _Request) -> JsonValue:
    arguments = request.arguments(2)
    reference = read.block_number(arguments.required(0), "block")
    return _block(request, reference, read.boolean(arguments.required(1), "hydrated"))


def _block_by_hash(request: _Request) -> JsonValue:
    arguments = request.arguments(2)
    reference = read.data(arguments.required(0), "hash", 32)
    return _block(request, reference, read.boolean(arguments.required(1), "hydrated"))


def _logs(request: _Request) -> JsonValue:
    wanted = read.log_filter(request.arguments(1).required(0))
    if wanted.block_hash is not None:
        first = last = request.snapshot.number_of(wanted.block_hash)
        if first is None or last is None:
            raise QueryError(SERVER_ERROR, "unknown block")
    else:
        first, last = request.number(wanted.first), request.number(wanted.last)
        assert first is not None
        assert last is not None
        if first > last:
            raise read.invalid("invalid block range params")
    found: list[JsonValue] = []
    size_bytes = 0
    head = request.head().number
    for stored in request.snapshot.logs(min(first, head + 1), min(last, head), wanted.addresses, wanted.topics):
        size_bytes += 400 + 69 * len(stored.log.topics) + 2 * len(stored.log.data)
        if len(found) == LOGS_MAX:
            raise QueryError(LIMIT_EXCEEDED, f"query returned more than {LOGS_MAX} results; ask for fewer blocks")
        if size_bytes > LOGS_SIZE_BYTES_MAX:
            raise QueryError(
                LIMIT_EXCEEDED, f"query returned more than {LOGS_SIZE_BYTES_MAX} bytes; ask for fewer blocks"
            )
        found.append(log_json(stored))
    return found


_Method: TypeAlias = Callable[[_Request], JsonValue]
_METHODS: Final[Mapping[str, _Method]] = MappingProxyType(
    {
        "eth_blockNumber": _block_number,
        "eth_call": _call,
        "eth_chainId": _chain_id,
        "eth_estimateGas": _estimate_gas,
        "eth_feeHistory": _fee_history,
        "eth_gasPrice": _gas_price,
        "eth_getBalance": _balance,
        "eth_getBlockByHash": _block_by_hash,
        "eth_getBlockByNumber": _block_by_number,
        "eth_getCode": _code,
        "eth_getLogs": _logs,
        "eth_getStorageAt": _storage_at,
        "eth_getTransactionByHash": _transaction_by_hash,
        "eth_getTransactionCount": _transaction_count,
        "eth_getTransactionReceipt": _transaction_receipt,
        "eth_maxPriorityFeePerGas": _max_priority_fee,
        "net_version": _net_version,
        "sequencer_transactionOutcome": _transaction_outcome,
        "sequencer_previewTransaction": _preview_transaction,
        "web3_clientVersion": _client_version,
    }
)


def answer(settings: EvmSettings, snapshot: Snapshot, method: str, params: JsonValue, budget: Budget) -> JsonValue:
    """Answer one read. Raises ``QueryError``, or ``BudgetExceeded`` when the time is over."""
    handler = _METHODS.get(method)
    if handler is None:
        raise QueryError(METHOD_NOT_FOUND, f"the method {method} does not exist/is not available")
    return handler(_Request(settings, snapshot, params, budget))
