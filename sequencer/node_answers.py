"""What nodes answer to a client (``client.py``), as far as its form goes, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from consensus.codec import Malformed
from consensus.epochs import EpochChange
from consensus.light_client import Fork
from consensus.types import BlockId
from sequencer.api.submit import SubmissionAnswer
from sequencer.block_summary import BlockSummary
from sequencer.mempool import Ordered, Pending
from sequencer.receipts import Receipt, Section
from sequencer.transactions import Level, TransactionId

T = TypeVar("T")

BEFORE_TRUST: Final = "before_trust"


@dataclass(frozen=True)
class Lie:
    """A false answer. ``what`` names the part that was false, as in ``VerificationError``."""

    url: str
    what: str
    reason: str


class NodeLied(Exception):
    """A node gave an answer that does not verify."""

    def __init__(self, lie: Lie) -> None:
        super().__init__(f"{lie.url} lied about the {lie.what}: {lie.reason}")
        self.lie = lie


class NodeFailed(Exception):
    """A node gave no answer: not reachable, busy, or it has not got what was asked for. ``status`` is that of HTTP, 0
    without an answer; ``code`` that of the API's errors, empty without one, or ``BEFORE_TRUST``: the answer is of an
    epoch before the first that this client trusts."""

    def __init__(self, url: str, status: int, code: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.status = status
        self.code = code


class NoNodeAnswered(Exception):
    """Every node failed or lied; ``problems`` says how."""

    def __init__(self, problems: Sequence[NodeFailed | NodeLied]) -> None:
        super().__init__("; ".join(map(str, problems)) or "every node has lied before")
        self.problems = tuple(problems)


class TransactionNotConfirmed(Exception):
    """A transaction that was waited for expired. Submit it anew with a later expiry."""


class ConflictingBlocks(Exception):
    """Two blocks are both provably committed and exclude each other: more than the tolerated stake is faulty. Keep
    them; they are evidence. ``before`` was shown first, ``after`` is what the node at ``url`` answered (another change
    to an epoch, where the validators forked too); ``fork`` holds both proofs, and is None where ``before`` is no longer
    kept."""

    def __init__(
        self,
        before: BlockId,
        after: Receipt | Section | BlockSummary | EpochChange,
        *,
        url: str = "",
        fork: Fork | None = None,
    ) -> None:
        height = after.boundary.height if isinstance(after, EpochChange) else after.height
        reason = f"the block at height {height} does not stand on {before.hex()}, which is committed too"
        super().__init__(f"{url}: {reason if fork is None else fork.reason}")
        self.before = before
        self.after = after
        self.url = url
        self.fork = fork


# --- answers ---------------------------------------------------------------------------------------------------------


class _Place(msgspec.Struct, frozen=True):
    rollup_id: int
    height: int
    index: int


class StateAnswer(msgspec.Struct, frozen=True):
    """How far a transaction has come, as a node says."""

    transaction_id: bytes
    level: Level
    position: _Place | None
    receipt: bytes | None = None


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _ErrorAnswer(msgspec.Struct, frozen=True):
    error: _Error


submission_answers: Final = msgspec.msgpack.Decoder(list[SubmissionAnswer])
state_answers: Final = msgspec.msgpack.Decoder(StateAnswer)
_errors: Final = msgspec.msgpack.Decoder(_ErrorAnswer)


def read(decoder: msgspec.msgpack.Decoder[T], url: str, body: bytes) -> T:
    """The answer in a body. Raises :class:`NodeLied`."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NodeLied(Lie(url, "answer", f"it is not of the form that belongs here: {error}")) from None


def checked(url: str, decoded: T | Malformed) -> T:
    """What was decoded. Raises :class:`NodeLied` for what is not canonical."""
    if isinstance(decoded, Malformed):
        raise NodeLied(Lie(url, "answer", f"it is not canonical: {decoded.reason}"))
    return decoded


def check_ids(url: str, answers: Sequence[SubmissionAnswer], expected: Sequence[TransactionId]) -> None:
    """Raises :class:`NodeLied` unless these answer the transactions of these ids."""
    if len(answers) != len(expected):
        raise NodeLied(Lie(url, "answer", f"{len(answers)} answers to {len(expected)} transactions"))
    for result, own in zip(answers, expected, strict=True):
        if isinstance(result, Pending | Ordered) and result.transaction_id != own:
            raise NodeLied(Lie(url, "transaction id", f"{result.transaction_id.hex()}, not {own.hex()}"))


def failure(url: str, status: int, body: bytes) -> NodeFailed:
    """What an answer of another status than a good one says."""
    try:
        error = _errors.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            error = msgspec.json.decode(body, type=_ErrorAnswer).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return NodeFailed(url, status, "", f"it answered {status}")
    return NodeFailed(url, status, error.code, error.message)
