"""Submission: one transaction or a batch, into the mempool, with the adapter's opinion where there is one in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, assert_never

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from consensus.types import INTEGER_MAX, Height
from rollup_adapters.base import Accepted, Admission, Rejected
from rollup_adapters.host import AdapterUnavailable
from sequencer.api.documents import check_rollup, confirmation, read_wait, unknown_rollup
from sequencer.api.gate import RETRY_AFTER_S, Gate
from sequencer.api.limits import ApiLimits
from sequencer.api.metrics import ApiMetrics
from sequencer.api.node_view import Adapter, NodeView
from sequencer.api.representation import (
    BYTES_TYPE,
    JSON_TYPE,
    PACKED_TYPES,
    ApiError,
    answer,
    content_type_of,
    is_packed,
    read_height,
    read_rollup_id,
)
from sequencer.mempool import (
    ChangeRefused,
    Expired,
    ExpiryTooFar,
    Full,
    Ordered,
    Pending,
    Submission,
    TooLarge,
    UnknownRollup,
)


class NotAdmitted(msgspec.Struct, frozen=True, gc=False, tag="not_admitted"):
    """The rollup's adapter says that the transaction can never execute there."""

    reason: str


SubmissionAnswer: TypeAlias = Submission | NotAdmitted
Entry: TypeAlias = tuple[Height, bytes]


