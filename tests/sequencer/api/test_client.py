"""The client against real servers: what it verifies, whom it names, and how it goes on with another node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
import trio

from consensus.codec import digest
from consensus.light_client import Proven
from sequencer.api.limits import ApiLimits
from sequencer.api.server import serve_api
from sequencer.client import (
    ConflictingBlocks,
    NodeFailed,
    NodeLied,
    NoNodeAnswered,
    SequencerClient,
    TransactionNotConfirmed,
)
from sequencer.config import ApiConfig
from sequencer.mempool import Expired, Full, MempoolLimits, Ordered, Pending, Submission, SubmissionRefused
from sequencer.receipts import Receipt, Section
from sequencer.transactions import Level, transaction_id
from tests.sequencer.api.fake_node import FakeNode, Served, served
from tests.support.waiting import PATIENCE_S

NOWHERE = "http://127.0.0.1:1"


@asynccontextmanager
async def client_of(*nodes: Served | str, timeout_s: float = 5.0) -> AsyncIterator[SequencerClient]:
    """A client of these nodes, the preferred one first."""
    genesis = next(node for node in nodes if isinstance(node, Served)).node.genesis
    urls = [node if isinstance(node, str) else node.url for node in nodes]
    async with SequencerClient(urls, genesis, timeout_s=timeout_s) as client:
        yield client


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[Served, Served]]:
    """Two nodes of one chain with the same blocks: they share everything but their servers."""
    first = FakeNode()
    second = FakeNode()
    second.store, second.ledger, second.mempool = first.store, first.ledger, first.mempool
    async with served(first) as one, served(second, index=False) as two:
        yield one, two


async def test_submit_and_wait() -> None:
    async with served() as api, client_of(api) as client:
        api.nursery.start_soon(api.node.order_forever)
        receipt = await client.submit_and_wait(3, b"hello")
        receipt.verify(api.node.genesis)
        assert receipt.transaction_id == transaction_id(3, 0, b"hello")
        assert await client.submit(3, b"hello") == Ordered(receipt.transaction_id, 1)
        assert await client.receipt(receipt.transaction_id) == receipt
        status = await client.status(receipt.transaction_id)
        assert (status.level, status.position) == (Level.CONFIRMED, receipt.position)
        assert (await client.status(bytes(32))).level is Level.UNKNOWN
        assert await client.receipt(bytes(32)) is None


async def test_a_batch_is_answered_in_order() -> None:
    async with served() as api, client_of(api) as client:
        answers = await client.submit_batch(7, [b"%d" % number for number in range(1000)], valid_until=4)
        assert answers == [Pending(transaction_id(7, 4, b"%d" % number)) for number in range(1000)]


async def test_refusals_are_typed() -> None:
    node = FakeNode(mempool=MempoolLimits(entries_max=1))
    async with served(node) as api, client_of(api) as client:
        await node.order()
        with pytest.raises(SubmissionRefused) as error:
            await client.submit(3, b"x", valid_until=1)
        assert error.value.refusal == Expired(1, 2)
        await client.submit(3, b"one")
        with pytest.raises(SubmissionRefused) as error:
            await client.submit(3, b"two")
        assert error.value.refusal == Full(3, 1, 3)
        with pytest.raises(ValueError, match="rollup 4 is not of chain"):
            await client.submit(4, b"x")


async def test_a_refusal_is_typed_when_waiting_too() -> None:
    async with served() as api, client_of(NOWHERE, api) as client:
        await api.node.order()
        with pytest.raises(SubmissionRefused) as error:
            await client.submit_and_wait(3, b"x", valid_until=1)
        assert error.value.refusal == Expired(1, 2)
        with pytest.raises(trio.TooSlowError):
            await client.submit_and_wait(3, b"x", timeout_s=0.1)


async def test_a_full_node_is_passed_over() -> None:
    full = FakeNode(mempool=MempoolLimits(entries_max=0))
    async with served(full) as one, served() as two, client_of(one, two) as client:
        assert isinstance(await client.submit(3, b"x"), Pending)
        assert two.node.mempool.pending(3) == (1, 1)


async def test_a_node_that_is_not_there_is_passed_over() -> None:
    async with served() as api, client_of(NOWHERE, api) as client:
        await client.submit(3, b"x")
        assert not client.lies
    async with SequencerClient([NOWHERE], FakeNode().genesis) as client:
        with pytest.raises(NoNodeAnswered) as error:
            await client.section(3, 1)
        assert isinstance(error.value.problems[0], NodeFailed)


async def test_waiting_ends() -> None:
    async with served() as api, client_of(api) as client:
        await client.submit(3, b"x")
        with pytest.raises(trio.TooSlowError):
            await client.wait(transaction_id(3, 0, b"x"), timeout_s=0.1)
        await client.submit(3, b"y", valid_until=1)
        await api.node.order(size_bytes_max=0)
        with pytest.raises(TransactionNotConfirmed):
            await client.wait(transaction_id(3, 1, b"y"))


async def finalized(api: Served) -> Receipt:
    """Transaction ``x`` of rollup 3, which is final with height 2."""
    await api.submit(b"x")
    for _ in range(4):
        await api.node.order()
    await api.node.finalize(2)
    return await api.node.wait(transaction_id(3, 0, b"x"), Level.FINAL)


async def test_waiting_for_final() -> None:
    async with served() as api, client_of(api) as client:
        final = await finalized(api)
        assert await client.wait(final.transaction_id, level="final") == final
        assert await client.submit_and_wait(3, b"x", level="final") == final
        assert (await client.status(final.transaction_id)).level is Level.FINAL
        assert (await client.receipt(final.transaction_id, level="final")) == final
        assert (await client.wait(final.transaction_id)).finality is None, "it is large, and was not asked for"
        api.node.submit_batch(3, [(0, b"y")])
        await api.node.order()
        assert (await client.status(transaction_id(3, 0, b"y"))).level is Level.CONFIRMED
        with pytest.raises(trio.TooSlowError):
            await client.wait(transaction_id(3, 0, b"y"), level="final", timeout_s=0.2)
        assert not client.lies
        with pytest.raises(ValueError, match="'settled' cannot be waited for"):
            await client.wait(final.transaction_id, level="settled")


async def test_a_false_proof_of_finality_names_its_node() -> None:
    async with two_nodes() as (liar, honest), client_of(liar, honest) as client:
        final = await finalized(honest)
        assert final.finality is not None
        (certificate,) = final.finality.certificates
        (group,) = certificate.groups
        forged = msgspec.structs.replace(
            certificate, groups=(msgspec.structs.replace(group, signature=bytes(len(group.signature))),)
        )
        lie = msgspec.structs.replace(final, finality=msgspec.structs.replace(final.finality, certificates=(forged,)))

        async def receipt(transaction_id: bytes, level: Level = Level.CONFIRMED) -> Receipt | None:
            return lie

        liar.node.receipt = receipt  # type: ignore[method-assign]  # the fake node answers so
        assert await client.receipt(final.transaction_id, level="final") == final
        assert [(lie.url, lie.what) for lie in client.lies] == [(liar.url, "finality")]


async def test_what_is_not_there_yet_or_no_more_is_said() -> None:
    async with served() as api, client_of(api) as client:
        await api.node.order()
        assert (await client.section(3, 1)).transactions == ()
        assert (await client.block(1)).height == 1
        with pytest.raises(NoNodeAnswered) as error:
            await client.section(3, 2)
        assert [getattr(each, "code", None) for each in error.value.problems] == ["not_available"]


# --- lies ------------------------------------------------------------------------------------------------------------


def another_receipt(honest: Receipt) -> Receipt:
    return msgspec.structs.replace(honest, transaction_id=bytes(32))


def unproven_receipt(honest: Receipt) -> Receipt:
    proof = honest.commit_proof
    certificate = msgspec.structs.replace(proof.certificate, signature=bytes(192))
    return msgspec.structs.replace(honest, commit_proof=msgspec.structs.replace(proof, certificate=certificate))


@pytest.mark.parametrize(("tell", "what"), [(another_receipt, "receipt"), (unproven_receipt, "commit")])
async def test_a_false_receipt_names_its_node_and_another_is_asked(
    tell: Callable[[Receipt], Receipt], what: str
) -> None:
    async with two_nodes() as (liar, honest), client_of(liar, honest) as client:
        liar.nursery.start_soon(honest.node.order_forever)
        true = await client.submit_and_wait(3, b"x")

        async def receipt(transaction_id: bytes, level: Level = Level.CONFIRMED) -> Receipt | None:
            return tell(true)

        liar.node.receipt = receipt  # type: ignore[method-assign]  # the fake node answers so
        assert await client.receipt(true.transaction_id) == true
        assert [(lie.url, lie.what) for lie in client.lies] == [(liar.url, what)]
        assert await client.receipt(true.transaction_id) == true
        assert len(client.lies) == 1, "it is not asked again"


def one_missing(section: Section) -> Section:
    return msgspec.structs.replace(
        section, transactions=section.transactions[1:], valid_untils=section.valid_untils[1:]
    )


def one_changed(section: Section) -> Section:
    return msgspec.structs.replace(section, transactions=(b"changed", *section.transactions[1:]))


def unproven(section: Section) -> Section:
    return msgspec.structs.replace(section, commit_proof=None)


def of_another_rollup(section: Section) -> Section:
    return msgspec.structs.replace(section, rollup_id=7)


LIES = [
    (one_missing, "transactions"),
    (one_changed, "transactions"),
    (unproven, "commit"),
    (of_another_rollup, "section"),
]


async def orders(node: FakeNode, count: int) -> None:
    """Commit blocks with two transactions each for rollup 3."""
    for _ in range(count):
        height = node.ledger.height + 1
        node.submit_batch(3, [(0, b"%d-%d" % (height, number)) for number in range(2)])
        await node.order()


def lie_from(node: FakeNode, height: int, tell: Callable[[Section], Section]) -> None:
    """Make a node's sections false from a height on."""
    honest_section, honest_follow = node.section, node.follow

    async def section(rollup_id: int, asked: int) -> Section:
        true = await honest_section(rollup_id, asked)
        return true if asked < height else tell(true)

    node.section = cast(Any, section)  # type: ignore[method-assign]  # the fake node answers so

    @asynccontextmanager
    async def follow(rollup_id: int, from_height: int) -> AsyncIterator[Any]:
        async def told() -> AsyncIterator[Section]:
            for asked in range(from_height, node.ledger.height + 1):
                yield await section(rollup_id, asked)
            await trio.sleep_forever()

        async with honest_follow(rollup_id, from_height):
            yield told()

    node.follow = follow  # type: ignore[method-assign]  # the fake node answers so


