"""What is wrong with a message of the HotStuff family by itself, and which proposal of a view came first."""

from __future__ import annotations

from typing import Final

import msgspec

from consensus.codec import digest
from consensus.epochs import EpochInfo
from consensus.protocols.chained_types import Proposal, Timeout
from consensus.signing import VOTE
from consensus.types import EMPTY_PAYLOAD_ROOT, PeerId, View, Vote

FIRST_PROPOSALS_KEPT: Final = 64
"""Views behind the current one for which the first proposal is remembered, to recognise a second."""


def proposal_fault(proposal: Proposal, peer: PeerId, epoch: EpochInfo, payload_size_max: int) -> str | None:
    """None when the sender proposes for itself, and its block is well formed, follows from its certificate, is its
    leader's, and is entitled to its view. (The body is not signed: another sender could have changed it.)"""
    header, justify, proof = proposal.header, proposal.header.justify, proposal.entry_proof
    if epoch.validators.index_of(peer) != header.proposer:
        return f"of validator {header.proposer}, who is not this peer"
    if header.chain != epoch.chain:
        return "of another chain"
    if not header.epoch == proposal.epoch == justify.epoch == epoch.epoch:
        return "of another epoch"
    if header.parent != justify.block_id or header.height != justify.height + 1 or header.view <= justify.view:
        return "the block does not follow from its certificate"
    if header.proposer != epoch.leaders.leader(header.view):
        return f"validator {header.proposer} does not lead view {header.view}"
    if header.next_validators_hash:
        return "names a next validator set, which no payload changed"
    if justify.view == header.view - 1:
        if proof is not None or header.entry_proof_hash:
            return "carries an entry proof that it does not need"
    elif proof is None or proof.view != header.view - 1 or digest(proof) != header.entry_proof_hash:
        return "carries no proof that the view before was given up"
    size = len(proposal.body)
    if size != header.payload_size or size > payload_size_max:
        return f"a body of {size} bytes where the header says {header.payload_size}"
    if (size == 0) != (header.payload_root == EMPTY_PAYLOAD_ROOT):
        return "the empty payload and its root go together"
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


def without_body(proposal: Proposal) -> Proposal:
    """What a leader signed is the block id: as evidence, and in memory, a proposal goes without its payload."""
    return msgspec.structs.replace(proposal, body=memoryview(b""))


class FirstProposals:
    """The first proposal of each of the last views, bodies left out, and which views had a second one."""

    __slots__ = ("_current", "_first", "_reported")

    def __init__(self) -> None:
        self._first: dict[View, Proposal] = {}
        self._reported: dict[View, None] = {}
        self._current: View = 1

    def advance(self, view: View) -> None:
        """The current view is ``view``: forget what lies too far behind it."""
        self._current = view
        for old in [known for known in self._first if known < view - FIRST_PROPOSALS_KEPT]:
            del self._first[old]
            self._reported.pop(old, None)

    def keep(self, proposal: Proposal) -> bool:
        """True when this is the first of its view, which is kept from now on. False for any other, and for views too
        old to tell: a leader of long ago must not fill the block tree. Its signature verified."""
        view = proposal.header.view
        if view in self._first or view < self._current - FIRST_PROPOSALS_KEPT:
            return False
        self._first[view] = without_body(proposal)
        return True

    def contradicted(self, proposal: Proposal) -> Proposal | None:
        """The first of its view when this is a different one; once per view. Its signature verified."""
        view = proposal.header.view
        first = self._first.get(view)
        if first is None or first.header == proposal.header or view in self._reported:
            return None
        self._reported[view] = None
        return first
