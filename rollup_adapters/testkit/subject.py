"""The adapter under test, the histories it is driven through, and the run that others are compared with."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol, TypeAlias

import trio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rollup_adapters.base import (
    AdapterContext,
    Executed,
    Height,
    JsonValue,
    Outcome,
    RollupAdapter,
    SequencedBlock,
)

Blocks: TypeAlias = Sequence[SequencedBlock]
ALARM_GRACE_S = 2.0


class ConformanceError(AssertionError):
    """The adapter breaks the contract. The message says which rule, what was seen, and how it is usually mended."""


class StuckError(BaseException):
    """No answer in time. Not an Exception: no adapter swallows it, and hypothesis does not repeat it to find a smaller
    example, which would take as long again every time."""


class Deliverable(Protocol):
    """What a feeder needs: an adapter in this process, or a host that runs one."""

    async def deliver(self, blocks: Sequence[SequencedBlock]) -> Executed: ...

    async def last_delivered(self) -> Height: ...


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The arguments of ``conformance``; see there."""

    adapter: type[RollupAdapter]
    transactions: st.SearchStrategy[bytes]
    settings: Mapping[str, JsonValue]
    rollup_id: int
    queries: tuple[tuple[str, JsonValue], ...]
    settled: Callable[[RollupAdapter], Awaitable[tuple[Height, Height]]] | None
    commutative: bool
    examples: int
    timeout_s: float


class History:
    """Confirmed blocks, cut into deliveries in one way. No dataclass: hypothesis would print every byte of one."""

    def __init__(self, runs: tuple[tuple[SequencedBlock, ...], ...]) -> None:
        self.runs = runs
        self.blocks = tuple(block for run in runs for block in run)

    def __repr__(self) -> str:
        """What hypothesis prints as the failing case: heights and transactions, long ones shortened."""
        runs = " then ".join(", ".join(f"{block.height}: {_shown(block)}" for block in run) for run in self.runs)
        return f"<deliver {runs}>"


def _shown(block: SequencedBlock) -> str:
    transactions = [
        repr(each) if len(each) <= 64 else f"{each[:64]!r}... ({len(each)} bytes)" for each in block.transactions
    ]
    return f"[{', '.join(transactions)}]"


