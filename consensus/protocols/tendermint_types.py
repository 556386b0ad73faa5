"""Messages, votes and numbers of Tendermint (``tendermint.py``).

A *view* is a height and a round in one number, ``height << ROUND_BITS | round``: it grows strictly along a chain, and a
slot of the safety guard orders by height and then by round.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from consensus.types import (
    VALIDATORS_MAX,
    BlockHeader,
    Body,
    Certificate,
    Height,
    Index,
    Integer,
    ProposalSubject,
    Signature,
    View,
    Vote,
    VoteSubject,
)

PREVOTE: Final = "prevote"
PRECOMMIT: Final = "precommit"

ROUND_BITS: Final = 24
ROUND_MAX: Final = 2**ROUND_BITS - 1
"""Half a year of rounds of one second each. Nobody goes beyond it."""

Round: TypeAlias = int


def view_at(height: Height, round_: Round) -> View:
    """The number of a round of a height."""
    return height << ROUND_BITS | round_


def height_of(view: View) -> Height:
    """The height that a view belongs to; 0 for genesis."""
    return view >> ROUND_BITS


def round_of(view: View) -> Round:
    """The round of a view within its height, from 0."""
    return view & ROUND_MAX


def turn_of(view: View) -> int:
    """Whose turn it is: one on with every height, and one on with every round."""
    return height_of(view) + round_of(view)


def view_name(view: View) -> str:
    """For people."""
    return f"height {height_of(view)}, round {round_of(view)}"


class Proposal(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=1):
    """What the proposer of ``view`` proposes: a block first made in that view, or, with the quorum of prevotes
    (``polka``) that it had in an earlier round, a block of such a round. The signature covers ``(epoch, view, id of the
    block)``."""

    epoch: Integer
    view: Integer
    header: BlockHeader
    body: Body
    polka: Certificate | None
    proposer: Index
    signature: Signature


class Standing(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True, tag=3):
    """Where the sender stands, in proofs: the last commit that it knows of, its valid value, and the votes that let it
    enter its round (a quorum's precommits of the round before, or votes of stake A from its round or later)."""

    epoch: Integer
    commit: Certificate
    polka: Certificate | None
    votes: Annotated[tuple[Vote, ...], Meta(max_length=VALIDATORS_MAX)]


TendermintMessage: TypeAlias = Proposal | Vote | Standing
TendermintSubject: TypeAlias = ProposalSubject | VoteSubject
