"""What is honest where one epoch follows another convicts nobody."""

from __future__ import annotations

import pytest

from consensus.codec import block_of, digest, encode
from consensus.engine import Refusal
from consensus.evidence import Evidence, SignedGroup, evidence_from, verify
from consensus.offences import Signed
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.types import VoteSubject, bitmap_of
from tests.support.epoch_chain import epoch_chain


@pytest.mark.parametrize("protocol", protocol_names())
def test_the_first_votes_of_an_epoch_convict_nobody(protocol: str) -> None:
    """The parent of an epoch's first block stands on a high view of the epoch before. The votes for the epoch's first
    blocks stand on low ones, and nothing was locked: a rule that compared the two would convict all of them."""
    chain = epoch_chain([(0, 1, 2, 3), (1, 2, 3, 4)], lengths=(9, 4), protocol=protocol)
    era, definition = chain.eras[1], protocol_named(protocol)
    kind = definition.votes[0].name
    headers = {digest(header): header for header in chain.headers}
    words = []
    for header in era.blocks:
        subject = VoteSubject(
            kind=kind, epoch=1, view=header.view, block_id=block_of(header).id, height=header.height,
            justify_view=header.justify.view,
        )  # fmt: skip
        words.append(Signed(subject, bitmap_of((0,)), era.scheme.aggregate([era.sign(0, subject)]) or b""))
    for one in words:
        for other in words:
            assert evidence_from(one, other, headers, era.info, definition) is None
    boundary = chain.headers[8]
    for offence in definition.offences:
        forged = Evidence(
            version=1, chain=era.info.chain, epoch=1, protocol=protocol, offence=offence.name,
            first=_group(words[0]), second=_group(words[1]),
            headers=(era.blocks[0], boundary)[: offence.headers_needed],
        )  # fmt: skip
        assert isinstance(verify(forged, era.info, definition, era.scheme), Refusal)


def _group(word: Signed) -> SignedGroup:
    assert isinstance(word.subject, VoteSubject)
    return SignedGroup(subject=encode(word.subject), signers=word.signers, signature=word.signature)
