"""The epochs of a chain, judged while its archives are walked: which validators each block must name, derived anew from
the system transactions before it, and how each home says that an epoch began.

Without an archive that begins at height 1 the system transactions before are unknown: then the validators follow from
the boundaries' commit proofs alone.
"""

from __future__ import annotations

from consensus.codec import Malformed, digest
from consensus.engine import Refusal
from consensus.epochs import EpochChange, EpochInfo
from consensus.genesis import SYSTEM_ROLLUP
from consensus.registry import Registry
from consensus.types import Block, BlockHeader, Epoch, Height
from consensus.validators import ValidatorSet
from sequencer.body import Payload
from sequencer.epoch_changes import decoded_change
from sequencer.genesis import Genesis
from sequencer.registries import header_fault
from sequencer.storage import RawArchive


class EpochCheck:
    """What is known of the epochs so far. ``is_whole``: some archive begins at height 1."""

    def __init__(self, genesis: Genesis, *, is_whole: bool) -> None:
        self._genesis = genesis
        changes = genesis.spec.reconfiguration is not None
        self._registry = Registry.first(genesis.spec, genesis.scheme) if changes and is_whole else None
        self._next: EpochChange | None = None

    @property
    def newest(self) -> Epoch:
        """The last epoch whose beginning was verified."""
        return self._genesis.history.newest.epoch

    def begin(self, archive: RawArchive, first: BlockHeader) -> str:
        """Learn the epochs that ended below an archive's first block. What is wrong with how it says so, or nothing."""
        history = self._genesis.history
        for row in archive.raw_epochs():
            change = decoded_change(row)
            if isinstance(change, Malformed):
                return f"how epoch {row.epoch} began: {change.reason}"
            if change.boundary.height >= archive.pruned_below:
                break
            outcome = history.extend(change)
            if isinstance(outcome, Refusal):
                return outcome.reason
            if not isinstance(outcome, EpochInfo):
                return f"epoch {change.epoch} began otherwise in another home, and both ways are proven"
        return f"the first block is {history.unknown(first.epoch)}" if history.info(first.epoch) is None else ""

    def end_fault(self, archive: RawArchive, last: BlockHeader) -> str:
        """What an archive says of epochs that none of its blocks began, or nothing."""
        begun = last.epoch + bool(last.next_validators_hash)
        row = next(archive.raw_epochs(begun + 1), None)
        return "" if row is None else f"it is stored how epoch {row.epoch} began, which no block here did"

    def header_fault(self, header: BlockHeader) -> str:
        """Why a header names other next validators than the transactions before it ask for; empty when it does not."""
        if self._genesis.spec.reconfiguration is None and header.next_validators_hash:
            return "it names next validators, and those of this chain do not change"
        return "" if self._registry is None else header_fault(self._registry, header)

    def boundary_fault(self, archive: RawArchive, block: Block, *, is_last: bool) -> str:
        """What is wrong with how a home says that the epoch after ``block`` began, or nothing. A node that stopped
        right there says nothing yet."""
        row = next(archive.raw_epochs(block.header.epoch + 1), None)
        if row is None or row.epoch != block.header.epoch + 1:
            return "" if is_last else f"it is not stored how epoch {block.header.epoch + 1} began, after this block"
        change = decoded_change(row)
        if isinstance(change, Malformed):
            return f"how epoch {row.epoch} began: {change.reason}"
        if digest(change.boundary) != block.id:
            return f"epoch {row.epoch} is stored to begin after {digest(change.boundary).hex()}"
        try:
            validators = ValidatorSet(change.validators)
        except ValueError as error:
            return f"the validators of epoch {row.epoch}: {error}"
        if validators.hash != block.header.next_validators_hash:
            return f"the validators stored for epoch {row.epoch} are not those that the block names"
        refusal = self._genesis.verify_commit(change.proof, change.boundary, change.boundary.epoch)
        if refusal is not None:
            return f"how epoch {row.epoch} began: {refusal.reason}"
        self._next = change
        return ""

    def take(self, height: Height, payload: Payload) -> None:
        """The block at ``height`` is common to all who hold it."""
        if self._registry is not None:
            section = payload.section(SYSTEM_ROLLUP)
            self._registry = self._registry.after(height, () if section is None else section.transactions).registry
        if self._next is not None and self._next.boundary.height == height:
            outcome = self._genesis.history.extend(self._next)
            assert isinstance(outcome, EpochInfo), "it was judged"
        self._next = None
