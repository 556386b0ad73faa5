"""The light client on chains that every protocol really makes in the simulator, with Ed25519 signatures: what it
follows, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import msgspec
import pytest

from consensus.codec import Malformed, digest, encode, headers
from consensus.commit_proof import extend
from consensus.engine import Engine, Refusal
from consensus.epoch_history import EpochHistory
from consensus.light_client import (
    HEADERS_KEPT_MAX,
    HEADS_KEPT_MAX,
    Advanced,
    Checkpoint,
    Fork,
    Known,
    LightClient,
    Proven,
)
from consensus.protocols.registry import protocol_names
from consensus.types import PATH_LENGTH_MAX, BlockHeader, CommitProof
from netsim import load, run_schedule
from netsim.checks import scenario_path
from netsim.committee import committee_of
from netsim.oracles.judge import Judge
from netsim.scenario import expand
from netsim.schedule import Schedule, Stop, Times
from sequencer.genesis import Genesis, genesis_of

replace = msgspec.structs.replace

PROTOCOLS = protocol_names()
FORKS = (
    ("jolteon", 18), ("hotstuff", 11), ("hotstuff2", 18), ("simplex", 20), ("tendermint", 12), ("streamlet", 33),
)  # fmt: skip
"""Seeds of ``split-four`` that part the honest."""


class Witness:
    """An oracle that judges nothing and keeps the nodes."""

    id = "S1"

    def attach(self, judge: Judge) -> None:
        self.hosts = judge.world.hosts


@dataclass(frozen=True)
class Run:
    """One node's committed chain: ``headers[h]`` is that of height h + 1, ``proofs`` those that the node stored."""

    genesis: Genesis
    headers: tuple[BlockHeader, ...]
    proofs: dict[int, CommitProof]

    def at(self, height: int) -> tuple[BlockHeader, CommitProof]:
        """A header and a proof of it: its own, or that of the next proven one extended down."""
        header = self.headers[height - 1]
        proven = min(each for each in self.proofs if each >= height)
        proof = extend(self.proofs[proven], self.headers[height:proven])
        assert proof is not None
        return header, proof

    @property
    def top(self) -> int:
        return max(self.proofs)


def chains(schedule: Schedule) -> list[Run]:
    """What each honest node committed."""
    witness = Witness()
    run_schedule(schedule, oracles=(witness,))
    genesis = genesis_of(committee_of(schedule).spec)
    runs = []
    for host in witness.hosts:
        if host.honest:
            journal = host.journal
            heights = sorted(journal.commits)
            assert heights == list(range(1, len(heights) + 1))
            found = tuple(journal.blocks[journal.commits[height][0]].header for height in heights)
            proofs = {height: proof for height, (_, proof) in journal.commits.items() if proof is not None}
            runs.append(Run(genesis, found, proofs))
    return runs


@lru_cache(maxsize=16)
def run_of(protocol: str, exponent_max: int = 16) -> Run:
    times = Times(exponent_max=exponent_max)  # in the genesis: another value, another chain
    schedule = Schedule(protocol=protocol, scheme="ed25519", stop=Stop(view=16), times=times)
    run = max(chains(schedule), key=lambda each: each.top)
    assert run.top >= 8
    return run


@lru_cache(maxsize=8)
def forked(protocol: str, seed: int) -> tuple[Run, Run]:
    """Two honest nodes' chains that exclude each other."""
    schedule = expand(load(scenario_path("split-four")), seed).replace(protocol=protocol, scheme="ed25519")
    runs = chains(schedule)
    for one in runs:
        for other in runs:
            common = min(one.top, other.top)
            if one.headers[:common] != other.headers[:common]:
                return one, other
    raise AssertionError("no fork")


def split_height(one: Run, other: Run) -> int:
    pairs = enumerate(zip(one.headers, other.headers, strict=False), start=1)
    return next(height for height, (first, second) in pairs if first != second)


def reason(outcome: object) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


