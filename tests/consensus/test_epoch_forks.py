"""A whole old set that is faulty signs on after its epoch::

    b1 <- b2 <- b3 (names the next validators) <- c4 <- c5        closing blocks, honest
                                               <- x4 <- x5 <- x6   with the old set's certificates: no closing blocks

Whoever hears of it commits b3 and nothing above, whether it was behind, at the boundary, or in the next epoch. (That a
fork below the boundary stays possible for a faulty quorum is another matter: evidence and finality.)
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import digest
from consensus.crypto.registry import scheme_named
from consensus.engine import (
    CheckPayload,
    Commit,
    EndEpoch,
    EpochReady,
    Event,
    PayloadVerdict,
    PeerConnected,
    Received,
    Recovered,
    Reject,
    Send,
    Step,
)
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.replica import Replica
from consensus.types import (
    EMPTY_PAYLOAD_ROOT,
    BlockHeader,
    CommitProof,
    EpochEnd,
    RangeRequest,
    RangeResponse,
    StoredBlock,
    Vote,
)
from consensus.validators import ValidatorSet
from tests.support.epoch_chain import EpochChain, epoch_chain

replace = msgspec.structs.replace
LIAR = b"l" * 32
KINDS = {"simplex": ("notarize", "finalize"), "tendermint": ("precommit", "precommit")}
"""What certifies a block, and what commits one, where that is not a vote."""
ABOVE = {"simplex": 0, "tendermint": 0, "hotstuff": 2}
"""Descendants in the proof of a block, where that is not one."""


def world(protocol: str) -> EpochChain:
    return epoch_chain([(0, 1, 2, 3), (4, 5, 6, 7)], lengths=(3, 3), protocol=protocol, scheme="simulated")


def stolen(chain: EpochChain) -> tuple[tuple[BlockHeader, ...], CommitProof]:
    """x4 and what stands on it, and the proof of x4."""
    era, protocol = chain.eras[0], chain.spec.protocol
    certifies, commits = KINDS.get(protocol, ("vote", "vote"))
    headers: list[BlockHeader] = []
    above = era.blocks[-1]
    for _ in range(1 + ABOVE.get(protocol, 1)):
        header = replace(
            above,
            view=above.view + era.blocks[-1].view - era.blocks[-2].view,
            height=above.height + 1,
            parent=digest(above),
            justify=era.certify(above, certifies),
            payload_root=EMPTY_PAYLOAD_ROOT,
            next_validators_hash=b"",
            timestamp_ms=above.timestamp_ms + 5,
            proposer=(above.proposer + 1) % 4,
        )
        headers.append(header)
        above = header
    return tuple(headers), CommitProof(
        epoch=0, headers=tuple(headers[1:]), certificate=era.certify(headers[-1], commits)
    )


class Observer:
    """A replica that signs nothing; its payload source finds every body good."""

    def __init__(self, chain: EpochChain) -> None:
        self.chain = chain
        definition = protocol_named(chain.spec.protocol)
        self.replica = Replica(
            engine=definition.engine,
            spec=chain.spec,
            scheme=scheme_named("simulated", allow_simulated=True),
            epoch=chain.eras[0].info,
            own_keys=(),
        )
        self.commits: list[int] = []
        self.ended: list[bytes] = []
        self.rejects: list[Reject] = []
        self.asked: list[RangeRequest] = []
        self.do(self.replica.start(Recovered(), 0))
        self.feed(PeerConnected(LIAR))

    def feed(self, event: Event) -> None:
        self.do(self.replica.handle(event, 0))

    def do(self, step: Step) -> None:
        for effect in step.effects:
            match effect:
                case Commit(block=block):
                    self.commits.append(block.header.height)
                case EndEpoch(boundary):
                    self.ended.append(boundary.id)
                case Reject():
                    self.rejects.append(effect)
                case Send(message=RangeRequest() as request):
                    self.asked.append(request)
                case CheckPayload(block=block, certified=certified):
                    self.feed(PayloadVerdict(block_id=block.id, certified=certified, valid=True))
                case _:
                    pass

    def answer(self, headers: tuple[BlockHeader, ...], proof: CommitProof, claimed: int) -> None:
        """The liar says that it is ahead, is asked, and answers with these."""
        vote = Vote(
            kind="vote",
            epoch=claimed,
            view=1,
            block_id=bytes(32),
            height=1,
            justify_view=0,
            signer=0,
            signature=b"",
        )
        self.feed(Received(LIAR, vote))
        self.feed(
            Received(
                LIAR,
                RangeResponse(
                    epoch=self.asked[-1].epoch,
                    request_id=self.asked[-1].request_id,
                    blocks=tuple(StoredBlock(header=header, body=memoryview(b"")) for header in headers),
                    proof=proof,
                    pruned_below=1,
                    head=99,
                ),
            )
        )

    def go_on(self) -> None:
        """The next epoch begins."""
        boundary = self.chain.eras[0].blocks[-1]
        self.feed(
            EpochReady(
                boundary=digest(boundary), validators=ValidatorSet(self.chain.eras[1].info.validators.validators)
            )
        )


@pytest.mark.parametrize("protocol", protocol_names())
def test_who_is_behind_commits_up_to_the_boundary_and_no_further(protocol: str) -> None:
    chain = world(protocol)
    headers, proof = stolen(chain)
    observer = Observer(chain)
    assert observer.replica.verify_commit(proof, headers[0], 0) is None, "the certificates are good"
    observer.answer((*chain.eras[0].blocks, headers[0]), proof, claimed=9)
    assert observer.commits == [1, 2, 3]
    assert observer.ended == [digest(chain.eras[0].blocks[-1])]


@pytest.mark.parametrize("protocol", protocol_names())
def test_who_is_past_the_boundary_takes_nothing_from_the_old_set(protocol: str) -> None:
    chain = world(protocol)
    headers, proof = stolen(chain)
    observer = Observer(chain)
    observer.answer(chain.eras[0].blocks, chain.at(3)[1], claimed=9)
    assert observer.commits == [1, 2, 3]
    observer.feed(Received(LIAR, EpochEnd(epoch=0, boundary=headers[0], proof=proof)))
    observer.go_on()
    assert observer.replica.epoch.epoch == 1
    observer.feed(Received(LIAR, EpochEnd(epoch=0, boundary=headers[0], proof=proof)))
    assert observer.rejects == []
    observer.answer((headers[0],), proof, claimed=9)
    assert [reject.reason for reject in observer.rejects] == ["sync: a block of another epoch than 1"]
    renamed = tuple(replace(header, epoch=1) for header in headers)
    observer.answer(renamed[:1], replace(proof, epoch=1, headers=renamed[1:]), claimed=9)
    assert [reject.peer for reject in observer.rejects] == [LIAR, LIAR]
    assert observer.commits == [1, 2, 3]
    assert observer.replica.status().committed_height == 3
    blocks = chain.eras[1].blocks
    observer.answer(blocks[:1], chain.at(4)[1], claimed=9)
    assert observer.commits == [1, 2, 3, 4], "the new set's block stands there"
