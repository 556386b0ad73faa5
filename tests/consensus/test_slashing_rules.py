"""EIP-3076's rules against their definitions, over every history of a small world."""

from __future__ import annotations

from itertools import combinations_with_replacement, product
from typing import Final

import pytest

from consensus.slashing_rules import (
    AttestationFacts,
    BlockFacts,
    Permission,
    Refusal,
    Rule,
    SignedAttestation,
    SignedBlock,
    SigningHistory,
    Verdict,
    Watermarks,
    judge_attestation,
    judge_block,
    lowest,
    merged_root,
    minimal,
    surrounds,
    without_watermarks,
)

A: Final = bytes([1]) * 32
B: Final = bytes([2]) * 32
ROOTS: Final = (A, B, None)
KEY: Final = bytes(48)
EPOCHS: Final = range(4)
VOTES: Final = tuple(SignedAttestation(s, t, root) for s, t in product(EPOCHS, EPOCHS) for root in (A, None))


def facts_of_slot(history: tuple[SignedBlock, ...], slot: int, watermark: int | None = None) -> BlockFacts:
    return BlockFacts(
        same_slot=next((each for each in history if each.slot == slot), None),
        lowest_slot=min((each.slot for each in history), default=None),
        watermarks=Watermarks(slot=watermark),
    )


def facts_of_vote(
    history: tuple[SignedAttestation, ...], vote: SignedAttestation, marks: Watermarks | None = None
) -> AttestationFacts:
    higher = [each for each in history if each.source_epoch > vote.source_epoch]
    lower = [each for each in history if each.source_epoch < vote.source_epoch]
    return AttestationFacts(
        same_target=tuple(each for each in history if each.target_epoch == vote.target_epoch),
        inside=min(higher, key=lambda each: each.target_epoch, default=None),
        outside=max(lower, key=lambda each: each.target_epoch, default=None),
        lowest_source=min((each.source_epoch for each in history), default=None),
        lowest_target=min((each.target_epoch for each in history), default=None),
        watermarks=marks or Watermarks(),
    )


def rule_of(verdict: Verdict) -> Rule | None:
    return verdict.rule if isinstance(verdict, Refusal) else None


def test_blocks_in_every_small_history() -> None:
    """Conditions 1 and 2, written out anew."""
    for first, second in product(product(range(4), ROOTS), product(range(4), ROOTS)):
        if first[0] == second[0]:
            continue
        history = (SignedBlock(*first), SignedBlock(*second))
        for slot, root in product(range(5), ROOTS):
            verdict = judge_block(SignedBlock(slot, root), facts_of_slot(history, slot))
            if (slot, root) in (first, second) and root is not None:
                assert verdict == Permission(repeat=True)
            elif slot in (first[0], second[0]):
                assert rule_of(verdict) is Rule.DOUBLE_BLOCK
            elif slot < first[0] and slot < second[0]:
                assert verdict == Refusal(Rule.SLOT_TOO_LOW, min(first[0], second[0]))
            else:
                assert verdict == Permission(repeat=False)


def slashable(one: SignedAttestation, two: SignedAttestation) -> bool:
    """``is_slashable_attestation_data``, both ways, and what is known of the data only by its root."""
    same = (one.source_epoch, one.target_epoch, one.signing_root) == (
        two.source_epoch,
        two.target_epoch,
        two.signing_root,
    ) and one.signing_root is not None
    double = not same and one.target_epoch == two.target_epoch
    around = one.source_epoch < two.source_epoch and two.target_epoch < one.target_epoch
    within = two.source_epoch < one.source_epoch and one.target_epoch < two.target_epoch
    return double or around or within


def test_attestations_in_every_small_history() -> None:
    """Conditions 3, 4 and 5, written out anew: 528 histories, 32 attestations each."""
    seen = set()
    for history in combinations_with_replacement(VOTES, 2):
        for vote in VOTES:
            verdict = judge_attestation(vote, facts_of_vote(history, vote))
            refused = (
                vote.source_epoch > vote.target_epoch
                or any(slashable(vote, known) for known in history)
                or all(vote.source_epoch < known.source_epoch for known in history)
                or (vote not in history and all(vote.target_epoch <= known.target_epoch for known in history))
            )
            assert isinstance(verdict, Refusal) == refused, (history, vote, verdict)
            if isinstance(verdict, Permission):
                assert verdict.repeat == (vote in history)
            seen.add(rule_of(verdict))
    assert seen == {
        None,
        *(Rule.SOURCE_AFTER_TARGET, Rule.DOUBLE_VOTE, Rule.SURROUNDED, Rule.SURROUNDING),
        *(Rule.SOURCE_TOO_LOW, Rule.TARGET_TOO_LOW),
    }


def test_an_empty_history_permits_everything_but_nonsense() -> None:
    assert judge_block(SignedBlock(0), facts_of_slot((), 0)) == Permission(repeat=False)
    for vote in VOTES:
        verdict = judge_attestation(vote, facts_of_vote((), vote))
        assert isinstance(verdict, Permission) == (vote.source_epoch <= vote.target_epoch)


