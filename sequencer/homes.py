"""Homes: a directory with everything one node needs, made by ``sequencer init`` and ``sequencer testnet``::

    validator-0/
      node.toml           the configuration (sequencer.config)
      genesis.json        the chain spec (sequencer.genesis_file); the same file in every home of a chain
      keys/tls.json       names the node to its peers
      keys/consensus.json signs; a validator's only
      registration.json   what the governors need to add it; of a validator that joins a running chain
      data/               made when the node starts

A home names no path outside itself and can be moved as a whole. The governors' keys of a testnet lie beside its homes,
``governor-0.json`` and so on: they belong to people, on no node.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import SecretKey
from consensus.election import ROUND_ROBIN
from consensus.genesis import (
    CHECKPOINT_INTERVAL_DEFAULT,
    GOVERNORS_MAX,
    ChainSpec,
    Pacing,
    Reconfiguration,
    check_handover,
)
from consensus.types import HASH_SIZE, Height, PeerId
from consensus.validators import STAKE_MAX, Validator
from sequencer.config import Address, RollupConfig, address_text
from sequencer.genesis import genesis_of
from sequencer.genesis_file import chain_spec_to_json, validator_to_json
from sequencer.keys import (
    ConsensusKey,
    generate_consensus_key,
    generate_governor_key,
    generate_tls_identity,
    write_consensus_key,
    write_governor_key,
    write_tls_identity,
)
from sequencer.tables import Table
from sequencer.toml_text import toml_key, toml_table, toml_value
from sequencer.transport import TlsIdentity

LOOPBACK: Final = "127.0.0.1"
HOMES_MAX: Final = 1000
NAME_SIZE_MAX: Final = 64
REGISTRATION_SIZE_MAX: Final = 16 * 1024


class HomeError(Exception):
    """A home cannot be made there; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class ChainPlan:
    """A chain on one machine. ``base_port`` 0 takes free ports; otherwise home i listens at ``base_port + 2 * i`` for
    peers and at the port after it for the API. ``genesis_time_ms`` None is now. Validators can change where
    ``reconfiguration`` says how; its governors are new keys, ``governors`` of them."""

    protocol: str
    scheme: str
    rollups: Sequence[RollupConfig]
    validators: int = 4
    observers: int = 1
    base_port: int = 0
    chain_id: str = "testnet"
    election: str = ROUND_ROBIN
    pacing: Pacing = field(default_factory=Pacing)
    genesis_time_ms: int | None = None
    checkpoint_interval: Height = CHECKPOINT_INTERVAL_DEFAULT
    reconfiguration: Reconfiguration | None = None
    governors: int = 1


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What the governors need to know of a validator that is to join: it, who runs it, and where it listens
    (``host:port``, empty when others need not dial it)."""

    validator: Validator
    operator: str
    address: str


@dataclass(frozen=True, kw_only=True)
class _Member:
    name: str
    tls: TlsIdentity
    consensus: ConsensusKey | None
    listen: Address
    api: Address


def write_testnet(directory: Path, plan: ChainPlan, *, passphrase: str | None = None) -> list[Path]:
    """Write the homes of a chain: ``validator-0``, ..., then ``observer-0``, ...; returned in this order.

    Nothing is written unless the plan makes a chain that runs. Raises :class:`HomeError` when a home exists or the
    numbers cannot be, ``ValueError`` naming the field of the plan that is wrong, ``OSError`` when the disk refuses.
    """
    count = plan.validators + plan.observers
    if plan.validators < 1 or plan.observers < 0 or count > HOMES_MAX:
        raise HomeError(f"a testnet has at least one validator and at most {HOMES_MAX} homes")
    members = _members(plan, _ports(2 * count, plan.base_port))
    governors = _governors(directory, plan)
    spec = _spec_of(plan, members, [key.public_key for key in governors.values()])
    genesis_of(spec)
    check_handover(spec)
    for member in members:
        _check_absent(directory / member.name)
    for file in governors:
        if file.exists():
            raise HomeError(f"{file} exists; choose another place or move it away")
    observers = [member.tls.peer for member in members if member.consensus is None]
    validators = [member for member in members if member.consensus is not None]
    homes = []
    for member in members:
        home = directory / member.name
        _make_home(home)
        _write_keys(home, member.tls, member.consensus, passphrase)
        (home / "genesis.json").write_text(chain_spec_to_json(spec))
        peers = {other.name: other.listen for other in validators if other is not member}
        text = nodetoml_value(
            listen=member.listen if member.consensus else None,
            api=member.api,
            peers=peers,
            observers=observers if member.consensus else [],
            rollups=plan.rollups,
        )
        (home / "node.toml").write_text(text)
        homes.append(home)
    for file, key in governors.items():
        write_governor_key(file, key, passphrase)
    return homes


def write_home(
    home: Path,
    *,
    name: str,
    scheme: str,
    listen: Address = (LOOPBACK, 26600),
    api: Address = (LOOPBACK, 26680),
    spec: ChainSpec | None = None,
    peers: Mapping[str, Address] | None = None,
    rollups: Sequence[RollupConfig] = (),
    passphrase: str | None = None,
) -> Validator:
    """Write a validator's home, and return what others need to know of it: the validator with stake 1, which they may
    change. Its form in a genesis file is ``registration_text``.

    A founder's home has no ``genesis.json`` yet. One that joins a running chain has ``spec`` there, and ``peers``:
    where its nodes listen, by the names in ``spec`` or by peer id.

    Raises as :func:`write_testnet` does.
    """
    if not 1 <= len(name) <= NAME_SIZE_MAX:
        raise HomeError(f"a validator's name has 1 to {NAME_SIZE_MAX} characters, not {len(name)}")
    tls, consensus = generate_tls_identity(name), generate_consensus_key(scheme_named(scheme))
    _make_home(home)
    _write_keys(home, tls, consensus, passphrase)
    if spec is not None:
        (home / "genesis.json").write_text(chain_spec_to_json(spec))
    text = nodetoml_value(listen=listen, api=api, peers=peers or {}, observers=[], rollups=rollups)
    (home / "node.toml").write_text(text)
    return _registration(name, tls, consensus)


def registration_text(validator: Validator) -> str:
    """A validator's entry in ``validators`` of a genesis file, as JSON."""
    return json.dumps(validator_to_json(validator), indent=2, ensure_ascii=False)