# --- following -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_block_of_a_real_chain_is_followed_in_steps_and_in_one(protocol: str) -> None:
    run = run_of(protocol)
    client, leaper = LightClient(run.genesis.history), LightClient(run.genesis.history)
    assert client.head == Checkpoint(height=0, block_id=run.genesis.spec.hash)
    for height in range(1, run.top + 1):
        header, proof = run.at(height)
        assert client.advance(header, proof) == Advanced(
            head=Proven(header=header, block_id=digest(header), proof=proof)
        )
        assert client.head.height == height
    leap = leaper.advance(*run.at(run.top))
    assert isinstance(leap, Advanced)
    assert leaper.head == client.head


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_head_never_goes_down(protocol: str) -> None:
    """A stale block is proven, and changes nothing."""
    run = run_of(protocol)
    client = LightClient(run.genesis.history)
    client.advance(*run.at(5))
    for height in (5, 3, 4, 1):
        header, proof = run.at(height)
        known = client.advance(header, proof)
        assert known == Known(block=Proven(header=header, block_id=digest(header), proof=proof))
        assert client.head.height == 5
    assert isinstance(client.advance(*run.at(6)), Advanced)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ancestors_by_a_path_of_headers(protocol: str) -> None:
    run = run_of(protocol)
    client = LightClient(run.genesis.history)
    client.advance(*run.at(6))
    for height in range(1, 7):
        assert client.check_ancestor(run.headers[height - 1], run.headers[height:6]) is None
    ends = "height 7: the path does not end in a block that is held here"
    assert reason(client.check_ancestor(run.headers[0], run.headers[1:7])) == ends
    assert "height 5: the path does not end" in reason(client.check_ancestor(run.headers[0], run.headers[1:5]))
    gap = (*run.headers[1:3], *run.headers[4:6])
    assert "height 5: stands on" in reason(client.check_ancestor(run.headers[0], gap))
    changed = replace(run.headers[0], timestamp_ms=run.headers[0].timestamp_ms - 1)
    assert "height 2: stands on" in reason(client.check_ancestor(changed, run.headers[1:6]))
    too_long = [run.headers[0]] * (PATH_LENGTH_MAX + 1)
    assert f"at most {PATH_LENGTH_MAX}" in reason(client.check_ancestor(run.headers[0], too_long))


# --- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_below_a_checkpoint_only_a_path_convinces(protocol: str) -> None:
    run = run_of(protocol)
    checkpoint = Checkpoint(height=4, block_id=digest(run.headers[3]))
    client = LightClient(run.genesis.history, checkpoint)
    assert "height 3: below the trusted checkpoint at height 4" in reason(client.advance(*run.at(3)))
    assert client.check_ancestor(run.headers[1], run.headers[2:4]) is None
    assert isinstance(client.advance(*run.at(4)), Known)
    assert client.head == checkpoint
    assert isinstance(client.advance(*run.at(5)), Advanced)
    assert isinstance(LightClient(run.genesis.history, checkpoint).advance(*run.at(7)), Advanced)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_proven_block_against_the_checkpoint_is_a_fork(protocol: str) -> None:
    run = run_of(protocol)
    wrong = Checkpoint(height=4, block_id=bytes(32))
    client = LightClient(run.genesis.history, wrong)
    for height in (4, 5):
        fork = client.advance(*run.at(height))
        assert isinstance(fork, Fork)
        assert fork.kept == wrong
        assert fork.shown.header == run.headers[height - 1]
        assert fork.reason.startswith("height 4: ")
        assert client.head == wrong


def test_checkpoints_that_cannot_be() -> None:
    run = run_of("jolteon")
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        LightClient(run.genesis.history, Checkpoint(height=4, block_id=bytes(31)))
    with pytest.raises(ValueError, match="height 0 is not in epoch 0"):
        LightClient(run.genesis.history, Checkpoint(height=0, block_id=bytes(32)))
    origin = Checkpoint(height=0, block_id=run.genesis.spec.hash)
    assert LightClient(run.genesis.history, origin).head == origin
    foreign = run_of("jolteon", exponent_max=15)
    other = LightClient(run.genesis.history, Checkpoint(height=2, block_id=digest(foreign.headers[1])))
    said = reason(other.check_ancestor(foreign.headers[0], foreign.headers[1:2]))
    assert said == f"height 1: does not stand on {origin.block_id.hex()}, after which its epoch begins"


