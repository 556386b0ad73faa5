"""A section that does not fit one Ethereum block makes several, and a skipped transaction leaves no trace in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rollup_adapters.base import Executed, JsonValue, Outcome, QueryError, SequencedBlock
from rollup_adapters.evm import EvmAdapter, store
from tests.rollup_adapters.evm.common import (
    ALICE,
    BOB,
    CAROL,
    ETHER,
    FEE,
    account,
    block,
    execute,
    mapping,
    quantity,
    running,
    settings,
    signed,
    statuses,
)

INCLUDED = ("included", "")
BURNED = ("included", "failed: invalid instruction")
BURNER = account(90).address  # runs INVALID, which uses up all the gas it is given
LOGGER = account(91).address  # emits one log without topics and data: LOG0(0, 0)
MILLION = 1_000_000


def small(**changes: JsonValue) -> dict[str, JsonValue]:
    """Settings with blocks of a million gas, and the contracts above."""
    alloc: dict[str, JsonValue] = {who.address: str(1_000 * ETHER) for who in (ALICE, BOB, CAROL)}
    alloc |= {BURNER: {"code": "0xfe"}, LOGGER: {"code": "0x5f5fa000"}}
    return dict(settings(gas_limit=MILLION, alloc=alloc, **changes))


def burn(nonce: int, gas: int = MILLION, fee: int = FEE) -> bytes:
    """Alice uses up this much gas."""
    return signed(nonce=nonce, to=BURNER, gas=gas, value=0, maxFeePerGas=fee)


async def blocks_of(adapter: EvmAdapter) -> list[dict[str, JsonValue]]:
    """All blocks with whole transactions."""
    count = await quantity(adapter, "eth_blockNumber") + 1
    return [await mapping(adapter, "eth_getBlockByNumber", hex(number), True) for number in range(count)]


def numbers(blocks: list[dict[str, JsonValue]], field: str) -> list[int]:
    """A quantity of each block."""
    return [int(str(found[field]), 16) for found in blocks]


def senders(found: dict[str, JsonValue]) -> list[tuple[JsonValue, JsonValue]]:
    """(sender, nonce) of each transaction in a block."""
    assert isinstance(found["transactions"], list)
    return [(shape["from"], shape["nonce"]) for shape in found["transactions"] if isinstance(shape, dict)]


def hash_of(raw: bytes) -> str:
    """A transaction's hash as JSON-RPC writes it."""
    return "0x" + keccak(raw).hex()


async def outcome(adapter: EvmAdapter, raw: bytes) -> JsonValue:
    """What the adapter says became of a transaction."""
    return await adapter.query("sequencer_transactionOutcome", [hash_of(raw)])


async def test_what_does_not_fit_makes_the_next_block(tmp_path: Path) -> None:
    async with running(tmp_path, small()) as adapter:
        section = (
            signed(nonce=0, gas=600_000),
            signed(BOB, nonce=0, gas=979_000, to=ALICE.address),
            signed(BOB, nonce=1, gas=958_001, to=ALICE.address),
            signed(nonce=1),
        )
        assert await execute(adapter, *section) == [INCLUDED] * 4
        _, first, second = await blocks_of(adapter)
        # Alice's 600,000 were an upper bound: she used 21,000, and that is what counts. One gas too much closes.
        alice, bob = ALICE.address.lower(), BOB.address.lower()
        assert senders(first) == [(alice, "0x0"), (bob, "0x0")]
        assert senders(second) == [(bob, "0x1"), (alice, "0x1")]


async def test_the_blocks_of_a_section_follow_the_documented_rules(tmp_path: Path) -> None:
    async with running(tmp_path, small()) as adapter:
        given_block = block(7, burn(0), burn(1), burn(2), signed(BOB), timestamp_ms=1_700_000_000_999)
        await adapter.deliver([given_block])
        blocks = await blocks_of(adapter)
        assert numbers(blocks, "number") == [0, 1, 2, 3, 4]
        assert numbers(blocks, "timestamp")[1:] == [1_700_000_000] * 4
        assert numbers(blocks, "gasUsed") == [0, MILLION, MILLION, MILLION, 21_000]
        # An empty parent takes an eighth, a full one adds an eighth, rounded down (EIP-1559).
        fees = [10**9, 875_000_000, 984_375_000, 1_107_421_875, 1_245_849_609]
        assert numbers(blocks, "baseFeePerGas") == fees
        assert [found["parentHash"] for found in blocks[1:]] == [found["hash"] for found in blocks[:-1]]
        assert {found["parentBeaconBlockRoot"] for found in blocks[1:]} == {"0x" + given_block.block_id.hex()}
        randao = given_block.block_id
        for found in blocks[1:]:
            randao = keccak(randao)
            assert found["mixHash"] == "0x" + randao.hex()


