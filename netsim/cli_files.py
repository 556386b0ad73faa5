"""What the commands read and write: bad input and places that cannot be written are told before anything runs."""

from __future__ import annotations

from pathlib import Path

from netsim.checks import scenario_path
from netsim.scenario import Scenario, load
from netsim.schedule import BadSchedule, Schedule
from netsim.sweep import Variant
from netsim.validation import from_json, read_bytes


def read(file: str, variant: Variant) -> Scenario:
    """A file, or one of the named scenarios, whose names are all known. Raises :class:`BadSchedule`."""
    path = Path(file)
    scenario = load(path if path.suffix or is_file(path) else scenario_path(file))
    variant.check(scenario, file)
    return scenario


def is_file(path: Path) -> bool:
    """Whether there is one; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_schedule(file: str, variant: Variant) -> Schedule:
    """An explicit schedule. Raises :class:`BadSchedule`."""
    schedule = from_json(read_bytes(Path(file)), file)
    variant.check(Scenario(base=schedule), file)
    return schedule


def write(option: str, path: str | Path, data: str | bytes, *, append: bool = False) -> None:
    """Write a file that an option names. Raises :class:`BadSchedule` when that cannot be."""
    try:
        with Path(path).open("ab" if append else "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise BadSchedule(f"{option}: {path}: cannot be written: {error.strerror}") from None


def folder(option: str, path: str) -> Path:
    """A folder that an option names, made if need be. Raises :class:`BadSchedule` when that cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSchedule(f"{option}: {path}: cannot be made: {error.strerror}") from None
    return Path(path)
