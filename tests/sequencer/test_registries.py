"""Changes of the validators on their way through a node: admission, payloads, boundaries, the ledger, restarts.

The chain has four validators and epochs of 8 heights. One node builds and judges its own blocks and commits them, so
every block here was valid when it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from consensus import registry as registry_module
from consensus.codec import encode
from consensus.engine import BuildPayload, CheckPayload, Commit, EndEpoch, PayloadBuilt, PayloadVerdict, ReportEvidence
from consensus.genesis import SYSTEM_ROLLUP
from consensus.reconfiguration import (
    ByValidator,
    Change,
    ChangeAccepted,
    ChangeIgnored,
    RemoveValidator,
    SystemTransaction,
    approval_fault,
)
from consensus.registry import CHANGES_PER_BLOCK_MAX, OWN_REMEMBERED_MAX
from consensus.types import Block, Height
from consensus.validators import ValidatorSet
from sequencer import mempool as mempool_module
from sequencer import registries as registries_module
from sequencer.body import EMPTY_PAYLOAD, Payload, PayloadCache, decode_payload
from sequencer.forwarding import Forwarder
from sequencer.ledger import INDEX_DELAY_S, Ledger
from sequencer.mempool import NOT_LOOKED_AT, ChangeRefused, Full, Mempool, Ordered, Pending, UnknownRollup
from sequencer.payload import InlinePayloadSource
from sequencer.registries import Registries, next_validators_hash
from sequencer.transactions import Position, transaction_id
from sequencer.window import CommittedWindow
from tests.sequencer.chains import TrioClock, block, payload, wall_clock
from tests.sequencer.test_ledger import MemoryBlocks, MemoryIndex, proof_of
from tests.support.governed import Governed, governed

Path = Sequence[tuple[Block, bytes | memoryview]]
FIRST = ["validator-0", "validator-1", "validator-2", "validator-3"]


class World:
    """One node's sequencer. ``blocks`` and ``index`` outlive it, as disks do."""

    def __init__(self, chain: Governed, blocks: MemoryBlocks | None = None, index: MemoryIndex | None = None) -> None:
        self.chain = chain
        self.blocks, self.index = blocks or MemoryBlocks(), index or MemoryIndex()
        self.window = CommittedWindow(chain.spec.deduplication_heights)
        self.registries = Registries(chain.registry(), chain.spec.deduplication_heights)
        self.mempool = Mempool(chain.spec, self.window, registries=self.registries)
        cache = PayloadCache()
        self.ledger = Ledger(
            blocks=self.blocks,
            index=self.index,
            window=self.window,
            mempool=self.mempool,
            cache=cache,
            report_evidence=self._report,
            registries=self.registries,
        )
        self.source = InlinePayloadSource(
            chain.spec,
            mempool=self.mempool,
            window=self.window,
            cache=cache,
            clock=TrioClock(),
            wall_clock_ms=wall_clock(2_000),
            registries=self.registries,
        )

    async def _report(self, evidence: ReportEvidence) -> None:
        raise AssertionError(evidence)

    def submit(self, *changes: bytes) -> list[Any]:
        return self.mempool.add_batch(SYSTEM_ROLLUP, [(0, change) for change in changes])

    # --- blocks ----------------------------------------------------------------------------------------------

    def block_on(self, path: Path, carried: Payload = EMPTY_PAYLOAD, **changes: Any) -> Block:
        """A block with an honest header, but for ``changes``."""
        parent = path[-1][0] if path else (self.blocks.rows[-1][0] if self.blocks.rows else None)
        height = 1 if parent is None else parent.header.height + 1
        values: dict[str, Any] = {"timestamp_ms": 2_000, "epoch": self.registries.latest.epoch}
        if parent is not None:
            values |= {"parent": parent.id, "timestamp_ms": parent.header.timestamp_ms + 1}
        return block(height, carried, **(values | changes))

    async def build(self, path: Path = (), *, patience_s: float = 1.0) -> tuple[Block, bytes, PayloadBuilt]:
        """The block that a leader makes of what was built."""
        template = self.block_on(path)
        before = path[-1][0] if path else (self.blocks.rows[-1][0] if self.blocks.rows else None)
        built = await self.source.build(
            BuildPayload(
                view=template.header.height,
                parent=template.header.parent,
                height=template.header.height,
                parent_timestamp_ms=1_000 if before is None else before.header.timestamp_ms,
                path=tuple(path),
                deadline_ns=TrioClock().now() + round(patience_s * 1e9),
            )
        )
        carried = decode_payload(built.body)
        assert isinstance(carried, Payload)
        made = self.block_on(
            path, carried, timestamp_ms=built.timestamp_ms, next_validators_hash=built.next_validators_hash
        )
        return made, carried.body, built

    async def judge(self, judged: Block, body: bytes, path: Path = ()) -> PayloadVerdict:
        request = CheckPayload(block=judged, body=memoryview(body), path=tuple(path), certified=False)
        return await self.source.check(request)

    async def commit(self, made: Block, body: bytes) -> None:
        self.blocks.rows.append((made, body))
        await self.ledger.commit([Commit(block=made, body=memoryview(body), proof=proof_of(made))])

    async def go_on(self, count: int = 1) -> list[Block]:
        """Build, judge and commit so many blocks."""
        made: list[Block] = []
        for _ in range(count):
            proposed, body, _ = await self.build(patience_s=0)
            verdict = await self.judge(proposed, body)
            assert verdict.valid, verdict.reason
            await self.commit(proposed, body)
            made.append(proposed)
        return made

    def names(self) -> list[str]:
        return [validator.name for validator in self.registries.latest.validators]


