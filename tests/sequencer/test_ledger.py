"""The ledger: order, idempotence, the index behind it, waiting, following, restarting. K = 4 throughout."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from consensus.codec import digest
from consensus.engine import Commit, Refusal, ReportEvidence
from consensus.finality.proof import FinalityProof
from consensus.finality.types import LinkCertificate
from consensus.genesis import ChainSpec
from consensus.types import Block, BlockHeader, Certificate, CommitProof, Height
from sequencer import ledger as ledger_module
from sequencer.body import EMPTY_PAYLOAD, Payload, PayloadCache
from sequencer.ledger import (
    INDEX_DELAY_S,
    HeightUnavailable,
    IndexedBlock,
    Ledger,
    OlderCopy,
    TooManyWaiters,
    TransactionExpired,
)
from sequencer.mempool import Mempool
from sequencer.receipts import Section
from sequencer.transactions import Level, Position, TransactionId, transaction_id
from sequencer.window import CommittedWindow
from tests.sequencer.chains import block, payload, spec


class MemoryBlocks:
    """A block store without a disk. The journal fills it before the ledger hears of a commit."""

    def __init__(self) -> None:
        self.rows: list[tuple[Block, bytes]] = []
        self.pruned_below: Height = 1
        self.reads = 0

    @property
    def committed_height(self) -> Height:
        return len(self.rows)

    async def blocks_from(self, height: Height, *, limit: int, bytes_max: int) -> Sequence[tuple[Block, bytes]]:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        if height < self.pruned_below:
            return ()
        return tuple((row, memoryview(body)) for row, body in self.rows[height - 1 : height - 1 + min(limit, 3)])  # type: ignore[misc]  # as the store: a view

    async def proof_for(self, height: Height) -> CommitProof | None:
        await trio.lowlevel.checkpoint()
        return proof_of(self.rows[height - 1][0]) if self.pruned_below <= height <= len(self.rows) else None

    async def links_above(self, height: Height, count: int) -> Sequence[LinkCertificate]:
        raise AssertionError("this chain has no checkpoints")

    async def headers_between(self, low: Height, high: Height) -> Sequence[BlockHeader]:
        raise AssertionError("this chain has no checkpoints")


class MemoryIndex:
    """An index without a disk, that can be made to hang or to fail."""

    def __init__(self) -> None:
        self.height: Height = 0
        self.positions: dict[TransactionId, Position] = {}
        self.batches: list[int] = []
        self.saved_registry = b""
        self.saved_outcomes: dict[Height, bytes] = {}
        self.open = trio.Event()
        self.open.set()
        self.fault: Exception | None = None

    async def append(self, blocks: Sequence[IndexedBlock]) -> None:
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        assert [indexed.height for indexed in blocks] == list(range(self.height + 1, blocks[-1].height + 1))
        self.batches.append(len(blocks))
        for indexed in blocks:
            self.saved_registry = indexed.saved.registry or self.saved_registry
            self.saved_outcomes[indexed.height] = indexed.saved.outcomes
            for rollup_id, ids in indexed.sections:
                for index, each in enumerate(ids):
                    self.positions[each] = Position(rollup_id=rollup_id, height=indexed.height, index=index)
        self.height = blocks[-1].height

    async def registry(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.saved_registry

    async def outcomes(self, height: Height) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.saved_outcomes.get(height, b"")

    async def lookup(self, transaction_id: TransactionId) -> Position | None:
        await trio.lowlevel.checkpoint()
        return self.positions.get(transaction_id)


def proof_of(proven: Block) -> CommitProof:
    """A stand-in for what the protocol proves: it names the block. The real rule is in ``test_receipts.py``."""
    header = proven.header
    certificate = Certificate(
        kind="vote",
        epoch=0,
        view=header.view,
        block_id=proven.id,
        height=header.height,
        justify_view=0,
        signers=b"\x07",
        signature=b"",
    )
    return CommitProof(epoch=0, headers=(), certificate=certificate)


class Trust:
    """A verifier that accepts the stand-in."""

    spec: ChainSpec = spec()

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: int) -> Refusal | None:
        return None if proof.certificate.block_id == digest(header) else Refusal("not this block's")

    def verify_finality(self, proof: FinalityProof, header: BlockHeader) -> Refusal | None:
        raise AssertionError("this chain has no checkpoints")


class Node:
    """A ledger with its surroundings. ``blocks`` and ``index`` outlive it, as disks do."""

    def __init__(self, blocks: MemoryBlocks, index: MemoryIndex) -> None:
        self.blocks = blocks
        self.index = index
        self.window = CommittedWindow(spec().deduplication_heights)
        self.mempool = Mempool(spec(), self.window)
        self.reported: list[ReportEvidence] = []
        self.ledger = Ledger(
            blocks=blocks,
            index=index,
            window=self.window,
            mempool=self.mempool,
            cache=PayloadCache(),
            report_evidence=self._report,
        )

    async def _report(self, evidence: ReportEvidence) -> None:
        self.reported.append(evidence)

    def next_commit(self, carried: Payload = EMPTY_PAYLOAD, *, proven: bool = True) -> Commit:
        """The commit of one more block, durable in the block store."""
        height = len(self.blocks.rows) + 1
        parent = {"parent": self.blocks.rows[-1][0].id} if self.blocks.rows else {}
        made = block(height, carried, **parent)
        self.blocks.rows.append((made, carried.body))
        return Commit(block=made, body=memoryview(carried.body), proof=proof_of(made) if proven else None)

    async def commit(self, *carried: Payload) -> None:
        await self.ledger.commit([self.next_commit(each) for each in carried])


@asynccontextmanager
async def running(blocks: MemoryBlocks | None = None, index: MemoryIndex | None = None) -> AsyncIterator[Node]:
    """A node with its index being written; it stops without finishing anything, as a crash does."""
    node = Node(blocks or MemoryBlocks(), index or MemoryIndex())
    await node.ledger.restore()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.ledger.run)
        yield node
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.sleep(2 * INDEX_DELAY_S)
    await trio.testing.wait_all_tasks_blocked()


def one(data: bytes, rollup_id: int = 3, valid_until: int = 0) -> Payload:
    return payload({rollup_id: [(valid_until, data)]})


A, B, C = (transaction_id(3, 0, data) for data in (b"a", b"b", b"c"))
BOTH = payload({3: [(0, b"a"), (0, b"b")], 7: [(0, b"c")]})

# --- taking blocks -----------------------------------------------------------------------------------------------


async def test_positions_and_statuses(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        node.mempool.add_batch(3, [(0, b"a"), (0, b"x"), (1, b"late")])
        await node.commit(BOTH, one(b"d", 7))
        late = transaction_id(3, 1, b"late")
        for _ in range(2):  # before the index has it, and after
            assert await node.ledger.position_of(B) == Position(rollup_id=3, height=1, index=1)
            statuses = [
                (await node.ledger.status(each)).level for each in (A, transaction_id(3, 0, b"x"), late, bytes(32))
            ]
            assert statuses == [Level.CONFIRMED, Level.PENDING, Level.EXPIRED, Level.UNKNOWN]
            assert (await node.ledger.status(transaction_id(7, 0, b"d"))).position == Position(
                rollup_id=7, height=2, index=0
            )
            await settled()
        assert node.index.height == 2


async def test_a_height_is_taken_once(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        first, second = node.next_commit(one(b"a")), node.next_commit(one(b"b"))
        await node.ledger.commit([first])
        await node.ledger.commit([first, second])
        await node.ledger.commit([second, first])
        await settled()
        assert node.ledger.height == node.index.height == 2
        assert sum(node.index.batches) == 2


async def test_a_gap_or_a_wrong_body_is_our_bug(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        first, second = node.next_commit(one(b"a")), node.next_commit(one(b"b"))
        with pytest.raises(ValueError, match="committed height 2 after 0"):
            await node.ledger.commit([second])
        for body in (second.body, b"", b"\x00"):
            with pytest.raises(ValueError, match="not the one that its header names"):
                await node.ledger.commit([Commit(block=first.block, body=body, proof=None)])
        assert node.ledger.height == 0


async def test_commits_leave_the_mempool(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        node.mempool.add_batch(3, [(0, b"a"), (0, b"b"), (0, b"x")])
        await node.commit(BOTH)
        assert node.mempool.pending(3) == (1, 1)


async def test_evidence_is_handed_on(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        header = block(1).header
        evidence = ReportEvidence(first=header, second=header)
        await node.ledger.report(evidence)
        assert node.reported == [evidence]


# --- the index ---------------------------------------------------------------------------------------------------


async def test_the_index_is_written_in_batches_and_holds_nothing_back_until_it_is_far_behind(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as node:
        node.index.open = trio.Event()
        await node.commit(one(b"a"))
        await settled()
        for data in (b"b", b"c", b"d"):
            await node.commit(one(data))
        assert await node.ledger.position_of(C) == Position(rollup_id=3, height=3, index=0)
        # Four heights wait for the index; the window has no more than four to answer for.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.commit, one(b"e"))
            await settled()
            assert node.ledger.height == 4
            node.index.open.set()
        await settled()
        assert node.ledger.height == node.index.height == 5
        assert node.index.batches == [1, 4]


async def test_positions_are_known_between_memory_and_index(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in memory as a recent block any more, and not in the index yet."""
    monkeypatch.setattr(ledger_module, "RECENT_BLOCKS_MAX", 1)
    async with running() as node:
        node.index.open = trio.Event()
        await node.commit(BOTH, EMPTY_PAYLOAD, EMPTY_PAYLOAD)
        assert await node.ledger.position_of(B) == Position(rollup_id=3, height=1, index=1)
        assert await node.ledger.position_of(transaction_id(7, 0, b"c")) == Position(rollup_id=7, height=1, index=0)


