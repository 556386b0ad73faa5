"""A node without consensus and disk: the real mempool and ledger, and blocks that three of four real keys certify."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import msgspec
import trio

from consensus.crypto.ed25519 import Ed25519
from consensus.engine import Commit, Finalize, ReportEvidence, Status
from consensus.epochs import EpochChange
from consensus.finality.proof import FinalityProof
from consensus.finality.types import Checkpoint, FfgVoteSubject, LinkCertificate, LinkGroup
from consensus.genesis import ChainSpec
from consensus.reconfiguration import ChangeOutcome
from consensus.types import (
    INTEGER_MAX,
    Block,
    BlockHeader,
    Certificate,
    CommitProof,
    Epoch,
    Height,
    bitmap_of,
    certificate_subject,
)
from consensus.validators import Validator
from rollup_adapters.base import Accepted, Admission, JsonValue, QueryError, Rejected
from sequencer.api.limits import ApiLimits
from sequencer.api.node_view import Adapter
from sequencer.api.server import serve_api
from sequencer.block_summary import BlockSummary
from sequencer.body import EMPTY_PAYLOAD, Payload, PayloadCache, assemble_payload
from sequencer.config import ApiConfig
from sequencer.genesis import Genesis, genesis_of
from sequencer.ledger import IndexedBlock, Ledger
from sequencer.membership import PendingChange, ValidatorEntry, ValidatorsView
from sequencer.mempool import Mempool, MempoolLimits, Submission
from sequencer.receipts import Receipt, Section
from sequencer.signer.remote import SignerState
from sequencer.transactions import Level, Position, TransactionId, TransactionStatus
from sequencer.transport import PeerState, TransportState
from sequencer.window import CommittedWindow
from tests.sequencer.chains import block

SCHEME = Ed25519()
KEYS = tuple(SCHEME.generate(bytes([seed]) * 32) for seed in range(4))
CHECKPOINT_INTERVAL = 2
ROLLUPS = (3, 7, 2**64 - 3)


def chain_spec(chain_id: str = "test") -> ChainSpec:
    """A chain of four validators and three rollups."""
    validators = tuple(
        Validator(
            name=f"validator-{number}",
            stake=1,
            public_key=key.public_key,
            possession_proof=key.prove_possession(),
            peer=bytes([number]) * 32,
        )
        for number, key in enumerate(KEYS)
    )
    return ChainSpec(
        chain_id=chain_id,
        genesis_time_ms=1_000,
        protocol="jolteon",
        scheme="ed25519",
        validators=validators,
        rollups=ROLLUPS,
        transaction_size_max=4096,
        deduplication_heights=8,
        checkpoint_interval=CHECKPOINT_INTERVAL,
    )


@dataclass(frozen=True)
class FakeDelivered:
    """See ``sequencer.delivery.Delivered``."""

    height: Height = 0
    state_commitment: bytes = b""


@dataclass(frozen=True)
class FakeAdapterStatus:
    """See ``node_view.AdapterStatus``."""

    rollup_id: int
    adapter: str
    alive: bool = True
    restarts: int = 0
    delivered: FakeDelivered = FakeDelivered()


@dataclass(frozen=True, kw_only=True)
class FakeStatus:
    """See ``node_view.NodeStatus``."""

    consensus: Status
    role: Literal["validator", "observer"]
    validators: ValidatorsView
    held_keys: tuple[bytes, ...]
    ledger_height: Height
    final_height: Height
    archive_from: Height
    pruned_below: Height | None
    mempool: tuple[tuple[int, int, int], ...]
    transport: TransportState
    adapters: tuple[FakeAdapterStatus, ...]
    evidence: int
    signer: SignerState | None = None
    trusted_height: Height = 0


@dataclass
class FakeAdapter:
    """An adapter that rejects what begins with ``bad``; ``hang`` keeps it from answering."""

    alive: bool = True
    hang: bool = False
    checks: int = 0
    answers: dict[str, JsonValue] = field(default_factory=dict)

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        self.checks += 1
        if self.hang:
            await trio.sleep_forever()
        return [Rejected(reason="it is bad") if each.startswith(b"bad") else Accepted() for each in transactions]

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        if method not in self.answers:
            raise QueryError(-32601, f"no method {method}")
        return self.answers[method]


class MemoryBlocks:
    """The ledger's block store."""

    def __init__(self) -> None:
        self.rows: list[tuple[Block, bytes]] = []
        self.proofs: list[CommitProof] = []
        self.links: list[LinkCertificate] = []
        self.pruned_below: Height = 1

    @property
    def committed_height(self) -> Height:
        return len(self.rows)

    async def blocks_from(self, height: Height, *, limit: int, bytes_max: int) -> Sequence[tuple[Block, bytes]]:
        await trio.lowlevel.checkpoint()
        return () if height < self.pruned_below else tuple(self.rows[height - 1 : height - 1 + limit])

    async def proof_for(self, height: Height) -> CommitProof | None:
        await trio.lowlevel.checkpoint()
        return self.proofs[height - 1] if self.pruned_below <= height <= len(self.rows) else None

    async def links_above(self, height: Height, count: int) -> Sequence[LinkCertificate]:
        return [link for link in self.links if link.target.height > height][:count]

    async def headers_between(self, low: Height, high: Height) -> Sequence[BlockHeader]:
        return [block.header for block, _ in self.rows[low - 1 : high]]


