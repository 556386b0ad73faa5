"""The authority over a real file: what is remembered over restarts, and what EIP-3076 says beside it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from consensus.finality.types import FFG
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.protocols.simplex_types import FINALIZE
from consensus.types import Slot, Subject
from sequencer.cli import app
from sequencer.cli.console import UNUSABLE
from sequencer.signer import rules
from sequencer.signer.authority import Request, SigningAuthority
from sequencer.signer.rules import SUBJECTS_KEPT, Refusal, Rule
from sequencer.slashing_protection import SlashingProtection
from sequencer.storage import InUseError, StorageError
from sequencer.storage.signing_store import SigningStore
from tests.sequencer.signer.common import Chain, chain
from tests.sequencer.signer.subjects import ffg, proposal, timeout, vote
from tests.sequencer.signer.test_signing_rules import Signer, subjects


@pytest.fixture
def one(tmp_path: Path) -> Chain:
    return chain(tmp_path)


def ask(authority: SigningAuthority, of: Chain, subject: Subject) -> Rule | bytes:
    answer = authority.sign(of.request(subject))
    return answer.rule if isinstance(answer, Refusal) else answer


def test_every_kind_is_signed_remembered_and_repeated(one: Chain) -> None:
    asked = [vote(3, justify=2), vote(3, kind="order"), timeout(3, 3), proposal(4), ffg(0, 32)]
    with one.authority() as authority:
        first = [ask(authority, one, subject) for subject in asked]
    for subject, signature in zip(asked, first, strict=True):
        assert isinstance(signature, bytes)
        assert one.verifies(signature, subject)
    others = [vote(3, 2, justify=2), vote(3, 2, kind="order"), timeout(3, 2), proposal(4, 2), ffg(0, 32, 2)]
    with one.authority() as authority:
        assert [ask(authority, one, subject) for subject in asked] == first
        assert [ask(authority, one, subject) for subject in others] == [Rule.CONTRADICTION] * 5


def test_what_is_not_to_be_signed_at_all(one: Chain) -> None:
    with one.authority() as authority:
        assert ask(authority, one, vote(1, kind=FINALIZE)) is Rule.KIND, "a kind of another protocol"
        assert ask(authority, one, vote(1, kind="proposal")) is Rule.KIND
        for data in (b"", b"\x00", b"\x93\x01\x00\x01", one.request(vote(1)).subject + b"\x00"):
            refused = authority.sign(msgspec.structs.replace(one.request(vote(1)), subject=data))
            assert isinstance(refused, Refusal)
            assert refused.rule is Rule.MALFORMED
        other = one.members.keys[1].public_key
        refused = authority.sign(
            Request(public_key=other, validators_hash=bytes(32), subject=one.request(vote(1)).subject)
        )
        assert isinstance(refused, Refusal)
        assert refused.rule is Rule.KEY


def test_keys_have_memories_of_their_own(one: Chain) -> None:
    """As while one key follows another: the old epoch's and the new one's."""
    old, new = one.members.keys[:2]
    for first_time in (True, False):
        with SigningStore(one.path, one.members.spec.hash) as store:
            authority = SigningAuthority(one.genesis, [old, new], store)
            assert authority.public_keys == (old.public_key, new.public_key)
            for key, subject in ((old, vote(9)), (new, vote(3, 2)), (old, proposal(9)), (new, proposal(9, 2))):
                request = msgspec.structs.replace(one.request(subject), public_key=key.public_key)
                assert authority.sign(request) == key.sign(one.domain.bytes_to_sign(subject)), first_time


def test_other_validators_are_another_signature(one: Chain) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, vote(1)), bytes)
        refused = authority.sign(one.request(vote(1), validators_hash=bytes(32)))
        assert isinstance(refused, Refusal)
        assert refused.rule is Rule.CONTRADICTION
        assert "under other validators" in refused.reason


def test_finality_says_one_link_per_target_for_any_epoch(one: Chain) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, ffg(32, 64)), bytes)
        again = ask(authority, one, ffg(32, 64, epoch=1))
        assert isinstance(again, bytes)
        assert one.verifies(again, ffg(32, 64, epoch=1))
        assert ask(authority, one, ffg(0, 64, epoch=1)) is Rule.CONTRADICTION
        assert ask(authority, one, ffg(0, 96)) is Rule.SLASHABLE, "it surrounds"
        assert isinstance(ask(authority, one, ffg(32, 96)), bytes)


def test_the_interchange_carries_proposals_and_finality(one: Chain) -> None:
    with one.authority() as authority:
        for subject in (proposal(7), proposal(2, epoch=1), ffg(32, 64), vote(9)):
            assert isinstance(ask(authority, one, subject), bytes)
    with SlashingProtection.open_existing(one.path) as protection:
        document = protection.export_interchange()
        assert protection.genesis_validators_root == one.members.spec.hash
    assert document["data"] == [
        {
            "pubkey": f"0x{one.key.public_key.hex()}",
            "signed_blocks": [
                {"slot": "7", "signing_root": signing_root(one, proposal(7))},
                {"slot": str(2**52 + 2), "signing_root": signing_root(one, proposal(2, epoch=1))},
            ],
            "signed_attestations": [{"source_epoch": "32", "target_epoch": "64", "signing_root": ANY}],
        }
    ]


def test_the_export_says_what_it_does_not_carry(one: Chain) -> None:
    def export() -> Result:
        return CliRunner().invoke(app, ["signer", "export", "--database", str(one.path)])

    with one.authority() as authority:
        for subject in (proposal(7), ffg(32, 64)):
            assert isinstance(ask(authority, one, subject), bytes)
        assert export().exit_code == UNUSABLE, "it is in use"
    assert export().stderr == ""
    with one.authority() as authority:
        assert isinstance(ask(authority, one, vote(9)), bytes)
    assert "also remembers subjects of the kinds vote" in " ".join(export().stderr.split())


def signing_root(one: Chain, subject: Subject) -> str:
    domain = msgspec.structs.replace(one.domain, epoch=subject.epoch)
    return f"0x{hashlib.sha256(domain.bytes_to_sign(subject)).hexdigest()}"


def interchange(one: Chain, blocks: Sequence[int] = (), attestations: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """What another signer of the key exported."""
    return {
        "metadata": {
            "interchange_format_version": "5",
            "genesis_validators_root": f"0x{one.members.spec.hash.hex()}",
        },
        "data": [
            {
                "pubkey": f"0x{one.key.public_key.hex()}",
                "signed_blocks": [{"slot": str(slot)} for slot in blocks],
                "signed_attestations": [
                    {"source_epoch": str(source), "target_epoch": str(target)} for source, target in attestations
                ],
            }
        ],
    }


def test_an_import_binds_the_signer_even_where_it_would_repeat(one: Chain) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, proposal(7)), bytes)
    with SlashingProtection.open_existing(one.path) as protection:
        document = interchange(one, (7, 20), [(3, 40)])
        protection.import_interchange(document, raise_bounds=True, besides_from=Slot(0, 0, 0))
    with one.authority() as authority:
        assert ask(authority, one, proposal(7)) is Rule.SLASHABLE
        assert ask(authority, one, proposal(20)) is Rule.SLASHABLE
        assert isinstance(ask(authority, one, proposal(21)), bytes)
        assert ask(authority, one, ffg(2, 41)) is Rule.SLASHABLE
        assert isinstance(ask(authority, one, ffg(3, 41)), bytes)


def test_what_does_not_fit_the_interchange_is_protected_all_the_same(one: Chain) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, proposal(2**52)), bytes)
        assert isinstance(ask(authority, one, proposal(1, epoch=2**12)), bytes)
        assert ask(authority, one, proposal(1, 2, epoch=2**12)) is Rule.CONTRADICTION
    with SlashingProtection.open_existing(one.path) as protection:
        assert protection.export_interchange()["data"] == []


def test_the_file_does_not_grow(one: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SUBJECTS_KEPT", 4)
    monkeypatch.setattr("sequencer.signer.authority.SUBJECTS_KEPT", 4)
    with one.authority() as authority:
        for view in range(1, 40):
            for subject in (vote(view, justify=view - 1), proposal(view), ffg(view - 1, view)):
                assert isinstance(ask(authority, one, subject), bytes)
    with apsw.Connection(str(one.path)) as connection:
        for kind, most in (("proposal", 4), (FFG, 4), ("vote", 7)):
            assert connection.execute("SELECT count(*) BETWEEN 4 AND ? FROM subjects WHERE kind = ?", (most, kind)).get
        assert connection.execute("SELECT count(*) FROM blocks").get == 4
        assert connection.execute("SELECT count(*) FROM attestations").get == 4
    with one.authority() as authority:
        assert ask(authority, one, proposal(35)) is Rule.ORDER
        assert ask(authority, one, timeout(35, 34)) is Rule.FLOOR
        assert ask(authority, one, timeout(40, 30)) is Rule.OFFENCE


def test_what_is_forgotten_still_forbids_after_a_restart(one: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SUBJECTS_KEPT", 2)
    monkeypatch.setattr("sequencer.signer.authority.SUBJECTS_KEPT", 2)
    with one.authority() as authority:
        for subject in (vote(5, justify=4), *(vote(view, 2 + view % 2) for view in range(6, 13))):
            assert isinstance(ask(authority, one, subject), bytes)
    for _ in range(2):
        with one.authority() as authority:
            assert ask(authority, one, timeout(20, 3)) is Rule.OFFENCE
    with one.authority() as authority:
        assert isinstance(ask(authority, one, timeout(20, 4)), bytes)


def test_the_memory_is_held_alone_and_never_made_in_passing(one: Chain, tmp_path: Path) -> None:
    genesis_hash = one.members.spec.hash
    with one.authority(), pytest.raises(InUseError):
        SigningStore(one.path, genesis_hash)
    with pytest.raises(StorageError, match="there is no protection database"):
        SigningStore(tmp_path / "other.db", genesis_hash)
    with pytest.raises(StorageError, match="is not made anew"):
        SigningStore(one.path, genesis_hash, create=True)
    with pytest.raises(StorageError, match="belongs to the chain"):
        SigningStore(one.path, bytes(32))


def test_the_memory_is_held_alone_by_whatever_name(one: Chain, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "protection.db"
    link.symlink_to(one.path)
    with one.authority(), pytest.raises(InUseError):
        SigningStore(link, one.members.spec.hash)


def test_two_that_bypass_the_lock_do_not_sign_from_stale_memories(one: Chain) -> None:
    """Somebody removed the lock file of a running process, and started another one."""
    with one.authority() as first:
        one.path.with_name(one.path.name + ".lock").unlink()
        with one.authority() as second:
            assert isinstance(ask(first, one, vote(5, justify=4)), bytes)
            for _ in range(2):
                with pytest.raises(StorageError, match="another process wrote"):
                    second.sign(one.request(timeout(6, 3)))
            assert isinstance(ask(first, one, timeout(6, 5)), bytes)
    with one.authority() as authority:
        assert ask(authority, one, timeout(7, 3)) is Rule.OFFENCE, "as what the second was asked"


def test_the_memory_of_another_protocol_is_refused(one: Chain, tmp_path: Path) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, vote(1, kind="order")), bytes)
    (tmp_path / "other").mkdir()
    other = chain(tmp_path / "other", "simplex")
    with (
        SigningStore(one.path, one.members.spec.hash) as store,
        pytest.raises(StorageError, match="something else than signed subjects"),
    ):
        SigningAuthority(other.genesis, (), store)


def test_after_a_failed_write_nothing_is_signed(one: Chain) -> None:
    with one.authority() as authority:
        assert isinstance(ask(authority, one, vote(1)), bytes)
        with apsw.Connection(str(one.path)) as connection:
            connection.execute("CREATE TRIGGER full BEFORE INSERT ON subjects BEGIN SELECT raise(ABORT, 'full'); END")
        for view in (2, 3):
            with pytest.raises(StorageError):
                authority.sign(one.request(vote(view)))
        with apsw.Connection(str(one.path)) as connection:
            connection.execute("DROP TRIGGER full")
        with pytest.raises(StorageError, match="nothing more is signed here"):
            authority.sign(one.request(vote(4)))
    with one.authority() as authority:
        assert isinstance(ask(authority, one, vote(2, 2)), bytes), "what failed was not signed"


@pytest.mark.parametrize("name", protocol_names())
@pytest.mark.parametrize("kept", [2, SUBJECTS_KEPT])
def test_restarts_change_nothing(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in any order, with a restart anywhere: the answers are those of one memory that was never closed."""
    monkeypatch.setattr(rules, "SUBJECTS_KEPT", kept)
    monkeypatch.setattr("sequencer.signer.authority.SUBJECTS_KEPT", kept)
    protocol = protocol_named(name)
    restart = st.just(None)
    votes = st.builds(ffg, st.integers(0, 3), st.integers(4, 9), st.integers(1, 2))
    steps = st.lists(st.one_of(subjects(protocol), subjects(protocol), votes, restart), max_size=25)

    @given(steps)
    @settings(max_examples=20)
    def check(asked: list[Subject | None]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            one, model = chain(Path(directory), name), Signer(name)
            signatures: dict[bytes, bytes] = {}
            pending = list(asked)
            while pending:
                with one.authority() as authority:
                    while pending and (subject := pending.pop(0)) is not None:
                        before = model.history
                        expected, answer = model.ask(subject), ask(authority, one, subject)
                        if answer is Rule.SLASHABLE:
                            assert subject.kind == FFG
                            model.history = before
                        elif isinstance(answer, bytes):
                            assert isinstance(expected, bool)
                            assert signatures.setdefault(one.request(subject).subject, answer) == answer
                        else:
                            assert answer is expected

    check()
