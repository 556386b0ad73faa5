"""Notices contradictions across views when the second message arrives, whatever the protocol.

An offence that tells where to look (:class:`~consensus.offences.Watch`) has the form: whoever *promised* a value in a
view does not show less in that view or a later one. So of each signer, in the common case, a promise is compared with
the highest view of a breach, and a breach with the highest value of a promise: two numbers. Only where these leave room
is the new message judged against the few that are remembered, by the offence itself and then by both signatures.

Messages are remembered unverified, as votes are tallied, and under the same condition: their sender, whom the transport
authenticates, is their signer. So nobody can fill or spoil what is remembered of another, and nobody is reported whose
signatures do not verify: a report is evidence, or is not made. Whoever sends what does not verify blinds this node to
itself alone; in a transcript it is found all the same (``forensics.py``).

Double votes in one slot are the engines' own to notice, and a pair of kinds in one view is Simplex's.

Bounds: ``REMEMBERED_MAX`` messages of each signer and side of an offence and one with the highest value;
``FAILURES_MAX`` verifications that fail, and one report of each signer and offence, in an epoch; where an offence needs
headers, ``HEADERS_MAX`` of all proposers together, but no fewer than ``HEADERS_LEAST`` of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, NamedTuple, cast

import msgspec

from consensus.codec import digest
from consensus.crypto.scheme import Scheme
from consensus.engine import ReportEvidence
from consensus.epochs import EpochInfo
from consensus.offences import Offence, Reading
from consensus.protocols.definition import ProtocolDefinition, Statement
from consensus.types import BlockHeader, BlockId, PeerId, StoredBlock, ValidatorIndex

REMEMBERED_MAX: Final = 8
FAILURES_MAX: Final = 16
HEADERS_MAX: Final = 64
"""Headers kept, where an offence needs headers: an equal share of each proposer's."""
HEADERS_LEAST: Final = 4

Numbers = Callable[[msgspec.Struct], tuple[int, int]]
"""The view and the value of a message."""


class _Signer:
    """One signer's part of one offence: the highest value that it promised, and the highest view of a breach; and what
    is remembered, one message of each view that came after another."""

    __slots__ = ("best", "breach_view", "breaches", "highest_value", "highest_view", "promise_view", "promises")

    def __init__(self) -> None:
        self.highest_value = -1
        self.highest_view = -1
        self.promise_view = -1
        self.breach_view = -1
        self.best: msgspec.Struct | None = None
        self.promises: deque[msgspec.Struct] = deque(maxlen=REMEMBERED_MAX)
        self.breaches: deque[msgspec.Struct] = deque(maxlen=REMEMBERED_MAX)

    def breaches_of(self, view: int, value: int, numbers: Numbers) -> list[msgspec.Struct]:
        """What may contradict a promise. ``numbers`` reads a breach."""
        read = [(numbers(message), message) for message in self.breaches]
        return [message for (later, shown), message in read if later >= view and shown < value]

    def promises_before(self, view: int, value: int, numbers: Numbers) -> list[msgspec.Struct]:
        """What a breach may contradict, the highest first. ``numbers`` reads a promise."""
        promises = self.promises if self.best is None else (self.best, *self.promises)
        read = [(numbers(message), message) for message in promises]
        return [message for (earlier, promised), message in read if earlier <= view and promised > value]


class _Role(NamedTuple):
    """What a message type is in one offence."""

    offence: int
    kind: str
    """The kind of the votes that are meant; empty for all messages of the type."""
    is_promise: bool
    numbers: Numbers
    others: Numbers
    """Reads the messages of the other side."""


