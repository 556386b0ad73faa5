"""The checks that let something go wrong: safety, liveness, restart, catch-up, equivocation."""

from __future__ import annotations

from typing import Final

from consensus.types import Vote
from netsim.actors.crafts.registry import CRAFTS
from netsim.oracles.registry import NAMEABLE_IDS
from netsim.reading import header_in
from netsim.scenario import BOUNDARIES
from netsim.schedule import (
    Actor,
    CastVote,
    Clock,
    Crash,
    Heal,
    Link,
    LinkOverride,
    Liveness,
    Move,
    Partition,
    Propose,
    Stop,
    Submit,
    Times,
    Uniform,
)
from netsim.suite.notes import Notes
from netsim.suite.subject import Subject, expect_silent, fail_in, silent

SAFETY: Final = "no schedule makes honest replicas disagree, double-sign, or send what they did not store"
LIVENESS: Final = "once the network is good, every honest replica commits something new in time"
SEE: Final = "netsim replay shows it; netsim shrink finds the shortest schedule, netsim report draws it"
TENFOLD_FASTER_PPM: Final = 9_000_000
TENFOLD_SLOWER_PPM: Final = -900_000
LATER_MS: Final = 1_500
"""Fifteen view timeouts: what lasts must be survived for so long, and then there is progress still."""
ROOT_FASTER_PPM: Final = 2_162_278
"""The root of ten times as fast."""
ROOT_SLOWER_PPM: Final = -683_772
FAR_MS: Final = 3_000
"""How long a node is away until it is further behind than any window of views: 30 of the longest views."""


def safety(subject: Subject) -> None:
    """Random schedules with one puppet of four."""
    for schedule in subject.swarm("swarm", subject.seeds(2)):
        silent(subject, schedule, SAFETY, SEE)


def actors(subject: Subject) -> None:
    """Random schedules with faulty actors of every other kind, then progress."""
    for schedule in subject.swarm("swarm-actors", subject.seeds(6)):
        silent(subject, schedule, f"{SAFETY}; nobody honest is blamed; then progress", SEE)


def silent_leaders(subject: Subject) -> None:
    """The first leader says nothing; every fourth leader says nothing, of four and of eight."""
    mend = "let views end without their leader: a timer, a quorum that gives up, and the next leader"
    eight = subject.named("every-fourth-silent").replace(
        name="every-fourth-silent-of-eight", nodes=8, actors=tuple(Actor(node=node, kind="silent") for node in (3, 7))
    )
    for schedule in (subject.named("every-fourth-silent"), eight):
        silent(subject, schedule.replace(liveness=Liveness(from_ms=LATER_MS, timeouts=60)), LIVENESS, mend)
    silent(subject, subject.named("silent-first-leader"), LIVENESS, mend)


def partitions(subject: Subject) -> None:
    """Nobody hears anybody for a while; random partitions, cuts and held messages; delays above the timeout."""
    mend = "say again, while a view lasts, what may have been lost; let timeouts grow; tell whoever shows to be behind"
    silent(subject, subject.named("short-outage"), LIVENESS, mend)
    silent(subject, subject.named("slow-network"), LIVENESS, mend)
    for schedule in subject.swarm("swarm-healing", subject.seeds(6)):
        silent(subject, schedule, LIVENESS, mend)


def clocks(subject: Subject) -> None:
    """Of seven, one clock runs ten times as fast and one ten times as slow as the others; of four with a silent one,
    the timers of one that is needed run ten times as fast as another's."""
    schedule = subject.plain(
        "clocks",
        nodes=7,
        clocks=(Clock(node=1, drift_ppm=TENFOLD_FASTER_PPM), Clock(node=4, drift_ppm=TENFOLD_SLOWER_PPM)),
        liveness=Liveness(from_ms=LATER_MS, timeouts=40),
    )
    all_needed = subject.plain(
        "timers",
        clocks=(
            Clock(node=0, drift_ppm=ROOT_FASTER_PPM, timers_only=True),
            Clock(node=1, drift_ppm=ROOT_SLOWER_PPM, timers_only=True),
        ),
        actors=(Actor(node=3, kind="silent"),),
        times=Times(exponent_max=0),
        oracles=tuple(name for name in NAMEABLE_IDS if name != "L1"),  # a view may end when a needed timer rings
        liveness=Liveness(from_ms=LATER_MS, timeouts=40),
    )
    mend = "enter a view for a quorum's reason, not for the own timer's; hold a block from the future, never refuse it"
    silent(subject, schedule, LIVENESS, mend)
    silent(subject, all_needed, LIVENESS, mend)


