"""web3.py as it comes, sync and async, over HTTP: it deploys our token, sends, waits for receipts and filters logs.

The node is the fake one, with a real EVM adapter in the process; web3.py runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
from eth_account.signers.local import LocalAccount
from eth_hash.auto import keccak
from web3 import AsyncHTTPProvider, AsyncWeb3, Web3
from web3.exceptions import ContractCustomError, TransactionNotFound, Web3RPCError
from web3.middleware import SignAndSendRawMiddlewareBuilder

from consensus.codec import digest
from rollup_adapters.base import Admission, JsonValue, SequencedBlock
from rollup_adapters.evm import EvmAdapter
from rollup_adapters.evm.contracts import token
from rollup_adapters.host import AdapterUnavailable
from sequencer.api.limits import ApiLimits
from tests.rollup_adapters.evm.common import ALICE, BOB, CAROL, CHAIN_ID, running, signed
from tests.sequencer.api.fake_node import FakeAdapter, FakeDelivered, FakeNode, Served, served
from tests.support.waiting import until_told

SUPPLY = 10**24


class InProcess:
    """An adapter without its host process."""

    def __init__(self, adapter: EvmAdapter) -> None:
        self._adapter = adapter
        self.alive = True

    async def check(self, transactions: Sequence[bytes]) -> Sequence[Admission]:
        return await self._adapter.check(transactions)

    async def query(self, method: str, params: JsonValue) -> JsonValue:
        if not self.alive:
            raise AdapterUnavailable("down")
        return await self._adapter.query(method, params)


async def deliver_forever(node: FakeNode, adapter: EvmAdapter) -> None:
    """Give every section of rollup 7 to the adapter, in order."""
    async with node.follow(7, 1) as sections:
        async for section in sections:
            block = SequencedBlock(
                height=section.height,
                timestamp_ms=section.header.timestamp_ms,
                block_id=digest(section.header),
                transactions=section.transactions,
            )
            executed = await adapter.deliver([block])
            node.delivered[7] = FakeDelivered(section.height, executed.state_commitment)


@asynccontextmanager
async def evm(path: Path, *, ordering: bool = True, limits: ApiLimits | None = None) -> AsyncIterator[Served]:
    """A served node whose rollup 7 is an EVM; it orders what comes at once, unless told not to."""
    async with running(path / "evm") as adapter, served(limits=limits) as api:
        api.node.adapters[7] = InProcess(adapter)
        if ordering:
            api.nursery.start_soon(api.node.order_forever)
        api.nursery.start_soon(deliver_forever, api.node, adapter)
        yield api


async def in_thread(api: Served, work: Callable[[str], None]) -> None:
    """Run ``work`` with the address of the rollup's JSON-RPC."""
    await trio.to_thread.run_sync(work, f"{api.url}/rollups/7/rpc")


def send(web3: Web3, sender: LocalAccount, transaction: Any) -> Any:
    """Sign, send, wait for the receipt."""
    filled: Any = {"chainId": CHAIN_ID, "nonce": web3.eth.get_transaction_count(sender.address), **transaction}
    filled.setdefault("gas", web3.eth.estimate_gas(cast(Any, {"from": sender.address, **transaction})))
    if "maxFeePerGas" not in filled:
        filled["gasPrice"] = web3.eth.gas_price
    signed_transaction = sender.sign_transaction(filled)
    transaction_hash = web3.eth.send_raw_transaction(signed_transaction.raw_transaction)
    return web3.eth.wait_for_transaction_receipt(transaction_hash, timeout=5, poll_latency=0.01)


def use_token(url: str) -> None:
    """A person with web3.py and a contract."""
    web3 = Web3(Web3.HTTPProvider(url))
    assert web3.is_connected()
    assert web3.eth.chain_id == CHAIN_ID
    compiled = token()
    factory = web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    deployed = send(web3, ALICE, factory.constructor(SUPPLY).build_transaction({"from": ALICE.address}))
    assert deployed.status == 1
    contract = web3.eth.contract(address=deployed.contractAddress, abi=compiled.abi)
    call = contract.functions
    receipt = send(web3, ALICE, call.transfer(BOB.address, 100).build_transaction({"from": ALICE.address}))
    assert call.balanceOf(BOB.address).call() == 100
    assert web3.eth.get_transaction(receipt.transactionHash)["blockNumber"] == receipt.blockNumber
    assert web3.eth.get_block("latest")["number"] == web3.eth.block_number == receipt.blockNumber
    events = contract.events.Transfer.get_logs(from_block=0, argument_filters={"to": BOB.address})
    assert [(event.args["from"], event.args["value"]) for event in events] == [(ALICE.address, 100)]
    with pytest.raises(ContractCustomError):
        call.transfer(ALICE.address, 1).call({"from": CAROL.address})
    with pytest.raises(TransactionNotFound):
        web3.eth.get_transaction("0x" + "00" * 32)  # type: ignore[arg-type]  # in digits, as people have it
    assert web3.eth.fee_history(1, "latest", [50])["reward"]
    assert web3.net.version == str(CHAIN_ID)
    provider = web3.provider
    assert isinstance(provider, Web3.HTTPProvider)
    with web3.batch_requests() as batch:
        batch.add(web3.eth.get_balance(BOB.address))
        batch.add(web3.eth.get_block(0))
        answers: Any = batch.execute()
    balance, genesis = answers
    assert balance > 0
    assert genesis["number"] == 0


