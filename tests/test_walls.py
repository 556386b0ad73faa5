"""The walls between the rooms (docs/architecture.md), read from the source by ``ast``.

Each wall is a rule. One test holds it over the whole tree; the examples at the end show that it can fail, and what it
lets pass.
"""

from __future__ import annotations

import ast
from typing import Final

import pytest

from tests.source_tree import ROOMS, Rule, Source, findings, snippet, sources

# What a room may import of the other rooms, by dotted prefix. The sequencer knows adapters only as the contract, the
# names in the registry, and the host process that it starts and talks to; never an adapter itself.
MAY_IMPORT: Final = {
    "consensus": (),
    "sequencer": ("consensus", "rollup_adapters.base", "rollup_adapters.registry", "rollup_adapters.host"),
    "rollup_adapters": (),
    "netsim": ("consensus", "sequencer"),
}

# The core decides; it does not look at clocks, chance, files or threads. The driver alone runs on trio, and still holds
# no socket.
DRIVER: Final = "consensus/driver.py"
# fmt: off
IMPURE: Final = frozenset({
    "anyio", "asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading",
    "time", "trio", "uuid",
})
# fmt: on
DRIVER_MAY_IMPORT: Final = frozenset({"trio", "time", "logging"})
IMPURE_CALLS: Final = frozenset({"open", "print", "input", "hash", "id", "breakpoint"})

PROTOCOL_NAMES: Final = frozenset({"hotstuff", "hotstuff2", "jolteon", "simplex", "streamlet", "tendermint"})
THREAD_NAMES: Final = frozenset({"to_thread", "start_thread_soon", "run_in_threadpool"})

# Where the same input must give the same bytes on every machine.
DETERMINISTIC: Final = ("consensus", "netsim", "rollup_adapters", "sequencer/payload.py", "sequencer/ledger.py")
ORDER_BLIND: Final = frozenset({"all", "any", "bool", "frozenset", "len", "max", "min", "set", "sorted", "sum"})
SET_TYPES: Final = frozenset({"set", "frozenset", "Set", "AbstractSet", "MutableSet"})


def starts_with(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def room_wall(source: Source) -> list[str]:
    """A room imports itself, and of the others only what the table says."""
    allowed = (source.room, *MAY_IMPORT[source.room])
    return [
        source.finding(line, f"{source.room} must not import {name}")
        for line, name in source.imports
        if name.partition(".")[0] in ROOMS and not any(starts_with(name, prefix) for prefix in allowed)
    ]


def purity(source: Source) -> list[str]:
    """consensus/ imports nothing that touches the world, calls nothing that does, and computes without floats."""
    if not source.inside("consensus"):
        return []
    driver = source.inside(DRIVER)
    forbidden = IMPURE - DRIVER_MAY_IMPORT if driver else IMPURE
    found = [
        source.finding(line, f"the core must not import {name}")
        for line, name in source.imports
        if name.partition(".")[0] in forbidden
    ]
    hashes = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef) and node.name == "__hash__"]
    inside_hash = {inner for node in hashes for inner in ast.walk(node)}
    for node in ast.walk(source.tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS and node not in inside_hash:
                found.append(source.finding(node, f"the core must not call {name}()"))
            case ast.Constant(value=float()) if not driver:
                found.append(source.finding(node, "no floats in the core: machines may round differently"))
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()) if not driver:
                found.append(source.finding(node, "no true division in the core: it makes a float; use //"))
            case _:
                pass
    return found


