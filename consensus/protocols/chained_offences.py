"""What the members of the HotStuff family forbid across views, and what their transcripts state.

Each rule follows from what an honest validator records with the signature: the lock that a vote moves, and for Jolteon
the certificate view below which a timeout never goes. Votes sign ``justify_view``, so certificates of votes and
timeouts are enough, but for three chains, where the lock lies two blocks below the vote's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consensus.codec import Canonical, Malformed
from consensus.offences import Offence, Reading, Signed, Watch, signed_in_certificate
from consensus.protocols.chained_types import OrderVote, Timeout, TimeoutCertificate, TimeoutSubject
from consensus.protocols.order_votes import ORDER
from consensus.signing import VOTE
from consensus.types import BlockHeader, Subject, Vote, VoteSubject

_timeout_certificates: Final = Canonical(TimeoutCertificate)


def _timeout_denies_vote(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    """vote(a, justify p), timeout(b >= a, high certificate below p). Who voted first has seen a certificate of p; who
    gave b up first does not vote in a <= b."""
    return (
        isinstance(first, VoteSubject)
        and isinstance(second, TimeoutSubject)
        and first.kind == VOTE
        and second.high_qc_view is not None
        and second.view >= first.view
        and second.high_qc_view < first.justify_view
    )


def _timeout_denies_order_vote(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    """order vote(r), timeout(b >= r, high certificate below r)."""
    return (
        isinstance(first, VoteSubject)
        and isinstance(second, TimeoutSubject)
        and first.kind == ORDER
        and second.high_qc_view is not None
        and second.high_qc_view < first.view <= second.view
    )


def _vote_below_justify(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    """vote(a, justify p), vote(b > a, justify below p): the first locked p."""
    return (
        isinstance(first, VoteSubject)
        and isinstance(second, VoteSubject)
        and first.kind == second.kind == VOTE
        and second.view > first.view
        and second.justify_view < first.justify_view
    )


def _vote_below_lock(first: Subject, second: Subject, headers: Sequence[BlockHeader]) -> bool:
    """vote(a) for b2, which locks what the parent of b2 stands on, at view p; vote(b > a, justify strictly below p).

    Nothing that stands on a certificate below p extends the lock. (At p itself it may: then an honest validator whose
    lock is another block of view p votes for both.) The parent of an epoch's first block is the boundary, whose views
    are those of the epoch before: it locks nothing.
    """
    return (
        isinstance(first, VoteSubject)
        and isinstance(second, VoteSubject)
        and first.kind == second.kind == VOTE
        and second.view > first.view
        and headers[1].epoch == first.epoch
        and second.justify_view < headers[1].justify.view
    )


_VOTES: Final = Reading(Vote, VOTE, "view", "justify_view")
_ORDER_VOTES: Final = Reading(OrderVote, "", "qc.view", "qc.view")
_TIMEOUTS: Final = Reading(Timeout, "", "view", "high_qc.view")

JOLTEON_OFFENCES: Final = (
    Offence(name="timeout-denies-vote", forbids=_timeout_denies_vote, watch=Watch(_VOTES, _TIMEOUTS)),
    Offence(name="timeout-denies-order-vote", forbids=_timeout_denies_order_vote, watch=Watch(_ORDER_VOTES, _TIMEOUTS)),
)
HOTSTUFF2_OFFENCES: Final = (Offence(name="vote-below-lock", forbids=_vote_below_justify, watch=Watch(_VOTES, _VOTES)),)
HOTSTUFF_OFFENCES: Final = (
    Offence(name="vote-below-lock", forbids=_vote_below_lock, headers_needed=2, watch=Watch(_VOTES, _VOTES)),
)


def signed_in_timeouts(proof: bytes) -> tuple[Signed, ...]:
    """What a canonical timeout certificate states: its groups of timeouts, and the certificate that it shows."""
    certificate = _timeout_certificates.decode(proof)
    if isinstance(certificate, Malformed):
        return ()
    groups = [
        Signed(
            TimeoutSubject(epoch=certificate.epoch, view=certificate.view, high_qc_view=group.high_qc_view),
            group.signers,
            group.signature,
        )
        for group in certificate.groups
    ]
    together = tuple(groups) if len(groups) > 1 else ()
    return (*(group._replace(together=together) for group in groups), signed_in_certificate(certificate.high_qc))
