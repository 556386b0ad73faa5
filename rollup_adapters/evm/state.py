"""Ethereum state and its transition, by py-evm under the Cancun rules, without py-evm's chain layer.

Blocks are executed on the state itself: header validation would refuse two blocks within one second, and validating a
transaction twice would double its cost. What py-evm's chain layer checks and its state does not is checked in
``refusal``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from eth.abc import AtomicWriteBatchAPI, ComputationAPI, SignedTransactionAPI
from eth.constants import BLANK_ROOT_HASH, EMPTY_SHA3
from eth.db.backends.base import BaseAtomicDB
from eth.db.batch import BatchDB
from eth.exceptions import (
    ContractCreationCollision,
    FullStack,
    InsufficientStack,
    InvalidInstruction,
    InvalidJumpDestination,
    OutOfBoundsRead,
    OutOfGas,
    ReservedBytesInCode,
    Revert,
    VMError,
    WriteProtection,
)
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.cancun.constants import BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CONTRACT_CODE, HISTORY_BUFFER_LENGTH
from eth.vm.forks.cancun.state import CancunState

from rollup_adapters.evm.chain import HISTORY_BLOCKS, Header, Log, Receipt
from rollup_adapters.evm.execution_client import Budget
from rollup_adapters.evm.settings import GenesisAccount
from rollup_adapters.evm.store import Snapshot, Store
from rollup_adapters.evm.transactions import Transaction
from rollup_adapters.evm.virtual_machine import BudgetedState, State

NODE_CACHE_ENTRIES: Final = 32_768
"""Per generation; two generations of at most this many trie nodes (about 300 bytes each) stay in memory."""
EMPTY_STATE_ROOT: Final = BLANK_ROOT_HASH
_REFUND_QUOTIENT: Final = 5
"""EIP-3529."""
REASON_CHARACTERS_MAX: Final = 300
_ERROR_SELECTOR: Final = bytes.fromhex("08c379a0")
_PANIC_SELECTOR: Final = bytes.fromhex("4e487b71")


class NodeDatabase(BaseAtomicDB):
    """py-evm's view of the stored trie nodes. Writes are held until :meth:`flush` puts them into the store's
    transaction."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._pending: dict[bytes, bytes] = {}
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}

    def _find(self, key: bytes) -> bytes | None:
        for level in (self._young, self._pending, self._old):
            value = level.get(key)
            if value is not None:
                if level is self._old:
                    self._remember(key, value)
                return value
        value = self._snapshot.node(key)
        if value is not None:
            self._remember(key, value)
        return value

    def _remember(self, key: bytes, value: bytes) -> None:
        if len(self._young) >= NODE_CACHE_ENTRIES:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def __getitem__(self, key: bytes) -> bytes:
        value = self._find(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._pending[key] = value

    def __delitem__(self, key: bytes) -> None:
        raise AssertionError("trie nodes are never deleted: every past state stays readable")

    def _exists(self, key: bytes) -> bool:
        return self._find(key) is not None

    @contextmanager
    def atomic_batch(self) -> Iterator[AtomicWriteBatchAPI]:
        """py-evm writes through this; nothing leaves the process before :meth:`flush`."""
        batch = BatchDB(self)
        yield cast(AtomicWriteBatchAPI, batch)
        batch.commit_to(self, apply_deletes=False)

    def flush(self, store: Store) -> None:
        """Put the new nodes into the store's open transaction."""
        store.put_nodes(list(self._pending.items()))
        for key, value in self._pending.items():
            self._remember(key, value)
        self._pending = {}

    def forget(self) -> None:
        """Drop everything held: the store's transaction was rolled back."""
        self._pending, self._young, self._old = {}, {}, {}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a transaction can see of its block. ``ancestors`` yields the hashes of the parent, its parent, and so on."""

    chain_id: int
    number: int
    timestamp_s: int
    fee_recipient: bytes
    prev_randao: bytes
    gas_limit: int
    base_fee_per_gas: int
    ancestors: Iterable[bytes]


def open_state(nodes: NodeDatabase, environment: Environment, root: bytes, budget: Budget | None = None) -> CancunState:
    """The state with this root, about to execute in this environment; with a budget, execution stops when it is
    spent."""
    context = ExecutionContext(
        coinbase=cast(Any, environment.fee_recipient),
        timestamp=environment.timestamp_s,
        block_number=cast(Any, environment.number),
        difficulty=0,
        mix_hash=cast(Any, environment.prev_randao),
        gas_limit=environment.gas_limit,
        prev_hashes=cast(Any, environment.ancestors),
        chain_id=environment.chain_id,
        base_fee_per_gas=environment.base_fee_per_gas,
        excess_blob_gas=0,
    )
    if budget is None:
        return State(cast(Any, nodes), context, cast(Any, root))
    state = BudgetedState(cast(Any, nodes), context, cast(Any, root))
    state.budget = budget
    return state


def write_genesis(state: CancunState, alloc: Iterable[tuple[bytes, GenesisAccount]]) -> bytes:
    """Put the genesis accounts into an empty state; returns its root. Accounts that are empty do not exist
    (EIP-161)."""
    for address, account in alloc:
        target = cast(Any, address)
        if account.balance or account.nonce or account.code or account.storage:
            state.set_balance(target, account.balance)
            state.set_nonce(target, account.nonce)
        if account.code:
            state.set_code(target, account.code)
        for slot, value in account.storage.items():
            state.set_storage(target, slot, value)
    state.persist()
    return state.state_root


def record_beacon_root(state: CancunState, timestamp_s: int, root: bytes) -> None:
    """EIP-4788's system call at the start of a block, where the genesis state holds the contract."""
    if state.get_code(BEACON_ROOTS_ADDRESS) != BEACON_ROOTS_CONTRACT_CODE:
        return
    slot = timestamp_s % HISTORY_BUFFER_LENGTH
    state.set_storage(BEACON_ROOTS_ADDRESS, slot, timestamp_s)
    state.set_storage(BEACON_ROOTS_ADDRESS, slot + HISTORY_BUFFER_LENGTH, int.from_bytes(root, "big"))


def refusal(state: CancunState, transaction: Transaction, base_fee_per_gas: int) -> str | None:
    """Why a block with this base fee on this state refuses the transaction, or None; its gas limit is not looked at.

    Sources: Yellow Paper section 6.2, EIP-1559, EIP-3607."""
    sender = cast(Any, transaction.sender)
    nonce = state.get_nonce(sender)
    if transaction.nonce != nonce:
        relation = "low" if transaction.nonce < nonce else "high"
        return f"nonce too {relation}: the transaction has {transaction.nonce}, the account {nonce}"
    if transaction.max_fee_per_gas < base_fee_per_gas:
        return f"max fee per gas {transaction.max_fee_per_gas} is below the block's base fee {base_fee_per_gas}"
    if state.get_code_hash(sender) != EMPTY_SHA3:
        return "the sender is a contract (EIP-3607)"
    cost = transaction.gas * transaction.max_fee_per_gas + transaction.value
    balance = state.get_balance(sender)
    if balance < cost:
        return f"insufficient funds for gas * price + value: has {balance}, wants {cost}"
    return None


@dataclass(frozen=True, slots=True)
class Execution:
    """The end of one message. ``gas_peak`` is what it used before refunds: no smaller gas limit reaches the same end
    unless the code looks at the gas that is left. ``error`` is empty on success; ``output`` is then the return data or,
    in a creation, the code, and after a revert its reason."""

    error: str
    is_revert: bool
    output: bytes
    gas_used: int
    gas_peak: int
    contract: bytes
    logs: tuple[Log, ...]


def execute(state: CancunState, transaction: Transaction) -> Execution:
    """Run one transaction that :func:`refusal` let pass (or a call that need not be affordable) and settle its fees."""
    state.lock_changes()
    executor = cast(Any, state.get_transaction_executor())
    signed = cast(SignedTransactionAPI, transaction)
    message = executor.build_evm_message(signed)
    computation: ComputationAPI = executor.build_computation(message, signed)
    executor.finalize_computation(signed, computation)
    state.clear_transient_storage()
    peak = transaction.gas - computation.get_gas_remaining()
    refund = min(computation.get_gas_refund(), peak // _REFUND_QUOTIENT)
    logs = tuple(
        Log(address, tuple(topic.to_bytes(32, "big") for topic in topics), data)
        for address, topics, data in computation.get_log_entries()
    )
    return Execution(
        error="" if computation.is_success else _reason(computation.error, bytes(computation.output)),
        is_revert=computation.is_error and not computation.should_burn_gas,
        output=bytes(computation.output),
        gas_used=peak - refund,
        gas_peak=peak,
        contract=message.storage_address if message.is_create else b"",
        logs=logs,
    )


_REASONS: Final[tuple[tuple[type[VMError], str], ...]] = (
    (OutOfGas, "out of gas"),
    (InvalidInstruction, "invalid instruction"),
    (InvalidJumpDestination, "invalid jump destination"),
    (InsufficientStack, "stack underflow"),
    (FullStack, "stack overflow"),
    (WriteProtection, "write in a static call"),
    (OutOfBoundsRead, "return data out of bounds"),
    (ContractCreationCollision, "contract address collision"),
    (ReservedBytesInCode, "code begins with 0xEF (EIP-3541)"),
)


def _reason(error: VMError, output: bytes) -> str:
    """A short sentence that is the same on every node: py-evm's own messages hold data of any size."""
    if isinstance(error, Revert):
        return revert_message(output)[:REASON_CHARACTERS_MAX]
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), type(error).__name__)


