"""Section and namespaced trees: shape against RFC 6962's recursion, proofs honest, missing and mutated."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import Canonical, Malformed, encode
from consensus.engine import Refusal
from consensus.types import EMPTY_PAYLOAD_ROOT
from sequencer.merkle import (
    InclusionProof,
    NamespacedTree,
    SectionLeaf,
    SectionProof,
    SectionTree,
    section_root_from,
    verify_inclusion,
    verify_section_proof,
)

inclusion_proofs = Canonical(InclusionProof)


def leaves(count: int) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(b"leaf %d" % i).digest() for i in range(count))


def root_by_recursion(hashes: Sequence[bytes]) -> bytes:
    """RFC 6962's definition from the top, with four children: each but the last is as large a full subtree as fits."""
    if len(hashes) == 1:
        return hashes[0]
    width = 1
    while width * 4 < len(hashes):
        width *= 4
    children = [root_by_recursion(hashes[i : i + width]) for i in range(0, len(hashes), width)]
    return hashlib.sha256(b"\x01" + b"".join(children)).digest()


def section_leaf(rollup_id: int, count: int = 1) -> SectionLeaf:
    return SectionLeaf(rollup_id=rollup_id, count=count, root=SectionTree(leaves(count)).root)


def namespaced_root_by_recursion(sections: Sequence[SectionLeaf]) -> tuple[int, int, bytes]:
    """RFC 6962's definition from the top: the left subtree is the largest power of two below the whole."""
    if len(sections) == 1:
        leaf = sections[0]
        preimage = b"\x02" + struct.pack("<QI", leaf.rollup_id, leaf.count) + leaf.root
        return leaf.rollup_id, leaf.rollup_id, hashlib.sha256(preimage).digest()
    split = 1 << ((len(sections) - 1).bit_length() - 1)
    left, right = namespaced_root_by_recursion(sections[:split]), namespaced_root_by_recursion(sections[split:])
    packed = b"".join(struct.pack("<QQ", node[0], node[1]) + node[2] for node in (left, right))
    return left[0], right[1], hashlib.sha256(b"\x03" + packed).digest()


@given(count=st.integers(1, 300))
def test_section_root_has_the_recursive_shape(count: int) -> None:
    assert SectionTree(leaves(count)).root == root_by_recursion(leaves(count))


@given(count=st.integers(1, 300), data=st.data())
def test_a_path_proves_its_leaf_at_its_index_only(count: int, data: st.DataObject) -> None:
    tree = SectionTree(leaves(count))
    index = data.draw(st.integers(0, count - 1))
    leaf = leaves(count)[index]
    path = tree.path(index)
    assert section_root_from(leaf, index, count, path) == tree.root
    other = data.draw(st.integers(-2, count + 2))
    if other != index:
        assert section_root_from(leaf, other, count, path) != tree.root
    assert section_root_from(leaf, index, count, (*path, leaf)) is None
    assert path == () or section_root_from(leaf, index, count, path[:-1]) is None
    assert section_root_from(hashlib.sha256(leaf).digest(), index, count, path) != tree.root


rollup_sets = st.sets(st.integers(0, 40) | st.just(2**64 - 1), max_size=20).map(sorted)


@given(rollups=rollup_sets)
def test_namespaced_root_has_the_recursive_shape(rollups: list[int]) -> None:
    sections = [section_leaf(rollup_id) for rollup_id in rollups]
    expected = namespaced_root_by_recursion(sections)[2] if sections else EMPTY_PAYLOAD_ROOT
    assert NamespacedTree(sections).root == expected


@given(rollups=rollup_sets, wanted=st.integers(0, 41) | st.just(2**64 - 1))
def test_every_rollup_is_proven_complete_or_absent(rollups: list[int], wanted: int) -> None:
    tree = NamespacedTree([section_leaf(rollup_id) for rollup_id in rollups])
    proof = tree.proof(wanted)
    assert verify_section_proof(proof, wanted, tree.root) is None
    assert (proof.leaf is not None and proof.leaf.rollup_id == wanted) == (wanted in rollups)


