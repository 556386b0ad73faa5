"""The configuration of one node: a TOML file, checked whole when it is loaded, before anything is opened.

Relative paths are relative to the file. Addresses are ``host:port``, an IPv6 host in brackets. What a node with three
rollups says::

    data_directory = "data"
    genesis_file = "genesis.json"
    log_level = "info"                      # debug, info, warning or error

    [keys]
    tls = "keys/tls.json"
    consensus = "keys/consensus.json"       # without it the node is an observer: it follows and verifies. A list of
                                            # files while one key follows another

    [signer]                                # instead of keys.consensus: a signing process holds the keys
    socket = "../signer/run/signer.sock"
    peer = "8c20…"                          # the peer id of its TLS key
    public_keys = ["5e1d…"]                 # the consensus keys that it holds for this node

    [network]
    listen = "127.0.0.1:26600"              # for other validators and observers; an observer may leave it out
    observers = ["3f61…"]                   # peer ids that this node serves besides the validators

    [network.peers]                         # where others listen: validators by their names in the genesis file,
    validator-1 = "10.0.0.2:26600"          # anybody by the peer id. Those who joined since are found by the chain

    [api]
    listen = "127.0.0.1:26680"              # port 0 picks a free one
    body_size_bytes_max = 8388608           # of one request

    [mempool]                               # for each rollup
    size_bytes_max = 33554432
    transactions_max = 131072

    [storage]
    prune_keep_heights = 0                  # 0 keeps every block

    [trust]                                 # for a node that joins a chain on which validators have left since
    checkpoint = "4096:3f61…"               # height:id of a final block, from somebody you trust
    period_s = 1209600                      # how old it may be now, given what the chain's operators agreed on:
    reporting_delay_s = 86400               # evidence is in a block within this,
    evidence_age_max_s = 1814400            # is punished up to this age,
    unbonding_period_s = 1814400            # and stake stays bound for so long

    [[rollups]]                             # those that run here; the chain may order more
    id = 7
    adapter = "evm"
    [rollups.settings]                      # the adapter's own
    chain_id = 700

Everything but ``keys.tls`` and ``network.peers`` has the default shown above.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, TypeVar, cast

from consensus.crypto.registry import scheme_named
from consensus.finality.types import Checkpoint
from consensus.finality.weak_subjectivity import WeakSubjectivity
from consensus.genesis import ChainSpec, check_handover
from consensus.types import HASH_SIZE, INTEGER_MAX, SYNC_BLOCKS_MAX, PeerId
from rollup_adapters.base import JsonValue
from rollup_adapters.registry import known_adapters
from sequencer.genesis import genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.keys import CONSENSUS_KEYS_MAX
from sequencer.mempool import MempoolLimits
from sequencer.signer.remote import SignerEndpoint
from sequencer.tables import KeyPathError, Table, hexadecimal

Address: TypeAlias = tuple[str, int]
"""Host and port."""
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

T = TypeVar("T")

LISTEN_DEFAULT: Final = "127.0.0.1:26600"
API_LISTEN_DEFAULT: Final = "127.0.0.1:26680"
BODY_SIZE_BYTES_DEFAULT: Final = 8 * 1024 * 1024
BODY_SIZE_BYTES_MAX: Final = 128 * 1024 * 1024
"""All that the API holds of bodies at a time."""
FILE_SIZE_MAX: Final = 4 * 1024 * 1024
TRUST_DEFAULTS_S: Final[Mapping[str, int]] = MappingProxyType(
    {
        "period": 14 * 86_400,
        "reporting_delay": 86_400,
        "evidence_age_max": 21 * 86_400,
        "unbonding_period": 21 * 86_400,
    }
)
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_OBSERVERS_MAX: Final = 1024
_PEER_ID: Final = re.compile(f"[0-9a-f]{{{2 * HASH_SIZE}}}")


class ConfigError(ValueError):
    """The configuration cannot be used: ``FILE: path.of.the.key: what is wrong``."""


@dataclass(frozen=True, kw_only=True)
class RollupConfig:
    """A rollup that runs on this node. ``settings`` are the adapter's own, and it checks them."""

    id: int
    adapter: str
    settings: Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """``listen`` is None for an observer that only dials. ``peers`` are addresses by peer id."""

    listen: Address | None
    peers: Mapping[PeerId, Address]
    observers: frozenset[PeerId]


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """Where the API listens and how large a request's body may be, in bytes."""

    listen: Address
    body_size_bytes_max: int