# --- from submission to the epoch ------------------------------------------------------------------------------------


async def test_a_validator_is_added_and_removed_again() -> None:
    chain = governed()
    world = World(chain)
    added = chain.add("late")
    assert world.submit(added) == [Pending(transaction_id(SYSTEM_ROLLUP, 0, added))]
    made = await world.go_on(8)
    assert [header.header.payload_size > 0 for header in made] == [True] + [False] * 7
    assert [bool(each.header.next_validators_hash) for each in made] == [False] * 7 + [True]
    assert world.names() == [*FIRST, "late"]
    ready = await world.source.end_epoch(EndEpoch(made[-1]))
    assert (ready.boundary, ready.validators.hash) == (made[-1].id, made[-1].header.next_validators_hash)
    assert ready.validators.validators == world.registries.latest.validators
    assert isinstance(world.submit(chain.remove(chain.key("late").public_key))[0], Pending)
    made = await world.go_on(8)
    assert made[-1].header.next_validators_hash == ValidatorSet(chain.spec.validators).hash
    assert (world.names(), world.registries.latest.epoch) == (FIRST, 2)


async def test_an_idle_chain_reaches_its_boundary_at_once(autojump_clock: trio.testing.MockClock) -> None:
    chain = governed()
    world = World(chain)
    world.submit(chain.add("late"))
    begin = trio.current_time()
    for _ in range(8):
        made, body, _ = await world.build(patience_s=1)
        await world.commit(made, body)
    assert trio.current_time() == begin
    assert world.names() == [*FIRST, "late"]
    # And is idle again.
    await world.build(patience_s=1)
    assert trio.current_time() - begin == pytest.approx(1)


async def test_a_boundary_is_not_built_before_the_ledger_knows_what_it_must_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    chain = governed()
    world = World(chain)
    world.submit(chain.add("late"))
    await world.go_on(6)
    made, body, _ = await world.build(patience_s=0)
    world.blocks.rows.append((made, body))  # consensus has committed it, the ledger has not taken it yet

    async def catch_up() -> None:
        await trio.sleep(5)
        await world.ledger.commit([Commit(block=made, body=memoryview(body), proof=proof_of(made))])

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up)
        boundary, _, built = await world.build(patience_s=1)
    assert trio.current_time() - begin == pytest.approx(5)
    assert built.next_validators_hash
    assert (await world.judge(boundary, b"")).valid


