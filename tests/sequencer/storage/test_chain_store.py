"""The journal and the archive: what was appended is what is read back, from the same store and after a restart."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio

from consensus.engine import BlockRecord, CommitRecord, TranscriptRecord
from consensus.types import PATH_LENGTH_MAX, SYNC_BLOCKS_MAX, SYNC_BYTES_MAX, Block
from sequencer.storage import ChainStore, StorageError, chain_tables, open_raw_archive
from sequencer.storage.chain_store import GARBAGE_BLOCKS_MAX, KEEP_HEIGHTS_MIN
from tests.sequencer.storage.chains import (
    GENESIS,
    ancestors,
    append_chain,
    body_of,
    chain,
    child,
    commit,
    proof,
    range_from,
    safety,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.db"


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """Read a closed store with another SQLite."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


# --- the journal ---------------------------------------------------------------------------------------------


async def test_a_new_store_recovers_nothing(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        recovered = await store.recover(0)
        assert (recovered.safety, recovered.blocks, recovered.commits) == ((), (), ())
        assert (recovered.committed_height, recovered.committed_id, recovered.head_proof) == (0, None, None)
        assert (store.committed_height, store.committed_id, store.pruned_below) == (0, None, 1)


async def test_recovery_after_a_restart_returns_everything_that_was_appended(path: Path) -> None:
    (one, two, three, four) = chain(4)
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([BlockRecord(*one), safety("vote", 1)])
        await store.append([BlockRecord(*two), BlockRecord(three[0], bytes(three[1])), safety("timeout", 2)])
        await store.append([commit(one[0], with_proof=False), commit(two[0]), safety("vote", 3)])
        await store.append([BlockRecord(*four)])
    async with ChainStore.open(path, GENESIS) as store:
        assert (store.committed_height, store.committed_id) == (2, two[0].id)
        recovered = await store.recover(0)
    assert recovered.safety == (safety("timeout", 2), safety("vote", 3))
    assert {(stored.header, stored.body) for stored in recovered.blocks} == {
        (block.header, body) for block, body in (two, three, four)
    }
    assert (recovered.committed_height, recovered.committed_id) == (2, two[0].id)
    assert recovered.head_proof == proof(two[0])
    assert [(s.header, s.body, p) for s, p in recovered.commits] == [
        (one[0].header, one[1], None),
        (two[0].header, two[1], proof(two[0])),
    ]


async def test_recovery_repeats_only_commits_above_the_ledger(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, chain(5))
        recovered = await store.recover(3)
        assert [stored.header.height for stored, _ in recovered.commits] == [4, 5]
        assert (await store.recover(5)).commits == ()


async def test_a_ledger_ahead_of_the_journal_means_an_older_copy(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, chain(5))
        with pytest.raises(StorageError, match=r"up to height 5, but the ledger holds 6: this is an older copy"):
            await store.recover(6)


async def test_a_ledger_far_behind_is_not_read_into_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.storage.chain_store.RECOVER_BYTES_MAX", 3 * (800 + 4096))
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, chain(5, size_bytes=800))
        assert len((await store.recover(2)).commits) == 3
        with pytest.raises(StorageError, match="Replay the archive into the ledger first"):
            await store.recover(1)


async def test_of_one_kind_the_last_decision_counts(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([safety("vote", 1), safety("vote", 2)])
        assert (await store.recover(0)).safety == (safety("vote", 2),)
        await store.append([safety("vote", 3)])
        assert (await store.recover(0)).safety == (safety("vote", 3),)


async def test_a_group_is_written_whole_or_not_at_all(path: Path) -> None:
    [(one, body)] = chain(1)
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([safety("vote", 1)])
        with pytest.raises(StorageError, match="a gap"):
            await store.append([BlockRecord(one, body), safety("vote", 2), CommitRecord(2, one.id, None)])
    async with ChainStore.open(path, GENESIS) as store:
        recovered = await store.recover(0)
        assert (recovered.safety, recovered.blocks) == ((safety("vote", 1),), ())


async def test_records_repeat_without_effect(path: Path) -> None:
    [(one, body)] = chain(1)
    async with ChainStore.open(path, GENESIS) as store:
        for with_proof in (False, True, False, True):
            await store.append([BlockRecord(one, body), commit(one, with_proof)])
        assert store.committed_height == 1
        recovered = await store.recover(0)
        assert len(recovered.commits) == 1
        assert recovered.head_proof == proof(one)
    assert rows(path, "SELECT count(*) FROM blocks") == [(1,)]
    assert rows(path, "SELECT count(*) FROM undecided") == [(0,)]


@pytest.mark.parametrize("case", ["gap", "fork", "not stored", "wrong height"])
async def test_a_commit_that_contradicts_the_archive_stops_the_journal(path: Path, case: str) -> None:
    one, two, three = (block for block, _ in chain(3))
    fork = child(one, body_of(2), view=7)
    record, complaint = {
        "gap": (commit(three), "a gap"),
        "fork": (CommitRecord(1, fork.id, None), "two blocks committed at height 1"),
        "not stored": (CommitRecord(2, bytes(32), None), "which was not stored"),
        "wrong height": (CommitRecord(2, three.id, None), "which is not its own"),
    }[case]
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, [(one, body_of(1))])
        await store.append([BlockRecord(block, body_of(block.header.height)) for block in (two, three, fork)])
        with pytest.raises(StorageError, match=complaint):
            await store.append([record])
        with pytest.raises(StorageError, match="nothing more is written after the first failure"):
            await store.append([commit(two)])
        assert store.committed_height == 1


