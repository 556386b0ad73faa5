"""The rules of Casper FFG as pure functions over any tree of checkpoints.

Nothing here knows a signature: a link comes with the keys of those who signed it. Every rule is a function of its own,
called by the name it has in this module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from consensus.finality.types import Checkpoint, Link
from consensus.types import Height
from consensus.validators import ValidatorSet

Offence: TypeAlias = Literal["double", "surround"]
DOUBLE: Final = "double"
SURROUND: Final = "surround"


class Ancestry(Protocol):
    """What is known of the block tree."""

    def descends(self, descendant: Checkpoint, ancestor: Checkpoint) -> bool:
        """True when ``ancestor`` is known to be ``descendant`` itself or one of its ancestors."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SetChange:
    """From the block ``boundary`` on, its descendants belong to ``new``. The boundary is any block, checkpoint or
    not."""

    boundary: Checkpoint
    new: ValidatorSet


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorSets:
    """The set in force at the root, and at most one change on each branch. Two branches may change to different sets.
    A chain must not change its set again before the last change was finalized by both."""

    first: ValidatorSet
    changes: tuple[SetChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finality:
    """What follows from the links of a tree. ``justified`` maps each checkpoint to the link that justified it (the
    root to None), ``finalized`` each to the links that finalized it (the root to none): the one from it, and for k = 2
    the one that justified the checkpoint between. Both ascend by height. ``links`` are those that count."""

    root: Checkpoint
    links: tuple[Link, ...]
    justified: dict[Checkpoint, Link | None]
    finalized: dict[Checkpoint, tuple[Link, ...]]

    @property
    def highest_justified(self) -> Checkpoint:
        return max(self.justified, key=lambda checkpoint: checkpoint.order)

    @property
    def highest_finalized(self) -> Checkpoint:
        return max(self.finalized, key=lambda checkpoint: checkpoint.order)


# --- slashing ------------------------------------------------------------------------------------------------


def is_double(first: Link, second: Link) -> bool:
    """Two different votes with one target height."""
    return first != second and first.target.height == second.target.height


def surrounds(outer: Link, inner: Link) -> bool:
    """``h(s1) < h(s2) < h(t2) < h(t1)``."""
    return outer.source.height < inner.source.height < inner.target.height < outer.target.height


def conflict(first: Link, second: Link) -> Offence | None:
    """What whoever signed both links is guilty of. The order of the two does not matter."""
    if is_double(first, second):
        return DOUBLE
    if surrounds(first, second) or surrounds(second, first):
        return SURROUND
    return None


def target_grows(last: Link, link: Link) -> bool:
    """No double vote."""
    return link.target.height > last.target.height


def source_keeps(last: Link, link: Link) -> bool:
    """No surround vote, given that targets grow."""
    return link.source.height >= last.source.height


def may_follow(last: Link | None, link: Link) -> bool:
    """True when an honest validator whose last vote was for ``last`` may sign ``link``."""
    if link.source.height >= link.target.height:
        return False
    return last is None or (target_grows(last, link) and source_keeps(last, link))


# --- justification and finalization --------------------------------------------------------------------------


def counts(link: Link, ancestry: Ancestry) -> bool:
    """A link that holds counts only along one branch: the source is a proper ancestor of the target."""
    return link.source.height < link.target.height and ancestry.descends(link.target, link.source)


def justify(roots: Sequence[Checkpoint], links: Sequence[Link]) -> dict[Checkpoint, Link | None]:
    """The justified checkpoints, each with the first link (lowest target, then lowest source) that justifies it, the
    ``roots`` without one. ``links`` count and ascend by :attr:`Link.order`."""
    justified: dict[Checkpoint, Link | None] = dict.fromkeys(roots)
    for link in links:
        if link.source in justified and link.target not in justified:
            justified[link.target] = link
    return justified


def finalizes_by_one(link: Link, interval: Height) -> bool:
    """k = 1: a link from a justified checkpoint to the next."""
    return link.target.height == link.source.height + interval


def finalizes_by_two(
    link: Link, interval: Height, justified: Collection[Checkpoint], ancestry: Ancestry
) -> Checkpoint | None:
    """k = 2: a link from a justified checkpoint to the one after the next, where the next is justified too. The
    answer is that next one."""
    source, target = link
    if target.height != source.height + 2 * interval:
        return None
    for between in justified:
        if between.height == source.height + interval and on_one_branch(source, between, target, ancestry):
            return between
    return None


def on_one_branch(source: Checkpoint, between: Checkpoint, target: Checkpoint, ancestry: Ancestry) -> bool:
    """The three follow from each other."""
    return ancestry.descends(between, source) and ancestry.descends(target, between)


def finalize(
    root: Checkpoint,
    links: Sequence[Link],
    justified: Mapping[Checkpoint, Link | None],
    interval: Height,
    ancestry: Ancestry,
) -> dict[Checkpoint, tuple[Link, ...]]:
    """The finalized checkpoints, ascending, each with the links that finalize it (k = 1 where both rules do)."""
    finalized: dict[Checkpoint, tuple[Link, ...]] = {root: ()}
    found: dict[Checkpoint, tuple[Link, ...]] = {}
    for link in links:
        if link.source not in justified or len(found.get(link.source, ())) == 1:
            continue
        if finalizes_by_one(link, interval):
            found[link.source] = (link,)
            continue
        between = finalizes_by_two(link, interval, justified, ancestry)
        if between is not None and link.source not in found:
            found[link.source] = (link, *_justifying(between, links, justified))
    finalized |= {checkpoint: found[checkpoint] for checkpoint in sorted(found, key=lambda one: one.order)}
    return finalized


def _justifying(
    checkpoint: Checkpoint, links: Sequence[Link], justified: Mapping[Checkpoint, Link | None]
) -> tuple[Link, ...]:
    """The first link that justifies a checkpoint; none where that was long ago."""
    return next(((link,) for link in links if link.target == checkpoint and link.source in justified), ())


# --- quorums, and two sets over a boundary -------------------------------------------------------------------


def has_quorum(validators: ValidatorSet, keys: Collection[bytes]) -> bool:
    """True when the members of ``validators`` among the holders of ``keys`` are a quorum of its stake. Who belongs to
    two sets counts in both by one signature."""
    return stake_of_keys(validators, keys) >= validators.quorum


def stake_of_keys(validators: ValidatorSet, keys: Collection[bytes]) -> int:
    """The stake that the holders of ``keys`` have in this set."""
    return sum(stake for key, stake in zip(validators.public_keys, validators.stakes, strict=True) if key in keys)


def change_above(target: Checkpoint, sets: ValidatorSets, ancestry: Ancestry) -> SetChange | None:
    """The change of set that lies between the root and ``target``, the boundary's own checkpoint excluded: it is the
    last of the old set."""
    for change in sets.changes:
        if change.boundary.height < target.height and ancestry.descends(target, change.boundary):
            return change
    return None


def hands_over(change: SetChange, both: Finality, ancestry: Ancestry) -> tuple[Checkpoint, ...]:
    """The checkpoints at or above the boundary that both sets have finalized. ``both`` is what follows when every link
    above the boundary needs two quorums."""
    return tuple(
        checkpoint
        for checkpoint in both.finalized
        if checkpoint.height >= change.boundary.height and ancestry.descends(checkpoint, change.boundary)
    )


def needed_sets(
    link: Link, sets: ValidatorSets, handovers: Mapping[Checkpoint, tuple[Checkpoint, ...]], ancestry: Ancestry
) -> tuple[ValidatorSet, ...]:
    """The sets of which ``link`` needs a quorum each. ``handovers`` gives by boundary the checkpoints that both sets
    have finalized."""
    change = change_above(link.target, sets, ancestry)
    if change is None:
        return (sets.first,)
    if any(ancestry.descends(link.source, handover) for handover in handovers.get(change.boundary, ())):
        return (change.new,)
    return (sets.first, change.new)


def evaluate(
    *,
    root: Checkpoint,
    interval: Height,
    sets: ValidatorSets,
    signers: Mapping[Link, Collection[bytes]],
    ancestry: Ancestry,
) -> Finality:
    """Everything that follows from who signed which link (public keys; each link's signatures verified before).

    With a change of set in two passes: first every link above the boundary needs both sets; what that finalizes at or
    above the boundary lets links from there on stand on the new set alone. What the second pass finalizes hands over
    nothing further, or a checkpoint could be the reason for its own finality."""
    both = _follow(root, interval, sets, signers, ancestry, {})
    if not sets.changes:
        return both
    handovers = {change.boundary: hands_over(change, both, ancestry) for change in sets.changes}
    return _follow(root, interval, sets, signers, ancestry, handovers)


def _follow(
    root: Checkpoint,
    interval: Height,
    sets: ValidatorSets,
    signers: Mapping[Link, Collection[bytes]],
    ancestry: Ancestry,
    handovers: Mapping[Checkpoint, tuple[Checkpoint, ...]],
) -> Finality:
    held = [
        link
        for link, keys in signers.items()
        if counts(link, ancestry)
        and all(has_quorum(validators, keys) for validators in needed_sets(link, sets, handovers, ancestry))
    ]
    return follow(root, interval, held, ancestry)


def follow(
    root: Checkpoint,
    interval: Height,
    links: Iterable[Link],
    ancestry: Ancestry,
    known: Sequence[Checkpoint] = (),
) -> Finality:
    """What follows from links that hold and count, in any order, when ``known`` are justified besides the root."""
    ordered = tuple(sorted(links, key=lambda link: link.order))
    justified = justify((root, *known), ordered)
    return Finality(
        root=root,
        links=ordered,
        justified=justified,
        finalized=finalize(root, ordered, justified, interval, ancestry),
    )
