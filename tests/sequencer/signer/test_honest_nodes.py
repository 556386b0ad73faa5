"""Honest nodes are never refused: under crashes, lost messages, partitions, liars and changes of validators, everything
that a replica wants signed passes the rules of the signing process, with much less memory than the real one."""

from __future__ import annotations

import hashlib
from functools import partial

import pytest

from consensus.genesis import Pacing
from consensus.protocols.registry import protocol_names
from consensus.types import Subject
from sequencer.signer import rules
from sequencer.signer.rules import Entry, Grant, History, decide
from tests.support.chaos import run_schedule
from tests.support.cluster import MILLISECOND, SECOND, Cluster, Node
from tests.support.committee import committee
from tests.support.hosts import members

KEPT_HERE = 24
SEEDS, SEEDS_SWEEP = 12, 1_000


class Signers:
    """The memory of every key. Stands before the cluster's own signing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.histories: dict[tuple[Cluster, bytes], History] = {}
        self.granted = 0
        self.repeats = 0
        original = Cluster._sign

        def sign(cluster: Cluster, node: Node, subject: Subject) -> bytes | None:
            signature = original(cluster, node, subject)
            if signature is not None and node.index not in cluster.byzantine:
                self.ask(cluster, node, subject)
            return signature

        monkeypatch.setattr(Cluster, "_sign", sign)

    def ask(self, cluster: Cluster, node: Node, subject: Subject) -> None:
        assert node.replica is not None
        assert node.replica.me is not None
        epoch = node.replica.epoch
        key = (cluster, epoch.validators.public_keys[node.replica.me])
        root = hashlib.sha256(epoch.domain.bytes_to_sign(subject)).digest()
        history = self.histories.get(key, History())
        verdict = decide(Entry(subject, root), history, cluster.definition.offences, of_protocol=True)
        assert isinstance(verdict, Grant), f"{node.name} is refused: {verdict}"
        self.histories[key] = verdict.history
        self.granted += 1
        self.repeats += verdict.repeat


@pytest.fixture
def signers(monkeypatch: pytest.MonkeyPatch) -> Signers:
    monkeypatch.setattr(rules, "SUBJECTS_KEPT", KEPT_HERE)
    return Signers(monkeypatch)


@pytest.mark.parametrize("protocol", protocol_names())
def test_in_trouble(protocol: str, signers: Signers) -> None:
    for seed in range(SEEDS):
        run_schedule(seed, protocol)
    assert signers.granted > 1000
    assert signers.repeats, "no schedule had a restart"
    assert any(history.floor is not None for history in signers.histories.values()), "nothing was forgotten"


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", protocol_names())
def test_in_much_trouble(protocol: str, signers: Signers) -> None:
    for seed in range(SEEDS, SEEDS_SWEEP):
        run_schedule(seed, protocol)


@pytest.mark.parametrize("protocol", protocol_names())
def test_when_validators_change(protocol: str, signers: Signers) -> None:
    chain = committee(4, protocol=protocol, pacing=Pacing(view_timeout_ms=200, idle_interval_ms=50))
    sets = {
        8: members(chain.scheme, 0, 1, 2, 3, 4, rotated=(1,)),
        20: members(chain.scheme, 0, 2, 3, 4, 5, 6),
        32: members(chain.scheme, 4, 5, 6, 7),
    }
    cluster = Cluster(chain, hosts=8, sets=sets)
    cluster.start()
    for number in range(60):
        cluster.at(number * 10 * MILLISECOND, partial(cluster.submit, b"payload %d" % number))
    assert cluster.run(60 * SECOND, until=lambda: cluster.reached(44))
    assert signers.granted > 100
