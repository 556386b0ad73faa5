"""What it costs to leave the keys to a signing process: ``python -m benchmarks.signer``.

A real process answers one request at a time over its socket, as a node asks. Before each measured round trip goes one
bare synced SQLite transaction that inserts one row (the floor: no protection is durable in less), and one signature
made in this process. Compare the ratios between machines, not the milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import trio

from benchmarks.slashing_protection import Bare, percentile_ms, seconds
from consensus.signing import VOTE
from consensus.types import VoteSubject
from sequencer.config import Config, RollupConfig
from sequencer.genesis import genesis_of
from sequencer.homes import ChainPlan, write_testnet
from sequencer.keys import load_consensus_key, load_tls_identity
from sequencer.signer.homes import separate
from sequencer.signer.remote import RemoteSigner


def vote(view: int) -> VoteSubject:
    return VoteSubject(kind=VOTE, epoch=0, view=view, block_id=bytes(32), height=view, justify_view=view - 1)


def homes(directory: Path, scheme: str) -> tuple[Config, Path]:
    """A validator whose key is held by a signing process."""
    plan = ChainPlan(
        protocol="jolteon",
        scheme=scheme,
        rollups=[RollupConfig(id=1, adapter="raw", settings={})],
        validators=1,
        observers=0,
    )
    [home] = write_testnet(directory, plan)
    separate(home, directory / "signer")
    return Config.load(home / "node.toml"), directory / "signer"


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "sequencer.cli", "signer", "run", "--home", str(home), "--json", "--with-parent"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.receive_some(4096)
        yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


async def measure(config: Config, signer_home: Path, bare: Bare, rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind of call. A repeat is answered without a write."""
    assert config.signer is not None
    key = load_consensus_key(signer_home / "keys" / "consensus.json").secret_key
    domain = genesis_of(config.spec).epoch.domain
    remote = RemoteSigner(config.signer, load_tls_identity(config.tls_key_file), config.spec, Random(0))
    found: dict[str, list[float]] = {"floor": [], "local": [], "new": [], "repeat": []}

    def local(view: int) -> None:
        key.sign(domain.bytes_to_sign(vote(view)))

    async with running(signer_home), trio.open_nursery() as nursery:
        await nursery.start(remote.run)
        await remote.sign(vote(1), key.public_key, domain)
        for view in range(2, rounds + 2):
            found["floor"].append(seconds(bare.insert, view))
            found["local"].append(seconds(local, view))
            for name in ("new", "repeat"):
                start = time.perf_counter()
                await remote.sign(vote(view), key.public_key, domain)
                found[name].append(time.perf_counter() - start)
        nursery.cancel_scope.cancel()
    return found


def main(directory: Path, rounds: int, json_path: Path | None) -> None:
    result: dict[str, dict[str, float]] = {}
    for scheme in ("ed25519", "bls"):
        place = directory / scheme
        place.mkdir()
        config, signer_home = homes(place, scheme)
        found = trio.run(partial(measure, config, signer_home, Bare(place / "bare.db"), rounds))
        median = {name: percentile_ms(times, 0.5) for name, times in found.items()}
        result[scheme] = {
            **{f"{name}_p50_ms": value for name, value in median.items()},
            "new_p99_ms": percentile_ms(found["new"], 0.99),
            "floor_p99_ms": percentile_ms(found["floor"], 0.99),
            "ratio_to_floor_and_local": median["new"] / (median["floor"] + median["local"]),
        }
        print(
            f"{scheme:8} a new signature p50 {median['new']:5.2f} ms  p99 {result[scheme]['new_p99_ms']:5.2f} ms   "
            f"a repeat {median['repeat']:5.2f}   in this process {median['local']:5.2f}   bare transaction p50 "
            f"{median['floor']:5.2f} p99 {result[scheme]['floor_p99_ms']:5.2f}   ratio to transaction and signature "
            f"{result[scheme]['ratio_to_floor_and_local']:4.2f}"
        )
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="on the disk to measure, short; a temporary one by default")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        main(Path(scratch), options.rounds, options.json)
