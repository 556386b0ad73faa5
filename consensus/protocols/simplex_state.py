"""The certificates that a Simplex replica holds, what it keeps durable, and how that is put together again.

Nullifications in a row
-----------------------
Whoever votes for a block must hold the nullification of every view that the block skips; no word of others takes its
place. (Stake A of notarizes for the block would do for safety, as one of them is honest and held them all. But then
more than F of the stake could fork the chain with no nullification ever made, and nobody would have signed what
convicts it.) So a validator that was away gets them from others, and somebody must still have them: each is held, and
durable, until a view above it is finalized. The last ``RECORDED_MAX`` stand in the record of every signature; what is
older stands there as a run of views known to be nullified, and goes to the journal's transcript once, where a restart
finds it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed
from consensus.engine import TRANSCRIPT_PROOFS_MAX, Recovered
from consensus.protocols.simplex_types import FINALIZE, NULLIFY
from consensus.safety import SafetyGuard
from consensus.types import Certificate, Epoch, Integer, ProposalSubject, Subject, View, VoteSubject

RECORDED_MAX: Final = 256
"""Nullifications in the record of a signature: the last ones."""
ARCHIVED_MAX: Final = TRANSCRIPT_PROOFS_MAX - RECORDED_MAX
"""Older nullifications held, above the highest finalization; of the oldest beyond, only that they were verified is
remembered, and nobody can be given them. So the network may fail ``TRANSCRIPT_PROOFS_MAX`` views in a row (in a chain
of default pacing, more than a day): after more, a replica that was away all the while can vote for nothing that skips
them, and where its vote is needed for a quorum the chain stands still for good."""


class SafetyState(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """The certificates held at a signing decision, recorded with its slot. ``high_qc`` is the highest notarization or
    finalization; ``nullifications`` ascend by view. The certificates of the nullified views ``let_go_from`` to
    ``let_go_to`` (both included; 0 and 0 for none) were verified and are not in this record."""

    high_qc: Certificate
    nullifications: Annotated[tuple[Certificate, ...], Meta(max_length=RECORDED_MAX)]
    let_go_from: Integer
    let_go_to: Integer


class HeldCertificates:
    """Verified certificates: the highest notarization or finalization, the highest finalization, and the nullification
    of each view above the latter. What is final needs no nullification below it: no block may ever skip it."""

    __slots__ = (
        "_archived",
        "_kept",
        "_let_go",
        "_moved",
        "_nullifications",
        "_nullified_max",
        "finalization",
        "high_qc",
    )

    def __init__(self, genesis: Certificate) -> None:
        self.high_qc = genesis
        self.finalization: Certificate | None = None
        self._nullifications: dict[View, Certificate] = {}
        """The last ones, which a record holds."""
        self._archived: dict[View, Certificate] = {}
        """Older ones."""
        self._moved: list[Certificate] = []
        self._kept: dict[View, None] = {}
        """Of which views the transcript has the nullification, as far as known; bounded as those held."""
        self._nullified_max: View = 0
        self._let_go: tuple[View, View] = (0, 0)

    @property
    def view(self) -> View:
        """The view that the certificates let a replica enter."""
        return 1 + max(self.high_qc.view, self._nullified_max)

    @property
    def finalized_view(self) -> View:
        """The view of the highest finalization; 0 for none."""
        return 0 if self.finalization is None else self.finalization.view

    def wants(self, certificate: Certificate) -> bool:
        """True when the certificate, if it verifies, brings something that is not held."""
        if certificate.kind == NULLIFY:
            return certificate.view > self.finalized_view and not self._is_nullified(certificate.view)
        if certificate.kind == FINALIZE and certificate.view > self.finalized_view:
            return True
        return certificate.view > self.high_qc.view

    def take(self, certificate: Certificate) -> bool:
        """Hold a verified certificate; False when it brings nothing new."""
        if not self.wants(certificate):
            return False
        if certificate.kind == NULLIFY:
            self._nullifications[certificate.view] = certificate
            self._nullified_max = max(self._nullified_max, certificate.view)
            if len(self._nullifications) > RECORDED_MAX:
                self._archive_oldest()
            return True
        if certificate.view > self.high_qc.view:
            self.high_qc = certificate
        if certificate.kind == FINALIZE:
            self.finalization = certificate
            held: dict[View, Certificate] | dict[View, None]
            for held in (self._nullifications, self._archived, self._kept):
                for view in [known for known in held if known <= certificate.view]:
                    del held[view]
            self._moved = [moved for moved in self._moved if moved.view > certificate.view]
        return True

    def moved_out(self) -> tuple[Certificate, ...]:
        """The nullifications that records hold no more since this was last asked, to be put into the transcript in this
        step: those that are not there yet."""
        moved = self._unkept(self._moved)
        self._moved.clear()
        return moved

    def relied_on(self, above: View, below: View) -> tuple[Certificate, ...]:
        """The nullifications of the views strictly between the two, which a vote now relies on, to be put into the
        transcript in this step: those that are not there yet."""
        return self._unkept(self._between(above, below))

    def _unkept(self, certificates: Iterable[Certificate]) -> tuple[Certificate, ...]:
        found = tuple(certificate for certificate in certificates if certificate.view not in self._kept)
        self._kept.update(dict.fromkeys(certificate.view for certificate in found))
        return found

    def _archive_oldest(self) -> None:
        """Records remember one run of views, the highest: what comes late from below it, or from the record of an
        earlier decision at a restart, must not take its place."""
        oldest = min(self._nullifications)
        self._moved.append(self._nullifications[oldest])
        self._archive(self._nullifications.pop(oldest))
        first, last = self._let_go
        if oldest > last:
            self._let_go = (first if last and oldest == last + 1 else oldest, oldest)
        elif oldest == first - 1:
            self._let_go = (oldest, last)

    def _archive(self, certificate: Certificate) -> None:
        self._archived[certificate.view] = certificate
        if len(self._archived) > ARCHIVED_MAX:
            oldest = min(self._archived)
            del self._archived[oldest]
            self._kept.pop(oldest, None)

    def nullification(self, view: View) -> Certificate | None:
        """The nullification of ``view``, if it is held."""
        return self._nullifications.get(view) or self._archived.get(view)

    def _between(self, above: View, below: View) -> tuple[Certificate, ...]:
        """The nullifications that are held of views strictly between the two, ascending."""
        held = self._archived | self._nullifications
        return tuple(held[view] for view in sorted(held) if above < view < below)

    def _is_nullified(self, view: View) -> bool:
        first, last = self._let_go
        return view in self._nullifications or view in self._archived or first <= view <= last

    def missing(self, above: View, below: View, count_max: int) -> tuple[View, ...]:
        """The lowest views strictly between ``above`` and ``below`` that are not known to be nullified. The work is
        bounded by the certificates held and ``count_max``."""
        found: list[View] = []
        first, last = self._let_go
        view = above + 1
        while view < below and len(found) < count_max:
            if first <= view <= last:
                view = last
            elif not self._is_nullified(view):
                found.append(view)
            view += 1
        return tuple(found)

    def entry(self) -> tuple[Certificate, ...]:
        """What brings a peer to our view, and to our highest finalization. Empty in view 1."""
        found = [] if self.high_qc.view == 0 else [self.high_qc]
        highest = self.nullification(self._nullified_max)
        if highest is not None and highest.view > self.high_qc.view:
            found.append(highest)
        if self.finalization is not None and self.finalization != self.high_qc:
            found.append(self.finalization)
        return tuple(found)

    def answer(self, views: tuple[View, ...]) -> tuple[Certificate, ...]:
        """What helps a peer that lacks the nullifications of ``views``, which ascend."""
        found = [held for held in (self.nullification(view) for view in views) if held is not None]
        if self.high_qc.view >= views[0] and self.high_qc.view > 0:
            found.append(self.high_qc)
        if self.finalization is not None and self.finalization.view >= views[0] and self.finalization != self.high_qc:
            found.append(self.finalization)
        return tuple(found)

    def state(self) -> SafetyState:
        """What must be durable before a vote in the view that these certificates let us enter."""
        return SafetyState(
            high_qc=self.high_qc,
            nullifications=tuple(self._nullifications[view] for view in sorted(self._nullifications)),
            let_go_from=self._let_go[0],
            let_go_to=self._let_go[1],
        )

    def restore(self, states: Sequence[SafetyState], older: Sequence[Certificate]) -> None:
        """Take back what the records hold, and the ``older`` nullifications that the transcript holds. All were
        verified before."""
        for state in states:
            if state.let_go_to > self._let_go[1]:
                self._let_go = (state.let_go_from, state.let_go_to)
            for certificate in (state.high_qc, *state.nullifications):
                self.take(certificate)
        for certificate in older:
            if certificate.view > self.finalized_view and certificate.view not in self._nullifications:
                self._archive(certificate)
                self._kept[certificate.view] = None
                self._nullified_max = max(self._nullified_max, certificate.view)
        self._moved.clear()  # the transcript has them


subjects: Final[Canonical[msgspec.Struct]] = Canonical[msgspec.Struct](ProposalSubject, VoteSubject)
_states: Final[Canonical[SafetyState]] = Canonical(SafetyState)
_certificates: Final[Canonical[Certificate]] = Canonical(Certificate)


@dataclass(slots=True, kw_only=True)
class Restored:
    """The state of all records, for each kind its subject with the state that was recorded with it, and the
    nullifications in the transcript."""

    states: tuple[SafetyState, ...]
    older: tuple[Certificate, ...]
    by_kind: dict[str, tuple[Subject, SafetyState]]


def restore(recovered: Recovered, guard: SafetyGuard, epoch: Epoch) -> Restored:
    """Read the records of every kind, and of the transcript what is of ``epoch``. Raises ``ValueError`` for a journal
    that holds something else than what we write."""
    by_kind: dict[str, tuple[Subject, SafetyState]] = {}
    for record in recovered.safety:
        subject = guard.restore(record, subjects)
        state = _states.decode(record.state)
        if isinstance(state, Malformed):
            raise ValueError(f"safety record {record.kind!r}: state does not decode: {state.reason}")
        by_kind[record.kind] = (subject, state)
    kept = [
        certificate
        for certificate in map(_certificates.decode, recovered.transcript)
        if isinstance(certificate, Certificate) and (certificate.kind, certificate.epoch) == (NULLIFY, epoch)
    ]
    return Restored(states=tuple(state for _, state in by_kind.values()), older=tuple(kept), by_kind=by_kind)
