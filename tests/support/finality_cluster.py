"""Several nodes' finality over one chain: votes are lost, late and out of order, nodes crash between any two effects,
and one validator signs what it likes. The chain itself is given: consensus is tested elsewhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from consensus.codec import block_of
from consensus.engine import (
    Broadcast,
    Finalize,
    LinkRecord,
    OfferLinks,
    Received,
    Recovered,
    Reject,
    ReportEvidence,
    SafetyRecord,
    Sign,
    Signed,
    Step,
)
from consensus.finality.chain_links import initial_state
from consensus.finality.overlay import Finality
from consensus.finality.types import Checkpoint, FfgVote, Link, LinkCertificate
from consensus.types import Block, BlockHeader
from netsim.histories.play import punishable
from netsim.histories.tally import signed_vote
from tests.support.committee import Committee, committee

INTERVAL = 3
CHECKPOINTS = 12
HEIGHT_MAX = INTERVAL * CHECKPOINTS


@dataclass(slots=True)
class FfgNode:
    """A node and what of it survives a crash."""

    finality: Finality
    record: SafetyRecord | None = None
    links: list[LinkCertificate] = field(default_factory=list)
    inbox: list[FfgVote] = field(default_factory=list)
    final_height: int = 0
    """What was announced last since the start: after a restart the same may be announced again."""
    signed: list[Link] = field(default_factory=list)
    evidence: list[ReportEvidence] = field(default_factory=list)


class FfgCluster:
    """Validator 0 is the faulty one; ``complaints`` collects what must not happen."""

    def __init__(self, seed: int, *, keeps_records: bool = True) -> None:
        self.draw = random.Random(seed)
        self.members: Committee = committee(self.draw.choice((4, 5, 7)))
        self.keeps_records = keeps_records
        self.chain: list[tuple[Block, tuple[LinkCertificate, ...]]] = []
        self.root = Checkpoint(height=0, id=self.members.epoch.genesis.block_id)
        self.loss = self.draw.choice((0.0, 0.05, 0.3))
        self.crashes = self.draw.choice((0.0, 0.02))
        self.complaints: list[str] = []
        count = len(self.members.keys)
        self.nodes = {index: FfgNode(self._fresh(index)) for index in range(1, count)}

    def _fresh(self, index: int) -> Finality:
        return Finality(
            epochs=(self.members.epoch,),
            scheme=self.members.scheme,
            own_keys=(self.members.epoch.validators.public_keys[index],),
            interval=INTERVAL,
            chain=initial_state(self.root),
        )

    def play(self) -> FfgCluster:
        for height in range(1, HEIGHT_MAX + 1):
            self._extend(height)
            if height % INTERVAL == 0:
                self._misbehave(height)
            for _ in range(6):
                index = self.draw.choice(sorted(self.nodes))
                self._advance(index, self.draw.randint(0, 4))
        self.loss = self.crashes = 0.0
        for index in sorted(self.nodes):
            self._advance(index, HEIGHT_MAX)
            self.restart(index)
        for index in sorted(self.nodes):
            self._deliver(index)
        for node in self.nodes.values():
            self.complaints += [
                f"honest double or surround: {one} {other}"
                for one in node.signed
                for other in node.signed
                if punishable(one, other)
            ]
        return self

    def checkpoint(self, height: int) -> Checkpoint:
        return self.root if height == 0 else Checkpoint(height=height, id=self.chain[height - 1][0].id)

    def _extend(self, height: int) -> None:
        """Some node proposes what it has pending."""
        proposer = self.nodes[self.draw.choice(sorted(self.nodes))].finality
        pending = proposer.pending() if proposer.height == height - 1 else ()
        header = BlockHeader(
            chain=self.members.epoch.chain,
            epoch=0,
            view=height,
            height=height,
            parent=self.checkpoint(height - 1).id,
            justify=self.members.epoch.genesis,
            entry_proof_hash=b"",
            payload_root=bytes(32),
            payload_size=0,
            next_validators_hash=b"",
            timestamp_ms=1_000 + height,
            proposer=0,
        )
        self.chain.append((block_of(header), pending))

    def _misbehave(self, height: int) -> None:
        """Validator 0 votes for several links, a different one to each."""
        for index in sorted(self.nodes):
            source = self.draw.randrange(0, height, INTERVAL)
            self._send(index, signed_vote(self.members, 0, Link(self.checkpoint(source), self.checkpoint(height))))

    def _send(self, index: int, vote: FfgVote) -> None:
        if self.draw.random() >= self.loss:
            inbox = self.nodes[index].inbox
            inbox.insert(self.draw.randint(0, len(inbox)), vote)

    def _advance(self, index: int, blocks: int) -> None:
        """Commit some blocks, and take some of the mail."""
        for _ in range(blocks):
            height = self.nodes[index].finality.height
            if height == len(self.chain):
                break
            block, certificates = self.chain[height]
            self._perform(index, self.nodes[index].finality.committed(block, certificates))
        self._deliver(index)

    def _deliver(self, index: int) -> None:
        node = self.nodes[index]
        mail, node.inbox = node.inbox, []
        for vote in mail:
            received = Received(self.members.peer(vote.signer), vote)
            self._perform(index, self.nodes[index].finality.handle(received))

    def _perform(self, index: int, step: Step) -> None:
        """Records first; a crash may come before each of the effects."""
        node = self.nodes[index]
        self._keep(node, step)
        finality = node.finality
        for effect in step.effects:
            if node.finality is not finality:
                return  # it crashed over the effect before
            if self.draw.random() < self.crashes:
                self.restart(index)
                return
            match effect:
                case Sign(subject):
                    signature = self.members.sign(index, subject)
                    self._perform(index, node.finality.handle(Signed(subject, signature)))
                case Broadcast(FfgVote() as vote):
                    node.signed += [vote.link] if vote.link not in node.signed else []
                    for other in sorted(self.nodes):
                        if other != index:
                            self._send(other, vote)
                case Finalize():
                    self._announce(index, effect)
                case ReportEvidence():
                    node.evidence.append(effect)
                    if not isinstance(effect.first, FfgVote) or effect.first.signer != 0:
                        self.complaints.append(f"an honest validator is accused: {effect}")
                case OfferLinks():
                    pass
                case Reject():
                    self.complaints.append(f"an honest peer is refused: {effect}")
                case _:
                    raise AssertionError(f"unexpected {effect!r}")

    def _announce(self, index: int, effect: Finalize) -> None:
        node = self.nodes[index]
        if effect.checkpoint.height > node.finality.height or effect.checkpoint != self.checkpoint(
            effect.checkpoint.height
        ):
            self.complaints.append(f"final and not committed: {effect.checkpoint}")
        if effect.checkpoint.height <= node.final_height:
            self.complaints.append(f"final again, or lower: {effect.checkpoint}")
        node.final_height = effect.checkpoint.height

    def restart(self, index: int) -> None:
        """kill -9: the vote's record is there, everything else is read from the archive."""
        node = self.nodes[index]
        height = node.finality.height
        node.finality = self._fresh(index)
        node.final_height = 0
        records = () if node.record is None else (node.record,)
        step = node.finality.start(Recovered(safety=records, links=tuple(node.links)))
        for block, certificates in self.chain[node.finality.height : height]:
            again = node.finality.committed(block, certificates)
            step = Step((*step.records, *again.records), (*step.effects, *again.effects))
            self._keep(node, again)
        self._perform(index, Step((), step.effects))

    def _keep(self, node: FfgNode, step: Step) -> None:
        for record in step.records if self.keeps_records else ():
            match record:
                case SafetyRecord():
                    node.record = record
                case LinkRecord(certificate):
                    node.links.append(certificate)
                case _:
                    raise AssertionError(f"unexpected {record!r}")
