"""Tendermint among four nodes and more: silence, partitions, lost messages, clocks tenfold apart, kill -9, changed
bytes, a proposer with two blocks; and broken variants that must be noticed.

The cluster itself asserts that ledgers agree and that nothing is signed twice, over all restarts.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from consensus.codec import digest
from consensus.crypto.scheme import Scheme
from consensus.engine import Engine, Received
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec, Pacing
from consensus.protocols.registry import TENDERMINT
from consensus.protocols.tendermint import TendermintEngine
from consensus.protocols.tendermint_types import Proposal, round_of
from consensus.types import ProposalSubject, ValidatorIndex
from netsim.checks import scenario_path
from netsim.mutants.tendermint import BROKEN, NoRoundSkip, SaysItOnce
from netsim.simulation import Simulation
from tests.support.changed_bytes import Heard, check_message, listen
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Crash, Node
from tests.support.committee import committee
from tests.support.tendermint import Rounds

PACING = Pacing(view_timeout_ms=100, idle_interval_ms=20)
Factory = Callable[..., Engine]


def new_cluster(
    count: int = 4,
    *,
    seed: int = 0,
    observers: int = 0,
    twins: tuple[int, ...] = (),
    engine: Factory = TendermintEngine,
) -> Cluster:
    cluster = Cluster(
        committee(count, protocol="tendermint", pacing=PACING), seed=seed, observers=observers, twins=twins
    )
    cluster.definition = dataclasses.replace(TENDERMINT, engine=engine)
    return cluster


def drop(cluster: Cluster, lost: Callable[[Node, Node, msgspec.Struct, int], bool]) -> None:
    """These messages do not arrive."""
    route = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if lost(source, target, message, now) else route(source, target, message, now)
    )


def silence(cluster: Cluster, *names: str) -> None:
    drop(cluster, lambda source, target, message, now: source.name in names)


def height(cluster: Cluster) -> int:
    return min(cluster.heights())


# --- nothing is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_a_block_costs_what_is_declared(count: int) -> None:
    cluster = new_cluster(count, observers=1)
    sent: Counter[str] = Counter()

    def counted(source: Node, target: Node, message: msgspec.Struct, now: int) -> bool:
        sent[type(message).__name__] += source.index is not None and target.index is not None
        return False

    cluster.start()
    cluster.run(100 * MILLISECOND)
    drop(cluster, counted)
    before = height(cluster)
    cluster.run(SECOND)
    blocks = max(cluster.heights()) - before
    assert blocks >= 20
    assert sum(sent.values()) <= (blocks + 1) * TENDERMINT.costs.messages(count)
    assert cluster.heights()[-1] >= before + blocks - 1, "the observer follows"
    assert not any(node.rejects or node.evidence for node in cluster.nodes)
    rounds = [round_of(stored.header.view) for stored in cluster.nodes[0].journal.blocks.values()]
    assert not any(rounds)


def test_a_height_takes_three_message_delays() -> None:
    """Proposal, prevotes, precommits: each link takes 10 ms, and there is always a payload."""
    cluster = new_cluster()
    cluster.route = lambda source, target, message, now: (10 * MILLISECOND,)
    for number in range(50):
        cluster.submit(b"payload %d" % number)
    cluster.start()
    cluster.run(SECOND)
    assert 32 <= max(cluster.heights()) <= 33


# --- silence, partitions, lost messages ----------------------------------------------------------------------------


def test_12_every_fourth_proposer_silent() -> None:
    cluster = new_cluster()
    silence(cluster, "v3")
    cluster.start()
    cluster.run(8 * SECOND)
    assert len(cluster.nodes[0].ledger) >= 40
    rounds = [round_of(cluster.nodes[0].journal.blocks[block_id].header.view) for block_id in cluster.nodes[0].ledger]
    assert set(rounds) == {0, 1}


@pytest.mark.parametrize("alone", [("v0",), ("v0", "v1"), ("v0", "v1", "v2")])
@pytest.mark.parametrize("seed", range(3))
def test_a_partition_heals(alone: tuple[str, ...], seed: int) -> None:
    """Nothing more is lost after it, and everything that was lost is made good."""
    cluster = new_cluster(seed=seed)
    parted = [False]
    drop(
        cluster,
        lambda source, target, message, now: parted[0] and (source.name in alone) != (target.name in alone),
    )
    cluster.start()
    for _ in range(6):
        parted[0] = True
        cluster.run(SECOND + cluster.random.randint(0, SECOND))
        parted[0] = False
        reached = max(cluster.heights())
        assert cluster.run(10 * SECOND, until=lambda: height(cluster) >= reached + 2), cluster.heights()  # noqa: B023 - called in this round


def after_loss(seed: int, engine: Factory = TendermintEngine) -> bool:
    """Half of all messages are lost, so that the nodes scatter over rounds and heights; then one validator is gone for
    good, and the other three, all of them needed, must find together."""
    cluster = new_cluster(seed=seed, engine=engine)
    draw = random.Random(seed)
    lossy = [True]
    drop(cluster, lambda source, target, message, now: lossy[0] and draw.random() < 0.5)
    cluster.start()
    cluster.run(5 * SECOND)
    lossy[0] = False
    cluster.crash(cluster.nodes[seed])
    rest = [node for node in cluster.nodes if node is not cluster.nodes[seed]]
    reached = max(cluster.heights())
    return cluster.run(20 * SECOND, until=lambda: min(len(node.ledger) for node in rest) >= reached + 3)


def test_lost_messages_are_made_good() -> None:
    """Not by who says nothing again (mutant L7)."""
    assert all(after_loss(seed) for seed in range(4))
    assert not all(after_loss(seed, SaysItOnce) for seed in range(4))


def after_rounds_alone(engine: Factory = TendermintEngine) -> bool:
    """v3 hears nothing while the rounds of the others fail; then v0 is gone, and v3 is needed, many rounds behind."""
    cluster = new_cluster(engine=engine)
    trouble = [True]
    drop(
        cluster,
        lambda source, target, message, now: (
            trouble[0] and ("v3" in (source.name, target.name) or isinstance(message, Proposal))
        ),
    )
    cluster.start()
    cluster.run(3 * SECOND)
    statuses = [node.replica.status() for node in cluster.nodes if node.replica is not None]
    assert [round_of(status.view) >= 5 for status in statuses] == [True, True, True, False]
    trouble[0] = False
    cluster.crash(cluster.nodes[0])
    return cluster.run(60 * SECOND, until=lambda: min(len(node.ledger) for node in cluster.nodes[1:]) >= 3)


def test_who_is_many_rounds_behind_follows() -> None:
    """Not who never skips a round (mutant L9)."""
    assert after_rounds_alone()
    assert not after_rounds_alone(NoRoundSkip)


@pytest.mark.parametrize("slow", [True, False])
def test_11_timers_tenfold_apart(slow: bool) -> None:
    """With one node silent there is no quorum without the one whose timers differ."""

    def engine(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: ValidatorIndex | None) -> Engine:
        timeout_ms = spec.pacing.view_timeout_ms * 10 if slow else spec.pacing.view_timeout_ms // 10
        pacing = msgspec.structs.replace(spec.pacing, view_timeout_ms=timeout_ms)
        changed = msgspec.structs.replace(spec, pacing=pacing) if me == 1 else spec
        return TendermintEngine(spec=changed, epoch=epoch, scheme=scheme, me=me)

    cluster = new_cluster(engine=engine)
    silence(cluster, "v3")
    cluster.start()
    assert cluster.run(60 * SECOND, until=lambda: len(cluster.nodes[0].ledger) >= 20)


def test_a_gap_of_500_blocks_is_fetched() -> None:
    """Pitfall 14."""
    cluster = new_cluster()
    late = cluster.nodes[3]
    cluster.start(*cluster.nodes[:3])
    assert cluster.run(60 * SECOND, until=lambda: len(cluster.nodes[0].ledger) >= 500)
    cluster.start(late)
    assert cluster.run(10 * SECOND, until=lambda: len(late.ledger) >= 500)
    cluster.run(SECOND)
    assert len(late.ledger) >= len(cluster.nodes[0].ledger) - 2


# --- kill -9 -------------------------------------------------------------------------------------------------------


POINTS = (
    "before persist",
    "after persist",
    *(f"{when} sign {kind}" for when in ("before", "after") for kind in ("proposal", "prevote", "precommit")),
    *(f"before send {message}" for message in ("Proposal", "Vote", "Standing")),
)


@pytest.mark.parametrize("point", POINTS)
def test_1_a_crash_at_every_boundary(point: str) -> None:
    """Every node dies there again and again, and comes back; the cluster judges what it signs."""
    cluster = new_cluster(seed=len(point))
    crashes: Counter[str] = Counter()
    drop(cluster, lambda source, target, message, now: now < 3 * SECOND and cluster.random.random() < 0.1)

    def crash_point(node: Node, where: str) -> None:
        if where == point and cluster.random.random() < 0.08 and crashes[node.name] < 12:
            crashes[node.name] += 1
            life = node.life
            cluster.at(
                cluster.now + cluster.random.randint(1, 150) * MILLISECOND,
                lambda: cluster.start(node) if node.replica is None and node.life == life + 1 else None,
            )
            raise Crash

    cluster.crash_point = crash_point
    cluster.start()
    assert cluster.run(60 * SECOND, until=lambda: height(cluster) >= 40), cluster.heights()
    assert crashes.total() >= 4


def test_2_all_nodes_are_killed_in_the_middle_a_thousand_times() -> None:
    """Whatever step of whatever round they are in, the next life goes on."""
    cluster = new_cluster(seed=2)
    cluster.start()
    for _ in range(1_000):
        cluster.run(cluster.random.randint(0, 30) * MILLISECOND)
        for node in cluster.nodes:
            cluster.crash(node)
        cluster.start()
    reached = max(cluster.heights())
    assert cluster.run(10 * SECOND, until=lambda: height(cluster) >= reached + 3), cluster.heights()


def test_no_round_is_left_behind_for_want_of_votes_that_nobody_has_any_more() -> None:
    """Killed all together while messages are being lost: the votes that let the first into its round are in its
    journal, and bring the others there."""
    for seed in range(6):
        cluster = new_cluster(7, seed=seed)
        draw = random.Random(seed)
        lossy = [True]
        drop(cluster, lambda source, target, message, now: lossy[0] and draw.random() < 0.45)  # noqa: B023 - called in this round
        cluster.start()
        for _ in range(10):
            cluster.run(draw.randint(50, 600) * MILLISECOND)
            for node in cluster.nodes:
                cluster.crash(node)
            cluster.start()
        lossy[0] = False
        for node in cluster.nodes[5:]:
            cluster.crash(node)
        five = cluster.nodes[:5]
        reached = max(cluster.heights())
        assert cluster.run(30 * SECOND, until=lambda: min(len(node.ledger) for node in five) >= reached + 2), seed  # noqa: B023 - called in this round


# --- a proposer with two blocks ------------------------------------------------------------------------------------


def test_a_twin_changes_nothing_but_rounds() -> None:
    """Two processes with one key propose and vote as they like; honest nodes agree, and at least one saw it."""
    for seed in range(4):
        cluster = new_cluster(seed=seed, twins=(0,))
        cluster.start()
        assert cluster.run(30 * SECOND, until=lambda: height(cluster) >= 20), cluster.heights()  # noqa: B023 - called in this round
        assert not any(node.rejects for node in cluster.nodes if node.index != 0)


def test_an_equivocating_proposer_is_reported_and_agreement_holds() -> None:
    """v0 sends every second node another block in each of its rounds."""
    cluster = new_cluster()
    transmit = cluster._transmit

    def two_faced(node: Node, other: Node, message: msgspec.Struct) -> None:
        if isinstance(message, Proposal) and (node.index, other.index) == (0, 1):
            header = msgspec.structs.replace(message.header, timestamp_ms=message.header.timestamp_ms + 1)
            subject = ProposalSubject(epoch=0, view=message.view, block_id=digest(header))
            transmit(node, other, message)
            message = msgspec.structs.replace(message, header=header, signature=cluster.committee.sign(0, subject))
        transmit(node, other, message)

    cluster._transmit = two_faced  # type: ignore[method-assign]  # one validator with two faces
    cluster.start()
    assert cluster.run(20 * SECOND, until=lambda: height(cluster) >= 20)
    assert len(cluster.nodes[1].evidence) >= 4
    assert all(isinstance(report.first, Proposal) for report in cluster.nodes[1].evidence)
    assert not any(node.evidence for node in cluster.nodes[2:])


# --- changed bytes -------------------------------------------------------------------------------------------------


def history() -> tuple[Cluster, Heard]:
    """What v1 heard in a run with a silent proposer."""
    cluster = new_cluster()
    silence(cluster, "v2")
    cluster.start()
    heard = listen(cluster)
    for number in range(6):
        cluster.submit(b"payload %d" % number)
    cluster.run(1_200 * MILLISECOND)
    return cluster, heard


def test_6_every_changed_byte() -> None:
    cluster, heard = history()
    counts: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for index, (event, now) in enumerate(heard):
        if isinstance(event, Received):
            name = type(event.message).__name__
            taken[name] += 1
            if taken[name] == 2:
                check_message(cluster, heard[:index], event, now, counts, may_commit=True)
    assert {"Proposal", "Vote", "Standing"} <= set(taken), taken
    book = Rounds(cluster.committee)
    b = book.block(1)
    proposal = book.proposal(b, 3, book.polka(b, 0))
    led_there = [(Received(cluster.committee.peer(index), book.prevote(None, index, 3)), 0) for index in (0, 3)]
    standing = book.standing(polka=book.polka(b, 0), votes=tuple(book.prevote(None, index, 3) for index in (0, 3)))
    check_message(cluster, list(led_there), Received(cluster.committee.peer(3), proposal), 0, counts)
    check_message(cluster, [], Received(cluster.committee.peer(3), standing), 0, counts)
    assert counts["refused"] > counts["without effect"], counts


# --- broken variants -----------------------------------------------------------------------------------------------

QUICK = ("S1", "S2", "S4", "V1", "V3", "S9", "S10", "S11", "R1", "L2", "L4", "L5", "L7", "L9")
"""Found by one of the first schedules. The others (S5, V2, V4) by a long search, or by the stories of one replica."""


@pytest.mark.parametrize("row", [row for row in BROKEN if row.id in QUICK], ids=lambda row: row.id)
def test_a_broken_variant_is_noticed(row: object) -> None:
    broken = next(known for known in BROKEN if known is row)
    simulation = Simulation(scenario_path(broken.scenario), protocol=broken.definition)
    assert any(not simulation.run(seed=seed).silent for seed in range(8))


@pytest.mark.parametrize("name", ["swarm", "swarm-restarts", "swarm-healing", "swarm-actors"])
def test_and_ours_is_silent(name: str) -> None:
    simulation = Simulation(scenario_path(name), protocol=TENDERMINT)
    for seed in range(5):
        assert simulation.run(seed=seed).violations == ()
