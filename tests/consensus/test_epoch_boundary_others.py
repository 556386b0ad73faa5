"""The block that ends an epoch, in the engines of Simplex, Tendermint and Streamlet fed by hand. (The HotStuff family
has ``test_epoch_boundary.py``.)

The epoch is the third and begins above a block at height 40.
"""

from __future__ import annotations

import pytest

from consensus.engine import (
    BlockRecord,
    BlocksFetched,
    BuildPayload,
    Commit,
    EngineEvent,
    FetchBlocks,
    Received,
    SetTimer,
    Sign,
    TimerFired,
)
from consensus.epochs import CLOSING_PAYLOAD_ROOT
from consensus.genesis import Pacing
from consensus.protocols import simplex_types, streamlet_types, tendermint_types
from consensus.types import Block, CommitProof
from tests.support.chain import Alone, Happened, refused
from tests.support.committee import Committee, committee, in_epoch
from tests.support.simplex import SimplexChain, proposed, told
from tests.support.streamlet import Notary
from tests.support.tendermint import Rounds, at

NEXT = b"n" * 32
EPOCH, HEIGHT = 3, 40
PACING = Pacing(view_timeout_ms=1_000, idle_interval_ms=500)
GIVER = b"g" * 32
FILLED = "proposal: after the block that ends the epoch, it has a payload or names validators"


def third_epoch(protocol: str) -> Committee:
    return in_epoch(committee(protocol=protocol, pacing=PACING), EPOCH, HEIGHT)


def simplex(me: int | None = 3) -> tuple[SimplexChain, Alone]:
    members = third_epoch("simplex")
    return SimplexChain(members), Alone(members, me=me)


def streamlet(me: int | None = 3) -> tuple[Notary, Alone]:
    members = third_epoch("streamlet")
    return Notary(members), Alone(members, me=me)


def tendermint(me: int | None = 3) -> tuple[Rounds, Alone]:
    members = third_epoch("tendermint")
    return Rounds(members), Alone(members, me=me)


def ending(chain: SimplexChain | Notary | Rounds, block: Block) -> Block:
    """The same block, ending the epoch."""
    return chain.like(block, next_validators_hash=NEXT)


def closing(chain: SimplexChain | Notary | Rounds, block: Block) -> Block:
    """The same empty block, as one that stands on the end of the epoch."""
    return chain.like(block, payload_root=CLOSING_PAYLOAD_ROOT)


def commits(happened: Happened) -> list[int]:
    return [commit.block.header.height for commit in happened.of(Commit)]


def proof_of(happened: Happened, alone: Alone, headers: list[Block]) -> CommitProof:
    """The proof of the last block committed, which names those headers and convinces a stranger."""
    last = happened.of(Commit)[-1]
    assert last.proof is not None
    assert list(last.proof.headers) == [block.header for block in headers]
    stranger = alone.committee.engine(None)
    assert stranger.verify_commit(last.proof, last.block.header, EPOCH) is None
    return last.proof


def step_of(alone: Alone, event: EngineEvent) -> Happened:
    """What the engine does by itself."""
    happened = Happened()
    step = alone.engine.handle(event, alone.now)
    alone.journal.append(step.records)
    happened.effects += step.effects
    return happened


def over(alone: Alone, height: int, *events: EngineEvent) -> None:
    """That height is the head, and whatever is handed to the engine now commits and signs nothing. Nor does a restart,
    but for what the ledger lacks."""
    for event in events:
        happened = step_of(alone, event)
        assert not [effect for effect in happened.effects if isinstance(effect, (Commit, Sign, BuildPayload))]
    engine = alone.committee.engine(alone.me)
    step = engine.start(alone.recovered(height - 1), 0)
    assert [type(effect) for effect in step.effects] == [Commit]
    for status in (alone.engine.status(), engine.status()):
        assert (status.epoch, status.committed_height) == (EPOCH, height)


def only(happened: Happened) -> BuildPayload:
    """The one payload asked for."""
    (asked,) = happened.of(BuildPayload)
    return asked


# --- Simplex ---------------------------------------------------------------------------------------------------------


