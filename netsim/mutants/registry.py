"""The table of mutants: what is broken, in which protocol, and where it must be caught.

Each row of the design's table stands here, and in :data:`CONTROLS` those that are scenarios which a correct protocol
must pass.
"""

from __future__ import annotations

from typing import Final

from consensus.protocols.chained import ChainedEngine
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.registry import HOTSTUFF, JOLTEON
from netsim.histories.mutants import MUTANTS as FINALITY_MUTANTS
from netsim.mutants import engines, epochs, fast_hotstuff, fast_path, hotstuff2, simplex, streamlet, tendermint
from netsim.mutants.engines import broken
from netsim.mutants.mutant import Mutant
from netsim.schedule import BadSchedule

SEARCH: Final = "swarm"
CRASHES: Final = "swarm-restarts"
HEALING: Final = "swarm-healing"
TWINS: Final = "swarm-twins"


def _both(
    identity: str,
    change: str,
    engine: type[ChainedEngine] = ChainedEngine,
    adjust: engines.Adjust = engines.unchanged,
    scenario: str = SEARCH,
) -> tuple[Mutant, Mutant]:
    two, three = (
        Mutant(
            id=identity,
            change=change,
            definition=broken(name, rules, engine, adjust),
            scenario=scenario,
        )
        for name, rules in ((JOLTEON.name, Jolteon()), (HOTSTUFF.name, HotStuff()))
    )
    return two, three


def _rules(identity: str, change: str, rules: Jolteon | HotStuff, scenario: str = SEARCH) -> Mutant:
    definition = broken(rules.name, rules)
    return Mutant(id=identity, change=change, definition=definition, scenario=scenario)


MUTANTS: Final[tuple[Mutant, ...]] = (
    *_both("S1", "quorum is F+1", adjust=engines.weak_quorum),
    *_both("S2", "votes twice in one view", engines.VotesTwice),
    *_both("S3", "one identity counted twice", engines.CountsTwice),
    _rules("S4", "no lock, no safety check", engines.NoLock()),
    _rules("S4", "no lock, no safety check", engines.NoLockThree()),
    _rules("S5", "commits on one chain", engines.OneChain()),
    _rules("S5", "commits on one chain", engines.OneChainThree()),
    _rules("S6", "2-chain commit with the 3-chain lock", engines.TwoChainThreeLock()),
    _rules("S7", "2-chain without the consecutive-view check", engines.TwoChainAnyViews(), TWINS),
    _rules("S8", "3-chain without the consecutive-view check", engines.ThreeChainAnyViews()),
    *_both("S9", "a restart forgets the voted view", engines.ForgetsVotedView, scenario=CRASHES),
    _both("S10", "a restart forgets the lock", engines.ForgetsLock, scenario=CRASHES)[1],
    *_both("S11", "a restart forgets all", engines.ForgetsAll, scenario=CRASHES),
    Mutant(
        id="D1", change="Fast-HotStuff's published fork",
        definition=fast_hotstuff.AS_PUBLISHED, scenario="fast-hotstuff-fork",
    ),
    _rules("D3", "commits over a gap in views", engines.ThreeChainAnyViews(), "view-gap"),
    *_both("D4", "a twin's votes counted twice", engines.CountsTwice, scenario="twin-minority"),
    Mutant(
        id="D5", change="F+1 twins: the oracle itself must fire", definition=JOLTEON,
        scenario="too-many-twins",
    ),
    Mutant(
        id="D5", change="F+1 twins: the oracle itself must fire", definition=HOTSTUFF,
        scenario="too-many-twins",
    ),
    *_both("D6", "a proposal is not checked", engines.UncheckedProposals, scenario="swarm-actors"),
    *_both("L2", "a lagging node cannot fetch", engines.NoFetch, scenario="lagging"),
    *_both("L4", "stops voting for good after a timeout", engines.StopsVoting, scenario="short-outage"),
    *_both("L5", "no join at A timeouts, timeouts never grow", adjust=engines.no_join, scenario="slow-network"),
    *_both("L6", "hidden lock: certificates in timeouts are ignored", engines.DeafToHighCertificates,
           scenario="hidden-lock"),
    _rules("J1", "a timeout certificate's maximum is not checked", engines.AnyMaximum()),
    _both("J2", "a timeout signs a low certificate", engines.LowTimeout)[0],
    _both("J3", "votes after the own timeout", engines.VotesAfterTimeout)[0],
    _both("J4", "order votes for views that were given up", fast_path.OrdersWhatItGaveUp)[0],
    _both("J5", "an order vote in the view that was given up last", fast_path.OrdersTheViewItGaveUp)[0],
    _both("J6", "a restart forgets for order votes what was given up", fast_path.ForgetsWhatItGaveUp,
          scenario=CRASHES)[0],
    _both("J7", "a restart forgets what an order vote raised", fast_path.ForgetsTheRaise, scenario=CRASHES)[0],
    *_both("N1", "genesis not accepted in timeouts of view 1", engines.NoGenesisInTimeouts,
           scenario="silent-first-leader"),
    *_both("N3", "no entitlement to a view", engines.NoEntitlement, scenario="far-future-proposal"),
    _both("N4", "votes only to a silent next leader", engines.VotesToNextLeader, scenario="every-fourth-silent")[1],
    _rules("P1", "planted: the lowest certificate of a quorum counts, not the highest", engines.LowestOfQuorum()),
    _rules("P2", "planted: commits over a gap of one view", engines.OneViewTooFar(), TWINS),
    _rules("P3", "planted: the lock is taken one generation too late", engines.LockLags()),
    *_both("R1", "a restart loses the last proposal", engines.ForgetsProposal, scenario=CRASHES),
    *_both("R2", "a restart loses the last timeout", engines.ForgetsTimeout, scenario=CRASHES),
    *_both("R3", "a restart loses the highest certificates", engines.ForgetsHighCertificate, scenario=CRASHES),
    *epochs.BROKEN,
    *hotstuff2.BROKEN,
    *simplex.BROKEN,
    *streamlet.BROKEN,
    *tendermint.BROKEN,
    *(
        Mutant(id=f"F{row.name[1:].replace(' ', '-')}", change=f"finality: {change}", definition=JOLTEON, rule=row)
        for row, change in zip(FINALITY_MUTANTS, (
            "no check for double votes", "no check for surround votes", "whoever was caught goes on counting",
            "a majority justifies", "finalizes over any distance", "a link counts from one branch to another",
            "the first link over a change needs both sets, no other",
            "k = 2 without the checkpoint between being justified",
        ), strict=True)
    ),
)  # fmt: skip

CONTROLS: Final = (
    ("D6", "mutated-proposals"), ("D6", "swarm-actors"), ("L3", "deaf-node"), ("L7", "swarm-healing"),
    ("swarm", SEARCH),
    ("restarts", CRASHES), ("calm", "calm"),
)  # fmt: skip
"""Scenarios that every correct protocol must pass in silence."""


def mutant_named(name: str) -> Mutant:
    """``S7-jolteon``. Raises :class:`BadSchedule` naming the known ones."""
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    raise BadSchedule(f"mutant {name!r} is unknown; known are {', '.join(mutant.name for mutant in MUTANTS)}")
