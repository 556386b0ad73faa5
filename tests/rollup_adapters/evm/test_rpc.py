"""Ethereum JSON-RPC: exact estimates, historic state, filters, shapes, errors and bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from eth_abi.abi import encode as abi_encode
from eth_utils.address import to_checksum_address

from rollup_adapters.base import JsonValue, QueryError
from rollup_adapters.evm import EvmAdapter, rpc
from rollup_adapters.evm.contracts import token
from tests.rollup_adapters.evm.common import (
    ALICE,
    BOB,
    CAROL,
    CHAIN_ID,
    ETHER,
    FEE,
    block,
    execute,
    mapping,
    quantity,
    running,
    settings,
    signed,
)

TRANSFER_TOPIC = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


def address(word: str) -> str:
    return to_checksum_address("0x" + word.rjust(40, "0"))


# Contracts in the genesis state; each body is assembly that its comment spells.
CONTRACTS = {
    address("c001"): "5f5ffd",  # revert with nothing
    address("c002"): "5f545f5560205ff3",  # sstore(0, sload(0)); return 32 zero bytes
    address("c003"): "6001355f5500",  # sstore(0, calldataload(1))
    # Sets slot 0 to zero: a refund, so that the gas used is less than the gas needed.
    address("c004"): "5f5f5500",
    # Calls c006 with all gas and reverts unless it succeeded: EIP-150 keeps back a 64th.
    address("c005"): "5f5f5f5f5f61c0065af16010575f5ffd5b00",
    address("c006"): "60015f5560025f5560015f5500",
    # Stops if more than 1,000,000 gas is left; else reverts.
    address("c007"): "620f42405a11600c575f5ffd5b00",
    address("c008"): "5b5f56",  # jump to 0 for ever
    address("c009"): "fe",
    address("c00b"): "4860005260206000f3",  # return the base fee
    address("c00c"): "4360005260206000f3",  # return the block number
    # Return the hash of the parent block: BLOCKHASH(NUMBER - 1).
    address("c00d"): "60014303405f5260205ff3",
}


def genesis() -> dict[str, JsonValue]:
    alloc: dict[str, JsonValue] = {who.address: str(1_000 * ETHER) for who in (ALICE, BOB, CAROL)}
    for place, code in CONTRACTS.items():
        alloc[place] = {"code": "0x" + code, "storage": {"0": 5} if place.endswith("04") else {}}
    return dict(settings(alloc=alloc))


async def refused(adapter: EvmAdapter, method: str, *params: JsonValue) -> QueryError:
    with pytest.raises(QueryError) as caught:
        await adapter.query(method, list(params))
    return caught.value


ESTIMATES: list[tuple[str, dict[str, JsonValue], int | None]] = [
    ("transfer", {"to": CAROL.address, "value": "0x1"}, 21_000),
    ("transfer of nothing to a new account", {"to": address("beef")}, 21_000),
    ("data to an account without code", {"to": CAROL.address, "data": "0x0001"}, 21_020),
    ("a write", {"to": address("c003"), "data": "0x" + "01" * 33}, None),
    ("a refund", {"to": address("c004")}, None),
    ("an inner call that keeps a 64th back", {"to": address("c005")}, None),
    ("code that looks at its gas", {"to": address("c007")}, None),
    ("a creation", {"data": "0x602a5f55600160005360015ff3"}, None),
    ("the token's creation", {"data": "0x" + (token().bytecode + bytes(31) + b"\1").hex()}, None),
    ("with a fee", {"to": address("c005"), "maxFeePerGas": hex(FEE)}, None),
    (
        "with an access list",
        {"to": address("c004"), "accessList": [{"address": address("c004"), "storageKeys": []}]},
        None,
    ),
    ("to a precompile", {"to": address("0002"), "data": "0x" + "01" * 40}, None),
]


@pytest.mark.parametrize(("name", "call", "expected"), ESTIMATES, ids=[name for name, _, _ in ESTIMATES])
async def test_an_estimate_is_the_least_that_succeeds(
    tmp_path: Path, name: str, call: dict[str, JsonValue], expected: int | None
) -> None:
    """Proved by real blocks: with the estimate the transaction succeeds, with one gas less it fails or is skipped."""
    async with running(tmp_path, genesis()) as adapter:
        estimate = await quantity(adapter, "eth_estimateGas", {"from": ALICE.address, **call})
        assert expected is None or estimate == expected
        fields: dict[str, Any] = {
            "to": call.get("to"),
            "data": call.get("data", "0x"),
            "value": int(str(call.get("value", "0x0")), 16),
        }
        if "accessList" in call:
            fields["accessList"] = call["accessList"]
        ((status, detail), (status_ok, detail_ok)) = [
            (await execute(adapter, signed(nonce=0, gas=estimate - 1, **fields)))[0],
            (await execute(adapter, signed(BOB, nonce=0, gas=estimate, **fields)))[0],
        ]
        assert status == "skipped" or detail.startswith("failed")
        assert (status_ok, detail_ok) == ("included", "")


async def test_an_estimate_that_cannot_succeed_says_why(tmp_path: Path) -> None:
    async with running(tmp_path, genesis()) as adapter:
        revert = await refused(adapter, "eth_estimateGas", {"to": address("c001")})
        assert (revert.code, revert.message, revert.data) == (3, "execution reverted", "0x")
        invalid = await refused(adapter, "eth_estimateGas", {"to": address("c009")})
        assert invalid.code == -32000
        little = await refused(adapter, "eth_estimateGas", {"to": address("c005"), "gas": hex(30_000)})
        assert "exceeds allowance (30000)" in little.message or little.code == 3
        poor: JsonValue = {"from": address("dead"), "to": BOB.address, "value": "0x1"}
        assert "insufficient funds" in (await refused(adapter, "eth_estimateGas", poor)).message
        poor = {"from": ALICE.address, "to": address("c005"), "maxFeePerGas": hex(10**17)}
        assert (await refused(adapter, "eth_estimateGas", poor)).message == "gas required exceeds allowance (10000)"


async def test_calls_see_the_block_they_ask_for(tmp_path: Path) -> None:
    async with running(tmp_path, genesis()) as adapter:
        word = "0x00" + (77).to_bytes(32, "big").hex()
        await execute(adapter, signed(to=address("c003"), data=word, gas=100_000))
        await execute(adapter, signed(BOB, to=CAROL.address))

        async def slot(reference: JsonValue) -> int:
            return await quantity(adapter, "eth_getStorageAt", address("c003"), "0x0", reference)

        head = await mapping(adapter, "eth_getBlockByNumber", "0x1", False)
        assert [await slot(reference) for reference in ("earliest", "0x0", "0x1", "latest", "pending")] == [
            0,
            0,
            77,
            77,
            77,
        ]
        assert (
            await slot({"blockNumber": "0x1"})
            == await slot({"blockHash": head["hash"], "requireCanonical": True})
            == 77
        )
        assert await slot("safe") == 0
        assert await quantity(adapter, "eth_call", {"to": address("c00c")}, "0x1") == 1
        assert await adapter.query("eth_call", [{"to": address("c00d")}, "0x2"]) == head["hash"]
        # Without a price the base fee is nothing, with one it is the block's.
        assert await quantity(adapter, "eth_call", {"to": address("c00b")}, "latest") == 0
        priced: JsonValue = {"from": ALICE.address, "to": address("c00b"), "gasPrice": hex(FEE)}
        latest = await mapping(adapter, "eth_getBlockByNumber", "latest", False)
        assert await quantity(adapter, "eth_call", priced, "latest") == int(str(latest["baseFeePerGas"]), 16)
        assert (await refused(adapter, "eth_getBalance", BOB.address, "0x3")).message == "header not found"
        assert await adapter.query("eth_getBlockByNumber", ["0x3", False]) is None
        assert await adapter.query("eth_getBlockByHash", ["0x" + "11" * 32, False]) is None
        assert await adapter.query("eth_getTransactionReceipt", ["0x" + "11" * 32]) is None
        assert await adapter.query("eth_getTransactionByHash", ["0x" + "11" * 32]) is None


async def test_a_call_leaves_no_trace(tmp_path: Path) -> None:
    async with running(tmp_path, genesis()) as adapter:
        before = await adapter.query("eth_getBlockByNumber", ["latest", True])
        await adapter.query("eth_call", [{"to": address("c003"), "data": "0x" + "01" * 33}, "latest"])
        await adapter.query("eth_estimateGas", [{"to": address("c003"), "data": "0x" + "01" * 33}])
        assert await quantity(adapter, "eth_getStorageAt", address("c003"), "0x0", "latest") == 0
        assert await adapter.query("eth_getBlockByNumber", ["latest", True]) == before


async def test_reverts_carry_code_3_and_their_data(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        await execute(adapter, signed(to=None, data=token().bytecode + bytes(32), gas=2_000_000, value=0))
        head = await mapping(adapter, "eth_getBlockByNumber", "latest", False)
        assert isinstance(head["transactions"], list)
        receipt = await mapping(adapter, "eth_getTransactionReceipt", head["transactions"][0])
        data = "0xa9059cbb" + abi_encode(["address", "uint256"], [address("00"), 1]).hex()
        error = await refused(adapter, "eth_call", {"to": receipt["contractAddress"], "data": data}, "latest")
        assert error.code == 3
        assert error.message == "execution reverted: transfer to the zero address"
        assert str(error.data).startswith("0x08c379a0")
        data = "0xa9059cbb" + abi_encode(["address", "uint256"], [BOB.address, 1]).hex()
        error = await refused(adapter, "eth_call", {"to": receipt["contractAddress"], "data": data}, "latest")
        assert (error.code, error.message) == (3, "execution reverted")
        assert len(str(error.data)) == 2 + 2 * (4 + 96)


async def logs_of(adapter: EvmAdapter, **filter_: JsonValue) -> list[tuple[int, int]]:
    """(block number, log index) of the logs that a filter finds."""
    found = await adapter.query("eth_getLogs", [filter_])
    assert isinstance(found, list)
    return [(int(str(log["blockNumber"]), 16), int(str(log["logIndex"]), 16)) for log in found if isinstance(log, dict)]


async def _two_tokens(adapter: EvmAdapter) -> tuple[str, str]:
    """Block 1: a token each by Alice and Bob; 2: transfers of the first, the second, the first; 3: an approval."""
    supply = (10**6).to_bytes(32, "big")
    deploy: dict[str, Any] = {"to": None, "data": token().bytecode + supply, "gas": 2_000_000, "value": 0}
    await adapter.deliver([block(1, signed(**deploy), signed(BOB, **deploy))])
    head = await mapping(adapter, "eth_getBlockByNumber", "0x1", False)
    assert isinstance(head["transactions"], list)
    places = [
        str((await mapping(adapter, "eth_getTransactionReceipt", t))["contractAddress"]) for t in head["transactions"]
    ]

    def call(who: Any, nonce: int, place: str, selector: str, value: int) -> bytes:
        data = bytes.fromhex(selector) + abi_encode(["address", "uint256"], [CAROL.address, value])
        return signed(who, nonce=nonce, to=to_checksum_address(place), data=data, gas=200_000, value=0)

    await adapter.deliver(
        [
            block(
                2,
                call(ALICE, 1, places[0], "a9059cbb", 5),
                call(BOB, 1, places[1], "a9059cbb", 6),
                call(ALICE, 2, places[0], "a9059cbb", 7),
            ),
            block(3, call(ALICE, 3, places[0], "095ea7b3", 8)),
        ]
    )
    return places[0], places[1]


async def test_logs_are_found_by_range_address_and_topic(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        first, second = await _two_tokens(adapter)
        everything = [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0)]
        assert await logs_of(adapter, fromBlock="earliest") == everything
        assert await logs_of(adapter, fromBlock="0x0", toBlock="0xffff") == everything
        assert await logs_of(adapter) == [(3, 0)]
        assert await logs_of(adapter, fromBlock="0x2", toBlock="0x2") == [(2, 0), (2, 1), (2, 2)]
        assert await logs_of(adapter, fromBlock="0x0", address=first) == [(1, 0), (2, 0), (2, 2), (3, 0)]
        assert await logs_of(adapter, fromBlock="0x0", address=[first, second]) == everything
        assert await logs_of(adapter, fromBlock="0x0", address=address("c0")) == []
        assert await logs_of(adapter, fromBlock="0x0", topics=[TRANSFER_TOPIC]) == everything[:-1]
        alice = "0x" + "00" * 12 + ALICE.address[2:].lower()
        carol = "0x" + "00" * 12 + CAROL.address[2:].lower()
        assert await logs_of(adapter, fromBlock="0x0", topics=[TRANSFER_TOPIC, alice]) == [(2, 0), (2, 2)]
        assert await logs_of(adapter, fromBlock="0x0", topics=[None, alice]) == [(2, 0), (2, 2), (3, 0)]
        assert await logs_of(adapter, fromBlock="0x0", topics=[None, None, [alice, carol]]) == [(1, 0), *everything[2:]]
        assert await logs_of(adapter, fromBlock="0x0", topics=[None, None, None, None]) == []
        head = await mapping(adapter, "eth_getBlockByNumber", "0x2", False)
        assert await logs_of(adapter, blockHash=head["hash"], address=second) == [(2, 1)]
        assert (await refused(adapter, "eth_getLogs", {"blockHash": "0x" + "22" * 32})).message == "unknown block"
        assert (await refused(adapter, "eth_getLogs", {"fromBlock": "0x2", "toBlock": "0x1"})).code == -32602


async def test_too_many_logs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as adapter:
        await _two_tokens(adapter)
        monkeypatch.setattr(rpc, "LOGS_MAX", 6)
        assert len(await logs_of(adapter, fromBlock="0x0")) == 6
        monkeypatch.setattr(rpc, "LOGS_MAX", 5)
        error = await refused(adapter, "eth_getLogs", {"fromBlock": "0x0"})
        assert error.code == -32005


async def test_receipts_and_blocks_have_every_field(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        first, _ = await _two_tokens(adapter)
        head = await mapping(adapter, "eth_getBlockByNumber", "0x2", True)
        assert isinstance(head["transactions"], list)
        transaction = head["transactions"][2]
        assert isinstance(transaction, dict)
        receipt = await mapping(adapter, "eth_getTransactionReceipt", transaction["hash"])
        place = {
            "blockHash": head["hash"],
            "blockNumber": "0x2",
            "transactionHash": transaction["hash"],
            "transactionIndex": "0x2",
        }
        assert {name: receipt[name] for name in place} == place
        assert (receipt["from"], receipt["to"], receipt["contractAddress"]) == (ALICE.address.lower(), first, None)
        assert (receipt["status"], receipt["type"]) == ("0x1", "0x2")
        assert receipt["cumulativeGasUsed"] == head["gasUsed"]
        assert receipt["effectiveGasPrice"] == transaction["gasPrice"]
        assert int(str(transaction["gasPrice"]), 16) == int(str(head["baseFeePerGas"]), 16) + 1
        (log,) = receipt["logs"] if isinstance(receipt["logs"], list) else []
        assert isinstance(log, dict)
        assert {name: log[name] for name in place} == place
        assert (log["logIndex"], log["removed"], log["address"]) == ("0x2", False, first)
        assert log["topics"][0] == TRANSFER_TOPIC if isinstance(log["topics"], list) else False
        assert {"size", "logsBloom", "mixHash", "withdrawals", "sha3Uncles", "parentBeaconBlockRoot"} <= set(head)
        assert transaction["chainId"] == hex(CHAIN_ID)


BAD_PARAMETERS: list[tuple[str, JsonValue]] = [
    ("eth_getBalance", []),
    ("eth_getBalance", ["0x12", "latest"]),
    ("eth_getBalance", [ALICE.address, "newest"]),
    ("eth_getBalance", [ALICE.address, "0x01"]),
    ("eth_getBalance", [ALICE.address, {"blockHash": "0x12"}]),
    ("eth_getBalance", [ALICE.address, "latest", 1]),
    ("eth_getBalance", {"address": ALICE.address}),
    ("eth_getStorageAt", [ALICE.address, "0x" + "0" * 65, "latest"]),
    ("eth_call", ["0x"]),
    ("eth_call", [{"to": ALICE.address, "data": "0x1", "input": "0x1"}]),
    ("eth_call", [{"to": ALICE.address, "data": "0x01", "input": "0x02"}]),
    ("eth_call", [{"gasPrice": "0x1", "maxFeePerGas": "0x1"}]),
    ("eth_call", [{"to": ALICE.address, "value": "1"}]),
    ("eth_call", [{"to": ALICE.address, "chainId": "0x1"}]),
    ("eth_call", [{"to": ALICE.address}, "latest", {ALICE.address: {}}]),
    ("eth_getBlockByNumber", ["latest"]),
    ("eth_getBlockByNumber", ["latest", 1]),
    ("eth_getTransactionByHash", ["0x"]),
    ("eth_getLogs", [{"topics": [None] * 5}]),
    ("eth_getLogs", [{"address": [ALICE.address] * 1001}]),
    ("eth_feeHistory", ["0x1", "latest", [50, 20]]),
    ("eth_feeHistory", ["0x1", "latest", [101]]),
    ("eth_feeHistory", [True, "latest"]),
    ("eth_chainId", [1]),
]


@pytest.mark.parametrize(("method", "params"), BAD_PARAMETERS)
async def test_bad_parameters_are_refused(tmp_path: Path, method: str, params: JsonValue) -> None:
    async with running(tmp_path) as adapter:
        with pytest.raises(QueryError) as caught:
            await adapter.query(method, params)
        assert caught.value.code == -32602
        assert caught.value.message


async def test_submission_and_unknown_methods_are_not_here(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        for method in ("eth_sendRawTransaction", "eth_sendTransaction", "debug_traceTransaction", ""):
            assert (await refused(adapter, method)).code == -32601


async def test_an_endless_call_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, genesis()) as adapter:
        monkeypatch.setattr("rollup_adapters.evm.QUERY_SECONDS_MAX", 0.05)
        error = await refused(adapter, "eth_call", {"to": address("c008")})
        assert error.code == -32005
        assert "longer than 0.05 s" in error.message


@pytest.mark.parametrize(("place", "size_bytes", "rounds"), [("9", 213, 600_000), ("8", 192 * 20, 0)])
async def test_a_read_may_not_spend_long_in_one_precompile(
    tmp_path: Path, place: str, size_bytes: int, rounds: int
) -> None:
    data = rounds.to_bytes(4, "big") + bytes(size_bytes - 4)
    call: dict[str, JsonValue] = {"to": address(place), "data": "0x" + data.hex()}
    async with running(tmp_path) as adapter:
        assert (await refused(adapter, "eth_call", call)).code == -32005
        # With too little gas to pay for it, it ends as it would in a block.
        assert (await refused(adapter, "eth_call", {**call, "gas": hex(300_000)})).message == "out of gas"


async def test_a_query_can_be_cancelled_and_others_go_on(tmp_path: Path) -> None:
    async with running(tmp_path, genesis()) as adapter:
        endless: JsonValue = [{"to": address("c008")}]
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(adapter.query, "eth_call", endless)
            await adapter.deliver([block(1, signed())])
            assert await quantity(adapter, "eth_blockNumber") == 1
            nursery.cancel_scope.cancel()
        assert await quantity(adapter, "eth_blockNumber") == 1
