"""A Simplex block as its leader makes it, what is wrong with a message by itself, what a commit proof is worth, and who
both finalized and nullified a view."""

from __future__ import annotations

import msgspec

from consensus.certificates import QuorumChecker
from consensus.codec import digest
from consensus.commit_proof import linked_headers
from consensus.engine import Refusal
from consensus.epochs import EpochInfo
from consensus.protocols.proposal_checks import block_fault
from consensus.protocols.simplex_types import FINALIZE, NOTARIZE, NULLIFY, Proposal
from consensus.types import (
    NIL_BLOCK,
    BlockHeader,
    CommitProof,
    PeerId,
    ValidatorIndex,
    View,
    Vote,
    vote_subject,
)
from consensus.vote_tally import VIEWS_AHEAD, VIEWS_BEHIND, BadSignature


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
        return "carries no proof that the view before was nullified"
    return None


def vote_fault(vote: Vote, peer: PeerId, epoch: EpochInfo) -> str | None:
    """None when the sender votes for itself, in this epoch, for something that can be."""
    if vote.epoch != epoch.epoch or vote.view < 1:
        return f"of epoch {vote.epoch} and view {vote.view}"
    if epoch.validators.index_of(peer) != vote.signer:
        return f"of validator {vote.signer}, who is not this peer"
    genesis = epoch.genesis
    if vote.kind == NULLIFY:
        if (vote.block_id, vote.height, vote.justify_view) != (NIL_BLOCK, 0, 0):
            return "names a block where none belongs"
    elif vote.kind not in (NOTARIZE, FINALIZE):
        return f"of kind {vote.kind!r}"
    elif vote.block_id in (NIL_BLOCK, genesis.block_id) or vote.height <= genesis.height:
        return "for no block, or for the epoch's boundary"
    elif vote.justify_view >= vote.view:
        return "for a block that cannot be"
    return None


def finalization_fault(
    proof: CommitProof, header: BlockHeader, epoch: EpochInfo, checker: QuorumChecker
) -> Refusal | None:
    """None when a quorum finalized the block of ``header`` or, with headers, a descendant; the reason otherwise."""
    chain = linked_headers(proof, header, epoch)
    if isinstance(chain, Refusal):
        return chain
    if proof.confirmation is not None:
        return Refusal("commit proof: a confirmation where none belongs")
    certificate = proof.certificate
    if (certificate.view, certificate.justify_view) != (chain[-1].view, chain[-1].justify.view):
        return Refusal("commit proof: the certificate is not the last header's")
    if certificate.kind != FINALIZE:
        return Refusal(f"commit proof: a quorum of kind {certificate.kind!r} commits nothing")
    return checker.check(certificate, FINALIZE)


class Contradiction(msgspec.Struct, frozen=True, gc=False):
    """One validator's finalize and nullify of one view, as they came. Both signatures verify."""

    first: Vote
    second: Vote


class ExclusionWatch:
    """Finds validators that both finalize and nullify one view. Votes arrive unverified: both signatures are checked
    before anybody is blamed.

    Bounds: one vote per signer and view, in the window of the vote tally.
    """

    __slots__ = ("_checker", "_current", "_first", "_reported")

    def __init__(self, checker: QuorumChecker) -> None:
        self._checker = checker
        self._current: View = 1
        self._first: dict[View, dict[ValidatorIndex, Vote]] = {}
        self._reported: dict[View, dict[ValidatorIndex, None]] = {}

    def advance(self, view: View) -> None:
        """The current view is ``view``: forget what lies too far behind it."""
        self._current = view
        for old in [known for known in self._first if known < view - VIEWS_BEHIND]:
            del self._first[old]
            self._reported.pop(old, None)

    def add(self, vote: Vote) -> Contradiction | BadSignature | None:
        """Take a vote of any kind whose sender is its signer. ``BadSignature`` when the two that contradict each other
        are not both signed: their sender's fault each time, since each time costs a verification."""
        if vote.kind == NOTARIZE or not self._current - VIEWS_BEHIND <= vote.view <= self._current + VIEWS_AHEAD:
            return None
        first = self._first.setdefault(vote.view, {}).setdefault(vote.signer, vote)
        if first.kind == vote.kind or vote.signer in self._reported.setdefault(vote.view, {}):
            return None
        for either in (first, vote):
            if not self._checker.check_signature(either.signer, vote_subject(either), either.signature):
                return BadSignature()
        self._reported[vote.view][vote.signer] = None
        return Contradiction(first, vote)
