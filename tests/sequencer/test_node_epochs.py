"""Whole nodes in one process while the validators change: one joins, and the founder leaves the chain to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from consensus.codec import encode
from consensus.genesis import SYSTEM_ROLLUP, Pacing, Reconfiguration
from consensus.reconfiguration import (
    AddValidator,
    ChangeAccepted,
    ChangeDomain,
    ChangeIgnored,
    RemoveValidator,
    SystemTransaction,
    approved_by_governors,
    approved_by_validator,
    sign_as_governor,
)
from sequencer.cli.demo.processes import free_base_port
from sequencer.config import Config, RollupConfig, address_text
from sequencer.genesis import genesis_of
from sequencer.homes import ChainPlan, write_home, write_testnet
from sequencer.keys import load_consensus_key, load_governor_key
from sequencer.mempool import Pending
from sequencer.node import Node, open_node
from sequencer.receipts import Receipt
from tests.support.waiting import until

PATIENCE_S = 60
ROLLUP = 7
EXPIRES_AT = 10_000


async def ordered(node: Node, data: bytes, rollup_id: int = ROLLUP) -> Receipt:
    receipt = await node.wait(await node.submit(rollup_id=rollup_id, transaction=data))
    return receipt


async def changed(node: Node, transaction: SystemTransaction) -> int:
    """Have a change ordered; the height of the epoch's end that it waits for."""
    receipt = await ordered(node, encode(transaction), SYSTEM_ROLLUP)
    outcome = await node.change_outcome(receipt.position)
    assert isinstance(outcome, ChangeAccepted), outcome
    return outcome.effective_at


def founded(directory: Path) -> tuple[Path, Path, AddValidator]:
    """The home of a chain of one, that of a node to join it, and the request for that."""
    port = free_base_port(4)
    plan = ChainPlan(
        protocol="jolteon",
        scheme="ed25519",
        validators=1,
        observers=0,
        base_port=port,
        rollups=(RollupConfig(id=ROLLUP, adapter="raw", settings={}),),
        pacing=Pacing(view_timeout_ms=600, idle_interval_ms=100),
        reconfiguration=Reconfiguration(epoch_heights=8),
    )
    (founder,) = write_testnet(directory, plan)
    spec, listen = Config.load(founder / "node.toml").spec, ("127.0.0.1", port + 2)
    joiner = directory / "anna"
    validator = write_home(
        joiner,
        name="anna",
        scheme=spec.scheme,
        listen=listen,
        api=("127.0.0.1", port + 3),
        spec=spec,
        peers={"validator-0": ("127.0.0.1", port)},
    )
    addition = AddValidator(
        name="anna",
        operator="anna",
        stake=1,
        public_key=validator.public_key,
        possession_proof=validator.possession_proof,
        peer=validator.peer,
        address=address_text(listen),
        expires_at=EXPIRES_AT,
    )
    return founder, joiner, addition


async def test_the_founder_leaves_its_chain_to_one_who_joined(tmp_path: Path) -> None:
    founder, joiner, addition = founded(tmp_path)
    configs = [Config.load(home / "node.toml") for home in (founder, joiner)]
    spec = configs[0].spec
    domain = ChangeDomain.of(spec)
    governor = load_governor_key(tmp_path / "governor-0.json")
    own = load_consensus_key(founder / "keys" / "consensus.json").secret_key
    assert spec.reconfiguration is not None
    signature = sign_as_governor(domain, addition, spec.reconfiguration.governors, governor)
    removal = RemoveValidator(public_key=own.public_key, expires_at=EXPIRES_AT)
    with trio.fail_after(PATIENCE_S):
        async with open_node(configs[0]) as first, open_node(configs[1]) as second:
            assert (first.role, first.name, second.role) == ("validator", "validator-0", "observer")
            receipts = [await ordered(first, b"before")]
            boundary = await changed(first, approved_by_governors(addition, [signature]))
            await until(lambda: second.role == "validator" and first.status().validators.epoch == 1)
            assert (second.name, second.status().validators.began_after) == ("anna", boundary)
            receipts.append(await ordered(second, b"together"))
            await changed(second, approved_by_validator(domain, removal, own))
            await until(lambda: first.role == "observer" and second.status().validators.epoch == 2)
            receipts.append(await ordered(second, b"alone"))
            await until(lambda: first.status().ledger_height >= receipts[-1].height)
            assert [receipt.header.epoch for receipt in receipts] == [0, 1, 2]
            assert [change.epoch for change in await second.epoch_changes()] == [1, 2]
            for node in (first, second):
                for receipt in receipts:
                    receipt.verify(node.genesis)
        async with open_node(configs[0]) as first, open_node(configs[1]) as second:
            assert (first.role, second.role, second.name) == ("observer", "validator", "anna")
            assert first.status().validators.epoch == second.status().validators.epoch == 2
            receipts.append(await ordered(second, b"after a restart"))
            stranger = genesis_of(spec)
            assert stranger.follow(await second.epoch_changes()) is None
            receipts[-1].verify(stranger)


async def test_a_change_that_came_too_late_is_ordered_and_ignored(tmp_path: Path) -> None:
    """Two additions cross: both are fine when they are submitted, and one of them is ordered after the other."""
    founder, _, addition = founded(tmp_path)
    config = Config.load(founder / "node.toml")
    spec = config.spec
    assert spec.reconfiguration is not None
    governor = load_governor_key(tmp_path / "governor-0.json")

    def signed(expires_at: int) -> SystemTransaction:
        change = AddValidator(**{**_fields(addition), "expires_at": expires_at})
        domain = ChangeDomain.of(spec)
        assert spec.reconfiguration is not None
        return approved_by_governors(
            change, [sign_as_governor(domain, change, spec.reconfiguration.governors, governor)]
        )

    with trio.fail_after(PATIENCE_S):
        async with open_node(config) as node:
            taken = node.submit_batch(SYSTEM_ROLLUP, [(0, encode(signed(900))), (0, encode(signed(901)))])
            outcomes = []
            for each in taken:
                assert isinstance(each, Pending)
                receipt = await node.wait(each)
                outcomes.append(await node.change_outcome(receipt.position))
            accepted = [outcome for outcome in outcomes if isinstance(outcome, ChangeAccepted)]
            ignored = [outcome for outcome in outcomes if isinstance(outcome, ChangeIgnored)]
            assert len(accepted) == len(ignored) == 1
            assert ignored[0].reason == "the name anna is taken"


def _fields(change: AddValidator) -> dict[str, Any]:
    return {name: getattr(change, name) for name in change.__struct_fields__}
