"""The database against a model that keeps every message in lists and follows the definitions, on random histories."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sequencer.slashing_world import ANNA, BERT, World

Block = tuple[int, int | None]
Vote = tuple[int, int, int | None]


class Model:
    """One key. Slow and plain: every message is kept; of a forgotten one only the root does not count."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.votes: list[Vote] = []
        self.old_blocks: list[Block] = []
        self.old_votes: list[Vote] = []
        self.slot_floor = self.source_floor = self.target_floor = -1

    def block(self, slot: int, root: int | None) -> bool:
        here = [each for each in self.blocks if each[0] == slot]
        if here:
            return root is not None and all(each == (slot, root) for each in here)
        if any(slot <= old for old, _ in self.old_blocks) or slot <= self.slot_floor:
            return False
        if self.blocks and all(slot <= each for each, _ in self.blocks):
            return False
        self.blocks.append((slot, root))
        return True

    def vote(self, source: int, target: int, root: int | None) -> bool:
        if source > target:
            return False
        for s, t, _ in self.votes + self.old_votes:
            if (source < s and t < target) or (s < source and target < t):
                return False
        if any(source < s or target <= t for s, _, _ in self.old_votes for _, t, _ in self.old_votes):
            return False
        if source < self.source_floor or (self.votes and all(source < s for s, _, _ in self.votes)):
            return False
        here = [each for each in self.votes if each[1] == target]
        if here:
            return root is not None and all(each == (source, target, root) for each in here)
        if target <= self.target_floor or (self.votes and all(target <= t for _, t, _ in self.votes)):
            return False
        self.votes.append((source, target, root))
        return True

    def imports(self, blocks: list[Block], votes: list[Vote], raise_bounds: bool) -> None:
        first_slot = min((slot for slot, _ in self.blocks), default=-1)
        first_source = min((s for s, _, _ in self.votes), default=-1)
        first_target = min((t for _, t, _ in self.votes), default=-1)
        self.blocks += blocks
        self.votes += votes
        if raise_bounds:
            self.forget(
                max(first_slot, min((slot for slot, _ in blocks), default=-1)),
                max(first_target, min((t for _, t, _ in votes), default=-1)),
            )
        else:
            self.slot_floor = max(self.slot_floor, first_slot)
            self.source_floor = max(self.source_floor, first_source)
            self.target_floor = max(self.target_floor, first_target)
            self.forget(-1, -1)

    def forget(self, before_slot: int, before_epoch: int) -> None:
        last_slot = max((slot for slot, _ in self.old_blocks), default=-1)
        last_target = max((t for _, t, _ in self.old_votes), default=-1)
        self.old_blocks += [each for each in self.blocks if each[0] < before_slot or each[0] <= last_slot]
        self.old_votes += [each for each in self.votes if each[1] < before_epoch or each[1] <= last_target]
        self.blocks = [each for each in self.blocks if each not in self.old_blocks]
        self.votes = [each for each in self.votes if each not in self.old_votes]


NUMBERS = st.integers(0, 9)
ROOTS = st.sampled_from([None, 1, 2])
KEYS = st.sampled_from([ANNA, BERT])
BLOCKS = st.lists(st.tuples(NUMBERS, ROOTS), max_size=3)
VOTES = st.lists(st.tuples(NUMBERS, NUMBERS, ROOTS), max_size=3)
SOUND_VOTE = st.tuples(NUMBERS, NUMBERS, ROOTS).map(lambda vote: (min(vote[:2]), max(vote[:2]), vote[2]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("block"), KEYS, NUMBERS, ROOTS),
        st.tuples(st.just("vote"), KEYS, SOUND_VOTE),
        st.tuples(st.just("vote"), KEYS, st.tuples(NUMBERS, NUMBERS, ROOTS)),
        st.tuples(st.just("import"), KEYS, BLOCKS, VOTES, st.booleans()),
        st.tuples(st.just("prune"), NUMBERS, NUMBERS),
        st.tuples(st.just("restart")),
    ),
    min_size=3,
    max_size=25,
)


@contextlib.contextmanager
def unsynced_world() -> Iterator[World]:
    """What reaches the disk is tested elsewhere; here it would take most of the time."""

    def unsynced(connection: apsw.Connection, name: str, value: int) -> None:
        connection.pragma(name, 0 if name == "synchronous" else value)

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr("sequencer.storage.slashing_store.set_pragma", unsynced)
        world = World(Path(directory))
        yield world
        world.protection.close()


@given(STEPS)
def test_the_database_decides_as_the_model(steps: list[tuple[Any, ...]]) -> None:
    models = {ANNA: Model(), BERT: Model()}
    with unsynced_world() as world:
        for step in steps:
            match step:
                case ("block", key, slot, root):
                    assert (world.block(slot, root, key=key) is None) == models[key].block(slot, root)
                case ("vote", key, (source, target, root)):
                    assert (world.vote(source, target, root, key=key) is None) == models[key].vote(source, target, root)
                case ("import", key, blocks, votes, raise_bounds):
                    world.imports(blocks, votes, key=key, raise_bounds=raise_bounds)
                    models[key].imports(blocks, votes, raise_bounds)
                case ("prune", slot, epoch):
                    world.prunes(slot, epoch)
                    for model in models.values():
                        model.forget(slot, epoch)
                case _:
                    world.restarts()
        for key, model in models.items():  # from below: what is refused changes nothing
            for slot in range(11):
                assert (world.block(slot, 3, key=key) is None) == model.block(slot, 3)
            for target, source in product(range(11), repeat=2):
                assert (world.vote(source, target, 3, key=key) is None) == model.vote(source, target, 3)


@given(STEPS, st.lists(st.tuples(st.booleans(), st.booleans())))
def test_nothing_slashable_is_ever_signed(steps: list[tuple[Any, ...]], moves: list[tuple[bool, bool]]) -> None:
    """Whatever is imported, pruned, and moved between databases: a new signature contradicts no message ever seen."""
    blocks: set[Block] = set()
    votes: set[Vote] = set()
    unknown = 10  # a message without a root is like no other
    with unsynced_world() as world:
        for number, step in enumerate(steps):
            unknown += 1
            match step:
                case ("block", _, slot, root):
                    if world.block(slot, root) is None:
                        assert all(each == (slot, root) for each in blocks if each[0] == slot)
                        blocks.add((slot, root or unknown))
                case ("vote", _, (source, target, root)):
                    if world.vote(source, target, root) is None:
                        for s, t, other in votes:
                            assert t != target or (s, t, other) == (source, target, root)
                            assert not (source < s and t < target)
                            assert not (s < source and target < t)
                        votes.add((source, target, root or unknown))
                case ("import", _, new_blocks, new_votes, raise_bounds):
                    world.imports(new_blocks, new_votes, raise_bounds=raise_bounds)
                    blocks |= {(slot, root or unknown) for slot, root in new_blocks}
                    votes |= {(source, target, root or unknown) for source, target, root in new_votes}
                case ("prune", slot, epoch):
                    world.prunes(slot, epoch)
                case _:
                    move, minimal = moves[number] if number < len(moves) else (True, False)
                    world.moves(minimal=minimal) if move else world.restarts()
