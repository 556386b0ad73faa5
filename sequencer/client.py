"""A client that believes nothing: it verifies what nodes tell it, names the one that lied, and asks another.

::

    async with SequencerClient(["http://127.0.0.1:26680", "http://127.0.0.1:26681"], genesis) as client:
        receipt = await client.submit_and_wait(7, b"...")               # verified
        async with client.follow(7, from_height=receipt.height) as sections:
            async for section in sections:                              # verified, complete, no height left out
                ...

Genesis is all that it trusts (``sequencer.genesis.genesis_of``). Receipts, sections and blocks prove themselves. All
that nodes prove goes to one light client, which compares it: two proven blocks that exclude each other are shown as
:class:`ConflictingBlocks`. That a transaction is *not* there yet cannot be proven: such a state is one node's word.

Where the validators change, the node that shows a block of a later epoch is asked how that epoch began. What was
learned stays in the genesis that was given (``Genesis.history``).

A node whose answer proves false is not asked again by this client (:attr:`SequencerClient.lies`). A node that cannot be
reached, or has not got what is asked for, is asked again later. One address may stand for several nodes, some of them
behind: what one answer speaks of and the next one does not know yet is no lie.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
import msgspec
import trio

from consensus.codec import digest
from consensus.engine import Refusal
from consensus.light_client import Advanced, Checkpoint, Fork, Known, LightClient, Proven
from consensus.types import BlockId, Epoch, Height
from sequencer.api.submit import NotAdmitted, SubmissionAnswer
from sequencer.block_summary import BlockSummary
from sequencer.epoch_changes import EpochChanges
from sequencer.event_stream import EventStreamError, ServerSentEvent, open_event_stream
from sequencer.genesis import Genesis
from sequencer.mempool import Full, Ordered, Pending, SubmissionRefused
from sequencer.node_answers import (
    BEFORE_TRUST,
    ConflictingBlocks,
    Lie,
    NodeFailed,
    NodeLied,
    NoNodeAnswered,
    StateAnswer,
    TransactionNotConfirmed,
    check_ids,
    checked,
    failure,
    read,
    state_answers,
    submission_answers,
)
from sequencer.receipts import Receipt, Section, VerificationError
from sequencer.transactions import Level, TransactionId, TransactionStatus, transaction_id, transaction_ids

logger = logging.getLogger(__name__)

T = TypeVar("T")

RESPONSE_BYTES_MAX: Final = 96 * 1024 * 1024
"""The largest section, in MessagePack, with room."""
EVENT_OVERHEAD_BYTES: Final = 16 * 1024 * 1024
SECTIONS_AHEAD_MAX: Final = 4
STALL_TIMEOUT_S: Final = 10.0
"""A followed node that shows no new height for so long, and for five idle intervals, is left for another."""
WAIT_STEP_S: Final = 10.0
"""How long one node is asked to wait before another one is."""
RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
LIES_MAX: Final = 1024

_PACKED: Final = "application/msgpack"
_HEADERS: Final = {"accept": _PACKED, "accept-encoding": "identity"}


class SequencerClient:
    """See the module's docstring. ``urls`` name the nodes' APIs, the preferred one first."""

    def __init__(self, urls: Sequence[str], genesis: Genesis, *, timeout_s: float = 15.0) -> None:
        if not urls:
            raise ValueError("urls: at least one node")
        self._urls = deque(url.rstrip("/") for url in urls)
        self._genesis = genesis
        self._timeout_s = timeout_s
        self._light = LightClient(genesis.history)
        self._liars: dict[str, Lie] = {}
        self._http = httpx.AsyncClient(headers=_HEADERS, timeout=timeout_s)
        self.lies: deque[Lie] = deque(maxlen=LIES_MAX)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    @property
    def head(self) -> Checkpoint | Proven:
        """The highest block that any node has proven to this client; genesis before the first."""
        return self._light.head

    # --- submission ----------------------------------------------------------------------------------------------

    async def submit(self, rollup_id: int, transaction: bytes, *, valid_until: Height = 0) -> Pending | Ordered:
        """Give one transaction to a node. Submitting again, anywhere, is harmless. Raises :class:`SubmissionRefused`
        and :class:`NoNodeAnswered`."""
        result = (await self.submit_batch(rollup_id, [transaction], valid_until=valid_until))[0]
        if isinstance(result, Pending | Ordered):
            return result
        raise SubmissionRefused(result)

    async def submit_batch(
        self, rollup_id: int, transactions: Sequence[bytes], *, valid_until: Height = 0
    ) -> list[SubmissionAnswer]:
        """Give many transactions of one rollup to a node, to be ordered up to ``valid_until`` (0: for ever); one answer
        each, in order. A node that is full is passed over while another one is not. Raises :class:`NoNodeAnswered`."""
        self._check_rollup(rollup_id)
        expected = transaction_ids(rollup_id, [valid_until] * len(transactions), transactions)
        body = msgspec.msgpack.encode(transactions)
        full: list[SubmissionAnswer] = []

        async def ask(url: str) -> list[SubmissionAnswer]:
            nonlocal full
            path = f"{url}/v1/rollups/{rollup_id}/transactions"
            answers = read(submission_answers, url, await self._post(url, path, body, {"valid_until": valid_until}))
            check_ids(url, answers, expected)
            if any(isinstance(each, Full) for each in answers):
                full = answers
                raise NodeFailed(url, 503, "full", "its queue for this rollup is full")
            return answers

        try:
            return await self._ask(ask)
        except NoNodeAnswered:
            if full:
                return full
            raise

    async def submit_and_wait(
        self,
        rollup_id: int,
        transaction: bytes,
        *,
        valid_until: Height = 0,
        level: str = Level.CONFIRMED,
        timeout_s: float = 30.0,
    ) -> Receipt:
        """Submit one transaction and return its verified receipt, all in one request where the first node is well.
        ``level`` as for :meth:`wait`. Raises as :meth:`submit` and :meth:`wait` do."""
        rung = _rung(level)
        self._check_rollup(rollup_id)
        wanted = transaction_id(rollup_id, valid_until, transaction)
        step_ms = int(min(timeout_s, WAIT_STEP_S) * 1000)
        query: dict[str, str | int] = {"valid_until": valid_until, "wait": rung.value, "timeout_ms": step_ms}

        async def ask(url: str) -> Receipt | None:
            path = f"{url}/v1/rollups/{rollup_id}/transactions"
            body = await self._post(url, path, transaction, query, content_type="application/octet-stream")
            return _of_level((await self._read_state(url, body, wanted, rung))[1], rung)

        with trio.fail_after(timeout_s):
            try:
                receipt = await self._ask(ask)
            except NoNodeAnswered:
                await self.submit(rollup_id, transaction, valid_until=valid_until)  # says typed why it is refused
                receipt = None
            return receipt or await self.wait(wanted, level=rung, timeout_s=timeout_s)

    # --- state ---------------------------------------------------------------------------------------------------

    async def status(self, transaction_id: TransactionId) -> TransactionStatus:
        """How far a transaction has come. From ``confirmed`` on it is proven; below, one node's word."""
        state, receipt = await self._ask(lambda url: self._state(url, transaction_id, {"proof": Level.FINAL.value}))
        if receipt is None:
            return TransactionStatus(level=state.level)
        return TransactionStatus(level=receipt.level, position=receipt.position)

    async def receipt(self, transaction_id: TransactionId, *, level: str = Level.CONFIRMED) -> Receipt | None:
        """The verified receipt; None when the node that was asked knows of none. With ``level`` ``final`` it proves
        finality too, where the transaction is final (:attr:`Receipt.level` says)."""
        proof: str | int = Level.FINAL.value if _rung(level) is Level.FINAL else 1
        _, receipt = await self._ask(lambda url: self._state(url, transaction_id, {"proof": proof}))
        return receipt

    async def wait(
        self, transaction_id: TransactionId, *, level: str = Level.CONFIRMED, timeout_s: float = 30.0
    ) -> Receipt:
        """The verified receipt, once the transaction is ``confirmed`` or ``final``. Raises ``trio.TooSlowError`` after
        ``timeout_s``, :class:`TransactionNotConfirmed` when it expired, :class:`NoNodeAnswered`, and ``ValueError`` for
        another level, and for ``final`` on a chain without checkpoints."""
        rung = _rung(level)
        if rung is Level.FINAL and not self._genesis.spec.checkpoint_interval:
            raise ValueError("level: this chain has no checkpoints, nothing is ever final")
        query: dict[str, str | int] = {"wait": rung.value, "timeout_ms": int(min(timeout_s, WAIT_STEP_S) * 1000)}
        with trio.fail_after(timeout_s):
            retry_s = RETRY_MIN_S
            while True:
                try:
                    _, receipt = await self._ask(lambda url: self._state(url, transaction_id, query, rung))
                except NoNodeAnswered as error:
                    if any(isinstance(each, NodeFailed) and each.code == "expired" for each in error.problems):
                        raise TransactionNotConfirmed(str(error)) from None
                    if len(self._liars) == len(self._urls):
                        raise
                    await trio.sleep(retry_s)
                    retry_s = min(2 * retry_s, RETRY_MAX_S)
                    continue
                reached = _of_level(receipt, rung)
                if reached is not None:
                    return reached
                self._urls.rotate(-1)  # this node may be one that sees nothing new

    async def _state(
        self, url: str, transaction_id: TransactionId, query: Mapping[str, str | int], level: Level = Level.CONFIRMED
    ) -> tuple[StateAnswer, Receipt | None]:
        path = f"{url}/v1/transactions/{transaction_id.hex()}"
        return await self._read_state(url, await self._get(url, path, query), transaction_id, level)

    async def _read_state(
        self, url: str, body: bytes, transaction_id: TransactionId, level: Level
    ) -> tuple[StateAnswer, Receipt | None]:
        """``level``: from which rung on the answer has to hold a receipt."""
        state = read(state_answers, url, body)
        if state.transaction_id != transaction_id:
            raise NodeLied(Lie(url, "transaction", "it answered about another one"))
        if state.receipt is None:
            if state.level in (level, Level.FINAL):
                raise NodeLied(Lie(url, "level", f"{state.level.value}, but without a receipt"))
            return state, None
        receipt = checked(url, Receipt.from_bytes(state.receipt))
        if receipt.transaction_id != transaction_id:
            raise NodeLied(Lie(url, "receipt", "it is of another transaction"))
        await self._verify(url, receipt)
        return state, receipt

    # --- blocks --------------------------------------------------------------------------------------------------

    async def section(self, rollup_id: int, height: Height) -> Section:
        """All that the block at ``height`` ordered for one rollup, verified. Raises :class:`NoNodeAnswered`, with
        problems of code ``pruned`` or ``not_available``."""
        self._check_rollup(rollup_id)

        async def ask(url: str) -> Section:
            body = await self._get(url, f"{url}/v1/rollups/{rollup_id}/sections/{height}", {})
            section = checked(url, Section.from_bytes(body))
            await self._verify_section(url, section, rollup_id, height)
            return section

        return await self._ask(ask)

    async def block(self, height: Height) -> BlockSummary:
        """The block at ``height`` without its transactions, verified. Raises :class:`NoNodeAnswered`."""

        async def ask(url: str) -> BlockSummary:
            block = checked(url, BlockSummary.from_bytes(await self._get(url, f"{url}/v1/blocks/{height}", {})))
            if block.height != height:
                raise NodeLied(Lie(url, "height", f"asked for {height}, it answered {block.height}"))
            await self._verify(url, block)
            return block

        return await self._ask(ask)

    @asynccontextmanager
    async def follow(self, rollup_id: int, from_height: Height = 1) -> AsyncIterator[SectionIterator]:
        """The rollup's sections, one of every height from ``from_height`` on, for ever; each verified, and standing on
        the one before. Goes on with another node where one fails, lies, or shows nothing new.

        The iterator raises :class:`NoNodeAnswered` when every node has lied or has pruned what comes next, and
        :class:`ConflictingBlocks`."""
        self._check_rollup(rollup_id)
        to_reader, sections = trio.open_memory_channel[Section | Exception](SECTIONS_AHEAD_MAX)
        fault: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_Follower(self, rollup_id, max(1, from_height), to_reader).run)
                try:
                    yield SectionIterator(sections)
                except Exception as error:  # raised again below, whatever it is
                    fault = error
                sections.close()
                nursery.cancel_scope.cancel()
        finally:
            if fault is not None:
                raise fault  # as it was raised in the block, not in the group that the nursery would make of it

    # --- asking --------------------------------------------------------------------------------------------------

    async def _ask(self, ask: Callable[[str], Awaitable[T]]) -> T:
        """The answer of the first node that gives one that verifies; it is asked first the next time."""
        problems: list[NodeFailed | NodeLied] = []
        for url in list(self._urls):
            if url in self._liars:
                continue
            try:
                result = await ask(url)
            except NodeLied as error:
                self._distrust(error.lie)
                problems.append(error)
            except NodeFailed as error:
                problems.append(error)
            else:
                self._prefer(url)
                return result
        raise NoNodeAnswered(problems)

    def _prefer(self, url: str) -> None:
        while self._urls[0] != url:
            self._urls.rotate(-1)

    def _distrust(self, lie: Lie) -> None:
        logger.error("%s lied about the %s: %s; it is not asked again", lie.url, lie.what, lie.reason)
        self._liars[lie.url] = lie
        self.lies.append(lie)

    def _check_rollup(self, rollup_id: int) -> None:
        if rollup_id not in self._genesis.spec.rollups:
            raise ValueError(f"rollup {rollup_id} is not of chain {self._genesis.spec.chain_id!r}")

    async def _verify(self, url: str, claim: Receipt | Section | BlockSummary) -> None:
        await self._learn(url, claim.header.epoch)
        if isinstance(claim, Receipt) and claim.finality is not None:
            await self._learn(url, claim.finality.headers[-1].epoch)
        try:
            claim.verify(self._genesis)
        except VerificationError as error:
            raise NodeLied(Lie(url, error.what, error.reason)) from None
        assert claim.commit_proof is not None, "it was verified"
        match self._light.advance(claim.header, claim.commit_proof):
            case Fork(kept=kept) as fork:
                raise ConflictingBlocks(kept.block_id, claim, url=url, fork=fork)
            case Refusal(reason=reason):
                raise NodeLied(Lie(url, "commit", reason))
            case Advanced() | Known():
                pass

    async def _learn(self, url: str, epoch: Epoch) -> None:
        """Have the validators of an epoch: ask the node that spoke of it how those epochs began that are not known.

        Only a change that does not verify is a lie. None at all is a failure: another node may answer at that address
        now, one that is behind, or that began at a later epoch.
        """
        history = self._genesis.history
        if epoch < history.first.epoch:
            reason = f"its answer is of epoch {epoch}; what this client trusts begins with epoch {history.first.epoch}"
            raise NodeFailed(url, 200, BEFORE_TRUST, reason)
        while history.info(epoch) is None:
            first = epoch if history.boundary(epoch) is not None else history.newest.epoch + 1
            body = await self._get(url, f"{url}/v1/epochs", {"from": first})
            answer = checked(url, EpochChanges.from_bytes(body))
            if not answer.changes or answer.changes[0].epoch != first:
                raise NodeFailed(url, 200, "", f"it spoke of epoch {epoch}, but does not show how {first} began")
            for change in answer.changes[: epoch - first + 1]:
                match self._light.follow(change):
                    case Fork(kept=kept) as fork:
                        raise ConflictingBlocks(kept.block_id, change, url=url, fork=fork)
                    case Refusal(reason=reason):
                        raise NodeLied(Lie(url, "epochs", reason))
                    case Advanced() | Known():
                        pass

    async def _verify_section(self, url: str, section: Section, rollup_id: int, height: Height) -> None:
        if (section.rollup_id, section.height) != (rollup_id, height):
            where = f"rollup {section.rollup_id} at height {section.height}"
            raise NodeLied(Lie(url, "section", f"asked for rollup {rollup_id} at height {height}, it gave {where}"))
        await self._verify(url, section)

    async def _get(self, url: str, path: str, query: Mapping[str, str | int]) -> bytes:
        wait_s = int(query.get("timeout_ms", 0)) / 1000
        request = self._http.build_request("GET", path, params=query, timeout=self._timeout_s + wait_s)
        return await self._fetch(url, request)

    async def _post(
        self, url: str, path: str, body: bytes, query: Mapping[str, str | int], content_type: str = _PACKED
    ) -> bytes:
        wait_s = int(query.get("timeout_ms", 0)) / 1000
        request = self._http.build_request(
            "POST",
            path,
            content=body,
            params=query,
            headers={"content-type": content_type},
            timeout=self._timeout_s + wait_s,
        )
        return await self._fetch(url, request)

    async def _fetch(self, url: str, request: httpx.Request) -> bytes:
        """The body of a good answer."""
        try:
            response = await self._http.send(request, stream=True)
            try:
                body = await _read_body(response)
            finally:
                with trio.CancelScope(shield=True):
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NodeFailed(url, 0, "", str(error) or type(error).__name__) from None
        if body is None:
            raise NodeFailed(url, response.status_code, "", f"its answer exceeds {RESPONSE_BYTES_MAX} bytes")
        if response.status_code not in (200, 202):
            raise failure(url, response.status_code, body)
        return body


