"""What a key may sign, against an oracle that forgets nothing: whatever is asked, in whatever order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.finality.types import FFG
from consensus.protocols.chained_types import TimeoutSubject
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.protocols.simplex_types import FINALIZE, NULLIFY
from consensus.protocols.tendermint_types import PRECOMMIT, PREVOTE, view_at
from consensus.types import Slot, Subject
from sequencer.signer import rules
from sequencer.signer.rules import SUBJECTS_KEPT, Entry, Grant, History, Refusal, Rule, decide
from tests.sequencer.signer.subjects import ffg, proposal, timeout, vote

KEPT_HERE = 3
"""Small, so that short histories are forgotten."""


def entry(subject: Subject, domain: bytes = b"") -> Entry:
    return Entry(subject, hashlib.sha256(domain + encode(cast("msgspec.Struct", subject))).digest())


class Signer:
    """Asks, and remembers what was granted."""

    def __init__(self, protocol: str = "jolteon") -> None:
        self.protocol = protocol_named(protocol)
        self.history = History()

    def ask(self, subject: Subject, domain: bytes = b"") -> Rule | bool:
        """The rule that refuses, or whether it is a repeat."""
        verdict = decide(entry(subject, domain), self.history, self.protocol.offences, of_protocol=subject.kind != FFG)
        if isinstance(verdict, Refusal):
            return verdict.rule
        assert isinstance(verdict, Grant)
        self.history = verdict.history
        return verdict.repeat


NEW, REPEAT = False, True


# --- stories ----------------------------------------------------------------------------------------------------------


def test_one_subject_per_slot_and_the_same_again() -> None:
    signer = Signer()
    assert signer.ask(vote(5)) is NEW
    assert signer.ask(vote(5)) is REPEAT
    assert signer.ask(vote(5, 2)) is Rule.CONTRADICTION
    assert signer.ask(vote(5, justify=4)) is Rule.CONTRADICTION
    assert signer.ask(vote(5), b"other validators") is Rule.CONTRADICTION
    assert signer.ask(vote(4)) is Rule.ORDER
    assert signer.ask(vote(7)) is NEW
    assert signer.ask(vote(6)) is Rule.ORDER
    assert signer.ask(vote(5)) is REPEAT


def test_kinds_have_slots_of_their_own_and_epochs_come_first() -> None:
    signer = Signer()
    assert [signer.ask(each) for each in (vote(5), proposal(5), timeout(5, 4), vote(2, epoch=1))] == [NEW] * 4
    assert signer.ask(vote(6)) is Rule.ORDER
    assert signer.ask(proposal(3, epoch=1)) is NEW


def test_offences_are_refused_in_both_orders() -> None:
    signer = Signer("jolteon")
    assert signer.ask(vote(5, justify=4)) is NEW
    assert signer.ask(timeout(5, 3)) is Rule.OFFENCE
    assert signer.ask(timeout(5, 4)) is NEW
    assert signer.ask(vote(6, justify=5)) is NEW
    signer = Signer("jolteon")
    assert signer.ask(timeout(5, 3)) is NEW
    assert signer.ask(vote(5, justify=4)) is Rule.OFFENCE, "its view was given up with less"
    assert signer.ask(vote(6, justify=4)) is NEW
    signer = Signer("simplex")
    assert signer.ask(vote(5, kind=FINALIZE)) is NEW
    assert signer.ask(vote(5, 0, kind=NULLIFY)) is Rule.OFFENCE


def test_views_begin_anew_in_an_epoch() -> None:
    signer = Signer("jolteon")
    assert signer.ask(vote(50, justify=49)) is NEW
    assert signer.ask(timeout(51, 3, epoch=1)) is NEW


def test_what_is_forgotten_is_the_floor_of_all_kinds() -> None:
    signer = Signer()
    for view in range(1, SUBJECTS_KEPT + 2):
        assert signer.ask(vote(view, justify=view - 1)) is NEW
    assert signer.history.floor == Slot(0, 1, 0)
    assert signer.ask(vote(2, justify=1)) is REPEAT
    assert signer.ask(proposal(1)) is Rule.FLOOR
    assert signer.ask(proposal(2)) is NEW


def test_the_floor_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old subjects of a rare kind are forgotten long after newer ones of another."""
    monkeypatch.setattr(rules, "SUBJECTS_KEPT", 2)
    signer = Signer()
    asked = [proposal(1), proposal(2), *(vote(view, justify=view - 1) for view in range(10, 14)), proposal(14)]
    assert [signer.ask(subject) for subject in asked] == [NEW] * 7
    assert signer.history.floor == Slot(0, 11, 0)
    assert signer.ask(timeout(11, 11)) is Rule.FLOOR


def test_votes_of_finality_count_in_heights_and_have_no_floor() -> None:
    signer = Signer()
    for view in range(1000, 1000 + SUBJECTS_KEPT + 2):
        assert signer.ask(vote(view)) is NEW
    assert signer.ask(ffg(0, 32)) is NEW
    assert signer.ask(ffg(0, 32)) is REPEAT
    assert signer.ask(ffg(0, 32, 2)) is Rule.CONTRADICTION
    assert signer.ask(ffg(0, 16)) is Rule.ORDER


def test_memory_is_bounded() -> None:
    signer = Signer("tendermint")
    for round_ in range(4 * SUBJECTS_KEPT):
        assert signer.ask(vote(view_at(1, round_), round_ % 3, kind=PRECOMMIT, height=1)) is NEW
        assert signer.ask(ffg(round_, round_ + 1)) is NEW
    for kind in signer.history.kinds.values():
        assert len(kind.latest) == SUBJECTS_KEPT
        assert len(kind.bound) <= 3


