"""A signing process over what an interchange carries: proposals and votes of finality, and no other votes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
from typer.testing import CliRunner, Result

from consensus.types import Slot
from sequencer.cli import app
from sequencer.cli.console import UNUSABLE
from sequencer.signer.authority import SigningAuthority
from sequencer.signer.remote import SigningRefused
from sequencer.signer.rules import Refusal, Rule
from sequencer.slashing_protection import SlashingProtection
from sequencer.storage import signing_store
from sequencer.storage.signing_store import PartialMemoryError
from tests.sequencer.signer.common import Chain, chain, remote, serving, socket_path
from tests.sequencer.signer.subjects import ffg, proposal, timeout, vote
from tests.sequencer.signer.test_authority import ask, interchange


@pytest.fixture
def one(tmp_path: Path) -> Chain:
    return chain(tmp_path)


def moved_by_interchange(one: Chain, to: Path, *options: str) -> tuple[Chain, Result]:
    """The key's history in a new database, made by the commands."""
    exported = CliRunner().invoke(app, ["signer", "export", "--database", str(one.path)])
    file = to.with_suffix(".json")
    file.write_text(exported.stdout)
    arguments = ["signer", "import", str(file), "--database", str(to), *options]
    return replace(one, path=to), CliRunner(env={"COLUMNS": "400"}).invoke(app, arguments)


def test_nothing_is_signed_over_what_an_interchange_carries_alone(
    one: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one.authority() as authority:
        for subject in (vote(5), timeout(6, 5), proposal(7), ffg(0, 32)):
            assert isinstance(ask(authority, one, subject), bytes)
    moved, result = moved_by_interchange(one, tmp_path / "moved.db")
    assert result.exit_code == 0
    assert "before this is done again with --votes-from-epoch" in result.stdout
    for _ in range(2):
        with pytest.raises(PartialMemoryError, match="--votes-from-epoch EPOCH"), moved.authority():
            pass
    # That refusal is what stops it:
    monkeypatch.setattr(signing_store, "read_besides", lambda connection: Slot(0, 0, 0))
    with moved.authority() as authority:
        assert ask(authority, moved, proposal(7, 2)) is Rule.SLASHABLE
        assert isinstance(ask(authority, moved, vote(5, 2)), bytes), "the key has voted twice in view 5"


def test_above_the_epoch_that_an_import_named_everything_is_signed(one: Chain, tmp_path: Path) -> None:
    with one.authority() as authority:
        for subject in (vote(5), proposal(7), ffg(0, 32)):
            assert isinstance(ask(authority, one, subject), bytes)
    moved, result = moved_by_interchange(one, tmp_path / "moved.db", "--votes-from-epoch", "1")
    assert result.exit_code == 0
    assert "--votes-from-epoch" not in result.stdout
    below = [vote(5), vote(2**40, 2), vote(9, kind="order"), timeout(8, 7), proposal(2**40)]
    above = [vote(1, 2, epoch=1), vote(1, kind="order", epoch=1), timeout(2, 1, epoch=1), proposal(1, epoch=1)]
    for _ in range(2):  # also after a restart
        with moved.authority() as authority:
            assert [ask(authority, moved, subject) for subject in below] == [Rule.BEGIN] * len(below)
            assert isinstance(ask(authority, moved, ffg(0, 33)), bytes), "votes of finality came with the file"
    with moved.authority() as authority:
        assert all(isinstance(ask(authority, moved, subject), bytes) for subject in above)
    with moved.authority() as authority:
        assert ask(authority, moved, vote(3, 2)) is Rule.ORDER
        assert ask(authority, moved, timeout(9, 8)) is Rule.ORDER
        other = moved.members.keys[1].public_key
        held = SigningAuthority(moved.genesis, moved.members.keys[1:2], authority._store)
        refused = held.sign(msgspec.structs.replace(moved.request(vote(5)), public_key=other))
        assert isinstance(refused, Refusal)
        assert refused.rule is Rule.BEGIN, "keys that the file does not name are bound alike: they may have voted"


def test_the_bound_of_an_import_can_be_a_view_and_never_falls(one: Chain, tmp_path: Path) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, proposal(7)), bytes)
    to = tmp_path / "moved.db"
    for named in ("0", "7"):
        moved, result = moved_by_interchange(one, to, "--votes-from-epoch", "0", "--votes-from-view", named)
        assert result.exit_code == UNUSABLE
        assert "holds a proposal of epoch 0, view 7" in result.stderr
        assert not to.exists()
    assert moved_by_interchange(one, to, "--votes-from-view", "9")[1].exit_code == 2
    for named in ("20", "8"):
        assert moved_by_interchange(one, to, "--votes-from-epoch", "0", "--votes-from-view", named)[1].exit_code == 0
        with moved.authority() as authority:
            assert ask(authority, moved, vote(19)) is Rule.BEGIN
    moved_by_interchange(one, to)
    with pytest.raises(PartialMemoryError), moved.authority():
        pass  # the last import named none
    moved_by_interchange(one, to, "--votes-from-epoch", "0", "--votes-from-view", "8")
    with moved.authority() as authority:
        assert ask(authority, moved, vote(19)) is Rule.BEGIN
        assert isinstance(ask(authority, moved, vote(20)), bytes)


