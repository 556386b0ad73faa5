"""The host's wire format: what the node and an adapter's process say to each other, in any language.

The process is started with one end of a stream socket (``AF_UNIX``) as its standard input; it reads and writes there.
What it prints, on standard output or standard error, appears on the standard error of the node.

A *frame* is its length (u32, big-endian, at most ``FRAME_SIZE_BYTES_MAX``) and that many bytes of MessagePack: one
array, whose first element names it. Integers are at most 64 bits, binary values are MessagePack ``bin``, and *block*,
*outcome*, *admission* and *executed* are the arrays of ``rollup_adapters.base``, fields in their order there::

    node to adapter                                         answers of the adapter
    ["open", api_version, adapter, rollup_id,               ["opened", api_version]   once: ready to be called
             directory, settings]           once, first     ["not_opened", reason]    then it ends; for people to read
    ["check", id, [transaction, ...]]                       ["checked", id, [admission, ...]]
    ["deliver", id, [block, ...]]                           ["delivered", id, executed]
    ["last_delivered", id]                                  ["cursor", id, height]
    ["settle", id, "soft" | "firm", height]                 ["settled", id]
    ["query", id, method, params]                           ["answered", id, value]
                                                            ["refused", id, code, message, data]    JSON-RPC codes
    ["ping", id]                                            ["pong", id]
    ["cancel", id]    the answer is no longer wanted        none; id may be answered or not
    any call with an id may also be answered by             ["failed", id, reason]    a bug of the adapter

Calls run beside each other and may be answered in any order, except that ``deliver`` and ``settle`` are executed one at
a time in the order in which they were sent, and are never cancelled. An adapter that fails in one of these two ends its
process after saying so: its memory may no longer be what its disk is. End of file means that the node closed the
adapter, or died: release everything and end. A node that sees a frame it cannot read kills the process and starts
another.
"""

from __future__ import annotations

import struct
from typing import Any, Final, TypeAlias

import msgspec
import trio

from rollup_adapters.base import Admission, Executed, Height, Level, SequencedBlock

FRAME_SIZE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Room for the largest section of a block with a good margin; a run of blocks is the caller's to cut."""

QUERY_SIZE_BYTES_MAX: Final = 1024 * 1024
"""A query with its parameters. The node refuses a larger one before the adapter sees it."""

ANSWER_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
"""The answer to a query. A larger one becomes a :class:`QueryError`."""

HEADER: Final = struct.Struct(">I")


class WireError(Exception):
    """The other side sent bytes that are no frame of this format."""


class Open(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="open"):
    api_version: int
    adapter: str
    rollup_id: int
    directory: str
    settings: dict[str, Any]  # JSON


class Check(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="check"):
    id: int
    transactions: tuple[bytes, ...]


class Deliver(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="deliver"):
    id: int
    blocks: tuple[SequencedBlock, ...]


class LastDelivered(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="last_delivered"):
    id: int


class Settle(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="settle"):
    id: int
    level: Level
    height: Height


class Query(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="query"):
    id: int
    method: str
    params: Any  # JSON


class Ping(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="ping"):
    id: int


class Cancel(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="cancel"):
    id: int


class Opened(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="opened"):
    api_version: int


class NotOpened(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="not_opened"):
    reason: str


class Checked(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="checked"):
    id: int
    admissions: tuple[Admission, ...]


class Delivered(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="delivered"):
    id: int
    executed: Executed


class Cursor(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="cursor"):
    id: int
    height: Height


class Settled(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="settled"):
    id: int


class Answered(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="answered"):
    id: int
    value: Any  # JSON


class Refused(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="refused"):
    id: int
    code: int
    message: str
    data: Any  # JSON


class Pong(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="pong"):
    id: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="failed"):
    id: int
    reason: str


Call: TypeAlias = Check | Deliver | LastDelivered | Settle | Query | Ping
ToAdapter: TypeAlias = Open | Call | Cancel
Answer: TypeAlias = Checked | Delivered | Cursor | Settled | Answered | Refused | Pong | Failed
ToNode: TypeAlias = Opened | NotOpened | Answer

ENCODER: Final = msgspec.msgpack.Encoder()
TO_ADAPTER: Final = msgspec.msgpack.Decoder(ToAdapter)
TO_NODE: Final = msgspec.msgpack.Decoder(ToNode)


def encode(message: ToAdapter | ToNode) -> bytearray:
    """One frame, header included. Raises ``ValueError`` where it exceeds the limit or MessagePack cannot hold it."""
    frame = bytearray(HEADER.size)
    try:
        ENCODER.encode_into(message, frame, HEADER.size)
    except (TypeError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValueError(f"{type(message).__name__} does not fit MessagePack: {error}") from error
    size_bytes = len(frame) - HEADER.size
    if size_bytes > FRAME_SIZE_BYTES_MAX:
        name = type(message).__name__
        raise ValueError(
            f"{name} of {size_bytes} bytes exceeds the limit of {FRAME_SIZE_BYTES_MAX}; send less at a time"
        )
    HEADER.pack_into(frame, 0, size_bytes)
    return frame


async def read_to_adapter(socket: trio.socket.SocketType) -> ToAdapter | None:
    """The next message for the adapter, or None at the end of the stream. Raises :class:`WireError`."""
    frame = await _read_frame(socket)
    try:
        return None if frame is None else TO_ADAPTER.decode(frame)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise WireError(f"unreadable frame: {error}") from error


async def read_to_node(socket: trio.socket.SocketType) -> tuple[ToNode, int] | None:
    """The next message for the node and its size, or None at the end of the stream. Raises :class:`WireError`."""
    frame = await _read_frame(socket)
    try:
        return None if frame is None else (TO_NODE.decode(frame), len(frame))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise WireError(f"unreadable frame: {error}") from error


async def _read_frame(socket: trio.socket.SocketType) -> bytearray | None:
    header = bytearray(HEADER.size)
    if not await _fill(socket, header):
        return None
    (size_bytes,) = HEADER.unpack(header)
    if size_bytes > FRAME_SIZE_BYTES_MAX:
        raise WireError(f"a frame of {size_bytes} bytes; the limit is {FRAME_SIZE_BYTES_MAX}")
    frame = bytearray(size_bytes)
    return frame if await _fill(socket, frame) else None


async def _fill(socket: trio.socket.SocketType, buffer: bytearray) -> bool:
    """Fill ``buffer``; False where the stream ended before."""
    rest = memoryview(buffer)
    while rest:
        try:
            received = await socket.recv_into(rest)
        except ConnectionError:
            return False
        if received == 0:
            return False
        rest = rest[received:]
    return True


async def send(socket: trio.socket.SocketType, frame: bytearray) -> bool:
    """Send a whole frame; False where the other side is gone. A cancelled send ruins the stream."""
    rest = memoryview(frame)
    while rest:
        try:
            rest = rest[await socket.send(rest) :]
        except (ConnectionError, BrokenPipeError):
            return False
    return True


def is_json(value: object) -> bool:
    """Whether ``value`` is JSON only: no bytes, no tuples, no keys but strings. Iterative, so depth is no danger."""
    pending = [value]
    while pending:
        match pending.pop():
            case None | bool() | int() | float() | str():
                pass
            case list() as items:
                pending.extend(items)
            case dict() as members:
                if not all(isinstance(key, str) for key in members):
                    return False
                pending.extend(members.values())
            case _:
                return False
    return True
