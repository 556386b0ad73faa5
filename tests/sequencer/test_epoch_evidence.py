"""Evidence of later epochs: the guilty are validators of the epoch in which they signed, and a stranger with the
genesis alone can see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from py_ecc.bls.point_compression import compress_G1, decompress_G1
from py_ecc.bls.typing import G1Compressed
from py_ecc.optimized_bls12_381.optimized_curve import G1, add, multiply, neg
from trio.testing import MockClock
from typer.testing import CliRunner

from consensus.codec import digest
from consensus.engine import Refusal, ReportEvidence
from consensus.epochs import EpochChange, EpochInfo, epoch_after
from consensus.evidence import (
    Evidence,
    Guilt,
    encode_evidence,
    evidence_from,
    evidence_of_report,
    verify,
    verify_within,
)
from consensus.finality.types import Checkpoint, FfgVote, FfgVoteSubject, LinkCertificate, LinkGroup
from consensus.offences import Signed
from consensus.protocols.registry import protocol_named
from consensus.types import CommitProof, Subject, VoteSubject, bitmap_of, vote_of
from consensus.validators import ValidatorSet
from sequencer import extraction
from sequencer.cli import app
from sequencer.cli.console import NO
from sequencer.epoch_changes import EpochChanges
from sequencer.evidence_file import EvidenceOfLaterEpoch, decode_evidence_file, encode_evidence_file
from sequencer.evidence_store import LOOK_INTERVAL_S, EvidenceExchange, EvidenceStore, Piece
from sequencer.extraction import SplitOfHomes, extract_from_homes
from sequencer.genesis import Genesis, genesis_of, trusted_from
from sequencer.genesis_file import chain_spec_to_json
from sequencer.verify import Home
from tests.sequencer.epoch_archives import FullChain, full_chain, write_epoch_home
from tests.support.epoch_chain import EpochChain, epoch_chain

replace = msgspec.structs.replace
JOLTEON = protocol_named("jolteon")


@lru_cache(maxsize=1)
def full() -> FullChain:
    """Epochs of heights 1-3, 4-7 and 8-10; the sets are 0-3, 2-5, 4-7."""
    return full_chain()


def genesis() -> Genesis:
    return genesis_of(full().chain.spec)


def signed(chain: EpochChain, epoch: int, subject: Subject, *signers: int) -> Signed:
    era = chain.eras[epoch]
    signature = era.scheme.aggregate([era.sign(signer, subject) for signer in signers])
    assert signature is not None
    return Signed(subject, bitmap_of(signers), signature)


def vote(epoch: int, view: int, name: bytes) -> VoteSubject:
    return VoteSubject(kind="vote", epoch=epoch, view=view, block_id=name * 32, height=9, justify_view=view - 1)


def double(epoch: int, view: int, *signers: int) -> Evidence:
    """Evidence that members of an epoch voted twice."""
    chain = full().chain
    pair = [signed(chain, epoch, vote(epoch, view, name), *signers) for name in (b"a", b"b")]
    evidence = evidence_from(pair[0], pair[1], {}, chain.eras[epoch].info, JOLTEON)
    assert evidence is not None
    return evidence


def judged(evidence: Evidence, trusted: Genesis) -> Guilt | Refusal:
    return verify_within(evidence, trusted.history, trusted.protocol, trusted.scheme)


def names(verdict: Guilt | Refusal) -> list[str]:
    assert isinstance(verdict, Guilt), verdict
    return [validator.name for validator in verdict.validators]


# --- the epoch decides who is guilty -----------------------------------------------------------------------------


def test_the_guilty_are_of_the_epoch_in_which_they_signed() -> None:
    trusted = genesis()
    assert names(judged(double(0, 5, 1), trusted)) == ["validator-1"]
    later = double(1, 5, 0, 3)
    refused = judged(later, trusted)
    assert isinstance(refused, Refusal)
    assert "show how later ones began" in refused.reason
    trusted.follow(full().chain.changes)
    assert names(judged(later, trusted)) == ["validator-2", "validator-5"]
    assert names(judged(double(2, 5, 0), trusted)) == ["validator-4"]


def test_a_signature_of_one_epoch_proves_nothing_in_another() -> None:
    """Validators 2 and 3 sit in epochs 0 and 1. A vote of each is no double vote, however the evidence is labelled."""
    chain, trusted = full().chain, genesis()
    trusted.follow(chain.changes)
    one = signed(chain, 0, vote(0, 5, b"a"), 2)
    other = signed(chain, 1, vote(1, 5, b"b"), 0)
    assert evidence_from(one, other, {}, chain.eras[0].info, JOLTEON, chain.eras[1].info) is None
    evidence = double(1, 5, 0)
    assert isinstance(judged(replace(evidence, epoch=0), trusted), Refusal)
    mixed = replace(evidence, first=replace(evidence.first, subject=double(0, 5, 0).first.subject))
    for label in (0, 1):
        assert isinstance(judged(replace(mixed, epoch=label), trusted), Refusal)


def test_a_key_that_nobody_possesses_frames_nobody() -> None:
    """All of epoch 0 name a next set in which one key is x * G less an honest one: the sum of both is x * G, and who
    knows x signs for the two. Such a set is refused, whoever committed it, and with it what it signed."""
    chain = epoch_chain(((0, 1, 2, 3), (0, 1, 2, 3)), lengths=(3, 3), protocol="tendermint", scheme="bls")
    scheme, mallory = chain.eras[0].scheme, chain.eras[0].keys[3]
    honest, *others = chain.eras[1].info.validators.validators
    minus = neg(decompress_G1(G1Compressed(int.from_bytes(honest.public_key, "big"))))
    point = add(multiply(G1, int.from_bytes(mallory.export(), "big")), minus)
    rogue = replace(others[2], public_key=compress_G1(point).to_bytes(48, "big"))
    forged = (honest, *others[:2], rogue)
    boundary = replace(chain.headers[2], next_validators_hash=ValidatorSet(forged).hash)
    proof = CommitProof(epoch=0, headers=(), certificate=chain.eras[0].certify(boundary, "precommit"))
    info = epoch_after(chain.spec, boundary, ValidatorSet(forged))
    pair = [
        Signed(subject, bitmap_of((0, 3)), mallory.sign(info.domain.bytes_to_sign(subject)))
        for subject in (replace(vote(1, 5, name), kind="precommit") for name in (b"a", b"b"))
    ]
    trusted = genesis_of(chain.spec)
    evidence = evidence_from(pair[0], pair[1], {}, info, trusted.protocol)
    assert evidence is not None
    assert isinstance(verify(evidence, info, trusted.protocol, scheme), Guilt)  # against a set of unproven keys
    change = EpochChange(boundary=boundary, validators=forged, proof=proof)
    refused = trusted.history.extend(change)
    assert isinstance(refused, Refusal)
    assert "validator-3 does not prove that it holds its key" in refused.reason
    assert isinstance(judged(evidence, trusted), Refusal)
    with pytest.raises(ValueError, match="does not prove"):
        trusted_from(trusted, change)
    assert isinstance(genesis_of(chain.spec).history.extend(chain.change(1)), EpochInfo)


# --- finality votes ----------------------------------------------------------------------------------------------


def ffg(epoch: int, source: int, target: int, name: bytes = b"t") -> FfgVoteSubject:
    return FfgVoteSubject(
        epoch=epoch,
        source=Checkpoint(height=source, id=b"s" * 32),
        target=Checkpoint(height=target, id=name * 32),
    )


def ffg_vote(epoch: int, signer: int, subject: FfgVoteSubject) -> FfgVote:
    return FfgVote(
        epoch=epoch,
        source=subject.source,
        target=subject.target,
        signer=signer,
        signature=full().chain.eras[epoch].sign(signer, subject),
    )


@pytest.mark.parametrize(
    ("first", "second", "offence"),
    [
        ((0, 2, ffg(0, 2, 4)), (0, 2, ffg(0, 2, 4, b"u")), "ffg-double"),
        ((0, 2, ffg(0, 2, 8)), (0, 2, ffg(0, 4, 6)), "ffg-surround"),
        ((0, 2, ffg(0, 2, 4)), (1, 0, ffg(1, 0, 4)), "ffg-double"),  # one key, two epochs
        ((1, 0, ffg(1, 2, 8)), (0, 2, ffg(0, 4, 6)), "ffg-surround"),
    ],
)
def test_finality_votes_that_contradict_each_other_convict_in_any_epochs(
    first: tuple[int, int, FfgVoteSubject], second: tuple[int, int, FfgVoteSubject], offence: str
) -> None:
    trusted = genesis()
    trusted.follow(full().chain.changes)
    for pair in ((first, second), (second, first)):
        report = ReportEvidence(ffg_vote(*pair[0]), ffg_vote(*pair[1]))
        (evidence,) = evidence_of_report(report, trusted.history.info, JOLTEON, trusted.scheme)
        assert evidence.offence == offence
        assert names(judged(evidence, trusted)) == ["validator-2"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 2, ffg(0, 2, 4)), (1, 0, ffg(1, 2, 4))),  # one link, signed for both epochs
        ((0, 2, ffg(0, 2, 4)), (0, 2, ffg(0, 4, 6))),
        ((0, 1, ffg(0, 2, 4)), (0, 2, ffg(0, 2, 4, b"u"))),  # two validators
        ((0, 0, ffg(0, 2, 4)), (1, 0, ffg(1, 2, 4, b"u"))),  # one index, two validators
    ],
)
def test_finality_votes_of_the_honest_convict_nobody(
    first: tuple[int, int, FfgVoteSubject], second: tuple[int, int, FfgVoteSubject]
) -> None:
    trusted = genesis()
    trusted.follow(full().chain.changes)
    report = ReportEvidence(ffg_vote(*first), ffg_vote(*second))
    assert evidence_of_report(report, trusted.history.info, JOLTEON, trusted.scheme) == ()


def certificate(link: tuple[int, int, bytes], groups: Sequence[tuple[int, tuple[int, ...]]]) -> LinkCertificate:
    source, target, name = link
    shown = []
    for epoch, signers in groups:
        subject = ffg(epoch, source, target, name)
        one = signed(full().chain, epoch, subject, *signers)
        shown.append(LinkGroup(epoch=epoch, signers=one.signers, signature=one.signature))
    subject = ffg(0, source, target, name)
    return LinkCertificate(source=subject.source, target=subject.target, groups=tuple(shown))


async def test_conflicting_link_certificates_convict_whoever_stands_in_both(tmp_path: Path) -> None:
    """The certificates hold groups of two epochs; validators 2 and 3 are in both sets."""
    store = EvidenceStore(tmp_path / "evidence", genesis(), changes_of_chain)
    await store.load()
    channel = Channel()
    exchange = EvidenceExchange(store, channel, store._genesis)
    one = certificate((2, 4, b"t"), [(0, (0, 1, 2))])
    other = certificate((2, 4, b"u"), [(0, (1,)), (1, (0, 1, 2))])
    await exchange.reported(ReportEvidence(one, other))
    convicted = sorted(validator.name for piece in store.pieces for validator in piece.guilt.validators)
    assert convicted == ["validator-1", "validator-2"]
    assert len(channel.sent) == 2
    apart = certificate((2, 4, b"v"), [(2, (0, 1, 2))])
    await exchange.reported(ReportEvidence(certificate((2, 4, b"w"), [(0, (0, 1, 2))]), apart))  # nobody is in both


# --- what a node keeps -------------------------------------------------------------------------------------------


class Channel:
    """Remembers what is passed on."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def broadcast(self, data: bytes) -> None:
        self.sent.append(data)


