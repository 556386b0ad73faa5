"""A process to be killed: appends the next blocks of a known chain for ever, and prints each height once its append
has returned. Run as ``python -m tests.sequencer.storage.crash_child FILE``."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from consensus.engine import BlockRecord
from consensus.types import Block
from sequencer.storage import ChainStore
from tests.sequencer.storage.chains import GENESIS, body_of, child, commit, safety

SIZE_BYTES = 20_000


async def main(path: Path) -> None:
    async with ChainStore.open(path, GENESIS) as store:
        head = await store.block_at(store.committed_height)
        parent: Block | None = head[0] if head else None
        while True:
            body = body_of(store.committed_height + 1, SIZE_BYTES)
            block = child(parent, body)
            await store.append([BlockRecord(block, body), safety("vote", block.header.height)])
            await store.append([commit(block)])
            print(block.header.height, flush=True)
            parent = block


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
