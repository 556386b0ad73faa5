"""A node: everything wired, in one place.

::

    async with open_node(Config.load("node.toml")) as node:          # an observer, unless the file names a key
        pending = await node.submit(rollup_id=7, transaction=b"...")
        receipt = await node.wait(pending, level="confirmed")
        receipt.verify(node.genesis)                                  # offline

Everything that can fail for good (a journal, the ledger, a step of consensus) leaves the ``async with`` block as an
exception: the node has stopped, and nothing that depended on what failed was sent.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final, Literal

import msgspec
import trio

from consensus.driver import Driver, TrioClock
from consensus.engine import Status
from consensus.epochs import EpochChange
from consensus.finality.proof import FinalityProof
from consensus.finality.weak_subjectivity import UntrustedChain
from consensus.genesis import ChainSpec
from consensus.ports import Clock, Signer, Transport
from consensus.reconfiguration import ChangeOutcome
from consensus.registry import Registry
from consensus.replica import Replica
from consensus.types import INTEGER_MAX, Epoch, Height
from rollup_adapters.host import AdapterHost, AdapterSpec
from sequencer.block_summary import BlockSummary
from sequencer.body import PayloadCache
from sequencer.config import Address, Config, RollupConfig, TrustConfig
from sequencer.delivery import AdapterFeed, Delivered
from sequencer.evidence_store import EvidenceExchange, EvidenceStore
from sequencer.forwarding import Forwarder
from sequencer.genesis import Genesis, genesis_of
from sequencer.keys import NodeKeys, load_node_keys
from sequencer.ledger import Follower, HeightUnavailable, Ledger
from sequencer.membership import Membership, ValidatorsView
from sequencer.mempool import Mempool, Ordered, Pending, Submission, SubmissionRefused
from sequencer.node_ports import EvidenceChannel, LedgerIndex, LocalSigner, TransactionChannel
from sequencer.payload import InlinePayloadSource
from sequencer.receipts import Receipt, Section
from sequencer.registries import Registries
from sequencer.signer.remote import RemoteSigner, SignerState
from sequencer.storage import ChainStore, IndexStore
from sequencer.transactions import Level, Position, TransactionId, TransactionStatus
from sequencer.transport import EVIDENCE, TRANSACTIONS, TlsTransport, TransportConfig, TransportState, open_transport
from sequencer.window import CommittedWindow

PRUNE_INTERVAL_S: Final = 10.0
CHAIN_FILE: Final = "chain.db"
INDEX_FILE: Final = "index.db"
EVIDENCE_DIRECTORY: Final = "evidence"
WILDCARDS: Final = ("0.0.0.0", "::")
"""Hosts that listen everywhere and name no place."""


class AdapterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One rollup's adapter as people see it."""

    rollup_id: int
    adapter: str
    alive: bool
    restarts: int
    delivered: Delivered


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node stands. ``held_keys`` are the public halves of its consensus keys. ``mempool`` holds (rollup id,
    transactions, bytes); ``pruned_below`` is set when every peer has pruned what this node needs."""

    name: str
    role: Literal["validator", "observer"]
    consensus: Status
    validators: ValidatorsView
    held_keys: tuple[bytes, ...]
    ledger_height: Height
    final_height: Height
    mempool: tuple[tuple[int, int, int], ...]
    transport: TransportState
    adapters: tuple[AdapterStatus, ...]
    pruned_below: Height | None
    archive_from: Height
    evidence: int
    signer: SignerState | None = None
    """Of the signing process, where one holds the keys."""
    trusted_height: Height = 0
    """That of the trusted checkpoint, where one is configured."""


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a node is made of."""

    config: Config
    genesis: Genesis
    keys: NodeKeys
    store: ChainStore
    index: IndexStore
    transport: TlsTransport
    mempool: Mempool
    ledger: Ledger
    driver: Driver
    forwarder: Forwarder
    feeds: tuple[AdapterFeed, ...]
    evidence: EvidenceStore
    exchange: EvidenceExchange
    window: CommittedWindow
    signer: LocalSigner | RemoteSigner | None
    membership: Membership


