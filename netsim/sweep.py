"""A sweep: one scenario, many seeds, any ``concurrent.futures.Executor``.

Seeds travel in batches that take about :data:`BATCH_S` seconds each (one schedule per task spends its time on
pickling); results come back as findings and sums. Every :data:`TWICE_EVERY`-th schedule runs twice, for R2.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.replica import Replica
from netsim.actors.registry import actor_kinds
from netsim.committee import ReplicaFactory
from netsim.mutants.registry import mutant_named
from netsim.scenario import Scenario, expand
from netsim.schedule import BadSchedule, Schedule
from netsim.simulation import Keep, Result, check_names, run_schedule
from netsim.world import Violation

BATCH_S: Final = 2.0
BATCH_MAX: Final = 2000
FIRST_BATCH: Final = 8
TWICE_EVERY: Final = 64
GARBAGE_THRESHOLD: Final = 100_000
"""A run takes its world apart when it ends, so there is next to nothing to find: to look often costs a sixth."""
DASK_CONNECT_S: Final = 10
FINDINGS_MAX: Final = 100
"""Findings kept of one sweep: the seeds of the rest are found again by running it."""


class Broken(NamedTuple):
    """A protocol, what its journal forgets, and what makes its replicas."""

    definition: ProtocolDefinition
    keep: Keep | None = None
    replica: ReplicaFactory = Replica


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """What runs instead of the schedule's protocol: one of the registry by ``name``, that of a Python ``file``
    (:func:`file_and_name`), or one of our ``mutant``s. Travels to workers as text."""

    name: str = ""
    file: str = ""
    mutant: str = ""

    def resolve(self, schedule_protocol: str, where: str = "schedule") -> Broken:
        """The protocol, and what is broken around it. Raises :class:`BadSchedule`."""
        if self.mutant:
            mutant = mutant_named(self.mutant)
            if mutant.rule is not None:
                raise BadSchedule(f"mutant {self.mutant!r} is caught by histories of votes: netsim mutants --only")
            return Broken(mutant.definition, mutant.keep, mutant.replica)
        if self.file:
            return Broken(protocol_from(self.file))
        try:
            return Broken(protocol_named(self.name or schedule_protocol))
        except ValueError as error:
            where = "--protocol" if self.name else f"{where}: $.protocol"
            raise BadSchedule(f"{where}: {str(error).removeprefix('protocol: ')}") from None

    def check(self, scenario: Scenario, where: str) -> None:
        """Refuse names that nobody knows, before anything runs. Raises :class:`BadSchedule`."""
        definition = self.resolve(scenario.base.protocol, where).definition
        check_names(scenario.base, where, definition)
        if scenario.swarm is None:
            return
        for key, names, known in (
            ("actors", scenario.swarm.actors, actor_kinds()),
            ("protocols", scenario.swarm.protocols, protocol_names()),
        ):
            for number, name in enumerate(names):
                if name not in known:
                    reason = f"{name!r} is unknown; known are {', '.join(known)}"
                    raise BadSchedule(f"{where}: $.swarm.{key}[{number}]: {reason}")


def file_and_name(text: str) -> tuple[Path, str]:
    """``FILE``, or ``FILE:NAME`` where the definition has another name than ``DEFINITION``."""
    file, colon, name = text.rpartition(":")
    return (Path(file), name) if colon and name.isidentifier() else (Path(text), "DEFINITION")


def protocol_from(text: str) -> ProtocolDefinition:
    """The definition in a Python file. Raises :class:`BadSchedule`. The file is code and runs."""
    path, name = file_and_name(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BadSchedule(f"--protocol-file: {path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's code: whatever it raises is told with its line
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "unknown"
        raise BadSchedule(f"--protocol-file: {path}, line {line}: {type(error).__name__}: {error}") from None
    definition = getattr(module, name, None)
    if not isinstance(definition, ProtocolDefinition):
        raise BadSchedule(
            f"--protocol-file: {path}: has no {name}, a {ProtocolDefinition.__module__}.ProtocolDefinition"
        )
    return definition


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A seed whose schedule makes an oracle fire."""

    seed: int
    oracle: str
    text: str
    trace_hash: str


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What some seeds gave."""

    schedules: int
    deliveries: int
    commits: int
    virtual_ns: int
    seconds: float
    findings: tuple[Finding, ...]


def run_seed(scenario: Scenario, variant: Variant, seed: int) -> Result:
    """One seed of a sweep."""
    schedule = expand(scenario, seed)
    if variant.name:
        schedule = schedule.replace(protocol=variant.name)
    definition, keep, replica = variant.resolve(schedule.protocol)
    return run_schedule(schedule, definition=definition, keep=keep, make_replica=replica)


def run_batch(scenario: bytes, variant: Variant, first: int, count: int, stop_at_first: bool = False) -> Batch:
    """Run ``count`` seeds from ``first`` on, in a worker. ``scenario`` is its MessagePack."""
    decoded = msgspec.msgpack.decode(scenario, type=Scenario)
    gc.set_threshold(GARBAGE_THRESHOLD, 10, 10)
    began = time.perf_counter()
    findings: list[Finding] = []
    schedules = deliveries = commits = virtual_ns = 0
    for seed in range(first, first + count):
        result = run_seed(decoded, variant, seed)
        schedules += 1
        deliveries += result.deliveries
        commits += result.commits
        virtual_ns += result.virtual_ns
        violations = result.violations
        if seed % TWICE_EVERY == 0:
            again = run_seed(decoded, variant, seed)
            if again.trace_hash != result.trace_hash:
                text = f"two runs differ: {result.trace_hash} and {again.trace_hash}"
                violations = (*violations, Violation(oracle="R2", at_ns=0, node=-1, text=text))
        if violations:
            first_one = violations[0]
            findings.append(
                Finding(seed=seed, oracle=first_one.oracle, text=first_one.text, trace_hash=result.trace_hash)
            )
            if stop_at_first:
                break
    return Batch(
        schedules=schedules,
        deliveries=deliveries,
        commits=commits,
        virtual_ns=virtual_ns,
        seconds=time.perf_counter() - began,
        findings=tuple(findings),
    )


@dataclass(slots=True, kw_only=True)
class Sweep:
    """What a sweep has found so far."""

    schedules: int = 0
    deliveries: int = 0
    commits: int = 0
    seconds: float = 0.0
    violations: int = 0
    findings: list[Finding] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Schedules per second of each batch, for percentiles."""

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.schedules += batch.schedules
        self.deliveries += batch.deliveries
        self.commits += batch.commits
        self.violations += len(batch.findings)
        self.findings += batch.findings[: FINDINGS_MAX - len(self.findings)]
        if batch.seconds:
            self.rates.append(batch.schedules / batch.seconds)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C goes to the whole process group: a worker ends its batch, and the parent keeps it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


