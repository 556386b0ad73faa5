"""What a disk can do to a node: be full, fail, lose the end of the log, or change a byte."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consensus.engine import BlockRecord, Recovered
from consensus.types import Block
from sequencer.storage import ChainStore, StorageError
from tests.sequencer.storage.chains import GENESIS, append_chain, chain, commit, safety
from tests.sequencer.storage.faults import Disk, faulty_disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.db"


@pytest.fixture
async def store(disk: Disk, path: Path) -> AsyncIterator[ChainStore]:
    async with ChainStore.open(path, GENESIS) as store:
        yield store


async def append_until_refused(store: ChainStore, blocks: list[tuple[Block, memoryview]]) -> tuple[int, StorageError]:
    """How many appends were acknowledged, and the first refusal."""
    for acknowledged, (block, body) in enumerate(blocks):
        try:
            await store.append([BlockRecord(block, body), commit(block), safety("vote", block.header.height)])
        except StorageError as error:
            return acknowledged, error
    raise AssertionError("never refused")


# --- a disk that refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_bytes", [0, 20_000, 100_001, 250_000])
async def test_a_full_disk_stops_the_journal_and_loses_nothing_acknowledged(
    disk: Disk, path: Path, budget_bytes: int
) -> None:
    blocks = chain(40, size_bytes=8000)
    async with ChainStore.open(path, GENESIS) as store:
        disk.write_budget_bytes = budget_bytes
        acknowledged, error = await append_until_refused(store, blocks)
        assert str(error).startswith(f"{path}: the disk is full (")
        assert "Free space on its file system, then start again" in str(error)
        assert (acknowledged > 0) is (budget_bytes > 20_000)
        disk.write_budget_bytes = None  # space again, but the journal stays stopped
        with pytest.raises(StorageError, match=r"nothing more is written after the first failure: .* the disk is full"):
            await store.append([safety("vote", 100)])
        assert store.committed_height == acknowledged
    async with ChainStore.open(path, GENESIS) as store:
        recovered = await store.recover(0)
        assert recovered.committed_height == acknowledged
        assert [stored.body for stored, _ in recovered.commits] == [body for _, body in blocks[:acknowledged]]
        assert recovered.safety == ((safety("vote", acknowledged),) if acknowledged else ())
        await append_chain(store, blocks[acknowledged:])
        assert store.committed_height == 40


async def test_an_append_returns_only_after_the_log_was_synced(store: ChainStore, disk: Disk) -> None:
    await store.append([safety("vote", 0)])  # a new log also syncs its head
    for value in range(1, 4):
        synced = disk.syncs["log"]
        await store.append([safety("vote", value)])
        assert disk.syncs["log"] == synced + 1


async def test_a_failed_sync_is_final(disk: Disk, path: Path) -> None:
    """After a failed sync a second one may succeed although the pages are gone."""
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([safety("vote", 1)])
        disk.sync_fails = True
        with pytest.raises(StorageError, match="failed to sync"):
            await store.append([safety("vote", 2)])
        disk.sync_fails = False
        written = dict(disk.writes)
        with pytest.raises(StorageError, match="nothing more is written after the first failure"):
            await store.append([safety("vote", 3)])
    assert disk.writes == written, "closing does not copy the log either"
    async with ChainStore.open(path, GENESIS) as store:
        assert (await store.recover(0)).safety[0] in (safety("vote", 1), safety("vote", 2))
        await store.append([safety("vote", 4)])


async def test_reads_go_on_after_a_failed_write(store: ChainStore, disk: Disk) -> None:
    blocks = chain(2)
    await append_chain(store, blocks)
    disk.write_budget_bytes = 0
    with pytest.raises(StorageError):
        await store.append([safety("vote", 1)])
    assert await store.block_at(2) == blocks[1]


async def test_a_disk_that_refuses_a_checkpoint_stops_the_next_append(
    store: ChainStore, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequencer.storage.database.LOG_BYTES_MAX", 1)  # every commit copies the log itself
    await store.append([safety("vote", 1)])
    disk.write_budget_bytes = 8192 + 24 + 1000  # enough for one page in the log
    await store.append([safety("vote", 2)])
    disk.write_budget_bytes = None
    with pytest.raises(StorageError, match="nothing more is written after the first failure"):
        await store.append([safety("vote", 3)])
    assert (await store.recover(0)).safety == (safety("vote", 2),)


async def test_an_append_that_is_cancelled_while_it_waits_writes_nothing(store: ChainStore) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.append([safety("vote", 1)])
    assert scope.cancelled_caught
    assert (await store.recover(0)).safety == ()
    await store.append([safety("vote", 2)])


# --- the end of the log --------------------------------------------------------------------------------------


class Log:
    """Files as a kill left them after twelve appends: the log's size, and what a start would recover, after each."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "chain.db"
        self.log = directory / "chain.db-wal"
        self.sizes: list[int] = []
        self.recovered: list[Recovered] = []
        trio.run(self._fill, directory / "running.db")

    async def _fill(self, running: Path) -> None:
        async with ChainStore.open(running, GENESIS) as store:
            await self._note(store, running)
            for block, body in chain(12, size_bytes=4000):
                await store.append([BlockRecord(block, body), commit(block), safety("vote", block.header.height)])
                await self._note(store, running)
            shutil.copy(running, self.path)
            shutil.copy(f"{running}-wal", self.log)

    async def _note(self, store: ChainStore, running: Path) -> None:
        self.sizes.append((await trio.Path(f"{running}-wal").stat()).st_size)
        self.recovered.append(await store.recover(0))

    def recover_with(self, log: bytes) -> Recovered:
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / "chain.db"
            shutil.copy(self.path, copy)
            Path(f"{copy}-wal").write_bytes(log)
            return trio.run(self._recover, copy)

    async def _recover(self, path: Path) -> Recovered:
        async with ChainStore.open(path, GENESIS) as store:
            recovered = await store.recover(0)
            await store.append([safety("after", 1)])
            return recovered


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log"))


