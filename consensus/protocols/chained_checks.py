"""What is wrong with a message of the HotStuff family by itself."""

from __future__ import annotations

from consensus.codec import digest
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.protocols.chained_types import OrderVote, Proposal, Timeout, TimeoutCertificate
from consensus.protocols.proposal_checks import block_fault
from consensus.signing import VOTE
from consensus.types import PeerId, Vote


def proposal_fault(proposal: Proposal, peer: PeerId, epoch: EpochInfo, payload_size_max: int) -> str | None:
    """None when the sender proposes for itself, and its block is well formed, follows from its certificate, is its
    leader's, and is entitled to its view. (The body is not signed: another sender could have changed it.)"""
    header, justify, proof = proposal.header, proposal.header.justify, proposal.entry_proof
    if epoch.validators.index_of(peer) != header.proposer:
        return f"of validator {header.proposer}, who is not this peer"
    if proposal.epoch != header.epoch:
        return "of another epoch"
    fault = block_fault(header, proposal.body, epoch, payload_size_max)
    if fault is not None:
        return fault
    if header.proposer != epoch.leaders.leader(header.view):
        return f"validator {header.proposer} does not lead view {header.view}"
    if justify.view == header.view - 1:
        if proof is not None or header.entry_proof_hash:
            return "carries an entry proof that it does not need"
    elif proof is None or proof.view != header.view - 1 or digest(proof) != header.entry_proof_hash:
        return "carries no proof that the view before was given up"
    return None


def vote_fault(vote: Vote, peer: PeerId, epoch: EpochInfo) -> str | None:
    """None when the sender votes for itself, of this kind and epoch, for a block that can be."""
    if vote.epoch != epoch.epoch or vote.kind != VOTE:
        return f"of epoch {vote.epoch} and kind {vote.kind!r}"
    if epoch.validators.index_of(peer) != vote.signer:
        return f"of validator {vote.signer}, who is not this peer"
    if vote.block_id == epoch.genesis.block_id or vote.justify_view >= vote.view:
        return "for a block that cannot be"
    return None


def order_vote_fault(vote: OrderVote, peer: PeerId, epoch: EpochInfo) -> str | None:
    """None when the sender votes for itself, on a certificate of this epoch."""
    if not vote.epoch == vote.qc.epoch == epoch.epoch:
        return "of another epoch"
    if epoch.validators.index_of(peer) != vote.signer:
        return f"of validator {vote.signer}, who is not this peer"
    return None


def timeout_fault(timeout: Timeout, peer: PeerId, epoch: EpochInfo) -> str | None:
    """None when the sender gives up for itself a view that one of its certificates let it enter."""
    if epoch.validators.index_of(peer) != timeout.signer:
        return f"of validator {timeout.signer}, who is not this peer"
    proof = timeout.entry_proof
    if timeout.high_qc.view >= timeout.view:
        return "its certificate is not below its view"
    if timeout.high_qc.view == timeout.view - 1:
        return None if proof is None else "carries an entry proof that it does not need"
    if proof is None or proof.view != timeout.view - 1:
        return "carries no proof that the view before was given up"
    return None


def plain_timeout_certificate_fault(certificate: TimeoutCertificate) -> Refusal | None:
    """None when all signed the same, (epoch, view), and the certificate shown is below the view: the shape where a
    timeout signs nothing of its high certificate."""
    if len(certificate.groups) != 1 or certificate.groups[0].high_qc_view is not None:
        return Refusal("timeout certificate: one group over (epoch, view) expected")
    if certificate.high_qc.view >= certificate.view:
        return Refusal("timeout certificate: its high certificate is not below its view")
    return None
