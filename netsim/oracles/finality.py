"""A3: Casper FFG beside the protocol, judged from the votes on the wire and the blocks that are committed.

What is final is worked out here from the definitions, for one chain: a link needs more than two thirds of every set
that it concerns, by public keys; which sets those are follows from the boundaries of the schedule and from the
checkpoints that handed over (a set stays concerned until a checkpoint at or above its end is final).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from consensus.engine import Commit, Finalize, Recovered
from consensus.finality.types import FFG, FfgVote
from consensus.types import BlockId
from netsim.oracles.judge import Judge
from netsim.world import Host

Span = tuple[int, int]
"""A link of the committed chain: the heights of source and target."""
ROOT: Final = 0


class _Handover(NamedTuple):
    epoch: int
    height: int


class FinalityHolds:
    """A3: the finality votes of an honest node hold no double and no surround, are about what it committed, and are
    stored before they are sent; what it says is final is committed, grows, and is final by definition."""

    id = "A3"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        schedule = judge.world.schedule
        self.interval = schedule.checkpoint_interval
        if not self.interval:
            return
        self.ends = [era.height for era in judge.world.committee.eras[1:]]
        self.chain: dict[int, BlockId] = {ROOT: judge.genesis_id}
        self.cast: dict[int, dict[tuple[int, bytes, int, bytes], None]] = {}
        """What each honest node signed: heights and ids."""
        self.signers: dict[tuple[int, bytes, int, bytes], dict[bytes, None]] = {}
        """Who signed each link, by public key."""
        self.said: dict[int, int] = {}
        """What each node said last is final, in this life."""
        self.known: dict[int, None] = {ROOT: None}
        """Heights that are final by definition."""
        judge.on_committed.append(self.committed)
        judge.on_finality_vote.append(self.voted)
        judge.on_finalized.append(self.finalized)
        judge.on_started.append(self.started)

    def committed(self, host: Host, commit: Commit) -> None:
        height = commit.block.header.height
        if height % self.interval == 0:
            self.chain.setdefault(height, commit.block.id)

    def started(self, host: Host, recovered: Recovered) -> None:
        self.said.pop(host.position, None)

    # --- votes --------------------------------------------------------------------------------------------------

    def voted(self, host: Host, vote: FfgVote) -> None:
        judge = self.judge
        if judge.seat(host, vote.epoch) != vote.signer or not judge.verifies(vote.signer, vote.subject, vote.signature):
            if host.honest:
                judge.fire(self.id, host, f"node {host.position} sends a finality vote that is not its own")
            return
        link = (vote.source.height, vote.source.id, vote.target.height, vote.target.id)
        self.signers.setdefault(link, {})[judge.epochs[vote.epoch].keys[vote.signer]] = None
        if host.honest:
            self.check_vote(host, link)

    def check_vote(self, host: Host, link: tuple[int, bytes, int, bytes]) -> None:
        where, (source, _, target, target_id) = f"node {host.position}", link
        if FFG not in host.journal.safety:
            self.judge.fire(self.id, host, f"{where} sends a finality vote that it did not store")
        if target > len(host.ledger) or host.ledger[target - 1] != target_id:
            self.judge.fire(self.id, host, f"{where} votes for a checkpoint at height {target} that it did not commit")
        cast = self.cast.setdefault(host.position, {})
        for other in cast:
            low, high = other[0], other[2]
            double = high == target and other != link
            if double or low < source < target < high or source < low < high < target:
                kind = "double" if double else "surround"
                text = f"{where} votes {source} to {target} after {low} to {high}: a {kind}"
                self.judge.fire(self.id, host, text)
        cast[link] = None

    # --- what is final ------------------------------------------------------------------------------------------

    def finalized(self, host: Host, effect: Finalize) -> None:
        if not host.honest:
            return
        height, where = effect.checkpoint.height, f"node {host.position} says that height {effect.checkpoint.height}"
        if height > len(host.ledger) or host.ledger[height - 1] != effect.checkpoint.id:
            self.judge.fire(self.id, host, f"{where} is final, which it did not commit")
        elif height <= self.said.get(host.position, ROOT):
            self.judge.fire(self.id, host, f"{where} is final, after {self.said[host.position]}")
        elif height not in self.known:
            self.known = dict.fromkeys(self.by_definition())
            if height not in self.known:
                self.judge.fire(self.id, host, f"{where} is final, which does not follow from any votes")
        self.said[host.position] = height

    def epoch_at(self, height: int) -> int:
        """The epoch of the block at a height."""
        return sum(end < height for end in self.ends)

    def held(self, handover: _Handover) -> list[Span]:
        """The links of this chain that have all quorums that they need since that checkpoint handed over."""
        found: list[Span] = []
        for (low, low_id, high, high_id), keys in self.signers.items():
            if self.chain.get(low) != low_id or self.chain.get(high) != high_id or not handover.height <= low < high:
                continue
            needed = self.judge.epochs[handover.epoch : self.epoch_at(high) + 1]
            stakes = (
                (sum(stake for key, stake in zip(set_.keys, set_.stakes, strict=True) if key in keys), set_.total)
                for set_ in needed
            )
            if all(3 * stake > 2 * total for stake, total in stakes):
                found.append((low, high))
        return found

    def by_definition(self) -> list[int]:
        """The final heights, from every vote that was ever sent."""
        handovers, links = [_Handover(0, ROOT)], list[Span]()
        while True:
            links = list(dict.fromkeys(link for handover in handovers for link in self.held(handover)))
            final = finals(links, self.interval)
            passed = [_Handover(number, height) for height in final for number in self.passed(height)]
            more = [handover for handover in dict.fromkeys(passed) if handover not in handovers]
            if not more:
                return final
            handovers += more

    def passed(self, height: int) -> list[int]:
        """The epoch that a final checkpoint hands over to: the last one whose boundary is not above it."""
        epoch = sum(end <= height for end in self.ends)
        return [epoch] if epoch else []


def finals(links: list[Span], interval: int) -> list[int]:
    """What follows from links that hold: the root; and the source, where it is justified, of a link to the next
    checkpoint, or over one that is justified too."""
    justified = {ROOT}
    while more := {high for low, high in links if low in justified} - justified:
        justified |= more
    found = {ROOT}
    for low, high in links:
        spans = (high - low) // interval
        if low in justified and (spans == 1 or (spans == 2 and low + interval in justified)):
            found.add(low)
    return sorted(found)
