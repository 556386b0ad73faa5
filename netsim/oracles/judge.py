"""The judge: turns what the world tells into facts, and hands each fact to the oracles that asked for it.

Facts are drawn from messages when they are *sent*, by whomever: what one honest node may learn at any time. Votes are
tallied here again, with own arithmetic (``3 * stake > 2 * total``), so that a certificate is known as soon as it can
exist, and a certificate that nobody could make is noticed.

Views are numbered over all epochs (``netsim/numbering.py``), so that what holds of views holds across epochs: those of
a later epoch are higher. A validator is its node; its index is that of one epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from consensus.engine import Commit, Event, Finalize, Record, Recovered, ReportEvidence
from consensus.finality.types import FfgVote
from consensus.protocols.chained_types import TimeoutCertificate, TimeoutSubject
from consensus.types import (
    NIL_BLOCK,
    SYNC_MESSAGES,
    BlockHeader,
    BlockId,
    Certificate,
    EpochEnd,
    Subject,
    View,
    Vote,
    VoteSubject,
    certificate_subject,
    vote_subject,
)
from netsim.committee import Era
from netsim.numbering import numbered
from netsim.reading import header_in, parts
from netsim.world import Host, Violation, World

_encode: Final = msgspec.msgpack.Encoder().encode
VIOLATIONS_MAX: Final = 100


class Known(msgspec.Struct, frozen=True, gc=False):
    """A block that somebody proposed."""

    id: BlockId
    parent: BlockId
    height: int
    view: View
    justify_view: View
    payload_root: bytes
    epoch: int
    timestamp_ms: int
    next_validators_hash: bytes


class SignedFact(msgspec.Struct, frozen=True):
    """Somebody sent something that it signed. ``view`` is the number of the view of the subject's slot, ``signer`` an
    index of the subject's epoch."""

    host: Host
    signer: int
    kind: str
    view: View
    subject: Subject
    signature: bytes


class CertifiedFact(msgspec.Struct, frozen=True, gc=False):
    """A quorum voted for a block. ``view`` is numbered over all epochs."""

    view: View
    block_id: BlockId
    height: int
    kind: str


class Seats:
    """The validators of one epoch, as the schedule has them. ``hash`` is put together here."""

    __slots__ = ("hash", "keys", "nodes", "prefixes", "quorum", "stakes", "total")

    def __init__(self, era: Era) -> None:
        validators = era.validators.validators
        self.nodes = era.nodes
        self.keys = tuple(validator.public_key for validator in validators)
        self.stakes = tuple(validator.stake for validator in validators)
        self.total = sum(self.stakes)
        self.quorum = next(stake for stake in range(self.total + 1) if 3 * stake > 2 * self.total)
        self.hash = hashlib.sha256(_encode([list(validators)])).digest()
        self.prefixes: dict[str, bytes] = {}


class _Tally:
    """Who voted for one subject, and the stake of them all."""

    __slots__ = ("certified", "signers", "stake")

    def __init__(self) -> None:
        self.signers: dict[int, None] = {}
        self.stake = 0
        self.certified = False


class Oracle(Protocol):
    """Judges one property. ``attach`` subscribes to the judge's facts; ``judge.fire`` reports a violation."""

    id: str

    def attach(self, judge: Judge) -> None: ...


