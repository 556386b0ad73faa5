"""Evidence that a node keeps: verified first, kept once, within its bounds, passed on once; refused with a reason."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from consensus.engine import Refusal, ReportEvidence
from consensus.evidence import Evidence, encode_evidence, evidence_from
from consensus.offences import Signed
from consensus.protocols.registry import protocol_named
from consensus.types import VoteSubject, bitmap_of, vote_of
from sequencer import evidence_store
from sequencer.evidence_store import PIECES_PER_SIGNER_MAX, EvidenceExchange, EvidenceStore, Piece
from sequencer.genesis import Genesis, genesis_of
from tests.support.committee import Committee, committee


@pytest.fixture(scope="module")
def members() -> Committee:
    return committee(4, scheme="ed25519")


@pytest.fixture(scope="module")
def genesis(members: Committee) -> Genesis:
    return genesis_of(members.spec)


def vote(view: int, name: bytes) -> VoteSubject:
    return VoteSubject(kind="vote", epoch=0, view=view, block_id=name * 32, height=view, justify_view=view - 1)


def double(members: Committee, view: int, *signers: int) -> Evidence:
    """Evidence that ``signers`` voted twice in a view."""
    groups = []
    for subject in (vote(view, b"a"), vote(view, b"b")):
        signature = members.scheme.aggregate([members.sign(signer, subject) for signer in signers])
        assert signature is not None
        groups.append(Signed(subject, bitmap_of(signers), signature))
    evidence = evidence_from(groups[0], groups[1], {}, members.epoch, protocol_named("jolteon"))
    assert evidence is not None
    return evidence


def keys_of(members: Committee, *signers: int) -> tuple[bytes, ...]:
    return tuple(sorted(members.epoch.validators.public_keys[signer] for signer in signers))


class Channel:
    """Remembers what is passed on."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def broadcast(self, data: bytes) -> None:
        self.sent.append(data)


async def opened(directory: Path, genesis: Genesis) -> EvidenceStore:
    store = EvidenceStore(directory / "evidence", genesis)
    await store.load()
    return store


async def test_a_piece_is_kept_once_and_found_again(tmp_path: Path, members: Committee, genesis: Genesis) -> None:
    store = await opened(tmp_path, genesis)
    data = encode_evidence(double(members, 5, 1, 3))
    piece = await store.add(data)
    assert isinstance(piece, Piece)
    assert (piece.guilt.offence, piece.guilt.signers) == ("equivocation", (1, 3))
    assert store.guilty == keys_of(members, 1, 3)
    assert await store.add(data) is None
    assert [file.name for file in (tmp_path / "evidence").iterdir()] == [f"{piece.digest.hex()}.evidence"]
    again = await opened(tmp_path, genesis)
    assert again.pieces == store.pieces


async def test_so_many_pieces_convict_one_signer(tmp_path: Path, members: Committee, genesis: Genesis) -> None:
    store = await opened(tmp_path, genesis)
    for view in range(1, PIECES_PER_SIGNER_MAX + 3):
        taken = await store.add(encode_evidence(double(members, view, 1)))
        assert isinstance(taken, Piece) == (view <= PIECES_PER_SIGNER_MAX)
    assert isinstance(await store.add(encode_evidence(double(members, 50, 1, 2))), Piece)  # it names another too
    assert isinstance(await store.add(encode_evidence(double(members, 51, 3))), Piece)
    assert len(store.pieces) == PIECES_PER_SIGNER_MAX + 2


async def test_so_many_bytes_are_kept(
    tmp_path: Path, members: Committee, genesis: Genesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(encode_evidence(double(members, 1, 0)))
    monkeypatch.setattr(evidence_store, "STORE_BYTES_MAX", 2 * size)
    store = await opened(tmp_path, genesis)
    taken = [await store.add(encode_evidence(double(members, 1, signer))) for signer in range(3)]
    assert [isinstance(each, Piece) for each in taken] == [True, True, False]


async def test_what_a_peer_sends_is_judged(tmp_path: Path, members: Committee, genesis: Genesis) -> None:
    """Malformed, of another chain, framing somebody: refused with a reason, kept nowhere, not passed on."""
    channel = Channel()
    store = await opened(tmp_path, genesis)
    exchange = EvidenceExchange(store, channel, genesis)
    good = encode_evidence(double(members, 5, 1))
    foreign = encode_evidence(double(committee(4, scheme="ed25519", chain_id="another"), 5, 1))
    framed = double(members, 5, 1)
    other = double(members, 6, 2).second
    framing = encode_evidence(
        type(framed)(
            **{name: getattr(framed, name) for name in framed.__struct_fields__ if name != "second"}, second=other
        )
    )
    for bad, reason in (
        (good[:-1], "truncated"),
        (good + b"\x00", "trailing"),
        (foreign, "of chain"),
        (framing, "one honest validator may sign both"),
    ):
        fault = await exchange.received(bad)
        assert fault is not None
        assert reason in fault
    assert (store.pieces, channel.sent) == ((), [])
    assert list((tmp_path / "evidence").iterdir()) == []
    assert await exchange.received(good) is None
    assert await exchange.received(good) is None
    assert channel.sent == [good]


async def test_what_the_core_reports_is_kept_and_passed_on(
    tmp_path: Path, members: Committee, genesis: Genesis
) -> None:
    channel = Channel()
    store = await opened(tmp_path, genesis)
    exchange = EvidenceExchange(store, channel, genesis)
    votes = [vote_of(subject, 2, members.sign(2, subject)) for subject in (vote(4, b"a"), vote(4, b"b"))]
    await exchange.reported(ReportEvidence(votes[0], votes[1]))
    await exchange.reported(ReportEvidence(votes[1], votes[0]))
    assert store.guilty == keys_of(members, 2)
    assert len(channel.sent) == 1
    with pytest.raises(ValueError, match="what no rule forbids"):
        await exchange.reported(ReportEvidence(votes[0], votes[0]))


async def test_a_damaged_file_is_named_and_left_alone(
    tmp_path: Path, members: Committee, genesis: Genesis, caplog: pytest.LogCaptureFixture
) -> None:
    store = await opened(tmp_path, genesis)
    await store.add(encode_evidence(double(members, 5, 1)))
    (file,) = (tmp_path / "evidence").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "evidence" / "half.partial").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        again = await opened(tmp_path, genesis)
    assert again.pieces == ()
    assert file.name in caplog.text
    assert "half" not in caplog.text
    assert file.exists()


async def test_what_is_full_is_not_verified_again(
    tmp_path: Path, members: Committee, genesis: Genesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path, genesis)
    for view in range(1, PIECES_PER_SIGNER_MAX + 1):
        await store.add(encode_evidence(double(members, view, 1)))

    def refused(*arguments: object) -> Refusal:
        raise AssertionError("verified")

    monkeypatch.setattr(evidence_store, "verify_within", refused)
    assert await store.add(encode_evidence(double(members, 40, 1))) is None
