"""Bounds hold, the oldest goes first, and a flood waits behind itself."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sequencer.transport.framing import pack_frame
from sequencer.transport.queues import COALESCE_SIZE, Box, FairInbox, Outbox


def test_a_full_outbox_drops_its_oldest_frames() -> None:
    outbox = Outbox(0, bytes_max=100, frames_max=3)
    assert [outbox.put(b"%d" % number) for number in range(5)] == [0, 0, 0, 1, 1]
    assert outbox.take()[0] == b"".join(pack_frame(0, data) for data in (b"2", b"3", b"4"))
    assert [outbox.put(bytes(40)), outbox.put(bytes(40)), outbox.put(bytes(90))] == [0, 0, 2]
    assert (len(outbox), outbox.size_bytes) == (1, 90)


def test_an_outbox_always_takes_one_frame() -> None:
    outbox = Outbox(0, bytes_max=100, frames_max=3)
    outbox.put(b"small")
    assert outbox.put(bytes(1000)) == 1
    assert (len(outbox), outbox.size_bytes) == (1, 1000)


@given(sizes=st.lists(st.integers(0, 60), max_size=60), takes=st.lists(st.booleans(), min_size=60, max_size=60))
def test_an_outbox_keeps_its_bounds_and_order(sizes: list[int], takes: list[bool]) -> None:
    outbox = Outbox(5, bytes_max=100, frames_max=7)
    kept: list[bytes] = []
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        dropped = outbox.put(data)
        kept = [*kept, data][dropped:]
        assert len(outbox) == len(kept) <= 7
        assert outbox.size_bytes == sum(map(len, kept)) <= 100
        if takes[number]:
            assert outbox.take() == (b"".join(pack_frame(5, frame) for frame in kept), b"")
            kept = []


def test_small_frames_are_joined_and_a_large_one_is_sent_from_where_it_lies() -> None:
    outbox = Outbox(1, bytes_max=10**6, frames_max=100)
    large = bytes(COALESCE_SIZE + 1)
    for data in (b"a", b"b", large, b"c"):
        outbox.put(data)
    joined, last = outbox.take()
    assert joined == pack_frame(1, b"a") + pack_frame(1, b"b") + pack_frame(1, large)[:5]
    assert last is large
    assert outbox.take() == (pack_frame(1, b"c"), b"")
    assert outbox.take() == (b"", b"")


def test_a_batch_is_bounded() -> None:
    outbox = Outbox(1, bytes_max=10**9, frames_max=10**6)
    for _ in range(200):
        outbox.put(bytes(1000))
    assert COALESCE_SIZE <= len(outbox.take()[0]) <= COALESCE_SIZE + 2000


async def test_a_flooded_box_does_not_delay_the_others() -> None:
    inbox: FairInbox[str] = FairInbox(bytes_max=10**6, frames_max=1000)
    flood, two, one = Box[str](), Box[str](), Box[str]()
    for number in range(1000):
        inbox.offer(flood, f"flood {number}", 1)
    inbox.offer(two, "two 0", 1)
    inbox.offer(two, "two 1", 1)
    inbox.offer(one, "one 0", 1)
    assert [await inbox.get() for _ in range(7)] == [
        "flood 0", "two 0", "one 0", "flood 1", "two 1", "flood 2", "flood 3",
    ]  # fmt: skip


async def test_announcements_come_first_and_once() -> None:
    inbox: FairInbox[str] = FairInbox(bytes_max=10, frames_max=10)
    inbox.offer(Box(), "frame", 1)
    inbox.announce(b"peer", "connected")
    inbox.announce(b"peer", "connected again")
    assert [await inbox.get(), await inbox.get()] == ["connected again", "frame"]


@pytest.mark.parametrize(("size", "fits"), [(1, 3), (40, 2), (1000, 1)])
async def test_a_full_box_holds_back_its_writer(size: int, fits: int) -> None:
    inbox: FairInbox[int] = FairInbox(bytes_max=100, frames_max=3)
    box = Box[int]()
    put = 0

    async def write() -> None:
        nonlocal put
        for number in range(10):
            await inbox.put(box, number, size)
            put += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert put == fits
        for number in range(10):
            assert await inbox.get() == number
            await trio.testing.wait_all_tasks_blocked()
            assert put == min(10, fits + number + 1)


async def test_an_empty_inbox_waits() -> None:
    inbox: FairInbox[str] = FairInbox(bytes_max=10, frames_max=10)
    seen: list[str] = []

    async def read() -> None:
        seen.append(await inbox.get())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        inbox.offer(Box(), "now", 1)
    assert seen == ["now"]


async def test_a_discarded_box_is_empty_and_can_be_used_again() -> None:
    inbox: FairInbox[str] = FairInbox(bytes_max=2, frames_max=10)
    box, other = Box[str](), Box[str]()
    inbox.offer(box, "lost", 1)
    inbox.offer(box, "lost", 1)
    inbox.offer(other, "kept", 1)
    assert not inbox.offer(box, "no room", 1)
    assert inbox.discard(box) == 2
    assert await inbox.get() == "kept"
    assert inbox.offer(box, "new", 1)
    assert await inbox.get() == "new"
