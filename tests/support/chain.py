"""Blocks, certificates and one engine fed by hand, so that a rule's test reads as its block tree.

::

    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    tc = chain.tc(3, [chain.qc(b2), chain.qc(b1), chain.qc(b1)])
    b4 = chain.block(4, on=b2, tc=tc)

Everything is signed with the committee's own keys and built without the code under test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from consensus.block_tree import BlockTree, Root
from consensus.codec import block_of, digest
from consensus.crypto.scheme import Scheme
from consensus.engine import (
    CheckPayload,
    Effect,
    Engine,
    Event,
    PayloadBuilt,
    PayloadVerdict,
    Received,
    Record,
    Recovered,
    Reject,
    SetTimer,
    Sign,
    Signed,
    Step,
    TimerFired,
)
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.chained_types import (
    Certificates,
    OrderVote,
    Proposal,
    Timeout,
    TimeoutCertificate,
    TimeoutGroup,
    TimeoutSubject,
)
from consensus.protocols.leader_wait import WAIT_TIMER
from consensus.protocols.order_votes import ORDER, order_subject
from consensus.protocols.registry import protocol_named
from consensus.types import (
    Block,
    BlockHeader,
    Certificate,
    ProposalSubject,
    Subject,
    Vote,
    VoteSubject,
    bitmap_of,
    epoch_of,
)
from tests.support.cluster import MemoryJournal, root_of
from tests.support.committee import Committee

CHAINED_NAMES = ("jolteon", "hotstuff", "hotstuff2")
"""The members of the HotStuff family, for tests of their engine. What every protocol must do is tested by its suite."""

E = TypeVar("E")


class Chain:
    """Makes the blocks and signed values of one committee. Remembers bodies and timeout certificates by what names
    them."""

    def __init__(self, committee: Committee) -> None:
        self.committee = committee
        self.epoch = committee.epoch
        self.genesis = committee.epoch.genesis
        stakes, quorum = committee.epoch.validators.stakes, committee.epoch.validators.quorum
        self.quorum = next(count for count in range(len(stakes) + 1) if sum(stakes[:count]) >= quorum)
        self._signs_high_qc = committee.spec.protocol == "jolteon"
        self._bodies: dict[bytes, bytes] = {}
        self._proofs: dict[bytes, TimeoutCertificate] = {}

    def block(
        self,
        view: int,
        on: Block | Certificate | None = None,
        *,
        tc: TimeoutCertificate | None = None,
        body: bytes = b"",
        timestamp_ms: int | None = None,
    ) -> Block:
        """The leader's block of ``view``, on a block's certificate (a full one), on a given one, or on genesis. Where
        the views leave a gap and no ``tc`` is given, everybody gave up the view before with that certificate."""
        justify = self.genesis if on is None else self.qc(on) if isinstance(on, Block) else on
        if tc is None and justify.view != view - 1:
            tc = self.tc(view - 1, [justify] * self.quorum)
        if tc is not None:
            self._proofs[digest(tc)] = tc
        block = block_of(
            BlockHeader(
                chain=self.epoch.chain,
                epoch=self.epoch.epoch,
                view=view,
                height=justify.height + 1,
                parent=justify.block_id,
                justify=justify,
                entry_proof_hash=b"" if tc is None else digest(tc),
                payload_root=root_of(body),
                payload_size=len(body),
                next_validators_hash=b"",
                timestamp_ms=1_000 + view if timestamp_ms is None else timestamp_ms,
                proposer=self.epoch.leaders.leader(view),
            )
        )
        self._bodies[block.id] = body
        return block

    def like(self, block: Block, **changes: object) -> Block:
        """The same block with some fields of its header changed."""
        changed = block_of(msgspec.structs.replace(block.header, **changes))
        self._bodies[changed.id] = self._bodies[block.id]
        return changed

    def body(self, block: Block) -> memoryview:
        return memoryview(self._bodies[block.id])

    def proof(self, block: Block) -> TimeoutCertificate | None:
        """The timeout certificate that the block's header names."""
        return self._proofs.get(block.header.entry_proof_hash)

    # --- signed values ------------------------------------------------------------------------------------------

    def proposal(self, block: Block, *, signer: int | None = None, body: bytes | None = None) -> Proposal:
        header = block.header
        subject = ProposalSubject(epoch=header.epoch, view=header.view, block_id=block.id)
        signature = self._sign(header.proposer if signer is None else signer, subject)
        return Proposal(
            epoch=header.epoch,
            header=header,
            body=self.body(block) if body is None else memoryview(body),
            entry_proof=self.proof(block),
            signature=signature,
        )

    def vote_subject(self, block: Block) -> VoteSubject:
        header = block.header
        return VoteSubject(
            kind="vote",
            epoch=self.epoch.epoch,
            view=header.view,
            block_id=block.id,
            height=header.height,
            justify_view=header.justify.view,
        )

    def vote(self, block: Block, signer: int) -> Vote:
        subject = self.vote_subject(block)
        return Vote(
            kind=subject.kind,
            epoch=subject.epoch,
            view=subject.view,
            block_id=subject.block_id,
            height=subject.height,
            justify_view=subject.justify_view,
            signer=signer,
            signature=self._sign(signer, subject),
        )

    def order_vote(self, qc: Certificate, signer: int) -> OrderVote:
        """``signer`` saw ``qc``."""
        return OrderVote(epoch=self.epoch.epoch, qc=qc, signer=signer, signature=self._sign(signer, order_subject(qc)))

    def confirmation(self, qc: Certificate) -> Certificate:
        """The first validators that are a quorum saw ``qc``."""
        return self.certificate(order_subject(qc), range(self.quorum))

    def qc(self, block: Block, signers: Sequence[int] | None = None) -> Certificate:
        """The certificate of a block, by the first validators that are a quorum, or by ``signers``."""
        subject = self.vote_subject(block)
        return self.certificate(subject, range(self.quorum) if signers is None else signers)

    def certificate(self, subject: VoteSubject, signers: Sequence[int]) -> Certificate:
        bitmap, signature = self._join(subject, signers)
        return Certificate(
            kind=subject.kind,
            epoch=subject.epoch,
            view=subject.view,
            block_id=subject.block_id,
            height=subject.height,
            justify_view=subject.justify_view,
            signers=bitmap,
            signature=signature,
        )

    def timeout_subject(self, view: int, high_qc: Certificate) -> TimeoutSubject:
        return TimeoutSubject(
            epoch=self.epoch.epoch, view=view, high_qc_view=high_qc.view if self._signs_high_qc else None
        )

    def timeout(
        self, view: int, signer: int, high_qc: Certificate | None = None, tc: TimeoutCertificate | None = None
    ) -> Timeout:
        """``signer`` gives up ``view``; where ``high_qc`` does not let it enter, everybody gave up the view before."""
        high = self.genesis if high_qc is None else high_qc
        if tc is None and high.view != view - 1:
            tc = self.tc(view - 1, [high] * self.quorum)
        return Timeout(
            epoch=self.epoch.epoch,
            view=view,
            high_qc=high,
            entry_proof=tc,
            signer=signer,
            signature=self._sign(signer, self.timeout_subject(view, high)),
        )

    def tc(self, view: int, high_qcs: Sequence[Certificate]) -> TimeoutCertificate:
        """Validators 0, 1, ... gave up ``view``, each with its own highest certificate."""
        by_view: dict[int | None, list[int]] = {}
        for signer, high_qc in enumerate(high_qcs):
            by_view.setdefault(self.timeout_subject(view, high_qc).high_qc_view, []).append(signer)
        groups = []
        for signed in sorted(by_view, key=lambda key: -1 if key is None else key):
            subject = TimeoutSubject(epoch=self.epoch.epoch, view=view, high_qc_view=signed)
            bitmap, signature = self._join(subject, by_view[signed])
            groups.append(TimeoutGroup(high_qc_view=signed, signers=bitmap, signature=signature))
        return TimeoutCertificate(
            epoch=self.epoch.epoch,
            view=view,
            high_qc=max(high_qcs, key=lambda high_qc: high_qc.view),
            groups=tuple(groups),
        )

    def tree(self, *blocks: Block, root: Block | None = None) -> BlockTree:
        """A block tree above genesis or above ``root``."""
        if root is None:
            top = Root(
                id=self.genesis.block_id,
                height=self.genesis.height,
                view=0,
                timestamp_ms=self.epoch.boundary_timestamp_ms,
            )
        else:
            header = root.header
            top = Root(id=root.id, height=header.height, view=header.view, timestamp_ms=header.timestamp_ms)
        tree = BlockTree(top)
        for block in blocks:
            tree.insert(block, self.body(block))
        return tree

    def _sign(self, signer: int, subject: Subject) -> bytes:
        return self.committee.sign(signer, subject)

    def _join(self, subject: Subject, signers: Sequence[int]) -> tuple[bytes, bytes]:
        ordered = tuple(sorted(signers))
        aggregate = self.committee.scheme.aggregate([self._sign(signer, subject) for signer in ordered])
        assert aggregate is not None
        return bitmap_of(ordered), aggregate


