"""A node's keys moved to a signing process, with the memory of what they signed."""

from __future__ import annotations

import shutil
import stat
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from typer.testing import CliRunner

from consensus.codec import Malformed, encode
from sequencer.cli import app
from sequencer.cli.console import UNUSABLE
from sequencer.config import Config, ConfigError, RollupConfig
from sequencer.genesis import genesis_of
from sequencer.homes import ChainPlan, HomeError, write_testnet
from sequencer.keys import KeyFileError, load_consensus_key
from sequencer.node import open_node
from sequencer.signer import homes
from sequencer.signer.authority import Request, SigningAuthority
from sequencer.signer.config import SignerConfig
from sequencer.signer.homes import separate
from sequencer.signer.process import open_signer
from sequencer.signer.rules import Refusal, Rule
from sequencer.signer.server import SocketError
from sequencer.slashing_protection import SlashingProtection
from sequencer.storage import InUseError
from sequencer.storage.signing_store import SigningStore
from tests.sequencer.signer.processes import short_directory
from tests.sequencer.signer.subjects import proposal, vote


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as found:
        yield found


def home_of_one(directory: Path) -> Path:
    plan = ChainPlan(
        protocol="jolteon",
        scheme="ed25519",
        rollups=[RollupConfig(id=1, adapter="raw", settings={})],
        validators=1,
        observers=0,
    )
    return write_testnet(directory, plan)[0]


async def order(home: Path, word: bytes, count: int) -> int:
    """Run the node for some transactions; the height of the last."""
    height = 0
    with trio.fail_after(60):
        async with open_node(Config.load(home / "node.toml")) as node:
            for number in range(count):
                pending = await node.submit(rollup_id=1, transaction=b"%s %d" % (word, number))
                height = (await node.wait(pending)).height
    return height


