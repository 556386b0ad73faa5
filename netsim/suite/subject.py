"""The protocol under test, how its schedules are run, and how a failure is told."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named
from netsim.checks import scenario_path
from netsim.oracles.judge import Oracle
from netsim.scenario import expand, load
from netsim.schedule import Schedule
from netsim.simulation import Result, run_schedule
from netsim.world import Recorder, Watcher

SCHEDULES: Final = 240
"""Random schedules of one suite: a few seconds."""


FILE_MODULE: Final = "netsim_protocol_file"
"""What a file that is no importable module is called where another process loads it."""


class SuiteError(AssertionError):
    """The protocol breaks the contract. The message says which rule, what was seen, and where to look."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where another process finds a definition: a name at the top level of a module."""

    module: str
    file: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The arguments of ``protocol_suite``; see there."""

    definition: ProtocolDefinition
    schedules: int = SCHEDULES
    seed: int = 0
    folder: Path | None = None
    origin: Origin | None = None

    def seeds(self, part: int) -> range:
        """The seeds of a check that has one in ``part`` of the random schedules."""
        return range(self.seed, self.seed + max(self.schedules // part, 1))

    def named(self, scenario: str, seed: int = 0) -> Schedule:
        """One of our scenarios with this protocol."""
        return expand(load(scenario_path(scenario)), seed).replace(protocol=self.definition.name)

    def swarm(self, scenario: str, seeds: range) -> Iterator[Schedule]:
        """The same for many seeds, read once."""
        loaded = load(scenario_path(scenario))
        for seed in seeds:
            yield expand(loaded, seed).replace(protocol=self.definition.name)

    def plain(self, name: str, **fields: object) -> Schedule:
        """A schedule of our own: four honest nodes and good links but for ``fields``."""
        return Schedule(name=name, protocol=self.definition.name, seed=self.seed).replace(**fields)

    def run(
        self,
        schedule: Schedule,
        *,
        oracles: Sequence[Oracle] = (),
        watchers: Sequence[Watcher] = (),
        recorder: Recorder | None = None,
    ) -> Result:
        """One run of it."""
        return run_schedule(schedule, definition=self.definition, oracles=oracles, watchers=watchers, recorder=recorder)


def fail(rule: str, seen: str, mend: str) -> NoReturn:
    raise SuiteError(f"{rule}\n  seen: {seen}\n  mend: {mend}")


def fail_in(subject: Subject, schedule: Schedule, result: Result, rule: str, seen: str, mend: str) -> NoReturn:
    """A failure of one run: the explicit schedule is written, and the message says how to see it again."""
    path = written(subject, schedule.replace(expect="" if result.silent else result.verdict))
    described = (
        f"{seen}\n  seed: {schedule.seed}, trace {result.trace_hash[:16]}\n"
        f"  schedule: {path}\n  replay: netsim replay {path}{source_option(subject)}"
    )
    fail(rule, described, mend)


def expect_silent(subject: Subject, schedule: Schedule, result: Result, rule: str, mend: str) -> None:
    """No oracle fired."""
    if not result.silent:
        first = result.violations[0]
        seen = f"{first.oracle} at {first.at_ns / 1e6:.3f} ms: {first.text}"
        fail_in(subject, schedule, result, rule, seen, mend)


def silent(subject: Subject, schedule: Schedule, rule: str, mend: str, *, oracles: Sequence[Oracle] = ()) -> Result:
    """Run it; no oracle may fire."""
    result = subject.run(schedule, oracles=oracles)
    expect_silent(subject, schedule, result, rule, mend)
    return result


def written(subject: Subject, schedule: Schedule) -> Path:
    """The file of an explicit schedule."""
    folder = subject.folder
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="netsim-suite-"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{schedule.protocol}-{schedule.name or 'schedule'}-{schedule.seed}.json"
    path.write_bytes(schedule.to_json())
    return path


def source_option(subject: Subject) -> str:
    """What ``netsim replay`` needs besides the file when the registry does not know this very definition."""
    if is_registered(subject.definition):
        return ""
    origin = origin_of(subject)
    return "" if origin is None else f" --protocol-file {origin.file}:{origin.name}"


def is_registered(definition: ProtocolDefinition) -> bool:
    """Whether the definition's name finds this definition and no other."""
    try:
        return protocol_named(definition.name) is definition
    except ValueError:
        return False


def origin_of(subject: Subject) -> Origin | None:
    """The module and the name that hold the definition; None for one that a function keeps to itself."""
    if subject.origin is not None:
        return subject.origin
    loaded = sorted(sys.modules.items(), key=lambda item: (item[0] == "__main__", item[0]))
    for module_name, module in loaded:
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            continue
        for name, value in vars(module).items():
            if value is subject.definition:
                module_name = FILE_MODULE if module_name == "__main__" else module_name
                return Origin(module=module_name, file=file, name=name)
    return None