class SectionIterator:
    """What :meth:`SequencerClient.follow` gives."""

    def __init__(self, sections: trio.MemoryReceiveChannel[Section | Exception]) -> None:
        self._sections = sections

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Section:
        section = await self._sections.receive()
        if isinstance(section, Exception):
            raise section
        return section


class _Follower:
    """Reads one rollup's stream from one node after the other."""

    def __init__(
        self,
        client: SequencerClient,
        rollup_id: int,
        height: Height,
        to_reader: trio.MemorySendChannel[Section | Exception],
    ) -> None:
        self._client = client
        self._rollup_id = rollup_id
        self._height = height
        self._parent: BlockId | None = None
        self._to_reader = to_reader
        spec = client._genesis.spec
        self._stall_timeout_s = max(STALL_TIMEOUT_S, 5 * spec.pacing.idle_interval_ms / 1000)
        self._event_bytes_max = 2 * spec.payload_size_max + EVENT_OVERHEAD_BYTES

    async def run(self) -> None:
        """Until cancelled, or until nobody can go on."""
        retry_s = RETRY_MIN_S
        while True:
            before = self._height
            try:
                await self._client._ask(self._read_from)
            except NoNodeAnswered as error:
                if all(isinstance(each, NodeLied) or each.code in ("pruned", BEFORE_TRUST) for each in error.problems):
                    await self._to_reader.send(error)
                    return
            except ConflictingBlocks as error:
                await self._to_reader.send(error)
                return
            retry_s = RETRY_MIN_S if self._height > before else min(2 * retry_s, RETRY_MAX_S)
            await trio.sleep(retry_s)

    async def _read_from(self, url: str) -> None:
        """Follow one node while it shows new heights; always ends with an exception."""
        path = f"{url}/v1/rollups/{self._rollup_id}/stream"
        query: dict[str, str | int] = {"from_height": self._height, "encoding": "msgpack"}
        try:
            async with open_event_stream(
                self._client._http, path, params=query, event_bytes_max=self._event_bytes_max
            ) as events:
                await self._take_events(url, events)
        except EventStreamError as error:
            if error.status == 200:
                raise NodeLied(Lie(url, "stream", str(error))) from None
            raise failure(url, error.status, error.body) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NodeFailed(url, 0, "", str(error) or type(error).__name__) from None
        raise NodeFailed(url, 200, "", "the stream ended")

    async def _take_events(self, url: str, events: trio.MemoryReceiveChannel[ServerSentEvent]) -> None:
        while True:
            with trio.move_on_after(self._stall_timeout_s) as patience:
                try:
                    event = await events.receive()
                    while event.kind in ("comment", "final"):
                        event = await events.receive()
                except trio.EndOfChannel:
                    return
            if patience.cancelled_caught:
                raise NodeFailed(url, 200, "", f"nothing after height {self._height - 1} for too long")
            if event.kind == "error":
                raise failure(url, 200, event.data)
            await self._take(url, event)

    async def _take(self, url: str, event: ServerSentEvent) -> None:
        try:
            section = checked(url, Section.from_bytes(b64decode(event.data, validate=True)))
        except ValueError:
            raise NodeLied(Lie(url, "stream", "an event is not base64")) from None
        await self._client._verify_section(url, section, self._rollup_id, self._height)
        if self._parent is not None and section.header.parent != self._parent:
            raise ConflictingBlocks(self._parent, section, url=url)
        self._parent = digest(section.header)
        self._height += 1
        self._client._prefer(url)
        await self._to_reader.send(section)


