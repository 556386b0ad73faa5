"""Whole nodes that reach ``final``: real TLS on loopback, real files; what they prove is verified offline."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from consensus.codec import encode
from consensus.crypto.ed25519 import Ed25519
from consensus.finality.weak_subjectivity import UntrustedChain
from consensus.genesis import SYSTEM_ROLLUP, Pacing, Reconfiguration
from consensus.reconfiguration import ChangeDomain, RotateKey, approved_by_validator
from sequencer.api.status_document import unready_reasons
from sequencer.config import Config, RollupConfig
from sequencer.genesis import genesis_of
from sequencer.homes import ChainPlan, write_testnet
from sequencer.keys import generate_consensus_key, load_consensus_key, write_consensus_key
from sequencer.ledger import NoCheckpoints
from sequencer.node import Node, open_node
from sequencer.receipts import Receipt, VerificationError
from sequencer.transactions import Level
from sequencer.transport import PeerState
from tests.sequencer.whole_nodes import running
from tests.support.waiting import until

PATIENCE_S = 30
IDLE_S = 0.1


def homes(
    directory: Path,
    *,
    interval: int = 4,
    protocol: str = "jolteon",
    scheme: str = "ed25519",
    reconfiguration: Reconfiguration | None = None,
) -> list[Path]:
    plan = ChainPlan(
        protocol=protocol,
        scheme=scheme,
        validators=4,
        observers=1,
        rollups=(RollupConfig(id=7, adapter="raw", settings={}),),
        pacing=Pacing(view_timeout_ms=600, idle_interval_ms=round(1000 * IDLE_S)),
        checkpoint_interval=interval,
        reconfiguration=reconfiguration,
    )
    return write_testnet(directory, plan)


async def until_final(node: Node, height: int) -> None:
    await node._parts.ledger.final(height)


@pytest.mark.parametrize(
    ("protocol", "scheme"),
    [("jolteon", "ed25519"), ("hotstuff", "bls"), ("simplex", "ed25519"), ("tendermint", "bls")],
)
async def test_a_transaction_becomes_final_and_the_receipt_proves_it_offline(
    tmp_path: Path, protocol: str, scheme: str
) -> None:
    files = homes(tmp_path, protocol=protocol, scheme=scheme)
    async with running(*files) as nodes:
        observer = nodes[4]
        with trio.fail_after(PATIENCE_S):
            pending = await observer.submit(rollup_id=7, transaction=b"hello")
            confirmed = await observer.wait(pending)
            final = await observer.wait(pending, level="final")
            assert (confirmed.level, final.level) == (Level.CONFIRMED, Level.FINAL)
            assert (await observer.status_of(final.transaction_id)).level == Level.FINAL
            assert observer.status().final_height >= final.height
            spec = observer.spec
    again = Receipt.from_bytes(final.to_bytes())
    assert again == final
    again.verify(genesis_of(spec))


def trusting(home: Path, height: int, block_id: bytes, more: str = "") -> Config:
    """The home's configuration, with a trusted block."""
    file = home / "node.toml"
    text = file.read_text().partition("[trust]")[0]
    file.write_text(text + f'\n[trust]\ncheckpoint = "{height}:{block_id.hex()}"\n{more}\n')
    return Config.load(file)


def _peers(node: Node) -> Sequence[PeerState]:
    return node.status().transport.peers


async def test_a_joiner_starts_from_a_trusted_checkpoint(tmp_path: Path) -> None:
    """The true one, one of another chain, one that is too old; and again where it holds the block already."""
    files = homes(tmp_path)
    async with running(*files[:4]) as nodes:
        with trio.fail_after(PATIENCE_S):
            final = await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"hello"), level="final")
            assert final.finality is not None
            checkpoint = final.finality.checkpoint
            async with open_node(trusting(files[4], checkpoint.height, bytes(32))) as joiner:
                await until(lambda: any("checkpoint is 00" in peer.last_reason for peer in _peers(joiner)))
                status = joiner.status()
                assert status.ledger_height < checkpoint.height
                assert any("below the trusted checkpoint" in reason for reason in unready_reasons(status))
            shutil.rmtree(files[4] / "data")
            with pytest.RaisesGroup(UntrustedChain, flatten_subgroups=True, allow_unwrapped=True) as raised:
                config = trusting(files[4], checkpoint.height, checkpoint.id)
                assert config.trust is not None
                old = replace(config.trust.ages, period_ms=1)
                async with open_node(replace(config, trust=replace(config.trust, ages=old))):
                    await trio.sleep_forever()
            assert "more than the 1 ms of weak subjectivity" in str(raised.value.exceptions)
            shutil.rmtree(files[4] / "data")
            for _ in range(2):
                async with open_node(trusting(files[4], checkpoint.height, checkpoint.id)) as joiner:
                    (await joiner.wait(final.transaction_id, level="final")).verify(joiner.genesis)
                    assert not any("trusted checkpoint" in reason for reason in unready_reasons(joiner.status()))
            with pytest.RaisesGroup(UntrustedChain, flatten_subgroups=True, allow_unwrapped=True) as raised:
                async with open_node(trusting(files[4], checkpoint.height, bytes(32))):
                    await trio.sleep_forever()
            assert "Correct that, or start anew" in str(raised.value.exceptions)


async def test_an_idle_chain_is_quiet_and_goes_on_finalizing(tmp_path: Path) -> None:
    """Checkpoints and certificates about them call for no blocks: about one per idle interval, and what commits it."""
    files = homes(tmp_path, interval=2)
    async with running(*files[:4]) as nodes:
        with trio.fail_after(PATIENCE_S):
            await nodes[0].wait(await nodes[0].submit(rollup_id=7, transaction=b"hello"), level="final")
            before, began = nodes[0].status(), trio.current_time()
            await until_final(nodes[0], before.final_height + 10)
            after, took_s = nodes[0].status(), trio.current_time() - began
    # A rate: the longer a busy machine takes, the more it allows.
    assert after.ledger_height - before.ledger_height <= 4 * (took_s / IDLE_S + 1)


