"""The file under the stores: its settings, its owner, and a log that stays small."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw
import pytest
import trio

from sequencer.storage import ChainStore, StorageError
from sequencer.storage.chain_tables import CHAIN_LAYOUT
from sequencer.storage.database import Layout, open_database, set_pragma
from tests.sequencer.storage.chains import GENESIS, append_chain, chain, safety
from tests.sequencer.storage.faults import faulty_disk

NOTES = Layout(
    name="notebook",
    version=3,
    statements=("CREATE TABLE notes (text BLOB NOT NULL) STRICT",),
    synchronous="FULL",
    repair="Buy a new one.",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.db"


def write_note(connection: apsw.Connection) -> None:
    connection.execute("INSERT INTO notes VALUES (?)", (bytes(20_000),))


def count(connection: apsw.Connection) -> int:
    number = connection.execute("SELECT count(*) FROM notes").get
    assert isinstance(number, int)
    return number


async def log_bytes(path: Path) -> int:
    return (await trio.Path(f"{path}-wal").stat()).st_size


async def test_every_connection_has_the_settings(path: Path) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "fullfsync": 1,
        "checkpoint_fullfsync": 1,
        "wal_autocheckpoint": 0,
        "cell_size_check": 1,
        "trusted_schema": 0,
        "page_size": 8192,
    }

    def settings(connection: apsw.Connection) -> dict[str, object]:
        return {name: connection.pragma(name) for name in expected}

    async with open_database(path, NOTES, GENESIS) as database:
        assert await database.write(settings) == expected
        assert await database.read(settings) == expected
        assert settings(database._checkpointer) == expected


async def test_a_setting_that_does_not_take_is_an_error(path: Path) -> None:
    async with open_database(path, NOTES, GENESIS) as database:
        with pytest.raises(StorageError, match=r"kept page_size at 8192, not 4096"):
            await database.read(lambda connection: set_pragma(connection, "page_size", 4096))


async def test_a_reader_cannot_write(path: Path) -> None:
    async with open_database(path, NOTES, GENESIS) as database:
        with pytest.raises(StorageError, match="readonly"):
            await database.read(write_note)
        await database.write(write_note)


async def test_a_read_sees_one_state_beside_a_write(path: Path) -> None:
    async with open_database(path, NOTES, GENESIS) as database:

        def count_twice(connection: apsw.Connection) -> tuple[int, int]:
            before = count(connection)
            trio.from_thread.run(database.write, write_note)
            return before, count(connection)

        assert await database.read(count_twice) == (0, 0)
        assert await database.read(count) == 1


async def test_the_log_is_copied_beside_the_commits_and_stays_small(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequencer.storage.database.CHECKPOINT_BYTES", 200_000)
    monkeypatch.setattr("sequencer.storage.database.LOG_BYTES_HIGH", 1_000_000)
    monkeypatch.setattr("sequencer.storage.database.LOG_BYTES_MAX", 2_000_000)
    async with open_database(path, NOTES, GENESIS) as database:
        copied_on: list[str] = []
        copy_log = database._copy_log

        def spy(connection: apsw.Connection) -> None:
            copied_on.append("writer" if connection is database._writer else "checkpointer")
            copy_log(connection)

        monkeypatch.setattr(database, "_copy_log", spy)
        for _ in range(400):  # 13 MB
            await database.write(write_note)
            assert await log_bytes(path) < 2_100_000
        assert copied_on.count("checkpointer") >= 3
        assert (await trio.Path(path).stat()).st_size > 6_000_000
        assert await database.read(count) == 400


async def test_a_log_at_its_bound_is_copied_by_the_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.storage.database.CHECKPOINT_BYTES", 1 << 40)
    monkeypatch.setattr("sequencer.storage.database.LOG_BYTES_MAX", 300_000)
    async with open_database(path, NOTES, GENESIS) as database:
        for _ in range(100):
            await database.write(write_note)
            assert await log_bytes(path) < 300_000 + 40_000
        assert await database.read(count) == 100


async def test_a_clean_close_leaves_no_log(path: Path) -> None:
    async with open_database(path, NOTES, GENESIS) as database:
        await database.write(write_note)
        assert await trio.Path(f"{path}-wal").exists()
    assert not await trio.Path(f"{path}-wal").exists()


async def test_an_opening_first_brings_a_left_log_into_the_file(path: Path, tmp_path: Path) -> None:
    """The log may hold pages whose sync failed before the kill: they are in the system's cache and not on the disk."""
    copy = tmp_path / "copy.db"
    async with open_database(path, NOTES, GENESIS) as database:
        await database.write(write_note)
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with faulty_disk() as disk:
        async with open_database(copy, NOTES, GENESIS) as database:
            assert disk.writes["database"] >= 3
            assert disk.syncs["database"] >= 1
            assert await log_bytes(copy) == 0
            assert await database.read(count) == 1


