"""The layout of a body: round trips, one form only, and every mutation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given

from consensus.codec import Malformed, encode
from consensus.finality.overlay import CERTIFICATES_PER_BLOCK_MAX
from consensus.finality.types import Checkpoint, LinkCertificate, LinkGroup
from consensus.genesis import LINKS_ROLLUP, SYSTEM_ROLLUP
from consensus.types import BODY_SIZE_MAX, EMPTY_PAYLOAD_ROOT
from sequencer.body import (
    BODY_OVERHEAD_BYTES_MAX,
    EMPTY_PAYLOAD,
    SECTION_OVERHEAD_BYTES_MAX,
    TRANSACTION_OVERHEAD_BYTES_MAX,
    Payload,
    PayloadCache,
    SectionBody,
    assemble_payload,
    certificates_size_bytes,
    decode_payload,
)
from sequencer.merkle import TRANSACTIONS_MAX, NamespacedTree, verify_section_proof
from sequencer.transactions import transaction_id
from tests.sequencer.chains import Batch, payload, sections_of_transactions


def decoded(body: bytes | memoryview) -> Payload:
    result = decode_payload(body)
    assert isinstance(result, Payload), result
    return result


def contents(carried: Payload) -> dict[int, list[tuple[int, bytes]]]:
    return {
        section.rollup_id: list(zip(section.valid_untils, section.transactions, strict=True))
        for section in carried.sections
    }


@given(sections=sections_of_transactions())
def test_round_trip(sections: dict[int, Batch]) -> None:
    built = payload(sections)
    again = decoded(memoryview(built.body))
    assert again.body == built.body
    assert again.root == built.root
    assert again.positions == built.positions
    assert contents(again) == sections
    number = 0
    for rollup_id, batch in sorted(sections.items()):
        for index, (valid_until, data) in enumerate(batch):
            identifier = transaction_id(rollup_id, valid_until, data)
            assert again.positions[identifier] == number
            located = again.locate(identifier)
            assert located is not None
            assert (located[0].rollup_id, located[1]) == (rollup_id, index)
            number += 1


@given(sections=sections_of_transactions())
def test_the_stated_overheads_are_upper_bounds(sections: dict[int, Batch]) -> None:
    batches = sections.values()
    bound = BODY_OVERHEAD_BYTES_MAX + SECTION_OVERHEAD_BYTES_MAX * len(sections)
    bound += sum(TRANSACTION_OVERHEAD_BYTES_MAX + len(data) for batch in batches for _, data in batch)
    assert len(payload(sections).body) <= bound


def test_the_empty_payload_is_no_bytes() -> None:
    assert decoded(b"") is EMPTY_PAYLOAD
    assert payload({}) is EMPTY_PAYLOAD
    assert EMPTY_PAYLOAD.root == EMPTY_PAYLOAD_ROOT
    assert isinstance(decode_payload(msgspec.msgpack.encode([])), Malformed)


def test_every_mutated_bit_is_refused_or_changes_the_root() -> None:
    honest = payload({3: [(0, b"one"), (9, b"two"), (300, b"x" * 300)], 7: [(0, b""), (1, b"\x00")]})
    for position in range(len(honest.body)):
        for bit in range(8):
            mutant = bytearray(honest.body)
            mutant[position] ^= 1 << bit
            result = decode_payload(bytes(mutant))
            assert isinstance(result, Malformed) or result.root != honest.root


@given(sections=sections_of_transactions())
def test_cut_or_extended_bodies_are_refused(sections: dict[int, Batch]) -> None:
    body = payload(sections).body
    for cut in range(1, len(body)):
        assert isinstance(decode_payload(body[:cut]), Malformed)
    if body:
        assert isinstance(decode_payload(body + b"\x00"), Malformed)


REFUSED = {
    "not canonical": b"\x91\x93\xcc\x03\x91\x00\x91\xc4\x01a",
    "not ascending": [[7, [0], [b"a"]], [3, [0], [b"b"]]],
    "not ascending: twice": [[7, [0], [b"a"]], [7, [0], [b"b"]]],
    "not one expiry for each transaction": [[7, [0, 0], [b"a"]]],
    "length >= 1": [[7, [], []]],
    "twice": [[7, [5, 5], [b"a", b"a"]]],
    "Expected `bytes`": [[7, [0], ["a"]]],
    ">= 0": [[7, [-1], [b"a"]]],
    "<= 9223372036854775807": [[7, [2**63], [b"a"]]],
    "of at most length 3": [[7, [0], [b"a"], 1]],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused(reason: str) -> None:
    body = REFUSED[reason]
    result = decode_payload(body if isinstance(body, bytes) else msgspec.msgpack.encode(body))
    assert isinstance(result, Malformed)
    assert reason.partition(":")[0] in result.reason


def link(source: int, target: int, signature: bytes = b"s") -> LinkCertificate:
    """A certificate that nobody signed."""
    ends = [Checkpoint(height=height, id=bytes([height]) * 32) for height in (source, target)]
    group = LinkGroup(epoch=0, signers=b"\x07", signature=signature)
    return LinkCertificate(source=ends[0], target=ends[1], groups=(group,))


LINKS = (link(0, 4), link(4, 8))


def with_links(sections: dict[int, Batch], certificates: Sequence[LinkCertificate]) -> Payload:
    honest = payload(sections)
    chosen = [(SectionBody(part.rollup_id, part.valid_untils, part.transactions), part.ids) for part in honest.sections]
    return assemble_payload(chosen, certificates)


@given(sections=sections_of_transactions(rollups=(3, 7, SYSTEM_ROLLUP)))
def test_link_certificates_are_under_the_root_and_no_transactions(sections: dict[int, Batch]) -> None:
    plain, built = payload(sections), with_links(sections, LINKS)
    again = decoded(built.body)
    assert (again.body, again.root, again.certificates) == (built.body, built.root, LINKS)
    assert (again.positions, contents(again)) == (plain.positions, contents(plain))
    assert again.root != plain.root
    assert again.section(LINKS_ROLLUP) is None
    assert [leaf.rollup_id for leaf in again.leaves] == sorted([*sections, LINKS_ROLLUP])
    assert NamespacedTree(again.leaves).root == again.root
    for rollup_id in (3, 5, 7):
        assert verify_section_proof(again.tree.proof(rollup_id), rollup_id, again.root) is None
    assert len(built.body) <= len(plain.body) + certificates_size_bytes(LINKS)


def test_a_payload_of_link_certificates_alone() -> None:
    built = with_links({}, LINKS[:1])
    assert built.body.hex() == (  # what nodes agree on: see test_wire_vectors.py for what a change means
        "9193cffffffffffffffffe910091c452939200c420" + "00" * 32 + "9204c420" + "04" * 32 + "919300c40107c40173"
    )
    assert built.root.hex() == "d39733a05a36717d2f87414a732bad9c4e87e225a670087d0bc32ca4db8b34fc"
    assert decoded(built.body).root == built.root != EMPTY_PAYLOAD_ROOT
    assert with_links({}, ()) is EMPTY_PAYLOAD


def test_every_mutated_bit_of_link_certificates_is_refused_or_changes_the_root() -> None:
    honest = with_links({3: [(0, b"one")]}, LINKS)
    for position in range(len(honest.body)):
        for bit in range(8):
            mutant = bytearray(honest.body)
            mutant[position] ^= 1 << bit
            result = decode_payload(bytes(mutant))
            assert isinstance(result, Malformed) or result.root != honest.root


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([encode(LINKS[1]), encode(LINKS[0])], "do not ascend"),
        ([encode(LINKS[0]), encode(link(0, 4, b"t"))], "do not ascend"),
        ([encode(link(4 * n, 4 * n + 4)) for n in range(CERTIFICATES_PER_BLOCK_MAX + 1)], "exceed 4"),
        ([encode(LINKS[0]) + b"\x00"], "a link certificate: "),
        ([b""], "a link certificate: "),
        ([b"\x93\xcc\x00" + encode(LINKS[0])[2:]], "a link certificate: "),
    ],
)
def test_link_certificates_that_are_refused(parts: list[bytes], reason: str) -> None:
    result = decode_payload(msgspec.msgpack.encode([[LINKS_ROLLUP, [0] * len(parts), parts]]))
    assert isinstance(result, Malformed)
    assert reason in result.reason


def test_a_link_certificate_has_no_expiry() -> None:
    result = decode_payload(msgspec.msgpack.encode([[LINKS_ROLLUP, [9], [encode(LINKS[0])]]]))
    assert isinstance(result, Malformed)
    assert "has an expiry" in result.reason


def test_the_same_data_with_another_expiry_is_another_transaction() -> None:
    assert len(decoded(msgspec.msgpack.encode([[7, [0, 5], [b"a", b"a"]]])).positions) == 2


def test_hard_caps() -> None:
    assert isinstance(decode_payload(bytes(BODY_SIZE_MAX + 1)), Malformed)
    half = TRANSACTIONS_MAX // 2

    def sections(*counts: int) -> bytes:
        return msgspec.msgpack.encode(
            [[r, [0] * n, [i.to_bytes(3, "big") for i in range(n)]] for r, n in enumerate(counts)]
        )

    assert len(decoded(sections(half, half)).positions) == TRANSACTIONS_MAX
    result = decode_payload(sections(half, half + 1))
    assert isinstance(result, Malformed)
    assert f"exceed {TRANSACTIONS_MAX}" in result.reason


def test_the_cache_answers_for_the_same_bytes_only() -> None:
    cache = PayloadCache()
    honest, other = payload({3: [(0, b"a")]}), payload({3: [(0, b"b")]})
    first = cache.decode(honest.root, memoryview(honest.body))
    assert cache.decode(honest.root, honest.body) is first
    lie = cache.decode(honest.root, other.body)
    assert isinstance(lie, Payload)
    assert lie.root == other.root
    assert isinstance(cache.decode(honest.root, b"\x00"), Malformed)


def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago() -> None:
    carried = [payload({3: [(0, bytes([i]) * 500)]}) for i in range(4)]
    cache = PayloadCache(bytes_max=3 * carried[0].memory_bytes)
    for each in carried[:3]:
        cache.add(each)
    assert cache.decode(carried[0].root, carried[0].body) is carried[0]
    cache.add(carried[3])
    assert cache.decode(carried[1].root, carried[1].body) is not carried[1]
    later = [payload({3: [(0, bytes([i]) * 500)]}) for i in range(10, 20)]
    for each in later:
        cache.add(each)
    assert all(cache.decode(each.root, each.body) is each for each in later[-3:])
    large = payload({3: [(0, bytes(5000))]})
    cache.add(large)
    assert cache.decode(large.root, large.body) is large
    assert cache.decode(carried[0].root, carried[0].body) is not carried[0]
