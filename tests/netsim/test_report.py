"""The record of a run, and the page about it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from netsim.checks import scenario_path
from netsim.cli import app
from netsim.scenario import expand, load
from netsim.schedule import (
    Actor,
    Clog,
    Constant,
    Crash,
    Cut,
    Drop,
    Heal,
    Hold,
    Link,
    Normal,
    Partition,
    Schedule,
    Stop,
    Submit,
    Times,
)
from netsim.show.charts import block_tree, histogram, percentile, rows_of
from netsim.show.diagram import Diagram, TimeAxis, window_of
from netsim.show.page import Shortened, meaning, page
from netsim.show.recording import BlockSeen, Recorded, Sent, record
from netsim.show.spans import spans_of
from netsim.simulation import run_schedule

MILLISECOND = 1_000_000
TROUBLE = Schedule(
    name="trouble <&>",
    actors=(Actor(node=3, kind="silent"),),
    faults=(
        Drop(view=2, message="Vote", source=1, to=(0, 2)),
        Drop(view=2, message="RangeResponse", source=1, to=(0,)),
        Partition(at_ms=118, groups=((0, 1), (2, 3)), for_ms=4),
        Hold(at_ms=10, pairs=((0, 1),), for_ms=12),
        Cut(at_view=3, pairs=((1, 2),), for_ms=15),
        Crash(at_ms=120, nodes=(2,), restart_ms=60),
        Heal(at_ms=400),
    ),
    workload=(Submit(at_ms=5, payload="</script><b>"),),
    stop=Stop(view=6),
)


def forked() -> Recorded:
    """Two of four are twins: honest nodes commit different blocks, and S1 is the only oracle that looks."""
    return record(load(scenario_path("too-many-twins")).base.replace(oracles=("S1",)))


@pytest.fixture(scope="module")
def trouble() -> Recorded:
    return record(TROUBLE)


@pytest.fixture(scope="module")
def fork() -> Recorded:
    return forked()


# --- the record ---------------------------------------------------------------------------------------------------


def test_recording_changes_nothing(trouble: Recorded) -> None:
    assert trouble.result == run_schedule(TROUBLE)


def test_every_message_has_its_fate(trouble: Recorded) -> None:
    fates = [message.fate for message in trouble.messages]
    assert fates.count("arrived") == trouble.result.deliveries
    assert {"arrived", "lost", "down"} <= set(fates)
    for message in trouble.messages:
        assert message.source != message.target
        assert (message.due_ns is None) == (message.fate == "lost")
        assert message.sent_ns <= message.left_ns
        assert message.due_ns is None or message.left_ns < message.due_ns
        if message.fate == "arrived":
            assert message.due_ns is not None
            assert message.due_ns <= trouble.result.virtual_ns


def test_a_lost_message_says_why(trouble: Recorded) -> None:
    dropped = [message for message in trouble.messages if message.why == "dropped by the schedule"]
    assert {(message.kind, message.view, message.source) for message in dropped} == {("Vote", 2, 1)}
    assert {message.target for message in dropped} <= {0, 2}
    parted = [message for message in trouble.messages if message.why == "partition"]
    assert parted
    for message in parted:
        assert 118 * MILLISECOND <= message.left_ns <= 122 * MILLISECOND
        assert (message.source in (0, 1)) != (message.target in (0, 1))
    assert {(m.source, m.target) for m in trouble.messages if m.why == "cut"} <= {(1, 2)}
    assert not [message for message in trouble.messages if message.why == "lost by the link"]


def test_the_loss_of_a_link_is_not_blamed_on_a_fault() -> None:
    schedule = Schedule(link=TROUBLE.link.__class__(loss=0.3), stop=Stop(view=4))
    why = {message.why for message in record(schedule).messages if message.fate == "lost"}
    assert why == {"lost by the link"}


def test_a_held_message_leaves_when_it_is_released(trouble: Recorded) -> None:
    held = [message for message in trouble.messages if message.left_ns > message.sent_ns]
    assert held
    for message in held:
        assert (message.source, message.target) == (0, 1)
        assert message.left_ns == 22 * MILLISECOND
        assert message.sent_ns >= 10 * MILLISECOND


def test_what_a_hold_never_releases_is_kept_and_shown() -> None:
    """A hold begins: each message that it keeps is marked at once, not only when it is let go."""
    schedule = Schedule(faults=(Hold(at_ms=10, pairs=((0, 1), (2, 1))),), stop=Stop(view=6))
    kept = [message for message in record(schedule).messages if message.fate == "kept"]
    assert {(message.source, message.target) for message in kept} == {(0, 1), (2, 1)}
    assert all(message.due_ns is None and message.sent_ns >= 10 * MILLISECOND for message in kept)
    text, reader = read(record(schedule))
    assert f"kept{len(kept)}" in reader.text.replace(" ", "")
    assert text.count(", kept to the end of the run") == len(kept)


def test_a_message_that_two_holds_keep_is_one_message() -> None:
    schedule = Schedule(
        link=Link(latency=Constant(ms=2)),
        faults=(Hold(at_ms=5, pairs=((0, 1),), for_ms=10), Hold(at_ms=8, pairs=((0, 1),), for_ms=30)),
        stop=Stop(view=8),
    )
    recorded = record(schedule)
    held = [message for message in recorded.messages if message.left_ns > message.sent_ns]
    assert held
    assert {message.left_ns for message in held} == {38 * MILLISECOND}
    sent = [each for each in recorded.happenings if isinstance(each, Sent)]
    assert sum(len(each.copies) for each in sent) == len(recorded.messages)
    votes = [each for each in sent if each.kind == "Vote"]
    assert all(len({copy.target for copy in each.copies}) == len(each.copies) for each in votes)


def test_a_message_to_a_dead_node_is_heard_by_nobody(trouble: Recorded) -> None:
    down = [message for message in trouble.messages if message.fate == "down"]
    assert down
    for message in down:
        assert message.target == 2
        assert message.due_ns is not None
        assert 120 * MILLISECOND <= message.due_ns <= 180 * MILLISECOND
    (crash,), (restart,) = trouble.marks("crash"), trouble.marks("restart")
    assert (crash.node, crash.at_ns, restart.at_ns) == (2, 120 * MILLISECOND, 180 * MILLISECOND)


def test_faults_hold_from_when_to_when(trouble: Recorded) -> None:
    spans = {span.kind: span for span in trouble.spans}
    assert (spans["partition"].from_ns, spans["partition"].to_ns) == (118 * MILLISECOND, 122 * MILLISECOND)
    third = min(mark.at_ns for mark in trouble.marks("view") if mark.view == 3)
    assert (spans["cut"].from_ns, spans["cut"].to_ns) == (third, third + 15 * MILLISECOND)


def test_a_partition_that_another_replaced_does_not_end_it() -> None:
    alone = ((0,), (1,), (2,), (3,))
    faults = (Partition(at_ms=5, groups=((0, 1), (2, 3)), for_ms=50), Partition(at_ms=20, groups=alone, for_ms=300))
    recorded = record(Schedule(faults=faults, stop=Stop(view=8)))
    apart = [each for each in recorded.messages if 20 * MILLISECOND < each.sent_ns < 320 * MILLISECOND]
    assert max(each.sent_ns for each in apart) > 55 * MILLISECOND
    assert {each.fate for each in apart} == {"lost"}
    assert [span.to_ns // MILLISECOND for span in recorded.spans] == [20, 320]


def test_what_a_heal_ended_does_not_end_what_began_after() -> None:
    faults = (
        Cut(at_ms=5, pairs=((0, 1),), for_ms=50),
        Heal(at_ms=20),
        Cut(at_ms=30, pairs=((0, 1),), for_ms=300),
        Clog(at_ms=5, pairs=((1, 2),), extra_ms=40, for_ms=50),
        Clog(at_ms=30, pairs=((1, 2),), extra_ms=30, for_ms=300),
    )
    schedule = Schedule(link=Link(latency=Constant(ms=2)), faults=faults, stop=Stop(view=1000, time_ms=400))
    messages = record(schedule).messages
    apart = [each for each in messages if 30 * MILLISECOND < each.sent_ns < 330 * MILLISECOND]
    assert {each.fate for each in apart if (each.source, each.target) == (0, 1)} == {"lost"}
    slow = [each for each in apart if (each.source, each.target) == (1, 2) and each.due_ns is not None]
    assert {each.due_ns - each.sent_ns for each in slow if each.due_ns is not None} == {32 * MILLISECOND}


def test_a_heal_ends_faults_and_stops_those_to_come() -> None:
    schedule = Schedule(
        faults=(
            Partition(at_ms=10, groups=((0,), (1, 2, 3))),
            Heal(at_ms=50),
            Cut(at_view=5, pairs=((0, 1),)),
            Cut(at_view=9, pairs=((0, 1),)),
            Partition(at_ms=30, groups=((1,), (0, 2, 3))),
        )
    )
    spans = spans_of(schedule, {5: 60 * MILLISECOND}, {}, 100 * MILLISECOND)
    assert [(span.kind, span.from_ns // MILLISECOND, span.to_ns // MILLISECOND) for span in spans] == [
        ("partition", 10, 30),
        ("partition", 30, 50),
        ("heal", 50, 50),
    ]


def test_happenings_agree_with_logs_and_views(trouble: Recorded) -> None:
    for node in trouble.nodes:
        marks = [mark for mark in trouble.marks("commit") if mark.node == node.position]
        log = trouble.result.logs[node.position]
        assert {mark.height: mark.block for mark in marks} == dict(enumerate(log, start=1))
        views = [mark.view for mark in trouble.marks("view") if mark.node == node.position]
        assert max(views, default=0) == trouble.result.views[node.position]
    assert [each.at_ns for each in trouble.happenings] == sorted(each.at_ns for each in trouble.happenings)


def test_a_fork_is_named_by_height(fork: Recorded, trouble: Recorded) -> None:
    assert trouble.conflicts() == {}
    height, blocks = next(iter(fork.conflicts().items()))
    logs = [fork.result.logs[node.position] for node in fork.nodes if node.honest]
    assert {log[height - 1] for log in logs if len(log) >= height} == set(blocks)
    assert fork.against_commits()
    assert not trouble.against_commits()


def test_nodes_have_their_roles(fork: Recorded) -> None:
    assert [node.role for node in fork.nodes] == ["twin", "twin", "", "", "second twin of 0", "second twin of 1"]
    assert [node.honest for node in fork.nodes] == [False, False, True, True, False, False]


# --- the page -----------------------------------------------------------------------------------------------------

VOID = frozenset({"meta", "br", "input"})
LOADS = frozenset({"src", "href", "action", "data", "poster", "srcset"})


class Reader(HTMLParser):
    """Counts tags, sees that they nest, and keeps the text and whatever might load something."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in LOADS or name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(recorded: Recorded, limit: int = 700) -> tuple[str, Reader]:
    text = page(recorded, replay="netsim replay schedule.json", limit=limit)
    reader = Reader(text)
    assert reader.open == []
    return text, reader


