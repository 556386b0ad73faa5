"""What is wrong with a message of Tendermint by itself."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.codec import digest
from consensus.epochs import EpochInfo
from consensus.protocols.proposal_checks import block_fault
from consensus.protocols.tendermint_types import PRECOMMIT, PREVOTE, Proposal, height_of, turn_of, view_name
from consensus.types import NIL_BLOCK, PeerId, ValidatorIndex, Vote


def proposal_fault(proposal: Proposal, peer: PeerId, epoch: EpochInfo, payload_size_max: int) -> str | None:
    """None when the sender proposes for itself in a view that it leads, and its block is well formed, follows from its
    certificate, and was first made in this view or comes with a polka of an earlier round. (The body is not signed:
    another sender could have changed it.)"""
    header, view = proposal.header, proposal.view
    if epoch.validators.index_of(peer) != proposal.proposer:
        return f"of validator {proposal.proposer}, who is not this peer"
    if proposal.epoch != header.epoch:
        return "of another epoch"
    fault = block_fault(header, proposal.body, epoch, payload_size_max)
    if fault is not None:
        return fault
    if header.entry_proof_hash:
        return "names an entry proof, which no round has"
    if not header.height == height_of(header.view) == height_of(view) or header.view > view:
        return "its height, its own round and this round do not fit"
    for shown, index in ((view, proposal.proposer), (header.view, header.proposer)):
        if index != epoch.leaders.leader(turn_of(shown)):
            return f"validator {index} does not lead {view_name(shown)}"
    return _polka_fault(proposal)


def _polka_fault(proposal: Proposal) -> str | None:
    header, polka = proposal.header, proposal.polka
    if (polka is None) != (header.view == proposal.view):
        return "a block of an earlier round goes with its polka, and no other does"
    if polka is None:
        return None
    if (polka.kind, polka.block_id, polka.height) != (PREVOTE, digest(header), header.height):
        return "its polka is not the block's"
    if not header.view <= polka.view < proposal.view:
        return "its polka is not of an earlier round"
    return None


def vote_fault(vote: Vote, epoch: EpochInfo) -> str | None:
    """None when the vote is of a kind, epoch and height that can be, for a block that can be or for none."""
    if vote.epoch != epoch.epoch or vote.kind not in (PREVOTE, PRECOMMIT):
        return f"of epoch {vote.epoch} and kind {vote.kind!r}"
    if height_of(vote.view) <= epoch.genesis.height:
        return "of a height that is decided by definition"
    if vote.block_id == NIL_BLOCK:
        return None if vote.height == vote.justify_view == 0 else "for no block, with the height or view of one"
    if vote.block_id == epoch.genesis.block_id or vote.height != height_of(vote.view) or vote.justify_view >= vote.view:
        return "for a block that cannot be"
    return None


def entry_fault(votes: Sequence[Vote], epoch: EpochInfo) -> str | None:
    """None when these can be the votes that let somebody enter a round, or none: one of each signer, of one height, by
    stake that lets enter. (Votes of a few colluders would cost a check each, and bring nobody anywhere.)"""
    if not votes:
        return None
    stake = 0
    signers: dict[ValidatorIndex, None] = {}
    for vote in votes:
        if vote.signer >= len(epoch.validators):
            return f"a vote of validator {vote.signer}, who is none"
        fault = vote_fault(vote, epoch)
        if fault is not None:
            return f"a vote {fault}"
        if vote.signer in signers or height_of(vote.view) != height_of(votes[0].view):
            return "two votes of one signer, or votes of two heights"
        signers[vote.signer] = None
        stake += epoch.validators.stakes[vote.signer]
    if stake < epoch.validators.amplification:
        return f"votes of stake {stake}, which lets nobody enter a round"
    return None
