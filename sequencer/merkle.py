"""The two Merkle trees under a payload's root, and their proofs.

**The section tree** has one rollup's transaction ids as leaves, in order. It is RFC 6962's tree (section 2.1) with up
to four children per node instead of two: each level is cut into runs of four from the left, a run of one moves up
unchanged, a longer one becomes ``SHA-256(0x01 || children)``. Four children cost less than half the hashing of two
(benchmarks/payload.py); a path in a section of 4,000 grows from 384 to 576 bytes. The tree's shape follows from the
number of leaves, which the leaf of the tree above commits to; so a path proves the index too.

**The namespaced tree** has one leaf per section of the payload, ascending by rollup id::

    leaf   SHA-256(0x02 || rollup_id u64le || count u32le || root of the section tree)
    inner  SHA-256(0x03 || left || right),  each child as (lowest u64le || highest rollup id u64le || hash)

It is binary and has RFC 6962's shape. As in Celestia's namespaced Merkle trees (celestia-app,
``specs/src/data_structures.md``, "Namespace Merkle Tree"), a node commits to the range of namespaces below each child,
so a path shows what is *not* beside it: if no sibling's range holds a rollup id, the tree has no leaf of that rollup
but perhaps the one at the path's foot. One rule thus proves a section complete (the foot is the rollup's leaf) or
absent (the foot is another's). Unlike there, a rollup has at most one leaf, and the root is the plain 32-byte hash: the
ranges stand in its preimage. What the ranges say is true because a quorum recomputed the root from the body before it
voted.

Transaction leaves are ``SHA-256(0x00 || ...)`` (``transactions.py``); the first bytes keep all four kinds of preimage
apart.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from consensus.engine import Refusal
from consensus.types import EMPTY_PAYLOAD_ROOT, Hash
from sequencer.transactions import U64_MAX, RollupId

TRANSACTIONS_MAX: Final = 65_536
"""The most transactions of one payload."""
SECTIONS_MAX: Final = 4_096
"""The most sections of one payload: a chain spec names no more rollups."""

_ARITY: Final = 4
SECTION_PATH_MAX: Final = 8 * (_ARITY - 1)
"""4**8 leaves are TRANSACTIONS_MAX."""
NAMESPACE_PATH_MAX: Final = 12
"""2**12 leaves are SECTIONS_MAX."""

_INNER: Final = b"\x01"
_SECTION_LEAF: Final = struct.Struct("<BQI")
_SECTION_LEAF_DOMAIN: Final = 2
_RANGES: Final = struct.Struct("<BQQ32sQQ32s")
_RANGES_DOMAIN: Final = 3


class SectionLeaf(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A leaf of the namespaced tree: ``count`` transactions of ``rollup_id``, under ``root``."""

    rollup_id: RollupId
    count: Annotated[int, Meta(ge=1, le=TRANSACTIONS_MAX)]
    root: Hash


