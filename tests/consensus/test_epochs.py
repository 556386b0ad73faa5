"""Whole clusters from epoch to epoch: hosts join and leave, crash, are cut off, and lie, at the boundary above all.

The cluster itself asserts that all ledgers hold one chain without gaps, that each block is of the epoch that its height
belongs to, and that no key signs twice in one slot. A test's own claim is that the chain goes on, and who drives it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import msgspec
import pytest

from consensus.genesis import Pacing
from consensus.protocols.registry import protocol_names
from consensus.types import RangeRequest, RangeResponse, Slot, StoredBlock
from consensus.validators import ValidatorSet
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Crash, Node
from tests.support.committee import committee
from tests.support.hosts import members

PACING = Pacing(view_timeout_ms=200, idle_interval_ms=50)
TIMEOUT = PACING.view_timeout_ms * MILLISECOND
PROTOCOLS = protocol_names()
Sets = dict[int, Sequence[int]]
replace = msgspec.structs.replace


def new_cluster(
    protocol: str,
    sets: Sets,
    *,
    hosts: int = 8,
    seed: int = 0,
    twins: Sequence[int] = (),
    stakes: tuple[int, ...] | None = None,
    others: dict[int, ValidatorSet] | None = None,
) -> Cluster:
    """Hosts 0 to 3 begin. ``sets`` has the hosts that follow after the block at a height; ``others`` the same for sets
    that are not just hosts of stake 1."""
    members_of = committee(4, protocol=protocol, pacing=PACING, stakes=stakes)
    following = {height: members(members_of.scheme, *numbers) for height, numbers in sets.items()}
    return Cluster(members_of, seed=seed, hosts=hosts, twins=twins, sets=following | (others or {}))


def load(cluster: Cluster, payloads: int, every_ns: int = 10 * MILLISECOND) -> None:
    """Everybody is given one payload after the other."""
    for number in range(payloads):
        cluster.at(cluster.now + number * every_ns, partial(cluster.submit, b"payload %d" % number))


def all_committed(cluster: Cluster, height: int, payloads: int) -> Callable[[], bool]:
    """Every running node holds that height and every payload."""
    return lambda: (
        len(cluster.chain) >= height
        and not any(node.pool or len(node.ledger) < height for node in cluster.nodes if node.replica is not None)
        and cluster.now > payloads * 10 * MILLISECOND
    )


def epochs(cluster: Cluster) -> set[int]:
    """The epochs in which running nodes are."""
    return {node.replica.epoch.epoch for node in cluster.nodes if node.replica is not None}


def longest_pause_ns(cluster: Cluster, from_height: int, to_height: int) -> int:
    """Between the first commits of two heights in a row."""
    times = [cluster.committed_ns[height] for height in range(from_height, to_height + 1)]
    return max(later - earlier for earlier, later in pairwise(times))


GROW_AND_SHRINK: Sets = {8: (0, 1, 2, 3, 4), 20: (0, 1, 2, 3, 4, 5, 6), 32: (4, 5, 6, 7)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_four_become_five_seven_and_four_others_under_load(protocol: str) -> None:
    cluster = new_cluster(protocol, GROW_AND_SHRINK)
    load(cluster, 60)
    cluster.start()
    assert cluster.run(60 * SECOND, until=all_committed(cluster, 45, 60)), (protocol, cluster.heights())
    assert epochs(cluster) == {3}
    assert longest_pause_ns(cluster, 4, 45) <= 2 * TIMEOUT
    assert not any(node.rejects or node.evidence for node in cluster.nodes)


# --- partitions at the boundary --------------------------------------------------------------------------------------


def cut(cluster: Cluster, *hosts: int) -> Callable[[], None]:
    """Nothing goes between those hosts and all others until the answer is called."""
    route = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if (source.index in hosts) != (target.index in hosts) else route(source, target, message, now)
    )

    def heal() -> None:
        cluster.route = route

    return heal


def hears_first(cluster: Cluster, host: int) -> None:
    """Messages to that host are far quicker than all others."""
    cluster.route = lambda source, target, message, now: (
        (10_000,) if target.index == host else (cluster.random.randint(4, 5) * MILLISECOND,)
    )


def has(cluster: Cluster, host: int, height: int) -> Callable[[], bool]:
    return lambda: len(cluster.nodes[host].ledger) >= height


def anybody_has(cluster: Cluster, height: int) -> Callable[[], bool]:
    return lambda: max(cluster.heights()) >= height


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("apart", [(0,), (0, 1), (0, 1, 2, 3), (0, 4), (4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("before", [0, 1])
def test_a_partition_exactly_at_the_boundary(protocol: str, apart: tuple[int, ...], before: int) -> None:
    """Two of four leave and two join; the cut falls as the first node commits the boundary, or the block before it."""
    for seed in range(3):
        cluster = new_cluster(protocol, {6: (2, 3, 4, 5)}, hosts=6, seed=seed)
        load(cluster, 12)
        cluster.start()
        assert cluster.run(20 * SECOND, until=anybody_has(cluster, 6 - before))
        heal = cut(cluster, *apart)
        cluster.run(3 * SECOND)
        heal()
        assert cluster.run(60 * SECOND, until=all_committed(cluster, 12, 12)), (seed, cluster.heights())
        assert epochs(cluster) == {1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_left_of_the_old_set_commits_nothing_above_the_boundary(protocol: str) -> None:
    """Host 3 hears all sooner than the rest and commits the boundary first; then it is cut off together with those that
    join. On both sides is a quorum: of the old set, which does not know that its epoch is over, and of the new one."""
    cluster = new_cluster(protocol, {6: (3, 4, 5, 6)}, hosts=7)
    hears_first(cluster, 3)
    load(cluster, 40)
    cluster.start()
    assert cluster.run(20 * SECOND, until=has(cluster, 3, 6))
    assert max(len(node.ledger) for node in cluster.nodes[:3]) < 6
    heal = cut(cluster, 0, 1, 2)
    assert cluster.run(20 * SECOND, until=lambda: min(len(node.ledger) for node in cluster.nodes[3:]) >= 12)
    cluster.run(2 * SECOND)
    assert max(len(node.ledger) for node in cluster.nodes[:3]) <= 6
    heal()
    assert cluster.run(60 * SECOND, until=all_committed(cluster, 20, 40)), cluster.heights()
    assert epochs(cluster) == {1}


# --- hosts that come and go ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_joiner_that_starts_at_genesis_walks_over_the_epochs_and_votes(protocol: str) -> None:
    """Host 6 comes when the others are three epochs on, in the last of which it is a validator. Then host 3 dies for
    good: nothing commits without the joiner's votes."""
    sets: Sets = {4: (0, 1, 2, 4), 8: (0, 1, 3, 5), 12: (0, 1, 3, 6)}
    cluster = new_cluster(protocol, sets, hosts=7)
    load(cluster, 40)
    joiner = cluster.nodes[6]
    cluster.start(*cluster.nodes[:6])
    assert cluster.run(60 * SECOND, until=anybody_has(cluster, 30))
    cluster.start(joiner)
    assert cluster.run(20 * SECOND, until=lambda: len(joiner.ledger) >= 28), len(joiner.ledger)
    cluster.crash(cluster.nodes[3])
    height = max(cluster.heights())
    for number in range(4):
        cluster.submit(b"late payload %d" % number, *(node for node in cluster.nodes if node.index != 3))
    assert cluster.run(60 * SECOND, until=lambda: min(len(cluster.nodes[k].ledger) for k in (0, 1, 6)) > height + 4)
    assert not any(node.rejects for node in cluster.nodes)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_joiner_that_equivocates_at_once(protocol: str) -> None:
    """Host 4 joins as two, which have different payloads to propose: both sign with its key from the first view on."""
    cluster = new_cluster(protocol, {5: (0, 1, 2, 3, 4)}, hosts=5, twins=(4,))
    honest, twin = cluster.nodes[:4], cluster.nodes[5]
    for number in range(10):
        cluster.submit(b"payload of the twin %d" % number, twin)
    load(cluster, 40)
    cluster.start()
    assert cluster.run(60 * SECOND, until=lambda: all(len(node.ledger) >= 25 and not node.pool for node in honest))
    assert not any(node.rejects for node in honest)
    statements = [cluster.definition.statement(report.first) for node in honest for report in node.evidence]
    assert {statement.signer for statement in statements if statement is not None} == {4}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("leaver", [0, 1, 2, 3])
