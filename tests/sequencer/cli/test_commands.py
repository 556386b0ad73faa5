"""The commands, each as a user types it: against files, and against one real node."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sequencer.cli import app
from sequencer.cli.console import NO, UNREACHABLE, UNUSABLE
from sequencer.cli.demo.processes import free_base_port
from sequencer.config import Config
from sequencer.keys import KeyFileError, load_consensus_key
from tests.sequencer.cli.processes import sequencer

USAGE = 2


def invoke(*arguments: str, data: bytes = b"") -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, arguments, input=data)


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# --- writing homes ---------------------------------------------------------------------------------------------


def test_testnet_writes_homes_that_load(tmp_path: Path) -> None:
    said = document(
        invoke(
            *("testnet", str(tmp_path / "net"), "-n", "4", "--observers", "1", "--protocol", "hotstuff"),
            *("--scheme", "bls", "--rollup", "7=evm,chain_id=700", "--rollup", "2=raw", "--base-port", "0", "--json"),
        )
    )
    assert (said["protocol"], said["scheme"], said["rollups"]) == ("hotstuff", "bls", [2, 7])
    assert [home["role"] for home in said["homes"]] == ["validator"] * 4 + ["observer"]
    configs = [Config.load(Path(home["home"]) / "node.toml") for home in said["homes"]]
    assert {config.spec.hash.hex() for config in configs} == {said["genesis_hash"]}
    assert configs[0].rollups[0].settings == {"chain_id": 700}


def test_testnet_says_how_to_start(tmp_path: Path) -> None:
    result = invoke("testnet", str(tmp_path / "net"), "-n", "1")
    assert result.exit_code == 0
    assert f"sequencer start --home {tmp_path / 'net' / 'validator-0'}" in result.stdout.replace("\n", "")


def test_init_makes_a_home_and_prints_its_entry(tmp_path: Path) -> None:
    result = invoke("init", str(tmp_path / "carol"))
    entry = json.loads(result.stdout)
    assert (entry["name"], entry["stake"]) == ("carol", 1)
    key = load_consensus_key(tmp_path / "carol" / "keys" / "consensus.json")
    assert key.secret_key.public_key.hex() == entry["public_key"]
    assert "Next: put this entry" in result.stderr


def test_a_passphrase_encrypts_the_keys(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("open sesame\n")
    assert invoke("init", str(tmp_path / "h"), "--passphrase-file", str(tmp_path / "secret")).exit_code == 0
    file = tmp_path / "h" / "keys" / "consensus.json"
    with pytest.raises(KeyFileError, match="encrypted"):
        load_consensus_key(file)
    assert load_consensus_key(file, "open sesame").scheme.name == "ed25519"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["testnet", "DIR", "--protocol", "paxos"], USAGE, "paxos.*unknown; known are jolteon"),
        (["testnet", "DIR", "--scheme", "rsa"], USAGE, "rsa.*choose one of ed25519, bls"),
        (["testnet", "DIR", "--rollup", "seven"], USAGE, "expected ID=ADAPTER"),
        (["testnet", "DIR", "--rollup", "7=cobol"], USAGE, "no adapter 'cobol'; installed are evm, raw"),
        (["testnet", "DIR", "--rollup", "7=raw,x"], USAGE, "expected KEY=VALUE"),
        (["testnet", "DIR", "-n", "0"], USAGE, "--validators"),
        (["testnet", "FILE"], UNUSABLE, "Not a directory"),
        (["init", "."], UNUSABLE, "exists and is not an empty directory"),
        (["init", "DIR", "--passphrase-file", "nowhere"], UNUSABLE, "nowhere: No such file"),
        (["init", "DIR", "--passphrase-file", "EMPTY"], UNUSABLE, "first line is empty"),
        (["start"], USAGE, "either --home or --config"),
        (["start", "--home", "DIR"], UNUSABLE, "node.toml: cannot be read"),
        (["verify", "DIR"], UNUSABLE, "node.toml: cannot be read"),
        (["status", "DIR"], UNUSABLE, "neither the address of an API"),
        (["submit", "http://127.0.0.1:9", "1", "00"], UNREACHABLE, "no answer"),
        (["submit", "http://127.0.0.1:9", "1", "zz"], USAGE, "not in hexadecimal digits"),
        (["submit", "http://127.0.0.1:9", "1"], USAGE, "either in hexadecimal digits or with --file"),
        (["submit", "http://127.0.0.1:9", "1", "--file", "nowhere"], UNUSABLE, "nowhere: No such file"),
        (["demo", "--validators", "3"], USAGE, "--validators"),
        (["demo", "--scheme", "simulated"], USAGE, "choose one of ed25519, bls"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("occupied")
    (tmp_path / "EMPTY").write_text("")
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert re.search(says, result.stderr.replace("\n", " ")), result.stderr
    assert result.stdout == ""


def test_help_names_every_command_and_exit_code() -> None:
    shown = invoke("--help").output
    for word in ("init", "testnet", "start", "status", "submit", "verify", "demo", "Exit codes"):
        assert word in shown


# --- one node --------------------------------------------------------------------------------------------------


class RunningNode:
    """A chain of one validator that orders rollup 1, in a process of its own."""

    def __init__(self, directory: Path) -> None:
        base_port = str(free_base_port(2))
        made = invoke("testnet", str(directory), "-n", "1", "--base-port", base_port, "--json")
        self.home = Path(document(made)["homes"][0]["home"])
        self.process = self.start()
        assert self.process.stdout is not None
        self.said = json.loads(self.process.stdout.readline())

    def start(self) -> subprocess.Popen[str]:
        return sequencer("start", "--home", str(self.home), "--json", directory=self.home.parent)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    running = RunningNode(tmp_path_factory.mktemp("node"))
    yield running
    running.process.terminate()
    _, log = running.process.communicate(timeout=30)
    assert running.process.returncode == 0, log


def test_start_says_where_it_listens(node: RunningNode) -> None:
    assert (node.said["name"], node.said["role"]) == ("validator-0", "validator")
    assert node.said["process_id"] == node.process.pid
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", node.said["api"])


def test_status_of_a_home_and_of_an_address(node: RunningNode) -> None:
    said = document(invoke("status", str(node.home), "--json"))
    assert said["nodes"]["validator-0"]["role"] == "validator"
    assert said["unreachable"] == {}
    shown = invoke("status", node.said["api"])
    assert shown.exit_code == 0
    assert "validator-0" in shown.stdout
    assert "1 of 1" in shown.stdout


def test_status_goes_on_when_one_node_is_silent(node: RunningNode) -> None:
    result = invoke("status", str(node.home), "http://127.0.0.1:9")
    assert result.exit_code == UNREACHABLE
    assert "ready" in result.stdout
    assert re.search("no answer.*Is the node running", result.stdout.replace("\n", " "))


def test_submit_waits_and_verifies(node: RunningNode) -> None:
    said = document(invoke("submit", str(node.home), "1", "0xc0ffee", "--wait", "confirmed", "--json"))
    assert (said["level"], said["verified"]) == ("confirmed", True)
    again = document(invoke("submit", node.said["api"], "1", "c0ffee", "--wait", "confirmed", "--json"))
    assert (again["position"], again["verified"]) == (said["position"], False)
    genesis = str(node.home / "genesis.json")
    result = invoke("submit", node.said["api"], "1", "c0ffee", "--wait", "confirmed", "--genesis", genesis)
    assert "its receipt is verified" in result.stdout


def test_submit_says_that_it_is_not_final_yet(node: RunningNode) -> None:
    """With a checkpoint every 32 blocks an idle chain takes too long for a test: it says so."""
    said = invoke("submit", str(node.home), "1", "0xf1", "--wait", "final", "--timeout", "0.5")
    assert said.exit_code == NO
    assert "not final within 0.5 s: it is confirmed there" in said.stderr.replace("\n", " ")


def test_submit_takes_files_and_standard_input(node: RunningNode, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"from a file")
    one = document(invoke("submit", str(node.home), "1", "--file", str(tmp_path / "t"), "--json"))
    two = document(invoke("submit", str(node.home), "1", "--file", "-", "--json", data=b"from a file"))
    assert one["level"] == "pending"
    assert one["transaction_id"] == two["transaction_id"]


def test_a_receipt_of_another_chain_is_not_believed(node: RunningNode, tmp_path: Path) -> None:
    document(invoke("testnet", str(tmp_path / "other"), "-n", "1", "--base-port", "0", "--json"))
    other = str(tmp_path / "other" / "validator-0" / "genesis.json")
    result = invoke("submit", node.said["api"], "1", "aa", "--wait", "confirmed", "--genesis", other)
    assert result.exit_code == UNREACHABLE
    assert "proves nothing" in result.stderr


def test_a_refusal_is_shown(node: RunningNode) -> None:
    result = invoke("submit", str(node.home), "99", "00")
    assert result.exit_code == UNREACHABLE
    assert "rollup 99 is not of this chain" in result.stderr.replace("\n", " ")


def test_a_running_home_is_neither_started_again_nor_verified(node: RunningNode) -> None:
    again = node.start()
    _, log = again.communicate(timeout=60)
    assert again.returncode == UNUSABLE
    assert "a running node has it open. Stop that node first." in log
    verified = invoke("verify", str(node.home), "--json")
    assert verified.exit_code == UNUSABLE
    assert "a running node has it open" in verified.stderr.replace("\n", " ")


def delivered_height(node: RunningNode) -> int:
    (adapter,) = document(invoke("status", str(node.home), "--json"))["nodes"]["validator-0"]["adapters"]
    return int(adapter["delivered_height"])


def test_stopped_it_is_verified_and_a_change_is_found(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "net")
    try:
        document(invoke("submit", str(node.home), "1", "abcdef", "--wait", "confirmed", "--json"))
        while not delivered_height(node):
            assert node.process.poll() is None
    finally:
        node.process.send_signal(signal.SIGINT)
        _, log = node.process.communicate(timeout=30)
    assert node.process.returncode == 0, log
    assert "SIGINT: draining" in log
    said = document(invoke("verify", str(node.home), "--json"))
    assert said["agreement"] is True
    assert said["rollups"][0]["transactions"] == 1
    (state,) = said["rollups"][0]["states"]
    assert state["state_commitment"] == state["executed_anew"]
    assert "agreement up to height" in invoke("verify", str(node.home)).stdout
    with closing(sqlite3.connect(node.home / "data" / "chain.db")) as connection:
        connection.execute("UPDATE blocks SET body = CAST(replace(body, x'abcdef', x'abcdee') AS BLOB)")
        connection.commit()
    result = invoke("verify", str(node.home))
    assert result.exit_code == NO
    assert re.search(r"validator-0: height \d+: body: gives the root", result.stdout)


def test_a_port_that_is_taken_is_named(node: RunningNode, tmp_path: Path) -> None:
    document(invoke("testnet", str(tmp_path / "net"), "-n", "1", "--base-port", "0", "--json"))
    file = tmp_path / "net" / "validator-0" / "node.toml"
    taken = node.said["api"].removeprefix("http://")
    file.write_text(re.sub(r"(?<=\[api\]\nlisten = )\".*\"", f'"{taken}"', file.read_text()))
    process = sequencer("start", "--config", str(file), directory=tmp_path)
    _, log = process.communicate(timeout=60)
    assert process.returncode == UNUSABLE
    assert "choose other addresses" in log
