"""Homes: what ``testnet`` and ``init`` write can be loaded, and belongs together."""

from __future__ import annotations

import json
import shutil
import socket
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from consensus.crypto.registry import PRODUCTION_SCHEMES, scheme_named
from consensus.genesis import ChainSpec, Pacing, Reconfiguration
from sequencer.config import Config, ConfigError, RollupConfig
from sequencer.genesis_file import chain_spec_to_json, read_chain_spec
from sequencer.homes import (
    ChainPlan,
    HomeError,
    Registration,
    read_registration,
    registration_text,
    write_home,
    write_registration,
    write_testnet,
)
from sequencer.keys import KeyFileError, NodeKeys, load_governor_key, load_node_keys

ROLLUPS = (
    RollupConfig(id=9, adapter="raw", settings={}),
    RollupConfig(id=7, adapter="evm", settings={"chain_id": 700, "alloc": {"0x" + "12" * 20: {"balance": "5"}}}),
)
PLAN = ChainPlan(protocol="jolteon", scheme="ed25519", rollups=ROLLUPS, validators=4, observers=2, base_port=21_000)


def keys_of(config: Config, passphrase: str | None = None) -> NodeKeys:
    return load_node_keys(
        config.spec,
        tls_file=config.tls_key_file,
        consensus_files=config.consensus_key_files,
        passphrase=passphrase,
    )


def test_a_testnet_is_validators_and_observers_of_one_chain(tmp_path: Path) -> None:
    homes = write_testnet(tmp_path, PLAN)
    assert [home.name for home in homes] == [*(f"validator-{index}" for index in range(4)), "observer-0", "observer-1"]
    configs = [Config.load(home / "node.toml") for home in homes]
    keys = [keys_of(config) for config in configs]
    spec = configs[0].spec
    assert all(config.spec == spec for config in configs)
    assert spec.rollups == (7, 9)
    assert [key.public_keys for key in keys[:4]] == [(validator.public_key,) for validator in spec.validators]
    assert [key.tls.peer for key in keys[:4]] == [validator.peer for validator in spec.validators]
    assert [key.consensus for key in keys[4:]] == [(), ()]
    assert all(config.rollups == ROLLUPS for config in configs)


def test_nodes_of_a_testnet_know_each_other(tmp_path: Path) -> None:
    configs = [Config.load(home / "node.toml") for home in write_testnet(tmp_path, PLAN)]
    keys = [keys_of(config) for config in configs]
    addresses = {key.tls.peer: config.network.listen for key, config in zip(keys[:4], configs[:4], strict=True)}
    assert sorted(str(address) for address in addresses.values()) == [
        f"('127.0.0.1', {port})" for port in (21_000, 21_002, 21_004, 21_006)
    ]
    assert [config.api.listen[1] for config in configs] == [21_001, 21_003, 21_005, 21_007, 21_009, 21_011]
    observers = {key.tls.peer for key in keys[4:]}
    for key, config in zip(keys, configs, strict=True):
        assert config.network.peers == {peer: at for peer, at in addresses.items() if peer != key.tls.peer}
        assert config.network.observers == (observers if key.consensus else frozenset())
        assert (config.network.listen is None) == (key.consensus == ())


@pytest.mark.parametrize("scheme", PRODUCTION_SCHEMES)
@pytest.mark.parametrize("protocol", ["jolteon", "hotstuff"])
def test_every_scheme_and_protocol_can_be_planned(tmp_path: Path, scheme: str, protocol: str) -> None:
    pacing = Pacing(view_timeout_ms=700, idle_interval_ms=200, views_per_leader=3)
    plan = replace(
        PLAN,
        scheme=scheme,
        protocol=protocol,
        pacing=pacing,
        election="stake-weighted",
        genesis_time_ms=5,
        chain_id="c",
    )
    spec = Config.load(write_testnet(tmp_path, plan)[0] / "node.toml").spec
    assert (spec.scheme, spec.protocol, spec.pacing) == (scheme, protocol, pacing)
    assert (spec.election, spec.genesis_time_ms, spec.chain_id) == ("stake-weighted", 5, "c")


