"""Execution against the executable Ethereum specification: the same hashes, receipts and refusals, block by block.

``vectors/scenario.json`` was drawn by ``vectors/scenario.py`` (seed 1, 60 blocks), ``vectors/expected.json`` computed
from it by ``vectors/expect.py`` with ethereum-execution 2.20.0, in an environment without our code or py-evm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollup_adapters.base import SequencedBlock
from tests.rollup_adapters.evm.common import mapping, running

VECTORS = Path(__file__).parent / "vectors"


def blocks_of(scenario: dict[str, Any]) -> list[SequencedBlock]:
    """The scenario's sections."""
    return [
        SequencedBlock(
            height=given["height"],
            timestamp_ms=given["timestamp_ms"],
            block_id=bytes.fromhex(given["block_id"]),
            transactions=tuple(bytes.fromhex(raw) for raw in given["transactions"]),
        )
        for given in scenario["blocks"]
    ]


async def check(tmp_path: Path, scenario: dict[str, Any], expected: dict[str, Any]) -> None:
    """Execute the scenario and compare every block."""
    async with running(tmp_path, scenario["settings"]) as adapter:
        genesis = await mapping(adapter, "eth_getBlockByNumber", "earliest", False)
        assert genesis["hash"] == "0x" + expected["genesis_hash"]
        for number, (block, wanted) in enumerate(zip(blocks_of(scenario), expected["blocks"], strict=True), start=1):
            executed = await adapter.deliver([block])
            outcomes = executed.outcomes[0]
            assert [outcome.status == "included" for outcome in outcomes] == wanted["included"], (number, outcomes)
            found = await mapping(adapter, "eth_getBlockByNumber", "latest", False)
            shape = {
                "gas_used": int(str(found["gasUsed"]), 16),
                "receipts_root": str(found["receiptsRoot"])[2:],
                "state_root": executed.state_commitment.hex(),
                "hash": str(found["hash"])[2:],
            }
            assert shape == {name: wanted[name] for name in shape}, (number, outcomes)


async def test_every_block_is_the_specifications(tmp_path: Path) -> None:
    scenario, expected = (json.loads((VECTORS / name).read_text()) for name in ("scenario.json", "expected.json"))
    await check(tmp_path, scenario, expected)


async def test_the_vectors_visit_enough() -> None:
    """A scenario in which nothing happens would agree too."""
    expected = json.loads((VECTORS / "expected.json").read_text())["blocks"]
    included = [flag for block in expected for flag in block["included"]]
    assert included.count(True) > 100
    assert included.count(False) > 20
    assert len({block["state_root"] for block in expected}) > 50


async def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    scenario, expected = (json.loads((VECTORS / name).read_text()) for name in ("scenario.json", "expected.json"))
    expected["blocks"][2]["receipts_root"] = "00" * 32
    with pytest.raises(AssertionError):
        await check(tmp_path, scenario, expected)