# --- what is refused -----------------------------------------------------------------------------------------

Change = Callable[[BlockHeader, CommitProof, Run], tuple[BlockHeader, CommitProof]]


def few_signers(header: BlockHeader, proof: CommitProof, _: Run) -> tuple[BlockHeader, CommitProof]:
    few = replace(proof.certificate, signers=b"\x03", signature=proof.certificate.signature[:128])
    return header, replace(proof, certificate=few)


def forged_signature(header: BlockHeader, proof: CommitProof, _: Run) -> tuple[BlockHeader, CommitProof]:
    signature = proof.certificate.signature
    forged = replace(proof.certificate, signature=bytes([signature[0] ^ 1]) + signature[1:])
    return header, replace(proof, certificate=forged)


def the_justify_for_a_proof(header: BlockHeader, proof: CommitProof, _: Run) -> tuple[BlockHeader, CommitProof]:
    return header, replace(proof, headers=(), certificate=header.justify, confirmation=None)


def genesis_for_a_proof(header: BlockHeader, proof: CommitProof, run: Run) -> tuple[BlockHeader, CommitProof]:
    return header, replace(proof, headers=(), certificate=run.genesis.epoch.genesis, confirmation=None)


def proof_of_another(header: BlockHeader, _: CommitProof, run: Run) -> tuple[BlockHeader, CommitProof]:
    return header, run.at(header.height + 2)[1]


def without_a_link(header: BlockHeader, _: CommitProof, run: Run) -> tuple[BlockHeader, CommitProof]:
    """Partial: the header two below, and its proof without the header between."""
    proof = extend(run.at(header.height)[1], run.headers[header.height - 1 : header.height])
    assert proof is not None
    return run.headers[header.height - 3], proof


def of_another_kind(header: BlockHeader, proof: CommitProof, _: Run) -> tuple[BlockHeader, CommitProof]:
    other = "prevote" if proof.certificate.kind != "prevote" else "precommit"
    return header, replace(proof, certificate=replace(proof.certificate, kind=other))


def of_epoch_one(header: BlockHeader, proof: CommitProof, _: Run) -> tuple[BlockHeader, CommitProof]:
    return replace(header, epoch=1), replace(proof, epoch=1)


def labelled_epoch_one(header: BlockHeader, proof: CommitProof, _: Run) -> tuple[BlockHeader, CommitProof]:
    return header, replace(proof, epoch=1)


def of_another_chain(header: BlockHeader, _: CommitProof, run: Run) -> tuple[BlockHeader, CommitProof]:
    other = run_of(run.genesis.spec.protocol, exponent_max=15)
    return other.at(header.height)


def another_chains_under_this_name(header: BlockHeader, _: CommitProof, run: Run) -> tuple[BlockHeader, CommitProof]:
    foreign, proof = of_another_chain(header, _, run)
    return replace(foreign, chain=run.genesis.spec.hash), proof


REFUSED: Sequence[tuple[Change, str]] = (
    (few_signers, "signers: stake 2 is below the quorum of 3"),
    (forged_signature, "certificate: the signatures do not verify"),
    (the_justify_for_a_proof, "commit proof: the certificate is not the last header's"),
    (genesis_for_a_proof, "commit proof: the certificate is not the last header's"),
    (proof_of_another, "commit proof: "),
    (without_a_link, "commit proof: the headers do not follow from each other"),
    (of_another_kind, ""),
    (of_epoch_one, "of epoch 1; known are the validators up to epoch 0"),
    (labelled_epoch_one, "commit proof: of another chain or epoch"),
    (of_another_chain, "of chain "),
    (another_chains_under_this_name, "commit proof: "),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("change", "says"), REFUSED, ids=[change.__name__ for change, _ in REFUSED])