def test_the_page_loads_nothing(fork: Recorded, trouble: Recorded) -> None:
    for recorded in (fork, trouble):
        text, reader = read(recorded)
        assert reader.loads == []
        assert reader.tags.count("script") == 1
        assert not {"link", "img", "iframe", "object", "embed"} & set(reader.tags)
        assert "@import" not in text
        assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#a{kind}" for kind in KINDS_DRAWN}


KINDS_DRAWN = ("Proposal", "Vote", "Timeout", "Certificates", "Other")


def test_its_pictures_are_well_formed(fork: Recorded, trouble: Recorded) -> None:
    for recorded in (fork, trouble):
        text, _ = read(recorded)
        pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
        assert len(pictures) == 7
        for picture in pictures:
            ElementTree.fromstring(picture)


def test_the_links_are_told_in_words() -> None:
    link = Link(latency=Normal(mean_ms=50, deviation_ms=5), loss=0.1)
    _, reader = read(record(Schedule(link=link, stop=Stop(view=2))))
    assert "links about 50 ms (normal, deviation 5 ms), at least 0.01 ms; 10% are lost" in reader.text
    assert "kept 0" not in reader.text
    regions = ("us-east-1", "us-west-2", "eu-west-1", "sa-east-1")
    far = Schedule(regions=regions, times=Times(view_timeout_ms=1500), stop=Stop(view=2))
    assert "links between regions" in read(record(far))[1].text


