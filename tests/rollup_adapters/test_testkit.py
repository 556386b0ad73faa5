"""The conformance kit passes a sound adapter and catches each faulty one, in its aspect and in plain words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from rollup_adapters.base import RollupAdapter
from rollup_adapters.testkit import ASPECTS, ConformanceError, conformance
from tests.rollup_adapters import counters

TRANSACTIONS = st.binary(max_size=16)

# As a third party writes it: nothing else is needed.
test_counter = conformance(counters.Counter, transactions=TRANSACTIONS)

test_counter_with_probes = conformance(
    counters.Counter, transactions=TRANSACTIONS, queries=[("count", None)], settled=counters.settled
)


@pytest.fixture
def unshrunk() -> Iterator[None]:
    """That a fault is found is the point here; to look for its smallest example takes most of the time."""
    before = settings.get_current_profile_name()
    settings.register_profile("unshrunk", parent=settings.get_profile(before), phases=[Phase.generate])
    settings.load_profile("unshrunk")
    yield
    settings.load_profile(before)


@pytest.mark.parametrize(
    ("adapter", "aspect", "message"),
    [
        (counters.AcceptsAnySetting, "contract", "raises ValueError naming a setting that it does not know"),
        (counters.ChecksTooFew, "contract", "one Accepted or Rejected per transaction"),
        (counters.ForgetsCursor, "contract", "the cursor survives close and reopen"),
        (counters.ForgetsCursor, "crash", "the cursor is durable before deliver returns"),
        (counters.ForgetsCursor, "kill", "the state after a height depends on nothing but the blocks"),
        (counters.StoresAfterReturning, "crash", "the cursor is durable before deliver returns"),
        (counters.ExecutesAgain, "idempotence", "the state after a height depends on nothing but the blocks"),
        (counters.ForgetsOutcomes, "idempotence", "a block's outcomes are those of its first delivery"),
        (counters.NoOutcomesAgain, "idempotence", "one outcome per transaction"),
        (counters.CursorFirst, "crash", "resumes as if there had been none.*at change . on disk"),
        (counters.CursorLast, "crash", "resumes as if there had been none.*at change . on disk"),
        (
            counters.TearsItsFile,
            "crash",
            "last_delivered answers after a crash.*at change . on disk",
        ),
        (counters.SortsWithinBlock, "order", "transactions execute in the order in which they were delivered"),
        (counters.DigestsPerDelivery, "order", "the state after a height depends on nothing but the blocks"),
        (counters.CommitsToEmptyHeights, "order", "empty heights jumped over"),
        (counters.RollsDice, "determinism", "a second fresh instance"),
        (counters.ReadsTheClock, "determinism", "a second fresh instance"),
        (counters.DependsOnDirectory, "determinism", "a second fresh instance"),
        (counters.DependsOnHashSeed, "kill", "in another process"),
        (counters.RaisesOnPoison, "poison", "deliver must not raise.*UnicodeDecodeError"),
        (counters.ChecksPoisonBadly, "poison", "check must not raise.*UnicodeDecodeError"),
        (counters.BlocksOnPoison, "poison", "every call comes back"),
        (counters.WaitsOnPoison, "poison", "every call comes back"),
        (counters.DropsPoison, "poison", "one outcome per transaction"),
        (counters.QuotesPoison, "poison", "detail is a short sentence"),
        (counters.StopsAtEmptyBlocks, "order", "Executed.height is the last height now durable"),
        (counters.ShortCommitment, "order", "state_commitment has 32 bytes"),
        (counters.SettlesBackwards, "settle", "settled levels are durable and never move backwards"),
        (counters.SettleMovesState, "settle", "settle changes neither cursor nor state"),
        (counters.AnswersAnything, "query", r"unknown method raises QueryError\(-32601"),
        (counters.RefusesWithAnotherCode, "query", r"unknown method raises QueryError\(-32601"),
        (counters.TrustsParameters, "query", "a query raises nothing but QueryError|look at the method before"),
        (counters.AnswersWithBytes, "query", "a query answers with JSON"),
        (counters.AnswersWithTooMuch, "query", "an answer has at most 4194304 bytes"),
        (counters.NeverAnswers, "query", "every call comes back"),
        (counters.IgnoresCancellation, "query", "every call comes back"),
        (counters.QueryWrites, "query", "a query changes nothing"),
    ],
)
@pytest.mark.usefixtures("unshrunk")
def test_fault_is_caught(adapter: type[RollupAdapter], aspect: str, message: str) -> None:
    run = conformance(
        adapter, transactions=TRANSACTIONS, queries=[("count", None)], settled=counters.settled, timeout_s=2.0
    )
    with pytest.raises(ConformanceError, match=f"(?s){message}") as failure:
        run(aspect)
    assert "seen:" in str(failure.value)
    assert "mend:" in str(failure.value)


def test_commutative_state_must_be_declared() -> None:
    conformance(counters.SortsWithinBlock, transactions=TRANSACTIONS, commutative=True)("order")


def test_class_inside_a_function_cannot_be_killed() -> None:
    class Local(counters.Counter):
        pass

    with pytest.raises(pytest.skip.Exception, match=r"Local is not at the top level of a module"):
        conformance(Local, transactions=TRANSACTIONS)("kill")


THIRD_PARTY = """
from hypothesis import strategies as st
from rollup_adapters.raw import RawAdapter
from rollup_adapters.testkit import conformance

class Theirs(RawAdapter):
    pass

test_theirs = conformance(Theirs, transactions=st.binary(max_size=16), examples=3)
"""


def test_runs_in_the_plain_pytest_of_a_third_party(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(THIRD_PARTY)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:trio", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ASPECTS)} passed" in done.stdout
