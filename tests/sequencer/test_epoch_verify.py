"""What verifiers make of a chain whose validators changed: receipts, archives and the changes themselves, offline."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from typer.testing import CliRunner

from consensus.codec import Malformed, digest, encode
from consensus.light_client import Checkpoint
from consensus.protocols.registry import protocol_names
from sequencer.cli import app
from sequencer.cli.console import NO
from sequencer.epoch_changes import ANSWER_BYTES_MAX, CHANGES_MAX, EpochChanges, answer_from
from sequencer.genesis import Genesis, genesis_of
from sequencer.genesis_file import chain_spec_to_json
from sequencer.light_verify import Claim, LightVerdict, Source, read_claim, verify_light
from sequencer.receipts import VerificationError
from sequencer.storage import ChainStore
from tests.sequencer.epoch_archives import FullChain, full_chain, write_epoch_home

replace = msgspec.structs.replace


@lru_cache(maxsize=8)
def full(protocol: str = "jolteon") -> FullChain:
    """Epochs of heights 1-3, 4-7 and 8-10."""
    return full_chain(protocol=protocol)


@lru_cache(maxsize=1)
def rival() -> FullChain:
    """Another boundary at height 7, to other validators."""
    return full_chain(sets=((0, 1, 2, 3), (2, 3, 4, 5), (6, 7, 8, 9)), other_from=7)


def document(whole: FullChain, *epochs: int) -> EpochChanges:
    changes = tuple(whole.chain.change(epoch) for epoch in epochs or (1, 2))
    return EpochChanges(chain=whole.chain.spec.hash, newest=2, changes=changes)


def genesis() -> Genesis:
    return genesis_of(full().chain.spec)


def archive_of(directory: Path, whole: FullChain, **options: Any) -> Path:
    return trio.run(partial(write_epoch_home, directory, whole, **options)).archive


def checkpoint_of(height: int) -> Checkpoint:
    return Checkpoint(height=height, block_id=digest(full().chain.headers[height - 1]))


def judge(*contents: Path | Claim | EpochChanges | Malformed, checkpoint: Checkpoint | None = None) -> LightVerdict:
    sources = [Source(name=f"source-{number}", content=content) for number, content in enumerate(contents)]
    return verify_light(genesis(), sources, checkpoint=checkpoint)


def places(verdict: LightVerdict) -> list[tuple[str, int | None, str]]:
    return [(finding.home, finding.height, finding.field) for finding in verdict.findings]


# --- receipts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", protocol_names())
def test_a_receipt_of_a_later_epoch_verifies_once_its_epoch_is_known(protocol: str) -> None:
    whole = full(protocol)
    trusted = genesis_of(whole.chain.spec)
    for height in (5, 9):
        receipt = whole.receipt(height, 1)
        with pytest.raises(VerificationError, match="show how later ones began") as refused:
            receipt.verify(trusted)
        assert refused.value.what == "commit"
    assert trusted.follow(whole.chain.changes) is None
    for height in range(1, 11):
        whole.receipt(height, 1).verify(trusted)
        whole.section(height, 2).verify(trusted)


def test_nothing_is_absent_by_a_closing_block() -> None:
    """Height 4 is a block of epoch 1 with a transaction. The old epoch's closing block, which the honest signed too,
    holds none: it does not pass for the block at that height, whether or not it is known where the epoch ended."""
    whole = full()
    closing = whole.chain.eras[0].closing[0]
    empty = replace(whole.section(4, 2), header=closing, commit_proof=whole.chain.proof_of(closing))
    with pytest.raises(VerificationError, match="completeness"):
        empty.verify(genesis())
    trusted = genesis()
    trusted.follow(whole.chain.changes)
    longer = full_chain(sets=((0, 1, 2, 3),), lengths=(6,))
    with pytest.raises(VerificationError, match="above height 3, where epoch 0 ended"):
        longer.section(4, 2).verify(trusted)


# --- the document ------------------------------------------------------------------------------------------------


def test_the_document_survives_both_of_its_forms() -> None:
    shown = document(full())
    assert EpochChanges.from_bytes(shown.to_bytes()) == shown
    assert EpochChanges.from_json(shown.to_json()) == shown
    assert read_claim(shown.to_bytes()) == shown
    assert read_claim(shown.to_json()) == shown
    assert json.loads(shown.to_json())["changes"][0]["validators"][0]["name"] == "validator-2"
    assert isinstance(EpochChanges.from_bytes(shown.to_bytes()[:-1]), Malformed)


def test_an_answer_begins_where_it_was_asked_and_is_bounded() -> None:
    chain = full().chain
    assert answer_from(chain.spec.hash, 2, chain.changes[1:]) == document(full(), 2)
    many = [replace(chain.change(1), boundary=replace(chain.change(1).boundary, epoch=each)) for each in range(300)]
    assert len(answer_from(chain.spec.hash, 300, many).changes) == CHANGES_MAX
    large = [replace(each, proof=replace(each.proof, headers=chain.headers * 400)) for each in many[:9]]
    sizes = [len(encode(each)) for each in large]
    answer = answer_from(chain.spec.hash, 300, large)
    assert sum(sizes[: len(answer.changes) - 1]) <= ANSWER_BYTES_MAX < sum(sizes[: len(answer.changes)])


# --- verify --light ----------------------------------------------------------------------------------------------


def test_archives_and_claims_of_several_epochs_are_followed(tmp_path: Path) -> None:
    whole = full()
    archive = archive_of(tmp_path / "a", whole, unproven=(1, 5, 6, 9))
    verdict = judge(archive, whole.receipt(2, 1), whole.section(5, 2), whole.receipt(10, 1))
    assert verdict.findings == ()
    assert (verdict.head.height, verdict.epoch, verdict.archives[0].epoch) == (10, 2, 2)
    assert verdict.archives[0].linked
    assert [claim.height for claim in verdict.claims] == [2, 5, 10]


def test_claims_are_verified_with_the_changes_alone() -> None:
    whole = full()
    claims = [whole.receipt(height, 1) for height in (3, 4, 8)]
    assert judge(*claims, document(whole)).findings == ()
    apart = judge(document(whole, 2), *claims, document(whole, 1))
    assert (apart.findings, apart.epoch) == ((), 2)
    assert places(judge(*claims)) == [("source-1", 4, "commit"), ("source-2", 8, "commit")]
    assert places(judge(*claims, document(whole, 1))) == [("source-2", 8, "commit")]
    partial_changes = judge(*claims, document(whole, 2))
    assert ("source-3", None, "epochs") in places(partial_changes)
    assert "the changes to epochs 1 to 1 are missing" in str(partial_changes.findings[0])


def test_a_forged_change_is_named_with_its_source() -> None:
    whole = full()
    forged = replace(whole.chain.change(2), validators=whole.chain.spec.validators)
    shown = EpochChanges(chain=whole.chain.spec.hash, newest=2, changes=(whole.chain.change(1), forged))
    verdict = judge(shown, whole.receipt(9, 1))
    assert places(verdict) == [("source-0", None, "epochs"), ("source-1", 9, "commit")]
    other = judge(replace(document(whole), chain=bytes(32)))
    assert places(other) == [("source-0", None, "chain")]


def test_two_histories_of_validators_do_not_pass_together(tmp_path: Path) -> None:
    whole, other = full(), rival()
    verdict = judge(document(whole), document(other))
    assert places(verdict) == [("source-1", None, "fork")]
    assert "begins after two boundaries" in str(verdict.findings[0])
    archive = archive_of(tmp_path / "a", other)
    verdict = judge(archive, document(whole), whole.receipt(9, 1))
    assert ("source-1", None, "fork") in places(verdict)
    assert ("source-2", 9, "fork") in places(verdict) or ("source-2", 9, "commit") in places(verdict)
    verdict = judge(archive_of(tmp_path / "b", whole), archive)
    assert not verdict.agreement


def changed(archive: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(archive)) as connection:
        connection.execute(statement, values)
        connection.commit()


def test_a_changed_table_of_epochs_is_named(tmp_path: Path) -> None:
    whole = full()
    archive = archive_of(tmp_path / "a", whole)
    changed(archive, "UPDATE epochs SET digest = ? WHERE epoch = 2", bytes(32))
    assert places(judge(archive)) == [("source-0", 7, "epochs")]
    archive = archive_of(tmp_path / "b", whole)
    other = encode(rival().chain.change(2))
    changed(archive, "UPDATE epochs SET change = ?, digest = ? WHERE epoch = 2", other, sha256(other).digest())
    assert places(judge(archive)) == [("source-0", 7, "epochs")]
    archive = archive_of(tmp_path / "c", whole)
    changed(archive, "DELETE FROM epochs WHERE epoch = 1")
    assert places(judge(archive)) == [("source-0", 3, "epochs")]


def test_a_node_that_stopped_at_a_boundary_is_sound(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a", full(), height=7)
    changed(archive, "DELETE FROM epochs WHERE epoch = 2")
    verdict = judge(archive)
    assert (verdict.findings, verdict.epoch, verdict.head.height) == ((), 1, 7)


def pruned(archive: Path, height: int) -> None:
    changed(archive, "DELETE FROM blocks WHERE number IN (SELECT number FROM commits WHERE height < ?)", height)
    changed(archive, "DELETE FROM commits WHERE height < ?", height)
    changed(archive, "UPDATE meta SET value = ? WHERE key = 'pruned below'", height)


def test_a_pruned_archive_brings_the_changes_below_it(tmp_path: Path) -> None:
    whole = full()
    archive = archive_of(tmp_path / "a", whole)
    pruned(archive, 9)
    verdict = judge(archive, whole.receipt(5, 1))
    assert (verdict.findings, verdict.epoch) == ((), 2)
    assert not verdict.archives[0].linked


def test_a_checkpoint_in_a_later_epoch_needs_its_boundary(tmp_path: Path) -> None:
    """The archive leads from the boundary to the checkpoint by hash, or the boundary itself is trusted."""
    whole, claim = full(), full().receipt(10, 1)
    archive = archive_of(tmp_path / "a", whole)
    for height in (9, 7, 5, 3):
        verdict = judge(archive, claim, whole.receipt(2, 1), checkpoint=checkpoint_of(height))
        assert (verdict.findings, verdict.epoch) == ((), 2), height
    bare = judge(claim, document(whole), checkpoint=checkpoint_of(9))
    assert "trust the boundary after which the checkpoint's epoch begins" in str(bare.findings[0])
    assert judge(claim, document(whole, 2), checkpoint=checkpoint_of(7)).findings == ()
    pruned(archive, 9)
    verdict = judge(archive, claim, checkpoint=checkpoint_of(9))
    assert places(verdict)[0] == ("source-0", 9, "checkpoint")
    assert checkpoint_of(7).block_id.hex() in str(verdict.findings[0])
    assert judge(archive, claim, checkpoint=checkpoint_of(7)).findings == ()


def test_another_past_is_refused_by_a_checkpoint_whoever_signed_it() -> None:
    """Those who left sign another boundary; the checkpoint is the real one."""
    other = rival()
    verdict = judge(other.receipt(9, 1), document(other), checkpoint=checkpoint_of(7))
    assert places(verdict) == [("source-1", None, "epochs"), ("source-0", 9, "commit")]
    assert verdict.claims == ()


def test_verify_on_the_command_line(tmp_path: Path) -> None:
    whole = full()
    (tmp_path / "genesis.json").write_text(chain_spec_to_json(whole.chain.spec))
    (tmp_path / "receipt.json").write_bytes(whole.receipt(9, 1).to_json())
    (tmp_path / "epochs.json").write_bytes(document(whole).to_json())
    command = ["verify", "--light", "--genesis", str(tmp_path / "genesis.json"), str(tmp_path / "receipt.json")]
    alone = CliRunner().invoke(app, command)
    assert alone.exit_code == NO
    assert "show how later ones began" in alone.output.replace("\n", " ")
    proven = CliRunner().invoke(app, [*command, str(tmp_path / "epochs.json"), "--json"])
    assert proven.exit_code == 0, proven.output
    assert (json.loads(proven.output)["epoch"], json.loads(proven.output)["agreement"]) == (2, True)


async def test_what_the_store_gives_is_what_the_api_answers(tmp_path: Path) -> None:
    whole = full()
    home = await write_epoch_home(tmp_path / "a", whole)
    async with ChainStore.open(home.archive, whole.chain.spec.hash) as store:
        assert answer_from(whole.chain.spec.hash, 2, await store.epoch_changes()) == document(whole)