def test_a_violation_is_told_and_drawn(fork: Recorded) -> None:
    text, reader = read(fork)
    violation = fork.result.violations[0]
    assert f"S1 fired at node {violation.node}, at {violation.at_ns / 1e6:.3f} ms: {violation.text}." in reader.text
    assert f"S1 says: {meaning('S1')}" in reader.text
    height, blocks = next(iter(fork.conflicts().items()))
    assert f"Height {height} is committed twice" in reader.text
    assert text.count('class="commit split"') == len([m for m in fork.marks("commit") if m.height == height]) - len(
        [m for m in fork.marks("commit") if m.height == height and not fork.nodes[m.node].honest]
    )
    for block in blocks:
        assert f'<g class="block split"><title>block {block}' in block_tree(fork)
    assert 'class="violation"' in text


def test_a_silent_run_shows_no_violation(trouble: Recorded) -> None:
    text, reader = read(trouble)
    assert "Silent: no oracle fired." in reader.text
    for wrong in ('class="violation"', 'class="commit split"', 'class="block split"', "fired</b>"):
        assert wrong not in text


def test_every_message_and_fault_is_drawn(trouble: Recorded) -> None:
    text, reader = read(trouble)
    assert text.count('<g class="m k') == len(trouble.messages)
    assert f"All {len(trouble.messages)} messages are drawn." in reader.text
    for kind in ("partition", "cut", "hold"):
        assert text.count(f'<g class="span s-{kind}">') == 1
    assert text.count('<g class="crash">') == text.count('<g class="restart">') == 1
    assert text.count('class="kept"') == len([m for m in trouble.messages if m.left_ns > m.sent_ns])
    assert text.count('class="gone"') == len([m for m in trouble.messages if m.fate in ("lost", "down")])