async def test_a_delay_is_not_cut_short_by_building_faster(autojump_clock: trio.testing.MockClock) -> None:
    chain = governed(activation_heights=12)
    world = World(chain)
    world.submit(chain.add("late"))
    waits = []
    for _ in range(16):
        begin = trio.current_time()
        made, body, _ = await world.build(patience_s=1)
        await world.commit(made, body)
        waits.append(round(trio.current_time() - begin))
    # Ordered at height 1, due from 13 on, in force after 16.
    assert waits == [0] + [1] * 11 + [0] * 4
    assert world.names() == [*FIRST, "late"]


async def test_a_change_on_the_path_counts_before_it_is_committed(autojump_clock: trio.testing.MockClock) -> None:
    r"""
    ::

        6 (committed) -- 7 (add) -- 8 names five validators
                     \-- 7'      -- 8' names none
    """
    chain = governed()
    world = World(chain)
    await world.go_on(6)
    carried = payload({SYSTEM_ROLLUP: [(0, chain.add("late"))]})
    with_change = [(world.block_on((), carried), memoryview(carried.body))]
    without = [(world.block_on(()), memoryview(b""))]
    begin = trio.current_time()
    made, body, built = await world.build(with_change)
    assert trio.current_time() == begin
    parent = chain.registry().after(7, [chain.add("late")]).registry
    assert built.next_validators_hash == next_validators_hash(parent, 8) != b""
    assert (await world.judge(made, body, with_change)).valid
    on_other, _, built = await world.build(without)
    assert built.next_validators_hash == b""
    assert trio.current_time() - begin == pytest.approx(1)
    assert (await world.judge(on_other, b"", without)).valid
    crossed = world.block_on(without, next_validators_hash=made.header.next_validators_hash)
    assert "names next validators" in (await world.judge(crossed, b"", without)).reason
    missing = world.block_on(with_change)
    assert "names next validators none, not " in (await world.judge(missing, b"", with_change)).reason


@pytest.mark.parametrize("committed", [7, 8, 9])
async def test_what_is_committed_locally_makes_no_difference_to_the_boundary(committed: int) -> None:
    """A node that is ahead of a block's path judges it as one that is not."""
    chain = governed()
    world = World(chain)
    world.submit(chain.add("late"))
    made = await world.go_on(committed)
    eighth, verdicts = made[7] if committed > 7 else (await world.build())[0], []
    for changes in ({}, {"next_validators_hash": b""}, {"next_validators_hash": bytes(32)}):
        judged = block(8, **(_fields(eighth) | changes))
        verdicts.append((await world.judge(judged, b"")).valid)
    assert verdicts == [True, False, False]


def _fields(made: Block) -> dict[str, Any]:
    header = made.header
    return {
        "parent": header.parent,
        "timestamp_ms": header.timestamp_ms,
        "next_validators_hash": header.next_validators_hash,
    }


async def test_closing_blocks_are_empty_and_wait_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    chain = governed(epoch_heights=1)
    world = World(chain)
    world.submit(chain.add("late"))
    await world.go_on()
    boundary, body, built = await world.build()
    assert built.next_validators_hash
    world.mempool.add(1, 0, b"waits for the next epoch")
    path = [(boundary, memoryview(body))]
    begin = trio.current_time()
    closing, closing_body, built = await world.build(path, patience_s=5)
    assert trio.current_time() == begin
    assert (closing_body, built.next_validators_hash) == (b"", b"")
    assert (await world.judge(closing, b"", path)).valid
    carried = payload({1: [(0, b"too late")]})
    assert "closing block" in (await world.judge(world.block_on(path, carried), carried.body, path)).reason
    again = world.block_on(path, next_validators_hash=boundary.header.next_validators_hash)
    assert "closing block" in (await world.judge(again, b"", path)).reason
    # A descendant of a closing block is one too.
    path.append((closing, memoryview(b"")))
    assert (await world.build(path, patience_s=5))[1] == b""
    assert "closing block" in (await world.judge(world.block_on(path, carried), carried.body, path)).reason


