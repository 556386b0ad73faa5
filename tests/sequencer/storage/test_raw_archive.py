"""Raw reading of a stopped node's archive: every byte as it lies there, and nothing written."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from consensus import codec
from sequencer.storage import ChainStore, StorageError, open_raw_archive
from tests.sequencer.storage.chains import GENESIS, append_chain, chain, proof


def bytes_of(path: Path) -> dict[str, bytes]:
    """A database's file and its log, by suffix."""
    return {suffix: path.with_name(path.name + suffix).read_bytes() for suffix in ("", "-wal")}


async def stopped_store(path: Path, length: int) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, chain(length), unproven=frozenset({2}))


async def test_every_committed_block_is_read_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    await stopped_store(path, 3)
    with open_raw_archive(path) as archive:
        assert (archive.genesis_hash, archive.pruned_below) == (GENESIS, 1)
        raw = list(archive.raw_blocks())
    expected = [
        (
            block.header.height,
            block.id,
            codec.encode(block.header),
            bytes(body),
            None if block.header.height == 2 else codec.encode(proof(block)),
        )
        for block, body in chain(3)
    ]
    assert [(r.height, r.id, r.header, r.body, r.proof) for r in raw] == expected


async def test_a_changed_byte_is_handed_on_and_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    await stopped_store(path, 3)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE blocks SET header = x'00', body = x'ff' WHERE number = 2")
        connection.commit()
    with open_raw_archive(path) as archive:
        assert [(raw.header, raw.body) for raw in archive.raw_blocks()][1] == (b"\x00", b"\xff")


async def test_a_missing_block_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    await stopped_store(path, 3)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM blocks WHERE number = 2")
        connection.commit()
    with (
        open_raw_archive(path) as archive,
        pytest.raises(StorageError, match=r"chain\.db: damaged: the block committed at height 2 is missing"),
    ):
        list(archive.raw_blocks())


async def test_a_running_node_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    async with ChainStore.open(path, GENESIS):
        with pytest.raises(StorageError, match=r"chain\.db: a running node has it open"), open_raw_archive(path):
            pass
    with open_raw_archive(path):
        with pytest.raises(StorageError, match="a running node has it open"):
            async with ChainStore.open(path, GENESIS):
                pass
        with open_raw_archive(path):
            pass


async def test_a_log_that_a_killed_node_left_is_read_and_left(tmp_path: Path) -> None:
    source, path = tmp_path / "chain.db", tmp_path / "copy.db"
    async with ChainStore.open(source, GENESIS) as store:
        await append_chain(store, chain(3))
        for suffix in ("", "-wal"):  # what a kill -9 leaves
            shutil.copy(f"{source}{suffix}", f"{path}{suffix}")
    before = bytes_of(path)
    assert len(before["-wal"]) > len(before[""])
    with open_raw_archive(path) as archive:
        assert len(list(archive.raw_blocks())) == 3
    assert bytes_of(path) == before


async def test_a_clean_archive_is_read_without_writing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    await stopped_store(path, 3)
    before = sorted(os.listdir(tmp_path))
    with open_raw_archive(path) as archive:
        assert len(list(archive.raw_blocks())) == 3
    assert sorted(os.listdir(tmp_path)) == before == ["chain.db", "chain.db.lock"]


def test_what_is_not_a_chain_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    with pytest.raises(StorageError, match=r"chain\.db: unable to open"), open_raw_archive(path):
        pass
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"chain\.db: damaged: file is not a database"), open_raw_archive(path):
        pass
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
    with (
        pytest.raises(StorageError, match=r"other\.db: not a safety journal and block archive"),
        open_raw_archive(tmp_path / "other.db"),
    ):
        pass