def revert_message(output: bytes) -> str:
    """What a revert says, where it says it as Solidity does: ``Error(string)`` or ``Panic(uint256)``."""
    body = output[4:]
    if output[:4] == _ERROR_SELECTOR and len(body) >= 64:
        start = int.from_bytes(body[:32], "big")
        if start + 32 <= len(body):
            length = int.from_bytes(body[start : start + 32], "big")
            text = body[start + 32 : start + 32 + length]
            if len(text) == length:
                return f"execution reverted: {text.decode('utf-8', 'replace')}"
    if output[:4] == _PANIC_SELECTOR and len(body) == 32:
        return f"execution reverted: panic code {hex(int.from_bytes(body, 'big'))}"
    return "execution reverted"


def receipt_of(execution: Execution, gas_used_before: int) -> Receipt:
    """The receipt of an execution that follows ``gas_used_before`` gas in its block."""
    return Receipt(
        error=execution.error,
        gas_used=execution.gas_used,
        cumulative_gas_used=gas_used_before + execution.gas_used,
        contract=execution.contract,
        logs=execution.logs,
    )


def ancestors(snapshot: Snapshot, head: int) -> Iterator[bytes]:
    """Block hashes from ``head`` downwards, as far as BLOCKHASH sees, read only as far as someone looks."""
    for number in range(head, max(-1, head - HISTORY_BLOCKS), -1):
        block_hash = snapshot.block_hash(number)
        assert block_hash is not None
        yield block_hash


def environment_of(header: Header, chain_id: int, snapshot: Snapshot, base_fee_per_gas: int) -> Environment:
    """The environment that the transactions of an existing block saw, except for the base fee."""
    return Environment(
        chain_id=chain_id,
        number=header.number,
        timestamp_s=header.timestamp_s,
        fee_recipient=header.fee_recipient,
        prev_randao=header.prev_randao,
        gas_limit=header.gas_limit,
        base_fee_per_gas=base_fee_per_gas,
        ancestors=ancestors(snapshot, header.number - 1),
    )
