"""Validator sets that follow each other: each verified under the one before, and the light client across them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import msgspec
import pytest

from consensus.codec import digest, encode
from consensus.engine import Refusal
from consensus.epoch_history import EPOCHS_KEPT_MAX, Contradiction, EpochHistory
from consensus.epochs import EpochChange, EpochInfo, epoch_changes, first_epoch
from consensus.genesis import Pacing, Reconfiguration
from consensus.light_client import Advanced, Checkpoint, Fork, Known, LightClient, Proven
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.validators import ValidatorSet
from sequencer.genesis import genesis_of, trusted_from
from tests.support import hosts
from tests.support.cluster import SECOND, Cluster
from tests.support.committee import committee
from tests.support.epoch_chain import EpochChain, certificate, epoch_chain, members

replace = msgspec.structs.replace
PROTOCOLS = protocol_names()


@lru_cache(maxsize=16)
def chain_of(protocol: str = "jolteon") -> EpochChain:
    """Epochs of heights 1-3, 4-7 and 8-10, whose sets overlap by two, of four."""
    return epoch_chain(protocol=protocol)


@lru_cache(maxsize=1)
def forked() -> EpochChain:
    """Another boundary at height 7, and so another epoch 2, with other validators too."""
    return epoch_chain(((0, 1, 2, 3), (2, 3, 4, 5), (6, 7, 8, 9)), other_from=6)


def history_of(chain: EpochChain) -> EpochHistory:
    return genesis_of(chain.spec).history


def reason(outcome: object) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


# --- the history -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_epoch_is_verified_under_the_one_before(protocol: str) -> None:
    chain = chain_of(protocol)
    history = history_of(chain)
    for change, era in zip(chain.changes, chain.eras[1:], strict=True):
        info = history.extend(change)
        assert isinstance(info, EpochInfo)
        assert (info.domain, info.genesis) == (era.info.domain, era.info.genesis)
    for height in range(1, chain.top + 1):
        header, proof = chain.at(height)
        assert history.verify_commit(proof, header, header.epoch) is None
    assert history.boundary(2) is not None
    assert history.newest.validators.hash == chain.eras[2].info.validators.hash


def other_validators(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, validators=chain.spec.validators)


def other_order(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, validators=(change.validators[1], change.validators[0], *change.validators[2:]))


def twice_the_same(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, validators=(change.validators[0],) * 4)


def more_stake(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, validators=(replace(change.validators[0], stake=2), *change.validators[1:]))


def own_set(change: EpochChange, chain: EpochChain) -> EpochChange:
    """The boundary names the set that suits the liar; nobody signed it."""
    validators, _ = members(genesis_of(chain.spec).scheme, (10, 11, 12, 13))
    named = ValidatorSet(validators).hash
    return replace(change, boundary=replace(change.boundary, next_validators_hash=named), validators=validators)


def no_boundary(change: EpochChange, chain: EpochChain) -> EpochChange:
    header, proof = chain.at(2)
    return replace(change, boundary=header, proof=proof)


def no_quorum(change: EpochChange, chain: EpochChain) -> EpochChange:
    return chain.change(1, signers=(0, 1))


def next_epochs_signers(change: EpochChange, chain: EpochChain) -> EpochChange:
    """Those who are to come show the boundary: they have no say yet."""
    old, child = chain.eras[0], chain.eras[0].closing[0]
    signed = certificate(old.scheme, chain.eras[1].keys, old.info, child, "vote", (0, 1, 2))
    return replace(change, proof=replace(change.proof, certificate=signed))


def other_block(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, boundary=replace(change.boundary, timestamp_ms=change.boundary.timestamp_ms + 1))


def foreign_chain(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, boundary=replace(change.boundary, chain=bytes(32)))


def of_no_height(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, boundary=replace(change.boundary, height=0))


def of_the_past(change: EpochChange, chain: EpochChain) -> EpochChange:
    return replace(change, boundary=replace(change.boundary, timestamp_ms=1_000))


FORGERIES: tuple[tuple[Callable[[EpochChange, EpochChain], EpochChange], str], ...] = (
    (other_validators, "its validators hash to"),
    (other_order, "its validators hash to"),
    (more_stake, "its validators hash to"),
    (twice_the_same, "two validators share one name"),
    (own_set, "the headers do not follow from each other"),
    (no_boundary, "names no next validators"),
    (no_quorum, "below the quorum"),
    (next_epochs_signers, "the signatures do not verify"),
    (other_block, "the headers do not follow from each other"),
    (foreign_chain, "the boundary is of chain"),
    (of_no_height, "is not above 0"),
    (of_the_past, "timestamp is not after"),
)


@pytest.mark.parametrize(("forge", "why"), FORGERIES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_forged_change_is_refused_with_its_reason(
    forge: Callable[[EpochChange, EpochChain], EpochChange], why: str
) -> None:
    chain = chain_of()
    history, client = history_of(chain), LightClient(history_of(chain))
    forged = forge(chain.change(1), chain)
    assert reason(history.extend(forged)).startswith("change to epoch 1: ")
    assert why in reason(history.extend(forged))
    assert why in reason(client.follow(forged))
    assert history.newest.epoch == client.epoch == 0
    assert isinstance(history.extend(chain.change(1)), EpochInfo)


def test_an_old_set_has_no_say_in_a_later_epoch() -> None:
    """The validators of epoch 0 sign the boundary of epoch 1: they have left."""
    chain = chain_of()
    history = history_of(chain)
    history.extend(chain.change(1))
    now, child = chain.eras[1], chain.eras[1].closing[0]
    signed = certificate(now.scheme, chain.eras[0].keys, now.info, child, "vote", (0, 1, 2))
    late = replace(chain.change(2), proof=replace(chain.change(2).proof, certificate=signed))
    assert "do not verify" in reason(history.extend(late))


def test_changes_come_one_after_the_other() -> None:
    chain = chain_of()
    history = history_of(chain)
    assert "the changes to epochs 1 to 1 are missing" in reason(history.extend(chain.change(2)))
    header, proof = chain.at(5)
    unknown = "known are the validators up to epoch 0: show how later ones began"
    assert unknown in reason(history.verify_commit(proof, header, header.epoch))
    assert history.extend_all(chain.changes) is None
    again = history.extend(chain.change(1))
    assert isinstance(again, EpochInfo)
    assert history.newest.epoch == 2


def test_no_epoch_goes_on_above_its_boundary() -> None:
    """Above the boundary the old set's signatures count for nothing: neither of closing blocks, which honest validators
    sign, nor of others."""
    chain = chain_of()
    history = history_of(chain)
    closing = chain.eras[0].closing[0]
    proof = chain.proof_of(closing)
    assert "after the one that ended its epoch" in reason(history.verify_commit(proof, closing, 0))
    longer = epoch_chain(((0, 1, 2, 3),), lengths=(6,))
    header, proof = longer.at(5)
    assert history.verify_commit(proof, header, 0) is None
    history.extend(chain.change(1))
    assert "above height 3, where epoch 0 ended" in reason(history.verify_commit(proof, header, 0))


def test_two_proven_changes_of_one_epoch_contradict_each_other() -> None:
    chain, other = chain_of(), forked()
    history = history_of(chain)
    assert history.extend_all(chain.changes) is None
    found = history.extend(other.change(2))
    assert found == Contradiction(kept=chain.change(2), shown=other.change(2))
    assert history.newest.validators.hash == chain.eras[2].info.validators.hash


def test_a_history_may_begin_with_a_boundary_that_is_trusted() -> None:
    chain = chain_of()
    late = trusted_from(genesis_of(chain.spec), chain.change(2))
    header, proof = chain.at(9)
    assert late.verify_commit(proof, header, 2) is None
    header, proof = chain.at(5)
    assert "trusted is what begins with epoch 2" in reason(late.verify_commit(proof, header, 1))
    assert "begins with epoch 2, which is trusted" in reason(late.history.extend(chain.change(1)))
    with pytest.raises(ValueError, match="of chain"):
        trusted_from(genesis_of(chain.spec), foreign_chain(chain.change(2), chain))


def test_a_copy_goes_on_by_itself() -> None:
    chain, other = chain_of(), forked()
    genesis = genesis_of(chain.spec)
    assert genesis.follow(chain.changes[:1]) is None
    branch = genesis.branch()
    assert genesis.follow(chain.changes) is None
    assert branch.follow(other.changes) is None
    assert branch.history.newest.validators.hash != genesis.history.newest.validators.hash


@lru_cache(maxsize=1)
def long_chain() -> EpochChain:
    """One block per epoch, one validator each."""
    count = EPOCHS_KEPT_MAX + 6
    return epoch_chain([(number,) for number in range(count)], lengths=(1,) * count)


def test_memory_is_bounded_and_an_old_epoch_is_known_again_by_its_boundary() -> None:
    chain = long_chain()
    history = history_of(chain)
    assert history.extend_all(chain.changes) is None
    kept = [epoch for epoch in range(len(chain.eras)) if history.info(epoch) is not None]
    assert kept == list(range(6, len(chain.eras)))
    header, proof = chain.at(2)
    assert "whose validators are not kept" in reason(history.verify_commit(proof, header, 1))
    assert "the validators of epoch 1 are not kept" in reason(history.extend(other_block(chain.change(2), chain)))
    assert "names validators" in reason(history.extend(other_validators(chain.change(1), chain)))
    recalled = history.extend(replace(chain.change(1), proof=proof))  # which proof, does not matter any more
    assert isinstance(recalled, EpochInfo)
    assert history.verify_commit(proof, header, 1) is None
    assert history.change(1) is None
    assert len([epoch for epoch in range(len(chain.eras)) if history.info(epoch) is not None]) == EPOCHS_KEPT_MAX


def test_every_changed_byte_of_a_change_is_refused() -> None:
    chain = chain_of("simplex")
    data = encode(chain.change(1))
    history = history_of(chain)
    for position in range(len(data)):
        for flip in (1, 128):
            mutated = bytearray(data)
            mutated[position] ^= flip
            change = epoch_changes.decode(bytes(mutated))
            if isinstance(change, EpochChange):
                assert isinstance(history.extend(change), Refusal), position
    assert history.newest.epoch == 0


# --- the light client --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_light_client_follows_across_changes(protocol: str) -> None:
    chain = chain_of(protocol)
    client, leaper = LightClient(history_of(chain)), LightClient(history_of(chain))
    for height in range(1, chain.top + 1):
        header, proof = chain.at(height)
        if header.epoch > client.epoch:
            assert isinstance(client.advance(header, proof), Refusal)
            assert client.follow(chain.change(header.epoch)) == Known(block=client.head)  # the boundary was the head
        assert isinstance(client.advance(header, proof), Advanced)
    for change in chain.changes:
        outcome = leaper.follow(change)
        assert isinstance(outcome, Advanced)
        assert (outcome.head.header, leaper.head.height) == (change.boundary, change.boundary.height)
    assert isinstance(leaper.advance(*chain.at(chain.top)), Advanced)
    assert leaper.head == client.head
    assert client.follow(chain.change(1)) == Known(
        block=Proven(
            header=chain.change(1).boundary, block_id=digest(chain.change(1).boundary), proof=chain.change(1).proof
        )
    )
    assert client.check_ancestor(chain.headers[0], chain.headers[1:]) is None


def test_a_partial_chain_of_changes_leads_nowhere() -> None:
    chain = chain_of()
    client = LightClient(history_of(chain))
    assert "the changes to epochs 1 to 1 are missing" in reason(client.follow(chain.change(2)))
    assert "up to epoch 0" in reason(client.advance(*chain.at(9)))
    client.follow(chain.change(1))
    assert "up to epoch 1" in reason(client.advance(*chain.at(9)))


def test_a_stale_chain_of_changes_is_noticed_by_the_clock() -> None:
    chain = chain_of()
    client = LightClient(history_of(chain))
    client.follow(chain.change(1))
    now_ms = chain.headers[-1].timestamp_ms
    assert client.check_fresh(now_ms, 100) is None
    assert "the head at height 3 is" in reason(client.check_fresh(now_ms, 50))


def test_two_changes_of_one_epoch_are_a_fork_with_both_proofs() -> None:
    chain, other = chain_of(), forked()
    client = LightClient(history_of(chain))
    for change in chain.changes:
        client.follow(change)
    head = client.head
    fork = client.follow(other.change(2))
    assert isinstance(fork, Fork)
    assert isinstance(fork.kept, Proven)
    assert (fork.kept.proof, fork.shown.proof) == (chain.change(2).proof, other.change(2).proof)
    assert fork.reason == "epoch 2 begins after two boundaries, both committed"
    assert client.head == head


def test_a_fork_below_a_boundary_is_seen() -> None:
    """The held block at height 6 is not the parent of the boundary that is shown at 7."""
    chain, other = chain_of(), forked()
    client = LightClient(history_of(chain))
    client.follow(chain.change(1))
    client.advance(*chain.at(6))
    fork = client.follow(other.change(2))
    assert isinstance(fork, Fork)
    assert (fork.kept.height, fork.shown.height) == (6, 7)
    assert client.epoch == 1


def test_a_committed_block_above_its_epochs_boundary_is_a_fork() -> None:
    """Whichever of the two comes first."""
    chain, longer = chain_of(), epoch_chain(((0, 1, 2, 3),), lengths=(6,))
    for height in (4, 5, 6):
        client = LightClient(history_of(chain))
        assert isinstance(client.follow(chain.change(1)), Advanced)
        fork = client.advance(*longer.at(height))
        assert isinstance(fork, Fork), height
        assert (fork.kept.height, fork.shown.height) == (3, height)
        client = LightClient(history_of(chain))
        assert isinstance(client.advance(*longer.at(height)), Advanced)
        fork = client.follow(chain.change(1))
        assert isinstance(fork, Fork), height
        assert (fork.kept.height, fork.shown.height) == (height, 3)
        assert client.epoch == 0


def test_another_block_in_place_of_the_boundary_is_a_fork() -> None:
    """Also where the boundary was followed long ago and its header is no head any more."""
    chain, longer = chain_of(), epoch_chain(((0, 1, 2, 3),), lengths=(6,))
    client = LightClient(history_of(chain))
    for change in chain.changes:
        client.follow(change)
    client.advance(*chain.at(10))
    fork = client.advance(*longer.at(3))
    assert isinstance(fork, Fork)
    assert "are both committed" in fork.reason


def test_closing_blocks_are_no_part_of_the_chain() -> None:
    """The honest sign them to commit the boundary. Nobody can show one as the block at its height."""
    for protocol in PROTOCOLS:
        chain = chain_of(protocol)
        client = LightClient(history_of(chain))
        closing = chain.eras[0].closing[0]
        outcome = client.advance(closing, chain.proof_of(closing))
        assert "of a block after the one that ended its epoch" in reason(outcome)
        assert isinstance(client.follow(chain.change(1)), Advanced)


def test_a_first_block_that_stands_elsewhere_is_a_fork() -> None:
    """The set of epoch 1 signs a first block whose parent is another boundary."""
    chain = chain_of()
    client = LightClient(history_of(chain))
    client.follow(chain.change(1))
    other = epoch_chain(other_from=3)
    header, proof = other.at(4)
    outcome = client.advance(header, proof)
    assert isinstance(outcome, Fork)


def test_views_begin_anew_with_each_epoch() -> None:
    """Height 4 has view 1, below that of height 3."""
    chain = chain_of()
    client = LightClient(history_of(chain))
    client.advance(*chain.at(3))
    client.follow(chain.change(1))
    assert isinstance(client.advance(*chain.at(4)), Advanced)
    assert chain.headers[3].view < chain.headers[2].view
    path = chain.headers[2:4]
    assert client.check_ancestor(path[0], path[1:]) is None


def test_a_path_over_a_boundary_goes_by_the_epochs() -> None:
    chain = chain_of()
    client = LightClient(history_of(chain))
    for change in chain.changes:
        client.follow(change)
    client.advance(*chain.at(10))
    wrong = replace(chain.headers[3], epoch=0)
    assert "is followed by epoch 1" in reason(client.check_ancestor(chain.headers[2], (wrong, *chain.headers[4:10])))
    apart = replace(chain.headers[3], parent=bytes(32))
    assert "does not stand on" in reason(client.check_ancestor(apart, ()))


def test_below_a_checkpoint_no_change_is_taken() -> None:
    """Those who have left can sign another past; the boundary to trust is that of the checkpoint's own epoch."""
    chain, other = chain_of(), forked()
    trusted = Checkpoint(height=9, block_id=digest(chain.headers[8]))
    client = LightClient(history_of(chain), trusted)
    for change in (chain.change(1), other.change(1)):
        assert "below the trusted checkpoint at height 9" in reason(client.follow(change))
    boundary = chain.change(2)
    begun = trusted_from(genesis_of(chain.spec), boundary)
    client = LightClient(begun.history, trusted)
    assert isinstance(client.advance(*chain.at(10)), Advanced)
    assert isinstance(client.follow(boundary), Refusal)


