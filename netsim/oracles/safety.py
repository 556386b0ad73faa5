"""Safety: S1 to S10 and S12, and X1, the exception that leaves a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import msgspec

from consensus.engine import (
    BlockRecord,
    Commit,
    EpochRecord,
    Event,
    PeerConnected,
    Record,
    Recovered,
    SafetyRecord,
    TimerFired,
)
from consensus.finality.types import FFG
from consensus.protocols.chained_types import TimeoutCertificate, TimeoutSubject
from consensus.types import NIL_BLOCK, BlockId, Certificate, Slot, Subject, View
from netsim.numbering import name_of, numbered
from netsim.oracles.judge import CertifiedFact, Judge, SignedFact
from netsim.world import Host


class _Certificate(msgspec.Struct, array_like=True, gc=False):
    """The first fields of a certificate, as far as its view."""

    kind: msgspec.Raw
    epoch: int
    view: int


class _State(msgspec.Struct, array_like=True, gc=False):
    """The first fields of a stored safety state: all that Monotone reads of it."""

    voted_view: int
    lock: _Certificate
    high_qc: _Certificate


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_state: Final = msgspec.msgpack.Decoder(_State).decode


class Agreement:
    """S1: at each height all honest nodes commit one block, over all restarts."""

    id = "S1"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.chain: dict[int, BlockId] = {}
        judge.on_committed.append(self.committed)

    def committed(self, host: Host, commit: Commit) -> None:
        height, block_id = commit.block.header.height, commit.block.id
        agreed = self.chain.setdefault(height, block_id)
        if agreed != block_id:
            text = f"node {host.position} commits {block_id.hex()[:8]} at height {height}, another {agreed.hex()[:8]}"
            self.judge.fire(self.id, host, text)


class AppendOnly:
    """S2: a node's log grows by one block that follows from the last; repeated heights repeat the block."""

    id = "S2"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_committed.append(self.committed)

    def committed(self, host: Host, commit: Commit) -> None:
        header, block_id, ledger = commit.block.header, commit.block.id, host.ledger
        height = header.height
        if height <= len(ledger):
            if ledger[height - 1] != block_id:
                self.judge.fire(self.id, host, f"node {host.position} changes height {height} of its own log")
            return
        parent = ledger[-1] if ledger else self.judge.genesis_id
        if height != len(ledger) + 1 or header.parent != parent:
            text = f"node {host.position} commits height {height} after {len(ledger)}, not a child of its head"
            self.judge.fire(self.id, host, text)


class OneSubjectPerSlot:
    """S3: an honest signer signs at most one subject per kind and slot, before and after crashes. Schemes are
    deterministic: another signature is another subject."""

    id = "S3"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.signed: dict[tuple[int, str, int], bytes] = {}  # by node: its index may change with the epoch
        judge.on_signed.append(self.tell)

    def tell(self, fact: SignedFact) -> None:
        host = fact.host
        if (
            host.honest
            and self.signed.setdefault((host.position, fact.kind, fact.view), fact.signature) != fact.signature
        ):
            self.judge.fire(
                self.id, host, f"validator {fact.signer} signs a second {fact.kind} in {name_of(fact.view)}"
            )


