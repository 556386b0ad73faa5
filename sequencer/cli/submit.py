"""``sequencer submit``: one transaction to one node."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Final

import httpx
import msgspec
import typer

from consensus.codec import Malformed
from rollup_adapters.base import JsonValue
from sequencer.cli.console import NO, UNREACHABLE, UNUSABLE, CommandError, failures, out, print_json
from sequencer.cli.target import TIMEOUT_S, genesis_in, reach, refused, target_of
from sequencer.genesis import Genesis
from sequencer.receipts import Receipt, VerificationError
from sequencer.transactions import Level, transaction_id

STDIN: Final = "-"


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
        url = f"{target.api}/v1/rollups/{rollup}/transactions"
        query: dict[str, str | int] = {"valid_until": valid_until}
        if wait is not None:
            query |= {"wait": wait.value, "timeout_ms": round(timeout_s * 1000)}
        headers = {"content-type": "application/octet-stream", "accept": "application/msgpack"}
        with httpx.Client(timeout=timeout_s + TIMEOUT_S, trust_env=False) as client:
            request = client.build_request("POST", url, content=transaction, headers=headers, params=query)
            response = reach(client, request)
        if response.status_code >= 300:
            raise refused(response)
        answer = _decoded(response)
        if wait is None:
            _print_pending(answer, as_json)
            return
        receipt = _verified(answer, rollup, transaction, valid_until, trusted)
        if receipt is None or (wait is WaitFor.FINAL and receipt.level is not Level.FINAL):
            raise CommandError(
                f"not {wait.value} within {timeout_s:g} s: it is {answer.level} there. Submitting it again is harmless",
                NO,
            )
        _print_reached(receipt, trusted, as_json)


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


def _verified(
    answer: _Answer, rollup: int, transaction: bytes, valid_until: int, genesis: Genesis | None
) -> Receipt | None:
    """The receipt, of this very transaction and proved under ``genesis`` where there is one; None without one."""
    if answer.receipt is None:
        return None
    receipt = Receipt.from_bytes(answer.receipt)
    if isinstance(receipt, Malformed):
        raise CommandError(f"the node's receipt is malformed: {receipt.reason}. Ask another node", UNREACHABLE)
    if receipt.transaction_id != transaction_id(rollup, valid_until, transaction) or receipt.rollup_id != rollup:
        raise CommandError("the node's receipt is of another transaction. Ask another node", UNREACHABLE)
    if genesis is not None:
        try:
            receipt.verify(genesis)
        except VerificationError as error:
            raise CommandError(f"the node's receipt proves nothing: {error}. Ask another node", UNREACHABLE) from None
    return receipt


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