# --- against perfect memory -------------------------------------------------------------------------------------------


def subjects(protocol: ProtocolDefinition) -> st.SearchStrategy[Subject]:
    """Everything that a key of this protocol can be asked for, in a small world."""
    small = st.integers(0, 7)
    views = st.builds(view_at, st.integers(1, 2), small) if protocol.name == "tendermint" else st.integers(1, 12)
    epochs, blocks = st.sampled_from([0, 0, 0, 1]), st.integers(0, 3)
    votes = st.builds(
        lambda kind, view, number, justify, height, epoch: vote(
            view, number, kind=kind, justify=justify, height=height, epoch=epoch
        ),
        st.sampled_from([each.name for each in protocol.votes]),
        views,
        blocks,
        st.one_of(small, views),
        st.integers(0, 4),
        epochs,
    )
    kinds = [
        votes,
        votes,
        st.builds(lambda view, number, epoch: proposal(view, number, epoch=epoch), views, blocks, epochs),
    ]
    if TimeoutSubject in protocol.subjects:
        kinds.append(st.builds(lambda view, high, epoch: timeout(view, high, epoch=epoch), views, views, epochs))
    return st.one_of(kinds)


def convicts(protocol: ProtocolDefinition, one: Subject, other: Subject) -> bool:
    """By the definitions, whichever came first."""
    if one.epoch != other.epoch:
        return False
    return any(
        offence.forbids(first, second, ())
        for offence in protocol.offences
        if not offence.headers_needed
        for first, second in ((one, other), (other, one))
    )


def check_history(protocol: ProtocolDefinition, asked: Sequence[Subject]) -> None:
    """Nothing granted contradicts anything granted before; nothing is refused without a reason of the whole history."""
    signer = Signer(protocol.name)
    granted: list[Subject] = []
    for subject in asked:
        answer = signer.ask(subject)
        same_slot = [each for each in granted if (each.kind, each.slot) == (subject.kind, subject.slot)]
        later = [each for each in granted if each.kind == subject.kind and each.slot > subject.slot]
        convicting = [each for each in granted if convicts(protocol, each, subject)]
        if answer is REPEAT:
            assert same_slot == [subject]
            continue
        if answer is NEW:
            assert not same_slot
            assert not later
            assert not convicting
            granted.append(subject)
            continue
        floor = signer.history.floor
        assert same_slot or later or convicting or (floor is not None and subject.slot <= floor)
        if floor is not None and answer is Rule.FLOOR:
            assert any(each.slot == floor for each in granted), "the floor is the slot of something signed"


@pytest.mark.parametrize("name", protocol_names())
@pytest.mark.parametrize("kept", [1, KEPT_HERE, SUBJECTS_KEPT])
def test_bounded_memory_is_as_good_as_perfect_memory(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SUBJECTS_KEPT", kept)
    protocol = protocol_named(name)

    @given(st.lists(subjects(protocol), max_size=60), st.booleans())
    @settings(max_examples=150)
    def check(asked: list[Subject], ascending: bool) -> None:
        # In order, more is granted and more is forgotten.
        check_history(protocol, sorted(asked, key=lambda each: each.slot) if ascending else asked)

    check()


def test_a_flood_of_later_votes_hides_no_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that was taken over signs harmless votes until the one that matters is forgotten."""
    monkeypatch.setattr(rules, "SUBJECTS_KEPT", KEPT_HERE)
    signer = Signer("jolteon")
    assert signer.ask(vote(5, justify=4)) is NEW
    for view in range(6, 20):
        assert signer.ask(vote(view, 2 + view % 2, height=view)) is NEW
    assert signer.ask(timeout(20, 3)) is Rule.OFFENCE
    assert signer.ask(timeout(20, 4)) is NEW

    signer = Signer("tendermint")
    assert signer.ask(vote(view_at(1, 0), 1, kind=PRECOMMIT)) is NEW
    assert signer.ask(vote(view_at(1, 1), 2, kind=PRECOMMIT)) is NEW
    for round_ in range(2, 20):
        assert signer.ask(vote(view_at(1, round_), 0, kind=PRECOMMIT, justify=view_at(1, 1))) is NEW
    assert signer.ask(vote(view_at(1, 20), 2, kind=PREVOTE)) is Rule.OFFENCE, "the first lock"
    assert signer.ask(vote(view_at(1, 20), 1, kind=PREVOTE)) is Rule.OFFENCE, "the second lock"
    assert signer.ask(vote(view_at(1, 20), 2, kind=PREVOTE, justify=view_at(1, 1))) is NEW

    signer = Signer("streamlet")
    assert signer.ask(vote(1, height=9)) is NEW
    for view in range(2, 9):
        assert signer.ask(vote(view, height=9)) is NEW
    assert signer.ask(vote(9, height=8)) is Rule.OFFENCE


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(1, 2)), max_size=40))
@example([(0, 5, 1), (0, 5, 1), (0, 5, 2)])
def test_finality_never_gets_two_votes_of_one_target(asked: list[tuple[int, int, int]]) -> None:
    signer, granted = Signer(), dict[int, Subject]()
    for source, target, number in asked:
        subject = ffg(source, target, number)
        if signer.ask(subject) in (NEW, REPEAT):
            assert granted.setdefault(target, subject) == subject
