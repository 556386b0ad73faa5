"""The sole builder and judge of what a block carries. For now a block carries its transactions inline.

A block at height ``h`` is valid when

1. its body is canonical and is the one that the header names, by root and by size;
2. it names rollups of the chain spec only, and neither it nor a transaction exceeds its cap;
3. no transaction is expired (``valid_until`` is 0 or at least ``h``) or expires later than ``h + K``;
4. no transaction was ordered by an ancestor at ``h - K`` or above: the ancestors that are committed here (the window)
   and those that are not yet (the request's ``path``);
5. its timestamp is greater than its parent's;
6. its link certificates verify, are those of a quorum, and speak of checkpoints below ``h``;
7. it carries changes of the validators (rollup ``SYSTEM_ROLLUP``) only on a chain with a ``reconfiguration``, and
   ``CHANGES_PER_BLOCK_MAX`` of ``CHANGE_SIZE_MAX`` bytes at most. What they ask for is not judged here: one that cannot
   be has no effect (``consensus/registry.py``);
8. its header names next validators if and only if the registry after its parent says so, and then those. A descendant
   of a block that names some (a *closing block* of the epoch) carries nothing and names none.

Whatever is committed locally, nodes agree on this, because window and path together are the block's own ancestor path.
The same transaction on two forks is fine; on the path of one block it is not.

A timestamp ahead of the local clock by more than the chain's drift is *held*: the answer comes when the clock gets
there. Clocks differ, so a node that rejected would part honest proposers from their votes.

A ``certified`` block was judged by a quorum; only 1. is checked.

**Building waits** for something to order, up to the idle interval. Three blocks do not wait: a closing block, one that
ends the epoch, and any from the height on from which a change of the validators is due. On an idle chain the blocks up
to the epoch's end then follow each other at once.

**Link certificates ride.** A block that carries transactions, or that an idle leader has waited for, takes along those
that finality offers. They call for no block by themselves, and a block that is made only to commit the one below it
leaves them out: an idle chain, which has nothing to speak of but its own checkpoints, stays at one block per idle
interval and what commits that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import trio

from consensus.codec import Malformed
from consensus.engine import (
    BuildPayload,
    CheckPayload,
    EndEpoch,
    EpochReady,
    OfferLinks,
    PayloadBuilt,
    PayloadVerdict,
    Refusal,
)
from consensus.finality.types import LinkCertificate
from consensus.genesis import SYSTEM_ROLLUP, ChainSpec
from consensus.ports import Clock
from consensus.reconfiguration import TRANSACTION_SIZE_MAX as CHANGE_SIZE_MAX
from consensus.registry import CHANGES_PER_BLOCK_MAX, Registry
from consensus.types import Block, BlockHeader, Height
from consensus.validators import ValidatorSet
from sequencer.body import (
    EMPTY_PAYLOAD,
    Payload,
    PayloadCache,
    PayloadSection,
    assemble_payload,
    certificates_size_bytes,
)
from sequencer.mempool import Mempool
from sequencer.registries import Registries, header_fault, next_validators_hash
from sequencer.window import CommittedWindow

HOLD_STEP_S = 1.0
"""The longest sleep between two looks at the wall clock, which may be set while a timestamp is held."""

Path = Sequence[tuple[Block, bytes | memoryview]]
LinkCheck = Callable[[LinkCertificate], Refusal | None]


class InlinePayloadSource:
    """Implements ``PayloadSource``. ``clock`` is the engine's; ``wall_clock_ms`` gives milliseconds since the Unix
    epoch. Window, mempool, cache and ``registries`` are shared with the ledger; the latter are None on a chain whose
    validators never change. ``check_link`` judges a link certificate; None on a chain without checkpoints, where no
    block may carry one."""

    def __init__(
        self,
        spec: ChainSpec,
        *,
        mempool: Mempool,
        window: CommittedWindow,
        cache: PayloadCache,
        clock: Clock,
        wall_clock_ms: Callable[[], int],
        check_link: LinkCheck | None = None,
        registries: Registries | None = None,
    ) -> None:
        self._spec = spec
        self._registries = registries
        self._check_link = check_link
        self._offered: tuple[LinkCertificate, ...] = ()
        self._rollups = frozenset(spec.rollups)
        self._mempool = mempool
        self._window = window
        self._cache = cache
        self._clock = clock
        self._wall_clock_ms = wall_clock_ms
        self._building = trio.CancelScope()

    # --- building ------------------------------------------------------------------------------------------------

    async def build(self, request: BuildPayload) -> PayloadBuilt:
        """Answer as soon as there is something to order or an epoch to end, else empty at ``request.deadline_ns``. A
        newer call makes this one answer empty at once: its view is over."""
        self._building.cancel()
        payload, next_hash = EMPTY_PAYLOAD, b""
        deadline_s = trio.current_time() + max(0, request.deadline_ns - self._clock.now()) / 1e9
        with trio.CancelScope() as self._building:
            if not _is_closing(request.path) and await self._parent_is_known(request, deadline_s):
                registry = self._registry_on(request.path, request.height)
                if registry is not None:
                    next_hash = next_validators_hash(registry, request.height)
                is_due = registry is not None and registry.is_due(request.height)
                payload = await self._payload_for(request, deadline_s, waits=not is_due)
        self._cache.add(payload)
        return PayloadBuilt(
            view=request.view,
            parent=request.parent,
            payload_root=payload.root,
            body=payload.body,
            timestamp_ms=max(request.parent_timestamp_ms + 1, self._wall_clock_ms()),
            next_validators_hash=next_hash,
        )

    async def _parent_is_known(self, request: BuildPayload, deadline_s: float) -> bool:
        """Wait until the ledger has what the request stands on: up to the deadline, and where there is a registry for
        as long as it takes, for what the header must name depends on it."""
        with trio.CancelScope(deadline=deadline_s if self._registries is None else inf):
            await self._window.reached(_base(request.path, request.height))
            return True
        return False

    async def _payload_for(self, request: BuildPayload, deadline_s: float, *, waits: bool) -> Payload:
        payload = EMPTY_PAYLOAD
        excluded = self._carried_on(request.path, request.height)
        with trio.CancelScope(deadline=deadline_s):
            while not (payload := self._choose(request.height, excluded)).sections and waits:
                await self._mempool.arrival()
        if not payload.sections and not any(block.header.payload_size for block, _ in request.path):
            payload = assemble_payload((), self._links_for(request.height, ()))
        return payload

    def offer(self, request: OfferLinks) -> None:
        """See ``PayloadSource``."""
        self._offered = request.certificates

    def _choose(self, height: Height, excluded: Sequence[Payload]) -> Payload:
        links = self._links_for(height, excluded)
        chosen = self._mempool.select(
            height=height,
            size_bytes_max=self._spec.payload_size_max - certificates_size_bytes(links),
            excluded=[payload.positions.keys() for payload in excluded],
        )
        return assemble_payload(chosen, links) if chosen else EMPTY_PAYLOAD

    def _links_for(self, height: Height, excluded: Sequence[Payload]) -> tuple[LinkCertificate, ...]:
        """The certificates that are offered, as many as fit half a payload, without those that an uncommitted ancestor
        carries."""
        carried = {certificate.link for payload in excluded for certificate in payload.certificates}
        chosen: tuple[LinkCertificate, ...] = ()
        for certificate in self._offered:
            more = (*chosen, certificate)
            if certificate.link in carried or certificate.target.height >= height:
                continue
            if certificates_size_bytes(more) <= self._spec.payload_size_max // 2:
                chosen = more
        return chosen

    def _carried_on(self, path: Path, height: Height) -> list[Payload]:
        payloads = self._payloads_of(path, height)
        if isinstance(payloads, Malformed):
            raise ValueError(f"asked to build on a block that was never judged: {payloads.reason}")
        return payloads

    async def end_epoch(self, request: EndEpoch) -> EpochReady:
        """See ``PayloadSource``. Raises ``RuntimeError`` where the boundary names other validators than the registry:
        no honest node voted for it."""
        boundary = request.boundary
        height = boundary.header.height
        await self._window.reached(height)
        registry = None if self._registries is None else self._registries.at(height)
        validators = None if registry is None else ValidatorSet(registry.validators)
        if validators is None or validators.hash != boundary.header.next_validators_hash:
            raise RuntimeError(
                f"{boundary} ends its epoch and names the validators {boundary.header.next_validators_hash.hex()}; "
                f"the registry here has {'none' if validators is None else validators.hash.hex()}"
            )
        return EpochReady(boundary=boundary.id, validators=validators)

    # --- judging -------------------------------------------------------------------------------------------------

    async def check(self, request: CheckPayload) -> PayloadVerdict:
        """Judge a body. What is wrong is answered at once; what is merely early, when it no longer is."""
        header = request.block.header
        payload = self._named_payload(header, request.body)
        if isinstance(payload, Malformed):
            return _verdict(request, payload.reason)
        if request.certified:
            return _verdict(request)
        fault = self._fault_in_itself(payload, header.height)
        if fault:
            return _verdict(request, fault)
        await self._window.reached(_base(request.path, header.height))
        fault = self._fault_on_path(payload, header, request.path) or self._fault_in_validators(
            payload, header, request.path
        )
        if fault:
            return _verdict(request, fault)
        return _verdict(request, await self._hold(request.block))

    def _named_payload(self, header: BlockHeader, body: bytes | memoryview) -> Payload | Malformed:
        if len(body) != header.payload_size:
            return Malformed(f"the body has {len(body)} bytes, the header says {header.payload_size}")
        if len(body) > self._spec.payload_size_max:
            return Malformed(f"a body of {len(body)} bytes exceeds {self._spec.payload_size_max}")
        payload = self._cache.decode(header.payload_root, body)
        if isinstance(payload, Payload) and payload.root != header.payload_root:
            return Malformed("the body's root is not the header's")
        return payload

    def _fault_in_itself(self, payload: Payload, height: Height) -> str:
        transaction_size_max = self._spec.transaction_size_max
        expiry_max = height + self._spec.deduplication_heights
        for section in payload.sections:
            if section.rollup_id == SYSTEM_ROLLUP and self._registries is not None:
                fault = _fault_of_changes(section)
                if fault:
                    return fault
            elif section.rollup_id not in self._rollups:
                return f"rollup {section.rollup_id} is not of this chain"
            size_bytes = max(map(len, section.transactions))
            if size_bytes > transaction_size_max:
                return f"a transaction of {size_bytes} bytes exceeds {transaction_size_max}"
            for valid_until in sorted(set(section.valid_untils)):
                if valid_until and not height <= valid_until <= expiry_max:
                    return f"valid until {valid_until}: not of {height} to {expiry_max}"
        return self._fault_in_links(payload.certificates, height)

    def _fault_in_links(self, certificates: Sequence[LinkCertificate], height: Height) -> str:
        for certificate in certificates:
            if self._check_link is None:
                return "a link certificate on a chain without checkpoints"
            if certificate.target.height >= height:
                return f"a link certificate for height {certificate.target.height}, which is not below the block's"
            refusal = self._check_link(certificate)
            if refusal is not None:
                return refusal.reason
        return ""

    def _fault_on_path(self, payload: Payload, header: BlockHeader, path: Path) -> str:
        parent_timestamp_ms = self._parent_timestamp_ms(path, header.height)
        if parent_timestamp_ms is not None and header.timestamp_ms <= parent_timestamp_ms:
            return f"timestamp {header.timestamp_ms} is not after the parent's, {parent_timestamp_ms}"
        ids = payload.positions.keys()
        lowest = header.height - self._spec.deduplication_heights
        ordered = self._window.first_ordered(ids, lowest, _base(path, header.height))
        if ordered is not None:
            return f"transaction {ordered.hex()} was ordered at height {self._window.ordered_at(ordered)}"
        ancestors = self._payloads_of(path, header.height)
        if isinstance(ancestors, Malformed):
            return f"its ancestor's body: {ancestors.reason}"
        for ancestor in ancestors:
            if not ids.isdisjoint(ancestor.positions.keys()):
                return "a transaction was ordered by an uncommitted ancestor"
        return ""

    def _fault_in_validators(self, payload: Payload, header: BlockHeader, path: Path) -> str:
        if _is_closing(path):
            if payload.body or header.next_validators_hash:
                return "its epoch has ended: a closing block carries nothing and names no validators"
            return ""
        if self._registries is None:
            return "it names next validators; those of this chain never change" if header.next_validators_hash else ""
        registry = self._registry_on(path, header.height)
        if registry is None:
            return f"it stands on height {_base(path, header.height)}, long after others were committed"
        return header_fault(registry, header)

    def _registry_on(self, path: Path, height: Height) -> Registry | None:
        """The registry after the parent. None on a chain without one, and where it is no longer known: then the turn to
        build or vote there is over."""
        if self._registries is None:
            return None

        def payload_of(index: int) -> Payload:
            block, body = path[index]
            payload = self._named_payload(block.header, body)
            if isinstance(payload, Malformed):
                raise ValueError(f"{block}, an ancestor, was never judged: {payload.reason}")
            return payload

        return self._registries.on_path(_base(path, height), path, payload_of)

    def _payloads_of(self, path: Path, height: Height) -> list[Payload] | Malformed:
        """What the uncommitted ancestors within K heights carry, newest first; empty ones left out."""
        payloads = []
        for block, body in reversed(path):
            if block.header.height < height - self._spec.deduplication_heights:
                break
            payload = self._named_payload(block.header, body)
            if isinstance(payload, Malformed):
                return payload
            if payload.body:
                payloads.append(payload)
        return payloads

    def _parent_timestamp_ms(self, path: Path, height: Height) -> int | None:
        """None when the parent is committed and has left the window: then so has this block's turn to be voted for."""
        if path:
            return path[-1][0].header.timestamp_ms
        if height == 1:
            return self._spec.genesis_time_ms
        parent = self._window.block_at(height - 1)
        return None if parent is None else parent.timestamp_ms

    async def _hold(self, block: Block) -> str:
        """Wait until the block's timestamp is no longer too far ahead, or until the block's height is committed and
        nobody votes there any more. Bounds how long a wild timestamp is held."""
        header = block.header
        while (early_ms := header.timestamp_ms - self._spec.timestamp_drift_ms - self._wall_clock_ms()) > 0:
            with trio.move_on_after(min(early_ms / 1000, HOLD_STEP_S)):
                await self._window.reached(header.height)
                committed = self._window.block_at(header.height)
                if committed is not None and committed.block_id == block.id:
                    return ""
                return f"its timestamp was still {early_ms} ms too early when height {header.height} was committed"
        return ""


def _base(path: Path, height: Height) -> Height:
    """The committed height on which the path (and then the block itself) stands."""
    return (path[0][0].header.height if path else height) - 1


def _is_closing(path: Path) -> bool:
    """Whether what stands on the path comes after the end of its epoch."""
    return any(block.header.next_validators_hash for block, _ in path)


def _fault_of_changes(section: PayloadSection) -> str:
    count, size_bytes = len(section.transactions), max(map(len, section.transactions))
    if count > CHANGES_PER_BLOCK_MAX:
        return f"{count} changes of the validators, of which a block has at most {CHANGES_PER_BLOCK_MAX}"
    if size_bytes > CHANGE_SIZE_MAX:
        return f"a change of the validators of {size_bytes} bytes exceeds {CHANGE_SIZE_MAX}"
    return ""


def _verdict(request: CheckPayload, fault: str = "") -> PayloadVerdict:
    return PayloadVerdict(block_id=request.block.id, certified=request.certified, valid=not fault, reason=fault)