async def test_positions_outlast_the_window(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        for carried in (BOTH, *[EMPTY_PAYLOAD] * 6):
            await node.commit(carried)
        await settled()
        assert node.window.ordered_at(B) is None
        assert (await node.ledger.status(B)).position == Position(rollup_id=3, height=1, index=1)


async def test_a_failing_index_stops_the_node(autojump_clock: trio.testing.MockClock) -> None:
    failure = OSError("disk full")
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="disk full")):
        async with running() as node:
            node.index.fault = failure
            await node.commit(one(b"a"))
            await trio.sleep_forever()


# --- restarting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", range(8))
async def test_restart_rebuilds_the_window_and_what_the_index_lost(
    autojump_clock: trio.testing.MockClock, lost: int
) -> None:
    """Seven blocks, of which the index durably has all but ``lost`` - a crash between journal and index."""
    carried = [one(bytes([height])) for height in range(1, 8)]
    async with running() as before:
        for each in carried:
            await before.commit(each)
            await settled()
    index = MemoryIndex()
    for height, each in enumerate(carried[: 7 - lost], start=1):
        await index.append([IndexedBlock(height, tuple((s.rollup_id, s.ids) for s in each.sections))])
    index.batches.clear()
    async with running(before.blocks, index) as after:
        assert after.ledger.height == after.index.height == 7
        assert sum(index.batches) == lost
        assert index.positions == before.index.positions
        for height, each in enumerate(carried, start=1):
            (identifier,) = each.positions
            assert after.window.ordered_at(identifier) == (height if height > 3 else None)
            kept = after.window.block_at(height)
            assert (kept is not None) == (height > 3)
            if kept is not None:
                assert (kept.block_id, kept.timestamp_ms) == (
                    before.blocks.rows[height - 1][0].id,
                    before.blocks.rows[height - 1][0].header.timestamp_ms,
                )
            assert (await after.ledger.position_of(identifier)) is not None
        await after.ledger.commit([Commit(block=row, body=body, proof=None) for row, body in before.blocks.rows])
        await after.commit(one(b"new"))
        assert after.ledger.height == 8