def write_registration(file: Path, registration: Registration) -> None:
    """Write what the governors need to a file. It holds no secret."""
    document = {**validator_to_json(registration.validator), "operator": registration.operator}
    if registration.address:
        document["address"] = registration.address
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def read_registration(file: Path) -> Registration:
    """What :func:`write_registration` wrote. Raises :class:`HomeError`."""
    try:
        with file.open("rb") as source:
            text = source.read(REGISTRATION_SIZE_MAX + 1)
    except OSError as error:
        raise HomeError(
            f"{file}: {error.strerror}; give the registration.json that sequencer init --join wrote"
        ) from None
    try:
        if len(text) > REGISTRATION_SIZE_MAX:
            raise ValueError(f"larger than {REGISTRATION_SIZE_MAX} bytes")
        table = Table(json.loads(text))
        registration = Registration(
            validator=Validator(
                name=table.text("name"),
                stake=table.integer("stake", 1, STAKE_MAX),
                public_key=table.hexadecimal("public_key"),
                possession_proof=table.hexadecimal("possession_proof"),
                peer=table.hexadecimal("peer", HASH_SIZE),
            ),
            operator=table.text("operator"),
            address=table.text("address") if table.has("address") else "",
        )
        table.finish()
    except ValueError as error:
        raise HomeError(f"{file}: not a registration: {error}") from None
    return registration


