"""Receipts and sections against the real protocol rule: four validators, real signatures, every byte mutated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import pytest

from consensus.codec import Malformed
from consensus.crypto.ed25519 import Ed25519
from consensus.engine import Engine, Refusal
from consensus.epochs import first_epoch
from consensus.finality.proof import FinalityProof
from consensus.genesis import ChainSpec, check_chain_spec
from consensus.protocols.registry import JOLTEON
from consensus.types import Block, BlockHeader, Certificate, CommitProof, bitmap_of, certificate_subject
from consensus.validators import Validator
from sequencer.body import EMPTY_PAYLOAD, Payload
from sequencer.merkle import InclusionProof
from sequencer.receipts import Receipt, Section, VerificationError
from sequencer.transactions import transaction_id
from tests.sequencer.chains import block, payload, spec

SCHEME = Ed25519()
KEYS = tuple(SCHEME.generate(bytes([seed]) * 32) for seed in range(4))


@dataclass(frozen=True)
class Chain:
    """A chain's spec with its protocol's rule: what a verifier trusts. Makes committed blocks, for the tests."""

    spec: ChainSpec
    engine: Engine

    def verify_commit(self, proof: CommitProof, header: BlockHeader, epoch: int) -> Refusal | None:
        return self.engine.verify_commit(proof, header, epoch)

    def verify_finality(self, proof: FinalityProof, header: BlockHeader) -> Refusal | None:
        raise AssertionError("no receipt here says that it is final")

    def certificate(self, certified: Block) -> Certificate:
        """Three of four sign a vote."""
        header = certified.header
        unsigned = Certificate(
            kind="vote",
            epoch=0,
            view=header.view,
            block_id=certified.id,
            height=header.height,
            justify_view=header.justify.view,
            signers=bitmap_of((0, 1, 3)),
            signature=b"",
        )
        return self.certificate_of(unsigned)

    def certificate_of(self, unsigned: Certificate) -> Certificate:
        """The same with the signatures of three of four over what it says."""
        message = first_epoch(self.spec, check_chain_spec(self.spec, SCHEME)).domain.bytes_to_sign(
            certificate_subject(unsigned)
        )
        signature = SCHEME.aggregate([KEYS[signer].sign(message) for signer in (0, 1, 3)])
        assert signature is not None
        return msgspec.structs.replace(unsigned, signature=signature)

    def committed(self, carried: Payload) -> tuple[Block, CommitProof]:
        """A first block, and the proof that it is committed: an empty child in the next view, and its certificate."""
        genesis = first_epoch(self.spec, check_chain_spec(self.spec, SCHEME)).genesis
        first = block(1, carried, chain=self.spec.hash, parent=genesis.block_id, justify=genesis)
        child = block(2, EMPTY_PAYLOAD, chain=self.spec.hash, parent=first.id, justify=self.certificate(first), view=2)
        return first, CommitProof(epoch=0, headers=(child.header,), certificate=self.certificate(child))


@cache
def chain(chain_id: str = "test") -> Chain:
    validators = tuple(
        Validator(
            name=f"v{number}",
            stake=1,
            public_key=key.public_key,
            possession_proof=key.prove_possession(),
            peer=bytes([number]) * 32,
        )
        for number, key in enumerate(KEYS)
    )
    made = spec(chain_id=chain_id, validators=validators)
    epoch = first_epoch(made, check_chain_spec(made, SCHEME))
    return Chain(made, JOLTEON.engine(spec=made, epoch=epoch, scheme=SCHEME, me=None))


CARRIED = payload({3: [(0, b"a"), (2, b"b"), (0, b"c"), (0, b""), (0, b"e"), (4, b"f")], 2**64 - 3: [(0, b"z")]})
"""Nothing of rollup 7, which the chain has too."""


def receipt(data: bytes = b"f", valid_until: int = 4) -> Receipt:
    identifier = transaction_id(3, valid_until, data)
    located = CARRIED.locate(identifier)
    assert located is not None
    section, index = located
    committed, proof = chain().committed(CARRIED)
    return Receipt(
        transaction_id=identifier,
        rollup_id=3,
        inclusion=InclusionProof(index=index, siblings=section.tree.path(index), section=CARRIED.tree.proof(3)),
        header=committed.header,
        commit_proof=proof,
    )


def section(rollup_id: int, carried: Payload = CARRIED) -> Section:
    committed, proof = chain().committed(carried)
    held = carried.section(rollup_id)
    return Section(
        rollup_id=rollup_id,
        header=committed.header,
        valid_untils=held.valid_untils if held else (),
        transactions=held.transactions if held else (),
        proof=carried.tree.proof(rollup_id),
        commit_proof=proof,
    )


def failure(claim: Receipt | Section, genesis: Chain | None = None, **changes: Any) -> str:
    """What of a changed claim fails."""
    with pytest.raises(VerificationError) as error:
        msgspec.structs.replace(claim, **changes).verify(genesis or chain())
    return error.value.what


# --- receipts ----------------------------------------------------------------------------------------------------


def test_an_honest_receipt_verifies() -> None:
    honest = receipt()
    honest.verify(chain())
    assert (honest.height, honest.index, honest.rollup_id) == (1, 5, 3)
    assert honest.position.index == 5


def test_a_receipt_may_rest_on_two_quorums() -> None:
    """Jolteon's order votes: a certificate of the block itself, and its confirmation."""
    honest = receipt()
    certificate = honest.commit_proof.headers[0].justify
    confirmation = chain().certificate_of(msgspec.structs.replace(certificate, kind="order"))
    proof = CommitProof(epoch=0, headers=(), certificate=certificate, confirmation=confirmation)
    fast = msgspec.structs.replace(honest, commit_proof=proof)
    fast.verify(chain())
    assert Receipt.from_bytes(fast.to_bytes()) == fast
    for wrong in (None, certificate, msgspec.structs.replace(confirmation, signature=bytes(192))):
        assert failure(honest, commit_proof=msgspec.structs.replace(proof, confirmation=wrong)) == "commit"


