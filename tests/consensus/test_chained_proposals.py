"""The engine fed by hand: which proposals it takes, and which it refuses by name.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on; the replica under test is validator 3.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import msgspec
import pytest

from consensus.codec import digest
from consensus.crypto.scheme import Scheme
from consensus.engine import CheckPayload, FetchBlocks, Received, Reject, ReportEvidence
from consensus.protocols import proposal_checks
from consensus.protocols.chained_types import Certificates, Proposal
from consensus.protocols.proposal_checks import FIRST_PROPOSALS_KEPT
from consensus.types import EMPTY_PAYLOAD_ROOT, Block, Vote
from tests.consensus.test_vote_tally import CountingScheme
from tests.support.chain import CHAINED_NAMES, Alone, Chain, Happened, grow
from tests.support.committee import committee

replace = msgspec.structs.replace
every_protocol = pytest.mark.parametrize("protocol", CHAINED_NAMES)


def setting(protocol: str) -> tuple[Chain, Alone]:
    members = committee(protocol=protocol)
    return Chain(members), Alone(members, me=3)


def refused(happened: Happened, peer: bytes) -> str:
    """The reason for which this peer, and nobody else, was refused; nothing was signed."""
    rejects = happened.of(Reject)
    assert [reject.peer for reject in rejects] == [peer]
    assert not happened.signed
    return rejects[0].reason


@every_protocol
def test_the_leaders_block_is_voted_for_once(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1, body=b"payload")
    happened = alone.hear(chain.proposal(b1))
    assert happened.sent(Vote) == [chain.vote(b1, 3)]
    assert not alone.hear(chain.proposal(b1)).effects
    assert alone.time_out().signed, "the view can still be given up"


@every_protocol
def test_what_is_known_or_below_the_committed_head_costs_no_verification(protocol: str) -> None:
    members = committee(protocol=protocol)
    scheme = CountingScheme(members.scheme)
    chain = Chain(members)
    alone = Alone(dataclasses.replace(members, scheme=cast("Scheme", scheme)), me=3)
    blocks = [chain.block(1)]
    for view in (2, 3):
        blocks.append(chain.block(view, on=blocks[-1]))
    grow(chain, alone, *blocks)
    assert alone.committed >= 1
    rival = chain.block(1, timestamp_ms=2_000)
    before = scheme.verified
    for block in (*blocks, rival):
        assert not alone.hear(chain.proposal(block)).effects
    assert scheme.verified == before


@every_protocol
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain": bytes(32)}, "of another chain"),
        ({"epoch": 1}, "of another epoch"),
        ({"parent": bytes(32)}, "the block does not follow from its certificate"),
        ({"height": 2}, "the block does not follow from its certificate"),
        ({"height": 4}, "the block does not follow from its certificate"),
        ({"view": 2, "proposer": 1}, "the block does not follow from its certificate"),
        ({"view": 1, "proposer": 0}, "the block does not follow from its certificate"),
        ({"next_validators_hash": bytes(31)}, "names validators by a hash of 31 bytes"),
        ({"entry_proof_hash": bytes(32)}, "carries an entry proof that it does not need"),
        ({"view": 7}, "carries no proof that the view before was given up"),
        ({"payload_size": 1}, "a body of 0 bytes where the header says 1"),
        ({"payload_root": b"r" * 32}, "the empty payload and its root go together"),
    ],
)
def test_a_header_that_cannot_be_is_refused(protocol: str, changes: dict[str, object], reason: str) -> None:
    """::

    genesis <- b1 <- b2 <- b3        b3 with one field changed, signed by its leader
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    grow(chain, alone, b1, b2)
    forged = chain.like(chain.block(3, on=b2), **changes)
    proposer = forged.header.proposer
    happened = alone.hear(replace(chain.proposal(replaced_epoch(chain, forged)), header=forged.header))
    assert refused(happened, alone.committee.peer(proposer)) == f"proposal: {reason}"
    assert alone.view == 3
    assert alone.hear(chain.proposal(chain.block(3, on=b2))).signed, "the honest one is still welcome"


def replaced_epoch(chain: Chain, block: Block) -> Block:
    """Nothing is signed for another epoch than the domain's."""
    return block if block.header.epoch == 0 else chain.like(block, epoch=0)


@every_protocol
def test_message_certificate_and_header_are_of_one_epoch(protocol: str) -> None:
    chain, alone = setting(protocol)
    proposal = chain.proposal(chain.block(1))
    assert refused(alone.hear(replace(proposal, epoch=1)), alone.committee.peer(0)) == "proposal: of another epoch"
    justify = replace(chain.genesis, epoch=1)
    other = replace(proposal, header=replace(proposal.header, justify=justify))
    assert refused(alone.hear(other), alone.committee.peer(0)) == "proposal: of another epoch"