@given(rollups=rollup_sets.filter(bool), data=st.data())
def test_no_proof_hides_a_rollup(rollups: list[int], data: st.DataObject) -> None:
    """The path of any *other* leaf, or of none, is refused for a rollup that the tree holds."""
    tree = NamespacedTree([section_leaf(rollup_id) for rollup_id in rollups])
    wanted, shown = data.draw(st.sampled_from(rollups)), data.draw(st.sampled_from(rollups))
    proof = tree.proof(shown)
    assert (verify_section_proof(proof, wanted, tree.root) is None) == (wanted == shown)
    assert verify_section_proof(SectionProof(leaf=None, siblings=()), wanted, tree.root) is not None


@given(rollups=rollup_sets.filter(lambda rollups: len(rollups) > 1), data=st.data())
def test_a_sibling_cannot_shrink_its_range(rollups: list[int], data: st.DataObject) -> None:
    """To hide a rollup, a liar would narrow the range of the sibling that holds it. The parent's hash covers it."""
    tree = NamespacedTree([section_leaf(rollup_id) for rollup_id in rollups])
    hidden, shown = data.draw(st.sampled_from(rollups)), data.draw(st.sampled_from(rollups))
    honest = tree.proof(shown)
    narrowed = [
        msgspec.structs.replace(sibling, lowest=hidden + 1)
        if sibling.lowest <= hidden < sibling.highest
        else msgspec.structs.replace(sibling, highest=hidden - 1)
        if sibling.lowest < hidden <= sibling.highest
        else sibling
        for sibling in honest.siblings
    ]
    if narrowed != list(honest.siblings):
        proof = SectionProof(leaf=honest.leaf, siblings=tuple(narrowed))
        assert isinstance(verify_section_proof(proof, hidden, tree.root), Refusal)


def test_the_empty_payload_holds_nothing() -> None:
    proof = NamespacedTree([]).proof(5)
    assert verify_section_proof(proof, 5, EMPTY_PAYLOAD_ROOT) is None
    assert verify_section_proof(proof, 5, bytes(31) + b"\x01") is not None


def honest_inclusion() -> tuple[InclusionProof, bytes, bytes]:
    section = SectionTree(leaves(21))
    tree = NamespacedTree(
        [section_leaf(2), SectionLeaf(rollup_id=5, count=21, root=section.root), section_leaf(9, 3), section_leaf(11)]
    )
    return InclusionProof(index=13, siblings=section.path(13), section=tree.proof(5)), leaves(21)[13], tree.root


def test_inclusion() -> None:
    proof, leaf, root = honest_inclusion()
    assert verify_inclusion(proof, leaf, 5, root) is None
    assert verify_inclusion(proof, leaves(21)[12], 5, root) is not None
    assert verify_inclusion(proof, leaf, 6, root) is not None
    assert verify_inclusion(proof, leaf, 9, root) is not None
    assert verify_inclusion(proof, leaf, 5, bytes(32)) is not None
    assert verify_inclusion(msgspec.structs.replace(proof, index=12), leaf, 5, root) is not None


def test_a_proof_of_absence_includes_nothing() -> None:
    section = SectionTree(leaves(21))
    tree = NamespacedTree([section_leaf(2), SectionLeaf(rollup_id=5, count=21, root=section.root)])
    proof = InclusionProof(index=13, siblings=section.path(13), section=tree.proof(4))
    assert verify_section_proof(proof.section, 4, tree.root) is None
    assert verify_inclusion(proof, leaves(21)[13], 4, tree.root) is not None


def test_every_byte_of_an_inclusion_proof_counts() -> None:
    proof, leaf, root = honest_inclusion()
    data = encode(proof)
    for position in range(len(data)):
        for bit in range(8):
            mutant = bytearray(data)
            mutant[position] ^= 1 << bit
            decoded = inclusion_proofs.decode(bytes(mutant))
            assert isinstance(decoded, Malformed) or verify_inclusion(decoded, leaf, 5, root) is not None


def test_numbers_out_of_range_are_refused_not_raised() -> None:
    proof, leaf, root = honest_inclusion()
    section = proof.section
    assert section.leaf is not None
    for bad in (-1, 2**64):
        wild = msgspec.structs.replace(section, leaf=msgspec.structs.replace(section.leaf, rollup_id=bad))
        assert verify_section_proof(wild, bad, root) is not None
        siblings = tuple(msgspec.structs.replace(sibling, highest=bad) for sibling in section.siblings)
        assert verify_section_proof(msgspec.structs.replace(section, siblings=siblings), 5, root) is not None
        for index in (bad, 21):
            assert verify_inclusion(msgspec.structs.replace(proof, index=index), leaf, 5, root) is not None
