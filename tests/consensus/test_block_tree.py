"""The tree above the committed head: ancestry, what a commit keeps, and the bounds."""

from __future__ import annotations

import pytest

from consensus import block_tree
from consensus.block_tree import PATHS_KEPT, BlockTree, Root
from consensus.types import Block
from tests.support.chain import Chain
from tests.support.committee import committee


def ids(*blocks: Block) -> list[bytes]:
    return [block.id for block in blocks]


def path_of(tree: BlockTree, block: Block) -> list[bytes] | None:
    path = tree.path(block.id)
    return None if path is None else [entry.block.id for entry in path]


def known(tree: BlockTree, *blocks: Block) -> list[bool]:
    return [tree.get(block.id) is not None for block in blocks]


def test_the_path_from_the_head_oldest_first() -> None:
    """::

    genesis <- b1 <- b2 <- b3
                  \\- c3
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    c3 = chain.block(3, on=b1)
    tree = chain.tree(b1, b2, b3, c3)
    assert path_of(tree, b3) == ids(b1, b2, b3)
    assert path_of(tree, c3) == ids(b1, c3)
    assert tree.path(chain.genesis.block_id) == ()
    assert tree.path(bytes(32)) is None
    assert len(tree) == 4
    assert [entry.height for entry in tree.path(b3.id) or ()] == [1, 2, 3]
    assert [entry.view for entry in tree.path(c3.id) or ()] == [1, 3]


def test_no_path_over_a_gap_or_beside_the_head() -> None:
    """::

    genesis <- b1 <- [b2] <- b3        b2 is not here
           \\- c1 <- c2                the head is b1
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    c1 = chain.block(1, timestamp_ms=2_000)
    c2 = chain.block(2, on=c1)
    tree = chain.tree(b3, c2, root=b1)
    assert tree.path(b3.id) is None
    assert tree.path(c2.id) is None, "its parent lies no higher than the head"
    assert tree.path(c1.id) is None
    tree.insert(b2, b"")
    assert path_of(tree, b3) == ids(b2, b3)


def test_a_path_that_was_found_is_not_found_again_once_it_is_gone() -> None:
    """::

    genesis <- b1 <- b2 <- b3
                  \\- c2
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    c2 = chain.block(3, on=b1)
    tree = chain.tree(b1, b2, b3, c2)
    assert path_of(tree, b3) == ids(b1, b2, b3)
    assert path_of(tree, c2) == ids(b1, c2)
    tree.make_room(b3.id)
    assert tree.path(c2.id) is None
    tree.insert(c2, b"")
    assert path_of(tree, c2) == ids(b1, c2)
    head = tree.get(b1.id)
    assert head is not None
    tree.commit(head)
    assert path_of(tree, b3) == ids(b2, b3)
    assert tree.path(b1.id) == ()
    tree.discard(b2.id)
    assert tree.path(b3.id) is None
    assert tree.missing_ancestor(b3.id, 3) == (b2.id, 2)


def test_paths_of_many_tips() -> None:
    chain = Chain(committee())
    b1 = chain.block(1)
    tips = [chain.block(2 + number, on=b1) for number in range(2 * PATHS_KEPT)]
    tree = chain.tree(b1, *tips)
    for _ in range(2):
        assert [path_of(tree, tip) for tip in tips] == [ids(b1, tip) for tip in tips]
        assert len(tree._paths) <= PATHS_KEPT


def test_the_nearest_missing_ancestor() -> None:
    """::

    b1 (head) <- [b2] <- b3 <- [b4] <- b5
           [c1] <- c2
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    b4 = chain.block(4, on=b3)
    b5 = chain.block(5, on=b4)
    c2 = chain.block(2, on=chain.block(1, timestamp_ms=2_000))
    tree = chain.tree(b3, b5, c2, root=b1)
    assert tree.missing_ancestor(b5.id, 5) == (b4.id, 4)
    assert tree.missing_ancestor(b3.id, 3) == (b2.id, 2)
    assert tree.missing_ancestor(b2.id, 2) == (b2.id, 2)
    assert tree.missing_ancestor(b1.id, 1) is None
    assert tree.missing_ancestor(c2.id, 2) is None, "no fetch leads from there to the head"
    assert tree.missing_ancestor(bytes(32), 1) is None
    tree.insert(b2, b"")
    tree.insert(b4, b"")
    assert tree.missing_ancestor(b5.id, 5) is None