async def test_receipts_and_logs_belong_to_their_own_block(tmp_path: Path) -> None:
    async with running(tmp_path, small()) as adapter:
        logged = [signed(BOB, nonce=nonce, to=LOGGER, value=0, gas=30_000) for nonce in range(3)]
        await adapter.deliver([block(1, logged[0], burn(0, gas=900_000), logged[1], burn(1, gas=900_000), logged[2])])
        places = []
        for raw in logged:
            receipt = await mapping(adapter, "eth_getTransactionReceipt", hash_of(raw))
            head = await mapping(adapter, "eth_getBlockByNumber", receipt["blockNumber"], False)
            assert receipt["blockHash"] == head["hash"]
            (log,) = receipt["logs"] if isinstance(receipt["logs"], list) else []
            assert isinstance(log, dict)
            for name in ("blockHash", "blockNumber", "transactionHash", "transactionIndex"):
                assert log[name] == receipt[name]
            wanted = (
                receipt["blockNumber"],
                receipt["transactionIndex"],
                log["logIndex"],
                receipt["cumulativeGasUsed"],
            )
            places.append(tuple(int(str(value), 16) for value in wanted))
        gas = 21_000 + 2 + 2 + 375
        assert places == [(1, 0, 0, gas), (1, 2, 1, 900_000 + 2 * gas), (2, 1, 0, 900_000 + gas)]
        found = await adapter.query("eth_getLogs", [{"fromBlock": "0x2"}])
        assert isinstance(found, list)
        assert len(found) == 1


async def test_a_fee_is_judged_in_the_block_where_the_transaction_lands(tmp_path: Path) -> None:
    async with running(tmp_path, small()) as adapter:
        section = [
            burn(0, gas=979_000),
            # Enough for this block, not for the one that would follow now; and it fits.
            signed(BOB, nonce=0, maxFeePerGas=875_000_000),
            # The block is full now, the next one wants 984,375,000.
            signed(BOB, nonce=1, maxFeePerGas=984_374_999),
            signed(BOB, nonce=1, maxFeePerGas=984_375_000),
        ]
        outcomes = await execute(adapter, *section)
        reason = "max fee per gas 984374999 is below the block's base fee 984375000"
        assert outcomes == [BURNED, INCLUDED, ("skipped", reason), INCLUDED]
        assert numbers(await blocks_of(adapter), "number") == [0, 1, 2]


async def test_a_falling_fee_lets_a_transaction_land_in_the_next_block(tmp_path: Path) -> None:
    async with running(tmp_path, small()) as adapter:
        # Block 1 wants 875,000,000; after 21,000 gas of a million, block 2 wants 770,218,750.
        low = signed(BOB, maxFeePerGas=770_218_750, gas=990_000)
        lower = signed(CAROL, maxFeePerGas=770_218_749, gas=990_000)
        outcomes = await execute(adapter, signed(), lower, low)
        assert [status for status, _ in outcomes] == ["included", "skipped", "included"]
        assert numbers(await blocks_of(adapter), "baseFeePerGas")[1:] == [875_000_000, 770_218_750]


@st.composite
def sections(draw: st.DrawFn) -> list[bytes]:
    """Transfers and burners of every size with rising nonces; among them those that some rule skips."""
    section: list[bytes] = []
    nonces = {ALICE.address: 0, BOB.address: 0}
    for _ in range(draw(st.integers(1, 9))):
        who = draw(st.sampled_from((ALICE, BOB)))
        gas = draw(st.sampled_from((21_000, 400_000, 700_000, MILLION)))
        fields = {"gas": gas, "nonce": nonces[who.address], "to": draw(st.sampled_from((CAROL.address, BURNER)))}
        match draw(st.integers(0, 5)):
            case 0:
                section.append(signed(who, **{**fields, "nonce": 77}))
            case 1:
                section.append(signed(who, **fields, maxFeePerGas=draw(st.integers(1, 500_000_000))))
            case 2:
                section.append(signed(account(60), **fields))
            case _:
                section.append(signed(who, **fields))
                nonces[who.address] += 1
    return section


@given(sections())
@hypothesis_settings(max_examples=25, deadline=None)
def test_skipped_transactions_leave_no_trace(tmp_path_factory: pytest.TempPathFactory, section: list[bytes]) -> None:
    async def compare() -> None:
        place = tmp_path_factory.mktemp("split")
        async with running(place / "whole", small()) as whole, running(place / "sifted", small()) as sifted:
            outcomes = await execute(whole, *section)
            kept = [raw for raw, (status, _) in zip(section, outcomes, strict=True) if status == "included"]
            if not kept:
                return
            await execute(sifted, *kept)
            blocks = await blocks_of(whole)
            assert blocks == await blocks_of(sifted)
            assert all(senders(found) for found in blocks[1:])
            assert sum(len(senders(found)) for found in blocks) == len(kept)

    trio.run(compare)


OVERFLOWING = [block(2, burn(0), b"junk", burn(1)), block(5, signed(BOB)), block(9, burn(2), burn(3), burn(4))]


