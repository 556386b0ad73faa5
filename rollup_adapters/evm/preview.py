"""What a transaction would be if it were ordered now: the look that a node takes before it passes one on.

Nothing here binds: the transaction is judged by the latest state, and executes, or is skipped, on a later one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from eth.vm.forks.cancun.state import CancunState

from rollup_adapters.base import JsonValue, QueryError
from rollup_adapters.evm.chain import Header, next_base_fee
from rollup_adapters.evm.rpc_shapes import transaction_json
from rollup_adapters.evm.settings import EvmSettings
from rollup_adapters.evm.simulation import SERVER_ERROR
from rollup_adapters.evm.state import refusal
from rollup_adapters.evm.store import StoredTransaction
from rollup_adapters.evm.transactions import Malformed, decode


def preview(raw: bytes, settings: EvmSettings, head: Header, state: CancunState) -> JsonValue:
    """The transaction object of ``raw`` as pending, as execution clients show it (no block, ``gasPrice`` is the most it
    pays). ``state`` is that of ``head``.

    Raises ``QueryError`` -32000 for one that is malformed, or that the next block would skip. A nonce that is too high
    passes: the transactions before it may be on their way."""
    transaction = decode(raw, settings.chain_id, settings.gas_limit)
    if isinstance(transaction, Malformed):
        raise QueryError(SERVER_ERROR, transaction.reason)
    nonce = state.get_nonce(cast(Any, transaction.sender))
    if transaction.nonce < nonce:
        raise QueryError(SERVER_ERROR, f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
    reason = refusal(state, replace(transaction, nonce=nonce), next_base_fee(head))
    if reason is not None:
        raise QueryError(SERVER_ERROR, reason)
    stored = StoredTransaction((0, 0, transaction.sender, raw, "", 0, 0, b"", 0, 0))
    shape = transaction_json(stored, head)
    assert isinstance(shape, dict)
    nowhere: JsonValue = None
    place = dict.fromkeys(("blockHash", "blockNumber", "transactionIndex"), nowhere)
    return {**shape, **place, "gasPrice": hex(transaction.max_fee_per_gas)}
