"""Four replicas in memory: they decide, alone and together."""

from __future__ import annotations

import pytest

from tests.support.chain import CHAINED_NAMES
from tests.support.cluster import SECOND, Cluster
from tests.support.committee import committee


@pytest.mark.parametrize("protocol", CHAINED_NAMES)
@pytest.mark.parametrize("scheme", ["simulated", "ed25519", "bls"])
def test_four_replicas_decide(protocol: str, scheme: str) -> None:
    cluster = Cluster(committee(4, protocol=protocol, scheme=scheme), through_codec=True)
    cluster.start()
    for number in range(5):
        cluster.submit(f"payload {number}".encode())
    assert cluster.run(5 * SECOND, until=cluster.drained)
    assert all(node.timeouts_fired == 0 and not node.rejects for node in cluster.nodes)
