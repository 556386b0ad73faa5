"""Block sync: missing blocks by hash, and committed ranges by height and proof.

The protocol says which block it lacks; this asks peers for it, one question at a time, and hands over only what is
hash-linked to what was asked for (ancestors) or proved committed (ranges). Bodies are judged later by the payload
source; a block whose body was not the one that its header names is asked for again, and then of the next peer.

A block that is only just missing is usually on its way: its proposal travels beside the votes that certified it. So
the first question for a near block waits ``grace``. A node more than ``RANGE_THRESHOLD`` heights behind asks for
ranges at once.

A peer that answers nothing, or something else, is passed over for the next; when all were asked, the next round waits
for the question's timer, longer each round. An answer counts however late it comes, as long as its question is open:
over a slow link every answer may take longer than we wait for one. A peer that has pruned what is asked for says so,
and when all do, :attr:`pruned_below` says it to the operator.

A range lies within one epoch and ends at the epoch's boundary at the latest; requests of earlier epochs are answered
like those of our own. A peer whose message is of a later epoch is *ahead*: it is asked for ranges until it has nothing
more to give, or we are where it is. That it is ahead is only its word, so nobody else is asked for that reason.

Bounds: ``QUESTIONS_MAX`` questions at a time, of each the last ``REQUESTS_MAX`` requests; one answer being made per
peer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

from consensus.codec import block_of, digest
from consensus.engine import (
    BlocksFetched,
    BlocksLoaded,
    CancelTimer,
    FetchBlocks,
    LoadBlocks,
    Refusal,
    Send,
    SetTimer,
    StepBuilder,
)
from consensus.types import (
    INTEGER_MAX,
    SYNC_BLOCKS_MAX,
    SYNC_BYTES_MAX,
    AncestorsRequest,
    AncestorsResponse,
    Block,
    BlockHeader,
    BlockId,
    CommitProof,
    Epoch,
    EpochEnd,
    Height,
    Nanoseconds,
    PeerId,
    RangeRequest,
    RangeResponse,
    StoredBlock,
    SyncMessage,
)

QUESTIONS_MAX: Final = 4
RANGE_THRESHOLD: Final = 8
REQUESTS_MAX: Final = 16
REQUEST_ABOUT_SIZE: Final = 5
REQUESTS_COUNTED: Final = 2**16
PATIENCE_DOUBLINGS_MAX: Final = 5
HANDED_OVER_MAX: Final = 1024
TIMER_PREFIX: Final = "sync:"
RANGE_KEY: Final = b""
"""The one question for a range stands under this key, those for a block under its id."""


@dataclass(slots=True)
class _Question:
    """What is asked, and of whom: ``requests`` by their id, none while the block may still arrive by itself. ``first``
    is the peer to begin with. Over once the height ``until`` is committed."""

    key: bytes
    until: Height
    first: PeerId | None
    requests: dict[int, PeerId] = field(default_factory=dict)
    asked: int = 0


class BlockSync:
    """The state machine of one replica's questions and answers. Adds to the step that ``out`` collects. :meth:`begin`
    comes first."""

    def __init__(self, *, out: StepBuilder, grace_ns: Nanoseconds, patience_ns: Nanoseconds) -> None:
        self._out = out
        self._grace_ns = grace_ns
        self._patience_ns = patience_ns
        self._peers: dict[PeerId, None] = {}
        self._ahead: dict[PeerId, Epoch] = {}
        self._had_nothing: dict[PeerId, None] = {}
        """In this epoch, those who said that they are ahead and had nothing to show."""
        self._giver: PeerId | None = None
        self._questions: dict[bytes, _Question] = {}
        self._requests_made = 0
        self._sources: dict[BlockId, PeerId] = {}
        self._answering: dict[PeerId, None] = {}
        self._pruned: dict[PeerId, Height] = {}

    def begin(
        self,
        *,
        epoch: Epoch,
        lookup: Callable[[BlockId], StoredBlock | None],
        verify_commit: Callable[[CommitProof, BlockHeader, Epoch], Refusal | None],
        committed_height: Callable[[], Height],
    ) -> None:
        """An epoch begins. ``lookup`` gives uncommitted blocks of the protocol, ``verify_commit`` is the protocol's,
        ``committed_height`` its head."""
        self._epoch = epoch
        self._lookup = lookup
        self._verify_commit = verify_commit
        self._committed_height = committed_height
        self._handed_over: Height = 0
        self._asks = True
        self._had_nothing.clear()
        self._ahead = {peer: known for peer, known in self._ahead.items() if known > epoch}

    def end(self) -> None:
        """The epoch is over: nothing is asked until the next one begins; peers are answered all the same."""
        self._asks = False
        for question in tuple(self._questions.values()):
            self._close(question)

    @property
    def pruned_below(self) -> Height | None:
        """When every known peer has pruned what this node needs: the lowest height that one of them still serves."""
        if not self._pruned or any(peer not in self._pruned for peer in self._peers):
            return None
        return min(self._pruned.values())

    # --- asking -------------------------------------------------------------------------------------------------

    def connected(self, peer: PeerId) -> None:
        """A peer that can be asked."""
        self._peers[peer] = None

    def disconnected(self, peer: PeerId) -> None:
        """A peer that can no longer be asked: what it said is forgotten, an answer of it under way counts still."""
        for known in (self._peers, self._ahead, self._had_nothing, self._pruned):
            known.pop(peer, None)

    @property
    def follows(self) -> bool:
        """True while peers are ahead: :meth:`go_on` wants to hear of commits."""
        return bool(self._ahead)

    def fetch(self, wanted: FetchBlocks, now: Nanoseconds) -> None:
        """The protocol lacks a block. Asking again for one that is being fetched changes nothing."""
        if wanted.height > self._committed_height() + RANGE_THRESHOLD:
            self._open_range(wanted.height - RANGE_THRESHOLD, self._first(wanted), now + self._patience_ns)
            self._ask_range(now)
        elif wanted.block_id not in self._questions and len(self._questions) < QUESTIONS_MAX:
            question = self._open(wanted.block_id, wanted.height, self._first(wanted))
            self._set_timer(question, now + self._grace_ns)

    def ahead(self, peer: PeerId, epoch: Epoch, now: Nanoseconds) -> None:
        """A peer's message is of a later epoch. When that is the next one, what ends ours is usually on its way."""
        is_news = peer not in self._ahead and peer not in self._had_nothing
        if peer in self._peers and self._ahead.get(peer, self._epoch) < epoch:
            self._ahead[peer] = epoch
        if self._asks and self._ahead:
            self._open_range(0, peer, now + self._grace_ns, anew=is_news)
            if epoch > self._epoch + 1:
                self._ask_range(now)

    def go_on(self, now: Nanoseconds) -> None:
        """Blocks were committed, or an epoch began: ask those who are ahead for more."""
        if self._asks and self._ahead and self._committed_height() >= self._handed_over:
            self._open_range(0, self._giver, now + self._patience_ns)
            self._ask_range(now)

    def _open_range(self, until: Height, first: PeerId | None, deadline_ns: Nanoseconds, *, anew: bool = False) -> None:
        """Begins ``anew`` a question that only those were asked so far who say that they are ahead: as long as they lie
        and are silent, it waits longer and longer."""
        question = self._questions.get(RANGE_KEY)
        if question is None:
            question = self._open(RANGE_KEY, until, first)
            self._set_timer(question, deadline_ns)
        elif question.asked and question.until <= self._committed_height() and (anew or until > question.until):
            question.asked, question.first = 0, first
            self._set_timer(question, deadline_ns)
        question.until = max(question.until, until)

    def _ask_range(self, now: Nanoseconds) -> None:
        """One range at a time, and none while blocks that were handed over are still being checked."""
        question = self._questions[RANGE_KEY]
        if not question.asked and self._committed_height() >= self._handed_over:
            self._ask(question, now)

    def _open(self, key: bytes, until: Height, first: PeerId | None) -> _Question:
        question = self._questions[key] = _Question(key, until, first)
        return question

    def _first(self, wanted: FetchBlocks) -> PeerId | None:
        """A question begins with the peer that named the block; with the one after the peer that gave it, when it was
        given before: that body was not the right one."""
        giver = self._sources.get(wanted.block_id)
        return wanted.peer if giver is None else self._after(giver)

    def _after(self, peer: PeerId) -> PeerId | None:
        """The next peer in turn; None after the last one, which begins anew."""
        return next((other for other in sorted(self._peers) if other > peer), None)

    def timer_fired(self, name: str, now: Nanoseconds) -> bool:
        """True when the timer was one of ours. The block is there by now, or the next peer is asked."""
        if not name.startswith(TIMER_PREFIX):
            return False
        question = self._questions.get(bytes.fromhex(name[len(TIMER_PREFIX) :]))
        if question is None:
            return True
        if self._is_over(question):
            self._close(question)
        else:
            self._ask(question, now)
        return True

    def _is_over(self, question: _Question) -> bool:
        if question.until > self._committed_height():
            return question.key != RANGE_KEY and self._lookup(question.key) is not None
        return question.key != RANGE_KEY or not self._ahead

    def _candidates(self, question: _Question) -> list[PeerId]:
        """Whom to ask: everybody for what a certificate shows to exist, else those who say that there is more."""
        everybody = question.key != RANGE_KEY or question.until > self._committed_height()
        return sorted(self._peers if everybody else self._ahead)

    def _ask(self, question: _Question, now: Nanoseconds) -> None:
        peers = self._candidates(question)
        rounds = question.asked // len(peers) if peers else 0
        self._set_timer(question, now + (self._patience_ns << min(rounds, PATIENCE_DOUBLINGS_MAX)))
        if not peers:
            return
        offset = peers.index(question.first) if question.first in peers else 0
        peer = peers[(offset + question.asked) % len(peers)]
        question.asked += 1
        above = self._committed_height()
        request_id = self._request_id(question, above)
        question.requests[request_id] = peer
        if len(question.requests) > REQUESTS_MAX:
            del question.requests[next(iter(question.requests))]
        if question.key == RANGE_KEY:
            request: SyncMessage = RangeRequest(epoch=self._epoch, request_id=request_id, from_height=above + 1)
        else:
            request = AncestorsRequest(
                epoch=self._epoch, request_id=request_id, block_id=question.key, above_height=above
            )
        self._out.effects.append(Send(peer, request))

    def _request_id(self, question: _Question, above: Height) -> int:
        """Names what is asked for, and then the request: the answer to one from before a restart, when we counted from
        the beginning too, is never taken for a false one to another question."""
        about = above if question.key == RANGE_KEY else int.from_bytes(question.key[:REQUEST_ABOUT_SIZE])
        self._requests_made = (self._requests_made + 1) % REQUESTS_COUNTED
        return (about * REQUESTS_COUNTED + self._requests_made) & INTEGER_MAX

    def _pass_over(self, question: _Question, now: Nanoseconds) -> None:
        """No answer from that peer: the next one, at once, unless this round has asked all; then the timer decides."""
        peers = self._candidates(question)
        if peers and question.asked % len(peers):
            self._ask(question, now)

    def _has_nothing(self, question: _Question, peer: PeerId, now: Nanoseconds) -> None:
        """A peer that was asked for a range gave none: it is not ahead, whatever it says."""
        said_so = self._ahead.pop(peer, None) is not None
        if said_so and peer in self._peers:
            self._had_nothing[peer] = None
        if not said_so or question.until > self._committed_height():
            self._pass_over(question, now)
        elif self._ahead:
            self._ask(question, now)
        else:
            self._close(question)

    def _set_timer(self, question: _Question, deadline_ns: Nanoseconds) -> None:
        self._out.effects.append(SetTimer(TIMER_PREFIX + question.key.hex(), deadline_ns))

    def _close(self, question: _Question) -> None:
        del self._questions[question.key]
        self._out.effects.append(CancelTimer(TIMER_PREFIX + question.key.hex()))

    # --- answers to us ------------------------------------------------------------------------------------------

    def received(self, peer: PeerId, message: SyncMessage, now: Nanoseconds) -> BlocksFetched | None:
        """A peer's question or answer, of any epoch. Returns what it brings the protocol."""
        if message.epoch > self._epoch:
            self.ahead(peer, message.epoch, now)
            return None
        match message:
            case AncestorsRequest() | RangeRequest():
                self._asked(peer, message)
                return None
            case AncestorsResponse() | RangeResponse():
                return self._answered(peer, message, now)
            case EpochEnd():
                return self._ended(peer, message, now)
            case _:
                assert_never(message)

    def _ended(self, peer: PeerId, end: EpochEnd, now: Nanoseconds) -> BlocksFetched | None:
        """Our epoch is over for a peer. Its last block, when it is here, commits by the proof; else that peer has it
        and what is below."""
        if end.epoch < self._epoch or not self._asks:
            return None
        refusal = Refusal("names no validators") if not end.boundary.next_validators_hash else None
        refusal = refusal or self._verify_commit(end.proof, end.boundary, self._epoch)
        if refusal is not None:
            self._out.reject(peer, f"epoch end: {refusal.reason}")
            return None
        stored = self._lookup(digest(end.boundary))
        if stored is not None:
            return BlocksFetched(peer=peer, blocks=((block_of(stored.header), stored.body),), proof=end.proof)
        self.ahead(peer, end.epoch + 1, now)
        self._open_range(0, peer, now + self._patience_ns)
        self._ask_range(now)
        return None

    def _answered(
        self, peer: PeerId, answer: AncestorsResponse | RangeResponse, now: Nanoseconds
    ) -> BlocksFetched | None:
        asked_for_range = isinstance(answer, RangeResponse)
        question = next((known for known in self._questions.values() if answer.request_id in known.requests), None)
        if (
            question is None
            or question.requests[answer.request_id] != peer
            or asked_for_range != (question.key == RANGE_KEY)
        ):
            return None  # unasked, or answered before: nothing is taken from it
        del question.requests[answer.request_id]
        if any(stored.header.epoch != self._epoch for stored in answer.blocks):
            self._out.reject(peer, f"sync: a block of another epoch than {self._epoch}")
            self._has_nothing(question, peer, now)
            return None
        if isinstance(answer, RangeResponse):
            return self._range_answered(question, peer, answer, now)
        if not answer.blocks:
            self._pass_over(question, now)
            return None
        blocks: list[tuple[Block, memoryview]] = []
        expected = question.key
        for stored in answer.blocks:
            block = block_of(stored.header)
            if block.id != expected or len(stored.body) != stored.header.payload_size:
                self._out.reject(peer, "ancestors: not the blocks that were asked for")
                self._pass_over(question, now)
                return None
            expected = stored.header.parent
            blocks.append((block, stored.body))
        self._close(question)
        return self._hand_over(peer, tuple(reversed(blocks)), None)

    def _range_answered(
        self, question: _Question, peer: PeerId, answer: RangeResponse, now: Nanoseconds
    ) -> BlocksFetched | None:
        committed = self._committed_height()
        if answer.pruned_below > committed + 1:
            if peer in self._peers:
                self._pruned[peer] = answer.pruned_below
            self._has_nothing(question, peer, now)
            return None
        self._pruned.pop(peer, None)
        if not answer.blocks or answer.proof is None:
            self._has_nothing(question, peer, now)
            return None
        if answer.blocks[-1].header.height <= committed:
            self._pass_over(question, now)
            return None
        blocks: list[tuple[Block, memoryview]] = []
        for stored in answer.blocks:
            block = block_of(stored.header)
            linked = stored.header.parent == blocks[-1][0].id if blocks else stored.header.height <= committed + 1
            if not linked or len(stored.body) != stored.header.payload_size:
                self._out.reject(peer, "range: the blocks are not a chain")
                self._has_nothing(question, peer, now)
                return None
            blocks.append((block, stored.body))
        last = blocks[-1][0].header
        refusal = self._verify_commit(answer.proof, last, self._epoch)
        if refusal is not None:
            self._out.reject(peer, f"range: {refusal.reason}")
            self._has_nothing(question, peer, now)
            return None
        self._close(question)
        self._handed_over = last.height
        self._giver = peer
        return self._hand_over(peer, tuple(blocks), answer.proof)

    def _hand_over(
        self, peer: PeerId, blocks: tuple[tuple[Block, memoryview], ...], proof: CommitProof | None
    ) -> BlocksFetched:
        for block, _ in blocks:
            self._sources[block.id] = peer
        while len(self._sources) > HANDED_OVER_MAX:
            del self._sources[next(iter(self._sources))]
        return BlocksFetched(peer=peer, blocks=blocks, proof=proof)

    # --- answers of ours ----------------------------------------------------------------------------------------

    def _asked(self, peer: PeerId, request: AncestorsRequest | RangeRequest) -> None:
        if peer in self._answering:
            return  # one at a time: the peer asks again
        if isinstance(request, AncestorsRequest):
            blocks = self._uncommitted_ancestors(request)
            if blocks:
                answer = AncestorsResponse(epoch=request.epoch, request_id=request.request_id, blocks=blocks)
                self._out.effects.append(Send(peer, answer))
                return
        self._answering[peer] = None
        self._out.effects.append(LoadBlocks(peer, request))

    def _uncommitted_ancestors(self, request: AncestorsRequest) -> tuple[StoredBlock, ...]:
        blocks: list[StoredBlock] = []
        size = 0
        stored = self._lookup(request.block_id)
        while stored is not None and len(blocks) < SYNC_BLOCKS_MAX and size < SYNC_BYTES_MAX:
            if stored.header.height <= request.above_height:
                break
            blocks.append(stored)
            size += len(stored.body)
            stored = self._lookup(stored.header.parent)
        return tuple(blocks)

    def loaded(self, event: BlocksLoaded) -> None:
        """The own archive answered."""
        self._answering.pop(event.peer, None)
        request = event.request
        if isinstance(request, AncestorsRequest):
            answer: SyncMessage = AncestorsResponse(
                epoch=request.epoch, request_id=request.request_id, blocks=event.blocks
            )
        else:
            answer = RangeResponse(
                epoch=request.epoch,
                request_id=request.request_id,
                blocks=event.blocks,
                proof=event.proof,
                pruned_below=event.pruned_below,
                head=event.head,
            )
        self._out.effects.append(Send(event.peer, answer))
