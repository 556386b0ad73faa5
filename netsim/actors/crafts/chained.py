"""The craft of the HotStuff family: blocks with timeout certificates of a quorum of one's choice, timeouts with a
certificate of one's choice."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from consensus.protocols.chained_types import (
    Certificates,
    Proposal,
    Timeout,
    TimeoutCertificate,
    TimeoutGroup,
    TimeoutSubject,
)
from consensus.types import BlockHeader, Certificate, ProposalSubject, View, VoteSubject, bitmap_of, epoch_of
from netsim.actors.cabal import Cabal, Seen, digest
from netsim.actors.crafts.craft import Entry, vote_for
from netsim.reading import parts
from netsim.schedule import Announce, GiveUp
from netsim.world import Host


class ChainedCraft:
    """Collects timeouts, and makes certificates of them as a move asks for."""

    def __init__(self, cabal: Cabal) -> None:
        self.epoch = cabal.epoch.epoch
        self.cabal = cabal
        self.sign = cabal.world.committee.sign
        self.timeouts: dict[View, dict[int, Timeout]] = {}
        self.seen: dict[View, TimeoutCertificate] = {}
        self.signs_certificate_view: bool | None = None
        cabal.world.listeners.append(self.hear)

    def hear(self, host: Host, message: msgspec.Struct) -> None:
        """Somebody sends something: timeouts and their certificates are kept."""
        if epoch_of(message) != self.epoch:
            return
        if isinstance(message, Timeout):
            self.timeouts.setdefault(message.view, {}).setdefault(message.signer, message)
            if self.signs_certificate_view is None:
                self.signs_certificate_view = self.signs(message)
        if isinstance(message, Proposal | Timeout | Certificates):
            for part in parts(message):
                if isinstance(part, TimeoutCertificate):
                    self.seen.setdefault(part.view, part)

    def signs(self, timeout: Timeout) -> bool:
        """Whether a timeout signs the view of its certificate, in this protocol."""
        subject = TimeoutSubject(epoch=timeout.epoch, view=timeout.view, high_qc_view=timeout.high_qc.view)
        epoch = self.cabal.epoch
        covered = epoch.domain.bytes_to_sign(subject)
        return self.cabal.scheme.verify(epoch.validators.public_keys[timeout.signer], covered, timeout.signature)

    def view(self, turn: int, justify: Certificate) -> View | None:
        return turn if turn > justify.view else None

    def entry(self, view: View, style: str, justify: Certificate) -> Entry | None:
        if justify.view == view - 1 or style == "none":
            return Entry(None, b"")
        proof = self.proof(view - 1, style, justify)
        return None if proof is None else Entry(proof, digest(proof))

    def proposal(self, member: int, view: View, header: BlockHeader, entry: Entry) -> msgspec.Struct:
        subject = ProposalSubject(epoch=self.epoch, view=view, block_id=digest(header))
        proof = entry.proof if isinstance(entry.proof, TimeoutCertificate) else None
        signature = self.sign(member, subject)
        return Proposal(epoch=self.epoch, header=header, body=memoryview(b""), entry_proof=proof, signature=signature)

    def vote(self, kind: str, seen: Seen) -> VoteSubject:
        return vote_for(kind, seen)

    def give_up(self, member: int, move: GiveUp, chosen: Certificate) -> Sequence[msgspec.Struct]:
        view = move.view
        proof = None if chosen.view == view - 1 else self.proof(view - 1, "honest", chosen)
        return (self.timeout(member, view, chosen, proof),)

    def announce(self, member: int, move: Announce, chosen: Certificate) -> Sequence[msgspec.Struct]:
        return (Certificates(epoch=self.epoch, high_qc=chosen, high_tc=None),)

    def timeout(self, member: int, view: View, high_qc: Certificate, proof: TimeoutCertificate | None) -> Timeout:
        """A puppet's timeout of ``view``, with the certificate that it likes."""
        signed = high_qc.view if self.signs_certificate_view is not False else None
        signature = self.sign(member, TimeoutSubject(epoch=self.epoch, view=view, high_qc_view=signed))
        return Timeout(
            epoch=self.epoch, view=view, high_qc=high_qc, entry_proof=proof, signer=member, signature=signature
        )

    def proof(self, view: View, style: str, justify: Certificate) -> TimeoutCertificate | None:
        """A timeout certificate of ``view`` from a quorum that it chooses; else one that it saw."""
        seen = dict(self.timeouts.get(view, {}))
        certificates = self.cabal.ranked(view)
        if seen and certificates:
            chosen = certificates[0] if style == "honest" else certificates[-1]
            for member in self.cabal.members:
                seen[member] = self.timeout(member, view, chosen, None)
        validators = self.cabal.epoch.validators
        order = sorted(seen.values(), key=lambda timeout: (timeout.high_qc.view, timeout.signer))
        if style == "honest":
            order.reverse()
        quorum: list[Timeout] = []
        for timeout in order:
            if validators.stake_of(taken.signer for taken in quorum) < validators.quorum:
                quorum.append(timeout)
        if validators.stake_of(taken.signer for taken in quorum) < validators.quorum:
            return self.seen.get(view)
        return self.make(view, quorum, justify if style == "forged" else None)

    def make(self, view: View, quorum: Sequence[Timeout], pretended: Certificate | None) -> TimeoutCertificate | None:
        """The certificate of those timeouts, showing another highest certificate if it pretends."""
        groups: dict[int, dict[int, bytes]] = {}
        for timeout in quorum:
            signed = timeout.high_qc.view if self.signs_certificate_view is not False else -1
            groups.setdefault(signed, {})[timeout.signer] = timeout.signature
        made = []
        for signed in sorted(groups):
            signatures = groups[signed]
            signers = tuple(sorted(signatures))
            aggregate = self.cabal.scheme.aggregate([signatures[signer] for signer in signers])
            if aggregate is None:
                return None
            group = TimeoutGroup(
                high_qc_view=None if signed < 0 else signed, signers=bitmap_of(signers), signature=aggregate
            )
            made.append(group)
        highest = max((timeout.high_qc for timeout in quorum), key=lambda certificate: certificate.view)
        shown = highest if pretended is None or pretended.view >= view else pretended
        return TimeoutCertificate(epoch=self.epoch, view=view, high_qc=shown, groups=tuple(made))
