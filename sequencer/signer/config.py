"""The configuration of a signing process: a TOML file, checked whole when it is loaded. Relative paths are relative to
the file::

    genesis_file = "genesis.json"
    database = "protection.db"              # the memory of what was signed; never an older copy of it
    socket = "run/signer.sock"              # in a directory of its own, mode 0700
    nodes = ["3f61…"]                       # peer ids (keys/tls.json of the node's home) of the nodes that may ask
    log_level = "info"                      # debug, info, warning or error

    [keys]
    tls = "keys/tls.json"                   # names this process to its nodes
    consensus = ["keys/consensus.json"]     # what it signs with; all have one passphrase, or none

Everything but ``nodes`` and ``keys`` has the default shown above.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from consensus.genesis import ChainSpec
from consensus.types import HASH_SIZE, PeerId
from sequencer.config import LogLevel, load_file, read_log_level, read_spec
from sequencer.signer.messages import KEYS_MAX
from sequencer.tables import Table, hexadecimal


@dataclass(frozen=True, kw_only=True)
class SignerConfig:
    """A checked configuration. Paths are absolute; ``spec`` is the content of ``genesis_file``, checked as well."""

    file: Path
    spec: ChainSpec
    database: Path
    socket: Path
    nodes: frozenset[PeerId]
    tls_key_file: Path
    consensus_key_files: tuple[Path, ...]
    log_level: LogLevel

    @classmethod
    def load(cls, path: Path | str) -> SignerConfig:
        """Read and check a signing process's file and its genesis file. Raises ``ConfigError``."""
        return load_file(path, _config)


def _config(file: Path, table: Table) -> SignerConfig:
    keys = table.table("keys")
    config = SignerConfig(
        file=file,
        spec=read_spec(table, file.parent / table.text("genesis_file", default="genesis.json")),
        database=file.parent / table.text("database", default="protection.db"),
        socket=file.parent / table.text("socket", default="run/signer.sock"),
        nodes=frozenset(
            hexadecimal(node, f"nodes[{index}]", HASH_SIZE) for index, node in enumerate(_list(table, "nodes"))
        ),
        tls_key_file=file.parent / keys.text("tls"),
        consensus_key_files=tuple(file.parent / name for name in _names(keys, "consensus")),
        log_level=read_log_level(table),
    )
    keys.finish()
    table.finish()
    return config


def _list(table: Table, key: str) -> list[object]:
    found = table.list_at(key)
    if not 1 <= len(found) <= KEYS_MAX:
        raise table.error(key, f"must list from 1 to {KEYS_MAX}, not {len(found)}")
    return found


def _names(keys: Table, key: str) -> list[str]:
    names = []
    for index, name in enumerate(_list(keys, key)):
        if not isinstance(name, str) or not name:
            raise keys.error(f"{key}[{index}]", "expected the name of a key file")
        names.append(name)
    return names