async def test_a_split_does_not_depend_on_batching_and_survives_redelivery(tmp_path: Path) -> None:
    async with running(tmp_path / "one", small()) as one, running(tmp_path / "two", small()) as two:
        whole = await one.deliver(OVERFLOWING)
        assert statuses(whole)[0] == [BURNED, ("skipped", "unknown transaction type 106"), BURNED]
        parts: list[Executed] = []
        for single in OVERFLOWING:
            parts += [await two.deliver([single]), await two.deliver([single])]
        assert [part.outcomes[0] for part in parts[::2]] == list(whole.outcomes)
        assert [part.outcomes for part in parts[1::2]] == [part.outcomes for part in parts[::2]]
        assert await blocks_of(one) == await blocks_of(two)
    async with running(tmp_path / "two", small()) as again:
        assert await again.deliver(OVERFLOWING) == whole
        more = await again.deliver([*OVERFLOWING[1:], block(10, burn(5))])
        assert more.outcomes[-1] == (Outcome(status="included", detail=BURNED[1]),)
        assert await quantity(again, "eth_blockNumber") == 7


async def test_a_delivery_that_fails_after_a_split_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, small()) as adapter:
        broken = SequencedBlock(height=9, timestamp_ms=0, block_id=b"short", transactions=(signed(BOB),))
        with pytest.raises(ValueError, match="block id of height 9"):
            await adapter.deliver([OVERFLOWING[0], broken])
        assert await quantity(adapter, "eth_blockNumber") == 0
        assert await outcome(adapter, b"junk") is None
        assert (await adapter.deliver(OVERFLOWING)).height == 9
        assert await quantity(adapter, "eth_blockNumber") == 6


async def test_settling_a_height_settles_all_its_blocks(tmp_path: Path) -> None:
    async with running(tmp_path, small()) as adapter:
        await adapter.deliver(OVERFLOWING)
        found = []
        for height in (1, 2, 4, 5, 8, 9):
            await adapter.settle("soft", height)
            safe = await mapping(adapter, "eth_getBlockByNumber", "safe", False)
            found.append(int(str(safe["number"]), 16))
        assert found == [0, 2, 2, 3, 3, 6]


async def test_an_outcome_says_why_a_receipt_never_comes(tmp_path: Path) -> None:
    poor, early = signed(account(50)), signed(BOB, nonce=1)
    async with running(tmp_path, small()) as adapter:
        await adapter.deliver([block(3, burn(0), b"junk", poor, burn(1)), block(4, early), block(6, signed(CAROL))])
        for raw in (b"junk", poor, early):
            assert await adapter.query("eth_getTransactionReceipt", [hash_of(raw)]) is None
        reason = "insufficient funds for gas * price + value: has 0, wants 210000000000001"
        assert await outcome(adapter, poor) == {"status": "skipped", "detail": reason, "height": 3}
        reason = "unknown transaction type 106"
        assert await outcome(adapter, b"junk") == {"status": "skipped", "detail": reason, "height": 3}
        # Both blocks of a height lead back to it.
        for nonce in (0, 1):
            assert await outcome(adapter, burn(nonce)) == {"status": BURNED[0], "detail": BURNED[1], "height": 3}
        assert await outcome(adapter, signed(CAROL)) == {"status": "included", "detail": "", "height": 6}
        assert await outcome(adapter, signed(CAROL, nonce=1)) is None
        reason = "nonce too high: the transaction has 1, the account 0"
        assert await outcome(adapter, early) == {"status": "skipped", "detail": reason, "height": 4}
        # Skipped again, then included, then replayed.
        await adapter.deliver([block(7, early), block(8, signed(BOB), early), block(9, early)])
        assert await outcome(adapter, early) == {"status": "included", "detail": "", "height": 8}
        await adapter.deliver([block(10, b"junk")])
        again = await outcome(adapter, b"junk")
        assert isinstance(again, dict)
        assert again["height"] == 10


async def test_outcomes_are_bounded_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SKIPPED_MAX", 3)
    junk = [bytes([0x70 + index]) for index in range(5)]
    async with running(tmp_path, small()) as adapter:
        await adapter.deliver([block(1, *junk[:3]), block(2, junk[0], signed()), block(3, junk[3])])
        known = [raw for raw in junk if await outcome(adapter, raw) is not None]
        assert known == [junk[0], junk[2], junk[3]]
        # By height they are all there still.
        again = await adapter.deliver([block(1, *junk[:3])])
        assert [status for status, _ in statuses(again)[0]] == ["skipped"] * 3


@pytest.mark.parametrize("params", [[], ["0x12"], [1], ["0x" + "00" * 32, 1]])
async def test_an_outcome_wants_a_hash(tmp_path: Path, params: list[JsonValue]) -> None:
    async with running(tmp_path, small()) as adapter:
        with pytest.raises(QueryError) as caught:
            await adapter.query("sequencer_transactionOutcome", params)
        assert caught.value.code == -32602
