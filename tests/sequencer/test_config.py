"""The configuration file: what it says is what the node gets, and every slip is named by file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.finality.types import Checkpoint
from sequencer.config import Config, ConfigError, RollupConfig, address_text
from sequencer.homes import ChainPlan, write_testnet
from sequencer.mempool import MempoolLimits

PLAN = ChainPlan(
    protocol="jolteon",
    scheme="ed25519",
    validators=2,
    base_port=20_000,
    rollups=(RollupConfig(id=1, adapter="raw", settings={}), RollupConfig(id=7, adapter="raw", settings={})),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of validator-0 of two, for rollups 1 and 7."""
    return write_testnet(tmp_path, PLAN)[0]


MINIMAL = """
[keys]
tls = "tls.json"
"""
VALIDATOR = MINIMAL + 'consensus = "consensus.json"\n'


def load(home: Path, text: str) -> Config:
    (home / "node.toml").write_text(text)
    return Config.load(home / "node.toml")


def test_a_file_that_says_nothing_gets_the_defaults(home: Path) -> None:
    config = load(home, MINIMAL)
    assert config.file == home / "node.toml"
    assert config.data_directory == home / "data"
    assert config.genesis_file == home / "genesis.json"
    assert config.spec.chain_id == "testnet"
    assert config.tls_key_file == home / "tls.json"
    assert config.consensus_key_files == ()
    assert config.network.listen is None
    assert (config.network.peers, config.network.observers) == ({}, frozenset())
    assert config.api.listen == ("127.0.0.1", 26680)
    assert config.api.body_size_bytes_max == 8 * 1024 * 1024
    assert config.mempool == MempoolLimits()
    assert config.rollups == ()
    assert config.prune_keep_heights == 0
    assert config.log_level == "info"


def test_a_validator_listens_on_loopback_unless_told_otherwise(home: Path) -> None:
    assert load(home, VALIDATOR).network.listen == ("127.0.0.1", 26600)
    assert load(home, VALIDATOR + '[network]\nlisten = "0.0.0.0:1"').network.listen == ("0.0.0.0", 1)


def test_several_consensus_keys_are_a_list(home: Path) -> None:
    config = load(home, MINIMAL + 'consensus = ["one.json", "two.json"]\n')
    assert config.consensus_key_files == (home / "one.json", home / "two.json")
    assert config.network.listen is not None


def test_peers_are_named_by_the_genesis_file_or_by_their_ids(home: Path) -> None:
    peer = b"\xab" * 32
    config = load(home, MINIMAL + f'[network.peers]\n{peer.hex()} = "10.0.0.9:1"\n')
    assert config.network.peers == {peer: ("10.0.0.9", 1)}


def test_everything_that_is_said_is_heard(home: Path) -> None:
    peers = {validator.name: validator.peer for validator in load(home, MINIMAL).spec.validators}
    config = load(
        home,
        f"""
        data_directory = "../elsewhere"
        genesis_file = "{home / "genesis.json"}"
        log_level = "debug"
        [keys]
        tls = "keys/tls.json"
        consensus = "keys/consensus.json"
        [network]
        listen = "[::1]:0"
        observers = ["{"ab" * 32}"]
        [network.peers]
        validator-0 = "node.example:65535"
        validator-1 = "[fe80::1]:1"
        [api]
        listen = "127.0.0.1:0"
        body_size_bytes_max = 500000
        [mempool]
        size_bytes_max = 200000
        transactions_max = 5
        [storage]
        prune_keep_heights = 256
        [trust]
        checkpoint = "4096:{"cd" * 32}"
        period_s = 60
        [[rollups]]
        id = 7
        adapter = "evm"
        [rollups.settings]
        chain_id = 700
        alloc = {{ "0x12" = "5", list = [1, 2.5, true] }}
        [[rollups]]
        id = 1
        adapter = "raw"
        """,
    )
    assert config.data_directory == home / ".." / "elsewhere"
    assert config.genesis_file == home / "genesis.json"
    assert config.consensus_key_files == (home / "keys" / "consensus.json",)
    assert config.network.listen == ("::1", 0)
    assert config.network.peers == {peers["validator-0"]: ("node.example", 65535), peers["validator-1"]: ("fe80::1", 1)}
    assert config.network.observers == {b"\xab" * 32}
    assert (config.api.listen, config.api.body_size_bytes_max) == (("127.0.0.1", 0), 500_000)
    assert config.mempool == MempoolLimits(bytes_max=200_000, entries_max=5)
    assert config.prune_keep_heights == 256
    assert config.trust is not None
    assert config.trust.checkpoint == Checkpoint(height=4096, id=b"\xcd" * 32)
    assert (config.trust.ages.period_ms, config.trust.ages.unbonding_period_ms) == (60_000, 21 * 86_400_000)
    assert config.log_level == "debug"
    assert config.rollups == (
        RollupConfig(id=7, adapter="evm", settings={"chain_id": 700, "alloc": {"0x12": "5", "list": [1, 2.5, True]}}),
        RollupConfig(id=1, adapter="raw", settings={}),
    )