@settings(max_examples=40)
@given(share=st.floats(0, 1))
@example(share=1.0)
@example(share=0.0)
def test_a_log_cut_anywhere_keeps_the_appends_before_the_cut(log: Log, share: float) -> None:
    whole = log.log.read_bytes()
    cut = int(share * len(whole))
    complete = sum(size <= cut for size in log.sizes[1:])
    assert log.recover_with(whole[:cut]) == log.recovered[complete]


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_in_the_log_costs_only_what_follows(log: Log, share: float, flip: int) -> None:
    damaged = bytearray(log.log.read_bytes())
    position = int(share * len(damaged))
    damaged[position] ^= flip
    complete = sum(size <= position for size in log.sizes[1:])
    assert log.recover_with(bytes(damaged)) in log.recovered[complete:]


# --- a changed byte in the database file ---------------------------------------------------------------------


class Closed:
    """A closed store of forty blocks."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "chain.db"
        self.blocks = chain(40, size_bytes=400)
        trio.run(self._fill)

    async def _fill(self) -> None:
        async with ChainStore.open(self.path, GENESIS) as store:
            await append_chain(store, self.blocks)
            await store.append([safety("vote", 1), safety("timeout", 2)])


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Closed:
    return Closed(tmp_path_factory.mktemp("closed"))


async def read_everything(path: Path, blocks: list[tuple[Block, memoryview]]) -> None:
    """Whatever is still read is what was written. (A body is covered by its root, which others check.)"""
    async with ChainStore.open(path, GENESIS) as store:
        for block, _ in blocks:
            for found in (await store.block_at(block.header.height), await store.block_by_id(block.id)):
                assert found is None or found[0] == block
            await store.proof_for(block.header.height)
        recovered = await store.recover(0)
        assert set(recovered.safety) <= {safety("vote", 1), safety("timeout", 2)}


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_in_the_file_is_refused_or_harmless(closed: Closed, share: float, flip: int) -> None:
    damaged = bytearray(closed.path.read_bytes())
    damaged[int(share * len(damaged))] ^= flip
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "chain.db"
        copy.write_bytes(damaged)
        with contextlib.suppress(StorageError):
            trio.run(read_everything, copy, closed.blocks)


def test_a_changed_header_names_the_file(closed: Closed, tmp_path: Path) -> None:
    parent = closed.blocks[6][0].header.parent
    in_header = parent + b"\x98"  # the justify certificate follows; pages may hold stale copies, so all are changed
    copy = tmp_path / "chain.db"
    copy.write_bytes(closed.path.read_bytes().replace(in_header, parent[:-1] + b"?\x98"))
    with pytest.raises(StorageError, match=r"chain\.db: damaged: header of block [0-9a-f]{64} hashes to another id"):
        trio.run(read_everything, copy, closed.blocks)


def test_a_changed_safety_record_is_refused(closed: Closed, tmp_path: Path) -> None:
    copy = tmp_path / "chain.db"
    copy.write_bytes(closed.path.read_bytes().replace(b"state 2", b"state 3"))
    with pytest.raises(
        StorageError, match=r"the safety record of kind 'timeout' does not match its digest. A validator must not go on"
    ):
        trio.run(read_everything, copy, closed.blocks)