def thread_wall(source: Source) -> list[str]:
    """Threads live in sequencer/storage/, where the journal bounds them, and in the evm adapter, alone in a process."""
    if source.inside("sequencer/storage", "rollup_adapters/evm"):
        return []
    names = [(line, name.rpartition(".")[2]) for line, name in source.imports]
    names += [(node.lineno, node.attr) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
    return [
        source.finding(line, f"{name} outside sequencer/storage/ and the evm adapter")
        for line, name in sorted(set(names))
        if name in THREAD_NAMES
    ]


def sign_wall(source: Source) -> list[str]:
    """A Sign effect is made in consensus/safety.py, where its slot was checked and recorded, and nowhere else."""
    if source.inside("consensus/safety.py"):
        return []
    found = [source.finding(node, "makes a Sign") for node, name in source.calls() if name.rpartition(".")[2] == "Sign"]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            aliases = [alias for alias in node.names if alias.name == "Sign" and alias.asname not in (None, "Sign")]
            found += [source.finding(node, f"hides Sign behind the name {alias.asname}") for alias in aliases]
    return found


def names_a_protocol(node: ast.AST) -> str | None:
    strings = (
        inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    )
    return next((text for text in strings if text.lower().replace("-", "").replace("_", "") in PROTOCOL_NAMES), None)


def protocol_wall(source: Source) -> list[str]:
    """Outside consensus/protocols/ nothing branches on a protocol's name, by comparison, case, table or prefix.

    A name as a default of the configuration or of the command line is no branch, and passes.
    """
    if source.inside("consensus/protocols"):
        return []
    found: list[str] = []
    for node in ast.walk(source.tree):
        match node:
            case ast.Compare() | ast.MatchValue():
                name = names_a_protocol(node)
            case ast.Dict(keys=keys):
                name = next((name for key in keys if key is not None and (name := names_a_protocol(key))), None)
            case ast.Subscript(slice=key, value=value) if source.dotted(value).rpartition(".")[2] != "Literal":
                name = names_a_protocol(key)
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith"), args=args):
                name = next((name for argument in args if (name := names_a_protocol(argument))), None)
            case _:
                name = None
        if name is not None:
            found.append(source.finding(node, f"branches on the protocol {name!r}; ask the engine or the registry"))
    return found


def does_nothing(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(statement, ast.Pass | ast.Continue)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for statement in body
    )


def swallowed_faults(source: Source) -> list[str]:
    """Remote faults are values and our bugs are exceptions; neither is swallowed whole."""
    broad = {"", "Exception", "BaseException"}
    found: list[str] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and does_nothing(node.body):
            types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or source.dotted(kind) in broad for kind in types):
                found.append(source.finding(node, "swallows every exception"))
    for call, name in source.calls():
        if name == "contextlib.suppress" and any(source.dotted(kind) in broad for kind in call.args):
            found.append(source.finding(call, "suppresses every exception"))
    return found


JUMPING_CLOCKS: Final = ("autojump_clock", "mock_clock")
"""Fixtures of pytest-trio; who asks for the second sets its threshold."""


def real_sleeps(source: Source) -> list[str]:
    """time.sleep blocks trio. In the tests trio.sleep is for clocks that jump: a test that sleeps has that clock, a
    helper stands beside tests that have it, and what must pass in real time does so in tests/support/waiting.py."""
    found = [source.finding(call, "time.sleep") for call, name in source.calls() if name == "time.sleep"]
    if not source.inside("tests") or source.inside("tests/support/waiting.py"):
        return found
    jumps = any(clock in source.text for clock in JUMPING_CLOCKS)
    in_tests: dict[ast.AST, bool] = {
        inner: any(argument.arg in JUMPING_CLOCKS for argument in node.args.args)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_")
        for inner in ast.walk(node)
    }
    return found + [
        source.finding(call, "trio.sleep in real time: wait for what comes, with tests/support/waiting.py")
        for call, name in source.calls()
        if name == "trio.sleep" and not in_tests.get(call, jumps)
    ]


def unseeded_chance(source: Source) -> list[str]:
    """Chance comes from a random.Random with a seed that can be written down; key material from PyNaCl or secrets."""
    found: list[str] = []
    for call, name in source.calls():
        if name == "random.Random" and not (call.args or call.keywords):
            found.append(source.finding(call, "random.Random() without a seed"))
        elif starts_with(name, "random") and name != "random.Random":
            found.append(source.finding(call, f"{name}: use a seeded random.Random"))
    return found