def finalized(chain: SimplexChain, block: Block) -> simplex_types.Certificates:
    return simplex_types.Certificates(epoch=EPOCH, certificates=(chain.finalization(block),))


def test_simplex_a_finalized_boundary_ends_the_epoch() -> None:
    chain, alone = simplex()
    b1 = chain.block(1)
    b2 = ending(chain, chain.block(2, on=b1))
    c3 = closing(chain, chain.block(3, on=b2))
    assert proposed(chain, alone, b1, b2, c3).signed
    peer = alone.committee.peer(1)
    happened = step_of(alone, Received(peer, finalized(chain, b2)))
    assert commits(happened) == [HEIGHT + 1, HEIGHT + 2]
    assert not happened.of(SetTimer)
    assert not happened.of(Sign)
    proof_of(happened, alone, [])
    over(alone, HEIGHT + 2, Received(peer, finalized(chain, c3)), TimerFired("certificates"))


@pytest.mark.parametrize("fetched", [False, True])
def test_simplex_a_finalized_block_on_the_boundary_commits_the_boundary(fetched: bool) -> None:
    """::

    h40 <- b1 <- b2, the end <- c3 <- c5 <-F-        view 4 was nullified
    """
    chain, alone = simplex(me=None)
    b1 = chain.block(1)
    b2 = ending(chain, chain.block(2, on=b1))
    c3 = closing(chain, chain.block(3, on=b2))
    c5 = closing(chain, chain.block(5, on=c3))
    blocks = (b1, b2, c3, c5)
    if fetched:
        told(alone, chain.finalization(c5))
        given = tuple((block, chain.body(block)) for block in blocks)
        happened = alone.feed(BlocksFetched(peer=GIVER, blocks=given, proof=None))
    else:
        proposed(chain, alone, *blocks)
        happened = told(alone, chain.finalization(c5))
    assert commits(happened) == [HEIGHT + 1, HEIGHT + 2]
    assert proof_of(happened, alone, [c3, c5]).certificate == chain.finalization(c5)
    over(alone, HEIGHT + 2)


@pytest.mark.parametrize("body", [b"", b"body"])
def test_simplex_what_stands_on_the_boundary_and_is_no_closing_block_is_refused(body: bytes) -> None:
    chain, alone = simplex()
    b1 = chain.block(1)
    b2 = ending(chain, chain.block(2, on=b1))
    bad = chain.block(3, on=b2, body=body)
    happened = proposed(chain, alone, b1, b2, bad)
    assert refused(happened, alone.committee.peer(2)) == FILLED
    assert chain.subject("nullify", 3) in happened.signed
    assert chain.subject("notarize", bad) not in happened.signed


def test_simplex_a_closing_leader_proposes_at_once() -> None:
    """Although the boundary is empty, and finalized by us: others may not be."""
    chain, alone = simplex(me=2)
    b1 = chain.block(1)
    b2 = ending(chain, chain.block(2, on=b1))
    proposed(chain, alone, b1, b2)
    alone.now = 7_000
    happened = told(alone, chain.notarization(b2))
    assert chain.subject("finalize", b2) in happened.signed
    asked = only(happened)
    assert (asked.view, asked.height, asked.deadline_ns) == (3, HEIGHT + 3, 7_000)
    (proposal,) = alone.build(3, b2.id).sent(simplex_types.Proposal)
    assert proposal.header == closing(chain, chain.block(3, on=b2)).header


def test_simplex_begins_above_its_boundary_and_goes_on_after_a_restart() -> None:
    chain, alone = simplex()
    stale = closing(chain, chain.like(chain.block(9), epoch=EPOCH - 1))
    alone.journal.append([BlockRecord(stale, b"")])
    b2 = chain.block(2)
    told(alone, chain.nullification(1))
    assert proposed(chain, alone, b2).signed == [chain.subject("notarize", b2)]
    again = alone.restart()
    assert again.engine.block(stale.id) is None
    assert (again.view, again.committed) == (2, HEIGHT)
    assert again.started.signed == [chain.subject("notarize", b2)]
    assert commits(told(again, chain.finalization(b2))) == [HEIGHT + 1]
    once_more = again.restart(ledger_height=HEIGHT)
    assert commits(once_more.started) == [HEIGHT + 1]
    assert once_more.view == 3


