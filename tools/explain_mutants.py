"""Compares the survivors of the last ``mutmut run`` with those explained in docs/mutants.md; exits 1 where they differ.

A mutant is known by its function and its changed lines, not by mutmut's running number, which shifts with every edit.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "mutants.md"
# Everything that mutmut may say of a mutant and that is no proof of a test that notices.
UNNOTICED: Final = frozenset(
    {"survived", "no tests", "suspicious", "skipped", "not checked", "check was interrupted by user"}
)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """``function`` is ``module.Class.name`` or ``module.name``; ``change`` the diff's lines, unindented."""

    function: str
    change: tuple[str, ...]

    def entry(self) -> str:
        return "\n".join(
            (f"### {self.function}", "", "```diff", *self.change, "```", "", "Why no test sees it: ...", "")
        )


def function_of(name: str) -> str:
    """``pkg.module.xǁClassǁmethod__mutmut_3`` and ``pkg.module.x_function__mutmut_3``, as a reader would write them."""
    module, _, mangled = name.rpartition(".")
    return f"{module}.{mangled.rpartition('__mutmut_')[0].removeprefix('x_').removeprefix('xǁ').replace('ǁ', '.')}"


def changed_lines(diff: Iterable[str]) -> tuple[str, ...]:
    lines = (line for line in diff if line.startswith(("-", "+")) and not line.startswith(("---", "+++")))
    return tuple(f"{line[0]} {line[1:].strip()}" for line in lines)


def unnoticed(results: str) -> list[str]:
    """The names in the output of ``mutmut results`` whose status is no proof of a test."""
    pairs = (line.strip().rpartition(": ") for line in results.splitlines())
    return [name for name, _, status in pairs if status in UNNOTICED]


def explained(page: str) -> set[Mutant]:
    """The entries of docs/mutants.md."""
    entries = re.findall(r"^### (\S+)\n+```diff\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return {Mutant(function=function, change=changed_lines(diff.splitlines())) for function, diff in entries}


def mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def main() -> int:
    surviving = {
        Mutant(function=function_of(name), change=changed_lines(mutmut("show", name).splitlines()))
        for name in unnoticed(mutmut("results"))
    }
    known = explained(PAGE.read_text(encoding="utf-8"))
    missing = sorted(mutant.entry() for mutant in surviving - known)
    stale = sorted(mutant.entry() for mutant in known - surviving)
    print(f"{len(surviving)} mutants survive, {len(surviving & known)} of them explained in docs/mutants.md")
    if missing:
        print(f"\n{len(missing)} to kill with a test, or to explain:\n", *missing, sep="\n")
    if stale:
        print(f"\n{len(stale)} explained, but no longer surviving; take them out:\n", *stale, sep="\n")
    return 1 if missing or stale else 0


if __name__ == "__main__":
    sys.exit(main())
