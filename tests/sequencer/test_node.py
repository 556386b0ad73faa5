"""Whole nodes in one process: real TLS on loopback, real files, real adapter hosts; the embedding code as written."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from typer.testing import CliRunner

from consensus.engine import ReportEvidence
from consensus.genesis import Pacing
from consensus.types import VoteSubject, vote_of
from rollup_adapters.host import AdapterSpec
from sequencer.cli import app
from sequencer.config import Config, RollupConfig
from sequencer.homes import ChainPlan, write_testnet
from sequencer.mempool import Full, Pending, SubmissionRefused
from sequencer.node import Node, open_node
from sequencer.receipts import Receipt, VerificationError
from sequencer.transactions import Level
from tests.sequencer.whole_nodes import running
from tests.support.waiting import until

PACING = Pacing(view_timeout_ms=600, idle_interval_ms=200)
PATIENCE_S = 30


def homes(directory: Path, *, protocol: str = "jolteon", scheme: str = "ed25519", validators: int = 4) -> list[Path]:
    plan = ChainPlan(
        protocol=protocol,
        scheme=scheme,
        validators=validators,
        observers=1,
        rollups=(RollupConfig(id=7, adapter="raw", settings={}), RollupConfig(id=9, adapter="raw", settings={})),
        pacing=PACING,
    )
    return write_testnet(directory, plan)


@pytest.mark.parametrize(("protocol", "scheme"), [("jolteon", "ed25519"), ("hotstuff", "bls")])
async def test_the_embedding_code(tmp_path: Path, protocol: str, scheme: str) -> None:
    files = homes(tmp_path, protocol=protocol, scheme=scheme)
    async with running(*files[:4]), open_node(Config.load(files[4] / "node.toml")) as node:
        with trio.fail_after(PATIENCE_S):
            pending = await node.submit(rollup_id=7, transaction=b"hello")
            receipt = await node.wait(pending, level="confirmed")
            receipt.verify(node.genesis)
            async with node.follow(rollup_id=7, from_height=receipt.height) as sections:
                async for section in sections:
                    assert section.transactions == (b"hello",)
                    section.verify(node.genesis)
                    break
            assert (await node.status_of(receipt.transaction_id)).level == Level.CONFIRMED


async def test_every_node_sees_the_same_and_a_restart_resumes(tmp_path: Path) -> None:
    files = homes(tmp_path)
    async with running(*files) as nodes:
        with trio.fail_after(PATIENCE_S):
            for number in range(20):
                node = nodes[number % 5]
                await node.wait(await node.submit(rollup_id=7 + 2 * (number % 2), transaction=b"%d" % number))
            heights = [node.status().ledger_height for node in nodes]
            blocks = [[(await node.block(height)).block_id for height in range(1, min(heights))] for node in nodes]
            assert all(block == blocks[0] for block in blocks)
        receipts = [receipt async for receipt in _receipts(nodes[0], 20)]
    async with running(*files) as nodes:
        with trio.fail_after(PATIENCE_S):
            for receipt in receipts:
                again = await nodes[4].receipt(receipt.transaction_id)
                assert again is not None
                assert again.position == receipt.position
                again.verify(nodes[4].genesis)
            await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"after the restart"))
            assert nodes[0].status().consensus.committed_height > max(heights)


async def _receipts(node: Node, count: int) -> AsyncIterator[Receipt]:
    for rollup_id in (7, 9):
        taken = 0
        async with node.follow(rollup_id) as sections:
            async for section in sections:
                for transaction_id in section.transaction_ids():
                    receipt = await node.receipt(transaction_id)
                    assert receipt is not None
                    yield receipt
                    taken += 1
                if taken == count // 2:
                    break


async def test_a_late_node_catches_up(tmp_path: Path) -> None:
    files = homes(tmp_path)
    async with running(*files[:3]) as nodes:
        with trio.fail_after(PATIENCE_S):
            nodes[0].submit_batch(7, [(0, b"%d" % number) for number in range(29)])
            await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"29"))
            async with open_node(Config.load(files[3] / "node.toml")) as late:
                async with late.follow(rollup_id=7) as sections:
                    seen: list[bytes] = []
                    async for section in sections:
                        seen += section.transactions
                        if len(seen) == 30:
                            break
                assert seen == [b"%d" % number for number in range(30)]


async def test_evidence_reaches_every_node_and_outlives_them(tmp_path: Path) -> None:
    """Validator 3's key signs two votes of one view; node 0 sees both."""
    files = homes(tmp_path)
    async with running(*files) as nodes:
        with trio.fail_after(PATIENCE_S):
            parts = [node._parts for node in nodes]
            (key,) = parts[3].keys.consensus
            votes = []
            for name in (b"a", b"b"):
                subject = VoteSubject(kind="vote", epoch=0, view=9, block_id=name * 32, height=9, justify_view=8)
                signature = key.secret_key.sign(nodes[0].genesis.epoch.domain.bytes_to_sign(subject))
                votes.append(vote_of(subject, 3, signature))
            await until(lambda: all(peer.connected for each in parts[:4] for peer in each.transport.state().peers))
            await parts[0].ledger.report(ReportEvidence(votes[0], votes[1]))
            await until(lambda: all(node.status().evidence == 1 for node in nodes))
            assert all(each.evidence.guilty == (key.secret_key.public_key,) for each in parts)
    async with running(files[4]) as nodes:
        assert nodes[0].status().evidence == 1
    (file,) = (files[4] / "data" / "evidence").iterdir()
    genesis_file = str(files[4] / "genesis.json")
    result = CliRunner().invoke(app, ("evidence", "verify", str(file), "--genesis", genesis_file))
    assert result.exit_code == 0
    assert "guilty of equivocation: validator-3" in result.output


