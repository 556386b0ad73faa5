"""Between two epochs, step by step: a replica whose engine says what the test tells it to.

::

    b1 <- b2 (names the next validators) <- b3 (closing)        epoch 0, then epoch 1 on b2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from consensus.codec import block_of
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    NOTHING,
    BlockRecord,
    Broadcast,
    BuildPayload,
    CancelTimer,
    Commit,
    CommitRecord,
    Effect,
    EndEpoch,
    EngineEvent,
    EpochReady,
    EpochRecord,
    PayloadBuilt,
    PayloadVerdict,
    PeerConnected,
    Received,
    Record,
    Recovered,
    Refusal,
    SafetyRecord,
    Send,
    SetTimer,
    Sign,
    Signed,
    Status,
    Step,
    TimerFired,
)
from consensus.epoch_mail import KEPT_COUNT_MAX
from consensus.epochs import EpochChange, EpochInfo, first_epoch
from consensus.genesis import ChainSpec
from consensus.protocols.registry import protocol_named
from consensus.replica import Replica
from consensus.types import (
    EMPTY_PAYLOAD_ROOT,
    Block,
    BlockHeader,
    BlockId,
    CommitProof,
    Epoch,
    EpochEnd,
    ProposalSubject,
    RangeRequest,
    RangeResponse,
    StoredBlock,
    Vote,
)
from tests.support.committee import committee
from tests.support.hosts import members, peer, secret

FIRST = committee(4)
NEXT = members(FIRST.scheme, 1, 2, 3, 4)
TIMEOUT_NS = FIRST.spec.pacing.view_timeout_ms * 1_000_000
GENESIS = FIRST.epoch.genesis


def block(height: int, parent: BlockId, *, names: bytes = b"", epoch: int = 0) -> Block:
    justify = msgspec.structs.replace(GENESIS, block_id=parent, height=height - 1, view=height - 1)
    return block_of(
        BlockHeader(
            chain=FIRST.epoch.chain,
            epoch=epoch,
            view=height,
            height=height,
            parent=parent,
            justify=justify,
            entry_proof_hash=b"",
            payload_root=EMPTY_PAYLOAD_ROOT,
            payload_size=0,
            next_validators_hash=names,
            timestamp_ms=2_000 + height,
            proposer=0,
        )
    )


B1 = block(1, GENESIS.block_id)
B2 = block(2, B1.id, names=NEXT.hash)
B3 = block(3, B2.id)
PROOF = CommitProof(epoch=0, headers=(), certificate=msgspec.structs.replace(B3.header.justify, kind="vote"))
COMMIT_1 = Commit(block=B1, body=b"", proof=None)
COMMIT_2 = Commit(block=B2, body=b"", proof=PROOF)
READY = EpochReady(boundary=B2.id, validators=NEXT)
CHANGE = EpochChange(boundary=B2.header, validators=NEXT.validators, proof=PROOF)
END = EpochEnd(epoch=0, boundary=B2.header, proof=PROOF)


def stored(of: Block) -> StoredBlock:
    return StoredBlock(header=of.header, body=memoryview(b""))


def vote(epoch: Epoch, signer: int = 0, view: int = 1) -> Vote:
    return Vote(
        kind="vote",
        epoch=epoch,
        view=view,
        block_id=bytes(32),
        height=3,
        justify_view=0,
        signer=signer,
        signature=b"",
    )


class Script:
    """An engine that answers each event with the next of its ``steps``, and remembers what it was given."""

    def __init__(self, epoch: EpochInfo, me: int | None) -> None:
        self.epoch = epoch
        self.me = me
        self.steps: list[Step] = []
        self.given: list[EngineEvent | Recovered] = []
        self.blocks: dict[BlockId, StoredBlock] = {}
        self.height = epoch.genesis.height

    def start(self, recovered: Recovered, now: int) -> Step:
        self.given.append(recovered)
        return self._next()

    def handle(self, event: EngineEvent, now: int) -> Step:
        self.given.append(event)
        return self._next()

    def _next(self) -> Step:
        return self.steps.pop(0) if self.steps else NOTHING

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: Epoch) -> Refusal | None:
        return None if proof == PROOF and header in (B1.header, B2.header) else Refusal("not that")

    def block(self, block_id: BlockId) -> StoredBlock | None:
        return self.blocks.get(block_id)

    def status(self) -> Status:
        return Status(
            epoch=self.epoch.epoch,
            view=1,
            leader=0,
            committed_height=self.height,
            committed_view=0,
            seen_height=0,
            timeouts=0,
        )


class Stage:
    """A replica and the engines that it made. ``first`` and ``second`` are what those of epochs 0 and 1 do at their
    start."""

    def __init__(self, host: int = 1, first: Step = NOTHING, second: Step = NOTHING) -> None:
        self.engines: list[Script] = []
        self.now = 0
        self.first = [first, second]
        self.replica = Replica(
            engine=self._make,
            spec=FIRST.spec,
            scheme=FIRST.scheme,
            epoch=first_epoch(FIRST.spec, FIRST.epoch.validators),
            own_keys=(secret(FIRST.scheme, host).public_key,),
        )

    def _make(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: int | None) -> Script:
        engine = Script(epoch, me)
        engine.steps.append(self.first[epoch.epoch])
        self.engines.append(engine)
        return engine

    @property
    def engine(self) -> Script:
        return self.engines[-1]

    def start(self, recovered: Recovered | None = None) -> Step:
        step = self.replica.start(Recovered() if recovered is None else recovered, self.now)
        for host in range(5):
            self.replica.handle(PeerConnected(peer(host)), self.now)
        self.engine.given.clear()
        return step

    def does(self, records: Sequence[Record], *effects: Effect) -> Step:
        """What an event causes that makes the engine do that."""
        self.engine.steps.append(Step(tuple(records), effects))
        return self.replica.handle(PayloadVerdict(block_id=B2.id, certified=True, valid=True), self.now)

    def ends(self) -> Step:
        return self.does((CommitRecord(2, B2.id, PROOF),), COMMIT_1, COMMIT_2)

    def hear(self, host: int, message: msgspec.Struct) -> Step:
        return self.replica.handle(Received(peer(host), message), self.now)


def started(host: int = 1, second: Step = NOTHING) -> Stage:
    stage = Stage(host, second=second)
    stage.start()
    return stage


# --- the end of an epoch ---------------------------------------------------------------------------------------------


def test_the_end_follows_the_boundary_s_commit() -> None:
    step = started().ends()
    assert step == Step((CommitRecord(2, B2.id, PROOF),), (COMMIT_1, COMMIT_2, EndEpoch(B2)))


def test_after_the_boundary_only_what_was_said_goes_out() -> None:
    """What an engine wants to do in an epoch that is over is not done: a payload that it asked for could be taken for
    an answer to the next one."""
    stage = started()
    said = Broadcast(vote(0)), Send(peer(2), vote(0))
    build = BuildPayload(view=3, parent=B2.id, height=3, parent_timestamp_ms=1, path=(), deadline_ns=1)
    sign = Sign(ProposalSubject(epoch=0, view=3, block_id=B3.id))
    step = stage.does((), COMMIT_1, COMMIT_2, build, said[0], sign, SetTimer("view", 7), said[1])
    assert step.effects == (COMMIT_1, COMMIT_2, EndEpoch(B2), *said)


def test_an_engine_that_commits_above_the_boundary_is_our_bug() -> None:
    stage = started()
    with pytest.raises(RuntimeError, match="commits height 3 after its epoch ended"):
        stage.does((), COMMIT_1, COMMIT_2, Commit(block=B3, body=b"", proof=PROOF))


def test_a_boundary_without_a_proof_is_our_bug() -> None:
    with pytest.raises(RuntimeError, match="without its proof"):
        started().does((), COMMIT_1, Commit(block=B2, body=b"", proof=None))


def test_the_next_set_in_a_block_of_another_epoch_ends_nothing() -> None:
    """A ledger behind an epoch's beginning is given the old boundary again."""
    stage = started()
    stage.ends()
    stage.replica.handle(READY, 0)
    assert stage.does((), COMMIT_2).effects == (COMMIT_2,)