class Node:
    """A running node. Made by :func:`open_node`."""

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self.genesis = parts.genesis
        self.spec: ChainSpec = parts.genesis.spec

    @property
    def role(self) -> Literal["validator", "observer"]:
        """What it is in the present epoch."""
        return "observer" if self._parts.membership.own is None else "validator"

    @property
    def name(self) -> str:
        """The validator's, while it is one; else the beginning of its peer id."""
        own = self._parts.membership.own
        return self._parts.keys.tls.peer.hex()[:8] if own is None else own.name

    # --- transactions -------------------------------------------------------------------------------------------

    async def submit(self, *, rollup_id: int, transaction: bytes, valid_until: Height = 0) -> Pending | Ordered:
        """Take one transaction. Submitting it again, here or at another node, is harmless. Raises
        :class:`SubmissionRefused`."""
        answer = self.submit_batch(rollup_id, ((valid_until, transaction),))[0]
        if isinstance(answer, Pending | Ordered):
            return answer
        raise SubmissionRefused(answer)

    def submit_batch(self, rollup_id: int, transactions: Sequence[tuple[Height, bytes]]) -> list[Submission]:
        """Take ``(valid_until, data)`` of one rollup, one answer each, in order."""
        answers = self._parts.mempool.add_batch(rollup_id, transactions)
        self._parts.forwarder.submitted(rollup_id, transactions, answers)
        return answers

    async def wait(self, submitted: Pending | Ordered | TransactionId, level: str = Level.CONFIRMED) -> Receipt:
        """The receipt, once the transaction is ``confirmed`` or ``final``; bound it with a cancel scope. Raises
        ``TransactionExpired``, ``NoCheckpoints`` for ``final`` on a chain without, and ``ValueError`` for a level that
        nothing gives yet."""
        if level not in (Level.CONFIRMED, Level.FINAL):
            raise ValueError(f"level: nothing gives {level!r} yet; wait for 'confirmed' or 'final'")
        transaction_id = submitted if isinstance(submitted, bytes) else submitted.transaction_id
        position = await self._parts.ledger.wait_for(transaction_id)
        if level == Level.FINAL:
            await self._parts.ledger.final(position.height)
        receipt = await self._parts.ledger.receipt(transaction_id, level=Level(level))
        if receipt is None:
            raise RuntimeError("a confirmed transaction without a receipt")
        return receipt

    async def status_of(self, transaction_id: TransactionId) -> TransactionStatus:
        """The transaction's rung on the ladder."""
        return await self._parts.ledger.status(transaction_id)

    async def receipt(self, transaction_id: TransactionId, level: Level = Level.CONFIRMED) -> Receipt | None:
        """The receipt of a confirmed transaction; with ``level`` ``FINAL`` also the proof that it is final, where it
        is."""
        return await self._parts.ledger.receipt(transaction_id, level=level)

    async def final_above(self, height: Height) -> Height:
        """The last final height, once it is above ``height``. Raises ``NoCheckpoints``."""
        await self._parts.ledger.final(height + 1)
        return self._parts.ledger.final_height

    async def finality(self, height: Height) -> FinalityProof | None:
        """The proof that a block is final; None where it is not, or not provable here any more."""
        return await self._parts.ledger.finality(height)

    # --- blocks -------------------------------------------------------------------------------------------------

    async def section(self, rollup_id: int, height: Height) -> Section:
        """All that one block ordered for one rollup, with proofs. Raises ``HeightUnavailable``."""
        return await self._parts.ledger.section(rollup_id, height)

    @asynccontextmanager
    async def follow(self, rollup_id: int, from_height: Height = 1) -> AsyncIterator[Follower]:
        """The rollup's sections from a height on, for ever; commits were verified by this node."""
        yield self._parts.ledger.follow(rollup_id, from_height)

    async def block(self, height: Height) -> BlockSummary:
        """A committed block without its transactions, with its proof. Raises ``HeightUnavailable``."""
        block, payload, proof = await self._parts.ledger.block(height)
        return BlockSummary(header=block.header, sections=payload.leaves, commit_proof=proof)

    # --- the node itself ----------------------------------------------------------------------------------------

    def adapter(self, rollup_id: int) -> AdapterHost | None:
        """The adapter of a rollup that runs here."""
        return next((feed.host for feed in self._parts.feeds if feed.rollup_id == rollup_id), None)

    async def epoch_changes(self, from_epoch: Epoch = 1, limit: int = INTEGER_MAX) -> Sequence[EpochChange]:
        """How the epochs that this node knows began, ascending, from ``from_epoch`` (the first has no beginning) on, at
        most ``limit``."""
        return await self._parts.store.epoch_changes(from_epoch, limit)

    async def newest_epoch(self) -> Epoch:
        """The last epoch of which :meth:`epoch_changes` knows how it began."""
        return await self._parts.store.newest_epoch()

    async def change_outcome(self, position: Position) -> ChangeOutcome | None:
        """What became of an ordered change of the validators; None where this node does not know it any more."""
        return await self._parts.ledger.change_outcome(position)

    def status(self) -> NodeStatus:
        """Everything at a glance."""
        parts = self._parts
        return NodeStatus(
            name=self.name,
            role=self.role,
            consensus=parts.driver.status(),
            validators=parts.membership.view(),
            held_keys=parts.keys.public_keys,
            ledger_height=parts.ledger.height,
            final_height=parts.ledger.final_height,
            mempool=tuple((rollup_id, *parts.mempool.pending(rollup_id)) for rollup_id in self.spec.rollups),
            transport=parts.transport.state(),
            adapters=tuple(
                AdapterStatus(
                    rollup_id=feed.rollup_id,
                    adapter=feed.name,
                    alive=feed.host.alive,
                    restarts=feed.host.restarts,
                    delivered=feed.delivered,
                )
                for feed in parts.feeds
            ),
            pruned_below=parts.driver.pruned_below,
            archive_from=parts.store.pruned_below,
            evidence=len(parts.evidence.pieces),
            signer=parts.signer.state() if isinstance(parts.signer, RemoteSigner) else None,
            trusted_height=0 if parts.config.trust is None else parts.config.trust.checkpoint.height,
        )


