"""Broken order votes of Jolteon (J4 to J7). Each class changes one thing of its parent."""

from __future__ import annotations

from consensus.engine import SafetyRecord
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.chained_state import Restored, SafetyState
from consensus.protocols.order_votes import ORDER
from consensus.types import View
from netsim.mutants.engines import _ForgetsState
from netsim.mutants.parts import changed


class OrdersWhatItGaveUp(ChainedEngine):
    """Casts order votes for views that it gave up, and for those below."""

    def _order_floor(self) -> View:
        last = None if self._orders is None else self._orders.last
        return 0 if last is None else last.view


class OrdersTheViewItGaveUp(ChainedEngine):
    """``>=`` for ``>``: casts an order vote in the very view that it gave up last."""

    def _order_floor(self) -> View:
        last = None if self._orders is None else self._orders.last
        return max(self._timeout_view - 1, 0 if last is None else last.view)


class ForgetsWhatItGaveUp(ChainedEngine):
    """A restart forgets, for order votes, which view was given up last."""

    _forgotten: View = 0

    def _restore_subjects(self, restored: Restored) -> None:
        super()._restore_subjects(restored)
        self._forgotten = self._timeout_view

    def _order_floor(self) -> View:
        last = None if self._orders is None else self._orders.last
        given_up = 0 if self._timeout_view == self._forgotten else self._timeout_view
        return max(given_up, 0 if last is None else last.view)


class ForgetsTheRaise(_ForgetsState):
    """A restart forgets what an order vote raised: the lock and the highest certificate."""

    def forget(self, record: SafetyRecord) -> SafetyRecord | None:
        if record.kind != ORDER:
            return record
        return changed(record, SafetyState, lock=self._epoch.genesis, high_qc=self._epoch.genesis)

    _ordered: View = 0

    def _restore_subjects(self, restored: Restored) -> None:
        super()._restore_subjects(restored)
        last = restored.by_kind.get(ORDER)
        self._ordered = 0 if last is None else last[0].slot.major

    def _order_floor(self) -> View:
        return max(self._ordered, super()._order_floor())
