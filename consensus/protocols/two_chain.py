"""The commit rule of the two-chain members: a block is committed when its child of the next view is certified."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block_tree import BlockTree, Entry
from consensus.types import BlockHeader, Certificate


def two_chain_target(certificate: Certificate, tree: BlockTree) -> Entry | None:
    """The block that ``certificate`` commits: its block's parent, when their views are consecutive."""
    child = tree.get(certificate.block_id)
    if child is None:
        return None
    parent = tree.get(child.parent)
    return parent if parent is not None and child.view == parent.view + 1 else None


def is_two_chain(chain: Sequence[BlockHeader]) -> bool:
    """Whether a hash-linked chain, its last block certified, commits its first: the last two views are consecutive."""
    return len(chain) >= 2 and chain[-1].view == chain[-2].view + 1
