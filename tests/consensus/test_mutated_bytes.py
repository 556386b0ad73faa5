"""Every byte of every message of a small history, changed: refused by name or without effect on what was agreed."""

from __future__ import annotations

from collections import Counter

import pytest

from consensus.engine import Received
from consensus.genesis import Pacing
from tests.support.chain import CHAINED_NAMES
from tests.support.changed_bytes import Heard, check_message, listen
from tests.support.cluster import MILLISECOND, Cluster
from tests.support.committee import committee


def history(protocol: str) -> tuple[Cluster, Heard]:
    """What v1 heard in a run with a silent leader."""
    pacing = Pacing(view_timeout_ms=100, idle_interval_ms=50)
    cluster = Cluster(committee(4, protocol=protocol, pacing=pacing), delay_ns=(MILLISECOND, 3 * MILLISECOND))
    silence = cluster.route
    cluster.route = lambda source, target, message, now: (
        () if source.name == "v2" else silence(source, target, message, now)
    )
    cluster.start()
    heard = listen(cluster)
    for number in range(6):
        cluster.submit(b"payload %d" % number)
    cluster.run(400 * MILLISECOND)
    return cluster, heard


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
            check_message(cluster, heard[:index], event, now, counts, may_commit=True)
    print(f"{protocol}: {dict(counts)} of {dict(taken)}")
    assert {"Proposal", "Vote", "Timeout"} <= set(taken)
    assert counts["refused"] > counts["without effect"]
