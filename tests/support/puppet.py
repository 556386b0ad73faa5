"""A Byzantine validator at the level of messages, and the schedules that it plays against three honest ones.

The puppet hears everything that is sent, signs whatever it likes with its own key and with no other, and obeys nothing:

* as a leader it proposes several blocks in one view, on any certified parent, each to recipients of its choice;
* it votes for everything, and tells whom it likes;
* it makes timeout certificates out of those of the honest that suit it, with its own lowest certificate;
* it withholds certificates, or passes them on to some, late;
* it gives bodies that are not those of the headers, as a leader and as a peer that is asked for blocks.

The network loses and delays what the honest say to each other. Leaders are drawn with a bias toward the puppet. Besides
the cluster's own books (:mod:`tests.support.cluster`), the oracles are: of all blocks that could be certified (the
honest votes that were ever sent, and the puppet's) there is one per view, and each above a committed block extends it;
nobody but the puppet is accused; and once it is silent and the network well, the honest go on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from consensus.codec import block_of, digest
from consensus.engine import Commit, Received
from consensus.genesis import Pacing
from consensus.protocols.chained_types import (
    Certificates,
    Proposal,
    Timeout,
    TimeoutCertificate,
    TimeoutGroup,
    TimeoutSubject,
)
from consensus.protocols.definition import ProtocolDefinition
from consensus.types import (
    AncestorsRequest,
    AncestorsResponse,
    Block,
    BlockHeader,
    Certificate,
    ProposalSubject,
    RangeRequest,
    StoredBlock,
    Vote,
    VoteSubject,
    bitmap_of,
    vote_subject,
)
from tests.support.cluster import MILLISECOND, Cluster, Node, root_of
from tests.support.committee import Committee, committee

PUPPET = 3
VIEWS = 14
DURATION_NS = 4_000 * MILLISECOND
HEALING_NS = 60_000 * MILLISECOND
PACING = Pacing(view_timeout_ms=60, idle_interval_ms=5, exponent_max=1)


class Biased:
    """Leaders drawn from a seed: every other view is the puppet's."""

    def __init__(self, seed: int, count: int) -> None:
        self._seed = seed
        self._count = count

    def leader(self, view: int) -> int:
        draw = hashlib.sha256(b"%d %d" % (self._seed, view)).digest()
        return PUPPET if draw[0] < 128 else draw[1] % self._count


def biased_committee(seed: int, protocol: str) -> Committee:
    members = committee(4, protocol=protocol, pacing=PACING)
    epoch = dataclasses.replace(members.epoch, leaders=Biased(seed, 4))
    return dataclasses.replace(members, epoch=epoch)