def test_the_bound_lies_above_what_the_database_holds_from_earlier_imports(one: Chain, tmp_path: Path) -> None:
    """Another file, which holds less, does not make it whole."""
    with one.authority() as authority:
        for subject in (vote(5), proposal(7), ffg(0, 32)):
            assert isinstance(ask(authority, one, subject), bytes)
    moved, _ = moved_by_interchange(one, tmp_path / "moved.db")
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(interchange(one)))
    runner = CliRunner(env={"COLUMNS": "400"})
    arguments = ["signer", "import", str(empty), "--database", str(moved.path), "--votes-from-epoch", "0"]
    for named in ("0", "7"):
        result = runner.invoke(app, [*arguments, "--votes-from-view", named])
        assert result.exit_code == UNUSABLE
        assert f"{moved.path}: holds a proposal of epoch 0, view 7" in result.stderr
        with pytest.raises(PartialMemoryError), moved.authority():
            pass
    assert runner.invoke(app, [*arguments, "--votes-from-view", "8"]).exit_code == 0
    with moved.authority() as authority:
        assert ask(authority, moved, vote(5, 2)) is Rule.BEGIN


def test_a_key_that_voted_on_finality_has_voted(one: Chain, tmp_path: Path) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, ffg(0, 32)), bytes)
    moved, result = moved_by_interchange(one, tmp_path / "moved.db", "--votes-from-epoch", "0")
    assert result.exit_code == UNUSABLE
    assert "holds votes of finality, so its keys have voted" in result.stderr
    assert not moved.path.exists()


def test_a_memory_that_an_import_changed_is_partial_too(one: Chain) -> None:
    """Of a key that signed elsewhere: what it voted there is not in this memory, however it was made."""
    with one.authority() as authority:
        assert isinstance(ask(authority, one, vote(5)), bytes)
    with SlashingProtection.open_existing(one.path) as protection:
        protection.import_interchange(interchange(one, (7,)))
    with pytest.raises(PartialMemoryError), one.authority():
        pass
    with SlashingProtection.open_existing(one.path) as protection:
        protection.import_interchange(interchange(one, (7,)), besides_from=Slot(0, 20, 0))
    with one.authority() as authority:
        assert ask(authority, one, vote(19)) is Rule.BEGIN
        assert isinstance(ask(authority, one, vote(5)), bytes), "a repeat of what is known"
        assert isinstance(ask(authority, one, vote(20)), bytes)


def test_a_last_vote_of_finality_without_its_root_is_not_the_fault_of_the_node(one: Chain, tmp_path: Path) -> None:
    """After a minimal file: the node asks for it again at its next start."""
    with one.authority() as authority:
        for subject in (proposal(7), ffg(0, 32), ffg(32, 64)):
            assert isinstance(ask(authority, one, subject), bytes)
    minimal = tmp_path / "minimal.json"
    with SlashingProtection.open_existing(one.path) as protection:
        minimal.write_text(json.dumps(protection.export_interchange(minimal=True)))
    moved = replace(one, path=tmp_path / "moved.db")
    arguments = ["signer", "import", str(minimal), "--database", str(moved.path), "--votes-from-epoch", "1"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    for _ in range(2):
        with moved.authority() as authority:
            assert ask(authority, moved, ffg(32, 64)) is Rule.BEGIN
            assert ask(authority, moved, ffg(31, 64)) is Rule.SLASHABLE
            assert ask(authority, moved, ffg(31, 65)) is Rule.SLASHABLE
    with moved.authority() as authority:
        assert isinstance(ask(authority, moved, ffg(64, 96)), bytes)
        assert ask(authority, moved, ffg(32, 64)) is Rule.ORDER


async def test_a_node_goes_on_without_what_lies_below_the_bound(one: Chain) -> None:
    """It is no fault of the node, which asks again for its last subjects whenever it starts."""
    with SlashingProtection.open_existing(one.path) as protection:
        protection.import_interchange(interchange(one, (7,)), besides_from=Slot(0, 20, 0))
    with socket_path() as path, one.authority() as authority:
        async with serving(authority, path), remote(one, path) as signer:
            with trio.fail_after(30):
                assert await signer.sign(vote(19), one.key.public_key, one.domain) is None
                signature = await signer.sign(vote(20), one.key.public_key, one.domain)
                assert signature is not None
                assert one.verifies(signature, vote(20))
                with pytest.raises(SigningRefused, match="contradiction"):
                    await signer.sign(vote(20, 2), one.key.public_key, one.domain)


async def test_a_node_knows_that_nothing_is_signed_yet(one: Chain, tmp_path: Path) -> None:
    with one.authority() as authority:
        ask(authority, one, vote(5))
    moved, _ = moved_by_interchange(one, tmp_path / "moved.db", "--votes-from-epoch", "1")
    with moved.authority() as authority, socket_path() as path, trio.fail_after(60):
        async with serving(authority, path), remote(moved, path) as signer:
            assert await signer.sign(vote(6), one.key.public_key, one.domain) is None
            assert "epoch 1" in signer.state().withheld
            domain = msgspec.structs.replace(one.domain, epoch=1)
            assert await signer.sign(vote(1, epoch=1), one.key.public_key, domain) is not None
            assert signer.state().withheld == ""
