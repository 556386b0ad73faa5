"""The engine fed by hand: commits, missing blocks, and bodies that are not what their headers name.

Leaders take turns: validator 0 leads view 1, validator 1 view 2, and so on; the replica under test is validator 3.
"""

from __future__ import annotations

import pytest

from consensus import block_tree
from consensus.engine import (
    BlockRecord,
    BlocksFetched,
    CheckPayload,
    Commit,
    CommitRecord,
    FetchBlocks,
    PayloadVerdict,
    Received,
    Reject,
    Step,
)
from consensus.protocols.chained_types import Certificates
from consensus.types import Block, CommitProof
from tests.support.chain import CHAINED_NAMES, Alone, Chain, Happened, grow
from tests.support.committee import committee

GIVER = b"g" * 32
every_protocol = pytest.mark.parametrize("protocol", CHAINED_NAMES)


def setting(protocol: str, me: int | None = 3) -> tuple[Chain, Alone]:
    members = committee(protocol=protocol)
    return Chain(members), Alone(members, me=me)


def row(chain: Chain, count: int) -> list[Block]:
    """genesis <- b1 <- b2 <- ... in consecutive views, each with a body."""
    blocks = [chain.block(1, body=b"body 1")]
    for view in range(2, count + 1):
        blocks.append(chain.block(view, on=blocks[-1], body=b"body %d" % view))
    return blocks


def told(chain: Chain, block: Block) -> Certificates:
    return Certificates(epoch=0, high_qc=chain.qc(block), high_tc=None)


def heights(happened: Happened) -> list[int]:
    return [commit.block.header.height for commit in happened.of(Commit)]


def depth(protocol: str) -> int:
    """How many certified blocks in a row commit the first."""
    return {"jolteon": 2, "hotstuff": 3, "hotstuff2": 2}[protocol]


# --- commits ---------------------------------------------------------------------------------------------------------


@every_protocol
def test_a_block_is_committed_when_its_chain_is_certified_and_not_before(protocol: str) -> None:
    chain, alone = setting(protocol)
    blocks = row(chain, depth(protocol))
    for block in blocks:
        assert not alone.hear(chain.proposal(block)).of(Commit)
    happened = alone.hear(told(chain, blocks[-1]))
    (commit,) = happened.of(Commit)
    proof = CommitProof(epoch=0, headers=tuple(block.header for block in blocks[1:]), certificate=chain.qc(blocks[-1]))
    assert (commit.block, bytes(commit.body), commit.proof) == (blocks[0], b"body 1", proof)
    assert alone.engine.verify_commit(proof, blocks[0].header, 0) is None
    assert [record for record in happened.records if isinstance(record, CommitRecord)] == [
        CommitRecord(1, blocks[0].id, proof)
    ]


@every_protocol
def test_ancestors_go_first_and_the_walk_ends_at_the_last_committed(protocol: str) -> None:
    """Pitfall 9::

    genesis <- b1 <- b3 <- b5 <- b6 (<- b7) <-QC-        gaps: nothing is committed before b5 is, then b1, b3, b5
    """
    chain, alone = setting(protocol)
    b1 = chain.block(1, body=b"1")
    b3 = chain.block(3, on=b1, body=b"3")
    blocks = [b1, b3, chain.block(5, on=b3, body=b"5")]
    for view in range(6, 5 + depth(protocol)):
        blocks.append(chain.block(view, on=blocks[-1]))
    for block in blocks:
        assert not alone.hear(chain.proposal(block)).of(Commit)
    happened = alone.hear(told(chain, blocks[-1]))
    commits = happened.of(Commit)
    assert [commit.block for commit in commits] == blocks[:3]
    assert [commit.proof is None for commit in commits] == [True, True, False], "one proof proves its ancestors too"
    records = [record for record in happened.records if isinstance(record, CommitRecord)]
    assert [(record.height, record.block_id) for record in records] == [
        (number + 1, block.id) for number, block in enumerate(blocks[:3])
    ]
    assert not alone.hear(told(chain, blocks[-1])).of(Commit), "never twice"
    assert not alone.hear(told(chain, blocks[0])).of(Commit)
    after = chain.block(blocks[-1].header.view + 1, on=blocks[-1])
    assert heights(grow(chain, alone, after)) == [4], "and on from there"


