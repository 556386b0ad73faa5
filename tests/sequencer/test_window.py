"""The committed window: exactly the last K heights."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sequencer.window import CommittedBlock, CommittedWindow
from tests.sequencer.chains import advance, payload


def ids(*names: int) -> dict[bytes, int]:
    return {bytes([name]) * 32: name for name in names}


def window_of(heights_max: int, *heights: dict[bytes, int]) -> CommittedWindow:
    window = CommittedWindow(heights_max)
    for height, ordered in enumerate(heights, start=1):
        window.advance(CommittedBlock(height, bytes(32), height, ordered))
    return window


def test_it_forgets_what_is_older_than_k_heights() -> None:
    window = window_of(2, ids(1, 2), ids(3), ids(4))
    assert [window.ordered_at(i) for i in ids(1, 2, 3, 4)] == [None, None, 2, 3]
    assert window.block_at(1) is None
    assert window.block_at(4) is None
    second = window.block_at(2)
    assert second is not None
    assert second.timestamp_ms == 2


def test_an_id_ordered_again_belongs_to_the_later_height() -> None:
    window = window_of(2, ids(1), ids(2), ids(1))
    assert window.ordered_at(bytes([1]) * 32) == 3


def test_only_the_asked_heights_count() -> None:
    window = window_of(4, ids(1), ids(2), ids(3))
    sought = ids(1, 3).keys()
    assert window.first_ordered(sought, 1, 3) is not None
    assert window.first_ordered(sought, 2, 2) is None
    assert window.first_ordered(sought, 2, 3) == bytes([3]) * 32
    assert window.first_ordered(ids(9).keys(), 0, 9) is None


def test_a_gap_is_our_bug() -> None:
    window = window_of(2, ids(1))
    with pytest.raises(ValueError, match="height 3 after 1"):
        window.advance(CommittedBlock(3, bytes(32), 3, ids(2)))


def test_it_may_start_at_any_height() -> None:
    window = CommittedWindow(2)
    window.advance(CommittedBlock(70, bytes(32), 1, ids(1)))
    assert window.height == 70


async def test_waiting_for_a_height(autojump_clock: trio.testing.MockClock) -> None:
    window = CommittedWindow(2)
    await window.reached(0)
    async with trio.open_nursery() as nursery:
        reached: list[int] = []

        async def wait(height: int) -> None:
            await window.reached(height)
            reached.append(height)

        for height in (1, 2):
            nursery.start_soon(wait, height)
        await trio.sleep(1)
        assert reached == []
        advance(window, payload({}))
        await trio.sleep(1)
        assert reached == [1]
        advance(window, payload({}))
    assert reached == [1, 2]
