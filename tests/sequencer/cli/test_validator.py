"""``sequencer validator`` and ``init --join`` as a user types them, against a chain of one validator in a process.
Several validators that come and go: ``tests/sequencer/test_reconfiguration_processes.py``."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from consensus.crypto.ed25519 import Ed25519
from sequencer.api.limits import ApiLimits
from sequencer.cli import app, changes
from sequencer.cli.console import NO, UNREACHABLE, UNUSABLE
from sequencer.cli.demo.processes import free_base_port
from sequencer.config import Config
from sequencer.homes import read_registration
from sequencer.keys import load_consensus_key
from tests.sequencer.cli.processes import sequencer
from tests.support.waiting import PATIENCE_S

USAGE = 2
CONFIRMED = ("--wait", "confirmed", "--timeout", "100", "--json")
"""To wait longer than a node keeps one request."""


def invoke(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(each) for each in arguments])


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def done(*arguments: object) -> Result:
    """A command that has to succeed."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(autouse=True)
def patient_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a command waits for an answer is made for people; the node shares its machine with other tests."""
    monkeypatch.setattr(changes, "TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(changes, "ORDER_TIMEOUT_MS", round(1000 * ApiLimits().wait_timeout_s))


def words(result: Result) -> str:
    """What was written to standard error, on one line."""
    return re.sub(r"\s+", " ", result.stderr)


class Chain:
    """One validator, and its governors."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        base_port = free_base_port(2)
        made = document(invoke("testnet", directory, "-n", "1", "--base-port", base_port, *options, "--json"))
        self.home = Path(made["homes"][0]["home"])
        self.governors = [Path(file) for file in made["governors"]]
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        process = sequencer("start", "--home", str(self.home), "--json", directory=self.directory)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, process.communicate(timeout=30)[1]
        self.api = json.loads(said)["api"]
        return process

    def stop(self) -> None:
        self.process.terminate()
        _, log = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, log

    def signed_by(self, *governors: int) -> list[object]:
        return [each for index in governors for each in ("--governor", self.governors[index])]

    def listed(self) -> Any:
        return document(invoke("validator", "list", self.home, "--json"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Nothing takes effect here: every delay is longer than the tests."""
    running = Chain(
        tmp_path_factory.mktemp("chain"),
        *("--governors", "3", "--governors-needed", "2", "--epoch-heights", "1000", "--delay-heights", "5000"),
    )
    yield running
    running.stop()


@pytest.fixture(scope="module")
def joiner(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("joiner") / "anna"
    made = invoke("init", home, "--join", chain.home, "--listen", "127.0.0.1:9001", "--operator", "anna & co")
    assert made.exit_code == 0, made.output
    return home


# --- joining ---------------------------------------------------------------------------------------------------


def test_a_joiners_home_knows_the_chain_its_nodes_and_its_rollups(chain: Chain, joiner: Path) -> None:
    config, founder = Config.load(joiner / "node.toml"), Config.load(chain.home / "node.toml")
    assert config.spec == founder.spec
    assert config.network.peers == {founder.spec.validators[0].peer: founder.network.listen}
    assert config.rollups == founder.rollups
    registration = read_registration(joiner / "registration.json")
    assert (registration.operator, registration.address) == ("anna & co", "127.0.0.1:9001")
    key = load_consensus_key(joiner / "keys" / "consensus.json").secret_key
    assert registration.validator.public_key == key.public_key
    assert Ed25519().check_public_key(key.public_key, registration.validator.possession_proof)


def test_a_chain_that_comes_over_the_network_is_to_be_compared(chain: Chain, tmp_path: Path) -> None:
    made = invoke("init", tmp_path / "bert", "--join", chain.api, "--address", "bert.example:1")
    assert json.loads(made.stdout)["address"] == "bert.example:1"
    spec = Config.load(tmp_path / "bert" / "node.toml").spec
    assert f"genesis hash {spec.hash.hex()}" in words(made)
    assert "compare this hash with that of somebody you trust" in words(made)
    assert spec == Config.load(chain.home / "node.toml").spec


def test_a_genesis_file_alone_has_no_addresses(chain: Chain, tmp_path: Path) -> None:
    made = invoke("init", tmp_path / "carl", "--join", chain.home / "genesis.json")
    assert made.exit_code == 0
    assert "fill in network.peers" in words(made)
    assert "compare" not in words(made)
    assert Config.load(tmp_path / "carl" / "node.toml").network.peers == {}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--address", "h:1"), USAGE, "--address and --operator are of a validator that joins"),
        (("--join", "CHAIN", "--scheme", "bls"), USAGE, "signs with ed25519"),
        (("--join", "CHAIN", "--listen", "nowhere"), USAGE, "--listen: expected host:port"),
        (("--join", "FIXED"), UNUSABLE, "never change: its genesis.json has no 'reconfiguration'"),
        (("--join", "nowhere"), UNUSABLE, "--join: nowhere: No such file"),
        (("--join", "http://127.0.0.1:9"), UNREACHABLE, "no answer"),
    ],
)
def test_what_cannot_be_joined(chain: Chain, tmp_path: Path, options: tuple[str, ...], code: int, says: str) -> None:
    places = {"CHAIN": chain.home, "FIXED": tmp_path / "fixed" / "validator-0" / "genesis.json"}
    if "FIXED" in options:
        done("testnet", tmp_path / "fixed", "-n", "1", "--governors", "0", "--base-port", "0")
    result = invoke("init", tmp_path / "home", *(places.get(each, each) for each in options))
    assert (result.exit_code, says in words(result)) == (code, True), result.output
    assert not (tmp_path / "home").exists()


# --- asking ----------------------------------------------------------------------------------------------------


def test_list_shows_validators_and_rules(chain: Chain) -> None:
    said = chain.listed()
    assert [(each["name"], each["stake"], each["connected"]) for each in said["validators"]] == [
        ("validator-0", 1, True)
    ]
    assert (said["epoch"], said["epoch_heights"], said["governors_needed"], len(said["governors"])) == (0, 1000, 2, 3)
    shown = invoke("validator", "list", chain.api)
    assert shown.exit_code == 0
    assert "validator-0" in shown.stdout
    assert "100.0 %" in shown.stdout


def test_an_addition_is_ordered_shown_and_taken_back(chain: Chain, joiner: Path) -> None:
    ask = ("validator", "add", chain.home, joiner / "registration.json", *chain.signed_by(2, 0), "--no-wait", "--json")
    asked = invoke(*ask, "--stake", "7")
    said = document(asked)
    assert not said["in_effect"]
    assert said["effective_at"] % 1000 == 0
    assert "anna joins with stake 7" in words(asked)
    (pending,) = chain.listed()["pending_changes"]
    assert (pending["kind"], pending["name"], pending["stake"]) == ("joins", "anna", 7)
    assert "Pending: anna joins with stake 7" in invoke("validator", "list", chain.home).stdout
    again = invoke(*ask)
    assert again.exit_code == UNREACHABLE, again.output
    assert "the name anna is taken" in words(again)
    own = joiner / "keys" / "consensus.json"
    done("validator", "remove", chain.home, "anna", "--key", own, "--no-wait")
    assert chain.listed()["pending_changes"] == []


def test_governors_sign_one_after_the_other(chain: Chain, joiner: Path, tmp_path: Path) -> None:
    file, genesis = tmp_path / "change.json", chain.home / "genesis.json"
    add = ("validator", "add", chain.home, joiner / "registration.json", *chain.signed_by(1), "--out", file)
    done(*add)
    said = json.loads(file.read_text())
    assert (said["asks_for"], said["fields"]["name"], len(said["signed_by"])) == ("AddValidator", "anna", 1)
    early = invoke("validator", "submit", chain.home, file)
    assert early.exit_code == UNREACHABLE, early.output
    assert "signed by 1 governors, of whom 2 are needed" in words(early)
    signed = done("validator", "sign", file, "--genesis", genesis, *chain.signed_by(1, 2), "--yes")
    assert json.loads(signed.stdout)["fields"] == said["fields"]
    assert "signed by 2 of the 2 governors that are needed; submit it" in words(signed)
    assert not document(invoke("validator", "submit", chain.home, file, "--no-wait", "--json"))["in_effect"]
    (pending,) = chain.listed()["pending_changes"]
    assert pending["name"] == "anna"
    own = joiner / "keys" / "consensus.json"
    done("validator", "remove", chain.home, "anna", "--key", own, "--no-wait")


def test_a_change_is_signed_for_what_it_is_and_for_its_chain(chain: Chain, joiner: Path, tmp_path: Path) -> None:
    file, genesis = tmp_path / "change.json", chain.home / "genesis.json"
    done("validator", "stake", chain.home, "validator-0", "9", *chain.signed_by(0), "--out", file)
    whole = file.read_text()
    again = invoke("validator", "stake", chain.home, "validator-0", "8", *chain.signed_by(0), "--out", file)
    assert (again.exit_code, "exists; name another file" in words(again)) == (UNUSABLE, True)
    assert file.read_text() == whole
    sign = ("validator", "sign", file, "--genesis", genesis, *chain.signed_by(1), "--yes")
    file.write_text(whole.replace('"stake": 9', '"stake": 1'))  # the words lie
    shown = json.loads(invoke(*sign).stdout)
    assert (shown["validator"], shown["fields"]["stake"]) == ("validator-0, by genesis.json", 9)
    done("testnet", tmp_path / "other", "-n", "1", "--base-port", "0")
    other = invoke(
        "validator", "sign", file, "--genesis", tmp_path / "other" / "validator-0" / "genesis.json", *sign[5:]
    )
    assert other.exit_code == UNUSABLE
    assert "is for the chain with genesis" in words(other)
    own = joiner / "keys" / "consensus.json"
    for text, says in (
        ("{}", "not a change of validators: genesis_hash: missing"),
        (whole[:-9], "not a change of validators"),
        ("x" * 70_000, "larger than 65536 bytes"),
        (re.sub('"transaction": ".*"', '"transaction": "92"', whole), "not a change of validators"),
    ):
        file.write_text(text)
        result = invoke(*sign)
        assert (result.exit_code, says in words(result)) == (UNUSABLE, True), result.output
    assert invoke("validator", "sign", tmp_path / "none", *sign[3:]).exit_code == UNUSABLE
    assert "holds a consensus key" in words(
        invoke("validator", "stake", chain.home, "validator-0", "9", "--governor", own, "--out", file)
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("add", "CHAIN", "REGISTRATION"), USAGE, "0 different keys were given, and 2 of the 3 governors must sign"),
        (("add", "CHAIN", "REGISTRATION", "GOVERNOR", "GOVERNOR"), USAGE, "1 different keys were given"),
        (("add", "CHAIN", "nowhere", "GOVERNOR"), UNUSABLE, "give the registration.json that sequencer init --join"),
        (("add", "CHAIN", "REGISTRATION", "STRANGER"), UNUSABLE, "is no governor's of chain 'testnet'"),
        (("add", "CHAIN", "REGISTRATION", "WRONG"), UNUSABLE, "holds a consensus key, and a governor key is wanted"),
        (("add", "CHAIN", "REGISTRATION", "MISSING"), UNUSABLE, "missing.json: No such file"),
        (("remove", "CHAIN", "validator-0"), USAGE, "give either --governor (once for each that signs) or --key"),
        (("remove", "CHAIN", "nobody", "GOVERNOR"), UNUSABLE, "no validator is called 'nobody'; there are validator-0"),
        (("remove", "CHAIN", "validator-0", "--key", "OTHER"), UNUSABLE, "'validator-0' signs with"),
        (("remove", "CHAIN", "validator-0", "--key", "OWN"), UNREACHABLE, "without validator-0 nobody is left"),
        (("stake", "CHAIN", "validator-0", "1", "GOVERNOR", "SECOND"), UNREACHABLE, "the stake of validator-0 is 1"),
        (("rotate", "CHAIN", "--key", "OWN"), USAGE, "give both --key and --next-key, or neither"),
        (("rotate", "CHAIN", "--key", "OWN", "--next-key", "OTHER"), NO, "does not hold key"),
        (("rotate", "CHAIN", "--key", "OTHER", "--next-key", "OWN"), UNUSABLE, "is no present validator's"),
        (("list", "http://127.0.0.1:9"), UNREACHABLE, "no answer"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    chain: Chain, joiner: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    if "STRANGER" in arguments:
        done("testnet", tmp_path / "other", "-n", "1", "--base-port", "0")
    meant: dict[str, tuple[object, ...]] = {
        "CHAIN": (chain.home,),
        "REGISTRATION": (joiner / "registration.json",),
        "GOVERNOR": ("--governor", chain.governors[0]),
        "SECOND": ("--governor", chain.governors[1]),
        "STRANGER": ("--governor", tmp_path / "other" / "governor-0.json"),
        "WRONG": ("--governor", joiner / "keys" / "consensus.json"),
        "MISSING": ("--governor", tmp_path / "missing.json"),
        "OWN": (chain.home / "keys" / "consensus.json",),
        "OTHER": (joiner / "keys" / "consensus.json",),
    }
    result = invoke("validator", *(word for each in arguments for word in meant.get(each, (each,))))
    assert result.exit_code == code, result.output
    assert says in words(result)
    assert result.stdout == ""
    assert chain.listed()["pending_changes"] == []


def test_waiting_ends_in_time_and_says_what_to_look_at(chain: Chain, joiner: Path) -> None:
    asked = invoke(
        *("validator", "add", chain.home, joiner / "registration.json", *chain.signed_by(0, 1)), "--timeout", "0.5"
    )
    assert asked.exit_code == NO, asked.output
    assert re.search(r"no block above height \d+000 within 0.5 s, the last one was \d+", words(asked))
    own = joiner / "keys" / "consensus.json"
    done("validator", "remove", chain.home, "anna", "--key", own, "--no-wait")


def test_a_new_key_is_made_beside_the_old_one_and_asked_for_when_it_is_held(chain: Chain) -> None:
    before = (chain.home / "node.toml").read_text()
    said = document(invoke("validator", "rotate", chain.home, "--json"))
    config = Config.load(chain.home / "node.toml")
    keys = chain.home / "keys"
    assert config.consensus_key_files == (keys / "consensus.json", keys / "consensus-2.json")
    assert said["stage"] == "prepared"
    assert load_consensus_key(keys / "consensus-2.json").secret_key.public_key.hex() == said["public_key"]
    after = (chain.home / "node.toml").read_text()
    assert after == before.replace('"keys/consensus.json"', '["keys/consensus.json", "keys/consensus-2.json"]')
    refused = invoke("validator", "rotate", chain.home)
    assert refused.exit_code == NO
    assert "does not hold key" in words(refused)
    assert "restart it" in words(refused)


def test_a_changed_stake_takes_effect_with_the_next_epoch(tmp_path: Path) -> None:
    quick = Chain(tmp_path / "quick", "--epoch-heights", "8", "--delay-heights", "0")
    try:
        asked = invoke("validator", "stake", quick.home, "validator-0", "9", *quick.signed_by(0), "--json")
        said = document(asked)
        assert (said["in_effect"], said["epoch"], said["effective_at"] % 8) == (True, 1, 0)
        assert "epoch 1 has begun: 1 validators" in words(asked)
        listed = quick.listed()
        assert (listed["epoch"], listed["epoch_began_after"]) == (1, said["effective_at"])
        assert listed["validators"][0]["stake"] == 9
        told = document(invoke("status", quick.home, "--json"))["nodes"]["validator-0"]
        assert (told["role"], told["ready"]) == ("validator", True)
        submitted = document(invoke("submit", quick.home, "1", "c0ffee", *CONFIRMED))
        assert (submitted["level"], submitted["verified"]) == ("confirmed", True), "by the validators of epoch 1"
        assert submitted["position"]["height"] > said["effective_at"]
        genesis = ("--genesis", quick.home / "genesis.json")
        assert document(invoke("submit", quick.api, "1", "c0ffee", *CONFIRMED, *genesis))["verified"]
    finally:
        quick.stop()
