"""Who descends from whom, proved by headers: a header names its parent by the hash of all that it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from consensus.codec import digest
from consensus.engine import Refusal
from consensus.finality.types import Checkpoint
from consensus.types import PATH_LENGTH_MAX, BlockHeader, BlockId, Height

HEADERS_MAX: Final = 1_000_000
"""Headers in one index: forensics over two histories of half a million blocks each."""


def check_path(source: Checkpoint, target: Checkpoint, headers: Sequence[BlockHeader]) -> Refusal | None:
    """None when ``headers``, from the child of ``source`` to ``target`` itself, oldest first, show that ``source`` is
    a proper ancestor of ``target``; the reason otherwise. At most ``PATH_LENGTH_MAX`` of them."""
    if not 1 <= len(headers) <= PATH_LENGTH_MAX:
        return Refusal(f"ancestry: {len(headers)} headers, where 1 to {PATH_LENGTH_MAX} are a path")
    parent, height = source.id, source.height
    for header in headers:
        if header.parent != parent or header.height != height + 1:
            return Refusal(f"ancestry: the header at height {header.height} does not follow from its predecessor")
        parent, height = digest(header), header.height
    if (parent, height) != (target.id, target.height):
        return Refusal("ancestry: the headers end at another block than the target")
    return None


class HeaderIndex:
    """The tree that any number of headers span; an :class:`consensus.finality.rules.Ancestry`. A header vouches for
    its own id and for its parent's, so false headers only add blocks that nobody signed. ``root`` is the block that no
    header is needed for."""

    __slots__ = ("_blocks",)

    def __init__(self, root: Checkpoint, headers: Iterable[BlockHeader] = ()) -> None:
        self._blocks: dict[BlockId, tuple[Height, BlockId]] = {root.id: (root.height, b"")}
        for header in headers:
            self.add(header)

    def add(self, header: BlockHeader) -> BlockId:
        """Take a header; returns its block's id. Raises ``ValueError`` when the index is full."""
        if len(self._blocks) >= HEADERS_MAX:
            raise ValueError(f"more than {HEADERS_MAX} headers; begin from a later trusted checkpoint")
        block_id = digest(header)
        self._blocks.setdefault(block_id, (header.height, header.parent))
        return block_id

    def descends(self, descendant: Checkpoint, ancestor: Checkpoint) -> bool:
        """True when a chain of known headers leads from ``descendant`` down to ``ancestor``, at the heights that the
        two claim. As many steps as there are blocks between them."""
        at, height = descendant.id, descendant.height
        while height >= ancestor.height:
            known = self._blocks.get(at)
            if known is None or known[0] != height:
                return False
            if height == ancestor.height:
                return at == ancestor.id
            at, height = known[1], height - 1
        return False