def test_what_people_wrote_is_text(trouble: Recorded) -> None:
    text, reader = read(trouble)
    assert "<h1>trouble &lt;&amp;&gt;, " in text
    assert "</script><b>" in reader.text
    assert "RangeResponse message from node 1" in reader.text
    assert "i" not in reader.tags
    assert reader.tags.count("b") == text.count("<b>")
    assert "</script><b>" not in text


def test_a_long_run_is_drawn_around_the_violation(fork: Recorded) -> None:
    window = window_of(fork, 40)
    at_ns = fork.result.violations[0].at_ns
    assert window.to_ns == at_ns
    assert 40 <= len(window.messages) < len(fork.messages) == window.total
    assert all(message.due_ns is None or message.due_ns >= window.from_ns for message in window.messages)
    text, reader = read(fork, limit=40)
    assert text.count('<g class="m k') == len(window.messages)
    assert f"{len(window.messages)} of {len(fork.messages)} messages are drawn: the last before the violation" in (
        reader.text
    )


def test_a_long_silent_run_is_drawn_from_its_start(trouble: Recorded) -> None:
    window = window_of(trouble, 20)
    assert window.from_ns == 0
    assert window.to_ns < trouble.result.virtual_ns
    assert window.messages[:20] == trouble.messages[:20]
    _, reader = read(trouble, limit=20)
    assert f"of {len(trouble.messages)} messages are drawn: the first of the run" in reader.text


def test_one_run_gives_one_page(fork: Recorded) -> None:
    assert read(fork)[0] == read(forked())[0]


