"""The ledger: committed blocks become one stream per rollup, with proofs, positions and waiting clients.

In memory first, on the disk soon after: a block that is handed over is durable in the journal already, so clients are
told at once, and the next blocks are built and judged against it at once. The index of transactions follows in batches,
written by :meth:`Ledger.run`. What a crash cuts off there is read again from the block store by
:meth:`Ledger.restore`.

Followers pull. A live one reads the recent blocks in memory, one that is behind reads the store; none of them holds
anything back.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import trio

from consensus.codec import Malformed
from consensus.engine import Commit, Finalize, ReportEvidence
from consensus.finality.proof import FinalityProof
from consensus.finality.types import LinkCertificate
from consensus.genesis import SYSTEM_ROLLUP
from consensus.reconfiguration import ChangeOutcome
from consensus.registry import Registry
from consensus.types import PATH_LENGTH_MAX, Block, BlockHeader, CommitProof, Height
from sequencer.body import Payload, PayloadCache, decode_payload
from sequencer.mempool import Mempool
from sequencer.merkle import InclusionProof
from sequencer.receipts import Receipt, Section
from sequencer.registries import Registries, SavedRegistry, outcomes_of
from sequencer.transactions import Level, Position, TransactionId, TransactionStatus
from sequencer.window import CommittedBlock, CommittedWindow

RECENT_BYTES_MAX: Final = 64 * 1024 * 1024
RECENT_BLOCKS_MAX: Final = 1024
UNINDEXED_TRANSACTIONS_MAX: Final = 262_144
"""With this many transactions waiting for the index, taking more blocks waits too."""
INDEX_DELAY_S: Final = 0.02
WAITERS_MAX: Final = 65_536
"""Distinct transactions that somebody waits for."""
LINKS_READ_MAX: Final = 64
"""Certificates above a block among which the one that finalizes it is looked for."""
READ_BLOCKS_MAX: Final = 64
READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""What one read of the store brings."""


class BlockStore(Protocol):
    """Committed blocks on the disk; ``storage.ChainStore``."""

    @property
    def committed_height(self) -> Height: ...

    @property
    def pruned_below(self) -> Height: ...

    async def blocks_from(
        self, height: Height, *, limit: int, bytes_max: int
    ) -> Sequence[tuple[Block, bytes | memoryview]]:
        """Committed blocks, oldest first, from exactly ``height`` on; empty when it is pruned or not committed."""
        ...

    async def proof_for(self, height: Height) -> CommitProof | None: ...

    async def links_above(self, height: Height, count: int) -> Sequence[LinkCertificate]:
        """Finality certificates, by ascending targets."""
        ...

    async def headers_between(self, low: Height, high: Height) -> Sequence[BlockHeader]:
        """The committed headers of these heights, both included; empty when one is missing."""
        ...


class IndexedBlock(NamedTuple):
    """What the index keeps of a block: of each section, the rollup and the ids in order; and what it changed in the
    registry of validators."""

    height: Height
    sections: tuple[tuple[int, tuple[TransactionId, ...]], ...]
    saved: SavedRegistry = SavedRegistry(b"", b"")


class IndexStore(Protocol):
    """Transaction ids and their positions on the disk. Derived data: it may be behind the block store."""

    @property
    def height(self) -> Height:
        """Everything up to this height is durable in the index; 0 at first."""
        ...

    async def append(self, blocks: Sequence[IndexedBlock]) -> None:
        """Take the blocks after :attr:`height`, ascending, all or none."""
        ...

    async def registry(self) -> bytes:
        """The last registry that a block saved, up to :attr:`height`; empty where none did."""
        ...

    async def outcomes(self, height: Height) -> bytes:
        """The outcomes that the block at ``height`` saved; empty where it did not."""
        ...

    async def lookup(self, transaction_id: TransactionId) -> Position | None:
        """The latest position of a transaction."""
        ...


class HeightUnavailable(Exception):
    """A height that this node cannot show: pruned (below ``pruned_below``), or not committed yet."""

    def __init__(self, height: Height, pruned_below: Height, reason: str) -> None:
        super().__init__(f"height {height} is not available here: {reason}")
        self.height = height
        self.pruned_below = pruned_below


class OlderCopy(Exception):
    """The journal is older than what was derived from it. The message says what to do."""


class NoCheckpoints(Exception):
    """Finality was asked for on a chain that runs without it."""


