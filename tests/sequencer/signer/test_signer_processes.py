"""Whole chains whose validators leave their keys to signing processes, all of them real processes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import trio
from typer.testing import CliRunner, Result

from consensus.genesis import Pacing
from consensus.protocols.registry import protocol_names
from sequencer.cli import app
from sequencer.cli.console import UNUSABLE
from sequencer.cli.demo.processes import NodeFailed, NodeProcess, free_base_port, open_fleet
from sequencer.cli.demo.sender import Sender, api_client
from sequencer.config import Config, RollupConfig
from sequencer.genesis import genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.homes import ChainPlan, write_testnet
from sequencer.signer.homes import separate_all
from sequencer.verify import home_of, verify
from tests.sequencer.signer.processes import short_directory, signers
from tests.sequencer.test_kill import Slots, _collect
from tests.support.waiting import until_told

ROLLUP = 1


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as found:
        yield found


def make_homes(directory: Path, protocol: str = "jolteon", scheme: str = "ed25519") -> tuple[list[Path], list[Path]]:
    """Four validators, and their signing processes. No key is left with a node."""
    plan = ChainPlan(
        protocol=protocol,
        scheme=scheme,
        rollups=[RollupConfig(id=ROLLUP, adapter="raw", settings={})],
        validators=4,
        observers=0,
        base_port=free_base_port(8),
        pacing=Pacing(view_timeout_ms=700, idle_interval_ms=300),
    )
    homes = write_testnet(directory, plan)
    apart = separate_all(homes)
    assert [home.name for home in apart] == ["signer-0", "signer-1", "signer-2", "signer-3"]
    assert [[file.name for file in (home / "keys").iterdir()] for home in homes] == [["tls.json"]] * 4
    return homes, apart


async def send(sender: Sender, choice: Random, count: int) -> None:
    with trio.fail_after(120):
        for _ in range(count):
            await sender.send(ROLLUP, choice.randbytes(100))


async def check(homes: list[Path], sender: Sender, protocol: str) -> None:
    """Everything that was acknowledged is there, and nobody signed two things in one slot."""
    count = sender.seen.rollups[ROLLUP]
    assert count.submitted == count.acknowledged == len(sender.seen.positions)
    verdict = await verify([home_of(home) for home in homes], acknowledged=sender.seen.positions)
    assert verdict.findings == ()
    signed: Slots = {}
    for home in homes:
        _collect(home, protocol, signed)
        assert "equivocation" not in (home / "node.log").read_text()
    assert signed


async def waits_for_signer(client: httpx.AsyncClient, node: NodeProcess) -> None:
    """Until the node says that it waits."""

    async def ask() -> dict[str, Any]:
        answer: dict[str, Any] = (await client.get(f"{node.api}/v1/status")).json()
        return answer

    status = await until_told(ask, lambda status: not status["signer"]["connected"] and status["signer"]["pending"] > 0)
    assert any("the signing process is away" in reason for reason in status["unready_reasons"])


async def ready(client: httpx.AsyncClient, node: NodeProcess) -> None:
    """Until the node may be asked."""
    await until_told(partial(client.get, f"{node.api}/ready"), lambda answer: answer.status_code == 200)


async def chain_with_signers(directory: Path, protocol: str, scheme: str = "ed25519") -> None:
    homes, apart = await trio.to_thread.run_sync(make_homes, directory, protocol, scheme)
    genesis, choice = genesis_of(read_chain_spec(homes[0] / "genesis.json")), Random(1)
    async with signers(apart) as processes, open_fleet(homes) as fleet, api_client() as client:
        await fleet.start_all()
        sender = Sender(fleet.nodes, genesis, client)
        await send(sender, choice, 5)
        await processes[1].kill()
        await send(sender, choice, 3)
        await waits_for_signer(client, fleet.nodes[1])
        await processes[1].start()
        await ready(client, fleet.nodes[1])
        await processes[2].kill()  # now nobody can do without validator 1
        await send(sender, choice, 5)
        await processes[2].start()
        await send(sender, choice, 2)
        assert await fleet.stop_all() == []
        assert [await process.stop() for process in processes] == [0] * 4
    await check(homes, sender, protocol)


async def test_a_chain_of_remote_signers_outlives_their_deaths(directory: Path) -> None:
    await chain_with_signers(directory, "jolteon")


@pytest.mark.sweep
@pytest.mark.parametrize("scheme", ["ed25519", "bls"])
@pytest.mark.parametrize("protocol", protocol_names())
async def test_a_chain_of_remote_signers_with_every_protocol(directory: Path, protocol: str, scheme: str) -> None:
    await chain_with_signers(directory, protocol, scheme)


def copy_home(home: Path, ports: int) -> Path:
    """A home copied by mistake, before its first start: the same keys, ports of its own so that both can run."""
    copy = home.with_name("copy-of-" + home.name)
    shutil.copytree(home, copy)
    numbers = iter(range(ports, ports + 2))
    toml = re.sub(
        r'(?m)^listen = "127.0.0.1:\d+"',
        lambda _: f'listen = "127.0.0.1:{next(numbers)}"',
        (copy / "node.toml").read_text(),
    )
    (copy / "node.toml").write_text(toml)
    config, original = Config.load(copy / "node.toml"), Config.load(home / "node.toml")
    assert config.signer == original.signer
    assert config.network.listen != original.network.listen
    return copy


async def start_doomed(node: NodeProcess, nursery: trio.Nursery) -> None:
    """Start a node that may end by itself."""
    try:
        await node.start(nursery)
        node.expected_to_end = True
    except NodeFailed:
        node.expected_to_end = True


async def test_a_duplicated_node_never_gets_a_second_signature(directory: Path) -> None:
    homes, apart = await trio.to_thread.run_sync(make_homes, directory)
    copy = copy_home(homes[0], free_base_port(2))
    genesis, choice = genesis_of(read_chain_spec(homes[0] / "genesis.json")), Random(2)
    async with (
        signers(apart) as processes,
        open_fleet(homes) as fleet,
        api_client() as client,
        trio.open_nursery() as nursery,
    ):
        await fleet.start_all()
        sender = Sender(fleet.nodes[1:], genesis, client)
        await send(sender, choice, 5)
        fleet.nodes[0].expected_to_end = True
        twin = NodeProcess(copy)
        await start_doomed(twin, nursery)
        twins = [fleet.nodes[0], twin]
        with trio.fail_after(90):
            while all(node.process_id is not None for node in twins):
                await send(sender, choice, 1)
        await send(sender, choice, 5)
        logs = [(node.home / "node.log").read_text() for node in twins]
        assert any("the signing process refuses to sign" in log for log in logs)
        assert "refused to sign for node" in processes[0].log
        await twin.stop()
        await fleet.stop_all()
        nursery.cancel_scope.cancel()
    # What the others hold is what was signed and sent; the two journals also hold what was refused.
    await check(homes[1:], sender, "jolteon")


def cli(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(argument) for argument in arguments])


def test_the_commands_that_make_a_signers_home(directory: Path) -> None:
    made = cli("testnet", directory / "net", "-n", "2", "--signers", "--base-port", "0", "--json")
    assert made.exit_code == 0, made.output
    document = json.loads(made.stdout)
    assert [each["role"] for each in document["homes"]] == ["validator", "validator"]
    assert [Path(home).name for home in document["signers"]] == ["signer-0", "signer-1"]
    signer = directory / "net" / "signer-0"
    again = cli("signer", "init", "--home", signer)
    assert (again.exit_code, "is not made anew" in again.stderr) == (UNUSABLE, True)
    (signer / "protection.db").unlink()
    missing = cli("signer", "run", "--home", signer)
    assert (missing.exit_code, "there is no protection database" in missing.stderr) == (UNUSABLE, True), missing.stderr
    assert cli("signer", "init", "--home", signer).exit_code == 0
    apart = cli("signer", "separate", directory / "net" / "validator-0", directory / "other")
    assert (apart.exit_code, "names no consensus key" in apart.stderr) == (UNUSABLE, True)