def use_middleware(url: str) -> None:
    """A person who lets web3.py sign and fill in everything, and who sends faster than blocks come."""
    web3 = Web3(Web3.HTTPProvider(url))
    web3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(ALICE), layer=0)
    hashes = [
        web3.eth.send_transaction({"from": ALICE.address, "to": BOB.address, "value": value})  # type: ignore[typeddict-item]  # web3 takes an int for Wei
        for value in range(1, 6)
    ]
    receipts = [web3.eth.wait_for_transaction_receipt(each, timeout=5, poll_latency=0.01) for each in hashes]
    assert [receipt["status"] for receipt in receipts] == [1] * 5
    assert web3.eth.get_transaction_count(ALICE.address) == 5


async def use_async(url: str) -> None:
    """The same on asyncio."""
    provider = AsyncHTTPProvider(url)
    web3 = AsyncWeb3(provider)
    raw = signed(ALICE, nonce=await web3.eth.get_transaction_count(ALICE.address))
    transaction_hash = await web3.eth.send_raw_transaction(raw)
    receipt = await web3.eth.wait_for_transaction_receipt(transaction_hash, timeout=5, poll_latency=0.01)
    assert receipt["status"] == 1
    await provider.disconnect()


async def test_web3_lives_with_a_contract(tmp_path: Path) -> None:
    async with evm(tmp_path) as api:
        await in_thread(api, use_token)


async def test_web3_fills_in_nonces_of_pending_transactions(tmp_path: Path) -> None:
    async with evm(tmp_path) as api:
        await in_thread(api, use_middleware)


async def test_async_web3(tmp_path: Path) -> None:
    async with evm(tmp_path) as api:
        await in_thread(api, lambda url: asyncio.run(use_async(url)))


def refused(url: str) -> None:
    web3 = Web3(Web3.HTTPProvider(url))
    with pytest.raises(Web3RPCError, match="nonce too low: next nonce 1, tx nonce 0"):
        web3.eth.send_raw_transaction(signed(ALICE, value=7))
    with pytest.raises(Web3RPCError, match="insufficient funds"):
        web3.eth.send_raw_transaction(signed(BOB, value=10**30))
    with pytest.raises(Web3RPCError, match="chain id"):
        web3.eth.send_raw_transaction(signed(BOB, chainId=1))


async def test_refusals_speak_as_execution_clients_do(tmp_path: Path) -> None:
    async with evm(tmp_path) as api:
        await rpc(api, "eth_sendRawTransaction", "0x" + signed(ALICE).hex())
        await executed(api, signed(ALICE))
        await in_thread(api, refused)


# --- without web3.py -------------------------------------------------------------------------------------------------


async def post(api: Served, document: object) -> Any:
    """The answer to a call or a batch."""
    response = await api.http.post("/rollups/7/rpc", json=document)
    assert response.status_code == 200, response.text
    return response.json()


async def rpc(api: Served, method: str, *params: JsonValue) -> Any:
    """The whole answer to one call."""
    return await post(api, {"jsonrpc": "2.0", "id": 5, "method": method, "params": list(params)})


async def result(api: Served, method: str, *params: JsonValue) -> Any:
    return (await rpc(api, method, *params))["result"]


async def executed(api: Served, raw: bytes) -> Any:
    """The receipt."""
    ask = partial(result, api, "eth_getTransactionReceipt", "0x" + keccak(raw).hex())
    return await until_told(ask, lambda receipt: receipt is not None)


async def test_what_waits_is_shown_as_pending(tmp_path: Path) -> None:
    async with evm(tmp_path, ordering=False) as api:
        first, second = signed(ALICE), signed(ALICE, nonce=1)
        for raw in (first, second):
            assert await result(api, "eth_sendRawTransaction", "0x" + raw.hex()) == "0x" + keccak(raw).hex()
        shown = await result(api, "eth_getTransactionByHash", "0x" + keccak(second).hex())
        assert (shown["blockNumber"], shown["nonce"], shown["hash"]) == (None, "0x1", "0x" + keccak(second).hex())
        assert await result(api, "eth_getTransactionReceipt", "0x" + keccak(second).hex()) is None
        count = [await result(api, "eth_getTransactionCount", ALICE.address, tag) for tag in ("latest", "pending")]
        assert count == ["0x0", "0x2"]
        again = await rpc(api, "eth_sendRawTransaction", "0x" + first.hex())
        assert again["error"] == {"code": -32000, "message": "already known"}
        await api.node.order()
        await executed(api, second)
        done = await result(api, "eth_getTransactionByHash", "0x" + keccak(second).hex())
        assert done["blockNumber"] == "0x1"
        assert await result(api, "eth_getTransactionCount", ALICE.address, "pending") == "0x2"


