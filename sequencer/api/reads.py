"""What a client reads: states, receipts, blocks, sections, and where the node stands."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from consensus.types import INTEGER_MAX
from sequencer.api.documents import (
    block_document,
    check_rollup,
    confirmation,
    outcome_at,
    read_wait,
    transaction_document,
    unavailable,
)
from sequencer.api.limits import ApiLimits
from sequencer.api.node_view import NodeView
from sequencer.api.representation import (
    ApiError,
    answer,
    plain,
    read_flag,
    read_height,
    read_integer,
    read_rollup_id,
    read_transaction_id,
    wants_packed,
)
from sequencer.api.status_document import status_document
from sequencer.block_summary import BlockSummary
from sequencer.epoch_changes import CHANGES_MAX, answer_from
from sequencer.ledger import HeightUnavailable
from sequencer.transactions import Level

BLOCKS_DEFAULT: Final = 20


class Reads:
    """The ``GET`` routes under ``/v1`` that are no stream."""

    def __init__(self, node: NodeView, limits: ApiLimits) -> None:
        self._node = node
        self._limits = limits

    async def chain(self, request: Request) -> Response:
        """The chain spec and its hash."""
        spec = self._node.genesis.spec
        return answer(request, {"genesis_hash": spec.hash, "spec": plain(spec)})

    async def status(self, request: Request) -> Response:
        """Where this node stands."""
        return answer(request, status_document(self._node))

    async def epochs(self, request: Request) -> Response:
        """How the epochs followed each other: boundaries, their proofs, and the validators that they name. Whoever
        knows the chain spec verifies all of it."""
        from_epoch = read_integer(request.query_params.get("from"), "from", INTEGER_MAX, 1)
        newest = await self._node.newest_epoch()
        changes = await self._node.epoch_changes(max(1, from_epoch), CHANGES_MAX)
        return answer(request, answer_from(self._node.genesis.spec.hash, newest, changes))

    async def transaction(self, request: Request) -> Response:
        """A transaction's state; with ``proof=1`` and from ``confirmed`` on, its receipt; with ``proof=final`` that
        proves finality too, where there is a proof. With ``wait`` it answers once that rung is reached."""
        transaction_id = read_transaction_id(request)
        wait = read_wait(request, self._limits)
        if wait is not None:
            return await confirmation(self._node, request, transaction_id, wait)
        final = request.query_params.get("proof") == Level.FINAL.value
        proven = final or read_flag(request, "proof")
        status = await self._node.status_of(transaction_id)  # before the receipt: it says nothing that is not shown
        receipt = None
        if proven and status.position is not None:
            try:
                receipt = await self._node.receipt(transaction_id, Level.FINAL if final else Level.CONFIRMED)
            except HeightUnavailable as error:
                raise unavailable(error) from None
            status = await self._node.status_of(transaction_id)
        outcome = await outcome_at(self._node, status.position)
        return answer(request, transaction_document(request, transaction_id, status, receipt, outcome))

    async def section(self, request: Request) -> Response:
        """All that a block ordered for one rollup, with its proofs."""
        rollup_id = read_rollup_id(request)
        check_rollup(self._node, rollup_id)
        height = read_height(request.path_params["height"])
        try:
            section = await self._node.section(rollup_id, height)
        except HeightUnavailable as error:
            raise unavailable(error) from None
        return answer(request, section)

    async def block(self, request: Request) -> Response:
        """One block with its commit proof."""
        height = read_height(request.path_params["height"])
        try:
            block = await self._node.block(height)
        except HeightUnavailable as error:
            raise unavailable(error) from None
        final_height = self._node.status().final_height
        return answer(request, block if wants_packed(request) else block_document(block, final_height))

    async def finality(self, request: Request) -> Response:
        """The proof that a block is final: headers above it and link certificates."""
        height = read_height(request.path_params["height"])
        proof = await self._node.finality(height)
        if proof is None:
            final = self._node.status().final_height
            message = f"height {height} is not final here, or not provable any more; final are those up to {final}"
            raise ApiError(404, "not_final", message, where="height")
        return answer(request, proof)

    async def blocks(self, request: Request) -> Response:
        """Some blocks, ascending, with their commit proofs; the latest ones unless ``from`` says otherwise."""
        limit = read_integer(request.query_params.get("limit"), "limit", self._limits.blocks_max, BLOCKS_DEFAULT)
        status = self._node.status()
        latest = max(status.archive_from, status.ledger_height - limit + 1)
        first = max(1, read_height(request.query_params.get("from"), "from", latest))
        last = min(status.ledger_height, first + limit - 1)
        found: list[BlockSummary] = []
        try:
            for height in range(first, last + 1):
                found.append(await self._node.block(height))
        except HeightUnavailable as error:
            raise unavailable(error) from None
        if wants_packed(request):
            return answer(request, found)
        return answer(request, [block_document(block, status.final_height) for block in found])
