"""SIGKILL of a real host process while it executes, and the same answers after it resumed.

The only aspect that runs the adapter in another process: what differs there (the seed of ``hash``, addresses, the
import of its module alone) must not show in the state either. Real time passes, and the machine's speed decides where
exactly a kill falls; ``crash`` is the aspect that enumerates.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import pytest
import trio
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from rollup_adapters.base import ENTRY_POINT_GROUP
from rollup_adapters.host import AdapterHost, AdapterSpec, AdapterUnavailable, HostLimits
from rollup_adapters.testkit.subject import (
    Bench,
    Blocks,
    Reference,
    Subject,
    compare,
    deliver,
    fail,
    make_block,
    reference,
    resume,
    run_check,
)

NAME: Final = "adapter_under_test"
KILL_POINTS: Final = (0.05, 0.25, 0.5, 0.7, 0.85, 1.0)
"""After which part of the time that an undisturbed delivery takes."""

BLOCKS_PER_DELIVERY: Final = 4
TRANSACTIONS_PER_BLOCK: Final = 8
LIMITS: Final = HostLimits(unavailable_after_s=60.0, restart_delay_min_s=0.02, restart_delay_max_s=0.02)

SHIM: Final = """
import importlib, importlib.util, sys
try:
    loaded = importlib.import_module({module!r})
except ImportError:  # a test file that pytest imported by its path
    spec = importlib.util.spec_from_file_location({module!r}, {file!r})
    loaded = sys.modules[{module!r}] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
Adapter = getattr(loaded, {name!r})
"""


def kill(subject: Subject) -> None:
    """The state survives SIGKILL at any moment, and is the same in another process."""
    adapter = subject.adapter
    file = getattr(sys.modules.get(adapter.__module__), "__file__", None)
    if "." in adapter.__qualname__ or file is None:
        pytest.skip(f"{adapter.__qualname__} is not at the top level of a module, so no other process can import it")
    blocks = _blocks(subject)
    with _installed(adapter.__module__, file, adapter.__qualname__):
        run_check(subject, lambda bench: _kill_and_compare(bench, blocks), parts=len(KILL_POINTS))


def _blocks(subject: Subject) -> Blocks:
    """One delivery's worth of blocks for each kill, filled with what the strategy draws."""
    wanted = len(KILL_POINTS) * BLOCKS_PER_DELIVERY * TRANSACTIONS_PER_BLOCK
    drawn: list[bytes] = []

    @hypothesis_settings(
        max_examples=wanted, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(subject.transactions)
    def draw(transaction: bytes) -> None:
        drawn.append(transaction)

    draw()
    transactions = list(islice(cycle(drawn), wanted))
    starts = range(0, wanted, TRANSACTIONS_PER_BLOCK)
    return [
        make_block(height, transactions[start : start + TRANSACTIONS_PER_BLOCK])
        for height, start in enumerate(starts, start=1)
    ]


@contextmanager
def _installed(module: str, file: str, name: str) -> Iterator[None]:
    """Make the class an adapter that a host process finds by name, as if its package were installed."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as packages:
        metadata = Path(packages, "conformance-0.dist-info")
        metadata.mkdir()
        metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: conformance\nVersion: 0\n")
        entry_points = f"[{ENTRY_POINT_GROUP}]\n{NAME} = conformance_shim:Adapter\n"
        metadata.joinpath("entry_points.txt").write_text(entry_points)
        Path(packages, "conformance_shim.py").write_text(SHIM.format(module=module, file=file, name=name))
        sys.path.insert(0, packages)
        try:
            yield
        finally:
            sys.path.remove(packages)


async def _kill_and_compare(bench: Bench, blocks: Blocks) -> None:
    undisturbed = await reference(bench, blocks)
    async with trio.open_nursery() as nursery:
        host = await _start(bench, nursery)
        await _wait_until_up(host)
        began = trio.current_time()
        executed = await deliver(host, blocks)
        delivery_s = (trio.current_time() - began) / len(KILL_POINTS)
        compare(executed, blocks, undisturbed, moment="in another process")
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        host = await _start(bench, nursery)
        await _wait_until_up(host)
        await _kill_at_every_point(host, blocks, undisturbed, delivery_s)
        nursery.cancel_scope.cancel()


async def _start(bench: Bench, nursery: trio.Nursery) -> AdapterHost:
    subject = bench.subject
    spec = AdapterSpec(
        adapter=NAME, rollup_id=subject.rollup_id, directory=bench.new_directory(), settings=subject.settings
    )
    host = AdapterHost(spec, LIMITS)
    await nursery.start(host.run)
    return host


async def _kill_at_every_point(host: AdapterHost, blocks: Blocks, undisturbed: Reference, delivery_s: float) -> None:
    for number, point in enumerate(KILL_POINTS):
        run = blocks[number * BLOCKS_PER_DELIVERY : (number + 1) * BLOCKS_PER_DELIVERY]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver_until_killed, host, run)
            await trio.sleep(point * delivery_s)
            if host.process_id is not None:
                os.kill(host.process_id, signal.SIGKILL)
        await _wait_until_up(host)
        moment = f"after SIGKILL in the delivery of heights {run[0].height}..{run[-1].height}"
        await resume(host, blocks[: (number + 1) * BLOCKS_PER_DELIVERY], undisturbed, moment=moment)


async def _wait_until_up(host: AdapterHost) -> None:
    """Until the adapter answers. One call may still meet the process that was killed."""
    try:
        await host.last_delivered()
    except AdapterUnavailable:
        await _expect_up(host)


async def _expect_up(host: AdapterHost) -> None:
    try:
        await host.last_delivered()
    except AdapterUnavailable as error:
        fail(
            "the adapter opens in a process of its own, also after SIGKILL",
            str(error),
            "the class must be importable there; and what deliver leaves on disk at any moment must open again",
        )


async def _deliver_until_killed(host: AdapterHost, run: Blocks) -> None:
    try:
        await host.deliver(run)
    except AdapterUnavailable:
        return
