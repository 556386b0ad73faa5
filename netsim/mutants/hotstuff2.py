"""Broken HotStuff-2: what locks, and the leader's wait. Each class changes one thing of its parent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consensus.block_tree import BlockTree, Entry
from consensus.protocols.chained import ChainedEngine
from consensus.protocols.chained_types import TimeoutCertificate
from consensus.protocols.hotstuff2 import HotStuff2
from consensus.types import BlockHeader, Certificate
from netsim.mutants.engines import ForgetsLock, ForgetsVotedView, broken
from netsim.mutants.mutant import Mutant


class LocksOnSeeing(ChainedEngine):
    """The lock is the highest certificate seen, not the highest that a voted block stood on."""

    def _adopt_certificate(self, certificate: Certificate) -> None:
        super()._adopt_certificate(certificate)
        self._lock = self._high_qc


class NoWait(HotStuff2):
    """A leader after a failed view proposes at once."""

    leader_waits = False


class NoLock(HotStuff2):
    """Votes for whatever is entitled to its view."""

    def may_vote(
        self, header: BlockHeader, entry_proof: TimeoutCertificate | None, lock: Certificate, tree: BlockTree
    ) -> bool:
        return True


class NeverLocks(HotStuff2):
    """Votes lock nothing."""

    def lock_after(self, lock: Certificate, header: BlockHeader, tree: BlockTree) -> Certificate:
        return lock


class AnyViews(HotStuff2):
    """Two chains of direct parents, whatever their views."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        child = tree.get(certificate.block_id)
        return None if child is None else tree.get(child.parent)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 2


class OneChain(HotStuff2):
    """Commits what is certified."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        return tree.get(certificate.block_id)

    def is_committed(self, chain: Sequence[BlockHeader]) -> bool:
        return len(chain) >= 1


def _row(
    identity: str,
    change: str,
    rules: HotStuff2,
    engine: type[ChainedEngine] = ChainedEngine,
    scenario: str = "swarm",
) -> Mutant:
    return Mutant(id=identity, change=change, definition=broken(rules.name, rules, engine), scenario=scenario)


BROKEN: Final = (
    _row("S4", "no lock, no safety check", NoLock()),
    _row("S5", "commits on one chain", OneChain()),
    _row("S7", "2-chain without the consecutive-view check", AnyViews()),
    _row("S9", "a restart forgets the voted view", HotStuff2(), ForgetsVotedView, "swarm-restarts"),
    _row("S10", "a restart forgets the lock", HotStuff2(), ForgetsLock, "swarm-restarts"),
    _row("S12", "votes lock nothing", NeverLocks()),
    _row("N2", "locks on seeing a certificate", HotStuff2(), LocksOnSeeing, "late-certificates"),
    _row("L1", "the leader does not wait after a failed view", NoWait(), scenario="hidden-lock-alone"),
)