# --- Tendermint ------------------------------------------------------------------------------------------------------


def ended(book: Rounds) -> tuple[Block, Block, Block]:
    """::

    h40 <- h41 <- h42, the end <- h43, a closing block that only liars make
    """
    first = book.block(HEIGHT + 1)
    boundary = ending(book, book.block(HEIGHT + 2, on=first))
    return first, boundary, closing(book, book.block(HEIGHT + 3, on=boundary))


def test_tendermint_a_decided_boundary_ends_the_epoch() -> None:
    """Validator 2 would propose at the next height."""
    book, alone = tendermint(me=2)
    first, boundary, above = ended(book)
    book.grow(alone, first)
    assert book.subject("prevote", boundary) in book.propose(alone, boundary).signed
    assert step_of(alone, Received(alone.committee.peer(1), book.standing(book.commit(above)))).of(FetchBlocks)
    standing = book.standing(book.commit(boundary))
    happened = step_of(alone, Received(alone.committee.peer(1), standing))
    assert commits(happened) == [HEIGHT + 2]
    assert not [effect for effect in happened.effects if isinstance(effect, (SetTimer, BuildPayload, FetchBlocks))]
    proof_of(happened, alone, [])
    told_above = Received(alone.committee.peer(1), book.standing(book.commit(above)))
    over(alone, HEIGHT + 2, told_above, Received(alone.committee.peer(2), book.proposal(above)))


def test_tendermint_nothing_is_voted_for_on_the_boundary() -> None:
    """A block on it comes with its commit certificate: whoever could vote has ended the epoch."""
    book, alone = tendermint()
    first, boundary, above = ended(book)
    book.grow(alone, first)
    book.propose(alone, boundary)
    happened = book.propose(alone, above)
    assert commits(happened) == [HEIGHT + 2]
    assert not happened.signed
    over(alone, HEIGHT + 2)


def test_tendermint_what_commits_a_block_on_the_boundary_commits_the_boundary() -> None:
    book, alone = tendermint()
    first, boundary, above = ended(book)
    alone.hear(book.standing(book.commit(above)), peer=1)
    for block in (above, boundary, first):
        given = ((block, memoryview(b"")),)
        happened = alone.feed(BlocksFetched(peer=GIVER, blocks=given, proof=None))
    assert commits(happened) == [HEIGHT + 1, HEIGHT + 2]
    assert proof_of(happened, alone, [above]).certificate == book.commit(above)
    over(alone, HEIGHT + 2)


def test_tendermint_the_leader_names_what_the_payload_source_gives() -> None:
    book, alone = tendermint(me=0)
    assert only(alone.started).height == HEIGHT + 1
    happened = alone.build(at(HEIGHT + 1), book.genesis.block_id, b"", next_validators_hash=NEXT)
    (proposal,) = happened.sent(tendermint_types.Proposal)
    assert (proposal.header.next_validators_hash, proposal.header.epoch) == (NEXT, EPOCH)


def test_tendermint_begins_above_its_boundary_and_goes_on_after_a_restart() -> None:
    """Rounds fail, a restart finds the round again, standings with the genesis certificate are taken."""
    book, alone = tendermint()
    height = HEIGHT + 1
    book.fail(alone, 0, height=height)
    votes = tuple(book.precommit(None, signer, 0, height=height) for signer in range(3))
    assert alone.view == at(height, 1)
    late = Alone(alone.committee, me=2)
    late.hear(book.standing(votes=votes), peer=1)
    assert late.view == at(height, 0)
    assert not late.hear(book.standing(votes=votes), peer=1).reasons
    block = book.block(height, 1)
    assert book.subject("prevote", block) in book.propose(alone, block).signed
    again = alone.restart()
    assert (again.view, again.committed) == (at(height, 1), HEIGHT)
    assert book.subject("prevote", block) in again.started.signed
    assert commits(book.precommits(again, block)) == [height]
    once_more = again.restart(ledger_height=HEIGHT)
    assert commits(once_more.started) == [height]
    assert once_more.view == at(height + 1)


