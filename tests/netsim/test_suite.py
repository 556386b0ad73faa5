"""The suite of protocols: ours pass each check, each check fails a protocol that is broken there, and a failure says
how to see it again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import JOLTEON, protocol_named, protocol_names
from netsim.cli import app, main
from netsim.mutants.registry import mutant_named
from netsim.schedule import Clock, Schedule, Stop
from netsim.simulation import run_schedule
from netsim.suite import CHECKS, SuiteError, protocol_suite, run_suite
from netsim.validation import from_json
from tests.netsim import broken_protocols as broken

SWEPT_SCHEDULES = int(os.environ.get("SUITE_SCHEDULES", "20000"))
"""Random schedules of each protocol in ``make sweep``. For a million of each:
``make sweep SUITE_SCHEDULES=1000000 SWEEP_ARGS='tests/netsim/test_suite.py'``."""
cli = CliRunner()


@pytest.mark.parametrize("check", list(CHECKS))
@pytest.mark.parametrize("name", protocol_names())
def test_ours_pass(name: str, check: str, tmp_path: Path) -> None:
    protocol_suite(protocol_named(name), folder=tmp_path)(check)


@pytest.mark.sweep
@pytest.mark.parametrize("check", ["safety", "actors", "partitions", "restart"])
@pytest.mark.parametrize("name", protocol_names())
def test_ours_pass_for_long(name: str, check: str, tmp_path: Path) -> None:
    protocol_suite(protocol_named(name), schedules=SWEPT_SCHEDULES, seed=10_000, folder=tmp_path)(check)


def mutant(name: str) -> ProtocolDefinition:
    return mutant_named(name).definition


BROKEN = (
    ("messages", broken.MISQUOTED, "what a message states is what its signer signed"),
    ("messages", broken.SPEECHLESS, "a signed message says what it states"),
    ("messages", broken.SUBJECTLESS, r"every subject decodes through subject_codec\(\)"),
    ("messages", broken.KINDLESS, "votes are of declared kinds.*'order'"),
    ("messages", broken.NOT_BULK, "what carries payloads is declared bulk.*Proposal of"),
    ("messages", broken.ALL_BULK, "votes do not wait behind payloads"),
    ("messages", broken.UNDECLARED, "only declared messages are sent.*OrderVote"),
    ("messages", broken.BAD_TAGS, r"distinct tags below 16.*\[1, 2, 3, 4, 16\]"),
    ("safety", mutant("S1-jolteon"), "no schedule makes honest replicas disagree.*S7 at"),
    ("safety", mutant("S1-tendermint"), "no schedule makes honest replicas disagree"),
    ("actors", mutant("S3-jolteon"), "nobody honest is blamed.*S7 at"),
    ("silent-leaders", mutant("N1-jolteon"), "every honest replica commits something new.*silent-first-leader"),
    ("silent-leaders", mutant("N4-hotstuff"), "every honest replica commits something new.*every-fourth-silent"),
    ("partitions", mutant("L4-jolteon"), "every honest replica commits something new.*short-outage"),
    ("partitions", mutant("L5-hotstuff"), "every honest replica commits something new.*slow-network"),
    ("partitions", mutant("L7-simplex"), "every honest replica commits something new"),
    ("clocks", mutant("L5-streamlet"), "every honest replica commits something new.*timers"),
    ("one-way", broken.NEEDS_EVERYBODY, "every honest replica commits something new.*deaf-node"),
    ("restart", mutant("R1-jolteon"), "kill -9 at any boundary.*S3 at.*signs a second proposal"),
    ("restart", mutant("S11-hotstuff"), "kill -9 at any boundary.*S5 at"),
    ("restart-all", mutant("S11-jolteon"), "all nodes die mid-view.*S5 at"),
    ("catch-up", mutant("L2-jolteon"), "fetches what it missed.*L2 at"),
    ("equivocation", broken.ACCOMPLICE, "reported by honest ones.*nobody reports the second proposal of validator 0"),
    ("equivocation", broken.VOTES_ARE_FREE, "reported by honest ones.*nobody reports the second vote of validator 0"),
    ("equivocation", broken.ACCUSER, "nobody else is.*A1 at .*evidence that proves nothing"),
    ("determinism", broken.COUNTER, "one seed is one run.*a second run in this process"),
    ("determinism", broken.DICE, "one seed is one run.*a process with PYTHONHASHSEED=1"),
    ("bounds", broken.HOARDER, "memory has a bound.*messages of a flooder"),
    ("bounds", broken.TALE_KEEPER, "memory has a bound.*messages of a exaggerator"),
    ("pacing", broken.RESTLESS, "a block per idle interval at most.*1000 blocks in 20 intervals"),
    ("pacing", broken.SLUGGISH, "a payload that only its proposer waits for commits within 70 ms"),
    ("pacing", broken.BLIND_AT_FIRST, "a payload that comes to an idle chain commits within 40 ms"),
    ("pacing", broken.CHATTERBOX, "no more than the messages of a block per interval"),
    ("pacing", broken.SCRIBBLER, "a node writes at most 8 times per idle interval"),
    ("costs", broken.SLOWER, "the declared 4 message delays.*3 delays at height 3"),
    ("costs", broken.FASTER, "the declared 2 message delays.*3 delays at height 3"),
    ("costs", broken.LATER, "within the declared 0 views.*1 views at height 3"),
    ("costs", broken.CHEAPER, "4 validators send at most the declared 16 messages.*27 messages per block"),
    ("proofs", broken.GULLIBLE, "a stranger refuses what was not committed"),
    ("proofs", broken.FIELD_BLIND, "a stranger refuses what was not committed.*with a byte changed"),
    ("proofs", broken.SUSPICIOUS, "a stranger accepts each commit's proof.*who are you"),
    ("proofs", broken.PROOFLESS, "commits carry proofs"),
)  # fmt: skip


@pytest.mark.parametrize(("check", "definition", "message"), BROKEN)
def test_a_broken_protocol_fails(check: str, definition: ProtocolDefinition, message: str, tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=f"(?s){message}.*\n  mend: "):
        protocol_suite(definition, folder=tmp_path)(check)


def test_every_check_can_fail() -> None:
    assert {check for check, _, _ in BROKEN} == set(CHECKS)


def test_a_failure_is_seen_again_by_its_command(tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        protocol_suite(broken.NEEDS_EVERYBODY, folder=tmp_path)("one-way")
    found = re.search(
        r"(?s)seen: (\w+) at .*\n  seed: 0, trace ([0-9a-f]{16})\n.*  replay: netsim (.*?)\n", str(caught.value)
    )
    assert found is not None
    oracle, trace, command = found.groups()
    arguments = command.split()
    assert arguments[2] == "--protocol-file"
    schedule = from_json(Path(arguments[1]).read_bytes(), arguments[1])
    assert (schedule.expect, schedule.protocol) == (oracle, "jolteon")
    again = cli.invoke(app, [*arguments, "--json"])
    document = json.loads(again.stdout)
    assert (again.exit_code, document["verdict"]) == (1, oracle)
    assert document["trace_hash"].startswith(trace)


def test_a_registered_protocol_is_replayed_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(JOLTEON, costs=dataclasses.replace(JOLTEON.costs, commit_delays=9))
    monkeypatch.setitem(protocol_named.__globals__["_OURS"], "jolteon", wrong)
    with pytest.raises(SuiteError, match=r"replay: netsim replay \S+happy-4-0.json\n"):
        protocol_suite(wrong, folder=tmp_path)("costs")


def test_a_definition_without_a_name_cannot_be_found_elsewhere() -> None:
    nameless = dataclasses.replace(JOLTEON)
    with pytest.raises(SuiteError, match="bind the ProtocolDefinition to a name at the top level of a module"):
        protocol_suite(nameless)("determinism")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A suite of four checks: what is made of their outcomes is the point."""
    names = ("messages", "safety", "pacing", "costs")
    monkeypatch.setattr("netsim.suite.CHECKS", {name: CHECKS[name] for name in names})
    return names


