"""The block that ends an epoch, in each engine fed by hand: every commit ends at it, by whatever proof; what stands on
it is empty; a leader does not idle on it; and the next epoch begins above it. (HotStuff family; the others below.)

The epoch is the third and begins above a block at height 40. Validator 0 leads view 1, validator 1 view 2, and so on.
"""

from __future__ import annotations

from typing import Any

import pytest

from consensus.engine import (
    BlockRecord,
    BlocksFetched,
    BuildPayload,
    Commit,
    EngineEvent,
    Received,
    SetTimer,
    Sign,
    Step,
    TimerFired,
)
from consensus.epochs import CLOSING_PAYLOAD_ROOT
from consensus.genesis import Pacing
from consensus.protocols.chained_types import Certificates
from consensus.types import Block, CommitProof
from tests.support.chain import CHAINED_NAMES, Alone, Chain, Happened, refused
from tests.support.committee import Committee, committee, in_epoch

NEXT = b"n" * 32
EPOCH, HEIGHT = 3, 40
PACING = Pacing(view_timeout_ms=1_000, idle_interval_ms=500)
GIVER = b"g" * 32
every_chained = pytest.mark.parametrize("protocol", CHAINED_NAMES)


def third_epoch(protocol: str) -> Committee:
    return in_epoch(committee(protocol=protocol, pacing=PACING), EPOCH, HEIGHT)


def setting(protocol: str, me: int | None = 3) -> tuple[Chain, Alone]:
    members = third_epoch(protocol)
    return Chain(members), Alone(members, me=me)


def ending(chain: Chain, block: Block) -> Block:
    """The same block, ending the epoch."""
    return chain.like(block, next_validators_hash=NEXT)


def closing(chain: Chain, block: Block) -> Block:
    """The same empty block, as one that stands on the end of the epoch."""
    return chain.like(block, payload_root=CLOSING_PAYLOAD_ROOT)


def row(chain: Chain, count: int, *, first: int = 1) -> tuple[Block, Block, list[Block]]:
    """::

    h40 <- b1 <- b2, which ends the epoch <- c <- c ...        views ``first``, ``first`` + 1, ...
    """
    b1 = chain.block(first, body=b"payload")
    b2 = ending(chain, chain.block(first + 1, on=b1, body=b"more"))
    tail: list[Block] = []
    for view in range(first + 2, first + 2 + count):
        tail.append(closing(chain, chain.block(view, on=tail[-1] if tail else b2)))
    return b1, b2, tail


def depth(protocol: str) -> int:
    """How many blocks on it, certified, commit a block."""
    return 2 if protocol == "hotstuff" else 1


def certified(chain: Chain, alone: Alone, block: Block) -> Happened:
    """The replica hears a quorum's certificate of the block."""
    return alone.hear(Certificates(epoch=EPOCH, high_qc=chain.qc(block), high_tc=None))


def commits(happened: Happened) -> list[int]:
    return [commit.block.header.height for commit in happened.of(Commit)]


def proof_of(happened: Happened, alone: Alone, headers: list[Block]) -> CommitProof:
    """The proof of the last block committed, which names those headers and convinces a stranger."""
    last = happened.of(Commit)[-1]
    assert last.proof is not None
    assert list(last.proof.headers) == [block.header for block in headers]
    assert alone.engine.verify_commit(last.proof, last.block.header, EPOCH) is None
    return last.proof


def over(alone: Alone, *events: EngineEvent) -> None:
    """The boundary is the head, and whatever is handed to the engine now commits and signs nothing."""
    assert alone.engine.status().committed_height == HEIGHT + 2
    for event in events:
        step: Step = alone.engine.handle(event, alone.now)
        assert not [effect for effect in step.effects if isinstance(effect, (Commit, Sign, BuildPayload))]
    assert alone.engine.status().committed_height == HEIGHT + 2


# --- where commits end -----------------------------------------------------------------------------------------------