@dataclass(slots=True)
class Puppet:
    """What it knows, and what a seed makes of it."""

    cluster: Cluster
    random: random.Random
    honest: list[Node]
    shyness: float
    """How often it leaves somebody out."""
    secretive: bool
    """It keeps its votes and all certificates to itself, but for what its proposals carry."""
    delays_ms: Sequence[int]
    """How long it lets its messages lie. A view lasts 60 ms at first."""
    votes: dict[VoteSubject, dict[int, bytes]] = field(default_factory=dict)
    blocks: dict[bytes, Block] = field(default_factory=dict)
    certificates: dict[bytes, Certificate] = field(default_factory=dict)
    timeouts: dict[int, dict[int, Timeout]] = field(default_factory=dict)
    tcs: dict[int, list[TimeoutCertificate]] = field(default_factory=dict)
    proposed: set[int] = field(default_factory=set)
    committed: dict[bytes, Block] = field(default_factory=dict)
    bodies: dict[bytes, memoryview] = field(default_factory=dict)
    heard: msgspec.Struct | None = None
    silent: bool = False

    def __post_init__(self) -> None:
        genesis = self.cluster.committee.epoch.genesis
        self.certificates[genesis.block_id] = genesis
        self._lead(1)

    # --- listening ----------------------------------------------------------------------------------------------

    def hear(self, message: msgspec.Struct) -> None:
        """Everything that is said, to whomever, once."""
        if message is self.heard:
            return
        self.heard = message
        match message:
            case Vote():
                self._count(message)
            case Proposal():
                self._learn(message.header.justify, message.entry_proof)
                block = block_of(message.header)
                self.bodies[block.id] = message.body
                self._consider(block)
            case Timeout():
                self._learn(message.high_qc, message.entry_proof)
                self._give_up(message)
            case Certificates():
                self._learn(message.high_qc, message.high_tc)

    def _learn(self, certificate: Certificate, tc: TimeoutCertificate | None) -> None:
        if certificate.block_id not in self.certificates:
            self.certificates[certificate.block_id] = certificate
            self._spread(certificate)
            self._lead(certificate.view + 1)
        if tc is not None and tc not in self.tcs.setdefault(tc.view, []):
            self.tcs[tc.view].append(tc)
            self._learn(tc.high_qc, None)
            self._lead(tc.view + 1)
            if self.random.random() < 0.5:
                self._tell(Certificates(epoch=0, high_qc=tc.high_qc, high_tc=tc))

    def _consider(self, block: Block) -> None:
        """Vote for it, like for anything, and let some know."""
        if block.id in self.blocks:
            return
        self.blocks[block.id] = block
        header = block.header
        subject = VoteSubject(
            kind="vote",
            epoch=0,
            view=header.view,
            block_id=block.id,
            height=header.height,
            justify_view=header.justify.view,
        )
        vote = Vote(
            kind="vote",
            epoch=0,
            view=subject.view,
            block_id=subject.block_id,
            height=subject.height,
            justify_view=subject.justify_view,
            signer=PUPPET,
            signature=self.cluster.committee.sign(PUPPET, subject),
        )
        self._count(vote)
        if not self.secretive:
            self._tell(vote)

    def _count(self, vote: Vote) -> None:
        subject = vote_subject(vote)
        signatures = self.votes.setdefault(subject, {})
        signatures[vote.signer] = vote.signature
        if len(signatures) < self._quorum or vote.block_id in self.certificates:
            return
        self._judge(subject)
        bitmap, signature = self._join(signatures)
        certificate = Certificate(
            kind="vote",
            epoch=0,
            view=subject.view,
            block_id=subject.block_id,
            height=subject.height,
            justify_view=subject.justify_view,
            signers=bitmap,
            signature=signature,
        )
        self._learn(certificate, None)

    def _give_up(self, timeout: Timeout) -> None:
        """With two honest timeouts, its own makes a certificate: of those that know least, if it so likes."""
        view = timeout.view
        given = self.timeouts.setdefault(view, {})
        given[timeout.signer] = timeout
        honest = [given[signer] for signer in sorted(given) if signer != PUPPET]
        own = self._own_timeout(view)
        if own is None:
            return
        self._tell(own)
        needed = self._quorum - 1
        if len(honest) < needed:
            return
        by_height = sorted(honest, key=lambda known: known.high_qc.view)
        chosen = by_height[:needed] if self.random.random() < 0.7 else self.random.sample(honest, needed)
        self._learn(self.certificates[own.high_qc.block_id], self._timeout_certificate(view, [*chosen, own]))

    def _own_timeout(self, view: int) -> Timeout | None:
        """With the lowest certificate that it can show for having entered the view."""
        entries = self.tcs.get(view - 1, [])
        low = self._certificate_of_view(view - 1)
        proof: TimeoutCertificate | None = None
        if entries and (low is None or self.random.random() < 0.7):
            low, proof = self.cluster.committee.epoch.genesis, self.random.choice(entries)
            if view == 1:
                proof = None
        if low is None:
            return None
        subject = self._timeout_subject(view, low)
        signature = self.cluster.committee.sign(PUPPET, subject)
        return Timeout(epoch=0, view=view, high_qc=low, entry_proof=proof, signer=PUPPET, signature=signature)

    def _certificate_of_view(self, view: int) -> Certificate | None:
        return next((known for known in self.certificates.values() if known.view == view), None)

    def _timeout_certificate(self, view: int, timeouts: Sequence[Timeout]) -> TimeoutCertificate:
        groups: dict[int | None, dict[int, bytes]] = {}
        for timeout in timeouts:
            signed = self._timeout_subject(view, timeout.high_qc).high_qc_view
            groups.setdefault(signed, {})[timeout.signer] = timeout.signature
        joined = []
        for signed in sorted(groups, key=lambda key: key or 0):
            bitmap, signature = self._join(groups[signed])
            joined.append(TimeoutGroup(high_qc_view=signed, signers=bitmap, signature=signature))
        known = [timeout.high_qc for timeout in timeouts]
        # a liar shows less than the quorum has signed, where nobody checks it
        lie = self.random.random() < 0.5
        shown = (min if lie else max)(known, key=lambda certificate: certificate.view)
        return TimeoutCertificate(epoch=0, view=view, high_qc=shown, groups=tuple(joined))

    def _timeout_subject(self, view: int, high_qc: Certificate) -> TimeoutSubject:
        signs_high_qc = self.cluster.committee.spec.protocol == "jolteon"
        return TimeoutSubject(epoch=0, view=view, high_qc_view=high_qc.view if signs_high_qc else None)

    # --- leading ------------------------------------------------------------------------------------------------

    def _lead(self, view: int) -> None:
        if self.cluster.committee.epoch.leaders.leader(view) != PUPPET or view in self.proposed:
            return
        self.proposed.add(view)
        delay_ns = self.random.randint(0, 40) * MILLISECOND
        self.cluster.at(self.cluster.now + delay_ns, lambda: self._propose(view))

    def _propose(self, view: int) -> None:
        """One to three blocks: on the highest certificates, on the lowest that is excused by a timeout certificate, on
        any."""
        parents = sorted(
            (known for known in self.certificates.values() if known.view < view), key=lambda known: -known.view
        )
        tcs = sorted(self.tcs.get(view - 1, []), key=lambda tc: tc.high_qc.view)
        for number in range(self.random.choice([1, 1, 2, 3])):
            tc = None if not tcs else tcs[0] if self.random.random() < 0.7 else self.random.choice(tcs)
            mood = self.random.random()
            if mood < 0.4 and tc is not None:
                parent = tc.high_qc
            else:
                parent = self.random.choice(parents[:2] if mood < 0.8 else parents)
            if parent.view == view - 1:
                self._send_proposal(view, number, parent, None)
            elif tc is not None:
                self._send_proposal(view, number, parent, tc)

    def _send_proposal(self, view: int, number: int, parent: Certificate, tc: TimeoutCertificate | None) -> None:
        epoch = self.cluster.committee.epoch
        below = self.blocks.get(parent.block_id)
        if below is None and parent is not epoch.genesis:
            return
        body = b"puppet %d %d" % (view, number)
        block = block_of(
            BlockHeader(
                chain=epoch.chain,
                epoch=0,
                view=view,
                height=parent.height + 1,
                parent=parent.block_id,
                justify=parent,
                entry_proof_hash=b"" if tc is None else digest(tc),
                payload_root=root_of(body),
                payload_size=len(body),
                next_validators_hash=b"",
                timestamp_ms=1 + (epoch.boundary_timestamp_ms if below is None else below.header.timestamp_ms),
                proposer=PUPPET,
            )
        )
        self.bodies[block.id] = memoryview(body)
        subject = ProposalSubject(epoch=0, view=view, block_id=block.id)
        signature = self.cluster.committee.sign(PUPPET, subject)
        self._tell(Proposal(epoch=0, header=block.header, body=memoryview(body), entry_proof=tc, signature=signature))
        self._consider(block)

    # --- speaking -----------------------------------------------------------------------------------------------

    def _spread(self, certificate: Certificate) -> None:
        """Pass a certificate on to some, or keep it."""
        if not self.secretive and self.random.random() < 0.5:
            self._tell(Certificates(epoch=0, high_qc=certificate, high_tc=None))

    def _tell(self, message: msgspec.Struct) -> None:
        for node in self.honest:
            if self.random.random() < self.shyness:
                continue
            delay_ns = self.random.choice(self.delays_ms) * MILLISECOND
            self.cluster.at(self.cluster.now + delay_ns, partial(self._deliver, node, self._spoil(message)))

    def _deliver(self, node: Node, message: msgspec.Struct) -> None:
        if not self.silent:
            self.cluster._feed(node, Received(self.cluster.committee.peer(PUPPET), message))

    def _spoil(self, message: msgspec.Struct) -> msgspec.Struct:
        """One proposal in eight goes out with another body of the same size: the body is not signed."""
        if isinstance(message, Proposal) and self.random.random() < 0.125:
            return msgspec.structs.replace(message, body=memoryview(bytes(len(message.body))))
        return message

    def asked(self, node: Node, request: msgspec.Struct) -> None:
        """A question of block sync: the truth, a lie about the body, or nothing."""
        if not isinstance(request, AncestorsRequest) or request.block_id not in self.bodies:
            return
        mood = self.random.random()
        if mood < 0.3:
            return
        body = self.bodies[request.block_id]
        stored = StoredBlock(
            header=self.blocks[request.block_id].header, body=body if mood < 0.6 else memoryview(bytes(len(body)))
        )
        answer = AncestorsResponse(epoch=0, request_id=request.request_id, blocks=(stored,))
        delay_ns = self.random.choice(self.delays_ms) * MILLISECOND
        self.cluster.at(self.cluster.now + delay_ns, partial(self._deliver, node, answer))

    @property
    def _quorum(self) -> int:
        return self.cluster.committee.epoch.validators.quorum

    def _join(self, signatures: dict[int, bytes]) -> tuple[bytes, bytes]:
        signers = tuple(sorted(signatures))
        aggregate = self.cluster.committee.scheme.aggregate([signatures[signer] for signer in signers])
        assert aggregate is not None
        return bitmap_of(signers), aggregate

    # --- oracles ------------------------------------------------------------------------------------------------

    def _judge(self, subject: VoteSubject) -> None:
        """S6 and S8: what could be certified."""
        rivals = [known for known in self.certificates.values() if known.view == subject.view]
        assert not rivals, f"two blocks of view {subject.view} are certified"
        for block in self.committed.values():
            if block.header.view < subject.view:
                assert self._extends(subject.block_id, block), (
                    f"view {subject.view} is certified beside the committed block of view {block.header.view}"
                )

    def judge_commit(self, block: Block) -> None:
        """S8: what is certified above a committed block extends it."""
        if block.id in self.committed:
            return
        self.committed[block.id] = block
        for certificate in self.certificates.values():
            if certificate.view > block.header.view:
                assert self._extends(certificate.block_id, block), (
                    f"committed in view {block.header.view} beside a certificate of view {certificate.view}"
                )

    def _extends(self, block_id: bytes, ancestor: Block) -> bool:
        block = self.blocks.get(block_id)
        while block is not None and block.header.height > ancestor.header.height:
            block = self.blocks.get(block.header.parent)
        return block is None or block.id == ancestor.id