def test_what_proves_nothing_is_refused_with_its_height(protocol: str, change: Change, says: str) -> None:
    run = run_of(protocol)
    client = LightClient(run.genesis.history)
    client.advance(*run.at(1))
    header, proof = change(*run.at(5), run)
    assert (header, proof) != run.at(header.height)
    assert reason(client.advance(header, proof)).startswith(f"height {header.height}: {says}")
    assert client.head.height == 1
    assert isinstance(client.advance(*run.at(5)), Advanced), "the sound one is taken"


@pytest.mark.parametrize("protocol", ["simplex", "tendermint"])
def test_a_quorum_that_certifies_does_not_commit(protocol: str) -> None:
    """Simplex: a notarization under the name of a finalization; Tendermint: no polka in headers to take instead."""
    run = run_of(protocol)
    header = run.headers[4]
    justify = run.headers[5].justify
    proof = CommitProof(epoch=0, headers=(), certificate=justify)
    outcome = LightClient(run.genesis.history).advance(header, proof)
    if protocol == "simplex":
        assert "commits nothing" in reason(outcome)
        renamed = replace(justify, kind=run.at(5)[1].certificate.kind)
        forged = LightClient(run.genesis.history).advance(header, replace(proof, certificate=renamed))
        assert "the signatures do not verify" in reason(forged)
    else:
        assert isinstance(outcome, Advanced), "Tendermint's headers stand on precommits"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_changed_byte_of_a_header_passes(protocol: str) -> None:
    run = run_of(protocol)
    header, proof = run.at(5)
    client = LightClient(run.genesis.history)
    client.advance(*run.at(4))
    data = encode(header)
    decodable = 0
    for position in range(0, len(data), 7):
        changed = headers.decode(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        if isinstance(changed, Malformed):
            continue
        decodable += 1
        assert isinstance(client.advance(changed, proof), Refusal), position
        assert isinstance(client.check_ancestor(changed, ()), Refusal), position
    assert decodable > 20
    assert client.head.height == 4
    client.advance(header, proof)
    assert client.check_ancestor(header, ()) is None
    changed = replace(header, payload_size=header.payload_size + 1)
    assert reason(client.check_ancestor(changed, ())).startswith("height 5: the path does not end")


# --- forks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "seed"), FORKS)
def test_two_sides_of_a_real_fork_are_shown_with_both_proofs(protocol: str, seed: int) -> None:
    one, other = forked(protocol, seed)
    height = split_height(one, other)
    client = LightClient(one.genesis.history)
    client.advance(*one.at(height))
    kept = client.head
    fork = client.advance(*other.at(height))
    assert isinstance(fork, Fork)
    assert fork.kept == kept == client.head
    assert fork.shown.header == other.headers[height - 1]
    for side in (fork.kept, fork.shown):
        assert isinstance(side, Proven)
        assert one.genesis.verify_commit(side.proof, side.header, 0) is None
    top = max(one, other, key=lambda run: run.top)
    below = min(one, other, key=lambda run: run.top).at(height)
    reached = LightClient(one.genesis.history)
    reached.advance(*top.at(height + 1))
    fork = reached.advance(*below)
    assert isinstance(fork, Fork), "a block below the head that is not its parent"
    assert fork.kept == reached.head
    if other.top > height:  # the next block, whose parent is another than the head
        fork = client.advance(*other.at(height + 1))
        assert isinstance(fork, Fork)
        assert digest(other.headers[height - 1]).hex() in fork.reason


@pytest.mark.parametrize(("protocol", "seed"), FORKS)
def test_a_path_shows_a_fork_below_the_head(protocol: str, seed: int) -> None:
    """The client holds one side's block at the split, leaps up on the other side, and is shown the path. In Jolteon's
    run the views alone give the leap away; a checkpoint has no view."""
    near, far = sorted(forked(protocol, seed), key=lambda run: run.top)
    height = split_height(near, far)
    assert far.top >= height + 2
    split, path = far.headers[height - 1], far.headers[height : far.top]
    client = LightClient(near.genesis.history)
    client.advance(*near.at(height))
    leap = client.advance(*far.at(far.top))
    if protocol == "jolteon":
        assert isinstance(leap, Fork)
        assert "cannot stand on the one of view" in leap.reason
        client = LightClient(near.genesis.history, Checkpoint(height=height, block_id=digest(near.headers[height - 1])))
        leap = client.advance(*far.at(far.top))
    assert isinstance(leap, Advanced)
    fork = client.check_ancestor(split, path)
    assert isinstance(fork, Fork)
    assert fork.shown.header == split
    assert near.genesis.verify_commit(fork.shown.proof, split, 0) is None
    assert fork.kept.block_id == digest(near.headers[height - 1])
    assert client.check_ancestor(far.headers[height], path[1:]) is None, "nothing else is held there"


# --- time, memory, the seam ----------------------------------------------------------------------------------


def test_a_stale_head_is_refused() -> None:
    run = run_of("jolteon")
    client = LightClient(run.genesis.history)
    genesis_ms = run.genesis.spec.genesis_time_ms
    assert client.check_fresh(genesis_ms + 50, 50) is None
    said = "stale: the head at height 0 is 51 ms old, more than 50 ms"
    assert reason(client.check_fresh(genesis_ms + 51, 50)) == said
    client.advance(*run.at(6))
    now_ms = run.headers[5].timestamp_ms
    assert client.check_fresh(now_ms + 50, 50) is None
    assert client.check_fresh(now_ms - 1_000, 50) is None
    assert "height 6 is 51 ms old" in reason(client.check_fresh(now_ms + 51, 50))
    trusted = LightClient(run.genesis.history, Checkpoint(height=4, block_id=digest(run.headers[3])))
    assert "nothing was shown above the checkpoint" in reason(trusted.check_fresh(0, 50))


class Credulous:
    """An observer that takes every proof, to fill a client's memory."""

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: int) -> None:
        return None


