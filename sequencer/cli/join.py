"""Where a new validator learns of a running chain: from a node's home, from its API, or from a genesis file alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from consensus.genesis import ChainSpec
from consensus.types import PeerId
from sequencer.cli.console import UNREACHABLE, UNUSABLE, CommandError
from sequencer.cli.target import TIMEOUT_S, Target, genesis_in, reach, refused, target_of
from sequencer.config import Address, Config, RollupConfig, parse_address
from sequencer.genesis import genesis_of
from sequencer.genesis_file import chain_spec_from_json


@dataclass(frozen=True, kw_only=True)
class RunningChain:
    """A chain to join. ``peers`` are the addresses of its validators, by name in the genesis file or by peer id.
    ``trusted`` is False when the spec came over the network: somebody must compare its hash."""

    spec: ChainSpec
    trusted: bool
    peers: Mapping[str, Address] = field(default_factory=dict)
    rollups: Sequence[RollupConfig] = ()


class _Peer(msgspec.Struct, frozen=True):
    name: str
    peer: str
    address: str = ""


class _Status(msgspec.Struct, frozen=True):
    genesis_hash: str
    validators: tuple[_Peer, ...]


class _Chain(msgspec.Struct, frozen=True):
    spec: dict[str, object]


def chain_at(source: str) -> RunningChain:
    """What ``source`` says: a home, the address of an API, or a genesis.json. Raises :class:`CommandError` and
    ``ConfigError``."""
    if not source.startswith(("http://", "https://")) and not (Path(source) / "node.toml").is_file():
        return _checked(RunningChain(spec=genesis_in(Path(source), "--join").spec, trusted=True))
    target = target_of(source)
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        status = _get(client, f"{target.api}/v1/status", _Status)
        if target.genesis is not None:
            config = Config.load(Path(source) / "node.toml")
            return _checked(
                RunningChain(spec=config.spec, trusted=True, peers=_peers(config.spec, status), rollups=config.rollups)
            )
        spec = _spec_of(client, target)
    return _checked(RunningChain(spec=spec, trusted=False, peers=_peers(spec, status)))


def spec_at(api: str) -> ChainSpec:
    """The chain spec that the API at an address names; nobody vouches for it. Raises :class:`CommandError`."""
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        return _spec_of(client, target_of(api))


def _checked(chain: RunningChain) -> RunningChain:
    if chain.spec.reconfiguration is None:
        raise CommandError(
            f"--join: the validators of chain {chain.spec.chain_id!r} never change: its genesis.json has no "
            "'reconfiguration'. Only an observer can join it",
            UNUSABLE,
        )
    return chain


def _spec_of(client: httpx.Client, target: Target) -> ChainSpec:
    chain = _get(client, f"{target.api}/v1/chain", _Chain)
    try:
        spec = chain_spec_from_json(json.dumps(chain.spec))
        genesis_of(spec)
    except ValueError as error:
        raise CommandError(f"{target.name}: its chain spec cannot be used: {error}", UNREACHABLE) from None
    return spec


def _peers(spec: ChainSpec, status: _Status) -> dict[str, Address]:
    names: dict[PeerId, str] = {validator.peer: validator.name for validator in spec.validators}
    peers: dict[str, Address] = {}
    for validator in status.validators:
        if validator.address:
            name = names.get(bytes.fromhex(validator.peer), validator.peer)
            peers[name] = parse_address("address", validator.address, port_min=1)
    return peers


Answer = TypeVar("Answer", bound=msgspec.Struct)


def _get(client: httpx.Client, url: str, kind: type[Answer]) -> Answer:
    response = reach(client, client.build_request("GET", url))
    if response.status_code != 200:
        raise refused(response)
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError as error:
        raise CommandError(f"{url}: what answers is no node of this version: {error}", UNREACHABLE) from None
