"""Prometheus metrics, in a registry of their own: counters of the API, and the node's status read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from sequencer.api.node_view import NodeStatus, NodeView

SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ApiMetrics:
    """What the API counts. ``route`` is a route's name, never a path: labels are bounded."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "sequencer_api_requests", "Requests answered", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "sequencer_api_request_seconds",
            "Time to the answer",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=self._registry,
        )
        self._transactions = Counter(
            "sequencer_api_transactions", "Transactions submitted", ["outcome"], registry=self._registry
        )
        self.streams = Gauge("sequencer_api_streams", "Followers of the rollups' streams", registry=self._registry)
        self.taken = self._transactions.labels("taken")
        self.refused = self._transactions.labels("refused")

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request is answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def render(self, node: NodeView) -> tuple[str, bytes]:
        """Content type and text of one scrape."""
        scrape = CollectorRegistry()
        scrape.register(_NodeCollector(node.status()))
        return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry) + generate_latest(scrape)


class _NodeCollector(Collector):
    """One status as metric families."""

    def __init__(self, status: NodeStatus) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        yield from _consensus_families(self._status)
        yield from _mempool_families(self._status)
        yield from _adapter_families(self._status)
        yield from _peer_families(self._status)
        yield from _signer_families(self._status)


def _consensus_families(status: NodeStatus) -> Iterator[Metric]:
    consensus = status.consensus
    yield GaugeMetricFamily("sequencer_epoch", "Epoch", value=consensus.epoch)
    yield GaugeMetricFamily(
        "sequencer_epoch_began_after_height", "The block that ended the epoch before", status.validators.began_after
    )
    validators = status.validators.validators
    yield GaugeMetricFamily("sequencer_validators", "Validators of the epoch", value=len(validators))
    stake = sum(listed.validator.stake for listed in validators)
    yield GaugeMetricFamily("sequencer_validators_stake", "Stake of the epoch's validators", value=stake)
    pending = len(status.validators.pending)
    yield GaugeMetricFamily("sequencer_validator_changes_pending", "Ordered changes that wait", value=pending)
    votes = float(status.role == "validator")
    yield GaugeMetricFamily("sequencer_validator", "1 when this node votes in the epoch", value=votes)
    yield GaugeMetricFamily("sequencer_view", "View", value=consensus.view)
    yield GaugeMetricFamily("sequencer_committed_height", "Last committed height", value=consensus.committed_height)
    yield GaugeMetricFamily(
        "sequencer_seen_height", "Highest height that a verified certificate named", value=consensus.seen_height
    )
    yield GaugeMetricFamily("sequencer_ledger_height", "Last height that clients see", value=status.ledger_height)
    yield GaugeMetricFamily("sequencer_final_height", "Last height that is final", value=status.final_height)
    yield GaugeMetricFamily("sequencer_pruned_below", "Lowest height that is kept", value=status.archive_from)
    yield CounterMetricFamily("sequencer_evidence", "Proofs of guilt that this node holds", value=status.evidence)
    yield CounterMetricFamily("sequencer_view_timeouts", "Views that ended by timeout", value=consensus.timeouts)


def _mempool_families(status: NodeStatus) -> Iterator[Metric]:
    count = GaugeMetricFamily("sequencer_mempool_transactions", "Pending transactions", labels=["rollup"])
    size = GaugeMetricFamily("sequencer_mempool_bytes", "Pending bytes", labels=["rollup"])
    for rollup_id, transactions, size_bytes in status.mempool:
        count.add_metric([str(rollup_id)], transactions)
        size.add_metric([str(rollup_id)], size_bytes)
    yield from (count, size)


def _adapter_families(status: NodeStatus) -> Iterator[Metric]:
    labels = ["rollup", "adapter"]
    alive = GaugeMetricFamily("sequencer_adapter_alive", "1 when the adapter answers", labels=labels)
    restarts = CounterMetricFamily("sequencer_adapter_restarts", "Restarts of the adapter", labels=labels)
    delivered = GaugeMetricFamily("sequencer_adapter_delivered_height", "Last delivered height", labels=labels)
    for each in status.adapters:
        names = [str(each.rollup_id), each.adapter]
        alive.add_metric(names, float(each.alive))
        restarts.add_metric(names, each.restarts)
        delivered.add_metric(names, each.delivered.height)
    yield from (alive, restarts, delivered)


def _signer_families(status: NodeStatus) -> Iterator[Metric]:
    signer = status.signer
    if signer is not None:
        connected = float(signer.connected)
        yield GaugeMetricFamily("sequencer_signer_connected", "1 when the signing process is there", value=connected)
        yield GaugeMetricFamily("sequencer_signer_pending", "Signatures that wait", value=signer.pending)
        yield CounterMetricFamily("sequencer_signer_signatures", "Signatures received", value=signer.signatures)


def _peer_families(status: NodeStatus) -> Iterator[Metric]:
    transport = status.transport
    yield CounterMetricFamily(
        "sequencer_connections_refused", "Connections without an accepted hello", transport.refused
    )
    connected = GaugeMetricFamily("sequencer_peer_connected", "1 when connected", labels=["peer", "role"])
    totals = [
        CounterMetricFamily(f"sequencer_peer_{name}", help_text, labels=["peer", "role"])
        for name, help_text in (
            ("bytes_in", "Bytes of frames received"),
            ("bytes_out", "Bytes of frames sent"),
            ("drops_in", "Frames dropped at a full inbox"),
            ("drops_out", "Frames dropped from a full queue"),
            ("rejects", "Frames refused"),
        )
    ]
    round_trip = GaugeMetricFamily("sequencer_peer_round_trip_seconds", "Smoothed", labels=["peer", "role"])
    for peer in transport.peers:
        names = [peer.peer.hex()[:16], peer.role]
        connected.add_metric(names, float(peer.connected))
        values = (peer.bytes_in, peer.bytes_out, peer.drops_in, peer.drops_out, peer.rejects)
        for family, value in zip(totals, values, strict=True):
            family.add_metric(names, value)
        if peer.round_trip_ns is not None:
            round_trip.add_metric(names, peer.round_trip_ns / 1e9)
    yield from (connected, *totals, round_trip)
