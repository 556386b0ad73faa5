"""Fifty SIGKILLs of real validator processes at random moments under load.

What must hold, whatever the moments: no validator ever signed two different things for one slot, and nothing that a
client was given a receipt for is lost. The first is read from everything that was written anywhere: the certificates
and proposals in all archives (committed or not), the journals' last decisions, and what the nodes themselves saw and
logged. The second is ``verify`` with the clients' own list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final

import apsw
import pytest
import trio

from consensus.codec import commit_proofs, headers
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.types import BlockHeader, Certificate, CommitProof, Subject, signers_of
from sequencer.cli.demo.processes import Fleet, NodeProcess, free_base_port, open_fleet
from sequencer.cli.demo.sender import Sender, api_client
from sequencer.config import RollupConfig
from sequencer.genesis import genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.homes import ChainPlan, write_testnet
from sequencer.verify import home_of, verify
from tests.sequencer.archives import signed_chain, write_home
from tests.support.committee import committee
from tests.support.waiting import random_moment, until

KILLS: Final = 50
USERS: Final = 12
ROLLUP: Final = 1
ALL_AT_ONCE_EVERY: Final = 10
TOGETHER_SHARE: Final = 0.3
"""How often a second validator goes with the first: then nobody can commit until one is back."""

Slots = dict[tuple[int, str, int, int], bytes]
"""What a validator signed: (signer, kind, epoch, view) to block id."""


async def _users(sender: Sender, stopping: trio.Event, number: int) -> None:
    choice = Random(number)
    while not stopping.is_set():
        await sender.send(ROLLUP, choice.randbytes(choice.randrange(8, 600)))


async def _kill_and_restart(fleet: Fleet, choice: Random) -> int:
    """One to all validators, at a random moment. Returns how many."""
    await random_moment(choice, 2.5)
    victims: Sequence[NodeProcess] = fleet.nodes
    if choice.randrange(ALL_AT_ONCE_EVERY):
        victims = choice.sample(fleet.nodes, 2 if choice.random() < TOGETHER_SHARE else 1)
    async with trio.open_nursery() as nursery:
        for victim in victims:
            nursery.start_soon(victim.kill)
    await fleet.start_all()
    return len(victims)


async def _torture(homes: Sequence[Path], seed: int) -> Sender:
    choice = Random(seed)
    genesis = genesis_of(read_chain_spec(homes[0] / "genesis.json"))
    async with open_fleet(homes) as fleet, api_client() as client:
        await fleet.start_all()
        sender, stopping = Sender(fleet.nodes, genesis, client), trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(USERS):
                nursery.start_soon(_users, sender, stopping, number)
            kills = 0
            while kills < KILLS:
                kills += await _kill_and_restart(fleet, choice)
            count = sender.seen.rollups[ROLLUP]
            enough = count.acknowledged + USERS
            await until(lambda: count.acknowledged >= enough)  # it goes on after the last of them
            stopping.set()
        assert await fleet.stop_all() == []
    return sender


# httpx leaves the generator over a request's body to the garbage collector when the connection breaks under it.
@pytest.mark.filterwarnings(r"ignore:.*ByteStream\.__aiter__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.sweep
@pytest.mark.parametrize("protocol", protocol_names())
async def test_fifty_sigkills_under_load(tmp_path: Path, protocol: str) -> None:
    plan = ChainPlan(
        protocol=protocol,
        scheme="ed25519",
        rollups=[RollupConfig(id=ROLLUP, adapter="raw", settings={})],
        validators=4,
        observers=0,
        base_port=free_base_port(8),
    )
    homes = write_testnet(tmp_path, plan)
    sender = await _torture(homes, seed=len(protocol))
    count = sender.seen.rollups[ROLLUP]
    assert count.submitted == count.acknowledged == len(sender.seen.positions)
    assert count.acknowledged > KILLS
    verdict = await verify([home_of(home) for home in homes], acknowledged=sender.seen.positions)
    assert verdict.findings == ()
    assert verdict.transactions[ROLLUP] == count.submitted
    signed: Slots = {}
    for home in homes:
        _collect(home, protocol, signed)
        assert "equivocation" not in (home / "node.log").read_text()
    assert len(signed) > KILLS


# --- what was signed ---------------------------------------------------------------------------------------------


def _collect(home: Path, protocol: str, signed: Slots) -> None:
    """Add what one home shows to have been signed; fail where a slot holds another thing already."""
    index = int(home.name.rpartition("-")[2])
    for signer, subject, block_id in _signatures(home / "data" / "chain.db", protocol, index):
        kind, epoch, view = subject
        before = signed.setdefault((signer, kind, epoch, view), block_id)
        assert before == block_id, f"validator-{signer} signed two things as {kind} of view {view}"


def _signatures(archive: Path, protocol: str, index: int) -> Iterator[tuple[int, tuple[str, int, int], bytes]]:
    codec = protocol_named(protocol).subject_codec()
    with closing(apsw.Connection(str(archive), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        for block_id, encoded in connection.execute("SELECT id, header FROM blocks"):
            header = headers.decode(encoded)
            assert isinstance(header, BlockHeader)
            yield header.proposer, ("proposal", header.epoch, header.view), block_id
            yield from _certified(header.justify)
        for (encoded,) in connection.execute("SELECT proof FROM commits WHERE proof IS NOT NULL"):
            proof = commit_proofs.decode(encoded)
            assert isinstance(proof, CommitProof)
            yield from _certified(proof.certificate)
        for kind, encoded in connection.execute("SELECT kind, subject FROM safety"):
            subject = codec.decode(encoded)
            if hasattr(subject, "block_id"):
                named: Subject = subject  # type: ignore[assignment]  # every kind has a slot
                slot = named.slot
                yield index, (kind, slot.epoch, slot.major), subject.block_id


def _certified(certificate: Certificate) -> Iterator[tuple[int, tuple[str, int, int], bytes]]:
    for signer in signers_of(certificate.signers):
        yield signer, (certificate.kind, certificate.epoch, certificate.view), certificate.block_id


@pytest.mark.parametrize("conflicting", [False, True])
async def test_two_things_in_one_slot_are_seen(tmp_path: Path, conflicting: bool) -> None:
    """The oracle itself: a committee that signed two chains at the same views."""
    members = committee(4, scheme="ed25519")
    for index, data in enumerate((b"one", b"another" if conflicting else b"one")):
        await write_home(tmp_path / f"validator-{index}", signed_chain([{1: [(0, data)]}, {}], members=members))
    signed: Slots = {}
    _collect(tmp_path / "validator-0", "jolteon", signed)
    assert signed
    if conflicting:
        with pytest.raises(AssertionError, match=r"validator-\d signed two things as \w+ of view 1"):
            _collect(tmp_path / "validator-1", "jolteon", signed)
    else:
        _collect(tmp_path / "validator-1", "jolteon", signed)