async def test_restart_needs_the_window_s_blocks(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as before:
        for _ in range(7):
            await before.commit(EMPTY_PAYLOAD)
            await settled()
    before.blocks.pruned_below = 4
    async with running(before.blocks, before.index):
        pass
    before.blocks.pruned_below = 5
    with pytest.raises(HeightUnavailable, match="pruned below 5"):
        await Node(before.blocks, before.index).ledger.restore()


async def test_an_index_ahead_of_the_blocks_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    index = MemoryIndex()
    index.height = 3
    with pytest.raises(OlderCopy, match="older copy"):
        await Node(MemoryBlocks(), index).ledger.restore()


# --- waiting -----------------------------------------------------------------------------------------------------


async def gather(waits: Sequence[Callable[[], Awaitable[Position]]]) -> list[Position]:
    answers: dict[int, Position] = {}

    async def run(number: int) -> None:
        answers[number] = await waits[number]()

    async with trio.open_nursery() as nursery:
        for number in range(len(waits)):
            nursery.start_soon(run, number)
    return [answers[number] for number in range(len(waits))]


async def test_waiting_ends_with_the_commit(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        node.mempool.add(3, 0, b"a")

        async def commit_soon() -> Position:
            await settled()
            await node.commit(BOTH)
            return Position(rollup_id=0, height=0, index=0)

        waits = [lambda: node.ledger.wait_for(A), lambda: node.ledger.wait_for(A), lambda: node.ledger.wait_for(B)]
        answers = await gather([*waits, commit_soon])
        assert answers[:3] == [Position(rollup_id=3, height=1, index=i) for i in (0, 0, 1)]
        assert await node.ledger.wait_for(A) == answers[0]


async def test_waiting_for_what_was_ordered_long_ago(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        for carried in (BOTH, *[EMPTY_PAYLOAD] * 6):
            await node.commit(carried)
        assert await node.ledger.wait_for(B) == Position(rollup_id=3, height=1, index=1)


async def test_waiting_for_what_expires(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        node.mempool.add(3, 1, b"late")
        late = transaction_id(3, 1, b"late")
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(TransactionExpired):
                    await node.ledger.wait_for(late)

            nursery.start_soon(wait)
            await settled()
            await node.commit(EMPTY_PAYLOAD)
        with pytest.raises(TransactionExpired):
            await node.ledger.wait_for(late)


async def test_those_who_give_up_leave_nothing_behind(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "WAITERS_MAX", 1)
    async with running() as node:
        for unordered in (A, B, C):
            with trio.move_on_after(1) as scope:
                await node.ledger.wait_for(unordered)
            assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.ledger.wait_for, A)
            nursery.start_soon(node.ledger.wait_for, A)
            await settled()
            with pytest.raises(TooManyWaiters):
                await node.ledger.wait_for(B)
            await node.commit(BOTH)


# --- following ---------------------------------------------------------------------------------------------------


async def take(node: Node, rollup_id: int, from_height: Height, count: int) -> list[Section]:
    taken: list[Section] = []
    async for section in node.ledger.follow(rollup_id, from_height):
        section.verify(Trust())
        taken.append(section)
        if len(taken) == count:
            break
    return taken


async def test_followers_see_every_height_once_from_the_store_and_then_live(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "RECENT_BLOCKS_MAX", 2)
    async with running() as node:
        for carried in (one(b"1"), one(b"2", 7), EMPTY_PAYLOAD, one(b"4"), one(b"5"), one(b"6", 7), one(b"7")):
            await node.commit(carried)
            await settled()
        sections: list[Section] = []

        async def follow() -> None:
            sections.extend(await take(node, 3, 1, 9))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await settled()
            await node.commit(one(b"8"))
            await settled()
            await node.commit(one(b"9", 7))
        assert [section.height for section in sections] == list(range(1, 10))
        seen = [section.transactions for section in sections]
        assert seen == [(b"1",), (), (), (b"4",), (b"5",), (), (b"7",), (b"8",), ()]


async def test_a_follower_may_start_in_the_middle_and_in_the_future(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        await node.commit(one(b"1"), one(b"2"))
        assert [section.height for section in await take(node, 3, 2, 1)] == [2]
        assert [section.height for section in await take(node, 3, 0, 1)] == [1]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                assert [section.height for section in await take(node, 3, 4, 1)] == [4]

            await settled()
            await node.commit(one(b"3"), one(b"4"))


async def test_a_follower_is_not_ahead_of_the_ledger(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has height 4 already; one read of it brings 2, 3 and 4."""
    monkeypatch.setattr(ledger_module, "RECENT_BLOCKS_MAX", 1)
    async with running() as node:
        await node.commit(one(b"1"), one(b"2"), one(b"3"))
        fourth = node.next_commit(one(b"4"))
        follower = node.ledger.follow(3, 2)
        assert [(await anext(follower)).height for _ in range(2)] == [2, 3]
        with trio.move_on_after(0):
            pytest.fail(f"height {(await anext(follower)).height} before its commit")
        await node.ledger.commit([fourth])
        assert (await anext(follower)).height == 4


async def test_a_slow_follower_holds_nothing_back(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "RECENT_BLOCKS_MAX", 2)
    async with running() as node:
        follower = node.ledger.follow(3, 1)
        for number in range(20):
            await node.commit(one(bytes([number])))
            await settled()
        assert node.ledger.height == 20
        assert [(await anext(follower)).transactions for _ in range(20)] == [(bytes([n]),) for n in range(20)]


async def test_a_follower_learns_that_its_height_is_pruned(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as before:
        for number in range(9):
            await before.commit(one(bytes([number])))
            await settled()
    before.blocks.pruned_below = 4
    async with running(before.blocks, before.index) as node:
        with pytest.raises(HeightUnavailable, match="height 2 is not available here: pruned below 4") as error:
            await anext(node.ledger.follow(3, 2))
        assert error.value.pruned_below == 4
        assert (await anext(node.ledger.follow(3, 4))).height == 4


async def test_live_followers_do_not_read_the_store(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        await node.commit(one(b"1"))
        before = node.blocks.reads
        assert (await take(node, 3, 1, 1))[0] is (await take(node, 3, 1, 1))[0]
        assert node.blocks.reads == before


# --- proofs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recent_blocks_max", [1, 1024])
async def test_sections_and_receipts_verify(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, recent_blocks_max: int
) -> None:
    monkeypatch.setattr(ledger_module, "RECENT_BLOCKS_MAX", recent_blocks_max)
    async with running() as node:
        await node.commit(BOTH, EMPTY_PAYLOAD, one(b"z"))
        await settled()
        for rollup_id, height, transactions in ((3, 1, (b"a", b"b")), (7, 1, (b"c",)), (3, 2, ()), (7, 3, ())):
            section = await node.ledger.section(rollup_id, height)
            section.verify(Trust())
            assert section.transactions == transactions
        receipt = await node.ledger.receipt(B)
        assert receipt is not None
        receipt.verify(Trust())
        assert receipt.position == Position(rollup_id=3, height=1, index=1)
        assert await node.ledger.receipt(bytes(32)) is None


async def test_a_proof_that_did_not_come_with_the_commit_is_read(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        commits = [node.next_commit(one(b"a"), proven=False), node.next_commit()]
        await node.ledger.commit(commits)
        (await node.ledger.section(3, 1)).verify(Trust())
        receipt = await node.ledger.receipt(A)
        assert receipt is not None
        receipt.verify(Trust())


async def test_heights_that_are_not_there(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        await node.commit(one(b"a"))
        node.next_commit(one(b"b"))  # durable in the journal, and not handed over yet
        for height in (2, 3):
            with pytest.raises(HeightUnavailable, match="last committed height is 1"):
                await node.ledger.section(3, height)
        with pytest.raises(HeightUnavailable, match="pruned below 1"):
            await node.ledger.section(3, 0)
