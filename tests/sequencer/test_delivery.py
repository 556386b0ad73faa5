"""What a rollup's adapter is given, from where on, and what its absence does to the rest: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from consensus.types import Height
from rollup_adapters.base import Executed, Level, Outcome, SequencedBlock
from rollup_adapters.host import AdapterUnavailable
from sequencer.body import EMPTY_PAYLOAD, Payload
from sequencer.delivery import EMPTY_RUN_MAX, PRUNED_RETRY_S, RETRY_S, RUN_BLOCKS_MAX, SETTLE_INTERVAL_S, AdapterFeed
from sequencer.ledger import HeightUnavailable
from sequencer.receipts import Section
from tests.sequencer.chains import block, payload


@dataclass
class Host:
    """An adapter that remembers; ``away`` makes every call fail."""

    cursor: Height = 0
    runs: list[list[tuple[Height, tuple[bytes, ...]]]] = field(default_factory=list)
    settled: list[tuple[Level, Height]] = field(default_factory=list)
    away: bool = False
    alive: bool = True
    restarts: int = 0

    async def last_delivered(self) -> Height:
        await trio.lowlevel.checkpoint()
        self._here()
        return self.cursor

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed:
        await trio.lowlevel.checkpoint()
        self._here()
        if blocks:
            self.runs.append([(block.height, block.transactions) for block in blocks])
            self.cursor = blocks[-1].height
        outcomes = tuple(tuple(Outcome(status="included") for _ in block.transactions) for block in blocks)
        return Executed(height=self.cursor, state_commitment=self.cursor.to_bytes(32, "big"), outcomes=outcomes)

    async def settle(self, level: Level, height: Height) -> None:
        self._here()
        self.settled.append((level, height))

    def _here(self) -> None:
        if self.away:
            raise AdapterUnavailable("the adapter is down")


class Ledger:
    """Committed heights with what each holds for rollup 3; ``pruned_below`` hides the first."""

    def __init__(self, *contents: Sequence[bytes]) -> None:
        self.payloads = [
            payload({3: [(0, data) for data in content]}) if content else EMPTY_PAYLOAD for content in contents
        ]
        self.pruned_below = 1
        self.final_height = 0
        self.more = trio.Event()

    @property
    def height(self) -> Height:
        return len(self.payloads)

    async def sections(self, rollup_id: int, from_height: Height) -> Sequence[Section]:
        while from_height > self.height:
            await self.more.wait()
        if from_height < self.pruned_below:
            raise HeightUnavailable(from_height, self.pruned_below, "pruned")
        return [
            _section(self.payloads[height - 1], height, rollup_id) for height in range(from_height, self.height + 1)
        ]

    def add(self, *content: bytes) -> None:
        self.payloads.append(payload({3: [(0, data) for data in content]}))
        self.more.set()
        self.more = trio.Event()


def _section(carried: Payload, height: Height, rollup_id: int) -> Section:
    made = block(height, carried)
    own = carried.section(rollup_id)
    return Section(
        rollup_id=rollup_id,
        header=made.header,
        valid_untils=() if own is None else tuple(own.valid_untils),
        transactions=() if own is None else tuple(own.transactions),
        proof=carried.tree.proof(rollup_id),
        commit_proof=None,
    )


def feed_of(host: Host, ledger: Ledger) -> AdapterFeed:
    return AdapterFeed(3, "fake", host, ledger)  # type: ignore[arg-type]  # as much of both as a feed uses


async def running(feed: AdapterFeed, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await feed.run()


async def test_everything_is_delivered_in_order_and_empty_heights_are_passed_over(autojump_clock: MockClock) -> None:
    host, ledger = Host(), Ledger([b"a", b"b"], [], [b"c"], [], [])
    await running(feed_of(host, ledger), 1)
    assert host.runs == [[(1, (b"a", b"b")), (3, (b"c",))]]


async def test_delivery_resumes_after_the_adapters_own_cursor(autojump_clock: MockClock) -> None:
    host, ledger = Host(cursor=1), Ledger([b"a"], [b"b"])
    feed = feed_of(host, ledger)
    await running(feed, 1)
    assert host.runs == [[(2, (b"b",))]]
    assert (feed.delivered.height, feed.delivered.state_commitment[-1]) == (2, 2)


async def test_where_an_adapter_stands_is_known_before_anything_new(autojump_clock: MockClock) -> None:
    host, ledger = Host(cursor=2), Ledger([b"a"], [b"b"])
    feed = feed_of(host, ledger)
    await running(feed, 1)
    assert host.runs == []
    assert feed.delivered.height == 2


async def test_what_is_committed_later_follows(autojump_clock: MockClock) -> None:
    host, ledger = Host(), Ledger([b"a"])
    feed = feed_of(host, ledger)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        await trio.sleep(1)
        ledger.add(b"b")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert host.runs == [[(1, (b"a",))], [(2, (b"b",))]]
    assert host.settled == [("soft", 1), ("soft", 2)]


async def test_what_is_final_is_firm_and_never_more_than_was_delivered(autojump_clock: MockClock) -> None:
    host, ledger = Host(), Ledger([b"a"], [b"b"])
    feed = feed_of(host, ledger)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        await trio.sleep(1)
        ledger.final_height = 1
        await trio.sleep(1)
        ledger.final_height = 4  # the feed is behind
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert host.settled == [("soft", 2), ("firm", 1), ("firm", 2)]


async def test_long_quiet_times_move_the_cursor_now_and_then(autojump_clock: MockClock) -> None:
    host, ledger = Host(), Ledger(*[[] for _ in range(2 * EMPTY_RUN_MAX + 10)])
    await running(feed_of(host, ledger), 1)
    assert [height for run in host.runs for height, _ in run] == [EMPTY_RUN_MAX, 2 * EMPTY_RUN_MAX]


async def test_a_long_history_is_cut_into_runs(autojump_clock: MockClock) -> None:
    host, ledger = Host(), Ledger(*[[b"%d" % number] for number in range(3 * RUN_BLOCKS_MAX)])
    ledger_sections = ledger.sections

    async def few(rollup_id: int, from_height: Height) -> Sequence[Section]:
        return (await ledger_sections(rollup_id, from_height))[:10]

    ledger.sections = few  # type: ignore[method-assign]  # the ledger shows fewer
    await running(feed_of(host, ledger), 1)
    assert sum(map(len, host.runs)) == 3 * RUN_BLOCKS_MAX
    assert max(map(len, host.runs)) < RUN_BLOCKS_MAX + 10


async def test_an_adapter_that_was_away_gets_what_it_missed(autojump_clock: MockClock) -> None:
    host, ledger = Host(away=True), Ledger([b"a"])
    feed = feed_of(host, ledger)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        await trio.sleep(3 * RETRY_S)
        ledger.add(b"b")
        host.away = False
        await trio.sleep(3 * RETRY_S + 2 * SETTLE_INTERVAL_S)
        nursery.cancel_scope.cancel()
    assert host.runs == [[(1, (b"a",)), (2, (b"b",))]]


async def test_an_adapter_that_needs_pruned_blocks_waits_and_stops_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    host, ledger = Host(), Ledger([b"a"], [b"b"])
    ledger.pruned_below = 2
    feed = feed_of(host, ledger)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        await trio.sleep(PRUNED_RETRY_S / 2)
        assert host.runs == []
        assert "Give it a copy of another node's directory" in caplog.text
        host.cursor = 1  # somebody did
        await trio.sleep(PRUNED_RETRY_S)
        nursery.cancel_scope.cancel()
    assert host.runs == [[(2, (b"b",))]]