@asynccontextmanager
async def open_node(config: Config, *, passphrase: str | None = None) -> AsyncIterator[Node]:
    """Run a node while the block runs.

    Raises ``ValueError`` for a chain spec that cannot be, ``KeyFileError``, ``StorageError``, ``ConfigError`` when the
    consensus keys were moved since ``config`` was read, and ``OSError`` when an address cannot be bound.
    """
    genesis = genesis_of(config.spec)
    keys = load_node_keys(
        config.spec,
        tls_file=config.tls_key_file,
        consensus_files=config.consensus_key_files,
        remote_keys=() if config.signer is None else config.signer.public_keys,
        passphrase=passphrase,
    )
    config.data_directory.mkdir(parents=True, exist_ok=True)
    spec = config.spec
    fault: Exception | None = None
    try:
        async with (
            _held_journal(config) as store,
            IndexStore.open(
                config.data_directory / INDEX_FILE, spec.hash, window_heights=spec.deduplication_heights
            ) as index,
            open_transport(_transport_config(config), keys.tls, Random(int.from_bytes(keys.tls.peer))) as transport,
            trio.open_nursery() as nursery,
        ):
            node = await _run(_parts(config, genesis, keys, store, index, transport), nursery)
            try:
                yield node
            except Exception as error:  # raised again below, whatever it is
                fault = error
            nursery.cancel_scope.cancel()
    finally:
        if fault is not None:
            raise fault  # as it was raised in the block, not in the groups that the nurseries would make of it


@asynccontextmanager
async def _held_journal(config: Config) -> AsyncIterator[ChainStore]:
    async with ChainStore.open(config.data_directory / CHAIN_FILE, config.spec.hash) as store:
        config.check_keys()  # nothing was signed yet, and nobody can move the keys from here on
        yield store