# --- Streamlet -------------------------------------------------------------------------------------------------------


def longest(notary: Notary, block: Block) -> streamlet_types.Certificates:
    return streamlet_types.Certificates(epoch=EPOCH, longest=notary.certificate(block))


def test_streamlet_a_final_boundary_ends_the_epoch() -> None:
    """::

    h40 <- b1 <- b2, the end <- c3 <-QC-        views 1, 2, 3: b2 is the second of three
    """
    notary, alone = streamlet()
    b1 = notary.block(1)
    b2 = ending(notary, notary.block(2, on=b1))
    c3 = closing(notary, notary.block(3, on=b2))
    c4 = closing(notary, notary.block(4, on=c3))
    for block in (b1, b2, c3):
        notary.due(alone, block.header.view)
        assert notary.vote_subject(block) in notary.propose(alone, block).signed
    assert notary.due(alone, 4).of(BuildPayload), "validator 3 leads view 4"
    peer = alone.committee.peer(1)
    happened = step_of(alone, Received(peer, longest(notary, c3)))
    assert commits(happened)[-1] == HEIGHT + 2
    assert not happened.of(BuildPayload)
    proof_of(happened, alone, [c3])
    over(alone, HEIGHT + 2, Received(alone.committee.peer(3), notary.proposal(c4)), Received(peer, longest(notary, c4)))


def test_streamlet_what_makes_a_block_on_the_boundary_final_commits_the_boundary() -> None:
    """::

    h40 <- b1 <- b2, the end <- c4 <- c5 <- c6 <-QC-        c5 is the second of three
    """
    notary, alone = streamlet(me=None)
    b1 = notary.block(1)
    b2 = ending(notary, notary.block(2, on=b1))
    tail: list[Block] = []
    for view in (4, 5, 6):
        tail.append(closing(notary, notary.block(view, on=tail[-1] if tail else b2)))
    happened = notary.grow(alone, b1, b2, *tail)
    assert commits(happened) == [HEIGHT + 2], "genesis, b1 and b2 have made b1 final"
    proof_of(happened, alone, tail)
    over(alone, HEIGHT + 2)


@pytest.mark.parametrize("body", [b"", b"body"])
def test_streamlet_what_stands_on_the_boundary_and_is_no_closing_block_is_refused(body: bytes) -> None:
    notary, alone = streamlet()
    b1 = notary.block(1)
    b2 = ending(notary, notary.block(2, on=b1))
    notary.grow(alone, b1, b2)
    bad = notary.block(3, on=b2, body=body)
    notary.due(alone, 3)
    happened = notary.propose(alone, bad)
    assert refused(happened, alone.committee.peer(2)) == FILLED
    assert not happened.signed


def test_streamlet_a_closing_leader_proposes_at_once() -> None:
    notary, alone = streamlet(me=2)
    b1 = notary.block(1)
    b2 = ending(notary, notary.block(2, on=b1))
    notary.grow(alone, b1, b2)
    alone.now = 9_000
    asked = only(notary.due(alone, 3))
    assert (asked.view, asked.height, asked.deadline_ns) == (3, HEIGHT + 3, 9_000)
    (proposal,) = alone.build(3, b2.id).sent(streamlet_types.Proposal)
    assert proposal.header == closing(notary, notary.block(3, on=b2)).header


def test_streamlet_begins_above_its_boundary_and_goes_on_after_a_restart() -> None:
    notary, alone = streamlet()
    b1 = notary.block(1)
    b2 = notary.block(2, on=b1)
    b3 = notary.block(3, on=b2)
    notary.grow(alone, b1, b2)
    again = alone.restart()
    assert (again.view, again.committed) == (2, HEIGHT + 1)
    assert notary.vote_subject(b2) in again.started.signed
    again.hear(longest(notary, b2), peer=1)
    notary.due(again, 3)
    assert notary.vote_subject(b3) in notary.propose(again, b3).signed
    assert commits(notary.notarize(again, b3)) == [HEIGHT + 2]
    assert commits(again.restart(ledger_height=HEIGHT + 1).started) == [HEIGHT + 2]