def test_a_home_can_be_moved(tmp_path: Path) -> None:
    home = write_testnet(tmp_path / "before", PLAN)[1]
    moved = Path(shutil.move(home, tmp_path / "after"))
    config = Config.load(moved / "node.toml")
    assert keys_of(config).public_keys == (config.spec.validators[1].public_key,)
    assert config.data_directory == moved / "data"
    assert str(tmp_path) not in (moved / "node.toml").read_text()


def test_free_ports_are_distinct_and_free(tmp_path: Path) -> None:
    configs = [Config.load(home / "node.toml") for home in write_testnet(tmp_path, replace(PLAN, base_port=0))]
    ports = [config.api.listen[1] for config in configs]
    ports += [config.network.listen[1] for config in configs if config.network.listen]
    assert len(dict.fromkeys(ports)) == 10
    assert 0 not in ports
    with socket.socket() as one:
        one.bind(("127.0.0.1", ports[0]))


def test_keys_are_private_and_encrypted_when_asked(tmp_path: Path) -> None:
    home = write_home(tmp_path / "alice", name="alice", scheme="ed25519", passphrase="correct horse")
    assert home.name == "alice"
    keys = tmp_path / "alice" / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    for file in keys.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "secret" not in json.loads(file.read_text())


@pytest.mark.parametrize("scheme", PRODUCTION_SCHEMES)
def test_founders_make_a_chain_of_their_registrations(tmp_path: Path, scheme: str) -> None:
    founders = [write_home(tmp_path / name, name=name, scheme=scheme) for name in ("alice", "bob")]
    for founder in founders:
        assert scheme_named(scheme).check_public_key(founder.public_key, founder.possession_proof)
        entry = json.loads(registration_text(founder))
        assert list(entry) == ["name", "stake", "public_key", "possession_proof", "peer"]
        assert (entry["name"], entry["peer"]) == (founder.name, founder.peer.hex())
    spec = ChainSpec(
        chain_id="founded",
        genesis_time_ms=0,
        protocol="jolteon",
        scheme=scheme,
        validators=tuple(founders),
        rollups=(1,),
    )
    for index, founder in enumerate(founders):
        home = tmp_path / founder.name
        (home / "genesis.json").write_text(chain_spec_to_json(spec))
        assert keys_of(Config.load(home / "node.toml")).public_keys == (founders[index].public_key,)


def test_an_encrypted_home_wants_its_passphrase(tmp_path: Path) -> None:
    homes = write_testnet(tmp_path, replace(PLAN, validators=1, observers=0), passphrase="correct horse")
    config = Config.load(homes[0] / "node.toml")
    assert keys_of(config, "correct horse").public_keys == (config.spec.validators[0].public_key,)
    with pytest.raises(KeyFileError, match="give its passphrase"):
        keys_of(config)


