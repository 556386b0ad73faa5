"""The documentation runs: every Python block marked runnable, every hex example, every table of bounds and messages.

Marks are HTML comments on the line before a code block or table, which renderers do not show::

    <!-- runnable: counter.py -->      the Python block below is saved under this name and imported, page by page in
                                       order, in an empty directory; its ``main`` is run, its ``test_...`` are called
    <!-- vector: RangeRequest -->      the hex below is that entry of tests/consensus/wire_vectors.json
    <!-- bounds -->                    each row of the table below ends with a value and where the code names it
    <!-- file: twochain/x.py -->      the block below is that file of docs/examples (run by test_third_party.py)
    <!-- messages: package.module -->  each row of the table below is a tag, a struct of that module, and its fields
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

import msgspec
import pytest
import trio

from tests.support.cluster import SECOND, Cluster
from tests.support.committee import committee

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
EXAMPLES: Final = ROOT / "docs" / "examples"
VECTORS: Final = ROOT / "tests" / "consensus" / "wire_vectors.json"
PATIENCE_S: Final = 60

_MARK: Final = re.compile(r"^<!-- (\w+)(?:: (.+?))? -->$")
_UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Marked(NamedTuple):
    """What follows one mark: the lines of the code block, or of the table."""

    page: Path
    line: int
    kind: str
    argument: str
    lines: tuple[str, ...]


def marked_in(page: Path) -> Iterator[Marked]:
    """Everything that is marked in a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        found = _MARK.match(line)
        if found is not None:
            rest = lines[number + 1 :]
            fenced = rest[0].startswith("```")
            end = rest.index("```", 1) if fenced else next((i for i, each in enumerate(rest) if not each), len(rest))
            body = tuple(rest[1:end] if fenced else rest[2:end])
            yield Marked(page, number + 1, found[1], found[2] or "", body)


def marked(kind: str) -> list[Marked]:
    return [each for page in PAGES for each in marked_in(page) if each.kind == kind]


def place(each: Marked) -> str:
    return f"{each.page.name}:{each.line}"


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def named(path: str) -> object:
    """The object behind a dotted name: of a module, or a default of a class in it."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        owner = named(module)
    if isinstance(owner, type) and issubclass(owner, msgspec.Struct):
        return next(field.default for field in msgspec.structs.fields(owner) if field.name == name)
    return getattr(owner, name)


def quantity(text: str) -> Fraction:
    """``4,096``, ``32 MiB``, ``2**53`` or ``0.25 s`` as a number. Units of time are left away: names carry them."""
    number, _, unit = text.partition(" ")
    base, _, exponent = number.replace(",", "").partition("**")
    return Fraction(base) ** int(exponent or 1) * _UNITS.get(unit, 1)


# --- runnable code ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted({each.page for each in marked("runnable")}), ids=lambda page: page.name)
def test_the_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for each in marked_in(page):
        if each.kind == "runnable":
            run_module(saved_module(each, tmp_path, monkeypatch))


def saved_module(code: Marked, directory: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The block as a module, until the test is over. ``directory`` is on the path."""
    name = code.argument.removesuffix(".py")
    assert code.argument.endswith(".py"), f"{place(code)}: name the file"
    assert name not in sys.modules, f"{place(code)}: {name} is a module already"
    (directory / code.argument).write_text("\n".join(code.lines) + "\n")
    importlib.invalidate_caches()
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # so that undoing it forgets the module
    del sys.modules[name]
    return importlib.import_module(name)


def run_module(module: ModuleType) -> None:
    main = getattr(module, "main", None)
    if main is not None:
        trio.run(in_time, main)
    for test_name, test in vars(module).items():
        if test_name.startswith("test_"):
            marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
            for arguments in marks[0].args[1] if marks else [None]:
                test() if arguments is None else test(arguments)


async def in_time(main: object) -> None:
    assert inspect.iscoroutinefunction(main)
    with trio.fail_after(PATIENCE_S):
        await main()