def one_way(subject: Subject) -> None:
    """A node that is heard and hears nothing; then a link that is slow in one direction alone."""
    mend = "count nobody's silence as agreement, and need nobody's answer beyond a quorum's"
    silent(subject, subject.named("deaf-node"), LIVENESS, mend)
    slow = LinkOverride(source=0, target=3, link=Link(latency=Uniform(low_ms=60, high_ms=80)))
    schedule = subject.plain(
        "slow-one-way", links=(slow,), liveness=Liveness(from_ms=LATER_MS, timeouts=40, delay_ms=80)
    )
    silent(subject, schedule, LIVENESS, mend)


def restart(subject: Subject) -> None:
    """kill -9 at each boundary of storing, signing and sending, of every node; then at random, often."""
    rule = f"after kill -9 at any boundary: {SAFETY}; then progress"
    mend = "store the subject, the blocks that it names and the state with it, before Sign; at start say it again"
    for boundary in BOUNDARIES:
        for nth in (2, 9):
            crashes = tuple(
                Crash(nodes=(node,), boundary=boundary, nth=nth + 2 * node, restart_ms=10 + node) for node in range(4)
            )
            schedule = subject.plain(
                f"crash-{boundary.replace(' ', '-')}-{nth}",
                faults=(*crashes, Heal(at_ms=1_000)),
                liveness=Liveness(from_ms=1_001, timeouts=20),
            )
            silent(subject, schedule, rule, mend)
    for schedule in subject.swarm("swarm-restarts", subject.seeds(6)):
        silent(subject, schedule, rule, mend)


def restart_all(subject: Subject) -> None:
    """All nodes are killed in the middle of views, three times."""
    mend = "a certificate's blocks must be on the disks of those who voted; feed own messages to the own tally again"
    silent(subject, subject.named("restart-all-mid-view"), f"all nodes die mid-view: {LIVENESS}", mend)


def catch_up(subject: Subject) -> None:
    """A node is cut off for a while, and for longer than any window of views; a stale node leads at once."""
    mend = (
        "emit FetchBlocks for what a verified certificate names and the tree lacks; take BlocksFetched with its proof"
    )
    rule = "a node that was away fetches what it missed and commits again"
    silent(subject, subject.named("lagging"), rule, mend)
    silent(subject, subject.named("stale-node-returns"), rule, mend)
    away = Partition(at_ms=20, for_ms=FAR_MS, groups=((0, 1, 2), (3,)))
    liveness = Liveness(from_ms=FAR_MS + 100, timeouts=20)
    schedule = subject.plain("lagging-far", faults=(away,), times=Times(idle_interval_ms=20), liveness=liveness)
    silent(subject, schedule, rule, mend)


def equivocation(subject: Subject) -> None:
    """A validator that runs twice under one key; a puppet that proposes twice and votes for both."""
    twin = subject.plain(
        "twin-leads",
        actors=(Actor(node=0, kind="twin"),),
        workload=(Submit(at_ms=0, payload="one", to=(0,)), Submit(at_ms=0, payload="another", to=(4,))),
        stop=Stop(view=12),
    )
    everybody = (0, 1, 2, 3)
    moves: list[Move] = []
    for view in range(1, 13):
        moves += [Propose(view=view, variant=variant, to=everybody) for variant in (0, 1)]
        moves += [CastVote(view=view, kind=kind, choice=c, to=everybody) for kind in (0, 1) for c in (0, 1)]
    puppet = subject.plain(
        "puppet-says-two-things", actors=(Actor(node=0, kind="puppet", moves=tuple(moves)),), stop=Stop(view=12)
    )
    rule = "a validator that signs two different things in one slot is reported by honest ones, and nobody else is"
    mend = (
        "keep the first of each signer, kind and slot; verify both signatures; ReportEvidence once, count neither twice"
    )
    runs = [(twin, ("proposal", "vote"))]
    if any(message in CRAFTS for message in subject.definition.messages):
        runs.append((puppet, ("proposal", "vote")))
    for schedule, wanted in runs:
        notes = Notes()
        result = subject.run(schedule, oracles=(notes,), watchers=(notes,))
        expect_silent(subject, schedule, result, rule, mend)
        reported = {
            "vote" if isinstance(said.first, Vote) else "proposal" if header_in(said.first) else "other"
            for _, said in notes.evidence
        }
        for kind in wanted:
            if kind not in reported:
                fail_in(subject, schedule, result, rule, f"nobody reports the second {kind} of validator 0", mend)
