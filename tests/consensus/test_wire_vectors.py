"""Frozen bytes: what is hashed, signed or sent must not change by accident.

After a deliberate change, write the new vectors with ``python -m tests.consensus.test_wire_vectors`` and say in a
newsfragment that chains made before cannot be continued.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from consensus.codec import WIRE_VERSION, block_of, encode
from consensus.protocols import simplex_state, simplex_types, streamlet_types, tendermint_state, tendermint_types
from consensus.protocols.chained_state import SafetyState
from consensus.protocols.chained_types import (
    Certificates,
    OrderVote,
    Proposal,
    Timeout,
    TimeoutCertificate,
    TimeoutGroup,
    TimeoutSubject,
)
from consensus.protocols.registry import protocol_named, protocol_names
from consensus.types import (
    NIL_BLOCK,
    AncestorsRequest,
    AncestorsResponse,
    BlockHeader,
    Certificate,
    CommitProof,
    EpochEnd,
    ProposalSubject,
    RangeRequest,
    RangeResponse,
    StoredBlock,
    Subject,
    Vote,
    VoteSubject,
)
from tests.support.committee import committee

FILE = Path(__file__).parent / "wire_vectors.json"


def filled(byte: int, size: int = 32) -> bytes:
    return bytes((byte,)) * size


CERTIFICATE = Certificate(
    kind="vote",
    epoch=0,
    view=300,
    block_id=filled(1),
    height=70_000,
    justify_view=299,
    signers=b"\x0b",
    signature=filled(2, 192),
)
TIMEOUT_CERTIFICATE = TimeoutCertificate(
    epoch=0,
    view=301,
    high_qc=CERTIFICATE,
    groups=(
        TimeoutGroup(high_qc_view=7, signers=b"\x01", signature=filled(3, 64)),
        TimeoutGroup(high_qc_view=300, signers=b"\x06", signature=filled(4, 128)),
    ),
)
HEADER = BlockHeader(
    chain=filled(5),
    epoch=0,
    view=302,
    height=70_001,
    parent=filled(1),
    justify=CERTIFICATE,
    entry_proof_hash=filled(6),
    payload_root=filled(7),
    payload_size=5,
    next_validators_hash=b"",
    timestamp_ms=2**41,
    proposer=1,
)
STORED = StoredBlock(header=HEADER, body=memoryview(b"bytes"))
PROOF = CommitProof(epoch=0, headers=(HEADER,), certificate=CERTIFICATE)
CONFIRMED = msgspec.structs.replace(PROOF, confirmation=msgspec.structs.replace(CERTIFICATE, kind="order"))
VOTE_SUBJECT = VoteSubject(kind="vote", epoch=0, view=300, block_id=filled(1), height=70_000, justify_view=299)
MESSAGES: tuple[msgspec.Struct, ...] = (
    Proposal(epoch=0, header=HEADER, body=STORED.body, entry_proof=TIMEOUT_CERTIFICATE, signature=filled(8, 64)),
    Vote(
        kind="vote",
        epoch=0,
        view=300,
        block_id=filled(1),
        height=70_000,
        justify_view=299,
        signer=3,
        signature=filled(9, 96),
    ),
    Timeout(
        epoch=0,
        view=302,
        high_qc=CERTIFICATE,
        entry_proof=TIMEOUT_CERTIFICATE,
        signer=2,
        signature=filled(10, 64),
    ),
    Certificates(epoch=0, high_qc=CERTIFICATE, high_tc=None),
    OrderVote(epoch=0, qc=CERTIFICATE, signer=2, signature=filled(11, 64)),
    AncestorsRequest(epoch=0, request_id=1, block_id=filled(1), above_height=2),
    AncestorsResponse(epoch=0, request_id=1, blocks=(STORED,)),
    RangeRequest(epoch=0, request_id=2, from_height=3),
    RangeResponse(epoch=0, request_id=2, blocks=(STORED,), proof=PROOF, pruned_below=1, head=70_001),
    EpochEnd(epoch=0, boundary=HEADER, proof=PROOF),
)
_NIL = msgspec.structs.replace(CERTIFICATE, kind="nullify", block_id=NIL_BLOCK, height=0, justify_view=0)
_PREVOTES = msgspec.structs.replace(CERTIFICATE, kind="prevote")
_OTHER_VOTE = MESSAGES[1]
assert isinstance(_OTHER_VOTE, Vote)
OTHERS: dict[str, tuple[msgspec.Struct, ...]] = {
    "simplex": (
        simplex_types.Proposal(
            epoch=0, header=HEADER, body=STORED.body, entry_proof=_NIL, signature=filled(12, 64)
        ),
        simplex_types.Certificates(epoch=0, certificates=(CERTIFICATE, _NIL)),
        simplex_types.CertificatesRequest(epoch=0, views=(7, 300)),
    ),
    "streamlet": (
        streamlet_types.Proposal(epoch=0, header=HEADER, body=STORED.body, signature=filled(13, 64)),
        streamlet_types.Clock(epoch=0, view=301),
        streamlet_types.Certificates(epoch=0, longest=CERTIFICATE),
    ),
    "tendermint": (
        tendermint_types.Proposal(
            epoch=0, view=tendermint_types.view_at(70_001, 2), header=HEADER, body=STORED.body, polka=_PREVOTES,
            proposer=2, signature=filled(14, 64),
        ),
        tendermint_types.Standing(epoch=0, commit=CERTIFICATE, polka=None, votes=(_OTHER_VOTE,)),
    ),
}  # fmt: skip
"""Messages of a protocol's own."""
STATES: dict[str, msgspec.Struct] = {
    "jolteon": SafetyState(last_voted_view=300, lock=CERTIFICATE, high_qc=CERTIFICATE, high_tc=TIMEOUT_CERTIFICATE),
    "simplex": simplex_state.SafetyState(
        high_qc=CERTIFICATE, nullifications=(_NIL,), let_go_from=3, let_go_to=299
    ),
    "streamlet": streamlet_types.SafetyState(last_voted_view=300, last_voted_height=70_000, longest=CERTIFICATE),
    "tendermint": tendermint_state.SafetyState(
        view=tendermint_types.view_at(70_001, 2), step=tendermint_state.PRECOMMITTED, locked_view=300,
        valid=_PREVOTES, entry=(_OTHER_VOTE,),
    ),
}  # fmt: skip
"""What a journal keeps of each family."""
SUBJECTS: tuple[Subject, ...] = (
    ProposalSubject(epoch=0, view=302, block_id=filled(1)),
    VOTE_SUBJECT,
    msgspec.structs.replace(VOTE_SUBJECT, kind="order"),
    TimeoutSubject(epoch=0, view=302, high_qc_view=300),
    TimeoutSubject(epoch=0, view=302, high_qc_view=None),
)


