"""Random histories of finality votes on a tree of checkpoints, with any number of faulty validators.

Honest validators follow a branch, now and then change to another one (worse than consensus allows them), and ask the
rule and the guard before they sign. The faulty act together. The *careful* ones sign any link that leaves them
unpunished: they find the holes of a wrong rule; the *reckless* sign anything.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

from consensus.finality import rules
from consensus.finality.chain_links import initial_state
from consensus.finality.rules import SetChange, ValidatorSets
from consensus.finality.types import Checkpoint, FfgVoteSubject, Link
from consensus.safety import Granted, SafetyGuard
from consensus.validators import Validator, ValidatorSet

INTERVAL = 2
CHECKPOINTS = 7
STEPS = 24


def identifier(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def validator_set(stakes: dict[str, int]) -> ValidatorSet:
    """Validators by name; the name is the public key."""
    return ValidatorSet(
        tuple(
            Validator(
                name=name, stake=stake, public_key=name.encode(), possession_proof=b"", peer=identifier(f"peer {name}")
            )
            for name, stake in stakes.items()
        )
    )


@dataclass(slots=True)
class Tree:
    """Blocks in branches: each leaves an earlier one at some height. Knows the ancestors of each block by heart."""

    branches: list[list[Checkpoint]] = field(default_factory=list)
    paths: dict[Checkpoint, int] = field(default_factory=dict)
    ancestors: dict[Checkpoint, frozenset[Checkpoint]] = field(default_factory=dict)

    def grow(self, parent: int | None, fork_height: int, height_max: int) -> None:
        blocks = [] if parent is None else self.branches[parent][: fork_height + 1]
        for height in range(len(blocks), height_max + 1):
            blocks.append(Checkpoint(height=height, id=identifier(f"{len(self.branches)} {height}")))
        for height, block in enumerate(blocks):
            self.ancestors[block] = frozenset(blocks[: height + 1])
        self.branches.append(blocks)

    def descends(self, descendant: Checkpoint, ancestor: Checkpoint) -> bool:
        return ancestor in self.ancestors[descendant]

    def checkpoints(self) -> list[Checkpoint]:
        found = {block: None for branch in self.branches for block in branch[::INTERVAL]}
        return list(found)


@dataclass(slots=True, kw_only=True)
class History:
    """What happened, and who is what."""

    tree: Tree
    sets: ValidatorSets
    faulty: frozenset[bytes]
    votes: dict[bytes, list[Link]]
    rewound: list[Checkpoint] = field(default_factory=list)
    """Checkpoints that were final once and were not at a later step."""

    @property
    def root(self) -> Checkpoint:
        return self.tree.branches[0][0]

    def signers(self) -> dict[Link, frozenset[bytes]]:
        signers: dict[Link, set[bytes]] = {}
        for key, links in self.votes.items():
            for link in links:
                signers.setdefault(link, set()).add(key)
        return {link: frozenset(keys) for link, keys in signers.items()}

    def evaluate(self) -> rules.Finality:
        return rules.evaluate(
            root=self.root, interval=INTERVAL, sets=self.sets, signers=self.signers(), ancestry=self.tree
        )


class Honest:
    """The rule and the guard of a validator that keeps to them."""

    def __init__(self, root: Checkpoint, home: int) -> None:
        self.home = home
        self._guard = SafetyGuard()
        self._last: Link | None = None
        self._state = initial_state(root)

    def sign(self, link: Link) -> bool:
        if not rules.may_follow(self._last, link):
            return False
        subject = FfgVoteSubject(epoch=0, source=link.source, target=link.target)
        if not isinstance(self._guard.authorize(subject, self._state), Granted):
            return False
        self._last = link
        return True


class Actors:
    """Plays one history."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        draw = self.draw
        tree = Tree()
        tree.grow(None, 0, CHECKPOINTS * INTERVAL)
        for _ in range(draw.choice((1, 1, 2))):
            tree.grow(draw.randrange(len(tree.branches)), draw.randrange(2 * INTERVAL), CHECKPOINTS * INTERVAL)
        sets, names = self._sets(tree)
        share = draw.random()
        faulty = frozenset(name.encode() for name in names if draw.random() < share)
        self.history = History(tree=tree, sets=sets, faulty=faulty, votes={name.encode(): [] for name in names})
        self.careful = draw.random() < 0.7
        self.honest = {
            key: Honest(self.history.root, draw.randrange(len(tree.branches)))
            for key in self.history.votes
            if key not in faulty
        }
        self.progress = [0] * len(tree.branches)
        self.finality = self.history.evaluate()

    def _sets(self, tree: Tree) -> tuple[ValidatorSets, list[str]]:
        draw = self.draw
        old = {f"old{index}": draw.randint(1, 9) for index in range(draw.randint(3, 6))}
        names = list(old)
        changes = []
        if draw.random() < 0.5:
            boundaries: dict[Checkpoint, None] = {}
            height = draw.randrange(1, 3 * INTERVAL)
            for branch in tree.branches:
                boundaries[branch[height]] = None
            for number, boundary in enumerate(boundaries):
                stays = {name: draw.randint(1, 9) for name in old if draw.random() < 0.4}
                joins = {f"new{number}.{index}": draw.randint(1, 9) for index in range(draw.randint(1, 4))}
                names += joins
                changes.append(SetChange(boundary=boundary, new=validator_set(stays | joins)))
        return ValidatorSets(first=validator_set(old), changes=tuple(changes)), names

    def play(self) -> History:
        for _ in range(STEPS):
            if self.draw.random() < 0.5:
                self._follow_a_branch()
            else:
                self._conspire()
            before = self.finality.finalized
            self.finality = self.history.evaluate()
            self.history.rewound += [one for one in before if one not in self.finality.finalized]
        return self.history

    def _follow_a_branch(self) -> None:
        """The honest who live on a branch vote for its next checkpoint or the one after, and the faulty may join."""
        number = self.draw.randrange(len(self.progress))
        branch = self.history.tree.branches[number]
        self.progress[number] += self.draw.choice((1, 1, 2))
        if self.progress[number] > CHECKPOINTS:
            return
        target = branch[self.progress[number] * INTERVAL]
        known = [one for one in self.finality.justified if one in branch and one.height < target.height]
        link = Link(max(known, key=lambda one: one.height), target)
        for key, honest in self.honest.items():
            if self.draw.random() < 0.1:
                honest.home = self.draw.randrange(len(self.progress))
            if honest.home == number and self.draw.random() < 0.95 and honest.sign(link):
                self.history.votes[key].append(link)
        self._join(link, 0.8)

    def _conspire(self) -> None:
        """The faulty choose a link themselves, often from what is justified, along a branch or across."""
        draw, tree = self.draw, self.history.tree
        sources = list(self.finality.justified) if draw.random() < 0.9 else tree.checkpoints()
        source = draw.choice(sources)
        targets = [one for one in tree.checkpoints() if 0 < one.height - source.height <= 3 * INTERVAL]
        if targets:
            self._join(Link(source, draw.choice(targets)), 0.95)

    def _join(self, link: Link, chance: float) -> None:
        for key in sorted(self.history.faulty):
            votes = self.history.votes[key]
            if draw_below(self.draw, chance) and not (self.careful and any(punishable(link, one) for one in votes)):
                votes.append(link)


def draw_below(draw: random.Random, chance: float) -> bool:
    return draw.random() < chance


def punishable(one: Link, other: Link) -> bool:
    """The adversary's own notion of what it must not sign twice."""
    (s1, t1), (s2, t2) = one, other
    if t1.height == t2.height:
        return one != other
    if t1.height < t2.height:
        (s1, t1), (s2, t2) = (s2, t2), (s1, t1)
    return s1.height < s2.height


def play(seed: int) -> History:
    return Actors(seed).play()