@dataclass(kw_only=True)
class Bench:
    """A temporary place for one example: fresh directories, and every adapter opened in them, closed at the end."""

    subject: Subject
    root: Path
    opened: list[RollupAdapter] = field(default_factory=list)
    directories: int = 0

    def new_directory(self) -> Path:
        self.directories += 1
        directory = self.root / f"{self.directories}"
        directory.mkdir()
        return directory

    def open(self, directory: Path | None = None) -> RollupAdapter:
        """A new adapter object, on a fresh directory unless one is given."""
        context = AdapterContext(
            rollup_id=self.subject.rollup_id,
            directory=self.new_directory() if directory is None else directory,
            settings=self.subject.settings,
        )
        adapter = self.subject.adapter(context)
        self.opened.append(adapter)
        return adapter

    async def close(self, adapter: RollupAdapter) -> None:
        self.opened.remove(adapter)
        await adapter.close()

    async def close_all(self) -> None:
        while self.opened:
            await self.opened.pop().close()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the adapter itself said when the blocks were delivered one by one, undisturbed."""

    commitments: Mapping[Height, bytes]
    outcomes: Mapping[Height, tuple[Outcome, ...]]


def fail(rule: str, seen: str, mend: str) -> NoReturn:
    raise ConformanceError(f"{rule}\n  seen: {seen}\n  mend: {mend}")


async def deliver(adapter: Deliverable, blocks: Blocks, *, cursor: Height = 0) -> Executed:
    """Deliver, and hold the answer to what any answer must be. ``cursor`` is the height delivered before."""
    heights = f"heights {blocks[0].height}..{blocks[-1].height}"
    try:
        executed = await adapter.deliver(blocks)
    except Exception as error:
        fail(
            "deliver must not raise, whatever the transactions are",
            f"{heights}: {type(error).__name__}: {error}",
            "catch what a bad transaction causes, record it as skipped, and go on with the next",
        )
    expected = max(cursor, blocks[-1].height)
    if executed.height != expected:
        fail(
            "Executed.height is the last height now durable",
            f"after {heights} it is {executed.height}, not {expected}",
            "advance the cursor to the last block of the delivery, empty or not, and never move it back",
        )
    if len(executed.state_commitment) != 32:
        fail(
            "Executed.state_commitment has 32 bytes",
            f"{len(executed.state_commitment)} bytes after {heights}",
            "hash the state's canonical form with a 32-byte hash",
        )
    counts = [len(outcomes) for outcomes in executed.outcomes]
    wanted = [len(block.transactions) for block in blocks]
    if counts != wanted:
        fail(
            "Executed.outcomes has one tuple per delivered block and one outcome per transaction",
            f"{counts} outcomes for {wanted} transactions in {heights}",
            "record an outcome for every transaction, skipped ones too, and read back those of blocks delivered before",
        )
    return executed


async def reference(bench: Bench, blocks: Blocks) -> Reference:
    """Deliver ``blocks`` one by one to a fresh adapter and write down every answer."""
    adapter = bench.open()
    commitments: dict[Height, bytes] = {}
    outcomes: dict[Height, tuple[Outcome, ...]] = {}
    for block in blocks:
        executed = await deliver(adapter, [block])
        commitments[block.height] = executed.state_commitment
        outcomes[block.height] = executed.outcomes[0]
    await bench.close(adapter)
    return Reference(commitments=commitments, outcomes=outcomes)


async def resume(adapter: Deliverable, blocks: Blocks, undisturbed: Reference, *, moment: str) -> None:
    """Compare state with cursor, deliver what is missing as the node does, and compare the end and every outcome."""
    try:
        await _resume(adapter, blocks, undisturbed)
    except Exception as error:
        described = str(error) if isinstance(error, ConformanceError) else f"{type(error).__name__}: {error}"
        fail(
            "after a crash an adapter resumes as if there had been none",
            f"{moment}: {described}",
            "write state, cursor and outcomes in one transaction, and deliver nothing at or below the cursor again",
        )


async def _resume(adapter: Deliverable, blocks: Blocks, undisturbed: Reference) -> None:
    cursor = await adapter.last_delivered()
    known = [block for block in blocks if block.height <= cursor]
    if known:
        executed = await deliver(adapter, known[-1:], cursor=cursor)
        if executed.state_commitment != undisturbed.commitments[cursor]:
            others = [height for height, root in undisturbed.commitments.items() if root == executed.state_commitment]
            fail(
                "state and cursor are one",
                f"the cursor is {cursor}, but the state is that of "
                + (f"height {others[0]}" if others else "no height at all"),
                "write both in one transaction",
            )
    missing = [block for block in blocks if block.height > cursor]
    if missing:
        await deliver(adapter, missing, cursor=cursor)
    compare(await deliver(adapter, blocks, cursor=blocks[-1].height), blocks, undisturbed, moment="resumed")


def compare(executed: Executed, blocks: Blocks, undisturbed: Reference, *, moment: str) -> None:
    """``executed`` is the answer to a delivery of ``blocks`` that ends at the same height as the undisturbed run."""
    height = executed.height
    if executed.state_commitment != undisturbed.commitments[height]:
        fail(
            "the state after a height depends on nothing but the blocks up to it",
            f"{moment}: at height {height} the commitment is {executed.state_commitment.hex()}, "
            f"undisturbed it was {undisturbed.commitments[height].hex()}",
            "execute each block above the cursor once, in order of height; use no clock, no chance, no iteration over "
            "sets, no address or path, and nothing that only memory remembers",
        )
    for block, outcomes in zip(blocks, executed.outcomes, strict=True):
        first = undisturbed.outcomes[block.height]
        if outcomes != first:
            fail(
                "a block's outcomes are those of its first delivery, on every node",
                f"{moment}: height {block.height} has {outcomes}, undisturbed it had {first}",
                "store outcomes in the transaction of the state, and answer a second delivery from the store",
            )


def make_block(height: Height, transactions: Sequence[bytes]) -> SequencedBlock:
    """A block whose timestamp and id follow from its height and content."""
    digest = sha256(b"%d:" % height)
    for transaction in transactions:
        digest.update(sha256(transaction).digest())
    timestamp_ms = 1_700_000_000_000 + 1_000 * height
    return SequencedBlock(
        height=height, timestamp_ms=timestamp_ms, block_id=digest.digest(), transactions=tuple(transactions)
    )


@st.composite
def histories(draw: st.DrawFn, transactions: st.SearchStrategy[bytes]) -> History:
    """One to six blocks of up to four transactions, with gaps between heights and blocks that are empty."""
    height = 0
    blocks = []
    for _ in range(draw(st.integers(1, 6))):
        height += draw(st.integers(1, 3))
        blocks.append(make_block(height, draw(st.lists(transactions, max_size=4))))
    runs = []
    start = 0
    while start < len(blocks):
        end = start + draw(st.integers(1, 3))
        runs.append(tuple(blocks[start:end]))
        start = end
    return History(tuple(runs))


def for_each_history(
    subject: Subject, check: Callable[[Bench, History], Awaitable[None]], transactions: st.SearchStrategy[bytes]
) -> None:
    """Run ``check`` in a trio of its own for each of ``subject.examples`` histories."""

    @hypothesis_settings(
        max_examples=subject.examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(history=histories(transactions))
    def example(history: History) -> None:
        run_check(subject, lambda bench: check(bench, history))

    example()


def run_check(subject: Subject, check: Callable[[Bench], Awaitable[None]], *, parts: int = 1) -> None:
    """Run ``check`` with a bench of its own. One of several ``parts`` has the time of as many examples.

    Raises :class:`StuckError` past that time."""
    timeout_s = parts * subject.timeout_s

    async def checked() -> None:
        with tempfile.TemporaryDirectory(prefix="conformance-") as root:
            bench = Bench(subject=subject, root=Path(root))
            with trio.fail_after(timeout_s):
                await check(bench)
                await bench.close_all()

    try:
        with alarm(timeout_s + ALARM_GRACE_S):
            trio.run(checked)
    except BaseExceptionGroup as group:  # from a check that needs a nursery
        failures = group.subgroup(ConformanceError)
        if failures is None:
            raise
        raise _first(failures) from None
    except (trio.TooSlowError, StuckError, trio.TrioInternalError) as error:
        if isinstance(error, trio.TrioInternalError) and not isinstance(error.__cause__, StuckError):
            raise  # else the alarm met trio itself, which was waiting for a task that cannot be cancelled
        raise StuckError(f"no answer within {timeout_s:g} s; the traceback shows where it hung") from error


def _first(group: BaseExceptionGroup[ConformanceError]) -> ConformanceError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


@contextmanager
def alarm(after_s: float) -> Iterator[None]:
    """Interrupt code that never returns to trio. Only the main thread can be interrupted; elsewhere: nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise StuckError("no return to the event loop")

    previous = signal.signal(signal.SIGALRM, ring)
    remaining_s, _ = signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, remaining_s)  # of a time limit that the test runner had set, or 0