async def test_refusals_are_typed_and_a_receipt_of_another_chain_is_refused(tmp_path: Path) -> None:
    files = homes(tmp_path / "one")
    other = homes(tmp_path / "two", validators=1)
    async with running(*files[:4]) as nodes, open_node(Config.load(other[0] / "node.toml")) as stranger:
        with trio.fail_after(PATIENCE_S):
            for bad in ({"rollup_id": 8}, {"rollup_id": 7, "valid_until": 10**6}):
                with pytest.raises(SubmissionRefused):
                    await nodes[0].submit(transaction=b"x", **bad)
            receipt = await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"x"))
            with pytest.raises(VerificationError, match="chain"):
                receipt.verify(stranger.genesis)


BURNING = (sys.executable, "-c", "while True: pass")
HANGING = (sys.executable, "-c", "import time; time.sleep(3600)")  # a process of its own, killed when the node closes


@pytest.mark.parametrize("command", [BURNING, HANGING], ids=["burning", "hanging"])
async def test_an_adapter_that_never_answers_delays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sequencer.node.AdapterSpec", partial(AdapterSpec, command=command))
    async with running(*homes(tmp_path)[:4]) as nodes:
        with trio.fail_after(PATIENCE_S):
            for number in range(20):
                await nodes[0].wait(await nodes[number % 4].submit(rollup_id=7, transaction=b"%d" % number))
        adapters = nodes[0].status().adapters
        assert [adapter.delivered.height for adapter in adapters] == [0, 0]


async def test_a_failing_disk_stops_the_node_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of one node fails: that node ends with the error; the other three go on."""
    files = homes(tmp_path)
    async with running(*files[:3]) as nodes:
        with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no space"), flatten_subgroups=True):
            async with open_node(Config.load(files[3] / "node.toml")) as doomed:
                with trio.fail_after(PATIENCE_S):
                    await doomed.wait(await doomed.submit(rollup_id=7, transaction=b"while the disk works"))

                    async def full(records: object) -> None:
                        raise OSError("no space left on device")

                    monkeypatch.setattr(doomed._parts.store, "append", full)
                    await trio.sleep_forever()
        with trio.fail_after(PATIENCE_S):
            await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"afterwards"))


async def test_what_is_raised_in_the_block_leaves_it_as_it_is(tmp_path: Path) -> None:
    (home, *_) = homes(tmp_path, validators=1)
    with pytest.raises(LookupError, match="of the embedding program"):
        async with open_node(Config.load(home / "node.toml")):
            raise LookupError("of the embedding program")


async def test_a_full_mempool_refuses_and_recovers(tmp_path: Path) -> None:
    files = homes(tmp_path)
    for home in files:
        with (home / "node.toml").open("a") as text:
            text.write("\n[mempool]\ntransactions_max = 10\n")
    async with running(*files[:4]) as nodes:
        with trio.fail_after(PATIENCE_S):
            answers = nodes[0].submit_batch(7, [(0, b"%d" % number) for number in range(50)])
            assert [isinstance(answer, Pending) for answer in answers] == [True] * 10 + [False] * 40
            assert isinstance(answers[10], Full)
            for answer in answers[:10]:
                assert isinstance(answer, Pending)
                await nodes[0].wait(answer)
            assert isinstance(nodes[0].submit_batch(7, [(0, b"again")])[0], Pending)


async def test_adapters_agree_and_a_dead_one_comes_back(tmp_path: Path) -> None:
    files = homes(tmp_path)
    async with running(*files) as nodes:
        with trio.fail_after(PATIENCE_S):
            await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"before"))
            host = nodes[2].adapter(7)
            assert host is not None
            assert host.process_id is not None
            os.kill(host.process_id, signal.SIGKILL)
            receipt = await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"after"))
            await until(lambda: all(_delivered(node, 7)[0] >= receipt.height for node in nodes))
            assert len({_delivered(node, 7)[1] for node in nodes}) == 1
            assert nodes[2].status().adapters[0].restarts >= 1


def _delivered(node: Node, rollup_id: int) -> tuple[int, bytes]:
    adapter = next(each for each in node.status().adapters if each.rollup_id == rollup_id)
    return adapter.delivered.height, adapter.delivered.state_commitment
