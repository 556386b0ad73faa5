"""What is wrong with a proposed block by itself, whatever the protocol, and which proposal of a view came first."""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

import msgspec

from consensus.epochs import CLOSING_PAYLOAD_ROOT, EpochInfo
from consensus.types import EMPTY_PAYLOAD_ROOT, HASH_SIZE, BlockHeader, View

FIRST_PROPOSALS_KEPT: Final = 64
"""Views behind the current one for which the first proposal is remembered, to recognise a second."""


def block_fault(header: BlockHeader, body: memoryview, epoch: EpochInfo, payload_size_max: int) -> str | None:
    """None when the block is of this chain and epoch, follows from its certificate, and its body has the size that
    the header says. Who may propose it, and what entitles it to its view, is the protocol's to judge; whether
    it must name the next validators, the payload source's; what its ancestors forbid, the pipeline's."""
    justify = header.justify
    if header.chain != epoch.chain:
        return "of another chain"
    if not header.epoch == justify.epoch == epoch.epoch:
        return "of another epoch"
    if header.parent != justify.block_id or header.height != justify.height + 1 or header.view <= justify.view:
        return "the block does not follow from its certificate"
    if len(header.next_validators_hash) not in (0, HASH_SIZE):
        return f"names validators by a hash of {len(header.next_validators_hash)} bytes"
    size = len(body)
    if size != header.payload_size or size > payload_size_max:
        return f"a body of {size} bytes where the header says {header.payload_size}"
    if (size == 0) != (header.payload_root in (EMPTY_PAYLOAD_ROOT, CLOSING_PAYLOAD_ROOT)):
        return "the empty payload and its root go together"
    return None


class SignedProposal(Protocol):
    """A protocol's proposal message, as far as recognising a second one goes."""

    @property
    def header(self) -> BlockHeader: ...
    @property
    def body(self) -> memoryview: ...


P = TypeVar("P", bound=SignedProposal)


def without_body(proposal: P) -> P:
    """What a leader signed is the block id: as evidence, and in memory, a proposal goes without its payload."""
    if not len(proposal.body):
        return proposal
    # Every proposal is a Struct; a Protocol cannot say so.
    return msgspec.structs.replace(proposal, body=memoryview(b""))  # type: ignore[type-var]


class FirstProposals(Generic[P]):
    """The first proposal of each of the last views, bodies left out, and which views had a second one."""

    __slots__ = ("_current", "_first", "_reported")

    def __init__(self) -> None:
        self._first: dict[View, P] = {}
        self._reported: dict[View, None] = {}
        self._current: View = 1

    def advance(self, view: View) -> None:
        """The current view is ``view``: forget what lies too far behind it."""
        self._current = view
        oldest = view - FIRST_PROPOSALS_KEPT
        if self._first and min(self._first) < oldest:
            for old in [known for known in self._first if known < oldest]:
                del self._first[old]
                self._reported.pop(old, None)

    def keep(self, proposal: P) -> bool:
        """True when this is the first of its view, which is kept from now on. False for any other, and for views too
        old to tell: a leader of long ago must not fill the block tree. Its signature verified."""
        view = proposal.header.view
        if view in self._first or view < self._current - FIRST_PROPOSALS_KEPT:
            return False
        self._first[view] = without_body(proposal)
        return True

    def contradicted(self, proposal: P) -> P | None:
        """The first of its view when this is a different one; once per view. Its signature verified."""
        view = proposal.header.view
        first = self._first.get(view)
        if first is None or first.header == proposal.header or view in self._reported:
            return None
        self._reported[view] = None
        return first