@every_chained
def test_the_boundary_is_committed_by_the_blocks_on_it_and_ends_the_epoch(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1, b2, tail = row(chain, depth(protocol) + 1)
    for block in (b1, b2, *tail[:-1]):
        assert commits(alone.hear(chain.proposal(block))) in ([], [HEIGHT + 1])
    peer = alone.committee.peer(1)
    told = [Certificates(epoch=EPOCH, high_qc=chain.qc(block), high_tc=None) for block in tail[-2:]]
    happened = Happened()
    happened.effects += alone.engine.handle(Received(peer, told[0]), alone.now).effects
    assert commits(happened)[-1] == HEIGHT + 2
    proof_of(happened, alone, tail[:-1])
    assert not happened.of(SetTimer), "no view begins"
    over(alone, Received(peer, chain.proposal(tail[-1])), Received(peer, told[1]), TimerFired("view"))


@every_chained
def test_what_commits_a_block_on_the_boundary_commits_the_boundary(protocol: str) -> None:
    """::

    h40 <- b1 <- b2, the end <- c <- d (<- e) <-QC-        views 1, 2, 4, 5 (, 6): c is what the certificate commits
    """
    chain, alone = setting(protocol)
    b1, b2, _ = row(chain, 0)
    tail = [closing(chain, chain.block(4, on=b2))]
    for view in range(5, 5 + depth(protocol)):
        tail.append(closing(chain, chain.block(view, on=tail[-1])))
    for block in (b1, b2, *tail):
        alone.hear(chain.proposal(block))
    assert alone.committed < HEIGHT + 2
    happened = certified(chain, alone, tail[-1])
    assert commits(happened)[-1] == HEIGHT + 2
    assert happened.of(Commit)[-1].block == b2
    proof_of(happened, alone, tail)
    over(alone, Received(alone.committee.peer(1), Certificates(epoch=EPOCH, high_qc=chain.qc(tail[-1]), high_tc=None)))


def test_order_votes_on_the_boundary_end_the_epoch() -> None:
    chain, alone = setting("jolteon", me=None)
    b1, b2, _ = row(chain, 0)
    for block in (b1, b2):
        alone.hear(chain.proposal(block))
    happened = [alone.hear(chain.order_vote(chain.qc(b2), signer)) for signer in (0, 1, 2)][-1]
    assert commits(happened) == [HEIGHT + 2]
    proof_of(happened, alone, [])
    over(alone)


def test_order_votes_on_a_block_above_commit_the_boundary() -> None:
    """::

    h40 <- b1 <- b2, the end <- c4 <-QC- order votes
    """
    chain, alone = setting("jolteon", me=None)
    b1, b2, _ = row(chain, 0)
    c4 = closing(chain, chain.block(4, on=b2))
    for block in (b1, b2, c4):
        alone.hear(chain.proposal(block))
    qc = chain.qc(c4)
    happened = [alone.hear(chain.order_vote(qc, signer)) for signer in (0, 1, 2)][-1]
    assert commits(happened) == [HEIGHT + 2]
    assert proof_of(happened, alone, [c4]).confirmation == chain.confirmation(qc)
    over(alone)


@every_chained
def test_the_boundary_is_committed_once_it_is_fetched(protocol: str) -> None:
    """The certificate is here first, and the blocks come from another peer, the last ones first."""
    chain, alone = setting(protocol, me=None)
    b1, b2, tail = row(chain, depth(protocol))
    certified(chain, alone, tail[-1])
    for block in reversed((b1, b2, *tail)):
        happened = alone.feed(BlocksFetched(peer=GIVER, blocks=((block, chain.body(block)),), proof=None))
    assert commits(happened) == [HEIGHT + 1, HEIGHT + 2]
    proof_of(happened, alone, tail)


def test_a_proof_that_would_grow_too_long_is_dropped_and_the_next_certificate_gives_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a peer's proof of a block above the boundary has headers of its own, and honest peers have none."""
    chain, alone = setting("jolteon", me=None)
    b1, b2, tail = row(chain, 3)
    for block in (b1, b2, tail[0]):
        alone.hear(chain.proposal(block))
    assert alone.committed == HEIGHT + 1
    monkeypatch.setattr("consensus.commit_proof.PATH_LENGTH_MAX", 2)
    long = CommitProof(epoch=EPOCH, headers=(tail[1].header, tail[2].header), certificate=chain.qc(tail[2]))
    given = BlocksFetched(peer=GIVER, blocks=((tail[0], chain.body(tail[0])),), proof=long)
    assert not alone.feed(given).of(Commit)
    proof_of(certified(chain, alone, tail[0]), alone, tail[:1])


# --- closing blocks --------------------------------------------------------------------------------------------------


@every_chained
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("how", ["payload", "another end", "an ordinary empty block"])
def test_a_block_on_the_boundary_is_a_closing_block_or_is_refused(protocol: str, how: str, deep: bool) -> None:
    chain, alone = setting(protocol)
    b1, b2, _ = row(chain, 0)
    c4 = closing(chain, chain.block(4, on=b2))
    for block in (b1, b2, *([c4] if deep else [])):
        alone.hear(chain.proposal(block))
    bad = chain.block(6, on=c4 if deep else b2, body=b"body" if how == "payload" else b"")
    if how == "another end":
        bad = ending(chain, closing(chain, bad))
    happened = alone.hear(chain.proposal(bad))
    reason = refused(happened, alone.committee.peer(1))
    assert reason == "proposal: after the block that ends the epoch, it has a payload or names validators"
    assert chain.vote_subject(bad) not in happened.signed
    assert not alone.hear(chain.proposal(bad)).effects


@every_chained
def test_a_closing_block_is_voted_for_on_the_boundary_and_nowhere_else(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1, b2, tail = row(chain, 1)
    for block in (b1, b2):
        alone.hear(chain.proposal(block))
    assert chain.vote_subject(tail[0]) in alone.hear(chain.proposal(tail[0])).signed

    chain, alone = setting(protocol)
    bad = closing(chain, chain.block(1))
    assert refused(alone.hear(chain.proposal(bad)), alone.committee.peer(0)) == (
        "proposal: a closing block where no block ended the epoch"
    )


@every_chained
def test_a_closing_block_fetched_with_a_body_is_not_taken(protocol: str) -> None:
    chain, alone = setting(protocol)
    alone.judge = lambda check: not check.certified or bytes(check.body) == bytes(chain.body(check.block))
    b1, b2, _ = row(chain, 0)
    c4 = closing(chain, chain.block(4, on=b2))
    d5 = closing(chain, chain.block(6, on=c4))
    for block in (b1, b2):
        alone.hear(chain.proposal(block))
    alone.feed(BlocksFetched(peer=GIVER, blocks=((c4, memoryview(b"evil")),), proof=None))
    happened = alone.hear(chain.proposal(d5))
    assert refused(happened, GIVER) == "a certified block with a body that is not the one its header names"
    assert chain.vote_subject(d5) not in happened.signed
    happened = alone.feed(BlocksFetched(peer=GIVER, blocks=((c4, chain.body(c4)),), proof=None))
    assert chain.vote_subject(d5) in happened.signed


# --- leaders ---------------------------------------------------------------------------------------------------------


@every_chained
def test_the_leader_names_what_the_payload_source_gives(protocol: str) -> None:
    chain, alone = setting(protocol, me=0)
    happened = alone.build(1, chain.genesis.block_id, b"body", next_validators_hash=NEXT)
    (proposal,) = happened.sent(type(chain.proposal(chain.block(1))))
    header = proposal.header
    assert (header.next_validators_hash, header.epoch, header.height) == (NEXT, EPOCH, HEIGHT + 1)


@every_chained
def test_a_closing_leader_proposes_at_once(protocol: str) -> None:
    """Even where the boundary is empty, and where a fast path could commit it without another block."""
    chain, alone = setting(protocol, me=2)
    b1 = chain.block(1)
    b2 = ending(chain, chain.block(2, on=b1))
    alone.hear(chain.proposal(b1))
    alone.hear(chain.proposal(b2))
    alone.now = 5_000
    asked = certified(chain, alone, b2).of(BuildPayload)
    assert [(ask.view, ask.deadline_ns) for ask in asked] == [(3, 5_000)]
    assert [block for block, _ in asked[0].path][-1] == b2
    happened = alone.build(3, b2.id)
    (proposal,) = happened.sent(type(chain.proposal(b1)))
    assert proposal.header == closing(chain, chain.block(3, on=b2)).header


@every_chained
def test_a_closing_block_that_is_filled_is_our_bug(protocol: str) -> None:
    changes: tuple[dict[str, Any], ...] = ({"body": b"body"}, {"next_validators_hash": NEXT})
    for change in changes:
        chain, alone = setting(protocol, me=2)
        b1, b2, _ = row(chain, 0)
        for block in (b1, b2):
            alone.hear(chain.proposal(block))
        certified(chain, alone, b2)
        with pytest.raises(RuntimeError, match="the payload source fills the block of view 3 after the end"):
            alone.build(3, b2.id, **change)


# --- restarts --------------------------------------------------------------------------------------------------------


@every_chained
def test_an_epoch_that_is_over_stays_over_after_a_restart(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1, b2, tail = row(chain, depth(protocol))
    for block in (b1, b2, *tail):
        alone.hear(chain.proposal(block))
    certified(chain, alone, tail[-1])
    again = alone.restart(ledger_height=HEIGHT + 1)
    over(again)
    engine = alone.committee.engine(alone.me)
    step = engine.start(alone.recovered(HEIGHT + 1), 0)
    assert [type(effect) for effect in step.effects] == [Commit], "what the ledger lacks, and nothing else"
    assert engine.status().committed_height == HEIGHT + 2


@every_chained
def test_a_new_epoch_takes_nothing_of_the_old_one_from_the_journal(protocol: str) -> None:
    """::

    h40, the end of epoch 2 <- c, a closing block of epoch 2, stored
                            <- b1
    """
    chain, alone = setting(protocol)
    stale = closing(chain, chain.like(chain.block(9), epoch=EPOCH - 1))
    alone.journal.append([BlockRecord(stale, b"")])
    again = alone.restart()
    assert again.engine.block(stale.id) is None
    status = again.engine.status()
    assert (status.epoch, status.view, status.committed_height, status.committed_view) == (EPOCH, 1, HEIGHT, 0)
    b1 = chain.block(1)
    assert chain.vote_subject(b1) in again.hear(chain.proposal(b1)).signed


@every_chained
def test_a_restart_goes_on_in_the_middle_of_a_later_epoch(protocol: str) -> None:
    chain, alone = setting(protocol)
    blocks = [chain.block(1)]
    for view in range(2, 5):
        blocks.append(chain.block(view, on=blocks[-1]))
    for block in blocks[:3]:
        alone.hear(chain.proposal(block))
    again = alone.restart(ledger_height=HEIGHT)
    assert commits(again.started) == list(range(HEIGHT + 1, alone.committed + 1))
    assert again.view == alone.view == 3
    assert again.started.signed == [chain.vote_subject(blocks[2])], "said again"
    happened = certified(chain, again, blocks[2])
    assert commits(happened) == [alone.committed + 1]
    assert happened.of(Commit)[0].block == blocks[alone.committed - HEIGHT]
