"""The check of determinism: schedules that run twice here, and in two processes with hash seeds of their own.

As a program it reads a :class:`Task` from standard input and prints the trace hashes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from consensus.protocols.definition import ProtocolDefinition
from netsim.schedule import Schedule
from netsim.simulation import run_schedule
from netsim.suite.subject import Origin, Subject, fail, origin_of

HASH_SEEDS: Final = ("1", "2")
TIMEOUT_S: Final = 300
SEEDS: Final = range(3)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the other process runs."""

    path: tuple[str, ...]
    origin: Origin
    schedules: tuple[Schedule, ...]


def determinism(subject: Subject) -> None:
    """The same seed gives the same trace, in this process and in others under two PYTHONHASHSEEDs."""
    mend = "let nothing but (state, event, now) decide: no set iteration, no hash() or id(), no clock, no chance"
    schedules = tuple(
        next(subject.swarm(name, range(seed, seed + 1))) for name in ("swarm", "swarm-restarts") for seed in SEEDS
    )
    here = [subject.run(schedule).trace_hash for schedule in schedules]
    again = [subject.run(schedule).trace_hash for schedule in schedules]
    _compare(schedules, here, again, "a second run in this process", mend)
    origin = origin_of(subject)
    if origin is None:
        fail(
            "another process runs the protocol from the same code",
            "no module has a name for this definition",
            "bind the ProtocolDefinition to a name at the top level of a module",
        )
    task = Task(path=tuple(sys.path), origin=origin, schedules=schedules)
    for hash_seed in HASH_SEEDS:
        there = _elsewhere(task, hash_seed)
        _compare(schedules, here, there, f"a process with PYTHONHASHSEED={hash_seed}", mend)


def _compare(schedules: tuple[Schedule, ...], here: list[str], there: list[str], where: str, mend: str) -> None:
    for schedule, first, second in zip(schedules, here, there, strict=True):
        if first != second:
            seen = f"{where} gives trace {second[:16]}, not {first[:16]}, for {schedule.name}, seed {schedule.seed}"
            fail("one seed is one run", seen, mend)


def _elsewhere(task: Task, hash_seed: str) -> list[str]:
    path = os.pathsep.join(each for each in task.path if each)
    answer = subprocess.run(
        [sys.executable, "-m", "netsim.suite.replay"],
        input=msgspec.json.encode(task),
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    if answer.returncode:
        last = answer.stderr.decode(errors="replace").strip().splitlines()[-1:]
        seen = f"it ends with status {answer.returncode}: {last[0] if last else 'and says nothing'}"
        fail("another process runs the protocol from the same code", seen, "the module must be importable there")
    found: list[str] = json.loads(answer.stdout)
    return found


def definition_at(origin: Origin) -> ProtocolDefinition:
    """The definition, in a process that has not loaded it yet. Raises ``ImportError`` or ``AttributeError``."""
    try:
        module = importlib.import_module(origin.module)
        if Path(module.__file__ or "") != Path(origin.file):
            raise ImportError(f"{origin.module} is another file here: {module.__file__}")
    except ImportError:
        spec = importlib.util.spec_from_file_location(origin.module, origin.file)
        if spec is None or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        sys.modules[origin.module] = module
        spec.loader.exec_module(module)
    definition: ProtocolDefinition = getattr(module, origin.name)
    return definition


def main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    definition = definition_at(task.origin)
    hashes = [run_schedule(schedule, definition=definition).trace_hash for schedule in task.schedules]
    sys.stdout.write(json.dumps(hashes))


if __name__ == "__main__":
    main()
