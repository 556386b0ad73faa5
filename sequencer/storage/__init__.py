"""What a node keeps on its disk: the safety journal and block archive, and an index of transactions.

Only this room hands work to threads: SQLite blocks, and a commit waits for the disk.
"""

from __future__ import annotations

from sequencer.storage.chain_store import ChainStore
from sequencer.storage.database import StorageError

__all__ = ["ChainStore", "StorageError"]