async def test_losing_blocks_are_deleted_a_few_with_each_commit(path: Path) -> None:
    blocks = chain(4)
    losers = [child(None, b"", view=100 + view) for view in range(GARBAGE_BLOCKS_MAX + 2)]
    open_fork = child(blocks[2][0], b"", view=200)
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([BlockRecord(block, b"") for block in (*losers, open_fork)])
        await append_chain(store, blocks[:1])
        assert [await store.block_by_id(loser.id) is None for loser in losers] == [True] * 8 + [False] * 2
        recovered = await store.recover(0)
        assert [stored.header for stored in recovered.blocks] == [open_fork.header, blocks[0][0].header], (
            "none that lost"
        )
        await append_chain(store, blocks[1:3])
        assert [await store.block_by_id(loser.id) is None for loser in losers] == [True] * 10
        assert await store.block_by_id(open_fork.id) is not None, "it stands above the committed head"
        await append_chain(store, blocks[3:])
        assert await store.block_by_id(open_fork.id) is None
        assert [(await store.block_by_id(block.id)) is not None for block, _ in blocks] == [True] * 4


# --- reads ---------------------------------------------------------------------------------------------------


async def test_blocks_are_read_by_height_and_by_id(path: Path) -> None:
    blocks = chain(5)
    undecided = child(blocks[-1][0], b"undecided")
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, blocks)
        await store.append([BlockRecord(undecided, b"undecided")])
        for block, body in blocks:
            assert await store.block_at(block.header.height) == (block, body)
            assert await store.block_by_id(block.id) == (block, body)
        assert await store.block_by_id(undecided.id) == (undecided, memoryview(b"undecided"))
        assert await store.block_by_id(bytes(32)) is None
        assert await store.block_at(0) is None
        assert await store.block_at(6) is None, "height 6 is stored, not committed"


async def test_a_read_of_several_blocks_is_capped(path: Path) -> None:
    blocks = chain(6, size_bytes=800)
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, blocks)
        assert await store.blocks_from(2, limit=3, bytes_max=10_000) == tuple(blocks[1:4])
        assert await store.blocks_from(2, limit=9, bytes_max=1600) == tuple(blocks[1:4]), "the one that crosses is last"
        assert await store.blocks_from(2, limit=9, bytes_max=1599) == tuple(blocks[1:3])
        assert await store.blocks_from(5, limit=9, bytes_max=0) == tuple(blocks[4:5])
        assert await store.blocks_from(7, limit=9, bytes_max=1) == ()


async def test_ancestors_are_loaded_newest_first_down_to_a_height(path: Path) -> None:
    blocks = chain(6)
    undecided = child(blocks[-1][0], b"x")
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, blocks)
        await store.append([BlockRecord(undecided, b"x")])
        loaded = await store.load(ancestors(undecided, above_height=3))
        assert [stored.header.height for stored in loaded.blocks] == [7, 6, 5, 4]
        assert [bytes(stored.body) for stored in loaded.blocks] == [b"x", blocks[5][1], blocks[4][1], blocks[3][1]]
        assert (loaded.proof, loaded.pruned_below, loaded.head) == (None, 1, 6)
        assert len((await store.load(ancestors(undecided))).blocks) == 7
        assert (await store.load(ancestors(undecided, above_height=7))).blocks == ()
        assert (await store.load(ancestors(child(undecided)))).blocks == (), "not held here"


