"""Transactions that wait to be ordered: one bounded queue per rollup, and the fair way out of them.

A transaction stays until a committed block orders it or until it expires. One that was proposed in a block that was
then abandoned never left: the builder passes over what its own path orders, and nothing else.

*Fairness* is deficit round robin by bytes (Shreedhar and Varghese, SIGCOMM 1995) over the rollups that have something
to order, with a quantum of an equal share of what is left of the payload: a rollup that asks for less than its share
gets all of it, what it leaves is shared by the others, and one whose next transaction exceeds its share saves up.

Changes of the validators (rollup ``SYSTEM_ROLLUP``, on a chain with a registry) have a queue like any rollup's, but
what comes in is judged first: a change that the next block's registry would ignore is refused with the reason. A
member's own changes may wait ``OWN_REMEMBERED_MAX`` at a time, so that members do not fill the queue for the governors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Final, TypeAlias

import msgspec
import trio

from consensus.genesis import SYSTEM_ROLLUP, ChainSpec
from consensus.reconfiguration import ChangeIgnored, own_key
from consensus.registry import CHANGES_PER_BLOCK_MAX, OWN_REMEMBERED_MAX
from consensus.types import VALIDATORS_MAX, Height
from sequencer.body import (
    BODY_OVERHEAD_BYTES_MAX,
    SECTION_OVERHEAD_BYTES_MAX,
    TRANSACTION_OVERHEAD_BYTES_MAX,
    PayloadSection,
    SectionBody,
)
from sequencer.merkle import TRANSACTIONS_MAX
from sequencer.registries import Registries
from sequencer.transactions import TransactionId, transaction_prefix
from sequencer.window import CommittedWindow

FORWARD_BYTES_MAX: Final = 64 * 1024
"""About so many bytes of what was submitted here are out with the other validators at a time."""
FORWARD_ENTRIES_MAX: Final = 4_096
EXPIRED_REMEMBERED_MAX: Final = 65_536
QUANTUM_BYTES_MIN: Final = 1024
SCAN_ENTRIES: Final = 512
"""How many entries the builder looks at in one go."""
CHANGES_MAX: Final = 2 * OWN_REMEMBERED_MAX * VALIDATORS_MAX
"""Changes of the validators that wait here: every member's own, and as many of the governors'."""
CHANGES_BYTES_MAX: Final = 16 * 1024 * 1024


# --- answers to a submission -----------------------------------------------------------------------------------


class Pending(msgspec.Struct, frozen=True, gc=False, tag="pending"):
    """It waits here; ``known`` when it already did."""

    transaction_id: TransactionId
    known: bool = False


class Ordered(msgspec.Struct, frozen=True, gc=False, tag="ordered"):
    """It was ordered at ``height``, within the last K. Nothing to do."""

    transaction_id: TransactionId
    height: Height


class TooLarge(msgspec.Struct, frozen=True, gc=False, tag="too_large"):
    """Send less than ``size_bytes_max`` of data."""

    size_bytes: int
    size_bytes_max: int


class Full(msgspec.Struct, frozen=True, gc=False, tag="full"):
    """The rollup's queue is full: resubmit later, or to another validator."""

    rollup_id: int
    pending: int
    pending_bytes: int


class UnknownRollup(msgspec.Struct, frozen=True, gc=False, tag="unknown_rollup"):
    """The chain does not order this rollup's transactions."""

    rollup_id: int


class Expired(msgspec.Struct, frozen=True, gc=False, tag="expired"):
    """It could be ordered up to ``valid_until`` only, and the next block is ``next_height``."""

    valid_until: Height
    next_height: Height


class ExpiryTooFar(msgspec.Struct, frozen=True, gc=False, tag="expiry_too_far"):
    """``valid_until`` must be 0 or at most ``latest`` now."""

    valid_until: Height
    latest: Height


class ChangeRefused(msgspec.Struct, frozen=True, gc=False, tag="change_refused"):
    """The change of the validators would have no effect now; one that ``is_forged`` never would, here or anywhere."""

    reason: str
    is_forged: bool = False


