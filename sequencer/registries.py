"""The registry of validators where the sequencer needs it: after each of the last committed blocks, and after blocks
that are not committed yet.

Only the ledger moves it; builder, judge and mempool read it. There is one where the chain spec has a
``reconfiguration``, and none elsewhere.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from consensus.codec import Canonical, Malformed, encode
from consensus.genesis import SYSTEM_ROLLUP
from consensus.reconfiguration import ChangeAccepted, ChangeIgnored, ChangeOutcome
from consensus.registry import Folded, Registry
from consensus.types import Block, BlockHeader, BlockId, Height
from sequencer.body import Payload
from sequencer.merkle import TRANSACTIONS_MAX

FOLDED_MAX: Final = 256
"""Blocks whose registry is remembered, so that the signatures of a block are checked once."""
HEIGHTS_MIN: Final = 1024
"""Committed heights whose registry is known here, at least."""


class _Outcomes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    outcomes: Annotated[tuple[ChangeAccepted | ChangeIgnored, ...], Meta(max_length=TRANSACTIONS_MAX)]


_outcomes: Final = Canonical(_Outcomes)


class SavedRegistry(NamedTuple):
    """What a block adds to the index: the registry after it, empty where it is the same as before, and what became of
    its changes, empty where it has none."""

    registry: bytes
    outcomes: bytes


class Registries:
    """See the module. Starts before the first block, or after :meth:`restore`. ``window_heights`` is the chain spec's
    ``deduplication_heights``."""

    __slots__ = ("_changes", "_folded", "_heights_max", "_lowest", "height", "latest")

    def __init__(self, first: Registry, window_heights: int) -> None:
        self.height: Height = 0
        self.latest = first
        self._lowest: Height = 0
        self._heights_max = max(window_heights, HEIGHTS_MIN)
        self._changes: deque[tuple[Height, Registry]] = deque([(0, first)])
        self._folded: OrderedDict[BlockId, Folded] = OrderedDict()

    def restore(self, height: Height, registry: bytes) -> None:
        """Begin after the committed block at ``height``, with what was saved last up to there (empty: nothing ever).
        Raises ``ValueError`` for bytes that are no registry."""
        if registry:
            restored = self.latest.decode(registry)
            if isinstance(restored, Malformed):
                raise ValueError(f"the saved registry of validators cannot be read: {restored.reason}")
            self.latest = restored
        self.height = self._lowest = height
        self._changes = deque([(height, self.latest)])

    def at(self, height: Height) -> Registry | None:
        """The registry after the committed block at ``height``; None above the last one, and for one that is no longer
        known here."""
        if not self._lowest <= height <= self.height:
            return None
        return next((registry for since, registry in reversed(self._changes) if since <= height), None)

    def on_path(
        self, base: Height, path: Sequence[tuple[Block, bytes | memoryview]], payload_of: Callable[[int], Payload]
    ) -> Registry | None:
        """The registry after a path of uncommitted blocks that stands on the committed height ``base``. ``payload_of``
        decodes the path's block at an index. None where :meth:`at` has none."""
        start = len(path)
        while start and path[start - 1][0].id not in self._folded:
            start -= 1
        registry = self._folded[path[start - 1][0].id].registry if start else self.at(base)
        for index in range(start, len(path)):
            if registry is None:
                return None
            registry = self._fold(registry, path[index][0], payload_of(index)).registry
        return registry

    def take(self, block: Block, payload: Payload) -> SavedRegistry:
        """The next committed block. Raises ``RuntimeError`` for a header that names other validators than the registry:
        a bug here, or a quorum that broke the rules; either way nothing may be built on it."""
        header = block.header
        fault = header_fault(self.latest, header)
        if fault or header.epoch != self.latest.epoch:
            raise RuntimeError(
                f"committed {block} does not fit the registry of epoch {self.latest.epoch}: "
                f"{fault or f'its epoch is {header.epoch}'}"
            )
        folded = self._fold(self.latest, block, payload)
        self.height = header.height
        changed = folded.registry is not self.latest
        if changed:
            self.latest = folded.registry
            self._changes.append((self.height, self.latest))
        self._lowest = max(self._lowest, self.height - self._heights_max)
        while len(self._changes) > 1 and self._changes[1][0] <= self._lowest:
            self._changes.popleft()
        return SavedRegistry(
            self.latest.encode() if changed else b"", encode(_Outcomes(folded.outcomes)) if folded.outcomes else b""
        )

    def _fold(self, parent: Registry, block: Block, payload: Payload) -> Folded:
        """A block's id commits to all its ancestors, so it stands for the registry after it."""
        folded = self._folded.get(block.id)
        if folded is None:
            section = payload.section(SYSTEM_ROLLUP)
            folded = parent.after(block.header.height, () if section is None else section.transactions)
            self._folded[block.id] = folded
            if len(self._folded) > FOLDED_MAX:
                self._folded.popitem(last=False)
        return folded


def header_fault(parent: Registry, header: BlockHeader) -> str:
    """Why a header does not name the validators that the registry after its parent asks for; empty when it does."""
    named = next_validators_hash(parent, header.height)
    if header.next_validators_hash == named:
        return ""
    return f"it names next validators {header.next_validators_hash.hex() or 'none'}, not {named.hex() or 'none'}"


def next_validators_hash(parent: Registry, height: Height) -> bytes:
    """What the header at ``height`` must name; empty for none."""
    validators = parent.next_validators(height)
    return b"" if validators is None else validators.hash


def outcomes_of(saved: bytes) -> tuple[ChangeOutcome, ...]:
    """What :class:`SavedRegistry` holds of a block's changes, in their order. Raises ``ValueError`` for other bytes."""
    if not saved:
        return ()
    decoded = _outcomes.decode(saved)
    if isinstance(decoded, Malformed):
        raise ValueError(f"saved outcomes cannot be read: {decoded.reason}")
    return decoded.outcomes
