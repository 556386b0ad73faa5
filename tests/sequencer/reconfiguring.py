"""A chain of real processes whose validators change while users send transactions; and how long it paused."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from consensus.genesis import Reconfiguration
from sequencer.cli.demo.processes import Fleet, NodeProcess, free_base_port, open_fleet
from sequencer.cli.demo.sender import Sender, api_client
from sequencer.client import SequencerClient
from sequencer.config import RollupConfig
from sequencer.genesis import Genesis, genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.homes import ChainPlan, write_testnet
from tests.support.waiting import random_moment

ROLLUP: Final = 1
PORTS_MAX: Final = 32
COMMAND_TIMEOUT_S: Final = 240.0
THINK_S: Final = 0.05
"""Between two transactions of one user, on average: the machine is shared, and this is not about throughput."""


@dataclass
class Chain:
    """A running chain. ``asked`` are the nodes that users send to: those of validators. (A node that nobody knows takes
    transactions, too, and passes them on once it is let in, which may be too late to know that others ordered them.)
    ``commits_s`` are the moments at which a follower of ``witness`` was shown the blocks."""

    directory: Path
    fleet: Fleet
    asked: list[NodeProcess]
    sender: Sender
    genesis: Genesis
    first_free_port: int
    commits_s: list[float] = field(default_factory=list)

    def home(self, name: str) -> Path:
        return self.directory / name

    def node(self, name: str) -> NodeProcess:
        """The process of a home; made when there is none yet."""
        found = next((node for node in self.fleet.nodes if node.name == name), None)
        if found is None:
            found = NodeProcess(self.home(name))
            self.fleet.nodes.append(found)
        return found

    async def command(self, *arguments: str, expected: int = 0) -> str:
        """``sequencer ARGUMENTS`` as a process; what it wrote to standard output."""
        with trio.fail_after(COMMAND_TIMEOUT_S):
            done = await trio.run_process(
                [sys.executable, "-m", "sequencer.cli", *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert done.returncode == expected, done.stderr.decode()
        return done.stdout.decode()

    async def join(self, name: str, asked: str) -> None:
        """Make a home for a new validator and start its node."""
        listen, api = (f"127.0.0.1:{self.first_free_port + number}" for number in range(2))
        self.first_free_port += 2
        await self.command(
            "init", str(self.home(name)), "--join", str(self.home(asked)), "--listen", listen, "--api", api
        )
        await self.fleet.start(self.node(name))

    async def add(self, name: str, asked: str, *options: str) -> dict[str, Any]:
        """Have a validator added; what the command says."""
        command = ("validator", "add", str(self.home(asked)), str(self.home(name) / "registration.json"), "--json")
        said: dict[str, Any] = json.loads(await self.command(*command, *self.governors, *options))
        return said

    async def remove(self, name: str, asked: str, *options: str) -> None:
        """Have a validator removed; its users go elsewhere."""
        self.asked.remove(self.node(name))
        await self.command("validator", "remove", str(self.home(asked)), name, *self.governors, *options)

    async def status(self, name: str) -> dict[str, Any]:
        """What a node says of itself."""
        async with api_client() as client:
            document: dict[str, Any] = (await client.get(f"{self.node(name).api}/v1/status")).json()
        return document

    async def validators(self, name: str) -> list[str]:
        """The validators of the epoch, as a node knows them."""
        return [validator["name"] for validator in (await self.status(name))["validators"]]

    @property
    def governors(self) -> tuple[str, ...]:
        return ("--governor", str(self.directory / "governor-0.json"))

    @property
    def longest_pause_s(self) -> float:
        """The longest time between two blocks that were shown one after the other."""
        return max(later - earlier for earlier, later in pairwise(self.commits_s))


@asynccontextmanager
async def running_chain(
    directory: Path,
    *,
    reconfiguration: Reconfiguration,
    protocol: str = "jolteon",
    scheme: str = "ed25519",
    users: int = 4,
    witness: int = 3,
) -> AsyncIterator[Chain]:
    """Four validators under load while the block runs; then the users finish, and everything is stopped."""
    base_port = free_base_port(PORTS_MAX)
    plan = ChainPlan(
        protocol=protocol,
        scheme=scheme,
        rollups=[RollupConfig(id=ROLLUP, adapter="raw", settings={})],
        validators=4,
        observers=0,
        base_port=base_port,
        reconfiguration=reconfiguration,
    )
    homes = write_testnet(directory, plan)
    genesis = genesis_of(read_chain_spec(homes[0] / "genesis.json"))
    async with open_fleet(homes) as fleet, api_client() as client:
        await fleet.start_all()
        asked, stopping = list(fleet.nodes), trio.Event()
        sender = Sender(asked, genesis, client)
        chain = Chain(directory, fleet, asked, sender, genesis, base_port + 2 * len(homes))
        async with trio.open_nursery() as following:
            following.start_soon(_follow, chain, [node.api for node in (fleet.nodes[witness], *fleet.nodes)])
            async with trio.open_nursery() as nursery:
                for number in range(users):
                    nursery.start_soon(_user, sender, stopping, number)
                yield chain
                stopping.set()
            following.cancel_scope.cancel()
        assert await fleet.stop_all() == []


async def _user(sender: Sender, stopping: trio.Event, number: int) -> None:
    choice = Random(number)
    while not stopping.is_set():
        await sender.send(ROLLUP, choice.randbytes(choice.randrange(8, 600)))
        await random_moment(choice, 2 * THINK_S)


async def _follow(chain: Chain, apis: Sequence[str]) -> None:
    """Every block as a verifying client sees it, across all epochs."""
    async with (
        SequencerClient(apis, genesis_of(chain.genesis.spec)) as client,
        client.follow(ROLLUP) as sections,
    ):
        async for _ in sections:
            chain.commits_s.append(trio.current_time())


def acknowledged_all(sender: Sender) -> bool:
    """Whether each transaction that was sent has a verified receipt."""
    count = sender.seen.rollups[ROLLUP]
    return count.submitted == count.acknowledged == len(sender.seen.positions) > 0
