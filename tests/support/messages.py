"""Hypothesis strategies for every message and signed subject of the wire."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from consensus.protocols.chained_types import (
    Certificates,
    Proposal,
    Timeout,
    TimeoutCertificate,
    TimeoutGroup,
    TimeoutSubject,
)
from consensus.types import (
    INTEGER_MAX,
    VALIDATORS_MAX,
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
    Vote,
    VoteSubject,
)

integers = st.integers(0, INTEGER_MAX)
hashes = st.binary(min_size=32, max_size=32)
optional_hashes = st.just(b"") | hashes
signatures = st.binary(max_size=96)
indices = st.integers(0, VALIDATORS_MAX - 1)
kinds = st.text(max_size=64)
bodies: st.SearchStrategy[memoryview] = st.binary(max_size=200).map(lambda body: memoryview(body))

certificates = st.builds(
    Certificate,
    kind=kinds,
    epoch=integers,
    view=integers,
    block_id=hashes,
    height=integers,
    justify_view=integers,
    signers=st.binary(max_size=128),
    signature=st.binary(max_size=300),
)
headers = st.builds(
    BlockHeader,
    chain=hashes,
    epoch=integers,
    view=integers,
    height=integers,
    parent=hashes,
    justify=certificates,
    entry_proof_hash=optional_hashes,
    payload_root=hashes,
    payload_size=integers,
    next_validators_hash=optional_hashes,
    timestamp_ms=integers,
    proposer=indices,
)
groups = st.builds(
    TimeoutGroup, high_qc_view=st.none() | integers, signers=st.binary(max_size=128), signature=st.binary(max_size=300)
)
timeout_certificates = st.builds(
    TimeoutCertificate,
    epoch=integers,
    view=integers,
    high_qc=certificates,
    groups=st.lists(groups, min_size=1, max_size=3).map(tuple),
)
stored_blocks = st.builds(StoredBlock, header=headers, body=bodies)
commit_proofs = st.builds(
    CommitProof, epoch=integers, headers=st.lists(headers, max_size=3).map(tuple), certificate=certificates
)
messages: st.SearchStrategy[msgspec.Struct] = st.one_of(
    st.builds(
        Proposal,
        epoch=integers,
        header=headers,
        body=bodies,
        entry_proof=st.none() | timeout_certificates,
        signature=signatures,
    ),
    st.builds(
        Vote,
        kind=kinds,
        epoch=integers,
        view=integers,
        block_id=hashes,
        height=integers,
        justify_view=integers,
        signer=indices,
        signature=signatures,
    ),
    st.builds(
        Timeout,
        epoch=integers,
        view=integers,
        high_qc=certificates,
        entry_proof=st.none() | timeout_certificates,
        signer=indices,
        signature=signatures,
    ),
    st.builds(Certificates, epoch=integers, high_qc=certificates, high_tc=st.none() | timeout_certificates),
    st.builds(AncestorsRequest, epoch=integers, request_id=integers, block_id=hashes, above_height=integers),
    st.builds(
        AncestorsResponse, epoch=integers, request_id=integers, blocks=st.lists(stored_blocks, max_size=3).map(tuple)
    ),
    st.builds(RangeRequest, epoch=integers, request_id=integers, from_height=integers),
    st.builds(
        RangeResponse,
        epoch=integers,
        request_id=integers,
        blocks=st.lists(stored_blocks, max_size=3).map(tuple),
        proof=st.none() | commit_proofs,
        pruned_below=integers,
        head=integers,
    ),
    st.builds(EpochEnd, epoch=integers, boundary=headers, proof=commit_proofs),
)
subjects: st.SearchStrategy[msgspec.Struct] = st.one_of(
    st.builds(ProposalSubject, epoch=integers, view=integers, block_id=hashes),
    st.builds(
        VoteSubject, kind=kinds, epoch=integers, view=integers, block_id=hashes, height=integers, justify_view=integers
    ),
    st.builds(TimeoutSubject, epoch=integers, view=integers, high_qc_view=st.none() | integers),
)