def test_without_pytest_there_is_a_report(tmp_path: Path, few: tuple[str, ...]) -> None:
    heard: list[str] = []
    report = run_suite(broken.CHEAPER, schedules=1, folder=tmp_path, told=lambda outcome: heard.append(outcome.check))
    assert tuple(heard) == few == tuple(outcome.check for outcome in report.outcomes)
    assert [outcome.check for outcome in report.outcomes if not outcome.passed] == ["pacing", "costs"]
    assert not report.passed


def test_a_check_that_breaks_fails(tmp_path: Path, few: tuple[str, ...]) -> None:
    report = run_suite(broken.SUBJECTLESS, schedules=1, folder=tmp_path)
    failed = {outcome.check: outcome.text for outcome in report.outcomes if not outcome.passed}
    assert "subject_codec" in failed["messages"]
    assert "AttributeError" in failed["safety"]


def test_the_command_prints_a_table(tmp_path: Path, few: tuple[str, ...]) -> None:
    passed = cli.invoke(app, ["suite", "--protocol", "hotstuff", "--budget", "1"])
    assert passed.exit_code == 0
    assert f"hotstuff: {len(few)} of {len(few)}" in passed.stdout
    file = tmp_path / "mine.py"
    file.write_text("from tests.netsim.broken_protocols import CHEAPER as DEFINITION\n")
    failed = cli.invoke(
        app, ["suite", "--protocol-file", str(file), "--budget", "1", "--json", "--schedules", str(tmp_path)]
    )
    document = json.loads(failed.stdout)
    assert (failed.exit_code, document["passed"], document["protocol"]) == (1, False, "jolteon")
    assert [each["check"] for each in document["outcomes"] if not each["passed"]] == ["pacing", "costs"]
    assert f"--protocol-file {file.resolve()}:DEFINITION" in document["outcomes"][-1]["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["suite"], "either --protocol or --protocol-file"),
        (["suite", "--protocol", "paxos"], "--protocol: 'paxos' is unknown"),
        (["suite", "--protocol-file", "nowhere.py"], "nowhere.py: is no Python file"),
        (["suite", "--protocol-file", f"{broken.__file__}:PAXOS"], "has no PAXOS"),
    ],
)
def test_bad_input_ends_with_two(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["netsim", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_clock_that_is_kept_right_dates_blocks_rightly() -> None:
    """Its timers run ten times as slow; without ``timers_only`` its blocks would be dated ever further back, and those
    of others would be held at it."""
    slow = Clock(node=2, drift_ppm=-900_000, timers_only=True)
    right, wrong = (
        run_schedule(Schedule(clocks=(clock,), stop=Stop(view=2**40, time_ms=2_000)))
        for clock in (slow, Clock(node=2, drift_ppm=-900_000))
    )
    assert right.silent
    assert wrong.silent
    assert right.commits > wrong.commits


@pytest.mark.parametrize("check", ["safety", "equivocation"])
def test_a_protocol_without_a_craft_is_tried_by_votes_and_by_a_second_copy(
    check: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("netsim.actors.crafts.registry.CRAFTS", {})
    monkeypatch.setattr("netsim.suite.faults.CRAFTS", {})
    protocol_suite(protocol_named("streamlet"), schedules=20, folder=tmp_path)(check)
    with pytest.raises(SuiteError, match=r"nobody reports the second proposal|disagree"):
        protocol_suite(broken.ACCOMPLICE if check == "equivocation" else mutant("S1-jolteon"), folder=tmp_path)(check)