class Sibling(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A node beside the path: on its left or on its right, with the range of rollup ids below it."""

    left: bool
    lowest: RollupId
    highest: RollupId
    hash: Hash


class SectionProof(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """What a payload holds of one rollup: see :func:`verify_section_proof`. ``leaf`` is the rollup's own, or, in a
    proof of absence, the one beside which it would stand; None for the empty payload. ``siblings`` go from the leaf
    up."""

    leaf: SectionLeaf | None
    siblings: Annotated[tuple[Sibling, ...], Meta(max_length=NAMESPACE_PATH_MAX)]


class InclusionProof(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One transaction in a payload: ``siblings`` from the leaf up to the section's root, left to right in each run;
    then the section's own proof."""

    index: Annotated[int, Meta(ge=0, lt=TRANSACTIONS_MAX)]
    siblings: Annotated[tuple[Hash, ...], Meta(max_length=SECTION_PATH_MAX)]
    section: SectionProof


class SectionTree:
    """The tree over one section's transaction ids, at least one."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        levels: list[Sequence[bytes]] = [leaves]
        level = leaves
        while len(level) > 1:
            level = _level_above(level)
            levels.append(level)
        self._levels = levels

    @property
    def root(self) -> bytes:
        """32 bytes; with a single leaf, the leaf."""
        return self._levels[-1][0]

    def path(self, index: int) -> tuple[bytes, ...]:
        """The siblings of leaf ``index``, from the leaf up."""
        siblings: list[bytes] = []
        for level in self._levels[:-1]:
            first = index - index % _ARITY
            siblings += [level[i] for i in range(first, min(first + _ARITY, len(level))) if i != index]
            index //= _ARITY
        return tuple(siblings)


def _level_above(level: Sequence[bytes]) -> list[bytes]:
    joined = b"".join(level)
    span = _ARITY * 32
    above = [sha256(_INNER + joined[start : start + span]).digest() for start in range(0, len(joined), span)]
    if len(level) % _ARITY == 1:
        above[-1] = level[-1]
    return above


def section_root_from(leaf: bytes, index: int, count: int, siblings: Sequence[bytes]) -> bytes | None:
    """The root of the section of ``count`` leaves in which ``leaf`` stands at ``index``; None when ``siblings`` is not
    a path of that tree."""
    if not 0 <= index < count:
        return None
    node, used = leaf, 0
    while count > 1:
        offset = index % _ARITY
        width = min(_ARITY, count - (index - offset))
        if width > 1:
            run = list(siblings[used : used + width - 1])
            if len(run) != width - 1:
                return None
            run.insert(offset, node)
            node = sha256(_INNER + b"".join(run)).digest()
            used += width - 1
        index //= _ARITY
        count = -(-count // _ARITY)
    return node if used == len(siblings) else None


# --- the namespaced tree ---------------------------------------------------------------------------------------


class _Node(NamedTuple):
    lowest: int
    highest: int
    hash: bytes


class NamespacedTree:
    """The tree over a payload's sections: distinct rollups, ascending."""

    __slots__ = ("_leaves", "_levels")

    def __init__(self, leaves: Sequence[SectionLeaf]) -> None:
        self._leaves = leaves
        level = [_leaf_node(leaf) for leaf in leaves]
        levels = [level]
        while len(level) > 1:
            above = [_join(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            if len(level) % 2:
                above.append(level[-1])
            levels.append(above)
            level = above
        self._levels = levels

    @property
    def root(self) -> bytes:
        """32 bytes; :data:`EMPTY_PAYLOAD_ROOT` without sections."""
        top = self._levels[-1]
        return top[0].hash if top else EMPTY_PAYLOAD_ROOT

    def proof(self, rollup_id: int) -> SectionProof:
        """That the rollup's section is complete, or that it has none."""
        if not self._leaves:
            return SectionProof(leaf=None, siblings=())
        # Its own leaf, or the first beyond it, or the last: of these no sibling's range holds the id.
        index = next((i for i, leaf in enumerate(self._leaves) if leaf.rollup_id >= rollup_id), len(self._leaves) - 1)
        leaf = self._leaves[index]
        siblings = []
        for level in self._levels[:-1]:
            beside = index ^ 1
            if beside < len(level):
                node = level[beside]
                siblings.append(Sibling(left=beside < index, lowest=node.lowest, highest=node.highest, hash=node.hash))
            index //= 2
        return SectionProof(leaf=leaf, siblings=tuple(siblings))


def verify_section_proof(proof: SectionProof, rollup_id: int, payload_root: bytes) -> Refusal | None:
    """None when ``proof`` shows what the payload under ``payload_root`` holds of ``rollup_id``: everything under
    ``proof.leaf`` when that is the rollup's, else nothing at all. The reason otherwise; raises nothing."""
    if proof.leaf is None:
        if proof.siblings or payload_root != EMPTY_PAYLOAD_ROOT:
            return Refusal("a proof without a leaf fits the empty payload only")
        return None
    if not 0 <= proof.leaf.rollup_id <= U64_MAX or not 0 < proof.leaf.count <= TRANSACTIONS_MAX:
        return Refusal("the leaf's numbers are out of range")
    node = _leaf_node(proof.leaf)
    for sibling in proof.siblings:
        beside = _Node(sibling.lowest, sibling.highest, sibling.hash)
        if not 0 <= beside.lowest <= beside.highest <= U64_MAX:
            return Refusal("a sibling's range of rollup ids is not a range")
        if beside.lowest <= rollup_id <= beside.highest:
            return Refusal(f"a sibling's range may hold another part of rollup {rollup_id}")
        node = _join(beside, node) if sibling.left else _join(node, beside)
    if node.hash != payload_root:
        return Refusal("the path does not lead to the payload's root")
    return None


def verify_inclusion(
    proof: InclusionProof, transaction_id: bytes, rollup_id: int, payload_root: bytes
) -> Refusal | None:
    """None when the transaction is the ``proof.index``-th of ``rollup_id`` under ``payload_root``. The reason
    otherwise; raises nothing."""
    refusal = verify_section_proof(proof.section, rollup_id, payload_root)
    if refusal is not None:
        return refusal
    leaf = proof.section.leaf
    if leaf is None or leaf.rollup_id != rollup_id:
        return Refusal(f"the payload holds nothing of rollup {rollup_id}")
    if section_root_from(transaction_id, proof.index, leaf.count, proof.siblings) != leaf.root:
        return Refusal("the path does not lead to the section's root")
    return None


def _leaf_node(leaf: SectionLeaf) -> _Node:
    prefix = _SECTION_LEAF.pack(_SECTION_LEAF_DOMAIN, leaf.rollup_id, leaf.count)
    return _Node(leaf.rollup_id, leaf.rollup_id, sha256(prefix + leaf.root).digest())


def _join(left: _Node, right: _Node) -> _Node:
    packed = _RANGES.pack(_RANGES_DOMAIN, left.lowest, left.highest, left.hash, right.lowest, right.highest, right.hash)
    return _Node(left.lowest, right.highest, sha256(packed).digest())
