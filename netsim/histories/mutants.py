"""Wrong finality rules, for showing that the random histories would notice: each is one rule of ours, altered. The
names are those of the simulator's design (F1 to F7).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from consensus.finality import rules
from consensus.finality.certificates import LinkTally
from consensus.finality.rules import Ancestry, SetChange
from consensus.finality.types import Checkpoint, FfgVoteSubject, Link
from consensus.safety import Forbidden, Granted, SafetyGuard
from consensus.types import Height
from consensus.validators import ValidatorSet
from netsim.histories.oracle import complaints
from netsim.histories.play import play
from netsim.histories.tally import play_tally

_authorize = SafetyGuard.authorize


class Patcher(Protocol):
    """Replaces an attribute for a while."""

    def setattr(self, target: object, name: str, value: object) -> None: ...


class Patches:
    """A :class:`Patcher` that puts back what was there."""

    def __init__(self) -> None:
        self._before: list[tuple[object, str, object]] = []

    def setattr(self, target: object, name: str, value: object) -> None:
        self._before.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    def undo(self) -> None:
        while self._before:
            target, name, value = self._before.pop()
            setattr(target, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalityMutant:
    """``alter`` patches one rule; ``caught_by`` says which random test must notice within ``budget`` seeds."""

    name: str
    alter: Callable[[Patcher], None]
    budget: int
    caught_by: Literal["history", "tally"] = "history"

    def complaint(self, seed: int) -> str:
        """What is wrong with one history under the altered rule; empty for nothing. Not for threads: the rule is
        altered for the whole process while this runs."""
        patches = Patches()
        self.alter(patches)
        try:
            found = play_tally(seed).complaints if self.caught_by == "tally" else complaints(play(seed))
        finally:
            patches.undo()
        return found[0] if found else ""


def no_double_check(patch: Patcher) -> None:
    """F1: neither the rule nor the guard minds a second vote for one target height, or a lower one. (That targets grow
    is also what keeps an honest vote from being surrounded by an earlier one of its own.)"""

    patch.setattr(rules, "target_grows", lambda last, link: True)
    no_guard(patch)


def no_guard(patch: Patcher) -> None:
    """Not a mutant of the design: the guard alone is gone, and the rule suffices."""

    def forgets(self: SafetyGuard, subject: FfgVoteSubject, state: msgspec.Struct) -> Granted | Forbidden:
        self._last.pop(subject.kind, None)
        return _authorize(self, subject, state)

    patch.setattr(SafetyGuard, "authorize", forgets)


def no_rule(patch: Patcher) -> None:
    """Not a mutant of the design: the rule about targets is gone, and the guard suffices."""
    patch.setattr(rules, "target_grows", lambda last, link: True)


def no_surround_check(patch: Patcher) -> None:
    """F1, the other half."""
    patch.setattr(rules, "source_keeps", lambda last, link: True)


def equivocators_counted(patch: Patcher) -> None:
    """F2: whoever was caught goes on counting."""
    patch.setattr(LinkTally, "_exclude", lambda self, signer: None)


def low_quorum(patch: Patcher) -> None:
    """F3: a majority justifies."""

    def majority(validators: ValidatorSet, keys: Collection[bytes]) -> bool:
        return 2 * rules.stake_of_keys(validators, keys) > validators.total

    patch.setattr(rules, "has_quorum", majority)


def any_distance(patch: Patcher) -> None:
    """F4: a link finalizes its source however far its target is."""
    patch.setattr(rules, "finalizes_by_one", lambda link, interval: True)


def any_branch(patch: Patcher) -> None:
    """F5: a link counts from one branch to another."""
    patch.setattr(rules, "counts", lambda link, ancestry: link.source.height < link.target.height)


def first_link_only(patch: Patcher) -> None:
    """F6: once both sets have justified a checkpoint above the boundary, the new set suffices."""

    def justified(change: SetChange, both: rules.Finality, ancestry: Ancestry) -> tuple[Checkpoint, ...]:
        return tuple(
            checkpoint
            for checkpoint in both.justified
            if checkpoint.height > change.boundary.height and ancestry.descends(checkpoint, change.boundary)
        )

    patch.setattr(rules, "hands_over", justified)


def nothing_between(patch: Patcher) -> None:
    """F7: k = 2 without the checkpoint between being justified."""

    def two(
        link: Link, interval: Height, justified: Mapping[Checkpoint, Link | None], ancestry: Ancestry
    ) -> Checkpoint | None:
        return link.source if link.target.height == link.source.height + 2 * interval else None

    patch.setattr(rules, "finalizes_by_two", two)


MUTANTS = (
    FinalityMutant(name="F1 double", alter=no_double_check, budget=50),
    FinalityMutant(name="F1 surround", alter=no_surround_check, budget=200),
    FinalityMutant(name="F2", alter=equivocators_counted, budget=50, caught_by="tally"),
    FinalityMutant(name="F3", alter=low_quorum, budget=100),
    FinalityMutant(name="F4", alter=any_distance, budget=500),
    FinalityMutant(name="F5", alter=any_branch, budget=100),
    FinalityMutant(name="F6", alter=first_link_only, budget=3000),
    FinalityMutant(name="F7", alter=nothing_between, budget=1000),
)
REDUNDANT = (no_guard, no_rule)
"""Checks that stand twice: without either, no history goes wrong."""
