"""The repository's own source, parsed, for the tests that judge it (``test_walls.py``, ``test_house_rules.py``).

A rule is a function from one :class:`Source` to a list of findings, ``path:line: what is wrong``. Rules look at syntax
only: they catch habits and accidents, not someone who wants to get around them.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from textwrap import dedent
from typing import Final, TypeAlias

ROOT: Final = Path(__file__).resolve().parent.parent
ROOMS: Final = ("consensus", "sequencer", "rollup_adapters", "netsim")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One Python file: its path relative to the root, and its text."""

    path: PurePosixPath
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @property
    def room(self) -> str:
        """The top-level folder."""
        return self.path.parts[0]

    def inside(self, *folders_or_files: str) -> bool:
        """True if this file is one of these, or lies below one of these; all relative to the root."""
        return any(self.path.is_relative_to(name) for name in folders_or_files)

    def finding(self, node: ast.AST | int, what: str) -> str:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return f"{self.path}:{line}: {what}"

    @cached_property
    def imports(self) -> tuple[tuple[int, str], ...]:
        """``(line, absolute dotted name)`` of all that is imported at any depth; ``from a import b`` is ``a.b``."""
        found: list[tuple[int, str]] = []
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    found += [(node.lineno, alias.name) for alias in names]
                case ast.ImportFrom(names=names):
                    found += [(node.lineno, self._imported(node, alias)) for alias in names]
                case _:
                    pass
        return tuple(found)

    def _imported(self, node: ast.ImportFrom, alias: ast.alias) -> str:
        """The absolute name of one thing that ``from ... import`` binds."""
        package = self.path.parts[: len(self.path.parts) - node.level] if node.level else ()
        return ".".join((*package, node.module, alias.name) if node.module else (*package, alias.name))

    @cached_property
    def _meanings(self) -> dict[str, str]:
        """What a name that an import bound stands for: ``from time import sleep as nap`` gives ``nap: time.sleep``."""
        meanings: dict[str, str] = {}
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    for alias in names:
                        top = alias.name.partition(".")[0]
                        meanings[alias.asname or top] = alias.name if alias.asname else top
                case ast.ImportFrom(names=names):
                    for alias in names:
                        meanings[alias.asname or alias.name] = self._imported(node, alias)
                case _:
                    pass
        return meanings

    def dotted(self, node: ast.expr) -> str:
        """The dotted name that an expression spells, imports resolved; empty where it is something else."""
        match node:
            case ast.Name(id=name):
                return self._meanings.get(name, name)
            case ast.Attribute(value=value, attr=attr):
                prefix = self.dotted(value)
                return f"{prefix}.{attr}" if prefix else ""
            case _:
                return ""

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call with the dotted name it calls."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, self.dotted(node.func)


Rule: TypeAlias = Callable[[Source], list[str]]


def snippet(path: str, text: str) -> Source:
    """A small invented file, to show that a rule sees what it should and no more."""
    return Source(path=PurePosixPath(path), text=dedent(text))


def files(tops: Sequence[str], suffixes: Sequence[str] = (".py",)) -> list[Path]:
    """Files of these kinds below these folders of the repository, sorted; hidden and generated folders are left out."""
    found: list[Path] = []
    for top in tops:
        start = ROOT / top
        if start.is_file():
            found.append(start)
        for folder, subfolders, names in os.walk(start):
            subfolders[:] = [name for name in subfolders if not name.startswith((".", "_build", "__pycache__"))]
            found += [Path(folder) / name for name in names if name.endswith(tuple(suffixes))]
    return sorted(found)


def sources(*tops: str) -> list[Source]:
    """Every Python file below these folders of the repository."""
    return [
        Source(path=PurePosixPath(path.relative_to(ROOT).as_posix()), text=path.read_text(encoding="utf-8"))
        for path in files(tops)
    ]


def findings(rule: Rule, over: Sequence[Source]) -> list[str]:
    """What one rule says about many files; an empty walk is an error, lest a rule pass by seeing nothing."""
    assert over, "no source files found"
    return [finding for source in over for finding in rule(source)]