class DurableFirst:
    """S4: what an honest node sends under its signature was stored before, with the block it names."""

    id = "S4"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.subjects: list[dict[bytes, None]] = [{} for _ in judge.world.hosts]
        self.blocks: list[dict[BlockId, None]] = [{} for _ in judge.world.hosts]
        judge.on_stored.append(self.stored)
        judge.on_started.append(self.started)
        judge.on_signed.append(self.tell)

    def started(self, host: Host, recovered: Recovered) -> None:
        """What a start finds is stored: a write that a crash interrupted may have got through."""
        for record in recovered.safety:
            self.subjects[host.position][record.subject] = None
        self.blocks[host.position].update(dict.fromkeys(host.journal.blocks))

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        journal, position = host.journal, host.position
        for record in records:
            if type(record) is SafetyRecord:
                if record.kind in journal.safety:
                    self.subjects[position][record.subject] = None
            elif type(record) is BlockRecord:
                block_id = record.block.id
                if block_id in journal.blocks:
                    self.blocks[position][block_id] = None

    def tell(self, fact: SignedFact) -> None:
        host = fact.host
        if not host.honest:
            return
        if _encode(cast("msgspec.Struct", fact.subject)) not in self.subjects[host.position]:
            self.judge.fire(self.id, host, f"the {fact.kind} of {name_of(fact.view)} was sent before it was stored")
        block_id = getattr(fact.subject, "block_id", NIL_BLOCK)
        if block_id != NIL_BLOCK and block_id not in self.blocks[host.position]:
            text = f"the block that the {fact.kind} of {name_of(fact.view)} names is not stored"
            self.judge.fire(self.id, host, text)


class Monotone:
    """S5: what an honest node stores in an epoch never falls, over all restarts: the slot of each kind that it signed,
    and in the HotStuff family the voted view, the lock and the highest certificate."""

    id = "S5"
    NAMES: Final = ("voted view", "lock", "highest certificate")

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.last: list[tuple[int, int, int]] = [(0, 0, 0)] * len(judge.world.hosts)
        self.slots: dict[tuple[int, str], Slot] = {}
        if TimeoutSubject in judge.definition.subjects:
            judge.on_stored.append(self.stored)
        else:
            self.subjects = judge.definition.subject_codec()
            judge.on_stored.append(self.stored_slots)

    def stored_slots(self, host: Host, records: Sequence[Record]) -> None:
        """The slots alone: what else the state holds is the protocol's own."""
        for record in records:
            if isinstance(record, SafetyRecord) and host.honest and record.kind != FFG:  # whose record is A3's
                slot = cast("Subject", self.subjects.decode(record.subject)).slot  # its epoch comes first
                last = self.slots.setdefault((host.position, record.kind), slot)
                if slot < last:
                    self.judge.fire(
                        self.id, host, f"node {host.position}: its {record.kind} falls from {last} to {slot}"
                    )
                self.slots[host.position, record.kind] = slot

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        if not host.honest:
            return
        for record in records:
            if type(record) is EpochRecord:
                self.last[host.position] = (0, 0, 0)
            if type(record) is not SafetyRecord or record.kind == FFG:
                continue
            state = _decode_state(record.state)
            views = voted, lock, high = state.voted_view, state.lock.view, state.high_qc.view
            before = self.last[host.position]
            self.last[host.position] = views
            if voted >= before[0] and lock >= before[1] and high >= before[2]:
                continue
            for name, old, new in zip(self.NAMES, before, views, strict=True):
                if new < old:
                    self.judge.fire(self.id, host, f"node {host.position}: its {name} falls from {old} to {new}")


class OneCertificatePerView:
    """S6: quorums vote for at most one block per view, in whatever kinds."""

    id = "S6"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_certified.append(self.certified)

    def certified(self, fact: CertifiedFact) -> None:
        if any(block_id != fact.block_id for block_id, _ in self.judge.certified[fact.view]):
            self.judge.fire(self.id, None, f"two blocks are certified in {name_of(fact.view)}")


class CertificatesVerify:
    """S7: every certificate that an honest node shows is a quorum's, each signer once, re-verified from its bytes."""

    id = "S7"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_certificate.append(self.certificate)
        judge.on_timeout_certificate.append(self.timeouts)

    def certificate(self, host: Host, certificate: Certificate, good: bool) -> None:
        if host.honest and not good:
            self.judge.fire(self.id, host, f"node {host.position} shows a false certificate of view {certificate.view}")

    def timeouts(self, host: Host, certificate: TimeoutCertificate, good: bool) -> None:
        if host.honest and not good:
            text = f"node {host.position} shows a false timeout certificate of view {certificate.view}"
            self.judge.fire(self.id, host, text)