Refused: TypeAlias = TooLarge | Full | UnknownRollup | Expired | ExpiryTooFar | ChangeRefused
Submission: TypeAlias = Pending | Ordered | Refused
NOT_LOOKED_AT: Final = ChangeRefused("not looked at: it came together with a change that nobody signed")


class SubmissionRefused(Exception):
    """A transaction was not taken. ``refusal`` says why, typed: one of :data:`Refused`, or what a node's API adds."""

    def __init__(self, refusal: msgspec.Struct) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class ForwardedTransaction(msgspec.Struct, frozen=True, gc=False):
    """A transaction that other validators should have too."""

    rollup_id: int
    valid_until: Height
    data: bytes


@dataclass(frozen=True, kw_only=True)
class MempoolLimits:
    """Bounds of each rollup's queue; the whole pool is bounded by their product with the number of rollups.
    ``bytes_max`` counts data; an entry costs about 350 bytes of memory besides."""

    bytes_max: int = 32 * 1024 * 1024
    entries_max: int = 131_072


_Entry: TypeAlias = tuple[Height, bytes]
_Item: TypeAlias = tuple[TransactionId, _Entry]


class _Queue:
    """One rollup's pending transactions, oldest first, and what it may still send in this round."""

    __slots__ = ("bytes", "credit_bytes", "entries", "limits", "rollup_id", "section_max")

    def __init__(self, rollup_id: int, limits: MempoolLimits, section_max: int) -> None:
        self.rollup_id = rollup_id
        self.limits = limits
        self.section_max = section_max
        self.entries: dict[TransactionId, _Entry] = {}
        self.bytes = 0
        self.credit_bytes = 0