@dataclass(frozen=True, kw_only=True)
class TrustConfig:
    """A block that the chain must hold, and how old it may be when this node starts below it."""

    checkpoint: Checkpoint
    ages: WeakSubjectivity


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked configuration. Paths are absolute; ``spec`` is the content of ``genesis_file``, checked as well.
    ``consensus_key_files`` are none for an observer, and where there is a ``signer``. ``prune_keep_heights`` is 0 when
    nothing is pruned; ``trust`` is None where the genesis is all that is trusted."""

    file: Path
    data_directory: Path
    genesis_file: Path
    spec: ChainSpec
    tls_key_file: Path
    consensus_key_files: tuple[Path, ...]
    signer: SignerEndpoint | None
    network: NetworkConfig
    api: ApiConfig
    mempool: MempoolLimits
    rollups: tuple[RollupConfig, ...]
    prune_keep_heights: int
    trust: TrustConfig | None
    log_level: LogLevel

    @classmethod
    def load(cls, path: Path | str) -> Config:
        """Read and check a node's file and its genesis file. Raises :class:`ConfigError`."""
        return load_file(path, _config)

    def check_keys(self) -> None:
        """Raise :class:`ConfigError` when the file names other consensus keys by now. To be asked where the
        node's journal is held, as it is while ``sequencer signer separate`` moves keys: with a copy in two places, only
        one may sign."""
        if self.consensus_key_files and Config.load(self.file).consensus_key_files != self.consensus_key_files:
            raise ConfigError(f"{self.file}: names other consensus keys than it did when it was read; try again")


