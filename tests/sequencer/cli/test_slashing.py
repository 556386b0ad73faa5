"""``sequencer signer import | export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sequencer.cli import app, slashing
from sequencer.cli.console import STOPPED, UNUSABLE
from sequencer.slashing_protection import Rule, SlashingProtection, SlashingRefusal
from tests.sequencer.slashing_world import ANNA, BERT, CHAIN, interchange


def signer(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ("signer", *map(str, arguments)))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "slashing.db"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.json"


def write(file: Path, document: Any) -> Path:
    file.write_text(json.dumps(document))
    return file


def test_import_and_export(file: Path, database: Path) -> None:
    document = interchange((ANNA, [(5, None), (7, 1)], [(1, 2, 3)]), (BERT, [], [(4, 5, None)]))
    result = signer("import", write(file, document), "--database", database)
    assert result.exit_code == 0, result.output
    assert "imported 2 blocks and 2 attestations of 2 keys" in result.stdout
    result = signer("export", "--database", database)
    assert json.loads(result.stdout) == document
    result = signer("export", "--database", database, "--minimal")
    assert json.loads(result.stdout) == interchange((ANNA, [(7, None)], [(1, 2, None)]), (BERT, [], [(4, 5, None)]))


def test_import_tells_a_machine(file: Path, database: Path) -> None:
    document = interchange((ANNA, [(5, 1), (5, 2)], []))
    result = signer("import", write(file, document), "--database", database, "--json")
    assert json.loads(result.stdout) == {
        "database": str(database),
        "genesis_validators_root": f"0x{CHAIN.hex()}",
        "keys": 1,
        "blocks": 2,
        "attestations": 0,
        "contradictions": 1,
    }
    result = signer("import", write(file, interchange((ANNA, [(5, 3)], []))), "--database", database)
    assert "1 of them contradict others" in result.stdout


def test_import_closes_the_gap_to_an_earlier_import(file: Path, database: Path) -> None:
    signer("import", write(file, interchange((ANNA, [(40, None)], []))), "--database", database)
    signer("import", write(file, interchange((ANNA, [(50, None)], []))), "--database", database)
    with SlashingProtection.open(database, CHAIN) as protection:
        with pytest.raises(SlashingRefusal) as caught:
            protection.check_and_record_block(ANNA, 45, None)
        assert caught.value.rule is Rule.SLOT_TOO_LOW


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a JSON document"),
        ("[]", "must hold one JSON object"),
        ("[" * 100_000, "not a JSON document"),
        ("\udcff", "not a JSON document"),
        ('{"data": [], "data": []}', "the name 'data' stands twice"),
        ("{}", "metadata: is missing. Nothing was imported."),
    ],
)
def test_import_names_the_file_and_what_is_wrong(file: Path, database: Path, text: str, said: str) -> None:
    file.write_text(text, errors="surrogateescape")
    result = signer("import", file, "--database", database)
    assert result.exit_code == UNUSABLE
    assert f"error: {file}: " in result.stderr
    assert said in result.stderr
    assert not database.exists(), "and no database is made for it"


def test_import_names_the_place_in_the_file(file: Path, database: Path) -> None:
    document = interchange((ANNA, [(5, None)], []))
    document["data"][0]["signed_blocks"][0]["slot"] = 5
    result = signer("import", write(file, document), "--database", database)
    assert result.exit_code == UNUSABLE
    assert f"error: {file}: data[0].signed_blocks[0].slot: must be a string of decimal digits" in result.stderr
    assert not database.exists()


def test_import_of_another_chain(file: Path, database: Path) -> None:
    SlashingProtection.open(database, CHAIN).close()
    result = signer("import", write(file, interchange(chain=bytes(32))), "--database", database)
    assert result.exit_code == UNUSABLE
    assert f"{file}: metadata.genesis_validators_root: is 0x{bytes(32).hex()}" in result.stderr
    assert "another chain" in result.stderr


def test_files_that_are_not_there(file: Path, database: Path) -> None:
    result = signer("import", file, "--database", database)
    assert (result.exit_code, f"{file}: No such file or directory" in result.stderr) == (UNUSABLE, True)
    result = signer("export", "--database", database)
    assert (result.exit_code, f"{database}: there is no such file" in result.stderr) == (STOPPED, True)
    assert not database.exists()


def test_a_file_beyond_the_bound(file: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slashing, "FILE_BYTES_MAX", 10)
    result = signer("import", write(file, interchange()), "--database", database)
    assert (result.exit_code, "more than 10 bytes" in result.stderr) == (UNUSABLE, True)


@pytest.mark.parametrize("command", [["import", "FILE"], ["export"]])
def test_a_running_signer_is_in_the_way(file: Path, database: Path, command: list[str]) -> None:
    write(file, interchange())
    with SlashingProtection.open(database, CHAIN):
        arguments = [str(file) if each == "FILE" else each for each in command]
        result = signer(*arguments, "--database", database)
    assert result.exit_code == UNUSABLE
    assert f"{database}: a running signer has it open. Stop that signer first." in result.stderr
