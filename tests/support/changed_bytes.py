"""Pitfall 6 for every protocol: each byte of a message changed, heard by a replica that heard all that came before."""

from __future__ import annotations

from collections import Counter

from consensus.codec import Malformed
from consensus.engine import Commit, Event, Received, Recovered, Reject, Sign, Step
from consensus.replica import Replica
from consensus.types import Subject
from tests.support.cluster import Cluster

Heard = list[tuple[Event, int]]
"""What one replica was told, and when."""
ME = 1


def listen(cluster: Cluster) -> Heard:
    """What v1 hears from now on."""
    replica = cluster.nodes[ME].replica
    assert replica is not None
    heard: Heard = []
    handle = replica.handle

    def listening(event: Event, now: int) -> Step:
        heard.append((event, now))
        return handle(event, now)

    replica.handle = listening  # type: ignore[method-assign]  # the replica is real, and so is what it answers
    return heard


def replay(cluster: Cluster, heard: Heard) -> Replica:
    """A replica that heard the same: the core is deterministic, so it is in the same state."""
    members = cluster.committee
    replica = members.replica(cluster.definition.engine, ME)
    replica.start(Recovered(), 0)
    for event, now in heard:
        replica.handle(event, now)
    return replica


def signed_by(step: Step) -> set[Subject]:
    return {effect.subject for effect in step.effects if isinstance(effect, Sign)}


def commits_of(step: Step) -> set[bytes]:
    return {effect.block.id for effect in step.effects if isinstance(effect, Commit)}


def check_message(
    cluster: Cluster, before: Heard, event: Received, now: int, counts: Counter[str], *, may_commit: bool = False
) -> None:
    """No changed byte makes the replica sign what the message itself would not, commit (with ``may_commit``: what the
    message itself would not), or blame anybody but the sender. ``counts`` says what became of them."""
    wire = cluster.definition.wire()
    frame = wire.encode(event.message)
    unchanged = replay(cluster, before).handle(event, now)
    expected, committed = signed_by(unchanged), commits_of(unchanged) if may_commit else set()
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
        assert commits_of(step) <= committed
        if not rejects:
            assert signed_by(step) <= expected
        # an unverified vote holds its own sender's place: the sender, and nobody else, may be refused later
        again = replica.handle(event, now)
        assert all(effect.peer == event.peer for effect in again.effects if isinstance(effect, Reject))