def test_the_protocol_of_the_docs_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    example = next(each for each in marked("runnable") if each.argument == "cautious.py")
    cluster = Cluster(committee(4), through_codec=True)
    cluster.definition = saved_module(example, tmp_path, monkeypatch).CAUTIOUS
    cluster.start()
    cluster.submit(b"payload")
    assert cluster.run(5 * SECOND, until=cluster.drained)
    assert cluster.reached(1)
    assert not any(node.timeouts_fired or node.rejects for node in cluster.nodes)


# --- examples and tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", marked("vector"), ids=place)
def test_hex_examples_are_the_frozen_ones(example: Marked) -> None:
    digits = "".join(line.partition("#")[0] for line in example.lines)
    vectors: dict[str, str] = json.loads(VECTORS.read_text())
    assert re.sub(r"\s", "", digits) == vectors[example.argument]


@pytest.mark.parametrize("table", marked("bounds"), ids=place)
def test_bounds_are_those_of_the_code(table: Marked) -> None:
    assert table.lines
    wrong = []
    for row in table.lines:
        *_, value, where = cells(row)
        found = named(where.strip("`"))
        if not isinstance(found, int | float) or quantity(value) != Fraction(str(found)):
            wrong.append(f"{where} is {found}, not {value}")
    assert wrong == []


@pytest.mark.parametrize("table", marked("messages"), ids=place)
def test_messages_have_these_tags_and_fields(table: Marked) -> None:
    assert table.lines
    module = importlib.import_module(table.argument)
    for row in table.lines:
        tag, name, fields = (cell.replace("`", "") for cell in cells(row)[:3])
        struct: type[msgspec.Struct] = getattr(module, name)
        found = struct.__struct_config__.tag
        assert (tag, fields) == ("-" if found is None else str(found), ", ".join(struct.__struct_fields__)), name


@pytest.mark.parametrize("each", marked("file"), ids=place)
def test_files_stand_in_the_pages_as_they_are(each: Marked) -> None:
    assert (EXAMPLES / each.argument).read_text(encoding="utf-8").splitlines() == list(each.lines)


def test_no_example_stands_in_no_page() -> None:
    there = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.*") if "__pycache__" not in path.parts}
    assert there == {each.argument for each in marked("file")}


def test_every_mark_is_known() -> None:
    kinds = {"runnable", "file", "vector", "bounds", "messages"}
    assert [place(each) for page in PAGES for each in marked_in(page) if each.kind not in kinds] == []


# --- the tests can fail ----------------------------------------------------------------------------------------------


def test_marks_quantities_and_names(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# x\n\n<!-- runnable: a.py -->\n```python\nx = 1\n```\n\n<!-- bounds -->\n| a |\n|---|\n| b | 1 |\n"
    )
    code, table = marked_in(page)
    assert (code.kind, code.argument, code.lines) == ("runnable", "a.py", ("x = 1",))
    assert (table.kind, table.argument, table.lines) == ("bounds", "", ("| b | 1 |",))
    assert [quantity(text) for text in ("4,096", "32 MiB", "2**53", "0.25 s")] == [4096, 2**25, 2**53, Fraction(1, 4)]
    assert named("consensus.genesis.ChainSpec.payload_size_max") == 2 * 2**20
    assert named("sequencer.transport.limits.Limits.observers_max") == 64
    assert named("consensus.types.HASH_SIZE") == 32


def test_a_false_example_is_seen(tmp_path: Path) -> None:
    row = ("| frame | 39 MiB | `consensus.codec.FRAME_SIZE_MAX` |",)
    with pytest.raises(AssertionError, match="not 39 MiB"):
        test_bounds_are_those_of_the_code(Marked(tmp_path, 1, "bounds", "", row))
    with pytest.raises(AssertionError):
        test_hex_examples_are_the_frozen_ones(Marked(tmp_path, 1, "vector", "RangeRequest", ("00",)))
    with pytest.raises(AssertionError, match="Vote"):
        test_messages_have_these_tags_and_fields(
            Marked(tmp_path, 1, "messages", "consensus.types", ("| 2 | `Vote` | `kind`, `view` |",))
        )
