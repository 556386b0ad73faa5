"""Broken changes of the validators: each breaks one thing between two epochs, whatever the protocol."""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec

from consensus.block_tree import Entry
from consensus.crypto.scheme import Scheme
from consensus.engine import BlockRecord, Commit, CommitRecord, EpochRecord, Event, PayloadBuilt, PayloadVerdict, Record
from consensus.engine import Step
from consensus.epochs import EpochInfo
from consensus.genesis import ChainSpec
from consensus.protocols.block_pipeline import BlockPipeline
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.registry import HOTSTUFF, JOLTEON, protocol_named
from consensus.replica import Replica
from consensus.types import CommitProof, Nanoseconds, ValidatorIndex
from netsim.mutants.engines import broken
from netsim.mutants.mutant import Mutant

SEARCH: Final = "swarm-epochs"


class SkipsBoundaries(Replica):
    """Names no validators, and minds nobody who does not."""

    def handle(self, event: Event, now: Nanoseconds) -> Step:
        if isinstance(event, PayloadBuilt):
            event = msgspec.structs.replace(event, next_validators_hash=b"")
        elif isinstance(event, PayloadVerdict):
            event = msgspec.structs.replace(event, valid=True, reason="")
        return super().handle(event, now)


class KeepsTheOldSet(Replica):
    """Goes on with the first validators, under the name of the next."""

    def _enter(self, epoch: EpochInfo) -> None:
        if epoch.epoch:
            epoch = dataclasses.replace(epoch, validators=self._first.validators, leaders=self._first.leaders)
        super()._enter(epoch)


class BeginsBeforeTheCommit(Replica):
    """Begins the next epoch as soon as it voted for the boundary."""

    def _handle(self, event: Event, now: Nanoseconds) -> Step:
        step = super()._handle(event, now)
        for record in step.records:
            if isinstance(record, BlockRecord) and self._live == record.block.header.epoch:
                header = record.block.header
                if header.next_validators_hash:
                    proof = CommitProof(epoch=header.epoch, headers=(), certificate=header.justify)
                    self._finish_epoch(record.block, proof)
                    more = self._out.finish()
                    return Step(step.records + more.records, step.effects + more.effects)
        return step


class FallsSilent(Replica):
    """Leaves without a word to those who join."""

    def _hand_over(self, now: Nanoseconds) -> None:
        pass


def without_epochs(record: Record) -> bool:
    """The journal never learns that an epoch began: its guard is reset, and nothing says why."""
    return not isinstance(record, EpochRecord)


class Uncapped(BlockPipeline):
    """Commits up to the goal, boundary or not."""

    __slots__ = ()

    def try_commit(self) -> None:
        goal = self._goal
        path = None if goal is None else self.tree.path(goal.block_id)
        if goal is None or path is None or not self.all_checked(path, full_check_of_last=False) or not path:
            return
        proof = self._proof(path[-1], goal)
        if proof is None:
            return
        self.record(path)
        for entry in path:
            own = proof if entry is path[-1] else None
            self._out.records.append(CommitRecord(entry.height, entry.block.id, own))
            self._out.effects.append(Commit(block=entry.block, body=entry.body, proof=own))
        self.tree.commit(path[-1])
        self._aim_higher()


class UncappedEngine(ChainedEngine):
    """The HotStuff family with it."""

    def __init__(
        self, *, spec: ChainSpec, epoch: EpochInfo, scheme: Scheme, rules: Jolteon | HotStuff, me: ValidatorIndex | None
    ) -> None:
        super().__init__(spec=spec, epoch=epoch, scheme=scheme, rules=rules, me=me)
        self._blocks.__class__ = Uncapped


BROKEN: Final = (
    *(
        Mutant(id="E1", change="the boundary is skipped", definition=definition, scenario=SEARCH,
               replica=SkipsBoundaries)
        for definition in (JOLTEON, protocol_named("simplex"))
    ),
    *(
        Mutant(id="E2", change="the old set's signatures count after the boundary", definition=definition,
               scenario=SEARCH, replica=KeepsTheOldSet)
        for definition in (JOLTEON, protocol_named("tendermint"))
    ),
    *(
        Mutant(id="E3", change="the new set is active before the commit", definition=definition, scenario=SEARCH,
               replica=BeginsBeforeTheCommit)
        for definition in (JOLTEON, HOTSTUFF)
    ),
    *(
        Mutant(id="E4", change="the guard is reset at the epoch without the epoch's record", definition=definition,
               scenario=SEARCH, keep=without_epochs)
        for definition in (JOLTEON, protocol_named("simplex"))
    ),
    Mutant(id="E6", change="who leaves falls silent at once", definition=JOLTEON, scenario="epochs-joiners-unheard",
           replica=FallsSilent),
    *(
        Mutant(id="E5", change="commits above the boundary", scenario=SEARCH,
               definition=broken(rules_name, rules, UncappedEngine))
        for rules_name, rules in (("jolteon", Jolteon()), ("hotstuff", HotStuff()))
    ),
)  # fmt: skip