@every_protocol
def test_only_the_views_leader_proposes(protocol: str) -> None:
    chain, alone = setting(protocol)
    usurped = chain.like(chain.block(1), proposer=2)
    happened = alone.hear(chain.proposal(usurped))
    assert refused(happened, alone.committee.peer(2)) == "proposal: validator 2 does not lead view 1"


@every_protocol
def test_a_proposal_is_signed_by_its_leader(protocol: str) -> None:
    chain, alone = setting(protocol)
    forged = chain.proposal(chain.block(1), signer=2)
    happened = alone.hear(forged, peer=0)
    assert refused(happened, alone.committee.peer(0)) == "proposal: the signature is not its leader's"


@every_protocol
def test_a_proposal_is_taken_from_its_leader_only(protocol: str) -> None:
    """The body is not signed: whoever passes a proposal on could change it, spoil the leader's block and have him
    named for it."""
    chain, alone = setting(protocol)
    b1 = chain.block(1, body=b"good")
    happened = alone.hear(chain.proposal(b1, body=b"evil"), peer=2)
    assert refused(happened, alone.committee.peer(2)) == "proposal: of validator 0, who is not this peer"
    assert alone.hear(chain.proposal(b1)).sent(Vote) == [chain.vote(b1, 3)]


@every_protocol
def test_bodies_have_the_size_and_root_of_the_header(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1, body=b"body")
    happened = alone.hear(chain.proposal(b1, body=b"longer body"))
    assert refused(happened, alone.committee.peer(0)) == "proposal: a body of 11 bytes where the header says 4"
    rootless = chain.like(b1, payload_root=EMPTY_PAYLOAD_ROOT)
    happened = alone.hear(chain.proposal(rootless))
    assert refused(happened, alone.committee.peer(0)) == "proposal: the empty payload and its root go together"


@every_protocol
def test_the_chains_cap_on_payloads(protocol: str) -> None:
    chain, alone = setting(protocol)
    size_max = chain.committee.spec.payload_size_max
    assert alone.hear(chain.proposal(chain.block(1, body=bytes(size_max)))).signed
    chain, alone = setting(protocol)
    happened = alone.hear(chain.proposal(chain.block(1, body=bytes(size_max + 1))))
    assert "bytes where the header says" in refused(happened, alone.committee.peer(0))


# --- entitlement to a view -----------------------------------------------------------------------------------------


@every_protocol
def test_a_view_is_entered_by_a_timeout_certificate_in_the_block(protocol: str) -> None:
    """::

    genesis <- b3        TC(2) travels with the block: the replica goes from view 1 to 3 and votes
    """
    chain, alone = setting(protocol)
    b3 = chain.block(3)
    assert alone.hear(chain.proposal(b3)).sent(Vote) == [chain.vote(b3, 3)]
    assert alone.view == 3


@every_protocol
def test_the_header_names_the_timeout_certificate_that_comes_with_it(protocol: str) -> None:
    chain, alone = setting(protocol)
    b3 = chain.block(3)
    named = chain.proof(b3)
    assert named is not None
    other = chain.tc(2, [chain.genesis] * 4)
    assert digest(other) != digest(named)
    for proof in (other, None, chain.tc(1, [chain.genesis] * 3), chain.tc(3, [chain.genesis] * 3)):
        happened = alone.hear(replace(chain.proposal(b3), entry_proof=proof))
        reason = refused(happened, alone.committee.peer(2))
        assert reason == "proposal: carries no proof that the view before was given up"
    of_view_one = chain.tc(1, [chain.genesis] * 3)
    misdated = chain.block(3, tc=of_view_one)
    happened = alone.hear(chain.proposal(misdated))
    assert refused(happened, alone.committee.peer(2)) == "proposal: carries no proof that the view before was given up"
    assert alone.view == 1


