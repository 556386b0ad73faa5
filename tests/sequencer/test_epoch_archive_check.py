"""``sequencer verify`` on homes whose chain changed its validators: each boundary's set is derived anew, and every
home's account of its epochs is judged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from consensus.codec import encode
from consensus.crypto.ed25519 import Ed25519
from consensus.crypto.registry import scheme_named
from consensus.finality.types import Checkpoint, LinkCertificate, LinkGroup
from consensus.genesis import SYSTEM_ROLLUP, ChainSpec, Reconfiguration
from consensus.reconfiguration import (
    AddValidator,
    ChangeDomain,
    RemoveValidator,
    approved_by_governors,
    sign_as_governor,
    system_transactions,
)
from consensus.validators import ValidatorSet
from sequencer.verify import Home, Verdict, verify
from tests.sequencer.epoch_archives import FullChain, full_chain, write_epoch_home
from tests.support.epoch_chain import chain_spec, members

replace = msgspec.structs.replace

GOVERNOR = Ed25519().generate(b"governor".ljust(32))
RULES = Reconfiguration(epoch_heights=4, governors=(GOVERNOR.public_key,))


def spec_of() -> ChainSpec:
    return chain_spec((0, 1, 2, 3), reconfiguration=RULES)


def addition(number: int, expires_at: int = 100) -> bytes:
    """The system transaction that adds the validator with that key."""
    (validator,), _ = members(scheme_named("ed25519"), (number,))
    change = AddValidator(
        name=validator.name,
        operator=validator.name,
        stake=validator.stake,
        public_key=validator.public_key,
        possession_proof=validator.possession_proof,
        peer=validator.peer,
        address="",
        expires_at=expires_at,
    )
    return signed(change)


def removal(number: int, expires_at: int = 100) -> bytes:
    (validator,), _ = members(scheme_named("ed25519"), (number,))
    return signed(RemoveValidator(public_key=validator.public_key, expires_at=expires_at))


def signed(change: AddValidator | RemoveValidator) -> bytes:
    signature = sign_as_governor(ChangeDomain.of(spec_of()), change, RULES.governors, GOVERNOR)
    return encode(approved_by_governors(change, [signature]))


SETS = ((0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4))
CONTENTS = {
    2: {SYSTEM_ROLLUP: [(0, addition(4))], 1: [(0, b"a")]},
    6: {SYSTEM_ROLLUP: [(0, removal(0))]},
    9: {2: [(0, b"b")]},
}


@lru_cache(maxsize=8)
def full(**options: Any) -> FullChain:
    """Epochs of heights 1-4, 5-8 and 9-11: one validator joins, one leaves."""
    defaults: dict[str, Any] = {"sets": SETS, "lengths": (4, 4, 3), "reconfiguration": RULES}
    return full_chain(CONTENTS, **(defaults | options))


async def homes_of(directory: Path, *chains: FullChain) -> list[Home]:
    return [await write_epoch_home(directory / f"home-{number}", chain) for number, chain in enumerate(chains)]


def places(verdict: Verdict) -> list[tuple[str, int | None, str]]:
    return [(finding.home, finding.height, finding.field) for finding in verdict.findings]


def change(home: Home, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(home.archive)) as connection:
        connection.execute(statement, values)
        connection.commit()


async def test_homes_of_a_chain_that_changed_its_validators_agree(tmp_path: Path) -> None:
    verdict = await verify(await homes_of(tmp_path, full(), full()))
    assert (verdict.findings, verdict.epoch, verdict.height) == ((), 2, 11)
    assert verdict.transactions == {1: 1, 2: 1, 3: 0, SYSTEM_ROLLUP: 2}


async def test_a_set_that_no_transaction_asked_for_is_found(tmp_path: Path) -> None:
    """All signatures are good: more than F is faulty. The fold of the system transactions tells."""
    other = full(sets=((0, 1, 2, 3), (0, 1, 2, 3, 5), (1, 2, 3, 5)))
    assert places(await verify(await homes_of(tmp_path, other))) == [("home-0", 4, "header")]


async def test_a_boundary_that_is_left_out_or_early_is_found(tmp_path: Path) -> None:
    late = full(sets=SETS[:2], lengths=(8, 3))
    assert places(await verify(await homes_of(tmp_path / "a", late))) == [("home-0", 4, "header")]
    early = full(sets=SETS[:2], lengths=(2, 9))
    (finding,) = (await verify(await homes_of(tmp_path / "b", early))).findings
    assert (finding.height, finding.field) == (2, "header")
    assert "it names next validators" in finding.reason


async def test_each_homes_account_of_its_epochs_is_judged(tmp_path: Path) -> None:
    homes = await homes_of(tmp_path, full(), full())
    original = homes[1].archive.read_bytes()
    second = full().chain.change(2)
    forged = encode(replace(second, proof=full().chain.change(2, signers=(0, 1)).proof))
    wrong = encode(replace(second, validators=full().chain.spec.validators))
    for statement, values, reason in (
        ("UPDATE epochs SET digest = ? WHERE epoch = 2", (bytes(32),), "not those of their digest"),
        ("UPDATE epochs SET change = ?, digest = ? WHERE epoch = 2", (forged, sha256(forged).digest()), "quorum"),
        ("UPDATE epochs SET change = ?, digest = ? WHERE epoch = 2", (wrong, sha256(wrong).digest()), "not those that"),
        ("UPDATE epochs SET epoch = 5 WHERE epoch = 2", (), "it is not stored how epoch 2 began"),
        ("DELETE FROM epochs WHERE epoch = 2", (), "it is not stored how epoch 2 began"),
    ):
        change(homes[1], statement, *values)
        verdict = await verify(homes)
        assert places(verdict) == [("home-1", 8, "epochs")], statement
        assert reason in verdict.findings[0].reason
        assert verdict.epoch == 2  # the other home knows
        homes[1].archive.write_bytes(original)
    assert (await verify(homes)).agreement


async def test_a_row_for_an_epoch_that_never_was_is_found(tmp_path: Path) -> None:
    (home,) = await homes_of(tmp_path, full())
    change(home, "INSERT INTO epochs SELECT 3, change, digest FROM epochs WHERE epoch = 2")
    assert places(await verify([home])) == [("home-0", 12, "epochs")]


def pruned(home: Home, height: int) -> None:
    change(home, "DELETE FROM blocks WHERE number IN (SELECT number FROM commits WHERE height < ?)", height)
    change(home, "DELETE FROM commits WHERE height < ?", height)
    change(home, "UPDATE meta SET value = ? WHERE key = 'pruned below'", height)


async def test_pruned_archives_follow_the_boundaries_alone(tmp_path: Path) -> None:
    whole, shorter = await homes_of(tmp_path, full(), full())
    pruned(shorter, 6)
    verdict = await verify([shorter])
    assert (verdict.findings, verdict.epoch) == ((), 2)
    assert any("validators were not derived" in note for note in verdict.notes)
    assert (await verify([whole, shorter])).agreement
    change(shorter, "DELETE FROM epochs WHERE epoch = 1")
    assert places(await verify([shorter])) == [("home-1", 6, "epochs")]


async def test_two_boundaries_of_one_height_are_a_disagreement(tmp_path: Path) -> None:
    verdict = await verify(await homes_of(tmp_path, full(), full(other_from=8)))
    assert places(verdict) == [("home-1", 8, "id")]


async def test_a_changed_link_certificate_is_found(tmp_path: Path) -> None:
    (home,) = await homes_of(tmp_path, full())
    link = LinkCertificate(
        source=Checkpoint(height=0, id=bytes(32)),
        target=Checkpoint(height=4, id=bytes(32)),
        groups=(LinkGroup(epoch=0, signers=b"\x07", signature=b"s"),),
    )
    data = encode(link)
    change(home, "INSERT INTO links VALUES (4, 0, ?, ?)", data, sha256(data).digest())
    assert (await verify([home])).agreement
    for statement in ("UPDATE links SET target = 5", "UPDATE links SET source = 1", "UPDATE links SET digest = x'00'"):
        before = home.archive.read_bytes()
        change(home, statement)
        assert places(await verify([home])) == [("home-0", None, "links")]
        home.archive.write_bytes(before)


def test_the_changes_here_are_what_the_registry_takes() -> None:
    for data in (addition(4), removal(0)):
        assert system_transactions.decode(data) is not None
    assert ValidatorSet(members(scheme_named("ed25519"), SETS[1])[0]).hash == full().chain.eras[1].info.validators.hash