Told = Callable[[Sweep, Batch], None]
"""Hears of each batch as it is counted."""


def executor_named(name: str, jobs: int) -> Executor:
    """``process``, or ``dask://host:port``. Raises :class:`BadSchedule`."""
    if name == "process":
        return ProcessPoolExecutor(max_workers=jobs, initializer=_leave_interrupts_to_the_parent)
    if name.startswith("dask://"):
        try:
            distributed = importlib.import_module("distributed")
        except ImportError:
            raise BadSchedule("--executor: Dask is not installed; pip install 'shared-sequencer[dask]'") from None
        address = name.replace("dask://", "tcp://")
        try:
            executor: Executor = distributed.Client(address, timeout=DASK_CONNECT_S).get_executor()
        except (OSError, ValueError) as error:
            raise BadSchedule(f"--executor: {name}: {error}") from None
        return executor
    raise BadSchedule(f"--executor: {name!r} is neither 'process' nor 'dask://host:port'")


def sweep(
    scenario: Scenario,
    variant: Variant,
    seeds: range,
    *,
    executor: Executor,
    jobs: int,
    told: Told | None = None,
    stop_at_first: bool = False,
) -> Sweep:
    """Run all ``seeds``. ``told`` hears of each batch; KeyboardInterrupt ends the sweep and keeps what was found."""
    total = Sweep()
    began = time.perf_counter()
    data = msgspec.msgpack.encode(scenario)
    size = FIRST_BATCH
    position = seeds.start
    pending: set[Future[Batch]] = set()
    try:
        while position < seeds.stop or pending:
            while position < seeds.stop and len(pending) < 2 * jobs:
                count = min(size, seeds.stop - position)
                pending.add(executor.submit(run_batch, data, variant, position, count, stop_at_first))
                position += count
            for future in _finished(pending):
                pending.discard(future)
                size = _count(total, future.result(), told, size)
            if stop_at_first and total.findings:
                break
    except KeyboardInterrupt:
        for future in sorted(pending, key=id):
            if not future.cancel():  # it runs or has ended: its findings are worth the wait
                _count(total, future.result(), told, size)
                pending.discard(future)
    for future in sorted(pending, key=id):
        future.cancel()
    total.seconds = time.perf_counter() - began
    total.findings.sort(key=lambda finding: finding.seed)
    return total


def _finished(pending: set[Future[Batch]]) -> list[Future[Batch]]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    return sorted(done, key=id)


def _count(total: Sweep, batch: Batch, told: Told | None, size: int) -> int:
    """Add a batch and tell of it; the size that the next batches should have."""
    total.add(batch)
    if told is not None:
        told(total, batch)
    if not batch.seconds:
        return size
    return max(1, min(BATCH_MAX, round(BATCH_S * batch.schedules / batch.seconds)))


def explicit(scenario: Scenario, variant: Variant, seed: int) -> Schedule:
    """The explicit schedule of a finding."""
    schedule = expand(scenario, seed)
    return schedule.replace(protocol=variant.name) if variant.name else schedule
