"""Chains whose validators change, in the simulator: what a schedule can say of it, who is judged how, and when faults
begin that wait for something."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.protocols.registry import protocol_names
from netsim import Schedule, load, run_schedule
from netsim.checks import scenario_path, scenario_paths
from netsim.mutants.registry import mutant_named
from netsim.numbering import Turns, name_of, numbered, split
from netsim.payloads import body_of, links_in, payload_in
from netsim.scenario import expand
from netsim.schedule import (
    Actor,
    BadSchedule,
    Begins,
    Commits,
    Constant,
    Crash,
    Enters,
    Link,
    Liveness,
    Member,
    NextEpoch,
    Sends,
    Stop,
    Trigger,
    Uniform,
)
from netsim.show.recording import record
from netsim.shrink import shrink, with_epochs
from netsim.words import in_words

EPOCHS = (
    NextEpoch(height=4, validators=tuple(Member(node=node) for node in (1, 2, 3, 4, 5))),
    NextEpoch(height=9, validators=(Member(node=3, key=1), Member(node=4), Member(node=5), Member(node=6))),
)
SCRIPTED = [path.stem for path in scenario_paths() if path.stem.startswith("epochs-")]


def changing(**fields: object) -> Schedule:
    schedule = Schedule(observers=3, epochs=EPOCHS, stop=Stop(epoch=2, view=6), link=Link(latency=Constant(ms=2)))
    return schedule.replace(**fields)


@pytest.mark.parametrize("protocol", protocol_names())
def test_a_calm_chain_goes_through_its_epochs(protocol: str) -> None:
    result = run_schedule(changing(protocol=protocol, fault_free=True, checkpoint_interval=2))
    assert result.silent, result.violations
    assert set(result.epochs) == {2}
    assert len({log[8] for log in result.logs}) == 1
    assert result.final >= 6
    again = run_schedule(changing(protocol=protocol, fault_free=True, checkpoint_interval=2))
    assert again.trace_hash == result.trace_hash


@pytest.mark.parametrize("protocol", protocol_names())
@pytest.mark.parametrize("name", SCRIPTED)
def test_scripted_changes_are_silent(name: str, protocol: str) -> None:
    schedule = expand(load(scenario_path(name)), 3).replace(protocol=protocol)
    result = run_schedule(schedule)
    assert result.silent, result.violations
    assert max(result.epochs) == len(schedule.epochs)


@pytest.mark.parametrize("protocol", protocol_names())
@pytest.mark.parametrize("name", ["swarm-epochs", "swarm-finality"])
def test_swarms_over_epochs_are_silent(name: str, protocol: str) -> None:
    scenario = load(scenario_path(name))
    for seed in range(12):
        result = run_schedule(expand(scenario, seed).replace(protocol=protocol))
        assert result.silent, (seed, result.violations)


@pytest.mark.sweep
@pytest.mark.parametrize("protocol", protocol_names())
@pytest.mark.parametrize("name", ["swarm-epochs", "swarm-finality"])
def test_swarms_over_epochs_are_silent_for_long(name: str, protocol: str) -> None:
    scenario = load(scenario_path(name))
    for seed in range(2000):
        result = run_schedule(expand(scenario, seed).replace(protocol=protocol))
        assert result.silent, (seed, result.violations)


def test_a_joiner_that_still_observes_is_late_in_no_view() -> None:
    """The shortest form of a schedule for which L1 once fired: the first epoch lasts beyond the trouble."""
    schedule = Schedule(
        protocol="simplex",
        nodes=7,
        observers=2,
        seed=9482,
        leaders=(2, 3, 3, 2, 2, 3, 2, 3),
        epochs=(NextEpoch(height=7, validators=(Member(node=4), Member(node=8))),),
        link=Link(latency=Uniform(low_ms=1, high_ms=60)),
        actors=(Actor(node=2, kind="silent"), Actor(node=3, kind="silent")),
        stop=Stop(view=1, epoch=1, time_ms=120_000),
        liveness=Liveness(from_ms=3001, delay_ms=60),
    )
    result = run_schedule(schedule)
    assert result.silent, result.violations
    assert set(result.epochs) >= {1}


def test_what_a_seed_draws_of_epochs_can_be_replayed() -> None:
    scenario = load(scenario_path("swarm-epochs"))
    kinds = set()
    for seed in range(60):
        schedule = expand(scenario, seed)
        assert schedule.epochs
        assert schedule.stop.epoch == len(schedule.epochs)
        kinds |= {actor.kind for actor in schedule.actors if actor.node >= schedule.nodes}
    assert {"twin", "reconfigurer"} <= kinds, "some of those who join misbehave"


# --- bad input -------------------------------------------------------------------------------------------------------

MEMBERS = '"validators": [{"node": 0}, {"node": 1}, {"node": 2}, {"node": 3}]'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"epochs": [{"height": 0, MEMBERS}]}', "$.epochs[0].height"),
        ('{"epochs": [{"height": 3, "validators": []}]}', "$.epochs[0].validators"),
        ('{"epochs": [{"height": 3, MEMBERS}, {"height": 3, MEMBERS}]}', "$.epochs[1].height: 3 is"),
        ('{"epochs": [{"height": 3, "validators": [{"node": 4}]}]}', "$.epochs[0].validators[0].node: node 4 does not"),
        ('{"epochs": [{"height": 3, "validators": [{"node": 1}, {"node": 1}]}]}', "$.epochs[0].validators[1].node"),
        (
            '{"actors": [{"node": 1, "kind": "twin"}], "epochs": [{"height": 3, "validators": [{"node": 4}]}]}',
            "$.epochs[0].validators[0].node: node 4 is a twin's second copy",
        ),
        ('{"epochs": [{"height": 3, MEMBERS, "leaders": [4]}]}', "$.epochs[0].leaders[0]: node 4 is no validator"),
        ('{"epochs": [{"height": 3, "validators": [{"node": 1, "stakes": 2}]}]}', "$.epochs[0].validators[0].stakes"),
        ('{"stop": {"epoch": 1}}', "$.stop.epoch: there is no epoch 1: the last one is 0"),
        ('{"faults": [{"kind": "heal", "on": {"event": "begins", "epoch": 1}}]}', "$.faults[0].on.epoch: there is no"),
        ('{"faults": [{"kind": "heal", "on": {"event": "commits", "height": 1, "node": 9}}]}', "$.faults[0].on.node"),
        ('{"faults": [{"kind": "heal", "on": {"event": "sneezes"}}]}', "$.faults[0].on"),
        ('{"faults": [{"kind": "heal", "at_ms": 1, "on": {"event": "commits", "height": 1}}]}', "$.faults[0]: needs"),
        (
            '{"actors": [{"node": 3, "kind": "silent"}], "epochs": [{"height": 3, "validators": '
            '[{"node": 0}, {"node": 3, "stake": 5}]}]}',
            "$.actors[0].kind: validators 3 are faulty, a third of the stake or more in some epoch",
        ),
    ],
)  # fmt: skip
def test_bad_epochs_and_triggers_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text.replace("MEMBERS", MEMBERS))
    with pytest.raises(BadSchedule) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: {said}")


def test_a_trigger_for_a_message_that_nobody_knows_is_refused() -> None:
    crash = Crash(nodes=(1,), on=Sends(message="Sneeze"))
    with pytest.raises(BadSchedule, match=r"faults\[0\].on.message: 'Sneeze' is unknown"):
        run_schedule(Schedule(faults=(crash,)))


# --- triggers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (Commits(height=3), "When the first honest node commits height 3"),
        (Commits(height=3, node=2), "When node 2 commits height 3"),
        (Enters(view=2, epoch=1), "When the first honest node enters view 2 of epoch 1"),
        (Begins(epoch=2, node=6), "When node 6 begins epoch 2"),
        (Sends(message="Vote", nth=5), "When any node sends a Vote for the 5th time"),
        (Sends(message="Proposal", view=2, epoch=1, node=2), "When node 2 sends a Proposal of view 2 of epoch 1"),
    ],
)
def test_a_fault_begins_when_what_it_waits_for_happens(trigger: Trigger, said: str) -> None:
    late = Link(latency=Constant(ms=2))
    schedule = changing(faults=(Crash(nodes=(0,), on=trigger, restart_ms=10),), link=late)
    assert any(text.startswith(f"{said}: node 0 crashes") for text in in_words(schedule))
    recorded = record(schedule)
    crashes = recorded.marks("crash")
    (crash,) = crashes
    match trigger:
        case Commits(height=height, node=node):
            times = [mark.at_ns for mark in recorded.marks("commit")
                     if mark.height == height and (node is None or mark.node == node)]  # fmt: skip
        case Begins(epoch=epoch, node=node):
            times = [mark.at_ns for mark in recorded.marks("epoch")
                     if mark.node == node and f"epoch {epoch} " in mark.text]  # fmt: skip
        case Enters():
            times = [mark.at_ns for mark in recorded.marks("view") if mark.text == "enters view 2 of epoch 1"]
        case Sends():
            sent = [each for each in recorded.happenings if getattr(each, "copies", None) and
                    each.kind == trigger.message and (trigger.node is None or each.node == trigger.node)]  # type: ignore[union-attr]  # fmt: skip
            sent = [each for each in sent if trigger.view is None or each.view == trigger.view]  # type: ignore[union-attr]
            times = [each.at_ns for each in sent[trigger.nth - 1 :]]
    assert crash.at_ns == times[0]
    assert run_schedule(schedule).silent


def test_a_fault_that_waits_in_vain_never_begins() -> None:
    schedule = Schedule(faults=(Crash(nodes=(0,), on=Commits(height=10_000)),))
    assert not record(schedule).marks("crash")


# --- shrinking, showing ----------------------------------------------------------------------------------------------


def test_shrinking_drops_changes() -> None:
    mutant = mutant_named("E4-jolteon")
    schedule = expand(load(scenario_path("swarm-epochs")), 7)
    run = lambda one: run_schedule(one, definition=mutant.definition, keep=mutant.keep)  # noqa: E731
    shortest = shrink(schedule, run, runs_max=120)
    assert shortest.oracle == "S11"
    assert len(shortest.schedule.epochs) == 1
    assert shortest.size_after < shortest.size_before


def test_what_names_an_epoch_goes_with_it() -> None:
    faults = (Crash(nodes=(0,), on=Begins(epoch=2)), Crash(nodes=(1,), on=Begins(epoch=1)))
    left = with_epochs(changing(faults=faults), EPOCHS[:1])
    assert (left.faults, left.stop.epoch) == (faults[1:], 1)


def test_reports_show_where_epochs_begin_and_what_is_final() -> None:
    recorded = record(changing(checkpoint_interval=2))
    begun = recorded.marks("epoch")
    assert {mark.node for mark in begun} == set(range(7))
    assert {mark.text for mark in begun} == {"begins epoch 1 with 5 validators", "begins epoch 2 with 4 validators"}
    assert recorded.marks("final")
    text = "\n".join(in_words(changing()))
    assert "After height 4 epoch 1 begins; its validators are the nodes 1, 2, 3, 4, 5." in text
    assert "the nodes 3 with key 1, 4, 5, 6." in text


def test_views_are_numbered_over_all_epochs() -> None:
    from consensus.protocols.registry import protocol_named
    from consensus.protocols.tendermint_types import view_at

    assert numbered(0, 7) == 7
    assert split(numbered(3, 7)) == (3, 7)
    assert numbered(0, 2**70) < numbered(1, 1) < numbered(1, 2)
    assert (name_of(7), name_of(numbered(2, 7))) == ("view 7", "view 7 of epoch 2")
    turns = Turns(protocol_named("tendermint"), (4, 9))
    assert turns.of(0, view_at(1, 0)) == 1
    assert turns.of(1, view_at(5, 2)) == numbered(1, 3)
    assert Turns(protocol_named("jolteon"), (4, 9)).of(2, 5) == numbered(2, 5)


def test_bodies_carry_payloads_as_they_are_given() -> None:
    assert body_of(b"plain", ()) == b"plain"
    assert (payload_in(b"plain"), links_in(b"plain"), links_in(b"")) == (b"plain", (), ())