async def test_the_boundary_may_carry_transactions() -> None:
    chain = governed()
    world = World(chain)
    world.submit(chain.add("late"))
    await world.go_on(7)
    world.mempool.add(1, 0, b"hello")
    world.submit(chain.remove(chain.first(0)))
    boundary = (await world.go_on())[0]
    assert boundary.header.payload_size > 0
    assert world.names() == [*FIRST, "late"]
    assert (await world.source.end_epoch(EndEpoch(boundary))).validators.hash == boundary.header.next_validators_hash
    await world.go_on(8)
    assert world.names() == [*FIRST[1:], "late"]


async def test_the_end_of_an_epoch_waits_for_the_ledger_and_knows_its_set() -> None:
    chain = governed(epoch_heights=1)
    world = World(chain)
    world.submit(chain.add("late"))
    await world.go_on()
    boundary, body, _ = await world.build()
    async with trio.open_nursery() as nursery:
        answers = []

        async def ask() -> None:
            answers.append(await world.source.end_epoch(EndEpoch(boundary)))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        await world.commit(boundary, body)
    assert [ready.boundary for ready in answers] == [boundary.id]
    for wrong in (bytes(32), b""):
        other = block(2, **(_fields(boundary) | {"next_validators_hash": wrong}))
        with pytest.raises(RuntimeError, match="ends its epoch and names the validators"):
            await world.source.end_epoch(EndEpoch(other))


async def test_a_chain_whose_validators_never_change_has_no_boundary() -> None:
    window = CommittedWindow(4)
    chain = governed().spec
    source = InlinePayloadSource(
        chain,
        mempool=Mempool(chain, window),
        window=window,
        cache=PayloadCache(),
        clock=TrioClock(),
        wall_clock_ms=wall_clock(2_000),
    )
    named = block(1, timestamp_ms=2_000, next_validators_hash=bytes(32))
    verdict = await source.check(CheckPayload(block=named, body=memoryview(b""), path=(), certified=False))
    assert "those of this chain never change" in verdict.reason
    carried = payload({SYSTEM_ROLLUP: [(0, b"change")]})
    request = CheckPayload(
        block=block(1, carried, timestamp_ms=2_000), body=memoryview(carried.body), path=(), certified=False
    )
    assert f"rollup {SYSTEM_ROLLUP} is not of this chain" in (await source.check(request)).reason
    assert Mempool(chain, window).add(SYSTEM_ROLLUP, 0, b"change") == UnknownRollup(SYSTEM_ROLLUP)


async def test_the_ledger_refuses_a_commit_that_contradicts_its_registry() -> None:
    chain = governed(epoch_heights=1)
    world = World(chain)
    world.submit(chain.add("late"))
    await world.go_on()
    boundary, body, _ = await world.build()
    for changes in ({"next_validators_hash": b""}, {"next_validators_hash": bytes(32)}, {"epoch": 1}):
        with pytest.raises(RuntimeError, match="does not fit the registry of epoch 0"):
            await world.ledger.commit(
                [Commit(block=block(2, **(_fields(boundary) | changes)), body=memoryview(body), proof=None)]
            )
        assert world.ledger.height == 1


# --- the section -----------------------------------------------------------------------------------------------------


