"""Wrong protocols, for showing that the schedules of :mod:`tests.support.puppet` would notice: each is one rule of
ours, altered. Their names are those of the simulator's design.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from consensus.engine import Recovered
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.chained_family import chained
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.registry import HOTSTUFF, JOLTEON
from netsim.mutants.engines import (
    AnyMaximum,
    NoLock,
    NoLockThree,
    OneChain,
    ThreeChainAnyViews,
    TwoChainAnyViews,
    TwoChainThreeLock,
)
from tests.support.cluster import MILLISECOND, Cluster, Crash, MemoryJournal, Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """``alter`` patches the code for one test; ``prepare`` the cluster of one schedule."""

    name: str
    definition: ProtocolDefinition
    protocol: str
    alter: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    prepare: Callable[[Cluster, random.Random], None] = lambda cluster, draw: None
    rare: bool = False
    """Found once in a thousand schedules or less often."""


def quorum_of_two(cluster: Cluster, draw: random.Random) -> None:
    """S1: F + 1."""
    cluster.committee.epoch.validators.quorum = 2


def low_timeouts(patch: pytest.MonkeyPatch) -> None:
    """J2: timeouts show genesis wherever a timeout certificate lets them."""
    time_out = ChainedEngine._time_out

    def low(self: ChainedEngine) -> None:
        entered, high_qc = self._high_tc, self._high_qc
        if entered is not None and entered.view == self._view - 1:
            self._high_qc = self._epoch.genesis
        time_out(self)
        self._high_qc = high_qc

    patch.setattr(Jolteon, "may_time_out", lambda self, high_qc, lock: True)
    patch.setattr(ChainedEngine, "_time_out", low)


def votes_after_timeouts(patch: pytest.MonkeyPatch) -> None:
    """J3."""
    time_out = ChainedEngine._time_out

    def forgetful(self: ChainedEngine) -> None:
        before = self._last_voted_view
        time_out(self)
        self._last_voted_view = before

    patch.setattr(ChainedEngine, "_time_out", forgetful)


@dataclass(slots=True)
class ForgetfulJournal(MemoryJournal):
    """Loses the safety records of some kinds at a restart."""

    forgets: tuple[str, ...] = ()

    def recover(self, ledger_height: int) -> Recovered:
        whole = MemoryJournal.recover(self, ledger_height)
        kept = tuple(record for record in whole.safety if record.kind not in self.forgets)
        return msgspec.structs.replace(whole, safety=kept)


def forgetting(*kinds: str) -> Callable[[Cluster, random.Random], None]:
    """Crashes at every boundary, and journals that lose these kinds."""

    def prepare(cluster: Cluster, draw: random.Random) -> None:
        for node in cluster.nodes:
            node.journal = ForgetfulJournal(forgets=kinds)
        crashes(cluster, draw)

    return prepare


def crashes(cluster: Cluster, draw: random.Random) -> None:
    """kill -9 at boundaries drawn from the seed; the node is back within 40 ms."""

    def crash_point(node: Node, where: str) -> None:
        if draw.random() < 0.01:
            delay_ns = draw.randint(1, 40) * MILLISECOND
            cluster.at(cluster.now + delay_ns, lambda: cluster.start(node) if node.replica is None else None)
            raise Crash

    cluster.crash_point = crash_point


MUTANTS = (
    Mutant(name="S1 jolteon", definition=JOLTEON, protocol="jolteon", prepare=quorum_of_two),
    Mutant(name="S1 hotstuff", definition=HOTSTUFF, protocol="hotstuff", prepare=quorum_of_two),
    Mutant(name="S4 jolteon", definition=chained("jolteon", NoLock()), protocol="jolteon"),
    Mutant(name="S4 hotstuff", definition=chained("hotstuff", NoLockThree()), protocol="hotstuff"),
    Mutant(name="S5", definition=chained("jolteon", OneChain()), protocol="jolteon"),
    Mutant(name="S6", definition=chained("hotstuff", TwoChainThreeLock()), protocol="hotstuff"),
    Mutant(name="S7", definition=chained("jolteon", TwoChainAnyViews()), protocol="jolteon"),
    Mutant(name="S8", definition=chained("hotstuff", ThreeChainAnyViews()), protocol="hotstuff"),
    Mutant(name="J1", definition=chained("jolteon", AnyMaximum()), protocol="jolteon"),
    Mutant(name="J2", definition=JOLTEON, protocol="jolteon", alter=low_timeouts),
    Mutant(name="J3", definition=JOLTEON, protocol="jolteon", alter=votes_after_timeouts, rare=True),
    Mutant(name="S9 jolteon", definition=JOLTEON, protocol="jolteon", prepare=forgetting("vote")),
    Mutant(name="S9 hotstuff", definition=HOTSTUFF, protocol="hotstuff", prepare=forgetting("vote")),
    Mutant(name="S11", definition=JOLTEON, protocol="jolteon", prepare=forgetting("vote", "timeout", "proposal")),
    Mutant(name="R1", definition=JOLTEON, protocol="jolteon", prepare=forgetting("proposal")),
    Mutant(name="R2", definition=JOLTEON, protocol="jolteon", prepare=forgetting("timeout")),
)