async def test_finality_survives_restarts(tmp_path: Path) -> None:
    files = homes(tmp_path)
    async with running(*files) as nodes:
        with trio.fail_after(PATIENCE_S):
            pending = await nodes[0].submit(rollup_id=7, transaction=b"one")
            final = await nodes[0].wait(pending, level="final")
            heights = [node.status().final_height for node in nodes]
    async with running(*files) as nodes:
        with trio.fail_after(PATIENCE_S):
            for node, height in zip(nodes, heights, strict=True):
                await until_final(node, height)
            assert (await nodes[0].status_of(final.transaction_id)).level == Level.FINAL
            again = await nodes[4].wait(final.transaction_id, level="final")
            again.verify(nodes[4].genesis)
            later = await nodes[1].wait(await nodes[1].submit(rollup_id=7, transaction=b"two"), level="final")
            later.verify(nodes[1].genesis)
            assert later.height > final.height


def second_key(home: Path) -> bytes:
    """Give a node a second consensus key; the change that rotates to it, with a proof of possession."""
    config = Config.load(home / "node.toml")
    (held,) = config.consensus_key_files
    old, new = load_consensus_key(held).secret_key, generate_consensus_key(Ed25519())
    write_consensus_key(home / "keys" / "next.json", new, None)
    file = home / "node.toml"
    text = file.read_text()
    assert 'consensus = "keys/consensus.json"' in text
    file.write_text(
        text.replace('consensus = "keys/consensus.json"', 'consensus = ["keys/consensus.json", "keys/next.json"]')
    )
    change = RotateKey(
        public_key=old.public_key,
        next_public_key=new.secret_key.public_key,
        next_possession_proof=new.secret_key.prove_possession(),
        next_peer=b"",
        expires_at=1000,
    )
    return encode(approved_by_validator(ChangeDomain.of(config.spec), change, old))


async def test_finality_goes_on_when_every_validator_rotates_its_key(tmp_path: Path) -> None:
    """No key is in both sets: until the hand-over every node signs each link twice. A restart comes in between."""
    files = homes(tmp_path, reconfiguration=Reconfiguration(epoch_heights=4))
    changes = [second_key(home) for home in files[:4]]
    async with running(*files) as nodes:
        with trio.fail_after(2 * PATIENCE_S):
            for change in changes:
                await nodes[0].wait(await nodes[0].submit(rollup_id=SYSTEM_ROLLUP, transaction=change))
            await until(lambda: nodes[4].status().consensus.epoch > 0)
            began = await nodes[4].epoch_changes()
    async with running(*files) as nodes:
        with trio.fail_after(2 * PATIENCE_S):
            last = nodes[4].status().consensus.epoch
            later = await nodes[4].wait(await nodes[1].submit(rollup_id=7, transaction=b"later"), level="final")
            assert later.header.epoch >= 1
            assert later.height > began[0].boundary.height
            later.verify(nodes[4].genesis)
            for node in nodes:
                await until_final(node, later.height + 12)
                finality = node._parts.driver._replica.finality
                assert finality is not None
                state = finality.chain_state()
                assert (state.handover.epoch, state.boundaries) == (node.status().consensus.epoch, ())
            assert nodes[4].status().consensus.epoch >= last
            stranger = genesis_of(nodes[4].spec)
            assert stranger.follow(await nodes[4].epoch_changes()) is None
    again = Receipt.from_bytes(later.to_bytes())
    assert isinstance(again, Receipt)
    again.verify(stranger)


async def test_a_chain_without_checkpoints_never_gives_final(tmp_path: Path) -> None:
    files = homes(tmp_path, interval=0)
    async with running(*files[:4]) as nodes:
        with trio.fail_after(PATIENCE_S):
            pending = await nodes[0].submit(rollup_id=7, transaction=b"hello")
            receipt = await nodes[0].wait(pending)
            with pytest.raises(NoCheckpoints):
                await nodes[0].wait(pending, level="final")
            assert (await nodes[0].status_of(receipt.transaction_id)).level == Level.CONFIRMED


async def test_a_proof_of_finality_that_was_changed_proves_nothing(tmp_path: Path) -> None:
    files = homes(tmp_path)
    async with running(*files[:4]) as nodes:
        with trio.fail_after(PATIENCE_S):
            pending = await nodes[0].submit(rollup_id=7, transaction=b"hello")
            receipt = await nodes[0].wait(pending, level="final")
            genesis = nodes[0].genesis
    proof = receipt.finality
    assert proof is not None
    receipt.verify(genesis)
    (certificate,) = proof.certificates[:1]
    (group,) = certificate.groups
    changed_in = msgspec.structs.replace
    fewer = changed_in(certificate, groups=(changed_in(group, signers=b"\x03"),))
    longer = changed_in(certificate, target=certificate.source)
    for changed, reason in (
        (changed_in(proof, headers=proof.headers[:-1]), "not among the headers"),
        (changed_in(proof, headers=proof.headers[1:]), "does not follow"),
        (changed_in(proof, certificates=(fewer, *proof.certificates[1:])), "link certificate"),
        (changed_in(proof, certificates=(longer, *proof.certificates[1:])), "finalizes nothing"),
    ):
        with pytest.raises(VerificationError, match=f"finality: .*{reason}"):
            changed_in(receipt, finality=changed).verify(genesis)