async def _run(parts: _Parts, nursery: trio.Nursery) -> Node:
    config, genesis, store, transport = parts.config, parts.genesis, parts.store, parts.transport
    ledger, window, driver, signer = parts.ledger, parts.window, parts.driver, parts.signer
    await _learn_epochs(store, genesis)
    await parts.evidence.load()
    await ledger.restore()
    parts.membership.restore(await store.epoch_changes())
    if isinstance(signer, RemoteSigner):
        nursery.start_soon(signer.run)
    nursery.start_soon(ledger.run)
    nursery.start_soon(_take_forwarded, transport, parts.forwarder)
    nursery.start_soon(_take_evidence, transport, parts.exchange)
    nursery.start_soon(parts.forwarder.run)
    nursery.start_soon(_follow_members, window, parts.membership, store, genesis)
    if config.trust is not None:
        joins = ledger.height < config.trust.checkpoint.height
        nursery.start_soon(partial(_judge_trusted, config.trust, ledger, window, joins=joins))
    if config.prune_keep_heights:
        window_heights = config.spec.deduplication_heights
        nursery.start_soon(_prune, store, parts.index, config.prune_keep_heights, window_heights)
    await nursery.start(partial(driver.run, ledger_height=ledger.height))
    for feed in parts.feeds:
        await nursery.start(feed.host.run)
        nursery.start_soon(feed.run)
    return Node(parts)


def _parts(
    config: Config, genesis: Genesis, keys: NodeKeys, store: ChainStore, index: IndexStore, transport: TlsTransport
) -> _Parts:
    spec, clock = config.spec, TrioClock()
    window = CommittedWindow(spec.deduplication_heights)
    registries = None
    if spec.reconfiguration is not None:
        registries = Registries(Registry.first(spec, genesis.scheme), spec.deduplication_heights)
    mempool = Mempool(spec, window, config.mempool, registries)
    cache = PayloadCache()
    evidence = EvidenceStore(config.data_directory / EVIDENCE_DIRECTORY, genesis, store.epoch_changes)
    exchange = EvidenceExchange(evidence, EvidenceChannel(transport), genesis)
    ledger = Ledger(
        blocks=store,
        index=LedgerIndex(index),
        window=window,
        mempool=mempool,
        cache=cache,
        report_evidence=exchange.reported,
        checkpoint_interval=spec.checkpoint_interval,
        registries=registries,
    )
    replica = _replica(genesis, keys.public_keys, cache, config.trust)
    payloads = InlinePayloadSource(
        spec,
        mempool=mempool,
        window=window,
        cache=cache,
        clock=clock,
        wall_clock_ms=_wall_clock_ms,
        check_link=replica.check_link if spec.checkpoint_interval else None,
        registries=registries,
    )
    signer = _signer(config, keys)
    driver = _driver(genesis, replica, store, transport, signer, payloads, ledger, clock)
    membership = _membership(config, keys, transport, ledger)
    channel = TransactionChannel(transport, lambda: membership.joining)
    forwarder = Forwarder(mempool, window, channel, observes=lambda: membership.own is None)
    return _Parts(
        config=config,
        genesis=genesis,
        keys=keys,
        store=store,
        index=index,
        transport=transport,
        mempool=mempool,
        ledger=ledger,
        driver=driver,
        forwarder=forwarder,
        feeds=tuple(_feed(config, rollup, ledger) for rollup in config.rollups),
        evidence=evidence,
        exchange=exchange,
        window=window,
        signer=signer,
        membership=membership,
    )


def _membership(config: Config, keys: NodeKeys, transport: TlsTransport, ledger: Ledger) -> Membership:
    return Membership(
        spec=config.spec,
        own_peer=keys.tls.peer,
        own_keys=keys.public_keys,
        own_address=_own_address(config),
        configured=config.network.peers,
        transport=transport,
        registry=lambda: ledger.registry,
        height=lambda: ledger.height,
    )


def _signer(config: Config, keys: NodeKeys) -> LocalSigner | RemoteSigner | None:
    if config.signer is not None:
        return RemoteSigner(config.signer, keys.tls, config.spec, Random(int.from_bytes(keys.tls.peer)))
    return LocalSigner([key.secret_key for key in keys.consensus]) if keys.consensus else None


