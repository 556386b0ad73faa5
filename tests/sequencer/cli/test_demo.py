"""The demo with its real processes; the larger ones in the sweep. And what its result makes of what went wrong."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.crypto.registry import PRODUCTION_SCHEMES
from consensus.protocols.registry import protocol_names
from sequencer.cli.demo.plan import DemoOptions
from sequencer.cli.demo.report import Crash, DemoResult, Reported, result_json
from sequencer.cli.demo.sender import Ledgers, RollupCount, quantile
from sequencer.transactions import Position
from sequencer.verify import Finding, Home, verify
from tests.sequencer.archives import SignedChain, signed_chain, write_home
from tests.sequencer.cli.processes import TIMEOUT_S, processes_of, sequencer


def run_demo(directory: Path, *arguments: str) -> dict[str, Any]:
    """Run the demo to its end. Returns its JSON document."""
    result = directory / "result.json"
    process = sequencer("demo", "--json", str(result), *arguments, directory=directory)
    try:
        _, log = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert processes_of(directory) == []
    assert sorted(path.name for path in directory.iterdir()) == ["result.json"], "the homes are still there"
    document: dict[str, Any] = json.loads(result.read_text())
    return document


def check(document: dict[str, Any], *, validators: int, protocol: str, scheme: str) -> None:
    """All that the document promises."""
    assert document["agreement"] is True
    assert document["problems"] == []
    assert (document["validators"], document["protocol"], document["scheme"]) == (validators, protocol, scheme)
    assert [(rollup["id"], rollup["adapter"]) for rollup in document["rollups"]] == [(1, "evm"), (2, "evm"), (3, "raw")]
    for rollup in document["rollups"]:
        assert rollup["submitted"] == rollup["acknowledged"] == rollup["delivered"] > 0
        assert len(rollup["state_roots"]) == validators + 1
        assert len(set(rollup["state_roots"].values())) == 1
    assert document["killed"] == f"validator-{validators - 1}"
    assert document["catch_up_s"] > 0
    assert 0 < document["latency_ms"]["p50"] <= document["latency_ms"]["p99"]
    assert document["latency_ms"]["p50"] < document["final_ms"]["p50"] <= document["final_ms"]["max"]
    assert document["throughput_tps"] > 0
    assert document["blocks"] > 0


def test_four_validators_three_rollups_one_sigkill(tmp_path: Path) -> None:
    document = run_demo(tmp_path, "--seconds", "4")
    check(document, validators=4, protocol="jolteon", scheme="ed25519")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.sweep)])
def test_interrupted_it_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and passes
    try:  # that on to its children
        process = sequencer("demo", "--seconds", "60", directory=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "all serve" in line:
                break
        assert len(processes_of(tmp_path)) >= 5
        process.send_signal(number)
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, log
    assert processes_of(tmp_path) == []
    assert "homes and logs" in log


@pytest.mark.sweep
def test_killed_it_leaves_nothing_running(tmp_path: Path) -> None:
    process = sequencer("demo", "--seconds", "60", directory=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if "all serve" in line:
            break
    process.kill()
    process.communicate()
    pause = 'while ps -axww -o command= | grep -v grep | grep -qF "$0"; do sleep 0.2; done'
    subprocess.run(["sh", "-c", pause, str(tmp_path)], timeout=60, check=True)


@pytest.mark.sweep
@pytest.mark.parametrize("scheme", PRODUCTION_SCHEMES)
@pytest.mark.parametrize("protocol", protocol_names())
def test_every_protocol_and_scheme(tmp_path: Path, protocol: str, scheme: str) -> None:
    document = run_demo(tmp_path, "--seconds", "10", "--protocol", protocol, "--scheme", scheme)
    check(document, validators=4, protocol=protocol, scheme=scheme)


@pytest.mark.sweep
@pytest.mark.parametrize("validators", [7, 10])
def test_more_validators(tmp_path: Path, validators: int) -> None:
    document = run_demo(tmp_path, "--seconds", "10", "--validators", str(validators))
    check(document, validators=validators, protocol="jolteon", scheme="ed25519")


# --- the result ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain() -> SignedChain:
    return signed_chain([{1: [(0, b"a"), (0, b"b")]}, {2: [(0, b"c")]}, {3: [(0, b"d")]}])


async def sound_result(directory: Path, chain: SignedChain) -> DemoResult:
    homes: list[Home] = [await write_home(directory / name, chain) for name in ("validator-0", "observer-0")]
    verdict = await verify(homes)
    counts = {1: 2, 2: 1, 3: 1}
    return DemoResult(
        options=DemoOptions(validators=1, protocol="jolteon", scheme="ed25519", seconds=1, keep=False),
        ledgers=Ledgers(
            rollups={each: RollupCount(submitted=n, acknowledged=n, last_height=3) for each, n in counts.items()},
            positions={bytes([n]) * 32: Position(rollup_id=1, height=1, index=0) for n in range(4)},
            latencies_ms=[1.0, 2.0, 3.0, 100.0],
            first_s=1.0,
            last_s=3.0,
        ),
        final_ms=(500.0, 700.0),
        verdict=verdict,
        reported=tuple(
            Reported(home=s.home, rollup_id=s.files.rollup_id, state_commitment=s.commitment.hex())
            for s in verdict.states
        ),
        crash=Crash(killed="validator-0", down_s=1.0, catch_up_s=0.5, latencies_before=2),
        rough=(),
        directory=directory,
    )


async def test_a_sound_result_has_no_problems(tmp_path: Path, chain: SignedChain) -> None:
    result = await sound_result(tmp_path, chain)
    assert result.problems == []
    document = result_json(result)
    assert isinstance(document, dict)
    assert document["agreement"] is True
    assert document["latency_ms"] == {"p50": 3.0, "p99": 100.0}
    assert document["final_ms"] == {"p50": 700.0, "max": 700.0}
    assert document["throughput_tps"] == 2.0


async def test_whatever_is_wrong_is_a_problem(tmp_path: Path, chain: SignedChain) -> None:
    sound = await sound_result(tmp_path, chain)
    finding = Finding(home="validator-0", height=2, field="body", reason="changed")
    lost = replace(sound.ledgers, rollups={**sound.ledgers.rollups, 2: RollupCount(submitted=2, acknowledged=2)})
    other = replace(sound.reported[0], state_commitment="00" * 32)
    wrong = {
        "height 2: body": replace(sound, verdict=replace(sound.verdict, findings=(finding,), agreement=False)),
        "2 acknowledged, 1 in order": replace(sound, ledgers=lost),
        "different state roots": replace(sound, reported=(other, *sound.reported[1:])),
        "did not stop": replace(sound, rough=("validator-0",)),
    }
    for reason, result in wrong.items():
        assert any(reason in problem for problem in result.problems), reason
        document = result_json(result)
        assert isinstance(document, dict)
        assert document["agreement"] is False


async def test_others_may_submit_to_a_demo_that_is_kept(tmp_path: Path, chain: SignedChain) -> None:
    sound = await sound_result(tmp_path, chain)
    fewer = replace(sound.ledgers, rollups={**sound.ledgers.rollups, 1: RollupCount(submitted=1, acknowledged=1)})
    assert replace(sound, ledgers=fewer).problems != []
    assert replace(sound, ledgers=fewer, options=replace(sound.options, keep=True)).problems == []


def test_quantiles() -> None:
    assert quantile([], 0.5) == 0.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(list(map(float, range(1000))), 0.99) == 990.0
