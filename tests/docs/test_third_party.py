"""The protocol of docs/writing-a-protocol.md as its author's users get it: installed by entry point, outside this tree.

An installation is what pip leaves behind: the module beside a ``.dist-info`` with its entry points, made here from the
package's ``pyproject.toml``, because tests have no network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from consensus.protocols.registry import ENTRY_POINT_GROUP, protocol_named, protocol_names
from netsim.suite import CHECKS

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = ROOT / "docs" / "examples" / "twochain"
TIMEOUT_S: Final = 600


def install(site: Path) -> None:
    """The package as pip would leave it in ``site``."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    for module in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(PACKAGE / f"{module}.py", site)
    described = project["project"]
    info = site / f"{described['name']}-{described['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in points.items())
        for group, points in described["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    install(folder)
    return folder


def run(site: Path, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of ours in a process of its own, in which the package is installed and this tree is not the start."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=work,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT))), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_entry_point_makes_it_known(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'twochain' is unknown"):
        protocol_named("twochain")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "twochain", raising=False)
    assert protocol_names()[-1] == "twochain"
    assert "twochain" not in sys.modules  # nothing is imported until somebody names it
    definition = protocol_named("twochain")
    assert definition.name == "twochain"
    assert Path(str(sys.modules.pop("twochain").__file__)).parent == site


def test_its_entry_point_is_in_the_group_that_is_looked_up() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    assert list(project["project"]["entry-points"]) == [ENTRY_POINT_GROUP]


def test_its_own_tests_pass_check_by_check(site: Path, tmp_path: Path) -> None:
    shutil.copy(PACKAGE / "test_twochain.py", tmp_path)
    result = run(site, tmp_path, "pytest", "-v", "-p", "no:cacheprovider", "test_twochain.py")
    assert result.returncode == 0, result.stdout
    for check in CHECKS:
        assert f"test_two_chain[{check}] PASSED" in result.stdout
    assert f"{len(CHECKS)} passed" in result.stdout


def test_the_planted_bug_is_found_shrunk_and_gone_with_the_right_rule(site: Path, tmp_path: Path) -> None:
    shutil.copy(PACKAGE / "trusting.py", tmp_path)
    there = ("--protocol-file", "trusting.py:TRUSTING")
    suite = run(site, tmp_path, "netsim", "suite", *there, "--schedules", "found", "--json")
    assert suite.returncode == 1, suite.stderr
    failed = {each["check"]: each["text"] for each in json.loads(suite.stdout)["outcomes"] if not each["passed"]}
    assert "shows a false timeout certificate" in failed["safety"]
    found = next((tmp_path / "found").glob("twochain-swarm-[0-9]*.json"))
    shrunk = run(site, tmp_path, "netsim", "shrink", str(found), *there, "--out", "short.json")
    assert "with forged proof that the view before was given up" in shrunk.stdout
    assert run(site, tmp_path, "netsim", "replay", "short.json", *there).stdout.startswith("S7")
    assert run(site, tmp_path, "netsim", "replay", "short.json").stdout.startswith("silent")


def test_commands_take_its_name(site: Path, tmp_path: Path) -> None:
    assert run(site, tmp_path, "netsim", "run", "calm", "--protocol", "twochain").stdout.startswith("silent")
    made = run(site, tmp_path, "sequencer.cli", "testnet", "homes", "--protocol", "twochain", "--base-port", "0")
    assert made.returncode == 0, made.stderr
    spec = json.loads(next((tmp_path / "homes").rglob("genesis.json")).read_text())
    assert spec["protocol"] == "twochain"


def test_without_the_package_nobody_takes_it(tmp_path: Path) -> None:
    refused = run(tmp_path, tmp_path, "sequencer.cli", "testnet", "homes", "--protocol", "twochain")
    assert refused.returncode != 0
    assert "twochain" in refused.stderr


@pytest.mark.sweep
def test_real_processes_run_it(site: Path, tmp_path: Path) -> None:
    demo = run(
        site, tmp_path, "sequencer.cli", "demo", "--protocol", "twochain", "--seconds", "5", "--json", "result.json"
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert json.loads((tmp_path / "result.json").read_text())["protocol"] == "twochain"
