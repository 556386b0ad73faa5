"""The aspects that need one process and no crash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import trio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rollup_adapters.base import (
    API_VERSION,
    Accepted,
    AdapterContext,
    Executed,
    Height,
    JsonValue,
    Level,
    QueryError,
    Rejected,
    RollupAdapter,
    SequencedBlock,
)
from rollup_adapters.host.wire import ANSWER_SIZE_BYTES_MAX, is_json
from rollup_adapters.testkit.subject import (
    Bench,
    History,
    Reference,
    Subject,
    compare,
    deliver,
    fail,
    for_each_history,
    make_block,
    reference,
    run_check,
)

UNKNOWN_SETTING: Final = "no_such_setting_exists"
METHOD_NOT_FOUND: Final = -32601
UNKNOWN_METHOD: Final = "no_such_method_exists"
HUGE_TRANSACTION_BYTES: Final = 1024 * 1024
DETAIL_CHARACTERS_MAX: Final = 1_000


def contract(subject: Subject) -> None:
    """The frame: version, fresh cursor, settings, admission, close and reopen."""
    if subject.adapter.api_version != API_VERSION:
        fail("api_version is that of the contract", f"{subject.adapter.api_version!r}", f"api_version = {API_VERSION}")
    run_check(subject, _refuses_unknown_settings)
    for_each_history(subject, _admits_and_reopens, subject.transactions | st.binary(max_size=64))


async def _refuses_unknown_settings(bench: Bench) -> None:
    settings = {**bench.subject.settings, UNKNOWN_SETTING: 1}
    context = AdapterContext(rollup_id=bench.subject.rollup_id, directory=bench.new_directory(), settings=settings)
    rule = "the constructor raises ValueError naming a setting that it does not know"
    mend = "compare the keys of context.settings with those that you read; a misspelt key must not pass in silence"
    try:
        adapter = bench.subject.adapter(context)
    except ValueError as error:
        if UNKNOWN_SETTING not in str(error):
            fail(rule, f"ValueError({str(error)!r}) does not name {UNKNOWN_SETTING!r}", mend)
    except Exception as error:
        fail(rule, f"{type(error).__name__}: {error}", mend)
    else:
        await adapter.close()
        fail(rule, f"settings with the key {UNKNOWN_SETTING!r} were accepted", mend)


async def _admits_and_reopens(bench: Bench, history: History) -> None:
    directory = bench.new_directory()
    adapter = bench.open(directory)
    if (cursor := await adapter.last_delivered()) != 0:
        fail("last_delivered is 0 before the first delivery", f"{cursor}", "start the cursor at 0")
    for block in history.blocks:
        await _check_admission(adapter, block.transactions)
    before = await deliver(adapter, history.blocks)
    await bench.close(adapter)
    adapter = bench.open(directory)
    if (cursor := await adapter.last_delivered()) != before.height:
        fail(
            "the cursor survives close and reopen",
            f"{cursor} after {before.height} was delivered",
            "read the cursor from disk when the adapter is opened",
        )
    after = await deliver(adapter, history.blocks[-1:], cursor=before.height)
    if after.state_commitment != before.state_commitment:
        fail(
            "the state survives close and reopen",
            f"commitment {after.state_commitment.hex()} after {before.state_commitment.hex()}",
            "keep nothing of the state in memory only",
        )


async def _check_admission(adapter: RollupAdapter, transactions: Sequence[bytes]) -> None:
    try:
        answers = await adapter.check(transactions)
    except Exception as error:
        fail(
            "check must not raise, whatever the bytes are",
            f"{type(error).__name__}: {error}",
            "answer Rejected(reason=...) for what cannot be decoded",
        )
    if len(answers) != len(transactions) or not all(isinstance(answer, Accepted | Rejected) for answer in answers):
        fail(
            "check gives one Accepted or Rejected per transaction, in order",
            f"{answers!r} for {len(transactions)} transactions",
            "append exactly one answer per transaction",
        )


def order(subject: Subject) -> None:
    """How blocks are cut into deliveries does not matter; the order of transactions does."""
    for_each_history(subject, _batching_does_not_matter, subject.transactions)
    if not subject.commutative:
        _order_is_committed_to(subject)


async def _batching_does_not_matter(bench: Bench, history: History) -> None:
    undisturbed = await reference(bench, history.blocks)
    adapter = bench.open()
    for run in history.runs:
        compare(await deliver(adapter, run), run, undisturbed, moment=f"delivered in a run of {len(run)} blocks")
    adapter = bench.open()
    executed = await deliver(adapter, history.blocks)
    compare(executed, history.blocks, undisturbed, moment="all blocks in one delivery")
    filled = [block for block in history.blocks if block.transactions]
    if filled:
        adapter = bench.open()
        executed = await deliver(adapter, filled)
        compare(executed, filled, undisturbed, moment="empty heights jumped over")


def _order_is_committed_to(subject: Subject) -> None:
    tried = 0
    noticed = 0

    async def reverse(bench: Bench, history: History) -> None:
        nonlocal tried, noticed
        transactions = [transaction for block in history.blocks for transaction in block.transactions]
        if len(set(transactions)) < 2 or transactions == transactions[::-1]:
            return
        forward = await deliver(bench.open(), [make_block(1, transactions)])
        backward = await deliver(bench.open(), [make_block(1, transactions[::-1])])
        if "skipped" in (*_statuses(forward), *_statuses(backward)):
            return  # which ones were skipped may depend on the order, and the state on that alone
        tried += 1
        noticed += forward.state_commitment != backward.state_commitment

    for_each_history(subject, reverse, subject.transactions)
    if tried and not noticed:
        fail(
            "transactions execute in the order in which they were delivered",
            f"in {tried} histories, the reverse order gave the same state commitment",
            "do not sort or group what is delivered; where order truly does not matter, say commutative=True",
        )


def _statuses(executed: Executed) -> list[str]:
    return [outcome.status for outcomes in executed.outcomes for outcome in outcomes]


def determinism(subject: Subject) -> None:
    """Two nodes agree."""
    for_each_history(subject, _two_instances_agree, subject.transactions)


async def _two_instances_agree(bench: Bench, history: History) -> None:
    first = await reference(bench, history.blocks)
    second = bench.open()
    for block in history.blocks:
        compare(await deliver(second, [block]), [block], first, moment="a second fresh instance")


def idempotence(subject: Subject) -> None:
    """Blocks arrive at least once."""
    for_each_history(subject, _redeliver_every_suffix, subject.transactions)


async def _redeliver_every_suffix(bench: Bench, history: History) -> None:
    undisturbed = await reference(bench, history.blocks)
    directory = bench.new_directory()
    adapter = bench.open(directory)
    blocks = history.blocks
    for end in range(1, len(blocks) + 1):  # every suffix of what was delivered comes again, together with a new block
        start = max(0, end - 3)
        executed = await deliver(adapter, blocks[start:end])
        compare(executed, blocks[start:end], undisturbed, moment="known blocks and a new one in one delivery")
    await _redeliver(adapter, blocks, undisturbed)
    await bench.close(adapter)
    await _redeliver(bench.open(directory), blocks, undisturbed)


async def _redeliver(adapter: RollupAdapter, blocks: Sequence[SequencedBlock], undisturbed: Reference) -> None:
    height = blocks[-1].height
    for start, block in enumerate(blocks):
        executed = await deliver(adapter, blocks[start:], cursor=height)
        compare(executed, blocks[start:], undisturbed, moment=f"delivered again from height {block.height}")
        alone = await deliver(adapter, [block], cursor=height)
        if alone.state_commitment != undisturbed.commitments[height]:
            fail(
                "a block at or below the cursor changes nothing",
                f"height {block.height}, delivered again alone, changed the state commitment",
                "pass over blocks at or below the cursor before executing; answer with the present commitment",
            )


def poison(subject: Subject) -> None:
    """Bad transactions are skipped or included; none of them stops a rollup."""
    for_each_history(subject, _poison_passes, poisoned(subject.transactions))


@st.composite
def poisoned(draw: st.DrawFn, transactions: st.SearchStrategy[bytes]) -> bytes:
    """A transaction, or something that once was or never will be one."""
    transaction = draw(transactions)
    match draw(st.sampled_from(["sound", "random", "truncated", "extended", "flipped", "filled", "huge"])):
        case "random":
            return draw(st.binary(max_size=256))
        case "truncated":
            return transaction[: draw(st.integers(0, len(transaction)))]
        case "extended":
            return transaction + draw(st.binary(max_size=8))
        case "flipped" if transaction:
            index = draw(st.integers(0, len(transaction) - 1))
            changed = transaction[index] ^ (1 << draw(st.integers(0, 7)))
            return transaction[:index] + bytes([changed]) + transaction[index + 1 :]
        case "filled":
            return bytes([draw(st.sampled_from([0x00, 0x7F, 0x80, 0xC0, 0xF8, 0xFF]))]) * draw(st.integers(0, 300))
        case "huge":
            return bytes(HUGE_TRANSACTION_BYTES)
        case _:
            return transaction


async def _poison_passes(bench: Bench, history: History) -> None:
    for block in history.blocks:
        await _check_admission(bench.open(), block.transactions)
    duplicated = make_block(history.blocks[-1].height + 1, [*history.blocks[0].transactions] * 2)
    blocks = [*history.blocks, duplicated]
    undisturbed = await reference(bench, blocks)
    directory = bench.new_directory()
    adapter = bench.open(directory)
    for block in blocks:
        executed = await deliver(adapter, [block])
        compare(executed, [block], undisturbed, moment="poisoned transactions, delivered to a second instance")
        details = [outcome.detail for outcomes in executed.outcomes for outcome in outcomes]
        if any(len(detail) > DETAIL_CHARACTERS_MAX for detail in details):
            fail(
                "an outcome's detail is a short sentence",
                f"{max(map(len, details))} characters",
                "do not quote the transaction; name what is wrong with it",
            )
    await bench.close(adapter)
    executed = await deliver(bench.open(directory), blocks, cursor=duplicated.height)
    compare(executed, blocks, undisturbed, moment="poisoned transactions, after close and reopen")


def settle(subject: Subject) -> None:
    """Levels rise only, and touch nothing else."""
    for_each_history(subject, _settle_all, subject.transactions)


async def _settle_all(bench: Bench, history: History) -> None:
    directory = bench.new_directory()
    adapter = bench.open(directory)
    expected = {"soft": 0, "firm": 0}
    for block in history.blocks:
        before = await deliver(adapter, [block])
        height = block.height
        falling: list[tuple[Level, Height]] = [("soft", height - 1), ("firm", height // 3), ("soft", 0), ("firm", 0)]
        rising: list[tuple[Level, Height]] = [("soft", height), ("firm", height // 2)]
        for level, at in rising + falling:
            await adapter.settle(level, at)
            expected[level] = max(expected[level], at)
            await _compare_settled(bench, adapter, expected, f"after settle({level!r}, {at})")
        after = await deliver(adapter, [block], cursor=height)
        if (after.height, after.state_commitment) != (before.height, before.state_commitment):
            fail(
                "settle changes neither cursor nor state", f"it did at height {height}", "record the level beside both"
            )
    await bench.close(adapter)
    adapter = bench.open(directory)
    await _compare_settled(bench, adapter, expected, "after close and reopen")
    await adapter.settle("soft", 0)
    await _compare_settled(bench, adapter, expected, "after close, reopen and settle('soft', 0)")


async def _compare_settled(bench: Bench, adapter: RollupAdapter, expected: dict[str, Height], moment: str) -> None:
    if bench.subject.settled is None:
        return
    soft, firm = await bench.subject.settled(adapter)
    if (soft, firm) != (expected["soft"], expected["firm"]):
        fail(
            "settled levels are durable and never move backwards",
            f"{moment}: soft {soft}, firm {firm}; expected soft {expected['soft']}, firm {expected['firm']}",
            "store max(old, new) for each level",
        )


def query(subject: Subject) -> None:
    """Reads: refused by value, bounded, cancellable, without effect."""
    for_each_history(subject, _answer_queries, subject.transactions)
    for method, _ in subject.queries:
        _refuse_garbage(subject, method)


async def _answer_queries(bench: Bench, history: History) -> None:
    adapter = bench.open()
    before = await deliver(adapter, history.blocks)
    unfit: tuple[JsonValue, ...] = (None, [], {}, [None], "text")
    for params in unfit:
        await _expect_unknown(adapter, params)
    for method, params in bench.subject.queries:
        await _ask(adapter, method, params)
        with trio.CancelScope() as scope:
            scope.cancel()
            await _ask(adapter, method, params)
    after = await deliver(adapter, history.blocks[-1:], cursor=before.height)
    if after.state_commitment != before.state_commitment:
        fail("a query changes nothing", "the state commitment changed", "roll back what a simulated call writes")


async def _expect_unknown(adapter: RollupAdapter, params: JsonValue) -> None:
    rule = "a query for an unknown method raises QueryError(-32601, ...)"
    try:
        answer = await adapter.query(UNKNOWN_METHOD, params)
    except QueryError as refusal:
        if refusal.code != METHOD_NOT_FOUND:
            fail(
                rule, f"QueryError({refusal.code}, {refusal.message!r})", "end the dispatch on method with code -32601"
            )
    except Exception as error:
        fail(rule, f"{type(error).__name__}: {error}", "look at the method before its parameters")
    else:
        fail(rule, f"an answer: {answer!r}", "end the dispatch on method by raising")


def _refuse_garbage(subject: Subject, method: str) -> None:
    @hypothesis_settings(max_examples=4 * subject.examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(params=garbage())
    def example(params: JsonValue) -> None:
        async def check(bench: Bench) -> None:
            adapter = bench.open()
            await deliver(adapter, [make_block(1, [])])
            await _ask(adapter, method, params)

        run_check(subject, check)

    example()


def garbage() -> st.SearchStrategy[JsonValue]:
    """JSON that a stranger may send: any shape, and some of it large, deep or out of range."""
    leaves: st.SearchStrategy[JsonValue] = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
        st.sampled_from(["latest", "0x", "0x0", "0x" + "f" * 64, "-1", "x" * 100_000, "0x" + "00" * 100_000]),
    )
    keys = st.sampled_from(["from", "to", "position", "limit", "address", "height", "data", "fromBlock", "toBlock", ""])
    trees = st.recursive(
        leaves,
        lambda children: st.lists(children, max_size=4) | st.dictionaries(keys, children, max_size=4),
        max_leaves=10,
    )
    deep: list[JsonValue] = []
    for _ in range(200):
        deep = [deep]
    return trees | st.just(deep) | st.just([0] * 20_000)


async def _ask(adapter: RollupAdapter, method: str, params: JsonValue) -> None:
    """Ask, and accept a JSON answer of bounded size or a refusal by value."""
    shown = repr(params)[:200]
    try:
        answer = await adapter.query(method, params)
    except QueryError:
        return
    except Exception as error:
        fail(
            "a query raises nothing but QueryError",
            f"{method} with {shown}: {type(error).__name__}: {error}",
            "check the shape of the parameters first; raise QueryError(-32602, ...) naming the one that does not fit",
        )
    if not is_json(answer):
        fail("a query answers with JSON", f"{method} with {shown}: {answer!r}"[:500], "encode bytes as hex strings")
    size_bytes = len(msgspec.json.encode(answer))
    if size_bytes > ANSWER_SIZE_BYTES_MAX:
        fail(
            f"an answer has at most {ANSWER_SIZE_BYTES_MAX} bytes",
            f"{size_bytes} bytes from {method} with {shown}",
            "answer in pages, or refuse with QueryError(-32005, ...) naming the limit",
        )
