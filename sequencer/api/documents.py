"""The documents that several routes give, and the refusals that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request

from sequencer.api.node_view import NodeView
from sequencer.api.representation import ApiError, plain, wants_packed
from sequencer.block_summary import BlockSummary
from sequencer.ledger import HeightUnavailable
from sequencer.receipts import Receipt
from sequencer.transactions import TransactionId, TransactionStatus


def transaction_document(
    request: Request, transaction_id: TransactionId, status: TransactionStatus, receipt: Receipt | None
) -> Mapping[str, object]:
    """A transaction's state. In MessagePack the receipt is its canonical bytes."""
    document: dict[str, object] = {
        "transaction_id": transaction_id,
        "level": status.level.value,
        "position": None if status.position is None else plain(status.position),
    }
    if receipt is not None:
        document["receipt"] = receipt.to_bytes() if wants_packed(request) else receipt
    return document


def block_document(block: BlockSummary) -> dict[str, object]:
    """A block in JSON: the id besides, and the proof only where there is one."""
    document: dict[str, object] = {
        "block_id": block.block_id,
        "header": block.header,
        "sections": block.sections,
    }
    if block.commit_proof is not None:
        document["commit_proof"] = block.commit_proof
    return document


def check_rollup(node: NodeView, rollup_id: int) -> None:
    """Raises :class:`ApiError` 404 for a rollup that is not of this chain."""
    rollups = node.genesis.spec.rollups
    if rollup_id not in rollups:
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
