"""The driver between two epochs: it asks the payload source who follows, and nothing of the old epoch outlives it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from consensus.driver import QUEUE_MAX, SIGNATURES_WAITING_MAX, TrioClock
from consensus.engine import (
    NOTHING,
    BuildPayload,
    EndEpoch,
    EpochReady,
    Event,
    PayloadBuilt,
    PeerConnected,
    Recovered,
    Sign,
    Signed,
    Step,
)
from consensus.replica import Replica
from consensus.signing import SigningDomain
from consensus.types import ProposalSubject, Subject
from tests.consensus.test_driver import Cluster, cluster
from tests.consensus.test_replica_epochs import B1, B2, NEXT
from tests.support.hosts import members


def with_rotated_key() -> Cluster:
    """Epochs end at heights 4 and 8; validator 1 changes its key both times."""
    made = cluster()
    scheme = made.ports[0].members.scheme
    sets = {4: members(scheme, 0, 1, 2, 3, rotated=(1,)), 8: members(scheme, 0, 1, 2, 3)}
    for ports in made.ports:
        ports.sets = sets
        ports.pool = [b"payload %d" % number for number in range(10)]
    return made


async def test_four_drivers_go_from_epoch_to_epoch(autojump_clock: MockClock) -> None:
    made = with_rotated_key()
    async with trio.open_nursery() as nursery:
        for driver in made.drivers:
            await nursery.start(partial(driver.run, ledger_height=0))
        with trio.fail_after(10):
            await made.reached(14)
        nursery.cancel_scope.cancel()
    shortest = min(len(ports.committed) for ports in made.ports)
    assert len({tuple(ports.committed[:shortest]) for ports in made.ports}) == 1
    assert [driver.status().epoch for driver in made.drivers] == [2] * 4
    assert all(ports.log.lines.count("end epoch") == 2 for ports in made.ports)
    assert all(not ports.pool for ports in made.ports)
    assert all(not transport.rejects for transport in made.transports)
    for ports in made.ports:
        changes = [line for line in ports.log.lines if "EpochRecord" in line]
        assert len(changes) == 2


async def test_drivers_resume_in_the_epoch_of_their_journal(autojump_clock: MockClock) -> None:
    made = with_rotated_key()
    async with trio.open_nursery() as nursery:
        for driver in made.drivers:
            await nursery.start(partial(driver.run, ledger_height=0))
        with trio.fail_after(10):
            await made.reached(6)
        nursery.cancel_scope.cancel()
    again = with_rotated_key()
    for old, new in zip(made.ports, again.ports, strict=True):
        new.journal, new.committed, new.pool = old.journal, list(old.committed), list(old.pool)
    async with trio.open_nursery() as nursery:
        for driver, ports in zip(again.drivers, again.ports, strict=True):
            await nursery.start(partial(driver.run, ledger_height=len(ports.committed)))
            assert driver.status().epoch >= 1
        with trio.fail_after(10):
            await again.reached(12)
        nursery.cancel_scope.cancel()
    assert [driver.status().epoch for driver in again.drivers] == [2] * 4


async def test_a_payload_source_that_cannot_say_who_follows_stops_the_node(autojump_clock: MockClock) -> None:
    made = with_rotated_key()
    made.ports[2].sets = {4: made.ports[2].sets[4]} | {8: members(made.ports[2].members.scheme, 0, 1, 2, 3)}

    async def fails(request: EndEpoch) -> EpochReady:
        raise LookupError("no registry")

    made.ports[2].end_epoch = fails  # type: ignore[method-assign]  # one port behaves otherwise
    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="no registry"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            for driver in made.drivers:
                await nursery.start(partial(driver.run, ledger_height=0))
            await trio.sleep(5)
    assert not any("EpochRecord" in line for line in made.ports[2].log.lines)


class Scripted:
    """A replica that answers events as the test says, and keeps them."""

    def __init__(self, first: Step, answer: Callable[[Event], Step]) -> None:
        self.first = first
        self.answer = answer
        self.events: list[Event] = []
        self.live = 0

    def start(self, recovered: Recovered, now: int) -> Step:
        return self.first

    def handle(self, event: Event, now: int) -> Step:
        if not isinstance(event, PeerConnected):
            self.events.append(event)
        return self.answer(event)

    def signing(self, subject: Subject) -> tuple[bytes, SigningDomain] | None:
        return (MEMBERS.public_keys[0], DOMAIN) if subject.epoch == self.live else None


EPOCH = cluster().ports[0].members.epoch
MEMBERS, DOMAIN = EPOCH.validators, EPOCH.domain


async def run(made: Cluster, scripted: Scripted) -> None:
    driver = made.drivers[0]
    driver._replica = cast("Replica", scripted)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(driver.run, ledger_height=0))
        await trio.sleep(3)
        nursery.cancel_scope.cancel()


async def test_what_waits_for_the_signer_while_its_epoch_ends_is_not_signed(autojump_clock: MockClock) -> None:
    """The signer is slow: when it is done with the first, the epoch of the second is over."""
    made = cluster()
    asked: list[Subject] = []
    old, new = (ProposalSubject(epoch=epoch, view=2, block_id=B1.id) for epoch in (0, 1))
    first = ProposalSubject(epoch=0, view=1, block_id=B1.id)

    def answer(event: Event) -> Step:
        if isinstance(event, Signed) and event.subject == first:
            return Step((), (Sign(new),))
        return NOTHING

    scripted = Scripted(Step((), (Sign(first), Sign(old))), answer)

    async def slowly(subject: Subject, public_key: bytes, domain: SigningDomain) -> bytes:
        asked.append(subject)
        await trio.sleep(0.1)
        scripted.live = 1
        return b"signature"

    made.ports[0].sign = slowly  # type: ignore[method-assign]  # one port behaves otherwise
    await run(made, scripted)
    assert [event.subject for event in scripted.events if isinstance(event, Signed)] == [first, new]
    assert asked == [first, new]


async def test_a_signer_that_is_away_for_long_stops_nothing(autojump_clock: MockClock) -> None:
    """The others go on meanwhile, so there is always more to sign. When it is back the newest are signed, in order."""
    made = cluster()
    many = SIGNATURES_WAITING_MAX + QUEUE_MAX
    subjects = [ProposalSubject(epoch=0, view=view, block_id=B1.id) for view in range(1, many + 1)]
    scripted = Scripted(Step((), tuple(map(Sign, subjects))), lambda event: NOTHING)
    asked: list[Subject] = []
    back = trio.Event()

    async def away(subject: Subject, public_key: bytes, domain: SigningDomain) -> bytes:
        asked.append(subject)
        await back.wait()
        return b"signature"

    made.ports[0].sign = away  # type: ignore[method-assign]  # one port behaves otherwise
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, made, scripted)
        await trio.sleep(1)
        assert len(asked) <= 1
        back.set()
    assert asked[-SIGNATURES_WAITING_MAX:] == subjects[-SIGNATURES_WAITING_MAX:]
    assert len(asked) <= SIGNATURES_WAITING_MAX + 1
    assert [event.subject for event in scripted.events if isinstance(event, Signed)] == asked


async def test_what_the_signer_does_not_sign_is_as_if_it_were_lost(autojump_clock: MockClock) -> None:
    made = cluster()
    first, second = (ProposalSubject(epoch=0, view=view, block_id=B1.id) for view in (1, 2))
    scripted = Scripted(Step((), (Sign(first), Sign(second))), lambda event: NOTHING)

    async def begins_with_the_second(subject: Subject, public_key: bytes, domain: SigningDomain) -> bytes | None:
        return b"signature" if subject == second else None

    made.ports[0].sign = begins_with_the_second  # type: ignore[method-assign, assignment]  # one port behaves otherwise
    await run(made, scripted)
    assert [event.subject for event in scripted.events if isinstance(event, Signed)] == [second]


async def test_a_payload_that_the_old_epoch_wanted_is_never_answered(autojump_clock: MockClock) -> None:
    """It waits for something to order; then the epoch ends. It would fit the first request of the new one."""
    ends = Step((), (EndEpoch(B2),))
    for first, later, expected in (
        ("build", [], PayloadBuilt),
        ("both", [], EpochReady),
        ("build", [ends], EpochReady),
    ):
        made = cluster()
        made.ports[0].sets = {2: NEXT}
        made.ports[0].committed = [B1.id, B2.id]
        build = BuildPayload(
            view=3,
            parent=B2.id,
            height=3,
            parent_timestamp_ms=1,
            path=(),
            deadline_ns=TrioClock().now() + 10**9,
        )
        steps = list(later)
        scripted = Scripted(
            Step((), (build, EndEpoch(B2)) if first == "both" else (build,)),
            lambda event, steps=steps: steps.pop() if steps else NOTHING,  # type: ignore[misc]  # mypy infers no type for a default
        )
        await run(made, scripted)
        assert [type(event) for event in scripted.events] == [expected]
