"""``verify --light``, without bodies: sound archives and claims pass, and what is wrong is named with its place."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from typer.testing import CliRunner

from consensus.codec import Malformed, digest, encode
from consensus.light_client import Checkpoint, Proven
from sequencer.api.documents import block_document
from sequencer.api.representation import encode as answered
from sequencer.block_summary import BlockSummary
from sequencer.cli import app
from sequencer.cli.console import NO, UNUSABLE
from sequencer.genesis import Genesis, genesis_of
from sequencer.genesis_file import chain_spec_to_json
from sequencer.light_verify import Claim, LightVerdict, Source, read_claim, verify_light
from sequencer.merkle import InclusionProof
from sequencer.receipts import Receipt, Section
from sequencer.storage import ChainStore, InUseError
from tests.sequencer.archives import SignedChain, certify, signed_chain, write_home
from tests.sequencer.chains import Batch
from tests.support.committee import committee

replace = msgspec.structs.replace

SECTIONS: Sequence[Mapping[int, Batch]] = (
    {1: [(0, b"a"), (5, b"b")], 3: [(0, b"c")]},
    {},
    {2: [(0, b"d")]},
    {1: [(0, b"e")], 2: [(200, b"f" * 200)]},
    {3: [(0, b"g")]},
)


@pytest.fixture(scope="module")
def chain() -> SignedChain:
    return signed_chain(SECTIONS)


@pytest.fixture(scope="module")
def rival() -> SignedChain:
    """The same committee, and another block at height 3 and above."""
    return signed_chain((*SECTIONS[:2], {2: [(0, b"D")]}, *SECTIONS[3:], {}, {}))


@pytest.fixture(scope="module")
def genesis(chain: SignedChain) -> Genesis:
    return genesis_of(chain.spec)


def archive_of(directory: Path, chain: SignedChain, **options: Any) -> Path:
    return trio.run(partial(write_home, directory, chain, **options)).archive


def checkpoint_of(chain: SignedChain, height: int) -> Checkpoint:
    return Checkpoint(height=height, block_id=chain.blocks[height - 1][0].id)


def section_of(chain: SignedChain, height: int, rollup_id: int) -> Section:
    block, carried = chain.blocks[height - 1]
    held = carried.section(rollup_id)
    return Section(
        rollup_id=rollup_id,
        header=block.header,
        valid_untils=held.valid_untils if held else (),
        transactions=held.transactions if held else (),
        proof=carried.tree.proof(rollup_id),
        commit_proof=chain.proof(height),
    )


def summary_of(chain: SignedChain, height: int) -> BlockSummary:
    block, carried = chain.blocks[height - 1]
    leaves = tuple(each.leaf for each in carried.sections)
    return BlockSummary(header=block.header, sections=leaves, commit_proof=chain.proof(height))


def receipt_of(chain: SignedChain, height: int, rollup_id: int, index: int) -> Receipt:
    block, carried = chain.blocks[height - 1]
    held = carried.section(rollup_id)
    assert held is not None
    inclusion = InclusionProof(index=index, siblings=held.tree.path(index), section=carried.tree.proof(rollup_id))
    return Receipt(
        transaction_id=held.ids[index],
        rollup_id=rollup_id,
        inclusion=inclusion,
        header=block.header,
        commit_proof=chain.proof(height),
    )


def change(archive: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(archive)) as connection:
        connection.execute(statement, values)
        connection.commit()


def judge(genesis: Genesis, *contents: Path | Claim, **options: Any) -> LightVerdict:
    sources = [Source(name=f"source-{number}", content=content) for number, content in enumerate(contents)]
    return verify_light(genesis, sources, **options)


def places(verdict: LightVerdict) -> list[tuple[str, int | None, str]]:
    return [(finding.home, finding.height, finding.field) for finding in verdict.findings]


# --- sound -------------------------------------------------------------------------------------------------------


def test_archives_and_claims_are_followed_without_bodies(tmp_path: Path, chain: SignedChain, genesis: Genesis) -> None:
    whole = archive_of(tmp_path / "a", chain)
    gaps = archive_of(tmp_path / "b", chain, unproven=(1, 2, 4), height=5)
    change(whole, "UPDATE blocks SET body = x''")
    claims = receipt_of(chain, 1, 1, 1), section_of(chain, 4, 2), section_of(chain, 2, 1), summary_of(chain, 5)
    verdict = judge(genesis, whole, gaps, *claims)
    assert verdict.findings == ()
    assert [(each.height, each.proofs, each.linked) for each in verdict.archives] == [(5, 5, True), (5, 2, True)]
    assert [(each.name, each.height) for each in verdict.claims] == [
        ("source-2", 1),
        ("source-4", 2),
        ("source-3", 4),
        ("source-5", 5),
    ]
    assert verdict.claims[0].shows.endswith("number 1 of rollup 1")
    assert isinstance(verdict.head, Proven)
    assert verdict.head.block_id == chain.blocks[4][0].id


def test_a_checkpoint_protects_what_is_below_it_by_hash(tmp_path: Path, chain: SignedChain, genesis: Genesis) -> None:
    archive = archive_of(tmp_path / "a", chain)
    below = receipt_of(chain, 1, 1, 0)
    trusted = checkpoint_of(chain, 4)
    assert judge(genesis, archive, below, checkpoint=trusted).findings == ()
    alone = judge(genesis, below, checkpoint=trusted)
    assert places(alone) == [("source-0", 1, "proof")]
    assert "below the trusted checkpoint at height 4" in alone.findings[0].reason
    assert judge(genesis, section_of(chain, 5, 3), checkpoint=trusted).findings == ()


def test_a_pruned_archive_is_linked_through_its_checkpoint_or_not(
    tmp_path: Path, chain: SignedChain, genesis: Genesis
) -> None:
    archive = archive_of(tmp_path / "a", chain)
    change(archive, "DELETE FROM commits WHERE height < 3")
    change(archive, "UPDATE meta SET value = 3 WHERE key = 'pruned below'")
    for trusted, linked in ((None, False), (1, False), (2, True), (3, True), (4, True)):
        checkpoint = None if trusted is None else checkpoint_of(chain, trusted)
        verdict = judge(genesis, archive, checkpoint=checkpoint)
        assert verdict.findings == ()
        assert [each.linked for each in verdict.archives] == [linked], trusted


# --- wrong -------------------------------------------------------------------------------------------------------

AT_3 = "(SELECT number FROM commits WHERE height = 3)"


def flip(archive: Path, table: str, column: str, position: int) -> None:
    with closing(sqlite3.connect(archive)) as connection:
        (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE number = {AT_3}").fetchone()
        changed = value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE number = {AT_3}", (changed,))
        connection.commit()


@pytest.mark.parametrize(("table", "column", "field"), [("blocks", "header", "header"), ("commits", "proof", "proof")])
def test_a_changed_byte_is_found_where_it_is(
    tmp_path: Path, chain: SignedChain, genesis: Genesis, table: str, column: str, field: str
) -> None:
    archive = archive_of(tmp_path / "a", chain)
    flip(archive, table, column, 150)
    assert places(judge(genesis, archive)) == [("source-0", 3, field)]


@pytest.mark.parametrize(
    ("statement", "height", "field", "says"),
    [
        ("DELETE FROM commits WHERE height = 3", 3, "height", "the next row says 4"),
        ("UPDATE commits SET proof = NULL WHERE height > 3", 5, "proof", "from height 4 on carry no proof"),
        ("UPDATE commits SET proof = (SELECT proof FROM commits WHERE height = 4) WHERE height = 3", 3, "proof", ""),
        ("DELETE FROM commits", 0, "archive", "holds no block"),
        ("UPDATE commits SET height = height + 1 WHERE height = 5", 5, "height", "the next row says 6"),
    ],
)
def test_a_partial_archive_is_refused(
    tmp_path: Path, chain: SignedChain, genesis: Genesis, statement: str, height: int, field: str, says: str
) -> None:
    archive = archive_of(tmp_path / "a", chain)
    change(archive, statement)
    verdict = judge(genesis, archive)
    assert places(verdict) == [("source-0", height, field)]
    assert says in verdict.findings[0].reason


def test_a_forged_header_needs_more_than_its_hash(tmp_path: Path, chain: SignedChain, genesis: Genesis) -> None:
    """A header with another payload, under its own id: what stands above does not stand on it."""
    archive = archive_of(tmp_path / "a", chain, unproven=(1, 2, 3))
    forged = replace(chain.blocks[2][0].header, payload_root=bytes(32))
    change(archive, f"UPDATE blocks SET header = ?, id = x'00' WHERE number = {AT_3}", encode(forged))
    assert places(judge(genesis, archive)) == [("source-0", 3, "header")]
    change(archive, f"UPDATE blocks SET id = ? WHERE number = {AT_3}", digest(forged))
    assert places(judge(genesis, archive)) == [("source-0", 4, "header")]


def test_too_few_signers_prove_nothing(tmp_path: Path, chain: SignedChain, genesis: Genesis) -> None:
    archive = archive_of(tmp_path / "a", chain)
    child = chain.blocks[3][0]
    thin = replace(chain.proof(3), certificate=certify(chain.committee, child, (0, 1)))
    change(archive, "UPDATE commits SET proof = ? WHERE height = 3", encode(thin))
    verdict = judge(genesis, archive)
    assert places(verdict) == [("source-0", 3, "proof")]
    assert verdict.findings[0].reason == "signers: stake 2 is below the quorum of 3"


def test_another_chain_and_another_checkpoint(tmp_path: Path, chain: SignedChain, genesis: Genesis) -> None:
    other = signed_chain(SECTIONS, members=committee(4, scheme="ed25519", chain_id="other"))
    verdict = judge(genesis, archive_of(tmp_path / "a", other), receipt_of(other, 1, 1, 0))
    assert places(verdict) == [("source-0", None, "genesis"), ("source-1", 1, "chain")]
    archive = archive_of(tmp_path / "b", chain)
    wrong = Checkpoint(height=3, block_id=bytes(32))
    assert places(judge(genesis, archive, checkpoint=wrong)) == [("source-0", 3, "checkpoint")]
    ahead = Checkpoint(height=9, block_id=bytes(32))
    verdict = judge(genesis, archive, checkpoint=ahead)
    assert places(verdict) == [("source-0", 5, "height")]
    assert "below the checkpoint at height 9" in verdict.findings[0].reason


def test_both_sides_of_a_fork_do_not_pass_together(
    tmp_path: Path, chain: SignedChain, rival: SignedChain, genesis: Genesis
) -> None:
    one, other = archive_of(tmp_path / "a", chain), archive_of(tmp_path / "b", rival)
    assert judge(genesis, one).agreement
    assert judge(genesis, other).agreement
    assert places(judge(genesis, one, other)) == [("source-0", 5, "fork")]
    assert places(judge(genesis, one, section_of(rival, 3, 2))) == [("source-1", 3, "fork")]
    assert places(judge(genesis, section_of(chain, 3, 2), section_of(rival, 3, 2))) == [("source-1", 3, "fork")]
    assert places(judge(genesis, section_of(chain, 3, 2), section_of(rival, 4, 2))) == [("source-1", 4, "fork")]


def test_a_stale_head_is_refused(chain: SignedChain, genesis: Genesis) -> None:
    claim = section_of(chain, 4, 2)
    fresh = partial(judge, genesis, claim, age_ms_max=100)
    assert fresh(now_ms=claim.header.timestamp_ms + 100).findings == ()
    stale = fresh(now_ms=claim.header.timestamp_ms + 101)
    assert places(stale) == [("all sources", None, "age")]
    assert "height 4 is 101 ms old" in stale.findings[0].reason


def test_partial_and_changed_claims(chain: SignedChain, genesis: Genesis) -> None:
    section, summary = section_of(chain, 1, 1), summary_of(chain, 1)
    partial_section = replace(section, transactions=section.transactions[:1], valid_untils=section.valid_untils[:1])
    verdict = judge(
        genesis,
        partial_section,
        replace(summary, sections=summary.sections[:1]),
        replace(receipt_of(chain, 1, 1, 0), transaction_id=bytes(32)),
        replace(section, commit_proof=None),
    )
    assert places(verdict) == [
        ("source-0", 1, "transactions"),
        ("source-1", 1, "sections"),
        ("source-2", 1, "inclusion"),
        ("source-3", 1, "commit"),
    ]
    assert verdict.claims == ()


async def test_a_running_node_is_not_judged(tmp_path: Path, chain: SignedChain, genesis: Genesis) -> None:
    home = await write_home(tmp_path / "a", chain)
    async with ChainStore.open(home.archive, chain.spec.hash):
        with pytest.raises(InUseError):
            judge(genesis, home.archive)


def test_sources_that_cannot_be_told_apart(genesis: Genesis, chain: SignedChain) -> None:
    source = Source(name="a", content=section_of(chain, 1, 1))
    for sources in ((), (source, source)):
        with pytest.raises(ValueError, match="1 to 256"):
            verify_light(genesis, sources)


# --- files ---------------------------------------------------------------------------------------------------------


def test_claims_are_read_in_all_their_forms(chain: SignedChain) -> None:
    receipt, section, summary = receipt_of(chain, 1, 1, 0), section_of(chain, 1, 1), summary_of(chain, 1)
    for claim in (receipt, section, summary):
        assert read_claim(claim.to_bytes()) == claim
        assert read_claim(claim.to_json()) == claim
    bare = replace(summary, commit_proof=None)
    for known, final_height in ((summary, 0), (summary, 9), (bare, 0)):  # as /v1/blocks/N answers
        assert read_claim(answered(block_document(known, final_height), packed=False)) == known
    state = {"level": "confirmed", "receipt": json.loads(receipt.to_json())}
    assert read_claim(json.dumps(state).encode()) == receipt
    assert read_claim(json.dumps({"receipt": receipt.to_bytes().hex()}).encode()) == receipt
    state = {"level": "confirmed", "position": {"height": 1}, "receipt": receipt.to_bytes()}
    assert read_claim(answered(state, packed=True)) == receipt


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"{}", b"\xff", b"[1]", b'{"receipt": "zz"}', b'{"receipt": 1}', b'{"sections": 1}', b'{"a":' * 99],
)
def test_what_is_no_claim(data: bytes) -> None:
    assert isinstance(read_claim(data), Malformed)


def test_the_command(tmp_path: Path, chain: SignedChain) -> None:
    def run(*arguments: object) -> tuple[int, Any]:
        result = CliRunner().invoke(app, ["verify", "--light", *map(str, arguments), "--json"])
        return result.exit_code, json.loads(result.stdout) if result.stdout else result.stderr

    genesis_file, receipt_file = tmp_path / "genesis.json", tmp_path / "receipt"
    genesis_file.write_text(chain_spec_to_json(chain.spec))
    receipt_file.write_bytes(receipt_of(chain, 1, 1, 0).to_bytes())
    archive = archive_of(tmp_path / "a", chain)
    trusted = checkpoint_of(chain, 4)
    text = f"{trusted.height}:{trusted.block_id.hex()}"
    code, said = run("--genesis", genesis_file, "--checkpoint", text, archive, receipt_file)
    assert (code, said["agreement"], said["head"]["height"]) == (0, True, 5)
    assert said["checkpoint"] == {"height": 4, "block_id": trusted.block_id.hex()}
    assert [each["height"] for each in said["files"]] == [1]
    flip(archive, "blocks", "header", 150)
    code, said = run("--genesis", genesis_file, archive)
    assert (code, said["agreement"]) == (NO, False)
    assert [(each["source"], each["height"], each["field"]) for each in said["findings"]] == [("chain.db", 3, "header")]
    code, said = run("--genesis", genesis_file, receipt_file, "--max-age", "1")
    assert (code, [each["field"] for each in said["findings"]]) == (NO, ["age"])
    receipt_file.write_bytes(receipt_file.read_bytes()[:-1])
    code, said = run("--genesis", genesis_file, receipt_file)
    assert (code, [each["field"] for each in said["findings"]]) == (NO, ["file"])
    assert run("--genesis", tmp_path / "nowhere", archive)[0] == UNUSABLE
    assert run("--genesis", genesis_file, tmp_path / "nowhere")[0] == UNUSABLE
    for wrong in ("4", "4:00", f"x:{trusted.block_id.hex()}", f"-1:{trusted.block_id.hex()}"):
        assert run("--genesis", genesis_file, f"--checkpoint={wrong}", archive)[0] == 2
    assert run("--genesis", genesis_file, f"--checkpoint=0:{'00' * 32}", archive)[0] == UNUSABLE
    assert run(archive)[0] == 2
    assert CliRunner().invoke(app, ["verify", "--genesis", str(genesis_file), str(archive)]).exit_code == 2
