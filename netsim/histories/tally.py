"""Random votes for one tally: several links per target, equivocators, bad signatures, and an independent judge."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Protocol

from consensus.finality.certificates import BadSignature, Counted, LinkChecker, LinkTally, Slashable
from consensus.finality.types import Checkpoint, FfgVote, FfgVoteSubject, Link, LinkCertificate
from consensus.types import Subject, signers_of
from netsim.committee import Committee, committee_of
from netsim.histories.play import identifier, punishable
from netsim.schedule import Schedule

INTERVAL = 4


class Signer(Protocol):
    """Whoever holds the validators' keys."""

    def sign(self, signer: int, subject: Subject) -> bytes: ...


def signed_vote(members: Signer, signer: int, link: Link) -> FfgVote:
    """A vote of epoch 0 with the signer's own key."""
    subject = FfgVoteSubject(epoch=0, source=link.source, target=link.target)
    return FfgVote(
        epoch=0, source=link.source, target=link.target, signer=signer, signature=members.sign(signer, subject)
    )


@dataclass(slots=True)
class Played:
    complaints: list[str] = field(default_factory=list)
    certificates: int = 0
    caught: int = 0
    spoiled: int = 0


def play_tally(seed: int) -> Played:
    """Sixty votes, in any order. A tally never certifies with a signer that it has two conflicting good votes of, nor
    below two thirds, nor with a signature that is not the signer's, nor the same link twice."""
    draw = random.Random(seed)
    stakes = tuple(draw.randint(1, 5) for _ in range(draw.randint(3, 7)))
    members = committee_of(Schedule(nodes=len(stakes), stakes=stakes))
    checker = LinkChecker((members.epoch,), members.scheme)
    tally = LinkTally(checker, INTERVAL, lambda link: (members.epoch,))
    blocks = [
        [
            Checkpoint(height=height * INTERVAL, id=identifier(f"{branch} {height}"))
            for branch in range(2 if height else 1)
        ]
        for height in range(4)
    ]
    favourite = [Link(blocks[height - 1][0], blocks[height][0]) for height in range(1, 4)]
    good: dict[int, list[Link]] = {}
    done: set[Link] = set()
    played = Played()
    for _ in range(60):
        signer = draw.randrange(len(stakes))
        link = draw.choice(favourite)
        if draw.random() < 0.15:
            low, high = sorted(draw.sample(range(4), 2))
            link = Link(draw.choice(blocks[low]), draw.choice(blocks[high]))
        vote = signed_vote(members, signer if draw.random() < 0.9 else (signer + 1) % len(stakes), link)
        vote = FfgVote(epoch=0, source=link.source, target=link.target, signer=signer, signature=vote.signature)
        if vote == signed_vote(members, signer, link):
            good.setdefault(signer, []).append(link)
        result = tally.add(vote)
        played.caught += isinstance(result, Slashable)
        played.spoiled += isinstance(result, BadSignature) or (isinstance(result, Counted) and bool(result.spoiled))
        if isinstance(result, Counted) and result.certificate is not None:
            played.certificates += 1
            played.complaints += judge(members, result.certificate, good, done)
    return played


def judge(members: Committee, certificate: LinkCertificate, good: dict[int, list[Link]], done: set[Link]) -> list[str]:
    wrong = []
    (group,) = certificate.groups
    signers = signers_of(group.signers)
    if 3 * sum(members.spec.validators[signer].stake for signer in signers) <= 2 * sum(
        validator.stake for validator in members.spec.validators
    ):
        wrong.append("a certificate below two thirds")
    for signer in signers:
        votes = good.get(signer, [])
        if certificate.link not in votes:
            wrong.append(f"validator {signer} is in a certificate over what it did not sign")
        if any(punishable(one, other) for one in votes for other in votes):
            wrong.append(f"validator {signer} counts, and its guilt was seen")
    if certificate.link in done:
        wrong.append("one link certified twice")
    done.add(certificate.link)
    return wrong
