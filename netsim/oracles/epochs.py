"""S11, and L8: what happens where one epoch ends and the next begins.

Where epochs end, and who follows, is read from the schedule; the hash of a set is put together here.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.engine import Commit, EpochRecord, Record
from consensus.types import BlockId
from netsim.network import MILLISECOND
from netsim.numbering import split
from netsim.oracles.judge import CertifiedFact, Judge, SignedFact
from netsim.world import Host

PAUSE_TIMEOUTS_MAX = 2


class Boundaries:
    """S11: epochs follow each other as the chain orders.

    * A committed block names the next validators where an epoch ends, by their hash, and nowhere else; it is of the
      epoch that its height belongs to, so that nothing above a boundary is committed in the old epoch.
    * All honest nodes begin an epoch after the same committed block, with the validators that it names.
    * An honest node signs nothing of an epoch before it has that epoch's beginning on its disk and the boundary in its
      ledger, and nothing of an epoch before the one that it has begun.
    * No block of an epoch is certified before some honest node has committed the boundary.
    """

    id = "S11"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        schedule = judge.world.schedule
        self.ends = {epoch.height: number for number, epoch in enumerate(schedule.epochs, start=1)}
        self.first: dict[int, BlockId] = {}
        """The boundary after which the first honest node began each epoch."""
        self.crossed: dict[int, None] = {}
        """Epochs whose boundary an honest node has committed."""
        self.begun: dict[int, int] = {}
        judge.on_committed.append(self.committed)
        judge.on_stored.append(self.stored)
        if schedule.epochs:
            judge.on_signed.append(self.signed)
            judge.on_certified.append(self.certified)

    def committed(self, host: Host, commit: Commit) -> None:
        header = commit.block.header
        height, named = header.height, header.next_validators_hash
        if not self.ends:
            if named or header.epoch:
                self.judge.fire(self.id, host, f"height {height} belongs to no epoch of this chain")
            return
        epoch = sum(end < height for end in self.ends)
        following = self.ends.get(height)
        expected = b"" if following is None else self.judge.epochs[following].hash
        where = f"node {host.position} commits height {height}"
        if header.epoch != epoch:
            self.judge.fire(self.id, host, f"{where} in epoch {header.epoch}, which it does not belong to: {epoch}")
        elif named != expected:
            what = "no validators" if not named else f"validators {named.hex()[:8]}"
            due = "none are due" if not expected else f"{expected.hex()[:8]} are due"
            self.judge.fire(self.id, host, f"{where}, which names {what} where {due}")
        elif following is not None:
            self.crossed[following] = None

    def stored(self, host: Host, records: Sequence[Record]) -> None:
        for record in records:
            if type(record) is EpochRecord and host.honest:
                self.began(host, record)

    def began(self, host: Host, record: EpochRecord) -> None:
        change = record.change
        boundary, epoch = change.boundary, change.boundary.epoch + 1
        if self.ends.get(boundary.height) != epoch:
            text = f"node {host.position} begins epoch {epoch} after height {boundary.height}, where none ends"
            self.judge.fire(self.id, host, text)
            return
        block_id = self.judge.learn(boundary)
        if self.first.setdefault(epoch, block_id) != block_id:
            text = f"node {host.position} begins epoch {epoch} after another block than the first that did"
            self.judge.fire(self.id, host, text)
        elif len(host.ledger) < boundary.height or host.ledger[boundary.height - 1] != block_id:
            text = f"node {host.position} begins epoch {epoch} before its boundary is committed"
            self.judge.fire(self.id, host, text)
        elif tuple(each.public_key for each in change.validators) != self.judge.epochs[epoch].keys:
            self.judge.fire(self.id, host, f"node {host.position} begins epoch {epoch} with other validators")
        self.begun[host.position] = epoch

    def signed(self, fact: SignedFact) -> None:
        host, epoch = fact.host, fact.subject.epoch
        if not host.honest:
            return
        if epoch and (host.journal.epoch < epoch or len(host.ledger) < self.judge.height_of(epoch)):
            text = f"node {host.position} signs a {fact.kind} of epoch {epoch} before it has begun durably"
            self.judge.fire(self.id, host, text)
        elif epoch < self.begun.get(host.position, 0):
            text = f"node {host.position} signs a {fact.kind} of epoch {epoch} after it began a later one"
            self.judge.fire(self.id, host, text)

    def certified(self, fact: CertifiedFact) -> None:
        epoch, view = split(fact.view)
        if epoch and epoch not in self.crossed:
            text = f"a block of view {view} of epoch {epoch} is certified, and no honest node committed the boundary"
            self.judge.fire(self.id, None, text)


class NoLongPause:
    """L8: where nothing is wrong, no two commits in a row are further apart than two view timeouts, changes of the
    validators included."""

    id = "L8"

    def attach(self, judge: Judge) -> None:
        self.judge = judge
        self.height = 0
        self.at_ns = 0
        timeout_ms = judge.world.committee.spec.pacing.view_timeout_ms
        self.limit_ns = PAUSE_TIMEOUTS_MAX * timeout_ms * MILLISECOND
        schedule = judge.world.schedule
        if schedule.fault_free and schedule.epochs and judge.definition.costs.responsive:
            judge.on_committed.append(self.committed)

    def committed(self, host: Host, commit: Commit) -> None:
        height, now = commit.block.header.height, self.judge.world.now
        if height <= self.height:
            return
        if now - self.at_ns > self.limit_ns:
            text = f"height {height} commits {(now - self.at_ns) // MILLISECOND} ms after the one before"
            self.judge.fire(self.id, host, text)
        self.height, self.at_ns = height, now