class Mempool:
    """The pending transactions of one node."""

    def __init__(
        self,
        spec: ChainSpec,
        window: CommittedWindow,
        limits: MempoolLimits | None = None,
        registries: Registries | None = None,
    ) -> None:
        self.limits = limits or MempoolLimits()
        self._window = window
        self._registries = registries
        self._expiry_span = spec.deduplication_heights
        self._transaction_size_max = spec.transaction_size_max
        self._queues = {rollup_id: _Queue(rollup_id, self.limits, TRANSACTIONS_MAX) for rollup_id in spec.rollups}
        if registries is not None:
            changes = MempoolLimits(bytes_max=CHANGES_BYTES_MAX, entries_max=CHANGES_MAX)
            self._queues[SYSTEM_ROLLUP] = _Queue(SYSTEM_ROLLUP, changes, CHANGES_PER_BLOCK_MAX)
        self._own_changes: dict[TransactionId, bytes] = {}
        self._expiring: dict[Height, dict[TransactionId, int]] = {}
        self._expired: dict[TransactionId, None] = {}
        self._kept_back: dict[TransactionId, int] = {}
        self._out: dict[TransactionId, int] = {}
        self._out_bytes = 0
        self._starts_with = 0
        self._arrivals = trio.lowlevel.ParkingLot()

    # --- in ------------------------------------------------------------------------------------------------------

    def add(self, rollup_id: int, valid_until: Height, data: bytes, *, local: bool = True) -> Submission:
        """:meth:`add_batch` of one."""
        return self.add_batch(rollup_id, ((valid_until, data),), local=local)[0]

    def add_batch(
        self, rollup_id: int, transactions: Sequence[tuple[Height, bytes]], *, local: bool = True
    ) -> list[Submission]:
        """Take ``(valid_until, data)`` of one rollup, one answer each, in order. Submitting again is harmless and gives
        the transaction's present state. ``local`` is False for what another validator forwarded. Nothing after a change
        that is forged is looked at."""
        queue = self._queues.get(rollup_id)
        if queue is None:
            return [UnknownRollup(rollup_id)] * len(transactions)
        next_height = self._window.height + 1
        prefixes = {
            valid_until: transaction_prefix(rollup_id, valid_until)
            for valid_until in dict.fromkeys([valid_until for valid_until, _ in transactions])
            if not valid_until or next_height <= valid_until <= next_height + self._expiry_span
        }
        before = len(queue.entries)
        answers: list[Submission] = []
        for entry in transactions:
            answers.append(self._admit(queue, prefixes.get(entry[0]), entry))
            if isinstance(answers[-1], ChangeRefused) and answers[-1].is_forged:
                # One signature is checked for whoever made it up; the next ones would be no better.
                answers += [NOT_LOOKED_AT] * (len(transactions) - len(answers))
                break
        if len(queue.entries) > before:
            if local:
                new = list(islice(reversed(queue.entries), len(queue.entries) - before))
                self._kept_back.update(dict.fromkeys(reversed(new), rollup_id))
            self._arrivals.unpark_all()
        return answers

    def _admit(self, queue: _Queue, prefix: bytes | None, entry: _Entry) -> Submission:
        valid_until, data = entry
        size_bytes = len(data)
        if size_bytes > self._transaction_size_max:
            return TooLarge(size_bytes, self._transaction_size_max)
        if prefix is None:
            return self._unorderable(valid_until)
        transaction_id = sha256(prefix + data).digest()
        if transaction_id in queue.entries:
            return Pending(transaction_id, True)
        height = self._window.ordered_at(transaction_id)
        if height is not None:
            return Ordered(transaction_id, height)
        limits = queue.limits
        if queue.bytes + size_bytes > limits.bytes_max or len(queue.entries) >= limits.entries_max:
            return Full(queue.rollup_id, len(queue.entries), queue.bytes)
        if queue.rollup_id == SYSTEM_ROLLUP:
            refused = self._judge_change(transaction_id, data)
            if refused is not None:
                return refused
        queue.entries[transaction_id] = entry
        queue.bytes += size_bytes
        if valid_until:
            self._expiring.setdefault(valid_until, {})[transaction_id] = queue.rollup_id
        return Pending(transaction_id)

    def _judge_change(self, transaction_id: TransactionId, data: bytes) -> ChangeRefused | None:
        """Why a change of the validators is not taken; None when it is."""
        if self._registries is None:
            raise ValueError("a queue for changes of validators that never change")
        member = own_key(data)
        if member:  # before its signatures are looked at, of which a member can make as many as it likes
            waiting = sum(1 for each in self._own_changes.values() if each == member)
            if waiting >= OWN_REMEMBERED_MAX:
                return ChangeRefused(
                    f"{waiting} changes that {member.hex()} signed wait already: wait until they are ordered"
                )
        outcome, is_forged = self._registries.latest.opinion(self._window.height + 1, data)
        if isinstance(outcome, ChangeIgnored):
            return ChangeRefused(outcome.reason, is_forged)
        if member:
            self._own_changes[transaction_id] = member
        return None

    def _unorderable(self, valid_until: Height) -> Submission:
        next_height = self._window.height + 1
        if valid_until < next_height:
            return Expired(valid_until, next_height)
        return ExpiryTooFar(valid_until, next_height + self._expiry_span)

    async def arrival(self) -> None:
        """Return when a new transaction has come in after this call."""
        await self._arrivals.park()

    # --- forwarding ----------------------------------------------------------------------------------------------

    def pending_to_forward(self) -> list[ForwardedTransaction]:
        """What the other validators should have now, of what was submitted here and they were not offered yet: oldest
        first, as far as :data:`FORWARD_BYTES_MAX` and :data:`FORWARD_ENTRIES_MAX` allow.

        Whoever leads next then has work, and orders a little at once. More copies would cost more than they bring: of
        a flood, the rest waits for the own turn, and some of it follows when some was ordered. A help to latency only;
        nothing is lost by losing it."""
        offered: list[ForwardedTransaction] = []
        for transaction_id in list(islice(self._kept_back, FORWARD_ENTRIES_MAX)):
            if self._out_bytes >= FORWARD_BYTES_MAX:
                break
            rollup_id = self._kept_back.pop(transaction_id)
            valid_until, data = self._queues[rollup_id].entries[transaction_id]
            self._out[transaction_id] = len(data)
            self._out_bytes += len(data)
            offered.append(ForwardedTransaction(rollup_id, valid_until, data))
        return offered

    def oldest(self, size_bytes_max: int) -> list[ForwardedTransaction]:
        """What has waited longest here, of every rollup in turn, up to about ``size_bytes_max`` of data: what a node
        that never leads must pass on again."""
        share = size_bytes_max // max(1, sum(1 for queue in self._queues.values() if queue.entries))
        chosen: list[ForwardedTransaction] = []
        for queue in self._queues.values():
            size_bytes = 0
            for valid_until, data in queue.entries.values():
                if size_bytes >= share:
                    break
                chosen.append(ForwardedTransaction(queue.rollup_id, valid_until, data))
                size_bytes += len(data)
        return chosen

    # --- state ---------------------------------------------------------------------------------------------------

    def is_pending(self, transaction_id: TransactionId) -> bool:
        """Whether it waits here."""
        return any(transaction_id in queue.entries for queue in self._queues.values())

    def has_expired(self, transaction_id: TransactionId) -> bool:
        """Whether it waited here and expired, within the last :data:`EXPIRED_REMEMBERED_MAX` that did."""
        return transaction_id in self._expired

    def pending(self, rollup_id: int) -> tuple[int, int]:
        """How many transactions of a rollup wait, and their bytes of data. Raises ``KeyError`` for a rollup that is not
        of this chain."""
        queue = self._queues[rollup_id]
        return len(queue.entries), queue.bytes

    # --- out -----------------------------------------------------------------------------------------------------

    def committed(self, height: Height, sections: Iterable[PayloadSection]) -> list[TransactionId]:
        """Take out what the block at ``height`` ordered, and what can no longer be ordered after it: the ids of the
        latter are returned."""
        for section in sections:
            queue = self._queues.get(section.rollup_id)
            if queue is not None and queue.entries:
                for transaction_id in section.ids:
                    self._remove(queue, transaction_id)
        expired: list[TransactionId] = []
        # Expiries lie at most K + 1 heights ahead, so there are few; heights may jump when the node catches up.
        for valid_until in [valid_until for valid_until in self._expiring if valid_until <= height]:
            for transaction_id, rollup_id in list(self._expiring[valid_until].items()):
                self._remove(self._queues[rollup_id], transaction_id)
                expired.append(transaction_id)
        self._remember_expired(expired)
        return expired

    def _remove(self, queue: _Queue, transaction_id: TransactionId) -> None:
        entry = queue.entries.pop(transaction_id, None)
        if entry is None:
            return
        valid_until, data = entry
        queue.bytes -= len(data)
        if self._own_changes:
            self._own_changes.pop(transaction_id, None)
        if self._kept_back.pop(transaction_id, None) is None:
            self._out_bytes -= self._out.pop(transaction_id, 0)
        if valid_until:
            expiring = self._expiring[valid_until]
            del expiring[transaction_id]
            if not expiring:
                del self._expiring[valid_until]

    def _remember_expired(self, expired: list[TransactionId]) -> None:
        self._expired.update(dict.fromkeys(expired))
        for transaction_id in list(islice(self._expired, max(0, len(self._expired) - EXPIRED_REMEMBERED_MAX))):
            del self._expired[transaction_id]

    # --- the fair choice -----------------------------------------------------------------------------------------

    def select(
        self, *, height: Height, size_bytes_max: int, excluded: Sequence[Collection[TransactionId]]
    ) -> list[tuple[SectionBody, tuple[TransactionId, ...]]]:
        """What a block at ``height`` may carry: sections ascending by rollup id, at most ``size_bytes_max`` as a body,
        each queue in order of arrival, nothing expired and nothing of ``excluded``. Everything stays pending."""
        cursors = [
            cursor for queue in self._in_rotation() if (cursor := _Cursor(queue, height, excluded)).head is not None
        ]
        if not cursors:
            return []
        room = _Room(size_bytes_max - BODY_OVERHEAD_BYTES_MAX, TRANSACTIONS_MAX)
        backlogged = cursors
        while any(cursor.fits(room) for cursor in backlogged):
            quantum = max(room.bytes // len(backlogged), QUANTUM_BYTES_MIN)
            for cursor in backlogged:
                cursor.grant(quantum)
                cursor.take(room)
            backlogged = [cursor for cursor in backlogged if cursor.head is not None]
        # The next payload starts with the first that got nothing, or else with another one than this did.
        passed_over = next((cursor for cursor in cursors if not cursor.ids), cursors[1 % len(cursors)])
        self._starts_with = passed_over.queue.rollup_id
        sections = [cursor.section() for cursor in cursors if cursor.ids]
        sections.sort(key=lambda section: section[0].rollup_id)
        return sections

    def _in_rotation(self) -> list[_Queue]:
        """The queues that hold anything, ascending by rollup id but starting with the one whose turn it is."""
        queues = [queue for queue in self._queues.values() if queue.entries]
        start = next((i for i, queue in enumerate(queues) if queue.rollup_id >= self._starts_with), 0)
        return queues[start:] + queues[:start]


class _Room:
    """What is left of a payload under construction."""

    __slots__ = ("bytes", "transactions")

    def __init__(self, size_bytes: int, transactions: int) -> None:
        self.bytes = size_bytes
        self.transactions = transactions


class _Cursor:
    """A walk along one queue that takes what its credit pays for."""

    __slots__ = ("_source", "_transactions", "_valid_untils", "head", "ids", "queue")

    def __init__(self, queue: _Queue, height: Height, excluded: Sequence[Collection[TransactionId]]) -> None:
        self.queue = queue
        self.ids: list[TransactionId] = []
        self._valid_untils: list[Height] = []
        self._transactions: list[bytes] = []
        self._source = islice(_orderable(queue.entries, height, excluded), queue.section_max)
        self.head = next(self._source, None)

    def grant(self, quantum: int) -> None:
        """Add to the queue's credit. Also where the next transaction does not fit this payload any more: else those
        with small transactions would win the ends of all payloads. But no more than that takes, so that who waits for a
        turn does not take many at once."""
        if self.head is not None:
            credit_max = quantum + len(self.head[1][1]) + TRANSACTION_OVERHEAD_BYTES_MAX
            self.queue.credit_bytes = min(self.queue.credit_bytes + quantum, credit_max)

    def take(self, room: _Room) -> None:
        """Move from the queue's front to the section while credit and room last."""
        if self.head is None:
            return
        section_overhead = 0 if self.ids else SECTION_OVERHEAD_BYTES_MAX
        left = min(self.queue.credit_bytes, room.bytes - section_overhead)
        before, transactions = left, room.transactions
        head: _Item | None = self.head
        while head is not None and transactions:
            transaction_id, (valid_until, data) = head
            cost = len(data) + TRANSACTION_OVERHEAD_BYTES_MAX
            if cost > left:
                break
            left -= cost
            transactions -= 1
            self.ids.append(transaction_id)
            self._valid_untils.append(valid_until)
            self._transactions.append(data)
            head = next(self._source, None)
        self.head = head
        if self.ids:
            room.bytes -= section_overhead + before - left
        room.transactions = transactions
        self.queue.credit_bytes -= before - left

    def fits(self, room: _Room) -> bool:
        """Whether the next transaction would fit if credit were enough."""
        if self.head is None or not room.transactions:
            return False
        section_overhead = 0 if self.ids else SECTION_OVERHEAD_BYTES_MAX
        return len(self.head[1][1]) + TRANSACTION_OVERHEAD_BYTES_MAX + section_overhead <= room.bytes

    def section(self) -> tuple[SectionBody, tuple[TransactionId, ...]]:
        """What was taken, at least one transaction."""
        body = SectionBody(self.queue.rollup_id, tuple(self._valid_untils), tuple(self._transactions))
        return body, tuple(self.ids)


def _orderable(
    entries: dict[TransactionId, _Entry], height: Height, excluded: Sequence[Collection[TransactionId]]
) -> Iterator[_Item]:
    """The entries that a block at ``height`` may carry, oldest first. An expiry is never too far ahead: it was not when
    the entry came in, and heights only grow."""
    items = iter(entries.items())
    while chunk := list(islice(items, SCAN_ENTRIES)):
        for ids in excluded:
            chunk = [item for item in chunk if item[0] not in ids]
        for item in chunk:
            valid_until = item[1][0]
            if not valid_until or height <= valid_until:
                yield item
