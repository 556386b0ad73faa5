"""The next changelog can be made of the fragments at any time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_next_changelog_builds_from_every_fragment() -> None:
    built = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0.0.0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-500:]
    fragments = [path for path in (ROOT / "newsfragments").glob("*.md") if path.name != "README.md"]
    for fragment in fragments:
        first = fragment.read_text().split("\n", maxsplit=1)[0][:40]
        assert first in built.stdout, fragment.name
