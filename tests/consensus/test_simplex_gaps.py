"""Simplex: a validator that was away while more views failed than a record of a signature holds."""

from __future__ import annotations

import msgspec
import pytest

from consensus.codec import encode
from consensus.engine import TranscriptRecord
from consensus.genesis import Pacing
from consensus.protocols.simplex_state import RECORDED_MAX, SafetyState
from consensus.protocols.simplex_types import NOTARIZE, NULLIFY, Certificates, CertificatesRequest, Proposal
from consensus.types import Vote
from tests.support.chain import Alone
from tests.support.committee import committee, in_epoch
from tests.support.engines import Engines
from tests.support.simplex import SimplexChain, proposed, told

PACING = Pacing(view_timeout_ms=100, idle_interval_ms=50, exponent_max=0)
GAP = RECORDED_MAX + 50


def failing(*, away: int) -> Engines:
    """::

    h40 <- ...        every view fails, as no proposal arrives; one validator hears and says nothing
    """
    run = Engines(in_epoch(committee(protocol="simplex", pacing=PACING), 3, 40), ends_at=43)
    run.passes = lambda sender, receiver, message: away not in (sender, receiver) and not isinstance(message, Proposal)
    run.run(600, until=lambda: min(view(run, index) for index in range(4) if index != away) > GAP)
    assert view(run, away) == 1
    return run


def view(run: Engines, index: int) -> int:
    return run.nodes[index].engine.status().view


@pytest.mark.parametrize("restart", [False, True])
def test_who_was_away_for_very_many_nullified_views_votes_again(restart: bool) -> None:
    """Validator 2 is gone for good, so that without validator 3 there is no quorum. Before, nobody could give it the
    nullifications of the oldest views, and the chain stood still for good."""
    run = failing(away=3)
    if restart:
        for index in (0, 1, 3):
            run.start(index)
    voted: list[Vote] = []

    def passes(sender: int, receiver: int, message: msgspec.Struct) -> bool:
        if sender == 3 and isinstance(message, Vote) and message.kind == NOTARIZE:
            voted.append(message)
        return 2 not in (sender, receiver)

    run.passes = passes
    run.run(60, until=lambda: all(run.is_over(index) for index in (0, 1, 3)))
    assert voted
    assert voted[0].view > GAP
    assert voted[0].justify_view == 0, "its block skips every failed view"
    assert [run.is_over(index) for index in range(4)] == [True, True, False, True]


def test_the_record_of_a_signature_stays_small() -> None:
    journal = failing(away=3).nodes[0].journal
    state = msgspec.msgpack.decode(journal.safety[NULLIFY].state, type=SafetyState)
    assert len(state.nullifications) == RECORDED_MAX


def test_what_the_record_holds_no_more_is_found_again_after_a_restart_and_given() -> None:
    """This one votes for nothing, so that no vote puts a nullification into the transcript."""
    members = committee(protocol="simplex", pacing=PACING)
    chain, alone = SimplexChain(members), Alone(members, me=None)
    for view in range(1, RECORDED_MAX + 6):
        happened = told(alone, chain.nullification(view))
        kept = [record.proof for record in happened.records if isinstance(record, TranscriptRecord)]
        assert kept == ([encode(chain.nullification(view - RECORDED_MAX))] if view > RECORDED_MAX else [])
    alone = alone.restart()
    answer = alone.hear(CertificatesRequest(epoch=0, views=(1, 5)), peer=2)
    assert answer.sent(Certificates)[0].certificates == (chain.nullification(1), chain.nullification(5))


def test_a_nullification_goes_into_the_transcript_once() -> None:
    """::

    genesis <- b3        a vote relies on 1 and 2
           \\- b4        this one on 3 besides
    """
    members = committee(protocol="simplex", pacing=PACING)
    chain, alone = SimplexChain(members), Alone(members, me=3)
    told(alone, chain.nullification(1), chain.nullification(2))
    first = proposed(chain, alone, chain.block(3))
    told(alone, chain.nullification(3))
    second = alone.build(4, chain.genesis.block_id)
    for happened, views in ((first, (1, 2)), (second, (3,))):
        kept = [record.proof for record in happened.records if isinstance(record, TranscriptRecord)]
        assert kept == [encode(chain.nullification(view)) for view in views]
