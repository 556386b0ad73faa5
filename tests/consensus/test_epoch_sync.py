"""Block sync across epochs: peers that say they are ahead are followed, and cost no more than time when they lie."""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import block_of
from consensus.engine import CancelTimer, Effect, Refusal, Reject, Send, SetTimer
from consensus.types import AncestorsResponse, EpochEnd, RangeRequest, StoredBlock
from tests.consensus.test_block_sync import (
    GRACE,
    A,
    B,
    C,
    Desk,
    asked_id,
    from_height,
    question,
    questions,
    rejects,
    taken,
)

replace = msgspec.structs.replace


def begun(desk: Desk, epoch: int, committed: int) -> tuple[Effect, ...]:
    """Our epoch ended at that height, and the next one begins."""
    desk.sync.end()
    desk.committed = committed
    desk.begin(epoch)
    desk.sync.go_on(desk.now)
    return desk.done()


def ahead(desk: Desk, peer: bytes, epoch: int) -> tuple[Effect, ...]:
    desk.sync.ahead(peer, epoch, desk.now)
    return desk.done()


def test_a_peer_of_the_next_epoch_is_asked_after_a_while() -> None:
    """What ends our epoch is usually on its way."""
    desk = Desk(A, B)
    assert ahead(desk, B, 1) == (SetTimer("sync:", GRACE),)
    assert ahead(desk, B, 1) == ()
    desk.now = GRACE
    sent = question(desk.fire(None))
    assert (sent.peer, from_height(sent)) == (B, 1)


def test_a_peer_of_a_later_epoch_is_asked_at_once_and_after_each_range() -> None:
    desk = Desk(A, B)
    sent = question(ahead(desk, B, 3))
    assert sent.peer == B
    assert taken(desk.answer(sent, 1, 2, 3)[0]) == [1, 2, 3]
    desk.sync.go_on(desk.now)
    assert not questions(desk.done()), "not while those are being checked"
    desk.committed = 3
    desk.sync.go_on(desk.now)
    sent = question(desk.done())
    assert (sent.peer, from_height(sent)) == (B, 4)
    desk.answer(sent, 4, 5)
    sent = question(begun(desk, 1, committed=5))
    assert (sent.peer, asked_epoch(sent), from_height(sent)) == (B, 1, 6)
    sent = question(begun(desk, 2, committed=9))
    assert asked_epoch(sent) == 2
    assert not questions(begun(desk, 3, committed=12)), "we are where it is"
    assert not desk.sync.follows


def asked_epoch(send: Send) -> int:
    assert isinstance(send.message, RangeRequest)
    return send.message.epoch


def test_only_those_who_are_ahead_are_asked_for_what_is_only_said() -> None:
    desk = Desk(A, B, C)
    asked = [question(ahead(desk, B, 2)).peer] + [question(desk.fire(None)).peer for _ in range(4)]
    assert asked == [B] * 5
    ahead(desk, C, 2)
    assert {question(desk.fire(None)).peer for _ in range(2)} == {B, C}


def test_what_a_certificate_shows_is_asked_of_everybody_all_the_same() -> None:
    desk = Desk(A, B)
    ahead(desk, B, 1)
    assert [question(desk.fetch(30)).peer, question(desk.fire(None)).peer] == [B, A]


def test_a_peer_that_only_says_so_is_passed_over() -> None:
    """It claims a far epoch and has nothing to show: whoever else is ahead is asked, and it is not asked again before
    it says so again."""
    desk = Desk(A, B, C)
    sent = question(ahead(desk, A, 9))
    ahead(desk, B, 2)
    _, effects = desk.answer(sent)
    assert question(effects).peer == B
    _, effects = desk.answer(question(effects))
    assert effects == (CancelTimer("sync:"),)
    assert not desk.sync.follows
    assert question(ahead(desk, A, 9)).peer == A


def silenced(desk: Desk, liar: bytes) -> None:
    """A peer that says it is far ahead and never answers, until nobody expects an answer soon."""
    assert question(ahead(desk, liar, 9)).peer == liar
    for _ in range(6):
        desk.now += 100 * GRACE
        assert question(desk.fire(None)).peer == liar


def test_who_waits_for_a_liar_asks_at_once_for_what_a_certificate_shows() -> None:
    desk = Desk(A, B)
    silenced(desk, A)
    assert question(desk.fetch(30, peer=B)).peer == B, "the one who named it"
    assert not questions(desk.fetch(31, peer=B)), "once: an answer is on its way"


