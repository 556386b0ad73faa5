"""Every byte of every message of a small history, changed: refused by name or without effect on what was agreed."""

from __future__ import annotations

from collections import Counter

import pytest

from consensus.codec import Malformed
from consensus.engine import Commit, Event, Received, Recovered, Reject, Sign, Step
from consensus.genesis import Pacing
from consensus.replica import Replica
from consensus.types import Subject
from tests.support.chain import CHAINED_NAMES
from tests.support.cluster import MILLISECOND, Cluster
from tests.support.committee import committee

Heard = list[tuple[Event, int]]
"""What one replica was told, and when."""


def history(protocol: str) -> tuple[Cluster, Heard]:
    """What v1 heard in a run with a silent leader."""
    pacing = Pacing(view_timeout_ms=100, idle_interval_ms=50)
    cluster = Cluster(committee(4, protocol=protocol, pacing=pacing), delay_ns=(MILLISECOND, 3 * MILLISECOND))
    silence = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if source.name == "v2" else silence(source, target, message, now)
    )
    cluster.start()
    replica = cluster.nodes[1].replica
    assert replica is not None
    heard: Heard = []
    handle = replica.handle

    def listening(event: Event, now: int) -> Step:
        heard.append((event, now))
        return handle(event, now)

    replica.handle = listening  # type: ignore[method-assign]
    for number in range(6):
        cluster.submit(b"payload %d" % number)
    cluster.run(400 * MILLISECOND)
    return cluster, heard


def replay(cluster: Cluster, heard: Heard) -> Replica:
    """A replica that heard the same: the core is deterministic, so it is in the same state."""
    members = cluster.committee
    engine = cluster.definition.engine(spec=members.spec, epoch=members.epoch, scheme=members.scheme, me=1)
    replica = Replica(engine, members.spec.pacing)
    replica.start(Recovered(), 0)
    for event, now in heard:
        replica.handle(event, now)
    return replica


def signed_by(step: Step) -> set[Subject]:
    return {effect.subject for effect in step.effects if isinstance(effect, Sign)}


def commits_of(step: Step) -> set[bytes]:
    return {effect.block.id for effect in step.effects if isinstance(effect, Commit)}


def check_message(cluster: Cluster, before: Heard, event: Received, now: int, counts: Counter[str]) -> None:
    wire = cluster.definition.wire()
    frame = wire.encode(event.message)
    unchanged = replay(cluster, before).handle(event, now)
    expected, committed = signed_by(unchanged), commits_of(unchanged)
    for position in range(len(frame)):
        changed = bytearray(frame)
        changed[position] ^= 0x01
        decoded = wire.decode(bytes(changed))
        if isinstance(decoded, Malformed):
            counts["malformed"] += 1
            continue
        replica = replay(cluster, before)
        step = replica.handle(Received(event.peer, decoded), now)
        rejects = [effect for effect in step.effects if isinstance(effect, Reject)]
        assert all(reject.peer == event.peer for reject in rejects)
        counts["refused" if rejects else "without effect"] += 1
        assert commits_of(step) <= committed  # the certificate that comes with an order vote may be known already
        if not rejects:
            assert signed_by(step) <= expected
        # an unverified vote holds its own sender's place: the sender, and nobody else, may be refused later
        again = replica.handle(event, now)
        assert all(effect.peer == event.peer for effect in again.effects if isinstance(effect, Reject))


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
def test_every_changed_byte(protocol: str) -> None:
    cluster, heard = history(protocol)
    counts: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for index, (event, now) in enumerate(heard):
        if not isinstance(event, Received):
            continue
        taken[type(event.message).__name__] += 1
        if taken[type(event.message).__name__] in (2, 5):
            check_message(cluster, heard[:index], event, now, counts)
    print(f"{protocol}: {dict(counts)} of {dict(taken)}")
    assert {"Proposal", "Vote", "Timeout"} <= set(taken)
    assert counts["refused"] > counts["without effect"]
