"""The puppet: an adversary without a core. It sees every message when it is sent, makes certificates from what it saw
and the keys it owns, and acts by the explicit moves of its schedule: blocks on any certified parent, to chosen
recipients; votes, timeouts and certificates to some and not to others.

All puppets of a run share what they know (:class:`Cabal`). For the HotStuff family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from consensus.engine import Received
from consensus.protocols.chained_types import (
    Certificates,
    Proposal,
    Timeout,
    TimeoutCertificate,
    TimeoutGroup,
    TimeoutSubject,
)
from consensus.types import (
    EMPTY_PAYLOAD_ROOT,
    BlockHeader,
    BlockId,
    Certificate,
    ProposalSubject,
    View,
    Vote,
    VoteSubject,
    bitmap_of,
    vote_subject,
)
from netsim.network import nanoseconds
from netsim.schedule import Actor, Announce, CastVote, GiveUp, Move, Propose
from netsim.world import Host, World

_encode = msgspec.msgpack.Encoder().encode


class Cabal:
    """What the puppets of one run know together."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.epoch = world.committee.epoch
        self.scheme = world.committee.scheme
        self.members: list[int] = []
        self.puppets: list[Puppet] = []
        self.headers: dict[BlockId, BlockHeader] = {}
        self.proposals: dict[View, list[tuple[BlockId, BlockHeader]]] = {}
        genesis = self.epoch.genesis
        self.certificates: dict[BlockId, Certificate] = {genesis.block_id: genesis}
        self.votes: dict[VoteSubject, dict[int, bytes]] = {}
        self.timeouts: dict[View, dict[int, Timeout]] = {}
        self.entry: dict[View, TimeoutCertificate] = {}
        self.signs_certificate_view: bool | None = None
        self.reached: View = 0
        world.listeners.append(self.hear)
        world.entering.append(self.reach)

    def hear(self, host: Host, message: msgspec.Struct) -> None:
        """Somebody sends something."""
        kind = type(message)
        if kind is Vote:
            self.hear_vote(host, message)  # type: ignore[arg-type]
        elif kind is Proposal:
            self.hear_proposal(message)  # type: ignore[arg-type]
        elif kind is Timeout:
            self.hear_timeout(message)  # type: ignore[arg-type]
        elif kind is Certificates:
            self.learn(message.high_qc)  # type: ignore[attr-defined]
            if message.high_tc is not None:  # type: ignore[attr-defined]
                self.entry.setdefault(message.high_tc.view, message.high_tc)  # type: ignore[attr-defined]

    def hear_vote(self, host: Host, vote: Vote) -> None:
        if host.index != vote.signer or vote.block_id in self.certificates:
            return
        subject = vote_subject(vote)
        signatures = self.votes.setdefault(subject, {})
        signatures[vote.signer] = vote.signature
        stakes = self.epoch.validators.stakes
        signers = sorted({*signatures, *self.members})
        if sum(stakes[signer] for signer in signers) < self.epoch.validators.quorum:
            return
        for member in self.members:
            signatures.setdefault(member, self.world.committee.sign(member, subject))
        aggregate = self.scheme.aggregate([signatures[signer] for signer in signers])
        if aggregate is not None:
            self.learn(
                Certificate(
                    kind=vote.kind, epoch=vote.epoch, view=vote.view, block_id=vote.block_id, height=vote.height,
                    justify_view=vote.justify_view, signers=bitmap_of(tuple(signers)), signature=aggregate,
                )
            )  # fmt: skip

    def hear_proposal(self, proposal: Proposal) -> None:
        header = proposal.header
        block_id = digest(header)
        if block_id in self.headers:
            return
        self.headers[block_id] = header
        there = self.proposals.setdefault(header.view, [])
        there.append((block_id, header))
        self.learn(header.justify)
        if proposal.entry_proof is not None:
            self.entry.setdefault(proposal.entry_proof.view, proposal.entry_proof)
        for puppet in self.puppets:
            puppet.saw(header.view, len(there) - 1)

    def hear_timeout(self, timeout: Timeout) -> None:
        self.timeouts.setdefault(timeout.view, {}).setdefault(timeout.signer, timeout)
        self.learn(timeout.high_qc)
        if timeout.entry_proof is not None:
            self.entry.setdefault(timeout.entry_proof.view, timeout.entry_proof)
        if self.signs_certificate_view is None:
            subject = TimeoutSubject(epoch=timeout.epoch, view=timeout.view, high_qc_view=timeout.high_qc.view)
            key = self.epoch.validators.public_keys[timeout.signer]
            covered = self.epoch.domain.bytes_to_sign(subject)
            self.signs_certificate_view = self.scheme.verify(key, covered, timeout.signature)

    def learn(self, certificate: Certificate) -> None:
        """A certificate that it can show to whom it likes."""
        if certificate.block_id not in self.certificates:
            self.certificates[certificate.block_id] = certificate
            self.reach(certificate.view + 1)

    def reach(self, view: View) -> None:
        """View ``view`` can be entered by now: its moves begin."""
        while self.reached < view:
            self.reached += 1
            for puppet in self.puppets:
                puppet.enter(self.reached)

    def ranked(self, below: View) -> list[Certificate]:
        """What can be stood on in view ``below``, highest first."""
        usable = [known for known in self.certificates.values() if known.view < below]
        return sorted(usable, key=lambda known: (-known.view, known.block_id))

    def timeout_of(self, member: int, view: View, high_qc: Certificate) -> Timeout:
        """A puppet's timeout of ``view``, with the certificate that it likes."""
        signed = high_qc.view if self.signs_certificate_view is not False else None
        subject = TimeoutSubject(epoch=0, view=view, high_qc_view=signed)
        proof = None if high_qc.view == view - 1 else self.entry_proof(view - 1, "honest", high_qc)
        return Timeout(
            epoch=0, view=view, high_qc=high_qc, entry_proof=proof, signer=member,
            signature=self.world.committee.sign(member, subject),
        )  # fmt: skip

    def entry_proof(self, view: View, style: str, justify: Certificate) -> TimeoutCertificate | None:
        """A timeout certificate of ``view`` from a quorum that it chooses; else one that it saw."""
        seen = dict(self.timeouts.get(view, {}))
        certificates = self.ranked(view)
        if seen and certificates:
            for member in self.members:
                chosen = certificates[0] if style == "honest" else certificates[-1]
                signed = chosen.view if self.signs_certificate_view is not False else None
                subject = TimeoutSubject(epoch=0, view=view, high_qc_view=signed)
                seen[member] = Timeout(
                    epoch=0, view=view, high_qc=chosen, entry_proof=None, signer=member,
                    signature=self.world.committee.sign(member, subject),
                )  # fmt: skip
        validators = self.epoch.validators
        order = sorted(seen.values(), key=lambda timeout: (timeout.high_qc.view, timeout.signer))
        if style == "honest":
            order.reverse()
        quorum: list[Timeout] = []
        for timeout in order:
            if validators.stake_of(taken.signer for taken in quorum) < validators.quorum:
                quorum.append(timeout)
        if validators.stake_of(taken.signer for taken in quorum) < validators.quorum:
            return self.entry.get(view)
        return self.make(view, quorum, justify if style == "forged" else None)

    def make(self, view: View, quorum: Sequence[Timeout], pretended: Certificate | None) -> TimeoutCertificate | None:
        groups: dict[int, dict[int, bytes]] = {}
        for timeout in quorum:
            signed = timeout.high_qc.view if self.signs_certificate_view is not False else -1
            groups.setdefault(signed, {})[timeout.signer] = timeout.signature
        made = []
        for signed in sorted(groups):
            signatures = groups[signed]
            signers = tuple(sorted(signatures))
            aggregate = self.scheme.aggregate([signatures[signer] for signer in signers])
            if aggregate is None:
                return None
            made.append(
                TimeoutGroup(
                    high_qc_view=None if signed < 0 else signed, signers=bitmap_of(signers), signature=aggregate
                )
            )
        highest = max((timeout.high_qc for timeout in quorum), key=lambda certificate: certificate.view)
        shown = highest if pretended is None or pretended.view >= view else pretended
        return TimeoutCertificate(epoch=0, view=view, high_qc=shown, groups=tuple(made))


