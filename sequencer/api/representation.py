"""What goes over HTTP: JSON or MessagePack by ``Accept`` and ``Content-Type``, and one shape for errors.

JSON shows structs as objects and bytes as lower-case hex. MessagePack has the canonical arrays of receipts and
sections, and bytes as they are.

An error is ``{"error": {"code": "...", "message": "...", "where": "..."}}``; ``where`` only where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from consensus.types import INTEGER_MAX
from sequencer.transactions import U64_MAX, TransactionId

Document: TypeAlias = "bool | int | float | str | bytes | list[Document] | dict[str, Document] | None"

JSON_TYPE: Final = "application/json"
PACKED_TYPE: Final = "application/msgpack"
PACKED_TYPES: Final = (PACKED_TYPE, "application/x-msgpack", "application/vnd.msgpack")
BYTES_TYPE: Final = "application/octet-stream"
ID_SIZE: Final = 32

_encode_packed: Final = msgspec.msgpack.Encoder().encode
_encode_json: Final = msgspec.json.Encoder().encode


class ApiError(Exception):
    """An answer that refuses. ``status`` is the HTTP status, ``code`` a word for programs, ``where`` names the
    parameter or field."""

    def __init__(
        self, status: int, code: str, message: str, *, where: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.where = where
        self.retry_after_s = retry_after_s

    def document(self) -> dict[str, Document]:
        """The body of the answer."""
        error: dict[str, Document] = {"code": self.code, "message": self.message}
        if self.where is not None:
            error["where"] = self.where
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """The headers of the answer besides its type."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def wants_packed(request: Request) -> bool:
    """Whether the client asks for MessagePack."""
    accepted = request.headers.get("accept", "")
    return any(name in accepted for name in PACKED_TYPES)


def is_packed(content_type: str) -> bool:
    """Whether a body is MessagePack."""
    return content_type in PACKED_TYPES


def content_type_of(request: Request) -> str:
    """The media type of the body, without parameters, lower case; empty when none is given."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def plain(value: object) -> object:
    """``value`` as JSON shows it: structs as objects, bytes as hex."""
    match value:
        case msgspec.Struct():
            config = value.__struct_config__
            document = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
            if config.tag_field is not None and not config.array_like:
                return {config.tag_field: config.tag, **document}
            return document
        case bytes() | memoryview():
            return value.hex()
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value


def encode(value: object, *, packed: bool) -> bytes:
    """The body that shows ``value``: a struct, a document, or a list of them."""
    return _encode_packed(value) if packed else _encode_json(plain(value))


def answer(request: Request, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``value`` in the form that the client asks for."""
    packed = wants_packed(request)
    return Response(
        encode(value, packed=packed),
        status_code=status,
        headers=headers,
        media_type=PACKED_TYPE if packed else JSON_TYPE,
    )


def refuse(request: Request, error: ApiError) -> Response:
    """The answer that shows an error."""
    return answer(request, error.document(), status=error.status, headers=error.headers())


# --- parameters ------------------------------------------------------------------------------------------------------


def read_integer(text: str | None, where: str, maximum: int, default: int | None = None) -> int:
    """A whole number from 0 to ``maximum``."""
    if text is None:
        if default is None:
            raise ApiError(400, "missing_parameter", f"{where}: is required", where=where)
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= maximum):
        raise ApiError(400, "bad_parameter", f"{where}: a whole number from 0 to {maximum} belongs here", where=where)
    return int(text)


def read_height(text: str | None, where: str = "height", default: int | None = None) -> int:
    """A block's height."""
    return read_integer(text, where, INTEGER_MAX, default)


def read_rollup_id(request: Request) -> int:
    """The rollup that the path names; it may not be of this chain."""
    return read_integer(request.path_params["rollup_id"], "rollup_id", U64_MAX)


def read_transaction_id(request: Request) -> TransactionId:
    """The transaction id that the path names."""
    identifier = read_hex(request.path_params["transaction_id"], "transaction_id")
    if len(identifier) != ID_SIZE:
        raise ApiError(
            400, "bad_parameter", f"transaction_id: {ID_SIZE} bytes of hex belong here", where="transaction_id"
        )
    return identifier


def read_flag(request: Request, name: str) -> bool:
    """A query parameter that is 1 or 0."""
    match request.query_params.get(name, "0"):
        case "1" | "true":
            return True
        case "0" | "false":
            return False
    raise ApiError(400, "bad_parameter", f"{name}: 1 or 0 belongs here", where=name)


def read_hex(text: str, where: str) -> bytes:
    """Bytes from hex, with or without 0x."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise ApiError(400, "bad_parameter", f"{where}: not hex", where=where) from None
