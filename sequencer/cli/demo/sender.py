"""Submits transactions through the public API and waits for verified receipts, whatever happens to single nodes.

A node that does not answer is left for the next one: submitting the same bytes again is harmless. Every receipt is
verified here, from the chain spec and from how the later epochs began.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx
import msgspec
import trio

from consensus.codec import Malformed
from consensus.types import Epoch
from sequencer.cli.demo.processes import NodeProcess
from sequencer.epoch_changes import EpochChanges
from sequencer.genesis import Genesis
from sequencer.receipts import Receipt, VerificationError
from sequencer.transactions import Position, TransactionId, transaction_id

PATIENCE_MS: Final = 5_000
"""How long one node may take to confirm, before the transaction is submitted to the next."""
CONFIRM_TIMEOUT_S: Final = 60.0
RETRY_S: Final = 0.2


class TrafficFailed(Exception):
    """A transaction was refused, or not confirmed by any node in time, or a node gave a receipt that proves nothing."""


class _Answer(msgspec.Struct, frozen=True):
    level: str
    receipt: bytes | None = None


_answers: Final = msgspec.msgpack.Decoder(_Answer)


@dataclass(slots=True)
class RollupCount:
    """Distinct transactions of one rollup, as their senders know them."""

    submitted: int = 0
    acknowledged: int = 0
    last_height: int = 0


@dataclass(slots=True)
class Ledgers:
    """Everything the users remember. ``latencies_ms`` are from the first submission to the verified receipt."""

    rollups: dict[int, RollupCount] = field(default_factory=dict)
    positions: dict[TransactionId, Position] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    resubmitted: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


class Sender:
    """Sends to ``nodes`` in turn. ``client`` is the caller's, and outlives it."""

    def __init__(self, nodes: Sequence[NodeProcess], genesis: Genesis, client: httpx.AsyncClient) -> None:
        self.seen = Ledgers(rollups={rollup_id: RollupCount() for rollup_id in genesis.spec.rollups})
        self._nodes = nodes
        self._genesis = genesis
        self._client = client
        self._turn = 0

    async def send(self, rollup_id: int, data: bytes) -> Receipt:
        """Submit to one node after the other until one shows the receipt. Raises :class:`TrafficFailed`."""
        count, began = self.seen.rollups[rollup_id], trio.current_time()
        count.submitted += 1
        self._turn += 1
        turn = self._turn
        with trio.move_on_after(CONFIRM_TIMEOUT_S):
            while True:
                running = [node for node in self._nodes if node.running]
                if running:
                    receipt = await self._ask(running[turn % len(running)], rollup_id, data)
                    if receipt is not None:
                        self._acknowledged(rollup_id, data, receipt, began)
                        return receipt
                    self.seen.resubmitted += 1
                turn += 1
                await trio.sleep(RETRY_S)
        raise TrafficFailed(f"a transaction of rollup {rollup_id} was not confirmed within {CONFIRM_TIMEOUT_S:g} s")

    async def _ask(self, node: NodeProcess, rollup_id: int, data: bytes) -> Receipt | None:
        """The verified receipt; None when this node does not give it now."""
        url = f"{node.api}/v1/rollups/{rollup_id}/transactions?wait=confirmed&timeout_ms={PATIENCE_MS}"
        headers = {"content-type": "application/octet-stream", "accept": "application/msgpack"}
        try:
            response = await self._client.post(url, content=data, headers=headers)
        except httpx.TransportError:
            return None  # killed, or just about to
        if response.status_code >= 500 or response.status_code == 202:
            return None
        if response.status_code != 200:
            raise TrafficFailed(f"{node.name} refused a transaction: {response.status_code} {response.content!r}")
        answer = _answers.decode(response.content)
        receipt = Receipt.from_bytes(answer.receipt or b"")
        if isinstance(receipt, Malformed) or receipt.transaction_id != transaction_id(rollup_id, 0, data):
            raise TrafficFailed(f"{node.name} answered with no receipt of what was sent")
        try:
            await self._learn(node, receipt.header.epoch)
            receipt.verify(self._genesis)
        except httpx.TransportError:
            return None
        except VerificationError as error:
            raise TrafficFailed(f"{node.name} gave a receipt that proves nothing: {error}") from None
        return receipt

    async def _learn(self, node: NodeProcess, epoch: Epoch) -> None:
        """Verify how the epochs up to ``epoch`` began. Raises :class:`TrafficFailed` for a node that does not show
        it."""
        history = self._genesis.history
        while epoch > history.newest.epoch:
            first = history.newest.epoch + 1
            response = await self._client.get(
                f"{node.api}/v1/epochs", params={"from": first}, headers={"accept": "application/msgpack"}
            )
            answer = EpochChanges.from_bytes(response.content)
            changes = () if isinstance(answer, Malformed) else answer.changes
            fault = self._genesis.follow(changes) if changes else "it shows none"
            if fault is not None and epoch > history.newest.epoch:
                raise TrafficFailed(f"{node.name} does not show how epoch {first} began: {fault}")

    def _acknowledged(self, rollup_id: int, data: bytes, receipt: Receipt, began: float) -> None:
        count, seen = self.seen.rollups[rollup_id], self.seen
        seen.last_s = trio.current_time()
        seen.latencies_ms.append((seen.last_s - began) * 1000)
        seen.positions[receipt.transaction_id] = receipt.position
        count.acknowledged += 1
        count.last_height = max(count.last_height, receipt.height)


def api_client() -> httpx.AsyncClient:
    """A client for nodes on this machine: past any proxy, and more patient than a node is asked to be."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    return httpx.AsyncClient(timeout=PATIENCE_MS / 1000 + 10, limits=limits, trust_env=False)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of all lie; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
