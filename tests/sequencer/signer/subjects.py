"""Subjects in short."""

from __future__ import annotations

import hashlib

from consensus.finality.types import Checkpoint, FfgVoteSubject
from consensus.protocols.chained_types import TimeoutSubject
from consensus.signing import VOTE
from consensus.types import NIL_BLOCK, ProposalSubject, Subject, VoteSubject


def block(number: int) -> bytes:
    """The id of an invented block; 0 is none."""
    return NIL_BLOCK if number == 0 else hashlib.sha256(b"block %d" % number).digest()


def vote(view: int, number: int = 1, *, kind: str = VOTE, justify: int = 0, height: int = 1, epoch: int = 0) -> Subject:
    return VoteSubject(kind=kind, epoch=epoch, view=view, block_id=block(number), height=height, justify_view=justify)


def timeout(view: int, high: int | None, *, epoch: int = 0) -> Subject:
    return TimeoutSubject(epoch=epoch, view=view, high_qc_view=high)


def proposal(view: int, number: int = 1, *, epoch: int = 0) -> Subject:
    return ProposalSubject(epoch=epoch, view=view, block_id=block(number))


def ffg(source: int, target: int, number: int = 1, *, epoch: int = 0) -> Subject:
    return FfgVoteSubject(
        epoch=epoch, source=Checkpoint(height=source, id=block(1)), target=Checkpoint(height=target, id=block(number))
    )