async def test_a_block_has_few_changes_of_bounded_size() -> None:
    world = World(governed())
    most = payload({SYSTEM_ROLLUP: [(0, b"%d" % index) for index in range(CHANGES_PER_BLOCK_MAX)]})
    assert (await world.judge(world.block_on((), most), most.body)).valid
    more = payload({SYSTEM_ROLLUP: [(0, b"%d" % index) for index in range(CHANGES_PER_BLOCK_MAX + 1)]})
    assert "at most 16" in (await world.judge(world.block_on((), more), more.body)).reason
    large = payload({SYSTEM_ROLLUP: [(0, bytes(8 * 1024))]})
    assert (await world.judge(world.block_on((), large), large.body)).valid
    larger = payload({SYSTEM_ROLLUP: [(0, bytes(8 * 1024 + 1))]})
    assert "8193 bytes exceeds 8192" in (await world.judge(world.block_on((), larger), larger.body)).reason


async def test_the_builder_takes_as_many_as_a_block_may_have_in_the_order_of_arrival() -> None:
    chain = governed()
    world = World(chain)
    changes = [chain.add(f"a{index}") for index in range(CHANGES_PER_BLOCK_MAX + 3)]
    world.submit(*changes)
    first, second = await world.go_on(2)
    carried = [decode_payload(body) for _, body in world.blocks.rows]
    assert [section_of(each) for each in carried] == [changes[:CHANGES_PER_BLOCK_MAX], changes[CHANGES_PER_BLOCK_MAX:]]
    assert (first.header.height, second.header.height) == (1, 2)


def section_of(carried: object) -> list[bytes]:
    assert isinstance(carried, Payload)
    section = carried.section(SYSTEM_ROLLUP)
    return [] if section is None else list(section.transactions)


async def test_a_change_that_cannot_be_is_in_the_chain_and_changes_nothing() -> None:
    chain = governed()
    world = World(chain)
    carried = payload({SYSTEM_ROLLUP: [(0, b"nonsense"), (0, chain.add("late"))], 1: [(0, b"hello")]})
    made = world.block_on((), carried)
    assert (await world.judge(made, carried.body)).valid
    await world.commit(made, carried.body)
    outcomes = [await world.ledger.change_outcome(position(1, index)) for index in range(3)]
    assert isinstance(outcomes[0], ChangeIgnored)
    assert outcomes[1:] == [ChangeAccepted(effective_at=8), None]
    assert await world.ledger.change_outcome(Position(rollup_id=1, height=1, index=0)) is None


def position(height: Height, index: int) -> Position:
    return Position(rollup_id=SYSTEM_ROLLUP, height=height, index=index)


async def test_changes_have_receipts_and_sections_like_any_transaction() -> None:
    chain = governed()
    world = World(chain)
    change = chain.add("late")
    (pending,) = world.submit(change)
    await world.go_on(2)
    receipt = await world.ledger.receipt(pending.transaction_id)
    assert receipt is not None
    assert receipt.position == position(1, 0)
    section = await world.ledger.section(SYSTEM_ROLLUP, 1)
    assert section.transactions == (change,)
    assert (await world.ledger.section(SYSTEM_ROLLUP, 2)).transactions == ()
    follower = world.ledger.follow(SYSTEM_ROLLUP, 1)
    assert (await anext(follower)).transactions == (change,)
    assert world.submit(change) == [Ordered(pending.transaction_id, 1)]


# --- admission -------------------------------------------------------------------------------------------------------


async def test_what_would_have_no_effect_is_not_taken() -> None:
    chain = governed()
    world = World(chain)
    unsigned = chain.governed(chain.addition("late"), 0)
    assert world.submit(b"nonsense", unsigned, chain.add("validator-0")) == [
        ChangeRefused("not a system transaction in canonical form"),
        ChangeRefused("signed by 1 governors, of whom 2 are needed", is_forged=True),
        NOT_LOOKED_AT,
    ]
    assert world.submit(chain.add("validator-0")) == [ChangeRefused("the name validator-0 is taken")]
    assert world.mempool.pending(SYSTEM_ROLLUP) == (0, 0)
    change = chain.add("late")
    taken = world.submit(change)
    assert world.submit(change) == [Pending(taken[0].transaction_id, True)]
    assert [(each.rollup_id, each.data) for each in world.mempool.pending_to_forward()] == [(SYSTEM_ROLLUP, change)]