def safety_of(home: Path) -> dict[str, bytes]:
    with closing(apsw.Connection(str(home / "data" / "chain.db"), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        rows = connection.execute("SELECT kind, subject FROM safety WHERE length(subject) > 0").fetchall()
    return {str(kind): subject for kind, subject in rows if isinstance(subject, bytes)}


async def with_signer(home: Path, signer_home: Path, count: int) -> int:
    async with open_signer(SignerConfig.load(signer_home / "signer.toml")):
        return await order(home, b"after", count)


def test_the_memory_goes_with_the_keys(directory: Path) -> None:
    home, apart = home_of_one(directory), directory / "signer"
    height = trio.run(order, home, b"before", 3)
    signed = safety_of(home)
    assert {"vote", "proposal"} <= {*signed}
    assert separate(home, apart) == len(signed)
    assert [file.name for file in (home / "keys").iterdir()] == ["tls.json"]
    assert stat.S_IMODE((apart / "keys" / "consensus.json").stat().st_mode) == 0o600
    signer, node = SignerConfig.load(apart / "signer.toml"), Config.load(home / "node.toml")
    assert node.signer is not None
    [public_key] = node.signer.public_keys
    genesis = genesis_of(signer.spec)
    with SigningStore(signer.database, signer.spec.hash) as store:
        authority = SigningAuthority(genesis, (), store)
        latest = authority._histories[public_key].kinds
        assert {*latest} == {*signed}
    codec = genesis.protocol.subject_codec()
    votes, proposals = codec.decode(signed["vote"]), codec.decode(signed["proposal"])
    assert not isinstance(votes, Malformed)
    assert not isinstance(proposals, Malformed)
    asked = [vote(votes.view, 9), vote(1, 9), proposal(proposals.view, 9)]  # type: ignore[attr-defined]  # Jolteon names its views so
    with SigningStore(signer.database, signer.spec.hash) as store:
        authority = SigningAuthority(genesis, [load_consensus_key(apart / "keys" / "consensus.json").secret_key], store)
        for subject in asked:
            request = Request(
                public_key=public_key,
                validators_hash=genesis.epoch.validators.hash,
                subject=encode(subject),  # type: ignore[arg-type]  # every subject is a Struct
            )
            answer = authority.sign(request)
            assert isinstance(answer, Refusal)
            assert answer.rule in (Rule.CONTRADICTION, Rule.ORDER)
    # And the node goes on where it was: what it asks first is what it signed last.
    assert trio.run(with_signer, home, apart, 3) > height


def test_a_running_node_is_not_separated(directory: Path) -> None:
    home = home_of_one(directory)
    trio.run(order, home, b"before", 1)

    async def while_it_runs() -> None:
        async with open_node(Config.load(home / "node.toml")):
            with pytest.raises(InUseError):
                await trio.to_thread.run_sync(separate, home, directory / "signer")

    trio.run(while_it_runs)
    assert not (directory / "signer").exists(), "with the key and no memory, a signing process could be started there"
    assert "consensus.json" in [file.name for file in (home / "keys").iterdir()]
    assert tomllib.loads((home / "node.toml").read_text())["keys"]["consensus"] == "keys/consensus.json"


def test_what_stands_in_the_way_is_said(directory: Path) -> None:
    home = home_of_one(directory)
    (directory / "full").mkdir()
    (directory / "full" / "file").touch()
    with pytest.raises(HomeError, match="not an empty directory"):
        separate(home, directory / "full")
    text = (home / "node.toml").read_text()
    many = text.replace('consensus = "keys/consensus.json"', 'consensus = [\n"keys/consensus.json",\n]')
    (home / "node.toml").write_text(many)
    with pytest.raises(ConfigError, match="on one line of its own"):
        separate(home, directory / "signer")
    assert not (directory / "signer").exists()
    (home / "node.toml").write_text(text)
    separate(home, directory / "signer")
    with pytest.raises(HomeError, match="names no consensus key"):
        separate(home, directory / "other")


def test_no_node_starts_while_its_keys_are_moved(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would sign then is not in the memory that was taken."""
    home = home_of_one(directory)
    before = Config.load(home / "node.toml")
    refused: list[BaseException] = []

    async def start() -> None:
        try:
            async with open_node(before):
                pass
        except* InUseError as error:
            refused.append(error)

    def take(*arguments: Any) -> int:
        node = threading.Thread(target=trio.run, args=(start,))
        node.start()
        node.join()
        return taken(*arguments)

    taken = homes._take_memory
    monkeypatch.setattr(homes, "_take_memory", take)
    separate(home, directory / "signer")
    assert len(refused) == 1


def test_a_node_that_read_its_file_before_its_keys_moved_does_not_start(directory: Path) -> None:
    home = home_of_one(directory)
    before = Config.load(home / "node.toml")
    separate(home, directory / "signer")
    [file] = before.consensus_key_files
    [moved] = (directory / "signer" / "keys").glob("*consensus*")
    shutil.copy(moved, file)  # as if it were killed before it removed it

    async def start() -> None:
        async with open_node(before):
            pass

    with pytest.raises(ConfigError, match="names other consensus keys than it did when it was read"):
        trio.run(start)


def test_a_signing_process_does_not_run_on_an_import_alone(directory: Path) -> None:
    separate(home_of_one(directory), directory / "signer")
    config = SignerConfig.load(directory / "signer" / "signer.toml")
    config.database.unlink()
    SlashingProtection.open(config.database, config.spec.hash).close()  # as signer import makes it
    result = CliRunner(env={"COLUMNS": "400"}).invoke(
        app, ["signer", "run", "--home", str(directory / "signer"), "--with-parent"]
    )
    assert result.exit_code == UNUSABLE
    assert f"sequencer signer import FILE --database {config.database} --votes-from-epoch EPOCH" in result.stderr


async def test_a_signing_process_says_what_is_missing(directory: Path) -> None:
    home = home_of_one(directory)
    await trio.to_thread.run_sync(separate, home, directory / "signer")
    config = SignerConfig.load(directory / "signer" / "signer.toml")
    async with open_signer(config):
        with pytest.raises(InUseError):
            async with open_signer(config):
                pass
    assert not config.socket.exists()
    config.socket.parent.chmod(0o777)
    with pytest.raises(SocketError, match="must belong to this user alone"):
        async with open_signer(config):
            pass


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("nodes = [", "nodes = [] #"), "nodes: must list from 1 to 64, not 0"),
        (('nodes = ["', 'nodes = ["zz'), r"nodes\[0\]: expected lower-case hexadecimal digits"),
        (('consensus = ["keys/consensus.json"]', "consensus = [7]"), r"keys.consensus\[0\]: expected the name"),
        (("log_level", "loglevel"), "loglevel: unknown key"),
        (('"genesis.json"', '"missing.json"'), "genesis_file: .*cannot be read"),
    ],
)
def test_a_signers_configuration_is_checked(directory: Path, change: tuple[str, str], said: str) -> None:
    separate(home_of_one(directory), directory / "signer")
    file = directory / "signer" / "signer.toml"
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=said):
        SignerConfig.load(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("socket = ", "sockets = "), "signer.socket: missing"),
        (('peer = "', 'peer = "00'), "signer.peer: must have 32 bytes"),
        (('public_keys = ["', 'public_keys = ["00'), r"signer.public_keys\[0\]: must have 32 bytes"),
        (("[signer]", '[signer]\nkey = "x"'), "signer.key: unknown key"),
        (
            ('tls = "keys/tls.json"', 'tls = "keys/tls.json"\nconsensus = "keys/x.json"'),
            "has no consensus key of its own",
        ),
    ],
)
def test_a_nodes_signer_is_checked(directory: Path, change: tuple[str, str], said: str) -> None:
    home = home_of_one(directory)
    separate(home, directory / "signer")
    text = (home / "node.toml").read_text()
    assert change[0] in text
    (home / "node.toml").write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=said):
        Config.load(home / "node.toml")


async def test_a_node_of_another_key_does_not_start(directory: Path) -> None:
    home = home_of_one(directory)
    await trio.to_thread.run_sync(separate, home, directory / "signer")
    text = (home / "node.toml").read_text()
    [key] = tomllib.loads(text)["signer"]["public_keys"]
    (home / "node.toml").write_text(text.replace(key, "11" * 32))
    with pytest.raises(KeyFileError, match=f"which signs with key {key}; name that in signer.public_keys"):
        async with open_node(Config.load(home / "node.toml")):
            pass
