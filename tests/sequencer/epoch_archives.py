"""Homes and claims of chains that change their validators, made without running a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.codec import block_of
from consensus.engine import BlockRecord, CommitRecord, EpochRecord, Record
from consensus.genesis import Reconfiguration
from sequencer.body import EMPTY_PAYLOAD, Payload
from sequencer.merkle import InclusionProof
from sequencer.receipts import Receipt, Section
from sequencer.storage import ChainStore
from sequencer.verify import Home
from tests.sequencer.chains import Batch, payload
from tests.support.epoch_chain import EpochChain, epoch_chain

OVERLAPPING = ((0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7))


@dataclass(frozen=True, kw_only=True)
class FullChain:
    """A chain of several epochs with its payloads, from height 1."""

    chain: EpochChain
    payloads: tuple[Payload, ...]

    def receipt(self, height: int, rollup_id: int, index: int = 0) -> Receipt:
        """That of a transaction at ``height``."""
        header, proof = self.chain.at(height)
        carried = self.payloads[height - 1]
        held = carried.section(rollup_id)
        assert held is not None
        inclusion = InclusionProof(index=index, siblings=held.tree.path(index), section=carried.tree.proof(rollup_id))
        return Receipt(
            transaction_id=held.ids[index],
            rollup_id=rollup_id,
            inclusion=inclusion,
            header=header,
            commit_proof=proof,
        )

    def section(self, height: int, rollup_id: int) -> Section:
        """All that the block at ``height`` holds of a rollup."""
        header, proof = self.chain.at(height)
        carried = self.payloads[height - 1]
        held = carried.section(rollup_id)
        return Section(
            rollup_id=rollup_id,
            header=header,
            valid_untils=held.valid_untils if held else (),
            transactions=held.transactions if held else (),
            proof=carried.tree.proof(rollup_id),
            commit_proof=proof,
        )


def full_chain(
    contents: Mapping[int, Mapping[int, Batch]] | None = None,
    *,
    sets: Sequence[Sequence[int]] = OVERLAPPING,
    lengths: Sequence[int] = (3, 4, 3),
    protocol: str = "jolteon",
    other_from: int | None = None,
    reconfiguration: Reconfiguration | None = None,
) -> FullChain:
    """``contents`` maps heights to sections; by default every block orders one transaction for rollup 1."""
    payloads = tuple(_payload(height, contents) for height in range(1, sum(lengths) + 1))
    chain = epoch_chain(
        sets,
        lengths=lengths,
        protocol=protocol,
        content=lambda height: (payloads[height - 1].root, len(payloads[height - 1].body)),
        other_from=other_from,
        reconfiguration=reconfiguration,
    )
    return FullChain(chain=chain, payloads=payloads)


def _payload(height: int, contents: Mapping[int, Mapping[int, Batch]] | None) -> Payload:
    if contents is None:
        return payload({1: [(0, b"transaction at %d" % height)]})
    return payload(contents[height]) if height in contents else EMPTY_PAYLOAD


async def write_epoch_home(
    directory: Path,
    full: FullChain,
    *,
    height: int | None = None,
    unproven: Sequence[int] = (),
    transcript: Sequence[Record] = (),
) -> Home:
    """A home that committed up to ``height``, and was in the epoch after a boundary as soon as it had committed it."""
    chain = full.chain
    committed = chain.top if height is None else height
    (directory / "data").mkdir(parents=True)
    archive = directory / "data" / "chain.db"
    changes = {change.boundary.height: change for change in chain.changes}
    async with ChainStore.open(archive, chain.spec.hash) as store:
        for number in range(1, committed + 1):
            header, proof = chain.at(number)
            block = block_of(header)
            shown = None if number in unproven and number != committed else proof
            await store.append(
                [BlockRecord(block, full.payloads[number - 1].body), CommitRecord(number, block.id, shown)]
            )
            if number in changes:
                await store.append([EpochRecord(changes[number])])
        if transcript:
            await store.append(transcript)
    return Home(name=directory.name, spec=chain.spec, archive=archive, rollups=())