async def test_an_answer_is_capped_in_blocks(path: Path) -> None:
    blocks = chain(SYNC_BLOCKS_MAX + 9, size_bytes=8)
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([BlockRecord(*row) for row in blocks] + [commit(block) for block, _ in blocks])
        loaded = await store.load(range_from(2))
        assert [stored.header.height for stored in loaded.blocks] == list(range(2, SYNC_BLOCKS_MAX + 2))
        assert loaded.proof == proof(blocks[SYNC_BLOCKS_MAX][0])
        loaded = await store.load(ancestors(blocks[-1][0]))
        assert [stored.header.height for stored in loaded.blocks] == list(range(SYNC_BLOCKS_MAX + 9, 9, -1))


async def test_an_answer_is_capped_in_bytes(path: Path) -> None:
    blocks = chain(6, size_bytes=SYNC_BYTES_MAX // 4)
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, blocks)
        assert [s.header.height for s in (await store.load(range_from(1))).blocks] == [1, 2, 3, 4, 5]
        assert [s.header.height for s in (await store.load(ancestors(blocks[5][0]))).blocks] == [6, 5, 4, 3, 2]


async def test_a_range_ends_where_a_proof_is_stored_or_extends_to_the_next(path: Path) -> None:
    """Proofs at 3 and 6; 6's own runs over 7 and 8.

    1  2  3  4  5  6  (7  8)
          P        P
    """
    blocks = chain(8, size_bytes=SYNC_BYTES_MAX // 2)
    four, five, six, seven, eight = (block for block, _ in blocks[3:])
    async with ChainStore.open(path, GENESIS) as store:
        for block, body in blocks:
            await store.append([BlockRecord(block, body)])
        await store.append([commit(block, block.header.height == 3) for block, _ in blocks[:3]])
        await store.append(
            [commit(four, False), commit(five, False), CommitRecord(6, six.id, proof(six, seven, eight))]
        )
        answers = {}
        for start in range(1, 8):
            loaded = await store.load(range_from(start))
            headers = loaded.proof and [header.height for header in loaded.proof.headers]
            answers[start] = ([stored.header.height for stored in loaded.blocks], headers)
            assert loaded.head == 6
        assert answers == {
            1: ([1, 2, 3], []),
            2: ([2, 3], []),
            3: ([3], []),
            4: ([4, 5, 6], [7, 8]),
            5: ([5, 6], [7, 8]),
            6: ([6], [7, 8]),
            7: ([], None),
        }


async def test_a_range_without_a_stored_proof_takes_the_next_one(path: Path) -> None:
    blocks = chain(6, size_bytes=SYNC_BYTES_MAX)
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, blocks, unproven=frozenset({1, 2, 3, 4, 5}))
        loaded = await store.load(range_from(1))
        assert [stored.header.height for stored in loaded.blocks] == [1, 2]
        assert loaded.proof is not None
        assert loaded.proof.headers == tuple(block.header for block, _ in blocks[2:])
        assert loaded.proof.certificate == proof(blocks[5][0]).certificate


async def test_every_committed_height_has_a_proof(path: Path) -> None:
    blocks = [block for block, _ in chain(7)]
    tip = child(blocks[-1])
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([BlockRecord(block, body_of(block.header.height)) for block in blocks])
        await store.append([commit(block, block.header.height in (2, 5)) for block in blocks[:6]])
        await store.append([CommitRecord(7, blocks[6].id, proof(blocks[6], tip))])
        found = {height: await store.proof_for(height) for height in range(9)}
    assert found[0] is None
    assert found[8] is None
    assert found[2] == proof(blocks[1])
    assert found[5] == proof(blocks[4])
    assert found[7] == proof(blocks[6], tip)
    assert found[1] == proof(blocks[0], blocks[1])
    assert found[3] == proof(blocks[2], blocks[3], blocks[4])
    assert found[6] == proof(blocks[5], blocks[6], tip), "the block's descendants, then those of the stored proof"


async def test_a_confirmation_is_kept_and_proves_the_ancestors_too(path: Path) -> None:
    """A proof of two quorums over one block (order votes) comes back as it was, in every answer that holds a proof."""
    blocks = [block for block, _ in chain(3)]
    top = blocks[2]
    direct = proof(top)
    confirmed = msgspec.structs.replace(
        direct, confirmation=msgspec.structs.replace(direct.certificate, kind="order", signers=b"\x0b")
    )
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([BlockRecord(block, body_of(block.header.height)) for block in blocks])
        await store.append([commit(block, with_proof=False) for block in blocks[:2]])
        await store.append([CommitRecord(3, top.id, confirmed)])
    async with ChainStore.open(path, GENESIS) as store:
        assert await store.proof_for(3) == confirmed
        below = await store.proof_for(1)
        assert below == msgspec.structs.replace(confirmed, headers=(blocks[1].header, top.header))
        assert (await store.load(range_from(1))).proof == confirmed
        recovered = await store.recover(0)
        assert recovered.head_proof == confirmed
        assert recovered.commits[-1][1] == confirmed


