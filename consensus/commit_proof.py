"""What "committed" means to a stranger: a block, and its descendants up to a certified one, in a pattern that commits.

The headers are hash-linked, so one certificate over the last covers them all; honest voters checked every certificate
on the way. A stranger re-checks the links, the rule's pattern, and the one quorum; or, where votes of a second kind
commit the certified block without a pattern, the links and both quorums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from consensus.certificates import QuorumChecker
from consensus.codec import digest
from consensus.engine import Refusal
from consensus.epochs import CLOSING_PAYLOAD_ROOT, EpochInfo
from consensus.types import PATH_LENGTH_MAX, BlockHeader, CommitProof, certificate_subject


def check_commit_proof(
    proof: CommitProof,
    header: BlockHeader,
    epoch: EpochInfo,
    checker: QuorumChecker,
    is_committed: Callable[[Sequence[BlockHeader]], bool],
    confirmation_kind: str | None,
) -> Refusal | None:
    """None when ``proof`` shows the block of ``header`` committed by a pattern of views or, where the protocol has such
    votes, by a quorum of ``confirmation_kind`` over the certified block itself; the reason otherwise."""
    chain = linked_headers(proof, header, epoch)
    if isinstance(chain, Refusal):
        return chain
    if proof.certificate.view != chain[-1].view:
        return Refusal("commit proof: the certificate is not the last header's")
    confirmation = proof.confirmation
    if confirmation is None:
        if not is_committed(chain):
            return Refusal("commit proof: these views commit nothing")
        return checker.check(proof.certificate)
    if confirmation_kind is None:
        return Refusal("commit proof: a confirmation where none belongs")
    confirmed = msgspec.structs.replace(certificate_subject(proof.certificate), kind=confirmation_kind)
    if certificate_subject(confirmation) != confirmed:
        return Refusal("commit proof: the confirmation is not of the certificate")
    return checker.check(proof.certificate) or checker.check(confirmation, confirmation_kind)


def linked_headers(proof: CommitProof, header: BlockHeader, epoch: EpochInfo) -> tuple[BlockHeader, ...] | Refusal:
    """``header`` and its descendants in ``proof``, oldest first, each standing on the one before, the last of them the
    block that the certificate names. What the certificate is worth is not judged here."""
    if proof.epoch != epoch.epoch or header.epoch != epoch.epoch or header.chain != epoch.chain:
        return Refusal("commit proof: of another chain or epoch")
    if header.payload_root == CLOSING_PAYLOAD_ROOT:
        return Refusal("commit proof: of a block after the one that ended its epoch")
    chain = (header, *proof.headers)
    for parent, child in pairwise(chain):
        linked = child.parent == digest(parent) == child.justify.block_id and child.height == parent.height + 1
        if not linked or child.epoch != epoch.epoch or child.chain != epoch.chain or child.view <= parent.view:
            return Refusal("commit proof: the headers do not follow from each other")
    last = chain[-1]
    if (proof.certificate.block_id, proof.certificate.height) != (digest(last), last.height):
        return Refusal("commit proof: the certificate is not the last header's")
    return chain


def extend(proof: CommitProof, headers: Sequence[BlockHeader]) -> CommitProof | None:
    """The proof of an ancestor: ``headers`` lie between it and what ``proof`` begins with, oldest first. None beyond
    the cap."""
    joined = (*headers, *proof.headers)
    if len(joined) > PATH_LENGTH_MAX:
        return None
    return msgspec.structs.replace(proof, headers=joined)
