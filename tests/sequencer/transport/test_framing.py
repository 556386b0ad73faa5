"""Frames come out as they went in, however the stream is cut; what is too large is refused unread."""

from __future__ import annotations

from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sequencer.transport.framing import CONSENSUS, HEADER, LINK, TRANSACTIONS, FrameReader, pack_frame
from sequencer.transport.tls import Parted


class Pieces:
    """A source that gives its bytes in pieces of chosen sizes, then ends."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = memoryview(data)
        self.sizes = sizes
        self.turn = 0

    async def receive_into(self, view: memoryview, *, silence_timeout_s: float) -> int:
        assert view, "there must be room"
        if not self.data:
            raise Parted("the end")
        size = min(self.sizes[self.turn % len(self.sizes)], len(view), len(self.data))
        self.turn += 1
        view[:size] = self.data[:size]
        self.data = self.data[size:]
        return size


def read_all(data: bytes, sizes: list[int], size_max: int = 1_000_000) -> tuple[list[tuple[int, bytes]], str]:
    """Every frame, and why the reader stopped."""
    frames: list[tuple[int, bytes]] = []

    async def read() -> str:
        caps = {CONSENSUS: size_max, TRANSACTIONS: size_max, LINK: 100}
        reader = FrameReader(Pieces(data, sizes), caps.get, silence_timeout_s=1)
        try:
            while True:
                frames.append(await reader.read())
        except Parted as parted:
            return str(parted)

    return frames, trio.run(read)


lengths = st.one_of(st.integers(0, 100), st.integers(32_700, 32_800), st.integers(0, 200_000))


@given(
    lengths=st.lists(lengths, max_size=8),
    sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
)
def test_frames_survive_any_cutting(lengths: list[int], sizes: list[int], seed: int) -> None:
    chance = Random(seed)
    frames = [(chance.choice((CONSENSUS, TRANSACTIONS)), chance.randbytes(length)) for length in lengths]
    wire = b"".join(pack_frame(channel, data) for channel, data in frames)
    assert read_all(wire, [max(size, 50) for size in sizes]) == (frames, "the end")


def test_frames_survive_single_bytes() -> None:
    frames = [(CONSENSUS, bytes(range(256)) * 160), (TRANSACTIONS, b""), (CONSENSUS, b"last")]
    assert read_all(b"".join(pack_frame(*frame) for frame in frames), [1])[0] == frames


def test_a_frame_is_one_bytes_object() -> None:
    for size in (10, 100_000):
        ((_, data),), _ = read_all(pack_frame(CONSENSUS, bytes(size)), [16384])
        assert type(data) is bytes


@pytest.mark.parametrize("length", [1001, 2**31, 2**32 - 1])
def test_a_frame_above_its_cap_is_refused_from_its_header(length: int) -> None:
    frames, reason = read_all(HEADER.pack(length, CONSENSUS), [16384], size_max=1000)
    assert not frames
    assert reason == f"a frame of {length} bytes on channel 0 exceeds 1000"


def test_each_channel_has_its_own_cap() -> None:
    assert read_all(pack_frame(LINK, bytes(101)), [16384])[1] == "a frame of 101 bytes on channel 255 exceeds 100"


def test_an_unused_channel_is_refused() -> None:
    assert "channel 7" in read_all(pack_frame(7, b""), [16384])[1]
