"""What the demo runs: the chain, its rollups, and who has money there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollup_adapters.base import JsonValue
from sequencer.cli.demo.processes import free_base_port
from sequencer.cli.demo.wallet import Account
from sequencer.config import RollupConfig
from sequencer.homes import ChainPlan, write_testnet

OBSERVERS: Final = 1
CHECKPOINT_INTERVAL: Final = 8
"""Closer than a chain's default, so that also a short demo, and a quiet one, sees transactions become final."""
ACCOUNTS_MAX: Final = 16
"""Of each EVM rollup, besides the one that deploys the token."""
BALANCE_WEI: Final = 10**24
RAW_ROLLUP: Final = 3
EVM_ROLLUPS: Final = {1: 7001, 2: 7002}
"""Rollup id to EIP-155 chain id."""
DEPLOYER: Final = "deployer"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command was asked for. ``seconds`` is how long there is load, at least."""

    validators: int
    protocol: str
    scheme: str
    seconds: float
    keep: bool


def account_name(number: int) -> str:
    """The name behind an account's key."""
    return f"user-{number}"


def write_demo(directory: Path, options: DemoOptions) -> list[Path]:
    """Write the homes: validators, then the observer. Raises as ``write_testnet`` does."""
    rollups = [
        RollupConfig(id=each, adapter="evm", settings=_settings(chain_id)) for each, chain_id in EVM_ROLLUPS.items()
    ]
    rollups.append(RollupConfig(id=RAW_ROLLUP, adapter="raw", settings={}))
    plan = ChainPlan(
        protocol=options.protocol,
        scheme=options.scheme,
        rollups=rollups,
        validators=options.validators,
        observers=OBSERVERS,
        base_port=free_base_port(2 * (options.validators + OBSERVERS)),
        chain_id="demo",
        checkpoint_interval=CHECKPOINT_INTERVAL,
    )
    return write_testnet(directory, plan)


def _settings(chain_id: int) -> dict[str, JsonValue]:
    names = [DEPLOYER, *(account_name(number) for number in range(ACCOUNTS_MAX))]
    alloc: dict[str, JsonValue] = {
        f"0x{Account.derive(name, chain_id).address.hex()}": str(BALANCE_WEI) for name in names
    }
    return {"chain_id": chain_id, "alloc": alloc}
