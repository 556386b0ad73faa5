"""Measures how long a transaction takes to become final: one after the other, each followed from its submission until
a node proves it final, verified here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import httpx
import msgspec
import trio

from consensus.codec import Malformed
from sequencer.cli.demo.plan import RAW_ROLLUP
from sequencer.cli.demo.processes import NodeProcess
from sequencer.cli.demo.sender import PATIENCE_MS, RETRY_S, Sender, TrafficFailed
from sequencer.genesis import Genesis
from sequencer.receipts import Receipt, VerificationError
from sequencer.transactions import Level, TransactionId

FINAL_TIMEOUT_S: Final = 60.0
INTERVAL_S: Final = 0.5


class _Answer(msgspec.Struct, frozen=True):
    level: str
    receipt: bytes | None = None


_answers: Final = msgspec.msgpack.Decoder(_Answer)


class FinalityProbe:
    """``final_ms`` are the times from the first submission to the verified proof."""

    def __init__(
        self,
        nodes: Sequence[NodeProcess],
        genesis: Genesis,
        client: httpx.AsyncClient,
        sender: Sender,
        stopping: trio.Event,
    ) -> None:
        self._nodes = nodes
        self._genesis = genesis
        self._client = client
        self._sender = sender
        self._stopping = stopping
        self.final_ms: list[float] = []

    async def run(self) -> None:
        """Probe until the users stop, and until one probe is final. Raises :class:`TrafficFailed`."""
        number = 0
        while not (self._stopping.is_set() and self.final_ms):
            number += 1
            began = trio.current_time()
            receipt = await self._sender.send(RAW_ROLLUP, b"finality probe %d" % number)
            with trio.move_on_after(FINAL_TIMEOUT_S) as patience:
                await self._until_final(receipt.transaction_id)
            if patience.cancelled_caught:
                raise TrafficFailed(f"a transaction was not final within {FINAL_TIMEOUT_S:g} s")
            self.final_ms.append((trio.current_time() - began) * 1000)
            with trio.move_on_after(INTERVAL_S):
                await self._stopping.wait()

    async def _until_final(self, transaction_id: TransactionId) -> None:
        turn = 0
        while True:
            running = [node for node in self._nodes if node.running]
            if running and await self._ask(running[turn % len(running)], transaction_id):
                return
            turn += 1
            await trio.sleep(RETRY_S)

    async def _ask(self, node: NodeProcess, transaction_id: TransactionId) -> bool:
        """True when the node proves it; False when it cannot now."""
        url = f"{node.api}/v1/transactions/{transaction_id.hex()}?wait=final&timeout_ms={PATIENCE_MS}"
        try:
            response = await self._client.get(url, headers={"accept": "application/msgpack"})
        except httpx.TransportError:
            return False
        if response.status_code != 200:
            return False
        receipt = Receipt.from_bytes(_answers.decode(response.content).receipt or b"")
        if isinstance(receipt, Malformed) or receipt.transaction_id != transaction_id:
            raise TrafficFailed(f"{node.name} answered with no receipt of what was asked for")
        if receipt.level is not Level.FINAL:
            return False
        try:
            receipt.verify(self._genesis)
        except VerificationError as error:
            raise TrafficFailed(f"{node.name} gave a proof of finality that proves nothing: {error}") from None
        return True
