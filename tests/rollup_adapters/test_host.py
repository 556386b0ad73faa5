"""An adapter's process may die, hang, raise, flood or talk nonsense: calls hear of it, the node's nursery never does.

These tests start real processes. They wait for events, never for a while; the deadlines under test are the only time.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from rollup_adapters.base import (
    Accepted,
    AdapterContext,
    Executed,
    JsonValue,
    Outcome,
    QueryError,
    Rejected,
    SequencedBlock,
)
from rollup_adapters.host import AdapterHost, AdapterSpec, AdapterUnavailable, HostLimits
from rollup_adapters.host.supervisor import NICENESS_ABOVE_OURS
from rollup_adapters.raw import RawAdapter
from tests.rollup_adapters.common import install
from tests.support.waiting import until

PATIENT = HostLimits(
    unavailable_after_s=60.0,
    call_timeout_s=60.0,
    query_timeout_s=60.0,
    restart_delay_min_s=0.01,
    restart_delay_max_s=0.01,
)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    install(
        folder,
        "ours",
        raw_here="rollup_adapters.raw:RawAdapter",
        temperamental="tests.rollup_adapters.temperamental:Temperamental",
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def spec(packages: Path, tmp_path: Path) -> AdapterSpec:
    return AdapterSpec(adapter="temperamental", rollup_id=7, directory=tmp_path / "rollup", settings={})


@asynccontextmanager
async def running(spec: AdapterSpec, limits: HostLimits = PATIENT) -> AsyncIterator[AdapterHost]:
    host = AdapterHost(spec, limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        yield host
        nursery.cancel_scope.cancel()


def block(height: int, *transactions: bytes) -> SequencedBlock:
    return SequencedBlock(height=height, timestamp_ms=height, block_id=bytes(32), transactions=transactions)


async def seen(host: AdapterHost) -> dict[str, JsonValue]:
    answer = await host.query("seen", None)
    assert isinstance(answer, dict)
    return answer


async def test_answers_as_the_adapter_itself_would(spec: AdapterSpec, tmp_path: Path) -> None:
    here = RawAdapter(AdapterContext(rollup_id=7, directory=tmp_path, settings={"max_transaction_bytes": 3}))
    there_spec = replace(spec, adapter="raw_here", settings={"max_transaction_bytes": 3})
    async with running(there_spec) as there:
        for adapter in (here, there):
            assert await adapter.last_delivered() == 0
        blocks = [block(1, b"a", b"", b"bb"), block(5)]
        assert await there.deliver(blocks) == await here.deliver(blocks)
        assert list(await there.check([b"abc", b"abcd"])) == list(await here.check([b"abc", b"abcd"]))
        for adapter in (here, there):
            await adapter.settle("soft", 4)
        assert await there.query("raw_head", None) == await here.query("raw_head", None)
        assert await there.last_delivered() == 5
        with pytest.raises(QueryError) as refusal:
            await there.query("raw_get", {"position": 99})
        assert refusal.value.code == -32602
        assert "has 3 entries" in refusal.value.message


async def test_query_error_crosses_with_its_data(spec: AdapterSpec) -> None:
    async with running(spec) as host:
        with pytest.raises(QueryError) as refusal:
            await host.query("unheard_of", [1])
    assert (refusal.value.code, refusal.value.data) == (-32601, {"method": "unheard_of"})


@pytest.mark.parametrize(
    ("transaction", "reason"),
    [(b"die", "its process ended"), (b"raise", "deliver is broken"), (b"block", "it hung"), (b"sleep", "it hung")],
)
async def test_failed_delivery_restarts_and_resumes(spec: AdapterSpec, transaction: bytes, reason: str) -> None:
    async with running(spec, replace(PATIENT, deliver_timeout_s=0.5)) as host:
        await host.deliver([block(1, b"fine")])
        first = host.process_id
        with pytest.raises(AdapterUnavailable, match=reason):
            await host.deliver([block(2, transaction)])
        await until(lambda: host.process_id != first)  # the call may hear of it before the host does
        assert not host.alive
        assert await host.last_delivered() == 1
        assert host.alive
        assert host.restarts == 1
        assert (await host.deliver([block(2, transaction), block(3)])).height == 3


async def test_deliveries_do_not_overlap_and_queries_run_beside_them(spec: AdapterSpec) -> None:
    async with running(spec) as host, trio.open_nursery() as nursery:
        nursery.start_soon(host.deliver, [block(1, b"wait")])
        nursery.start_soon(host.deliver, [block(2, b"fine")])
        nursery.start_soon(host.settle, "soft", 1)
        assert await host.query("echo", {"while": ["delivering"]}) == {"while": ["delivering"]}
        await host.query("go_on", None)
        nursery.start_soon(host.deliver, [block(3, b"fine")])
        await host.deliver([block(4)])
        assert await host.last_delivered() == 4
        assert await seen(host) == {"cancelled": 0, "overlapped": False, "settled": [["soft", 1]]}


async def test_delivery_outlives_its_caller(spec: AdapterSpec) -> None:
    async with running(spec) as host:
        await host.last_delivered()
        with trio.move_on_after(0.05):
            await host.deliver([block(1, b"wait")])
        await host.query("go_on", None)
        assert (await host.deliver([block(2)])).height == 2
        assert (await seen(host))["overlapped"] is False


async def test_query_past_its_deadline_is_cancelled_there(spec: AdapterSpec) -> None:
    async with running(spec) as host:
        await host.last_delivered()
        with trio.move_on_after(0.05) as impatient:
            await host.query("sleep", None)
        assert impatient.cancelled_caught
        assert (await seen(host))["cancelled"] == 1  # the cancellation was sent before this query
    async with running(spec, replace(PATIENT, query_timeout_s=2.0)) as host:
        await host.last_delivered()
        with pytest.raises(QueryError, match="no answer within 2 s") as refusal:
            await host.query("sleep", None)
        assert refusal.value.code == -32002


async def test_adapter_that_blocks_outside_deliver_is_killed(spec: AdapterSpec) -> None:
    async with running(spec, replace(PATIENT, ping_interval_s=0.05, ping_timeout_s=0.5)) as host:
        with pytest.raises(AdapterUnavailable, match="it hung: no answer within"):
            await host.query("block", None)
        assert await host.last_delivered() == 0
        assert host.restarts >= 1  # a busy machine may be slow enough to look hung once more


async def test_long_delivery_is_not_taken_for_hung_by_pings(spec: AdapterSpec) -> None:
    async with running(spec, replace(PATIENT, ping_interval_s=0.01, ping_timeout_s=0.5)) as host:
        await host.last_delivered()
        with trio.move_on_after(1.0):
            await host.deliver([block(1, b"wait")])
        await host.query("go_on", None)
        assert (await host.deliver([block(2)])).height == 2
        assert host.restarts == 0


async def test_bug_in_a_read_does_not_end_the_process(spec: AdapterSpec) -> None:
    async with running(spec) as host:
        assert await host.check([b"x"]) == (Accepted(),)
        first = host.process_id
        for method in ("raise", "bytes"):
            with pytest.raises(QueryError, match="its log says why") as refusal:
                await host.query(method, None)
            assert refusal.value.code == -32603
        with pytest.raises(AdapterUnavailable, match="check is broken"):
            await host.check([b"x", b"raise"])
        with pytest.raises(AdapterUnavailable, match="one admission per transaction"):
            await host.check([b"x", b"short"])
        assert await host.last_delivered() == 0
        assert host.process_id == first


async def test_queries_are_bounded_in_size(spec: AdapterSpec) -> None:
    deep: list[JsonValue] = []
    for _ in range(100_000):
        deep = [deep]
    async with running(spec) as host:
        for params in ("x" * 1024 * 1024, deep, 2**70):
            with pytest.raises(QueryError) as refusal:
                await host.query("echo", params)
            assert refusal.value.code == -32602
        with pytest.raises(QueryError, match="the limit is 4194304") as refusal:
            await host.query("large", None)
        assert refusal.value.code == -32005
        assert await host.query("echo", "x" * 1_000_000) == "x" * 1_000_000
        assert host.restarts == 0


async def test_queries_are_bounded_in_number(spec: AdapterSpec) -> None:
    async with running(spec, replace(PATIENT, query_concurrency_max=1, query_waiting_max=1)) as host:
        await host.last_delivered()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.query, "sleep", None)
            nursery.start_soon(host.query, "sleep", None)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(QueryError, match="too many") as refusal:
                await host.query("echo", 1)
            assert refusal.value.code == -32005
            nursery.cancel_scope.cancel()
        assert await host.query("echo", 1) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": {"bad": 1}}, r"settings\.bad: must not be set"),
        ({"settings": {"broken": 1}}, "RuntimeError: cannot open today"),
        ({"adapter": "no_such"}, "no adapter is called 'no_such' .known: .*temperamental"),
        ({"command": ("/nonexistent/program",)}, "could not be started.*nonexistent"),
        ({"settings": {"large": 2**70}}, "does not fit MessagePack"),
    ],
)
async def test_reason_for_not_opening_is_reported(spec: AdapterSpec, change: dict[str, Any], reason: str) -> None:
    limits = replace(PATIENT, unavailable_after_s=0.01)
    async with running(replace(spec, **change), limits) as host:
        await until(lambda: host.restarts >= 1)
        with pytest.raises(AdapterUnavailable, match=rf"'\w+' of rollup 7 is down: .*{reason}"):
            await host.last_delivered()
        assert not host.alive
        assert host.last_failure is not None


async def test_restarts_back_off_up_to_a_limit(spec: AdapterSpec, caplog: pytest.LogCaptureFixture) -> None:
    limits = replace(PATIENT, restart_delay_min_s=0.01, restart_delay_max_s=0.04)
    async with running(replace(spec, command=(sys.executable, "-c", "raise SystemExit(5)")), limits) as host:
        await until(lambda: host.restarts >= 4)
        assert host.last_failure == "its process ended before the adapter was open (exit status 5)"
    delays = [record.args[1] for record in caplog.records if isinstance(record.args, tuple) and len(record.args) == 2]
    assert delays[:4] == [0.01, 0.02, 0.04, 0.04]


async def test_runs_at_lower_priority_and_may_print(spec: AdapterSpec, capfd: pytest.CaptureFixture[str]) -> None:
    async with running(spec) as host:
        await host.query("print", "a line that would garble the stream")
        assert await host.query("echo", 1) == 1
        assert host.process_id is not None
        ours, its = (os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, host.process_id))
        assert its == min(19, ours + NICENESS_ABOVE_OURS)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a line that would garble the stream" in captured.err


async def test_close_closes_the_adapter_and_ends_its_calls(spec: AdapterSpec) -> None:
    async with running(spec) as host:
        await host.last_delivered()
        process = host.process_id
        assert process is not None
    assert (spec.directory / "closed").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(AdapterUnavailable, match="is closed"):
        await host.last_delivered()


async def test_close_does_not_cancel_a_delivery(spec: AdapterSpec) -> None:
    async with running(spec, replace(PATIENT, close_timeout_s=0.3)) as host, trio.open_nursery() as nursery:
        nursery.start_soon(host.deliver, [block(1, b"wait")])
        await until((spec.directory / f"did {b'wait'.hex()}").exists)
        nursery.cancel_scope.cancel()
    assert not (spec.directory / "closed").exists()  # killed in the middle, as a crash would


async def test_close_kills_what_does_not_end(spec: AdapterSpec) -> None:
    async with running(spec, replace(PATIENT, close_timeout_s=0.1)) as host, trio.open_nursery() as nursery:
        await host.last_delivered()
        process = host.process_id
        assert process is not None
        nursery.start_soon(host.query, "block", None)
        await until((spec.directory / "blocked").exists)
        nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


NODE = """
import sys, trio
from pathlib import Path
from rollup_adapters.host import AdapterHost, AdapterSpec, HostLimits