async def changes_of_chain(from_epoch: int) -> Sequence[EpochChange]:
    return full().chain.changes[from_epoch - 1 :]


async def test_a_node_keeps_evidence_of_the_epochs_that_it_reached(tmp_path: Path, autojump_clock: MockClock) -> None:
    reached = [full().chain.change(1)]

    async def changes(from_epoch: int) -> Sequence[EpochChange]:
        return reached[from_epoch - 1 :]

    channel = Channel()
    store = EvidenceStore(tmp_path / "evidence", genesis(), changes)
    await store.load()
    exchange = EvidenceExchange(store, channel, store._genesis)
    assert await exchange.received(encode_evidence(double(1, 5, 0))) is None
    assert await exchange.received(encode_evidence(double(0, 5, 0))) is None
    ahead = encode_evidence(double(2, 5, 0))
    assert await exchange.received(ahead) is None  # its sender is ahead: neither blamed nor believed
    assert (len(store.pieces), len(channel.sent)) == (2, 2)
    reached.append(full().chain.change(2))
    await trio.sleep(LOOK_INTERVAL_S)
    assert await exchange.received(ahead) is None
    assert [names(piece.guilt) for piece in store.pieces] == [["validator-2"], ["validator-0"], ["validator-4"]]
    again = EvidenceStore(tmp_path / "evidence", genesis(), changes)
    await again.load()
    assert sorted(piece.digest for piece in again.pieces) == sorted(piece.digest for piece in store.pieces)