def test_a_leaver_that_leaves_before_others_have_the_boundary(protocol: str, leaver: int) -> None:
    """It dies for good when it has committed the boundary, after which it is no validator any more."""
    following = tuple(host for host in range(5) if host != leaver)
    for seed in range(3):
        cluster = new_cluster(protocol, {6: following}, hosts=5, seed=seed)
        hears_first(cluster, leaver)
        load(cluster, 12)
        cluster.start()
        assert cluster.run(20 * SECOND, until=has(cluster, leaver, 6))
        cluster.crash(cluster.nodes[leaver])
        assert cluster.run(60 * SECOND, until=all_committed(cluster, 12, 12)), (seed, cluster.heights())
        assert epochs(cluster) == {1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_leave_when_the_next_set_has_the_boundary(protocol: str) -> None:
    cluster = new_cluster(protocol, {6: (4, 5, 6, 7)})
    load(cluster, 20)
    cluster.start()
    old, new = cluster.nodes[:4], cluster.nodes[4:]
    assert cluster.run(20 * SECOND, until=lambda: sum(len(node.ledger) >= 6 for node in new) >= 3)
    for node in old:
        cluster.crash(node)
    assert cluster.run(60 * SECOND, until=all_committed(cluster, 20, 20)), cluster.heights()


# --- stakes and keys -------------------------------------------------------------------------------------------------

STEADY = Pacing(view_timeout_ms=200, idle_interval_ms=50, views_per_leader=6)
"""Each leader lasts long enough for a commit of its own, in every protocol."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("stakes", "goes_on"), [((4, 3, 2, 1), True), ((4, 3, 2, 2), False)])
def test_stakes_moved_just_over_and_under_the_quorum(protocol: str, stakes: tuple[int, ...], goes_on: bool) -> None:
    """Hosts 0 and 1 hold 7 of 10, exactly a quorum; or 7 of 11, one less. The others die when the change is done."""
    first = committee(4, protocol=protocol, pacing=STEADY)
    cluster = Cluster(first, sets={5: members(first.scheme, 0, 1, 2, 3, stakes=stakes)})
    load(cluster, 10)
    cluster.start()
    assert cluster.run(60 * SECOND, until=lambda: epochs(cluster) == {1})
    for node in cluster.nodes[2:]:
        cluster.crash(node)
    height = max(cluster.heights())
    cluster.submit(b"late payload", *cluster.nodes[:2])
    cluster.run(30 * SECOND, until=lambda: min(cluster.heights()[:2]) > height + 3)
    assert (min(cluster.heights()[:2]) > height + 3) == goes_on
    if not goes_on:
        cluster.start(cluster.nodes[2])
        assert cluster.run(60 * SECOND, until=lambda: min(cluster.heights()[:2]) > height + 3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_key_is_rotated_in_the_middle_of_views(protocol: str) -> None:
    """The same host, by another key: three of the four, one after the other, under load."""
    first = committee(4, protocol=protocol, pacing=PACING)
    sets = {
        height: members(first.scheme, 0, 1, 2, 3, rotated=rotated)
        for height, rotated in ((5, (1,)), (9, (1, 2)), (13, (1, 2, 3)))
    }
    cluster = Cluster(first, sets=sets)
    load(cluster, 25)
    cluster.start()
    assert cluster.run(60 * SECOND, until=all_committed(cluster, 20, 25)), cluster.heights()
    assert epochs(cluster) == {3}
    for node in cluster.nodes:
        assert node.index is not None
        old, new = node.keys
        signed_in = {
            key: {slot.epoch for public, _, slot in cluster.signed if public == key and isinstance(slot, Slot)}
            for key in (old, new)
        }
        assert signed_in[new] == (set(range(node.index, 4)) if node.index else set())
        assert signed_in[old] == set(range(4)) - signed_in[new]
    assert not any(node.rejects for node in cluster.nodes)


# --- crashes around the change ---------------------------------------------------------------------------------------


def crashing_cluster(protocol: str, seed: int = 0) -> Cluster:
    """The epoch ends at height 3: host 0 leaves, host 4 joins. What is counted as a boundary of storing, signing and
    sending begins when somebody holds height 2."""
    cluster = new_cluster(protocol, {3: (1, 2, 3, 4)}, hosts=5, seed=seed)
    load(cluster, 8)
    return cluster


def crash_at(cluster: Cluster, boundary: int, victims: Sequence[Node], passing: Sequence[Node]) -> list[str]:
    """Kill ``victims`` at the boundary of that number which one of ``passing`` passes; they come back some time
    later."""
    killed: list[str] = []
    passed = 0

    def crash_point(node: Node, where: str) -> None:
        nonlocal passed
        if node not in passing or max(cluster.heights()) < 2 or min(cluster.heights()) >= 5:
            return
        passed += 1
        if passed != boundary:
            return
        killed.append(where)
        for victim in victims:
            if victim is not node:
                cluster.crash(victim)
            cluster.at(cluster.now + cluster.random.randint(1, 40) * MILLISECOND, partial(cluster.start, victim))
        if node in victims:
            raise Crash

    cluster.crash_point = crash_point
    return killed


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("victim", [0, 1, 4])
def test_a_host_dies_at_every_boundary_around_the_change(protocol: str, victim: int) -> None:
    """One that leaves, one that stays, one that joins."""
    seen: dict[str, int] = {}
    boundary = 0
    while True:
        boundary += 1
        cluster = crashing_cluster(protocol)
        victims = [cluster.nodes[victim]]
        killed = crash_at(cluster, boundary, victims, victims)
        cluster.start()
        assert cluster.run(60 * SECOND, until=all_committed(cluster, 8, 8)), (boundary, killed, cluster.heights())
        assert epochs(cluster) == {1}
        if not killed:
            break
        seen[killed[0]] = seen.get(killed[0], 0) + 1
    print(f"{protocol}: {boundary - 1} boundaries: {seen}")
    assert "before end epoch" in seen
    assert "after persist EpochRecord" in seen


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_any_of_the_hosts_die_at_any_boundary_around_the_change(protocol: str) -> None:
    happened = 0
    for seed in range(60):
        cluster = crashing_cluster(protocol, seed)
        draw = random.Random(seed)
        victims = draw.sample(cluster.nodes, draw.randint(1, 5))
        killed = crash_at(cluster, draw.randint(1, 150), victims, cluster.nodes)
        cluster.start()
        assert cluster.run(60 * SECOND, until=all_committed(cluster, 8, 8)), (seed, killed, cluster.heights())
        assert epochs(cluster) == {1}
        happened += len(killed)
    assert happened >= 50


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_die_between_two_epochs(protocol: str) -> None:
    """The boundary is committed everywhere, and the payload source is still at it: whoever comes back ends the epoch
    again."""
    cluster = crashing_cluster(protocol)
    cluster.handover_ns = SECOND
    cluster.start()
    assert cluster.run(20 * SECOND, until=partial(cluster.reached, 3))
    for node in cluster.nodes:
        cluster.crash(node)
    cluster.start()
    assert epochs(cluster) == {0}
    assert cluster.run(60 * SECOND, until=all_committed(cluster, 8, 8)), cluster.heights()
    assert epochs(cluster) == {1}


# --- peers that lie about epochs -------------------------------------------------------------------------------------


def lies(cluster: Cluster, told: Callable[[Node, Node, msgspec.Struct], msgspec.Struct]) -> None:
    """What some nodes send is changed on its way, as if they had sent it."""
    transmit = cluster._transmit
    cluster._transmit = lambda node, other, message: transmit(  # type: ignore[method-assign]  # the network loses what the test says
        node, other, told(node, other, message)
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("lie", ["nothing", "other epoch", "beyond", "no proof", "far ahead"])
def test_a_joiner_gets_past_peers_that_lie(protocol: str, lie: str) -> None:
    """Hosts 0 and 1, who have left, lie to a joiner that starts at genesis. It may cost time; it is named where it can
    be told."""
    sets: Sets = {4: (2, 3, 4, 5), 8: (2, 3, 4, 6)}
    cluster = new_cluster(protocol, sets, hosts=7)
    joiner = cluster.nodes[6]

    def told(node: Node, other: Node, message: msgspec.Struct) -> msgspec.Struct:
        if other is not joiner or node.index not in (0, 1):
            return message
        if lie == "far ahead":
            return RangeRequest(epoch=10**9, request_id=1, from_height=1)
        if not isinstance(message, RangeResponse):
            return message
        if lie == "nothing":
            return replace(message, blocks=(), proof=None)
        if lie == "no proof":
            return replace(message, proof=None)
        if lie == "other epoch":
            return replace(message, blocks=tuple(_with_epoch(stored, 7) for stored in message.blocks))
        beyond = [node.journal.blocks[block_id] for block_id, _ in node.journal.commits.values()]
        return replace(message, blocks=tuple(beyond[message.blocks[0].header.height - 1 : 9]))

    lies(cluster, told)
    load(cluster, 25)
    cluster.start(*cluster.nodes[:6])
    assert cluster.run(60 * SECOND, until=lambda: min(cluster.heights()[:6]) >= 20)
    cluster.start(joiner)
    assert cluster.run(60 * SECOND, until=lambda: len(joiner.ledger) >= 20), len(joiner.ledger)
    blamed = {reject.peer for reject in joiner.rejects}
    assert blamed <= {cluster.nodes[0].peer, cluster.nodes[1].peer}
    assert not any(node.rejects for node in cluster.nodes[:6])


def _with_epoch(stored: StoredBlock, epoch: int) -> StoredBlock:
    return replace(stored, header=replace(stored.header, epoch=epoch))


def test_a_range_of_another_epoch_names_the_peer_that_gave_it() -> None:
    """The same, but the liars are all that the joiner can ask; then one of them tells the truth."""
    cluster = new_cluster("jolteon", {4: (1, 2, 3, 4)}, hosts=6)
    joiner, honest = cluster.nodes[5], cluster.nodes[:5]
    lying = True

    def told(node: Node, other: Node, message: msgspec.Struct) -> msgspec.Struct:
        if lying and other is joiner and isinstance(message, RangeResponse):
            return replace(message, blocks=tuple(_with_epoch(stored, 1) for stored in message.blocks))
        return message

    lies(cluster, told)
    load(cluster, 15)
    cluster.start(*honest)
    assert cluster.run(60 * SECOND, until=lambda: min(cluster.heights()[:5]) >= 12)
    cluster.start(joiner)
    cluster.run(3 * SECOND)
    assert len(joiner.ledger) == 0
    assert {reject.peer for reject in joiner.rejects} == {node.peer for node in honest}
    assert {reject.reason for reject in joiner.rejects} == {"sync: a block of another epoch than 0"}
    lying = False
    cluster.submit(b"late payload")
    assert cluster.run(60 * SECOND, until=lambda: len(joiner.ledger) >= 12)


# --- all at once -----------------------------------------------------------------------------------------------------


def turmoil(protocol: str, seed: int) -> Cluster:
    """Four changes to sets drawn from the seed, among eight hosts; for three seconds messages get lost, hosts are cut
    off and killed. In the end everybody is back."""
    draw = random.Random(seed)
    sets: Sets = {height: draw.sample(range(8), draw.randint(3, 6)) for height in (3, 6, 10, 15)}
    cluster = new_cluster(protocol, sets, seed=seed)
    calm = cluster.route
    loss = draw.choice((0.0, 0.05, 0.2))

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> Sequence[int]:
        apart = (now // (400 * MILLISECOND) + seed) % 3 == 0 and (source.index or 0) % 3 != (target.index or 0) % 3
        lost = now < 3 * SECOND and (apart or cluster.random.random() < loss)
        return () if lost else calm(source, target, message, now)

    cluster.route = route
    for _ in range(draw.randint(0, 12)):
        victim, at = draw.choice(cluster.nodes), draw.randint(0, 3 * SECOND)
        cluster.at(at, partial(cluster.crash, victim))
        cluster.at(at + draw.randint(1, 300) * MILLISECOND, partial(_come_back, cluster, victim))
    load(cluster, 25, 100 * MILLISECOND)
    cluster.start()
    cluster.run(4 * SECOND)
    return cluster


def _come_back(cluster: Cluster, node: Node) -> None:
    if node.replica is None:
        cluster.start(node)


def check_turmoil(protocol: str, seeds: range) -> None:
    for seed in seeds:
        cluster = turmoil(protocol, seed)
        assert cluster.run(180 * SECOND, until=all_committed(cluster, 18, 0)), (seed, cluster.heights())
        assert not any(node.rejects or node.evidence for node in cluster.nodes), seed
        assert epochs(cluster) == {4}, seed


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_epochs_in_turmoil(protocol: str) -> None:
    check_turmoil(protocol, range(10))


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_epochs_in_turmoil_five_hundred_times(protocol: str) -> None:
    check_turmoil(protocol, range(10, 510))
