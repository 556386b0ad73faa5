"""The rules of finality for the one chain that this node has committed: which of its checkpoints are justified and
final, given the links that hold.

Bounds: the newest ``CHECKPOINTS_MAX`` checkpoints are remembered, and besides them the highest justified and the
highest finalized one, however far back a stall has left them; ``LINKS_MAX`` links between remembered checkpoints.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.finality.rules import follow
from consensus.finality.types import EPOCHS_MAX, Checkpoint, Link
from consensus.types import Epoch, Hash, Height, Integer

CHECKPOINTS_MAX: Final = 64
LINKS_MAX: Final = 4 * CHECKPOINTS_MAX
"""A link per checkpoint, when at most F is faulty. Beyond, the ones with the lowest targets are forgotten."""


class Boundary(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """``epoch`` began after the block at ``height``; or, as a hand-over, its validators alone decide from the final
    checkpoint at ``height`` on."""

    epoch: Integer
    height: Integer


class ChainState(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Where a chain's finality stands at its committed block ``(height, id)``: a pure function of the chain but for
    ``known``, which is what this node knows to be final: perhaps from votes, before the chain holds the certificate.
    ``justified`` are heights among ``checkpoints``; ``links`` are (source height, target height). ``boundaries`` are
    those that are not handed over yet."""

    height: Integer
    id: Hash
    checkpoints: Annotated[tuple[Checkpoint, ...], Meta(min_length=1, max_length=CHECKPOINTS_MAX + 2)]
    justified: Annotated[tuple[Integer, ...], Meta(min_length=1, max_length=CHECKPOINTS_MAX + 2)]
    links: Annotated[tuple[tuple[Integer, Integer], ...], Meta(max_length=LINKS_MAX)]
    finalized: Checkpoint
    known: Checkpoint
    handover: Boundary
    boundaries: Annotated[tuple[Boundary, ...], Meta(max_length=EPOCHS_MAX)]


def initial_state(root: Checkpoint, epoch: Epoch = 0) -> ChainState:
    """At the block where ``epoch`` begins: the genesis block."""
    return ChainState(
        height=root.height,
        id=root.id,
        checkpoints=(root,),
        justified=(root.height,),
        links=(),
        finalized=root,
        known=root,
        handover=Boundary(epoch=epoch, height=root.height),
        boundaries=(),
    )


class OneBranch:
    """The ancestry of a chain's own checkpoints."""

    __slots__ = ()

    def descends(self, descendant: Checkpoint, ancestor: Checkpoint) -> bool:
        """True by height: both are committed blocks of one chain."""
        return ancestor.height <= descendant.height


class ChainLinks:
    """Checkpoints of one chain, and what the links that hold between them justify and finalize."""

    __slots__ = ("_checkpoints", "_interval", "_justified", "_links", "finalized", "justified")

    def __init__(self, interval: Height, state: ChainState) -> None:
        self._interval = interval
        self._checkpoints = {checkpoint.height: checkpoint for checkpoint in state.checkpoints}
        self._justified: dict[Height, None] = dict.fromkeys(state.justified)
        self._links: dict[tuple[Height, Height], None] = dict.fromkeys(state.links)
        self.justified = self._checkpoints[max(self._justified)]
        self.finalized = state.finalized

    def checkpoint(self, height: Height) -> Checkpoint | None:
        """The remembered checkpoint at ``height``."""
        return self._checkpoints.get(height)

    def holds(self, link: Link) -> bool:
        """True when both ends are remembered checkpoints of this chain, in their order."""
        return (
            link.source.height < link.target.height
            and self._checkpoints.get(link.source.height) == link.source
            and self._checkpoints.get(link.target.height) == link.target
        )

    def has(self, link: Link) -> bool:
        """True when the link was added and is remembered."""
        return (link.source.height, link.target.height) in self._links

    def extend(self, checkpoint: Checkpoint) -> None:
        """The chain's next checkpoint; the oldest is forgotten."""
        self._checkpoints[checkpoint.height] = checkpoint
        pinned = (self.justified.height, self.finalized.height)
        old = [height for height in sorted(self._checkpoints)[:-CHECKPOINTS_MAX] if height not in pinned]
        for height in old:
            del self._checkpoints[height]
            self._justified.pop(height, None)
        if old:
            kept = self._checkpoints
            self._links = {pair: None for pair in self._links if pair[0] in kept and pair[1] in kept}

    def add(self, link: Link) -> tuple[Link, ...] | None:
        """A link that holds at a quorum, both ends on this chain. When it raises ``finalized``, the links that
        finalize it; what is final stays so."""
        self._links[link.source.height, link.target.height] = None
        if len(self._links) > LINKS_MAX:
            del self._links[min(self._links, key=lambda pair: (pair[1], pair[0]))]
        at = self._checkpoints
        known = [at[height] for height in self._justified]
        links = [Link(at[source], at[target]) for source, target in self._links]
        finality = follow(known[0], self._interval, links, OneBranch(), known)
        for checkpoint in finality.justified:
            self._justified[checkpoint.height] = None
        self.justified = at[max(self._justified)]
        final = finality.highest_finalized
        if final.height <= self.finalized.height:
            return None
        self.finalized = final
        return finality.finalized[final]

    def state(
        self, height: Height, block_id: bytes, known: Checkpoint, handover: Boundary, boundaries: tuple[Boundary, ...]
    ) -> ChainState:
        """To go on from after a restart, at the chain's block ``(height, block_id)``."""
        return ChainState(
            height=height,
            id=block_id,
            checkpoints=tuple(self._checkpoints[height] for height in sorted(self._checkpoints)),
            justified=tuple(sorted(self._justified)),
            links=tuple(sorted(self._links)),
            finalized=self.finalized,
            known=known,
            handover=handover,
            boundaries=boundaries,
        )
