"""Ethereum JSON-RPC for wallets, one endpoint per rollup: reads go to the rollup's adapter, transactions to the
sequencer.

JSON-RPC 2.0, batches included; error codes as there and in EIP-1474, messages in the words of execution clients.

``eth_sendRawTransaction``
    answers with the hash as soon as the transaction waits in the mempool, after the adapter had a look at it. Where no
    adapter answers in time it is taken unseen: an adapter never holds back ordering. The same bytes may be ordered
    again when they were skipped before (a nonce ahead of its time): the sequencer, which orders a transaction only
    once, is then given another expiry, hence another id.
``eth_getTransactionByHash``, ``eth_getTransactionCount`` at ``pending``
    also know what was submitted here and is not executed yet.
"""

from __future__ import annotations

from typing import Final, assert_never

import msgspec
import trio
from eth_hash.auto import keccak
from starlette.requests import Request
from starlette.responses import Response

from consensus.types import Height
from rollup_adapters.base import JsonValue, QueryError
from rollup_adapters.host import AdapterUnavailable
from sequencer.api.documents import check_rollup
from sequencer.api.ethereum_pending import PendingTransaction, PendingTransactions
from sequencer.api.gate import Gate
from sequencer.api.metrics import ApiMetrics
from sequencer.api.node_view import Adapter, NodeView
from sequencer.api.representation import JSON_TYPE, ApiError, content_type_of, read_rollup_id
from sequencer.json_form import is_nested_deeper
from sequencer.mempool import ChangeRefused, Expired, ExpiryTooFar, Full, Ordered, Pending, TooLarge, UnknownRollup
from sequencer.transactions import Level, TransactionId

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
SERVER_ERROR: Final = -32000
RESOURCE_UNAVAILABLE: Final = -32002
RESPONSE_TOO_LARGE: Final = -32003

DEPTH_MAX: Final = 64

PREVIEW: Final = "sequencer_previewTransaction"
PREVIEW_TIMEOUT_S: Final = 2.0
PENDING_NONCES_MAX: Final = 256
"""How many transactions of one account ``eth_getTransactionCount`` counts beyond the executed ones."""

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class EthereumRpc:
    """``POST /rollups/{rollup_id}/rpc``."""

    def __init__(self, node: NodeView, gate: Gate, metrics: ApiMetrics) -> None:
        self._node = node
        self._gate = gate
        self._metrics = metrics
        self._rollups: dict[int, _Rollup] = {}

    async def post(self, request: Request) -> Response:
        """One call or a batch. HTTP status 200 whatever the calls' errors."""
        rollup_id = read_rollup_id(request)
        check_rollup(self._node, rollup_id)
        if content_type_of(request) != JSON_TYPE:
            message = f"Content-Type: {JSON_TYPE} belongs here"
            raise ApiError(415, "unsupported_type", message, where="Content-Type")
        adapter = self._node.adapter(rollup_id)
        if adapter is None:
            message = f"this node runs no adapter for rollup {rollup_id}; ask one that does"
            raise ApiError(404, "no_adapter", message, where="rollup_id")
        rollup = self._rollups.get(rollup_id)
        if rollup is None:
            rollup = self._rollups[rollup_id] = _Rollup(rollup_id, self._node, self._gate, self._metrics)
        async with self._gate.body(request, self._gate.limits.rpc_body_bytes_max) as body:
            answer = await self._answer(rollup, adapter, body)
        return Response(answer, media_type=JSON_TYPE) if answer else Response(status_code=204)

    async def _answer(self, rollup: _Rollup, adapter: Adapter, body: bytes) -> bytes:
        """The body of the answer; none when there were only notifications."""
        if is_nested_deeper(body, DEPTH_MAX):
            return _failure(None, PARSE_ERROR, f"parse error: nested deeper than {DEPTH_MAX}, or not JSON")
        try:
            calls = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _failure(None, PARSE_ERROR, f"parse error: {error}")
        if not isinstance(calls, list):
            return await rollup.call(adapter, calls)
        if not calls:
            return _failure(None, INVALID_REQUEST, "empty batch")
        limits = self._gate.limits
        if len(calls) > limits.rpc_batch_max:
            return _failure(
                None, INVALID_REQUEST, f"batch too large: {len(calls)} calls, at most {limits.rpc_batch_max}"
            )
        answers = []
        left = limits.rpc_answer_bytes_max
        for each in calls:
            if left > 0:
                answer = await rollup.call(adapter, each)
            else:
                answer = _failure(_id_of(each), RESPONSE_TOO_LARGE, "response too large; ask for less at once")
            left -= len(answer)
            if answer:
                answers.append(answer)
        return b"[" + b",".join(answers) + b"]" if answers else b""


