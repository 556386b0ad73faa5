"""The database of slashing protection: its calls, its documents, its file."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import apsw
import pytest

from sequencer.slashing_protection import InterchangeError, Pruned, Rule, SlashingProtection, SlashingRefusal
from sequencer.storage import InUseError, StorageError
from tests.sequencer.slashing_world import ANNA, BERT, CHAIN, World, interchange, root, run_published
from tests.sequencer.storage.faults import faulty_disk

PUBLISHED: Final = os.environ.get("EIP3076_TESTS")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slashing.db"


# --- published tests ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    PUBLISHED is None,
    reason="EIP3076_TESTS does not name the folder tests/generated of a clone of github.com/eth-clients/"
    "slashing-protection-interchange-tests (v5.3.0), which has no licence and is therefore not kept here",
)
def test_the_published_tests(tmp_path: Path) -> None:
    documents = sorted(Path(PUBLISHED or "").glob("*.json"))
    assert len(documents) >= 38
    for each in documents:
        assert run_published(json.loads(each.read_text()), tmp_path / each.name) == [], each.name


def test_the_runner_of_published_tests_sees_what_is_wrong(path: Path) -> None:
    """Of a document in their form, made for this: each check once as it is and once turned around."""
    key = f"0x{ANNA.hex()}"
    checks = [
        {"pubkey": key, "slot": "9", "signing_root": f"0x{CHAIN.hex()}", "should_succeed_complete": False},
        {"pubkey": key, "slot": "11", "signing_root": f"0x{CHAIN.hex()}", "should_succeed_complete": True},
        {"pubkey": key, "source_epoch": "1", "target_epoch": "3", "should_succeed_complete": True},
        {"pubkey": key, "source_epoch": "0", "target_epoch": "4", "should_succeed_complete": False},
    ]
    step = {
        "should_succeed": True,
        "contains_slashable_data": False,
        "interchange": interchange((ANNA, [(10, None)], [(1, 2, None)])),
        "blocks": checks[:2],
        "attestations": checks[2:],
    }
    document = {"genesis_validators_root": f"0x{CHAIN.hex()}", "steps": [step]}
    assert run_published(document, path) == []
    for check in checks:
        check["should_succeed_complete"] = not check["should_succeed_complete"]
        assert len(run_published(document, path.with_name(f"{id(check)}.db"))) == 1
        check["should_succeed_complete"] = not check["should_succeed_complete"]
    step["should_succeed"] = False
    assert len(run_published(document, path.with_name("x.db"))) == 1
    document["genesis_validators_root"] = "0x" + 32 * "ee"
    assert run_published(document, path.with_name("y.db")) == []
    step["should_succeed"] = True
    assert len(run_published(document, path.with_name("z.db"))) == 1
    step["contains_slashable_data"] = True
    assert run_published(document, path.with_name("zz.db")) == []


# --- calls -------------------------------------------------------------------------------------------------------


def test_a_refusal_names_key_message_and_what_stands_against_it(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        protection.check_and_record_block(ANNA, 7, root(1))
        with pytest.raises(SlashingRefusal) as caught:
            protection.check_and_record_block(ANNA, 7, None)
        assert (caught.value.pubkey, caught.value.rule) == (ANNA, Rule.DOUBLE_BLOCK)
        said = str(caught.value)
        assert said.startswith(
            f"block at slot 7 with no signing root of key 0x{ANNA.hex()} is refused: 1: another block"
        )
        assert f"known: block at slot 7 with root 0x{1:064x}" in said
        with pytest.raises(SlashingRefusal, match=r"block at slot 6 .* refused: 2: .*; known: 7$"):
            protection.check_and_record_block(ANNA, 6, root(1))
        with pytest.raises(SlashingRefusal, match=r"attestation 3 -> 2 .* not a vote: the source is after the target$"):
            protection.check_and_record_attestation(ANNA, 3, 2, root(1))


def test_what_was_refused_leaves_no_trace(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        protection.check_and_record_block(ANNA, 7, root(1))
        before = protection.export_interchange()
        for key, call in ((ANNA, 6), (ANNA, 7)):
            with pytest.raises(SlashingRefusal):
                protection.check_and_record_block(key, call, root(2))
        with pytest.raises(SlashingRefusal):
            protection.check_and_record_attestation(BERT, 2, 1, None)
        assert protection.export_interchange() == before


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: p.check_and_record_block(b"\xaa" * 47, 1, None), "pubkey: 47 bytes"),
        (lambda p: p.check_and_record_block(ANNA.hex(), 1, None), "pubkey: 96 bytes of str"),
        (lambda p: p.check_and_record_block(ANNA, -1, None), "slot: -1"),
        (lambda p: p.check_and_record_block(ANNA, 2**64, None), "slot: 18446744073709551616"),
        (lambda p: p.check_and_record_block(ANNA, cast("int", 7.0), None), "slot: 7.0"),
        (lambda p: p.check_and_record_block(ANNA, cast("int", "7"), None), "slot: 7 "),
        (lambda p: p.check_and_record_attestation(ANNA, 1, cast("int", None), None), "target_epoch: None"),
        (lambda p: p.check_and_record_block(ANNA, 1, b""), "signing_root: 0 bytes"),
        (lambda p: p.check_and_record_attestation(ANNA, -1, 1, None), "source_epoch: -1"),
        (lambda p: p.check_and_record_attestation(ANNA, 1, 2**64, None), "target_epoch"),
        (lambda p: p.check_and_record_attestation(ANNA, 1, 1, b"x" * 33), "signing_root: 33 bytes"),
        (lambda p: p.prune(before_slot=-1, before_epoch=0), "before_slot"),
    ],
)
def test_wrong_arguments_are_value_errors(path: Path, call: Callable[[SlashingProtection], None], said: str) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        with pytest.raises(ValueError, match=said):
            call(protection)
        protection.check_and_record_block(ANNA, 1, None)


def test_keys_of_both_our_schemes_are_kept_apart(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        protection.check_and_record_block(b"\xaa" * 32, 7, root(1))
        protection.check_and_record_block(b"\xaa" * 48, 6, root(1))
        assert protection.export_interchange() == interchange(
            (b"\xaa" * 32, [(7, 1)], []), (b"\xaa" * 48, [(6, 1)], [])
        )


def test_pruning_says_what_it_dropped(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        for key in (ANNA, BERT):
            for number in range(10):
                protection.check_and_record_block(key, number, None)
                protection.check_and_record_attestation(key, number, number, None)
        assert protection.prune(before_slot=7, before_epoch=5) == Pruned(blocks=14, attestations=10)
        assert protection.prune(before_slot=7, before_epoch=5) == Pruned(blocks=0, attestations=0)


def test_a_long_history_is_answered_from_the_index(path: Path) -> None:
    """No look-up reads the whole history: the plans name a search with a bound on each."""
    with SlashingProtection.open(path, CHAIN) as protection:
        plans: list[str] = []
        connection = protection._store._connection

        def explain(_: apsw.Cursor, statement: str, bindings: apsw.Bindings | None) -> bool:
            if statement.startswith("SELECT"):
                found = apsw.Connection(str(path)).execute("EXPLAIN QUERY PLAN " + statement, bindings)
                plans.extend(f"{row[3]}" for row in found)
            return True

        connection.exec_trace = explain
        protection.check_and_record_attestation(ANNA, 1, 2, None)
        protection.check_and_record_block(ANNA, 1, None)
        connection.exec_trace = None
    assert len(plans) >= 8
    assert [plan for plan in plans if plan.startswith("SCAN")] == []


# --- documents ---------------------------------------------------------------------------------------------------


def full_document() -> dict[str, Any]:
    return interchange(
        (ANNA, [(5, None), (7, 1)], [(1, 2, 3), (1, 4, None), (3, 5, 4)]),
        (BERT, [], []),
    )


def test_a_complete_export_is_what_was_imported(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        merged = protection.import_interchange(full_document())
        assert (merged.keys, merged.blocks, merged.attestations, merged.contradictions) == (2, 2, 3, 0)
        assert protection.export_interchange() == full_document()
        protection.import_interchange(full_document())
        assert protection.export_interchange() == full_document(), "once more changes nothing"


def test_an_import_merges_with_what_is_there(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        protection.check_and_record_block(ANNA, 6, root(9))
        protection.check_and_record_attestation(ANNA, 2, 3, root(9))
        protection.import_interchange(full_document())
        assert protection.export_interchange() == interchange(
            (ANNA, [(5, None), (6, 9), (7, 1)], [(1, 2, 3), (2, 3, 9), (1, 4, None), (3, 5, 4)]), (BERT, [], [])
        )


def test_a_minimal_export(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        protection.import_interchange(full_document())
        assert protection.export_interchange(minimal=True) == interchange(
            (ANNA, [(7, None)], [(3, 5, None)]), (BERT, [], [])
        )


def test_what_the_format_leaves_open_is_accepted(path: Path) -> None:
    """Other fields, capital digits, a null for a missing root, a key twice."""
    document = interchange((ANNA, [(5, None)], []), (ANNA, [(7, None)], []))
    document["comment"] = document["data"][0]["comment"] = {"any": "thing"}
    document["data"][0]["pubkey"] = "0x" + ANNA.hex().upper()
    document["data"][0]["signed_blocks"][0]["signing_root"] = None
    with SlashingProtection.open(path, CHAIN) as protection:
        assert protection.import_interchange(document).keys == 1
        assert protection.export_interchange() == interchange((ANNA, [(5, None), (7, None)], []))


def at(*keys: str | int) -> Callable[[dict[str, Any], Any], None]:
    def put(document: dict[str, Any], value: Any) -> None:
        target: Any = document
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value
        if value is MISSING:
            del target[keys[-1]]

    return put


MISSING: Final = object()
SLOT: Final = ("data", 0, "signed_blocks", 1, "slot")
SOURCE: Final = ("data", 0, "signed_attestations", 2, "source_epoch")
TARGET: Final = ("data", 0, "signed_attestations", 2, "target_epoch")
BLOCK_ROOT: Final = ("data", 0, "signed_blocks", 1, "signing_root")
PUBKEY: Final = ("data", 1, "pubkey")
VERSION: Final = ("metadata", "interchange_format_version")
GENESIS: Final = ("metadata", "genesis_validators_root")
NOT_NUMBERS: Final[tuple[Any, ...]] = (
    *(7, 7.0, None, True, "", " 7", "7 ", "7\n", "+7", "-7", "07", "0x7", "7e0", "7.0", "1_000", "\u0667", "seven"),
    *(str(2**64), "9" * 5000, ["7"], {"7": 7}, MISSING),
)
NOT_ROOTS: Final[tuple[Any, ...]] = (
    "",
    "0x",
    "0x00",
    "00" * 32,
    "0X" + "00" * 32,
    "0x" + "0" * 63,
    "0x" + "0g" * 32,
    "0x" + "00" * 33,
    0,
)
NOT_KEYS: Final[tuple[Any, ...]] = (None, MISSING, "", "0x", "0x" + "aa" * 47, "aa" * 48, "0x" + "aa" * 96, 5)
NOT_VERSIONS: Final[tuple[Any, ...]] = (5, "4", "6", "05", "5.0", " 5", None, MISSING, ["5"])
NOT_OBJECTS: Final[tuple[Any, ...]] = (None, [], "5")
MALFORMED: Final[tuple[tuple[tuple[str | int, ...], Any], ...]] = (
    *(((*where,), value) for where in (SLOT, SOURCE, TARGET) for value in NOT_NUMBERS),
    *(((*where,), value) for where in (BLOCK_ROOT, GENESIS) for value in (*NOT_ROOTS, [], "0x" + "00" * 32 + "\n")),
    *((PUBKEY, value) for value in NOT_KEYS),
    *((VERSION, value) for value in NOT_VERSIONS),
    *((("data", 1, name), value) for name in ("signed_blocks", "signed_attestations") for value in (None, {}, MISSING)),
    *(((name,), value) for name in ("data", "metadata") for value in (None, "x", 5, MISSING)),
    *((where, value) for where in (("data", 1), ("data", 0, "signed_blocks", 0)) for value in NOT_OBJECTS),
    (GENESIS, MISSING),
    (GENESIS, None),
    (GENESIS, "0x" + "ee" * 32),
)


def test_malformed_documents_name_the_place_and_change_nothing(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        protection.check_and_record_block(BERT, 3, root(1))
        before = protection.export_interchange()
        for where, value in MALFORMED:
            document = copy.deepcopy(full_document())
            at(*where)(document, value)
            with pytest.raises(InterchangeError) as caught:
                protection.import_interchange(document)
            name = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in where).removeprefix(".")
            assert caught.value.key_path == name, (where, value)
            assert len(str(caught.value)) < 400
            assert protection.export_interchange() == before


@pytest.mark.parametrize("document", [None, [], "5", 5])
def test_what_is_no_object_is_refused(path: Path, document: Any) -> None:
    with SlashingProtection.open(path, CHAIN) as protection, pytest.raises(InterchangeError, match="must be an object"):
        protection.import_interchange(document)


def test_an_import_that_breaks_off_leaves_nothing(path: Path) -> None:
    with faulty_disk() as disk:
        with SlashingProtection.open(path, CHAIN) as protection:
            protection.check_and_record_block(ANNA, 3, root(1))
            disk.write_budget_bytes = 9_000
            many: list[tuple[int, int | None]] = [(number, number) for number in range(4, 3000)]
            with pytest.raises(StorageError, match=r"slashing\.db: the disk is full"):
                protection.import_interchange(interchange((ANNA, many, []), (BERT, many, [])))
            with pytest.raises(StorageError, match="nothing more is signed here"):
                protection.check_and_record_block(ANNA, 4, root(1))
            disk.write_budget_bytes = None
        with SlashingProtection.open(path, CHAIN) as protection:
            assert protection.export_interchange() == interchange((ANNA, [(3, 1)], []))


# --- the file ----------------------------------------------------------------------------------------------------


def test_every_record_is_synced_before_the_call_returns(path: Path) -> None:
    with faulty_disk() as disk, SlashingProtection.open(path, CHAIN) as protection:
        calls: list[Callable[[], object]] = [
            lambda: protection.check_and_record_block(ANNA, 1, root(1)),
            lambda: protection.check_and_record_attestation(ANNA, 1, 2, root(1)),
            lambda: protection.import_interchange(interchange((BERT, [(2, 2)], []))),
            lambda: protection.prune(before_slot=2, before_epoch=1),
        ]
        for call in calls:
            before = disk.syncs["log"]
            call()
            assert disk.syncs["log"] > before
        before = disk.writes["log"]
        protection.check_and_record_block(BERT, 2, root(2))
        assert disk.writes["log"] == before, "a repeat is recorded already"


def test_a_record_that_is_not_synced_permits_nothing(path: Path) -> None:
    with faulty_disk() as disk, SlashingProtection.open(path, CHAIN) as protection:
        disk.sync_fails = True
        with pytest.raises(StorageError, match="failed to sync"):
            protection.check_and_record_block(ANNA, 1, root(1))
        disk.sync_fails = False
        with pytest.raises(StorageError, match="nothing more is signed here"):
            protection.check_and_record_block(BERT, 1, root(1))


def test_the_settings_of_a_connection(path: Path) -> None:
    expected = {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1, "checkpoint_fullfsync": 1, "trusted_schema": 0}
    with SlashingProtection.open(path, CHAIN) as protection:
        connection = protection._store._connection
        assert {name: connection.pragma(name) for name in expected} == expected


def test_another_chains_database_is_refused(path: Path) -> None:
    SlashingProtection.open(path, CHAIN).close()
    with pytest.raises(StorageError, match=rf"slashing\.db: belongs to the chain .*{CHAIN.hex()}"):
        SlashingProtection.open(path, bytes(32))
    with pytest.raises(ValueError, match="genesis_validators_root: 31 bytes"):
        SlashingProtection.open(path, bytes(31))


def test_what_is_no_such_database_is_refused_and_left_alone(path: Path) -> None:
    path.touch()
    with pytest.raises(StorageError, match=r"slashing\.db: not a slashing protection database"):
        SlashingProtection.open(path, CHAIN)
    path.write_bytes(b"notes" * 1000)
    with pytest.raises(StorageError, match=r"slashing\.db: damaged: .*Do not sign with its keys"):
        SlashingProtection.open(path, CHAIN)
    assert path.read_bytes() == b"notes" * 1000
    with pytest.raises(StorageError, match=r"there is no directory .*elsewhere\. Make it first"):
        SlashingProtection.open(path.parent / "elsewhere" / "slashing.db", CHAIN)


def test_a_lost_file_beside_its_log_is_no_new_beginning(path: Path) -> None:
    protection = SlashingProtection.open(path, CHAIN)
    protection.check_and_record_block(ANNA, 1, None)
    shutil.copy(f"{path}-wal", f"{path}-kept")
    protection.close()
    path.unlink()
    Path(f"{path}-kept").rename(f"{path}-wal")
    with pytest.raises(StorageError, match=r"missing, but its log slashing\.db-wal is there.*Do not sign"):
        SlashingProtection.open(path, CHAIN)
    with pytest.raises(StorageError, match=r"there is no such file"):
        SlashingProtection.open_existing(path)


def test_after_closing_every_call_is_refused(path: Path) -> None:
    protection = SlashingProtection.open(path, CHAIN)
    protection.close()
    protection.close()
    for call in (
        lambda: protection.check_and_record_block(ANNA, 1, None),
        lambda: protection.check_and_record_attestation(ANNA, 1, 2, None),
        protection.export_interchange,
        lambda: protection.import_interchange(full_document()),
    ):
        with pytest.raises(StorageError, match=r"slashing\.db: closed"):
            call()


def test_a_new_file_leaves_nothing_else_behind_and_is_private(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection:
        protection.check_and_record_block(ANNA, 1, None)
    assert sorted(each.name for each in path.parent.iterdir()) == ["slashing.db", "slashing.db.lock"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_openings_share_one_history_and_an_exclusive_one_waits_for_neither(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as one, SlashingProtection.open(path, CHAIN) as two:
        one.check_and_record_block(ANNA, 1, root(1))
        with pytest.raises(SlashingRefusal):
            two.check_and_record_block(ANNA, 1, root(2))
        two.check_and_record_block(ANNA, 1, root(1))
        with pytest.raises(InUseError):
            SlashingProtection.open_existing(path, exclusive=True)
    with SlashingProtection.open_existing(path, exclusive=True) as alone:
        assert alone.genesis_validators_root == CHAIN
        with pytest.raises(InUseError):
            SlashingProtection.open(path, CHAIN)


def test_of_two_that_make_the_file_both_get_the_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link
    found: list[SlashingProtection] = []

    def link_late(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        found.append(SlashingProtection.open(path, CHAIN))
        found[0].check_and_record_block(ANNA, 1, root(1))
        link(source, target)

    monkeypatch.setattr(os, "link", link_late)
    with SlashingProtection.open(path, CHAIN) as second:
        [first] = found
        with pytest.raises(SlashingRefusal):
            second.check_and_record_block(ANNA, 1, root(2))
        second.check_and_record_block(ANNA, 2, root(2))
        with pytest.raises(SlashingRefusal):
            first.check_and_record_block(ANNA, 2, root(1))
        first.close()


def test_many_threads_share_one_opening(path: Path) -> None:
    with SlashingProtection.open(path, CHAIN) as protection, ThreadPoolExecutor(8) as threads:

        def attempt(number: int) -> bool:
            try:
                protection.check_and_record_block(ANNA, number // 8, root(number))
            except SlashingRefusal:
                return False
            return True

        permitted = [slot // 8 for slot, given in enumerate(threads.map(attempt, range(160))) if given]
        assert len(permitted) == len(set(permitted)), "never two for one slot"
        assert 19 in permitted


def test_a_damaged_number_is_not_read_as_another(path: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.block(5, 1) is None
    store = apsw.Connection(str(world.protection.path))
    store.pragma("ignore_check_constraints", True)
    store.execute("UPDATE blocks SET slot = x'05'")
    with pytest.raises(StorageError, match="damaged: a slot or epoch is"):
        world.block(6, 1)
    store.close()
