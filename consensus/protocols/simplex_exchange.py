"""Certificates between Simplex replicas: asked for by view, answered within a budget, sent to whom is behind."""

from __future__ import annotations

from typing import Final

from consensus.engine import Broadcast, CancelTimer, Send, SetTimer, StepBuilder
from consensus.protocols.simplex_state import HeldCertificates
from consensus.protocols.simplex_types import Certificates, CertificatesRequest
from consensus.types import Certificate, Epoch, Nanoseconds, PeerId, View

FETCH_TIMER: Final = "certificates"
ANSWERS_MAX: Final = 8
"""Requests of one peer that are answered until the budget is renewed: in each view, and at each view timer."""
ASKERS_MAX: Final = 2048
"""Peers whose requests are answered in that time."""


class CertificateExchange:
    """What one replica asks for and gives. Adds to the step that ``out`` collects."""

    __slots__ = ("_answered", "_asked", "_epoch", "_held", "_helped", "_out")

    def __init__(self, epoch: Epoch, held: HeldCertificates, out: StepBuilder) -> None:
        self._epoch = epoch
        self._held = held
        self._out = out
        self._asked: tuple[View, ...] = ()
        self._answered: dict[PeerId, int] = {}
        self._helped: dict[PeerId, View] = {}

    def renew_budget(self) -> None:
        """Time has passed: every peer may ask again."""
        self._answered.clear()

    def send(self, peer: PeerId | None, certificates: tuple[Certificate, ...]) -> None:
        """To one peer, or to all; nothing when there are none."""
        if certificates:
            message = Certificates(epoch=self._epoch, certificates=certificates)
            self._out.effects.append(Broadcast(message) if peer is None else Send(peer, message))

    def help(self, peer: PeerId, view: View) -> None:
        """A validator is behind our ``view``: it is sent what lets it enter, once. Were that lost and the validator
        needed, our own view would go on too, and its timer sends it again."""
        if self._helped.get(peer) != view:
            self._helped[peer] = view
            self.send(peer, self._held.entry())

    def want(
        self, missing: tuple[View, ...], source: PeerId | None, now: Nanoseconds, patience_ns: Nanoseconds
    ) -> None:
        """The nullifications of ``missing`` are needed. Asks ``source``, or everybody when nobody showed the need; the
        same again only once the timer fired."""
        if missing == self._asked:
            return
        self._asked = missing
        if not missing:
            self._out.effects.append(CancelTimer(FETCH_TIMER))
            return
        request = CertificatesRequest(epoch=self._epoch, views=missing)
        self._out.effects.append(Broadcast(request) if source is None else Send(source, request))
        self._out.effects.append(SetTimer(FETCH_TIMER, now + patience_ns))

    def forget_question(self) -> None:
        """The timer fired: what is still missing is asked for again."""
        self._asked = ()

    def answer(self, peer: PeerId, request: CertificatesRequest) -> None:
        """A peer lacks nullifications."""
        if request.epoch != self._epoch or request.views != tuple(sorted(set(request.views))):
            self._out.reject(peer, "certificates request: of another epoch, or its views do not ascend")
            return
        answers = self._answered.get(peer, 0)
        if answers < ANSWERS_MAX and (answers or len(self._answered) < ASKERS_MAX):
            self._answered[peer] = answers + 1
            self.send(peer, self._held.answer(request.views))
