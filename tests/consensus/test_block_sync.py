"""Block sync by itself: whom it asks, what it takes, and how it gets past peers that answer nothing or something else.

The peers are named a, b and c; blocks b1 <- b2 <- b3 ... are committed by proofs of the two-chain rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.block_sync import (
    HANDED_OVER_MAX,
    PATIENCE_DOUBLINGS_MAX,
    QUESTIONS_MAX,
    RANGE_THRESHOLD,
    REQUESTS_MAX,
    BlockSync,
)
from consensus.codec import block_of
from consensus.engine import (
    BlocksFetched,
    BlocksLoaded,
    CancelTimer,
    Effect,
    FetchBlocks,
    LoadBlocks,
    Refusal,
    Reject,
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
    CommitProof,
    RangeRequest,
    RangeResponse,
    StoredBlock,
    SyncMessage,
)
from tests.support.chain import Chain
from tests.support.committee import committee

replace = msgspec.structs.replace
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
GRACE, PATIENCE = 10, 100


class Desk:
    """A block sync, its clock, what it did last, and the facts that it looks up."""

    def __init__(self, *peers: bytes) -> None:
        self.chain = Chain(committee())
        self.blocks = [self.chain.block(1, body=b"body 1")]
        for view in range(2, 41):
            self.blocks.append(self.chain.block(view, on=self.blocks[-1], body=b"body %d" % view))
        self.now = 0
        self.committed = 0
        self.here: dict[bytes, StoredBlock] = {}
        self.refusal: Refusal | None = None
        self.out = StepBuilder()
        self.sync = BlockSync(out=self.out, grace_ns=GRACE, patience_ns=PATIENCE)
        self.begin(0)
        for peer in peers:
            self.sync.connected(peer)

    def begin(self, epoch: int) -> None:
        self.sync.begin(
            epoch=epoch,
            lookup=self.here.get,
            verify_commit=lambda proof, header, epoch: self.refusal,
            committed_height=lambda: self.committed,
        )

    def block(self, height: int) -> Block:
        return self.blocks[height - 1]

    def stored(self, *heights: int) -> tuple[StoredBlock, ...]:
        blocks = [self.block(height) for height in heights]
        return tuple(StoredBlock(header=block.header, body=self.chain.body(block)) for block in blocks)

    def proof(self, height: int) -> CommitProof:
        child = self.block(height + 1)
        return CommitProof(epoch=0, headers=(child.header,), certificate=self.chain.qc(child))

    def done(self) -> tuple[Effect, ...]:
        return self.out.finish().effects

    def fetch(self, height: int, peer: bytes | None = None) -> tuple[Effect, ...]:
        self.sync.fetch(FetchBlocks(block_id=self.block(height).id, height=height, peer=peer), self.now)
        return self.done()

    def fire(self, height: int | None) -> tuple[Effect, ...]:
        """The timer of a question: for the block at this height, or for a range."""
        key = b"" if height is None else self.block(height).id
        assert self.sync.timer_fired("sync:" + key.hex(), self.now)
        return self.done()

    def hear(self, peer: bytes, message: SyncMessage) -> tuple[BlocksFetched | None, tuple[Effect, ...]]:
        fetched = self.sync.received(peer, message, self.now)
        return fetched, self.done()

    def answer(self, request: Send, *heights: int) -> tuple[BlocksFetched | None, tuple[Effect, ...]]:
        """The asked peer's true answer with these blocks."""
        message = request.message
        if isinstance(message, AncestorsRequest):
            return self.hear(
                request.peer,
                AncestorsResponse(epoch=0, request_id=message.request_id, blocks=self.stored(*heights)),
            )
        assert isinstance(message, RangeRequest)
        return self.hear(request.peer, self.range(message.request_id, *heights))

    def range(self, request_id: int, *heights: int, pruned_below: int = 1) -> RangeResponse:
        return RangeResponse(
            epoch=0,
            request_id=request_id,
            blocks=self.stored(*heights),
            proof=self.proof(heights[-1]) if heights else None,
            pruned_below=pruned_below,
            head=39,
        )


