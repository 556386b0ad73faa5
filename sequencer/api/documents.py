"""The documents that several routes give, and the refusals that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import trio
from starlette.requests import Request
from starlette.responses import Response

from consensus.genesis import SYSTEM_ROLLUP
from consensus.reconfiguration import ChangeAccepted, ChangeIgnored, ChangeOutcome
from consensus.types import Height
from sequencer.api.gate import RETRY_AFTER_S
from sequencer.api.limits import ApiLimits
from sequencer.api.node_view import NodeView
from sequencer.api.representation import ApiError, answer, plain, read_integer, wants_packed
from sequencer.block_summary import BlockSummary
from sequencer.ledger import HeightUnavailable, NoCheckpoints, TooManyWaiters, TransactionExpired
from sequencer.receipts import Receipt
from sequencer.transactions import Level, Position, TransactionId, TransactionStatus

WAIT_TIMEOUT_DEFAULT_MS: Final = 10_000
WAITS: Final = (Level.CONFIRMED.value, Level.FINAL.value)


def transaction_document(
    request: Request,
    transaction_id: TransactionId,
    status: TransactionStatus,
    receipt: Receipt | None,
    outcome: ChangeOutcome | None = None,
) -> Mapping[str, object]:
    """A transaction's state; of an ordered change of the validators, what became of it. In MessagePack the receipt is
    its canonical bytes."""
    document: dict[str, object] = {
        "transaction_id": transaction_id,
        "level": status.level.value,
        "position": None if status.position is None else plain(status.position),
    }
    if receipt is not None:
        document["receipt"] = receipt.to_bytes() if wants_packed(request) else receipt
    match outcome:
        case ChangeAccepted(effective_at=effective_at):
            document["change"] = {"accepted": True, "effective_at": effective_at}
        case ChangeIgnored(reason=reason):
            document["change"] = {"accepted": False, "reason": reason}
    return document


async def outcome_at(node: NodeView, position: Position | None) -> ChangeOutcome | None:
    """What became of a change of the validators; None for any other transaction."""
    if position is None or position.rollup_id != SYSTEM_ROLLUP:
        return None
    return await node.change_outcome(position)


def block_document(block: BlockSummary, final_height: Height) -> dict[str, object]:
    """A block in JSON: id and rung besides, and the proof only where there is one."""
    document: dict[str, object] = {
        "block_id": block.block_id,
        "level": (Level.FINAL if block.height <= final_height else Level.CONFIRMED).value,
        "header": block.header,
        "sections": block.sections,
    }
    if block.commit_proof is not None:
        document["commit_proof"] = block.commit_proof
    return document


def check_rollup(node: NodeView, rollup_id: int) -> None:
    """Raises :class:`ApiError` 404 for a rollup that is not of this chain."""
    spec = node.genesis.spec
    rollups = spec.rollups
    is_system = rollup_id == SYSTEM_ROLLUP and spec.reconfiguration is not None
    if rollup_id not in rollups and not is_system:
        raise unknown_rollup(rollup_id, rollups)


def unknown_rollup(rollup_id: int, rollups: Sequence[int]) -> ApiError:
    """404, with the rollups that there are."""
    known = ", ".join(map(str, rollups[:16])) + (", ..." if len(rollups) > 16 else "")
    message = f"rollup {rollup_id} is not of this chain, which orders {known}"
    return ApiError(404, "unknown_rollup", message, where="rollup_id")


def unavailable(error: HeightUnavailable) -> ApiError:
    """410 for a pruned height, 404 for one that is not here, or not yet."""
    if error.height < error.pruned_below:
        return ApiError(410, "pruned", str(error), where="height")
    return ApiError(404, "not_available", str(error), where="height")


class Wait(NamedTuple):
    """For which rung, and how long."""

    level: Level
    timeout_s: float


def read_wait(request: Request, limits: ApiLimits) -> Wait | None:
    """What a request waits for; None for one that does not."""
    wait = request.query_params.get("wait")
    if wait is None:
        return None
    if wait not in WAITS:
        raise ApiError(400, "bad_parameter", "wait: confirmed or final can be waited for", where="wait")
    timeout = request.query_params.get("timeout_ms")
    timeout_ms = read_integer(timeout, "timeout_ms", int(limits.wait_timeout_s * 1000), WAIT_TIMEOUT_DEFAULT_MS)
    return Wait(Level(wait), timeout_ms / 1000)


async def confirmation(node: NodeView, request: Request, transaction_id: TransactionId, wait: Wait) -> Response:
    """The receipt, or 202 with the state so far when it does not come in time: the transaction is still waiting."""
    with trio.move_on_after(wait.timeout_s):
        try:
            receipt = await node.wait(transaction_id, wait.level)
        except TransactionExpired as error:
            raise ApiError(422, "expired", f"{error}. Submit it anew with a later valid_until") from None
        except TooManyWaiters as error:
            raise ApiError(503, "busy", str(error), retry_after_s=RETRY_AFTER_S) from None
        except NoCheckpoints as error:
            raise ApiError(422, "no_checkpoints", str(error), where="wait") from None
        except HeightUnavailable as error:
            raise unavailable(error) from None
        return await _with_receipt(node, request, transaction_id, receipt)
    status = await node.status_of(transaction_id)
    if status.level in (wait.level, Level.FINAL):  # it came just then, and is not said without being shown
        try:
            late = await node.receipt(transaction_id, wait.level)
        except HeightUnavailable as error:
            raise unavailable(error) from None
        if late is not None:
            return await _with_receipt(node, request, transaction_id, late)
    return answer(request, transaction_document(request, transaction_id, status, None), status=202)


async def _with_receipt(node: NodeView, request: Request, transaction_id: TransactionId, receipt: Receipt) -> Response:
    status = TransactionStatus(level=receipt.level, position=receipt.position)
    outcome = await outcome_at(node, receipt.position)
    return answer(request, transaction_document(request, transaction_id, status, receipt, outcome))