class MemoryIndex:
    """The ledger's index."""

    def __init__(self) -> None:
        self.height: Height = 0
        self.positions: dict[TransactionId, Position] = {}

    async def append(self, blocks: Sequence[IndexedBlock]) -> None:
        await trio.lowlevel.checkpoint()
        for indexed in blocks:
            for rollup_id, ids in indexed.sections:
                for index, each in enumerate(ids):
                    self.positions[each] = Position(rollup_id=rollup_id, height=indexed.height, index=index)
            self.height = indexed.height

    async def registry(self) -> bytes:
        raise AssertionError("this chain's validators never change")

    async def outcomes(self, height: Height) -> bytes:
        raise AssertionError("this chain's validators never change")

    async def lookup(self, transaction_id: TransactionId) -> Position | None:
        await trio.lowlevel.checkpoint()
        return self.positions.get(transaction_id)


class FakeNode:
    """Implements ``NodeView``. Orders only when it is told to: ``order()``."""

    role: Literal["validator", "observer"] = "validator"

    def __init__(self, spec: ChainSpec | None = None, mempool: MempoolLimits | None = None) -> None:
        self.genesis: Genesis = genesis_of(chain_spec() if spec is None else spec)
        self.spec = self.genesis.spec
        self.name = "validator-0"
        self.store = MemoryBlocks()
        self.window = CommittedWindow(self.spec.deduplication_heights)
        self.mempool = Mempool(self.spec, self.window, mempool)
        self.ledger = Ledger(
            blocks=self.store,
            index=MemoryIndex(),
            window=self.window,
            mempool=self.mempool,
            cache=PayloadCache(),
            report_evidence=self._report,
            checkpoint_interval=self.spec.checkpoint_interval,
        )
        self.adapters: dict[int, Adapter] = {}
        self.delivered: dict[int, FakeDelivered] = {}
        self.connected = 3
        self.seen_ahead = 0
        self.pruned_below: Height | None = None
        self.pending_changes: list[PendingChange] = []
        self.signer: SignerState | None = None
        self.changes: list[EpochChange] = []
        self.outcomes: dict[Position, ChangeOutcome] = {}

    async def _report(self, evidence: ReportEvidence) -> None:
        raise AssertionError(evidence)

    # --- making blocks -------------------------------------------------------------------------------------------

    def certificate(self, certified: Block) -> Certificate:
        """Three of four sign a vote."""
        header = certified.header
        unsigned = Certificate(
            kind="vote",
            epoch=0,
            view=header.view,
            block_id=certified.id,
            height=header.height,
            justify_view=header.justify.view,
            signers=bitmap_of((0, 1, 3)),
            signature=b"",
        )
        message = self.genesis.epoch.domain.bytes_to_sign(certificate_subject(unsigned))
        signature = SCHEME.aggregate([KEYS[signer].sign(message) for signer in (0, 1, 3)])
        assert signature is not None
        return msgspec.structs.replace(unsigned, signature=signature)

    def next_block(self, carried: Payload) -> tuple[Block, CommitProof]:
        """The next block, and an empty child in the next view whose certificate commits it."""
        rows, chain, genesis = self.store.rows, self.spec.hash, self.genesis.epoch.genesis
        justify = self.certificate(rows[-1][0]) if rows else genesis
        made = block(len(rows) + 1, carried, chain=chain, parent=justify.block_id, justify=justify)
        child = block(made.header.height + 1, chain=chain, parent=made.id, justify=self.certificate(made))
        return made, CommitProof(epoch=0, headers=(child.header,), certificate=self.certificate(child))

    def next_block_cheaply(self) -> Block:
        """An empty block that nothing proves."""
        return block(len(self.store.rows) + 1, chain=self.spec.hash)

    async def order(self, size_bytes_max: int | None = None) -> Height:
        """Commit a block with what is pending, possibly nothing; nothing if ``size_bytes_max`` is 0."""
        most = self.spec.payload_size_max if size_bytes_max is None else size_bytes_max
        chosen = self.mempool.select(height=self.ledger.height + 1, size_bytes_max=most, excluded=[])
        carried = assemble_payload(chosen) if chosen else EMPTY_PAYLOAD
        made, proof = self.next_block(carried)
        self.store.rows.append((made, carried.body))
        self.store.proofs.append(proof)
        await self.ledger.commit([Commit(block=made, body=memoryview(carried.body), proof=proof)])
        return made.header.height

    async def finalize(self, height: Height) -> None:
        """Three of four link the checkpoint at ``height`` to the next; both are ordered."""
        ends = [
            Checkpoint(height=at, id=self.store.rows[at - 1][0].id) for at in (height, height + CHECKPOINT_INTERVAL)
        ]
        source, target = ends
        message = self.genesis.epoch.domain.bytes_to_sign(FfgVoteSubject(epoch=0, source=source, target=target))
        signature = SCHEME.aggregate([KEYS[signer].sign(message) for signer in (0, 1, 3)])
        assert signature is not None
        group = LinkGroup(epoch=0, signers=bitmap_of((0, 1, 3)), signature=signature)
        self.store.links.append(LinkCertificate(source=source, target=target, groups=(group,)))
        await self.ledger.finalize(Finalize(checkpoint=source))

    async def order_forever(self) -> None:
        """Order whatever comes in, at once."""
        while True:
            await self.mempool.arrival()
            await self.order()

    # --- NodeView ------------------------------------------------------------------------------------------------

    def submit_batch(self, rollup_id: int, transactions: Sequence[tuple[Height, bytes]]) -> list[Submission]:
        return self.mempool.add_batch(rollup_id, transactions)

    async def status_of(self, transaction_id: TransactionId) -> TransactionStatus:
        return await self.ledger.status(transaction_id)

    async def wait(self, transaction_id: TransactionId, level: Level = Level.CONFIRMED) -> Receipt:
        position = await self.ledger.wait_for(transaction_id)
        if level is Level.FINAL:
            await self.ledger.final(position.height)
        receipt = await self.ledger.receipt(transaction_id, level=level)
        assert receipt is not None
        return receipt

    async def receipt(self, transaction_id: TransactionId, level: Level = Level.CONFIRMED) -> Receipt | None:
        return await self.ledger.receipt(transaction_id, level=level)

    async def finality(self, height: Height) -> FinalityProof | None:
        return await self.ledger.finality(height)

    async def final_above(self, height: Height) -> Height:
        await self.ledger.final(height + 1)
        return self.ledger.final_height

    async def section(self, rollup_id: int, height: Height) -> Section:
        return await self.ledger.section(rollup_id, height)

    def follow(self, rollup_id: int, from_height: Height) -> AbstractAsyncContextManager[AsyncIterator[Section]]:
        return self._follow(rollup_id, from_height)

    @asynccontextmanager
    async def _follow(self, rollup_id: int, from_height: Height) -> AsyncIterator[AsyncIterator[Section]]:
        yield self.ledger.follow(rollup_id, from_height)

    async def block(self, height: Height) -> BlockSummary:
        made, carried, proof = await self.ledger.block(height)
        return BlockSummary(header=made.header, sections=carried.leaves, commit_proof=proof)

    async def epoch_changes(self, from_epoch: Epoch = 1, limit: int = INTEGER_MAX) -> Sequence[EpochChange]:
        return [change for change in self.changes if change.epoch >= from_epoch][:limit]

    async def newest_epoch(self) -> Epoch:
        return max((change.epoch for change in self.changes), default=0)

    async def change_outcome(self, position: Position) -> ChangeOutcome | None:
        return self.outcomes.get(position)

    def adapter(self, rollup_id: int) -> Adapter | None:
        return self.adapters.get(rollup_id)

    def status(self) -> FakeStatus:
        height = self.ledger.height
        peers = tuple(
            PeerState(
                peer=validator.peer,
                role="validator",
                connected=number <= self.connected,
                connections=1,
                bytes_in=1_000 * number,
                bytes_out=2_000 * number,
                drops_out=0,
                drops_in=0,
                rejects=0,
                last_reason="" if number <= self.connected else "timed out",
                barred=False,
                round_trip_ns=400_000 * number if number <= self.connected else None,
            )
            for number, validator in enumerate(self.spec.validators)
            if number
        )
        return FakeStatus(
            consensus=Status(
                epoch=0,
                view=height + 2,
                leader=(height + 2) % 4,
                committed_height=height,
                committed_view=height,
                seen_height=height + self.seen_ahead,
                timeouts=1,
            ),
            role=self.role,
            validators=ValidatorsView(
                epoch=0,
                began_after=0,
                validators=tuple(
                    ValidatorEntry(validator=each, operator=each.name, address="") for each in self.spec.validators
                ),
                pending=tuple(self.pending_changes),
            ),
            held_keys=(KEYS[0].public_key,),
            ledger_height=height,
            final_height=self.ledger.final_height,
            archive_from=self.store.pruned_below,
            pruned_below=self.pruned_below,
            mempool=tuple((rollup_id, *self.mempool.pending(rollup_id)) for rollup_id in self.spec.rollups),
            transport=TransportState(
                peer=self.spec.validators[0].peer, role=self.role, port=26_600, refused=0, peers=peers
            ),
            adapters=tuple(
                FakeAdapterStatus(rollup_id, "fake", delivered=self.delivered.get(rollup_id, FakeDelivered()))
                for rollup_id in self.adapters
            ),
            evidence=0,
            signer=self.signer,
        )