# --- refusals ------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "validator-3").mkdir()
    (tmp_path / "observer-1").mkdir()
    (tmp_path / "observer-1" / "precious").touch()
    with pytest.raises(HomeError, match="observer-1 exists and is not an empty directory"):
        write_testnet(tmp_path, PLAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["observer-1", "validator-3"]
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="file exists and is not an empty directory"):
        write_home(tmp_path / "file", name="alice", scheme="bls")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replace(PLAN, protocol="paxos"), "protocol: 'paxos' is unknown"),
        (replace(PLAN, scheme="simulated"), "scheme: 'simulated'"),
        (replace(PLAN, election="lottery"), "election: 'lottery'"),
        (replace(PLAN, rollups=ROLLUPS * 2), "rollups: ids must be"),
        (replace(PLAN, pacing=Pacing(idle_interval_ms=1500)), "pacing.idle_interval_ms"),
    ],
)
def test_a_plan_that_makes_no_chain_writes_nothing(tmp_path: Path, plan: ChainPlan, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_testnet(tmp_path, plan)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replace(PLAN, validators=0), "at least one validator"),
        (replace(PLAN, observers=-1), "at least one validator"),
        (replace(PLAN, observers=1000), "at most 1000 homes"),
        (replace(PLAN, base_port=65_530), "base port 65530: 12 ports"),
        (replace(PLAN, base_port=-1), "base port -1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, plan: ChainPlan, message: str) -> None:
    with pytest.raises(HomeError, match=message):
        write_testnet(tmp_path, plan)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_validators_name_has_a_length(tmp_path: Path, name: str) -> None:
    with pytest.raises(HomeError, match=f"1 to 64 characters, not {len(name)}"):
        write_home(tmp_path / "home", name=name, scheme="ed25519")
    assert not (tmp_path / "home").exists()


# --- chains whose validators change --------------------------------------------------------------------------


def test_epochs_are_not_too_short_for_finality_to_hand_over(tmp_path: Path) -> None:
    """See ``test_finality_epochs.py`` for what happens to a chain that is made otherwise."""
    plan = replace(PLAN, validators=1, observers=0, reconfiguration=Reconfiguration(epoch_heights=7))
    said = r"reconfiguration.epoch_heights: epochs of 7 blocks with checkpoints 32 blocks apart .* at least 8 blocks"
    with pytest.raises(ValueError, match=said):
        write_testnet(tmp_path, plan)
    assert not list(tmp_path.iterdir())
    [home] = write_testnet(tmp_path, replace(plan, checkpoint_interval=28))

    made = read_chain_spec(home / "genesis.json")
    (home / "genesis.json").write_text(chain_spec_to_json(msgspec.structs.replace(made, checkpoint_interval=32)))
    with pytest.raises(ConfigError, match=f"genesis_file: .*genesis.json: {said}"):
        Config.load(home / "node.toml")  # a hand-written genesis is judged alike


def test_a_chain_whose_validators_change_has_its_governors_keys_beside_its_homes(tmp_path: Path) -> None:
    reconfigured = Reconfiguration(epoch_heights=8, governors_needed=2)
    plan = replace(PLAN, validators=1, observers=0, reconfiguration=reconfigured, governors=3)
    homes = write_testnet(tmp_path, plan, passphrase="correct horse")
    reconfiguration = Config.load(homes[0] / "node.toml").spec.reconfiguration
    assert reconfiguration is not None
    assert (reconfiguration.epoch_heights, reconfiguration.governors_needed) == (8, 2)
    files = [tmp_path / f"governor-{index}.json" for index in range(3)]
    assert [load_governor_key(file, "correct horse").public_key for file in files] == list(reconfiguration.governors)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    shutil.rmtree(homes[0])
    with pytest.raises(HomeError, match=r"governor-0.json exists; choose another place"):
        write_testnet(tmp_path, plan)
    assert not homes[0].exists()


@pytest.mark.parametrize("governors", [0, 65])
def test_governors_have_a_number(tmp_path: Path, governors: int) -> None:
    with pytest.raises(HomeError, match=f"1 to 64 governors, not {governors}"):
        write_testnet(tmp_path, replace(PLAN, reconfiguration=Reconfiguration(), governors=governors))


def test_a_joiners_home_knows_the_chain_and_where_its_nodes_are(tmp_path: Path) -> None:
    plan = replace(PLAN, reconfiguration=Reconfiguration())
    spec = Config.load(write_testnet(tmp_path / "chain", plan)[0] / "node.toml").spec
    later = b"\xab" * 32
    home = tmp_path / "joiner"
    validator = write_home(
        home,
        name="joiner",
        scheme=spec.scheme,
        listen=("127.0.0.1", 23_000),
        spec=spec,
        peers={"validator-0": ("127.0.0.1", 21_000), later.hex(): ("::1", 1)},
        rollups=ROLLUPS,
    )
    config = Config.load(home / "node.toml")
    assert config.spec == spec
    assert config.network.peers == {spec.validators[0].peer: ("127.0.0.1", 21_000), later: ("::1", 1)}
    assert config.rollups == ROLLUPS
    assert keys_of(config).public_keys == (validator.public_key,)


@pytest.mark.parametrize("address", ["10.0.0.1:26600", ""])
def test_registrations_come_back(tmp_path: Path, address: str) -> None:
    validator = write_home(tmp_path / "joiner", name="joiner", scheme="bls")
    registration = Registration(validator=validator, operator="anna", address=address)
    file = tmp_path / "registration.json"
    write_registration(file, registration)
    assert read_registration(file) == registration
    for text in ("", "[]", '{"name": "x"}', file.read_text().replace('"operator"', '"owner"'), "x" * 20_000):
        file.write_text(text)
        with pytest.raises(HomeError, match=r"registration.json: not a registration: "):
            read_registration(file)
    file.unlink()
    with pytest.raises(HomeError, match=r"No such file or directory; give the registration\.json"):
        read_registration(file)
