"""Finality where the validators change: both sets until the hand-over, each key once per target, restarts at every
height, and what an independent reading of the rules says.
"""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import block_of
from consensus.engine import Finalize, LinkRecord, OfferLinks, Received, Refusal, Reject, Sign, Step
from consensus.finality import rules
from consensus.finality.certificates import LinkChecker
from consensus.finality.proof import FinalityProof, verify_finality
from consensus.finality.types import FfgVote, FfgVoteSubject, Link, LinkCertificate
from consensus.genesis import epoch_heights_least
from consensus.types import Block
from tests.support import finality_epochs
from tests.support.epoch_chain import EpochChain, epoch_chain
from tests.support.finality_epochs import INTERVAL, EpochStory


def overlapping(scheme: str = "simulated", lengths: tuple[int, ...] = (6, 30)) -> EpochChain:
    return epoch_chain([(0, 1, 2, 3), (2, 3, 4, 5)], lengths=lengths, scheme=scheme)


def alone(*numbers: int) -> list[tuple[int, ...]]:
    return [(number,) for number in numbers]


@pytest.mark.parametrize("scheme", ["simulated", "ed25519", "bls"])
def test_finality_goes_on_over_a_change_and_the_old_are_let_go(scheme: str) -> None:
    story = EpochStory(overlapping(scheme), alone(*range(6))).play(30)
    assert {host.final for host in story.hosts} == {24}
    for number, signed in story.signed.items():
        targets = [link.target.height for _, link in signed]
        assert targets == sorted(set(targets)), f"key {number} signs once per target"
    last = {number: max(link.target.height for _, link in signed) for number, signed in story.signed.items()}
    assert last == {0: 12, 1: 12, 2: 28, 3: 28, 4: 28, 5: 28}, "8 hands over, which the link 8 -> 12 in a block shows"


def test_until_the_hand_over_both_sets_are_needed() -> None:
    """Of the old set two are silent: the new one alone is a quorum, and finalizes nothing above the boundary."""
    story = EpochStory(overlapping(), alone(*range(6)))
    story.play(6)
    story.hosts[0].silent = story.hosts[1].silent = True
    story.play(30)
    assert {host.final for host in story.hosts} == {0}
    assert story.hosts[2].offered == ()
    linked = {each.link for carried in story.carried.values() for each in carried}
    assert [link.target.height for link in linked] == [4], "what the old set had justified"


def test_after_the_hand_over_no_link_from_below_it_counts() -> None:
    """The new set alone signs 4 -> 20, which jumps over the checkpoint that handed over to it."""
    story = EpochStory(overlapping(), alone(*range(6))).play(20)
    observer = story.fresh((), 0)
    for height in range(1, 21):
        observer.committed(_block(story, height), story.carried[height])
        if height == 6:
            observer.enter(story.chain.eras[1].info)
    assert observer.justified == story.at(16)
    jump = Link(story.at(4), story.at(20))
    votes = [_vote(story, epoch=1, number=number, link=jump) for number in (2, 3, 4, 5)]
    checker = LinkChecker([era.info for era in story.chain.eras], story.chain.eras[0].scheme)
    observer.committed(_block(story, 21), [checker.join(jump, votes)])
    assert observer.justified == story.at(16)
    for vote in votes:
        assert observer.handle(Received(story.peer(vote), vote)) == Step((), ())


def test_a_link_over_the_boundary_has_a_group_of_each_epoch() -> None:
    story = EpochStory(overlapping(), alone(*range(6))).play(13)
    (crossing,) = [each for each in story.carried[9] if each.target.height == 8]
    assert [group.epoch for group in crossing.groups] == [0, 1]
    assert story.hosts[0].finality.check(crossing) is None
    old, new = crossing.groups
    replace = msgspec.structs.replace
    for groups in ((new, old), (old, old), (replace(old, signers=b"\x0f"), new), (old,)):
        assert isinstance(story.hosts[0].finality.check(replace(crossing, groups=groups)), Refusal)