class Judge:
    """One run's facts and oracles. A :class:`~netsim.world.Watcher`."""

    def __init__(self, world: World, oracles: Sequence[Oracle]) -> None:
        self.world = world
        self.blocks: dict[BlockId, Known] = {}
        self.certified: dict[View, dict[tuple[BlockId, str], CertifiedFact]] = {}
        """By the number of the view, as all that follows."""
        self.given_up: dict[View, None] = {}
        """Views for which a quorum voted in a kind that never names a block."""
        self.on_signed: list[Callable[[SignedFact], None]] = []
        self.on_certified: list[Callable[[CertifiedFact], None]] = []
        self.on_given_up: list[Callable[[View], None]] = []
        self.on_certificate: list[Callable[[Host, Certificate, bool], None]] = []
        self.on_timeout_certificate: list[Callable[[Host, TimeoutCertificate, bool], None]] = []
        self.on_stored: list[Callable[[Host, Sequence[Record]], None]] = []
        self.on_committed: list[Callable[[Host, Commit], None]] = []
        self.on_entered: list[Callable[[Host, View], None]] = []
        self.on_fired: list[Callable[[Host, str], None]] = []
        self.on_accused: list[Callable[[Host, ReportEvidence], None]] = []
        self.on_started: list[Callable[[Host, Recovered], None]] = []
        self.on_finality_vote: list[Callable[[Host, FfgVote], None]] = []
        self.on_finalized: list[Callable[[Host, Finalize], None]] = []
        self.on_broke: list[Callable[[Host, Event, Exception], None]] = []
        self.on_end: list[Callable[[], None]] = []
        self.epochs = tuple(map(Seats, world.committee.eras))
        """The validators of each epoch."""
        first = self.epochs[0]
        self.stakes, self.total, self.quorum = first.stakes, first.total, first.quorum
        self._seen: dict[int, msgspec.Struct] = {}
        self._verified: dict[Certificate, bool] = {}
        self._shown: dict[Certificate, bool] = {}
        self._verified_groups: dict[TimeoutCertificate, bool] = {}
        self._tally: dict[VoteSubject, _Tally] = {}
        self.definition = world.definition
        self.kinds = {kind.name: kind for kind in world.definition.votes}
        genesis = world.committee.epoch.genesis
        self.genesis_id = genesis.block_id
        for oracle in oracles:
            oracle.attach(self)

    def fire(self, oracle: str, host: Host | None, text: str) -> None:
        """Report a violation and end the run: what follows a fault is noise."""
        world = self.world
        if len(world.violations) < VIOLATIONS_MAX:
            position = -1 if host is None else host.position
            world.violations.append(Violation(oracle=oracle, at_ns=world.now, node=position, text=text))
        world.finished = True

    def is_quorum(self, stake: int, epoch: int = 0) -> bool:
        """Strictly more than two thirds of an epoch's stake."""
        return 3 * stake > 2 * (self.epochs[epoch].total if epoch else self.total)

    def seat(self, host: Host, epoch: int) -> int | None:
        """The index of a node in an epoch; None where it observes."""
        return host.index if not epoch else self.world.committee.seat(host.node, epoch)

    def height_of(self, epoch: int) -> int:
        """The height of the block before an epoch's first."""
        return self.world.committee.eras[epoch].height

    def extends(self, block_id: BlockId, ancestor: BlockId, ancestor_height: int) -> bool | None:
        """Whether ``block_id`` is ``ancestor`` or descends from it; None when a block between was never seen."""
        known = self.blocks.get(block_id)
        while known is not None:
            if known.id == ancestor:
                return True
            if known.height <= ancestor_height:
                return False
            if known.parent == self.genesis_id:
                return False
            known = self.blocks.get(known.parent)
        return None

    # --- signatures, checked with own bytes ---------------------------------------------------------------------

    def bytes_signed(self, subject: Subject) -> bytes:
        """What a signature over ``subject`` covers, put together here from the wire format's description."""
        kind, epoch = subject.kind, subject.epoch
        seats = self.epochs[epoch]
        prefix = seats.prefixes.get(kind)
        if prefix is None:
            spec = self.world.committee.spec
            genesis_hash = hashlib.sha256(_encode(spec)).digest()
            prefix = _encode(["shared-sequencer/" + kind, spec.chain_id, genesis_hash, epoch, seats.hash])
            seats.prefixes[kind] = prefix
        return prefix + _encode(subject)

    def verifies(self, signer: int, subject: Subject, signature: bytes) -> bool:
        """Whether ``signer``, an index of the subject's epoch, signed that."""
        keys = self.epochs[subject.epoch].keys if 0 <= subject.epoch < len(self.epochs) else ()
        if not 0 <= signer < len(keys):
            return False
        return self.world.committee.scheme.verify(keys[signer], self.bytes_signed(subject), signature)

    def certificate_verifies(self, certificate: Certificate) -> bool:
        """Whether a quorum signed it (or it is the epoch's own genesis certificate)."""
        known = self._verified.get(certificate)
        if known is None:
            known = self._verified[certificate] = self._certificate_verifies(certificate)
        return known

    def _certificate_verifies(self, certificate: Certificate) -> bool:
        if certificate.view == 0 and not certificate.epoch:
            return certificate.block_id == self.genesis_id and not certificate.signers
        if certificate.view == 0:
            return self._begins_epoch(certificate)
        subject = certificate_subject(certificate)
        return self._aggregate_verifies(subject, certificate.signers, certificate.signature, True)

    def _begins_epoch(self, certificate: Certificate) -> bool:
        """Whether it is what the first block of an epoch after the first stands on: a function of the boundary block
        and of the validators alone."""
        boundary = self.blocks.get(certificate.block_id)
        if boundary is None or certificate.signers or not 0 < certificate.epoch < len(self.epochs):
            return False
        named = self.epochs[certificate.epoch].hash
        of = [certificate.epoch, boundary.id, boundary.height, boundary.timestamp_ms, named]
        return (
            boundary.next_validators_hash == named
            and certificate.height == boundary.height
            and certificate.signature == hashlib.sha256(_encode(of)).digest()
        )

    def _aggregate_verifies(self, subject: Subject, bitmap: bytes, signature: bytes, quorum: bool) -> bool:
        signers = members(bitmap)
        if not 0 <= subject.epoch < len(self.epochs):
            return False
        seats = self.epochs[subject.epoch]
        if not signers or signers[-1] >= len(seats.keys):
            return False
        if quorum and 3 * sum(seats.stakes[signer] for signer in signers) <= 2 * seats.total:
            return False
        keys = [seats.keys[signer] for signer in signers]
        return self.world.committee.scheme.verify_aggregate(keys, self.bytes_signed(subject), signature)

    def signed_by_all(self, subject: Subject, bitmap: bytes, signature: bytes) -> bool:
        """Whether everybody in the bitmap signed that, quorum or not."""
        return self._aggregate_verifies(subject, bitmap, signature, False)

    def timeout_certificate_verifies(self, certificate: TimeoutCertificate) -> bool:
        """Whether a quorum gave the view up, each signer once, and the certificate shown is the highest signed."""
        known = self._verified_groups.get(certificate)
        if known is not None:
            return known
        signers = [signer for group in certificate.groups for signer in members(group.signers)]
        epoch = certificate.epoch
        stakes = self.epochs[epoch].stakes if 0 <= epoch < len(self.epochs) else ()
        stake = sum(stakes[signer] for signer in signers if signer < len(stakes))
        signed = [group.high_qc_view for group in certificate.groups if group.high_qc_view is not None]
        good = (
            len(signers) == len(frozenset(signers))
            and bool(stakes)
            and self.is_quorum(stake, epoch)
            and (not signed or max(signed) == certificate.high_qc.view)
            and certificate.high_qc.view < certificate.view
            and self.certificate_verifies(certificate.high_qc)
            and all(
                self._aggregate_verifies(
                    TimeoutSubject(epoch=certificate.epoch, view=certificate.view, high_qc_view=group.high_qc_view),
                    group.signers,
                    group.signature,
                    False,
                )
                for group in certificate.groups
            )
        )
        self._verified_groups[certificate] = good
        return good

    # --- what the world tells -----------------------------------------------------------------------------------

    def sent(self, host: Host, message: msgspec.Struct) -> None:
        if id(message) in self._seen:
            return
        self._seen[id(message)] = message
        if type(message) is Vote:
            self._voted(host, message)
        elif type(message) is FfgVote:
            for tell in self.on_finality_vote:
                tell(host, message)
        elif type(message) is EpochEnd:
            self._showed(host, message.proof.certificate)
        elif type(message) not in SYNC_MESSAGES:
            self._said(host, message)

    def _signed(self, host: Host, signer: int, subject: Subject, view: View, signature: bytes) -> bool:
        """Tell the oracles, if it really is the signer's."""
        epoch = subject.epoch
        if epoch:
            if self.seat(host, epoch) != signer:
                return False
            view = numbered(epoch, view)
        elif host.index != signer:
            return False
        if not host.honest and not self.verifies(signer, subject, signature):
            return False
        fact = SignedFact(host, signer, subject.kind, view, subject, signature)
        for tell in self.on_signed:
            tell(fact)
        return True

    def _voted(self, host: Host, vote: Vote) -> None:
        subject = vote_subject(vote)
        if not self._signed(host, vote.signer, subject, vote.view, vote.signature):
            return
        tally = self._tally.get(subject)
        if tally is None:
            tally = self._tally[subject] = _Tally()
        if vote.signer not in tally.signers:
            tally.signers[vote.signer] = None
            tally.stake += (self.epochs[vote.epoch].stakes if vote.epoch else self.stakes)[vote.signer]
        if not tally.certified and self.is_quorum(tally.stake, vote.epoch):
            tally.certified = True
            self._certify(subject)

    def _said(self, host: Host, message: msgspec.Struct) -> None:
        """Any other message: its block, what it states, and the certificates that it shows."""
        header = header_in(message)
        if header is not None:
            self.learn(header)
        statement = self.definition.statement(message)
        if statement is not None and 0 <= statement.subject.epoch < len(self.epochs):
            subject = statement.subject
            self._signed(host, statement.signer, subject, subject.slot.major, statement.signature)
        for part in parts(message):
            if type(part) is Certificate:
                self._showed(host, part)
            elif type(part) is TimeoutCertificate:
                self._showed_timeouts(host, part)

    def learn(self, header: BlockHeader) -> BlockId:
        """Remember a block; its id."""
        block_id = hashlib.sha256(_encode(header)).digest()
        if block_id not in self.blocks:
            self.blocks[block_id] = Known(
                block_id, header.parent, header.height, header.view, header.justify.view, header.payload_root,
                header.epoch, header.timestamp_ms, header.next_validators_hash,
            )  # fmt: skip
        return block_id

    def _showed(self, host: Host, certificate: Certificate) -> None:
        known = self._shown.get(certificate)
        good = self.certificate_verifies(certificate) if known is None else known
        for tell in self.on_certificate:
            tell(host, certificate, good)
        if known is None:
            self._shown[certificate] = good
            if good and certificate.view > 0:
                self._certify(certificate_subject(certificate))

    def _showed_timeouts(self, host: Host, certificate: TimeoutCertificate) -> None:
        if self.on_timeout_certificate:
            good = self.timeout_certificate_verifies(certificate)
            for tell in self.on_timeout_certificate:
                tell(host, certificate, good)

    def _certify(self, subject: VoteSubject) -> None:
        """A quorum voted for that."""
        kind = self.kinds.get(subject.kind)
        view = subject.view if not subject.epoch else numbered(subject.epoch, subject.view)
        if subject.block_id == NIL_BLOCK:
            if kind is not None and not kind.blocks and view not in self.given_up:
                self.given_up[view] = None
                for give in self.on_given_up:
                    give(view)
            return
        there = self.certified.get(view)
        if there is None:
            there = self.certified[view] = {}
        key = (subject.block_id, subject.kind)
        if key in there:
            return
        fact = there[key] = CertifiedFact(view, subject.block_id, subject.height, subject.kind)
        for tell in self.on_certified:
            tell(fact)

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        for tell in self.on_stored:
            tell(host, records)

    def committed(self, host: Host, commit: Commit) -> None:
        if not host.honest:
            return
        for tell in self.on_committed:
            tell(host, commit)

    def entered(self, host: Host, view: View) -> None:
        for tell in self.on_entered:
            tell(host, view)

    def fired(self, host: Host, name: str) -> None:
        for tell in self.on_fired:
            tell(host, name)

    def accused(self, host: Host, evidence: ReportEvidence) -> None:
        for tell in self.on_accused:
            tell(host, evidence)

    def finalized(self, host: Host, effect: Finalize) -> None:
        for tell in self.on_finalized:
            tell(host, effect)

    def started(self, host: Host, recovered: Recovered) -> None:
        for tell in self.on_started:
            tell(host, recovered)

    def broke(self, host: Host, event: Event, error: Exception) -> None:
        for tell in self.on_broke:
            tell(host, event, error)

    def died(self, host: Host) -> None:
        """Nothing is judged by it: what a crash loses shows later."""

    def end(self) -> None:
        """The run is over: what is judged at the end."""
        for tell in self.on_end:
            tell()

    def close(self) -> None:
        """Forget the oracles: they know their judge."""
        for facts in (
            self.on_signed, self.on_certified, self.on_given_up, self.on_certificate, self.on_timeout_certificate,
            self.on_stored, self.on_committed, self.on_entered, self.on_fired, self.on_accused, self.on_started,
            self.on_broke, self.on_end, self.on_finality_vote, self.on_finalized,
        ):  # fmt: skip
            facts.clear()


def members(bitmap: bytes) -> list[int]:
    """The set bits of a little-endian bitmap, ascending."""
    bits = int.from_bytes(bitmap, "little")
    return [index for index in range(bits.bit_length()) if bits >> index & 1]