@dataclass(frozen=True)
class Served:
    """A served fake node, and a client on it."""

    node: FakeNode
    port: int
    http: httpx.AsyncClient
    nursery: trio.Nursery

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self.port}"

    async def submit(self, data: bytes, rollup_id: int = 3, **query: Any) -> httpx.Response:
        """One raw transaction."""
        return await self.http.post(
            f"/v1/rollups/{rollup_id}/transactions",
            content=data,
            headers={"content-type": "application/octet-stream"},
            params=query,
        )


@asynccontextmanager
async def served(
    node: FakeNode | None = None,
    *,
    limits: ApiLimits | None = None,
    body_size_bytes_max: int = 1024 * 1024,
    index: bool = True,
) -> AsyncIterator[Served]:
    """A node (a new one unless given) behind the real server on a free port, until the block ends. ``index`` is False
    where another one writes the index of their common ledger."""
    node = node or FakeNode()
    config = ApiConfig(listen=("127.0.0.1", 0), body_size_bytes_max=body_size_bytes_max)
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[int]) -> None:
            await serve_api(node, config, limits=limits, task_status=task_status)

        if index:
            nursery.start_soon(node.ledger.run)
        port = await nursery.start(serve)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            yield Served(node, port, http, nursery)
        nursery.cancel_scope.cancel()