ROLLUP = '[[rollups]]\nid = 7\nadapter = "raw"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"keys\.tls: missing"),
        (MINIMAL + "consensus = []", r"keys\.consensus: a list of 1 to 8 files"),
        (MINIMAL + "consensus = [3]", r"keys\.consensus\[0\]: expected a file's name"),
        ("keys = 5", "keys: expected a table, not 5"),
        ("[keys]\ntls = 5", r"keys\.tls: expected a text, not 5"),
        (MINIMAL + 'validator = "x"', r"keys\.validator: unknown key; known here are consensus, tls"),
        ('lok_level = "info"' + MINIMAL, "lok_level: unknown key; known here are api, "),
        ('log_level = "loud"' + MINIMAL, "log_level: must be one of debug, info, warning, error, not 'loud'"),
        ('data_directory = ""' + MINIMAL, "data_directory: expected a text"),
        ('genesis_file = "none.json"' + MINIMAL, r"genesis_file: .*none\.json cannot be read: No such file"),
        ('genesis_file = "keys"' + MINIMAL, "genesis_file: .*keys cannot be read: Is a directory"),
        ('genesis_file = "node.toml"' + MINIMAL, r"genesis_file: .*node\.toml: the document: not JSON"),
        (MINIMAL + "[api]\nlisten = 80", r"api\.listen: expected a text, not 80"),
        (MINIMAL + '[api]\nlisten = "127.0.0.1"', r"api\.listen: expected host:port such as .*, not '127\.0\.0\.1'"),
        (MINIMAL + '[api]\nlisten = ":80"', r"api\.listen: expected host:port"),
        (MINIMAL + '[api]\nlisten = "::1:80"', r"api\.listen: expected host:port"),
        (MINIMAL + '[api]\nlisten = "[localhost]:80"', r"api\.listen: expected host:port"),
        (MINIMAL + '[api]\nlisten = "localhost:-1"', r"api\.listen: expected host:port"),
        (MINIMAL + '[api]\nlisten = "localhost:٣"', r"api\.listen: expected host:port"),
        (MINIMAL + '[api]\nlisten = "localhost:65536"', r"api\.listen: the port must be from 0 to 65535, not 65536"),
        (
            MINIMAL + "[api]\nbody_size_bytes_max = 100",
            r"api\.body_size_bytes_max: must be from 263168 to 134217728, not 100",
        ),
        (MINIMAL + "[api]\ncors = true", r"api\.cors: unknown key"),
        (MINIMAL + '[network]\nobservers = ["ab"]', r"network\.observers\[0\]: must have 32 bytes"),
        (MINIMAL + "[network]\nobservers = [1]", r"network\.observers\[0\]: expected lower-case hexadecimal"),
        (MINIMAL + '[network]\nobservers = "any"', r"network\.observers: expected a list"),
        (MINIMAL + "[network]\nseeds = []", r"network\.seeds: unknown key; known here are listen, observers, peers"),
        (
            MINIMAL + '[network.peers]\ncarol = "h:1"',
            r"network\.peers\.carol: no validator in the genesis file of chain 'testnet' has this",
        ),
        (MINIMAL + '[network.peers]\nvalidator-1 = "h:0"', r"network\.peers\.validator-1: the port must be from 1"),
        (MINIMAL + "[mempool]\nsize_bytes_max = 131071", r"mempool\.size_bytes_max: must be from 131072"),
        (MINIMAL + "[mempool]\ntransactions_max = 0", r"mempool\.transactions_max: must be from 1"),
        (
            MINIMAL + "[mempool]\ntransactions_max = true",
            r"mempool\.transactions_max: expected a whole number, not a tr",
        ),
        (MINIMAL + "[mempool]\nlifetime = 0", r"mempool\.lifetime: unknown key"),
        (MINIMAL + "[storage]\nprune_keep_heights = 255", r"storage\.prune_keep_heights: must be at least 256, or 0"),
        (MINIMAL + "[trust]\nperiod_s = 1", r"trust\.checkpoint: missing"),
        (MINIMAL + '[trust]\ncheckpoint = "7"', r"trust\.checkpoint: "),
        (MINIMAL + f'[trust]\ncheckpoint = "0:{"ab" * 32}"', r"trust\.checkpoint: expected height:id"),
        (MINIMAL + f'[trust]\ncheckpoint = "{"ab" * 32}"', r"trust\.checkpoint: expected height:id"),
        (
            MINIMAL + f'[trust]\ncheckpoint = "7:{"ab" * 32}"\nperiod_s = 99999999',
            r"trust\.period_s: evidence_age_max_s: must be at least period_s \+ reporting_delay_s",
        ),
        (MINIMAL + "[storage]\nprune_keep_heights = -1", r"storage\.prune_keep_heights: must be from 0"),
        (MINIMAL + "[storage]\ndurable = false", r"storage\.durable: unknown key"),
        (MINIMAL + "rollups = 7", r"keys\.rollups: unknown key"),
        ("rollups = [7]" + MINIMAL, r"rollups\[0\]: expected a table, not 7"),
        (MINIMAL + '[[rollups]]\nadapter = "raw"', r"rollups\[0\]\.id: missing"),
        (MINIMAL + "[[rollups]]\nid = 7", r"rollups\[0\]\.adapter: missing"),
        (MINIMAL + ROLLUP.replace("7", "8"), r"rollups\[0\]\.id: chain 'testnet' does not order rollup 8"),
        (MINIMAL + ROLLUP + ROLLUP, r"rollups\[1\]\.id: rollup 7 is configured twice"),
        (
            MINIMAL + ROLLUP.replace("raw", "row"),
            r"rollups\[0\]\.adapter: no adapter is called 'row'; installed are .*raw",
        ),
        (MINIMAL + ROLLUP + "colour = 1", r"rollups\[0\]\.colour: unknown key; known here are adapter, id, settings"),
        (MINIMAL + ROLLUP + "settings = 1", r"rollups\[0\]\.settings: expected a table, not 1"),
        (
            MINIMAL + ROLLUP + "[rollups.settings]\na.b = [2020-01-01]",
            r"rollups\[0\]\.settings\.a\.b\[0\]: expected a text",
        ),
        ("[keys", "not TOML: "),
    ],
)
def test_errors_name_the_file_and_the_key(home: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{home}/node\.toml: {message}"):
        load(home, text)


def test_a_file_that_is_absent_or_no_text_is_named(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory$"):
        Config.load(home / "none.toml")
    (home / "node.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"node\.toml: not TOML: "):
        Config.load(home / "node.toml")


@pytest.mark.parametrize("scheme", ["simulated", "rsa"])
def test_a_chain_with_a_scheme_that_is_not_for_production_is_refused(home: Path, scheme: str) -> None:
    genesis = (home / "genesis.json").read_text().replace('"scheme": "ed25519"', f'"scheme": "{scheme}"')
    (home / "genesis.json").write_text("\n".join(line for line in genesis.splitlines() if "genesis_hash" not in line))
    with pytest.raises(ConfigError, match=rf"node\.toml: genesis_file: .*genesis\.json: scheme: '{scheme}'"):
        load(home, MINIMAL)


def test_a_relative_path_is_relative_to_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    config = Config.load(f"{home.name}/node.toml")
    assert config.data_directory == home / "data"


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:0", "node.example:65535"])
def test_addresses_are_written_as_they_are_read(home: Path, text: str) -> None:
    assert address_text(load(home, MINIMAL + f'[api]\nlisten = "{text}"').api.listen) == text
