"""More are faulty than a protocol withstands, and the chain splits: who did it is named, from what is stored and from
files alone; nobody honest ever is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from typer.testing import CliRunner

from consensus.block_tree import Entry
from consensus.engine import Record, TranscriptRecord
from consensus.evidence import decode_evidence, encode_evidence
from consensus.forensics import Extraction
from consensus.offences import signed_in_proof
from consensus.protocols.block_pipeline import BlockPipeline
from consensus.protocols.definition import ProtocolDefinition
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.protocols.simplex_types import NOTARIZE, NULLIFY
from consensus.protocols.tendermint import TendermintEngine
from consensus.protocols.tendermint_definition import tendermint
from consensus.protocols.tendermint_types import PRECOMMIT, PREVOTE
from consensus.signing import VOTE
from consensus.types import Certificate
from netsim import homes, load, run_schedule
from netsim.checks import scenario_path
from netsim.cli import app as netsim_app
from netsim.committee import committee_of
from netsim.homes import records_of
from netsim.oracles.accountability import Accountable, Convicted
from netsim.oracles.judge import Judge
from netsim.scenario import expand
from netsim.schedule import BadSchedule, Schedule
from netsim.world import Host
from sequencer.cli import app
from sequencer.genesis_file import chain_spec_to_json

SPLITS = (
    ("jolteon", 11, "timeout-denies-vote"),
    ("jolteon", 12, "equivocation"),
    ("jolteon", 18, "timeout-denies-order-vote"),
    ("hotstuff", 11, "equivocation"),
    ("hotstuff", 1233, "vote-below-lock"),
    ("hotstuff2", 11, "equivocation"),
    ("hotstuff2", 99, "vote-below-lock"),
    ("simplex", 11, "equivocation"),
    ("simplex", 221, "finalize-and-nullify"),
    ("tendermint", 11, "equivocation"),
    ("tendermint", 93, "amnesia"),
    ("streamlet", 11, "equivocation"),
    ("streamlet", 30, "vote-falls-in-height"),
)
"""Seeds of ``split-four`` and what they end with. Where a protocol has changed since, the next seed that does is
taken."""
TRANSCRIBED = (("jolteon", 11), ("jolteon", 18), ("simplex", 221), ("tendermint", 93))
"""Those for which certificates in headers alone do not suffice."""


class Watched:
    """The oracle under test, and what it found."""

    def __init__(self) -> None:
        self.oracle = Convicted()
        self.id = self.oracle.id

    def attach(self, judge: Judge) -> None:
        self.oracle.attach(judge)
        self.hosts = judge.world.hosts

    @property
    def extraction(self) -> Extraction:
        assert self.oracle.extraction is not None
        return self.oracle.extraction


SEEDS_MAX = 2000


def seed_with(recorded: int, holds: Callable[[int], bool]) -> int:
    """The recorded seed if it still shows what it was recorded for, or else the first one that does."""
    candidates: list[int] = [recorded, *range(SEEDS_MAX)]
    for seed in candidates:
        if holds(seed):
            return seed
    raise AssertionError(f"none of {SEEDS_MAX} seeds shows it")


@lru_cache(maxsize=64)
def split_seed(protocol: str, recorded: int, offence: str) -> int:
    """A seed whose split is proved by that offence."""

    def holds(seed: int) -> bool:
        watched = Watched()
        run_schedule(schedule_of(protocol, seed), oracles=(watched,))
        found = watched.oracle.extraction
        return found is not None and any(evidence.offence == offence for evidence in found.evidence)

    return seed_with(recorded, holds)


def schedule_of(protocol: str, seed: int, scenario: str = "split-four") -> Schedule:
    return expand(load(scenario_path(scenario)), seed).replace(protocol=protocol)


def forgets_transcripts(record: Record) -> bool:
    return not isinstance(record, TranscriptRecord)


@lru_cache(maxsize=64)
def transcribed_seed(protocol: str, recorded: int) -> int:
    """A seed whose split names too few without the kept proofs."""
    return seed_with(
        recorded, lambda seed: run_schedule(schedule_of(protocol, seed), keep=forgets_transcripts).verdict == "A2"
    )


@pytest.mark.parametrize(("protocol", "seed", "offence"), SPLITS)
def test_a_split_names_the_guilty(protocol: str, seed: int, offence: str) -> None:
    schedule = schedule_of(protocol, split_seed(protocol, seed, offence))
    watched = Watched()
    result = run_schedule(schedule, oracles=(watched,))
    assert result.silent, result.violations
    found = watched.extraction
    assert offence in {evidence.offence for evidence in found.evidence}
    assert found.is_complete
    assert set(found.guilty) <= {actor.node for actor in schedule.actors}


@pytest.mark.parametrize(("protocol", "seed"), TRANSCRIBED)
def test_without_the_kept_proofs_too_few_are_named(protocol: str, seed: int) -> None:
    """The oracle fires when nodes keep nothing but blocks and certificates."""
    schedule = schedule_of(protocol, transcribed_seed(protocol, seed))
    (violation,) = run_schedule(schedule, keep=forgets_transcripts).violations
    assert "names stake 0" in violation.text
    assert run_schedule(schedule).silent


@pytest.mark.parametrize(("kind", "seed"), [(NOTARIZE, 36), (NULLIFY, 60)])
def test_simplex_needs_both_kinds_of_kept_proofs(kind: str, seed: int) -> None:
    """A nullification where the rival skips the committed view, a notarization where it is of that view."""

    def keep(record: Record) -> bool:
        return not isinstance(record, TranscriptRecord) or signed_in_proof(record.proof)[0].subject.kind != kind

    seed = seed_with(seed, lambda seed: run_schedule(schedule_of("simplex", seed), keep=keep).verdict == "A2")
    assert run_schedule(schedule_of("simplex", seed)).silent


@pytest.mark.parametrize(("kind", "seed"), [(PREVOTE, 147), (PRECOMMIT, 12)])
def test_tendermint_needs_the_polkas_of_both_kinds_of_votes(
    kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The valid round that a prevote names, and the polka of the round that is precommitted."""
    keep = BlockPipeline.keep
    voting = [""]

    class Forgets(TendermintEngine):
        def _vote(self, kind: str, entry: Entry | None, polka: Certificate | None) -> None:
            voting.append(kind)
            super()._vote(kind, entry, polka)
            voting.pop()

    def forget(self: BlockPipeline, proof: msgspec.Struct | None) -> None:
        if voting[-1] != kind:
            keep(self, proof)

    definition = tendermint("tendermint", Forgets)

    def fires(seed: int) -> bool:
        return run_schedule(schedule_of("tendermint", seed), definition=definition).verdict == "A2"

    with monkeypatch.context() as patched:
        patched.setattr(BlockPipeline, "keep", forget)
        seed = seed_with(seed, fires)
    assert run_schedule(schedule_of("tendermint", seed)).silent