def test_between_two_epochs_the_engine_is_given_nothing() -> None:
    stage = started()
    stage.ends()
    stage.engine.given.clear()
    for event in (
        Signed(ProposalSubject(epoch=0, view=3, block_id=B3.id), b""),
        PayloadVerdict(block_id=B3.id, certified=False, valid=True),
        PayloadBuilt(view=3, parent=B2.id, payload_root=EMPTY_PAYLOAD_ROOT, body=b"", timestamp_ms=5_000),
        TimerFired("view"),
        PeerConnected(peer(4)),
        Received(peer(2), vote(1)),
    ):
        assert stage.replica.handle(event, 0) == NOTHING
    stage.hear(2, vote(0))
    assert stage.engine.given == []
    assert stage.replica.epoch.epoch == 0


def test_between_two_epochs_peers_are_served() -> None:
    stage = started()
    stage.ends()
    (load,) = stage.hear(3, RangeRequest(epoch=0, request_id=1, from_height=1)).effects
    assert getattr(load, "peer", None) == peer(3)


# --- the next one ----------------------------------------------------------------------------------------------------


def test_the_next_epoch_begins_in_one_step_with_its_record_first() -> None:
    record = SafetyRecord(kind="vote", subject=b"s", state=b"t")
    begun = Step((record,), (SetTimer("view", 9),))
    stage = started(second=begun)
    stage.does((), SetTimer("view", 5))
    stage.does((), SetTimer("wait", 6))
    stage.ends()
    step = stage.replica.handle(READY, 3)
    assert step.records == (EpochRecord(CHANGE), record)
    assert step.effects == (CancelTimer("view"), CancelTimer("wait"), SetTimer("view", 9))
    assert (stage.replica.epoch.epoch, stage.replica.epoch.validators.hash) == (1, NEXT.hash)
    assert stage.engine.given == [Recovered(committed_height=2, committed_id=B2.id)]
    assert stage.engine.epoch.genesis.block_id == B2.id