def question(effects: Sequence[Effect]) -> Send:
    """The one question among them."""
    (send,) = [effect for effect in effects if isinstance(effect, Send)]
    return send


def asked_for(send: Send) -> AncestorsRequest:
    assert isinstance(send.message, AncestorsRequest)
    return send.message


def asked_id(send: Send) -> int:
    assert isinstance(send.message, AncestorsRequest | RangeRequest)
    return send.message.request_id


def from_height(send: Send) -> int:
    assert isinstance(send.message, RangeRequest)
    return send.message.from_height


def questions(effects: Sequence[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def rejects(effects: Sequence[Effect]) -> list[Reject]:
    return [effect for effect in effects if isinstance(effect, Reject)]


def taken(fetched: BlocksFetched | None) -> list[int]:
    """The heights that were handed over."""
    assert fetched is not None
    return [block.header.height for block, _ in fetched.blocks]


# --- a block that is only just missing -------------------------------------------------------------------------------


def test_a_near_block_is_waited_for_and_then_asked_of_whoever_named_it() -> None:
    desk = Desk(A, B, C)
    timer = "sync:" + desk.block(2).id.hex()
    assert desk.fetch(2, B) == (SetTimer(timer, GRACE),)
    assert desk.fetch(2, C) == (), "asked for already"
    desk.now = GRACE
    effects = desk.fire(2)
    asked = asked_for(question(effects))
    assert effects == (SetTimer(timer, GRACE + PATIENCE), Send(B, asked))
    assert asked == AncestorsRequest(epoch=0, request_id=asked.request_id, block_id=desk.block(2).id, above_height=0)
    fetched, after = desk.answer(question(effects), 2, 1)
    assert taken(fetched) == [1, 2]
    assert fetched is not None
    assert (fetched.peer, fetched.proof) == (B, None)
    assert [bytes(body) for _, body in fetched.blocks] == [b"body 1", b"body 2"]
    assert after == (CancelTimer(timer),)


def test_a_block_that_arrived_by_itself_is_not_asked_for() -> None:
    desk = Desk(A)
    desk.fetch(2)
    desk.here[desk.block(2).id] = desk.stored(2)[0]
    assert desk.fire(2) == (CancelTimer("sync:" + desk.block(2).id.hex()),)
    assert len(desk.fetch(2)) == 1, "the question is closed: it can be asked again"


def test_a_block_that_was_committed_meanwhile_is_not_asked_for() -> None:
    desk = Desk(A)
    desk.fetch(2)
    desk.committed = 1
    assert questions(desk.fire(2))
    desk.committed = 2
    assert not questions(desk.fire(2))
    assert not questions(desk.fire(2)), "nor is a timer that fires late mistaken"


def test_timers_of_others_are_not_ours() -> None:
    assert not Desk(A).sync.timer_fired("view", 0)


def test_questions_are_bounded() -> None:
    desk = Desk(A)
    asked = [bool(desk.fetch(height)) for height in range(1, RANGE_THRESHOLD + 1)]
    assert asked == [True] * QUESTIONS_MAX + [False] * (RANGE_THRESHOLD - QUESTIONS_MAX)


# --- peers that do not answer ----------------------------------------------------------------------------------------


def test_a_silent_peer_is_passed_over_and_waited_for_longer_each_round() -> None:
    desk = Desk(A, B, C)
    desk.fetch(2, B)
    order, waits = [], []
    for _ in range(3 * (PATIENCE_DOUBLINGS_MAX + 2)):
        effects = desk.fire(2)
        order.append(question(effects).peer)
        (timer,) = [effect for effect in effects if isinstance(effect, SetTimer)]
        waits.append(timer.deadline_ns - desk.now)
        desk.now = timer.deadline_ns
    assert order[:7] == [B, C, A, B, C, A, B]
    rounds = [PATIENCE * 2**number for number in range(PATIENCE_DOUBLINGS_MAX + 1)]
    assert waits[::3] == [*rounds, rounds[-1]]
    assert waits[2] == PATIENCE
    assert waits[3] == 2 * PATIENCE


def test_an_answer_that_comes_late_is_taken() -> None:
    """Over a slow link every answer may take longer than we wait for one."""
    desk = Desk(A, B)
    desk.fetch(2, A)
    first = question(desk.fire(2))
    second = question(desk.fire(2))
    assert (first.peer, second.peer) == (A, B)
    fetched, _ = desk.answer(first, 2, 1)
    assert taken(fetched) == [1, 2]
    assert desk.answer(second, 2, 1) == (None, ()), "once is enough"


def test_the_last_requests_of_a_question_are_remembered() -> None:
    desk = Desk(A)
    desk.fetch(2)
    asked = [question(desk.fire(2)) for _ in range(REQUESTS_MAX + 1)]
    assert desk.answer(asked[0], 2, 1) == (None, ())
    assert taken(desk.answer(asked[1], 2, 1)[0]) == [1, 2]


def test_without_peers_the_question_waits_for_one() -> None:
    desk = Desk()
    desk.fetch(2)
    assert desk.fire(2) == (SetTimer("sync:" + desk.block(2).id.hex(), PATIENCE),)
    desk.sync.connected(C)
    assert question(desk.fire(2)).peer == C


def test_a_peer_that_is_not_connected_is_not_asked_though_it_named_the_block() -> None:
    desk = Desk(B, C)
    desk.fetch(2, A)
    assert question(desk.fire(2)).peer == B


def test_whoever_is_disconnected_is_not_asked_but_what_it_still_answers_counts() -> None:
    desk = Desk(A, B, C)
    desk.fetch(2, B)
    first = question(desk.fire(2))
    assert first.peer == B
    desk.sync.disconnected(B)
    assert [question(desk.fire(2)).peer for _ in range(4)] == [C, A, C, A]
    assert taken(desk.answer(first, 2, 1)[0]) == [1, 2], "it was on its way"


def test_what_a_disconnected_peer_has_pruned_is_not_everybodys_word() -> None:
    desk = Desk(A, B)
    asked = question(desk.fetch(30, A))
    message = asked.message
    assert isinstance(message, RangeRequest)
    _, effects = desk.hear(A, desk.range(message.request_id, pruned_below=10))
    last = question(effects)
    desk.sync.disconnected(B)
    assert desk.sync.pruned_below == 10, "A is the only one left"
    desk.sync.disconnected(A)
    assert desk.sync.pruned_below is None
    message = last.message
    assert isinstance(message, RangeRequest)
    desk.hear(B, desk.range(message.request_id, pruned_below=2))
    assert desk.sync.pruned_below is None, "nobody is here to say so"


# --- peers that answer nothing, or something else --------------------------------------------------------------------


def test_a_peer_that_has_nothing_is_passed_over_at_once_but_each_only_once_a_round() -> None:
    """Nobody has the block: everybody is asked, and then the next round waits for the timer. (Seen without: questions
    and empty answers as fast as the links go.)"""
    desk = Desk(A, B, C)
    desk.fetch(2, A)
    asked = [question(desk.fire(2))]
    while True:
        fetched, effects = desk.answer(asked[-1])
        assert fetched is None
        assert not rejects(effects)
        if not questions(effects):
            break
        asked.append(question(effects))
    assert [send.peer for send in asked] == [A, B, C]
    assert question(desk.fire(2)).peer == A
    assert questions(desk.answer(question(desk.fire(2)))[1]), "the next round is like the first"


def test_a_peer_that_answers_with_other_blocks_is_named_and_passed_over() -> None:
    desk = Desk(A, B)
    desk.fetch(3, A)
    asked = question(desk.fire(3))
    (good,) = desk.stored(3)
    lies = (
        desk.stored(2),
        (StoredBlock(header=replace(good.header, timestamp_ms=1), body=good.body),),
        (StoredBlock(header=good.header, body=memoryview(b"other size")),),
        (*desk.stored(3), *desk.stored(1)),
    )
    for number, blocks in enumerate(lies):
        message = asked.message
        assert isinstance(message, AncestorsRequest)
        fetched, effects = desk.hear(
            asked.peer, AncestorsResponse(epoch=0, request_id=message.request_id, blocks=blocks)
        )
        assert fetched is None
        assert rejects(effects) == [Reject(asked.peer, "ancestors: not the blocks that were asked for")]
        asked = question(effects) if questions(effects) else question(desk.fire(3))
        assert asked.peer == (B if number % 2 == 0 else A)
    assert taken(desk.answer(asked, 3, 2)[0]) == [2, 3]


def test_unasked_answers_are_ignored() -> None:
    desk = Desk(A, B)
    desk.fetch(2, A)
    unasked = AncestorsResponse(epoch=0, request_id=0, blocks=desk.stored(2))
    assert desk.hear(A, unasked) == (None, ()), "nobody was asked yet"
    asked = question(desk.fire(2))
    message = asked.message
    assert isinstance(message, AncestorsRequest)
    good = AncestorsResponse(epoch=0, request_id=message.request_id, blocks=desk.stored(2))
    assert desk.hear(B, good) == (None, ()), "another was asked"
    assert desk.hear(A, replace(good, request_id=99)) == (None, ())
    assert desk.hear(A, desk.range(message.request_id, 1, 2)) == (None, ()), "not that"
    assert taken(desk.hear(A, good)[0]) == [2]


def test_an_answer_from_before_a_restart_is_not_taken_for_a_lie() -> None:
    """A is still answering the question of the life before, about another block or range, when it is asked again."""
    before, after = Desk(A), Desk(A)
    before.fetch(2)
    old = question(before.fire(2))
    after.fetch(3)
    new = question(after.fire(3))
    assert after.answer(old, 2, 1) == (None, ())
    assert taken(after.answer(new, 3)[0]) == [3]
    before.committed, after.committed = 2, 5
    old, new = question(before.fetch(30)), question(after.fetch(30))
    assert after.answer(old, 3, 4) == (None, ())
    assert taken(after.answer(new, 6, 7)[0]) == [6, 7]
    for asked in (old, new):
        assert 0 < asked_id(asked) <= INTEGER_MAX


def test_every_request_has_its_own_id() -> None:
    desk = Desk(A)
    desk.fetch(2)
    desk.fetch(3)
    ids = [asked_id(question(desk.fire(2 + number % 2))) for number in range(20)]
    about = [int.from_bytes(desk.block(height).id[:5], "big") * 2**16 for height in (2, 3)]
    assert ids == [about[number % 2] + number + 1 & INTEGER_MAX for number in range(20)]
    desk.sync._requests_made = 2**16 - 1
    assert asked_id(question(desk.fire(2))) == about[0] & INTEGER_MAX, "and from the beginning again"
    desk.committed = 20
    assert asked_id(question(desk.fetch(40))) == 20 * 2**16 + 1


def test_a_block_that_is_asked_for_again_is_asked_of_the_next() -> None:
    """What the first gave was not what it seemed (its body, judged later); it also named the block, and would be asked
    first for ever."""
    desk = Desk(A, B, C)
    given = []
    for _ in range(4):
        desk.fetch(2, B)
        asked = question(desk.fire(2))
        given.append(asked.peer)
        assert taken(desk.answer(asked, 2, 1)[0]) == [1, 2]
    assert given == [B, C, A, B]


def test_who_gave_which_block_is_remembered_within_bounds() -> None:
    desk = Desk(A)
    for number in range(HANDED_OVER_MAX + 10):
        block = desk.chain.block(1, timestamp_ms=5_000 + number)
        desk.sync.fetch(FetchBlocks(block_id=block.id, height=1, peer=A), 0)
        desk.sync.timer_fired("sync:" + block.id.hex(), 0)
        message = question(desk.done()).message
        assert isinstance(message, AncestorsRequest)
        stored = StoredBlock(header=block.header, body=desk.chain.body(block))
        assert desk.hear(A, AncestorsResponse(epoch=0, request_id=message.request_id, blocks=(stored,)))[0] is not None
    assert len(desk.sync._sources) == HANDED_OVER_MAX


# --- ranges ----------------------------------------------------------------------------------------------------------


def test_far_behind_a_range_is_asked_for_at_once() -> None:
    desk = Desk(A, B)
    effects = desk.fetch(RANGE_THRESHOLD + 1, B)
    asked = RangeRequest(epoch=0, request_id=asked_id(question(effects)), from_height=1)
    assert effects == (SetTimer("sync:", PATIENCE), SetTimer("sync:", PATIENCE), Send(B, asked))
    assert not questions(desk.fetch(20, B)), "one range at a time"
    fetched, after = desk.answer(question(effects), 1, 2, 3)
    assert taken(fetched) == [1, 2, 3]
    assert fetched is not None
    assert (fetched.peer, fetched.proof) == (B, desk.proof(3))
    assert CancelTimer("sync:") in after


def test_the_threshold_counts_from_the_committed_head() -> None:
    desk = Desk(A)
    desk.committed = 5
    assert not questions(desk.fetch(5 + RANGE_THRESHOLD))
    assert from_height(question(desk.fetch(6 + RANGE_THRESHOLD))) == 6


def test_no_second_range_while_the_first_is_being_checked() -> None:
    desk = Desk(A, B)
    desk.answer(question(desk.fetch(30)), 1, 2, 3)
    desk.committed = 2
    desk.now = 7
    assert desk.fetch(30) == (SetTimer("sync:", 7 + PATIENCE),)
    desk.committed = 3
    effects = desk.fetch(30)
    assert from_height(question(effects)) == 4
    assert taken(desk.answer(question(effects), 4, 5)[0]) == [4, 5]


def test_a_range_that_does_not_get_committed_is_asked_for_again_in_time() -> None:
    desk = Desk(A, B)
    desk.answer(question(desk.fetch(30)), 1, 2, 3)
    desk.fetch(30)
    assert from_height(question(desk.fire(None))) == 1


def test_a_range_question_ends_when_the_gap_is_small() -> None:
    desk = Desk(A)
    desk.fetch(30)
    desk.committed = 30 - RANGE_THRESHOLD
    assert desk.fire(None) == (CancelTimer("sync:"),)
    desk.fetch(40)
    desk.committed = 39 - RANGE_THRESHOLD
    assert questions(desk.fire(None))


def test_a_range_is_a_proved_chain() -> None:
    desk = Desk(A, B)
    asked = question(desk.fetch(30, A))
    for blocks, reason in (
        (desk.stored(2, 3), "range: the blocks are not a chain"),
        (desk.stored(1, 3), "range: the blocks are not a chain"),
        ((StoredBlock(header=desk.block(1).header, body=memoryview(b"")),), "range: the blocks are not a chain"),
    ):
        message = asked.message
        assert isinstance(message, RangeRequest)
        answer = replace(desk.range(message.request_id, 1), blocks=blocks)
        fetched, effects = desk.hear(asked.peer, answer)
        assert fetched is None
        assert rejects(effects) == [Reject(asked.peer, reason)]
        asked = question(effects) if questions(effects) else question(desk.fire(None))
    desk.refusal = Refusal("commit proof: these views commit nothing")
    fetched, effects = desk.answer(asked, 1, 2)
    assert fetched is None
    assert rejects(effects) == [Reject(asked.peer, "range: commit proof: these views commit nothing")]
    assert not questions(effects), "both were asked in this round"
    desk.refusal = None
    assert taken(desk.answer(question(desk.fire(None)), 1, 2)[0]) == [1, 2]


def test_after_a_false_proof_the_next_peer_is_asked_at_once() -> None:
    desk = Desk(A, B)
    desk.refusal = Refusal("commit proof: these views commit nothing")
    _, effects = desk.answer(question(desk.fetch(30, A)), 1, 2)
    assert question(effects).peer == B


def test_the_proof_is_judged_for_the_last_block_of_the_range() -> None:
    desk = Desk(A)
    judged: list[tuple[CommitProof, BlockHeader, int]] = []
    desk.sync._verify_commit = lambda proof, header, epoch: judged.append((proof, header, epoch))
    desk.answer(question(desk.fetch(30)), 1, 2, 3)
    assert judged == [(desk.proof(3), desk.block(3).header, 0)]


def test_a_range_without_blocks_or_proof_is_no_answer() -> None:
    desk = Desk(A, B, C)
    asked = question(desk.fetch(30, A))
    assert isinstance(asked.message, RangeRequest)
    fetched, effects = desk.answer(asked)
    assert (fetched, question(effects).peer) == (None, B)
    message = question(effects).message
    assert isinstance(message, RangeRequest)
    fetched, effects = desk.hear(B, replace(desk.range(message.request_id, 1), proof=None))
    assert (fetched, question(effects).peer) == (None, C)
    assert not rejects(effects)


def test_a_range_that_brings_nothing_new_is_no_answer() -> None:
    """A liar that always answers with the first blocks of the chain would be asked for ever."""
    desk = Desk(A, B)
    desk.committed = 3
    fetched, effects = desk.answer(question(desk.fetch(30, A)), 1, 2, 3)
    assert fetched is None
    assert question(effects).peer == B
    assert taken(desk.answer(question(effects), 2, 3, 4)[0]) == [2, 3, 4], "an overlap does no harm"


def test_everybody_pruned_what_is_needed() -> None:
    desk = Desk(A, B)
    asked = question(desk.fetch(30, A))
    for pruned_below in (10, 2):
        assert desk.sync.pruned_below is None
        message = asked.message
        assert isinstance(message, RangeRequest)
        _, effects = desk.hear(asked.peer, desk.range(message.request_id, pruned_below=pruned_below))
        if questions(effects):
            asked = question(effects)
    assert not questions(effects), "asked again when the timer fires"
    assert desk.sync.pruned_below == 2
    asked = question(desk.fire(None))
    message = asked.message
    assert isinstance(message, RangeRequest)
    fetched, _ = desk.hear(asked.peer, desk.range(message.request_id, 1, 2))
    assert taken(fetched) == [1, 2]
    assert desk.sync.pruned_below is None, "one has them after all"


def test_pruned_up_to_what_is_needed_is_not_pruned() -> None:
    desk = Desk(A)
    desk.committed = 4
    asked = question(desk.fetch(30))
    assert isinstance(asked.message, RangeRequest)
    fetched, _ = desk.hear(A, desk.range(asked.message.request_id, 5, 6, pruned_below=5))
    assert taken(fetched) == [5, 6]
    assert desk.sync.pruned_below is None


# --- answering -------------------------------------------------------------------------------------------------------


def test_requests_of_earlier_epochs_are_answered_in_their_name() -> None:
    desk = Desk(A)
    desk.begin(3)
    request = RangeRequest(epoch=1, request_id=8, from_height=3)
    assert desk.hear(A, request) == (None, (LoadBlocks(A, request),))
    desk.sync.loaded(
        BlocksLoaded(peer=A, request=request, blocks=desk.stored(3), proof=desk.proof(3), pruned_below=2, head=9)
    )
    expected = RangeResponse(epoch=1, request_id=8, blocks=desk.stored(3), proof=desk.proof(3), pruned_below=2, head=9)
    assert desk.done() == (Send(A, expected),)


def test_answers_to_an_earlier_epoch_are_ignored() -> None:
    desk = Desk(A)
    asked = question(desk.fetch(30, A))
    desk.sync.end()
    assert desk.done() == (CancelTimer("sync:"),)
    desk.begin(1)
    assert desk.answer(asked, 1, 2) == (None, ())


def test_uncommitted_ancestors_are_answered_from_memory_newest_first() -> None:
    desk = Desk()
    for height in (1, 2, 3, 4):
        desk.here[desk.block(height).id] = desk.stored(height)[0]
    request = AncestorsRequest(epoch=0, request_id=7, block_id=desk.block(4).id, above_height=1)
    expected = AncestorsResponse(epoch=0, request_id=7, blocks=desk.stored(4, 3, 2))
    assert desk.hear(A, request) == (None, (Send(A, expected),))


def test_an_answer_from_memory_is_bounded_in_bytes() -> None:
    desk = Desk()
    big = memoryview(bytes(SYNC_BYTES_MAX // 2))
    for height in (1, 2, 3, 4):
        desk.here[desk.block(height).id] = replace(desk.stored(height)[0], body=big)
    request = AncestorsRequest(epoch=0, request_id=7, block_id=desk.block(4).id, above_height=0)
    (send,) = questions(desk.hear(A, request)[1])
    assert isinstance(send.message, AncestorsResponse)
    assert [stored.header.height for stored in send.message.blocks] == [4, 3]


def test_an_answer_from_memory_goes_on_up_to_the_last_byte() -> None:
    desk = Desk()
    for height, size in ((4, SYNC_BYTES_MAX - 1), (3, 1), (2, 1)):
        desk.here[desk.block(height).id] = replace(desk.stored(height)[0], body=memoryview(bytes(size)))
    request = AncestorsRequest(epoch=0, request_id=7, block_id=desk.block(4).id, above_height=0)
    (send,) = questions(desk.hear(A, request)[1])
    assert isinstance(send.message, AncestorsResponse)
    assert [stored.header.height for stored in send.message.blocks] == [4, 3]


def test_an_answer_from_memory_is_bounded_in_blocks() -> None:
    desk = Desk()
    previous = desk.block(1)
    for number in range(SYNC_BLOCKS_MAX + 5):
        header = replace(previous.header, parent=previous.id, height=previous.header.height + 1, timestamp_ms=number)
        previous = block_of(header)
        desk.here[previous.id] = StoredBlock(header=header, body=memoryview(b"body 1"))
    request = AncestorsRequest(epoch=0, request_id=7, block_id=previous.id, above_height=0)
    (send,) = questions(desk.hear(A, request)[1])
    assert isinstance(send.message, AncestorsResponse)
    assert len(send.message.blocks) == SYNC_BLOCKS_MAX


def test_what_is_not_in_memory_is_loaded_one_answer_per_peer_at_a_time() -> None:
    desk = Desk()
    ancestors = AncestorsRequest(epoch=0, request_id=7, block_id=desk.block(4).id, above_height=1)
    ranged = RangeRequest(epoch=0, request_id=8, from_height=3)
    assert desk.hear(A, ancestors) == (None, (LoadBlocks(A, ancestors),))
    assert desk.hear(A, ranged) == (None, ())
    assert desk.hear(B, ranged) == (None, (LoadBlocks(B, ranged),))
    desk.sync.loaded(BlocksLoaded(peer=A, request=ancestors, blocks=desk.stored(4), proof=None, pruned_below=2, head=9))
    assert desk.done() == (Send(A, AncestorsResponse(epoch=0, request_id=7, blocks=desk.stored(4))),)
    desk.sync.loaded(
        BlocksLoaded(peer=B, request=ranged, blocks=desk.stored(3), proof=desk.proof(3), pruned_below=2, head=9)
    )
    expected = RangeResponse(epoch=0, request_id=8, blocks=desk.stored(3), proof=desk.proof(3), pruned_below=2, head=9)
    assert desk.done() == (Send(B, expected),)
    assert desk.hear(A, ranged) == (None, (LoadBlocks(A, ranged),)), "the next one may come"
    again = BlocksLoaded(peer=C, request=ranged, blocks=(), proof=None, pruned_below=1, head=9)
    desk.sync.loaded(again)
    assert question(desk.done()).peer == C, "an archive that answers unasked does no harm"
