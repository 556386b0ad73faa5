"""For tests, with pytest or without: run a schedule, and on a violation say how to see it again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from consensus.protocols.definition import ProtocolDefinition
from netsim.scenario import Scenario, expand, load
from netsim.schedule import Schedule
from netsim.simulation import Result, run_schedule


def assert_silent(
    scenario: Scenario | Schedule | str | Path,
    seed: int = 0,
    *,
    definition: ProtocolDefinition | None = None,
    folder: str | Path = ".",
) -> Result:
    """Run it and return the result. On a violation the explicit schedule is written into ``folder`` and
    ``AssertionError`` names the oracle, the seed and the command that replays it."""
    loaded = load(scenario) if isinstance(scenario, str | Path) else scenario
    schedule = expand(loaded, seed)
    result = run_schedule(schedule, definition=definition)
    if result.silent:
        return result
    name = re.sub(r"[^\w.#-]", "_", schedule.name or "schedule")
    path = Path(folder) / f"{name}-{schedule.seed}.json"
    path.write_bytes(schedule.replace(expect=result.verdict).to_json())
    first = result.violations[0]
    raise AssertionError(
        f"{first.oracle} at {first.at_ns / 1e6:.3f} ms: {first.text}\n"
        f"seed {schedule.seed}, trace {result.trace_hash}\nreplay: netsim replay {shlex.quote(str(path))}"
        + ("" if definition is None else " --protocol-file the-file-whose-DEFINITION-it-is.py")
    )
