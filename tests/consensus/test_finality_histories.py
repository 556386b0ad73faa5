"""Casper FFG over thousands of random histories with any number of faulty validators: honest votes are never slashable,
what is final stays final, and two conflicting finalized checkpoints name enough guilty and nobody else. Each wrong rule
is found out.
"""

from __future__ import annotations

import itertools

import pytest

from consensus.finality.forensics import Extraction, extract
from netsim.histories.mutants import MUTANTS, REDUNDANT, FinalityMutant
from netsim.histories.oracle import complaints, final_by_definition, forks
from netsim.histories.play import INTERVAL, History, play
from netsim.histories.tally import play_tally

SEEDS = 3_000
SEEDS_SWEEP = 100_000


def conflicting(history: History) -> bool:
    return forks(history, set(history.evaluate().finalized))


def test_in_every_history_the_rules_are_silent() -> None:
    seen = {"final": 0, "conflicts": 0, "conflicts over a change of set": 0, "k = 2": 0}
    for seed in range(SEEDS):
        history = play(seed)
        finality = history.evaluate()
        assert complaints(history) == [], f"seed {seed}"
        assert set(finality.finalized) == final_by_definition(history), f"seed {seed}"
        clash = conflicting(history)
        seen["final"] += len(finality.finalized) > 1
        seen["conflicts"] += clash
        seen["conflicts over a change of set"] += clash and bool(history.sets.changes)
        seen["k = 2"] += any(len(links) == 2 for links in finality.finalized.values())
    assert seen["final"] > SEEDS // 3, "what finalizes nothing cannot go wrong"
    assert seen["conflicts"] > SEEDS // 25, "without conflicts nobody is accused"
    assert seen["conflicts over a change of set"] > SEEDS // 100
    assert seen["k = 2"] > SEEDS // 50


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(4))
def test_in_many_more_histories_the_rules_are_silent(block: int) -> None:
    for seed in range(SEEDS + block * SEEDS_SWEEP, SEEDS + (block + 1) * SEEDS_SWEEP):
        history = play(seed)
        assert complaints(history) == [], f"seed {seed}"
        assert set(history.evaluate().finalized) == final_by_definition(history), f"seed {seed}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_wrong_rule_is_found_out(mutant: FinalityMutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.alter(monkeypatch)
    for seed in range(mutant.budget):
        if play_tally(seed).complaints if mutant.caught_by == "tally" else complaints(play(seed)):
            return
    pytest.fail(f"{mutant.name}: nothing wrong was seen in {mutant.budget} histories")


@pytest.mark.parametrize("alter", REDUNDANT, ids=lambda alter: alter.__name__)
def test_rule_and_guard_each_suffice_against_double_votes(alter: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(alter)
    alter(monkeypatch)
    assert [seed for seed in range(300) if complaints(play(seed))] == []


def test_a_history_is_a_function_of_its_seed() -> None:
    for seed in range(20):
        assert play(seed).votes == play(seed).votes
    assert len({str(play(seed).votes) for seed in range(20)}) > 10


def test_the_answer_does_not_depend_on_the_order_of_the_votes() -> None:
    """The extraction reads certificates as they come, from two sides."""
    clashes = (history for history in (play(seed) for seed in range(SEEDS)) if conflicting(history))
    for history in itertools.islice(clashes, 20):
        signers = history.signers()
        answers = [
            extract(root=history.root, interval=INTERVAL, sets=history.sets, signers=given, ancestry=history.tree)
            for given in (signers, dict(reversed(signers.items())))
        ]
        assert isinstance(answers[0], Extraction)
        assert answers[0] == answers[1]


def test_the_tally_counts_nobody_whose_guilt_it_saw() -> None:
    played = [play_tally(seed) for seed in range(300)]
    assert [seed for seed, one in enumerate(played) if one.complaints] == []
    assert sum(one.certificates for one in played) > 300
    assert sum(one.caught for one in played) > 100
    assert sum(one.spoiled for one in played) > 100
