"""What a node keeps on its disk: the safety journal and block archive, and an index of transactions.

Only this room hands work to threads: SQLite blocks, and a commit waits for the disk.
"""

from __future__ import annotations

from sequencer.storage.chain_store import ChainStore
from sequencer.storage.database import InUseError, StorageError
from sequencer.storage.index_store import BlockIds, IndexStore, Position, Sections
from sequencer.storage.raw_archive import RawArchive, RawBlock, open_raw_archive

__all__ = [
    "BlockIds",
    "ChainStore",
    "InUseError",
    "IndexStore",
    "Position",
    "RawArchive",
    "RawBlock",
    "Sections",
    "StorageError",
    "open_raw_archive",
]