class TransactionExpired(Exception):
    """A transaction that was waited for can no longer be ordered. Submit it anew with a later expiry."""

    def __init__(self, transaction_id: TransactionId) -> None:
        super().__init__(f"transaction {transaction_id.hex()} expired before it was ordered")
        self.transaction_id = transaction_id


class TooManyWaiters(Exception):
    """:data:`WAITERS_MAX` transactions are waited for already. Ask for the status now and then instead."""


class _Recent:
    """A block that is still in memory, and the sections that followers have asked for."""

    __slots__ = ("block", "payload", "proof", "sections")

    def __init__(self, block: Block, payload: Payload, proof: CommitProof | None) -> None:
        self.block = block
        self.payload = payload
        self.proof = proof
        self.sections: dict[int, Section] = {}


class _Waiter:
    """Those who wait for one transaction."""

    __slots__ = ("answered", "count", "position")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.position: Position | None = None
        self.count = 0


class Ledger:
    """Implements ``CommitSink``. Window, mempool and cache are shared with the payload source; ``report_evidence`` is
    what keeps proofs of guilt."""

    def __init__(
        self,
        *,
        blocks: BlockStore,
        index: IndexStore,
        window: CommittedWindow,
        mempool: Mempool,
        cache: PayloadCache,
        report_evidence: Callable[[ReportEvidence], Awaitable[None]],
        checkpoint_interval: Height = 0,
        registries: Registries | None = None,
    ) -> None:
        self._blocks = blocks
        self._registries = registries
        self._checkpoint_interval = checkpoint_interval
        self._final_height: Height = 0
        self._finalized = trio.lowlevel.ParkingLot()
        self._index = index
        self._window = window
        self._mempool = mempool
        self._cache = cache
        self._report_evidence = report_evidence
        self._recent: OrderedDict[Height, _Recent] = OrderedDict()
        self._recent_bytes = 0
        self._unindexed: OrderedDict[Height, IndexedBlock] = OrderedDict()
        self._unindexed_transactions = 0
        self._to_index = trio.lowlevel.ParkingLot()
        self._indexed = trio.lowlevel.ParkingLot()
        self._waiters: dict[TransactionId, _Waiter] = {}

    @property
    def height(self) -> Height:
        """The last committed height that was taken."""
        return self._window.height

    @property
    def registry(self) -> Registry | None:
        """Who validates, after the last block that was taken; None on a chain whose validators never change."""
        return None if self._registries is None else self._registries.latest

    @property
    def final_height(self) -> Height:
        """The last height that is final; 0 before the first, and on a chain without checkpoints."""
        return self._final_height

    # --- taking blocks -------------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Before anything else: fill the window from the block store, and take what the index does not have yet.

        Raises :class:`HeightUnavailable` when blocks that this needs are pruned, :class:`OlderCopy` for an index that
        is ahead of the blocks, and ``ValueError`` for one whose registry of validators cannot be read."""
        indexed = self._index.height
        if indexed > self._blocks.committed_height:
            raise OlderCopy(
                f"the transaction index stands at height {indexed}, the journal at {self._blocks.committed_height}: "
                "this is an older copy of the journal. A validator must never run on one, it could sign twice: put the "
                "newest back, or make a new validator. An observer may delete both files; it starts anew from its peers"
            )
        if self._registries is not None:
            self._registries.restore(indexed, await self._index.registry())
        height = max(1, indexed - self._window.heights_max + 1)
        while height <= self._blocks.committed_height:
            for block, body in await self._read(height):
                payload = self._decode(block, body)
                if height <= indexed:
                    self._window.advance(_committed(block, payload))
                else:
                    self._take(block, payload, None)
                height += 1
            await self._flush()

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Take committed blocks, ascending; those taken before are ignored. Waits only while the index is far
        behind. Raises ``ValueError`` for a gap and for a body that is not the header's: both are bugs here."""
        for commit in commits:
            height = commit.block.header.height
            if height <= self.height:
                continue
            if height != self.height + 1:
                raise ValueError(f"committed height {height} after {self.height}: heights leave no gap")
            while not self._has_room():
                await self._indexed.park()
            self._take(commit.block, self._decode(commit.block, commit.body), commit.proof)

    async def finalize(self, final: Finalize) -> None:
        """Take that a checkpoint is final, which the journal holds the proof of."""
        self._final_height = max(self._final_height, final.checkpoint.height)
        self._finalized.unpark_all()

    async def report(self, evidence: ReportEvidence) -> None:
        """Hand on a proof of guilt."""
        await self._report_evidence(evidence)

    async def run(self) -> None:
        """Write the index, for as long as the node runs. An exception of the index is let through."""
        while True:
            while not self._unindexed:
                await self._to_index.park()
            await trio.sleep(INDEX_DELAY_S)  # the blocks of a moment share one write
            await self._flush()

    def _has_room(self) -> bool:
        """What leaves the window must be in the index by then, so it lags by fewer heights than the window has."""
        return (
            self._unindexed_transactions < UNINDEXED_TRANSACTIONS_MAX
            and len(self._unindexed) < self._window.heights_max
        )

    async def _flush(self) -> None:
        batch = list(self._unindexed.values())
        if not batch:
            return
        await self._index.append(batch)
        for block in batch:
            del self._unindexed[block.height]
            self._unindexed_transactions -= sum(len(ids) for _, ids in block.sections)
        self._indexed.unpark_all()

    def _decode(self, block: Block, body: bytes | memoryview) -> Payload:
        payload = self._cache.decode(block.header.payload_root, body)
        if isinstance(payload, Malformed) or payload.root != block.header.payload_root:
            raise ValueError(f"the body of committed {block} is not the one that its header names")
        return payload

    def _take(self, block: Block, payload: Payload, proof: CommitProof | None) -> None:
        height = block.header.height
        # Before the window: who waits for the height finds the registry after it.
        saved = SavedRegistry(b"", b"") if self._registries is None else self._registries.take(block, payload)
        self._window.advance(_committed(block, payload))
        expired = self._mempool.committed(height, payload.sections)
        self._remember(_Recent(block, payload, proof))
        sections = tuple((section.rollup_id, section.ids) for section in payload.sections)
        self._unindexed[height] = IndexedBlock(height, sections, saved)
        self._unindexed_transactions += len(payload.positions)
        self._to_index.unpark_all()
        self._answer(height, payload, expired)

    def _remember(self, recent: _Recent) -> None:
        self._recent[recent.block.header.height] = recent
        self._recent_bytes += recent.payload.memory_bytes
        while len(self._recent) > RECENT_BLOCKS_MAX or (
            self._recent_bytes > RECENT_BYTES_MAX and len(self._recent) > 1
        ):
            _, dropped = self._recent.popitem(last=False)
            self._recent_bytes -= dropped.payload.memory_bytes

    # --- waiting -------------------------------------------------------------------------------------------------

    def _answer(self, height: Height, payload: Payload, expired: Sequence[TransactionId]) -> None:
        waiters, positions = self._waiters, payload.positions
        if not waiters:
            return
        smaller = waiters if len(waiters) < len(positions) else positions
        for transaction_id in [each for each in smaller if each in waiters and each in positions]:
            waiter = waiters.pop(transaction_id)
            waiter.position = _position_in(payload, height, transaction_id)
            waiter.answered.set()
        for transaction_id in expired:
            if transaction_id in waiters:
                waiters.pop(transaction_id).answered.set()

    async def wait_for(self, transaction_id: TransactionId) -> Position:
        """Where the transaction is ordered, once it is confirmed. Waits for ever for one that never is: bound it with
        a cancel scope.

        Raises :class:`TransactionExpired` when it expires in this node's mempool, and :class:`TooManyWaiters`.
        """
        waiter = self._waiters.get(transaction_id)
        if waiter is None:
            if len(self._waiters) >= WAITERS_MAX:
                raise TooManyWaiters(f"{WAITERS_MAX} transactions are waited for already; ask for the status instead")
            waiter = self._waiters[transaction_id] = _Waiter()
        waiter.count += 1
        try:
            # What is pending here was not ordered within K heights, so the index need not be asked.
            if not self._mempool.is_pending(transaction_id):
                position = await self.position_of(transaction_id)
                if position is not None:
                    return position
                if self._mempool.has_expired(transaction_id):
                    raise TransactionExpired(transaction_id)
            await waiter.answered.wait()
        finally:
            waiter.count -= 1
            if not waiter.count and self._waiters.get(transaction_id) is waiter:
                del self._waiters[transaction_id]
        if waiter.position is None:
            raise TransactionExpired(transaction_id)
        return waiter.position

    async def final(self, height: Height) -> None:
        """Return once ``height`` is final. Raises :class:`NoCheckpoints` where that never comes."""
        if not self._checkpoint_interval:
            raise NoCheckpoints("this chain has no checkpoints (checkpoint_interval is 0): nothing is ever final")
        while self._final_height < height:
            await self._finalized.park()

    # --- reading -------------------------------------------------------------------------------------------------

    async def position_of(self, transaction_id: TransactionId) -> Position | None:
        """Where a transaction was ordered last; None when it was not."""
        height = self._window.ordered_at(transaction_id)
        if height is not None:
            recent = self._recent.get(height)
            if recent is not None:
                return _position_in(recent.payload, height, transaction_id)
            unindexed = self._unindexed.get(height)
            if unindexed is not None:
                for rollup_id, ids in unindexed.sections:
                    if transaction_id in ids:
                        return Position(rollup_id=rollup_id, height=height, index=ids.index(transaction_id))
        return await self._index.lookup(transaction_id)

    async def change_outcome(self, position: Position) -> ChangeOutcome | None:
        """What became of a change of the validators that stands at ``position``; None for a position that has none, and
        for one that is pruned here."""
        if position.rollup_id != SYSTEM_ROLLUP or position.height > self.height:
            return None
        unindexed = self._unindexed.get(position.height)
        saved = await self._index.outcomes(position.height) if unindexed is None else unindexed.saved.outcomes
        outcomes = outcomes_of(saved)
        return outcomes[position.index] if position.index < len(outcomes) else None

    async def status(self, transaction_id: TransactionId) -> TransactionStatus:
        """The transaction's rung on the ladder, as this node knows it."""
        position = await self.position_of(transaction_id)
        if position is not None:
            return TransactionStatus(level=self.level_at(position.height), position=position)
        if self._mempool.is_pending(transaction_id):
            return TransactionStatus(level=Level.PENDING)
        if self._mempool.has_expired(transaction_id):
            return TransactionStatus(level=Level.EXPIRED)
        return TransactionStatus(level=Level.UNKNOWN)

    def level_at(self, height: Height) -> Level:
        """The rung of what a committed block ordered."""
        return Level.FINAL if height <= self._final_height else Level.CONFIRMED

    async def finality(self, height: Height) -> FinalityProof | None:
        """The proof that a committed block is final: None when it is not, or its headers are pruned or too many."""
        interval = self._checkpoint_interval
        if not interval or height > self._final_height:
            return None
        low = -(-height // interval) * interval
        links = {
            (each.source.height, each.target.height): each
            for each in await self._blocks.links_above(height, LINKS_READ_MAX)
        }
        for source in sorted({source for source, _ in links if low <= source <= self._final_height}):
            certificates = _finalizing(links, source, interval)
            if certificates:
                headers = await self._headers(height + 1, certificates[0].target.height)
                return FinalityProof(headers=headers, certificates=certificates) if headers else None
        return None

    async def _headers(self, low: Height, high: Height) -> tuple[BlockHeader, ...]:
        if high - low + 1 > PATH_LENGTH_MAX:
            return ()
        return tuple(await self._blocks.headers_between(low, high))

    async def receipt(self, transaction_id: TransactionId, *, level: Level = Level.CONFIRMED) -> Receipt | None:
        """The proof that a transaction was ordered; with ``level`` ``FINAL`` also that it is final, where it is (that
        part is larger: a header for each block up to two checkpoints on). None when it was not ordered. Raises
        :class:`HeightUnavailable`."""
        position = await self.position_of(transaction_id)
        if position is None:
            return None
        block, payload, proof = await self.block(position.height)
        located = payload.locate(transaction_id)
        if located is None:
            raise ValueError(f"the index has transaction {transaction_id.hex()} in {block}, which does not hold it")
        if proof is None:
            raise self._unavailable(position.height)
        section, index = located
        path = payload.tree.proof(section.rollup_id)
        return Receipt(
            transaction_id=transaction_id,
            rollup_id=section.rollup_id,
            inclusion=InclusionProof(index=index, siblings=section.tree.path(index), section=path),
            header=block.header,
            commit_proof=proof,
            finality=await self.finality(position.height) if level is Level.FINAL else None,
        )

    async def section(self, rollup_id: int, height: Height) -> Section:
        """All that a committed block ordered for one rollup, possibly nothing, with proofs. Raises
        :class:`HeightUnavailable`."""
        recent = self._recent.get(height)
        if recent is None:
            return _section_of(rollup_id, *await self.block(height))
        section = recent.sections.get(rollup_id)
        if section is None:
            section = recent.sections[rollup_id] = _section_of(rollup_id, *await self.block(height))
        return section

    def follow(self, rollup_id: int, from_height: Height) -> Follower:
        """The rollup's section of every height from ``from_height`` on, the empty ones too, for ever."""
        return Follower(self, rollup_id, from_height)

    async def sections(self, rollup_id: int, from_height: Height) -> Sequence[Section]:
        """At least one section, once ``from_height`` is committed: a few at a time out of the store, else one. Raises
        :class:`HeightUnavailable` when it is pruned."""
        await self._window.reached(from_height)
        if from_height in self._recent:
            return (await self.section(rollup_id, from_height),)
        sections = []
        for block, body in await self._read(from_height):
            height = block.header.height
            if height > self.height:
                break
            sections.append(
                _section_of(rollup_id, block, _historical(block, body), await self._blocks.proof_for(height))
            )
        return sections

    async def block(self, height: Height) -> tuple[Block, Payload, CommitProof | None]:
        """A committed block, what it carries, and the proof that it is committed (None when its proof is further away
        than one may be long). Raises :class:`HeightUnavailable`."""
        recent = self._recent.get(height)
        if recent is None:
            if height > self.height:
                raise self._unavailable(height)
            block, body = (await self._read(height, limit=1))[0]
            return block, _historical(block, body), await self._blocks.proof_for(height)
        if recent.proof is None:
            # Of several blocks committed at once only the last came with a proof; the store extends it.
            recent.proof = await self._blocks.proof_for(height)
        return recent.block, recent.payload, recent.proof

    async def _read(
        self, height: Height, *, limit: int = READ_BLOCKS_MAX
    ) -> Sequence[tuple[Block, bytes | memoryview]]:
        """At least one block."""
        rows = await self._blocks.blocks_from(height, limit=limit, bytes_max=READ_BYTES_MAX)
        if not rows:
            raise self._unavailable(height)
        return rows

    def _unavailable(self, height: Height) -> HeightUnavailable:
        pruned_below = self._blocks.pruned_below
        if height < pruned_below:
            reason = f"pruned below {pruned_below}. Ask a node that keeps more"
        elif height > self.height:
            reason = f"the last committed height is {self.height}. Wait for it"
        else:
            reason = "its commit proof is further away than a proof may be long. Ask another node"
        return HeightUnavailable(height, pruned_below, reason)


class Follower:
    """An endless asynchronous iterator over one rollup's sections, height by height. Each next one is looked up when it
    is asked for, so a follower may be as slow as it likes; see :meth:`Ledger.follow`."""

    __slots__ = ("_ahead", "_ledger", "next_height", "rollup_id")

    def __init__(self, ledger: Ledger, rollup_id: int, from_height: Height) -> None:
        self._ledger = ledger
        self._ahead: deque[Section] = deque()
        self.rollup_id = rollup_id
        self.next_height = max(1, from_height)

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Section:
        """Raises :class:`HeightUnavailable` when the next height is pruned."""
        if not self._ahead:
            self._ahead.extend(await self._ledger.sections(self.rollup_id, self.next_height))
        section = self._ahead.popleft()
        self.next_height = section.height + 1
        return section


def _committed(block: Block, payload: Payload) -> CommittedBlock:
    header = block.header
    return CommittedBlock(header.height, block.id, header.timestamp_ms, tuple(payload.positions))


def _position_in(payload: Payload, height: Height, transaction_id: TransactionId) -> Position | None:
    located = payload.locate(transaction_id)
    if located is None:
        return None
    section, index = located
    return Position(rollup_id=section.rollup_id, height=height, index=index)


def _finalizing(
    links: Mapping[tuple[Height, Height], LinkCertificate], source: Height, interval: Height
) -> tuple[LinkCertificate, ...]:
    """The certificates that finalize a checkpoint, where they are here: one link to the next, or to the one after it
    and any that justifies the next."""
    following = source + interval
    one, two = links.get((source, following)), links.get((source, following + interval))
    if one is not None:
        return (one,)
    between = next((each for (_, target), each in links.items() if target == following), None)
    return () if two is None or between is None else (two, between)


def _historical(block: Block, body: bytes | memoryview) -> Payload:
    """The payload of an old block, past the cache: history must not push out what consensus is about to need."""
    payload = decode_payload(body)
    if isinstance(payload, Malformed) or payload.root != block.header.payload_root:
        raise ValueError(f"the stored body of {block} is not the one that its header names: the block store is damaged")
    return payload


def _section_of(rollup_id: int, block: Block, payload: Payload, proof: CommitProof | None) -> Section:
    section = payload.section(rollup_id)
    return Section(
        rollup_id=rollup_id,
        header=block.header,
        valid_untils=() if section is None else section.valid_untils,
        transactions=() if section is None else section.transactions,
        proof=payload.tree.proof(rollup_id),
        commit_proof=proof,
    )