def test_the_axis_runs_forward_and_says_what_it_cuts() -> None:
    axis = TimeAxis([0, MILLISECOND, 2 * MILLISECOND, 900 * MILLISECOND], 400)
    assert axis.cuts == [(2 * MILLISECOND, 900 * MILLISECOND)]
    places = [axis.y(at) for at in range(-MILLISECOND, 1000 * MILLISECOND, MILLISECOND // 2)]
    assert places == sorted(places)
    assert axis.y(0) < axis.y(MILLISECOND // 2) < axis.y(MILLISECOND) < axis.y(2 * MILLISECOND) < axis.end
    assert axis.y(10**12) == axis.end


def test_arrows_point_forward_in_time(trouble: Recorded) -> None:
    drawn = Diagram(trouble, window_of(trouble)).body()
    arrows = re.findall(r'class="way" d="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)"', drawn)
    assert len(arrows) == trouble.result.deliveries
    assert all(float(begin) < float(end) for begin, end in arrows)


def block(name: str, parent: str, view: int, *committed: int) -> BlockSeen:
    return BlockSeen(
        id=name,
        parent=parent,
        height=1,
        view=view,
        justify_view=0,
        proposers=[0],
        first_sent_ns=view,
        committed=dict.fromkeys(committed, 0),
    )


def test_blocks_in_one_row_are_one_chain() -> None:
    """Nothing stands between a block and its parent in the same row, which a straight line joins."""
    blocks = [
        block("a", "genesis", 1),
        block("b", "genesis", 2, 0),
        block("c", "genesis", 3),
        block("d", "b", 4),
        block("e", "d", 5),
        block("f", "b", 6, 0),
        block("g", "e", 7),
        block("h", "left out", 8),
    ]
    rows = rows_of(blocks, "genesis")
    assert rows["genesis"] == rows["b"] == rows["f"] == 0
    assert rows["a"] == rows["c"] == 1
    by_name = {each.id: each for each in blocks}
    for each in blocks:
        if rows[each.id] != rows.get(each.parent):
            continue
        since = by_name[each.parent].view if each.parent in by_name else 0
        between = [other.id for other in blocks if since < other.view < each.view and rows[other.id] == rows[each.id]]
        assert between == []
    places = [(each.view, rows[each.id]) for each in blocks]
    assert len(places) == len(set(places))


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (1, 5, 50, 99, 100)] == [1, 5, 50, 99, 100]
    assert percentile([7.0], 50) == 7
    assert "50 %: 50.00" in histogram(values, "numbers")
    assert "nothing to count" in histogram([], "numbers")


def test_a_shortened_schedule_says_so(fork: Recorded) -> None:
    text = page(fork, replay="x", shortened=Shortened(before=40, after=7, runs=90))
    assert "40 parts became 7 in 90 runs" in text
    assert "40 parts became" not in page(fork, replay="x")
    assert "Nothing shorter was found that makes the same oracle fire in 9 runs" in page(
        fork, replay="x", shortened=Shortened(before=7, after=7, runs=9)
    )


# --- the command --------------------------------------------------------------------------------------------------


def test_report_shrinks_and_writes(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    outcome = CliRunner().invoke(app, ["report", "too-many-twins", "-o", str(target)])
    assert outcome.exit_code == 0, outcome.output
    reader = Reader(target.read_text(encoding="utf-8"))
    assert re.search(r"This is the shortest schedule found|Nothing shorter was found", reader.text)
    assert reader.open == []


def test_report_shows_a_schedule_that_it_is_given(tmp_path: Path) -> None:
    given, target = tmp_path / "short.json", tmp_path / "report.html"
    given.write_bytes(TROUBLE.to_json())
    arguments = ["report", "calm", "--schedule", str(given), "-o", str(target), "--messages", "10"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    text = target.read_text(encoding="utf-8")
    assert "trouble &lt;&amp;&gt;" in text
    assert "messages are drawn</b>: the first of the run" in text


def test_report_names_the_mutant(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    arguments = ["report", "fast-hotstuff-fork", "--mutant", "D1-fast-hotstuff", "-o", str(target)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    text = target.read_text(encoding="utf-8")
    assert "mutant D1-fast-hotstuff" in text
    assert "netsim replay schedule.json --mutant D1-fast-hotstuff" in text


@pytest.mark.parametrize("arguments", [["nothing-of-that-name"], ["calm", "-o", "no/such/folder/x.html"]])
def test_bad_input_is_refused(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(app, ["report", *arguments])
    assert type(outcome.exception).__name__ == "BadSchedule"
    assert list(tmp_path.iterdir()) == []


def test_an_explicit_schedule_is_shown_with_its_own_seed(tmp_path: Path) -> None:
    """The seed of a schedule's file is part of it: another one would be another run."""
    schedule = expand(load(scenario_path("swarm")), 7)
    path = tmp_path / "seven.json"
    path.write_bytes(schedule.to_json())
    own = run_schedule(schedule).trace_hash
    for arguments, expected in (([], own), (["--seed", "8"], run_schedule(schedule.replace(seed=8)).trace_hash)):
        outcome = CliRunner().invoke(app, ["run", str(path), *arguments, "--json"])
        assert expected in outcome.stdout
    outcome = CliRunner().invoke(app, ["report", str(path), "-o", str(tmp_path / "page.html")])
    assert outcome.exit_code == 0
    assert own[:16] in (tmp_path / "page.html").read_text()
