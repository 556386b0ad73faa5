"""Asking a running chain to change its validators: what is signed, handed to a node, and waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec
from rich.markup import escape

from consensus.codec import encode
from consensus.crypto.scheme import SecretKey
from consensus.genesis import SYSTEM_ROLLUP, ChainSpec, Reconfiguration
from consensus.reconfiguration import (
    AddValidator,
    Change,
    ChangeDomain,
    ChangeStake,
    GovernorSignature,
    RemoveValidator,
    RotateKey,
    SystemTransaction,
    approved_by_governors,
    approved_by_validator,
    sign_as_governor,
)
from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNREACHABLE, UNUSABLE, CommandError, err
from sequencer.cli.join import spec_at
from sequencer.cli.target import TIMEOUT_S, Target, genesis_in, reach, refused, target_of
from sequencer.genesis import Genesis, genesis_of
from sequencer.keys import load_consensus_key, load_governor_key

ORDER_TIMEOUT_MS: Final = 30_000
LIFETIME_HEIGHTS: Final = 10_000
"""A change can be ordered within so many heights from now; after that it must be signed anew."""

Answer = TypeVar("Answer", bound=msgspec.Struct)


class Listed(msgspec.Struct, frozen=True):
    """A validator in a node's status."""

    name: str
    operator: str
    stake: int
    public_key: str
    peer: str
    address: str
    connected: bool = False
    self_: bool = msgspec.field(name="self", default=False)


class PendingListed(msgspec.Struct, frozen=True):
    """A pending change in a node's status."""

    kind: str
    name: str
    operator: str
    public_key: str
    next_public_key: str
    stake: int
    effective_at: int


class ValidatorsStatus(msgspec.Struct, frozen=True):
    """What this needs of ``/v1/status``."""

    genesis_hash: str
    chain_id: str
    epoch: int
    epoch_began_after: int
    ledger_height: int
    validators: tuple[Listed, ...]
    pending_changes: tuple[PendingListed, ...]
    held_keys: tuple[str, ...]

    def named(self, name: str) -> str:
        """The public key of a member, hex: a validator, or one that is about to join. Raises :class:`CommandError`."""
        keys = {change.name: change.public_key for change in self.pending_changes if change.kind == "joins"}
        keys |= {validator.name: validator.public_key for validator in self.validators}
        if name not in keys:
            raise CommandError(f"no validator is called {name!r}; there are {', '.join(sorted(keys))}", UNUSABLE)
        return keys[name]


class _Outcome(msgspec.Struct, frozen=True):
    accepted: bool
    effective_at: int = 0
    reason: str = ""


class _Position(msgspec.Struct, frozen=True):
    height: int


class _Ordered(msgspec.Struct, frozen=True):
    transaction_id: str
    level: str = "pending"
    position: _Position | None = None
    change: _Outcome | None = None


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """An accepted change: ordered at ``height``, in effect with the epoch that begins after ``effective_at``."""

    transaction_id: str
    height: int
    effective_at: int