class SetOrder(ast.NodeVisitor):
    """Finds places where the order of a set's elements reaches the program.

    It knows a set by its annotation or by what is assigned to it, names per function and attributes per file.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: list[str] = []
        self.attributes: set[str] = set()
        self.names: list[set[str]] = [set()]
        self.blind: set[ast.AST] = set()
        for node in ast.walk(source.tree):
            match node:
                case ast.AnnAssign(target=ast.Attribute(attr=attr), annotation=kind) if self.is_set_type(kind):
                    self.attributes.add(attr)
                case ast.Assign(targets=[ast.Attribute(attr=attr)], value=value) if self.is_set(value):
                    self.attributes.add(attr)
                case ast.ClassDef(body=body):
                    self.attributes |= self.annotated(body)
                case _:
                    pass

    def is_set_type(self, node: ast.expr | None) -> bool:
        match node:
            case ast.Subscript(value=value):
                return self.is_set_type(value)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self.is_set_type(left) or self.is_set_type(right)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return name in SET_TYPES
            case _:
                return False

    def is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id="set" | "frozenset")):
                return True
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right):
                return self.is_set(left) or self.is_set(right)
            case ast.Name(id=name):
                return name in self.names[-1]
            case ast.Attribute(attr=attr):
                return attr in self.attributes
            case _:
                return False

    def annotated(self, body: list[ast.stmt]) -> set[str]:
        """Names that these statements annotate or bind as sets."""
        names: set[str] = set()
        for statement in body:
            for node in ast.walk(statement):
                match node:
                    case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if self.is_set_type(kind):
                        names.add(name)
                    case ast.Assign(targets=[ast.Name(id=name)], value=value) if self.is_set(value):
                        names.add(name)
                    case _:
                        pass
        return names

    def complain(self, node: ast.expr) -> None:
        if self.is_set(node):
            self.found.append(self.source.finding(node, "the order of a set is not the same on two machines; sort it"))

    def visit_Module(self, node: ast.Module) -> None:
        self.names[-1] = self.annotated([item for item in node.body if isinstance(item, ast.Assign | ast.AnnAssign)])
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        known = {argument.arg for argument in arguments if self.is_set_type(argument.annotation)}
        self.names.append(self.names[0] | known)
        self.names[-1] |= self.annotated(node.body)
        self.generic_visit(node)
        self.names.pop()

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_For(self, node: ast.For) -> None:
        self.complain(node.iter)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp | ast.DictComp) -> None:
        if node not in self.blind:
            for generator in node.generators:
                self.complain(generator.iter)
        self.generic_visit(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.visit_ListComp(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self.visit_ListComp(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        if node not in self.blind:
            self.complain(node.value)
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        self.blind.update(node.elts)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in ORDER_BLIND:
                self.blind.update(node.args)
            case ast.Call(func=ast.Name(id="tuple" | "list" | "iter" | "enumerate" | "zip" | "map"), args=args):
                for argument in args:
                    self.complain(argument)
            case ast.Call(func=ast.Attribute(value=value, attr="pop"), args=[]):
                self.complain(value)
            case ast.Call(func=ast.Attribute(attr="join" | "extend"), args=[argument]):
                self.complain(argument)
            case _:
                pass
        self.generic_visit(node)


def set_order(source: Source) -> list[str]:
    """Where every machine must compute the same bytes, no set is iterated unsorted."""
    if not source.inside(*DETERMINISTIC):
        return []
    visitor = SetOrder(source)
    visitor.visit(source.tree)
    return visitor.found


ROOM_RULES: Final = (
    room_wall, purity, thread_wall, sign_wall, protocol_wall, swallowed_faults, real_sleeps, unseeded_chance, set_order,
)  # fmt: skip
TEST_RULES: Final = (swallowed_faults, real_sleeps, unseeded_chance)


@pytest.mark.parametrize("rule", ROOM_RULES, ids=lambda rule: rule.__name__)
def test_the_rooms_keep(rule: Rule) -> None:
    assert findings(rule, sources(*ROOMS)) == []


@pytest.mark.parametrize("rule", TEST_RULES, ids=lambda rule: rule.__name__)
def test_the_tests_keep(rule: Rule) -> None:
    assert findings(rule, sources("tests", "tools")) == []


JUMPS: Final = "async def test_y(autojump_clock): await trio.sleep(1)"
BROKEN: Final = (
    (room_wall, "consensus/types.py", "import sequencer.config"),
    (room_wall, "sequencer/api/app.py", "from ..cli import main\nfrom netsim import world"),
    (room_wall, "sequencer/node.py", "from rollup_adapters.evm import EvmAdapter"),
    (room_wall, "sequencer/node.py", "from rollup_adapters import raw"),
    (room_wall, "sequencer/node.py", "def late():\n    import netsim.world"),
    (room_wall, "rollup_adapters/raw.py", "from consensus.types import Block"),
    (room_wall, "netsim/world.py", "import rollup_adapters.base"),
    (purity, "consensus/engine.py", "import trio"),
    (purity, "consensus/engine.py", "from os.path import join"),
    (purity, "consensus/protocols/jolteon.py", "def now():\n    import time"),
    (purity, DRIVER, "import ssl"),
    (purity, DRIVER, "import threading"),
    (purity, "consensus/election.py", "def leader(view):\n    return hash(view) % 4"),
    (purity, "consensus/validators.py", "quorum = 2 * total / 3"),
    (purity, "consensus/validators.py", "share = 0.33"),
    (thread_wall, "consensus/driver.py", "import trio\nasync def f():\n    await trio.to_thread.run_sync(g)"),
    (thread_wall, "sequencer/node.py", "from trio import to_thread"),
    (thread_wall, "sequencer/api/app.py", "from starlette.concurrency import run_in_threadpool"),
    (thread_wall, "rollup_adapters/host/server.py", "from trio import to_thread"),
    (thread_wall, "rollup_adapters/raw.py", "import trio\nasync def f():\n    await trio.to_thread.run_sync(g)"),
    (thread_wall, "rollup_adapters/evm_like.py", "from trio import to_thread"),
    (sign_wall, "consensus/protocols/chained.py", "effect = Sign(subject=vote)"),
    (sign_wall, "sequencer/node.py", "effect = engine.Sign(subject=vote)"),
    (sign_wall, "consensus/replica.py", "from consensus.engine import Sign as Effect"),
    (protocol_wall, "sequencer/node.py", "fast = spec.protocol == 'jolteon'"),
    (protocol_wall, "sequencer/node.py", "fast = spec.protocol in ('Jolteon', 'hotstuff-2')"),
    (protocol_wall, "netsim/world.py", "match name:\n    case 'tendermint':\n        depth = 1"),
    (protocol_wall, "consensus/replica.py", "depth = {'hotstuff': 3, 'jolteon': 2}[name]"),
    (protocol_wall, "consensus/replica.py", "slow = name.startswith('hotstuff')"),
    (swallowed_faults, "sequencer/node.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (swallowed_faults, "sequencer/node.py", "for x in y:\n    try:\n        f()\n    except:\n        continue"),
    (swallowed_faults, "sequencer/node.py", "try:\n    f()\nexcept (OSError, BaseException):\n    ..."),
    (swallowed_faults, "sequencer/node.py", "from contextlib import suppress\nwith suppress(Exception):\n    f()"),
    (real_sleeps, "tests/test_x.py", "import time\ntime.sleep(1)"),
    (real_sleeps, "tests/test_x.py", "from time import sleep as nap\nnap(1)"),
    (real_sleeps, "tests/test_x.py", "import trio\nasync def until():\n    await trio.sleep(1)"),
    (real_sleeps, "tests/test_x.py", "import trio\nasync def test_x(): await trio.sleep(1)\n" + JUMPS),
    (unseeded_chance, "netsim/world.py", "import random\nrandom.shuffle(peers)"),
    (unseeded_chance, "netsim/world.py", "from random import choice\nchoice(peers)"),
    (unseeded_chance, "netsim/world.py", "from random import Random\nrng = Random()"),
    (set_order, "consensus/epochs.py", "for x in {1, 2}:\n    f(x)"),
    (set_order, "consensus/epochs.py", "def f(peers: set[int]) -> list[int]:\n    return [p for p in peers]"),
    (set_order, "consensus/epochs.py", "class A:\n    a: set[int]\n    def f(self):\n        return tuple(self.a)"),
    (set_order, "consensus/epochs.py", "def f(a):\n    b = set(a)\n    return b''.join(b)"),
    (set_order, "consensus/epochs.py", "def f(a):\n    b = set(a)\n    return b.pop()"),
    (set_order, "consensus/epochs.py", "def f(a, b):\n    return (*(set(a) - b),)"),
    (set_order, "sequencer/ledger.py", "def f(a):\n    return {x: 1 for x in frozenset(a)}"),
)  # fmt: skip

SOUND: Final = (
    (room_wall, "sequencer/node.py", "from rollup_adapters import base, registry\nimport rollup_adapters.host"),
    (room_wall, "consensus/crypto/bls.py", "from . import scheme\nfrom ..types import Block"),
    (room_wall, "netsim/world.py", "from sequencer.payload import Payload"),
    (purity, DRIVER, "import trio\ntimeout_s = 0.5"),
    (purity, "consensus/validators.py", "quorum = 2 * total // 3 + 1"),
    (purity, "consensus/types.py", "class A:\n    def __hash__(self):\n        return hash(self.id)"),
    (purity, "sequencer/node.py", "import os\nshare = 1 / 3"),
    (thread_wall, "sequencer/storage/journal.py", "import trio\nasync def f():\n    await trio.to_thread.run_sync(g)"),
    (thread_wall, "rollup_adapters/evm/__init__.py", "from trio import to_thread"),
    (thread_wall, "rollup_adapters/evm/store.py", "import trio\nasync def f():\n    await trio.to_thread.run_sync(g)"),
    (sign_wall, "consensus/safety.py", "effect = Sign(subject=vote)"),
    (sign_wall, "consensus/driver.py", "match effect:\n    case Sign(subject=subject):\n        f(subject)"),
    (protocol_wall, "sequencer/config.py", "protocol: str = 'jolteon'"),
    (protocol_wall, "sequencer/config.py", "protocol: Literal['jolteon', 'hotstuff']"),
    (protocol_wall, "consensus/protocols/registry.py", "rules = {'jolteon': Jolteon}[name]"),
    (swallowed_faults, "sequencer/node.py", "try:\n    f()\nexcept OSError:\n    pass"),
    (swallowed_faults, "sequencer/node.py", "try:\n    f()\nexcept Exception as e:\n    raise Fatal from e"),
    (real_sleeps, "tests/test_x.py", "import trio\nasync def until(): await trio.sleep(1)\n" + JUMPS),
    (real_sleeps, "tests/support/waiting.py", "import trio\nasync def until(): await trio.sleep(1)"),
    (real_sleeps, "sequencer/node.py", "import trio\nasync def f(): await trio.sleep(1)"),
    (unseeded_chance, "netsim/world.py", "import random\nrng = random.Random(7)\nrng.shuffle(peers)"),
    (set_order, "consensus/epochs.py", "def f(peers: set[int]) -> list[int]:\n    return sorted(p for p in peers)"),
    (set_order, "consensus/epochs.py", "def f(a):\n    b = set(a)\n    return {-x for x in b}, sum(x for x in b)"),
    (set_order, "consensus/epochs.py", "def f(a: dict[int, int]):\n    return [x for x in a]"),
    (set_order, "sequencer/node.py", "for x in {1, 2}:\n    f(x)"),
)  # fmt: skip


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_a_broken_wall_is_seen(rule: Rule, path: str, text: str) -> None:
    [*found] = rule(snippet(path, text))
    assert found
    assert all(finding.startswith(f"{path}:") for finding in found)


@pytest.mark.parametrize(("rule", "path", "text"), SOUND)
def test_sound_code_passes(rule: Rule, path: str, text: str) -> None:
    assert rule(snippet(path, text)) == []


def test_every_rule_has_an_example_of_each_kind() -> None:
    rules = set(ROOM_RULES + TEST_RULES)
    assert {rule for rule, _, _ in BROKEN} == rules
    assert {rule for rule, _, _ in SOUND} == rules
