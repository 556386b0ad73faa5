"""Hypothesis strategies for schedules, for those who test with Hypothesis (``pip install hypothesis``).

A strategy draws explicit schedules, so Hypothesis shrinks them by itself: fewer faults, fewer moves, simpler links.
"""

from __future__ import annotations

from hypothesis import strategies as st

from netsim.scenario import Scenario, Swarm, expand
from netsim.schedule import (
    Constant,
    Crash,
    Cut,
    Drop,
    Fault,
    Hold,
    Latency,
    Link,
    Partition,
    Schedule,
    Stop,
    Submit,
    Uniform,
)

MESSAGES = ("", "Proposal", "Vote", "Timeout", "Certificates")


def latencies() -> st.SearchStrategy[Latency]:
    """A constant, or anything up to a view's timeout."""
    constant = st.builds(Constant, ms=st.sampled_from((1.0, 5.0, 20.0)))
    uniform = st.builds(Uniform, low_ms=st.just(1.0), high_ms=st.sampled_from((2.0, 10.0, 60.0)))
    return constant | uniform


def faults(nodes: int, views: int) -> st.SearchStrategy[Fault]:
    """One network fault or crash that every protocol tolerates: safety must hold through any list of them."""
    node = st.integers(0, nodes - 1)
    view = st.integers(1, views)
    lasting = st.sampled_from((20.0, 100.0, 300.0))
    pairs = st.lists(st.tuples(node, node), min_size=1, max_size=3).map(tuple)
    sides = st.lists(st.booleans(), min_size=nodes, max_size=nodes).map(
        lambda side: tuple(
            group for group in (tuple(n for n in range(nodes) if side[n] is which) for which in (True, False)) if group
        )
    )
    several = st.lists(node, min_size=1, max_size=nodes, unique=True).map(tuple)
    return st.one_of(
        st.builds(Drop, view=view, message=st.sampled_from(MESSAGES), source=node, to=several),
        st.builds(Partition, at_view=view, for_ms=lasting, groups=sides),
        st.builds(Cut, at_view=view, for_ms=lasting, pairs=pairs),
        st.builds(Hold, at_view=view, for_ms=lasting, pairs=pairs),
        st.builds(Crash, at_view=view, nodes=several, restart_ms=lasting),
    )


def schedules(*, nodes: int = 4, views: int = 8, protocol: str = "jolteon") -> st.SearchStrategy[Schedule]:
    """Schedules without faulty validators."""
    return st.builds(
        Schedule,
        nodes=st.just(nodes),
        protocol=st.just(protocol),
        seed=st.integers(0, 2**16),
        link=st.builds(Link, latency=latencies(), loss=st.sampled_from((0.0, 0.1))),
        faults=st.lists(faults(nodes, views), max_size=6).map(tuple),
        workload=st.lists(
            st.builds(Submit, at_ms=st.sampled_from((0.0, 10.0, 100.0)), payload=st.sampled_from(("a", "b", "c"))),
            max_size=3,
            unique_by=lambda submit: submit.payload,
        ).map(tuple),
        stop=st.just(Stop(view=views, time_ms=20_000)),
    )


def swarms(swarm: Swarm | None = None, *, protocol: str = "jolteon") -> st.SearchStrategy[Schedule]:
    """Schedules of a swarm, puppets included, by seed."""
    scenario = Scenario(base=Schedule(protocol=protocol), swarm=Swarm() if swarm is None else swarm)
    return st.integers(0, 2**32).map(lambda seed: expand(scenario, seed))