async def test_admission_follows_the_chain() -> None:
    chain = governed()
    world = World(chain)
    rotation = chain.rotate(chain.key("late").public_key, "fresh", expires_at=12)
    assert isinstance(world.submit(rotation)[0], ChangeRefused)
    world.submit(chain.add("late"))
    await world.go_on()
    assert isinstance(world.submit(rotation)[0], Pending)
    await world.go_on(11)
    assert world.submit(chain.leave(chain.first(0), expires_at=12)) == [
        ChangeRefused("expired at height 12, this is 13: sign it anew with a later expires_at")
    ]


async def test_members_do_not_fill_the_queue_for_the_governors() -> None:
    assert mempool_module.CHANGES_MAX == 2 * 1024 * OWN_REMEMBERED_MAX
    chain = governed()
    world = World(chain)
    first, second = chain.first(0), chain.first(1)
    rotations = [chain.rotate(first, f"r{index}") for index in range(OWN_REMEMBERED_MAX + 1)]
    answers = world.submit(*rotations)
    assert [type(answer) for answer in answers] == [Pending] * OWN_REMEMBERED_MAX + [ChangeRefused]
    assert "4 changes that" in answers[-1].reason
    assert [type(answer) for answer in world.submit(chain.leave(second), chain.remove(first))] == [Pending] * 2
    # A place is free again when one is ordered, or expired.
    ordered = payload({SYSTEM_ROLLUP: [(0, rotations[0])]})
    world.mempool.committed(1, ordered.sections)
    assert isinstance(world.submit(rotations[-1])[0], Pending)


async def test_a_peer_makes_others_check_one_forged_change_and_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature takes a millisecond to check, and a frame holds thousands of changes."""
    checked: list[Change] = []

    def count(transaction: SystemTransaction, *rest: Any, **named: Any) -> str:
        checked.append(transaction.change)
        return approval_fault(transaction, *rest, **named)

    monkeypatch.setattr(registry_module, "approval_fault", count)
    chain = governed()
    world = World(chain)
    forwarder = Forwarder(world.mempool, world.window, NoChannel(), observes=lambda: False)
    signature = chain.key("stranger").sign(b"anything")

    def frame(*changes: bytes) -> bytes:
        return msgspec.msgpack.encode([0, [[SYSTEM_ROLLUP, 0, change] for change in changes]])

    forged = [
        encode(
            SystemTransaction(
                change=RemoveValidator(public_key=chain.first(0), expires_at=100 + number),
                approval=ByValidator(signature=signature),
            )
        )
        for number in range(50)
    ]
    fault = forwarder.received(frame(*forged, chain.add("late")))
    assert fault is not None
    assert "the signature is not that of" in fault
    assert len(checked) == 1
    assert world.mempool.pending(SYSTEM_ROLLUP) == (0, 0)
    # What has merely no effect any more is nobody's fault; a member's own changes are counted before they are checked.
    assert forwarder.received(frame(chain.add("validator-0"), b"nonsense", chain.add("late"))) is None
    checked.clear()
    world.submit(*[chain.rotate(chain.first(1), f"r{number}") for number in range(50)])
    assert len(checked) == OWN_REMEMBERED_MAX


class NoChannel:
    """Nobody is connected."""

    def broadcast(self, data: bytes) -> None: ...

    def send(self, peer: bytes, data: bytes) -> None: ...

    def connected_validators(self) -> Sequence[bytes]:
        return ()


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool_module, "CHANGES_MAX", 2)
    chain = governed()
    answers = World(chain).submit(*[chain.add(name) for name in ("a", "b", "c")])
    assert [type(answer) for answer in answers] == [Pending, Pending, Full]


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [0, 1, 7, 8, 9, 12])
async def test_a_restart_finds_the_registry_again(indexed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Whatever the index has of the chain, the rest comes from the block store; and what the index has needs no block
    below its window."""
    chain = governed()
    world = World(chain)
    world.submit(chain.add("late"), chain.rotate(chain.first(1), "fresh"))
    async with trio.open_nursery() as nursery:
        await world.go_on(indexed)
        nursery.start_soon(world.ledger.run)
        await trio.sleep(2 * INDEX_DELAY_S)
        nursery.cancel_scope.cancel()
    assert world.index.height == indexed
    await world.go_on(12 - indexed)
    again = World(chain, world.blocks, world.index)
    await again.ledger.restore()
    assert again.registries.latest == world.registries.latest
    assert again.registries.height == 12
    assert again.registries.at(12) == world.registries.latest
    assert again.registries.at(indexed - 1) is None, "what the index has seen below is not folded again"
    assert again.names() == [*FIRST, "late"]
    for index in (0, 1):
        assert await again.ledger.change_outcome(position(1, index)) == ChangeAccepted(effective_at=8)
    again.submit(chain.remove(chain.first(0)))
    await again.go_on(4)
    assert again.names() == [*FIRST[1:], "late"]