@pytest.mark.parametrize(("tell", "what"), LIES)
async def test_a_false_section_names_its_node_and_another_is_asked(
    tell: Callable[[Section], Section], what: str
) -> None:
    async with two_nodes() as (liar, honest), client_of(liar, honest) as client:
        await orders(honest.node, 1)
        lie_from(liar.node, 1, tell)
        assert (await client.section(3, 1)).transactions == (b"1-0", b"1-1")
        assert [(lie.url, lie.what) for lie in client.lies] == [(liar.url, what)]


async def test_a_liar_alone_is_an_error_that_names_it() -> None:
    async with served() as api, client_of(api) as client:
        await orders(api.node, 1)
        lie_from(api.node, 1, one_missing)
        with pytest.raises(NoNodeAnswered) as error:
            await client.section(3, 1)
        (problem,) = error.value.problems
        assert isinstance(problem, NodeLied)
        assert problem.lie.url == api.url
        with pytest.raises(NoNodeAnswered, match="every node has lied before") as again:
            await client.section(3, 1)
        assert not again.value.problems, "it is not asked again"


async def test_a_node_that_takes_another_transaction_than_was_given_is_named() -> None:
    async with served() as api, client_of(api) as client:
        honest = api.node.submit_batch

        def submit_batch(rollup_id: int, transactions: Any) -> list[Submission]:
            return honest(rollup_id, [(valid_until, data + b"!") for valid_until, data in transactions])

        api.node.submit_batch = cast(Any, submit_batch)  # type: ignore[method-assign]  # the fake node answers so
        with pytest.raises(NoNodeAnswered):
            await client.submit(3, b"x")
        assert [lie.what for lie in client.lies] == ["transaction id"]


