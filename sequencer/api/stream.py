"""One rollup's sections as server-sent events, from any height on (HTML Living Standard, "Server-sent events").

Each event is ``id: <height>``, ``event: section`` and the section: as JSON, or with ``encoding=msgpack`` as base64 of
its canonical bytes, which is a quarter of the work for both sides. Every height has its event, also where the rollup
has nothing: so a reader sees that nothing is missing. Who reconnects with ``Last-Event-ID`` goes on after it.

Where the chain has checkpoints there are ``event: final`` besides, without an id: ``{"height": H}`` says that all up to
that height is final.

Each follower pulls at its own pace, and one that reads nothing is dropped by the deadline for sending.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from consensus.types import Height
from sequencer.api.documents import check_rollup
from sequencer.api.gate import Gate
from sequencer.api.metrics import ApiMetrics
from sequencer.api.node_view import NodeView
from sequencer.api.representation import ApiError, encode, read_height, read_rollup_id
from sequencer.ledger import HeightUnavailable
from sequencer.receipts import Section

COMMENT: Final = b": alive\n\n"


class Streams:
    """``GET /v1/rollups/{rollup_id}/stream``."""

    def __init__(self, node: NodeView, gate: Gate, metrics: ApiMetrics) -> None:
        self._node = node
        self._gate = gate
        self._metrics = metrics

    async def stream(self, request: Request) -> Response:
        """Sections from ``from_height`` on (the next one, unless it says otherwise), or after ``Last-Event-ID``."""
        rollup_id = read_rollup_id(request)
        check_rollup(self._node, rollup_id)
        status = self._node.status()
        from_height = read_height(request.query_params.get("from_height"), "from_height", status.ledger_height + 1)
        last_event = request.headers.get("last-event-id")
        if last_event is not None:
            from_height = read_height(last_event, "Last-Event-ID") + 1
        from_height = max(from_height, 1)
        if from_height < status.archive_from:
            message = f"height {from_height} is not available here: pruned below {status.archive_from}"
            raise ApiError(410, "pruned", message, where="from_height")
        encoding = request.query_params.get("encoding", "json")
        if encoding not in ("json", "msgpack"):
            raise ApiError(400, "bad_parameter", "encoding: json or msgpack belongs here", where="encoding")
        if self._gate.closing.is_set():
            raise ApiError(503, "closing", "this node stops; follow another one")
        packed = encoding == "msgpack"
        return _SectionStream(self._node, self._gate, self._metrics, rollup_id, from_height, packed)


class _SectionStream(Response):
    """An answer that goes on until its reader leaves, stalls, or the server stops."""

    media_type = "text/event-stream"

    def __init__(
        self, node: NodeView, gate: Gate, metrics: ApiMetrics, rollup_id: int, from_height: Height, packed: bool
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._node = node
        self._gate = gate
        self._metrics = metrics
        self._rollup_id = rollup_id
        self._from_height = from_height
        self._form: Callable[[Section], bytes] = _packed_event if packed else _json_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._gate.streams.taken(), self._metrics.streams.track_inprogress():
            async with trio.open_nursery() as nursery:

                async def leave() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    nursery.cancel_scope.cancel()

                async def close() -> None:
                    await self._gate.closing.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(leave)
                nursery.start_soon(close)
                await self._send_all(send)
                nursery.cancel_scope.cancel()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # The head goes out with the first body: say something at once, so that a client knows that it is connected.
        await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
        to_reader, events = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, to_reader)
            async with events:
                await self._send_events(events, send)
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, events: trio.MemoryReceiveChannel[bytes], send: Send) -> None:
        while True:
            event = COMMENT
            with trio.move_on_after(self._gate.limits.comment_interval_s):
                try:
                    event = await events.receive()
                except trio.EndOfChannel:
                    return
            await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _read(self, to_reader: trio.MemorySendChannel[bytes]) -> None:
        """A task of its own: the wait for the next section must not be cancelled by the wish to say something."""
        async with to_reader:
            try:
                async with trio.open_nursery() as nursery:
                    if self._node.genesis.spec.checkpoint_interval:
                        nursery.start_soon(self._tell_final, to_reader)
                    async with self._node.follow(self._rollup_id, self._from_height) as sections:
                        async for section in sections:
                            await to_reader.send(self._form(section))
            except* HeightUnavailable as errors:
                document = {"code": "pruned", "message": str(errors.exceptions[0])}
                await to_reader.send(b"event: error\ndata: " + encode({"error": document}, packed=False) + b"\n\n")

    async def _tell_final(self, to_reader: trio.MemorySendChannel[bytes]) -> None:
        height = 0
        while True:
            height = await self._node.final_above(height)
            await to_reader.send(b'event: final\ndata: {"height":%d}\n\n' % height)


def _json_event(section: Section) -> bytes:
    return b"id: %d\nevent: section\ndata: %b\n\n" % (section.height, section.to_json())


def _packed_event(section: Section) -> bytes:
    return b"id: %d\nevent: section\ndata: %b\n\n" % (section.height, b64encode(section.to_bytes()))
