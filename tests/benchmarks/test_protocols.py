"""The command that measures protocols: it makes its page, and what it measures is what the protocols declare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.certificate_checks import check_costs
from benchmarks.protocol_report import Results, delay_rows, most_products
from benchmarks.protocol_runs import faulty_max, partition, silent, spread, trace
from benchmarks.protocols import main
from consensus.protocols.registry import protocol_named, protocol_names

RESPONSIVE = tuple(name for name in protocol_names() if protocol_named(name).costs.responsive)
every_protocol = pytest.mark.parametrize("protocol", protocol_names())


def run(page: Path, *more: str) -> int:
    chosen = ("--nodes", "4", "--protocols", "jolteon,tendermint", "--jobs", "1")
    return main(("--quick", *chosen, "--out", str(page), *more))


def kept(page: Path) -> dict[str, Any]:
    cells: dict[str, Any] = json.loads(page.with_suffix(".json").read_text())["cells"]
    return cells


def test_one_command_makes_page_and_plot_and_goes_on_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "costs.md"
    assert run(page) == 0
    text, cells = page.read_text(), kept(page)
    assert "python -m benchmarks.protocols" in text
    assert "| jolteon | 4 | 3 | 3 | 27 |" in text
    assert "| tendermint | 4 | 3 | 3 | 27 |" in text
    assert "![Costs over the number of validators](images/costs.svg)" in text
    assert "cells are not measured yet" in text, "of the full run"
    assert ElementTree.parse(tmp_path / "images" / "costs.svg").getroot().tag.endswith("svg")
    assert len(cells) == 2 * 8 + 2

    lost = cells.pop("silent/jolteon/4")
    page.with_suffix(".json").write_text(json.dumps({"cells": cells}))
    capsys.readouterr()
    assert run(page, "--resume") == 0
    assert "1 of 1: silent/jolteon/4" in capsys.readouterr().out
    assert kept(page)["silent/jolteon/4"] == lost, "virtual time is the same each time"


def test_a_certificate_that_takes_two_products_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "costs.md"
    found = {"products": 1, "timeout_certificates": {"1": {"products": 1}, "4": {"products": 2}}}
    page.with_suffix(".json").write_text(json.dumps({"cells": {"check/bls/4": found}}))
    assert run(page, "--resume") == 1
    assert "check/bls/4: a certificate took more than one product" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", RESPONSIVE)
def test_measured_delays_and_messages_are_the_declared_ones(protocol: str) -> None:
    costs = protocol_named(protocol).costs
    found: dict[str, Any] = trace(protocol, 4, "ed25519")
    assert found["commit_delays"] == dict.fromkeys(("least", "median", "most"), costs.commit_delays)
    assert found["proposer_delays"]["most"] <= costs.commit_delays
    assert 0 < found["messages_per_block"] <= costs.messages(4)
    assert found["bytes_per_block"] > 1000 * 3, "the payload alone, to three others"


@every_protocol
def test_silent_leaders_slow_a_protocol_down_and_do_not_stop_it(protocol: str) -> None:
    found: dict[str, Any] = silent(protocol, 4)
    calm: dict[str, Any] = trace(protocol, 4, "ed25519")
    assert found["silent"] == 1
    assert 0.1 < found["blocks_per_s"] / calm["blocks_per_s"] < 1


@every_protocol
@pytest.mark.parametrize("sides", ["minority", "half"])
def test_after_a_partition_everybody_commits_again(protocol: str, sides: str) -> None:
    found: dict[str, Any] = partition(protocol, 4, sides)
    assert len(found["view_timeouts"]) == 3
    assert all(0 < each < 10 for each in found["view_timeouts"])


@pytest.mark.parametrize(("scheme", "products"), [("ed25519", 0), ("bls", 1)])
def test_no_certificate_takes_more_than_one_product_of_pairings(scheme: str, products: int) -> None:
    found: dict[str, Any] = check_costs(scheme, 7)
    groups = found["timeout_certificates"]
    assert (found["signers"], tuple(groups)) == (5, ("1", "2", "4"))
    assert [each["products"] for each in (found, *groups.values())] == [products] * 4
    assert [each["questions"] for each in (found, *groups.values())] == [1] * 4, "one question to the scheme each"
    assert [each["pairings"] for each in groups.values()] == [products * (count + 1) for count in (1, 2, 4)]
    assert most_products(found) == products


def test_a_delay_that_is_not_the_design_s_is_not_explained_away() -> None:
    def row(delays: float) -> list[str]:
        cell = {"commit_delays": {"least": delays, "most": delays}}
        (only,) = delay_rows(Results({"trace-ed25519/jolteon/4": cell}))
        return only

    assert row(3)[-1].startswith("None.")
    assert "Differs from the 3" in row(4)[-1]


def test_faulty_validators_are_as_many_as_may_be_and_far_apart() -> None:
    assert [faulty_max(nodes) for nodes in (4, 7, 16, 100)] == [1, 2, 5, 33]
    assert spread(5, 16) == (0, 3, 6, 9, 12)
