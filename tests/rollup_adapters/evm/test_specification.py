"""Execution against the executable Ethereum specification: the same hashes, receipts and refusals, block by block.

``vectors/scenario.json`` was drawn by ``vectors/scenario.py`` (seed 1, 60 sections), ``vectors/expected.json`` computed
from it by ``vectors/expect.py`` with ethereum-execution 2.20.0, in an environment without our code or py-evm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rollup_adapters.base import SequencedBlock
from tests.rollup_adapters.evm.common import mapping, quantity, running

VECTORS = Path(__file__).parent / "vectors"


def sections_of(scenario: dict[str, Any]) -> list[SequencedBlock]:
    """The scenario's sections."""
    return [
        SequencedBlock(
            height=given["height"],
            timestamp_ms=given["timestamp_ms"],
            block_id=bytes.fromhex(given["block_id"]),
            transactions=tuple(bytes.fromhex(raw) for raw in given["transactions"]),
        )
        for given in scenario["sections"]
    ]


async def check(tmp_path: Path, scenario: dict[str, Any], expected: dict[str, Any]) -> None:
    """Execute the scenario and compare every block of every section."""
    async with running(tmp_path, scenario["settings"]) as adapter:
        genesis = await mapping(adapter, "eth_getBlockByNumber", "earliest", False)
        assert genesis["hash"] == "0x" + expected["genesis_hash"]
        number = 0
        for section, wanted in zip(sections_of(scenario), expected["sections"], strict=True):
            executed = await adapter.deliver([section])
            outcomes = executed.outcomes[0]
            assert [outcome.status == "included" for outcome in outcomes] == wanted["included"], (section, outcomes)
            for block in wanted["blocks"]:
                number += 1
                found = await mapping(adapter, "eth_getBlockByNumber", hex(number), False)
                shape = {
                    "gas_used": int(str(found["gasUsed"]), 16),
                    "base_fee": int(str(found["baseFeePerGas"]), 16),
                    "receipts_root": str(found["receiptsRoot"])[2:],
                    "state_root": str(found["stateRoot"])[2:],
                    "hash": str(found["hash"])[2:],
                }
                assert shape == block, (number, outcomes)
            assert await quantity(adapter, "eth_blockNumber") == number
            assert executed.state_commitment.hex() == wanted["blocks"][-1]["state_root"]


async def test_every_block_is_the_specifications(tmp_path: Path) -> None:
    scenario, expected = (json.loads((VECTORS / name).read_text()) for name in ("scenario.json", "expected.json"))
    await check(tmp_path, scenario, expected)


async def test_the_vectors_visit_enough() -> None:
    """A scenario in which nothing happens would agree too."""
    sections = json.loads((VECTORS / "expected.json").read_text())["sections"]
    included = [flag for section in sections for flag in section["included"]]
    assert included.count(True) > 100
    assert included.count(False) > 20
    assert len({block["state_root"] for section in sections for block in section["blocks"]}) > 60
    assert sum(len(section["blocks"]) > 2 for section in sections) > 5
    # In the first section the base fee rises over the gwei that one sender offers.
    assert [block["base_fee"] < 10**9 for block in sections[0]["blocks"]] == [True, True, False, False]
    assert sections[0]["included"] == [bool(int(flag)) for flag in "11100101110"]


async def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    scenario, expected = (json.loads((VECTORS / name).read_text()) for name in ("scenario.json", "expected.json"))
    expected["sections"][2]["blocks"][0]["receipts_root"] = "00" * 32
    with pytest.raises(AssertionError):
        await check(tmp_path, scenario, expected)
