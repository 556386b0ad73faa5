"""What the adapter does with delivered transactions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rollup_adapters.base import Accepted, JsonValue, Outcome, Rejected
from tests.rollup_adapters.evm.common import (
    ALICE,
    BOB,
    CAROL,
    CHAIN_ID,
    ETHER,
    FEE,
    FEE_RECIPIENT,
    account,
    block,
    execute,
    mapping,
    open_adapter,
    quantity,
    running,
    settings,
    signed,
    statuses,
)

INCLUDED = ("included", "")
# PUSH1 42, PUSH1 0, SSTORE, then return one STOP byte as the code.
STORES_42 = bytes.fromhex("602a5f55600160005360015ff3")
REVERTS = bytes.fromhex("5f5ffd")


async def test_every_kind_of_transaction_executes(tmp_path: Path) -> None:
    access_list = [{"address": BOB.address, "storageKeys": ["0x" + "00" * 32]}]
    async with running(tmp_path) as adapter:
        outcomes = await execute(
            adapter,
            signed(nonce=0, value=10),
            signed(nonce=1, value=20, gasPrice=FEE),
            signed(nonce=2, value=30, gasPrice=FEE, chainId=None),
            signed(nonce=3, value=40, gasPrice=FEE, type=1, accessList=access_list, gas=30_000),
            signed(nonce=4, value=50, accessList=access_list, gas=30_000),
            signed(nonce=5, value=60, to=None, data=STORES_42, gas=200_000),
        )
        assert outcomes == [INCLUDED] * 6
        assert await quantity(adapter, "eth_getBalance", BOB.address, "latest") == 1_000 * ETHER + 150
        assert await quantity(adapter, "eth_getTransactionCount", ALICE.address, "latest") == 6
        head = await mapping(adapter, "eth_getBlockByNumber", "latest", True)
        assert isinstance(head["transactions"], list)
        types = [shape["type"] for shape in head["transactions"] if isinstance(shape, dict)]
        assert types == ["0x2", "0x0", "0x0", "0x1", "0x2", "0x2"]
        creation = head["transactions"][5]
        assert isinstance(creation, dict)
        receipt = await mapping(adapter, "eth_getTransactionReceipt", creation["hash"])
        assert receipt["status"] == "0x1"
        slot = await adapter.query("eth_getStorageAt", [receipt["contractAddress"], "0x0", "latest"])
        assert slot == "0x" + (42).to_bytes(32, "big").hex()


async def test_fees_are_burned_and_tipped(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        before = await quantity(adapter, "eth_getBalance", ALICE.address, "latest")
        await execute(adapter, signed(value=5, maxPriorityFeePerGas=7))
        head = await mapping(adapter, "eth_getBlockByNumber", "latest", False)
        base_fee = int(str(head["baseFeePerGas"]), 16)
        # One empty parent: a billion less an eighth (EIP-1559).
        assert base_fee == 875_000_000
        spent = before - await quantity(adapter, "eth_getBalance", ALICE.address, "latest")
        assert spent == 5 + 21_000 * (base_fee + 7)
        assert await quantity(adapter, "eth_getBalance", FEE_RECIPIENT, "latest") == 21_000 * 7


def _corrupted(raw: bytes) -> bytes:
    """The same fields under a signature whose s is in the upper half of the curve order."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    s = int.from_bytes(raw[-32:], "big")
    flipped = raw[:-66] + bytes([raw[-66] ^ 0x81 if raw[-66] in (0x80, 0x01) else raw[-66]]) + raw[-65:-32]
    return flipped + (order - s).to_bytes(32, "big")