def test_a_checkpoint_at_a_boundary_refuses_another_boundary() -> None:
    chain, other = chain_of(), forked()
    history = history_of(chain)
    history.extend(chain.change(1))
    client = LightClient(history, Checkpoint(height=7, block_id=digest(chain.headers[6])))
    fork = client.follow(other.change(2))
    assert isinstance(fork, Fork)
    assert fork.kept == client.checkpoint
    assert isinstance(client.follow(chain.change(2)), Known)
    assert isinstance(client.advance(*chain.at(10)), Advanced)


# --- chains that real replicas make ------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def cluster_of(protocol: str) -> Cluster:
    """Four hosts become five, seven, and four others; every replica watches for offences."""
    made = committee(4, protocol=protocol, pacing=Pacing(view_timeout_ms=200, idle_interval_ms=50))
    spec = replace(made.spec, reconfiguration=Reconfiguration(epoch_heights=4))
    made = dataclasses.replace(made, spec=spec, epoch=first_epoch(spec, ValidatorSet(spec.validators)))
    sets = {8: (0, 1, 2, 3, 4), 20: (0, 1, 2, 3, 4, 5, 6), 32: (4, 5, 6, 7)}
    following = {height: hosts.members(made.scheme, *numbers) for height, numbers in sets.items()}
    cluster = Cluster(made, hosts=8, sets=following)
    cluster.start()
    assert cluster.run(60 * SECOND, until=lambda: min(cluster.heights()) >= 40), cluster.heights()
    return cluster


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_replicas_made_is_followed_whoever_shows_it(protocol: str) -> None:
    """Changes and proofs differ between hosts; the history they give does not."""
    cluster = cluster_of(protocol)
    made = cluster.committee
    definition = protocol_named(protocol)
    boundaries = []
    for node in cluster.nodes:
        history = EpochHistory(spec=made.spec, scheme=made.scheme, engine=definition.engine, first=made.epoch)
        client = LightClient(history)
        changes = {change.boundary.height: change for change in node.journal.epochs}
        assert sorted(changes) == [8, 20, 32]
        proven = 0
        for height in sorted(node.journal.commits):
            block_id, proof = node.journal.commits[height]
            if proof is not None:
                outcome = client.advance(node.journal.blocks[block_id].header, proof)
                assert isinstance(outcome, Advanced), (height, outcome)
                proven += 1
            if height in changes:
                assert isinstance(client.follow(changes[height]), Known)
        assert (client.epoch, proven > 10) == (3, True)
        boundaries.append([history.boundary(epoch) for epoch in range(4)])
        assert not node.evidence
    assert all(each == boundaries[0] for each in boundaries)
