"""The stories hold, and a rule that is broken on purpose is noticed by one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from consensus import slashing_rules as rules
from consensus.slashing_rules import AttestationFacts, BlockFacts, SigningHistory, Watermarks
from tests.sequencer.slashing_stories import STORIES
from tests.sequencer.slashing_world import World

JUDGE_BLOCK: Final = rules.judge_block
JUDGE_ATTESTATION: Final = rules.judge_attestation


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_story(story: Callable[[World], None], tmp_path: Path) -> None:
    story(World(tmp_path))


def block_facts(change: Callable[[BlockFacts], BlockFacts]) -> dict[str, Any]:
    return {"judge_block": lambda new, known: JUDGE_BLOCK(new, change(known))}


def vote_facts(change: Callable[[AttestationFacts], AttestationFacts]) -> dict[str, Any]:
    return {"judge_attestation": lambda new, known: JUDGE_ATTESTATION(new, change(known))}


def one_lower(bound: int | None) -> int | None:
    return None if bound in (None, 0) else bound - 1


def one_higher(bound: int | None) -> int | None:
    return None if bound is None else bound + 1


def only(rule: rules.Rule) -> dict[str, Any]:
    """All that is refused by this rule alone is permitted."""

    def lenient(verdict: rules.Verdict) -> rules.Verdict:
        refused = isinstance(verdict, rules.Refusal) and verdict.rule is rule
        return rules.Permission(repeat=False) if refused else verdict

    return {
        "judge_block": lambda new, known: lenient(JUDGE_BLOCK(new, known)),
        "judge_attestation": lambda new, known: lenient(JUDGE_ATTESTATION(new, known)),
    }


MUTANTS: Final[dict[str, dict[str, Any]]] = {
    **{f"without the rule {rule.name}": only(rule) for rule in rules.Rule},
    "the slot's own record is overlooked": block_facts(lambda known: replace(known, same_slot=None)),
    "the lowest slot does not bound": block_facts(lambda known: replace(known, lowest_slot=None)),
    "a slot at the watermark passes": block_facts(
        lambda known: replace(known, watermarks=Watermarks(slot=one_lower(known.watermarks.slot)))
    ),
    "one slot above the bound is refused": block_facts(
        lambda known: replace(known, lowest_slot=one_higher(known.lowest_slot))
    ),
    "the target's own record is overlooked": vote_facts(lambda known: replace(known, same_target=())),
    "only the first record of a target counts": vote_facts(
        lambda known: replace(known, same_target=known.same_target[-1:])
    ),
    "surrounded records are overlooked": vote_facts(lambda known: replace(known, inside=None)),
    "surrounding records are overlooked": vote_facts(lambda known: replace(known, outside=None)),
    "the lowest source does not bound": vote_facts(lambda known: replace(known, lowest_source=None)),
    "a source at the bound is refused": vote_facts(
        lambda known: replace(known, lowest_source=one_higher(known.lowest_source))
    ),
    "the lowest target does not bound": vote_facts(lambda known: replace(known, lowest_target=None)),
    "a target at the watermark passes": vote_facts(
        lambda known: replace(
            known, watermarks=replace(known.watermarks, target_epoch=one_lower(known.watermarks.target_epoch))
        )
    ),
    "a source one below the watermark passes": vote_facts(
        lambda known: replace(
            known, watermarks=replace(known.watermarks, source_epoch=one_lower(known.watermarks.source_epoch))
        )
    ),
    "missing roots are equal": {"is_repeat": lambda new, known: new == known},
    "a missing root equals any": {"is_repeat": lambda new, known: new is None or new == known},
    "nothing is a repeat": {"is_repeat": lambda new, known: False},
    "every message of the slot is a repeat": {"is_repeat": lambda new, known: True},
    "surrounding is confused with being surrounded": {
        "surrounds": lambda o, i: i.source_epoch < o.source_epoch and o.target_epoch < i.target_epoch
    },
    "an import keeps the stored root": {"merged_root": lambda known, other: known},
    "an import replaces the stored root": {"merged_root": lambda known, other: other},
    "a minimal export takes the lowest": {
        "minimal": lambda history: SigningHistory(
            pubkey=history.pubkey, blocks=history.blocks[:1], attestations=history.attestations[:1]
        )
    },
    "a complete export drops the watermarks": {"without_watermarks": lambda history: history},
    "a file's own bounds are not raised": {"lowest": lambda history: Watermarks()},
}


def noticed(directory: Path) -> str | None:
    for number, story in enumerate(STORIES):
        (directory / str(number)).mkdir()
        try:
            story(World(directory / str(number)))
        except AssertionError:
            return story.__name__
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for function, broken in MUTANTS[name].items():
        assert hasattr(rules, function)
        monkeypatch.setattr(rules, function, broken)
    assert noticed(tmp_path) is not None
