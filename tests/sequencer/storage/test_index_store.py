"""The transaction index: against a dictionary that knows everything, across segments, restarts and pruning."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sequencer.storage import BlockIds, IndexStore, Position, Sections, StorageError
from sequencer.storage.index_store import SEGMENT_KEY_BYTES, _offsets
from tests.sequencer.storage.chains import GENESIS
from tests.sequencer.storage.faults import faulty_disk

WINDOW = 10


def transaction(height: int, rollup_id: int, index: int) -> bytes:
    return hashlib.sha256(b"%d/%d/%d" % (height, rollup_id, index)).digest()


def sections_of(height: int, counts: tuple[int, ...]) -> list[tuple[int, bytes]]:
    """One section per count, for rollups 100, 101, ..."""
    return [
        (100 + number, b"".join(transaction(height, 100 + number, index) for index in range(count)))
        for number, count in enumerate(counts)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[IndexStore]:
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        yield store


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.storage.index_store.SEGMENT_ENTRIES", 40)


def table_rows(store: IndexStore, table: str) -> int:
    count = store._database._writer.execute(f"SELECT count(*) FROM {table}").get
    assert isinstance(count, int)
    return count


async def test_each_transaction_is_found_where_it_was_ordered(store: IndexStore) -> None:
    await store.append([(1, sections_of(1, (3, 0, 2)))])
    await store.append([(2, []), (3, sections_of(3, (0, 4)))])
    assert store.height == 3
    assert await store.lookup(transaction(1, 100, 0)) == (Position(1, 100, 0),)
    assert await store.lookup(transaction(1, 100, 2)) == (Position(1, 100, 2),)
    assert await store.lookup(transaction(1, 102, 0)) == (Position(1, 102, 0),)
    assert await store.lookup(transaction(1, 102, 1)) == (Position(1, 102, 1),)
    assert await store.lookup(transaction(3, 101, 3)) == (Position(3, 101, 3),)
    assert await store.lookup(transaction(9, 9, 9)) == ()


@pytest.mark.usefixtures("small_segments")
async def test_a_transaction_ordered_again_has_both_places(store: IndexStore) -> None:
    again = transaction(1, 100, 7)
    await store.append([(1, sections_of(1, (50,)))])
    await store.append([(2, sections_of(2, (60,)))])
    await store.append([(3, [(5, transaction(3, 5, 0) + again)])])
    assert await store.lookup(again) == (Position(1, 100, 7), Position(3, 5, 1))


def test_an_entry_is_found_only_where_an_entry_begins() -> None:
    """Someone who grinds ids can place a key across two entries, or make it overlap itself."""
    key = b"\x07" * SEGMENT_KEY_BYTES

    def entry(start: bytes, number: int) -> bytes:
        return start + number.to_bytes(4, sys.byteorder)

    across = entry(bytes(12) + key[:4], 0x07070707) + entry(key[:8] + bytes(8), 2)
    assert list(_offsets(across, key)) == []
    assert list(_offsets(across + entry(key, 3) + entry(key, 4), key)) == [3, 4]
    assert list(_offsets(entry(bytes(15) + b"\x07", 0x07070707) + entry(key, 9), key)) == [9], "found a byte early"


@given(
    blocks=st.lists(st.lists(st.integers(0, 30), max_size=3), max_size=20),
    groups=st.integers(1, 4),
    reopen_at=st.integers(0, 20),
)
def test_it_answers_like_a_dictionary(blocks: list[list[int]], groups: int, reopen_at: int) -> None:
    """Any sizes of blocks, segments of 40 entries, appended in groups, with a restart in between."""

    async def check() -> None:
        expected: dict[bytes, tuple[Position, ...]] = {}
        pending: list[tuple[int, Sections]] = []
        height = 0
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "index.db"
            for part in (blocks[:reopen_at], blocks[reopen_at:]):
                async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
                    assert store.height == height
                    for counts in part:
                        height += 1
                        pending.append((height, sections_of(height, tuple(counts))))
                        for number, count in enumerate(counts):
                            for index in range(count):
                                place = Position(height, 100 + number, index)
                                expected[transaction(height, 100 + number, index)] = (place,)
                        if len(pending) == groups:
                            await store.append(pending)
                            pending.clear()
                    await store.append(pending)
                    pending.clear()
                    for transaction_id, places in expected.items():
                        assert await store.lookup(transaction_id) == places
                    assert table_rows(store, "recent") <= len(blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sequencer.storage.index_store.SEGMENT_ENTRIES", 40)
        trio.run(check)


async def test_the_window_is_there_after_a_restart(path: Path) -> None:
    sizes = [(2, 1), (), (0, 3), (1,)]
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        for height in range(1, 31):
            await store.append([(height, sections_of(height, sizes[height % 4]))])
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        recent = await store.recent_ids(21)
        assert recent == tuple(
            BlockIds(height, tuple((rollup, memoryview(ids)) for rollup, ids in sections if ids))
            for height in range(21, 31)
            if (sections := sections_of(height, sizes[height % 4]))
        )
        assert await store.recent_ids(29) == recent[-1:], "height 29 is empty"
        assert await store.recent_ids(31) == ()
        with pytest.raises(ValueError, match="from_height: 20 is below the window of 10 heights up to 30"):
            await store.recent_ids(20)


@pytest.mark.usefixtures("small_segments")
async def test_full_ids_are_kept_only_as_long_as_they_are_needed(store: IndexStore) -> None:
    for height in range(1, 101):
        await store.append([(height, sections_of(height, (20,)))])
        assert table_rows(store, "recent") <= WINDOW + 2
    assert table_rows(store, "segments") == 50
    assert await store.lookup(transaction(1, 100, 19)) == (Position(1, 100, 19),)


async def test_an_open_segment_outlives_the_window(path: Path) -> None:
    """Few transactions: the open segment reaches far behind the window, and is rebuilt from full ids."""
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        for height in range(1, 41):
            await store.append([(height, sections_of(height, (1,)))])
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        assert await store.lookup(transaction(1, 100, 0)) == (Position(1, 100, 0),)
        assert await store.lookup(transaction(40, 100, 0)) == (Position(40, 100, 0),)


@pytest.mark.usefixtures("small_segments")
async def test_pruning_forgets_blocks_and_whole_segments(store: IndexStore) -> None:
    for height in range(1, 41):
        await store.append([(height, sections_of(height, (20,)))])
    await store.prune(30)
    assert await store.lookup(transaction(29, 100, 0)) == ()
    assert await store.lookup(transaction(30, 100, 0)) == (Position(30, 100, 0),)
    assert table_rows(store, "positions") == 11
    assert table_rows(store, "segments") == 6
    assert table_rows(store, "runs") < 6 * 40
    await store.prune(31)
    with pytest.raises(ValueError, match="below_height: 32 lies in the window of 10 heights"):
        await store.prune(32)
    await store.append([(41, sections_of(41, (1,)))])
    assert await store.lookup(transaction(41, 100, 0)) == (Position(41, 100, 0),)


async def test_after_everything_was_pruned_numbers_go_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.storage.index_store.SEGMENT_ENTRIES", 5)
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        await store.append([(1, sections_of(1, (8,))), (50, [])])
        await store.prune(41)
        assert [table_rows(store, table) for table in ("positions", "segments", "runs", "recent")] == [0, 0, 0, 0]
        await store.append([(51, sections_of(51, (3,)))])
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        assert await store.lookup(transaction(51, 100, 2)) == (Position(51, 100, 2),)
        assert await store.lookup(transaction(1, 100, 2)) == ()


async def test_the_registry_is_the_last_one_and_outcomes_stay_with_their_height(path: Path) -> None:
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        assert (await store.registry(), await store.outcomes(1)) == (b"", b"")
        await store.append([(1, sections_of(1, (1,)))], registry=b"first", outcomes=[(1, b"accepted")])
        await store.append([(2, []), (3, sections_of(3, (1,)))], outcomes=[(3, b"ignored")])
        assert await store.registry() == b"first"
        await store.append([(8, [])], registry=b"after a boundary")
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        assert await store.registry() == b"after a boundary"
        assert [await store.outcomes(height) for height in (1, 2, 3, 8)] == [b"accepted", b"", b"ignored", b""]
        await store.append([(20, [])])
        await store.prune(3)
        assert [await store.outcomes(height) for height in (1, 3)] == [b"", b"ignored"]
        assert await store.registry() == b"after a boundary"


async def test_the_registry_goes_back_with_the_cursor(path: Path) -> None:
    with faulty_disk() as disk:
        async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
            await store.append([(1, [])], registry=b"first")
            disk.write_budget_bytes = 0
            with pytest.raises(StorageError, match="the disk is full"):
                await store.append([(2, [])], registry=b"second", outcomes=[(2, b"accepted")])
            disk.write_budget_bytes = None
        async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
            assert (store.height, await store.registry(), await store.outcomes(2)) == (1, b"first", b"")


async def test_what_cannot_follow_is_refused_and_changes_nothing(store: IndexStore) -> None:
    await store.append([(1, sections_of(1, (1,)))])
    with pytest.raises(ValueError, match="block of height 1 after 1"):
        await store.append([(1, [])])
    with pytest.raises(ValueError, match="block of height 2 after 3"):
        await store.append([(3, []), (2, [])])
    with pytest.raises(ValueError, match="ids are not a multiple of 32 bytes"):
        await store.append([(2, [(1, bytes(33))])])
    with pytest.raises(ValueError, match="transaction_id: 31 bytes, not 32"):
        await store.lookup(bytes(31))
    assert store.height == 1
    await store.append([(2, sections_of(2, (1,)))])
    assert await store.lookup(transaction(2, 100, 0)) == (Position(2, 100, 0),)


async def test_a_failed_append_is_found_nowhere(path: Path) -> None:
    with faulty_disk() as disk:
        async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
            await store.append([(1, sections_of(1, (5,)))])
            disk.write_budget_bytes = 0
            with pytest.raises(StorageError, match="the disk is full"):
                await store.append([(2, sections_of(2, (5,)))])
            assert store.height == 1
            assert await store.lookup(transaction(2, 100, 0)) == ()
            disk.write_budget_bytes = None
        async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
            assert store.height == 1
            await store.append([(2, sections_of(2, (5,)))])
            assert await store.lookup(transaction(2, 100, 4)) == (Position(2, 100, 4),)


async def test_an_append_does_not_wait_for_the_disk(path: Path) -> None:
    with faulty_disk() as disk:
        async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
            await store.append([(1, [])])  # a new log syncs its head
            synced = dict(disk.syncs)
            for height in range(2, 10):
                await store.append([(height, sections_of(height, (100,)))])
            assert disk.syncs == synced


async def test_entries_and_cursor_go_back_together_when_the_log_is_lost(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        await store.append([(height, sections_of(height, (10,))) for height in range(1, 6)])
        kept = (await trio.Path(f"{path}-wal").stat()).st_size
        await store.append([(height, sections_of(height, (10,))) for height in range(6, 9)])
        shutil.copy(path, copy)
        log = await trio.Path(f"{path}-wal").read_bytes()
        await trio.Path(f"{copy}-wal").write_bytes(log[: kept + 100])
    async with IndexStore.open(copy, GENESIS, window_heights=WINDOW) as store:
        assert store.height == 5
        assert await store.lookup(transaction(6, 100, 0)) == ()
        await store.append([(height, sections_of(height, (10,))) for height in range(6, 9)])
        assert await store.lookup(transaction(8, 100, 9)) == (Position(8, 100, 9),)


async def test_lookups_beside_the_writing_of_a_segment_miss_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequencer.storage.index_store.SEGMENT_ENTRIES", 10)
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        done = False

        async def look() -> None:
            while not done:
                height = store.height
                if height:
                    assert await store.lookup(transaction(height, 100, 0)) == (Position(height, 100, 0),)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(look)
            for height in range(1, 150):
                await store.append([(height, sections_of(height, (7,)))])
            done = True


async def test_a_damaged_index_says_that_it_can_be_built_again(path: Path) -> None:
    async with IndexStore.open(path, GENESIS, window_heights=WINDOW) as store:
        await store.append([(1, sections_of(1, (5,)))])
        await store._database.write(lambda connection: connection.execute("DELETE FROM recent").fetchall())
    with pytest.raises(StorageError, match=r"index\.db: damaged: recent blocks are missing\. .* delete this file"):
        async with IndexStore.open(path, GENESIS, window_heights=WINDOW):
            pass
