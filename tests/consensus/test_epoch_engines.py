"""All engines of one epoch, of every protocol: they begin above a boundary at some height, and end together at the
next one."""

from __future__ import annotations

import pytest

from consensus.protocols.registry import protocol_names
from tests.support.committee import committee, in_epoch
from tests.support.engines import NEXT, Engines

every_protocol = pytest.mark.parametrize("protocol", protocol_names())
EPOCH, HEIGHT, END = 3, 40, 46


def ended(run: Engines) -> None:
    """All committed the same blocks up to the boundary, none beyond, and each can prove it to a stranger."""
    first = run.nodes[0]
    assert sorted(first.commits) == list(range(HEIGHT + 1, END + 1))
    for index, node in enumerate(run.nodes):
        assert {height: commit.block for height, commit in node.commits.items()} == {
            height: commit.block for height, commit in first.commits.items()
        }
        boundary = node.commits[END].block
        assert boundary.header.next_validators_hash == NEXT
        stranger = Engines(run.committee, ends_at=END).nodes[0].engine
        assert stranger.verify_commit(run.proof(index), boundary.header, EPOCH) is None
        status = node.engine.status()
        assert (status.epoch, status.committed_height) == (EPOCH, END)


@every_protocol
def test_an_epoch_begins_above_its_boundary_and_ends_at_the_next(protocol: str) -> None:
    run = Engines(in_epoch(committee(protocol=protocol), EPOCH, HEIGHT), ends_at=END)
    run.run(30)
    ended(run)


@every_protocol
@pytest.mark.parametrize("seed", range(5))
def test_an_epoch_ends_although_messages_get_lost_and_everybody_restarts(protocol: str, seed: int) -> None:
    run = Engines(in_epoch(committee(protocol=protocol), EPOCH, HEIGHT), ends_at=END, seed=seed, dropped=0.1)
    for _ in range(12):
        run.run(0.7)
        run.start(run.random.randrange(4))
    run.run(120)
    ended(run)