@every_protocol
def test_blocks_are_durable_in_the_step_that_commits_them(protocol: str) -> None:
    """An observer votes for nothing, so that its commits bring the blocks' own records."""
    chain, alone = setting(protocol, me=None)
    blocks = row(chain, depth(protocol))
    happened = grow(chain, alone, *blocks)
    assert heights(happened) == [1]
    kinds = [type(record) for record in happened.records]
    assert kinds.index(BlockRecord) < kinds.index(CommitRecord)
    assert blocks[0].id in alone.journal.blocks


@every_protocol
def test_nothing_is_committed_before_its_body_was_checked(protocol: str) -> None:
    chain, alone = setting(protocol, me=None)
    alone.judge = lambda check: None
    blocks = row(chain, depth(protocol))
    happened = grow(chain, alone, *blocks)
    (check,) = happened.of(CheckPayload)
    assert (check.block, check.certified, check.path) == (blocks[0], True, ())
    assert not happened.of(Commit)
    verdict = PayloadVerdict(block_id=blocks[0].id, certified=True, valid=True)
    assert heights(alone.feed(verdict)) == [1]
    assert not alone.feed(verdict).effects


@every_protocol
def test_a_fork_beside_the_committed_block_is_dropped(protocol: str) -> None:
    chain, alone = setting(protocol)
    blocks = row(chain, depth(protocol))
    rival = chain.block(blocks[-1].header.view + 2)
    alone.hear(chain.proposal(blocks[0]))
    happened = grow(chain, alone, *blocks[1:])
    assert heights(happened) == [1]
    other = chain.block(rival.header.view + 1, on=blocks[0])
    alone.hear(chain.proposal(other))
    alone.feed(BlocksFetched(peer=GIVER, blocks=((blocks[0], chain.body(blocks[0])),), proof=None))
    assert alone.engine.block(other.id) is not None, "a block at the head's own height makes no room for itself"
    alone.hear(chain.proposal(rival))
    assert alone.engine.block(rival.id) is None
    assert rival.header.height <= alone.committed


# --- missing blocks --------------------------------------------------------------------------------------------------


def asked(alone: Alone, chain: Chain, message: object, peer: int = 1) -> list[FetchBlocks]:
    """What the engine asks block sync for."""
    assert isinstance(message, Certificates | Block)
    sent = message if isinstance(message, Certificates) else chain.proposal(message)
    step: Step = alone.engine.handle(Received(alone.committee.peer(peer), sent), 0)
    return [effect for effect in step.effects if isinstance(effect, FetchBlocks)]


@every_protocol
def test_a_certified_block_that_is_not_here_is_asked_for(protocol: str) -> None:
    """::

    genesis <- [b1] <- [b2] <-QC-
    """
    chain, alone = setting(protocol)
    _, b2 = row(chain, 2)
    one = alone.committee.peer(1)
    assert asked(alone, chain, told(chain, b2)) == [FetchBlocks(block_id=b2.id, height=2, peer=one)]


