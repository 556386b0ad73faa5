"""One node's finality as a story: checkpoints every 4 blocks, four validators of stake 1 (quorum 3) unless said
otherwise.

::

    0 --- 4 --- 8 --- 12 --- 16 --- ...      link 0 -> 4 justifies 4; 4 -> 8 justifies 8 and finalizes 4
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pytest

from consensus.codec import block_of, encode
from consensus.engine import (
    Broadcast,
    Effect,
    Finalize,
    LinkRecord,
    OfferLinks,
    PeerConnected,
    Received,
    Recovered,
    Refusal,
    Reject,
    ReportEvidence,
    SafetyRecord,
    Send,
    Sign,
    Signed,
    Step,
    TimerFired,
)
from consensus.finality.certificates import TARGETS_AHEAD, TARGETS_BEHIND
from consensus.finality.chain_links import CHECKPOINTS_MAX, LINKS_MAX, ChainState, initial_state
from consensus.finality.overlay import CERTIFICATES_PER_BLOCK_MAX, Finality
from consensus.finality.types import Checkpoint, FfgVote, FfgVoteSubject, Link, LinkCertificate, LinkGroup
from consensus.types import Block, bitmap_of
from netsim.histories.tally import INTERVAL, signed_vote
from tests.support.chain import Chain
from tests.support.committee import Committee, committee


class Plain(NamedTuple):
    """A step without what the proposer is offered and the certificates that are kept."""

    records: tuple[SafetyRecord, ...]
    effects: tuple[Effect, ...]


NOTHING = Plain((), ())


class Story:
    """A committed chain without views of interest, the votes of everybody, and one node."""

    def __init__(self, members: Committee | None = None, me: int | None = 0) -> None:
        self.members = committee() if members is None else members
        self.chain = Chain(self.members)
        self.root = Checkpoint(height=0, id=self.members.epoch.genesis.block_id)
        self.blocks: list[Block] = []
        self.me = me
        self.links: list[LinkCertificate] = []
        """What the journal keeps of them."""
        self.offered: tuple[LinkCertificate, ...] = ()
        self.node = self.fresh()

    def fresh(self, chain: ChainState | None = None) -> Finality:
        return Finality(
            epochs=(self.members.epoch,),
            scheme=self.members.scheme,
            own_keys=() if self.me is None else (self.members.epoch.validators.public_keys[self.me],),
            interval=INTERVAL,
            chain=initial_state(self.root) if chain is None else chain,
        )

    def block(self, height: int) -> Block:
        while len(self.blocks) < height:
            before = self.blocks[-1] if self.blocks else None
            justify = self.chain.genesis if before is None else self.chain.qc(before)
            self.blocks.append(self.chain.block(len(self.blocks) + 1, on=justify))
        return self.blocks[height - 1]

    def at(self, height: int) -> Checkpoint:
        return self.root if height == 0 else Checkpoint(height=height, id=self.block(height).id)

    def link(self, source: int, target: int) -> Link:
        return Link(self.at(source), self.at(target))

    def vote(self, signer: int, source: int, target: int) -> FfgVote:
        return signed_vote(self.members, signer, self.link(source, target))

    def certificate(self, source: int, target: int, signers: Sequence[int] = (1, 2, 3)) -> LinkCertificate:
        return certificate_of(self.members, self.link(source, target), signers)

    def commit(self, height: int, *certificates: LinkCertificate) -> Plain:
        """Every block up to ``height``, which carries the certificates. The step of the last."""
        step = NOTHING
        for below in range(self.node.height + 1, height + 1):
            step = self.plain(self.node.committed(self.block(below), certificates if below == height else ()))
        return step

    def plain(self, step: Step) -> Plain:
        """What is left out is noted here."""
        self.links += [record.certificate for record in step.records if isinstance(record, LinkRecord)]
        for effect in step.effects:
            if isinstance(effect, OfferLinks):
                self.offered = effect.certificates
        assert self.offered == self.node.pending()
        assert all(isinstance(record, LinkRecord | SafetyRecord) for record in step.records)
        return Plain(
            tuple(record for record in step.records if isinstance(record, SafetyRecord)),
            tuple(effect for effect in step.effects if not isinstance(effect, OfferLinks)),
        )

    def receive(self, vote: FfgVote, peer: bytes = b"") -> Plain:
        return self.plain(self.node.handle(Received(peer or self.members.peer(vote.signer), vote)))

    def signed(self, vote: FfgVote) -> Plain:
        return self.plain(self.node.handle(Signed(vote.subject, vote.signature)))

    def receive_all(self, source: int, target: int, signers: Sequence[int] = (1, 2, 3)) -> list[object]:
        return [effect for signer in signers for effect in self.receive(self.vote(signer, source, target)).effects]


def certificate_of(members: Committee, link: Link, signers: Sequence[int]) -> LinkCertificate:
    signature = members.scheme.aggregate([signed_vote(members, signer, link).signature for signer in sorted(signers)])
    assert signature is not None
    group = LinkGroup(epoch=0, signers=bitmap_of(tuple(signers)), signature=signature)
    return LinkCertificate(source=link.source, target=link.target, groups=(group,))


def signs(step: Plain) -> list[Link]:
    return [
        effect.subject.link
        for effect in step.effects
        if isinstance(effect, Sign) and isinstance(effect.subject, FfgVoteSubject)
    ]


# --- voting --------------------------------------------------------------------------------------------------


def test_a_committed_checkpoint_is_voted_for_and_the_record_comes_first() -> None:
    story = Story()
    assert story.commit(3) == NOTHING
    step = story.commit(4)
    subject = FfgVoteSubject(epoch=0, source=story.at(0), target=story.at(4))
    state = encode(story.node.chain_state())
    assert step == Plain((SafetyRecord(kind="ffg", subject=encode(subject), state=state),), (Sign(subject),))


def test_the_own_vote_is_sent_once_it_is_signed_and_counts() -> None:
    story = Story()
    story.commit(4)
    vote = story.vote(0, 0, 4)
    assert story.receive_all(0, 4, (1, 2)) == []
    step = story.signed(vote)
    assert step == Plain((), (Broadcast(vote),))
    assert story.node.pending() == (story.certificate(0, 4, (0, 1, 2)),)


def test_an_observer_signs_nothing_and_knows_what_is_final() -> None:
    story = Story(me=None)
    step = story.commit(4)
    assert step == Plain((SafetyRecord(kind="ffg", subject=b"", state=encode(story.node.chain_state())),), ())
    story.receive_all(0, 4)
    story.commit(8)
    assert story.receive_all(4, 8) == [Finalize(checkpoint=story.at(4))]
    assert story.node.finalized == story.at(4)


def test_the_source_is_what_the_chain_holds_and_not_what_this_node_knows() -> None:
    """All votes for 4 arrived here, but no block holds their certificate: another validator may not know of them."""
    story = Story()
    story.commit(4)
    story.receive_all(0, 4)
    assert signs(story.commit(8)) == [story.link(0, 8)]
    story.commit(11)
    assert signs(story.commit(12, story.certificate(0, 4))) == [story.link(4, 12)], "up to the target itself"
    assert story.node.justified == story.at(4)


def test_a_certificate_in_a_block_counts_only_when_it_is_a_quorum_over_this_chain() -> None:
    story = Story()
    good = story.certificate(0, 4)
    (group,) = good.groups
    two = story.certificate(0, 4, (1, 2))
    stranger = Checkpoint(height=4, id=bytes(32))
    elsewhere = certificate_of(story.members, Link(story.root, stranger), (1, 2, 3))
    forged = msgspec.structs.replace(good, groups=(msgspec.structs.replace(group, signers=b"\x0d"),))
    story.commit(4)
    for height, bad in enumerate((two, elsewhere, forged), start=5):
        story.commit(height, bad)
        assert story.node.justified == story.root
    assert isinstance(story.node.check(two), Refusal)
    assert isinstance(story.node.check(forged), Refusal)
    story.commit(8, good)
    assert story.node.justified == story.at(4)


def test_only_the_first_certificates_of_a_block_are_looked_at() -> None:
    story = Story()
    story.commit(4)
    story.commit(5, *[story.certificate(0, 4, (1, 2))] * CERTIFICATES_PER_BLOCK_MAX, story.certificate(0, 4))
    assert story.node.justified == story.root


def test_certificates_may_come_in_any_order() -> None:
    story = Story()
    story.commit(8)
    story.commit(9, story.certificate(4, 8))
    assert story.node.justified == story.root
    story.commit(10, story.certificate(0, 4))
    assert story.node.justified == story.at(8)
    assert story.node.finalized == story.at(4)


def test_what_the_chain_lacks_is_pending_in_order_until_a_block_holds_it() -> None:
    story = Story()
    story.commit(4)
    story.receive_all(0, 4)
    story.commit(8)
    story.receive_all(4, 8)
    assert story.node.pending() == (story.certificate(0, 4), story.certificate(4, 8))
    story.commit(9, story.certificate(0, 4))
    assert story.node.pending() == (story.certificate(4, 8),)


def test_two_steps_finalize_over_a_checkpoint_that_was_justified_late() -> None:
    """k = 2: 4 -> 12 with 8 justified between, whichever comes last."""
    for late_first in (False, True):
        story = Story(me=None)
        story.commit(4)
        story.receive_all(0, 4)
        story.commit(12)
        links = [(4, 12), (0, 8)]
        effects = [effect for link in (reversed(links) if late_first else links) for effect in story.receive_all(*link)]
        (final,) = effects
        assert isinstance(final, Finalize)
        assert final.checkpoint == story.at(4)
        assert {story.certificate(4, 12), story.certificate(0, 8)} <= set(story.links)


def test_a_block_that_does_not_follow_is_our_bug_and_one_seen_before_is_nothing() -> None:
    story = Story()
    story.commit(4)
    assert story.plain(story.node.committed(story.block(3))) == NOTHING
    with pytest.raises(ValueError, match="fed a block that does not follow"):
        story.node.committed(story.block(6))
    other = story.chain.like(story.block(5), parent=bytes(32))
    with pytest.raises(ValueError, match="fed a block that does not follow"):
        story.node.committed(block_of(other.header))


# --- restart -------------------------------------------------------------------------------------------------


def restarted(story: Story, records: Sequence[SafetyRecord], chain: ChainState | None = None) -> Plain:
    story.node = story.fresh(chain)
    story.offered = ()
    return story.plain(story.node.start(Recovered(safety=tuple(records), links=tuple(story.links))))


def test_after_a_restart_the_stored_vote_is_sent_again_and_no_other_for_its_target() -> None:
    story = Story()
    step = story.commit(4)
    assert restarted(story, step.records) == Plain((), step.effects)
    assert story.node.height == 4
    assert story.commit(4) == NOTHING
    assert signs(story.commit(8)) == [story.link(0, 8)]


@pytest.mark.parametrize("ledger", [0, 2])
def test_committed_blocks_that_come_again_are_not_voted_on_again(ledger: int) -> None:
    """The ledger was behind the journal, or its state was lost: the vote's own record knows better."""
    story = Story()
    first = story.commit(4)
    story.commit(7, story.certificate(0, 4))
    second = story.commit(8)
    assert signs(second) == [story.link(4, 8)]
    records = second.records
    state = story.fresh().chain_state()
    for height in range(1, ledger + 1):
        state = msgspec.structs.replace(state, height=height, id=story.block(height).id)
    restarted(story, records, state)
    assert story.node.height == 8
    assert story.node.justified == story.at(4)
    assert story.commit(8) == NOTHING
    assert first.records != records


