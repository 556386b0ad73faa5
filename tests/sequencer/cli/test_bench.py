"""The benchmark's parts; the whole of it in the sweep."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from sequencer.cli.bench import plan
from sequencer.cli.bench.cluster import Case, Row, Setup, Stored
from sequencer.cli.bench.http import Connection, UnexpectedAnswer, request
from sequencer.cli.bench.machine import Calibration, bytes_below, calibrate, usage_of, with_children
from sequencer.cli.bench.report import Result, limits, result_json, targets
from sequencer.cli.bench.split import cost_split
from tests.sequencer.cli.processes import TIMEOUT_S, processes_of, sequencer

LIGHT = Case(client="single", size_bytes=250, outstanding=1)
BULK = Case(client="saturated", size_bytes=250)


def row(case: Case, **changes: Any) -> Row:
    made = Row(
        case=case,
        scheme="ed25519",
        place="disk",
        adapters=False,
        per_second=41_000.0,
        transactions=205_000,
        p50_ms=None,
        p99_ms=None,
        cpu_us=8.0,
        memory_bytes=1e8,
        nodes_share=0.8,
        client_share=0.1,
        others_share=0.02,
    )
    return replace(made, **changes)


def result(*rows: Row) -> Result:
    setup = Setup(scheme="ed25519", place="disk", directory=Path())
    return Result(
        calibration=Calibration(sha256_mb_per_s=500.0, fsync_us=200.0, cores=2),
        rows=rows,
        stored=(Stored(setup=setup, transactions=100, submitted_bytes=25_000, stored_bytes=28_000.0),),
        split=(),
        skipped=("in memory: none here",),
        seconds=5.0,
    )


def test_targets_are_judged_on_what_they_name() -> None:
    judged = targets(
        result(
            row(BULK),
            row(BULK, place="memory", per_second=1.0),
            row(BULK, adapters=True, per_second=1.0),
            row(LIGHT, p50_ms=15.0),
            row(LIGHT, p50_ms=39.9, scheme="bls"),
        )
    )
    assert [(each.found, each.reached) for each in judged] == [(41_000.0, True), (15.0, False), (39.9, True)]


def test_the_document_holds_ratios_of_the_run() -> None:
    document = json.loads(json.dumps(result_json(result(row(BULK), row(LIGHT, p50_ms=10.0, p99_ms=20.0)))))
    bulk, light = document["rows"]
    assert (bulk["mb_per_s"], bulk["share_of_sha256"], bulk["outstanding"]) == (10.25, 0.0205, None)
    assert (light["p50_in_fsyncs"], light["outstanding"]) == (50.0, 1)
    assert document["disk"][0]["overhead_bytes_per_tx"] == 30.0
    assert document["skipped"] == ["in memory: none here"]


def test_what_limits_is_said() -> None:
    rows = (
        row(BULK),
        row(BULK, nodes_share=0.3),
        row(BULK, others_share=0.4),
        row(BULK, others_share=None),
        row(LIGHT),
    )
    busy, idle, disturbed, unknown = limits(result(*rows))
    assert "the CPU limits" in busy
    assert "the CPU limits" in unknown
    assert "58% of the CPU was idle" in idle
    assert "other programs used 40%" in disturbed


def test_the_plan_covers_sizes_clients_and_places(tmp_path: Path) -> None:
    clusters = plan(False, tmp_path, tmp_path)
    cases = {(setup.place, case.client, case.size_bytes, case.outstanding) for setup, each in clusters for case in each}
    for place in ("disk", "memory"):
        for size in (128, 250, 1024):
            for outstanding in (1, 10, 100):
                assert (place, "single", size, outstanding) in cases
                assert (place, "bulk", size, outstanding) in cases
            assert (place, "saturated", size, 0) in cases
    assert {setup.scheme for setup, _ in clusters} == {"ed25519", "bls"}
    assert {setup.place for setup, _ in plan(True, tmp_path, "no tmpfs")} == {"disk"}


# --- the machine -----------------------------------------------------------------------------------------------


def test_calibration_measures(tmp_path: Path) -> None:
    found = calibrate(tmp_path)
    assert found.sha256_mb_per_s > 1
    assert found.fsync_us > 0
    assert list(tmp_path.iterdir()) == []


def test_usage_of_this_process() -> None:
    before = usage_of([os.getpid()])
    while usage_of([os.getpid()]).cpu_s == before.cpu_s:
        sum(range(100_000))
    assert before.memory_bytes > 1_000_000
    assert usage_of([os.getpid(), 2**22 + 1]).processes == 1
    assert with_children([os.getpid()])[0] == os.getpid()
    assert os.getpid() in with_children([os.getppid()])


def test_bytes_below(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(10))
    (tmp_path / "c").write_bytes(bytes(5))
    assert bytes_below(tmp_path) == 15


async def test_every_part_costs_something(tmp_path: Path) -> None:
    costs = await cost_split(tmp_path)
    parts = [cost.part for cost in costs]
    assert parts == ["API", "payload", "codec", "crypto, ed25519", "crypto, bls", "TLS", "storage"]
    assert all(cost.us > 0 for cost in costs)


# --- its HTTP client -------------------------------------------------------------------------------------------


async def exchange(answer: bytes, cuts: int = 1) -> tuple[int, bytes, bytes]:
    """What the client makes of an answer that arrives in pieces of ``cuts`` bytes."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def serve() -> None:
        await theirs.receive_some(65_536)
        for at in range(0, len(answer), cuts):
            await theirs.send_all(answer[at : at + cuts])
        await theirs.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        return await Connection(ours).exchange(request("POST", "http://h:1", "/x", b"body"))  # type: ignore[arg-type]  # a stream in memory
    raise AssertionError("not reached")


@pytest.mark.parametrize("cuts", [1, 7, 1000])
async def test_an_answer_in_pieces(cuts: int) -> None:
    status, head, body = await exchange(b"HTTP/1.1 503 \r\nContent-Length: 5\r\nRetry-After: 1\r\n\r\nhello", cuts)
    assert (status, body) == (503, b"hello")
    assert b"retry-after" in head


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 200 \r\n\r\n", b"SSH-2.0\r\n\r\n"])
async def test_what_is_no_answer_is_said(answer: bytes) -> None:
    with pytest.RaisesGroup(UnexpectedAnswer):
        await exchange(answer, 1000)


@pytest.mark.sweep
def test_terminated_it_leaves_nothing(tmp_path: Path) -> None:
    process = sequencer("bench", "--quick", directory=tmp_path)
    try:
        while len(processes_of(tmp_path)) < 4:
            assert process.poll() is None
        process.terminate()
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, log
    assert processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sweep
def test_the_quick_benchmark_runs(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    process = sequencer("bench", "--quick", "--json", str(file), directory=tmp_path)
    try:
        shown, log = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert "SHA-256" in shown
    assert processes_of(tmp_path) == []
    document = json.loads(file.read_text())
    assert {each["client"] for each in document["rows"]} == {"single", "bulk", "saturated"}
    assert all(each["tx_per_s"] > 0 for each in document["rows"])
    assert {each["name"] for each in document["targets"]} == {
        "tx/s of 250 bytes in bulk, durable",
        "ms at light load, median, ed25519",
        "ms at light load, median, bls",
    }
