"""House rules that a reviewer should not have to repeat (CONTRIBUTING.md): sizes, docstrings, banned calls, comments.

Each rule is shown to fail on a small invented file at the end.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.source_tree import ROOMS, ROOT, Rule, Source, files, findings, snippet, sources

FUNCTION_LINES_MAX: Final = 60
FILE_LINES_MAX: Final = 700

BANNED_CALLS: Final = frozenset({"__import__", "compile", "eval", "exec", "os.popen", "os.system", "yaml.load"})
BANNED_MODULES: Final = frozenset({"dill", "marshal", "pickle", "shelve"})

CODE: Final = (*ROOMS, "tests", "tools", "docs")
TEXT: Final = (
    *CODE,
    ".ci",
    "newsfragments",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "CONTRIBUTING.md",
)
TEXT_SUFFIXES: Final = (".py", ".md", ".toml", ".txt", ".sh", ".svg", ".html", ".js", ".json", "Makefile", "run")
HOME_PATH: Final = re.compile(r"(?<![\w.:/])(?:/(?:(?:home|Users)/\w+|root|tmp)/|[A-Z]:\\Users\\)")


def length_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    match node.body[0]:
        case ast.Expr(value=ast.Constant(value=str())) as docstring:
            return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)
        case _:
            return lines


def short_functions(source: Source) -> list[str]:
    """A function fits a page; its docstring is not counted."""
    found: list[str] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = length_without_docstring(node)
            if lines > FUNCTION_LINES_MAX:
                found.append(source.finding(node, f"{node.name} has {lines} lines, more than {FUNCTION_LINES_MAX}"))
    return found


def short_files(source: Source) -> list[str]:
    lines = source.text.count("\n")
    return [source.finding(1, f"{lines} lines, more than {FILE_LINES_MAX}")] if lines > FILE_LINES_MAX else []


def module_docstrings(source: Source) -> list[str]:
    """Every module says first what it is for."""
    return [] if ast.get_docstring(source.tree) else [source.finding(1, "no module docstring")]


def banned_calls(source: Source) -> list[str]:
    """Nothing that runs text as code or decodes objects that run code."""
    found = [source.finding(call, f"{name}()") for call, name in source.calls() if name in BANNED_CALLS]
    found += [
        source.finding(line, f"imports {name}")
        for line, name in source.imports
        if name.partition(".")[0] in BANNED_MODULES
    ]
    for call, name in source.calls():
        if any(keyword.arg == "shell" and not is_false(keyword.value) for keyword in call.keywords):
            found.append(source.finding(call, f"{name or 'call'} through a shell"))
    return found


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def comments(source: Source) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def reasoned_todos(source: Source) -> list[str]:
    """A postponed thing says what and why: ``TODO: ...``. A known defect is mended or reported, not marked."""
    found: list[str] = []
    for line, text in comments(source):
        if re.search(r"\b(FIXME|XXX|HACK)\b", text):
            found.append(source.finding(line, "mend it, or write down what is wrong where people look"))
        elif re.search(r"\bTODO\b", text) and not re.search(r"\bTODO: \S.{19,}", text):
            found.append(source.finding(line, "a TODO without what and why"))
    return found


def reasoned_skips(source: Source) -> list[str]:
    """A test that does not run says exactly why."""
    found: list[str] = []
    for call, name in source.calls():
        if name in {"pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"}:
            positional = call.args if name == "pytest.skip" else call.args[:1] if name == "pytest.mark.skip" else []
            if not positional and not any(keyword.arg == "reason" for keyword in call.keywords):
                found.append(source.finding(call, f"{name} without a reason"))
    called = {call.func for call, _ in source.calls()}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node not in called and source.dotted(node) == "pytest.mark.skip":
            found.append(source.finding(node, "pytest.mark.skip without a reason"))
    return found


def machine_paths(name: str, text: str, root: str) -> list[str]:
    """No path that exists on one person's machine only."""
    return [
        f"{name}:{number}: a path of one machine: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), start=1)
        if root in line or HOME_PATH.search(line)
    ]


def pins_without_addresses(text: str) -> list[str]:
    """Constraints name versions; where to download is the installing machine's business."""
    return [line for line in text.splitlines() if "://" in line or " @ " in line or line.startswith("-")]


