"""A process killed with SIGKILL while it appends has kept everything that it acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.types import HASH_SIZE
from sequencer.storage import ChainStore, open_raw_archive
from tests.sequencer.children import said_before_kill
from tests.sequencer.storage.chains import GENESIS, body_of, safety
from tests.sequencer.storage.crash_child import SIZE_BYTES


async def acknowledged_before_kill(path: Path, after_lines: int) -> int:
    """Run the child, kill it after some acknowledgements, and return the last height it printed."""
    said = await said_before_kill("tests.sequencer.storage.crash_child", str(path), after_lines=after_lines)
    return int(said[-1])


async def check(path: Path, acknowledged: int) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        assert store.committed_height in (acknowledged, acknowledged + 1), "one more was durable, not yet told"
        recovered = await store.recover(0)
        [vote] = recovered.safety
        assert vote in (safety("vote", store.committed_height), safety("vote", store.committed_height + 1))
        parent = GENESIS
        for height in range(1, store.committed_height + 1):
            found = await store.block_at(height)
            assert found is not None
            assert found[0].header.parent == parent
            assert found[1] == body_of(height, SIZE_BYTES)
            parent = found[0].id


async def kill_and_check(path: Path, kills: range) -> None:
    for kill in kills:
        acknowledged = await acknowledged_before_kill(path, after_lines=5 + 37 * kill % 101)
        with open_raw_archive(path) as archive:  # the log lies there as the kill left it
            raw = list(archive.raw_blocks())
        assert len(raw) in (acknowledged, acknowledged + 1)
        assert all(len(block.id) == HASH_SIZE for block in raw)
        await check(path, acknowledged)


async def test_two_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    await kill_and_check(tmp_path / "chain.db", range(2))


@pytest.mark.sweep
async def test_thirty_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    await kill_and_check(tmp_path / "chain.db", range(30))