async def test_a_kept_file_convicts_before_a_stranger_who_has_the_genesis_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "genesis.json"
    file.write_text(chain_spec_to_json(full().chain.spec))
    for changes_bytes_max, status in ((1024 * 1024, 0), (10, NO)):
        monkeypatch.setattr("sequencer.evidence_store.CHANGES_BYTES_MAX", changes_bytes_max)
        directory = tmp_path / str(changes_bytes_max)
        store = EvidenceStore(directory, genesis(), changes_of_chain)
        await store.load()
        assert isinstance(await store.add(encode_evidence(double(2, 5, 0))), Piece)
        (kept,) = directory.iterdir()
        result = CliRunner().invoke(app, ["evidence", "verify", str(kept), "--genesis", str(file), "--json"])
        assert result.exit_code == status, result.output
        if status == 0:
            assert [each["name"] for each in json.loads(result.output)["guilty"]] == ["validator-4"]
        again = EvidenceStore(directory, genesis(), changes_of_chain)
        await again.load()
        assert [piece.digest for piece in again.pieces] == [piece.digest for piece in store.pieces]


async def test_whoever_names_epochs_that_nobody_reached_costs_little(tmp_path: Path, autojump_clock: MockClock) -> None:
    looked = 0

    async def changes(from_epoch: int) -> Sequence[EpochChange]:
        nonlocal looked
        looked += 1
        return full().chain.changes[from_epoch - 1 :]

    store = EvidenceStore(tmp_path / "evidence", genesis(), changes)
    await store.load()
    exchange = EvidenceExchange(store, Channel(), store._genesis)
    for number in range(50):
        assert await exchange.received(encode_evidence(replace(double(2, 5, 0), epoch=2**40 + number))) is None
    assert looked == 1
    assert await exchange.received(encode_evidence(double(2, 5, 0))) is None
    assert len(store.pieces) == 1, "what is known is judged all the same"
    looked = 1  # its file says how the epochs began
    await trio.sleep(LOOK_INTERVAL_S)
    for number in range(50):
        assert await exchange.received(encode_evidence(replace(double(2, 5, 0), epoch=2**40 + number))) is None
    assert looked == 2


