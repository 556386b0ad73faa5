"""What a transaction of 250 bytes costs a validator, part by part, measured in this process in the same run.

The parts are the library's own functions over one full block. ``us`` are microseconds of one validator per transaction
of a full block; what is done once per block is divided by its transactions. They are what the code does by itself on
an idle core: in a node they run beside each other, waits and garbage collection come on top.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import trio

from consensus.codec import block_of
from consensus.crypto.registry import PRODUCTION_SCHEMES, scheme_named
from consensus.engine import BlockRecord, CommitRecord, SafetyRecord
from consensus.protocols.chained_types import Proposal
from consensus.protocols.registry import DEFAULT_PROTOCOL, protocol_named
from consensus.types import Block, BlockHeader, Certificate
from sequencer.body import Payload, SectionBody, assemble_payload, decode_payload
from sequencer.keys import generate_tls_identity
from sequencer.storage import ChainStore, IndexStore
from sequencer.transactions import transaction_ids
from sequencer.transport.tls import TlsStream, tls_context

SIZE_BYTES: Final = 250
TRANSACTIONS: Final = 8_000
VALIDATORS: Final = 4
ROUNDS: Final = 5
SIGNED_BYTES: Final = 160
GENESIS: Final = bytes(32)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One part: ``us`` per transaction. ``note`` says what is in it."""

    part: str
    us: float
    note: str


async def cost_split(directory: Path) -> list[Cost]:
    """Measure every part. Blocks for a few seconds; ``directory`` is on the disk to measure."""
    payload = _payload()
    block = _block(payload, 1)
    costs = [_api_cost(payload), _payload_cost(payload), _codec_cost(payload, block)]
    costs += [_crypto_cost(name) for name in PRODUCTION_SCHEMES]
    costs.append(await _tls_cost(payload))
    costs.append(await _storage_cost(payload, directory))
    return costs


def _payload() -> Payload:
    data = os.urandom(SIZE_BYTES * TRANSACTIONS)
    transactions = tuple(data[at : at + SIZE_BYTES] for at in range(0, len(data), SIZE_BYTES))
    valid_untils = (0,) * TRANSACTIONS
    ids = transaction_ids(1, valid_untils, transactions)
    return assemble_payload([(SectionBody(1, valid_untils, transactions), ids)])


def _block(payload: Payload, height: int) -> Block:
    certificate = Certificate(
        kind="vote",
        epoch=0,
        view=height - 1,
        block_id=GENESIS,
        height=height - 1,
        justify_view=0,
        signers=b"\x07",
        signature=bytes(192),
    )
    return block_of(
        BlockHeader(
            chain=GENESIS,
            epoch=0,
            view=height,
            height=height,
            parent=GENESIS,
            justify=certificate,
            entry_proof_hash=b"",
            payload_root=payload.root,
            payload_size=len(payload.body),
            next_validators_hash=b"",
            timestamp_ms=height,
            proposer=0,
        )
    )


def _best_us(run: Callable[[], object]) -> float:
    """Microseconds per transaction of the quickest round."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best * 1e6 / TRANSACTIONS


def _api_cost(payload: Payload) -> Cost:
    """A validator reads its share of the batches."""
    batch = msgspec.msgpack.encode(payload.sections[0].transactions)
    decoder = msgspec.msgpack.Decoder(list[bytes])
    us = _best_us(lambda: transaction_ids(1, (0,) * TRANSACTIONS, decoder.decode(batch))) / VALIDATORS
    return Cost(part="API", us=us, note="decode a batch, hash its transactions; a quarter at each validator")


def _payload_cost(payload: Payload) -> Cost:
    us = _best_us(lambda: decode_payload(payload.body))
    return Cost(part="payload", us=us, note="decode a body, hash its transactions, build both trees; once per block")


def _codec_cost(payload: Payload, block: Block) -> Cost:
    wire = protocol_named(DEFAULT_PROTOCOL).wire()
    body = memoryview(payload.body)
    proposal = Proposal(epoch=0, header=block.header, body=body, entry_proof=None, signature=bytes(64))
    frame = wire.encode(proposal)
    us = _best_us(lambda: wire.decode(frame)) * (VALIDATORS - 1) / VALIDATORS
    us += _best_us(lambda: wire.encode(proposal)) / VALIDATORS
    return Cost(part="codec", us=us, note="a proposal decoded canonically by three, encoded by one")


def _crypto_cost(name: str) -> Cost:
    scheme = scheme_named(name)
    message = os.urandom(SIGNED_BYTES)
    keys = [scheme.generate(bytes([number]) * 32) for number in range(VALIDATORS - 1)]
    public_keys = [key.public_key for key in keys]

    def block() -> None:
        signatures = [keys[0].sign(message)] + [key.sign(message) for key in keys[1:]]
        aggregate = scheme.aggregate(signatures)
        assert aggregate is not None
        assert scheme.verify_aggregate(public_keys, message, aggregate)
        assert scheme.verify(public_keys[0], message, signatures[0])

    note = "per block: three signatures made (a validator makes one or two), a quorum checked, a proposal checked"
    return Cost(part=f"crypto, {name}", us=_best_us(block), note=note)


async def _tls_cost(payload: Payload) -> Cost:
    """Both ends of a connection over loopback in one process: what is sent once and received once."""
    contexts = [tls_context(generate_tls_identity(name)) for name in ("one", "other")]
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        client_tcp: list[trio.SocketStream] = []

        async def dial() -> None:
            client_tcp.append(await trio.open_tcp_stream("127.0.0.1", port))

        nursery.start_soon(dial)
        server_tcp = await listeners[0].accept()
    await listeners[0].aclose()
    server = TlsStream(contexts[0], server_tcp, server=True, stall_timeout_s=30)
    client = TlsStream(contexts[1], client_tcp[0], server=False, stall_timeout_s=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.handshake)
        nursery.start_soon(client.handshake)

    async def read() -> None:
        view, left = memoryview(bytearray(256 * 1024)), len(payload.body)
        while left:
            left -= await server.receive_into(view[: min(left, len(view))], silence_timeout_s=30)

    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(client.send_all, payload.body)
        best = min(best, time.perf_counter() - begin)
    server.close()
    client.close()
    us = best * 1e6 / TRANSACTIONS * 2 * (VALIDATORS - 1) / VALIDATORS / 2
    return Cost(part="TLS", us=us, note="a body sent to three by one, received by three: the mean of both ends")


async def _storage_cost(payload: Payload, directory: Path) -> Cost:
    async with (
        ChainStore.open(directory / "split-chain.db", GENESIS) as store,
        IndexStore.open(directory / "split-index.db", GENESIS, window_heights=64) as index,
    ):
        times = []
        ids = b"".join(payload.sections[0].ids)
        for height in range(1, ROUNDS + 1):
            block = _block(payload, height)
            decision = SafetyRecord(kind="vote", subject=block.id, state=bytes(400))
            begin = time.perf_counter()
            await store.append([BlockRecord(block, payload.body), decision])
            await store.append([CommitRecord(height, block.id, None)])
            await index.append([(height, [(1, ids)])])
            times.append(time.perf_counter() - begin)
    us = min(times) * 1e6 / TRANSACTIONS
    return Cost(part="storage", us=us, note="a block with its vote, its commit, the index; with the waits for the disk")