def test_a_timer_that_fired_is_not_cancelled() -> None:
    stage = started()
    stage.does((), SetTimer("view", 5), SetTimer("wait", 6))
    stage.replica.handle(TimerFired("view"), 5)
    stage.ends()
    assert stage.replica.handle(READY, 6).effects == (CancelTimer("wait"),)


@pytest.mark.parametrize(("host", "before", "after"), [(0, 0, None), (1, 1, 0), (4, None, 3)])
def test_the_own_place_is_that_of_the_own_key_in_each_set(host: int, before: int | None, after: int | None) -> None:
    stage = started(host)
    assert (stage.replica.me, stage.engine.me) == (before, before)
    stage.ends()
    stage.replica.handle(READY, 0)
    assert (stage.replica.me, stage.engine.me) == (after, after)


def test_what_the_old_epoch_asked_for_is_not_taken_by_the_new_one() -> None:
    stage = started()
    stage.ends()
    stage.replica.handle(READY, 0)
    stage.engine.given.clear()
    assert stage.replica.handle(Signed(ProposalSubject(epoch=0, view=3, block_id=B3.id), b""), 0) == NOTHING
    assert stage.engine.given == []


def test_an_answer_that_nobody_asked_for_is_our_bug() -> None:
    stage = started()
    with pytest.raises(RuntimeError, match="no epoch ended"):
        stage.replica.handle(READY, 0)
    stage.ends()
    with pytest.raises(RuntimeError, match="no epoch ended"):
        stage.replica.handle(EpochReady(boundary=B1.id, validators=NEXT), 0)
    with pytest.raises(RuntimeError, match="names other validators"):
        stage.replica.handle(EpochReady(boundary=B2.id, validators=FIRST.epoch.validators), 0)
    stage.replica.handle(READY, 0)
    with pytest.raises(RuntimeError, match="no epoch ended"):
        stage.replica.handle(READY, 0)