async def main():
    spec = AdapterSpec(adapter="temperamental", rollup_id=7, directory=Path(sys.argv[1]), settings={})
    host = AdapterHost(spec, HostLimits(unavailable_after_s=60, call_timeout_s=60))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        await host.last_delivered()
        print("up", flush=True)
        if sys.argv[2] == "block":
            await host.query("block", None)

trio.run(main)
"""


@pytest.mark.parametrize("state", ["idle", "block"])
async def test_adapter_ends_when_the_node_dies(spec: AdapterSpec, state: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", NODE, str(spec.directory), state]
    # The adapter inherits the pipe at its standard error, so its end is seen as the end of the pipe.
    pipe = subprocess.PIPE
    node = await trio.lowlevel.open_process(command, env=environment, stdout=pipe, stderr=pipe)
    assert node.stdout is not None
    assert node.stderr is not None
    async with node.stdout, node.stderr:
        said = await node.stdout.receive_some()
        if state == "block":
            await until((spec.directory / "blocked").exists)
        node.send_signal(signal.SIGKILL)
        await node.wait()
        assert said.startswith(b"up")
        with trio.fail_after(60):
            async for _ in node.stderr:
                pass


FOREIGN = """
# An adapter written from the format's description alone, with another MessagePack library and no module of ours.
import msgpack, socket, struct

