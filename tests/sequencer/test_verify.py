"""What ``verify`` computes from archives: that sound homes agree, and where a changed byte is found."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from consensus.codec import encode
from sequencer.storage import ChainStore, InUseError
from sequencer.transactions import Position, transaction_id
from sequencer.verify import Finding, Home, Verdict, verify
from tests.sequencer.archives import SignedChain, certify, replaced, signed_chain, write_home
from tests.sequencer.chains import Batch
from tests.support.committee import committee

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


async def homes_of(directory: Path, chain: SignedChain) -> list[Home]:
    """Three nodes that stopped at different moments."""
    return [
        await write_home(directory / "first", chain),
        await write_home(directory / "second", chain, unproven=(1, 2)),
        await write_home(directory / "third", chain, height=3, executed=2),
    ]


def places(verdict: Verdict) -> list[tuple[str, int | None, str]]:
    return [(finding.home, finding.height, finding.field) for finding in verdict.findings]


def change(home: Home, statement: str, *values: object) -> None:
    """Change a home's archive behind its node's back."""
    with closing(sqlite3.connect(home.archive)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(statement, values)
        connection.commit()


async def test_sound_homes_agree(tmp_path: Path, chain: SignedChain) -> None:
    homes = await homes_of(tmp_path, chain)
    seen: list[tuple[str, int, int]] = []
    verdict = await verify(homes, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert verdict.findings == ()
    assert verdict.agreement
    assert (verdict.height, verdict.blocks) == (3, 5)
    assert [(home.name, home.height, home.blocks, home.proofs) for home in verdict.homes] == [
        ("first", 5, 5, 5),
        ("second", 5, 5, 3),
        ("third", 3, 3, 3),
    ]
    assert verdict.transactions == {1: 3, 2: 2, 3: 2}
    assert len(verdict.states) == 9
    assert all(state.equal for state in verdict.states)
    assert {state.cursor for state in verdict.states} == {5, 2}
    assert [stage for stage, done, total in seen if stage == "blocks" and done == total == 5]
    assert [stage for stage, done, total in seen if stage == "execution"]


def files_below(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


async def test_nothing_is_written_to_a_home(tmp_path: Path, chain: SignedChain) -> None:
    homes = await homes_of(tmp_path, chain)
    before = files_below(tmp_path)
    assert (await verify(homes)).agreement
    assert files_below(tmp_path) == before


# --- one changed byte ------------------------------------------------------------------------------------------

TABLES = {
    "blocks": {
        "number": {"structure", "block", "height", "undecided block"},
        "id": {"id", "undecided block"},
        "header": {"header", "undecided block"},
        "body": {"body", "undecided block"},
    },
    "commits": {"height": {"height"}, "number": {"block", "height", "structure"}, "proof": {"proof"}},
    "undecided": {"height": {"undecided block"}, "number": {"structure", "undecided block"}},
    "safety": {"kind": {"safety"}, "subject": {"safety"}, "state": {"safety"}, "digest": {"safety"}},
    "transcript": {"digest": {"transcript"}, "proof": {"transcript"}},
    "epochs": {"epoch": {"epochs"}, "change": {"epochs"}, "digest": {"epochs"}},
    "links": {"target": {"links"}, "source": {"links"}, "certificate": {"links"}, "digest": {"links"}},
    "meta": {"key": {"archive", "height"}, "value": {"archive", "genesis", "height"}},
}
"""Every table and column of the archive, and the names under which a change there may be reported."""


def changed(value: object, position: int) -> object:
    match value:
        case bytes():
            at = position % len(value)
            return value[:at] + bytes((value[at] ^ 0x10,)) + value[at + 1 :]
        case str():
            return value[:-1] + chr(ord(value[-1]) ^ 1)
        case int():
            return value + 64
    raise AssertionError(f"a column holds {value!r}")


def cells(archive: Path) -> list[tuple[str, str, int, object]]:
    """``(table, column, row, value)`` of everything that is stored."""
    found = []
    with closing(sqlite3.connect(archive)) as connection:
        for table, columns in TABLES.items():
            stored = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            assert sorted(stored) == sorted(columns), "a column that this test does not know"
            for column in columns:
                values = connection.execute(f"SELECT {column} FROM {table} ORDER BY 1").fetchall()
                found += [(table, column, row, value) for row, (value,) in enumerate(values)]
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        assert sorted(name for (name,) in tables) == sorted(TABLES)
    return [cell for cell in found if cell[3] not in (None, b"")]


async def test_every_changed_cell_is_found_in_its_home(tmp_path: Path, chain: SignedChain) -> None:
    homes = [replace(home, rollups=()) for home in await homes_of(tmp_path, chain)]
    victim = homes[1]
    original = victim.archive.read_bytes()
    heights = {encode(block.header): block.header.height for block, _ in chain.blocks}
    for number, (table, column, row, value) in enumerate(cells(victim.archive)):
        change(victim, f"UPDATE {table} SET {column} = ? WHERE {column} = ?", changed(value, 7 * number), value)
        verdict = await verify(homes)
        what = (table, column, row, value, verdict.findings)
        assert not verdict.agreement, what
        assert {finding.home for finding in verdict.findings} == {victim.name}, what
        assert verdict.findings[0].field in TABLES[table][column], what
        if column == "header":
            assert isinstance(value, bytes)
            assert verdict.findings[0].height == heights[value], what
        victim.archive.write_bytes(original)
    assert (await verify(homes)).agreement


@pytest.mark.parametrize("height", [1, 3, 5])
@pytest.mark.parametrize("column", ["id", "header", "body", "proof"])
async def test_every_byte_of_a_block_counts(tmp_path: Path, chain: SignedChain, height: int, column: str) -> None:
    """Whichever byte it is, home, height and field are named; alone, as well as beside another home."""
    home, other = [
        replace(await write_home(tmp_path / name, chain, executed=0), rollups=()) for name in ("only", "other")
    ]
    original = home.archive.read_bytes()
    table = "commits" if column == "proof" else "blocks"
    block, carried = chain.blocks[height - 1]
    values = {
        "id": block.id,
        "header": encode(block.header),
        "body": carried.body,
        "proof": encode(chain.proof(height)),
    }
    value = values[column]
    step = max(1, len(value) // 24)
    for position in range(0, len(value), step):
        change(home, f"UPDATE {table} SET {column} = ? WHERE {column} = ?", changed(value, position), value)
        for homes in ([home], [home, other]):
            assert places(await verify(homes)) == [("only", height, column)]
        home.archive.write_bytes(original)


async def test_a_changed_page_of_the_file_is_found(tmp_path: Path, chain: SignedChain) -> None:
    home = await write_home(tmp_path / "only", chain)
    data = bytearray(home.archive.read_bytes())
    at = data.index(chain.blocks[2][0].id)  # in the table or in the index of ids
    data[at] ^= 1
    home.archive.write_bytes(data)
    assert not (await verify([home])).agreement


# --- what no single byte says ----------------------------------------------------------------------------------


async def test_two_sound_chains_disagree_where_they_part(tmp_path: Path) -> None:
    members = committee(4, scheme="ed25519")
    one = signed_chain(SECTIONS, members=members)
    other = signed_chain((*SECTIONS[:3], {1: [(0, b"another")]}, {}), members=members)
    homes = [
        await write_home(tmp_path / "a", one),
        await write_home(tmp_path / "b", one),
        await write_home(tmp_path / "c", other),
    ]
    verdict = await verify(homes)
    assert places(verdict)[0] == ("c", 4, "id")
    assert "a, b" in verdict.findings[0].reason


async def test_a_minority_cannot_certify(tmp_path: Path, chain: SignedChain) -> None:
    home = await write_home(tmp_path / "only", chain)
    child = chain.blocks[3][0]
    forged = replace_certificate(chain, 3, certify(chain.committee, child, (0, 1)))
    change(home, "UPDATE commits SET proof = ? WHERE height = 3", forged)
    verdict = await verify([home])
    assert places(verdict) == [("only", 3, "proof")]
    assert "quorum" in verdict.findings[0].reason


def replace_certificate(chain: SignedChain, height: int, certificate: object) -> bytes:
    return encode(msgspec.structs.replace(chain.proof(height), certificate=certificate))


async def test_a_head_without_proof_is_not_committed(tmp_path: Path, chain: SignedChain) -> None:
    home = await write_home(tmp_path / "only", chain)
    change(home, "UPDATE commits SET proof = NULL WHERE height > 3")
    verdict = await verify([home])
    assert places(verdict) == [("only", 6, "proof")]
    assert "from height 4 on" in verdict.findings[0].reason


@pytest.mark.parametrize(
    ("sections", "height", "reason"),
    [
        ([{1: [(0, b"x")]}, {1: [(0, b"x")]}], 2, "was ordered at 1 already"),
        ([{9: [(0, b"x")]}], 1, "rollup 9"),
        ([{}, {1: [(1, b"x")]}], 2, "expired"),
        ([{1: [(258, b"x")]}], 1, "too late"),
    ],
)
async def test_a_certified_block_that_breaks_the_rules_is_named(
    tmp_path: Path, sections: Sequence[dict[int, list[tuple[int, bytes]]]], height: int, reason: str
) -> None:
    home = replace(await write_home(tmp_path / "only", signed_chain(sections)), rollups=())
    verdict = await verify([home])
    assert places(verdict)[0] == ("only", height, "body")
    assert reason in verdict.findings[0].reason


async def test_a_parent_that_is_not_there_is_named(tmp_path: Path, chain: SignedChain) -> None:
    blocks = list(chain.blocks)
    blocks[2] = replaced(chain, 3, parent=bytes(32))
    home = await write_home(tmp_path / "only", replace(chain, blocks=tuple(blocks)), unproven=(1, 2))
    assert places(await verify([replace(home, rollups=())])) == [("only", 3, "header")]


async def test_state_that_execution_does_not_give_is_named(tmp_path: Path, chain: SignedChain) -> None:
    homes = await homes_of(tmp_path, chain)
    raw = homes[0].rollups[1].directory / "raw.sqlite3"
    with closing(sqlite3.connect(raw)) as connection:
        connection.execute("UPDATE head SET commitment = ?", (bytes(32),))
        connection.commit()
    verdict = await verify(homes)
    assert places(verdict) == [("first", 5, "rollup 2")]
    assert [state.equal for state in verdict.states if state.home == "first"] == [True, False, True]


async def test_an_adapter_ahead_of_its_archive_is_named(tmp_path: Path, chain: SignedChain) -> None:
    short = await write_home(tmp_path / "short", chain, height=2, executed=4)
    verdict = await verify([short, await write_home(tmp_path / "whole", chain)])
    assert places(verdict) == [("short", 4, f"rollup {each}") for each in (1, 2, 3)]


async def test_what_was_acknowledged_must_stand_at_its_place(tmp_path: Path, chain: SignedChain) -> None:
    homes = await homes_of(tmp_path, chain)
    at = Position(rollup_id=1, height=1, index=1)
    there = {transaction_id(1, 5, b"b"): at}
    assert (await verify(homes, acknowledged=there)).agreement
    elsewhere = {transaction_id(1, 5, b"b"): Position(rollup_id=1, height=1, index=0)}
    missing = {transaction_id(1, 0, b"never"): at}
    for acknowledged in (elsewhere, missing):
        verdict = await verify(homes, acknowledged=acknowledged)
        assert places(verdict) == [("every home", 1, "acknowledged")]


async def test_homes_of_two_chains_are_told_apart(tmp_path: Path, chain: SignedChain) -> None:
    stranger = signed_chain(SECTIONS, members=committee(4, scheme="ed25519", chain_id="another"))
    homes = [await write_home(tmp_path / "ours", chain), await write_home(tmp_path / "theirs", stranger)]
    assert places(await verify(homes)) == [("theirs", None, "genesis")]
    mixed = replace(homes[1], spec=chain.spec)  # our genesis file, their archive
    assert places(await verify([homes[0], mixed])) == [("theirs", None, "genesis")]


async def test_a_running_node_is_left_alone(tmp_path: Path, chain: SignedChain) -> None:
    home = await write_home(tmp_path / "only", chain)
    async with ChainStore.open(home.archive, chain.spec.hash):
        with pytest.raises(InUseError, match="Stop that node first"):
            await verify([home])


async def test_pruned_archives_are_compared_and_not_executed(tmp_path: Path) -> None:
    chain = signed_chain([{1: [(0, b"%d" % height)]} for height in range(300)])
    home = await write_home(tmp_path / "pruned", chain, executed=0)
    async with ChainStore.open(home.archive, chain.spec.hash) as store:
        await store.prune(256, ledger_height=300)
    verdict = await verify([home])
    assert verdict.agreement
    assert verdict.homes[0].pruned_below == 45
    assert any("no archive begins at height 1" in note for note in verdict.notes)
    whole = await write_home(tmp_path / "whole", chain)
    both = await verify([home, whole])
    assert both.agreement
    assert [state.equal for state in both.states if state.home == "whole"] == [True] * 3


async def test_a_copy_of_a_home_is_as_good(tmp_path: Path, chain: SignedChain) -> None:
    home = await write_home(tmp_path / "only", chain)
    shutil.copytree(tmp_path / "only", tmp_path / "copy")
    copy = replace(home, name="copy", archive=tmp_path / "copy" / "data" / "chain.db")
    assert (await verify([home, copy])).agreement


async def test_what_cannot_be_compared_is_said(tmp_path: Path, chain: SignedChain) -> None:
    home = await write_home(tmp_path / "only", chain)
    for homes in ([], [home, home]):
        with pytest.raises(ValueError, match="homes: give"):
            await verify(homes)


def test_a_finding_reads() -> None:
    finding = Finding(home="validator-2", height=7, field="body", reason="changed")
    assert str(finding) == "validator-2: height 7: body: changed"
