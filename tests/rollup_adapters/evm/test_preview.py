"""The look before a transaction is passed on: its object as pending, or why the next block would skip it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from rollup_adapters.base import JsonValue, QueryError
from rollup_adapters.evm import EvmAdapter
from tests.rollup_adapters.evm.common import ALICE, BOB, ETHER, FEE, account, execute, running, signed

METHOD = "sequencer_previewTransaction"


async def refused(adapter: EvmAdapter, raw: bytes) -> str:
    with pytest.raises(QueryError) as error:
        await adapter.query(METHOD, ["0x" + raw.hex()])
    assert error.value.code == -32000
    return error.value.message


async def test_what_is_previewed_is_what_is_executed(tmp_path: Path) -> None:
    async with running(tmp_path / "evm") as adapter:
        kinds: tuple[dict[str, Any], ...] = ({}, {"gasPrice": FEE}, {"gasPrice": FEE, "accessList": []})
        for nonce, fields in enumerate(kinds):
            raw = signed(nonce=nonce, **fields)
            shown: Any = await adapter.query(METHOD, ["0x" + raw.hex()])
            assert (shown["blockHash"], shown["blockNumber"], shown["transactionIndex"]) == (None, None, None)
            assert shown["gasPrice"] == hex(FEE)
            assert await execute(adapter, raw) == [("included", "")]
            done: Any = await adapter.query("eth_getTransactionByHash", ["0x" + keccak(raw).hex()])
            place = {name: done[name] for name in ("blockHash", "blockNumber", "transactionIndex", "gasPrice")}
            assert {**shown, **place} == done


async def test_what_the_next_block_would_skip_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path / "evm") as adapter:
        raw = signed()
        await execute(adapter, raw)
        assert await refused(adapter, raw) == "nonce too low: next nonce 1, tx nonce 0"
        assert "insufficient funds" in await refused(adapter, signed(BOB, value=1_000 * ETHER))
        assert "insufficient funds" in await refused(adapter, signed(account(99)))
        assert "base fee" in await refused(adapter, signed(BOB, maxFeePerGas=1, maxPriorityFeePerGas=0))
        assert "chain id" in await refused(adapter, signed(BOB, chainId=1))
        assert "intrinsic gas too low" in await refused(adapter, signed(BOB, gas=20_999))
        assert "empty" in await refused(adapter, b"")
        assert "type 3" in await refused(adapter, b"\x03\xc0")


async def test_a_nonce_ahead_passes(tmp_path: Path) -> None:
    async with running(tmp_path / "evm") as adapter:
        shown: Any = await adapter.query(METHOD, ["0x" + signed(ALICE, nonce=5).hex()])
        assert shown["nonce"] == "0x5"


@pytest.mark.parametrize("params", [[], ["0x0"], ["00"], [1], ["0x00", 2], {}])
async def test_bad_parameters_are_refused(tmp_path: Path, params: JsonValue) -> None:
    async with running(tmp_path / "evm") as adapter:
        with pytest.raises(QueryError) as error:
            await adapter.query(METHOD, params)
        assert error.value.code == -32602
