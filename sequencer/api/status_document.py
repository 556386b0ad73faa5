"""Where a node stands, as a document for programs, for the page and for people."""

from __future__ import annotations

from typing import Final

from consensus.genesis import ChainSpec
from consensus.types import Height
from sequencer.api.node_view import AdapterStatus, NodeStatus, NodeView
from sequencer.membership import PendingChange
from sequencer.signer.remote import SignerState
from sequencer.transactions import Level
from sequencer.transport import PeerState, TransportState

LADDER: Final = (Level.PENDING, Level.PROMISED, Level.CERTIFIED, Level.CONFIRMED, Level.FINAL, Level.SETTLED)


def levels_given(spec: ChainSpec) -> frozenset[Level]:
    """The rungs that a chain gives: the others are not built, or its spec goes without."""
    given = (Level.PENDING, Level.CONFIRMED)
    return frozenset((*given, Level.FINAL) if spec.checkpoint_interval else given)


def status_document(node: NodeView) -> dict[str, object]:
    """Everything in :class:`NodeStatus`, with names beside numbers."""
    status, spec = node.status(), node.genesis.spec
    consensus, given = status.consensus, levels_given(spec)
    return {
        "name": node.name,
        "role": status.role,
        "chain_id": spec.chain_id,
        "genesis_hash": spec.hash,
        "protocol": spec.protocol,
        "scheme": spec.scheme,
        "epoch": consensus.epoch,
        "epoch_began_after": status.validators.began_after,
        "view": consensus.view,
        "view_name": node.genesis.protocol.view_name(consensus.view),
        "leader": consensus.leader,
        "committed_height": consensus.committed_height,
        "committed_view": consensus.committed_view,
        "seen_height": consensus.seen_height,
        "timeouts": consensus.timeouts,
        "ledger_height": status.ledger_height,
        "final_height": status.final_height,
        "checkpoint_interval": spec.checkpoint_interval,
        "pruned_below": status.archive_from,
        "evidence": status.evidence,
        "signer": None if status.signer is None else _signer(status.signer),
        "ready": not (reasons := unready_reasons(status)),
        "unready_reasons": reasons,
        "ladder": [{"level": level.value, "given": level in given} for level in LADDER],
        "validators": _validators(status),
        "pending_changes": [_pending(change) for change in status.validators.pending],
        "held_keys": list(status.held_keys),
        "observers": _observers(status.transport),
        "mempool": [
            {"rollup_id": rollup_id, "transactions": transactions, "size_bytes": size_bytes}
            for rollup_id, transactions, size_bytes in status.mempool
        ],
        "adapters": [_adapter(each) for each in status.adapters],
    }


def _signer(signer: SignerState) -> dict[str, object]:
    return {
        "connected": signer.connected,
        "pending": signer.pending,
        "connections": signer.connections,
        "signatures": signer.signatures,
        "last_reason": signer.last_reason,
        "withheld": signer.withheld,
        "round_trip_ns": signer.round_trip_ns,
    }


def _adapter(adapter: AdapterStatus) -> dict[str, object]:
    return {
        "rollup_id": adapter.rollup_id,
        "adapter": adapter.adapter,
        "alive": adapter.alive,
        "restarts": adapter.restarts,
        "delivered_height": adapter.delivered.height,
        "state_commitment": adapter.delivered.state_commitment,
    }


def _pending(change: PendingChange) -> dict[str, object]:
    return {
        "kind": change.kind,
        "name": change.name,
        "operator": change.operator,
        "public_key": change.public_key,
        "next_public_key": change.next_public_key,
        "stake": change.stake,
        "effective_at": change.effective_at,
    }


def _validators(status: NodeStatus) -> list[dict[str, object]]:
    transport = status.transport
    states = {state.peer: state for state in transport.peers}
    validators: list[dict[str, object]] = []
    for index, listed in enumerate(status.validators.validators):
        validator = listed.validator
        entry: dict[str, object] = {
            "index": index,
            "name": validator.name,
            "operator": listed.operator,
            "stake": validator.stake,
            "public_key": validator.public_key,
            "peer": validator.peer,
            "address": listed.address,
            "self": validator.peer == transport.peer,
        }
        state = states.get(validator.peer)
        validators.append(entry if state is None else {**entry, **_link(state)})
    return validators


def _observers(transport: TransportState) -> list[dict[str, object]]:
    return [{"peer": state.peer, **_link(state)} for state in transport.peers if state.role == "observer"]


def _link(state: PeerState) -> dict[str, object]:
    return {
        "connected": state.connected,
        "connections": state.connections,
        "bytes_in": state.bytes_in,
        "bytes_out": state.bytes_out,
        "drops_in": state.drops_in,
        "drops_out": state.drops_out,
        "rejects": state.rejects,
        "barred": state.barred,
        "last_reason": state.last_reason,
        "round_trip_ns": state.round_trip_ns,
    }


def unready_reasons(status: NodeStatus, lag_heights_max: Height = 16) -> list[str]:
    """Why this node should not be asked now; empty when it is ready.

    It compares itself with the highest height that any verified certificate *named*, never with what it or its peers
    applied: stale nodes agree with each other. And a node that reaches too few validators cannot know what it misses.
    """
    reasons = []
    seen = max(status.consensus.seen_height, status.consensus.committed_height)
    lag = seen - status.ledger_height
    if lag > lag_heights_max:
        reasons.append(f"catching up: at height {status.ledger_height}, and {seen} was seen ({lag} behind)")
    if status.ledger_height < status.trusted_height:
        below = f"at height {status.ledger_height}, below the trusted checkpoint at {status.trusted_height}"
        reasons.append(f"{below}: nothing here is tied to it yet")
    signer = status.signer
    if signer is not None and not signer.connected:
        reasons.append(f"the signing process is away, {signer.pending} signatures wait: {signer.last_reason}")
    elif signer is not None and signer.withheld:
        reasons.append(f"the signing process does not sign yet: {signer.withheld}")
    if status.pruned_below is not None:
        reasons.append(f"every peer has pruned what is missing here: they keep nothing below {status.pruned_below}")
    transport = status.transport
    validators = [listed.validator for listed in status.validators.validators]
    stakes = {validator.peer: validator.stake for validator in validators}
    reached = {transport.peer, *(state.peer for state in transport.peers if state.connected)}
    stake, total = sum(stakes.get(peer, 0) for peer in reached), sum(stakes.values())
    # A validator needs a quorum to go on; for an observer, one honest source is enough: it verifies everything.
    needed = 2 * total // 3 + 1 if status.role == "validator" else 1
    if stake < needed:
        reasons.append(f"connected to validators with stake {stake} of {total}, {needed} are needed")
    return reasons