def test_each_part_of_a_receipt_is_named_when_it_fails() -> None:
    honest = receipt()
    other, other_proof = chain().committed(payload({3: [(0, b"other")]}))
    assert failure(honest, transaction_id=transaction_id(3, 0, b"a")) == "inclusion"
    assert failure(honest, rollup_id=7) == "inclusion"
    assert failure(honest, rollup_id=4) == "rollup"
    assert failure(honest, header=other.header) == "inclusion"
    assert failure(honest, header=msgspec.structs.replace(honest.header, timestamp_ms=1)) == "commit"
    assert failure(honest, commit_proof=other_proof) == "commit"
    assert failure(honest, genesis=chain("another")) == "chain"
    forged = msgspec.structs.replace(honest.commit_proof.certificate, signature=bytes(192))
    assert failure(honest, commit_proof=msgspec.structs.replace(honest.commit_proof, certificate=forged)) == "commit"


def test_every_mutated_byte_of_a_receipt_is_refused() -> None:
    data = receipt().to_bytes()
    for position in range(len(data)):
        mutant = bytearray(data)
        mutant[position] ^= 1
        read = Receipt.from_bytes(bytes(mutant))
        if isinstance(read, Receipt):
            with pytest.raises(VerificationError):
                read.verify(chain())


# --- sections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollup_id", [3, 7, 2**64 - 3])
def test_honest_sections_verify_with_and_without_transactions(rollup_id: int) -> None:
    honest = section(rollup_id)
    honest.verify(chain())
    held = CARRIED.section(rollup_id)
    assert honest.transaction_ids() == (held.ids if held else ())
    section(rollup_id, EMPTY_PAYLOAD).verify(chain())


def test_no_transaction_is_left_out_added_moved_or_changed() -> None:
    honest = section(3)
    expiries, transactions = honest.valid_untils, honest.transactions
    for wrong in (
        {"transactions": transactions[:-1], "valid_untils": expiries[:-1]},
        {"transactions": (*transactions, b"g"), "valid_untils": (*expiries, 0)},
        {"transactions": (*transactions[:-1], b"g")},
        {"transactions": (transactions[1], transactions[0], *transactions[2:])},
        {"valid_untils": (1, *expiries[1:])},
        {"valid_untils": (-1, *expiries[1:])},
        {"valid_untils": (2**64, *expiries[1:])},
        {"valid_untils": expiries[1:]},
        {"transactions": (), "valid_untils": ()},
    ):
        assert failure(honest, **wrong) == "transactions"


def test_a_rollup_cannot_be_hidden_nor_invented() -> None:
    absent, present = section(7), section(3)
    assert failure(present, transactions=(), valid_untils=(), proof=absent.proof) == "completeness"
    assert failure(absent, transactions=(b"x",), valid_untils=(0,)) == "transactions"
    assert failure(absent, rollup_id=3) == "completeness"
    assert failure(absent, proof=section(7, EMPTY_PAYLOAD).proof) == "completeness"


def test_a_section_without_its_commit_proof_proves_nothing() -> None:
    assert failure(section(3), commit_proof=None) == "commit"


def test_every_mutated_byte_of_a_section_is_refused() -> None:
    for rollup_id in (3, 7):
        data = section(rollup_id).to_bytes()
        for position in range(len(data)):
            mutant = bytearray(data)
            mutant[position] ^= 1
            read = Section.from_bytes(bytes(mutant))
            if isinstance(read, Section):
                with pytest.raises(VerificationError):
                    read.verify(chain())


# --- wire forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim", [receipt(), section(3), section(7), msgspec.structs.replace(section(3), commit_proof=None)]
)
def test_round_trips(claim: Receipt | Section) -> None:
    kind = type(claim)
    assert kind.from_bytes(claim.to_bytes()) == claim
    assert kind.from_json(claim.to_json()) == claim
    assert kind.from_json(json.dumps(json.loads(claim.to_json()), sort_keys=True, indent=1)) == claim


def test_json_names_its_fields_and_writes_bytes_as_hex() -> None:
    document = json.loads(section(3).to_json())
    assert document["transactions"] == ["61", "62", "63", "", "65", "66"]
    assert document["header"]["height"] == 1
    assert document["header"]["chain"] == chain().spec.hash.hex()
    assert document["proof"]["siblings"][0]["highest"] == 2**64 - 3


def without(document: dict[str, Any], *path: str, value: object = None) -> str:
    changed = json.loads(json.dumps(document))
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(changed)


def test_wrong_json_is_refused_with_the_place_named() -> None:
    document = json.loads(section(3).to_json())
    for text, reason in (
        (without(document, "header"), "the fields are"),
        (without(document, "extra", value=1), "the fields are"),
        (without(document, "header", "parent", value="zz"), "Section.header.parent: not hex"),
        (without(document, "header", "parent", value="00"), "length"),
        (without(document, "header", "parent", value=7), "Section.header.parent"),
        (without(document, "header", "height", value=-1), ">= 0"),
        (without(document, "header", "height", value="1"), "Expected `int`"),
        (without(document, "proof", "siblings", value={}), "Section.proof.siblings"),
        (without(document, "proof", value=[]), "Section.proof"),
        ("[]", "Section"),
        ("{", "truncated"),
        ("[" * 100_000, ""),
    ):
        read = Section.from_json(text)
        assert isinstance(read, Malformed), text[:200]
        assert reason in read.reason