class _Rollup:
    """One rollup's side of it."""

    def __init__(self, rollup_id: int, node: NodeView, gate: Gate, metrics: ApiMetrics) -> None:
        limits = gate.limits
        self._rollup_id = rollup_id
        self._node = node
        self._metrics = metrics
        self._pending = PendingTransactions(entries_max=limits.rpc_pending_max, bytes_max=limits.rpc_pending_bytes_max)

    async def call(self, adapter: Adapter, call: JsonValue) -> bytes:
        """The answer to one call; empty for a notification."""
        if not isinstance(call, dict):
            return _failure(None, INVALID_REQUEST, "invalid request: a call is an object")
        identifier = _id_of(call)
        method, params = call.get("method"), call.get("params")
        params = [] if params is None else params
        if call.get("jsonrpc") != "2.0" or not isinstance(method, str) or not isinstance(params, list | dict):
            return _failure(identifier, INVALID_REQUEST, 'invalid request: "jsonrpc": "2.0", a method and params')
        try:
            result = await self._dispatch(adapter, method, params)
        except QueryError as error:
            answer = _failure(identifier, error.code, error.message, error.data)
        except AdapterUnavailable as error:
            answer = _failure(identifier, RESOURCE_UNAVAILABLE, f"resource unavailable: {error}")
        else:
            answer = _encode({"jsonrpc": "2.0", "id": identifier, "result": result})
        return answer if "id" in call else b""

    async def _dispatch(self, adapter: Adapter, method: str, params: JsonValue) -> JsonValue:
        match method:
            case "eth_sendRawTransaction":
                return await self._send_raw(adapter, params)
            case "eth_getTransactionByHash":
                return await self._transaction_by_hash(adapter, params)
            case "eth_getTransactionCount":
                return await self._transaction_count(adapter, params)
            case _:
                return await adapter.query(method, params)

    # --- submission ----------------------------------------------------------------------------------------------

    async def _send_raw(self, adapter: Adapter, params: JsonValue) -> JsonValue:
        if not isinstance(params, list) or len(params) != 1:
            raise QueryError(INVALID_PARAMS, "one parameter belongs here: the signed transaction")
        raw = _bytes_of(params[0])
        transaction_hash = keccak(raw)
        if await self._live(transaction_hash) is not None:
            raise QueryError(SERVER_ERROR, "already known")
        shape = await self._preview(adapter, raw)
        transaction_id = self._submit(raw)
        self._pending.put(transaction_hash, PendingTransaction(transaction_id, raw, shape))
        return "0x" + transaction_hash.hex()

    async def _preview(self, adapter: Adapter, raw: bytes) -> dict[str, JsonValue] | None:
        """The transaction as pending; None where the adapter cannot say. Raises ``QueryError`` for one that the rollup
        would skip, and for a rollup that is no EVM."""
        if not adapter.alive:
            return None
        with trio.move_on_after(PREVIEW_TIMEOUT_S):
            try:
                shape = await adapter.query(PREVIEW, ["0x" + raw.hex()])
            except AdapterUnavailable:
                return None
            except QueryError as error:
                if error.code == METHOD_NOT_FOUND:
                    message = "the method eth_sendRawTransaction does not exist/is not available"
                    raise QueryError(METHOD_NOT_FOUND, message) from None
                if error.code == RESOURCE_UNAVAILABLE:
                    return None
                raise
            return shape if isinstance(shape, dict) else None
        return None

    def _submit(self, raw: bytes) -> TransactionId:
        """Into the mempool, past what was ordered and then skipped. Raises ``QueryError`` where it is not taken."""
        height = self._node.status().ledger_height
        answer = self._node.submit_batch(self._rollup_id, [(0, raw)])[0]
        if isinstance(answer, Ordered):
            if answer.height > self._delivered_height():
                raise QueryError(SERVER_ERROR, "already known")
            valid_until = height + self._node.genesis.spec.deduplication_heights
            answer = self._node.submit_batch(self._rollup_id, [(valid_until, raw)])[0]
        taken = isinstance(answer, Pending | Ordered)
        (self._metrics.taken if taken else self._metrics.refused).inc()
        match answer:
            case Pending(transaction_id=transaction_id) | Ordered(transaction_id=transaction_id):
                return transaction_id
            case TooLarge(size_bytes=size, size_bytes_max=most):
                raise QueryError(SERVER_ERROR, f"oversized data: transaction size {size}, limit {most}")
            case Full():
                raise QueryError(SERVER_ERROR, "txpool is full; try again later")
            case Expired() | ExpiryTooFar() | UnknownRollup() | ChangeRefused():
                raise QueryError(SERVER_ERROR, f"not taken: {answer}")
            case _:
                assert_never(answer)

    # --- what is pending here ------------------------------------------------------------------------------------

    async def _live(self, transaction_hash: bytes) -> PendingTransaction | None:
        """What was submitted here by this hash and is neither executed nor skipped yet."""
        transaction = self._pending.get(transaction_hash)
        if transaction is None:
            return None
        status = await self._node.status_of(transaction.transaction_id)
        if status.level is Level.PENDING:
            return transaction
        if status.position is not None and status.position.height > self._delivered_height():
            return transaction
        self._pending.drop(transaction_hash)
        return None

    def _delivered_height(self) -> Height:
        adapters = self._node.status().adapters
        return next((each.delivered.height for each in adapters if each.rollup_id == self._rollup_id), 0)

    async def _transaction_by_hash(self, adapter: Adapter, params: JsonValue) -> JsonValue:
        found = await adapter.query("eth_getTransactionByHash", params)
        if found is not None or not isinstance(params, list):
            return found
        transaction_hash = _bytes_of(params[0])
        transaction = await self._live(transaction_hash)
        if transaction is not None:
            return transaction.shape or await self._preview(adapter, transaction.raw)
        # It may have been executed while we looked.
        return await adapter.query("eth_getTransactionByHash", params)

    async def _transaction_count(self, adapter: Adapter, params: JsonValue) -> JsonValue:
        count = await adapter.query("eth_getTransactionCount", params)
        if not isinstance(params, list) or params[1:2] != ["pending"] or not isinstance(count, str):
            return count
        sender, nonce = str(params[0]).lower(), int(count, 16)
        for _ in range(PENDING_NONCES_MAX):
            transaction_hash = self._pending.sent_by(sender, nonce)
            if transaction_hash is None or await self._live(transaction_hash) is None:
                break
            nonce += 1
        return hex(nonce)


def _bytes_of(value: JsonValue) -> bytes:
    if isinstance(value, str) and value[:2] in ("0x", "0X"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise QueryError(INVALID_PARAMS, "expected 0x and an even number of hexadecimal digits")


def _id_of(call: JsonValue) -> str | int | float | None:
    identifier = call.get("id") if isinstance(call, dict) else None
    return identifier if isinstance(identifier, str | int | float) and not isinstance(identifier, bool) else None


def _failure(identifier: str | int | float | None, code: int, message: str, data: JsonValue = None) -> bytes:
    error: dict[str, JsonValue] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return _encode({"jsonrpc": "2.0", "id": identifier, "error": error})