@pytest.mark.parametrize("protocol", protocol_names())
def test_seeds_of_every_scenario_of_splits(protocol: str) -> None:
    for scenario in ("split-four", "split-seven", "framed-by-most"):
        for seed in range(200, 206):
            assert run_schedule(schedule_of(protocol, seed, scenario)).silent, (scenario, seed)


# --- from files alone ------------------------------------------------------------------------------------------


async def write_home(directory: Path, host: Host, schedule: Schedule, *, transcript: bool = True) -> None:
    """A node's home; without the ``transcript``, as if it had fetched all blocks."""
    records = [each for each in records_of(host.journal) if transcript or not isinstance(each, TranscriptRecord)]
    await homes.write_home(directory, committee_of(schedule).spec, records)


def sequencer(*arguments: object) -> tuple[int, Any]:
    result = CliRunner().invoke(app, ("evidence", *map(str, arguments)))
    return result.exit_code, json.loads(result.stdout) if "--json" in arguments else result.output


def netsim(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(netsim_app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("protocol", protocol_names())
def test_three_commands_lead_from_a_simulated_split_to_the_guilty(protocol: str, tmp_path: Path) -> None:
    """The way that the documentation shows, typed as it is printed: the two twins are named, and nobody else."""
    code, text = netsim("homes", "too-many-twins", "--protocol", protocol, "--out", tmp_path)
    assert (code, "the chain splits at height" in text) == (0, True), text
    command = shlex.split(text.splitlines()[-1])
    assert command[:2] == ["sequencer", "evidence"]
    code, text = sequencer(*command[2:])
    assert (code, "guilty of" in text) == (0, True), text
    convicted = set()
    for file in (tmp_path / "proofs").iterdir():
        code, verdict = sequencer("verify", file, "--genesis", tmp_path / "node-2" / "genesis.json", "--json")
        assert code == 0
        convicted |= {each["name"] for each in verdict["guilty"]}
    assert convicted == {"validator-0", "validator-1"}


def test_homes_of_nodes_that_agree_and_what_leaves_none(tmp_path: Path) -> None:
    code, text = netsim("homes", "calm", "--out", tmp_path / "calm", "--json")
    said = json.loads(text)
    assert (code, said["split"], len(said["homes"])) == (0, None, 4)
    assert sequencer("extract", *said["homes"][:2])[0] == 1
    code, text = netsim("homes", "calm", "--out", tmp_path / "again")
    assert "they agree" in text
    for scenario in ("pruned-peers", "epochs-calm", "calm"):
        with pytest.raises(BadSchedule, match=r"pruned|next validators|File exists"):
            CliRunner().invoke(netsim_app, ["homes", scenario, "--out", str(tmp_path / "calm")], catch_exceptions=False)


@pytest.mark.parametrize(("protocol", "seed", "offence"), SPLITS[1:])
def test_the_command_names_the_guilty_from_files_alone(protocol: str, seed: int, offence: str, tmp_path: Path) -> None:
    schedule = schedule_of(protocol, split_seed(protocol, seed, offence)).replace(scheme="ed25519")
    faulty = {actor.node for actor in schedule.actors}
    watched = Watched()
    assert run_schedule(schedule, oracles=(watched,)).silent
    honest = [host for host in watched.hosts if host.honest]
    for host in honest:
        trio.run(partial(write_home, tmp_path / f"node-{host.position}", host, schedule))
    split = watched.oracle.split
    assert split is not None
    first, second = (tmp_path / f"node-{host.position}" for host in split[1:])
    code, said = sequencer("extract", first, second, "--out", tmp_path / "out", "--json")
    assert (code, said["complete"]) == (0, True), said
    named = {each["validator"] for each in said["guilty"]}
    assert named <= faulty
    convicted = set()
    for file in said["files"]:
        code, verdict = sequencer("verify", file, "--genesis", first / "genesis.json", "--json")
        assert code == 0
        convicted |= {each["validator"] for each in verdict["guilty"]}
    assert convicted == named
    code, text = sequencer("extract", first, first)
    assert code == 1
    assert "agree up to height" in text


def test_the_proof_may_lie_in_a_third_home(tmp_path: Path) -> None:
    """The two that disagree have fetched their blocks; somebody else voted for them."""
    schedule = schedule_of("jolteon", transcribed_seed("jolteon", 18)).replace(scheme="ed25519")
    watched = Watched()
    run_schedule(schedule, oracles=(watched,))
    split = watched.oracle.split
    assert split is not None
    for name, host, transcript in (("a", split[1], False), ("b", split[2], False), ("c", split[2], True)):
        trio.run(partial(write_home, tmp_path / name, host, schedule, transcript=transcript))
    command = ("extract", tmp_path / "a", tmp_path / "b")
    code, text = sequencer(*command)
    assert code == 1
    assert "Add the homes of other nodes" in text
    code, said = sequencer(*command, "--transcript", tmp_path / "c", "--json")
    assert (code, said["complete"]) == (0, True)
    strange = schedule.replace(stakes=(1, 1, 1, 2))
    trio.run(partial(write_home, tmp_path / "strange", split[1], strange))
    code, said = sequencer("extract", tmp_path / "a", tmp_path / "strange", "--json")
    assert (code, said["guilty"]) == (1, [])
    assert "another chain" in said["reason"]


def test_what_proves_nothing_and_what_cannot_be_read(tmp_path: Path) -> None:
    schedule = schedule_of("jolteon", split_seed("jolteon", 12, "equivocation")).replace(scheme="ed25519")
    watched = Watched()
    run_schedule(schedule, oracles=(watched,))
    evidence = next(each for each in watched.extraction.evidence if each.offence == "equivocation")
    genesis, file = tmp_path / "genesis.json", tmp_path / "one.evidence"
    genesis.write_text(chain_spec_to_json(committee_of(schedule).spec))
    file.write_bytes(encode_evidence(evidence))
    code, text = sequencer("verify", file, "--genesis", genesis)
    assert code == 0
    assert "guilty of equivocation" in text
    assert decode_evidence(file.read_bytes()) == evidence
    other = tmp_path / "other.json"
    other.write_text(chain_spec_to_json(committee_of(schedule.replace(protocol="simplex")).spec))
    for path, chain in ((file, other), (genesis, genesis)):
        code, verdict = sequencer("verify", path, "--genesis", chain, "--json")
        assert (code, verdict["guilty"]) == (1, [])
    for path, chain in ((tmp_path / "absent", genesis), (file, tmp_path / "absent"), (file, file)):
        assert sequencer("verify", path, "--genesis", chain)[0] == 2
    simulated = tmp_path / "simulated.json"
    simulated.write_text(chain_spec_to_json(committee_of(schedule.replace(scheme="simulated")).spec))
    assert sequencer("verify", file, "--genesis", simulated)[0] == 2  # whoever likes can forge its signatures


# --- the oracles can fire --------------------------------------------------------------------------------------


class Liar:
    """Puts words into an honest validator's mouth at the end of a run: what A1 must notice."""

    id = "liar"

    def __init__(self, words: Callable[[Judge, Accountable], None]) -> None:
        self.words = words

    def attach(self, judge: Judge) -> None:
        self.oracle = Accountable()
        self.oracle.attach(judge)
        judge.on_end.insert(0, lambda: self.words(judge, self.oracle))


def test_a1_fires_for_each_form_of_evidence() -> None:
    """The honest words of a fault-free run, and for each offence one word too many."""
    for protocol, offence, change in (
        ("jolteon", "timeout-denies-vote", {"high_qc_view": 0}),
        ("hotstuff2", "vote-below-lock", {"justify_view": 0}),
        ("hotstuff", "vote-below-lock", {"justify_view": 0}),
        ("streamlet", "vote-falls-in-height", {"height": 1}),
    ):
        fired = run_schedule(Schedule(protocol=protocol), oracles=(Liar(partial(one_word, change)),)).violations
        assert any(v.oracle == "A1" and offence in v.text for v in fired), (protocol, fired)


def one_word(change: dict[str, int], judge: Judge, oracle: Accountable) -> None:
    """One more of validator 0's votes, ten views later; or a timeout there."""
    from consensus.protocols.chained_types import TimeoutSubject

    votes = [subject for subject in oracle.words[0, 0] if subject.kind == VOTE]
    last = max(votes, key=lambda subject: subject.slot)
    view = last.slot.major + 10
    if "high_qc_view" in change:
        oracle.words[0, 0][TimeoutSubject(epoch=0, view=view, **change)] = None
    else:
        assert isinstance(last, msgspec.Struct)
        oracle.words[0, 0][msgspec.structs.replace(last, view=view, **change)] = None


def blind(definition: ProtocolDefinition, *names: str) -> ProtocolDefinition:
    """A protocol that does not know some of its offences."""
    kept = tuple(offence for offence in definition.offences if offence.name not in names)
    return ProtocolDefinition(
        **{name: getattr(definition, name) for name in definition.__slots__ if name != "offences"},
        offences=kept,
    )


@pytest.mark.parametrize(
    ("protocol", "seed", "offence"), [row for row in SPLITS if row[2] not in ("equivocation", "timeout-denies-vote")]
)
def test_an_offence_that_is_not_declared_names_nobody(protocol: str, seed: int, offence: str) -> None:
    definition = blind(protocol_named(protocol), offence)
    seed_with(seed, lambda seed: run_schedule(schedule_of(protocol, seed), definition=definition).verdict == "A2")


def test_an_offence_that_accuses_the_honest_is_noticed() -> None:
    """The voters of x are not guilty: to blame them is to blame the honest, and A1 says so."""
    from consensus.offences import Offence
    from consensus.types import VoteSubject

    def votes_elsewhere(first: Any, second: Any, headers: Sequence[Any]) -> bool:
        both = isinstance(first, VoteSubject) and isinstance(second, VoteSubject)
        return both and first.kind == second.kind == VOTE and first.view < second.view

    plain = protocol_named("jolteon")
    definition = blind(plain)
    object.__setattr__(definition, "offences", (*plain.offences, Offence(name="votes-on", forbids=votes_elsewhere)))
    seed_with(11, lambda seed: run_schedule(schedule_of("jolteon", seed), definition=definition).verdict == "A1")
