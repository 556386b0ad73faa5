"""What convinces a stranger that a block is committed, and what does not. See also the rules' ``is_committed``."""

from __future__ import annotations

import msgspec
import pytest

from consensus.certificates import QuorumChecker
from consensus.codec import block_of
from consensus.commit_proof import check_commit_proof, extend
from consensus.engine import Refusal
from consensus.protocols.hotstuff import HotStuff
from consensus.protocols.jolteon import Jolteon
from consensus.protocols.order_votes import order_subject
from consensus.types import PATH_LENGTH_MAX, Block, BlockHeader, Certificate, CommitProof
from tests.support.chain import Alone, Chain
from tests.support.committee import committee

replace = msgspec.structs.replace


def proof(certificate: Certificate, *blocks: Block) -> CommitProof:
    return CommitProof(epoch=0, headers=tuple(block.header for block in blocks), certificate=certificate)


def judge(chain: Chain, given: CommitProof, header: BlockHeader, rules: Jolteon | HotStuff | None = None) -> str | None:
    """The reason of the refusal, None when the proof convinces."""
    checker = QuorumChecker(chain.epoch, chain.committee.scheme, ("vote",))
    judging = rules or Jolteon()
    refusal = check_commit_proof(given, header, chain.epoch, checker, judging.is_committed, judging.confirmation_kind)
    assert refusal is None or isinstance(refusal, Refusal)
    return None if refusal is None else refusal.reason


UNLINKED = "commit proof: the headers do not follow from each other"


def test_two_chain() -> None:
    """::

    b1 <- b2 <-QC-        views 1, 2: b1 is committed, b2 is not
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert judge(chain, proof(chain.qc(b2), b2), b1.header) is None
    assert judge(chain, proof(chain.qc(b2)), b2.header) == "commit proof: these views commit nothing"
    assert judge(chain, proof(chain.qc(b1)), b1.header) == "commit proof: these views commit nothing"


def test_three_chain() -> None:
    """::

    b1 <- b2 <- b3 <-QC-        views 1, 2, 3: b1 is committed
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b3 = chain.block(3, on=b2)
    assert judge(chain, proof(chain.qc(b3), b2, b3), b1.header, HotStuff()) is None
    nothing = "commit proof: these views commit nothing"
    assert judge(chain, proof(chain.qc(b3), b3), b2.header, HotStuff()) == nothing
    assert judge(chain, proof(chain.qc(b2), b2), b1.header, HotStuff()) == nothing


def test_ancestors_of_a_committed_block_are_committed() -> None:
    """::

    b1 <- b3 <- b5 <- b6 <-QC-        a gap below the pattern does not matter
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b3 = chain.block(3, on=b1)
    b5 = chain.block(5, on=b3)
    b6 = chain.block(6, on=b5)
    given = proof(chain.qc(b6), b3, b5, b6)
    assert judge(chain, given, b1.header) is None
    assert judge(chain, proof(chain.qc(b5), b3, b5), b1.header) == "commit proof: these views commit nothing"
    assert extend(proof(chain.qc(b6), b5, b6), [b3.header]) == given


def test_headers_must_follow_from_each_other() -> None:
    """Every link is the parent's hash, named twice, one height and a higher view up, on the same chain and epoch."""
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    c1 = chain.block(1, timestamp_ms=2_000)
    assert judge(chain, proof(chain.qc(b2), b2), c1.header) == UNLINKED
    for forged in (
        chain.like(b2, height=3),
        chain.like(b2, parent=c1.id),
        chain.like(b2, justify=chain.qc(c1)),
        chain.like(b2, parent=c1.id, justify=chain.qc(c1)),
        chain.like(b2, epoch=1),
        chain.like(b2, chain=bytes(32)),
    ):
        subject = replace(chain.vote_subject(forged), epoch=0)
        assert judge(chain, proof(chain.certificate(subject, [0, 1, 2]), forged), b1.header) == UNLINKED
    late = chain.like(b1, view=2)
    b2_on_late = chain.like(b2, parent=late.id, justify=chain.qc(late))
    assert judge(chain, proof(chain.qc(b2_on_late), b2_on_late), late.header) == UNLINKED, "one view, two blocks"


def test_the_certificate_is_the_last_headers() -> None:
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    certificate = chain.qc(b2)
    other = "commit proof: the certificate is not the last header's"
    assert judge(chain, proof(chain.qc(b1), b2), b1.header) == other
    subject = chain.vote_subject(b2)
    for changed in (
        replace(subject, height=3),
        replace(subject, view=3),
        replace(subject, block_id=bytes(32)),
    ):
        assert judge(chain, proof(chain.certificate(changed, [0, 1, 2]), b2), b1.header) == other
    assert judge(chain, proof(certificate, b2), b1.header) is None


