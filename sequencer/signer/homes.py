"""Homes of signing processes: a directory with everything one needs, made from the home of a node::

    signer-0/
      signer.toml           the configuration (sequencer.signer.config)
      genesis.json          the chain spec, as in the node's home
      keys/tls.json         names the process to its nodes
      keys/consensus.json   signs
      protection.db         the memory of what was signed
      run/signer.sock       while it runs

A home of a signing process names no path outside itself. The ``node.toml`` of its node names the socket, relative to
itself where the two homes lie side by side, so that they can be moved together.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from consensus.engine import Recovered
from consensus.types import PeerId
from sequencer.config import Config, ConfigError
from sequencer.durable import sync_directory
from sequencer.genesis import genesis_of
from sequencer.homes import HomeError
from sequencer.keys import generate_tls_identity, load_consensus_key, load_tls_identity, write_tls_identity
from sequencer.signer.authority import SigningAuthority
from sequencer.signer.config import SignerConfig
from sequencer.storage import ChainStore
from sequencer.storage.signing_store import SigningStore
from sequencer.toml_text import toml_value

SIGNER_FILE: Final = "signer.toml"
DATABASE_FILE: Final = "protection.db"
SOCKET_FILE: Final = "run/signer.sock"
_CHAIN_FILE: Final = "chain.db"
_CONSENSUS_LINE: Final = re.compile(r"^[ \t]*consensus[ \t]*=.*\n?", re.MULTILINE)


def separate(home: Path, signer_home: Path, *, passphrase: str | None = None) -> int:
    """Move the consensus keys of a stopped node from ``home`` to the new ``signer_home``, with the memory of what they
    signed last, and tell the node. Returns how many signed subjects were taken along.

    The node's journal is held from the reading of its memory to the removal of its keys: a running node is refused
    before anything is made, and none can start meanwhile. The keys come to ``signer_home`` last: no signing process
    could start there with less than the whole memory. The new ``node.toml`` decides: when this is interrupted before,
    the node still works as before, and it is done again after ``signer_home`` was deleted; when later, all works, and
    what may be left is key files in ``home`` that nobody reads. A node that read its ``node.toml`` before all this
    compares it once it has its journal (:meth:`Config.check_keys`).

    Not to be called inside trio. Raises :class:`HomeError`, ``ConfigError``, ``KeyFileError``, ``StorageError`` (the
    node runs) and ``OSError``.
    """
    config = Config.load(home / "node.toml")
    if not config.consensus_key_files:
        raise HomeError(f"{config.file}: names no consensus key in [keys], so there is nothing to separate")
    _rewritten(config.file, config.file.read_text(), "")  # before anything is made
    if signer_home.exists() and (not signer_home.is_dir() or any(signer_home.iterdir())):
        raise HomeError(f"{signer_home} exists and is not an empty directory; choose another place or move it away")
    return trio.run(_separate_alone, config, signer_home, passphrase)


async def _separate_alone(config: Config, signer_home: Path, passphrase: str | None) -> int:
    config.data_directory.mkdir(parents=True, exist_ok=True)  # a node that never ran has no journal to be held yet
    async with ChainStore.open(config.data_directory / _CHAIN_FILE, config.spec.hash) as store:
        config.check_keys()
        recovered = await store.recover(store.committed_height)
        return _move(config, recovered, signer_home, passphrase)


def _move(config: Config, recovered: Recovered, signer_home: Path, passphrase: str | None) -> int:
    node = load_tls_identity(config.tls_key_file, passphrase).peer
    public_keys = [load_consensus_key(file, passphrase).secret_key.public_key for file in config.consensus_key_files]
    identity = generate_tls_identity("signer")
    (signer_home / "keys").mkdir(mode=0o700, parents=True)
    signer_home.chmod(0o700)
    write_tls_identity(signer_home / "keys" / "tls.json", identity, passphrase)
    names = [f"keys/{_unique(index, file)}" for index, file in enumerate(config.consensus_key_files)]
    shutil.copyfile(config.genesis_file, signer_home / "genesis.json")
    (signer_home / SIGNER_FILE).write_text(signertoml_value(nodes=[node], keys=names))
    signer = SignerConfig.load(signer_home / SIGNER_FILE)
    taken = _take_memory(recovered, config, signer, public_keys)
    socket = os.path.relpath(signer.socket, config.file.parent)
    table = (
        "\n# A signing process holds the consensus keys.\n[signer]\n"
        f"socket = {toml_value(socket)}\npeer = {toml_value(identity.peer.hex())}\n"
        f"public_keys = {toml_value([key.hex() for key in public_keys])}\n"
    )
    for name, file in zip(names, config.consensus_key_files, strict=True):
        _copy_key(file, signer_home / name)
    for directory in (signer_home / "keys", signer_home, signer_home.parent):
        sync_directory(directory)  # before the only other copy of a key goes
    _replace_file(config.file, _rewritten(config.file, config.file.read_text(), table))
    for file in config.consensus_key_files:
        file.unlink()
    return taken


def separate_all(homes: Sequence[Path], *, passphrase: str | None = None) -> list[Path]:
    """Give each validator among the homes of a new chain a signing process beside it, ``signer-0`` and so on; returns
    their homes. Raises as :func:`separate` does."""
    made: list[Path] = []
    for home in homes:
        if Config.load(home / "node.toml").consensus_key_files:
            made.append(home.with_name(f"signer-{len(made)}"))
            separate(home, made[-1], passphrase=passphrase)
    return made


def signertoml_value(*, nodes: Sequence[PeerId], keys: Sequence[str]) -> str:
    """The text of a ``signer.toml`` in a home."""
    return "\n".join(
        [
            'genesis_file = "genesis.json"',
            "# The memory of what was signed. Never put an older copy here.",
            f"database = {toml_value(DATABASE_FILE)}",
            f"socket = {toml_value(SOCKET_FILE)}",
            "# Peer ids of the nodes that may ask.",
            f"nodes = {toml_value([node.hex() for node in nodes])}",
            'log_level = "info"',
            "",
            "[keys]",
            'tls = "keys/tls.json"',
            f"consensus = {toml_value(list(keys))}",
            "",
        ]
    )


def _take_memory(recovered: Recovered, config: Config, signer: SignerConfig, public_keys: Sequence[bytes]) -> int:
    """Record what the node's journal says that it signed last, of each kind and for every key: more than was signed
    with a key makes it stricter, never laxer."""
    genesis = genesis_of(config.spec)
    hashes = {genesis.epoch.epoch: genesis.epoch.validators.hash}
    change = recovered.epoch_change
    if change is not None:
        hashes[change.epoch] = change.boundary.next_validators_hash
    taken = 0
    with SigningStore(signer.database, signer.spec.hash, create=True) as memory:
        authority = SigningAuthority(genesis, (), memory)
        for record in recovered.safety:
            if not record.subject:  # of finality, before its first vote
                continue
            taken += 1
            for public_key in public_keys:
                refusal = authority.adopt(public_key, record.subject, hashes)
                if refusal is not None:
                    chain = config.data_directory / _CHAIN_FILE
                    raise HomeError(f"{chain}: what it says of kind {record.kind!r} cannot be taken: {refusal.reason}")
    return taken


def _unique(index: int, file: Path) -> str:
    return file.name if index == 0 else f"{index}-{file.name}"


def _copy_key(source: Path, target: Path) -> None:
    """Durably, and never readable by others."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(source.read_bytes())
        opened.flush()
        os.fsync(opened.fileno())


def _rewritten(file: Path, text: str, table: str) -> str:
    """A ``node.toml`` without ``keys.consensus`` and with ``table`` at its end. Raises ``ConfigError`` where that needs
    a person."""
    changed = _CONSENSUS_LINE.sub("", text, count=1).rstrip("\n") + "\n" + table
    try:
        keys = tomllib.loads(changed).get("keys", {})
    except tomllib.TOMLDecodeError:
        keys = None
    if (
        not isinstance(keys, dict)
        or "consensus" in keys
        or keys != {key: value for key, value in tomllib.loads(text)["keys"].items() if key != "consensus"}
    ):
        raise ConfigError(f"{file}: write keys.consensus on one line of its own under [keys], then try again")
    return changed


def _replace_file(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.new")
    with temporary.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)
    sync_directory(file.parent)