def nodetoml_value(
    *,
    listen: Address | None,
    api: Address,
    peers: Mapping[str, Address],
    observers: Sequence[PeerId],
    rollups: Sequence[RollupConfig],
) -> str:
    """The text of a ``node.toml`` in a home. ``listen`` None is an observer, which has no consensus key either."""
    lines = ['data_directory = "data"', 'genesis_file = "genesis.json"', 'log_level = "info"', "", "[keys]"]
    lines.append('tls = "keys/tls.json"')
    if listen is not None:
        lines.append('consensus = "keys/consensus.json"')
    lines += ["", "[network]"]
    if listen is not None:
        lines.append(f"listen = {toml_value(address_text(listen))}")
        lines.append("# Peer ids of the observers that this node serves.")
        lines.append(f"observers = {toml_value([peer.hex() for peer in observers])}")
    lines += ["", "# Where others listen, by their names in genesis.json or by peer id.", "[network.peers]"]
    lines += [f"{toml_key(name)} = {toml_value(address_text(address))}" for name, address in peers.items()]
    lines += ["", "[api]", f"listen = {toml_value(address_text(api))}"]
    lines += ["", "[storage]", "# How many committed heights to keep; 0 keeps all.", "prune_keep_heights = 0"]
    for rollup in rollups:
        lines += ["", "[[rollups]]", f"id = {rollup.id}", f"adapter = {toml_value(rollup.adapter)}"]
        if rollup.settings:
            lines += toml_table("rollups.settings", rollup.settings)
    return "\n".join(lines) + "\n"


def _members(plan: ChainPlan, ports: Sequence[int]) -> list[_Member]:
    scheme = scheme_named(plan.scheme)
    names = [f"validator-{index}" for index in range(plan.validators)]
    names += [f"observer-{index}" for index in range(plan.observers)]
    return [
        _Member(
            name=name,
            tls=generate_tls_identity(name),
            consensus=generate_consensus_key(scheme) if index < plan.validators else None,
            listen=(LOOPBACK, ports[2 * index]),
            api=(LOOPBACK, ports[2 * index + 1]),
        )
        for index, name in enumerate(names)
    ]


def _governors(directory: Path, plan: ChainPlan) -> dict[Path, SecretKey]:
    if plan.reconfiguration is None:
        return {}
    if not 1 <= plan.governors <= GOVERNORS_MAX:
        raise HomeError(f"a chain whose validators change has 1 to {GOVERNORS_MAX} governors, not {plan.governors}")
    return {directory / f"governor-{index}.json": generate_governor_key() for index in range(plan.governors)}


def _spec_of(plan: ChainPlan, members: Sequence[_Member], governors: Sequence[bytes]) -> ChainSpec:
    genesis_time_ms, reconfiguration = plan.genesis_time_ms, plan.reconfiguration
    if reconfiguration is not None:
        reconfiguration = msgspec.structs.replace(reconfiguration, governors=tuple(governors))
    return ChainSpec(
        chain_id=plan.chain_id,
        genesis_time_ms=time.time_ns() // 1_000_000 if genesis_time_ms is None else genesis_time_ms,
        protocol=plan.protocol,
        scheme=plan.scheme,
        validators=tuple(
            _registration(member.name, member.tls, member.consensus) for member in members if member.consensus
        ),
        rollups=tuple(sorted(rollup.id for rollup in plan.rollups)),
        election=plan.election,
        pacing=plan.pacing,
        checkpoint_interval=plan.checkpoint_interval,
        reconfiguration=reconfiguration,
    )


def _registration(name: str, tls: TlsIdentity, consensus: ConsensusKey) -> Validator:
    key = consensus.secret_key
    return Validator(
        name=name, stake=1, public_key=key.public_key, possession_proof=key.prove_possession(), peer=tls.peer
    )


def _check_absent(home: Path) -> None:
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise HomeError(f"{home} exists and is not an empty directory; choose another place or move it away")


def _make_home(home: Path) -> None:
    _check_absent(home)
    (home / "keys").mkdir(mode=0o700, parents=True)


def _write_keys(home: Path, tls: TlsIdentity, consensus: ConsensusKey | None, passphrase: str | None) -> None:
    write_tls_identity(home / "keys" / "tls.json", tls, passphrase)
    if consensus is not None:
        write_consensus_key(home / "keys" / "consensus.json", consensus, passphrase)


def _ports(count: int, base_port: int) -> list[int]:
    """``count`` distinct ports. Free ones are asked of the system all at once and then let go: another process may take
    one before the node does, which then says so; give a base port where that matters."""
    if base_port:
        if not 1 <= base_port <= 65536 - count:
            raise HomeError(f"base port {base_port}: {count} ports from there on do not all exist")
        return list(range(base_port, base_port + count))
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]