def vectors() -> dict[str, str]:
    """Hex of every kind of message, record and signed subject, and the hashes of a chain."""
    members = committee(4, scheme="ed25519")
    wire = protocol_named(members.spec.protocol).wire()
    result = {type(message).__name__: wire.encode(message).hex() for message in MESSAGES}
    result |= {
        "block id": block_of(HEADER).id.hex(),
        "commit proof": encode(PROOF).hex(),
        "commit proof with a confirmation": encode(CONFIRMED).hex(),
        "genesis hash": members.spec.hash.hex(),
        "validator set hash": members.epoch.validators.hash.hex(),
        "genesis certificate": encode(members.epoch.genesis).hex(),
    }
    result |= {f"safety state of {name}": encode(state).hex() for name, state in STATES.items()}
    for name, messages in OTHERS.items():
        wire = protocol_named(name).wire()
        result |= {f"{type(message).__name__} of {name}": wire.encode(message).hex() for message in messages}
    for subject in SUBJECTS:
        result[f"signed {subject!r}"[:60]] = members.epoch.domain.bytes_to_sign(subject).hex()
    return result


def test_the_wire_has_not_changed() -> None:
    assert vectors() == json.loads(FILE.read_text())


def test_every_message_and_subject_of_every_protocol_has_a_vector() -> None:
    others = [message for messages in OTHERS.values() for message in messages]
    covered = {type(message) for message in (*MESSAGES, *others)} | {type(subject) for subject in SUBJECTS}
    for name in protocol_names():
        definition = protocol_named(name)
        assert {*definition.messages, *definition.subjects} <= covered


def test_frames_begin_with_the_wire_version() -> None:
    assert WIRE_VERSION == 1
    assert all(vectors()[type(message).__name__].startswith("01") for message in MESSAGES)


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=2, sort_keys=True) + "\n")