@pytest.mark.parametrize(("slot", "permitted"), [(6, False), (7, False), (8, True)])
def test_a_slot_must_be_above_the_watermark(slot: int, permitted: bool) -> None:
    verdict = judge_block(SignedBlock(slot, A), facts_of_slot((), slot, watermark=7))
    assert isinstance(verdict, Permission) == permitted


@pytest.mark.parametrize(
    ("source", "target", "rule"),
    [
        (4, 9, Rule.SOURCE_TOO_LOW),
        (5, 9, None),
        (5, 8, Rule.TARGET_TOO_LOW),
        (6, 7, Rule.TARGET_TOO_LOW),
    ],
)
def test_epochs_must_respect_the_watermarks(source: int, target: int, rule: Rule | None) -> None:
    vote = SignedAttestation(source, target, A)
    verdict = judge_attestation(vote, facts_of_vote((), vote, Watermarks(source_epoch=5, target_epoch=8)))
    assert rule_of(verdict) is rule


def test_surrounding_is_strict_on_both_sides() -> None:
    inner = SignedAttestation(3, 5)
    around = {(s, t) for s, t in product(range(8), repeat=2) if surrounds(SignedAttestation(s, t), inner)}
    assert around == {(s, t) for s in (0, 1, 2) for t in (6, 7)}


def test_a_missing_root_equals_nothing_and_merging_keeps_only_what_agrees() -> None:
    assert merged_root(A, A) == A
    for one, two in ((A, B), (A, None), (None, A), (None, None)):
        assert merged_root(one, two) is None


def test_forgetting_is_at_least_as_strict_as_remembering() -> None:
    """Pruning's claim: whatever contradicts a forgotten vote, or is one, is refused by the watermarks alone."""
    for history in combinations_with_replacement([each for each in VOTES if each.signing_root == A], 2):
        marks = Watermarks(
            source_epoch=max(each.source_epoch for each in history),
            target_epoch=max(each.target_epoch for each in history),
        )
        for vote in VOTES:
            if any(slashable(vote, known) or vote == known for known in history):
                assert isinstance(judge_attestation(vote, facts_of_vote((), vote, marks)), Refusal)


HISTORIES: Final = tuple(
    SigningHistory(
        pubkey=KEY,
        blocks=tuple(SignedBlock(slot, A) for slot in slots),
        attestations=tuple(SignedAttestation(*epochs, A) for epochs in votes),
        forgotten=forgotten,
    )
    for slots in ((), (5,), (5, 7))
    for votes in ((), ((2, 5),), ((2, 5), (3, 6)), ((3, 5), (2, 6)), ((4, 5), (1, 7)))
    for forgotten in (
        Watermarks(),
        Watermarks(slot=4, source_epoch=0, target_epoch=3),
        Watermarks(slot=4, source_epoch=3, target_epoch=4),
    )
)


@pytest.mark.parametrize("reduced", [minimal, without_watermarks])
def test_an_export_rules_out_whatever_its_history_rules_out(reduced: object) -> None:
    """Whoever imports it and applies the conditions, knowing nothing else."""
    export = minimal if reduced is minimal else without_watermarks
    for history in HISTORIES:
        moved = export(history)
        assert moved.forgotten == Watermarks()
        for slot, root in product(range(9), (B, None)):
            before = facts_of_slot(history.blocks, slot, history.forgotten.slot)
            if isinstance(judge_block(SignedBlock(slot, root), before), Refusal):
                assert isinstance(judge_block(SignedBlock(slot, root), facts_of_slot(moved.blocks, slot)), Refusal)
        for source, target in product(range(9), repeat=2):
            vote = SignedAttestation(source, target, B)
            verdict = judge_attestation(vote, facts_of_vote(history.attestations, vote, history.forgotten))
            if isinstance(verdict, Refusal):
                after = judge_attestation(vote, facts_of_vote(moved.attestations, vote))
                assert isinstance(after, Refusal), (history, moved, vote, verdict)


def test_a_minimal_export_is_the_highest_of_each_without_roots() -> None:
    history = SigningHistory(
        pubkey=KEY,
        blocks=(SignedBlock(5, A), SignedBlock(9, B)),
        attestations=(SignedAttestation(3, 5, A), SignedAttestation(2, 8, A)),
    )
    assert minimal(history) == SigningHistory(
        pubkey=KEY, blocks=(SignedBlock(9),), attestations=(SignedAttestation(3, 8),)
    )
    assert minimal(SigningHistory(pubkey=KEY)) == SigningHistory(pubkey=KEY)


def test_the_complete_export_of_what_was_never_pruned_is_itself() -> None:
    history = SigningHistory(pubkey=KEY, blocks=(SignedBlock(5, A),), attestations=(SignedAttestation(3, 5),))
    assert without_watermarks(history) == history
    assert lowest(history) == Watermarks(slot=5, source_epoch=3, target_epoch=5)
