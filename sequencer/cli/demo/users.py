"""The demo's users who wait for a receipt each time: EVM accounts that deploy our ERC-20 and transfer it and ether, and
others that order raw blobs.

What is sent is paced by how many nodes share the machine, since each of them executes everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import trio

from sequencer.cli.demo.plan import ACCOUNTS_MAX, DEPLOYER, EVM_ROLLUPS, RAW_ROLLUP, account_name
from sequencer.cli.demo.sender import Sender
from sequencer.cli.demo.wallet import (
    GAS_DEPLOY,
    GAS_TOKEN_TRANSFER,
    Account,
    token_creation,
    token_transfer,
)

EXECUTIONS_PER_S: Final = 75
"""Of each EVM rollup, by all nodes of the machine together: about a fifth of a core."""
RATE_MIN, RATE_MAX = 4.0, 25.0
RAW_USERS: Final = 4
BLOB_BYTES_MAX: Final = 1024
TOKENS: Final = 10**9


class Users:
    """They send until ``stopping`` is set; then each finishes the transaction it is at."""

    def __init__(self, sender: Sender, nodes: int, stopping: trio.Event, say: Callable[[str], None]) -> None:
        self._sender = sender
        self._stopping = stopping
        self._say = say
        self._rate = min(max(EXECUTIONS_PER_S / nodes, RATE_MIN), RATE_MAX)

    async def run(self) -> None:
        """Send. Raises ``TrafficFailed``."""
        self._sender.seen.first_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for rollup_id, chain_id in EVM_ROLLUPS.items():
                nursery.start_soon(self._evm_users, nursery, rollup_id, chain_id)
            for number in range(RAW_USERS):
                nursery.start_soon(self._raw_user, number)

    async def _evm_users(self, nursery: trio.Nursery, rollup_id: int, chain_id: int) -> None:
        """Deploy the token, give it out, then let everybody send."""
        deployer = Account.derive(DEPLOYER, chain_id)
        token = deployer.created(0)
        await self._sender.send(rollup_id, deployer.sign(to=b"", data=token_creation(TOKENS), gas=GAS_DEPLOY))
        self._say(f"rollup {rollup_id}: deployed the ERC-20 at 0x{token.hex()}")
        users = [Account.derive(account_name(number), chain_id) for number in range(ACCOUNTS_MAX)]
        for user in users:
            if self._stopping.is_set():
                return
            call = token_transfer(user.address, TOKENS // (2 * len(users)))
            await self._sender.send(rollup_id, deployer.sign(to=token, data=call, gas=GAS_TOKEN_TRANSFER))
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
            await self._sender.send(rollup_id, transaction)
            await pace.wait(self._stopping)

    async def _raw_user(self, number: int) -> None:
        choice = Random(1_000 + number)
        pace = _Pace(RAW_USERS / self._rate)
        while not self._stopping.is_set():
            await self._sender.send(RAW_ROLLUP, choice.randbytes(choice.randrange(16, BLOB_BYTES_MAX)))
            await pace.wait(self._stopping)


class _Pace:
    """Lets one user act every so often, counted from the last time, without catching up."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next = trio.current_time()

    async def wait(self, stopping: trio.Event) -> None:
        self._next = max(self._next + self._interval_s, trio.current_time())
        with trio.move_on_at(self._next):
            await stopping.wait()