@every_protocol
def test_what_is_missing_below_is_asked_for_next(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1, b2, b3 = row(chain, 3)
    step = alone.engine.handle(Received(alone.committee.peer(2), chain.proposal(b3)), 0)
    fetches = [effect for effect in step.effects if isinstance(effect, FetchBlocks)]
    assert fetches == [FetchBlocks(block_id=b2.id, height=2, peer=alone.committee.peer(2))]
    step = alone.engine.handle(BlocksFetched(peer=GIVER, blocks=((b2, chain.body(b2)),), proof=None), 0)
    fetches = [effect for effect in step.effects if isinstance(effect, FetchBlocks)]
    assert fetches == [FetchBlocks(block_id=b1.id, height=1, peer=alone.committee.peer(2))]
    assert alone.feed(BlocksFetched(peer=GIVER, blocks=((b1, chain.body(b1)),), proof=None)).signed == [
        chain.vote_subject(b3)
    ]


@every_protocol
def test_the_parent_of_the_leaders_block_is_asked_for_beside_the_highest_certificates(protocol: str) -> None:
    """::

    genesis <- [b1] <- b4        the replica knows QC(c2), the leader of view 4 did not
           \\- [c2]
    """
    chain, alone = setting(protocol)
    b1, c2 = chain.block(1), chain.block(2)
    one = alone.committee.peer(1)
    assert asked(alone, chain, told(chain, c2)) == [FetchBlocks(block_id=c2.id, height=1, peer=one)]
    b4 = chain.like(chain.block(4, on=b1), proposer=alone.committee.epoch.leaders.leader(4))
    other = Alone(alone.committee, me=0)
    other.hear(told(chain, c2))
    fetches = asked(other, chain, b4, peer=3)
    assert FetchBlocks(block_id=b1.id, height=1, peer=one) in fetches
    assert len(fetches) == 2


@every_protocol
def test_what_a_proved_block_stands_on_is_asked_for_beside_the_highest_certificate(protocol: str) -> None:
    """::

    genesis <- b1 <- b2 <- b3 <- [b4 ...] <-QC-        b3 is proved committed, but the body of b2 was false
    """
    chain, alone = setting(protocol, me=None)
    blocks = row(chain, 2 + depth(protocol))
    proof = CommitProof(epoch=0, headers=tuple(block.header for block in blocks[3:]), certificate=chain.qc(blocks[-1]))
    given = tuple((block, memoryview(b"evil 2") if block is blocks[1] else chain.body(block)) for block in blocks[:3])
    alone.engine.handle(BlocksFetched(peer=GIVER, blocks=given, proof=proof), 0)
    step = alone.engine.handle(PayloadVerdict(block_id=blocks[1].id, certified=True, valid=False), 0)
    fetches = [effect.block_id for effect in step.effects if isinstance(effect, FetchBlocks)]
    assert fetches == [blocks[-1].id, blocks[1].id]


@every_protocol
def test_fetched_blocks_may_complete_a_commit(protocol: str) -> None:
    """The certificates came before the blocks that they commit."""
    chain, alone = setting(protocol)
    blocks = row(chain, depth(protocol) + 1)
    alone.hear(told(chain, blocks[-1]))
    fetched = BlocksFetched(peer=GIVER, blocks=tuple((block, chain.body(block)) for block in blocks), proof=None)
    assert heights(alone.feed(fetched)) == [1, 2]


@every_protocol
def test_late_proposals_may_complete_a_commit(protocol: str) -> None:
    """::

    [b1] <- b2 (<- b3) <-QC-        the last block's quorum was seen before the block itself
    """
    chain, alone = setting(protocol)
    blocks = row(chain, depth(protocol))
    alone.hear(told(chain, blocks[-1]))
    for block in blocks[:-1]:
        alone.hear(chain.proposal(block))
    assert heights(alone.hear(chain.proposal(blocks[-1]))) == [1]


@every_protocol
def test_a_proved_range_is_committed(protocol: str) -> None:
    chain, alone = setting(protocol, me=None)
    blocks = row(chain, 5)
    last = 5 - depth(protocol)
    proof = CommitProof(
        epoch=0, headers=tuple(block.header for block in blocks[last + 1 :]), certificate=chain.qc(blocks[-1])
    )
    range_of = tuple((block, chain.body(block)) for block in blocks[: last + 1])
    happened = alone.feed(BlocksFetched(peer=GIVER, blocks=range_of, proof=proof))
    assert heights(happened) == list(range(1, last + 2))
    assert happened.of(Commit)[-1].proof == proof
    assert alone.view == 6, "the proof's certificate counts"
    assert not alone.feed(BlocksFetched(peer=GIVER, blocks=range_of, proof=proof)).of(Commit)


# --- a full tree -----------------------------------------------------------------------------------------------------


@every_protocol
def test_views_that_fail_for_long_do_not_fill_the_tree_for_good(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """::

    genesis <- b1 <-QC-  <- b3        every block on b1 fails, until the tree is full; the next one is voted for
                \\- b4 \\- b5 ...      all the same, and the chain goes on from there
    """
    monkeypatch.setattr(block_tree, "ENTRIES_MAX", 5)
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    for view in range(3, 20):
        late = chain.block(view, on=b1)
        happened = alone.hear(chain.proposal(late))
        assert happened.signed == [chain.vote_subject(late)], f"view {view}"
    grow(chain, alone, late)
    blocks = [late]
    for view in range(20, 20 + depth(protocol)):
        blocks.append(chain.block(view, on=blocks[-1]))
    assert heights(grow(chain, alone, *blocks[1:]))


@every_protocol
def test_in_a_full_tree_what_is_needed_stays_and_givers_are_remembered(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """::

    genesis <- b1 <- b2 <-QC-        b1 and b2 are needed by the highest certificate, c3 by its child d4, and of the
          |\\- c3 <- d4             rest nothing
           \\- e5, e6
    """
    monkeypatch.setattr(block_tree, "ENTRIES_MAX", 5)
    chain, alone = setting(protocol, me=None)
    b1 = chain.block(1)
    b2 = chain.block(7, on=b1)  # over a gap: nothing is committed
    c3, e5, e6 = (chain.block(view) for view in (3, 5, 6))
    d4 = chain.block(4, on=c3, body=b"d4")
    tree = alone.engine._blocks.tree  # type: ignore[attr-defined]  # this engine's own
    for block in (b1, b2, c3, e5, e6):
        assert tree.insert(block, chain.body(block)) is not None
    alone.hear(told(chain, b2))
    alone.feed(BlocksFetched(peer=GIVER, blocks=((d4, chain.body(d4)),), proof=None))
    assert [tree.get(block.id) is not None for block in (b1, b2, c3, d4, e5, e6)] == [True] * 4 + [False] * 2
    assert tree.get(d4.id).source == GIVER


@every_protocol
def test_in_a_full_tree_what_is_known_to_be_committed_stays(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof shows b2 committed while the body of b1 is still missing, and the tree is full of failed views."""
    chain, alone = setting(protocol, me=None)
    blocks = row(chain, 1 + depth(protocol))
    proof = CommitProof(epoch=0, headers=tuple(block.header for block in blocks[2:]), certificate=chain.qc(blocks[-1]))
    alone.feed(BlocksFetched(peer=GIVER, blocks=((blocks[1], chain.body(blocks[1])),), proof=proof))
    monkeypatch.setattr(block_tree, "ENTRIES_MAX", 2)
    tree = alone.engine._blocks.tree  # type: ignore[attr-defined]  # this engine's own
    rivals = [chain.block(view) for view in (7, 8)]
    for block in rivals:
        alone.feed(BlocksFetched(peer=GIVER, blocks=((block, chain.body(block)),), proof=None))
    assert [tree.get(block.id) is not None for block in (blocks[1], *rivals)] == [True, False, True]


@every_protocol
def test_a_check_that_was_answered_is_not_pending(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    grow(chain, alone, b1)
    entry = alone.engine._blocks.tree.get(b1.id)  # type: ignore[attr-defined]  # this engine's own
    entry.certified_check_pending = True
    alone.feed(PayloadVerdict(block_id=b1.id, certified=True, valid=True))
    assert (entry.check_pending, entry.certified_check_pending) == (False, False)


# --- bodies that are not what their headers name ---------------------------------------------------------------------


@every_protocol
def test_a_certified_body_that_does_not_match_is_fetched_again(protocol: str) -> None:
    """The leader sent this replica another body than the others, who certified the block."""
    chain, alone = setting(protocol, me=None)
    blocks = row(chain, depth(protocol))
    alone.judge = lambda check: bytes(check.body) != b"evil 1"
    alone.hear(chain.proposal(blocks[0], body=b"evil 1"))
    step_effects = grow(chain, alone, *blocks[1:])
    assert not step_effects.of(Commit)
    reason = "a certified block with a body that is not the one its header names"
    assert step_effects.of(Reject) == [Reject(alone.committee.peer(0), reason)]
    assert alone.engine.block(blocks[0].id) is None
    again = alone.engine.handle(BlocksFetched(peer=GIVER, blocks=(), proof=None), 0)
    assert [effect.block_id for effect in again.effects if isinstance(effect, FetchBlocks)] == [blocks[0].id]
    fetched = BlocksFetched(peer=GIVER, blocks=((blocks[0], chain.body(blocks[0])),), proof=None)
    assert heights(alone.feed(fetched)) == [1]


@every_protocol
def test_a_false_body_of_an_ancestor_does_not_speak_against_the_next_leader(protocol: str) -> None:
    """The leader of view 1 sent this replica another body than the others, so that a judge who is shown it with the
    next block would refuse that one. It is judged when the true body is here, and then voted for."""
    chain, alone = setting(protocol)
    b1, b2 = row(chain, 2)
    alone.judge = lambda check: b"evil 1" not in {bytes(check.body), *(bytes(body) for _, body in check.path)}
    alone.hear(chain.proposal(b1, body=b"evil 1"))
    happened = alone.hear(chain.proposal(b2))
    assert not happened.signed
    assert {reject.peer for reject in happened.of(Reject)} == {alone.committee.peer(0)}
    happened = alone.feed(BlocksFetched(peer=GIVER, blocks=((b1, chain.body(b1)),), proof=None))
    assert chain.vote_subject(b2) in happened.signed


@every_protocol
def test_whoever_gave_the_body_is_named_and_not_who_gave_it_again(protocol: str) -> None:
    """The leader's false body is here already when block sync brings the true one: the first stays until it is judged,
    and it is the leader's."""
    chain, alone = setting(protocol, me=None)
    blocks = row(chain, depth(protocol))
    alone.hear(chain.proposal(blocks[0], body=b"evil 1"))
    alone.feed(BlocksFetched(peer=GIVER, blocks=((blocks[0], chain.body(blocks[0])),), proof=None))
    alone.judge = lambda check: bytes(check.body) != b"evil 1"
    happened = grow(chain, alone, *blocks[1:])
    assert [reject.peer for reject in happened.of(Reject)] == [alone.committee.peer(0)]

    chain, alone = setting(protocol, me=None)
    alone.judge = lambda check: bytes(check.body) != b"evil 1"
    blocks = row(chain, depth(protocol))
    alone.hear(told(chain, blocks[-1]))
    given = ((blocks[0], memoryview(b"evil 1")), *((block, chain.body(block)) for block in blocks[1:]))
    happened = alone.feed(BlocksFetched(peer=GIVER, blocks=given, proof=None))
    assert [reject.peer for reject in happened.of(Reject)] == [GIVER]


@every_protocol
def test_a_block_whose_body_was_judged_invalid_is_taken_when_a_quorum_certified_it(protocol: str) -> None:
    """The full check said no, but the body is the one that the header names: the quorum's word counts."""
    chain, alone = setting(protocol)
    alone.judge = lambda check: check.certified or check.block.header.view != 1
    blocks = row(chain, depth(protocol))
    assert not alone.hear(chain.proposal(blocks[0])).signed
    assert heights(grow(chain, alone, *blocks[1:])) == [1]


@every_protocol
def test_the_block_that_proves_a_commit_is_lost_before_the_commit(protocol: str) -> None:
    """::

    genesis <- b1 <- b2 (<- b3) <-QC-        b1 is committed by that, once its body was checked

    The body of the last block turns out to be another than its header names, and the block is forgotten, while b1's
    check still runs. Then b1's verdict comes. (Seen without care: the node stopped on its own assertion.)
    """
    chain, alone = setting(protocol, me=depth(protocol) % 4)
    blocks = row(chain, depth(protocol))
    pending: list[CheckPayload] = []
    alone.judge = pending.append
    happened = grow(chain, alone, *blocks)
    assert not happened.of(Commit)
    assert [check.block for check in pending if check.certified] == blocks, "the leader checks all that it builds on"
    assert all(check.path == () for check in pending if check.certified), "what a quorum saw is judged by itself"
    last, first = blocks[-1], blocks[0]
    alone.feed(PayloadVerdict(block_id=last.id, certified=True, valid=False, reason="body"))
    for block in blocks[1:-1]:
        alone.feed(PayloadVerdict(block_id=block.id, certified=True, valid=True))
    assert not alone.feed(PayloadVerdict(block_id=first.id, certified=True, valid=True)).of(Commit)
    alone.judge = lambda check: True
    assert heights(alone.feed(BlocksFetched(peer=GIVER, blocks=((last, chain.body(last)),), proof=None))) == [1]


@every_protocol
def test_a_verdict_on_a_block_that_is_gone_changes_nothing(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1)
    for certified in (True, False):
        for valid in (True, False):
            happened = alone.feed(PayloadVerdict(block_id=b1.id, certified=certified, valid=valid))
            assert not happened.effects


@every_protocol
def test_peers_are_given_what_was_checked_and_nothing_else(protocol: str) -> None:
    chain, alone = setting(protocol)
    b1 = chain.block(1, body=b"body")
    alone.judge = lambda check: None
    alone.hear(chain.proposal(b1))
    assert alone.engine.block(b1.id) is None
    alone.feed(PayloadVerdict(block_id=b1.id, certified=False, valid=True))
    stored = alone.engine.block(b1.id)
    assert stored is not None
    assert (stored.header, bytes(stored.body)) == (b1.header, b"body")
