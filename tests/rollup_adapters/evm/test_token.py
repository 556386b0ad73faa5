"""The committed bytecode is what the committed source compiles to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import rollup_adapters.evm.contracts as contracts

FOLDER = Path(contracts.__file__).parent


def test_the_interface_is_erc_20() -> None:
    abi = contracts.token().abi
    names = {str(entry["name"]) for entry in abi if isinstance(entry, dict) and entry["type"] in ("function", "event")}
    functions = {
        "name",
        "symbol",
        "decimals",
        "totalSupply",
        "balanceOf",
        "transfer",
        "approve",
        "allowance",
        "transferFrom",
    }
    assert names == functions | {"Transfer", "Approval"}


def test_the_source_compiles_to_the_bytecode() -> None:
    """Needs Node.js and solc-js, which ``compile.js`` says how to install; NODE_PATH may point to it elsewhere."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not on the PATH")
    environment = {name: os.environ[name] for name in ("PATH", "NODE_PATH", "HOME") if name in os.environ}
    wanted = json.loads((FOLDER / "token.json").read_text())
    look = "console.log(require('solc').version())"
    found = subprocess.run([node, "-e", look], cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
    if found.returncode or found.stdout.strip() != wanted["compiler"]:
        pytest.skip(f"solc-js {wanted['compiler']} is not installed where Node.js looks")
    output = subprocess.run(
        [node, "compile.js"], cwd=FOLDER, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(output) == wanted