class Puppet:
    """One validator's moves."""

    has_core = False

    def __init__(self, spec: Actor) -> None:
        self.moves: dict[View, list[Move]] = {}
        for move in spec.moves:
            begins = move.begins if isinstance(move, Propose) and move.begins is not None else move.view
            self.moves.setdefault(begins, []).append(move)

    def attach(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        assert host.index is not None
        self.index = host.index
        fellows = [other.player for other in world.hosts if isinstance(other.player, Puppet) and other is not host]
        known: list[Cabal] = [fellow.cabal for fellow in fellows if hasattr(fellow, "cabal")]
        self.cabal: Cabal = known[0] if known else Cabal(world)
        self.cabal.members.append(self.index)
        self.cabal.puppets.append(self)

    def outgoing(
        self, host: Host, targets: Sequence[Host], message: msgspec.Struct
    ) -> Sequence[tuple[Host, msgspec.Struct, int]]:
        return ()

    def incoming(self, host: Host, event: Received) -> Received | None:
        return None

    def enter(self, view: View) -> None:
        """The view's moves, but for votes, which wait for blocks."""
        for move in self.moves.get(view, ()):
            if not isinstance(move, CastVote):
                self.later(move)

    def saw(self, view: View, choice: int) -> None:
        """The ``choice``-th block of ``view`` was proposed."""
        for move in self.moves.get(view, ()):
            if isinstance(move, CastVote) and move.choice == choice:
                self.later(move)

    def later(self, move: Move) -> None:
        world = self.world
        world.at(world.now + nanoseconds(move.after_ms), lambda: self.act(move))

    def act(self, move: Move) -> None:
        message: msgspec.Struct | None
        if isinstance(move, Propose):
            message = self.proposal(move)
        elif isinstance(move, CastVote):
            message = self.vote(move)
        else:
            ranked = self.cabal.ranked(move.view if isinstance(move, GiveUp) else 2**62)
            chosen = ranked[min(move.high, len(ranked) - 1)]
            if isinstance(move, Announce):
                message = Certificates(epoch=0, high_qc=chosen, high_tc=None)
            else:
                message = self.cabal.timeout_of(self.index, move.view, chosen)
        if message is None:
            return
        hosts = self.world.hosts
        targets = [hosts[position] for position in move.to if hosts[position] is not self.host]
        for _ in range(move.times if isinstance(move, CastVote) else 1):
            self.world.inject(self.host, targets, message)

    def vote(self, move: CastVote) -> Vote | None:
        there = self.cabal.proposals.get(move.view, [])
        if move.choice >= len(there):
            return None
        block_id, header = there[move.choice]
        vote = Vote(
            kind="vote", epoch=0, view=header.view, block_id=block_id, height=header.height,
            justify_view=header.justify.view, signer=self.index, signature=b"",
        )  # fmt: skip
        signature = self.world.committee.sign(self.index, vote_subject(vote))
        return msgspec.structs.replace(vote, signature=signature)

    def proposal(self, move: Propose) -> Proposal | None:
        cabal, epoch, view = self.cabal, self.cabal.epoch, move.view
        if epoch.leaders.leader(view) != self.index:
            return None
        ranked = cabal.ranked(view)
        justify = ranked[min(move.parent, len(ranked) - 1)]
        proof = None
        if justify.view != view - 1 and move.proof != "none":
            proof = cabal.entry_proof(view - 1, move.proof, justify)
            if proof is None:
                justify = ranked[0]
                if justify.view != view - 1:
                    return None
        parent = cabal.headers.get(justify.block_id)
        stamp = epoch.boundary_timestamp_ms if parent is None else parent.timestamp_ms
        header = BlockHeader(
            chain=epoch.chain, epoch=0, view=view, height=justify.height + 1, parent=justify.block_id, justify=justify,
            entry_proof_hash=b"" if proof is None else digest(proof), payload_root=EMPTY_PAYLOAD_ROOT,
            payload_size=0, next_validators_hash=b"", timestamp_ms=stamp + 1 + move.variant, proposer=self.index,
        )  # fmt: skip
        block_id = digest(header)
        subject = ProposalSubject(epoch=0, view=view, block_id=block_id)
        return Proposal(
            epoch=0, header=header, body=memoryview(b""), entry_proof=proof,
            signature=self.world.committee.sign(self.index, subject),
        )  # fmt: skip


def digest(value: msgspec.Struct) -> bytes:
    """SHA-256 of the canonical bytes."""
    return hashlib.sha256(_encode(value)).digest()
