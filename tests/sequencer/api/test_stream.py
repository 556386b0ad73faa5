"""Server-sent events: order, resuming, what happens to readers that stall or leave, and to all of them at the end."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
import trio.testing

from sequencer.api.limits import ApiLimits
from sequencer.api.server import serve_api
from sequencer.config import ApiConfig
from sequencer.event_stream import ServerSentEvent, open_event_stream
from sequencer.receipts import Genesis, Section
from tests.sequencer.api.fake_node import FakeNode, Served, served
from tests.support.waiting import PATIENCE_S, until_told

STREAM = "/v1/rollups/3/stream"


class Events:
    """A reader of a stream."""

    def __init__(self, channel: trio.MemoryReceiveChannel[ServerSentEvent]) -> None:
        self._channel = channel

    async def next(self) -> ServerSentEvent:
        """The next event or comment."""
        return await self._channel.receive()

    async def next_section(self, genesis: Genesis | None = None) -> tuple[int, list[bytes]]:
        """Height and transactions of the next section; verifies it when told what to trust."""
        while (event := await self.next()).kind == "comment":
            pass
        section = Section.from_json(event.data)
        assert isinstance(section, Section)
        assert (event.kind, int(event.id)) == ("section", section.height)
        if genesis is not None:
            section.verify(genesis)
        return section.height, list(section.transactions)


@asynccontextmanager
async def following(api: Served, path: str = STREAM, **query: str | int) -> AsyncIterator[Events]:
    """A follower of a stream."""
    async with open_event_stream(api.http, path, params=query, event_bytes_max=2**24) as channel:
        yield Events(channel)


async def test_every_height_comes_in_order_and_verifies() -> None:
    async with served() as api:
        api.node.submit_batch(3, [(0, b"a"), (0, b"b")])
        await api.node.order()
        async with following(api, from_height=1) as events:
            assert await events.next_section(api.node.genesis) == (1, [b"a", b"b"])
            api.node.submit_batch(7, [(0, b"of another rollup")])
            await api.node.order()
            assert await events.next_section(api.node.genesis) == (2, [])
            api.node.submit_batch(3, [(0, b"c")])
            await api.node.order()
            assert await events.next_section(api.node.genesis) == (3, [b"c"])


async def test_a_reader_that_comes_back_goes_on_after_its_last_event() -> None:
    async with served() as api:
        for _ in range(4):
            await api.node.order()
        api.http.headers["last-event-id"] = "3"
        async with following(api, from_height=1) as events:
            assert (await events.next_section())[0] == 4
        del api.http.headers["last-event-id"]
        async with following(api) as events:
            assert (await events.next()).kind == "comment"
            await api.node.order()
            assert (await events.next_section())[0] == 5


async def test_the_packed_form_is_the_canonical_section() -> None:
    async with served() as api:
        api.node.submit_batch(3, [(0, b"a")])
        await api.node.order()
        async with following(api, from_height=1, encoding="msgpack") as events:
            await events.next()
            section = Section.from_bytes(b64decode((await events.next()).data))
            assert isinstance(section, Section)
            section.verify(api.node.genesis)
            assert section.transactions == (b"a",)


async def test_what_becomes_final_is_said_between_the_sections() -> None:
    async with served() as api:
        for _ in range(4):
            await api.node.order()
        async with following(api, from_height=4) as events:
            assert (await events.next_section(api.node.genesis))[0] == 4
            await api.node.finalize(2)
            while (event := await events.next()).kind == "comment":
                pass
            assert event == ("final", "", b'{"height":2}'), "without an id: who comes back goes on after a section"
            await api.node.order()
            assert (await events.next_section())[0] == 5


async def test_a_silent_stream_says_that_it_lives() -> None:
    async with served(limits=ApiLimits(comment_interval_s=0.01)) as api, following(api) as events:
        for _ in range(3):
            assert await events.next() == ("comment", "", b"alive")


async def test_what_is_pruned_on_the_way_ends_the_stream() -> None:
    node = FakeNode()
    for _ in range(1030):  # more than the ledger keeps in memory
        node.store.rows.append((node.next_block_cheaply(), b""))
    await node.ledger.restore()
    async with served(node) as api:
        status, node.store.pruned_below = node.status(), 2
        node.status = lambda: status  # type: ignore[method-assign]  # the fake node answers so
        async with following(api, from_height=1) as events:
            while (event := await events.next()).kind == "comment":
                pass
            assert event.kind == "error"
            assert json.loads(event.data)["error"]["code"] == "pruned"
            with pytest.raises(trio.EndOfChannel):
                await events.next()


async def open_reader(port: int) -> trio.SocketStream:
    """A client that asks for a stream and then reads nothing. Its buffer is small."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await stream.send_all(f"GET {STREAM}?from_height=1 HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    return stream


async def read_to_the_end(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def nobody_follows(api: Served) -> None:
    """Returns when the server counts no follower."""
    await until_told(partial(api.http.get, "/metrics"), lambda answer: "sequencer_api_streams 0.0" in answer.text)


async def fill(node: FakeNode, blocks: int) -> None:
    """Commit blocks of about 1 MB."""
    for number in range(blocks):
        node.submit_batch(3, [(0, bytes([number, each % 256, each // 256]) * 1300) for each in range(256)])
        await node.order()


async def test_a_reader_that_stalls_is_dropped_and_holds_back_nobody() -> None:
    async with served(limits=ApiLimits(send_timeout_s=0.3)) as api:
        await fill(api.node, 8)
        stalled = await open_reader(api.port)
        async with following(api, from_height=1) as events:
            for height in range(1, 9):
                assert (await events.next_section())[0] == height
        assert (await api.submit(b"x")).status_code == 202
        await nobody_follows(api)
        async with stalled:
            with pytest.raises(trio.BrokenResourceError):  # reset, after what was in its buffer
                await read_to_the_end(stalled)


async def test_a_reader_that_leaves_is_forgotten() -> None:
    async with served() as api:
        async with following(api) as events:
            await events.next()
            assert "sequencer_api_streams 1.0" in (await api.http.get("/metrics")).text
        await nobody_follows(api)


async def test_one_follower_too_many_is_refused() -> None:
    async with served(limits=ApiLimits(streams_max=1)) as api, following(api) as events:
        await events.next()
        response = await api.http.get(STREAM)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "busy")


async def test_a_stop_ends_streams_and_does_not_wait_for_those_who_do_not_read() -> None:
    node = FakeNode()
    await fill(node, 8)
    config = ApiConfig(listen=("127.0.0.1", 0), body_size_bytes_max=1000)
    limits = ApiLimits(shutdown_timeout_s=0.3, send_timeout_s=10 * PATIENCE_S)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(partial(serve_api, node, config, limits=limits))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http, trio.open_nursery() as others:
                stalled = await open_reader(port)
                async with open_event_stream(http, STREAM, params={}, event_bytes_max=1000) as events:
                    assert (await events.receive()).kind == "comment"
                    await trio.testing.wait_all_tasks_blocked(0.1)  # the stalled reader's buffers are full
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True), pytest.raises(trio.EndOfChannel):
                        await events.receive()
                others.cancel_scope.cancel()
    await stalled.aclose()
