"""Epochs in the chain store: written whole or not at all, in their order within one append, read back and checked.

::

    b1 <- b2 (names the next validators) | b3 <- b4 (names them) | b5        epochs 0, 1, 2
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio

from consensus.codec import block_of
from consensus.engine import BlockRecord, EpochRecord, Record, Recovered, SafetyRecord
from consensus.epochs import EpochChange
from consensus.finality.types import FFG
from consensus.types import Block, BlockHeader
from sequencer.storage import ChainStore, StorageError
from tests.sequencer.storage.chains import GENESIS, child, commit, proof, range_from, safety
from tests.support.committee import committee
from tests.support.hosts import members

SETS = [members(committee().scheme, *numbers) for numbers in ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5))]
BOUNDARIES = {2: 1, 4: 2}
"""Height -> the epoch that begins above."""


def blocks(length: int = 5) -> list[Block]:
    made: list[Block] = []
    for height in range(1, length + 1):
        header: BlockHeader = child(made[-1] if made else None).header
        names = SETS[BOUNDARIES[height]].hash if height in BOUNDARIES else b""
        epoch = sum(boundary < height for boundary in BOUNDARIES)
        made.append(block_of(msgspec.structs.replace(header, next_validators_hash=names, epoch=epoch)))
    return made


BLOCKS = blocks()


def change_after(boundary: Block) -> EpochChange:
    validators = SETS[boundary.header.epoch + 1].validators
    return EpochChange(boundary=boundary.header, validators=validators, proof=proof(boundary))


CHANGES = (change_after(BLOCKS[1]), change_after(BLOCKS[3]))


def committed(block: Block) -> list[Record]:
    return [BlockRecord(block, b""), commit(block)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.db"


async def fill(store: ChainStore, upto: int = 5) -> None:
    """One append per block; each epoch begins in an append of its own, with its first decision."""
    for block in BLOCKS[:upto]:
        height = block.header.height
        await store.append([*committed(block), safety("vote", height)])
        if height in BOUNDARIES:
            await store.append([EpochRecord(change_after(block)), safety("timeout", height)])


async def test_the_last_change_is_recovered_and_all_are_served(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        assert await store.epoch_changes() == ()
        assert (await store.recover(0)).epoch_change is None
        await fill(store)
    async with ChainStore.open(path, GENESIS) as store:
        assert await store.epoch_changes() == CHANGES
        assert await store.epoch_changes(2) == CHANGES[1:]
        assert await store.epoch_changes(1, 1) == CHANGES[:1]
        assert await store.epoch_changes(len(CHANGES) + 1) == ()
        assert await store.newest_epoch() == len(CHANGES)
        assert (await store.recover(0)).epoch_change == CHANGES[1]


async def test_what_was_signed_in_the_old_epoch_goes_and_finality_s_stays(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([safety("vote", 1), safety("timeout", 1), safety(FFG, 1)])
        await store.append([EpochRecord(CHANGES[0])])
        assert (await store.recover(0)).safety == (safety(FFG, 1),)


async def test_within_one_append_the_order_counts(path: Path) -> None:
    """The old epoch's last decision, the change, and the new one's first, of one kind and in one transaction."""
    old, new = safety("vote", 9), safety("vote", 1)
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([safety("timeout", 9), old, safety(FFG, 2), EpochRecord(CHANGES[0]), new])
        assert (await store.recover(0)).safety == (safety(FFG, 2), new)
        await store.append([safety(FFG, 3), EpochRecord(CHANGES[1]), safety("proposal", 1), safety(FFG, 4)])
        assert (await store.recover(0)).safety == (safety(FFG, 4), safety("proposal", 1))


async def test_two_changes_in_one_append_are_both_kept(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        first, second = EpochRecord(CHANGES[0]), EpochRecord(CHANGES[1])
        await store.append([safety("vote", 9), first, safety("vote", 1), second, safety("timeout", 1)])
        assert await store.epoch_changes() == CHANGES
        assert (await store.recover(0)).safety == (safety("timeout", 1),)


async def test_an_epoch_begins_once(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await store.append([EpochRecord(CHANGES[0])])
        with pytest.raises(StorageError):
            await store.append([EpochRecord(CHANGES[0])])
    async with ChainStore.open(path, GENESIS) as store:
        assert await store.epoch_changes() == CHANGES[:1]


async def test_pruning_keeps_the_changes(path: Path) -> None:
    chain = list(BLOCKS)
    while len(chain) < 300:
        header = child(chain[-1]).header
        chain.append(block_of(msgspec.structs.replace(header, epoch=2)))
    async with ChainStore.open(path, GENESIS) as store:
        await fill(store)
        await store.append([record for block in chain[5:] for record in committed(block)])
        assert await store.prune(256, ledger_height=300) == 45
        assert await store.epoch_changes() == CHANGES


@pytest.mark.parametrize(("start", "end"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 5)])
async def test_a_range_ends_at_the_boundary_of_its_epoch_with_its_proof(path: Path, start: int, end: int) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await fill(store)
        loaded = await store.load(range_from(start))
    assert [stored.header.height for stored in loaded.blocks] == list(range(start, end + 1))
    assert loaded.proof == proof(BLOCKS[end - 1])
    assert loaded.head == 5


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE epochs SET change = x'00' WHERE epoch = 2", "the change to epoch 2 does not match its digest"),
        ("UPDATE epochs SET digest = x'00' WHERE epoch = 2", "the change to epoch 2 does not match its digest"),
        ("UPDATE epochs SET epoch = 3 WHERE epoch = 2", r"the epochs \[1, 3\] do not follow from each other"),
        ("DELETE FROM epochs WHERE epoch = 1", r"the epochs \[2\] do not follow from each other"),
        (
            "UPDATE epochs SET (change, digest) = (SELECT change, digest FROM epochs WHERE epoch = 1) WHERE epoch = 2",
            "the change to epoch 1 stands in the place of that to 2",
        ),
    ],
)
async def test_a_change_that_is_not_what_was_written_is_refused(path: Path, statement: str, reason: str) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        await fill(store)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    async with ChainStore.open(path, GENESIS) as store:
        with pytest.raises(StorageError, match=rf"damaged: {reason}"):
            await store.epoch_changes()


# --- a crash at each boundary of an append ---------------------------------------------------------------------------

GROUP: tuple[Record, ...] = (
    *committed(BLOCKS[1]),
    safety("vote", 9),
    safety(FFG, 2),
    EpochRecord(CHANGES[0]),
    safety("vote", 1),
    SafetyRecord(kind="timeout", subject=b"s" * 5000, state=b"t" * 5000),
)
"""The boundary's commit, the old epoch's last decision, the change and the new epoch's first: more than a page each."""


