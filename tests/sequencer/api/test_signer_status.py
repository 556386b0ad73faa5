"""What a node says of the signing process that holds its keys."""

from __future__ import annotations

from dataclasses import replace

from sequencer.api.metrics import ApiMetrics
from sequencer.api.status_document import status_document, unready_reasons
from sequencer.signer.remote import SignerState
from tests.sequencer.api.fake_node import FakeNode

AWAY = SignerState(
    connected=False, pending=2, connections=1, signatures=7, last_reason="the peer closed the connection",
    withheld="", round_trip_ns=None,
)  # fmt: skip

THERE = SignerState(
    connected=True, pending=0, connections=2, signatures=9, last_reason="", withheld="", round_trip_ns=300_000
)


def test_a_node_without_one_says_so() -> None:
    node = FakeNode()
    assert status_document(node)["signer"] is None
    assert b"sequencer_signer" not in ApiMetrics().render(node)[1]


def test_a_node_whose_signer_is_away_is_not_ready_and_says_why() -> None:
    node = FakeNode()
    node.signer = AWAY
    document = status_document(node)
    assert document["signer"] == {
        "connected": False,
        "pending": 2,
        "connections": 1,
        "signatures": 7,
        "last_reason": "the peer closed the connection",
        "withheld": "",
        "round_trip_ns": None,
    }
    assert "the signing process is away, 2 signatures wait: the peer closed the connection" in unready_reasons(
        node.status()
    )
    metrics = ApiMetrics().render(node)[1]
    assert b"sequencer_signer_connected 0.0" in metrics
    assert b"sequencer_signer_pending 2.0" in metrics
    node.signer = THERE
    assert not [reason for reason in unready_reasons(node.status()) if "signing process" in reason]


def test_a_node_whose_signer_does_not_sign_yet_is_not_ready_and_says_why() -> None:
    node = FakeNode()
    node.signer = replace(THERE, withheld="view 7 of epoch 2 lies below epoch 3")
    assert "the signing process does not sign yet: view 7 of epoch 2 lies below epoch 3" in unready_reasons(
        node.status()
    )