MALFORMED = [
    (b"", "empty"),
    (b"\x00", "unknown transaction type 0"),
    (b"\x7f" + b"\xc0", "unknown transaction type 127"),
    (b"\x02", "RLP is empty"),
    (b"\x02\x80", "string where a list"),
    (b"\xc0", "legacy transaction has 0 fields"),
    (bytes(200_000), "200000 bytes, at most 131072"),
    (b"\xf9\xff\xff" + b"\xf9\xf0\x00" * 20_000, "longer than its container"),
    (signed()[:-1], "longer than its container"),
    (signed() + b"\0", "bytes remain"),
    (_corrupted(signed()), "half the curve order"),
    (signed(chainId=1), "signed for chain id 1, this rollup has 7777"),
    (signed(chainId=1, gasPrice=FEE), "signed for chain id 1, this rollup has 7777"),
    (signed(gas=20_999), "intrinsic gas too low: has 20999, needs 21000"),
    (signed(gas=53_000, to=None, data=b"\1"), "intrinsic gas too low: has 53000, needs 53018"),
    (signed(gas=30_000_001), "above the block gas limit"),
    (signed(maxPriorityFeePerGas=FEE + 1), "higher than max fee"),
    (signed(to=None, data=bytes(49_153), gas=10_000_000), "EIP-3860"),
]


@pytest.mark.parametrize(("raw", "reason"), MALFORMED, ids=[reason for _, reason in MALFORMED])
async def test_malformed_transactions_are_rejected_and_skipped(tmp_path: Path, raw: bytes, reason: str) -> None:
    async with running(tmp_path) as adapter:
        (answer,) = await adapter.check([raw])
        assert isinstance(answer, Rejected)
        assert reason in answer.reason
        (bad, good) = await execute(adapter, raw, signed())
        assert bad == ("skipped", answer.reason)
        assert good == INCLUDED


async def test_blob_and_set_code_transactions_are_refused_by_name(tmp_path: Path) -> None:
    signature = ALICE.sign_authorization({"chainId": CHAIN_ID, "address": BOB.address, "nonce": 1})
    set_code = signed(authorizationList=[signature], gas=100_000)
    blob = b"\x03" + signed()[1:]
    async with running(tmp_path) as adapter:
        answers = await adapter.check([set_code, blob, signed()])
        assert isinstance(answers[0], Rejected)
        assert "EIP-7702" in answers[0].reason
        assert isinstance(answers[1], Rejected)
        assert "EIP-4844" in answers[1].reason
        assert answers[2] == Accepted()


UNAFFORDABLE = [
    (signed(nonce=1), "nonce too high: the transaction has 1, the account 0"),
    (signed(account(99)), "insufficient funds"),
    (signed(value=1_000 * ETHER), "insufficient funds"),
    (signed(maxFeePerGas=874_999_999, maxPriorityFeePerGas=0), "below the block's base fee 875000000"),
    (signed(gasPrice=874_999_999), "below the block's base fee 875000000"),
]


@pytest.mark.parametrize(("raw", "reason"), UNAFFORDABLE, ids=[reason for _, reason in UNAFFORDABLE])
async def test_what_the_state_refuses_is_skipped(tmp_path: Path, raw: bytes, reason: str) -> None:
    async with running(tmp_path) as adapter:
        assert await adapter.check([raw]) == [Accepted()]
        ((status, detail), good) = await execute(adapter, raw, signed())
        assert status == "skipped"
        assert reason in detail
        assert good == INCLUDED