async def test_evidence_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.evidence_store.EPOCHS_BACK_MAX", 1)
    trusted = genesis()
    trusted.follow(full().chain.changes)
    store = EvidenceStore(tmp_path / "evidence", trusted, changes_of_chain)
    await store.load()
    assert isinstance(await store.add(encode_evidence(double(1, 5, 0))), Piece)
    refused = await store.add(encode_evidence(double(0, 5, 0)))
    assert refused == Refusal("evidence: expired: of epoch 0, this is epoch 2")


async def test_one_key_in_two_epochs_is_one_signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.evidence_store.PIECES_PER_SIGNER_MAX", 2)
    store = EvidenceStore(tmp_path / "evidence", genesis(), changes_of_chain)
    await store.load()
    taken = [await store.add(encode_evidence(each)) for each in (double(0, 5, 2), double(1, 5, 0), double(1, 6, 0))]
    assert [isinstance(each, Piece) for each in taken] == [True, True, False]
    assert len(store.guilty) == 1


async def test_a_report_of_a_later_epoch_is_evidence(tmp_path: Path) -> None:
    chain = full().chain
    store = EvidenceStore(tmp_path / "evidence", genesis(), changes_of_chain)
    await store.load()
    exchange = EvidenceExchange(store, Channel(), store._genesis)
    votes = [vote_of(each, 1, chain.eras[1].sign(1, each)) for each in (vote(1, 5, b"a"), vote(1, 5, b"b"))]
    await exchange.reported(ReportEvidence(votes[0], votes[1]))
    assert [names(piece.guilt) for piece in store.pieces] == [["validator-3"]]
    with pytest.raises(ValueError, match="what no rule forbids"):
        await exchange.reported(ReportEvidence(votes[0], votes[0]))


# --- extraction and the command line -----------------------------------------------------------------------------


def split_homes(directory: Path, **options: Any) -> tuple[Home, Home]:
    one = trio.run(write_epoch_home, directory / "a", full())
    other = trio.run(write_epoch_home, directory / "b", full_chain(**options))
    return one, other


