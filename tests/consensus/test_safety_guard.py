"""The guard as a story: one subject per kind and slot, ever; the same question gets the stored answer."""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import encode
from consensus.engine import SafetyRecord, Sign
from consensus.protocols.chained_state import SafetyState, subjects
from consensus.protocols.chained_types import TimeoutSubject
from consensus.safety import Forbidden, Granted, SafetyGuard
from consensus.types import ProposalSubject, VoteSubject
from tests.support.committee import committee

GENESIS = committee().epoch.genesis
STATE = SafetyState(last_voted_view=3, lock=GENESIS, high_qc=GENESIS, high_tc=None)


def vote(view: int, block: bytes = b"b", epoch: int = 0) -> VoteSubject:
    return VoteSubject(kind="vote", epoch=epoch, view=view, block_id=block * 32, height=1, justify_view=0)


def granted(answer: Granted | Forbidden) -> Granted:
    assert isinstance(answer, Granted)
    return answer


def test_a_decision_comes_with_the_record_that_must_be_durable_first() -> None:
    answer = granted(SafetyGuard().authorize(vote(3), STATE))
    assert answer.sign == Sign(vote(3))
    assert answer.records == (SafetyRecord(kind="vote", subject=encode(vote(3)), state=encode(STATE)),)


def test_the_same_question_gets_the_stored_answer_and_no_second_record() -> None:
    guard = SafetyGuard()
    first = granted(guard.authorize(vote(3), STATE))
    again = granted(guard.authorize(vote(3), STATE))
    assert again == Granted((), first.sign)


def test_a_second_subject_in_the_slot_is_forbidden() -> None:
    guard = SafetyGuard()
    guard.authorize(vote(3), STATE)
    assert guard.authorize(vote(3, b"c"), STATE) == Forbidden("vote", vote(3))
    assert guard.stored() == (Sign(vote(3)),), "the refusal changed nothing"


def test_slots_only_grow() -> None:
    """An earlier slot is forbidden even when it was never used: the record of the later one replaced the books."""
    guard = SafetyGuard()
    guard.authorize(vote(3), STATE)
    assert guard.authorize(vote(2), STATE) == Forbidden("vote", vote(3))
    granted(guard.authorize(vote(4), STATE))
    assert guard.authorize(vote(3), STATE) == Forbidden("vote", vote(4)), "not even the answer of before"


def test_a_later_epoch_comes_after_every_view() -> None:
    guard = SafetyGuard()
    guard.authorize(vote(900), STATE)
    granted(guard.authorize(vote(1, epoch=1), STATE))
    assert isinstance(guard.authorize(vote(901), STATE), Forbidden)


def test_kinds_have_slots_of_their_own() -> None:
    guard = SafetyGuard()
    subjects_of_one_view = (
        vote(3),
        TimeoutSubject(epoch=0, view=3, high_qc_view=1),
        ProposalSubject(epoch=0, view=3, block_id=bytes(32)),
    )
    for subject in subjects_of_one_view:
        assert len(granted(guard.authorize(subject, STATE)).records) == 1
    assert [sign.subject.kind for sign in guard.stored()] == ["proposal", "timeout", "vote"]


def test_after_a_restart_the_stored_subject_holds_its_slot() -> None:
    before, after = SafetyGuard(), SafetyGuard()
    (record,) = granted(before.authorize(vote(3), STATE)).records
    assert after.restore(record, subjects) == vote(3)
    assert after.authorize(vote(3, b"c"), STATE) == Forbidden("vote", vote(3))
    assert granted(after.authorize(vote(3), STATE)).records == ()
    assert after.stored() == (Sign(vote(3)),)


def test_a_journal_that_holds_something_else_is_refused_by_name() -> None:
    (record,) = granted(SafetyGuard().authorize(vote(3), STATE)).records
    torn = msgspec.structs.replace(record, subject=record.subject[:-1])
    with pytest.raises(ValueError, match="safety record 'vote' does not decode: "):
        SafetyGuard().restore(torn, subjects)
    misfiled = msgspec.structs.replace(record, kind="timeout")
    guard = SafetyGuard()
    with pytest.raises(ValueError, match="safety record 'timeout' holds a subject of kind 'vote'"):
        guard.restore(misfiled, subjects)
    assert guard.stored() == ()
