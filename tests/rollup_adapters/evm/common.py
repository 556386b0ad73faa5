"""What the tests of the EVM adapter share: funded accounts, signed transactions, blocks, adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

from eth_account import Account
from eth_account.signers.local import LocalAccount

from rollup_adapters.base import AdapterContext, Executed, JsonValue, SequencedBlock
from rollup_adapters.evm import EvmAdapter

CHAIN_ID: Final = 7_777
ETHER: Final = 10**18
FEE: Final = 10 * 10**9
FEE_RECIPIENT: Final = "0x" + "fe" * 20


def account(index: int) -> LocalAccount:
    """The account whose private key is ``index``."""
    return cast(LocalAccount, Account.from_key(index.to_bytes(32, "big")))


ALICE, BOB, CAROL = account(1), account(2), account(3)


def settings(**changes: JsonValue) -> Mapping[str, JsonValue]:
    """Settings that give the first ten accounts 1000 ether each."""
    alloc: JsonValue = {account(index).address: {"balance": str(1_000 * ETHER)} for index in range(1, 11)}
    return {"chain_id": CHAIN_ID, "alloc": alloc, "fee_recipient": FEE_RECIPIENT, **changes}


def signed(sender: LocalAccount = ALICE, **fields: Any) -> bytes:
    """A signed transaction: dynamic fee unless ``gasPrice`` or ``type`` say otherwise; a transfer to Bob by default."""
    fields = {"chainId": CHAIN_ID, "nonce": 0, "gas": 21_000, "to": BOB.address, "value": 1, **fields}
    if "gasPrice" not in fields:
        fields = {"maxFeePerGas": FEE, "maxPriorityFeePerGas": 1, **fields}
    fields = {name: value for name, value in fields.items() if value is not None}
    return bytes(sender.sign_transaction(fields).raw_transaction)


def block(height: int, *transactions: bytes, timestamp_ms: int | None = None) -> SequencedBlock:
    """A sequenced block; two of them share each second."""
    return SequencedBlock(
        height=height,
        timestamp_ms=1_700_000_000_000 + height * 500 if timestamp_ms is None else timestamp_ms,
        block_id=height.to_bytes(32, "big"),
        transactions=transactions,
    )


def open_adapter(directory: Path, chosen: Mapping[str, JsonValue] | None = None) -> EvmAdapter:
    """An adapter on ``directory``."""
    directory.mkdir(exist_ok=True)
    context = AdapterContext(rollup_id=1, directory=directory, settings=settings() if chosen is None else chosen)
    return EvmAdapter(context)


@asynccontextmanager
async def running(directory: Path, chosen: Mapping[str, JsonValue] | None = None) -> AsyncIterator[EvmAdapter]:
    """An adapter on ``directory``, closed in the end."""
    adapter = open_adapter(directory, chosen)
    try:
        yield adapter
    finally:
        await adapter.close()


async def execute(adapter: EvmAdapter, *transactions: bytes) -> list[tuple[str, str]]:
    """Deliver one block on top; returns (status, detail) for each transaction."""
    height = await adapter.last_delivered() + 1
    executed = await adapter.deliver([block(height, *transactions)])
    return statuses(executed)[0]


def statuses(executed: Executed) -> Sequence[list[tuple[str, str]]]:
    """(status, detail) for each transaction of each block."""
    return [[(outcome.status, outcome.detail) for outcome in outcomes] for outcomes in executed.outcomes]


async def quantity(adapter: EvmAdapter, method: str, *params: JsonValue) -> int:
    """A query whose answer is a hexadecimal quantity."""
    answer = await adapter.query(method, list(params))
    assert isinstance(answer, str)
    return int(answer, 16)


async def mapping(adapter: EvmAdapter, method: str, *params: JsonValue) -> dict[str, JsonValue]:
    """A query whose answer is an object."""
    answer = await adapter.query(method, list(params))
    assert isinstance(answer, dict)
    return answer