async def test_a_replayed_transaction_is_skipped(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        first, second = await execute(adapter, signed(), signed())
        assert first == INCLUDED
        assert second == ("skipped", "nonce too low: the transaction has 0, the account 1")


async def test_a_contract_cannot_send(tmp_path: Path) -> None:
    alloc: JsonValue = {ALICE.address: {"balance": "0xde0b6b3a7640000", "code": "0x00", "nonce": 0}}
    async with running(tmp_path, settings(alloc=alloc)) as adapter:
        assert await execute(adapter, signed()) == [("skipped", "the sender is a contract (EIP-3607)")]


async def test_a_reverting_transaction_is_included_and_pays(tmp_path: Path) -> None:
    alloc: JsonValue = {ALICE.address: str(ETHER), CAROL.address: {"code": "0x" + REVERTS.hex()}}
    async with running(tmp_path, settings(alloc=alloc)) as adapter:
        raw = signed(to=CAROL.address, gas=50_000)
        assert await execute(adapter, raw) == [("included", "failed: execution reverted")]
        head = await mapping(adapter, "eth_getBlockByNumber", "latest", False)
        assert head["gasUsed"] == hex(21_004)
        assert await quantity(adapter, "eth_getBalance", CAROL.address, "latest") == 0


async def test_a_reason_is_short_whatever_the_contract_says(tmp_path: Path) -> None:
    # Error(string) with 60,000 spaces: as long as the sender can pay for.
    text = bytes.fromhex("08c379a0") + (32).to_bytes(32, "big") + (60_000).to_bytes(32, "big") + b" " * 60_000
    code = "365f5f37365ffd"  # copy the call's data to memory, revert with it
    alloc: JsonValue = {ALICE.address: str(ETHER), CAROL.address: {"code": "0x" + code}}
    async with running(tmp_path, settings(alloc=alloc)) as adapter:
        ((status, detail),) = await execute(adapter, signed(to=CAROL.address, data=text, gas=2_000_000))
        assert status == "included"
        assert detail.startswith("failed: execution reverted:   ")
        assert len(detail) < 400


async def test_self_destruction_warns_nobody(tmp_path: Path) -> None:
    """py-evm warns at each; warnings are errors in this suite, as they may be on a node."""
    alloc: JsonValue = {ALICE.address: str(ETHER), CAROL.address: {"code": "0x33ff", "balance": 9}}
    async with running(tmp_path, settings(alloc=alloc)) as adapter:
        assert await execute(adapter, signed(to=CAROL.address, gas=100_000)) == [INCLUDED]
        assert await quantity(adapter, "eth_getBalance", CAROL.address, "latest") == 0


async def test_transient_storage_ends_with_its_transaction(tmp_path: Path) -> None:
    code = "5f5c5f5560075f5d00"  # sstore(0, tload(0)); tstore(0, 7)
    alloc: JsonValue = {ALICE.address: str(ETHER), CAROL.address: {"code": "0x" + code}}
    async with running(tmp_path, settings(alloc=alloc)) as adapter:
        calls = [signed(to=CAROL.address, gas=100_000, nonce=nonce) for nonce in range(2)]
        assert await execute(adapter, *calls) == [INCLUDED] * 2
        assert await quantity(adapter, "eth_getStorageAt", CAROL.address, "0x0", "latest") == 0


async def test_only_heights_with_transactions_make_blocks(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        executed = await adapter.deliver([block(3), block(7, signed()), block(8), block(9, b"junk")])
        assert executed.height == 9
        assert [len(outcomes) for outcomes in executed.outcomes] == [0, 1, 0, 1]
        assert await quantity(adapter, "eth_blockNumber") == 2
        head = await mapping(adapter, "eth_getBlockByNumber", "0x2", False)
        assert head["transactions"] == []
        assert head["parentBeaconBlockRoot"] == "0x" + (9).to_bytes(32, "big").hex()


async def test_timestamps_never_decrease_and_may_repeat(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        times = [1_700_000_000_900, 1_700_000_000_999, 1_700_000_002_000, 1_600_000_000_000]
        for index, timestamp_ms in enumerate(times):
            await adapter.deliver([block(index + 1, signed(nonce=index), timestamp_ms=timestamp_ms)])
        found = []
        for number in range(1, 5):
            found.append(
                int(str((await mapping(adapter, "eth_getBlockByNumber", hex(number), False))["timestamp"]), 16)
            )
        assert found == [1_700_000_000, 1_700_000_000, 1_700_000_002, 1_700_000_002]


async def test_batching_does_not_change_any_hash(tmp_path: Path) -> None:
    blocks = [block(1, signed()), block(2), block(3, signed(nonce=1), b"x"), block(6, signed(BOB)), block(7)]
    async with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
        whole = await one.deliver(blocks)
        parts = [await two.deliver([single]) for single in blocks]
        assert parts[-1].state_commitment == whole.state_commitment
        assert [part.outcomes[0] for part in parts] == list(whole.outcomes)
        heads = [await mapping(adapter, "eth_getBlockByNumber", "latest", True) for adapter in (one, two)]
        assert heads[0] == heads[1]


async def test_state_cursor_and_outcomes_survive_without_close(tmp_path: Path) -> None:
    blocks = [block(1, signed(), b"junk"), block(2), block(5, signed(nonce=1))]
    killed = open_adapter(tmp_path)
    first = await killed.deliver(blocks)
    async with running(tmp_path) as adapter:
        assert await adapter.last_delivered() == 5
        again = await adapter.deliver(blocks)
        assert again == first
        assert statuses(again)[0][1] == ("skipped", "unknown transaction type 106")
        more = await adapter.deliver([*blocks[1:], block(6, signed(nonce=2))])
        assert more.height == 6
        assert more.outcomes[-1] == (Outcome(status="included"),)
    await killed.close()


async def test_a_failed_delivery_leaves_nothing_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter, running(tmp_path / "clean") as clean:
        await adapter.deliver([block(1, signed())])
        broken = block(3, signed(nonce=2))
        broken = type(broken)(
            height=3, timestamp_ms=broken.timestamp_ms, block_id=b"short", transactions=broken.transactions
        )
        with pytest.raises(ValueError, match="block id of height 3 has 5 bytes"):
            await adapter.deliver([block(2, signed(nonce=1)), broken])
        assert await adapter.last_delivered() == 1
        assert await quantity(adapter, "eth_blockNumber") == 1
        await adapter.deliver([block(2, signed(nonce=1))])
        await clean.deliver([block(1, signed()), block(2, signed(nonce=1))])
        heads = [await mapping(each, "eth_getBlockByNumber", "latest", True) for each in (adapter, clean)]
        assert heads[0] == heads[1]


DEEP = {"call": "5f5f5f5f5f305af100", "delegatecall": "5f5f5f5f305af400", "create": "385f5f39385f5ff000"}


@pytest.mark.parametrize("kind", DEEP)
async def test_nesting_ends_at_ethereums_limit_not_at_the_interpreters(tmp_path: Path, kind: str) -> None:
    """Each contract nests itself with all gas it has: 1024 messages deep, on a tenth of the stack py-evm asks for."""
    alloc: JsonValue = {ALICE.address: str(10**6 * ETHER), CAROL.address: {"code": "0x" + DEEP[kind]}}
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_200)
    try:
        async with running(tmp_path, settings(alloc=alloc, gas_limit=10_000_000_000)) as adapter:
            assert await execute(adapter, signed(to=CAROL.address, gas=9_000_000_000)) == [INCLUDED]
            assert await adapter.query("eth_call", [{"to": CAROL.address}, "latest"]) == "0x"
    finally:
        sys.setrecursionlimit(limit)


async def test_settings_of_another_chain_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    with pytest.raises(ValueError, match="holds a chain with other settings"):
        open_adapter(tmp_path, settings(chain_id=CHAIN_ID + 1))


async def test_settle_moves_the_tags_forward_only(tmp_path: Path) -> None:
    async with running(tmp_path) as adapter:
        await adapter.deliver([block(2, signed()), block(5, signed(nonce=1)), block(9, signed(nonce=2))])

        async def tags() -> tuple[int, int]:
            numbers = [
                (await mapping(adapter, "eth_getBlockByNumber", tag, False))["number"] for tag in ("safe", "finalized")
            ]
            return int(str(numbers[0]), 16), int(str(numbers[1]), 16)

        assert await tags() == (0, 0)
        await adapter.settle("soft", 8)
        await adapter.settle("firm", 4)
        assert await tags() == (2, 1)
        await adapter.settle("soft", 3)
        assert await tags() == (2, 1)
        with pytest.raises(ValueError, match="above the soft height 8"):
            await adapter.settle("firm", 9)
        with pytest.raises(ValueError, match="above the cursor 9"):
            await adapter.settle("soft", 10)
    async with running(tmp_path) as adapter:
        await adapter.settle("soft", 9)
        assert await tags() == (3, 1)