class JsonTransaction(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """``data`` is hex, with or without 0x."""

    data: str
    valid_until: int = 0


class PackedTransaction(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The MessagePack map of a transaction with an expiry of its own."""

    data: bytes
    valid_until: int = 0


_json: Final = msgspec.json.Decoder(JsonTransaction | list[JsonTransaction])
_packed: Final = msgspec.msgpack.Decoder(PackedTransaction | list[bytes | PackedTransaction])


class AdmissionGate:
    """Asks an adapter to look at transactions, and never lets it hold back ordering: an adapter that is down, busy or
    slow is not waited for, and one that was too slow is left alone for a while. What it then misses, it skips by rule
    when it executes."""

    def __init__(self, limits: ApiLimits) -> None:
        self._limits = limits
        self._asking: dict[int, int] = {}
        self._paused_until: dict[int, float] = {}

    async def look(self, rollup_id: int, adapter: Adapter | None, data: Sequence[bytes]) -> Sequence[Admission] | None:
        """One answer each, or None when the adapter was not asked or did not answer in time."""
        asking = self._asking.get(rollup_id, 0)
        if adapter is None or not adapter.alive or asking >= self._limits.admission_concurrency_max:
            return None
        if trio.current_time() < self._paused_until.get(rollup_id, 0.0):
            return None
        self._asking[rollup_id] = asking + 1
        try:
            with trio.move_on_after(self._limits.admission_timeout_s):
                return await adapter.check(data)
        except (AdapterUnavailable, ValueError):
            return None  # down, or too many bytes for one frame of its socket
        finally:
            self._asking[rollup_id] -= 1
        self._paused_until[rollup_id] = trio.current_time() + self._limits.admission_pause_s
        return None


class Submissions:
    """``POST /v1/rollups/{rollup_id}/transactions``."""

    def __init__(self, node: NodeView, gate: Gate, admission: AdmissionGate, metrics: ApiMetrics) -> None:
        self._node = node
        self._gate = gate
        self._admission = admission
        self._metrics = metrics

    async def post(self, request: Request) -> Response:
        """Take one transaction (202, or 200 when it was known) or a batch (200, one answer each)."""
        rollup_id = read_rollup_id(request)
        check_rollup(self._node, rollup_id)
        wait = read_wait(request, self._gate.limits)
        async with self._gate.body(request, self._gate.body_bytes_max) as body:
            entries, single = self._read_entries(request, body)
            if wait is not None and not single:
                raise ApiError(400, "bad_parameter", "wait: is for a single transaction", where="wait")
            answers = await self.submit(rollup_id, entries)
        if not single:
            headers = {"Retry-After": str(RETRY_AFTER_S)} if any(type(each) is Full for each in answers) else None
            return answer(request, answers, headers=headers)
        taken = self._expect_taken(answers[0])
        if wait is not None:
            return await confirmation(self._node, request, taken.transaction_id, wait)
        return answer(request, taken, status=202 if type(taken) is Pending and not taken.known else 200)

    async def submit(self, rollup_id: int, entries: Sequence[Entry]) -> Sequence[SubmissionAnswer]:
        """Ask the adapter, then the mempool. One answer each, in order."""
        adapter = self._node.adapter(rollup_id)
        admissions = None
        if adapter is not None:
            admissions = await self._admission.look(rollup_id, adapter, [data for _, data in entries])
        if admissions is None or Rejected not in set(map(type, admissions)):
            answers: list[SubmissionAnswer] = [*self._node.submit_batch(rollup_id, entries)]
        else:
            answers = self._submit_admitted(rollup_id, entries, admissions)
        taken = sum(type(each) is Pending or type(each) is Ordered for each in answers)
        self._metrics.taken.inc(taken)
        self._metrics.refused.inc(len(answers) - taken)
        return answers

    def _submit_admitted(
        self, rollup_id: int, entries: Sequence[Entry], admissions: Sequence[Admission]
    ) -> list[SubmissionAnswer]:
        admitted = [entry for entry, admission in zip(entries, admissions, strict=True) if type(admission) is Accepted]
        submissions = iter(self._node.submit_batch(rollup_id, admitted))
        answers: list[SubmissionAnswer] = []
        for admission in admissions:
            match admission:
                case Accepted():
                    answers.append(next(submissions))
                case Rejected(reason=reason):
                    answers.append(NotAdmitted(reason))
                case _:
                    assert_never(admission)
        return answers

    def _expect_taken(self, result: SubmissionAnswer) -> Pending | Ordered:
        match result:
            case Pending() | Ordered():
                return result
            case _:
                raise refusal(result, self._node.genesis.spec.rollups)

    def _read_entries(self, request: Request, body: bytes) -> tuple[Sequence[Entry], bool]:
        """What the body holds, at least one, and whether it is a single one and not a batch."""
        valid_until = read_height(request.query_params.get("valid_until"), "valid_until", 0)
        content_type = content_type_of(request)
        if content_type == BYTES_TYPE:
            return [(valid_until, body)], True
        entries, single = _decode(content_type, body, valid_until)
        if not entries:
            raise ApiError(400, "empty", "the batch holds no transaction", where="body")
        if len(entries) > self._gate.limits.batch_transactions_max:
            most = self._gate.limits.batch_transactions_max
            raise ApiError(413, "too_large", f"{len(entries)} transactions, at most {most} at once", where="body")
        if max(entry[0] for entry in entries) > INTEGER_MAX or min(entry[0] for entry in entries) < 0:
            raise ApiError(400, "bad_parameter", "valid_until: a height or 0 belongs here", where="valid_until")
        return entries, single


def _decode(content_type: str, body: bytes, valid_until: Height) -> tuple[list[Entry], bool]:
    try:
        if is_packed(content_type):
            packed = _packed.decode(body)
            if isinstance(packed, list):
                return [
                    (valid_until, each) if isinstance(each, bytes) else (each.valid_until or valid_until, each.data)
                    for each in packed
                ], False
            return [(packed.valid_until or valid_until, packed.data)], True
        if content_type == JSON_TYPE:
            decoded = _json.decode(body)
            if isinstance(decoded, list):
                return [_entry_of(each, valid_until) for each in decoded], False
            return [_entry_of(decoded, valid_until)], True
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ApiError(400, "malformed", f"the body is not what belongs here: {error}", where="body") from None
    known = ", ".join((JSON_TYPE, PACKED_TYPES[0], BYTES_TYPE))
    raise ApiError(415, "unsupported_type", f"Content-Type: one of {known} belongs here", where="Content-Type")


def _entry_of(transaction: JsonTransaction, valid_until: Height) -> Entry:
    return transaction.valid_until or valid_until, bytes.fromhex(transaction.data.removeprefix("0x"))


def refusal(
    result: TooLarge | Full | UnknownRollup | Expired | ExpiryTooFar | ChangeRefused | NotAdmitted,
    rollups: Sequence[int],
) -> ApiError:
    """The error that answers a single transaction which was not taken."""
    match result:
        case TooLarge(size_bytes=size, size_bytes_max=most):
            return ApiError(413, "too_large", f"a transaction has at most {most} bytes, this one {size}", where="data")
        case Full(rollup_id=rollup_id, pending=pending):
            message = f"{pending} transactions of rollup {rollup_id} wait already; resubmit later, or elsewhere"
            return ApiError(503, "full", message, retry_after_s=RETRY_AFTER_S)
        case UnknownRollup(rollup_id=rollup_id):
            return unknown_rollup(rollup_id, rollups)
        case Expired(valid_until=valid_until, next_height=height):
            message = f"valid until {valid_until}, but the next block is {height}. Submit it anew with a later one"
            return ApiError(422, "expired", message, where="valid_until")
        case ExpiryTooFar(valid_until=valid_until, latest=latest):
            message = f"valid until {valid_until}, but at most {latest} is possible now, or 0 for no expiry"
            return ApiError(422, "expiry_too_far", message, where="valid_until")
        case ChangeRefused(reason=reason):
            message = f"this change of the validators would have no effect: {reason}"
            return ApiError(422, "change_refused", message, where="data")
        case NotAdmitted(reason=reason):
            return ApiError(422, "not_admitted", f"the rollup cannot execute it: {reason}", where="data")
        case _:
            assert_never(result)