async def _judge_trusted(trust: TrustConfig, ledger: Ledger, window: CommittedWindow, *, joins: bool) -> None:
    """Once this node holds the trusted checkpoint: whether it is that one, and, for a node that started below it, young
    enough. Raises :class:`UntrustedChain`."""
    height = trust.checkpoint.height
    await window.reached(height)
    try:
        block, _, _ = await ledger.block(height)
    except HeightUnavailable:
        return  # pruned: it was judged when it came
    if block.id != trust.checkpoint.id:
        raise UntrustedChain(
            f"this node holds {block.id.hex()} at height {height}, where trust.checkpoint is "
            f"{trust.checkpoint.id.hex()}. Correct that, or start anew in an empty directory"
        )
    refusal = trust.ages.check_start(block.header.timestamp_ms, _wall_clock_ms()) if joins else None
    if refusal is not None:
        raise UntrustedChain(refusal.reason)


def _replica(genesis: Genesis, own_keys: Sequence[bytes], cache: PayloadCache, trust: TrustConfig | None) -> Replica:
    return Replica(
        engine=genesis.protocol.engine,
        spec=genesis.spec,
        scheme=genesis.scheme,
        epoch=genesis.epoch,
        own_keys=own_keys,
        link_certificates=cache.link_certificates,
        trusted=None if trust is None else trust.checkpoint,
        offences=genesis.protocol,
    )


def _driver(
    genesis: Genesis,
    replica: Replica,
    store: ChainStore,
    transport: Transport,
    signer: Signer | None,
    payloads: InlinePayloadSource,
    ledger: Ledger,
    clock: Clock,
) -> Driver:
    return Driver(
        replica=replica,
        protocol=genesis.protocol,
        journal=store,
        archive=store,
        transport=transport,
        signer=signer,
        payloads=payloads,
        sink=ledger,
        clock=clock,
    )


def _feed(config: Config, rollup: RollupConfig, ledger: Ledger) -> AdapterFeed:
    directory = config.data_directory / "rollups" / str(rollup.id)
    spec = AdapterSpec(adapter=rollup.adapter, rollup_id=rollup.id, directory=directory, settings=rollup.settings)
    return AdapterFeed(rollup.id, rollup.adapter, AdapterHost(spec), ledger)


def _transport_config(config: Config) -> TransportConfig:
    return TransportConfig(
        chain_id=config.spec.chain_id,
        genesis_hash=config.spec.hash,
        validators=frozenset(validator.peer for validator in config.spec.validators),
        peers=config.network.peers,
        observers=config.network.observers,
        listen=config.network.listen,
        channels=(TRANSACTIONS, EVIDENCE),
    )


def _own_address(config: Config) -> Address | None:
    """Where others may find this node, as far as its configuration says."""
    listen = config.network.listen
    return None if listen is None or listen[0] in WILDCARDS or not listen[1] else listen


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


async def _follow_members(window: CommittedWindow, membership: Membership, store: ChainStore, genesis: Genesis) -> None:
    while True:
        await window.reached(window.height + 1)
        membership.update()
        if membership.epoch > genesis.history.newest.epoch:
            await _learn_epochs(store, genesis)  # of the last one, when its first block is committed


async def _learn_epochs(store: ChainStore, genesis: Genesis) -> None:
    """Make what this node verifies with, and gives to its embedder, know the epochs that the journal knows."""
    fault = genesis.follow(await store.epoch_changes(genesis.history.newest.epoch + 1))
    if fault is not None:
        raise RuntimeError(f"the journal's changes of epochs do not verify: {fault}")


async def _take_forwarded(transport: TlsTransport, forwarder: Forwarder) -> None:
    while True:
        frame = await transport.receive_on(TRANSACTIONS)
        fault = forwarder.received(frame.data)
        if fault is not None:
            transport.reject(frame.peer, fault)


async def _take_evidence(transport: TlsTransport, exchange: EvidenceExchange) -> None:
    while True:
        frame = await transport.receive_on(EVIDENCE)
        fault = await exchange.received(frame.data)
        if fault is not None:
            transport.reject(frame.peer, fault)


async def _prune(store: ChainStore, index: IndexStore, keep_heights: int, window_heights: int) -> None:
    while True:
        await trio.sleep(PRUNE_INTERVAL_S)
        pruned_below = await store.prune(keep_heights, ledger_height=index.height)
        await index.prune(min(pruned_below, max(0, index.height - window_heights) + 1))