# --- following -------------------------------------------------------------------------------------------------------


async def test_follow_gives_every_height() -> None:
    async with served() as api, client_of(api) as client:
        await orders(api.node, 3)
        async with client.follow(3) as sections:
            for height in (1, 2, 3):
                section = await anext(sections)
                assert (section.height, section.transactions[0]) == (height, b"%d-0" % height)
            await orders(api.node, 1)
            assert (await anext(sections)).height == 4
        async with client.follow(7, from_height=4) as sections:
            section = await anext(sections)
            assert (section.height, section.transactions) == (4, ())


@pytest.mark.parametrize(("tell", "what"), LIES)
async def test_follow_leaves_a_liar_and_resumes_elsewhere(tell: Callable[[Section], Section], what: str) -> None:
    async with two_nodes() as (liar, honest), client_of(liar, honest) as client:
        await orders(honest.node, 6)
        lie_from(liar.node, 4, tell)
        with trio.fail_after(PATIENCE_S):
            async with client.follow(3) as sections:
                heights = [(await anext(sections)).height for _ in range(6)]
        assert heights == [1, 2, 3, 4, 5, 6]
        assert [(lie.url, lie.what) for lie in client.lies] == [(liar.url, what)]


async def test_follow_resumes_when_its_node_dies() -> None:
    async with served() as survivor, trio.open_nursery() as nursery:
        await orders(survivor.node, 30)
        dying = FakeNode()
        dying.store, dying.ledger = survivor.node.store, survivor.node.ledger
        life = trio.CancelScope()

        async def live(task_status: trio.TaskStatus[int]) -> None:
            config, limits = ApiConfig(listen=("127.0.0.1", 0), body_size_bytes_max=1000), ApiLimits()
            with life:
                await serve_api(dying, config, limits=limits, task_status=task_status)

        urls = [f"http://127.0.0.1:{await nursery.start(live)}", survivor.url]
        with trio.fail_after(PATIENCE_S):
            async with SequencerClient(urls, dying.genesis) as client, client.follow(3) as sections:
                heights = [(await anext(sections)).height]
                life.cancel()
                heights += [(await anext(sections)).height for _ in range(29)]
                await orders(survivor.node, 1)
                heights.append((await anext(sections)).height)
        assert heights == list(range(1, 32))