def test_a_vote_from_before_is_not_contradicted_when_the_chain_state_is_older() -> None:
    """A guard with a later vote than the chain that is fed: the targets up to it are passed over in silence."""
    story = Story()
    story.commit(4)
    story.commit(7, story.certificate(0, 4))
    (record,) = story.commit(8).records
    old = msgspec.structs.replace(record, state=encode(story.fresh().chain_state()))
    restarted(story, [old])
    assert story.node.height == 0
    assert signs(story.commit(4)) == []
    assert signs(story.commit(8)) == []
    assert signs(story.commit(12)) == [], "source 0 is below the last one: it could be surrounded"
    story.commit(15, story.certificate(0, 4))
    assert signs(story.commit(16)) == [story.link(4, 16)]


def test_what_was_final_stays_so_over_a_restart() -> None:
    story = Story()
    story.commit(4)
    story.receive_all(0, 4)
    story.commit(8)
    story.receive_all(4, 8)
    assert story.node.finalized == story.at(4)
    (record,) = story.commit(12).records
    restarted(story, [record])
    assert story.node.finalized == story.at(4)
    assert story.node.justified == story.root, "no block holds a certificate"
    assert story.receive_all(4, 8) == [], "nothing is announced twice"
    assert story.receive_all(8, 12) == [Finalize(checkpoint=story.at(8))]


