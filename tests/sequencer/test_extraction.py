"""Extraction from two homes, where both sides went on to checkpoints of finality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from consensus.engine import LinkRecord
from consensus.evidence import Guilt, encode_evidence, verify_within
from consensus.finality.types import Checkpoint, FfgVoteSubject, LinkCertificate, LinkGroup
from consensus.types import bitmap_of
from sequencer import extraction
from sequencer.cli import app
from sequencer.extraction import SplitOfHomes, extract_from_homes
from sequencer.genesis import genesis_of
from sequencer.genesis_file import chain_spec_to_json
from sequencer.storage import ChainStore
from sequencer.verify import Home
from tests.sequencer.archives import SignedChain, signed_chain, write_home

replace = msgspec.structs.replace

COMMON = ({1: [(0, b"a")]}, {2: [(0, b"b")]})
ONE = signed_chain((*COMMON, {3: [(0, b"one")]}, {}, {}))
OTHER = signed_chain((*COMMON, {3: [(0, b"other")]}, {}, {}))
"""They split at height 3. Validators 0 to 2 certified both."""


def checkpoint(chain: SignedChain, height: int) -> Checkpoint:
    block_id = chain.blocks[height - 1][0].id if height else chain.spec.hash
    return Checkpoint(height=height, id=block_id)


def link(chain: SignedChain, source: int, target: int, signers: Sequence[int]) -> LinkCertificate:
    members = chain.committee
    subject = FfgVoteSubject(epoch=0, source=checkpoint(chain, source), target=checkpoint(chain, target))
    signature = members.scheme.aggregate([members.sign(signer, subject) for signer in signers])
    assert signature is not None
    group = LinkGroup(epoch=0, signers=bitmap_of(tuple(signers)), signature=signature)
    return LinkCertificate(source=subject.source, target=subject.target, groups=(group,))


async def home(directory: Path, chain: SignedChain, *links: LinkCertificate) -> Home:
    made = await write_home(directory, chain)
    async with ChainStore.open(made.archive, chain.spec.hash) as store:
        await store.append([LinkRecord(each) for each in links])
    return made


async def extracted(directory: Path, one: Sequence[LinkCertificate], other: Sequence[LinkCertificate]) -> SplitOfHomes:
    first = await home(directory / "a", ONE, *one)
    second = await home(directory / "b", OTHER, *other)
    found = extract_from_homes(first, second)
    assert isinstance(found, SplitOfHomes), found
    return found


@pytest.mark.parametrize(
    ("one", "other", "offence"),
    [((0, 4), (0, 4), "ffg-double"), ((0, 5), (3, 4), "ffg-surround"), ((3, 4), (0, 5), "ffg-surround")],
)
async def test_links_that_contradict_each_other_name_who_signed_both(
    one: tuple[int, int], other: tuple[int, int], offence: str, tmp_path: Path
) -> None:
    """Validator 3 certified no block twice, and is known by its finality votes alone."""
    found = await extracted(tmp_path, [link(ONE, *one, (1, 2, 3))], [link(OTHER, *other, (1, 2, 3))])
    assert found.extraction.guilty == (0, 1, 2, 3)
    assert found.extraction.stake == 4
    last = found.extraction.evidence[-1]
    assert last.offence == offence
    genesis = genesis_of(ONE.spec)
    verdict = verify_within(last, genesis.history, genesis.protocol, genesis.scheme)
    assert isinstance(verdict, Guilt)
    assert verdict.signers == (1, 2, 3)


async def test_what_was_signed_is_shown_for_people(tmp_path: Path) -> None:
    """A checkpoint within a vote too: block ids as hexadecimal digits."""
    found = await extracted(tmp_path, [link(ONE, 0, 4, (1, 2, 3))], [link(OTHER, 0, 4, (1, 2, 3))])
    file, genesis = tmp_path / "one.evidence", tmp_path / "genesis.json"
    file.write_bytes(encode_evidence(found.extraction.evidence[-1]))
    genesis.write_text(chain_spec_to_json(ONE.spec))
    said = CliRunner().invoke(app, ["evidence", "verify", str(file), "--genesis", str(genesis)])
    assert said.exit_code == 0, said.output
    assert "guilty of ffg-double: validator-1 (1), validator-2 (2), validator-3 (3)" in said.output
    for chain in (ONE, OTHER):
        assert f"target=Checkpoint(height=4, id={checkpoint(chain, 4).id.hex()[:16]})" in said.output


async def test_links_that_one_honest_validator_signs_accuse_nobody(tmp_path: Path) -> None:
    """One after the other on both sides: whoever crossed from one branch to the other broke no rule of finality."""
    found = await extracted(tmp_path, [link(ONE, 0, 3, (1, 2, 3))], [link(OTHER, 3, 4, (1, 2, 3))])
    assert found.extraction.guilty == (0, 1, 2)


async def test_forged_and_unreadable_certificates_accuse_nobody(tmp_path: Path) -> None:
    true = link(ONE, 0, 4, (1, 2, 3))
    whole = link(OTHER, 0, 4, (1, 2, 3))
    forged = replace(whole, groups=(replace(whole.groups[0], signature=bytes(192)),))
    unknown = replace(whole, groups=(replace(whole.groups[0], epoch=7),))
    for name, false in (("forged", forged), ("unknown", unknown)):
        found = await extracted(tmp_path / name, [true], [false])
        assert found.extraction.guilty == (0, 1, 2), name


async def test_links_below_the_split_and_beyond_the_bound_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [link(ONE, 0, 2, (1, 2, 3))], [link(OTHER, 1, 2, (1, 2, 3))]
    assert (await extracted(tmp_path / "below", *twice)).extraction.guilty == (0, 1, 2)
    monkeypatch.setattr(extraction, "LINKS_MAX", 0)
    found = await extracted(tmp_path / "bound", [link(ONE, 0, 4, (1, 2, 3))], [link(OTHER, 0, 4, (1, 2, 3))])
    assert found.extraction.guilty == (0, 1, 2)
