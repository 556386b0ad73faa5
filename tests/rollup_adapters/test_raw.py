"""``raw`` keeps the contract (its conformance run), its chain is the documented one, and its queries are bounded."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import strategies as st

from rollup_adapters.base import (
    Accepted,
    AdapterContext,
    Height,
    JsonValue,
    QueryError,
    Rejected,
    RollupAdapter,
    SequencedBlock,
)
from rollup_adapters.raw import RANGE_ENTRIES_MAX, RANGE_SIZE_BYTES_MAX, RawAdapter
from rollup_adapters.testkit import conformance


async def settled(adapter: RollupAdapter) -> tuple[Height, Height]:
    head = await adapter.query("raw_head", None)
    assert isinstance(head, dict)
    soft, firm = head["soft"], head["firm"]
    assert isinstance(soft, int)
    assert isinstance(firm, int)
    return soft, firm


test_conformance = conformance(
    RawAdapter,
    transactions=st.binary(max_size=64),
    settled=settled,
    queries=[("raw_head", None), ("raw_get", {"position": 0}), ("raw_range", {"from": 0, "limit": 3})],
)


def open_raw(directory: Path, **settings: JsonValue) -> RawAdapter:
    return RawAdapter(AdapterContext(rollup_id=7, directory=directory, settings=settings))


def block(height: Height, *transactions: bytes) -> SequencedBlock:
    block_id = sha256(b"block %d" % height).digest()
    return SequencedBlock(height=height, timestamp_ms=1_000 * height, block_id=block_id, transactions=transactions)


def chain(blocks: Sequence[SequencedBlock]) -> bytes:
    """The commitment as the docstring of ``raw`` defines it, written again."""
    link = bytes(32)
    for each in blocks:
        for index, transaction in enumerate(each.transactions):
            place = struct.pack(">QQI", each.height, each.timestamp_ms, index)
            link = sha256(link + place + sha256(transaction).digest()).digest()
    return link


async def test_commitment_is_the_documented_chain(tmp_path: Path) -> None:
    raw = open_raw(tmp_path)
    blocks = [block(1, b"a", b"b"), block(4), block(6, b"", b"a")]
    executed = await raw.deliver(blocks)
    assert executed.height == 6
    assert executed.state_commitment == chain(blocks)
    assert [len(outcomes) for outcomes in executed.outcomes] == [2, 0, 2]
    # Frozen: a different value here is a different chain, and every node must change together.
    assert executed.state_commitment.hex() == "c67e15b8fe94142db45ba23adef7eac5deb505291f54e7f0f930eec03a090aaa"


async def test_queries_answer_from_the_log(tmp_path: Path) -> None:
    raw = open_raw(tmp_path)
    await raw.deliver([block(3, b"zero", b"one"), block(5, b"two")])
    await raw.settle("firm", 3)
    assert await raw.query("raw_head", None) == {
        "height": 5,
        "count": 3,
        "commitment": chain([block(3, b"zero", b"one"), block(5, b"two")]).hex(),
        "soft": 3,
        "firm": 3,
    }
    one = {"position": 1, "height": 3, "timestamp_ms": 3_000, "index": 1, "transaction": b"one".hex()}
    two = {"position": 2, "height": 5, "timestamp_ms": 5_000, "index": 0, "transaction": b"two".hex()}
    assert await raw.query("raw_get", {"position": 1}) == one
    assert await raw.query("raw_range", {"from": 1}) == {"entries": [one, two], "next": None}
    assert await raw.query("raw_range", {"from": 1, "limit": 1}) == {"entries": [one], "next": 2}
    assert await raw.query("raw_range", {"from": 3}) == {"entries": [], "next": None}


async def test_range_is_bounded_in_entries_and_bytes(tmp_path: Path) -> None:
    raw = open_raw(tmp_path)
    large = bytes(RANGE_SIZE_BYTES_MAX * 2 // 3)
    await raw.deliver([block(1, *[b"x"] * (RANGE_ENTRIES_MAX + 5)), block(2, large, large, bytes(2 * len(large)))])
    first = await raw.query("raw_range", {"from": 0, "limit": 10**9})
    assert isinstance(first, dict)
    assert isinstance(first["entries"], list)
    assert (len(first["entries"]), first["next"]) == (RANGE_ENTRIES_MAX, RANGE_ENTRIES_MAX)
    for position, following in [(1_005, 1_006), (1_006, 1_007), (1_007, None)]:
        page = await raw.query("raw_range", {"from": position})
        assert isinstance(page, dict)
        assert isinstance(page["entries"], list)
        assert (len(page["entries"]), page["next"]) == (1, following)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("raw_get", None),
        ("raw_get", [0]),
        ("raw_get", {"position": 1}),
        ("raw_get", {"position": -1}),
        ("raw_get", {"position": True}),
        ("raw_get", {"position": 2**63}),
        ("raw_range", {"from": "0"}),
        ("raw_range", {"from": 0, "limit": 1.5}),
    ],
)
async def test_bad_params_are_refused(tmp_path: Path, method: str, params: JsonValue) -> None:
    raw = open_raw(tmp_path)
    await raw.deliver([block(1, b"only")])
    with pytest.raises(QueryError) as refusal:
        await raw.query(method, params)
    assert refusal.value.code == -32602


async def test_admission_follows_the_setting_and_delivery_does_not(tmp_path: Path) -> None:
    raw = open_raw(tmp_path, max_transaction_bytes=4)
    four, five = await raw.check([b"1234", b"12345"])
    assert four == Accepted()
    assert isinstance(five, Rejected)
    assert "4 bytes" in five.reason
    executed = await raw.deliver([block(1, b"12345")])
    assert executed.outcomes[0][0].status == "included"


@pytest.mark.parametrize("value", [0, -1, True, "128", None, 1.5])
def test_bad_settings_are_named(tmp_path: Path, value: JsonValue) -> None:
    with pytest.raises(ValueError, match=r"settings\.max_transaction_bytes"):
        open_raw(tmp_path, max_transaction_bytes=value)


async def test_another_chains_directory_is_noticed(tmp_path: Path) -> None:
    raw = open_raw(tmp_path)
    executed = await raw.deliver([block(1, b"a")])
    other = SequencedBlock(height=1, timestamp_ms=9, block_id=bytes(32), transactions=(b"b",))
    with pytest.raises(ValueError, match="another chain"):
        await raw.deliver([other, block(2, b"c")])
    assert await raw.last_delivered() == 1
    assert (await raw.deliver([block(1, b"a")])).state_commitment == executed.state_commitment
