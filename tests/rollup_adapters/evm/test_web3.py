"""web3.py, unmodified, over a provider that asks the adapter and lets each transaction become a block."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from eth_account.signers.local import LocalAccount
from eth_hash.auto import keccak
from web3 import Web3
from web3.exceptions import ContractCustomError, ContractLogicError, Web3RPCError
from web3.providers.base import BaseProvider
from web3.types import RPCEndpoint, RPCResponse

from rollup_adapters.base import Accepted, QueryError
from rollup_adapters.evm import EvmAdapter
from rollup_adapters.evm.contracts import token
from tests.rollup_adapters.evm.common import ALICE, BOB, CAROL, CHAIN_ID, block, open_adapter

SUPPLY = 10**24


class InProcessProvider(BaseProvider):
    """What a node does for a wallet: reads go to the adapter, transactions through admission into the next block."""

    def __init__(self, adapter: EvmAdapter) -> None:
        super().__init__()
        self.adapter = adapter

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """One request, over JSON as on the wire."""
        frame: dict[str, Any] = {"jsonrpc": "2.0", "id": 1}
        try:
            frame["result"] = trio.run(self._answer, str(method), json.loads(json.dumps(params)))
        except QueryError as error:
            frame["error"] = {"code": error.code, "message": error.message, "data": error.data}
        return self.decode_rpc_response(json.dumps(frame).encode())

    def decode_rpc_response(self, raw_response: bytes) -> RPCResponse:
        """The response as web3.py sees it."""
        response: RPCResponse = json.loads(raw_response)
        return response

    async def _answer(self, method: str, params: Any) -> Any:
        if method != "eth_sendRawTransaction":
            return await self.adapter.query(method, params)
        raw = bytes.fromhex(params[0].removeprefix("0x"))
        if await self.adapter.check([raw]) != [Accepted()]:
            raise QueryError(-32000, "rejected")
        height = await self.adapter.last_delivered() + 1
        await self.adapter.deliver([block(height, raw)])
        return "0x" + keccak(raw).hex()

    def is_connected(self, show_traceback: bool = False) -> bool:
        """Always."""
        return True


@pytest.fixture
def web3(tmp_path: Path) -> Iterator[Web3]:
    adapter = open_adapter(tmp_path / "evm")
    yield Web3(InProcessProvider(adapter))
    trio.run(adapter.close)


def send(web3: Web3, sender: LocalAccount, transaction: Any) -> Any:
    """Fill in what web3.py fills in, sign, send, wait for the receipt."""
    transaction = {"from": sender.address, "nonce": web3.eth.get_transaction_count(sender.address), **transaction}
    if "gas" not in transaction:
        transaction["gas"] = web3.eth.estimate_gas(transaction)
    if "maxFeePerGas" not in transaction and "gasPrice" not in transaction:
        transaction["gasPrice"] = web3.eth.gas_price
    transaction["chainId"] = web3.eth.chain_id
    signed = sender.sign_transaction({name: value for name, value in transaction.items() if name != "from"})
    return web3.eth.wait_for_transaction_receipt(web3.eth.send_raw_transaction(signed.raw_transaction), timeout=0.5)


def deploy(web3: Web3) -> Any:
    """Our token, owned by Alice."""
    compiled = token()
    factory = web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    receipt = send(web3, ALICE, factory.constructor(SUPPLY).build_transaction({"from": ALICE.address}))
    assert receipt.status == 1
    return web3.eth.contract(address=receipt.contractAddress, abi=compiled.abi)


def test_the_chain_introduces_itself(web3: Web3) -> None:
    assert web3.eth.chain_id == CHAIN_ID
    assert web3.net.version == str(CHAIN_ID)
    assert web3.client_version.startswith("shared-sequencer-evm/")
    assert web3.eth.block_number == 0
    assert web3.eth.get_block("latest")["number"] == 0
    assert web3.eth.max_priority_fee == 0


def test_a_transfer_is_seen_in_every_way(web3: Web3) -> None:
    before = web3.eth.get_balance(BOB.address)
    receipt = send(web3, ALICE, {"to": BOB.address, "value": 12_345})
    assert receipt.status == 1
    assert receipt.gasUsed == 21_000
    assert web3.eth.get_balance(BOB.address) == before + 12_345
    assert web3.eth.get_balance(BOB.address, "earliest") == before
    transaction = web3.eth.get_transaction(receipt.transactionHash)
    assert (transaction["from"], transaction["to"], transaction["value"]) == (ALICE.address, BOB.address, 12_345)
    whole = web3.eth.get_block(receipt.blockHash, full_transactions=True)
    assert whole["transactions"] == [transaction]
    assert web3.eth.get_block(receipt.blockNumber)["transactions"] == [receipt.transactionHash]


def test_the_token_lives(web3: Web3) -> None:
    contract = deploy(web3)
    call = contract.functions
    assert (call.name().call(), call.symbol().call(), call.decimals().call()) == ("Sequenced Token", "SEQ", 18)
    assert call.totalSupply().call() == call.balanceOf(ALICE.address).call() == SUPPLY
    send(web3, ALICE, call.transfer(BOB.address, 100).build_transaction({"from": ALICE.address}))
    send(web3, BOB, call.approve(CAROL.address, 70).build_transaction({"from": BOB.address}))
    assert call.allowance(BOB.address, CAROL.address).call() == 70
    receipt = send(
        web3, CAROL, call.transferFrom(BOB.address, CAROL.address, 30).build_transaction({"from": CAROL.address})
    )
    assert call.balanceOf(BOB.address).call() == 70
    assert call.balanceOf(CAROL.address).call() == 30
    assert call.allowance(BOB.address, CAROL.address).call() == 40
    assert call.balanceOf(BOB.address).call(block_identifier=receipt.blockNumber - 1) == 100
    events = contract.events.Transfer.get_logs(from_block=0)
    assert [(event.args["from"], event.args["to"], event.args["value"]) for event in events] == [
        ("0x" + "00" * 20, ALICE.address, SUPPLY),
        (ALICE.address, BOB.address, 100),
        (BOB.address, CAROL.address, 30),
    ]
    to_carol = contract.events.Transfer.get_logs(from_block=0, argument_filters={"to": CAROL.address})
    assert [event.args["value"] for event in to_carol] == [30]
    (transferred,) = contract.events.Transfer().process_receipt(receipt)
    assert transferred == to_carol[0]


def test_failures_speak(web3: Web3) -> None:
    contract = deploy(web3)
    transfer = contract.functions.transfer
    with pytest.raises(ContractLogicError, match="execution reverted: transfer to the zero address"):
        transfer("0x" + "00" * 20, 1).call({"from": ALICE.address})
    with pytest.raises(ContractCustomError):
        transfer(ALICE.address, 1).call({"from": BOB.address})
    with pytest.raises(ContractCustomError):
        transfer(ALICE.address, 1).estimate_gas({"from": BOB.address})
    with pytest.raises(Web3RPCError, match="does not exist"):
        web3.manager.request_blocking(RPCEndpoint("eth_nothing"), [])


def test_fee_history_and_gas_price(web3: Web3) -> None:
    for _ in range(3):
        send(web3, ALICE, {"to": BOB.address, "value": 1, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 9})
    history = web3.eth.fee_history(2, "latest", [50])
    assert history["oldestBlock"] == 2
    assert history["reward"] == [[9], [9]]
    assert history["baseFeePerGas"][:2] == [web3.eth.get_block(number)["baseFeePerGas"] for number in (2, 3)]
    assert web3.eth.gas_price > history["baseFeePerGas"][-1]