def test_what_extends_what() -> None:
    """::

    b1 (head) <- b2 <- b3 <- b4
                    \\- c3
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    b4 = chain.block(4, on=b3)
    c3 = chain.block(4, on=b2)
    tree = chain.tree(b2, b3, b4, c3, root=b1)
    assert tree.extends(b4.id, b3.id, 3)
    assert tree.extends(b4.id, b2.id, 2)
    assert tree.extends(b4.id, b4.id, 4)
    assert not tree.extends(c3.id, b3.id, 3)
    assert not tree.extends(b3.id, b4.id, 4), "an ancestor does not extend its descendant"
    assert tree.extends(c3.id, b1.id, 1)
    assert tree.extends(c3.id, bytes(32), 0), "what lies below the head is everybody's ancestor"
    assert not tree.extends(bytes(32), b1.id, 1)
    assert tree.extends(b1.id, b1.id, 1)
    assert not tree.extends(b1.id, b2.id, 2)


def test_a_commit_keeps_the_descendants_of_the_new_head_and_drops_the_rest() -> None:
    """::

    genesis <- b1 <- b2 <- b3 <- b4
           \\    \\    \\- c3          commit b2
            \\    \\- d2 <- d3
             \\- e1
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    b4 = chain.block(4, on=b3, body=b"four")
    c3 = chain.block(4, on=b2, body=b"three")
    d2 = chain.block(3, on=b1, body=b"dropped")
    d3 = chain.block(5, on=d2, body=b"dropped")
    e1 = chain.block(1, timestamp_ms=2_000)
    tree = chain.tree(b1, b2, b3, b4, c3, d2, d3, e1)
    head = tree.get(b2.id)
    assert head is not None
    tree.commit(head)
    assert known(tree, b1, b2, b3, b4, c3, d2, d3, e1) == [False, False, True, True, True, False, False, False]
    assert tree.root == Root(id=b2.id, height=2, view=2, timestamp_ms=1_002)
    assert path_of(tree, b4) == ids(b3, b4)
    assert tree._bodies_size == len(b"fourthree")


def test_a_commit_keeps_blocks_whose_ancestors_may_still_arrive() -> None:
    """::

    b1 <- b2 (commit) <- [b3] <- b4 <- b5        b3 is not here
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    b4 = chain.block(4, on=b3)
    b5 = chain.block(5, on=b4)
    tree = chain.tree(b1, b2, b4, b5)
    head = tree.get(b2.id)
    assert head is not None
    tree.commit(head)
    assert known(tree, b4, b5) == [True, True]
    tree.insert(b3, b"")
    assert path_of(tree, b5) == ids(b3, b4, b5)


def test_a_child_of_a_block_that_is_not_here_at_the_height_of_the_head_is_dropped() -> None:
    """Its parent could only be a rival of the head."""
    chain = Chain(committee())
    b1 = chain.block(1)
    c2 = chain.block(2, on=chain.block(1, timestamp_ms=2_000))
    tree = chain.tree(b1, c2)
    head = tree.get(b1.id)
    assert head is not None
    tree.commit(head)
    assert known(tree, c2) == [False]


def test_a_block_enters_once_and_only_above_the_head() -> None:
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1, body=b"body")
    tree = chain.tree(root=b1)
    first = tree.insert(b2, b"body")
    assert tree.insert(b2, b"another body") is first
    assert tree._bodies_size == len(b"body")
    assert tree.insert(b1, b"") is None
    assert tree.insert(chain.block(1, timestamp_ms=2_000), b"") is None
    assert len(tree) == 1


def test_a_discarded_block_is_gone_with_its_bytes() -> None:
    chain = Chain(committee())
    b1, c1 = chain.block(1, body=b"body"), chain.block(1, body=b"other")
    tree = chain.tree(b1, c1)
    tree.discard(b1.id)
    tree.discard(b1.id)
    assert known(tree, b1, c1) == [False, True]
    assert tree._bodies_size == len(b"other")


def test_the_tree_is_bounded_in_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_tree, "ENTRIES_MAX", 3)
    chain = Chain(committee())
    tree = chain.tree()
    taken = [tree.insert(chain.block(1, timestamp_ms=2_000 + number), b"") is not None for number in range(5)]
    assert taken == [True, True, True, False, False]


def test_the_tree_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_tree, "BODIES_SIZE_MAX", 10)
    chain = Chain(committee())
    tree = chain.tree()
    taken = [tree.insert(chain.block(1, timestamp_ms=2_000 + number), b"12345") is not None for number in range(4)]
    assert taken == [True, True, False, False]
    tree.discard(chain.block(1, timestamp_ms=2_000).id)
    assert tree.insert(chain.block(1, timestamp_ms=2_009), b"123456") is None
    assert tree.insert(chain.block(1, timestamp_ms=2_009), b"12345") is not None


def test_room_is_made_by_dropping_what_nothing_needed_stands_on() -> None:
    """::

    genesis <- b1 <- b2 <- b3
           \\    \\- c3
            \\- d4
    """
    chain = Chain(committee())
    b1 = chain.block(1, body=b"1")
    b2 = chain.block(2, on=b1, body=b"22")
    b3 = chain.block(3, on=b2, body=b"333")
    c3 = chain.block(4, on=b1, body=b"4444")
    d4 = chain.block(5, body=b"55555")
    tree = chain.tree(b1, b2, b3, c3, d4)
    tree.make_room(b2.id, c3.id, bytes(32), chain.genesis.block_id)
    assert known(tree, b1, b2, b3, c3, d4) == [True, True, False, True, False]
    assert tree._bodies_size == 1 + 2 + 4


def test_blocks_that_are_being_checked_stay() -> None:
    chain = Chain(committee())
    b1, c1, d1 = (chain.block(1, timestamp_ms=2_000 + number) for number in range(3))
    tree = chain.tree(b1, c1, d1)
    for block, field in ((b1, "check_pending"), (c1, "certified_check_pending")):
        setattr(tree.get(block.id), field, True)
    tree.make_room()
    assert known(tree, b1, c1, d1) == [True, True, False]