def test_a_crash_in_an_append_leaves_the_old_epoch_whole_or_the_new_one(tmp_path: Path) -> None:
    """The log is cut after each of its bytes' pages, and once in each: never a new epoch with the old one's decisions,
    never an old one without them."""
    running, before, after = tmp_path / "running.db", list[Recovered](), list[Recovered]()
    log = Path(f"{running}-wal")

    async def write() -> int:
        async with ChainStore.open(running, GENESIS) as store:
            await store.append([*committed(BLOCKS[0]), safety("vote", 8), safety(FFG, 1)])
            before.append(await store.recover(0))
            size = (await trio.Path(log).stat()).st_size
            await store.append(GROUP)
            after.append(await store.recover(0))
            shutil.copy(running, tmp_path / "chain.db")
            shutil.copy(log, tmp_path / "log")
            return size

    async def recover(path: Path) -> Recovered:
        async with ChainStore.open(path, GENESIS) as store:
            return await store.recover(0)

    begun = trio.run(write)
    whole = (tmp_path / "log").read_bytes()
    frame = 4096 + 24
    cuts = [*range(begun, len(whole), frame // 2), len(whole) - 1, len(whole)]
    assert len(cuts) > 6
    found = []
    for number, cut in enumerate(cuts):
        directory = tmp_path / str(number)
        directory.mkdir()
        shutil.copy(tmp_path / "chain.db", directory / "chain.db")
        (directory / "chain.db-wal").write_bytes(whole[:cut])
        found.append(trio.run(recover, directory / "chain.db"))
    assert found[:-1] == before * (len(cuts) - 1)
    assert found[-1:] == after
    assert before[0].safety == (safety(FFG, 1), safety("vote", 8))
    assert before[0].epoch_change is None
    assert [record.kind for record in after[0].safety] == [FFG, "timeout", "vote"]
    assert after[0].epoch_change == CHANGES[0]