def test_a_journal_that_holds_something_else_is_refused() -> None:
    story = Story()
    (record,) = story.commit(4).records
    for torn, message in (
        (msgspec.structs.replace(record, state=record.state[:-1]), "safety record 'ffg': state does not decode"),
        (msgspec.structs.replace(record, subject=b"?"), "safety record 'ffg' does not decode"),
    ):
        story.node = story.fresh()
        with pytest.raises(ValueError, match=message):
            story.node.start(Recovered(safety=(torn,)))


def test_a_restart_between_checkpoints_goes_on_from_the_committed_head() -> None:
    """No block was fed since the record: none of them mattered."""
    story = Story()
    (record,) = story.commit(4).records
    assert story.commit(6) == NOTHING
    story.node = story.fresh()
    head = story.block(6)
    story.node.start(Recovered(safety=(record,), committed_height=6, committed_id=head.id))
    assert story.node.height == 6
    assert signs(story.commit(8)) == [story.link(0, 8)]
    story.node = story.fresh()
    with pytest.raises(ValueError, match="is of height 4, checkpoints were committed since"):
        story.node.start(Recovered(safety=(record,), committed_height=8, committed_id=story.block(8).id))


def test_certificates_and_what_they_finalize_survive_a_restart() -> None:
    """An observer that saw the votes and no block with their certificates offers and knows the same again."""
    story = Story(me=None)
    story.commit(4)
    story.receive_all(0, 4)
    (record,) = story.commit(8).records
    story.receive_all(4, 8)
    offered = story.offered
    assert [certificate.target.height for certificate in offered] == [4, 8]
    again = restarted(story, [record])
    assert again.effects == (Finalize(checkpoint=story.at(4)),)
    assert story.offered == offered