async def _read_body(response: httpx.Response) -> bytes | None:
    """The whole body, None when it is too large. httpx's generators are never left half way: see ``event_stream``."""
    chunks: list[bytes] = []
    size_bytes = 0
    with trio.CancelScope() as scope:
        async for chunk in response.aiter_raw():
            size_bytes += len(chunk)
            if size_bytes > RESPONSE_BYTES_MAX:
                scope.cancel()
            else:
                chunks.append(chunk)
    return b"".join(chunks) if size_bytes <= RESPONSE_BYTES_MAX else None


def _rung(level: str) -> Level:
    if level not in (Level.CONFIRMED, Level.FINAL):
        raise ValueError(f"level: {level!r} cannot be waited for; 'confirmed' or 'final' can")
    return Level(level)


def _of_level(receipt: Receipt | None, level: Level) -> Receipt | None:
    """The receipt when it proves that much."""
    return receipt if level is Level.CONFIRMED or (receipt is not None and receipt.level is level) else None


__all__ = [
    "BEFORE_TRUST",
    "ConflictingBlocks",
    "Lie",
    "NoNodeAnswered",
    "NodeFailed",
    "NodeLied",
    "NotAdmitted",
    "SectionIterator",
    "SequencerClient",
    "SubmissionRefused",
    "TransactionNotConfirmed",
]
