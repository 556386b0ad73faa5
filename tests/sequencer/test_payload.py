"""Building and judging payloads: every rule of validity at its edge, and what is held instead of refused.

The chain of the tests has K = 4 and a drift of 500 ms; a block at height h has the timestamp ``GENESIS_TIME_MS + h``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from consensus.engine import BuildPayload, CheckPayload, PayloadBuilt, PayloadVerdict
from consensus.genesis import ChainSpec
from consensus.types import EMPTY_PAYLOAD_ROOT, Block
from sequencer.body import EMPTY_PAYLOAD, Payload, PayloadCache, decode_payload
from sequencer.mempool import Mempool
from sequencer.payload import InlinePayloadSource
from sequencer.window import CommittedBlock, CommittedWindow
from tests.sequencer.chains import (
    GENESIS_TIME_MS,
    TrioClock,
    advance,
    block,
    payload,
    sections_of_transactions,
    spec,
    wall_clock,
)

Path = Sequence[tuple[Block, bytes | memoryview]]


class Bench:
    """A payload source with its surroundings, at ``committed`` heights of empty blocks."""

    def __init__(self, *, committed: int = 0, chain: ChainSpec | None = None, wall_ms: int = GENESIS_TIME_MS) -> None:
        chain = chain or spec()
        self.window = CommittedWindow(chain.deduplication_heights)
        advance(self.window, *[EMPTY_PAYLOAD] * committed)
        self.mempool = Mempool(chain, self.window)
        self.source = InlinePayloadSource(
            chain,
            mempool=self.mempool,
            window=self.window,
            cache=PayloadCache(),
            clock=TrioClock(),
            wall_clock_ms=wall_clock(wall_ms),
        )

    async def judge(self, carried: Payload, height: int, *, path: Path = (), **changes: Any) -> PayloadVerdict:
        """The verdict on an honest block, but for ``changes`` of its header."""
        return await self.check(block(height, carried, **changes), carried.body, path=path)

    async def check(self, judged: Block, body: bytes, *, path: Path = (), certified: bool = False) -> PayloadVerdict:
        request = CheckPayload(block=judged, body=memoryview(body), path=tuple(path), certified=certified)
        verdict = await self.source.check(request)
        assert verdict.block_id == judged.id
        assert verdict.certified == certified
        assert verdict.valid == (verdict.reason == "")
        return verdict

    async def build(self, height: int, *, path: Path = (), patience_s: float = 1.0) -> PayloadBuilt:
        committed = self.window.block_at(height - 1)
        parent_timestamp_ms = committed.timestamp_ms if committed is not None else GENESIS_TIME_MS
        if path:
            parent_timestamp_ms = path[-1][0].header.timestamp_ms
        deadline_ns = TrioClock().now() + round(patience_s * 1e9)
        return await self.source.build(
            BuildPayload(
                view=height,
                parent=bytes(32),
                height=height,
                parent_timestamp_ms=parent_timestamp_ms,
                path=tuple(path),
                deadline_ns=deadline_ns,
            )
        )


def transactions(built: PayloadBuilt) -> dict[int, tuple[bytes, ...]]:
    carried = decode_payload(built.body)
    assert isinstance(carried, Payload)
    assert carried.root == built.payload_root
    return {section.rollup_id: section.transactions for section in carried.sections}


def on_path(height: int, carried: Payload) -> tuple[Block, memoryview]:
    return block(height, carried), memoryview(carried.body)


ONE = payload({3: [(0, b"one")]})
TWO = payload({3: [(0, b"two")]})

# --- a body by itself --------------------------------------------------------------------------------------------


async def test_an_honest_block_and_an_empty_one_are_valid() -> None:
    bench = Bench()
    assert (await bench.judge(ONE, 1)).valid
    assert (await bench.judge(EMPTY_PAYLOAD, 1)).valid


async def test_every_mutated_bit_of_a_body_is_invalid() -> None:
    bench = Bench()
    carried = payload({3: [(0, b"one"), (2, b"two")], 7: [(0, b"three")]})
    honest = block(1, carried)
    for position in range(len(carried.body)):
        for bit in range(8):
            mutant = bytearray(carried.body)
            mutant[position] ^= 1 << bit
            assert not (await bench.check(honest, bytes(mutant))).valid
            assert not (await bench.check(honest, bytes(mutant), certified=True)).valid
    assert (await bench.check(honest, carried.body)).valid


@pytest.mark.parametrize("certified", [False, True])
async def test_root_and_size_are_the_header_s(certified: bool) -> None:
    bench = Bench()
    for changes, reason in (
        ({"payload_root": TWO.root}, "root"),
        ({"payload_root": EMPTY_PAYLOAD_ROOT}, "root"),
        ({"payload_size": len(ONE.body) + 1}, "the header says"),
    ):
        verdict = await bench.check(block(1, ONE, **changes), ONE.body, certified=certified)
        assert reason in verdict.reason
    verdict = await bench.check(block(1, EMPTY_PAYLOAD, payload_root=ONE.root), b"", certified=certified)
    assert "root" in verdict.reason


async def test_a_cached_payload_does_not_vouch_for_other_bytes() -> None:
    bench = Bench()
    assert (await bench.judge(ONE, 1)).valid
    assert not (await bench.check(block(1, ONE), TWO.body)).valid


async def test_size_caps() -> None:
    bench = Bench(chain=spec(payload_size_max=1100, transaction_size_max=500))
    assert (await bench.judge(payload({3: [(0, bytes(500)), (0, b"1" * 500)]}), 1)).valid
    assert "501 bytes exceeds 500" in (await bench.judge(payload({3: [(0, bytes(501))]}), 1)).reason
    over = payload({3: [(0, bytes(500)), (0, b"1" * 500), (0, b"2" * 100)]})
    assert f"{len(over.body)} bytes exceeds 1100" in (await bench.judge(over, 1)).reason
    exact = Bench(chain=spec(payload_size_max=len(over.body), transaction_size_max=500))
    assert (await exact.judge(over, 1)).valid


async def test_unknown_rollups() -> None:
    bench = Bench()
    assert "rollup 4 is not of this chain" in (await bench.judge(payload({4: [(0, b"")]}), 1)).reason


@pytest.mark.parametrize(
    ("valid_until", "valid"), [(0, True), (9, False), (10, True), (14, True), (15, False), (1, False)]
)
async def test_expiry_at_its_edges(valid_until: int, valid: bool) -> None:
    """At height 10 with K = 4: from 10 to 14."""
    bench = Bench(committed=9)
    assert (await bench.judge(payload({3: [(0, b""), (valid_until, b"x")]}), 10)).valid == valid


# --- the ancestor path -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "valid"), [(2, False), (5, False), (6, True)])
async def test_committed_within_k_heights(height: int, valid: bool) -> None:
    """Ordered at height 1 with K = 4: again from height 6 on."""
    bench = Bench()
    advance(bench.window, ONE, *[EMPTY_PAYLOAD] * (height - 2))
    assert (await bench.judge(ONE, height)).valid == valid


@pytest.mark.parametrize("committed", range(6))
@pytest.mark.parametrize(("height", "valid"), [(5, False), (6, True)])
async def test_what_is_committed_locally_makes_no_difference(committed: int, height: int, valid: bool) -> None:
    """The same chain, ONE at height 1, seen by nodes that have committed more or less of it."""
    chain = [ONE, *[EMPTY_PAYLOAD] * 5]
    if committed >= height:
        return
    bench = Bench()
    advance(bench.window, *chain[:committed])
    path = [on_path(number, chain[number - 1]) for number in range(committed + 1, height)]
    assert (await bench.judge(ONE, height, path=path)).valid == valid


async def test_two_forks_may_order_the_same_transaction() -> None:
    r"""
    ::

        committed 1 --- 2 (ONE) --- 3 (ONE): invalid
                    \-- 2'(TWO) --- 3'(ONE): valid
    """
    bench = Bench(committed=1)
    assert (await bench.judge(ONE, 2)).valid
    assert (await bench.judge(TWO, 2)).valid
    assert not (await bench.judge(ONE, 3, path=[on_path(2, ONE)])).valid
    assert (await bench.judge(ONE, 3, path=[on_path(2, TWO)])).valid


async def test_a_block_that_reuses_one_of_many_transactions_is_invalid() -> None:
    bench = Bench()
    ancestor = payload({3: [(0, b"a"), (0, b"b")], 7: [(0, b"c")]})
    again = payload({3: [(0, b"d")], 7: [(0, b"c"), (0, b"e")]})
    assert not (await bench.judge(again, 2, path=[on_path(1, ancestor)])).valid
    same_data_elsewhere = payload({7: [(0, b"a"), (5, b"c")]})
    assert (await bench.judge(same_data_elsewhere, 2, path=[on_path(1, ancestor)])).valid


async def test_a_block_on_an_ancestor_with_a_wrong_body_is_invalid() -> None:
    bench = Bench()
    verdict = await bench.judge(TWO, 2, path=[(block(1, ONE), TWO.body)])
    assert "ancestor" in verdict.reason


async def test_judging_waits_until_the_ledger_has_what_the_path_stands_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The engine has committed height 2, the ledger is not there yet: without it, ONE would be ordered twice."""
    bench = Bench(committed=1)
    verdicts: list[PayloadVerdict] = []

    async def judge() -> None:
        verdicts.append(await bench.judge(ONE, 4, path=[on_path(3, TWO)]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(judge)
        await trio.sleep(1)
        assert verdicts == []
        advance(bench.window, ONE)
    assert not verdicts[0].valid


async def test_a_certified_block_is_not_judged_again(autojump_clock: trio.testing.MockClock) -> None:
    """Ordered before, expired, unknown rollup, a timestamp of tomorrow, and a ledger far behind."""
    bench = Bench()
    advance(bench.window, ONE)
    carried = payload({3: [(0, b"one"), (1, b"late")], 4: [(0, b"")]})
    judged = block(9, carried, timestamp_ms=GENESIS_TIME_MS + 86_400_000)
    begin = trio.current_time()
    assert (await bench.check(judged, carried.body, certified=True)).valid
    assert trio.current_time() == begin


# --- timestamps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("later_ms", "valid"), [(-1, False), (0, False), (1, True)])
async def test_timestamps_grow_strictly(later_ms: int, valid: bool) -> None:
    bench = Bench()
    first = await bench.judge(ONE, 1, timestamp_ms=GENESIS_TIME_MS + later_ms)
    assert first.valid == valid
    parent = block(1, ONE, timestamp_ms=GENESIS_TIME_MS + 100)
    over_path = await bench.judge(TWO, 2, path=[(parent, ONE.body)], timestamp_ms=parent.header.timestamp_ms + later_ms)
    assert over_path.valid == valid
    bench.window.advance(CommittedBlock(1, parent.id, parent.header.timestamp_ms, ONE.positions.keys()))
    over_window = await bench.judge(TWO, 2, timestamp_ms=parent.header.timestamp_ms + later_ms)
    assert over_window.valid == valid


@pytest.mark.parametrize(("ahead_ms", "held_s"), [(500, 0), (501, 0.001), (5_500, 5), (3_600_500, 3_600)])
async def test_early_timestamps_are_held(autojump_clock: trio.testing.MockClock, ahead_ms: int, held_s: float) -> None:
    bench = Bench()
    begin = trio.current_time()
    assert (await bench.judge(ONE, 1, timestamp_ms=GENESIS_TIME_MS + ahead_ms)).valid
    assert trio.current_time() - begin == pytest.approx(held_s, abs=0.002)


async def test_what_is_wrong_is_said_at_once_whatever_its_timestamp(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    begin = trio.current_time()
    assert not (await bench.judge(payload({4: [(0, b"")]}), 1, timestamp_ms=GENESIS_TIME_MS + 86_400_000)).valid
    assert trio.current_time() == begin


async def test_a_held_block_is_let_go_when_its_height_is_committed(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    verdicts: dict[str, PayloadVerdict] = {}

    async def judge(name: str, carried: Payload) -> None:
        verdicts[name] = await bench.judge(carried, 1, timestamp_ms=2**53)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(judge, "committed", ONE)
        nursery.start_soon(judge, "abandoned", TWO)
        await trio.sleep(10)
        assert verdicts == {}
        committed = block(1, ONE, timestamp_ms=2**53)
        bench.window.advance(CommittedBlock(1, committed.id, 2**53, ONE.positions.keys()))
    assert verdicts["committed"].valid
    assert "too early" in verdicts["abandoned"].reason


# --- building ----------------------------------------------------------------------------------------------------


async def test_built_at_once_when_there_is_something(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    bench.mempool.add(7, 0, b"seven")
    bench.mempool.add(3, 0, b"three")
    begin = trio.current_time()
    built = await bench.build(1)
    assert trio.current_time() == begin
    assert transactions(built) == {3: (b"three",), 7: (b"seven",)}


async def test_what_was_built_here_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.mempool.add(3, 0, b"one")
    built = await bench.build(1)
    monkeypatch.setattr("sequencer.body.decode_payload", lambda body: pytest.fail("decoded again"))
    assert (await bench.judge(ONE, 1)).valid
    assert built.payload_root == ONE.root


async def test_built_when_something_arrives(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()

    async def submit() -> None:
        await trio.sleep(0.25)
        bench.mempool.add(3, 0, b"three")

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        built = await bench.build(1)
    assert transactions(built) == {3: (b"three",)}
    assert trio.current_time() - begin == pytest.approx(0.25)


async def test_built_empty_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    begin = trio.current_time()
    built = await bench.build(1, patience_s=2)
    assert trio.current_time() - begin == pytest.approx(2)
    assert (built.payload_root, bytes(built.body)) == (EMPTY_PAYLOAD_ROOT, b"")
    assert (built.view, built.parent) == (1, bytes(32))


async def test_a_deadline_that_has_passed_still_takes_what_is_there() -> None:
    bench = Bench()
    bench.mempool.add(3, 0, b"three")
    assert transactions(await bench.build(1, patience_s=-1)) == {3: (b"three",)}
    assert transactions(await bench.build(1, path=[on_path(1, EMPTY_PAYLOAD)], patience_s=-1)) == {3: (b"three",)}


async def test_a_newer_request_ends_the_older(autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    built: dict[int, tuple[PayloadBuilt, float]] = {}

    async def build(height: int) -> None:
        path = [on_path(number, EMPTY_PAYLOAD) for number in range(1, height)]
        built[height] = await bench.build(height, path=path, patience_s=10), trio.current_time()

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(build, 1)
        await trio.sleep(1)
        nursery.start_soon(build, 2)
        await trio.sleep(1)
        assert set(built) == {1}
        assert built[1][1] - begin == pytest.approx(1)
        assert transactions(built[1][0]) == {}
        bench.mempool.add(3, 0, b"three")
    assert transactions(built[2][0]) == {3: (b"three",)}


async def test_the_path_s_transactions_are_passed_over_and_stay_pending() -> None:
    bench = Bench()
    for data in (b"one", b"two", b"three"):
        bench.mempool.add(3, 0, data)
    on_two = await bench.build(3, path=[on_path(1, ONE), on_path(2, TWO)])
    assert transactions(on_two) == {3: (b"three",)}
    on_the_fork = await bench.build(2, path=[on_path(1, TWO)])
    assert transactions(on_the_fork) == {3: (b"one", b"three")}


async def test_building_waits_for_the_ledger_and_gives_up_at_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bench = Bench(committed=1)
    bench.mempool.add(3, 0, b"one")
    begin = trio.current_time()
    assert transactions(await bench.build(3)) == {}
    assert trio.current_time() - begin == pytest.approx(1)

    async def catch_up() -> None:
        await trio.sleep(0.5)
        advance(bench.window, EMPTY_PAYLOAD)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up)
        assert transactions(await bench.build(3)) == {3: (b"one",)}


@pytest.mark.parametrize(("wall_ms", "timestamp_ms"), [(1, GENESIS_TIME_MS + 1), (5_000, 5_000)])
async def test_timestamps_follow_the_clock_but_always_grow(wall_ms: int, timestamp_ms: int) -> None:
    bench = Bench(wall_ms=wall_ms)
    bench.mempool.add(3, 0, b"one")
    assert (await bench.build(1)).timestamp_ms == timestamp_ms


async def test_expired_transactions_are_not_built() -> None:
    bench = Bench(committed=3)
    bench.mempool.add(3, 4, b"until 4")
    bench.mempool.add(3, 5, b"until 5")
    assert transactions(await bench.build(4)) == {3: (b"until 4", b"until 5")}
    assert transactions(await bench.build(5, path=[on_path(4, EMPTY_PAYLOAD)])) == {3: (b"until 5",)}


@given(sections=sections_of_transactions(expiries=(0, 1, 5)), size_max=st.integers(100, 700), on=st.booleans())
def test_what_is_built_is_judged_valid(sections: dict[int, list[tuple[int, bytes]]], size_max: int, on: bool) -> None:
    async def build_and_judge() -> None:
        chain = spec(payload_size_max=size_max, transaction_size_max=50)
        builder, judge = Bench(chain=chain), Bench(chain=chain)
        for rollup_id, batch in sections.items():
            builder.mempool.add_batch(rollup_id, batch)
        path: list[tuple[Block, bytes | memoryview]] = []
        for height in range(1, 4):
            built = await builder.build(height, path=path, patience_s=-1)
            carried = decode_payload(built.body)
            assert isinstance(carried, Payload)
            proposed = block(height, carried, timestamp_ms=built.timestamp_ms)
            verdict = await judge.check(proposed, carried.body, path=path)
            assert verdict.valid, verdict.reason
            if on:
                path.append((proposed, built.body))
            else:
                for bench in (builder, judge):
                    bench.window.advance(
                        CommittedBlock(height, proposed.id, built.timestamp_ms, carried.positions.keys())
                    )
                builder.mempool.committed(height, carried.sections)

    trio.run(build_and_judge)
