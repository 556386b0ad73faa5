"""What the tests of mempool, payload and ledger share: a chain spec, blocks with honest headers, and clocks of trio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import trio
from hypothesis import strategies as st

from consensus.codec import block_of
from consensus.genesis import ChainSpec
from consensus.types import Block, BlockHeader, Certificate
from sequencer.body import EMPTY_PAYLOAD, Payload, SectionBody, assemble_payload
from sequencer.transactions import transaction_ids
from sequencer.window import CommittedBlock, CommittedWindow

ROLLUPS = (3, 7, 2**64 - 3)
GENESIS_TIME_MS = 1_000

Batch = Sequence[tuple[int, bytes]]
"""``(valid_until, data)`` of one rollup."""


def spec(**changes: Any) -> ChainSpec:
    """A small chain without validators: nothing here looks at signatures."""
    values: dict[str, Any] = {
        "chain_id": "test",
        "genesis_time_ms": GENESIS_TIME_MS,
        "protocol": "jolteon",
        "scheme": "ed25519",
        "validators": (),
        "rollups": ROLLUPS,
        "payload_size_max": 4096,
        "transaction_size_max": 1024,
        "deduplication_heights": 4,
        "timestamp_drift_ms": 500,
    }
    return ChainSpec(**(values | changes))


def payload(sections: Mapping[int, Batch]) -> Payload:
    """The honest payload of these sections."""
    chosen = []
    for rollup_id in sorted(sections):
        valid_untils = tuple(valid_until for valid_until, _ in sections[rollup_id])
        transactions = tuple(data for _, data in sections[rollup_id])
        ids = transaction_ids(rollup_id, valid_untils, transactions)
        chosen.append((SectionBody(rollup_id, valid_untils, transactions), ids))
    return assemble_payload(chosen)


def block(height: int, carried: Payload = EMPTY_PAYLOAD, **changes: Any) -> Block:
    """A block at ``height`` that carries a payload. Its timestamp is ``GENESIS_TIME_MS + height`` and its parent is
    made up, unless ``changes`` say otherwise."""
    parent = changes.get("parent", sha256(b"block %d" % (height - 1)).digest())
    values: dict[str, Any] = {
        "chain": spec().hash,
        "epoch": 0,
        "view": height,
        "height": height,
        "parent": parent,
        "justify": Certificate(
            kind="vote",
            epoch=0,
            view=max(height - 1, 0),
            block_id=parent,
            height=max(height - 1, 0),
            justify_view=0,
            signers=b"",
            signature=b"",
        ),
        "entry_proof_hash": b"",
        "payload_root": carried.root,
        "payload_size": len(carried.body),
        "next_validators_hash": b"",
        "timestamp_ms": GENESIS_TIME_MS + height,
        "proposer": 0,
    }
    return block_of(BlockHeader(**(values | changes)))


def advance(window: CommittedWindow, *payloads: Payload) -> None:
    """Commit one block for each payload."""
    for carried in payloads:
        committed = block(window.height + 1, carried)
        window.advance(
            CommittedBlock(window.height + 1, committed.id, committed.header.timestamp_ms, carried.positions.keys())
        )


class TrioClock:
    """The engine's clock, on trio's time."""

    def now(self) -> int:
        return int(trio.current_time() * 1e9)


def wall_clock(start_ms: int = GENESIS_TIME_MS) -> Callable[[], int]:
    """A wall clock that shows ``start_ms`` now and goes on with trio's time."""
    begin = trio.current_time()
    return lambda: start_ms + round((trio.current_time() - begin) * 1000)


def sections_of_transactions(
    *, rollups: Sequence[int] = ROLLUPS, expiries: Sequence[int] = (0, 1, 5, 300, 2**40)
) -> st.SearchStrategy[dict[int, list[tuple[int, bytes]]]]:
    """Sections without a repeated transaction."""
    transaction = st.tuples(st.sampled_from(expiries), st.binary(max_size=40))
    return st.dictionaries(
        st.sampled_from(rollups), st.lists(transaction, min_size=1, max_size=9, unique=True), max_size=len(rollups)
    )
