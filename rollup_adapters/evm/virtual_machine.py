"""py-evm's Cancun rules, made safe against what a transaction can do to the interpreter that runs them.

py-evm calls itself for every message, so a transaction that nests calls to Ethereum's limit of 1024 nests several
thousand Python and C calls. CPython 3.12 then raises ``RecursionError`` (nested creations do so below 130), a small
thread stack overflows, and which of the two at what depth depends on the interpreter: a rollup that stops, or nodes
that disagree. Here every ``DEPTH_PER_THREAD`` levels continue on a fresh thread, and what py-evm sums up over the tree
of messages by recursion is summed up by a loop. Results are the same; ``test_specification.py`` and
``test_execution.py`` hold that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from eth.abc import ComputationAPI, MessageAPI, OpcodeAPI, SignedTransactionAPI
from eth.constants import CREATE_CONTRACT_ADDRESS
from eth.vm.forks.cancun.computation import CancunComputation
from eth.vm.forks.cancun.opcodes import CANCUN_OPCODES
from eth.vm.forks.cancun.state import CancunState, CancunTransactionExecutor
from eth.vm.forks.homestead.state import HomesteadTransactionExecutor

from rollup_adapters.evm.execution_client import Budget, BudgetExceeded

DEPTH_PER_THREAD: Final = 32
"""At most 1024 / 32 threads exist at once for one execution, each waiting for the next."""
BUDGET_CHECK_INTERVAL: Final = 256
"""Gas charges, hence instructions, between two looks at the clock."""
READ_PRECOMPILE_GAS_MAX: Final = 500_000
"""For the pairing check (EIP-1108) and BLAKE2 (EIP-152), whose gas py-evm needs several seconds per million for."""
_PAIRING: Final = bytes(19) + b"\x08"
_BLAKE2: Final = bytes(19) + b"\x09"
_PRICES: Final[Mapping[bytes, Callable[[bytes], int]]] = MappingProxyType(
    {
        _PAIRING: lambda data: 45_000 + 34_000 * (len(data) // 192),
        _BLAKE2: lambda data: int.from_bytes(data[:4], "big"),
    }
)
_Precompile: TypeAlias = Callable[[ComputationAPI], ComputationAPI]


def _on_fresh_thread(parent: CancunComputation, message: MessageAPI) -> ComputationAPI:
    results: list[ComputationAPI] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            results.append(CancunComputation.generate_child_computation(parent, message))
        except BaseException as error:  # handed to the waiting thread, which raises it
            faults.append(error)

    thread = threading.Thread(target=work, name=f"evm depth {message.depth}")
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
    return results[0]


def _silent_opcodes() -> dict[int, OpcodeAPI]:
    """Cancun's instructions. py-evm warns at each SELFDESTRUCT, which becomes an exception wherever warnings are
    errors: one poisoned transaction would stop the rollup for good."""
    return {code: cast(Any, getattr(opcode, "__wrapped__", opcode)) for code, opcode in CANCUN_OPCODES.items()}


class Computation(CancunComputation):
    """One message and the messages below it."""

    opcodes = _silent_opcodes()

    def generate_child_computation(self, child_msg: MessageAPI) -> ComputationAPI:
        """Run a nested message, on a fresh thread at every ``DEPTH_PER_THREAD`` levels."""
        if child_msg.depth % DEPTH_PER_THREAD == 0:
            return _on_fresh_thread(self, child_msg)
        return super().generate_child_computation(child_msg)

    def successful(self) -> Iterator[Computation]:
        """This message and those below it whose effects stand: no message above them, nor they themselves, failed."""
        waiting = [self]
        while waiting:
            computation = waiting.pop()
            if not computation.is_error:
                yield computation
                waiting.extend(cast(list[Computation], computation.children))

    def get_gas_refund(self) -> int:
        """Refunds earned by messages whose effects stand (the EIP-7702 refund of a failed message does not exist
        here)."""
        return sum(computation._gas_meter.gas_refunded for computation in self.successful())

    def get_raw_log_entries(self) -> tuple[tuple[int, bytes, tuple[int, ...], bytes], ...]:
        """Logs of messages whose effects stand, in the order in which they were written."""
        return tuple(sorted(entry for computation in self.successful() for entry in computation._log_entries))

    def get_accounts_for_deletion(self) -> list[Any]:
        """Contracts that destroyed themselves for good, each once."""
        return list(dict.fromkeys(place for each in self.successful() for place in each.accounts_to_delete))

    def get_self_destruct_beneficiaries(self) -> list[Any]:
        """Who was given the balance of a contract that destroyed itself, each once."""
        return list(dict.fromkeys(place for each in self.successful() for place in each.beneficiaries))

    def touched(self) -> set[bytes]:
        """Accounts to be removed if they are empty (EIP-161).

        Those that only a failed message touched are among them, which py-evm leaves out: its effects are undone, so
        such an account is empty only if it was so before, and no state here ever holds an empty account.
        """
        found: set[bytes] = {self.state.coinbase}
        waiting = [self]
        while waiting:
            computation = waiting.pop()
            found.update(computation.beneficiaries)
            if computation.msg.to != CREATE_CONTRACT_ADDRESS:
                found.add(computation.msg.to)
            waiting.extend(cast(list[Computation], computation.children))
        return found


class Executor(CancunTransactionExecutor):
    """Cancun's transaction processing, with EIP-161's clearing done by a loop."""

    def finalize_computation(self, transaction: SignedTransactionAPI, computation: ComputationAPI) -> ComputationAPI:
        """Refund, pay the fee recipient, delete what destroyed itself, then clear touched empty accounts."""
        state = self.vm_state
        HomesteadTransactionExecutor.finalize_computation(self, transaction, computation)
        for place in sorted(cast(Computation, computation).touched()):
            account = cast(Any, place)
            if state.account_exists(account) and state.account_is_empty(account):
                state.delete_account(account)
        return computation


class State(CancunState):
    """The world state under these rules."""

    computation_class = Computation
    transaction_executor_class = Executor


def _bounded(place: bytes, precompile: _Precompile) -> _Precompile:
    """A precompile that a read may not run for long: these two are plain Python, and nothing interrupts them."""
    price = _PRICES.get(place)
    if price is None:
        return precompile

    def run(computation: ComputationAPI) -> ComputationAPI:
        gas = price(bytes(computation.msg.data))
        if READ_PRECOMPILE_GAS_MAX < gas <= computation.msg.gas:
            raise BudgetExceeded(
                f"a read may spend {READ_PRECOMPILE_GAS_MAX} gas on one call of precompile {place[-1]}"
            )
        return precompile(computation)

    return run


def _bounded_precompiles() -> dict[Any, Any]:
    return {place: _bounded(place, run) for place, run in Computation.get_precompiles().items()}


class BudgetedComputation(Computation):
    """Execution that stops when its reader's time is over, by an exception that the virtual machine does not catch."""

    _precompiles = _bounded_precompiles()
    _charges = 0

    def consume_gas(self, amount: int, reason: str) -> None:
        """Charge gas, and now and then look at the clock."""
        self._charges += 1
        if self._charges % BUDGET_CHECK_INTERVAL == 1:
            cast(BudgetedState, self.state).budget.check()
        super().consume_gas(amount, reason)


class BudgetedState(State):
    """A state for reads. ``budget`` is set before anything runs."""

    computation_class = BudgetedComputation
    budget: Budget
