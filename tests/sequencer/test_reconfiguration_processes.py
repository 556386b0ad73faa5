"""Validators of a running chain change: real processes, real load, the commands that operators have."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import trio

from consensus.genesis import Pacing, Reconfiguration
from consensus.protocols.registry import protocol_names
from sequencer.verify import home_of, verify
from tests.sequencer.reconfiguring import ROLLUP, Chain, acknowledged_all, running_chain
from tests.support.waiting import random_moment, until_told

SHORT: Final = Reconfiguration(epoch_heights=16, activation_heights=4, exit_heights=4)
LONG: Final = Reconfiguration(epoch_heights=96, activation_heights=48)
"""So that there is time to kill between the order of a change and its effect."""
VIEW_TIMEOUT_S: Final = Pacing().view_timeout_ms / 1000

# httpx leaves the generator over a request's body to the garbage collector when the connection breaks under it.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*ByteStream\.__aiter__:pytest.PytestUnraisableExceptionWarning")


async def until(holds: Callable[[dict[str, Any]], bool], chain: Chain, name: str) -> None:
    """Until a node's status is so."""
    await until_told(partial(chain.status, name), holds)


def report(chain: Chain, record: Callable[[str, object], None], what: str) -> None:
    """The longest pause; two view timeouts, 3 s, are wanted. A figure, no assertion: these are eight Python processes
    on what may be two busy cores, where each can lose seconds to the others. A chain that fails to hand over pauses for
    ever, and then nothing that the test waits for comes."""
    pause_s, blocks = chain.longest_pause_s, len(chain.commits_s)
    record("longest_pause_s", round(pause_s, 3))
    print(f"{what}: {blocks} blocks, longest pause {pause_s:.2f} s = {pause_s / VIEW_TIMEOUT_S:.1f} view timeouts")


async def check_homes(chain: Chain, names: list[str]) -> None:
    """Every home, also of those who left, agrees with every other and holds what users were told."""
    verdict = await verify([home_of(chain.home(name)) for name in names], acknowledged=chain.sender.seen.positions)
    assert verdict.findings == ()
    assert verdict.transactions[ROLLUP] == chain.sender.seen.rollups[ROLLUP].submitted


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", protocol_names())
async def test_four_grow_to_seven_and_shrink_to_four_others(
    tmp_path: Path, protocol: str, record_property: Callable[[str, object], None]
) -> None:
    """And at last to four of whom none was there at the beginning."""
    joiners = ["anna", "bert", "carl", "dora"]
    async with running_chain(tmp_path, reconfiguration=SHORT, protocol=protocol) as chain:
        for name in joiners:
            await chain.join(name, "validator-3")
        for name in joiners[:2]:
            await chain.add(name, "validator-0", "--no-wait")
        await chain.add(joiners[2], "validator-1")
        await until(lambda status: len(status["validators"]) == 7, chain, "validator-3")
        for name in joiners[:3]:
            await until(lambda status: status["role"] == "validator" and status["ready"], chain, name)
            chain.asked.append(chain.node(name))
        for name in ("validator-0", "validator-1"):
            await chain.remove(name, "validator-3", "--no-wait")
        await chain.remove("validator-2", "anna")
        await until(lambda status: len(status["validators"]) == 4, chain, "validator-3")
        await until(lambda status: status["role"] == "observer", chain, "validator-0")
        await chain.node("validator-0").stop()
        await chain.fleet.start(chain.node("validator-0"))  # it is nobody's peer any more, and its home is whole
        status = await chain.status("validator-0")
        assert status["role"] == "observer"
        assert "validator-0" not in await chain.validators("validator-0")
        await chain.add("dora", "anna", "--no-wait")
        await chain.remove("validator-3", "anna")
        await until(lambda status: status["role"] == "validator", chain, "dora")
        assert await chain.validators("anna") == joiners
        report(chain, record_property, f"{protocol}, four to seven to four others")
    assert acknowledged_all(chain.sender)
    await check_homes(chain, [f"validator-{index}" for index in range(4)] + joiners)


@pytest.mark.parametrize("scheme", ["ed25519", pytest.param("bls", marks=pytest.mark.sweep)])
async def test_a_key_is_rotated_and_the_old_one_is_not_needed_any_more(tmp_path: Path, scheme: str) -> None:
    async with running_chain(tmp_path, reconfiguration=SHORT, scheme=scheme, users=1) as chain:
        home = str(chain.home("validator-0"))
        before = (await chain.status("validator-0"))["held_keys"]
        prepared = json.loads(await chain.command("validator", "rotate", home, "--json"))
        assert prepared["stage"] == "prepared"
        await chain.command("validator", "rotate", home, expected=1)  # it does not hold the key yet
        await chain.node("validator-0").stop()
        await chain.fleet.start(chain.node("validator-0"))
        assert (await chain.status("validator-0"))["held_keys"] == [*before, prepared["public_key"]]
        rotated = json.loads(await chain.command("validator", "rotate", home, "--json"))
        assert (rotated["stage"], rotated["in_effect"]) == ("rotated", True)
        status = await chain.status("validator-0")
        assert (status["role"], status["validators"][0]["public_key"]) == ("validator", prepared["public_key"])
        # Without the old key, and without one of the others: its votes are needed now.
        config = chain.home("validator-0") / "node.toml"
        config.write_text(config.read_text().replace('"keys/consensus.json", ', ""))
        await chain.node("validator-0").stop()
        await chain.fleet.start(chain.node("validator-0"))
        await chain.node("validator-1").stop()
        height = (await chain.status("validator-0"))["ledger_height"]
        await until(lambda status: status["ledger_height"] > height + 8, chain, "validator-0")
        await chain.fleet.start(chain.node("validator-1"))
    assert acknowledged_all(chain.sender)
    await check_homes(chain, [f"validator-{index}" for index in range(4)])


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(3))
async def test_nodes_are_killed_in_the_middle_of_a_change(tmp_path: Path, seed: int) -> None:
    """SIGKILL of one node to all of them, from the order of a change to some blocks after it took effect."""
    choice = Random(seed)
    async with running_chain(tmp_path, reconfiguration=LONG, users=3) as chain:
        await chain.join("anna", "validator-3")
        effective_at = (await chain.add("anna", "validator-3", "--no-wait"))["effective_at"]
        passed = False
        while not passed:
            await random_moment(choice, 1.5, 0.1)
            count = choice.choice([1, 1, 2, len(chain.fleet.nodes)])
            victims = choice.sample(chain.fleet.nodes, count)
            async with trio.open_nursery() as nursery:
                for victim in victims:
                    nursery.start_soon(victim.kill)
            await chain.fleet.start_all()
            passed = (await chain.status("validator-3"))["ledger_height"] > effective_at + 4
        await until(lambda status: status["role"] == "validator" and status["ready"], chain, "anna")
        assert (await chain.validators("validator-0"))[-1] == "anna"
    assert acknowledged_all(chain.sender)
    names = [f"validator-{index}" for index in range(4)] + ["anna"]
    await check_homes(chain, names)
    for name in names:
        assert "equivocation" not in (chain.home(name) / "node.log").read_text()