class Cluster:
    """One node of a running chain, asked and submitted to."""

    def __init__(self, client: httpx.Client, target: Target, genesis: Genesis) -> None:
        self._client = client
        self.target = target
        self.genesis = genesis

    @property
    def reconfiguration(self) -> Reconfiguration:
        """How the chain's validators change. Raises :class:`CommandError` where they never do."""
        found = self.genesis.spec.reconfiguration
        if found is None:
            raise CommandError(
                f"the validators of chain {self.genesis.spec.chain_id!r} never change: its genesis.json has no "
                "'reconfiguration'",
                UNUSABLE,
            )
        return found

    @property
    def domain(self) -> ChangeDomain:
        """What signatures over changes are good for."""
        return ChangeDomain.of(self.genesis.spec)

    def status(self) -> ValidatorsStatus:
        """Where the node stands. Raises :class:`CommandError`."""
        status = self._get("/v1/status", ValidatorsStatus)
        if status.genesis_hash != self.genesis.spec.hash.hex():
            raise CommandError(
                f"{self.target.name}: is of chain {status.chain_id!r} with genesis {status.genesis_hash}, not "
                f"{self.genesis.spec.hash.hex()}",
                UNREACHABLE,
            )
        return status

    def submit(self, transaction: SystemTransaction) -> Ordered:
        """Hand it over and wait until it is ordered and accepted. Raises :class:`CommandError`."""
        request = self._client.build_request(
            "POST",
            f"{self.target.api}/v1/rollups/{SYSTEM_ROLLUP}/transactions",
            content=encode(transaction),
            headers={"content-type": "application/octet-stream"},
            params={"wait": "confirmed", "timeout_ms": ORDER_TIMEOUT_MS},
            timeout=ORDER_TIMEOUT_MS / 1000 + TIMEOUT_S,
        )
        response = reach(self._client, request)
        if response.status_code >= 300:
            raise refused(response)
        ordered = _decoded(response, _Ordered)
        if ordered.position is None:
            raise CommandError(
                f"not ordered within {ORDER_TIMEOUT_MS // 1000} s; it waits at {self.target.name} and submitting it "
                f"again is harmless. Is the chain making blocks (sequencer status)? Its id is {ordered.transaction_id}",
                NO,
            )
        outcome = ordered.change
        if outcome is None:
            raise CommandError(
                f"ordered at height {ordered.position.height}, but {self.target.name} does not say what became of it. "
                "Ask: sequencer validator list",
                UNREACHABLE,
            )
        if not outcome.accepted:
            raise CommandError(f"ordered at height {ordered.position.height} and ignored: {outcome.reason}", NO)
        return Ordered(
            transaction_id=ordered.transaction_id, height=ordered.position.height, effective_at=outcome.effective_at
        )

    def wait_for_epoch(self, ordered: Ordered, timeout_s: float) -> ValidatorsStatus:
        """Until a block of the epoch that ``ordered`` waits for is committed. Raises :class:`CommandError`."""
        deadline, last, why = time.monotonic() + timeout_s, ordered.height, "it stops"
        try:
            with err().status("") as shown:
                for height in self._heights_from(ordered.height, timeout_s):
                    last = height
                    if height > ordered.effective_at:
                        return self.status()
                    if time.monotonic() > deadline:
                        break
                    shown.update(f"height {height} of {ordered.effective_at}")
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
        if time.monotonic() <= deadline:
            raise CommandError(
                f"{self.target.name}: left us at height {last}, while waiting for {ordered.effective_at} ({why}). The "
                "change is ordered and takes effect by itself; ask any node: sequencer validator list",
                UNREACHABLE,
            )
        raise CommandError(
            f"no block above height {ordered.effective_at} within {timeout_s:g} s, the last one was {last}. The change "
            "takes effect by itself; see: sequencer validator list. If heights do not grow, do the validators who join "
            "run and reach the others?",
            NO,
        )

    def _heights_from(self, height: int, timeout_s: float) -> Iterator[int]:
        """Committed heights, as the node's stream of system transactions shows them; now and then the last one again,
        when nothing is committed."""
        url = f"{self.target.api}/v1/rollups/{SYSTEM_ROLLUP}/stream"
        patience = httpx.Timeout(TIMEOUT_S, read=max(timeout_s, TIMEOUT_S))
        with self._client.stream("GET", url, params={"from_height": height}, timeout=patience) as response:
            if response.status_code != 200:
                response.read()
                raise refused(response)
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id" and value.isdecimal():
                    height = int(value)
                yield height

    def _get(self, path: str, kind: type[Answer]) -> Answer:
        response = reach(self._client, self._client.build_request("GET", f"{self.target.api}{path}"))
        if response.status_code != 200:
            raise refused(response)
        return _decoded(response, kind)


@contextmanager
def open_cluster(node: str, genesis_file: Path | None) -> Iterator[Cluster]:
    """The chain of ``node``, a home or the address of an API. Raises :class:`CommandError` and ``ConfigError``."""
    target = target_of(node)
    genesis = genesis_in(genesis_file) if genesis_file is not None else target.genesis
    if genesis is None:
        genesis = genesis_of(spec_at(node))
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        yield Cluster(client, target, genesis)


def by_governors(
    cluster: Cluster, change: Change, files: Sequence[Path], passphrase: str | None, *, enough: bool = True
) -> SystemTransaction:
    """``change`` with the signatures of these governors' key files; without ``enough``, one of them will do. Raises
    :class:`CommandError` and ``KeyFileError``."""
    rules = cluster.reconfiguration
    signatures = governors_signatures(cluster.genesis.spec, change, files, passphrase)
    needed = rules.governors_needed if enough else 1
    if len(signatures) < needed:
        raise CommandError(
            f"--governor: {len(signatures)} different keys were given, and {needed} of the {len(rules.governors)} "
            "governors must sign; give the option once for each, or sign one after the other with --out",
            2,
        )
    return approved_by_governors(change, signatures)