PACKAGE_RULES: Final = (module_docstrings, short_functions, short_files, banned_calls, reasoned_todos, reasoned_skips)


@pytest.mark.parametrize("rule", PACKAGE_RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps(rule: Rule) -> None:
    assert findings(rule, sources(*CODE)) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    texts = files(TEXT, TEXT_SUFFIXES)
    assert texts
    assert [finding for path in texts for finding in machine_paths(path.name, read(path), str(ROOT))] == []


def test_constraints_name_versions_only() -> None:
    text = read(ROOT / "constraints.txt")
    assert pins_without_addresses(text) == []
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.match(r"[\w.-]+==[\w.+-]+( ; .+)?$", line)] == []


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


LONG_BODY: Final = "    x = 1\n" * FUNCTION_LINES_MAX
LONG_DOCSTRING: Final = '    """' + "Words.\n" * FUNCTION_LINES_MAX + '    """\n    return 1\n'

BROKEN: Final = (
    (short_functions, "def f():\n" + LONG_BODY),
    (
        short_functions,
        "class A:\n" + "".join("    " + line + "\n" for line in ["async def f():", *LONG_BODY.splitlines()]),
    ),
    (short_files, "x = 1\n" * (FILE_LINES_MAX + 1)),
    (module_docstrings, "x = 1\n"),
    (banned_calls, "eval('1')\n"),
    (banned_calls, "import pickle\n"),
    (banned_calls, "from os import system\nsystem('ls')\n"),
    (banned_calls, "import subprocess\nsubprocess.run('ls', shell=True)\n"),
    (reasoned_todos, "x = 1  # TODO\n"),
    (reasoned_todos, "x = 1  # TODO: later\n"),
    (reasoned_todos, "x = 1  # FIXME: this forks the chain on Tuesdays\n"),
    (reasoned_skips, "import pytest\npytest.skip()\n"),
    (reasoned_skips, "import pytest\n@pytest.mark.skip\ndef test_x(): ...\n"),
    (reasoned_skips, "import pytest\n@pytest.mark.skipif(True)\ndef test_x(): ...\n"),
)

SOUND: Final = (
    (short_functions, "def f():\n" + LONG_DOCSTRING),
    (short_files, "x = 1\n" * FILE_LINES_MAX),
    (module_docstrings, '"""What it is for."""\n'),
    (banned_calls, "import re, subprocess\nre.compile('a')\nsubprocess.run(['ls'], shell=False)\nmodel.eval()\n"),
    (reasoned_todos, "x = 'TODO'  # TODO: drop this when Python 3.12 is the oldest we support\n"),
    (reasoned_skips, "import pytest\n@pytest.mark.skipif(True, reason='no chromium on PATH')\ndef test_x(): ...\n"),
)


@pytest.mark.parametrize(("rule", "text"), BROKEN)
def test_a_broken_rule_is_seen(rule: Rule, text: str) -> None:
    assert rule(snippet("consensus/example.py", text))


@pytest.mark.parametrize(("rule", "text"), SOUND)
def test_sound_code_passes(rule: Rule, text: str) -> None:
    assert rule(snippet("consensus/example.py", text)) == []


def test_every_rule_has_an_example_of_each_kind() -> None:
    assert {rule for rule, _ in BROKEN} == set(PACKAGE_RULES) == {rule for rule, _ in SOUND}


def test_machine_paths_are_seen() -> None:
    home, checkout = "/".join(["", "home", "ann", "x", ""]), "/".join(["", "srv", "ann", "repo"])
    assert machine_paths("a.md", f"fine\nsee {home}\n", checkout) == [f"a.md:2: a path of one machine: see {home}"]
    assert machine_paths("a.md", f"cd {checkout}/docs", checkout)
    assert (
        machine_paths("a.md", "GET /status, https://example.org/home/ann, .venv/bin, /usr/bin/python3", checkout) == []
    )


def test_addresses_among_pins_are_seen() -> None:
    assert pins_without_addresses("trio==0.35.0\n# a comment\n") == []
    for line in ("trio @ file.whl", "https://example.org/trio.whl", "--index-url x", "-e ."):
        assert pins_without_addresses(line) == [line]