def test_the_certificate_is_a_quorums() -> None:
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    assert judge(chain, proof(chain.qc(b2, [0, 1]), b2), b1.header) == "signers: stake 2 is below the quorum of 3"
    forged = replace(chain.qc(b2), signature=bytes(32))
    assert judge(chain, proof(forged, b2), b1.header) == "certificate: the signatures do not verify"


def test_another_chain_or_epoch() -> None:
    chain, other = Chain(committee()), Chain(committee(chain_id="other"))
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    given = proof(chain.qc(b2), b2)
    refused = "commit proof: of another chain or epoch"
    assert judge(chain, replace(given, epoch=1), b1.header) == refused
    assert judge(chain, given, replace(b1.header, epoch=1)) == refused
    assert judge(chain, given, replace(b1.header, chain=bytes(32))) == refused
    assert judge(other, given, b1.header) == refused


def test_a_proof_is_extended_up_to_the_cap() -> None:
    chain = Chain(committee())
    header = chain.block(1).header
    base = proof(chain.qc(chain.block(2)), chain.block(2))
    longest = extend(base, [header] * (PATH_LENGTH_MAX - 1))
    assert longest is not None
    assert len(longest.headers) == PATH_LENGTH_MAX
    assert longest.certificate == base.certificate
    assert longest.headers[0] == header
    assert longest.headers[-1] == base.headers[0]
    assert extend(base, [header] * PATH_LENGTH_MAX) is None


def test_a_confirmation_commits_the_certified_block_itself() -> None:
    """::

    b1 <- b2 <-QC- and a quorum of order votes: b2 is committed, and b1 with it
    """
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    qc = chain.qc(b2)
    given = CommitProof(epoch=0, headers=(), certificate=qc, confirmation=chain.confirmation(qc))
    assert judge(chain, given, b2.header) is None
    longer = extend(given, [b2.header])
    assert longer is not None
    assert judge(chain, longer, b1.header) is None
    assert judge(chain, given, b2.header, HotStuff()) == "commit proof: a confirmation where none belongs"


def test_a_confirmation_is_of_the_same_certificate_and_of_a_quorum() -> None:
    """Two quorums over one block of one view: anything else confirms nothing."""
    chain = Chain(committee())
    b1 = chain.block(1)
    b2 = chain.block(2, on=b1)
    b4 = chain.block(4, on=b2)
    qc = chain.qc(b2)

    def reason(certificate: Certificate, confirmation: Certificate, *above: Block) -> str | None:
        headers = tuple(block.header for block in above)
        given = CommitProof(epoch=0, headers=headers, certificate=certificate, confirmation=confirmation)
        return judge(chain, given, b2.header)

    other = "commit proof: the confirmation is not of the certificate"
    good = chain.confirmation(qc)
    assert reason(qc, good) is None
    for changes in (
        {"kind": "vote"},
        {"view": 3},
        {"block_id": b1.id},
        {"height": 3},
        {"justify_view": 0},
        {"epoch": 1},
    ):
        assert reason(qc, replace(good, **changes)) == other
    assert reason(qc, qc) == other
    assert reason(qc, chain.genesis) == other
    assert reason(chain.qc(b4), good, b4) == other
    few = chain.certificate(order_subject(qc), (0, 1))
    assert reason(qc, few) == "signers: stake 2 is below the quorum of 3"
    assert reason(qc, replace(good, signature=qc.signature)) == "certificate: the signatures do not verify"
    assert reason(replace(qc, signature=good.signature), good) == "certificate: the signatures do not verify"
    few_votes = chain.qc(b2, (0, 1))
    assert reason(few_votes, good) == "signers: stake 2 is below the quorum of 3"


@pytest.mark.parametrize("protocol", ["jolteon", "hotstuff"])
def test_an_engine_knows_its_own_epoch_only(protocol: str) -> None:
    members = committee(protocol=protocol)
    chain = Chain(members)
    b1 = chain.block(1)
    blocks = [b1]
    for view in (2, 3):
        blocks.append(chain.block(view, on=blocks[-1]))
    given = proof(chain.qc(blocks[-1]), *blocks[1:])
    engine = Alone(members).engine
    assert block_of(b1.header).id == b1.id
    assert engine.verify_commit(given, b1.header, 0) is None
    assert engine.verify_commit(given, b1.header, 1) == Refusal("commit proof: epoch 1 is not known here")
