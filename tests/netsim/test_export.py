"""Exports: what Perfetto, ShiViz and readers of SVG ask of their input."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from netsim.cli import app
from netsim.schedule import Actor, Crash, Hold, Link, Partition, Schedule, Stop
from netsim.show.perfetto import HEARS, SENDS, VIEWS, perfetto, pid_of
from netsim.show.picture import picture
from netsim.show.recording import Heard, Recorded, Sent, record
from netsim.show.shiviz import EXPRESSION, shiviz

SVG = "{http://www.w3.org/2000/svg}"
SCHEDULE = Schedule(
    name="export",
    link=Link(loss=0.05, duplication=0.1),
    actors=(Actor(node=1, kind="twin"),),
    observers=1,
    faults=(
        Partition(at_ms=15, groups=((0, 1, 2), (3, 4, 5)), for_ms=10),
        Hold(at_ms=10, pairs=((0, 2),), for_ms=15),
        Crash(at_ms=30, nodes=(3,), restart_ms=30),
    ),
    stop=Stop(view=10),
    oracles=("S4",),
)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    made = record(SCHEDULE)
    assert {"arrived", "lost"} <= {message.fate for message in made.messages}
    return made


# --- Perfetto -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(recorded: Recorded) -> list[dict[str, Any]]:
    document = json.loads(perfetto(recorded))
    assert document["displayTimeUnit"] in ("ms", "ns")
    assert document["otherData"]["trace_hash"] == recorded.result.trace_hash
    rows: list[dict[str, Any]] = document["traceEvents"]
    return rows


def test_each_phase_has_the_fields_that_the_format_asks_for(trace: list[dict[str, Any]]) -> None:
    fields = {
        "M": {"name", "pid", "tid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur"},
        "i": {"name", "cat", "pid", "tid", "ts", "s"},
        "s": {"name", "cat", "pid", "tid", "ts", "id"},
        "f": {"name", "cat", "pid", "tid", "ts", "id", "bp"},
    }
    assert {row["ph"] for row in trace} == set(fields)
    for row in trace:
        assert fields[row["ph"]] <= set(row)
        assert row.get("ts", 0) >= 0
        assert row.get("dur", 0) >= 0
        assert row.get("bp", "e") == "e"
        assert row.get("s", "t") in ("g", "p", "t")


def test_every_thread_that_is_used_has_a_name(trace: list[dict[str, Any]]) -> None:
    named = {(row["pid"], row["tid"]) for row in trace if row["name"] == "thread_name"}
    processes = {row["pid"] for row in trace if row["name"] == "process_name"}
    for row in trace:
        assert row["pid"] in processes
        assert row["ph"] in ("M", "i") or (row["pid"], row["tid"]) in named


def test_slices_of_a_thread_do_not_overlap(trace: list[dict[str, Any]]) -> None:
    threads = defaultdict(list)
    for row in trace:
        if row["ph"] == "X":
            threads[row["pid"], row["tid"]].append((row["ts"], row["dur"]))
    assert {tid for _, tid in threads} >= {VIEWS, SENDS, HEARS}
    for slices in threads.values():
        slices.sort()
        for (at, lasts), (then, _) in pairwise(slices):
            assert at + lasts <= then + 1e-6


def test_an_arrow_joins_a_slice_to_a_slice(trace: list[dict[str, Any]], recorded: Recorded) -> None:
    slices = {(row["pid"], row["tid"], row["ts"]) for row in trace if row["ph"] == "X"}
    begins = {row["id"]: row for row in trace if row["ph"] == "s"}
    ends = {row["id"]: row for row in trace if row["ph"] == "f"}
    assert set(begins) == set(ends)
    assert len(begins) == recorded.result.deliveries
    for number, begin in begins.items():
        end = ends[number]
        assert (begin["cat"], begin["name"]) == (end["cat"], end["name"])
        assert begin["ts"] < end["ts"]
        for row in (begin, end):
            assert (row["pid"], row["tid"], row["ts"]) in slices
    counted = Counter(row["pid"] for row in begins.values())
    arrived = Counter(pid_of(message.source) for message in recorded.messages if message.fate == "arrived")
    assert counted == arrived


def test_views_and_death_are_slices(trace: list[dict[str, Any]], recorded: Recorded) -> None:
    names = [row["name"] for row in trace if row["ph"] == "X" and (row["pid"], row["tid"]) == (pid_of(3), VIEWS)]
    assert "dead" in names
    assert f"view {recorded.result.views[3]}" in names
    dead = next(row for row in trace if row["ph"] == "X" and row["name"] == "dead")
    assert (dead["ts"], dead["dur"]) == (30_000, 30_000)


# --- ShiViz -------------------------------------------------------------------------------------------------------


def parsed(log: str) -> list[tuple[str, str, dict[str, int]]]:
    """Read as ShiViz does: the first line is the expression, the second splits runs, the rest is events."""
    expression, split, text = log.split("\n", 2)
    assert (expression, split) == (EXPRESSION, "")
    python = re.sub(r"\(\?<(\w+)>", r"(?P<\1>", expression)
    matches = list(re.finditer(python, text))
    assert sum(len(match.group(0)) + 1 for match in matches) == len(text), "the expression skips a part of the log"
    return [(match["host"], match["event"], json.loads(match["clock"])) for match in matches]


def test_own_entries_count_events(recorded: Recorded) -> None:
    counts: Counter[str] = Counter()
    last: dict[str, dict[str, int]] = {}
    events = parsed(shiviz(recorded))
    assert len(events) == len(recorded.happenings)
    for host, _, clock in events:
        counts[host] += 1
        assert clock[host] == counts[host]
        for other, count in last.get(host, {}).items():
            assert clock[other] >= count
        assert all(count <= counts[other] for other, count in clock.items()), "a clock from the future"
        last[host] = clock
    assert len(counts) == 6


def test_hearing_comes_after_sending_and_nothing_else_orders_hosts(recorded: Recorded) -> None:
    """Clocks are checked against the order that the record's messages alone make: reachability, computed anew."""
    events = parsed(shiviz(recorded))
    sent_at = {
        copy.number: at for at, each in enumerate(recorded.happenings) if isinstance(each, Sent) for copy in each.copies
    }
    before: list[frozenset[int]] = []
    latest: dict[int, int] = {}
    for at, each in enumerate(recorded.happenings[:400]):
        causes = [latest[each.node]] if each.node in latest else []
        if isinstance(each, Heard):
            causes.append(sent_at[each.message.number])
        before.append(frozenset(causes).union(*(before[cause] for cause in causes)))
        latest[each.node] = at
    concurrent = 0
    for at, known_causes in enumerate(before):
        _, _, mine = events[at]
        for other in range(at):
            host, _, clock = events[other]
            known = mine.get(host, 0) >= clock[host]
            assert known == (other in known_causes)
            concurrent += not known
    assert concurrent


