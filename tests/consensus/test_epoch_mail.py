"""Messages of the next epoch are kept within bounds of count and bytes."""

from __future__ import annotations

import msgspec
import pytest

from consensus import epoch_mail
from consensus.codec import encode
from consensus.engine import Received, Send, StepBuilder
from consensus.epoch_mail import KEPT_BYTES_MAX, KEPT_OVERHEAD_BYTES, EpochMail
from consensus.protocols.streamlet_types import Proposal
from consensus.types import EpochEnd
from tests.consensus.test_wire_vectors import HEADER, PROOF

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
INTERVAL = 100


def proposal(body_bytes: int) -> Proposal:
    return Proposal(epoch=1, header=HEADER, body=memoryview(bytes(body_bytes)), signature=b"")


def size_of(message: msgspec.Struct) -> int:
    return len(encode(message)) + KEPT_OVERHEAD_BYTES


def test_of_each_peer_a_bounded_number_of_bytes_is_kept() -> None:
    mail = EpochMail(StepBuilder(), INTERVAL)
    half = proposal(KEPT_BYTES_MAX // 2)
    fits = proposal(KEPT_BYTES_MAX - size_of(half) - size_of(proposal(70_000)) + 70_000)
    assert size_of(half) + size_of(fits) == KEPT_BYTES_MAX
    over = proposal(len(fits.body) + 1)
    for message in (half, over, fits, proposal(0)):
        mail.keep(Received(A, message))
    mail.keep(Received(B, over))
    assert mail.take() == [Received(A, half), Received(A, fits), Received(B, over)]
    mail.keep(Received(A, half))
    assert mail.take() == [Received(A, half)], "and the next epoch counts anew"


def test_of_all_together_a_bounded_number_of_bytes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    mail, message = EpochMail(StepBuilder(), INTERVAL), proposal(1000)
    monkeypatch.setattr(epoch_mail, "KEPT_IN_ALL_BYTES_MAX", 2 * size_of(message))
    for peer in (A, B, C):
        mail.keep(Received(peer, message))
    assert mail.take() == [Received(A, message), Received(B, message)]
    mail.keep(Received(C, message))
    assert mail.take() == [Received(C, message)]


def test_who_was_told_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    out = StepBuilder()
    mail = EpochMail(out, INTERVAL)
    end = EpochEnd(epoch=0, boundary=HEADER, proof=PROOF)
    monkeypatch.setattr(epoch_mail, "ANSWERED_MAX", 2)

    def told(peer: bytes, now: int) -> bool:
        mail.answer(peer, now)
        return out.finish().effects == (Send(peer, end),)

    assert not told(A, 0), "no epoch ended yet"
    mail.ended(end)
    assert told(A, 0)
    assert told(B, 1)
    assert not told(A, INTERVAL - 1)
    assert told(C, 50)
    assert told(A, 51), "forgotten, as the one that was told longest ago"
    assert not told(C, 52)
    mail.ended(end)
    assert told(C, 53), "another end is another thing to say"
