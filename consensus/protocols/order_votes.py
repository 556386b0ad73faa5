"""Order votes: the three-delay fast path of a two-chain protocol (AIP-89 of Aptos, on top of Jolteon).

::

    leader -- proposal(v) --> all -- vote(v) --> all -- order vote(v) --> all: committed
                                       |
                                     QC(v)

Specification
=============
On seeing QC(v), a validator says once that it saw it, iff v > highest_timeout_view and v > last_order_vote.view::

    record {lock >= QC(v), high_qc >= QC(v), last_order_vote}, sign, broadcast OrderVote(QC(v))

* ``highest_timeout_view`` is the highest view whose timeout *this validator signed*, restored from that timeout's
  record; entering a view by others' timeouts does not raise it. A timeout of any view v' >= v that it signs later shows
  QC(v) or higher, because the lock was raised in the same record. So of every quorum of timeouts from v on, one at
  least shows QC(v), and no block of a later view can be certified beside the one of v.
* QC(v) and a quorum of order votes over the same block commit it: ``CommitProof.certificate`` is QC(v) and
  ``confirmation`` is the quorum of order votes. An order vote carries the certificate that it is about; what it signs
  is that certificate's own subject with kind ``order``, so nothing is said twice, and there is no order vote without
  its certificate. A receiver without that certificate verifies and learns it; one that knows a certificate of the same
  subject ignores this one.
* A quorum of order votes enters no view and is nothing to build on.

The slower commit, by the next view's certificate, goes on beside it and needs no order vote. A leader with nothing to
order gives the order votes a fifth of the view before it makes an empty block for that slower commit; once they
committed what has a payload, it idles as after any commit.

Bounds: one certificate for each of the last ``VIEWS_KEPT`` views; the votes are counted by the window of
``VoteTally``.

Deviations from AIP-89: the votes go to everybody in committees up to the size in which all votes do, and there is no
fast path beyond; an order vote waits until the block and its ancestors are here and their bodies checked.
"""

from __future__ import annotations

from typing import Final

from consensus.genesis import Pacing
from consensus.pacemaker import NANOSECONDS_PER_MILLISECOND
from consensus.protocols.chained_types import OrderVote
from consensus.types import Certificate, CommitProof, Nanoseconds, View, Vote, VoteSubject, certificate_subject

ORDER: Final = "order"
VIEWS_KEPT: Final = 64
"""Views below the current one whose certificate is kept, to confirm it."""


def order_delay_ns(pacing: Pacing) -> Nanoseconds:
    """How long a leader waits for the order votes on its parent before it makes an empty block to commit it: a fifth of
    a view."""
    return pacing.view_timeout_ms * NANOSECONDS_PER_MILLISECOND // 5


def order_subject(certificate: Certificate) -> VoteSubject:
    """What an order vote on that certificate signs."""
    return VoteSubject(
        kind=ORDER,
        epoch=certificate.epoch,
        view=certificate.view,
        block_id=certificate.block_id,
        height=certificate.height,
        justify_view=certificate.justify_view,
    )


def vote_in(message: OrderVote) -> Vote:
    """The vote that an order vote is, apart from the certificate that it carries."""
    certificate = message.qc
    return Vote(
        kind=ORDER,
        epoch=certificate.epoch,
        view=certificate.view,
        block_id=certificate.block_id,
        height=certificate.height,
        justify_view=certificate.justify_view,
        signer=message.signer,
        signature=message.signature,
    )


def _says_the_same(one: Certificate, other: Certificate) -> bool:
    """True for certificates over one subject, whoever signed them."""
    return (
        one.block_id == other.block_id
        and one.view == other.view
        and one.justify_view == other.justify_view
        and one.height == other.height
        and one.epoch == other.epoch
        and one.kind == other.kind
    )


class OrderVotes:
    """The certificates that order votes are about, and how far the own ones have come."""

    __slots__ = ("_certified", "_oldest", "last")

    def __init__(self) -> None:
        self._certified: dict[View, Certificate] = {}
        self._oldest: View = 1
        self.last: Certificate | None = None
        """What the own last order vote is about."""

    def advance(self, view: View) -> None:
        """The current view is ``view``: forget what lies too far behind it."""
        self._oldest = view - VIEWS_KEPT
        if self._certified and min(self._certified) < self._oldest:
            for old in [known for known in self._certified if known < self._oldest]:
                del self._certified[old]

    def saw(self, certificate: Certificate) -> None:
        """A verified certificate: the first of its view is kept."""
        if certificate.view >= self._oldest and certificate.view not in self._certified:
            self._certified[certificate.view] = certificate

    def knows(self, certificate: Certificate) -> bool:
        """True when a certificate over the same subject was seen, whoever signed that."""
        known = self._certified.get(certificate.view)
        return known is not None and _says_the_same(known, certificate)

    def proof(self, confirmation: Certificate) -> CommitProof | None:
        """That the block of a quorum of order votes is committed, if the certificate that they are about was seen."""
        known = self._certified.get(confirmation.view)
        if known is None or order_subject(known) != certificate_subject(confirmation):
            return None
        return CommitProof(epoch=confirmation.epoch, headers=(), certificate=known, confirmation=confirmation)
