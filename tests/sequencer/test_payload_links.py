"""Link certificates in payloads: with what they ride, and what makes a block that carries them invalid."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from consensus.engine import OfferLinks, Refusal
from consensus.finality.types import LinkCertificate
from consensus.types import Block
from sequencer.body import EMPTY_PAYLOAD, Payload, PayloadCache, assemble_payload, decode_payload
from sequencer.payload import InlinePayloadSource
from tests.sequencer.chains import TrioClock, payload, spec, wall_clock
from tests.sequencer.test_body import LINKS, link, with_links
from tests.sequencer.test_payload import Bench, on_path

ONE = payload({3: [(0, b"one")]})


def bench(*, committed: int = 8, refused: Sequence[LinkCertificate] = (), payload_size_max: int = 4096) -> Bench:
    """A chain with finality, whose certificates are all good but for ``refused``."""
    chain = spec(payload_size_max=payload_size_max)
    made = Bench(committed=committed, chain=chain)
    made.source = InlinePayloadSource(
        chain,
        mempool=made.mempool,
        window=made.window,
        cache=PayloadCache(),
        clock=TrioClock(),
        wall_clock_ms=wall_clock(),
        check_link=lambda each: Refusal("link certificate: no quorum") if each in refused else None,
    )
    return made


def carried_by(body: bytes | memoryview) -> Payload:
    decoded = decode_payload(body)
    assert isinstance(decoded, Payload)
    return decoded


async def test_they_ride_with_transactions(autojump_clock: MockClock) -> None:
    made = bench()
    made.source.offer(OfferLinks(LINKS))
    made.mempool.add(3, 0, b"one")
    began = trio.current_time()
    built = carried_by((await made.build(9)).body)
    assert trio.current_time() == began
    assert (built.certificates, built.sections[0].transactions) == (LINKS, (b"one",))


async def test_alone_they_wait_for_the_idle_interval(autojump_clock: MockClock) -> None:
    """An idle chain has nothing but its checkpoints to speak of: it does not speed up over that."""
    made = bench()
    made.source.offer(OfferLinks(LINKS))
    began = trio.current_time()
    built = carried_by((await made.build(9, patience_s=0.7)).body)
    assert trio.current_time() == pytest.approx(began + 0.7)
    assert built.certificates == LINKS
    assert built.sections == ()


@pytest.mark.parametrize("below", [ONE, assemble_payload((), LINKS[:1])])
async def test_a_block_made_to_commit_another_leaves_them_out(below: Payload, autojump_clock: MockClock) -> None:
    """Else it would need another to commit it, and so on for ever."""
    made = bench()
    made.source.offer(OfferLinks(LINKS))
    path = [on_path(9, below)]
    assert (await made.build(10, path=path)).body == b""
    made.mempool.add(3, 0, b"two")
    assert carried_by((await made.build(10, path=path)).body).sections != ()


async def test_what_an_uncommitted_ancestor_carries_is_not_carried_again(autojump_clock: MockClock) -> None:
    made = bench()
    made.source.offer(OfferLinks(LINKS))
    made.mempool.add(3, 0, b"two")
    path = [on_path(9, with_links({3: [(0, b"one")]}, LINKS[:1]))]
    assert carried_by((await made.build(10, path=path)).body).certificates == LINKS[1:]


async def test_an_offer_replaces_the_one_before(autojump_clock: MockClock) -> None:
    made = bench()
    made.source.offer(OfferLinks(LINKS))
    made.source.offer(OfferLinks(()))
    assert (await made.build(9)).body == b""


async def test_they_take_at_most_half_of_a_payload(autojump_clock: MockClock) -> None:
    large = [link(4 * n, 4 * n + 4, bytes([n]) * 300) for n in range(2)]
    made = bench(payload_size_max=1024)
    made.source.offer(OfferLinks(tuple(large)))
    for number in range(8):
        made.mempool.add(3, 0, bytes([number]) * 100)
    built = await made.build(9)
    carried = carried_by(built.body)
    assert carried.certificates == (large[0],)
    assert carried.sections != ()
    assert len(built.body) <= 1024


async def test_what_speaks_of_the_own_height_waits(autojump_clock: MockClock) -> None:
    made = bench(committed=7)
    made.source.offer(OfferLinks(LINKS))
    assert carried_by((await made.build(8)).body).certificates == LINKS[:1]


# --- judging ---------------------------------------------------------------------------------------------------------


async def test_good_ones_are_good_whatever_else_is_there(autojump_clock: MockClock) -> None:
    made = bench()
    for carried in (assemble_payload((), LINKS), with_links({3: [(0, b"one")]}, LINKS)):
        assert (await made.judge(carried, 9)).valid


@pytest.mark.parametrize("refused", LINKS)
async def test_one_that_does_not_verify_spoils_its_block(refused: LinkCertificate, autojump_clock: MockClock) -> None:
    verdict = await bench(refused=[refused]).judge(with_links({3: [(0, b"one")]}, LINKS), 9)
    assert verdict.reason == "link certificate: no quorum"


async def test_one_about_a_height_that_is_not_below_spoils_its_block(autojump_clock: MockClock) -> None:
    verdict = await bench(committed=7).judge(assemble_payload((), LINKS), 8)
    assert verdict.reason == "a link certificate for height 8, which is not below the block's"


async def test_a_chain_without_checkpoints_carries_none(autojump_clock: MockClock) -> None:
    made = Bench(committed=8)
    verdict = await made.judge(assemble_payload((), LINKS), 9)
    assert verdict.reason == "a link certificate on a chain without checkpoints"


async def test_what_a_quorum_judged_is_not_judged_again(autojump_clock: MockClock) -> None:
    made = bench(refused=LINKS)
    carried = assemble_payload((), LINKS)
    judged: Block = on_path(9, carried)[0]
    assert (await made.check(judged, carried.body, certified=True)).valid
    assert EMPTY_PAYLOAD.certificates == ()