def test_a_node_that_became_an_observer_signs_nothing_again() -> None:
    story = Story()
    step = story.commit(4)
    story.me = None
    assert restarted(story, step.records) == NOTHING
    assert story.node.height == 4


# --- the votes of others -------------------------------------------------------------------------------------


def test_votes_that_cannot_be_are_refused_and_their_sender_named() -> None:
    story = Story()
    story.commit(4)
    good = story.vote(1, 0, 4)
    flat = msgspec.structs.replace(good, source=good.target)
    odd = msgspec.structs.replace(good, target=Checkpoint(height=5, id=bytes(32)))
    for sender, vote in ((1, flat), (1, odd), (2, good)):
        peer = story.members.peer(sender)
        (effect,) = story.receive(vote, peer).effects
        assert isinstance(effect, Reject)
        assert effect.peer == peer
    assert story.receive(good, b"observer").effects != ()
    elsewhere = msgspec.structs.replace(good, epoch=1)
    assert story.receive(elsewhere) == NOTHING, "an epoch that is not known yet is no fault"


def test_a_bad_signature_spoils_only_its_own_vote() -> None:
    story = Story()
    story.commit(4)
    bad = msgspec.structs.replace(story.vote(1, 0, 4), signature=story.vote(2, 0, 4).signature)
    assert story.receive(bad).effects == ()
    assert story.receive_all(0, 4, (2,)) == []
    (effect,) = story.receive_all(0, 4, (3,))
    assert effect == Reject(story.members.peer(1), "finality vote: the signature does not verify")
    assert story.node.pending() == ()
    assert story.receive_all(0, 4, (1,)) == []
    assert story.node.pending() == (story.certificate(0, 4),), "the good one counts"


def test_a_vote_counts_once_however_often_it_comes() -> None:
    story = Story()
    story.commit(4)
    assert story.receive_all(0, 4, (1, 1, 1, 2, 2)) == []
    assert story.node.pending() == ()


def test_stake_counts_and_heads_do_not() -> None:
    story = Story(committee(4, stakes=(2, 6, 1, 1)), me=None)
    story.commit(4)
    story.receive_all(0, 4, (0, 2, 3))
    assert story.node.pending() == ()
    story.receive_all(0, 4, (1,))
    assert story.node.pending() != ()


def test_two_votes_for_one_target_are_evidence_and_neither_counts() -> None:
    story = Story()
    story.commit(8)
    first, second = story.vote(1, 0, 8), story.vote(1, 4, 8)
    assert story.receive(first).effects == ()
    assert story.receive(second).effects == (ReportEvidence(first, second),)
    assert story.receive(second).effects == (), "reported once"
    assert story.receive_all(0, 8, (2, 3)) == []
    assert story.node.pending() == (), "stake 2 of 4: the equivocator is out"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_vote_that_surrounds_another_is_evidence_in_either_order(order: tuple[int, int]) -> None:
    story = Story()
    story.commit(12)
    votes = (story.vote(1, 4, 8), story.vote(1, 0, 12))
    first, second = votes[order[0]], votes[order[1]]
    story.receive(first)
    assert story.receive(second).effects == (ReportEvidence(first, second),)