async def test_a_proof_longer_than_a_path_is_not_made(path: Path) -> None:
    blocks = [block for block, _ in chain(PATH_LENGTH_MAX + 2, size_bytes=8)]
    last, tip = blocks[-1], child(blocks[-1])
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([BlockRecord(block, body_of(block.header.height, 8)) for block in blocks])
        await store.append([commit(block, with_proof=False) for block in blocks[:-1]])
        await store.append([CommitRecord(last.header.height, last.id, proof(last, tip))])
        assert await store.proof_for(1) is None
        assert await store.proof_for(2) is None
        assert (await store.load(range_from(1))).proof is not None, "it ends further up"
        longest = await store.proof_for(3)
        assert longest is not None
        assert longest.headers == tuple(block.header for block in (*blocks[3:], tip))


# --- pruning -------------------------------------------------------------------------------------------------


async def pruned_store(store: ChainStore, extra: int) -> list[tuple[Block, memoryview]]:
    blocks = chain(KEEP_HEIGHTS_MIN + extra, size_bytes=8)
    await store.append([BlockRecord(*row) for row in blocks] + [commit(block) for block, _ in blocks])
    return blocks


async def test_pruning_keeps_the_last_heights_and_remembers(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        blocks = await pruned_store(store, 30)
        assert await store.prune(KEEP_HEIGHTS_MIN + 5, ledger_height=10_000) == 26
        assert await store.prune(KEEP_HEIGHTS_MIN + 9, ledger_height=10_000) == 26, "it never goes back"
        assert await store.block_at(25) is None
        assert await store.block_by_id(blocks[24][0].id) is None
        assert await store.proof_for(25) is None
        assert await store.block_at(26) == blocks[25]
    async with ChainStore.open(path, GENESIS) as store:
        assert store.pruned_below == 26
        loaded = await store.load(range_from(25))
        assert (loaded.blocks, loaded.proof, loaded.pruned_below) == ((), None, 26)
        assert (await store.load(range_from(26))).blocks[0].header.height == 26
        loaded = await store.load(ancestors(blocks[29][0]))
        assert [stored.header.height for stored in loaded.blocks] == [30, 29, 28, 27, 26]
        assert next(stored.header.height for stored, _ in (await store.recover(3)).commits) == 26
    assert rows(path, "SELECT count(*) FROM blocks") == rows(path, "SELECT count(*) FROM commits")


async def test_pruning_waits_for_the_ledger(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await pruned_store(store, 30)
        assert await store.prune(KEEP_HEIGHTS_MIN, ledger_height=7) == 8
        assert await store.block_at(8) is not None


async def test_pruning_refuses_to_keep_too_little(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        with pytest.raises(ValueError, match="keep_heights: 255 is below 256"):
            await store.prune(KEEP_HEIGHTS_MIN - 1, ledger_height=0)


async def test_commits_go_on_between_the_chunks_of_pruning(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        blocks = await pruned_store(store, 64)
        order: list[str] = []

        async def prune() -> None:
            await store.prune(KEEP_HEIGHTS_MIN, ledger_height=10_000)
            order.append("pruned")

        async def append() -> None:
            await store.append([safety("vote", 1)])
            order.append("appended")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(prune)
            nursery.start_soon(append)
        assert order == ["appended", "pruned"]
        assert store.pruned_below == 65
        assert await store.block_at(65) == blocks[64]


# --- the transcript ------------------------------------------------------------------------------------------


async def test_the_last_proofs_are_kept_once_each(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_tables, "TRANSCRIPT_PROOFS_MAX", 3)
    async with ChainStore.open(path, GENESIS) as store:
        for number in (1, 2, 2, 3, 1, 4, 5):
            await store.append([TranscriptRecord(b"proof %d" % number)])
        assert (await store.recover(0)).transcript == (b"proof 3", b"proof 4", b"proof 5")
    with open_raw_archive(path) as archive:
        kept = list(archive.raw_transcript())
    assert [each.proof for each in kept] == [b"proof 3", b"proof 4", b"proof 5"]
    assert all(hashlib.sha256(each.proof).digest() == each.digest for each in kept)


async def test_one_height_is_read_by_itself(path: Path) -> None:
    blocks = chain(3)
    async with ChainStore.open(path, GENESIS) as store:
        await append_chain(store, blocks, unproven=frozenset((2,)))
    with open_raw_archive(path) as archive:
        row = archive.raw_block(2)
        assert row is not None
        assert (row.height, row.id, row.proof) == (2, blocks[1][0].id, None)
        assert archive.raw_block(4) is None
