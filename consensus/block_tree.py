"""The blocks above the committed head, and their ancestry.

A block enters with its body. It is *checked* once its payload was judged (or, when certified, once its body proved to
be the one that the header names), and *recorded* once a record of ours holds it. Everything that does not descend
from the committed head is dropped at a commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec

from consensus.types import PATH_LENGTH_MAX, Block, BlockId, Height, PeerId, View

ENTRIES_MAX: Final = PATH_LENGTH_MAX
"""A path through the tree fits one commit proof, so that every block of it can be proven once the last commits."""
BODIES_SIZE_MAX: Final = 512 * 1024 * 1024

PATHS_KEPT: Final = 8
_HEIGHT: Final = attrgetter("height")

Body: TypeAlias = "bytes | memoryview"


class Entry:
    """One block above the committed head. ``source`` is the peer that gave us this body, None for our own."""

    __slots__ = (
        "block", "body", "certified_check_pending", "check_pending", "checked", "follows", "height", "parent",
        "recorded", "refused", "source", "view",
    )  # fmt: skip

    def __init__(self, block: Block, body: Body, source: PeerId | None = None) -> None:
        header = block.header
        self.block = block
        self.body = body
        self.source = source
        self.view: View = header.view
        self.height: Height = header.height
        self.parent: BlockId = header.parent
        self.checked = False
        self.recorded = False
        self.follows = False
        """It may stand on its ancestors. What was judged once holds: their hashes are in its own."""
        self.refused = False
        """The payload was judged invalid: never voted for, kept so that it is not asked for again."""
        self.check_pending = False
        self.certified_check_pending = False


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """The committed head, or the epoch's boundary."""

    id: BlockId
    height: Height
    view: View
    timestamp_ms: int


class BlockTree:
    """Uncommitted blocks by id. Bounded in entries and in bytes of bodies: ``insert`` refuses beyond them, until
    ``make_room`` drops what failed views left behind."""

    __slots__ = ("_bodies_size", "_entries", "_paths", "get", "root")

    def __init__(self, root: Root) -> None:
        self.root = root
        self._entries: dict[BlockId, Entry] = {}
        self.get: Callable[[BlockId], Entry | None] = self._entries.get
        """The entry of an uncommitted block."""
        self._bodies_size = 0
        self._paths: dict[BlockId, tuple[Entry, ...]] = {root.id: ()}
        """The head's, and those found since the tree last lost a block: an engine asks for the same few in every
        step."""

    def __len__(self) -> int:
        return len(self._entries)

    def insert(self, block: Block, body: Body, source: PeerId | None = None) -> Entry | None:
        """The entry of ``block``, new or known (whose body stays); None when the tree is full or the block cannot lie
        above the committed head."""
        entry = self._entries.get(block.id)
        if entry is not None:
            return entry
        if block.header.height <= self.root.height or len(self._entries) >= ENTRIES_MAX:
            return None
        if self._bodies_size + len(body) > BODIES_SIZE_MAX:
            return None
        entry = Entry(block, body, source)
        self._entries[block.id] = entry
        self._bodies_size += len(body)
        return entry

    def make_room(self, *needed: BlockId) -> None:
        """Drop every block but these, those that are being checked (a verdict must find the body that it is about),
        and the ancestors of both. What is dropped and needed later can be fetched again."""
        kept: dict[BlockId, Entry] = {}
        being_checked = [
            block_id
            for block_id, entry in self._entries.items()
            if entry.check_pending or entry.certified_check_pending
        ]
        for block_id in (*needed, *being_checked):
            entry = self._entries.get(block_id)
            while entry is not None and entry.block.id not in kept:
                kept[entry.block.id] = entry
                entry = self._entries.get(entry.parent)
        self._drop([block_id for block_id in self._entries if block_id not in kept])

    def discard(self, block_id: BlockId) -> None:
        """Forget a block whose body was not the one its header names."""
        if block_id in self._entries:
            self._drop((block_id,))

    def path(self, block_id: BlockId) -> tuple[Entry, ...] | None:
        """The blocks from just above the committed head down to ``block_id``, oldest first. Empty for the head
        itself, None when an ancestor is missing or the block is not a descendant of the head."""
        known = self._paths.get(block_id)
        if known is not None:
            return known
        reversed_path: list[Entry] = []
        ancestor_id = block_id
        while known is None:
            entry = self._entries.get(ancestor_id)
            if entry is None:
                return None
            reversed_path.append(entry)
            ancestor_id = entry.parent
            known = self._paths.get(ancestor_id)
        if len(self._paths) >= PATHS_KEPT:
            self._paths = {self.root.id: ()}
        path = self._paths[block_id] = (*known, *reversed(reversed_path))
        return path

    def _drop(self, block_ids: Iterable[BlockId]) -> None:
        for block_id in block_ids:
            self._bodies_size -= len(self._entries.pop(block_id).body)
        self._paths = {self.root.id: ()}

    def missing_ancestor(self, block_id: BlockId, height: Height) -> tuple[BlockId, Height] | None:
        """The nearest ancestor of ``block_id`` (itself included) that is not here, with its height; None when the
        chain reaches the head or can never reach it."""
        if self.path(block_id) is not None:
            return None
        while block_id != self.root.id:
            if height <= self.root.height:
                return None
            entry = self._entries.get(block_id)
            if entry is None:
                return block_id, height
            block_id, height = entry.parent, height - 1
        return None

    def extends(self, block_id: BlockId, ancestor_id: BlockId, ancestor_height: Height) -> bool:
        """True when ``ancestor_id`` is the block itself or an ancestor. What lies at or below the committed head is
        an ancestor of everything that descends from the head."""
        if ancestor_height <= self.root.height:
            return self.path(block_id) is not None
        entry = self._entries.get(block_id)
        while entry is not None and entry.height >= ancestor_height:
            if entry.block.id == ancestor_id:
                return True
            entry = self._entries.get(entry.parent)
        return False

    def commit(self, head: Entry) -> None:
        """Make ``head`` the committed head and drop every block that does not descend from it."""
        height, head_id = head.height, head.block.id
        self.root = Root(id=head_id, height=height, view=head.view, timestamp_ms=head.block.header.timestamp_ms)
        kept = {head_id}
        orphans: set[BlockId] = set()
        dropped: list[BlockId] = []
        for entry in sorted(self._entries.values(), key=_HEIGHT):
            block_id, parent = entry.block.id, entry.parent
            if entry.height <= height:
                dropped.append(block_id)
            elif parent in kept:
                kept.add(block_id)
            elif parent in orphans or (entry.height > height + 1 and parent not in self._entries):
                orphans.add(block_id)  # its ancestors may still arrive
            else:
                dropped.append(block_id)
        self._drop(dropped)