def test_nobody_is_framed_by_a_vote_that_it_did_not_sign() -> None:
    """The transport names the sender; still, evidence holds two signatures that verify."""
    story = Story()
    story.commit(8)
    forged = msgspec.structs.replace(story.vote(1, 4, 8), signature=story.vote(2, 4, 8).signature)
    story.receive(story.vote(1, 0, 8))
    (effect,) = story.receive(forged).effects
    assert isinstance(effect, Reject)
    story = Story()
    story.commit(8)
    story.receive(forged)
    assert story.receive(story.vote(1, 0, 8)).effects == ()


def test_votes_outside_the_window_are_not_kept() -> None:
    story = Story()
    story.commit(4)
    far = 4 + (TARGETS_AHEAD + 1) * INTERVAL
    assert story.receive_all(0, far) == []
    story.commit(far)
    assert story.node.pending() == (), "the votes came too early"
    story.commit((TARGETS_BEHIND + 2) * INTERVAL)
    story.receive_all(0, 4)
    assert story.node.pending() == (), "and these too late"


def test_votes_ahead_of_the_own_head_wait_for_the_block() -> None:
    story = Story()
    story.commit(3)
    assert story.receive_all(0, 4) == []
    assert story.node.pending() == ()
    story.commit(4)
    assert story.node.pending() == (story.certificate(0, 4),)
    assert story.receive_all(4, 8) == []
    assert Finalize(checkpoint=story.at(4)) in story.commit(8).effects


def test_a_certificate_of_another_chain_convicts_whoever_signed_both() -> None:
    """More than F is faulty: two certificates for one height."""
    story = Story(committee(5, stakes=(1, 1, 3, 3, 3)), me=None)
    story.commit(4)
    other = Link(story.root, Checkpoint(height=4, id=bytes(32)))
    theirs = certificate_of(story.members, other, (2, 3, 4))
    for signer in (2, 3, 4):
        assert story.receive(signed_vote(story.members, signer, other)).effects == ()
    ours = story.certificate(0, 4, (0, 1, 2, 3))
    assert story.commit(5, ours).effects == (ReportEvidence(theirs, ours),)
    assert story.node.pending() == ()


def test_a_new_peer_is_sent_the_own_last_vote() -> None:
    story = Story()
    assert story.plain(story.node.handle(PeerConnected(b"peer"))) == NOTHING
    story.commit(4)
    vote = story.vote(0, 0, 4)
    story.signed(vote)
    assert story.node.handle(PeerConnected(b"peer")).effects == (Send(b"peer", vote),)
    assert story.plain(story.node.handle(TimerFired("view"))) == NOTHING


# --- stalls and bounds ---------------------------------------------------------------------------------------


def test_after_a_long_stall_finality_goes_on_and_nothing_has_grown() -> None:
    """Nobody else votes for 100 checkpoints; then the highest justified one, far out of the window, is the source."""
    story = Story()
    story.commit(4)
    story.commit(7, story.certificate(0, 4))
    high = 4 + 100 * INTERVAL
    assert signs(story.commit(high)) == [story.link(4, high)]
    state = story.node.chain_state()
    assert len(state.checkpoints) <= CHECKPOINTS_MAX + 2
    assert len(state.links) <= LINKS_MAX
    assert state.justified == (0, 4)
    story.receive_all(4, high)
    story.commit(high + 3, *story.node.pending())
    assert signs(story.commit(high + 4)) == [story.link(high, high + 4)]
    assert Finalize(checkpoint=story.at(high)) in story.receive_all(high, high + 4)


def test_an_interval_below_one_is_refused() -> None:
    story = Story()
    with pytest.raises(ValueError, match="checkpoint interval"):
        Finality(
            epochs=(story.members.epoch,),
            scheme=story.members.scheme,
            own_keys=(),
            interval=0,
            chain=initial_state(story.root),
        )


@pytest.mark.parametrize("scheme", ["ed25519", "bls"])
def test_with_real_signatures(scheme: str) -> None:
    story = Story(committee(scheme=scheme))
    story.commit(4)
    story.receive_all(0, 4)
    story.commit(8, *story.node.pending())
    assert story.node.justified == story.at(4)
    assert Finalize(checkpoint=story.at(4)) in story.receive_all(4, 8)