connection = socket.socket(fileno=0)
stream = connection.makefile("rwb")

def receive():
    header = stream.read(4)
    return msgpack.unpackb(stream.read(struct.unpack(">I", header)[0])) if header else None

def send(*message):
    body = msgpack.packb(message)
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()

name, version, adapter, rollup_id, directory, settings = receive()
assert (name, version) == ("open", 1)
send("opened", 1)
cursor = 0
while (message := receive()) is not None:
    match message:
        case ["check", call, transactions]:
            send("checked", call, [["accepted"] if each else ["rejected", "empty"] for each in transactions])
        case ["deliver", call, blocks]:
            outcomes = [[["included", each.decode()] for each in transactions] for *_, transactions in blocks]
            cursor = max(cursor, *[height for height, *_ in blocks])
            send("delivered", call, [cursor, bytes(32), outcomes])
        case ["last_delivered", call]:
            send("cursor", call, cursor)
        case ["settle", call, level, height]:
            send("settled", call)
        case ["query", call, "settings", params]:
            send("answered", call, [adapter, rollup_id, settings, params])
        case ["query", call, method, params]:
            send("refused", call, -32601, "no such method", None)
        case ["ping", call]:
            send("pong", call)
"""


async def test_adapter_in_another_language(spec: AdapterSpec) -> None:
    foreign = replace(spec, settings={"depth": [1]}, command=(sys.executable, "-c", FOREIGN))
    async with running(foreign, replace(PATIENT, ping_interval_s=0.01)) as host:
        assert await host.check([b"x", b""]) == (Accepted(), Rejected(reason="empty"))
        executed = await host.deliver([block(2, b"one", b"two"), block(4)])
        included = tuple(Outcome(status="included", detail=detail) for detail in ("one", "two"))
        assert executed == Executed(height=4, state_commitment=bytes(32), outcomes=(included, ()))
        await host.settle("firm", 2)
        assert await host.last_delivered() == 4
        assert await host.query("settings", {"a": 1.5}) == ["temperamental", 7, {"depth": [1]}, {"a": 1.5}]
        with pytest.raises(QueryError, match="no such method"):
            await host.query("other", None)
        assert host.restarts == 0


TALK_NONSENSE = """
import socket, sys, time
connection = socket.socket(fileno=0)
connection.sendall(bytes.fromhex(sys.argv[1]))
while connection.recv(65536):
    pass