def load_file(path: Path | str, read: Callable[[Path, Table], T]) -> T:
    """What ``read`` makes of the file's absolute path and its table. Raises :class:`ConfigError`."""
    file = Path(path).absolute()
    try:
        with file.open("rb") as source:
            text = source.read(FILE_SIZE_MAX + 1)
        if len(text) > FILE_SIZE_MAX:
            raise ConfigError(f"{file}: larger than {FILE_SIZE_MAX} bytes")
        return read(file, Table(tomllib.loads(text.decode())))
    except KeyPathError as error:
        raise ConfigError(f"{file}: {error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None


def _config(file: Path, table: Table) -> Config:
    spec_file = file.parent / table.text("genesis_file", default="genesis.json")
    spec = read_spec(table, spec_file)
    keys = table.table("keys")
    consensus_key_files = _consensus_key_files(keys, file.parent)
    signer = _signer(table.table("signer"), spec, file.parent) if table.has("signer") else None
    if signer is not None and consensus_key_files:
        raise keys.error("consensus", "a node with a [signer] has no consensus key of its own")
    config = Config(
        file=file,
        data_directory=file.parent / table.text("data_directory", default="data"),
        genesis_file=spec_file,
        spec=spec,
        tls_key_file=file.parent / keys.text("tls"),
        consensus_key_files=consensus_key_files,
        signer=signer,
        network=_network(table.table("network"), spec, is_validator=bool(consensus_key_files) or signer is not None),
        api=_api(table.table("api"), spec),
        mempool=_mempool(table.table("mempool"), spec),
        rollups=_rollups(table.tables("rollups"), spec),
        prune_keep_heights=_storage(table.table("storage"), spec),
        trust=_trust(table.table("trust")) if table.has("trust") else None,
        log_level=read_log_level(table),
    )
    keys.finish()
    table.finish()
    return config


def read_spec(table: Table, spec_file: Path) -> ChainSpec:
    """The chain spec in the file that ``genesis_file`` of ``table`` names, judged: nobody must start on one that is not
    a chain. Raises :class:`~sequencer.tables.KeyPathError`."""
    try:
        spec = read_chain_spec(spec_file)
        genesis_of(spec)
        check_handover(spec)
    except OSError as error:
        raise table.error("genesis_file", f"{spec_file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise table.error("genesis_file", f"{spec_file}: {error}") from None
    return spec


def _consensus_key_files(keys: Table, home: Path) -> tuple[Path, ...]:
    """One file, or a list of them."""
    if not keys.is_list("consensus"):
        return (home / keys.text("consensus"),) if keys.has("consensus") else ()
    names = keys.list_at("consensus")
    if not 1 <= len(names) <= CONSENSUS_KEYS_MAX:
        raise keys.error("consensus", f"a list of 1 to {CONSENSUS_KEYS_MAX} files belongs here")
    files = []
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise KeyPathError(f"{keys.path('consensus')}[{index}]", "expected a file's name")
        files.append(home / name)
    return tuple(files)


def _signer(table: Table, spec: ChainSpec, home: Path) -> SignerEndpoint:
    size = scheme_named(spec.scheme).public_key_size
    public_keys = [
        hexadecimal(key, f"{table.path('public_keys')}[{index}]", size)
        for index, key in enumerate(table.list_at("public_keys"))
    ]
    if not 1 <= len(public_keys) <= CONSENSUS_KEYS_MAX:
        raise table.error("public_keys", f"a list of 1 to {CONSENSUS_KEYS_MAX} keys belongs here")
    endpoint = SignerEndpoint(
        socket=Path(os.path.normpath(home / table.text("socket"))),
        peer=table.hexadecimal("peer", HASH_SIZE),
        public_keys=tuple(public_keys),
    )
    table.finish()
    return endpoint


def _network(table: Table, spec: ChainSpec, *, is_validator: bool) -> NetworkConfig:
    listen = None
    if is_validator or table.has("listen"):
        listen = parse_address(table.path("listen"), table.text("listen", default=LISTEN_DEFAULT), port_min=0)
    addresses = table.table("peers")
    by_name = {validator.name: validator.peer for validator in spec.validators}
    peers = {}
    for name in addresses.names():
        address = parse_address(addresses.path(name), addresses.text(name), port_min=1)
        peer = by_name.get(name)
        if peer is None and not _PEER_ID.fullmatch(name):
            raise addresses.error(
                name,
                f"no validator in the genesis file of chain {spec.chain_id!r} has this name; name others by peer id, "
                f"{2 * HASH_SIZE} hexadecimal digits",
            )
        peers[bytes.fromhex(name) if peer is None else peer] = address
    observers = [
        hexadecimal(peer, f"{table.path('observers')}[{index}]", HASH_SIZE)
        for index, peer in enumerate(table.list_at("observers"))
    ]
    if len(observers) > _OBSERVERS_MAX:
        raise table.error("observers", f"at most {_OBSERVERS_MAX} peer ids")
    table.finish()
    return NetworkConfig(listen=listen, peers=peers, observers=frozenset(observers))


def _api(table: Table, spec: ChainSpec) -> ApiConfig:
    config = ApiConfig(
        listen=parse_address(table.path("listen"), table.text("listen", default=API_LISTEN_DEFAULT), port_min=0),
        # As hexadecimal or base64 in JSON, with room for the fields around it, the largest transaction must fit.
        body_size_bytes_max=table.integer(
            "body_size_bytes_max",
            2 * spec.transaction_size_max + 1024,
            BODY_SIZE_BYTES_MAX,
            default=max(BODY_SIZE_BYTES_DEFAULT, 2 * spec.transaction_size_max + 1024),
        ),
    )
    table.finish()
    return config


def _mempool(table: Table, spec: ChainSpec) -> MempoolLimits:
    default = MempoolLimits()
    limits = MempoolLimits(
        bytes_max=table.integer(
            "size_bytes_max",
            spec.transaction_size_max,
            2**40,
            default=max(default.bytes_max, spec.transaction_size_max),
        ),
        entries_max=table.integer("transactions_max", 1, 2**31, default=default.entries_max),
    )
    table.finish()
    return limits


def _rollups(tables: list[Table], spec: ChainSpec) -> tuple[RollupConfig, ...]:
    known = known_adapters()
    rollups: list[RollupConfig] = []
    for table in tables:
        rollup = RollupConfig(
            id=table.integer("id", 0, 2**64 - 1), adapter=table.text("adapter"), settings=table.verbatim("settings")
        )
        if rollup.id not in spec.rollups:
            raise table.error("id", f"chain {spec.chain_id!r} does not order rollup {rollup.id}")
        if any(rollup.id == other.id for other in rollups):
            raise table.error("id", f"rollup {rollup.id} is configured twice")
        if rollup.adapter not in known:
            raise table.error("adapter", f"no adapter is called {rollup.adapter!r}; installed are {', '.join(known)}")
        table.finish()
        rollups.append(rollup)
    return tuple(rollups)


def _storage(table: Table, spec: ChainSpec) -> int:
    """Peers that are a little behind, and the own deduplication after a restart, need the last blocks."""
    keep_heights = table.integer("prune_keep_heights", 0, INTEGER_MAX, default=0)
    keep_heights_min = max(SYNC_BLOCKS_MAX, spec.deduplication_heights)
    if 0 < keep_heights < keep_heights_min:
        raise table.error("prune_keep_heights", f"must be at least {keep_heights_min}, or 0 to keep everything")
    table.finish()
    return keep_heights


def _trust(table: Table) -> TrustConfig:
    height, _, block_id = table.text("checkpoint").partition(":")
    if not height.isascii() or not height.isdecimal() or not 1 <= int(height) <= INTEGER_MAX:
        raise table.error("checkpoint", "expected height:id, such as 4096:3f61 with all 64 digits of the block's id")
    checkpoint = Checkpoint(height=int(height), id=hexadecimal(block_id, table.path("checkpoint"), HASH_SIZE))
    durations = {
        name: 1000 * table.integer(f"{name}_s", 1, INTEGER_MAX // 1000, default=default)
        for name, default in TRUST_DEFAULTS_S.items()
    }
    try:
        ages = WeakSubjectivity(**{f"{name}_ms": duration for name, duration in durations.items()})
    except ValueError as error:
        raise table.error("period_s", str(error).replace("_ms", "_s")) from None
    table.finish()
    return TrustConfig(checkpoint=checkpoint, ages=ages)


def read_log_level(table: Table) -> LogLevel:
    """``log_level`` of ``table``. Raises :class:`~sequencer.tables.KeyPathError`."""
    level = table.text("log_level", default="info")
    if level not in _LOG_LEVELS:
        raise table.error("log_level", f"must be one of {', '.join(_LOG_LEVELS)}, not {level!r}")
    return cast("LogLevel", level)


def parse_address(path: str, text: str, *, port_min: int) -> Address:
    """``host:port``, an IPv6 host in brackets. Raises :class:`~sequencer.tables.KeyPathError` naming ``path``."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or bracketed != (":" in host) or not port.isascii() or not port.isdecimal() or len(port) > 5:
        raise KeyPathError(path, f"expected host:port such as 127.0.0.1:26600 or [::1]:26600, not {text[:80]!r}")
    if not port_min <= int(port) <= 65535:
        raise KeyPathError(path, f"the port must be from {port_min} to 65535, not {port}")
    return host.strip("[]"), int(port)


def address_text(address: Address) -> str:
    """``host:port``, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
