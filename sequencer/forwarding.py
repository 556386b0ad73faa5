"""Passing transactions on to the validators who will order them.

A validator passes on the beginning of what is submitted to it: any leader then has it at once, and it commits at
light-load latency. Of a flood only so much is out at a time that no leader idles while somebody has work; the rest
waits for the validator's own turn. An observer never leads: it passes on all that is submitted to it, small amounts to
every validator, large ones to one after the other; and again what still waits, for it may have had no connection.
Which of the two a node is changes with the epochs.

A frame names the height up to which its sender knows what was ordered. Whoever is more than K heights further passes
the frame over: neither of the two could tell that a transaction in it was ordered between, and it would be ordered
twice. A sender that is so far behind still holds it, and finds it ordered, or passes it on, when it has caught up.

Losing a forwarded transaction loses nothing that was acknowledged: it stays pending, and its client may submit it
anywhere again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final, Protocol

import msgspec
import trio
from msgspec import Meta

from consensus.codec import Canonical, Malformed, encode
from consensus.types import Height, Integer, PeerId
from sequencer.mempool import ChangeRefused, ForwardedTransaction, Mempool, Pending, Submission
from sequencer.transactions import RollupId
from sequencer.window import CommittedWindow

TRANSACTIONS_MAX: Final = 4096
FRAME_BYTES: Final = 1024 * 1024
"""A frame ends with the transaction that crosses this."""
LOOK_S: Final = 0.05
"""How often an observer looks for new connections."""
AGAIN_LOOKS: Final = 40
"""After so many looks it passes on again what still waits."""
EVERYBODY_BYTES_MAX: Final = 64 * 1024
"""An observer's submission up to this size goes to every validator."""


class _Forwarded(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    rollup_id: RollupId
    valid_until: Integer
    data: bytes


class Forward(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A frame of forwarded transactions, of which none was ordered up to ``height``."""

    height: Integer
    transactions: Annotated[tuple[_Forwarded, ...], Meta(min_length=1, max_length=TRANSACTIONS_MAX)]


_forwards: Final = Canonical(Forward)


class TransactionChannel(Protocol):
    """The transport's channel for transactions."""

    def broadcast(self, data: bytes) -> None: ...

    def send(self, peer: PeerId, data: bytes) -> None: ...

    def connected_validators(self) -> Sequence[PeerId]: ...


class Forwarder:
    """Sends and takes forwarded transactions."""

    def __init__(
        self, mempool: Mempool, window: CommittedWindow, channel: TransactionChannel, *, observes: Callable[[], bool]
    ) -> None:
        """``observes`` says whether this node is an observer now."""
        self._mempool = mempool
        self._window = window
        self._channel = channel
        self._observes = observes
        self._turn = 0
        self._known: frozenset[PeerId] = frozenset()
        self._looks = 0

    def submitted(
        self, rollup_id: int, transactions: Sequence[tuple[Height, bytes]], answers: Sequence[Submission]
    ) -> None:
        """Pass on what was just submitted here, as far as it should be."""
        offered = self._mempool.pending_to_forward()
        if not self._observes():
            self._everybody(offered)
            return
        accepted = [
            ForwardedTransaction(rollup_id, valid_until, data)
            for (valid_until, data), answer in zip(transactions, answers, strict=True)
            if isinstance(answer, Pending)
        ]
        if sum(len(transaction.data) for transaction in accepted) <= EVERYBODY_BYTES_MAX:
            self._everybody(accepted)
            return
        validators = self._channel.connected_validators()
        if validators:
            self._turn += 1
            for frame in _frames(self._window.height, accepted):
                self._channel.send(validators[self._turn % len(validators)], frame)

    def received(self, data: bytes) -> str | None:
        """Take a peer's frame; the peer's fault, if any. What is full, known or expired here is passed over."""
        forward = _forwards.decode(data)
        if isinstance(forward, Malformed):
            return f"forwarded transactions: {forward.reason}"
        if forward.height + self._window.heights_max < self._window.height:
            return None
        by_rollup: dict[int, list[tuple[Height, bytes]]] = {}
        for transaction in forward.transactions:
            by_rollup.setdefault(transaction.rollup_id, []).append((transaction.valid_until, transaction.data))
        fault: str | None = None
        for rollup_id, transactions in by_rollup.items():
            for answer in self._mempool.add_batch(rollup_id, transactions, local=False):
                if isinstance(answer, ChangeRefused) and answer.is_forged:
                    fault = f"forwarded transactions: {answer.reason}"  # who passes a change on has judged it
        return fault

    async def run(self) -> None:
        """Pass on what could not be passed on when it was submitted."""
        while True:
            if self._observes():
                await trio.sleep(LOOK_S)
                self._pass_on_again()
            else:
                # A flood: some more of it whenever something was ordered. So do epochs begin.
                await self._window.reached(self._window.height + 1)
                self._everybody(self._mempool.pending_to_forward())

    def _pass_on_again(self) -> None:
        """An observer's: what still waits, whenever a validator connects, and now and then."""
        self._looks += 1
        connected = frozenset(self._channel.connected_validators())
        if connected - self._known or self._looks >= AGAIN_LOOKS:
            self._everybody(self._mempool.oldest(FRAME_BYTES))
            self._looks = 0
        self._known = connected

    def _everybody(self, transactions: Sequence[ForwardedTransaction]) -> None:
        for frame in _frames(self._window.height, transactions):
            self._channel.broadcast(frame)


def _frames(height: Height, transactions: Iterable[ForwardedTransaction]) -> Iterable[bytes]:
    batch: list[_Forwarded] = []
    size_bytes = 0
    for transaction in transactions:
        batch.append(_Forwarded(transaction.rollup_id, transaction.valid_until, transaction.data))
        size_bytes += len(transaction.data)
        if size_bytes >= FRAME_BYTES or len(batch) == TRANSACTIONS_MAX:
            yield encode(Forward(height, tuple(batch)))
            batch, size_bytes = [], 0
    if batch:
        yield encode(Forward(height, tuple(batch)))