"""


def frame(*message: object) -> bytes:
    body: bytes = msgpack.packb(message)
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\xff" * 8, "a frame of 4294967295 bytes; the limit is 67108864"),
        (struct.pack(">I", 3) + b"\xc1\xc1\xc1", "unreadable frame"),
        (frame("opened"), "unreadable frame"),
        (frame("settled", 1), "it answered open with Settled"),
        (frame("opened", 2), "it speaks api_version 2, the node 1"),
        (struct.pack(">I", 50_000) + b"\x91" * 50_000, "unreadable frame"),
        (frame("opened", 1) + frame("opened", 1), "it answered open twice"),
        (frame("opened", 1) + frame("pong", 77), "it answered call 77, which was never made"),
        (frame("opened", 1) + frame("cursor", 1, "seven"), "unreadable frame"),
    ],
)
async def test_nonsense_is_a_reason_to_restart(spec: AdapterSpec, sent: bytes, reason: str) -> None:
    nonsense = replace(spec, command=(sys.executable, "-c", TALK_NONSENSE, sent.hex()))
    async with running(nonsense, replace(PATIENT, close_timeout_s=0.01)) as host:
        await until(lambda: host.restarts >= 1)
        assert host.last_failure is not None
        assert host.last_failure.startswith(reason)


CONFUSED = """
import socket, sys
connection = socket.socket(fileno=0)
connection.recv(65536)
connection.sendall(bytes.fromhex(sys.argv[1]))
connection.recv(65536)
connection.sendall(bytes.fromhex(sys.argv[2]))
while connection.recv(65536):
    pass
"""


async def test_answer_of_the_wrong_kind_fails_the_call_only(spec: AdapterSpec) -> None:
    replies = [frame("opened", 1).hex(), frame("pong", 1).hex()]
    async with running(replace(spec, command=(sys.executable, "-c", CONFUSED, *replies))) as host:
        with pytest.raises(AdapterUnavailable, match="answered with Pong, not Cursor"):
            await host.last_delivered()
        assert host.alive
