"""Executes a chain's transactions once more, in fresh adapters, and compares with what the nodes' adapters hold.

Each home's adapter directory is copied and the copy asked for its cursor and state commitment; then one fresh adapter
per rollup is given the archive's transactions and stops at each of those cursors. The adapters run in this process:
nobody but the verifier waits for them, and the library of an embedded EVM is loaded once instead of once per home.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from consensus.codec import Malformed, block_of, headers
from consensus.types import Block, Height
from rollup_adapters.base import AdapterContext, JsonValue, RollupAdapter, SequencedBlock
from rollup_adapters.registry import AdapterLoadError, load_adapter
from sequencer.archive_check import Finding, Progress
from sequencer.body import Payload, decode_payload
from sequencer.storage import RawArchive

RUN_BLOCKS_MAX: Final = 32
RUN_BYTES_MAX: Final = 4 * 1024 * 1024
"""What one delivery to a fresh adapter holds at most."""


@dataclass(frozen=True, kw_only=True)
class RollupFiles:
    """One rollup of a home: which adapter ran it, with which settings, in which directory."""

    rollup_id: int
    adapter: str
    settings: Mapping[str, JsonValue]
    directory: Path


@dataclass(slots=True, kw_only=True)
class RollupState:
    """What one home's adapter holds, and what executing anew gave at the same height (None: not executed)."""

    home: str
    files: RollupFiles
    cursor: Height
    commitment: bytes
    expected: bytes | None = None

    @property
    def equal(self) -> bool | None:
        """None when nothing was executed, or nothing delivered."""
        return None if self.expected is None else self.expected == self.commitment


@dataclass(slots=True)
class _Fresh:
    """A fresh adapter on its way through the archive."""

    adapter: RollupAdapter
    rollup_id: int
    states: list[RollupState]
    run: list[SequencedBlock] = field(default_factory=list)
    run_bytes: int = 0

    async def take(self, block: Block, payload: Payload) -> None:
        """Give it the next block's section, and let it stop where a home's adapter stands."""
        section = payload.section(self.rollup_id)
        stops = [state for state in self.states if state.cursor == block.header.height]
        if section is None and not stops:
            return
        transactions = () if section is None else section.transactions
        self.run.append(sequenced(block, transactions))
        self.run_bytes += sum(map(len, transactions))
        if stops or len(self.run) >= RUN_BLOCKS_MAX or self.run_bytes >= RUN_BYTES_MAX:
            executed = await self.adapter.deliver(self.run)
            self.run, self.run_bytes = [], 0
            for state in stops:
                state.expected = executed.state_commitment


def sequenced(block: Block, transactions: tuple[bytes, ...]) -> SequencedBlock:
    """A block as one rollup sees it."""
    header = block.header
    return SequencedBlock(
        height=header.height, timestamp_ms=header.timestamp_ms, block_id=block.id, transactions=transactions
    )


async def replay(
    homes: Mapping[str, Sequence[RollupFiles]],
    heads: Mapping[str, Height],
    reference: RawArchive | None,
    progress: Progress,
) -> tuple[list[RollupState], list[Finding]]:
    """Read every home's adapters, execute ``reference`` (a sound archive from height 1, or None), and compare.

    ``heads`` are the homes' committed heights: an adapter ahead of its own archive was given what was not committed.
    """
    findings: list[Finding] = []
    states: list[RollupState] = []
    with tempfile.TemporaryDirectory(prefix="sequencer-verify-") as scratch:
        jobs = [(home, files) for home, rollups in homes.items() for files in rollups]
        for done, (home, files) in enumerate(jobs):
            progress("adapters", done, len(jobs))
            try:
                states.append(await _state_of(home, files, Path(scratch, f"copy-{done}")))
            except (AdapterLoadError, OSError, ValueError) as error:
                findings.append(_finding(home, files, None, f"its adapter's directory cannot be read: {error}"))
        for state in states:
            if state.cursor > heads[state.home]:
                reason = f"stands at {state.cursor}, above its archive's head {heads[state.home]}"
                findings.append(_finding(state.home, state.files, state.cursor, reason))
        if reference is not None:
            await _execute(states, reference, Path(scratch), progress)
    for state in states:
        if state.equal is False and state.expected is not None:
            reason = f"state commitment {state.commitment.hex()}, executing anew gives {state.expected.hex()}"
            findings.append(_finding(state.home, state.files, state.cursor, reason))
    return states, findings


def _finding(home: str, files: RollupFiles, height: Height | None, reason: str) -> Finding:
    return Finding(home=home, height=height, field=f"rollup {files.rollup_id}", reason=reason)


async def _state_of(home: str, files: RollupFiles, copy: Path) -> RollupState:
    """The cursor and commitment of a home's adapter, read from a copy of its directory."""
    if not files.directory.is_dir():
        return RollupState(home=home, files=files, cursor=0, commitment=b"")
    shutil.copytree(files.directory, copy)
    try:
        async with _opened(files, copy) as adapter:
            cursor = await adapter.last_delivered()
            # The contract lets a state commitment be read from a delivery only. An empty block moves the cursor and
            # nothing else; this is a copy.
            probe = SequencedBlock(height=cursor + 1, timestamp_ms=0, block_id=bytes(32), transactions=())
            executed = await adapter.deliver([probe])
    finally:
        shutil.rmtree(copy)
    return RollupState(home=home, files=files, cursor=cursor, commitment=executed.state_commitment)


@contextlib.asynccontextmanager
async def _opened(files: RollupFiles, directory: Path) -> AsyncIterator[RollupAdapter]:
    context = AdapterContext(rollup_id=files.rollup_id, directory=directory, settings=files.settings)
    adapter = load_adapter(files.adapter)(context)
    try:
        yield adapter
    finally:
        with trio.CancelScope(shield=True):
            await adapter.close()


async def _execute(states: Iterable[RollupState], reference: RawArchive, scratch: Path, progress: Progress) -> None:
    """Fill in ``expected``. Homes with the same adapter and settings of a rollup share one execution."""
    groups: list[list[RollupState]] = []
    for state in states:
        if state.cursor:
            group = next((each for each in groups if _alike(each[0].files, state.files)), None)
            if group is None:
                groups.append([state])
            else:
                group.append(state)
    async with contextlib.AsyncExitStack() as opened:
        fresh = []
        for number, group in enumerate(groups):
            directory = scratch / f"fresh-{number}"
            directory.mkdir()
            adapter = await opened.enter_async_context(_opened(group[0].files, directory))
            fresh.append(_Fresh(adapter, group[0].files.rollup_id, group))
        last = max((state.cursor for group in groups for state in group), default=0)
        for raw in reference.raw_blocks():
            if raw.height > last:
                break
            header, payload = headers.decode(raw.header), decode_payload(raw.body)
            if isinstance(header, Malformed) or isinstance(payload, Malformed):
                raise AssertionError("the reference was judged sound")
            block = block_of(header)
            for each in fresh:
                await each.take(block, payload)
            progress("execution", raw.height, last)
            await trio.lowlevel.checkpoint()


def _alike(one: RollupFiles, other: RollupFiles) -> bool:
    return (one.rollup_id, one.adapter, one.settings) == (other.rollup_id, other.adapter, other.settings)
