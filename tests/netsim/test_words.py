"""A schedule in words: nothing that decides a run is left out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netsim.schedule import (
    Actor,
    Announce,
    CastVote,
    Clock,
    Clog,
    Constant,
    Crash,
    Cut,
    Disk,
    Drop,
    Empirical,
    Exponential,
    GiveUp,
    Heal,
    Hold,
    Link,
    LinkOverride,
    Liveness,
    Member,
    Milestone,
    NextEpoch,
    Normal,
    Partition,
    Propose,
    Prune,
    Schedule,
    Stop,
    Submit,
    Times,
    Uniform,
    ViewPartition,
)
from netsim.words import in_words

SILENT = frozenset({"name", "expect", "beyond_bounds"})
"""Not told: they decide nothing of a run."""
TOLD: dict[str, list[tuple[object, list[str]]]] = {
    "seed": [(77, ["seed 77"])],
    "protocol": [("hotstuff", ["run hotstuff"])],
    "scheme": [("bls", ["bls signatures"])],
    "nodes": [(7, ["7 validators"])],
    "stakes": [((1, 2, 3, 4), ["Stakes of validators 0 to 3: 1, 2, 3, 4."])],
    "observers": [(1, ["1 observer: node 4"]), (2, ["2 observers: nodes 4 and 5"])],
    "epochs": [((NextEpoch(height=5, validators=(Member(node=1, stake=3, key=2), Member(node=2)), leaders=(2,)),),
                ["After height 5 epoch 1 begins", "1 with stake 3 with key 2, 2.", "first views: 2"])],
    "checkpoint_interval": [(4, ["Every 4 blocks the validators vote on finality"])],
    "leaders": [((2, 0), ["Leaders of views 1 to 2: 2, 0", "in turn"])],
    "times": [(Times(view_timeout_ms=30, exponent_max=3), ["view times out after 30 ms", "6/5", "3 times"])],
    "link": [
        (Link(latency=Constant(ms=7)), ["7 ms"]),
        (Link(latency=Uniform(low_ms=2, high_ms=9)), ["2 to 9 ms"]),
        (Link(latency=Normal(mean_ms=20, deviation_ms=3, least_ms=1)), ["20 ms", "deviation 3 ms", "at least 1 ms"]),
        (Link(latency=Exponential(mean_ms=20, least_ms=1)), ["1 ms and an exponential tail of mean 20 ms"]),
        (Link(latency=Empirical(table_ms=(1, 2, 50))), ["one of 3 measured delays, 1 to 50 ms"]),
        (Link(jitter_ms=3, loss=0.25, duplication=0.1, reorder=0.05, reorder_ms=33),
         ["up to 3 ms more", "25% are lost", "10% arrive twice", "5% come 33 ms late"]),
    ],
    "links": [
        ((LinkOverride(source=1, target=2, link=Link(latency=Constant(ms=70))),), ["From node 1 to node 2", "70 ms"]),
    ],
    "regions": [(("us-east-1", "sa-east-1", "us-west-2", "eu-west-1"), ["node 1 in sa-east-1"])],
    "bandwidth_mbit": [(12.5, ["12.5 Mbit/s"])],
    "clocks": [((Clock(node=2, offset_ms=-30, drift_ppm=400),), ["clock of node 2", "30 ms behind", "400 ppm fast"]),
               ((Clock(node=2, offset_ms=3, drift_ppm=-4),), ["3 ms ahead", "4 ppm slow"])],
    "actors": [
        ((Actor(node=1, kind="flooder", options={"count": 900}),), ["Node 1 is a flooder (count 900)"]),
        ((Actor(node=1, kind="twin"),), ["Node 1 is a twin", "second copy is node 4"]),
        ((Actor(node=3, kind="puppet", moves=(
            Propose(view=5, parent=1, proof="lowest", begins=3, variant=2, to=(0, 1), after_ms=4),
            CastVote(view=2, kind=1, choice=1, times=3, to=(2,)),
            GiveUp(view=3, high=1, to=(0,)),
            Announce(view=4, high=0, to=(1, 2)),
        )),), ["View 5: node 3 proposes block 3 on the second highest", "lowest proof", "nodes 0 and 1", "4 ms later",
               "when view 3 begins", "votes for the second block 3 times", "second kind), to node 2", "times out with",
               "shows the highest certificate to nodes 1 and 2"]),
    ],
    "faults": [
        ((Partition(at_view=3, for_ms=20, groups=((0, 1), (2, 3))),),
         ["When view 3 begins, for 20 ms", "{0, 1} | {2, 3}"]),
        ((Cut(at_ms=3, pairs=((0, 1),)),), ["At 3 ms", "0 to 1 are lost"]),
        ((Hold(at_height=2, pairs=((0, 1),)),), ["When height 2 commits", "0 to 1 are kept"]),
        ((Clog(at_ms=3, pairs=((0, 1),), extra_ms=8),), ["8 ms longer"]),
        ((Heal(at_ms=9),), ["At 9 ms: the network heals"]),
        ((Drop(view=4, message="Vote", source=1, to=(0,)),), ["View 4: Vote message from node 1 to node 0 is lost"]),
        ((ViewPartition(view=4, groups=((0,), (1, 2, 3))),), ["View 4", "{0} | {1, 2, 3}"]),
        ((Crash(nodes=(1, 2), boundary="after sign", nth=3, restart_ms=5),),
         ["Nodes 1 and 2 crash after sign, the 3rd time", "5 ms later"]),
        ((Crash(at_ms=7, nodes=(1,), boundary="before send"),),
         ["From 7 ms on", "node 1 crashes before send, the 1st time"]),
        ((Crash(at_ms=7, nodes=(1,)),), ["At 7 ms: node 1 crashes and stays down"]),
        ((Disk(at_ms=1, node=2, fault="lost-fsync"),), ["disk of node 2", "forgets at the next crash"]),
        ((Disk(at_ms=1, node=2, fault="wrong-host", other=3),), ["disk of node 2", "that of node 3 at the next start"]),
        ((Prune(at_ms=6, nodes=(0, 1), keep=8),), ["At 6 ms: nodes 0 and 1 keep only the last 8 committed"]),
        ((Disk(at_ms=1, node=2, fault="slow", slow_ms=6),), ["disk of node 2", "6 ms longer"]),
    ],
    "workload": [((Submit(at_ms=4, payload="hello", to=(1,)),), ["At 4 ms: payload 'hello' is given to node 1"]),
                 ((Submit(at_ms=4, payload="x" * 90),), ["is given to all nodes", "x" * 40, "90 bytes"])],
    "stop": [(Stop(view=9, height=4, time_ms=700), ["above view 9", "height 4", "700 ms"])],
    "liveness": [(Liveness(from_ms=50, timeouts=20, payload_ms=900, delay_ms=4, core=(0, 1)),
                  ["From 50 ms on", "nodes 0 and 1", "20 view timeouts", "900 ms", "4 ms"])],
    "milestones": [((Milestone(view=6, height_min=1, height_max=2),), ["When view 6 begins", "1 to 2"])],
    "fault_free": [(True, ["no timer may fire"])],
    "oracles": [(("S1", "S8"), ["Only these judge: S1, S8"])],
}  # fmt: skip


def test_every_field_of_a_schedule_is_told_or_decides_nothing() -> None:
    assert frozenset(TOLD) | SILENT == frozenset(Schedule.__struct_fields__)


@pytest.mark.parametrize(
    ("field", "value", "words"), [(field, value, words) for field, rows in TOLD.items() for value, words in rows]
)
def test_what_differs_from_the_default_is_said(field: str, value: object, words: list[str]) -> None:
    text = "\n".join(in_words(Schedule().replace(**{field: value})))
    for word in words:
        assert word in text, text


def test_every_kind_of_fault_and_move_is_in_the_table() -> None:
    def kinds(rows: list[tuple[object, list[str]]]) -> set[type]:
        parts: list[Any] = [part for value, _ in rows if isinstance(value, tuple) for part in value]
        return {type(part) for part in parts} | {type(move) for part in parts for move in getattr(part, "moves", ())}

    every = {Partition, Cut, Hold, Clog, Heal, Drop, ViewPartition, Crash, Disk, Prune}
    assert kinds(TOLD["faults"]) == every
    assert kinds(TOLD["actors"]) == {Actor, Propose, CastVote, GiveUp, Announce}


def test_each_field_of_a_part_changes_the_words() -> None:
    """No number of a part is left out: another value reads differently."""
    for rows in TOLD.values():
        for value, _ in rows:
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, msgspec.Struct):
                    for field, other in changed(part):
                        field_of = next(name for name, found in TOLD.items() if (value, _) in found)
                        replaced = part_in(value, part, msgspec.structs.replace(part, **{field: other}))
                        first = list(in_words(Schedule().replace(**{field_of: value})))
                        assert list(in_words(Schedule().replace(**{field_of: replaced}))) != first, (part, field)


def changed(part: Any) -> list[tuple[str, object]]:
    """Each number of a part that differs from its default, one higher."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(part))}
    values = [(name, getattr(part, name)) for name in part.__struct_fields__]
    return [
        (name, value + 1)
        for name, value in values
        if isinstance(value, int | float) and value != defaults[name] and not isinstance(value, bool)
    ]


def part_in(value: object, old: object, new: object) -> object:
    """The field's value with one part replaced."""
    return tuple(new if part is old else part for part in value) if isinstance(value, tuple) else new