class Happened:
    """What one event caused, with everything that its effects caused in turn."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.effects: list[Effect] = []

    def of(self, kind: type[E]) -> list[E]:
        """The effects of one type, in order."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def sent(self, kind: type[E]) -> list[E]:
        """The messages of one type that were sent or broadcast."""
        messages = (getattr(effect, "message", None) for effect in self.effects)
        return [message for message in messages if isinstance(message, kind)]

    @property
    def signed(self) -> list[Subject]:
        """What was signed, without order votes."""
        return [effect.subject for effect in self.of(Sign) if effect.subject.kind != ORDER]

    @property
    def ordered(self) -> list[Subject]:
        """The order votes that were signed."""
        return [effect.subject for effect in self.of(Sign) if effect.subject.kind == ORDER]

    @property
    def reasons(self) -> list[str]:
        """Why peers were rejected."""
        return [effect.reason for effect in self.of(Reject)]


def every_body_is_good(check: CheckPayload) -> bool | None:
    return True


class Alone:
    """One replica without a network. Its signer answers at once, and so does its payload source: ``judge`` says
    whether a body is valid, or None for not yet. Its journal survives :meth:`restart`."""

    def __init__(
        self,
        committee: Committee,
        me: int | None = 0,
        *,
        judge: Callable[[CheckPayload], bool | None] = every_body_is_good,
        journal: MemoryJournal | None = None,
        ledger_height: int = 0,
    ) -> None:
        self.committee = committee
        self.me = me
        self.now = 0
        self.judge = judge
        self.signs = True
        self.timers: dict[str, int] = {}
        self.journal = MemoryJournal() if journal is None else journal
        definition = protocol_named(committee.spec.protocol)
        made: list[Engine] = []

        def factory(*, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, me: int | None) -> Engine:
            made.append(definition.engine(spec=spec, epoch=epoch, scheme=scheme, me=me))
            return made[-1]

        self.replica = committee.replica(factory, me)
        step = self.replica.start(self.recovered(max(ledger_height, committee.epoch.genesis.height)), self.now)
        self.engine = made[-1]
        self.started = self._perform(step)

    def recovered(self, ledger_height: int) -> Recovered:
        """What the journal holds; at the start of a later epoch, no more than how it began."""
        change = self.committee.change
        if change is None or self.journal.commits:
            return msgspec.structs.replace(self.journal.recover(ledger_height), epoch_change=change)
        genesis = self.committee.epoch.genesis
        return msgspec.structs.replace(
            self.journal.recover(0),
            committed_height=genesis.height,
            committed_id=genesis.block_id,
            head_proof=change.proof,
            epoch_change=change,
        )

    def restart(self, *, ledger_height: int = 0) -> Alone:
        """The same validator after kill -9."""
        return Alone(self.committee, self.me, judge=self.judge, journal=self.journal, ledger_height=ledger_height)

    @property
    def view(self) -> int:
        return self.replica.status().view

    @property
    def committed(self) -> int:
        return self.replica.status().committed_height

    def feed(self, event: Event) -> Happened:
        if isinstance(event, Received) and epoch_of(event.message) != self.committee.epoch.epoch:
            return self._perform(self.engine.handle(event, self.now))  # a replica keeps it back; an engine refuses it
        return self._perform(self.replica.handle(event, self.now))

    def hear(self, message: msgspec.Struct, peer: int | bytes | None = None) -> Happened:
        """A message, from its author unless ``peer`` says otherwise (a validator's index, or another's peer id)."""
        if peer is None:
            peer = _author(message)
        return self.feed(Received(self.committee.peer(peer) if isinstance(peer, int) else peer, message))

    def time_out(self) -> Happened:
        """The view timer fires."""
        return self.feed(TimerFired("view"))

    def end_wait(self) -> Happened:
        """Where a leader waits after a failed view, that wait ends."""
        self.now = max(self.now, self.timers.get(WAIT_TIMER, 0))
        return self.feed(TimerFired(WAIT_TIMER))

    def build(
        self,
        view: int,
        parent: bytes,
        body: bytes = b"",
        timestamp_ms: int | None = None,
        next_validators_hash: bytes = b"",
    ) -> Happened:
        """The payload source answers."""
        return self.feed(
            PayloadBuilt(
                view=view,
                parent=parent,
                payload_root=root_of(body),
                body=body,
                timestamp_ms=1_000 + view if timestamp_ms is None else timestamp_ms,
                next_validators_hash=next_validators_hash,
            )
        )

    def _perform(self, first: Step) -> Happened:
        happened = Happened()
        steps = deque((first,))
        while steps:
            step = steps.popleft()
            self.journal.append(step.records)
            happened.records += step.records
            happened.effects += step.effects
            for effect in step.effects:
                answer = self._answer(effect)
                if answer is not None:
                    steps.append(self.replica.handle(answer, self.now))
        return happened

    def _answer(self, effect: Effect) -> Event | None:
        match effect:
            case SetTimer(name, deadline_ns):
                self.timers[name] = deadline_ns
                return None
            case Sign(subject) if self.signs:
                assert self.me is not None
                return Signed(subject, self.committee.sign(self.me, subject))
            case CheckPayload():
                valid = self.judge(effect)
                if valid is None:
                    return None
                return PayloadVerdict(
                    block_id=effect.block.id, certified=effect.certified, valid=valid, reason="" if valid else "bad"
                )
            case _:
                return None


def grow(chain: Chain, alone: Alone, *blocks: Block) -> Happened:
    """The replica hears these blocks and then a quorum's certificate for the last."""
    for block in blocks:
        alone.hear(chain.proposal(block))
    return alone.hear(Certificates(epoch=alone.committee.epoch.epoch, high_qc=chain.qc(blocks[-1]), high_tc=None))


def refused(happened: Happened, peer: bytes) -> str:
    """The reason for which this peer, and nobody else, was rejected, once."""
    rejects = happened.of(Reject)
    assert [reject.peer for reject in rejects] == [peer]
    return rejects[0].reason


def view_deadline_ns(happened: Happened) -> int:
    """When the view timer was last set to fire."""
    return [effect.deadline_ns for effect in happened.of(SetTimer) if effect.name == "view"][-1]


def tampered(vote: Vote) -> Vote:
    """The same vote with a signature that is not its signer's."""
    return msgspec.structs.replace(vote, signature=bytes(31) + b"\x07")


def _author(message: msgspec.Struct) -> int:
    match message:
        case Vote() | Timeout() | OrderVote():
            return message.signer
        case Proposal():
            return message.header.proposer
        case _:
            return 1
