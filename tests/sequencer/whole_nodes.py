"""Whole nodes in this process, from the homes that they have on the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from sequencer.config import Config
from sequencer.node import Node, open_node


@asynccontextmanager
async def running(*homes: Path) -> AsyncIterator[list[Node]]:
    """The nodes of these homes, while the block runs."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_node(Config.load(home / "node.toml"))) for home in homes]