@pytest.mark.parametrize(
    ("options", "height", "epoch"),
    [
        ({"other_from": 5}, 5, 1),  # within an epoch
        ({"other_from": 7}, 7, 1),  # at its boundary, two of one height
        ({"other_from": 7, "sets": ((0, 1, 2, 3), (2, 3, 4, 5), (6, 7, 8, 9))}, 7, 1),  # two next sets
        ({"other_from": 8}, 8, 2),  # the first block of the next
        ({"lengths": (3, 2, 3), "other_from": 5}, 5, 1),  # a boundary at another height
        ({"sets": ((0, 1, 2, 3), (2, 3, 4, 5)), "lengths": (3, 5), "other_from": 7}, 7, 1),  # none where one was
    ],
)
def test_a_split_in_a_later_epoch_names_its_validators(
    tmp_path: Path, options: dict[str, Any], height: int, epoch: int
) -> None:
    found = extract_from_homes(*split_homes(tmp_path, **options))
    assert isinstance(found, SplitOfHomes), found
    assert (found.extraction.height, found.epoch.epoch) == (height, epoch)
    assert found.extraction.is_complete
    assert found.extraction.guilty == (0, 1, 2)
    for evidence in found.extraction.evidence:
        data = encode_evidence_file(evidence, found.changes, JOLTEON)
        content = decode_evidence_file(data)
        assert isinstance(content, EvidenceOfLaterEpoch)
        trusted = genesis()
        assert trusted.follow(content.changes) is None
        members = full().chain.eras[epoch].info.validators.validators
        assert set(names(judged(content.evidence, trusted))) <= {members[signer].name for signer in (0, 1, 2)}


def test_the_sides_may_hold_their_epochs_differently(tmp_path: Path) -> None:
    """One home's table of epochs is damaged: the other's serves, as both share the blocks below the split."""
    import sqlite3

    one, other = split_homes(tmp_path, other_from=8)
    with sqlite3.connect(one.archive) as connection:
        connection.execute("UPDATE epochs SET digest = x'00' WHERE epoch = 1")
    assert isinstance(extract_from_homes(one, other), SplitOfHomes)
    with sqlite3.connect(other.archive) as connection:
        connection.execute("UPDATE epochs SET digest = x'00' WHERE epoch = 2")
    refused = extract_from_homes(one, other)
    assert isinstance(refused, Refusal)
    assert "how epoch 2 began cannot be read" in refused.reason
    assert extraction.TRANSCRIPTS_MAX == 256


def test_evidence_of_a_later_epoch_on_the_command_line(tmp_path: Path) -> None:
    found = extract_from_homes(*split_homes(tmp_path, other_from=8))
    assert isinstance(found, SplitOfHomes)
    (tmp_path / "genesis.json").write_text(chain_spec_to_json(full().chain.spec))
    evidence = found.extraction.evidence[0]
    (tmp_path / "whole.evidence").write_bytes(encode_evidence_file(evidence, found.changes, JOLTEON))
    (tmp_path / "bare.evidence").write_bytes(encode_evidence(evidence))
    forged = EvidenceOfLaterEpoch(
        changes=(full().chain.change(1), replace(full().chain.change(2), validators=full().chain.spec.validators)),
        evidence=evidence,
    )
    (tmp_path / "forged.evidence").write_bytes(msgspec.msgpack.encode(forged))
    document = EpochChanges(chain=full().chain.spec.hash, newest=2, changes=full().chain.changes)
    (tmp_path / "epochs.json").write_bytes(document.to_json())

    def run(name: str, *options: str) -> tuple[int, dict[str, Any]]:
        arguments = ["evidence", "verify", str(tmp_path / name), "--genesis", str(tmp_path / "genesis.json")]
        result = CliRunner().invoke(app, [*arguments, *options, "--json"])
        return result.exit_code, json.loads(result.output)

    for name, options in (
        ("whole.evidence", ()),
        ("bare.evidence", ("--epochs", str(tmp_path / "epochs.json"))),
        ("bare.evidence", ("--epochs", str(tmp_path / "a" / "data" / "chain.db"))),
    ):
        code, verdict = run(name, *options)
        assert (code, verdict["epoch"]) == (0, 2)
        assert [each["name"] for each in verdict["guilty"]] == ["validator-4", "validator-5", "validator-6"]
    code, verdict = run("bare.evidence")
    assert (code, verdict["guilty"]) == (NO, [])
    assert "known are the validators up to epoch 0" in str(verdict["reason"])
    code, verdict = run("forged.evidence")
    assert code == NO
    assert "its validators hash to" in str(verdict["reason"])


def test_every_changed_byte_of_a_file_proves_nothing_else() -> None:
    evidence = double(1, 5, 0)
    data = encode_evidence_file(evidence, full().chain.changes, JOLTEON)
    assert isinstance(decode_evidence_file(data), EvidenceOfLaterEpoch)
    whole = digest(evidence)
    for position in range(0, len(data), 7):
        mutated = bytearray(data)
        mutated[position] ^= 1
        content = decode_evidence_file(bytes(mutated))
        if isinstance(content, EvidenceOfLaterEpoch):
            trusted = genesis()
            if trusted.follow(content.changes) is None:
                assert isinstance(judged(content.evidence, trusted), Refusal) or digest(content.evidence) == whole
