"""The homes of a run's honest nodes, as they would lie on their disks: what ``sequencer evidence extract`` and
``sequencer verify --light`` read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

import trio

from consensus.codec import block_of
from consensus.engine import BlockRecord, CommitRecord, LinkRecord, Record, TranscriptRecord
from consensus.genesis import ChainSpec
from consensus.types import Height
from netsim.committee import committee_of
from netsim.host import Host
from netsim.journal import Journal
from netsim.oracles.judge import Judge
from netsim.schedule import BadSchedule, Schedule
from netsim.simulation import Result, run_schedule
from sequencer.genesis_file import chain_spec_to_json
from sequencer.homes import nodetoml_value
from sequencer.node import CHAIN_FILE
from sequencer.storage import ChainStore, StorageError
from sequencer.verify import CONFIG_FILE

SCHEME: Final = "ed25519"
"""Signs instead of the simulator's own scheme, with which everybody can sign for everybody: that proves nothing."""
JUDGES: Final = ("A1", "A2")
"""The other oracles would end the run before two sides have committed."""
_NOWHERE: Final = ("127.0.0.1", 26680)


class Split(NamedTuple):
    """The lowest height at which two homes hold different committed blocks."""

    height: Height
    first: Path
    second: Path


class Homes(NamedTuple):
    """What was written. ``split`` is None where the honest nodes agree."""

    result: Result
    homes: tuple[Path, ...]
    split: Split | None


class _Holder:
    """Keeps the hosts of a run."""

    id = "homes"

    def attach(self, judge: Judge) -> None:
        self.hosts = judge.world.hosts


def write_homes(schedule: Schedule, directory: Path) -> Homes:
    """Run a schedule until two honest nodes have committed different blocks, or to its end, and write what the honest
    nodes have stored by then to ``directory/node-N``. Raises :class:`BadSchedule`."""
    if schedule.epochs:
        raise BadSchedule("a simulated chain takes its next validators from the schedule: no home can show them")
    scheme = SCHEME if schedule.scheme == "simulated" else schedule.scheme
    schedule = schedule.replace(scheme=scheme, oracles=JUDGES)
    holder = _Holder()
    result = run_schedule(schedule, oracles=(holder,))
    honest = [host for host in holder.hosts if host.honest]
    spec = committee_of(schedule).spec
    for host in honest:
        if host.journal.pruned_below > 1:
            raise BadSchedule(f"node {host.position} has pruned blocks: it leaves no home that can be compared")
    places = [directory / f"node-{host.position}" for host in honest]
    for host, place in zip(honest, places, strict=True):
        try:
            trio.run(partial(write_home, place, spec, records_of(host.journal)))
        except OSError as error:
            raise BadSchedule(f"--out: {place}: cannot be written: {error.strerror}") from None
        except StorageError as error:
            raise BadSchedule(f"--out: {error}") from None
    return Homes(result, tuple(places), _split(honest, places))


async def write_home(home: Path, spec: ChainSpec, records: Sequence[Record]) -> None:
    """A home without keys. Raises ``OSError``, also where there is one already, and ``StorageError``."""
    (home / "data").mkdir(parents=True)
    (home / "genesis.json").write_text(chain_spec_to_json(spec))
    (home / CONFIG_FILE).write_text(nodetoml_value(listen=None, api=_NOWHERE, peers={}, observers=[], rollups=[]))
    async with ChainStore.open(home / "data" / CHAIN_FILE, spec.hash) as store:
        await store.append(records)


def records_of(journal: Journal) -> tuple[Record, ...]:
    """All that is stored of a chain with one epoch, in an order in which a node may have stored it."""
    return (
        *(BlockRecord(block_of(each.header), each.body) for each in journal.blocks.values()),
        *(CommitRecord(height, *commit) for height, commit in sorted(journal.commits.items())),
        *(TranscriptRecord(proof) for proof in journal.transcript),
        *(LinkRecord(certificate) for certificate in journal.links),
        *journal.safety.values(),
    )


def _split(honest: Sequence[Host], places: Sequence[Path]) -> Split | None:
    found = [
        Split(height, first, second)
        for (one, first), (other, second) in combinations(zip(honest, places, strict=True), 2)
        if (height := _differ(one.journal, other.journal)) is not None
    ]
    return min(found, default=None)


def _differ(one: Journal, other: Journal) -> Height | None:
    both = sorted(one.commits.keys() & other.commits.keys())
    return next((height for height in both if one.commits[height][0] != other.commits[height][0]), None)