def test_an_epoch_may_end_with_what_came_for_it_too_early() -> None:
    """Its first block is its boundary: the rest of what was kept is of an epoch that is over."""
    stage = started()
    stage.ends()
    early = [vote(1, view=view) for view in (1, 2, 3)]
    for message in early:
        stage.hear(2, message)
    third = block(3, B2.id, names=FIRST.epoch.validators.hash, epoch=1)
    commit = Commit(block=third, body=b"", proof=msgspec.structs.replace(PROOF, epoch=1))
    made = stage._make

    def make(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: int | None) -> Script:
        engine = made(spec=spec, epoch=epoch, scheme=scheme, me=me)
        engine.steps += [NOTHING, Step((), (commit,))]
        return engine

    stage.replica._factory = make
    step = stage.replica.handle(READY, 0)
    assert step.effects == (commit, EndEpoch(third))
    assert stage.engine.given[1:] == [Received(peer(2), message) for message in early[:2]]


# --- messages of other epochs ----------------------------------------------------------------------------------------


def test_what_comes_for_the_next_epoch_is_kept_in_the_order_of_arrival() -> None:
    stage = started()
    early = [Received(peer(host), vote(1, signer=host)) for host in (3, 2, 3)]
    stage.replica.handle(early[0], 0)
    stage.ends()
    for event in early[1:]:
        stage.replica.handle(event, 0)
    stage.replica.handle(READY, 0)
    assert stage.engine.given[1:] == early
    stage.engine.given.clear()
    stage.hear(2, vote(1))
    assert stage.engine.given == [Received(peer(2), vote(1))], "and from now on it is of this epoch"


def test_of_each_peer_a_bounded_count_is_kept() -> None:
    stage = started()
    for number in range(KEPT_COUNT_MAX + 5):
        stage.hear(2, vote(1, view=number))
    stage.hear(3, vote(1, view=7))
    stage.ends()
    stage.replica.handle(READY, 0)
    kept = [event for event in stage.engine.given if isinstance(event, Received)]
    assert [event.peer for event in kept] == [peer(2)] * KEPT_COUNT_MAX + [peer(3)]


def test_what_is_of_a_later_epoch_still_is_not_kept() -> None:
    stage = started()
    stage.hear(2, vote(2))
    stage.ends()
    stage.replica.handle(READY, 0)
    assert not any(isinstance(event, Received) for event in stage.engine.given)


def test_a_message_or_subject_without_an_epoch_is_refused_where_it_is_declared() -> None:
    class Timeless(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=9):
        view: int

    definition = protocol_named("jolteon")
    with pytest.raises(ValueError, match="protocol 'jolteon': Timeless has no field 'epoch'"):
        replace(definition, messages=(*definition.messages, Timeless))
    with pytest.raises(ValueError, match="protocol 'jolteon': Timeless has no field 'epoch'"):
        replace(definition, subjects=(*definition.subjects, Timeless))


def test_who_is_late_is_told_once_in_a_while() -> None:
    stage = started()
    stage.ends()
    assert stage.hear(2, vote(0)).effects == (Send(peer(2), END),)
    assert stage.hear(2, vote(0)).effects == ()
    assert stage.hear(3, vote(0)).effects == (Send(peer(3), END),)
    stage.replica.handle(READY, 0)
    stage.now = TIMEOUT_NS - 1
    assert stage.hear(2, vote(0)).effects == ()
    stage.now += 1
    assert stage.hear(2, vote(0)).effects == (Send(peer(2), END),)


def test_nobody_is_told_in_the_first_epoch() -> None:
    assert started().hear(2, vote(0)) == NOTHING


def test_a_told_replica_that_holds_the_boundary_commits_by_the_proof() -> None:
    stage = started()
    stage.engine.blocks[B2.id] = stored(B2)
    stage.hear(3, END)
    (fetched,) = stage.engine.given
    assert (getattr(fetched, "proof", None), getattr(fetched, "blocks", None)) == (PROOF, ((B2, memoryview(b"")),))