class CertifiedExtendsCommitted:
    """S8: when a block of view v is committed by its own descendants' certificates (not merely as another's ancestor),
    every block certified above v extends it."""

    id = "S8"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.heads: dict[int, tuple[int, BlockId]] = {}
        self.top = 0
        judge.on_committed.append(self.committed)
        judge.on_certified.append(self.certified)

    def committed(self, host: Host, commit: Commit) -> None:
        header, block_id = commit.block.header, commit.block.id
        if header.height in self.heads or commit.proof is None:
            return
        self.judge.learn(header)
        committed = header.view
        # By a quorum of its own, perhaps in a later view than it was made in; or, a boundary, as the ancestor of a
        # closing block, which no log shows.
        if not commit.proof.headers or header.next_validators_hash:
            committed = max(committed, commit.proof.certificate.view)
        committed = numbered(header.epoch, committed)
        self.heads[header.height] = (committed, block_id)
        self.top = max(self.top, header.height)
        for view in sorted(view for view in self.judge.certified if view > committed):
            for certified in self.judge.certified[view].values():
                self.check(certified, committed, block_id, header.height)

    def certified(self, fact: CertifiedFact) -> None:
        """The highest committed block below the certificate's view is enough: it extends those before."""
        for height in range(self.top, 0, -1):
            view, block_id = self.heads.get(height, (fact.view, b""))
            if view < fact.view:
                self.check(fact, view, block_id, height)
                return

    def check(self, fact: CertifiedFact, view: int, block_id: BlockId, height: int) -> None:
        if self.judge.extends(fact.block_id, block_id, height) is False:
            text = f"the certificate of {name_of(fact.view)} does not extend the block committed in {name_of(view)}"
            self.judge.fire(self.id, None, text)


class FinalizedOrGivenUp:
    """S9: no view has both a quorum that commits its block and a quorum that gave it up for good (Simplex: a
    finalization and a nullification)."""

    id = "S9"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.finalized: dict[View, None] = {}
        if any(kind.nil and not kind.blocks for kind in judge.definition.votes):
            judge.on_certified.append(self.certified)
            judge.on_given_up.append(self.given_up)

    def certified(self, fact: CertifiedFact) -> None:
        if self.judge.kinds[fact.kind].commits:
            self.finalized[fact.view] = None
            self.check(fact.view)

    def given_up(self, view: View) -> None:
        self.check(view)

    def check(self, view: View) -> None:
        if view in self.finalized and view in self.judge.given_up:
            self.judge.fire(self.id, None, f"{name_of(view)} is finalized and given up")


class NoOrderAfterTimeout:
    """S10: an honest signer sends no order vote for a view once it gave up that view or a later one."""

    id = "S10"
    ORDER: Final = "order"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.given_up: dict[int, View] = {}
        self.ordered: dict[int, dict[bytes, None]] = {}
        if self.ORDER in judge.kinds:
            judge.on_signed.append(self.tell)

    def tell(self, fact: SignedFact) -> None:
        host = fact.host
        if not host.honest:
            return
        node = host.position
        if type(fact.subject) is TimeoutSubject:
            self.given_up[node] = max(self.given_up.get(node, 0), fact.view)
        elif fact.kind == self.ORDER:
            before = self.ordered.setdefault(node, {})
            last = self.given_up.get(node, 0)
            if fact.signature not in before and fact.view <= last:
                text = f"validator {fact.signer} orders {name_of(fact.view)} after it gave up {name_of(last)}"
                self.judge.fire(self.id, host, text)
            before[fact.signature] = None


class NoExceptions:
    """S12 and X1: no exception leaves a step; S12 when it is a timer that found its signing rule false."""

    id = "S12"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_broke.append(self.broke)

    def broke(self, host: Host, event: Event, error: Exception) -> None:
        if host.honest:
            oracle = self.id if isinstance(event, TimerFired) else "X1"
            start = isinstance(event, PeerConnected) and event.peer == host.peer
            what = "its start" if start else type(event).__name__
            text = f"node {host.position} stops on {what}: {type(error).__name__}: {error}"
            self.judge.fire(oracle, host, text)
