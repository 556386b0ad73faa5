"""Links, partitions, bandwidth, streams and disks by themselves."""

from __future__ import annotations

import random
from statistics import mean

import msgspec
import pytest

from consensus.engine import CommitRecord, SafetyRecord
from consensus.types import NIL_BLOCK, Vote
from netsim.geography import REGIONS, one_way_ms
from netsim.journal import DiskFull, Journal
from netsim.network import MILLISECOND, DropRule, Flow, Network, sampler
from netsim.randomness import stream
from netsim.schedule import (
    Constant,
    Drop,
    Empirical,
    Exponential,
    Latency,
    Link,
    LinkOverride,
    Normal,
    Schedule,
    Uniform,
)

VOTE = Vote(
    kind="vote", epoch=0, view=3, block_id=b"b" * 32, height=1, justify_view=0, signer=0, signature=b""
)  # fmt: skip


def delays(network: Network, source: int, target: int, message: msgspec.Struct = VOTE, now: int = 0) -> list[int]:
    return list(network.delays(source, target, message, now))


@pytest.mark.parametrize(
    ("latency", "low_ms", "high_ms", "mean_ms"),
    [
        (Constant(ms=7), 7, 7, 7),
        (Uniform(low_ms=2, high_ms=10), 2, 10, 6),
        (Normal(mean_ms=50, deviation_ms=5, least_ms=30), 30, 80, 50),
        (Exponential(mean_ms=10, least_ms=1), 1, 200, 11),
        (Empirical(table_ms=(1, 2, 9)), 1, 9, 4),
    ],
)
def test_a_sampler_keeps_its_bounds_and_its_mean(latency: Latency, low_ms: int, high_ms: int, mean_ms: int) -> None:
    draw = sampler(latency, random.Random(1))
    drawn = [draw() / MILLISECOND for _ in range(4000)]
    assert low_ms <= min(drawn)
    assert max(drawn) <= high_ms
    assert mean(drawn) == pytest.approx(mean_ms, rel=0.1)


def test_loss_and_duplication_happen_as_often_as_asked() -> None:
    network = Network(Schedule(link=Link(latency=Constant(ms=1), loss=0.3, duplication=0.2)))
    copies = [len(delays(network, 0, 1)) for _ in range(4000)]
    assert copies.count(0) / 4000 == pytest.approx(0.3, abs=0.04)
    assert copies.count(2) / 4000 == pytest.approx(0.7 * 0.2, abs=0.03)


def test_streams_of_different_concerns_do_not_touch() -> None:
    quiet = Network(Schedule(link=Link(latency=Uniform(low_ms=1, high_ms=9), duplication=1.0)))
    lossy = Network(Schedule(link=Link(latency=Uniform(low_ms=1, high_ms=9), duplication=1.0, reorder=0.0001)))
    assert [delays(quiet, 0, 1) for _ in range(20)] == [delays(lossy, 0, 1) for _ in range(20)]
    assert stream(1, "loss").random() != stream(1, "latency").random()


def test_partitions_cuts_clogs_and_healing() -> None:
    network = Network(Schedule(link=Link(latency=Constant(ms=1))))
    assert network.plain
    network.partition(((0, 1), (2,)))
    assert delays(network, 0, 1) == [MILLISECOND]
    assert delays(network, 0, 2) == []
    assert delays(network, 3, 0) == []
    network.partition(None)
    network.cut(((0, 1),), 1)
    assert delays(network, 0, 1) == []
    assert delays(network, 1, 0) == [MILLISECOND]
    network.clog(((1, 0),), 5 * MILLISECOND)
    assert delays(network, 1, 0) == [6 * MILLISECOND]
    network.hold(((2, 3),), 1)
    assert network.holds(2, 3)
    assert not network.holds(3, 2)
    network.heal()
    assert network.plain
    assert delays(network, 0, 1) == [MILLISECOND]


def test_a_link_of_its_own_stands_above_the_regions() -> None:
    own = LinkOverride(source=0, target=1, link=Link(latency=Constant(ms=3)))
    network = Network(Schedule(nodes=2, regions=("us-east-1", "sa-east-1"), links=(own,)))
    assert delays(network, 0, 1) == [3 * MILLISECOND]
    assert delays(network, 1, 0)[0] > 40 * MILLISECOND


def test_messages_of_one_view_are_dropped_or_parted() -> None:
    network = Network(Schedule(link=Link(latency=Constant(ms=1))))
    network.drops[3] = [DropRule(Drop(view=3, message="Vote", source=0, to=(1,), times=2))]
    assert delays(network, 0, 1) == []
    assert delays(network, 0, 1) == []
    assert delays(network, 0, 1) == [MILLISECOND], "the third gets through"
    network.drops[3] = [DropRule(Drop(view=3, message="Vote", source=0, to=(1,)))]
    assert [delays(network, 0, 1) for _ in range(9)] == [[]] * 9
    nil = msgspec.structs.replace(VOTE, block_id=NIL_BLOCK)
    assert delays(network, 0, 1, nil) == [MILLISECOND], "it goes as a timeout"
    assert delays(network, 0, 2) == [MILLISECOND]
    assert delays(network, 0, 1, msgspec.structs.replace(VOTE, view=4)) == [MILLISECOND]
    network.view_groups[4] = (frozenset({0, 1}), frozenset({1, 2}))
    later = msgspec.structs.replace(VOTE, view=4)
    assert delays(network, 0, 2, later) == []
    assert delays(network, 1, 2, later) == [MILLISECOND]


def test_bandwidth_is_shared_by_busy_flows() -> None:
    flow = Flow(8.0)  # one byte per microsecond
    alone = flow.carry(1, 1000, 0)
    assert alone == MILLISECOND
    assert flow.carry(2, 1000, 0) == 2 * MILLISECOND
    assert flow.carry(1, 1000, 0) == 3 * MILLISECOND  # behind its own first message, at half the rate
    assert flow.carry(3, 1000, 10 * MILLISECOND) == 11 * MILLISECOND  # the others are done


def test_an_override_concerns_one_direction() -> None:
    network = Network(
        Schedule(
            link=Link(latency=Constant(ms=1)),
            links=(LinkOverride(source=0, target=1, link=Link(latency=Constant(ms=9))),),
        )
    )
    assert delays(network, 0, 1) == [9 * MILLISECOND]
    assert delays(network, 1, 0) == [MILLISECOND]


def test_the_geographic_table_is_complete() -> None:
    assert all(one_way_ms(here, there) > 0 for here in REGIONS for there in REGIONS)
    assert one_way_ms("us-east-1", "eu-west-1") == pytest.approx(70.45 / 2)
    with pytest.raises(ValueError, match="moon"):
        one_way_ms("moon", "us-east-1")


def record(kind: str, text: bytes) -> SafetyRecord:
    return SafetyRecord(kind=kind, subject=text, state=b"")


def test_disks_lose_what_they_should() -> None:
    journal = Journal()
    journal.append([record("vote", b"1")])
    journal.lose_from_now()
    journal.append([record("vote", b"2"), CommitRecord(1, bytes(32), None)])
    assert journal.head == 1
    journal.crashed()
    assert journal.safety["vote"].subject == b"1"
    assert (journal.head, journal.commits) == (0, {})
    journal.torn = True
    journal.interrupted([record("vote", b"3"), record("timeout", b"4")])
    assert (journal.safety["vote"].subject, "timeout" in journal.safety) == (b"3", False)
    journal.full = True
    with pytest.raises(DiskFull):
        journal.append([record("vote", b"5")])
