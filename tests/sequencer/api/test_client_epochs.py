"""The client on a chain that changes its validators: it asks how epochs began, verifies that, and names who lies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import lru_cache

import msgspec
import pytest

from consensus.codec import digest
from consensus.epochs import EpochChange
from consensus.light_client import Proven
from consensus.types import INTEGER_MAX, Epoch
from sequencer.block_summary import BlockSummary
from sequencer.client import BEFORE_TRUST, ConflictingBlocks, NodeFailed, NoNodeAnswered, SequencerClient
from sequencer.genesis import genesis_of, trusted_from
from sequencer.receipts import Section
from tests.sequencer.api.fake_node import FakeNode, served
from tests.sequencer.epoch_archives import FullChain, full_chain

replace = msgspec.structs.replace


@lru_cache(maxsize=1)
def full() -> FullChain:
    """Epochs of heights 1-3, 4-7 and 8-10."""
    return full_chain()


@lru_cache(maxsize=1)
def rival() -> FullChain:
    """Another boundary at height 7, to other validators."""
    return full_chain(sets=((0, 1, 2, 3), (2, 3, 4, 5), (6, 7, 8, 9)), other_from=7)


class EpochNode(FakeNode):
    """Serves a chain that was made before; ``changes`` are what it says of its epochs."""

    def __init__(self, whole: FullChain, changes: Sequence[EpochChange] | None = None) -> None:
        super().__init__(whole.chain.spec)
        self.whole = whole
        self.changes = list(whole.chain.changes if changes is None else changes)

    async def section(self, rollup_id: int, height: int) -> Section:
        return self.whole.section(height, rollup_id)

    def follow(self, rollup_id: int, from_height: int) -> AbstractAsyncContextManager[AsyncIterator[Section]]:
        return self._sections(rollup_id, from_height)

    @asynccontextmanager
    async def _sections(self, rollup_id: int, from_height: int) -> AsyncIterator[AsyncIterator[Section]]:
        async def each() -> AsyncGenerator[Section, None]:
            for height in range(from_height, self.whole.chain.top + 1):
                yield self.whole.section(height, rollup_id)

        async with aclosing(each()) as sections:
            yield sections

    async def block(self, height: int) -> BlockSummary:
        header, proof = self.whole.chain.at(height)
        leaves = tuple(each.leaf for each in self.whole.payloads[height - 1].sections)
        return BlockSummary(header=header, sections=leaves, commit_proof=proof)

    async def epoch_changes(self, from_epoch: Epoch = 1, limit: int = INTEGER_MAX) -> Sequence[EpochChange]:
        return [change for change in self.changes if change.epoch >= from_epoch][:limit]

    async def newest_epoch(self) -> Epoch:
        return max((change.epoch for change in self.changes), default=0)


@asynccontextmanager
async def client_of(*nodes: EpochNode) -> AsyncIterator[tuple[SequencerClient, list[str]]]:
    """A client of these nodes with a genesis of its own, and their URLs."""
    if len(nodes) == 1:
        async with served(nodes[0]) as one, SequencerClient([one.url], genesis_of(full().chain.spec)) as client:
            yield client, [one.url]
        return
    async with (
        served(nodes[0]) as one,
        served(nodes[1], index=False) as two,
        SequencerClient([one.url, two.url], genesis_of(full().chain.spec)) as client,
    ):
        yield client, [one.url, two.url]


async def test_a_block_of_a_later_epoch_is_verified_once_the_node_shows_how_it_began() -> None:
    async with client_of(EpochNode(full())) as (client, _):
        section = await client.section(1, 9)
        assert section == full().section(9, 1)
        assert isinstance(client.head, Proven)
        assert client.head.block_id == digest(full().chain.headers[8])
        assert (await client.block(5)).height == 5
        assert not client.lies


async def test_a_stream_is_followed_over_boundaries() -> None:
    async with client_of(EpochNode(full())) as (client, _):
        heights = []
        async with client.follow(1) as sections:
            async for section in sections:
                heights.append((section.header.epoch, section.height))
                if section.height == full().chain.top:
                    break
        assert heights == [(header.epoch, header.height) for header in full().chain.headers]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [((), 1), ((full().chain.change(2),), 1), ((full().chain.change(1),), 2)],
    ids=["none", "begun later", "behind"],
)
async def test_who_cannot_show_it_yet_has_not_lied(changes: Sequence[EpochChange], missing: Epoch) -> None:
    """The answer and the changes may come from two nodes behind one address."""
    node = EpochNode(full(), changes)
    async with client_of(node) as (client, urls):
        with pytest.raises(
            NoNodeAnswered, match=f"{urls[0]}: it spoke of epoch 2, but does not show how {missing} began"
        ):
            await client.section(1, 9)
        node.changes = list(full().chain.changes)
        assert (await client.section(1, 9)).height == 9
        assert not client.lies


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((full().chain.change(1, signers=(0, 1)), full().chain.change(2)), "below the quorum"),
        (
            (full().chain.change(1), replace(full().chain.change(2), validators=full().chain.spec.validators)),
            "its validators hash to",
        ),
    ],
    ids=["no quorum", "other validators"],
)
async def test_who_shows_it_falsely_is_named_and_left(changes: Sequence[EpochChange], reason: str) -> None:
    async with client_of(EpochNode(full(), changes), EpochNode(full())) as (client, urls):
        assert (await client.section(1, 9)).height == 9
        assert [(lie.url, lie.what) for lie in client.lies] == [(urls[0], "epochs")]
        assert reason in client.lies[0].reason


async def test_an_epoch_that_nobody_knows_is_not_believed() -> None:
    node = EpochNode(full())
    section = full().section(9, 1)
    forged = replace(section, header=replace(section.header, epoch=10**9))

    async def answer(rollup_id: int, height: int) -> Section:
        return forged

    node.section = answer  # type: ignore[method-assign]  # the fake node answers so
    async with client_of(node) as (client, _):
        with pytest.raises(NoNodeAnswered) as error:
            await client.section(1, 9)
        assert isinstance(error.value.problems[0], NodeFailed)
        assert "does not show how 3 began" in str(error.value)
        assert not client.lies


async def test_what_lies_before_the_trusted_epoch_is_no_lie() -> None:
    """The client cannot verify it; that proves nothing against the node."""
    genesis = trusted_from(genesis_of(full().chain.spec), full().chain.change(1))
    async with served(EpochNode(full())) as one, SequencerClient([one.url], genesis) as client:
        with pytest.raises(NoNodeAnswered, match="of epoch 0; what this client trusts begins with epoch 1"):
            await client.section(1, 2)
        async with client.follow(1) as sections:
            with pytest.raises(NoNodeAnswered) as error:
                await anext(sections)
        assert [each.code for each in error.value.problems if isinstance(each, NodeFailed)] == [BEFORE_TRUST]
        assert (await client.section(1, 9)).height == 9
        assert not client.lies


async def test_two_histories_of_validators_are_shown_with_both_proofs() -> None:
    async with client_of(EpochNode(full()), EpochNode(rival())) as (client, urls):
        await client.section(1, 9)
        client._urls.rotate(1)
        with pytest.raises(ConflictingBlocks) as error:
            await client.section(1, 7)
        assert error.value.url == urls[1]
        assert error.value.fork is not None
        assert isinstance(error.value.fork.kept, Proven)
        assert error.value.fork.kept.proof == full().chain.change(2).proof


async def test_a_closing_block_does_not_pass_for_an_empty_height() -> None:
    """A node shows, with honest signatures, that height 4 holds nothing for rollup 1."""
    node, whole = EpochNode(full()), full()
    closing = whole.chain.eras[0].closing[0]
    hidden = replace(whole.section(4, 2), header=closing, commit_proof=whole.chain.proof_of(closing), rollup_id=1)

    async def answer(rollup_id: int, height: int) -> Section:
        return hidden

    node.section = answer  # type: ignore[method-assign]  # the fake node answers so
    async with client_of(node, EpochNode(whole)) as (client, urls):
        assert (await client.section(1, 4)).transactions == (b"transaction at 4",)
        assert [lie.url for lie in client.lies] == [urls[0]]
