"""Submission over the real server: every form, every refusal, the adapter's opinion, and waiting for the receipt."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
import trio
import trio.testing

from sequencer.api.limits import ApiLimits
from sequencer.mempool import MempoolLimits
from sequencer.receipts import Receipt
from sequencer.transactions import Level, TransactionStatus, transaction_id
from tests.sequencer.api.fake_node import FakeAdapter, FakeNode, served
from tests.support.waiting import PATIENCE_S

PACKED = {"content-type": "application/msgpack", "accept": "application/msgpack"}
PATH = "/v1/rollups/3/transactions"


async def test_one_transaction_in_every_form_is_the_same_transaction() -> None:
    async with served() as api:
        first = await api.submit(b"hello", valid_until=5)
        assert first.status_code == 202
        expected = {"type": "pending", "transaction_id": transaction_id(3, 5, b"hello").hex(), "known": False}
        assert first.json() == expected
        again = [
            await api.http.post(PATH, json={"data": "0x" + b"hello".hex(), "valid_until": 5}),
            await api.http.post(PATH, json={"data": b"hello".hex()}, params={"valid_until": 5}),
            await api.http.post(
                PATH, content=msgspec.msgpack.encode({"data": b"hello", "valid_until": 5}), headers=PACKED
            ),
        ]
        assert [each.status_code for each in again] == [200, 200, 200]
        assert again[0].json() == again[1].json() == {**expected, "known": True}
        assert msgspec.msgpack.decode(again[2].content)["transaction_id"] == transaction_id(3, 5, b"hello")


async def test_a_batch_gets_one_answer_each() -> None:
    async with served() as api:
        items: list[object] = [b"one", b"two", b"one", b"x" * 5000, {"data": b"late", "valid_until": 99}]
        response = await api.http.post(PATH, content=msgspec.msgpack.encode(items), headers=PACKED)
        assert response.status_code == 200
        answers = msgspec.msgpack.decode(response.content)
        assert [each["type"] for each in answers] == ["pending", "pending", "pending", "too_large", "expiry_too_far"]
        assert [each.get("known") for each in answers[:3]] == [False, False, True]
        response = await api.http.post(PATH, json=[{"data": "00"}, {"data": "0x01"}])
        assert [each["transaction_id"] for each in response.json()] == [
            transaction_id(3, 0, bytes([number])).hex() for number in range(2)
        ]


async def test_what_was_ordered_is_answered_with_its_height() -> None:
    async with served() as api:
        await api.submit(b"hello")
        await api.node.order()
        response = await api.submit(b"hello")
        assert response.status_code == 200
        assert (response.json()["type"], response.json()["height"]) == ("ordered", 1)


@pytest.mark.parametrize(
    ("data", "valid_until", "rollup_id", "status", "code"),
    [
        (b"x" * 4097, 0, 3, 413, "too_large"),
        (b"x", 1, 3, 422, "expired"),
        (b"x", 11, 3, 422, "expiry_too_far"),
        (b"x", 0, 4, 404, "unknown_rollup"),
        (b"bad", 0, 7, 422, "not_admitted"),
    ],
)
async def test_refusals_are_typed(data: bytes, valid_until: int, rollup_id: int, status: int, code: str) -> None:
    async with served() as api:
        api.node.adapters[7] = FakeAdapter()
        await api.node.order()
        response = await api.submit(data, rollup_id, valid_until=valid_until)
        assert response.status_code == status
        error = response.json()["error"]
        assert error["code"] == code
        assert error["message"]


async def test_a_full_queue_says_when_to_come_back() -> None:
    node = FakeNode(mempool=MempoolLimits(entries_max=2))
    async with served(node) as api:
        for number in range(2):
            assert (await api.submit(bytes([number]))).status_code == 202
        full = await api.submit(b"third")
        assert (full.status_code, full.json()["error"]["code"]) == (503, "full")
        assert int(full.headers["retry-after"]) >= 1
        assert (await api.submit(b"elsewhere", 7)).status_code == 202
        batch = await api.http.post(PATH, content=msgspec.msgpack.encode([b"\x00", b"y"]), headers=PACKED)
        assert [each["type"] for each in msgspec.msgpack.decode(batch.content)] == ["pending", "full"]
        assert int(batch.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/msgpack", b"\xc1", 400, "malformed"),
        ("application/msgpack", b"\x93\xc4", 400, "malformed"),
        ("application/msgpack", msgspec.msgpack.encode([b"x"]) + b"trailing", 400, "malformed"),
        ("application/msgpack", msgspec.msgpack.encode([1, 2]), 400, "malformed"),
        ("application/msgpack", b"\x91" * 5000, 400, "malformed"),
        ("application/msgpack", msgspec.msgpack.encode({"data": b"x", "valid_until": 2**63}), 400, "bad_parameter"),
        ("application/msgpack", msgspec.msgpack.encode({"data": b"x", "valid_until": -1}), 400, "bad_parameter"),
        ("application/msgpack", msgspec.msgpack.encode([]), 400, "empty"),
        ("application/msgpack", msgspec.msgpack.encode([b""] * 11), 413, "too_large"),
        ("application/json", b"{", 400, "malformed"),
        ("application/json", b'{"data": "0xzz"}', 400, "malformed"),
        ("application/json", b'{"data": "00", "nonce": 1}', 400, "malformed"),
        ("application/json", b'{"data": "\xff"}', 400, "malformed"),
        ("application/json", b"[" * 5000, 400, "malformed"),
        ("text/plain", b"x", 415, "unsupported_type"),
    ],
)
async def test_bad_bodies_are_refused(content_type: str, body: bytes, status: int, code: str) -> None:
    async with served(limits=ApiLimits(batch_transactions_max=10)) as api:
        response = await api.http.post(PATH, content=body, headers={"content-type": content_type})
        assert response.status_code == status, response.text
        assert response.json()["error"]["code"] == code
        assert api.node.mempool.pending(3) == (0, 0)


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/v1/rollups/x/transactions", "rollup_id"),
        (f"/v1/rollups/{2**64}/transactions", "rollup_id"),
        ("/v1/rollups/3/transactions?valid_until=-1", "valid_until"),
        ("/v1/rollups/3/transactions?wait=settled", "wait"),
        ("/v1/rollups/3/transactions?wait=confirmed&timeout_ms=x", "timeout_ms"),
    ],
)
async def test_a_bad_parameter_is_named(path: str, where: str) -> None:
    async with served() as api:
        response = await api.http.post(path, content=b"x", headers={"content-type": "application/octet-stream"})
        assert (response.status_code, response.json()["error"]["where"]) == (400, where)


async def test_waiting_gives_a_receipt_that_verifies() -> None:
    async with served() as api:
        api.nursery.start_soon(api.node.order_forever)
        response = await api.submit(b"hello", 2**64 - 3, wait="confirmed")
        assert response.status_code == 200
        document = response.json()
        assert document["level"] == "confirmed"
        assert document["position"] == {"rollup_id": 2**64 - 3, "height": 1, "index": 0}
        receipt = Receipt.from_json(msgspec.json.encode(document["receipt"]))
        assert isinstance(receipt, Receipt)
        receipt.verify(api.node.genesis)
        assert receipt.transaction_id == transaction_id(2**64 - 3, 0, b"hello")


async def test_waiting_ends_with_the_state_so_far() -> None:
    async with served() as api:
        response = await api.submit(b"hello", wait="confirmed", timeout_ms=20)
        assert (response.status_code, response.json()["level"]) == (202, "pending")
        assert "receipt" not in response.json()


async def test_waiting_for_what_expires_says_so() -> None:
    async with served() as api, trio.open_nursery() as nursery:

        async def pass_over() -> None:
            while not api.node.mempool.pending(3)[0]:
                await trio.lowlevel.checkpoint()
            await api.node.order(size_bytes_max=0)

        nursery.start_soon(pass_over)
        response = await api.submit(b"hello", wait="confirmed", valid_until=1)
        assert (response.status_code, response.json()["error"]["code"]) == (422, "expired")


async def test_a_batch_cannot_wait() -> None:
    async with served() as api:
        response = await api.http.post(PATH, json=[{"data": "00"}], params={"wait": "confirmed"})
        assert (response.status_code, response.json()["error"]["where"]) == (400, "wait")
        assert api.node.mempool.pending(3) == (0, 0)


async def test_the_adapter_judges_a_batch_item_by_item() -> None:
    async with served() as api:
        api.node.adapters[3] = adapter = FakeAdapter()
        response = await api.http.post(PATH, json=[{"data": each.hex()} for each in (b"a", b"bad", b"b")])
        assert [each["type"] for each in response.json()] == ["pending", "not_admitted", "pending"]
        assert response.json()[2]["transaction_id"] == transaction_id(3, 0, b"b").hex()
        assert adapter.checks == 1
        assert api.node.mempool.pending(3) == (2, 2)


async def test_an_adapter_that_hangs_or_is_down_holds_nothing_back() -> None:
    async with served(limits=ApiLimits(admission_timeout_s=0.01)) as api:
        api.node.adapters[3] = hanging = FakeAdapter(hang=True)
        api.node.adapters[7] = down = FakeAdapter(alive=False)
        assert (await api.submit(b"bad 1", 3)).status_code == 202
        assert (await api.submit(b"bad 2", 3)).status_code == 202
        assert (await api.submit(b"bad 3", 7)).status_code == 202
        assert hanging.checks == 1, "after it was too slow it is left alone for a while"
        assert down.checks == 0


async def test_a_body_that_says_it_is_too_large_is_refused_at_once() -> None:
    async with served(body_size_bytes_max=10_000) as api:
        assert (await api.http.post(PATH, content=b"x" * 10_000, headers=PACKED)).status_code == 400
        response = await api.http.post(PATH, content=b"x" * 10_001, headers=PACKED)
        assert response.status_code == 413
        assert msgspec.msgpack.decode(response.content)["error"]["code"] == "too_large"
        assert (await api.submit(b"x")).status_code == 202


async def test_an_endless_body_is_refused_while_it_comes() -> None:
    """Its sender reads the refusal although it goes on sending: what it sends is thrown away for a while."""
    async with served(body_size_bytes_max=10_000) as api:
        async with await trio.open_tcp_stream("127.0.0.1", api.port) as stream, trio.open_nursery() as nursery:
            head = f"POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-type: application/msgpack\r\n"
            await stream.send_all(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
            sent = 0

            async def send() -> None:
                nonlocal sent
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                        sent += 65_536

            nursery.start_soon(send)
            received = b""
            with trio.fail_after(PATIENCE_S), contextlib.suppress(trio.BrokenResourceError):
                while chunk := await stream.receive_some():
                    received += chunk
            nursery.cancel_scope.cancel()
            assert b"too_large" in received
            assert received.startswith(b"HTTP/1.1 413")
            assert sent < 64 * 1024 * 1024
        assert (await api.submit(b"x")).status_code == 202


async def test_a_body_that_nobody_reads_does_not_block_the_answer() -> None:
    """The server's queue for the body is full when the answer goes out."""
    async with served() as api:

        async def slow_status(transaction_id: bytes) -> TransactionStatus:
            await trio.testing.wait_all_tasks_blocked(0.01)  # the client cannot send any more
            return TransactionStatus(level=Level.UNKNOWN)

        api.node.status_of = slow_status  # type: ignore[method-assign]  # the fake node answers so
        request = f"GET /v1/transactions/{'00' * 32} HTTP/1.1\r\nhost: a\r\n".encode()
        with trio.fail_after(PATIENCE_S):
            async with await trio.open_tcp_stream("127.0.0.1", api.port) as stream:
                await stream.send_all(request + b"content-length: 3000000\r\n\r\n" + b"x" * 3_000_000)
                await stream.send_all(request + b"\r\n")
                received = b""
                while received.count(b'"unknown"') < 2:
                    received += await stream.receive_some()
