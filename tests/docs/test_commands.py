"""Every command that the documentation shows exists, with the options that it is given there."""

from __future__ import annotations

import re
from typing import Final

import pytest
from typer.main import get_command

import netsim.cli
import sequencer.cli
from tests.docs.test_docs_examples import PAGES, ROOT

PROGRAMS: Final = {"sequencer": get_command(sequencer.cli.app), "netsim": get_command(netsim.cli.app)}
DOCUMENTS: Final = (*PAGES, *sorted((ROOT / "docs" / "adr").glob("*.md")), ROOT / "CONTRIBUTING.md")
_SHOWN: Final = re.compile(r"(?:^\$ |`|\.venv/bin/)((?:sequencer|netsim) [a-z][^`\n#]*)", re.MULTILINE)


def fault(line: str) -> str:
    """What is wrong with a command line as a reader would type it, empty when nothing is."""
    name, *words = line.split()
    command = PROGRAMS[name]
    while words and (commands := getattr(command, "commands", None)):
        word = words.pop(0).rstrip(",")  # "validator list, add, remove"
        if word not in commands:
            return f"no command {word!r} in {line!r}"
        command = commands[word]
    options = {"--help", *(option for each in command.params for option in (*each.opts, *each.secondary_opts))}
    given = {found[0] for word in words if (found := re.match(r"--?[a-z][a-z-]*", word))}
    return f"no option {', '.join(sorted(given - options))} in {line!r}" if given - options else ""


def test_commands_exist_with_the_options_that_they_are_shown_with() -> None:
    shown = {page.name: _SHOWN.findall(page.read_text(encoding="utf-8")) for page in DOCUMENTS}
    assert sum(map(len, shown.values())) > 50
    assert [f"{page}: {wrong}" for page, lines in shown.items() for line in lines if (wrong := fault(line))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("sequencer validator remove NODE anna --key KEY", ""),
        ("sequencer validator list, add, remove", ""),
        ("netsim sweep swarm --seeds 0:10 --jobs=2", ""),
        ("sequencer validator dismiss NODE anna", "no command 'dismiss'"),
        ("sequencer validator remove NODE anna --kye KEY", "no option --kye"),
    ],
)
def test_a_wrong_command_is_seen(line: str, wrong: str) -> None:
    assert fault(line).startswith(wrong)
    assert bool(fault(line)) == bool(wrong)