def governors_signatures(
    spec: ChainSpec, change: Change, files: Sequence[Path], passphrase: str | None
) -> list[GovernorSignature]:
    """The signatures of the different keys in ``files``. Raises :class:`CommandError` and ``KeyFileError``."""
    governors = () if spec.reconfiguration is None else spec.reconfiguration.governors
    keys: dict[bytes, SecretKey] = {}
    for file in files:
        key = _loaded(file, load_governor_key, passphrase)
        if key.public_key not in governors:
            raise CommandError(
                f"{file}: key {key.public_key.hex()} is no governor's of chain {spec.chain_id!r}; its genesis.json "
                "lists them",
                UNUSABLE,
            )
        keys[key.public_key] = key
    return [sign_as_governor(ChangeDomain.of(spec), change, governors, key) for key in keys.values()]


def by_validator(cluster: Cluster, change: RemoveValidator | RotateKey, key: SecretKey) -> SystemTransaction:
    """``change`` with its validator's own signature."""
    return approved_by_validator(cluster.domain, change, key)


def own_key(cluster: Cluster, file: Path, passphrase: str | None) -> SecretKey:
    """The consensus key in ``file``, of the chain's scheme. Raises :class:`CommandError` and ``KeyFileError``."""
    key = _loaded(file, load_consensus_key, passphrase)
    if key.scheme.name != cluster.genesis.spec.scheme:
        raise CommandError(
            f"{file}: a {key.scheme.name} key; chain {cluster.genesis.spec.chain_id!r} signs with "
            f"{cluster.genesis.spec.scheme}",
            UNUSABLE,
        )
    return key.secret_key


def describe(change: Change, status: ValidatorsStatus) -> str:
    """A change in words."""
    names = {validator.public_key: validator.name for validator in status.validators}
    names |= {pending.public_key: pending.name for pending in status.pending_changes}
    match change:
        case AddValidator():
            return f"{change.name} joins with stake {change.stake}"
        case RemoveValidator():
            return f"{names.get(change.public_key.hex(), change.public_key.hex())} leaves"
        case RotateKey():
            name = names.get(change.public_key.hex(), change.public_key.hex())
            return f"{name} changes its key to {change.next_public_key.hex()}"
        case ChangeStake():
            return f"{names.get(change.public_key.hex(), change.public_key.hex())} changes to stake {change.stake}"


def carry_out(
    cluster: Cluster, transaction: SystemTransaction, *, wait: bool, timeout_s: float
) -> tuple[Ordered, ValidatorsStatus | None]:
    """Submit, wait, and say on standard error what happens. Raises :class:`CommandError`."""
    console, before = err(), cluster.status()
    console.print(f"asking {escape(cluster.target.name)}: {escape(describe(transaction.change, before))}")
    ordered = cluster.submit(transaction)
    after = cluster.status()
    blocks = max(0, ordered.effective_at - after.ledger_height)
    console.print(
        f"ordered at height {ordered.height} and accepted; takes effect with the epoch that begins after height "
        f"{ordered.effective_at}, in {blocks} blocks"
    )
    if not wait:
        return ordered, None
    status = cluster.wait_for_epoch(ordered, timeout_s)
    if status.epoch > before.epoch:
        console.print(f"epoch {status.epoch} has begun: {len(status.validators)} validators")
    else:
        console.print("in effect, without another epoch: a later change undid it")
    return ordered, status


def result_document(ordered: Ordered, status: ValidatorsStatus | None) -> dict[str, JsonValue]:
    """What ``--json`` prints."""
    document: dict[str, JsonValue] = {
        "transaction_id": ordered.transaction_id,
        "ordered_at": ordered.height,
        "effective_at": ordered.effective_at,
        "in_effect": status is not None,
    }
    if status is not None:
        document["epoch"] = status.epoch
        document["validators"] = [validator.name for validator in status.validators]
    return document


Key = TypeVar("Key")


def _loaded(file: Path, load: Callable[[Path, str | None], Key], passphrase: str | None) -> Key:
    try:
        return load(file, passphrase)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", UNUSABLE) from None


def _decoded(response: httpx.Response, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError as error:
        raise CommandError(f"{response.url}: what answers is no node of this version: {error}", UNREACHABLE) from None
