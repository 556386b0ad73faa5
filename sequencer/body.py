"""The layout of a payload's body, and what it says: a pure function from bytes to sections.

A body is one canonical MessagePack value: the array of its sections, each ``[rollup_id, [valid_until...],
[transaction...]]``, ascending by rollup id, none of them empty. (Columns, not pairs: 1 byte less per transaction and no
tuple around it. Packed integers with one blob were measured as well: slicing the blob costs more than decoding.) The
empty payload is no bytes at all.

Link certificates of finality (``consensus/finality``) stand in a section of their own, under the reserved id
``LINKS_ROLLUP``: at most ``CERTIFICATES_PER_BLOCK_MAX``, in the order of their links, each canonical bytes in the place
of a transaction without expiry. They are the chain's own: no transactions, with no ids and no positions.

The payload's root is that of the namespaced tree over the sections (``merkle.py``). It commits to every rollup id,
expiry and transaction, and the layout is canonical, so one root has one body.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from consensus.codec import Malformed, encode
from consensus.finality.overlay import CERTIFICATES_PER_BLOCK_MAX
from consensus.finality.types import LinkCertificate, link_certificates
from consensus.genesis import LINKS_ROLLUP
from consensus.types import BODY_SIZE_MAX, EMPTY_PAYLOAD_ROOT, Block, Integer
from sequencer.merkle import SECTIONS_MAX, TRANSACTIONS_MAX, NamespacedTree, SectionLeaf, SectionTree
from sequencer.transactions import RollupId, TransactionId, transaction_ids

TRANSACTION_OVERHEAD_BYTES_MAX: Final = 14
"""What a transaction adds to a body besides its data, at most: a length of 5 bytes and an expiry of 9."""
SECTION_OVERHEAD_BYTES_MAX: Final = 20
"""What a section adds: its array of 1 byte, an id of 9, two lengths of 5."""
BODY_OVERHEAD_BYTES_MAX: Final = 5
CACHE_BYTES_MAX: Final = 64 * 1024 * 1024
_CACHED_TRANSACTION_BYTES: Final = 300
"""What a decoded transaction holds in memory besides its own bytes: two objects, an id, an entry in a dict."""


class SectionBody(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One rollup's transactions as they stand in a body."""

    rollup_id: RollupId
    valid_untils: Annotated[tuple[Integer, ...], Meta(min_length=1, max_length=TRANSACTIONS_MAX)]
    transactions: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=TRANSACTIONS_MAX)]


_Sections = Annotated[tuple[SectionBody, ...], Meta(min_length=1, max_length=SECTIONS_MAX)]
_decoder: Final = msgspec.msgpack.Decoder(_Sections)
_encode: Final = msgspec.msgpack.Encoder().encode


class PayloadSection:
    """One rollup's part of a payload: its transactions in order, their ids, and the tree over these."""

    __slots__ = ("ids", "rollup_id", "transactions", "tree", "valid_untils")

    def __init__(self, body: SectionBody, ids: tuple[TransactionId, ...]) -> None:
        self.rollup_id = body.rollup_id
        self.valid_untils = body.valid_untils
        self.transactions = body.transactions
        self.ids = ids
        self.tree = SectionTree(ids)

    @property
    def leaf(self) -> SectionLeaf:
        """The section's leaf in the namespaced tree."""
        return SectionLeaf(rollup_id=self.rollup_id, count=len(self.ids), root=self.tree.root)


class Payload:
    """A canonical body with everything that is derived from it. Immutable; made by :func:`decode_payload` and
    :func:`assemble_payload` only, so ids, root and body always belong together.

    ``positions`` maps each id to the number of its transaction in the whole payload, from 0; all ids are distinct.
    ``certificates`` are finality's; ``leaves`` are all sections under the root, theirs included.
    """

    __slots__ = ("body", "certificates", "leaves", "positions", "root", "sections", "tree")

    def __init__(
        self,
        body: bytes,
        sections: tuple[PayloadSection, ...],
        positions: dict[TransactionId, int],
        certificates: tuple[LinkCertificate, ...] = (),
        links: PayloadSection | None = None,
    ) -> None:
        self.body = body
        self.sections = sections
        self.positions = positions
        self.certificates = certificates
        parts = sections if links is None else (*sections, links)
        self.leaves = tuple(part.leaf for part in sorted(parts, key=lambda part: part.rollup_id))
        self.tree = NamespacedTree(self.leaves)
        self.root = self.tree.root

    def section(self, rollup_id: int) -> PayloadSection | None:
        """The rollup's section, or None when the payload has none."""
        return next((section for section in self.sections if section.rollup_id == rollup_id), None)

    def locate(self, transaction_id: TransactionId) -> tuple[PayloadSection, int] | None:
        """The section that holds a transaction and its index there, or None."""
        index = self.positions.get(transaction_id)
        if index is None:
            return None
        for section in self.sections:
            if index < len(section.ids):
                return section, index
            index -= len(section.ids)
        raise AssertionError("a position lies beyond the last section")

    @property
    def memory_bytes(self) -> int:
        """About what it holds in memory."""
        return 2 * len(self.body) + _CACHED_TRANSACTION_BYTES * len(self.positions)


EMPTY_PAYLOAD: Final = Payload(b"", (), {})
assert EMPTY_PAYLOAD.root == EMPTY_PAYLOAD_ROOT