class OffenceWatch:
    """Watches what the validators of one epoch sign. ``lookup`` gives uncommitted blocks, for offences that need
    headers; those that were proposed lately are known besides."""

    __slots__ = (
        "_definition", "_epoch", "_failures", "_headers_max", "_keeps_headers", "_lookup", "_offences", "_proposed",
        "_reported", "_roles", "_scheme", "_signers",
    )  # fmt: skip

    def __init__(
        self,
        definition: ProtocolDefinition,
        epoch: EpochInfo,
        scheme: Scheme,
        lookup: Callable[[BlockId], StoredBlock | None],
    ) -> None:
        self._definition = definition
        self._epoch = epoch
        self._scheme = scheme
        self._lookup = lookup
        self._offences: list[Offence] = []
        self._roles: dict[type[msgspec.Struct], tuple[_Role, ...]] = {}
        for offence in definition.offences:
            if offence.watch is not None:
                # A message that is both promises first: it is no breach of itself, and none that came before it.
                self._add(offence.watch.promise, offence.watch.breach, is_promise=True)
                self._add(offence.watch.breach, offence.watch.promise, is_promise=False)
                self._offences.append(offence)
        self._signers: dict[PeerId, tuple[ValidatorIndex, tuple[_Signer, ...]]] = {}
        """Of the validators that were heard."""
        self._failures = [0] * len(epoch.validators)
        self._keeps_headers = any(offence.headers_needed for offence in self._offences)
        self._headers_max = max(HEADERS_MAX // len(epoch.validators), HEADERS_LEAST)
        self._proposed: dict[PeerId, dict[BlockId, BlockHeader]] = {}
        self._reported: dict[tuple[ValidatorIndex, int], None] = {}

    def _add(self, reading: Reading, other: Reading, *, is_promise: bool) -> None:
        role = _Role(len(self._offences), reading.kind, is_promise, _numbers(reading), _numbers(other))
        self._roles[reading.message] = (*self._roles.get(reading.message, ()), role)

    def heard(self, peer: PeerId, message: msgspec.Struct) -> ReportEvidence | None:
        """Take a message of this epoch. What it proves together with an earlier one, where both signatures verify."""
        roles = self._roles.get(type(message))
        if roles is None:
            if self._keeps_headers:
                self._keep_header(peer, message)
            return None
        sender = self._signers.get(peer) or self._begin(peer)
        # ``roles`` has signed messages only, and a kind only where the message has one.
        if sender is None or sender[0] != message.signer:  # type: ignore[attr-defined]
            return None
        signer, signed = sender
        found: ReportEvidence | None = None
        for offence, kind, is_promise, numbers, others in roles:
            if kind and message.kind != kind:  # type: ignore[attr-defined]
                continue
            known = signed[offence]
            view, value = numbers(message)
            if is_promise:
                if view <= known.highest_view and found is None:
                    found = self._judge(signer, offence, message, known.breaches_of(view, value, others))
                if value > known.highest_value:
                    known.highest_value = value
                    known.best = message
                if view != known.promise_view:  # it is sent again while a view lasts
                    known.promise_view = view
                    known.promises.append(message)
            else:
                if value < known.highest_value and found is None:
                    found = self._judge(signer, offence, message, known.promises_before(view, value, others))
                if view > known.highest_view:
                    known.highest_view = view
                if view != known.breach_view:
                    known.breach_view = view
                    known.breaches.append(message)
        return found

    def _begin(self, peer: PeerId) -> tuple[ValidatorIndex, tuple[_Signer, ...]] | None:
        """The first message of a validator; None for anybody else's."""
        index = self._epoch.validators.index_of(peer)
        if index is None:
            return None
        self._signers[peer] = (index, tuple([_Signer() for _ in self._offences]))
        return self._signers[peer]

    def _is_open(self, signer: ValidatorIndex, offence: int) -> bool:
        return self._failures[signer] < FAILURES_MAX and (signer, offence) not in self._reported

    def _judge(
        self, signer: ValidatorIndex, offence: int, message: msgspec.Struct, others: Sequence[msgspec.Struct]
    ) -> ReportEvidence | None:
        """The first pair of ``message`` and one of ``others`` that is the offence, both signatures verified."""
        is_open = bool(others) and self._is_open(signer, offence)
        statement = self._definition.statement(message) if is_open else None
        if statement is None:
            return None
        for other in others:
            said = self._definition.statement(other)
            if said is None:
                continue
            for first, second, messages in (
                (statement, said, (message, other)),
                (said, statement, (other, message)),
            ):
                headers = self._headers(self._offences[offence], first)
                if headers is None or not self._offences[offence].forbids(first.subject, second.subject, headers):
                    continue
                if self._verifies(statement) and self._verifies(said):
                    self._reported[signer, offence] = None
                    return ReportEvidence(messages[0], messages[1], headers)
                self._failures[signer] += 1
                if not self._is_open(signer, offence):
                    return None
        return None

    def _headers(self, offence: Offence, first: Statement) -> tuple[BlockHeader, ...] | None:
        """Those that the offence needs; None where they are not at hand."""
        found: list[BlockHeader] = []
        named: BlockId = getattr(first.subject, "block_id", b"")
        while len(found) < offence.headers_needed:
            header = self._header(named)
            if header is None:
                return None
            found.append(header)
            named = header.parent
        return tuple(found)

    def _header(self, block_id: BlockId) -> BlockHeader | None:
        block = self._lookup(block_id)
        if block is not None:
            return block.header
        return next((known[block_id] for known in self._proposed.values() if block_id in known), None)

    def _keep_header(self, peer: PeerId, message: msgspec.Struct) -> None:
        """Where an offence needs headers, those that validators propose are kept beyond their commit: by their hash, so
        that it does not matter whether they are any good."""
        header = getattr(message, "header", None)
        if isinstance(header, BlockHeader) and self._epoch.validators.index_of(peer) is not None:
            known = self._proposed.setdefault(peer, {})
            known[digest(header)] = header
            if len(known) > self._headers_max:
                del known[next(iter(known))]

    def _verifies(self, statement: Statement) -> bool:
        key = self._epoch.validators.public_keys[statement.signer]
        return self._scheme.verify(key, self._epoch.domain.bytes_to_sign(statement.subject), statement.signature)


def _numbers(reading: Reading) -> Numbers:
    return cast("Numbers", attrgetter(reading.view, reading.value))
