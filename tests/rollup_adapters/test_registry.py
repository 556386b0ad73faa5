"""Adapters are found by entry point only, and every refusal says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rollup_adapters.raw import RawAdapter
from rollup_adapters.registry import AdapterLoadError, known_adapters, load_adapter
from tests.rollup_adapters.common import install

BROKEN = """
class Old:
    api_version = 0

class Partial:
    api_version = 1
    async def check(self, transactions): ...

def function(context): ...
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_loads_by_name(packages: Path) -> None:
    install(packages, "ours", test_raw="rollup_adapters.raw:RawAdapter")
    assert load_adapter("test_raw") is RawAdapter
    assert "test_raw" in known_adapters()


def test_same_class_declared_twice_is_no_conflict(packages: Path) -> None:
    install(packages, "checkout", test_raw="rollup_adapters.raw:RawAdapter")
    install(packages, "installed", test_raw="rollup_adapters.raw:RawAdapter")
    assert load_adapter("test_raw") is RawAdapter


def test_unknown_name_lists_the_known(packages: Path) -> None:
    install(packages, "ours", test_one="rollup_adapters.raw:RawAdapter", test_two="rollup_adapters.raw:RawAdapter")
    with pytest.raises(AdapterLoadError, match=r"no adapter is called 'test_three' \(known: .*test_one, test_two"):
        load_adapter("test_three")


def test_two_packages_claiming_a_name_are_refused(packages: Path) -> None:
    install(packages, "ours", test_raw="rollup_adapters.raw:RawAdapter")
    install(packages, "theirs", test_raw="somewhere.else:Adapter")
    with pytest.raises(AdapterLoadError, match=r"claimed more than once: .*from ours 1\.0.*from theirs 1\.0"):
        load_adapter("test_raw")


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("adapter_test_broken:Old", "declares api_version 0, this release speaks 1"),
        ("adapter_test_broken:Partial", "lacks deliver, last_delivered, settle, query, close"),
        ("adapter_test_broken:function", "is not a class but function"),
        ("adapter_test_broken:Absent", "does not import: AttributeError"),
        ("adapter_test_absent:Absent", "does not import: ModuleNotFoundError"),
    ],
)
def test_unusable_classes_are_refused(packages: Path, target: str, complaint: str) -> None:
    (packages / "adapter_test_broken.py").write_text(BROKEN)
    install(packages, "theirs", test_broken=target)
    with pytest.raises(AdapterLoadError, match=complaint) as refusal:
        load_adapter("test_broken")
    assert "'test_broken'" in str(refusal.value)
    assert "theirs 1.0" in str(refusal.value)


def test_only_what_is_named_is_imported(packages: Path) -> None:
    (packages / "adapter_test_bystander.py").write_text("raise RuntimeError('imported without being asked for')")
    install(packages, "ours", test_raw="rollup_adapters.raw:RawAdapter", test_bystander="adapter_test_bystander:X")
    assert "test_bystander" in known_adapters()
    load_adapter("test_raw")
    assert "adapter_test_bystander" not in sys.modules