def test_a_told_replica_that_does_not_asks_who_told_it() -> None:
    stage = started()
    sends = [effect for effect in stage.hear(3, END).effects if isinstance(effect, Send)]
    assert [(send.peer, type(send.message)) for send in sends] == [(peer(3), RangeRequest)]


@pytest.mark.parametrize(
    "forged",
    [
        msgspec.structs.replace(END, boundary=B1.header),
        msgspec.structs.replace(END, boundary=block(2, B1.id, names=bytes(32)).header),
        msgspec.structs.replace(END, boundary=B3.header),
        msgspec.structs.replace(END, proof=msgspec.structs.replace(PROOF, headers=(B3.header,))),
        msgspec.structs.replace(END, boundary=msgspec.structs.replace(B2.header, chain=bytes(32))),
    ],
)
def test_a_false_end_is_refused_with_its_sender_named(forged: EpochEnd) -> None:
    stage = started()
    (reject,) = stage.hear(3, forged).effects
    assert getattr(reject, "peer", None) == peer(3)
    assert getattr(reject, "reason", "").startswith("epoch end: ")
    assert stage.engine.given == []


def test_who_is_ahead_is_asked_for_range_after_range_and_epoch_after_epoch() -> None:
    stage = started()

    def asked(step: Step) -> list[tuple[int, int]]:
        sends = [effect for effect in step.effects if isinstance(effect, Send)]
        assert {send.peer for send in sends} <= {peer(2)}
        return [
            (send.message.epoch, send.message.from_height) for send in sends if isinstance(send.message, RangeRequest)
        ]

    step = stage.hear(2, vote(3))
    assert asked(step) == [(0, 1)]
    assert stage.hear(2, vote(3)) == NOTHING
    (request,) = [effect.message for effect in step.effects if isinstance(effect, Send)]
    assert isinstance(request, RangeRequest)
    stage.hear(
        2,
        RangeResponse(
            epoch=0, request_id=request.request_id, blocks=(stored(B1),), proof=PROOF, pruned_below=1, head=9
        ),
    )
    stage.engine.height = 1
    assert asked(stage.does((), COMMIT_1)) == [(0, 2)]
    stage.does((), COMMIT_2)
    assert asked(stage.replica.handle(READY, 0)) == [(1, 3)]


# --- restarts --------------------------------------------------------------------------------------------------------


def test_a_crash_between_commit_and_record_ends_the_epoch_again() -> None:
    """With the boundary in the ledger, and without."""
    for commits in ((), ((stored(B2), PROOF),)):
        again = tuple(Commit(block=B2, body=memoryview(b""), proof=PROOF) for _ in commits)
        stage = Stage(first=Step((), again))
        recovered = Recovered(
            blocks=(stored(B3), stored(B2)), committed_height=2, committed_id=B2.id, head_proof=PROOF, commits=commits
        )
        assert stage.start(recovered).effects == (*again, EndEpoch(B2))
        assert stage.replica.handle(READY, 0).records == (EpochRecord(CHANGE),)


def test_a_crash_after_the_record_finds_the_new_epoch() -> None:
    stage = Stage(host=4)
    recovered = Recovered(
        blocks=(stored(B2),), committed_height=2, committed_id=B2.id, head_proof=PROOF, epoch_change=CHANGE
    )
    assert stage.start(recovered) == NOTHING
    assert (stage.replica.epoch.epoch, stage.replica.me) == (1, 3)
    assert stage.hear(2, vote(0)).effects == (Send(peer(2), END),)


def test_a_journal_with_other_validators_than_the_boundary_names_is_refused() -> None:
    change = msgspec.structs.replace(CHANGE, validators=FIRST.epoch.validators.validators)
    with pytest.raises(ValueError, match="the boundary at height 2 names validators"):
        Stage().start(Recovered(committed_height=2, committed_id=B2.id, epoch_change=change))


def test_a_start_that_commits_the_boundary_ends_the_epoch() -> None:
    stage = Stage(first=Step((BlockRecord(B2, b""),), (COMMIT_1, COMMIT_2)))
    assert stage.start().effects == (COMMIT_1, COMMIT_2, EndEpoch(B2))