async def test_a_restart_after_pruning_needs_the_index_only(autojump_clock: trio.testing.MockClock) -> None:
    chain = governed()
    world = World(chain)
    world.submit(chain.add("late"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ledger.run)
        for _ in range(300):
            await world.go_on()
        await trio.sleep(2 * INDEX_DELAY_S)
        nursery.cancel_scope.cancel()
    world.blocks.pruned_below = world.index.height - chain.spec.deduplication_heights + 1
    again = World(chain, world.blocks, world.index)
    await again.ledger.restore()
    assert again.registries.latest == world.registries.latest
    assert again.names() == [*FIRST, "late"]


async def test_an_index_with_a_damaged_registry_is_refused() -> None:
    chain = governed()
    index = MemoryIndex()
    index.saved_registry = b"damaged"
    with pytest.raises(ValueError, match="the saved registry of validators cannot be read"):
        await World(chain, MemoryBlocks(), index).ledger.restore()


# --- what is known of the past ---------------------------------------------------------------------------------------


async def test_registries_of_the_last_heights_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries_module, "HEIGHTS_MIN", 0)
    chain = governed(epoch_heights=2)
    registries = Registries(chain.registry(), 4)
    for height in range(1, 11):
        carried = payload({SYSTEM_ROLLUP: [(0, chain.add(f"a{height}"))]})
        named = next_validators_hash(registries.latest, height)
        made = block(height, carried, epoch=registries.latest.epoch, next_validators_hash=named)
        registries.take(made, carried)
    sizes = {height: len(known.members) for height in range(13) if (known := registries.at(height)) is not None}
    assert sizes == {6: 10, 7: 11, 8: 12, 9: 13, 10: 14}
    assert len(registries._changes) == len(sizes)


def test_a_fold_is_remembered_by_the_block_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries_module, "FOLDED_MAX", 2)
    chain = governed()
    registries = Registries(chain.registry(), 4)
    asked: list[int] = []
    carried = payload({SYSTEM_ROLLUP: [(0, chain.add("late"))]})
    path: list[tuple[Block, bytes]] = []
    for height in range(1, 4):
        parent = path[-1][0].id if path else sha256(b"genesis").digest()
        path.append((block(height, carried if height == 1 else EMPTY_PAYLOAD, parent=parent), b""))

    def payload_of(index: int) -> Payload:
        asked.append(index)
        return carried if index == 0 else EMPTY_PAYLOAD

    first = registries.on_path(0, path[:1], payload_of)
    assert registries.on_path(0, path[:2], payload_of) is first
    assert registries.on_path(0, path[:2], payload_of) is first
    assert asked == [0, 1]
    assert registries.on_path(0, path, payload_of) is first
    assert registries.on_path(0, path[:1], payload_of) == first
    assert asked == [0, 1, 2, 0], "the first was forgotten"
    assert registries.on_path(1, path[:0], payload_of) is None
