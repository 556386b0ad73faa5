"""``sequencer submit``: one transaction to one node."""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
import typer

from consensus.codec import Malformed
from consensus.engine import Refusal
from consensus.types import Epoch
from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNREACHABLE, UNUSABLE, CommandError, failures, out, print_json
from sequencer.cli.target import TIMEOUT_S, genesis_in, reach, refused, target_of
from sequencer.epoch_changes import EpochChanges
from sequencer.genesis import Genesis
from sequencer.receipts import Receipt, VerificationError
from sequencer.transactions import Level, TransactionId, transaction_id

STDIN: Final = "-"
WAIT_STEP_S: Final = 10.0
"""One request waits so long at most; whoever waits longer asks again."""


class WaitFor(enum.StrEnum):
    """The rungs that can be waited for."""

    CONFIRMED = Level.CONFIRMED.value
    FINAL = Level.FINAL.value


class _Answer(msgspec.Struct, frozen=True):
    transaction_id: bytes
    level: str = Level.PENDING.value
    receipt: bytes | None = None


def command(
    node: Annotated[str, typer.Argument(help="A home, or the address of an API (http://...).")],
    rollup: Annotated[int, typer.Argument(help="The rollup's id.", min=0)],
    data: Annotated[str | None, typer.Argument(help="The transaction in hexadecimal digits.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Submit this file's bytes instead; - is standard input.", show_default=False)
    ] = None,
    valid_until: Annotated[int, typer.Option(help="The last height that may order it; 0 for no expiry.", min=0)] = 0,
    wait: Annotated[
        WaitFor | None, typer.Option("--wait", help="Until it is confirmed, or final; verifies the receipt.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="How long to wait, in seconds.", min=0.1)] = 30.0,
    genesis: Annotated[
        Path | None, typer.Option(help="The chain's genesis.json to verify with; a home has its own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Submit one transaction; with --wait show where it was ordered, proved by a verified receipt.

    Submitting the same again is harmless. Exits with 1 when it is not confirmed (or final) in time, with 4 when
    it is refused.
    """
    with failures():
        target = target_of(node)
        trusted = genesis_in(genesis) if genesis is not None else target.genesis
        transaction = _transaction(data, file)
        with httpx.Client(timeout=TIMEOUT_S, headers={"accept": "application/msgpack"}, trust_env=False) as client:
            node_api = _NodeApi(client, target.api)
            wanted = transaction_id(rollup, valid_until, transaction)
            deadline = time.monotonic() + timeout_s
            answer = node_api.submit(rollup, transaction, valid_until, _query(wait, deadline))
            if wait is None:
                _print_pending(answer, as_json)
                return
            while not _reached(answer, wait) and time.monotonic() < deadline:
                answer = node_api.transaction(wanted, _query(wait, deadline))
            receipt = _receipt(answer, wanted, rollup)
            if receipt is None or (wait is WaitFor.FINAL and receipt.level is not Level.FINAL):
                raise CommandError(_too_late(answer, wait, timeout_s), NO)
            if trusted is not None:
                _verify(receipt, trusted, node_api)
        _print_reached(receipt, trusted, as_json)


class _NodeApi:
    """The calls of one node that a submission needs. All raise :class:`CommandError`."""

    def __init__(self, client: httpx.Client, api: str) -> None:
        self._client = client
        self._api = api

    def submit(self, rollup: int, transaction: bytes, valid_until: int, query: Mapping[str, str | int]) -> _Answer:
        """Hand it over; with a wait in ``query``, what became of it by then."""
        request = self._client.build_request(
            "POST",
            f"{self._api}/v1/rollups/{rollup}/transactions",
            content=transaction,
            headers={"content-type": "application/octet-stream"},
            params={"valid_until": valid_until, **query},
            timeout=WAIT_STEP_S + TIMEOUT_S,
        )
        return _decoded(self._good(request))

    def transaction(self, wanted: TransactionId, query: Mapping[str, str | int]) -> _Answer:
        """What became of it, waiting as ``query`` says."""
        url = f"{self._api}/v1/transactions/{wanted.hex()}"
        return _decoded(
            self._good(self._client.build_request("GET", url, params=query, timeout=WAIT_STEP_S + TIMEOUT_S))
        )

    def teach(self, genesis: Genesis, epoch: Epoch) -> None:
        """Have ``genesis`` know the validators of ``epoch``, each change verified under the epoch before it."""
        while (known := genesis.history.newest.epoch) < epoch:
            request = self._client.build_request("GET", f"{self._api}/v1/epochs", params={"from": known + 1})
            document = EpochChanges.from_bytes(self._good(request).content)
            if isinstance(document, Malformed):
                raise CommandError(f"{request.url}: malformed: {document.reason}. Ask another node", UNREACHABLE)
            match genesis.follow(document.changes[: epoch - known]):
                case None if genesis.history.newest.epoch > known:
                    continue
                case Refusal(reason=reason):
                    pass
                case _:
                    reason = f"it does not show how epoch {known + 1} began"
            raise CommandError(f"{request.url}: proves no change of epoch: {reason}. Ask another node", UNREACHABLE)

    def _good(self, request: httpx.Request) -> httpx.Response:
        response = reach(self._client, request)
        if response.status_code >= 300:
            raise refused(response)
        return response


def _query(wait: WaitFor | None, deadline: float) -> dict[str, str | int]:
    if wait is None:
        return {}
    left_s = max(0.0, min(deadline - time.monotonic(), WAIT_STEP_S))
    return {"wait": wait.value, "timeout_ms": round(left_s * 1000)}


def _reached(answer: _Answer, wait: WaitFor) -> bool:
    return answer.receipt is not None and answer.level in (wait.value, Level.FINAL.value)


def _too_late(answer: _Answer, wait: WaitFor, timeout_s: float) -> str:
    said = f"not {wait.value} within {timeout_s:g} s: it is {answer.level} there. Submitting it again is harmless"
    if wait is WaitFor.FINAL and answer.level == Level.CONFIRMED.value:
        return (
            f"{said}; final comes one or two checkpoints after confirmed, which is a minute on an idle chain: --timeout"
        )
    return said


def _transaction(data: str | None, file: Path | None) -> bytes:
    if (data is None) == (file is None):
        raise CommandError("give the transaction either in hexadecimal digits or with --file", 2)
    if data is not None:
        try:
            return bytes.fromhex(data.removeprefix("0x"))
        except ValueError:
            raise CommandError("the transaction is not in hexadecimal digits; other bytes come by --file", 2) from None
    if str(file) == STDIN:
        return sys.stdin.buffer.read()
    assert file is not None
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"--file: {file}: {error.strerror}", UNUSABLE) from None


def _decoded(response: httpx.Response) -> _Answer:
    try:
        return msgspec.msgpack.decode(response.content, type=_Answer)
    except msgspec.DecodeError as error:
        raise CommandError(f"{response.url}: what answers is no node of this version: {error}", UNREACHABLE) from None


def _receipt(answer: _Answer, wanted: TransactionId, rollup: int) -> Receipt | None:
    """The receipt of the wanted transaction, not verified; None without one."""
    if answer.receipt is None:
        return None
    receipt = Receipt.from_bytes(answer.receipt)
    if isinstance(receipt, Malformed):
        raise CommandError(f"the node's receipt is malformed: {receipt.reason}. Ask another node", UNREACHABLE)
    if receipt.transaction_id != wanted or receipt.rollup_id != rollup:
        raise CommandError("the node's receipt is of another transaction. Ask another node", UNREACHABLE)
    return receipt


def _verify(receipt: Receipt, genesis: Genesis, node_api: _NodeApi) -> None:
    """Prove it, in whatever epoch: the node that speaks of a later one shows how that began."""
    finality = receipt.finality
    node_api.teach(genesis, max(receipt.header.epoch, finality.headers[-1].epoch if finality is not None else 0))
    try:
        receipt.verify(genesis)
    except VerificationError as error:
        raise CommandError(f"the node's receipt proves nothing: {error}. Ask another node", UNREACHABLE) from None


def _print_pending(answer: _Answer, as_json: bool) -> None:
    if as_json:
        print_json({"transaction_id": answer.transaction_id.hex(), "level": Level.PENDING.value})
    else:
        out().print(answer.transaction_id.hex(), soft_wrap=True)


def _print_reached(receipt: Receipt, genesis: Genesis | None, as_json: bool) -> None:
    if as_json:
        position: JsonValue = {"rollup_id": receipt.rollup_id, "height": receipt.height, "index": receipt.index}
        print_json(
            {
                "transaction_id": receipt.transaction_id.hex(),
                "level": receipt.level.value,
                "position": position,
                "verified": genesis is not None,
                "receipt": receipt.to_bytes().hex(),
            }
        )
        return
    out().print(
        f"{receipt.transaction_id.hex()}: {receipt.level.value}, number {receipt.index} of rollup {receipt.rollup_id} "
        f"at height {receipt.height}"
        + ("; its receipt is verified" if genesis else "; NOT verified here: give a home, or --genesis"),
        soft_wrap=True,
    )