async def test_follow_says_when_nobody_has_the_history() -> None:
    async with served() as api, client_of(api) as client:
        await orders(api.node, 3)
        api.node.store.pruned_below = 3
        async with client.follow(3) as sections:
            with pytest.raises(NoNodeAnswered, match="pruned below 3"):
                await anext(sections)


async def test_follow_sees_two_committed_blocks_that_exclude_each_other() -> None:
    async with served() as api, served() as other, client_of(api) as client:
        await orders(api.node, 1)
        await other.node.order()
        other.node.submit_batch(3, [(0, b"another history")])
        await other.node.order()
        lie_from(api.node, 2, lambda _: forged)
        forged = await other.node.section(3, 2)
        await orders(api.node, 1)
        async with client.follow(3) as sections:
            assert (await anext(sections)).height == 1
            with pytest.raises(ConflictingBlocks):
                await anext(sections)


async def test_proven_answers_that_exclude_each_other_are_shown_whatever_was_asked() -> None:
    """One node has two blocks; the other, whose block 2 is another one, alone has the third."""
    async with served() as first, served() as other, client_of(first, other) as client:
        assert client.head.height == 0
        await orders(first.node, 2)
        await other.node.order()
        other.node.submit_batch(3, [(0, b"another history")])
        await other.node.order()
        assert (await client.block(1)).block_id == client.head.block_id
        known = await client.section(3, 2)
        assert client.head.height == 2
        await orders(other.node, 1)
        with pytest.raises(ConflictingBlocks, match=f"{other.url}: height 2: .* are both committed") as seen:
            await client.block(3)
        assert seen.value.url == other.url
        assert seen.value.before == digest(known.header)
        assert seen.value.fork is not None
        for side in (seen.value.fork.kept, seen.value.fork.shown):
            assert isinstance(side, Proven)
            assert other.node.genesis.verify_commit(side.proof, side.header, 0) is None
        assert client.head.block_id == digest(known.header)


async def test_what_is_raised_in_the_block_comes_out_as_it_is() -> None:
    async with served() as api, client_of(api) as client:
        with pytest.raises(KeyError):
            async with client.follow(3):
                raise KeyError
