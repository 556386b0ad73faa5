"""Finality beside an engine that says what the test tells it to: what reaches whom, and in which step. A checkpoint at
every block.

::

    b1 <- b2 (names the next validators)        epoch 0, then epoch 1 on b2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from consensus.codec import encode
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    NOTHING,
    BlocksFetched,
    Broadcast,
    Commit,
    CommitRecord,
    EndEpoch,
    EpochRecord,
    Finalize,
    LinkRecord,
    OfferLinks,
    PayloadVerdict,
    PeerConnected,
    Received,
    Record,
    Recovered,
    Reject,
    SafetyRecord,
    Send,
    Sign,
    Signed,
    Step,
)
from consensus.epochs import EpochInfo
from consensus.finality.types import Checkpoint, FfgVote, FfgVoteSubject, LinkCertificate
from consensus.finality.weak_subjectivity import UntrustedChain
from consensus.genesis import ChainSpec
from consensus.replica import Replica
from consensus.types import Block, RangeRequest, RangeResponse
from tests.consensus.test_replica_epochs import (
    B1,
    B2,
    CHANGE,
    COMMIT_1,
    COMMIT_2,
    FIRST,
    PROOF,
    READY,
    Script,
    stored,
    vote,
)
from tests.support.hosts import peer, secret

SPEC = msgspec.structs.replace(FIRST.spec, checkpoint_interval=1)
ROOT = Checkpoint(height=0, id=FIRST.epoch.genesis.block_id)
ONE, TWO = Checkpoint(height=1, id=B1.id), Checkpoint(height=2, id=B2.id)
OTHER = Checkpoint(height=1, id=bytes(32))


class Stage:
    """A replica of host 1 with finality. ``carried`` are the certificates in blocks."""

    def __init__(self, *, finality: bool = True, trusted: Checkpoint | None = None) -> None:
        self.engines: list[Script] = []
        self.carried: dict[bytes, Sequence[LinkCertificate]] = {}
        self.replica = Replica(
            engine=self._make,
            spec=SPEC,
            scheme=FIRST.scheme,
            epoch=FIRST.epoch,
            own_keys=(secret(FIRST.scheme, 1).public_key,),
            link_certificates=self._carried if finality else None,
            trusted=trusted,
        )

    def _make(self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: int | None) -> Script:
        self.engines.append(Script(epoch, me))
        return self.engines[-1]

    def _carried(self, block: Block, body: bytes | memoryview) -> Sequence[LinkCertificate]:
        return self.carried.get(block.id, ())

    def start(self, recovered: Recovered | None = None) -> Step:
        return self.replica.start(Recovered() if recovered is None else recovered, 0)

    def commits(self, *commits: Commit) -> Step:
        """What an event causes that makes the engine commit."""
        records: list[Record] = [CommitRecord(each.block.header.height, each.block.id, each.proof) for each in commits]
        self.engines[-1].steps.append(Step(tuple(records), commits))
        return self.replica.handle(PayloadVerdict(block_id=B2.id, certified=True, valid=True), 0)

    def vote(self, host: int, source: Checkpoint, target: Checkpoint, epoch: int = 0) -> FfgVote:
        info = self.replica.epoch if epoch == self.replica.epoch.epoch else FIRST.epoch
        subject = FfgVoteSubject(epoch=epoch, source=source, target=target)
        key = secret(FIRST.scheme, host)
        return FfgVote(
            epoch=epoch,
            source=source,
            target=target,
            signer=info.validators.public_keys.index(key.public_key),
            signature=key.sign(info.domain.bytes_to_sign(subject)),
        )

    def hear(self, host: int, heard: FfgVote) -> Step:
        return self.replica.handle(Received(peer(host), heard), 0)


def started(**arguments: Any) -> Stage:
    stage = Stage(**arguments)
    stage.start()
    for engine in stage.engines:
        engine.given.clear()
    return stage


def ffg_record(step: Step) -> SafetyRecord:
    (record,) = [record for record in step.records if isinstance(record, SafetyRecord) and record.kind == "ffg"]
    return record


def test_a_commit_is_voted_on_in_its_own_step_and_with_its_own_records() -> None:
    """One transaction holds the commit and where finality stands: a crash finds both or neither."""
    step = started().commits(COMMIT_1)
    subject = FfgVoteSubject(epoch=0, source=ROOT, target=ONE)
    assert step.effects == (COMMIT_1, Sign(subject))
    assert step.records[0] == CommitRecord(1, B1.id, None)
    assert ffg_record(step).subject == encode(subject)


def test_votes_and_their_signatures_never_reach_the_engine() -> None:
    stage = started()
    stage.commits(COMMIT_1)
    stage.engines[-1].given.clear()
    own = stage.vote(1, ROOT, ONE)
    assert stage.replica.handle(Signed(own.subject, own.signature), 0) == Step((), (Broadcast(own),))
    assert stage.hear(2, stage.vote(2, ROOT, ONE)) == NOTHING
    assert stage.hear(0, stage.vote(0, ROOT, ONE)) != NOTHING
    forged = msgspec.structs.replace(stage.vote(3, ROOT, ONE), signer=2)
    assert [type(effect) for effect in stage.hear(3, forged).effects] == [Reject]
    assert stage.engines[-1].given == []
    assert Send(peer(4), own) in stage.replica.handle(PeerConnected(peer(4)), 0).effects


def test_the_engine_is_not_given_finality_s_record() -> None:
    record = ffg_record(started().commits(COMMIT_1))
    other = SafetyRecord(kind="vote", subject=b"s", state=b"t")
    stage = Stage()
    recovered = Recovered(
        safety=(record, other), blocks=(stored(B1),), committed_height=1, committed_id=B1.id, head_proof=PROOF
    )
    step = stage.start(recovered)
    assert stage.engines[-1].given == [msgspec.structs.replace(recovered, safety=(other,))]
    assert step.effects == (Sign(FfgVoteSubject(epoch=0, source=ROOT, target=ONE)),), "between vote and send: again"


def test_certificates_of_a_committed_block_count() -> None:
    stage = started()
    stage.commits(COMMIT_1)
    steps = [stage.hear(host, stage.vote(host, ROOT, ONE)) for host in (0, 2, 3)]
    (offer,) = [effect for effect in steps[-1].effects if isinstance(effect, OfferLinks)]
    (record,) = steps[-1].records
    assert record == LinkRecord(offer.certificates[0])
    stage.carried[B2.id] = offer.certificates
    step = stage.commits(COMMIT_2)
    assert OfferLinks(()) in step.effects
    assert Sign(FfgVoteSubject(epoch=0, source=ONE, target=TWO)) in step.effects
    finals = [
        effect
        for host in (0, 2, 3)
        for effect in stage.hear(host, stage.vote(host, ONE, TWO)).effects
        if isinstance(effect, Finalize)
    ]
    assert finals == [Finalize(checkpoint=ONE)]


def test_without_finality_a_vote_is_refused_and_commits_are_left_alone() -> None:
    stage = started(finality=False)
    assert stage.commits(COMMIT_1).effects == (COMMIT_1,)
    (effect,) = stage.hear(2, stage.vote(2, ROOT, ONE)).effects
    assert effect == Reject(peer(2), "finality vote: this chain has no checkpoints")
    assert stage.replica.check_link(LinkCertificate(source=ROOT, target=ONE, groups=())) is not None


def test_finality_goes_on_into_the_next_epoch() -> None:
    stage = started()
    step = stage.commits(COMMIT_1, COMMIT_2)
    assert EndEpoch(B2) in step.effects
    step = stage.replica.handle(READY, 0)
    assert step.records[0] == EpochRecord(CHANGE)
    assert ffg_record(step).kind == "ffg", "what it remembers of the old epoch's votes stands after that record"
    finality = stage.replica.finality
    assert finality is not None
    assert [info.epoch for info in finality.epochs] == [0, 1]
    late = stage.vote(3, ROOT, TWO)
    assert stage.hear(3, late) == NOTHING, "a vote of the old epoch still counts"
    own = FfgVoteSubject(epoch=0, source=ROOT, target=TWO)
    signing = stage.replica.signing(own)
    assert signing == (secret(FIRST.scheme, 1).public_key, FIRST.epoch.domain), "and is signed under it"


def test_a_commit_that_contradicts_the_trusted_block_stops_the_node() -> None:
    stage = started(trusted=OTHER)
    with pytest.raises(
        UntrustedChain, match=rf"committed {B1.id.hex()} at height 1, where the trusted checkpoint is 00"
    ):
        stage.commits(COMMIT_1)
    assert started(trusted=ONE).commits(COMMIT_1).effects[0] == COMMIT_1


@pytest.mark.parametrize("trusted", [ONE, OTHER])
def test_a_peer_whose_blocks_contradict_the_trusted_block_is_named(trusted: Checkpoint) -> None:
    stage = started(trusted=trusted)
    for host in (2, 3):
        stage.replica.handle(PeerConnected(peer(host)), 0)
    stage.engines[-1].given.clear()
    asked = stage.replica.handle(Received(peer(2), vote(2)), 0)  # of an epoch ahead: asked for a range
    (request,) = [effect for effect in asked.effects if isinstance(effect, Send)]
    assert isinstance(request.message, RangeRequest)
    answer = RangeResponse(
        epoch=0,
        request_id=request.message.request_id,
        blocks=(stored(B1), stored(B2)),
        proof=PROOF,
        pruned_below=1,
        head=2,
    )
    step = stage.replica.handle(Received(request.peer, answer), 0)
    fetched = [event for event in stage.engines[-1].given if isinstance(event, BlocksFetched)]
    if trusted == ONE:
        assert len(fetched) == 1
        return
    assert fetched == []
    (rejected,) = [effect for effect in step.effects if isinstance(effect, Reject)]
    assert rejected.peer == request.peer
    assert f"at height 1 it has {B1.id.hex()}, the trusted checkpoint is 00" in rejected.reason
