"""Parts of a node in the terms of those that use them: keys as a signer, a store as the ledger's index, the transport
as channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consensus.crypto.scheme import SecretKey
from consensus.signing import SigningDomain
from consensus.types import Height, PeerId, Subject
from sequencer.ledger import IndexedBlock
from sequencer.storage import IndexStore
from sequencer.transactions import Position, TransactionId
from sequencer.transport import EVIDENCE, TRANSACTIONS, TlsTransport


class LocalSigner:
    """The signer port over keys in this process."""

    def __init__(self, keys: Sequence[SecretKey]) -> None:
        self._keys = {key.public_key: key for key in keys}

    async def sign(self, subject: Subject, public_key: bytes, domain: SigningDomain) -> bytes:
        """The signature; the same for the same subject. Raises ``ValueError`` for a key that is not here."""
        key = self._keys.get(public_key)
        if key is None:
            held = ", ".join(each.hex() for each in self._keys) or "none"
            raise ValueError(f"public key {public_key.hex()} is not held here; held are {held}")
        return key.sign(domain.bytes_to_sign(subject))


class LedgerIndex:
    """The index store in the ledger's terms."""

    def __init__(self, store: IndexStore) -> None:
        self._store = store

    @property
    def height(self) -> Height:
        return self._store.height

    async def append(self, blocks: Sequence[IndexedBlock]) -> None:
        saved = [block.saved.registry for block in blocks if block.saved.registry]
        await self._store.append(
            [(block.height, [(rollup_id, b"".join(ids)) for rollup_id, ids in block.sections]) for block in blocks],
            registry=saved[-1] if saved else b"",
            outcomes=[(block.height, block.saved.outcomes) for block in blocks if block.saved.outcomes],
        )

    async def registry(self) -> bytes:
        return await self._store.registry()

    async def outcomes(self, height: Height) -> bytes:
        return await self._store.outcomes(height)

    async def lookup(self, transaction_id: TransactionId) -> Position | None:
        found = await self._store.lookup(transaction_id)
        if not found:
            return None
        latest = found[-1]
        return Position(rollup_id=latest.rollup_id, height=latest.height, index=latest.index)


class TransactionChannel:
    """The transport's channel for transactions, in the forwarder's terms."""

    def __init__(self, transport: TlsTransport, joining: Callable[[], frozenset[PeerId]]) -> None:
        self._transport = transport
        self._joining = joining

    def broadcast(self, data: bytes) -> None:
        for peer in self.connected_validators():
            self._transport.send_on(TRANSACTIONS, peer, data)

    def send(self, peer: PeerId, data: bytes) -> None:
        self._transport.send_on(TRANSACTIONS, peer, data)

    def connected_validators(self) -> Sequence[PeerId]:
        peers, joining = self._transport.state().peers, self._joining()
        return sorted(
            peer.peer for peer in peers if peer.connected and (peer.role == "validator" or peer.peer in joining)
        )


class EvidenceChannel:
    """The transport's channel for evidence."""

    def __init__(self, transport: TlsTransport) -> None:
        self._transport = transport

    def broadcast(self, data: bytes) -> None:
        for peer in self._transport.state().peers:
            if peer.connected:
                self._transport.send_on(EVIDENCE, peer.peer, data)