def decode_payload(body: bytes | memoryview) -> Payload | Malformed:
    """The payload that ``body`` encodes, or why it encodes none. Knows the layout and its hard caps only; a chain's
    own rules are judged in ``payload.py``."""
    if len(body) > BODY_SIZE_MAX:
        return Malformed(f"a body of {len(body)} bytes exceeds {BODY_SIZE_MAX}")
    if not body:
        return EMPTY_PAYLOAD
    data = bytes(body)
    try:
        sections = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        return Malformed(str(error))
    if _encode(sections) != data:
        return Malformed("not canonical: the body does not re-encode to itself")
    return _payload_of(data, sections)


def _payload_of(data: bytes, sections: tuple[SectionBody, ...]) -> Payload | Malformed:
    previous, count = -1, 0
    for section in sections:
        if section.rollup_id <= previous:
            return Malformed(f"section of rollup {section.rollup_id} after that of {previous}: not ascending")
        if len(section.valid_untils) != len(section.transactions):
            return Malformed(f"section of rollup {section.rollup_id}: not one expiry for each transaction")
        previous = section.rollup_id
        count += len(section.transactions)
    if count > TRANSACTIONS_MAX:
        return Malformed(f"{count} transactions exceed {TRANSACTIONS_MAX}")
    links = next((section for section in sections if section.rollup_id == LINKS_ROLLUP), None)
    certificates = () if links is None else _certificates_in(links)
    if isinstance(certificates, Malformed):
        return certificates
    parts = tuple(_hashed(section) for section in sections if section is not links)
    positions = _positions_of(parts)
    if len(positions) + len(certificates) != count:
        return Malformed("a transaction stands there twice")
    return Payload(data, parts, positions, certificates, None if links is None else _hashed(links))


def _certificates_in(section: SectionBody) -> tuple[LinkCertificate, ...] | Malformed:
    if len(section.transactions) > CERTIFICATES_PER_BLOCK_MAX:
        return Malformed(f"{len(section.transactions)} link certificates exceed {CERTIFICATES_PER_BLOCK_MAX}")
    if any(section.valid_untils):
        return Malformed("a link certificate has an expiry")
    certificates: list[LinkCertificate] = []
    for data in section.transactions:
        certificate = link_certificates.decode(data)
        if isinstance(certificate, Malformed):
            return Malformed(f"a link certificate: {certificate.reason}")
        if certificates and certificate.link.order <= certificates[-1].link.order:
            return Malformed("link certificates do not ascend by their links")
        certificates.append(certificate)
    return tuple(certificates)


def _hashed(section: SectionBody) -> PayloadSection:
    return PayloadSection(section, transaction_ids(section.rollup_id, section.valid_untils, section.transactions))


def assemble_payload(
    chosen: Sequence[tuple[SectionBody, tuple[TransactionId, ...]]], certificates: Sequence[LinkCertificate] = ()
) -> Payload:
    """The payload of sections whose ids are known already: ascending rollup ids, no section empty, no id twice; and of
    link certificates, ascending, at most ``CERTIFICATES_PER_BLOCK_MAX``."""
    if not chosen and not certificates:
        return EMPTY_PAYLOAD
    parts = tuple(PayloadSection(section, ids) for section, ids in chosen)
    bodies = [section for section, _ in chosen]
    links = None
    if certificates:
        section = SectionBody(LINKS_ROLLUP, (0,) * len(certificates), tuple(map(encode, certificates)))
        bodies = sorted((*bodies, section), key=lambda body: body.rollup_id)
        links = _hashed(section)
    return Payload(_encode(bodies), parts, _positions_of(parts), tuple(certificates), links)


def certificates_size_bytes(certificates: Sequence[LinkCertificate]) -> int:
    """What link certificates add to a body, at most."""
    if not certificates:
        return 0
    sizes = sum(len(encode(certificate)) + TRANSACTION_OVERHEAD_BYTES_MAX for certificate in certificates)
    return sizes + SECTION_OVERHEAD_BYTES_MAX + BODY_OVERHEAD_BYTES_MAX


def _positions_of(sections: Sequence[PayloadSection]) -> dict[TransactionId, int]:
    ids = [transaction_id for section in sections for transaction_id in section.ids]
    return dict(zip(ids, range(len(ids)), strict=True))


class PayloadCache:
    """Payloads by root, so that builder, judge and ledger hash each transaction once between them. Bounded in bytes;
    what was used longest ago goes first, and the newest always stays."""

    __slots__ = ("_held_bytes", "_payloads", "bytes_max")

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self._payloads: OrderedDict[bytes, Payload] = OrderedDict()
        self._held_bytes = 0

    def decode(self, payload_root: bytes, body: bytes | memoryview) -> Payload | Malformed:
        """The payload of ``body``: the held one if a header's ``payload_root`` names one with these very bytes, else
        decoded (its root may be another)."""
        data = bytes(body)
        held = self._payloads.get(payload_root)
        if held is not None and held.body == data:
            self._payloads.move_to_end(payload_root)
            return held
        payload = decode_payload(data)
        if isinstance(payload, Payload):
            self.add(payload)
        return payload

    def link_certificates(self, block: Block, body: bytes | memoryview) -> Sequence[LinkCertificate]:
        """Those that a committed block carries. Raises ``ValueError`` for a body that is none: it was judged before."""
        payload = self.decode(block.header.payload_root, body)
        if isinstance(payload, Malformed):
            raise ValueError(f"the body of committed {block} is not canonical: {payload.reason}")
        return payload.certificates

    def add(self, payload: Payload) -> None:
        """Keep a payload under its root."""
        if not payload.body or payload.root in self._payloads:
            return
        self._payloads[payload.root] = payload
        self._held_bytes += payload.memory_bytes
        while self._held_bytes > self.bytes_max and len(self._payloads) > 1:
            _, dropped = self._payloads.popitem(last=False)
            self._held_bytes -= dropped.memory_bytes