def test_who_waits_for_a_liar_hears_of_another_who_is_ahead() -> None:
    desk = Desk(A, B, C)
    silenced(desk, A)
    assert ahead(desk, B, 1) == (SetTimer("sync:", desk.now + GRACE),)
    desk.now += GRACE
    sent = question(desk.fire(None))
    assert sent.peer == B
    assert ahead(desk, B, 1) == (), "it is known by now"
    # Who had nothing to show is asked again with all the others, and no sooner.
    _, effects = desk.answer(sent)
    assert question(effects).peer == A
    assert ahead(desk, B, 1) == ()


def test_who_waits_for_a_liar_asks_whoever_shows_that_the_epoch_is_over() -> None:
    desk = Desk(A, B)
    silenced(desk, A)
    assert question(ahead(desk, B, 7)).peer == B


@pytest.mark.parametrize("lie", ["chain", "proof", "pruned", "epoch"])
def test_a_peer_that_is_ahead_and_lies_is_passed_over(lie: str) -> None:
    desk = Desk(A, B)
    sent = question(ahead(desk, A, 2))
    ahead(desk, B, 2)
    message = sent.message
    assert isinstance(message, RangeRequest)
    answer = desk.range(message.request_id, 1, 2)
    if lie == "chain":
        answer = replace(answer, blocks=desk.stored(2, 1))
    elif lie == "proof":
        desk.refusal = Refusal("no quorum")
    elif lie == "pruned":
        answer = replace(answer, pruned_below=5)
    else:
        header = replace(desk.block(2).header, epoch=1)
        answer = replace(answer, blocks=(*desk.stored(1), StoredBlock(header=header, body=memoryview(b"body 2"))))
    fetched, effects = desk.hear(A, answer)
    assert fetched is None
    assert question(effects).peer == B
    assert [reject.peer for reject in rejects(effects)] == ([] if lie == "pruned" else [A])


def test_blocks_of_another_epoch_are_refused_with_the_sender_named() -> None:
    desk = Desk(A, B)
    desk.fetch(2, A)
    asked = question(desk.fire(2))
    header = replace(desk.block(2).header, epoch=1)
    blocks = (StoredBlock(header=header, body=memoryview(b"body 2")),)
    answer = AncestorsResponse(epoch=0, request_id=asked_id(asked), blocks=blocks)
    fetched, effects = desk.hear(A, answer)
    assert fetched is None
    assert rejects(effects) == [Reject(A, "sync: a block of another epoch than 0")]
    assert question(effects).peer == B


def test_a_request_of_a_later_epoch_says_that_its_sender_is_ahead() -> None:
    desk = Desk(A)
    assert question(desk.hear(A, RangeRequest(epoch=4, request_id=1, from_height=1))[1]).peer == A


def test_strangers_are_not_followed() -> None:
    desk = Desk(A)
    assert ahead(desk, B, 9) == ()
    assert not desk.sync.follows


def test_between_two_epochs_nothing_is_asked() -> None:
    desk = Desk(A)
    desk.fetch(30, A)
    desk.sync.end()
    assert desk.done() == (CancelTimer("sync:"),)
    assert ahead(desk, A, 9) == ()
    assert question(begun(desk, 1, committed=5)).peer == A


def test_the_end_of_our_epoch_is_taken_from_memory_or_fetched_from_who_told_it() -> None:
    desk = Desk(A, B)
    boundary = replace(desk.block(5).header, next_validators_hash=bytes(32))
    end = EpochEnd(epoch=0, boundary=boundary, proof=desk.proof(5))
    fetched, effects = desk.hear(B, end)
    assert (fetched, question(effects).peer) == (None, B)
    desk.here[block_of(boundary).id] = StoredBlock(header=boundary, body=memoryview(b"body 5"))
    fetched, effects = desk.hear(B, end)
    assert effects == ()
    assert taken(fetched) == [5]
    assert fetched is not None
    assert fetched.proof == end.proof
    desk.begin(1)
    assert desk.hear(B, end) == (None, ()), "we know"


def test_an_end_that_is_none_is_refused() -> None:
    desk = Desk(A)
    end = EpochEnd(epoch=0, boundary=desk.block(5).header, proof=desk.proof(5))
    assert desk.hear(A, end) == (None, (Reject(A, "epoch end: names no validators"),))
    desk.refusal = Refusal("no quorum")
    named = replace(end, boundary=replace(end.boundary, next_validators_hash=bytes(32)))
    assert desk.hear(A, named) == (None, (Reject(A, "epoch end: no quorum"),))
