"""Our justification and finalization against the executable Ethereum consensus specification, where the two agree:
one chain, a checkpoint per epoch, total stakes that are no multiple of three (two thirds exactly counts there, not
here). The answers were written down once; see data/README.md.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from consensus.finality import rules
from consensus.finality.chain_links import ChainLinks, OneBranch, initial_state
from consensus.finality.rules import ValidatorSets
from consensus.finality.types import Checkpoint, Link
from netsim.histories.play import identifier, validator_set

FILE = Path(__file__).parent / "data" / "finality_vectors.json"
INTERVAL = 32


class EpochVotes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The votes in the blocks of one epoch, and what was justified and finalized at its end."""

    in_time: int
    late_from_before: int
    justified: int
    finalized: int


class RecordedHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stakes: tuple[int, ...]
    epochs: tuple[EpochVotes, ...]


class Vectors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``pairs``: two votes as (source epoch, target epoch, fork of the target), and whether they are slashable."""

    source: str
    first_epoch: int
    histories: tuple[RecordedHistory, ...]
    pairs: tuple[tuple[tuple[int, int, int], tuple[int, int, int], bool], ...]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return msgspec.json.decode(FILE.read_bytes(), type=Vectors)


def checkpoint(epoch: int, fork: int = 0) -> Checkpoint:
    return Checkpoint(height=epoch * INTERVAL, id=identifier(f"fork {fork} {epoch}"))


def names(bits: int) -> set[bytes]:
    return {f"v{index}".encode() for index in range(bits.bit_length()) if bits >> index & 1}


def disagreements(history: RecordedHistory, first_epoch: int) -> list[str]:
    """Replay the votes over the pure rules and over the incremental chain; what differs from the specification."""
    members = validator_set({f"v{index}": stake for index, stake in enumerate(history.stakes)})
    chain = ChainLinks(INTERVAL, initial_state(checkpoint(0)))
    for epoch in range(1, first_epoch):
        chain.extend(checkpoint(epoch))
    signers: dict[Link, set[bytes]] = {}
    previous: Link | None = None
    highest = checkpoint(0)
    wrong = []
    for epoch, recorded in enumerate(history.epochs, start=first_epoch):
        chain.extend(checkpoint(epoch))
        link = Link(highest, checkpoint(epoch))
        signers[link] = names(recorded.in_time)
        if previous is not None:
            signers[previous] |= names(recorded.late_from_before)
        previous = link
        finality = rules.evaluate(
            root=checkpoint(0),
            interval=INTERVAL,
            sets=ValidatorSets(first=members),
            signers=signers,
            ancestry=OneBranch(),
        )
        for held in finality.links:
            chain.add(held)
        highest = finality.highest_justified
        answers = [
            (highest.height // INTERVAL, finality.highest_finalized.height // INTERVAL),
            (chain.justified.height // INTERVAL, chain.finalized.height // INTERVAL),
        ]
        wrong += [
            f"end of epoch {epoch}: {answer}, Ethereum ({recorded.justified}, {recorded.finalized})"
            for answer in answers
            if answer != (recorded.justified, recorded.finalized)
        ]
    return wrong


def test_what_is_justified_and_final_is_what_ethereum_says(vectors: Vectors) -> None:
    assert len(vectors.histories) >= 100
    for number, history in enumerate(vectors.histories):
        assert disagreements(history, vectors.first_epoch) == [], f"history {number}"


def test_the_histories_hold_what_could_go_wrong(vectors: Vectors) -> None:
    """Finalization over a gap (k = 2), justification by late votes, and stalls of several epochs."""
    gaps = late = stalls = 0
    for history in vectors.histories:
        for before, now in zip(history.epochs, history.epochs[1:], strict=False):
            gaps += now.finalized > before.finalized and now.justified == now.finalized + 2
            late += now.justified > before.justified and now.late_from_before > 0
            stalls += now.justified - now.finalized > 3
    assert min(gaps, late, stalls) > 30, (gaps, late, stalls)


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("has_quorum", lambda validators, keys: 2 * rules.stake_of_keys(validators, keys) > validators.total),
        ("finalizes_by_one", lambda link, interval: True),
        ("finalizes_by_one", lambda link, interval: False),
        ("finalizes_by_two", lambda link, interval, justified, ancestry: None),
        ("on_one_branch", lambda source, between, target, ancestry: False),
    ],
)
def test_a_wrong_rule_disagrees(rule: str, wrong: object, vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, rule, wrong)
    assert any(disagreements(history, vectors.first_epoch) for history in vectors.histories)


def test_what_is_slashable_is_what_ethereum_says(vectors: Vectors) -> None:
    """There and here: two votes of one signer, with sources on the common part of the chain."""
    seen = {True: 0, False: 0}
    for first, second, slashable in vectors.pairs:
        one, other = (Link(checkpoint(source), checkpoint(target, fork)) for source, target, fork in (first, second))
        assert (rules.conflict(one, other) is not None) is slashable, (first, second)
        assert rules.conflict(one, other) == rules.conflict(other, one)
        seen[slashable] += 1
    assert min(seen.values()) > len(vectors.pairs) // 5
