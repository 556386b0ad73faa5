"""Safety: S1 to S8 and S12, and X1, the exception that leaves a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from consensus.engine import BlockRecord, Commit, Event, PeerConnected, Record, Recovered, SafetyRecord, TimerFired
from consensus.protocols.chained_types import TimeoutCertificate
from consensus.types import BlockId, Certificate
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
    """S3: an honest signer signs at most one subject per kind and view, before and after crashes. Schemes are
    deterministic: another signature is another subject."""

    id = "S3"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.signed: dict[tuple[int, str, int], bytes] = {}
        judge.on_signed.append(self.tell)

    def tell(self, fact: SignedFact) -> None:
        host = fact.host
        if (
            host.honest
            and self.signed.setdefault((fact.signer, fact.kind, fact.view), fact.signature) != fact.signature
        ):
            self.judge.fire(self.id, host, f"validator {fact.signer} signs a second {fact.kind} in view {fact.view}")


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
        self.encode = msgspec.msgpack.Encoder().encode

    def started(self, host: Host, recovered: Recovered) -> None:
        """What a start finds is stored: a write that a crash interrupted may have got through."""
        for record in recovered.safety:
            self.subjects[host.position][record.subject] = None
        self.blocks[host.position].update(dict.fromkeys(host.journal.blocks))

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, SafetyRecord):
                if record.kind in host.journal.safety:
                    self.subjects[host.position][record.subject] = None
            elif isinstance(record, BlockRecord):
                block_id = record.block.id
                if block_id in host.journal.blocks:
                    self.blocks[host.position][block_id] = None

    def tell(self, fact: SignedFact) -> None:
        host = fact.host
        if not host.honest:
            return
        if self.encode(fact.content) not in self.subjects[host.position]:
            self.judge.fire(self.id, host, f"the {fact.kind} of view {fact.view} was sent before it was stored")
        names = fact.content[4] if fact.kind == "vote" else fact.content[3] if fact.kind == "proposal" else None
        if isinstance(names, bytes) and names not in self.blocks[host.position]:
            self.judge.fire(self.id, host, f"the block that the {fact.kind} of view {fact.view} names is not stored")


class Monotone:
    """S5: what an honest node stores as voted view, lock and highest certificate never falls, over all restarts."""

    id = "S5"
    NAMES: Final = ("voted view", "lock", "highest certificate")

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.last: list[tuple[int, int, int]] = [(0, 0, 0)] * len(judge.world.hosts)
        judge.on_stored.append(self.stored)

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        if not host.honest:
            return
        for record in records:
            if not isinstance(record, SafetyRecord):
                continue
            state = _decode_state(record.state)
            views = (state.voted_view, state.lock.view, state.high_qc.view)
            before = self.last[host.position]
            if before == views:
                continue
            for name, old, new in zip(self.NAMES, before, views, strict=True):
                if new < old:
                    self.judge.fire(self.id, host, f"node {host.position}: its {name} falls from {old} to {new}")
            self.last[host.position] = views


class OneCertificatePerView:
    """S6: votes certify at most one block per view."""

    id = "S6"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        judge.on_certified.append(self.certified)

    def certified(self, fact: CertifiedFact) -> None:
        if len(self.judge.certified[fact.view]) > 1:
            self.judge.fire(self.id, None, f"two blocks are certified in view {fact.view}")


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
        self.heads[header.height] = (header.view, block_id)
        self.top = max(self.top, header.height)
        for view in sorted(view for view in self.judge.certified if view > header.view):
            for certified in self.judge.certified[view].values():
                self.check(certified, header.view, block_id, header.height)

    def certified(self, fact: CertifiedFact) -> None:
        """The highest committed block below the certificate's view is enough: it extends those before."""
        for height in range(self.top, 0, -1):
            view, block_id = self.heads.get(height, (fact.view, b""))
            if view < fact.view:
                self.check(fact, view, block_id, height)
                return

    def check(self, fact: CertifiedFact, view: int, block_id: BlockId, height: int) -> None:
        if self.judge.extends(fact.block_id, block_id, height) is False:
            text = f"the certificate of view {fact.view} does not extend the block committed in view {view}"
            self.judge.fire(self.id, None, text)


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