async def test_a_connection_that_has_read_nothing_yet_can_checkpoint(path: Path) -> None:
    async with open_database(path, NOTES, GENESIS) as database:
        await database.write(write_note)
        log_pages, copied_pages = database._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        assert log_pages == copied_pages > 2


async def test_a_link_to_the_file_has_its_lock(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "file.db"
    link.symlink_to(path)
    async with open_database(path, NOTES, GENESIS):
        with pytest.raises(StorageError, match="a running node has it open"):
            async with open_database(link, NOTES, GENESIS):
                pass


async def test_after_closing_every_call_is_refused(path: Path) -> None:
    async with open_database(path, NOTES, GENESIS) as database:
        pass
    with pytest.raises(StorageError, match=r"file\.db: closed"):
        await database.write(write_note)
    with pytest.raises(StorageError, match=r"file\.db: closed"):
        await database.read(write_note)


async def test_closing_waits_for_what_runs(path: Path) -> None:
    started, release = trio.Event(), trio.Event()

    def slow(connection: apsw.Connection) -> None:
        trio.from_thread.run_sync(started.set)
        trio.from_thread.run(release.wait)
        write_note(connection)

    async def let_go() -> None:
        await trio.testing.wait_all_tasks_blocked()
        release.set()

    async with trio.open_nursery() as nursery, open_database(path, NOTES, GENESIS) as database:
        nursery.start_soon(database.write, slow)
        await started.wait()
        nursery.start_soon(let_go)
    assert release.is_set()
    async with open_database(path, NOTES, GENESIS) as database:
        assert await database.read(count) == 1


async def test_a_job_that_raises_undoes_its_transaction_and_stops_the_writer(path: Path) -> None:
    def bug(connection: apsw.Connection) -> None:
        write_note(connection)
        raise ZeroDivisionError("a bug of ours")

    async with open_database(path, NOTES, GENESIS) as database:
        with pytest.raises(ZeroDivisionError):
            await database.write(bug)
        with pytest.raises(StorageError, match="after the first failure: a bug of ours"):
            await database.write(write_note)
    async with open_database(path, NOTES, GENESIS) as database:
        assert await database.read(count) == 0


async def test_a_second_opening_is_refused_until_the_first_is_closed(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([safety("vote", 1)])
        with pytest.raises(StorageError, match=r"file\.db: a running node has it open. Stop that node first"):
            async with ChainStore.open(path, GENESIS):
                pass
        await store.append([safety("vote", 2)])
    async with ChainStore.open(path, GENESIS) as store:
        assert (await store.recover(0)).safety == (safety("vote", 2),)


async def test_another_chain_is_refused_naming_both(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, chain(1))
    with pytest.raises(StorageError) as caught:
        async with ChainStore.open(path, bytes(32)):
            pass
    assert GENESIS.hex() in str(caught.value)
    assert bytes(32).hex() in str(caught.value)


async def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    async with open_database(path, NOTES, GENESIS):
        pass
    with pytest.raises(StorageError, match=r"holds a notebook, not a safety journal and block archive"):
        async with ChainStore.open(path, GENESIS):
            pass
    newer = Layout(name="notebook", version=4, statements=(), synchronous="FULL", repair="")
    with pytest.raises(StorageError, match=r"written in version 3 of the notebook's layout; this program reads .* 4"):
        async with open_database(path, newer, GENESIS):
            pass
    await trio.Path(path).write_bytes(b"no database at all, but long enough to look at" * 500)
    with pytest.raises(StorageError, match=r"file\.db: damaged: file is not a database"):
        async with ChainStore.open(path, GENESIS):
            pass
    with pytest.raises(StorageError, match=r"No such file or directory.*Check that the directory exists"):
        async with ChainStore.open(tmp_path / "absent" / "chain.db", GENESIS):
            pass
    with pytest.raises(ValueError, match="genesis_hash: 3 bytes, not 32"):
        async with ChainStore.open(path, b"abc"):
            pass


def test_the_bounds_are_those_of_the_layout() -> None:
    assert CHAIN_LAYOUT.synchronous == "FULL", "safety data is synced at every commit"