@every_protocol
def test_an_entry_proof_where_none_is_needed_is_refused(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    unneeded = chain.tc(1, [chain.genesis] * 3)
    proposal = chain.proposal(chain.block(2, on=b1))
    happened = alone.hear(replace(proposal, entry_proof=unneeded))
    assert refused(happened, alone.committee.peer(1)) == "proposal: carries an entry proof that it does not need"
    happened = alone.hear(chain.proposal(chain.block(2, on=b1, tc=unneeded)))
    assert refused(happened, alone.committee.peer(1)) == "proposal: carries an entry proof that it does not need"


@every_protocol
def test_certificates_inside_a_proposal_are_verified(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    forged = replace(chain.qc(b1), signature=bytes(32))
    happened = alone.hear(chain.proposal(chain.block(2, on=forged)))
    assert refused(happened, alone.committee.peer(1)) == "proposal: certificate: the signatures do not verify"
    weak = chain.tc(2, [chain.genesis] * 2)
    happened = alone.hear(chain.proposal(chain.block(3, tc=weak)))
    assert refused(happened, alone.committee.peer(2)) == "proposal: signers: stake 2 is below the quorum of 3"
    assert alone.view == 1


def test_jolteon_refuses_a_timeout_certificate_that_hides_its_highest() -> None:
    """Mutant J1::

    genesis <- b1 <-QC-        one of TC(2)'s quorum signed that it knows QC(b1); its collector shows genesis instead
           \\- c3
    """
    chain, alone = setting("jolteon")
    b1 = chain.block(1)
    honest = chain.tc(2, [chain.qc(b1), chain.genesis, chain.genesis])
    hiding = replace(honest, high_qc=chain.genesis)
    happened = alone.hear(chain.proposal(chain.block(3, tc=hiding)))
    reason = "timeout certificate: its high certificate is not the highest that was signed"
    assert refused(happened, alone.committee.peer(2)) == f"proposal: {reason}"
    happened = alone.hear(chain.proposal(chain.block(3, tc=honest)))
    assert not happened.signed, "well formed, but below what its quorum had seen"


@every_protocol
def test_nothing_but_the_genesis_certificate_justifies_the_first_block(protocol: str) -> None:
    chain, alone = setting(protocol)
    altered = replace(chain.genesis, signature=bytes(32))
    happened = alone.hear(chain.proposal(chain.block(1, on=altered)))
    boundary = "certificate: names the epoch's boundary but is not its genesis certificate"
    assert refused(happened, alone.committee.peer(0)) == f"proposal: {boundary}"
    subject = replace(chain.vote_subject(chain.block(4)), block_id=chain.genesis.block_id)
    at_view_four = chain.certificate(subject, [0, 1, 2, 3])
    happened = alone.hear(chain.proposal(chain.block(5, on=at_view_four)))
    assert refused(happened, alone.committee.peer(0)) == f"proposal: {boundary}"
    assert alone.hear(chain.proposal(chain.block(1))).signed


# --- two blocks in one view ----------------------------------------------------------------------------------------


@every_protocol
def test_an_equivocating_leader_is_reported_once_and_his_first_block_stands(protocol: str) -> None:
    """::

    genesis <- b1
          |\\- c1
           \\- d1
    """
    chain, alone = setting(protocol)
    b1, c1, d1 = (chain.block(1, body=b"body %d" % number) for number in range(3))
    assert alone.hear(chain.proposal(b1)).sent(Vote) == [chain.vote(b1, 3)]
    happened = alone.hear(chain.proposal(c1))
    (evidence,) = happened.of(ReportEvidence)
    without_bodies = tuple(replace(chain.proposal(block), body=memoryview(b"")) for block in (b1, c1))
    assert (evidence.first, evidence.second) == without_bodies
    assert not happened.signed
    assert alone.engine.block(c1.id) is None
    assert not alone.hear(chain.proposal(d1)).effects, "once is enough"
    assert not alone.hear(chain.proposal(c1)).effects


@every_protocol
def test_a_leader_who_equivocates_in_two_views_is_reported_for_each(protocol: str) -> None:
    chain, alone = setting(protocol)
    for view in (1, 5):
        tc = chain.tc(view - 1, [chain.genesis] * 3) if view > 1 else None
        first, second = (chain.block(view, tc=tc, timestamp_ms=2_000 + number) for number in range(2))
        alone.hear(chain.proposal(first))
        assert len(alone.hear(chain.proposal(second)).of(ReportEvidence)) == 1


@every_protocol
def test_a_flood_of_blocks_for_old_views_is_bounded(protocol: str) -> None:
    """One leader, one old view, any number of blocks: the first is kept, however long ago the view was."""
    chain, alone = setting(protocol)
    far = FIRST_PROPOSALS_KEPT + 10
    alone.hear(chain.proposal(chain.block(far)))
    assert alone.view == far
    for view, kept in ((1, 0), (far - FIRST_PROPOSALS_KEPT - 1, 0), (far - FIRST_PROPOSALS_KEPT, 1)):
        before = len(alone.engine._blocks.tree)  # type: ignore[attr-defined]  # this engine's own
        tc = chain.tc(view - 1, [chain.genesis] * 3) if view > 1 else None
        for number in range(20):
            alone.hear(chain.proposal(chain.block(view, tc=tc, timestamp_ms=2_000 + number)))
        assert len(alone.engine._blocks.tree) - before == kept  # type: ignore[attr-defined]  # this engine's own


@every_protocol
def test_first_proposals_are_forgotten_with_their_views(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposal_checks, "FIRST_PROPOSALS_KEPT", 2)
    chain, alone = setting(protocol)
    for view in range(1, 10):
        alone.hear(chain.proposal(chain.block(view)))
    assert sorted(alone.engine._first_proposals._first) == [7, 8, 9]  # type: ignore[attr-defined]  # this engine's own


# --- what a vote waits for -----------------------------------------------------------------------------------------


@every_protocol
def test_timestamps_grow_strictly(protocol: str) -> None:
    """Growth is validity: the leader is named, and the block is never voted for."""
    chain, alone = setting(protocol)
    b1 = chain.block(1, timestamp_ms=5_000)
    grow(chain, alone, b1)
    b2 = chain.block(2, on=b1, timestamp_ms=5_000)
    happened = alone.hear(chain.proposal(b2))
    assert refused(happened, alone.committee.peer(1)) == "proposal: its timestamp does not exceed its parent's"
    assert not alone.hear(Certificates(epoch=0, high_qc=chain.qc(b1), high_tc=None)).effects, "named once"
    chain, alone = setting(protocol)
    happened = alone.hear(chain.proposal(chain.block(1, timestamp_ms=1_000)))
    assert refused(happened, alone.committee.peer(0)) == "proposal: its timestamp does not exceed its parent's"
    chain, alone = setting(protocol)
    assert alone.hear(chain.proposal(chain.block(1, timestamp_ms=1_001))).signed


@every_protocol
def test_no_vote_for_an_invalid_payload_and_its_proposer_is_named(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain, alone = Chain(members), Alone(members, me=3, judge=lambda check: False)
    b1 = chain.block(1, body=b"payload")
    happened = alone.hear(chain.proposal(b1))
    assert refused(happened, members.peer(0)) == "payload: bad"
    assert not alone.hear(chain.proposal(b1)).effects
    assert not alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=None)).effects


@every_protocol
def test_a_payload_that_is_not_judged_yet_is_waited_for(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain, alone = Chain(members), Alone(members, me=3, judge=lambda check: None)
    b1 = chain.block(1, body=b"payload")
    happened = alone.hear(chain.proposal(b1))
    (check,) = happened.of(CheckPayload)
    assert (check.block, bytes(check.body), check.path, check.certified) == (b1, b"payload", (), False)
    assert not happened.signed
    assert not alone.hear(Certificates(epoch=0, high_qc=chain.genesis, high_tc=None)).of(CheckPayload), "asked once"


@every_protocol
def test_the_payload_is_judged_with_its_uncommitted_ancestors(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain, alone = Chain(members), Alone(members, me=3)
    b1 = chain.block(1, body=b"one")
    alone.hear(chain.proposal(b1))
    b2 = chain.block(2, on=b1, body=b"two")
    (check,) = alone.hear(chain.proposal(b2)).of(CheckPayload)
    assert check.block == b2
    assert check.path == ((b1, chain.body(b1)),)


@every_protocol
def test_a_block_is_voted_for_when_its_ancestors_are_here(protocol: str) -> None:
    """::

    genesis <- [b1] <- b2        b1 is asked for, of the peer who named it; then comes the vote
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    step = alone.engine.handle(_received(alone, chain.proposal(b2)), 0)
    assert [effect for effect in step.effects if isinstance(effect, FetchBlocks)] == [
        FetchBlocks(block_id=b1.id, height=1, peer=alone.committee.peer(1))
    ]
    assert alone.hear(chain.proposal(b1)).sent(Vote) == [chain.vote(b2, 3)]


def _received(alone: Alone, proposal: Proposal) -> Received:
    return Received(alone.committee.peer(proposal.header.proposer), proposal)


@every_protocol
def test_messages_of_other_protocols_are_refused(protocol: str) -> None:
    _, alone = setting(protocol)
    happened = alone.hear(Unknown(), peer=2)
    assert refused(happened, alone.committee.peer(2)) == "Unknown is no message of this protocol"


class Unknown(msgspec.Struct):
    """A message of another protocol."""

    epoch: int = 0