def test_a_rotated_key_counts_in_both_sets() -> None:
    """Every operator rotates: nobody's key is in both sets, and each signs with its old and its new one."""
    chain = epoch_chain([(0, 1, 2, 3), (4, 5, 6, 7)], lengths=(6, 30), scheme="simulated")
    story = EpochStory(chain, [(0, 4), (1, 5), (2, 6), (3, 7)]).play(30)
    assert {host.final for host in story.hosts} == {24}
    first = [link for epoch, link in story.signed[0] if link.target.height == 8]
    second = [link for epoch, link in story.signed[4] if link.target.height == 8]
    assert first == second == [Link(story.at(4), story.at(8))]


@pytest.mark.parametrize("lengths", [(6, 6, 30), (3, 2, 30), (5, 1, 30), (4, 4, 30)])
def test_a_second_change_before_the_first_was_handed_over(lengths: tuple[int, ...]) -> None:
    """All three sets sign until the hand-over; then the last one alone."""
    chain = epoch_chain([(0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7)], lengths=lengths, scheme="simulated")
    top = sum(lengths)
    story = EpochStory(chain, alone(*range(8))).play(top)
    assert {host.final for host in story.hosts} == {top // INTERVAL * INTERVAL - INTERVAL}
    last = {number: max(link.target.height for _, link in signed) for number, signed in story.signed.items()}
    assert max(last[0], last[1]) < min(last[6], last[7])
    silent = EpochStory(chain, alone(*range(8)))
    silent.hosts[0].silent = silent.hosts[1].silent = True
    silent.play(top)
    assert {host.final for host in silent.hosts} == {0}, "the first set is needed until it has handed over"


def test_a_vote_that_comes_before_its_epoch_waits_for_it() -> None:
    story = EpochStory(overlapping(), alone(*range(6)))
    story.play(6)
    late = story.hosts[2]
    ahead = story.fresh((2,), 0)
    late.finality = ahead
    for height in range(1, 6):
        ahead.committed(_block(story, height), story.carried[height])
    vote = _vote(story, epoch=1, number=4, link=Link(story.at(4), story.at(8)))
    assert ahead.handle(Received(story.peer(vote), vote)) == Step((), ())
    far = msgspec.structs.replace(vote, epoch=2)
    assert ahead.handle(Received(story.peer(vote), far)) == Step((), ()), "nothing is said about what is not known"
    ahead.committed(_block(story, 6), story.carried[6])
    ahead.enter(story.chain.eras[1].info)
    counted = [_vote(story, epoch=1, number=number, link=vote.link) for number in (2, 3)]
    counted += [_vote(story, epoch=0, number=0, link=vote.link)]
    effects = [effect for each in counted for effect in ahead.handle(Received(story.peer(each), each)).effects]
    assert not any(isinstance(effect, OfferLinks) for effect in effects), "its block is not committed here"
    ahead.committed(_block(story, 7))
    step = ahead.committed(_block(story, 8))
    (offer,) = [effect for effect in step.effects if isinstance(effect, OfferLinks)]
    assert [each.target.height for each in offer.certificates][-1] == 8


def _block(story: EpochStory, height: int) -> Block:
    return block_of(story.chain.headers[height - 1])


def _vote(story: EpochStory, *, epoch: int, number: int, link: Link) -> FfgVote:
    era = story.chain.eras[epoch]
    signer = next(
        index for index, public in enumerate(era.info.validators.public_keys) if story.numbers[public] == number
    )
    subject = FfgVoteSubject(epoch=epoch, source=link.source, target=link.target)
    return FfgVote(
        epoch=epoch, source=link.source, target=link.target, signer=signer, signature=era.sign(signer, subject)
    )


@pytest.mark.parametrize("height", range(1, 24))
def test_a_restart_at_any_height_signs_the_same_again_and_goes_on(height: int) -> None:
    """All hosts die at once, with rotated keys among them."""
    chain = epoch_chain([(0, 1, 2, 3), (2, 3, 4, 5)], lengths=(6, 30), scheme="simulated")
    story = EpochStory(chain, [(0, 4), (1,), (2,), (3,), (5,)]).play(height)
    before = {number: list(signed) for number, signed in story.signed.items()}
    finals = [host.final for host in story.hosts]
    steps = [story.restart(host) for host in story.hosts]
    for host, step, final in zip(story.hosts, steps, finals, strict=True):
        for effect in step.effects:
            if isinstance(effect, Sign):
                assert isinstance(effect.subject, FfgVoteSubject)
                own = [link for number in host.numbers for _, link in before.get(number, ())]
                assert effect.subject.link == own[-1]
        assert [each.checkpoint.height for each in step.effects if isinstance(each, Finalize)] == [final] * bool(final)
        story.perform(host, step)
    story.play(36)
    assert {host.final for host in story.hosts} == {32}
    for signed in story.signed.values():
        links = {link for _, link in signed}
        assert len({link.target.height for link in links}) == len(links), "one link per target, ever"


@pytest.mark.parametrize("lengths", [(3, 30), (4, 30), (6, 30), (7, 30), (8, 30), (13, 30)])
@pytest.mark.parametrize("quiet", [(), (0,), (1, 5), (0, 1), (4, 5)])
def test_the_rules_over_the_whole_tree_say_the_same(lengths: tuple[int, ...], quiet: tuple[int, ...]) -> None:
    """What a node finalizes is final by ``rules.evaluate`` from all votes, and it knows the highest."""
    story = EpochStory(overlapping(lengths=lengths), alone(*range(6)))
    for number in quiet:
        story.hosts[number].silent = True
    story.play(lengths[0] + 30)
    finality = rules.evaluate(
        root=story.root, interval=INTERVAL, sets=story.sets(), signers=story.signers(), ancestry=story.ancestry()
    )
    finals = {host.finality.finalized for host in story.hosts if not host.silent}
    assert finals == {finality.highest_finalized}


def test_votes_of_the_old_set_alone_do_not_count_at_a_node_that_has_not_reached_the_boundary() -> None:
    """Every key is rotated. A node behind the boundary is given the old keys' votes over it, a quorum of the only set
    that it knows; that is no link until the new keys have signed it too."""
    chain = epoch_chain([(0, 1, 2, 3), (4, 5, 6, 7)], lengths=(6, 30), scheme="simulated")
    story = EpochStory(chain, [(0, 4), (1, 5), (2, 6), (3, 7)]).play(13)
    behind = story.fresh((), 0)
    for height in range(1, 6):
        behind.committed(_block(story, height), story.carried[height])
    links = [Link(story.at(4), story.at(8)), Link(story.at(8), story.at(12))]

    def hear(epoch: int, *numbers: int) -> list[LinkCertificate]:
        found: list[LinkCertificate] = []
        for link in links:
            for number in numbers:
                vote = _vote(story, epoch=epoch, number=number, link=link)
                found += _linked(behind.handle(Received(story.peer(vote), vote)))
        return found

    assert not hear(0, 0, 1, 2)
    found: list[LinkCertificate] = []
    for height in range(6, 13):
        found += _linked(behind.committed(_block(story, height)))
        if height == 6:
            behind.enter(chain.eras[1].info)
            assert not hear(1, 4, 5), "no quorum of the new set yet"
    assert not found
    assert behind.finalized == story.root
    found = hear(1, 6)
    assert [[group.epoch for group in each.groups] for each in found] == [[0, 1], [0, 1]]
    assert behind.finalized == story.at(8)


def test_votes_that_came_before_their_checkpoint_count_when_it_is_committed() -> None:
    story = EpochStory(overlapping(), alone(*range(6))).play(5)
    behind = story.fresh((), 0)
    for height in range(1, 4):
        behind.committed(_block(story, height))
    for vote in story.votes:
        assert behind.handle(Received(story.peer(vote), vote)) == Step((), ())
    (found,) = _linked(behind.committed(_block(story, 4)))
    assert found.link == Link(story.root, story.at(4))


def test_two_links_of_which_only_the_upper_one_crosses_the_boundary_prove_to_a_stranger() -> None:
    """0 -> 8 and 4 -> 12 finalize 4, with the boundary at 10: the lower link has, and needs, the old set alone. The
    upper one needs both."""
    chain = epoch_chain([(0, 1, 2, 3), (4, 5, 6, 7)], lengths=(10, 30), scheme="simulated")
    story = EpochStory(chain, [(0, 4), (1, 5), (2, 6), (3, 7)])
    checker = LinkChecker([era.info for era in chain.eras], chain.eras[0].scheme)

    def certificate(low: int, high: int, *numbers: int) -> LinkCertificate:
        link = Link(story.at(low), story.at(high))
        return checker.join(link, [_vote(story, epoch=int(number > 3), number=number, link=link) for number in numbers])

    between, crossing = certificate(0, 8, 0, 1, 2), certificate(4, 12, 0, 1, 2, 4, 5, 6)
    node = story.fresh((), 0)
    for height in range(1, 14):
        node.committed(
            _block(story, height), {9: (certificate(0, 4, 0, 1, 2), between), 13: (crossing,)}.get(height, ())
        )
        if height == 10:
            node.enter(chain.eras[1].info)
    assert node.finalized == story.at(4)
    infos = {era.info.epoch: era.info for era in chain.eras}

    def verify(*certificates: LinkCertificate) -> Refusal | None:
        proof = FinalityProof(headers=tuple(chain.headers[4:12]), certificates=certificates)
        return verify_finality(proof, chain.headers[3], INTERVAL, infos.get, chain.eras[0].scheme)

    assert verify(crossing, between) is None
    for numbers in ((0, 1, 2), (4, 5, 6), (0, 1, 4, 5, 6)):
        assert isinstance(verify(certificate(4, 12, *numbers), between), Refusal)
    assert isinstance(verify(crossing, certificate(0, 8, 0, 1)), Refusal)


def test_who_changed_its_tls_key_at_the_boundary_still_votes_for_the_old_set() -> None:
    """Keys and peers are all new, and the operators are the same: the old keys' votes come from the new peers."""
    chain = epoch_chain([(0, 1, 2, 3), (4, 5, 6, 7)], lengths=(6, 30), scheme="simulated")
    story = EpochStory(chain, [(0, 4), (1, 5), (2, 6), (3, 7)]).play(13)
    node = story.fresh((), 0)
    for height in range(1, 9):
        node.committed(_block(story, height), story.carried[height])
        if height == 6:
            node.enter(chain.eras[1].info)
    link = Link(story.at(4), story.at(8))
    found: list[LinkCertificate] = []
    for old in (0, 1, 2):
        vote, renewed = (_vote(story, epoch=int(key > 3), number=key, link=link) for key in (old, old + 4))
        peer = story.peer(renewed)
        assert vote.signer == renewed.signer
        forged = msgspec.structs.replace(vote, signature=renewed.signature)
        for sender, said in ((peer, forged), (b"s" * 32, vote)):
            (rejected,) = node.handle(Received(sender, said)).effects
            assert rejected == Reject(sender, "finality vote: the sender is not the signer")
        for said in (vote, renewed):
            found += _linked(node.handle(Received(peer, said)))
    assert [[group.epoch for group in each.groups] for each in found] == [[0, 1]]


@pytest.mark.parametrize(("epoch_heights", "final"), [(8, 480), (4, 32)])
def test_a_validator_that_rotates_its_key_at_every_boundary(
    epoch_heights: int, final: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finality goes on where epochs are as long as a new chain's must be, and never again where they are shorter: more
    sets than are remembered come before the first has handed over."""
    monkeypatch.setattr(finality_epochs, "INTERVAL", 32)
    assert epoch_heights_least(32) == 8
    rotated = range(10, 50)
    lengths = (epoch_heights,) * (len(rotated) - 1) + (201,)
    chain = epoch_chain([(0, 1, 2, number) for number in rotated], lengths=lengths, scheme="simulated")
    story = EpochStory(chain, [(0,), (1,), (2,), tuple(rotated)]).play(sum(lengths))
    assert {host.final for host in story.hosts} == {final}


def _linked(step: Step) -> list[LinkCertificate]:
    return [record.certificate for record in step.records if isinstance(record, LinkRecord)]
