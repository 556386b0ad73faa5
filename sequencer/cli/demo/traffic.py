"""The demo's users: they send transactions through the public API, one node each time, and wait for the receipt.

A node that does not answer is left for the next one: submitting the same bytes again is harmless. Every receipt is
verified here, from the chain spec alone. What is sent is paced by how many nodes share the machine, since each of them
executes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import httpx
import msgspec
import trio

from consensus.codec import Malformed
from sequencer.cli.demo.plan import ACCOUNTS_MAX, DEPLOYER, EVM_ROLLUPS, RAW_ROLLUP, account_name
from sequencer.cli.demo.processes import NodeProcess
from sequencer.cli.demo.wallet import (
    GAS_DEPLOY,
    GAS_TOKEN_TRANSFER,
    Account,
    token_creation,
    token_transfer,
)
from sequencer.genesis import Genesis
from sequencer.receipts import Receipt, VerificationError
from sequencer.transactions import Position, TransactionId, transaction_id

EXECUTIONS_PER_S: Final = 240
"""EVM transactions per second of each EVM rollup, shared by all nodes of the machine."""
EVM_RATE_MIN, EVM_RATE_MAX = 6.0, 48.0
RAW_USERS: Final = 8
BLOB_BYTES_MAX: Final = 1024
TOKENS: Final = 10**9
PATIENCE_MS: Final = 5_000
"""How long one node may take to confirm, before the transaction is submitted to the next."""
CONFIRM_TIMEOUT_S: Final = 60.0
RETRY_S: Final = 0.2
RECENT_LATENCIES: Final = 400


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


class Traffic:
    """Sends until ``stopping`` is set; then every user finishes the transaction it is at."""

    def __init__(self, nodes: Sequence[NodeProcess], genesis: Genesis, stopping: trio.Event) -> None:
        self.seen = Ledgers(rollups={rollup_id: RollupCount() for rollup_id in genesis.spec.rollups})
        self._nodes = nodes
        self._genesis = genesis
        self._stopping = stopping
        self._turn = 0
        rate = EXECUTIONS_PER_S / len(nodes)
        self._rate = min(max(rate, EVM_RATE_MIN), EVM_RATE_MAX)

    async def run(self, say: Callable[[str], None]) -> None:
        """Send. Raises :class:`TrafficFailed`."""
        async with httpx.AsyncClient(timeout=httpx.Timeout(PATIENCE_MS / 1000 + 10), trust_env=False) as client:
            self._client = client
            self.seen.first_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                for rollup_id, chain_id in EVM_ROLLUPS.items():
                    nursery.start_soon(self._evm_users, nursery, rollup_id, chain_id, say)
                for number in range(RAW_USERS):
                    nursery.start_soon(self._raw_user, number)

    # --- users -------------------------------------------------------------------------------------------------

    async def _evm_users(
        self, nursery: trio.Nursery, rollup_id: int, chain_id: int, say: Callable[[str], None]
    ) -> None:
        """Deploy the token, give it out, then let everybody send."""
        deployer = Account.derive(DEPLOYER, chain_id)
        token = deployer.created(0)
        await self.send(rollup_id, deployer.sign(to=b"", data=token_creation(TOKENS), gas=GAS_DEPLOY))
        say(f"rollup {rollup_id}: deployed the ERC-20 at 0x{token.hex()}")
        users = [Account.derive(account_name(number), chain_id) for number in range(ACCOUNTS_MAX)]
        for user in users:
            if self._stopping.is_set():
                return
            call = token_transfer(user.address, TOKENS // (2 * len(users)))
            await self.send(rollup_id, deployer.sign(to=token, data=call, gas=GAS_TOKEN_TRANSFER))
            nursery.start_soon(self._evm_user, rollup_id, users, users.index(user), token)

    async def _evm_user(self, rollup_id: int, users: Sequence[Account], number: int, token: bytes) -> None:
        user, choice = users[number], Random(number)
        pace = _Pace(ACCOUNTS_MAX / self._rate)
        while not self._stopping.is_set():
            friend = users[choice.randrange(len(users))].address
            if choice.random() < 0.5:
                transaction = user.sign(to=friend, value=choice.randrange(10**15))
            else:
                call = token_transfer(friend, choice.randrange(1, 10))
                transaction = user.sign(to=token, data=call, gas=GAS_TOKEN_TRANSFER)
            await self.send(rollup_id, transaction)
            await pace.wait(self._stopping)

    async def _raw_user(self, number: int) -> None:
        choice = Random(1_000 + number)
        pace = _Pace(RAW_USERS / (2 * self._rate))
        while not self._stopping.is_set():
            await self.send(RAW_ROLLUP, choice.randbytes(choice.randrange(16, BLOB_BYTES_MAX)))
            await pace.wait(self._stopping)

    # --- one transaction -----------------------------------------------------------------------------------------

    async def send(self, rollup_id: int, data: bytes) -> Receipt:
        """Submit to one node after the other until one shows the receipt. Raises :class:`TrafficFailed`."""
        count, began = self.seen.rollups[rollup_id], trio.current_time()
        count.submitted += 1
        self._turn += 1
        with trio.move_on_after(CONFIRM_TIMEOUT_S):
            for attempt in range(self._turn, self._turn + 10_000):
                node = self._nodes[attempt % len(self._nodes)]
                if not node.running:
                    continue
                receipt = await self._ask(node, rollup_id, data)
                if receipt is not None:
                    self._acknowledged(rollup_id, data, receipt, began)
                    return receipt
                self.seen.resubmitted += 1
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
            receipt.verify(self._genesis)
        except VerificationError as error:
            raise TrafficFailed(f"{node.name} gave a receipt that proves nothing: {error}") from None
        return receipt

    def _acknowledged(self, rollup_id: int, data: bytes, receipt: Receipt, began: float) -> None:
        count, seen = self.seen.rollups[rollup_id], self.seen
        seen.last_s = trio.current_time()
        seen.latencies_ms.append((seen.last_s - began) * 1000)
        seen.positions[receipt.transaction_id] = receipt.position
        count.acknowledged += 1
        count.last_height = max(count.last_height, receipt.height)


class _Pace:
    """Lets one user act every so often, counted from the last time, without catching up."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = trio.current_time()

    async def wait(self, stopping: trio.Event) -> None:
        self._next = max(self._next + self._interval_s, trio.current_time())
        with trio.move_on_at(self._next):
            await stopping.wait()


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of all lie; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
