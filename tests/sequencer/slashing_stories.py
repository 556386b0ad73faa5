"""Stories about slashing protection, one per rule and per way around it. Each passes; ``test_slashing_stories.py``
also runs them with each rule broken, which one of them must notice.

In a story ``world.block(slot, root)`` and ``world.vote(source, target, root)`` give None when they are permitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sequencer.slashing_protection import Rule
from tests.sequencer.slashing_world import ANNA, BERT, World


def a_block_is_signed_once_per_slot(world: World) -> None:
    assert world.block(10, 1) is None
    assert world.block(10, 2) is Rule.DOUBLE_BLOCK
    assert world.block(10, None) is Rule.DOUBLE_BLOCK
    assert world.block(10, 1) is None, "a repeat"
    assert world.block(11, 2) is None
    world.restarts()
    assert world.block(11, 1) is Rule.DOUBLE_BLOCK
    assert world.block(11, 2) is None


def a_missing_root_is_never_a_repeat(world: World) -> None:
    assert world.block(10, None) is None
    assert world.block(10, None) is Rule.DOUBLE_BLOCK
    assert world.block(10, 0) is Rule.DOUBLE_BLOCK, "the root of zeros is a root"
    assert world.vote(1, 2, None) is None
    assert world.vote(1, 2, None) is Rule.DOUBLE_VOTE
    assert world.vote(1, 2, 0) is Rule.DOUBLE_VOTE


def blocks_may_fill_a_gap_above_the_lowest(world: World) -> None:
    assert world.block(10, 1) is None
    assert world.block(20, 2) is None
    assert world.block(15, 3) is None
    assert world.block(9, 4) is Rule.SLOT_TOO_LOW
    assert world.block(0, 4) is Rule.SLOT_TOO_LOW


def a_target_is_voted_for_once(world: World) -> None:
    assert world.vote(3, 5, 1) is None
    assert world.vote(3, 5, 1) is None, "a repeat"
    assert world.vote(3, 5, 2) is Rule.DOUBLE_VOTE
    assert world.vote(4, 5, 1) is Rule.DOUBLE_VOTE, "another source with the same root is not the same vote"
    assert world.vote(4, 5, 2) is Rule.DOUBLE_VOTE
    assert world.vote(3, 5, None) is Rule.DOUBLE_VOTE


def no_vote_surrounds_another(world: World) -> None:
    assert world.vote(1, 2, 1) is None
    assert world.vote(5, 7, 2) is None
    assert world.vote(4, 8, 3) is Rule.SURROUNDING
    assert world.vote(5, 8, 3) is None, "the same source does not surround"
    assert world.vote(2, 10, 4) is Rule.SURROUNDING


def no_vote_is_surrounded(world: World) -> None:
    assert world.vote(1, 2, 1) is None
    assert world.vote(3, 9, 2) is None
    assert world.vote(4, 8, 3) is Rule.SURROUNDED
    assert world.vote(3, 8, 3) is None, "the same source is not surrounded"
    assert world.vote(4, 10, 4) is None


def a_source_is_never_after_its_target(world: World) -> None:
    assert world.vote(6, 5, 1) is Rule.SOURCE_AFTER_TARGET
    assert world.vote(5, 5, 1) is None


def epochs_keep_above_the_lowest(world: World) -> None:
    assert world.vote(5, 8, 1) is None
    assert world.vote(4, 7, 2) is Rule.SOURCE_TOO_LOW
    assert world.vote(5, 7, 2) is Rule.TARGET_TOO_LOW
    assert world.vote(5, 9, 2) is None, "a source at the lowest is fine"


def a_minimal_import_bounds_from_below(world: World) -> None:
    world.imports([(100, None)], [(10, 20, None)])
    assert world.block(99, 1) is Rule.SLOT_TOO_LOW
    assert world.block(100, 1) is Rule.DOUBLE_BLOCK
    assert world.block(101, 1) is None
    assert world.vote(9, 19, 1) is Rule.SOURCE_TOO_LOW
    assert world.vote(9, 21, 1) is Rule.SURROUNDING
    assert world.vote(10, 19, 1) is Rule.TARGET_TOO_LOW
    assert world.vote(10, 20, 1) is Rule.DOUBLE_VOTE
    assert world.vote(10, 21, 1) is None


def an_imported_message_may_be_repeated(world: World) -> None:
    world.imports([(10, 1), (20, 2)], [(1, 2, 3), (2, 4, 5)])
    assert [world.block(10, 1), world.block(20, 2), world.vote(1, 2, 3), world.vote(2, 4, 5)] == [None] * 4
    assert world.block(20, 1) is Rule.DOUBLE_BLOCK
    assert world.vote(2, 4, 3) is Rule.DOUBLE_VOTE


def contradictory_imports_leave_nothing_to_repeat(world: World) -> None:
    assert world.imports([(10, 1), (10, 2), (20, 3), (20, None), (30, None), (30, 4)], []) == 3
    for slot, number in ((10, 1), (10, 2), (20, 3), (30, 4)):
        assert world.block(slot, number) is Rule.DOUBLE_BLOCK
    assert world.imports([], [(1, 2, 1), (1, 2, 2), (2, 3, 1), (1, 3, 2)]) == 2
    assert world.vote(1, 2, 1) is Rule.DOUBLE_VOTE
    assert world.vote(1, 2, 2) is Rule.DOUBLE_VOTE
    assert world.vote(2, 3, 1) is Rule.DOUBLE_VOTE
    assert world.vote(1, 3, 2) is Rule.DOUBLE_VOTE
    assert world.imports([], [(5, 9, 1), (6, 8, 2)]) == 1
    assert world.vote(5, 9, 1) is Rule.SURROUNDING, "not even a repeat"
    assert world.vote(6, 8, 2) is Rule.SURROUNDED
    assert world.vote(6, 10, 3) is None


def an_import_makes_own_signatures_unrepeatable_where_it_disagrees(world: World) -> None:
    assert world.block(10, 1) is None
    assert world.vote(1, 2, 1) is None
    assert world.imports([(10, 1)], [(1, 2, 1)]) == 0
    assert (world.block(10, 1), world.vote(1, 2, 1)) == (None, None)
    assert world.imports([(10, None)], [(1, 2, None)]) == 2
    assert world.block(10, 1) is Rule.DOUBLE_BLOCK
    assert world.vote(1, 2, 1) is Rule.DOUBLE_VOTE


def a_vote_that_contradicts_itself_is_believed(world: World) -> None:
    assert world.imports([], [(7, 3, None)]) == 1
    assert world.vote(6, 9, 1) is Rule.SURROUNDING
    assert world.vote(7, 9, 1) is None


def an_older_import_lowers_no_bound(world: World) -> None:
    assert world.block(100, 1) is None
    assert world.vote(50, 60, 1) is None
    world.imports([(10, 2), (200, 3)], [(5, 6, 2), (70, 80, 3)])
    assert world.block(50, 4) is Rule.SLOT_TOO_LOW
    assert world.block(10, 2) is None, "a repeat"
    assert world.block(150, 4) is None
    assert world.vote(49, 59, 4) is Rule.SOURCE_TOO_LOW
    assert world.vote(50, 59, 4) is Rule.TARGET_TOO_LOW
    assert world.vote(50, 61, 4) is None


def a_gap_between_imports_is_closed_on_request(world: World) -> None:
    world.imports([(40, None)], [(2, 30, None)])
    world.imports([(50, 1), (60, 2)], [(10, 50, 1), (11, 60, 2)], raise_bounds=True)
    assert world.block(45, 3) is Rule.SLOT_TOO_LOW
    assert world.block(50, 1) is None, "a repeat"
    assert world.block(55, 3) is None
    assert world.vote(3, 31, 3) is Rule.SOURCE_TOO_LOW
    assert world.vote(10, 49, 3) is Rule.TARGET_TOO_LOW
    assert world.vote(10, 50, 1) is None
    assert world.vote(10, 51, 3) is None
    world.imports([(45, 4)], [(9, 45, 4)], raise_bounds=True)
    assert world.block(46, 5) is Rule.SLOT_TOO_LOW, "nor does an older file open it again"
    assert world.vote(9, 46, 5) is Rule.SOURCE_TOO_LOW
    world.moves()
    assert world.block(45, 3) is Rule.SLOT_TOO_LOW
    assert world.vote(3, 31, 3) is Rule.SOURCE_TOO_LOW


def a_raised_source_outlives_a_long_vote(world: World) -> None:
    """A vote with an old source and a new target stays; the bound of the file must not fall to its source."""
    assert world.vote(2, 40, 1) is None
    assert world.vote(2, 90, 2) is None
    world.imports([], [(10, 50, None)], raise_bounds=True)
    assert world.vote(9, 95, 3) is Rule.SURROUNDING
    assert world.vote(2, 90, 2) is Rule.SURROUNDING, "the file says that it can be slashed for that"
    assert world.vote(2, 95, 3) is Rule.SURROUNDING
    world.prunes(0, 60)
    assert world.vote(9, 95, 3) is Rule.SOURCE_TOO_LOW
    assert world.vote(2, 90, 2) is Rule.SOURCE_TOO_LOW
    world.moves()
    assert world.vote(9, 95, 3) is Rule.SURROUNDING
    assert world.vote(10, 91, 3) is None


def a_gap_between_imports_is_open_to_a_complete_database(world: World) -> None:
    world.imports([(40, None)], [(2, 30, None)])
    world.imports([(50, None)], [(10, 50, None)])
    assert world.block(45, 3) is None
    assert world.vote(3, 31, 3) is None


def pruning_keeps_what_it_forgets_refused(world: World) -> None:
    for slot in (10, 20, 30):
        assert world.block(slot, slot) is None
    for source, target in ((1, 2), (2, 4), (4, 6)):
        assert world.vote(source, target, target) is None
    world.prunes(30, 6)
    assert world.block(10, 10) is Rule.SLOT_TOO_LOW, "no longer known to be a repeat"
    assert world.block(25, 1) is Rule.SLOT_TOO_LOW
    assert world.block(30, 30) is None
    assert world.vote(2, 4, 4) is Rule.SURROUNDED or world.vote(2, 4, 4) is Rule.SOURCE_TOO_LOW
    assert world.vote(4, 5, 1) is Rule.TARGET_TOO_LOW
    world.prunes(31, 7)
    assert world.block(30, 30) is Rule.SLOT_TOO_LOW
    assert world.vote(3, 9, 1) is Rule.SOURCE_TOO_LOW
    assert world.vote(4, 6, 6) is Rule.TARGET_TOO_LOW
    world.restarts()
    assert world.block(30, 1) is Rule.SLOT_TOO_LOW
    assert world.block(31, 1) is None
    assert world.vote(3, 9, 1) is Rule.SOURCE_TOO_LOW
    assert world.vote(4, 7, 1) is None


def an_import_older_than_the_pruning_is_forgotten_too(world: World) -> None:
    assert world.block(100, 1) is None
    assert world.vote(10, 20, 1) is None
    world.prunes(101, 21)
    world.imports([(50, 2)], [(12, 18, 2)])
    assert world.block(50, 2) is Rule.SLOT_TOO_LOW
    assert world.block(60, 3) is Rule.SLOT_TOO_LOW
    assert world.vote(11, 25, 3) is Rule.SOURCE_TOO_LOW, "it would surround the forgotten 12 -> 18"
    world.moves()
    assert world.block(60, 3) is Rule.SLOT_TOO_LOW
    assert world.vote(11, 25, 3) is Rule.SURROUNDING
    assert world.vote(12, 25, 3) is None


def a_complete_move_loses_nothing(world: World) -> None:
    assert world.block(10, 1) is None
    assert world.block(12, None) is None
    assert world.vote(1, 2, 1) is None
    assert world.vote(2, 4, None) is None
    world.moves()
    assert world.block(10, 1) is None, "a repeat"
    assert world.block(12, 1) is Rule.DOUBLE_BLOCK
    assert world.block(9, 1) is Rule.SLOT_TOO_LOW
    assert world.vote(1, 2, 1) is None
    assert world.vote(2, 4, 1) is Rule.DOUBLE_VOTE
    assert world.vote(1, 5, 1) is Rule.SURROUNDING
    assert world.block(11, 1) is None


def a_pruned_key_moves_with_its_watermarks(world: World) -> None:
    assert world.block(10, 1) is None
    assert world.vote(3, 5, 1) is None
    world.prunes(11, 6)
    world.moves()
    assert world.block(10, 1) is Rule.DOUBLE_BLOCK
    assert world.block(11, 1) is None
    assert world.vote(3, 5, 1) is Rule.DOUBLE_VOTE
    assert world.vote(2, 6, 1) is Rule.SURROUNDING
    assert world.vote(3, 6, 1) is None


def a_minimal_move_permits_only_what_is_newer(world: World) -> None:
    for slot in (10, 30, 20):
        assert world.block(slot, slot) is None
    assert world.vote(1, 9, 1) is None
    assert world.vote(2, 9, 2) is Rule.DOUBLE_VOTE
    assert world.vote(1, 5, 1) is Rule.TARGET_TOO_LOW
    assert world.vote(4, 12, 1) is None
    world.moves(minimal=True)
    for slot in (10, 15, 20, 25, 30):
        assert world.block(slot, slot) in (Rule.SLOT_TOO_LOW, Rule.DOUBLE_BLOCK)
    assert world.block(31, 1) is None
    assert world.vote(3, 13, 1) is Rule.SURROUNDING
    assert world.vote(4, 11, 1) is Rule.TARGET_TOO_LOW
    assert world.vote(4, 13, 1) is None


def keys_do_not_disturb_each_other(world: World) -> None:
    assert world.block(10, 1, key=ANNA) is None
    assert world.block(5, 1, key=BERT) is None
    assert world.block(10, 2, key=BERT) is None
    assert world.vote(1, 9, 1, key=ANNA) is None
    assert world.vote(2, 3, 1, key=BERT) is None
    world.imports([(100, None)], [(50, 60, None)], key=ANNA)
    assert world.block(20, 1, key=BERT) is None
    assert world.vote(2, 4, 1, key=BERT) is None


def the_highest_numbers_are_numbers(world: World) -> None:
    last = 2**64 - 1
    assert world.block(2**63, 1) is None
    assert world.block(2**63 - 1, 1) is Rule.SLOT_TOO_LOW
    assert world.block(last, 2) is None
    assert world.block(last - 1, 3) is None
    assert world.vote(2**63 - 1, 2**63, 1) is None
    assert world.vote(2**63, last, 2) is None
    assert world.vote(2**63 - 1, last, 2) is Rule.DOUBLE_VOTE
    world.prunes(last, last)
    assert world.block(last, 2) is None
    world.imports([(last, None)], [(last, last, None)], raise_bounds=True)
    assert world.block(last, 2) is Rule.DOUBLE_BLOCK
    world.moves(minimal=True)
    assert world.block(last, 2) is Rule.DOUBLE_BLOCK
    assert world.vote(last, last, 2) is Rule.DOUBLE_VOTE


STORIES: Final[tuple[Callable[[World], None], ...]] = (
    a_block_is_signed_once_per_slot,
    a_missing_root_is_never_a_repeat,
    blocks_may_fill_a_gap_above_the_lowest,
    a_target_is_voted_for_once,
    no_vote_surrounds_another,
    no_vote_is_surrounded,
    a_source_is_never_after_its_target,
    epochs_keep_above_the_lowest,
    a_minimal_import_bounds_from_below,
    an_imported_message_may_be_repeated,
    contradictory_imports_leave_nothing_to_repeat,
    an_import_makes_own_signatures_unrepeatable_where_it_disagrees,
    a_vote_that_contradicts_itself_is_believed,
    an_older_import_lowers_no_bound,
    a_gap_between_imports_is_closed_on_request,
    a_raised_source_outlives_a_long_vote,
    a_gap_between_imports_is_open_to_a_complete_database,
    pruning_keeps_what_it_forgets_refused,
    an_import_older_than_the_pruning_is_forgotten_too,
    a_complete_move_loses_nothing,
    a_pruned_key_moves_with_its_watermarks,
    a_minimal_move_permits_only_what_is_newer,
    keys_do_not_disturb_each_other,
    the_highest_numbers_are_numbers,
)