def credulous(genesis: Genesis) -> EpochHistory:
    return EpochHistory(
        spec=genesis.spec, scheme=genesis.scheme, engine=lambda **_: cast("Engine", Credulous()), first=genesis.epoch
    )


@pytest.mark.parametrize(
    ("view", "timestamp_ms", "excludes"),
    [(11, 3_000, True), (12, 3_000, True), (13, 3_000, False), (13, 2_002, True), (13, 2_003, False)],
)
def test_views_and_timestamps_grow_with_every_height(view: int, timestamp_ms: int, excludes: bool) -> None:
    """Three heights above view 10 and 2,000 ms there stands a block of view 13 and 2,003 ms at the least."""
    run = run_of("jolteon")
    header, proof = run.at(3)
    low = replace(header, view=10, height=4, timestamp_ms=2_000)
    high = replace(header, view=view, height=7, timestamp_ms=timestamp_ms)
    for first, second in ((low, high), (high, low)):
        client = LightClient(credulous(run.genesis))
        client.advance(first, proof)
        assert isinstance(client.advance(second, proof), Fork) == excludes


@pytest.mark.parametrize(("size", "kept"), [(1, HEADS_KEPT_MAX), (1_000, HEADERS_KEPT_MAX // 1_000)])
def test_memory_is_bounded(size: int, kept: int) -> None:
    run = run_of("jolteon")
    client = LightClient(credulous(run.genesis))
    header, proof = run.at(3)
    blocks = [replace(header, height=each, view=each, timestamp_ms=10_000 + each) for each in range(2, 142, 2)]
    for block in blocks:
        assert isinstance(client.advance(block, replace(proof, headers=(header,) * size)), Advanced)
    held = [block for block in blocks if client.check_ancestor(block, ()) is None]
    assert held == blocks[-kept:]


def test_an_epochs_boundary_is_not_a_block_of_it() -> None:
    run = run_of("jolteon")
    header, proof = run.at(1)
    outcome = LightClient(run.genesis.history).advance(replace(header, height=0), proof)
    assert reason(outcome) == "height 0: not above height 0, after which epoch 0 begins"
