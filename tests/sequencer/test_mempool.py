"""The mempool: typed answers, bounds, expiry, forwarding, and the fair way out. K = 4 throughout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.genesis import ChainSpec
from sequencer.body import EMPTY_PAYLOAD, Payload, assemble_payload
from sequencer.mempool import (
    FORWARD_BYTES_MAX,
    FORWARD_ENTRIES_MAX,
    Expired,
    ExpiryTooFar,
    ForwardedTransaction,
    Full,
    Mempool,
    MempoolLimits,
    Ordered,
    Pending,
    TooLarge,
    UnknownRollup,
)
from sequencer.merkle import TRANSACTIONS_MAX
from sequencer.transactions import transaction_id
from sequencer.window import CommittedWindow
from tests.sequencer.chains import advance, payload, spec


class Pool:
    """A mempool and its window, which move together as the ledger moves them."""

    def __init__(
        self, *, committed: int = 0, chain: ChainSpec | None = None, limits: MempoolLimits | None = None
    ) -> None:
        self.chain = chain or spec()
        self.window = CommittedWindow(self.chain.deduplication_heights)
        advance(self.window, *[EMPTY_PAYLOAD] * committed)
        self.mempool = Mempool(self.chain, self.window, limits)

    def commit(self, carried: Payload = EMPTY_PAYLOAD) -> list[bytes]:
        advance(self.window, carried)
        return self.mempool.committed(self.window.height, carried.sections)

    def build(self, *excluded: Payload, size_bytes_max: int | None = None) -> Payload:
        size = self.chain.payload_size_max if size_bytes_max is None else size_bytes_max
        return assemble_payload(
            self.mempool.select(
                height=self.window.height + 1,
                size_bytes_max=size,
                excluded=[each.positions.keys() for each in excluded],
            )
        )


def pending(rollup_id: int, data: bytes, valid_until: int = 0, *, known: bool = False) -> Pending:
    return Pending(transaction_id(rollup_id, valid_until, data), known)


# --- answers -----------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_in_order() -> None:
    pool = Pool(committed=2)
    answers = pool.mempool.add_batch(3, [(0, b"a"), (2, b"late"), (0, bytes(1025)), (0, b"a"), (5, b"b"), (8, b"far")])
    assert answers == [
        pending(3, b"a"),
        Expired(2, 3),
        TooLarge(1025, 1024),
        pending(3, b"a", known=True),
        pending(3, b"b", 5),
        ExpiryTooFar(8, 7),
    ]
    assert pool.mempool.pending(3) == (2, 2)
    assert pool.mempool.pending(7) == (0, 0)


def test_unknown_rollups_are_refused() -> None:
    pool = Pool()
    assert pool.mempool.add_batch(4, [(0, b"a"), (0, b"b")]) == [UnknownRollup(4)] * 2
    assert pool.mempool.add_batch(-1, [(0, b"a")]) == [UnknownRollup(-1)]


@pytest.mark.parametrize(
    ("valid_until", "kind"),
    [(-1, Expired), (9, Expired), (10, Pending), (14, Pending), (15, ExpiryTooFar), (2**70, ExpiryTooFar)],
)
def test_expiry_at_its_edges(valid_until: int, kind: type) -> None:
    """The next height is 10."""
    assert isinstance(Pool(committed=9).mempool.add(3, valid_until, b"a"), kind)


def test_resubmission_is_idempotent() -> None:
    pool = Pool()
    assert pool.mempool.add(3, 0, b"a") == pending(3, b"a")
    assert pool.mempool.add(3, 0, b"a") == pending(3, b"a", known=True)
    pool.commit(payload({3: [(0, b"a")]}))
    assert pool.mempool.add(3, 0, b"a") == Ordered(transaction_id(3, 0, b"a"), 1)
    for _ in range(4):
        pool.commit()
    assert pool.mempool.add(3, 0, b"a") == pending(3, b"a")


def test_one_rollup_s_transaction_is_not_another_s() -> None:
    pool = Pool()
    assert pool.mempool.add(3, 0, b"a") != pool.mempool.add(7, 0, b"a")
    assert pool.build().root == payload({3: [(0, b"a")], 7: [(0, b"a")]}).root


@pytest.mark.parametrize("limits", [MempoolLimits(entries_max=2), MempoolLimits(bytes_max=8)])
def test_a_full_queue_refuses_and_leaves_the_others_alone(limits: MempoolLimits) -> None:
    pool = Pool(limits=limits)
    batch = [(0, b"1111"), (0, b"2222"), (0, b"3333")]
    assert pool.mempool.add_batch(3, batch) == [pending(3, b"1111"), pending(3, b"2222"), Full(3, 2, 8)]
    assert pool.mempool.add(3, 0, b"1111") == pending(3, b"1111", known=True)
    assert pool.mempool.add(7, 0, b"3333") == pending(7, b"3333")
    pool.commit(payload({3: [(0, b"1111")]}))
    assert pool.mempool.add(3, 0, b"3333") == pending(3, b"3333")


# --- what leaves -------------------------------------------------------------------------------------------------


def test_what_expired_is_dropped_with_a_status() -> None:
    pool = Pool()
    pool.mempool.add_batch(3, [(1, b"one"), (2, b"two"), (0, b"for ever")])
    one, two = transaction_id(3, 1, b"one"), transaction_id(3, 2, b"two")
    assert pool.commit() == [one]
    assert [pool.mempool.has_expired(each) for each in (one, two)] == [True, False]
    assert [pool.mempool.is_pending(each) for each in (one, two)] == [False, True]
    assert pool.commit(payload({3: [(2, b"two")]})) == []
    assert not pool.mempool.has_expired(two)
    assert pool.mempool.pending(3) == (1, len(b"for ever"))


def test_an_abandoned_proposal_gives_everything_back() -> None:
    pool = Pool()
    pool.mempool.add_batch(3, [(0, b"a"), (0, b"b")])
    proposed = pool.build()
    assert pool.build(proposed) is EMPTY_PAYLOAD
    assert pool.build().root == proposed.root


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([3, 7]), st.sampled_from([0, 1, 2, 3]), st.binary(max_size=2), st.booleans()),
        max_size=40,
    )
)
def test_the_books_balance(steps: list[tuple[int, int, bytes, bool]]) -> None:
    """Against a model that keeps a plain dictionary."""
    pool = Pool(limits=MempoolLimits(bytes_max=12, entries_max=8))
    model: dict[bytes, tuple[int, int, int]] = {}
    for rollup_id, ahead, data, commit in steps:
        valid_until = pool.window.height + ahead if ahead else 0
        answer = pool.mempool.add(rollup_id, valid_until, data)
        if isinstance(answer, Pending):
            assert answer.known == (answer.transaction_id in model)
            model[answer.transaction_id] = rollup_id, valid_until, len(data)
        if commit:
            built = pool.build(size_bytes_max=60)
            expired = pool.commit(built)
            height = pool.window.height
            model = {each: entry for each, entry in model.items() if each not in built.positions}
            assert sorted(expired) == sorted(each for each, entry in model.items() if 0 < entry[1] <= height)
            model = {each: entry for each, entry in model.items() if each not in expired}
        for queue in (3, 7):
            sizes = [size for owner, _, size in model.values() if owner == queue]
            assert pool.mempool.pending(queue) == (len(sizes), sum(sizes))
        assert all(pool.mempool.is_pending(each) for each in model)
    assert set(pool.build(size_bytes_max=4096).positions) == set(model)


# --- fairness ----------------------------------------------------------------------------------------------------


def numbered(count: int, size_bytes: int) -> list[tuple[int, bytes]]:
    return [(0, number.to_bytes(4, "big") * (size_bytes // 4)) for number in range(count)]


def carried_bytes(built: Payload) -> dict[int, int]:
    return {section.rollup_id: sum(map(len, section.transactions)) for section in built.sections}


def test_arrival_order_within_a_rollup() -> None:
    pool = Pool()
    pool.mempool.add_batch(3, numbered(9, 40))
    assert pool.build().sections[0].transactions == tuple(data for _, data in numbered(9, 40))


def test_a_whale_pushes_nobody_out() -> None:
    pool = Pool(chain=spec(rollups=tuple(range(50)), payload_size_max=16_384))
    pool.mempool.add_batch(0, numbered(2000, 100))
    for rollup_id in range(1, 50):
        pool.mempool.add(rollup_id, 0, b"small")
    built = pool.build()
    assert set(carried_bytes(built)) == set(range(50))
    assert carried_bytes(built)[0] > 10_000
    assert len(built.body) <= 16_384


def test_what_one_leaves_the_others_share() -> None:
    pool = Pool(chain=spec(payload_size_max=30_000))
    pool.mempool.add_batch(3, numbered(1000, 100))
    pool.mempool.add_batch(7, numbered(1000, 100))
    pool.mempool.add_batch(2**64 - 3, numbered(5, 100))
    shares = carried_bytes(pool.build())
    assert shares[2**64 - 3] == 500
    assert abs(shares[3] - shares[7]) <= 200
    assert sum(shares.values()) > 25_000


def test_shares_are_of_bytes_whatever_the_size_of_a_transaction() -> None:
    """Three rollups send 20, 100 and 1,000 bytes at a time; over many blocks each gets a third of the bytes."""
    pool = Pool(chain=spec(payload_size_max=4096), limits=MempoolLimits())
    sizes = {3: 20, 7: 100, 2**64 - 3: 1000}
    total: Counter[int] = Counter()
    for rollup_id, size in sizes.items():
        pool.mempool.add_batch(rollup_id, numbered(100_000 // size, size))
    for _ in range(45):
        built = pool.build()
        pool.commit(built)
        # What a transaction costs includes its overhead of 14 bytes.
        total.update({each.rollup_id: sum(len(t) + 14 for t in each.transactions) for each in built.sections})
    assert max(total.values()) - min(total.values()) < pool.chain.payload_size_max
    assert min(total.values()) > 50_000


def test_more_rollups_than_a_payload_has_room_for_take_turns() -> None:
    """A payload has room for about 15 shares of the smallest quantum; 100 rollups are all busy."""
    pool = Pool(chain=spec(rollups=tuple(range(100)), payload_size_max=16_384))
    for rollup_id in range(100):
        pool.mempool.add_batch(rollup_id, numbered(50, 252))
    served: Counter[int] = Counter()
    for _ in range(14):
        built = pool.build()
        pool.commit(built)
        served.update(carried_bytes(built))
    assert set(served) == set(range(100))
    assert max(served.values()) <= 3 * min(served.values())


def test_a_large_transaction_gets_its_turn_among_many_small_ones() -> None:
    pool = Pool(chain=spec(rollups=tuple(range(20)), payload_size_max=8192, transaction_size_max=4000))
    for rollup_id in range(19):
        pool.mempool.add_batch(rollup_id, numbered(500, 100))
    pool.mempool.add(19, 0, bytes(4000))
    for _ in range(6):
        built = pool.build()
        pool.commit(built)
    assert pool.mempool.pending(19) == (0, 0)


@given(
    queues=st.lists(st.lists(st.integers(0, 1000), max_size=12), min_size=1, max_size=6),
    size_max=st.integers(2048, 6000),
)
def test_no_queue_waits_for_ever_and_no_payload_is_too_large(queues: list[list[int]], size_max: int) -> None:
    chain = spec(rollups=tuple(range(len(queues))), payload_size_max=size_max)
    pool = Pool(chain=chain)
    for rollup_id, sizes in enumerate(queues):
        pool.mempool.add_batch(rollup_id, [(0, bytes([i]) * size) for i, size in enumerate(sizes)])
    waiting: Counter[int] = Counter()
    while any(pool.mempool.pending(rollup_id)[0] for rollup_id in chain.rollups):
        built = pool.build()
        assert 0 < len(built.body) <= size_max
        pool.commit(built)
        served = carried_bytes(built)
        for rollup_id in chain.rollups:
            waiting[rollup_id] = (
                0 if rollup_id in served or not pool.mempool.pending(rollup_id)[0] else waiting[rollup_id] + 1
            )
            # A turn at the front of the payload comes to each in so many blocks, and the payload fits any transaction.
            assert waiting[rollup_id] <= 2 * len(queues)


def test_a_payload_has_no_more_transactions_than_the_layout_allows() -> None:
    pool = Pool(chain=spec(payload_size_max=4 * 1024 * 1024))
    for rollup_id in (3, 7):
        pool.mempool.add_batch(rollup_id, numbered(TRANSACTIONS_MAX // 2 + 9, 4))
    built = pool.build()
    assert len(built.positions) == TRANSACTIONS_MAX


# --- forwarding --------------------------------------------------------------------------------------------------


def test_new_local_transactions_are_offered_once() -> None:
    pool = Pool()
    pool.mempool.add_batch(3, [(0, b"a"), (2, b"b"), (0, b"a")])
    pool.mempool.add(7, 0, b"from a peer", local=False)
    pool.mempool.add(3, 0, b"a")
    assert pool.mempool.pending_to_forward() == [
        ForwardedTransaction(3, 0, b"a"),
        ForwardedTransaction(3, 2, b"b"),
    ]
    assert pool.mempool.pending_to_forward() == []


def forwarded_bytes(offered: Sequence[ForwardedTransaction]) -> int:
    return sum(len(each.data) for each in offered)


def test_of_a_flood_a_little_is_out_at_a_time() -> None:
    pool = Pool()
    flood = numbered(3 * FORWARD_BYTES_MAX // 1000, 1000)
    pool.mempool.add_batch(3, flood)
    first = pool.mempool.pending_to_forward()
    assert FORWARD_BYTES_MAX <= forwarded_bytes(first) < FORWARD_BYTES_MAX + 1000
    assert [each.data for each in first] == [data for _, data in flood[: len(first)]], "the oldest first"
    pool.mempool.add(3, 0, b"one more")
    assert pool.mempool.pending_to_forward() == [], "enough is out"
    ordered = flood[10:30]
    pool.commit(payload({3: ordered}))
    second = pool.mempool.pending_to_forward()
    assert [each.data for each in second] == [data for _, data in flood[len(first) : len(first) + len(ordered)]]
    pool.commit(payload({3: [*flood[:10], *flood[30:], (0, b"one more")]}))
    assert pool.mempool.pending_to_forward() == []
    pool.mempool.add(3, 0, b"calm again")
    assert pool.mempool.pending_to_forward() == [ForwardedTransaction(3, 0, b"calm again")]


def test_what_is_offered_at_once_is_bounded_in_number() -> None:
    pool = Pool()
    pool.mempool.add_batch(3, [(0, number.to_bytes(4, "big")) for number in range(2 * FORWARD_ENTRIES_MAX)])
    assert len(pool.mempool.pending_to_forward()) == FORWARD_ENTRIES_MAX


def test_what_is_gone_is_not_offered() -> None:
    pool = Pool()
    pool.mempool.add_batch(3, [(0, b"a"), (1, b"expires"), (0, b"b")])
    pool.commit(payload({3: [(0, b"a")]}))
    assert pool.mempool.pending_to_forward() == [ForwardedTransaction(3, 0, b"b")]
