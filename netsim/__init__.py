"""The simulator: find the bug, shrink it, show it.

``Simulation(load("x.toml")).run(seed=7)`` drives the pure ``consensus`` core on a virtual clock with simulated links,
faults and Byzantine actors, and judges the run with independent oracles.

Not built: the levels ``node`` and ``process`` (the same scenario against the real trio node and real processes).
"""

from netsim.scenario import Scenario, Swarm, load
from netsim.schedule import BadSchedule, Schedule
from netsim.simulation import Result, Simulation, run_schedule
from netsim.world import Violation

__all__ = ["BadSchedule", "Result", "Scenario", "Schedule", "Simulation", "Swarm", "Violation", "load", "run_schedule"]
