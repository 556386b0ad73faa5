"""The evm adapter holds the contract, with signed transactions, wrong ones and garbage mixed."""

from __future__ import annotations

from eth_hash.auto import keccak
from hypothesis import strategies as st

from rollup_adapters.evm import EvmAdapter
from rollup_adapters.evm.contracts import token
from rollup_adapters.testkit import conformance
from tests.rollup_adapters.evm.common import ALICE, BOB, account, settings, signed

DEPLOYMENT = token().bytecode + (10**24).to_bytes(32, "big")


@st.composite
def transactions(draw: st.DrawFn) -> bytes:
    """Mostly valid where nonces happen to follow; often a nonce, a fee, a chain or the funds are wrong."""
    sender = account(draw(st.integers(1, 3)))
    nonce = draw(st.integers(0, 2))
    match draw(st.sampled_from(["transfer", "transfer", "legacy", "deployment", "wrong chain", "poor", "garbage"])):
        case "transfer":
            return signed(sender, nonce=nonce, value=draw(st.integers(0, 100)), to=BOB.address)
        case "legacy":
            return signed(sender, nonce=nonce, gasPrice=10**10, to=ALICE.address)
        case "deployment":
            return signed(sender, nonce=nonce, to=None, data=DEPLOYMENT, gas=1_500_000, value=0)
        case "wrong chain":
            return signed(sender, nonce=nonce, chainId=1)
        case "poor":
            return signed(account(50), nonce=0)
        case _:
            return draw(st.binary(max_size=80))


test_evm = conformance(
    EvmAdapter,
    transactions=transactions(),
    # Room for one deployment: whatever comes with it makes another block.
    settings=settings(gas_limit=1_500_000),
    queries=(
        ("eth_blockNumber", []),
        ("eth_getBlockByNumber", ["latest", True]),
        ("eth_getBalance", [ALICE.address, "latest"]),
        ("eth_getLogs", [{"fromBlock": "earliest"}]),
        ("eth_feeHistory", ["0x4", "latest", [10, 50]]),
        ("sequencer_transactionOutcome", ["0x" + keccak(b"").hex()]),
    ),
    examples=8,
)
