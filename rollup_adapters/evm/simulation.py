"""eth_call and eth_estimateGas: execution on a past state that leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from rollup_adapters.base import QueryError
from rollup_adapters.evm.chain import Header
from rollup_adapters.evm.execution_client import Budget
from rollup_adapters.evm.rpc_params import Call
from rollup_adapters.evm.rpc_shapes import hexadecimal
from rollup_adapters.evm.state import Environment, Execution, NodeDatabase, environment_of, execute, open_state
from rollup_adapters.evm.store import Snapshot
from rollup_adapters.evm.transactions import GAS_TRANSACTION, INITCODE_SIZE_BYTES_MAX, Transaction, intrinsic_gas

CALL_GAS_MAX: Final = 50_000_000
SERVER_ERROR: Final = -32000
EXECUTION_REVERTED: Final = 3


def _failure(execution: Execution) -> QueryError:
    if execution.is_revert:
        return QueryError(EXECUTION_REVERTED, execution.error, hexadecimal(execution.output))
    return QueryError(SERVER_ERROR, execution.error)


class Simulator:
    """Runs one call object on the state after one block, as often as asked."""

    def __init__(self, snapshot: Snapshot, header: Header, chain_id: int, call: Call, budget: Budget) -> None:
        self._nodes = NodeDatabase(snapshot)
        self._header, self._call, self._budget = header, call, budget
        # As in geth: a call that names no price pays none, and sees a base fee of zero.
        base_fee = header.base_fee_per_gas if call.max_fee_per_gas else 0
        self._environment: Environment = environment_of(header, chain_id, snapshot, base_fee)
        self._before, self.gas_min = intrinsic_gas(call.to, call.data, call.access_list)
        if call.max_fee_per_gas and call.max_fee_per_gas < base_fee:
            raise QueryError(
                SERVER_ERROR,
                f"max fee per gas less than block base fee: maxFeePerGas {call.max_fee_per_gas}, baseFee {base_fee}",
            )
        if not call.to and len(call.data) > INITCODE_SIZE_BYTES_MAX:
            raise QueryError(SERVER_ERROR, f"max initcode size exceeded: {len(call.data)} > {INITCODE_SIZE_BYTES_MAX}")

    def _transaction(self, gas: int, nonce: int) -> Transaction:
        call = self._call
        return Transaction(
            type_id=2,
            chain_id=self._environment.chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=call.max_priority_fee_per_gas,
            max_fee_per_gas=call.max_fee_per_gas,
            gas=gas,
            to=call.to,
            value=call.value,
            data=call.data,
            access_list=call.access_list,
            sender=call.sender,
            intrinsic_gas=self._before,
            gas_min=self.gas_min,
        )

    def balance(self) -> int:
        """The caller's balance, in wei."""
        state = open_state(self._nodes, self._environment, self._header.state_root)
        return state.get_balance(cast(Any, self._call.sender))

    def code_at_target(self) -> bytes:
        """The code that the call would run."""
        state = open_state(self._nodes, self._environment, self._header.state_root)
        return state.get_code(cast(Any, self._call.to))

    def run(self, gas: int) -> Execution:
        """Execute with this gas limit. Raises ``QueryError`` where the transaction would not be valid at all."""
        call = self._call
        if gas < self.gas_min:
            raise QueryError(SERVER_ERROR, f"intrinsic gas too low: have {gas}, want {self.gas_min}")
        state = open_state(self._nodes, self._environment, self._header.state_root, self._budget)
        sender = cast(Any, call.sender)
        balance, cost = state.get_balance(sender), gas * call.max_fee_per_gas + call.value
        if balance < cost:
            raise QueryError(
                SERVER_ERROR,
                f"insufficient funds for gas * price + value: address {hexadecimal(call.sender)} "
                f"have {balance} want {cost}",
            )
        return execute(state, self._transaction(gas, state.get_nonce(sender)))


def call_result(simulator: Simulator, gas: int | None) -> str:
    """eth_call's answer: the output. Raises ``QueryError`` on failure, code 3 with the data for a revert."""
    execution = simulator.run(CALL_GAS_MAX if gas is None else min(gas, CALL_GAS_MAX))
    if execution.error:
        raise _failure(execution)
    return hexadecimal(execution.output)


def _highest(simulator: Simulator, call: Call, gas_limit: int) -> int:
    """The most gas that the transaction could be given: by its own limit, the block's, and what the sender can pay."""
    high = gas_limit if call.gas is None or call.gas < GAS_TRANSACTION else min(call.gas, gas_limit)
    high = min(high, CALL_GAS_MAX)
    if call.max_fee_per_gas:
        available = simulator.balance() - call.value
        if available < 0:
            raise QueryError(SERVER_ERROR, "insufficient funds for transfer")
        high = min(high, available // call.max_fee_per_gas)
    return high


def estimate_gas(simulator: Simulator, call: Call, gas_limit: int) -> int:
    """The smallest gas limit with which the transaction succeeds on this state.

    Found by real execution: a limit that fails and one that succeeds are brought together until they are neighbours.
    Two probes usually suffice, since the gas used before refunds is the answer unless the code looks at the gas it has
    left (which EIP-150's 63/64 rule makes every failing inner call do). Exact wherever more gas never turns success
    into failure.
    """
    high = _highest(simulator, call, gas_limit)
    if high < simulator.gas_min:
        raise QueryError(SERVER_ERROR, f"gas required exceeds allowance ({high})")
    if call.to and not call.data and not simulator.code_at_target():
        high = simulator.gas_min
    best = simulator.run(high)
    if best.error:
        if best.is_revert or high == min(gas_limit, CALL_GAS_MAX):
            raise _failure(best)
        raise QueryError(SERVER_ERROR, f"gas required exceeds allowance ({high})")
    return _smallest(lambda gas: not simulator.run(gas).error, simulator.gas_min - 1, high, best.gas_peak)


def _smallest(succeeds: Callable[[int], bool], low: int, high: int, guess: int) -> int:
    """The boundary between ``low``, which fails, and ``high``, which succeeds; looks near ``guess`` first."""
    for probe in (guess, guess - 1, guess + guess // 63 + 2_300):
        if low < probe < high:
            if succeeds(probe):
                high = probe
            else:
                low = probe
    while high - low > 1:
        middle = (low + high) // 2
        if succeeds(middle):
            high = middle
        else:
            low = middle
    return high