# --- the picture --------------------------------------------------------------------------------------------------


def test_the_picture_is_well_formed_and_whole(recorded: Recorded) -> None:
    written = picture(recorded)
    root = ElementTree.fromstring(written)
    assert root.tag == f"{SVG}svg"
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class", "").startswith("m k")]
    assert len(groups) == len(recorded.messages)
    names = [
        label.text for label in root.iter("{http://www.w3.org/2000/svg}text") if label.get("class", "")[:4] == "name"
    ]
    assert names == [f"node {position}" for position in range(6)]
    assert "var(" not in written
    assert f"{len(recorded.messages)} of {len(recorded.messages)} messages" in root.get("aria-label", "")


def test_a_part_of_a_run_says_which(recorded: Recorded) -> None:
    root = ElementTree.fromstring(picture(recorded, 25))
    found = re.search(r"(\d+) of (\d+) messages", root.get("aria-label", ""))
    assert found is not None
    assert int(found[1]) < int(found[2]) == len(recorded.messages)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["perfetto", "shiviz", "svg"])
def test_export_writes_the_same_twice(form: str, tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    schedule = tmp_path / "schedule.json"
    schedule.write_bytes(SCHEDULE.to_json())
    for file in files:
        outcome = CliRunner().invoke(app, ["export", str(schedule), "--format", form, "-o", str(file)])
        assert outcome.exit_code == 0, outcome.output
    one, two = (file.read_bytes() for file in files)
    assert one == two
    assert len(one) > 1000


def test_export_refuses_a_format_that_is_not_there(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["export", "calm", "--format", "gif", "-o", str(tmp_path / "x")])
    assert outcome.exit_code == 2
    assert list(tmp_path.iterdir()) == []
