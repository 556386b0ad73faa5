"""The small ERC-20 that demonstrations and tests deploy: source, interface and bytecode (``compile.js`` says how it
was made)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

from rollup_adapters.base import JsonValue

__all__ = ["Contract", "token"]


@dataclass(frozen=True)
class Contract:
    """A compiled contract. ``abi`` is Solidity's JSON interface, ``bytecode`` the creation code without arguments."""

    abi: list[JsonValue]
    bytecode: bytes


def token() -> Contract:
    """``Token`` of ``token.sol``: an ERC-20 whose constructor takes the initial supply and gives it to the deployer."""
    compiled = json.loads(files(__name__).joinpath("token.json").read_text())
    return Contract(abi=compiled["abi"], bytecode=bytes.fromhex(compiled["bytecode"][2:]))