async def test_what_was_skipped_may_be_sent_again(tmp_path: Path) -> None:
    async with evm(tmp_path) as api:
        early = signed(ALICE, nonce=1)
        await result(api, "eth_sendRawTransaction", "0x" + early.hex())
        ask = partial(result, api, "eth_getTransactionByHash", "0x" + keccak(early).hex())
        await until_told(ask, lambda found: found is None)
        assert await result(api, "eth_getTransactionCount", ALICE.address, "pending") == "0x0"
        await result(api, "eth_sendRawTransaction", "0x" + signed(ALICE).hex())
        await executed(api, signed(ALICE))
        assert await result(api, "eth_sendRawTransaction", "0x" + early.hex()) == "0x" + keccak(early).hex()
        assert (await executed(api, early))["status"] == "0x1"


async def test_a_dead_adapter_does_not_stop_ordering(tmp_path: Path) -> None:
    async with evm(tmp_path, ordering=False) as api:
        adapter = api.node.adapters[7]
        assert isinstance(adapter, InProcess)
        adapter.alive = False
        raw = signed(ALICE)
        assert await result(api, "eth_sendRawTransaction", "0x" + raw.hex()) == "0x" + keccak(raw).hex()
        assert (await rpc(api, "eth_chainId"))["error"]["code"] == -32002
        adapter.alive = True
        assert (await result(api, "eth_getTransactionByHash", "0x" + keccak(raw).hex()))["nonce"] == "0x0"
        await api.node.order()
        await executed(api, raw)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[" * 100_000, -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":' + b"[" * 65 + b"]" * 65 + b"}", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":["' + b"[" * 900 + b'"]}', -32602),
        (b"\xff", -32700),
        (b"[]", -32600),
        (b"1", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":"x"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_nothing"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["00"]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x"]}', -32000),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_getTransactionByHash","params":["0x00"]}', -32602),
        (b"[" + b",".join([b"1"] * 6) + b"]", -32600),
    ],
)
async def test_errors_have_the_standard_codes(tmp_path: Path, body: bytes, code: int) -> None:
    async with evm(tmp_path, limits=ApiLimits(rpc_batch_max=5)) as api:
        headers = {"content-type": "application/json"}
        response = await api.http.post("/rollups/7/rpc", content=body, headers=headers)
        assert response.status_code == 200
        answer = response.json()
        assert answer["jsonrpc"] == "2.0"
        assert answer["error"]["code"] == code, answer


async def test_batches_answer_each_call_and_no_notification(tmp_path: Path) -> None:
    async with evm(tmp_path) as api:
        call = {"jsonrpc": "2.0", "method": "eth_chainId"}
        answers = await post(api, [{**call, "id": "a"}, call, 7, {**call, "id": None, "method": "eth_nothing"}])
        assert [answer.get("id") for answer in answers] == ["a", None, None]
        assert [answer.get("error", {}).get("code") for answer in answers] == [None, -32600, -32601]
        response = await api.http.post("/rollups/7/rpc", json=[call])
        assert (response.status_code, response.content) == (204, b"")


async def test_a_batch_with_too_large_answers_ends_early(tmp_path: Path) -> None:
    async with evm(tmp_path, limits=ApiLimits(rpc_answer_bytes_max=60)) as api:
        call = {"jsonrpc": "2.0", "method": "eth_chainId"}
        answers = await post(api, [{**call, "id": number} for number in range(4)])
        assert [answer.get("error", {}).get("code") for answer in answers] == [None, None, -32003, -32003]


async def test_a_rollup_that_is_no_evm_says_so() -> None:
    async with served() as api:
        assert (await api.http.post("/rollups/7/rpc", json={})).json()["error"]["code"] == "no_adapter"
        api.node.adapters[7] = FakeAdapter(answers={})
        assert (await rpc(api, "eth_sendRawTransaction", "0x00"))["error"]["code"] == -32601
        assert api.node.mempool.pending(7) == (0, 0)


async def test_a_wallet_in_a_browser_may_ask(tmp_path: Path) -> None:
    async with evm(tmp_path) as api:
        asks = {"origin": "https://wallet.example", "access-control-request-method": "POST"}
        asks["access-control-request-headers"] = "content-type"
        preflight = await api.http.options("/rollups/7/rpc", headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        call = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}
        answer = await api.http.post("/rollups/7/rpc", json=call, headers={"origin": "https://wallet.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        other: httpx.Response = await api.http.options("/v1/status", headers=asks)
        assert other.status_code == 405