def run_puppet(
    seed: int,
    definition: ProtocolDefinition,
    *,
    protocol: str,
    prepare: Callable[[Cluster, random.Random], None] = lambda cluster, draw: None,
    heals: bool = False,
) -> Cluster:
    """One schedule. Raises ``AssertionError`` when something was not safe. ``definition`` may hold altered rules under
    the name ``protocol``; ``prepare`` may alter the cluster before it starts. When it ``heals``, the puppet falls
    silent in the end, and the honest must go on."""
    draw = random.Random(seed)
    cluster = Cluster(biased_committee(seed, protocol), seed=seed, twins=())
    cluster.definition = definition
    cluster.byzantine = frozenset((PUPPET,))
    honest = [node for node in cluster.nodes if node.index != PUPPET]
    slow = draw.choice([5, 30, 120])
    losses: dict[type[msgspec.Struct], float] = {
        kind: draw.choice([0, 0.2, 0.5, 0.9]) for kind in (Vote, Timeout, Proposal, Certificates)
    }

    def route(source: Node, target: Node, message: msgspec.Struct, now: int) -> tuple[int, ...]:
        lost = draw.random() < losses.get(type(message), 0)
        return () if lost else (draw.randint(1, slow) * MILLISECOND,)

    cluster.route = route
    puppet = Puppet(
        cluster,
        random.Random(seed + 1),
        honest,
        shyness=draw.choice([0, 0.2, 0.5, 0.7]),
        secretive=draw.random() < 0.5,
        delays_ms=draw.choice([(1, 2), (1, 5, 20, 80), (1, 70, 90)]),
    )
    transmit, commit = cluster._transmit, cluster._commit

    def listening(node: Node, other: Node, message: msgspec.Struct) -> None:
        if other.index == PUPPET and isinstance(message, AncestorsRequest | RangeRequest):
            puppet.asked(node, message)
            return
        puppet.hear(message)
        transmit(node, other, message)

    depth = {"jolteon": 1, "hotstuff": 2, "hotstuff2": 1}[protocol]

    def judging(node: Node, effect: Commit) -> None:
        commit(node, effect)
        if effect.proof is not None and len(effect.proof.headers) <= depth:  # by itself, not as an ancestor
            puppet.judge_commit(effect.block)

    cluster._transmit = listening  # type: ignore[method-assign]  # the cluster, overheard
    cluster._commit = judging  # type: ignore[method-assign,assignment]  # and judged
    prepare(cluster, draw)
    cluster.start(*honest)
    cluster.run(DURATION_NS, until=lambda: _highest_view(honest) > VIEWS)
    if heals:
        puppet.silent = True
        _heal(cluster, honest, seed)
    _judge_accusations(cluster, honest, seed)
    return cluster


def _heal(cluster: Cluster, honest: Sequence[Node], seed: int) -> None:
    """A well network, and everybody up: the honest must go on."""
    cluster.route = lambda source, target, message, now: (MILLISECOND,)
    cluster.crash_point = lambda node, where: None
    cluster.start(*[node for node in honest if node.replica is None])
    goal = max(cluster.heights()) + 3
    alive = cluster.run(HEALING_NS, until=lambda: all(len(node.ledger) >= goal for node in honest))
    assert alive, f"seed {seed}: no progress after healing: {cluster.heights()}, goal {goal}"


def _judge_accusations(cluster: Cluster, honest: Sequence[Node], seed: int) -> None:
    for node in honest:
        for reject in node.rejects:
            accused = f"seed {seed}: {node.name} accuses the honest: {reject}"
            assert reject.peer == cluster.committee.peer(PUPPET), accused
        for evidence in node.evidence:
            statement = cluster.definition.statement(evidence.first)
            assert statement is not None
            signer = statement.signer
            assert signer == PUPPET, f"seed {seed}: evidence against honest validator {signer}"


def _highest_view(nodes: Sequence[Node]) -> int:
    return max((node.replica.status().view for node in nodes if node.replica is not None), default=0)
